//! `create or join`: a seat, and the link between the two peers of a room.
//!
//! The registry decides; then both sessions are told. Until a session has been told of the other it cannot reach it,
//! which is what makes the order hold: `created` or `joined` before all else, `join` before anything of the second peer,
//! `ready` before anything relayed.

use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use super::{
    Signaling, lock,
    mail::arrival,
    reply,
    session::{Link, Seat, Session, Visit, seat_in},
};
use crate::{
    exchange::{Arrival, Content},
    ice::IceServer,
    id::{ResumeToken, RoomName},
    metrics::{JoinResult, Metrics},
    protocol::{ByeReason, Code, JoinOptions, Refusal, Request},
    rooms::{Ask, Join, JoinOutcome, Mail, Occupant, Role, Serial},
    telemetry::trace::{Kind, Span},
};

/// What is told with a seat.
#[derive(Debug, Clone, Copy)]
pub(super) struct Told<'a> {
    /// The number of the acknowledgement its client waits for.
    pub ack: Option<i64>,
    /// What the seat can be taken back with.
    pub token: Option<ResumeToken>,
    /// The servers that help to reach the other peer.
    pub ice: &'a [IceServer],
}

impl Signaling {
    /// `create or join`.
    pub(super) async fn join(
        self: Arc<Self>,
        session: Arc<Session>,
        room: RoomName,
        options: JoinOptions,
        ack: Option<i64>,
    ) {
        let asked = Instant::now();
        let span = self.tracer.begin(asked);
        let seated = match self.allowed(&session, &room).await {
            Ok(()) => self.seat(&session, &room, options, ack, span).await,
            Err(refusal) => Err(refusal),
        };
        // Whoever guesses names slows down.
        let failed = seated.as_ref().is_err_and(|refusal| matches!(refusal.code, Code::Full | Code::Forbidden));
        let result = match seated {
            Ok(result) => {
                session.waits().retain(|waited| *waited != room);
                result
            }
            Err(refusal) if refusal.code == Code::Full && options.wait => {
                match self.wait(&session, &room) {
                    Ok(()) => {
                        self.tell(&session, reply::room("waiting", &room));
                        self.acknowledge(&session, ack, || {
                            reply::ack_seated("waiting", &room, session.id(), None, &[])
                        });
                    }
                    Err(refusal) => self.refuse(&session, Some(Request::Join), Request::Join.name(), ack, &refusal),
                }
                JoinResult::Full
            }
            Err(refusal) => {
                self.refuse(&session, Some(Request::Join), Request::Join.name(), ack, &refusal);
                if refusal.code == Code::Full { JoinResult::Full } else { JoinResult::Refused }
            }
        };
        if failed {
            self.limiter.failed(session.flow().visitor().address, 1, self.limiter.now());
        }
        self.metrics.joins.inc(result);
        Metrics::observe(&self.metrics.join_seconds, asked.elapsed());
        if let Some(span) = span {
            self.tracer.end(span, Kind::Server, ("join", "room"), &[("duet.outcome", result.name())]);
        }
    }

    /// Tries again for a session that waits.
    pub(super) async fn knock(self: Arc<Self>, session: Arc<Session>, room: RoomName) {
        if !session.is_open() || !session.waits().contains(&room) {
            return;
        }
        let options = JoinOptions { said: true, wait: true, ..JoinOptions::default() };
        match self.seat(&session, &room, options, None, None).await {
            Ok(result) => {
                session.waits().retain(|waited| *waited != room);
                self.metrics.joins.inc(result);
            }
            Err(refusal) if refusal.code.retryable() => {}
            Err(refusal) => {
                session.waits().retain(|waited| *waited != room);
                self.refuse(&session, Some(Request::Join), Request::Join.name(), None, &refusal);
            }
        }
    }

    /// Whether its address may ask for a seat; when it has failed often, it has to wait for the answer.
    async fn allowed(&self, session: &Session, room: &RoomName) -> Result<(), Refusal> {
        let address = session.flow().visitor().address;
        let delay = self.limiter.join(address, room, self.limiter.now()).map_err(|refused| refused.refusal())?;
        if !delay.is_zero() {
            tokio::time::sleep(delay).await;
        }
        Ok(())
    }

