//! What was sent to whom, and whether it arrived: each message once, in order, unchanged, at nobody else.
//!
//! Messages are numbered through. Number `n` goes to the peer that stands at place `n % peers` of a shuffled order, from the
//! other peer of its room: so the number alone tells who may receive it, and after which.

use std::time::Instant;

use hdrhistogram::Histogram;

use crate::pace::{self, Schedule};

/// A session description as browsers write it, cut to length: text with the line ends that JSON has to escape.
const BODY: &str = r"v=0\r\no=- 4611731400430051336 2 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\na=group:BUNDLE 0 1\r\na=extmap-allow-mixed\r\na=msid-semantic: WMS\r\nm=audio 9 UDP/TLS/RTP/SAVPF 111 63 9 0 8 13 110 126\r\nc=IN IP4 0.0.0.0\r\na=rtcp:9 IN IP4 0.0.0.0\r\na=ice-ufrag:4ZcD\r\na=ice-options:trickle\r\na=setup:actpass\r\na=mid:0\r\na=sendrecv\r\na=rtcp-mux\r\n";
const HEAD: &str = r#"42["message",{"body":""#;
const NUMBER: &str = r#"","n":""#;
const TAIL: &str = r#"","type":"offer"}]"#;
const DIGITS: usize = 12;

/// The text of a message. Keys stand in order and without spaces, so a server that parses and rewrites it does not change it.
#[derive(Clone, Debug)]
pub struct Letter {
    text: Vec<u8>,
    digits: std::ops::Range<usize>,
}

impl Letter {
    /// The shortest text there is.
    pub const MIN: usize = HEAD.len() + NUMBER.len() + DIGITS + TAIL.len();

    /// A text of exactly `bytes` bytes, or of [`Self::MIN`] if that is more.
    #[must_use]
    pub fn new(bytes: usize) -> Self {
        let mut text = HEAD.as_bytes().to_vec();
        let body = bytes.saturating_sub(Self::MIN);
        let mut filled = String::new();
        for piece in BODY.split_inclusive("\\n").cycle() {
            if filled.len() + piece.len() > body {
                break;
            }
            filled.push_str(piece);
        }
        text.extend_from_slice(filled.as_bytes());
        text.resize(HEAD.len() + body, b'x');
        text.extend_from_slice(NUMBER.as_bytes());
        let digits = text.len()..text.len() + DIGITS;
        text.resize(digits.end, b'0');
        text.extend_from_slice(TAIL.as_bytes());
        Self { text, digits }
    }

    /// The text with this number in it.
    pub fn numbered(&mut self, n: u64) -> &[u8] {
        let mut rest = n;
        for digit in self.text[self.digits.clone()].iter_mut().rev() {
            let value = (rest % 10) as u8;
            *digit = b'0' + value;
            rest /= 10;
        }
        &self.text
    }

    /// The number in a text, and whether the rest is what was sent.
    #[must_use]
    pub fn read(&self, text: &[u8]) -> Option<(u64, bool)> {
        let (before, after) = (&self.text[..self.digits.start], &self.text[self.digits.end..]);
        if let Some(digits) = text.strip_prefix(before).and_then(|rest| rest.strip_suffix(after))
            && digits.len() == DIGITS
        {
            return Some((number(digits)?, true));
        }
        let at = text.windows(5).rposition(|bytes| bytes == br#""n":""#)? + 5;
        Some((number(text.get(at..at + DIGITS)?)?, false))
    }
}

fn number(digits: &[u8]) -> Option<u64> {
    std::str::from_utf8(digits).ok()?.parse().ok()
}

/// Who gets which number.
#[derive(Clone, Debug)]
pub struct Route {
    receiver_by_place: Vec<u32>,
    place_by_receiver: Vec<u32>,
}

impl Route {
    /// A shuffled order of the peers, the same every time.
    ///
    /// # Panics
    /// With more than `u32::MAX` peers.
    #[must_use]
    pub fn new(peers: usize) -> Self {
        let peers = u32::try_from(peers).expect("a process holds fewer sockets than that");
        let mut receiver_by_place: Vec<u32> = (0..peers).collect();
        let mut state = 0x9E37_79B9_7F4A_7C15_u64;
        for last in (1..receiver_by_place.len()).rev() {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            #[expect(clippy::cast_possible_truncation, reason = "below a usize")]
            let other = (state % (last as u64 + 1)) as usize;
            receiver_by_place.swap(last, other);
        }
        let mut place_by_receiver = vec![0; receiver_by_place.len()];
        for (place, receiver) in (0..).zip(&receiver_by_place) {
            place_by_receiver[*receiver as usize] = place;
        }
        Self { receiver_by_place, place_by_receiver }
    }

