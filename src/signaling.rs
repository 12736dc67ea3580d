//! What happens on an event: one table, and the state all events share.
//!
//! Reading order: [`session`] (one socket's seats), [`inbox`] (one socket's events, in order), [`join`], [`leave`],
//! [`relay`] (one event family each), [`resume`], [`mail`] and [`recent`] (peers that are away, what is said to them, and what did not reach them), [`operator`] (what the admin API asks for), [`wire`] (packets as bytes).
//!
//! The library spawns a task for each event, so that two events of one socket can overtake each other. Here every event
//! is taken in the library's own read loop and put through the socket's inbox: what needs no waiting is done at once,
//! in order; what does is finished by one task, and what comes meanwhile waits behind it.
//!
//! Invariant: a packet reaches a socket only through `Signaling::send`, which knows of no rooms, and the only sessions
//! it is called with are the sender's own and the one that its own seat is linked to.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use bytes::Bytes;
use futures_util::future::BoxFuture;
use socketioxide::{
    ProtocolVersion, SocketIo,
    handler::{ConnectHandler, ConnectMiddleware, DisconnectHandler, MessageHandler},
    operators::BroadcastOperators,
    socket::DisconnectReason,
};
use socketioxide_core::{Str, Value, packet::Packet};

use crate::{
    adapter::{Outlet, OutletSlot, Switchboard, Undelivered},
    admission::{Admission, Denied, Grant},
    config::{Addresses, Compat, Limits, Seats, Timeouts},
    exchange::{Addressee, Content, Delivery, Haste, Letter, Post, Question, Reply, Tally},
    ice::Ice,
    id::{Generation, NodeId, PeerId, RoomName},
    lifecycle::Lifecycle,
    limits::Limiter,
    metrics::{Limit, Metrics},
    protocol::{self, ByeReason, Code, Refusal, Request, reply},
    rooms::{Most, Occupant, Registry},
    telemetry::trace::{Kind, Tracer},
    transport::{flow::Flow, lane::Sent},
};

pub mod expiry;
pub mod inbox;
pub mod join;
pub mod leave;
pub mod mail;
pub mod operator;
pub mod recent;
pub mod relay;
pub mod resume;
pub mod session;
pub mod wire;

use expiry::Expiries;
use inbox::{Event, Item, Parting};
use resume::Kept;
use session::Session;

/// A `log` event is not worth making a client fall further behind than this.
const LOG_WAITING_BYTES: u64 = 64 * 1024;

/// How long a client that has been told why it is closed may take to hang up.
const LINGER: Duration = Duration::from_secs(1);

/// In how many steps a drain ends its sockets.
const DRAIN_STEPS: u32 = 20;

/// The library's handle, with duet's adapter.
pub type Io = SocketIo<Switchboard>;
type Socket = Arc<socketioxide::socket::Socket<Switchboard>>;

/// What all sockets of a node share.
pub struct Signaling {
    registry: Arc<dyn Registry>,
    admission: Arc<Admission>,
    metrics: Metrics,
    tracer: Tracer,
    lifecycle: Lifecycle,
    limits: ArcSwap<Limits>,
    limiter: Arc<Limiter>,
    timeouts: Timeouts,
    compat: ArcSwap<Compat>,
    /// How long a seat is kept for a peer that is lost.
    grace: Duration,
    /// What is kept for it meanwhile.
    most: Most,
    /// Bytes of all that.
    most_in_all: usize,
    /// The servers that peers are told of.
    ice: Arc<Ice>,
    node: NodeId,
    generations: AtomicU64,
    /// Sessions that sit somewhere, or are about to: how the other peer of a room is found.
    seated: Mutex<HashMap<PeerId, Weak<Session>>>,
    /// Sessions that remember what they handed on, or did.
    remembering: Mutex<Vec<Weak<Session>>>,
    /// For how long: a connection that is dead is known to be by then, and its seat given up.
    recent_age: Duration,
    /// Seats of peers that are lost and may come back.
    kept: Mutex<HashMap<(RoomName, Occupant), Kept>>,
    /// Sessions that are connected: whom a drain has to end.
    connected: Mutex<HashMap<Generation, Weak<Session>>>,
    /// Sessions whose token ends.
    expiries: Expiries,
    outlet: Arc<OutletSlot>,
    io: OnceLock<Io>,
    /// To other nodes; none when this one is alone.
    post: Option<Arc<dyn Post>>,
    started: Instant,
    /// What an operator was told last, and when it was counted.
    tally: Mutex<Option<(Instant, Tally)>>,
    this: Weak<Self>,
}

