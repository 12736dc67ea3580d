//! `loadtest capacity`: from what one of each costs to what so many rooms need, on paper.
//!
//! Nothing here is measured: measured unit costs are multiplied, and everything that is not in the reports is an assumption
//! that is printed with the result. What no report tells and no assumption can stand for is refused.

use std::fmt;
use std::path::PathBuf;

use anyhow::{Context as _, bail, ensure};

use super::Report;
use super::costs::{Cost, Costs, Sums};
use super::show::{self, float, put, ratio, whole};

/// Rooms of a Redis Cluster are spread over so many partitions; more shards than that get no rooms.
const PARTITIONS: u64 = 64;
/// Seconds between two heartbeats of a socket, by default.
const HEARTBEAT: f64 = 12.0;
/// Bytes of a heartbeat and its answer, with all headers of the network.
const HEARTBEAT_BYTES: f64 = 250.0;
/// CPU µs of a join with its connection, and of a connection, as `docs/BENCHMARKS.md` has them.
const JOIN_MICROS: f64 = 122.0;
const CONNECT_MICROS: f64 = 98.0;
/// Requests to Redis for a seat: one to take it, one to leave it.
const JOIN_REQUESTS: f64 = 2.0;
/// CPU seconds of a phase below which kernel ticks and chance are most of it.
const MEASURABLE: f64 = 0.05;
/// Shares nearer to each other than this are the same.
const SAME_SHARE: f64 = 0.02;

/// What so many rooms need, from measured unit costs.
///
/// The reports need a phase `hold` and a phase `pairs`, both with the nodes' metrics; phases `storm` or `churn` tell what a
/// join costs. Everything else is assumed, and printed as an assumption.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// A report (--json) to take unit costs from; may be given again
    #[arg(long, value_name = "FILE", required = true)]
    pub from: Vec<PathBuf>,
    /// Rooms at the same time, two sockets each
    #[arg(long)]
    pub rooms: u64,
    /// Seconds a room lasts
    #[arg(long, default_value_t = 600.0, value_name = "SECONDS")]
    pub call: f64,
    /// Messages in the life of a room: descriptions and candidates of both sides
    #[arg(long, default_value_t = 20.0, conflicts_with = "message_rate")]
    pub messages: f64,
    /// Messages a second and room [default: those of a room's life by its length]
    #[arg(long)]
    pub message_rate: Option<f64>,
    /// Bytes of a message [default: as measured]
    #[arg(long)]
    pub bytes: Option<f64>,
    /// Share of the messages whose peers sit on the same node, from 0 to 1 [default: the least that was measured]
    #[arg(long)]
    pub local_share: Option<f64>,
    /// Share of everything that is kept free, from 0 to 0.95
    #[arg(long, default_value_t = 0.5)]
    pub headroom: f64,
    /// Cores of a node
    #[arg(long, default_value_t = 2.0)]
    pub cores: f64,
    /// Memory of a node, in GiB
    #[arg(long, default_value_t = 4.0, value_name = "GIB")]
    pub memory: f64,
    /// Files that a node may open (`LimitNOFILE`)
    #[arg(long, default_value_t = 524_288)]
    pub files: u64,
    /// Network of a node, in Mbit/s each way
    #[arg(long, default_value_t = 1_000.0, value_name = "MBITS")]
    pub network: f64,
    /// Ports that one address of the balancer has towards one node (`net.ipv4.ip_local_port_range`)
    #[arg(long, default_value_t = 28_232)]
    pub ports: u64,
    /// CPU of Redis for a message between nodes, or a request, in µs
    #[arg(long, default_value_t = 33.0, value_name = "MICROS")]
    pub redis_cpu: f64,
    /// Memory of Redis for a room, in bytes
    #[arg(long, default_value_t = 1_000.0, value_name = "BYTES")]
    pub redis_memory: f64,
}

