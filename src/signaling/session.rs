//! One socket: its identity, its seats, how it is told things.
//!
//! A session's seats are changed only by the items of its own inbox, one at a time; the other peer of a room may only
//! set or clear the link to itself. No lock here is ever held while another session's is taken.

use std::sync::{
    Arc, Mutex, MutexGuard, Weak,
    atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering},
};

use smallvec::SmallVec;
use socketioxide::ProtocolVersion;
use socketioxide_core::packet::Packet;

use super::{Presence, inbox::Inbox, lock, mail::Outbox, recent::Recent};
use crate::{
    admission::Grant,
    exchange::Resumption,
    id::{Generation, NodeId, PeerId, ResumeToken, RoomName, SeatKey},
    protocol::ByeReason,
    rooms::{Mail, Occupant, Role, Serial},
    transport::flow::{Flow, Pause},
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
    /// What takes it back when this connection is lost; none if nobody was told.
    pub token: Option<ResumeToken>,
    /// The other peer, once this one has been told of it.
    pub link: Option<Link>,
    /// What other peers did while the registry had not answered yet.
    pub early: Early,
    /// The order of this seat, and how many messages came from it.
    pub said: Serial,
    /// What it said to a peer that is away.
    pub outbox: Option<Box<Outbox>>,
    /// What it handed on to the other peer lately.
    pub recent: Option<Box<Recent>>,
    /// How the other took its seat back, until it is told here how it did before that.
    overtaking: Vec<Overtaking>,
    /// What was kept for this peer, until what came before it is there.
    pub held: Option<Box<Vec<Mail>>>,
    /// How often it was told `join` or `peer resumed`.
    pub peers: u32,
    /// The order of the latest seat of the room that is known here, be it one's own. News of an earlier one come too late.
    pub latest: u64,
}

impl Seat {
    /// The wish for a seat in `room`.
    #[must_use]
    pub fn wished(room: RoomName) -> Self {
        Self {
            room,
            role: None,
            token: None,
            link: None,
            early: Early::default(),
            said: Serial::default(),
            outbox: None,
            recent: None,
            held: None,
            overtaking: Vec::new(),
            peers: 0,
            latest: 0,
        }
    }

    /// It is this session's own from now on.
    pub fn take(&mut self, role: Role, order: u64) {
        self.role = Some(role);
        self.said = Serial { seat: order, said: 0 };
        self.latest = self.latest.max(order);
        // Who arrived before this seat was taken did not arrive beside it.
        self.early.visits.retain(|visit| visit.order > order);
    }

    /// Who it waited for does not come back: its senders are told.
    pub fn give_up_outbox(&mut self) {
        self.recent = None;
        if let Some(outbox) = self.outbox.take() {
            outbox.give_up();
        }
    }

    /// Whether the news that the seat beside was taken back came sooner than those of the connection by which its client heard what it
    /// tells: how its seat was taken, or, of the one that this seat is linked to, of how many peers it had been told.
    #[must_use]
    pub fn is_overtaken(&self, resumption: &Resumption) -> bool {
        let Some(link) = self.link.as_ref().filter(|_| self.role.is_some()) else { return false };
        let Some(heard) = resumption.heard else { return false };
        let is_missing = if heard.id == link.occupant.peer {
            link.counts.is_none() && self.recent.as_ref().is_some_and(|recent| recent.is_unsettled())
        } else {
            link.before != Some(heard.id) && resumption.before != link.occupant
        };
        is_missing && link.is_of_seat(resumption) == Some(true) && resumption.arrival.order > self.latest
    }

    /// Why `other`, beside whom it was seated, is gone already, if it is: it left, or somebody came later and left.
    pub fn left_early(&mut self, other: Occupant) -> Option<ByeReason> {
        let (gone, reason) = self.early.departed.take()?;
        (gone == other || self.latest > self.said.seat).then_some(reason)
    }

    /// All that wait to be linked to.
    pub fn overtaking(&self) -> impl Iterator<Item = &Overtaking> {
        self.overtaking.iter()
    }

    /// Whether what `who` says is for this seat: it is linked to it, or the other is back by this connection and waits to be linked to.
    /// Then nothing of an earlier connection comes any more: the peer may have heard the new one already.
    #[must_use]
    pub fn hears(&self, who: Occupant) -> bool {
        if self.overtaking.is_empty() {
            self.link.as_ref().is_some_and(|link| link.occupant == who)
        } else {
            self.overtaking().any(|one| one.link.occupant == who)
        }
    }

    /// From now on it waits to be linked to, and who is linked to counts as away.
    pub fn await_earlier(&mut self, one: Overtaking) {
        self.overtaking.push(one);
        if let Some(link) = &mut self.link {
            link.away = true;
        }
    }

