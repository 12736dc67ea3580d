//! The registry of one process: rooms in sharded maps, a lock a shard, held for a few comparisons and never across an
//! await.

use std::{
    collections::{HashMap, hash_map::Entry},
    hash::{BuildHasher, RandomState},
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use futures_util::future::{BoxFuture, FutureExt, ready};

use super::{
    Ask, Expiry, Join, JoinOutcome, LeaveOutcome, Occupancy, Occupant, Registry, RegistryError, Role, SEATS, Taken,
};
use crate::id::{RoomName, SeatKey};

/// Enough that cores seldom meet at one lock, few enough that counting them all is cheap.
const SHARDS: usize = 32;

#[derive(Clone, Copy, Debug)]
struct Seat {
    occupant: Occupant,
    role: Role,
    key: Option<SeatKey>,
}

/// The seats of one room, in no order; a room whose seats are all free is removed at once.
#[derive(Debug, Default)]
struct Room([Option<Seat>; SEATS]);

impl Room {
    fn seat_of(&self, who: &Occupant) -> Option<Seat> {
        self.0.iter().flatten().find(|seat| seat.occupant == *who).copied()
    }

    fn other_than(&self, who: &Occupant) -> Option<Occupant> {
        self.0.iter().flatten().map(|seat| seat.occupant).find(|occupant| occupant != who)
    }

    fn join(&mut self, Ask { who, key, resume }: Ask) -> JoinOutcome {
        let other = self.other_than(&who);
        if let Some(seat) = self.seat_of(&who) {
            return JoinOutcome::Seated(seat.role, other);
        }
        if let Some(seat) = self.0.iter_mut().flatten().find(|seat| resume.is_some() && seat.key == resume) {
            let (role, before) = (seat.role, std::mem::replace(&mut seat.occupant, who));
            return JoinOutcome::Resumed(role, before, self.other_than(&who));
        }
        let Some(free) = self.0.iter_mut().find(|seat| seat.is_none()) else {
            return JoinOutcome::Full;
        };
        let (role, outcome) = match other {
            None => (Role::Created, JoinOutcome::Created),
            Some(other) => (Role::Joined, JoinOutcome::Joined(other)),
        };
        *free = Some(Seat { occupant: who, role, key });
        outcome
    }

    fn leave(&mut self, who: &Occupant) -> LeaveOutcome {
        match self.0.iter_mut().find(|seat| seat.is_some_and(|seat| seat.occupant == *who)) {
            None => LeaveOutcome::NotSeated,
            Some(seat) => {
                *seat = None;
                LeaveOutcome::Left(self.other_than(who))
            }
        }
    }

    fn is_empty(&self) -> bool {
        self.0.iter().all(Option::is_none)
    }
}

type Shard = HashMap<RoomName, Room>;

/// Rooms held in this process.
#[derive(Debug)]
pub struct MemoryRegistry {
    shards: [Mutex<Shard>; SHARDS],
    hasher: RandomState,
    joins: AtomicU64,
}

impl Default for MemoryRegistry {
    fn default() -> Self {
        Self { shards: std::array::from_fn(|_| Mutex::default()), hasher: RandomState::new(), joins: AtomicU64::new(1) }
    }
}

impl MemoryRegistry {
    fn shard(&self, room: &RoomName) -> MutexGuard<'_, Shard> {
        #[expect(clippy::cast_possible_truncation, reason = "only the low bits choose the shard")]
        let at = self.hasher.hash_one(room.as_str()) as usize % SHARDS;
        lock(&self.shards[at])
    }

    fn join_now(&self, room: &RoomName, ask: Ask) -> Join {
        let mut shard = self.shard(room);
        let outcome = shard.entry(room.clone()).or_default().join(ask);
        let order = match outcome {
            // Counted under the room's lock.
            JoinOutcome::Created | JoinOutcome::Joined(_) | JoinOutcome::Resumed(..) => {
                self.joins.fetch_add(1, Ordering::Relaxed)
            }
            JoinOutcome::Seated(..) | JoinOutcome::Full => 0,
        };
        Join { outcome, order, away: false }
    }

    fn leave_now(&self, room: &RoomName, who: &Occupant) -> LeaveOutcome {
        let mut shard = self.shard(room);
        let Entry::Occupied(mut entry) = shard.entry(room.clone()) else {
            return LeaveOutcome::NotSeated;
        };
        let outcome = entry.get_mut().leave(who);
        if entry.get().is_empty() {
            entry.remove();
            // A flood of rooms must not leave its memory behind.
            if shard.capacity() > 1024 && shard.len() < shard.capacity() / 8 {
                shard.shrink_to_fit();
            }
        }
        outcome
    }
}

/// A panic elsewhere cannot leave a shard half changed: each change is one assignment.
fn lock(shard: &Mutex<Shard>) -> MutexGuard<'_, Shard> {
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Registry for MemoryRegistry {
    fn join<'a>(&'a self, room: &'a RoomName, ask: Ask) -> BoxFuture<'a, Result<Join, RegistryError>> {
        ready(Ok(self.join_now(room, ask))).boxed()
    }

    fn leave<'a>(&'a self, room: &'a RoomName, who: Occupant) -> BoxFuture<'a, Result<LeaveOutcome, RegistryError>> {
        ready(Ok(self.leave_now(room, &who))).boxed()
    }

    /// All seats are this node's: they end with it.
    fn forget(&self, _: &RoomName, _: Occupant) {}

    fn expire<'a>(&'a self, _: &'a RoomName, _: Occupant) -> BoxFuture<'a, Result<Expiry, RegistryError>> {
        ready(Ok(Expiry::Taken)).boxed()
    }

    fn look<'a>(&'a self, room: &'a RoomName) -> BoxFuture<'a, Result<Vec<Taken>, RegistryError>> {
        let shard = self.shard(room);
        let seats = shard.get(room).into_iter().flat_map(|room| room.0.iter().flatten());
        let taken = seats.map(|seat| Taken { by: seat.occupant, role: seat.role, away: false }).collect();
        drop(shard);
        ready(Ok(taken)).boxed()
    }

    fn occupancy(&self) -> Occupancy {
        self.shards.iter().fold(Occupancy::default(), |sum, shard| {
            let shard = lock(shard);
            Occupancy {
                rooms: sum.rooms + shard.len(),
                seats: sum.seats + shard.values().map(|room| room.0.iter().flatten().count()).sum::<usize>(),
            }
        })
    }
}
