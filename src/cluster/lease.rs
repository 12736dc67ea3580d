//! The seats of this node in one partition, and the lease that they stand on.
//!
//! A partition is the rooms that share one hash tag: all of them, or on a Redis Cluster one in [`topology::PARTITIONS`].
//! Each is a small service of its own: its own lease, epoch, recovery. One task keeps the lease (`Partition::run`);
//! joins and leaves go through the partition, and find out there whether it can be asked.
//!
//! What an operation does stands in its Lua file (`cluster/lua/`). What this side owes to them:
//!
//! * Over a new connection the first thing is `enter`, with a new token. What was sent over an earlier connection takes
//!   effect before that or not at all.
//! * A seat is told to a peer only when the answer came under the lease that it was asked under.
//! * When a renewal was sent so long ago that the lease may have ended, the node acts as if it had.
//! * Nobody is seated unless the last renewal said that all is settled and that every other node knows of this one.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::Duration,
};

use redis::Value;
use smallvec::SmallVec;
use tokio::{
    sync::{Notify, watch},
    time::{Instant, sleep_until, timeout_at},
};
use tokio_util::sync::CancellationToken;

use super::{
    beat::Beat,
    connection::{Connection, Connections},
    gate::Gate,
    scripts::{self, CallError, Operation, number, text},
    topology,
};
use crate::{
    config,
    exchange::Addressee,
    id::{Generation, NodeId, PeerId, RoomName, SeatKey},
    metrics::Metrics,
    rooms::{
        Ask, Expiry, Join, JoinOutcome, KeepOutcome, LeaveOutcome, Mail, Most, Occupancy, Occupant, RegistryError,
        Role, Serial, Taken,
    },
};

/// Seats in one call of `assert`.
const ASSERT_BATCH: usize = 200;
/// How much of anything else is done between two renewals.
const CHORES: usize = 500;

/// Takes the number of a partition and the nodes it sees.
pub type OnView = Box<dyn Fn(u16, &[NodeId]) + Send + Sync>;

/// Of which partitions this node has no lease, or may have none, until it can seat peers there again. While it has one in none
/// of them, the other nodes forget this one.
#[derive(Debug, Default)]
pub struct Absence {
    without: HashSet<u16>,
    forgotten: bool,
}

impl Absence {
    /// The lease has ended, or may have, in `partition`, one `of` so many.
    fn begin(&mut self, partition: u16, of: u16) {
        self.without.insert(partition);
        self.forgotten |= self.without.len() >= of.into();
    }

    /// Peers can be seated in `partition`, so every other node knows this one; tells whether they may have forgotten it.
    fn end(&mut self, partition: u16) -> bool {
        self.without.remove(&partition);
        std::mem::take(&mut self.forgotten)
    }
}

/// What partitions share.
pub struct Shared {
    /// This node.
    pub node: NodeId,
    /// `[cluster]`
    pub settings: config::Cluster,
    /// How long a seat that can be taken back is kept after its holder is gone; zero for not at all.
    pub grace: Duration,
    /// How long what is kept for whoever comes is of use.
    pub keep_age: Duration,
    /// When leases are renewed.
    pub beat: Beat,
    /// To Redis.
    pub connections: Arc<Connections>,
    /// The node's metrics.
    pub metrics: Metrics,
    /// Shut while a partition cannot seat peers.
    pub gate: Gate,
    /// Who has to know of lost nodes and seats.
    pub addressee: std::sync::OnceLock<Weak<dyn Addressee>>,
    /// Cancelled when this node goes: no lease is renewed any more.
    pub going: CancellationToken,
    /// Told of every change of the nodes that a partition sees.
    pub on_view: OnView,
    /// Where there is no lease.
    pub absence: Mutex<Absence>,
    /// Told when the other nodes know this one again and may have forgotten it, before any peer is seated.
    pub on_return: Box<dyn Fn() + Send + Sync>,
}

impl Shared {
    fn addressee(&self) -> Option<Arc<dyn Addressee>> {
        self.addressee.get().and_then(Weak::upgrade)
    }

    /// How long such a seat is kept after the end of its lease, which comes that much later than the last sign of its node.
    fn keep(&self) -> Duration {
        self.grace.saturating_sub(self.settings.lease)
    }

    /// How long after it was sent a renewal is relied on: less than the lease lasts at Redis, so that what has to be done
    /// at its end is done before others act on it.
    fn reliance(&self) -> Duration {
        self.settings.lease / 8 * 7
    }

    /// How long an answer may take before the connection is taken for dead: long enough for a server that stalls, and
    /// early enough to renew over another connection.
    fn silence(&self) -> Duration {
        self.settings.lease / 8 * 5
    }
}

/// What a partition's keys are called.
#[derive(Debug)]
struct Names {
    prefix: String,
    state: String,
    nodes: String,
    leases: String,
    waiting: String,
    dead: String,
}

impl Names {
    fn new(prefix: &str, index: u16) -> Self {
        let prefix = format!("{prefix}:{{{index}}}:");
        let key = |name: &str| format!("{prefix}{name}");
        Self {
            state: key("state"),
            nodes: key("nodes"),
            leases: key("leases"),
            waiting: key("waiting"),
            dead: key("dead"),
            prefix,
        }
    }

    fn fixed(&self) -> [&str; 5] {
        [&self.state, &self.nodes, &self.leases, &self.waiting, &self.dead]
    }
}

