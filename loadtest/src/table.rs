//! Medians and the table they stand in.

use std::fmt::Write as _;

/// Median and extremes of what the rounds measured.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct Spread {
    /// The middle one, or the mean of the two in the middle.
    pub median: f64,
    /// The least.
    pub min: f64,
    /// The most.
    pub max: f64,
}

impl Spread {
    /// Nothing if there are no values.
    #[must_use]
    pub fn of(values: &[f64]) -> Option<Self> {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        let (min, max) = (*sorted.first()?, *sorted.last()?);
        let middle = sorted.len() / 2;
        let median =
            if sorted.len() % 2 == 1 { sorted[middle] } else { f64::midpoint(sorted[middle - 1], sorted[middle]) };
        Some(Self { median, min, max })
    }

    /// The median, with the extremes if they differ.
    #[must_use]
    pub fn show(self, decimals: usize) -> String {
        let Self { median, min, max } = self;
        if min.to_bits() == max.to_bits() {
            return format!("{median:.decimals$}");
        }
        format!("{median:.decimals$} ({min:.decimals$}–{max:.decimals$})")
    }
}

/// What a figure must not exceed.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Target {
    /// So many times the reference's.
    Ratio(f64),
    /// So much, whatever the reference needs.
    Value(f64),
}

impl Target {
    /// As it stands in a table.
    #[must_use]
    pub fn show(self) -> String {
        match self {
            Self::Ratio(most) => format!("≤ {most:.2}×"),
            Self::Value(most) => format!("≤ {most:.1}"),
        }
    }
}

/// One figure of the server and of the reference, by round; the reference's are empty if it did not run.
#[derive(Clone, Debug)]
pub struct Figure {
    /// What it is, with its unit.
    pub name: &'static str,
    /// Digits worth printing behind the point.
    pub decimals: usize,
    /// The server's, by round.
    pub server: Vec<f64>,
    /// The reference's, by round.
    pub reference: Vec<f64>,
    /// Whether their ratio says anything.
    pub compared: bool,
    /// What it must not exceed.
    pub target: Option<Target>,
}

/// A figure over all rounds.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Summary {
    /// What it is, with its unit.
    pub name: &'static str,
    /// Digits worth printing behind the point.
    #[serde(skip)]
    pub decimals: usize,
    /// The server's.
    pub server: Option<Spread>,
    /// The reference's.
    pub reference: Option<Spread>,
    /// Server by reference, round by round.
    pub ratio: Option<Spread>,
    /// What it must not exceed.
    pub target: Option<Target>,
    /// Whether the target holds, by the median; nothing without a target or without what it compares.
    pub holds: Option<bool>,
}

impl Figure {
    /// The rounds put together.
    #[must_use]
    pub fn summary(&self) -> Summary {
        let ratios: Vec<_> = self
            .server
            .iter()
            .zip(&self.reference)
            .filter(|(_, reference)| self.compared && **reference > 0.0)
            .map(|(server, reference)| server / reference)
            .collect();
        let (server, ratio) = (Spread::of(&self.server), Spread::of(&ratios));
        let holds = match self.target {
            None => None,
            Some(Target::Ratio(most)) => ratio.map(|ratio| ratio.median <= most),
            Some(Target::Value(most)) => server.map(|server| server.median <= most),
        };
        Summary {
            name: self.name,
            decimals: self.decimals,
            server,
            reference: Spread::of(&self.reference),
            ratio,
            target: self.target,
            holds,
        }
    }
}

/// Two columns side by side.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Table {
    /// What is measured.
    pub left: String,
    /// What it is compared with.
    pub right: String,
    /// The figures.
    pub rows: Vec<Summary>,
}

impl Table {
    /// Whether a target of it does not hold.
    #[must_use]
    pub fn misses(&self) -> bool {
        self.rows.iter().any(|row| row.holds == Some(false))
    }

    /// For a terminal, its columns aligned. Columns that no row fills are left out.
    #[must_use]
    pub fn render(&self) -> String {
        let (lines, filled) = self.cells();
        let width = |column: usize| lines.iter().map(|line| line[column].chars().count()).max().unwrap_or(0);
        let mut text = String::new();
        for line in &lines {
            let mut row = String::new();
            for &column in &filled {
                let gap = if column == 0 { "" } else { "   " };
                write!(row, "{gap}{:<width$}", line[column], width = width(column)).expect("writing to a string");
            }
            text.push_str(row.trim_end());
            text.push('\n');
        }
        text
    }

