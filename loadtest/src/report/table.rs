//! A report as text for a terminal: a part a phase, and what to make of it at the end.

use super::costs::Costs;
use super::show::{self, float, list, put, ratio};
use super::{Distribution, Phase, Report};

/// The whole report, lines of at most 110 characters unless names are long.
#[must_use]
pub fn render(report: &Report) -> String {
    let mut text = String::new();
    put!(text, "{}\n{}\n", head(report), report.machine);
    for phase in &report.phases {
        text.push('\n');
        render_phase(&mut text, phase);
    }
    text.push('\n');
    for sentence in verdict(report) {
        put!(text, "{sentence}\n");
    }
    text
}

/// When, by what and how much of a plan.
#[must_use]
pub fn head(report: &Report) -> String {
    let mut head = format!(
        "loadtest {}, {}, {}, seed {}",
        report.version,
        show::time(report.started),
        show::plural(report.phases.len() as u64, "phase"),
        report.plan.seed
    );
    if report.of_shards > 1 {
        let noun = if report.shards.len() == 1 { "shard" } else { "shards" };
        put!(head, ", {noun} {} of {}", list(&report.shards), report.of_shards);
    }
    head
}

/// What to make of the report, in sentences.
#[must_use]
pub fn verdict(report: &Report) -> Vec<String> {
    let verdict = &report.verdict;
    let mut sentences = Vec::new();
    if report.interrupted && !verdict.unsound.iter().any(|reason| reason.contains("broken off")) {
        sentences.push("The run was broken off before its end: the figures are of what it did until then.".to_owned());
    }
    for broken in &verdict.broken {
        sentences.push(format!("BROKEN: {}", sentence(broken)));
    }
    for unsound in &verdict.unsound {
        sentences.push(format!("UNSOUND: {}", sentence(unsound)));
    }
    sentences.push(
        match (verdict.broken.is_empty(), verdict.unsound.is_empty()) {
            (true, true) => "The server did what it promises, and the figures are about the server.",
            (true, false) => {
                "No promise was seen broken, but the figures do not tell about the server alone: do not use them."
            }
            (false, true) => "The server did not do what it promises.",
            (false, false) => "The server did not do what it promises; and the figures do not tell about it alone.",
        }
        .to_owned(),
    );
    sentences
}

fn sentence(text: &str) -> String {
    if text.ends_with(['.', '!', '?']) { text.to_owned() } else { format!("{text}.") }
}

/// The kinds of durations that a phase has, each with its name.
#[must_use]
pub fn distributions(phase: &Phase) -> Vec<(&'static str, &Distribution)> {
    let all = [
        ("latency", &phase.latency),
        ("connect", &phase.connect),
        ("join", &phase.join),
        ("set-up", &phase.setup),
        ("lateness", &phase.lateness),
    ];
    all.into_iter().filter(|(_, distribution)| distribution.count > 0).collect()
}

/// What a phase is about: the durations that its timeline is of, with their name.
#[must_use]
pub fn subject(phase: &Phase) -> (&'static str, &Distribution) {
    match phase.scenario.as_str() {
        "churn" | "race" | "hold" => ("join", &phase.join),
        "call" | "storm" => ("set-up", &phase.setup),
        _ => ("latency", &phase.latency),
    }
}

/// What became of the messages, in a line; none if none was sent.
#[must_use]
pub fn account(phase: &Phase) -> Option<String> {
    let messages = &phase.messages;
    if *messages == super::Messages::default() {
        return None;
    }
    let mut line = format!("{} sent, {} delivered", show::count(messages.sent), show::count(messages.delivered));
    for (number, what) in [
        (messages.lost, "lost"),
        (messages.twice, "twice"),
        (messages.out_of_order, "out of order"),
        (messages.to_a_stranger, "to a stranger"),
        (messages.altered, "altered"),
    ] {
        put!(line, ", {} {what}", show::count(number));
    }
    let open = messages.sent.saturating_sub(messages.delivered + messages.lost);
    if open > 0 {
        put!(line, "; {} to peers that had left", show::count(open));
    }
    if let Some(mean) = ratio(float(messages.bytes), float(messages.sent)) {
        put!(line, "; {} bytes each", show::number(mean));
    }
    Some(line)
}

/// What failed, the most frequent first, in a line.
#[must_use]
pub fn errors(phase: &Phase) -> String {
    let mut errors: Vec<_> = phase.errors.iter().filter(|(_, count)| **count > 0).collect();
    errors.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
    if errors.is_empty() {
        return "none".to_owned();
    }
    errors.iter().map(|(code, number)| format!("{} × {code}", show::count(**number))).collect::<Vec<_>>().join(", ")
}

/// What the two-peer cap did, in a line.
#[must_use]
pub fn cap(phase: &Phase) -> Option<String> {
    (phase.cap.tried > 0).then(|| {
        format!(
            "{} to get a third into a room, {} rooms with more than two",
            show::plural(phase.cap.tried, "attempt"),
            show::count(phase.cap.exceeded)
        )
    })
}

/// What the generator used, in a line.
#[must_use]
pub fn generator(phase: &Phase) -> String {
    let mut line = format!("{} s CPU", show::number(phase.generator.cpu_seconds));
    if let Some(cores) = ratio(phase.generator.cpu_seconds, phase.seconds) {
        put!(line, " ({cores:.2} cores)");
    }
    put!(line, ", {} memory", show::bytes(float(phase.generator.memory_bytes)));
    if phase.lateness.count > 0 {
        let late = &phase.lateness;
        put!(line, ", late by {} (p50), {} (p99)", show::duration(late.p50), show::duration(late.p99));
    }
    line
}

