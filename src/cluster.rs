//! What makes several nodes one service: the seats and the messages that they share through Redis.
//!
//! Reading order: [`topology`] (which Redis), [`connection`] (the way there), [`scripts`] (what is done there, in Lua),
//! [`lease`] (the seats of this node and what they stand on), [`registry`] (all partitions as one `Registry`); then
//! [`frame`], [`mod@line`] and [`bus`] (what nodes say to each other), [`driver`] (the Socket.IO adapter's share of it). What
//! is guaranteed, and how long each fault takes, stands in `docs/CLUSTER.md`.
//!
//! Only this module uses the `redis` crate. It knows seats and letters, no sockets.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, OnceLock, PoisonError, RwLock, Weak},
};

use tokio_util::sync::CancellationToken;

use crate::{config, exchange::Addressee, id::NodeId, lifecycle::Lifecycle, metrics::Metrics};

pub mod beat;
pub mod bus;
pub mod connection;
pub mod driver;
pub mod frame;
pub mod gate;
pub mod lease;
pub mod line;
pub mod publisher;
pub mod registry;
pub mod scripts;
pub mod topology;

use beat::Beat;
use bus::Bus;
use connection::Connections;
use driver::BusDriver;
use gate::Gate;
use lease::{Partition, Shared};
use registry::RedisRegistry;
use topology::Deployment;

/// This node's part in the cluster.
#[derive(Debug)]
pub struct Cluster {
    /// The rooms.
    pub registry: Arc<RedisRegistry>,
    /// To other nodes.
    pub bus: Arc<Bus>,
    /// For the Socket.IO adapter.
    pub driver: BusDriver,
    partitions: Vec<Arc<Partition>>,
    shared: Arc<Shared>,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("node", &self.node).finish_non_exhaustive()
    }
}

impl Cluster {
    /// All parts, of which none runs yet.
    #[must_use]
    pub fn new(
        deployment: Deployment,
        redis: &config::Redis,
        (settings, seats): (&config::Cluster, &config::Seats),
        node: NodeId,
        metrics: &Metrics,
        lifecycle: &Lifecycle,
    ) -> Self {
        let count = deployment.partitions();
        let others = Arc::new(RwLock::new(Vec::new()));
        let relay = Gate::new(lifecycle, "relay");
        let beat = Beat::new();
        let bus = Bus::new(node, &redis.prefix, settings.patience, metrics.clone(), relay, beat, Arc::clone(&others));
        let on_push = {
            let bus = Arc::clone(&bus);
            Arc::new(move |info| bus.push_received(info))
        };
        let connections = Arc::new(Connections::new(deployment, on_push, metrics.clone()));
        let shared = Arc::new(Shared {
            node,
            settings: settings.clone(),
            grace: seats.grace,
            keep_age: seats.keep_age,
            beat,
            connections,
            metrics: metrics.clone(),
            gate: Gate::new(lifecycle, "redis"),
            going: CancellationToken::new(),
            addressee: OnceLock::new(),
            on_view: Box::new(on_view(node, Arc::clone(&bus), Arc::clone(&others), metrics.clone())),
            absence: Mutex::default(),
            on_return: {
                let bus = Arc::clone(&bus);
                Box::new(move || bus.begin_anew())
            },
        });
        let partitions: Vec<_> =
            (0..count).map(|index| Arc::new(Partition::new(&redis.prefix, index, Arc::clone(&shared)))).collect();
        Self {
            registry: Arc::new(RedisRegistry::new(partitions.clone())),
            driver: BusDriver { bus: Arc::clone(&bus), others },
            bus,
            partitions,
            shared,
        }
    }

    /// Runs all parts, as tasks of `lifecycle`. What comes from other nodes, and what this node finds lost, is told to
    /// `addressee`.
    pub fn run(&self, lifecycle: &Lifecycle, addressee: &Weak<dyn Addressee>) {
        let _ = self.shared.addressee.set(Weak::clone(addressee));
        self.bus.attach(Weak::clone(addressee), &self.shared.connections);
        let connections = Arc::clone(&self.shared.connections);
        lifecycle.spawn(async move { connections.run().await });
        let (bus, connections) = (Arc::clone(&self.bus), Arc::clone(&self.shared.connections));
        lifecycle.spawn(async move { bus.run_sender(&connections).await });
        let (bus, connections) = (Arc::clone(&self.bus), Arc::clone(&self.shared.connections));
        lifecycle.spawn(async move { bus.run_subscription(&connections).await });
        for partition in &self.partitions {
            let partition = Arc::clone(partition);
            lifecycle.spawn(async move { partition.run().await });
        }
    }

    /// Gives up this node's leases, when all its seats are given up: others need not wait for their end.
    pub async fn quit(&self) {
        self.bus.flushed().await;
        self.shared.going.cancel();
        futures_util::future::join_all(self.partitions.iter().map(|partition| partition.quit())).await;
    }
}

/// Puts the views of all partitions together.
fn on_view(
    node: NodeId,
    bus: Arc<Bus>,
    others: Arc<RwLock<Vec<NodeId>>>,
    metrics: Metrics,
) -> impl Fn(u16, &[NodeId]) + Send + Sync {
    let views: Mutex<HashMap<u16, Vec<NodeId>>> = Mutex::default();
    move |partition, view| {
        let mut views = views.lock().unwrap_or_else(PoisonError::into_inner);
        views.insert(partition, view.to_vec());
        let mut all: Vec<NodeId> = views.values().flatten().copied().filter(|known| *known != node).collect();
        all.sort_unstable_by_key(ToString::to_string);
        all.dedup();
        metrics.nodes.set(i64::try_from(all.len() + 1).unwrap_or(i64::MAX));
        let mut others = others.write().unwrap_or_else(PoisonError::into_inner);
        let gone: Vec<NodeId> = others.iter().copied().filter(|known| !all.contains(known)).collect();
        metrics.nodes_lost.inc_by(gone.len() as u64);
        *others = all;
        drop(others);
        if !gone.is_empty() {
            bus.keep_only(|line| !gone.contains(&line));
        }
    }
}
