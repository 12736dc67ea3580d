//! Connections to the primaries: made, watched, made anew. Who needs one waits for it here.
//!
//! There are three to each primary. `control` carries scripts, so that a lease is not renewed behind a queue of messages;
//! `publisher` carries what this node tells others, and `subscriber` the subscription to this node's channel.
//!
//! Why not the crate's own connection manager and cluster client: both reconnect unseen. A node has to know that a
//! connection is new before it sends anything over it, because what it sent over the last one may still take effect.
//!
//! Invariant: of one [`Connection`]'s scripts, and of its messages, all take effect in their order, or none after the
//! first that did not.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use redis::{
    AsyncConnectionConfig, ErrorKind, PushInfo, PushKind, RedisError, ServerErrorKind,
    aio::{AsyncPushSender, MultiplexedConnection, SendError},
};
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;

use super::{
    publisher::Publisher,
    topology::{Deployment, Primary, TopologyError},
};
use crate::metrics::Metrics;

/// Until a connection is made, with its greeting.
const CONNECT: Duration = Duration::from_millis(1500);
/// Between two tries to get one; doubled from the first to the second.
const RETRY: [Duration; 2] = [Duration::from_millis(50), Duration::from_millis(400)];
/// How often it is asked who the primaries are while all is well.
const REVIEW: Duration = Duration::from_secs(5);
/// Requests on their way to the connection's own task. What bounds them in all is who sends them.
const PIPELINE: usize = 1024;
/// Scripts for peers that are under way at once, to each primary.
const TURNS: usize = 64;

/// What comes in on the bus without being asked for. Must not wait.
pub type OnPush = Arc<dyn Fn(PushInfo) + Send + Sync>;

/// The connections to one primary, as long as all of them last.
#[derive(Clone)]
pub struct Connection {
    /// Tells it from every other, earlier or later.
    pub number: u64,
    /// For scripts.
    pub control: MultiplexedConnection,
    /// How many scripts for peers may be under way: a lease is not renewed behind thousands of leaves.
    pub turns: Arc<Semaphore>,
    /// For messages to other nodes.
    pub publisher: Arc<Publisher>,
    /// For messages to this node.
    pub subscriber: MultiplexedConnection,
    /// The publisher's other half.
    _publisher: MultiplexedConnection,
    primary: Primary,
    broken: CancellationToken,
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connection").field("number", &self.number).finish_non_exhaustive()
    }
}

impl Connection {
    /// Returns when the connection is no longer of use.
    pub async fn broken(&self) {
        self.broken.cancelled().await;
    }

    /// Whether it is no longer of use.
    #[must_use]
    pub fn is_broken(&self) -> bool {
        self.broken.is_cancelled()
    }

    /// It does not do what it should: nobody uses it from here on.
    pub fn give_up(&self) {
        self.broken.cancel();
    }

    /// Gives it up if `error` says that this server, or the way to it, is not what is needed.
    pub fn judge(&self, error: &RedisError) {
        let of_no_use = match error.kind() {
            ErrorKind::Server(kind) => matches!(
                kind,
                ServerErrorKind::ReadOnly
                    | ServerErrorKind::Moved
                    | ServerErrorKind::Ask
                    | ServerErrorKind::ClusterDown
                    | ServerErrorKind::MasterDown
                    | ServerErrorKind::BusyLoading
            ),
            _ => true,
        };
        if of_no_use {
            self.give_up();
        }
    }
}

/// Passes what comes in on, and notices the end.
struct Pushes {
    on_push: Option<OnPush>,
    broken: CancellationToken,
}

impl AsyncPushSender for Pushes {
    fn send(&self, info: PushInfo) -> Result<(), SendError> {
        if info.kind == PushKind::Disconnection {
            self.broken.cancel();
        } else if let Some(on_push) = &self.on_push {
            on_push(info);
        }
        Ok(())
    }
}

/// The connections there are.
pub type Chart = Arc<Vec<Arc<Connection>>>;

/// The connections to all primaries.
pub struct Connections {
    deployment: Deployment,
    chart: watch::Sender<Chart>,
    numbers: AtomicU64,
    on_push: OnPush,
    metrics: Metrics,
}

impl std::fmt::Debug for Connections {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connections").finish_non_exhaustive()
    }
}

impl Connections {
    /// None yet; [`Connections::run`] makes them.
    #[must_use]
    pub fn new(deployment: Deployment, on_push: OnPush, metrics: Metrics) -> Self {
        Self { deployment, chart: watch::Sender::new(Arc::default()), numbers: AtomicU64::new(1), on_push, metrics }
    }

    /// The connection to the primary of `slot`, if there is one now.
    #[must_use]
    pub fn now(&self, slot: u16) -> Option<Arc<Connection>> {
        usable(&self.chart.borrow(), slot)
    }

