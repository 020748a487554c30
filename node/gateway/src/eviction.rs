//! Whether a pod may be evicted, by the PodDisruptionBudgets that cover it, and what that costs the budget. After Kubernetes'
//! `registry/core/pod/storage/eviction.go`, in its words. Pure; the budget's charge is written in one group with the pod's
//! deletion, so that no eviction is charged that did not happen.

use api::access::Access;
use api::cause::Cause;
use api::status::Status;
use protocol::UnixMillis;
use protocol::selector::LabelSelector;
use serde_json::{Value, json};

/// More evictions than this may not be on their way in one budget.
const DISRUPTED_PODS_MAX: usize = 2000;
/// After how many seconds a client should ask again that came before the budget's actor.
const RETRY_SECONDS: u32 = 10;
const VIOLATION: &str = "Cannot evict pod as it would violate the pod's disruption budget.";

/// The budget as it is after the eviction, with its place among those given; `None` when no budget is concerned.
pub fn decide(pod: &Value, budgets: &[Value], now: UnixMillis) -> Result<Option<(usize, Value)>, Status> {
    if needs_no_budget(pod) {
        return Ok(None);
    }
    let covering: Vec<usize> = (0..budgets.len())
        .filter(|index| covers(&budgets[*index], pod))
        .collect();
    let index = match covering.as_slice() {
        [] => return Ok(None),
        [index] => *index,
        _ => {
            return Err(Status::internal(
                "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.",
            ));
        }
    };
    let budget = &budgets[index];
    if !is_ready(pod) && unready_may_go(budget) {
        return Ok(None);
    }
    charge(budget, pod, now).map(|charged| Some((index, charged)))
}

/// A pod that has ended, has not begun, or is going already takes nothing from a budget.
fn needs_no_budget(pod: &Value) -> bool {
    matches!(pod.at(&["status"]).text("phase"), "Succeeded" | "Failed" | "Pending")
        || pod.at(&["metadata"]).has("deletionTimestamp")
}

fn covers(budget: &Value, pod: &Value) -> bool {
    let selector = budget.at(&["spec", "selector"]);
    // An absent selector covers nothing, an empty one everything.
    let selector = selector
        .is_object()
        .then(|| LabelSelector::from_value(selector).ok())
        .flatten();
    let labels = pod.at(&["metadata", "labels"]).as_object().into_iter().flatten();
    let labels = labels
        .filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned())))
        .collect();
    selector.is_some_and(|selector| selector.matches(&labels))
}

fn is_ready(pod: &Value) -> bool {
    let conditions = pod.at(&["status"]).items("conditions");
    conditions
        .iter()
        .any(|condition| condition.text("type") == "Ready" && condition.text("status") == "True")
}

/// `unhealthyPodEvictionPolicy`: a pod that is not ready goes always, or as long as enough others are healthy.
fn unready_may_go(budget: &Value) -> bool {
    let status = budget.at(&["status"]);
    let number = |name: &str| status.int(name).unwrap_or(0);
    let always = budget.at(&["spec"]).text("unhealthyPodEvictionPolicy") == "AlwaysAllow";
    always || number("currentHealthy") >= number("desiredHealthy") && number("desiredHealthy") > 0
}

fn charge(budget: &Value, pod: &Value, now: UnixMillis) -> Result<Value, Status> {
    let name = budget.at(&["metadata"]).text("name");
    let status = budget.at(&["status"]);
    let number = |name: &str| status.int(name).unwrap_or(0);
    let generation = budget.at(&["metadata"]).int("generation").unwrap_or(0);
    if number("observedGeneration") < generation {
        let why = format!("The disruption budget {name} is still being processed by the server.");
        return Err(refusal(why, RETRY_SECONDS));
    }
    let disrupted = status
        .at(&["disruptedPods"])
        .as_object()
        .map_or(0, serde_json::Map::len);
    if disrupted > DISRUPTED_PODS_MAX {
        return Err(forbidden(
            name,
            "DisruptedPods map too big - too many evictions not confirmed by PDB controller",
        ));
    }
    let allowed = number("disruptionsAllowed");
    if allowed < 0 {
        return Err(forbidden(name, "pdb disruptions allowed is negative"));
    }
    if allowed == 0 {
        return Err(refusal(shortage(name, status), 0));
    }
    let mut charged = budget.clone();
    let status = api::access::object_mut(&mut charged, "status");
    status["disruptionsAllowed"] = (allowed - 1).into();
    let pod_name = pod.at(&["metadata"]).text("name");
    match &mut status["disruptedPods"] {
        Value::Object(pods) => drop(pods.insert(pod_name.to_owned(), now.rfc3339().into())),
        absent => *absent = json!({ pod_name: now.rfc3339() }),
    }
    Ok(charged)
}

