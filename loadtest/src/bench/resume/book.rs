//! What the two sides of every room said and heard, who is back, and who hears the other again.
//!
//! Sides are numbered through: 0 and 1 share a room, 2 and 3 the next. Every message has the number of its way, from one side to
//! the other, and that of the connection it left by. Invariant: what was answered with `ok` has to arrive.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::ledger::Account;

/// All rooms of one phase.
#[derive(Debug)]
pub struct Book {
    sides: Vec<Side>,
    /// Nothing new is said any more.
    hush: bool,
    /// All are to leave.
    over: bool,
    /// Refusals, and what else did not go as it should, by what it is.
    refusals: BTreeMap<String, u64>,
    troubles: BTreeMap<String, u64>,
    kept: u64,
}

/// One side of a room.
#[derive(Debug)]
struct Side {
    /// Where it connects to next.
    target: SocketAddr,
    /// The number of its connection; 0 until there is one.
    connection: u32,
    /// The first connection after the last break.
    needed: u32,
    /// When its connections broke.
    breaks: Vec<Instant>,
    /// When it was seated by a connection that counts.
    seated: Option<Instant>,
    /// When the first message came in that left after the break, or that came by a connection after it.
    hears: Option<Instant>,
    /// What it sends.
    way: Way,
}

/// Messages from one side to the other, by their number.
#[derive(Debug, Default)]
struct Way {
    /// When each was answered with `ok`.
    accepted: Vec<Option<Instant>>,
    arrived: Vec<u32>,
    /// The last was begun and not answered for good.
    open: bool,
    /// What comes next if nothing is out of order.
    next: usize,
    account: Account,
}

/// What one break took one side. Nothing where it took too long.
#[derive(Clone, Copy, Debug)]
pub struct Took {
    /// Until it had its seat again.
    pub seated: Option<Duration>,
    /// Until it heard the other.
    pub hears: Option<Duration>,
    /// Until the other heard it.
    pub reaches: Option<Duration>,
}

impl Took {
    /// Until both heard each other.
    pub fn talks(&self) -> Option<Duration> {
        Some(self.hears?.max(self.reaches?))
    }
}

/// The other side of the room.
pub const fn other(side: usize) -> usize {
    side ^ 1
}

impl Book {
    /// Empty, with the nodes that the sides connect to first.
    pub fn new(targets: &[SocketAddr]) -> Self {
        let side = |target: &SocketAddr| Side {
            target: *target,
            connection: 0,
            needed: 1,
            breaks: Vec::new(),
            seated: None,
            hears: None,
            way: Way::default(),
        };
        Self {
            sides: targets.iter().map(side).collect(),
            hush: false,
            over: false,
            refusals: BTreeMap::new(),
            troubles: BTreeMap::new(),
            kept: 0,
        }
    }

    pub fn target(&self, side: usize) -> SocketAddr {
        self.sides[side].target
    }

    pub const fn is_over(&self) -> bool {
        self.over
    }

    /// Nothing new is to be said.
    pub const fn hush(&mut self) {
        self.hush = true;
    }

    /// All are to leave.
    pub const fn end(&mut self) {
        self.over = true;
    }

    /// These sides are about to lose their connections, and go there.
    pub fn lose(&mut self, lost: &[(usize, SocketAddr)]) {
        for (number, target) in lost {
            let side = &mut self.sides[*number];
            (side.target, side.needed) = (*target, side.connection + 1);
            (side.seated, side.hears) = (None, None);
            self.sides[other(*number)].hears = None;
        }
    }

    /// The connection of a side broke.
    pub fn broke(&mut self, side: usize, at: Instant) {
        self.sides[side].breaks.push(at);
    }

    /// A side has a new connection; its number is returned.
    pub fn connected(&mut self, side: usize) -> u32 {
        let side = &mut self.sides[side];
        side.connection += 1;
        side.connection
    }

    pub fn seated(&mut self, side: usize, now: Instant) {
        let side = &mut self.sides[side];
        if side.connection >= side.needed {
            side.seated.get_or_insert(now);
        }
    }

