//! Services: balance, refusal, node ports, affinity, UDP.

use std::{
    net::{Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket},
    sync::Arc,
    time::{Duration, Instant},
};

use network::{Protocol, ServiceRule};

use crate::nodes::{Node, PATIENCE, Pod, Server, ask, service, two_nodes};

#[tokio::test]
async fn a_service_is_balanced_over_its_endpoints_and_reached_from_pods_and_nodes() {
    let (a, on_a, _b, on_b) = two_nodes().await;
    let near = Pod::on(&on_a, "near").await;
    let far = Pod::on(&on_b, "far").await;
    let client = Pod::on(&on_a, "client").await;
    let _servers = (near.serve(8080), far.serve(8080));
    let rule = service(7, 80, vec![near.endpoint(8080), far.endpoint(8080)]);
    for network in [&on_a, &on_b] {
        network.set_service(rule.clone()).await.unwrap();
    }
    for (from, who) in [
        (&client.namespace, "a pod"),
        (&far.namespace, "a pod of the other node"),
        (&a.namespace, "the node"),
    ] {
        let mut served = std::collections::BTreeSet::new();
        // Forty draws miss one of two endpoints with a probability of 2^-39.
        for _ in 0..40 {
            served.insert(
                ask(from, rule.cluster_ip, 80)
                    .unwrap_or_else(|error| panic!("{who} cannot reach the service: {error}"))
                    .0,
            );
        }
        assert_eq!(
            served.into_iter().collect::<Vec<_>>(),
            ["far", "near"],
            "as seen from {who}"
        );
    }
    // A client keeps its address also towards an endpoint on its own node.
    on_a.set_service(service(7, 80, vec![near.endpoint(8080)]))
        .await
        .unwrap();
    assert_eq!(
        ask(&client.namespace, rule.cluster_ip, 80).unwrap(),
        ("near".into(), client.address.ip.to_string())
    );
}

#[tokio::test]
async fn a_pod_reaches_itself_through_its_service() {
    let node = Node::new(1);
    let network = node.open();
    let pod = Pod::on(&network, "alone").await;
    let _server = pod.serve(8080);
    network
        .set_service(service(7, 80, vec![pod.endpoint(8080)]))
        .await
        .unwrap();
    assert_eq!(ask(&pod.namespace, Ipv4Addr::new(10, 96, 0, 7), 80).unwrap().0, "alone");
}

#[tokio::test]
async fn endpoints_with_different_ports_are_all_used() {
    let node = Node::new(1);
    let network = node.open();
    let (one, two, client) = (
        Pod::on(&network, "one").await,
        Pod::on(&network, "two").await,
        Pod::on(&network, "client").await,
    );
    let _servers = (one.serve(8081), two.serve(8082));
    network
        .set_service(service(7, 80, vec![one.endpoint(8081), two.endpoint(8082)]))
        .await
        .unwrap();
    let served: std::collections::BTreeSet<String> = (0..40)
        .map(|_| ask(&client.namespace, Ipv4Addr::new(10, 96, 0, 7), 80).unwrap().0)
        .collect();
    assert_eq!(served.into_iter().collect::<Vec<_>>(), ["one", "two"]);
}

#[tokio::test]
async fn services_without_endpoints_and_unknown_ones_are_refused_at_once() {
    let node = Node::new(1);
    let network = node.open();
    let client = Pod::on(&network, "client").await;
    let _server = client.serve(8080);
    network
        .set_service(service(7, 80, vec![client.endpoint(8080)]))
        .await
        .unwrap();
    network.set_service(service(8, 80, vec![])).await.unwrap();
    for from in [&client.namespace, &node.namespace] {
        for (number, port) in [(8, 80), (7, 81), (99, 80)] {
            let started = Instant::now();
            let error = ask(from, Ipv4Addr::new(10, 96, 0, number), port).unwrap_err();
            assert_eq!(
                error.kind(),
                std::io::ErrorKind::ConnectionRefused,
                "10.96.0.{number}:{port} gave {error}"
            );
            assert!(started.elapsed() < Duration::from_secs(1));
        }
    }
    network.set_service(service(7, 80, vec![])).await.unwrap();
    assert_eq!(
        ask(&client.namespace, Ipv4Addr::new(10, 96, 0, 7), 80)
            .unwrap_err()
            .kind(),
        std::io::ErrorKind::ConnectionRefused
    );
}

