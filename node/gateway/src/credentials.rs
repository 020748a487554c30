//! Who asks: the client's certificate, a bearer token, or nobody; and as whom the request goes on, where its headers ask to
//! impersonate another. What proves what is `access`' business.

use std::sync::Arc;

use access::User;
use access::impersonation::impersonation;
use api::status::Status;
use protocol::UnixMillis;

use crate::issuer::Issuer;
use crate::request::ApiRequest;
use crate::rights::Rights;

/// What proves identities on a node.
pub struct Credentials {
    /// Who knows tokens.
    pub issuer: Arc<Issuer>,
    /// Who may impersonate.
    pub rights: Arc<Rights>,
    /// Whether a client without a credential is `system:anonymous` instead of refused.
    pub anonymous: bool,
}

impl Credentials {
    /// Who asks; `None` for a client without a credential. A credential that proves nothing is refused, also where none would
    /// do.
    pub async fn proven(&self, request: &ApiRequest, now: UnixMillis) -> Result<Option<User>, Status> {
        Ok(match (&request.user, &request.bearer) {
            (Some(user), _) => Some(user.clone()),
            (None, Some(token)) => Some(self.bearer(token, now).await?),
            (None, None) => self.anonymous.then(User::anonymous),
        })
    }

    /// As whom the request goes on instead, where its headers ask for that and the one who asks may.
    pub async fn impersonated(&self, request: &ApiRequest, proven: Option<&User>) -> Result<Option<User>, Status> {
        let headers = request
            .impersonation
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()));
        let asked = impersonation(headers).map_err(|error| Status::bad_request(error.to_string()))?;
        let Some(asked) = asked else { return Ok(None) };
        let user = proven.ok_or_else(Status::unauthorized)?;
        self.rights.loaded(user).await?;
        for check in &asked.checks {
            self.rights.check(&check.attributes(user))?;
        }
        tracing::debug!(cause = %request.cause, user = %user.name, as_user = %asked.user.name, "impersonation");
        Ok(Some(asked.user))
    }

    async fn bearer(&self, token: &str, now: UnixMillis) -> Result<User, Status> {
        let outcome = self.issuer.authenticate(token, &[], now).await?;
        outcome.map(|(user, _)| user).map_err(|why| {
            tracing::debug!(%why, "a bearer token was refused");
            Status::unauthorized()
        })
    }
}
