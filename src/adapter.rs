//! The Socket.IO server's adapter: whole packets to single sockets of this node, and the library's own operations on all
//! nodes.
//!
//! The library's ways out serialise values anew. Its adapter interface alone takes whole packets, so the adapter of this
//! server, [`Switchboard`], hands itself out as an [`Outlet`]: a relayed message leaves as the bytes it came as. For all
//! else that crosses nodes (broadcasts, disconnecting and fetching sockets) it is socketioxide-redis' adapter, over
//! duet's bus.

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use futures_util::future::Either;
use socketioxide::{SocketError, adapter::Emitter};
use socketioxide_core::{
    adapter::{
        BroadcastOptions, CoreAdapter, CoreLocalAdapter, DefinedAdapter, RemoteSocketData, Room, RoomParam, Spawnable,
        errors::BroadcastError,
    },
    packet::Packet,
};
use socketioxide_redis::{CustomRedisAdapter, RedisAdapterConfig, RedisAdapterCtr};

use crate::{cluster::driver::BusDriver, id::PeerId};

/// What a message was not delivered for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Undelivered {
    /// The socket is gone, or going.
    Gone,
    /// Too much waits for it already.
    TooSlow,
}

/// Sends whole packets to single sockets of this node.
pub trait Outlet: Send + Sync + 'static {
    /// Puts `packet` into the queue of the socket `to`.
    ///
    /// # Errors
    /// [`Undelivered`]; then nothing was put there.
    fn send(&self, to: PeerId, packet: Packet) -> Result<(), Undelivered>;
}

/// Where the outlet is to be found once the Socket.IO server is built.
#[derive(Default)]
pub struct OutletSlot(OnceLock<Arc<dyn Outlet>>);

impl std::fmt::Debug for OutletSlot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OutletSlot").field("filled", &self.0.get().is_some()).finish()
    }
}

impl Outlet for OutletSlot {
    fn send(&self, to: PeerId, packet: Packet) -> Result<(), Undelivered> {
        self.0.get().ok_or(Undelivered::Gone)?.send(to, packet)
    }
}

/// What every [`Switchboard`] of a server is made with.
#[derive(Clone)]
pub struct AdapterState {
    /// Where it hands itself out.
    pub slot: Arc<OutletSlot>,
    /// To the other nodes; none when this one is alone.
    pub driver: Option<BusDriver>,
}

impl std::fmt::Debug for AdapterState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AdapterState").field("clustered", &self.driver.is_some()).finish_non_exhaustive()
    }
}

type Clustered = CustomRedisAdapter<Emitter, BusDriver>;

enum Way {
    Alone(CoreLocalAdapter<Emitter>),
    Clustered(Arc<Clustered>),
}

/// The adapter of a node.
pub struct Switchboard {
    way: Way,
    slot: Arc<OutletSlot>,
}

impl Outlet for Switchboard {
    fn send(&self, to: PeerId, packet: Packet) -> Result<(), Undelivered> {
        // Without a room and a flag these options mean this one socket.
        self.get_local().broadcast(packet, BroadcastOptions::new(to.0)).map_err(|errors| match errors.first() {
            Some(SocketError::InternalChannelFull) => Undelivered::TooSlow,
            Some(SocketError::Closed) | None => Undelivered::Gone,
        })
    }
}

impl DefinedAdapter for Switchboard {}

impl CoreAdapter<Emitter> for Switchboard {
    type Error = <Clustered as CoreAdapter<Emitter>>::Error;
    type State = AdapterState;
    type AckStream = <Clustered as CoreAdapter<Emitter>>::AckStream;
    type InitRes = ();

    fn new(state: &Self::State, local: CoreLocalAdapter<Emitter>) -> Self {
        let way = match &state.driver {
            None => Way::Alone(local),
            Some(driver) => {
                let constructor = RedisAdapterCtr::new_with_driver(driver.clone(), RedisAdapterConfig::default());
                Way::Clustered(Arc::new(CoreAdapter::new(&constructor, local)))
            }
        };
        Self { way, slot: Arc::clone(&state.slot) }
    }

    fn init(self: Arc<Self>, on_success: impl FnOnce() + Send + 'static) {
        let outlet: Arc<dyn Outlet> = self.clone();
        let _ = self.slot.0.set(outlet);
        if let Way::Clustered(adapter) = &self.way {
            // Subscribing is only a note in the bus.
            Arc::clone(adapter).init(|| {}).spawn();
        }
        on_success();
    }

    async fn close(&self) -> Result<(), Self::Error> {
        match &self.way {
            Way::Alone(_) => Ok(()),
            Way::Clustered(adapter) => adapter.close().await,
        }
    }

    async fn server_count(&self) -> Result<u16, Self::Error> {
        match &self.way {
            Way::Alone(_) => Ok(1),
            Way::Clustered(adapter) => adapter.server_count().await,
        }
    }

    async fn broadcast(&self, packet: Packet, options: BroadcastOptions) -> Result<(), BroadcastError> {
        match &self.way {
            Way::Alone(local) => Ok(local.broadcast(packet, options)?),
            Way::Clustered(adapter) => adapter.broadcast(packet, options).await,
        }
    }

    async fn broadcast_with_ack(
        &self,
        packet: Packet,
        options: BroadcastOptions,
        timeout: Option<Duration>,
    ) -> Result<Self::AckStream, Self::Error> {
        match &self.way {
            Way::Alone(local) => Ok(Either::Left(local.broadcast_with_ack(packet, options, timeout).0)),
            Way::Clustered(adapter) => adapter.broadcast_with_ack(packet, options, timeout).await,
        }
    }

    async fn add_sockets(&self, options: BroadcastOptions, rooms: impl RoomParam) -> Result<(), Self::Error> {
        match &self.way {
            Way::Alone(local) => local.add_sockets(options, rooms),
            Way::Clustered(adapter) => return adapter.add_sockets(options, rooms).await,
        }
        Ok(())
    }

    async fn del_sockets(&self, options: BroadcastOptions, rooms: impl RoomParam) -> Result<(), Self::Error> {
        match &self.way {
            Way::Alone(local) => local.del_sockets(options, rooms),
            Way::Clustered(adapter) => return adapter.del_sockets(options, rooms).await,
        }
        Ok(())
    }

    async fn disconnect_socket(&self, options: BroadcastOptions) -> Result<(), BroadcastError> {
        match &self.way {
            Way::Alone(local) => Ok(local.disconnect_socket(options)?),
            Way::Clustered(adapter) => adapter.disconnect_socket(options).await,
        }
    }

    async fn rooms(&self, options: BroadcastOptions) -> Result<Vec<Room>, Self::Error> {
        match &self.way {
            Way::Alone(local) => Ok(local.rooms(options).into_iter().collect()),
            Way::Clustered(adapter) => adapter.rooms(options).await,
        }
    }

    async fn fetch_sockets(&self, options: BroadcastOptions) -> Result<Vec<RemoteSocketData>, Self::Error> {
        match &self.way {
            Way::Alone(local) => Ok(local.fetch_sockets(options)),
            Way::Clustered(adapter) => adapter.fetch_sockets(options).await,
        }
    }

    fn get_local(&self) -> &CoreLocalAdapter<Emitter> {
        match &self.way {
            Way::Alone(local) => local,
            Way::Clustered(adapter) => adapter.get_local(),
        }
    }
}
