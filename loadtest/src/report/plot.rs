//! Plots as SVG text: no script, no font, no colour of their own. Colours are classes that the page defines for light and dark.

use super::show::{float, put, whole};

/// The drawing, in its own units.
const WIDTH: f64 = 560.0;
const HEIGHT: f64 = 280.0;
const LEFT: f64 = 80.0;
const RIGHT: f64 = 14.0;
const TOP: f64 = 12.0;
const BOTTOM: f64 = 34.0;

/// Text that may stand in HTML, also in an attribute.
#[must_use]
pub fn escape(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\'' => safe.push_str("&#39;"),
            _ => safe.push(letter),
        }
    }
    safe
}

/// How values become places.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Scale {
    /// Evenly, from 0.
    Even,
    /// Every factor as wide.
    Log,
}

/// One direction of a plot.
pub struct Axis {
    /// How values become places.
    pub scale: Scale,
    /// The least and the most; widened to what reads well.
    pub range: (f64, f64),
    /// How a value is written at its tick.
    pub show: fn(f64) -> String,
    /// What the ticks are; found if empty.
    pub ticks: Vec<f64>,
}

impl Axis {
    /// Of values that begin at 0, the most of which is given.
    #[must_use]
    pub fn even(most: f64, show: fn(f64) -> String) -> Self {
        let most = if most > 0.0 { most } else { 1.0 };
        let step = step(most / 4.0);
        let steps = (most / step - 1e-9).ceil().max(1.0);
        let ticks = (0..=whole(steps)).map(|at| float(at) * step).collect();
        Self { scale: Scale::Even, range: (0.0, steps * step), show, ticks }
    }

    /// Of values that differ by factors.
    #[must_use]
    pub fn log(least: f64, most: f64, show: fn(f64) -> String) -> Self {
        let (least, most) = (least.max(1e-3), most.max(least.max(1e-3) * 1.01));
        let (from, to) = (least.log10().floor(), most.log10().ceil());
        let fine = to - from <= 2.0;
        let mut ticks = Vec::new();
        for decade in 0..=whole(to - from) {
            for part in if fine { &[1.0, 2.0, 5.0][..] } else { &[1.0] } {
                ticks.push(10_f64.powf(from + float(decade)) * part);
            }
        }
        // Without whole empty steps at the ends.
        let low = ticks.iter().rposition(|tick| *tick <= least).unwrap_or(0);
        let high = ticks.iter().position(|tick| *tick >= most).unwrap_or(ticks.len() - 1);
        let ticks = ticks[low..=high].to_vec();
        Self { scale: Scale::Log, range: (ticks[0], ticks[ticks.len() - 1]), show, ticks }
    }

    /// Of seconds of a phase.
    #[must_use]
    pub fn seconds(most: f64) -> Self {
        const STEPS: [f64; 14] =
            [1.0, 2.0, 5.0, 10.0, 15.0, 30.0, 60.0, 120.0, 300.0, 600.0, 900.0, 1_800.0, 3_600.0, 14_400.0];
        let most = most.max(1.0);
        let step = STEPS.into_iter().find(|step| most / step <= 7.0).unwrap_or(14_400.0);
        let ticks =
            (0..=whole((most / step).floor())).map(|at| float(at) * step).filter(|tick| *tick <= most).collect();
        Self { scale: Scale::Even, range: (0.0, most), show: clock, ticks }
    }

    /// Where a value lies, from 0 to 1.
    fn place(&self, value: f64) -> f64 {
        let (least, most) = self.range;
        let share = match self.scale {
            Scale::Even => (value - least) / (most - least),
            Scale::Log => (value.max(1e-9) / least).ln() / (most / least).ln(),
        };
        if share.is_finite() { share.clamp(0.0, 1.0) } else { 0.0 }
    }
}

/// A step that reads well, not below `least`.
fn step(least: f64) -> f64 {
    let decade = 10_f64.powf(least.log10().floor());
    [1.0, 2.0, 2.5, 5.0]
        .into_iter()
        .map(|part| part * decade)
        .find(|step| *step >= least * 0.999)
        .unwrap_or(10.0 * decade)
}