impl std::fmt::Debug for Signaling {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Signaling").field("node", &self.node).finish_non_exhaustive()
    }
}

/// What [`Signaling::new`] needs.
pub struct Parts {
    /// This node.
    pub node: NodeId,
    /// To other nodes; none when this one is alone.
    pub post: Option<Arc<dyn Post>>,
    /// Who may come in.
    pub admission: Arc<Admission>,
    /// Where the Socket.IO server puts its way out.
    pub outlet: Arc<OutletSlot>,
    /// `[compat]`
    pub compat: Compat,
    /// `[seats]`
    pub seats: Seats,
    /// The servers that peers are told of.
    pub ice: Arc<Ice>,
    /// `[limits]`
    pub limits: Limits,
    /// What of them is counted, and can be replaced.
    pub limiter: Arc<Limiter>,
    /// `[timeouts]`
    pub timeouts: Timeouts,
    /// The node's metrics.
    pub metrics: Metrics,
    /// Where its spans go.
    pub tracer: Tracer,
    /// The node's lifecycle.
    pub lifecycle: Lifecycle,
}

impl Signaling {
    /// The shared state, not yet reachable by any socket.
    #[must_use]
    pub fn new(registry: Arc<dyn Registry>, parts: Parts) -> Arc<Self> {
        let recent_age = parts.timeouts.ping_interval + parts.timeouts.ping_timeout + parts.seats.grace;
        Arc::new_cyclic(|this| Self {
            registry,
            admission: parts.admission,
            metrics: parts.metrics,
            tracer: parts.tracer,
            lifecycle: parts.lifecycle,
            limits: ArcSwap::from_pointee(parts.limits),
            limiter: parts.limiter,
            timeouts: parts.timeouts,
            compat: ArcSwap::from_pointee(parts.compat),
            grace: parts.seats.grace,
            most: Most {
                messages: parts.seats.keep_messages,
                bytes: parts.seats.keep_bytes,
                age: parts.seats.keep_age,
            },
            most_in_all: parts.seats.keep_bytes_total,
            ice: parts.ice,
            node: parts.node,
            generations: AtomicU64::new(1),
            seated: Mutex::default(),
            remembering: Mutex::default(),
            recent_age,
            kept: Mutex::default(),
            connected: Mutex::default(),
            expiries: Expiries::default(),
            outlet: parts.outlet,
            io: OnceLock::new(),
            post: parts.post,
            started: Instant::now(),
            tally: Mutex::default(),
            this: Weak::clone(this),
        })
    }

    /// Takes over the root namespace of `io`.
    pub fn attach(self: &Arc<Self>, io: &Io) {
        // In a middleware, which runs before CONNECT is answered: a client that answers at once must find its handlers.
        let arrival = Arrival(Arc::clone(self));
        io.ns("/", Connected.with(arrival));
        // The handle lives as long as the node: no cycle that matters.
        let _ = self.io.set(io.clone());
        self.lifecycle.spawn(Arc::clone(self).expire());
        self.lifecycle.spawn(Arc::clone(self).forget_recent());
    }

    /// Other bounds from here on.
    pub fn reload_limits(&self, limits: &Limits) {
        self.limits.store(Arc::new(limits.clone()));
    }

    /// Other words for the lesson's clients from here on.
    pub fn reload_compat(&self, compat: &Compat) {
        self.compat.store(Arc::new(compat.clone()));
    }

    /// Sessions connected now.
    #[must_use]
    pub fn sessions(&self) -> Vec<Arc<Session>> {
        lock(&self.connected).values().filter_map(Weak::upgrade).collect()
    }

    /// The registry, for metrics.
    #[must_use]
    pub fn registry(&self) -> &dyn Registry {
        &*self.registry
    }

