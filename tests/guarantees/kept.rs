//! Messages wait: what is said to a peer that is away, or has not come yet, is kept and handed over, in order and once.

use std::time::Duration;

use duet::node::Node;
use serde_json::{Value, json};

use crate::{
    resume::{grace, join, on_one_node_and_on_three, pair_with_token, resume, talk},
    support::{
        Client, Heard,
        cluster::{Cluster, lease, quick},
        metric, node,
        process::NodeProcess,
        redis::{Redis, RedisOptions},
        wait_until,
    },
};

fn kept() -> Value {
    json!({"ok": true, "kept": true})
}

/// Says numbered messages, all of which are kept.
async fn say_and_be_kept(client: &mut Client, numbers: std::ops::Range<u32>) {
    for n in numbers {
        assert_eq!(client.call(&json!(["message", n])).await, kept(), "{n}");
    }
}

/// Hears exactly these next, whatever else is not from its peer.
async fn hears(client: &mut Client, numbers: std::ops::Range<u32>) {
    for n in numbers {
        assert_eq!(client.until("message").await, [json!(n)]);
    }
}

async fn what_is_said_to_a_peer_that_is_away_waits_for_it_in_order(first: &Node, second: &Node, third: &Node) {
    let (mut a, mut b) = (Client::connect(first).await, Client::connect(second).await);
    let (_, token) = pair_with_token(&mut a, &mut b, "r").await;
    talk(&mut a, &mut b).await;
    drop(b);
    a.until("peer reconnecting").await;
    say_and_be_kept(&mut a, 0..10).await;
    assert_eq!(a.call(&json!(["offer", {"type": "offer", "sdp": "v=0", "room": "r"}])).await, kept());
    // Nobody waits for the answer to these.
    for n in 10..20 {
        a.emit(&json!(["message", n])).await;
    }
    assert_eq!(a.call(&json!(["ready", "r"])).await, kept());
    let mut back = Client::connect(third).await;
    assert_eq!(resume(&mut back, "r", &token).await["outcome"], "resumed");
    a.until("peer resumed").await;
    a.emit(&json!(["message", 20])).await;
    back.expect("resumed").await;
    back.expect("ready").await;
    hears(&mut back, 0..10).await;
    assert_eq!(back.expect("offer").await, [json!("v=0")]);
    hears(&mut back, 10..20).await;
    assert_eq!(back.expect("ready").await, [json!("r")]);
    hears(&mut back, 20..21).await;
    talk(&mut a, &mut back).await;

    // Once, and no more.
    drop(back);
    a.until("peer reconnecting").await;

    let mut again = Client::connect(second).await;
    assert_eq!(resume(&mut again, "r", &token).await["outcome"], "resumed");

    talk(&mut a, &mut again).await;

    wait_until("nothing is kept any more", || async { metric(first, "duet_kept_bytes").await == 0 }).await;
}

async fn more_than_may_be_kept_is_told(first: &Node, second: &Node, third: &Node) {
    let (mut a, mut b) = (Client::connect(first).await, Client::connect(second).await);
    let (_, token) = pair_with_token(&mut a, &mut b, "r").await;
    drop(b);
    a.until("peer reconnecting").await;
    say_and_be_kept(&mut a, 0..5).await;
    let refused = a.call(&json!(["message", "one more"])).await;
    assert_eq!((&refused["code"], &refused["retryable"]), (&json!("too_many_kept"), &json!(true)));
    let mut back = Client::connect(third).await;
    resume(&mut back, "r", &token).await;
    hears(&mut back, 0..5).await;
    a.until("peer resumed").await;
    talk(&mut a, &mut back).await;
}

async fn what_was_said_to_one_that_does_not_come_back_reaches_nobody_else(first: &Node, second: &Node, third: &Node) {
    let (mut a, mut b) = (Client::connect(first).await, Client::connect(second).await);
    pair_with_token(&mut a, &mut b, "r").await;
    drop(b);
    a.until("peer reconnecting").await;
    say_and_be_kept(&mut a, 0..5).await;
    a.expect("bye").await;
    assert_eq!(a.call(&json!(["message", "nobody?"])).await["code"], "no_peer");
    // For whoever comes, this is.
    let candidate = json!({"type": "candidate", "candidate": "c", "room": "r"});
    assert_eq!(a.call(&json!(["candidate", candidate])).await, kept());
    let mut c = Client::connect(third).await;
    assert_eq!(join(&mut c, "r").await["outcome"], "joined");
    for name in ["joined", "ready", "candidate"] {
        c.expect(name).await;
    }
    a.until("ready").await;
    assert_eq!(a.call(&json!(["message", "to the next"])).await, json!({"ok": true}));
    assert_eq!(c.expect("message").await, [json!("to the next")]);
}

