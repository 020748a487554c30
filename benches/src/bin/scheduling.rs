//! The scheduling benchmark program: runs workloads of Kubernetes' scheduler_perf, each case in a process of its own, and reports
//! throughput, latency and memory. Called by people and by CI. It must end with failure if any case failed.

#![allow(clippy::disallowed_methods)] // a report carries its date

use benches::catalog::{Catalog, SCALE, Selected};
use benches::child::{self, CHILD, Order, Report};
use benches::progress::ProgressLine;
use benches::run::outcome::CaseResult;
use benches::run::{CaseError, RunOptions};
use benches::{plot, report};
use clap::{Parser, Subcommand, ValueEnum};
use std::fs::File;
use std::io::{BufWriter, Read};
use std::path::PathBuf;
use std::process::ExitCode;

/// The same as the program `actorium` has.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

type Failure = Box<dyn std::error::Error>;

/// Measures the scheduler with the workloads of Kubernetes' scheduler_perf.
#[derive(Parser)]
#[command(name = "scheduling", version)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    /// Lists the workloads and their cases.
    #[arg(long, global = true)]
    list: bool,
    /// Runs every case.
    #[arg(long)]
    all: bool,
    /// Runs the cases of this workload.
    #[arg(long)]
    workload: Option<String>,
    /// Runs this case only.
    #[arg(long, requires = "workload")]
    case: Option<String>,
    /// Reads workloads from this file instead of those compiled in.
    #[arg(long, global = true)]
    file: Option<PathBuf>,
    /// Runs the cases in small sizes: a check that takes a second, no measurement.
    #[arg(long, global = true)]
    small: bool,
    /// How deep: the scheduler alone; with its actor, consensus, RocksDB and fsync; or over HTTPS with a node process.
    #[arg(long, global = true, value_enum, default_value_t = Depth::Core)]
    depth: Depth,
    /// Writes the results as JSON, a list.
    #[arg(long, global = true, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Writes the results as CSV.
    #[arg(long, global = true, value_name = "FILE")]
    csv: Option<PathBuf>,
    /// Writes the table as Markdown, with machine, date and command.
    #[arg(long, global = true, value_name = "FILE")]
    markdown: Option<PathBuf>,
    /// Draws the results as SVG.
    #[arg(long, global = true, value_name = "FILE")]
    plot: Option<PathBuf>,
    /// Decides between equally good nodes.
    #[arg(long, global = true, default_value_t = 0)]
    seed: u64,
    /// Threads: at depth `core` the scheduler's (and, beside them, one that makes objects); at the others the runtime's.
    #[arg(long, global = true, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..))]
    threads: u16,
    /// Runs every case so often; the table shows the run with the median throughput.
    #[arg(long, global = true, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    repeat: u32,
    /// Pods that arrive between two rounds, and the most that a round decides for (depth `core`).
    #[arg(long, global = true, default_value_t = 512, value_parser = clap::value_parser!(u32).range(1..))]
    round: u32,
    /// Voters (depth `store`).
    #[arg(long, global = true, default_value = "1", value_parser = ["1", "3"])]
    voters: String,
    /// Connections that create pods (depths `store` and `api`).
    #[arg(long, global = true, default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..))]
    clients: u16,
}

#[derive(Subcommand)]
enum Command {
    /// Shows how the time for a pod grows with the number of nodes.
    Scale,
    /// Runs one case, told on standard input.
    #[command(name = CHILD, hide = true)]
    Child,
}

#[derive(Clone, Copy, ValueEnum)]
enum Depth {
    Core,
    Store,
    Api,
}

impl Depth {
    fn name(self) -> &'static str {
        match self {
            Self::Core => "core",
            Self::Store => "store",
            Self::Api => "api",
        }
    }
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if matches!(arguments.command, Some(Command::Child)) {
        return as_child();
    }
    match as_program(&arguments) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("scheduling: {error}");
            ExitCode::from(2)
        }
    }
}

fn as_child() -> ExitCode {
    let outcome = read_order().and_then(|(order, case)| run_order(&order, &case).map_err(Failure::from));
    let (report, code) = match outcome {
        Ok(result) => (Report::Result(Box::new(result)), ExitCode::SUCCESS),
        Err(error) => (Report::Failure(error.to_string()), ExitCode::FAILURE),
    };
    child::say(&report);
    code
}

fn read_order() -> Result<(Order, Selected), Failure> {
    let mut text = String::new();
    std::io::stdin().read_to_string(&mut text)?;
    let order: Order = serde_json::from_str(&text)?;
    let catalog = match &order.file {
        Some(file) => Catalog::from_file(file)?,
        None => Catalog::embedded()?,
    };
    let case = catalog.select(&order.workload, Some(&order.case))?.remove(0);
    let case = if order.small { case.small() } else { case };
    Ok((order, case))
}

