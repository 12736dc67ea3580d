//! Clients join, talk and leave at random on three nodes while one fault follows the other; afterwards a checker reads the
//! whole history: never three seated, nothing relayed to a stranger, every `ok` delivered once and in order, every seat
//! free in the end.
#![allow(clippy::print_stdout, reason = "what was tried is to be read")]

use std::{
    collections::HashMap,
    fmt::Write as _,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use crate::support::{
    Client, Heard,
    chaos::{ChaosProxy, Mode},
    cluster::{Variables, lease},
    process::NodeProcess,
    redis::{Redis, RedisOptions},
    wait_until,
};

const CLIENTS: u64 = 64;
const ROOMS: u64 = 24;
const LEASE: Duration = Duration::from_secs(7);
const RENEW: Duration = Duration::from_secs(1);
/// How long a client waits for an answer.
const ANSWERED: Duration = Duration::from_secs(20);
/// What may be on its way when a session ends.
const UNDER_WAY: Duration = Duration::from_secs(3);

/// One connection of a client, and the one room it sat in.
#[derive(Debug, Clone)]
struct Session {
    number: u64,
    node: usize,
    room: String,
    /// The token of its seat: the same for all sessions that took it back.
    seat: String,
    /// From the answer to its join…
    from: Instant,
    /// … until it asked to leave, or saw its connection closed.
    to: Instant,
    /// Acknowledged `ok`.
    sent: Vec<(u64, Instant)>,
    /// Acknowledged as kept.
    kept: Vec<(u64, Instant)>,
    /// Refused as `unavailable`, or not answered: nobody knows whether it arrived.
    unknown: Vec<u64>,
    /// Sender, room and number of what it heard.
    heard: Vec<(u64, String, u64)>,
    /// Its join told how much the session before heard.
    told: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Killed,
    Frozen,
    CutOff,
}

/// What was done to a node.
#[derive(Debug, Clone, Copy)]
struct Fault {
    node: usize,
    kind: Kind,
    from: Instant,
    to: Instant,
}

/// A client waited for an answer, on a connection that stayed open.
#[derive(Debug, Clone)]
struct Unanswered {
    node: usize,
    what: String,
    /// When it gave up.
    at: Instant,
}

impl Session {
    /// Whether one of the sessions of its seat had ended by then: what was said at that time was for this seat.
    fn resumed_before<'a>(&self, mut of_seat: impl Iterator<Item = &'a Self>, at: Instant) -> bool {
        of_seat.any(|one| one.number != self.number && one.to <= at)
    }
}

/// Everything that happened.
#[derive(Debug, Default)]
struct History {
    sessions: Vec<Session>,
    faults: Vec<Fault>,
    unanswered: Vec<Unanswered>,
}

impl History {
    /// The sessions of each room.
    fn by_room(&self) -> HashMap<&str, Vec<&Session>> {
        let mut by_room: HashMap<&str, Vec<&Session>> = HashMap::new();
        for session in &self.sessions {
            by_room.entry(&session.room).or_default().push(session);
        }
        by_room
    }

    /// Until when a session held its seat, as far as its node could tell anybody: one that is frozen tells nobody that its
    /// lease ended; one that is cut off keeps a pair that it holds whole (`cluster.keep_pairs`).
    fn seated_until(&self, session: &Session) -> Instant {
        let mut to = session.to;
        for fault in self.faults.iter().filter(|fault| fault.node == session.node && session.from < fault.to) {
            let excused = match fault.kind {
                Kind::Killed => continue,
                Kind::Frozen => true,
                Kind::CutOff => self.sessions.iter().any(|other| {
                    other.number != session.number
                        && other.node == session.node
                        && other.room == session.room
                        && other.to > fault.from
                        && other.from < session.to
                        && session.from < other.to
                }),
            };
            if excused && session.to > fault.from {
                // The earliest end that its lease can have had.
                to = to.min(fault.from + LEASE.saturating_sub(RENEW * 3 / 2));
            }
        }
        to.max(session.from)
    }

    /// Whether these two seats were taken, or kept for who took them back, at the same time.
    fn sat_together(&self, one: &Session, other: &Session) -> bool {
        let taken = |seat: &str| {
            let all = || self.sessions.iter().filter(|session| session.seat == seat);
            all().map(|one| one.from).min().zip(all().map(|one| one.to).max())
        };
        let times = taken(&one.seat).zip(taken(&other.seat));
        times.is_some_and(|(one, other)| one.0 < other.1 + UNDER_WAY && other.0 < one.1 + UNDER_WAY)
    }

