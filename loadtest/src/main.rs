//! `loadtest`: load for a signaling server, and figures that can be trusted.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Parser, Subcommand};
use loadtest::bench::{Verdict, cluster, document, node, resume};
use loadtest::load::options::Options as Run;
use loadtest::report::{Report, capacity, compare, html, merge, table};

/// Loads a signaling server on this machine and says what it costs.
#[derive(Parser)]
#[command(version)]
struct Options {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Run(Box<Run>),
    /// Put the reports of all shards together, without loss
    Merge {
        /// The reports
        #[arg(required = true, value_name = "REPORT")]
        reports: Vec<PathBuf>,
        #[command(flatten)]
        output: Output,
    },
    /// Two reports side by side, and what got worse
    Compare {
        /// The earlier report
        before: PathBuf,
        /// The later report
        after: PathBuf,
    },
    /// What so many rooms would need, from measured unit costs
    Capacity(Box<capacity::Options>),
    /// Print the JSON schema of a report
    Schema,
    /// Benchmarks against a reference, in one run
    #[command(subcommand)]
    Bench(Bench),
}

/// Where a report goes.
#[derive(clap::Args)]
struct Output {
    /// Write it (JSON) to this file; - for standard output
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Write it as a page to this file
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
}

#[derive(Subcommand)]
enum Bench {
    All(document::Options),
    Cluster(Box<cluster::Options>),
    Node(Box<node::Options>),
    Resume(resume::Options),
}

/// One thread reads every socket: the generator must leave the machine to the server.
#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let outcome = match Options::parse().command {
        Command::Run(options) => match options.run().await {
            Ok(report) => show(&report, options.json.as_deref(), options.html.as_deref()),
            Err(error) => Err(error),
        },
        Command::Merge { reports, output } => merged(&reports, &output),
        Command::Compare { before, after } => compared(&before, &after),
        Command::Capacity(options) => capacity::run(&options).map(|()| ExitCode::SUCCESS),
        Command::Schema => schema(),
        Command::Bench(options) => bench(&options).await.map(|verdict| match verdict {
            Verdict::Holds => ExitCode::SUCCESS,
            Verdict::Missed => ExitCode::from(1),
        }),
    };
    outcome.unwrap_or_else(|error| {
        eprintln!("loadtest: {error:#}");
        ExitCode::from(2)
    })
}

async fn bench(options: &Bench) -> anyhow::Result<Verdict> {
    let run = async {
        match options {
            Bench::All(options) => document::run(options).await,
            Bench::Cluster(options) => Ok(cluster::run(options).await?.verdict()),
            Bench::Node(options) => Ok(node::run(options).await?.verdict()),
            Bench::Resume(options) => Ok(resume::run(options).await?.verdict()),
        }
    };
    tokio::select! {
        outcome = run => outcome,
        _ = tokio::signal::ctrl_c() => Err(anyhow::anyhow!("interrupted")),
    }
}

/// A broken promise weighs more than figures that are of no use.
fn status(report: &Report) -> ExitCode {
    match (report.verdict.broken.is_empty(), report.verdict.unsound.is_empty()) {
        (false, _) => ExitCode::from(1),
        (true, false) => ExitCode::from(2),
        (true, true) => ExitCode::SUCCESS,
    }
}

/// Prints the table, and writes what is asked for. A report that goes to `-` takes standard output for itself.
#[expect(clippy::print_stdout, reason = "the table is what the program is for")]
fn show(report: &Report, json: Option<&Path>, page: Option<&Path>) -> anyhow::Result<ExitCode> {
    let write = |path: &Path, bytes: &[u8]| {
        std::fs::write(path, bytes).with_context(|| format!("cannot write {}", path.display()))
    };
    let text = || serde_json::to_string_pretty(report);
    if json == Some(Path::new("-")) {
        eprint!("{}", table::render(report));
        println!("{}", text()?);
    } else {
        print!("{}", table::render(report));
        if let Some(path) = json {
            write(path, text()?.as_bytes())?;
        }
    }
    if let Some(path) = page {
        write(path, html::page(report).as_bytes())?;
    }
    Ok(status(report))
}

fn read(path: &Path) -> anyhow::Result<Report> {
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    Report::read(&text).with_context(|| path.display().to_string())
}

fn merged(paths: &[PathBuf], output: &Output) -> anyhow::Result<ExitCode> {
    let reports = paths.iter().map(|path| read(path)).collect::<anyhow::Result<Vec<_>>>()?;
    show(&merge::merge(reports)?, output.json.as_deref(), output.html.as_deref())
}

#[expect(clippy::print_stdout, reason = "it is what was asked for")]
fn compared(before: &Path, after: &Path) -> anyhow::Result<ExitCode> {
    print!("{}", compare::compare(&read(before)?, &read(after)?));
    Ok(ExitCode::SUCCESS)
}

#[expect(clippy::print_stdout, reason = "it is what was asked for")]
fn schema() -> anyhow::Result<ExitCode> {
    println!("{}", serde_json::to_string_pretty(&loadtest::report::schema())?);
    Ok(ExitCode::SUCCESS)
}
