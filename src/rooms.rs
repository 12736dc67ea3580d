//! Who sits where: the [`Registry`] trait and its outcomes.
//!
//! A room has two seats. Whoever keeps the seats (this process, later a store that many nodes share) decides alone and
//! at once whether a peer gets one; nobody else counts. It never talks to a socket.
//!
//! Invariant, for every implementation and under any interleaving: a room never holds more than two occupants, and a
//! seat is freed only by the occupant that holds it, or taken back by who knows its key.

use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;

use crate::id::{Generation, NodeId, PeerId, RoomName, SeatKey};

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

/// A request for a seat.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ask {
    /// Who asks.
    pub who: Occupant,
    /// What a new seat can be taken back with; none if it cannot be.
    pub key: Option<SeatKey>,
    /// The key of a seat that is to be taken back.
    pub resume: Option<SeatKey>,
}

impl From<Occupant> for Ask {
    /// For a seat that cannot be taken back.
    fn from(who: Occupant) -> Self {
        Self { who, key: None, resume: None }
    }
}

impl Role {
    /// Its name, as clients hear it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Joined => "joined",
        }
    }
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
    /// The seat that the given key is of, taken back from an earlier occupant, in its role; with whom, if anybody.
    Resumed(Role, Occupant, Option<Occupant>),
    /// Both seats are others'.
    Full,
}

/// The number of a message on its side of a room: every later one of the same side has a higher number, also when its sender has
/// taken its seat back meanwhile.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct Serial {
    /// The order of the sender's seat.
    pub seat: u64,
    /// How many messages came from there, this one included.
    pub said: u64,
}

impl Serial {
    /// None is after it.
    pub const LAST: Self = Self { seat: u64::MAX, said: u64::MAX };
}

/// A message that is kept for a peer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Mail {
    /// Its number.
    pub serial: Serial,
    /// What it says, which is nothing to a registry.
    pub body: Bytes,
}

/// How much is kept of one side of a room.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Most {
    /// Messages; 0 for none.
    pub messages: usize,
    /// Their bytes.
    pub bytes: usize,
    /// For how long, of what is kept for whoever comes. What is kept for a peer that is away is kept as long as its seat.
    pub age: Duration,
}

/// What became of a message that is to be kept.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum KeepOutcome {
    /// It is kept: whoever it is for gets it with the answer to its join.
    Kept,
    /// As much as may be is kept already.
    Full,
    /// Somebody sits there by another connection than was said, or sits there at all.
    Present,
    /// Nobody is there, or nobody who can come back.
    Gone,
    /// Fewer messages are kept of this side than should be: the others have to be kept again, and before this one.
    Forgotten,
}

/// The answer to a request for a seat.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Join {
    /// What became of it.
    pub outcome: JoinOutcome,
    /// The order of a new seat: every later one of the same room has a higher number. 0 when there is no new seat.
    pub order: u64,
    /// The node of the other occupant is gone: its seat is kept for a while.
    pub away: bool,
    /// What was kept for it meanwhile, in the order of its numbers; nothing of that is kept any more.
    pub mail: Vec<Mail>,
}

impl From<JoinOutcome> for Join {
    fn from(outcome: JoinOutcome) -> Self {
        Self { outcome, order: 0, away: false, mail: Vec::new() }
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

/// What is known of a seat whose node is gone.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Expiry {
    /// It is free.
    Free,
    /// It is kept for this long.
    Kept(Duration),
    /// Somebody else has it, or it is no seat of a node that is gone.
    Taken,
}

/// A seat that is taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Taken {
    /// By whom.
    pub by: Occupant,
    /// How it came in.
    pub role: Role,
    /// Its node is gone, and the seat is kept for it for a while.
    pub away: bool,
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
    /// Asks for a seat in `room`. If it asks for one back, and the key is of a seat there, it gets that one whoever has it; else
    /// it is a request as any other.
    ///
    /// # Errors
    /// [`RegistryError`] when it cannot tell; then nothing may have changed for good.
    fn join<'a>(&'a self, room: &'a RoomName, ask: Ask) -> BoxFuture<'a, Result<Join, RegistryError>>;

    /// Gives up the seat of `who`, and no other: a leave of an earlier generation changes nothing.
    ///
    /// # Errors
    /// [`RegistryError`] when it cannot tell whether the seat is free.
    fn leave<'a>(&'a self, room: &'a RoomName, who: Occupant) -> BoxFuture<'a, Result<LeaveOutcome, RegistryError>>;

    /// Keeps a message of `from`, who sits there, for `to`, who is away, or for whoever takes the second seat; `before` are kept
    /// already.
    ///
    /// # Errors
    /// [`RegistryError`] when it cannot tell; then it may be kept all the same.
    fn keep<'a>(
        &'a self,
        room: &'a RoomName,
        from: Occupant,
        to: Option<Occupant>,
        mail: Mail,
        before: usize,
        most: Most,
    ) -> BoxFuture<'a, Result<KeepOutcome, RegistryError>>;

    /// `who`, an occupant of this node, sits there no more as far as this node is concerned, and nothing is done about its seat:
    /// another connection has it, or it is kept beyond the end of this node.
    fn forget(&self, room: &RoomName, who: Occupant);

    /// Asks what became of the seat of `who`, whose node is gone; if its time is up, it is free from then on.
    ///
    /// # Errors
    /// [`RegistryError`] when it cannot tell.
    fn expire<'a>(&'a self, room: &'a RoomName, who: Occupant) -> BoxFuture<'a, Result<Expiry, RegistryError>>;

    /// Who sits in `room`, in no order. Changes nothing.
    ///
    /// # Errors
    /// [`RegistryError`] when it cannot tell.
    fn look<'a>(&'a self, room: &'a RoomName) -> BoxFuture<'a, Result<Vec<Taken>, RegistryError>>;

    /// How much is kept.
    fn occupancy(&self) -> Occupancy;
}
