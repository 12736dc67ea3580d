//! CPU time of a join: all connect, the server rests, all take their seats.
//!
//! The two phases are measured apart in one pass. A whole join is both: what a client costs until it sits in its room.

use std::time::{Duration, Instant};

use super::{REST, Subject, each, micros};
use crate::peer::Peer;
use crate::server::Used;

/// How many join.
#[derive(Clone, Copy, Debug, serde::Serialize)]
pub struct Plan {
    /// An even number.
    pub sockets: usize,
}

/// CPU time of the server by socket.
#[derive(Clone, Copy, Debug, serde::Serialize)]
pub struct Figures {
    /// How many joined.
    pub sockets: usize,
    /// TCP, upgrade and, over Socket.IO, the namespace.
    pub cpu_us_a_connection: f64,
    /// The seat alone, with all that a room's peers are told then.
    pub cpu_us_a_seat: f64,
    /// Both together.
    pub cpu_us_a_join: f64,
    /// Pace of the first phase.
    pub connections_a_second: f64,
    /// Pace of the second.
    pub seats_a_second: f64,
}

/// Connects all, then seats all.
///
/// # Errors
/// When a socket cannot connect or gets no seat.
pub async fn run(subject: &Subject, plan: &Plan) -> anyhow::Result<Figures> {
    let processes = &subject.processes;
    processes.quiet(REST).await?;
    let (idle, begin) = (processes.cpu()?, Instant::now());
    let peers = subject.connect(plan.sockets).await?;
    let connecting = begin.elapsed();
    processes.quiet(REST).await?;
    let connected = processes.cpu()? - idle;
    let (_, seated) = seat(subject, peers).await?;

    let a_socket = |used: Used| each(micros(used.total()), plan.sockets as u64);
    let a_second = |time: Duration| 1.0 / each(time.as_secs_f64(), plan.sockets as u64);
    Ok(Figures {
        sockets: plan.sockets,
        cpu_us_a_connection: a_socket(connected),
        cpu_us_a_seat: a_socket(seated.used),
        cpu_us_a_join: a_socket(connected) + a_socket(seated.used),
        connections_a_second: a_second(connecting),
        seats_a_second: a_second(seated.took),
    })
}

/// What it took to seat peers that were connected.
pub(super) struct Seated {
    /// Until the server had come to rest again.
    pub used: Used,
    /// Until the last was seated.
    pub took: Duration,
}

/// Seats peers that are connected.
///
/// # Errors
/// When one gets no seat.
pub(super) async fn seat(subject: &Subject, peers: Vec<Peer>) -> anyhow::Result<(Vec<Peer>, Seated)> {
    let (before, begin) = (subject.processes.cpu()?, Instant::now());
    let peers = subject.seat(peers).await?;
    let took = begin.elapsed();
    subject.processes.quiet(REST).await?;
    Ok((peers, Seated { used: subject.processes.cpu()? - before, took }))
}
