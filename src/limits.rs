//! How much a stranger may have of this node: sockets, connections, handshakes, joins, and how fast it may send.
//!
//! Reading order: [`bucket`] (a rate, as one number), [`pace`] (what one socket sends), [`table`] (what is remembered of
//! addresses and rooms, in bounded memory), [`address`] (who counts as one).
//!
//! Everything is decided by plain functions on numbers, with the time passed in; this file keeps the state and the rules
//! in force, which may be replaced while it runs. It knows of no socket and of no request. What it counts it counts for
//! this node alone: on three nodes an address may have three times as much.
//!
//! Invariant: memory is bounded by `limits.tracked`, whatever comes, and no limit is ever reset by making it forget.

use std::{
    hash::{BuildHasher, RandomState},
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use arc_swap::{ArcSwap, Guard};

use crate::{
    config::Limits,
    id::RoomName,
    metrics::{Limit, Limited, LimitedBy},
    protocol::{Code, Refusal},
};

pub mod address;
pub mod bucket;
pub mod pace;
pub mod table;

use address::Address;
use bucket::{Bucket, Moment, Terms};
use pace::{SocketTerms, WireTerms};
use table::{Entry, Key, Place, Table};

/// How long a guesser's requests are delayed before they are refused.
const LONGEST_DELAY: Duration = Duration::from_secs(2);
/// When to come back, where only somebody else's leaving makes room.
const COME_BACK: Duration = Duration::from_secs(5);

/// The rules in force: [`Limits`], as far as they can be replaced while a node runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rules {
    /// What one socket may send.
    pub socket: SocketTerms,
    /// What one connection may bring.
    pub wire: WireTerms,
    /// Bytes of one `create or join`, `ready`, `bye` or `ipaddr`.
    pub room_event_bytes: usize,
    /// Bytes of one `offer` or `answer`.
    pub description_bytes: usize,
    /// Bytes of one `candidate`.
    pub candidate_bytes: usize,
    /// Rooms one socket may sit in.
    pub rooms_per_socket: usize,
    sockets: u32,
    connections: u32,
    sockets_per_address: u32,
    connections_per_address: u32,
    handshakes: Option<Terms>,
    joins: Option<Terms>,
    room_joins: Option<Terms>,
    failures: Option<Terms>,
    tracked: usize,
}

impl Rules {
    fn of(limits: &Limits) -> Self {
        let count = |count: u32| if count == 0 { u32::MAX } else { count };
        let bytes = |bytes: usize| if bytes == 0 { usize::MAX } else { bytes };
        let bytes_per_second = Terms::of(limits.bytes);
        Self {
            socket: SocketTerms { events: Terms::of(limits.events), bytes: bytes_per_second },
            wire: WireTerms { frames: Terms::of(limits.frames), bytes: bytes_per_second },
            room_event_bytes: bytes(limits.room_event_bytes),
            description_bytes: bytes(limits.description_bytes),
            candidate_bytes: bytes(limits.candidate_bytes),
            rooms_per_socket: limits.rooms_per_socket,
            sockets: count(limits.sockets),
            connections: count(limits.connections),
            sockets_per_address: count(limits.sockets_per_address),
            connections_per_address: count(limits.connections_per_address),
            handshakes: Terms::of(limits.handshakes),
            joins: Terms::of(limits.joins),
            room_joins: Terms::of(limits.room_joins),
            failures: Terms::of(limits.failures),
            tracked: limits.tracked as usize,
        }
    }

    /// Whether anything is counted by address.
    #[must_use]
    pub fn by_address(&self) -> bool {
        self.counts_connections() || self.counts_sockets() || self.joins.is_some()
    }

    /// Whether connections are counted by address.
    fn counts_connections(&self) -> bool {
        self.connections_per_address < u32::MAX
    }

    /// Whether sockets and handshakes are counted by address.
    fn counts_sockets(&self) -> bool {
        self.sockets_per_address < u32::MAX || self.handshakes.is_some() || self.failures.is_some()
    }
}

