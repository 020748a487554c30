//! Why a write stops at a webhook, in the words of Kubernetes: clients and people match on them.

use api::access::Access;
use api::status::Status;
use serde_json::Value;

use super::dialogue::Question;
use crate::policy::Parameters;
use crate::reasons::reason_of;

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
    status.reason = reason_of(reason);
    if let Some(seconds) = result.at(&["details"]).int("retryAfterSeconds") {
        status.details.retry_after_seconds = u32::try_from(seconds).unwrap_or(0);
    }
    status
}
