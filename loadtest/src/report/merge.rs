//! Shards of one plan put together, as if one process had done all of it.
//!
//! Counts add up, histograms are added (no percentile is averaged), timelines are added second by second. Two things are not
//! sums: what the nodes used, since every shard reads the same nodes, and how long a phase took. Shards do their phases at
//! the same time, so of each node the widest reading is taken: the least memory before, and the most of everything else. A
//! reading that began later or ended sooner saw a part of the same, not something else.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, ensure};

use super::show::list;
use super::{Cap, FORM, Messages, Node, Phase, Report, Second, Usage, Verdict};
use crate::machine::Machine;

/// Shards that begin further apart than this, in seconds, did not load the server together.
const APART: f64 = 5.0;
/// How reasons begin that are about shards missing, and are found anew whenever more come together.
const MISSING: &str = "missing shards: ";
const LATE: &str = "shards began apart: ";

/// All of these as one.
///
/// # Errors
/// When they are not shards of one plan, or one is there twice.
pub fn merge(mut reports: Vec<Report>) -> anyhow::Result<Report> {
    for report in &mut reports {
        ensure!(report.form == FORM, "a report of form {}; this program knows form {FORM}", report.form);
        ensure!(!report.shards.is_empty(), "a report that does not say which shards it is of");
    }
    reports.sort_by_key(|report| report.shards.clone());
    let first = reports.first().context("nothing to merge")?.clone();
    let mut shards = BTreeSet::new();
    for report in &reports {
        ensure!(
            report.of_shards == first.of_shards,
            "shards of {} and of {}: these are not of one run",
            first.of_shards,
            report.of_shards
        );
        let ours = list(&report.shards);
        ensure!(
            report.version == first.version,
            "shard {ours} was made by loadtest {}, another by {}",
            report.version,
            first.version
        );
        ensure!(report.plan == first.plan, "shard {ours} had another plan than shard {}", list(&first.shards));
        for shard in &report.shards {
            ensure!((1..=report.of_shards).contains(shard), "shard {shard} of {}: there is none", report.of_shards);
            ensure!(shards.insert(*shard), "shard {shard} is there twice: it would count twice");
        }
    }
    let missing: Vec<_> = (1..=first.of_shards).filter(|shard| !shards.contains(shard)).collect();
    let begins = reports.iter().map(|report| report.started);
    let (started, last) = begins.fold((f64::INFINITY, 0.0_f64), |(least, most), at| (least.min(at), most.max(at)));

    let mut verdict = Verdict::default();
    for report in &reports {
        // Reasons of what was merged before have their shard's name.
        let name = |reason: &String| match report.shards.as_slice() {
            [shard] if report.of_shards > 1 => format!("shard {shard}: {reason}"),
            _ => reason.clone(),
        };
        let stale = |reason: &&String| !reason.starts_with(MISSING) && !reason.starts_with(LATE);
        verdict.broken.extend(report.verdict.broken.iter().map(name));
        verdict.unsound.extend(report.verdict.unsound.iter().filter(stale).map(name));
    }
    if !missing.is_empty() {
        let (noun, verb) = if missing.len() == 1 { ("shard", "is") } else { ("shards", "are") };
        let reason = format!("{MISSING}{noun} {} of {} {verb} missing", list(&missing), first.of_shards);
        verdict.unsound.push(reason);
    }
    let earlier = reports.iter().flat_map(|report| &report.verdict.unsound).find(|reason| reason.starts_with(LATE));
    if last - started > APART {
        verdict.unsound.push(format!("{LATE}{:.0} s, so they did not load the server together", last - started));
    } else if let Some(reason) = earlier {
        verdict.unsound.push(reason.clone());
    }

    let mut phases: Vec<Phase> = Vec::new();
    for phase in reports.iter().flat_map(|report| &report.phases) {
        match phases.iter_mut().find(|known| known.name == phase.name) {
            Some(known) => *known = together(known, phase).with_context(|| format!("phase {}", phase.name))?,
            None => phases.push(phase.clone()),
        }
    }
    // A shard may lack a phase: the plan knows the order.
    let place = |phase: &Phase| first.plan.phases.iter().position(|planned| planned.name == phase.name);
    phases.sort_by_key(|phase| place(phase).unwrap_or(usize::MAX));
    Ok(Report {
        form: FORM,
        version: first.version,
        started,
        machine: machines(reports.iter().map(|report| &report.machine)).context("nothing to merge")?,
        plan: first.plan,
        shards: shards.into_iter().collect(),
        of_shards: first.of_shards,
        interrupted: reports.iter().any(|report| report.interrupted),
        verdict,
        phases,
    })
}