#[tokio::test]
async fn a_node_port_leads_to_a_pod_on_any_node() {
    let (a, on_a, b, on_b) = two_nodes().await;
    let pod = Pod::on(&on_b, "pod").await;
    let _server = pod.serve(8080);
    let rule = ServiceRule {
        node_port: Some(30080),
        ..service(7, 80, vec![pod.endpoint(8080)])
    };
    for network in [&on_a, &on_b] {
        network.set_service(rule.clone()).await.unwrap();
    }
    // From the other node to both nodes' addresses, and from a node to its own.
    for (from, to) in [(&b, &a), (&a, &b), (&a, &a)] {
        assert_eq!(
            ask(&from.namespace, to.address(), 30080).unwrap().0,
            "pod",
            "from n{} to n{}",
            from.number,
            to.number
        );
    }
    on_a.remove_service(&rule.name).await.unwrap();
    assert_eq!(
        ask(&b.namespace, a.address(), 30080).unwrap_err().kind(),
        std::io::ErrorKind::ConnectionRefused
    );
}

#[tokio::test]
async fn session_affinity_keeps_a_client_at_its_endpoint() {
    let node = Node::new(1);
    let network = node.open();
    let (one, two) = (Pod::on(&network, "one").await, Pod::on(&network, "two").await);
    let clients = [
        Pod::on(&network, "c1").await,
        Pod::on(&network, "c2").await,
        Pod::on(&network, "c3").await,
    ];
    let _servers = (one.serve(8080), two.serve(8080));
    let rule = ServiceRule {
        session_affinity_s: Some(600),
        ..service(7, 80, vec![one.endpoint(8080), two.endpoint(8080)])
    };
    network.set_service(rule.clone()).await.unwrap();
    let mut chosen = Vec::new();
    for client in &clients {
        let first = ask(&client.namespace, rule.cluster_ip, 80).unwrap().0;
        for _ in 0..15 {
            assert_eq!(ask(&client.namespace, rule.cluster_ip, 80).unwrap().0, first);
        }
        chosen.push(first);
    }
    // A third endpoint moves nobody.
    let third = Pod::on(&network, "three").await;
    let _third = third.serve(8080);
    let wider = ServiceRule {
        endpoints: vec![one.endpoint(8080), two.endpoint(8080), third.endpoint(8080)],
        ..rule.clone()
    };
    network.set_service(wider).await.unwrap();
    for (client, chosen) in clients.iter().zip(chosen) {
        assert_eq!(ask(&client.namespace, rule.cluster_ip, 80).unwrap().0, chosen);
    }
    network.remove_service(&rule.name).await.unwrap();
    let (_, table) = node.namespace.sh("nft", "list table inet actorium");
    assert!(
        !table.contains("aff-") && !table.contains("svc-") && !table.contains("ep-"),
        "{table}"
    );
}

#[tokio::test]
async fn udp_services_work() {
    let node = Node::new(1);
    let network = node.open();
    let (server, client) = (Pod::on(&network, "server").await, Pod::on(&network, "client").await);
    let echo = server.namespace.enter(|| {
        let socket = UdpSocket::bind("0.0.0.0:5353").unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut buffer = [0; 64];
        let (length, from) = socket.recv_from(&mut buffer).unwrap();
        socket.send_to(&buffer[..length], from).unwrap();
    });
    let rule = ServiceRule {
        protocol: Protocol::Udp,
        ..service(7, 53, vec![server.endpoint(5353)])
    };
    network.set_service(rule.clone()).await.unwrap();
    let answered = client.namespace.run(move || {
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
        socket.connect((rule.cluster_ip, 53)).unwrap();
        let mut buffer = [0; 64];
        // The server thread may not listen at the first attempt.
        (0..20).any(|_| socket.send(b"hello").is_ok() && matches!(socket.recv(&mut buffer), Ok(5)))
    });
    assert!(answered);
    echo.join().unwrap();
}

