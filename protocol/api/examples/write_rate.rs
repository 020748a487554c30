//! Prints how long the crate's hot paths take and how large its documents are: `cargo run --release -p api --example write_rate`.
#![allow(clippy::disallowed_methods)] // a measurement reads the clock

use std::hint::black_box;
use std::time::Instant;

use api::write::{PatchType, WriteContext, apply_patch, prepare_create, prepare_update, server_side_apply};
use api::{Subresource, decode, kinds, openapi};
use protocol::UnixMillis;
use serde_json::{Value, json};

fn measure(what: &str, rounds: u32, mut work: impl FnMut()) {
    work();
    let start = Instant::now();
    for _ in 0..rounds {
        work();
    }
    println!(
        "{what}: {:.1} us",
        start.elapsed().as_secs_f64() * 1e6 / f64::from(rounds)
    );
}

fn resident_kib() -> String {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    status
        .lines()
        .find(|line| line.starts_with("VmRSS"))
        .unwrap_or("VmRSS: unknown")
        .to_owned()
}

fn main() {
    let ctx = WriteContext {
        now: UnixMillis(1_767_225_600_000),
        new_uid: "11111111-2222-3333-4444-555555555555",
        random_suffix: "x2b4z",
        field_manager: "pace",
        ..WriteContext::default()
    };
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "web", "namespace": "default", "labels": {"app": "web", "tier": "front"}},
        "spec": {
            "containers": [{
                "name": "nginx", "image": "nginx:1.27",
                "ports": [{"containerPort": 80, "name": "http"}],
                "env": [{"name": "A", "value": "1"}, {"name": "B", "value": "2"}],
                "resources": {"requests": {"cpu": "100m", "memory": "64Mi"}, "limits": {"memory": "128Mi"}},
                "readinessProbe": {"httpGet": {"path": "/", "port": 80}},
                "volumeMounts": [{"name": "c", "mountPath": "/c"}],
            }],
            "volumes": [{"name": "c", "configMap": {"name": "c"}}],
        },
    });
    let pods = kinds::find("", "v1", "pods").expect("pods are in the table");
    let rows: Vec<&kinds::Kind> = kinds::kinds().iter().collect();
    println!("at start: {}", resident_kib());
    let start = Instant::now();
    let created = prepare_create(pods, "default", pod.clone(), &ctx)
        .expect("a valid pod")
        .object;
    println!(
        "first create, shapes built: {:.1} ms, {}",
        start.elapsed().as_secs_f64() * 1e3,
        resident_kib()
    );
    let bytes = pod.to_string();
    println!("pod: {} B sent, {} B stored", bytes.len(), created.to_string().len());
    measure("decode::json", 5000, || drop(black_box(decode::json(bytes.as_bytes()))));
    measure("prepare_create", 5000, || {
        drop(black_box(prepare_create(pods, "default", pod.clone(), &ctx)))
    });
    let mut status = created.clone();
    status["status"]["phase"] = "Running".into();
    measure("prepare_update of status", 5000, || {
        drop(black_box(prepare_update(
            pods,
            Some(Subresource::Status),
            &created,
            status.clone(),
            &ctx,
        )));
    });
    let change = json!({"spec": {"containers": [{"name": "nginx", "image": "nginx:2"}]}});
    measure("strategic patch", 5000, || {
        drop(black_box(apply_patch(pods, PatchType::Strategic, &created, &change)))
    });
    let applied = server_side_apply(pods, None, None, pod.clone(), false, &ctx)
        .expect("a valid pod")
        .object;
    measure("server_side_apply again", 5000, || {
        drop(black_box(server_side_apply(
            pods,
            None,
            Some(&applied),
            pod.clone(),
            false,
            &ctx,
        )));
    });
    measure("draft", 5000, || drop(black_box(pods.draft(&created))));
    for path in ["api/v1", "apis/apps/v1"] {
        let start = Instant::now();
        let document = openapi::v3(&rows, path).unwrap_or(Value::Null).to_string();
        println!(
            "openapi/v3/{path}: {} KiB in {:.1} ms",
            document.len() / 1024,
            start.elapsed().as_secs_f64() * 1e3
        );
    }
    let start = Instant::now();
    let document = openapi::v2(&rows).to_string();
    println!(
        "openapi/v2: {} KiB in {:.1} ms",
        document.len() / 1024,
        start.elapsed().as_secs_f64() * 1e3
    );
    println!("at the end: {}", resident_kib());
}