/// The nodes side by side, with a head; empty without readings.
#[must_use]
pub fn nodes(phase: &Phase) -> Vec<Vec<String>> {
    if phase.nodes.is_empty() {
        return Vec::new();
    }
    let head = ["node", "CPU s", "cores", "memory", "grown", "sockets", "joins", "local", "remote", "Redis"];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    for node in &phase.nodes {
        let grown = float(node.memory_after_bytes) - float(node.memory_before_bytes);
        rows.push(vec![
            show::node(&node.url),
            show::number(node.cpu_seconds),
            ratio(node.cpu_seconds, phase.seconds).map(|cores| format!("{cores:.2}")).unwrap_or_default(),
            show::bytes(float(node.memory_after_bytes)),
            show::bytes(grown),
            show::count(node.sockets),
            show::count(node.joins),
            show::count(node.local_relays),
            show::count(node.remote_relays),
            show::count(node.redis_requests),
        ]);
    }
    rows
}

fn render_phase(text: &mut String, phase: &Phase) {
    let (one, many) = show::unit(&phase.scenario);
    put!(
        *text,
        "── {} ({}, {} s, {} in {})\n",
        phase.name,
        phase.scenario,
        show::number(phase.seconds),
        show::plural(phase.sockets, "socket"),
        show::plural(phase.rooms, "room")
    );
    let mut lines = Vec::new();
    let mut line = |label: &str, value: String| lines.push(vec![label.to_owned(), value]);
    if matches!(phase.scenario.as_str(), "hold" | "storm") {
        line("done", format!("{} of {} {many}", show::count(phase.done), show::count(phase.due)));
    } else {
        let second = |count: u64| ratio(float(count), phase.seconds).map_or_else(String::new, show::number);
        let share = ratio(float(phase.done), float(phase.due)).map_or_else(String::new, show::percent);
        line("rate", format!("{} {many} a second of {} requested: {share}", second(phase.done), second(phase.due)));
    }
    if let Some(account) = account(phase) {
        line("messages", account);
    }
    if let Some(cap) = cap(phase) {
        line("cap", cap);
    }
    line("errors", errors(phase));
    line("generator", generator(phase));
    put!(*text, "{}", left(&lines));

    let distributions = distributions(phase);
    if !distributions.is_empty() {
        let head = ["", "count", "p50", "p90", "p99", "p99.9", "max"];
        let mut rows = vec![head.map(str::to_owned).to_vec()];
        for (name, of) in distributions {
            let mut row = vec![name.to_owned(), show::count(of.count)];
            row.extend([of.p50, of.p90, of.p99, of.p999, of.max].map(show::duration));
            rows.push(row);
        }
        put!(*text, "\n{}", show::grid("  ", &rows));
    }
    let Some(costs) = Costs::of(phase) else {
        put!(*text, "\n  The server's side is not known: its metrics were not read (--metrics).\n");
        return;
    };
    put!(*text, "\n{}", show::grid("  ", &nodes(phase)));
    let rows: Vec<_> = costs.rows(one).into_iter().map(|(label, figure)| vec![label, figure]).collect();
    put!(*text, "\n{}", left(&rows));
    if let Some(note) = costs.note {
        put!(*text, "  ({note})\n");
    }
}

/// Labels and values, both to the left.
fn left(rows: &[Vec<String>]) -> String {
    let width = rows.iter().filter_map(|row| row.first()).map(|label| label.chars().count()).max().unwrap_or(0);
    let mut text = String::new();
    for row in rows {
        if let [label, value] = row.as_slice() {
            put!(text, "  {label:<width$}   {value}\n");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::sample;

    #[test]
    fn a_phase_is_told_from_all_sides() {
        let text = render(&sample::report());
        for part in [
            "── messages (pairs, 90.0 s, 4,000 sockets in 2,000 rooms)",
            "messages a second of ",
            "11 × peer_too_slow, 8 × timeout",
            "lost, 0 twice",
            "90 attempts to get a third into a room, 0 rooms with more than two",
            "p99.9",
            "10.0.0.2:9090",
            "CPU a message",
            "memory a socket",
            "messages within a node",
            "cannot be split",
            "The server did what it promises",
        ] {
            assert!(text.contains(part), "{part:?} is missing in\n{text}");
        }
    }

    #[test]
    fn an_account_that_does_not_add_up_says_so() {
        let mut phase = sample::phase("one", "pairs");
        assert_eq!(account(&phase), None);
        phase.messages.sent = 100;
        phase.messages.delivered = 90;
        phase.messages.lost = 3;
        let line = account(&phase).unwrap();
        assert!(line.contains("3 lost") && line.contains("7 to peers that had left"), "{line}");
    }

    #[test]
    fn a_verdict_is_told_in_sentences() {
        let mut report = sample::report();
        assert_eq!(verdict(&report).len(), 1);
        report.interrupted = true;
        report.verdict.broken.push("pairs: 3 messages were lost".to_owned());
        report.verdict.unsound.push("the generator was late".to_owned());
        let sentences = verdict(&report);
        assert_eq!(sentences[1], "BROKEN: pairs: 3 messages were lost.");
        assert_eq!(sentences[2], "UNSOUND: the generator was late.");
        assert!(sentences[0].contains("broken off") && sentences[3].contains("did not do"), "{sentences:?}");
    }

    #[test]
    fn a_phase_without_readings_says_that_they_are_missing() {
        let mut report = sample::report();
        report.phases.truncate(1);
        report.phases[0].nodes.clear();
        let text = render(&report);
        assert!(text.contains("metrics were not read") && !text.contains("memory a socket"), "{text}");
    }
}
