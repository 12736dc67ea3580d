//! Load by a plan, over real Socket.IO, with every message checked.
//!
//! Reading order: [`plan`] (what to do), [`pace`] (when), [`client`] (one socket), [`record`] (what happened), then the scenarios:
//! [`pairs`], [`call`], [`churn`], [`race`], [`hold`], [`storm`]. [`scrape`] reads what the nodes say of themselves.
//!
//! An open loop: what is due is sent when it is due, whether the server keeps up or not, and latency is counted from then. One
//! thread reads all sockets. When the generator itself is late, the report says so and is no good.

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use futures_util::{Stream, StreamExt as _, stream};
use indicatif::{ProgressBar, ProgressStyle};
use tokio::sync::watch;

use self::client::{Client, Failure};
use self::pace::Pace;
use self::plan::{Placement, Plan, Scenario};
use self::record::{Kind, Open, Record};
use self::scrape::Reading;
use self::target::Endpoint;
use crate::machine::Machine;
use crate::peer::Seat;
use crate::report::{FORM, Phase, Report, Usage, Verdict};
use crate::server::Process;

pub mod call;
pub mod churn;
pub mod client;
pub mod hold;
pub mod options;
pub mod pace;
pub mod pairs;
pub mod plan;
pub mod race;
pub mod record;
pub mod scrape;
pub mod storm;
pub mod target;

/// Lateness of the generator, at the 99th percentile, from which on its figures are not worth printing.
const MAX_LATENESS: Duration = Duration::from_millis(50);
/// CPU of the generator's one thread, in cores, from which on it is the bottleneck.
const MAX_CORES: f64 = 0.95;
/// What is achieved of what was asked for, or more.
const MIN_ACHIEVED: f64 = 0.98;

/// What a run needs.
#[derive(Clone, Debug)]
pub struct Setup {
    /// The plan as a whole.
    pub plan: Plan,
    /// This shard, from 1, and how many there are.
    pub shard: (u32, u32),
    /// Where clients connect to.
    pub targets: Vec<Endpoint>,
    /// Where the nodes' metrics are; none if they cannot be had.
    pub metrics: Vec<Endpoint>,
    /// Connections and joins that are under way at once.
    pub in_flight: usize,
    /// Show what goes on.
    pub progress: bool,
}

/// What all of a phase share. Cheap to clone.
#[derive(Clone)]
pub struct Ground {
    targets: Arc<[Endpoint]>,
    placement: Placement,
    prefix: Arc<str>,
    numbers: Arc<AtomicUsize>,
    in_flight: usize,
    seed: u64,
    /// Set once everything is to end.
    stop: watch::Receiver<bool>,
    /// What happens.
    pub record: Record,
}

/// A seated socket.
pub struct Seated {
    /// The socket.
    pub client: Client,
    /// Counts it.
    pub open: Open,
    /// Its room.
    pub room: u64,
    /// 0 or 1.
    pub side: usize,
}

impl Ground {
    /// The name of a room of this run: no other run, shard or phase has the same.
    #[must_use]
    pub fn room(&self, number: u64) -> String {
        format!("{}-{number}", self.prefix)
    }

    /// Whether everything is to end.
    #[must_use]
    pub fn is_stopped(&self) -> bool {
        *self.stop.borrow()
    }

    /// Returns when everything is to end.
    pub async fn stopped(&self) {
        let mut stop = self.stop.clone();
        // The other end is dropped only when the run is over.
        let _ = stop.wait_for(|stop| *stop).await;
    }

    /// Waits until `at`, unless everything is to end before; tells whether it is time.
    pub async fn wait_until(&self, at: Instant) -> bool {
        tokio::select! {
            () = tokio::time::sleep_until(at.into()) => true,
            () = self.stopped() => false,
        }
    }

    /// The measured time of a phase: `act` is called with each number, and when it was due, at that time, until all are through
    /// or everything is to end.
    pub async fn each_due(&self, phase: &plan::Phase, clock: &Clock, mut act: impl FnMut(u64, Instant)) {
        let (pace, start) = (Pace::of(phase), Instant::now());
        self.record.start();
        clock.begin();
        for n in 0..pace.total() {
            let due = pace.at(start, n);
            if !self.wait_until(due).await {
                return;
            }
            {
                let mut book = self.record.book();
                book.is_due(1);
                book.took(Kind::Lateness, due.elapsed());
            }
            act(n, due);
        }
    }