    /// The number of a new message, unless nothing new is to be said.
    pub fn begin(&mut self, side: usize) -> Option<usize> {
        let way = &mut self.sides[side].way;
        if self.hush {
            return None;
        }
        way.accepted.push(None);
        way.arrived.push(0);
        way.open = true;
        Some(way.accepted.len() - 1)
    }

    /// A message was answered with `ok`; `kept` until the other is back.
    pub fn accepted(&mut self, side: usize, n: usize, kept: bool, now: Instant) {
        let way = &mut self.sides[side].way;
        way.accepted[n] = Some(now);
        way.open = false;
        self.kept += u64::from(kept);
    }

    /// A message was refused, to be sent again.
    pub fn refused(&mut self, code: &str) {
        *self.refusals.entry(code.to_owned()).or_default() += 1;
    }

    /// A message was refused for good.
    pub fn given_up(&mut self, side: usize, code: &str) {
        self.sides[side].way.open = false;
        self.trouble(format!("a message was refused: {code}"));
    }

    pub fn trouble(&mut self, what: String) {
        if !self.over {
            *self.troubles.entry(what).or_default() += 1;
        }
    }

    /// A message arrived at `side`: its number, and that of the connection it left by.
    pub fn arrived(&mut self, side: usize, n: usize, connection: u32, now: Instant) {
        let from = &mut self.sides[other(side)];
        from.way.arrive(n);
        let counts = connection >= from.needed;
        let side = &mut self.sides[side];
        if counts && side.connection >= side.needed {
            side.hears.get_or_insert(now);
        }
    }

    /// A message of another room, or of its own receiver.
    pub fn strayed(&mut self, side: usize) {
        self.sides[side].way.account.to_a_stranger += 1;
    }

    /// Whether every side has heard so many messages.
    pub fn all_heard(&self, messages: usize) -> bool {
        self.sides.iter().all(|side| side.way.next >= messages)
    }

    /// Whether these sides are seated again, hear the others and are heard by them.
    pub fn are_back(&self, mut sides: impl Iterator<Item = usize>) -> bool {
        sides.all(|side| {
            let (own, other) = (&self.sides[side], &self.sides[other(side)]);
            own.seated.is_some() && own.hears.is_some() && other.hears.is_some()
        })
    }

    /// What the last break took a side.
    pub fn took(&self, side: usize) -> Took {
        let (own, other) = (&self.sides[side], &self.sides[other(side)]);
        let since = |then: Option<Instant>| Some(then?.saturating_duration_since(*own.breaks.last()?));
        Took { seated: since(own.seated), hears: since(own.hears), reaches: since(other.hears) }
    }

    /// Whether nobody waits for an answer.
    pub fn is_answered(&self) -> bool {
        self.sides.iter().all(|side| !side.way.open)
    }

    /// Whether all that was accepted has arrived.
    pub fn has_all(&self) -> bool {
        self.sides.iter().all(|side| side.way.lost().next().is_none())
    }

    /// How all messages fared: `sent` are those that were accepted.
    pub fn account(&self) -> Account {
        let mut all = Account::default();
        for Side { way, .. } in &self.sides {
            all.sent += way.accepted.iter().map(|accepted| u64::from(accepted.is_some())).sum::<u64>();
            all.delivered += way.account.delivered;
            all.lost += way.lost().count() as u64;
            all.twice += way.account.twice;
            all.out_of_order += way.account.out_of_order;
            all.to_a_stranger += way.account.to_a_stranger;
            all.altered += way.account.altered;
        }
        all
    }

    /// How many seconds after the nearest break of its receiver, or before it, each lost message was accepted.
    pub fn lost(&self) -> impl Iterator<Item = f64> {
        self.sides.iter().enumerate().flat_map(|(number, side)| {
            let breaks = &self.sides[other(number)].breaks;
            side.way.lost().map(|at| {
                let after = |broke: &Instant| (at - *broke).as_secs_f64() - (*broke - at).as_secs_f64();
                breaks.iter().map(after).min_by(|one, other| one.abs().total_cmp(&other.abs())).unwrap_or(f64::NAN)
            })
        })
    }

