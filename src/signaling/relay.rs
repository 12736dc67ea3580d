//! From one peer to the other: `message`, `ready`, `offer`, `answer`, `candidate`.
//!
//! What a session may reach is what its own seats are linked to; a room that the sender names only chooses among them.
//! Everything here happens within the call: a relay never waits, so relays of one socket keep their order. To a peer on
//! another node a message is posted as a letter, and answered when its receipt comes.
//!
//! A receiver that falls behind makes its sender wait, as long as it goes on taking something. One that takes nothing
//! fills its queue to the bound and is closed.

use std::{
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use bytes::Bytes;
use smallvec::SmallVec;
use socketioxide_core::{Str, Value, packet::Packet};

use super::{
    Attachments, Signaling,
    inbox::Event,
    lock, reply,
    session::{Early, Link, Session, seat_in},
};
use crate::{
    adapter::Undelivered,
    exchange::{Content, Delivery, Letter, Receipt},
    id::RoomName,
    metrics::{Metrics, RelayResult},
    protocol::{self, Arguments, Code, Refusal, Request},
    rooms::Occupant,
    telemetry::trace::{Kind, Span},
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
struct Parcel {
    array: Str,
    attachments: Option<Attachments>,
}

impl Parcel {
    fn text(array: String) -> Self {
        Self { array: Str::from(array), attachments: None }
    }

    fn packet(&self) -> Packet {
        Packet::event("/", Value::Str(self.array.clone(), self.attachments.clone()))
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
        let links: SmallVec<[(RoomName, Link); 1]> = {
            let mut seats = session.seats();
            let seats = match room {
                Some(room) => match seat_in(&mut seats, room) {
                    Some(seat) => std::slice::from_ref(seat),
                    None => return Err(Refusal::new(Code::NotInRoom, "this socket is not in that room")),
                },
                None if seats.is_empty() => return Err(Refusal::new(Code::NotInRoom, "this socket is in no room")),
                None => &seats[..],
            };
            let present =
                seats.iter().filter_map(|seat| Some((&seat.room, seat.link.as_ref().filter(|link| !link.away)?)));
            present.map(|(room, link)| (room.clone(), link.clone())).collect()
        };
        let mut outcome = RelayResult::NoPeer;
        let mut remote: SmallVec<[(RoomName, Occupant); 1]> = SmallVec::new();
        for (room, link) in links {
            if link.occupant.node != self.node {
                remote.push((room, link.occupant));
                continue;
            }
            let Some(other) = link.session.upgrade() else { continue };
            let handed = self.hand_over(&other, &room, session.occupant(), parcel.packet());
            outcome = worse(outcome, result_of(handed));
            match handed {
                Ok(()) => self.pace(session, &other),
                Err(Undelivered::Gone) => {}
                Err(Undelivered::TooSlow) => self.evict(&other),
            }
        }
        if remote.is_empty() {
            return self.conclude(session, asked, outcome, Scope::Local);
        }
        self.relay_elsewhere(session, asked, outcome, remote, parcel);
        Ok(())
    }

    /// The part of a relay that goes to other nodes; answers when all receipts are there.
    fn relay_elsewhere(
        self: &Arc<Self>,
        session: &Arc<Session>,
        asked: Asked,
        outcome: RelayResult,
        remote: SmallVec<[(RoomName, Occupant); 1]>,
        parcel: &Parcel,
    ) {
        let array = parcel.array.clone();
        let attachments: Vec<Bytes> = parcel.attachments.iter().flatten().cloned().collect();
        let bytes = array.len() + attachments.iter().map(Bytes::len).sum::<usize>();
        let bound = self.limits.load().outbound_bytes / 4;
        let tally = Arc::new(Mutex::new((remote.len(), outcome)));
        for (room, to) in remote {
            let urgent = session.sent_away(bytes, bound) || asked.ack.is_some();
            let (signaling, session, tally) = (Arc::clone(self), Arc::clone(session), Arc::clone(&tally));
            let from = session.occupant();
            let receipt: Receipt = Box::new(move |delivery| {
                session.received_there(bytes, bound);
                let outcome = {
                    let mut tally = lock(&tally);
                    tally.0 -= 1;
                    tally.1 = worse(tally.1, result_of_delivery(delivery));
                    if tally.0 > 0 {
                        return;
                    }
                    tally.1
                };
                if let Err(refusal) = signaling.conclude(&session, asked, outcome, Scope::Remote) {
                    signaling.refuse(&session, Some(asked.request), asked.request.name(), asked.ack, &refusal);
                }
            });
            let content = Content::Event { array: array.clone(), attachments: attachments.clone() };
            let trace = asked.span.map(|span| span.context());
            match &self.post {
                Some(post) => post.send(&Letter { room, from, to, content, trace }, urgent, Some(receipt)),
                None => receipt(Delivery::NoPeer),
            }
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
        if seat.link.as_ref().is_some_and(|link| link.occupant == from) {
            return self.send(to, packet);
        }
        match &mut seat.early {
            // It does not know yet that it is seated itself.
            Early::Arrived(link, said) if link.occupant == from => {
                if said.len() >= EARLY_PACKETS {
                    return Err(Undelivered::TooSlow);
                }
                said.push(packet);
                Ok(())
            }
            _ => Err(Undelivered::Gone),
        }
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
        RelayResult::Unavailable => 2,
        RelayResult::PeerTooSlow => 3,
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
        Content::Arrived(_)
        | Content::Departed(_)
        | Content::Pace(_)
        | Content::Resumed(..)
        | Content::Superseded
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
