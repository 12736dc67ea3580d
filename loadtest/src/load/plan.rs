//! What to do: phases, one after the other, each of one scenario.

use std::collections::HashSet;
use std::fmt;
use std::ops::Range;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use toml::Spanned;

/// A plan, as `--plan FILE` (TOML) has it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    /// What all that is random begins with: the same seed makes the same run.
    pub seed: u64,
    /// Where the two peers of a room connect to.
    pub placement: Placement,
    /// The phases, in their order.
    pub phases: Vec<Phase>,
}

/// Where the two peers of a room connect to, when there are several targets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Placement {
    /// Each to another target.
    #[default]
    Apart,
    /// Both to the same.
    Together,
    /// Each names its room in the handshake's query, for a balancer that takes both to one node; targets in turn.
    Balanced,
}

/// What a phase does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Scenario {
    /// Rooms of two that send each other messages, so many a second over all rooms.
    Pairs,
    /// Whole call set-ups, so many a second: both join, offer, answer, candidates, bye.
    Call,
    /// Rooms made and left, so many a second, by sockets that stay connected.
    Churn,
    /// Many sockets ask for the same room at once, so many rooms a second.
    Race,
    /// Seated sockets that say nothing.
    Hold,
    /// Seated sockets whose connections all break at once, and who come back.
    Storm,
}

impl fmt::Display for Scenario {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Pairs => "pairs",
            Self::Call => "call",
            Self::Churn => "churn",
            Self::Race => "race",
            Self::Hold => "hold",
            Self::Storm => "storm",
        })
    }
}

/// One phase.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Phase {
    /// What it is called in the report; its scenario, if empty.
    #[serde(default)]
    pub name: String,
    /// What it does.
    pub scenario: Scenario,
    /// Rooms; of `call`, the most calls at the same time; of `churn`, rooms that are in use in turn.
    #[serde(default = "rooms")]
    pub rooms: u64,
    /// Messages (`pairs`), calls (`call`) or rooms (`churn`, `race`) a second, over all shards. Not for `hold` and `storm`.
    #[serde(default)]
    pub rate: f64,
    /// The rate at the beginning; it grows evenly to `rate` over `ramp`.
    #[serde(default)]
    pub from_rate: f64,
    /// How long the rate takes to grow, in seconds; part of `seconds`.
    #[serde(default)]
    pub ramp: f64,
    /// How long the phase lasts, in seconds, once its sockets are there.
    #[serde(default = "seconds")]
    pub seconds: f64,
    /// Bytes of each message's text; 0 for the sizes of real call set-ups (descriptions and candidates).
    #[serde(default)]
    pub bytes: usize,
    /// Sockets that ask for each room of a `race`.
    #[serde(default = "contenders")]
    pub contenders: u64,
    /// Candidates that each side of a `call` sends.
    #[serde(default = "candidates")]
    pub candidates: u64,
    /// Third peers a second that try to get into rooms of two, to check the cap from outside (`pairs`, `hold`).
    #[serde(default = "intruders")]
    pub intruders: f64,
}

fn rooms() -> u64 {
    100
}

fn seconds() -> f64 {
    10.0
}

fn contenders() -> u64 {
    10
}

fn candidates() -> u64 {
    6
}

fn intruders() -> f64 {
    1.0
}

impl Phase {
    /// One with the defaults.
    #[must_use]
    pub fn new(scenario: Scenario) -> Self {
        Self {
            name: scenario.to_string(),
            scenario,
            rooms: rooms(),
            rate: 0.0,
            from_rate: 0.0,
            ramp: 0.0,
            seconds: seconds(),
            bytes: 0,
            contenders: contenders(),
            candidates: candidates(),
            intruders: intruders(),
        }
    }

    /// How long it lasts.
    #[must_use]
    pub fn duration(&self) -> Duration {
        Duration::from_secs_f64(self.seconds)
    }

    /// The most sockets it has open at the same time.
    #[must_use]
    pub fn sockets(&self) -> u64 {
        match self.scenario {
            Scenario::Race => {
                // The rooms of about two seconds.
                let rooms = (self.rate.max(self.from_rate) * 2.0).ceil().max(1.0);
                #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a positive count")]
                let rooms = rooms as u64;
                rooms * self.contenders
            }
            _ => self.rooms * 2 + 16,
        }
    }

