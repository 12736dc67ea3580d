//! `loadtest`: load for a signaling server, and figures that can be trusted.

use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Parser, Subcommand};
use loadtest::bench::{Verdict, cluster, node};
use loadtest::load::options::Options as Run;
use loadtest::report::Report;

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
    /// Benchmarks against a reference, in one run
    #[command(subcommand)]
    Bench(Bench),
}

#[derive(Subcommand)]
enum Bench {
    Cluster(Box<cluster::Options>),
    Node(Box<node::Options>),
}

/// One thread reads every socket: the generator must leave the machine to the server.
#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let outcome = match Options::parse().command {
        Command::Run(options) => match options.run().await {
            Ok(report) => show(&report, &options).map(|()| status(&report)),
            Err(error) => Err(error),
        },
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
            Bench::Cluster(options) => cluster::run(options).await,
            Bench::Node(options) => node::run(options).await,
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

fn show(report: &Report, options: &Run) -> anyhow::Result<()> {
    if let Some(path) = &options.json {
        let text = serde_json::to_vec_pretty(report)?;
        std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}
