//! What was handed to a connection that was dead already is not lost: a peer that comes back and tells how much it heard gets the
//! rest, in order and once.

use std::time::Duration;

use duet::node::Node;
use serde_json::{Value, json};

use crate::{
    resume::{grace, on_one_node_and_on_three, pair_with_token, resume},
    support::{
        Client, Heard, PATIENCE,
        chaos::{ChaosProxy, Mode},
        cluster::{Cluster, lease, quick},
        metric, node,
        process::NodeProcess,
        redis::{Redis, RedisOptions},
        wait_until,
    },
};

/// Takes a seat, and back if there is a token, and tells that it counts, or how far.
async fn join_counting(client: &mut Client, token: &Value, heard: Value) -> Value {
    let options = if token.is_null() { json!({"heard": heard}) } else { json!({"resume": token, "heard": heard}) };
    client.call(&json!(["create or join", "r", options])).await
}

/// Two peers in a room, both of which count, and their tokens.
async fn pair(first: &mut Client, second: &mut Client) -> (Value, Value) {
    let one = join_counting(first, &Value::Null, json!(true)).await;
    let two = join_counting(second, &Value::Null, json!(true)).await;
    assert_eq!((&one["outcome"], &two["outcome"]), (&json!("created"), &json!("joined")));
    for client in [first, second] {
        client.until("ready").await;
    }
    (one["resume"].clone(), two["resume"].clone())
}

async fn say(client: &mut Client, numbers: std::ops::Range<u32>, answer: &Value) {
    for n in numbers {
        assert_eq!(client.call(&json!(["message", n])).await, *answer, "{n}");
    }
}

async fn hears(client: &mut Client, numbers: std::ops::Range<u32>) {
    for n in numbers {
        assert_eq!(client.until("message").await, [json!(n)]);
    }
}

fn ok() -> Value {
    json!({"ok": true})
}

fn kept() -> Value {
    json!({"ok": true, "kept": true})
}

async fn what_a_dead_connection_swallowed_is_sent_again(first: &Node, second: &Node, third: &Node) {
    for victim in [1, 0] {
        let mut pair_of = [Client::connect(first).await, Client::connect(second).await];
        let [one, other] = &mut pair_of;
        let tokens = pair(one, other).await;
        let [mut a, mut b] = pair_of;
        let mut token = &tokens.1;
        if victim == 0 {
            (a, b, token) = (b, a, &tokens.0);
        }
        // The first was told of the other, the second was not.
        let peers = 1 - victim;
        say(&mut a, 0..2, &ok()).await;
        let offer = json!(["offer", {"type": "offer", "sdp": "v=0", "room": "r"}]);
        assert_eq!(a.call(&offer).await, ok());
        // Which no client counts.
        assert_eq!(a.call(&json!(["ready", "r"])).await, ok());
        say(&mut a, 2..6, &ok()).await;
        // It has heard four by then. For all that anybody knows it is there.
        let heard = json!({"id": b.id, "peers": peers, "messages": 4});
        let mut back = Client::connect(third).await;
        assert_eq!(join_counting(&mut back, token, heard).await["outcome"], "resumed");
        a.until("peer resumed").await;
        say(&mut a, 6..8, &ok()).await;
        hears(&mut back, 3..8).await;
        // And once more, from there.
        let heard = json!({"id": back.id, "peers": 0, "messages": 3});
        let mut again = Client::connect(second).await;
        assert_eq!(join_counting(&mut again, token, heard).await["outcome"], "resumed");
        a.until("peer resumed").await;
        hears(&mut again, 6..8).await;
        assert_eq!(a.call(&json!(["bye", "r"])).await, ok());
        assert_eq!(again.call(&json!(["bye", "r"])).await, ok());
    }
}

