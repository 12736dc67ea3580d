//! What nodes say of themselves: their `/metrics`, before a phase, during it, and after.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::target::Endpoint;
use crate::report::Node;

const PATIENCE: Duration = Duration::from_secs(5);
const MOST_BYTES: u64 = 4 << 20;

/// One reading of one node.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Reading {
    /// CPU time since the process began, in seconds.
    pub cpu_seconds: f64,
    /// Resident memory, in bytes.
    pub memory_bytes: u64,
    /// Open sockets.
    pub sockets: u64,
    /// Since the process began, as those below.
    pub sockets_opened: u64,
    /// Seats taken.
    pub joins: u64,
    /// To a peer of the same node.
    pub local_relays: u64,
    /// To a peer of another node.
    pub remote_relays: u64,
    /// To Redis, answered or (messages to nodes) not.
    pub redis_requests: u64,
    /// From clients.
    pub received_bytes: u64,
    /// To clients.
    pub sent_bytes: u64,
}

/// Reads one node.
///
/// # Errors
/// When it does not answer, or with something else than metrics of duet.
pub async fn read(endpoint: &Endpoint) -> anyhow::Result<Reading> {
    let text = tokio::time::timeout(PATIENCE, get(endpoint)).await.context("no answer in time").flatten();
    let text = text.with_context(|| format!("the metrics of {}", endpoint.url))?;
    parse(&text).with_context(|| format!("{}: these are no metrics of duet", endpoint.url))
}

async fn get(endpoint: &Endpoint) -> anyhow::Result<String> {
    let mut stream = TcpStream::connect(endpoint.address).await?;
    let path = if endpoint.path == "/" { "/metrics" } else { &endpoint.path };
    let request = format!("GET {path} HTTP/1.0\r\nHost: {}\r\nConnection: close\r\n\r\n", endpoint.host);
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    stream.take(MOST_BYTES).read_to_string(&mut answer).await?;
    let (head, body) = answer.split_once("\r\n\r\n").context("no answer of HTTP")?;
    ensure!(head.split(' ').nth(1) == Some("200"), "answered {:?}", head.lines().next().unwrap_or_default());
    Ok(body.to_owned())
}

/// Reads what matters here out of the Prometheus text format.
fn parse(text: &str) -> Option<Reading> {
    let sum = |name: &str, label: &str| {
        let lines = text.lines().filter(|line| {
            line.strip_prefix(name).is_some_and(|rest| rest.starts_with(' ') || rest.starts_with('{'))
                && line.contains(label)
        });
        let values: Vec<f64> = lines.filter_map(|line| line.rsplit(' ').next()?.parse().ok()).collect();
        (!values.is_empty()).then(|| values.iter().sum::<f64>())
    };
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "counts and bytes")]
    let count = |name: &str, label: &str| sum(name, label).unwrap_or(0.0) as u64;
    Some(Reading {
        cpu_seconds: sum("duet_cpu_seconds_total", "").or_else(|| sum("process_cpu_seconds_total", ""))?,
        memory_bytes: count("process_resident_memory_bytes", ""),
        sockets: {
            sum("duet_sockets", "")?;
            count("duet_sockets", "")
        },
        sockets_opened: count("duet_sockets_opened_total", ""),
        joins: count("duet_joins_total", "outcome=\"created\"") + count("duet_joins_total", "outcome=\"joined\""),
        local_relays: count("duet_relays_total", "scope=\"local\""),
        remote_relays: count("duet_relays_total", "scope=\"remote\""),
        redis_requests: count("duet_redis_duration_seconds_count", "") + count("duet_redis_publishes_total", ""),
        received_bytes: count("duet_received_bytes_total", ""),
        sent_bytes: count("duet_sent_bytes_total", ""),
    })
}

/// Reads all nodes.
///
/// # Errors
/// As [`read`].
pub async fn read_all(endpoints: &[Endpoint]) -> anyhow::Result<Vec<Reading>> {
    futures_util::future::try_join_all(endpoints.iter().map(read)).await
}

/// What a node did between two readings: counts since `before`, memory before the sockets were opened and at the end.
#[must_use]
pub fn node(url: &str, idle: &Reading, before: &Reading, after: &Reading, memory_timeline: Vec<u64>) -> Node {
    let since = |of: fn(&Reading) -> u64| of(after).saturating_sub(of(before));
    Node {
        url: url.to_owned(),
        cpu_seconds: after.cpu_seconds - before.cpu_seconds,
        memory_before_bytes: idle.memory_bytes,
        memory_after_bytes: after.memory_bytes,
        sockets: after.sockets,
        sockets_opened: after.sockets_opened.saturating_sub(idle.sockets_opened),
        joins: since(|reading| reading.joins),
        local_relays: since(|reading| reading.local_relays),
        remote_relays: since(|reading| reading.remote_relays),
        redis_requests: since(|reading| reading.redis_requests),
        received_bytes: since(|reading| reading.received_bytes),
        sent_bytes: since(|reading| reading.sent_bytes),
        memory_timeline,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "# HELP duet_joins_total x\nduet_joins_total{outcome=\"created\"} 3\nduet_joins_total{outcome=\"full\"} 9\n\
        duet_joins_total{outcome=\"joined\"} 2\nduet_sockets 7\nduet_sockets_opened_total{transport=\"polling\"} 1\n\
        duet_sockets_opened_total{transport=\"websocket\"} 10\nprocess_cpu_seconds_total 2\nprocess_resident_memory_bytes 1.5e7\n";

    #[test]
    fn metrics_are_read_by_whole_name_and_label() {
        let reading = parse(TEXT).expect("metrics");
        assert_eq!((reading.joins, reading.sockets, reading.sockets_opened), (5, 7, 11));
        assert_eq!((reading.memory_bytes, reading.redis_requests), (15_000_000, 0));
        let finer = format!("{TEXT}duet_cpu_seconds_total 2.25\n");
        assert!((parse(&finer).expect("metrics").cpu_seconds - 2.25).abs() < 1e-9);
        let shared =
            format!("{TEXT}duet_redis_duration_seconds_count{{operation=\"join\"}} 4\nduet_redis_publishes_total 6\n");
        assert_eq!(parse(&shared).expect("metrics").redis_requests, 10);
        assert_eq!(parse("something else"), None);
        assert_eq!(parse("process_cpu_seconds_total 1\n"), None);
    }
}