/// A lease, over one connection.
#[derive(Debug)]
struct Standing {
    connection: Arc<Connection>,
    epoch: String,
    lease: u64,
    lease_text: String,
    token: String,
}

/// Whether peers can be seated.
#[derive(Debug, Clone)]
enum Phase {
    /// Not now.
    Away,
    /// Under this.
    Usable(Arc<Standing>),
}

#[derive(Debug, Clone, Copy)]
struct Seat {
    who: Occupant,
    role: Role,
    key: Option<SeatKey>,
    order: u64,
}

/// The seats told to peers of this node.
#[derive(Debug, Default)]
struct Held {
    /// The lease that they are held under; none fits an answer of another.
    lease: u64,
    seats: HashMap<RoomName, SmallVec<[Seat; 2]>>,
    /// Pairs that go on although their seats cannot be proven.
    unproven: HashMap<RoomName, SmallVec<[Seat; 2]>>,
    /// Seats to be given up as soon as that can be told.
    to_leave: Vec<(RoomName, Occupant)>,
    /// Those of them that are being given up.
    leaving: Vec<(RoomName, Occupant)>,
}

/// One partition of the rooms, as this node sees it.
pub struct Partition {
    index: u16,
    slot: u16,
    names: Names,
    node: String,
    shared: Arc<Shared>,
    phase: watch::Sender<Phase>,
    held: Mutex<Held>,
    /// Renew now.
    poke: Notify,
    /// Held while seats are given up late.
    late: tokio::sync::Mutex<()>,
}

impl std::fmt::Debug for Partition {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Partition").field("index", &self.index).finish_non_exhaustive()
    }
}

/// What the keeping of a lease remembers from one connection to the next.
#[derive(Debug, Default)]
struct Memory {
    /// The epoch the lease was held in; empty when there is none that counts.
    epoch: String,
    lease: u64,
    token: u64,
    /// Version of the table of nodes that `view` is of.
    seen: i64,
    view: Vec<NodeId>,
    /// Whether this node could seat peers under the lease: only then can it say who else may have.
    could_seat: bool,
    /// Until when the lease is relied on.
    until: Option<Instant>,
}

/// How a stretch over one connection ended.
enum End {
    /// The connection is of no use any more.
    Broken,
    /// The lease, or the epoch, is another: enter again.
    Changed,
}

impl Partition {
    /// Partition `index`, not yet entered.
    #[must_use]
    pub fn new(prefix: &str, index: u16, shared: Arc<Shared>) -> Self {
        let names = Names::new(prefix, index);
        shared.gate.shut();
        let partition = Self {
            index,
            slot: topology::slot(names.state.as_bytes()),
            names,
            node: shared.node.to_string(),
            shared,
            phase: watch::Sender::new(Phase::Away),
            held: Mutex::default(),
            poke: Notify::new(),
            late: tokio::sync::Mutex::default(),
        };
        partition.begin_absence();
        partition
    }

    /// Asks for a seat.
    ///
    /// # Errors
    /// When it cannot be told in time. Then nobody is seated, or the seat is given up soon.
    pub async fn join(&self, room: &RoomName, ask: Ask) -> Result<Join, RegistryError> {
        let until = Instant::now() + self.shared.settings.patience;
        let joined = self.join_until(room, ask, until).await;
        if joined.is_err() {
            self.shared.metrics.recovery_refusals.inc();
        }
        joined
    }

    async fn join_until(&self, room: &RoomName, ask: Ask, until: Instant) -> Result<Join, RegistryError> {
        let who = ask.who;
        let unavailable = |why: &str| RegistryError::Unavailable(why.to_owned());
        let mut phases = self.phase.subscribe();
        loop {
            let standing = timeout_at(until, async {
                loop {
                    if let Phase::Usable(standing) = &*phases.borrow_and_update() {
                        return Arc::clone(standing);
                    }
                    // The sender is this object's own.
                    let _ = phases.changed().await;
                }
            })
            .await
            .map_err(|_| unavailable("redis is out of reach, or recovers"))?;
            if let Err(error) = self.settle_earlier(&standing.connection, room, who).await {
                tracing::debug!(%error, "leave");
                self.held().to_leave.push((room.clone(), who));
                return Err(unavailable("redis did not answer"));
            }
            let answer = match self.ask_to_join(&standing, room, ask, until).await {
                Ok(answer) => answer,
                Err(error) => {
                    // It may have taken effect, or may yet.
                    self.held().to_leave.push((room.clone(), who));
                    if matches!(error, CallError::Form) {
                        tracing::error!("the join script answered in another form than expected");
                    }
                    self.poke.notify_one();
                    return Err(unavailable("redis did not answer"));
                }
            };
            if let Some(join) = answer {
                let role = match join.outcome {
                    JoinOutcome::Full => return Ok(join),
                    JoinOutcome::Created => Role::Created,
                    JoinOutcome::Joined(_) => Role::Joined,
                    JoinOutcome::Seated(role, _) | JoinOutcome::Resumed(role, ..) => role,
                };
                let mut held = self.held();
                if held.lease == standing.lease {
                    let seats = held.seats.entry(room.clone()).or_default();
                    let mut key = ask.key;
                    if let JoinOutcome::Resumed(_, before, _) = join.outcome {
                        key = ask.resume;
                        seats.retain(|seat| seat.who != before);
                    }
                    if !seats.iter().any(|seat| seat.who == who) {
                        seats.push(Seat { who, role, key, order: join.order });
                    }
                    return Ok(join);
                }
            }
            // The lease that it was asked under is no more: nothing came of it. Another may do.
            self.poke.notify_one();
            let changed = timeout_at(
                until,
                phases.wait_for(|phase| match phase {
                    Phase::Away => true,
                    Phase::Usable(now) => now.lease != standing.lease || now.token != standing.token,
                }),
            );
            if changed.await.is_err() {
                return Err(unavailable("redis recovers"));
            }
        }
    }

