//! CPU time of a join: all connect, the server rests, all take their seats.
//!
//! The two phases are measured apart in one pass. A whole join is both: what a client costs until it sits in its room.

use std::time::{Duration, Instant};

use super::{REST, Subject, each, micros};
use crate::crowd;

/// How many join.
#[derive(Clone, Copy, Debug, serde::Serialize)]
pub struct Plan {
    /// An even number.
    pub sockets: usize,
}

/// CPU time of the server's process by socket.
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
    let process = subject.process;
    process.quiet(REST).await?;
    let (idle, begin) = (process.cpu()?, Instant::now());
    let peers = crowd::connect(&subject.target, plan.sockets, subject.in_flight).await?;
    let connecting = begin.elapsed();
    process.quiet(REST).await?;

    let (connected, begin) = (process.cpu()?, Instant::now());
    let peers = crowd::seat(peers, subject.manner, subject.in_flight).await?;
    let seating = begin.elapsed();
    process.quiet(REST).await?;
    let seated = process.cpu()?;
    drop(peers);

    let a_socket = |cpu: Duration| each(micros(cpu), plan.sockets as u64);
    let a_second = |time: Duration| 1.0 / each(time.as_secs_f64(), plan.sockets as u64);
    Ok(Figures {
        sockets: plan.sockets,
        cpu_us_a_connection: a_socket(connected.saturating_sub(idle)),
        cpu_us_a_seat: a_socket(seated.saturating_sub(connected)),
        cpu_us_a_join: a_socket(seated.saturating_sub(idle)),
        connections_a_second: a_second(connecting),
        seats_a_second: a_second(seating),
    })
}
