//! What was handed on lately: a peer that comes back tells how much of it it had heard, and gets the rest.
//!
//! A connection can be dead long before its server knows, and what is written to it meanwhile counts as delivered and never
//! arrives. So the sender's seat remembers for a while what it handed on to a peer whose client counts what it hears
//! ([`Recent`]), as far as that one may not have heard it. What is remembered has its place in the count of the connection it
//! went to; the count of the client, told with its token ([`Heard`](crate::protocol::Heard)), divides it in two.
//!
//! Invariant: what was acknowledged as delivered is sent again only if the client has told that it did not hear it; what was
//! not acknowledged yet is then answered by what the client told, whatever its receipt says.

use std::{
    collections::VecDeque,
    sync::{Arc, Weak},
    time::{Duration, Instant},
};

use socketioxide_core::Str;

use super::{
    Signaling, lock,
    mail::Counted,
    relay::{Parcel, Part},
    session::{Link, Seat, Session, seat_in},
};
use crate::{
    adapter::Undelivered,
    exchange::{Content, Resumption},
    id::{RoomName, SeatKey},
    metrics::RelayResult,
    rooms::{Occupant, Serial},
};

/// What a seat handed on to the other lately.
#[derive(Debug, Default)]
pub struct Recent {
    entries: VecDeque<Entry>,
    /// Bytes of them.
    bytes: usize,
    /// The last that the peer is known to have heard.
    heard: Serial,
    /// What it is known not to have heard, and is not answered yet.
    missed: Vec<Serial>,
}

#[derive(Debug)]
struct Entry {
    serial: Serial,
    /// Its place in the count of the connection it went to.
    place: u64,
    parcel: Parcel,
    since: Instant,
    bytes: Counted,
    /// Its sender was told that it is delivered, or kept.
    settled: bool,
}

/// What becomes of a message whose receipt is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    /// What the receipt says.
    AsTold,
    /// The peer has told meanwhile that it heard it.
    Heard,
    /// The peer has told meanwhile that it did not.
    Missed,
}

impl Recent {
    fn push(&mut self, entry: Entry) {
        self.bytes += entry.bytes.bytes();
        self.entries.push_back(entry);
    }

    fn pop(&mut self) -> Option<Entry> {
        let entry = self.entries.pop_front()?;
        self.bytes -= entry.bytes.bytes();
        Some(entry)
    }

    fn remove(&mut self, at: usize) -> Option<Entry> {
        let entry = self.entries.remove(at)?;
        self.bytes -= entry.bytes.bytes();
        Some(entry)
    }

    /// It has not got there, and takes another way.
    pub(super) fn forget(&mut self, serial: Serial) {
        if let Some(at) = self.find(serial) {
            self.remove(at);
        }
    }

    pub(super) fn knows(&self, serial: Serial) -> bool {
        self.find(serial).is_some()
    }

    fn find(&self, serial: Serial) -> Option<usize> {
        self.entries.iter().rposition(|entry| entry.serial == serial)
    }

    /// Whether there is something of which nobody knows yet what became of it, and nothing else.
    pub(super) fn is_unsettled(&self) -> bool {
        !self.entries.is_empty() && self.entries.iter().all(|entry| !entry.settled)
    }

    /// Forgets what is older than `age`; tells whether anything is left.
    fn forget_old(&mut self, age: Duration) -> bool {
        while self.entries.front().is_some_and(|entry| entry.since.elapsed() > age) {
            self.pop();
        }
        if self.entries.is_empty() {
            self.entries.shrink_to_fit();
        }
        !self.entries.is_empty()
    }

    /// From which place on the peer, which is back, has not heard what was handed on by `link`, if that can be told.
    fn unheard_from(&self, link: &Link, resumption: &Resumption) -> Option<u64> {
        let heard = resumption.heard.filter(|_| link.is_of_seat(resumption) == Some(true))?;
        if heard.id != link.occupant.peer {
            // Or it is of a connection that was never told of here, and so was sent nothing from here.
            return (link.before == Some(heard.id) || resumption.before.peer == heard.id).then_some(0);
        }
        match link.counts {
            Some(peers) if peers == heard.peers => Some(heard.messages),
            // It was not told yet of this one.
            Some(peers) if peers > heard.peers => Some(0),
            // Nor, as far as is known here: its node tells that before anything is delivered there.
            None if self.entries.iter().all(|entry| !entry.settled) => Some(0),
            _ => None,
        }
    }

    /// What the peer has not heard, from that place on, in order. Of the others nothing is remembered.
    fn missing(&mut self, from: Option<u64>) -> Vec<Entry> {
        let mut missing = Vec::new();
        while let Some(entry) = self.pop() {
            match from {
                Some(from) if entry.place < from => self.heard = self.heard.max(entry.serial),
                Some(_) if entry.settled => missing.push(entry),
                Some(_) => self.missed.push(entry.serial),
                None => {}
            }
        }
        missing
    }
}

