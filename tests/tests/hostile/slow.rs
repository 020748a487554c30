//! Clients that are slow, silent or many, and watches that nobody reads: the server ends what does not go on, and spends a bounded
//! memory until then.

use std::time::{Duration, Instant};

use futures::future::join_all;
use serde_json::json;
use tests::https::{Connection, HttpsError};
use tests::wait_for;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::{COLLECTION, JSON, Scene, sockets};

/// Attackers at once.
const MANY: usize = 300;

/// How long a client may take with the head of a request, or with TLS, before the server gives it up.
const HEAD_PATIENCE: Duration = Duration::from_secs(15);

/// How long it may take with a body.
const BODY_PATIENCE: Duration = Duration::from_secs(45);

/// Says a byte now and then until the server closes; yields how long that took.
async fn drip(mut connection: Connection, begun: Instant) -> Duration {
    loop {
        let sent = connection.send(b"x").await;
        let closed = tokio::time::timeout(Duration::from_millis(500), connection.answer()).await;
        match (sent, closed) {
            (Ok(()), Err(_)) if begun.elapsed() < BODY_PATIENCE * 2 => {}
            // An answer that says that it took too long, the end of the connection, or our own patience.
            _ => return begun.elapsed(),
        }
    }
}

/// Slowloris: heads that never end; and connections on which nothing is ever said, before TLS and after.
pub fn heads(scene: &Scene) {
    let longest = scene.runtime.block_on(async {
        let begun = Instant::now();
        let dripping = join_all((0..MANY).map(|_| async {
            let mut connection = scene.endpoint.connect().await.expect("a connection");
            connection
                .send(format!("GET {COLLECTION} HTTP/1.1\r\nHost: x\r\nX-Slow: ").as_bytes())
                .await
                .expect("it is sent");
            drip(connection, begun).await
        }));
        let silent = join_all((0..MANY).map(|at| async move {
            if at % 2 == 0 {
                let mut socket = TcpStream::connect(scene.endpoint.address).await.expect("a connection");
                let mut nothing = Vec::new();
                let _ = tokio::time::timeout(HEAD_PATIENCE * 2, socket.read_to_end(&mut nothing)).await;
            } else {
                let mut connection = scene.endpoint.connect().await.expect("a connection");
                let _ = tokio::time::timeout(HEAD_PATIENCE * 2, connection.closed()).await;
            }
            begun.elapsed()
        }));
        let (dripping, silent) = tokio::join!(dripping, silent);
        dripping.into_iter().chain(silent).max().expect("there are some")
    });
    assert!(longest < HEAD_PATIENCE, "the last connection was open for {longest:?}");
}

/// Bodies that come byte by byte, and bodies that stop in the middle.
pub fn bodies(scene: &Scene) {
    let longest = scene.runtime.block_on(async {
        let begun = Instant::now();
        let attackers = join_all((0..MANY).map(|at| async move {
            let mut connection = scene.endpoint.connect().await.expect("a connection");
            let head = format!("POST {COLLECTION} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 100000\r\n\r\n{{");
            connection.send(head.as_bytes()).await.expect("it is sent");
            if at % 2 == 0 {
                return drip(connection, begun).await;
            }
            let _ = tokio::time::timeout(BODY_PATIENCE * 2, connection.answer()).await;
            begun.elapsed()
        }));
        attackers.await.into_iter().max().expect("there are some")
    });
    assert!(longest < BODY_PATIENCE, "the last connection was open for {longest:?}");
}

/// Thousands of connections that were used once and are kept: they are closed when they stay idle, and new clients come in.
pub fn many_connections(scene: &Scene) {
    let before = sockets(scene.pid);
    let kept = scene.runtime.block_on(async {
        let request = scene.endpoint.request("GET", "/version", &[], b"");
        let mut kept = Vec::new();
        for _ in 0..20 {
            let opened = join_all((0..100).map(|_| async {
                let mut connection = scene.endpoint.connect().await?;
                connection.ask(&request).await?;
                Ok::<_, HttpsError>(connection)
            }));
            kept.extend(
                opened
                    .await
                    .into_iter()
                    .map(|opened| opened.expect("every connection is served")),
            );
        }
        kept
    });
    println!("measured: {} connections are open at once", sockets(scene.pid) - before);
    wait_for("idle connections are closed", Duration::from_secs(120), || {
        let open = sockets(scene.pid).saturating_sub(before);
        if open < 50 {
            Ok(())
        } else {
            Err(format!("{open} are open"))
        }
    });
    drop(kept);
}

/// Large objects, which watches with the label see.
pub fn write_flood(scene: &Scene) {
    const WRITES: usize = 400;
    scene.runtime.block_on(async {
        let value = "x".repeat(64 << 10);
        let mut connection = scene.endpoint.connect().await.expect("a connection");
        for at in 0..WRITES {
            let object = json!({"metadata": {"name": format!("flood-{at}"), "labels": {"flood": "yes"}}, "data": {"value": value}});
            let request = scene.endpoint.request("POST", COLLECTION, JSON, object.to_string().as_bytes());
            let answer = connection.ask(&request).await.expect("an answer");
            assert_eq!(answer.head.code, 201, "{:.300}", String::from_utf8_lossy(&answer.body));
        }
    });
}

/// And they go again.
pub fn remove_flood(scene: &Scene) {
    let path = format!("{COLLECTION}?labelSelector=flood%3Dyes");
    assert_eq!(scene.ask("DELETE", &path, &[], b"").head.code, 200);
}

/// Watches whose clients stop reading while large objects are written: memory stays bounded, and they are ended.
pub fn unread_watches(scene: &Scene) {
    const WATCHES: usize = 100;
    let before = sockets(scene.pid);
    let unread = scene.runtime.block_on(async {
        let path = format!("{COLLECTION}?watch=true&labelSelector=flood%3Dyes");
        let request = scene.endpoint.request("GET", &path, &[], b"");
        join_all((0..WATCHES).map(|_| async {
            let mut connection = scene.endpoint.connect().await.expect("a connection");
            connection.send(&request).await.expect("it is sent");
            assert_eq!(connection.head().await.expect("an answer").code, 200);
            connection
        }))
        .await
    });
    write_flood(scene);
    // Their connections are closed by the server, although the clients' sockets stay open.
    wait_for("the watches are ended", Duration::from_secs(120), || {
        let open = sockets(scene.pid).saturating_sub(before);
        if open < WATCHES / 10 {
            Ok(())
        } else {
            Err(format!("{open} are open"))
        }
    });
    drop(unread);
    remove_flood(scene);
}

/// Watches that are opened and dropped again and again.
pub fn watch_flood(scene: &Scene) {
    let before = sockets(scene.pid);
    scene.runtime.block_on(async {
        let path = format!("{COLLECTION}?watch=true");
        let request = scene.endpoint.request("GET", &path, &[], b"");
        for _ in 0..20 {
            let opened = join_all((0..50).map(|_| async {
                let mut connection = scene.endpoint.connect().await?;
                connection.send(&request).await?;
                connection.head().await.map(|head| head.code)
            }));
            for code in opened.await {
                assert!(matches!(code.expect("an answer"), 200 | 429));
            }
        }
        // And clients that go without a word: the socket is reset.
        let mut socket = TcpStream::connect(scene.endpoint.address).await.expect("a connection");
        socket.write_all(&[0x16]).await.expect("it is sent");
    });
    wait_for("the watches end with their clients", Duration::from_secs(30), || {
        let open = sockets(scene.pid).saturating_sub(before);
        if open < 20 {
            Ok(())
        } else {
            Err(format!("{open} are open"))
        }
    });
}
