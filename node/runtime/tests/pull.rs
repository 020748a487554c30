//! Pulls from a registry: a small real HTTP server on loopback that serves OCI layouts and can be slow, strict or dishonest.
#![allow(clippy::disallowed_methods)] // tests measure real time

mod machine;

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use machine::*;
use protocol::runtime::*;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;

/// The distribution protocol's reading half, over layouts by repository name.
struct Registry {
    address: String,
    state: Arc<State>,
}

#[derive(Default)]
struct State {
    layouts: parking_lot::Mutex<HashMap<String, PathBuf>>,
    /// How often each blob was asked for.
    blobs_served: AtomicUsize,
    manifests_served: AtomicUsize,
    /// Blobs of this repository wait for the notice.
    held_repository: parking_lot::Mutex<String>,
    release: Notify,
    /// Blobs are cut off after half their length.
    cut: AtomicBool,
    /// `Authorization` that is asked for.
    password: parking_lot::Mutex<Option<String>>,
}

impl Registry {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let state = Arc::new(State::default());
        let serving = state.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, serving.clone()));
            }
        });
        Self { address, state }
    }

    fn add(&self, repository: &str, layout: &Path) {
        self.state
            .layouts
            .lock()
            .insert(repository.to_owned(), layout.to_owned());
    }

    fn name(&self, rest: &str) -> String {
        format!("{}/{rest}", self.address)
    }
}

async fn serve(stream: TcpStream, state: Arc<State>) {
    let mut stream = BufReader::new(stream);
    loop {
        let mut request = String::new();
        let mut authorization = String::new();
        if stream.read_line(&mut request).await.unwrap_or(0) == 0 {
            return;
        }
        loop {
            let mut header = String::new();
            if stream.read_line(&mut header).await.unwrap_or(0) == 0 {
                return;
            }
            if header.trim().is_empty() {
                break;
            }
            if let Some((name, value)) = header.split_once(':')
                && name.eq_ignore_ascii_case("authorization")
            {
                authorization = value.trim().to_owned();
            }
        }
        let path = request.split(' ').nth(1).unwrap_or("/").to_owned();
        let (status, kind, body) = answer(&state, &path, &authorization).await;
        let is_cut = state.cut.load(Ordering::Relaxed) && path.contains("/blobs/") && body.len() > 4096;
        let mut head = format!(
            "HTTP/1.1 {status}\r\nContent-Length: {}\r\nContent-Type: {kind}\r\n",
            body.len()
        );
        if status.starts_with("401") {
            head.push_str("WWW-Authenticate: Basic realm=\"test\"\r\n");
        }
        head.push_str("\r\n");
        let sent = if is_cut { &body[..body.len() / 2] } else { &body[..] };
        if stream.write_all(head.as_bytes()).await.is_err() || stream.write_all(sent).await.is_err() || is_cut {
            return;
        }
    }
}

