//! A report as one page that needs nothing else: no script, no font, no picture, no network. Plots are drawn here, as SVG; it
//! follows the reader's choice of light or dark. Nothing of the report gets into it unescaped.

use super::costs::Costs;
use super::plot::{Axis, Bar, Hint, Lines, Series, bars, clock, escape};
use super::show::{self, float, put, ratio};
use super::table::{self, account, cap, distributions, errors, generator, head, subject};
use super::{Distribution, Phase, Report, Second};

/// At most so many points a line: a longer run has several seconds in one.
const POINTS: usize = 240;
/// Durations on the page have these classes.
const CLASSES: [(&str, &str); 5] =
    [("latency", "c1"), ("connect", "c3"), ("join", "c2"), ("set-up", "c1"), ("lateness", "c5")];

/// The page.
#[must_use]
pub fn page(report: &Report) -> String {
    let title = format!("Load test of {}", show::time(report.started));
    let mut page = String::new();
    put!(
        page,
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n<title>{}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n",
        escape(&title)
    );
    put!(page, "<header>\n<h1>{}</h1>\n", escape(&title));
    put!(page, "<p class=\"quiet\">{}<br>{}</p>\n", escape(&head(report)), escape(&report.machine.to_string()));
    put!(page, "{}", verdict(report));
    put!(page, "</header>\n<main>\n{}", overview(report));
    for (at, phase) in report.phases.iter().enumerate() {
        put!(page, "{}", section(at, phase));
    }
    let plan = serde_json::to_string_pretty(&report.plan).unwrap_or_default();
    put!(page, "<details><summary>The plan, as it was asked for</summary>\n<pre>{}</pre></details>\n", escape(&plan));
    page.push_str("</main>\n</body>\n</html>\n");
    page
}

fn verdict(report: &Report) -> String {
    let class = if !report.verdict.broken.is_empty() {
        "bad"
    } else if report.verdict.is_good() && !report.interrupted {
        "good"
    } else {
        "doubtful"
    };
    let mark = match class {
        "good" => "✓",
        "bad" => "✗",
        _ => "!",
    };
    let mut html =
        format!("<div class=\"verdict {class}\" role=\"status\"><span aria-hidden=\"true\">{mark}</span><div>");
    for sentence in table::verdict(report) {
        put!(html, "<p>{}</p>", escape(&sentence));
    }
    html.push_str("</div></div>\n");
    html
}

/// All phases, a line each.
fn overview(report: &Report) -> String {
    let mut rows = Vec::new();
    for (at, phase) in report.phases.iter().enumerate() {
        let (what, distribution) = subject(phase);
        let failed = phase.errors.values().sum::<u64>();
        let per_second = |count: u64| ratio(float(count), phase.seconds).map_or_else(String::new, show::number);
        let rated = !matches!(phase.scenario.as_str(), "hold" | "storm");
        let (due, done) = if rated {
            (format!("{}/s", per_second(phase.due)), format!("{}/s", per_second(phase.done)))
        } else {
            (show::count(phase.due), show::count(phase.done))
        };
        let of = |value: u64| if distribution.count > 0 { show::duration(value) } else { "–".to_owned() };
        rows.push(vec![
            format!("<a href=\"#phase-{at}\">{}</a>", escape(&phase.name)),
            escape(&phase.scenario),
            clock(phase.seconds),
            due,
            done,
            what.to_owned(),
            of(distribution.p50),
            of(distribution.p99),
            of(distribution.max),
            show::count(failed),
        ]);
    }
    let head = ["phase", "scenario", "time", "due", "done", "of", "p50", "p99", "max", "errors"];
    html_table("All phases", &head, &rows, 2)
}