async fn what_was_swallowed_comes_before_what_was_kept(first: &Node, second: &Node, third: &Node) {
    let (mut a, mut b) = (Client::connect(first).await, Client::connect(second).await);
    let (_, token) = pair(&mut a, &mut b).await;
    say(&mut a, 0..5, &ok()).await;
    let heard = json!({"id": b.id, "peers": 0, "messages": 2});
    drop(b);
    a.until("peer reconnecting").await;
    say(&mut a, 5..10, &kept()).await;
    let mut back = Client::connect(third).await;
    assert_eq!(join_counting(&mut back, &token, heard).await["outcome"], "resumed");
    a.until("peer resumed").await;
    say(&mut a, 10..12, &ok()).await;
    hears(&mut back, 2..12).await;
    // What was kept has its place in the count.
    let heard = json!({"id": back.id, "peers": 0, "messages": 6});
    let mut again = Client::connect(first).await;
    assert_eq!(join_counting(&mut again, &token, heard).await["outcome"], "resumed");
    a.until("peer resumed").await;
    say(&mut a, 12..13, &ok()).await;
    hears(&mut again, 8..13).await;
}

async fn who_does_not_tell_what_it_heard_gets_nothing_twice(first: &Node, second: &Node, third: &Node) {
    let (mut a, mut b) = (Client::connect(first).await, Client::connect(second).await);
    let (_, token) = pair(&mut a, &mut b).await;
    let stranger = Client::connect(first).await;
    let no_more = json!([
        null,
        true,
        false,
        {"id": "no id", "peers": 0, "messages": 0},
        {"id": stranger.id, "peers": 0, "messages": 0},
        {"id": "own", "peers": 7, "messages": 0},
        {"id": "own", "peers": 0, "messages": u64::MAX},
    ]);
    let mut last = b;
    for (n, heard) in (0..).step_by(2).zip(no_more.as_array().expect("a list")) {
        say(&mut a, n..n + 1, &ok()).await;
        hears(&mut last, n..n + 1).await;
        let mut heard = heard.clone();
        if heard["id"] == "own" {
            heard["id"] = json!(last.id);
        }
        let mut next = Client::connect(third).await;
        let outcome = if heard.is_null() {
            resume(&mut next, "r", &token).await
        } else {
            join_counting(&mut next, &token, heard.clone()).await
        };
        assert_eq!(outcome["outcome"], "resumed", "{outcome}");
        a.until("peer resumed").await;
        say(&mut a, n + 1..n + 2, &ok()).await;
        hears(&mut next, n + 1..n + 2).await;
        last = next;
    }
}

async fn an_answer_that_was_lost_takes_nothing_with_it(first: &Node, second: &Node, third: &Node) {
    let (mut a, mut b) = (Client::connect(first).await, Client::connect(second).await);
    let (_, token) = pair(&mut a, &mut b).await;
    say(&mut a, 0..4, &ok()).await;
    let heard = json!({"id": b.id, "peers": 0, "messages": 1});
    // Twice it comes back and hears nothing of what came of it.
    for (n, node) in (4..).zip([third, second]) {
        let mut deaf = Client::connect(node).await;
        deaf.emit(&json!(["create or join", "r", {"resume": token, "heard": heard}])).await;
        a.until("peer resumed").await;
        say(&mut a, n..n + 1, &ok()).await;
        drop(deaf);
        a.until("peer reconnecting").await;
    }
    say(&mut a, 6..8, &kept()).await;
    let mut back = Client::connect(first).await;
    assert_eq!(join_counting(&mut back, &token, heard).await["outcome"], "resumed");
    hears(&mut back, 1..8).await;
    a.until("peer resumed").await;
    say(&mut a, 8..9, &ok()).await;
    hears(&mut back, 8..9).await;
}

