//! npm's unmodified package @kubernetes/client-node on a cluster of one node. What is done and expected is in `client.mjs`, a
//! program as a user would write it; it says one line per check, and here it must have said all of them, in order.

use std::process::{Command, Stdio};

use tests::Cluster;

/// The program, from this crate.
const PROGRAM: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/javascript/client.mjs");

/// How long it may take, on a machine that does other things beside it.
const BOUND_S: &str = "120";

/// What the program must say.
const CHECKS: [&str; 15] = [
    "discovery",
    "create",
    "lists",
    "patches",
    "replace",
    "any_kind",
    "watch",
    "informer",
    "deployment",
    "logs",
    "exec",
    "port_forward",
    "rights",
    "custom_resources",
    "remove",
];

#[test]
fn the_unmodified_javascript_client_finds_a_kubernetes() {
    let client = std::env::var_os("ACTORIUM_JAVASCRIPT_CLIENT").expect(
        "ACTORIUM_JAVASCRIPT_CLIENT names the package @kubernetes/client-node: run `cargo xtask test`, which fetches it",
    );
    let cluster = Cluster::start(22, 1);
    cluster.import_images(0);
    cluster.kubectl(0); // the kubeconfig is there when this returns
    // `timeout` ends a program that hangs.
    let output = Command::new("timeout")
        .args([BOUND_S, "node", PROGRAM])
        .env("KUBECONFIG", cluster.kubeconfig(0))
        .env("ACTORIUM_JAVASCRIPT_CLIENT", client)
        .stdin(Stdio::null())
        .output()
        .expect("the programs `timeout` (coreutils) and `node` run");
    let (said, errors) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    print!("{errors}");
    let said: Vec<&str> = said.lines().collect();
    let expected: Vec<String> = CHECKS.iter().map(|check| format!("ok {check}")).collect();
    assert!(
        output.status.success() && said == expected,
        "the program ended with {} and said\n{}\n{}",
        output.status,
        said.join("\n"),
        cluster.logs()
    );
}
