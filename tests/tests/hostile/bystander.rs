//! Another client: it gets its ConfigMap every 20 ms, over one connection, and measures how long that takes. Whatever is done to
//! the node meanwhile, it must be served.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tests::https::{Connection, Endpoint, HttpsError};

use crate::{COLLECTION, JSON, Scene};

const EVERY: Duration = Duration::from_millis(20);

/// What it has seen.
#[derive(Clone, Copy, Debug)]
pub struct Seen {
    answers: usize,
    p50: Duration,
    /// 99 of a hundred answers came within this.
    pub p99: Duration,
    max: Duration,
}

impl fmt::Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Seen { answers, p50, p99, max } = self;
        write!(f, "{answers} answers, p50 {p50:.1?}, p99 {p99:.1?}, max {max:.1?}")
    }
}

/// It, at work.
pub struct Bystander {
    stop: Arc<AtomicBool>,
    thread: std::thread::JoinHandle<Result<Vec<Duration>, String>>,
}

/// Makes its ConfigMap.
pub fn prepare(scene: &Scene) {
    let object = br#"{"metadata":{"name":"bystander"},"data":{"key":"value"}}"#;
    let answer = scene.ask("POST", COLLECTION, JSON, object);
    assert_eq!(answer.head.code, 201, "{:?}", answer.body);
}

impl Bystander {
    /// In a thread and a runtime of its own: the attackers do not hold it up.
    pub fn start(scene: &Scene) -> Bystander {
        let stop = Arc::new(AtomicBool::new(false));
        let (endpoint, stopped) = (scene.endpoint.clone(), Arc::clone(&stop));
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let runtime = runtime.map_err(|error| error.to_string())?;
            runtime.block_on(keep_asking(&endpoint, &stopped))
        });
        Bystander { stop, thread }
    }

    /// Ends it. An error is an answer that it did not get.
    pub fn finish(self) -> Result<Seen, String> {
        self.stop.store(true, Ordering::Relaxed);
        let mut latencies = self.thread.join().expect("a bystander does not panic")?;
        latencies.sort_unstable();
        let rank =
            |share: f64| latencies[((latencies.len() as f64 * share).ceil() as usize).clamp(1, latencies.len()) - 1];
        Ok(Seen {
            answers: latencies.len(),
            p50: rank(0.5),
            p99: rank(0.99),
            max: rank(1.0),
        })
    }
}

async fn keep_asking(endpoint: &Endpoint, stopped: &AtomicBool) -> Result<Vec<Duration>, String> {
    let request = endpoint.request("GET", &format!("{COLLECTION}/bystander"), &[], b"");
    let mut connection: Option<Connection> = None;
    let mut latencies = Vec::new();
    while latencies.is_empty() || !stopped.load(Ordering::Relaxed) {
        let begun = Instant::now();
        let asked = async {
            let mut open = match connection.take() {
                Some(open) => open,
                None => endpoint.connect().await?,
            };
            let answer = open.ask(&request).await?;
            connection = (!answer.head.closes).then_some(open);
            Ok::<_, HttpsError>(answer)
        };
        let answer = tokio::time::timeout(Duration::from_secs(20), asked).await;
        let answer = answer
            .map_err(|_| "no answer in 20 s".to_owned())?
            .map_err(|error| error.to_string())?;
        if answer.head.code != 200 {
            return Err(format!("{}: {:?}", answer.head.code, answer.body));
        }
        latencies.push(begun.elapsed());
        tokio::time::sleep(EVERY.saturating_sub(begun.elapsed())).await;
    }
    Ok(latencies)
}
