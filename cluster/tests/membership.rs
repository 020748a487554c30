//! Membership over real sockets: members find each other, a death and a partition are noticed and healed, addresses are
//! remembered across restarts. How fast it is under every condition, `membership_simulation` shows.
#![allow(clippy::disallowed_methods, reason = "tests measure time")]

mod support;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use cluster::membership::{MemberEvent, MemberFacts, MemberStatus, Membership, MembershipOptions};
use cluster::{Mesh, membership};
use protocol::NodeName;
use support::{LossySocket, TestAuthority, eventually, name};

const SECOND: Duration = Duration::from_secs(1);

struct Node {
    mesh: Mesh,
    socket: Arc<LossySocket>,
    membership: Membership,
}

fn start(authority: &TestAuthority, node: &str, seeds: Vec<(NodeName, SocketAddr)>, memory: Option<PathBuf>) -> Node {
    let (mesh, socket) = authority.lossy_mesh(node);
    let options = MembershipOptions {
        address: mesh.local_address(),
        facts: MemberFacts {
            zone: format!("zone-{node}"),
            ..MemberFacts::default()
        },
        seeds,
        memory,
    };
    let membership = Membership::start(&mesh, options);
    Node {
        mesh,
        socket,
        membership,
    }
}

fn cluster(size: usize) -> Vec<Node> {
    let authority = TestAuthority::new();
    let mut nodes: Vec<Node> = Vec::new();
    for number in 1..=size {
        let seeds = nodes
            .first()
            .map(|first| (first.mesh.name().clone(), first.mesh.local_address()));
        nodes.push(start(
            &authority,
            &format!("n{number}"),
            seeds.into_iter().collect(),
            None,
        ));
    }
    nodes
}

fn living(node: &Node) -> usize {
    node.membership
        .members()
        .iter()
        .filter(|member| member.status.is_live())
        .count()
}

fn sees(node: &Node, whom: &str) -> Option<MemberStatus> {
    node.membership.member(&name(whom)).map(|member| member.status)
}