/// A table; cells are HTML already. The first `names` columns are words.
fn html_table(caption: &str, head: &[&str], rows: &[Vec<String>], names: usize) -> String {
    let mut html = format!(
        "<div class=\"wide\" tabindex=\"0\" role=\"group\" aria-label=\"{0}\"><table><caption>{0}</caption><thead><tr>",
        escape(caption)
    );
    let class = |column: usize| if column < names { "" } else { " class=\"n\"" };
    for (column, cell) in head.iter().enumerate() {
        put!(html, "<th scope=\"col\"{}>{}</th>", class(column), escape(cell));
    }
    html.push_str("</tr></thead><tbody>");
    for row in rows {
        html.push_str("<tr>");
        for (column, cell) in row.iter().enumerate() {
            if column == 0 {
                put!(html, "<th scope=\"row\">{cell}</th>");
            } else {
                put!(html, "<td{}>{cell}</td>", class(column));
            }
        }
        html.push_str("</tr>");
    }
    html.push_str("</tbody></table></div>\n");
    html
}

fn section(at: usize, phase: &Phase) -> String {
    let (one, many) = show::unit(&phase.scenario);
    let mut html = format!(
        "<section id=\"phase-{at}\">\n<h2>{} <small>{}, {}, {} in {}</small></h2>\n",
        escape(&phase.name),
        escape(&phase.scenario),
        clock(phase.seconds),
        show::plural(phase.sockets, "socket"),
        show::plural(phase.rooms, "room")
    );
    html.push_str("<dl>");
    let mut fact = |label: &str, value: &str| {
        put!(html, "<div><dt>{}</dt><dd>{}</dd></div>", escape(label), escape(value));
    };
    let share = ratio(float(phase.done), float(phase.due))
        .map_or_else(String::new, |share| format!(" ({})", show::percent(share)));
    fact("done", &format!("{} of {} {many}{share}", show::count(phase.done), show::count(phase.due)));
    if let Some(account) = account(phase) {
        fact("messages", &account);
    }
    if let Some(cap) = cap(phase) {
        fact("two-peer cap", &cap);
    }
    fact("errors", &errors(phase));
    fact("generator", &generator(phase));
    html.push_str("</dl>\n<div class=\"plots\">\n");
    let seconds = groups(&phase.timeline);
    for figure in [
        over_time(phase, &seconds),
        percentiles(phase),
        cumulative(phase),
        throughput(phase, &seconds),
        failures(&seconds),
        sockets(&seconds),
    ] {
        html.push_str(&figure.unwrap_or_default());
    }
    html.push_str("</div>\n");
    let rows: Vec<_> = distributions(phase)
        .into_iter()
        .map(|(name, of)| {
            let mut row = vec![name.to_owned(), show::count(of.count)];
            row.push(show::micros(of.mean));
            row.extend([of.p50, of.p90, of.p99, of.p999, of.max].map(show::duration));
            row
        })
        .collect();
    if !rows.is_empty() {
        let head = ["", "count", "mean", "p50", "p90", "p99", "p99.9", "max"];
        html.push_str(&html_table("Durations", &head, &rows, 1));
    }
    html.push_str(&servers_side(phase, one));
    html.push_str("</section>\n");
    html
}