async fn an_answer_that_was_lost_before_anything_was_said_takes_nothing_with_it(
    first: &Node,
    second: &Node,
    third: &Node,
) {
    for away in [false, true] {
        let (mut a, mut b) = (Client::connect(first).await, Client::connect(second).await);
        let (_, token) = pair(&mut a, &mut b).await;
        let heard = json!({"id": b.id, "peers": 0, "messages": 0});
        if away {
            drop(b);
            a.until("peer reconnecting").await;
            say(&mut a, 0..2, &kept()).await;
        }
        let mut deaf = Client::connect(third).await;
        deaf.emit(&json!(["create or join", "r", {"resume": token, "heard": heard}])).await;
        a.until("peer resumed").await;
        if !away {
            say(&mut a, 0..2, &ok()).await;
        }
        let mut back = Client::connect(second).await;
        assert_eq!(join_counting(&mut back, &token, heard).await["outcome"], "resumed");
        hears(&mut back, 0..2).await;
        assert_eq!(a.call(&json!(["bye", "r"])).await, ok());
        assert_eq!(back.call(&json!(["bye", "r"])).await, ok());
    }
}

async fn what_one_said_that_is_lost_itself_is_sent_again(first: &Node, second: &Node, third: &Node) {
    let (mut a, mut b) = (Client::connect(first).await, Client::connect(second).await);
    let (one, two) = pair(&mut a, &mut b).await;
    say(&mut a, 0..5, &ok()).await;
    let heard = json!({"id": b.id, "peers": 0, "messages": 2});
    let swallowed = b.id.clone();
    drop(a);
    b.until("peer reconnecting").await;
    let mut back = Client::connect(third).await;
    assert_eq!(join_counting(&mut back, &two, heard).await["outcome"], "resumed");
    hears(&mut back, 2..5).await;
    let mut a = Client::connect(second).await;
    assert_eq!(join_counting(&mut a, &one, json!(true)).await["outcome"], "resumed");
    back.until("peer resumed").await;
    assert_ne!(swallowed, back.id);
    say(&mut a, 5..6, &ok()).await;
    hears(&mut back, 5..6).await;
}

async fn who_waited_for_its_seat_counts_as_well(first: &Node, second: &Node, third: &Node) {
    let (mut a, mut b) = (Client::connect(first).await, Client::connect(second).await);
    pair(&mut a, &mut b).await;
    let mut c = Client::connect(third).await;
    let options = json!({"wait": true, "heard": true});
    assert_eq!(c.call(&json!(["create or join", "r", options])).await["outcome"], "waiting");
    assert_eq!(b.call(&json!(["bye", "r"])).await, ok());
    let told = c.until("joined").await;
    a.until("ready").await;
    say(&mut a, 0..4, &ok()).await;
    let heard = json!({"id": c.id, "peers": 0, "messages": 1});
    let mut back = Client::connect(second).await;
    assert_eq!(join_counting(&mut back, &told[2]["resume"], heard).await["outcome"], "resumed");
    hears(&mut back, 1..4).await;
}

async fn copies_of_a_client_take_its_seat_from_each_other(first: &Node, second: &Node, third: &Node) {
    let (mut a, mut b) = (Client::connect(first).await, Client::connect(second).await);
    let (_, token) = pair(&mut a, &mut b).await;
    let of = |client: &Client, messages: u64| json!({"id": client.id, "peers": 0, "messages": messages});
    say(&mut a, 0..2, &ok()).await;
    hears(&mut b, 0..2).await;
    let original = of(&b, 2);
    let mut copy = Client::connect(third).await;
    assert_eq!(join_counting(&mut copy, &token, original.clone()).await["outcome"], "resumed");
    a.until("peer resumed").await;
    let copied = of(&copy, 0);
    // The first knows nothing of the second's count, nor the second of the first's.
    for (heard, node) in [(original, second), (copied, first)] {
        let mut back = Client::connect(node).await;
        assert_eq!(join_counting(&mut back, &token, heard).await["outcome"], "resumed");
        assert_eq!(back.call(&json!(["message", "here"])).await, ok());
        while a.until("peer resumed").await[1]["id"] != back.id {}
        assert_eq!(a.until("message").await, vec![json!("here")]);
        say(&mut a, 2..4, &ok()).await;
        hears(&mut back, 2..4).await;
    }
}

