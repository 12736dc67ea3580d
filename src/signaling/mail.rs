//! Messages that wait: what is said to a peer that is away, or not there yet, is kept by the registry and handed over, in order
//! and once, with the answer to the join of whom it is for.
//!
//! The registry decides who gets what; the sender's seat remembers what it gave there ([`Outbox`]) until the peer is back,
//! because the registry may forget (a Redis that restarts empty), and because what the registry did not take in time goes to
//! the peer straight. Each message has a number on its side of the room ([`Serial`]); the peer's node tells the last that it was
//! handed by the registry, and the sender's sends all above.
//!
//! Invariant: an acknowledgement says *kept* only when the registry has said so. A pair that is both there never comes here.

use std::sync::{Arc, Weak};

use bytes::{Buf as _, BufMut as _, Bytes};
use prometheus::IntGauge;
use socketioxide_core::{Str, Value, packet::Packet};

use super::{
    Attachments, Signaling,
    relay::{Parcel, Part},
    session::{Link, Seat, Session, seat_in},
};
use crate::{
    adapter::Undelivered,
    exchange::Delivery,
    id::RoomName,
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
}

#[derive(Debug)]
struct Waiting {
    serial: Serial,
    parcel: Parcel,
    bytes: Counted,
    /// Who has to be told what becomes of it; none when it was told that it is kept.
    part: Option<Part>,
}

/// Bytes that are counted as kept, until this is dropped.
#[derive(Debug)]
struct Counted(usize, IntGauge);

impl Counted {
    fn new(bytes: usize, all: &IntGauge) -> Self {
        all.add(i64::try_from(bytes).unwrap_or(i64::MAX));
        Self(bytes, all.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.1.sub(i64::try_from(self.0).unwrap_or(i64::MAX));
    }
}

impl Outbox {
    /// Takes out the message of that number.
    fn take(&mut self, serial: Serial) -> Option<Waiting> {
        let at = self.waiting.iter().position(|waiting| waiting.serial == serial)?;
        Some(self.waiting.remove(at))
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
    /// Puts a message into the outbox of `seat`, for `to` or for whoever comes. What comes back is to be asked for with
    /// [`Signaling::ask_to_keep`] when no lock is held.
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
        let outbox = seat.outbox.get_or_insert_with(|| Box::new(Outbox { to, waiting: Vec::new() }));
        if outbox.to != to {
            // Whom it was for did not come back.
            std::mem::replace(&mut **outbox, Outbox { to, waiting: Vec::new() }).give_up();
        }
        let all: usize = outbox.waiting.iter().map(|waiting| waiting.bytes.0).sum();
        let in_all = usize::try_from(self.metrics.kept_bytes.get()).unwrap_or(0);
        if outbox.waiting.len() >= self.most.messages
            || all + bytes > self.most.bytes
            || in_all + bytes > self.most_in_all
        {
            return Err((RelayResult::TooManyKept, part));
        }
        let waiting =
            Waiting { serial, parcel: parcel.clone(), bytes: Counted::new(bytes, &self.metrics.kept_bytes), part };
        let at = outbox.waiting.partition_point(|other| other.serial < serial);
        outbox.waiting.insert(at, waiting);
        Ok(())
    }

    /// Asks the registry to keep what is in the outbox.
    pub(super) fn ask_to_keep(
        self: &Arc<Self>,
        session: &Arc<Session>,
        room: &RoomName,
        serial: Serial,
        to: Option<Occupant>,
        parcel: &Parcel,
    ) {
        let (signaling, session, room) = (Arc::clone(self), Arc::clone(session), room.clone());
        let mail = Mail { serial, body: parcel.to_body() };
        self.lifecycle.spawn(async move {
            let kept = signaling.registry.keep(&room, session.occupant(), to, mail, signaling.most).await;
            signaling.asked_to_keep(&session, &room, serial, kept);
        });
    }

