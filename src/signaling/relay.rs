//! From one peer to the other: `message`, `ready`, `offer`, `answer`, `candidate`.
//!
//! What a session may reach is what its own seats are linked to; a room that the sender names only chooses among them.
//! Everything here happens within the call: a relay never waits, so relays of one socket keep their order. To a peer on
//! another node a message is posted as a letter, and answered when its receipt comes.
//!
//! A receiver that falls behind makes its sender wait, as long as it goes on taking something. One that takes nothing
//! fills its queue to the bound and is closed.

use std::{
    sync::{Arc, Mutex, Weak},
    time::{Duration, Instant},
};

use smallvec::SmallVec;
use socketioxide_core::{Str, packet::Packet};

use super::{
    Attachments, Signaling,
    inbox::Event,
    lock,
    recent::Fate,
    reply,
    session::{Link, Session, seat_in},
};
use crate::{
    adapter::Undelivered,
    exchange::{Content, Delivery, Haste, Letter, Receipt},
    id::RoomName,
    metrics::{Metrics, RelayResult},
    protocol::{self, Arguments, Code, Refusal, Request},
    rooms::{Occupant, Serial},
    telemetry::trace::{Kind, Span, TraceContext},
    transport::flow::Flow,
};

/// Packets that wait for a peer whose own join is not answered yet.
const EARLY_PACKETS: usize = 256;

/// What is answered when a relay is done.
#[derive(Debug, Clone, Copy)]
struct Asked {
    request: Request,
    ack: Option<i64>,
    arrived: Instant,
    span: Option<Span>,
}

/// How far a relay went.
#[derive(Debug, Clone, Copy)]
enum Scope {
    Local,
    Remote,
}

impl Scope {
    const fn name(self) -> &'static str {
        match self {
            Self::Local => "local",
            Self::Remote => "remote",
        }
    }
}

/// What is handed on: a whole packet's array and its attachments.
#[derive(Debug, Clone)]
pub(super) struct Parcel {
    pub array: Str,
    pub attachments: Option<Attachments>,
}

impl Parcel {
    fn text(array: String) -> Self {
        Self { array: Str::from(array), attachments: None }
    }
}

/// A relay that is not done when its call returns: how many parts of it are not, and the worst so far.
#[derive(Debug)]
struct Unfinished {
    signaling: Arc<Signaling>,
    session: Weak<Session>,
    asked: Asked,
    parts: Mutex<(usize, RelayResult)>,
}

/// One part of it.
#[derive(Debug)]
pub(super) struct Part(Arc<Unfinished>);

impl Part {
    /// This is what became of it. The last one answers.
    pub fn done(self, result: RelayResult) {
        let Unfinished { signaling, session, asked, parts } = &*self.0;
        let outcome = {
            let mut parts = lock(parts);
            parts.0 -= 1;
            parts.1 = worse(parts.1, result);
            if parts.0 > 0 {
                return;
            }
            parts.1
        };
        let Some(session) = session.upgrade() else { return };
        if let Err(refusal) = signaling.conclude(&session, *asked, outcome, Scope::Remote) {
            signaling.refuse(&session, Some(asked.request), asked.request.name(), asked.ack, &refusal);
        }
    }
}

/// Where a relay goes in one room.
struct Way {
    room: RoomName,
    serial: Serial,
    /// The other peer; none: it has not come yet.
    link: Option<Link>,
    /// It is remembered until the other peer is known to have heard it.
    is_remembered: bool,
}

impl Way {
    /// Whether the other peer is there, as far as is known.
    fn peer(&self) -> Option<&Link> {
        self.link.as_ref().filter(|link| !link.away)
    }

    fn to(&self) -> Option<Occupant> {
        self.link.as_ref().map(|link| link.occupant)
    }
}