/// The nodes: what they used, and what that makes for one of what they did.
fn servers_side(phase: &Phase, unit: &str) -> String {
    let Some(costs) = Costs::of(phase) else {
        return "<p class=\"quiet\">The server's side is not known: its metrics were not read.</p>\n".to_owned();
    };
    let mut html = "<h3>The server's side</h3>\n<div class=\"plots\">\n".to_owned();
    html.push_str(&memory(phase).unwrap_or_default());
    let bar = |name: &str, value: f64, class: &str, figure: String| Bar {
        name: name.to_owned(),
        parts: vec![(class.to_owned(), value, format!("{name}: {figure}"))],
        figure,
    };
    let each = |draw: &dyn Fn(&super::Node) -> Bar| phase.nodes.iter().map(draw).collect::<Vec<_>>();
    let cpu = each(&|node| {
        bar(&show::node(&node.url), node.cpu_seconds, "c1", format!("{} s", show::number(node.cpu_seconds)))
    });
    html.push_str(&figure("CPU time by node", &[], &bars("CPU time by node", &cpu)));
    let memory = each(&|node| {
        let after = float(node.memory_after_bytes);
        let before = float(node.memory_before_bytes).min(after);
        Bar {
            name: show::node(&node.url),
            parts: vec![
                ("c5".to_owned(), before, format!("{} before", show::bytes(before))),
                ("c1".to_owned(), after - before, format!("{} more at the end", show::bytes(after - before))),
            ],
            figure: show::bytes(after),
        }
    });
    html.push_str(&figure(
        "Memory by node",
        &[("c5", "before"), ("c1", "more at the end")],
        &bars("Memory by node", &memory),
    ));
    if phase.nodes.iter().any(|node| node.local_relays + node.remote_relays > 0) {
        let relays = each(&|node| Bar {
            name: show::node(&node.url),
            parts: vec![
                (
                    "c1".to_owned(),
                    float(node.local_relays),
                    format!("{} within the node", show::count(node.local_relays)),
                ),
                (
                    "c2".to_owned(),
                    float(node.remote_relays),
                    format!("{} to other nodes", show::count(node.remote_relays)),
                ),
            ],
            figure: show::count(node.local_relays + node.remote_relays),
        });
        let legend = [("c1", "within the node"), ("c2", "to other nodes")];
        html.push_str(&figure("Messages by node", &legend, &bars("Messages by node", &relays)));
    }
    html.push_str("</div>\n");
    let rows: Vec<_> =
        costs.rows(unit).into_iter().map(|(label, value)| vec![escape(&label), escape(&value)]).collect();
    if !rows.is_empty() {
        html.push_str(&html_table("Costs", &["", "all nodes"], &rows, 1));
    }
    if let Some(note) = costs.note {
        put!(html, "<p class=\"quiet\">{}.</p>\n", escape(note));
    }
    let mut rows = table::nodes(phase);
    if !rows.is_empty() {
        let head = rows.remove(0);
        let head: Vec<_> = head.iter().map(String::as_str).collect();
        let cells: Vec<Vec<_>> = rows.iter().map(|row| row.iter().map(|cell| escape(cell)).collect()).collect();
        html.push_str(&html_table("Nodes", &head, &cells, 1));
    }
    html
}

fn figure(title: &str, legend: &[(&str, &str)], svg: &str) -> String {
    let mut html = format!("<figure><figcaption>{}", escape(title));
    if !legend.is_empty() {
        html.push_str("<span class=\"legend\">");
        for (class, name) in legend {
            put!(
                html,
                "<span><svg viewBox=\"0 0 22 10\" aria-hidden=\"true\"><path class=\"line {}\" d=\"M0 5H22\"/></svg>{}</span>",
                escape(class),
                escape(name)
            );
        }
        html.push_str("</span>");
    }
    put!(html, "</figcaption>{svg}</figure>\n");
    html
}

/// Neighbouring seconds as one, so that there are not too many: from, to (exclusive), what was in them.
fn groups(timeline: &[Second]) -> Vec<(f64, f64, Second)> {
    let size = timeline.len().div_ceil(POINTS).max(1);
    let together = |seconds: &[Second]| {
        let (first, rest) = seconds.split_first()?;
        let mut all = first.clone();
        for second in rest {
            all.due += second.due;
            all.done += second.done;
            all.errors += second.errors;
            all.sockets = second.sockets;
            // One that cannot be read is left out of the plot; the tables have what the report says.
            if let Ok(merged) = all.latency.merged(&second.latency) {
                all.latency = merged;
            }
        }
        let end = rest.last().map_or(first.at, |last| last.at);
        Some((f64::from(first.at), f64::from(end) + 1.0, all))
    };
    timeline.chunks(size).filter_map(together).collect()
}

fn span(from: f64, to: f64) -> String {
    if to - from > 1.0 { format!("{} to {}", clock(from), clock(to)) } else { clock(from) }
}

fn end(groups: &[(f64, f64, Second)]) -> f64 {
    groups.last().map_or(1.0, |(_, to, _)| *to)
}

fn hints(groups: &[(f64, f64, Second)], tell: impl Fn(&Second, f64) -> String) -> Vec<Hint> {
    groups
        .iter()
        .map(|(from, to, second)| (*from, *to, format!("{}: {}", span(*from, *to), tell(second, to - from))))
        .collect()
}

fn series(name: &str, class: &str, points: Vec<(f64, Option<f64>)>) -> Series {
    Series { name: name.to_owned(), class: class.to_owned(), points, filled: false }
}