    fn peers(&self) -> u64 {
        self.receiver_by_place.len() as u64
    }

    /// Who gets message `n`.
    #[must_use]
    #[expect(clippy::cast_possible_truncation, reason = "below the number of peers")]
    pub fn receiver(&self, n: u64) -> usize {
        self.receiver_by_place[(n % self.peers()) as usize] as usize
    }

    /// Who sends message `n`, the other peer of the receiver's room: 0 and 1 share one, 2 and 3 the next.
    #[must_use]
    pub fn sender(&self, n: u64) -> usize {
        self.receiver(n) ^ 1
    }
}

/// How the messages fared. All counts are of messages.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Account {
    /// Left the generator.
    pub sent: u64,
    /// Arrived at the right peer, each counted once.
    pub delivered: u64,
    /// Never arrived.
    pub lost: u64,
    /// Arrived again.
    pub twice: u64,
    /// Arrived after one that was sent later.
    pub out_of_order: u64,
    /// Arrived at a peer they were not meant for.
    pub to_a_stranger: u64,
    /// Arrived with another text than was sent.
    pub altered: u64,
}

impl Account {
    /// Whether every message arrived once, in order, unchanged, at its peer alone.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        *self == Self { sent: self.sent, delivered: self.sent, ..Self::default() }
    }
}

/// Checks every message that arrives.
pub struct Ledger {
    letter: Letter,
    route: Route,
    schedule: Schedule,
    /// Latency is recorded from this number on.
    measured_from: u64,
    seen: Vec<bool>,
    next_by_receiver: Vec<u64>,
    account: Account,
    latency: Histogram<u64>,
}

impl Ledger {
    /// An empty one for the numbers below `total`.
    #[must_use]
    pub fn new(letter: Letter, route: Route, schedule: Schedule, measured_from: u64, total: u64) -> Self {
        let next_by_receiver = route.place_by_receiver.iter().map(|place| u64::from(*place)).collect();
        let seen = vec![false; usize::try_from(total).unwrap_or_default()];
        let (account, latency) = (Account::default(), pace::micros_histogram());
        Self { letter, route, schedule, measured_from, seen, next_by_receiver, account, latency }
    }

    /// Notes that `receiver` got this text.
    pub fn received(&mut self, receiver: usize, text: &[u8], now: Instant) {
        let account = &mut self.account;
        let Some((n, unaltered)) = self.letter.read(text) else {
            account.altered += 1;
            return;
        };
        let Some(seen) = usize::try_from(n).ok().and_then(|n| self.seen.get_mut(n)) else {
            account.altered += 1;
            return;
        };
        account.altered += u64::from(!unaltered);
        if self.route.receiver(n) != receiver {
            account.to_a_stranger += 1;
            return;
        }
        if *seen {
            account.twice += 1;
            return;
        }
        *seen = true;
        account.delivered += 1;
        let next = &mut self.next_by_receiver[receiver];
        if n < *next {
            account.out_of_order += 1;
        } else {
            *next = n + self.route.peers();
        }
        if n >= self.measured_from {
            pace::record(&mut self.latency, now.saturating_duration_since(self.schedule.due(n)));
        }
    }

    /// Messages that have arrived, each counted once.
    #[must_use]
    pub fn delivered(&self) -> u64 {
        self.account.delivered
    }

