//! One socket: its identity, its seats, how it is told things.
//!
//! A session's seats are changed only by the items of its own inbox, one at a time; the other peer of a room may only
//! set or clear the link to itself. No lock here is ever held while another session's is taken.

use std::sync::{
    Arc, Mutex, MutexGuard, Weak,
    atomic::{AtomicU8, Ordering},
};

use smallvec::SmallVec;
use socketioxide::ProtocolVersion;

use super::{Presence, inbox::Inbox, lock};
use crate::{
    id::{Generation, NodeId, PeerId, RoomName},
    protocol::ByeReason,
    rooms::{Occupant, Role},
    transport::flow::Flow,
};

const OPEN: u8 = 0;
const CLOSING: u8 = 1;

/// A seat of a session, or the wish for one.
#[derive(Debug)]
pub struct Seat {
    /// Where.
    pub room: RoomName,
    /// How it came in; none while the registry has not answered.
    pub role: Option<Role>,
    /// The other peer, once this one has been told of it.
    pub link: Option<Link>,
    /// What the other peer did while the registry had not answered yet.
    pub early: Early,
}

/// The other peer of a room.
#[derive(Debug, Clone)]
pub struct Link {
    /// Who.
    pub occupant: Occupant,
    /// Its session, here.
    pub session: Weak<Session>,
}

/// News of another peer that came before the answer to one's own join.
#[derive(Debug, Default)]
pub enum Early {
    /// None.
    #[default]
    Nothing,
    /// It took the second seat.
    Arrived(Link),
    /// It left.
    Departed(Occupant, ByeReason),
}

/// One connected socket.
#[derive(Debug)]
pub struct Session {
    id: PeerId,
    generation: Generation,
    node: NodeId,
    flow: Arc<Flow>,
    eio3: bool,
    state: AtomicU8,
    seats: Mutex<SmallVec<[Seat; 1]>>,
    inbox: Mutex<Inbox>,
    presence: Mutex<Option<Presence>>,
}

impl Session {
    /// A session of the socket `id`, whose bytes go through `flow`.
    #[must_use]
    pub fn new(
        id: PeerId,
        generation: Generation,
        node: NodeId,
        flow: Arc<Flow>,
        protocol: ProtocolVersion,
    ) -> Arc<Self> {
        Arc::new(Self {
            id,
            generation,
            node,
            flow,
            eio3: protocol == ProtocolVersion::V4,
            state: AtomicU8::new(OPEN),
            seats: Mutex::default(),
            inbox: Mutex::default(),
            presence: Mutex::default(),
        })
    }

    /// The socket's id.
    #[must_use]
    pub fn id(&self) -> PeerId {
        self.id
    }

    /// As whom it asks for seats.
    #[must_use]
    pub fn occupant(&self) -> Occupant {
        Occupant { peer: self.id, generation: self.generation, node: self.node }
    }

    /// Its bytes.
    #[must_use]
    pub fn flow(&self) -> &Arc<Flow> {
        &self.flow
    }

    /// Whether its client speaks Engine.IO 3 (Socket.IO 1.x and 2.x).
    #[must_use]
    pub fn is_eio3(&self) -> bool {
        self.eio3
    }

    /// Whether it can be sent anything.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.state.load(Ordering::Acquire) == OPEN
    }

    /// From now on it is sent nothing; tells whether this is the first call.
    pub fn start_closing(&self) -> bool {
        self.state.swap(CLOSING, Ordering::AcqRel) == OPEN
    }

    pub(super) fn set_presence(&self, presence: Presence) {
        *lock(&self.presence) = Some(presence);
    }

    pub(super) fn take_presence(&self) -> Option<Presence> {
        lock(&self.presence).take()
    }

    pub(super) fn seats(&self) -> MutexGuard<'_, SmallVec<[Seat; 1]>> {
        lock(&self.seats)
    }

    pub(super) fn inbox(&self) -> MutexGuard<'_, Inbox> {
        lock(&self.inbox)
    }
}

/// The seat in `room`, among a session's seats.
pub fn seat_in<'a>(seats: &'a mut SmallVec<[Seat; 1]>, room: &RoomName) -> Option<&'a mut Seat> {
    seats.iter_mut().find(|seat| seat.room == *room)
}
