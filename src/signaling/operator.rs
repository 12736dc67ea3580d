//! What an operator asks for: how many there are, who sits in a room, a room closed, a peer put out.
//!
//! Whichever node is asked, the node that holds the connection does it. What is done to a socket is an item of its own inbox,
//! like all else that happens to its seats; what is answered was done before.
//!
//! A seat that is kept for a peer that was lost is freed as well: by the node that keeps it, or, if that is gone, by the one that
//! is asked. Nothing of a call is told, and nothing here is on the way of a message.

use std::{
    sync::{Arc, PoisonError, Weak},
    time::{Duration, Instant},
};

use tokio::sync::oneshot;

use super::{
    Signaling,
    inbox::{Item, Parting},
    lock, reply,
    session::{Session, seat_in},
};
use crate::{
    exchange::{Answer, Question, Reply, Tally},
    id::{Generation, NodeId, PeerId, RoomName},
    protocol::{ByeReason, Code, Refusal, Request},
    rooms::{LeaveOutcome, Occupant, RegistryError, Taken},
};

/// Counting takes a look at every socket: not more often than this, however often it is asked for.
const COUNTED_ANEW: Duration = Duration::from_secs(1);

/// A node, as its operator sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NodeView {
    /// Which.
    pub node: NodeId,
    /// Whether it is the one that was asked.
    pub here: bool,
    /// How it is there; none when it did not answer.
    pub tally: Option<Tally>,
}

/// What became of an operator's wish.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wish {
    /// It is done.
    Done,
    /// There is no such room, or peer.
    NotThere,
    /// A node that may hold it did not answer: it may be done, or not.
    Unanswered,
}

impl Wish {
    /// What is told of several nodes.
    fn of(answers: impl IntoIterator<Item = Option<Answer>>) -> Self {
        let (mut done, mut unanswered) = (false, false);
        for answer in answers {
            match answer {
                Some(Answer::Done) => done = true,
                Some(Answer::NotHere | Answer::Tally(_)) => {}
                None => unanswered = true,
            }
        }
        match (done, unanswered) {
            (_, true) => Self::Unanswered,
            (true, false) => Self::Done,
            (false, false) => Self::NotThere,
        }
    }
}

impl Signaling {
    /// This node.
    #[must_use]
    pub fn node(&self) -> NodeId {
        self.node
    }

    /// How it is on this node, as it was a second ago at most.
    #[must_use]
    pub fn tally(&self) -> Tally {
        let counted = {
            let mut last = self.tally.lock().unwrap_or_else(PoisonError::into_inner);
            match *last {
                Some((at, tally)) if at.elapsed() < COUNTED_ANEW => tally,
                _ => last.insert((Instant::now(), self.count())).1,
            }
        };
        Tally {
            ready: self.lifecycle.ready().is_ok(),
            draining: self.lifecycle.is_draining(),
            uptime: self.started.elapsed().as_secs(),
            ..counted
        }
    }

    fn count(&self) -> Tally {
        let sessions = self.sessions();
        let mut tally = Tally { sockets: sessions.len() as u64, ..Tally::default() };
        let mut halves = 0;
        let mut count = |other: Option<Occupant>| {
            tally.seats += 1;
            match other {
                None => tally.waiting += 1,
                Some(other) if other.node == self.node => halves += 1,
                Some(_) => tally.shared += 1,
            }
        };
        for session in sessions {
            session.seats().iter().filter(|seat| seat.role.is_some()).for_each(|seat| count(seat.other()));
        }
        self.kept_seats().into_iter().for_each(|(_, _, other)| count(other));
        tally.whole = halves / 2;
        tally
    }

    /// Every node there is, this one first; those that did not answer in time without their tally.
    pub async fn nodes(&self) -> Vec<NodeView> {
        let mut views = vec![NodeView { node: self.node, here: true, tally: Some(self.tally()) }];
        let others = self.post.as_ref().map_or_else(Vec::new, |post| post.others());
        let asked = others.iter().map(|node| async {
            let tally = match self.ask(*node, Question::Tally).await {
                Some(Answer::Tally(tally)) => Some(tally),
                _ => None,
            };
            NodeView { node: *node, here: false, tally }
        });
        views.extend(futures_util::future::join_all(asked).await);
        views
    }