/// What is remembered of an address.
#[derive(Debug, Default)]
struct Account {
    sockets: u32,
    connections: u32,
    handshakes: Bucket,
    joins: Bucket,
    failures: Bucket,
}

impl Entry for Account {
    fn is_idle(&self, now: Moment) -> bool {
        self.sockets == 0
            && self.connections == 0
            && [self.handshakes, self.joins, self.failures].iter().all(|bucket| bucket.is_empty(now))
    }
}

impl Account {
    /// How long an address that has failed often has to wait.
    fn penalty(&self, terms: Option<Terms>, now: Moment) -> Result<Duration, (Limit, Duration)> {
        let Some(terms) = terms else { return Ok(Duration::ZERO) };
        let beyond = self.failures.beyond_with_one(terms, now);
        if beyond > Duration::ZERO {
            return Err((Limit::Failures, beyond));
        }
        Ok(delay(self.failures.ahead(now), terms.whole()))
    }
}

/// From half of what is borne on, the longer the more there is.
fn delay(ahead: Duration, most: Duration) -> Duration {
    let (free, most) = (most.as_secs_f64() / 2.0, most.as_secs_f64());
    LONGEST_DELAY.mul_f64(((ahead.as_secs_f64() - free) / (most - free)).clamp(0.0, 1.0))
}

/// What is remembered of a room: requests for a seat in it.
#[derive(Debug, Default)]
struct Rush(Bucket);

impl Entry for Rush {
    fn is_idle(&self, now: Moment) -> bool {
        self.0.is_empty(now)
    }
}

/// A room, by a number that nobody outside can foretell.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct RoomKey(u64);

impl Key for RoomKey {
    fn neighbourhood(self) -> u64 {
        self.0
    }
}

/// A request was refused by a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused {
    /// Which.
    pub limit: Limit,
    /// When the same request may be granted.
    pub retry_after: Duration,
}

impl Refused {
    /// As a client is told.
    #[must_use]
    pub const fn refusal(&self) -> Refusal {
        match self.limit {
            Limit::Sockets => Refusal::new(Code::NodeFull, "this node has as many sockets as it may"),
            Limit::SocketsPerAddress | Limit::Connections | Limit::ConnectionsPerAddress => {
                Refusal::new(Code::TooManySockets, "too many sockets from this address")
            }
            Limit::Handshakes => Refusal::new(Code::TooManyHandshakes, "too many handshakes from this address"),
            Limit::Events | Limit::Bytes | Limit::Frames => {
                Refusal::new(Code::TooFast, "this socket sends more events than it may; going on like this closes it")
            }
            Limit::EventBytes => Refusal::new(Code::TooLarge, "the event is larger than one of its kind may be"),
            Limit::Joins => Refusal::new(Code::TooManyJoins, "too many joins from this address"),
            Limit::RoomJoins => Refusal::new(Code::TooManyJoins, "too many joins into this room"),
            Limit::Failures => Refusal::new(Code::TooManyFailures, "too many requests of this address were refused"),
        }
    }
}

/// The limits of a node.
#[derive(Debug)]
pub struct Limiter {
    rules: ArcSwap<Rules>,
    began: Instant,
    addresses: Table<Address, Account>,
    rooms: Table<RoomKey, Rush>,
    room_hasher: RandomState,
    sockets: AtomicU32,
    connections: AtomicU32,
    counted: Limited,
}

impl Limiter {
    /// Nothing counted yet.
    #[must_use]
    pub fn new(limits: &Limits, counted: Limited) -> Arc<Self> {
        Arc::new(Self {
            rules: ArcSwap::from_pointee(Rules::of(limits)),
            began: Instant::now(),
            addresses: Table::default(),
            rooms: Table::default(),
            room_hasher: RandomState::new(),
            sockets: AtomicU32::new(0),
            connections: AtomicU32::new(0),
            counted,
        })
    }

    /// From now on these hold. What has been counted goes on counting; who has more than is allowed now keeps it.
    /// What is not in [`Rules`] is held by other parts.
    pub fn reload(&self, limits: &Limits) {
        self.rules.store(Arc::new(Rules::of(limits)));
    }

