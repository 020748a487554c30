//! Images: import of layouts and archives, layers that try to leave their directory, concurrent users of one store.
#![allow(clippy::disallowed_methods)] // tests measure real time

mod machine;

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use machine::*;
use protocol::runtime::*;
use runtime::images::ImageStore;

fn store(directory: &Path) -> ImageStore {
    ImageStore::open(directory.join("data")).unwrap()
}

fn layer_roots(directory: &Path) -> Vec<PathBuf> {
    fs::read_dir(directory.join("data/images/layers"))
        .unwrap()
        .map(|entry| entry.unwrap().path().join("fs"))
        .collect()
}

fn import(directory: &Path, layers: &[Vec<u8>]) -> Result<Vec<PresentImage>, RuntimeError> {
    let layout = directory.join("layout");
    let _ = fs::remove_dir_all(&layout);
    write_layout(&layout, "test/image:1", layers, serde_json::json!({}));
    store(directory).import(&layout)
}

#[test]
fn an_image_is_found_as_written_completed_and_by_digest() {
    let directory = tempfile::tempdir().unwrap();
    let imported = import(directory.path(), &[layer(&[Item::File("a", b"1", 0o644)])]).unwrap();
    assert_eq!(imported[0].reference, "test/image:1");
    let store = store(directory.path());
    for name in [
        "test/image:1",
        "docker.io/test/image:1",
        &format!("elsewhere/x@{}", imported[0].digest),
    ] {
        assert_eq!(store.find(name).unwrap().expect(name).digest, imported[0].digest);
    }
    assert!(store.find("test/image:2").unwrap().is_none());
    let listed = store.list().unwrap();
    assert_eq!(listed.len(), 1, "an alias is not listed: {listed:?}");
    assert_eq!(listed[0].size_bytes, 1);
}

#[test]
fn no_entry_of_a_layer_leaves_its_directory() {
    let outside = tempfile::tempdir().unwrap();
    let target = outside.path().to_str().unwrap();
    let escape = format!("x/../../../../../../../..{target}/file");
    let dotted: [&[Item]; 4] = [
        &[Item::File("../file", b"x", 0o644)],
        &[Item::File(&escape, b"x", 0o644)],
        &[Item::HardLink("link", "../../../../../../etc/passwd")],
        &[Item::File(".wh...", b"", 0o644)],
    ];
    for items in dotted {
        let directory = tempfile::tempdir().unwrap();
        match import(directory.path(), &[layer(items)]) {
            Err(RuntimeError::ImagePull { reason, .. }) => assert!(reason.contains("leads out"), "{reason}"),
            other => panic!("{other:?}"),
        }
        assert!(layer_roots(directory.path()).is_empty());
        assert_eq!(
            fs::read_dir(directory.path().join("data/images/tmp")).unwrap().count(),
            0
        );
    }
    // Symlinks resolve as inside a container: within the layer.
    let directory = tempfile::tempdir().unwrap();
    let absolute = format!("/{}", target.trim_start_matches('/'));
    let items = [
        Item::Link("evil", &absolute),
        Item::Directory("safe", 0o755),
        Item::Link("up", "../../../../../../../../../../safe"),
        Item::File("up/b", b"x", 0o644),
        Item::Link("passwd", "/etc/passwd"),
        Item::File("passwd", b"mine", 0o644),
    ];
    import(directory.path(), &[layer(&items)]).unwrap();
    let root = &layer_roots(directory.path())[0];
    assert_eq!(fs::read(root.join("safe/b")).unwrap(), b"x");
    assert!(fs::symlink_metadata(root.join("passwd")).unwrap().is_file());
    // A file through the absolute symlink: refused or inside, never outside.
    let items = [Item::Link("evil", &absolute), Item::File("evil/a", b"x", 0o644)];
    let other = tempfile::tempdir().unwrap();
    let _ = import(other.path(), &[layer(&items)]);
    assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 0);
    // A hard link to a file of the machine through a symlink.
    let items = [Item::Link("etc", "/etc"), Item::HardLink("shadow", "etc/shadow")];
    let other = tempfile::tempdir().unwrap();
    assert!(import(other.path(), &[layer(&items)]).is_err());
}

#[test]
fn whiteouts_modes_and_links_are_unpacked_for_overlayfs() {
    let directory = tempfile::tempdir().unwrap();
    let items = [
        Item::Directory("d", 0o1777),
        Item::File("d/.wh..wh..opq", b"", 0o644),
        Item::File(".wh.gone", b"", 0o644),
        Item::File("setuid", b"x", 0o4755),
        Item::HardLink("same", "setuid"),
        Item::Link("d/link", "../setuid"),
    ];
    import(directory.path(), &[layer(&items)]).unwrap();
    let root = &layer_roots(directory.path())[0];
    let gone = fs::symlink_metadata(root.join("gone")).unwrap();
    assert!(gone.file_type().is_char_device() && gone.rdev() == 0);
    assert_eq!(fs::metadata(root.join("setuid")).unwrap().mode() & 0o7777, 0o4755);
    assert_eq!(
        fs::metadata(root.join("same")).unwrap().ino(),
        fs::metadata(root.join("setuid")).unwrap().ino()
    );
    assert_eq!(fs::metadata(root.join("d")).unwrap().mode() & 0o7777, 0o1777);
    assert_eq!(fs::metadata(root.join("setuid")).unwrap().mtime(), 1_700_000_000);
    assert!(!root.join("d/.wh..wh..opq").exists());
}

