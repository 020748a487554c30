//! Replays a cluster trace through the scheduler and through simple rules, and compares how well they pack. Called by people. It
//! must give every policy the same arrivals.

use benches::plot;
use benches::progress::ProgressLine;
use benches::replay::generate::{self, Shape};
use benches::replay::policy::{Choice, Ours, Policy, Simple};
use benches::replay::quality::Quality;
use benches::replay::{Trace, alibaba, google, replay};
use clap::{Args, Parser};
use comfy_table::{CellAlignment, Table, presets};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

type Failure = Box<dyn std::error::Error>;

/// Replays a cluster trace and compares packing.
#[derive(Parser)]
#[command(name = "replay", version)]
struct Arguments {
    #[command(flatten)]
    source: Source,
    /// Seconds of the trace between two samples.
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..))]
    sample: u64,
    /// Decides what is random.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Writes the figures as JSON, a list.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Writes the table as Markdown.
    #[arg(long, value_name = "FILE")]
    markdown: Option<PathBuf>,
    /// Draws cpu in use and fragmentation over time: FILE, and FILE with `-fragmentation` in its name.
    #[arg(long, value_name = "FILE")]
    plot: Option<PathBuf>,
}

#[derive(Args)]
#[group(multiple = false)]
struct Source {
    /// A folder of Alibaba's cluster-trace-v2018. The default is the small synthetic one of this crate.
    #[arg(long, value_name = "FOLDER")]
    alibaba: Option<PathBuf>,
    /// A folder of Google's clusterdata-2011.
    #[arg(long, value_name = "FOLDER")]
    google: Option<PathBuf>,
    /// Makes a synthetic trace in Alibaba's format in this folder, and ends.
    #[arg(long, value_name = "FOLDER")]
    generate: Option<PathBuf>,
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("replay: {error}");
            ExitCode::from(2)
        }
    }
}

fn run(arguments: &Arguments) -> Result<(), Failure> {
    if let Some(folder) = &arguments.source.generate {
        generate::write(folder, Shape::default(), arguments.seed)
            .map_err(|error| format!("{} cannot be written: {error}", folder.display()))?;
        return Ok(());
    }
    let trace = match (&arguments.source.alibaba, &arguments.source.google) {
        (Some(folder), _) => alibaba::read(folder)?,
        (None, Some(folder)) => google::read(folder)?,
        (None, None) => alibaba::read(Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/traces/synthetic")))?,
    };
    println!(
        "{} machines, {} tasks, {:.1} hours",
        trace.machines.len(),
        trace.tasks.len(),
        trace.ends_s() as f64 / 3600.0
    );
    let mut figures = Vec::new();
    for mut policy in policies(&trace, arguments.seed) {
        let mut line = ProgressLine::new(policy.name());
        line.show(0, 1);
        figures.push(replay(&trace, policy.as_mut(), arguments.sample));
        line.clear();
    }
    println!("{}", table(&figures, presets::UTF8_HORIZONTAL_ONLY));
    println!(
        "fragmentation: free cpu on machines on which the request does not fit (cpu and memory), by all free cpu; large is the 95th \
         percentile of requests. pending: seconds from arrival (or preemption) to placement."
    );
    if let Some(path) = &arguments.json {
        let text = serde_json::to_string_pretty(&figures)? + "\n";
        std::fs::write(path, text).map_err(|error| format!("{} cannot be written: {error}", path.display()))?;
    }
    if let Some(path) = &arguments.markdown {
        let text = table(&figures, presets::ASCII_MARKDOWN) + "\n";
        std::fs::write(path, text).map_err(|error| format!("{} cannot be written: {error}", path.display()))?;
    }
    if let Some(path) = &arguments.plot {
        draw(path, &figures, arguments.sample)?;
    }
    Ok(())
}

fn policies(trace: &Trace, seed: u64) -> Vec<Box<dyn Policy + '_>> {
    vec![
        Box::new(Ours::least_allocated(trace, seed)),
        Box::new(Ours::most_allocated(trace, seed)),
        Box::new(Simple::new(trace, Choice::First, seed)),
        Box::new(Simple::new(trace, Choice::Best, seed)),
        Box::new(Simple::new(trace, Choice::Random, seed)),
    ]
}

fn table(figures: &[Quality], preset: comfy_table::TableStyle) -> String {
    let mut table = Table::new();
    table.load_style(preset);
    table.set_header([
        "policy",
        "cpu mean",
        "cpu peak",
        "memory mean",
        "memory peak",
        "fragmentation median",
        "fragmentation large",
        "pending p50 s",
        "pending p99 s",
        "pending max s",
        "never placed",
        "preemptions",
        "machines mean",
        "machines peak",
    ]);
    let per_cent = |share: f64| format!("{:.1} %", share * 100.0);
    for of in figures {
        let pending = of.pending_s.unwrap_or_default();
        table.add_row([
            of.policy.clone(),
            per_cent(of.cpu_mean),
            per_cent(of.cpu_peak),
            per_cent(of.memory_mean),
            per_cent(of.memory_peak),
            per_cent(of.fragmentation_median),
            per_cent(of.fragmentation_large),
            format!("{:.0}", pending.p50),
            format!("{:.0}", pending.p99),
            format!("{:.0}", pending.max),
            (of.tasks - of.placed).to_string(),
            of.preemptions.to_string(),
            format!("{:.1}", of.nodes_used_mean),
            of.nodes_used_peak.to_string(),
        ]);
    }
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table.to_string()
}

fn draw(path: &Path, figures: &[Quality], sample_s: u64) -> Result<(), plot::PlotError> {
    let series = |pick: fn(&Quality) -> &[f64]| -> Vec<plot::Series> {
        let points = |of: &Quality| {
            let hours = |at: usize| (at as u64 * sample_s) as f64 / 3600.0;
            pick(of)
                .iter()
                .enumerate()
                .map(|(at, share)| (hours(at), share * 100.0))
                .collect()
        };
        figures.iter().map(|of| (of.policy.clone(), points(of))).collect()
    };
    plot::lines(
        path,
        "Requested cpu",
        "hours",
        "per cent",
        &series(|of| &of.cpu_over_time),
    )?;
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    let second = path.with_file_name(format!("{stem}-fragmentation.svg"));
    let title = "Free cpu that cannot take a large request";
    plot::lines(
        &second,
        title,
        "hours",
        "per cent",
        &series(|of| &of.fragmentation_over_time),
    )
}
