//! CPU time of one relayed message, with every message checked.

use std::ops::ControlFlow;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use hdrhistogram::Histogram;
use tokio::runtime::Handle;

use super::{Mark, REST, Subject, each, micros};
use crate::connection::Outgoing;
use crate::crowd::{Crowd, Pings};
use crate::ledger::{Account, Ledger, Letter, Route};
use crate::pace::Schedule;
use crate::peer::Peer;
use crate::server::Processes;

/// What to send.
#[derive(Clone, Copy, Debug, serde::Serialize)]
pub struct Plan {
    /// Rooms, each of two sockets.
    pub rooms: usize,
    /// Payload of a WebSocket message, the packet's head included.
    pub bytes: usize,
    /// Messages a second, over all rooms.
    pub rate: u32,
    /// So many messages are due at the same instant.
    pub burst: u32,
    /// Messages before this count for nothing but their delivery.
    pub warm_up: Duration,
    /// For how long figures are taken.
    pub duration: Duration,
}

/// Percentiles in microseconds.
#[derive(Clone, Copy, Debug, serde::Serialize)]
#[expect(missing_docs, reason = "percentiles by their usual names")]
pub struct Percentiles {
    pub p50: u64,
    pub p99: u64,
    pub max: u64,
}

impl Percentiles {
    pub(super) fn of(histogram: &Histogram<u64>) -> Self {
        let at = |quantile| histogram.value_at_quantile(quantile);
        Self { p50: at(0.5), p99: at(0.99), max: histogram.max() }
    }
}

/// All of it after the warm-up, except the account, which is of every message.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Figures {
    /// CPU time of the server by message relayed, that of all its processes together.
    pub cpu_us_a_relay: f64,
    /// Of it that of Redis.
    pub redis_cpu_us_a_relay: f64,
    /// Messages delivered.
    pub relayed: u64,
    /// How all messages fared.
    pub account: Account,
    /// Engine.IO pings in the same time: their cost is in the figure above.
    pub pings: u64,
    /// Since each message was due.
    pub latency_us: Percentiles,
    /// Messages sent a second.
    pub achieved_rate: f64,
    /// How much later than due the generator sent.
    pub lateness_us: Percentiles,
    /// CPU time that neither the server nor the generator used, in cores: others on the machine, and its host.
    pub others_cores: f64,
    /// CPU time of the generator's own process.
    pub generator_cpu_us_a_relay: f64,
}

/// Lateness of the generator at which its figures are not worth printing.
const MAX_LATENESS: Duration = Duration::from_millis(50);
const MIN_ACHIEVED: f64 = 0.98;
/// Between the plan and its first message.
const HEAD_START: Duration = Duration::from_millis(100);
/// How long the last messages may take to arrive.
const LAST: Duration = Duration::from_secs(5);

impl Figures {
    /// Refuses figures that tell about the generator and not about the server.
    ///
    /// # Errors
    /// When the generator did not keep its schedule.
    pub fn check_generator(&self, plan: &Plan) -> Result<(), Bottleneck> {
        let (requested, achieved) = (plan.rate, self.achieved_rate);
        if achieved < f64::from(requested) * MIN_ACHIEVED {
            return Err(Bottleneck::Rate { requested, achieved });
        }
        let late = Duration::from_micros(self.lateness_us.p99);
        if late > MAX_LATENESS {
            return Err(Bottleneck::Late { late });
        }
        Ok(())
    }
}

/// The generator, and not the server, set the pace.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
pub enum Bottleneck {
    /// It sent too few.
    #[error(
        "the generator was the bottleneck: it sent {achieved:.0} of {requested} messages a second; \
         ask for a lower --rate, or leave it the machine"
    )]
    #[expect(missing_docs, reason = "messages a second")]
    Rate { requested: u32, achieved: f64 },
    /// It sent too late.
    #[error(
        "the generator was the bottleneck: 1 % of its messages left {late:?} or more after they were due; \
         ask for a lower --rate, or leave it the machine"
    )]
    #[expect(missing_docs, reason = "the 99th percentile")]
    Late { late: Duration },
}

/// Seats the peers, paces the messages and waits for the last.
///
/// # Errors
/// When the peers cannot be seated, a connection ends or the generator falls behind.
pub async fn run(subject: &Subject, plan: &Plan) -> anyhow::Result<Figures> {
    let peers = subject.connect(plan.rooms * 2).await?;
    let peers = subject.seat(peers).await?;
    subject.processes.quiet(REST).await?;
    Talk::of(peers).measure(subject, plan).await
}

/// Seated peers that listen, and what checks the messages that they hear.
pub(super) struct Talk {
    crowd: Crowd,
    /// That of the messages under way, or of the last ones.
    ledger: Arc<Mutex<Option<Ledger>>>,
}

