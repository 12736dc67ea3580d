//! Messages that wait: what is said to a peer that is away, or not there yet, is kept by the registry and handed over, in order
//! and once, with the answer to the join of whom it is for.
//!
//! The registry decides who gets what; the sender's seat remembers what it gave there ([`Outbox`]) until the peer is back,
//! because the registry may forget (a Redis that restarts empty), and because what the registry did not take in time goes to
//! the peer straight. Each message has a number on its side of the room ([`Serial`]); the peer's node tells the last that it was
//! handed by the registry, and the sender's sends all above.
//!
//! Invariant: an acknowledgement says *kept* only when the registry has said so. A pair that is both there never comes here.

use std::{
    sync::{Arc, Weak},
    time::{Duration, Instant},
};

use bytes::{Buf as _, BufMut as _, Bytes};
use prometheus::IntGauge;
use socketioxide_core::{Str, Value, packet::Packet};

use super::{
    Attachments, Signaling,
    recent::Fate,
    relay::{Parcel, Part},
    session::{Seat, Session, seat_in},
};
use crate::{
    exchange::{Arrival, Delivery, Haste},
    id::{ResumeToken, RoomName},
    metrics::RelayResult,
    rooms::{KeepOutcome, Mail, Occupant, RegistryError, Serial},
};

/// What a seat said that waits for its peer.
#[derive(Debug)]
pub struct Outbox {
    /// For whom; none: whoever comes.
    to: Option<Occupant>,
    /// In the order of their numbers.
    waiting: Vec<Waiting>,
    /// A task gives them to the registry, one after the other.
    busy: bool,
}

#[derive(Debug)]
struct Waiting {
    serial: Serial,
    parcel: Parcel,
    since: Instant,
    bytes: Counted,
    stage: Stage,
    /// Who has to be told what becomes of it; none when it was told that it is kept.
    part: Option<Part>,
}

/// How far a message is with the registry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// It does not have it.
    New,
    /// It has been asked.
    Asked,
    /// It has it, unless it forgets.
    Kept,
}

/// Bytes that are counted as kept, until this is dropped.
#[derive(Debug)]
pub(super) struct Counted(usize, IntGauge);

impl Counted {
    pub(super) fn new(bytes: usize, all: &IntGauge) -> Self {
        all.add(i64::try_from(bytes).unwrap_or(i64::MAX));
        Self(bytes, all.clone())
    }

    pub(super) const fn bytes(&self) -> usize {
        self.0
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.1.sub(i64::try_from(self.0).unwrap_or(i64::MAX));
    }
}

impl Outbox {
    fn new(to: Option<Occupant>) -> Self {
        Self { to, waiting: Vec::new(), busy: false }
    }

    /// What is too old for whoever comes is of no use to him.
    fn forget_old(&mut self, age: Duration) {
        if self.to.is_none() {
            self.waiting.retain(|waiting| waiting.since.elapsed() <= age);
        }
    }

    /// The next message that the registry does not have, and how many it should have.
    fn next(&mut self) -> Option<(Serial, Parcel, usize)> {
        let before = self.waiting.iter().filter(|waiting| waiting.stage == Stage::Kept).count();
        let next = self.waiting.iter_mut().find(|waiting| waiting.stage == Stage::New)?;
        next.stage = Stage::Asked;
        Some((next.serial, next.parcel.clone(), before))
    }

    /// What the registry says of the message of that number. Tells whether the next one is to be asked for, and who has to be
    /// told what.
    fn answered(
        &mut self,
        serial: Serial,
        kept: &Result<KeepOutcome, RegistryError>,
    ) -> (bool, Vec<(Part, RelayResult)>) {
        let Some(at) = self.waiting.iter().position(|waiting| waiting.serial == serial) else {
            return (true, Vec::new());
        };
        let one = &mut self.waiting[at];
        let result = match kept {
            Ok(KeepOutcome::Kept) => {
                one.stage = Stage::Kept;
                return (true, one.part.take().map(|part| (part, RelayResult::Kept)).into_iter().collect());
            }
            Ok(KeepOutcome::Forgotten) => {
                for waiting in &mut self.waiting {
                    waiting.stage = Stage::New;
                }
                return (true, Vec::new());
            }
            // Its news are on their way, and take along what waits here.
            Ok(KeepOutcome::Present) => {
                one.stage = Stage::New;
                return (false, Vec::new());
            }
            Ok(KeepOutcome::Full) => RelayResult::TooManyKept,
            Ok(KeepOutcome::Gone) => RelayResult::NoPeer,
            Err(_) => {
                one.stage = Stage::New;
                // Nobody waits for one after the other to be out of patience. What was kept once is asked for again with the next.
                let untold = self.waiting.extract_if(.., |waiting| waiting.part.is_some());
                return (false, untold.filter_map(|one| Some((one.part?, RelayResult::Unavailable))).collect());
            }
        };
        let gone = self.waiting.remove(at);
        (true, gone.part.map(|part| (part, result)).into_iter().collect())
    }

