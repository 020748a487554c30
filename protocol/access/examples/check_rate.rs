//! How many checks a second one core decides, with 1,000 bindings: `cargo run --release -p access --example check_rate`. The time
//! is the thread's on the processor, so that other work on the machine counts as little as it can.

use std::hint::black_box;

use access::flow::{
    FlowControl, FlowEvent, FlowLimits, Micros, RequestId, default_flow_schemas, default_priority_levels,
};
use access::{Attributes, Rbac, ResourceRequest, User, policy};
use serde_json::json;

/// The default policy, 500 ClusterRoleBindings and 500 RoleBindings, half of them of the large role `edit`.
fn cluster() -> Rbac {
    let mut rbac = Rbac::new();
    for default in policy::defaults() {
        rbac.upsert(default.resource, &default.object);
    }
    for index in 0..1000 {
        let role = if index % 2 == 0 { "edit" } else { "view" };
        let subjects = json!([
            {"kind": "User", "name": format!("user-{index}")},
            {"kind": "Group", "name": format!("group-{}", index % 50)},
        ]);
        let name = format!("binding-{index}");
        let role = json!({"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role});
        if index < 500 {
            let object = json!({"metadata": {"name": name}, "roleRef": role, "subjects": [subjects[0]]});
            rbac.upsert("clusterrolebindings", &object);
        } else {
            let namespace = format!("ns-{}", index % 100);
            let metadata = json!({"name": name, "namespace": namespace});
            let object = json!({"metadata": metadata, "roleRef": role, "subjects": subjects});
            rbac.upsert("rolebindings", &object);
        }
    }
    rbac
}

/// Nanoseconds that this thread has run: the first number of `/proc/thread-self/schedstat` (proc(5)).
fn ran_ns() -> u64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    text.split(' ')
        .next()
        .and_then(|number| number.parse().ok())
        .unwrap_or_default()
}

fn pace(title: &str, mut check: impl FnMut() -> bool, expected: bool) {
    const ROUNDS: u32 = 2_000_000;
    for _ in 0..ROUNDS / 10 {
        assert_eq!(check(), expected, "{title}");
    }
    let start = ran_ns();
    for _ in 0..ROUNDS {
        black_box(check());
    }
    let seconds = (ran_ns() - start) as f64 / 1e9;
    println!("{title}: {:.2} million/s", f64::from(ROUNDS) / seconds / 1e6);
}

fn main() {
    let rbac = cluster();
    let ops = User::authenticated("user-700", ["group-0", "group-1", "group-2"]);
    let account = User::service_account("ns-1", "web", "uid");
    let pods = ResourceRequest {
        namespace: "ns-0",
        version: "v1",
        resource: "pods",
        name: "web",
        ..Default::default()
    };
    let hpa = ResourceRequest {
        group: "autoscaling",
        resource: "horizontalpodautoscalers",
        ..pods
    };
    let create = Attributes::resource(&ops, "create", pods);
    let late = Attributes::resource(&ops, "patch", hpa);
    let refused = Attributes::resource(
        &ops,
        "delete",
        ResourceRequest {
            resource: "nodes",
            ..pods
        },
    );
    let account_refused = Attributes::resource(&account, "list", pods);
    pace("allowed by a RoleBinding", || rbac.grant(&create).is_ok(), true);
    pace("allowed by a late rule", || rbac.grant(&late).is_ok(), true);
    pace("allowed, with its reason", || rbac.authorize(&create).allows(), true);
    pace("refused", || rbac.grant(&refused).is_ok(), false);
    pace(
        "a ServiceAccount refused",
        || rbac.grant(&account_refused).is_ok(),
        false,
    );
    pace(
        "a path",
        || rbac.grant(&Attributes::path(&ops, "get", "/apis/apps/v1")).is_ok(),
        true,
    );
    pace_of_flow_control(&ops, pods);
}

/// One request after the other through the default levels: classified, started, ended.
fn pace_of_flow_control(user: &User, pods: ResourceRequest<'_>) {
    let mut control = FlowControl::new(FlowLimits {
        seats: 600,
        wait_max: 15_000_000,
    });
    let mut effects = Vec::new();
    for level in default_priority_levels() {
        control.upsert(Micros(0), "prioritylevelconfigurations", &level, &mut effects);
    }
    for schema in default_flow_schemas() {
        control.upsert(Micros(0), "flowschemas", &schema, &mut effects);
    }
    let attributes = Attributes::resource(user, "get", pods);
    let mut number = 0;
    let mut request = || {
        number += 1;
        let (now, request) = (Micros(number * 100), RequestId(number));
        let flow = control.classify(&attributes);
        effects.clear();
        control.decide(
            now,
            FlowEvent::Arrive {
                request,
                flow,
                seats: 1,
            },
            &mut effects,
        );
        let runs = effects.len() == 1;
        control.decide(now.plus(50), FlowEvent::Finish { request }, &mut effects);
        runs
    };
    pace("priority and fairness, whole requests", &mut request, true);
}
