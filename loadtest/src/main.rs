//! `loadtest`: load for a signaling server, and figures that can be trusted.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use loadtest::bench::{Verdict, cluster, node};

/// Loads a signaling server on this machine and says what it costs.
#[derive(Parser)]
#[command(version)]
struct Options {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
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
    let Command::Bench(bench) = Options::parse().command;
    let run = async {
        match &bench {
            Bench::Cluster(options) => cluster::run(options).await,
            Bench::Node(options) => node::run(options).await,
        }
    };
    let outcome = tokio::select! {
        outcome = run => outcome,
        _ = tokio::signal::ctrl_c() => Err(anyhow::anyhow!("interrupted")),
    };
    match outcome {
        Ok(Verdict::Holds) => ExitCode::SUCCESS,
        Ok(Verdict::Missed) => ExitCode::from(1),
        Err(error) => {
            eprintln!("loadtest: {error:#}");
            ExitCode::from(2)
        }
    }
}
