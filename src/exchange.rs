//! What nodes tell each other on behalf of their peers: a [`Letter`] from one seat of a room to the other.
//!
//! [`Post`] takes letters to another node, [`Addressee`] is where they come out there. Letters between two nodes keep
//! their order and come out once; of each that asks for it, the sender learns what became of it. Knows no socket and no
//! store.

use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use socketioxide_core::Str;

use crate::{
    id::{Generation, NodeId, PeerId, RoomName, SeatKey},
    protocol::{ByeReason, Heard},
    rooms::{Occupant, Serial},
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
    /// The sender took the second seat.
    Arrived(Arrival),
    /// The sender is gone.
    Departed(ByeReason),
    /// The sender took a seat back.
    Resumed(Box<Resumption>),
    /// The sender's client counts what it hears, and had been told of so many peers on its seat when it was told of this one. With the
    /// key of its seat.
    Counts(u32, Option<SeatKey>),
    /// What was kept for this one, and waits for what came before it, is to be handed out up to this.
    HandOut(Serial),
    /// The sender has the seat of the one this is for, which can do nothing more there.
    Superseded,
    /// The sender is lost, and its seat is kept for a while.
    Away(Away),
    /// The sender's queue is long (true) or short again (false): send it nothing meanwhile.
    Pace(bool),
}

/// How a seat was taken.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Arrival {
    /// The order of the seat.
    pub order: u64,
    /// What was kept for it and handed over, by its numbers, in order.
    pub handed: Vec<Serial>,
    /// How many messages that were, as a client counts them.
    pub messages: u64,
    /// Its client counts what it hears.
    pub counts: bool,
    /// What tells the seat from any other that the room had or will have; none if nobody can take it back, or an earlier version says it.
    pub key: Option<SeatKey>,
}

/// How a seat was taken back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resumption {
    /// As any that is taken.
    pub arrival: Arrival,
    /// From this earlier connection of the peer.
    pub before: Occupant,
    /// How far its client had heard the other peer, if it told.
    pub heard: Option<Heard>,
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

/// What a node asks another on behalf of its operator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Question {
    /// How is it there?
    Tally,
    /// Put this peer out: its socket is told and closed, wherever it sits.
    PutOut(PeerId),
    /// Free this connection's seat in the room, and tell it.
    Close(RoomName, PeerId, Generation),
}

/// What it answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// So it is there.
    Tally(Tally),
    /// It is done.
    Done,
    /// There is no such thing there.
    NotHere,
}

/// How it is on a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Tally {
    /// Sockets connected.
    pub sockets: u64,
    /// Seats of them.
    pub seats: u64,
    /// Rooms of which it has both seats.
    pub whole: u64,
    /// Rooms of which it has one seat, and another node the other.
    pub shared: u64,
    /// Rooms of which it has one seat, and nobody the other.
    pub waiting: u64,
    /// Whether it can seat peers.
    pub ready: bool,
    /// Whether it drains.
    pub draining: bool,
    /// For how many seconds it has been running.
    pub uptime: u64,
}

/// Told once what is answered.
pub type Reply = Box<dyn FnOnce(Answer) + Send>;

/// How soon the receipt of a letter is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Haste {
    /// Nobody waits for it.
    No,
    /// Somebody does.
    Yes,
    /// Somebody does, and a letter is being delivered: this one leaves when that is done.
    AfterDelivery,
}

/// Takes letters to other nodes.
pub trait Post: Send + Sync + 'static {
    /// Sends `letter` to the node of the occupant it is for, after all that was sent there before. Never waits.
    fn send(&self, letter: &Letter, haste: Haste, receipt: Option<Receipt>);

    /// What was sent to `to` and has no receipt by now is not waited for any more: it is [`Delivery::Unavailable`].
    fn give_up(&self, to: Occupant);

    /// Asks `node`; none when it does not answer in time, or is of a version that cannot. It may have done it all the same.
    fn ask(&self, node: NodeId, question: Question) -> BoxFuture<'_, Option<Answer>>;

    /// The other nodes there are.
    fn others(&self) -> Vec<NodeId>;
}

/// Where letters come out. Nothing here may wait.
pub trait Addressee: Send + Sync + 'static {
    /// Takes a letter of another node.
    fn deliver(&self, letter: Letter) -> Delivery;

    /// Answers another node, now or as soon as it is done.
    fn asked(&self, question: Question, reply: Reply);

    /// The seats that `node` held in these rooms are free: it does not answer any more.
    fn node_lost(&self, node: NodeId, rooms: &dyn Fn(&RoomName) -> bool);

    /// The seat of `who`, an occupant of this node, can no longer be proven: others may sit there.
    fn seat_lost(&self, room: &RoomName, who: Occupant);

    /// The seat of `who`, an occupant of this node that was never told of it or is gone, is free only now, and `other`
    /// stays.
    fn left_late(&self, room: &RoomName, who: Occupant, other: Occupant);
}