impl Talk {
    /// Of seated peers, of whom each two share a room.
    pub(super) fn of(peers: Vec<Peer>) -> Self {
        let ledger = Arc::<Mutex<Option<Ledger>>>::default();
        let crowd = Crowd::listen(peers, {
            let ledger = Arc::clone(&ledger);
            move |receiver, text| {
                let now = Instant::now();
                if let Some(ledger) = lock(&ledger).as_mut() {
                    ledger.received(receiver, text.as_bytes(), now);
                }
            }
        });
        Self { crowd, ledger }
    }

    /// Those who listen.
    pub(super) fn crowd(&self) -> &Crowd {
        &self.crowd
    }

    /// Paces the messages and waits for the last.
    ///
    /// # Errors
    /// When a connection ends or the generator falls behind.
    pub(super) async fn measure(&self, subject: &Subject, plan: &Plan) -> anyhow::Result<Figures> {
        let crowd = &self.crowd;
        let (rate, route, letter) = (f64::from(plan.rate), Route::new(crowd.len()), Letter::new(plan.bytes));
        let start = Instant::now() + HEAD_START;
        let schedule = Schedule { start, rate: plan.rate, burst: plan.burst };
        let warm = messages(rate, plan.warm_up);
        let total = warm + messages(rate, plan.duration);
        *lock(&self.ledger) = Some(Ledger::new(letter.clone(), route.clone(), schedule, warm, total));

        let (outgoing, server, pings) = (crowd.outgoing(), subject.processes.clone(), crowd.pings());
        let pacer = Pacer { schedule, route, letter, outgoing, server, pings };
        let runtime = Handle::current();
        let pacing = tokio::task::spawn_blocking(move || {
            let _context = runtime.enter();
            pacer.run(warm, total)
        });
        let sent = pacing.await.context("the pacing thread failed")?;
        // A connection that ended is the better reason why a message could not be sent.
        crowd.check_all_connected()?;
        let sent = sent?;
        self.wait_for_last(total).await;
        let used = Mark::take(&subject.processes, &crowd.pings())?.since(&sent.begin);
        crowd.check_all_connected()?;
        // What arrives now arrives twice.
        subject.processes.quiet(REST).await?;

        let (account, latency) = lock(&self.ledger).as_mut().context("no ledger")?.close(total);
        let relayed = latency.len();
        let figures = Figures {
            cpu_us_a_relay: each(micros(used.server.total()), relayed),
            redis_cpu_us_a_relay: each(micros(used.server.redis), relayed),
            relayed,
            account,
            pings: used.pings,
            latency_us: Percentiles::of(&latency),
            achieved_rate: rate_of(total - warm, sent.duration),
            lateness_us: Percentiles::of(&sent.lateness),
            others_cores: used.others_cores(),
            generator_cpu_us_a_relay: each(micros(used.own), relayed),
        };
        figures.check_generator(plan)?;
        Ok(figures)
    }

    async fn wait_for_last(&self, total: u64) {
        let begin = Instant::now();
        let delivered = || lock(&self.ledger).as_ref().map_or(total, Ledger::delivered);
        while delivered() < total && begin.elapsed() < LAST {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
}

fn lock(ledger: &Mutex<Option<Ledger>>) -> MutexGuard<'_, Option<Ledger>> {
    ledger.lock().unwrap_or_else(PoisonError::into_inner)
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a positive count of messages")]
fn messages(rate: f64, duration: Duration) -> u64 {
    (rate * duration.as_secs_f64()).round() as u64
}

fn rate_of(count: u64, duration: Duration) -> f64 {
    1.0 / each(duration.as_secs_f64(), count)
}

/// Sends each message when it is due, on a thread of its own.
struct Pacer {
    schedule: Schedule,
    route: Route,
    letter: Letter,
    outgoing: Vec<Outgoing>,
    server: Processes,
    pings: Pings,
}

struct Sent {
    /// When the warm-up was over.
    begin: Mark<Instant>,
    /// From there to the last message.
    duration: Duration,
    lateness: Histogram<u64>,
}

impl Pacer {
    fn run(mut self, warm: u64, total: u64) -> anyhow::Result<Sent> {
        let (mut begin, mut failed) = (None, None);
        let lateness = self.schedule.run(warm, total, |n| {
            if n == warm {
                begin = Some(Mark::take(&self.server, &self.pings));
            }
            let sender = &self.outgoing[self.route.sender(n)];
            if let Err(error) = sender.text(self.letter.numbered(n)) {
                failed = Some(error);
                return ControlFlow::Break(());
            }
            ControlFlow::Continue(())
        });
        if let Some(error) = failed {
            return Err(error).context("a message could not be sent");
        }
        let begin = begin.context("nothing to measure")??;
        Ok(Sent { duration: begin.at.elapsed(), begin, lateness })
    }
}
