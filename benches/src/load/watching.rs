//! Owns the load of watches: many watchers of one kind, each on a connection of its own, and a writer whose objects carry the
//! instant at which they were sent. Called by `api_load`. It must wait for every event at every watcher.

use super::measurement::Measurement;
use super::requests::closed;
use super::{ACCEPT, JSON, LoadError, NAMESPACE, Target, Via, connect, expect};
use ::tests::https::Connection;
use bytes::BytesMut;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// How long events may take after the last write before they count as lost.
const PATIENCE: Duration = Duration::from_secs(60);

/// Connections that write.
const WRITERS: usize = 8;

const MARK: &[u8] = br#""sent":""#;

/// How much is written.
#[derive(Clone, Copy, Debug)]
pub struct Writes {
    /// Objects in all.
    pub count: u64,
    /// Objects a second; as fast as they are answered when it is zero.
    pub per_second: u64,
}

/// Opens so many watches of ConfigMaps, writes, and measures how long each event takes to each watcher.
pub async fn watches(
    target: &Arc<Target>,
    via: Via,
    watchers: usize,
    writes: Writes,
    round: usize,
) -> Result<Measurement, LoadError> {
    let origin = Instant::now();
    let path = format!("/api/v1/namespaces/{NAMESPACE}/configmaps?watch=true&resourceVersion={{}}&timeoutSeconds=3600");
    let path = path.replace("{}", &revision(target).await?);
    let mut open = Vec::new();
    for watcher in 0..watchers {
        let mut connection = connect(target, via, watcher).await?;
        let request = target.endpoint(via, watcher).request("GET", &path, ACCEPT, b"");
        connection.send(&request).await?;
        let head = connection.head().await?;
        if head.code != 200 {
            return Err(LoadError::Refused {
                what: path,
                code: head.code,
                body: String::new(),
            });
        }
        open.push(connection);
    }
    let before = target.cpu();
    let delivered = Arc::new(AtomicU64::new(0));
    let tasks: Vec<_> = open
        .into_iter()
        .map(|connection| {
            let counting = follow(connection, origin, writes.count, Arc::clone(&delivered));
            tokio::spawn(counting)
        })
        .collect();
    let begun = Instant::now();
    write(target, writes, origin, round).await?;
    let expected = writes.count * watchers as u64;
    let (mut latencies_ms, mut bytes) = (Vec::with_capacity(expected as usize), 0);
    let deadline = tokio::time::Instant::now() + PATIENCE;
    for task in tasks {
        let followed = tokio::time::timeout_at(deadline, task).await;
        let (of_one, its_bytes) = followed
            .map_err(|_| LoadError::Missing {
                missing: expected - delivered.load(Ordering::Relaxed),
                expected,
                seconds: PATIENCE.as_secs(),
            })?
            .map_err(|error| LoadError::Cluster(error.to_string()))??;
        latencies_ms.extend(of_one.into_iter().map(|delay_us| f64::from(delay_us) / 1e3));
        bytes += its_bytes;
    }
    let pace = match writes.per_second {
        0 => "as fast as answered".to_owned(),
        rate => format!("{rate} a second"),
    };
    let what = format!(
        "events at watchers through {}, {} writes {pace}",
        via.name(),
        writes.count
    );
    let measurement = Measurement::of(what, watchers, latencies_ms, begun.elapsed().as_secs_f64(), bytes);
    Ok(closed(target, before, measurement))
}

async fn revision(target: &Target) -> Result<String, LoadError> {
    let path = format!("/api/v1/namespaces/{NAMESPACE}/configmaps?limit=1");
    let answer = target.endpoint(Via::Leader, 0).once("GET", &path, ACCEPT, b"").await?;
    expect(200, &path, &answer)?;
    let list: serde_json::Value =
        serde_json::from_slice(&answer.body).map_err(|error| LoadError::Cluster(error.to_string()))?;
    let revision = list["metadata"]["resourceVersion"].as_str();
    Ok(revision.unwrap_or_default().to_owned())
}

/// Reads events until all have come: microseconds from their sending, and bytes.
async fn follow(
    mut connection: Connection,
    origin: Instant,
    count: u64,
    delivered: Arc<AtomicU64>,
) -> Result<(Vec<u32>, u64), LoadError> {
    let (mut delays_us, mut bytes, mut rest) = (Vec::with_capacity(count as usize), 0, BytesMut::new());
    while (delays_us.len() as u64) < count {
        let Some(chunk) = connection.chunk().await? else {
            return Err(LoadError::Cluster("a watch ended before all of its events".to_owned()));
        };
        bytes += chunk.len() as u64;
        let now_us = origin.elapsed().as_micros() as u64;
        rest.extend_from_slice(&chunk);
        while let Some(end) = memchr::memchr(b'\n', &rest) {
            let line = rest.split_to(end + 1);
            if let Some(sent_us) = sent_us(&line) {
                delays_us.push(now_us.saturating_sub(sent_us) as u32);
                delivered.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
    Ok((delays_us, bytes))
}

/// When the object of an event was sent.
fn sent_us(line: &[u8]) -> Option<u64> {
    let at = memchr::memmem::find(line, MARK)? + MARK.len();
    let digits = line[at..].split(|byte| *byte == b'"').next()?;
    std::str::from_utf8(digits).ok()?.parse().ok()
}

/// Creates the objects at their pace.
async fn write(target: &Arc<Target>, writes: Writes, origin: Instant, round: usize) -> Result<(), LoadError> {
    let path = format!("/api/v1/namespaces/{NAMESPACE}/configmaps");
    let next = Arc::new(AtomicU64::new(0));
    let begun = tokio::time::Instant::now();
    let mut tasks = Vec::new();
    for writer in 0..WRITERS {
        let (target, next, path) = (Arc::clone(target), Arc::clone(&next), path.clone());
        tasks.push(tokio::spawn(async move {
            let mut connection = connect(&target, Via::Leader, writer).await?;
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= writes.count {
                    return Ok::<(), LoadError>(());
                }
                if writes.per_second > 0 {
                    let due = begun + Duration::from_secs_f64(number as f64 / writes.per_second as f64);
                    tokio::time::sleep_until(due).await;
                }
                let sent = origin.elapsed().as_micros();
                let object = format!(
                    r#"{{"apiVersion":"v1","kind":"ConfigMap","metadata":{{"name":"w{round}-{number}"}},"data":{{"sent":"{sent}"}}}}"#
                );
                let endpoint = target.endpoint(Via::Leader, 0);
                let answer = connection.ask(&endpoint.request("POST", &path, JSON, object.as_bytes())).await?;
                expect(201, "a create", &answer)?;
            }
        }));
    }
    for task in tasks {
        task.await.map_err(|error| LoadError::Cluster(error.to_string()))??;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_tells_when_its_object_was_sent() {
        let line = br#"{"type":"ADDED","object":{"data":{"sent":"1234"},"kind":"ConfigMap"}}"#;
        assert_eq!(sent_us(line), Some(1234));
        assert_eq!(sent_us(br#"{"type":"BOOKMARK"}"#), None);
    }
}
