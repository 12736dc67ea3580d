//! Rooms of two that send each other messages at an even rate, each numbered and checked.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use tokio::runtime::Handle;
use tokio::task::JoinSet;

use super::client::{Failure, code_of};
use super::pace::Pace;
use super::plan::Phase;
use super::record::{Kind, Record};
use super::{Clock, Ground, Random, Seated};
use crate::connection::Outgoing;

/// A session description as browsers write it: text with the line ends that JSON has to escape.
const TEXT: &str = r"v=0\r\no=- 4611731400430051336 2 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\na=group:BUNDLE 0 1\r\nm=audio 9 UDP/TLS/RTP/SAVPF 111 63 9 0 8\r\nc=IN IP4 0.0.0.0\r\na=ice-ufrag:4ZcD\r\na=setup:actpass\r\na=sendrecv\r\na=rtcp-mux\r\n";
/// Of a text that is no body: names, numbers, brackets.
const AROUND: usize = 80;
/// How long the last messages may take.
const LAST: Duration = Duration::from_secs(5);

/// The sizes of a call set-up: a description, then candidates.
const DESCRIPTION: usize = 2400;
const CANDIDATE: usize = 220;
const CANDIDATES_A_DESCRIPTION: u64 = 6;

/// Bodies by the number of their message.
pub struct Bodies {
    long: String,
    short: String,
    mixed: bool,
}

impl Bodies {
    /// Texts of `bytes` bytes, or of the sizes of call set-ups if that is 0.
    #[must_use]
    pub fn new(bytes: usize) -> Self {
        let body = |bytes: usize| {
            let mut body = String::new();
            for piece in TEXT.split_inclusive("\\n").cycle() {
                if body.len() + piece.len() + AROUND > bytes {
                    break;
                }
                body.push_str(piece);
            }
            while body.len() + AROUND < bytes {
                body.push('x');
            }
            body
        };
        let mixed = bytes == 0;
        Self { long: body(if mixed { DESCRIPTION } else { bytes }), short: body(CANDIDATE), mixed }
    }

    fn of(&self, n: u64) -> &str {
        if !self.mixed || n.is_multiple_of(CANDIDATES_A_DESCRIPTION + 1) { &self.long } else { &self.short }
    }
}

/// The head of a message: who sent it, which of his it is, and when it was due, in µs since the start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Head {
    room: u64,
    side: usize,
    n: u64,
    due: u64,
}