    fn asked_to_keep(
        &self,
        session: &Session,
        room: &RoomName,
        serial: Serial,
        kept: Result<KeepOutcome, RegistryError>,
    ) {
        let told = {
            let mut seats = session.seats();
            // It may have gone to its peer meanwhile, or its peer for good.
            let Some(outbox) = seat_in(&mut seats, room).and_then(|seat| seat.outbox.as_mut()) else { return };
            let result = match kept {
                Ok(KeepOutcome::Kept) => {
                    let waiting = outbox.waiting.iter_mut().find(|waiting| waiting.serial == serial);
                    let Some(part) = waiting.and_then(|waiting| waiting.part.take()) else { return };
                    (RelayResult::Kept, Some(part))
                }
                // Its news are on their way, and take along what waits here.
                Ok(KeepOutcome::Present) => return,
                Ok(KeepOutcome::Full) => (RelayResult::TooManyKept, None),
                Ok(KeepOutcome::Gone) => (RelayResult::NoPeer, None),
                Err(_) => (RelayResult::Unavailable, None),
            };
            match result {
                (result, Some(part)) => Some((result, part)),
                (result, None) => outbox.take(serial).and_then(|waiting| Some((result, waiting.part?))),
            }
        };
        if let Some((result, part)) = told {
            part.done(result);
        }
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
            match seat_in(&mut seats, room) {
                Some(seat) if seat.link.as_ref().is_some_and(|link| link.occupant == to) => {
                    self.set_aside(seat, serial, Some(to), parcel, part)
                }
                // It is back, and later messages have gone there, or it is gone for good.
                _ => Err((RelayResult::NoPeer, part)),
            }
        };
        match set_aside {
            Ok(()) => self.ask_to_keep(session, room, serial, Some(to), parcel),
            Err((result, Some(part))) => part.done(result),
            Err((_, None)) => self.metrics.kept_lost.inc(),
        }
    }

    /// The peer of `seat` is there by `link`, and the registry has handed it all up to `handed`: it gets what else waits.
    pub(super) fn empty_outbox(
        self: &Arc<Self>,
        session: &Arc<Session>,
        room: &RoomName,
        seat: &mut Seat,
        link: &Link,
        handed: Serial,
    ) {
        let Some(outbox) = seat.outbox.take() else { return };
        for waiting in outbox.waiting {
            if waiting.serial <= handed {
                waiting.done(RelayResult::Kept);
                continue;
            }
            let Waiting { serial, parcel, part, .. } = waiting;
            if link.occupant.node != self.node {
                self.post_waiting(session, room, serial, link.occupant, parcel, part);
                continue;
            }
            let sent = match link.session.upgrade() {
                Some(peer) => {
                    let sent = self.send(&peer, parcel.packet());
                    if sent == Err(Undelivered::TooSlow) {
                        self.evict(&peer);
                    }
                    sent
                }
                None => Err(Undelivered::Gone),
            };
            match (sent, part) {
                (Ok(()), None) => {}
                (Ok(()), Some(part)) => part.done(RelayResult::Delivered),
                (Err(Undelivered::TooSlow), Some(part)) => part.done(RelayResult::PeerTooSlow),
                // It was lost again at once.
                (Err(_), part) => match self.set_aside(seat, serial, Some(link.occupant), &parcel, part) {
                    Ok(()) => self.ask_to_keep(session, room, serial, Some(link.occupant), &parcel),
                    Err((result, Some(part))) => part.done(result),
                    Err((_, None)) => self.metrics.kept_lost.inc(),
                },
            }
        }
    }

    /// Sends what has waited to a peer on another node.
    fn post_waiting(
        self: &Arc<Self>,
        session: &Arc<Session>,
        room: &RoomName,
        serial: Serial,
        to: Occupant,
        parcel: Parcel,
        part: Option<Part>,
    ) {
        let (signaling, weak, its_room, its_parcel) =
            (Arc::clone(self), Arc::downgrade(session), room.clone(), parcel.clone());
        let receipt = move |delivery| {
            let session: Weak<Session> = weak;
            match (delivery, part) {
                (Delivery::Delivered, None) => {}
                (Delivery::Unavailable | Delivery::TooSlow, Some(part)) => part.done(result_of(delivery)),
                (Delivery::Delivered, Some(part)) => part.done(RelayResult::Delivered),
                // What was acknowledged is not given up as long as there is somebody to give it to.
                (_, part) => match session.upgrade() {
                    Some(session) => signaling.fall_back(&session, &its_room, serial, to, &its_parcel, part),
                    None => signaling.metrics.kept_lost.inc(),
                },
            }
        };
        self.post_event(room, session.occupant(), to, &parcel, true, None, Box::new(receipt));
    }

    /// Hands over what was kept for `session`, if that has not been done.
    pub(super) fn hand_out(self: &Arc<Self>, session: &Arc<Session>, mail: Option<Vec<Mail>>) {
        for mail in mail.into_iter().flatten() {
            match Parcel::from_body(mail.body) {
                Some(parcel) => self.sent_or_closed(session, self.send(session, parcel.packet())),
                None => tracing::warn!("what was kept cannot be read"),
            }
        }
    }
}

fn result_of(delivery: Delivery) -> RelayResult {
    super::relay::result_of_delivery(delivery)
}

/// The number of the last message.
pub(super) fn last_of(mail: &[Mail]) -> Serial {
    mail.last().map_or_else(Serial::default, |mail| mail.serial)
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
