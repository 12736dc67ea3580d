//! What a stranger may have: each limit at its bound, who counts as one, and which pages may come in.
//!
//! Times are tested where they are reckoned (`src/limits`), with the time passed in. Here limits are small and rates slow, so
//! that what is refused is refused on any machine.

use std::time::{Duration, Instant};

use duet::node::Node;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::support::{
    Client, Heard, PATIENCE, get, http, metric, node, process::NodeProcess, seat, settings, stream_from, wait_until,
};

/// What the limit did, as its counter tells.
async fn limited(node: &Node, limit: &str, by: &str) -> u64 {
    metric(node, &format!(r#"duet_limited_total{{by="{by}",limit="{limit}"}}"#)).await
}

/// A polling handshake on a connection of its own: status, head, body.
async fn polling(stream: TcpStream, headers: &str) -> (u16, String, String) {
    ask(stream, "GET", "/socket.io/?EIO=4&transport=polling", headers).await
}

async fn ask(mut stream: TcpStream, method: &str, path: &str, headers: &str) -> (u16, String, String) {
    let request = format!("{method} {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n{headers}\r\n");
    stream.write_all(request.as_bytes()).await.expect("sent");
    answer(stream).await
}

async fn answer(mut stream: TcpStream) -> (u16, String, String) {
    let mut answer = Vec::new();
    let read = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer)).await.expect("in time");
    let text = String::from_utf8_lossy(&answer).into_owned();
    assert!(read.is_ok() || text.is_empty(), "{text}");
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or(0);
    (status, head.to_lowercase(), body.to_owned())
}

async fn plain(node: &Node) -> TcpStream {
    TcpStream::connect(node.public).await.expect("connected")
}

