//! When each message is due, and a thread that sends it then: an open loop, which never waits for an answer.

use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

/// Message `n` is due at a time that no earlier message can move.
#[derive(Clone, Copy, Debug)]
pub struct Schedule {
    /// When the first is due.
    pub start: Instant,
    /// Messages a second.
    pub rate: u32,
    /// So many messages are due at the same instant.
    pub burst: u32,
}

impl Schedule {
    /// When message `n` is due.
    #[must_use]
    pub fn due(&self, n: u64) -> Instant {
        let burst = u64::from(self.burst.max(1));
        let slot = n / burst * burst;
        let rate = u64::from(self.rate);
        let (seconds, rest) = (slot / rate, slot % rate);
        self.start + Duration::from_secs(seconds) + Duration::from_nanos(rest * 1_000_000_000 / rate)
    }

    /// Calls `send` with each number below `total` once it is due, unless it breaks off, and records by how much later than
    /// due from the number `recorded_from` on. Blocks its thread.
    pub fn run(&self, recorded_from: u64, total: u64, mut send: impl FnMut(u64) -> ControlFlow<()>) -> Histogram<u64> {
        // The default slack of 50 µs would make every message that late.
        nix::sys::prctl::set_timerslack(1_000).ok();
        let mut lateness = micros_histogram();
        for n in 0..total {
            let due = self.due(n);
            let wait = due.saturating_duration_since(Instant::now());
            if !wait.is_zero() {
                std::thread::sleep(wait);
            }
            if n >= recorded_from {
                record(&mut lateness, due.elapsed());
            }
            if send(n).is_break() {
                break;
            }
        }
        lateness
    }
}

/// A histogram of microseconds up to a minute, to three digits.
///
/// # Panics
/// Never: the bounds are constants within what the crate takes.
#[must_use]
pub fn micros_histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 60_000_000, 3).expect("constant bounds")
}

/// Records a duration; what exceeds the bounds counts as the largest.
pub fn record(histogram: &mut Histogram<u64>, duration: Duration) {
    histogram.saturating_record(u64::try_from(duration.as_micros()).unwrap_or(u64::MAX));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_due_at_an_even_rate_that_never_drifts() {
        let schedule = Schedule { start: Instant::now(), rate: 6_000, burst: 1 };
        assert_eq!(schedule.due(0), schedule.start);
        assert_eq!(schedule.due(3) - schedule.start, Duration::from_micros(500));
        assert_eq!(schedule.due(6_000 * 3600) - schedule.start, Duration::from_hours(1));
    }

    #[test]
    fn a_burst_is_due_at_once() {
        let schedule = Schedule { start: Instant::now(), rate: 1_000, burst: 10 };
        assert_eq!(schedule.due(9), schedule.start);
        assert_eq!(schedule.due(10) - schedule.start, Duration::from_millis(10));
    }

    #[test]
    fn every_message_is_sent_once_and_never_early_until_it_breaks_off() {
        let schedule = Schedule { start: Instant::now(), rate: 2_000, burst: 1 };
        let mut sent = Vec::new();
        let lateness = schedule.run(10, 100, |n| {
            assert!(Instant::now() >= schedule.due(n));
            sent.push(n);
            if n == 49 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        assert_eq!(sent, (0..50).collect::<Vec<_>>());
        assert_eq!(lateness.len(), 40);
    }
}