/// Seconds as people read them: `45 s`, `1:30`, `1:00:00`.
#[must_use]
pub fn clock(seconds: f64) -> String {
    let all = whole(seconds.round());
    match all {
        0..=90 => format!("{all} s"),
        91..=3_599 => format!("{}:{:02}", all / 60, all % 60),
        _ => format!("{}:{:02}:{:02}", all / 3_600, all / 60 % 60, all % 60),
    }
}

/// One line, or what is filled below it.
pub struct Series {
    /// What it is.
    pub name: String,
    /// Its class on the page: its colour and its dashes.
    pub class: String,
    /// Its points; a gap where there is none.
    pub points: Vec<(f64, Option<f64>)>,
    /// Filled down to the axis.
    pub filled: bool,
}

/// Something to read when the pointer rests there: from, to, text.
pub type Hint = (f64, f64, String);

/// Lines over something.
pub struct Lines {
    /// What the plot shows: read to those who cannot see it.
    pub label: String,
    /// From left to right.
    pub x: Axis,
    /// From below.
    pub y: Axis,
    /// What is drawn, the first at the back.
    pub series: Vec<Series>,
    /// What is told of a part of x.
    pub hints: Vec<Hint>,
}

impl Lines {
    /// The drawing.
    #[must_use]
    pub fn svg(&self) -> String {
        let (wide, high) = (WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM);
        let left = |x: f64| LEFT + wide * self.x.place(x);
        let top = |y: f64| TOP + high * (1.0 - self.y.place(y));
        let mut svg = String::new();
        put!(svg, r#"<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{}">"#, escape(&self.label));
        for tick in &self.y.ticks {
            let (y, name) = (top(*tick), escape(&(self.y.show)(*tick)));
            put!(svg, r#"<line class="grid" x1="{LEFT}" x2="{:.0}" y1="{y:.1}" y2="{y:.1}"/>"#, WIDTH - RIGHT);
            put!(svg, r#"<text class="end" x="{:.0}" y="{:.1}">{name}</text>"#, LEFT - 8.0, y + 4.5);
        }
        for tick in &self.x.ticks {
            let (x, name) = (left(*tick), escape(&(self.x.show)(*tick)));
            put!(svg, r#"<line class="grid" x1="{x:.1}" x2="{x:.1}" y1="{TOP}" y2="{:.0}"/>"#, TOP + high);
            // The outer ones stay inside.
            let class = if x > WIDTH - RIGHT - 20.0 { "end" } else { "middle" };
            let x = if class == "end" { WIDTH - 2.0 } else { x };
            put!(svg, r#"<text class="{class}" x="{x:.1}" y="{:.0}">{name}</text>"#, HEIGHT - 12.0);
        }
        for series in &self.series {
            for part in series.points.split(|(_, y)| y.is_none()).filter(|part| !part.is_empty()) {
                let place = |(x, y): &(f64, Option<f64>)| format!("{:.1} {:.1}", left(*x), top(y.unwrap_or(0.0)));
                let mut path = part.iter().map(place).collect::<Vec<_>>().join("L");
                if let [(x, _)] = part {
                    // A point alone is a short line.
                    put!(path, "L{:.1} {:.1}", left(*x) + 1.5, top(part[0].1.unwrap_or(0.0)));
                }
                if series.filled {
                    let (first, last) = (part[0].0, part[part.len() - 1].0);
                    let floor = TOP + high;
                    put!(path, "L{:.1} {floor:.1}L{:.1} {floor:.1}Z", left(last), left(first));
                }
                let (fill, name) = (if series.filled { "area" } else { "line" }, escape(&series.name));
                put!(svg, r#"<path class="{fill} {}" d="M{path}"><title>{name}</title></path>"#, escape(&series.class));
            }
        }
        for (from, to, text) in &self.hints {
            let (from, to) = (left(*from), left(*to));
            put!(
                svg,
                r#"<rect class="hint" x="{from:.1}" y="{TOP}" width="{:.1}" height="{high:.0}"><title>{}</title></rect>"#,
                (to - from).max(0.5),
                escape(text)
            );
        }
        svg.push_str("</svg>");
        svg
    }
}

/// One bar: its parts lie one behind the other.
pub struct Bar {
    /// What it is of.
    pub name: String,
    /// Class, length and what each part is.
    pub parts: Vec<(String, f64, String)>,
    /// What stands behind it.
    pub figure: String,
}

/// Bars from left to right, one below the other, on the same scale.
#[must_use]
pub fn bars(label: &str, bars: &[Bar]) -> String {
    const ROW: f64 = 44.0;
    let length = |bar: &Bar| bar.parts.iter().map(|(_, length, _)| length.max(0.0)).sum::<f64>();
    let most = bars.iter().map(length).fold(0.0, f64::max);
    let room = WIDTH - 140.0;
    let height = ROW * float(bars.len() as u64) + 6.0;
    let mut svg = String::new();
    put!(svg, r#"<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{}">"#, escape(label));
    for (at, bar) in bars.iter().enumerate() {
        let top = ROW * float(at as u64);
        put!(svg, r#"<text x="0" y="{:.0}">{}</text>"#, top + 16.0, escape(&bar.name));
        let mut x = 0.0;
        for (class, length, what) in &bar.parts {
            let wide = if most > 0.0 { room * length.max(0.0) / most } else { 0.0 };
            put!(
                svg,
                r#"<rect class="bar {}" x="{x:.1}" y="{:.0}" width="{wide:.1}" height="16"><title>{}</title></rect>"#,
                escape(class),
                top + 23.0,
                escape(what)
            );
            x += wide;
        }
        put!(svg, r#"<text class="figure" x="{:.1}" y="{:.0}">{}</text>"#, x + 8.0, top + 36.0, escape(&bar.figure));
    }
    svg.push_str("</svg>");
    svg
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::show;

    #[test]
    fn ticks_read_well_and_hold_all_values() {
        let axis = Axis::even(5_990.0, show::number);
        assert_eq!((axis.range.1, axis.ticks.len()), (6_000.0, 4));
        let axis = Axis::log(43.0, 29_000.0, show::micros);
        assert_eq!((axis.range, axis.ticks.len()), ((10.0, 100_000.0), 5));
        let axis = Axis::log(43.0, 180.0, show::micros);
        assert_eq!((axis.range, axis.ticks.clone()), ((20.0, 200.0), vec![20.0, 50.0, 100.0, 200.0]));
        for (most, ticks) in [(0.0, 2), (10.0, 6), (90.0, 7), (3_600.0, 7)] {
            assert_eq!(Axis::seconds(most).ticks.len(), ticks, "{most}");
        }
        assert_eq!(Axis::even(0.0, show::number).range, (0.0, 1.0));
    }

    #[test]
    fn values_lie_where_they_belong() {
        let axis = Axis::log(1.0, 10_000.0, show::number);
        assert!((axis.place(100.0) - 0.5).abs() < 1e-9);
        assert_eq!((axis.place(0.0), axis.place(1e9)), (0.0, 1.0));
        assert!((Axis::even(10.0, show::number).place(5.0) - 0.5).abs() < 1e-9);
    }

    #[test]
    fn a_gap_parts_a_line() {
        let points = vec![(0.0, Some(1.0)), (1.0, Some(2.0)), (2.0, None), (3.0, Some(1.0))];
        let series = vec![Series { name: "a<b".to_owned(), class: "c1".to_owned(), points, filled: false }];
        let hints = vec![(0.0, 1.0, "\"x\"".to_owned())];
        let (x, y) = (Axis::seconds(3.0), Axis::even(2.0, show::number));
        let svg = Lines { label: "l & m".to_owned(), x, y, series, hints }.svg();
        assert_eq!(svg.matches("<path").count(), 2);
        assert!(svg.contains("a&lt;b") && svg.contains("&quot;x&quot;") && svg.contains("l &amp; m"), "{svg}");
        assert!(!svg.contains("NaN") && !svg.contains("inf"));
    }

    #[test]
    fn bars_share_a_scale() {
        let bar = |length| Bar { name: "n".into(), parts: vec![("c1".into(), length, "x".into())], figure: "f".into() };
        let svg = bars("all", &[bar(1.0), bar(4.0)]);
        assert!(svg.contains(r#"width="105.0""#) && svg.contains(r#"width="420.0""#), "{svg}");
        assert!(!bars("none", &[bar(0.0)]).contains("NaN"));
    }

    #[test]
    fn clocks() {
        assert_eq!([5.0, 90.0, 150.0, 3_725.0].map(clock), ["5 s", "90 s", "2:30", "1:02:05"]);
    }
}
