//! The way of socketioxide-redis' adapter: over the bus, where nothing gets lost without a word.
//!
//! The adapter carries the library's own operations from node to node: broadcasts, disconnecting sockets, fetching them.
//! What peers say to each other does not go by it. It would publish before it delivers locally, have every message
//! serialised once more, and learn only that Redis took it, not that the other node has it.

use std::sync::{Arc, RwLock};

use socketioxide_redis::drivers::{ChanItem, Driver, MessageStream};
use tokio::sync::mpsc;

use super::bus::Bus;
use crate::id::NodeId;

/// The adapter's driver.
#[derive(Clone, Debug)]
pub struct BusDriver {
    /// What carries the messages.
    pub bus: Arc<Bus>,
    /// The other nodes there are.
    pub others: Arc<RwLock<Vec<NodeId>>>,
}

/// Why a message of the adapter did not get through.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0} nodes did not tell that they have the message")]
pub struct NotReceived(usize);

impl BusDriver {
    fn others(&self) -> Vec<NodeId> {
        self.others.read().map(|others| others.clone()).unwrap_or_default()
    }
}

impl Driver for BusDriver {
    type Error = NotReceived;

    async fn publish(&self, channel: String, message: Vec<u8>) -> Result<(), Self::Error> {
        // Every channel of the adapter names who listens to it: those who do not drop the message.
        self.bus.publish(&self.others(), &channel, &message).await.map_err(NotReceived)
    }

    async fn subscribe(&self, channel: String, size: usize) -> Result<MessageStream<ChanItem>, Self::Error> {
        let (sender, receiver) = mpsc::channel(size);
        self.bus.subscribe(channel, sender);
        Ok(MessageStream::new(receiver))
    }

    async fn unsubscribe(&self, channel: String) -> Result<(), Self::Error> {
        self.bus.unsubscribe(&channel);
        Ok(())
    }

    async fn num_serv(&self, _: &str) -> Result<u16, Self::Error> {
        Ok(u16::try_from(self.others().len() + 1).unwrap_or(u16::MAX))
    }
}
