//! Thousands of peers: connected a bounded number at a time, seated in pairs, then listening.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use tokio::task::JoinSet;

use crate::connection::Outgoing;
use crate::peer::{Manner, Peer, Seat};
use crate::target::Target;

/// How long one connection or one join may take. A lost SYN costs one second, and the next one two.
const PATIENCE: Duration = Duration::from_secs(15);

/// How many connections or joins are under way at once: below every listen backlog.
#[derive(Clone, Copy, Debug)]
pub struct InFlight(pub usize);

/// Connects `sockets` peers, in the order of their numbers, each to one of the `targets`.
///
/// # Errors
/// When one of them cannot connect.
pub async fn connect(targets: &[Target], sockets: usize, in_flight: InFlight) -> anyhow::Result<Vec<Peer>> {
    stream::iter(0..sockets)
        .map(|number| async move {
            tokio::time::timeout(PATIENCE, Peer::connect(&targets[node(number, targets.len())], number))
                .await
                .context("no answer in time")
                .flatten()
                .with_context(|| format!("socket {number} of {sockets} cannot connect"))
        })
        .buffered(in_flight.0)
        .try_collect()
        .await
}

/// To which of the nodes the socket with this number connects: never the one of the other peer of its room, if there is a choice.
/// Rooms take the ordered pairs of nodes in turn, so that after each round of them all pairs are used alike.
#[must_use]
pub const fn node(number: usize, nodes: usize) -> usize {
    let (room, place) = (number / 2, number % 2);
    let first = room % nodes;
    if nodes == 1 || place == 0 {
        return first;
    }
    let distance = 1 + room / nodes % (nodes - 1);
    (first + distance) % nodes
}

/// Seats the peers two by two, and checks that each pair was told `created` and `joined`.
///
/// # Errors
/// When a peer gets no answer, or a pair the wrong ones.
pub async fn seat(peers: Vec<Peer>, manner: Manner, in_flight: InFlight) -> anyhow::Result<Vec<Peer>> {
    let seated: Vec<(Peer, Seat)> = stream::iter(peers.into_iter().enumerate())
        .map(|(number, mut peer)| async move {
            let room = format!("bench-{}", number / 2);
            let seat = tokio::time::timeout(PATIENCE, peer.join(&room, manner))
                .await
                .context("no answer in time")
                .flatten()
                .with_context(|| format!("socket {number} cannot join {room}"))?;
            anyhow::Ok((peer, seat))
        })
        .buffered(in_flight.0)
        .try_collect()
        .await?;
    for (room, pair) in seated.chunks_exact(2).enumerate() {
        let (first, second) = (pair[0].1, pair[1].1);
        ensure!(
            first.min(second) == Seat::Created && first.max(second) == Seat::Joined,
            "the two peers of room {room} were told {first:?} and {second:?}"
        );
    }
    Ok(seated.into_iter().map(|(peer, _)| peer).collect())
}

/// Peers that listen, each in a task of its own. Dropping it ends their connections.
pub struct Crowd {
    outgoing: Vec<Outgoing>,
    tasks: JoinSet<()>,
    events: Arc<Events>,
}

/// Engine.IO pings that were answered since the start; by default none ever.
#[derive(Default)]
pub struct Pings(Arc<Events>);

impl Pings {
    /// How many until now.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.0.pings.load(Ordering::Relaxed)
    }
}

#[derive(Default)]
struct Events {
    pings: AtomicU64,
    ended: AtomicU64,
    first_end: std::sync::OnceLock<String>,
}

impl Crowd {
    /// Starts a task for each peer. `on_message` gets the number of the peer and the message as it came.
    pub fn listen(peers: Vec<Peer>, on_message: impl Fn(usize, &str) + Clone + Send + Sync + 'static) -> Self {
        let outgoing = peers.iter().map(Peer::outgoing).collect();
        let events = Arc::<Events>::default();
        let mut tasks = JoinSet::new();
        for (number, peer) in peers.into_iter().enumerate() {
            let (on_message, events) = (on_message.clone(), Arc::clone(&events));
            tasks.spawn(async move {
                let end = peer.listen(&events.pings, |message| on_message(number, message)).await;
                let end = end.unwrap_or_else(|error| format!("{error:#}"));
                events.first_end.get_or_init(|| end);
                events.ended.fetch_add(1, Ordering::Relaxed);
            });
        }
        Self { outgoing, tasks, events }
    }

    /// The sending halves, by the number of the peer.
    #[must_use]
    pub fn outgoing(&self) -> Vec<Outgoing> {
        self.outgoing.clone()
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.tasks.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.tasks.is_empty()
    }

    /// The count of Engine.IO pings answered, for another thread to read.
    #[must_use]
    pub fn pings(&self) -> Pings {
        Pings(Arc::clone(&self.events))
    }

    /// Fails once a connection has ended.
    ///
    /// # Errors
    /// When a connection has ended, with the reason of the first.
    pub fn check_all_connected(&self) -> anyhow::Result<()> {
        let ended = self.events.ended.load(Ordering::Relaxed);
        let reason = self.events.first_end.get().map_or("", String::as_str);
        ensure!(ended == 0, "{ended} of {} connections ended, the first: {reason}", self.outgoing.len());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    fn rooms_by_pair(rooms: usize, nodes: usize) -> HashMap<(usize, usize), usize> {
        let mut rooms_by_pair = HashMap::new();
        for room in 0..rooms {
            *rooms_by_pair.entry((node(room * 2, nodes), node(room * 2 + 1, nodes))).or_default() += 1;
        }
        rooms_by_pair
    }

    #[test]
    fn every_ordered_pair_of_nodes_gets_as_many_rooms() {
        for nodes in 2..=8 {
            let pairs = nodes * (nodes - 1);
            let rooms_by_pair = rooms_by_pair(pairs * 3, nodes);
            assert!(rooms_by_pair.keys().all(|(first, second)| first != second && first.max(second) < &nodes));
            assert_eq!(rooms_by_pair.len(), pairs);
            assert!(rooms_by_pair.values().all(|rooms| *rooms == 3), "{nodes} nodes: {rooms_by_pair:?}");
        }
    }

    #[test]
    fn a_round_that_is_not_full_is_uneven_by_one_room_at_most() {
        assert!(rooms_by_pair(100, 8).values().all(|rooms| (1..=2).contains(rooms)));
    }

    #[test]
    fn one_node_takes_all() {
        assert_eq!(rooms_by_pair(9, 1), HashMap::from([((0, 0), 9)]));
    }
}
