//! `loadtest bench all`: every benchmark in one go, and the document of what they showed.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::{Args, Parser};

use super::{Outcome, Verdict, cluster, node, resume};
use crate::table::{Spread, Summary, Table, Target};

/// All benchmarks in one go, written down as a document.
///
/// duet on one node against the bare relay, then on 1, 2, 4 and 8 nodes against as many of the reference, then peers that come
/// back. Exit status: 0 when every target holds, 1 when one does not or a message went astray, 2 when not everything could be
/// measured; then nothing is written.
#[derive(Clone, Debug, Args)]
pub struct Options {
    /// The document (Markdown)
    #[arg(long, value_name = "FILE", default_value = "docs/BENCHMARKS.md")]
    write: PathBuf,
    /// How often each server is started for each scenario
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Numbers of nodes; the targets are of 2 and 8
    #[arg(long, default_value = "1,2,4,8")]
    nodes: String,
    /// An option for `bench node`, such as --node=--seconds=2; may be given again
    #[arg(long, value_name = "OPTION", allow_hyphen_values = true)]
    node: Vec<String>,
    /// An option for `bench cluster`; may be given again
    #[arg(long, value_name = "OPTION", allow_hyphen_values = true)]
    cluster: Vec<String>,
    /// An option for `bench resume`; may be given again
    #[arg(long, value_name = "OPTION", allow_hyphen_values = true)]
    resume: Vec<String>,
}

/// The options of another benchmark, by their own parser.
#[derive(Parser)]
#[command(no_binary_name = true)]
struct Of<T: Args> {
    #[command(flatten)]
    options: T,
}

impl Options {
    fn of<T: Args>(&self, more: &[String], own: &[String]) -> anyhow::Result<T> {
        let rounds = format!("--rounds={}", self.rounds);
        parsed(own.iter().chain([&rounds]).chain(more))
    }
}

fn parsed<'a, T: Args>(options: impl IntoIterator<Item = &'a String>) -> anyhow::Result<T> {
    Ok(Of::<T>::try_parse_from(options)?.options)
}

/// Measures everything and writes the document.
///
/// # Errors
/// When something could not be measured, or the document cannot be written.
pub async fn run(options: &Options) -> anyhow::Result<Verdict> {
    let of_cluster = options.of(&options.cluster, &[format!("--nodes={}", options.nodes)])?;
    let of_resume = parsed(&options.resume)?;
    let one = node::run(&options.of(&options.node, &[])?).await?;
    let several = cluster::run(&of_cluster).await?;
    let back = resume::run(&of_resume).await?;
    write(&options.write, &document([&one, &several, &back], options.rounds))?;
    let held = [one, several, back].iter().all(|outcome| outcome.verdict() == Verdict::Holds);
    Ok(if held { Verdict::Holds } else { Verdict::Missed })
}

fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}

const HEAD: &str = "\
# What duet costs

Written by [`scripts/benchmarks.sh`](../scripts/benchmarks.sh), which builds everything, starts duet and what it is measured
against in turn, as fresh processes, loads both alike, reads their CPU clocks and their resident memory, and writes down what they
showed. Its exit status is 1 when an aim is missed or a message went astray. Every message is numbered: it has to arrive once, in
order, unchanged, and at the peer it was sent to alone.

Ratios first: absolute times belong to a machine.
";

const ONE: &str = "\
The bare relay is `loadtest/src/bin/bare-relay.rs`: tokio-tungstenite, rooms in a map, a channel and a writer task a connection, no
Socket.IO, no heartbeats, nothing else.

* **relay**: 4,000 sockets in 2,000 rooms, 6,000 messages of 600 bytes a second for 10 s, each when it is due; latency counts from that
  moment. duet's figure contains the heartbeats of its sockets. They connect in the same second and are probed in the same instant:
  that is most of its p99.
* **join**: 4,000 sockets connect (WebSocket, Engine.IO, Socket.IO CONNECT) and take their seats in pairs; the bare relay has no
  handshake but the WebSocket's.
* **memory**: 8,000 sockets seated in 4,000 rooms, idle, minus the empty process, when it has settled.
";

