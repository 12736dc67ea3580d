//! The messages between nodes: published to the channel of the one node that they are for, and to no other.
//!
//! Each node subscribes to one channel of its own (sharded pub/sub, so that on a Redis Cluster a message stays on one
//! shard). Messages go out by one task, as frames of whatever has come together by then: alone when little goes on, many
//! at a time when much does. They come in on the subscription's own task and are delivered there and then.
//!
//! The way is proven by a message to oneself every second; without one the node is not ready, and the connection is
//! given up.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock, Weak,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures_util::future::{BoxFuture, FutureExt};
use redis::{PushInfo, PushKind, Value};
use socketioxide_redis::drivers::ChanItem;
use tokio::sync::{Notify, mpsc, oneshot, watch};

use super::{
    beat::Beat,
    connection::{Connection, Connections},
    frame::{self, Record},
    gate::Gate,
    line::{Channel, Due, Line, Refused},
};
use crate::{
    exchange::{Addressee, Answer, Content, Delivery, Haste, Letter, Post, Question, Receipt},
    id::NodeId,
    metrics::Metrics,
    rooms::Occupant,
};

/// How often the way is proven.
const PROOF: Duration = Duration::from_secs(1);
/// Without a proof for so long, the connection is given up.
const UNPROVEN: Duration = Duration::from_secs(3);
/// How long receipts that nobody waits for wait for company, and how often time is looked at while anything waits.
const TICK: Duration = Duration::from_millis(400);
/// What follows within this time is sent by the task, together with whatever else has come by then.
const ALONE: Duration = Duration::from_micros(250);

/// The messages of this node to others, and theirs to it.
pub struct Bus {
    node: NodeId,
    prefix: String,
    patience: Duration,
    metrics: Metrics,
    gate: Gate,
    beat: Beat,
    addressee: OnceLock<Weak<dyn Addressee>>,
    lines: Mutex<HashMap<NodeId, Arc<Line>>>,
    streams: AtomicU64,
    /// Lines with something to send.
    queued: Mutex<Vec<Arc<Line>>>,
    wake: Notify,
    /// Told when something has its receipt.
    receipts: Notify,
    last_sent: Mutex<Instant>,
    /// A tick will come.
    ticking: AtomicBool,
    connections: OnceLock<Weak<Connections>>,
    /// The number of the last message to oneself that came back.
    proof: watch::Sender<u64>,
    /// Where the adapter's messages go.
    subscribers: Mutex<HashMap<String, mpsc::Sender<ChanItem>>>,
    /// Who waits for answers, by the number of the question. As many as the operator's listener lets ask at a time.
    questions: Arc<Mutex<HashMap<u64, oneshot::Sender<Answer>>>>,
    numbers: AtomicU64,
    /// The other nodes there are.
    others: Arc<RwLock<Vec<NodeId>>>,
    this: Weak<Self>,
}

