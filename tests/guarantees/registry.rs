//! What every registry of rooms guarantees, whatever keeps the seats: one suite, instantiated for each.

use std::{
    collections::HashMap,
    sync::{
        Arc, Weak,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use duet::{
    cluster::{Cluster, topology::Deployment},
    config::Settings,
    exchange::{Addressee, Delivery, Letter, Question, Reply},
    id::{Generation, NodeId, PeerId, ResumeToken, RoomName, Sid},
    lifecycle::Lifecycle,
    metrics::Metrics,
    rooms::{
        Ask, JoinOutcome, KeepOutcome, LeaveOutcome, Mail, Most, Occupant, Registry, Role, SEATS, Serial,
        memory::MemoryRegistry,
    },
};
use proptest::prelude::*;

use crate::support::{
    redis::{Redis, RedisOptions},
    wait_until,
};

fn room(name: &str) -> RoomName {
    RoomName::parse(name).expect("a room name")
}

fn occupant(node: NodeId) -> Occupant {
    Occupant { peer: PeerId(Sid::new()), generation: Generation(1), node }
}

async fn join(registry: &dyn Registry, name: &str, who: Occupant) -> JoinOutcome {
    registry.join(&room(name), who.into()).await.expect("an answer").outcome
}

async fn leave(registry: &dyn Registry, name: &str, who: Occupant) -> LeaveOutcome {
    registry.leave(&room(name), who).await.expect("an answer")
}

async fn first_creates_second_joins_third_is_told_full(registry: Arc<dyn Registry>, node: NodeId) {
    let [a, b, c] = [occupant(node), occupant(node), occupant(node)];
    assert_eq!(join(&*registry, "r", a).await, JoinOutcome::Created);
    assert_eq!(join(&*registry, "r", b).await, JoinOutcome::Joined(a));
    assert_eq!(join(&*registry, "r", c).await, JoinOutcome::Full);
    assert_eq!(join(&*registry, "other", c).await, JoinOutcome::Created);
}

async fn joining_again_answers_as_the_first_time(registry: Arc<dyn Registry>, node: NodeId) {
    let [a, b] = [occupant(node), occupant(node)];
    join(&*registry, "r", a).await;
    assert_eq!(join(&*registry, "r", a).await, JoinOutcome::Seated(Role::Created, None));
    join(&*registry, "r", b).await;
    assert_eq!(join(&*registry, "r", a).await, JoinOutcome::Seated(Role::Created, Some(b)));
    assert_eq!(join(&*registry, "r", b).await, JoinOutcome::Seated(Role::Joined, Some(a)));
    leave(&*registry, "r", a).await;
    assert_eq!(join(&*registry, "r", b).await, JoinOutcome::Seated(Role::Joined, None));
}

async fn a_seat_that_is_left_can_be_taken(registry: Arc<dyn Registry>, node: NodeId) {
    let [a, b, c] = [occupant(node), occupant(node), occupant(node)];
    join(&*registry, "r", a).await;
    join(&*registry, "r", b).await;
    assert_eq!(leave(&*registry, "r", a).await, LeaveOutcome::Left(Some(b)));
    assert_eq!(join(&*registry, "r", c).await, JoinOutcome::Joined(b));
    assert_eq!(leave(&*registry, "r", b).await, LeaveOutcome::Left(Some(c)));
    assert_eq!(leave(&*registry, "r", c).await, LeaveOutcome::Left(None));
    assert_eq!(join(&*registry, "r", a).await, JoinOutcome::Created);
}

async fn a_leave_frees_only_its_own_seat(registry: Arc<dyn Registry>, node: NodeId) {
    let [a, b, stranger] = [occupant(node), occupant(node), occupant(node)];
    join(&*registry, "r", a).await;
    join(&*registry, "r", b).await;
    assert_eq!(leave(&*registry, "r", stranger).await, LeaveOutcome::NotSeated);
    assert_eq!(leave(&*registry, "nowhere", a).await, LeaveOutcome::NotSeated);
    // The same peer came back by a newer connection: what the older one still says does not touch its seat.
    leave(&*registry, "r", a).await;
    let newer = Occupant { generation: Generation(2), ..a };
    assert_eq!(join(&*registry, "r", newer).await, JoinOutcome::Joined(b));
    assert_eq!(leave(&*registry, "r", a).await, LeaveOutcome::NotSeated);
    assert_eq!(join(&*registry, "r", stranger).await, JoinOutcome::Full);
}

async fn who_looks_sees_who_sits_there_and_changes_nothing(registry: Arc<dyn Registry>, node: NodeId) {
    let [a, b] = [occupant(node), occupant(node)];
    let look = async |name| {
        let mut seats: Vec<_> = registry.look(&room(name)).await.expect("an answer");
        seats.sort_by_key(|seat| seat.role == Role::Joined);
        seats.into_iter().map(|seat| (seat.by, seat.role)).collect::<Vec<_>>()
    };
    assert_eq!(look("r").await, []);
    join(&*registry, "r", a).await;
    assert_eq!(look("r").await, [(a, Role::Created)]);
    join(&*registry, "r", b).await;
    assert_eq!(look("r").await, [(a, Role::Created), (b, Role::Joined)]);
    assert_eq!(look("other").await, []);
    leave(&*registry, "r", a).await;
    assert_eq!(look("r").await, [(b, Role::Joined)]);
    leave(&*registry, "r", b).await;
    assert_eq!((look("r").await, registry.occupancy()), (vec![], duet::rooms::Occupancy::default()));
}

async fn what_is_kept_is_for_who_takes_the_seat_back_or_for_who_comes_first(registry: Arc<dyn Registry>, node: NodeId) {
    let most = Most { messages: 3, bytes: 100, age: Duration::from_secs(10) };
    let room = room("r");
    let mail = |n: u64| Mail { serial: Serial { seat: 7, said: n }, body: format!("\0 {n} \u{e9}").into() };
    let keep = async |from, to, n| registry.keep(&room, from, to, mail(n), 0, most).await.expect("an answer");
    let [a, b, c] = [occupant(node), occupant(node), occupant(node)];
    let key = ResumeToken::random().expect("a token").key();
    assert_eq!(keep(a, None, 1).await, KeepOutcome::Gone, "who does not sit there keeps nothing");
    join(&*registry, "r", a).await;
    assert_eq!(keep(a, Some(b), 1).await, KeepOutcome::Gone);
    // Whichever comes first is handed over first.
    for n in [2, 1, 3] {
        assert_eq!(keep(a, None, n).await, KeepOutcome::Kept);
    }
    assert_eq!(keep(a, None, 4).await, KeepOutcome::Full);
    let ask = Ask { who: b, key: Some(key), resume: None };
    let joined = registry.join(&room, ask).await.expect("an answer");
    assert_eq!((joined.outcome, joined.mail), (JoinOutcome::Joined(a), vec![mail(1), mail(2), mail(3)]));
    assert_eq!(keep(a, None, 4).await, KeepOutcome::Present);
    assert_eq!(keep(a, Some(c), 4).await, KeepOutcome::Present);
    assert_eq!(keep(b, Some(a), 4).await, KeepOutcome::Gone, "who cannot come back");
    assert_eq!(keep(a, Some(b), 5).await, KeepOutcome::Kept);
    let large = Mail { serial: Serial { seat: 7, said: 6 }, body: vec![0; 100].into() };
    assert_eq!(registry.keep(&room, a, Some(b), large, 0, most).await, Ok(KeepOutcome::Full));
    let back = Occupant { peer: PeerId(Sid::new()), ..b };
    let resumed = registry.join(&room, Ask { who: back, key: None, resume: Some(key) }).await.expect("an answer");
    assert_eq!((resumed.outcome, resumed.mail), (JoinOutcome::Resumed(Role::Joined, b, Some(a)), vec![mail(5)]));
    // What was for one that left is not for the next.
    assert_eq!(keep(a, Some(back), 6).await, KeepOutcome::Kept);
    leave(&*registry, "r", back).await;
    let next = registry.join(&room, c.into()).await.expect("an answer");
    assert_eq!((next.outcome, next.mail), (JoinOutcome::Joined(a), vec![]));
    // Nor is what was said by one that left.
    leave(&*registry, "r", c).await;
    assert_eq!(keep(a, None, 7).await, KeepOutcome::Kept);
    leave(&*registry, "r", a).await;
    assert_eq!(registry.join(&room, a.into()).await.expect("an answer").mail, []);
    assert_eq!(registry.join(&room, b.into()).await.expect("an answer").mail, []);
    for who in [a, b] {
        leave(&*registry, "r", who).await;
    }
}

async fn many_at_once_get_two_seats(registry: Arc<dyn Registry>, node: NodeId) {
    for round in 0..50 {
        let name = format!("race-{round}");
        let seated = Arc::new(AtomicUsize::new(0));
        let tasks: Vec<_> = (0..40)
            .map(|_| {
                let (registry, seated, name) = (Arc::clone(&registry), Arc::clone(&seated), name.clone());
                tokio::spawn(async move {
                    let outcome = join(&*registry, &name, occupant(node)).await;
                    if outcome != JoinOutcome::Full {
                        seated.fetch_add(1, Ordering::SeqCst);
                    }
                    outcome
                })
            })
            .collect();
        let mut created = 0;
        for task in tasks {
            created += usize::from(task.await.expect("joined") == JoinOutcome::Created);
        }
        assert_eq!((created, seated.load(Ordering::SeqCst)), (1, SEATS), "round {round}");
    }
}

async fn joins_and_leaves_at_random_never_seat_a_third(registry: Arc<dyn Registry>, node: NodeId) {
    // Each task knows for sure that it sits from the answer to its join until it asks to leave.
    let seated = Arc::new(AtomicUsize::new(0));
    let tasks: Vec<_> = (0..16)
        .map(|_| {
            let (registry, seated) = (Arc::clone(&registry), Arc::clone(&seated));
            tokio::spawn(async move {
                let me = occupant(node);
                let mut times = 0;
                for _ in 0..300 {
                    if join(&*registry, "r", me).await != JoinOutcome::Full {
                        times += 1;
                        assert!(seated.fetch_add(1, Ordering::SeqCst) < SEATS, "a third is seated");
                        tokio::task::yield_now().await;
                        seated.fetch_sub(1, Ordering::SeqCst);
                        assert!(matches!(leave(&*registry, "r", me).await, LeaveOutcome::Left(_)));
                    }
                    tokio::task::yield_now().await;
                }
                times
            })
        })
        .collect();
    let mut times = 0;
    for task in tasks {
        times += task.await.expect("no third");
    }
    assert!(times > 0, "nobody was ever seated");
    assert_eq!(registry.occupancy().seats, 0);
}

/// A step of a random history.
#[derive(Debug, Clone)]
enum Step {
    Join { room: u8, peer: u8, generation: u8 },
    Leave { room: u8, peer: u8, generation: u8 },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = (any::<bool>(), 0..3_u8, 0..4_u8, 0..2_u8).prop_map(|(joins, room, peer, generation)| {
        if joins { Step::Join { room, peer, generation } } else { Step::Leave { room, peer, generation } }
    });
    proptest::collection::vec(step, 1..60)
}

/// A registry so simple that it is obviously right: for each room, who sits there, in the order of arrival.
#[derive(Default)]
struct Model(HashMap<u8, Vec<(Occupant, Role)>>);

impl Model {
    fn join(&mut self, room: u8, who: Occupant) -> JoinOutcome {
        let seats = self.0.entry(room).or_default();
        let other = seats.iter().map(|(occupant, _)| *occupant).find(|occupant| *occupant != who);
        if let Some((_, role)) = seats.iter().find(|(occupant, _)| *occupant == who) {
            return JoinOutcome::Seated(*role, other);
        }
        match (seats.len(), other) {
            (0, _) => {
                seats.push((who, Role::Created));
                JoinOutcome::Created
            }
            (1, Some(other)) => {
                seats.push((who, Role::Joined));
                JoinOutcome::Joined(other)
            }
            _ => JoinOutcome::Full,
        }
    }

    fn leave(&mut self, room: u8, who: Occupant) -> LeaveOutcome {
        let seats = self.0.entry(room).or_default();
        let before = seats.len();
        seats.retain(|(occupant, _)| *occupant != who);
        if seats.len() == before { LeaveOutcome::NotSeated } else { LeaveOutcome::Left(seats.first().map(|(o, _)| *o)) }
    }
}

/// Plays a history to a registry and to the model.
async fn agrees_with_the_model(registry: &dyn Registry, node: NodeId, history: &[Step], case: usize) {
    let peers: Vec<_> = (0..4).map(|_| PeerId(Sid::new())).collect();
    let who = |peer: u8, generation: u8| Occupant {
        peer: peers[usize::from(peer)],
        generation: Generation(u64::from(generation)),
        node,
    };
    let mut model = Model::default();
    for step in history {
        match *step {
            Step::Join { room, peer, generation } => {
                let who = who(peer, generation);
                assert_eq!(join(registry, &format!("{case}-{room}"), who).await, model.join(room, who), "{history:?}");
            }
            Step::Leave { room, peer, generation } => {
                let who = who(peer, generation);
                assert_eq!(
                    leave(registry, &format!("{case}-{room}"), who).await,
                    model.leave(room, who),
                    "{history:?}"
                );
            }
        }
    }
    let seats = model.0.values().map(Vec::len).sum::<usize>();
    let rooms = model.0.values().filter(|seats| !seats.is_empty()).count();
    assert_eq!((registry.occupancy().rooms, registry.occupancy().seats), (rooms, seats));
    for (room, seats) in model.0 {
        for (who, _) in seats {
            leave(registry, &format!("{case}-{room}"), who).await;
        }
    }
    assert_eq!(registry.occupancy(), duet::rooms::Occupancy::default());
}

/// The suite for one kind of registry. `$new` makes an empty one, and the node whose seats it takes.
macro_rules! registry_suite {
    ($kind:ident, $new:expr) => {
        mod $kind {
            use super::*;

            registry_suite!(@tests $new,
                first_creates_second_joins_third_is_told_full,
                joining_again_answers_as_the_first_time,
                a_seat_that_is_left_can_be_taken,
                a_leave_frees_only_its_own_seat,
                who_looks_sees_who_sits_there_and_changes_nothing,
                what_is_kept_is_for_who_takes_the_seat_back_or_for_who_comes_first,
                many_at_once_get_two_seats,
                joins_and_leaves_at_random_never_seat_a_third,
            );

            #[test]
            fn any_history_ends_as_the_model_says() {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
                let made = runtime.block_on($new);
                let case = AtomicUsize::new(0);
                proptest!(ProptestConfig::with_cases(512), |(history in steps())| {
                    let case = case.fetch_add(1, Ordering::SeqCst);
                    runtime.block_on(agrees_with_the_model(&*made.registry, made.node, &history, case));
                });
            }
        }
    };
    (@tests $new:expr, $($test:ident,)*) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
            async fn $test() {
                let made: Made = $new.await;
                super::$test(Arc::clone(&made.registry), made.node).await;
            }
        )*
    };
}