impl Options {
    fn check(&self) -> anyhow::Result<()> {
        let above_0 = |number: f64| number.is_finite() && number > 0.0;
        ensure!(self.rooms > 0, "--rooms: must be above 0");
        ensure!((0.0..=0.95).contains(&self.headroom), "--headroom: must be between 0 and 0.95");
        ensure!(
            self.local_share.is_none_or(|share| (0.0..=1.0).contains(&share)),
            "--local-share: must be between 0 and 1"
        );
        ensure!(
            self.message_rate.is_none_or(|rate| rate.is_finite() && rate >= 0.0),
            "--message-rate: must not be negative"
        );
        ensure!(self.bytes.is_none_or(above_0), "--bytes: must be above 0");
        ensure!(self.messages.is_finite() && self.messages >= 0.0, "--messages: must not be negative");
        ensure!(self.redis_cpu.is_finite() && self.redis_cpu >= 0.0, "--redis-cpu: must not be negative");
        ensure!(self.redis_memory.is_finite() && self.redis_memory >= 0.0, "--redis-memory: must not be negative");
        for (key, number) in
            [("call", self.call), ("cores", self.cores), ("memory", self.memory), ("network", self.network)]
        {
            ensure!(above_0(number), "--{key}: must be above 0");
        }
        ensure!(self.files > 0 && self.ports > 0, "--files, --ports: must be above 0");
        Ok(())
    }
}

/// How many rooms one of something is enough for.
#[derive(Clone, Debug, PartialEq)]
pub struct Limit {
    /// What runs out.
    pub what: &'static str,
    /// With so many rooms.
    pub rooms: f64,
    /// What to do then.
    pub remedy: &'static str,
}