    /// Who sits in `room`.
    ///
    /// # Errors
    /// When that cannot be told.
    pub async fn look(&self, room: &RoomName) -> Result<Vec<Taken>, RegistryError> {
        self.registry.look(room).await
    }

    /// Frees both seats of `room`, and tells who sat there.
    ///
    /// # Errors
    /// When it cannot be told who sits there.
    pub async fn close_room(&self, room: &RoomName) -> Result<Wish, RegistryError> {
        let seats = self.look(room).await?;
        let mut answers = Vec::new();
        // Those beside whom it is kept tell of it while they sit there.
        for seat in seats.iter().filter(|seat| seat.away) {
            answers.push(self.free_abandoned(room, seat, &seats).await);
        }
        let closed = seats.iter().filter(|seat| !seat.away).map(|seat| {
            let who = seat.by;
            self.ask(who.node, Question::Close(room.clone(), who.peer, who.generation))
        });
        answers.extend(futures_util::future::join_all(closed).await);
        Ok(Wish::of(answers))
    }

    /// Frees a seat that is kept for a peer of a node that is gone, by way of the node of the other peer, if there is one.
    async fn free_abandoned(&self, room: &RoomName, seat: &Taken, seats: &[Taken]) -> Option<Answer> {
        let who = seat.by;
        if let Some(beside) = seats.iter().find(|other| !other.away && other.by.node != self.node) {
            let question = Question::Close(room.clone(), who.peer, who.generation);
            match self.ask(beside.by.node, question).await {
                // It left meanwhile, or was never told.
                Some(Answer::NotHere) => {}
                answer => return answer,
            }
        }
        self.this.upgrade()?.leave_abandoned(room, who).await
    }

    /// Gives up a seat that is kept for a peer of a node that is gone, and tells who is left.
    async fn leave_abandoned(self: &Arc<Self>, room: &RoomName, who: Occupant) -> Option<Answer> {
        match self.registry.leave(room, who).await {
            Ok(LeaveOutcome::Left(other)) => {
                if let Some(other) = other {
                    self.tell_departed(room, who, other, ByeReason::Closed);
                }
                Some(Answer::Done)
            }
            Ok(LeaveOutcome::NotSeated) => Some(Answer::NotHere),
            Ok(LeaveOutcome::Deferred) | Err(_) => None,
        }
    }

    /// Puts `peer` out, who sits in `room`.
    ///
    /// # Errors
    /// When it cannot be told who sits there.
    pub async fn put_out_of(&self, room: &RoomName, peer: PeerId) -> Result<Wish, RegistryError> {
        let seats = self.look(room).await?;
        let Some(seat) = seats.iter().find(|seat| seat.by.peer == peer) else { return Ok(Wish::NotThere) };
        let answer = if seat.away {
            self.free_abandoned(room, seat, &seats).await
        } else {
            self.ask(seat.by.node, Question::PutOut(peer)).await
        };
        Ok(Wish::of([answer]))
    }

    /// Puts `peer` out, whichever node it is on, or was lost on.
    pub async fn put_out(&self, peer: PeerId) -> Wish {
        let here = self.ask(self.node, Question::PutOut(peer)).await;
        if here == Some(Answer::Done) {
            return Wish::Done;
        }
        let others = self.post.as_ref().map_or_else(Vec::new, |post| post.others());
        let answers = futures_util::future::join_all(others.iter().map(|node| self.ask(*node, Question::PutOut(peer))));
        let answers = answers.await;
        // A peer is on one node only: what others did not say is of no matter then.
        if answers.contains(&Some(Answer::Done)) { Wish::Done } else { Wish::of(answers) }
    }

    /// Asks that node, be it this one.
    async fn ask(&self, node: NodeId, question: Question) -> Option<Answer> {
        if node == self.node {
            let (reply, answer) = oneshot::channel();
            self.answer_question(question, Box::new(move |answer| drop(reply.send(answer))));
            return tokio::time::timeout(self.timeouts.request, answer).await.ok()?.ok();
        }
        self.post.as_ref()?.ask(node, question).await
    }

