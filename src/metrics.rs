//! Every metric: its name, unit, labels and buckets, once.
//!
//! Served as Prometheus text (<https://prometheus.io/docs/instrumenting/exposition_formats/>) by the admin listener.
//! Labels come from closed lists: never a room, a peer or an address.

use std::{sync::LazyLock, time::Duration};

use prometheus::{
    Counter, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, Opts, Registry, TextEncoder,
    core::Collector,
};

use crate::protocol::{ByeReason, Code, Request};

/// From what one relay costs when all goes well to what nobody should wait.
const RELAY_BUCKETS: &[f64] =
    &[0.000_005, 0.000_01, 0.000_025, 0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.01, 0.05, 0.25, 1.0];
/// One round trip, from a good one to one that is given up.
const REDIS_BUCKETS: &[f64] = &[0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.1, 0.5, 1.0, 5.0];
/// As above, with all that a node has to do for it.
const JOIN_BUCKETS: &[f64] =
    &[0.000_01, 0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.1, 0.5, 2.5];

/// Counters of a closed list of label values, each made once.
#[derive(Clone, Debug)]
pub struct Family<K>(Vec<(K, IntCounter)>);

impl<K: Copy + PartialEq> Family<K> {
    fn new(vec: &IntCounterVec, keys: impl IntoIterator<Item = (K, &'static str)>) -> Self {
        Self(keys.into_iter().map(|(key, label)| (key, vec.with_label_values(&[label]))).collect())
    }

    /// The counter of `key`.
    pub fn inc(&self, key: K) {
        // A handful of entries: a scan is quicker than a hash.
        if let Some((_, counter)) = self.0.iter().find(|(known, _)| *known == key) {
            counter.inc();
        }
    }
}

/// How a request for a seat ended, as `duet_joins_total` counts it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum JoinResult {
    /// First in the room.
    Created,
    /// Second in the room.
    Joined,
    /// Sat there already.
    Seated,
    /// Took its seat back.
    Resumed,
    /// The room was full.
    Full,
    /// Refused for another reason; `duet_refusals_total` tells which.
    Refused,
}

impl JoinResult {
    /// Every result.
    pub const ALL: [Self; 6] = [Self::Created, Self::Joined, Self::Seated, Self::Resumed, Self::Full, Self::Refused];

    /// Its name in metrics and traces.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Joined => "joined",
            Self::Seated => "seated",
            Self::Resumed => "resumed",
            Self::Full => "full",
            Self::Refused => "refused",
        }
    }
}

/// What is asked of Redis, as `duet_redis_duration_seconds` counts it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RedisOperation {
    /// A node comes, or comes back.
    Enter,
    /// A lease is renewed.
    Renew,
    /// A seat is asked for.
    Join,
    /// A seat is given up.
    Leave,
    /// Seats are asserted after Redis came back as another.
    Assert,
    /// Seats of leases that ended are freed.
    Sweep,
    /// A node goes.
    Quit,
    /// What became of a seat whose node is gone.
    Expire,
    /// An operator looks who sits in a room.
    Look,
    /// A message is kept for a peer that is away.
    Keep,
}

impl RedisOperation {
    /// Every operation.
    pub const ALL: [Self; 10] = [
        Self::Enter,
        Self::Renew,
        Self::Join,
        Self::Leave,
        Self::Assert,
        Self::Sweep,
        Self::Quit,
        Self::Expire,
        Self::Look,
        Self::Keep,
    ];

    /// Its name in metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Enter => "enter",
            Self::Renew => "renew",
            Self::Join => "join",
            Self::Leave => "leave",
            Self::Assert => "assert",
            Self::Sweep => "sweep",
            Self::Quit => "quit",
            Self::Expire => "expire",
            Self::Look => "look",
            Self::Keep => "keep",
        }
    }
}