async fn answer(state: &State, path: &str, authorization: &str) -> (&'static str, String, Vec<u8>) {
    let plain = "application/json".to_owned();
    let wanted = state.password.lock().clone();
    if wanted.is_some_and(|wanted| authorization != wanted) {
        let body = br#"{"errors":[{"code":"UNAUTHORIZED","message":"authentication required"}]}"#;
        return ("401 Unauthorized", plain, body.to_vec());
    }
    let missing = || {
        let body = br#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown"}]}"#;
        ("404 Not Found", "application/json".to_owned(), body.to_vec())
    };
    let Some(rest) = path.strip_prefix("/v2/").filter(|rest| !rest.is_empty()) else {
        return ("200 OK", plain, b"{}".to_vec());
    };
    let (repository, what, name) = match (rest.rsplit_once("/manifests/"), rest.rsplit_once("/blobs/")) {
        (Some((repository, name)), _) => (repository, "manifest", name),
        (_, Some((repository, name))) => (repository, "blob", name),
        _ => return missing(),
    };
    let Some(layout) = state.layouts.lock().get(repository).cloned() else {
        return missing();
    };
    let blob = |digest: &str| fs::read(layout.join("blobs/sha256").join(digest.trim_start_matches("sha256:")));
    if what == "blob" {
        if *state.held_repository.lock() == repository {
            state.release.notified().await;
        }
        state.blobs_served.fetch_add(1, Ordering::Relaxed);
        return match blob(name) {
            Ok(bytes) => ("200 OK", "application/octet-stream".to_owned(), bytes),
            Err(_) => missing(),
        };
    }
    state.manifests_served.fetch_add(1, Ordering::Relaxed);
    let index = fs::read(layout.join("index.json")).unwrap();
    let parsed: serde_json::Value = serde_json::from_slice(&index).unwrap();
    let bytes = if name == "index" {
        index
    } else if name.starts_with("sha256:") {
        match blob(name) {
            Ok(bytes) => bytes,
            Err(_) => return missing(),
        }
    } else if name == "1" {
        blob(parsed["manifests"][0]["digest"].as_str().unwrap()).unwrap()
    } else {
        return missing();
    };
    let kind = serde_json::from_slice::<serde_json::Value>(&bytes).unwrap()["mediaType"]
        .as_str()
        .unwrap_or("application/vnd.oci.image.index.v1+json")
        .to_owned();
    ("200 OK", kind, bytes)
}

fn text_layout(machine: &Machine, name: &str, text: &[u8]) -> PathBuf {
    let layout = machine.directory.path().join(name);
    write_layout(
        &layout,
        name,
        &[layer(&[Item::File("text", text, 0o644)])],
        serde_json::json!({}),
    );
    layout
}