    /// An earlier request of the same occupant may still be to be undone: that comes before a new one.
    async fn settle_earlier(&self, connection: &Connection, room: &RoomName, who: Occupant) -> Result<(), CallError> {
        let is_it = |(its_room, its): &(RoomName, Occupant)| its_room == room && *its == who;
        if !self.held().leaving.iter().any(is_it) && !self.held().to_leave.iter().any(is_it) {
            return Ok(());
        }
        let _until_given_up = self.late.lock().await;
        let before = self.held().to_leave.len();
        self.held().to_leave.retain(|late| !is_it(late));
        if self.held().to_leave.len() < before
            && let LeaveOutcome::Left(Some(other)) = self.ask_to_leave(connection, room, who).await?
            && let Some(addressee) = self.shared.addressee()
        {
            addressee.left_late(room, who, other);
        }
        Ok(())
    }

    async fn ask_to_join(
        &self,
        standing: &Standing,
        room: &RoomName,
        Ask { who, key, resume }: Ask,
        until: Instant,
    ) -> Result<Option<Join>, CallError> {
        let room_key = format!("{}room:{}", self.names.prefix, room.as_str());
        let seats_key = format!("{}seats:{}:{}", self.names.prefix, self.node, standing.lease_text);
        let [state, nodes, leases, waiting, dead] = self.names.fixed();
        let generation = who.generation.0.to_string();
        let (key, resume, keep) = (key_text(key), key_text(resume), millis(self.shared.keep()));
        let keep_age = millis(self.shared.keep_age);
        let answer = scripts::JOIN
            .call(
                &standing.connection,
                &[state, nodes, leases, waiting, dead, &room_key, &seats_key],
                &[
                    self.node.as_bytes(),
                    standing.lease_text.as_bytes(),
                    standing.token.as_bytes(),
                    who.peer.0.as_str().as_bytes(),
                    generation.as_bytes(),
                    room.as_str().as_bytes(),
                    self.names.prefix.as_bytes(),
                    key.as_bytes(),
                    resume.as_bytes(),
                    keep.as_bytes(),
                    keep_age.as_bytes(),
                ],
                until.saturating_duration_since(Instant::now()),
                &self.shared.metrics,
            )
            .await?;
        let (mail, answer) = kept_with(&answer)?;
        let order = || u64::try_from(number(answer.get(1))?).map_err(|_| CallError::Form);
        Ok(Some(match text(answer.first())? {
            "created" => Join { outcome: JoinOutcome::Created, order: order()?, away: false, mail },
            "joined" => {
                let (other, away) = with(answer.get(2..).unwrap_or_default())?;
                Join { outcome: JoinOutcome::Joined(other.ok_or(CallError::Form)?), order: order()?, away, mail }
            }
            "full" => JoinOutcome::Full.into(),
            "seated" => {
                let (other, away) = with(answer.get(2..).unwrap_or_default())?;
                Join { outcome: JoinOutcome::Seated(role(answer.get(1))?, other), order: 0, away, mail }
            }
            "resumed" => {
                let before = occupant(answer.get(3..6).unwrap_or_default())?.ok_or(CallError::Form)?;
                let (other, away) = with(answer.get(6..).unwrap_or_default())?;
                Join { outcome: JoinOutcome::Resumed(role(answer.get(2))?, before, other), order: order()?, away, mail }
            }
            "lost" | "recovering" => return Ok(None),
            _ => return Err(CallError::Form),
        }))
    }

    /// Gives up a seat, now or as soon as it can be told.
    pub async fn leave(&self, room: &RoomName, who: Occupant) -> LeaveOutcome {
        let alone = {
            let mut held = self.held();
            if let Some(seats) = held.seats.get_mut(room) {
                seats.retain(|seat| seat.who != who);
                if seats.is_empty() {
                    held.seats.remove(room);
                }
            }
            let seats = held.unproven.remove(room).unwrap_or_default();
            seats.iter().map(|seat| seat.who).find(|other| *other != who)
        };
        if let Some(alone) = alone {
            // What kept it was only that it talked to this one.
            self.lose(room, alone);
        }
        let phase = self.phase.borrow().clone();
        if let Phase::Usable(standing) = phase {
            match self.ask_to_leave(&standing.connection, room, who).await {
                Ok(outcome) => return outcome,
                Err(error) => tracing::debug!(%error, "leave"),
            }
        }
        self.held().to_leave.push((room.clone(), who));
        self.poke.notify_one();
        LeaveOutcome::Deferred
    }

    async fn ask_to_leave(
        &self,
        connection: &Connection,
        room: &RoomName,
        who: Occupant,
    ) -> Result<LeaveOutcome, CallError> {
        let room_key = format!("{}room:{}", self.names.prefix, room.as_str());
        let [state, nodes, leases, waiting, dead] = self.names.fixed();
        let generation = who.generation.0.to_string();
        let answer = scripts::LEAVE
            .call(
                connection,
                &[state, nodes, leases, waiting, dead, &room_key],
                &[
                    // An operator may free the seat of a node that is gone.
                    who.node.0.as_str().as_bytes(),
                    who.peer.0.as_str().as_bytes(),
                    generation.as_bytes(),
                    room.as_str().as_bytes(),
                    self.names.prefix.as_bytes(),
                ],
                self.shared.settings.patience,
                &self.shared.metrics,
            )
            .await?;
        match text(answer.first())? {
            "left" => Ok(LeaveOutcome::Left(occupant(&answer[1..])?)),
            "none" => Ok(LeaveOutcome::NotSeated),
            _ => Err(CallError::Form),
        }
    }