impl Parcel {
    /// Whether clients count it.
    pub(super) fn is_counted(&self) -> bool {
        !self.array.starts_with(r#"["ready""#)
    }

    /// The same, without what else was read from the socket together with it.
    fn alone(&self) -> Self {
        let array = Str::from(self.array.to_string());
        let copied = |bytes: &bytes::Bytes| bytes::Bytes::copy_from_slice(bytes);
        Self { array, attachments: self.attachments.as_ref().map(|all| all.iter().map(copied).collect()) }
    }
}

impl Signaling {
    /// `seat` hands on a message to the peer it is linked to. It is remembered, if that one may count.
    pub(super) fn remember(
        &self,
        session: &Arc<Session>,
        seat: &mut Seat,
        serial: Serial,
        parcel: &Parcel,
        settled: bool,
    ) {
        let Some(link) = seat.link.as_mut() else { return };
        if !parcel.is_counted() {
            return;
        }
        let place = link.handed;
        link.handed += 1;
        // Until the other's client has told whether it counts, one's own speaks for it.
        if link.counts.is_none() && !session.counts() || self.grace.is_zero() {
            return;
        }
        let bytes = parcel.bytes() + size_of::<Entry>();
        if self.most.messages == 0 || bytes > self.most.bytes {
            self.metrics.not_remembered.inc();
            return;
        }
        let recent = seat.recent.get_or_insert_with(|| {
            lock(&self.remembering).push(Arc::downgrade(session));
            Box::default()
        });
        while recent.entries.len() >= self.most.messages || recent.bytes + bytes > self.most.bytes {
            recent.pop();
        }
        let in_all = usize::try_from(self.metrics.recent_bytes.get()).unwrap_or(0);
        if in_all + bytes > self.most_in_all {
            self.metrics.not_remembered.inc();
            return;
        }
        let bytes = Counted::new(bytes, &self.metrics.recent_bytes);
        recent.push(Entry { serial, place, parcel: parcel.alone(), since: Instant::now(), bytes, settled });
    }

    /// A message to `to` has its receipt; tells what is to be said of it.
    pub(super) fn settle(session: &Session, room: &RoomName, serial: Serial, delivered: bool) -> Fate {
        let mut seats = session.seats();
        let Some(recent) = seat_in(&mut seats, room).and_then(|seat| seat.recent.as_mut()) else { return Fate::AsTold };
        if recent.missed.contains(&serial) {
            return Fate::Missed;
        }
        if recent.heard.seat == serial.seat && serial <= recent.heard {
            return Fate::Heard;
        }
        if let Some(at) = recent.find(serial) {
            if delivered {
                recent.entries[at].settled = true;
            } else {
                recent.remove(at);
            }
        }
        Fate::AsTold
    }

    /// The peer did not hear a message that was sent to an earlier connection of it. It is sent once more, if nothing was said after
    /// it; else whoever sent it has to, as what came later is there already.
    pub(super) fn hand_on_again(
        self: &Arc<Self>,
        session: &Arc<Session>,
        room: &RoomName,
        serial: Serial,
        parcel: &Parcel,
        part: Part,
    ) {
        let mut seats = session.seats();
        let seat = seat_in(&mut seats, room).and_then(|seat| {
            // Of a peer that left, and of what it missed, nothing is known any more.
            let missed = &mut seat.recent.as_mut()?.missed;
            missed.swap_remove(missed.iter().position(|missed| *missed == serial)?);
            let is_back = seat.link.as_ref().is_some_and(|link| !link.away);
            (is_back && seat.said == serial).then_some(seat)
        });
        let Some(seat) = seat else {
            drop(seats);
            return part.done(RelayResult::Unavailable);
        };
        self.hand_on(session, room, seat, serial, parcel, Some(part));
    }

    /// The peer of `seat` is back by the link that it has now, and has told how far it heard by the connection that `old` goes to:
    /// what it has not heard.
    pub(super) fn missed(&self, seat: &mut Seat, old: &Link, resumption: &Resumption) -> Vec<(Serial, Parcel)> {
        let from = match &seat.recent {
            Some(recent) => recent.unheard_from(old, resumption),
            None => Recent::default().unheard_from(old, resumption),
        };
        if let Some(link) = &mut seat.link {
            link.before = from.and(resumption.heard.map(|heard| heard.id));
        }
        let missing = seat.recent.as_mut().map_or_else(Vec::new, |recent| recent.missing(from));
        self.metrics.caught_up.inc_by(missing.len() as u64);
        missing.into_iter().map(|entry| (entry.serial, entry.parcel)).collect()
    }

