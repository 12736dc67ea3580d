//! Two reports side by side, and what got worse from the first to the second.
//!
//! A figure is worse when it changed by more than [`THRESHOLD`] and by more than it varies from one part of a run to the
//! next. Where a run gives no such variation (CPU, memory), the threshold alone decides; single CPU figures of a busy
//! machine are uncertain by a fifth. Promises broken and errors count from the first one that chance does not explain.

use super::costs::Costs;
use super::show::{self, float, put, ratio};
use super::table::subject;
use super::{Distribution, Phase, Report, Second};

/// What changed less is no change.
pub const THRESHOLD: f64 = 0.10;
/// So much less of what was due is worse, whatever the threshold: an open load is kept up with, or it is not.
const KEPT_UP: f64 = 0.01;
/// Latencies that differ by less, in microseconds, are not told apart.
const GRAIN: f64 = 10.0;
/// So many standard errors apart is beyond noise.
const BEYOND: f64 = 2.0;
/// A run is looked at in so many parts of equal length.
const PARTS: usize = 10;
/// A part with fewer values says nothing about percentiles.
const ENOUGH: u64 = 100;

/// The comparison: what keeps the two from being compared, what got worse, then everything side by side.
#[must_use]
pub fn compare(a: &Report, b: &Report) -> String {
    let mut text = String::new();
    for doubt in doubts(a, b) {
        put!(text, "CAUTION: {doubt}.\n");
    }
    if !text.is_empty() {
        text.push('\n');
    }
    let worse = worse(a, b);
    if worse.is_empty() {
        let what = if pairs(a, b).next().is_some() { "Nothing got worse." } else { "There is nothing to compare." };
        put!(text, "{what}\n");
    } else {
        put!(text, "Worse in B:\n");
        for line in worse {
            put!(text, "  {line}\n");
        }
    }
    for (one, other) in pairs(a, b) {
        put!(text, "\n── {} ({})\n{}", one.name, one.scenario, side_by_side(one, other));
    }
    for (here, there, name) in [(a, b, "A"), (b, a, "B")] {
        for phase in here.phases.iter().filter(|phase| other(phase, there).is_none()) {
            put!(text, "\n── {} ({}): in {name} alone\n", phase.name, phase.scenario);
        }
    }
    text
}

/// Why the two may not be comparable, a sentence each without its full stop.
#[must_use]
pub fn doubts(a: &Report, b: &Report) -> Vec<String> {
    let mut doubts = Vec::new();
    if a.plan != b.plan {
        let mut what = Vec::new();
        if a.plan.seed != b.plan.seed {
            what.push("seed".to_owned());
        }
        if a.plan.placement != b.plan.placement {
            what.push("placement".to_owned());
        }
        for phase in &a.plan.phases {
            match b.plan.phases.iter().find(|other| other.name == phase.name) {
                None => what.push(format!("phase {} is in A alone", phase.name)),
                Some(other) if other != phase => what.push(format!("phase {}", phase.name)),
                Some(_) => {}
            }
        }
        for phase in &b.plan.phases {
            if !a.plan.phases.iter().any(|other| other.name == phase.name) {
                what.push(format!("phase {} is in B alone", phase.name));
            }
        }
        if what.is_empty() {
            what.push("the order of the phases".to_owned());
        }
        doubts.push(format!(
            "the plans differ ({}): differences below may be those of the plans and not of the server",
            what.join(", ")
        ));
    }
    if a.machine != b.machine {
        doubts.push(format!("the machines differ: {} and {}", a.machine, b.machine));
    }
    // All shards together are the plan, however many there were.
    let part = |report: &Report| (!report.is_whole()).then(|| (report.shards.clone(), report.of_shards));
    if part(a) != part(b) {
        doubts.push("the reports are of different parts of the plan".to_owned());
    }
    if a.version != b.version {
        doubts.push(format!("the load generators differ: {} and {}", a.version, b.version));
    }
    for (report, name) in [(a, "A"), (b, "B")] {
        if report.interrupted {
            doubts.push(format!("{name} was broken off"));
        }
        if let Some(reason) = report.verdict.unsound.first() {
            doubts.push(format!("{name} is unsound: {reason}"));
        }
    }
    doubts
}

