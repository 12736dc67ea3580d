//! Calls go on while strangers flood a node: every message once and in order, soon, and in bounded memory; and who comes to
//! stay still gets in.
//!
//! The node is a process of its own with the settings of `config/cluster.toml`. Flood, calls and node share the machine's
//! cores, so what a flood costs the calls is also what it costs to make it: the same calls without a flood are measured
//! first, and printed beside.
#![allow(missing_docs, unreachable_pub, clippy::unwrap_used, reason = "test code")]
#![allow(clippy::print_stdout, reason = "the figures are to be read")]

mod flood;
#[path = "../guarantees/support/mod.rs"]
mod support;

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use flood::{Flood, Kind};
use serde_json::json;
use support::{Client, Heard, PATIENCE, process::NodeProcess, seat};
use tokio::task::JoinSet;

/// Pairs that talk, both ways.
const PAIRS: usize = 10;
/// How often each peer says something.
const EVERY: Duration = Duration::from_millis(40);
/// How many things.
const MESSAGES: usize = 100;
/// That takes so long, and so does a flood.
const LASTS: Duration = Duration::from_secs(4);
/// How often a flood is tried that seems to make calls slow.
const TRIES: usize = 3;
/// The most that 99 of 100 messages may take.
const P99: Duration = Duration::from_millis(250);
/// The most memory that the node may come to. It is bounded by what one socket may have, times the sockets that there are.
const MEMORY_KIB: u64 = 256 * 1024;

/// What the calls and the newcomers of one run saw.
struct Figures {
    messages: usize,
    p50: Duration,
    p99: Duration,
    most: Duration,
    newcomers: usize,
    newcomer_p99: Duration,
}

/// The value below which a part of the sorted `all` lies.
fn quantile(all: &[Duration], part: f64) -> Duration {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "an index")]
    #[expect(clippy::cast_precision_loss, reason = "thousands")]
    let at = ((all.len() as f64 * part) as usize).min(all.len().saturating_sub(1));
    all.get(at).copied().unwrap_or_default()
}

/// One peer of a pair: says `count` numbered messages, and hears as many, each once and in order; how long each took to come.
async fn talk(mut peer: Client, began: Instant, count: usize) -> Vec<Duration> {
    let mut due = tokio::time::interval(EVERY);
    let (mut said, mut took) = (0, Vec::new());
    while said < count || took.len() < count {
        tokio::select! {
            _ = due.tick(), if said < count => {
                let now = u64::try_from(began.elapsed().as_micros()).expect("short");
                peer.emit(&json!(["message", said, now])).await;
                said += 1;
            }
            heard = peer.hear() => match heard {
                Heard::Event(name, arguments) if name == "message" => {
                    assert_eq!(arguments[0], json!(took.len()), "each once, in order");
                    let sent = Duration::from_micros(arguments[1].as_u64().expect("a time"));
                    took.push(began.elapsed().saturating_sub(sent));
                }
                heard => panic!("{heard:?} after {} messages", took.len()),
            },
        }
    }
    took
}

/// Comes in, takes a seat, and goes, again and again until `until`; how long each took.
async fn come_and_go(target: SocketAddr, until: Instant) -> Vec<Duration> {
    let mut took = Vec::new();
    while Instant::now() < until {
        let since = Instant::now();
        let mut client = Client::connect_from("127.0.0.3", target).await.expect("let in");
        let answer = client.call(&json!(["create or join", format!("newcomer {}", took.len())])).await;
        assert_eq!(answer["ok"], true, "{answer}");
        took.push(since.elapsed());
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    took
}

/// What calls and newcomers see for as long as a flood lasts.
async fn measure(target: SocketAddr, name: &str) -> Figures {
    let began = Instant::now();
    let mut peers = JoinSet::new();
    for n in 0..PAIRS {
        let connect = || Client::connect_from("127.0.0.2", target);
        let (mut a, mut b) = (connect().await.expect("let in"), connect().await.expect("let in"));
        seat(&mut a, &mut b, &format!("{name} {n}")).await;
        peers.spawn(talk(a, began, MESSAGES));
        peers.spawn(talk(b, began, MESSAGES));
    }
    let newcomers = tokio::spawn(come_and_go(target, Instant::now() + LASTS));
    let mut took: Vec<Duration> = tokio::time::timeout(LASTS + PATIENCE * 2, peers.join_all())
        .await
        .expect("every message arrives")
        .into_iter()
        .flatten()
        .collect();
    let mut newcomers = newcomers.await.expect("everybody who comes is let in");
    took.sort_unstable();
    newcomers.sort_unstable();
    Figures {
        messages: took.len(),
        p50: quantile(&took, 0.5),
        p99: quantile(&took, 0.99),
        most: quantile(&took, 1.0),
        newcomers: newcomers.len(),
        newcomer_p99: quantile(&newcomers, 0.99),
    }
}

/// Calls while there is a flood of that kind, or none, on a fresh node; tells whether they were quick enough.
async fn try_once(kind: Option<Kind>) -> bool {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/config/cluster.toml");
    let node = NodeProcess::start("", &vec![("DUET_CONFIG".to_owned(), file.to_owned())]).await;
    let name = kind.map_or("none", Kind::name);
    let flood = kind.map(|kind| Flood::begin(kind, node.public));
    let figures = measure(node.public, name).await;
    let done = flood.map_or(0, |end| end());
    let (_, most_kib) = node.memory_kib();
    let (_, metrics) = support::get(node.admin, "/metrics").await;
    let limited: u64 = metrics
        .lines()
        .filter(|line| line.starts_with("duet_limited_total{"))
        .filter_map(|line| line.rsplit_once(' ')?.1.parse::<u64>().ok())
        .sum();
    println!(
        "{name:>18} {:>9} {:>9.1?} {:>9.1?} {:>9.1?} {:>4} {:>9.1?} {done:>9} {:>8} {limited:>9}",
        figures.messages,
        figures.p50,
        figures.p99,
        figures.most,
        figures.newcomers,
        figures.newcomer_p99,
        most_kib / 1024,
    );
    assert!(figures.newcomers > 0 && figures.messages == PAIRS * 2 * MESSAGES);
    assert!(most_kib < MEMORY_KIB, "{name}: {most_kib} KiB");
    assert!(metrics.contains("\nduet_panics_total 0\n"), "{}", node.log());
    // A flood that does nothing shows nothing.
    assert!(kind.is_none() || done > 100, "{name}: {done}");
    figures.p99 < P99
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_go_on_through_floods_of_strangers() {
    let _ = rlimit::increase_nofile_limit(u64::MAX);
    println!(
        "{:>18} {:>9} {:>9} {:>9} {:>9} {:>14} {:>9} {:>8} {:>9}",
        "flood", "messages", "p50", "p99", "longest", "newcomers p99", "done", "MiB", "limited"
    );
    for kind in [None].into_iter().chain(Kind::ALL.map(Some)) {
        // A machine that is busy with something else for seconds is no flood's doing.
        let mut quick = false;
        for _ in 0..TRIES {
            quick = try_once(kind).await;
            if quick {
                break;
            }
        }
        assert!(quick, "{}: 99 of 100 messages took longer than {P99:?}", kind.map_or("none", Kind::name));
    }
}