    /// One event: the whole table. What needs no waiting for is done on return.
    fn begin(self: &Arc<Self>, session: &Arc<Session>, event: &Event) -> Step {
        let Some((name, arguments)) = protocol::split(&event.text) else {
            let refusal = Refusal::new(Code::BadPayload, "the packet is not an event");
            self.refuse(session, None, "", event.ack, &refusal);
            return Step::Done;
        };
        let Some(request) = Request::named(name) else {
            let refusal = Refusal::new(Code::UnknownEvent, "no such event");
            self.refuse(session, None, name, event.ack, &refusal);
            return Step::Done;
        };
        if event.payload_bytes() > self.most_bytes(request) {
            let refusal = self.limiter.refuse(Limit::EventBytes, Duration::ZERO).refusal();
            self.refuse(session, Some(request), name, event.ack, &refusal);
            return Step::Done;
        }
        let begun = match request {
            Request::Join => arguments.join().map(|(room, options)| {
                Step::Wait(Box::pin(self.clone().join(session.clone(), room, options, event.ack)))
            }),
            Request::Bye => arguments
                .room_or_none()
                .map(|room| Step::Wait(Box::pin(self.clone().bye(session.clone(), room, event.ack)))),
            Request::Message => self.message(session, event, arguments).map(|()| Step::Done),
            Request::Ready => self.ready(session, arguments, event.ack).map(|()| Step::Done),
            Request::Offer | Request::Answer => {
                self.description(session, request, arguments, event.ack).map(|()| Step::Done)
            }
            Request::Candidate => self.candidate(session, arguments, event.ack).map(|()| Step::Done),
            Request::Ipaddr => {
                self.tell_addresses(session, event.ack);
                Ok(Step::Done)
            }
        };
        begun.unwrap_or_else(|refusal| {
            self.refuse(session, Some(request), name, event.ack, &refusal);
            Step::Done
        })
    }

    /// The most bytes that an event of its kind may have; of a `message`, those of any packet.
    fn most_bytes(&self, request: Request) -> usize {
        match request {
            Request::Message => usize::MAX,
            Request::Join | Request::Ready | Request::Bye | Request::Ipaddr => self.limiter.rules().room_event_bytes,
            Request::Offer | Request::Answer => self.limiter.rules().description_bytes,
            Request::Candidate => self.limiter.rules().candidate_bytes,
        }
    }

    /// Tells a client that its request was refused: by the acknowledgement it asked for, or by `rejected`.
    fn refuse(
        self: &Arc<Self>,
        session: &Arc<Session>,
        request: Option<Request>,
        name: &str,
        ack: Option<i64>,
        refusal: &Refusal,
    ) {
        self.metrics.refused(request, refusal.code);
        match ack {
            Some(ack) => self.answer(session, ack, reply::ack_refused(refusal)),
            // `full` says it already, to clients that know nothing else.
            None if refusal.code == Code::Full => {}
            None => self.tell(session, reply::rejected(reply::told_name(name), refusal)),
        }
    }

    /// Acknowledges a request, if its client asked for that.
    fn acknowledge(self: &Arc<Self>, session: &Arc<Session>, ack: Option<i64>, answer: impl FnOnce() -> String) {
        if let Some(ack) = ack {
            self.answer(session, ack, answer());
        }
    }

    fn answer(self: &Arc<Self>, session: &Arc<Session>, ack: i64, array: String) {
        let packet = Packet::ack("/", Value::Str(Str::from(array), None), ack);
        self.sent_or_closed(session, self.send(session, packet));
    }

    /// Sends an event of the server's own to a client. One that cannot take even that is closed.
    fn tell(self: &Arc<Self>, session: &Arc<Session>, array: String) {
        let packet = Packet::event("/", Value::Str(Str::from(array), None));
        self.sent_or_closed(session, self.send(session, packet));
    }

    fn sent_or_closed(self: &Arc<Self>, session: &Arc<Session>, sent: Result<(), Undelivered>) {
        if sent == Err(Undelivered::TooSlow) {
            self.evict(session);
        }
    }

    /// A sentence for the lesson's clients, if they are to get any and this one keeps up.
    fn log(self: &Arc<Self>, session: &Arc<Session>, array: impl FnOnce() -> String) {
        if !self.compat.load().client_log {
            return;
        }
        if session.flow().waiting() > LOG_WAITING_BYTES {
            self.metrics.log_drops.inc();
            return;
        }
        self.tell(session, array());
    }

    /// Puts a packet into a socket's queue: the only way out.
    ///
    /// # Errors
    /// [`Undelivered`]; then nothing was put there.
    fn send(&self, to: &Session, packet: Packet) -> Result<(), Undelivered> {
        if !to.is_open() {
            return Err(Undelivered::Gone);
        }
        let flow = to.flow();
        if let Some((head, text)) = wire::frame(&packet) {
            match flow.send(&head, text.as_bytes()) {
                Sent::Whole => return Ok(()),
                Sent::Partly(_) => {
                    let (flow, patience, stalls) =
                        (Arc::clone(flow), self.timeouts.write_stall, self.metrics.stalls.clone());
                    self.lifecycle.spawn(async move {
                        if flow.drive(patience).await {
                            stalls.inc();
                        }
                    });
                    return Ok(());
                }
                Sent::Not => {}
            }
        }
        let bytes = wire::wire_bytes(&packet, to.is_eio3(), flow.is_websocket());
        flow.queue(bytes, self.limits.load().outbound_bytes).map_err(|_| Undelivered::TooSlow)?;
        self.outlet.send(to.id(), packet).inspect_err(|_| flow.unqueue(bytes))
    }