    /// The earliest that is `due` of those that wait to be linked to.
    pub fn next_due(&mut self, due: &dyn Fn(&Self, &Overtaking) -> bool) -> Option<Overtaking> {
        let all = self.overtaking().enumerate().filter(|(_, one)| due(self, one));
        let (at, _) = all.min_by_key(|(_, one)| one.resumption.arrival.order)?;
        Some(self.overtaking.swap_remove(at))
    }

    /// The other peer, whether this one has been told of it or not.
    #[must_use]
    pub fn other(&self) -> Option<Occupant> {
        let early = || self.early.present().map(|visit| &visit.link);
        self.link.as_ref().or_else(early).map(|link| link.occupant)
    }
}

/// The other peer of a room.
#[derive(Debug, Clone)]
pub struct Link {
    /// Who.
    pub occupant: Occupant,
    /// Its session, if it is here: of a peer on another node there is none.
    pub session: Weak<Session>,
    /// It is lost, and its seat is kept for it.
    pub away: bool,
    /// Its session's owner was told `ready` with it.
    pub met: bool,
    /// Its client counts what it hears: how many peers it had been told of on its seat before this one, and with it.
    pub counts: Option<u32>,
    /// How many messages were handed on to it, as it counts them.
    pub handed: u64,
    /// The connection before that the peer may still tell its count of: by the present one it has then heard nothing.
    pub before: Option<PeerId>,
    /// What tells its seat from any other of the room, if that was told.
    pub key: Option<SeatKey>,
}

impl Link {
    /// To a peer on another node.
    #[must_use]
    pub fn elsewhere(occupant: Occupant) -> Self {
        Self {
            occupant,
            session: Weak::new(),
            away: false,
            met: false,
            counts: None,
            handed: 0,
            before: None,
            key: None,
        }
    }

    /// Whether the seat that was taken back is the one that this peer has or had; none: nobody can tell.
    #[must_use]
    pub fn is_of_seat(&self, resumption: &Resumption) -> Option<bool> {
        if self.occupant == resumption.before {
            return Some(true);
        }
        self.key.zip(resumption.arrival.key).map(|(own, key)| own == key)
    }

    /// To a peer of this node.
    #[must_use]
    pub fn here(session: &Arc<Session>) -> Self {
        Self { session: Arc::downgrade(session), ..Self::elsewhere(session.occupant()) }
    }
}

/// How the other took its seat back: the news of it came before those of the connection by which its client heard what it tells.
/// It can talk meanwhile.
#[derive(Debug)]
pub struct Overtaking {
    /// To whom.
    pub link: Link,
    /// How.
    pub resumption: Resumption,
    /// What was kept for it and is to be handed out, if it is here.
    pub mail: Vec<Mail>,
}

/// News of other peers that came before the answer to one's own join.
#[derive(Debug, Default)]
pub struct Early {
    /// Who took the seat beside, in order. Whoever is not the last has left.
    pub visits: Vec<Visit>,
    /// Who left last.
    pub departed: Option<(Occupant, ByeReason)>,
}

/// A peer that took the seat beside before the answer to one's own join.
#[derive(Debug)]
pub struct Visit {
    /// Who.
    pub link: Link,
    /// The order of its seat.
    pub order: u64,
    /// What it said.
    pub said: Vec<Packet>,
    /// Why it left, if it did.
    pub left: Option<ByeReason>,
}

impl Early {
    /// It came, and whoever was there is gone.
    pub fn arrive(&mut self, link: Link, order: u64) {
        // Of who came and went without a word nothing is to be told.
        self.visits.pop_if(|last| last.said.is_empty());
        self.visits.push(Visit { link, order, said: Vec::new(), left: None });
    }

    /// It left.
    pub fn depart(&mut self, gone: Occupant, reason: ByeReason) {
        match self.present_mut() {
            // Who came after it stays.
            Some(visit) if visit.link.occupant != gone => return,
            Some(visit) => visit.left = Some(reason),
            None => {}
        }
        self.visits.pop_if(|last| last.said.is_empty());
        self.departed = Some((gone, reason));
    }

    /// Who is there now.
    #[must_use]
    pub fn present(&self) -> Option<&Visit> {
        self.visits.last().filter(|visit| visit.left.is_none())
    }

    /// Who is there now.
    pub fn present_mut(&mut self) -> Option<&mut Visit> {
        self.visits.last_mut().filter(|visit| visit.left.is_none())
    }

    /// How many messages they all said.
    #[must_use]
    pub fn said(&self) -> usize {
        self.visits.iter().map(|visit| visit.said.len()).sum()
    }
}

