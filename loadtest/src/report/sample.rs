//! Made-up reports that look like real ones, for tests.

use std::collections::BTreeMap;

use hdrhistogram::Histogram;

use super::show::{float, whole};
use super::{Cap, Distribution, FORM, Messages, Node, Phase, Report, Second, Usage, Verdict};
use crate::load::plan::{self, Placement, Plan, Scenario};
use crate::machine::Machine;

/// Numbers that look random and are always the same.
pub struct Dice(u64);

impl Dice {
    /// The same seed, the same numbers.
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(2_654_435_769).wrapping_add(88_172_645_463_325_252))
    }

    /// Between 0 and 1.
    pub fn roll(&mut self) -> f64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        float(self.0 >> 12) / float(1 << 52)
    }

    /// Around `middle`, with a long tail.
    pub fn micros(&mut self, middle: f64) -> u64 {
        let normal = (0..6).map(|_| self.roll()).sum::<f64>() - 3.0;
        let tail = if self.roll() < 0.02 { 4.0 + 40.0 * self.roll() } else { 1.0 };
        whole(middle * (normal * 0.6).exp() * tail)
    }
}

/// A histogram of these.
pub fn histogram(values: &[u64]) -> Histogram<u64> {
    let mut histogram = Histogram::new(3).unwrap();
    for value in values {
        histogram.record(*value).unwrap();
    }
    histogram
}

/// A distribution of so many around a middle.
pub fn distribution(seed: u64, count: usize, middle: f64) -> Distribution {
    let mut dice = Dice::new(seed);
    let values: Vec<_> = (0..count).map(|_| dice.micros(middle)).collect();
    Distribution::of(&histogram(&values))
}

/// A phase with nothing in it.
pub fn phase(name: &str, scenario: &str) -> Phase {
    Phase {
        name: name.to_owned(),
        scenario: scenario.to_owned(),
        seconds: 10.0,
        done: 0,
        due: 0,
        sockets: 0,
        rooms: 0,
        messages: Messages::default(),
        cap: Cap::default(),
        latency: Distribution::default(),
        connect: Distribution::default(),
        join: Distribution::default(),
        setup: Distribution::default(),
        lateness: Distribution::default(),
        errors: BTreeMap::new(),
        timeline: Vec::new(),
        generator: Usage::default(),
        nodes: Vec::new(),
    }
}

fn machine() -> Machine {
    Machine { cores: 2, cpu: "Intel Xeon at 2.5 GHz".to_owned(), kernel: "6.18.0".to_owned(), memory_mib: 7_900 }
}

fn timeline(seconds: u32, rate: u64, sockets: u64, middle: f64) -> (Vec<Second>, Distribution) {
    let mut dice = Dice::new(u64::from(seconds) + rate);
    let mut all = Histogram::new(3).unwrap();
    let timeline = (0..seconds)
        .map(|at| {
            let ramp = float((u64::from(at) + 1).min(15)) / 15.0;
            let due = whole(float(rate) * ramp);
            // A hiccup in the middle.
            let slow = if at == seconds * 2 / 3 { 30.0 } else { 1.0 };
            let values: Vec<_> = (0..due.min(400)).map(|_| dice.micros(middle * slow)).collect();
            let histogram = histogram(&values);
            all.add(&histogram).unwrap();
            Second {
                at,
                due,
                done: if slow > 1.0 { due * 7 / 10 } else { due },
                errors: if slow > 1.0 { 14 } else { u64::from(at % 17 == 3) },
                sockets,
                latency: Distribution::of(&histogram),
            }
        })
        .collect();
    (timeline, Distribution::of(&all))
}

fn node(index: u64, seconds: u64, sockets: u64, relays: u64) -> Node {
    let before = (11 << 20) + index * 100_000;
    let after = before + sockets * 16_424;
    Node {
        url: format!("http://10.0.0.{index}:9090/metrics"),
        cpu_seconds: float(relays) * 55e-6 + 0.02 * float(index),
        memory_before_bytes: before,
        memory_after_bytes: after,
        sockets,
        sockets_opened: sockets,
        joins: sockets,
        local_relays: relays / 3,
        remote_relays: relays - relays / 3,
        redis_requests: sockets + seconds,
        received_bytes: relays * 660,
        sent_bytes: relays * 655,
        memory_timeline: (0..seconds).map(|at| after - (seconds - at) * 20_000 * index).collect(),
    }
}

