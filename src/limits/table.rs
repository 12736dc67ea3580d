//! What is remembered of strangers, by address or room: bounded, and never forgotten for anybody's convenience.
//!
//! An entry is taken out only when nothing of it is left to be remembered, so no limit is ever reset by filling the
//! table. Who comes while it is full is counted together with its neighbours, in one of a fixed number of shared
//! entries: a crowd that fills the table is limited as one, and so is who stands next to it.

use std::{
    collections::HashMap,
    hash::{BuildHasher, Hash, RandomState},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use super::bucket::Moment;

/// Locks of a table: handshakes and joins of different addresses hardly ever meet.
const SHARDS: usize = 16;
/// Shared entries of each.
const SHARED: usize = 64;
/// How often a full shard is searched for entries that can go.
const SEARCH: Duration = Duration::from_secs(1);

/// What a table remembers.
pub trait Entry: Default {
    /// Whether it is as good as a new one.
    fn is_idle(&self, now: Moment) -> bool;
}

/// Where an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Its own.
    Own,
    /// Shared, by that number.
    Shared(usize),
}

/// Entries by key.
#[derive(Debug)]
pub struct Table<K, E> {
    shards: Vec<Mutex<Shard<K, E>>>,
    hasher: RandomState,
}

#[derive(Debug)]
struct Shard<K, E> {
    own: HashMap<K, E>,
    shared: Vec<E>,
    searched: Moment,
}

/// A key of a [`Table`].
pub trait Key: Copy + Eq + Hash {
    /// With whom it is counted when there is no room.
    fn neighbourhood(self) -> u64;
}

impl<K: Key, E: Entry> Default for Table<K, E> {
    fn default() -> Self {
        let shard = || Mutex::new(Shard { own: HashMap::new(), shared: Vec::new(), searched: Moment(0) });
        Self { shards: (0..SHARDS).map(|_| shard()).collect(), hasher: RandomState::new() }
    }
}

impl<K: Key, E: Entry> Table<K, E> {
    /// Does `act` with the entry of `key`, one of its own if there are fewer than `most`, and tells where that is.
    pub fn with<R>(&self, key: K, most: usize, now: Moment, act: impl FnOnce(&mut E) -> R) -> (R, Place) {
        let most = most.div_ceil(SHARDS);
        let (hash, mut shard) = self.shard(key);
        if let Some(entry) = shard.own.get_mut(&key) {
            return (act(entry), Place::Own);
        }
        if shard.own.len() >= most && now.since(shard.searched) >= SEARCH {
            shard.searched = now;
            shard.own.retain(|_, entry| !entry.is_idle(now));
        }
        if shard.own.len() >= most {
            if shard.shared.is_empty() {
                shard.shared.resize_with(SHARED, E::default);
            }
            let at = usize::try_from(hash % SHARED as u64).unwrap_or(0);
            return (act(&mut shard.shared[at]), Place::Shared(at));
        }
        let mut entry = E::default();
        let result = act(&mut entry);
        if !entry.is_idle(now) {
            shard.own.insert(key, entry);
        }
        (result, Place::Own)
    }

    /// Does `act` with the entry that is already at `place`.
    pub fn at(&self, key: K, place: Place, act: impl FnOnce(&mut E)) {
        let (_, mut shard) = self.shard(key);
        let entry = match place {
            Place::Own => shard.own.get_mut(&key),
            Place::Shared(at) => shard.shared.get_mut(at),
        };
        if let Some(entry) = entry {
            act(entry);
        }
    }

    /// Forgets what is not worth remembering, and gives memory back.
    pub fn sweep(&self, now: Moment) {
        for shard in &self.shards {
            let mut shard = lock(shard);
            shard.own.retain(|_, entry| !entry.is_idle(now));
            if shard.own.capacity() > 64 && shard.own.len() < shard.own.capacity() / 4 {
                let twice = shard.own.len() * 2;
                shard.own.shrink_to(twice);
            }
            if shard.shared.iter().all(|entry| entry.is_idle(now)) {
                shard.shared = Vec::new();
            }
        }
    }

    /// Entries of their own.
    #[must_use]
    pub fn len(&self) -> usize {
        self.shards.iter().map(|shard| lock(shard).own.len()).sum()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Entries there is memory for.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.shards.iter().map(|shard| lock(shard).own.capacity()).sum()
    }

    /// By neighbourhood: one that is full of strangers takes no room from the others.
    fn shard(&self, key: K) -> (u64, MutexGuard<'_, Shard<K, E>>) {
        let hash = self.hasher.hash_one(key.neighbourhood());
        (hash, lock(&self.shards[usize::try_from((hash >> 32) % SHARDS as u64).unwrap_or(0)]))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::bucket::{Bucket, Terms};

    #[derive(Clone, Copy, PartialEq, Eq, Hash)]
    struct Number(u64);

    impl Key for Number {
        fn neighbourhood(self) -> u64 {
            self.0 / 1000
        }
    }

    impl Entry for Bucket {
        fn is_idle(&self, now: Moment) -> bool {
            self.is_empty(now)
        }
    }

    fn terms() -> Terms {
        Terms::of(crate::config::Rate { count: 1, per: Duration::from_secs(1), burst: 10 }).expect("a limit")
    }

    #[test]
    fn a_full_table_forgets_nobody_and_counts_newcomers_with_their_neighbours() {
        let table = Table::<Number, Bucket>::default();
        let take = |key, now| table.with(Number(key), 1600, now, |bucket| bucket.take(10, terms(), now).is_ok());
        let start = Moment(0);
        assert!((0..100_000).filter(|key| take(*key, start).0).count() >= 1600);
        assert!(table.len() <= 1600, "{}", table.len());
        // Nobody has anything left, known or not.
        assert!((0..100_000).all(|key| !take(key, start).0));
        // A neighbourhood that nobody came from has its own share.
        let fresh = (200..2000).map(|n| n * 1000).filter(|key| take(*key, start).0).count();
        assert!(fresh > 100, "{fresh}");
        // Those it remembers wait as long as any; then there is room again.
        let early = start.after(Duration::from_secs(9));
        assert!((0..100_000).all(|key| !take(key, early).0));
        let later = start.after(Duration::from_secs(10));
        let (passed, place) = take(50_000, later);
        assert_eq!((passed, place), (true, Place::Own));
    }

    #[test]
    fn memory_is_given_back() {
        let table = Table::<Number, Bucket>::default();
        for key in 0..100_000 {
            table.with(Number(key), 100_000, Moment(0), |bucket| bucket.charge(1, terms(), Moment(0)));
        }
        let most = table.capacity();
        table.sweep(Moment(0));
        assert!(!table.is_empty());
        table.sweep(Moment(0).after(Duration::from_secs(1)));
        assert!(table.is_empty() && table.capacity() < most / 10, "{} of {most}", table.capacity());
    }

    #[test]
    fn who_leaves_nothing_behind_is_not_remembered() {
        let table = Table::<Number, Bucket>::default();
        for key in 0..10 {
            table.with(Number(key), 100, Moment(0), |_| ());
        }
        assert!(table.is_empty());
    }
}
