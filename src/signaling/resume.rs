//! Seats that outlive a connection: kept for a peer that was lost, taken back by another connection of it, and waited for.
//!
//! A seat can be taken back by who knows its token, and only the client that was told it does. While its peer is away the
//! seat is taken: nobody else gets it. Who keeps it, and tells the other peer when the time is up, is the node that the
//! lost peer was on ([`Kept`]); when that node is gone, the node of the other peer asks what became of the seat.
//!
//! Invariant: whoever had a seat before can do nothing there once another has taken it back. What it still sends is refused
//! where it arrives: the other peer is linked to the new occupant.

use std::{sync::Arc, time::Duration};

use super::{
    Signaling,
    inbox::Item,
    join::Told,
    lock,
    mail::arrival,
    recent::Recent,
    reply,
    session::{Link, Overtaking, Seat, Session, seat_in},
};
use crate::{
    exchange::{Arrival, Away, Content, Delivery, Haste, Resumption},
    id::RoomName,
    protocol::{ByeReason, Code, Heard, Refusal, Request},
    rooms::{Expiry, LeaveOutcome, Mail, Occupant, Role, Serial},
};

/// How long until a registry that could not be asked is asked again.
const ASK_AGAIN: Duration = Duration::from_secs(1);
/// Until what was sent to an earlier connection of a peer that is back, and news of that connection, are not waited for any more:
/// its node has told by then, if there is one.
const OVERDUE: Duration = Duration::from_millis(300);
/// How often somebody who waits for a seat asks whether there is one.
const KNOCK: Duration = Duration::from_secs(1);

/// What was kept for somebody waits no longer than this for what came before. Whoever has that is told of as gone sooner, and a Redis
/// that stood still for some seconds carries messages again.
const HELD: Duration = Duration::from_secs(10);

/// A seat whose peer is lost.
#[derive(Debug)]
pub struct Kept {
    /// Who else is in the room, as far as this node was told.
    other: Option<Occupant>,
    reason: ByeReason,
    until: tokio::time::Instant,
    /// What it handed on to the other lately, and the link to that one.
    pub(super) memory: Option<Box<(Link, Recent)>>,
    /// The order of the latest seat of the room that is known here.
    pub(super) latest: u64,
}

impl Resumption {
    /// What was kept for the seat waits for what its client has not heard.
    fn is_held(&self) -> bool {
        self.heard.is_some() && self.arrival.messages > 0
    }
}

impl Kept {
    fn away(&self) -> Away {
        Away { grace: self.until.saturating_duration_since(tokio::time::Instant::now()), node_goes: false }
    }
}

impl Signaling {
    /// Keeps the `seat` of `lost` for the time of grace. Whoever finds it gone from its session has to find it here: so that is
    /// still locked. Then [`Signaling::tell_kept`] is to be called, with what this returns.
    pub(super) fn keep_seat(&self, lost: Occupant, seat: Seat, reason: ByeReason) -> (Option<Occupant>, Away) {
        let Seat { room, link, recent, latest, .. } = seat;
        let until = tokio::time::Instant::now() + self.grace;
        let other = link.as_ref().map(|link| link.occupant);
        let memory = link.zip(recent).map(|(link, recent)| Box::new((link, *recent)));
        let kept = Kept { other, reason, until, memory, latest };
        let away = kept.away();
        lock(&self.kept).insert((room, lost), kept);
        self.metrics.seats_kept.inc();
        (other, away)
    }

    /// Tells the other peer that the seat of `lost` is kept, and gives it up when the time of grace is over.
    pub(super) fn tell_kept(
        self: &Arc<Self>,
        room: &RoomName,
        lost: Occupant,
        (other, away): (Option<Occupant>, Away),
    ) {
        let until = tokio::time::Instant::now() + away.grace;
        if let Some(other) = other {
            self.tell_away(room, lost, other, away);
        }
        let (signaling, room) = (Arc::clone(self), room.clone());
        self.lifecycle.spawn(async move {
            tokio::time::sleep_until(until).await;
            signaling.give_up_kept(&room, lost).await;
        });
    }