    async fn seat(
        self: &Arc<Self>,
        session: &Arc<Session>,
        room: &RoomName,
        options: JoinOptions,
        ack: Option<i64>,
        span: Option<Span>,
    ) -> Result<JoinResult, Refusal> {
        self.log(session, || reply::log(&format!("Received request to create or join room {}", room.as_str())));
        if self.lifecycle.is_draining() {
            return Err(Refusal::new(Code::Draining, "this node is shutting down; connect again"));
        }
        let named = self.ask_whether_it_may(session, room).await?;
        if options.counts {
            session.set_counts();
        }
        let known = {
            let mut seats = session.seats();
            let known = seat_in(&mut seats, room).is_some();
            if !known {
                // Before the registry knows: the other peer may have news for this one at once.
                seats.push(Seat::wished(room.clone()));
            }
            known
        };
        lock(&self.seated).entry(session.id()).or_insert_with(|| Arc::downgrade(session));
        let asking = self.tracer.begin_below(span);
        // The seat of one who knows nothing of tokens must be free when it comes back without.
        let tellable = !self.grace.is_zero() && (options.said || session.resume().is_some());
        let new = if tellable { ResumeToken::random() } else { None };
        let asked_back = options.resume.or(session.resume());
        let ask = Ask {
            who: session.occupant(),
            key: new.map(|token| token.key()),
            resume: asked_back.map(|token| token.key()),
        };
        let join = self.registry.join(room, ask).await;
        if let Some(asking) = asking {
            let outcome = if join.is_ok() { "answered" } else { "unavailable" };
            self.tracer.end(asking, Kind::Client, ("ask", "registry"), &[("duet.outcome", outcome)]);
        }
        let Join { outcome, order, away, mail } = match join {
            Ok(join) => join,
            Err(error) => {
                if !known {
                    session.seats().retain(|seat| seat.room != *room);
                }
                tracing::debug!(%error, "join");
                return Err(Refusal::new(Code::Unavailable, "rooms cannot be told for sure at the moment; try again"));
            }
        };
        let present = match outcome {
            JoinOutcome::Created => 0,
            JoinOutcome::Joined(_) | JoinOutcome::Seated(..) | JoinOutcome::Resumed(..) => 1,
            JoinOutcome::Full => 2,
        };
        self.log(session, || reply::log(&format!("Room {} now has {present} client(s)", room.as_str())));
        // After the registry: whoever is refused costs no credentials.
        let ice = ack.map(|_| named.unwrap_or_else(|| self.ice_for(session))).unwrap_or_default();
        let told = |token| Told { ack, token, ice: &ice };
        match outcome {
            JoinOutcome::Full => {
                session.seats().retain(|seat| seat.room != *room);
                if !options.wait {
                    self.tell(session, reply::room("full", room));
                }
                Err(Refusal::new(Code::Full, "two others are in this room"))
            }
            JoinOutcome::Seated(role, _) => {
                let token = seat_in(&mut session.seats(), room).and_then(|seat| seat.token);
                self.tell_seated(session, room, role, told(token));
                Ok(JoinResult::Seated)
            }
            JoinOutcome::Resumed(role, before, other) => {
                self.log(session, || {
                    reply::log(&format!("Client ID {} is back in room {}", session.id(), room.as_str()))
                });
                self.resumed(
                    session,
                    room,
                    role,
                    before,
                    (other, away),
                    (order, mail),
                    options.heard,
                    told(asked_back),
                );
                Ok(JoinResult::Resumed)
            }
            JoinOutcome::Created => {
                self.log(session, || reply::log(&format!("Client ID {} created room {}", session.id(), room.as_str())));
                self.created(session, room, order, told(new));
                Ok(JoinResult::Created)
            }
            JoinOutcome::Joined(other) => {
                self.log(session, || reply::log(&format!("Client ID {} joined room {}", session.id(), room.as_str())));
                self.joined(session, room, (other, away), (order, mail), told(new));
                Ok(JoinResult::Joined)
            }
        }
    }

    /// The servers that `session` is told of, with credentials of its own.
    fn ice_for(&self, session: &Session) -> Vec<IceServer> {
        self.ice.servers(session.id().0.as_str().as_bytes(), SystemTime::now())
    }

