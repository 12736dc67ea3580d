//! How figures are written for people: the same way in the table, on the page and in a comparison.

use std::fmt::Write as _;

/// Writes into a string, which cannot fail.
macro_rules! put {
    ($out:expr, $($text:tt)*) => {
        let _ = ::std::fmt::Write::write_fmt(&mut $out, format_args!($($text)*));
    };
}
pub(crate) use put;

/// A count as a number to calculate with.
#[expect(clippy::cast_precision_loss, reason = "no count here comes near 2^53")]
#[must_use]
pub fn float(count: u64) -> f64 {
    count as f64
}

/// A number that is not negative as a count, rounded up.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "not negative, and the cast saturates")]
#[must_use]
pub fn whole(number: f64) -> u64 {
    number.max(0.0).ceil() as u64
}

/// One by the other, if there is something to divide by.
#[must_use]
pub fn ratio(one: f64, other: f64) -> Option<f64> {
    (other > 0.0).then(|| one / other)
}

/// `1234567` as `1,234,567`.
#[must_use]
pub fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A number with about three digits that mean something.
#[must_use]
pub fn number(number: f64) -> String {
    let size = number.abs();
    let decimals = match size {
        _ if size >= 99.95 || size == 0.0 => {
            let sign = if number < 0.0 { "−" } else { "" };
            return format!("{sign}{}", count(whole(size.round())));
        }
        _ if size >= 9.995 => 1,
        _ if size >= 0.1 => 2,
        _ => 4,
    };
    format!("{number:.decimals$}").replace('-', "−")
}

/// A duration in microseconds, in the unit that suits it.
#[must_use]
pub fn micros(micros: f64) -> String {
    match micros {
        _ if micros < 1_000.0 => format!("{} µs", number(micros)),
        _ if micros < 1_000_000.0 => format!("{} ms", number(micros / 1e3)),
        _ => format!("{} s", number(micros / 1e6)),
    }
}

/// A duration of a distribution.
#[must_use]
pub fn duration(duration: u64) -> String {
    micros(float(duration))
}

/// Bytes, in the unit that suits them.
#[must_use]
pub fn bytes(bytes: f64) -> String {
    let mut size = bytes;
    for unit in ["B", "KiB", "MiB", "GiB"] {
        if size.abs() < 1_024.0 {
            return format!("{} {unit}", number(size));
        }
        size /= 1_024.0;
    }
    format!("{} TiB", number(size))
}

/// Bytes a second as bits a second, as networks are sold.
#[must_use]
pub fn bits(bytes_a_second: f64) -> String {
    let bits = bytes_a_second * 8.0;
    match bits {
        _ if bits < 1e6 => format!("{} kbit/s", number(bits / 1e3)),
        _ if bits < 1e9 => format!("{} Mbit/s", number(bits / 1e6)),
        _ => format!("{} Gbit/s", number(bits / 1e9)),
    }
}

/// A share as per cent. What is not quite all does not read as 100 %.
#[must_use]
pub fn percent(share: f64) -> String {
    if share < 1.0 && share > 0.9995 {
        return "> 99.9 %".to_owned();
    }
    if share > 0.0 && share < 0.001 {
        return "< 0.1 %".to_owned();
    }
    format!("{:.1} %", share * 100.0)
}

/// Seconds since 1970 as a date and a time, UTC.
#[must_use]
pub fn time(seconds: f64) -> String {
    let all = whole(seconds.floor());
    let (days, rest) = (all / 86_400, all % 86_400);
    // Howard Hinnant's civil_from_days, for days since 1970.
    let shifted = days + 719_468;
    let (era, of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    let (hour, minute, second) = (rest / 3_600, rest / 60 % 60, rest % 60);
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02} UTC")
}

/// `1 room`, `2 rooms`.
#[must_use]
pub fn plural(number: u64, noun: &str) -> String {
    format!("{} {noun}{}", count(number), if number == 1 { "" } else { "s" })
}

/// What the rate of a scenario is of: one, and many.
#[must_use]
pub fn unit(scenario: &str) -> (&'static str, &'static str) {
    match scenario {
        "pairs" => ("message", "messages"),
        "call" => ("call", "calls"),
        "churn" | "race" => ("room", "rooms"),
        "hold" | "storm" => ("socket", "sockets"),
        _ => ("unit", "units"),
    }
}

/// Names in a row: `1, 2 and 5`.
#[must_use]
pub fn list<T: ToString>(items: &[T]) -> String {
    let items: Vec<_> = items.iter().map(T::to_string).collect();
    match items.as_slice() {
        [] => String::new(),
        [one] => one.clone(),
        [before @ .., last] => format!("{} and {last}", before.join(", ")),
    }
}

/// A node by the address of its metrics, without what is the same for all.
#[must_use]
pub fn node(url: &str) -> String {
    url.trim_start_matches("http://").trim_end_matches("/metrics").to_owned()
}

/// Rows with their columns aligned: the first to the left, the others to the right. Every line begins with `indent`.
#[must_use]
pub fn grid(indent: &str, rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max();
    let widths: Vec<_> = (0..columns).map(|column| width(column).unwrap_or(0)).collect();
    let mut text = String::new();
    for row in rows {
        let mut line = indent.to_owned();
        for (column, cell) in row.iter().enumerate() {
            let width = widths[column];
            let _ = if column == 0 { write!(line, "{cell:<width$}") } else { write!(line, "   {cell:>width$}") };
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_well() {
        assert_eq!([0, 999, 1_000, 1_234_567].map(count), ["0", "999", "1,000", "1,234,567"]);
        assert_eq!(
            [0.0, 0.05, 9.999, 57.04, -12.5, 1_234.4].map(number),
            ["0", "0.0500", "10.0", "57.0", "−12.5", "1,234"]
        );
        assert_eq!([57.0, 1_300.0, 2_410_000.0].map(micros), ["57.0 µs", "1.30 ms", "2.41 s"]);
        assert_eq!([12.0, 16_424.0, 3e9].map(bytes), ["12.0 B", "16.0 KiB", "2.79 GiB"]);
        assert_eq!([1e3, 1e6, 1e9].map(bits), ["8.00 kbit/s", "8.00 Mbit/s", "8.00 Gbit/s"]);
        assert_eq!(
            [0.0, 0.00001, 0.5, 0.99999, 1.0].map(percent),
            ["0.0 %", "< 0.1 %", "50.0 %", "> 99.9 %", "100.0 %"]
        );
    }

    #[test]
    fn dates_are_right_around_leap_days() {
        assert_eq!(time(0.0), "1970-01-01 00:00:00 UTC");
        assert_eq!(time(951_782_400.5), "2000-02-29 00:00:00 UTC");
        assert_eq!(time(1_709_251_199.9), "2024-02-29 23:59:59 UTC");
        assert_eq!(time(1_735_689_600.0), "2025-01-01 00:00:00 UTC");
    }

    #[test]
    fn a_grid_is_aligned() {
        let rows = [vec!["a".to_owned(), "µs".to_owned()], vec!["long".to_owned(), "1,000".to_owned()]];
        assert_eq!(grid(" ", &rows), " a         µs\n long   1,000\n");
    }

    #[test]
    fn lists_read_as_sentences() {
        assert_eq!([list(&[2]), list(&[2, 4]), list(&[1, 2, 3])], ["2", "2 and 4", "1, 2 and 3"]);
        assert_eq!([plural(1, "room"), plural(2_000, "room")], ["1 room", "2,000 rooms"]);
    }
}