/// Two shards' parts of a phase.
fn together(one: &Phase, other: &Phase) -> anyhow::Result<Phase> {
    ensure!(
        one.scenario == other.scenario,
        "it is `{}` in one shard and `{}` in another",
        one.scenario,
        other.scenario
    );
    let mut errors = one.errors.clone();
    for (code, count) in &other.errors {
        *errors.entry(code.clone()).or_default() += count;
    }
    Ok(Phase {
        name: one.name.clone(),
        scenario: one.scenario.clone(),
        seconds: one.seconds.max(other.seconds),
        done: one.done + other.done,
        due: one.due + other.due,
        sockets: one.sockets + other.sockets,
        rooms: one.rooms + other.rooms,
        messages: Messages {
            sent: one.messages.sent + other.messages.sent,
            delivered: one.messages.delivered + other.messages.delivered,
            lost: one.messages.lost + other.messages.lost,
            twice: one.messages.twice + other.messages.twice,
            out_of_order: one.messages.out_of_order + other.messages.out_of_order,
            to_a_stranger: one.messages.to_a_stranger + other.messages.to_a_stranger,
            altered: one.messages.altered + other.messages.altered,
            bytes: one.messages.bytes + other.messages.bytes,
        },
        cap: Cap { tried: one.cap.tried + other.cap.tried, exceeded: one.cap.exceeded + other.cap.exceeded },
        latency: one.latency.merged(&other.latency)?,
        connect: one.connect.merged(&other.connect)?,
        join: one.join.merged(&other.join)?,
        setup: one.setup.merged(&other.setup)?,
        lateness: one.lateness.merged(&other.lateness)?,
        errors,
        timeline: timelines(&one.timeline, &other.timeline)?,
        generator: Usage {
            cpu_seconds: one.generator.cpu_seconds + other.generator.cpu_seconds,
            memory_bytes: one.generator.memory_bytes + other.generator.memory_bytes,
        },
        nodes: nodes(&one.nodes, &other.nodes),
    })
}

fn timelines(one: &[Second], other: &[Second]) -> anyhow::Result<Vec<Second>> {
    let mut by_second: BTreeMap<u32, Second> = BTreeMap::new();
    for second in one.iter().chain(other) {
        match by_second.get_mut(&second.at) {
            None => {
                by_second.insert(second.at, second.clone());
            }
            Some(known) => {
                known.due += second.due;
                known.done += second.done;
                known.errors += second.errors;
                known.sockets += second.sockets;
                known.latency = known.latency.merged(&second.latency)?;
            }
        }
    }
    Ok(by_second.into_values().collect())
}

/// The widest reading of each node.
fn nodes(one: &[Node], other: &[Node]) -> Vec<Node> {
    let mut nodes = one.to_vec();
    for node in other {
        let Some(known) = nodes.iter_mut().find(|known| known.url == node.url) else {
            nodes.push(node.clone());
            continue;
        };
        // 0: could not be read.
        let before = [known.memory_before_bytes, node.memory_before_bytes].into_iter().filter(|bytes| *bytes > 0).min();
        let (long, short) = if known.memory_timeline.len() >= node.memory_timeline.len() {
            (&known.memory_timeline, &node.memory_timeline)
        } else {
            (&node.memory_timeline, &known.memory_timeline)
        };
        let shorter = short.iter().copied().chain(std::iter::repeat(0));
        *known = Node {
            url: node.url.clone(),
            cpu_seconds: known.cpu_seconds.max(node.cpu_seconds),
            memory_before_bytes: before.unwrap_or(0),
            memory_after_bytes: known.memory_after_bytes.max(node.memory_after_bytes),
            sockets: known.sockets.max(node.sockets),
            sockets_opened: known.sockets_opened.max(node.sockets_opened),
            joins: known.joins.max(node.joins),
            local_relays: known.local_relays.max(node.local_relays),
            remote_relays: known.remote_relays.max(node.remote_relays),
            redis_requests: known.redis_requests.max(node.redis_requests),
            received_bytes: known.received_bytes.max(node.received_bytes),
            sent_bytes: known.sent_bytes.max(node.sent_bytes),
            memory_timeline: long.iter().zip(shorter).map(|(long, short)| (*long).max(short)).collect(),
        };
    }
    nodes
}

