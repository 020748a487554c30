//! How answers travel, on a cluster of two: a long list comes whole over HTTP/1.1, over HTTP/2 and packed, from the leader and
//! from a node that follows it; a read on any node shows what was acknowledged on another; the node's limit of open files.

use std::io::Read;

use flate2::read::GzDecoder;
use serde_json::{Value, json};
use tests::Cluster;
use tests::http2::Http2;
use tests::https::{Answer, Endpoint};

const COLLECTION: &str = "/api/v1/namespaces/default/configmaps";

/// As many as make a list of several parts.
const OBJECTS: usize = 150;

fn map(name: &str) -> String {
    json!({"metadata": {"name": name}, "data": {"text": "x".repeat(4_000)}}).to_string()
}

fn items(body: &[u8]) -> (String, Vec<Value>) {
    let list: Value = serde_json::from_slice(body).expect("a list in JSON");
    let revision = list["metadata"]["resourceVersion"].as_str().expect("its revision");
    (revision.to_owned(), list["items"].as_array().expect("items").clone())
}

fn unpacked(answer: &Answer) -> Vec<u8> {
    let mut body = Vec::new();
    let mut packed = GzDecoder::new(&answer.body[..]);
    packed.read_to_end(&mut body).expect("the answer is packed by gzip");
    body
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_come_whole_and_reads_are_current_on_every_node() {
    let cluster = tokio::task::spawn_blocking(|| Cluster::start(29, 2))
        .await
        .expect("a cluster");
    let leader = cluster.leader();
    let [leader, follower] =
        [leader, 1 - leader].map(|node| Endpoint::load(&cluster.kubeconfig(node)).expect("the node's kubeconfig"));
    let json_body = [("Content-Type", "application/json")];
    let mut writer = leader.connect().await.expect("a connection");
    let mut reader = follower.connect().await.expect("a connection");
    for number in 0..OBJECTS {
        let name = format!("map-{number}");
        let request = leader.request("POST", COLLECTION, &json_body, map(&name).as_bytes());
        assert_eq!(writer.ask(&request).await.expect("an answer").head.code, 201);
        let request = follower.request("GET", &format!("{COLLECTION}/{name}"), &[], b"");
        let read = reader.ask(&request).await.expect("an answer");
        assert_eq!(read.head.code, 200, "{name} was acknowledged before it was read");
    }
    let list = leader.request("GET", COLLECTION, &[], b"");
    let (revision, expected) = items(&writer.ask(&list).await.expect("a list").body);
    assert!(expected.len() >= OBJECTS, "{}", expected.len()); // and kube-root-ca.crt
    for endpoint in [&leader, &follower] {
        let plain = endpoint.once("GET", COLLECTION, &[], b"").await.expect("a list");
        let (seen, found) = items(&plain.body);
        // Heartbeats of the nodes go on meanwhile.
        assert!(seen.parse::<u64>().expect("a number") >= revision.parse().expect("a number"));
        assert_eq!(found, expected);
        let packed = endpoint
            .once("GET", COLLECTION, &[("Accept-Encoding", "gzip")], b"")
            .await
            .expect("a list");
        assert!(packed.body.len() < plain.body.len() / 4, "{}", packed.body.len());
        assert_eq!(items(&unpacked(&packed)).1, expected);
        let http2 = Http2::connect(endpoint).await.expect("a connection");
        let (code, body) = http2
            .ask(http::Method::GET, COLLECTION, bytes::Bytes::new())
            .await
            .expect("a list");
        assert_eq!((code, items(&body).1), (200, expected.clone()));
        let one = format!("{COLLECTION}/map-0");
        let small = endpoint
            .once("GET", &one, &[("Accept-Encoding", "gzip")], b"")
            .await
            .expect("an answer");
        let small: Value = serde_json::from_slice(&small.body).expect("what is small is not packed");
        assert_eq!(small["metadata"]["name"], "map-0");
    }
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", cluster.pid(0))).expect("its limits");
    let files = limits
        .lines()
        .find(|line| line.starts_with("Max open files"))
        .expect("a limit");
    let numbers: Vec<&str> = files
        .split_whitespace()
        .filter(|word| word.parse::<u64>().is_ok())
        .collect();
    assert_eq!(
        numbers[0], numbers[1],
        "the soft limit is as high as it may be: {files}"
    );
}
