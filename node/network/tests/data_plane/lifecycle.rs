//! Restart, damage, teardown, and missing rights.

use std::{
    io::{Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    time::Instant,
};

use network::{NetNamespace, PodNetwork, ServiceChange, ServiceRule};

use crate::nodes::{Node, PATIENCE, Pod, ask, join, runtime, service};

#[tokio::test]
async fn a_new_process_adopts_what_the_killed_one_left() {
    let node = Node::new(1);
    let network = node.open();
    let (server, client) = (Pod::on(&network, "server").await, Pod::on(&network, "client").await);
    let _server = server.serve(8080);
    network
        .sync_services(&[
            service(7, 80, vec![server.endpoint(8080)]),
            service(8, 80, vec![server.endpoint(8080)]),
        ])
        .await
        .unwrap();
    let links_before = node.links();
    // A killed process runs no clean-up; forgetting the value runs none either.
    std::mem::forget(network);

    let network = node.open();
    assert_eq!(node.links(), links_before);
    for number in [7, 8] {
        assert_eq!(
            ask(&client.namespace, Ipv4Addr::new(10, 96, 0, number), 80).unwrap().0,
            "server"
        );
    }
    let attached = network.attached().await.unwrap();
    assert_eq!(
        attached
            .iter()
            .map(|pod| (pod.pod_uid.as_str(), pod.link_present))
            .collect::<Vec<_>>(),
        [("server", true), ("client", true)]
    );
    let again = network
        .attach_pod("server", NetNamespace::Path(server.namespace.path()))
        .await
        .unwrap();
    assert_eq!(again, server.address);
    assert_eq!(node.links(), links_before, "attaching again changes nothing");
    let other = Pod::on(&network, "other").await;
    assert!(![server.address.ip, client.address.ip].contains(&other.address.ip));

    let table = |node: &Node| node.namespace.sh("nft", "list table inet actorium").1;
    let before = table(&node);
    network
        .sync_services(&[
            service(7, 80, vec![server.endpoint(8080)]),
            service(8, 80, vec![server.endpoint(8080)]),
        ])
        .await
        .unwrap();
    assert_eq!(table(&node), before, "what is right already is not touched");
    network
        .sync_services(&[service(7, 80, vec![server.endpoint(8080)])])
        .await
        .unwrap();
    assert_eq!(
        ask(&client.namespace, Ipv4Addr::new(10, 96, 0, 7), 80).unwrap().0,
        "server"
    );
    assert!(ask(&client.namespace, Ipv4Addr::new(10, 96, 0, 8), 80).is_err());
    assert_eq!(table(&node).matches("chain svc-").count(), 1);
}

#[tokio::test]
async fn connections_survive_a_restart_and_changes_of_other_services() {
    let node = Node::new(1);
    let network = node.open();
    let (server, client) = (Pod::on(&network, "server").await, Pod::on(&network, "client").await);
    let rule = service(7, 80, vec![server.endpoint(8080)]);
    network.set_service(rule.clone()).await.unwrap();
    let echo = server.namespace.enter(|| {
        let (mut stream, _) = TcpListener::bind("0.0.0.0:8080").unwrap().accept().unwrap();
        let mut byte = [0];
        while stream.read(&mut byte).unwrap() == 1 {
            stream.write_all(&byte).unwrap();
        }
    });
    let (steps, step) = std::sync::mpsc::channel::<()>();
    let (answers, answer) = std::sync::mpsc::channel::<()>();
    let talk = client.namespace.enter(move || {
        let target = SocketAddr::from((rule.cluster_ip, 80));
        let deadline = Instant::now() + PATIENCE;
        let mut stream = loop {
            match TcpStream::connect_timeout(&target, PATIENCE) {
                Ok(stream) => break stream,
                Err(error) => assert!(Instant::now() < deadline, "{error}"),
            }
        };
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        while step.recv().is_ok() {
            let mut byte = [0];
            stream.write_all(b"x").unwrap();
            stream.read_exact(&mut byte).unwrap();
            answers.send(()).unwrap();
        }
    });
    let echoes = || {
        steps.send(()).unwrap();
        answer.recv_timeout(PATIENCE).expect("the connection is alive");
    };
    echoes();
    network
        .apply_services(&[ServiceChange::Set(service(8, 80, vec![server.endpoint(1)]))])
        .await
        .unwrap();
    echoes();
    std::mem::forget(network);
    let network = node.open();
    echoes();
    network.sync_services(&[]).await.unwrap();
    echoes();
    drop(steps);
    talk.join().unwrap();
    echo.join().unwrap();
}

#[tokio::test]
async fn damage_by_others_is_repaired() {
    let node = Node::new(1);
    let network = node.open();
    let (server, client) = (Pod::on(&network, "server").await, Pod::on(&network, "client").await);
    let _server = server.serve(8080);
    let rule = service(7, 80, vec![server.endpoint(8080)]);
    network.set_service(rule.clone()).await.unwrap();
    assert!(!network.repair().await.unwrap(), "nothing is wrong");
    let works = || ask(&client.namespace, rule.cluster_ip, 80).is_ok();

    assert!(node.namespace.sh("nft", "flush ruleset").0);
    assert!(!works());
    assert!(network.repair().await.unwrap());
    assert!(works());

    // A change of another service finds the damage by itself, also when nft has pages to say about it.
    let many: Vec<ServiceRule> = (10..210)
        .map(|number| service(number, 80, vec![server.endpoint(8080)]))
        .collect();
    network.sync_services(&many).await.unwrap();
    assert!(node.namespace.sh("nft", "flush ruleset").0);
    network.sync_services(std::slice::from_ref(&rule)).await.unwrap();
    assert!(works());
    assert!(node.namespace.sh("nft", "flush ruleset").0);
    network
        .set_service(service(8, 80, vec![server.endpoint(8080)]))
        .await
        .unwrap();
    assert!(works());

    assert!(node.namespace.sh("ip", "link delete act0").0);
    assert!(node.namespace.sh("sysctl", "-q -w net.ipv4.ip_forward=0").0);
    assert!(!works());
    network.repair().await.unwrap();
    assert!(works());
}

#[tokio::test]
async fn teardown_leaves_nothing() {
    let (a, b) = (Node::new(1), Node::new(2));
    join(&a, &b);
    let facts = |node: &Node| {
        let mut all = node.links().join("\n");
        for (program, arguments) in [("ip", "-4 route"), ("ip", "-4 -o addr"), ("nft", "list ruleset")] {
            all += &node.namespace.sh(program, arguments).1;
        }
        // The cable's carrier may come up at any time.
        all.replace(" linkdown", "")
    };
    // The cable's own links and addresses are there before and after.
    let before = facts(&a);
    let network = a.open();
    let pod = Pod::on(&network, "pod").await;
    network.set_routes(&[b.peer()]).await.unwrap();
    network.add_local_address(Ipv4Addr::new(10, 96, 0, 10)).await.unwrap();
    network
        .set_service(ServiceRule {
            node_port: Some(30080),
            session_affinity_s: Some(60),
            ..service(7, 80, vec![pod.endpoint(80)])
        })
        .await
        .unwrap();
    assert_ne!(facts(&a), before);
    network.tear_down().await.unwrap();
    assert_eq!(facts(&a), before);
    assert_eq!(std::fs::read_dir(a.state.path()).unwrap().count(), 0);
}

#[tokio::test]
async fn without_root_the_error_says_what_is_needed() {
    let node = Node::new(1);
    let config = node.config();
    // In the node's own namespace, so that nothing else could be touched if the rights were not taken.
    let error = node.namespace.run(move || {
        drop_capabilities();
        runtime()
            .block_on(PodNetwork::open(config))
            .map(drop)
            .unwrap_err()
            .to_string()
    });
    assert!(error.contains("root") && error.contains("CAP_NET_ADMIN"), "{error}");
}

/// Takes all capabilities from the calling thread.
fn drop_capabilities() {
    #[repr(C)]
    struct Header {
        version: u32,
        pid: i32,
    }
    #[repr(C)]
    #[derive(Clone, Copy)]
    struct Sets {
        effective: u32,
        permitted: u32,
        inheritable: u32,
    }
    // The version number of the call with 64-bit sets, from linux/capability.h.
    let header = Header {
        version: 0x2008_0522,
        pid: 0,
    };
    let none = [Sets {
        effective: 0,
        permitted: 0,
        inheritable: 0,
    }; 2];
    // SAFETY: the kernel only reads a header and two sets, both of the layout that capset(2) gives.
    let outcome = unsafe { nix::libc::syscall(nix::libc::SYS_capset, &raw const header, &raw const none) };
    assert_eq!(outcome, 0, "{}", std::io::Error::last_os_error());
}