    /// Gives up the seat of `lost`, if it is kept here, and tells why; tells whether it was.
    pub(super) async fn close_kept(self: &Arc<Self>, room: &RoomName, lost: Occupant, reason: ByeReason) -> bool {
        match lock(&self.kept).get_mut(&(room.clone(), lost)) {
            Some(kept) => kept.reason = reason,
            None => return false,
        }
        self.give_up_kept(room, lost).await;
        true
    }

    /// The seats that are kept here: whose, in which room, and who else is there.
    pub(super) fn kept_seats(&self) -> Vec<(RoomName, Occupant, Option<Occupant>)> {
        lock(&self.kept).iter().map(|((room, lost), kept)| (room.clone(), *lost, kept.other)).collect()
    }

    async fn give_up_kept(self: &Arc<Self>, room: &RoomName, lost: Occupant) {
        let Some(kept) = self.take_kept(room, lost) else { return };
        let left = self.registry.leave(room, lost).await;
        self.metrics.leaves.inc(kept.reason);
        let stays = match left {
            Ok(LeaveOutcome::Left(other)) => other,
            // Another connection has it, and its node has told, or will.
            Ok(LeaveOutcome::NotSeated) => return,
            Ok(LeaveOutcome::Deferred) | Err(_) => None,
        };
        if let Some(other) = stays.or(kept.other) {
            self.tell_departed(room, lost, other, kept.reason);
        }
    }

    /// The seat is nobody's to keep any more.
    fn take_kept(&self, room: &RoomName, lost: Occupant) -> Option<Kept> {
        let mut all = lock(&self.kept);
        let kept = all.remove(&(room.clone(), lost))?;
        if all.is_empty() {
            // Many that were lost at once do not keep their memory.
            all.shrink_to_fit();
        }
        self.metrics.seats_kept.dec();
        Some(kept)
    }

    /// Whether the seat of `lost` is kept here; if so, `other` is who is in the room with it, unless one of a later order is.
    pub(super) fn beside_kept(&self, room: &RoomName, lost: Occupant, other: Occupant, order: u64) -> Option<Away> {
        let mut all = lock(&self.kept);
        let kept = all.get_mut(&(room.clone(), lost))?;
        if order > kept.latest {
            kept.latest = order;
            kept.other = Some(other);
        }
        Some(kept.away())
    }

    /// `session` took a seat beside that of `lost`, a peer of this node whose session has it no more: if it is kept, `session` is told
    /// so, and gets what was said to it; if not, it is told of the end by whoever gave the seat up.
    pub(super) fn beside_lost(
        self: &Arc<Self>,
        session: &Arc<Session>,
        room: &RoomName,
        lost: Occupant,
        arrival: &Arrival,
        resumption: Option<&Resumption>,
        mail: Option<Vec<Mail>>,
    ) {
        let by = session.occupant();
        let kept = self.beside_kept(room, lost, by, arrival.order);
        {
            let mut seats = session.seats();
            if kept.is_some() {
                if let Some(link) = seat_in(&mut seats, room).and_then(|seat| seat.link.as_mut())
                    && link.occupant == lost
                {
                    link.met = false;
                }
                let missed = resumption.map(|resumption| self.catch_up_beside_kept(room, lost, by, resumption));
                for parcel in missed.into_iter().flatten() {
                    self.sent_or_closed(session, self.send(session, parcel.packet()));
                }
            }
            self.hand_out(session, mail);
        }
        if let Some(away) = kept {
            self.peer_away(session, room, lost, away);
        }
    }

    /// `gone` is no more in the room with `lost`, whose seat is kept here.
    pub(super) fn departed_from_kept(&self, room: &RoomName, lost: Occupant, gone: Occupant) {
        if let Some(kept) = lock(&self.kept).get_mut(&(room.clone(), lost))
            && kept.other == Some(gone)
        {
            kept.other = None;
            // What was said to it is for nobody else.
            kept.memory = None;
        }
    }

