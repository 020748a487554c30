//! Owns what a person or a program reads of results: the table, Markdown, CSV and JSON. Called by the programs at their end. It
//! must show failures as plainly as figures.

use crate::run::outcome::CaseResult;
use crate::statistics::Percentiles;
use comfy_table::{Cell, CellAlignment, Table, presets};
use std::io::{self, Write};

const HEADINGS: [&str; 15] = [
    "workload",
    "case",
    "depth",
    "nodes",
    "pods",
    "seconds",
    "cpu s",
    "pods/s",
    "threshold",
    "ratio",
    "latency p50 µs",
    "latency p99 µs",
    "cost p50 µs",
    "MiB",
    "result",
];

/// The cells of a result, in the order of the headings.
fn cells(result: &CaseResult) -> [String; 15] {
    let of = |percentiles: Option<Percentiles>, pick: fn(&Percentiles) -> f64| {
        percentiles
            .as_ref()
            .map_or_else(|| "-".to_owned(), |p| decimal(pick(p)))
    };
    let threshold = result.threshold.map(|threshold| match &result.threshold_note {
        Some(note) => format!("{threshold} ({note})"),
        None => format!("{threshold}"),
    });
    [
        result.workload.clone(),
        result.case.clone(),
        result.depth.clone(),
        grouped(result.nodes),
        grouped(result.pods),
        format!("{:.3}", result.seconds),
        result
            .cpu_seconds
            .map_or_else(|| "-".to_owned(), |seconds| format!("{seconds:.3}")),
        grouped(result.pods_per_s as u64),
        threshold.unwrap_or_else(|| "none".to_owned()),
        result
            .ratio
            .map_or_else(|| "-".to_owned(), |ratio| format!("{ratio:.0}x")),
        of(result.decision_latency_us, |p| p.p50),
        of(result.decision_latency_us, |p| p.p99),
        of(result.decision_cost_us, |p| p.p50),
        grouped(result.rss_bytes_max >> 20),
        result.failure.clone().unwrap_or_else(|| "ok".to_owned()),
    ]
}

fn decimal(value: f64) -> String {
    match value {
        value if value >= 100.0 => grouped(value as u64),
        value => format!("{value:.1}"),
    }
}

/// A whole number with commas between its thousands.
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// The table for a terminal.
pub fn table(results: &[CaseResult]) -> String {
    let mut table = Table::new();
    table.load_style(presets::UTF8_HORIZONTAL_ONLY);
    table.set_header(HEADINGS);
    for result in results {
        let cells = cells(result).into_iter().enumerate().map(|(at, text)| {
            let figure = (3..=13).contains(&at);
            Cell::new(text).set_alignment(if figure {
                CellAlignment::Right
            } else {
                CellAlignment::Left
            })
        });
        table.add_row(cells);
    }
    let mut text = table.to_string();
    let mut told = Vec::new();
    for result in results {
        for line in [
            format!("seconds ({}): {}", result.depth, result.timed_section),
            format!("latency ({}): {}", result.depth, result.decision_latency_of),
        ] {
            if !told.contains(&line) {
                text.push_str(&format!("\n{line}"));
                told.push(line);
            }
        }
    }
    text
}

/// The table in Markdown, with where and how it was made.
pub fn markdown(results: &[CaseResult], machine: &str, date: &str, command: &str) -> String {
    let mut text = format!("{machine}, {date}. `{command}`\n\n| {} |\n|", HEADINGS.join(" | "));
    for at in 0..HEADINGS.len() {
        text.push_str(if (3..=13).contains(&at) { "---:|" } else { "---|" });
    }
    text.push('\n');
    for result in results {
        let cells = cells(result).map(|cell| cell.replace('|', "\\|").replace('\n', " "));
        text.push_str(&format!("| {} |\n", cells.join(" | ")));
    }
    text
}

