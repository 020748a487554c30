//! Owns what one measurement says, and how it is shown. Made by the loads, called by the program at its end. It must say who
//! used the processor: clients and all nodes share one machine, and a rate alone tells nothing of what limits it.

use crate::report::grouped;
use crate::statistics::Percentiles;
use serde::Serialize;
use std::ops::Sub;

/// Processor seconds.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Cpu {
    /// The leader's process.
    pub leader_s: f64,
    /// The other nodes' processes together.
    pub others_s: f64,
    /// The clients, which are this process.
    pub clients_s: f64,
}

impl Sub for Cpu {
    type Output = Cpu;

    fn sub(self, before: Cpu) -> Cpu {
        Cpu {
            leader_s: self.leader_s - before.leader_s,
            others_s: self.others_s - before.others_s,
            clients_s: self.clients_s - before.clients_s,
        }
    }
}

/// What came of one load.
#[derive(Clone, Debug, Serialize)]
pub struct Measurement {
    /// What was done.
    pub what: String,
    /// How many connections did it.
    pub clients: usize,
    /// How often it was done: answers, or events.
    pub count: u64,
    /// In which time.
    pub seconds: f64,
    /// The rate.
    pub per_second: f64,
    /// Bytes of bodies that came, by the time.
    pub mb_per_second: f64,
    /// How long each took, in milliseconds: from the request to the whole answer, or from the request that wrote to the event.
    pub latency_ms: Option<Percentiles>,
    /// The processor time that it took.
    pub cpu: Cpu,
    /// The leader's resident memory afterwards.
    pub leader_rss_bytes: u64,
}

impl Measurement {
    /// Of durations in milliseconds, all within `seconds`.
    pub fn of(what: String, clients: usize, mut latencies_ms: Vec<f64>, seconds: f64, bytes: u64) -> Measurement {
        let count = latencies_ms.len() as u64;
        Measurement {
            what,
            clients,
            count,
            seconds,
            per_second: count as f64 / seconds,
            mb_per_second: bytes as f64 / 1e6 / seconds,
            latency_ms: Percentiles::of(&mut latencies_ms),
            cpu: Cpu::default(),
            leader_rss_bytes: 0,
        }
    }

    /// Processor microseconds for one, all processes together.
    fn cpu_us_each(&self) -> f64 {
        let Cpu {
            leader_s,
            others_s,
            clients_s,
        } = self.cpu;
        (leader_s + others_s + clients_s) * 1e6 / self.count.max(1) as f64
    }
}

/// The table in Markdown.
pub fn markdown(measurements: &[Measurement], machine: &str, date: &str, command: &str) -> String {
    let mut text = format!(
        "{machine}, {date}. `{command}`\n\n\
         | load | clients | count | per second | MB/s | p50 ms | p99 ms | max ms | cpu s: leader | other nodes | clients | cpu µs each | leader MiB |\n\
         |---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|\n"
    );
    for one in measurements {
        let latency = |pick: fn(&Percentiles) -> f64| {
            one.latency_ms
                .as_ref()
                .map_or_else(|| "-".to_owned(), |latency| format!("{:.2}", pick(latency)))
        };
        text.push_str(&format!(
            "| {} | {} | {} | {} | {:.1} | {} | {} | {} | {:.2} | {:.2} | {:.2} | {:.0} | {} |\n",
            one.what,
            grouped(one.clients as u64),
            grouped(one.count),
            rate(one.per_second),
            one.mb_per_second,
            latency(|latency| latency.p50),
            latency(|latency| latency.p99),
            latency(|latency| latency.max),
            one.cpu.leader_s,
            one.cpu.others_s,
            one.cpu.clients_s,
            one.cpu_us_each(),
            one.leader_rss_bytes >> 20,
        ));
    }
    text
}

fn rate(per_second: f64) -> String {
    if per_second < 100.0 {
        format!("{per_second:.1}")
    } else {
        grouped(per_second as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_says_rate_latency_and_who_used_the_processor() {
        let mut one = Measurement::of("get".to_owned(), 2, vec![1.0, 2.0, 3.0, 4.0], 0.001, 4_000);
        one.cpu = Cpu {
            leader_s: 0.5,
            others_s: 0.25,
            clients_s: 0.25,
        };
        let text = markdown(&[one], "m", "d", "c");
        let row = text.lines().last().unwrap();
        assert_eq!(
            row,
            "| get | 2 | 4 | 4,000 | 4.0 | 2.00 | 4.00 | 4.00 | 0.50 | 0.25 | 0.25 | 250000 | 0 |"
        );
    }
}
