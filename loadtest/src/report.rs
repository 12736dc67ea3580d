//! What a run showed: the one thing that is printed, written, merged, compared and drawn.
//!
//! `--json` writes a [`Report`]; its schema is [`schema`], and stands in `docs/loadtest-report.schema.json`. Everything in it
//! can be merged without loss: counts add up, and distributions keep their histograms.

pub mod capacity;
pub mod compare;
pub mod costs;
#[cfg(test)]
mod form;
pub mod html;
pub mod merge;
pub mod plot;
#[cfg(test)]
mod sample;
pub mod show;
pub mod table;

use std::collections::BTreeMap;

use anyhow::Context as _;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use hdrhistogram::Histogram;
use hdrhistogram::serialization::{Deserializer, Serializer as _, V2DeflateSerializer};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::load::plan::Plan;
use crate::machine::Machine;

/// The version of the form. Another number is another form.
pub const FORM: u32 = 1;

/// One run, or several that were merged.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Report {
    /// The form of this document: 1.
    pub form: u32,
    /// The version of the load generator.
    pub version: String,
    /// When the first phase began, in seconds since 1970 (UTC).
    pub started: f64,
    /// Where the generator ran.
    pub machine: Machine,
    /// What was asked for, as a whole: of a shard, that of all shards.
    pub plan: Plan,
    /// Which shards of the plan this report is of, in ascending order: 1 alone for a whole run.
    pub shards: Vec<u32>,
    /// How many shards the plan was split into.
    pub of_shards: u32,
    /// It was broken off before its end.
    pub interrupted: bool,
    /// What to make of it.
    pub verdict: Verdict,
    /// The phases, in their order.
    pub phases: Vec<Phase>,
}

/// What to make of a run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Verdict {
    /// What the server promised and did not do: messages lost, twice, out of order, to a stranger, altered; a third in a room.
    pub broken: Vec<String>,
    /// Why the figures tell about the generator or the machine and not about the server.
    pub unsound: Vec<String>,
}

impl Verdict {
    /// Whether the figures may be used, and the server did what it promised.
    #[must_use]
    pub fn is_good(&self) -> bool {
        self.broken.is_empty() && self.unsound.is_empty()
    }
}

/// What one phase showed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Phase {
    /// Its name in the plan.
    pub name: String,
    /// Its scenario: `pairs`, `call`, `churn`, `race`, `hold` or `storm`.
    pub scenario: String,
    /// How long it was measured, in seconds: ramps and loading included, connecting and taking leave left out.
    pub seconds: f64,
    /// How often it did what its rate is of: messages, calls, rooms; sockets for `hold` and `storm`.
    pub done: u64,
    /// What was due of that in the same time.
    pub due: u64,
    /// Sockets at most at the same time.
    pub sockets: u64,
    /// Rooms at most at the same time.
    pub rooms: u64,
    /// What became of the messages.
    pub messages: Messages,
    /// The two-peer cap, as seen from outside.
    pub cap: Cap,
    /// From the moment a message was due to its arrival.
    pub latency: Distribution,
    /// From the start of a connection to the answer of the namespace.
    pub connect: Distribution,
    /// From the moment a seat was asked for, or due to be, to the answer.
    pub join: Distribution,
    /// From the moment a call was due (`call`), or its connection was gone (`storm`), until it was set up again.
    pub setup: Distribution,
    /// How much later than due the generator acted.
    pub lateness: Distribution,
    /// What failed, by code: the server's own codes, and `connect`, `closed`, `timeout`, `protocol` of the generator.
    pub errors: BTreeMap<String, u64>,
    /// By second since the measured time began. What failed before stands in `errors` alone.
    pub timeline: Vec<Second>,
    /// What the generator used.
    pub generator: Usage,
    /// What the nodes used, if their metrics could be read; in the order of `--metrics`.
    pub nodes: Vec<Node>,
}

/// What became of the messages of a phase. A message is one text from one peer to the other.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Messages {
    /// Left the generator.
    pub sent: u64,
    /// Arrived at the right peer, each counted once.
    pub delivered: u64,
    /// Never arrived, though both peers stayed connected.
    pub lost: u64,
    /// Arrived again.
    pub twice: u64,
    /// Arrived after one that was sent later.
    pub out_of_order: u64,
    /// Arrived at a peer of another room, or at their sender.
    pub to_a_stranger: u64,
    /// Arrived with another text than was sent.
    pub altered: u64,
    /// Bytes of all texts that were sent.
    pub bytes: u64,
}

/// The two-peer cap, as seen from outside.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Cap {
    /// Third peers that tried to get into a room of two, or more than two that tried at once.
    pub tried: u64,
    /// Rooms in which more than two were told that they have a seat.
    pub exceeded: u64,
}

