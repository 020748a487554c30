//! Why a write stops at a webhook, in the words of Kubernetes: clients and people match on them.

use api::access::Access;
use api::cause::Cause;
use api::status::{Details, Status};
use serde_json::Value;

use super::dialogue::Question;
use crate::policy::Parameters;

/// Why a write does not go on.
#[derive(Debug)]
pub enum Pause {
    /// It is refused.
    Refused(Status),
    /// A webhook must be asked first.
    Ask(Box<Question>),
    /// The parameters of a policy must be read first.
    Read(Parameters),
}

impl From<Status> for Pause {
    fn from(status: Status) -> Pause {
        Pause::Refused(status)
    }
}

/// The webhook gave no answer that can be used, and a request without one is refused.
pub(super) fn failed(webhook: &str, why: &str) -> Status {
    Status::internal(format!("failed calling webhook {webhook:?}: {why}"))
}

/// A dry run would have effects.
pub(super) fn no_dry_run(webhook: &str) -> Status {
    Status::bad_request(format!("admission webhook {webhook:?} does not support dry run"))
}

/// The webhook said no. `result` is what it said about that, a Status; null when it said nothing.
pub(super) fn denied(webhook: &str, result: &Value) -> Status {
    let by = format!("admission webhook {webhook:?} denied the request");
    let (said, reason) = (result.text("message"), result.text("reason"));
    let message = match (said, reason) {
        ("", "") => format!("{by} without explanation"),
        ("", reason) => format!("{by}: {reason}"),
        (said, _) => format!("{by}: {said}"),
    };
    let code = result
        .int("code")
        .and_then(|code| u16::try_from(code).ok())
        .filter(|code| (400..600).contains(code))
        .unwrap_or(400);
    let mut status = Status::bad_request(message);
    status.code = code;
    status.reason = reason.to_owned().into();
    status.details = Box::new(details(result.at(&["details"])));
    status
}

/// What a webhook tells machines about its refusal.
fn details(told: &Value) -> Details {
    let text = |name: &str| told.text(name).to_owned();
    let cause = |cause: &Value| Cause {
        field: cause.text("field").to_owned(),
        reason: cause.text("reason").to_owned().into(),
        message: cause.text("message").to_owned(),
    };
    Details {
        name: text("name"),
        group: text("group"),
        kind: text("kind"),
        uid: text("uid"),
        causes: told.items("causes").iter().map(cause).collect(),
        retry_after_seconds: told
            .int("retryAfterSeconds")
            .and_then(|seconds| u32::try_from(seconds).ok())
            .unwrap_or(0),
    }
}