/// The machines of the shards as one line: the same once, others beside it.
fn machines<'a>(machines: impl Iterator<Item = &'a Machine>) -> Option<Machine> {
    machines.cloned().reduce(|one, other| {
        let beside = |one: String, other: &str| {
            if one.split(" / ").any(|part| part == other) { one } else { format!("{one} / {other}") }
        };
        Machine {
            cores: one.cores.max(other.cores),
            cpu: beside(one.cpu, &other.cpu),
            kernel: beside(one.kernel, &other.kernel),
            memory_mib: one.memory_mib.max(other.memory_mib),
        }
    })
}

#[cfg(test)]
mod tests {
    use hdrhistogram::Histogram;

    use super::*;
    use crate::report::{Distribution, sample};

    fn shard(index: u32, of: u32) -> Report {
        Report { shards: vec![index], of_shards: of, ..sample::report() }
    }

    /// A report whose only phase measured these.
    fn measured(index: u32, of: u32, values: &[u64]) -> Report {
        let mut report = shard(index, of);
        report.phases = vec![sample::phase("messages", "pairs")];
        report.phases[0].latency = Distribution::of(&sample::histogram(values));
        let second = Second { at: index, latency: report.phases[0].latency.clone(), done: 1, ..Second::default() };
        report.phases[0].timeline = vec![Second { at: 0, ..second.clone() }, second];
        report
    }

    fn read(distribution: &Distribution) -> Histogram<u64> {
        distribution.histogram().unwrap().unwrap()
    }

    #[test]
    fn histograms_are_those_of_one_process_that_measured_all() {
        let mut dice = sample::Dice::new(3);
        let all: Vec<_> = (0..9_000).map(|at| dice.micros(if at % 3 == 0 { 20.0 } else { 90_000.0 })).collect();
        let of = |index: usize| all.iter().copied().skip(index).step_by(3).collect::<Vec<_>>();
        let shards = (0_u32..3).map(|index| measured(index + 1, 3, &of(index as usize))).collect();
        let merged = merge(shards).unwrap();
        let whole = sample::histogram(&all);
        let latency = &merged.phases[0].latency;
        assert_eq!(read(latency), whole);
        let expected = Distribution { histogram: latency.histogram.clone(), ..Distribution::of(&whole) };
        assert_eq!(*latency, expected, "count, mean and percentiles as well");
        let timeline = &merged.phases[0].timeline;
        assert_eq!(
            timeline.iter().map(|second| (second.at, second.done)).collect::<Vec<_>>(),
            [(0, 3), (1, 1), (2, 1), (3, 1)]
        );
        assert_eq!(read(&timeline[0].latency), whole);
        assert_eq!((merged.shards, merged.of_shards), (vec![1, 2, 3], 3));
    }

    #[test]
    fn percentiles_are_not_averaged() {
        let merged = merge(vec![measured(1, 2, &[10; 900]), measured(2, 2, &[1_000; 100])]).unwrap();
        assert_eq!((merged.phases[0].latency.p50, merged.phases[0].latency.p90), (10, 10));
        assert_eq!(merged.phases[0].latency.p99, 1_000);
    }

    #[test]
    fn counts_add_up_and_nodes_do_not() {
        let (one, mut two) = (shard(1, 2), shard(2, 2));
        two.phases[1].nodes[0].cpu_seconds += 1.0;
        two.phases[1].nodes[0].memory_before_bytes -= 1_000;
        two.phases[1].nodes[0].memory_timeline.truncate(3);
        two.phases[1].nodes[0].memory_timeline[0] += 5;
        two.phases[1].errors.insert("connect".to_owned(), 3);
        let merged = merge(vec![two.clone(), one.clone()]).unwrap();
        let (before, after) = (&one.phases[1], &merged.phases[1]);
        assert_eq!((after.done, after.due, after.sockets), (2 * before.done, 2 * before.due, 2 * before.sockets));
        assert_eq!(after.messages.sent, 2 * before.messages.sent);
        assert_eq!(after.cap.tried, 180);
        assert_eq!((after.errors["timeout"], after.errors["connect"]), (16, 3));
        assert_eq!(after.generator.memory_bytes, 2 * before.generator.memory_bytes);
        assert_eq!(after.seconds.to_bits(), before.seconds.to_bits());
        assert_eq!(after.nodes.len(), 3);
        assert_eq!(after.nodes[1], before.nodes[1]);
        assert_eq!(after.nodes[0].cpu_seconds.to_bits(), two.phases[1].nodes[0].cpu_seconds.to_bits());
        assert_eq!(after.nodes[0].memory_before_bytes, before.nodes[0].memory_before_bytes - 1_000);
        let mut memory = before.nodes[0].memory_timeline.clone();
        memory[0] += 5;
        assert_eq!(after.nodes[0].memory_timeline, memory);
    }

