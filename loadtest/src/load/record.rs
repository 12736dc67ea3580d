//! What happens during a phase, counted as it happens.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

use super::client::Failure;
use crate::pace::{micros_histogram, record};
use crate::report::{Cap, Distribution, Messages, Second};

/// The book of one phase. Cheap to clone.
#[derive(Clone)]
pub struct Record(Arc<Mutex<Book>>);

/// What stands in it.
pub struct Book {
    start: Instant,
    /// Messages.
    pub messages: Messages,
    /// The cap.
    pub cap: Cap,
    /// What failed.
    pub errors: BTreeMap<String, u64>,
    /// What was due.
    pub due: u64,
    /// What was done.
    pub done: u64,
    /// Sockets that are open.
    pub sockets: u64,
    /// The most at a time.
    pub most_sockets: u64,
    latency: Histogram<u64>,
    connect: Histogram<u64>,
    join: Histogram<u64>,
    setup: Histogram<u64>,
    lateness: Histogram<u64>,
    seconds: Vec<Slot>,
}

struct Slot {
    due: u64,
    done: u64,
    errors: u64,
    sockets: u64,
    latency: Histogram<u64>,
}

/// What a duration is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A message, from due to arrived.
    Latency,
    /// A connection.
    Connect,
    /// A seat.
    Join,
    /// A call, or a socket that came back.
    Setup,
    /// The generator's own delay.
    Lateness,
}

/// The distributions of a phase.
pub struct Distributions {
    /// By [`Kind`].
    pub latency: Distribution,
    /// By [`Kind`].
    pub connect: Distribution,
    /// By [`Kind`].
    pub join: Distribution,
    /// By [`Kind`].
    pub setup: Distribution,
    /// By [`Kind`].
    pub lateness: Distribution,
    /// By second.
    pub timeline: Vec<Second>,
}

impl Default for Record {
    fn default() -> Self {
        Self(Arc::new(Mutex::new(Book {
            start: Instant::now(),
            messages: Messages::default(),
            cap: Cap::default(),
            errors: BTreeMap::new(),
            due: 0,
            done: 0,
            sockets: 0,
            most_sockets: 0,
            latency: micros_histogram(),
            connect: micros_histogram(),
            join: micros_histogram(),
            setup: micros_histogram(),
            lateness: micros_histogram(),
            seconds: Vec::new(),
        })))
    }
}

impl Record {
    /// The book, for as long as the guard lives.
    pub fn book(&self) -> MutexGuard<'_, Book> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The measured time begins now, and its seconds with it. What failed before stays counted by its code.
    pub fn start(&self) {
        let mut book = self.book();
        book.start = Instant::now();
        book.seconds.clear();
    }

    /// Something failed.
    pub fn error(&self, failure: &Failure) {
        self.book().error(&failure.code());
    }

    /// A duration that is not what the scenario's `done` counts.
    pub fn took(&self, kind: Kind, duration: Duration) {
        self.book().took(kind, duration);
    }

    /// What was due is done.
    pub fn done(&self, kind: Kind, duration: Duration) {
        let mut book = self.book();
        book.took(kind, duration);
        book.done(duration);
    }

    /// A socket was opened; it is closed when what is returned is dropped.
    #[must_use]
    pub fn socket(&self) -> Open {
        let mut book = self.book();
        book.sockets += 1;
        book.most_sockets = book.most_sockets.max(book.sockets);
        book.slot();
        Open(self.clone())
    }

    /// All distributions, of a phase that was measured for so long: what comes after are the sockets that are closed.
    #[must_use]
    pub fn distributions(&self, measured: Duration) -> Distributions {
        let book = self.book();
        let tells = |(at, slot): (usize, &Slot)| {
            Duration::from_secs(at as u64) < measured || slot.due + slot.done + slot.errors > 0
        };
        let seconds = book.seconds.iter().enumerate().rposition(tells).map_or(0, |at| at + 1);
        let timeline = book.seconds.iter().take(seconds).zip(0..).map(|(slot, at)| Second {
            at,
            due: slot.due,
            done: slot.done,
            errors: slot.errors,
            sockets: slot.sockets,
            latency: Distribution::of(&slot.latency),
        });
        Distributions {
            latency: Distribution::of(&book.latency),
            connect: Distribution::of(&book.connect),
            join: Distribution::of(&book.join),
            setup: Distribution::of(&book.setup),
            lateness: Distribution::of(&book.lateness),
            timeline: timeline.collect(),
        }
    }