/// What got worse from the first to the second, a line each.
#[must_use]
pub fn worse(a: &Report, b: &Report) -> Vec<String> {
    let mut lines = Vec::new();
    for (one, other) in pairs(a, b) {
        for change in changes(one, other).into_iter().filter(|change| change.worse) {
            lines.push(format!("{}: {}", one.name, change.sentence()));
        }
    }
    for (report, name) in [(a, "A"), (b, "B")] {
        let there = if name == "A" { b } else { a };
        for broken in &report.verdict.broken {
            if name == "B" && !there.verdict.broken.contains(broken) {
                lines.push(format!("a promise was broken: {broken}"));
            }
        }
    }
    for phase in a.phases.iter().filter(|phase| other(phase, b).is_none()) {
        lines.push(format!("{}: it is missing in B", phase.name));
    }
    lines
}

/// The phases that both have, by name and scenario.
fn pairs<'a>(a: &'a Report, b: &'a Report) -> impl Iterator<Item = (&'a Phase, &'a Phase)> {
    a.phases.iter().filter_map(move |phase| Some((phase, other(phase, b)?)))
}

fn other<'a>(phase: &Phase, report: &'a Report) -> Option<&'a Phase> {
    report.phases.iter().find(|other| other.name == phase.name && other.scenario == phase.scenario)
}

/// One figure, before and after.
struct Change {
    label: String,
    before: Option<f64>,
    after: Option<f64>,
    show: fn(f64) -> String,
    worse: bool,
}

impl Change {
    fn percent(&self) -> String {
        match (self.before, self.after) {
            (Some(before), Some(after)) if before.to_bits() == after.to_bits() => "=".to_owned(),
            (Some(before), Some(after)) if before > 0.0 => {
                let percent = (after / before - 1.0) * 100.0;
                let text = if percent.abs() < 1_000.0 {
                    format!("{percent:+.1} %")
                } else {
                    format!("×{}", show::number(after / before))
                };
                text.replace('-', "−")
            }
            _ => String::new(),
        }
    }

    fn cells(&self) -> [String; 2] {
        [self.before, self.after].map(|figure| figure.map_or_else(|| "–".to_owned(), self.show))
    }

    fn sentence(&self) -> String {
        let [before, after] = self.cells();
        let percent = self.percent();
        let percent = if percent.is_empty() { percent } else { format!(" ({percent})") };
        format!("{} from {before} to {after}{percent}", self.label)
    }
}

fn side_by_side(one: &Phase, other: &Phase) -> String {
    let mut rows = vec![["", "A", "B", "change", ""].map(str::to_owned).to_vec()];
    for change in changes(one, other) {
        let [before, after] = change.cells();
        let mark = if change.worse { "WORSE" } else { "" };
        rows.push(vec![change.label.clone(), before, after, change.percent(), mark.to_owned()]);
    }
    show::grid("  ", &rows)
}