/// How a relay ended, as `duet_relays_total` counts it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RelayResult {
    /// Handed to the other peer's queue.
    Delivered,
    /// Kept for a peer that is away.
    Kept,
    /// As much as may be is kept for it already.
    TooManyKept,
    /// Nobody to hand it to.
    NoPeer,
    /// The other peer took its messages too slowly.
    PeerTooSlow,
    /// The other peer's node, or the way to it, did not answer.
    Unavailable,
}

impl RelayResult {
    /// Every result.
    pub const ALL: [Self; 6] =
        [Self::Delivered, Self::Kept, Self::TooManyKept, Self::NoPeer, Self::PeerTooSlow, Self::Unavailable];

    /// Its name in metrics and traces.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Delivered => "delivered",
            Self::Kept => "kept",
            Self::TooManyKept => "too_many_kept",
            Self::NoPeer => "no_peer",
            Self::PeerTooSlow => "peer_too_slow",
            Self::Unavailable => "unavailable",
        }
    }
}

/// A limit of `[limits]`, as `duet_limited_total` counts it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Limit {
    /// Sockets of the node.
    Sockets,
    /// Connections of the node that carry no session.
    Connections,
    /// Sockets of an address.
    SocketsPerAddress,
    /// Connections of an address that carry no session.
    ConnectionsPerAddress,
    /// Handshakes of an address.
    Handshakes,
    /// Events of a socket.
    Events,
    /// Bytes of a socket.
    Bytes,
    /// WebSocket frames of a connection.
    Frames,
    /// Bytes of one event of its kind.
    EventBytes,
    /// Joins of an address.
    Joins,
    /// Joins of a room.
    RoomJoins,
    /// Failed joins and tokens of an address.
    Failures,
}

impl Limit {
    /// Every limit.
    pub const ALL: [Self; 12] = [
        Self::Sockets,
        Self::Connections,
        Self::SocketsPerAddress,
        Self::ConnectionsPerAddress,
        Self::Handshakes,
        Self::Events,
        Self::Bytes,
        Self::Frames,
        Self::EventBytes,
        Self::Joins,
        Self::RoomJoins,
        Self::Failures,
    ];

    /// Its name in metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Sockets => "sockets",
            Self::Connections => "connections",
            Self::SocketsPerAddress => "sockets_per_address",
            Self::ConnectionsPerAddress => "connections_per_address",
            Self::Handshakes => "handshakes",
            Self::Events => "events",
            Self::Bytes => "bytes",
            Self::Frames => "frames",
            Self::EventBytes => "event_bytes",
            Self::Joins => "joins",
            Self::RoomJoins => "room_joins",
            Self::Failures => "failures",
        }
    }
}

/// What a limit did, as `duet_limited_total` counts it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LimitedBy {
    /// What came had to wait.
    Delay,
    /// It was refused.
    Refusal,
    /// A connection was closed.
    Close,
}

impl LimitedBy {
    /// All that a limit can do.
    pub const ALL: [Self; 3] = [Self::Delay, Self::Refusal, Self::Close];

    /// Its name in metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Delay => "delay",
            Self::Refusal => "refusal",
            Self::Close => "close",
        }
    }
}

/// Counts what limits did.
pub type Limited = Family<(Limit, LimitedBy)>;

/// Why a socket was closed, as `duet_sockets_closed_total` counts it.
pub type CloseReason = ByeReason;

