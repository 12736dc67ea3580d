//! What nodes tell each other on behalf of their peers: a [`Letter`] from one seat of a room to the other.
//!
//! [`Post`] takes letters to another node, [`Addressee`] is where they come out there. Letters between two nodes keep
//! their order and come out once; of each that asks for it, the sender learns what became of it. Knows no socket and no
//! store.

use std::time::Duration;

use bytes::Bytes;
use socketioxide_core::Str;

use crate::{
    id::{NodeId, RoomName},
    protocol::ByeReason,
    rooms::Occupant,
    telemetry::trace::TraceContext,
};

/// From one occupant of a room to the other, on another node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Letter {
    /// The room they share, as far as the sender knows.
    pub room: RoomName,
    /// Who sends it.
    pub from: Occupant,
    /// Whom it is for; anybody else does not get it, whatever seat they have.
    pub to: Occupant,
    /// What it says.
    pub content: Content,
    /// The trace that follows it, if one does.
    pub trace: Option<TraceContext>,
}

/// What a letter says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// An event, to be handed to the peer as it is: its packet's array, and its attachments.
    Event {
        /// A JSON array that begins with the event's name.
        array: Str,
        /// Binary attachments, in their order.
        attachments: Vec<Bytes>,
    },
    /// The sender took the second seat; with the order of it.
    Arrived(u64),
    /// The sender is gone.
    Departed(ByeReason),
    /// The sender took a seat back, from this peer's earlier connection; with the order of it.
    Resumed(u64, Occupant),
    /// The sender has the seat of the one this is for, which can do nothing more there.
    Superseded,
    /// The sender is lost, and its seat is kept for a while.
    Away(Away),
    /// The sender's queue is long (true) or short again (false): send it nothing meanwhile.
    Pace(bool),
}

/// How long a seat is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Away {
    /// From now on.
    pub grace: Duration,
    /// Its node goes as well, and will not tell when the time is up.
    pub node_goes: bool,
}

/// What became of a letter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Delivery {
    /// The other node has it in the peer's queue.
    Delivered,
    /// That peer does not sit there, or not with the sender.
    NoPeer,
    /// That peer takes its messages too slowly and is being closed.
    TooSlow,
    /// The other node, or the way to it, does not answer. It may have been delivered all the same.
    Unavailable,
}

/// Told once what became of a letter.
pub type Receipt = Box<dyn FnOnce(Delivery) + Send>;

/// Takes letters to other nodes.
pub trait Post: Send + Sync + 'static {
    /// Sends `letter` to the node of the occupant it is for, after all that was sent there before. Never waits.
    ///
    /// `urgent`: somebody waits for the receipt.
    fn send(&self, letter: &Letter, urgent: bool, receipt: Option<Receipt>);
}

/// Where letters come out. Nothing here may wait.
pub trait Addressee: Send + Sync + 'static {
    /// Takes a letter of another node.
    fn deliver(&self, letter: Letter) -> Delivery;

    /// The seats that `node` held in these rooms are free: it does not answer any more.
    fn node_lost(&self, node: NodeId, rooms: &dyn Fn(&RoomName) -> bool);

    /// The seat of `who`, an occupant of this node, can no longer be proven: others may sit there.
    fn seat_lost(&self, room: &RoomName, who: Occupant);

    /// The seat of `who`, an occupant of this node that was never told of it or is gone, is free only now, and `other`
    /// stays.
    fn left_late(&self, room: &RoomName, who: Occupant, other: Occupant);
}
