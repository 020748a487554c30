//! Pods: their links, their addresses, and the ways between them.

use std::{
    net::{Ipv4Addr, TcpStream, UdpSocket},
    time::{Duration, Instant},
};

use network::{NetNamespace, NodeNetworkConfig, PeerRoute, PodNetwork};

use crate::nodes::{Namespace, Node, PATIENCE, Pod, Server, ask, ip, join, runtime, two_nodes};

#[tokio::test]
async fn pods_reach_each_other_on_one_node_and_across_nodes_with_their_own_addresses() {
    let (a, on_a, b, on_b) = two_nodes().await;
    let first = Pod::on(&on_a, "first").await;
    let second = Pod::on(&on_a, "second").await;
    let remote = Pod::on(&on_b, "remote").await;
    assert_ne!(first.address.ip, second.address.ip);
    for (from, to) in [
        (&first, &second),
        (&second, &first),
        (&first, &remote),
        (&remote, &second),
    ] {
        assert!(
            from.namespace.pings(to.address.ip),
            "{} cannot ping {}",
            from.uid,
            to.uid
        );
    }
    assert!(
        first.namespace.pings(on_a.gateway())
            && a.namespace.pings(remote.address.ip)
            && b.namespace.pings(remote.address.ip)
    );
    let _server = remote.serve(8080);
    let (server, seen) = ask(&first.namespace, remote.address.ip, 8080).unwrap();
    assert_eq!(
        (server.as_str(), seen),
        ("remote", first.address.ip.to_string()),
        "no address is rewritten between pods"
    );
    // Outside the cluster's range, a pod appears as its node.
    let _server = Server::start(&b.namespace, "node".into(), 9090);
    let (_, seen) = ask(&first.namespace, b.address(), 9090).unwrap();
    assert_eq!(seen, a.address().to_string());
}

#[tokio::test]
async fn a_pod_whose_namespace_is_new_gets_a_new_link_with_its_address() {
    let node = Node::new(1);
    let network = node.open();
    let pod = Pod::on(&network, "pod").await;
    let replacement = Namespace::new("pod");
    let again = network
        .attach_pod("pod", NetNamespace::Path(replacement.path()))
        .await
        .unwrap();
    assert_eq!(again.ip, pod.address.ip);
    assert!(replacement.pings(network.gateway()));
    assert!(!pod.namespace.pings(network.gateway()), "the old namespace is cut off");
}

#[tokio::test]
async fn the_first_packet_of_a_new_pod_arrives() {
    let node = Node::new(1);
    let network = node.open();
    let gateway = network.gateway();
    for number in 0..20 {
        let pod = Pod::on(&network, &format!("pod{number}")).await;
        // Entered without a program's start in between, so that the packet is as early as it can be.
        let refused = pod.namespace.run(move || {
            let started = Instant::now();
            let outcome = TcpStream::connect_timeout(&(gateway, 9).into(), PATIENCE);
            (outcome.is_err(), started.elapsed())
        });
        // A lost first packet is repeated after a second.
        assert!(refused.0 && refused.1 < Duration::from_millis(900), "{refused:?}");
    }
}

#[tokio::test]
async fn pods_cannot_exchange_frames_past_the_node() {
    let node = Node::new(1);
    let network = node.open();
    let (one, two) = (Pod::on(&network, "one").await, Pod::on(&network, "two").await);
    assert!(one.namespace.pings(two.address.ip));
    // With routes to each other's interface, the pods would ask for each other's MAC address on the bridge.
    for (from, to) in [(&one, &two), (&two, &one)] {
        ip(&format!(
            "-n {} route add {}/32 dev eth0",
            from.namespace.name, to.address.ip
        ));
    }
    assert!(!one.namespace.pings(two.address.ip));
}

#[tokio::test]
async fn a_pod_does_not_speak_under_an_address_from_outside_of_its_nodes_range() {
    let node = Node::new(1);
    let network = node.open();
    let (one, two) = (Pod::on(&network, "one").await, Pod::on(&network, "two").await);
    let foreign = Ipv4Addr::new(192, 168, 77, 250);
    ip(&format!("-n {} address add {foreign}/32 dev lo", one.namespace.name));
    let receiver = two.namespace.run(|| UdpSocket::bind("0.0.0.0:7777").unwrap());
    let to = (two.address.ip, 7777);
    let send = |source: Ipv4Addr| {
        one.namespace
            .run(move || UdpSocket::bind((source, 0)).unwrap().send_to(b"x", to).unwrap());
    };
    // What was sent under the foreign address would arrive before what was sent after it.
    receiver.set_read_timeout(Some(PATIENCE)).unwrap();
    send(foreign);
    send(one.address.ip);
    let (_, from) = receiver.recv_from(&mut [0; 8]).unwrap();
    assert_eq!(from.ip(), one.address.ip);
}