/// Every metric of a node.
#[derive(Clone, Debug)]
pub struct Metrics {
    registry: Registry,
    /// Open HTTP connections of the public listener that are no WebSockets.
    pub http_connections: IntGauge,
    /// Open WebSockets.
    pub websockets: IntGauge,
    /// Connected sockets.
    pub sockets: IntGauge,
    /// Sockets connected so far, by the transport they came by.
    sockets_opened: IntCounterVec,
    /// Sockets closed so far.
    pub sockets_closed: Family<CloseReason>,
    /// Rooms with at least one occupant. Set when read.
    pub rooms: IntGauge,
    /// Seats taken. Set when read.
    pub seats: IntGauge,
    /// Requests for a seat.
    pub joins: Family<JoinResult>,
    /// Seconds from a request for a seat to its answer.
    pub join_seconds: Histogram,
    /// Seats kept for peers that are lost, by this node.
    pub seats_kept: IntGauge,
    /// Messages that were acknowledged as kept and could not be handed over.
    pub kept_lost: IntCounter,
    /// Bytes of messages to peers that are away, of this node's own sockets.
    pub kept_bytes: IntGauge,
    /// `duet_recent_bytes`
    pub recent_bytes: IntGauge,
    /// `duet_caught_up_total`
    pub caught_up: IntCounter,
    /// `duet_not_remembered_total`
    pub not_remembered: IntCounter,
    /// Seats given up.
    pub leaves: Family<ByeReason>,
    /// Relays between peers of this node.
    pub local_relays: Family<RelayResult>,
    /// Seconds from an event's arrival to the other peer's queue, on one node.
    pub local_relay_seconds: Histogram,
    /// Relays to peers of other nodes.
    pub remote_relays: Family<RelayResult>,
    /// Seconds from an event's arrival to the other node's receipt, where a client waits for it.
    pub remote_relay_seconds: Histogram,
    /// 1 while every primary of Redis can be reached.
    pub redis_up: IntGauge,
    /// Seconds of each operation on Redis.
    redis_seconds: Vec<Histogram>,
    /// Messages to nodes, this one included, by way of Redis, which answers none of them.
    pub redis_publishes: IntCounter,
    /// Scripts that Redis did not know, and was sent whole.
    pub script_loads: IntCounter,
    /// Leases of this node that stand: one, or one a partition of a Redis Cluster.
    pub leases: IntGauge,
    /// Nodes that hold leases, this one included.
    pub nodes: IntGauge,
    /// Nodes whose leases ended without a word.
    pub nodes_lost: IntCounter,
    /// Seats freed of leases that ended.
    pub seats_reaped: IntCounter,
    /// Seats of this node's own peers that it could not prove.
    pub seats_lost: IntCounter,
    /// Requests for a seat refused because Redis could not be asked, or could not tell yet.
    pub recovery_refusals: IntCounter,
    /// Seconds that a message of this node to itself takes by way of Redis.
    pub relay_lag_seconds: Histogram,
    /// Frames of other nodes received.
    pub bus_frames_received: IntCounter,
    /// Messages between nodes sent again.
    pub bus_resends: IntCounter,
    /// Messages between nodes refused because too many waited.
    pub bus_overflows: IntCounter,
    /// Bytes that wait for other nodes' receipts.
    pub bus_waiting_bytes: IntGauge,
    /// Requests refused.
    refusals: IntCounterVec,
    /// What limits did.
    pub limited: Limited,
    /// Handshakes refused for want of a token that holds.
    admission_denials: IntCounterVec,
    /// Fetches of an issuer's keys.
    jwks_fetches: IntCounterVec,
    /// Questions to the webhook.
    webhook_answers: IntCounterVec,
    /// Seconds from a question to its answer, or until it was given up.
    webhook_seconds: Histogram,
    /// `log` events not sent to a client that is behind.
    pub log_drops: IntCounter,
    /// Senders made to wait for their receiver.
    pub pauses: IntCounter,
    /// Bytes received by the public listener.
    pub received_bytes: IntCounter,
    /// Bytes sent by the public listener.
    pub sent_bytes: IntCounter,
    /// Connections ended because they took nothing for too long.
    pub stalls: IntCounter,
    /// Spans of traces that did not reach the collector.
    pub spans_dropped: IntCounter,
    /// When the TLS certificate in force ends, in seconds of Unix time; 0 without one.
    pub tls_certificate_expiry: IntGauge,
    /// TLS handshakes finished.
    pub tls_handshakes_finished: IntCounter,
    /// TLS handshakes that failed, or were none.
    pub tls_handshakes_failed: IntCounter,
    /// TLS handshakes that took too long.
    pub tls_handshakes_late: IntCounter,
    /// TLS certificates that took the place of another.
    pub tls_certificates_replaced: IntCounter,
    /// TLS certificates that could not.
    pub tls_certificates_refused: IntCounter,
    /// Settings read again and put into force.
    pub reloads_applied: IntCounter,
    /// Settings read again and refused.
    pub reloads_refused: IntCounter,
    /// Requests to the admin API.
    admin_requests: IntCounterVec,
    /// 1 while `/readyz` answers 200. Set when read.
    pub ready: IntGauge,
    /// CPU time of the process. Set when read.
    cpu_seconds: Counter,
}

