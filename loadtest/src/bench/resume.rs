//! `loadtest bench resume`: from a reload to the seat, from the end of a node to talking again, and what is lost on the way.
//!
//! Pairs talk all the time. A *reload* breaks one peer's connection, as a browser does: closed without a word of Socket.IO's. A
//! *move* leaves it standing and silent, as a change of the network does, and nobody can tell the server. A *kill* ends a node with SIGKILL, and the connections of all its peers with it. Who lost its connection comes back at once and
//! shows the token of its seat. `talker` is one peer, `book` keeps what all of them said and heard.

mod book;
mod talker;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use hdrhistogram::Histogram;
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;

use self::book::{Book, Took, other};
use self::talker::Talker;
use super::cluster::system::{Cluster, System, require};
use super::relay::Percentiles;
use super::{Mark, Outcome, REST, at_least_one, beside, count, disturbed};
use crate::crowd::Pings;
use crate::ledger::Account;
use crate::machine::Machine;
use crate::pace;
use crate::table::{Figure, Summary, Table, Target as Most};

/// Peers that come back: after a reload, and when their node is killed.
///
/// Exit status: 0 when no message was lost and everybody came back to its seat, 1 when not, 2 when it could not run.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// The server to measure [default: `duet` next to this program]
    #[arg(long, value_name = "PATH")]
    duet: Option<PathBuf>,
    /// Reloads, one after the other: on two nodes, and again on one; 0 leaves them out
    #[arg(long, default_value_t = 500)]
    reloads: usize,
    /// The same with connections that are left standing and silent, as when a peer changes networks, on two nodes; 0 leaves it out
    #[arg(long, default_value_t = 100)]
    moves: usize,
    /// Milliseconds of that silence, until the peer comes back by another connection
    #[arg(long, default_value_t = 200)]
    silence_ms: u64,
    /// Pairs that talk meanwhile, whose peers reload in turn
    #[arg(long, default_value_t = 10, value_parser = at_least_one)]
    pairs: usize,
    /// Kills, of one node after the other; 0 leaves them out
    #[arg(long, default_value_t = 10)]
    kills: usize,
    /// Nodes of which one is killed
    #[arg(long, default_value_t = 3, value_parser = at_least_two)]
    nodes: usize,
    /// Peers on the node that is killed: half of them have their other peer there too
    #[arg(long, default_value_t = 50, value_parser = at_least_one)]
    victims: usize,
    /// Milliseconds from an acknowledgement to a peer's next message in the mean, while peers reload
    #[arg(long, default_value_t = 10)]
    reload_pause_ms: u64,
    /// The same while nodes are killed
    #[arg(long, default_value_t = 50)]
    kill_pause_ms: u64,
    /// Write everything measured to this file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// How long a peer may take to be seated, to hear and to be heard again, before it counts as not back.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long pairs may take to begin to talk, or to end.
const SETTLED: Duration = Duration::from_secs(30);
/// How long the last messages may take to arrive.
const LAST: Duration = Duration::from_secs(5);
/// Messages each peer has heard before anything breaks: by then no two are in step.
const WARM: usize = 10;

const NOT_BACK: &str = "not talking again in 30 s";
const LOST: &str = "messages lost";

fn at_least_two(text: &str) -> Result<usize, String> {
    match at_least_one(text)? {
        1 => Err("must be at least 2".to_owned()),
        nodes => Ok(nodes),
    }
}

/// How long breaks took; who was not back in time counts with [`PATIENCE`].
struct Clock {
    seated: Histogram<u64>,
    talks: Histogram<u64>,
    hears: Histogram<u64>,
    reaches: Histogram<u64>,
    late: u64,
}

impl Default for Clock {
    fn default() -> Self {
        let new = pace::micros_histogram;
        Self { seated: new(), talks: new(), hears: new(), reaches: new(), late: 0 }
    }
}

