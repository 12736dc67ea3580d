//! A seat outlives its connection: it is kept, taken back by whoever has its token, and waited for.

use std::time::{Duration, Instant};

use duet::node::Node;
use serde_json::{Value, json};

use crate::support::{
    Client,
    cluster::{Cluster, Variables, lease, quick},
    metric, node,
    process::NodeProcess,
    redis::{Redis, RedisOptions},
    wait_until,
};

/// Settings with that much grace.
pub fn grace(settings: Variables, grace: &str) -> Variables {
    [settings, vec![("DUET_SEATS__GRACE".into(), grace.into())]].concat()
}

pub async fn join(client: &mut Client, room: &str) -> Value {
    client.call(&json!(["create or join", room, {}])).await
}

pub async fn resume(client: &mut Client, room: &str, token: &Value) -> Value {
    client.call(&json!(["create or join", room, {"resume": token}])).await
}

/// Two peers in a room, and the second's token.
pub async fn pair_with_token(first: &mut Client, second: &mut Client, room: &str) -> (Value, Value) {
    let one = join(first, room).await;
    assert_eq!(one["outcome"], "created", "{one}");
    let two = join(second, room).await;
    assert_eq!(two["outcome"], "joined", "{two}");
    for client in [first, second] {
        client.until("ready").await;
    }
    (one["resume"].clone(), two["resume"].clone())
}

/// Both say something, and each hears the other.
pub async fn talk(one: &mut Client, other: &mut Client) {
    assert_eq!(one.call(&json!(["message", "to the other"])).await, json!({"ok": true}));
    assert_eq!(other.until("message").await, [json!("to the other")]);
    assert_eq!(other.call(&json!(["message", "to the one"])).await, json!({"ok": true}));
    assert_eq!(one.until("message").await, [json!("to the one")]);
}

async fn a_lost_peer_takes_its_seat_back_and_nobody_else_does(first: &Node, second: &Node, third: &Node) {
    let (mut a, mut b) = (Client::connect(first).await, Client::connect(second).await);
    let (_, token) = pair_with_token(&mut a, &mut b, "r").await;
    let before = b.id.clone();
    drop(b);
    let told = a.until("peer reconnecting").await;
    assert_eq!((&told[0], &told[1]["id"]), (&json!("r"), &json!(before)));
    assert!(told[1]["grace_ms"].as_u64().is_some_and(|grace| grace > 0 && grace <= 15_000), "{told:?}");
    let mut stranger = Client::connect(third).await;
    assert_eq!(join(&mut stranger, "r").await["code"], "full");
    let wrong = json!("00".repeat(16));
    assert_eq!(resume(&mut stranger, "r", &wrong).await["code"], "full");
    let mut back = Client::connect(third).await;
    let answer = resume(&mut back, "r", &token).await;
    assert_eq!((&answer["outcome"], &answer["id"]), (&json!("resumed"), &json!(back.id)), "{answer}");
    assert_eq!(answer["resume"], token);
    assert_eq!(a.expect("peer resumed").await, [json!("r"), json!({"id": back.id, "was": before})]);
    back.until("ready").await;
    talk(&mut a, &mut back).await;
    assert_eq!(join(&mut stranger, "r").await["code"], "full");
}

async fn a_seat_is_taken_back_while_the_old_connection_is_believed_alive(first: &Node, second: &Node, third: &Node) {
    let (mut a, mut old) = (Client::connect(first).await, Client::connect(second).await);
    let (_, token) = pair_with_token(&mut a, &mut old, "r").await;
    let mut new = Client::connect(third).await;
    assert_eq!(resume(&mut new, "r", &token).await["outcome"], "resumed");
    assert_eq!(a.until("peer resumed").await[1], json!({"id": new.id, "was": old.id}));
    // Nothing that the old one says now reaches anybody.
    old.emit(&json!(["message", "from the past"])).await;
    let rejected = old.until("rejected").await;
    assert_eq!(rejected[0]["code"], "superseded");
    assert!(old.is_closed_by_server().await);
    talk(&mut a, &mut new).await;
}

async fn a_seat_that_nobody_takes_back_is_free_after_the_grace_time(first: &Node, second: &Node, third: &Node) {
    let (mut a, mut b) = (Client::connect(first).await, Client::connect(second).await);
    let (_, token) = pair_with_token(&mut a, &mut b, "r").await;
    let before = b.id.clone();
    drop(b);
    a.until("peer reconnecting").await;
    assert_eq!(a.expect("bye").await, [json!("r"), json!({"id": before, "reason": "disconnected"})]);
    let mut late = Client::connect(third).await;
    assert_eq!(resume(&mut late, "r", &token).await["outcome"], "joined", "as anybody");
    a.until("ready").await;
    talk(&mut a, &mut late).await;
}