    /// The connection to the primary of `slot`, as soon as there is one.
    pub async fn to(&self, slot: u16) -> Arc<Connection> {
        let mut charts = self.chart.subscribe();
        loop {
            if let Some(connection) = usable(&charts.borrow_and_update(), slot) {
                return connection;
            }
            // The sender is this object's own.
            let _ = charts.changed().await;
        }
    }

    /// Marks every change of the connections.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<Chart> {
        self.chart.subscribe()
    }

    /// How many partitions the rooms are spread over.
    #[must_use]
    pub fn partitions(&self) -> u16 {
        self.deployment.partitions()
    }

    /// Makes connections, and makes those anew that broke, for ever.
    pub async fn run(&self) {
        let mut lost_since: Option<Instant> = None;
        let mut retry = RETRY[0];
        loop {
            let complete = self.look().await;
            self.metrics.redis_up.set(i64::from(complete.is_ok()));
            match complete {
                Ok(()) => {
                    if let Some(since) = lost_since.take() {
                        tracing::info!(seconds = since.elapsed().as_secs_f64(), "redis is back");
                    }
                    retry = RETRY[0];
                    self.wait_for_trouble().await;
                }
                Err(error) => {
                    if lost_since.is_none() {
                        lost_since = Some(Instant::now());
                        tracing::warn!(%error, "redis is out of reach");
                    }
                    tokio::time::sleep(retry).await;
                    retry = (retry * 2).min(RETRY[1]);
                }
            }
        }
    }

    /// One look at who the primaries are, and a try to reach those that are not reached.
    async fn look(&self) -> Result<(), TopologyError> {
        let have: Vec<Arc<Connection>> =
            self.chart.borrow().iter().filter(|known| !known.is_broken()).cloned().collect();
        self.chart.send_replace(Arc::new(have.clone()));
        let primaries = self.deployment.primaries(CONNECT).await?;
        let mut error = None;
        let attempts = primaries.into_iter().map(|primary| {
            let known = have.iter().find(|known| known.primary.address() == primary.address()).cloned();
            async move {
                match known {
                    Some(known) => Ok(Arc::new(Connection { primary, ..Connection::clone(&known) })),
                    None => self.connect(primary).await,
                }
            }
        });
        let connections: Vec<Arc<Connection>> = futures_util::future::join_all(attempts)
            .await
            .into_iter()
            .filter_map(|made| made.map_err(|failed| error = Some(failed)).ok())
            .collect();
        for left in have.iter().filter(|known| !connections.iter().any(|kept| kept.number == known.number)) {
            left.give_up();
        }
        self.chart.send_replace(Arc::new(connections));
        error.map_or(Ok(()), |error| Err(error.into()))
    }

    async fn connect(&self, primary: Primary) -> Result<Arc<Connection>, RedisError> {
        let broken = CancellationToken::new();
        let config = |on_push: Option<OnPush>| {
            AsyncConnectionConfig::new()
                .set_connection_timeout(Some(CONNECT))
                // Each request has its own.
                .set_response_timeout(None)
                .set_pipeline_buffer_size(PIPELINE)
                .set_push_sender(Pushes { on_push, broken: broken.clone() })
        };
        let (control, subscriber) = (config(None), config(Some(Arc::clone(&self.on_push))));
        let all = async {
            tokio::try_join!(
                primary.client.get_multiplexed_async_connection_with_config(&control),
                primary.client.get_multiplexed_async_connection_with_config(&subscriber),
                Publisher::open(&primary, config(None), broken.clone()),
            )
        };
        // The library's own time-out ends before the greeting is answered.
        let made = tokio::time::timeout(CONNECT * 2, all).await;
        let (control, subscriber, (publisher, other_half)) = made
            .map_err(|_| RedisError::from((ErrorKind::Io, "no greeting in time")))
            .flatten()
            .inspect_err(|_| broken.cancel())?;
        let number = self.numbers.fetch_add(1, Ordering::Relaxed);
        let turns = Arc::new(Semaphore::new(TURNS));
        let connection =
            Connection { number, control, turns, publisher, subscriber, _publisher: other_half, primary, broken };
        Ok(Arc::new(connection))
    }

    /// Returns when a connection broke, or it is time to look again.
    async fn wait_for_trouble(&self) {
        let chart = Arc::clone(&self.chart.borrow());
        let any = futures_util::future::select_all(chart.iter().map(|connection| Box::pin(connection.broken())));
        tokio::select! {
            _ = any => {}
            () = tokio::time::sleep(REVIEW), if self.deployment.moves() => {}
        }
    }
}

fn usable(chart: &Chart, slot: u16) -> Option<Arc<Connection>> {
    chart.iter().find(|connection| connection.primary.has(slot) && !connection.is_broken()).cloned()
}
