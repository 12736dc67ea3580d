//! `loadtest bench cluster`: duet on several nodes, the lesson's server on as many, and what each further node costs.
//!
//! The two peers of every room sit on different nodes, so every message and every join crosses the cluster. CPU time is that
//! of all nodes and of their Redis together; nothing is subtracted from it, and what the cluster uses when nobody says anything
//! stands beside it.
//!
//! What two and eight nodes cost at least is shown by as many bare relays that Redis joins: how much of the growth is duet's
//! own, and how much is that of more processes with less to do each. For that all of them run at once and are loaded in
//! turns.

pub(super) mod system;
mod turns;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;

use self::system::{Cluster, Redis, System, require};
use self::turns::Turns;
use super::{
    Outcome, REPEATS, REST, Subject, at_least_one, beside, count, disturbed, each, idle, join, micros, pairs, relay,
};
use crate::crowd::Crowd;
use crate::limits;
use crate::machine::Machine;
use crate::server::Heartbeats;
use crate::table::{Figure, Table, Target as Most};

/// Several nodes against as many of the reference, in one run.
///
/// The reference is the lesson's server with Socket.IO's Redis adapter. Bare relays between nodes are the floor. Each cluster
/// gets a redis-server of its own; one node of duet alone gets none. What more nodes cost a message is measured in turns, with all
/// clusters that are compared running at once. Exit status: 0 when every target holds, 1 when one does not or a message went astray, 2 when it could
/// not run.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// The server to measure [default: `duet` next to this program]
    #[arg(long, value_name = "PATH")]
    duet: Option<PathBuf>,
    /// The directory of the reference
    #[arg(long, value_name = "PATH", default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/reference"))]
    reference: PathBuf,
    /// The floor [default: `bare-cluster` next to this program]
    #[arg(long, value_name = "PATH")]
    bare: Option<PathBuf>,
    /// Leave the reference out
    #[arg(long)]
    skip_reference: bool,
    /// Leave the floor out
    #[arg(long)]
    skip_bare: bool,
    /// Measure the reference alone
    #[arg(long, conflicts_with = "skip_reference")]
    skip_duet: bool,
    /// Numbers of nodes; the targets are of 2 and 8
    #[arg(long, value_delimiter = ',', default_value = "2,8", value_parser = at_least_one)]
    nodes: Vec<usize>,
    /// How often each cluster is started
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// How often those are started anew that are compared in turns; 0 leaves that out
    #[arg(long, default_value_t = 4)]
    starts: u32,
    /// How often each is loaded after each start of those that are compared in turns
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..))]
    turns: u32,
    /// Seconds of messages measured in each turn
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..))]
    turn_seconds: u64,
    /// Rooms of two sockets; a multiple of 56 uses all pairs of 8 nodes alike
    #[arg(long, default_value_t = 1_120, value_parser = at_least_one)]
    rooms: usize,
    /// Messages a second over all rooms: the default keeps two cores two thirds busy with 8 nodes of the reference
    #[arg(long, default_value_t = 2_000, value_parser = clap::value_parser!(u32).range(1..))]
    rate: u32,
    /// Bytes of a message on the wire
    #[arg(long, default_value_t = 600)]
    message_bytes: usize,
    /// Seconds of messages measured
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..))]
    seconds: u64,
    /// Seconds of messages before that
    #[arg(long, default_value_t = 3)]
    warm_up: u64,
    /// Seconds of silence measured where there are heartbeats: a period of duet's contains each socket's once
    #[arg(long, default_value_t = 12, value_parser = clap::value_parser!(u64).range(1..))]
    idle_seconds: u64,
    /// Sockets one node of duet holds in silence, with Redis and beside an idle one, and with heartbeats; rounded up to pairs, 0 leaves it out
    #[arg(long, default_value_t = 18_000)]
    hold_sockets: usize,
    /// Seconds of that silence, in which there are no heartbeats
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..))]
    hold_seconds: u64,
    /// Connections or joins under way at once
    #[arg(long, default_value_t = 200, value_parser = at_least_one)]
    in_flight: usize,
    /// Write everything measured to this file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// The numbers of nodes that the ratios' targets are of.
