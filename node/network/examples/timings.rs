//! Prints how long the data plane's operations take on this machine. Run as root:
//! `cargo run --release -p network --example timings`
//!
//! Works in network namespaces of its own and removes them.

#![allow(clippy::disallowed_methods, reason = "measuring is what this program is for")]

use std::{
    fs::File,
    net::{Ipv4Addr, SocketAddrV4},
    process::Command,
    time::{Duration, Instant},
};

use network::{
    DnsChange, DnsService, NetNamespace, NodeNetworkConfig, PodNetwork, Protocol, ServiceChange, ServiceRule, Zone,
};
use nix::sched::{CloneFlags, setns};

const PODS: usize = 100;

fn main() {
    let node = format!("acttime-{}-node", std::process::id());
    let pods: Vec<String> = (0..PODS)
        .map(|n| format!("acttime-{}-{n}", std::process::id()))
        .collect();
    let all = || pods.iter().chain([&node]);
    all().for_each(|name| ip(&["netns", "add", name]));
    let home = File::open(format!("/run/netns/{node}")).expect("the namespace was made above");
    let measured = std::thread::scope(|scope| {
        scope
            .spawn(|| {
                setns(&home, CloneFlags::CLONE_NEWNET).expect("entering a namespace needs root");
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build()
                    .expect("a runtime");
                runtime.block_on(measure(&pods));
            })
            .join()
    });
    all().for_each(|name| ip(&["netns", "delete", name]));
    measured.expect("the measurement");
    measure_zone();
}

fn ip(arguments: &[&str]) {
    let status = Command::new("ip")
        .args(arguments)
        .status()
        .expect("the program ip is needed");
    assert!(status.success(), "ip {arguments:?} failed; this program needs root");
}

async fn measure(pods: &[String]) {
    let state = tempfile::tempdir().expect("a directory");
    let config = NodeNetworkConfig {
        node_name: "n1".into(),
        pod_cidr: "10.244.0.0/22".parse().expect("a range"),
        cluster_cidr: "10.244.0.0/16".parse().expect("a range"),
        service_cidr: "10.96.0.0/12".parse().expect("a range"),
        bridge: "act0".into(),
        mtu: 1500,
        state_dir: state.path().to_owned(),
    };
    let started = Instant::now();
    let network = PodNetwork::open(config.clone()).await.expect("open");
    println!("open, nothing there before          {:>10}", show(started.elapsed()));

    let mut times = Vec::new();
    for name in pods {
        let path = format!("/run/netns/{name}").into();
        let started = Instant::now();
        network
            .attach_pod(name, NetNamespace::Path(path))
            .await
            .expect("attach");
        times.push(started.elapsed());
    }
    report("attach a pod", &mut times);
    let mut times = Vec::new();
    for name in pods {
        let started = Instant::now();
        network.detach_pod(name).await.expect("detach");
        times.push(started.elapsed());
    }
    report("detach a pod (namespace still there)", &mut times);

    for count in [100u16, 300, 1000] {
        let rules: Vec<ServiceRule> = (0..count).map(|n| rule(n, 5)).collect();
        let changes: Vec<ServiceChange> = rules.iter().cloned().map(ServiceChange::Set).collect();
        let started = Instant::now();
        network.apply_services(&changes).await.expect("apply");
        println!(
            "{count:>5} services at once               {:>10}",
            show(started.elapsed())
        );
        // The kernel cleans up after each transaction and holds the next one back until then: so once with pauses between
        // the changes, and once without.
        for (what, pause_ms, endpoints) in [("with pauses", 50, 6), ("in a row", 0, 7)] {
            let mut times = Vec::new();
            for n in 0..20 {
                tokio::time::sleep(Duration::from_millis(pause_ms)).await;
                let changed = rule(n, endpoints);
                let started = Instant::now();
                network.set_service(changed).await.expect("set");
                times.push(started.elapsed());
            }
            report(&format!("an endpoint more of {count}, {what}"), &mut times);
        }
        drop(network.sync_services(&rules).await);
        let started = Instant::now();
        let again = PodNetwork::open(config.clone()).await.expect("open");
        println!("open, {count} services there before   {:>10}", show(started.elapsed()));
        let started = Instant::now();
        again.sync_services(&rules).await.expect("sync");
        println!("sync of {count} unchanged services     {:>10}", show(started.elapsed()));
        let started = Instant::now();
        again.sync_services(&[]).await.expect("sync");
        println!(
            "{count:>5} services removed at once       {:>10}",
            show(started.elapsed())
        );
        // What this instance remembers is gone: the next change finds it out.
        let started = Instant::now();
        network.sync_services(&[]).await.expect("sync");
        println!("a refused batch, and its repair     {:>10}", show(started.elapsed()));
        drop(again);
    }
    let network = PodNetwork::open(config).await.expect("open");
    network.tear_down().await.expect("teardown");
}

fn rule(number: u16, endpoints: u8) -> ServiceRule {
    ServiceRule {
        name: format!("default/s{number}:http"),
        cluster_ip: Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 96, 0, 1)) + u32::from(number)),
        protocol: Protocol::Tcp,
        port: 80,
        node_port: None,
        endpoints: (0..endpoints)
            .map(|d| SocketAddrV4::new(Ipv4Addr::new(10, 244, (number % 200) as u8, 2 + d), 8080))
            .collect(),
        session_affinity_s: None,
    }
}

fn measure_zone() {
    let service = |number: u32| DnsService {
        namespace: format!("ns{}", number % 50),
        name: format!("s{number}"),
        cluster_ips: vec![Ipv4Addr::from(0x0a60_0000 + number).into()],
        ..DnsService::default()
    };
    let zone = Zone::new("cluster.local", &[]).after((0..5000).map(|n| DnsChange::SetService(service(n))));
    let mut times = Vec::new();
    for number in 0..200 {
        let started = Instant::now();
        let next = zone.after([DnsChange::SetService(service(number))]);
        times.push(started.elapsed());
        drop(next);
    }
    report("one DNS change, 5000 services", &mut times);
    let started = Instant::now();
    const LOOKUPS: u32 = 100_000;
    let found = (0..LOOKUPS).filter(|n| {
        matches!(
            zone.lookup(&format!("s{}.ns{}.svc.cluster.local", n % 5000, n % 50)),
            network::Lookup::Found(_)
        )
    });
    assert_eq!(found.count(), LOOKUPS as usize);
    println!(
        "one DNS look-up                      {:>10}",
        show(started.elapsed() / LOOKUPS)
    );
}

fn report(what: &str, times: &mut [Duration]) {
    times.sort_unstable();
    println!(
        "{what:<36} median {:>10}  p99 {:>10}",
        show(times[times.len() / 2]),
        show(times[times.len() * 99 / 100])
    );
}

fn show(time: Duration) -> String {
    format!("{:.3} ms", time.as_secs_f64() * 1000.0)
}
