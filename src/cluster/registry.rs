//! The registry of rooms that all nodes share: each room's partition decides.

use std::sync::Arc;

use futures_util::future::{BoxFuture, FutureExt};

use super::lease::{Partition, partition_of};
use crate::{
    id::RoomName,
    rooms::{
        Ask, Expiry, Join, KeepOutcome, LeaveOutcome, Mail, Most, Occupancy, Occupant, Registry, RegistryError, Taken,
    },
};

/// Seats kept in Redis.
#[derive(Debug)]
pub struct RedisRegistry {
    partitions: Vec<Arc<Partition>>,
}

impl RedisRegistry {
    /// Over all partitions, in the order of their numbers.
    #[must_use]
    pub fn new(partitions: Vec<Arc<Partition>>) -> Self {
        Self { partitions }
    }

    fn partition(&self, room: &RoomName) -> &Partition {
        let count = u16::try_from(self.partitions.len()).unwrap_or(u16::MAX);
        &self.partitions[usize::from(partition_of(room, count))]
    }
}

impl Registry for RedisRegistry {
    fn join<'a>(&'a self, room: &'a RoomName, ask: Ask) -> BoxFuture<'a, Result<Join, RegistryError>> {
        self.partition(room).join(room, ask).boxed()
    }

    fn leave<'a>(&'a self, room: &'a RoomName, who: Occupant) -> BoxFuture<'a, Result<LeaveOutcome, RegistryError>> {
        self.partition(room).leave(room, who).map(Ok).boxed()
    }

    fn keep<'a>(
        &'a self,
        room: &'a RoomName,
        from: Occupant,
        to: Option<Occupant>,
        mail: Mail,
        before: usize,
        most: Most,
    ) -> BoxFuture<'a, Result<KeepOutcome, RegistryError>> {
        self.partition(room).keep(room, from, to, (mail, before), most).boxed()
    }

    fn forget(&self, room: &RoomName, who: Occupant) {
        self.partition(room).forget(room, who);
    }

    fn expire<'a>(&'a self, room: &'a RoomName, who: Occupant) -> BoxFuture<'a, Result<Expiry, RegistryError>> {
        self.partition(room).expire(room, who).boxed()
    }

    fn look<'a>(&'a self, room: &'a RoomName) -> BoxFuture<'a, Result<Vec<Taken>, RegistryError>> {
        self.partition(room).look(room).boxed()
    }

    fn occupancy(&self) -> Occupancy {
        self.partitions.iter().map(|partition| partition.occupancy()).fold(Occupancy::default(), |sum, one| Occupancy {
            rooms: sum.rooms + one.rooms,
            seats: sum.seats + one.seats,
        })
    }
}