const FEW: usize = 2;
const MANY: usize = 8;
/// How many times as many.
const TIMES: u32 = 4;
const _: () = assert!(FEW * TIMES as usize == MANY, "the rates of both are compared node by node");
/// duet at a rate at which each of [`MANY`] nodes has as much to do as each of [`FEW`] has at `--rate`. The reference does
/// not reach it.
const BUSY: &str = "duet, busy";
/// The floor at that rate.
const BARE_BUSY: &str = "bare cluster, busy";
/// CPU of a message on [`MANY`] nodes by that on [`FEW`]: with as many messages in all, few and many, and with as many a node.
const GROWTH: Most = Most::Ratio(1.15);
/// CPU of a message by the reference's, on [`MANY`] nodes.
const BELOW_REFERENCE: Most = Most::Ratio(0.25);
/// CPU of a join in a cluster, in µs.
const JOIN: Most = Most::Value(200.0);
/// What leases may add to a silent node and to a Redis that does nothing else, in ms a second: 1 % of a core.
const RENEWALS: Most = Most::Value(10.0);

/// What is done to each cluster.
#[derive(Clone, Copy, Debug, serde::Serialize)]
struct Plan {
    relay: relay::Plan,
    /// Nothing when there are no two numbers of nodes to compare.
    turns: Option<turns::Plan>,
    idle: Duration,
    hold_sockets: usize,
    hold: Duration,
}

/// What one cluster showed in one round.
#[derive(Clone, Debug, serde::Serialize)]
struct Figures {
    /// The seat alone, of nodes and Redis.
    cpu_us_a_join: f64,
    /// Of it that of Redis.
    redis_cpu_us_a_join: f64,
    joins_a_second: f64,
    relay: relay::Figures,
    idle: idle::Figures,
}

/// All rounds of one system on one number of nodes.
#[derive(serde::Serialize)]
struct Series {
    system: &'static str,
    nodes: usize,
    rounds: Vec<Figures>,
}

/// One silent node, by round.
#[derive(Default, serde::Serialize)]
struct Held {
    with_redis: Vec<idle::Figures>,
    /// Beside a Redis that it does not know of, and that is idle.
    alone: Vec<idle::Figures>,
    /// With Redis, and with heartbeats.
    beating: Vec<idle::Figures>,
}

#[derive(Default, serde::Serialize)]
struct Measured {
    series: Vec<Series>,
    turns: Turns,
    hold: Held,
}

#[derive(serde::Serialize)]
struct Report<'a> {
    /// Whether all rounds were measured.
    complete: bool,
    machine: &'a Machine,
    plan: &'a Plan,
    tables: &'a [Table],
    measured: &'a Measured,
}