fn pull_reason(result: Result<PresentImage, RuntimeError>) -> String {
    match result {
        Err(RuntimeError::ImagePull { reason, .. }) => reason,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_image_is_pulled_once_and_started() {
    let machine = Machine::new().await;
    let registry = Registry::start().await;
    registry.add("team/web", &machine.directory.path().join("busybox"));
    // The layer is present already, by import: only the configuration is fetched.
    let name = registry.name("team/web:1");
    let pulled = machine
        .runtime()
        .ensure_image(&name, PullPolicy::IfNotPresent, &[])
        .await
        .unwrap();
    assert_eq!(pulled.reference, name);
    assert_eq!(registry.state.blobs_served.load(Ordering::Relaxed), 1);
    let (exit, output) = machine
        .run_container(ContainerSpec {
            image: name.clone(),
            ..container("main", "echo hi")
        })
        .await;
    assert_eq!((exit.exit_code, output.as_str()), (0, "hi\n"));
    // Present: not asked again. Always: asked, and nothing is fetched but the manifest and the configuration.
    machine
        .runtime()
        .ensure_image(&name, PullPolicy::IfNotPresent, &[])
        .await
        .unwrap();
    assert_eq!(registry.state.manifests_served.load(Ordering::Relaxed), 1);
    machine
        .runtime()
        .ensure_image(&name, PullPolicy::Always, &[])
        .await
        .unwrap();
    assert_eq!(registry.state.manifests_served.load(Ordering::Relaxed), 2);
    // By digest, and through an index.
    let pinned = registry.name(&format!("team/web@{}", pulled.digest));
    assert_eq!(
        machine
            .runtime()
            .ensure_image(&pinned, PullPolicy::Always, &[])
            .await
            .unwrap()
            .digest,
        pulled.digest
    );
    let index = registry.name("team/web:index");
    assert_eq!(
        machine
            .runtime()
            .ensure_image(&index, PullPolicy::Always, &[])
            .await
            .unwrap()
            .digest,
        pulled.digest
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pulls_of_one_image_are_joined_and_a_slow_one_holds_up_no_other() {
    let machine = Machine::new().await;
    let registry = Registry::start().await;
    registry.add("slow", &text_layout(&machine, "slow-layout", b"slow"));
    registry.add("quick", &text_layout(&machine, "quick-layout", b"quick"));
    *registry.state.held_repository.lock() = "slow".to_owned();
    let slow: Vec<_> = (0..4)
        .map(|_| {
            let (runtime, name) = (machine.runtime().clone(), registry.name("slow:1"));
            tokio::spawn(async move { runtime.ensure_image(&name, PullPolicy::IfNotPresent, &[]).await })
        })
        .collect();
    let manifests = registry.state.clone();
    eventually("the slow pull has begun", || {
        manifests.manifests_served.load(Ordering::Relaxed) > 0
    })
    .await;
    let quick = machine
        .runtime()
        .ensure_image(&registry.name("quick:1"), PullPolicy::IfNotPresent, &[])
        .await
        .unwrap();
    assert_eq!(quick.size_bytes, 5);
    assert!(slow.iter().all(|pull| !pull.is_finished()));
    *registry.state.held_repository.lock() = String::new();
    registry.state.release.notify_waiters();
    for pull in slow {
        pull.await.unwrap().unwrap();
    }
    // One configuration and one layer of each image.
    assert_eq!(registry.state.blobs_served.load(Ordering::Relaxed), 4);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refusals_say_what_is_wrong_and_leave_nothing() {
    let machine = Machine::new().await;
    let registry = Registry::start().await;
    let big: Vec<u8> = (0..400_000u32)
        .flat_map(|number| number.wrapping_mul(2_654_435_761).to_le_bytes())
        .collect();
    let layout = text_layout(&machine, "big", &big);
    registry.add("big", &layout);
    let ensure = |name: String, credentials: Vec<RegistryCredential>| {
        let runtime = machine.runtime().clone();
        async move {
            runtime
                .ensure_image(&name, PullPolicy::IfNotPresent, &credentials)
                .await
        }
    };
    let reason = pull_reason(ensure(registry.name("absent:1"), Vec::new()).await);
    assert!(reason.to_lowercase().contains("not found"), "{reason}");
    let reason = pull_reason(ensure(registry.name("big:2"), Vec::new()).await);
    assert!(reason.to_lowercase().contains("not found"), "{reason}");
    // A connection that breaks in the middle of a layer.
    registry.state.cut.store(true, Ordering::Relaxed);
    pull_reason(ensure(registry.name("big:1"), Vec::new()).await);
    registry.state.cut.store(false, Ordering::Relaxed);
    let images = machine.config.data_dir.join("images");
    assert_eq!(fs::read_dir(images.join("tmp")).unwrap().count(), 0);
    assert_eq!(fs::read_dir(images.join("layers")).unwrap().count(), 1, "only busybox");
    // A password: without it, with a wrong one, with the right one among others.
    *registry.state.password.lock() = Some("Basic dXNlcjpyaWdodA==".to_owned()); // user:right
    let credential = |password: &str| RegistryCredential {
        username: "user".to_owned(),
        password: password.to_owned(),
    };
    let reason = pull_reason(ensure(registry.name("big:1"), Vec::new()).await);
    assert!(reason.contains("credential"), "{reason}");
    pull_reason(ensure(registry.name("big:1"), vec![credential("wrong")]).await);
    let pulled = ensure(registry.name("big:1"), vec![credential("wrong"), credential("right")])
        .await
        .unwrap();
    assert_eq!(pulled.size_bytes, 1_600_000);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_is_told_as_such() {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("data");
    fs::create_dir(&data).unwrap();
    nix::mount::mount(
        Some("tmpfs"),
        &data,
        Some("tmpfs"),
        nix::mount::MsFlags::empty(),
        Some("size=1m"),
    )
    .unwrap();
    let layout = directory.path().join("layout");
    write_layout(
        &layout,
        "test/big:1",
        &[layer(&[Item::File("big", &vec![7; 4 << 20], 0o644)])],
        serde_json::json!({}),
    );
    let store = runtime::images::ImageStore::open(&data).unwrap();
    let result = store.import(&layout);
    let left = fs::read_dir(data.join("images/tmp")).unwrap().count();
    nix::mount::umount(&data).unwrap();
    assert!(matches!(result, Err(RuntimeError::DiskFull { .. })), "{result:?}");
    assert_eq!(left, 0);
}
