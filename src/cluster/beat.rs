//! When a node does what it does again and again: together, so that it wakes once for all of it.

use std::time::Duration;

use tokio::time::Instant;

/// Instants that all tasks of a node agree on.
#[derive(Debug, Clone, Copy)]
pub struct Beat(Instant);

impl Beat {
    /// Begins now.
    #[must_use]
    pub fn new() -> Self {
        Self(Instant::now())
    }

    /// When to do again what was done `last`, every `period`: one later at the latest, and sooner if others of the same period
    /// do it then.
    #[must_use]
    pub fn after(self, last: Instant, period: Duration) -> Instant {
        let latest = last.duration_since(self.0) + period;
        let period = period.as_nanos().max(1);
        let due = latest.as_nanos() / period * period;
        // A u64 holds 584 years of them.
        self.0 + u64::try_from(due).map_or(latest, Duration::from_nanos)
    }
}

impl Default for Beat {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_has_the_same_period_is_due_at_the_same_time_and_nobody_too_late() {
        let beat = Beat::new();
        let (start, period) = (beat.0, Duration::from_secs(1));
        for millis in (0..5000).step_by(7) {
            let last = start + Duration::from_millis(millis);
            let due = beat.after(last, period);
            assert!(due > last && due <= last + period, "{millis}");
            assert_eq!((due - start).as_nanos() % period.as_nanos(), 0, "{millis}");
            // A little late, as timers are.
            assert_eq!(beat.after(due + Duration::from_millis(2), period), due + period);
        }
        assert_eq!(beat.after(start, Duration::ZERO), start);
    }
}
