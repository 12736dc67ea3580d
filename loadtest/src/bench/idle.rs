//! CPU time of a server whose sockets all sit in their rooms and say nothing: heartbeats, timers, leases.

use std::time::Duration;

use super::{Mark, Subject};
use crate::crowd::Crowd;

/// All of it while nobody said anything.
#[derive(Clone, Copy, Debug, serde::Serialize)]
pub struct Figures {
    /// Of all nodes together.
    pub nodes_cpu_ms_a_second: f64,
    /// Of the Redis that they share.
    pub redis_cpu_ms_a_second: f64,
    /// Engine.IO pings in that time.
    pub pings: u64,
    /// CPU time that neither the server nor the generator used, in cores.
    pub others_cores: f64,
}

impl Figures {
    /// Of nodes and Redis.
    #[must_use]
    pub fn cpu_ms_a_second(&self) -> f64 {
        self.nodes_cpu_ms_a_second + self.redis_cpu_ms_a_second
    }
}

/// Waits for the server to come to rest, then listens for `duration`.
///
/// All sockets connected at about the same time, so their heartbeats come at about the same time too. A whole heartbeat
/// period, begun between two of them, contains each socket's once.
///
/// # Errors
/// When a connection ends.
pub async fn run(subject: &Subject, crowd: &Crowd, duration: Duration) -> anyhow::Result<Figures> {
    subject.processes.quiet(duration).await?;
    let begin = Mark::take(&subject.processes, &crowd.pings())?;
    tokio::time::sleep(duration).await;
    let used = Mark::take(&subject.processes, &crowd.pings())?.since(&begin);
    crowd.check_all_connected()?;
    let ms_a_second = |cpu: Duration| cpu.as_secs_f64() * 1e3 / used.at.as_secs_f64();
    Ok(Figures {
        nodes_cpu_ms_a_second: ms_a_second(used.server.nodes),
        redis_cpu_ms_a_second: ms_a_second(used.server.redis),
        pings: used.pings,
        others_cores: used.others_cores(),
    })
}
