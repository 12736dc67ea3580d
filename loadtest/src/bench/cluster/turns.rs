//! Few nodes and many, duet's and bare relays', all there at once and loaded in turns.
//!
//! What others do on a machine changes from minute to minute by more than the growth that is looked for. Here all that is compared
//! stands within the same minute, and ratios are taken minute by minute. Every other time the order is the reverse. Two clusters of
//! the same program can differ as much, for as long as they run: so all are started anew now and then.

use std::time::Duration;

use anyhow::Context as _;
use futures_util::future::try_join_all;

use super::system::{Cluster, Redis, System};
use super::{BARE_BUSY, BUSY, FEW, GROWTH, MANY, label};
use crate::bench::{REPEATS, REST, Subject, count, relay};
use crate::server::Heartbeats;
use crate::table::{Figure, Table};

/// Messages of a turn before those that count.
const WARM_UP: Duration = Duration::from_secs(1);

/// What is done.
#[derive(Clone, Copy, Debug, serde::Serialize)]
pub(super) struct Plan {
    /// How often all are started anew.
    pub starts: u32,
    /// How often it is each one's turn after each start.
    pub turns: u32,
    /// For how long it is.
    pub duration: Duration,
    pub few: usize,
    pub many: usize,
    /// Messages a second over all rooms, twice each time.
    pub rate: u32,
    pub busy_rate: u32,
}

/// What all of them showed, in the order of the minutes.
#[derive(Default, serde::Serialize)]
pub(super) struct Turns(Vec<Series>);

#[derive(serde::Serialize)]
struct Series {
    name: &'static str,
    nodes: usize,
    turns: Vec<relay::Figures>,
}

/// A cluster whose peers sit in their rooms.
struct Seated {
    usual: &'static str,
    busy: &'static str,
    nodes: usize,
    cluster: Cluster,
    subject: Subject,
    talk: relay::Talk,
}

impl Seated {
    /// Starts it. Nobody is asked whether it is there as long as it lasts: that of thousands at once would fall into one turn and not into
    /// another.
    async fn start(system: &System, nodes: usize, rooms: usize, in_flight: usize) -> anyhow::Result<Option<Self>> {
        let Some(busy) = system.busy_name() else { return Ok(None) };
        let cluster = Cluster::start_with(system, nodes, Redis::Shared, Heartbeats::Rare).await?;
        let subject = cluster.subject(in_flight);
        let peers = subject.connect(rooms * 2).await?;
        let peers = subject.seat(peers).await?;
        let talk = relay::Talk::of(peers);
        Ok(Some(Self { usual: system.name(), busy, nodes, cluster, subject, talk }))
    }

    /// Its turn. Taken again when the generator could not keep up; not without end.
    async fn turn(&self, plan: &relay::Plan) -> anyhow::Result<relay::Figures> {
        for _ in 0..REPEATS {
            match self.talk.measure(&self.subject, plan).await {
                Err(error) if error.is::<relay::Bottleneck>() => eprintln!("  again, because {error}"),
                done => return done,
            }
        }
        self.talk.measure(&self.subject, plan).await
    }
}

impl Turns {
    /// Starts all clusters, loads them in turns and ends them.
    ///
    /// # Errors
    /// When one cannot be started or measured.
    pub async fn take(
        &mut self,
        plan: &Plan,
        relay: &relay::Plan,
        systems: &[System],
        in_flight: usize,
    ) -> anyhow::Result<()> {
        let starting = systems.iter().flat_map(|system| [plan.few, plan.many].map(|nodes| (system, nodes)));
        let starting = starting.map(|(system, nodes)| async move {
            Seated::start(system, nodes, relay.rooms, in_flight).await.context(system.name())
        });
        let seated: Vec<Seated> = try_join_all(starting).await?.into_iter().flatten().collect();
        for one in &seated {
            one.subject.processes.quiet(REST).await?;
        }
        let mut order: Vec<_> =
            seated.iter().flat_map(|one| [(one, one.usual, plan.rate), (one, one.busy, plan.busy_rate)]).collect();
        for _ in 0..plan.turns {
            for (one, name, rate) in &order {
                let relay = relay::Plan { rate: *rate, warm_up: WARM_UP, duration: plan.duration, ..*relay };
                let figures = one.turn(&relay).await.with_context(|| label(name, one.nodes))?;
                self.add(name, one.nodes, figures);
            }
            order.reverse();
        }
        for one in seated {
            one.cluster.stop().await?;
        }
        Ok(())
    }

    fn add(&mut self, name: &'static str, nodes: usize, figures: relay::Figures) {
        match self.0.iter_mut().find(|series| series.name == name && series.nodes == nodes) {
            Some(series) => series.turns.push(figures),
            None => self.0.push(Series { name, nodes, turns: vec![figures] }),
        }
    }