    #[test]
    fn what_does_not_belong_together_is_refused() {
        let refused = |reports: Vec<Report>| merge(reports).unwrap_err().to_string();
        assert!(refused(vec![]).contains("nothing to merge"));
        assert!(refused(vec![shard(1, 2), shard(1, 2)]).contains("shard 1 is there twice"));
        assert!(refused(vec![shard(1, 2), shard(2, 3)]).contains("not of one run"));
        assert!(refused(vec![shard(3, 2)]).contains("there is none"));
        let mut other = shard(2, 2);
        other.plan.seed = 8;
        assert!(refused(vec![shard(1, 2), other]).contains("another plan"));
        let other = Report { version: "0.0.9".to_owned(), ..shard(2, 2) };
        assert!(refused(vec![shard(1, 2), other]).contains("0.0.9"));
        let other = Report { form: 2, ..shard(2, 2) };
        assert!(refused(vec![shard(1, 2), other]).contains("form 2"));
        let mut other = shard(2, 2);
        other.phases[0].scenario = "storm".to_owned();
        assert!(refused(vec![shard(1, 2), other]).contains("phase seated"));
    }

    #[test]
    fn missing_shards_make_it_unsound_until_they_come() {
        let merged = merge(vec![shard(1, 3), shard(3, 3)]).unwrap();
        assert_eq!(merged.verdict.unsound, ["missing shards: shard 2 of 3 is missing"]);
        let whole = merge(vec![merged, shard(2, 3)]).unwrap();
        assert!(whole.verdict.is_good(), "{:?}", whole.verdict);
        assert_eq!(whole.shards, [1, 2, 3]);
        let merged = merge(vec![shard(1, 6), shard(3, 6), shard(5, 6), shard(6, 6)]).unwrap();
        assert_eq!(merged.verdict.unsound, ["missing shards: shards 2 and 4 of 6 are missing"]);
    }

    #[test]
    fn the_order_of_merging_does_not_matter() {
        let all = || (1..=3).map(|index| measured(index, 3, &[u64::from(index) * 1_000; 50])).collect::<Vec<_>>();
        let at_once = merge(all()).unwrap();
        let [one, two, three] = <[Report; 3]>::try_from(all()).unwrap();
        let in_steps = merge(vec![three, merge(vec![two, one]).unwrap()]).unwrap();
        assert_eq!(read(&at_once.phases[0].latency), read(&in_steps.phases[0].latency));
        assert_eq!((at_once.verdict, at_once.shards), (in_steps.verdict, in_steps.shards));
    }

    #[test]
    fn reasons_have_their_shards_name_once() {
        let mut one = shard(1, 3);
        one.verdict.broken.push("a message was lost".to_owned());
        let merged = merge(vec![merge(vec![one, shard(2, 3)]).unwrap(), shard(3, 3)]).unwrap();
        assert_eq!(merged.verdict.broken, ["shard 1: a message was lost"]);
    }

    #[test]
    fn shards_that_did_not_run_together_say_so() {
        let mut late = shard(2, 2);
        late.started += 60.0;
        late.interrupted = true;
        let merged = merge(vec![late, shard(1, 2)]).unwrap();
        assert_eq!(merged.started.to_bits(), shard(1, 2).started.to_bits());
        assert!(merged.verdict.unsound[0].contains("60 s") && merged.interrupted, "{:?}", merged.verdict);
    }

    #[test]
    fn a_shard_may_lack_a_phase() {
        let mut one = shard(1, 2);
        one.phases.remove(0);
        let merged = merge(vec![one, shard(2, 2)]).unwrap();
        let names: Vec<_> = merged.phases.iter().map(|phase| phase.name.as_str()).collect();
        assert_eq!(names, ["seated", "messages", "calls"]);
        assert_eq!(merged.phases[0].done, 12_000);
    }

    #[test]
    fn machines_that_differ_are_all_named() {
        let mut other = shard(2, 2);
        other.machine.cpu = "Arm".to_owned();
        let merged = merge(vec![shard(1, 2), other]).unwrap();
        assert_eq!(merged.machine.cpu, "Intel Xeon at 2.5 GHz / Arm");
        assert_eq!(merged.machine.kernel, "6.18.0");
    }
}