    /// Closes a socket that takes its messages too slowly. Its seats are free soon after; the connection ends when it
    /// has taken what waits for it, with the reason last, or when it takes nothing for a while.
    ///
    /// Never does anything about seats itself: it is called by those who hold a lock on them.
    fn evict(self: &Arc<Self>, session: &Arc<Session>) {
        let refusal = Refusal::new(Code::TooSlow, "too much waits for this socket; it is being closed");
        self.close_with(session, Request::Message, &refusal, ByeReason::TooSlow);
    }

    /// Closes a socket and tells it why.
    fn close_with(self: &Arc<Self>, session: &Arc<Session>, request: Request, refusal: &Refusal, reason: ByeReason) {
        if !self.last_word(session, request, refusal) {
            return;
        }
        let (signaling, session) = (Arc::clone(self), Arc::clone(session));
        self.lifecycle.spawn(async move {
            signaling.take(&session, Item::Gone(Parting::lost(reason)));
            signaling.end(&session).await;
        });
    }

    /// Tells a socket why it is about to be closed; nothing comes after it. Tells whether this is the first such word.
    fn last_word(&self, session: &Session, request: Request, refusal: &Refusal) -> bool {
        if !session.start_closing() {
            return false;
        }
        self.metrics.refused(None, refusal.code);
        let array = reply::rejected(request.name(), refusal);
        let packet = Packet::event("/", Value::Str(Str::from(array), None));
        // The last thing in its queue, past any bound.
        let bytes = wire::wire_bytes(&packet, session.is_eio3(), session.flow().is_websocket());
        let _ = session.flow().queue(bytes, usize::MAX);
        if self.outlet.send(session.id(), packet).is_err() {
            session.flow().unqueue(bytes);
        }
        true
    }

    /// Ends a socket's connection when it has taken what waits for it and hung up, or has taken nothing for a while.
    async fn end(&self, session: &Session) {
        let flow = session.flow();
        while flow.waiting() > 0 && !flow.is_closed() {
            if tokio::time::timeout(self.timeouts.write_stall / 3, flow.taken_more_than(flow.taken())).await.is_err() {
                break;
            }
        }
        if flow.is_websocket() && !flow.is_closed() {
            flow.part();
            let _ = tokio::time::timeout(LINGER, flow.taken_more_than(u64::MAX)).await;
        }
        flow.close();
        // A polling session has no connection of its own that could be closed: the library has to forget it.
        if let Some(socket) = self.root().and_then(|root| root.get_socket(session.id().0)) {
            let _ = socket.disconnect();
        }
    }

    /// The root namespace; none when the Socket.IO server is closed, and then it is an error to ask that for it.
    fn root(&self) -> Option<BroadcastOperators<Switchboard>> {
        self.io.get()?.of("/")
    }

    fn tell_addresses(self: &Arc<Self>, session: &Arc<Session>, ack: Option<i64>) {
        let addresses: Vec<IpAddr> = match &self.compat.load().ipaddr {
            Addresses::None => Vec::new(),
            Addresses::These(addresses) => addresses.clone(),
            Addresses::Interfaces => if_addrs::get_if_addrs()
                .map(|interfaces| {
                    interfaces.into_iter().map(|i| i.ip()).filter(|ip| ip.is_ipv4() && !ip.is_loopback()).collect()
                })
                .unwrap_or_default(),
        };
        for address in addresses {
            self.tell(session, reply::ipaddr(address));
        }
        self.acknowledge(session, ack, || reply::ACK_OK.into());
    }