    /// Tells `other`, wherever it is, that `lost` is away.
    pub(super) fn tell_away(self: &Arc<Self>, room: &RoomName, lost: Occupant, other: Occupant, away: Away) {
        if other.node == self.node {
            if let Some(session) = self.session_of(other) {
                self.peer_away(&session, room, lost, away);
            }
        } else {
            self.send_letter(room, lost, other, Content::Away(away));
        }
    }

    /// The other peer of `room` is lost; its seat is kept.
    pub(super) fn peer_away(self: &Arc<Self>, session: &Arc<Session>, room: &RoomName, lost: Occupant, away: Away) {
        {
            let mut seats = session.seats();
            let Some(seat) = seat_in(&mut seats, room) else { return };
            self.take_due(session, room, seat, &|_, one| one.link.occupant == lost);
            if let Some(visit) = seat.early.present_mut().filter(|visit| visit.link.occupant == lost) {
                // It is told once this one knows its own seat.
                visit.link.away = true;
            } else {
                if seat.link.as_ref().is_none_or(|link| link.occupant != lost) {
                    return;
                }
                // Of the one who would say that, nothing more comes that was said before.
                if away.node_goes {
                    self.let_go(session, seat, Serial::LAST);
                }
                let Some(link) = &mut seat.link else { return };
                if !std::mem::replace(&mut link.away, true) {
                    self.tell(session, reply::peer_reconnecting(room, lost.peer, away.grace));
                }
            }
        }
        if away.node_goes {
            self.watch(session, room, lost, away.grace, ByeReason::NodeShutdown);
        }
    }

    /// Finds out what becomes of the seat of `lost`, whose node is gone, and tells `session`.
    pub(super) fn watch(
        self: &Arc<Self>,
        session: &Arc<Session>,
        room: &RoomName,
        lost: Occupant,
        first: Duration,
        reason: ByeReason,
    ) {
        let (signaling, session, room) = (Arc::clone(self), Arc::downgrade(session), room.clone());
        self.lifecycle.spawn(async move {
            let mut pause = first;
            // Past this nothing is kept, whatever the registry is able to say.
            let patience = tokio::time::Instant::now() + signaling.grace * 2 + ASK_AGAIN;
            loop {
                tokio::time::sleep(pause).await;
                let Some(session) = session.upgrade() else { return };
                let linked = |seat: &Seat| seat.room == room && seat.other() == Some(lost);
                if !session.seats().iter().any(linked) {
                    return;
                }
                pause = match signaling.registry.expire(&room, lost).await {
                    Ok(Expiry::Taken) => return,
                    Ok(Expiry::Kept(longer)) => {
                        let away = Away { grace: longer, node_goes: false };
                        signaling.peer_away(&session, &room, lost, away);
                        longer
                    }
                    Err(_) if tokio::time::Instant::now() < patience => ASK_AGAIN,
                    Ok(Expiry::Free) | Err(_) => return signaling.departed(&session, &room, lost, reason),
                };
            }
        });
    }