    /// What is wrong with it, and with which key.
    fn check(&self) -> Result<(), (&'static str, String)> {
        let rated = !matches!(self.scenario, Scenario::Hold | Scenario::Storm);
        let rule = |holds: bool, key: &'static str, complaint: &str| {
            if holds { Ok(()) } else { Err((key, complaint.to_owned())) }
        };
        rule((1..=50_000_000).contains(&self.rooms), "rooms", "must be between 1 and 50000000")?;
        rule(
            self.seconds.is_finite() && self.seconds > 0.0 && self.seconds <= 86_400.0,
            "seconds",
            "must be above 0 and at most 86400",
        )?;
        rule(
            !rated || (self.rate.is_finite() && self.rate > 0.0 && self.rate <= 10_000_000.0),
            "rate",
            "must be above 0 for this scenario",
        )?;
        rule(rated || self.rate == 0.0, "rate", "this scenario has none")?;
        rule(self.from_rate.is_finite() && self.from_rate >= 0.0, "from_rate", "must not be negative")?;
        rule(
            self.ramp.is_finite() && (0.0..=self.seconds).contains(&self.ramp),
            "ramp",
            "must be between 0 and `seconds`",
        )?;
        rule(self.bytes == 0 || (200..=900_000).contains(&self.bytes), "bytes", "must be 0 or between 200 and 900000")?;
        rule((3..=1000).contains(&self.contenders), "contenders", "must be between 3 and 1000")?;
        rule(self.candidates <= 100, "candidates", "must be at most 100")?;
        rule(
            self.intruders.is_finite() && (0.0..=1000.0).contains(&self.intruders),
            "intruders",
            "must be between 0 and 1000",
        )
    }
}

/// Why a plan cannot be used.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}{complaint}", .line.map(|line| format!("line {line}: ")).unwrap_or_default())]
pub struct BadPlan {
    /// The line of the file, from 1; none if it came from the command line.
    pub line: Option<usize>,
    /// What is wrong.
    pub complaint: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    #[serde(default)]
    seed: u64,
    #[serde(default)]
    placement: Placement,
    phases: Spanned<Vec<Spanned<Phase>>>,
}

impl Plan {
    /// Reads a plan.
    ///
    /// # Errors
    /// The line and the reason.
    pub fn parse(text: &str) -> Result<Self, BadPlan> {
        let line = |at: usize| Some(text[..at.min(text.len())].lines().count().max(1));
        let written: Written = toml::from_str(text).map_err(|error| BadPlan {
            line: error.span().and_then(|span| line_of(text, &span)),
            complaint: error.message().trim().replace('\n', " "),
        })?;
        let (span, phases) = (written.phases.span(), written.phases.into_inner());
        if phases.is_empty() {
            return Err(BadPlan {
                line: line_of(text, &span),
                complaint: "a plan needs at least one phase".to_owned(),
            });
        }
        let mut names = HashSet::new();
        let mut checked = Vec::new();
        for phase in phases {
            let span = phase.span();
            let mut phase = phase.into_inner();
            if let Err((key, complaint)) = phase.check() {
                // The key's own line, if it is written there.
                let at = key_in(text, &span, key).unwrap_or(span.start);
                return Err(BadPlan {
                    line: line_of(text, &(at..at)).or_else(|| line(at)),
                    complaint: format!("{key}: {complaint}"),
                });
            }
            if phase.name.is_empty() {
                phase.name = phase.scenario.to_string();
            }
            if !names.insert(phase.name.clone()) {
                let complaint = format!("name: `{}` is the name of another phase", phase.name);
                return Err(BadPlan { line: line_of(text, &span), complaint });
            }
            checked.push(phase);
        }
        Ok(Self { seed: written.seed, placement: written.placement, phases: checked })
    }