    /// The target of one side of a room.
    fn target(&self, room: u64, side: usize) -> &Endpoint {
        let room = usize::try_from(room).unwrap_or(0);
        let index = match self.placement {
            Placement::Apart => crate::crowd::node(room * 2 + side, self.targets.len()),
            Placement::Together => room % self.targets.len(),
            Placement::Balanced => (room * 2 + side) % self.targets.len(),
        };
        &self.targets[index]
    }

    /// Connects one side of a room.
    ///
    /// # Errors
    /// [`Failure`], which is noted.
    pub async fn connect(&self, room: u64, side: usize) -> Result<(Client, Open), Failure> {
        let number = self.numbers.fetch_add(1, Ordering::Relaxed);
        let name = self.room(room);
        let named = (self.placement == Placement::Balanced).then_some(name.as_str());
        let begun = Instant::now();
        match Client::open(self.target(room, side), number, named).await {
            Ok(client) => {
                self.record.took(Kind::Connect, begun.elapsed());
                Ok((client, self.record.socket()))
            }
            Err(failure) => {
                self.record.error(&failure);
                Err(failure)
            }
        }
    }

    /// Connects and seats all pairs, so many at once. Each is to be listened to as soon as it comes: heartbeats do not wait for
    /// the others. Pairs that fail are noted and left out.
    pub fn seat_pairs(&self, rooms: u64) -> impl Stream<Item = [Seated; 2]> {
        stream::iter(0..rooms)
            .map(|room| self.seat_pair(room))
            .buffer_unordered(self.in_flight)
            .filter_map(std::future::ready)
    }

    async fn seat_pair(&self, room: u64) -> Option<[Seated; 2]> {
        if self.is_stopped() {
            return None;
        }
        let first = self.seat(room, 0).await?;
        let second = self.seat(room, 1).await?;
        Some([first, second])
    }

    async fn seat(&self, room: u64, side: usize) -> Option<Seated> {
        let (mut client, open) = self.connect(room, side).await.ok()?;
        let begun = Instant::now();
        match client.join(&self.room(room)).await {
            Ok(Seat::Full) => self.record.book().error("full"),
            Ok(_) => {
                self.record.took(Kind::Join, begun.elapsed());
                return Some(Seated { client, open, room, side });
            }
            Err(failure) => self.record.error(&failure),
        }
        None
    }

    /// Third peers try to get into rooms of two, so many a second, for ever. `stands` tells whether both are still there.
    pub async fn intrude(&self, rate: f64, rooms: u64, stands: impl Fn(u64) -> bool) {
        if rate <= 0.0 || rooms == 0 {
            return std::future::pending().await;
        }
        let mut random = Random::new(self.seed ^ 0x5EED);
        let mut tick = tokio::time::interval(Duration::from_secs_f64(1.0 / rate));
        tick.tick().await;
        loop {
            tick.tick().await;
            let room = random.below(rooms);
            let Ok((mut client, _open)) = self.connect(room, 0).await else { continue };
            let seat = client.join(&self.room(room)).await;
            let mut book = self.record.book();
            match seat {
                Ok(Seat::Full) => book.cap.tried += 1,
                Ok(_) if stands(room) => {
                    book.cap.tried += 1;
                    book.cap.exceeded += 1;
                }
                // One of the two had gone: that is told elsewhere.
                Ok(_) => {}
                Err(failure) => book.error(&failure.code()),
            }
        }
    }
}

/// xorshift64*: the same seed, the same run.
pub struct Random(u64);

impl Random {
    /// Begins with `seed`.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    /// A number below `bound`.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) % bound.max(1)
    }
}

