//! `loadtest bench node`: the servers in turns, the figures side by side, the targets.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;

use super::{Outcome, REPEATS, Subject, at_least_one, beside, count, disturbed, hold, join, pairs, relay};
use crate::crowd::InFlight;
use crate::limits;
use crate::machine::Machine;
use crate::peer::Manner;
use crate::server::{Launch, Process, Server};
use crate::table::{Figure, Summary, Table, Target as Most};
use crate::target::{Dialect, Loopback, Target};

/// One node against the bare relay, in one run.
///
/// Exit status: 0 when every target holds, 1 when one does not or a message went astray, 2 when it could not run.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// The server to measure [default: `duet` next to this program]
    #[arg(long, value_name = "PATH")]
    duet: Option<PathBuf>,
    /// The reference [default: `bare-relay` next to this program]
    #[arg(long, value_name = "PATH")]
    bare: Option<PathBuf>,
    /// Measure a running server instead, without the reference; needs --pid
    #[arg(long, value_name = "URL", requires = "pid", conflicts_with_all = ["duet", "bare"])]
    server: Option<Loopback>,
    /// Process id of the running server
    #[arg(long, requires = "server")]
    pid: Option<u32>,
    /// What the running server speaks
    #[arg(long, default_value = "socketio", requires = "server")]
    dialect: Dialect,
    /// Measure this alone; may be given again
    #[arg(long, value_name = "SCENARIO")]
    only: Vec<Scenario>,
    /// How often each server is started for each scenario
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// relay: rooms of two sockets
    #[arg(long, default_value_t = 2_000, value_parser = at_least_one)]
    rooms: usize,
    /// relay: messages a second over all rooms
    #[arg(long, default_value_t = 6_000, value_parser = clap::value_parser!(u32).range(1..))]
    rate: u32,
    /// relay: so many messages are due at the same instant
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    burst: u32,
    /// relay: bytes of a message on the wire
    #[arg(long, default_value_t = 600)]
    bytes: usize,
    /// relay: seconds measured
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..))]
    seconds: u64,
    /// relay: seconds before that
    #[arg(long, default_value_t = 2)]
    warm_up: u64,
    /// join: sockets, rounded up to pairs
    #[arg(long, default_value_t = 4_000, value_parser = at_least_one)]
    join_sockets: usize,
    /// hold: sockets, rounded up to pairs
    #[arg(long, default_value_t = 8_000, value_parser = at_least_one)]
    hold_sockets: usize,
    /// hold: seconds before the memory may count as settled
    #[arg(long, default_value_t = 3)]
    hold_seconds: u64,
    /// Connections or joins under way at once
    #[arg(long, default_value_t = 200, value_parser = at_least_one)]
    in_flight: usize,
    /// Join with an acknowledgement
    #[arg(long)]
    ack: bool,
    /// Send the request headers of a browser
    #[arg(long)]
    browser_headers: bool,
    /// Write everything measured to this file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// What can be measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Scenario {
    /// CPU of a relayed message
    Relay,
    /// CPU of a join
    Join,
    /// Memory of an idle socket
    Hold,
}

const BARE: &str = "bare relay";

/// What one server showed, by round.
#[derive(Clone, Debug, Default, serde::Serialize)]
struct Measured {
    relay: Vec<relay::Figures>,
    join: Vec<join::Figures>,
    hold: Vec<hold::Figures>,
}

impl Measured {
    /// The most CPU that others used during a run.
    fn others_cores(&self) -> f64 {
        self.relay.iter().map(|figures| figures.others_cores).fold(0.0, f64::max)
    }

    /// A line for each run in which messages did not arrive as they were sent.
    fn astray(&self, name: &str) -> impl Iterator<Item = String> {
        self.relay.iter().filter(|figures| !figures.account.is_clean()).map(move |figures| {
            let account = &figures.account;
            format!("{name} did not relay each message once, in order, to its peer alone: {account:?}")
        })
    }
}

#[derive(serde::Serialize)]
struct Report<'a> {
    /// Whether all rounds were measured.
    complete: bool,
    machine: &'a Machine,
    plans: &'a Plans,
    summary: &'a [Summary],
    server: &'a Measured,
    reference: &'a Measured,
}

#[derive(Clone, Copy, Debug, serde::Serialize)]
struct Plans {
    relay: relay::Plan,
    join: join::Plan,
    hold: hold::Plan,
}

