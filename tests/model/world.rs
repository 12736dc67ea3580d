//! The nodes, their connections, the peers, and what may happen to them.

use stateright::{Model, Property};

use crate::{
    redis::{Entered, Entry, NODES, Redis, Renewed, TTL, Who},
    rules::Rules,
};

/// Ticks after the sending of a renewal at which a node gives up what it cannot prove.
const LOCAL: u8 = 2;
/// Version of the table of nodes at the start: more than what a Redis that lost it counts to.
const VERSION: u8 = 9;
/// Peers, each with its node.
pub const PEERS: usize = 3;

/// What may happen, and how often.
#[derive(Clone, Debug)]
pub struct Limits {
    pub homes: [u8; PEERS],
    /// Nodes that share the room at the start; the others come later.
    pub there: u8,
    /// Connections of a node.
    pub connections: u8,
    /// Joins of all peers.
    pub joins: u8,
    pub leaves: u8,
    /// Requests whose way, or whose answer's way, takes time.
    pub slow: u8,
    /// Faults of all kinds that `kinds` allows.
    pub faults: u8,
    pub kinds: &'static [Fault],
    /// Requests of a connection to one server process reach the next one (a proxy).
    pub proxied: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fault {
    /// A connection breaks; what is under way on it may still take effect.
    Cut,
    /// A node stands still.
    Freeze,
    Kill,
    Quit,
    /// Redis comes back with all its data.
    Restart,
    /// Redis comes back with nothing.
    Wipe,
    /// From here on, what is written may be lost: later, Redis comes back as it is now.
    Stall,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Request {
    Enter { lease: u8, token: u8, held_in: u8, view: u8 },
    Renew { lease: u8, token: u8, epoch: u8, seen: u8, done: bool },
    Assert { lease: u8, token: u8, peers: [u8; PEERS] },
    Join { lease: u8, token: u8, peer: u8, generation: u8 },
    Leave { peer: u8, generation: u8 },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Answer {
    Enter(Entered, u8, u8),
    Renew(Renewed, bool),
    Assert(Option<u8>),
    Join { peer: u8, generation: u8, seated: bool },
    Leave { peer: u8, generation: u8 },
}

/// Something on its way, and the ticks since the request was sent.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Under<T> {
    what: T,
    age: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Life {
    Running,
    Frozen,
    Gone,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Stage {
    /// No connection, or none that it could use any more.
    Out,
    Entering,
    Asserting,
    In,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Node {
    pub life: Life,
    pub stage: Stage,
    pub lease: u8,
    /// Of its newest connection.
    pub token: u8,
    pub epoch: u8,
    /// The epoch in which it could last seat peers, as long as its deadline has not passed; 0: none.
    pub held_in: u8,
    pub usable: bool,
    /// The nodes it knew when last settled.
    pub view: u8,
    pub seen: u8,
    /// Ticks until it gives up its seats.
    pub deadline: u8,
    /// Seats that it still has to give up at Redis: peer, generation.
    pub owed: Vec<(u8, u8)>,
    /// Requests and answers of the newest connection.
    pub out: Vec<Under<Request>>,
    pub inbox: Vec<Under<Answer>>,
    /// Requests of earlier connections, with the number of the connection.
    pub stale: Vec<(u8, Request)>,
    /// Ticks until the lease ends that Redis last granted it: a frozen node cannot tell its peers before.
    pub promised: u8,
}

impl Node {
    fn new(life: Life) -> Self {
        Self {
            life,
            stage: Stage::Out,
            lease: 0,
            token: 0,
            epoch: 0,
            held_in: 0,
            usable: false,
            view: 0,
            seen: 0,
            deadline: 0,
            owed: Vec::new(),
            out: Vec::new(),
            inbox: Vec::new(),
            stale: Vec::new(),
            promised: 0,
        }
    }

    fn idle(&self) -> bool {
        self.out.is_empty() && self.inbox.is_empty()
    }

    fn connected(&self) -> bool {
        self.life == Life::Running && matches!(self.stage, Stage::Asserting | Stage::In)
    }

    /// Whether it renews its lease before time passes: only a fault or a slow connection keeps a node from that.
    fn due(&self) -> bool {
        self.life == Life::Running && self.stage == Stage::In && self.deadline == 1 && self.idle()
    }

    fn expects(&self, answers: fn(&Answer) -> bool, requests: fn(&Request) -> bool) -> bool {
        self.out.iter().any(|sent| requests(&sent.what)) || self.inbox.iter().any(|come| answers(&come.what))
    }

    /// The connection is no more: what was under way may come late.
    fn disconnect(&mut self) {
        let token = self.token;
        self.stale.extend(self.out.drain(..).map(|sent| (token, sent.what)));
        self.stage = Stage::Out;
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Peer {
    /// Of its newest seat or wish for one.
    pub generation: u8,
    pub asking: bool,
    /// Its node told it so.
    pub seated: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct World {
    pub redis: Redis,
    /// What Redis may come back as.
    pub copy: Option<Redis>,
    pub nodes: Vec<Node>,
    pub peers: [Peer; PEERS],
    pub joins: u8,
    pub leaves: u8,
    pub slow: u8,
    pub faults: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Send {
    Enter,
    Renew,
    Assert,
    Join(u8),
    /// The first that it owes.
    Leave,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    Tick,
    /// There and back at once.
    Call(u8, Send),
    /// On its way.
    Send(u8, Send),
    /// The oldest request of a connection takes effect.
    Arrive(u8),
    /// The oldest answer is received.
    Receive(u8),
    /// A request of an earlier connection takes effect.
    Late(u8, usize),
    Leave(u8),
    Sweep,
    Fault(Fault, u8),
    Wake(u8),
    /// Redis comes back as it was at `Fault::Stall`.
    Lose,
}

impl World {
    fn pass(&mut self, model: &Seats) {
        self.redis.pass();
        if let Some(copy) = &mut self.copy {
            copy.pass();
        }
        for n in 0..self.nodes.len() {
            let node = &mut self.nodes[n];
            node.promised = node.promised.saturating_sub(1);
            for age in node.out.iter_mut().map(|s| &mut s.age).chain(node.inbox.iter_mut().map(|s| &mut s.age)) {
                *age = LOCAL.min(*age + 1);
            }
            node.deadline = node.deadline.saturating_sub(1);
            self.lapse_if_due(model, n);
        }
    }

    fn lapse_if_due(&mut self, model: &Seats, n: usize) {
        let node = &self.nodes[n];
        if model.rules.lapse && node.life == Life::Running && node.held_in != 0 && node.deadline == 0 {
            self.lapse(model, n);
        }
    }

    /// The node cannot prove its seats any more: it gives them up, and comes back as one whose lease is lost.
    fn lapse(&mut self, model: &Seats, n: usize) {
        self.unseat(model, n);
        let node = &mut self.nodes[n];
        node.disconnect();
        node.inbox.clear();
        node.owed.clear();
        node.usable = false;
        if model.rules.view_of_this_lease {
            node.held_in = 0;
            node.view = 0;
            node.deadline = 0;
            node.epoch = 0;
            if model.rules.seen_of_this_lease {
                node.seen = 0;
            }
        } else {
            node.deadline = TTL;
        }
    }

    fn unseat(&mut self, model: &Seats, n: usize) {
        for p in model.peers_of(n) {
            self.peers[p].seated = false;
            self.peers[p].asking = false;
        }
    }

    /// What a node sends, if it is at that. This is where it counts a new connection.
    fn request(&mut self, model: &Seats, n: usize, send: Send) -> Request {
        if send == Send::Enter {
            for p in model.peers_of(n) {
                if std::mem::take(&mut self.peers[p].asking) && model.rules.takes_back {
                    let owed = (u8::try_from(p).unwrap(), self.peers[p].generation);
                    self.nodes[n].owed.push(owed);
                }
            }
        }
        let node = &mut self.nodes[n];
        let (lease, token) = (node.lease, node.token);
        match send {
            Send::Enter => {
                node.inbox.clear();
                node.token += 1;
                node.stage = Stage::Entering;
                Request::Enter { lease, token: node.token, held_in: node.held_in, view: node.view }
            }
            Send::Renew => {
                Request::Renew { lease, token, epoch: node.epoch, seen: node.seen, done: node.stage == Stage::In }
            }
            Send::Assert => {
                let mut peers = [0; PEERS];
                for p in model.peers_of(n).filter(|p| self.peers[*p].seated) {
                    peers[p] = self.peers[p].generation;
                }
                Request::Assert { lease, token, peers }
            }
            Send::Join(peer) => {
                self.joins += 1;
                let asking = &mut self.peers[usize::from(peer)];
                asking.asking = true;
                asking.generation += 1;
                Request::Join { lease, token, peer, generation: asking.generation }
            }
            Send::Leave => {
                let (peer, generation) = node.owed[0];
                Request::Leave { peer, generation }
            }
        }
    }

    /// A request takes effect.
    fn execute(&mut self, model: &Seats, n: usize, request: Request) -> Answer {
        let (redis, rules) = (&mut self.redis, &model.rules);
        let node = u8::try_from(n).unwrap();
        let who = |lease, token| Who { node, lease, token };
        let answer = match request {
            Request::Enter { lease, token, held_in, view } => {
                let (status, epoch, lease) = redis.enter(rules, who(lease, token), held_in, view);
                Answer::Enter(status, epoch, lease)
            }
            Request::Renew { lease, token, epoch, seen, done } => {
                Answer::Renew(redis.renew(rules, who(lease, token), epoch, seen, done), done)
            }
            Request::Assert { lease, token, peers } => Answer::Assert(redis.assert(rules, who(lease, token), peers)),
            Request::Join { lease, token, peer, generation } => {
                let seated = redis.join(rules, who(lease, token), peer, generation);
                Answer::Join { peer, generation, seated }
            }
            Request::Leave { peer, generation } => {
                redis.leave(node, peer, generation);
                Answer::Leave { peer, generation }
            }
        };
        if model.freezes() {
            for (n, node) in self.nodes.iter_mut().enumerate() {
                let entry = self.redis.nodes[n].as_ref().filter(|entry| entry.asserted && entry.lease == node.lease);
                node.promised = node.promised.max(entry.map_or(0, |entry| entry.left));
            }
        }
        answer
    }

    /// The node gets an answer to what it sent `age` ticks ago.
    fn receive(&mut self, model: &Seats, n: usize, answer: Answer, age: u8) {
        let rules = &model.rules;
        let node = &mut self.nodes[n];
        let fresh_for = LOCAL - age;
        match answer {
            Answer::Enter(Entered::Held, ..) => {
                node.stage = Stage::In;
                node.deadline = node.deadline.max(fresh_for);
            }
            Answer::Enter(Entered::Assert, epoch, lease) => {
                node.stage = Stage::Asserting;
                node.usable = false;
                (node.epoch, node.lease) = (epoch, lease);
                if rules.seen_of_this_lease {
                    node.seen = 0;
                }
                if !rules.proof {
                    node.deadline = node.deadline.max(fresh_for);
                }
            }
            Answer::Enter(Entered::Fresh, epoch, lease) => {
                if node.held_in != 0 {
                    self.lapse(model, n);
                }
                let node = &mut self.nodes[n];
                node.stage = Stage::In;
                node.usable = false;
                (node.epoch, node.lease) = (epoch, lease);
                if rules.seen_of_this_lease {
                    node.seen = 0;
                }
                node.deadline = node.deadline.max(fresh_for);
                node.owed.clear();
            }
            Answer::Enter(Entered::Refused, ..) | Answer::Renew(Renewed::Epoch, _) => node.disconnect(),
            Answer::Renew(Renewed::Lost, _) | Answer::Assert(None) => self.lapse(model, n),
            Answer::Renew(Renewed::Held { version, settled, established, nodes }, done) => {
                if let Some(nodes) = nodes {
                    node.view = nodes;
                    node.seen = version;
                }
                if fresh_for > 0 {
                    if done || !rules.proof {
                        node.deadline = node.deadline.max(fresh_for);
                    }
                    // Its seats stand in this epoch, whoever else is still waited for.
                    if done && node.held_in != 0 && rules.holds_when_asserted {
                        node.held_in = node.epoch;
                    }
                    if (settled || !rules.settled) && (established || !rules.established) {
                        node.usable = true;
                        node.held_in = node.epoch;
                    }
                }
            }
            Answer::Assert(Some(refused)) => {
                node.stage = Stage::In;
                for p in model.peers_of(n).filter(|p| refused & (1 << p) != 0) {
                    self.peers[p].seated = false;
                }
            }
            Answer::Join { peer, generation, seated } => {
                let asking = &mut self.peers[usize::from(peer)];
                if asking.asking && asking.generation == generation {
                    asking.asking = false;
                    asking.seated = seated;
                }
            }
            Answer::Leave { peer, generation } => node.owed.retain(|owed| *owed != (peer, generation)),
        }
    }

    /// All connections to Redis break.
    fn break_all(&mut self, model: &Seats) {
        for node in self.nodes.iter_mut().filter(|node| node.life != Life::Gone) {
            node.disconnect();
        }
        if !model.limits.proxied {
            for node in &mut self.nodes {
                node.stale.clear();
            }
        }
    }

    fn come_back(&mut self, model: &Seats, mut redis: Redis) {
        redis.process = self.redis.process + 1;
        self.redis = redis;
        self.break_all(model);
    }

    fn fail(&mut self, model: &Seats, fault: Fault, n: usize) {
        self.faults += 1;
        match fault {
            Fault::Cut => self.nodes[n].disconnect(),
            Fault::Freeze => self.nodes[n].life = Life::Frozen,
            Fault::Kill | Fault::Quit => {
                self.unseat(model, n);
                let node = &mut self.nodes[n];
                if fault == Fault::Quit {
                    self.redis.quit(u8::try_from(n).unwrap(), node.lease);
                }
                node.disconnect();
                *node = Node { stale: std::mem::take(&mut node.stale), ..Node::new(Life::Gone) };
            }
            Fault::Restart => self.come_back(model, self.redis.clone()),
            Fault::Wipe => self.come_back(model, Redis::empty(0)),
            Fault::Stall => self.copy = Some(self.redis.clone()),
        }
    }

    fn each_version(&mut self, visit: &mut impl FnMut(&mut u8)) {
        self.redis.each_version(visit);
        if let Some(copy) = &mut self.copy {
            copy.each_version(visit);
        }
        for node in &mut self.nodes {
            visit(&mut node.seen);
            let sent = node.out.iter_mut().map(|sent| &mut sent.what);
            for request in sent.chain(node.stale.iter_mut().map(|(_, request)| request)) {
                if let Request::Renew { seen, .. } = request {
                    visit(seen);
                }
            }
            for answer in node.inbox.iter_mut().map(|come| &mut come.what) {
                if let Answer::Renew(Renewed::Held { version, .. }, _) = answer {
                    visit(version);
                }
            }
        }
    }

    /// Makes one state of those that differ in nothing that matters.
    fn tidy(&mut self, model: &Seats) {
        self.redis.tidy(&model.rules);
        if let Some(copy) = &mut self.copy {
            copy.tidy(&model.rules);
        }
        // Only the order of versions matters, unless those of two epochs are compared.
        if model.rules.seen_of_this_lease {
            let mut used = 1_u64;
            self.each_version(&mut |version| used |= 1 << *version);
            self.each_version(&mut |version| {
                *version = u8::try_from((used & ((1 << *version) - 1)).count_ones()).unwrap();
            });
        }
        let no_freeze = self.faults == model.limits.faults;
        for node in &mut self.nodes {
            if no_freeze && node.life != Life::Frozen {
                node.promised = 0;
            }
        }
        if model.limits.homes[0] == model.limits.homes[1] && self.peers[0] > self.peers[1] {
            self.peers.swap(0, 1);
            self.swap_first_two();
        }
    }

    /// Two peers of one node are the same as the same two the other way round.
    fn swap_first_two(&mut self) {
        let swap = |peer: &mut u8| *peer = [1, 0, 2][usize::from(*peer)];
        for redis in std::iter::once(&mut self.redis).chain(&mut self.copy) {
            redis.room.iter_mut().flatten().for_each(|seat| swap(&mut seat.peer));
            redis.room.sort();
        }
        for node in &mut self.nodes {
            node.owed.iter_mut().for_each(|(peer, _)| swap(peer));
            let sent = node.out.iter_mut().map(|sent| &mut sent.what);
            for request in sent.chain(node.stale.iter_mut().map(|(_, request)| request)) {
                match request {
                    Request::Join { peer, .. } | Request::Leave { peer, .. } => swap(peer),
                    Request::Assert { peers, .. } => peers.swap(0, 1),
                    Request::Enter { .. } | Request::Renew { .. } => {}
                }
            }
            for answer in node.inbox.iter_mut().map(|come| &mut come.what) {
                match answer {
                    Answer::Join { peer, .. } | Answer::Leave { peer, .. } => swap(peer),
                    Answer::Assert(Some(refused)) => {
                        *refused = (*refused & 4) | (*refused & 1) << 1 | (*refused & 2) >> 1;
                    }
                    Answer::Assert(None) | Answer::Enter(..) | Answer::Renew(..) => {}
                }
            }
        }
    }

    /// Whether a peer has reason to think that it has a seat.
    fn counts(&self, model: &Seats, p: usize) -> bool {
        let node = &self.nodes[usize::from(model.limits.homes[p])];
        self.peers[p].seated && (node.life == Life::Running || node.promised > 0)
    }

    fn capped(&self, model: &Seats) -> bool {
        (0..PEERS).filter(|p| self.counts(model, *p)).count() <= 2
    }

    /// Whether every seat that counts stands at Redis, whenever Redis seats peers.
    fn kept(&self, model: &Seats) -> bool {
        !self.redis.settled()
            || (0..PEERS).filter(|p| self.counts(model, *p)).all(|p| {
                let (node, generation) = (model.limits.homes[p], self.peers[p].generation);
                self.redis.room.iter().flatten().any(|seat| {
                    (usize::from(seat.peer), seat.generation, seat.node) == (p, generation, node)
                        && self.redis.entry(node).is_some_and(|entry| entry.lease == seat.lease)
                })
            })
    }

    /// Whether every seat that stands at Redis is that of a peer, if its node has nothing left to do.
    fn meant(&self, model: &Seats) -> bool {
        self.redis.room.iter().flatten().all(|seat| {
            let node = &self.nodes[usize::from(seat.node)];
            let peer = &self.peers[usize::from(seat.peer)];
            let at_rest = node.connected() && node.usable && node.idle() && node.owed.is_empty();
            !at_rest
                || !self.redis.stands(seat.node, seat.lease)
                || node.lease != seat.lease
                || self.redis.run != self.redis.process
                || self.redis.ends.is_some()
                || (peer.seated && peer.generation == seat.generation && model.home(seat.peer) == seat.node)
        })
    }

    /// Whether the room is free for two others, and nothing is left of what was there, once all nodes are gone and a
    /// new one has come, had patience for two leases, and swept.
    fn freed(&self, model: &Seats) -> bool {
        let (mut redis, rules) = (self.redis.clone(), &model.rules);
        let mut who = Who { node: u8::try_from(NODES - 1).unwrap(), lease: 0, token: 1 };
        let (_, epoch, lease) = redis.enter(rules, who, 0, 0);
        who.lease = lease;
        let mut seen = 0;
        for _ in 0..=2 * TTL {
            redis.pass();
            if let Renewed::Held { version, nodes: Some(_), .. } = redis.renew(rules, who, epoch, seen, true) {
                seen = version;
            }
        }
        let ready = Renewed::Held { version: seen, settled: true, established: true, nodes: None };
        let seated = redis.clone();
        let both = |mut redis: Redis| (0..2).all(|peer| redis.join(rules, who, peer, u8::MAX));
        while !redis.dead.is_empty() {
            redis.sweep();
        }
        redis.renew(rules, who, epoch, seen, true) == ready
            && both(seated)
            && redis.room == [None, None]
            && redis.waiting == 0
    }
}

/// The model.
#[derive(Clone, Debug)]
pub struct Seats {
    pub rules: Rules,
    pub limits: Limits,
}

impl Seats {
    fn home(&self, peer: u8) -> u8 {
        self.limits.homes[usize::from(peer)]
    }

    fn peers_of(&self, n: usize) -> impl Iterator<Item = usize> + use<> {
        let homes = self.limits.homes;
        (0..PEERS).filter(move |p| usize::from(homes[*p]) == n)
    }

    fn freezes(&self) -> bool {
        self.limits.kinds.contains(&Fault::Freeze)
    }

    fn sends(&self, world: &World, n: usize, sends: &mut Vec<Send>) {
        let node = &world.nodes[n];
        if node.life == Life::Running && node.stage == Stage::Out && node.token < self.limits.connections {
            sends.push(Send::Enter);
        }
        if !node.connected() || node.out.len() + node.inbox.len() >= 2 {
            return;
        }
        if !node.expects(|a| matches!(a, Answer::Renew(..)), |r| matches!(r, Request::Renew { .. })) {
            sends.push(Send::Renew);
        }
        if node.stage == Stage::Asserting
            && !node.expects(|a| matches!(a, Answer::Assert(_)), |r| matches!(r, Request::Assert { .. }))
        {
            sends.push(Send::Assert);
        }
        if node.usable && node.stage == Stage::In && world.joins < self.limits.joins {
            for p in self.peers_of(n).filter(|p| !world.peers[*p].asking && !world.peers[*p].seated) {
                sends.push(Send::Join(u8::try_from(p).unwrap()));
            }
        }
        if !node.owed.is_empty()
            && !node.expects(|a| matches!(a, Answer::Leave { .. }), |r| matches!(r, Request::Leave { .. }))
        {
            sends.push(Send::Leave);
        }
    }
}

impl Model for Seats {
    type State = World;
    type Action = Action;

    fn init_states(&self) -> Vec<World> {
        let mut redis = Redis::empty(1);
        let there = self.limits.there;
        let view = (1 << there) - 1;
        let nodes = 1 + self.limits.homes.iter().max().map_or(0, |last| usize::from(*last));
        let mut nodes: Vec<_> = (0..nodes).map(|_| Node::new(Life::Running)).collect();
        if there > 0 {
            redis.run = 1;
            redis.version = VERSION;
        }
        for n in 0..there {
            let entry = Entry { lease: 1, token: 1, asserted: true, added: 0, seen: VERSION, left: TTL };
            redis.nodes[usize::from(n)] = Some(entry);
            let node = &mut nodes[usize::from(n)];
            node.stage = Stage::In;
            (node.lease, node.token, node.epoch, node.held_in, node.seen) = (1, 1, 1, 1, VERSION);
            (node.usable, node.view, node.deadline) = (true, view, LOCAL);
            node.promised = if self.freezes() { TTL } else { 0 };
        }
        let peers = [Peer { generation: 0, asking: false, seated: false }; PEERS];
        vec![World { redis, copy: None, nodes, peers, joins: 0, leaves: 0, slow: 0, faults: 0 }]
    }

    fn actions(&self, world: &World, actions: &mut Vec<Action>) {
        let limits = &self.limits;
        if !world.nodes.iter().any(Node::due) {
            actions.push(Action::Tick);
        }
        let mut sends = Vec::new();
        for (n, node) in world.nodes.iter().enumerate() {
            let id = u8::try_from(n).unwrap();
            sends.clear();
            self.sends(world, n, &mut sends);
            for send in &sends {
                if node.idle() || *send == Send::Enter {
                    actions.push(Action::Call(id, *send));
                }
                if world.slow < limits.slow {
                    actions.push(Action::Send(id, *send));
                }
            }
            if !node.out.is_empty() {
                actions.push(Action::Arrive(id));
            }
            if node.life == Life::Running && !node.inbox.is_empty() {
                actions.push(Action::Receive(id));
            }
            for (at, (connection, _)) in node.stale.iter().enumerate() {
                if node.stale[..at].iter().all(|(earlier, _)| earlier != connection) {
                    actions.push(Action::Late(id, at));
                }
            }
            if node.life == Life::Frozen {
                actions.push(Action::Wake(id));
            }
        }
        if world.leaves < limits.leaves {
            for p in (0..PEERS).filter(|p| world.peers[*p].seated) {
                if world.nodes[usize::from(limits.homes[p])].life == Life::Running {
                    actions.push(Action::Leave(u8::try_from(p).unwrap()));
                }
            }
        }
        if !world.redis.dead.is_empty() && world.nodes.iter().any(Node::connected) {
            actions.push(Action::Sweep);
        }
        if world.copy.is_some() {
            actions.push(Action::Lose);
        }
        if world.faults < limits.faults {
            for fault in limits.kinds {
                match fault {
                    Fault::Restart | Fault::Wipe => actions.push(Action::Fault(*fault, 0)),
                    Fault::Stall if world.copy.is_none() => actions.push(Action::Fault(*fault, 0)),
                    Fault::Stall => {}
                    Fault::Cut | Fault::Freeze | Fault::Kill | Fault::Quit => {
                        for (n, node) in world.nodes.iter().enumerate() {
                            let possible = match fault {
                                Fault::Cut => node.life == Life::Running && node.stage != Stage::Out,
                                Fault::Quit => node.connected() && node.idle(),
                                _ => node.life == Life::Running && node.token > 0,
                            };
                            if possible {
                                actions.push(Action::Fault(*fault, u8::try_from(n).unwrap()));
                            }
                        }
                    }
                }
            }
        }
    }

    fn next_state(&self, last: &World, action: Action) -> Option<World> {
        let mut world = last.clone();
        match action {
            Action::Tick => world.pass(self),
            Action::Call(n, send) => {
                let n = usize::from(n);
                let request = world.request(self, n, send);
                let answer = world.execute(self, n, request);
                world.receive(self, n, answer, 0);
            }
            Action::Send(n, send) => {
                let n = usize::from(n);
                world.slow += 1;
                let what = world.request(self, n, send);
                world.nodes[n].out.push(Under { what, age: 0 });
            }
            Action::Arrive(n) => {
                let n = usize::from(n);
                let Under { what, age } = world.nodes[n].out.remove(0);
                let what = world.execute(self, n, what);
                world.nodes[n].inbox.push(Under { what, age });
            }
            Action::Receive(n) => {
                let n = usize::from(n);
                let Under { what, age } = world.nodes[n].inbox.remove(0);
                world.receive(self, n, what, age);
            }
            Action::Late(n, at) => {
                let n = usize::from(n);
                let (_, request) = world.nodes[n].stale.remove(at);
                world.execute(self, n, request);
            }
            Action::Leave(peer) => {
                world.leaves += 1;
                let p = usize::from(peer);
                world.peers[p].seated = false;
                let owed = (peer, world.peers[p].generation);
                world.nodes[usize::from(self.limits.homes[p])].owed.push(owed);
            }
            Action::Sweep => world.redis.sweep(),
            Action::Fault(fault, n) => world.fail(self, fault, usize::from(n)),
            Action::Wake(n) => {
                let n = usize::from(n);
                world.nodes[n].life = Life::Running;
                world.lapse_if_due(self, n);
            }
            Action::Lose => {
                let copy = world.copy.take()?;
                world.come_back(self, copy);
            }
        }
        world.tidy(self);
        (world != *last).then_some(world)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("two at most", |model: &Self, world: &World| world.capped(model)),
            Property::always("seats are kept", |model: &Self, world: &World| world.kept(model)),
            Property::always("seats are meant", |model: &Self, world: &World| world.meant(model)),
            Property::always("the room becomes free", |model: &Self, world: &World| world.freed(model)),
            Property::sometimes("two are seated", |model: &Self, world: &World| {
                (0..PEERS).filter(|p| world.counts(model, *p)).count() == 2
            }),
        ]
    }
}
