//! Evictions: a budget that allows none refuses, in Kubernetes' words, and lets go what it allows.

use serde_json::json;
use tests::{Cluster, Kubectl, wait_for};

use crate::SOON;

fn evict(client: &Kubectl, pod: &str) -> Result<String, String> {
    let body =
        json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": pod, "namespace": "default"}});
    let path = std::env::temp_dir().join(format!("actorium-eviction-{}-{pod}.json", std::process::id()));
    std::fs::write(&path, body.to_string()).expect("a temporary file can be written");
    let output = client.output(&format!(
        "create --raw /api/v1/namespaces/default/pods/{pod}/eviction -f {}",
        path.display()
    ));
    let _ = std::fs::remove_file(&path);
    let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    if output.status.success() { Ok(text) } else { Err(text) }
}

/// Of three pods two must stay.
pub fn evictions_keep_to_the_budget(cluster: &Cluster, client: &Kubectl) {
    let deployment = json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "guarded"},
        "spec": {"replicas": 3, "selector": {"matchLabels": {"app": "guarded"}}, "template": {
            "metadata": {"labels": {"app": "guarded"}},
            "spec": {"terminationGracePeriodSeconds": 0, "containers": [{
                "name": "main", "image": "actorium.local/busybox:1", "imagePullPolicy": "Never", "command": ["sleep", "600"]}]},
        }},
    });
    client.apply(&deployment.to_string());
    client.run("rollout status deployment/guarded --timeout=60s");
    client.run("create pdb guarded --selector=app=guarded --min-available=3");
    let allowed = || client.run("get pdb guarded -o jsonpath={.status.currentHealthy}/{.status.disruptionsAllowed}");
    let awaited = |expected: &str| {
        let what = format!("the budget says {expected}");
        wait_for(
            &what,
            SOON,
            || if allowed() == expected { Ok(()) } else { Err(allowed()) },
        );
    };
    awaited("3/0");
    let names = client.run("get pods -l app=guarded -o jsonpath={.items[*].metadata.name}");
    let names: Vec<&str> = names.split_whitespace().collect();
    let refused = evict(client, names[0]).expect_err("the budget allows no eviction");
    assert!(
        refused.contains("Cannot evict pod as it would violate the pod's disruption budget."),
        "{refused}"
    );
    client.run("patch pdb guarded --type=merge -p {\"spec\":{\"minAvailable\":2}}");
    awaited("3/1");
    // No replacement can start: what the first takes is not made good before the second.
    for node in &cluster.nodes {
        client.run(&format!("cordon {}", node.name));
    }
    let first = evict(client, names[0]);
    let second = evict(client, names[1]);
    assert!(first.is_ok(), "{first:?}");
    assert!(
        second.is_err(),
        "two evictions were granted where one is allowed: {second:?}"
    );
    for node in &cluster.nodes {
        client.run(&format!("uncordon {}", node.name));
    }
    awaited("3/1");
    client.run("delete deployment/guarded pdb/guarded");
}