    /// Whether the session may take a seat in `room`, and the servers that the webhook names, if it names any. A seat that it
    /// has already is not asked for again; nor is one that it waited for, as that is still the same join.
    async fn ask_whether_it_may(&self, session: &Session, room: &RoomName) -> Result<Option<Vec<IceServer>>, Refusal> {
        {
            let mut seats = session.seats();
            if seat_in(&mut seats, room).is_some() {
                return Ok(None);
            }
            if seats.len() >= self.limiter.rules().rooms_per_socket {
                return Err(Refusal::new(Code::TooManyRooms, "this socket sits in as many rooms as it may"));
            }
        }
        self.admission.permit(session.grant(), room)?;
        if session.waits().contains(room) {
            return Ok(None);
        }
        self.admission.ask(session.grant(), room, session.id(), session.flow().visitor().address).await
    }

    fn tell_seated(self: &Arc<Self>, session: &Arc<Session>, room: &RoomName, role: Role, told: Told<'_>) {
        let Told { ack, token, ice } = told;
        // Who waited gave no acknowledgement for this: it is told with the event.
        let with_event = token.filter(|_| ack.is_none());
        self.tell(session, reply::seated(role, room, session.id(), with_event));
        self.acknowledge(session, ack, || reply::ack_seated(reply::outcome(role), room, session.id(), token, ice));
    }

    fn created(self: &Arc<Self>, session: &Arc<Session>, room: &RoomName, order: u64, told: Told<'_>) {
        let mut seats = session.seats();
        self.tell_seated(session, room, Role::Created, told);
        let Some(seat) = seat_in(&mut seats, room) else { return };
        seat.token = told.token;
        seat.take(Role::Created, order);
        // The second peer may have come before this answer was read.
        self.tell_early(session, room, seat);
    }

    /// Tells of who came before the answer to one's own join, and what they said meanwhile.
    fn tell_early(self: &Arc<Self>, session: &Arc<Session>, room: &RoomName, seat: &mut Seat) {
        for Visit { link, said, left, .. } in std::mem::take(&mut seat.early).visits {
            let (peer, away) = (link.occupant.peer, link.away);
            self.tell_arrived(session, room, seat, link, &Arrival::default());
            for packet in said {
                self.sent_or_closed(session, self.send(session, packet));
            }
            if let Some(reason) = left {
                self.tell_gone(session, room, seat, reason);
            } else if away {
                self.tell(session, reply::peer_reconnecting(room, peer, self.grace));
            }
        }
    }

    /// Whether `other`, beside whom `session` was seated, is gone already. Then it is told so, and of who came after.
    pub(super) fn is_gone_early(
        self: &Arc<Self>,
        session: &Arc<Session>,
        room: &RoomName,
        seat: &mut Seat,
        other: Option<Occupant>,
        mail: &mut Option<Vec<Mail>>,
    ) -> bool {
        if !seat.early.visits.is_empty() {
            // Another came, or the same once more: it will have been told of this one, and this one of it.
            self.hand_out(session, mail.take());
            self.tell_early(session, room, seat);
            return true;
        }
        let Some((other, reason)) = other.and_then(|other| Some((other, seat.left_early(other)?))) else {
            return false;
        };
        self.hand_out(session, mail.take());
        self.tell(session, reply::bye(room, other.peer, reason));
        true
    }

    fn joined(
        self: &Arc<Self>,
        session: &Arc<Session>,
        room: &RoomName,
        (other, away): (Occupant, bool),
        (order, mail): (u64, Vec<Mail>),
        told: Told<'_>,
    ) {
        let other_session = self.session_of(other);
        let mut kept = None;
        let arrival;
        let mut mail = Some(mail);
        {
            let mut seats = session.seats();
            self.tell_seated(session, room, Role::Joined, told);
            let Some(seat) = seat_in(&mut seats, room) else { return };
            seat.token = told.token;
            seat.take(Role::Joined, order);
            arrival = self::arrival(order, mail.as_deref().unwrap_or_default(), session.counts(), seat.token);
            if self.is_gone_early(session, room, seat, Some(other), &mut mail) {
                return;
            }
            let linked = other_session.as_ref().map_or_else(|| Link::elsewhere(other), Link::here);
            let link = seat.link.insert(linked);
            if other.node == self.node {
                kept = self.beside_kept(room, other, session.occupant(), order);
                link.met = kept.is_none();
            } else if !away {
                link.met = true;
                self.tell(session, reply::room("ready", room));
            }
            if !link.met || other.node != self.node {
                self.hand_out(session, mail.take());
            }
        }
        if let Some(kept) = kept {
            self.peer_away(session, room, other, kept);
        } else if away {
            self.watch(session, room, other, Duration::ZERO, ByeReason::NodeLost);
        } else if other.node != self.node {
            self.send_letter(room, session.occupant(), other, Content::Arrived(arrival));
        } else if let Some(other_session) = other_session {
            self.arrived(&other_session, room, session, &arrival, mail);
        } else {
            self.beside_lost(session, room, other, &arrival, None, mail);
        }
    }