    /// What a session did not hear any more, the next of its seat does, if it tells so and the sender is still there: what was not.
    fn swallowed(&self, heard_by: &HashMap<(u64, u64), u64>) -> Vec<String> {
        let mut wrong = Vec::new();
        let by_room = self.by_room();
        for sender in &self.sessions {
            let of_room = &by_room[&*sender.room];
            for (number, at) in &sender.sent {
                let of_seat = |seat: &str| of_room.iter().filter(|one| one.seat == seat).collect::<Vec<_>>();
                let missed = of_room.iter().filter(|next| {
                    next.seat != sender.seat
                        && next.told
                        && next.from > *at
                        && next.from + UNDER_WAY < sender.to
                        && next.to > next.from + UNDER_WAY
                        && self
                            .faults
                            .iter()
                            .all(|fault| fault.to + UNDER_WAY < *at || next.from + UNDER_WAY < fault.from)
                        && {
                            // It was said to the session before.
                            let mut before = of_seat(&next.seat);
                            before.retain(|one| one.from < next.from);
                            before.iter().max_by_key(|one| one.from).is_some_and(|last| last.from <= *at)
                        }
                });
                if !heard_by.contains_key(&(sender.number, *number)) && missed.count() > 0 {
                    let told = self.told_of(sender.number, *number);
                    wrong.push(format!("{}'s {number} was acknowledged and not sent again: {told}", sender.number));
                }
            }
        }
        wrong
    }

    /// Whether that message of `sender` may have been heard by two sessions of one seat (docs/CLUSTER.md): nobody knows whether an earlier
    /// one stands in the count of its client; or nothing told the sender's node how the seat had been taken meanwhile, and how far its
    /// client had heard before.
    fn may_come_twice(&self, sender: Option<&Session>, number: u64, one: &Session, other: &Session) -> bool {
        let Some(sender) = sender.filter(|_| one.seat == other.seat) else { return false };
        if sender.unknown.iter().any(|unknown| *unknown <= number) {
            return true;
        }
        let (first, last) = (one.from.min(other.from), one.from.max(other.from));
        let between = |session: &&Session| session.seat == one.seat && session.from >= first && session.from < last;
        self.sessions.iter().filter(between).any(|session| {
            self.faults.iter().any(|fault| {
                [session.node, sender.node].contains(&fault.node) && fault.from < last && session.from < fault.to
            })
        })
    }

    /// Every call is answered as long as its connection is open, unless the node stood still.
    fn unanswered(&self) -> impl Iterator<Item = String> {
        let excused = |one: &Unanswered, fault: &Fault| {
            fault.kind == Kind::Frozen
                && fault.node == one.node
                && fault.from < one.at
                && one.at < fault.to + ANSWERED + UNDER_WAY
        };
        self.unanswered
            .iter()
            .filter(move |one| !self.faults.iter().any(|fault| excused(one, fault)))
            .map(|one| format!("node {} never answered {}", one.node, one.what))
    }

    /// Whoever heard that message, and the sender: when they came and went since the first of them did, with what happened then.
    fn told_of(&self, sender: u64, number: u64) -> String {
        let concerned = |session: &&Session| {
            session.number == sender || session.heard.iter().any(|(from, _, n)| (*from, *n) == (sender, number))
        };
        let all: Vec<_> = self.sessions.iter().filter(concerned).collect();
        let Some(began) = all.iter().map(|session| session.from).min() else { return String::new() };
        let at = |instant: Instant| {
            format!("{:+.3}", instant.duration_since(began).as_secs_f64() - began.duration_since(instant).as_secs_f64())
        };
        let mut text = String::new();
        let rooms: Vec<_> = self.sessions.iter().filter(|one| one.room == all[0].room).collect();
        for one in rooms.iter().filter(|one| one.to + LEASE > began && one.from < began + LEASE * 5) {
            let heard = one.heard.iter().filter(|(from, ..)| *from == sender).map(|(_, _, n)| *n).collect::<Vec<_>>();
            let _ = write!(
                text,
                "\n  {} on {} of seat ..{} from {} to {}, told {}, sent {:?}, kept {}, heard of it {heard:?}",
                one.number,
                one.node,
                &one.seat[one.seat.len().saturating_sub(6)..],
                at(one.from),
                at(one.to),
                one.told,
                one.sent.iter().map(|(n, when)| format!("{n} {}", at(*when))).collect::<Vec<_>>(),
                one.kept.len(),
            );
        }
        for fault in &self.faults {
            let _ = write!(text, "\n  {:?} {} from {} to {}", fault.kind, fault.node, at(fault.from), at(fault.to));
        }
        text
    }

