//! Tokens in pods: a program finds its token, the CA and the API's address where client libraries look, is known as its
//! account, may do what its account may, and its token proves nothing once the pod is gone.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tests::{Cluster, Kubectl, wait_for};

use crate::SOON;

/// The program, from this crate.
const PROGRAM: &str = include_str!("in_cluster.py");

/// A pod that runs the program as an account.
fn pod(name: &str, account: &str, node: &str) -> String {
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
        "spec": {
            "nodeName": node, "serviceAccountName": account, "terminationGracePeriodSeconds": 0,
            "containers": [{
                "name": "main", "image": "actorium.local/guestbook:v1", "imagePullPolicy": "Never",
                "command": ["/usr/bin/python3", "-B", "-u", "-c", PROGRAM],
            }],
        },
    })
    .to_string()
}

fn await_log(client: &Kubectl, pod: &str, parts: &[&str]) {
    wait_for(&format!("{parts:?} in the log of {pod}"), SOON, || {
        let output = client.output(&format!("logs {pod}"));
        let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        if parts.iter().all(|part| text.contains(part)) {
            Ok(())
        } else {
            Err(text)
        }
    });
}

/// On each node, with the API reached by address and by name.
pub fn a_program_in_a_pod_calls_the_api(cluster: &Cluster, client: &Kubectl) {
    client.run("create serviceaccount reader");
    for (index, node) in cluster.nodes.iter().enumerate() {
        client.apply(&pod(&format!("caller-{index}"), "reader", &node.name));
    }
    let refused = "403 pods is forbidden: User \"system:serviceaccount:default:reader\" cannot list resource \"pods\" in API group \
                   \"\" in the namespace \"default\"";
    for index in 0..cluster.nodes.len() {
        let expected = [format!("address: {refused}"), format!("name: {refused}")];
        let expected: Vec<&str> = expected.iter().map(String::as_str).collect();
        await_log(client, &format!("caller-{index}"), &expected);
    }
    client.run("create role pod-reader --verb=list --resource=pods");
    client.run("create rolebinding pod-reader --role=pod-reader --serviceaccount=default:reader");
    for index in 0..cluster.nodes.len() {
        await_log(
            client,
            &format!("caller-{index}"),
            &["address: 200 PodList", "name: 200 PodList"],
        );
    }
}

/// What a TokenReview says of a token.
fn review(client: &Kubectl, token: &str) -> Value {
    let body = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": {"token": token}});
    let path = std::env::temp_dir().join(format!("actorium-review-{}.json", std::process::id()));
    std::fs::write(&path, body.to_string()).expect("a temporary file can be written");
    let text = client.run(&format!("create -o json -f {}", path.display()));
    let _ = std::fs::remove_file(&path);
    serde_json::from_str::<Value>(&text).expect("kubectl prints JSON")["status"].clone()
}

/// The token names pod and node, is asked for by the pod's volume alone, and dies with the pod.
pub fn a_token_is_bound_to_its_pod(cluster: &Cluster, client: &Kubectl) {
    let node = &cluster.nodes[1].name;
    client.apply(&pod("bound", "default", node));
    await_log(client, "bound", &["address: 403"]);
    let token = client.run(
        "exec bound -- /usr/bin/python3 -c print(open('/var/run/secrets/kubernetes.io/serviceaccount/token').read())",
    );
    let token = token.trim().to_owned();
    let status = review(client, &token);
    assert_eq!(status["authenticated"], true, "{status}");
    assert_eq!(status["user"]["username"], "system:serviceaccount:default:default");
    let extra = &status["user"]["extra"];
    assert_eq!(
        extra["authentication.kubernetes.io/pod-name"],
        json!(["bound"]),
        "{status}"
    );
    assert_eq!(
        extra["authentication.kubernetes.io/node-name"],
        json!([node]),
        "{status}"
    );
    client.run("delete pod bound --wait=true");
    let status = review(client, &token);
    assert_ne!(status["authenticated"], true, "the token outlived its pod: {status}");
}