    /// The account once nothing more will arrive, and the latency in microseconds since each message was due.
    #[must_use]
    pub fn close(&self, sent: u64) -> (Account, Histogram<u64>) {
        let lost = sent.saturating_sub(self.account.delivered);
        (Account { sent, lost, ..self.account.clone() }, self.latency.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ledger(peers: usize, total: u64) -> Ledger {
        let schedule = Schedule { start: Instant::now(), rate: 1000, burst: 1 };
        Ledger::new(Letter::new(600), Route::new(peers), schedule, 0, total)
    }

    fn deliver(ledger: &mut Ledger, numbers: impl IntoIterator<Item = u64>) {
        for n in numbers {
            let text = ledger.letter.numbered(n).to_vec();
            ledger.received(ledger.route.receiver(n), &text, Instant::now());
        }
    }

    #[test]
    fn a_letter_is_valid_json_of_exactly_its_length() {
        for bytes in [Letter::MIN, 100, 600, 601, 5_000] {
            let mut letter = Letter::new(bytes);
            let text = letter.numbered(123_456_789).to_vec();
            assert_eq!(text.len(), bytes);
            let json: serde_json::Value = serde_json::from_slice(&text[2..]).unwrap();
            assert_eq!(json[1]["n"], "000123456789");
            assert_eq!(json.to_string().as_bytes(), &text[2..], "rewriting changes nothing");
            assert_eq!(letter.read(&text), Some((123_456_789, true)));
        }
    }

    #[test]
    fn a_changed_letter_is_noticed_and_still_has_its_number() {
        let mut letter = Letter::new(600);
        let text = String::from_utf8(letter.numbered(7).to_vec()).unwrap();
        assert_eq!(letter.read(text.replacen("v=0", "v=1", 1).as_bytes()), Some((7, false)));
        assert_eq!(letter.read(text.replace("offer", "answer").as_bytes()), Some((7, false)));
        assert_eq!(letter.read(b"42[\"message\",{}]"), None);
    }

    #[test]
    fn every_peer_receives_in_turn_from_the_other_of_its_room() {
        let route = Route::new(10);
        let mut receivers: Vec<_> = (0..10).map(|n| route.receiver(n)).collect();
        assert_ne!(receivers, (0..10).collect::<Vec<_>>(), "the order is shuffled");
        assert!((0..10).all(|n| route.receiver(n) == route.receiver(n + 10)));
        assert!((0..10).all(|n| route.sender(n) / 2 == route.receiver(n) / 2));
        receivers.sort_unstable();
        assert_eq!(receivers, (0..10).collect::<Vec<_>>());
    }

    #[test]
    fn a_full_run_is_clean() {
        let mut ledger = ledger(4, 40);
        deliver(&mut ledger, 0..40);
        let (account, latency) = ledger.close(40);
        assert!(account.is_clean(), "{account:?}");
        assert_eq!(latency.len(), 40);
    }

    #[test]
    fn lost_twice_disordered_and_strange_messages_are_told_apart() {
        let mut lost = ledger(4, 40);
        deliver(&mut lost, (0..40).filter(|n| *n != 9));
        assert_eq!(lost.close(40).0, Account { sent: 40, delivered: 39, lost: 1, ..Account::default() });

        let mut twice = ledger(4, 40);
        deliver(&mut twice, (0..40).chain([9]));
        assert_eq!(twice.close(40).0, Account { sent: 40, delivered: 40, twice: 1, ..Account::default() });

        let mut swapped = ledger(4, 40);
        deliver(
            &mut swapped,
            (0..40).map(|n| match n {
                9 => 13,
                13 => 9,
                n => n,
            }),
        );
        let expected = Account { sent: 40, delivered: 40, out_of_order: 1, ..Account::default() };
        assert_eq!(swapped.close(40).0, expected);

        let mut strange = ledger(4, 40);
        let text = strange.letter.numbered(0).to_vec();
        let stranger = strange.route.receiver(1);
        strange.received(stranger, &text, Instant::now());
        assert_eq!(strange.close(0).0, Account { to_a_stranger: 1, ..Account::default() });
    }
}