/// Measures, prints the table and, if asked, writes the report.
///
/// # Errors
/// When something could not be measured.
#[expect(clippy::print_stdout, reason = "where it runs stands above the table")]
pub async fn run(options: &Options) -> anyhow::Result<Outcome> {
    let plans = options.plans();
    let scenarios = options.scenarios();
    limits::allow_sockets(plans.most_sockets(&scenarios))?;
    let machine = Machine::read();
    println!("{machine}");

    let sides = options.sides()?;
    let mut measured = [Measured::default(), Measured::default()];
    let done = measure_all(options, &plans, &scenarios, &sides, &mut measured).await;

    let [server, reference] = measured;
    let rows: Vec<_> = figures(&server, &reference).iter().map(Figure::summary).collect();
    let (left, right) = (sides[0].name().to_owned(), BARE.to_owned());
    let others = [&server, &reference].map(Measured::others_cores).into_iter().fold(0.0, f64::max);
    let outcome = Outcome {
        machine,
        astray: server.astray(&left).chain(reference.astray(&right)).collect(),
        tables: if rows.is_empty() { Vec::new() } else { vec![Table { left, right, rows }] },
        disturbed: disturbed(others),
    };
    outcome.print();
    if let Some(path) = &options.json {
        let summary = outcome.tables.first().map_or(&[][..], |table| &table.rows);
        let (complete, machine) = (done.is_ok(), &outcome.machine);
        let report = Report { complete, machine, plans: &plans, summary, server: &server, reference: &reference };
        std::fs::write(path, serde_json::to_vec_pretty(&report)?)
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    done.context("not everything was measured")?;
    Ok(outcome)
}

async fn measure_all(
    options: &Options,
    plans: &Plans,
    scenarios: &[Scenario],
    sides: &[Side],
    measured: &mut [Measured; 2],
) -> anyhow::Result<()> {
    for round in 1..=options.rounds {
        for &scenario in scenarios {
            for (side, measured) in sides.iter().zip(&mut *measured) {
                let name = side.name();
                eprintln!("round {round} of {}: {scenario:?}, {name}", options.rounds);
                measure_unspoilt(options, plans, side, scenario, measured)
                    .await
                    .with_context(|| format!("{scenario:?}, {name}"))?;
            }
        }
    }
    Ok(())
}

/// A server to measure: started for each scenario, or running.
enum Side {
    Started(Launch, Dialect),
    Running(Loopback, Process, Dialect),
}

impl Side {
    fn name(&self) -> &'static str {
        match self {
            Self::Started(_, Dialect::Socketio) => "duet",
            Self::Started(_, Dialect::Bare) => BARE,
            Self::Running(..) => "running server",
        }
    }
}

/// Measures again when the generator could not keep up, which other work on the machine can cause; not without end.
async fn measure_unspoilt(
    options: &Options,
    plans: &Plans,
    side: &Side,
    scenario: Scenario,
    measured: &mut Measured,
) -> anyhow::Result<()> {
    for _ in 0..REPEATS {
        match measure(options, plans, side, scenario, measured).await {
            Err(error) if error.is::<relay::Bottleneck>() => eprintln!("  again, because {error}"),
            done => return done,
        }
    }
    measure(options, plans, side, scenario, measured).await
}

async fn measure(
    options: &Options,
    plans: &Plans,
    side: &Side,
    scenario: Scenario,
    measured: &mut Measured,
) -> anyhow::Result<()> {
    match side {
        Side::Running(address, process, dialect) => {
            let subject = options.subject(address.0, *process, *dialect);
            measure_subject(&subject, plans, scenario, measured).await
        }
        Side::Started(launch, dialect) => {
            let server = Server::start(launch).await?;
            let subject = options.subject(server.address, server.process, *dialect);
            let done = measure_subject(&subject, plans, scenario, measured).await;
            server.stop().await?;
            done
        }
    }
}

async fn measure_subject(
    subject: &Subject,
    plans: &Plans,
    scenario: Scenario,
    measured: &mut Measured,
) -> anyhow::Result<()> {
    match scenario {
        Scenario::Relay => measured.relay.push(relay::run(subject, &plans.relay).await?),
        Scenario::Join => measured.join.push(join::run(subject, &plans.join).await?),
        Scenario::Hold => measured.hold.push(hold::run(subject, &plans.hold).await?),
    }
    Ok(())
}