    /// Keeps a message of an occupant of this node.
    ///
    /// # Errors
    /// When it cannot be told whether it is kept.
    pub async fn keep(
        &self,
        room: &RoomName,
        from: Occupant,
        to: Option<Occupant>,
        (mail, before): (Mail, usize),
        most: Most,
    ) -> Result<KeepOutcome, RegistryError> {
        let unavailable = || RegistryError::Unavailable("redis is out of reach, or recovers".to_owned());
        let Phase::Usable(standing) = self.phase.borrow().clone() else { return Err(unavailable()) };
        let room_key = format!("{}room:{}", self.names.prefix, room.as_str());
        let [state, nodes, leases, waiting, dead] = self.names.fixed();
        // A seat is kept that long at most, whatever becomes of its node.
        let age = if to.is_some() { self.shared.grace * 2 + self.shared.settings.lease } else { most.age };
        let to = to.map_or_else(
            || ["-", "-", "-"].map(str::to_owned),
            |to| [to.peer.to_string(), to.generation.0.to_string(), to.node.to_string()],
        );
        let numbers = [from.generation.0, mail.serial.seat, mail.serial.said].map(|number| number.to_string());
        let (keep, age) = (millis(self.shared.keep()), millis(age));
        let [messages, bytes, before] = [most.messages, most.bytes, before].map(|number| number.to_string());
        let answer = scripts::KEEP
            .call(
                &standing.connection,
                &[state, nodes, leases, waiting, dead, &room_key],
                &[
                    self.node.as_bytes(),
                    standing.lease_text.as_bytes(),
                    standing.token.as_bytes(),
                    from.peer.0.as_str().as_bytes(),
                    numbers[0].as_bytes(),
                    room.as_str().as_bytes(),
                    self.names.prefix.as_bytes(),
                    keep.as_bytes(),
                    to[0].as_bytes(),
                    to[1].as_bytes(),
                    to[2].as_bytes(),
                    numbers[1].as_bytes(),
                    numbers[2].as_bytes(),
                    &mail.body,
                    messages.as_bytes(),
                    bytes.as_bytes(),
                    age.as_bytes(),
                    before.as_bytes(),
                ],
                self.shared.settings.patience,
                &self.shared.metrics,
            )
            .await;
        answer.and_then(|answer| kept(&answer)).map_err(|error| {
            tracing::debug!(%error, "keep");
            unavailable()
        })
    }

    /// An occupant of this node is none any more, and its seat is left as it is.
    pub fn forget(&self, room: &RoomName, who: Occupant) {
        let mut held = self.held();
        if let Some(seats) = held.seats.get_mut(room) {
            seats.retain(|seat| seat.who != who);
            if seats.is_empty() {
                held.seats.remove(room);
            }
        }
    }

    /// Asks what became of the seat of an occupant whose node is gone.
    ///
    /// # Errors
    /// When it cannot be told now.
    pub async fn expire(&self, room: &RoomName, who: Occupant) -> Result<Expiry, RegistryError> {
        let unavailable = || RegistryError::Unavailable("redis is out of reach, or recovers".to_owned());
        let Phase::Usable(standing) = self.phase.borrow().clone() else { return Err(unavailable()) };
        let room_key = format!("{}room:{}", self.names.prefix, room.as_str());
        let [state, nodes, leases, waiting, dead] = self.names.fixed();
        let (node, peer, generation) = (who.node.to_string(), who.peer.to_string(), who.generation.0.to_string());
        let keep = millis(self.shared.keep());
        let answer = scripts::EXPIRE
            .call(
                &standing.connection,
                &[state, nodes, leases, waiting, dead, &room_key],
                &[node.as_bytes(), peer.as_bytes(), generation.as_bytes(), keep.as_bytes()],
                self.shared.settings.patience,
                &self.shared.metrics,
            )
            .await;
        let expiry = answer.and_then(|answer| match text(answer.first())? {
            "free" => Ok(Expiry::Free),
            "taken" => Ok(Expiry::Taken),
            "kept" => {
                let longer = u64::try_from(number(answer.get(1))?).map_err(|_| CallError::Form)?;
                Ok(Expiry::Kept(Duration::from_millis(longer)))
            }
            _ => Err(CallError::Form),
        });
        expiry.map_err(|error| {
            tracing::debug!(%error, "expire");
            unavailable()
        })
    }

    /// Who sits in a room.
    ///
    /// # Errors
    /// When Redis cannot be asked, or cannot tell yet.
    pub async fn look(&self, room: &RoomName) -> Result<Vec<Taken>, RegistryError> {
        let unavailable = || RegistryError::Unavailable("redis is out of reach, or recovers".to_owned());
        let Phase::Usable(standing) = self.phase.borrow().clone() else { return Err(unavailable()) };
        let room_key = format!("{}room:{}", self.names.prefix, room.as_str());
        let [state, nodes, leases, waiting, dead] = self.names.fixed();
        let keep = millis(self.shared.keep());
        let answer = scripts::LOOK
            .call(
                &standing.connection,
                &[state, nodes, leases, waiting, dead, &room_key],
                &[keep.as_bytes()],
                self.shared.settings.patience,
                &self.shared.metrics,
            )
            .await;
        answer.and_then(|answer| taken(&answer)).map_err(|error| {
            tracing::debug!(%error, "look");
            unavailable()
        })
    }