async fn a_clean_leave_frees_the_seat_at_once(first: &Node, second: &Node, third: &Node) {
    let (mut a, mut b) = (Client::connect(first).await, Client::connect(second).await);
    pair_with_token(&mut a, &mut b, "r").await;
    // DISCONNECT, as `socket.disconnect()` sends it.
    b.send_text("41").await;
    assert_eq!(a.until("bye").await[1], json!({"id": b.id, "reason": "disconnected"}));
    let mut c = Client::connect(third).await;
    pair_up(&mut a, &mut c).await;
    c.emit(&json!(["bye", "r"])).await;
    assert_eq!(a.until("bye").await[1], json!({"id": c.id, "reason": "left"}));
}

async fn pair_up(present: &mut Client, second: &mut Client) {
    assert_eq!(join(second, "r").await["outcome"], "joined");
    present.until("ready").await;
}

async fn who_has_no_token_holds_no_seat_when_it_is_lost(first: &Node, second: &Node, _: &Node) {
    let (mut a, mut b) = (Client::connect(first).await, Client::connect(second).await);
    join(&mut a, "r").await;
    // As clients do that know nothing of tokens.
    let answer = b.call(&json!(["create or join", "r"])).await;
    assert_eq!((&answer["outcome"], &answer["resume"]), (&json!("joined"), &Value::Null));
    a.until("ready").await;
    drop(b);
    assert_eq!(a.hear().await.name(), "bye");
    let mut again = Client::connect(second).await;
    assert_eq!(again.call(&json!(["create or join", "r"])).await["outcome"], "joined");
}

async fn both_are_lost_and_come_back(first: &Node, second: &Node, third: &Node) {
    let (mut a, mut b) = (Client::connect(first).await, Client::connect(second).await);
    let (one, two) = pair_with_token(&mut a, &mut b, "r").await;
    drop(a);
    b.until("peer reconnecting").await;
    drop(b);
    wait_until("both are lost", || async { kept(first).await + kept(second).await >= 2 }).await;
    let mut b = Client::connect(third).await;
    assert_eq!(resume(&mut b, "r", &two).await["outcome"], "resumed");
    b.until("peer reconnecting").await;
    let mut a = Client::connect(second).await;
    assert_eq!(resume(&mut a, "r", &one).await["outcome"], "resumed");
    b.until("peer resumed").await;
    a.until("ready").await;
    talk(&mut a, &mut b).await;
}

/// Seats kept by a node; when the nodes are one, each counts twice.
async fn kept(node: &Node) -> u64 {
    metric(node, "duet_seats_kept").await
}

/// Right before its answer or right after it, on the same node or on another.
async fn who_comes_as_the_other_is_lost_is_told_so(first: &Node, second: &Node, _: &Node) {
    for round in 0..100 {
        let node = [first, second][round % 2];
        let (mut a, mut b) = (Client::connect(first).await, Client::connect(node).await);
        let (room, lost) = (format!("r{round}"), a.id.clone());
        join(&mut a, &room).await;
        let answer = as_it_is_lost(a, round, join(&mut b, &room)).await;
        assert_eq!(answer["outcome"], "joined");
        assert_eq!(b.until("peer reconnecting").await[1]["id"], lost);

        let (mut a, mut b) = (Client::connect(first).await, Client::connect(second).await);
        let (room, lost) = (format!("again {round}"), a.id.clone());
        let (_, token) = pair_with_token(&mut a, &mut b, &room).await;
        let mut back = Client::connect(node).await;
        let answer = as_it_is_lost(a, round, resume(&mut back, &room, &token)).await;
        assert_eq!(answer["outcome"], "resumed");
        assert_eq!(back.until("peer reconnecting").await[1]["id"], lost);
    }
}

/// `answer`; meanwhile, or as soon as it is there, `client` is lost.
async fn as_it_is_lost(client: Client, round: usize, answer: impl Future<Output = Value>) -> Value {
    if round % 4 < 2 {
        let answer = answer.await;
        drop(client);
        return answer;
    }
    let losing = async {
        tokio::time::sleep(Duration::from_micros(20 * round as u64)).await;
        drop(client);
    };
    tokio::join!(answer, losing).0
}