impl Metrics {
    /// All metrics, at zero.
    ///
    /// # Errors
    /// Two metrics of one name: a mistake in this file.
    #[expect(clippy::too_many_lines, reason = "a list")]
    pub fn new() -> prometheus::Result<Self> {
        let registry = Registry::new();
        let made = Made(&registry);
        let sockets_closed = made.counters("duet_sockets_closed_total", "Sockets closed, by reason.", &["reason"])?;
        let leaves = made.counters("duet_leaves_total", "Seats given up, by reason.", &["reason"])?;
        let joins = made.counters("duet_joins_total", "Requests for a seat, by outcome.", &["outcome"])?;
        let relays = made.counters(
            "duet_relays_total",
            "Relays, by scope (local: within this node) and result.",
            &["scope", "result"],
        )?;
        let relay_results = |scope: &str| {
            Family(RelayResult::ALL.map(|result| (result, relays.with_label_values(&[scope, result.name()]))).into())
        };
        let relay_seconds = made.histograms(
            "duet_relay_duration_seconds",
            "From an event's arrival to the queue of the other peer (remote: to the receipt of its node, when a client \
             waits for it).",
            RELAY_BUCKETS,
            "scope",
        )?;
        let redis_seconds = made.histograms(
            "duet_redis_duration_seconds",
            "Operations on Redis, a round trip each.",
            REDIS_BUCKETS,
            "operation",
        )?;
        let handshakes = made.counters("duet_tls_handshakes_total", "TLS handshakes, by outcome.", &["outcome"])?;
        let certificates = made.counters(
            "duet_tls_certificate_changes_total",
            "New TLS certificates found, by outcome (applied, refused).",
            &["outcome"],
        )?;
        let reloads = made.counters("duet_reloads_total", "Settings read again, by outcome.", &["outcome"])?;
        let by_reason = || ByeReason::ALL.map(|reason| (reason, reason.name()));
        let metrics = Self {
            http_connections: made
                .gauge("duet_http_connections", "Open connections of the public listener that are no WebSockets.")?,
            websockets: made.gauge("duet_websockets", "Open WebSockets.")?,
            sockets: made.gauge("duet_sockets", "Connected sockets.")?,
            sockets_opened: made.counters(
                "duet_sockets_opened_total",
                "Sockets connected, by the transport they came by.",
                &["transport"],
            )?,
            sockets_closed: Family::new(&sockets_closed, by_reason()),
            rooms: made.gauge("duet_rooms", "Rooms with at least one occupant.")?,
            seats: made.gauge("duet_seats", "Seats taken.")?,
            joins: Family::new(&joins, JoinResult::ALL.map(|result| (result, result.name()))),
            join_seconds: made.histogram(
                "duet_join_duration_seconds",
                "From a request for a seat to its answer.",
                JOIN_BUCKETS,
            )?,
            kept_lost: made
                .counter("duet_kept_lost_total", "Messages acknowledged as kept that could not be handed over.")?,
            kept_bytes: made
                .gauge("duet_kept_bytes", "Bytes that sockets of this node sent to peers that are away.")?,
            recent_bytes: made.gauge(
                "duet_recent_bytes",
                "Bytes that sockets of this node sent lately to peers that count what they hear.",
            )?,
            not_remembered: made.counter(
                "duet_not_remembered_total",
                "Messages to peers that count what they hear for which there was no room to be remembered.",
            )?,
            caught_up: made.counter(
                "duet_caught_up_total",
                "Messages sent again to peers that came back and had not heard them by their last connection.",
            )?,
            seats_kept: made.gauge("duet_seats_kept", "Seats kept for peers that are lost and may come back.")?,
            leaves: Family::new(&leaves, by_reason()),
            local_relays: relay_results("local"),
            local_relay_seconds: relay_seconds.with_label_values(&["local"]),
            remote_relays: relay_results("remote"),
            remote_relay_seconds: relay_seconds.with_label_values(&["remote"]),
            redis_up: made.gauge("duet_redis_up", "1 while every primary of Redis can be reached.")?,
            redis_seconds: RedisOperation::ALL
                .iter()
                .map(|operation| redis_seconds.with_label_values(&[operation.name()]))
                .collect(),
            redis_publishes: made.counter(
                "duet_redis_publishes_total",
                "Messages to nodes by way of Redis, which answers none of them.",
            )?,
            script_loads: made.counter("duet_redis_script_loads_total", "Scripts that Redis did not know.")?,
            leases: made.gauge("duet_leases", "Leases of this node that stand, one a partition.")?,
            nodes: made.gauge("duet_nodes", "Nodes that hold leases, as this one sees it.")?,
            nodes_lost: made.counter("duet_nodes_lost_total", "Nodes seen to go, in order or not.")?,
            seats_reaped: made.counter("duet_seats_reaped_total", "Seats freed by this node of leases that ended.")?,
            seats_lost: made.counter("duet_seats_lost_total", "Seats of this node's peers that it could not prove.")?,
            recovery_refusals: made.counter(
                "duet_recovery_refusals_total",
                "Requests for a seat refused because Redis could not be asked, or could not tell yet.",
            )?,
            relay_lag_seconds: made.histogram(
                "duet_relay_lag_seconds",
                "How long a message of this node to itself takes by way of Redis.",
                REDIS_BUCKETS,
            )?,
            bus_frames_received: made
                .counter("duet_bus_frames_received_total", "Frames of messages received from other nodes.")?,
            bus_resends: made.counter("duet_bus_resends_total", "Messages between nodes sent again.")?,
            bus_overflows: made
                .counter("duet_bus_overflows_total", "Messages to other nodes refused because too many waited.")?,
            bus_waiting_bytes: made.gauge("duet_bus_waiting_bytes", "What waits for receipts of other nodes.")?,
            refusals: made.counters(
                "duet_refusals_total",
                "Requests refused, by event and code.",
                &["event", "code"],
            )?,
            limited: {
                let limited = made.counters(
                    "duet_limited_total",
                    "What limits did, by limit: delay what came, refuse it, or close a connection.",
                    &["limit", "by"],
                )?;
                let pairs = Limit::ALL.into_iter().flat_map(|limit| LimitedBy::ALL.map(|by| (limit, by)));
                let counter = |(limit, by): (Limit, LimitedBy)| limited.with_label_values(&[limit.name(), by.name()]);
                Family(pairs.map(|pair| (pair, counter(pair))).collect())
            },
            admission_denials: made.counters(
                "duet_admission_denials_total",
                "Handshakes refused for want of a token that holds, by reason.",
                &["reason"],
            )?,
            jwks_fetches: made.counters(
                "duet_jwks_fetches_total",
                "Fetches of the issuer's keys, by outcome.",
                &["outcome"],
            )?,
            webhook_answers: made.counters(
                "duet_webhook_answers_total",
                "Questions to the webhook, by what came of them.",
                &["outcome"],
            )?,
            webhook_seconds: made.histogram(
                "duet_webhook_duration_seconds",
                "From a question to the webhook to its answer, or until it was given up.",
                JOIN_BUCKETS,
            )?,
            log_drops: made.counter("duet_log_drops_total", "log events not sent to a client that is behind.")?,
            pauses: made.counter("duet_sender_pauses_total", "Times a sender was made to wait for its receiver.")?,
            received_bytes: made.counter("duet_received_bytes_total", "Bytes received by the public listener.")?,
            sent_bytes: made.counter("duet_sent_bytes_total", "Bytes sent by the public listener.")?,
            stalls: made.counter(
                "duet_stalled_connections_total",
                "Connections ended because they took nothing for too long.",
            )?,
            spans_dropped: made.counter(
                "duet_trace_spans_dropped_total",
                "Spans of traces dropped: the collector was slow, or did not take them.",
            )?,
            tls_certificate_expiry: made.gauge(
                "duet_tls_certificate_expiry_seconds",
                "When the TLS certificate in force ends, as Unix time; 0 without one.",
            )?,
            tls_handshakes_finished: handshakes.with_label_values(&["finished"]),
            tls_handshakes_failed: handshakes.with_label_values(&["failed"]),
            tls_handshakes_late: handshakes.with_label_values(&["late"]),
            tls_certificates_replaced: certificates.with_label_values(&["applied"]),
            tls_certificates_refused: certificates.with_label_values(&["refused"]),
            reloads_applied: reloads.with_label_values(&["applied"]),
            reloads_refused: reloads.with_label_values(&["refused"]),
            admin_requests: made.counters(
                "duet_admin_requests_total",
                "Requests to the admin API, by the code of the answer.",
                &["code"],
            )?,
            ready: made.gauge("duet_ready", "1 while this node can seat peers.")?,
            cpu_seconds: Counter::new("duet_cpu_seconds_total", "CPU time of the process, to 10 ms.")?,
            registry: registry.clone(),
        };
        let build = Opts::new("duet_build_info", "1, with the version as label.")
            .const_label("version", env!("CARGO_PKG_VERSION"));
        let build = IntGauge::with_opts(build)?;
        build.set(1);
        registry.register(Box::new(build))?;
        registry.register(Box::new(panics().clone()))?;
        registry.register(Box::new(metrics.cpu_seconds.clone()))?;
        registry.register(Box::new(prometheus::process_collector::ProcessCollector::for_self()))?;
        Ok(metrics)
    }