fn over_time(phase: &Phase, groups: &[(f64, f64, Second)]) -> Option<String> {
    let measured: Vec<_> = groups.iter().map(|(_, _, second)| &second.latency).filter(|of| of.count > 0).collect();
    let least = measured.iter().map(|of| of.p50).min()?;
    let most = measured.iter().map(|of| of.max).max()?;
    let line = |of: fn(&Distribution) -> u64| {
        let point = |(from, to, second): &(f64, f64, Second)| {
            (f64::midpoint(*from, *to), (second.latency.count > 0).then(|| float(of(&second.latency))))
        };
        groups.iter().map(point).collect::<Vec<_>>()
    };
    let name = subject(phase).0;
    let name = if name == "join" {
        "Join"
    } else if name == "set-up" {
        "Set-up"
    } else {
        "Latency"
    };
    let svg = Lines {
        label: format!("{name} by second, p50, p99 and maximum, on a logarithmic scale"),
        x: Axis::seconds(end(groups)),
        y: Axis::log(float(least), float(most), tick),
        series: vec![
            series("maximum", "c4 dotted", line(|of| of.max)),
            series("p99", "c2 dashed", line(|of| of.p99)),
            series("p50", "c1", line(|of| of.p50)),
        ],
        hints: hints(groups, |second, _| {
            let of = &second.latency;
            if of.count == 0 {
                return "nothing measured".to_owned();
            }
            let [p50, p99, max] = [of.p50, of.p99, of.max].map(show::duration);
            format!("p50 {p50}, p99 {p99}, maximum {max}")
        }),
    }
    .svg();
    let legend = [("c1", "p50"), ("c2 dashed", "p99"), ("c4 dotted", "maximum")];
    Some(figure(&format!("{name} over time"), &legend, &svg))
}

/// Ticks are round: no digits behind the point.
fn tick(micros: f64) -> String {
    match micros {
        _ if micros < 1e3 => format!("{micros:.0} µs"),
        _ if micros < 1e6 => format!("{:.0} ms", micros / 1e3),
        _ => format!("{:.0} s", micros / 1e6),
    }
}

/// Each value and the share of all that is not above it, thinned out to what can be seen.
fn steps(distribution: &Distribution) -> Vec<(f64, f64)> {
    let Ok(Some(histogram)) = distribution.histogram() else {
        return Vec::new();
    };
    let (total, mut below) = (float(histogram.len()), 0);
    let mut steps: Vec<(f64, f64)> = Vec::new();
    for value in histogram.iter_recorded() {
        below += value.count_at_value();
        let (micros, share) = (float(value.value_iterated_to()).max(1.0), float(below) / total);
        // Between two that are drawn: a hundredth in the value, or in what is left above it.
        let seen = steps.last().is_none_or(|(last, before)| {
            micros > last * 1.01 && (share - before > 0.004 || (1.0 - share) < (1.0 - before) * 0.9)
        });
        if seen || below == histogram.len() {
            steps.push((micros, share));
        }
    }
    steps
}

struct Curve {
    name: &'static str,
    class: &'static str,
    steps: Vec<(f64, f64)>,
}

/// Of the phase's durations, the generator's own left out; the subject last, so that it is on top.
fn curves(phase: &Phase) -> Vec<Curve> {
    let own = subject(phase).0;
    let mut curves: Vec<_> = distributions(phase)
        .into_iter()
        .filter(|(name, _)| *name != "lateness")
        .map(|(name, of)| {
            let known = CLASSES.iter().find(|(known, _)| *known == name).map_or("c1", |(_, class)| class);
            // Of two that share a colour, the subject keeps it.
            let class = if name == "latency" && own == "set-up" { "c6" } else { known };
            Curve { name, class, steps: steps(of) }
        })
        .filter(|curve| !curve.steps.is_empty())
        .collect();
    curves.sort_by_key(|curve| curve.name == own);
    curves
}

