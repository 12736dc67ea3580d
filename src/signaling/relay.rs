//! From one peer to the other: `message`, `ready`, `offer`, `answer`, `candidate`.
//!
//! What a session may reach is what its own seats are linked to; a room that the sender names only chooses among them.
//! Everything here happens within the call: a relay never waits, so relays of one socket keep their order.
//!
//! A receiver that falls behind makes its sender wait, as long as it goes on taking something. One that takes nothing
//! fills its queue to the bound and is closed.

use std::{sync::Arc, time::Instant};

use socketioxide_core::{Str, Value, packet::Packet};

use super::{
    Attachments, Signaling, Undelivered,
    inbox::Event,
    reply,
    session::{Seat, Session, seat_in},
};
use crate::{
    id::RoomName,
    metrics::{Metrics, RelayResult},
    protocol::{self, Arguments, Code, Refusal, Request},
};

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
        let arrived = Instant::now();
        if arguments.text().is_empty() {
            return Err(Refusal::new(Code::BadPayload, "a message needs at least one argument"));
        }
        protocol::check_depth(&event.text, self.limits.depth)?;
        if let Some(attachments) = &event.attachments {
            protocol::check_placeholders(&event.text, attachments.len())?;
        }
        self.log(session, || {
            reply::log_said(if event.attachments.is_some() { r#""(binary)""# } else { arguments.text() })
        });
        let parcel = Parcel { array: event.text.clone(), attachments: event.attachments.clone() };
        self.relay(session, None, &parcel, arrived)?;
        self.acknowledge(session, event.ack, || reply::ACK_OK.into());
        Ok(())
    }

    /// `ready` (room).
    pub(super) fn ready(
        self: &Arc<Self>,
        session: &Arc<Session>,
        arguments: Arguments<'_>,
        ack: Option<i64>,
    ) -> Result<(), Refusal> {
        let arrived = Instant::now();
        let room = arguments.room()?;
        self.relay(session, Some(&room), &Parcel::text(reply::room("ready", &room)), arrived)?;
        self.acknowledge(session, ack, || reply::ACK_OK.into());
        Ok(())
    }

    /// `offer` and `answer`: the value of `sdp`.
    pub(super) fn description(
        self: &Arc<Self>,
        session: &Arc<Session>,
        request: Request,
        arguments: Arguments<'_>,
        ack: Option<i64>,
    ) -> Result<(), Refusal> {
        let arrived = Instant::now();
        let description = arguments.description()?;
        protocol::check_depth(description.sdp, self.limits.depth)?;
        let parcel = Parcel::text(reply::event(request.name(), description.sdp));
        self.relay(session, Some(&description.room), &parcel, arrived)?;
        self.acknowledge(session, ack, || reply::ACK_OK.into());
        Ok(())
    }

    /// `candidate`: the object as it came.
    pub(super) fn candidate(
        self: &Arc<Self>,
        session: &Arc<Session>,
        arguments: Arguments<'_>,
        ack: Option<i64>,
    ) -> Result<(), Refusal> {
        let arrived = Instant::now();
        let room = arguments.candidate_room()?;
        protocol::check_depth(arguments.text(), self.limits.depth)?;
        let parcel = Parcel::text(reply::event(Request::Candidate.name(), arguments.text()));
        self.relay(session, Some(&room), &parcel, arrived)?;
        self.acknowledge(session, ack, || reply::ACK_OK.into());
        Ok(())
    }

    /// Hands `parcel` to the other peer of `room`, or of each room when none is named.
    fn relay(
        self: &Arc<Self>,
        session: &Arc<Session>,
        room: Option<&RoomName>,
        parcel: &Parcel,
        arrived: Instant,
    ) -> Result<(), Refusal> {
        let mut slow = None;
        let result = {
            let mut seats = session.seats();
            let links = match room {
                Some(room) => match seat_in(&mut seats, room) {
                    Some(seat) => std::slice::from_ref(seat),
                    None => return Err(Refusal::new(Code::NotInRoom, "this socket is not in that room")),
                },
                None if seats.is_empty() => return Err(Refusal::new(Code::NotInRoom, "this socket is in no room")),
                None => &seats[..],
            };
            let mut outcome = RelayResult::NoPeer;
            for link in links.iter().filter_map(|seat: &Seat| seat.link.as_ref()) {
                let Some(other) = link.session.upgrade() else { continue };
                match self.send(&other, parcel.packet()) {
                    Ok(()) => {
                        if outcome == RelayResult::NoPeer {
                            outcome = RelayResult::Delivered;
                        }
                        self.pace(session, &other);
                    }
                    Err(Undelivered::Gone) => {}
                    Err(Undelivered::TooSlow) => {
                        outcome = RelayResult::PeerTooSlow;
                        slow = Some(other);
                    }
                }
            }
            outcome
        };
        if let Some(slow) = slow {
            self.evict(&slow);
        }
        self.metrics.local_relays.inc(result);
        match result {
            RelayResult::Delivered => {
                Metrics::observe(&self.metrics.local_relay_seconds, arrived.elapsed());
                Ok(())
            }
            RelayResult::NoPeer => Err(Refusal::new(Code::NoPeer, "nobody else is in the room")),
            RelayResult::PeerTooSlow => {
                Err(Refusal::new(Code::PeerTooSlow, "the other peer takes its messages too slowly and is being closed"))
            }
        }
    }

    /// Makes `sender` wait while `receiver` is behind, as long as that helps.
    fn pace(self: &Arc<Self>, sender: &Arc<Session>, receiver: &Arc<Session>) {
        let behind = self.limits.outbound_bytes as u64 / 2;
        if receiver.flow().waiting() <= behind || receiver.flow().is_stalled() || sender.flow().is_paused() {
            return;
        }
        let (from, to) = (Arc::clone(sender.flow()), Arc::clone(receiver.flow()));
        let pause = from.pause();
        self.metrics.pauses.inc();
        // A page may well be busy for seconds; waiting costs nothing. But the sender's own heartbeats wait with it, so it
        // is let through in time for them.
        let (patience, longest) = (self.timeouts.ping_timeout / 2, self.timeouts.ping_timeout * 3 / 4);
        self.lifecycle.spawn(async move {
            let caught_up = async {
                while to.waiting() > behind / 2 && !to.is_closed() {
                    if tokio::time::timeout(patience, to.taken_more_than(to.taken())).await.is_err() {
                        to.set_stalled();
                        return;
                    }
                }
            };
            let _ = tokio::time::timeout(longest, caught_up).await;
            drop(pause);
        });
    }
}