    /// Its peer does not come back.
    pub(super) fn give_up(self) {
        for waiting in self.waiting {
            waiting.done(RelayResult::NoPeer);
        }
    }
}

impl Waiting {
    fn done(self, result: RelayResult) {
        if let Some(part) = self.part {
            part.done(result);
        }
    }
}

impl Signaling {
    /// Puts a message into the outbox of `seat`, for `to` or for whoever comes; [`Signaling::keep_outbox`] is to be called when no
    /// lock is held.
    ///
    /// # Errors
    /// Why it cannot be kept.
    pub(super) fn set_aside(
        &self,
        seat: &mut Seat,
        serial: Serial,
        to: Option<Occupant>,
        parcel: &Parcel,
        part: Option<Part>,
    ) -> Result<(), (RelayResult, Option<Part>)> {
        if self.grace.is_zero() || self.most.messages == 0 {
            return Err((RelayResult::NoPeer, part));
        }
        let bytes = parcel.bytes();
        let outbox = seat.outbox.get_or_insert_with(|| Box::new(Outbox::new(to)));
        if outbox.to != to {
            // Whom it was for did not come back.
            std::mem::replace(&mut **outbox, Outbox::new(to)).give_up();
        }
        outbox.forget_old(self.most.age);
        let all: usize = outbox.waiting.iter().map(|waiting| waiting.bytes.0).sum();
        let in_all = usize::try_from(self.metrics.kept_bytes.get()).unwrap_or(0);
        if outbox.waiting.len() >= self.most.messages
            || all + bytes > self.most.bytes
            || in_all + bytes > self.most_in_all
        {
            return Err((RelayResult::TooManyKept, part));
        }
        let waiting = Waiting {
            serial,
            parcel: parcel.clone(),
            since: Instant::now(),
            bytes: Counted::new(bytes, &self.metrics.kept_bytes),
            stage: Stage::New,
            part,
        };
        let at = outbox.waiting.partition_point(|other| other.serial < serial);
        outbox.waiting.insert(at, waiting);
        Ok(())
    }

    /// Has the registry keep what is in the outbox, one message after the other: what it hands over is then all up to some number.
    pub(super) fn keep_outbox(self: &Arc<Self>, session: &Arc<Session>, room: &RoomName) {
        let (signaling, session, room) = (Arc::clone(self), Arc::clone(session), room.clone());
        self.lifecycle.spawn(async move {
            let mut begun_for = None;
            loop {
                let (to, next) = {
                    let mut seats = session.seats();
                    let Some(outbox) = seat_in(&mut seats, &room).and_then(|seat| seat.outbox.as_mut()) else { return };
                    // Another task is at it; or this outbox is another than before, and has its own.
                    if begun_for.map_or(outbox.busy, |to| to != outbox.to) {
                        return;
                    }
                    begun_for = Some(outbox.to);
                    outbox.forget_old(signaling.most.age);
                    let next = outbox.next();
                    outbox.busy = next.is_some();
                    (outbox.to, next)
                };
                let Some((serial, parcel, before)) = next else { return };
                let mail = Mail { serial, body: parcel.to_body() };
                let asked = signaling.registry.keep(&room, session.occupant(), to, mail, before, signaling.most);
                let kept = asked.await;
                let (go_on, told) = {
                    let mut seats = session.seats();
                    let outbox = seat_in(&mut seats, &room).and_then(|seat| seat.outbox.as_mut());
                    // It may have gone to its peer meanwhile, or its peer for good.
                    let Some(outbox) = outbox.filter(|outbox| outbox.to == to) else { return };
                    let (go_on, told) = outbox.answered(serial, &kept);
                    outbox.busy = go_on;
                    (go_on, told)
                };
                for (part, result) in told {
                    part.done(result);
                }
                if !go_on {
                    return;
                }
            }
        });
    }