/// A row of CSV for each result; percentiles in columns of their own.
pub fn csv(results: &[CaseResult], to: impl Write) -> Result<(), csv::Error> {
    let mut writer = csv::Writer::from_writer(to);
    writer.write_record([
        "workload",
        "case",
        "depth",
        "nodes",
        "pods",
        "init_pods",
        "seconds",
        "cpu_seconds",
        "pods_per_s",
        "threshold",
        "ratio",
        "latency_p50_us",
        "latency_p90_us",
        "latency_p99_us",
        "latency_max_us",
        "cost_p50_us",
        "cost_p99_us",
        "rss_bytes_max",
        "bound",
        "refusals",
        "victims",
        "seed",
        "threads",
        "repeat",
        "failure",
    ])?;
    for result in results {
        let number = |value: Option<f64>| value.map_or_else(String::new, |value| format!("{value:.3}"));
        let latency = result.decision_latency_us;
        let cost = result.decision_cost_us;
        writer.write_record([
            result.workload.clone(),
            result.case.clone(),
            result.depth.clone(),
            result.nodes.to_string(),
            result.pods.to_string(),
            result.init_pods.to_string(),
            format!("{:.6}", result.seconds),
            number(result.cpu_seconds),
            format!("{:.1}", result.pods_per_s),
            number(result.threshold),
            number(result.ratio),
            number(latency.map(|p| p.p50)),
            number(latency.map(|p| p.p90)),
            number(latency.map(|p| p.p99)),
            number(latency.map(|p| p.max)),
            number(cost.map(|p| p.p50)),
            number(cost.map(|p| p.p99)),
            result.rss_bytes_max.to_string(),
            result.bound.to_string(),
            result.refusals.to_string(),
            result.victims.to_string(),
            result.seed.to_string(),
            result.threads.to_string(),
            result.repeat.to_string(),
            result.failure.clone().unwrap_or_default(),
        ])?;
    }
    writer.flush()?;
    Ok(())
}

/// The results as JSON, a list.
pub fn json(results: &[CaseResult], mut to: impl Write) -> io::Result<()> {
    serde_json::to_writer_pretty(&mut to, results)?;
    to.write_all(b"\n")
}

/// The machine in a few words.
pub fn machine() -> String {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let cpus = std::thread::available_parallelism().map_or(0, |n| n.get());
    let memory = read("/proc/meminfo");
    let kib = memory.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let gib = kib
        .and_then(|text| text.split_whitespace().next()?.parse::<u64>().ok())
        .unwrap_or(0)
        >> 20;
    let cpuinfo = read("/proc/cpuinfo");
    let model = cpuinfo
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let model = model.map_or("unknown processor", |(_, name)| name);
    format!(
        "{cpus} cpus ({model}), {gib} GiB, Linux {}",
        read("/proc/sys/kernel/osrelease").trim()
    )
}

/// Of several runs of a case the one with the median rate; failures are kept.
pub fn medians(results: &[CaseResult]) -> Vec<CaseResult> {
    let mut chosen: Vec<CaseResult> = Vec::new();
    let same = |a: &CaseResult, b: &CaseResult| (&a.workload, &a.case, &a.depth) == (&b.workload, &b.case, &b.depth);
    for result in results {
        if chosen.iter().any(|one| same(one, result)) {
            continue;
        }
        let mut runs: Vec<&CaseResult> = results.iter().filter(|other| same(other, result)).collect();
        if let Some(failed) = runs.iter().find(|run| run.failure.is_some()) {
            chosen.push((*failed).clone());
            continue;
        }
        runs.sort_by(|a, b| a.pods_per_s.total_cmp(&b.pods_per_s));
        chosen.push(runs[runs.len() / 2].clone());
    }
    chosen
}

#[cfg(test)]
mod tests {
    use super::*;

    fn result(case: &str, pods_per_s: f64) -> CaseResult {
        CaseResult {
            workload: "W".to_owned(),
            case: case.to_owned(),
            depth: "core".to_owned(),
            pods_per_s,
            ..CaseResult::default()
        }
    }

    #[test]
    fn numbers_are_grouped() {
        for (number, text) in [(0, "0"), (999, "999"), (1000, "1,000"), (1234567, "1,234,567")] {
            assert_eq!(grouped(number), text);
        }
    }

    #[test]
    fn the_median_run_stands_for_a_case_and_a_failure_for_all_of_its_runs() {
        let mut results = vec![result("a", 3.0), result("a", 1.0), result("b", 5.0), result("a", 2.0)];
        let rates: Vec<f64> = medians(&results).iter().map(|r| r.pods_per_s).collect();
        assert_eq!(rates, [2.0, 5.0]);
        results[1].failure = Some("no".to_owned());
        assert!(medians(&results)[0].failure.is_some());
    }

    #[test]
    fn every_form_has_a_row_for_each_result() {
        let results = [result("a", 3.0), result("b", 1.0)];
        let mut rows = Vec::new();
        csv(&results, &mut rows).unwrap();
        assert_eq!(String::from_utf8(rows).unwrap().lines().count(), 3);
        assert_eq!(markdown(&results, "m", "d", "c").lines().count(), 6);
        let mut text = Vec::new();
        json(&results, &mut text).unwrap();
        let read: Vec<CaseResult> = serde_json::from_slice(&text).unwrap();
        assert_eq!(read, results);
    }
}