fn percentiles(phase: &Phase) -> Option<String> {
    let curves = curves(phase);
    let least = curves.iter().filter_map(|curve| curve.steps.first()).map(|(value, _)| *value).reduce(f64::min)?;
    let most = curves.iter().filter_map(|curve| curve.steps.last()).map(|(value, _)| *value).reduce(f64::max)?;
    let counts = distributions(phase).into_iter().map(|(_, of)| of.count).max().unwrap_or(1);
    // To the last decade that there are values for.
    let far = float(counts).log10().floor().clamp(2.0, 6.0);
    let end = 10_f64.powf(far);
    let place = |share: f64| if share >= 1.0 { end } else { (1.0 / (1.0 - share)).min(end) };
    let mut ticks = vec![2.0];
    ticks.extend((1..=whole_decades(far)).map(|decade| 10_f64.powi(decade)));
    let drawn = curves.iter().map(|curve| {
        series(
            curve.name,
            curve.class,
            curve.steps.iter().map(|(value, share)| (place(*share), Some(*value))).collect(),
        )
    });
    let svg = Lines {
        label: "Duration by percentile, both on logarithmic scales".to_owned(),
        x: Axis { scale: super::plot::Scale::Log, range: (1.0, end), show: percentile, ticks },
        y: Axis::log(least, most, tick),
        series: drawn.collect(),
        hints: Vec::new(),
    }
    .svg();
    Some(figure("By percentile", &legend(&curves), &svg))
}

fn whole_decades(far: f64) -> i32 {
    (1..=6).filter(|decade| f64::from(*decade) <= far).count().try_into().unwrap_or(6)
}

/// 10 as `90 %`, 1000 as `99.9 %`.
fn percentile(place: f64) -> String {
    let share = 100.0 * (1.0 - 1.0 / place);
    let decimals = usize::from(place > 500.0) + usize::from(place > 5_000.0) + usize::from(place > 50_000.0);
    let decimals = decimals + usize::from(place > 500_000.0);
    format!("{share:.decimals$}%")
}

fn legend(curves: &[Curve]) -> Vec<(&'static str, &'static str)> {
    curves.iter().rev().map(|curve| (curve.class, curve.name)).collect()
}

fn cumulative(phase: &Phase) -> Option<String> {
    let curves = curves(phase);
    let least = curves.iter().filter_map(|curve| curve.steps.first()).map(|(value, _)| *value).reduce(f64::min)?;
    let most = curves.iter().filter_map(|curve| curve.steps.last()).map(|(value, _)| *value).reduce(f64::max)?;
    let drawn = curves.iter().map(|curve| {
        series(
            curve.name,
            curve.class,
            curve.steps.iter().map(|(value, share)| (*value, Some(share * 100.0))).collect(),
        )
    });
    let svg = Lines {
        label: "Share of all that took at most so long".to_owned(),
        x: Axis::log(least, most, tick),
        y: Axis::even(100.0, |share| format!("{share:.0} %")),
        series: drawn.collect(),
        hints: Vec::new(),
    }
    .svg();
    Some(figure("At most so long", &legend(&curves), &svg))
}

fn throughput(phase: &Phase, groups: &[(f64, f64, Second)]) -> Option<String> {
    let rate = |count: u64, from: f64, to: f64| float(count) / (to - from);
    let most = groups.iter().map(|(from, to, s)| rate(s.due.max(s.done), *from, *to)).reduce(f64::max)?;
    if most <= 0.0 {
        return None;
    }
    let line = |of: fn(&Second) -> u64| {
        let point = |(from, to, s): &(f64, f64, Second)| (f64::midpoint(*from, *to), Some(rate(of(s), *from, *to)));
        groups.iter().map(point).collect::<Vec<_>>()
    };
    let many = show::unit(&phase.scenario).1;
    let svg = Lines {
        label: format!("{many} a second: due and done"),
        x: Axis::seconds(end(groups)),
        y: Axis::even(most, show::number),
        series: vec![
            series("due", "c5 broad", line(|second| second.due)),
            series("done", "c1", line(|second| second.done)),
        ],
        hints: hints(groups, |second, wide| {
            let rate = |count: u64| show::number(float(count) / wide);
            format!("{} of {} {many} a second", rate(second.done), rate(second.due))
        }),
    }
    .svg();
    Some(figure(&format!("Throughput, {many} a second"), &[("c1", "done"), ("c5 broad", "due")], &svg))
}