/// All figures of a phase, in the order of the table.
fn changes(one: &Phase, other: &Phase) -> Vec<Change> {
    let many = show::unit(&one.scenario).1;
    let mut changes = Vec::new();
    let mut push = |label: String, before: Option<f64>, after: Option<f64>, show: fn(f64) -> String, worse: bool| {
        if before.is_some() || after.is_some() {
            changes.push(Change { label, before, after, show, worse });
        }
    };

    let rate = |count: fn(&Phase) -> u64| [one, other].map(|phase| ratio(float(count(phase)), phase.seconds));
    let [due, due_after] = rate(|phase| phase.due);
    push(format!("{many} a second, due"), due, due_after, show::number, false);
    let [done, done_after] = rate(|phase| phase.done);
    let kept = [one, other].map(|phase| ratio(float(phase.done), float(phase.due)));
    let fell = |[before, after]: [Option<f64>; 2], by: f64| matches!((before, after), (Some(before), Some(after)) if after < before - by);
    let less = fell([done, done_after], done.unwrap_or(0.0) * THRESHOLD)
        && beyond_noise(one, other, |s| s.done > 0, |s| float(s.done));
    // Less was done because less was due: that is the plan's doing.
    let less = less && !fell([due, due_after], due.unwrap_or(0.0) * THRESHOLD);
    push(format!("{many} a second, done"), done, done_after, show::number, less);
    push("done of what was due".to_owned(), kept[0], kept[1], show::percent, fell(kept, KEPT_UP));

    let broken = |phase: &Phase| {
        let messages = &phase.messages;
        let broken = messages.lost + messages.twice + messages.out_of_order + messages.to_a_stranger + messages.altered;
        float(broken + phase.cap.exceeded)
    };
    let [before, after] = [one, other].map(broken);
    push("promises broken".to_owned(), Some(before), Some(after), show::number, after > before);
    let failed = |phase: &Phase| phase.errors.values().sum::<u64>();
    let [before, after] = [one, other].map(failed);
    // As many as are due to chance grow with what was tried.
    let scale = ratio(float(other.due), float(one.due)).unwrap_or(1.0);
    let expected = float(before) * scale;
    let chance = BEYOND * (float(after) + expected * scale.max(1.0)).sqrt();
    let more = float(after) > expected * (1.0 + THRESHOLD) && float(after) - expected > chance.min(float(after) * 0.9);
    push("errors".to_owned(), Some(float(before)), Some(float(after)), show::number, more);

    let name = subject(one).0;
    for (kind, of) in KINDS {
        let [before, after] = [one, other].map(of);
        for (percentile, read) in PERCENTILES {
            let [x, y] = [before, after].map(|of| (of.count > 0).then(|| float(read(of))));
            let noisy = || {
                !beyond_noise(
                    one,
                    other,
                    |second| second.latency.count >= ENOUGH,
                    |second| float(read(&second.latency)),
                )
            };
            let judged = percentile != "max" && kind != "lateness";
            let slower =
                judged && grew(x, y) && y.zip(x).is_some_and(|(y, x)| y - x > GRAIN) && !(kind == name && noisy());
            push(format!("{kind} {percentile}"), x, y, show::micros, slower);
        }
    }

    let costs = [one, other].map(|phase| Costs::of(phase).unwrap_or_default());
    let mut cost = |label: &str, read: fn(&Costs) -> Option<f64>, show: fn(f64) -> String, judged: bool| {
        let [before, after] = costs.each_ref().map(read);
        push(label.to_owned(), before, after, show, judged && grew(before, after));
    };
    cost(&format!("CPU a {} done", show::unit(&one.scenario).0), |costs| costs.cpu_us_a_unit, show::micros, true);
    cost("CPU a message relayed", |costs| costs.cpu_us_a_message.map(|cost| cost.value), show::micros, true);
    cost("CPU a join", |costs| costs.cpu_us_a_join.map(|cost| cost.value), show::micros, true);
    let thousand = |costs: &Costs| costs.cpu_ms_a_thousand_sockets.map(|cost| cost.value * 1e3);
    cost("CPU a second and 1,000 sockets", thousand, show::micros, true);
    cost("memory a socket", |costs| costs.memory_bytes_a_socket, show::bytes, true);
    cost("messages within a node", |costs| costs.local_share, show::percent, false);
    cost("Redis requests a message", |costs| costs.redis_requests_a_message, show::number, true);
    cost("Redis requests a join", |costs| costs.redis_requests_a_join, show::number, true);
    let [before, after] = [one, other].map(|phase| Some(phase.generator.cpu_seconds));
    push("generator's CPU, s".to_owned(), before, after, show::number, false);
    changes
}