    /// The rules in force. Not to be kept.
    pub fn rules(&self) -> Guard<Arc<Rules>> {
        self.rules.load()
    }

    /// The time.
    #[must_use]
    pub fn now(&self) -> Moment {
        Moment::default().after(self.began.elapsed())
    }

    /// Counts that a limit refuses, and says how.
    #[must_use]
    pub fn refuse(&self, limit: Limit, retry_after: Duration) -> Refused {
        self.count(limit, LimitedBy::Refusal);
        Refused { limit, retry_after }
    }

    /// Counts what a limit did.
    pub fn count(&self, limit: Limit, by: LimitedBy) {
        self.counted.inc((limit, by));
    }

    /// A new session of `address`: its place, and how long its handshake has to wait.
    ///
    /// # Errors
    /// [`Refused`]; then nothing is taken but the time until the next try.
    pub fn open(self: &Arc<Self>, address: IpAddr, now: Moment) -> Result<(SocketPlace, Duration), Refused> {
        let rules = self.rules();
        if self.sockets.fetch_add(1, Ordering::Relaxed) >= rules.sockets {
            self.sockets.fetch_sub(1, Ordering::Relaxed);
            return Err(self.refuse(Limit::Sockets, COME_BACK));
        }
        // Given back when anything below refuses.
        let mut place = SocketPlace { limiter: Arc::clone(self), of: None };
        if !rules.counts_sockets() {
            return Ok((place, Duration::ZERO));
        }
        let key = Address::from(address);
        let (opened, at) = self.addresses.with(key, rules.tracked, now, |account| {
            let delay = account.penalty(rules.failures, now)?;
            if account.sockets >= rules.sockets_per_address {
                return Err((Limit::SocketsPerAddress, COME_BACK));
            }
            if let Some(terms) = rules.handshakes {
                account.handshakes.take(1, terms, now).map_err(|wait| (Limit::Handshakes, wait))?;
            }
            account.sockets += 1;
            Ok(delay)
        });
        let delay = opened.map_err(|(limit, wait)| self.refuse(limit, wait))?;
        place.of = Some((key, at));
        if !delay.is_zero() {
            self.count(Limit::Failures, LimitedBy::Delay);
        }
        Ok((place, delay))
    }

    /// A new connection that is no session yet, of `address` if that is the client's own: its place, and whether there is
    /// one too many of the node now, so that another has to go.
    ///
    /// # Errors
    /// The limit that it is beyond.
    pub fn connect(self: &Arc<Self>, address: Option<IpAddr>, now: Moment) -> Result<(ConnectionPlace, bool), Limit> {
        let rules = self.rules();
        let crowded = self.connections.fetch_add(1, Ordering::Relaxed) >= rules.connections;
        let mut place = ConnectionPlace { limiter: Arc::clone(self), of: None };
        place.belong(address, &rules, now)?;
        Ok((place, crowded))
    }

    /// A request of `address` for a seat in `room`: how long it has to wait.
    ///
    /// # Errors
    /// [`Refused`].
    pub fn join(&self, address: IpAddr, room: &RoomName, now: Moment) -> Result<Duration, Refused> {
        let rules = self.rules();
        let mut delay = Duration::ZERO;
        if rules.joins.is_some() || rules.failures.is_some() {
            let (allowed, _) = self.addresses.with(address.into(), rules.tracked, now, |account| {
                let delay = account.penalty(rules.failures, now)?;
                if let Some(terms) = rules.joins {
                    account.joins.take(1, terms, now).map_err(|wait| (Limit::Joins, wait))?;
                }
                Ok(delay)
            });
            delay = allowed.map_err(|(limit, wait)| self.refuse(limit, wait))?;
        }
        if let Some(terms) = rules.room_joins {
            let key = RoomKey(self.room_hasher.hash_one(room.as_str()));
            let (allowed, _) = self.rooms.with(key, rules.tracked, now, |rush| rush.0.take(1, terms, now));
            allowed.map_err(|wait| self.refuse(Limit::RoomJoins, wait))?;
        }
        if !delay.is_zero() {
            self.count(Limit::Failures, LimitedBy::Delay);
        }
        Ok(delay)
    }

