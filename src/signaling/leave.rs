//! `bye`, and the end of a socket: seats given up, and the peer that stays told why.

use std::sync::Arc;

use super::{
    Signaling,
    inbox::Parting,
    lock, reply,
    session::{Session, seat_in},
};
use crate::{
    exchange::{Away, Content},
    id::RoomName,
    protocol::{ByeReason, Code, Refusal, Request},
    rooms::{LeaveOutcome, Occupant},
};

impl Signaling {
    /// `bye`: out of one room, or of all.
    pub(super) async fn bye(self: Arc<Self>, session: Arc<Session>, room: Option<RoomName>, ack: Option<i64>) {
        let rooms = rooms_of(&session);
        let left = match room {
            None => {
                session.waits().clear();
                self.leave_all(&session, rooms, Parting::for_good(ByeReason::Left)).await
            }
            Some(room) if rooms.contains(&room) => {
                self.leave(&session, &room, Parting::for_good(ByeReason::Left)).await
            }
            Some(room) if session.waits().contains(&room) => {
                session.waits().retain(|waited| *waited != room);
                Ok(())
            }
            Some(_) => Err(Refusal::new(Code::NotInRoom, "this socket is not in that room")),
        };
        match left {
            Ok(()) => self.acknowledge(&session, ack, || reply::ACK_OK.into()),
            Err(refusal) => self.refuse(&session, Some(Request::Bye), Request::Bye.name(), ack, &refusal),
        }
    }

    /// The socket's end: nothing of it stays.
    pub(super) async fn gone(self: Arc<Self>, session: Arc<Session>, parting: Parting) {
        session.start_closing();
        session.waits().clear();
        if let Some(presence) = session.take_presence() {
            self.metrics.sockets_closed.inc(parting.reason);
            drop(presence);
        }
        if let Err(refusal) = self.leave_all(&session, rooms_of(&session), parting).await {
            tracing::warn!(code = refusal.code.name(), "seats of a closed socket could not be given up");
        }
        let mut seated = lock(&self.seated);
        if seated.get(&session.id()).is_some_and(|found| std::ptr::eq(found.as_ptr(), Arc::as_ptr(&session))) {
            seated.remove(&session.id());
        }
    }

    async fn leave_all(
        self: &Arc<Self>,
        session: &Arc<Session>,
        rooms: Vec<RoomName>,
        parting: Parting,
    ) -> Result<(), Refusal> {
        let mut all = Ok(());
        for room in rooms {
            all = all.and(self.leave(session, &room, parting).await);
        }
        all
    }

    pub(super) async fn leave(
        self: &Arc<Self>,
        session: &Arc<Session>,
        room: &RoomName,
        parting: Parting,
    ) -> Result<(), Refusal> {
        let reason = parting.reason;
        // From here on nothing of this room reaches the session, whatever the registry says.
        let (link, recent, latest, can_come_back) = {
            let mut seats = session.seats();
            if let Some(seat) = seat_in(&mut seats, room) {
                self.take_due(session, room, seat, &|_, _| true);
            }
            let mut seat = seats.iter().position(|seat| seat.room == *room).map(|at| seats.swap_remove(at));
            let recent = seat.as_mut().and_then(|seat| seat.recent.take());
            if let Some(seat) = &mut seat {
                seat.give_up_outbox();
            }
            let can_come_back = seat.as_ref().is_some_and(|seat| seat.role.is_some() && seat.token.is_some());
            let latest = seat.as_ref().map_or(0, |seat| seat.latest);
            (seat.and_then(|seat| seat.link), recent, latest, can_come_back)
        };
        let linked = link.as_ref().map(|link| link.occupant);
        let occupant = session.occupant();
        if can_come_back && !parting.for_good {
            match reason {
                // Its seat outlives this node, or what this node knows.
                ByeReason::NodeShutdown | ByeReason::NodeLost if self.post.is_some() => {
                    self.registry.forget(room, occupant);
                    if let Some(other) = linked {
                        self.tell_away(room, occupant, other, Away { grace: self.grace, node_goes: true });
                    }
                    return Ok(());
                }
                ByeReason::NodeShutdown | ByeReason::NodeLost => {}
                _ => {
                    self.keep_seat(room, occupant, link, recent, latest, reason);
                    return Ok(());
                }
            }
        }
        let left = self.registry.leave(room, occupant).await;
        let other = match left {
            Ok(LeaveOutcome::Left(other)) => {
                self.metrics.leaves.inc(reason);
                other
            }
            Ok(LeaveOutcome::Deferred) => {
                self.metrics.leaves.inc(reason);
                None
            }
            Ok(LeaveOutcome::NotSeated) | Err(_) => None,
        };
        // The one that it talked to hears of it even when the registry cannot be asked.
        for other in [other, linked.filter(|linked| other != Some(*linked))].into_iter().flatten() {
            self.tell_departed(room, occupant, other, reason);
        }
        match left {
            Ok(_) => Ok(()),
            Err(error) => {
                tracing::debug!(%error, "leave");
                Err(Refusal::new(Code::Unavailable, "rooms cannot be told for sure at the moment; try again"))
            }
        }
    }

    /// Tells `other`, wherever it is, that `gone` left `room`.
    pub(super) fn tell_departed(self: &Arc<Self>, room: &RoomName, gone: Occupant, other: Occupant, reason: ByeReason) {
        if other.node == self.node {
            if let Some(session) = self.session_of(other) {
                self.departed(&session, room, gone, reason);
            } else {
                self.departed_from_kept(room, other, gone);
            }
        } else {
            self.send_letter(room, gone, other, Content::Departed(reason));
        }
    }
}

fn rooms_of(session: &Session) -> Vec<RoomName> {
    session.seats().iter().map(|seat| seat.room.clone()).collect()
}
