//! Three voters and their clients: what is acknowledged is there, whoever leads and whoever is lost.

#![allow(clippy::disallowed_methods)] // tests wait and measure

mod support;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use consensus::Timings;
use futures::StreamExt;
use protocol::store::{ListRequest, ObjectStore, Precondition, ProposeError, Refusal, WatchItem, WatchRequest};
use protocol::{NodeName, Revision};
use support::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_of_one_writes_reads_lists_and_watches() {
    let directory = tempfile::tempdir().unwrap();
    let mut cluster = Cluster::new(directory.path());
    cluster.form(1).await;
    let client = cluster.nodes[&1].client.clone();
    let request = WatchRequest {
        resources: vec![],
        after: Some(Revision::ZERO),
        ..WatchRequest::default()
    };
    let mut watch = client.watch(request).await.unwrap();
    let committed = client.propose(put(&key("a"), Precondition::Absent, 1)).await.unwrap();
    assert_eq!(committed.revisions, [Revision(1)]);
    let refused = client
        .propose(put(&key("a"), Precondition::Absent, 2))
        .await
        .unwrap_err();
    assert_eq!(
        refused,
        ProposeError::Refused(Refusal::AlreadyExists {
            key: key("a"),
            actual: Revision(1)
        })
    );
    assert_eq!(value(&client.read(&key("a")).await.unwrap().unwrap()), 1);
    assert_eq!(client.list(ListRequest::all("pods")).await.unwrap().items.len(), 1);
    assert_eq!(client.revision().await.unwrap(), Revision(1));
    loop {
        match watch.next().await.unwrap() {
            WatchItem::Event(event) => break assert_eq!(event.revision, Revision(1)),
            WatchItem::Progress(_) => {}
            WatchItem::Lost(error) => panic!("{error}"),
        }
    }
    cluster.stop_all().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn proposals_that_arrive_together_share_a_sync() {
    let directory = tempfile::tempdir().unwrap();
    let mut cluster = Cluster::new(directory.path());
    cluster.form(1).await;
    let node = &cluster.nodes[&1];
    let before = node.consensus.log_syncs();
    let writers = (0..1000).map(|number| {
        let client = node.client.clone();
        tokio::spawn(async move {
            client
                .propose(put(&key(format!("k{number}")), Precondition::Absent, 1))
                .await
        })
    });
    for writer in writers.collect::<Vec<_>>() {
        writer.await.unwrap().unwrap();
    }
    let syncs = node.consensus.log_syncs() - before;
    assert!(syncs < 250, "{syncs} syncs for 1000 proposals");
    let before = node.consensus.log_syncs();
    let proposals = (0..1000)
        .map(|number| put(&key(format!("l{number}")), Precondition::Absent, 1))
        .collect();
    let outcomes = node.client.propose_all(proposals).await;
    assert!(outcomes.iter().all(Result::is_ok));
    let syncs = node.consensus.log_syncs() - before;
    assert!(syncs <= 8, "{syncs} syncs for one call of 1000 proposals");
    cluster.stop_all().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_node_reaches_the_store_through_the_leader() {
    let directory = tempfile::tempdir().unwrap();
    let mut cluster = Cluster::new(directory.path());
    cluster.form(3).await;
    let outsider = cluster.client(&name(9), None);
    outsider
        .propose(put(&key("outside"), Precondition::Absent, 9))
        .await
        .unwrap();
    let request = WatchRequest {
        resources: vec![],
        after: Some(Revision::ZERO),
        ..WatchRequest::default()
    };
    for node in cluster.nodes.values() {
        let mut watch = node.client.watch(request.clone()).await.unwrap();
        let own = key(node.name.as_str());
        let committed = node
            .client
            .propose(put(&own, Precondition::Absent, node.id))
            .await
            .unwrap();
        assert_eq!(value(&outsider.read(&own).await.unwrap().unwrap()), node.id);
        let mut expected = 1;
        while expected <= committed.revisions[0].0 {
            match watch.next().await.unwrap() {
                WatchItem::Event(event) => {
                    assert_eq!(event.revision.0, expected);
                    expected += 1;
                }
                WatchItem::Progress(_) => {}
                WatchItem::Lost(error) => panic!("{error}"),
            }
        }
    }
    assert_eq!(outsider.list(ListRequest::all("pods")).await.unwrap().items.len(), 4);
    cluster.stop_all().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_reads_its_own_replica_and_asks_once_for_all_who_wait() {
    let directory = tempfile::tempdir().unwrap();
    let mut cluster = Cluster::new(directory.path());
    cluster.form(3).await;
    let leader = cluster.leader().await;
    let writer = cluster.nodes[&leader].client.clone();
    let follower = cluster.nodes.values().find(|node| node.id != leader).unwrap();
    for round in 0..20 {
        let own = key(format!("k{round}"));
        writer.propose(put(&own, Precondition::Absent, round)).await.unwrap();
        let read = follower.client.read(&own).await.unwrap();
        assert_eq!(value(&read.expect("it was acknowledged before")), round);
        let listed = follower.client.list(ListRequest::all("pods")).await.unwrap();
        assert_eq!(listed.items.len() as u64, round + 1);
    }
    let asked = cluster.mesh.store_calls(&name(leader));
    let own = key("k0");
    let reads = (0..1_000).map(|_| follower.client.read(&own));
    let reads = futures::future::join_all(reads).await;
    assert!(reads.iter().all(|read| read.as_ref().is_ok_and(Option::is_some)));
    let asked = cluster.mesh.store_calls(&name(leader)) - asked;
    assert!(asked < 100, "{asked} questions for 1,000 reads");
    let bodies = follower.client.bodies(ListRequest::all("pods")).await.unwrap();
    let parts: Vec<_> = bodies.parts.collect().await;
    let objects: u64 = parts.iter().map(|part| part.as_ref().unwrap().objects).sum();
    assert_eq!((objects, bodies.read.await), (20, 20));
    cluster.stop_all().await;
}

/// The leader may read by its lease although it was cut off: it counts on every voter that has heard it, and one that is
/// restarted does not remember when that was.
#[tokio::test(flavor = "multi_thread")]
async fn voters_that_were_restarted_elect_nobody_while_the_old_leader_may_have_a_lease() {
    let directory = tempfile::tempdir().unwrap();
    let mut cluster = Cluster::new(directory.path());
    cluster.form(3).await;
    let leader = cluster.leader().await;
    let others: Vec<u64> = cluster.nodes.keys().copied().filter(|id| *id != leader).collect();
    cluster.mesh.isolate(&name(leader), &cluster.names());
    for id in &others {
        cluster.stop(*id).await;
    }
    let mut started = Instant::now();
    for id in &others {
        started = Instant::now();
        cluster.start(*id).await;
    }
    cluster.leader_among(&others).await;
    let election_max = Duration::from_millis(Timings::default().election_max_ms);
    assert!(started.elapsed() >= election_max, "{:?}", started.elapsed());
    cluster.mesh.heal();
    cluster.stop_all().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_list_from_elsewhere_comes_whole() {
    let directory = tempfile::tempdir().unwrap();
    let mut cluster = Cluster::new(directory.path());
    cluster.form(1).await;
    let count = 9_000;
    let proposals = (0..count)
        .map(|number| put(&key(format!("p{number:05}")), Precondition::Absent, 1))
        .collect();
    assert!(
        cluster.nodes[&1]
            .client
            .propose_all(proposals)
            .await
            .iter()
            .all(Result::is_ok)
    );
    let outsider = cluster.client(&name(9), None);
    let page = outsider.list(ListRequest::all("pods")).await.unwrap();
    assert_eq!((page.items.len(), page.more), (count, false));
    let page = outsider
        .list(ListRequest {
            limit: 5_000,
            ..ListRequest::all("pods")
        })
        .await
        .unwrap();
    assert_eq!(
        (page.items.len(), page.more, page.remaining),
        (5_000, true, Some(4_000))
    );
    cluster.stop_all().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn writes_go_on_soon_after_the_leader_is_lost() {
    let directory = tempfile::tempdir().unwrap();
    let mut cluster = Cluster::new(directory.path());
    cluster.form(3).await;
    let outsider = cluster.client(&name(9), None);
    for number in 0..20 {
        outsider
            .propose(put(&key(format!("before{number}")), Precondition::Absent, number))
            .await
            .unwrap();
    }
    let leader = cluster.leader().await;
    let lost = cluster.nodes[&leader].name.clone();
    let mut watch = cluster.nodes[&leader].consensus.subscribe(Revision(20)).await.unwrap();
    cluster.mesh.isolate(&lost, &[cluster.names(), vec![name(9)]].concat());
    let begun = Instant::now();
    let mut attempts = 0;
    while outsider
        .propose(put(&key("after"), Precondition::None, attempts))
        .await
        .is_err()
    {
        attempts += 1;
    }
    let gap = begun.elapsed();
    assert!(
        gap < Duration::from_secs(3),
        "writes were accepted again only after {gap:?}"
    );
    // The old leader notices and no longer serves.
    let ended = tokio::time::timeout(Duration::from_secs(10), async { while watch.next().await.is_some() {} }).await;
    ended.expect("the lost leader still serves a subscription");
    let listed = outsider.list(ListRequest::all("pods")).await.unwrap();
    assert_eq!(listed.items.len(), 21);
    // It rejoins and catches up.
    cluster.mesh.heal();
    let old = &cluster.nodes[&leader];
    wait_for("the old leader to follow", || {
        let status = old.consensus.status();
        !status.is_leader && status.leader.is_some_and(|leader| leader != old.name)
    })
    .await;
    assert_eq!(old.client.list(ListRequest::all("pods")).await.unwrap().items.len(), 21);
    cluster.stop_all().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_minority_neither_commits_nor_answers_reads() {
    let directory = tempfile::tempdir().unwrap();
    let mut cluster = Cluster::new(directory.path());
    cluster.form(3).await;
    let leader = cluster.leader().await;
    let lost = cluster.nodes[&leader].name.clone();
    cluster.nodes[&leader]
        .client
        .propose(put(&key("x"), Precondition::Absent, 1))
        .await
        .unwrap();
    cluster.mesh.isolate(&lost, &cluster.names());
    let minority = cluster.nodes[&leader].client.clone();
    let x = key("x");
    let others: Vec<u64> = cluster.nodes.keys().copied().filter(|id| *id != leader).collect();
    // As soon as there may be another leader, what this one has may be old.
    let reading = async {
        cluster.leader_among(&others).await;
        minority.read(&x).await
    };
    let (written, read) = tokio::join!(minority.propose(put(&x, Precondition::None, 2)), reading);
    assert!(
        matches!(
            written,
            Err(ProposeError::Unknown { .. } | ProposeError::NoLeader { .. })
        ),
        "{written:?}"
    );
    assert!(read.is_err(), "{read:?}");
    let new = cluster.leader_among(&others).await;
    cluster.nodes[&new]
        .client
        .propose(put(&key("x"), Precondition::Revision(Revision(1)), 3))
        .await
        .unwrap();
    cluster.mesh.heal();
    wait_for("the minority to follow", || {
        cluster.nodes[&leader].consensus.status().leader == Some(name(new))
    })
    .await;
    assert_eq!(value(&minority.read(&key("x")).await.unwrap().unwrap()), 3);
    cluster.stop_all().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_voter_is_replaced_in_one_step() {
    let directory = tempfile::tempdir().unwrap();
    let mut cluster = Cluster::new(directory.path());
    cluster.form(3).await;
    let leader = cluster.leader().await;
    cluster.nodes[&leader]
        .client
        .propose(put(&key("x"), Precondition::Absent, 1))
        .await
        .unwrap();
    let dead = *cluster.nodes.keys().find(|id| **id != leader).unwrap();
    cluster.stop(dead).await;
    cluster.start(4).await;
    let voters: BTreeMap<_, _> = [1, 2, 3, 4]
        .into_iter()
        .filter(|id| *id != dead)
        .map(|id| (id, name(id)))
        .collect();
    cluster.nodes[&leader]
        .consensus
        .change_voters(voters.clone())
        .await
        .unwrap();
    let leading = &cluster.nodes[&leader].consensus;
    wait_for("the new voters", || {
        leading.status().voters == voters && !leading.status().changing
    })
    .await;
    // The new voter counts: the cluster survives the loss of another old one.
    let other = *cluster.nodes.keys().find(|id| **id != leader && **id != 4).unwrap();
    cluster.stop(other).await;
    cluster.nodes[&4]
        .client
        .propose(put(&key("x"), Precondition::Revision(Revision(1)), 2))
        .await
        .unwrap();
    cluster.stop_all().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_learner_gets_a_snapshot_when_the_log_was_purged() {
    let directory = tempfile::tempdir().unwrap();
    let mut cluster = Cluster::new(directory.path());
    cluster.configure = |config| {
        config.retention.log_bytes = 200 << 10;
        config.retention.log_kept_bytes = 20 << 10;
    };
    cluster.form(1).await;
    let node = &cluster.nodes[&1];
    for round in 0..20 {
        let proposals = (0..100)
            .map(|n| put(&key(format!("r{round}-{n}")), Precondition::Absent, n))
            .collect();
        assert!(node.client.propose_all(proposals).await.iter().all(Result::is_ok));
    }
    wait_for("the log to be purged", || node.consensus.progress().purged > 10).await;
    cluster.start(2).await;
    cluster.nodes[&1].consensus.add_voter(2, name(2)).await.unwrap();
    // The old voter goes; the new one has everything.
    cluster.nodes[&1].consensus.step_down().await;
    let leader = cluster.leader().await;
    cluster.nodes[&leader]
        .consensus
        .remove(&name(3 - leader))
        .await
        .unwrap();
    let (leaves, stays) = (3 - leader, leader);
    cluster.stop(leaves).await;
    let stays = &cluster.nodes[&stays];
    assert_eq!(
        stays.client.list(ListRequest::all("pods")).await.unwrap().items.len(),
        2000
    );
    stays
        .client
        .propose(put(&key("more"), Precondition::Absent, 1))
        .await
        .unwrap();
    cluster.stop_all().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_lead_is_handed_over_without_an_unknown_outcome() {
    let directory = tempfile::tempdir().unwrap();
    let mut cluster = Cluster::new(directory.path());
    cluster.form(3).await;
    let leader = cluster.leader().await;
    let outsider = cluster.client(&name(9), None);
    let writing = tokio::spawn(async move {
        for number in 0..400 {
            outsider
                .propose(put(&key(format!("w{number}")), Precondition::Absent, number))
                .await
                .unwrap();
        }
    });
    assert!(cluster.nodes[&leader].consensus.step_down().await);
    assert_ne!(cluster.leader().await, leader);
    writing.await.unwrap();
    cluster.stop_all().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_data_directory_in_use_or_of_another_member_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let mut cluster = Cluster::new(directory.path());
    cluster.form(1).await;
    let start = |id: u64| {
        let config = consensus::ConsensusConfig::new(name(1), id, directory.path().join("n1"));
        consensus::Consensus::start(config, cluster.mesh.transport(&name(1)))
    };
    let error = start(1).await.err().unwrap().to_string();
    assert!(
        error.contains("in use by process") && error.contains(&std::process::id().to_string()),
        "{error}"
    );
    cluster.stop(1).await;
    let config = consensus::ConsensusConfig::new(name(1), 7, directory.path().join("n1"));
    let error = consensus::Consensus::start(config, cluster.mesh.transport(&name(1)))
        .await
        .err()
        .unwrap();
    assert!(error.to_string().contains("belongs to member 1"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_single_voter_leads_again_soon_after_its_restart() {
    let directory = tempfile::tempdir().unwrap();
    let mut cluster = Cluster::new(directory.path());
    cluster.form(1).await;
    cluster.nodes[&1]
        .client
        .propose(put(&key("a"), Precondition::Absent, 1))
        .await
        .unwrap();
    cluster.stop(1).await;
    let begun = Instant::now();
    cluster.start(1).await;
    assert_eq!(
        value(&cluster.nodes[&1].client.read(&key("a")).await.unwrap().unwrap()),
        1
    );
    let taken = begun.elapsed();
    assert!(taken < Duration::from_millis(600), "it took {taken:?}");
    cluster.stop_all().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proposal_that_is_too_large_is_refused_alone() {
    let directory = tempfile::tempdir().unwrap();
    let mut cluster = Cluster::new(directory.path());
    cluster.form(1).await;
    let large = key("large");
    let write = protocol::store::Write::Put {
        key: large.clone(),
        precondition: Precondition::Absent,
        draft: draft(&large, 1, consensus::PROPOSAL_BYTES_MAX + 1000),
    };
    let proposals = vec![
        put(&key("a"), Precondition::Absent, 1),
        protocol::store::Proposal::one(protocol::Cause(1), write),
        put(&key("b"), Precondition::Absent, 1),
    ];
    let outcomes = cluster.nodes[&1].client.propose_all(proposals).await;
    assert!(
        matches!(outcomes[1], Err(ProposeError::TooLarge { .. })),
        "{outcomes:?}"
    );
    assert!(outcomes[0].is_ok() && outcomes[2].is_ok(), "{outcomes:?}");
    cluster.stop_all().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_that_its_leader_could_not_finish_is_finished_by_the_next() {
    let directory = tempfile::tempdir().unwrap();
    let mut cluster = Cluster::new(directory.path());
    cluster.form(3).await;
    cluster.start(4).await;
    cluster.nodes[&cluster.leader().await]
        .consensus
        .add_learner(4, name(4))
        .await
        .unwrap();
    let leader = cluster.leader().await;
    let dead = *cluster.nodes.keys().find(|id| **id != leader && **id != 4).unwrap();
    let voters: BTreeMap<_, _> = (1..=4).filter(|id| *id != dead).map(|id| (id, name(id))).collect();
    let consensus = cluster.nodes[&leader].consensus.clone();
    let change = tokio::spawn(async move { consensus.change_voters(voters).await });
    wait_for("the joint configuration", || {
        let status = cluster.nodes[&leader].consensus.status();
        status.changing || status.voters.contains_key(&4)
    })
    .await;
    cluster.mesh.isolate(&name(leader), &cluster.names());
    let others: Vec<u64> = cluster.nodes.keys().copied().filter(|id| *id != leader).collect();
    let next = cluster.leader_among(&others).await;
    wait_for("a single set of voters", || {
        !cluster.nodes[&next].consensus.status().changing
    })
    .await;
    change.abort();
    let _ = change.await;
    cluster.mesh.heal();
    cluster.nodes[&next]
        .client
        .propose(put(&key("after"), Precondition::Absent, 1))
        .await
        .unwrap();
    cluster.stop_all().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn membership_changes_that_cannot_work_are_refused() {
    use consensus::MembershipError;
    let directory = tempfile::tempdir().unwrap();
    let mut cluster = Cluster::new(directory.path());
    cluster.form(3).await;
    let leader = cluster.leader().await;
    let leading = cluster.nodes[&leader].consensus.clone();
    let follower = cluster.nodes.values().find(|node| node.id != leader).unwrap();
    let error = follower.consensus.remove(&name(leader)).await.unwrap_err();
    assert_eq!(
        error,
        MembershipError::NotLeader {
            hint: Some(name(leader))
        }
    );
    let error = leading.add_voter(77, name(2)).await.unwrap_err();
    assert_eq!(
        error,
        MembershipError::Duplicate {
            node: name(2),
            raft_id: 2
        }
    );
    let error = leading.add_voter(2, name(8)).await.unwrap_err();
    assert!(matches!(error, MembershipError::Duplicate { .. }), "{error}");
    for id in (1..=3).filter(|id| *id != leader) {
        leading.remove(&name(id)).await.unwrap();
    }
    let error = leading.remove(&name(leader)).await.unwrap_err();
    assert_eq!(error, MembershipError::LastVoter { node: name(leader) });
    drop(leading);
    cluster.stop_all().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn voters_that_could_not_decide_are_not_put_in_charge() {
    use consensus::MembershipError;
    let directory = tempfile::tempdir().unwrap();
    let mut cluster = Cluster::new(directory.path());
    cluster.form(3).await;
    let leader = cluster.leader().await;
    let leading = cluster.nodes[&leader].consensus.clone();
    let dead = *cluster.nodes.keys().find(|id| **id != leader).unwrap();
    let alive = *cluster.nodes.keys().find(|id| **id != leader && **id != dead).unwrap();
    cluster.stop(dead).await;
    let refused = MembershipError::NoLiveMajority {
        silent: vec![name(dead)],
        deadline_ms: 3000,
    };
    assert_eq!(leading.remove(&name(alive)).await.unwrap_err(), refused);
    let pair = BTreeMap::from([(leader, name(leader)), (dead, name(dead))]);
    assert_eq!(leading.change_voters(pair).await.unwrap_err(), refused);
    cluster.nodes[&alive]
        .client
        .propose(put(&key("a"), Precondition::Absent, 1))
        .await
        .unwrap();
    leading.remove(&name(dead)).await.unwrap();
    drop(leading);
    cluster.stop_all().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_is_removed_hands_over_to_the_others() {
    let directory = tempfile::tempdir().unwrap();
    let mut cluster = Cluster::new(directory.path());
    cluster.form(3).await;
    let leader = cluster.leader().await;
    cluster.nodes[&leader].consensus.remove(&name(leader)).await.unwrap();
    cluster.stop(leader).await;
    let next = cluster.leader().await;
    assert_eq!(cluster.nodes[&next].consensus.status().voters.len(), 2);
    cluster
        .client(&name(9), None)
        .propose(put(&key("a"), Precondition::Absent, 1))
        .await
        .unwrap();
    cluster.stop_all().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_voter_that_was_replaced_while_it_was_away_is_told_so_and_costs_nobody_the_lead() {
    let directory = tempfile::tempdir().unwrap();
    let mut cluster = Cluster::new(directory.path());
    cluster.form(3).await;
    let leader = cluster.leader().await;
    let removed = *cluster.nodes.keys().find(|id| **id != leader).unwrap();
    cluster.stop(removed).await;
    cluster.start(4).await;
    let voters = |without: u64| -> BTreeMap<u64, NodeName> {
        let ids = [1, 2, 3, 4].into_iter().filter(|id| *id != without);
        ids.map(|id| (id, name(id))).collect()
    };
    let leading = cluster.nodes[&leader].consensus.clone();
    leading.change_voters(voters(removed)).await.unwrap();
    let term = leading.status().term;
    cluster.start(removed).await;
    let returned = cluster.nodes[&removed].consensus.clone();
    wait_for("the returned node to be told", || returned.status().removed).await;
    assert!(!returned.is_member());
    // It has what any machine has: the store, through the leader.
    let client = &cluster.nodes[&removed].client;
    client.propose(put(&key("x"), Precondition::Absent, 1)).await.unwrap();
    assert_eq!(value(&client.read(&key("x")).await.unwrap().unwrap()), 1);
    // Longer than two of its elections would take.
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!((leading.status().is_leader, leading.status().term), (true, term));
    // It is chosen again, in the place of another one, and the leader goes on leading.
    let other = *cluster
        .nodes
        .keys()
        .find(|id| **id != leader && **id != removed)
        .unwrap();
    cluster.stop(other).await;
    leading.change_voters(voters(other)).await.unwrap();
    wait_for("the returned node to take part again", || {
        let status = returned.status();
        !status.removed && status.is_voter(&name(removed)) && status.leader == Some(name(leader))
    })
    .await;
    assert_eq!((leading.status().is_leader, leading.status().term), (true, term));
    drop((leading, returned));
    cluster.stop_all().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_learner_that_was_removed_does_not_ask_its_last_leader_for_ever() {
    let directory = tempfile::tempdir().unwrap();
    let mut cluster = Cluster::new(directory.path());
    cluster.form(3).await;
    cluster.start(4).await;
    let leader = cluster.leader().await;
    let leading = cluster.nodes[&leader].consensus.clone();
    leading.add_learner(4, name(4)).await.unwrap();
    let learner = cluster.nodes[&4].client.clone();
    learner.read(&key("x")).await.unwrap();
    leading.remove(&name(4)).await.unwrap();
    drop(leading);
    cluster.stop(leader).await;
    let rest: Vec<u64> = cluster.nodes.keys().copied().filter(|id| *id != 4).collect();
    cluster.leader_among(&rest).await;
    // The first call finds the new leader; the others must go straight to it.
    learner.read(&key("x")).await.unwrap();
    let asked = cluster.mesh.store_calls(&name(leader));
    for _ in 0..10 {
        learner.read(&key("x")).await.unwrap();
    }
    assert_eq!(cluster.mesh.store_calls(&name(leader)), asked);
    drop(learner);
    cluster.stop_all().await;
}