    fn check(&self) -> Vec<String> {
        let mut wrong = Vec::new();
        let by_number: HashMap<u64, &Session> = self.sessions.iter().map(|session| (session.number, session)).collect();
        // Never three.
        let by_room = self.by_room();
        for (room, sessions) in &by_room {
            let seats: Vec<_> = sessions.iter().map(|one| (one.from, self.seated_until(one), one.number)).collect();
            for (from, _, number) in &seats {
                let here: Vec<_> = seats.iter().filter(|seat| seat.0 <= *from && *from < seat.1).collect();
                if here.len() > 2 {
                    let nodes: Vec<_> = here.iter().map(|seat| (seat.2, by_number[&seat.2].node)).collect();
                    wrong.push(format!("{room}: {} are seated when {number} comes: {nodes:?}", here.len()));
                }
            }
        }
        // Nothing to a stranger, nothing twice, all in order.
        let mut heard_by: HashMap<(u64, u64), u64> = HashMap::new();
        for session in &self.sessions {
            let mut last: HashMap<u64, u64> = HashMap::new();
            for (sender, room, number) in &session.heard {
                if *room != session.room || *sender == session.number {
                    wrong.push(format!("{} in {} heard {sender} of {room}", session.number, session.room));
                }
                if let Some(sender) = by_number.get(sender)
                    && (sender.to + UNDER_WAY < session.from || session.to + UNDER_WAY < sender.from)
                    && !self.sat_together(sender, session)
                {
                    let told = self.told_of(sender.number, *number);
                    let (one, other) = (session.number, sender.number);
                    wrong.push(format!("{one} heard {other}, which was never there with it: {told}"));
                }
                if last.insert(*sender, *number).is_some_and(|before| before >= *number) {
                    let told = self.told_of(*sender, *number);
                    wrong.push(format!("{} heard {sender}'s {number} again or too late: {told}", session.number));
                }
                let before = heard_by.insert((*sender, *number), session.number);
                if let Some(before) = before.filter(|before| *before != session.number)
                    && !self.may_come_twice(by_number.get(sender).copied(), *number, by_number[&before], session)
                {
                    wrong.push(format!("{sender}'s {number} was heard by two: {}", self.told_of(*sender, *number)));
                }
            }
        }
        // What was kept is there for the seat that it was for, as soon as its peer is back.
        for sender in &self.sessions {
            let of_room = &by_room[&*sender.room];
            for (number, at) in &sender.kept {
                let missed = of_room.iter().filter(|other| {
                    let of_seat = || of_room.iter().copied().filter(|one| one.seat == other.seat);
                    let first_since = of_seat().filter(|one| one.from > *at).all(|one| one.from >= other.from);
                    // A request whose answer was lost may have been a session that nobody here knows of.
                    other.from > *at
                        && other.from < sender.to
                        && first_since
                        && other.resumed_before(of_seat(), *at)
                        && other.to > other.from + UNDER_WAY
                        && other.seat != sender.seat
                        && self.faults.iter().all(|fault| fault.to + UNDER_WAY < *at || other.to < fault.from)
                });
                if !heard_by.contains_key(&(sender.number, *number)) && missed.count() > 0 {
                    wrong.push(format!("{}'s {number} was kept and never heard", sender.number));
                }
            }
        }
        wrong.extend(self.swallowed(&heard_by));
        wrong.extend(self.unanswered());
        // Every `ok` delivered.
        for sender in &self.sessions {
            for (number, at) in &sender.sent {
                if heard_by.contains_key(&(sender.number, *number)) {
                    continue;
                }
                let ended = |other: &&Session| {
                    let fault = |fault: &Fault| {
                        fault.node == other.node && fault.from < *at + UNDER_WAY && *at < fault.to + UNDER_WAY
                    };
                    other.to < *at + UNDER_WAY || self.faults.iter().any(fault)
                };
                let mut there = by_room[&*sender.room]
                    .iter()
                    .filter(|other| other.number != sender.number && other.from <= *at && other.to + UNDER_WAY >= *at);
                if !there.any(ended) {
                    wrong.push(format!("{}'s {number} was acknowledged and never heard", sender.number));
                }
            }
        }
        wrong
    }
}