    /// Somebody of `address` was refused what a guesser would ask for: a seat, or entry by a token. `count` is 1, or as many
    /// as it shall count for.
    pub fn failed(&self, address: IpAddr, count: u32, now: Moment) {
        let rules = self.rules();
        let Some(terms) = rules.failures else { return };
        self.addresses.with(address.into(), rules.tracked, now, |account| {
            account.failures.charge(count.into(), terms, now);
            // Whoever shares the address with a guesser is not to wait for ever.
            account.failures.cap(terms.whole() * 2, now);
        });
    }

    /// How long another token has to wait, over a connection that has brought one already: who has failed too often to come
    /// by another connection waits for longest.
    #[must_use]
    pub fn another_token(&self, address: IpAddr, now: Moment) -> Duration {
        let rules = self.rules();
        if rules.failures.is_none() {
            return Duration::ZERO;
        }
        let (penalty, _) =
            self.addresses.with(address.into(), rules.tracked, now, |account| account.penalty(rules.failures, now));
        let delay = penalty.unwrap_or(LONGEST_DELAY);
        if !delay.is_zero() {
            self.count(Limit::Failures, LimitedBy::Delay);
        }
        delay
    }

    /// Forgets what is not worth remembering.
    pub fn sweep(&self, now: Moment) {
        self.addresses.sweep(now);
        self.rooms.sweep(now);
    }

    /// Addresses and rooms remembered by themselves.
    #[must_use]
    pub fn remembered(&self) -> (usize, usize) {
        (self.addresses.len(), self.rooms.len())
    }
}

/// The place of a session; given back when it is dropped.
#[derive(Debug)]
pub struct SocketPlace {
    limiter: Arc<Limiter>,
    /// Where it is counted by address, if it is.
    of: Option<(Address, Place)>,
}

impl Drop for SocketPlace {
    fn drop(&mut self) {
        self.limiter.sockets.fetch_sub(1, Ordering::Relaxed);
        if let Some((key, place)) = self.of {
            self.limiter.addresses.at(key, place, |account| account.sockets = account.sockets.saturating_sub(1));
        }
    }
}

/// The place of a connection; given back when it is dropped.
#[derive(Debug)]
pub struct ConnectionPlace {
    limiter: Arc<Limiter>,
    of: Option<(Address, Place)>,
}

impl ConnectionPlace {
    /// It turns out to be a connection of `address`: a proxy said so.
    ///
    /// # Errors
    /// The limit that it is beyond.
    pub fn turns_out(&mut self, address: IpAddr, now: Moment) -> Result<(), Limit> {
        let limiter = Arc::clone(&self.limiter);
        self.belong(Some(address), &limiter.rules(), now)
    }

    fn belong(&mut self, address: Option<IpAddr>, rules: &Rules, now: Moment) -> Result<(), Limit> {
        let Some(address) = address.filter(|_| rules.counts_connections()) else { return Ok(()) };
        let key = Address::from(address);
        let (counted, place) = self.limiter.addresses.with(key, rules.tracked, now, |account| {
            let has_room = account.connections < rules.connections_per_address;
            account.connections += u32::from(has_room);
            has_room
        });
        if counted {
            self.of = Some((key, place));
            Ok(())
        } else {
            Err(Limit::ConnectionsPerAddress)
        }
    }
}