    /// All figures, with whose they are.
    pub fn figures(&self) -> impl Iterator<Item = (String, &relay::Figures)> {
        self.0.iter().flat_map(|series| series.turns.iter().map(|figures| (label(series.name, series.nodes), figures)))
    }

    /// Many nodes beside few, then duet beside the floor.
    pub fn tables(&self) -> Vec<Table> {
        let bare = "bare cluster";
        let few = self.0.iter().map(|series| series.nodes).min().unwrap_or(FEW);
        let many = self.0.iter().map(|series| series.nodes).max().unwrap_or(MANY);
        let on = |name, nodes| self.0.iter().find(|series| (series.name, series.nodes) == (name, nodes));
        let pairs = [
            ("duet", many, "duet", few),
            (BUSY, many, BUSY, few),
            (BUSY, many, "duet", few),
            (bare, many, bare, few),
            (BARE_BUSY, many, BARE_BUSY, few),
            (BARE_BUSY, many, bare, few),
            ("duet", few, bare, few),
            ("duet", many, bare, many),
            (BUSY, few, BARE_BUSY, few),
            (BUSY, many, BARE_BUSY, many),
        ];
        pairs.into_iter().filter_map(|(left, of, right, by)| Some(beside(on(left, of)?, on(right, by)?))).collect()
    }
}

fn beside(left: &Series, right: &Series) -> Table {
    let grows = left.name.starts_with("duet") && right.name.starts_with("duet");
    let target = (grows && (left.nodes, right.nodes) == (MANY, FEW)).then_some(GROWTH);
    let row = |name, decimals, target, of: &dyn Fn(&relay::Figures) -> f64| {
        let each = |series: &Series| series.turns.iter().map(of).collect();
        Figure { name, decimals, server: each(left), reference: each(right), compared: true, target }.summary()
    };
    let rows = vec![
        row("CPU a message, µs", 1, target, &|f| f.cpu_us_a_relay),
        row("  of it Redis", 1, None, &|f| f.redis_cpu_us_a_relay),
        row("  latency p50, µs", 0, None, &|f| count(f.latency_us.p50)),
        row("  latency p99, µs", 0, None, &|f| count(f.latency_us.p99)),
    ];
    Table { left: label(left.name, left.nodes), right: label(right.name, right.nodes), rows }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::cluster::tests::relayed;

    fn turns(series: &[(&'static str, usize, &[f64])]) -> Turns {
        let mut turns = Turns::default();
        for (name, nodes, figures) in series {
            for cpu in *figures {
                turns.add(name, *nodes, relayed(*cpu));
            }
        }
        turns
    }

    fn missed(turns: &Turns) -> Vec<(String, String)> {
        turns.tables().into_iter().filter(Table::misses).map(|table| (table.left, table.right)).collect()
    }

    #[test]
    fn growth_has_a_target_in_each_of_three_comparisons() {
        let holds = [("duet", 2, &[100.0][..]), (BUSY, 2, &[80.0]), ("duet", 8, &[115.0]), (BUSY, 8, &[92.0])];
        assert_eq!(missed(&turns(&holds)), []);
        let (few, many, busy) = (label("duet", 2), label("duet", 8), label(BUSY, 8));
        let grows = [("duet", 2, &[80.0][..]), (BUSY, 2, &[80.0]), ("duet", 8, &[92.9]), (BUSY, 8, &[92.9])];
        let all = [(many, few.clone()), (busy.clone(), label(BUSY, 2)), (busy, few)];
        assert_eq!(missed(&turns(&grows)), all);
    }

    #[test]
    fn ratios_are_taken_turn_by_turn() {
        // Others took half of the machine in the second turn, and in the third they came in between.
        let turns = turns(&[("duet", 2, &[100.0, 200.0, 100.0]), ("duet", 8, &[110.0, 220.0, 220.0])]);
        let ratio = turns.tables()[0].rows[0].ratio.expect("a ratio");
        assert!((ratio.median - 1.1).abs() < 1e-9 && (ratio.max - 2.2).abs() < 1e-9, "{ratio:?}");
        assert_eq!(missed(&turns), []);
    }

    #[test]
    fn the_floor_stands_beside_duet_and_has_no_target() {
        let bare = "bare cluster";
        let turns = turns(&[("duet", 2, &[1.0]), ("duet", 8, &[1.0]), (bare, 2, &[1.0]), (bare, 8, &[9.0])]);
        let titles: Vec<_> = turns.tables().into_iter().map(|table| (table.left, table.right)).collect();
        let of = |left, of, right, by| (label(left, of), label(right, by));
        let expected = [of("duet", 8, "duet", 2), of(bare, 8, bare, 2), of("duet", 2, bare, 2), of("duet", 8, bare, 8)];
        assert_eq!((titles.as_slice(), missed(&turns)), (expected.as_slice(), vec![]));
    }
}