/// Numbers without a pattern, the same for the same seed (xorshift64*).
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % bound
    }
}

struct World {
    addresses: [Mutex<SocketAddr>; 3],
    history: Mutex<History>,
    sessions: AtomicU64,
    /// Seats taken back.
    resumed: AtomicU64,
    stop: AtomicBool,
}

impl World {
    fn stopped(&self) -> bool {
        self.stop.load(Ordering::SeqCst)
    }

    /// An answer did not come: noted, unless the connection was closed.
    fn gives_up(&self, client: &Client, node: usize, call: &Value) {
        if !client.is_closed() {
            let what = call.to_string().chars().take(80).collect();
            self.history.lock().expect("the history").unanswered.push(Unanswered { node, what, at: Instant::now() });
        }
    }

    async fn fault<F: Future>(&self, nodes: &[usize], kind: Kind, during: F) -> F::Output {
        let from = Instant::now();
        // It is noted before it begins: whoever is hit by it finds it there.
        let at: Vec<usize> = {
            let mut history = self.history.lock().expect("the history");
            nodes
                .iter()
                .map(|node| {
                    history.faults.push(Fault { node: *node, kind, from, to: from + Duration::from_hours(1) });
                    history.faults.len() - 1
                })
                .collect()
        };
        let result = during.await;
        for at in at {
            self.history.lock().expect("the history").faults[at].to = Instant::now();
        }
        result
    }
}

/// The messages that a client heard, each with its sender, room and number, and what it tells of them with its token.
fn heard(client: Client) -> (Vec<(u64, String, u64)>, Value) {
    let (id, mut peers, mut messages, mut all) = (client.id.clone(), 0, 0, Vec::new());
    for heard in client.heard() {
        let Heard::Event(name, arguments) = heard else { continue };
        if name == "join" || name == "peer resumed" {
            (peers, messages) = (peers + 1, 0);
        } else if name == "message" {
            messages += 1;
            let value: &Value = &arguments[0];
            all.push((
                value["from"].as_u64().expect("a sender"),
                value["room"].as_str().expect("a room").to_owned(),
                value["n"].as_u64().expect("a number"),
            ));
        }
    }
    (all, json!({"id": id, "peers": peers, "messages": messages}))
}