    /// Rooms and seats held.
    #[must_use]
    pub fn occupancy(&self) -> Occupancy {
        let held = self.held();
        let unproven = held.unproven.len();
        Occupancy {
            rooms: held.seats.len() + unproven,
            seats: held.seats.values().map(SmallVec::len).sum::<usize>() + unproven * 2,
        }
    }

    /// Gives up the lease: this node goes.
    pub async fn quit(&self) {
        let phase = self.phase.send_replace(Phase::Away);
        let Phase::Usable(standing) = phase else { return };
        while self.leave_late(&standing.connection).await.is_ok_and(|more| more) {}
        // Seats that can be taken back are kept for the whole grace time, as if the lease ended when it would have.
        let later = millis(self.shared.grace.min(self.shared.settings.lease));
        let arguments = [self.node.as_bytes(), standing.lease_text.as_bytes(), later.as_bytes()];
        let quit = self.call(&scripts::QUIT, &standing.connection, &arguments, Duration::from_secs(1));
        if let Err(error) = quit.await {
            tracing::debug!(%error, "quit");
        }
    }

    /// Keeps the lease, until this node goes.
    pub async fn run(&self) {
        self.shared.going.run_until_cancelled(self.keep_lease()).await;
    }

    async fn keep_lease(&self) {
        let mut memory = Memory::default();
        loop {
            let connection = self.next_connection(&mut memory).await;
            match self.stay(&connection, &mut memory).await {
                Ok(End::Changed | End::Broken) | Err(CallError::Redis(_)) => {}
                Err(CallError::Late) => connection.give_up(),
                Err(CallError::Form) => {
                    tracing::error!("a script answered in another form than expected");
                    connection.give_up();
                }
            }
            self.set_away();
        }
    }

    /// Waits for a connection, and for the end of what is relied on.
    async fn next_connection(&self, memory: &mut Memory) -> Arc<Connection> {
        loop {
            let until = memory.until;
            tokio::select! {
                connection = self.shared.connections.to(self.slot) => return connection,
                () = sleep_until(until.unwrap_or_else(Instant::now)), if until.is_some() => self.lapse(memory),
            }
        }
    }

    /// Enters over `connection` and renews until that does not do any more.
    async fn stay(&self, connection: &Arc<Connection>, memory: &mut Memory) -> Result<End, CallError> {
        if memory.until.is_some_and(|until| until <= Instant::now()) {
            self.lapse(memory);
        }
        let standing = Arc::new(self.enter(connection, memory).await?);
        let mut usable = false;
        loop {
            let sent = Instant::now();
            let answer = tokio::select! {
                answer = self.renew(&standing, memory) => answer?,
                () = self.until_lapse(memory) => {
                    self.lapse(memory);
                    return Err(CallError::Late);
                }
            };
            let Some((settled, established, dead, again)) = self.renewed(&answer, memory)? else {
                return Ok(End::Changed);
            };
            memory.until = Some(sent + self.shared.reliance());
            if memory.could_seat {
                // All is asserted: over another connection it need not be again.
                memory.epoch.clone_from(&standing.epoch);
            }
            let chores = async {
                let mut more = false;
                if settled {
                    more |= self.leave_late(connection).await?;
                    more |= self.reclaim(&standing).await?;
                }
                if settled && dead > 0 {
                    more |= self.sweep(connection).await?;
                }
                Ok::<_, CallError>(more)
            };
            let more = tokio::select! {
                more = chores => more?,
                () = self.until_lapse(memory) => {
                    self.lapse(memory);
                    return Err(CallError::Late);
                }
            };
            if settled && established && !usable && !more {
                usable = true;
                // Not earlier: until then, this node cannot say who else may seat peers.
                memory.could_seat = true;
                memory.epoch.clone_from(&standing.epoch);
                {
                    // Nor does another partition seat anybody before lines begin anew.
                    let mut absence = self.absence();
                    if absence.end(self.index) {
                        (self.shared.on_return)();
                    }
                }
                self.phase.send_replace(Phase::Usable(Arc::clone(&standing)));
                self.shared.gate.open();
                self.shared.metrics.leases.inc();
            } else if !settled && usable {
                // Another epoch began and is known by its number only at the next renewal.
                return Ok(End::Changed);
            }
            let next = if again || more {
                sent
            } else if usable {
                self.shared.beat.after(sent, self.shared.settings.renew)
            } else {
                sent + self.shared.settings.renew / 5
            };
            tokio::select! {
                () = sleep_until(next) => {}
                () = self.poke.notified() => {}
                () = connection.broken() => return Ok(End::Broken),
            }
        }
    }

    async fn until_lapse(&self, memory: &Memory) {
        match memory.until {
            Some(until) => sleep_until(until).await,
            None => std::future::pending().await,
        }
    }

    async fn call(
        &self,
        operation: &Operation,
        connection: &Connection,
        arguments: &[&[u8]],
        patience: Duration,
    ) -> Result<Vec<Value>, CallError> {
        operation.call(connection, &self.names.fixed(), arguments, patience, &self.shared.metrics).await
    }

