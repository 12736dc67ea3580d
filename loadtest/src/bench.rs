//! Benchmarks of a server against a reference: same machine, same run, in turns.
//!
//! One file a scenario: [`relay`], [`join`], [`hold`], [`idle`]. Each gets a running server that nobody else uses and returns
//! its figures. [`node`] starts one node and the bare relay in turns, [`cluster`] several nodes, the same number in Node.js and
//! of bare relays, and both put the figures side by side; [`resume`] measures how peers come back to their seats; [`document`]
//! runs all three and writes down what they showed.

pub mod cluster;
pub mod document;
pub mod hold;
pub mod idle;
pub mod join;
pub mod node;
pub mod relay;
pub mod resume;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::ensure;

use crate::crowd::{self, InFlight, Pings};
use crate::machine::{self, Machine};
use crate::peer::{Manner, Peer};
use crate::server::{Process, Processes, Used};
use crate::table::Table;
use crate::target::Target;

/// The server that a scenario loads.
#[derive(Clone, Debug)]
pub struct Subject {
    /// Where and how to reach its nodes.
    pub targets: Vec<Target>,
    /// To ask what it has used.
    pub processes: Processes,
    /// How peers join.
    pub manner: Manner,
    /// How many do so at once.
    pub in_flight: InFlight,
}

impl Subject {
    async fn connect(&self, sockets: usize) -> anyhow::Result<Vec<Peer>> {
        crowd::connect(&self.targets, sockets, self.in_flight).await
    }

    async fn seat(&self, peers: Vec<Peer>) -> anyhow::Result<Vec<Peer>> {
        crowd::seat(peers, self.manner, self.in_flight).await
    }
}

/// How a benchmark ended, for the exit status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Every target that could be compared.
    Holds,
    /// A target is missed, or a message went astray.
    Missed,
}

/// What a benchmark showed.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Where.
    pub machine: Machine,
    /// The figures.
    pub tables: Vec<Table>,
    /// A line for each run in which messages did not arrive as they were sent.
    pub astray: Vec<String>,
    /// A sentence if others used the machine meanwhile.
    pub disturbed: Option<String>,
}

impl Outcome {
    /// Whether every target held and every message arrived.
    #[must_use]
    pub fn verdict(&self) -> Verdict {
        let missed = self.tables.iter().any(Table::misses);
        if missed || !self.astray.is_empty() { Verdict::Missed } else { Verdict::Holds }
    }

    #[expect(clippy::print_stdout, reason = "the tables are what the program is for")]
    fn print(&self) {
        for table in &self.tables {
            println!("\n{}", table.render().trim_end());
        }
        for line in self.astray.iter().chain(&self.disturbed) {
            println!("{line}");
        }
    }
}

/// Time, CPU times and pings: at an instant, or between two.
struct Mark<T> {
    at: T,
    server: Used,
    own: Duration,
    machine: Duration,
    pings: u64,
}

impl Mark<Instant> {
    fn take(server: &Processes, pings: &Pings) -> anyhow::Result<Self> {
        Ok(Self {
            at: Instant::now(),
            server: server.cpu()?,
            own: Process::of(std::process::id())?.cpu()?,
            machine: machine::busy()?,
            pings: pings.count(),
        })
    }

    fn since(&self, earlier: &Self) -> Mark<Duration> {
        Mark {
            at: self.at.saturating_duration_since(earlier.at),
            server: self.server - earlier.server,
            own: self.own.saturating_sub(earlier.own),
            machine: self.machine.saturating_sub(earlier.machine),
            pings: self.pings - earlier.pings,
        }
    }
}

impl Mark<Duration> {
    /// Cores that neither the server nor this process used: others on the machine, and its host.
    fn others_cores(&self) -> f64 {
        self.machine.saturating_sub(self.server.total() + self.own).as_secs_f64() / self.at.as_secs_f64()
    }
}

/// Cores that others may use before the figures are called uncertain.
const BUSY: f64 = 0.1;

/// What to say if others used the machine while it was measured.
fn disturbed(others_cores: f64) -> Option<String> {
    (others_cores > BUSY).then(|| {
        format!(
            "others on the machine used up to {others_cores:.1} cores meanwhile: CPU times are too high, and ratios uncertain"
        )
    })
}

/// How often a spoilt measurement is repeated.
const REPEATS: u32 = 2;

/// The program given, or the one of this name next to this program.
fn beside(given: Option<PathBuf>, name: &str) -> anyhow::Result<PathBuf> {
    let path = match given {
        Some(path) => path,
        None => std::env::current_exe()?.with_file_name(name),
    };
    ensure!(
        path.is_file(),
        "there is no {}: build it (cargo build --release --workspace) or say where it is (--duet, --bare)",
        path.display()
    );
    Ok(path)
}

pub(crate) fn at_least_one(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) => Err("must be at least 1".to_owned()),
        Ok(count) => Ok(count),
        Err(error) => Err(format!("{error}")),
    }
}

fn pairs(sockets: usize) -> usize {
    sockets.next_multiple_of(2)
}

/// How long a server may take to come to rest after a phase.
const REST: Duration = Duration::from_secs(5);

fn micros(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e6
}

#[expect(clippy::cast_precision_loss, reason = "counts far below 2^52")]
fn each(total: f64, count: u64) -> f64 {
    total / count.max(1) as f64
}

#[expect(clippy::cast_precision_loss, reason = "microseconds, KiB and counts far below 2^52")]
fn count(value: u64) -> f64 {
    value as f64
}
