//! Who votes: the first three members by themselves; a voter that dies is replaced by a member that lives, and then the death
//! of one more voter leaves a majority, so that writes go on.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use serde_json::Value;
use tests::{Cluster, wait_for};

/// How long a replacement may take: the death has to be noticed and the new voter has to catch up.
const BOUND: Duration = Duration::from_secs(30);

/// The voters' indices, as the leader has them.
fn voters(cluster: &Cluster) -> Result<BTreeSet<usize>, String> {
    let (done, text) = cluster.actorium(cluster.leader(), &["shell", "-o", "json", "-c", "leader"]);
    let value: Value = serde_json::from_str(&text).map_err(|_| text.clone())?;
    let named = value["voters"].as_array().filter(|_| done).ok_or(text)?;
    let index = |name: &Value| cluster.nodes.iter().position(|node| node.name == *name);
    named
        .iter()
        .map(|name| index(name).ok_or_else(|| name.to_string()))
        .collect()
}

fn await_voters(cluster: &Cluster, expected: [usize; 3]) {
    wait_for(&format!("the voters are {expected:?}"), BOUND, || {
        let found = voters(cluster)?;
        if found == BTreeSet::from(expected) {
            Ok(())
        } else {
            Err(format!("{found:?}"))
        }
    });
}

/// Writes through a node, which must be acknowledged at the first attempt.
fn write(cluster: &Cluster, name: &str, through: usize) {
    let create = format!("--request-timeout=20s create configmap {name} --from-literal=a=b");
    let output = cluster.kubectl(through).output(&create);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}\n{}", cluster.logs());
}

#[test]
fn a_dead_voter_is_replaced_by_a_member_that_lives() {
    let mut cluster = Cluster::start(11, 4);
    await_voters(&cluster, [0, 1, 2]);
    write(&cluster, "before", 3);

    let leader = cluster.leader();
    let first = (leader + 1) % 3;
    let second = (leader + 2) % 3;
    let begun = Instant::now();
    cluster.kill_node(first);
    await_voters(&cluster, [leader, second, 3]);
    println!("measured: a dead voter is replaced: {} ms", begun.elapsed().as_millis());

    // Of the first three voters two are dead now. Without the replacement there would be no majority.
    cluster.kill_node(second);
    write(&cluster, "after", 3);
    for name in ["before", "after"] {
        let path = format!("/api/v1/namespaces/default/configmaps/{name}");
        assert_eq!(cluster.read(&path).expect("it is there")["data"]["a"], "b");
    }

    // Those that died come back as members, and the cluster has three voters again, all of them alive.
    cluster.restart_node(first);
    cluster.restart_node(second);
    wait_for("three members that live vote", BOUND, || {
        let found = voters(&cluster)?;
        if found.len() == 3 {
            Ok(())
        } else {
            Err(format!("{found:?}"))
        }
    });
}