    /// Tells `session` that `newcomer` took the second seat of `room`, and both that they can talk.
    fn arrived(
        self: &Arc<Self>,
        session: &Arc<Session>,
        room: &RoomName,
        newcomer: &Arc<Session>,
        arrival: &Arrival,
        mail: Option<Vec<Mail>>,
    ) {
        let link = Link::here(newcomer);
        let mut seats = session.seats();
        // It left meanwhile: the newcomer will hear of that.
        let Some(seat) = seat_in(&mut seats, room) else {
            drop(seats);
            return self.beside_lost(newcomer, room, session.occupant(), arrival, None, mail);
        };
        // While this lock is held it can neither relay nor leave: for the newcomer `ready` comes before both.
        self.tell(newcomer, reply::room("ready", room));
        self.hand_out(newcomer, mail);
        self.take_arrived(session, room, seat, link, arrival);
    }

    /// The same for a newcomer on another node, which has told it already; tells whether `session` has a seat there.
    pub(super) fn arrived_elsewhere(
        self: &Arc<Self>,
        session: &Arc<Session>,
        room: &RoomName,
        newcomer: Occupant,
        arrival: &Arrival,
    ) -> bool {
        let mut seats = session.seats();
        let Some(seat) = seat_in(&mut seats, room) else { return false };
        self.take_arrived(session, room, seat, Link::elsewhere(newcomer), arrival);
        true
    }

    pub(super) fn take_arrived(
        self: &Arc<Self>,
        session: &Arc<Session>,
        room: &RoomName,
        seat: &mut Seat,
        mut link: Link,
        arrival: &Arrival,
    ) {
        // A node that was frozen may still say what was true when it froze.
        if arrival.order <= seat.latest {
            return;
        }
        // Who still waits to be linked to is gone.
        self.take_due(session, room, seat, &|_, _| true);
        seat.latest = arrival.order;
        link.counts = arrival.counts.then_some(0);
        link.key = arrival.key;
        if seat.role.is_some() {
            self.tell_arrived(session, room, seat, link, arrival);
        } else {
            link.handed = arrival.messages;
            seat.early.arrive(link, arrival.order);
        }
    }

    fn tell_arrived(
        self: &Arc<Self>,
        session: &Arc<Session>,
        room: &RoomName,
        seat: &mut Seat,
        mut link: Link,
        arrival: &Arrival,
    ) {
        match &seat.link {
            Some(known) if known.occupant == link.occupant => return,
            // The news of its end takes another way than those of the next.
            Some(gone) => {
                self.tell(session, reply::bye(room, gone.occupant.peer, ByeReason::NodeLost));
                seat.give_up_outbox();
            }
            None => {}
        }
        // What was kept for it was said before.
        self.let_go(session, seat, Serial::LAST);
        link.met = true;
        seat.peers += 1;
        seat.link = Some(link.clone());
        self.tell(session, reply::room("join", room));
        self.tell(session, reply::room("ready", room));
        self.tell_that_it_counts(session, room, seat, &link);
        self.empty_outbox(session, room, seat, arrival, Vec::new(), |_| {});
    }

    /// Tells `session` that `gone` left `room`.
    pub(super) fn departed(
        self: &Arc<Self>,
        session: &Arc<Session>,
        room: &RoomName,
        gone: Occupant,
        reason: ByeReason,
    ) {
        let mut seats = session.seats();
        let Some(seat) = seat_in(&mut seats, room) else { return };
        self.take_due(session, room, seat, &|_, one| one.link.occupant == gone);
        if seat.role.is_none() {
            seat.early.depart(gone, reason);
        } else if seat.link.as_ref().is_some_and(|link| link.occupant == gone) {
            self.tell_gone(session, room, seat, reason);
        }
    }

    /// Tells `session` that the one that its seat is linked to left.
    fn tell_gone(self: &Arc<Self>, session: &Arc<Session>, room: &RoomName, seat: &mut Seat, reason: ByeReason) {
        self.let_go(session, seat, Serial::LAST);
        if let Some(gone) = seat.link.take() {
            self.tell(session, reply::bye(room, gone.occupant.peer, reason));
        }
        seat.give_up_outbox();
    }
}
