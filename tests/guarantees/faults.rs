//! What nodes and Redis do to each other, one fault a test, at the sizes and with the leases of the defaults.
//!
//! Each prints the times it took, which `docs/CLUSTER.md` quotes.
#![allow(clippy::print_stdout, reason = "times are to be read")]

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use duet::{
    cluster::{connection::Connections, scripts, topology::Deployment},
    config::Settings,
    metrics::Metrics,
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use crate::support::{
    Client, Heard, PATIENCE,
    chaos::{ChaosProxy, Mode},
    cluster::{Variables, lease, quick},
    process::NodeProcess,
    redis::{Redis, RedisOptions},
    seat, wait_until,
};

fn defaults() -> Variables {
    Variables::new()
}

/// A node that reaches `redis` by way of a proxy of its own.
async fn behind_proxy(redis: &Redis, settings: &Variables) -> (NodeProcess, ChaosProxy) {
    let proxy = ChaosProxy::start(([127, 0, 0, 1], redis.port()).into()).await;
    (NodeProcess::start(&format!("redis://{}", proxy.address()), settings).await, proxy)
}

/// A proxy to `redis` that ends a connection right behind the first bytes with `word` in them, so many `times`; and how often it
/// has done so.
async fn ending_after(word: &'static [u8], times: usize, redis: &Redis) -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
    let (address, upstream) = (listener.local_addr().expect("bound"), ("127.0.0.1", redis.port()));
    let ended = Arc::<AtomicUsize>::default();
    let count = Arc::clone(&ended);
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let ended = Arc::clone(&count);
            tokio::spawn(async move {
                let upstream = TcpStream::connect(upstream).await?;
                let ((mut from_client, mut to_client), (mut from_upstream, mut to_upstream)) =
                    (client.into_split(), upstream.into_split());
                let back = async {
                    let mut buffer = vec![0; 16 * 1024];
                    loop {
                        let read = from_upstream.read(&mut buffer).await?;
                        to_client.write_all(&buffer[..read]).await?;
                        let found = buffer[..read].windows(word.len()).any(|some| some == word);
                        if read == 0 || (found && ended.fetch_add(1, Ordering::SeqCst) < times) {
                            return to_client.shutdown().await;
                        }
                    }
                };
                tokio::select! {
                    ended = tokio::io::copy(&mut from_client, &mut to_upstream) => ended.map(|_| ()),
                    ended = back => ended,
                }
            });
        }
    });
    (address, ended)
}