    /// Ends every socket, a step at a time over `window`, the peers of a room together; each is told to come back within a
    /// few steps, not all at once.
    pub async fn drain(self: &Arc<Self>, window: Duration) {
        let sessions = self.sessions().into_iter().map(|session| {
            let room = session.seats().first().map(|seat| seat.room.clone());
            (room, session)
        });
        let mut ends = tokio::task::JoinSet::new();
        let mut pace = tokio::time::interval((window / DRAIN_STEPS).max(Duration::from_millis(1)));
        for step in in_steps(sessions.collect(), DRAIN_STEPS as usize) {
            pace.tick().await;
            for session in step {
                self.tell(&session, reply::draining(jitter(&session, window / DRAIN_STEPS * 4)));
                self.take(&session, Item::Gone(Parting::lost(ByeReason::NodeShutdown)));
                let signaling = Arc::clone(self);
                ends.spawn(async move { signaling.end(&session).await });
            }
        }
        while ends.join_next().await.is_some() {}
        if let Some(io) = self.io.get() {
            io.close().await;
        }
    }

    /// How many sockets all nodes have, by the library's own count.
    ///
    /// # Errors
    /// When not every node answers.
    pub async fn sockets_of_all_nodes(&self) -> anyhow::Result<usize> {
        let root = self.root().ok_or_else(|| anyhow::anyhow!("not attached"))?;
        Ok(root.fetch_sockets().await.map_err(|error| anyhow::anyhow!("{error}"))?.len())
    }

    /// Ends a socket, whichever node it is on; tells whether there was one. Asks every node for all its sockets: nothing that
    /// a peer should wait for.
    ///
    /// # Errors
    /// When not every node answers.
    pub async fn disconnect(&self, peer: PeerId) -> anyhow::Result<bool> {
        let root = self.root().ok_or_else(|| anyhow::anyhow!("not attached"))?;
        let sockets = root.fetch_sockets().await.map_err(|error| anyhow::anyhow!("{error}"))?;
        let Some(socket) = sockets.into_iter().find(|socket| socket.data().id == peer.0) else { return Ok(false) };
        socket.disconnect().await.map_err(|error| anyhow::anyhow!("{error}"))?;
        Ok(true)
    }

    /// The session of another peer of this node.
    fn seated_session(&self, peer: PeerId) -> Option<Arc<Session>> {
        lock(&self.seated).get(&peer).and_then(Weak::upgrade)
    }

    /// The session of that occupant, if it is one of this node.
    fn session_of(&self, occupant: Occupant) -> Option<Arc<Session>> {
        self.seated_session(occupant.peer).filter(|session| session.occupant() == occupant)
    }

    /// Sends a letter for which nobody waits.
    fn send_letter(&self, room: &RoomName, from: Occupant, to: Occupant, content: Content) {
        if let Some(post) = &self.post {
            post.send(&Letter { room: room.clone(), from, to, content, trace: None }, Haste::No, None);
        }
    }

    /// The same while a letter is being delivered, when what was sent before has to arrive before.
    fn post_after_delivery(&self, room: &RoomName, from: Occupant, to: Occupant, content: Content) {
        if let Some(post) = &self.post {
            post.send(&Letter { room: room.clone(), from, to, content, trace: None }, Haste::AfterDelivery, None);
        }
    }

    async fn connect(self: &Arc<Self>, socket: &Socket, auth: Option<&Value>) -> Result<(), Unwelcome> {
        let Some(flow) = socket.req_parts().extensions.get::<Arc<Flow>>() else {
            return Err(Unwelcome::Stray("this connection did not come by duet's listener"));
        };
        let grant = if self.admission.needs_token() {
            // The handshake is delayed by what went before it; what follows over the same connection is delayed here.
            if flow.was_refused() {
                tokio::time::sleep(self.limiter.another_token(flow.visitor().address, self.limiter.now())).await;
            }
            let token = offered(auth).map_err(Unwelcome::Denied)?.or_else(|| flow.take_token());
            self.admission.admit_or_fetch(token.as_deref()).await.map_err(Unwelcome::Denied)?
        } else {
            Grant::open()
        };
        if flow.is_closed() {
            return Err(Unwelcome::Stray("this connection is being closed"));
        }
        let generation = Generation(self.generations.fetch_add(1, Ordering::Relaxed));
        let resume = match auth {
            Some(Value::Str(auth, _)) => protocol::resume_in(auth),
            _ => None,
        };
        let end = grant.expires();
        let (id, flow, protocol) = (PeerId(socket.id), Arc::clone(flow), socket.protocol());
        self.metrics.socket_opened(flow.is_websocket());
        let session = Session::new(id, generation, self.node, flow, protocol, resume, grant);
        lock(&self.connected).insert(generation, Arc::downgrade(&session));
        if let Some(end) = end {
            self.expiries.insert(end, generation, &session);
        }
        session.set_presence(Presence { signaling: Arc::downgrade(self), generation, end });
        let entry = EventEntry { signaling: Arc::clone(self), session };
        socket.on_fallback(entry.clone());
        socket.on_disconnect(entry);
        Ok(())
    }

