//! How fast one socket may send: what passes, what waits, what is refused.
//!
//! Two places look at it. The connection counts WebSocket frames and bytes as they come, and simply does not read on:
//! that holds for whatever is in them, and costs a comparison a read. The inbox counts events: there a client can be told.

use std::time::Duration;

use super::bucket::{Bucket, Moment, Terms};
use crate::metrics::Limit;

/// A wait that is not worth a timer.
const SHORTEST_HOLD: Duration = Duration::from_millis(50);
/// Events that came already, beyond this, are refused rather than waited for.
const MOST_DEBT: Duration = Duration::from_secs(1);
/// With so much of its burst used a socket is on good terms again.
const GOOD_TERMS: f32 = 0.9;

/// What may come from one socket.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SocketTerms {
    /// Events.
    pub events: Option<Terms>,
    /// Bytes.
    pub bytes: Option<Terms>,
}

/// What becomes of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is served.
    Pass,
    /// It is served, and nothing is read from the socket for so long, because of that limit.
    Hold(Duration, Limit),
    /// It is refused.
    Refuse,
    /// It is refused, and its socket closed.
    Close,
}

/// The events of one socket.
#[derive(Debug, Default)]
pub struct Pace {
    events: Bucket,
    /// Refused events: no socket may go on for long with these.
    excess: Bucket,
    /// Of a client that polls; those of a WebSocket are counted where they are read.
    bytes: Bucket,
    /// Since when it sends too fast.
    since: Option<Moment>,
    /// Until when it is held already.
    held: Moment,
}

impl Pace {
    /// One more event, of so many bytes if they are to be counted. A socket that sends too fast is held for `longest` in
    /// all, since its heartbeats wait with the rest; after that it is told.
    pub fn event(&mut self, bytes: Option<u64>, terms: &SocketTerms, longest: Duration, now: Moment) -> Verdict {
        let (mut hold, mut by) = (Duration::ZERO, Limit::Events);
        if let Some(terms) = terms.events {
            let beyond = self.events.beyond_with_one(terms, now);
            if beyond.is_zero() {
                if self.since.is_some() && self.events.ahead(now) <= terms.whole().mul_f32(GOOD_TERMS) {
                    self.since = None;
                }
            } else {
                let since = *self.since.get_or_insert(now);
                if beyond > MOST_DEBT.min(longest) || now.since(since) > longest {
                    return if self.excess.take(1, terms, now).is_ok() { Verdict::Refuse } else { Verdict::Close };
                }
                hold = beyond;
            }
            self.events.charge(1, terms, now);
        }
        if let (Some(terms), Some(bytes)) = (terms.bytes, bytes) {
            let beyond = self.bytes.charge(bytes, terms, now).min(longest);
            if beyond > hold {
                (hold, by) = (beyond, Limit::Bytes);
            }
            self.bytes.cap(terms.whole() + longest, now);
        }
        if hold < SHORTEST_HOLD || now < self.held {
            return Verdict::Pass;
        }
        self.held = now.after(hold);
        Verdict::Hold(hold, by)
    }
}

/// What may come over one connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WireTerms {
    /// WebSocket frames.
    pub frames: Option<Terms>,
    /// Bytes.
    pub bytes: Option<Terms>,
}

impl WireTerms {
    /// Whether anything is to be counted.
    #[must_use]
    pub fn is_unlimited(&self) -> bool {
        self.frames.is_none() && self.bytes.is_none()
    }
}

/// Frames and bytes of one WebSocket.
#[derive(Debug, Default)]
pub struct Meter {
    frames: Bucket,
    bytes: Bucket,
    scan: Scan,
    /// Not yet in the buckets: the clock is looked at once in a while only.
    new_frames: u16,
    new_bytes: u32,
}

/// So many frames, or bytes, are counted before the clock is looked at.
const FRAMES_AT_ONCE: u16 = 32;
const BYTES_AT_ONCE: u32 = 16 * 1024;

impl Meter {
    /// Counts what was read: how many frames began in it, and, if it is too much, how long nothing more is to be read, because
    /// of which limit. `now` is asked for once in a while.
    pub fn count(
        &mut self,
        read: &[u8],
        terms: &WireTerms,
        now: impl FnOnce() -> Moment,
    ) -> (u16, Option<(Duration, Limit)>) {
        let began = self.scan.frames(read);
        self.new_frames = self.new_frames.saturating_add(began);
        self.new_bytes = self.new_bytes.saturating_add(u32::try_from(read.len()).unwrap_or(u32::MAX));
        if self.new_frames < FRAMES_AT_ONCE && self.new_bytes < BYTES_AT_ONCE {
            return (began, None);
        }
        let now = now();
        let (frames, bytes) = (std::mem::take(&mut self.new_frames), std::mem::take(&mut self.new_bytes));
        let of = |bucket: &mut Bucket, terms: Option<Terms>, count: u64| {
            terms.map_or(Duration::ZERO, |terms| bucket.charge(count, terms, now))
        };
        let by_frames = (of(&mut self.frames, terms.frames, frames.into()), Limit::Frames);
        let by_bytes = (of(&mut self.bytes, terms.bytes, bytes.into()), Limit::Bytes);
        let rest = if by_bytes.0 > by_frames.0 { by_bytes } else { by_frames };
        (began, Some(rest).filter(|(rest, _)| !rest.is_zero()))
    }
}