    /// A message to `to` did not get there, as that one is away: it is kept, if its seat is.
    pub(super) fn fall_back(
        self: &Arc<Self>,
        session: &Arc<Session>,
        room: &RoomName,
        serial: Serial,
        to: Occupant,
        parcel: &Parcel,
        part: Option<Part>,
    ) {
        let set_aside = {
            let mut seats = session.seats();
            let seat = seat_in(&mut seats, room);
            match seat {
                Some(seat) if seat.link.as_ref().is_some_and(|link| link.occupant == to) => {
                    if let Some(recent) = &mut seat.recent {
                        recent.forget(serial);
                    }
                    self.set_aside(seat, serial, Some(to), parcel, part)
                }
                // It has been sent again.
                Some(seat) if part.is_none() && seat.recent.as_ref().is_some_and(|recent| recent.knows(serial)) => {
                    return;
                }
                // It is back, and later messages have gone there, or it is gone for good.
                _ => Err((RelayResult::NoPeer, part)),
            }
        };
        self.kept_or_told(session, room, set_aside);
    }

    /// After [`Signaling::set_aside`].
    pub(super) fn kept_or_told(
        self: &Arc<Self>,
        session: &Arc<Session>,
        room: &RoomName,
        set_aside: Result<(), (RelayResult, Option<Part>)>,
    ) {
        match set_aside {
            Ok(()) => self.keep_outbox(session, room),
            Err((result, Some(part))) => part.done(result),
            Err((_, None)) => self.metrics.kept_lost.inc(),
        }
    }

    /// The peer of `seat` is there by its link, and `handed` was kept for it, which `hand_out` gives it up to some number: it gets what
    /// else waits, and what it `missed`, all in the order in which it was said.
    pub(super) fn empty_outbox(
        self: &Arc<Self>,
        session: &Arc<Session>,
        room: &RoomName,
        seat: &mut Seat,
        handed: &Arrival,
        missed: Vec<(Serial, Parcel)>,
        mut hand_out: impl FnMut(Serial),
    ) {
        let outbox = seat.outbox.take().map_or_else(Vec::new, |mut outbox| {
            outbox.forget_old(self.most.age);
            outbox.waiting
        });
        // Nodes of earlier versions tell the last only, and no count.
        let last = handed.handed.last().filter(|_| handed.messages == 0);
        let is_handed = |waiting: &Waiting| {
            handed.handed.binary_search(&waiting.serial).is_ok()
                || waiting.stage == Stage::Kept && last.is_some_and(|last| waiting.serial <= *last)
        };
        let own = outbox.iter().filter(|waiting| is_handed(waiting) && waiting.parcel.is_counted()).count() as u64;
        // All that was handed over has its place in the count of the peer; what came from earlier seats came first.
        let earlier = handed.messages.saturating_sub(own);
        if let Some(link) = &mut seat.link {
            link.handed += earlier;
        }
        let mut all: Vec<(Serial, Parcel, Option<Part>, bool)> =
            missed.into_iter().map(|(serial, parcel)| (serial, parcel, None, false)).collect();
        all.extend(outbox.into_iter().map(|waiting| {
            let is_handed = is_handed(&waiting);
            let Waiting { serial, parcel, part, .. } = waiting;
            (serial, parcel, part, is_handed)
        }));
        all.sort_by_key(|(serial, ..)| *serial);
        let mut held = (earlier > 0).then_some(Serial { seat: seat.said.seat, said: 0 });
        for (serial, parcel, part, is_handed) in all {
            if is_handed {
                held = Some(serial);
                self.remember(session, seat, serial, &parcel, true);
                if let Some(part) = part {
                    part.done(RelayResult::Kept);
                }
            } else {
                if let Some(held) = held.take() {
                    hand_out(held);
                }
                self.hand_on(session, room, seat, serial, &parcel, part);
            }
        }
        hand_out(Serial::LAST);
    }

    /// Sends what has waited to a peer on another node.
    pub(super) fn post_waiting(
        self: &Arc<Self>,
        session: &Arc<Session>,
        room: &RoomName,
        serial: Serial,
        to: Occupant,
        parcel: &Parcel,
        part: Option<Part>,
    ) {
        let (signaling, weak, its_room, its_parcel) =
            (Arc::clone(self), Arc::downgrade(session), room.clone(), parcel.clone());
        let receipt = move |delivery| {
            let session: Weak<Session> = weak;
            match (delivery, part) {
                (Delivery::Delivered, None) => {}
                // Not here: who sends this may hold the lock on the seat.
                (delivery, Some(part)) => {
                    let Some(session) = session.upgrade() else { return };
                    let lifecycle = signaling.lifecycle.clone();
                    lifecycle.spawn(async move {
                        match Self::settle(&session, &its_room, serial, delivery == Delivery::Delivered) {
                            Fate::AsTold if delivery == Delivery::NoPeer => {
                                signaling.fall_back(&session, &its_room, serial, to, &its_parcel, Some(part));
                            }
                            Fate::AsTold => part.done(result_of(delivery)),
                            Fate::Heard => part.done(RelayResult::Delivered),
                            Fate::Missed => {
                                signaling.hand_on_again(&session, &its_room, serial, &its_parcel, part);
                            }
                        }
                    });
                }
                // What was acknowledged is not given up as long as there is somebody to give it to.
                (_, None) => match session.upgrade() {
                    Some(session) => {
                        let lifecycle = signaling.lifecycle.clone();
                        lifecycle.spawn(async move {
                            signaling.fall_back(&session, &its_room, serial, to, &its_parcel, None);
                        });
                    }
                    None => signaling.metrics.kept_lost.inc(),
                },
            }
        };
        self.post_event(room, session.occupant(), to, parcel, Haste::AfterDelivery, None, Box::new(receipt));
    }