async fn offers_and_candidates_wait_for_the_peer_that_has_not_come(first: &Node, second: &Node, _: &Node) {
    let (mut a, mut b) = (Client::connect(first).await, Client::connect(second).await);
    join(&mut a, "r").await;
    let candidate = |n: u32| json!({"type": "candidate", "label": 0, "candidate": n.to_string(), "room": "r"});
    assert_eq!(a.call(&json!(["offer", {"type": "offer", "sdp": "v=0", "room": "r"}])).await, kept());
    for n in 0..3 {
        assert_eq!(a.call(&json!(["candidate", candidate(n)])).await, kept());
    }
    for other in [json!(["message", "x"]), json!(["ready", "r"]), json!(["answer", {"sdp": "v=0", "room": "r"}])] {
        assert_eq!(a.call(&other).await["code"], "no_peer", "{other}");
    }
    assert_eq!(join(&mut b, "r").await["outcome"], "joined");
    for name in ["joined", "ready"] {
        b.expect(name).await;
    }
    assert_eq!(b.expect("offer").await, [json!("v=0")]);
    for n in 0..3 {
        assert_eq!(b.expect("candidate").await, [candidate(n)]);
    }
    a.until("ready").await;
    talk(&mut a, &mut b).await;
}

async fn what_is_too_old_for_the_peer_that_comes_is_not_handed_over(first: &Node, second: &Node, _: &Node) {
    let (mut a, mut b) = (Client::connect(first).await, Client::connect(second).await);
    join(&mut a, "r").await;
    assert_eq!(a.call(&json!(["offer", {"type": "offer", "sdp": "old", "room": "r"}])).await, kept());
    // Its age is what this is about.
    tokio::time::sleep(Duration::from_millis(600)).await;
    assert_eq!(join(&mut b, "r").await["outcome"], "joined");
    a.until("ready").await;
    talk(&mut a, &mut b).await;
}

async fn what_one_said_that_is_lost_itself_is_there_for_the_other(first: &Node, second: &Node, third: &Node) {
    let (mut a, mut b) = (Client::connect(first).await, Client::connect(second).await);
    let (one, two) = pair_with_token(&mut a, &mut b, "r").await;
    drop(b);
    a.until("peer reconnecting").await;
    say_and_be_kept(&mut a, 0..5).await;
    drop(a);
    wait_until("both are lost", || async {
        metric(first, "duet_seats_kept").await + metric(second, "duet_seats_kept").await >= 2
    })
    .await;
    // One comes back elsewhere, and goes on talking.
    let mut a = Client::connect(third).await;
    assert_eq!(resume(&mut a, "r", &one).await["outcome"], "resumed");
    a.until("peer reconnecting").await;
    say_and_be_kept(&mut a, 5..10).await;
    let mut b = Client::connect(first).await;
    assert_eq!(resume(&mut b, "r", &two).await["outcome"], "resumed");
    hears(&mut b, 0..10).await;
    a.until("peer resumed").await;
    talk(&mut a, &mut b).await;
}

/// One talks without a pause, and the other is lost and comes back again and again.
async fn nothing_that_is_kept_is_lost_or_comes_twice_however_often(first: &Node, second: &Node, third: &Node) {
    let (mut a, mut b) = (Client::connect(first).await, Client::connect(second).await);
    let (_, token) = pair_with_token(&mut a, &mut b, "r").await;
    let (end, mut ended) = tokio::sync::oneshot::channel::<()>();
    let talking = tokio::spawn(async move {
        let (mut n, mut kept_ones) = (0_u64, Vec::new());
        while ended.try_recv().is_err() {
            let answer = a.call(&json!(["message", n])).await;
            if answer == kept() {
                kept_ones.push(n);
            } else if answer["ok"] != true {
                assert!(answer["retryable"] == true, "{answer}");
            }
            n += 1;
        }
        (a, n, kept_ones)
    });
    let mut heard: Vec<u64> = Vec::new();
    for round in 0..30 {
        // A few, and then away in the middle of it.
        for _ in 0..=round % 7 {
            heard.push(b.until("message").await[0].as_u64().expect("a number"));
        }
        heard.extend(b.hang_up().await.into_iter().filter_map(|heard| match heard {
            Heard::Event(name, arguments) if name == "message" => arguments[0].as_u64(),
            _ => None,
        }));
        b = Client::connect([third, second, first][round % 3]).await;
        assert_eq!(resume(&mut b, "r", &token).await["outcome"], "resumed");
        // What was handed over comes before this answer: no connection breaks with it still on its way.
        assert_eq!(b.call(&json!(["ipaddr"])).await["ok"], true);
    }
    end.send(()).expect("it talks");
    let (mut a, said, kept_ones) = talking.await.expect("it talked");
    assert_eq!(a.call(&json!(["message", "the end"])).await["ok"], true);
    while let Value::Number(n) = &b.until("message").await[0] {
        heard.push(n.as_u64().expect("a number"));
    }
    assert!(heard.is_sorted_by(|one, next| one < next), "in order, and once: {heard:?}");
    let missing: Vec<_> = kept_ones.iter().filter(|n| heard.binary_search(n).is_err()).collect();
    assert!(missing.is_empty(), "of {said} said and {} kept: {missing:?}", kept_ones.len());
}

