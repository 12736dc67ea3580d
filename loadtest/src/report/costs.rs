//! What the server used for what it did: figures derived from a phase with readings of its nodes.
//!
//! CPU time is one number a node and phase. It is given for a message only where nothing but messages was done, and for a
//! seat only where nothing but seats were taken. Where a little else was done the figure is an upper bound and says so;
//! where much else was, only the phase's own unit has a cost. Heartbeats and renewals are always in it.

use std::fmt;

use super::show::{self, float, ratio};
use super::{Node, Phase};

/// What else was done does not matter below this share.
const ASIDE: f64 = 0.01;
/// Above this share of what a cost is of, what else was done leaves nothing to say.
const MIXED: f64 = 0.25;

/// About what a join costs with its connection, to judge how much of a silence intruders are.
const JOIN_MICROS: f64 = 122.0;

/// A cost, and whether something else is in it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Cost {
    /// How much.
    pub value: f64,
    /// Something else is in it: it is this or less.
    pub at_most: bool,
}

impl Cost {
    /// With a unit behind it, as `≤ 30.6 µs`.
    #[must_use]
    pub fn show(self, show: impl Fn(f64) -> String) -> String {
        format!("{}{}", if self.at_most { "≤ " } else { "" }, show(self.value))
    }
}

/// The counts of all nodes of a phase together.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Sums {
    /// CPU time, in seconds.
    pub cpu_seconds: f64,
    /// Sockets that were opened.
    pub sockets_opened: u64,
    /// Seats that were taken.
    pub joins: u64,
    /// Messages within a node.
    pub local_relays: u64,
    /// Messages between nodes.
    pub remote_relays: u64,
    /// Requests to Redis.
    pub redis_requests: u64,
    /// Sockets at the end.
    pub sockets: u64,
    /// What memory grew by, in bytes; what shrank counts as 0.
    pub grown_bytes: u64,
    /// Bytes from and to clients.
    pub traffic_bytes: u64,
}

impl Sums {
    /// Of these nodes.
    #[must_use]
    pub fn of(nodes: &[Node]) -> Self {
        nodes.iter().fold(Self::default(), |sum, node| Self {
            cpu_seconds: sum.cpu_seconds + node.cpu_seconds,
            sockets_opened: sum.sockets_opened + node.sockets_opened,
            joins: sum.joins + node.joins,
            local_relays: sum.local_relays + node.local_relays,
            remote_relays: sum.remote_relays + node.remote_relays,
            redis_requests: sum.redis_requests + node.redis_requests,
            sockets: sum.sockets + node.sockets,
            grown_bytes: sum.grown_bytes + node.memory_after_bytes.saturating_sub(node.memory_before_bytes),
            traffic_bytes: sum.traffic_bytes + node.received_bytes + node.sent_bytes,
        })
    }

    /// Messages, wherever their peers were.
    #[must_use]
    pub fn relays(&self) -> u64 {
        self.local_relays + self.remote_relays
    }
}

/// What a phase cost the server. None: this phase cannot tell.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Costs {
    /// CPU µs for one of what the phase's rate is of, with all that belongs to it. Not for `hold`, where nothing is done.
    pub cpu_us_a_unit: Option<f64>,
    /// CPU µs a relayed message, of both its nodes, without Redis (`pairs`).
    pub cpu_us_a_message: Option<Cost>,
    /// CPU µs a seat taken (`churn`, `storm`). See [`Self::joins_connect`].
    pub cpu_us_a_join: Option<Cost>,
    /// Each of these joins had a new connection, which is in the cost, and so is the end of the one before (`storm`).
    pub joins_connect: bool,
    /// CPU ms a second and a thousand sockets that say nothing (`hold`).
    pub cpu_ms_a_thousand_sockets: Option<Cost>,
    /// What memory grew by, in bytes, a socket that was opened and is open still (`hold`). Too little if an earlier phase of the
    /// same run left memory that could be used again.
    pub memory_bytes_a_socket: Option<f64>,
    /// Messages that stayed within their node, of all.
    pub local_share: Option<f64>,
    /// Requests to Redis a message (`pairs`). Messages themselves are sent without an answer and are not counted.
    pub redis_requests_a_message: Option<f64>,
    /// Requests to Redis a seat taken (`churn`, `storm`).
    pub redis_requests_a_join: Option<f64>,
    /// Why the CPU time cannot be given for single things.
    pub note: Option<&'static str>,
}

