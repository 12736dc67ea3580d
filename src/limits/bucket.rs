//! How much of something may happen in a time: the generic cell rate algorithm (ITU-T I.371, annex A), a moment a bucket.
//!
//! A bucket is the moment at which it will be empty again. What is taken moves that moment on by the time that so much
//! takes at the lasting rate; how far it may lie ahead is the burst. Time only ever empties a bucket, so one that is empty
//! needs no memory at all.

use std::time::Duration;

use crate::config::Rate;

/// A point in time: nanoseconds since the node began. Time does not go backwards.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment(pub u64);

impl Moment {
    /// That much later.
    #[must_use]
    pub fn after(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(nanoseconds(duration)))
    }

    /// From `earlier` to this one; nothing when that is later.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

/// A [`Rate`] as a bucket reckons with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terms {
    /// What one costs at the lasting rate.
    interval: u64,
    /// How far a bucket may be ahead.
    tolerance: u64,
}

impl Terms {
    /// None for a rate without a limit.
    #[must_use]
    pub fn of(rate: Rate) -> Option<Self> {
        if rate.count == 0 {
            return None;
        }
        let interval = (nanoseconds(rate.per) / u64::from(rate.count)).max(1);
        Some(Self { interval, tolerance: interval.saturating_mul(u64::from(rate.burst.max(1))) })
    }

    /// How long a full bucket takes to be empty.
    #[must_use]
    pub fn whole(self) -> Duration {
        Duration::from_nanos(self.tolerance)
    }
}

/// A bucket. Its default is an empty one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bucket(Moment);

impl Bucket {
    /// Takes `count`, if the bucket has room for them.
    ///
    /// # Errors
    /// How long it will be until there is room; then nothing was taken.
    pub fn take(&mut self, count: u64, terms: Terms, now: Moment) -> Result<(), Duration> {
        let then = self.with(count, terms, now);
        let beyond = beyond(then, terms, now);
        if beyond.is_zero() {
            self.0 = then;
            Ok(())
        } else {
            Err(beyond)
        }
    }

    /// Takes `count`, room or not. Returns how long it will be until the bucket is just full.
    pub fn charge(&mut self, count: u64, terms: Terms, now: Moment) -> Duration {
        self.0 = self.with(count, terms, now);
        beyond(self.0, terms, now)
    }

    /// How far beyond full one more would make it.
    #[must_use]
    pub fn beyond_with_one(self, terms: Terms, now: Moment) -> Duration {
        beyond(self.with(1, terms, now), terms, now)
    }

    /// How long it takes to be empty.
    #[must_use]
    pub fn ahead(self, now: Moment) -> Duration {
        self.0.since(now)
    }

    /// Never further ahead than `most`.
    pub fn cap(&mut self, most: Duration, now: Moment) {
        self.0 = self.0.min(now.after(most));
    }

    /// Whether nothing of it is left to be remembered.
    #[must_use]
    pub fn is_empty(self, now: Moment) -> bool {
        self.0 <= now
    }

    fn with(self, count: u64, terms: Terms, now: Moment) -> Moment {
        Moment(self.0.max(now).0.saturating_add(terms.interval.saturating_mul(count)))
    }
}

fn beyond(then: Moment, terms: Terms, now: Moment) -> Duration {
    then.since(Moment(now.0.saturating_add(terms.tolerance)))
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn terms(count: u32, per: Duration, burst: u32) -> Terms {
        Terms::of(Rate { count, per, burst }).expect("a limit")
    }

    #[test]
    fn a_burst_passes_and_the_next_waits_for_its_turn() {
        let terms = terms(100, Duration::from_secs(1), 1000);
        let (mut bucket, start) = (Bucket::default(), Moment(5));
        for n in 0..1000 {
            assert_eq!(bucket.take(1, terms, start), Ok(()), "{n}");
        }
        assert_eq!(bucket.take(1, terms, start), Err(Duration::from_millis(10)));
        let later = start.after(Duration::from_millis(10));
        assert_eq!(bucket.take(1, terms, later), Ok(()));
        assert_eq!(bucket.take(1, terms, later), Err(Duration::from_millis(10)));
        assert!(!bucket.is_empty(later) && bucket.is_empty(later.after(terms.whole())));
    }

    #[test]
    fn what_costs_more_than_the_whole_burst_is_paid_off() {
        let terms = terms(1000, Duration::from_secs(1), 100);
        let mut bucket = Bucket::default();
        assert_eq!(bucket.take(101, terms, Moment(0)), Err(Duration::from_millis(1)));
        assert_eq!(bucket.charge(1100, terms, Moment(0)), Duration::from_secs(1));
        assert_eq!(bucket.beyond_with_one(terms, Moment(0)), Duration::from_millis(1001));
        bucket.cap(terms.whole(), Moment(0));
        assert_eq!(bucket.ahead(Moment(0)), terms.whole());
    }

    #[test]
    fn a_rate_of_nothing_is_no_limit() {
        assert_eq!(Terms::of(Rate::NONE), None);
    }

    proptest! {
        /// However requests come: in no window pass more than the burst and what the window itself is good for, and
        /// whoever waits as long as it is told passes.
        #[test]
        fn no_window_lets_more_through_than_burst_and_rate(
            count in 1_u32..2000, burst in 1_u32..50, gaps in prop::collection::vec(0_u64..20_000_000, 1..200)
        ) {
            let terms = terms(count, Duration::from_secs(1), burst);
            let (mut bucket, mut now, mut passed) = (Bucket::default(), Moment(0), Vec::new());
            for gap in gaps {
                now = Moment(now.0 + gap);
                match bucket.take(1, terms, now) {
                    Ok(()) => passed.push(now.0),
                    Err(wait) => {
                        let mut then = bucket;
                        prop_assert!(then.take(1, terms, now.after(wait)).is_ok());
                        prop_assert!(bucket.take(1, terms, Moment(now.0 + nanoseconds(wait) - 1)).is_err());
                    }
                }
            }
            for (at, from) in passed.iter().enumerate() {
                for (n, to) in passed[at..].iter().enumerate() {
                    let allowed = u64::from(burst) + (to - from) / terms.interval;
                    prop_assert!((n as u64) < allowed, "{} in {} ns", n + 1, to - from);
                }
            }
        }

        /// Room that is refused is not used up, and time never takes room away.
        #[test]
        fn time_only_empties(count in 1_u64..100, taken in 0_u64..100, gap in 0_u64..10_000_000_000) {
            let terms = terms(10, Duration::from_secs(1), 50);
            let mut bucket = Bucket::default();
            bucket.charge(taken, terms, Moment(0));
            let before = bucket.beyond_with_one(terms, Moment(0));
            prop_assert!(bucket.beyond_with_one(terms, Moment(gap)) <= before);
            let same = bucket;
            if bucket.take(count, terms, Moment(0)).is_err() {
                prop_assert_eq!(bucket, same);
            }
        }
    }
}
