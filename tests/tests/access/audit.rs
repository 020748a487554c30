//! The audit log of a node's API: what the policy wants of each request is a line of the log, and nothing else.

use std::path::{Path, PathBuf};

use serde_json::Value;
use tests::{Cluster, Kubectl, wait_for};

use crate::SOON;

/// Everything in the namespace `audited` with both bodies, of watches and sessions both stages, of all else who did what.
const POLICY: &str = "
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- level: None
  userGroups: [\"system:nodes\"]
- level: RequestResponse
  omitManagedFields: true
  namespaces: [audited]
- level: Metadata
";

/// What a node is started with; the files lie in the cluster's directory.
pub fn arguments(directory: &Path) -> Vec<String> {
    let policy = directory.join("audit-policy.yaml");
    std::fs::write(&policy, POLICY).expect("the cluster's directory can be written");
    let log = log(directory);
    let words = [
        "--audit-policy-file",
        &policy.display().to_string(),
        "--audit-log-path",
        &log.display().to_string(),
    ];
    words.map(str::to_owned).to_vec()
}

fn log(directory: &Path) -> PathBuf {
    directory.join("audit/audit.log")
}

fn events(cluster: &Cluster) -> Vec<Value> {
    let text = std::fs::read_to_string(log(cluster.directory())).unwrap_or_default();
    let parse = |line: &str| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
    text.lines().map(parse).collect()
}

/// Waits for an event for which something holds.
pub fn await_event(cluster: &Cluster, what: &str, holds: impl Fn(&Value) -> bool) -> Value {
    let found = || {
        let all = events(cluster);
        let of_namespace = |event: &&Value| event["objectRef"]["namespace"] == "audited";
        let last: Vec<String> = all.iter().filter(of_namespace).map(Value::to_string).collect();
        all.iter().find(|event| holds(event)).cloned().ok_or(last.join("\n"))
    };
    wait_for(&format!("an audit event of {what}"), SOON, found).0
}

/// Who did what, with which bodies, and of a Secret never what it holds.
pub fn requests_are_written_down(cluster: &Cluster, client: &Kubectl) {
    client.run("create namespace audited");
    client.run("create configmap kept -n audited --from-literal=key=plain-value");
    let is_of = |resource: &'static str, verb: &'static str| {
        move |event: &Value| {
            event["objectRef"]["resource"] == resource
                && event["verb"] == verb
                && event["objectRef"]["namespace"] == "audited"
        }
    };
    let created = await_event(cluster, "the ConfigMap", is_of("configmaps", "create"));
    assert_eq!(created["level"], "RequestResponse", "{created}");
    assert_eq!(created["stage"], "ResponseComplete", "{created}");
    assert_eq!(created["user"]["username"], "kubernetes-admin", "{created}");
    assert_eq!(created["objectRef"]["name"], "kept", "{created}");
    assert_eq!(created["responseStatus"]["code"], 201, "{created}");
    assert_eq!(created["requestObject"]["data"]["key"], "plain-value", "{created}");
    assert!(created["responseObject"]["metadata"]["uid"].is_string(), "{created}");
    assert!(
        created["responseObject"]["metadata"]["managedFields"].is_null(),
        "{created}"
    );
    assert!(
        created["sourceIPs"][0].is_string()
            && created["userAgent"]
                .as_str()
                .is_some_and(|agent| agent.starts_with("kubectl"))
    );

    client.run("create secret generic hidden -n audited --from-literal=key=never-to-be-seen");
    let secret = await_event(cluster, "the Secret", is_of("secrets", "create"));
    assert_eq!(secret["level"], "Metadata", "{secret}");
    let encoded = "bmV2ZXItdG8tYmUtc2Vlbg"; // base64 of the value
    let text = std::fs::read_to_string(log(cluster.directory())).expect("the log is there");
    assert!(
        !text.contains("never-to-be-seen") && !text.contains(encoded),
        "a Secret's content is in the audit log"
    );

    let refusal = client.refused("get configmaps -n audited --as bob");
    assert!(refusal.contains("Forbidden"), "{refusal}");
    let refused = await_event(cluster, "the refusal", |event| {
        event["impersonatedUser"]["username"] == "bob"
    });
    assert_eq!(refused["user"]["username"], "kubernetes-admin", "{refused}");
    assert_eq!(refused["responseStatus"]["code"], 403, "{refused}");
    assert_eq!(
        refused["annotations"]["authorization.k8s.io/decision"], "forbid",
        "{refused}"
    );
}

/// A watch is written down when it begins and when it ends, under the id that the client was told.
pub fn long_requests_have_two_events(cluster: &Cluster, client: &Kubectl) {
    let output = client.output("get --raw /api/v1/namespaces/audited/configmaps?watch=1&timeoutSeconds=1 -v=8");
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    let id = told
        .lines()
        .find_map(|line| line.split_once("Audit-Id").map(|(_, rest)| rest))
        .map(|rest| {
            rest.trim_matches(|character: char| !character.is_ascii_alphanumeric())
                .to_owned()
        });
    let id = id.unwrap_or_else(|| panic!("no header Audit-Id in\n{told}"));
    let id = id
        .split(|character: char| !character.is_ascii_alphanumeric() && character != '-')
        .next()
        .unwrap_or_default()
        .to_owned();
    for stage in ["ResponseStarted", "ResponseComplete"] {
        let event = await_event(cluster, stage, |event| {
            event["auditID"] == *id && event["stage"] == stage
        });
        assert_eq!(
            (&event["verb"], &event["responseStatus"]["code"]),
            (&"watch".into(), &200.into()),
            "{event}"
        );
    }
}