async fn what_was_said_to_one_peer_never_reaches_the_next(first: &Node, second: &Node, third: &Node) {
    let (mut a, mut b) = (Client::connect(first).await, Client::connect(second).await);
    let (_, token) = pair(&mut a, &mut b).await;
    say(&mut a, 0..3, &ok()).await;
    b.emit(&json!(["bye", "r"])).await;
    a.until("bye").await;
    let mut c = Client::connect(third).await;
    let heard = json!({"id": b.id, "peers": 0, "messages": 0});
    assert_eq!(join_counting(&mut c, &token, heard).await["outcome"], "joined", "as anybody");
    a.until("ready").await;
    say(&mut a, 3..4, &ok()).await;
    hears(&mut c, 3..4).await;
}

async fn what_a_lost_peer_said_to_one_never_reaches_the_next(first: &Node, second: &Node, third: &Node) {
    for claims_to_be_the_first in [false, true] {
        let (mut a, mut b) = (Client::connect(first).await, Client::connect(second).await);
        let (token, _) = pair(&mut a, &mut b).await;
        say(&mut a, 0..3, &ok()).await;
        let lost = a.id.clone();
        drop(a);
        b.until("peer reconnecting").await;
        assert_eq!(b.call(&json!(["bye", "r"])).await, ok());
        // Another comes while it is away, is lost as well, and is back first.
        let mut c = Client::connect(third).await;
        let joined = join_counting(&mut c, &Value::Null, json!(true)).await;
        assert_eq!(joined["outcome"], "joined");
        let known = if claims_to_be_the_first { &b.id } else { &c.id };
        let heard = json!({"id": known, "peers": 0, "messages": 0});
        drop(c);
        let mut c = Client::connect(second).await;
        assert_eq!(join_counting(&mut c, &joined["resume"], heard).await["outcome"], "resumed");
        let mut a = Client::connect(third).await;
        let nothing = json!({"id": lost, "peers": 1, "messages": 0});
        assert_eq!(join_counting(&mut a, &token, nothing).await["outcome"], "resumed");
        say(&mut a, 3..4, &ok()).await;
        let first_heard = loop {
            match c.hear().await {
                Heard::Event(name, arguments) if name == "message" => break arguments,
                Heard::Closed => panic!("closed"),
                _ => {}
            }
        };
        assert_eq!(first_heard, [json!(3)]);
        assert_eq!(a.call(&json!(["bye", "r"])).await, ok());
        assert_eq!(c.call(&json!(["bye", "r"])).await, ok());
    }
}