impl Clock {
    fn add(&mut self, took: Took) {
        let talks = took.talks();
        self.late += u64::from(took.seated.is_none() || talks.is_none());
        for (histogram, took) in [
            (&mut self.seated, took.seated),
            (&mut self.talks, talks),
            (&mut self.hears, took.hears),
            (&mut self.reaches, took.reaches),
        ] {
            pace::record(histogram, took.unwrap_or(PATIENCE));
        }
    }

    fn times(&self) -> Times {
        Times {
            runs: self.seated.len(),
            seated_us: Percentiles::of(&self.seated),
            talks_us: Percentiles::of(&self.talks),
            hears_us: Percentiles::of(&self.hears),
            reaches_us: Percentiles::of(&self.reaches),
            late: self.late,
        }
    }
}

/// What breaks took those whose connection broke.
#[derive(Clone, Copy, Debug, serde::Serialize)]
struct Times {
    runs: u64,
    /// Until `resumed` was heard.
    seated_us: Percentiles,
    /// Until both ways were open: the later of the next two.
    talks_us: Percentiles,
    /// Until the other peer was heard.
    hears_us: Percentiles,
    /// Until the other peer heard it.
    reaches_us: Percentiles,
    /// Not seated, not hearing or not heard in time.
    late: u64,
}

/// How messages fared.
#[derive(Clone, Debug, Default, serde::Serialize)]
struct Messages {
    /// `sent` are those that were accepted.
    account: Account,
    /// Never answered for good.
    unanswered: u64,
    /// How many milliseconds after the nearest break of its receiver each lost message was accepted; negative: before it.
    lost_after_ms: Vec<f64>,
    /// Accepted, and kept until the other peer was back.
    kept: u64,
    /// Sent again, by the code of the refusal.
    refusals: BTreeMap<String, u64>,
    /// What else went wrong, and how often.
    troubles: BTreeMap<String, u64>,
}

impl Messages {
    fn add(&mut self, book: &Book) {
        let (all, account) = (&mut self.account, book.account());
        all.sent += account.sent;
        all.delivered += account.delivered;
        all.lost += account.lost;
        all.twice += account.twice;
        all.out_of_order += account.out_of_order;
        all.to_a_stranger += account.to_a_stranger;
        all.altered += account.altered;
        self.unanswered += book.unanswered();
        self.lost_after_ms.extend(book.lost().map(|seconds| seconds * 1e3));
        self.kept += book.kept();
        for (all, more) in [(&mut self.refusals, book.refusals()), (&mut self.troubles, book.troubles())] {
            for (what, times) in more {
                *all.entry(what.clone()).or_default() += times;
            }
        }
    }
}

/// Reloads on so many nodes, or changes of the network.
#[derive(serde::Serialize)]
struct Reloads {
    what: &'static str,
    nodes: usize,
    times: Times,
    messages: Messages,
    others_cores: f64,
}

/// Nodes killed.
#[derive(serde::Serialize)]
struct Kills {
    runs: usize,
    nodes: usize,
    /// All whose connection broke.
    all: Times,
    /// Those of them whose other peer was on another node.
    half: Option<Times>,
    /// Those whose other peer was on the same node.
    whole: Option<Times>,
    messages: Messages,
}

#[derive(Default, serde::Serialize)]
struct Measured {
    reloads: Vec<Reloads>,
    kills: Option<Kills>,
}

#[derive(serde::Serialize)]
struct Report<'a> {
    /// Whether everything was measured.
    complete: bool,
    machine: &'a Machine,
    tables: &'a [Table],
    measured: &'a Measured,
}