    async fn enter(&self, connection: &Arc<Connection>, memory: &mut Memory) -> Result<Standing, CallError> {
        memory.token += 1;
        let token = memory.token.to_string();
        let (lease, ttl) = (memory.lease.to_string(), self.shared.settings.lease.as_millis().to_string());
        let view: Vec<String> =
            if memory.could_seat { memory.view.iter().map(ToString::to_string).collect() } else { Vec::new() };
        let held_in = if memory.could_seat { memory.epoch.as_str() } else { "" };
        let mut arguments: Vec<&[u8]> =
            vec![self.node.as_bytes(), lease.as_bytes(), token.as_bytes(), ttl.as_bytes(), held_in.as_bytes()];
        arguments.extend(view.iter().map(String::as_bytes));
        let sent = Instant::now();
        let answer = tokio::select! {
            answer = self.call(&scripts::ENTER, connection, &arguments, self.shared.silence()) => answer?,
            () = self.until_lapse(memory) => {
                self.lapse(memory);
                return Err(CallError::Late);
            }
        };
        let status = text(answer.first())?;
        let epoch = text(answer.get(1))?.to_owned();
        let lease_text = text(answer.get(2))?.to_owned();
        memory.lease = lease_text.parse().map_err(|_| CallError::Form)?;
        let standing = Standing { connection: connection.clone(), epoch, lease: memory.lease, lease_text, token };
        match status {
            "held" => memory.until = Some(sent + self.shared.reliance()),
            "assert" => {
                // What is held is relied on no longer than before until it is asserted.
                memory.seen = 0;
                tracing::info!(partition = self.index, "redis came back as another: seats are asserted");
                self.assert(&standing, memory).await?;
            }
            "fresh" => {
                memory.until = Some(sent + self.shared.reliance());
                memory.could_seat = false;
                memory.seen = 0;
                self.start_anew(standing.lease);
            }
            "late" => return Err(CallError::Late),
            _ => return Err(CallError::Form),
        }
        Ok(standing)
    }

    async fn renew(&self, standing: &Standing, memory: &Memory) -> Result<Vec<Value>, CallError> {
        let (ttl, seen) = (self.shared.settings.lease.as_millis().to_string(), memory.seen.to_string());
        let arguments: [&[u8]; 7] = [
            self.node.as_bytes(),
            standing.lease_text.as_bytes(),
            standing.token.as_bytes(),
            ttl.as_bytes(),
            standing.epoch.as_bytes(),
            seen.as_bytes(),
            // Its seats were asserted before this.
            b"1",
        ];
        self.call(&scripts::RENEW, &standing.connection, &arguments, self.shared.silence()).await
    }

    /// What a renewal says: settled, established, how many ended leases there are, and whether the others are to be
    /// told at once that this node has seen them. None: enter again.
    fn renewed(&self, answer: &[Value], memory: &mut Memory) -> Result<Option<(bool, bool, i64, bool)>, CallError> {
        if text(answer.first())? != "held" {
            return Ok(None);
        }
        let version = number(answer.get(1))?;
        let (settled, established) = (number(answer.get(2))? == 1, number(answer.get(3))? == 1);
        let dead = number(answer.get(4))?;
        if !settled || version == memory.seen {
            return Ok(Some((settled, established, dead, false)));
        }
        let mut view = Vec::with_capacity(answer.len() - 5);
        for node in &answer[5..] {
            view.push(NodeId(text(Some(node))?.parse().map_err(|_| CallError::Form)?));
        }
        for gone in memory.view.iter().filter(|known| !view.contains(known)) {
            if let Some(addressee) = self.shared.addressee() {
                let count = self.partitions();
                addressee.node_lost(*gone, &|room| partition_of(room, count) == self.index);
            }
        }
        (self.shared.on_view)(self.index, &view);
        memory.view = view;
        memory.seen = version;
        Ok(Some((settled, established, dead, true)))
    }

    fn partitions(&self) -> u16 {
        self.shared.connections.partitions()
    }

    /// States every seat under a lease of a new epoch.
    async fn assert(&self, standing: &Standing, memory: &Memory) -> Result<(), CallError> {
        let seats: Vec<(RoomName, Seat)> = {
            let mut held = self.held();
            held.lease = standing.lease;
            held.seats.iter().flat_map(|(room, seats)| seats.iter().map(|seat| (room.clone(), *seat))).collect()
        };
        for batch in seats.chunks(ASSERT_BATCH) {
            let texts: Vec<[String; 3]> = batch
                .iter()
                .map(|(_, seat)| [seat.who.generation.0.to_string(), key_text(seat.key), seat.order.to_string()])
                .collect();
            let mut arguments: Vec<&[u8]> = vec![
                self.node.as_bytes(),
                standing.lease_text.as_bytes(),
                standing.token.as_bytes(),
                self.names.prefix.as_bytes(),
            ];
            for ((room, seat), [generation, key, order]) in batch.iter().zip(&texts) {
                arguments.extend([
                    room.as_str().as_bytes(),
                    seat.who.peer.0.as_str().as_bytes(),
                    generation.as_bytes(),
                    seat.role.name().as_bytes(),
                    key.as_bytes(),
                    order.as_bytes(),
                ]);
            }
            let answer = tokio::select! {
                answer = self.call(&scripts::ASSERT, &standing.connection, &arguments, self.shared.silence()) => answer?,
                () = self.until_lapse(memory) => return Err(CallError::Late),
            };
            if text(answer.first())? != "asserted" {
                return Err(CallError::Late);
            }
            for refused in &answer[1..] {
                let at = usize::try_from(number(Some(refused))?).map_err(|_| CallError::Form)?;
                let (room, seat) = batch.get(at).ok_or(CallError::Form)?;
                self.let_go(room, seat.who);
            }
        }
        Ok(())
    }

