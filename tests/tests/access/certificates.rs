//! What the control plane signs: certificates of approved requests, tokens of Secrets; and the rules of aggregating roles.

use std::process::Command;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;
use tests::{Cluster, Kubectl, wait_for};

use crate::SOON;

/// A request, and its key, made by openssl.
fn request(directory: &std::path::Path, subject: &str) -> (String, String) {
    let (key, csr) = (directory.join("asked.key"), directory.join("asked.csr"));
    let output = Command::new("openssl")
        .args([
            "req",
            "-new",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:prime256v1",
            "-nodes",
            "-subj",
            subject,
            "-keyout",
        ])
        .arg(&key)
        .arg("-out")
        .arg(&csr)
        .output()
        .expect("the program `openssl` runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let read = |path| std::fs::read_to_string(path).expect("openssl wrote it");
    (read(csr), read(key))
}

fn ask(client: &Kubectl, name: &str, csr: &str) {
    client.apply(&signing_request(name, csr));
}

fn signing_request(name: &str, csr: &str) -> String {
    json!({
        "apiVersion": "certificates.k8s.io/v1", "kind": "CertificateSigningRequest", "metadata": {"name": name},
        "spec": {"request": STANDARD.encode(csr), "signerName": "kubernetes.io/kube-apiserver-client",
            "usages": ["client auth"], "expirationSeconds": 3600},
    })
    .to_string()
}

/// `kubectl certificate approve`, and the API by the certificate that comes of it.
pub fn approved_requests_are_signed(cluster: &Cluster, client: &Kubectl) {
    let (csr, key) = request(cluster.directory(), "/O=dev/CN=ann");
    ask(client, "ann", &csr);
    client.run("certificate approve ann");
    let encoded = || client.run("get csr ann -o jsonpath={.status.certificate}");
    wait_for("the certificate is issued", SOON, || {
        if encoded().is_empty() {
            Err("none".to_owned())
        } else {
            Ok(())
        }
    });
    let certificate = STANDARD.decode(encoded()).expect("a certificate");
    let (certificate_file, key_file) = (cluster.directory().join("ann.crt"), cluster.directory().join("ann.key"));
    std::fs::write(&certificate_file, certificate).expect("the cluster's directory can be written");
    std::fs::write(&key_file, key).expect("the cluster's directory can be written");
    let whoami = client.run(&format!(
        "auth whoami -o jsonpath={{.status.userInfo.username}}:{{.status.userInfo.groups[0]}} --client-certificate={} --client-key={}",
        certificate_file.display(),
        key_file.display()
    ));
    assert_eq!(whoami, "ann:dev");

    // Nobody becomes an administrator by a request.
    let (csr, _) = request(cluster.directory(), "/O=system:masters/CN=eve");
    let file = cluster.directory().join("eve.json");
    std::fs::write(&file, signing_request("eve", &csr)).expect("the cluster's directory can be written");
    let refused = client.refused(&format!("create -f {}", file.display()));
    assert!(
        refused.contains("use of kubernetes.io/kube-apiserver-client signer with system:masters group is not allowed"),
        "{refused}"
    );

    // Who may update approvals may not approve for each signer.
    client.run("create clusterrole approver --verb=update,get --resource=certificatesigningrequests,certificatesigningrequests/approval");
    client.run("create clusterrolebinding approver --clusterrole=approver --user=bob");
    let (csr, _) = request(cluster.directory(), "/O=dev/CN=sue");
    ask(client, "sue", &csr);
    let refused = client.refused("certificate approve sue --as bob");
    assert!(
        refused.contains("not permitted to approve requests with signerName"),
        "{refused}"
    );
    client.run("certificate deny sue");
    assert_eq!(
        client.run("get csr sue -o jsonpath={.status.conditions[*].type}/{.status.certificate}"),
        "Denied/"
    );
    assert!(client.run("get csr sue").contains("Denied"));
}

/// A Secret of the type for tokens is filled, its token works, and it goes with the account.
pub fn secrets_are_filled_with_tokens(_: &Cluster, client: &Kubectl) {
    client.run("create serviceaccount robot");
    let secret = json!({
        "apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/service-account-token",
        "metadata": {"name": "robot-token", "annotations": {"kubernetes.io/service-account.name": "robot"}},
    });
    client.apply(&secret.to_string());
    let encoded = || client.run("get secret robot-token -o jsonpath={.data.token}");
    wait_for("the Secret holds a token", SOON, || {
        if encoded().is_empty() {
            Err("none".to_owned())
        } else {
            Ok(())
        }
    });
    let token = String::from_utf8(STANDARD.decode(encoded()).expect("base64")).expect("a token");
    let review = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": {"token": token}});
    let path = std::env::temp_dir().join(format!("actorium-legacy-{}.json", std::process::id()));
    std::fs::write(&path, review.to_string()).expect("a temporary file can be written");
    let known = client.run(&format!(
        "create -f {} -o jsonpath={{.status.user.username}}",
        path.display()
    ));
    let _ = std::fs::remove_file(&path);
    assert_eq!(known, "system:serviceaccount:default:robot");
    client.run("delete serviceaccount robot");
    wait_for("the Secret goes with its account", SOON, || {
        let left = client.run("get secrets -o name");
        if left.contains("robot-token") {
            Err(left)
        } else {
            Ok(())
        }
    });
}

/// What `view` gathers is read in it, also what comes later.
pub fn aggregating_roles_show_their_rules(_: &Cluster, client: &Kubectl) {
    let role = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole",
        "metadata": {"name": "see-widgets", "labels": {"rbac.authorization.k8s.io/aggregate-to-view": "true"}},
        "rules": [{"verbs": ["get"], "apiGroups": ["example.com"], "resources": ["widgets"]}],
    });
    client.apply(&role.to_string());
    let rules = || client.run("get clusterrole view -o jsonpath={.rules[*].resources}");
    wait_for("the role `view` shows the rule", SOON, || {
        if rules().contains("widgets") {
            Ok(())
        } else {
            Err(rules())
        }
    });
    client.run("delete clusterrole see-widgets");
    wait_for("the rule has gone from `view`", SOON, || {
        if rules().contains("widgets") {
            Err(rules())
        } else {
            Ok(())
        }
    });
}