    /// Counts a refused request. `event` is none for one nobody knows.
    pub fn refused(&self, event: Option<Request>, code: Code) {
        self.refusals.with_label_values(&[event.map_or("unknown", Request::name), code.name()]).inc();
    }

    /// Counts a refused handshake.
    pub fn admission_denied(&self, reason: &'static str) {
        self.admission_denials.with_label_values(&[reason]).inc();
    }

    /// Counts a fetch of the issuer's keys.
    pub fn jwks_fetched(&self, well: bool) {
        self.jwks_fetches.with_label_values(&[if well { "fetched" } else { "failed" }]).inc();
    }

    /// Counts a question to the webhook.
    pub fn webhook_answered(&self, outcome: &'static str, took: Duration) {
        self.webhook_answers.with_label_values(&[outcome]).inc();
        Self::observe(&self.webhook_seconds, took);
    }

    /// Counts a request to the admin API, by the code it was answered with: one of a closed list.
    pub fn admin_request(&self, code: &'static str) {
        self.admin_requests.with_label_values(&[code]).inc();
    }

    /// Counts a connected socket.
    pub fn socket_opened(&self, websocket: bool) {
        self.sockets.inc();
        self.sockets_opened.with_label_values(&[if websocket { "websocket" } else { "polling" }]).inc();
    }