/// Measures, prints the tables and, if asked, writes the report.
///
/// # Errors
/// When something could not be measured.
#[expect(clippy::print_stdout, reason = "where it runs stands above the tables")]
pub async fn run(options: &Options) -> anyhow::Result<Outcome> {
    let plan = options.plan();
    // In turns, four clusters have their sockets at once.
    limits::allow_sockets(plan.hold_sockets.max(plan.relay.rooms * 2 * 4))?;
    let mut systems = Vec::new();
    if !options.skip_duet {
        systems.push(System::Duet(beside(options.duet.clone(), "duet")?));
    }
    if !options.skip_reference {
        systems.push(System::reference(&options.reference).await?);
    }
    if !options.skip_duet && !options.skip_bare {
        systems.push(System::Bare(beside(options.bare.clone(), "bare-cluster")?));
    }
    require("redis-server", "install Redis 7 or newer").await?;
    let machine = Machine::read();
    println!("{machine}");

    let mut measured = Measured::default();
    let done = measure_all(options, &plan, &systems, &mut measured).await;

    let outcome = Outcome {
        machine,
        tables: measured.tables(),
        astray: measured.astray().collect(),
        disturbed: disturbed(measured.others_cores()),
    };
    outcome.print();
    if let Some(path) = &options.json {
        let Outcome { machine, tables, .. } = &outcome;
        let report = Report { complete: done.is_ok(), machine, plan: &plan, tables, measured: &measured };
        std::fs::write(path, serde_json::to_vec_pretty(&report)?)
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    done.context("not everything was measured")?;
    Ok(outcome)
}

impl Options {
    fn plan(&self) -> Plan {
        let counts = self.node_counts();
        let or = |nodes, other: Option<&usize>| Some(nodes).filter(|nodes| counts.contains(nodes)).or(other.copied());
        let few_and_many = or(FEW, counts.first()).zip(or(MANY, counts.last())).filter(|(few, many)| few < many);
        Plan {
            turns: few_and_many.filter(|_| self.starts > 0).map(|(few, many)| turns::Plan {
                starts: self.starts,
                turns: self.turns,
                duration: Duration::from_secs(self.turn_seconds),
                few,
                many,
                rate: self.rate,
                busy_rate: self.rate.saturating_mul(TIMES),
            }),
            relay: relay::Plan {
                rooms: self.rooms,
                bytes: self.message_bytes,
                rate: self.rate,
                burst: 1,
                warm_up: Duration::from_secs(self.warm_up),
                duration: Duration::from_secs(self.seconds),
            },
            idle: Duration::from_secs(self.idle_seconds),
            hold_sockets: pairs(self.hold_sockets),
            hold: Duration::from_secs(self.hold_seconds),
        }
    }

    /// In ascending order, each once.
    fn node_counts(&self) -> Vec<usize> {
        let mut counts = self.nodes.clone();
        counts.sort_unstable();
        counts.dedup();
        counts
    }
}

async fn measure_all(
    options: &Options,
    plan: &Plan,
    systems: &[System],
    measured: &mut Measured,
) -> anyhow::Result<()> {
    for round in 1..=options.rounds {
        for nodes in options.node_counts() {
            for system in systems.iter().filter(|system| !matches!(system, System::Bare(_))) {
                let label = label(system.name(), nodes);
                eprintln!("round {round} of {}: {label}", options.rounds);
                let figures = measure_unspoilt(options, plan, system, nodes).await.context(label)?;
                measured.add(system.name(), nodes, figures);
            }
        }
        if let (1.., Some(duet @ System::Duet(_))) = (plan.hold_sockets, systems.first()) {
            let Held { with_redis, alone, beating } = &mut measured.hold;
            for (name, redis, heartbeats, silence, held) in [
                ("hold, with Redis", Redis::Shared, Heartbeats::Rare, plan.hold, with_redis),
                ("hold, beside an idle Redis", Redis::Idle, Heartbeats::Rare, plan.hold, alone),
                ("hold, with Redis and heartbeats", Redis::Shared, Heartbeats::Usual, plan.idle, beating),
            ] {
                eprintln!("round {round} of {}: {name}", options.rounds);
                let cluster = Cluster::start_with(duet, 1, redis, heartbeats).await?;
                held.push(hold(options, plan.hold_sockets, silence, cluster).await.context(name)?);
            }
        }
    }
    if let Some(turns) = &plan.turns {
        for start in 1..=turns.starts {
            eprintln!("in turns, start {start} of {}", turns.starts);
            measured.turns.take(turns, &plan.relay, systems, options.in_flight).await?;
        }
    }
    Ok(())
}

/// Measures again when the generator could not keep up, which other work on the machine can cause; not without end.
async fn measure_unspoilt(options: &Options, plan: &Plan, system: &System, nodes: usize) -> anyhow::Result<Figures> {
    for _ in 0..REPEATS {
        match measure(options, plan, system, nodes).await {
            Err(error) if error.is::<relay::Bottleneck>() => eprintln!("  again, because {error}"),
            done => return done,
        }
    }
    measure(options, plan, system, nodes).await
}

async fn measure(options: &Options, plan: &Plan, system: &System, nodes: usize) -> anyhow::Result<Figures> {
    let cluster = Cluster::start(system, nodes).await?;
    let figures = load(&cluster.subject(options.in_flight), plan).await;
    cluster.stop().await?;
    figures
}

/// All connect, all take their seats, all talk, all are silent.
async fn load(subject: &Subject, plan: &Plan) -> anyhow::Result<Figures> {
    let sockets = plan.relay.rooms * 2;
    let peers = subject.connect(sockets).await?;
    subject.processes.quiet(REST).await?;
    let (peers, seated) = join::seat(subject, peers).await?;
    let talk = relay::Talk::of(peers);
    let relay = talk.measure(subject, &plan.relay).await?;
    let idle = idle::run(subject, talk.crowd(), plan.idle).await?;
    let a_join = |cpu| each(micros(cpu), sockets as u64);
    Ok(Figures {
        cpu_us_a_join: a_join(seated.used.total()),
        redis_cpu_us_a_join: a_join(seated.used.redis),
        joins_a_second: 1.0 / each(seated.took.as_secs_f64(), sockets as u64),
        relay,
        idle,
    })
}

/// One node with so many silent sockets. What renewals cost is looked for without heartbeats: they cost many times that, and as
/// much without Redis. There is no rest before the sockets sit: the first must not wait for too long until somebody answers its
/// heartbeat.
async fn hold(options: &Options, sockets: usize, silence: Duration, cluster: Cluster) -> anyhow::Result<idle::Figures> {
    let subject = cluster.subject(options.in_flight);
    let held = async {
        let peers = subject.connect(sockets).await?;
        let peers = subject.seat(peers).await?;
        let crowd = Crowd::listen(peers, |_, _| {});
        idle::run(&subject, &crowd, silence).await
    };
    let held = held.await;
    cluster.stop().await?;
    held
}

fn label(system: &str, nodes: usize) -> String {
    let s = if nodes == 1 { "" } else { "s" };
    format!("{system}, {nodes} node{s}")
}

impl Series {
    fn label(&self) -> String {
        label(self.system, self.nodes)
    }

    /// A figure by round.
    fn each(&self, of: impl Fn(&Figures) -> f64) -> Vec<f64> {
        self.rounds.iter().map(of).collect()
    }
}

impl Measured {
    fn add(&mut self, system: &'static str, nodes: usize, figures: Figures) {
        match self.series.iter_mut().find(|series| series.system == system && series.nodes == nodes) {
            Some(series) => series.rounds.push(figures),
            None => self.series.push(Series { system, nodes, rounds: vec![figures] }),
        }
    }

    /// The most CPU that others used during a run.
    fn others_cores(&self) -> f64 {
        let loaded = self.series.iter().flat_map(|series| &series.rounds);
        let loaded = loaded.flat_map(|figures| [figures.relay.others_cores, figures.idle.others_cores]);
        let loaded = loaded.chain(self.turns.figures().map(|(_, figures)| figures.others_cores));
        let Held { with_redis, alone, beating } = &self.hold;
        let held = with_redis.iter().chain(alone).chain(beating).map(|figures| figures.others_cores);
        loaded.chain(held).fold(0.0, f64::max)
    }

    /// A line for each run in which messages did not arrive as they were sent.
    fn astray(&self) -> impl Iterator<Item = String> {
        let rounds =
            self.series.iter().flat_map(|series| series.rounds.iter().map(|round| (series.label(), &round.relay)));
        rounds.chain(self.turns.figures()).filter(|(_, figures)| !figures.account.is_clean()).map(|(label, figures)| {
            format!("{label} did not relay each message once, in order, to its peer alone: {:?}", figures.account)
        })
    }

    /// Each number of nodes on its own, then each system's growth, then the silent node.
    fn tables(&self) -> Vec<Table> {
        let of = |system: &str| self.series.iter().filter(move |series| series.system == system).collect::<Vec<_>>();
        let (duet, reference) = (of("duet"), of("Node.js"));
        let on = |system, nodes| self.series.iter().find(|series| (series.system, series.nodes) == (system, nodes));
        let longer = if duet.is_empty() { &reference } else { &duet };
        let mut tables: Vec<_> = longer
            .iter()
            .map(|series| compared(series.nodes, on("duet", series.nodes), on("Node.js", series.nodes)))
            .collect();
        for series in [&duet, &reference] {
            let of = |nodes| series.iter().find(|series| series.nodes == nodes);
            if let (Some(few), Some(many)) = (of(FEW).or(series.first()), of(MANY).or(series.last()))
                && few.nodes < many.nodes
            {
                tables.push(growth(many, few));
            }
        }
        tables.extend(self.turns.tables());
        tables.extend(self.hold.table());
        tables
    }
}

/// duet and the reference on the same number of nodes, if they were measured.
fn compared(nodes: usize, duet: Option<&Series>, reference: Option<&Series>) -> Table {
    let row = |name, decimals, compared, target, of: &dyn Fn(&Figures) -> f64| {
        let by_round = |series: Option<&Series>| series.map(|series| series.each(of)).unwrap_or_default();
        let (server, reference) = (by_round(duet), by_round(reference));
        Figure { name, decimals, server, reference, compared, target }.summary()
    };
    let a_message = (nodes == MANY).then_some(BELOW_REFERENCE);
    let a_join = (nodes > 1).then_some(JOIN);
    let rows = vec![
        row("CPU a message, µs", 1, true, a_message, &|f| f.relay.cpu_us_a_relay),
        row("  of it Redis", 1, true, None, &|f| f.relay.redis_cpu_us_a_relay),
        row("  latency p50, µs", 0, true, None, &|f| count(f.relay.latency_us.p50)),
        row("  latency p99, µs", 0, true, None, &|f| count(f.relay.latency_us.p99)),
        row("  relayed", 0, false, None, &|f| count(f.relay.relayed)),
        row("  pings meanwhile", 0, false, None, &|f| count(f.relay.pings)),
        row("  generator late p99, µs", 0, false, None, &|f| count(f.relay.lateness_us.p99)),
        row("  generator CPU a message, µs", 1, false, None, &|f| f.relay.generator_cpu_us_a_relay),
        row("  others' CPU, cores", 2, false, None, &|f| f.relay.others_cores),
        row("CPU a join, µs", 0, true, a_join, &|f| f.cpu_us_a_join),
        row("  of it Redis", 0, true, None, &|f| f.redis_cpu_us_a_join),
        row("  joins a second", 0, false, None, &|f| f.joins_a_second),
        row("CPU of silence, ms a second", 1, true, None, &|f| f.idle.cpu_ms_a_second()),
        row("  of it Redis", 1, true, None, &|f| f.idle.redis_cpu_ms_a_second),
        row("  pings meanwhile", 0, false, None, &|f| count(f.idle.pings)),
    ];
    Table { left: label("duet", nodes), right: label("Node.js", nodes), rows }
}

/// The same system on many nodes and on few. What duet's messages cost more is measured in turns.
fn growth(many: &Series, few: &Series) -> Table {
    let row = |name, decimals, of: &dyn Fn(&Figures) -> f64| {
        let (server, reference) = (many.each(of), few.each(of));
        Figure { name, decimals, server, reference, compared: true, target: None }.summary()
    };
    let mut rows = Vec::new();
    if many.system != "duet" {
        rows.push(row("CPU a message, µs", 1, &|f| f.relay.cpu_us_a_relay));
    }
    rows.push(row("CPU a join, µs", 0, &|f| f.cpu_us_a_join));
    rows.push(row("CPU of silence, ms a second", 1, &|f| f.idle.cpu_ms_a_second()));
    Table { left: many.label(), right: few.label(), rows }
}

impl Held {
    fn table(&self) -> Option<Table> {
        let row = |name, decimals, of: fn(&idle::Figures) -> f64| {
            let by_round = |held: &[idle::Figures]| held.iter().map(of).collect();
            let (server, reference) = (by_round(&self.with_redis), by_round(&self.alone));
            Figure { name, decimals, server, reference, compared: false, target: None }.summary()
        };
        let beating = |name, decimals, of: fn(&idle::Figures) -> f64| {
            let server = self.beating.iter().map(of).collect();
            Figure { name, decimals, server, reference: Vec::new(), compared: false, target: None }.summary()
        };
        let rows = vec![
            row("CPU between heartbeats, ms a second", 1, idle::Figures::cpu_ms_a_second),
            row("  of it Redis", 1, |held| held.redis_cpu_ms_a_second),
            Figure {
                name: "  more than beside an idle Redis, ms a second",
                decimals: 1,
                server: self.renewals(),
                reference: Vec::new(),
                compared: false,
                target: Some(RENEWALS),
            }
            .summary(),
            beating("CPU with heartbeats, ms a second", 1, idle::Figures::cpu_ms_a_second),
            beating("  pings meanwhile", 0, |held| count(held.pings)),
        ];
        let left = "duet, silent, with Redis".to_owned();
        (!self.with_redis.is_empty()).then(|| Table { left, right: "beside an idle Redis".to_owned(), rows })
    }

    /// What leases added to each round, in ms a second.
    fn renewals(&self) -> Vec<f64> {
        let pairs = self.with_redis.iter().zip(&self.alone);
        pairs.map(|(with, alone)| with.cpu_ms_a_second() - alone.cpu_ms_a_second()).collect()
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::ledger::Account;

    pub(super) fn relayed(cpu_us_a_relay: f64) -> relay::Figures {
        let percentiles = relay::Percentiles { p50: 1, p99: 2, max: 3 };
        relay::Figures {
            cpu_us_a_relay,
            redis_cpu_us_a_relay: 0.0,
            relayed: 1,
            account: Account { sent: 1, delivered: 1, ..Account::default() },
            pings: 0,
            latency_us: percentiles,
            achieved_rate: 1.0,
            lateness_us: percentiles,
            others_cores: 0.0,
            generator_cpu_us_a_relay: 0.0,
        }
    }

    fn figures(cpu_us_a_relay: f64, cpu_us_a_join: f64) -> Figures {
        let relay = relayed(cpu_us_a_relay);
        Figures { cpu_us_a_join, redis_cpu_us_a_join: 0.0, joins_a_second: 1.0, relay, idle: silence(1.0, 0.5) }
    }

    fn silence(nodes_cpu_ms_a_second: f64, redis_cpu_ms_a_second: f64) -> idle::Figures {
        idle::Figures { nodes_cpu_ms_a_second, redis_cpu_ms_a_second, pings: 0, others_cores: 0.0 }
    }

    fn missed(measured: &Measured) -> Vec<(String, &'static str)> {
        let tables = measured.tables().into_iter();
        tables
            .flat_map(|Table { left, rows, .. }| {
                rows.into_iter().filter(|row| row.holds == Some(false)).map(move |row| (left.clone(), row.name))
            })
            .collect()
    }

    fn measured(runs: &[(&'static str, usize, f64, f64)]) -> Measured {
        let mut measured = Measured::default();
        for (system, nodes, a_message, a_join) in runs {
            measured.add(system, *nodes, figures(*a_message, *a_join));
        }
        measured
    }

    #[test]
    fn the_reference_and_the_join_have_targets() {
        let holds = [
            ("duet", 2, 100.0, 199.0),
            ("Node.js", 2, 300.0, 900.0),
            ("duet", 8, 119.0, 200.0),
            ("Node.js", 8, 480.0, 900.0),
        ];
        let holds = measured(&holds);
        assert_eq!(missed(&holds), []);
        assert_eq!(holds.tables().len(), 4);
        assert_eq!(holds.tables().iter().flat_map(|table| &table.rows).filter(|row| row.holds.is_some()).count(), 3);
        let misses = [("duet", 2, 1.0, 201.0), ("duet", 8, 116.0, 200.0), ("Node.js", 8, 460.0, 1.0)];
        let expected = [(label("duet", 2), "CPU a join, µs"), (label("duet", 8), "CPU a message, µs")];
        assert_eq!(missed(&measured(&misses)), expected);
    }

    #[test]
    fn the_reference_alone_has_no_target_to_miss() {
        let measured = measured(&[("Node.js", 2, 300.0, 900.0), ("Node.js", 8, 460.0, 900.0)]);
        assert_eq!(measured.tables().len(), 3);
        assert_eq!(missed(&measured), []);
    }

    #[test]
    fn other_numbers_of_nodes_have_no_ratio_to_hold() {
        let runs = [("duet", 1, 10.0, 900.0), ("duet", 4, 900.0, 100.0), ("Node.js", 4, 1.0, 1.0)];
        assert_eq!(missed(&measured(&runs)), []);
    }

    #[test]
    fn few_and_many_are_compared_where_both_were_asked_for() {
        let compared = |arguments: &[&str]| {
            let options = Of::try_parse_from([&["bench"], arguments].concat()).expect("options").options;
            options.plan().turns.map(|turns| (turns.few, turns.many, turns.rate, turns.busy_rate))
        };
        assert_eq!(compared(&[]), Some((2, 8, 2_000, 8_000)));
        assert_eq!(compared(&["--nodes=1,8,2,4", "--rate=10"]), Some((2, 8, 10, 40)));
        assert_eq!(compared(&["--nodes=3,2"]), Some((2, 3, 2_000, 8_000)));
        assert_eq!((compared(&["--nodes=2"]), compared(&["--starts=0"])), (None, None));
    }

    #[derive(clap::Parser)]
    struct Of {
        #[command(flatten)]
        options: Options,
    }

    #[test]
    fn renewals_are_what_a_silent_node_and_redis_use_more_than_side_by_side() {
        let hold = Held {
            with_redis: vec![silence(40.0, 2.0)],
            alone: vec![silence(32.0, 1.0)],
            beating: vec![silence(99.0, 0.0)],
        };
        let mut measured = Measured { hold, ..Measured::default() };
        assert_eq!(missed(&measured), []);
        measured.hold.with_redis[0].redis_cpu_ms_a_second = 4.0;
        assert_eq!(
            missed(&measured),
            [("duet, silent, with Redis".to_owned(), "  more than beside an idle Redis, ms a second")]
        );
    }

    #[test]
    fn the_busiest_of_all_runs_tells_of_others() {
        let mut measured = measured(&[("duet", 2, 1.0, 1.0), ("duet", 2, 1.0, 1.0)]);
        measured.series[0].rounds[1].idle.others_cores = 0.3;
        measured.series[0].rounds[0].relay.others_cores = 0.2;
        assert!((measured.others_cores() - 0.3).abs() < 1e-9);
    }
}