impl Costs {
    /// Of a phase; none if the metrics of its nodes were not read.
    #[must_use]
    pub fn of(phase: &Phase) -> Option<Self> {
        if phase.nodes.is_empty() {
            return None;
        }
        let sums = Sums::of(&phase.nodes);
        let (relays, joins) = (float(sums.relays()), float(sums.joins));
        let cpu = sums.cpu_seconds * 1e6;
        let mut costs = Self {
            cpu_us_a_unit: ratio(cpu, float(phase.done)).filter(|_| phase.scenario != "hold"),
            local_share: ratio(float(sums.local_relays), relays),
            // Only `hold` waits until memory has settled; and of a phase that found sockets open it says nothing.
            memory_bytes_a_socket: ratio(float(sums.grown_bytes), float(sums.sockets))
                .filter(|_| phase.scenario == "hold" && sums.grown_bytes > 0 && sums.sockets_opened >= sums.sockets),
            ..Self::default()
        };
        let requests = float(sums.redis_requests);
        // Each tries to get in with a connection of its own, and is refused.
        let intruders = float(phase.cap.tried);
        match phase.scenario.as_str() {
            "pairs" => {
                // A join, or a connection, costs as much as a few messages.
                costs.cpu_us_a_message = attributed(cpu, relays, joins + intruders);
                costs.redis_requests_a_message = ratio(requests, relays).filter(|_| joins <= ASIDE * relays);
                if costs.cpu_us_a_message.is_none() && relays > 0.0 {
                    costs.note = Some("too many seats for so few messages: what a message alone costs cannot be told");
                }
            }
            "churn" | "storm" => {
                costs.joins_connect = phase.scenario == "storm";
                costs.cpu_us_a_join = attributed(cpu, joins, relays);
                costs.redis_requests_a_join = ratio(requests, joins);
                if costs.cpu_us_a_join.is_none() && joins > 0.0 {
                    costs.note = Some("messages beside the seats: what a seat alone costs cannot be told");
                }
            }
            "hold" => {
                let aside = (joins + intruders) * JOIN_MICROS;
                costs.cpu_ms_a_thousand_sockets =
                    ratio(sums.cpu_seconds * 1e3 / phase.seconds, float(sums.sockets) / 1e3)
                        .filter(|value| value.is_finite())
                        .map(|value| Cost { value, at_most: aside > ASIDE * cpu });
            }
            _ => {
                costs.note = Some("seats, messages and connections in one: the CPU time cannot be split among them");
            }
        }
        Some(costs)
    }

    /// What there is, as a label and a figure each.
    #[must_use]
    pub fn rows(&self, unit: &str) -> Vec<(String, String)> {
        let micros = |value| format!("{} µs", show::number(value));
        let join = if self.joins_connect { "CPU a join, connection included" } else { "CPU a join and its leave" };
        let figures = [
            (format!("CPU a {unit} done"), self.cpu_us_a_unit.map(micros)),
            ("CPU a message relayed".to_owned(), self.cpu_us_a_message.map(|cost| cost.show(micros))),
            (join.to_owned(), self.cpu_us_a_join.map(|cost| cost.show(micros))),
            (
                "CPU a second and 1,000 sockets".to_owned(),
                self.cpu_ms_a_thousand_sockets.map(|cost| cost.show(|value| format!("{} ms", show::number(value)))),
            ),
            ("memory a socket".to_owned(), self.memory_bytes_a_socket.map(show::bytes)),
            ("messages within a node".to_owned(), self.local_share.map(show::percent)),
            ("Redis requests a message".to_owned(), self.redis_requests_a_message.map(show::number)),
            ("Redis requests a join".to_owned(), self.redis_requests_a_join.map(show::number)),
        ];
        figures.into_iter().filter_map(|(label, figure)| Some((label, figure?))).collect()
    }
}

impl fmt::Display for Costs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rows = self.rows("unit").into_iter().map(|(label, figure)| vec![label, figure]).collect::<Vec<_>>();
        f.write_str(&show::grid("", &rows))
    }
}

