//! Who asks: the client's certificate, a bearer token, or nobody; and as whom the request goes on, where its headers ask to
//! impersonate another. What proves what is `access`' business.

use std::sync::Arc;

use access::User;
use access::impersonation::{impersonation, needs_no_check};
use access::token::BootstrapToken;
use api::status::Status;
use protocol::store::ObjectStore;
use protocol::{Key, UnixMillis};

use crate::issuer::Issuer;
use crate::read::read_status;
use crate::request::ApiRequest;
use crate::rights::Rights;

/// What proves identities on a node.
pub struct Credentials {
    /// The store, for bootstrap tokens.
    pub store: Arc<dyn ObjectStore>,
    /// The issuer of ServiceAccount tokens.
    pub issuer: Arc<Issuer>,
    /// Who may impersonate.
    pub rights: Arc<Rights>,
    /// Whether a client without a credential is `system:anonymous` instead of refused.
    pub anonymous: bool,
}

impl Credentials {
    /// As whom the request goes on; `None` for a client without a credential. A credential that proves nothing is refused,
    /// also where none would do.
    pub async fn user(&self, request: &ApiRequest, now: UnixMillis) -> Result<Option<User>, Status> {
        let proven = match (&request.user, &request.bearer) {
            (Some(user), _) => Some(user.clone()),
            (None, Some(token)) => Some(self.bearer(token, now).await?),
            (None, None) => self.anonymous.then(User::anonymous),
        };
        let headers = request
            .impersonation
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()));
        let asked = impersonation(headers).map_err(|error| Status::bad_request(error.to_string()))?;
        let Some(asked) = asked else { return Ok(proven) };
        let user = proven.ok_or_else(Status::unauthorized)?;
        self.rights.loaded(&user).await?;
        if !needs_no_check(&user) {
            for check in &asked.checks {
                self.rights.check(&check.attributes(&user))?;
            }
        }
        tracing::debug!(cause = %request.cause, user = %user.name, as_user = %asked.user.name, "impersonation");
        Ok(Some(asked.user))
    }

    async fn bearer(&self, token: &str, now: UnixMillis) -> Result<User, Status> {
        let refused = |why: String| {
            tracing::debug!(%why, "a bearer token was refused");
            Status::unauthorized()
        };
        if let Some(token) = BootstrapToken::parse(token) {
            let key = Key::new("secrets", "kube-system", token.secret_name());
            let stored = self.store.read(&key).await.map_err(read_status)?;
            let secret = stored
                .map(|stored| stored.value().map_err(Status::internal))
                .transpose()?;
            return token
                .authenticate(secret.as_ref(), now)
                .map_err(|error| refused(error.to_string()));
        }
        let outcome = self.issuer.authenticate(token, &[], now).await?;
        outcome
            .map(|(user, _)| user)
            .map_err(|error| refused(error.to_string()))
    }
}