    /// Does what is asked of this node, and answers when it is done.
    pub(super) fn answer_question(&self, question: Question, reply: Reply) {
        let Some(this) = self.this.upgrade() else { return };
        match question {
            Question::Tally => reply(Answer::Tally(self.tally())),
            Question::PutOut(peer) => match self.connected_session(peer) {
                Some(session) => this.put_session_out(session, reply),
                None => this.free_kept(move |_, lost| lost.peer == peer, reply),
            },
            Question::Close(room, peer, generation) => match self.seat_holder(peer, generation) {
                Some(session) => this.take_seat(session, room, reply),
                None => match self.abandoned_beside(&room, peer, generation) {
                    Some(who) => {
                        let lifecycle = self.lifecycle.clone();
                        lifecycle.spawn(async move {
                            // Without an answer the other node takes it for one that did not come.
                            if let Some(answer) = this.leave_abandoned(&room, who).await {
                                reply(answer);
                            }
                        });
                    }
                    None => this.free_kept(
                        move |its, lost| *its == room && lost.peer == peer && lost.generation == generation,
                        reply,
                    ),
                },
            },
        }
    }

    fn seat_holder(&self, peer: PeerId, generation: Generation) -> Option<Arc<Session>> {
        self.seated_session(peer).filter(|session| session.occupant().generation == generation)
    }

    /// Who is in `room` beside a peer of this node, and is, or was, on another.
    fn abandoned_beside(&self, room: &RoomName, peer: PeerId, generation: Generation) -> Option<Occupant> {
        let is_it = |other: &Occupant| (other.peer, other.generation) == (peer, generation) && other.node != self.node;
        self.sessions().iter().find_map(|session| seat_in(&mut session.seats(), room)?.other().filter(is_it))
    }

    fn connected_session(&self, peer: PeerId) -> Option<Arc<Session>> {
        self.seated_session(peer).or_else(|| {
            // One that never asked for a seat. They are found by their connection only, so nobody looks in vain.
            self.root()?.get_socket(peer.0)?;
            lock(&self.connected).values().filter_map(Weak::upgrade).find(|session| session.id() == peer)
        })
    }

    /// Frees the seats that are kept here for a peer that was lost.
    fn free_kept(self: Arc<Self>, is_it: impl Fn(&RoomName, Occupant) -> bool, reply: Reply) {
        let seats: Vec<_> = self.kept_seats().into_iter().filter(|(room, lost, _)| is_it(room, *lost)).collect();
        let lifecycle = self.lifecycle.clone();
        lifecycle.spawn(async move {
            let mut freed = false;
            for (room, lost, _) in seats {
                freed |= self.close_kept(&room, lost, ByeReason::Closed).await;
            }
            reply(if freed { Answer::Done } else { Answer::NotHere });
        });
    }

    /// Tells a socket that it is put out, gives up its seats, and ends its connection.
    fn put_session_out(self: Arc<Self>, session: Arc<Session>, reply: Reply) {
        let refusal = Refusal::new(Code::Closed, "the operator put this socket out");
        let first = self.last_word(&session, Request::Join, &refusal);
        let lifecycle = self.lifecycle.clone();
        lifecycle.spawn(async move {
            let (done, is_done) = oneshot::channel();
            if first {
                self.take(&session, Item::Gone(Parting::for_good(ByeReason::Closed)));
            }
            self.take(&session, Item::Reached(done));
            let _ = is_done.await;
            reply(Answer::Done);
            if first {
                self.end(&session).await;
            }
        });
    }

    fn take_seat(self: Arc<Self>, session: Arc<Session>, room: RoomName, reply: Reply) {
        let lifecycle = self.lifecycle.clone();
        lifecycle.spawn(async move {
            let (done, is_done) = oneshot::channel();
            self.take(&session, Item::Close(room, done));
            reply(if is_done.await == Ok(true) { Answer::Done } else { Answer::NotHere });
        });
    }

    /// An item of the inbox: the seat is given up, and the socket told by a `bye` of its own.
    pub(super) async fn close_seat(
        self: Arc<Self>,
        session: Arc<Session>,
        room: RoomName,
        done: oneshot::Sender<bool>,
    ) {
        let sat = seat_in(&mut session.seats(), &room).is_some();
        if sat {
            // One that cannot be given up now is so as soon as it can: the registry sees to it.
            let _ = self.leave(&session, &room, Parting::for_good(ByeReason::Closed)).await;
            self.tell(&session, reply::bye(&room, session.id(), ByeReason::Closed));
        }
        let _ = done.send(sat);
    }
}