fn text(bodies: &Bodies, head: Head) -> String {
    let Head { room, side, n, due } = head;
    format!(r#"42["message",{{"body":"{}","room":{room},"side":{side},"n":{n},"due":{due}}}]"#, bodies.of(n))
}

/// The head of a received event, and whether its body is what was sent.
fn read(bodies: &Bodies, arguments: &str) -> Option<(Head, bool)> {
    let (before, tail) = arguments.rsplit_once(r#"","room":"#)?;
    let mut numbers = tail.strip_suffix("}]")?.split(',');
    let mut next = |name: &str| -> Option<u64> {
        let part = numbers.next()?;
        part.strip_prefix(name).unwrap_or(part).parse().ok()
    };
    let head = Head {
        room: next("")?,
        side: usize::try_from(next("\"side\":")?).ok()?,
        n: next("\"n\":")?,
        due: next("\"due\":")?,
    };
    let body = before.strip_prefix(r#"["message",{"body":""#);
    Some((head, body == Some(bodies.of(head.n))))
}

/// What one peer has received of the other.
#[derive(Debug, Default)]
struct Inbox {
    next: u64,
    missing: Vec<u64>,
}

/// What a message turned out to be.
#[derive(Debug, PartialEq, Eq)]
enum Arrival {
    InOrder,
    OutOfOrder,
    Twice,
}

impl Inbox {
    fn take(&mut self, n: u64) -> Arrival {
        if n >= self.next {
            self.missing.extend(self.next..n);
            self.next = n + 1;
            return Arrival::InOrder;
        }
        match self.missing.iter().position(|missing| *missing == n) {
            Some(at) => {
                self.missing.swap_remove(at);
                Arrival::OutOfOrder
            }
            None => Arrival::Twice,
        }
    }
}

/// One direction of a room.
#[derive(Default)]
struct Direction {
    sent: AtomicU64,
    received: AtomicU64,
}

struct Room {
    directions: [Direction; 2],
    broken: AtomicBool,
}

pub(super) async fn run(ground: &Ground, phase: &Phase, clock: &Clock) {
    let bodies = Arc::new(Bodies::new(phase.bytes));
    let record = &ground.record;
    let rooms: Arc<Vec<Room>> = Arc::new(
        (0..phase.rooms).map(|_| Room { directions: Default::default(), broken: AtomicBool::new(true) }).collect(),
    );
    let epoch = Instant::now();
    let mut listeners = JoinSet::new();
    let mut outgoing: Vec<(u64, [Outgoing; 2])> = Vec::new();
    let leaving = Arc::new(AtomicBool::new(false));
    let mut pairs = pin!(ground.seat_pairs(phase.rooms));
    while let Some(pair) = pairs.next().await {
        let room = pair[0].room;
        rooms[at(room)].broken.store(false, Ordering::Relaxed);
        outgoing.push((room, [pair[0].client.outgoing(), pair[1].client.outgoing()]));
        for seated in pair {
            let shared = (Arc::clone(&bodies), Arc::clone(&rooms), Arc::clone(&leaving));
            listeners.spawn(listen(seated, epoch, record.clone(), shared));
        }
    }
    let start = Instant::now();
    record.start();
    clock.begin();
    shuffle(&mut outgoing, ground.seed);
    let pacer = Pacer {
        pace: Pace::of(phase),
        epoch,
        start,
        record: record.clone(),
        bodies,
        rooms: Arc::clone(&rooms),
        outgoing,
    };
    let (runtime, stop) = (Handle::current(), ground.stop.clone());
    let pacing = tokio::task::spawn_blocking(move || {
        let _context = runtime.enter();
        pacer.run(|| *stop.borrow());
    });
    let stands = |room: u64| !rooms[at(room)].broken.load(Ordering::Relaxed);
    tokio::select! {
        _ = pacing => {}
        () = ground.intrude(phase.intruders, phase.rooms, stands) => {}
    }
    let count = |of: fn(&Direction) -> &AtomicU64| -> u64 {
        rooms
            .iter()
            .filter(|room| !room.broken.load(Ordering::Relaxed))
            .flat_map(|room| &room.directions)
            .map(|one| of(one).load(Ordering::Relaxed))
            .sum()
    };
    let last = Instant::now();
    while count(|one| &one.received) < count(|one| &one.sent) && last.elapsed() < LAST {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    clock.end().await;
    record.book().messages.lost = count(|one| &one.sent).saturating_sub(count(|one| &one.received));
    leaving.store(true, Ordering::Relaxed);
}

async fn listen(
    mut seated: Seated,
    epoch: Instant,
    record: Record,
    (bodies, rooms, leaving): (Arc<Bodies>, Arc<Vec<Room>>, Arc<AtomicBool>),
) {
    let (own, other) = (seated.room, 1 - seated.side);
    let mut inbox = Inbox::default();
    let ended = seated
        .client
        .listen(|name, arguments| {
            if name != "message" {
                if name == "rejected" {
                    record.book().error(&code_of(arguments));
                }
                return;
            }
            let now = epoch.elapsed();
            let mut book = record.book();
            let Some((head, unaltered)) = read(&bodies, arguments) else {
                book.messages.altered += 1;
                return;
            };
            if (head.room, head.side) != (own, other) {
                book.messages.to_a_stranger += 1;
                return;
            }
            book.messages.altered += u64::from(!unaltered);
            match inbox.take(head.n) {
                Arrival::Twice => {
                    book.messages.twice += 1;
                    return;
                }
                Arrival::OutOfOrder => book.messages.out_of_order += 1,
                Arrival::InOrder => {}
            }
            book.messages.delivered += 1;
            rooms[at(own)].directions[other].received.fetch_add(1, Ordering::Relaxed);
            let took = now.saturating_sub(Duration::from_micros(head.due));
            book.took(Kind::Latency, took);
            book.done(took);
        })
        .await;
    if !leaving.load(Ordering::Relaxed) {
        rooms[at(own)].broken.store(true, Ordering::Relaxed);
        record.error(&ended);
    }
}

/// Sends each message when it is due, on a thread of its own.
struct Pacer {
    pace: Pace,
    epoch: Instant,
    start: Instant,
    record: Record,
    bodies: Arc<Bodies>,
    rooms: Arc<Vec<Room>>,
    outgoing: Vec<(u64, [Outgoing; 2])>,
}

impl Pacer {
    fn run(self, is_stopped: impl Fn() -> bool) {
        if self.outgoing.is_empty() {
            return;
        }
        // The default slack of 50 µs would make every message that late.
        nix::sys::prctl::set_timerslack(1_000).ok();
        for n in 0..self.pace.total() {
            let due = self.pace.at(self.start, n);
            let wait = due.saturating_duration_since(Instant::now());
            if !wait.is_zero() {
                std::thread::sleep(wait);
            }
            if is_stopped() {
                return;
            }
            self.send(n, due);
        }
    }

    fn send(&self, n: u64, due: Instant) {
        let rooms = self.outgoing.len() as u64;
        let (room, ends) = &self.outgoing[at(n % rooms)];
        let side = at(n / rooms % 2);
        let state = &self.rooms[at(*room)];
        let direction = &state.directions[side];
        let since = due.saturating_duration_since(self.epoch);
        let head = Head {
            room: *room,
            side,
            n: direction.sent.load(Ordering::Relaxed),
            due: u64::try_from(since.as_micros()).unwrap_or(u64::MAX),
        };
        let text = text(&self.bodies, head);
        let late = due.elapsed();
        {
            let mut book = self.record.book();
            book.is_due(1);
            book.took(Kind::Lateness, late);
            if state.broken.load(Ordering::Relaxed) {
                return;
            }
            book.messages.sent += 1;
            book.messages.bytes += text.len() as u64;
        }
        // Before it can arrive.
        direction.sent.fetch_add(1, Ordering::Relaxed);
        if ends[side].text(text.as_bytes()).is_err() && !state.broken.swap(true, Ordering::Relaxed) {
            self.record.error(&Failure::Closed);
        }
    }
}

fn shuffle<T>(all: &mut [T], seed: u64) {
    let mut random = Random::new(seed);
    for last in (1..all.len()).rev() {
        all.swap(last, at(random.below(last as u64 + 1)));
    }
}

#[expect(clippy::cast_possible_truncation, reason = "below the number of rooms of this process")]
fn at(number: u64) -> usize {
    number as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_read_as_it_was_written_and_a_changed_one_is_noticed() {
        for bytes in [0, 200, 600, 5_000] {
            let bodies = Bodies::new(bytes);
            for n in [0, 1, 6, 7, 1 << 40] {
                let head = Head { room: 12, side: 1, n, due: 123_456 };
                let text = text(&bodies, head);
                if bytes > 0 {
                    assert!(text.len().abs_diff(bytes) < 40, "{} of {bytes}", text.len());
                }
                let json: serde_json::Value = serde_json::from_str(&text[2..]).unwrap();
                assert_eq!(json[1]["n"], n);
                assert_eq!(read(&bodies, &text[2..]), Some((head, true)));
                let changed = text.replacen("v=0", "v=1", 1);
                assert_eq!(read(&bodies, &changed[2..]), Some((head, false)));
            }
        }
        assert_eq!(read(&Bodies::new(0), r#"["message","hello"]"#), None);
    }

    #[test]
    fn lost_twice_and_disordered_messages_are_told_apart() {
        let mut inbox = Inbox::default();
        assert_eq!([0, 1, 3, 2, 2, 1, 4].map(|n| inbox.take(n)), {
            use Arrival::{InOrder, OutOfOrder, Twice};
            [InOrder, InOrder, InOrder, OutOfOrder, Twice, Twice, InOrder]
        });
        assert!(inbox.missing.is_empty());
        inbox.take(7);
        assert_eq!(inbox.missing, [5, 6]);
    }
}