    /// `session` took the seat of `before` back.
    #[expect(clippy::too_many_arguments, reason = "what a join's answer says")]
    pub(super) fn resumed(
        self: &Arc<Self>,
        session: &Arc<Session>,
        room: &RoomName,
        role: Role,
        before: Occupant,
        (other, away): (Option<Occupant>, bool),
        (order, mail): (u64, Vec<Mail>),
        heard: Option<Heard>,
        told: Told<'_>,
    ) {
        self.supersede(room, session.occupant(), before);
        let other_session = other.and_then(|other| self.session_of(other));
        let mut kept = None;
        let resumption;
        let mut mail = Some(mail);
        {
            let mut seats = session.seats();
            self.tell(session, reply::resumed(room, session.id()));
            let Told { ack, token, ice } = told;
            self.acknowledge(session, ack, || reply::ack_seated("resumed", room, session.id(), token, ice));
            let Some(seat) = seat_in(&mut seats, room) else { return };
            seat.token = token;
            seat.take(role, order);
            let arrival = arrival(order, mail.as_deref().unwrap_or_default(), session.counts(), token);
            resumption = Resumption { arrival, before, heard };
            if self.is_gone_early(session, room, seat, other, &mut mail) {
                return;
            }
            let Some(other) = other else { return };
            let linked = other_session.as_ref().map_or_else(|| Link::elsewhere(other), Link::here);
            let link = seat.link.insert(linked);
            if other.node == self.node {
                kept = self.beside_kept(room, other, session.occupant(), order);
                link.met = kept.is_none();
            } else if !away {
                link.met = true;
                self.tell(session, reply::room("ready", room));
            }
            if other.node != self.node && !away && resumption.is_held() {
                // What it did not hear before comes from there, and comes first.
                self.hold_mail(session, room, seat, mail.take());
            } else if !link.met || other.node != self.node {
                if link.occupant.node == self.node {
                    let missed = self.catch_up_beside_kept(room, other, session.occupant(), &resumption);
                    for parcel in missed {
                        self.sent_or_closed(session, self.send(session, parcel.packet()));
                    }
                }
                self.hand_out(session, mail.take());
            }
        }
        let Some(other) = other else { return };
        if let Some(kept) = kept {
            self.peer_away(session, room, other, kept);
        } else if away {
            self.watch(session, room, other, Duration::ZERO, ByeReason::NodeLost);
        } else if other.node != self.node {
            self.send_letter(room, session.occupant(), other, Content::Resumed(Box::new(resumption)));
        } else {
            let Some(other_session) = other_session else {
                return self.beside_lost(session, room, other, &resumption.arrival, Some(&resumption), mail);
            };
            {
                let mut seats = other_session.seats();
                let Some(seat) = seat_in(&mut seats, room) else {
                    drop(seats);
                    return self.beside_lost(session, room, other, &resumption.arrival, Some(&resumption), mail);
                };
                self.tell(session, reply::room("ready", room));
                let link = Link::here(session);
                if seat.is_overtaken(&resumption) {
                    let mail = mail.take().unwrap_or_default();
                    self.await_earlier(&other_session, room, seat, Overtaking { link, resumption, mail });
                } else {
                    self.take_resumed(&other_session, room, seat, link, &resumption, |last| {
                        if let Some(mail) = &mut mail {
                            self.hand_out_to(session, mail, last);
                        }
                    });
                }
            }
            self.hand_out(session, mail);
        }
    }

    /// Keeps what was kept for `session` until [`Signaling::let_go`].
    fn hold_mail(self: &Arc<Self>, session: &Arc<Session>, room: &RoomName, seat: &mut Seat, mail: Option<Vec<Mail>>) {
        seat.held = mail.map(Box::new);
        let (signaling, session, room) = (Arc::clone(self), Arc::downgrade(session), room.clone());
        self.lifecycle.spawn(async move {
            tokio::time::sleep(HELD).await;
            if let Some(session) = session.upgrade()
                && let Some(seat) = seat_in(&mut session.seats(), &room)
            {
                signaling.let_go(&session, seat, Serial::LAST);
            }
        });
    }

    /// What came before that which was kept for `session`, up to this, is there, or does not come.
    pub(super) fn let_go(self: &Arc<Self>, session: &Arc<Session>, seat: &mut Seat, last: Serial) {
        if let Some(held) = &mut seat.held {
            self.hand_out_to(session, held, last);
        }
        seat.held.take_if(|held| held.is_empty());
    }

    /// The same for a peer that took its seat back by way of another node; tells whether `session` has a seat there.
    pub(super) fn resumed_elsewhere(
        self: &Arc<Self>,
        session: &Arc<Session>,
        room: &RoomName,
        by: Occupant,
        resumption: &Resumption,
    ) -> bool {
        let mut seats = session.seats();
        let Some(seat) = seat_in(&mut seats, room) else { return false };
        let link = Link::elsewhere(by);
        if seat.is_overtaken(resumption) {
            let overtaking = Overtaking { link, resumption: resumption.clone(), mail: Vec::new() };
            self.await_earlier(session, room, seat, overtaking);
            return true;
        }
        self.take_resumed(session, room, seat, link, resumption, |last| {
            if resumption.is_held() {
                self.post_after_delivery(room, session.occupant(), by, Content::HandOut(last));
            }
        });
        true
    }

