//! Resident memory of a socket that sits in its room and is idle.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use anyhow::ensure;

use super::{REST, Subject, each, micros};
use crate::crowd::Crowd;
use crate::server::Memory;

/// How many are held.
#[derive(Clone, Copy, Debug, serde::Serialize)]
pub struct Plan {
    /// An even number.
    pub sockets: usize,
    /// The least time they are held before the memory counts as settled.
    pub at_least: Duration,
}

/// Memory is what the sockets added to the empty server.
#[derive(Clone, Copy, Debug, serde::Serialize)]
pub struct Figures {
    /// How many were held.
    pub sockets: usize,
    /// See [`Memory::rss`].
    pub rss_kib_a_socket: f64,
    /// See [`Memory::pss`].
    pub pss_kib_a_socket: f64,
    /// See [`Memory::private`].
    pub private_kib_a_socket: f64,
    /// Before the first socket.
    pub empty: Memory,
    /// With all of them, settled.
    pub full: Memory,
    /// Since the last of them sat.
    pub settled_after_s: f64,
    /// While it settled: pings and timers.
    pub idle_cpu_us_a_socket_and_second: f64,
}

const STEP: Duration = Duration::from_millis(500);
/// Settled: so many samples in a row lie within 1 % of each other.
const SAMPLES: usize = 6;
const PATIENCE: Duration = Duration::from_mins(1);

/// Seats all and waits until the server's memory has settled.
///
/// # Errors
/// When a socket gets no seat or is cut off, or the memory does not settle.
pub async fn run(subject: &Subject, plan: &Plan) -> anyhow::Result<Figures> {
    let processes = &subject.processes;
    processes.quiet(REST).await?;
    let empty = processes.memory()?;
    let peers = subject.connect(plan.sockets).await?;
    let peers = subject.seat(peers).await?;
    let crowd = Crowd::listen(peers, |_, _| {});
    processes.quiet(REST).await?;

    let (begin, cpu) = (Instant::now(), processes.cpu()?);
    let mut samples = VecDeque::new();
    let full = loop {
        tokio::time::sleep(STEP).await;
        let memory = processes.memory()?;
        samples.push_back(memory.rss.saturating_sub(empty.rss));
        if samples.len() > SAMPLES {
            samples.pop_front();
        }
        if begin.elapsed() >= plan.at_least && settled(samples.make_contiguous()) {
            break memory;
        }
        ensure!(begin.elapsed() < PATIENCE, "memory has not settled within {PATIENCE:?}");
    };
    let (held, cpu) = (begin.elapsed(), (processes.cpu()? - cpu).total());
    crowd.check_all_connected()?;

    let sockets = plan.sockets as u64;
    #[expect(clippy::cast_precision_loss, reason = "KiB of a process")]
    let a_socket = |full: u64, empty: u64| each(full.saturating_sub(empty) as f64, sockets);
    Ok(Figures {
        sockets: plan.sockets,
        rss_kib_a_socket: a_socket(full.rss, empty.rss),
        pss_kib_a_socket: a_socket(full.pss, empty.pss),
        private_kib_a_socket: a_socket(full.private, empty.private),
        empty,
        full,
        settled_after_s: held.as_secs_f64(),
        idle_cpu_us_a_socket_and_second: each(micros(cpu), sockets) / held.as_secs_f64(),
    })
}

fn settled(samples: &[u64]) -> bool {
    let (Some(min), Some(max)) = (samples.iter().min(), samples.iter().max()) else {
        return false;
    };
    samples.len() == SAMPLES && (max - min) * 100 <= *max
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_settled_within_one_percent() {
        assert!(settled(&[1000, 1000, 1005, 1010, 1003, 1001]));
        assert!(!settled(&[1000, 1000, 1005, 1011, 1003, 1001]));
        assert!(!settled(&[1000; SAMPLES - 1]));
        assert!(!settled(&[]));
    }
}