    /// Tells a socket that is not let in why. The library's own refusal has no room for a code.
    fn deny(&self, socket: &Socket, denied: Denied) {
        self.metrics.admission_denied(denied.name());
        let Some(flow) = socket.req_parts().extensions.get::<Arc<Flow>>() else { return };
        // Whoever guesses slows down; that the issuer's keys are not known is nobody's guess.
        if denied != Denied::NoKeys {
            self.limiter.failed(flow.visitor().address, 1, self.limiter.now());
        }
        let refusal = Refusal { code: denied.code(), message: denied.to_string().into() };
        flow.refuse(reply::connect_error(&refusal));
        // Over a WebSocket what the client says meanwhile is read when it has been told. One that polls may be told only after
        // an upgrade, for which more has to be read.
        if !socket.req_parts().uri.query().is_some_and(|query| query.contains("transport=websocket")) {
            flow.answered(false);
        }
        // The library ends sessions that do not connect in time, but those of old clients.
        if socket.protocol() == ProtocolVersion::V4 {
            let (flow, time) = (Arc::clone(flow), self.timeouts.handshake);
            self.lifecycle.spawn(async move {
                tokio::time::sleep(time).await;
                flow.close();
            });
        }
    }

    /// Takes a letter of another node.
    fn take_letter(&self, letter: Letter) -> Delivery {
        let Some(this) = self.this.upgrade() else { return Delivery::Unavailable };
        let Letter { room, from, to, content, .. } = letter;
        if content == Content::Superseded {
            this.be_superseded(&room, to);
            return Delivery::Delivered;
        }
        let Some(session) = self.session_of(to) else { return this.take_letter_to_kept(&room, from, to, &content) };
        match content {
            Content::Event { array, attachments } => {
                let attachments = (!attachments.is_empty()).then(|| attachments.into());
                let packet = Packet::event("/", Value::Str(array, attachments));
                match self.hand_over(&session, &room, from, packet) {
                    Ok(()) => {
                        this.pace_elsewhere(from, &room, &session);
                        Delivery::Delivered
                    }
                    Err(Undelivered::Gone) => Delivery::NoPeer,
                    Err(Undelivered::TooSlow) => {
                        this.evict(&session);
                        Delivery::TooSlow
                    }
                }
            }
            Content::Arrived(arrival) => {
                // It is just being lost: its seat may be kept already.
                if !this.arrived_elsewhere(&session, &room, from, &arrival) {
                    return this.take_letter_to_kept(&room, from, to, &Content::Arrived(arrival));
                }
                Delivery::Delivered
            }
            Content::Departed(reason) => {
                this.departed(&session, &room, from, reason);
                Delivery::Delivered
            }
            Content::Pace(behind) => {
                this.paced(&session, behind);
                Delivery::Delivered
            }
            Content::Resumed(resumption) => {
                if !this.resumed_elsewhere(&session, &room, from, &resumption) {
                    return this.take_letter_to_kept(&room, from, to, &Content::Resumed(resumption));
                }
                Delivery::Delivered
            }
            Content::Away(away) => {
                this.peer_away(&session, &room, from, away);
                Delivery::Delivered
            }
            Content::Counts(peers, key) => {
                this.peer_counts(&session, &room, from, (peers, key));
                Delivery::Delivered
            }
            Content::HandOut(last) => {
                let mut seats = session.seats();
                if let Some(seat) = session::seat_in(&mut seats, &room).filter(|seat| seat.other() == Some(from)) {
                    this.let_go(&session, seat, last);
                }
                Delivery::Delivered
            }
            Content::Superseded => Delivery::Delivered,
        }
    }

    /// Takes a letter for a peer that is lost, and whose seat is perhaps kept here.
    fn take_letter_to_kept(
        self: &Arc<Self>,
        room: &RoomName,
        from: Occupant,
        to: Occupant,
        content: &Content,
    ) -> Delivery {
        match content {
            Content::Arrived(arrival) => {
                let Some(away) = self.beside_kept(room, to, from, arrival.order) else { return Delivery::NoPeer };
                self.tell_away(room, to, from, away);
                Delivery::Delivered
            }
            Content::Resumed(resumption) => {
                let order = resumption.arrival.order;
                let Some(away) = self.beside_kept(room, to, from, order) else { return Delivery::NoPeer };
                self.resumed_beside_kept(room, to, from, resumption);
                self.tell_away(room, to, from, away);
                Delivery::Delivered
            }
            Content::Departed(_) => {
                self.departed_from_kept(room, to, from);
                Delivery::Delivered
            }
            Content::Event { .. }
            | Content::Pace(_)
            | Content::Away(_)
            | Content::Counts(..)
            | Content::HandOut(_)
            | Content::Superseded => Delivery::NoPeer,
        }
    }
}

