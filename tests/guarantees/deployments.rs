//! Redis as people run it: with a password, an ACL user, TLS; Sentinel; Redis Cluster.
#![allow(clippy::print_stdout, reason = "times are to be read")]

use std::time::{Duration, Instant};

use duet::node::Node;
use serde_json::json;

use crate::support::{
    Client, PATIENCE,
    cluster::{Cluster, Variables, lease, quick, until_ready},
    redis::{Redis, RedisCluster, RedisOptions, Sentinels},
    seat, wait_until,
};

/// Pairs on different nodes come, talk, and go.
async fn works(cluster: &Cluster, rooms: usize, name: &str) {
    for n in 0..rooms {
        let room = format!("{name} {n}");
        let (mut a, mut b) = (Client::connect(&cluster[0]).await, Client::connect(&cluster[1]).await);
        seat(&mut a, &mut b, &room).await;
        assert_eq!(a.call(&json!(["message", n])).await, json!({"ok": true}));
        assert_eq!(b.expect("message").await, [json!(n)]);
        assert_eq!(b.call(&json!(["message", n])).await, json!({"ok": true}));
        assert_eq!(a.expect("message").await, [json!(n)]);
        let mut third = Client::connect(&cluster[0]).await;
        assert_eq!(third.call(&json!(["create or join", room])).await["code"], "full");
        assert_eq!(a.call(&json!(["bye"])).await, json!({"ok": true}));
        b.expect("bye").await;
        assert_eq!(b.call(&json!(["bye"])).await, json!({"ok": true}));
    }
}

async fn on(options: RedisOptions) {
    let redis = Redis::start(options.clone()).await;
    let mut settings = quick();
    if options.tls {
        settings.push(("DUET_REDIS__CA_FILE".into(), redis.ca_file().to_string_lossy().into_owned()));
    }
    let cluster = Cluster::start(&redis.url(), 2, &settings).await;
    works(&cluster, 2, "r").await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_a_password() {
    on(RedisOptions { password: Some("s3cret!".into()), ..RedisOptions::default() }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_an_acl_user() {
    on(RedisOptions { acl_user: Some(("duet".into(), "s3cret".into())), ..RedisOptions::default() }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_tls_and_a_password() {
    on(RedisOptions { tls: true, password: Some("s3cret".into()), ..RedisOptions::default() }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_password_or_an_unknown_authority_leaves_the_node_unready_and_said_so() {
    let redis = Redis::start(RedisOptions { tls: true, ..RedisOptions::default() }).await;
    // Without the authority's certificate.
    let node = crate::support::cluster::start(&redis.url(), &quick()).await;
    let (status, body) = crate::support::get(node.admin, "/readyz").await;
    assert_eq!((status, body.contains("redis")), (503, true), "{body}");
    node.stop().await;
}

/// Both talk to each other again; how long that took.
async fn talking_again(a: &mut Client, b: &mut Client, since: Instant) -> Duration {
    loop {
        let answer = a.call(&json!(["message", "again"])).await;
        if answer["ok"] == true {
            break;
        }
        assert_eq!((&answer["code"], &answer["retryable"]), (&json!("unavailable"), &json!(true)));
        assert!(since.elapsed() < PATIENCE * 2, "never again");
    }
    let took = since.elapsed();
    b.until("message").await;
    took
}

async fn all_ready(nodes: &[Node], since: Instant) -> Duration {
    for node in nodes {
        until_ready(node).await;
    }
    since.elapsed()
}

/// Leases that bridge a failover of these servers, which takes a few seconds.
fn bridging() -> Variables {
    lease("10s", "500ms")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sentinel_promotes_another_primary_and_the_service_heals_by_itself() {
    let mut sentinels = Sentinels::start().await;
    let cluster = Cluster::start(&sentinels.url(), 2, &bridging()).await;
    works(&cluster, 1, "before").await;
    let (mut a, mut b) = (Client::connect(&cluster[0]).await, Client::connect(&cluster[1]).await);
    seat(&mut a, &mut b, "r").await;
    let before = sentinels.primary_port().await;
    let killed = Instant::now();
    sentinels.kill_primary().await;
    let told = &sentinels;
    wait_until("another is promoted", || async move { told.primary_port().await != before }).await;
    let promoted = Instant::now();
    let talking = talking_again(&mut a, &mut b, promoted).await;
    let ready = all_ready(&cluster.0, promoted).await;
    println!(
        "sentinel: promoted after {:.1?}, talking {talking:.1?} and ready {ready:.1?} after that",
        promoted - killed
    );
    assert!(talking < Duration::from_secs(5) && ready < Duration::from_secs(5), "{talking:?} {ready:?}");
    // The seats are still theirs.
    let mut third = Client::connect(&cluster[0]).await;
    assert_eq!(third.call(&json!(["create or join", "r"])).await["code"], "full");
    works(&cluster, 1, "after").await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_cluster_serves_rooms_on_all_primaries_and_survives_one_of_them() {
    let mut servers = RedisCluster::start().await;
    let cluster = Cluster::start(&servers.url(), 2, &bridging()).await;
    works(&cluster, 30, "before").await;
    let mut pairs = Vec::new();
    for n in 0..12 {
        let (mut a, mut b) = (Client::connect(&cluster[0]).await, Client::connect(&cluster[1]).await);
        seat(&mut a, &mut b, &format!("kept {n}")).await;
        pairs.push((a, b));
    }
    // Rooms are on every primary.
    for server in &servers.servers {
        if server.command(&["ROLE"]).await.contains("master") {
            assert!(server.command(&["KEYS", "*room:kept*"]).await.contains("kept"), "a primary without a room");
        }
    }
    let killed = Instant::now();
    servers.kill_a_primary().await;
    // Neither a seat nor a peer is lost, whichever primary their room was on.
    for (a, b) in &mut pairs {
        talking_again(a, b, killed).await;
    }
    let talking = killed.elapsed();
    let ready = all_ready(&cluster.0, killed).await;
    println!("redis cluster: a primary killed, all talking after {talking:.1?}, ready after {ready:.1?}");
    for n in 0..12 {
        let mut third = Client::connect(&cluster[1]).await;
        assert_eq!(third.call(&json!(["create or join", format!("kept {n}")])).await["code"], "full", "room {n}");
    }
    works(&cluster, 5, "after").await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_adapter_carries_the_librarys_own_operations() {
    let redis = Redis::start(RedisOptions::default()).await;
    let cluster = Cluster::start(&redis.url(), 3, &quick()).await;
    let mut clients = Vec::new();
    for node in &cluster.0 {
        clients.push(Client::connect(node).await);
    }
    assert_eq!(cluster[0].sockets_of_all_nodes().await.expect("fetched"), 3);
    // One node disconnects a socket of another.
    let id = clients[2].id.parse().expect("an id");
    assert!(cluster[0].disconnect(duet::id::PeerId(id)).await.expect("told"));
    assert!(clients[2].is_closed_by_server().await);
    assert_eq!(clients[1].call(&json!(["create or join", "r"])).await["outcome"], "created");
    cluster.stop().await;
}
