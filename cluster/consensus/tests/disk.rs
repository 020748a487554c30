//! A disk that is full, and one that is damaged.
#![allow(clippy::disallowed_methods)] // tests wait

mod support;

use std::path::{Path, PathBuf};

use consensus::{Consensus, ConsensusConfig, StartError};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use protocol::Cause;
use protocol::store::{ListRequest, ObjectStore, Precondition, Proposal, ProposeError, Write};
use support::*;

/// A small filesystem of its own.
struct SmallDisk {
    path: PathBuf,
}

impl SmallDisk {
    fn new(bytes: u64) -> SmallDisk {
        let path = std::env::temp_dir().join(format!("consensus-disk-{}", std::process::id()));
        SmallDisk::at(path, bytes)
    }

    fn at(path: PathBuf, bytes: u64) -> SmallDisk {
        std::fs::create_dir_all(&path).unwrap();
        let size = format!("size={bytes}");
        mount(
            Some("tmpfs"),
            &path,
            Some("tmpfs"),
            MsFlags::empty(),
            Some(size.as_str()),
        )
        .expect("mounting a tmpfs needs root: run the tests as root");
        SmallDisk { path }
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = umount2(&self.path, MntFlags::MNT_DETACH);
        let _ = std::fs::remove_dir(&self.path);
    }
}