    /// Hands over what was kept for `session`, if that has not been done.
    pub(super) fn hand_out(self: &Arc<Self>, session: &Arc<Session>, mail: Option<Vec<Mail>>) {
        if let Some(mut mail) = mail {
            self.hand_out_to(session, &mut mail, Serial::LAST);
        }
    }

    /// The same of `mail` up to that number. It is in order.
    pub(super) fn hand_out_to(self: &Arc<Self>, session: &Arc<Session>, mail: &mut Vec<Mail>, last: Serial) {
        for mail in mail.drain(..mail.partition_point(|mail| mail.serial <= last)) {
            if let Some(parcel) = Parcel::from_body(mail.body) {
                self.sent_or_closed(session, self.send(session, parcel.packet()));
            } else {
                tracing::warn!("what was kept cannot be read");
            }
        }
    }
}

fn result_of(delivery: Delivery) -> RelayResult {
    super::relay::result_of_delivery(delivery)
}

/// How a seat was taken for which that was kept.
pub(super) fn arrival(order: u64, mail: &[Mail], counts: bool, token: Option<ResumeToken>) -> Arrival {
    let handed = mail.iter().map(|mail| mail.serial).collect();
    let parcels = mail.iter().filter_map(|mail| Parcel::from_body(mail.body.clone()));
    let messages = parcels.filter(Parcel::is_counted).count() as u64;
    Arrival { order, handed, messages, counts, key: token.map(|token| token.key()) }
}

impl Parcel {
    /// As the registry keeps it: the length of the array, the array, and each attachment with its length before it.
    fn to_body(&self) -> Bytes {
        let mut body = Vec::with_capacity(self.bytes() + 4 + self.attachments.iter().flatten().count() * 4);
        for bytes in std::iter::once(self.array.as_bytes()).chain(self.attachments.iter().flatten().map(|one| &**one)) {
            // Bounded by `limits.message_bytes`, far below.
            body.put_u32(u32::try_from(bytes.len()).unwrap_or(u32::MAX));
            body.put_slice(bytes);
        }
        body.into()
    }

    fn from_body(mut body: Bytes) -> Option<Self> {
        let mut parts = Vec::new();
        while body.has_remaining() {
            let length = usize::try_from(body.try_get_u32().ok()?).ok()?;
            parts.push((body.remaining() >= length).then(|| body.split_to(length))?);
        }
        let mut parts = parts.into_iter();
        let array = Str::from(String::from_utf8(parts.next()?.into()).ok()?);
        let attachments: Attachments = parts.collect();
        Some(Self { array, attachments: (!attachments.is_empty()).then_some(attachments) })
    }

    /// Bytes of what it says.
    pub(super) fn bytes(&self) -> usize {
        self.array.len() + self.attachments.iter().flatten().map(Bytes::len).sum::<usize>()
    }

    /// As a client gets it.
    pub(super) fn packet(&self) -> Packet {
        Packet::event("/", Value::Str(self.array.clone(), self.attachments.clone()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_comes_out_as_it_went_in_and_anything_else_does_not() {
        let some = Parcel { array: r#"["message",{"a":"\u00e9\ud83d"}]"#.into(), attachments: None };
        let binary = Parcel {
            array: r#"["message",{"_placeholder":true,"num":0}]"#.into(),
            attachments: Some([Bytes::from_static(&[0, 255, 10]), Bytes::new()].into()),
        };
        for parcel in [some, binary] {
            let read = Parcel::from_body(parcel.to_body()).expect("read");
            assert_eq!((&*read.array, &read.attachments), (&*parcel.array, &parcel.attachments));
            let body = parcel.to_body();
            assert!(Parcel::from_body(body.slice(..body.len() - 1)).is_none());
        }
        assert!(Parcel::from_body(Bytes::new()).is_none());
        assert!(Parcel::from_body(Bytes::from_static(&[0, 0, 0, 1, 0xff])).is_none());
    }
}
