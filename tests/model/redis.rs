//! What stands at Redis, and the operations on it: one function for each script in `src/cluster/lua`, to be held beside
//! it. One room. Moments are told as ticks from now on, so that states which differ only in their age are one.

use crate::rules::Rules;

/// Ticks a lease lasts.
pub const TTL: u8 = 3;
/// Nodes at most, and one that comes when all others are gone.
pub const NODES: usize = 4;

/// A value of `nodes`, with the end of its lease (`leases`) beside it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Entry {
    pub lease: u8,
    pub token: u8,
    pub asserted: bool,
    /// Version at which it was added; 0: every other node has seen it.
    pub added: u8,
    pub seen: u8,
    /// Ticks until the lease ends.
    pub left: u8,
}

/// One of the two seats of the room.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Seat {
    pub peer: u8,
    pub generation: u8,
    pub node: u8,
    pub lease: u8,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Redis {
    /// The server process (`run_id`).
    pub process: u8,
    /// The process that the epoch was opened in, which names the epoch too; 0: nothing is stored.
    pub run: u8,
    pub version: u8,
    /// Ticks until the recovery ends at the latest; none: settled.
    pub ends: Option<u8>,
    pub known: bool,
    /// Ticks since any node was heard of.
    pub quiet: u8,
    pub nodes: [Option<Entry>; NODES],
    /// A bit for each node.
    pub waiting: u8,
    pub dead: Vec<(u8, u8)>,
    pub room: [Option<Seat>; 2],
    /// The leases whose set of rooms holds the room.
    pub seats: Vec<(u8, u8)>,
}