/// Where in a stream of a client's WebSocket frames (RFC 6455, section 5.2) the next one begins.
#[derive(Debug)]
enum Scan {
    /// In the head of one, whose first bytes are these.
    Head { bytes: [u8; 10], known: u8 },
    /// So many bytes before the next.
    Body(u64),
}

impl Default for Scan {
    fn default() -> Self {
        Self::Head { bytes: [0; 10], known: 0 }
    }
}

impl Scan {
    /// How many frames begin in `read`.
    fn frames(&mut self, mut read: &[u8]) -> u16 {
        let mut frames = 0_u16;
        while let Some(first) = read.first() {
            match self {
                Self::Body(left) => {
                    let passed = usize::try_from(*left).unwrap_or(usize::MAX).min(read.len());
                    read = &read[passed..];
                    *left -= passed as u64;
                    if *left == 0 {
                        *self = Self::default();
                    }
                }
                Self::Head { bytes, known } => {
                    if *known == 0 {
                        frames = frames.saturating_add(1);
                    }
                    bytes[usize::from(*known)] = *first;
                    *known += 1;
                    read = &read[1..];
                    let length = bytes[1] & 0x7f;
                    let needed = match length {
                        126 => 4,
                        127 => 10,
                        _ => 2,
                    };
                    if *known >= 2 && *known == needed {
                        let body = match length {
                            126 => u64::from(u16::from_be_bytes([bytes[2], bytes[3]])),
                            127 => bytes[2..].iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte)),
                            _ => u64::from(length),
                        };
                        let mask = if bytes[1] & 0x80 == 0 { 0 } else { 4 };
                        let left = body.saturating_add(mask);
                        *self = if left == 0 { Self::default() } else { Self::Body(left) };
                    }
                }
            }
        }
        frames
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::config::Rate;

    const LONGEST: Duration = Duration::from_millis(3500);

    fn terms(text: &str) -> Option<Terms> {
        Terms::of(Rate::try_from(text.to_owned()).expect(text))
    }

    fn events(text: &str) -> SocketTerms {
        SocketTerms { events: terms(text), bytes: None }
    }

    #[test]
    fn a_burst_passes_a_little_more_waits_and_a_flood_is_refused_then_closed() {
        let (mut pace, terms, now) = (Pace::default(), events("100/s burst 1000"), Moment(0));
        let mut all = Vec::new();
        loop {
            all.push(pace.event(None, &terms, LONGEST, now));
            if all.last() == Some(&Verdict::Close) {
                break;
            }
        }
        let passed = |verdict: &Verdict| matches!(verdict, Verdict::Pass | Verdict::Hold(..));
        // A second's worth of what came already is waited for.
        assert!(all[..1000].iter().all(|verdict| *verdict == Verdict::Pass) && all[..1100].iter().all(passed));
        assert_eq!(all.iter().filter(|verdict| matches!(verdict, Verdict::Hold(..))).count(), 1, "held once at a time");
        assert!(all[1100..2100].iter().all(|verdict| *verdict == Verdict::Refuse));
        assert_eq!(all.len(), 2101);
    }

    #[test]
    fn who_is_somewhat_too_fast_is_slowed_down_then_told_and_never_closed() {
        let (mut pace, terms, mut now) = (Pace::default(), events("100/s burst 1000"), Moment(0));
        let (mut passed, mut refused, mut first_refused) = (0, 0, None);
        // A client that takes no notice of being held: 180 a second for a minute.
        for _ in 0..180 * 60 {
            match pace.event(None, &terms, LONGEST, now) {
                Verdict::Pass | Verdict::Hold(..) => passed += 1,
                Verdict::Refuse => {
                    refused += 1;
                    first_refused.get_or_insert(now);
                }
                Verdict::Close => panic!("closed"),
            }
            now = now.after(Duration::from_micros(5556));
        }
        assert!((6900..=7200).contains(&passed) && refused > 3000, "{passed} passed, {refused} refused");
        assert!(first_refused.is_some_and(|at| at.0 > 12_000_000_000), "{first_refused:?}");
        // It waits a little, and is on good terms again.
        now = now.after(Duration::from_secs(5));
        assert!((0..400).all(|_| pace.event(None, &terms, LONGEST, now) == Verdict::Pass));
    }

    #[test]
    fn nobody_is_held_for_longer_than_its_heartbeats_may_wait() {
        let (mut pace, terms, longest) = (Pace::default(), events("20/s burst 50"), Duration::from_millis(500));
        let verdicts: Vec<_> = (0..100).map(|_| pace.event(None, &terms, longest, Moment(0))).collect();
        assert!(verdicts.iter().all(|verdict| !matches!(verdict, Verdict::Hold(hold, _) if *hold > longest)));
        assert_eq!(verdicts.iter().position(|verdict| *verdict == Verdict::Refuse), Some(60));
    }

    #[test]
    fn one_that_waits_when_it_is_held_is_never_refused() {
        let (mut pace, terms, mut now) = (Pace::default(), events("100/s burst 10"), Moment(0));
        let mut waited = Duration::ZERO;
        for _ in 0..300 {
            match pace.event(None, &terms, LONGEST, now) {
                Verdict::Pass => {}
                Verdict::Hold(hold, Limit::Events) => {
                    assert!(hold >= SHORTEST_HOLD && hold <= MOST_DEBT);
                    now = now.after(hold);
                    waited += hold;
                }
                verdict => panic!("{verdict:?} after {waited:?}"),
            }
        }
        assert!(waited > Duration::from_secs(2), "{waited:?}");
    }

    #[test]
    fn bytes_of_a_polling_client_hold_it_but_lose_nothing() {
        let terms = SocketTerms { events: None, bytes: terms("1000/s burst 2000") };
        let (mut pace, now) = (Pace::default(), Moment(0));
        assert_eq!(pace.event(Some(2000), &terms, LONGEST, now), Verdict::Pass);
        assert_eq!(
            pace.event(Some(500), &terms, LONGEST, now),
            Verdict::Hold(Duration::from_millis(500), Limit::Bytes)
        );
        assert_eq!(pace.event(Some(1_000_000), &terms, LONGEST, now), Verdict::Pass, "held already");
        let later = now.after(Duration::from_millis(500));
        assert_eq!(
            pace.event(Some(1), &terms, LONGEST, later),
            Verdict::Hold(Duration::from_millis(3001), Limit::Bytes),
            "no more than that"
        );
        assert_eq!(pace.event(None, &SocketTerms::default(), LONGEST, later), Verdict::Pass);
    }

    #[test]
    fn a_connection_is_not_read_while_its_frames_or_bytes_are_too_many() {
        let limit = WireTerms { frames: terms("1000/s burst 1000"), bytes: None };
        let mut meter = Meter::default();
        // Empty frames with a mask: six bytes each.
        let tiny = [0x81, 0x80, 0, 0, 0, 0].repeat(100);
        let mut wait = None;
        for _ in 0..11 {
            let (frames, rest) = meter.count(&tiny, &limit, || Moment(0));
            assert_eq!(frames, 100);
            wait = rest;
        }
        assert_eq!(wait, Some((Duration::from_millis(100), Limit::Frames)));
        let limit = WireTerms { frames: None, bytes: terms("1000/s burst 1000") };
        let mut meter = Meter::default();
        assert_eq!(meter.count(&[0; 16], &limit, || panic!("the clock is not asked for little")), (8, None));
        assert_eq!(
            meter.count(&[0; 16 * 1024], &limit, || Moment(0)).1,
            Some((Duration::from_millis(15_400), Limit::Bytes))
        );
    }

    fn frame(payload: usize, masked: bool) -> Vec<u8> {
        let mask = if masked { 0x80 } else { 0 };
        let mut frame = match payload {
            0..126 => vec![0x82, mask | u8::try_from(payload).expect("short")],
            126..65_536 => [&[0x82, mask | 0x7e][..], &u16::try_from(payload).expect("short").to_be_bytes()].concat(),
            _ => [&[0x82, mask | 0x7f][..], &(payload as u64).to_be_bytes()].concat(),
        };
        frame.resize(frame.len() + payload + if masked { 4 } else { 0 }, 0xff);
        frame
    }

    proptest! {
        /// However the stream is cut into reads, each frame is counted once.
        #[test]
        fn frames_are_counted_wherever_reads_end(
            frames in prop::collection::vec((prop_oneof![0_usize..300, 65_000_usize..66_000], any::<bool>()), 1..30),
            cuts in prop::collection::vec(1_usize..700, 1..40)
        ) {
            let stream: Vec<u8> = frames.iter().flat_map(|(payload, masked)| frame(*payload, *masked)).collect();
            let (mut scan, mut counted, mut rest) = (Scan::default(), 0, &stream[..]);
            for cut in cuts.iter().cycle() {
                let (read, later) = rest.split_at((*cut).min(rest.len()));
                counted += usize::from(scan.frames(read));
                rest = later;
                if rest.is_empty() {
                    break;
                }
            }
            prop_assert_eq!(counted, frames.len());
        }

        /// Whatever a stranger sends, it is only counted.
        #[test]
        fn no_bytes_upset_the_count(bytes in prop::collection::vec(any::<u8>(), 0..500)) {
            let mut scan = Scan::default();
            prop_assert!(usize::from(scan.frames(&bytes)) <= bytes.len());
        }
    }
}