/// One talks, waiting for each answer, and the other is lost in every way again and again: nothing that was acknowledged is lost.
async fn nothing_that_is_acknowledged_is_lost_or_comes_twice(first: &Node, second: &Node, third: &Node) {
    let (mut a, mut b) = (Client::connect(first).await, Client::connect(second).await);
    let (_, token) = pair(&mut a, &mut b).await;
    // How many it heard; as many as that and what is remembered may be said.
    let (progress, follow) = tokio::sync::watch::channel(Some(0_u64));
    let talking = tokio::spawn(async move {
        let (mut n, mut accepted, mut heard) = (0_u64, Vec::new(), follow);
        loop {
            let may = heard.wait_for(|heard| heard.is_none_or(|heard| (accepted.len() as u64) < heard + 50));
            if may.await.expect("it listens").is_none() {
                break;
            }
            let answer = a.call(&json!(["message", n])).await;
            if answer["ok"] == true {
                accepted.push(n);
            } else {
                assert!(answer["retryable"] == true, "{answer}");
            }
            n += 1;
        }
        (a, n, accepted)
    });
    let (mut heard, mut old): (Vec<u64>, Vec<Client>) = (Vec::new(), Vec::new());
    let mut so_far = 0;
    for round in 0..40_usize {
        for _ in 0..round % 7 {
            heard.push(b.until("message").await[0].as_u64().expect("a number"));
            progress.send_replace(Some(heard.len() as u64));
            so_far += 1;
        }
        let told = json!({"id": b.id, "peers": 0, "messages": so_far});
        so_far = 0;
        if round % 3 == 0 {
            // What is left of it is not read: it is not heard.
            drop(b);
        } else {
            old.push(b);
        }
        b = Client::connect([third, second, first][round % 3]).await;
        if round % 5 == 4 {
            // As if the answer were lost, and all after it.
            join_counting(&mut b, &token, told.clone()).await;
            b = Client::connect([third, second, first][(round + 1) % 3]).await;
        }
        let answer = join_counting(&mut b, &token, told).await;
        assert_eq!(answer["outcome"], "resumed", "{answer}");
    }
    progress.send_replace(None);
    let (mut a, said, accepted) = talking.await.expect("it talked");
    let at_last = async { while a.call(&json!(["message", "the end"])).await["ok"] != true {} };
    tokio::time::timeout(PATIENCE, at_last).await.expect("taken at last");
    while let Value::Number(n) = &b.until("message").await[0] {
        heard.push(n.as_u64().expect("a number"));
    }
    assert!(heard.is_sorted_by(|one, next| one < next), "in order, and once: {heard:?}");
    let missing: Vec<_> = accepted.iter().filter(|n| heard.binary_search(n).is_err()).collect();
    assert!(missing.is_empty(), "of {said} said and {} accepted: {missing:?}", accepted.len());
    assert!(old.len() > 20 && accepted.len() > 40);
}