/// Writes zeros until the disk takes no more.
fn fill(path: &Path) {
    use std::io::Write;
    let mut file = std::fs::File::create(path).unwrap();
    while file.write_all(&[0; 64 << 10]).is_ok() {}
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_refuses_writes_says_so_and_recovers() {
    let disk = SmallDisk::new(96 << 20);
    let mut cluster = Cluster::new(&disk.path);
    cluster.form(1).await;
    let client = cluster.nodes[&1].client.clone();
    for number in 0..50 {
        client
            .propose(put(&key(format!("before{number}")), Precondition::Absent, number))
            .await
            .unwrap();
    }
    let ballast = disk.path.join("ballast");
    fill(&ballast);
    let mut refusal = None;
    for number in 0..10_000 {
        match client
            .propose(put(&key(format!("during{number}")), Precondition::Absent, number))
            .await
        {
            Ok(_) => {}
            Err(ProposeError::Storage { reason }) => {
                refusal = Some((number, reason));
                break;
            }
            Err(error) => panic!("{error}"),
        }
    }
    let (accepted, reason) = refusal.expect("a full disk refused nothing");
    assert!(
        reason.contains("free some space") && reason.contains(disk.path.to_str().unwrap()),
        "{reason}"
    );
    // Reads go on, and so do writes when there is room again.
    assert_eq!(
        client.list(ListRequest::all("pods")).await.unwrap().items.len() as u64,
        50 + accepted
    );
    std::fs::remove_file(&ballast).unwrap();
    let mut written = Err(ProposeError::Unknown { deadline_ms: 0 });
    for _ in 0..100 {
        written = client.propose(put(&key("after"), Precondition::None, 1)).await;
        if written.is_ok() {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    written.unwrap();
    drop(client);
    cluster.stop(1).await;
    cluster.start(1).await;
    cluster.leader().await;
    let listed = cluster.nodes[&1].client.list(ListRequest::all("pods")).await.unwrap();
    assert_eq!(listed.items.len() as u64, 50 + accepted + 1);
    cluster.stop_all().await;
}

/// A write of 64 KiB: the log has reserved some megabytes on the disk that small ones would not use up.
fn put_large(number: u64) -> Proposal {
    let key = key(format!("p{number}"));
    let write = Write::Put {
        draft: draft(&key, number, 64 << 10),
        precondition: Precondition::Absent,
        key,
    };
    Proposal::one(Cause(1), write)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_whose_disk_fails_says_so_and_works_on_as_a_client_of_the_others() {
    let directory = tempfile::tempdir().unwrap();
    let disk = SmallDisk::at(directory.path().join("n3"), 48 << 20);
    let mut cluster = Cluster::new(directory.path());
    // Without a reserve nothing refuses a write before the disk does.
    cluster.configure = |config| config.retention.disk_reserve_bytes = 0;
    cluster.form(3).await;
    let ballast = disk.path.join("ballast");
    fill(&ballast);
    let client = cluster.nodes[&1].client.clone();
    let failing = cluster.nodes[&3].consensus.clone();
    for number in 0..2_000 {
        if failing.status().failed.is_some() {
            break;
        }
        client.propose(put_large(number)).await.unwrap();
    }
    let status = failing.status();
    let reason = status.failed.expect("the disk is full, and nothing failed");
    assert!(reason.contains("No space left"), "{reason}");
    assert!(!status.is_leader);
    // Its own client goes on, through the others, and follows them to another leader.
    let own = cluster.nodes[&3].client.clone();
    own.propose(put(&key("through-the-others"), Precondition::Absent, 7))
        .await
        .unwrap();
    let others = [1, 2];
    let leader = cluster.leader_among(&others).await;
    assert_eq!(value(&own.read(&key("through-the-others")).await.unwrap().unwrap()), 7);
    drop((client, own, failing));
    // With room again, a new start takes part as before.
    std::fs::remove_file(&ballast).unwrap();
    cluster.stop(3).await;
    cluster.start(3).await;
    let third = cluster.nodes[&3].consensus.clone();
    let goal = cluster.nodes[&leader].consensus.progress().last_log;
    wait_for("the third node to catch up", || third.progress().last_applied >= goal).await;
    assert_eq!(third.status().failed, None);
    drop(third);
    cluster.stop_all().await;
    drop(disk);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_single_node_whose_disk_has_failed_names_the_cause_to_its_clients() {
    let directory = tempfile::tempdir().unwrap();
    let disk = SmallDisk::at(directory.path().join("n1"), 48 << 20);
    let mut cluster = Cluster::new(directory.path());
    cluster.configure = |config| config.retention.disk_reserve_bytes = 0;
    cluster.form(1).await;
    fill(&disk.path.join("ballast"));
    let node = cluster.nodes[&1].consensus.clone();
    let client = cluster.nodes[&1].client.clone();
    let mut number = 0;
    while node.status().failed.is_none() {
        assert!(number < 2_000, "the disk is full, and nothing failed");
        let _ = client.propose(put_large(number)).await;
        number += 1;
    }
    let error = client
        .propose(put(&key("x"), Precondition::Absent, 1))
        .await
        .unwrap_err();
    assert!(error.to_string().contains("No space left"), "{error}");
    let error = client.read(&key("x")).await.unwrap_err();
    assert!(error.to_string().contains("No space left"), "{error}");
    drop((node, client));
    cluster.stop_all().await;
    drop(disk);
}

async fn written_and_stopped(directory: &Path) {
    let mut cluster = Cluster::new(directory);
    cluster.form(1).await;
    let client = cluster.nodes[&1].client.clone();
    let proposals = (0..2_000).map(|number| put(&key(format!("p{number}")), Precondition::Absent, number));
    assert!(client.propose_all(proposals.collect()).await.iter().all(Result::is_ok));
    drop(client);
    cluster.stop_all().await;
}

async fn start(directory: &Path) -> Result<std::sync::Arc<Consensus>, StartError> {
    let config = ConsensusConfig::new(name(1), 1, directory.join("n1"));
    Consensus::start(config, Mesh::default().transport(&name(1))).await
}

/// Turns the middle of each of the largest files with this extension into something else.
fn damage(directory: &Path, extension: &str) {
    let mut damaged = 0;
    for entry in std::fs::read_dir(directory).unwrap().flatten() {
        let path = entry.path();
        if path.extension().is_some_and(|found| found == extension) && entry.metadata().unwrap().len() > 4096 {
            let mut bytes = std::fs::read(&path).unwrap();
            let middle = bytes.len() / 2;
            for byte in &mut bytes[middle..middle + 512] {
                *byte ^= 0xa5;
            }
            std::fs::write(&path, bytes).unwrap();
            damaged += 1;
        }
    }
    assert!(damaged > 0, "nothing to damage in {}", directory.display());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_log_stops_the_start_and_says_what_to_do() {
    let directory = tempfile::tempdir().unwrap();
    written_and_stopped(directory.path()).await;
    damage(&directory.path().join("n1/log"), "log");
    let error = start(directory.path())
        .await
        .err()
        .expect("a damaged log was taken for whole");
    assert!(
        matches!(error, StartError::Log { .. } | StartError::Raft { .. }),
        "{error}"
    );
    assert!(error.to_string().contains("n1"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_data_directory_that_cannot_be_made_is_named() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("n1"), "a file, not a directory").unwrap();
    let error = start(directory.path()).await.err().unwrap();
    assert!(matches!(error, StartError::Directory { .. }), "{error}");
    assert!(error.to_string().contains("n1"), "{error}");
}
