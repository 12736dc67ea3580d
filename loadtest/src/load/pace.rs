//! When things are due: an open loop, whose rate may grow at its beginning.

use std::time::{Duration, Instant};

use super::plan::Phase;

/// An even rate that grows from one value to another, and stays there.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Pace {
    from: f64,
    to: f64,
    ramp: f64,
    seconds: f64,
}

impl Pace {
    /// That of a phase.
    #[must_use]
    pub fn of(phase: &Phase) -> Self {
        Self { from: phase.from_rate, to: phase.rate, ramp: phase.ramp, seconds: phase.seconds }
    }

    /// How many are due in all.
    #[must_use]
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a positive count")]
    pub fn total(&self) -> u64 {
        let ramped = f64::midpoint(self.from, self.to) * self.ramp;
        (ramped + self.to * (self.seconds - self.ramp)).round() as u64
    }

    /// When number `n` (from 0) is due, after the start.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "a count far below 2^52")]
    pub fn due(&self, n: u64) -> Duration {
        let n = n as f64;
        let ramped = f64::midpoint(self.from, self.to) * self.ramp;
        let seconds = if n >= ramped {
            self.ramp + (n - ramped) / self.to
        } else {
            // from·t + (to − from)·t²/(2·ramp) = n
            let a = (self.to - self.from) / (2.0 * self.ramp);
            if a.abs() < 1e-9 {
                n / self.from
            } else {
                ((self.from * self.from + 4.0 * a * n).sqrt() - self.from) / (2.0 * a)
            }
        };
        Duration::from_secs_f64(seconds.max(0.0))
    }

    /// When number `n` is due, if everything begins at `start`.
    #[must_use]
    pub fn at(&self, start: Instant, n: u64) -> Instant {
        start + self.due(n)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_even_pace_never_drifts() {
        let pace = Pace { from: 0.0, to: 400.0, ramp: 0.0, seconds: 10.0 };
        assert_eq!(pace.total(), 4_000);
        assert_eq!(pace.due(0), Duration::ZERO);
        assert_eq!(pace.due(400 * 3600), Duration::from_hours(1));
    }

    #[test]
    fn a_ramp_begins_slowly_and_ends_at_the_rate() {
        let pace = Pace { from: 0.0, to: 100.0, ramp: 10.0, seconds: 20.0 };
        assert_eq!(pace.total(), 1_500);
        // Half of the ramp's time brings a quarter of its things.
        assert_eq!(pace.due(125), Duration::from_secs(5));
        assert_eq!(pace.due(500), Duration::from_secs(10));
        assert_eq!(pace.due(1_500), Duration::from_secs(20));
        assert!((0..1_500).all(|n| pace.due(n) < pace.due(n + 1)));
    }

    #[test]
    fn a_ramp_may_go_down() {
        let pace = Pace { from: 100.0, to: 50.0, ramp: 2.0, seconds: 4.0 };
        assert_eq!(pace.total(), 250);
        assert_eq!(pace.due(150), Duration::from_secs(2));
        assert!((0..250).all(|n| pace.due(n) < pace.due(n + 1)));
    }
}