/// Durations in microseconds.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Distribution {
    /// How many.
    pub count: u64,
    /// Their mean.
    pub mean: f64,
    /// Half are at most this.
    pub p50: u64,
    /// 90 % are.
    pub p90: u64,
    /// 99 % are.
    pub p99: u64,
    /// 99.9 % are.
    pub p999: u64,
    /// All are.
    pub max: u64,
    /// The HDR histogram (V2, deflated, base64); empty when there is none.
    pub histogram: String,
}

impl Distribution {
    /// Of a histogram of microseconds.
    #[must_use]
    pub fn of(histogram: &Histogram<u64>) -> Self {
        if histogram.is_empty() {
            return Self::default();
        }
        let at = |quantile| histogram.value_at_quantile(quantile);
        let mut bytes = Vec::new();
        // Into memory: nothing that could fail.
        let written = V2DeflateSerializer::new().serialize(histogram, &mut bytes);
        Self {
            count: histogram.len(),
            mean: histogram.mean(),
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            p999: at(0.999),
            max: histogram.max(),
            histogram: if written.is_ok() { STANDARD.encode(bytes) } else { String::new() },
        }
    }

    /// The histogram it was made of; none if it was empty.
    ///
    /// # Errors
    /// When what stands there is no histogram.
    pub fn histogram(&self) -> anyhow::Result<Option<Histogram<u64>>> {
        if self.histogram.is_empty() {
            return Ok(None);
        }
        let bytes = STANDARD.decode(&self.histogram).context("a histogram that is no base64")?;
        let histogram = Deserializer::new().deserialize(&mut bytes.as_slice());
        histogram.map(Some).map_err(|error| anyhow::anyhow!("no histogram: {error}"))
    }

    /// This and another, as if they had been one.
    ///
    /// # Errors
    /// As [`Self::histogram`].
    pub fn merged(&self, other: &Self) -> anyhow::Result<Self> {
        Ok(match (self.histogram()?, other.histogram()?) {
            (None, _) => other.clone(),
            (_, None) => self.clone(),
            (Some(mut one), Some(other)) => {
                // As it is read, a histogram ends where its own values did.
                one.auto(true);
                one.add(&other).map_err(|error| anyhow::anyhow!("histograms of different forms: {error}"))?;
                Self::of(&one)
            }
        })
    }
}

/// One second of a phase.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Second {
    /// Seconds since the measured time began.
    pub at: u32,
    /// What was due in it.
    pub due: u64,
    /// What was done in it.
    pub done: u64,
    /// What failed in it.
    pub errors: u64,
    /// Open sockets at its end.
    pub sockets: u64,
    /// Latency, or what the scenario measures in its place: join for `churn` and `race`, set-up for `call` and `storm`.
    pub latency: Distribution,
}

/// What the generator's process used.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Usage {
    /// CPU time, in seconds.
    pub cpu_seconds: f64,
    /// The most resident memory, in bytes.
    pub memory_bytes: u64,
}

/// What one node did and used during a phase, from its `/metrics` before and after.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Node {
    /// Where its metrics are.
    pub url: String,
    /// CPU time, in seconds.
    pub cpu_seconds: f64,
    /// Resident memory before the phase's sockets were opened, in bytes.
    pub memory_before_bytes: u64,
    /// Resident memory at the phase's end, its sockets still open, in bytes.
    pub memory_after_bytes: u64,
    /// Sockets at the phase's end.
    pub sockets: u64,
    /// Sockets that the phase opened.
    pub sockets_opened: u64,
    /// Seats that were taken.
    pub joins: u64,
    /// Messages relayed to a peer of the same node.
    pub local_relays: u64,
    /// Messages relayed to a peer of another node.
    pub remote_relays: u64,
    /// Requests to Redis: those that it answered, and messages to nodes.
    pub redis_requests: u64,
    /// Bytes received from clients.
    pub received_bytes: u64,
    /// Bytes sent to clients.
    pub sent_bytes: u64,
    /// Resident memory by second of the phase, in bytes.
    pub memory_timeline: Vec<u64>,
}

/// The JSON schema (draft 2020-12) of a [`Report`].
#[must_use]
pub fn schema() -> serde_json::Value {
    schemars::schema_for!(Report).to_value()
}

impl Report {
    /// Whether it is of all shards of its plan.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.shards.len() == self.of_shards as usize
    }

    /// Reads a report.
    ///
    /// # Errors
    /// When it is no report, or one of another form.
    pub fn read(text: &str) -> anyhow::Result<Self> {
        #[derive(Deserialize)]
        struct Form {
            form: u32,
        }
        let Form { form } = serde_json::from_str(text).context("not a report of loadtest")?;
        anyhow::ensure!(form == FORM, "a report of form {form}; this program knows form {FORM}");
        serde_json::from_str(text).context("a report that is not of its form")
    }
}