impl Addressee for Signaling {
    fn deliver(&self, letter: Letter) -> Delivery {
        let Some(span) = self.tracer.begin_below_remote(letter.trace) else { return self.take_letter(letter) };
        let event = relay::event_of(&letter.content);
        let delivery = self.take_letter(letter);
        let attributes = [("duet.event", event), ("duet.outcome", relay::result_of_delivery(delivery).name())];
        self.tracer.end(span, Kind::Consumer, ("deliver", event), &attributes);
        delivery
    }

    fn asked(&self, question: Question, reply: Reply) {
        self.answer_question(question, reply);
    }

    fn node_lost(&self, node: NodeId, rooms: &dyn Fn(&RoomName) -> bool) {
        let Some(this) = self.this.upgrade() else { return };
        for session in self.sessions() {
            let gone: Vec<(RoomName, Occupant)> = session
                .seats()
                .iter()
                .filter_map(|seat| Some((seat.room.clone(), seat.other()?)))
                .filter(|(room, other)| other.node == node && rooms(room))
                .collect();
            for (room, other) in gone {
                if self.grace.is_zero() {
                    this.departed(&session, &room, other, ByeReason::NodeLost);
                } else {
                    this.watch(&session, &room, other, Duration::ZERO, ByeReason::NodeLost);
                }
            }
        }
    }

    fn seat_lost(&self, _: &RoomName, who: Occupant) {
        let (Some(this), Some(session)) = (self.this.upgrade(), self.session_of(who)) else { return };
        let refusal = Refusal::new(Code::Unavailable, "this node cannot prove your seat any more; connect again");
        this.close_with(&session, Request::Join, &refusal, ByeReason::NodeLost);
    }

    fn left_late(&self, room: &RoomName, who: Occupant, other: Occupant) {
        if let Some(this) = self.this.upgrade() {
            this.tell_departed(room, who, other, ByeReason::Disconnected);
        }
    }
}

/// Counts a session as connected while it lives. The library calls no handler for a socket that is gone before its
/// CONNECT is answered; dropping the session is what always happens.
#[derive(Debug)]
pub struct Presence {
    signaling: Weak<Signaling>,
    generation: Generation,
    /// When its token ends, if it came with one.
    end: Option<u64>,
}

impl Drop for Presence {
    fn drop(&mut self) {
        if let Some(signaling) = self.signaling.upgrade() {
            lock(&signaling.connected).remove(&self.generation);
            if let Some(end) = self.end {
                signaling.expiries.remove(end, self.generation);
            }
            signaling.metrics.sockets.dec();
        }
    }
}