/// One connected socket.
#[derive(Debug)]
pub struct Session {
    id: PeerId,
    generation: Generation,
    node: NodeId,
    flow: Arc<Flow>,
    eio3: bool,
    /// The token that its client showed when it connected.
    resume: Option<ResumeToken>,
    state: AtomicU8,
    seats: Mutex<SmallVec<[Seat; 1]>>,
    inbox: Mutex<Inbox>,
    /// Rooms that it waits for a seat in.
    waits: Mutex<Vec<RoomName>>,
    presence: Mutex<Option<Presence>>,
    /// Bytes on their way to other nodes that have no receipt yet.
    under_way: AtomicUsize,
    holds: Mutex<Holds>,
    /// What it may do.
    grant: Grant,
    /// Senders on other nodes are being made to wait for this one.
    holds_senders: AtomicBool,
    /// Its client counts what it hears.
    counts: AtomicBool,
}

/// What keeps this socket from sending.
#[derive(Debug, Default)]
struct Holds {
    /// Too much is under way to other nodes.
    under_way: Option<Pause>,
    /// Its peer on another node is behind; with the number of this hold.
    peer: Option<Pause>,
    count: u64,
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
        resume: Option<ResumeToken>,
        grant: Grant,
    ) -> Arc<Self> {
        Arc::new(Self {
            id,
            generation,
            node,
            flow,
            eio3: protocol == ProtocolVersion::V4,
            resume,
            state: AtomicU8::new(OPEN),
            seats: Mutex::default(),
            inbox: Mutex::default(),
            waits: Mutex::default(),
            presence: Mutex::default(),
            under_way: AtomicUsize::new(0),
            holds: Mutex::default(),
            grant,
            holds_senders: AtomicBool::new(false),
            counts: AtomicBool::new(false),
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

    /// The token that its client showed when it connected.
    #[must_use]
    pub fn resume(&self) -> Option<ResumeToken> {
        self.resume
    }

    /// Its bytes.
    #[must_use]
    pub fn flow(&self) -> &Arc<Flow> {
        &self.flow
    }

    /// What it may do.
    #[must_use]
    pub fn grant(&self) -> &Grant {
        &self.grant
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

    /// Counts `bytes` as under way to another node; above `bound` no more is read from the client. Tells whether it is time
    /// to hear of some of it.
    pub fn sent_away(&self, bytes: usize, bound: usize) -> bool {
        let under_way = self.under_way.fetch_add(bytes, Ordering::AcqRel) + bytes;
        if under_way > bound {
            let mut holds = lock(&self.holds);
            // What brings it down again may have come before this lock.
            if self.under_way.load(Ordering::Acquire) > bound {
                holds.under_way.get_or_insert_with(|| self.flow.pause());
            }
        }
        under_way > bound / 2
    }

    /// `bytes` have their receipt.
    pub fn received_there(&self, bytes: usize, bound: usize) {
        let before = self.under_way.fetch_sub(bytes, Ordering::AcqRel);
        // The bound may be another than when a hold began: with nothing under way any more, none lasts.
        if before == bytes || before > bound / 2 && before - bytes <= bound / 2 {
            lock(&self.holds).under_way = None;
        }
    }

    /// Its peer on another node is behind: no more is read from the client. Returns the number of this hold.
    pub fn hold_for_peer(&self) -> u64 {
        let mut holds = lock(&self.holds);
        holds.peer.get_or_insert_with(|| self.flow.pause());
        holds.count += 1;
        holds.count
    }

    /// Ends the hold of that number, or any.
    pub fn go_on(&self, hold: Option<u64>) {
        let mut holds = lock(&self.holds);
        if hold.is_none_or(|hold| hold == holds.count) {
            holds.peer = None;
        }
    }

    /// Whether senders on other nodes are already being made to wait for this one; from now on they are, or not.
    pub fn set_holds_senders(&self, hold: bool) -> bool {
        self.holds_senders.swap(hold, Ordering::AcqRel)
    }

    /// Whether its client said that it counts what it hears.
    #[must_use]
    pub fn counts(&self) -> bool {
        self.counts.load(Ordering::Acquire)
    }

    /// Its client said so.
    pub fn set_counts(&self) {
        self.counts.store(true, Ordering::Release);
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

    pub(super) fn waits(&self) -> MutexGuard<'_, Vec<RoomName>> {
        lock(&self.waits)
    }

    pub(super) fn inbox(&self) -> MutexGuard<'_, Inbox> {
        lock(&self.inbox)
    }
}

/// The seat in `room`, among a session's seats.
pub fn seat_in<'a>(seats: &'a mut SmallVec<[Seat; 1]>, room: &RoomName) -> Option<&'a mut Seat> {
    seats.iter_mut().find(|seat| seat.room == *room)
}