    /// Seconds of one operation on Redis.
    #[must_use]
    pub fn redis_seconds(&self, operation: RedisOperation) -> &Histogram {
        // In the order of their declaration.
        &self.redis_seconds[operation as usize]
    }

    /// Records a duration.
    pub fn observe(histogram: &Histogram, took: Duration) {
        histogram.observe(took.as_secs_f64());
    }

    /// All of them as Prometheus text.
    ///
    /// # Errors
    /// What the encoder says.
    pub fn text(&self) -> prometheus::Result<String> {
        if let Some(seconds) = cpu_seconds() {
            self.cpu_seconds.reset();
            self.cpu_seconds.inc_by(seconds);
        }
        TextEncoder::new().encode_to_string(&self.registry.gather())
    }
}

/// CPU time of this process, user and system (`proc_pid_stat(5)`); the library's own metric counts whole seconds.
fn cpu_seconds() -> Option<f64> {
    /// `USER_HZ`, the same on every Linux.
    const TICKS_A_SECOND: f64 = 100.0;
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    // The command's name comes second, in brackets, and may contain anything.
    let mut fields = stat.rsplit_once(") ")?.1.split(' ').skip(11);
    let (user, system): (f64, f64) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
    Some((user + system) / TICKS_A_SECOND)
}

/// Panics of the process, whichever node they were in.
#[must_use]
pub fn panics() -> &'static IntCounter {
    static PANICS: LazyLock<IntCounter> = LazyLock::new(|| {
        IntCounter::new("duet_panics_total", "Panics. More than none is a defect of duet.").expect("a valid name")
    });
    &PANICS
}

