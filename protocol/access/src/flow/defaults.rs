//! The FlowSchemas and priority levels that every cluster starts with, after Kubernetes' `flowcontrol/bootstrap`. The leader
//! writes those that are missing; `exempt` and `catch-all` hold even without a stored object.

use serde_json::{Value, json};

const GROUP: &str = "flowcontrol.apiserver.k8s.io";
/// The level and the schema of what is never held up.
pub const EXEMPT: &str = "exempt";
/// The level and the schema of what matches nothing else.
pub const CATCH_ALL: &str = "catch-all";

/// A limited level with queues.
struct LevelRow {
    name: &'static str,
    shares: u32,
    lendable_percent: u32,
    queues: u32,
    hand: u32,
}

/// How long a queue may be in all of them.
const QUEUE_LENGTH: u32 = 50;

const LEVELS: [LevelRow; 6] = [
    LevelRow {
        name: "system",
        shares: 30,
        lendable_percent: 33,
        queues: 64,
        hand: 6,
    },
    LevelRow {
        name: "node-high",
        shares: 40,
        lendable_percent: 25,
        queues: 64,
        hand: 6,
    },
    LevelRow {
        name: "leader-election",
        shares: 10,
        lendable_percent: 0,
        queues: 16,
        hand: 4,
    },
    LevelRow {
        name: "workload-high",
        shares: 40,
        lendable_percent: 50,
        queues: 128,
        hand: 6,
    },
    LevelRow {
        name: "workload-low",
        shares: 100,
        lendable_percent: 90,
        queues: 128,
        hand: 6,
    },
    LevelRow {
        name: "global-default",
        shares: 20,
        lendable_percent: 50,
        queues: 128,
        hand: 6,
    },
];

fn object(kind: &str, name: &str, spec: Value) -> Value {
    json!({
        "apiVersion": format!("{GROUP}/v1"), "kind": kind,
        "metadata": {"name": name, "annotations": {"apf.kubernetes.io/autoupdate-spec": "true"}},
        "spec": spec,
    })
}

fn level(name: &str, spec: Value) -> Value {
    object("PriorityLevelConfiguration", name, spec)
}

/// All PriorityLevelConfigurations.
pub fn default_priority_levels() -> Vec<Value> {
    let queued = LEVELS.iter().map(|row| {
        let queuing = json!({"queues": row.queues, "handSize": row.hand, "queueLengthLimit": QUEUE_LENGTH});
        let limited = json!({
            "nominalConcurrencyShares": row.shares, "lendablePercent": row.lendable_percent,
            "limitResponse": {"type": "Queue", "queuing": queuing},
        });
        level(row.name, json!({"type": "Limited", "limited": limited}))
    });
    [exempt_objects().1, catch_all_objects().1]
        .into_iter()
        .chain(queued)
        .collect()
}

fn schema(name: &str, level: &str, precedence: u32, by: &str, rules: Value) -> Value {
    let mut spec = json!({
        "priorityLevelConfiguration": {"name": level}, "matchingPrecedence": precedence, "rules": rules,
    });
    if !by.is_empty() {
        spec["distinguisherMethod"] = json!({"type": by});
    }
    object("FlowSchema", name, spec)
}

fn users(names: &[&str]) -> Vec<Value> {
    names
        .iter()
        .map(|name| json!({"kind": "User", "user": {"name": name}}))
        .collect()
}

fn groups(names: &[&str]) -> Vec<Value> {
    names
        .iter()
        .map(|name| json!({"kind": "Group", "group": {"name": name}}))
        .collect()
}

fn accounts(names: &[&str]) -> Vec<Value> {
    let account =
        |name: &&str| json!({"kind": "ServiceAccount", "serviceAccount": {"namespace": "kube-system", "name": name}});
    names.iter().map(account).collect()
}

fn resources(verbs: &[&str], group: &str, resources: &[&str], cluster_scope: bool, namespaces: &[&str]) -> Value {
    let mut rule = json!({"verbs": verbs, "apiGroups": [group], "resources": resources});
    if cluster_scope {
        rule["clusterScope"] = true.into();
    }
    if !namespaces.is_empty() {
        rule["namespaces"] = json!(namespaces);
    }
    rule
}

