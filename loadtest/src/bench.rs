//! Benchmarks of one node against the bare relay: same machine, same run, in turns.
//!
//! One file a scenario: [`relay`], [`join`], [`hold`]. Each gets a running server that nobody else uses and returns its
//! figures. [`node`] starts the servers in turns and puts the figures side by side.

pub mod hold;
pub mod join;
pub mod node;
pub mod relay;

use std::time::Duration;

use crate::crowd::InFlight;
use crate::peer::Manner;
use crate::server::Process;
use crate::target::Target;

/// The server that a scenario loads.
#[derive(Clone, Debug)]
pub struct Subject {
    /// Where and how to reach it.
    pub target: Target,
    /// To ask what it has used.
    pub process: Process,
    /// How peers join.
    pub manner: Manner,
    /// How many do so at once.
    pub in_flight: InFlight,
}

/// How long a server may take to come to rest after a phase.
const REST: Duration = Duration::from_secs(5);

fn micros(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e6
}

#[expect(clippy::cast_precision_loss, reason = "counts far below 2^52")]
fn each(total: f64, count: u64) -> f64 {
    total / count.max(1) as f64
}