/// Measures, prints the tables and, if asked, writes the report.
///
/// # Errors
/// When something could not be measured.
#[expect(clippy::print_stdout, reason = "where it runs stands above the tables")]
pub async fn run(options: &Options) -> anyhow::Result<Outcome> {
    let duet = System::Duet(beside(options.duet.clone(), "duet")?);
    require("redis-server", "install Redis 7 or newer").await?;
    let machine = Machine::read();
    println!("{machine}");

    let mut measured = Measured::default();
    let done = measure_all(options, &duet, &mut measured).await;

    let outcome = Outcome {
        machine,
        tables: measured.tables(),
        astray: measured.astray(),
        disturbed: disturbed(measured.others_cores()),
    };
    outcome.print();
    if let Some(path) = &options.json {
        let Outcome { machine, tables, .. } = &outcome;
        let report = Report { complete: done.is_ok(), machine, tables, measured: &measured };
        std::fs::write(path, serde_json::to_vec_pretty(&report)?)
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    done.context("not everything was measured")?;
    Ok(outcome)
}

async fn measure_all(options: &Options, duet: &System, measured: &mut Measured) -> anyhow::Result<()> {
    let silence = Some(Duration::from_millis(options.silence_ms));
    for (what, runs, nodes, silence) in [
        ("reload", options.reloads, 2, None),
        ("reload", options.reloads, 1, None),
        ("move", options.moves, 2, silence),
    ] {
        if runs > 0 {
            eprintln!("{runs} times: {what}, {nodes} node(s)");
            let cluster = Cluster::start(duet, nodes).await?;
            let reloads = reload(options, &cluster, (what, runs, nodes, silence)).await;
            cluster.stop().await?;
            measured.reloads.push(reloads.context(what)?);
        }
    }
    if options.kills > 0 {
        let mut cluster = Cluster::start(duet, options.nodes).await?;
        let kills = kill(options, &mut cluster).await;
        cluster.stop().await?;
        measured.kills = Some(kills.context("kills")?);
    }
    Ok(())
}

/// How peers talk, and break their connections.
#[derive(Clone, Copy)]
struct Pace {
    /// From an answer to the next message, in the mean.
    pause: Duration,
    /// How long a connection that breaks is silent before, if it is left standing.
    silence: Option<Duration>,
}

/// Pairs that talk. They end when it is dropped.
struct Talk {
    book: watch::Sender<Book>,
    woken: Vec<Arc<Notify>>,
    tasks: JoinSet<()>,
}

impl Talk {
    /// Starts both peers of each pair on these nodes, and waits until all talk.
    async fn start(cluster: &Cluster, name: &str, pace: Pace, nodes: &[usize]) -> anyhow::Result<Self> {
        let Pace { pause, silence } = pace;
        let targets: Vec<_> = nodes.iter().map(|node| cluster.address(*node)).collect();
        let mut talk = Self { book: watch::Sender::new(Book::new(&targets)), woken: Vec::new(), tasks: JoinSet::new() };
        for side in 0..nodes.len() {
            let woken = Arc::<Notify>::default();
            let (room, book) = (format!("{name}-{}", side / 2), talk.book.clone());
            let talker = Talker { side, room, pause, silence, book, woken: Arc::clone(&woken) };
            talk.woken.push(woken);
            talk.tasks.spawn(talker.run());
        }
        let begun = talk.until(SETTLED, |book| book.all_heard(WARM)).await;
        let troubles = talk.book.borrow().troubles().clone();
        ensure!(begun, "the pairs did not begin to talk: {troubles:?}");
        Ok(talk)
    }

    /// Waits until the book says so; tells whether it does.
    async fn until(&self, patience: Duration, says: impl Fn(&Book) -> bool) -> bool {
        let mut book = self.book.subscribe();
        tokio::time::timeout(patience, book.wait_for(|book| says(book))).await.is_ok_and(|said| said.is_ok())
    }

    /// Lets everybody say what it has begun, hears everything out, and ends. A cluster that is whole comes to rest before.
    async fn end(mut self, cluster: Option<&Cluster>, messages: &mut Messages) -> anyhow::Result<()> {
        self.book.send_modify(Book::hush);
        self.until(SETTLED, Book::is_answered).await;
        self.until(LAST, Book::has_all).await;
        if let Some(cluster) = cluster {
            // What arrives now arrives twice.
            cluster.subject(1).processes.quiet(REST).await?;
        }
        messages.add(&self.book.borrow());
        self.book.send_modify(Book::end);
        for woken in &self.woken {
            woken.notify_one();
        }
        while self.tasks.join_next().await.is_some() {}
        Ok(())
    }
}

/// Pairs of which each peer in turn reloads, every other time to another node, if there is one.
async fn reload(
    options: &Options,
    cluster: &Cluster,
    (what, runs, nodes, silence): (&'static str, usize, usize, Option<Duration>),
) -> anyhow::Result<Reloads> {
    let pace = Pace { pause: Duration::from_millis(options.reload_pause_ms), silence };
    let mut at: Vec<_> = (0..options.pairs * 2).map(|side| side % nodes).collect();
    let talk = Talk::start(cluster, what, pace, &at).await?;
    let processes = cluster.subject(1).processes;
    let (mut clock, mut messages) = (Clock::default(), Messages::default());
    let begin = Mark::take(&processes, &Pings::default())?;
    for run in 0..runs {
        let side = turn(run, options.pairs);
        at[side] = (at[side] + (side + run / at.len()) % 2) % nodes;
        talk.book.send_modify(|book| book.lose(&[(side, cluster.address(at[side]))]));
        talk.woken[side].notify_one();
        talk.until(PATIENCE, |book| book.are_back([side].into_iter())).await;
        clock.add(talk.book.borrow().took(side));
    }
    let others_cores = Mark::take(&processes, &Pings::default())?.since(&begin).others_cores();
    talk.end(Some(cluster), &mut messages).await?;
    Ok(Reloads { what, nodes, times: clock.times(), messages, others_cores })
}

/// Who reloads next: one peer of each pair, then the other of each, so that the answers to what both said last have come.
const fn turn(run: usize, pairs: usize) -> usize {
    run % pairs * 2 + run / pairs % 2
}

/// Where the peers of all pairs sit before a kill: half of the victims with their other peer, each of the rest with one that
/// stays, first or second in its room in turn.
fn places(victim: usize, victims: usize, nodes: usize) -> Vec<usize> {
    let whole = victims / 4;
    let mut places = vec![victim; whole * 2];
    for pair in 0..victims - whole * 2 {
        let stays = (victim + 1 + pair % (nodes - 1)) % nodes;
        places.extend(if pair % 2 == 0 { [victim, stays] } else { [stays, victim] });
    }
    places
}

/// Kills one node after the other, with pairs that talk, new ones each time.
async fn kill(options: &Options, cluster: &mut Cluster) -> anyhow::Result<Kills> {
    let nodes = options.nodes;
    let pace = Pace { pause: Duration::from_millis(options.kill_pause_ms), silence: None };
    let (mut all, mut half, mut whole) = (Clock::default(), Clock::default(), Clock::default());
    let mut messages = Messages::default();
    for run in 0..options.kills {
        eprintln!("kill {} of {}", run + 1, options.kills);
        let victim = run % nodes;
        let places = places(victim, options.victims, nodes);
        let talk = Talk::start(cluster, &format!("kill-{run}"), pace, &places).await?;
        let lost: Vec<_> = (0..places.len()).filter(|side| places[*side] == victim).collect();
        let away = |(nth, side)| (side, cluster.address((victim + 1 + nth % (nodes - 1)) % nodes));
        let to: Vec<_> = lost.iter().copied().enumerate().map(away).collect();
        talk.book.send_modify(|book| book.lose(&to));
        let killed = cluster.kill(victim).await?;
        talk.book.send_modify(|book| lost.iter().for_each(|side| book.broke(*side, killed)));
        talk.until(PATIENCE, |book| book.are_back(lost.iter().copied())).await;
        for side in lost {
            let took = talk.book.borrow().took(side);
            all.add(took);
            if places[other(side)] == victim { &mut whole } else { &mut half }.add(took);
        }
        talk.end(None, &mut messages).await?;
        cluster.start_again(victim).await?;
    }
    let some = |clock: &Clock| (!clock.seated.is_empty()).then(|| clock.times());
    let (half, whole) = (some(&half), some(&whole));
    Ok(Kills { runs: options.kills, nodes, all: all.times(), half, whole, messages })
}

fn row(name: &'static str, decimals: usize, left: Option<f64>, right: Option<f64>, target: Option<Most>) -> Summary {
    let list = |value: Option<f64>| value.into_iter().collect();
    Figure { name, decimals, server: list(left), reference: list(right), compared: false, target }.summary()
}

/// What breaks took, of two kinds.
fn times_rows(left: Option<Times>, right: Option<Times>) -> Vec<Summary> {
    type Of = fn(&Times) -> u64;
    const IN_MS: [(&str, Of); 12] = [
        ("seated again p50, ms", |times| times.seated_us.p50),
        ("  p99", |times| times.seated_us.p99),
        ("  most", |times| times.seated_us.max),
        ("talking again p50, ms", |times| times.talks_us.p50),
        ("  p99", |times| times.talks_us.p99),
        ("  most", |times| times.talks_us.max),
        ("hears the other again p50, ms", |times| times.hears_us.p50),
        ("  p99", |times| times.hears_us.p99),
        ("  most", |times| times.hears_us.max),
        ("is heard again p50, ms", |times| times.reaches_us.p50),
        ("  p99", |times| times.reaches_us.p99),
        ("  most", |times| times.reaches_us.max),
    ];
    let both = |of: &dyn Fn(&Times) -> f64| [left, right].map(|times| times.as_ref().map(of));
    let [runs, runs_right] = both(&|times| count(times.runs));
    let mut rows = vec![row("runs", 0, runs, runs_right, None)];
    for (name, of) in IN_MS {
        let [left, right] = both(&|times| count(of(times)) / 1e3);
        rows.push(row(name, 1, left, right, None));
    }
    let [late, late_right] = both(&|times| count(times.late));
    rows.push(row(NOT_BACK, 0, late, late_right, Some(Most::Value(0.0))));
    rows
}

fn message_rows(messages: &Messages) -> Vec<Summary> {
    let Messages { account, unanswered, kept, refusals, .. } = messages;
    let row = |name, value, target| row(name, 0, Some(count(value)), None, target);
    vec![
        row("messages accepted", account.sent, None),
        row(LOST, account.lost, Some(Most::Value(0.0))),
        row("  never answered", *unanswered, Some(Most::Value(0.0))),
        row("  arrived twice", account.twice, None),
        row("  out of order", account.out_of_order, None),
        row("  kept for the other", *kept, None),
        row("  refused, and sent again", refusals.values().sum(), None),
    ]
}

impl Reloads {
    fn label(&self) -> String {
        let s = if self.nodes == 1 { "" } else { "s" };
        format!("{}, {} node{s}", self.what, self.nodes)
    }

    fn table(&self) -> Table {
        let mut rows = times_rows(Some(self.times), None);
        rows.extend(message_rows(&self.messages));
        Table { left: self.label(), right: String::new(), rows }
    }
}

impl Kills {
    fn label(&self) -> String {
        format!("kill, {} nodes", self.nodes)
    }

    fn tables(&self) -> [Table; 2] {
        let mut rows = times_rows(Some(self.all), None);
        rows.extend(message_rows(&self.messages));
        // What has an aim has it among all.
        let split =
            times_rows(self.half, self.whole).into_iter().map(|row| Summary { target: None, holds: None, ..row });
        [
            Table { left: self.label(), right: String::new(), rows },
            Table {
                left: "the other on another node".to_owned(),
                right: "the other on the same".to_owned(),
                rows: split.collect(),
            },
        ]
    }
}

impl Measured {
    fn tables(&self) -> Vec<Table> {
        let kills = self.kills.iter().flat_map(Kills::tables);
        self.reloads.iter().map(Reloads::table).chain(kills).collect()
    }

    /// A line for each phase in which a message was lost or a seat was not taken back.
    fn astray(&self) -> Vec<String> {
        let reloads = self.reloads.iter().map(|reloads| (reloads.label(), &reloads.messages));
        let kills = self.kills.iter().map(|kills| (kills.label(), &kills.messages));
        let mut lines = Vec::new();
        for (label, Messages { account, unanswered, lost_after_ms, troubles, .. }) in reloads.chain(kills) {
            if account.lost + account.to_a_stranger + account.altered + unanswered > 0 {
                lines.push(format!("{label}: messages went astray: {account:?}, {unanswered} never answered"));
                let some: Vec<_> = lost_after_ms.iter().take(10).map(|after| format!("{after:.2}")).collect();
                let some = some.join(", ");
                lines.push(format!(
                    "{label}: accepted so many ms after the break of their receiver (below 0: before it): {some}"
                ));
            }
            if !troubles.is_empty() {
                lines.push(format!("{label}: {troubles:?}"));
            }
        }
        lines
    }

    /// The most CPU that others used meanwhile.
    fn others_cores(&self) -> f64 {
        self.reloads.iter().map(|reloads| reloads.others_cores).fold(0.0, f64::max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn clock(late: bool) -> Clock {
        let mut clock = Clock::default();
        let took = Some(Duration::from_millis(2));
        clock.add(Took { seated: took, hears: took, reaches: (!late).then_some(Duration::from_millis(4)) });
        clock
    }

    fn measured(late: bool, lost: u64) -> Measured {
        let messages = Messages { account: Account { sent: 9, lost, ..Account::default() }, ..Messages::default() };
        Measured {
            reloads: vec![Reloads {
                what: "reload",
                nodes: 2,
                times: clock(late).times(),
                messages,
                others_cores: 0.0,
            }],
            kills: None,
        }
    }

    #[test]
    fn a_lost_message_and_a_peer_that_is_not_back_are_missed() {
        let missed = |measured: &Measured| {
            let rows = measured.tables().into_iter().flat_map(|table| table.rows);
            rows.filter(|row| row.holds == Some(false)).map(|row| row.name).collect::<Vec<_>>()
        };
        assert!(missed(&measured(false, 0)).is_empty() && measured(false, 0).astray().is_empty());
        assert_eq!(missed(&measured(false, 1)), [LOST]);
        assert_eq!(measured(false, 1).astray().len(), 2);
        assert_eq!(missed(&measured(true, 0)), [NOT_BACK]);
    }

    #[test]
    fn who_is_not_back_counts_with_the_whole_patience() {
        let times = clock(true).times();
        assert_eq!((times.runs, times.late), (1, 1));
        assert!(times.reaches_us.max >= 29_900_000 && times.seated_us.max < 2_100, "{times:?}");
    }

    #[test]
    fn every_peer_reloads_in_its_turn() {
        assert_eq!((0..8).map(|run| turn(run, 3)).collect::<Vec<_>>(), [0, 2, 4, 1, 3, 5, 0, 2]);
        assert_eq!((0..3).map(|run| turn(run, 1)).collect::<Vec<_>>(), [0, 1, 0]);
    }

    #[test]
    fn half_of_the_victims_sit_with_their_other_peer() {
        for (victim, victims, nodes) in [(0, 50, 3), (2, 50, 3), (1, 7, 2), (0, 1, 2)] {
            let places = places(victim, victims, nodes);
            assert_eq!(places.iter().filter(|place| **place == victim).count(), victims);
            let whole = places.chunks(2).filter(|pair| pair[0] == victim && pair[1] == victim).count();
            assert_eq!(whole, victims / 4);
            assert!(places.chunks(2).all(|pair| pair.contains(&victim)) && places.iter().all(|place| *place < nodes));
        }
    }
}