/// Why the budget allows nothing.
fn shortage(name: &str, status: &Value) -> String {
    let conditions = status.items("conditions").iter();
    let mut failed = conditions.filter(|condition| {
        condition.text("type") == "DisruptionAllowed"
            && condition.text("reason") == "SyncFailed"
            && condition.text("status") == "False"
    });
    if let Some(message) = failed
        .next()
        .map(|condition| condition.text("message"))
        .filter(|text| !text.is_empty())
    {
        return format!(
            "The disruption budget {name} does not allow evicting pods currently because it failed sync: {message}"
        );
    }
    let number = |name: &str| status.int(name).unwrap_or(0);
    format!(
        "The disruption budget {name} needs {} healthy pods and has {} currently",
        number("desiredHealthy"),
        number("currentHealthy")
    )
}

fn refusal(why: String, retry_after_seconds: u32) -> Status {
    let mut status = Status::too_many_requests(VIOLATION, retry_after_seconds);
    status.details.causes.push(Cause {
        field: String::new(),
        reason: "DisruptionBudget".into(),
        message: why,
    });
    status
}

fn forbidden(name: &str, why: &str) -> Status {
    let mut status = Status::bad_request(format!("poddisruptionbudgets.policy {name:?} is forbidden: {why}"));
    (status.code, status.reason) = (403, "Forbidden".into());
    status
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: UnixMillis = UnixMillis(1_000_000);

    fn pod(phase: &str, ready: &str) -> Value {
        json!({"metadata": {"name": "web-1", "labels": {"app": "web"}},
            "status": {"phase": phase, "conditions": [{"type": "Ready", "status": ready}]}})
    }

    fn budget(allowed: i64, healthy: i64, policy: &str) -> Value {
        json!({"metadata": {"name": "web", "generation": 2}, "spec": {"selector": {"matchLabels": {"app": "web"}},
            "unhealthyPodEvictionPolicy": policy}, "status": {"disruptionsAllowed": allowed, "currentHealthy": healthy,
            "desiredHealthy": 2, "observedGeneration": 2}})
    }

    #[test]
    fn an_eviction_is_charged_to_its_budget() {
        let other = json!({"metadata": {"name": "other"}, "spec": {"selector": {"matchLabels": {"app": "db"}}}});
        let (index, charged) = decide(&pod("Running", "True"), &[other, budget(1, 3, "")], NOW)
            .unwrap()
            .unwrap();
        assert_eq!(index, 1);
        assert_eq!(charged["status"]["disruptionsAllowed"], 0);
        assert_eq!(
            charged["status"]["disruptedPods"],
            json!({"web-1": "1970-01-01T00:16:40Z"})
        );
    }

    #[test]
    fn an_exhausted_budget_refuses_and_says_what_it_needs() {
        let error = decide(&pod("Running", "True"), &[budget(0, 2, "")], NOW).unwrap_err();
        assert_eq!((error.code, error.message.as_str()), (429, VIOLATION));
        assert_eq!(error.details.causes[0].reason, "DisruptionBudget");
        assert_eq!(
            error.details.causes[0].message,
            "The disruption budget web needs 2 healthy pods and has 2 currently"
        );
        let mut unseen = budget(1, 3, "");
        unseen["metadata"]["generation"] = 3.into();
        let error = decide(&pod("Running", "True"), &[unseen], NOW).unwrap_err();
        assert_eq!(error.details.retry_after_seconds, 10);
        let mut failed = budget(0, 2, "");
        failed["status"]["conditions"] =
            json!([{"type": "DisruptionAllowed", "status": "False", "reason": "SyncFailed", "message": "no"}]);
        let error = decide(&pod("Running", "True"), &[failed], NOW).unwrap_err();
        assert!(
            error.details.causes[0].message.ends_with("failed sync: no"),
            "{error:?}"
        );
    }

    #[test]
    fn pods_that_serve_nobody_may_go() {
        let exhausted = [budget(0, 1, "")];
        for phase in ["Pending", "Succeeded", "Failed"] {
            assert_eq!(decide(&pod(phase, "False"), &exhausted, NOW).unwrap(), None, "{phase}");
        }
        let unready = pod("Running", "False");
        assert_eq!(decide(&unready, &exhausted, NOW).unwrap_err().code, 429);
        assert_eq!(
            decide(&unready, &[budget(0, 2, "")], NOW).unwrap(),
            None,
            "enough others are healthy"
        );
        assert_eq!(decide(&unready, &[budget(0, 0, "AlwaysAllow")], NOW).unwrap(), None);
        assert_eq!(decide(&pod("Running", "True"), &[], NOW).unwrap(), None);
        let twice = [budget(1, 3, ""), budget(1, 3, "")];
        assert_eq!(decide(&pod("Running", "True"), &twice, NOW).unwrap_err().code, 500);
    }
}