async fn two_that_resume_at_once_end_as_one(first: &Node, second: &Node, third: &Node) {
    for _ in 0..10 {
        let (mut a, mut b) = (Client::connect(first).await, Client::connect(second).await);
        let (_, token) = pair_with_token(&mut a, &mut b, "r").await;
        let (mut one, mut other) = (Client::connect(second).await, Client::connect(third).await);
        let answers = tokio::join!(resume(&mut one, "r", &token), resume(&mut other, "r", &token));
        assert_eq!((&answers.0["outcome"], &answers.1["outcome"]), (&json!("resumed"), &json!("resumed")));
        // The one that came first is told, and closed.
        let (closed, open) = tokio::select! {
            true = one.is_closed_by_server() => (one, &mut other),
            true = other.is_closed_by_server() => (other, &mut one),
        };
        drop(closed);
        while a.until("peer resumed").await[1]["id"] != open.id {}
        talk(&mut a, open).await;
        for client in [&mut a, open] {
            client.call(&json!(["bye", "r"])).await;
        }
    }
}

async fn who_waits_gets_the_seat_that_comes_free(first: &Node, second: &Node, third: &Node) {
    let (mut a, mut b) = (Client::connect(first).await, Client::connect(second).await);
    pair_with_token(&mut a, &mut b, "r").await;
    let mut waits = Client::connect(third).await;
    let answer = waits.call(&json!(["create or join", "r", {"wait": true}])).await;
    assert_eq!((&answer["ok"], &answer["outcome"]), (&json!(true), &json!("waiting")));
    assert_eq!(waits.expect("waiting").await, [json!("r")]);
    assert_eq!(waits.call(&json!(["message", "x"])).await["code"], "not_in_room");
    b.emit(&json!(["bye", "r"])).await;
    let joined = waits.expect("joined").await;
    assert_eq!((&joined[0], &joined[1]), (&json!("r"), &json!(waits.id)));
    waits.expect("ready").await;
    a.until("bye").await;
    a.until("ready").await;
    talk(&mut a, &mut waits).await;
    // The token that came with the event is as good as any.
    drop(waits);
    a.until("peer reconnecting").await;
    let mut back = Client::connect(second).await;
    assert_eq!(resume(&mut back, "r", &joined[2]["resume"]).await["outcome"], "resumed");
}

/// Each guarantee on one node, and with the peers on three.
macro_rules! on_one_node_and_on_three {
    ($($grace:literal $(and $name:literal $value:literal)*: $test:ident,)*) => {
        mod alone {
            use super::*;
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $test() {
                let node = node(&[("DUET_SEATS__GRACE", $grace), $(($name, $value))*]).await;
                super::$test(&node, &node, &node).await;
                node.stop().await;
            })*
        }
        mod apart {
            use super::*;
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $test() {
                let redis = Redis::start(RedisOptions::default()).await;
                let settings = [grace(quick(), $grace), vec![$(($name.into(), $value.into()))*]].concat();
                let nodes = Cluster::start(&redis.url(), 3, &settings).await;
                super::$test(&nodes[0], &nodes[1], &nodes[2]).await;
                nodes.stop().await;
            })*
        }
    };
}

pub(crate) use on_one_node_and_on_three;