registry_suite!(memory, async {
    Made { registry: Arc::new(MemoryRegistry::default()), node: NodeId::random(), _redis: None }
});

registry_suite!(redis, redis_registry());

/// A registry to be tested, the node whose seats it takes, and what it lives on.
struct Made {
    registry: Arc<dyn Registry>,
    node: NodeId,
    _redis: Option<Redis>,
}

async fn redis_registry() -> Made {
    let redis = Redis::start(RedisOptions::default()).await;
    let environment = HashMap::from([
        ("DUET_REDIS__URL".to_owned(), redis.url()),
        ("DUET_CLUSTER__LEASE".to_owned(), "1s".to_owned()),
        ("DUET_CLUSTER__RENEW".to_owned(), "100ms".to_owned()),
    ]);
    let settings = Settings::load(None, environment).expect("settings");
    let node = NodeId::random();
    let lifecycle = Lifecycle::default();
    let deployment = Deployment::parse(&settings.redis).expect("a deployment");
    let metrics = Metrics::new().expect("metrics");
    let cluster =
        Cluster::new(deployment, &settings.redis, (&settings.cluster, &settings.seats), node, &metrics, &lifecycle);
    let nobody: Weak<dyn Addressee> = Weak::<Nobody>::new();
    cluster.run(&lifecycle, &nobody);
    wait_until("seats can be taken", || async { lifecycle.ready().is_ok() }).await;
    Made { registry: cluster.registry.clone(), node, _redis: Some(redis) }
}

/// Hears nothing.
struct Nobody;

impl Addressee for Nobody {
    fn deliver(&self, _: Letter) -> Delivery {
        Delivery::NoPeer
    }
    fn asked(&self, _: Question, _: Reply) {}
    fn node_lost(&self, _: NodeId, _: &dyn Fn(&RoomName) -> bool) {}
    fn seat_lost(&self, _: &RoomName, _: Occupant) {}
    fn left_late(&self, _: &RoomName, _: Occupant, _: Occupant) {}
}

#[tokio::test]
async fn rooms_in_memory_leave_nothing_behind() {
    let registry = MemoryRegistry::default();
    let who = occupant(NodeId::random());
    for n in 0..10_000 {
        join(&registry, &n.to_string(), who).await;
    }
    assert_eq!(registry.occupancy().rooms, 10_000);
    for n in 0..10_000 {
        leave(&registry, &n.to_string(), who).await;
    }
    assert_eq!(registry.occupancy(), duet::rooms::Occupancy::default());
}
