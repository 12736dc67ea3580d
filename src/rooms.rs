//! Who sits where: the [`Registry`] trait and its outcomes.
//!
//! A room has two seats. Whoever keeps the seats (this process, later a store that many nodes share) decides alone and
//! at once whether a peer gets one; nobody else counts. It never talks to a socket.
//!
//! Invariant, for every implementation and under any interleaving: a room never holds more than two occupants, and a
//! seat is freed only by the occupant that holds it.

use futures_util::future::BoxFuture;

use crate::id::{Generation, NodeId, PeerId, RoomName};

pub mod memory;

/// Seats in a room.
pub const SEATS: usize = 2;

/// Who asks for a seat, or holds one.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Occupant {
    /// The peer.
    pub peer: PeerId,
    /// The connection it came by.
    pub generation: Generation,
    /// The node that holds this connection.
    pub node: NodeId,
}

/// How an occupant came into the room. It keeps this role as long as it sits, whoever else comes and goes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Role {
    /// The room was empty: `created`.
    Created,
    /// Somebody was there: `joined`.
    Joined,
}

/// What became of a request for a seat.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum JoinOutcome {
    /// The first seat: nobody else is there.
    Created,
    /// The second seat, beside this one.
    Joined(Occupant),
    /// It sits there already, in this role; with whom, if anybody.
    Seated(Role, Option<Occupant>),
    /// Both seats are others'.
    Full,
}

/// The answer to a request for a seat.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Join {
    /// What became of it.
    pub outcome: JoinOutcome,
    /// The order of a new seat: every later one of the same room has a higher number. 0 when there is no new seat.
    pub order: u64,
}

impl From<JoinOutcome> for Join {
    fn from(outcome: JoinOutcome) -> Self {
        Self { outcome, order: 0 }
    }
}

/// What became of a leave.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LeaveOutcome {
    /// Its seat is free; who stays, if anybody.
    Left(Option<Occupant>),
    /// It held no seat there: nothing changed.
    NotSeated,
    /// Its seat will be free as soon as the registry can be reached; nothing more is to be done for that.
    Deferred,
}

/// How much is kept, for metrics. A gauge of this registry alone, not of the cluster.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Occupancy {
    /// Rooms with at least one occupant.
    pub rooms: usize,
    /// Seats taken in them.
    pub seats: usize,
}

/// Why the registry could not answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RegistryError {
    /// It is out of reach, or cannot say for sure at the moment; the same request may succeed later.
    #[error("the room registry is unavailable: {0}")]
    Unavailable(String),
}

/// Keeps the seats.
///
/// Each method is atomic: it takes effect once, entirely, between its call and its answer.
pub trait Registry: Send + Sync + 'static {
    /// Asks for a seat in `room`.
    ///
    /// # Errors
    /// [`RegistryError`] when it cannot tell; then nothing may have changed for good.
    fn join<'a>(&'a self, room: &'a RoomName, who: Occupant) -> BoxFuture<'a, Result<Join, RegistryError>>;

    /// Gives up the seat of `who`, and no other: a leave of an earlier generation changes nothing.
    ///
    /// # Errors
    /// [`RegistryError`] when it cannot tell whether the seat is free.
    fn leave<'a>(&'a self, room: &'a RoomName, who: Occupant) -> BoxFuture<'a, Result<LeaveOutcome, RegistryError>>;

    /// How much is kept.
    fn occupancy(&self) -> Occupancy;
}