    /// The seat beside was taken back, and of the connection by which its client heard what it tells nothing is known here yet: what
    /// is sent there waits for those news. `session` is told at once: it may be talked to.
    fn await_earlier(
        self: &Arc<Self>,
        session: &Arc<Session>,
        room: &RoomName,
        seat: &mut Seat,
        mut overtaking: Overtaking,
    ) {
        self.tell_resumed(session, room, seat, &overtaking.link, &overtaking.resumption);
        overtaking.link.met = true;
        let order = overtaking.resumption.arrival.order;
        seat.await_earlier(overtaking);
        let (signaling, session, room) = (Arc::clone(self), Arc::downgrade(session), room.clone());
        self.lifecycle.spawn(async move {
            tokio::time::sleep(OVERDUE).await;
            if let Some(session) = session.upgrade()
                && let Some(seat) = seat_in(&mut session.seats(), &room)
            {
                signaling.take_due(&session, &room, seat, &|_, one| one.resumption.arrival.order == order);
            }
        });
    }

    /// Takes the news that waited for others and are `due`.
    pub(super) fn take_due(
        self: &Arc<Self>,
        session: &Arc<Session>,
        room: &RoomName,
        seat: &mut Seat,
        due: &dyn Fn(&Seat, &Overtaking) -> bool,
    ) {
        while let Some(Overtaking { link, resumption, mut mail }) = seat.next_due(due) {
            let (by, here) = (link.occupant, link.session.upgrade());
            self.take_resumed(session, room, seat, link, &resumption, |last| {
                if let Some(here) = &here {
                    self.hand_out_to(here, &mut mail, last);
                } else if by.node != self.node && resumption.is_held() {
                    self.post_after_delivery(room, session.occupant(), by, Content::HandOut(last));
                }
            });
        }
    }

    /// The same where the peer beside is lost, and its seat kept here: what it said and was not heard is sent, and what it was told
    /// is told.
    pub(super) fn resumed_beside_kept(
        self: &Arc<Self>,
        room: &RoomName,
        lost: Occupant,
        by: Occupant,
        resumption: &Resumption,
    ) {
        for parcel in self.catch_up_beside_kept(room, lost, by, resumption) {
            let lost_on_the_way = self.metrics.kept_lost.clone();
            let receipt = move |delivery| {
                if delivery != Delivery::Delivered {
                    lost_on_the_way.inc();
                }
            };
            self.post_event(room, lost, by, &parcel, Haste::AfterDelivery, None, Box::new(receipt));
        }
        if resumption.is_held() {
            self.post_after_delivery(room, lost, by, Content::HandOut(Serial::LAST));
        }
    }

    fn take_resumed(
        self: &Arc<Self>,
        session: &Arc<Session>,
        room: &RoomName,
        seat: &mut Seat,
        mut link: Link,
        resumption: &Resumption,
        mut hand_out: impl FnMut(Serial),
    ) {
        let Resumption { arrival, heard, .. } = resumption;
        // Whom it is linked to may be an earlier one still, when two took the seat back one after the other; or somebody else, who
        // had the seat before: the news of his end, and of who came then, are late.
        let is_old = |link: &Link| link.is_of_seat(resumption) != Some(false);
        let old = seat.link.clone().filter(|_| seat.role.is_some() && arrival.order > seat.latest).filter(is_old);
        let Some(old) = old else {
            hand_out(Serial::LAST);
            return self.take_arrived(session, room, seat, link, arrival);
        };
        seat.latest = arrival.order;
        if !link.met {
            self.tell_resumed(session, room, seat, &link, resumption);
        }
        link.met = true;
        link.counts = arrival.counts.then_some(0);
        link.key = arrival.key;
        if old.is_of_seat(resumption) == Some(true) {
            link.key = link.key.or(old.key);
        } else {
            // What was said to one is not for another.
            seat.give_up_outbox();
        }
        seat.link = Some(link);
        let missed = self.missed(seat, &old, resumption);
        self.empty_outbox(session, room, seat, arrival, missed, hand_out);
        if old.occupant.node != self.node {
            // Its node may be gone, and what is on its way there would wait until all patience ends. Where the peer has told what it
            // heard, nothing more is to be learnt there.
            let signaling = Arc::clone(self);
            let patience = if heard.is_some() { Duration::ZERO } else { OVERDUE };
            self.lifecycle.spawn(async move {
                tokio::time::sleep(patience).await;
                if let Some(post) = &signaling.post {
                    post.give_up(old.occupant);
                }
            });
        }
        self.take_due(session, room, seat, &|seat, one| !seat.is_overtaken(&one.resumption));
    }

