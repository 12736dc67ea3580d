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
        let node_goes = matches!(reason, ByeReason::NodeShutdown | ByeReason::NodeLost);
        let occupant = session.occupant();
        // From here on nothing of this room reaches the session, whatever the registry says.
        let (linked, can_come_back, kept) = {
            let mut seats = session.seats();
            if let Some(seat) = seat_in(&mut seats, room) {
                self.take_due(session, room, seat, &|_, _| true);
            }
            let mut seat = seats.iter().position(|seat| seat.room == *room).map(|at| seats.swap_remove(at));
            if let Some(seat) = &mut seat {
                let recent = seat.recent.take();
                seat.give_up_outbox();
                seat.recent = recent;
            }
            let linked = seat.as_ref().and_then(|seat| seat.link.as_ref()).map(|link| link.occupant);
            let can_come_back =
                !parting.for_good && seat.as_ref().is_some_and(|seat| seat.role.is_some() && seat.token.is_some());
            let kept = seat.filter(|_| can_come_back && !node_goes).map(|seat| self.keep_seat(occupant, seat, reason));
            (linked, can_come_back, kept)
        };
        if let Some(kept) = kept {
            self.tell_kept(room, occupant, kept);
            return Ok(());
        }
        // Its seat outlives this node, or what this node knows.
        if can_come_back && self.post.is_some() {
            self.registry.forget(room, occupant);
            if let Some(other) = linked {
                self.tell_away(room, occupant, other, Away { grace: self.grace, node_goes: true });
            }
            return Ok(());
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