async fn all_see(nodes: &[Node], count: usize) -> Duration {
    eventually("all see all", 10 * SECOND, || {
        nodes.iter().all(|node| living(node) == count)
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_death_is_noticed_and_told_and_what_waits_on_the_dead_ends() {
    let nodes = cluster(3);
    println!("three members found each other after {:?}", all_see(&nodes, 3).await);
    assert_eq!(nodes[0].membership.member(&name("n3")).unwrap().facts.zone, "zone-n3");
    let mut events = nodes[0].membership.subscribe();
    nodes[2].socket.cut_off(true);
    let noticed = eventually("the death is noticed", 6 * SECOND, || {
        nodes[..2]
            .iter()
            .all(|node| sees(node, "n3") == Some(MemberStatus::Down))
    });
    let noticed = noticed.await;
    println!("a death was noticed by all after {noticed:?}");
    assert!(noticed <= 4 * SECOND, "{noticed:?}");
    let mut told = Vec::new();
    while let Ok(event) = events.try_recv() {
        told.push(event);
    }
    assert!(
        matches!(told.last(), Some(MemberEvent::Down(member)) if member.name == name("n3")),
        "{told:?}"
    );
    // The one that was cut off comes back by itself.
    nodes[2].socket.cut_off(false);
    println!("it was back after {:?}", all_see(&nodes, 3).await);
    let back = tokio::time::timeout(SECOND, async {
        loop {
            if let MemberEvent::Joined(member) = events.recv().await.unwrap() {
                return member.name;
            }
        }
    });
    assert_eq!(back.await.unwrap(), name("n3"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_island_of_a_partition_finds_back() {
    let nodes = cluster(3);
    all_see(&nodes, 3).await;
    // n1 loses everything to and from the others, in both directions; they keep each other.
    for other in &nodes[1..] {
        nodes[0].socket.block(other.mesh.local_address());
    }
    eventually("both sides see the split", 8 * SECOND, || {
        living(&nodes[0]) == 1 && nodes[1..].iter().all(|node| living(node) == 2)
    })
    .await;
    nodes[0].socket.unblock_all();
    let healed = all_see(&nodes, 3).await;
    println!("the partition was healed after {healed:?}");
    assert!(healed < 5 * SECOND);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_is_declared_dead_while_the_machine_is_overloaded() {
    let nodes = cluster(3);
    all_see(&nodes, 3).await;
    let mut events: Vec<_> = nodes.iter().map(|node| node.membership.subscribe()).collect();
    // Four threads for each core, a second and a half.
    let threads = 4 * std::thread::available_parallelism().unwrap().get();
    let until = Instant::now() + Duration::from_millis(1500);
    let spinning: Vec<_> = (0..threads)
        .map(|_| {
            std::thread::spawn(move || {
                while Instant::now() < until {
                    std::hint::spin_loop();
                }
            })
        })
        .collect();
    tokio::task::spawn_blocking(move || spinning.into_iter().for_each(|thread| thread.join().unwrap()))
        .await
        .unwrap();
    // As long again as a suspicion lasts.
    let watched = Instant::now() + 3 * SECOND;
    while Instant::now() < watched {
        for events in &mut events {
            if let Ok(MemberEvent::Down(member)) = events.try_recv() {
                panic!("{} was declared dead", member.name);
            }
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(nodes.iter().all(|node| living(node) == 3));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_leaves_is_said_to_have_left() {
    let nodes = cluster(3);
    all_see(&nodes, 3).await;
    nodes[2].membership.leave().await;
    eventually("the leave is told", SECOND, || {
        nodes[..2]
            .iter()
            .all(|node| sees(node, "n3") == Some(MemberStatus::Left))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn new_facts_are_told() {
    let nodes = cluster(2);
    all_see(&nodes, 2).await;
    nodes[1]
        .membership
        .set_facts(MemberFacts {
            raft_id: 42,
            ..MemberFacts::default()
        })
        .await;
    eventually("the fact is told", 2 * SECOND, || {
        nodes[0]
            .membership
            .member(&name("n2"))
            .is_some_and(|member| member.facts.raft_id == 42)
    })
    .await;
    assert_eq!(sees(&nodes[0], "n2"), Some(MemberStatus::Alive));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_are_remembered_when_all_are_started_again() {
    let directory = tempfile::tempdir().unwrap();
    let authority = TestAuthority::new();
    let memory = |node: &str| Some(directory.path().join(node));
    let first = start(&authority, "n1", vec![], memory("n1"));
    let seeds = vec![(name("n1"), first.mesh.local_address())];
    let second = start(&authority, "n2", seeds, memory("n2"));
    let (one, two) = (first.mesh.local_address(), second.mesh.local_address());
    let before = first.membership.member(&name("n1")).unwrap().incarnation;
    let nodes = [first, second];
    all_see(&nodes, 2).await;
    for node in &nodes {
        node.mesh.close().await;
    }
    drop(nodes);
    // The same names at the same addresses, without seeds.
    let again = |node: &str, address: SocketAddr| {
        let identity = authority.identity(node);
        let memory = memory(node);
        async move {
            let limit = Instant::now() + 5 * SECOND;
            let mesh = loop {
                match Mesh::start(&identity, address) {
                    Ok(mesh) => break mesh,
                    Err(error) => assert!(Instant::now() < limit, "{error}"),
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            };
            let options = MembershipOptions {
                address,
                facts: MemberFacts::default(),
                seeds: vec![],
                memory,
            };
            let membership = Membership::start(&mesh, options);
            (mesh, membership)
        }
    };
    let (_mesh_one, one) = again("n1", one).await;
    let (_mesh_two, two) = again("n2", two).await;
    let live = |membership: &membership::Membership| {
        membership
            .members()
            .iter()
            .filter(|member| member.status.is_live())
            .count()
    };
    let found = eventually("they find each other again", 5 * SECOND, || {
        live(&one) == 2 && live(&two) == 2
    })
    .await;
    println!("found each other again after {found:?}");
    assert!(one.member(&name("n1")).unwrap().incarnation > before);
}