const SEVERAL: &str = "\
The reference is the lesson's server on Node.js with Socket.IO 4.8, its Redis adapter and a two-peer cap in Lua
([`loadtest/reference`](../loadtest/reference)). Each cluster has a Redis of its own; CPU is that of all nodes and of Redis together,
heartbeats and renewals in it. The two peers of every room sit on different nodes. 1,120 rooms, 600-byte messages, 2,000 a second in all:
what the reference gets through on 8 nodes. A node of duet runs on one thread (`server.worker_threads = 1`), as those of Node.js do: 8 of them share the cores of one
machine here.

The bare cluster is `loadtest/src/bin/bare-cluster.rs`, the floor: bare relays on one thread each, one `SPUBLISH` a message over a plain
connection that Redis does not answer on, one plain subscription a node; no Socket.IO, no heartbeats, no receipts, no leases. What it
costs more on 8 nodes than on 2 is what more processes cost on the same cores, whoever wrote them.

What more nodes cost a message is measured **in turns**: duet and the bare cluster on 2 nodes and on 8 all run at once, their peers in their
rooms, and each is loaded for 2 s, with 2,000 messages a second and with 8,000 (*busy*), four times, every other time in the reverse order;
then all are started anew, four times. A ratio is taken of what stands side by side. Other work on the machine changes from minute to minute
by more than what is looked for, and two clusters of the same program can differ as much for as long as they run.
There are no heartbeats meanwhile: those of all sockets would fall into one turn and not into another. 8 nodes are compared with 2 in three
ways: with as many messages in all, at both rates (at *busy* 2 nodes find several messages each time they look, and 8 seldom do), and with as
many a node (*busy* on 8 against the other rate on 2). See [SCALING.md](SCALING.md#what-more-nodes-cost-a-message).

*Silent* is one node that holds 18,000 sockets in their rooms. What its lease costs, the node and Redis, is looked for between heartbeats
(`timeouts.ping_interval` is 10 minutes there): a heartbeat of all of them costs many times that, and as much without Redis. It is
compared with a node that knows of no Redis beside a Redis that does nothing: that one wakes ten times a second for itself.
";

const BACK: &str = "\
duet alone, one thread a node, pairs that talk all the time: one message at a time until it is acknowledged, again when it was refused
for a reason that passes, as the [client library](CLIENT.md) does. Unlike the library, a peer that lost its connection comes back without
waiting. One run of each; times count from the moment the connection broke, p50 and p99 are of single peers, and who takes longer than
30 s counts with 30 s. *Talking again* is when each has heard the other.

* **reload**: one peer's connection is closed without a word of Socket.IO's; it connects again, every other time to the other node
  where there are two, and shows its token. 10 pairs, 500 reloads one after the other, 10 ms in the mean between an
  answer and the next message.
* **move**: the same 100 times, but the old connection is left standing and takes nothing any more, as when a peer changes networks: the
  server cannot know. The peer comes back after 200 ms, from when on times count.
* **kill**: one node of several is ended with SIGKILL, and started again before the next is; new pairs each time. Its 50 peers connect to
  the others at once. Half of them have the other peer on another node, half on the same. 50 ms in the mean.
* **messages**: what was answered with `ok` has to arrive. What was on its way when a connection broke is sent again and may arrive twice.

";

const BIG: &str = "\
## A hundred thousand sockets

See [SCALING.md](SCALING.md#a-hundred-thousand-sockets-on-one-machine).
";

fn document(outcomes: [&Outcome; 3], rounds: u32) -> String {
    let [one, several, back] = outcomes;
    let mut text = String::from(HEAD);
    let _ = writeln!(
        text,
        "Machine: {}; generator, servers and Redis all on it. Medians of {rounds} round(s) in one run, with the least and the most in \
         brackets; a ratio is taken round by round.\n",
        one.machine
    );
    text.push_str("| what | | measured | aim | |\n|---|---|---|---|---|\n");
    for table in outcomes.iter().flat_map(|outcome| &outcome.tables) {
        for row in &table.rows {
            if let Some(line) = aim(table, row) {
                let _ = writeln!(text, "{line}");
            }
        }
    }
    for line in outcomes.iter().flat_map(|outcome| &outcome.astray) {
        let _ = writeln!(text, "\n**{line}**");
    }
    for (when, outcome) in [("one node ran", one), ("several nodes ran", several), ("peers came back", back)] {
        if let Some(sentence) = &outcome.disturbed {
            let _ = writeln!(text, "\nWhile {when}, {sentence}.");
        }
    }
    for (title, words, outcome) in
        [("One node", ONE, one), ("Several nodes", SEVERAL, several), ("Coming back", BACK, back)]
    {
        let _ = write!(text, "\n## {title}\n\n{words}");
        for table in &outcome.tables {
            let _ = write!(text, "\n{}", table.markdown());
        }
    }
    let _ = write!(text, "\n{BIG}");
    text
}

/// A row of the first table, for a figure that has a target.
fn aim(table: &Table, row: &Summary) -> Option<String> {
    let target = row.target?;
    let against = match target {
        Target::Ratio(_) => format!("{} : {}", table.left, table.right),
        Target::Value(_) => table.left.clone(),
    };
    let measured = match target {
        Target::Ratio(_) => row.ratio.map(|ratio| Spread::show(ratio, 2)),
        Target::Value(_) => row.server.map(|server| server.show(row.decimals)),
    }?;
    let verdict = if row.holds? { "holds" } else { "**missed**" };
    Some(format!("| {} | {against} | **{measured}** | {} | {verdict} |", row.name.trim(), target.show()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::Machine;
    use crate::table::Figure;

    fn outcome(left: &str, ratio: f64, target: Option<Target>) -> Outcome {
        let figure = Figure {
            name: "CPU a message, µs",
            decimals: 1,
            server: vec![ratio * 10.0],
            reference: vec![10.0],
            compared: true,
            target,
        };
        Outcome {
            machine: Machine { cores: 2, cpu: "a CPU".into(), kernel: "6".into(), memory_mib: 1 },
            tables: vec![Table { left: left.into(), right: "that".into(), rows: vec![figure.summary()] }],
            astray: Vec::new(),
            disturbed: None,
        }
    }

    #[test]
    fn what_has_an_aim_stands_first_whether_it_holds_or_not() {
        let (one, several) =
            (outcome("one", 1.2, Some(Target::Ratio(1.25))), outcome("8 nodes", 1.2, Some(Target::Ratio(1.15))));
        let text = document([&one, &several, &outcome("a kill", 0.0, Some(Target::Value(0.0)))], 1);
        let (first, rest) = text.split_once("## One node").expect("both parts");
        assert!(first.contains("2 cores of a CPU"), "{first}");
        assert!(first.contains("| CPU a message, µs | one : that | **1.20** | ≤ 1.25× | holds |"), "{first}");
        assert!(first.contains("| CPU a message, µs | 8 nodes : that | **1.20** | ≤ 1.15× | **missed** |"), "{first}");
        assert!(first.contains("| CPU a message, µs | a kill | **0.0** | ≤ 0.0 | holds |"), "{first}");
        assert!(rest.contains("| CPU a message, µs | 12.0 | 10.0 | 1.20 | ≤ 1.25× | holds |"), "{rest}");
    }

    #[test]
    fn a_figure_without_an_aim_stands_below_alone() {
        let text = document([&outcome("one", 1.2, None), &outcome("two", 1.3, None), &outcome("back", 1.4, None)], 1);
        assert!(!text.split("## One node").next().expect("a part").contains("µs"), "{text}");
        assert!(text.contains("| CPU a message, µs | 13.0 | 10.0 | 1.30 |"), "{text}");
    }

    #[test]
    fn what_went_wrong_is_said() {
        let (mut one, mut several) = (outcome("one", 1.0, None), outcome("two", 1.0, None));
        one.astray = vec!["a message was lost".into()];
        several.disturbed = Some("others were there".into());
        let text = document([&one, &several, &outcome("back", 1.0, None)], 2);
        assert!(
            text.contains("**a message was lost**") && text.contains("While several nodes ran, others were there.")
        );
    }

    #[test]
    fn options_are_handed_on_and_bad_ones_refused() {
        let options = |node: &[&str]| Options {
            write: PathBuf::new(),
            rounds: 2,
            nodes: "2".into(),
            node: node.iter().map(ToString::to_string).collect(),
            cluster: Vec::new(),
            resume: Vec::new(),
        };
        assert!(options(&["--seconds=2"]).of::<node::Options>(&["--seconds=2".into()], &[]).is_ok());
        assert!(options(&[]).of::<node::Options>(&["--no-such".into()], &[]).is_err());
        assert!(parsed::<resume::Options>(&["--kills=1".into()]).is_ok());
        assert!(parsed::<resume::Options>(&["--kills=none".into()]).is_err());
    }
}