on_one_node_and_on_three!(
    "15s": a_lost_peer_takes_its_seat_back_and_nobody_else_does,
    "15s": a_seat_is_taken_back_while_the_old_connection_is_believed_alive,
    "1500ms": a_seat_that_nobody_takes_back_is_free_after_the_grace_time,
    "15s": a_clean_leave_frees_the_seat_at_once,
    "15s": who_has_no_token_holds_no_seat_when_it_is_lost,
    "15s": both_are_lost_and_come_back,
    "15s": who_comes_as_the_other_is_lost_is_told_so,
    "15s": two_that_resume_at_once_end_as_one,
    "15s": who_waits_gets_the_seat_that_comes_free,
);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_grace_nobody_is_told_a_token_and_a_lost_peer_is_gone() {
    let node = node(&[("DUET_SEATS__GRACE", "0s")]).await;
    let (mut a, mut b) = (Client::connect(&node).await, Client::connect(&node).await);
    let (_, token) = pair_with_token(&mut a, &mut b, "r").await;
    assert_eq!(token, Value::Null);
    drop(b);
    assert_eq!(a.hear().await.name(), "bye");
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_is_shown_at_the_handshake_as_well() {
    let node = node(&[]).await;
    let (mut a, mut b) = (Client::connect(&node).await, Client::connect(&node).await);
    let (_, token) = pair_with_token(&mut a, &mut b, "r").await;
    drop(b);
    a.until("peer reconnecting").await;
    let mut back = Client::connect_with(node.public, &json!({"resume": token})).await;
    assert_eq!(join(&mut back, "r").await["outcome"], "resumed");
    a.until("peer resumed").await;
    node.stop().await;
}

#[tokio::test]
async fn what_follows_the_room_is_of_the_documented_form_or_refused() {
    let node = node(&[]).await;
    let mut client = Client::connect(&node).await;
    for wrong in [json!({"resume": 1}), json!({"wait": "yes"}), json!({"resume": {}})] {
        assert_eq!(client.call(&json!(["create or join", "r", wrong])).await["code"], "bad_payload");
    }
    for ignored in [json!(null), json!("text"), json!([1]), json!({}), json!({"resume": "no token", "more": 1})] {
        assert_eq!(client.call(&json!(["create or join", "r", ignored])).await["ok"], true);
    }
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_whose_node_was_killed_takes_its_seat_back_on_another_at_once_and_later() {
    let redis = Redis::start(RedisOptions::default()).await;
    let settings = grace(lease("1500ms", "150ms"), "15s");
    for wait_for_the_lease in [false, true] {
        let mut nodes = NodeProcess::start_all(&vec![redis.url(); 3], &settings).await;
        let (mut a, mut b) = (Client::connect_to(nodes[0].public).await, Client::connect_to(nodes[1].public).await);
        let (_, token) = pair_with_token(&mut a, &mut b, "r").await;
        nodes[1].kill();
        if wait_for_the_lease {
            a.until("peer reconnecting").await;
            let mut stranger = Client::connect_to(nodes[2].public).await;
            assert_eq!(join(&mut stranger, "r").await["code"], "full");
        }
        let mut back = Client::connect_to(nodes[2].public).await;
        let asked = Instant::now();
        assert_eq!(resume(&mut back, "r", &token).await["outcome"], "resumed");
        assert!(asked.elapsed() < Duration::from_secs(1), "{:?}", asked.elapsed());
        a.until("peer resumed").await;
        talk(&mut a, &mut back).await;
        for client in [&mut a, &mut back] {
            client.call(&json!(["bye", "r"])).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_on_its_way_to_a_killed_node_is_not_waited_for_when_the_peer_is_back() {
    let redis = Redis::start(RedisOptions::default()).await;
    let mut nodes = NodeProcess::start_all(&vec![redis.url(); 3], &grace(lease("7s", "1s"), "15s")).await;
    let (mut a, mut b) = (Client::connect_to(nodes[0].public).await, Client::connect_to(nodes[1].public).await);
    let (_, token) = pair_with_token(&mut a, &mut b, "r").await;
    talk(&mut a, &mut b).await;
    nodes[1].kill();
    let mut back = Client::connect_to(nodes[2].public).await;
    let asked = Instant::now();
    let message = json!(["message", "on its way"]);
    let (answer, ()) = tokio::join!(a.call(&message), async {
        assert_eq!(resume(&mut back, "r", &token).await["outcome"], "resumed");
    });
    if answer["ok"] != true {
        assert_eq!((&answer["code"], &answer["retryable"]), (&json!("unavailable"), &json!(true)));
    }
    // Half of `cluster.patience`, after which it would be told in any case.
    assert!(asked.elapsed() < Duration::from_millis(2500), "{:?}", asked.elapsed());
    a.until("peer resumed").await;
    talk(&mut a, &mut back).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_seat_of_a_peer_on_a_killed_node_is_free_when_the_grace_time_is_over() {
    let redis = Redis::start(RedisOptions::default()).await;
    let mut nodes = NodeProcess::start_all(&vec![redis.url(); 2], &grace(lease("1s", "100ms"), "3s")).await;
    let (mut a, mut b) = (Client::connect_to(nodes[0].public).await, Client::connect_to(nodes[1].public).await);
    pair_with_token(&mut a, &mut b, "r").await;
    let mut alone = Client::connect_to(nodes[1].public).await;
    join(&mut alone, "nobody else").await;
    let killed = Instant::now();
    nodes[1].kill();
    a.until("peer reconnecting").await;
    assert_eq!(a.expect("bye").await[1], json!({"id": b.id, "reason": "node_lost"}));
    assert!(killed.elapsed() > Duration::from_secs(2), "{:?}", killed.elapsed());
    let redis = &redis;
    wait_until("the sweep has freed the room that nobody met", || async move {
        !redis.command(&["KEYS", "*"]).await.contains("nobody else")
    })
    .await;
    let mut next = Client::connect_to(nodes[0].public).await;
    assert_eq!(join(&mut next, "r").await["outcome"], "joined");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pair_comes_through_the_restart_of_its_node_with_its_seats() {
    let redis = Redis::start(RedisOptions::default()).await;
    let mut nodes = NodeProcess::start_all(&vec![redis.url(); 2], &grace(lease("1500ms", "150ms"), "15s")).await;
    let (mut a, mut b) = (Client::connect_to(nodes[0].public).await, Client::connect_to(nodes[0].public).await);
    let (one, two) = pair_with_token(&mut a, &mut b, "r").await;
    let mut first = nodes.remove(0);
    let stopping = tokio::task::spawn_blocking(move || first.terminate());
    tokio::join!(a.is_closed_by_server(), b.is_closed_by_server());
    stopping.await.expect("stopped");
    let mut stranger = Client::connect_to(nodes[0].public).await;
    assert_eq!(join(&mut stranger, "r").await["code"], "full");
    let mut a = Client::connect_to(nodes[0].public).await;
    assert_eq!(resume(&mut a, "r", &one).await["outcome"], "resumed");
    let mut b = Client::connect_to(nodes[0].public).await;
    assert_eq!(resume(&mut b, "r", &two).await["outcome"], "resumed");
    a.until("ready").await;
    b.until("ready").await;
    talk(&mut a, &mut b).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frozen_node_that_wakes_has_lost_what_others_took_back() {
    let redis = Redis::start(RedisOptions::default()).await;
    let nodes = NodeProcess::start_all(&vec![redis.url(); 2], &grace(lease("1500ms", "150ms"), "15s")).await;
    let (mut a, mut old) = (Client::connect_to(nodes[0].public).await, Client::connect_to(nodes[1].public).await);
    let (_, token) = pair_with_token(&mut a, &mut old, "r").await;
    nodes[1].freeze();
    old.emit(&json!(["message", "from the past"])).await;
    let mut back = Client::connect_to(nodes[0].public).await;
    assert_eq!(resume(&mut back, "r", &token).await["outcome"], "resumed");
    a.until("peer resumed").await;
    nodes[1].wake();
    assert!(old.is_closed_by_server().await);
    // The next it hears is of the new connection.
    assert_eq!(back.call(&json!(["message", "here"])).await, json!({"ok": true}));
    assert_eq!(a.until("message").await, [json!("here")]);
    talk(&mut a, &mut back).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_restarted_empty_costs_no_seat_that_was_taken_back_or_is_kept() {
    let mut redis = Redis::start(RedisOptions::default()).await;
    let nodes = Cluster::start(&redis.url(), 2, &grace(quick(), "15s")).await;
    let (mut a, mut b) = (Client::connect(&nodes[0]).await, Client::connect(&nodes[1]).await);
    let (_, token) = pair_with_token(&mut a, &mut b, "r").await;
    let (mut c, mut d) = (Client::connect(&nodes[0]).await, Client::connect(&nodes[1]).await);
    let (_, other_token) = pair_with_token(&mut c, &mut d, "s").await;
    // One was taken back before, on the other node; one is kept meanwhile.
    let mut b2 = Client::connect(&nodes[0]).await;
    assert_eq!(resume(&mut b2, "r", &token).await["outcome"], "resumed");
    a.until("peer resumed").await;
    drop(d);
    c.until("peer reconnecting").await;
    redis.restart().await;
    let mut stranger = Client::connect(&nodes[1]).await;
    for room in ["r", "s"] {
        let answer = loop {
            let answer = join(&mut stranger, room).await;
            if answer["code"] != "unavailable" {
                break answer;
            }
        };
        assert_eq!(answer["code"], "full", "{room}: {answer}");
    }
    talk(&mut a, &mut b2).await;
    let mut d = Client::connect(&nodes[0]).await;
    assert_eq!(resume(&mut d, "s", &other_token).await["outcome"], "resumed");
    c.until("peer resumed").await;
    talk(&mut c, &mut d).await;
    nodes.stop().await;
}