/// What so many rooms need.
#[derive(Clone, Debug, PartialEq)]
pub struct Estimate {
    /// Rooms at the same time.
    pub rooms: u64,
    /// Sockets at the same time.
    pub sockets: u64,
    /// Messages a second, over all rooms.
    pub messages_a_second: f64,
    /// Seats taken a second, over all rooms.
    pub joins_a_second: f64,
    /// Nodes, one to spare among them.
    pub nodes: u64,
    /// Nodes that each resource alone would need, the most first.
    pub nodes_by_resource: Vec<(&'static str, u64)>,
    /// Cores that are busy in all nodes together.
    pub node_cores: f64,
    /// Memory of all nodes together, in bytes.
    pub node_memory_bytes: f64,
    /// Cores that are busy in Redis.
    pub redis_cores: f64,
    /// Redis servers that take writes.
    pub redis_shards: u64,
    /// Memory of Redis in all, in bytes.
    pub redis_memory_bytes: f64,
    /// Bytes a second from and to clients, the larger of the two ways.
    pub client_bytes_a_second: f64,
    /// Bytes a second into Redis; as many come out.
    pub redis_bytes_a_second: f64,
    /// Sockets on a node when one is gone.
    pub sockets_a_node: f64,
    /// Files of the balancer: two a socket.
    pub balancer_files: u64,
    /// Addresses that the balancer needs towards each node.
    pub balancer_addresses: u64,
    /// Seconds until the sockets of a lost node sit elsewhere, by CPU alone.
    pub storm_seconds: f64,
    /// What runs out with one of each: a node, a Redis, an address; the first first.
    pub limits: Vec<Limit>,
    /// Unit costs, and where they are from.
    pub costs: Vec<(String, String)>,
    /// What was not measured.
    pub assumptions: Vec<String>,
    /// What speaks against relying on this.
    pub cautions: Vec<String>,
}

/// Reads the reports, estimates and prints.
///
/// # Errors
/// When a report cannot be read or does not have what is needed.
#[expect(clippy::print_stdout, reason = "what was asked for")]
pub fn run(options: &Options) -> anyhow::Result<()> {
    let read = |path: &PathBuf| {
        let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        Report::read(&text).with_context(|| path.display().to_string())
    };
    let reports = options.from.iter().map(read).collect::<anyhow::Result<Vec<_>>>()?;
    print!("{}", estimate(options, &reports)?);
    Ok(())
}

/// What one of each costs, from the reports.
struct Units {
    base: f64,
    memory: f64,
    silence: Cost,
    message: Cost,
    share: f64,
    bytes: f64,
    traffic: f64,
    join: Cost,
    join_requests: f64,
}

/// What so many rooms need.
///
/// # Errors
/// With a sentence, when an option makes no sense or the reports do not have what is needed.
pub fn estimate(options: &Options, reports: &[Report]) -> anyhow::Result<Estimate> {
    options.check()?;
    let mut assumptions = Vec::new();
    let units = units(options, reports, &mut assumptions)?;
    let used = 1.0 - options.headroom;
    let rooms = float(options.rooms);
    let sockets = rooms * 2.0;
    let rate = options.message_rate.unwrap_or(options.messages / options.call);
    let joins = 2.0 / options.call;
    let remote = rate * (1.0 - units.share);

    // One room, for a second.
    let cpu = rate * units.message.value + joins * units.join.value + 2.0 * units.silence.value;
    // Each way: what comes from one peer goes to the other.
    let traffic = rate * units.traffic / 2.0 + 2.0 * HEARTBEAT_BYTES / 2.0 / HEARTBEAT;
    let redis = (remote + joins * units.join_requests) * options.redis_cpu;

    let memory = options.memory * 1_073_741_824.0 * used - units.base;
    ensure!(
        memory > 0.0,
        "--memory, --headroom: an empty node needs {}, and {} are to be used",
        show::bytes(units.base),
        show::bytes(memory + units.base)
    );
    let node = [
        ("CPU of a node", ratio(options.cores * 1e6 * used, cpu), "more nodes, or more cores a node"),
        ("memory of a node", Some(memory / (2.0 * units.memory)), "more nodes, or more memory a node"),
        ("files of a node", Some(float(options.files) * used / 2.0), "raise LimitNOFILE, or more nodes"),
        ("network of a node", ratio(options.network * 125_000.0 * used, traffic), "more nodes"),
    ];
    let mut nodes_by_resource = Vec::new();
    let mut limits = Vec::new();
    for (what, enough, remedy) in node {
        if let Some(enough) = enough {
            nodes_by_resource.push((what, whole(rooms / enough).max(1)));
            limits.push(Limit { what, rooms: enough, remedy });
        }
    }
    nodes_by_resource.sort_by_key(|(_, nodes)| std::cmp::Reverse(*nodes));
    let needed = nodes_by_resource.first().map_or(1, |(_, nodes)| *nodes);
    let nodes = needed + 1;

    let renewals = |partitions: u64| float(nodes * partitions) * options.redis_cpu;
    let budget = 1e6 * used;
    let mut redis_micros = rooms * redis + renewals(1);
    let mut redis_shards = 1;
    if redis_micros > budget {
        redis_micros = rooms * redis + renewals(PARTITIONS);
        redis_shards = whole(redis_micros / budget).max(2);
    }
    if let Some(enough) = ratio(budget, redis) {
        limits.push(Limit {
            what: "the core of one Redis",
            rooms: enough,
            remedy: "a Redis Cluster, or more peers of a room on one node",
        });
        let most = enough * float(PARTITIONS);
        limits.push(Limit {
            what: "a Redis Cluster of 64 shards",
            rooms: most,
            remedy: "room affinity; beyond, several services, each with its own rooms",
        });
    }
    limits.push(Limit {
        what: "ports from one address of the balancer to one node",
        rooms: float(options.ports) / 2.0,
        remedy: "more nodes, more addresses, or a wider net.ipv4.ip_local_port_range",
    });
    limits.sort_by(|one, other| one.rooms.total_cmp(&other.rooms));

    let sockets_a_node = sockets / float(needed);
    let others = float(needed) * options.cores * 1e6 * options.headroom;
    let by_nodes = ratio(sockets_a_node * units.join.value, others);
    let by_redis = ratio(
        sockets_a_node * units.join_requests * options.redis_cpu,
        float(redis_shards) * (1e6 - redis_micros / float(redis_shards)).max(1e6 * options.headroom),
    );
    let storm_seconds = by_nodes.unwrap_or(f64::INFINITY).max(by_redis.unwrap_or(0.0));

    assumed(options, &mut assumptions);
    Ok(Estimate {
        rooms: options.rooms,
        sockets: options.rooms * 2,
        messages_a_second: rooms * rate,
        joins_a_second: rooms * joins,
        nodes,
        nodes_by_resource,
        node_cores: rooms * cpu / 1e6,
        node_memory_bytes: sockets * units.memory + float(nodes) * units.base,
        redis_cores: redis_micros / 1e6,
        redis_shards,
        redis_memory_bytes: rooms * options.redis_memory,
        client_bytes_a_second: rooms * traffic,
        redis_bytes_a_second: rooms * remote * units.bytes,
        sockets_a_node,
        balancer_files: options.rooms * 4,
        balancer_addresses: whole(sockets_a_node / float(options.ports)).max(1),
        storm_seconds,
        limits,
        costs: costs(&units),
        assumptions,
        cautions: cautions(reports, nodes, redis_shards),
    })
}

/// What holds for every estimate.
fn assumed(options: &Options, assumptions: &mut Vec<String>) {
    if options.message_rate.is_none() {
        assumptions.push(format!(
            "a room lasts {} s and has {} messages in its life",
            show::number(options.call),
            show::number(options.messages)
        ));
    } else {
        assumptions.push(format!("a room lasts {} s: its seats are taken as often", show::number(options.call)));
    }
    assumptions.extend([
        format!("Redis needs {} µs CPU for a message between nodes, and as much for a request (docs/BENCHMARKS.md measured the first: 33 µs)", show::number(options.redis_cpu)),
        format!("Redis needs {} of memory a room", show::bytes(options.redis_memory)),
        format!("a heartbeat every {HEARTBEAT} s and socket, {HEARTBEAT_BYTES} bytes on the network both ways together"),
        format!("nodes have {} cores, {} GiB, {} files, {} Mbit/s; {} of everything is kept free, and one node is to spare", show::number(options.cores), show::number(options.memory), show::count(options.files), show::number(options.network), show::percent(options.headroom)),
        format!("the balancer has {} ports for each of its addresses and each node; its CPU and memory were not measured and are not in here", show::count(options.ports)),
        "cores of a node are like those that were measured, and ten nodes are ten times one".to_owned(),
        "rooms and sockets are spread evenly over nodes and over the seconds; TLS ends elsewhere; media does not pass here (TURN is not in it)".to_owned(),
    ]);
}

/// What speaks against relying on it.
fn cautions(reports: &[Report], nodes: u64, redis_shards: u64) -> Vec<String> {
    let mut cautions = Vec::new();
    for (at, report) in reports.iter().enumerate() {
        let verdict = &report.verdict;
        for reason in verdict.unsound.iter().chain(&verdict.broken) {
            cautions.push(format!("report {}: {reason}", at + 1));
        }
        if report.interrupted && verdict.unsound.is_empty() {
            cautions.push(format!("report {} is of a run that was broken off", at + 1));
        }
    }
    for report in reports {
        for (at, phase) in report.phases.iter().enumerate() {
            let cpu = Sums::of(&phase.nodes).cpu_seconds;
            let used = matches!(phase.scenario.as_str(), "hold" | "pairs" | "storm" | "churn");
            if used && !phase.nodes.is_empty() && cpu < MEASURABLE {
                cautions.push(format!(
                    "phase {}: {} s of the nodes' CPU are too little to measure costs by: let it last longer",
                    phase.name,
                    show::number(cpu)
                ));
            }
            if phase.scenario == "hold" && at > 0 {
                cautions.push(format!(
                    "phase {} came after others: memory that they left was used again, and a socket may need more",
                    phase.name
                ));
            }
        }
    }
    if redis_shards > PARTITIONS {
        cautions.push(format!("rooms are spread over {PARTITIONS} partitions: a Redis Cluster of {redis_shards} shards would leave some without any"));
    }
    if redis_shards > 1 {
        cautions.push(format!("on a Redis Cluster each node renews {PARTITIONS} leases a second; what that costs the node was not measured and is not in its CPU"));
    }
    if nodes > 64 {
        cautions.push(format!("{nodes} nodes are more than were ever tried (8): each tells every other that it is there, and keeps a line to each it talks to"));
    }
    cautions
}

/// What one of each costs, as labels and figures.
fn costs(units: &Units) -> Vec<(String, String)> {
    let micros = |value| format!("{} µs", show::number(value));
    vec![
        (
            "CPU a message".to_owned(),
            format!("{} ({} within a node)", units.message.show(micros), show::percent(units.share)),
        ),
        ("CPU a join, connection included".to_owned(), units.join.show(micros)),
        ("CPU a second and socket, silent".to_owned(), units.silence.show(micros)),
        ("memory a socket".to_owned(), show::bytes(units.memory)),
        ("memory of an empty node".to_owned(), show::bytes(units.base)),
        ("bytes a message".to_owned(), show::number(units.bytes)),
        ("Redis requests a join and its leave".to_owned(), show::number(units.join_requests)),
    ]
}

fn units(options: &Options, reports: &[Report], assumptions: &mut Vec<String>) -> anyhow::Result<Units> {
    let phases = || reports.iter().flat_map(|report| &report.phases);
    let of = |scenario: &'static str| phases().filter(move |phase| phase.scenario == scenario);

    // The most sockets tell most exactly.
    let seated = of("hold")
        .filter_map(|phase| {
            let costs = Costs::of(phase)?;
            Some((phase, costs.memory_bytes_a_socket?, costs.cpu_ms_a_thousand_sockets?))
        })
        .max_by_key(|(phase, ..)| phase.sockets);
    let Some((hold, memory, silence)) = seated else {
        bail!(
            "no phase `hold` that opened its sockets, made the nodes' memory grow and read their metrics: what a socket needs of \
             memory is not known. Run one on fresh nodes (scenario = \"hold\", with --metrics) and give its report too"
        );
    };
    let base =
        hold.nodes.iter().map(|node| float(node.memory_before_bytes)).sum::<f64>() / float(hold.nodes.len() as u64);

    let (message, share) = message(options, of("pairs").collect::<Vec<_>>().as_slice(), assumptions)?;

    let (mut sent, mut bytes, mut relays, mut traffic) = (0, 0, 0, 0);
    for phase in of("pairs") {
        let sums = Sums::of(&phase.nodes);
        (sent, bytes) = (sent + phase.messages.sent, bytes + phase.messages.bytes);
        (relays, traffic) = (relays + sums.relays(), traffic + sums.traffic_bytes);
    }
    let measured = ratio(float(bytes), float(sent)).filter(|bytes| *bytes > 0.0);
    let Some(size) = options.bytes.or(measured) else {
        bail!("the reports do not say how large messages were: say it with --bytes");
    };
    // Frames, heartbeats and headers above the texts themselves, in and out.
    let above = ratio(float(traffic), float(relays))
        .zip(measured)
        .map_or(0.0, |(traffic, text)| (traffic - 2.0 * text).max(0.0));

    let joined = |costs: &Costs| costs.cpu_us_a_join;
    let costs_of = |scenario: &'static str| of(scenario).filter_map(Costs::of).filter(|costs| joined(costs).is_some());
    let connected = costs_of("storm").find(|costs| costs.joins_connect);
    let seated = costs_of("churn").find(|costs| !costs.joins_connect);
    let join = if let Some(cost) = connected.as_ref().and_then(joined) {
        cost
    } else if let Some(cost) = seated.as_ref().and_then(joined) {
        assumptions.push(format!(
            "a connection needs {CONNECT_MICROS} µs CPU (docs/BENCHMARKS.md): no phase `storm` measured it"
        ));
        Cost { value: cost.value + CONNECT_MICROS, ..cost }
    } else {
        assumptions.push(format!("a join with its connection needs {JOIN_MICROS} µs CPU (docs/BENCHMARKS.md): no phase `storm` or `churn` measured it"));
        Cost { value: JOIN_MICROS, at_most: false }
    };
    let requests = [seated, connected].into_iter().flatten().find_map(|costs| costs.redis_requests_a_join);
    let join_requests = requests.filter(|requests| *requests > 0.0).unwrap_or_else(|| {
        assumptions.push(format!(
            "a seat needs {JOIN_REQUESTS} requests to Redis, to take it and to leave it: no phase `churn` measured it"
        ));
        JOIN_REQUESTS
    });
    assumptions.push("heartbeats and renewals of the phases measured are in the CPU of their messages and joins, and count once more as silence".to_owned());
    Ok(Units {
        base,
        memory,
        silence: Cost { value: silence.value, ..silence },
        message,
        share,
        bytes: size,
        traffic: 2.0 * size + above,
        join,
        join_requests,
    })
}

/// What a message costs when such a share stays within its node, from phases with other shares if need be.
fn message(options: &Options, pairs: &[&super::Phase], assumptions: &mut Vec<String>) -> anyhow::Result<(Cost, f64)> {
    let costs: Vec<_> = pairs.iter().filter_map(|phase| Costs::of(phase)).collect();
    ensure!(
        !costs.is_empty(),
        "no phase `pairs` with the nodes' metrics: what a message costs is not known. \
         Run one (scenario = \"pairs\", with --metrics) and give its report too"
    );
    let mut known: Vec<(f64, Cost)> =
        costs.iter().filter_map(|costs| Some((costs.local_share?, costs.cpu_us_a_message?))).collect();
    let Some(first) = known.first().copied() else {
        let why = costs.iter().find_map(|costs| costs.note).unwrap_or("no messages were relayed");
        bail!("a phase `pairs` cannot tell what a message costs: {why}. Let it last longer");
    };
    known.sort_by(|one, other| one.0.total_cmp(&other.0));
    let least = known.first().map_or(first.0, |(share, _)| *share);
    let want = options.local_share.unwrap_or(least);
    if options.local_share.is_none() {
        assumptions.push(format!(
            "{} of the messages stay within their node, as measured; without room affinity at the balancer it is one in so many as there are nodes",
            show::percent(want)
        ));
    }
    ensure!(
        want >= least - SAME_SHARE,
        "{} of the messages within a node are asked for, and at least {} were in what was measured: what more of them between \
         nodes cost is not known. Run `pairs` with placement apart against several nodes, and give that report too",
        show::percent(want),
        show::percent(least)
    );
    if let Some((_, cost)) = known.iter().find(|(share, _)| (share - want).abs() <= SAME_SHARE) {
        return Ok((*cost, want));
    }
    let below = known.iter().rev().find(|(share, _)| *share < want).copied().unwrap_or(first);
    let Some(above) = known.iter().find(|(share, _)| *share > want).copied() else {
        assumptions.push(format!(
            "a message costs no more when {} of them stay within a node than when {} do: only that was measured",
            show::percent(want),
            show::percent(below.0)
        ));
        return Ok((Cost { at_most: true, ..below.1 }, want));
    };
    assumptions.push(format!(
        "between {} and {} of the messages within a node, which were measured, their cost lies on a straight line",
        show::percent(below.0),
        show::percent(above.0)
    ));
    let part = (want - below.0) / (above.0 - below.0);
    let value = below.1.value + part * (above.1.value - below.1.value);
    Ok((Cost { value, at_most: below.1.at_most || above.1.at_most }, want))
}

impl fmt::Display for Estimate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = format!(
            "{}: {}, {} messages and {} joins a second\n\n",
            show::plural(self.rooms, "room"),
            show::plural(self.sockets, "socket"),
            show::number(self.messages_a_second),
            show::number(self.joins_a_second)
        );
        for caution in &self.cautions {
            put!(text, "CAUTION: {caution}.\n");
        }
        if !self.cautions.is_empty() {
            text.push('\n');
        }
        let by: Vec<_> =
            self.nodes_by_resource.iter().map(|(what, nodes)| format!("{what} {}", show::count(*nodes))).collect();
        let shards = if self.redis_shards == 1 {
            "one server".to_owned()
        } else {
            format!("{} shards of a Redis Cluster", show::count(self.redis_shards))
        };
        let rows = [
            ("nodes", format!("{}, one of them to spare; needed by {}", show::count(self.nodes), by.join(", "))),
            ("their CPU", format!("{} cores busy", show::number(self.node_cores))),
            ("their memory", show::bytes(self.node_memory_bytes)),
            ("sockets a node", format!("{}, a file each", show::count(whole(self.sockets_a_node)))),
            (
                "Redis",
                format!(
                    "{shards}: {} cores busy, {} memory",
                    show::number(self.redis_cores),
                    show::bytes(self.redis_memory_bytes)
                ),
            ),
            (
                "network",
                format!(
                    "{} from clients and as much to them, {} into Redis and out of it",
                    show::bits(self.client_bytes_a_second),
                    show::bits(self.redis_bytes_a_second)
                ),
            ),
            (
                "balancer",
                format!(
                    "{} files, {} towards each node",
                    show::count(self.balancer_files),
                    show::plural(self.balancer_addresses, "source address").replace("addresss", "addresses")
                ),
            ),
            (
                "a node lost",
                format!(
                    "its sockets sit elsewhere {} after they were told, by CPU alone",
                    show::micros(self.storm_seconds * 1e6)
                ),
            ),
        ];
        let width = rows.iter().map(|(label, _)| label.len()).max().unwrap_or(0);
        for (label, value) in rows {
            put!(text, "  {label:<width$}   {value}\n");
        }
        if let Some(first) = self.limits.first() {
            put!(text, "\nThe first bottleneck, beginning with one of each: {}.\n", first.what);
            let rows: Vec<_> = self
                .limits
                .iter()
                .map(|limit| {
                    vec![
                        limit.what.to_owned(),
                        format!("{} rooms", show::count(whole(limit.rooms.floor()))),
                        limit.remedy.to_owned(),
                    ]
                })
                .collect();
            let names = rows.iter().map(|row| row[0].chars().count()).max().unwrap_or(0);
            let counts = rows.iter().map(|row| row[1].chars().count()).max().unwrap_or(0);
            for row in rows {
                put!(text, "  {:<names$}   {:>counts$}   {}\n", row[0], row[1], row[2]);
            }
        }
        text.push_str("\nWhat one of each costs, from the reports:\n");
        let width = self.costs.iter().map(|(label, _)| label.len()).max().unwrap_or(0);
        for (label, value) in &self.costs {
            put!(text, "  {label:<width$}   {value}\n");
        }
        text.push_str("\nAssumed:\n");
        for assumption in &self.assumptions {
            put!(text, "  * {assumption}\n");
        }
        f.write_str(&text)
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::report::{Messages, Node, sample};

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        options: Options,
    }

    fn options(line: &str) -> Options {
        let words = ["capacity", "--from", "a.json"].into_iter().chain(line.split_whitespace());
        Line::try_parse_from(words).unwrap().options
    }

    /// Round figures: 16 KiB and 1 µs a second a socket, 100 µs a message, 200 µs a join.
    fn measured(local: u64, remote: u64, message_micros: f64) -> Report {
        let mut report = sample::report();
        let mut hold = sample::phase("hold", "hold");
        hold.sockets = 10_000;
        hold.nodes = vec![Node {
            cpu_seconds: 0.1,
            sockets: 10_000,
            sockets_opened: 10_000,
            memory_before_bytes: 10 << 20,
            memory_after_bytes: (10 << 20) + 10_000 * 16_384,
            ..Node::default()
        }];
        let mut pairs = sample::phase("pairs", "pairs");
        let relays = local + remote;
        pairs.messages = Messages { sent: relays, delivered: relays, bytes: relays * 1_000, ..Messages::default() };
        pairs.nodes = vec![Node {
            cpu_seconds: float(relays) * message_micros / 1e6,
            local_relays: local,
            remote_relays: remote,
            received_bytes: relays * 1_050,
            sent_bytes: relays * 1_050,
            ..Node::default()
        }];
        let mut storm = sample::phase("storm", "storm");
        storm.nodes = vec![Node {
            cpu_seconds: 2.0,
            joins: 10_000,
            sockets_opened: 10_000,
            redis_requests: 20_000,
            ..Node::default()
        }];
        report.phases = vec![hold, pairs, storm];
        report
    }

    fn close(one: f64, other: f64) -> bool {
        (one / other - 1.0).abs() < 1e-6
    }

    #[test]
    fn the_arithmetic_by_hand() {
        let options = options("--rooms 1000000 --call 1000 --messages 100 --cores 2 --headroom 0.5 --memory 4");
        let estimate = estimate(&options, &[measured(0, 100_000, 100.0)]).unwrap();
        assert!(close(estimate.messages_a_second, 100_000.0) && close(estimate.joins_a_second, 2_000.0));
        // 0.1 × 100 + 0.002 × 200 + 2 × 1 = 12.4 µs a second and room.
        assert!(close(estimate.node_cores, 12.4), "{}", estimate.node_cores);
        // CPU: 12.4 cores on nodes that may use 1: 13. Memory: 31.25 GiB on 2 GiB less 10 MiB: 16. And one to spare.
        let by = |what: &str| estimate.nodes_by_resource.iter().find(|(name, _)| name.starts_with(what)).unwrap().1;
        assert_eq!((by("CPU"), by("memory"), by("files"), estimate.nodes), (13, 16, 8, 17));
        assert_eq!(estimate.nodes_by_resource[0].0, "memory of a node");
        assert!(close(estimate.node_memory_bytes, 2e6 * 16_384.0 + 17.0 * 10_485_760.0));
        // (100,000 messages + 2,000 joins × 2 requests) × 33 µs = 3.432 cores; and 17 × 64 renewals: 0.0359. Half used: 7.
        assert!(close(estimate.redis_cores, 3.432 + 17.0 * 64.0 * 33e-6), "{}", estimate.redis_cores);
        assert_eq!((estimate.redis_shards, estimate.balancer_files), (7, 4_000_000));
        // 125,000 sockets a node by ports of 28,232.
        assert_eq!(estimate.balancer_addresses, 5);
        assert!(close(estimate.redis_bytes_a_second, 1e8));
        // 1,050 bytes a message and 125 every 12 s and socket.
        assert!(
            close(estimate.client_bytes_a_second, 1e6 * (105.0 + 2.0 * 125.0 / 12.0)),
            "{}",
            estimate.client_bytes_a_second
        );
        // 125,000 joins × 200 µs on 16 nodes with a core left each.
        let storm = 125_000.0 * 200e-6 / 16.0;
        assert!(estimate.storm_seconds >= storm && estimate.storm_seconds < 3.0, "{}", estimate.storm_seconds);
        assert_eq!(estimate.limits[0].what, "ports from one address of the balancer to one node");
        assert!(estimate.limits.is_sorted_by(|one, other| one.rooms <= other.rooms));
    }

    #[test]
    fn few_rooms_need_one_redis_and_two_nodes() {
        let estimate = estimate(&options("--rooms 1000"), &[measured(0, 100_000, 100.0)]).unwrap();
        assert_eq!((estimate.nodes, estimate.redis_shards, estimate.balancer_addresses), (2, 1, 1));
        assert!(estimate.cautions.is_empty(), "{:?}", estimate.cautions);
    }

    #[test]
    fn what_was_not_measured_is_said() {
        let mut report = measured(0, 100_000, 100.0);
        report.phases.pop();
        let text = estimate(&options("--rooms 1000"), &[report]).unwrap().to_string();
        for part in [
            "join with its connection needs 122 µs",
            "2 requests to Redis",
            "lasts 600 s and has 20.0 messages",
            "33.0 µs CPU",
            "0.0 % of the messages",
        ] {
            assert!(text.contains(part), "{part} is missing in\n{text}");
        }
        let mut report = measured(0, 100_000, 100.0);
        report.verdict.unsound.push("the generator was late".to_owned());
        let text = estimate(&options("--rooms 1000"), &[report]).unwrap().to_string();
        assert!(text.contains("CAUTION: report 1: the generator was late."), "{text}");
    }

    #[test]
    fn what_is_needed_and_missing_is_refused() {
        let refused = |line: &str, report: &Report| {
            estimate(&options(line), std::slice::from_ref(report)).unwrap_err().to_string()
        };
        let good = measured(0, 100_000, 100.0);
        let without = |at: usize| {
            let mut report = good.clone();
            report.phases.remove(at);
            report
        };
        assert!(refused("--rooms 1", &without(0)).contains("no phase `hold`"));
        assert!(refused("--rooms 1", &without(1)).contains("no phase `pairs`"));
        let mut blind = good.clone();
        blind.phases[1].nodes.clear();
        assert!(refused("--rooms 1", &blind).contains("no phase `pairs` with the nodes' metrics"));
        let mut mixed = good.clone();
        mixed.phases[1].nodes[0].joins = 100_000;
        assert!(refused("--rooms 1", &mixed).contains("cannot tell what a message costs"));
        assert!(refused("--rooms 1 --local-share 0.5", &measured(100_000, 0, 30.0)).contains("placement apart"));
        assert!(refused("--rooms 0", &good).contains("--rooms"));
        assert!(refused("--rooms 1 --headroom 1", &good).contains("--headroom"));
        assert!(refused("--rooms 1 --memory 0.01", &good).contains("--memory"));
    }

    #[test]
    fn a_share_between_two_that_were_measured_lies_between_their_costs() {
        let both = [measured(100_000, 0, 30.0), measured(0, 100_000, 130.0)];
        let of = |line: &str, reports: &[Report]| {
            let mut assumptions = Vec::new();
            units(&options(line), reports, &mut assumptions).unwrap().message
        };
        let cost = of("--rooms 1 --local-share 0.75", &both);
        assert!(close(cost.value, 55.0) && !cost.at_most);
        assert!(close(of("--rooms 1", &both).value, 130.0), "without a word, the dearest");
        let cost = of("--rooms 1 --local-share 0.75", &both[1..]);
        assert!(close(cost.value, 130.0) && cost.at_most, "an upper bound, if nothing better is known");
    }

    #[test]
    fn figures_that_are_weak_say_so() {
        let mut report = measured(0, 100_000, 100.0);
        report.phases.swap(0, 1);
        report.phases[1].nodes[0].cpu_seconds = 0.01;
        let cautions = estimate(&options("--rooms 1000"), &[report]).unwrap().cautions;
        assert!(
            cautions[0].contains("phase hold: 0.0100 s") && cautions[1].contains("came after others"),
            "{cautions:?}"
        );
    }

    #[test]
    fn files_are_read_and_named_when_they_cannot_be() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("report.json");
        std::fs::write(&path, serde_json::to_string(&measured(0, 100_000, 100.0)).unwrap()).unwrap();
        let mut options = options("--rooms 10");
        options.from = vec![path.clone()];
        run(&options).unwrap();
        std::fs::write(&path, "{}").unwrap();
        assert!(run(&options).unwrap_err().to_string().contains("report.json"));
    }
}