fn failures(groups: &[(f64, f64, Second)]) -> Option<String> {
    let most = groups.iter().map(|(_, _, second)| second.errors).max()?;
    if most == 0 {
        return Some(
            "<figure><figcaption>Errors</figcaption><p class=\"none\">None in any second.</p></figure>\n".to_owned(),
        );
    }
    // Steps: a second is as wide as it is.
    let mut points = Vec::new();
    for (from, to, second) in groups {
        points.extend([(*from, Some(float(second.errors))), (*to, Some(float(second.errors)))]);
    }
    let svg = Lines {
        label: format!("Errors over time, at most {most} at once"),
        x: Axis::seconds(end(groups)),
        y: Axis::even(float(most), whole_or_not),
        series: vec![Series { filled: true, ..series("errors", "c4", points) }],
        hints: hints(groups, |second, _| show::plural(second.errors, "error")),
    }
    .svg();
    Some(figure("Errors", &[], &svg))
}

fn sockets(groups: &[(f64, f64, Second)]) -> Option<String> {
    let most = groups.iter().map(|(_, _, second)| second.sockets).max().filter(|most| *most > 0)?;
    let mut points: Vec<_> = groups.iter().map(|(_, to, second)| (*to, Some(float(second.sockets)))).collect();
    // Before the first second there were as many as a phase begins with: its sockets are there already.
    points.extend(groups.first().map(|(from, _, second)| (*from, Some(float(second.sockets)))));
    points.sort_by(|(one, _), (other, _)| one.total_cmp(other));
    let svg = Lines {
        label: format!("Open sockets over time, at most {}", show::count(most)),
        x: Axis::seconds(end(groups)),
        y: Axis::even(float(most), show::number),
        series: vec![Series { filled: true, ..series("sockets", "c3", points) }],
        hints: hints(groups, |second, _| show::plural(second.sockets, "open socket")),
    }
    .svg();
    Some(figure("Open sockets", &[], &svg))
}

fn memory(phase: &Phase) -> Option<String> {
    let longest = phase.nodes.iter().map(|node| node.memory_timeline.len()).max().filter(|seconds| *seconds > 0)?;
    let most = phase.nodes.iter().flat_map(|node| &node.memory_timeline).max()?;
    let size = longest.div_ceil(POINTS).max(1);
    let dashes = ["", " dashed", " dotted"];
    let class = |at: usize| format!("c{}{}", at % 6 + 1, dashes[at / 6 % dashes.len()]);
    let drawn = phase.nodes.iter().enumerate().map(|(at, node)| {
        let point =
            |(second, bytes): (usize, &u64)| (float(second as u64), (*bytes > 0).then(|| float(*bytes) / 1_048_576.0));
        series(
            &show::node(&node.url),
            &class(at),
            node.memory_timeline.iter().enumerate().step_by(size).map(point).collect(),
        )
    });
    let svg = Lines {
        label: "Resident memory of each node over time, in MiB".to_owned(),
        x: Axis::seconds(float(longest as u64)),
        y: Axis::even(float(*most) / 1_048_576.0, |mib| format!("{} MiB", whole_or_not(mib))),
        series: drawn.collect(),
        hints: Vec::new(),
    }
    .svg();
    let classes: Vec<_> = (0..phase.nodes.len()).map(class).collect();
    // With many, the pointer tells which is which.
    let names: Vec<_> = phase.nodes.iter().map(|node| show::node(&node.url)).collect();
    let legend: Vec<_> = classes.iter().map(String::as_str).zip(names.iter().map(String::as_str)).collect();
    Some(figure("Memory over time", if legend.len() <= 6 { &legend } else { &[] }, &svg))
}

fn whole_or_not(number: f64) -> String {
    if (number - number.round()).abs() < 1e-6 { format!("{number:.0}") } else { format!("{number:.1}") }
}