/// `cpu` by `count`, if not too much `aside` was done.
fn attributed(cpu: f64, count: f64, aside: f64) -> Option<Cost> {
    let value = ratio(cpu, count)?;
    (aside <= MIXED * count).then_some(Cost { value, at_most: aside > ASIDE * count })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::sample;

    fn phase(scenario: &str, node: Node) -> Phase {
        Phase { nodes: vec![node], ..sample::phase("one", scenario) }
    }

    fn close(one: f64, other: f64) -> bool {
        (one - other).abs() < 1e-6
    }

    #[test]
    fn cpu_of_messages_alone_is_that_of_messages() {
        let node = Node { cpu_seconds: 3.0, local_relays: 75_000, remote_relays: 25_000, ..Node::default() };
        let costs = Costs::of(&phase("pairs", node)).unwrap();
        let cost = costs.cpu_us_a_message.unwrap();
        assert!(close(cost.value, 30.0) && !cost.at_most, "{cost:?}");
        assert!(close(costs.local_share.unwrap(), 0.75));
        assert_eq!(costs.cpu_us_a_join, None);
    }

    #[test]
    fn cpu_with_something_else_in_it_is_an_upper_bound_or_nothing() {
        let node = Node { cpu_seconds: 3.0, local_relays: 100_000, joins: 4_000, ..Node::default() };
        let costs = Costs::of(&phase("pairs", node.clone())).unwrap();
        assert!(costs.cpu_us_a_message.unwrap().at_most);
        let costs = Costs::of(&phase("pairs", Node { local_relays: 10_000, ..node })).unwrap();
        assert_eq!(costs.cpu_us_a_message, None);
        assert!(costs.note.is_some());
    }

    #[test]
    fn a_call_has_a_cost_only_as_a_whole() {
        let node = Node { cpu_seconds: 2.0, local_relays: 20_000, joins: 2_000, ..Node::default() };
        let phase = Phase { done: 1_000, ..phase("call", node) };
        let costs = Costs::of(&phase).unwrap();
        assert!(close(costs.cpu_us_a_unit.unwrap(), 2_000.0));
        assert_eq!((costs.cpu_us_a_message, costs.cpu_us_a_join), (None, None));
        assert!(costs.note.unwrap().contains("cannot be split"));
    }

    #[test]
    fn a_join_says_whether_its_connection_is_in_it() {
        let node = Node { cpu_seconds: 1.0, joins: 10_000, redis_requests: 20_000, ..Node::default() };
        let costs = Costs::of(&phase("churn", node.clone())).unwrap();
        assert!(!costs.joins_connect && close(costs.cpu_us_a_join.unwrap().value, 100.0));
        assert!(close(costs.redis_requests_a_join.unwrap(), 2.0));
        let costs = Costs::of(&phase("storm", node.clone())).unwrap();
        assert!(costs.joins_connect && !costs.cpu_us_a_join.unwrap().at_most);
        // Messages meanwhile: neither this nor that.
        assert_eq!(Costs::of(&phase("churn", Node { local_relays: 5_000, ..node })).unwrap().cpu_us_a_join, None);
    }

    #[test]
    fn sockets_that_were_opened_before_the_measured_time_are_not_in_its_cpu() {
        let node = Node { cpu_seconds: 3.0, local_relays: 100_000, sockets_opened: 50_000, ..Node::default() };
        let mut phase = phase("pairs", node);
        assert!(!Costs::of(&phase).unwrap().cpu_us_a_message.unwrap().at_most);
        phase.cap.tried = 2_000;
        assert!(Costs::of(&phase).unwrap().cpu_us_a_message.unwrap().at_most, "intruders were");
    }

    #[test]
    fn silence_and_memory_come_from_sockets_that_are_held() {
        let node = Node {
            cpu_seconds: 0.2,
            sockets: 10_000,
            sockets_opened: 10_000,
            memory_before_bytes: 10 << 20,
            memory_after_bytes: (10 << 20) + 163_840_000,
            ..Node::default()
        };
        let mut phase = phase("hold", node);
        phase.seconds = 10.0;
        let costs = Costs::of(&phase).unwrap();
        let silence = costs.cpu_ms_a_thousand_sockets.unwrap();
        assert!(close(silence.value, 2.0) && !silence.at_most);
        assert!(close(costs.memory_bytes_a_socket.unwrap(), 16_384.0));
        assert_eq!(costs.cpu_us_a_unit, None);
        // Sockets that were there before cost no memory now.
        phase.nodes[0].sockets_opened = 0;
        let costs = Costs::of(&phase).unwrap();
        assert_eq!(costs.memory_bytes_a_socket, None);
        phase.nodes[0].joins = 1_000;
        assert!(Costs::of(&phase).unwrap().cpu_ms_a_thousand_sockets.unwrap().at_most);
    }

    #[test]
    fn without_readings_there_are_no_costs() {
        assert_eq!(Costs::of(&Phase { nodes: Vec::new(), ..sample::phase("one", "pairs") }), None);
        let empty = Costs::of(&phase("pairs", Node::default())).unwrap();
        assert_eq!(empty, Costs::default());
    }
}