fn code(body: &str) -> Value {
    let answer: Value = serde_json::from_str(body).unwrap_or_else(|_| panic!("no JSON: {body}"));
    assert!(answer["message"].is_string() && answer["retryable"].is_boolean(), "{body}");
    answer["code"].clone()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_address_has_so_many_sockets_and_a_closed_one_makes_room() {
    let node = node(&[("DUET_LIMITS__SOCKETS_PER_ADDRESS", "2")]).await;
    let first = Client::connect(&node).await;
    let (status, _, _) = polling(plain(&node).await, "").await;
    assert_eq!(status, 200, "a session that polls is one, too");
    let (status, head, body) = polling(plain(&node).await, "").await;
    assert_eq!((status, code(&body)), (429, json!("too_many_sockets")));
    assert!(head.contains("retry-after: ") && head.contains("x-content-type-options: nosniff"), "{head}");
    assert_eq!(Client::connect_from("127.0.0.1", node.public).await.err(), Some(429));
    assert_eq!(limited(&node, "sockets_per_address", "refusal").await, 2);
    // Another address is not concerned.
    let _other = Client::connect_from("127.0.0.2", node.public).await.expect("connected");
    drop(first);
    wait_until("there is room again", || async { Client::connect_from("127.0.0.1", node.public).await.is_ok() }).await;
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_has_so_many_sockets() {
    let node = node(&[("DUET_LIMITS__SOCKETS", "2")]).await;
    let first = Client::connect(&node).await;
    let _second = Client::connect_from("127.0.0.2", node.public).await.expect("connected");
    let (status, head, body) = polling(plain(&node).await, "").await;
    assert_eq!((status, code(&body)), (503, json!("node_full")));
    assert!(head.contains("retry-after: "), "{head}");
    assert_eq!(Client::connect_from("127.0.0.3", node.public).await.err(), Some(503));
    assert_eq!(limited(&node, "sockets", "refusal").await, 2);
    drop(first);
    wait_until("there is room again", || async { Client::connect_from("127.0.0.3", node.public).await.is_ok() }).await;
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn handshakes_of_an_address_have_a_rate() {
    let node = node(&[("DUET_LIMITS__HANDSHAKES", "1/m burst 3")]).await;
    for _ in 0..3 {
        drop(Client::connect(&node).await);
    }
    let (status, head, body) = polling(plain(&node).await, "").await;
    assert_eq!((status, code(&body)), (429, json!("too_many_handshakes")));
    let wait: u64 =
        head.split("retry-after: ").nth(1).and_then(|rest| rest.lines().next()?.parse().ok()).expect("a time");
    assert!((20..=61).contains(&wait), "{wait}");
    assert_eq!(limited(&node, "handshakes", "refusal").await, 1);
    assert!(Client::connect_from("127.0.0.2", node.public).await.is_ok());
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn joins_of_an_address_and_into_a_room_have_rates() {
    let node = node(&[("DUET_LIMITS__JOINS", "1/m burst 3"), ("DUET_LIMITS__ROOM_JOINS", "1/m burst 4")]).await;
    let mut a = Client::connect(&node).await;
    for outcome in ["created", "created", "created"] {
        assert_eq!(a.call(&json!(["create or join", "r"])).await["outcome"], outcome);
    }
    let refused = a.call(&json!(["create or join", "other"])).await;
    assert_eq!((&refused["code"], &refused["retryable"]), (&json!("too_many_joins"), &json!(true)));
    let mut b = Client::connect_from("127.0.0.2", node.public).await.expect("connected");
    assert_eq!(b.call(&json!(["create or join", "r"])).await["outcome"], "joined");
    let mut c = Client::connect_from("127.0.0.3", node.public).await.expect("connected");
    assert_eq!(c.call(&json!(["create or join", "r"])).await["code"], "too_many_joins");
    assert_eq!(c.call(&json!(["create or join", "another"])).await["outcome"], "created");
    assert_eq!((limited(&node, "joins", "refusal").await, limited(&node, "room_joins", "refusal").await), (1, 1));
    assert_eq!(metric(&node, r#"duet_refusals_total{code="too_many_joins",event="create or join"}"#).await, 2);
    // The pair is not concerned.
    assert_eq!(a.call(&json!(["message", 1])).await["ok"], true);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_guesses_at_rooms_is_slowed_down_then_refused() {
    let node = node(&[("DUET_LIMITS__FAILURES", "1/h burst 4")]).await;
    let (mut a, mut b) = (
        Client::connect_from("127.0.0.2", node.public).await.expect("connected"),
        Client::connect_from("127.0.0.2", node.public).await.expect("connected"),
    );
    seat(&mut a, &mut b, "r").await;
    let mut guesser = Client::connect(&node).await;
    for n in 0..4 {
        let asked = Instant::now();
        assert_eq!(guesser.call(&json!(["create or join", "r"])).await["code"], "full", "{n}");
        // The fourth has three behind it, of four: half way from no delay to the longest.
        assert!(n < 3 || asked.elapsed() > Duration::from_millis(900), "{:?}", asked.elapsed());
    }
    assert_eq!(guesser.call(&json!(["create or join", "r"])).await["code"], "too_many_failures");
    assert_eq!(guesser.call(&json!(["create or join", "free"])).await["code"], "too_many_failures");
    let (status, _, body) = polling(plain(&node).await, "").await;
    assert_eq!((status, code(&body)), (429, json!("too_many_failures")));
    assert!(limited(&node, "failures", "delay").await >= 1);
    assert_eq!(limited(&node, "failures", "refusal").await, 3);
    // Others come and go as ever.
    assert_eq!(a.call(&json!(["create or join", "second"])).await["outcome"], "created");
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_larger_than_its_kind_may_be_is_refused() {
    let node = node(&[
        ("DUET_LIMITS__ROOM_EVENT_BYTES", "2048"),
        ("DUET_LIMITS__DESCRIPTION_BYTES", "4096"),
        ("DUET_LIMITS__CANDIDATE_BYTES", "3000"),
    ])
    .await;
    let (mut a, mut b) = (Client::connect(&node).await, Client::connect(&node).await);
    seat(&mut a, &mut b, "r").await;
    // An array that is exactly so long.
    let padded = |build: &dyn Fn(&str) -> Value, bytes: usize| {
        let bare = build("").to_string().len();
        build(&"x".repeat(bytes - bare)).to_string()
    };
    let offer = |kind: &'static str| move |sdp: &str| json!([kind, {"room": "r", "sdp": sdp, "type": "offer"}]);
    let candidate = |text: &str| json!(["candidate", {"room": "r", "candidate": text}]);
    for (name, build, most) in [
        ("offer", &offer("offer") as &dyn Fn(&str) -> Value, 4096),
        ("answer", &offer("answer"), 4096),
        ("candidate", &candidate, 3000),
    ] {
        assert_eq!(a.call_raw(&padded(build, most)).await, json!({"ok": true}), "{name}");
        b.expect(name).await;
        let refused = a.call_raw(&padded(build, most + 1)).await;
        assert_eq!((&refused["code"], &refused["retryable"]), (&json!("too_large"), &json!(false)), "{name}");
    }
    for name in ["create or join", "ready", "bye"] {
        assert_eq!(a.call_raw(&padded(&|room| json!([name, room]), 2048)).await["code"], "bad_room", "{name}");
        assert_eq!(a.call_raw(&padded(&|room| json!([name, room]), 2049)).await["code"], "too_large", "{name}");
    }
    // A `message` has the bound of a packet.
    assert_eq!(a.call(&json!(["message", "x".repeat(100_000)])).await, json!({"ok": true}));
    assert_eq!(b.expect("message").await[0].as_str().map(str::len), Some(100_000));
    assert_eq!(limited(&node, "event_bytes", "refusal").await, 6);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn by_default_a_burst_of_a_thousand_events_arrives_at_once_and_some_more_a_little_later() {
    let node = node(&[("DUET_LIMITS__EVENTS", "100/s burst 1000")]).await;
    let (mut a, mut b) = (Client::connect(&node).await, Client::connect(&node).await);
    seat(&mut a, &mut b, "r").await;
    for n in 0..1150 {
        a.emit(&json!(["message", n])).await;
    }
    for n in 0..1150 {
        assert_eq!(b.expect("message").await, [json!(n)]);
    }
    assert_eq!(limited(&node, "events", "refusal").await, 0);
    assert!(limited(&node, "events", "delay").await >= 1);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_socket_that_sends_much_too_fast_is_told_then_closed_and_its_peer_hears_of_it() {
    let node = node(&[("DUET_LIMITS__EVENTS", "20/s burst 50"), ("DUET_TIMEOUTS__PING_TIMEOUT", "1s")]).await;
    let (mut a, mut b) = (Client::connect(&node).await, Client::connect(&node).await);
    seat(&mut a, &mut b, "r").await;
    for n in 0..1000 {
        a.emit(&json!(["message", n])).await;
    }
    let mut told = Vec::new();
    let closed = async {
        loop {
            match a.hear().await {
                Heard::Event(name, arguments) if name == "rejected" => told.push(arguments[0]["code"].clone()),
                Heard::Closed => break,
                heard => panic!("{heard:?}"),
            }
        }
    };
    // What was served arrives in order, and then the end. The peer listens all the while: it has pings to answer.
    let mut last = -1;
    let left = async {
        loop {
            match b.hear().await {
                Heard::Event(name, arguments) if name == "message" => {
                    let n = arguments[0].as_i64().expect("a number");
                    assert!(n > last, "{n} after {last}");
                    last = n;
                }
                Heard::Event(name, arguments) if name == "bye" => {
                    assert_eq!(arguments[1]["reason"], "protocol_error");
                    break;
                }
                heard => panic!("{heard:?}"),
            }
        }
    };
    tokio::join!(closed, left);
    assert!(told.len() > 50 && told.iter().all(|code| code == "too_fast"), "{told:?}");
    assert!(last >= 49, "{last}");
    assert_eq!(limited(&node, "events", "close").await, 1);
    assert!(limited(&node, "events", "refusal").await >= told.len() as u64);
    assert_eq!(b.call(&json!(["create or join", "again"])).await["outcome"], "created");
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_socket_that_was_refused_is_served_again_later() {
    let node = node(&[("DUET_LIMITS__EVENTS", "20/s burst 20")]).await;
    // All in one POST: there is nothing to slow down.
    let (_, open) = get(node.public, "/socket.io/?EIO=4&transport=polling").await;
    let open: Value = serde_json::from_str(&open[1..]).expect("JSON");
    let path = format!("/socket.io/?EIO=4&transport=polling&sid={}", open["sid"].as_str().expect("an id"));
    let post = |body: String| {
        let length = body.len();
        let request =
            format!("POST {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}");
        async move { http(node.public, &request).await.0 }
    };
    assert_eq!(post("40".into()).await, 200);
    let calls =
        |from: usize, to: usize| (from..to).map(|n| format!(r#"42{n}["ipaddr"]"#)).collect::<Vec<_>>().join("\u{1e}");
    assert_eq!(post(calls(0, 55)).await, 200);
    let mut heard = String::new();
    while !heard.contains("4354[") {
        heard += &get(node.public, &path).await.1;
    }
    // Twenty at once, and what is made up for within a second.
    assert!((20..40).all(|n| !heard.contains(&format!("43{n}[{{\"ok\":false"))), "{heard}");
    assert!(heard.contains("too_fast") && !heard.contains("4339[{\"ok\":false"), "{heard}");
    assert_eq!(post(calls(55, 56)).await, 200);
    let mut heard = String::new();
    while !heard.contains("4355[") {
        heard += &get(node.public, &path).await.1;
    }
    assert!(heard.contains("4355[{\"ok\":true}]"), "{heard}");
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bytes_and_frames_of_a_connection_are_slowed_down_and_nothing_is_lost() {
    for (limit, name, rate) in
        [("DUET_LIMITS__BYTES", "bytes", "100000/s burst 50000"), ("DUET_LIMITS__FRAMES", "frames", "50/s burst 100")]
    {
        let node = node(&[(limit, rate)]).await;
        let (mut a, mut b) = (Client::connect(&node).await, Client::connect(&node).await);
        seat(&mut a, &mut b, "r").await;
        let began = Instant::now();
        let padding = "x".repeat(1000);
        for n in 0..200 {
            a.emit(&json!(["message", n, padding])).await;
        }
        for n in 0..200 {
            assert_eq!(b.expect("message").await[0], json!(n));
        }
        assert!(began.elapsed() > Duration::from_millis(1200), "{limit}: {:?}", began.elapsed());
        assert!(limited(&node, name, "delay").await > 0, "{limit}");
        node.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn limits_can_be_replaced_while_sockets_are_connected() {
    let node = node(&[]).await;
    let (mut a, mut b) = (Client::connect(&node).await, Client::connect(&node).await);
    seat(&mut a, &mut b, "r").await;
    let reload = async |key: &str, value: &str| {
        let changed = settings(&[(key, value)]);
        node.reload(|| Ok(changed)).await.expect("reloaded")
    };
    assert_eq!(reload("DUET_LIMITS__ROOMS_PER_SOCKET", "1").await, ["limits.rooms_per_socket"]);
    assert_eq!(a.call(&json!(["create or join", "second"])).await["code"], "too_many_rooms");
    assert_eq!(reload("DUET_LIMITS__SOCKETS", "2").await, ["limits.rooms_per_socket", "limits.sockets"]);
    assert_eq!(a.call(&json!(["create or join", "second"])).await["outcome"], "created");
    assert_eq!(Client::connect_from("127.0.0.2", node.public).await.err(), Some(503));
    assert_eq!(reload("DUET_LIMITS__SOCKETS", "0").await, ["limits.sockets"]);
    assert!(Client::connect_from("127.0.0.2", node.public).await.is_ok());
    assert_eq!(a.call(&json!(["message", 1])).await["ok"], true);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_address_has_so_many_connections_that_are_no_sockets() {
    let node = node(&[("DUET_LIMITS__CONNECTIONS_PER_ADDRESS", "3")]).await;
    let mut silent = Vec::new();
    for _ in 0..3 {
        silent.push(plain(&node).await);
    }
    wait_until("they are counted", || async { metric(&node, "duet_http_connections").await == 3 }).await;
    assert_eq!(answer(plain(&node).await).await.0, 0, "closed at once");
    assert_eq!(limited(&node, "connections_per_address", "close").await, 1);
    // WebSockets are not among them.
    let mut sockets = Vec::new();
    for _ in 0..5 {
        sockets.push(Client::connect_from("127.0.0.2", node.public).await.expect("connected"));
    }
    silent.pop();
    wait_until("there is room again", || async {
        let stream = plain(&node).await;
        tokio::time::timeout(PATIENCE, polling(stream, "")).await.is_ok_and(|(status, _, _)| status == 200)
    })
    .await;
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_node_drops_who_has_been_silent_for_longest_and_serves_who_speaks() {
    let node = node(&[("DUET_LIMITS__CONNECTIONS", "10")]).await;
    let (_, open) = get(node.public, "/socket.io/?EIO=4&transport=polling").await;
    let open: Value = serde_json::from_str(&open[1..]).expect("JSON");
    let path = format!("/socket.io/?EIO=4&transport=polling&sid={}", open["sid"].as_str().expect("an id"));
    // The first of all connections, but one with a request: a poll that waits.
    let mut poll = plain(&node).await;
    poll.write_all(format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n").as_bytes()).await.expect("sent");
    let mut silent = Vec::new();
    for _ in 0..30 {
        let mut stream = plain(&node).await;
        stream.write_all(b"GET / HTTP/1.1\r\nHo").await.expect("sent");
        silent.push(stream);
    }
    // Whoever comes and speaks is served, and the first of the silent are gone.
    assert_eq!(Client::connect_from("127.0.0.1", node.public).await.err(), None);
    for stream in silent.drain(..20) {
        assert_eq!(answer(stream).await.0, 0);
    }
    assert!(limited(&node, "connections", "close").await >= 20);
    assert!(metric(&node, "duet_http_connections").await <= 11);
    let post = format!("POST {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 2\r\n\r\n40");
    assert_eq!(http(node.public, &post).await.0, 200);
    let mut first = [0; 12];
    tokio::time::timeout(PATIENCE, poll.read_exact(&mut first)).await.expect("in time").expect("the poll is answered");
    assert_eq!(&first, b"HTTP/1.1 200");
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_forged_forwarding_header_is_not_believed_and_a_trusted_one_is() {
    let limit = ("DUET_LIMITS__SOCKETS_PER_ADDRESS", "1");
    let header = |address: &str| format!("X-Forwarded-For: {address}\r\n");
    let untrusting = node(&[limit]).await;
    assert_eq!(polling(plain(&untrusting).await, &header("192.0.2.1")).await.0, 200);
    assert_eq!(polling(plain(&untrusting).await, &header("192.0.2.2")).await.0, 429);
    untrusting.stop().await;

    let trusting = node(&[limit, ("DUET_SERVER__TRUSTED_PROXIES", "127.0.0.1")]).await;
    let proxied = async |list: &str| polling(plain(&trusting).await, &header(list)).await.0;
    assert_eq!(proxied("192.0.2.1").await, 200);
    assert_eq!(proxied("192.0.2.1").await, 429);
    assert_eq!(proxied("192.0.2.2").await, 200);
    // What the client wrote itself stands further left.
    assert_eq!(proxied("198.51.100.9, 192.0.2.1").await, 429);
    // A /64 of IPv6 is one, an IPv4 address in IPv6 is itself.
    assert_eq!(proxied("2001:db8:0:1::1").await, 200);
    assert_eq!(proxied("2001:db8:0:1:ffff::2").await, 429);
    assert_eq!(proxied("2001:db8:0:2::1").await, 200);
    assert_eq!(proxied("::ffff:192.0.2.2").await, 429);
    // Another peer is no proxy.
    let from_elsewhere = || async { stream_from("127.0.0.9", trusting.public).await };
    assert_eq!(polling(from_elsewhere().await, &header("192.0.2.77")).await.0, 200);
    assert_eq!(polling(from_elsewhere().await, &header("192.0.2.78")).await.0, 429);
    // WebSockets are asked the same way.
    let socket = async |address: &str| {
        Client::over_with(trusting.public, plain(&trusting).await, &[("x-forwarded-for", address)]).await.err()
    };
    assert_eq!(socket("192.0.2.1").await, Some(429));
    trusting.stop().await;
}

/// A header of the PROXY protocol, version 2, for TCP over IPv4 from 192.0.2.`last`.
fn version_2(last: u8) -> Vec<u8> {
    let mut header = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x0c".to_vec();
    header.extend([192, 0, 2, last, 127, 0, 0, 1, 0x12, 0x34, 0x1f, 0x90]);
    header
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_proxy_protocol_tells_who_the_client_is() {
    let node = node(&[
        ("DUET_LIMITS__SOCKETS_PER_ADDRESS", "1"),
        ("DUET_SERVER__TRUSTED_PROXIES", "127.0.0.1"),
        ("DUET_SERVER__PROXY_PROTOCOL", "on"),
        ("DUET_TIMEOUTS__HANDSHAKE", "2s"),
    ])
    .await;
    let begin = async |header: &[u8]| {
        let mut stream = plain(&node).await;
        stream.write_all(header).await.expect("sent");
        polling(stream, "").await.0
    };
    let v1 = |last: u8| format!("PROXY TCP4 192.0.2.{last} 127.0.0.1 4660 8080\r\n").into_bytes();
    assert_eq!(begin(&v1(1)).await, 200);
    assert_eq!(begin(&v1(1)).await, 429);
    assert_eq!(begin(&version_2(1)).await, 429);
    assert_eq!(begin(&version_2(2)).await, 200);
    assert_eq!(begin(b"PROXY TCP6 2001:db8::1 ::1 4660 8080\r\n").await, 200);
    assert_eq!(begin(b"PROXY TCP6 2001:db8::2 ::1 4660 8080\r\n").await, 429);
    // The proxy for itself.
    assert_eq!(begin(b"PROXY UNKNOWN\r\n").await, 200);
    // A byte at a time, and the request in the same packet as the header's end.
    for header in [v1(3), version_2(4)] {
        let mut stream = plain(&node).await;
        stream.set_nodelay(true).expect("an option");
        let (last, first) = header.split_last().expect("a header");
        for byte in first {
            stream.write_all(&[*byte]).await.expect("sent");
            tokio::task::yield_now().await;
        }
        let request = "GET /socket.io/?EIO=4&transport=polling HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
        stream.write_all(&[&[*last][..], request.as_bytes()].concat()).await.expect("sent");
        assert_eq!(answer(stream).await.0, 200);
    }
    // A WebSocket behind it works.
    let mut stream = plain(&node).await;
    stream.write_all(&version_2(5)).await.expect("sent");
    let mut client = Client::over_with(node.public, stream, &[]).await.expect("connected");
    assert_eq!(client.call(&json!(["create or join", "r"])).await["outcome"], "created");
    // Whoever is trusted has to begin with it; whoever is not must not.
    for garbage in [
        &b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"[..],
        b"PROXY TCP4 nobody 127.0.0.1 1 2\r\n",
        b"\r\n\r\n\0\r\nQUIT\n\x21\x11\xff\xff",
        &[b'x'; 5000],
    ] {
        let mut stream = plain(&node).await;
        let _ = stream.write_all(garbage).await;
        assert_eq!(answer(stream).await.0, 0, "{garbage:?}");
    }
    let mut stranger = stream_from("127.0.0.9", node.public).await;
    stranger.write_all(&v1(9)).await.expect("sent");
    assert_eq!(answer(stranger).await.0, 400);
    assert_eq!(polling(stream_from("127.0.0.9", node.public).await, "").await.0, 200);
    // One that takes too long is closed.
    let mut slow = plain(&node).await;
    slow.write_all(b"PROXY TC").await.expect("sent");
    let since = Instant::now();
    assert_eq!(answer(slow).await.0, 0);
    assert!(since.elapsed() >= Duration::from_millis(1500), "{:?}", since.elapsed());
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_pages_of_allowed_origins_come_in_whichever_way() {
    let node = node(&[("DUET_SERVER__ALLOWED_ORIGINS", "https://app.example, https://*.pages.example:8443")]).await;
    let path = "/socket.io/?EIO=4&transport=polling";
    for (origin, allowed) in [
        ("https://app.example", true),
        ("https://a.pages.example:8443", true),
        ("https://pages.example:8443", false),
        ("http://app.example", false),
        ("https://app.example.evil", false),
        ("https://evil.example", false),
        ("null", false),
        // Its own host is named or it is not: what Host says is the client's word.
        ("http://test", false),
    ] {
        let header = format!("Origin: {origin}\r\n");
        let preflight = format!("{header}Access-Control-Request-Method: POST\r\nAccess-Control-Request-Headers: x\r\n");
        let socket = Client::over_with(node.public, plain(&node).await, &[("origin", origin)]).await.err();
        let polled = polling(plain(&node).await, &header).await;
        let asked = ask(plain(&node).await, "OPTIONS", path, &preflight).await;
        let posted = ask(plain(&node).await, "POST", path, &format!("{header}Content-Length: 0\r\n")).await;
        let mirrored = format!("access-control-allow-origin: {origin}");
        if allowed {
            assert_eq!((socket, polled.0, asked.0), (None, 200, 200), "{origin}");
            for answer in [polled, asked, posted] {
                assert!(answer.1.contains(&mirrored), "{}", answer.1);
                assert!(answer.1.contains("access-control-allow-credentials: true"), "{}", answer.1);
            }
        } else {
            assert_eq!(socket, Some(403), "{origin}");
            let servers = ask(plain(&node).await, "GET", "/ice-servers", &header).await;
            for answer in [polled, asked, posted, servers] {
                assert_eq!((answer.0, code(&answer.2)), (403, json!("origin_not_allowed")), "{origin}");
                assert!(!answer.1.contains("access-control-"), "{}", answer.1);
            }
        }
    }
    // No browser, no origin; and the page and the client library are anybody's.
    assert_eq!(polling(plain(&node).await, "").await.0, 200);
    assert_eq!(ask(plain(&node).await, "GET", "/room", "Origin: https://evil.example\r\n").await.0, 200);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_list_pages_of_any_origin_come_in() {
    let node = node(&[]).await;
    for origin in ["https://anywhere.example", "null"] {
        let (status, head, _) = polling(plain(&node).await, &format!("Origin: {origin}\r\n")).await;
        assert_eq!(status, 200);
        assert!(head.contains(&format!("access-control-allow-origin: {origin}")), "{head}");
        assert!(Client::over_with(node.public, plain(&node).await, &[("origin", origin)]).await.is_ok());
    }
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_are_what_they_say_and_https_is_asked_for_where_it_is_set() {
    for (hsts, expected) in [("0s", None), ("30d", Some("strict-transport-security: max-age=2592000"))] {
        let node = node(&[("DUET_SERVER__HSTS", hsts)]).await;
        for path in
            ["/", "/room", "/a/b/c", "/socket.io/?EIO=4&transport=polling", "/socket.io/", "/socket.io/socket.io.js"]
        {
            let (_, head, _) = ask(plain(&node).await, "GET", path, "").await;
            assert_eq!(head.matches("x-content-type-options: nosniff").count(), 1, "{path}: {head}");
            match expected {
                Some(expected) => assert!(head.contains(expected), "{path}: {head}"),
                None => assert!(!head.contains("strict-transport"), "{path}: {head}"),
            }
        }
        node.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_the_addresses_that_the_settings_name_are_given_out() {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/config/cluster.toml");
    for (settings, expected) in [
        (vec![("DUET_CONFIG".into(), file.into()), ("DUET_REDIS__URL".into(), String::new())], Some(vec![])),
        (
            vec![("DUET_COMPAT__IPADDR".into(), "203.0.113.7, 2001:db8::7".into())],
            Some(vec!["203.0.113.7", "2001:db8::7"]),
        ),
        (vec![("DUET_COMPAT__IPADDR".into(), "none".into())], Some(vec![])),
        // The machine's own, whatever they are, but never loopback.
        (vec![], None),
    ] {
        let node = NodeProcess::start("", &settings).await;
        let mut client = Client::connect_to(node.public).await;
        client.emit(&json!(["ipaddr"])).await;
        assert_eq!(client.call(&json!(["create or join", "mark"])).await["ok"], true);
        let mut told = Vec::new();
        loop {
            match client.hear().await {
                Heard::Event(name, arguments) if name == "ipaddr" => {
                    told.push(arguments[0].as_str().expect("text").to_owned());
                }
                Heard::Event(name, _) if name == "created" => break,
                heard => panic!("{heard:?}"),
            }
        }
        match expected {
            Some(expected) => assert_eq!(told, expected),
            None => assert!(told.iter().all(|address| !address.starts_with("127."))),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_addresses_at_once_are_served_in_bounded_memory() {
    let node = node(&[
        ("DUET_LIMITS__HANDSHAKES", "1/h burst 2"),
        ("DUET_LIMITS__TRACKED", "1024"),
        ("DUET_SERVER__TRUSTED_PROXIES", "127.0.0.0/8"),
    ])
    .await;
    // One network fills its share of the table; one that is elsewhere is served as ever.
    let mut stream = plain(&node).await;
    let mut refused = 0;
    for n in 0..2000 {
        let request = format!(
            "GET /socket.io/?EIO=4&transport=polling HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 198.51.{}.{}\r\n\r\n",
            n / 250,
            n % 250
        );
        stream.write_all(request.as_bytes()).await.expect("sent");
        let mut answer = [0; 2048];
        let bytes = tokio::time::timeout(PATIENCE, stream.read(&mut answer)).await.expect("in time").expect("read");
        refused += usize::from(answer[..bytes].starts_with(b"HTTP/1.1 429"));
    }
    // Beyond its share it is counted as one.
    assert!(refused > 1500, "{refused}");
    // Others are served, but for those few that happen to share its place in the table.
    let mut served = 0;
    for n in 0..20 {
        let elsewhere = if n % 2 == 0 { format!("203.{n}.113.1") } else { format!("2001:db{n:x}::1") };
        let answer = polling(plain(&node).await, &format!("X-Forwarded-For: {elsewhere}\r\n")).await;
        served += usize::from(answer.0 == 200);
    }
    assert!(served >= 17, "{served}");
    node.stop().await;
}
