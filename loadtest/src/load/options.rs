//! `loadtest run`: what can be asked for on the command line.

use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use tokio::sync::watch;

use super::plan::{Phase, Placement, Plan, Scenario};
use super::{Setup, run, target};
use crate::limits;
use crate::report::Report;

/// Load a signaling server by a plan, or by one scenario.
///
/// Exit status: 0 when the run is good; 1 when the server broke a promise (a message lost, twice, out of order, at a stranger;
/// a third peer in a room); 2 when it could not run, or its figures tell about the generator.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Where clients connect to: http://HOST:PORT, several of them with commas
    #[arg(long, value_name = "URL", value_delimiter = ',', required = true)]
    target: Vec<String>,
    /// Where the nodes' metrics are: http://HOST:PORT, several of them with commas
    #[arg(long, value_name = "URL", value_delimiter = ',')]
    metrics: Vec<String>,
    /// A plan of phases (TOML); instead of what is given here
    #[arg(long, value_name = "FILE", conflicts_with_all = ["scenario", "rooms", "rate", "from_rate", "ramp", "seconds", "bytes", "contenders", "candidates", "intruders"])]
    plan: Option<PathBuf>,
    /// What to do
    #[arg(long, value_enum, required_unless_present = "plan")]
    scenario: Option<Scenario>,
    /// Rooms; of `call`, the most calls at the same time
    #[arg(long)]
    rooms: Option<u64>,
    /// Messages (pairs), calls (call) or rooms (churn, race) a second
    #[arg(long)]
    rate: Option<f64>,
    /// The rate at the beginning
    #[arg(long)]
    from_rate: Option<f64>,
    /// Seconds in which it grows to --rate
    #[arg(long)]
    ramp: Option<f64>,
    /// Seconds that it lasts
    #[arg(long)]
    seconds: Option<f64>,
    /// Bytes of each message; 0 for the sizes of call set-ups
    #[arg(long)]
    bytes: Option<usize>,
    /// Sockets that ask for each room of a race
    #[arg(long)]
    contenders: Option<u64>,
    /// Candidates that each side of a call sends
    #[arg(long)]
    candidates: Option<u64>,
    /// Third peers a second that try to get into rooms of two
    #[arg(long)]
    intruders: Option<f64>,
    /// Where the two peers of a room connect to [default: that of the plan, or apart]
    #[arg(long, value_enum)]
    placement: Option<Placement>,
    /// What all that is random begins with [default: that of the plan, or 0]
    #[arg(long)]
    seed: Option<u64>,
    /// Do part I of N of the plan; `merge` puts the reports together
    #[arg(long, value_name = "I/N", default_value = "1/1")]
    shard: Shard,
    /// Connections and joins under way at once
    #[arg(long, default_value_t = 200, value_parser = crate::bench::at_least_one)]
    in_flight: usize,
    /// Write the report (JSON) to this file; - for standard output
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Write the report as a page to this file
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
    /// Show nothing while it runs
    #[arg(long)]
    quiet: bool,
    /// Load an address that is neither loopback nor private. Never somebody else's
    #[arg(long)]
    i_own_this_target: bool,
}

/// A part of a plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shard {
    /// From 1.
    pub index: u32,
    /// How many there are.
    pub of: u32,
}

impl FromStr for Shard {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts = text.split_once('/').and_then(|(index, of)| Some((index.parse().ok()?, of.parse().ok()?)));
        match parts {
            Some((index, of)) if (1..=of).contains(&index) && of <= 1000 => Ok(Self { index, of }),
            _ => Err("expected I/N, with I from 1 to N, and N at most 1000".to_owned()),
        }
    }
}

impl Options {
    /// Runs it. Ctrl-C ends it early, and it still reports.
    ///
    /// # Errors
    /// When it could not run: a bad plan, a target that is not to be loaded, too few files, metrics that cannot be read.
    pub async fn run(&self) -> anyhow::Result<Report> {
        let plan = self.plan()?;
        let mut targets = Vec::new();
        for url in &self.target {
            targets.push(target::resolve(url, self.i_own_this_target).await?);
        }
        let mut metrics = Vec::new();
        for url in &self.metrics {
            metrics.push(target::resolve(url, self.i_own_this_target).await?);
        }
        let part = plan.shard(self.shard.index, self.shard.of);
        ensure!(
            !part.phases.is_empty(),
            "--shard {}/{}: nothing of the plan is left for it",
            self.shard.index,
            self.shard.of
        );
        let sockets = part.phases.iter().map(Phase::sockets).max().unwrap_or(0);
        limits::allow_sockets(usize::try_from(sockets)?)?;
        let setup = Setup {
            plan,
            shard: (self.shard.index, self.shard.of),
            targets,
            metrics,
            in_flight: self.in_flight,
            progress: !self.quiet,
        };
        let (stop, stopped) = watch::channel(false);
        let mut running = std::pin::pin!(run(&setup, stopped));
        tokio::select! {
            report = &mut running => return report,
            _ = tokio::signal::ctrl_c() => {}
        }
        eprintln!("ending; once more ends it at once");
        stop.send_replace(true);
        tokio::select! {
            report = running => report,
            _ = tokio::signal::ctrl_c() => anyhow::bail!("interrupted"),
            () = tokio::time::sleep(Duration::from_mins(1)) => anyhow::bail!("it did not end within a minute"),
        }
    }

    fn plan(&self) -> anyhow::Result<Plan> {
        let mut plan = if let Some(file) = &self.plan {
            let text = std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
            Plan::parse(&text).with_context(|| format!("{}", file.display()))?
        } else {
            let mut phase = Phase::new(self.scenario.context("--scenario or --plan is needed")?);
            phase.rooms = self.rooms.unwrap_or(phase.rooms);
            phase.rate = self.rate.unwrap_or(phase.rate);
            phase.from_rate = self.from_rate.unwrap_or(phase.from_rate);
            phase.ramp = self.ramp.unwrap_or(phase.ramp);
            phase.seconds = self.seconds.unwrap_or(phase.seconds);
            phase.bytes = self.bytes.unwrap_or(phase.bytes);
            phase.contenders = self.contenders.unwrap_or(phase.contenders);
            phase.candidates = self.candidates.unwrap_or(phase.candidates);
            phase.intruders = self.intruders.unwrap_or(phase.intruders);
            Plan::single(0, Placement::default(), phase)?
        };
        plan.seed = self.seed.unwrap_or(plan.seed);
        plan.placement = self.placement.unwrap_or(plan.placement);
        Ok(plan)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shard_is_one_of_its_number() {
        assert_eq!("2/5".parse(), Ok(Shard { index: 2, of: 5 }));
        for wrong in ["0/5", "6/5", "5", "1/0", "a/b", "1/1001", ""] {
            assert!(wrong.parse::<Shard>().is_err(), "{wrong}");
        }
    }
}