    /// Tells `session`, whose seat is held, that the other is back by that link, unless it was told of a later one.
    fn tell_resumed(
        self: &Arc<Self>,
        session: &Arc<Session>,
        room: &RoomName,
        seat: &mut Seat,
        link: &Link,
        resumption: &Resumption,
    ) {
        let order = resumption.arrival.order;
        if seat.overtaking().any(|one| one.resumption.arrival.order > order) {
            return;
        }
        // What was kept for it was said before.
        self.let_go(session, seat, Serial::LAST);
        self.tell(session, reply::peer_resumed(room, link.occupant.peer, resumption.before.peer));
        if let Some(old) = &mut seat.link
            && !std::mem::replace(&mut old.met, true)
        {
            self.tell(session, reply::room("ready", room));
        }
        seat.peers += 1;
        self.tell_that_it_counts(session, room, seat, link);
    }

    /// `before` has its seat no more: `by` has.
    fn supersede(self: &Arc<Self>, room: &RoomName, by: Occupant, before: Occupant) {
        if before.node == self.node {
            self.be_superseded(room, before);
        } else {
            self.send_letter(room, by, before, Content::Superseded);
        }
    }

    /// An occupant of this node has its seat no more.
    pub(super) fn be_superseded(self: &Arc<Self>, room: &RoomName, before: Occupant) {
        self.registry.forget(room, before);
        if self.take_kept(room, before).is_none()
            && let Some(session) = self.session_of(before)
        {
            self.take(&session, Item::Superseded(room.clone()));
        }
    }

    /// Another connection has the seat of `session` in `room`: it is closed, and can do nothing more there.
    pub(super) fn superseded(self: &Arc<Self>, session: &Arc<Session>, room: &RoomName) {
        {
            let mut seats = session.seats();
            if let Some(seat) = seat_in(&mut seats, room) {
                self.take_due(session, room, seat, &|_, _| true);
            }
            seats.retain(|seat| seat.room != *room);
        }
        let refusal = Refusal::new(Code::Superseded, "another connection took this seat back; this one is closed");
        self.close_with(session, Request::Join, &refusal, ByeReason::Disconnected);
    }

    /// From now on `session` waits for a seat in `room`.
    ///
    /// # Errors
    /// `too_many_rooms` when it waits for as many as it may.
    pub(super) fn wait(self: &Arc<Self>, session: &Arc<Session>, room: &RoomName) -> Result<(), Refusal> {
        {
            let mut waits = session.waits();
            if waits.contains(room) {
                return Ok(());
            }
            if waits.len() >= self.limiter.rules().rooms_per_socket {
                return Err(Refusal::new(Code::TooManyRooms, "this socket waits for as many rooms as it may"));
            }
            waits.push(room.clone());
        }
        let (signaling, waiter, room) = (Arc::clone(self), Arc::downgrade(session), room.clone());
        self.lifecycle.spawn(async move {
            loop {
                tokio::time::sleep(KNOCK).await;
                let Some(session) = waiter.upgrade().filter(|session| session.is_open()) else { return };
                if !session.waits().contains(&room) || signaling.lifecycle.is_draining() {
                    return;
                }
                signaling.take(&session, Item::Knock(room.clone()));
            }
        });
        Ok(())
    }
}