on_one_node_and_on_three!(
    "15s": what_a_dead_connection_swallowed_is_sent_again,
    "15s": what_was_swallowed_comes_before_what_was_kept,
    "15s": who_does_not_tell_what_it_heard_gets_nothing_twice,
    "15s": an_answer_that_was_lost_takes_nothing_with_it,
    "15s": an_answer_that_was_lost_before_anything_was_said_takes_nothing_with_it,
    "15s": what_one_said_that_is_lost_itself_is_sent_again,
    "15s": who_waited_for_its_seat_counts_as_well,
    "15s": copies_of_a_client_take_its_seat_from_each_other,
    "15s": what_was_said_to_one_peer_never_reaches_the_next,
    "15s": what_a_lost_peer_said_to_one_never_reaches_the_next,
    "15s": nothing_that_is_acknowledged_is_lost_or_comes_twice,
);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_remembered_is_bounded_and_forgotten() {
    let bounds = [("DUET_SEATS__KEEP_MESSAGES", "8"), ("DUET_SEATS__KEEP_BYTES", "40000")];
    let ages =
        [("DUET_TIMEOUTS__PING_INTERVAL", "1s"), ("DUET_TIMEOUTS__PING_TIMEOUT", "3s"), ("DUET_SEATS__GRACE", "1s")];
    let node = node(&[bounds.as_slice(), &ages].concat()).await;
    let (mut a, mut b) = (Client::connect(&node).await, Client::connect(&node).await);
    let (_, token) = pair(&mut a, &mut b).await;
    say(&mut a, 0..20, &ok()).await;
    hears(&mut b, 0..20).await;
    let bytes = metric(&node, "duet_recent_bytes").await;
    assert!((1..8 * 300).contains(&bytes), "{bytes}");
    let mut back = Client::connect(&node).await;
    let heard = json!({"id": b.id, "peers": 0, "messages": 10});
    assert_eq!(join_counting(&mut back, &token, heard).await["outcome"], "resumed");
    hears(&mut back, 12..20).await;
    for _ in 0..6 {
        assert_eq!(a.call(&json!(["message", "x".repeat(10_000)])).await, ok());
    }
    let bytes = metric(&node, "duet_recent_bytes").await;
    assert!((30_000..=40_000).contains(&bytes), "{bytes}");
    wait_until("what is old is forgotten", || async { metric(&node, "duet_recent_bytes").await == 0 }).await;
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_remembered_of_who_does_not_count() {
    let node = node(&[]).await;
    let (mut a, mut b) = (Client::connect(&node).await, Client::connect(&node).await);
    pair_with_token(&mut a, &mut b, "r").await;
    say(&mut a, 0..20, &ok()).await;
    hears(&mut b, 0..20).await;
    assert_eq!(metric(&node, "duet_recent_bytes").await, 0);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_count_is_refused() {
    let node = node(&[]).await;
    let mut client = Client::connect(&node).await;
    let id = client.id.clone();
    for heard in [
        json!(1),
        json!("all"),
        json!([]),
        json!({}),
        json!({"id": id, "peers": 0}),
        json!({"id": id, "peers": -1, "messages": 0}),
        json!({"id": id, "peers": 0, "messages": 1.5}),
        json!({"id": 5, "peers": 0, "messages": 0}),
    ] {
        let answer = client.call(&json!(["create or join", "r", {"heard": heard}])).await;
        assert_eq!(answer["code"], "bad_payload", "{heard}: {answer}");
    }
    // Beside a token in `auth` it means nothing.
    assert_eq!(join_counting(&mut client, &Value::Null, json!(null)).await["outcome"], "created");
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_swallowed_by_a_node_that_froze_is_sent_again() {
    let redis = Redis::start(RedisOptions::default()).await;
    let nodes = NodeProcess::start_all(&vec![redis.url(); 3], &grace(lease("7s", "1s"), "15s")).await;
    let (mut a, mut b) = (Client::connect_to(nodes[0].public).await, Client::connect_to(nodes[1].public).await);
    let (_, token) = pair(&mut a, &mut b).await;
    say(&mut a, 0..3, &ok()).await;
    hears(&mut b, 0..2).await;
    nodes[1].freeze();
    // On its way when the peer turns away; nobody there says what became of it.
    a.send_text(&format!("429{}", json!(["message", 3]))).await;
    let heard = json!({"id": b.id, "peers": 0, "messages": 2});
    let mut back = Client::connect_to(nodes[2].public).await;
    assert_eq!(join_counting(&mut back, &token, heard).await["outcome"], "resumed");
    hears(&mut back, 2..4).await;
    loop {
        match a.hear().await {
            Heard::Ack(9, answer) => break assert_eq!(answer, ok()),
            Heard::Closed => panic!("closed"),
            _ => {}
        }
    }
    say(&mut a, 4..6, &ok()).await;
    hears(&mut back, 4..6).await;
    nodes[1].wake();
    say(&mut a, 6..8, &ok()).await;
    hears(&mut back, 6..8).await;
}

/// Four nodes; what the third says comes late, and what the fourth says comes late as well, but sooner than that.
async fn nodes_that_overtake(time_of_grace: &str) -> (Redis, Vec<NodeProcess>, [ChaosProxy; 2]) {
    let redis = Redis::start(RedisOptions::default()).await;
    let address = ([127, 0, 0, 1], redis.port()).into();
    let (slower, slow) = (ChaosProxy::start(address).await, ChaosProxy::start(address).await);
    let through = |proxy: &ChaosProxy| format!("redis://{}", proxy.address());
    let urls = [redis.url(), redis.url(), through(&slower), through(&slow)];
    let nodes = NodeProcess::start_all(&urls, &grace(lease("7s", "1s"), time_of_grace)).await;
    slower.set(Mode::Slow(Duration::from_millis(80)));
    slow.set(Mode::Slow(Duration::from_millis(20)));
    (redis, nodes, [slower, slow])
}

/// A pair on the first two nodes. The second has heard two of five messages, and comes back by all those nodes one after the other;
/// its connections are returned, the last first.
async fn comes_back_by(nodes: &[NodeProcess], way: &[usize]) -> (Client, Vec<Client>) {
    let (mut a, mut b) = (Client::connect_to(nodes[0].public).await, Client::connect_to(nodes[1].public).await);
    let (_, token) = pair(&mut a, &mut b).await;
    say(&mut a, 0..5, &ok()).await;
    let (mut heard, mut all) = (json!({"id": b.id, "peers": 0, "messages": 2}), Vec::new());
    for node in way {
        let mut back = Client::connect_to(nodes[*node].public).await;
        assert_eq!(join_counting(&mut back, &token, heard).await["outcome"], "resumed");
        heard = json!({"id": back.id, "peers": 0, "messages": 0});
        all.insert(0, back);
    }
    (a, all)
}

/// By which nodes a peer comes back: the last is another than that of the one that talks, or the same.
const WAYS: [&[usize]; 4] = [&[2, 1], &[2, 0], &[2, 3, 1], &[2, 3, 0]];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn news_that_overtake_those_of_the_connection_before_cost_nothing() {
    let (_redis, nodes, _proxies) = nodes_that_overtake("15s").await;
    for way in WAYS {
        let (mut a, mut all) = comes_back_by(&nodes, way).await;
        let back = &mut all[0];
        // It is told of, and can talk, at once.
        assert_eq!(back.call(&json!(["message", "here"])).await, ok());
        while a.until("peer resumed").await[1]["id"] != back.id {}
        assert_eq!(a.until("message").await, vec![json!("here")]);
        say(&mut a, 5..7, &ok()).await;
        hears(back, 2..7).await;
        assert_eq!(a.call(&json!(["bye", "r"])).await, ok());
        assert_eq!(back.call(&json!(["bye", "r"])).await, ok());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_back_before_its_node_has_told_that_it_counts_hears_nothing_twice() {
    let (_redis, nodes, _proxies) = nodes_that_overtake("15s").await;
    let (mut b, mut a) = (Client::connect_to(nodes[2].public).await, Client::connect_to(nodes[0].public).await);
    let token = join_counting(&mut b, &Value::Null, json!(true)).await["resume"].clone();
    assert_eq!(join_counting(&mut a, &Value::Null, json!(true)).await["outcome"], "joined");
    a.send_text(&format!("429{}", json!(["message", 0]))).await;
    hears(&mut b, 0..1).await;
    let mut back = Client::connect_to(nodes[1].public).await;
    let heard = json!({"id": b.id, "peers": 1, "messages": 1});
    assert_eq!(join_counting(&mut back, &token, heard).await["outcome"], "resumed");
    loop {
        match a.hear().await {
            Heard::Ack(9, answer) => break assert_eq!(answer, ok()),
            Heard::Closed => panic!("closed"),
            _ => {}
        }
    }
    say(&mut a, 1..3, &ok()).await;
    hears(&mut back, 1..3).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_goes_before_the_news_of_its_connection_before_are_there_is_gone() {
    let (_redis, nodes, _proxies) = nodes_that_overtake("2s").await;
    for way in [WAYS[0], WAYS[3]] {
        let (mut a, mut all) = comes_back_by(&nodes, way).await;
        let id = all[0].id.clone();
        assert_eq!(all[0].call(&json!(["bye", "r"])).await, ok());
        assert_eq!(a.until("bye").await[1]["id"], id);
        assert_eq!(a.call(&json!(["bye", "r"])).await, ok());

        let (mut a, mut all) = comes_back_by(&nodes, way).await;
        let id = all.remove(0).id.clone();
        while a.until("peer reconnecting").await[1]["id"] != id {}
        a.until("bye").await;
        assert_eq!(a.call(&json!(["bye", "r"])).await, ok());

        // And the other way round.
        let (a, mut all) = comes_back_by(&nodes, way).await;
        let id = a.id.clone();
        drop(a);
        assert_eq!(all[0].until("peer reconnecting").await[1]["id"], id);
        all[0].until("bye").await;
        assert_eq!(all[0].call(&json!(["bye", "r"])).await, ok());
    }
}