    /// A line for whoever watches.
    #[must_use]
    pub fn glance(&self) -> String {
        let book = self.book();
        // The last whole second, if anything was due or done in it.
        let second = usize::try_from(book.start.elapsed().as_secs()).unwrap_or(0);
        let last = second.checked_sub(1).and_then(|at| book.seconds.get(at)).filter(|slot| slot.due + slot.done > 0);
        let errors: u64 = book.errors.values().sum();
        let sockets = book.sockets;
        match last {
            Some(slot) => {
                let at = |quantile| ms(slot.latency.value_at_quantile(quantile));
                let (due, done) = (slot.due, slot.done);
                format!(
                    "{done}/{due} a second, p50 {:.1} ms, p99 {:.1} ms, {sockets} sockets, {errors} errors",
                    at(0.5),
                    at(0.99)
                )
            }
            None => format!("{sockets} sockets, {errors} errors"),
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "for people")]
fn ms(micros: u64) -> f64 {
    micros as f64 / 1000.0
}

impl Book {
    /// The slot of the current second; those between are added.
    fn slot(&mut self) -> &mut Slot {
        let second = usize::try_from(self.start.elapsed().as_secs()).unwrap_or(0);
        while self.seconds.len() <= second {
            self.seconds.push(Slot { due: 0, done: 0, errors: 0, sockets: self.sockets, latency: small_histogram() });
        }
        let sockets = self.sockets;
        let slot = &mut self.seconds[second];
        slot.sockets = sockets;
        slot
    }

    /// Something failed, with this code.
    pub fn error(&mut self, code: &str) {
        *self.errors.entry(code.to_owned()).or_default() += 1;
        self.slot().errors += 1;
    }

    /// So many things are due now.
    pub fn is_due(&mut self, count: u64) {
        self.due += count;
        self.slot().due += count;
    }

    /// A duration.
    pub fn took(&mut self, kind: Kind, duration: Duration) {
        let histogram = match kind {
            Kind::Latency => &mut self.latency,
            Kind::Connect => &mut self.connect,
            Kind::Join => &mut self.join,
            Kind::Setup => &mut self.setup,
            Kind::Lateness => &mut self.lateness,
        };
        record(histogram, duration);
    }

    /// One more is done, and took so long.
    pub fn done(&mut self, duration: Duration) {
        self.done += 1;
        let slot = self.slot();
        slot.done += 1;
        record(&mut slot.latency, duration);
    }
}

/// Two digits will do for one second.
fn small_histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 60_000_000, 2).expect("constant bounds")
}

/// An open socket.
pub struct Open(Record);

impl Drop for Open {
    fn drop(&mut self) {
        let mut book = self.0.book();
        book.sockets -= 1;
        book.slot();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As if the measured time had begun so long ago.
    fn age(record: &Record, by: Duration) {
        let mut book = record.book();
        book.start = book.start.checked_sub(by).expect("the machine runs for longer");
    }

    #[test]
    fn seconds_are_those_of_the_measured_time_however_long_it_took_to_connect() {
        let record = Record::default();
        age(&record, Duration::from_secs(20));
        let open = record.socket();
        record.error(&Failure::Timeout);
        record.start();
        record.book().is_due(3);
        record.done(Kind::Latency, Duration::from_millis(2));
        age(&record, Duration::from_secs(1));
        assert_eq!(record.glance(), "1/3 a second, p50 2.0 ms, p99 2.0 ms, 1 sockets, 1 errors");
        age(&record, Duration::from_secs(1));
        assert_eq!(record.glance(), "1 sockets, 1 errors");
        drop(open);
        let counts = |measured: u64| {
            let timeline = record.distributions(Duration::from_secs(measured)).timeline;
            timeline.iter().map(|of| (of.at, of.due, of.done, of.errors, of.sockets)).collect::<Vec<_>>()
        };
        assert_eq!(counts(3), [(0, 3, 1, 0, 1), (1, 0, 0, 0, 0), (2, 0, 0, 0, 0)]);
        assert_eq!(counts(2), [(0, 3, 1, 0, 1), (1, 0, 0, 0, 0)]);
        record.error(&Failure::Closed);
        assert_eq!(counts(2).len(), 3, "what failed while taking leave is told");
        assert_eq!(record.book().errors["timeout"], 1);
    }
}