#[tokio::test]
async fn the_mtu_of_the_nodes_network_is_found_by_the_nodes_address() {
    let (a, b) = (Node::new(1), Node::new(2));
    join(&a, &b);
    ip(&format!("-n {} link set cable mtu 1400", a.namespace.name));
    let address = a.address();
    assert_eq!(a.namespace.run(move || network::interface_mtu(address)).unwrap(), 1400);
    let foreign = b.address();
    let error = a
        .namespace
        .run(move || network::interface_mtu(foreign))
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("192.168.77.2") && error.contains("ip address"),
        "{error}"
    );
    let config = NodeNetworkConfig {
        mtu: 1400,
        ..a.config()
    };
    let network = a
        .namespace
        .run(move || runtime().block_on(PodNetwork::open(config)))
        .unwrap();
    let pod = Pod::on(&network, "pod").await;
    let inside = pod.address.ip;
    assert_eq!(pod.namespace.run(move || network::interface_mtu(inside)).unwrap(), 1400);
}

#[tokio::test]
async fn a_failed_attachment_leaves_nothing_behind() {
    let node = Node::new(1);
    let network = node.open();
    let before = node.links();
    let missing = network
        .attach_pod("pod", NetNamespace::Path("/run/netns/absent".into()))
        .await
        .unwrap_err()
        .to_string();
    assert!(missing.contains("/run/netns/absent"), "{missing}");
    let taken = Namespace::new("pod");
    ip(&format!("-n {} link add eth0 type bridge", taken.name));
    let refused = network
        .attach_pod("pod", NetNamespace::Path(taken.path()))
        .await
        .unwrap_err()
        .to_string();
    assert!(refused.contains("veth") && refused.contains("exists"), "{refused}");
    assert!(network.attached().await.unwrap().is_empty());
    assert_eq!(node.links(), before);
}

#[tokio::test]
async fn a_pod_that_is_detached_and_attached_at_once_is_connected() {
    let node = Node::new(1);
    let network = node.open();
    let pod = Pod::on(&network, "pod").await;
    for _ in 0..3 {
        network.detach_pod("pod").await.unwrap();
        let again = network
            .attach_pod("pod", NetNamespace::Path(pod.namespace.path()))
            .await
            .unwrap();
        assert_ne!(again.ip, pod.address.ip);
        assert!(pod.namespace.pings(network.gateway()));
        assert!(node.namespace.pings(again.ip));
    }
    // The deletion of what was retired spares the new link.
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(pod.namespace.pings(network.gateway()));
}

#[tokio::test]
async fn detaching_frees_the_link_and_the_address() {
    let node = Node::new(1);
    let network = node.open();
    let pod = Pod::on(&network, "pod").await;
    assert_eq!(network.detach_pod("pod").await.unwrap(), Some(pod.address.ip));
    assert_eq!(network.detach_pod("pod").await.unwrap(), None);
    assert!(network.attached().await.unwrap().is_empty());
    let deadline = Instant::now() + PATIENCE;
    while node
        .links()
        .iter()
        .any(|link| link.contains(&pod.address.host_interface))
    {
        assert!(Instant::now() < deadline, "the link should be deleted soon");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    drop(pod);
    // A pod whose namespace vanished first.
    let pod = Pod::on(&network, "pod").await;
    drop(pod);
    let deadline = Instant::now() + PATIENCE;
    while network.attached().await.unwrap().iter().any(|pod| pod.link_present) {
        assert!(Instant::now() < deadline, "the link should vanish with its namespace");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(network.detach_pod("pod").await.unwrap().is_some());
}

#[tokio::test]
async fn routes_are_set_by_difference_and_foreign_ones_are_spared() {
    let (a, b) = (Node::new(1), Node::new(2));
    join(&a, &b);
    let network = a.open();
    ip(&format!(
        "-n {} route add 10.250.0.0/24 via {}",
        a.namespace.name,
        b.address()
    ));
    let routes = || a.namespace.sh("ip", "route show proto 172").1;
    let unreachable = PeerRoute {
        node: "far".into(),
        node_ip: Ipv4Addr::new(203, 0, 113, 1),
        pod_cidr: "10.244.9.0/24".parse().unwrap(),
    };
    let error = network
        .set_routes(&[unreachable, b.peer()])
        .await
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("far") && error.contains("203.0.113.1") && error.contains("1 of 2"),
        "{error}"
    );
    assert!(
        routes().contains("10.244.2.0/24 via 192.168.77.2"),
        "the others are set: {}",
        routes()
    );
    let moved = PeerRoute {
        pod_cidr: "10.244.5.0/24".parse().unwrap(),
        ..b.peer()
    };
    network.set_routes(&[moved]).await.unwrap();
    assert!(
        routes().contains("10.244.5.0/24") && !routes().contains("10.244.2.0/24"),
        "{}",
        routes()
    );
    network.set_routes(&[]).await.unwrap();
    assert!(!routes().contains("via"), "{}", routes());
    assert!(a.namespace.sh("ip", "-4 route").1.contains("10.250.0.0/24"));
}