/// An account that does not want its token mounted, and a projected volume with an audience of its own.
pub fn a_pod_gets_the_tokens_that_it_asks_for(cluster: &Cluster, client: &Kubectl) {
    let script = "cat /tokens/vault | cut -d. -f2; ls /var/run/secrets/kubernetes.io/serviceaccount 2>&1; stat -c %a:%u -L \
                  /tokens/vault; exec sleep 600";
    client.apply(
        &json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "own-audience"},
            "spec": {
                "nodeName": cluster.nodes[0].name, "automountServiceAccountToken": false, "terminationGracePeriodSeconds": 0,
                "securityContext": {"runAsUser": 1234},
                "containers": [{
                    "name": "main", "image": "actorium.local/busybox:1", "imagePullPolicy": "Never",
                    "command": ["sh", "-c", script], "volumeMounts": [{"name": "tokens", "mountPath": "/tokens"}],
                }],
                "volumes": [{"name": "tokens", "projected": {"sources": [
                    {"serviceAccountToken": {"path": "vault", "audience": "vault", "expirationSeconds": 600}}]}}],
            },
        })
        .to_string(),
    );
    await_log(client, "own-audience", &["No such file", "600:1234"]);
    let claims = client.run("logs own-audience");
    let encoded = claims.lines().next().unwrap_or_default().to_owned();
    let decoded = decode_claims(&encoded);
    assert_eq!(decoded["aud"], json!(["vault"]), "{decoded}");
    assert_eq!(decoded["kubernetes.io"]["pod"]["name"], "own-audience", "{decoded}");
    let life = decoded["exp"].as_u64().unwrap_or(0) - decoded["iat"].as_u64().unwrap_or(0);
    assert_eq!(life, 600, "{decoded}");
}

/// A token costs the start of a pod little: medians side by side, of pods with and without.
pub fn a_token_costs_a_pods_start_little(cluster: &Cluster, client: &Kubectl) {
    const PODS: usize = 20;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    let api = cluster.client(0).expect("a client");
    let pods = "/api/v1/namespaces/default/pods";
    let start = |name: &str, mounted: bool| {
        let pod = json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"app": "quick"}},
            "spec": {"nodeName": cluster.nodes[0].name, "automountServiceAccountToken": mounted, "terminationGracePeriodSeconds": 0,
                "containers": [{"name": "c", "image": "actorium.local/busybox:1", "imagePullPolicy": "Never",
                    "command": ["sleep", "600"]}]},
        });
        let begun = Instant::now();
        let body = pod.to_string().into_bytes();
        let created = api.request("POST", pods, "application/json", "application/json", body);
        runtime.block_on(created).expect("the pod is created");
        loop {
            let pod = runtime
                .block_on(api.get(&format!("{pods}/{name}")))
                .expect("the pod is read");
            if pod["status"]["phase"] == "Running" {
                return begun.elapsed();
            }
            assert!(begun.elapsed() < SOON, "{name} does not run: {}", pod["status"]);
            std::thread::sleep(Duration::from_millis(1));
        }
    };
    start("quick-first", true);
    let (mut with, mut without) = (Vec::new(), Vec::new());
    for number in 0..PODS {
        with.push(start(&format!("quick-with-{number}"), true));
        without.push(start(&format!("quick-without-{number}"), false));
    }
    with.sort_unstable();
    without.sort_unstable();
    let (with, without) = (with[PODS / 2], without[PODS / 2]);
    println!("POST of a pod to Running, median of {PODS}: {with:.1?} with a token, {without:.1?} without");
    assert!(with <= without * 2, "{with:?} with a token, {without:?} without");
    client.run("delete pods -l app=quick --wait=false");
}

/// The middle part of a token.
fn decode_claims(encoded: &str) -> Value {
    use base64::Engine;
    let bytes = base64::engine::general_purpose::URL_SAFE_NO_PAD
        .decode(encoded)
        .unwrap_or_else(|error| panic!("{encoded:?} is not base64: {error}"));
    serde_json::from_slice(&bytes).expect("claims are JSON")
}