    /// The lease may have ended at Redis.
    fn lapse(&self, memory: &mut Memory) {
        memory.until = None;
        memory.could_seat = false;
        self.set_away();
        self.begin_absence();
        // Answers that come now are of no use.
        self.held().lease = 0;
        self.lose_the_unprovable("lapsed");
    }

    /// Under this lease nothing is held yet.
    fn start_anew(&self, lease: u64) {
        self.held().lease = lease;
        self.begin_absence();
        self.lose_the_unprovable("lost");
    }

    fn begin_absence(&self) {
        self.absence().begin(self.index, self.partitions());
    }

    /// Ends what was held, but for pairs that may go on.
    fn lose_the_unprovable(&self, how: &str) {
        let lost: Vec<(RoomName, Seat)> = {
            let mut held = self.held();
            let mut lost = Vec::new();
            for (room, seats) in std::mem::take(&mut held.seats) {
                if self.shared.settings.keep_pairs && seats.len() == 2 {
                    held.unproven.insert(room, seats);
                } else {
                    lost.extend(seats.iter().map(|seat| (room.clone(), *seat)));
                }
            }
            lost
        };
        if !lost.is_empty() {
            tracing::warn!(partition = self.index, seats = lost.len(), how, "seats cannot be proven any more");
        }
        for (room, seat) in lost {
            self.lose(&room, seat.who);
        }
    }

    fn lose(&self, room: &RoomName, who: Occupant) {
        self.shared.metrics.seats_lost.inc();
        if let Some(addressee) = self.shared.addressee() {
            addressee.seat_lost(room, who);
        }
    }

    fn let_go(&self, room: &RoomName, who: Occupant) {
        {
            let mut held = self.held();
            if let Some(seats) = held.seats.get_mut(room) {
                seats.retain(|seat| seat.who != who);
                if seats.is_empty() {
                    held.seats.remove(room);
                }
            }
        }
        self.lose(room, who);
    }

    /// Takes seats anew for pairs that went on without, some of them; tells whether there are more.
    async fn reclaim(&self, standing: &Standing) -> Result<bool, CallError> {
        let pairs: Vec<(RoomName, SmallVec<[Seat; 2]>)> = {
            let mut held = self.held();
            let rooms: Vec<RoomName> = held.unproven.keys().take(CHORES).cloned().collect();
            rooms.into_iter().filter_map(|room| held.unproven.remove_entry(&room)).collect()
        };
        let taken =
            futures_util::future::join_all(pairs.iter().map(|(room, seats)| self.retake(standing, room, seats)));
        for ((room, seats), taken) in pairs.iter().zip(taken.await) {
            let mut held = self.held();
            match taken {
                Ok(true) => {
                    // One that left meanwhile is given up after this.
                    let left = |who| held.to_leave.iter().any(|(its_room, its)| its_room == room && *its == who);
                    let stay: SmallVec<[Seat; 2]> = seats.iter().filter(|seat| !left(seat.who)).copied().collect();
                    if !stay.is_empty() {
                        held.seats.insert(room.clone(), stay);
                    }
                }
                Ok(false) => {
                    held.to_leave.extend(seats.iter().map(|seat| (room.clone(), seat.who)));
                    drop(held);
                    for seat in seats {
                        self.lose(room, seat.who);
                    }
                }
                Err(error) => {
                    held.unproven.insert(room.clone(), seats.clone());
                    drop(held);
                    return Err(error);
                }
            }
        }
        Ok(!self.held().unproven.is_empty())
    }

    /// Both seats of a room anew, or neither.
    async fn retake(&self, standing: &Standing, room: &RoomName, seats: &[Seat]) -> Result<bool, CallError> {
        let until = Instant::now() + self.shared.silence();
        let mut before = None;
        for seat in seats {
            let ask = Ask { who: seat.who, key: seat.key, resume: None };
            match self.ask_to_join(standing, room, ask, until).await?.ok_or(CallError::Late)?.outcome {
                JoinOutcome::Created | JoinOutcome::Seated(_, None) if before.is_none() => {}
                JoinOutcome::Joined(other) | JoinOutcome::Seated(_, Some(other))
                    if seats.iter().any(|seat| seat.who == other) => {}
                _ => return Ok(false),
            }
            before = Some(seat.who);
        }
        Ok(true)
    }

    /// Gives up some of what could not be given up when it was due; tells whether there is more.
    async fn leave_late(&self, connection: &Connection) -> Result<bool, CallError> {
        let _one_at_a_time = self.late.lock().await;
        let (batch, more) = {
            let mut held = self.held();
            let keep = held.to_leave.len().saturating_sub(CHORES);
            held.leaving = held.to_leave.split_off(keep);
            (held.leaving.clone(), keep > 0)
        };
        let left = batch.iter().map(|(room, who)| self.ask_to_leave(connection, room, *who));
        let left = futures_util::future::join_all(left).await;
        self.held().leaving.clear();
        let mut failed = None;
        for ((room, who), left) in batch.into_iter().zip(left) {
            match left {
                Ok(LeaveOutcome::Left(Some(other))) => {
                    if let Some(addressee) = self.shared.addressee() {
                        addressee.left_late(&room, who, other);
                    }
                }
                Ok(_) => {}
                Err(error) => {
                    self.held().to_leave.push((room, who));
                    failed = Some(error);
                }
            }
        }
        failed.map_or(Ok(more), Err)
    }