/// Makes and registers in one step.
struct Made<'a>(&'a Registry);

impl Made<'_> {
    fn register<C: Collector + Clone + 'static>(&self, collector: C) -> prometheus::Result<C> {
        self.0.register(Box::new(collector.clone()))?;
        Ok(collector)
    }
    fn gauge(&self, name: &str, help: &str) -> prometheus::Result<IntGauge> {
        self.register(IntGauge::new(name, help)?)
    }
    fn counter(&self, name: &str, help: &str) -> prometheus::Result<IntCounter> {
        self.register(IntCounter::new(name, help)?)
    }
    fn counters(&self, name: &str, help: &str, labels: &[&str]) -> prometheus::Result<IntCounterVec> {
        self.register(IntCounterVec::new(Opts::new(name, help), labels)?)
    }
    fn histogram(&self, name: &str, help: &str, buckets: &[f64]) -> prometheus::Result<Histogram> {
        self.register(Histogram::with_opts(HistogramOpts::new(name, help).buckets(buckets.to_vec()))?)
    }
    fn histograms(&self, name: &str, help: &str, buckets: &[f64], label: &str) -> prometheus::Result<HistogramVec> {
        self.register(HistogramVec::new(HistogramOpts::new(name, help).buckets(buckets.to_vec()), &[label])?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_has_the_prefix_and_the_unit_of_the_contract() {
        let metrics = Metrics::new().expect("metrics");
        metrics.refused(Some(Request::Offer), Code::NoPeer);
        metrics.socket_opened(true);
        let text = metrics.text().expect("text");
        let mut seen = 0;
        for line in text.lines().filter(|line| line.starts_with("# TYPE ")) {
            let [_, _, name, kind] = line.split(' ').collect::<Vec<_>>()[..] else { panic!("{line}") };
            if name.starts_with("process_") {
                continue;
            }
            seen += 1;
            assert!(name.starts_with("duet_"), "{line}");
            assert_eq!(kind == "counter", name.ends_with("_total"), "{line}");
            assert!(kind != "histogram" || name.ends_with("_seconds") || name.ends_with("_bytes"), "{line}");
        }
        assert!(seen >= 20, "{seen} metrics");
        assert!(text.contains(r#"duet_refusals_total{code="no_peer",event="offer"} 1"#));
        assert!(text.contains("process_resident_memory_bytes"));
        assert!(text.contains("duet_cpu_seconds_total "));
    }
}
