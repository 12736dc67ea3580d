//! The registry of one process: rooms in sharded maps, a lock a shard, held for a few comparisons and never across an
//! await.

use std::{
    collections::{HashMap, hash_map::Entry},
    hash::{BuildHasher, RandomState},
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

use futures_util::future::{BoxFuture, FutureExt, ready};

use super::{
    Ask, Expiry, Join, JoinOutcome, KeepOutcome, LeaveOutcome, Mail, Most, Occupancy, Occupant, Registry,
    RegistryError, Role, SEATS, Taken,
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

/// What the holder of a seat said while the other was away, or not there yet.
#[derive(Debug, Default)]
struct Mailbox {
    /// Whose seat it is kept for; none for whoever comes.
    to: Option<SeatKey>,
    /// With the time when each is too old.
    mail: Vec<(Option<Instant>, Mail)>,
}

/// The seats of one room, in no order; a room whose seats are all free is removed at once.
#[derive(Debug, Default)]
struct Room {
    seats: [Option<Seat>; SEATS],
    /// By the seat that it was sent from. Hardly any room has some.
    mail: Option<Box<[Mailbox; SEATS]>>,
}

impl Room {
    fn seat_of(&self, who: &Occupant) -> Option<Seat> {
        self.seats.iter().flatten().find(|seat| seat.occupant == *who).copied()
    }

    fn other_than(&self, who: &Occupant) -> Option<Occupant> {
        self.seats.iter().flatten().map(|seat| seat.occupant).find(|occupant| occupant != who)
    }

    fn join(&mut self, Ask { who, key, resume }: Ask) -> (JoinOutcome, Vec<Mail>) {
        let other = self.other_than(&who);
        if let Some(seat) = self.seat_of(&who) {
            return (JoinOutcome::Seated(seat.role, other), Vec::new());
        }
        let asked_back = |seat: &Option<Seat>| seat.is_some_and(|seat| resume.is_some() && seat.key == resume);
        if let Some(at) = self.seats.iter().position(asked_back)
            && let Some(seat) = &mut self.seats[at]
        {
            let (role, before) = (seat.role, std::mem::replace(&mut seat.occupant, who));
            return (JoinOutcome::Resumed(role, before, self.other_than(&who)), self.pick_up(at, resume));
        }
        let Some(free) = self.seats.iter().position(Option::is_none) else {
            return (JoinOutcome::Full, Vec::new());
        };
        let (role, outcome) = match other {
            None => (Role::Created, JoinOutcome::Created),
            Some(other) => (Role::Joined, JoinOutcome::Joined(other)),
        };
        self.seats[free] = Some(Seat { occupant: who, role, key });
        (outcome, self.pick_up(free, None))
    }

    /// What was sent to the seat at `at`, if that is kept for `to`. It is nobody else's.
    fn pick_up(&mut self, at: usize, to: Option<SeatKey>) -> Vec<Mail> {
        let Some(mail) = &mut self.mail else { return Vec::new() };
        let Mailbox { to: kept_for, mut mail, .. } = std::mem::take(&mut mail[1 - at]);
        if kept_for != to {
            return Vec::new();
        }
        let now = Instant::now();
        mail.retain(|(until, _)| until.is_none_or(|until| now < until));
        mail.sort_by_key(|(_, mail)| mail.serial);
        mail.into_iter().map(|(_, mail)| mail).collect()
    }

    fn keep(&mut self, from: &Occupant, to: Option<Occupant>, mail: Mail, most: Most) -> KeepOutcome {
        let is_sender = |seat: &Option<Seat>| seat.is_some_and(|seat| seat.occupant == *from);
        let Some(at) = self.seats.iter().position(is_sender) else { return KeepOutcome::Gone };
        let to = match (to, self.seats[1 - at]) {
            (None, None) => None,
            (Some(to), Some(seat)) if seat.occupant == to => match seat.key {
                Some(key) => Some(key),
                None => return KeepOutcome::Gone,
            },
            (_, Some(_)) => return KeepOutcome::Present,
            (Some(_), None) => return KeepOutcome::Gone,
        };
        let kept = &mut self.mail.get_or_insert_default()[at];
        if kept.to != to {
            *kept = Mailbox { to, ..Mailbox::default() };
        }
        let now = Instant::now();
        kept.mail.retain(|(until, _)| until.is_none_or(|until| now < until));
        let bytes: usize = kept.mail.iter().map(|(_, mail)| mail.body.len()).sum();
        if kept.mail.len() >= most.messages || bytes + mail.body.len() > most.bytes {
            return KeepOutcome::Full;
        }
        kept.mail.push((to.is_none().then(|| now + most.age), mail));
        KeepOutcome::Kept
    }

    fn leave(&mut self, who: &Occupant) -> LeaveOutcome {
        match self.seats.iter().position(|seat| seat.is_some_and(|seat| seat.occupant == *who)) {
            None => LeaveOutcome::NotSeated,
            Some(at) => {
                self.seats[at] = None;
                if let Some(mail) = &mut self.mail {
                    mail[at] = Mailbox::default();
                }
                LeaveOutcome::Left(self.other_than(who))
            }
        }
    }

    fn is_empty(&self) -> bool {
        self.seats.iter().all(Option::is_none)
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
        let (outcome, mail) = shard.entry(room.clone()).or_default().join(ask);
        let order = match outcome {
            // Counted under the room's lock.
            JoinOutcome::Created | JoinOutcome::Joined(_) | JoinOutcome::Resumed(..) => {
                self.joins.fetch_add(1, Ordering::Relaxed)
            }
            JoinOutcome::Seated(..) | JoinOutcome::Full => 0,
        };
        Join { outcome, order, away: false, mail }
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

    fn keep<'a>(
        &'a self,
        room: &'a RoomName,
        from: Occupant,
        to: Option<Occupant>,
        mail: Mail,
        _: usize,
        most: Most,
    ) -> BoxFuture<'a, Result<KeepOutcome, RegistryError>> {
        let mut shard = self.shard(room);
        let kept = shard.get_mut(room).map_or(KeepOutcome::Gone, |room| room.keep(&from, to, mail, most));
        drop(shard);
        ready(Ok(kept)).boxed()
    }

    /// All seats are this node's: they end with it.
    fn forget(&self, _: &RoomName, _: Occupant) {}

    fn expire<'a>(&'a self, _: &'a RoomName, _: Occupant) -> BoxFuture<'a, Result<Expiry, RegistryError>> {
        ready(Ok(Expiry::Taken)).boxed()
    }

    fn look<'a>(&'a self, room: &'a RoomName) -> BoxFuture<'a, Result<Vec<Taken>, RegistryError>> {
        let shard = self.shard(room);
        let seats = shard.get(room).into_iter().flat_map(|room| room.seats.iter().flatten());
        let taken = seats.map(|seat| Taken { by: seat.occupant, role: seat.role, away: false }).collect();
        drop(shard);
        ready(Ok(taken)).boxed()
    }

    fn occupancy(&self) -> Occupancy {
        self.shards.iter().fold(Occupancy::default(), |sum, shard| {
            let shard = lock(shard);
            Occupancy {
                rooms: sum.rooms + shard.len(),
                seats: sum.seats + shard.values().map(|room| room.seats.iter().flatten().count()).sum::<usize>(),
            }
        })
    }
}