    /// Frees some of the seats of leases that ended; tells whether there are more.
    async fn sweep(&self, connection: &Connection) -> Result<bool, CallError> {
        let batch = CHORES.to_string();
        let keep = millis(self.shared.keep());
        let arguments = [self.names.prefix.as_bytes(), batch.as_bytes(), keep.as_bytes()];
        let answer = self.call(&scripts::SWEEP, connection, &arguments, self.shared.silence()).await?;
        let (freed, left) = (number(answer.first())?, number(answer.get(1))?);
        self.shared.metrics.seats_reaped.inc_by(u64::try_from(freed).unwrap_or(0));
        Ok(left > 0)
    }

    fn set_away(&self) {
        if let Phase::Usable(_) = self.phase.send_replace(Phase::Away) {
            self.shared.gate.shut();
            self.shared.metrics.leases.dec();
        }
    }

    fn absence(&self) -> MutexGuard<'_, Absence> {
        self.shared.absence.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Which of `count` partitions a room is in. All nodes have to agree.
#[must_use]
pub fn partition_of(room: &RoomName, count: u16) -> u16 {
    topology::slot(room.as_str().as_bytes()) % count
}

/// `peer, generation, node`, or nothing.
fn occupant(values: &[Value]) -> Result<Option<Occupant>, CallError> {
    if values.is_empty() {
        return Ok(None);
    }
    let form = |_| CallError::Form;
    Ok(Some(Occupant {
        peer: PeerId(text(values.first())?.parse().map_err(|_| CallError::Form)?),
        generation: Generation(text(values.get(1))?.parse().map_err(form)?),
        node: NodeId(text(values.get(2))?.parse().map_err(|_| CallError::Form)?),
    }))
}

/// Whether an occupant is away, and which; or nobody.
fn with(values: &[Value]) -> Result<(Option<Occupant>, bool), CallError> {
    let Some((away, who)) = values.split_first() else { return Ok((None, false)) };
    Ok((occupant(who)?, number(Some(away))? == 1))
}

fn role(value: Option<&Value>) -> Result<Role, CallError> {
    let name = text(value)?;
    [Role::Created, Role::Joined].into_iter().find(|role| role.name() == name).ok_or(CallError::Form)
}

fn key_text(key: Option<SeatKey>) -> String {
    key.map_or_else(|| "-".to_owned(), |key| key.to_string())
}

fn millis(duration: Duration) -> String {
    duration.as_millis().to_string()
}

/// What a join's answer brings of what was kept, and the rest of it.
fn kept_with(answer: &[Value]) -> Result<(Vec<Mail>, &[Value]), CallError> {
    let [first, kept @ .., Value::Array(answer)] = answer else { return Ok((Vec::new(), answer)) };
    if text(Some(first))? != "mail" {
        return Err(CallError::Form);
    }
    let (kept, rest) = kept.as_chunks::<3>();
    let count = |word| text(Some(word))?.parse().map_err(|_| CallError::Form);
    let mail = kept.iter().map(|[seat, said, body]| {
        let Value::BulkString(body) = body else { return Err(CallError::Form) };
        Ok(Mail { serial: Serial { seat: count(seat)?, said: count(said)? }, body: body.clone().into() })
    });
    let mut mail = mail.collect::<Result<Vec<_>, _>>()?;
    // One that did not get there at first may be kept after later ones, and one whose answer was lost twice.
    mail.sort_by_key(|mail| mail.serial);
    mail.dedup_by_key(|mail| mail.serial);
    if rest.is_empty() { Ok((mail, answer)) } else { Err(CallError::Form) }
}

/// What `keep` answers.
fn kept(answer: &[Value]) -> Result<KeepOutcome, CallError> {
    match text(answer.first())? {
        "kept" => Ok(KeepOutcome::Kept),
        "full" => Ok(KeepOutcome::Full),
        "present" => Ok(KeepOutcome::Present),
        "gone" => Ok(KeepOutcome::Gone),
        "forgotten" => Ok(KeepOutcome::Forgotten),
        // As good as no answer.
        "lost" | "recovering" => Err(CallError::Late),
        _ => Err(CallError::Form),
    }
}

/// What `look` answers.
fn taken(answer: &[Value]) -> Result<Vec<Taken>, CallError> {
    match text(answer.first())? {
        "seats" => {}
        // As good as no answer: it can be told soon.
        "recovering" => return Err(CallError::Late),
        _ => return Err(CallError::Form),
    }
    let seat = |words: &[Value; 5]| {
        let (by, away) = with(&words[..4])?;
        Ok(Taken { by: by.ok_or(CallError::Form)?, role: role(words.get(4))?, away })
    };
    let (seats, rest) = answer[1..].as_chunks::<5>();
    if rest.is_empty() { seats.iter().map(seat).collect() } else { Err(CallError::Form) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_may_have_been_forgotten_when_its_lease_may_have_ended_everywhere() {
        let mut absence = Absence::default();
        absence.begin(0, 1);
        assert!(absence.end(0) && !absence.end(0));
        // One of two, and then both.
        absence.begin(1, 2);
        assert!(!absence.end(1));
        absence.begin(0, 2);
        absence.begin(1, 2);
        assert!(absence.end(1) && !absence.end(0));
    }
}