#[tokio::test]
async fn a_udp_client_is_sent_to_another_endpoint_when_its_own_is_gone() {
    let node = Node::new(1);
    let network = node.open();
    let (old, new, client) = (
        Pod::on(&network, "old").await,
        Pod::on(&network, "new").await,
        Pod::on(&network, "client").await,
    );
    let receivers: Vec<UdpSocket> = [&old, &new]
        .map(|pod| {
            pod.namespace.run(|| {
                let socket = UdpSocket::bind("0.0.0.0:5353").unwrap();
                socket.set_read_timeout(Some(PATIENCE)).unwrap();
                socket
            })
        })
        .into();
    let rule = |pod: &Pod| ServiceRule {
        protocol: Protocol::Udp,
        ..service(7, 53, vec![pod.endpoint(5353)])
    };
    network.set_service(rule(&old)).await.unwrap();
    // One socket, so that all packets belong to one flow.
    let sender = client.namespace.run(|| UdpSocket::bind("0.0.0.0:4000").unwrap());
    let target = SocketAddr::from((Ipv4Addr::new(10, 96, 0, 7), 53));
    let mut buffer = [0; 16];
    sender.send_to(b"first", target).unwrap();
    assert_eq!(receivers[0].recv(&mut buffer).unwrap(), 5);
    network.set_service(rule(&new)).await.unwrap();
    sender.send_to(b"second", target).unwrap();
    assert_eq!(receivers[1].recv(&mut buffer).unwrap(), 6);
}

#[tokio::test]
async fn a_service_leads_to_programs_of_the_nodes_themselves() {
    // As the service `kubernetes` does: its endpoints are the nodes' own addresses.
    let (a, on_a, b, on_b) = two_nodes().await;
    let pod = Pod::on(&on_a, "pod").await;
    let _servers = [&a, &b].map(|node| Server::start(&node.namespace, format!("api{}", node.number), 6443));
    let endpoints = [&a, &b].map(|node| SocketAddrV4::new(node.address(), 6443));
    for network in [&on_a, &on_b] {
        network.set_service(service(1, 443, endpoints.to_vec())).await.unwrap();
    }
    for from in [&pod.namespace, &a.namespace, &b.namespace] {
        let served: std::collections::BTreeSet<String> = (0..40)
            .map(|_| ask(from, Ipv4Addr::new(10, 96, 0, 1), 443).unwrap().0)
            .collect();
        assert_eq!(served.into_iter().collect::<Vec<_>>(), ["api1", "api2"]);
    }
}

#[tokio::test]
async fn changes_that_come_together_are_all_in_force() {
    let node = Node::new(1);
    let network = Arc::new(node.open());
    let pod = Pod::on(&network, "pod").await;
    let _server = pod.serve(8080);
    let mut calls = tokio::task::JoinSet::new();
    for number in 1..=40 {
        let network = Arc::clone(&network);
        let rule = service(number, 80, vec![pod.endpoint(8080)]);
        calls.spawn(async move { network.set_service(rule).await });
    }
    while let Some(outcome) = calls.join_next().await {
        outcome.unwrap().unwrap();
    }
    for number in [1, 20, 40] {
        assert_eq!(
            ask(&pod.namespace, Ipv4Addr::new(10, 96, 0, number), 80).unwrap().0,
            "pod"
        );
    }
    assert!(!network.repair().await.unwrap());
    // Once a call has returned, its change is in force: no packet takes the old way.
    for _ in 0..20 {
        network.set_service(service(1, 80, vec![])).await.unwrap();
        assert!(ask(&node.namespace, Ipv4Addr::new(10, 96, 0, 1), 80).is_err());
        network
            .set_service(service(1, 80, vec![pod.endpoint(8080)]))
            .await
            .unwrap();
        assert!(ask(&node.namespace, Ipv4Addr::new(10, 96, 0, 1), 80).is_ok());
    }
}

#[tokio::test]
async fn a_local_service_address_is_reached_from_pods_and_the_node() {
    let node = Node::new(1);
    let network = node.open();
    let pod = Pod::on(&network, "pod").await;
    let address = Ipv4Addr::new(10, 96, 0, 10);
    network.add_local_address(address).await.unwrap();
    network.add_local_address(address).await.unwrap();
    let _server = Server::start(&node.namespace, "dns".into(), 5300);
    for from in [&pod.namespace, &node.namespace] {
        assert_eq!(ask(from, address, 5300).unwrap().0, "dns");
    }
    network.remove_local_address(address).await.unwrap();
    network.remove_local_address(address).await.unwrap();
    assert!(ask(&pod.namespace, address, 5300).is_err());
}