type Kind = (&'static str, fn(&Phase) -> &Distribution);
const KINDS: [Kind; 5] = [
    ("latency", |phase| &phase.latency),
    ("connect", |phase| &phase.connect),
    ("join", |phase| &phase.join),
    ("set-up", |phase| &phase.setup),
    ("lateness", |phase| &phase.lateness),
];
type Read = (&'static str, fn(&Distribution) -> u64);
const PERCENTILES: [Read; 3] = [("p50", |of| of.p50), ("p99", |of| of.p99), ("max", |of| of.max)];

fn grew(before: Option<f64>, after: Option<f64>) -> bool {
    matches!((before, after), (Some(before), Some(after)) if after > before * (1.0 + THRESHOLD) && after > 0.0)
}

/// Whether the means over the parts of the two runs lie further apart than the parts' own differences explain. Without
/// enough parts nothing is known of the noise, and the threshold alone has to do.
fn beyond_noise(one: &Phase, other: &Phase, counts: fn(&Second) -> bool, read: impl Fn(&Second) -> f64) -> bool {
    let seen = [one, other]
        .map(|phase| parts(&phase.timeline).iter().filter(|part| counts(part)).map(&read).collect::<Vec<_>>());
    let [Some((mean, error)), Some((mean_after, error_after))] = seen.map(|values| spread(&values)) else {
        return true;
    };
    (mean - mean_after).abs() > BEYOND * error.hypot(error_after)
}

/// A run in at most so many parts; what is left over at the end is left out.
fn parts(timeline: &[Second]) -> Vec<Second> {
    let size = (timeline.len() / PARTS).max(1);
    let together = |seconds: &[Second]| {
        seconds.iter().skip(1).fold(seconds[0].clone(), |mut all, second| {
            all.done += second.done;
            // One that cannot be read leaves the part as it is.
            if let Ok(merged) = all.latency.merged(&second.latency) {
                all.latency = merged;
            }
            all
        })
    };
    timeline.chunks_exact(size).map(together).collect()
}

/// The mean and its standard error; none of fewer than five values.
fn spread(values: &[f64]) -> Option<(f64, f64)> {
    let count = float(values.len() as u64);
    if count < 5.0 {
        return None;
    }
    let mean = values.iter().sum::<f64>() / count;
    let variance = values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / (count - 1.0);
    Some((mean, (variance / count).sqrt()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::sample;

    /// A phase of twenty seconds around these medians.
    fn report(medians: &[f64]) -> Report {
        let mut report = sample::report();
        let mut phase = report.phases.remove(1);
        phase.timeline = medians
            .iter()
            .enumerate()
            .map(|(at, median)| Second {
                at: u32::try_from(at).unwrap(),
                due: 100,
                done: 100,
                latency: sample::distribution(at as u64 + 1, 300, *median),
                ..Second::default()
            })
            .collect();
        phase.latency = Distribution::default();
        for second in &phase.timeline {
            phase.latency = phase.latency.merged(&second.latency).unwrap();
        }
        (phase.done, phase.due, phase.seconds) = (2_000, 2_000, 20.0);
        report.phases = vec![phase];
        report
    }

    #[test]
    fn the_same_is_not_worse() {
        let report = sample::report();
        let text = compare(&report, &report);
        assert!(text.starts_with("Nothing got worse."), "{text}");
        assert!(!text.contains("CAUTION") && !text.contains("WORSE"), "{text}");
        assert!(text.contains("latency p99") && text.contains("memory a socket"), "{text}");
    }

    #[test]
    fn latency_that_grew_is_worse_and_the_other_way_round_is_not() {
        let (a, b) = (report(&[100.0; 20]), report(&[150.0; 20]));
        let worse = super::worse(&a, &b);
        for percentile in ["p50", "p99"] {
            let told = worse.iter().any(|line| line.starts_with(&format!("messages: latency {percentile} from ")));
            assert!(told, "{percentile}: {worse:?}");
        }
        assert!(super::worse(&b, &a).is_empty(), "{:?}", super::worse(&b, &a));
        let text = compare(&a, &b);
        assert!(text.starts_with("Worse in B:") && text.contains("WORSE"), "{text}");
    }

    #[test]
    fn what_varies_by_itself_is_not_worse() {
        let calm = report(&[100.0; 20]);
        let wild: Vec<_> = (0..20).map(|at| if at / 2 % 2 == 0 { 20.0 } else { 230.0 }).collect();
        let wild = report(&wild);
        let shifted: Vec<_> = (0..20).map(|at| if at / 2 % 2 == 0 { 24.0 } else { 276.0 }).collect();
        let shifted = report(&shifted);
        let p50 = |a: &Report, b: &Report| super::worse(a, b).iter().any(|line| line.contains("latency p50"));
        assert!(!p50(&wild, &shifted), "a fifth more, of what varies tenfold");
        assert!(p50(&calm, &report(&[120.0; 20])), "a fifth more, of what is calm");
        assert!(!p50(&calm, &report(&[105.0; 20])), "a twentieth more");
    }

    #[test]
    fn what_is_not_done_any_more_is_worse() {
        let a = report(&[100.0; 20]);
        let mut b = a.clone();
        b.phases[0].done = 1_950;
        let worse = super::worse(&a, &b);
        assert_eq!(worse.len(), 1, "{worse:?}");
        assert!(worse[0].contains("done of what was due from 100.0 % to 97.5 %"), "{worse:?}");
    }

    #[test]
    fn errors_count_when_chance_does_not_explain_them() {
        let a = report(&[100.0; 20]);
        let with = |errors: u64| {
            let mut b = a.clone();
            b.phases[0].errors = [("timeout".to_owned(), errors)].into();
            b
        };
        let more = |a: &Report, b: &Report| super::worse(a, b).iter().any(|line| line.contains("errors from"));
        assert!(more(&with(0), &with(3)), "the first errors count");
        assert!(!more(&with(100), &with(115)));
        assert!(more(&with(100), &with(200)));
        assert!(!more(&with(200), &with(100)));
    }

    #[test]
    fn broken_promises_cpu_and_memory_are_worse() {
        let a = sample::report();
        let mut b = a.clone();
        b.phases[1].messages.lost = 1;
        b.phases[1].nodes[0].cpu_seconds *= 2.0;
        b.phases[0].nodes.iter_mut().for_each(|node| node.memory_after_bytes += 20 << 20);
        b.verdict.broken.push("messages: 1 was lost".to_owned());
        let worse = super::worse(&a, &b);
        for part in [
            "promises broken from 0 to 1",
            "CPU a message relayed",
            "CPU a message done",
            "memory a socket",
            "a promise was broken: messages",
        ] {
            assert!(worse.iter().any(|line| line.contains(part)), "{part} is missing in {worse:?}");
        }
        assert!(super::worse(&b, &a).is_empty());
    }

    #[test]
    fn plans_that_differ_are_told_first() {
        let a = sample::report();
        let mut b = a.clone();
        b.plan.seed = 9;
        b.plan.phases[1].rate = 9_000.0;
        b.plan.phases[2].name = "other".to_owned();
        b.phases[2].name = "other".to_owned();
        b.machine.cores = 64;
        b.interrupted = true;
        let text = compare(&a, &b);
        assert!(
            text.starts_with(
                "CAUTION: the plans differ (seed, phase messages, phase calls is in A alone, phase other is in B"
            ),
            "{text}"
        );
        assert!(text.contains("the machines differ") && text.contains("B was broken off"), "{text}");
        assert!(text.contains("calls: it is missing in B") && text.contains("in B alone"), "{text}");
    }
}