impl Signaling {
    /// `message`: anything, to the other peer of each room of the sender (of its one room, that is, for most).
    pub(super) fn message(
        self: &Arc<Self>,
        session: &Arc<Session>,
        event: &Event,
        arguments: Arguments<'_>,
    ) -> Result<(), Refusal> {
        let asked = self.asked(Request::Message, event.ack);
        if arguments.text().is_empty() {
            return Err(Refusal::new(Code::BadPayload, "a message needs at least one argument"));
        }
        protocol::check_depth(&event.text, self.limits.load().depth)?;
        if let Some(attachments) = &event.attachments {
            protocol::check_placeholders(&event.text, attachments.len())?;
        }
        self.log(session, || {
            reply::log_said(if event.attachments.is_some() { r#""(binary)""# } else { arguments.text() })
        });
        let parcel = Parcel { array: event.text.clone(), attachments: event.attachments.clone() };
        self.relay(session, asked, None, &parcel)
    }

    /// `ready` (room).
    pub(super) fn ready(
        self: &Arc<Self>,
        session: &Arc<Session>,
        arguments: Arguments<'_>,
        ack: Option<i64>,
    ) -> Result<(), Refusal> {
        let asked = self.asked(Request::Ready, ack);
        let room = arguments.room()?;
        let parcel = Parcel::text(reply::room("ready", &room));
        self.relay(session, asked, Some(&room), &parcel)
    }

    /// `offer` and `answer`: the value of `sdp`.
    pub(super) fn description(
        self: &Arc<Self>,
        session: &Arc<Session>,
        request: Request,
        arguments: Arguments<'_>,
        ack: Option<i64>,
    ) -> Result<(), Refusal> {
        let asked = self.asked(request, ack);
        let description = arguments.description()?;
        protocol::check_depth(description.sdp, self.limits.load().depth)?;
        let parcel = Parcel::text(reply::event(request.name(), description.sdp));
        self.relay(session, asked, Some(&description.room), &parcel)
    }

    /// `candidate`: the object as it came.
    pub(super) fn candidate(
        self: &Arc<Self>,
        session: &Arc<Session>,
        arguments: Arguments<'_>,
        ack: Option<i64>,
    ) -> Result<(), Refusal> {
        let asked = self.asked(Request::Candidate, ack);
        let room = arguments.candidate_room()?;
        protocol::check_depth(arguments.text(), self.limits.load().depth)?;
        let parcel = Parcel::text(reply::event(Request::Candidate.name(), arguments.text()));
        self.relay(session, asked, Some(&room), &parcel)
    }

    /// A relay begins.
    fn asked(&self, request: Request, ack: Option<i64>) -> Asked {
        let arrived = Instant::now();
        Asked { request, ack, arrived, span: self.tracer.begin(arrived) }
    }

    /// Hands `parcel` to the other peer of `room`, or of each room when none is named, and answers when that is done.
    fn relay(
        self: &Arc<Self>,
        session: &Arc<Session>,
        asked: Asked,
        room: Option<&RoomName>,
        parcel: &Parcel,
    ) -> Result<(), Refusal> {
        let mut unfinished = None;
        let part = |unfinished: &mut Option<Part>| {
            let unfinished = unfinished.get_or_insert_with(|| self.unfinished(session, asked));
            lock(&unfinished.0.parts).0 += 1;
            Part(Arc::clone(&unfinished.0))
        };
        let mut outcome = RelayResult::NoPeer;
        let mut kept: SmallVec<[Way; 1]> = SmallVec::new();
        let mut ways: SmallVec<[Way; 1]> = SmallVec::new();
        {
            let mut seats = session.seats();
            let seats = match room {
                Some(room) => match seat_in(&mut seats, room) {
                    Some(seat) => std::slice::from_mut(seat),
                    None => return Err(Refusal::new(Code::NotInRoom, "this socket is not in that room")),
                },
                None if seats.is_empty() => return Err(Refusal::new(Code::NotInRoom, "this socket is in no room")),
                None => &mut seats[..],
            };
            // What begins a call may come before the one that is called.
            let begins = matches!(asked.request, Request::Offer | Request::Candidate);
            for seat in seats {
                seat.said.said += 1;
                let is_remembered = session.counts() || seat.link.as_ref().is_some_and(|link| link.counts.is_some());
                let way = Way { room: seat.room.clone(), serial: seat.said, link: seat.link.clone(), is_remembered };
                if way.peer().is_some() {
                    // Before it is handed on: what its peer tells of it may come at once.
                    self.remember(session, seat, way.serial, parcel, false);
                    ways.push(way);
                } else if way.link.is_some() || begins && seat.role.is_some() {
                    // Under the lock, so that nothing overtakes it when that peer is back.
                    match self.set_aside(seat, way.serial, way.to(), parcel, Some(part(&mut unfinished))) {
                        Ok(()) => kept.push(way),
                        Err((result, part)) => part.into_iter().for_each(|part| part.done(result)),
                    }
                }
            }
        }
        for way in kept {
            self.keep_outbox(session, &way.room);
        }
        for way in ways {
            let Some(link) = way.peer() else { continue };
            if link.occupant.node != self.node {
                self.relay_elsewhere(session, asked, &way, link.occupant, parcel, part(&mut unfinished));
                continue;
            }
            let other = link.session.upgrade();
            let handed = other.as_ref().map_or(Err(Undelivered::Gone), |other| {
                self.hand_over(other, &way.room, session.occupant(), parcel.packet())
            });
            match (handed, other) {
                (Ok(()), Some(other)) => {
                    self.pace(session, &other);
                    if way.is_remembered && Self::settle(session, &way.room, way.serial, true) == Fate::Missed {
                        let part = part(&mut unfinished);
                        self.hand_on_again(session, &way.room, way.serial, parcel, part);
                        continue;
                    }
                }
                (Err(Undelivered::TooSlow), Some(other)) => {
                    if way.is_remembered {
                        Self::settle(session, &way.room, way.serial, false);
                    }
                    self.evict(&other);
                }
                _ => {
                    let part = part(&mut unfinished);
                    if way.is_remembered && Self::settle(session, &way.room, way.serial, false) == Fate::Missed {
                        self.hand_on_again(session, &way.room, way.serial, parcel, part);
                        continue;
                    }
                    // It may come back.
                    self.fall_back(session, &way.room, way.serial, link.occupant, parcel, Some(part));
                    continue;
                }
            }
            outcome = worse(outcome, result_of(handed));
        }
        match unfinished {
            None => self.conclude(session, asked, outcome, Scope::Local),
            Some(here) => {
                here.done(outcome);
                Ok(())
            }
        }
    }

    /// Of a relay that is not done within its call: the part that is.
    fn unfinished(self: &Arc<Self>, session: &Arc<Session>, asked: Asked) -> Part {
        Part(Arc::new(Unfinished {
            signaling: Arc::clone(self),
            session: Arc::downgrade(session),
            asked,
            parts: Mutex::new((1, RelayResult::NoPeer)),
        }))
    }

    /// The part of a relay that goes to another node; done when its receipt is there.
    fn relay_elsewhere(
        self: &Arc<Self>,
        session: &Arc<Session>,
        asked: Asked,
        way: &Way,
        to: Occupant,
        parcel: &Parcel,
        part: Part,
    ) {
        let bytes = parcel.bytes();
        let bound = self.limits.load().outbound_bytes / 4;
        let urgent = session.sent_away(bytes, bound) || asked.ack.is_some();
        let (signaling, its_session, its_parcel) = (Arc::clone(self), Arc::clone(session), parcel.clone());
        let (room, serial, is_remembered) = (way.room.clone(), way.serial, way.is_remembered);
        let receipt: Receipt = Box::new(move |delivery| {
            its_session.received_there(bytes, bound);
            if is_remembered {
                match Self::settle(&its_session, &room, serial, delivery == Delivery::Delivered) {
                    Fate::AsTold => {}
                    Fate::Heard => return part.done(RelayResult::Delivered),
                    Fate::Missed => {
                        return signaling.hand_on_again(&its_session, &room, serial, &its_parcel, part);
                    }
                }
            }
            if delivery == Delivery::NoPeer {
                // It may come back.
                signaling.fall_back(&its_session, &room, serial, to, &its_parcel, Some(part));
            } else {
                part.done(result_of_delivery(delivery));
            }
        });
        let trace = asked.span.map(|span| span.context());
        let haste = if urgent { Haste::Yes } else { Haste::No };
        self.post_event(&way.room, session.occupant(), to, parcel, haste, trace, receipt);
    }

    /// Sends what a peer said to another node.
    #[expect(clippy::too_many_arguments, reason = "what a letter is made of")]
    pub(super) fn post_event(
        &self,
        room: &RoomName,
        from: Occupant,
        to: Occupant,
        parcel: &Parcel,
        haste: Haste,
        trace: Option<TraceContext>,
        receipt: Receipt,
    ) {
        let attachments = parcel.attachments.iter().flatten().cloned().collect();
        let content = Content::Event { array: parcel.array.clone(), attachments };
        match &self.post {
            Some(post) => post.send(&Letter { room: room.clone(), from, to, content, trace }, haste, Some(receipt)),
            None => receipt(Delivery::NoPeer),
        }
    }

    /// Counts a relay, ends its span, and acknowledges it.
    fn conclude(
        self: &Arc<Self>,
        session: &Arc<Session>,
        asked: Asked,
        outcome: RelayResult,
        scope: Scope,
    ) -> Result<(), Refusal> {
        let (relays, seconds, timed) = match scope {
            Scope::Local => (&self.metrics.local_relays, &self.metrics.local_relay_seconds, true),
            // Without anybody who waits for it, a receipt waits for company.
            Scope::Remote => (&self.metrics.remote_relays, &self.metrics.remote_relay_seconds, asked.ack.is_some()),
        };
        relays.inc(outcome);
        if let Some(span) = asked.span {
            let event = asked.request.name();
            let attributes = [("duet.event", event), ("duet.scope", scope.name()), ("duet.outcome", outcome.name())];
            self.tracer.end(span, Kind::Producer, ("relay", event), &attributes);
        }
        match outcome {
            RelayResult::Delivered => {
                if timed {
                    Metrics::observe(seconds, asked.arrived.elapsed());
                }
                self.acknowledge(session, asked.ack, || reply::ACK_OK.into());
                Ok(())
            }
            RelayResult::Kept => {
                self.acknowledge(session, asked.ack, || reply::ACK_KEPT.into());
                Ok(())
            }
            RelayResult::TooManyKept => {
                Err(Refusal::new(Code::TooManyKept, "as much as may be is kept for the other peer already"))
            }
            RelayResult::NoPeer => Err(Refusal::new(Code::NoPeer, "nobody else is in the room")),
            RelayResult::PeerTooSlow => {
                Err(Refusal::new(Code::PeerTooSlow, "the other peer takes its messages too slowly and is being closed"))
            }
            RelayResult::Unavailable => Err(Refusal::new(
                Code::Unavailable,
                "the other peer's node does not answer; the message may or may not have arrived",
            )),
        }
    }

    /// Puts a packet of `from` into the queue of `to`, if they share that room.
    ///
    /// # Errors
    /// [`Undelivered`]; then nothing was put there.
    pub(super) fn hand_over(
        &self,
        to: &Session,
        room: &RoomName,
        from: Occupant,
        packet: Packet,
    ) -> Result<(), Undelivered> {
        let mut seats = to.seats();
        let seat = seat_in(&mut seats, room).ok_or(Undelivered::Gone)?;
        if seat.hears(from) {
            return self.send(to, packet);
        }
        // Perhaps it does not know yet that it is seated itself.
        let all = seat.early.said();
        let visit = seat.early.present_mut().filter(|visit| visit.link.occupant == from).ok_or(Undelivered::Gone)?;
        if all >= EARLY_PACKETS {
            return Err(Undelivered::TooSlow);
        }
        visit.said.push(packet);
        Ok(())
    }

    /// Makes the sender on another node wait while `receiver` is behind.
    pub(super) fn pace_elsewhere(self: &Arc<Self>, from: Occupant, room: &RoomName, receiver: &Arc<Session>) {
        let behind = self.limits.load().outbound_bytes as u64 / 2;
        if receiver.flow().waiting() <= behind || receiver.flow().is_stalled() || receiver.set_holds_senders(true) {
            return;
        }
        self.metrics.pauses.inc();
        let to = receiver.occupant();
        self.send_letter(room, to, from, Content::Pace(true));
        let (signaling, receiver, room) = (Arc::clone(self), Arc::clone(receiver), room.clone());
        let patience = self.timeouts.ping_timeout / 2;
        self.lifecycle.spawn(async move {
            caught_up(receiver.flow(), behind, patience).await;
            receiver.set_holds_senders(false);
            signaling.send_letter(&room, to, from, Content::Pace(false));
        });
    }

    /// The peer of `session`, on another node, is behind, or is so no more.
    pub(super) fn paced(self: &Arc<Self>, session: &Arc<Session>, behind: bool) {
        if !behind {
            session.go_on(None);
            return;
        }
        let hold = session.hold_for_peer();
        let (session, longest) = (Arc::clone(session), self.longest_pause());
        self.lifecycle.spawn(async move {
            tokio::time::sleep(longest).await;
            session.go_on(Some(hold));
        });
    }

    /// A page may well be busy for seconds; waiting costs nothing. But the sender's own heartbeats wait with it, so it is let
    /// through in time for them.
    fn longest_pause(&self) -> Duration {
        self.timeouts.ping_timeout * 3 / 4
    }

    /// Makes `sender` wait while `receiver` is behind, as long as that helps.
    fn pace(self: &Arc<Self>, sender: &Arc<Session>, receiver: &Arc<Session>) {
        let behind = self.limits.load().outbound_bytes as u64 / 2;
        if receiver.flow().waiting() <= behind || receiver.flow().is_stalled() || sender.flow().is_paused() {
            return;
        }
        let (from, to) = (Arc::clone(sender.flow()), Arc::clone(receiver.flow()));
        let pause = from.pause();
        self.metrics.pauses.inc();
        let (patience, longest) = (self.timeouts.ping_timeout / 2, self.longest_pause());
        self.lifecycle.spawn(async move {
            let _ = tokio::time::timeout(longest, caught_up(&to, behind, patience)).await;
            drop(pause);
        });
    }
}

/// Returns when not much waits for a receiver any more, or it takes nothing for `patience`.
async fn caught_up(receiver: &Flow, behind: u64, patience: Duration) {
    while receiver.waiting() > behind / 2 && !receiver.is_closed() {
        if tokio::time::timeout(patience, receiver.taken_more_than(receiver.taken())).await.is_err() {
            receiver.set_stalled();
            return;
        }
    }
}

/// What is told of several: that one did not get it weighs more than that another did.
fn worse(one: RelayResult, other: RelayResult) -> RelayResult {
    let weight = |result| match result {
        RelayResult::NoPeer => 0,
        RelayResult::Delivered => 1,
        RelayResult::Kept => 2,
        RelayResult::TooManyKept => 3,
        RelayResult::Unavailable => 4,
        RelayResult::PeerTooSlow => 5,
    };
    if weight(other) > weight(one) { other } else { one }
}

fn result_of(handed: Result<(), Undelivered>) -> RelayResult {
    match handed {
        Ok(()) => RelayResult::Delivered,
        Err(Undelivered::Gone) => RelayResult::NoPeer,
        Err(Undelivered::TooSlow) => RelayResult::PeerTooSlow,
    }
}

/// What a letter says, by the closed list of events.
pub(super) fn event_of(content: &Content) -> &'static str {
    let name = match content {
        Content::Event { array, .. } => protocol::split(array).map(|(name, _)| name),
        Content::Arrived(..)
        | Content::Departed(_)
        | Content::Pace(_)
        | Content::Resumed(..)
        | Content::Superseded
        | Content::Counts(..)
        | Content::HandOut(_)
        | Content::Away(_) => None,
    };
    name.and_then(Request::named).map_or("unknown", Request::name)
}

pub(super) fn result_of_delivery(delivery: Delivery) -> RelayResult {
    match delivery {
        Delivery::Delivered => RelayResult::Delivered,
        Delivery::NoPeer => RelayResult::NoPeer,
        Delivery::TooSlow => RelayResult::PeerTooSlow,
        Delivery::Unavailable => RelayResult::Unavailable,
    }
}