/// Does all phases. What `stop` says ends it early, with what there is by then.
///
/// # Errors
/// When nothing could be done: no metrics where they were asked for.
pub async fn run(setup: &Setup, stop: watch::Receiver<bool>) -> anyhow::Result<Report> {
    let (index, of) = setup.shard;
    let started = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
    let mut report = Report {
        form: FORM,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        started,
        machine: Machine::read(),
        plan: setup.plan.clone(),
        shards: vec![index],
        of_shards: of,
        interrupted: false,
        verdict: Verdict::default(),
        phases: Vec::new(),
    };
    let plan = setup.plan.shard(index, of);
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a time of this century, in ms")]
    let unique = (started * 1000.0) as u64 ^ u64::from(std::process::id()) << 44;
    for (number, phase) in plan.phases.iter().enumerate() {
        if *stop.borrow() {
            break;
        }
        let ground = Ground {
            targets: setup.targets.clone().into(),
            placement: plan.placement,
            prefix: format!("load-{unique:x}-{index}-{number}").into(),
            numbers: Arc::default(),
            in_flight: setup.in_flight,
            seed: plan.seed ^ (u64::from(index) << 32) ^ number as u64,
            stop: stop.clone(),
            record: Record::default(),
        };
        report.phases.push(one(setup, &ground, phase).await?);
    }
    report.interrupted = *stop.borrow();
    report.verdict = judge(&report);
    Ok(report)
}

async fn one(setup: &Setup, ground: &Ground, phase: &plan::Phase) -> anyhow::Result<Phase> {
    let bar = if setup.progress { ProgressBar::new_spinner() } else { ProgressBar::hidden() };
    bar.set_style(ProgressStyle::with_template("{elapsed:>4} {prefix}: {msg}")?);
    bar.set_prefix(phase.name.clone());
    let idle = scrape::read_all(&setup.metrics).await?;
    let watch = Watch {
        metrics: setup.metrics.clone(),
        record: ground.record.clone(),
        bar: bar.clone(),
        begun: Cell::new(false),
    };
    let clock = Clock::default();
    let mut memory: Vec<Vec<u64>> = vec![Vec::new(); setup.metrics.len()];
    let scenario = async {
        match phase.scenario {
            Scenario::Pairs => pairs::run(ground, phase, &clock).await,
            Scenario::Call => call::run(ground, phase, &clock).await,
            Scenario::Churn => churn::run(ground, phase, &clock).await,
            Scenario::Race => race::run(ground, phase, &clock).await,
            Scenario::Hold => hold::run(ground, phase, &clock).await,
            Scenario::Storm => storm::run(ground, phase, &clock).await,
        }
    };
    let measured = async {
        let begun = clock.begun().await;
        watch.begun.set(true);
        let before = scrape::read_all(&setup.metrics).await;
        let own = own_cpu();
        let ended = clock.ended().await;
        let (after, own) = (scrape::read_all(&setup.metrics).await, own_cpu().saturating_sub(own));
        clock.read.send_replace(true);
        (ended - begun, before, after, own)
    };
    let ((), (seconds, before, after, own)) = tokio::select! {
        both = async { tokio::join!(scenario, measured) } => both,
        () = watch.run(&mut memory) => unreachable!("it never ends"),
    };
    bar.finish_and_clear();
    let (before, after): (Vec<Reading>, Vec<Reading>) = (before?, after?);
    let found = ground.record.distributions(seconds);
    let book = ground.record.book();
    let nodes = setup.metrics.iter().zip(idle.iter().zip(before.iter().zip(&after))).zip(memory);
    Ok(Phase {
        name: phase.name.clone(),
        scenario: phase.scenario.to_string(),
        seconds: seconds.as_secs_f64(),
        done: book.done,
        due: book.due,
        sockets: book.most_sockets,
        rooms: phase.rooms,
        messages: book.messages.clone(),
        cap: book.cap.clone(),
        latency: found.latency,
        connect: found.connect,
        join: found.join,
        setup: found.setup,
        lateness: found.lateness,
        errors: book.errors.clone(),
        timeline: found.timeline,
        generator: Usage { cpu_seconds: own.as_secs_f64(), memory_bytes: own_memory() },
        nodes: nodes
            .map(|((endpoint, (idle, (before, after))), memory)| {
                scrape::node(&endpoint.url, idle, before, after, memory)
            })
            .collect(),
    })
}