/// Three phases against three nodes, with a hiccup, some errors and all kinds of figures.
pub fn report() -> Report {
    let mut hold = phase("seated", "hold");
    hold.seconds = 30.0;
    (hold.done, hold.due, hold.sockets, hold.rooms) = (12_000, 12_000, 12_000, 6_000);
    (hold.timeline, _) = timeline(30, 0, 12_000, 1.0);
    hold.connect = distribution(1, 4_000, 420.0);
    hold.join = distribution(2, 4_000, 310.0);
    hold.generator = Usage { cpu_seconds: 2.1, memory_bytes: 61 << 20 };
    hold.nodes = (1..=3)
        .map(|index| Node {
            cpu_seconds: 0.21 + 0.01 * float(index),
            local_relays: 0,
            remote_relays: 0,
            ..node(index, 30, 4_000, 0)
        })
        .collect();

    let mut pairs = phase("messages", "pairs");
    pairs.seconds = 90.0;
    (pairs.timeline, pairs.latency) = timeline(90, 6_000, 4_000, 57.0);
    (pairs.sockets, pairs.rooms) = (4_000, 2_000);
    pairs.done = pairs.timeline.iter().map(|second| second.done).sum();
    pairs.due = pairs.timeline.iter().map(|second| second.due).sum();
    pairs.messages = Messages {
        sent: pairs.due - 1_800,
        delivered: pairs.done,
        bytes: (pairs.due - 1_800) * 600,
        ..Messages::default()
    };
    pairs.cap = Cap { tried: 90, exceeded: 0 };
    pairs.connect = distribution(3, 4_000, 400.0);
    pairs.join = distribution(4, 4_000, 300.0);
    pairs.lateness = distribution(5, 20_000, 18.0);
    pairs.errors = [("peer_too_slow".to_owned(), 11), ("timeout".to_owned(), 8)].into();
    pairs.generator = Usage { cpu_seconds: 21.4, memory_bytes: 48 << 20 };
    let third = pairs.done / 3;
    pairs.nodes = (1..=3)
        .map(|index| Node { sockets_opened: 1_333, joins: 1_333, ..node(index, 90, 1_333, third + 900 * index) })
        .collect();

    let mut calls = phase("calls", "call");
    calls.seconds = 40.0;
    (calls.timeline, calls.setup) = timeline(40, 60, 480, 4_800.0);
    calls.done = calls.timeline.iter().map(|second| second.done).sum();
    calls.due = calls.timeline.iter().map(|second| second.due).sum();
    (calls.sockets, calls.rooms) = (480, 240);
    calls.messages = Messages { sent: 30_000, delivered: 30_000, bytes: 24_000_000, ..Messages::default() };
    calls.latency = distribution(6, 9_000, 90.0);
    calls.join = distribution(7, 4_000, 330.0);
    calls.connect = distribution(8, 4_000, 410.0);
    calls.lateness = distribution(9, 4_000, 20.0);
    calls.generator = Usage { cpu_seconds: 4.4, memory_bytes: 41 << 20 };
    calls.nodes = (1..=3).map(|index| node(index, 40, 160, 10_000)).collect();

    let plan_of = |phase: &Phase, scenario| {
        let mut plan = plan::Phase::new(scenario);
        plan.name.clone_from(&phase.name);
        (plan.rooms, plan.seconds) = (phase.rooms, phase.seconds);
        plan
    };
    let mut phases =
        vec![plan_of(&hold, Scenario::Hold), plan_of(&pairs, Scenario::Pairs), plan_of(&calls, Scenario::Call)];
    (phases[1].rate, phases[1].ramp, phases[1].bytes, phases[2].rate) = (6_000.0, 15.0, 600, 60.0);
    Report {
        form: FORM,
        version: "0.1.0".to_owned(),
        started: 1_792_000_000.0,
        machine: machine(),
        plan: Plan { seed: 7, placement: Placement::Apart, phases },
        shards: vec![1],
        of_shards: 1,
        interrupted: false,
        verdict: Verdict::default(),
        phases: vec![hold, pairs, calls],
    }
}