/// How far an item of an inbox has come.
enum Step {
    /// It is done.
    Done,
    /// It is done when this is.
    Wait(BoxFuture<'static, ()>),
}

/// At most so many steps of about as many rooms each: those of one room are in one step. Who is in none counts as a room.
fn in_steps<T>(mut all: Vec<(Option<RoomName>, T)>, steps: usize) -> Vec<Vec<T>> {
    all.sort_by(|(one, _), (other, _)| one.cmp(other));
    let rooms = all.chunk_by(|(one, _), (other, _)| one.is_some() && one == other).map(<[_]>::len).collect::<Vec<_>>();
    let mut all = all.into_iter().map(|(_, one)| one);
    let at_a_time = rooms.len().div_ceil(steps).max(1);
    rooms.chunks(at_a_time).map(|rooms| all.by_ref().take(rooms.iter().sum()).collect()).collect()
}

/// A part of `most` that differs from socket to socket, evenly spread.
fn jitter(session: &Session, most: Duration) -> Duration {
    // Multiples of the golden ratio, modulo 1.
    let part = session.occupant().generation.0.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 48;
    most * u32::try_from(part).unwrap_or(0) / (1 << 16)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Registers a new socket's handlers before its client can know that it is connected.
#[derive(Clone)]
struct Arrival(Arc<Signaling>);

/// Marks the implementations of the library's traits that are duet's own.
enum Own {}

impl ConnectMiddleware<Switchboard, Own> for Arrival {
    async fn call<'a>(
        &'a self,
        socket: Socket,
        auth: &'a Option<Value>,
    ) -> Result<(), Box<dyn std::fmt::Display + Send>> {
        match self.0.connect(&socket, auth.as_ref()).await {
            Ok(()) => Ok(()),
            Err(unwelcome) => {
                if let Unwelcome::Denied(denied) = unwelcome {
                    self.0.deny(&socket, denied);
                }
                Err(Box::new(unwelcome))
            }
        }
    }
}

/// Why CONNECT is refused.
#[derive(Debug, thiserror::Error)]
enum Unwelcome {
    #[error("{0}")]
    Stray(&'static str),
    #[error("{0}")]
    Denied(Denied),
}

/// The token that a CONNECT packet carries: `{token}`.
fn offered(auth: Option<&Value>) -> Result<Option<Box<str>>, Denied> {
    #[derive(serde::Deserialize)]
    struct Auth {
        token: Option<Box<str>>,
    }
    let Some(Value::Str(text, _)) = auth else { return Ok(None) };
    serde_json::from_str::<Auth>(text).map(|auth| auth.token).map_err(|_| Denied::Malformed)
}

/// What comes after CONNECT is answered; all else was done before.
#[derive(Clone)]
struct Connected;

impl ConnectHandler<Switchboard, Own> for Connected {
    fn call(&self, socket: Socket, _: Option<Value>) {
        // What it said meanwhile is read now.
        if let Some(flow) = socket.req_parts().extensions.get::<Arc<Flow>>() {
            flow.answered(true);
        }
    }
}

/// Where a socket's events and its end come in.
#[derive(Clone)]
struct EventEntry {
    signaling: Arc<Signaling>,
    session: Arc<Session>,
}

impl MessageHandler<Switchboard, Own> for EventEntry {
    fn call(&self, _: Socket, value: Value, ack: Option<i64>) {
        // The default parser never gives anything but text with attachments.
        let Value::Str(text, attachments) = value else { return };
        let event = Event { text, attachments: attachments.filter(|list| !list.is_empty()), ack };
        self.signaling.take(&self.session, Item::Event(event));
    }
}

impl DisconnectHandler<Switchboard, Own> for EventEntry {
    fn call_with_defer(&self, socket: Socket, reason: DisconnectReason, defer: fn(Socket)) {
        let for_good = matches!(
            reason,
            DisconnectReason::ClientNSDisconnect
                | DisconnectReason::ServerNSDisconnect
                | DisconnectReason::PacketParsingError
                | DisconnectReason::MultipleHttpPollingError
        );
        let reason = match reason {
            DisconnectReason::HeartbeatTimeout => ByeReason::TimedOut,
            DisconnectReason::PacketParsingError | DisconnectReason::MultipleHttpPollingError => {
                ByeReason::ProtocolError
            }
            DisconnectReason::ClosingServer => ByeReason::NodeShutdown,
            DisconnectReason::TransportClose
            | DisconnectReason::TransportError
            | DisconnectReason::ClientNSDisconnect
            | DisconnectReason::ServerNSDisconnect => ByeReason::Disconnected,
        };
        self.signaling.take(&self.session, Item::Gone(Parting { reason, for_good }));
        defer(socket);
    }
}

/// Attachments of a binary event.
pub type Attachments = std::collections::VecDeque<Bytes>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_drain_takes_all_in_its_steps_and_never_parts_a_room() {
        let room = |number: usize| RoomName::parse(&format!("room {number}")).ok();
        for (alone, pairs) in [(0, 0), (1, 0), (0, 1), (3, 10), (7, 25), (1, 500)] {
            // The two of a room far from each other, as sessions come in any order.
            let seated = (0..2).flat_map(|side| (0..pairs).map(move |pair| (room(pair), (pair, side))));
            let all: Vec<_> = (0..alone).map(|one| (None, (1000 + one, 0))).chain(seated).collect();
            let steps = in_steps(all, 20);
            assert!(steps.len() <= 20 && steps.iter().all(|step| !step.is_empty()));
            let step_by_pair: HashMap<_, _> =
                steps.iter().enumerate().flat_map(|(n, step)| step.iter().map(move |who| (*who, n))).collect();
            assert_eq!(step_by_pair.len(), alone + 2 * pairs, "each once");
            assert!((0..pairs).all(|pair| step_by_pair[&(pair, 0)] == step_by_pair[&(pair, 1)]));
        }
    }
}