    /// Messages that nobody answered for good.
    pub fn unanswered(&self) -> u64 {
        self.sides.iter().map(|side| u64::from(side.way.open)).sum()
    }

    /// Messages that were kept until the other was back.
    pub const fn kept(&self) -> u64 {
        self.kept
    }

    /// Refusals after which a message was sent again, by their code.
    pub const fn refusals(&self) -> &BTreeMap<String, u64> {
        &self.refusals
    }

    /// What went wrong beside messages, and how often.
    pub const fn troubles(&self) -> &BTreeMap<String, u64> {
        &self.troubles
    }
}

impl Way {
    fn arrive(&mut self, n: usize) {
        let account = &mut self.account;
        let Some(times) = self.arrived.get_mut(n) else {
            account.altered += 1;
            return;
        };
        *times += 1;
        if *times > 1 {
            account.twice += 1;
            return;
        }
        account.delivered += 1;
        if n < self.next {
            account.out_of_order += 1;
        } else {
            self.next = n + 1;
        }
    }

    /// When each that is lost was accepted.
    fn lost(&self) -> impl Iterator<Item = Instant> {
        self.accepted
            .iter()
            .zip(&self.arrived)
            .filter(|(_, arrived)| **arrived == 0)
            .filter_map(|(accepted, _)| *accepted)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn book() -> Book {
        let mut book = Book::new(&[([127, 0, 0, 1], 1).into(), ([127, 0, 0, 1], 2).into()]);
        for side in [0, 1] {
            assert_eq!(book.connected(side), 1);
            book.seated(side, Instant::now());
        }
        book
    }

    fn say(book: &mut Book, messages: usize) {
        for _ in 0..messages {
            let n = book.begin(0).unwrap();
            book.accepted(0, n, false, Instant::now());
        }
    }

    #[test]
    fn what_was_accepted_and_did_not_arrive_is_lost() {
        let mut book = book();
        say(&mut book, 3);
        let unanswered = book.begin(0);
        for n in [0, 2] {
            book.arrived(1, n, 1, Instant::now());
        }
        assert!(unanswered.is_some() && !book.is_answered() && !book.has_all());
        book.broke(1, Instant::now());
        assert!(book.lost().all(|after| after < 0.0) && book.lost().count() == 1);
        assert_eq!(book.account(), Account { sent: 3, delivered: 2, lost: 1, ..Account::default() });
        book.arrived(1, 1, 1, Instant::now());
        assert!(book.has_all());
        assert_eq!(book.account(), Account { sent: 3, delivered: 3, out_of_order: 1, ..Account::default() });
    }

    #[test]
    fn what_arrives_again_is_no_disorder() {
        let mut book = book();
        say(&mut book, 2);
        for n in [0, 1, 0] {
            book.arrived(1, n, 1, Instant::now());
        }
        assert_eq!(book.account(), Account { sent: 2, delivered: 2, twice: 1, ..Account::default() });
    }

    #[test]
    fn what_was_said_before_a_break_does_not_count_as_talking_again() {
        let mut book = book();
        say(&mut book, 3);
        book.broke(0, Instant::now());
        book.lose(&[(0, ([127, 0, 0, 1], 3).into())]);
        // From the old connection, on its way at the break.
        book.arrived(1, 0, 1, Instant::now());
        assert!(!book.are_back([0].into_iter()));
        assert_eq!(book.connected(0), 2);
        book.seated(0, Instant::now());
        book.arrived(1, 1, 2, Instant::now());
        assert!(!book.are_back([0].into_iter()), "it has heard nothing yet");
        let n = book.begin(1).unwrap();
        book.arrived(0, n, 1, Instant::now());
        assert!(book.are_back([0].into_iter()));
        let took = book.took(0);
        assert!(took.seated.is_some() && took.reaches <= took.hears && took.talks() == took.hears, "{took:?}");
    }

    #[test]
    fn after_the_hush_nothing_begins() {
        let mut book = book();
        say(&mut book, 1);
        book.hush();
        assert_eq!(book.begin(0), None);
        assert!(book.is_answered());
    }
}
