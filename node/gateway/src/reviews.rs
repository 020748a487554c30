//! The kinds by which clients ask who they are and who may do what: each is answered and stored nowhere.

use access::review;
use api::status::Status;
use protocol::UnixMillis;
use serde_json::Value;

use access::User;

use crate::issuer::Issuer;
use crate::rights::Rights;
use crate::route::Target;

/// Answers a review; `None` when the kind is none.
pub async fn answer(
    target: &Target,
    body: &Value,
    user: &User,
    rights: &Rights,
    issuer: &Issuer,
    now: UnixMillis,
) -> Option<Result<Value, Status>> {
    Some(match (target.kind.group, target.kind.plural) {
        ("authorization.k8s.io", "subjectaccessreviews") => {
            rights.ask(|authorizers| review::subject_access_review(body, authorizers))
        }
        ("authorization.k8s.io", "localsubjectaccessreviews") => {
            rights.ask(|authorizers| review::local_subject_access_review(body, &target.namespace, authorizers))
        }
        ("authorization.k8s.io", "selfsubjectaccessreviews") => {
            rights.ask(|authorizers| review::self_subject_access_review(body, user, authorizers))
        }
        ("authorization.k8s.io", "selfsubjectrulesreviews") => {
            rights.ask(|authorizers| review::self_subject_rules_review(body, user, authorizers))
        }
        ("authentication.k8s.io", "selfsubjectreviews") => Ok(review::self_subject_review(body, user)),
        ("authentication.k8s.io", "tokenreviews") => token_review(body, issuer, now).await,
        _ => return None,
    })
}

async fn token_review(body: &Value, issuer: &Issuer, now: UnixMillis) -> Result<Value, Status> {
    let (token, audiences) = review::token_review_asks(body)?;
    Ok(match issuer.authenticate(token, &audiences, now).await? {
        Ok((user, audiences)) => review::token_review(body, Ok((&user, &audiences))),
        Err(error) => review::token_review(body, Err(&error.to_string())),
    })
}