/// One client: comes, sits, talks, goes, or is lost and comes back for its seat; again and again.
async fn live(world: Arc<World>, mut dice: Dice) {
    // The room, the token, and how much was heard.
    let mut seat: Option<(String, Value, Value)> = None;
    while !world.stopped() {
        let node = usize::try_from(dice.below(3)).expect("small");
        let address = *world.addresses[node].lock().expect("an address");
        let Some(mut client) = Client::try_connect(address, Duration::from_secs(3)).await else {
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        let number = world.sessions.fetch_add(1, Ordering::SeqCst);
        let fresh = || (format!("room-{}", dice.below(ROOMS)), Value::Null, json!(true));
        let (room, token, so_far) = seat.take().unwrap_or_else(fresh);
        let join = match &token {
            Value::Null => json!(["create or join", room, {"heard": true}]),
            token => json!(["create or join", room, {"resume": token, "heard": so_far}]),
        };
        let answer = client.try_call(&join, ANSWERED).await;
        let from = Instant::now();
        let Some(answer) = answer else {
            world.gives_up(&client, node, &join);
            // Nobody can say what came of it: the token does.
            seat = Some((room, token, so_far)).filter(|(_, token, _)| !token.is_null());
            continue;
        };
        if answer["outcome"] == "resumed" {
            world.resumed.fetch_add(1, Ordering::SeqCst);
            assert_eq!(answer["resume"], token);
        }
        if answer["ok"] == false {
            assert!(
                ["full", "unavailable", "draining"].contains(&answer["code"].as_str().expect("a code")),
                "{answer}"
            );
            client.stay(Duration::from_millis(20 + dice.below(200))).await;
            continue;
        }
        let mut session = Session {
            number,
            node,
            room: room.clone(),
            seat: answer["resume"].as_str().expect("a token").to_owned(),
            from,
            to: from,
            sent: Vec::new(),
            kept: Vec::new(),
            unknown: Vec::new(),
            heard: Vec::new(),
            told: answer["outcome"] == "resumed" && so_far.is_object(),
        };
        let mut closed = false;
        for n in 0..dice.below(40) {
            let message = json!(["message", {"from": number, "room": room, "n": n, "padding": "x".repeat(400)}]);
            match client.try_call(&message, ANSWERED).await {
                None => {
                    world.gives_up(&client, node, &message);
                    session.unknown.push(n);
                    closed = true;
                    break;
                }
                Some(answer) if answer["kept"] == true => session.kept.push((n, Instant::now())),
                Some(answer) if answer["ok"] == true => session.sent.push((n, Instant::now())),
                Some(answer) => {
                    assert!(
                        ["no_peer", "unavailable", "peer_too_slow", "too_many_kept"]
                            .contains(&answer["code"].as_str().expect("a code")),
                        "{answer}"
                    );
                    session.unknown.extend((answer["code"] == "unavailable").then_some(n));
                }
            }
            client.stay(Duration::from_millis(dice.below(80))).await;
            if world.stopped() || client.is_closed() {
                break;
            }
        }
        session.to = Instant::now();
        // It leaves, is lost for good, or is lost and comes back.
        let way = dice.below(8);
        if way > 2 {
            seat = Some((room.clone(), answer["resume"].clone(), Value::Null));
        } else if !closed && way > 0 {
            let bye = json!(["bye", room]);
            if client.try_call(&bye, ANSWERED).await.is_none() {
                world.gives_up(&client, node, &bye);
            }
        }
        let count;
        (session.heard, count) = heard(client);
        if let Some((_, _, heard)) = &mut seat {
            *heard = count;
        }
        world.history.lock().expect("the history").sessions.push(session);
    }
}

/// The leases of the defaults, and seats that are kept a little longer than that.
fn settings() -> Variables {
    [lease("7s", "1s"), vec![("DUET_SEATS__GRACE".into(), "9s".into())]].concat()
}

/// Starts three nodes, each behind a proxy, and clients; `faults` is what happens meanwhile.
async fn run<F>(options: RedisOptions, faults: impl FnOnce(Arc<World>, Stage) -> F)
where
    F: Future<Output = Stage>,
{
    let redis = Redis::start(options).await;
    let mut proxies = Vec::new();
    for _ in 0..3 {
        proxies.push(ChaosProxy::start(([127, 0, 0, 1], redis.port()).into()).await);
    }
    let urls: Vec<String> = proxies.iter().map(|proxy| format!("redis://{}", proxy.address())).collect();
    let nodes = NodeProcess::start_all(&urls, &settings()).await;
    let world = Arc::new(World {
        addresses: [nodes[0].public, nodes[1].public, nodes[2].public].map(Mutex::new),
        history: Mutex::default(),
        sessions: AtomicU64::new(0),
        resumed: AtomicU64::new(0),
        stop: AtomicBool::new(false),
    });
    let seed = u64::from(std::process::id()) << 20 | u64::from(redis.port());
    println!("seed {seed}");
    let clients: Vec<_> =
        (0..CLIENTS).map(|n| tokio::spawn(live(Arc::clone(&world), Dice(seed.wrapping_mul(n * 2 + 1) | 1)))).collect();
    let stage = faults(Arc::clone(&world), Stage { redis, proxies, urls, nodes }).await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    world.stop.store(true, Ordering::SeqCst);
    for client in clients {
        client.await.expect("a client");
    }
    let redis = &stage.redis;
    wait_until("every seat is free", || async move { !redis.command(&["KEYS", "*"]).await.contains("room:") }).await;
    for node in &stage.nodes {
        assert!(node.metric("duet_panics_total").await < 0.5, "{}", node.log());
        wait_until("the node holds no seat", || async { node.metric("duet_seats").await < 0.5 }).await;
    }
    let history = world.history.lock().expect("the history");
    let (sent, heard) = history
        .sessions
        .iter()
        .fold((0, 0), |(sent, heard), session| (sent + session.sent.len(), heard + session.heard.len()));
    let resumed = world.resumed.load(Ordering::SeqCst);
    println!(
        "{} seats taken, {resumed} of them back, {sent} messages acknowledged, {heard} heard",
        history.sessions.len()
    );
    let wrong = history.check();
    assert!(wrong.is_empty(), "{} violations, the first: {}", wrong.len(), wrong[..wrong.len().min(3)].join("\n"));
    assert!(history.sessions.len() > 100 && sent > 1000 && heard > 1000 && resumed > 30, "too little happened");
}

/// What faults are done to.
struct Stage {
    redis: Redis,
    proxies: Vec<ChaosProxy>,
    urls: Vec<String>,
    nodes: Vec<NodeProcess>,
}

impl Stage {
    async fn calm(&self) {
        for node in &self.nodes {
            node.until_ready().await;
        }
        tokio::time::sleep(Duration::from_secs(3)).await;
    }

    async fn kill_and_replace(&mut self, world: &World, node: usize) {
        world.fault(&[node], Kind::Killed, async { self.nodes[node].kill() }).await;
        self.nodes[node] = NodeProcess::start(&self.urls[node], &settings()).await;
        *world.addresses[node].lock().expect("an address") = self.nodes[node].public;
    }

    async fn cut(&self, world: &World, nodes: &[usize], mode: Mode, time: Duration) {
        let during = async {
            for node in nodes {
                self.proxies[*node].set(mode);
            }
            tokio::time::sleep(time).await;
            for node in nodes {
                self.proxies[*node].set(Mode::Pass);
            }
            for node in nodes {
                self.nodes[*node].until_ready().await;
            }
        };
        world.fault(nodes, Kind::CutOff, during).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_a_redis_that_forgets_and_nodes_that_die_freeze_and_are_cut_off() {
    run(RedisOptions::default(), |world, mut stage| async move {
        stage.calm().await;
        stage.redis.command(&["SCRIPT", "FLUSH"]).await;
        stage.kill_and_replace(&world, 2).await;
        stage.calm().await;
        stage.redis.kill();
        tokio::time::sleep(Duration::from_secs(2)).await;
        stage.redis.restart().await;
        stage.calm().await;
        stage.cut(&world, &[1], Mode::Cut, Duration::from_secs(12)).await;
        stage.calm().await;
        let frozen = async {
            stage.nodes[0].freeze();
            tokio::time::sleep(Duration::from_secs(25)).await;
            stage.nodes[0].wake();
            stage.nodes[0].until_ready().await;
        };
        world.fault(&[0], Kind::Frozen, frozen).await;
        stage.calm().await;
        stage
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_a_redis_that_keeps_a_log_stalls_and_is_reached_badly() {
    run(RedisOptions { append_only: true, ..RedisOptions::default() }, |world, mut stage| async move {
        stage.calm().await;
        stage.redis.stall();
        tokio::time::sleep(Duration::from_secs(4)).await;
        stage.redis.resume();
        stage.calm().await;
        stage.redis.restart().await;
        stage.calm().await;
        stage.cut(&world, &[0, 1, 2], Mode::Cut, Duration::from_secs(3)).await;
        stage.calm().await;
        stage.cut(&world, &[2], Mode::HalfOpen, Duration::from_secs(3)).await;
        stage.cut(&world, &[0], Mode::Stall, Duration::from_secs(5)).await;
        stage.cut(&world, &[0, 1, 2], Mode::Slow(Duration::from_millis(200)), Duration::from_secs(5)).await;
        stage.redis.restart().await;
        stage.kill_and_replace(&world, 1).await;
        stage.calm().await;
        stage
    })
    .await;
}

#[test]
fn the_checker_finds_what_is_wrong() {
    let start = Instant::now();
    let at = |seconds: u64| start + Duration::from_secs(seconds);
    let session = |number, from, to| Session {
        number,
        node: 0,
        room: "r".into(),
        seat: format!("of {number}"),
        from: at(from),
        to: at(to),
        sent: Vec::new(),
        kept: Vec::new(),
        unknown: Vec::new(),
        heard: Vec::new(),
        told: false,
    };
    let with = |sessions: Vec<Session>| History { sessions, ..History::default() }.check();
    assert!(with(vec![session(1, 0, 10), session(2, 1, 10), session(3, 10, 20)]).is_empty());
    assert_eq!(with(vec![session(1, 0, 10), session(2, 1, 10), session(3, 9, 20)]).len(), 1);
    let spoken = |sent: &[u64], heard: &[u64]| {
        let (mut a, mut b) = (session(1, 0, 10), session(2, 0, 10));
        a.sent = sent.iter().map(|n| (*n, at(1))).collect();
        b.heard = heard.iter().map(|n| (1, "r".into(), *n)).collect();
        with(vec![a, b]).len()
    };
    assert_eq!((spoken(&[1, 2], &[1, 2]), spoken(&[1, 2], &[1])), (0, 1));
    assert_eq!((spoken(&[1, 2], &[2, 1]), spoken(&[1], &[1, 1])), (1, 1));
    // The second is lost at 5, and back at 9: what was kept at 6 is for it, and for nobody else.
    let kept = |seat: &str, heard: &[u64]| {
        let (mut a, b, mut back) = (session(1, 0, 20), session(2, 0, 5), session(3, 9, 20));
        a.kept = vec![(1, at(6)), (2, at(6))];
        back.seat = seat.into();
        back.heard = heard.iter().map(|n| (1, "r".into(), *n)).collect();
        with(vec![a, b, back]).len()
    };
    assert_eq!((kept("of 2", &[1, 2]), kept("of 2", &[1]), kept("of 3", &[])), (0, 1, 0));
    // What was delivered at 4, and not heard, is sent again to who tells what it heard.
    let swallowed = |told: bool, heard: &[u64]| {
        let (mut a, b, mut back) = (session(1, 0, 20), session(2, 0, 5), session(3, 9, 20));
        a.sent = vec![(1, at(4)), (2, at(4))];
        back.seat = "of 2".into();
        back.told = told;
        back.heard = heard.iter().map(|n| (1, "r".into(), *n)).collect();
        with(vec![a, b, back]).len()
    };
    assert_eq!((swallowed(true, &[1, 2]), swallowed(true, &[2]), swallowed(false, &[])), (0, 1, 0));
    let (mut a, mut b) = (session(1, 0, 10), session(2, 0, 10));
    a.heard = vec![(2, "other".into(), 1)];
    assert_eq!(with(vec![a, b.clone()]).len(), 1);
    // Frozen from the 2nd second on: its seat counts until its lease can have ended, and no longer.
    b.to = at(30);
    let fault = Fault { node: 0, kind: Kind::Frozen, from: at(2), to: at(27) };
    let elsewhere = |number, from| Session { node: 1, ..session(number, from, 40) };
    let frozen = |from| {
        let sessions = vec![b.clone(), elsewhere(3, from), elsewhere(4, from)];
        History { sessions, faults: vec![fault], ..History::default() }.check().len()
    };
    assert_eq!((frozen(4) > 0, frozen(9)), (true, 0));
    // The first of its seat heard it, and so did the next: excused by what kept its news away, or by an answer that says nothing.
    let twice = |seat: &str, unknown: &[u64], faults: Vec<Fault>| {
        let (mut a, mut first, mut next) = (session(1, 0, 20), session(2, 0, 5), session(3, 6, 20));
        (a.sent, a.unknown) = (vec![(2, at(4))], unknown.to_vec());
        (first.heard, next.heard) = (vec![(1, "r".into(), 2)], vec![(1, "r".into(), 2)]);
        next.seat = seat.into();
        History { sessions: vec![a, first, next], faults, ..History::default() }.check().len()
    };
    let cut = |from, to| vec![Fault { node: 0, kind: Kind::CutOff, from: at(from), to: at(to) }];
    assert_eq!((twice("of 2", &[], vec![]), twice("of 2", &[1], vec![]), twice("of 2", &[3], vec![])), (1, 0, 1));
    assert_eq!(
        (twice("of 2", &[], cut(4, 7)), twice("of 2", &[], cut(7, 9)), twice("of 3", &[], cut(4, 7))),
        (0, 1, 1)
    );
    // A frozen node answers nobody.
    let waited = |node, seconds| {
        let unanswered = vec![Unanswered { node, what: "a call".into(), at: at(seconds) }];
        History { faults: vec![fault], unanswered, ..History::default() }.check().len()
    };
    assert_eq!((waited(0, 25), waited(1, 25), waited(0, 1), waited(0, 60)), (0, 1, 1, 1));
}