impl std::fmt::Debug for Bus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Bus").field("node", &self.node).finish_non_exhaustive()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Bus {
    /// A bus that nothing runs over yet.
    #[must_use]
    pub fn new(
        node: NodeId,
        prefix: &str,
        patience: Duration,
        metrics: Metrics,
        gate: Gate,
        beat: Beat,
        others: Arc<RwLock<Vec<NodeId>>>,
    ) -> Arc<Self> {
        gate.shut();
        Arc::new_cyclic(|this| Self {
            node,
            prefix: prefix.to_owned(),
            patience,
            metrics,
            gate,
            beat,
            addressee: OnceLock::new(),
            lines: Mutex::default(),
            streams: AtomicU64::new(1),
            queued: Mutex::default(),
            wake: Notify::new(),
            receipts: Notify::new(),
            last_sent: Mutex::new(Instant::now()),
            ticking: AtomicBool::new(false),
            connections: OnceLock::new(),
            proof: watch::Sender::new(0),
            subscribers: Mutex::default(),
            questions: Arc::default(),
            numbers: AtomicU64::new(1),
            others,
            this: Weak::clone(this),
        })
    }

    /// Where letters come out, and how they get away.
    pub fn attach(&self, addressee: Weak<dyn Addressee>, connections: &Arc<Connections>) {
        let _ = self.addressee.set(addressee);
        let _ = self.connections.set(Arc::downgrade(connections));
    }

    fn channel(&self, node: NodeId) -> Channel {
        Channel::new(format!("{}:{{{node}}}:bus", self.prefix))
    }

    fn next_stream(&self) -> u64 {
        self.streams.fetch_add(1, Ordering::Relaxed)
    }

    fn line(&self, node: NodeId) -> Arc<Line> {
        let mut lines = lock(&self.lines);
        let new = || Arc::new(Line::new(self.channel(node), self.next_stream(), Instant::now()));
        Arc::clone(lines.entry(node).or_insert_with(new))
    }

    fn queue(&self, line: &Arc<Line>) {
        lock(&self.queued).push(Arc::clone(line));
        self.wake.notify_one();
    }

    /// Sends at once what has just come, if it is alone: no task has to be woken for it.
    fn send_at_once(&self, line: &Arc<Line>) {
        let now = Instant::now();
        let alone = {
            let mut last = lock(&self.last_sent);
            now - std::mem::replace(&mut *last, now) >= ALONE
        };
        let connection = alone.then(|| self.connections.get()).flatten().and_then(Weak::upgrade);
        let channel = &line.channel;
        let sent = connection.and_then(|connections| connections.now(channel.slot)).is_some_and(|connection| {
            let Ok(_one_at_a_time) = line.sending.try_lock() else { return false };
            line.unqueue();
            while let Some((frame, resent)) = line.next_frame(self.node, connection.number) {
                self.metrics.bus_resends.inc_by(resent as u64);
                // Nearly always there is room; otherwise the task does it.
                if connection.publisher.try_publish(&channel.name, &frame).is_err() {
                    line.rewind();
                    line.queue();
                    return false;
                }
                self.metrics.redis_publishes.inc();
            }
            true
        });
        if !sent {
            lock(&self.queued).push(Arc::clone(line));
        }
        // For the task, or for the tick that looks after its receipt.
        if !sent || !self.ticking.swap(true, Ordering::AcqRel) {
            self.wake.notify_one();
        }
    }

    /// Sends a record to one node.
    fn push(
        &self,
        node: NodeId,
        record: Vec<u8>,
        (urgent, at_once): (bool, bool),
        perishable: bool,
        receipt: Option<Receipt>,
    ) {
        let line = self.line(node);
        let bytes = i64::try_from(record.len()).unwrap_or(i64::MAX);
        match line.push(record, urgent, perishable, receipt, Instant::now()) {
            Ok(first) => {
                self.metrics.bus_waiting_bytes.add(bytes);
                if first && at_once {
                    self.send_at_once(&line);
                } else if first {
                    self.queue(&line);
                }
            }
            Err((refused, receipt)) => {
                if refused == Refused::Full {
                    self.metrics.bus_overflows.inc();
                }
                if let Some(receipt) = receipt {
                    receipt(Delivery::Unavailable);
                }
            }
        }
    }

    /// Sends a message of the adapter to every other node; tells when all have it.
    ///
    /// # Errors
    /// How many did not tell that they have it in time.
    pub async fn publish(&self, others: &[NodeId], channel: &str, message: &[u8]) -> Result<(), usize> {
        let record = frame::adapter(channel, message);
        let (told, mut tellings) = mpsc::unbounded_channel();
        for node in others {
            let told = told.clone();
            let receipt: Receipt = Box::new(move |delivery| {
                let _ = told.send(delivery);
            });
            self.push(*node, record.clone(), (true, true), true, Some(receipt));
        }
        drop(told);
        let mut missing = 0;
        while let Some(delivery) = tellings.recv().await {
            missing += usize::from(delivery == Delivery::Unavailable);
        }
        if missing == 0 { Ok(()) } else { Err(missing) }
    }

    /// Messages of the adapter to `channel` go to `subscriber` from here on.
    pub fn subscribe(&self, channel: String, subscriber: mpsc::Sender<ChanItem>) {
        lock(&self.subscribers).insert(channel, subscriber);
    }

    /// Messages of the adapter to `channel` go nowhere from here on.
    pub fn unsubscribe(&self, channel: &str) {
        lock(&self.subscribers).remove(channel);
    }

    /// The other nodes there are: lines to any other are given up.
    pub fn keep_only(&self, nodes: impl Fn(NodeId) -> bool) {
        let mut gone = Vec::new();
        lock(&self.lines).retain(|node, line| {
            let stays = nodes(*node);
            if !stays {
                gone.push(Arc::clone(line));
            }
            stays
        });
        let mut due = Vec::new();
        for line in gone {
            self.freed(line.end(&mut due));
        }
        tell(due);
    }

    /// The other nodes had forgotten this one, and know it again: they would not know what the next message follows on. News
    /// that wait are told; nothing else that waits will have a receipt.
    pub fn begin_anew(&self) {
        let lines: Vec<_> = lock(&self.lines).values().cloned().collect();
        let mut due = Vec::new();
        for line in lines {
            let (freed, waits) = line.begin_anew(self.next_stream(), Instant::now(), &mut due);
            self.freed(freed);
            if waits && line.queue() {
                self.queue(&line);
            }
        }
        tell(due);
    }

    /// Returns when no other node has anything to tell receipt of, or does not for a second.
    pub async fn flushed(&self) {
        let all_told = async {
            loop {
                let mut receipts = std::pin::pin!(self.receipts.notified());
                receipts.as_mut().enable();
                if lock(&self.lines).values().all(|line| line.is_idle()) {
                    return;
                }
                receipts.await;
            }
        };
        let _ = tokio::time::timeout(PROOF, all_told).await;
    }

    fn freed(&self, bytes: usize) {
        if bytes > 0 {
            self.receipts.notify_waiters();
            self.metrics.bus_waiting_bytes.sub(i64::try_from(bytes).unwrap_or(i64::MAX));
        }
    }

    /// Takes what comes in on the subscription.
    pub fn push_received(&self, info: PushInfo) {
        if info.kind != PushKind::SMessage {
            return;
        }
        let Ok([_, Value::BulkString(message)]) = <[Value; 2]>::try_from(info.data) else { return };
        let message = Bytes::from(message);
        if let Some(number) = frame::read_echo(message.clone(), self.node) {
            // One of an earlier connection may come last.
            self.proof.send_if_modified(|last| {
                let newer = number > *last;
                *last = number.max(*last);
                newer
            });
            return;
        }
        let Some((head, records)) = frame::read(message) else {
            tracing::warn!("a message on this node's channel that is none of duet's");
            return;
        };
        self.metrics.bus_frames_received.inc();
        let line = self.line(head.from);
        let received = line.receive(
            &head,
            records,
            Instant::now(),
            || self.next_stream(),
            |record| self.deliver(record, head.from),
        );
        self.freed(received.freed);
        tell(received.due);
        if received.send_now {
            if line.queue() {
                self.queue(&line);
            }
        } else if received.send_soon && !self.ticking.swap(true, Ordering::AcqRel) {
            // The next tick does it.
            self.wake.notify_one();
        }
    }

    fn deliver(&self, record: Bytes, from: NodeId) -> Delivery {
        match frame::read_record(record, from, self.node) {
            Some(Record::Letter(letter)) => match self.addressee.get().and_then(Weak::upgrade) {
                Some(addressee) => addressee.deliver(letter),
                None => Delivery::Unavailable,
            },
            Some(Record::Adapter(channel, message)) => {
                let subscriber = lock(&self.subscribers).get(&channel).cloned();
                match subscriber.map(|subscriber| subscriber.try_send((channel, message))) {
                    Some(Ok(())) => Delivery::Delivered,
                    Some(Err(_)) => {
                        self.metrics.bus_overflows.inc();
                        Delivery::Unavailable
                    }
                    // Not for this node.
                    None => Delivery::NoPeer,
                }
            }
            Some(Record::Question(number, question)) => {
                let addressee = self.addressee.get().and_then(Weak::upgrade);
                let (Some(addressee), this) = (addressee, Weak::clone(&self.this)) else {
                    return Delivery::Unavailable;
                };
                addressee.asked(
                    question,
                    Box::new(move |answer| {
                        if let Some(bus) = this.upgrade() {
                            bus.push(from, frame::answer(number, &answer), (false, false), false, None);
                        }
                    }),
                );
                Delivery::Delivered
            }
            Some(Record::Answer(number, answer)) => {
                let asked = lock(&self.questions).remove(&number);
                match asked.map(|asked| asked.send(answer)) {
                    Some(Ok(())) => Delivery::Delivered,
                    // Too late: nobody waits any more.
                    Some(Err(_)) | None => Delivery::NoPeer,
                }
            }
            None => {
                tracing::warn!("a record of another node that cannot be read");
                Delivery::Unavailable
            }
        }
    }

    /// Sends what is to be sent, for ever.
    pub async fn run_sender(&self, connections: &Connections) {
        let mut changes = connections.changes();
        let mut tick: Option<tokio::time::Instant> = None;
        loop {
            tokio::select! {
                () = self.wake.notified() => {
                    self.ticking.store(true, Ordering::Release);
                    tick.get_or_insert_with(|| tokio::time::Instant::now() + TICK);
                }
                () = tokio::time::sleep_until(tick.unwrap_or_else(tokio::time::Instant::now)), if tick.is_some() => {
                    self.ticking.store(false, Ordering::Release);
                    let active = self.tick();
                    self.ticking.fetch_or(active, Ordering::AcqRel);
                    tick = active.then(|| tokio::time::Instant::now() + TICK);
                }
                // What was sent over the last connection may be lost.
                _ = changes.changed() => {
                    let lines: Vec<_> = lock(&self.lines).values().cloned().collect();
                    lock(&self.queued).extend(lines);
                }
            }
            let lines = std::mem::take(&mut *lock(&self.queued));
            for line in lines {
                line.unqueue();
                *lock(&self.last_sent) = Instant::now();
                self.send(connections, &line).await;
            }
        }
    }

    fn tick(&self) -> bool {
        let lines: Vec<_> = lock(&self.lines).values().cloned().collect();
        let (mut active, mut due, mut freed) = (false, Vec::new(), 0);
        for line in lines {
            let tick = line.tick(Instant::now(), self.patience, &mut due, &mut freed);
            self.metrics.bus_resends.inc_by(tick.resent as u64);
            active |= tick.active;
            if tick.send && line.queue() {
                lock(&self.queued).push(line);
            }
        }
        self.freed(freed);
        tell(due);
        active
    }

    async fn send(&self, connections: &Connections, line: &Line) {
        let channel = &line.channel;
        let Some(connection) = connections.now(channel.slot) else { return };
        let _one_at_a_time = line.sending.lock().await;
        while let Some((frame, resent)) = line.next_frame(self.node, connection.number) {
            self.metrics.bus_resends.inc_by(resent as u64);
            if connection.publisher.publish(&channel.name, &frame).await.is_err() {
                return;
            }
            self.metrics.redis_publishes.inc();
        }
    }

    /// Keeps this node's subscription, and proves the way, for ever.
    pub async fn run_subscription(&self, connections: &Connections) {
        let channel = self.channel(self.node);
        let (mut number, mut proven) = (0_u64, false);
        loop {
            let connection = connections.to(channel.slot).await;
            let unproven = self.prove(&connection, &channel.name, &mut number, &mut proven);
            tokio::select! {
                () = connection.broken() => {}
                () = unproven => connection.give_up(),
            }
            // As often as `prove` opened it: a message that came back may not have been looked at.
            if std::mem::take(&mut proven) {
                self.gate.shut();
            }
        }
    }

    /// Subscribes, and sends messages to itself until one does not come back. From the first that does, the way is `proven`.
    async fn prove(&self, connection: &Connection, channel: &str, number: &mut u64, proven: &mut bool) {
        let mut subscribe = redis::cmd("SSUBSCRIBE");
        subscribe.arg(channel);
        let mut subscriber = connection.subscriber.clone();
        match tokio::time::timeout(UNPROVEN, subscriber.send_packed_command(&subscribe)).await {
            Ok(Ok(value)) => {
                if let Err(error) = value.extract_error() {
                    tracing::warn!(%error, "subscribe");
                    connection.judge(&error);
                    // Not to be asked without end.
                    tokio::time::sleep(PROOF).await;
                    return;
                }
            }
            Ok(Err(_)) | Err(_) => return,
        }
        let mut proofs = self.proof.subscribe();
        loop {
            *number += 1;
            let sent = Instant::now();
            if connection.publisher.publish(channel, &frame::echo(self.node, *number)).await.is_err() {
                return;
            }
            self.metrics.redis_publishes.inc();
            let back = proofs.wait_for(|last| *last >= *number);
            if !matches!(tokio::time::timeout(UNPROVEN, back).await, Ok(Ok(_))) {
                return;
            }
            Metrics::observe(&self.metrics.relay_lag_seconds, sent.elapsed());
            if !std::mem::replace(proven, true) {
                self.gate.open();
            }
            tokio::time::sleep_until(self.beat.after(sent.into(), PROOF)).await;
        }
    }
}