const STYLE: &str = r":root{color-scheme:light dark;--paper:#fff;--card:#f6f7f9;--ink:#1b1f24;--quiet:#57606a;--rule:#d7dbe0;
--c1:#1f63d0;--c2:#b35900;--c3:#1a7f4b;--c4:#c0262d;--c5:#77808b;--c6:#8250c4;--good:#1a7f4b;--bad:#c0262d;--doubtful:#9a6700}
@media (prefers-color-scheme:dark){:root{--paper:#0f1216;--card:#181c22;--ink:#e8ebef;--quiet:#9aa4af;--rule:#2d343d;
--c1:#6ea8ff;--c2:#f0a355;--c3:#58c98d;--c4:#ff7b7b;--c5:#8b95a1;--c6:#bd93f9;--good:#58c98d;--bad:#ff7b7b;--doubtful:#e3b341}}
*{box-sizing:border-box}
body{margin:0 auto;max-width:76rem;padding:1rem;background:var(--paper);color:var(--ink);font:16px/1.5 system-ui,sans-serif;
overflow-wrap:anywhere}
h1{font-size:1.6rem;margin:.4rem 0;line-height:1.25}
h2{font-size:1.3rem;margin:2.6rem 0 .6rem;padding-top:1rem;border-top:1px solid var(--rule)}
h2 small{font-size:.95rem;font-weight:400;color:var(--quiet)}
h3{font-size:1.05rem;margin:1.6rem 0 .6rem}
.quiet,caption{color:var(--quiet)}
.verdict{display:flex;gap:.8rem;align-items:flex-start;border:1px solid var(--rule);border-left:.4rem solid;border-radius:.4rem;
background:var(--card);padding:.7rem 1rem}
.verdict>span{font-weight:700;font-size:1.2rem;line-height:1.3}
.verdict p{margin:0 0 .2rem;color:var(--ink)}
.good{color:var(--good);border-left-color:var(--good)}
.bad{color:var(--bad);border-left-color:var(--bad)}
.doubtful{color:var(--doubtful);border-left-color:var(--doubtful)}
dl{margin:.4rem 0 1rem}
dl div{display:flex;gap:1rem;padding:.15rem 0}
dt{flex:0 0 7rem;color:var(--quiet)}
dd{margin:0}
.plots{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,27rem),1fr));gap:1rem}
figure{margin:0;padding:.8rem;background:var(--card);border:1px solid var(--rule);border-radius:.4rem;min-width:0}
figcaption{font-weight:600;margin-bottom:.4rem;display:flex;flex-wrap:wrap;gap:.2rem 1rem;justify-content:space-between}
.legend{display:flex;flex-wrap:wrap;gap:0 .9rem;font-weight:400;font-size:.875rem;color:var(--quiet)}
.legend svg{display:inline-block;width:22px;height:10px;margin-right:.35rem}
.none{color:var(--quiet);margin:0}
svg{display:block;width:100%;height:auto}
svg text{font:13.5px system-ui,sans-serif;fill:var(--quiet)}
svg .end{text-anchor:end}
svg .middle{text-anchor:middle}
svg .figure{fill:var(--ink)}
.grid{stroke:var(--rule);stroke-width:1}
.line{fill:none;stroke:currentColor;stroke-width:2;stroke-linejoin:round;stroke-linecap:round}
.area{fill:currentColor;fill-opacity:.28;stroke:currentColor;stroke-width:1.5}
.bar{fill:currentColor}
.broad{stroke-width:6;stroke-opacity:.45}
.dashed{stroke-dasharray:7 4}
.dotted{stroke-dasharray:1.5 4.5}
.hint{fill:transparent}
.hint:hover{fill:var(--quiet);fill-opacity:.18}
.c1{color:var(--c1)}.c2{color:var(--c2)}.c3{color:var(--c3)}.c4{color:var(--c4)}.c5{color:var(--c5)}.c6{color:var(--c6)}
.wide{overflow-x:auto;margin:1rem 0}
table{border-collapse:collapse;font-size:.925rem;font-variant-numeric:tabular-nums}
caption{text-align:left;padding:.2rem 0}
th,td{padding:.3rem .9rem .3rem 0;text-align:left;white-space:nowrap;border-bottom:1px solid var(--rule);font-weight:400}
thead th{color:var(--quiet)}
.n{text-align:right}
a{color:var(--c1)}
details{margin:2rem 0}
pre{overflow-x:auto;background:var(--card);padding:1rem;border-radius:.4rem;font-size:.85rem}
@media (max-width:30rem){svg text{font-size:18px}dl div{display:block}dt{font-size:.875rem}body{padding:.7rem}}
@media print{body{max-width:none}figure,.verdict{break-inside:avoid}}
";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::sample;

    #[test]
    fn the_page_has_all_plots_and_needs_nothing_else() {
        let page = page(&sample::report());
        if let Ok(path) = std::env::var("LOADTEST_SAMPLE_PAGE") {
            std::fs::write(path, &page).unwrap();
        }
        for part in [
            "Latency over time",
            "Set-up over time",
            "By percentile",
            "At most so long",
            "Throughput, messages a second",
            "<figcaption>Errors",
            "Open sockets",
            "Memory over time",
            "CPU time by node",
            "Memory by node",
            "Messages by node",
            "prefers-color-scheme:dark",
            "name=\"viewport\"",
        ] {
            assert!(page.contains(part), "{part} is missing");
        }
        for (what, why) in [
            ("<script", "a script"),
            ("<link", "another file"),
            ("<img", "a picture"),
            ("src=", "another file"),
            ("@import", "another file"),
            ("url(", "another file"),
            ("NaN", "a number that is none"),
            ("javascript:", "a script"),
        ] {
            assert!(!page.contains(what), "it has {why}: {what}");
        }
        assert_eq!(page.matches("<svg").count(), page.matches("</svg>").count());
        assert_eq!(page.matches("<section").count(), 3);
        assert!(page.matches("<title>").count() > 300, "every second tells its figures");
    }

    #[test]
    fn nothing_of_the_report_gets_in_unescaped() {
        let evil = "<script>alert('\"&\")</script>";
        let mut report = sample::report();
        report.version = evil.to_owned();
        report.machine.cpu = evil.to_owned();
        report.verdict.broken.push(evil.to_owned());
        report.plan.phases[0].name = evil.to_owned();
        for phase in &mut report.phases {
            (phase.name, phase.scenario) = (evil.to_owned(), evil.to_owned());
            phase.errors.insert(evil.to_owned(), 1);
            phase.nodes[0].url = evil.to_owned();
        }
        let page = page(&report);
        assert!(!page.contains("<script") && !page.contains("'\"&"), "something is not escaped");
        assert!(page.contains("&lt;script&gt;"));
    }

    #[test]
    fn a_phase_that_measured_nothing_has_a_page_too() {
        let mut report = sample::report();
        report.phases = vec![sample::phase("empty", "pairs")];
        let page = page(&report);
        assert!(page.contains("metrics were not read") && !page.contains("NaN") && !page.contains("inf"));
        report.phases[0].timeline = vec![Second::default()];
        report.phases[0].nodes = vec![super::super::Node::default()];
        let page = super::page(&report);
        assert!(page.contains("None in any second") && !page.contains("NaN"));
    }

    #[test]
    fn a_long_run_is_drawn_with_several_seconds_in_one() {
        let timeline: Vec<_> = (0..1_000)
            .map(|at| Second { at, due: 2, done: 1, latency: sample::distribution(1, 2, 50.0), ..Second::default() })
            .collect();
        let groups = groups(&timeline);
        assert_eq!(groups.len(), 200);
        assert_eq!((groups[1].0, groups[1].1, groups[1].2.due, groups[1].2.latency.count), (5.0, 10.0, 10, 10));
        assert_eq!(groups.iter().map(|(_, _, second)| second.done).sum::<u64>(), 1_000);
    }

    #[test]
    fn the_colour_of_the_verdict_is_that_of_the_verdict() {
        let mut report = sample::report();
        assert!(verdict(&report).contains("class=\"verdict good\""));
        report.verdict.unsound.push("late".to_owned());
        assert!(verdict(&report).contains("class=\"verdict doubtful\""));
        report.verdict.broken.push("lost".to_owned());
        assert!(verdict(&report).contains("class=\"verdict bad\""));
    }

    #[test]
    fn percentiles_are_named_as_usual() {
        assert_eq!(
            [1.0, 2.0, 10.0, 100.0, 1e3, 1e4, 1e5, 1e6].map(percentile),
            ["0%", "50%", "90%", "99%", "99.9%", "99.99%", "99.999%", "99.9999%"]
        );
    }
}
