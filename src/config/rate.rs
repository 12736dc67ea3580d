//! A rate with a burst, as settings write it.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// So many in a time, lastingly, and so many at once: `100/s burst 1000`. `0` is no limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(try_from = "String", into = "String")]
pub struct Rate {
    /// How many in that time; 0 for no limit.
    pub count: u32,
    /// A second, a minute or an hour.
    pub per: Duration,
    /// How many at once.
    pub burst: u32,
}

impl Rate {
    /// No limit.
    pub const NONE: Self = Self { count: 0, per: Duration::from_secs(1), burst: 0 };

    const UNITS: [(&'static str, Duration); 3] =
        [("s", Duration::from_secs(1)), ("m", Duration::from_mins(1)), ("h", Duration::from_hours(1))];
}

impl TryFrom<String> for Rate {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        let text = text.trim();
        if text == "0" {
            return Ok(Self::NONE);
        }
        let complaint =
            || format!("`{text}` is no rate: it reads \"100/s burst 1000\" (or /m, /h), or \"0\" for no limit");
        let parse = || {
            let (rate, burst) = match text.split_once(" burst ") {
                Some((rate, burst)) => (rate, Some(burst.trim().parse::<u32>().ok()?)),
                None => (text, None),
            };
            let (count, unit) = rate.split_once('/')?;
            let count = count.trim().parse::<u32>().ok()?;
            let (_, per) = Self::UNITS.into_iter().find(|(name, _)| *name == unit.trim())?;
            Some(Self { count, per, burst: burst.unwrap_or(count) })
        };
        let rate = parse().filter(|rate| rate.count > 0 && rate.burst > 0).ok_or_else(complaint)?;
        // What a bucket of a day and more remembers outlives any node.
        let seconds_of_burst = rate.per.as_secs() * u64::from(rate.burst) / u64::from(rate.count);
        if u128::from(rate.count) > rate.per.as_nanos() || seconds_of_burst > 24 * 3600 {
            return Err(format!("`{text}`: more than one a nanosecond, or a burst that takes a day to make up for"));
        }
        Ok(rate)
    }
}

impl From<Rate> for String {
    fn from(rate: Rate) -> Self {
        let unit = Rate::UNITS.iter().find(|(_, per)| *per == rate.per).map_or("s", |(name, _)| name);
        if rate.count == 0 { "0".into() } else { format!("{}/{unit} burst {}", rate.count, rate.burst) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_read_as_it_is_written() {
        let rate = |text: &str| Rate::try_from(text.to_owned());
        assert_eq!(rate("0"), Ok(Rate::NONE));
        assert_eq!(rate("100/s burst 1000"), Ok(Rate { count: 100, per: Duration::from_secs(1), burst: 1000 }));
        assert_eq!(rate(" 30/m "), Ok(Rate { count: 30, per: Duration::from_mins(1), burst: 30 }));
        for text in ["0", "100/s burst 1000", "30/m burst 60", "1/h burst 1"] {
            assert_eq!(rate(text).map(String::from).as_deref(), Ok(text));
        }
        for text in
            ["", "100", "100/d", "-1/s", "0/s", "1/s burst 0", "1/s burst", "1/h burst 25", "x/s", "5000000000/s"]
        {
            assert!(rate(text).is_err(), "{text}");
        }
    }
}