/// Who asks: a node, with its lease and the token of its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Who {
    pub node: u8,
    pub lease: u8,
    pub token: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Entered {
    Held,
    Assert,
    Fresh,
    /// A later connection of the node has entered.
    Refused,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Renewed {
    Held { version: u8, settled: bool, established: bool, nodes: Option<u8> },
    Lost,
    Epoch,
}

impl Redis {
    pub fn empty(process: u8) -> Self {
        Self {
            process,
            run: 0,
            version: 0,
            ends: None,
            known: false,
            quiet: 0,
            nodes: [const { None }; NODES],
            waiting: 0,
            dead: Vec::new(),
            room: [None, None],
            seats: Vec::new(),
        }
    }

    /// A tick passes.
    pub fn pass(&mut self) {
        self.quiet = (TTL / 2 + 1).min(self.quiet + 1);
        self.ends = self.ends.map(|ticks| ticks.saturating_sub(1));
        for entry in self.nodes.iter_mut().flatten() {
            entry.left = entry.left.saturating_sub(1);
        }
    }

    /// Makes one state of those that differ in nothing that any operation, or any property, could tell.
    pub fn tidy(&mut self, rules: &Rules) {
        if self.ends.is_none() {
            self.known = false;
        }
        self.room.sort();
        self.dead.sort_unstable();
        if rules.leases_named_once {
            let seats = &self.seats;
            self.dead.retain(|lease| seats.contains(lease));
            self.dead.dedup();
        }
    }

    /// All that holds a version.
    pub fn each_version(&mut self, visit: &mut impl FnMut(&mut u8)) {
        visit(&mut self.version);
        for entry in self.nodes.iter_mut().flatten() {
            visit(&mut entry.added);
            visit(&mut entry.seen);
        }
    }

    /// Whether all that waits is over, in the process that serves now.
    pub fn settled(&self) -> bool {
        self.run == self.process && self.ends.is_none()
    }

    /// Whether that lease counts, without striking it out.
    pub fn stands(&self, node: u8, lease: u8) -> bool {
        self.entry(node).is_some_and(|entry| entry.lease == lease && entry.left > 0)
    }

    pub fn entry(&self, node: u8) -> Option<&Entry> {
        self.nodes[usize::from(node)].as_ref()
    }

    // common.lua

    fn reap(&mut self, node: u8) {
        if let Some(entry) = self.nodes[usize::from(node)].take() {
            self.dead.push((node, entry.lease));
        }
        self.waiting &= !(1 << node);
        self.version += 1;
    }

    fn holds(&mut self, node: u8, lease: u8) -> bool {
        let Some(entry) = self.entry(node).filter(|entry| entry.lease == lease) else { return false };
        if entry.left > 0 {
            return true;
        }
        self.reap(node);
        false
    }

    fn set_seat(&mut self, field: usize, seat: Seat) {
        let lease = (seat.node, seat.lease);
        self.room[field] = Some(seat);
        if let Err(at) = self.seats.binary_search(&lease) {
            self.seats.insert(at, lease);
        }
    }

    fn forget(&mut self, node: u8, lease: u8) {
        self.seats.retain(|&other| other != (node, lease));
    }

    /// Whether the node has that lease over that connection.
    fn admits(&self, rules: &Rules, Who { node, lease, token }: Who) -> bool {
        self.entry(node).is_some_and(|entry| entry.lease == lease && (entry.token == token || !rules.token_fence))
    }

    // regime.lua

    fn regime(&mut self, rules: &Rules) {
        if self.run != self.process {
            for node in 0..NODES {
                if let Some(entry) = self.nodes[node].take() {
                    self.waiting |= 1 << node;
                    self.dead.push((u8::try_from(node).unwrap(), entry.lease));
                }
            }
            self.known = self.waiting != 0 && !rules.known_from_views;
            self.run = self.process;
            self.ends = rules.recovery.then_some(TTL);
        } else if 2 * self.quiet > TTL && rules.forbearance {
            for entry in self.nodes.iter_mut().flatten() {
                entry.left = TTL;
            }
        }
        self.quiet = 0;
    }

    // enter.lua
    pub fn enter(&mut self, rules: &Rules, who: Who, held_in: u8, view: u8) -> (Entered, u8, u8) {
        let Who { node, lease, token } = who;
        self.regime(rules);
        let epoch = self.run;
        let entry = self.entry(node).cloned();

        if rules.enter_fenced && entry.as_ref().is_some_and(|entry| entry.token > token) {
            return (Entered::Refused, epoch, lease);
        }
        if held_in == epoch && entry.as_ref().is_some_and(|entry| entry.lease == lease) && self.holds(node, lease) {
            if let Some(entry) = &mut self.nodes[usize::from(node)] {
                entry.token = token;
                entry.left = TTL;
            }
            return (Entered::Held, epoch, lease);
        }

        let mut status = Entered::Fresh;
        if held_in != 0 && held_in != epoch && self.ends.is_some() {
            status = Entered::Assert;
            for other in 0..NODES {
                if view & (1 << other) != 0 {
                    if rules.views && self.nodes[other].as_ref().is_none_or(|other| !other.asserted) {
                        self.waiting |= 1 << other;
                    }
                    self.known = true;
                }
            }
            self.waiting |= 1 << node;
        } else {
            self.waiting &= !(1 << node);
        }
        if let Some(entry) = &entry {
            self.dead.push((node, entry.lease));
        }
        self.version += 1;
        let asserted = status == Entered::Fresh;
        let added = if asserted { self.version } else { 0 };
        let lease = if rules.leases_named_once { token } else { lease + 1 };
        self.nodes[usize::from(node)] = Some(Entry { lease, token, asserted, added, seen: 0, left: TTL });
        (status, epoch, lease)
    }

    // renew.lua
    pub fn renew(&mut self, rules: &Rules, who: Who, epoch: u8, seen: u8, done: bool) -> Renewed {
        let Who { node, lease, token } = who;
        self.regime(rules);
        if epoch != self.run {
            return Renewed::Epoch;
        }
        if !rules.reaped_stays_reaped && self.entry(node).is_none() {
            let entry = Entry { lease, token, asserted: true, added: 0, seen, left: TTL };
            self.nodes[usize::from(node)] = Some(entry);
        }
        if !self.admits(rules, who) {
            return Renewed::Lost;
        }
        if let Some(entry) = &mut self.nodes[usize::from(node)] {
            entry.left = TTL;
        }
        for other in 0..NODES {
            if self.nodes[other].as_ref().is_some_and(|entry| entry.left == 0) {
                self.reap(u8::try_from(other).unwrap());
            }
        }
        if let Some(entry) = &mut self.nodes[usize::from(node)] {
            entry.seen = seen;
            if done && !entry.asserted {
                entry.asserted = true;
                self.waiting &= !(1 << node);
            }
        }
        if let Some(ends) = self.ends {
            let everybody = self.waiting == 0 && (self.known || !rules.known);
            if everybody || ends == 0 {
                for late in 0..NODES {
                    if self.waiting & (1 << late) != 0 {
                        self.reap(u8::try_from(late).unwrap());
                    }
                }
                self.ends = None;
                self.version += 1;
            }
        }
        let version = self.version;
        let mut added = self.entry(node).map_or(0, |entry| entry.added);
        if added > 0 {
            let mut others = self.nodes.iter().enumerate().filter(|(other, _)| *other != usize::from(node));
            if others.all(|(_, other)| other.as_ref().is_none_or(|other| other.seen >= added)) {
                added = 0;
                if let Some(entry) = &mut self.nodes[usize::from(node)] {
                    entry.added = 0;
                }
            }
        }
        let settled = self.ends.is_none();
        let nodes = (settled && version != seen).then(|| {
            let there = self.nodes.iter().enumerate().filter(|(_, entry)| entry.is_some());
            there.fold(0, |nodes, (node, _)| nodes | 1 << node)
        });
        Renewed::Held { version, settled, established: added == 0, nodes }
    }

    // join.lua: whether the peer is seated.
    pub fn join(&mut self, rules: &Rules, who: Who, peer: u8, generation: u8) -> bool {
        let Who { node, lease, .. } = who;
        if !self.admits(rules, who) {
            return false;
        }
        if self.ends.is_some() && rules.joins_wait {
            return false;
        }
        if !self.holds(node, lease) {
            return false;
        }
        let asking = Seat { peer, generation, node, lease };
        let (mut other, mut free) = (false, None);
        for field in 0..2 {
            match self.room[field].clone() {
                Some(seat) if seat == asking => return true,
                Some(seat) if self.holds(seat.node, seat.lease) => {
                    if other {
                        return false;
                    }
                    other = true;
                }
                seat => {
                    if let Some(seat) = seat {
                        self.forget(seat.node, seat.lease);
                    }
                    free = free.or(Some(field));
                }
            }
        }
        let Some(free) = free else { return false };
        self.set_seat(free, asking);
        if !other {
            self.room[1 - free] = None;
        }
        true
    }

    // leave.lua
    pub fn leave(&mut self, node: u8, peer: u8, generation: u8) {
        for field in 0..2 {
            let Some(seat) = self.room[field].clone() else { continue };
            if (seat.peer, seat.generation, seat.node) == (peer, generation, node) {
                self.room[field] = None;
                let other = self.room[1 - field].clone();
                if other.as_ref().is_none_or(|other| (other.node, other.lease) != (node, seat.lease)) {
                    self.forget(node, seat.lease);
                }
                if let Some(other) = other {
                    self.holds(other.node, other.lease);
                }
                return;
            }
        }
    }

    // assert.lua: the generations of the peers that it seats, 0 for none; those that are refused, a bit for each.
    pub fn assert(&mut self, rules: &Rules, who: Who, peers: [u8; 3]) -> Option<u8> {
        let Who { node, lease, .. } = who;
        if !self.admits(rules, who) || self.ends.is_none() {
            return None;
        }
        let mut refused = 0;
        for (peer, generation) in (0..).zip(peers).filter(|(_, generation)| *generation > 0) {
            let (mut own, mut free) = (None, None);
            for field in 0..2 {
                match &self.room[field] {
                    Some(seat) if (seat.peer, seat.generation, seat.node) == (peer, generation, node) => {
                        own = Some(field);
                    }
                    Some(seat) if self.entry(seat.node).is_some_and(|holder| holder.lease == seat.lease) => {}
                    _ => free = free.or(Some(field)),
                }
            }
            match own.or(free) {
                Some(field) => self.set_seat(field, Seat { peer, generation, node, lease }),
                None => refused |= 1 << peer,
            }
        }
        Some(refused)
    }

    // sweep.lua
    pub fn sweep(&mut self) {
        if self.dead.is_empty() {
            return;
        }
        let (node, lease) = self.dead.remove(0);
        if self.seats.contains(&(node, lease)) {
            self.forget(node, lease);
            for seat in &mut self.room {
                seat.take_if(|seat| (seat.node, seat.lease) == (node, lease));
            }
        }
    }

    // quit.lua
    pub fn quit(&mut self, node: u8, lease: u8) {
        if self.entry(node).is_some_and(|entry| entry.lease == lease) {
            self.reap(node);
        }
    }
}