    /// The same for the seat of a peer that is lost itself: what the other has not heard of it.
    pub(super) fn catch_up_beside_kept(
        &self,
        room: &RoomName,
        lost: Occupant,
        by: Occupant,
        resumption: &Resumption,
    ) -> Vec<Parcel> {
        let mut all = lock(&self.kept);
        // News that come late are of a connection that is none any more.
        let kept = all.get_mut(&(room.clone(), lost)).filter(|kept| kept.latest == resumption.arrival.order);
        let Some(memory) = kept.and_then(|kept| kept.memory.as_mut()) else {
            return Vec::new();
        };
        let (old, recent) = &mut **memory;
        let from = recent.unheard_from(old, resumption);
        let missing = recent.missing(from);
        let key = old.key.filter(|_| old.is_of_seat(resumption) == Some(true));
        *old = Link::elsewhere(by);
        old.key = resumption.arrival.key.or(key);
        old.before = from.and(resumption.heard.map(|heard| heard.id));
        old.counts = resumption.arrival.counts.then_some(0);
        let mut parcels = Vec::with_capacity(missing.len());
        for mut entry in missing {
            entry.place = old.handed;
            old.handed += 1;
            parcels.push(entry.parcel.clone());
            recent.push(entry);
        }
        self.metrics.caught_up.inc_by(parcels.len() as u64);
        parcels
    }

    /// Sends a message of `seat`, which is held, to the peer that it is linked to.
    pub(super) fn hand_on(
        self: &Arc<Self>,
        session: &Arc<Session>,
        room: &RoomName,
        seat: &mut Seat,
        serial: Serial,
        parcel: &Parcel,
        part: Option<Part>,
    ) {
        let Some(link) = seat.link.clone() else { return };
        if link.occupant.node != self.node {
            self.remember(session, seat, serial, parcel, part.is_none());
            self.post_waiting(session, room, serial, link.occupant, parcel, part);
            return;
        }
        let peer = link.session.upgrade();
        let handed_on = peer.as_ref().map_or(Err(Undelivered::Gone), |peer| self.send(peer, parcel.packet()));
        if let (Err(Undelivered::TooSlow), Some(peer)) = (handed_on, &peer) {
            self.evict(peer);
        }
        match (handed_on, part) {
            (Ok(()), part) => {
                self.remember(session, seat, serial, parcel, true);
                if let Some(part) = part {
                    part.done(RelayResult::Delivered);
                }
            }
            (Err(Undelivered::TooSlow), Some(part)) => part.done(RelayResult::PeerTooSlow),
            // It was lost again at once.
            (Err(_), part) => {
                let set_aside = self.set_aside(seat, serial, Some(link.occupant), parcel, part);
                self.kept_or_told(session, room, set_aside);
            }
        }
    }

    /// Tells the other peer's seat that the client of `session`, whose seat is held, counts what it hears.
    pub(super) fn tell_that_it_counts(
        self: &Arc<Self>,
        session: &Arc<Session>,
        room: &RoomName,
        seat: &Seat,
        to: &Link,
    ) {
        if !session.counts() {
            return;
        }
        let (who, peers, key) = (session.occupant(), seat.peers, seat.token.map(|token| token.key()));
        if to.occupant.node != self.node {
            return self.send_letter(room, who, to.occupant, Content::Counts(peers, key));
        }
        // Not here: one session's lock is held.
        let (signaling, other, room) = (Arc::clone(self), Weak::clone(&to.session), room.clone());
        self.lifecycle.spawn(async move {
            if let Some(other) = other.upgrade() {
                signaling.peer_counts(&other, &room, who, (peers, key));
            }
        });
    }

    /// The client of `who` counts what it hears, and had been told of so many peers when it was told of this one; with the key of its
    /// seat.
    pub(super) fn peer_counts(
        self: &Arc<Self>,
        session: &Arc<Session>,
        room: &RoomName,
        who: Occupant,
        (peers, key): (u32, Option<SeatKey>),
    ) {
        let mut seats = session.seats();
        let Some(seat) = seat_in(&mut seats, room) else { return };
        if let Some(link) = seat.link.as_mut().filter(|link| link.occupant == who) {
            link.counts = Some(peers);
            link.key = link.key.or(key);
            self.take_due(session, room, seat, &|seat, one| !seat.is_overtaken(&one.resumption));
        }
    }

    /// Forgets what is too old to be missed, as long as the node runs.
    pub(super) async fn forget_recent(self: Arc<Self>) {
        let age = self.recent_age;
        loop {
            tokio::time::sleep(age / 4).await;
            let mut all = std::mem::take(&mut *lock(&self.remembering));
            // One that forgot and remembers again is there twice.
            all.sort_by_key(Weak::as_ptr);
            all.dedup_by_key(|session| session.as_ptr());
            all.retain(|session| {
                let Some(session) = session.upgrade() else { return false };
                let mut seats = session.seats();
                let mut any = false;
                for seat in seats.iter_mut() {
                    let Some(recent) = &mut seat.recent else { continue };
                    if recent.forget_old(age) || !recent.missed.is_empty() {
                        any = true;
                    } else {
                        seat.recent = None;
                    }
                }
                any
            });
            let mut now = lock(&self.remembering);
            now.append(&mut all);
            if now.is_empty() {
                now.shrink_to_fit();
            }
        }
    }
}