    /// For a document: a table in Markdown.
    #[must_use]
    pub fn markdown(&self) -> String {
        let (lines, filled) = self.cells();
        let mut text = String::new();
        for (number, line) in lines.iter().enumerate() {
            text.push('|');
            for &column in &filled {
                let cell = line[column].trim();
                let gap = if cell.is_empty() { "" } else { " " };
                write!(text, "{gap}{cell} |").expect("writing to a string");
            }
            text.push('\n');
            if number == 0 {
                writeln!(text, "|{}", "---|".repeat(filled.len())).expect("writing to a string");
            }
        }
        text
    }

    /// Every line's cells, and which columns are worth a place.
    fn cells(&self) -> (Vec<[String; 6]>, Vec<usize>) {
        let show = |spread: Option<Spread>, decimals| spread.map(|spread| spread.show(decimals)).unwrap_or_default();
        let mut lines = vec![["", &self.left, &self.right, "ratio", "target", ""].map(str::to_owned)];
        for row in &self.rows {
            let target = row.target.map(Target::show).unwrap_or_default();
            let verdict = match row.holds {
                None => "",
                Some(true) => "holds",
                Some(false) => "MISSED",
            };
            lines.push([
                row.name.to_owned(),
                show(row.server, row.decimals),
                show(row.reference, row.decimals),
                show(row.ratio, 2),
                target,
                verdict.to_owned(),
            ]);
        }
        let filled = (0..6).filter(|column| lines[1..].iter().any(|line| !line[*column].is_empty())).collect();
        (lines, filled)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figure(server: &[f64], reference: &[f64], target: Target) -> Summary {
        let (server, reference) = (server.to_vec(), reference.to_vec());
        Figure { name: "CPU", decimals: 1, server, reference, compared: true, target: Some(target) }.summary()
    }

    #[test]
    fn the_median_of_odd_even_and_no_values() {
        assert_eq!(Spread::of(&[3.0, 1.0, 2.0]), Some(Spread { median: 2.0, min: 1.0, max: 3.0 }));
        assert_eq!(Spread::of(&[4.0, 1.0, 2.0, 3.0]).unwrap().median.to_bits(), 2.5_f64.to_bits());
        assert_eq!(Spread::of(&[]), None);
    }

    #[test]
    fn ratios_are_taken_round_by_round() {
        let summary = figure(&[10.0, 30.0, 20.0], &[10.0, 10.0, 40.0], Target::Ratio(1.0));
        assert_eq!(summary.ratio, Some(Spread { median: 1.0, min: 0.5, max: 3.0 }));
        assert_eq!(summary.holds, Some(true));
    }

    #[test]
    fn a_target_is_missed_by_the_median_alone() {
        assert_eq!(figure(&[1.3, 1.0, 1.3], &[1.0; 3], Target::Ratio(1.25)).holds, Some(false));
        assert_eq!(figure(&[1.0, 9.0, 1.0], &[1.0; 3], Target::Ratio(1.25)).holds, Some(true));
        assert_eq!(figure(&[18.1], &[6.5], Target::Value(18.0)).holds, Some(false));
        assert_eq!(figure(&[18.0], &[], Target::Value(18.0)).holds, Some(true));
        assert_eq!(figure(&[18.0], &[], Target::Ratio(1.0)).holds, None);
    }

    #[test]
    fn columns_are_aligned_and_empty_ones_left_out() {
        let rows = [
            figure(&[10.0, 12.0], &[10.0, 10.0], Target::Ratio(1.25)),
            Figure {
                name: "a longer name",
                decimals: 0,
                server: vec![5.0],
                reference: vec![],
                compared: true,
                target: None,
            }
            .summary(),
        ];
        let table = |rows: &[Summary]| Table { left: "duet".into(), right: "bare".into(), rows: rows.to_vec() };
        let text = table(&rows).render();
        let columns: Vec<_> = text.lines().map(|line| line.chars().count()).collect();
        assert_eq!(columns.len(), 3);
        assert!(text.lines().nth(1).unwrap().ends_with("1.10 (1.00–1.20)   ≤ 1.25×   holds"), "{text}");
        let starts: Vec<_> = text.lines().map(|line| line.chars().nth(16).unwrap()).collect();
        assert_eq!(starts, ['d', '1', '5'], "{text}");
        let alone = table(&rows[1..]).render();
        assert!(!alone.contains("bare") && !alone.contains("target"), "{alone}");
        let markdown = table(&rows).markdown();
        assert_eq!(markdown.lines().nth(1), Some("|---|---|---|---|---|---|"));
        assert_eq!(
            markdown.lines().nth(2),
            Some("| CPU | 11.0 (10.0–12.0) | 10.0 | 1.10 (1.00–1.20) | ≤ 1.25× | holds |"),
            "{markdown}"
        );
    }
}