impl Options {
    fn plans(&self) -> Plans {
        Plans {
            relay: relay::Plan {
                rooms: self.rooms,
                bytes: self.bytes,
                rate: self.rate,
                burst: self.burst,
                warm_up: Duration::from_secs(self.warm_up),
                duration: Duration::from_secs(self.seconds),
            },
            join: join::Plan { sockets: pairs(self.join_sockets) },
            hold: hold::Plan { sockets: pairs(self.hold_sockets), at_least: Duration::from_secs(self.hold_seconds) },
        }
    }

    fn scenarios(&self) -> Vec<Scenario> {
        match self.only.as_slice() {
            [] => vec![Scenario::Relay, Scenario::Join, Scenario::Hold],
            only => only.to_vec(),
        }
    }

    fn sides(&self) -> anyhow::Result<Vec<Side>> {
        if let (Some(server), Some(pid)) = (self.server, self.pid) {
            return Ok(vec![Side::Running(server, Process::of(pid)?, self.dialect)]);
        }
        let duet = beside(self.duet.clone(), "duet")?;
        let bare = beside(self.bare.clone(), "bare-relay")?;
        let (duet, bare) = (Launch::Duet(duet), Launch::Bare(bare));
        Ok(vec![Side::Started(duet, Dialect::Socketio), Side::Started(bare, Dialect::Bare)])
    }

    fn subject(&self, address: std::net::SocketAddr, process: Process, dialect: Dialect) -> Subject {
        Subject {
            targets: vec![Target { address, dialect, browser_headers: self.browser_headers }],
            processes: process.into(),
            manner: Manner { ack: self.ack },
            in_flight: InFlight(self.in_flight),
        }
    }
}

impl Plans {
    fn most_sockets(&self, scenarios: &[Scenario]) -> usize {
        let sockets = |scenario: &Scenario| match scenario {
            Scenario::Relay => self.relay.rooms * 2,
            Scenario::Join => self.join.sockets,
            Scenario::Hold => self.hold.sockets,
        };
        scenarios.iter().map(sockets).max().unwrap_or(0)
    }
}

fn figures(server: &Measured, reference: &Measured) -> Vec<Figure> {
    let both = |of: &dyn Fn(&Measured) -> Vec<f64>| (of(server), of(reference));
    let row = |name, decimals, compared, target, (server, reference)| Figure {
        name,
        decimals,
        server,
        reference,
        compared,
        target,
    };
    let relay = |of: fn(&relay::Figures) -> f64| both(&|side| side.relay.iter().map(of).collect());
    let join = |of: fn(&join::Figures) -> f64| both(&|side| side.join.iter().map(of).collect());
    let hold = |of: fn(&hold::Figures) -> f64| both(&|side| side.hold.iter().map(of).collect());
    let cost = |name, decimals, target, values| row(name, decimals, true, Some(target), values);
    let part = |name, decimals, values| row(name, decimals, true, None, values);
    let detail = |name, decimals, values| row(name, decimals, false, None, values);
    vec![
        cost("CPU a relay, µs", 2, Most::Ratio(1.25), relay(|f| f.cpu_us_a_relay)),
        part("  latency p50, µs", 0, relay(|f| count(f.latency_us.p50))),
        part("  latency p99, µs", 0, relay(|f| count(f.latency_us.p99))),
        detail("  relayed", 0, relay(|f| count(f.relayed))),
        detail("  pings meanwhile", 0, relay(|f| count(f.pings))),
        detail("  generator late p99, µs", 0, relay(|f| count(f.lateness_us.p99))),
        detail("  generator CPU a relay, µs", 2, relay(|f| f.generator_cpu_us_a_relay)),
        detail("  others' CPU, cores", 2, relay(|f| f.others_cores)),
        cost("CPU a join, µs", 1, Most::Ratio(2.5), join(|f| f.cpu_us_a_join)),
        part("  of it to connect, µs", 1, join(|f| f.cpu_us_a_connection)),
        part("  of it to take the seat, µs", 1, join(|f| f.cpu_us_a_seat)),
        cost("memory a socket, KiB (RSS)", 2, Most::Value(18.0), hold(|f| f.rss_kib_a_socket)),
        detail("  the same as PSS", 2, hold(|f| f.pss_kib_a_socket)),
        detail("  the same as private pages", 2, hold(|f| f.private_kib_a_socket)),
        detail("  empty server, MiB (RSS)", 1, hold(|f| count(f.empty.rss) / 1024.0)),
        detail("  idle CPU a socket, µs/s", 2, hold(|f| f.idle_cpu_us_a_socket_and_second)),
    ]
    .into_iter()
    .filter(|figure: &Figure| !figure.server.is_empty())
    .collect()
}