fn run_order(order: &Order, case: &Selected) -> Result<CaseResult, CaseError> {
    let mut last = 0;
    let mut progress = |bound: u64, of: u64| {
        // A hundred words for a case are enough.
        if bound > last + of / 100 {
            last = bound;
            child::say(&Report::Progress(bound, of));
        }
    };
    benches::run::run(case, &order.depth, &order.options, &mut progress)
}

fn selected(arguments: &Arguments) -> Result<Vec<Selected>, Failure> {
    let catalog = match &arguments.file {
        Some(file) => Catalog::from_file(file)?,
        None => Catalog::embedded()?,
    };
    if arguments.list {
        list(&catalog)?;
        return Ok(Vec::new());
    }
    if matches!(arguments.command, Some(Command::Scale)) {
        return Ok(catalog.select(SCALE, None)?);
    }
    match &arguments.workload {
        Some(workload) => Ok(catalog.select(workload, arguments.case.as_deref())?),
        None if arguments.all || arguments.file.is_some() => Ok(catalog.cases().to_vec()),
        None => Err("name a `--workload`, or say `--all`, `scale` or `--list`".into()),
    }
}

fn list(catalog: &Catalog) -> Result<(), Failure> {
    let mut described = "";
    for case in catalog.cases() {
        if described != case.workload.name {
            println!("{} ({}): {}", case.workload.name, case.file, case.workload.description);
        }
        described = &case.workload.name;
        let sizes = case.sizes()?;
        let threshold = case
            .case
            .threshold
            .map_or_else(String::new, |t| format!(", threshold {t} pods/s"));
        println!(
            "  {}: {} nodes, {} pods before, {} measured{threshold}",
            case.case.name, sizes.nodes, sizes.init_pods, sizes.measured_pods
        );
    }
    Ok(())
}

fn as_program(arguments: &Arguments) -> Result<bool, Failure> {
    let cases = selected(arguments)?;
    if cases.is_empty() {
        return Ok(true);
    }
    let options = RunOptions {
        seed: arguments.seed,
        threads: arguments.threads.into(),
        round: arguments.round as usize,
        voters: arguments.voters.parse()?,
        clients: arguments.clients.into(),
    };
    let mut results = Vec::new();
    for case in &cases {
        for repeat in 0..arguments.repeat {
            let mut result = run_case(arguments, case, &options)?;
            result.repeat = repeat;
            let words = result
                .failure
                .clone()
                .unwrap_or_else(|| format!("{:.0} pods/s", result.pods_per_s));
            eprintln!("{} {}: {words}", case.workload.name, case.case.name);
            results.push(result);
        }
    }
    let shown = report::medians(&results);
    println!("{}", report::table(&shown));
    write_files(arguments, &results, &shown)?;
    Ok(results.iter().all(|result| result.failure.is_none()))
}

fn run_case(arguments: &Arguments, case: &Selected, options: &RunOptions) -> Result<CaseResult, Failure> {
    let order = Order {
        file: arguments.file.clone(),
        workload: case.workload.name.clone(),
        case: case.case.name.clone(),
        small: arguments.small,
        depth: arguments.depth.name().to_owned(),
        options: options.clone(),
    };
    let mut line = ProgressLine::new(&format!("{} {}", order.workload, order.case));
    let outcome = child::run(&order, |bound, of| line.show(bound, of));
    line.clear();
    let failed = |error: String| -> Result<CaseResult, Failure> {
        let case = if arguments.small {
            case.clone().small()
        } else {
            case.clone()
        };
        let mut result = CaseResult::begin(&case, case.sizes()?, &order.depth, options);
        result.failure = Some(error);
        Ok(result)
    };
    outcome.or_else(|error| failed(error.to_string()))
}

fn write_files(arguments: &Arguments, results: &[CaseResult], shown: &[CaseResult]) -> Result<(), Failure> {
    let create = |path: &PathBuf| {
        File::create(path)
            .map(BufWriter::new)
            .map_err(|error| format!("{} cannot be written: {error}", path.display()))
    };
    if let Some(path) = &arguments.json {
        report::json(results, create(path)?)?;
    }
    if let Some(path) = &arguments.csv {
        report::csv(results, create(path)?)?;
    }
    if let Some(path) = &arguments.markdown {
        let words: Vec<String> = std::env::args().skip(1).collect();
        let command = format!("cargo run --release -p benches --bin scheduling -- {}", words.join(" "));
        let text = report::markdown(shown, &report::machine(), &today(), &command);
        std::fs::write(path, text).map_err(|error| format!("{} cannot be written: {error}", path.display()))?;
    }
    if let Some(path) = &arguments.plot {
        plot::results(path, shown)?;
    }
    Ok(())
}

/// The date in UTC.
fn today() -> String {
    jiff::Timestamp::now().strftime("%Y-%m-%d").to_string()
}