/// Asks until the answer is no `unavailable`.
async fn call_until_available(client: &mut Client, packet: &Value) -> Value {
    let started = Instant::now();
    loop {
        let answer = client.call(packet).await;
        if answer["code"] != "unavailable" {
            return answer;
        }
        assert_eq!(answer["retryable"], true);
        assert!(started.elapsed() < PATIENCE * 2, "still unavailable");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_seats_of_a_killed_node_are_free_within_ten_seconds_and_the_peer_that_stays_is_told() {
    let redis = Redis::start(RedisOptions::default()).await;
    let mut nodes = NodeProcess::start_all(&vec![redis.url(); 3], &defaults()).await;
    let (mut stays, mut goes) = (Client::connect_to(nodes[0].public).await, Client::connect_to(nodes[1].public).await);
    seat(&mut stays, &mut goes, "r").await;
    let mut alone = Client::connect_to(nodes[1].public).await;
    alone.emit(&json!(["create or join", "nobody else"])).await;
    alone.expect("created").await;
    let killed = Instant::now();
    nodes[1].kill();
    assert!(goes.is_closed_by_server().await);
    // Until then it is told that nobody answers.
    let answer = stays.call(&json!(["message", "are you there?"])).await;
    assert_eq!(answer["ok"], false, "{answer}");
    assert_eq!(answer["retryable"], true);
    assert_eq!(stays.until("bye").await, [json!("r"), json!({"id": goes.id, "reason": "node_lost"})]);
    let told = killed.elapsed();
    assert!(told < Duration::from_secs(10), "{told:?}");
    let mut next = Client::connect_to(nodes[2].public).await;
    assert_eq!(next.call(&json!(["create or join", "r"])).await["outcome"], "joined");
    let redis = &redis;
    wait_until("the sweep has freed the room that nobody met", || async move {
        !redis.command(&["KEYS", "*"]).await.contains("nobody else")
    })
    .await;
    let swept = killed.elapsed();
    assert!(swept < Duration::from_secs(10), "{swept:?}");
    println!("killed node: bye after {told:.1?}, swept after {swept:.1?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_frozen_for_25_seconds_closes_what_others_took_meanwhile() {
    let redis = Redis::start(RedisOptions::default()).await;
    let nodes = NodeProcess::start_all(&vec![redis.url(); 2], &defaults()).await;
    let (mut stays, mut frozen) =
        (Client::connect_to(nodes[0].public).await, Client::connect_to(nodes[1].public).await);
    seat(&mut stays, &mut frozen, "r").await;
    // A pair that is whole on the frozen node, in a room that others take, and one in a room that nobody wants.
    let mut pairs = Vec::new();
    for room in ["taken", "left alone"] {
        let (mut a, mut b) = (Client::connect_to(nodes[1].public).await, Client::connect_to(nodes[1].public).await);
        seat(&mut a, &mut b, room).await;
        a.has_answered().await;
        b.has_answered().await;
        pairs.push((a, b));
    }
    let at = Instant::now();
    nodes[1].freeze();
    assert_eq!(stays.until("bye").await[1]["reason"], "node_lost");
    println!("frozen node: bye after {:.1?}", at.elapsed());
    assert!(at.elapsed() < Duration::from_secs(10), "{:?}", at.elapsed());
    let (mut third, mut taker) = (Client::connect_to(nodes[0].public).await, Client::connect_to(nodes[0].public).await);
    assert_eq!(third.call(&json!(["create or join", "r"])).await["outcome"], "joined");
    assert_eq!(taker.call(&json!(["create or join", "taken"])).await["outcome"], "created");
    // What the frozen peer says as soon as its node wakes must not reach the new pair.
    frozen.emit(&json!(["message", "from the past"])).await;
    let rest = Duration::from_secs(25).saturating_sub(at.elapsed());
    tokio::join!(stays.stay(rest), third.stay(rest), taker.stay(rest));
    nodes[1].wake();
    let woken = Instant::now();
    assert!(frozen.is_closed_by_server().await);
    println!("frozen node: its peer closed {:.1?} after it woke", woken.elapsed());
    let (mut a, mut b) = pairs.remove(0);
    assert!(a.is_closed_by_server().await && b.is_closed_by_server().await);
    println!("frozen node: the pair whose room was taken closed {:.1?} after it woke", woken.elapsed());
    // Nobody took this one: it goes on. Its heartbeats were late, but its clients waited.
    let (mut a, mut b) = pairs.remove(0);
    assert_eq!(a.call(&json!(["message", "still here"])).await, json!({"ok": true}));
    assert_eq!(b.until("message").await, [json!("still here")]);
    let mut none = Client::connect_to(nodes[0].public).await;
    assert_eq!(none.call(&json!(["create or join", "left alone"])).await["code"], "full");
    let answer = stays.call(&json!(["message", "hello"])).await;
    loop {
        match third.hear().await {
            Heard::Event(name, arguments) if name == "message" => {
                assert_eq!(arguments, [json!("hello")]);
                break;
            }
            Heard::Event(name, arguments) => {
                assert!(["join", "joined", "ready"].contains(&name.as_str()), "{name} {arguments:?} {answer}");
            }
            other => panic!("{other:?}"),
        }
    }
    nodes[1].until_ready().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_killed_and_back_empty_costs_no_seat_and_no_third_gets_in() {
    redis_killed_and_back(false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_killed_and_back_with_its_log_costs_no_seat_and_no_third_gets_in() {
    redis_killed_and_back(true).await;
}

async fn redis_killed_and_back(append_only: bool) {
    let mut redis = Redis::start(RedisOptions { append_only, ..RedisOptions::default() }).await;
    let nodes = NodeProcess::start_all(&vec![redis.url(); 3], &defaults()).await;
    let (mut a, mut b) = (Client::connect_to(nodes[0].public).await, Client::connect_to(nodes[1].public).await);
    seat(&mut a, &mut b, "r").await;
    let (mut here, mut there) = (Client::connect_to(nodes[2].public).await, Client::connect_to(nodes[2].public).await);
    seat(&mut here, &mut there, "local").await;
    redis.kill();
    // Peers of one node do not notice.
    for n in 0..100 {
        assert_eq!(here.call(&json!(["message", n])).await, json!({"ok": true}));
        assert_eq!(there.expect("message").await, [json!(n)]);
    }
    let nodes = &nodes;
    wait_until("all nodes say so", || async move {
        !nodes[0].is_ready().await && !nodes[1].is_ready().await && !nodes[2].is_ready().await
    })
    .await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    // A third asks all the time.
    let address = nodes[2].public;
    let third = tokio::spawn(async move {
        let mut third = Client::connect_to(address).await;
        call_until_available(&mut third, &json!(["create or join", "r"])).await
    });
    redis.restart().await;
    let back = Instant::now();
    let answer = call_until_available(&mut a, &json!(["message", "after"])).await;
    assert_eq!(answer, json!({"ok": true}));
    let relayed = back.elapsed();
    for node in nodes {
        node.until_ready().await;
    }
    let ready = back.elapsed();
    assert_eq!(b.until("message").await, [json!("after")]);
    assert_eq!(third.await.expect("answered")["code"], "full");
    let mut next = Client::connect_to(nodes[0].public).await;
    assert_eq!(next.call(&json!(["create or join", "local"])).await["code"], "full");
    assert_eq!(next.call(&json!(["create or join", "other"])).await["outcome"], "created");
    println!("redis back (log: {append_only}): relay after {relayed:.1?}, ready after {ready:.1?}");
    assert!(relayed < Duration::from_secs(5) && ready < Duration::from_secs(5), "{relayed:?} {ready:?}");
    for node in nodes {
        let log = node.log();
        assert_eq!(log.matches("redis is out of reach").count(), 1, "{log}");
        assert_eq!(log.matches("redis is back").count(), 1, "{log}");
    }
}

/// As after a failover to a replica that had not heard everything.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_that_lost_its_last_writes_lets_no_third_in_and_frees_what_was_left() {
    let mut redis = Redis::start(RedisOptions::default()).await;
    let nodes = NodeProcess::start_all(&vec![redis.url(); 2], &defaults()).await;
    let (mut a, mut left) = (Client::connect_to(nodes[0].public).await, Client::connect_to(nodes[1].public).await);
    a.call(&json!(["create or join", "r"])).await;
    left.call(&json!(["create or join", "empty again"])).await;
    assert!(redis.command(&["SAVE"]).await.contains("OK"));
    // What follows is forgotten.
    let mut b = Client::connect_to(nodes[1].public).await;
    assert_eq!(b.call(&json!(["create or join", "r"])).await["outcome"], "joined");
    assert_eq!(left.call(&json!(["bye"])).await, json!({"ok": true}));
    redis.restart_as_saved().await;
    assert!(redis.log().contains("DB loaded from disk"), "{}", redis.log());
    let mut third = Client::connect_to(nodes[1].public).await;
    assert_eq!(call_until_available(&mut third, &json!(["create or join", "r"])).await["code"], "full");
    assert_eq!(third.call(&json!(["create or join", "empty again"])).await["outcome"], "created");
    assert_eq!(call_until_available(&mut a, &json!(["message", "hello"])).await, json!({"ok": true}));
    assert_eq!(b.until("message").await, [json!("hello")]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_that_stalls_for_4_seconds_loses_nothing() {
    let redis = Redis::start(RedisOptions::default()).await;
    let nodes = NodeProcess::start_all(&vec![redis.url(); 2], &defaults()).await;
    let (mut a, mut b) = (Client::connect_to(nodes[0].public).await, Client::connect_to(nodes[1].public).await);
    seat(&mut a, &mut b, "r").await;
    redis.stall();
    let stalled = Instant::now();
    for n in 0..50 {
        a.emit(&json!(["message", n])).await;
    }
    let mut waits = Client::connect_to(nodes[1].public).await;
    let joining = tokio::spawn(async move {
        let answer = waits.call(&json!(["create or join", "r"])).await;
        (waits, answer)
    });
    tokio::time::sleep(Duration::from_secs(4)).await;
    redis.resume();
    for n in 0..50 {
        assert_eq!(b.expect("message").await, [json!(n)]);
    }
    println!(
        "redis stalled 4 s: the message of its first moment arrived {:.1?} after",
        stalled.elapsed().saturating_sub(Duration::from_secs(4))
    );
    let (mut waits, answer) = joining.await.expect("answered");
    assert!(["full", "unavailable"].contains(&answer["code"].as_str().expect("a code")), "{answer}");
    assert_eq!(call_until_available(&mut waits, &json!(["create or join", "r"])).await["code"], "full");
    assert_eq!(call_until_available(&mut b, &json!(["message", "back"])).await, json!({"ok": true}));
    assert_eq!(a.until("message").await, [json!("back")]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_cut_off_for_12_seconds_closes_what_it_cannot_prove_before_others_sit_there() {
    let redis = Redis::start(RedisOptions::default()).await;
    let other = NodeProcess::start(&redis.url(), &defaults()).await;
    let (cut, proxy) = behind_proxy(&redis, &defaults()).await;
    other.until_ready().await;
    cut.until_ready().await;
    let (mut stays, mut goes) = (Client::connect_to(other.public).await, Client::connect_to(cut.public).await);
    seat(&mut stays, &mut goes, "r").await;
    let (mut here, mut there) = (Client::connect_to(cut.public).await, Client::connect_to(cut.public).await);
    seat(&mut here, &mut there, "local").await;
    let at = Instant::now();
    proxy.set(Mode::Cut);
    let told = tokio::spawn(async move {
        let bye = stays.until("bye").await;
        (stays, bye, Instant::now())
    });
    // Closed by its own node, and before its peer hears that the seat is free.
    assert!(goes.is_closed_by_server().await);
    let closed = Instant::now();
    let (mut stays, bye, told) = told.await.expect("told");
    assert_eq!(bye[1]["reason"], "node_lost");
    assert!(closed < told, "closed {:?}, told {:?}", closed - at, told - at);
    println!("node cut off: its peer closed after {:.1?}, the other told after {:.1?}", closed - at, told - at);
    assert!(told - at < Duration::from_secs(10), "{:?}", told - at);
    // The pair that it holds whole goes on.
    assert_eq!(here.call(&json!(["message", 1])).await, json!({"ok": true}));
    let mut next = Client::connect_to(other.public).await;
    assert_eq!(next.call(&json!(["create or join", "r"])).await["outcome"], "joined");
    stays.until("ready").await;
    let rest = Duration::from_secs(12).saturating_sub(at.elapsed());
    tokio::join!(stays.stay(rest), next.stay(rest), here.stay(rest), there.stay(rest));
    proxy.set(Mode::Pass);
    let back = Instant::now();
    cut.until_ready().await;
    println!("node cut off: ready {:.1?} after", back.elapsed());
    assert!(back.elapsed() < Duration::from_secs(5));
    assert_eq!(there.until("message").await, [json!(1)]);
    assert_eq!(there.call(&json!(["message", 2])).await, json!({"ok": true}));
    let mut third = Client::connect_to(other.public).await;
    assert_eq!(third.call(&json!(["create or join", "local"])).await["code"], "full");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_first_news_of_a_node_that_was_cut_off_arrive() {
    let redis = Redis::start(RedisOptions::default()).await;
    let other = NodeProcess::start(&redis.url(), &quick()).await;
    let (cut, proxy) = behind_proxy(&redis, &quick()).await;
    other.until_ready().await;
    cut.until_ready().await;
    let (mut a, mut b) = (Client::connect_to(other.public).await, Client::connect_to(cut.public).await);
    seat(&mut a, &mut b, "r").await;
    for n in 0..3 {
        assert_eq!(a.call(&json!(["message", n])).await, json!({"ok": true}));
        assert_eq!(b.call(&json!(["message", n])).await, json!({"ok": true}));
    }
    // Nothing waits to be sent to the other node.
    assert_eq!(b.call(&json!(["bye", "r"])).await["ok"], true);
    a.until("bye").await;
    let mut waits = Client::connect_to(other.public).await;
    assert_eq!(waits.call(&json!(["create or join", "next"])).await["outcome"], "created");
    proxy.set(Mode::Cut);
    let other = &other;
    wait_until("the other node has forgotten it", || async move { other.metric("duet_nodes").await < 1.5 }).await;
    let mut comes = Client::connect_to(cut.public).await;
    // Asked for while the node finds its way back, and told as soon as it can seat anybody.
    let joining = async { call_until_available(&mut comes, &json!(["create or join", "next"])).await };
    let ((), answer) = tokio::join!(async { proxy.set(Mode::Pass) }, joining);
    assert_eq!(answer["outcome"], "joined", "{answer}");
    let joined = Instant::now();
    tokio::time::timeout(PATIENCE, waits.until("join")).await.expect("told of who came");
    println!("node cut off: its first news arrived after {:.1?}", joined.elapsed());
    assert_eq!(comes.call(&json!(["message", 1])).await, json!({"ok": true}));
    assert_eq!(waits.until("message").await, [json!(1)]);
    assert_eq!(waits.call(&json!(["message", 2])).await, json!({"ok": true}));
    assert_eq!(comes.until("message").await, [json!(2)]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_keeping_pairs_a_node_cut_off_closes_those_as_well() {
    let redis = Redis::start(RedisOptions::default()).await;
    let mut settings = quick();
    settings.push(("DUET_CLUSTER__KEEP_PAIRS".into(), "false".into()));
    let (cut, proxy) = behind_proxy(&redis, &settings).await;
    cut.until_ready().await;
    let (mut here, mut there) = (Client::connect_to(cut.public).await, Client::connect_to(cut.public).await);
    seat(&mut here, &mut there, "local").await;
    proxy.set(Mode::HalfOpen);
    assert!(here.is_closed_by_server().await && there.is_closed_by_server().await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_half_open_connection_to_redis_is_noticed_and_made_anew() {
    let redis = Redis::start(RedisOptions::default()).await;
    let other = NodeProcess::start(&redis.url(), &defaults()).await;
    let (node, proxy) = behind_proxy(&redis, &defaults()).await;
    other.until_ready().await;
    node.until_ready().await;
    let (mut a, mut b) = (Client::connect_to(node.public).await, Client::connect_to(other.public).await);
    seat(&mut a, &mut b, "r").await;
    proxy.set(Mode::HalfOpen);
    a.emit(&json!(["message", "lost on the way"])).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    proxy.set(Mode::Pass);
    let back = Instant::now();
    assert_eq!(b.until("message").await, [json!("lost on the way")]);
    println!("half open for 1 s: what was lost arrived {:.1?} after", back.elapsed());
    assert!(back.elapsed() < Duration::from_secs(5));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_way_to_redis_is_only_slow() {
    let redis = Redis::start(RedisOptions::default()).await;
    let other = NodeProcess::start(&redis.url(), &defaults()).await;
    let (node, proxy) = behind_proxy(&redis, &defaults()).await;
    other.until_ready().await;
    node.until_ready().await;
    proxy.set(Mode::Slow(Duration::from_millis(300)));
    let (mut a, mut b) = (Client::connect_to(node.public).await, Client::connect_to(other.public).await);
    seat(&mut a, &mut b, "r").await;
    for n in 0..200 {
        a.emit(&json!(["message", n])).await;
    }
    for n in 0..200 {
        assert_eq!(b.expect("message").await, [json!(n)]);
    }
    assert_eq!(b.call(&json!(["message", "back"])).await, json!({"ok": true}));
    assert_eq!(a.until("message").await, [json!("back")]);
    assert!(node.metric("duet_seats_lost_total").await < 0.5);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_redis_is_away_a_message_to_another_node_is_refused_as_retryable() {
    let mut redis = Redis::start(RedisOptions::default()).await;
    let mut settings = lease("7s", "1s");
    settings.push(("DUET_CLUSTER__PATIENCE".into(), "1s".into()));
    let nodes = NodeProcess::start_all(&vec![redis.url(); 2], &settings).await;
    let (mut a, mut b) = (Client::connect_to(nodes[0].public).await, Client::connect_to(nodes[1].public).await);
    seat(&mut a, &mut b, "r").await;
    redis.kill();
    let answer = a.call(&json!(["message", "x"])).await;
    assert_eq!((&answer["code"], &answer["retryable"]), (&json!("unavailable"), &json!(true)));
    // Without a callback it is told as well.
    a.emit(&json!(["message", "y"])).await;
    let rejected = a.until("rejected").await;
    assert_eq!((&rejected[0]["event"], &rejected[0]["code"]), (&json!("message"), &json!("unavailable")));
    let mut third = Client::connect_to(nodes[0].public).await;
    assert_eq!(third.call(&json!(["create or join", "s"])).await["code"], "unavailable");
    assert!(nodes[0].metric("duet_recovery_refusals_total").await >= 1.0);
    redis.restart().await;
    assert_eq!(call_until_available(&mut a, &json!(["message", "z"])).await, json!({"ok": true}));
    assert_eq!(call_until_available(&mut third, &json!(["create or join", "s"])).await["outcome"], "created");
    // What was refused may have arrived; what was not has, and last.
    loop {
        if b.until("message").await == [json!("z")] {
            break;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn forgotten_scripts_are_sent_again() {
    let redis = Redis::start(RedisOptions::default()).await;
    let nodes = NodeProcess::start_all(&vec![redis.url(); 2], &quick()).await;
    let before = nodes[0].metric("duet_redis_script_loads_total").await;
    for round in 0..5 {
        redis.command(&["SCRIPT", "FLUSH"]).await;
        let (mut a, mut b) = (Client::connect_to(nodes[0].public).await, Client::connect_to(nodes[1].public).await);
        seat(&mut a, &mut b, &format!("r{round}")).await;
    }
    assert!(nodes[0].metric("duet_redis_script_loads_total").await > before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flushed_redis_is_a_restarted_one() {
    let redis = Redis::start(RedisOptions::default()).await;
    let nodes = NodeProcess::start_all(&vec![redis.url(); 2], &quick()).await;
    let (mut a, mut b) = (Client::connect_to(nodes[0].public).await, Client::connect_to(nodes[1].public).await);
    seat(&mut a, &mut b, "r").await;
    redis.command(&["FLUSHALL"]).await;
    let mut third = Client::connect_to(nodes[1].public).await;
    assert_eq!(call_until_available(&mut third, &json!(["create or join", "r"])).await["code"], "full");
    assert_eq!(a.call(&json!(["message", "x"])).await, json!({"ok": true}));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_stops_in_order_tells_its_peers_at_once() {
    let redis = Redis::start(RedisOptions::default()).await;
    let mut nodes = NodeProcess::start_all(&vec![redis.url(); 2], &defaults()).await;
    let (mut a, mut b) = (Client::connect_to(nodes[0].public).await, Client::connect_to(nodes[1].public).await);
    seat(&mut a, &mut b, "r").await;
    let mut stopping = nodes.pop().expect("a node");
    let stopped = tokio::task::spawn_blocking(move || stopping.terminate());
    assert_eq!(a.until("bye").await[1]["reason"], "node_shutdown");
    stopped.await.expect("in order");
    let mut next = Client::connect_to(nodes[0].public).await;
    assert_eq!(next.call(&json!(["create or join", "r"])).await["outcome"], "joined");
    // Nobody waits for a node that said good-bye.
    let late = NodeProcess::start(&redis.url(), &defaults()).await;
    let started = Instant::now();
    late.until_ready().await;
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
}

/// A lease is renewed over the same connection as seats are given up. When thousands of sockets go at once, it must not wait
/// for all of them: nodes would lose seats because others leave.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lease_does_not_wait_behind_thousands_of_leaves() {
    const LEAVES: usize = 3000;
    let redis = Redis::start(RedisOptions::default()).await;
    let mut settings = Settings::load(None, std::collections::HashMap::new()).expect("defaults").redis;
    settings.url = redis.url();
    let metrics = Metrics::new().expect("metrics");
    let deployment = Deployment::parse(&settings).expect("a deployment");
    let connections = Arc::new(Connections::new(deployment, Arc::new(|_| {}), metrics.clone()));
    let running = tokio::spawn({
        let connections = Arc::clone(&connections);
        async move { connections.run().await }
    });
    let connection = connections.to(0).await;
    // What they answer does not matter here, but both scripts are to be known.
    for operation in [&*scripts::LEAVE, &*scripts::RENEW] {
        let _ = operation.call(&connection, &["a", "b", "c", "d", "e", "f", "g"], &[], PATIENCE, &metrics).await;
    }
    redis.stall();
    let left = Arc::new(AtomicUsize::new(0));
    let mut leaves = tokio::task::JoinSet::new();
    for _ in 0..LEAVES {
        let (connection, metrics, left) = (connection.clone(), metrics.clone(), Arc::clone(&left));
        leaves.spawn(async move {
            let _ =
                scripts::LEAVE.call(&connection, &["a", "b", "c", "d", "e", "f", "g"], &[], PATIENCE, &metrics).await;
            left.fetch_add(1, Ordering::SeqCst);
        });
    }
    // They have all begun, and those whose turn it is are under way.
    wait_until("all turns are taken", || std::future::ready(connection.turns.available_permits() == 0)).await;
    let renewed = tokio::spawn({
        let (connection, metrics, left) = (connection.clone(), metrics.clone(), Arc::clone(&left));
        async move {
            let _ =
                scripts::RENEW.call(&connection, &["a", "b", "c", "d", "e", "f", "g"], &[], PATIENCE, &metrics).await;
            left.load(Ordering::SeqCst)
        }
    });
    redis.resume();
    let before = renewed.await.expect("renewed");
    println!("{before} of {LEAVES} leaves were answered before the renewal");
    assert!(before < LEAVES / 4, "{before} of {LEAVES} leaves came first");
    while leaves.join_next().await.is_some() {}
    running.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_ends_with_its_first_proof_keeps_nobody_from_being_ready() {
    const TIMES: usize = 12;
    let redis = Redis::start(RedisOptions::default()).await;
    let (proxy, ended) = ending_after(b"smessage", TIMES, &redis).await;
    let node = NodeProcess::start(&format!("redis://{proxy}"), &defaults()).await;
    wait_until("all have ended", || std::future::ready(ended.load(Ordering::SeqCst) > TIMES)).await;
    node.until_ready().await;
}
