//! How long certificate signing requests are kept, as Kubernetes' `certificates/cleaner` has it. Pure.

use api::access::Access;
use protocol::UnixMillis;
use serde_json::Value;

use crate::reading;

const HOUR_MS: u64 = 3_600_000;
/// What was decided and dealt with.
const DONE_MS: u64 = HOUR_MS;
/// What nobody has decided about.
const PENDING_MS: u64 = 24 * HOUR_MS;

/// Whether nobody needs a request any more.
pub fn is_over(request: &Value, now: UnixMillis) -> bool {
    let status = request.at(&["status"]);
    let conditions = status.items("conditions");
    let passed = |at: &str, kept_ms: u64| reading::instant(Some(at)).is_some_and(|at| now.since_ms(at) > kept_ms);
    let is_issued = !status.text("certificate").is_empty();
    let done = conditions.iter().any(|condition| {
        let counts = match condition.text("type") {
            "Approved" => is_issued,
            "Denied" | "Failed" => true,
            _ => false,
        };
        counts && passed(condition.text("lastUpdateTime"), DONE_MS)
    });
    let is_pending = !conditions
        .iter()
        .any(|condition| matches!(condition.text("type"), "Approved" | "Denied" | "Failed"));
    done || is_pending && passed(request.at(&["metadata"]).text("creationTimestamp"), PENDING_MS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn requests_are_kept_for_an_hour_or_a_day() {
        let now = UnixMillis(1_800_000_000_000);
        let ago = |minutes: u64| UnixMillis(now.0 - minutes * 60_000).rfc3339();
        let request = |kind: &str, decided: u64, certificate: &str, created: u64| {
            let conditions = if kind.is_empty() {
                json!([])
            } else {
                json!([{"type": kind, "status": "True", "lastUpdateTime": ago(decided)}])
            };
            json!({"metadata": {"creationTimestamp": ago(created)}, "status": {"conditions": conditions, "certificate": certificate}})
        };
        let cases = [
            (request("Approved", 59, "CERT", 70), false),
            (request("Approved", 61, "CERT", 70), true),
            (request("Approved", 61, "", 70), false),
            (request("Denied", 61, "", 70), true),
            (request("Denied", 59, "", 70), false),
            (request("Failed", 61, "", 70), true),
            (request("", 0, "", 24 * 60 - 1), false),
            (request("", 0, "", 24 * 60 + 1), true),
        ];
        for (request, over) in cases {
            assert_eq!(is_over(&request, now), over, "{request}");
        }
    }
}