on_one_node_and_on_three!(
    "15s": what_is_said_to_a_peer_that_is_away_waits_for_it_in_order,
    "15s" and "DUET_SEATS__KEEP_MESSAGES" "5": more_than_may_be_kept_is_told,
    "1500ms": what_was_said_to_one_that_does_not_come_back_reaches_nobody_else,
    "15s": offers_and_candidates_wait_for_the_peer_that_has_not_come,
    "15s" and "DUET_SEATS__KEEP_AGE" "500ms": what_is_too_old_for_the_peer_that_comes_is_not_handed_over,
    "15s": what_one_said_that_is_lost_itself_is_there_for_the_other,
    "15s": nothing_that_is_kept_is_lost_or_comes_twice_however_often,
);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_kept_is_bounded_in_bytes_for_a_peer_and_for_a_node() {
    for (name, bytes) in [("DUET_SEATS__KEEP_BYTES", "30000"), ("DUET_SEATS__KEEP_BYTES_TOTAL", "30000")] {
        let node = node(&[(name, bytes)]).await;
        let (mut a, mut b) = (Client::connect(&node).await, Client::connect(&node).await);
        let (_, token) = pair_with_token(&mut a, &mut b, "r").await;
        drop(b);
        a.until("peer reconnecting").await;
        let message = json!(["message", "x".repeat(10_000)]);
        assert_eq!(a.call(&message).await, kept());
        assert_eq!(a.call(&message).await, kept());
        assert_eq!(a.call(&message).await["code"], "too_many_kept", "{name}");
        let mut back = Client::connect(&node).await;
        resume(&mut back, "r", &token).await;
        for _ in 0..2 {
            assert_eq!(back.until("message").await, [message[1].clone()]);
        }
        talk(&mut a, &mut back).await;
        node.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_kept_where_it_is_switched_off() {
    let node = node(&[("DUET_SEATS__KEEP_MESSAGES", "0")]).await;
    let (mut a, mut b) = (Client::connect(&node).await, Client::connect(&node).await);
    pair_with_token(&mut a, &mut b, "r").await;
    drop(b);
    a.until("peer reconnecting").await;
    assert_eq!(a.call(&json!(["message", "x"])).await["code"], "no_peer");
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_kept_outlives_the_node_of_whom_it_is_for_and_that_of_who_said_it() {
    let redis = Redis::start(RedisOptions::default()).await;
    let mut nodes = NodeProcess::start_all(&vec![redis.url(); 3], &grace(lease("1500ms", "150ms"), "15s")).await;
    let (mut a, mut b) = (Client::connect_to(nodes[0].public).await, Client::connect_to(nodes[1].public).await);
    let (one, two) = pair_with_token(&mut a, &mut b, "r").await;
    nodes[1].kill();
    a.until("peer reconnecting").await;
    say_and_be_kept(&mut a, 0..5).await;
    nodes[0].kill();
    let mut b = Client::connect_to(nodes[2].public).await;
    assert_eq!(resume(&mut b, "r", &two).await["outcome"], "resumed");
    hears(&mut b, 0..5).await;
    let mut a = Client::connect_to(nodes[2].public).await;
    assert_eq!(resume(&mut a, "r", &one).await["outcome"], "resumed");
    b.until("peer resumed").await;
    talk(&mut a, &mut b).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_kept_outlives_a_redis_that_comes_back_empty() {
    let mut redis = Redis::start(RedisOptions::default()).await;
    let nodes = Cluster::start(&redis.url(), 2, &grace(quick(), "15s")).await;
    let (mut a, mut b) = (Client::connect(&nodes[0]).await, Client::connect(&nodes[1]).await);
    let (_, token) = pair_with_token(&mut a, &mut b, "r").await;
    drop(b);
    a.until("peer reconnecting").await;
    say_and_be_kept(&mut a, 0..5).await;
    redis.restart().await;
    let mut n = 5;
    // While Redis cannot tell, neither can the node.
    loop {
        let answer = a.call(&json!(["message", n])).await;
        if answer == kept() {
            break;
        }
        assert_eq!(answer["code"], "unavailable", "{answer}");
    }
    n += 1;
    let mut back = Client::connect(&nodes[0]).await;
    while resume(&mut back, "r", &token).await["outcome"] != "resumed" {}
    // The last may have been kept for a request that was told otherwise, too.
    hears(&mut back, 0..n).await;
    a.until("peer resumed").await;
    nodes.stop().await;
}