    /// A plan of one phase.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn single(seed: u64, placement: Placement, phase: Phase) -> Result<Self, BadPlan> {
        phase.check().map_err(|(key, complaint)| BadPlan {
            line: None,
            complaint: format!("--{}: {complaint}", key.replace('_', "-")),
        })?;
        Ok(Self { seed, placement, phases: vec![phase] })
    }

    /// The part of the plan that shard `index` (from 1) of `of` does: shards together do all of it, each about as much.
    #[must_use]
    pub fn shard(&self, index: u32, of: u32) -> Self {
        let mut plan = self.clone();
        let (index, of) = (u64::from(index), u64::from(of));
        for phase in &mut plan.phases {
            let part = |all: u64| all * index / of - all * (index - 1) / of;
            let whole = phase.rooms;
            phase.rooms = part(whole);
            #[expect(clippy::cast_precision_loss, reason = "a share")]
            let share = if whole >= of { phase.rooms as f64 / whole as f64 } else { 1.0 / of as f64 };
            phase.rate *= share;
            phase.from_rate *= share;
            phase.intruders *= share;
        }
        plan.phases.retain(|phase| phase.rooms > 0);
        plan
    }
}

/// The line, from 1, that a span begins on.
fn line_of(text: &str, span: &Range<usize>) -> Option<usize> {
    let before = text.get(..span.start)?;
    Some(before.bytes().filter(|byte| *byte == b'\n').count() + 1)
}

/// Where a phase writes a key: from its own head to the next one.
fn key_in(text: &str, span: &Range<usize>, key: &str) -> Option<usize> {
    let mut at = span.start;
    for (number, line) in text.get(span.start..)?.split_inclusive('\n').enumerate() {
        let trimmed = line.trim_start();
        if number > 0 && trimmed.starts_with('[') {
            break;
        }
        if trimmed.strip_prefix(key).is_some_and(|rest| rest.trim_start().starts_with('=')) {
            return Some(at);
        }
        at += line.len();
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAN: &str = "seed = 7\nplacement = \"together\"\n\n[[phases]]\nscenario = \"pairs\"\nrate = 100\n\n[[phases]]\nname = \"calls\"\nscenario = \"call\"\nrate = 5\nseconds = 3\n";

    #[test]
    fn a_plan_is_read_with_its_defaults() {
        let plan = Plan::parse(PLAN).expect("a plan");
        assert_eq!((plan.seed, plan.placement, plan.phases.len()), (7, Placement::Together, 2));
        assert_eq!((plan.phases[0].name.as_str(), plan.phases[0].rooms), ("pairs", 100));
        assert_eq!((plan.phases[1].name.as_str(), plan.phases[1].duration()), ("calls", Duration::from_secs(3)));
    }

    #[test]
    fn a_bad_plan_is_refused_with_the_line_and_the_reason() {
        for (from, to, line, reason) in [
            ("rate = 5", "rate = -5", 11, "rate: must be above 0"),
            ("rate = 5", "rate = 5\nramp = 4", 12, "ramp: must be between"),
            ("rate = 5", "pace = 5", 11, "unknown field `pace`"),
            ("\"call\"", "\"chat\"", 10, "unknown variant `chat`"),
            ("name = \"calls\"", "name = \"pairs\"", 8, "name of another phase"),
            ("rate = 100\n", "", 4, "rate: must be above 0"),
            ("seed = 7", "seed = [", 2, ""),
        ] {
            let error = Plan::parse(&PLAN.replacen(from, to, 1)).expect_err("bad");
            assert_eq!(error.line, Some(line), "{to}: {error}");
            assert!(error.complaint.contains(reason) && !error.complaint.contains('\n'), "{error}");
        }
        assert!(Plan::parse("phases = []").is_err());
        assert!(Plan::parse("").is_err());
    }

    #[test]
    fn shards_do_together_what_the_plan_says() {
        let mut phase = Phase::new(Scenario::Pairs);
        (phase.rooms, phase.rate) = (1_001, 500.0);
        let plan = Plan::single(1, Placement::Apart, phase).expect("a plan");
        for of in [1, 2, 3, 7] {
            let shards: Vec<_> = (1..=of).map(|index| plan.shard(index, of)).collect();
            assert_eq!(shards.iter().map(|shard| shard.phases[0].rooms).sum::<u64>(), 1_001);
            assert!((shards.iter().map(|shard| shard.phases[0].rate).sum::<f64>() - 500.0).abs() < 1e-6);
        }
        let mut race = Phase::new(Scenario::Race);
        (race.rooms, race.rate) = (1, 2.0);
        assert!(Plan::single(1, Placement::Apart, race).expect("a plan").shard(1, 2).phases.is_empty());
    }
}