impl Drop for ConnectionPlace {
    fn drop(&mut self) {
        self.limiter.connections.fetch_sub(1, Ordering::Relaxed);
        if let Some((key, place)) = self.of {
            let count = |account: &mut Account| account.connections = account.connections.saturating_sub(1);
            self.limiter.addresses.at(key, place, count);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        config::{Rate, Settings},
        metrics::Metrics,
    };

    fn limits(change: impl FnOnce(&mut Limits)) -> Limits {
        let mut limits = Settings::load(None, std::collections::HashMap::new()).expect("defaults").limits;
        change(&mut limits);
        limits
    }

    fn limiter(change: impl FnOnce(&mut Limits)) -> (Arc<Limiter>, Metrics) {
        let metrics = Metrics::new().expect("metrics");
        (Limiter::new(&limits(change), metrics.limited.clone()), metrics)
    }

    fn rate(text: &str) -> Rate {
        Rate::try_from(text.to_owned()).expect(text)
    }

    fn address(n: u32) -> IpAddr {
        std::net::Ipv4Addr::from_bits(0x7f00_0000 | n).into()
    }

    fn room(name: &str) -> RoomName {
        RoomName::parse(name).expect("a name")
    }

    const START: Moment = Moment(1);

    fn seconds(n: u64) -> Moment {
        START.after(Duration::from_secs(n))
    }

    #[test]
    fn without_limits_nothing_is_refused_and_nothing_remembered() {
        let (limiter, _) = limiter(|_| {});
        let mut places = Vec::new();
        for _ in 0..5000 {
            places.push(limiter.open(address(1), START).expect("a place"));
            limiter.join(address(1), &room("r"), START).expect("allowed");
            limiter.failed(address(1), 1, START);
            limiter.connect(Some(address(1)), START).expect("allowed");
        }
        assert_eq!(limiter.remembered(), (0, 0));
    }

    #[test]
    fn sockets_are_counted_by_address_and_by_node_and_a_closed_one_makes_room() {
        let (limiter, metrics) = limiter(|limits| {
            limits.sockets_per_address = 3;
            limits.sockets = 5;
        });
        let open = |n| limiter.open(address(n), START).map(|(place, _)| place).map_err(|refused| refused.limit);
        let mut first: Vec<_> = (0..3).map(|_| open(1).expect("a place")).collect();
        assert_eq!(open(1).expect_err("too many"), Limit::SocketsPerAddress);
        let _others = [open(2).expect("a place"), open(3).expect("a place")];
        assert_eq!(open(4).expect_err("full"), Limit::Sockets);
        first.pop();
        first.push(open(1).expect("room again"));
        assert_eq!(open(1).expect_err("full"), Limit::Sockets);
        let text = metrics.text().expect("text");
        for (limit, count) in [("sockets", 2), ("sockets_per_address", 1)] {
            assert!(text.contains(&format!(r#"duet_limited_total{{by="refusal",limit="{limit}"}} {count}"#)), "{text}");
        }
        drop(first);
        limiter.sweep(START);
        assert_eq!(limiter.remembered(), (2, 0));
    }

    #[test]
    fn handshakes_of_an_address_have_a_rate_and_addresses_do_not_disturb_each_other() {
        let (limiter, _) = limiter(|limits| limits.handshakes = rate("10/s burst 20"));
        let open = |n, now| limiter.open(address(n), now).map(|_| ());
        assert!((0..20).all(|_| open(1, START).is_ok()));
        let refused = open(1, START).expect_err("too fast");
        assert_eq!(refused, Refused { limit: Limit::Handshakes, retry_after: Duration::from_millis(100) });
        assert!(open(2, START).is_ok());
        assert!((0..10).all(|_| open(1, seconds(1)).is_ok()));
        assert!(open(1, seconds(1)).is_err());
    }

    #[test]
    fn joins_have_a_rate_by_address_and_by_room() {
        let (limiter, _) = limiter(|limits| {
            limits.joins = rate("1/s burst 3");
            limits.room_joins = rate("1/s burst 5");
        });
        let join = |n, name| limiter.join(address(n), &room(name), START).map_err(|refused| refused.limit);
        assert!((0..3).all(|_| join(1, "r").is_ok()));
        assert_eq!(join(1, "r"), Err(Limit::Joins));
        assert_eq!(join(1, "other"), Err(Limit::Joins));
        assert!(join(2, "r").is_ok() && join(3, "r").is_ok());
        assert_eq!(join(4, "r"), Err(Limit::RoomJoins));
        assert!(join(4, "other").is_ok());
        assert!(limiter.join(address(4), &room("r"), seconds(1)).is_ok());
    }

    #[test]
    fn a_guesser_is_delayed_then_refused_then_forgiven() {
        let (limiter, _) = limiter(|limits| limits.failures = rate("6/m burst 10"));
        let ask = |now| limiter.join(address(1), &room("r"), now);
        for _ in 0..5 {
            assert_eq!(ask(START), Ok(Duration::ZERO));
            limiter.failed(address(1), 1, START);
        }
        let mut last = ask(START).expect("allowed");
        for _ in 0..4 {
            limiter.failed(address(1), 1, START);
            let delay = ask(START).expect("allowed");
            assert!(delay > last && delay < LONGEST_DELAY, "{delay:?}");
            last = delay;
        }
        assert_eq!(limiter.another_token(address(1), START), last);
        limiter.failed(address(1), 1, START);
        assert_eq!(ask(START).expect_err("refused").limit, Limit::Failures);
        assert_eq!(limiter.another_token(address(1), START), LONGEST_DELAY);
        assert_eq!(limiter.another_token(address(2), START), Duration::ZERO);
        assert_eq!(limiter.open(address(1), START).expect_err("refused").limit, Limit::Failures);
        assert_eq!(limiter.join(address(2), &room("r"), START), Ok(Duration::ZERO));
        // However often it tries, it is forgiven within twice what is borne.
        (0..1000).for_each(|_| limiter.failed(address(1), 1, START));
        assert!(ask(seconds(100)).is_err());
        assert!(ask(seconds(201)).is_ok());
        limiter.sweep(seconds(201));
        assert_eq!(limiter.remembered(), (0, 0));
    }

    #[test]
    fn connections_are_counted_by_the_address_that_a_proxy_tells() {
        let (limiter, _) = limiter(|limits| {
            limits.connections_per_address = 2;
            limits.connections = 6;
        });
        let connect = |n| limiter.connect(Some(address(n)), START).map(|(place, crowded)| (!crowded).then_some(place));
        let _held = [connect(1).expect("a place"), connect(1).expect("a place")];
        assert_eq!(connect(1).expect_err("too many"), Limit::ConnectionsPerAddress);
        let mut proxied: Vec<_> = (0..3).map(|_| limiter.connect(None, START).expect("a place").0).collect();
        assert_eq!(proxied[0].turns_out(address(2), START), Ok(()));
        assert_eq!(proxied[1].turns_out(address(2), START), Ok(()));
        assert_eq!(proxied[2].turns_out(address(2), START), Err(Limit::ConnectionsPerAddress));
        let _last = connect(3).expect("a place");
        assert!(connect(4).expect("a place").is_none(), "one too many");
        proxied.clear();
        assert!(connect(2).is_ok());
    }

    #[test]
    fn the_rules_can_be_replaced_while_places_are_held() {
        let (limiter, _) = limiter(|_| {});
        let uncounted = limiter.open(address(1), START).expect("a place");
        limiter.reload(&limits(|limits| limits.sockets_per_address = 1));
        let counted = limiter.open(address(1), START).expect("a place");
        assert_eq!(limiter.open(address(1), START).expect_err("too many").limit, Limit::SocketsPerAddress);
        limiter.reload(&limits(|_| {}));
        drop((uncounted, counted));
        limiter.sweep(START);
        assert_eq!((limiter.remembered(), limiter.sockets.load(Ordering::Relaxed)), ((0, 0), 0));
    }

    #[test]
    fn many_addresses_at_once_take_bounded_memory() {
        let (limiter, _) = limiter(|limits| {
            limits.failures = rate("6/m burst 10");
            limits.room_joins = rate("1/m burst 10");
            limits.tracked = 1024;
        });
        for n in 0..100_000 {
            limiter.failed(address(n), 1, START);
            let _ = limiter.join(address(n), &room(&n.to_string()), START);
        }
        let (addresses, rooms) = limiter.remembered();
        assert!(addresses <= 1024 && rooms <= 1024, "{addresses} {rooms}");
        limiter.sweep(seconds(1000));
        assert_eq!(limiter.remembered(), (0, 0));
    }
}