fn tell(due: Vec<Due>) {
    for (receipt, delivery) in due {
        receipt(delivery);
    }
}

impl Post for Bus {
    fn send(&self, letter: &Letter, haste: Haste, receipt: Option<Receipt>) {
        let perishable = matches!(letter.content, Content::Event { .. });
        // A node that goes waits until its peers' partners know.
        let urgent = haste != Haste::No || matches!(letter.content, Content::Departed(_));
        // Only what a client has just sent: anything else may come from within a delivery.
        let at_once = perishable && haste != Haste::AfterDelivery;
        self.push(letter.to.node, frame::letter(letter), (urgent, at_once), perishable, receipt);
    }

    fn give_up(&self, to: Occupant) {
        let Some(line) = lock(&self.lines).get(&to.node).cloned() else { return };
        let (mut due, mut freed) = (Vec::new(), 0);
        line.give_up(&to, &mut due, &mut freed);
        self.freed(freed);
        tell(due);
    }

    fn ask(&self, node: NodeId, question: Question) -> BoxFuture<'_, Option<Answer>> {
        let number = self.numbers.fetch_add(1, Ordering::Relaxed);
        let (asked, answered) = oneshot::channel();
        lock(&self.questions).insert(number, asked);
        let waits = Waits { questions: Arc::clone(&self.questions), number };
        let questions = Arc::clone(&self.questions);
        let receipt: Receipt = Box::new(move |delivery| {
            if delivery != Delivery::Delivered {
                lock(&questions).remove(&number);
            }
        });
        self.push(node, frame::question(number, &question), (true, true), true, Some(receipt));
        async move {
            let _waits = waits;
            tokio::time::timeout(self.patience, answered).await.ok()?.ok()
        }
        .boxed()
    }

    fn others(&self) -> Vec<NodeId> {
        self.others.read().map(|others| others.clone()).unwrap_or_default()
    }
}

/// Somebody waits for the answer to a question, until this is dropped.
struct Waits {
    questions: Arc<Mutex<HashMap<u64, oneshot::Sender<Answer>>>>,
    number: u64,
}

impl Drop for Waits {
    fn drop(&mut self) {
        lock(&self.questions).remove(&self.number);
    }
}
