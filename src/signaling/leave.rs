//! `bye`, and the end of a socket: seats given up, and the peer that stays told why.

use std::sync::Arc;

use super::{Signaling, lock, reply, session::Session};
use crate::{
    id::RoomName,
    protocol::{ByeReason, Code, Refusal, Request},
    rooms::LeaveOutcome,
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
        session.seats().retain(|seat| seat.room != *room);
        let occupant = session.occupant();
        match self.registry.leave(room, occupant).await {
            Ok(LeaveOutcome::Left(other)) => {
                self.metrics.leaves.inc(reason);
                if let Some(other) = other
                    && let Some(other) = self.seated_session(other.peer).filter(|found| found.occupant() == other)
                {
                    self.departed(&other, room, occupant, reason);
                }
                Ok(())
            }
            Ok(LeaveOutcome::NotSeated) => Ok(()),
            Err(error) => {
                tracing::debug!(%error, "leave");
                Err(Refusal::new(Code::Unavailable, "rooms cannot be told for sure at the moment; try again"))
            }
        }
    }
}

fn rooms_of(session: &Session) -> Vec<RoomName> {
    session.seats().iter().map(|seat| seat.room.clone()).collect()
}