#[test]
fn a_damaged_layer_is_refused_and_leaves_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let layout = directory.path().join("layout");
    write_layout(
        &layout,
        "test/image:1",
        &[layer(&[Item::File("a", b"1", 0o644)])],
        serde_json::json!({}),
    );
    let index: serde_json::Value = serde_json::from_slice(&fs::read(layout.join("index.json")).unwrap()).unwrap();
    let blob = |digest: &serde_json::Value| {
        layout
            .join("blobs/sha256")
            .join(digest.as_str().unwrap().trim_start_matches("sha256:"))
    };
    let manifest: serde_json::Value =
        serde_json::from_slice(&fs::read(blob(&index["manifests"][0]["digest"])).unwrap()).unwrap();
    let path = blob(&manifest["layers"][0]["digest"]);
    let mut bytes = fs::read(&path).unwrap();
    let last = bytes.len() - 1;
    bytes.push(0);
    fs::write(&path, &bytes).unwrap();
    assert!(matches!(
        store(directory.path()).import(&layout),
        Err(RuntimeError::ImagePull { .. })
    ));
    bytes.truncate(last);
    fs::write(&path, &bytes).unwrap();
    assert!(matches!(
        store(directory.path()).import(&layout),
        Err(RuntimeError::ImagePull { .. })
    ));
    assert!(layer_roots(directory.path()).is_empty());
    assert!(store(directory.path()).list().unwrap().is_empty());
    assert!(matches!(
        store(directory.path()).import("/nowhere"),
        Err(RuntimeError::Failed { .. })
    ));
}

#[test]
fn an_archive_is_imported_and_shared_layers_are_unpacked_once() {
    let directory = tempfile::tempdir().unwrap();
    let shared = layer(&[Item::File("shared", b"12345", 0o644)]);
    import(directory.path(), std::slice::from_ref(&shared)).unwrap();
    let layout = directory.path().join("second");
    write_layout(
        &layout,
        "test/second:1",
        &[shared, layer(&[Item::File("own", b"1", 0o644)])],
        serde_json::json!({}),
    );
    let archive = directory.path().join("second.tar");
    let mut builder = tar::Builder::new(fs::File::create(&archive).unwrap());
    builder.append_dir_all(".", &layout).unwrap();
    builder.finish().unwrap();
    let imported = store(directory.path()).import(&archive).unwrap();
    assert_eq!(imported[0].size_bytes, 6);
    assert_eq!(layer_roots(directory.path()).len(), 2);

    let store = store(directory.path());
    let first = store.find("test/image:1").unwrap().unwrap();
    let freed = store
        .collect_garbage(std::slice::from_ref(&first.digest), |_| false)
        .unwrap();
    assert_eq!(freed, 1);
    assert!(store.find("test/second:1").unwrap().is_none());
    assert!(store.find("test/image:1").unwrap().is_some());
    assert_eq!(store.collect_garbage(&[], |_| false).unwrap(), 5);
    assert!(store.list().unwrap().is_empty() && layer_roots(directory.path()).is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_whiteout_hides_a_file_of_a_lower_layer_in_a_container() {
    let machine = Machine::new().await;
    let layout = machine.directory.path().join("layered");
    let busybox = fs::read("/bin/busybox").unwrap();
    let lower = layer(&[
        Item::File("bin/sh", &busybox, 0o755),
        Item::File("bin/ls", &busybox, 0o755),
        Item::File("old", b"", 0o644),
        Item::File("dir/old", b"", 0o644),
    ]);
    let upper = layer(&[
        Item::File(".wh.old", b"", 0o644),
        Item::File("dir/.wh..wh..opq", b"", 0o644),
        Item::File("dir/new", b"", 0o644),
    ]);
    write_layout(
        &layout,
        "Layered",
        &[lower, upper],
        serde_json::json!({"Entrypoint": ["ls"], "Cmd": ["/", "/dir"]}),
    );
    // Another process may import while the runtime is open; a name that registries would refuse is found as written.
    ImageStore::open(&machine.config.data_dir)
        .unwrap()
        .import(&layout)
        .unwrap();
    machine
        .runtime()
        .ensure_image("Layered", PullPolicy::IfNotPresent, &[])
        .await
        .unwrap();
    let mut spec = container("main", "");
    spec.image = "Layered".into();
    spec.command = Vec::new();
    let (exit, output) = machine.run_container(spec).await;
    assert_eq!(exit.exit_code, 0, "{output}");
    assert!(output.contains("new") && !output.contains("old"), "{output}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pull_policies_and_names_are_refused_with_their_reasons() {
    let machine = Machine::new().await;
    let ensure = |name: &'static str, policy| machine.runtime().ensure_image(name, policy, &[]);
    assert!(ensure("test/busybox:1", PullPolicy::Never).await.is_ok());
    assert!(matches!(
        ensure("test/absent", PullPolicy::Never).await,
        Err(RuntimeError::ImageAbsent { .. })
    ));
    assert!(matches!(
        ensure("Not A Name", PullPolicy::IfNotPresent).await,
        Err(RuntimeError::ImageName { .. })
    ));
    match ensure("127.0.0.1:1/absent:1", PullPolicy::IfNotPresent).await {
        Err(RuntimeError::ImagePull { reason, .. }) => assert!(reason.contains("refused"), "{reason}"),
        other => panic!("{other:?}"),
    }
}