/// Whatever these subjects do.
fn everything(subjects: Vec<Value>) -> Value {
    json!([{
        "subjects": subjects,
        "resourceRules": [resources(&["*"], "*", &["*"], true, &["*"])],
        "nonResourceRules": [{"verbs": ["*"], "nonResourceURLs": ["*"]}],
    }])
}

const EVERYONE: [&str; 2] = ["system:authenticated", "system:unauthenticated"];
/// What a component does to be elected, or to publish endpoints.
const GET_AND_WRITE: [&str; 3] = ["get", "create", "update"];

/// Schema and level of what is never held up.
pub(super) fn exempt_objects() -> (Value, Value) {
    let spec = json!({"type": "Exempt", "exempt": {"nominalConcurrencyShares": 0, "lendablePercent": 0}});
    (
        schema(EXEMPT, EXEMPT, 1, "", everything(groups(&["system:masters"]))),
        level(EXEMPT, spec),
    )
}

/// Schema and level of what matches nothing else.
pub(super) fn catch_all_objects() -> (Value, Value) {
    let limited = json!({"nominalConcurrencyShares": 5, "lendablePercent": 0, "limitResponse": {"type": "Reject"}});
    (
        schema(CATCH_ALL, CATCH_ALL, 10_000, "ByUser", everything(groups(&EVERYONE))),
        level(CATCH_ALL, json!({"type": "Limited", "limited": limited})),
    )
}

fn probes() -> Value {
    let rule = json!([{"subjects": groups(&EVERYONE), "nonResourceRules": [
        {"verbs": ["get"], "nonResourceURLs": ["/healthz", "/readyz", "/livez"]}]}]);
    schema("probes", EXEMPT, 2, "", rule)
}

fn leases(subjects: Vec<Value>) -> Value {
    let rule = resources(&GET_AND_WRITE, "coordination.k8s.io", &["leases"], false, &["*"]);
    json!([{"subjects": subjects, "resourceRules": [rule]}])
}

fn of_components() -> [Value; 3] {
    let manager = "system:kube-controller-manager";
    let endpoints = resources(&GET_AND_WRITE, "", &["endpoints"], false, &["*"]);
    let writers = [
        users(&[manager]),
        accounts(&["endpoint-controller", "endpointslicemirroring-controller"]),
    ]
    .concat();
    [
        schema(
            "system-leader-election",
            "leader-election",
            100,
            "ByUser",
            leases(users(&[manager, "system:kube-scheduler"])),
        ),
        schema(
            "endpoint-controller",
            "workload-high",
            150,
            "ByUser",
            json!([{"subjects": writers, "resourceRules": [endpoints]}]),
        ),
        schema(
            "workload-leader-election",
            "leader-election",
            200,
            "ByUser",
            leases(accounts(&["*"])),
        ),
    ]
}

fn of_nodes() -> [Value; 2] {
    let rules = json!([{"subjects": groups(&["system:nodes"]), "resourceRules": [
        resources(&["*"], "", &["nodes", "nodes/status"], true, &["*"]),
        resources(&["*"], "coordination.k8s.io", &["leases"], false, &["*"]),
    ]}]);
    [
        schema("system-node-high", "node-high", 400, "ByUser", rules),
        schema(
            "system-nodes",
            "system",
            500,
            "ByUser",
            everything(groups(&["system:nodes"])),
        ),
    ]
}

/// All FlowSchemas.
pub fn default_flow_schemas() -> Vec<Value> {
    let of_user =
        |name: &str, user: &str| schema(name, "workload-high", 800, "ByNamespace", everything(users(&[user])));
    let mut schemas = vec![exempt_objects().0, probes()];
    schemas.extend(of_components());
    schemas.extend(of_nodes());
    schemas.extend([
        of_user("kube-controller-manager", "system:kube-controller-manager"),
        of_user("kube-scheduler", "system:kube-scheduler"),
        schema(
            "kube-system-service-accounts",
            "workload-high",
            900,
            "ByNamespace",
            everything(accounts(&["*"])),
        ),
        schema(
            "service-accounts",
            "workload-low",
            9000,
            "ByUser",
            everything(groups(&["system:serviceaccounts"])),
        ),
        schema(
            "global-default",
            "global-default",
            9900,
            "ByUser",
            everything(groups(&EVERYONE)),
        ),
        catch_all_objects().0,
    ]);
    schemas
}
