//! `bye`, and the end of a socket: seats given up, and the peer that stays told why.

use std::sync::Arc;

use super::{Signaling, lock, reply, session::Session};
use crate::{
    exchange::Content,
    id::RoomName,
    protocol::{ByeReason, Code, Refusal, Request},
    rooms::{LeaveOutcome, Occupant},
};

impl Signaling {
    /// `bye`: out of one room, or of all.
    pub(super) async fn bye(self: Arc<Self>, session: Arc<Session>, room: Option<RoomName>, ack: Option<i64>) {
        let rooms = rooms_of(&session);
        let left = match room {
            None => self.leave_all(&session, rooms, ByeReason::Left).await,
            Some(room) if rooms.contains(&room) => self.leave(&session, &room, ByeReason::Left).await,
            Some(_) => Err(Refusal::new(Code::NotInRoom, "this socket is not in that room")),
        };
        match left {
            Ok(()) => self.acknowledge(&session, ack, || reply::ACK_OK.into()),
            Err(refusal) => self.refuse(&session, Some(Request::Bye), Request::Bye.name(), ack, &refusal),
        }
    }

    /// The socket's end: nothing of it stays.
    pub(super) async fn gone(self: Arc<Self>, session: Arc<Session>, reason: ByeReason) {
        session.start_closing();
        if let Some(presence) = session.take_presence() {
            self.metrics.sockets_closed.inc(reason);
            drop(presence);
        }
        if let Err(refusal) = self.leave_all(&session, rooms_of(&session), reason).await {
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
        reason: ByeReason,
    ) -> Result<(), Refusal> {
        let mut all = Ok(());
        for room in rooms {
            all = all.and(self.leave(session, &room, reason).await);
        }
        all
    }

    async fn leave(
        self: &Arc<Self>,
        session: &Arc<Session>,
        room: &RoomName,
        reason: ByeReason,
    ) -> Result<(), Refusal> {
        // From here on nothing of this room reaches the session, whatever the registry says.
        let linked = {
            let mut seats = session.seats();
            let linked =
                seats.iter().find(|seat| seat.room == *room).and_then(|seat| Some(seat.link.as_ref()?.occupant));
            seats.retain(|seat| seat.room != *room);
            linked
        };
        let occupant = session.occupant();
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
            }
        } else {
            self.send_letter(room, gone, other, Content::Departed(reason));
        }
    }
}

fn rooms_of(session: &Session) -> Vec<RoomName> {
    session.seats().iter().map(|seat| seat.room.clone()).collect()
}