/// When the measured time of a phase begins and ends, told by its scenario.
pub struct Clock {
    times: watch::Sender<(Option<Instant>, Option<Instant>)>,
    read: watch::Sender<bool>,
}

impl Default for Clock {
    fn default() -> Self {
        Self { times: watch::Sender::new((None, None)), read: watch::Sender::new(false) }
    }
}

impl Clock {
    /// The sockets are there: the measured time begins.
    pub fn begin(&self) {
        self.times.send_modify(|times| times.0 = Some(Instant::now()));
    }

    /// The measured time is over. Returns when the nodes have been read, with all sockets still open.
    pub async fn end(&self) {
        self.times.send_modify(|times| {
            let now = Instant::now();
            times.0.get_or_insert(now);
            times.1 = Some(now);
        });
        let _ = self.read.subscribe().wait_for(|read| *read).await;
    }

    async fn begun(&self) -> Instant {
        let mut times = self.times.subscribe();
        times.wait_for(|times| times.0.is_some()).await.ok().and_then(|times| times.0).unwrap_or_else(Instant::now)
    }

    async fn ended(&self) -> Instant {
        let mut times = self.times.subscribe();
        times.wait_for(|times| times.1.is_some()).await.ok().and_then(|times| times.1).unwrap_or_else(Instant::now)
    }
}

/// Looks at everything once a second.
struct Watch {
    metrics: Vec<Endpoint>,
    record: Record,
    bar: ProgressBar,
    /// The measured time has begun: memory is noted from then on.
    begun: Cell<bool>,
}

impl Watch {
    async fn run(&self, memory: &mut [Vec<u64>]) {
        let mut tick = tokio::time::interval(Duration::from_secs(1));
        loop {
            tick.tick().await;
            self.bar.set_message(self.record.glance());
            self.bar.tick();
            // A node that is busy may be late: the next reading will do.
            if let (true, Ok(readings)) = (self.begun.get(), scrape::read_all(&self.metrics).await) {
                for (of_node, reading) in memory.iter_mut().zip(readings) {
                    of_node.push(reading.memory_bytes);
                }
            }
        }
    }
}

fn own_cpu() -> Duration {
    Process::of(std::process::id()).and_then(Process::cpu).unwrap_or_default()
}

fn own_memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    crate::machine::kib(&status, "VmHWM").unwrap_or(0) * 1024
}

/// What to make of a report.
#[must_use]
#[expect(clippy::cast_precision_loss, reason = "rates and shares")]
pub fn judge(report: &Report) -> Verdict {
    let mut verdict = Verdict::default();
    for phase in &report.phases {
        let name = &phase.name;
        let Phase { messages, cap, .. } = phase;
        for (count, what) in [
            (messages.lost, "messages were lost"),
            (messages.twice, "messages arrived twice"),
            (messages.out_of_order, "messages arrived out of order"),
            (messages.to_a_stranger, "messages arrived at a stranger"),
            (messages.altered, "messages arrived altered"),
            (cap.exceeded, "rooms had more than two peers"),
        ] {
            if count > 0 {
                verdict.broken.push(format!("{name}: {count} {what}"));
            }
        }
        let late = Duration::from_micros(phase.lateness.p99);
        if late > MAX_LATENESS {
            verdict.unsound.push(format!(
                "{name}: the generator was the bottleneck: 1 % of what was due left {late:?} late or more"
            ));
        }
        let cores = phase.generator.cpu_seconds / phase.seconds.max(1e-9);
        if cores > MAX_CORES {
            verdict.unsound.push(format!(
                "{name}: the generator was the bottleneck: it used {cores:.2} cores, and has one thread"
            ));
        }
        if phase.due > 0 && (phase.done as f64) < phase.due as f64 * MIN_ACHIEVED {
            verdict.unsound.push(format!(
                "{name}: {} of {} were done: the server did not keep up, or refused",
                phase.done, phase.due
            ));
        }
        if phase.due == 0 && !report.interrupted {
            verdict.unsound.push(format!("{name}: nothing was due"));
        }
    }
    if report.interrupted {
        verdict.unsound.push("broken off before its end".to_owned());
    }
    verdict
}
