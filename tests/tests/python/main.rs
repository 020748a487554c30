//! The unmodified Python package `kubernetes` on a cluster of one node: its typed client and its DynamicClient make, list in
//! pages, watch from a revision, patch in all four ways, replace and remove objects of six kinds; the DynamicClient finds every
//! kind at run time; both do the same with a kind of the program's own; the typed client waits for a Deployment and reads logs. What is done and expected is in `client.py`, a program as a user would write it; it says one line per check,
//! and here it must have said all of them, in order.

use std::process::{Command, Stdio};

use tests::Cluster;

/// The program, from this crate.
const PROGRAM: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/python/client.py");

/// How long it may take, on a machine that does other things beside it.
const BOUND_S: &str = "120";

/// What the program must say.
fn expected() -> Vec<String> {
    let kinds = ["namespaces", "configmaps", "secrets", "services", "pods", "deployments"];
    let checks = [
        "create",
        "get",
        "list",
        "watch",
        "json_patch",
        "merge_patch",
        "strategic_patch",
        "apply",
        "replace",
        "delete",
    ];
    let application = ["rolls_out", "logs", "follow", "scale", "update", "dependents"];
    let mut lines = Vec::new();
    for client in ["typed", "dynamic"] {
        for kind in kinds {
            lines.extend(checks.map(|check| format!("ok {client} {kind} {check}")));
        }
    }
    let everything = [
        "search",
        "every_kind",
        "subresources",
        "dry_run",
        "pages",
        "errors",
        "bookmarks",
        "collection",
    ];
    lines.extend(everything.map(|check| format!("ok dynamic everything {check}")));
    let custom = [
        "define", "create", "list", "watch", "patches", "apply", "replace", "status", "scale", "delete", "undefine",
    ];
    lines.extend(custom.map(|check| format!("ok custom {check}")));
    lines.extend(application.map(|check| format!("ok typed application {check}")));
    lines
}

#[test]
fn the_unmodified_python_client_finds_a_kubernetes() {
    let python = std::env::var_os("ACTORIUM_PYTHON").expect(
        "ACTORIUM_PYTHON names a Python that has the package `kubernetes`: run `cargo xtask test`, which makes one",
    );
    let cluster = Cluster::start(8, 1);
    cluster.import_images(0);
    cluster.kubectl(0); // the kubeconfig is there when this returns
    // `timeout` ends a program that hangs.
    let output = Command::new("timeout")
        .arg(BOUND_S)
        .arg(python)
        .arg(PROGRAM)
        .env("KUBECONFIG", cluster.kubeconfig(0))
        .stdin(Stdio::null())
        .output()
        .expect("the program `timeout` (coreutils) runs");
    let (said, errors) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    print!("{errors}");
    let said: Vec<&str> = said.lines().collect();
    assert!(
        output.status.success() && said == expected(),
        "the program ended with {} and said\n{}\n{}",
        output.status,
        said.join("\n"),
        cluster.logs()
    );
}
