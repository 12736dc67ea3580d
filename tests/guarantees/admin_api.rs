//! The admin API: whichever node is asked, it is done where it has to be, and nobody without the token gets anything.

use std::collections::{BTreeMap, BTreeSet};

use duet::{http::api, node::Node};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::support::{
    Client, Heard, PATIENCE,
    cluster::{Cluster, Variables, quick},
    get, metric, node,
    process::NodeProcess,
    redis::{Redis, RedisOptions},
    seat, wait_until,
};

const TOKEN: &str = "a-token-of-the-tests";

/// What was answered.
#[derive(Debug)]
struct Answer {
    status: u16,
    head: String,
    body: Value,
}

impl Answer {
    /// Status and code of a problem that is of the form of RFC 9457.
    fn problem(&self) -> (u16, &str) {
        assert!(self.head.contains("content-type: application/problem+json\r\n"), "{self:?}");
        assert_eq!(self.body["status"], self.status, "{self:?}");
        let code = self.body["code"].as_str().expect("a code");
        assert_eq!(self.body["type"], format!("urn:duet:problem:{code}"), "{self:?}");
        assert!(self.body["title"].is_string() && self.body["detail"].is_string(), "{self:?}");
        (self.status, code)
    }
}

/// A request with these header lines.
async fn send(address: std::net::SocketAddr, method: &str, path: &str, headers: &str, body: &str) -> Answer {
    let mut stream = TcpStream::connect(address).await.expect("connected");
    let request = format!(
        "{method} /api/v1{path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\nContent-Length: {}\r\n{headers}\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).await.expect("sent");
    let mut answer = String::new();
    tokio::time::timeout(PATIENCE, stream.read_to_string(&mut answer)).await.expect("in time").expect("an answer");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
    Answer { status, head: format!("{head}\r\n"), body: serde_json::from_str(body).unwrap_or(Value::Null) }
}

fn bearing(token: &str) -> String {
    format!("Authorization: Bearer {token}\r\n")
}

async fn ask(node: &Node, method: &str, path: &str) -> Answer {
    send(node.admin, method, path, &bearing(TOKEN), "").await
}

async fn cluster(redis: &Redis, nodes: usize) -> Cluster {
    let mut settings = quick();
    settings.push(("DUET_ADMIN__TOKEN".into(), TOKEN.into()));
    Cluster::start(&redis.url(), nodes, &settings).await
}

#[tokio::test]
async fn without_a_token_in_the_settings_there_is_no_such_api() {
    let node = node(&[]).await;
    for (method, path) in [("GET", "/rooms"), ("POST", "/drain"), ("GET", "/openapi.json"), ("GET", "")] {
        let answer = send(node.admin, method, path, &bearing(""), "").await;
        assert_eq!(answer.problem(), (404, "not_found"), "{method} {path}");
    }
    assert_eq!(get(node.admin, "/readyz").await.0, 200);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_the_token_nothing_is_told_and_nothing_is_done() {
    let node = node(&[("DUET_ADMIN__TOKEN", TOKEN)]).await;
    let mut client = Client::connect(&node).await;
    assert_eq!(client.call(&json!(["create or join", "r"])).await["ok"], true);
    let peer = client.id.clone();
    for (method, path) in api::listed() {
        let path = path.replace("{name}", "r").replace("{id}", &peer);
        for headers in ["", &bearing("another-token-than-it"), &bearing(&TOKEN[1..]), "Authorization: Basic YTpi\r\n"] {
            let answer = send(node.admin, method.as_str(), &path, headers, r#"{"level":"off"}"#).await;
            assert_eq!(answer.problem(), (401, "unauthorized"), "{method} {path}");
            assert!(answer.head.contains("www-authenticate: Bearer\r\n"), "{answer:?}");
        }
    }
    // Neither whether there is such a route.
    assert_eq!(send(node.admin, "GET", "/nowhere", "", "").await.problem(), (401, "unauthorized"));
    assert_eq!(get(node.admin, "/readyz").await.0, 200, "it does not drain");
    assert_eq!(ask(&node, "GET", "/rooms/r").await.body["seats"][0]["peer"], peer.as_str());
    assert_eq!(client.call(&json!(["message", 1])).await["code"], "no_peer", "it is still seated");
    assert!(metric(&node, "duet_admin_requests_total{code=\"unauthorized\"}").await >= 40);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_node_tells_of_all() {
    let redis = Redis::start(RedisOptions::default()).await;
    let cluster = cluster(&redis, 2).await;
    let (mut a, mut b) = (Client::connect(&cluster[0]).await, Client::connect(&cluster[1]).await);
    seat(&mut a, &mut b, "방 1").await;
    let (mut c, mut d) = (Client::connect(&cluster[0]).await, Client::connect(&cluster[0]).await);
    seat(&mut c, &mut d, "local").await;
    let mut alone = Client::connect(&cluster[1]).await;
    assert_eq!(alone.call(&json!(["create or join", "alone"])).await["ok"], true);
    let _silent = Client::connect(&cluster[1]).await;
    let all = json!({"rooms": 3, "waiting": 1, "seats": 5, "sockets": 6});
    let own = [
        json!({"rooms": 2, "waiting": 0, "seats": 3, "sockets": 3}),
        json!({"rooms": 2, "waiting": 1, "seats": 2, "sockets": 3}),
    ];
    for (at, own) in own.iter().enumerate() {
        let node = &cluster[at];
        let expected = json!({"node": own, "cluster": all, "nodes": 2, "unanswered": 0});
        let expected = &expected;
        wait_until("the counts are there", || async move {
            let answer = ask(node, "GET", "/rooms").await;
            answer.status == 200 && answer.body == *expected
        })
        .await;
        let room = ask(node, "GET", "/rooms/%EB%B0%A9%201").await;
        assert_eq!((room.status, &room.body["room"]), (200, &json!("방 1")));
        let seats = room.body["seats"].as_array().expect("seats");
        let seat_of = |peer: &str| seats.iter().find(|seat| seat["peer"] == peer).expect("its seat");
        assert_eq!(
            (seats.len(), &seat_of(&a.id)["role"], &seat_of(&b.id)["role"]),
            (2, &json!("created"), &json!("joined"))
        );
        assert_eq!((&seat_of(&a.id)["here"], &seat_of(&b.id)["here"]), (&json!(at == 0), &json!(at == 1)));
        let nodes = ask(node, "GET", "/nodes").await.body;
        let nodes = nodes["nodes"].as_array().expect("nodes");
        assert_eq!((nodes.len(), &nodes[0]["here"], &nodes[1]["here"]), (2, &json!(true), &json!(false)));
        for told in nodes {
            assert_eq!(
                (&told["answered"], &told["ready"], &told["draining"]),
                (&json!(true), &json!(true), &json!(false))
            );
            assert!(told["sockets"] == 3 && told["uptime_seconds"].is_u64(), "{told}");
        }
        assert_eq!(nodes[0]["node"], if at == 0 { &seat_of(&a.id)["node"] } else { &seat_of(&b.id)["node"] }.clone());
        assert_eq!(ask(node, "GET", "/rooms/nobody").await.problem(), (404, "no_such_room"));
    }
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_room_is_closed_from_any_node_and_both_are_told() {
    let redis = Redis::start(RedisOptions::default()).await;
    let cluster = cluster(&redis, 3).await;
    for asked in 0..3 {
        let (mut a, mut b) = (Client::connect(&cluster[0]).await, Client::connect(&cluster[1]).await);
        seat(&mut a, &mut b, "r").await;
        // Another room of the same socket is left alone.
        assert_eq!(a.call(&json!(["create or join", "other"])).await["outcome"], "created");
        a.expect("created").await;
        assert_eq!(ask(&cluster[asked], "DELETE", "/rooms/r").await.status, 204);
        assert_eq!(
            ask(&cluster[asked], "GET", "/rooms/r").await.problem(),
            (404, "no_such_room"),
            "it is done by then"
        );
        for client in [&mut a, &mut b] {
            let own = json!({"id": client.id, "reason": "closed"});
            let expected = [json!("r"), own];
            let heard = tokio::time::timeout(PATIENCE, async { while client.expect("bye").await != expected {} });
            heard.await.expect("in time");
            assert_eq!(client.call(&json!(["ready", "r"])).await["code"], "not_in_room");
        }
        assert_eq!(a.call(&json!(["ready", "other"])).await["code"], "no_peer", "it still sits there");
        // Whoever comes next opens it anew.
        seat(&mut b, &mut a, "r").await;
        assert_eq!(ask(&cluster[asked], "DELETE", "/rooms/nobody").await.problem(), (404, "no_such_room"));
        assert_eq!(ask(&cluster[asked], "DELETE", "/rooms/r").await.status, 204);
        assert_eq!(a.call(&json!(["bye"])).await["ok"], true);
        drop((a, b));
        let node = &cluster[asked];
        wait_until("all is free", || async move {
            let all = ask(node, "GET", "/rooms").await.body;
            all["cluster"]["sockets"] == 0
        })
        .await;
    }
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_is_put_out_from_any_node_and_its_peer_told() {
    let redis = Redis::start(RedisOptions::default()).await;
    let cluster = cluster(&redis, 2).await;
    for asked in 0..2 {
        for by_room in [true, false] {
            let (mut a, mut b) = (Client::connect(&cluster[0]).await, Client::connect(&cluster[1]).await);
            seat(&mut a, &mut b, "r").await;
            let path = |room: &str, id: &str| {
                if by_room { format!("/rooms/{room}/peers/{id}") } else { format!("/peers/{id}") }
            };
            if by_room {
                let elsewhere = ask(&cluster[asked], "DELETE", &path("elsewhere", &b.id)).await;
                assert_eq!(elsewhere.problem(), (404, "no_such_peer"));
            }
            let gone = path("r", &b.id);
            assert_eq!(ask(&cluster[asked], "DELETE", &gone).await.status, 204);
            let room = ask(&cluster[asked], "GET", "/rooms/r").await.body;
            assert_eq!(room["seats"].as_array().map(Vec::len), Some(1), "its seat is free by then");
            assert_eq!(a.expect("bye").await, [json!("r"), json!({"id": b.id, "reason": "closed"})]);
            let rejected = b.expect("rejected").await;
            assert_eq!((&rejected[0]["code"], &rejected[0]["retryable"]), (&json!("closed"), &json!(false)));
            assert!(b.is_closed_by_server().await);
            assert_eq!(ask(&cluster[asked], "DELETE", &gone).await.problem(), (404, "no_such_peer"));
            assert_eq!(a.call(&json!(["bye"])).await, json!({"ok": true}));
        }
    }
    // One that sits nowhere.
    let mut idle = Client::connect(&cluster[1]).await;
    assert_eq!(ask(&cluster[0], "DELETE", &format!("/peers/{}", idle.id)).await.status, 204);
    assert!(matches!(idle.hear().await, Heard::Event(name, _) if name == "rejected"));
    assert!(idle.is_closed_by_server().await);
    let node = &cluster[1];
    wait_until("nothing of it stays", || async move { metric(node, "duet_sockets").await == 0 }).await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_seat_that_is_kept_for_a_lost_peer_is_freed_too_wherever_it_is_kept() {
    let redis = Redis::start(RedisOptions::default()).await;
    let mut cluster = cluster(&redis, 3).await;
    // Who asks for a token has its seat kept.
    let take = async |client: &mut Client| client.call(&json!(["create or join", "r", {}])).await;
    for (asked, by_room) in [(0, true), (1, true), (0, false), (1, false)] {
        let (mut a, mut b) = (Client::connect(&cluster[0]).await, Client::connect(&cluster[1]).await);
        assert_eq!(take(&mut a).await["outcome"], "created");
        let token = take(&mut b).await["resume"].clone();
        let lost = b.id.clone();
        drop(b);
        let away = tokio::time::timeout(PATIENCE, a.until("peer reconnecting")).await;
        assert_eq!(away.expect("in time")[1]["id"], lost);
        let path = if by_room { "/rooms/r".to_owned() } else { format!("/rooms/r/peers/{lost}") };
        assert_eq!(ask(&cluster[asked], "DELETE", &path).await.status, 204, "{path}");
        // A room that is closed may be closed for `a` first: then it hears of its own seat alone.
        let gone = if by_room { &a.id } else { &lost };
        let expected = [json!("r"), json!({"id": gone, "reason": "closed"})];
        let heard = tokio::time::timeout(PATIENCE, async { while a.until("bye").await != expected {} });
        heard.await.expect("in time");
        let left = ask(&cluster[asked], "GET", "/rooms/r").await;
        if by_room {
            assert_eq!(left.problem(), (404, "no_such_room"));
        } else {
            assert_eq!((left.body["seats"].as_array().map(Vec::len), left.status), (Some(1), 200));
        }
        // Its token is of no use any more.
        let mut back = Client::connect(&cluster[2]).await;
        let answer = back.call(&json!(["create or join", "r", {"resume": token}])).await;
        assert_eq!(answer["outcome"], if by_room { "created" } else { "joined" }, "{answer}");
        for client in [&mut a, &mut back] {
            client.call(&json!(["bye"])).await;
        }
    }
    // One whose node is gone.
    let (mut a, mut b) = (Client::connect(&cluster[0]).await, Client::connect(&cluster[2]).await);
    assert_eq!(take(&mut a).await["outcome"], "created");
    assert_eq!(take(&mut b).await["outcome"], "joined");
    cluster.0.pop().expect("a third").stop().await;
    let node = &cluster[1];
    wait_until("its seat is known to be kept", || async move {
        let seats = ask(node, "GET", "/rooms/r").await.body;
        let away = seats["seats"].as_array().into_iter().flatten().map(|seat| seat["away"] == true);
        away.collect::<Vec<_>>() == [false, true]
    })
    .await;
    assert_eq!(ask(node, "DELETE", &format!("/rooms/r/peers/{}", b.id)).await.status, 204);
    let bye = tokio::time::timeout(PATIENCE, a.until("bye")).await.expect("in time");
    assert_eq!(bye[1], json!({"id": b.id, "reason": "closed"}));
    assert_eq!(ask(node, "GET", "/rooms/r").await.body["seats"].as_array().map(Vec::len), Some(1));
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_name_no_id_no_body_or_no_route_is_a_problem_with_a_code() {
    let node = node(&[("DUET_ADMIN__TOKEN", TOKEN)]).await;
    let long = "x".repeat(129);
    for (method, path, status, code) in [
        ("GET", "/rooms/a%0Ab", 400, "bad_room"),
        ("GET", "/rooms/%FF", 400, "bad_room"),
        ("GET", &format!("/rooms/{long}"), 400, "bad_room"),
        ("DELETE", "/rooms/a%00", 400, "bad_room"),
        ("DELETE", "/rooms/a%00/peers/AAAAAAAAAAAAAAAA", 400, "bad_room"),
        ("DELETE", "/rooms/a/peers/short", 400, "bad_peer"),
        ("DELETE", "/peers/not-a-peer-at-all-no", 400, "bad_peer"),
        ("DELETE", "/peers/%FF", 400, "bad_peer"),
        ("DELETE", "/peers/AAAAAAAAAAAAAAAA", 404, "no_such_peer"),
        ("GET", "/nowhere", 404, "not_found"),
        ("GET", "", 404, "not_found"),
        ("GET", "/rooms/a/b", 404, "not_found"),
    ] {
        assert_eq!(ask(&node, method, path).await.problem(), (status, code), "{method} {path}");
    }
    let wrong = ask(&node, "PATCH", "/rooms/a").await;
    assert_eq!(wrong.problem(), (405, "method_not_allowed"));
    let allow = wrong.head.lines().find_map(|line| line.strip_prefix("allow: ")).expect("a header").to_owned();
    assert!(allow.contains("GET") && allow.contains("DELETE") && !allow.contains("PUT"), "{allow}");

    let put = async |kind: &str, body: &str| {
        let headers = format!("{}{kind}", bearing(TOKEN));
        send(node.admin, "PUT", "/log-level", &headers, body).await
    };
    let json = "Content-Type: application/json\r\n";
    assert_eq!(put("", r#"{"level":"info"}"#).await.problem(), (415, "unsupported_media_type"));
    for body in ["", "{}", "null", r#"{"level":5}"#, r#"{"level":"loud"}"#, r#"{"level":"info","more":1}"#, "{"] {
        assert_eq!(put(json, body).await.problem(), (400, "bad_body"), "{body}");
    }
    assert_eq!(put(json, &" ".repeat(5000)).await.problem(), (413, "too_large"));
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_redis_is_away_it_is_said_so_and_what_is_of_this_node_goes_on() {
    let mut redis = Redis::start(RedisOptions::default()).await;
    let cluster = cluster(&redis, 2).await;
    // Who sits somewhere is closed when the lease has ended; who does not may stay.
    let mut client = Client::connect(&cluster[0]).await;
    redis.kill();
    let node = &cluster[0];
    wait_until("it is noticed", || async move { get(node.admin, "/readyz").await.0 == 503 }).await;
    let peer = "AAAAAAAAAAAAAAAA";
    for (method, path) in [
        ("GET", "/rooms".to_owned()),
        ("GET", "/nodes".to_owned()),
        ("GET", "/rooms/r".to_owned()),
        ("DELETE", "/rooms/r".to_owned()),
        ("DELETE", format!("/rooms/r/peers/{peer}")),
        ("DELETE", format!("/peers/{peer}")),
    ] {
        let answer = ask(node, method, &path).await;
        assert_eq!(answer.problem(), (503, "unavailable"), "{method} {path}");
        assert!(answer.head.contains("retry-after: 1\r\n"), "{answer:?}");
    }
    assert_eq!(ask(node, "GET", "/log-level").await.status, 200);
    assert_eq!(ask(node, "DELETE", &format!("/peers/{}", client.id)).await.status, 204);
    assert!(client.is_closed_by_server().await);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_does_not_answer_is_told_of_as_such() {
    let redis = Redis::start(RedisOptions::default()).await;
    let settings: Variables = vec![
        ("DUET_ADMIN__TOKEN".into(), TOKEN.into()),
        ("DUET_CLUSTER__LEASE".into(), "10s".into()),
        ("DUET_CLUSTER__RENEW".into(), "200ms".into()),
        ("DUET_CLUSTER__PATIENCE".into(), "500ms".into()),
    ];
    let mut nodes = Vec::new();
    for _ in 0..2 {
        nodes.push(NodeProcess::start(&redis.url(), &settings).await);
    }
    let asked = |path: &'static str, method: &'static str| {
        let admin = nodes[0].admin;
        async move { send(admin, method, path, &bearing(TOKEN), "").await }
    };
    let ready = tokio::time::timeout(PATIENCE * 5, async {
        while !(nodes[0].is_ready().await && nodes[1].is_ready().await) {
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    });
    ready.await.expect("both ready");
    let mut client = Client::connect_to(nodes[1].public).await;
    assert_eq!(client.call(&json!(["create or join", "r"])).await["ok"], true);
    nodes[1].freeze();
    let rooms = asked("/rooms", "GET").await;
    assert_eq!((rooms.status, &rooms.body["nodes"], &rooms.body["unanswered"]), (200, &json!(2), &json!(1)));
    let told = asked("/nodes", "GET").await.body["nodes"][1].clone();
    assert!(told["answered"] == false && told.get("sockets").is_none(), "{told}");
    assert_eq!(asked("/rooms/r", "DELETE").await.problem(), (503, "unavailable"));
    assert_eq!(asked("/peers/AAAAAAAAAAAAAAAA", "DELETE").await.problem(), (503, "unavailable"));
    nodes[1].wake();
    wait_until("it answers again", || async { asked("/rooms", "GET").await.body["unanswered"] == 0 }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_drains_when_it_is_asked_to_and_runs_on_until_it_is_told_to_stop() {
    let redis = Redis::start(RedisOptions::default()).await;
    let cluster = cluster(&redis, 2).await;
    let (mut a, mut b) = (Client::connect(&cluster[0]).await, Client::connect(&cluster[1]).await);
    seat(&mut a, &mut b, "r").await;
    let answer = ask(&cluster[0], "POST", "/drain").await;
    assert_eq!((answer.status, &answer.body), (202, &json!({"sockets": 1})));
    let heard = a.until("draining").await;
    assert!(heard[0]["delay_ms"].is_u64(), "{heard:?}");
    assert!(a.is_closed_by_server().await);
    assert_eq!(b.expect("bye").await, [json!("r"), json!({"id": a.id, "reason": "node_shutdown"})]);
    let (status, why) = get(cluster[0].admin, "/readyz").await;
    assert!(status == 503 && why.contains("draining"), "{status} {why}");
    assert_eq!(get(cluster[0].public, "/socket.io/?EIO=4&transport=polling").await.0, 503);
    assert_eq!(ask(&cluster[0], "POST", "/drain").await.status, 202, "once more is no other");
    let other = &cluster[1];
    wait_until("the other sees it", || async move {
        let nodes = ask(other, "GET", "/nodes").await.body;
        nodes["nodes"][1]["draining"] == true && nodes["nodes"][1]["sockets"] == 0
    })
    .await;
    assert_eq!(get(other.admin, "/readyz").await.0, 200, "it is of that node alone");
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_log_level_changes_at_run_time_and_back_with_the_settings() {
    let settings: Variables = vec![("DUET_ADMIN__TOKEN".into(), TOKEN.into())];
    let mut node = NodeProcess::start("", &settings).await;
    let level = async |body: Option<&str>| {
        let headers = format!("{}Content-Type: application/json\r\n", bearing(TOKEN));
        let method = if body.is_some() { "PUT" } else { "GET" };
        let answer = send(node.admin, method, "/log-level", &headers, body.unwrap_or_default()).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.body["level"].as_str().expect("a level").to_owned()
    };
    let noise = async || {
        // What is refused is told at level debug.
        let mut stream = TcpStream::connect(node.public).await.expect("connected");
        stream.write_all(b"\0\0\0\0\r\n\r\n").await.expect("sent");
        tokio::time::timeout(PATIENCE, stream.read_to_end(&mut Vec::new())).await.expect("an end").ok();
    };
    let debug_lines = || node.log().lines().filter(|line| line.contains("\"DEBUG\"")).count();
    assert_eq!(level(None).await, "info");
    noise().await;
    assert_eq!(debug_lines(), 0);
    assert_eq!(level(Some(r#"{"level":"info,duet=debug"}"#)).await, "info,duet=debug");
    assert_eq!(level(None).await, "info,duet=debug");
    noise().await;
    wait_until("more is written", || async { debug_lines() > 0 }).await;
    node.hang_up();
    wait_until("the settings rule again", || async { level(None).await == "info" }).await;
    node.terminate();
}

/// A file of settings, read by a node and changed under it.
struct File(tempfile::NamedTempFile);

impl File {
    fn new(text: &str) -> Self {
        let file = Self(tempfile::NamedTempFile::new().expect("a file"));
        file.write(text);
        file
    }
    fn write(&self, text: &str) {
        std::fs::write(self.0.path(), text).expect("written");
    }
    fn name(&self) -> String {
        self.0.path().to_str().expect("a name").to_owned()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sighup_puts_all_settings_into_force_or_none() {
    let (file, secret) = (File::new("[limits]\nrooms_per_socket = 2\n"), File::new("the-first-token-of-all\n"));
    let settings: Variables =
        vec![("DUET_CONFIG".into(), file.name()), ("DUET_ADMIN__TOKEN_FILE".into(), secret.name())];
    let mut node = NodeProcess::start("", &settings).await;
    let mut client = Client::connect_to(node.public).await;
    let joins = async |client: &mut Client, room: &str| client.call(&json!(["create or join", room])).await;
    assert_eq!(joins(&mut client, "1").await["ok"], true);
    assert_eq!(joins(&mut client, "2").await["ok"], true);
    assert_eq!(joins(&mut client, "3").await["code"], "too_many_rooms");
    let hang_up = async |outcome: &str| {
        let name = format!("duet_reloads_total{{outcome=\"{outcome}\"}}");
        let before = node.metric(&name).await;
        node.hang_up();
        wait_until("it was read", || async { node.metric(&name).await > before }).await;
        node.log().lines().rev().find(|line| line.contains("settings were read again")).expect("a line").to_owned()
    };

    file.write("[limits]\nrooms_per_socket = 3\n[log]\nlevel = \"debug\"\n");
    secret.write("the-second-token-of-all\n");
    let line = hang_up("applied").await;
    assert!(
        line.contains("limits.rooms_per_socket") && line.contains("log.level") && !line.contains("\"3\""),
        "{line}"
    );
    assert_eq!(joins(&mut client, "3").await["ok"], true, "in force, and the socket was left alone");
    let with = async |token: &str| send(node.admin, "GET", "/rooms", &bearing(token), "").await.status;
    assert_eq!((with("the-first-token-of-all").await, with("the-second-token-of-all").await), (401, 200));

    // One that cannot be used, one that cannot change, one that nobody knows, a file that is gone: nothing of it is taken.
    for (text, says) in [
        ("[limits]\nrooms_per_socket = 9\n[log]\nlevel = \"loud\"\n", "log.level"),
        ("[limits]\nrooms_per_socket = 9\n[cluster]\nlease = \"9s\"\n", "cluster.lease"),
        ("[limits]\nrooms_per_socket = 9\n[server]\nlisten = \"127.0.0.1:1\"\n", ""),
        ("[limits]\nrooms_per_socket = 9\nnobody = 1\n", "nobody"),
        ("[limits]\nrooms_per_socket = 9\nmessage_bytes = 2000\n", "limits.message_bytes"),
        ("[limits]\nrooms_per_socket = 9\n[server]\nhsts = \"1s\"\n", "server.hsts"),
        ("[limits", ""),
    ] {
        file.write(text);
        // The address is given by the environment, which wins: such a file changes no address.
        let outcome = if text.contains("listen") { continue } else { "refused" };
        let line = hang_up(outcome).await;
        assert!(line.contains(says) && line.contains("nothing changed"), "{text}: {line}");
        assert_eq!(joins(&mut client, "4").await["code"], "too_many_rooms", "{text}");
    }
    file.write("[limits]\nrooms_per_socket = 9\n");
    secret.write("short\n");
    let line = hang_up("refused").await;
    assert!(line.contains("admin.token_file") && !line.contains("short\""), "{line}");
    assert_eq!(joins(&mut client, "4").await["code"], "too_many_rooms");
    assert_eq!(with("the-second-token-of-all").await, 200);
    secret.write("the-third-token-of-all\n");
    hang_up("applied").await;
    assert_eq!(joins(&mut client, "4").await["ok"], true);
    assert!(!node.log().contains("-token-of-all"));
    node.terminate();
}

#[tokio::test]
async fn the_start_says_what_is_open() {
    let settings: Variables = vec![("DUET_ADMIN__TOKEN".into(), TOKEN.into())];
    let node = NodeProcess::start("", &settings).await;
    let line = node.line("listening").expect("a line");
    assert_eq!(
        (&line["open"], &line["admin_api"]),
        (&json!(r#"["tls", "admission", "origins", "limits_per_address", "ipaddr"]"#), &json!(true)),
        "{line}"
    );
    assert!(!node.log().contains(TOKEN));
}

#[test]
fn the_document_names_every_route_and_no_other() {
    let document: Value = serde_json::from_str(api::DOCUMENT).expect("JSON");
    assert_eq!(document["openapi"], "3.1.0");
    assert_eq!(document["servers"], json!([{"url": api::PREFIX}]));
    let mut described = BTreeSet::new();
    for (path, item) in document["paths"].as_object().expect("paths") {
        let methods = ["get", "put", "post", "delete", "patch", "head", "options"];
        for (method, operation) in
            item.as_object().expect("an item").iter().filter(|(key, _)| methods.contains(&&***key))
        {
            described.insert((method.to_uppercase(), path.clone()));
            let named: BTreeSet<_> =
                path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}')).collect();
            let parameters = item["parameters"].as_array().into_iter().flatten();
            let parameters = parameters.map(|parameter| {
                let pointer = parameter["$ref"].as_str().expect("a reference").trim_start_matches('#');
                document.pointer(pointer).expect("there")["name"].as_str().expect("a name")
            });
            assert_eq!(parameters.collect::<BTreeSet<_>>(), named, "{method} {path}");
            let answers: BTreeMap<_, _> = operation["responses"].as_object().expect("answers").iter().collect();
            for always in ["401", "429", "503"] {
                assert!(answers.contains_key(&always.to_owned()), "{method} {path}: {always}");
            }
        }
    }
    let routes = api::listed().into_iter().map(|(method, path)| (method.to_string(), path.to_owned())).collect();
    assert_eq!(described, routes);
}
