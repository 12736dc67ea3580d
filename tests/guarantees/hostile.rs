//! Input from anybody: a clear refusal or a closed connection; never a panic, never a word into another room.

use serde_json::{Value, json};

use crate::support::{Client, Heard, PATIENCE, get, http, metric, node, pair};

/// A room that must hear nothing but what its own two peers say.
struct Witness(Client, Client);

impl Witness {
    async fn seat(node: &duet::node::Node) -> Self {
        let (first, second) = pair(node, "witness").await;
        Self(first, second)
    }

    /// The next things both hear are what the other says now.
    async fn heard_nothing(&mut self) {
        let Self(first, second) = self;
        first.emit(&json!(["message", "mark"])).await;
        assert_eq!(second.expect("message").await, [json!("mark")]);
        second.emit(&json!(["message", "mark"])).await;
        assert_eq!(first.expect("message").await, [json!("mark")]);
    }
}

/// No task of any node in this process panicked. (A failed assertion of another test counts as well.)
async fn nothing_panicked(node: &duet::node::Node) {
    assert_eq!(metric(node, "duet_panics_total").await, 0);
}

const EVENTS: [&str; 10] =
    ["create or join", "message", "ready", "offer", "answer", "candidate", "bye", "ipaddr", "nonsense", "disconnect"];

fn junk() -> Vec<Value> {
    let deep = (0..100).fold(json!(0), |inner, _| json!([inner]));
    vec![
        json!(null),
        json!(true),
        json!(0),
        json!(-1.5e300),
        json!(""),
        json!("\u{0}\u{1f}\u{7f}\u{85}"),
        json!("x".repeat(10_000)),
        json!("__proto__"),
        json!("constructor"),
        json!([]),
        json!([[[[]]]]),
        json!({}),
        json!({"room": "witness"}),
        json!({"room": "witness", "sdp": {"type": "offer", "sdp": "v=0"}, "type": "offer"}),
        json!({"room": "witness", "candidate": "x", "label": 0, "id": "0", "type": "candidate"}),
        json!({"room": ["witness"], "sdp": 1}),
        json!({"__proto__": {"room": "witness"}, "sdp": {}}),
        json!({"_placeholder": true, "num": 0}),
        json!("witness"),
        deep,
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_event_with_every_wrong_type_is_answered_and_stays_in_its_room() {
    let node = node(&[]).await;
    let mut witness = Witness::seat(&node).await;
    let mut outsider = Client::connect(&node).await;
    for event in EVENTS {
        for argument in junk() {
            for packet in [json!([event, argument]), json!([event, argument, argument]), json!([event])] {
                let answer = outsider.call(&packet).await;
                assert!(answer["ok"].is_boolean(), "{packet}: {answer}");
                if answer["ok"] == false {
                    assert!(
                        answer["code"].is_string() && answer["message"].is_string() && answer["retryable"].is_boolean()
                    );
                }
                // Without a callback the same refusal comes as an event.
                outsider.emit(&packet).await;
            }
        }
        // Out of whatever rooms these were names for: `__proto__` is as good a name as any.
        outsider.call(&json!(["bye"])).await;
    }
    witness.heard_nothing().await;
    nothing_panicked(&node).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_outsider_reaches_nobody() {
    let node = node(&[]).await;
    let mut witness = Witness::seat(&node).await;
    let mut third = Client::connect(&node).await;
    third.emit(&json!(["create or join", "witness"])).await;
    third.expect("full").await;
    for packet in [
        json!(["message", "x"]),
        json!(["ready", "witness"]),
        json!(["offer", {"type": "offer", "sdp": "v=0", "room": "witness"}]),
        json!(["answer", {"type": "answer", "sdp": "v=0", "room": "witness"}]),
        json!(["candidate", {"candidate": "x", "room": "witness"}]),
        json!(["bye", "witness"]),
    ] {
        assert_eq!(third.call(&packet).await["code"], "not_in_room", "{packet}");
        third.emit(&packet).await;
        let rejected = third.expect("rejected").await;
        assert_eq!((&rejected[0]["event"], &rejected[0]["code"]), (&packet[0], &json!("not_in_room")));
    }
    assert_eq!(third.call(&json!(["bye"])).await, json!({"ok": true}));
    witness.heard_nothing().await;
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refusals_have_the_codes_of_the_list() {
    let node = node(&[("DUET_LIMITS__ROOMS_PER_SOCKET", "2")]).await;
    let (mut a, _b) = pair(&node, "codes").await;
    let mut c = Client::connect(&node).await;
    let deep = format!(r#"["message",{}1{}]"#, "[".repeat(200), "]".repeat(200));
    a.emit(&json!(["create or join", "second"])).await;
    a.expect("created").await;
    for (code, retryable, answer) in [
        ("unknown_event", false, c.call(&json!(["nonsense"])).await),
        ("bad_payload", false, c.call(&json!(["create or join", 1])).await),
        ("bad_room", false, c.call(&json!(["create or join", ""])).await),
        ("bad_room", false, c.call(&json!(["create or join", "x".repeat(129)])).await),
        ("full", true, c.call(&json!(["create or join", "codes"])).await),
        ("not_in_room", false, c.call(&json!(["ready", "codes"])).await),
        ("no_peer", true, a.call(&json!(["ready", "second"])).await),
        ("too_many_rooms", false, a.call(&json!(["create or join", "third"])).await),
        ("bad_payload", false, a.call(&json!(["message"])).await),
        ("bad_payload", false, a.call_raw(&deep).await),
    ] {
        assert_eq!((&answer["code"], &answer["retryable"]), (&json!(code), &json!(retryable)), "{answer}");
    }
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn malformed_packets_close_the_connection_or_are_refused() {
    let node = node(&[]).await;
    let mut witness = Witness::seat(&node).await;
    for text in [
        "",
        "4",
        "42",
        "42[",
        "42[]",
        "42[1]",
        "42{}",
        "42null",
        "42[\"message\"",
        "42[\"message\",]",
        "42[\"message\",}]",
        "42/,[\"message\",1]",
        "42/nowhere,[\"message\",1]",
        "40/nowhere,",
        "40{\"a\":",
        "40",
        "41/nowhere,",
        "43[1]",
        "431[1]",
        "4399999999999999999999[1]",
        "4299999999999999999999[\"message\",1]",
        "42-1[\"message\",1]",
        "44{\"message\":\"x\"}",
        "45",
        "451-",
        "45-[\"message\",1]",
        "451-[\"message\",{\"_placeholder\":true,\"num\":0}]",
        "4599999999999999999999-[\"message\"]",
        "461-1[1]",
        "49",
        "0{}",
        "1",
        "2",
        "2probe",
        "3probe",
        "3",
        "5",
        "6",
        "7",
        "9",
        "x",
        "é",
        "4é",
        "42é[\"message\"]",
        "42[\"m\\u0065ssage\",1]",
        "42[\"message\",\"\\ud800\"]",
        "42[\"message\",\"\u{1}\"]",
        "\u{0}",
        "b4AAAA",
        "bAAAA",
        "b",
    ] {
        let mut client = Client::connect(&node).await;
        client.send_text(text).await;
        // Either it is closed, or it still does what it should.
        client.send_text(r#"421["create or join","probe"]"#).await;
        loop {
            match client.hear().await {
                Heard::Closed => break,
                Heard::Ack(1, answer) => {
                    assert!(answer["ok"] == true || answer["code"] == "full", "after {text:?}: {answer}");
                    break;
                }
                _ => {}
            }
        }
    }
    for bytes in [vec![], vec![0], vec![4], vec![0xff; 100], b"42[\"message\",1]".to_vec()] {
        let mut client = Client::connect(&node).await;
        client.send_binary(bytes).await;
        assert!(client.is_closed_by_server().await);
    }
    witness.heard_nothing().await;
    nothing_panicked(&node).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_binary_event_whose_placeholders_name_nothing_does_not_reach_its_peer() {
    let node = node(&[]).await;
    let (mut a, mut b) = pair(&node, "binary").await;
    for array in [
        r#"["message",{"_placeholder":true,"num":1}]"#,
        r#"["message",{"_placeholder":true,"num":-1}]"#,
        r#"["message",{"_placeholder":true,"num":"x"}]"#,
        r#"["message",[{"a":{"_placeholder":true}}]]"#,
    ] {
        a.send_text(&format!("451-{array}")).await;
        a.send_binary(vec![1, 2, 3]).await;
        assert_eq!(a.expect("rejected").await[0]["code"], "bad_payload", "{array}");
    }
    a.send_text(r#"451-["message",{"_placeholder":true,"num":0}]"#).await;
    a.send_binary(vec![1, 2, 3]).await;
    assert_eq!(b.expect("message").await, [json!({"_placeholder": true, "num": 0})]);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_peers_parser_would_choke_on_does_not_reach_it() {
    let node = node(&[]).await;
    let (mut a, mut b) = pair(&node, "foo").await;
    // The Socket.IO library reads one array, and nothing of what follows.
    for text in [r#"["message",1],["x"]"#, r#"["message",1]]"#, r#"["message",1]x]"#, "[\"message\",1]\u{c}"] {
        a.send_text(&format!("42{text}")).await;
        assert_eq!(a.expect("rejected").await[0]["code"], "bad_payload", "{text}");
        a.send_text(&format!("451-{text}")).await;
        a.send_binary(vec![1, 2, 3]).await;
        assert_eq!(a.expect("rejected").await[0]["code"], "bad_payload", "{text}");
    }
    a.send_text("42[\"message\",[1]]\r\n").await;
    assert_eq!(b.expect("message").await, [json!([1])]);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_beyond_the_limit_close_the_connection_and_cost_no_memory() {
    let node = node(&[]).await;
    let mut witness = Witness::seat(&node).await;
    let before = metric(&node, "process_resident_memory_bytes").await;
    // This process is server and client at once: what the client holds to send is made before.
    let (one, seventy) = ("x".repeat(1 << 20), "x".repeat(70 << 20));
    let held = metric(&node, "process_resident_memory_bytes").await.saturating_sub(before);
    for text in [&one, &seventy] {
        let mut client = Client::connect(&node).await;
        // The server does not take it to its end.
        tokio::time::timeout(PATIENCE, client.send_text(text)).await.expect("an end");
        assert!(client.is_closed_by_server().await, "{} bytes", text.len());
    }
    let after = metric(&node, "process_resident_memory_bytes").await;
    // The client's own masked copy of 70 MiB is part of it; the server's share must not be a second one.
    let server = after.saturating_sub(before + held);
    assert!(server < 150 << 20, "{} MiB", server >> 20);
    // One that is just allowed goes through.
    let (mut a, mut b) = pair(&node, "large").await;
    let allowed = "x".repeat(999_000);
    a.emit(&json!(["message", allowed])).await;
    assert_eq!(b.expect("message").await[0].as_str().map(str::len), Some(999_000));
    witness.heard_nothing().await;
    nothing_panicked(&node).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn http_requests_that_make_no_sense_are_refused() {
    let node = node(&[]).await;
    let mut witness = Witness::seat(&node).await;
    let upgrade = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n";
    for (request, status) in [
        ("GET /socket.io/ HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n".to_owned(), 400),
        ("GET /socket.io/?EIO=9&transport=polling HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n".into(), 400),
        ("GET /socket.io/?EIO=4&transport=smoke HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n".into(), 400),
        ("GET /socket.io/?EIO=4&transport=polling&sid=AAAAAAAAAAAAAAAA HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n".into(), 400),
        ("POST /socket.io/?EIO=4&transport=polling HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 0\r\n\r\n".into(), 400),
        ("PUT /socket.io/?EIO=4&transport=polling HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 0\r\n\r\n".into(), 400),
        (format!("GET /socket.io/?EIO=4&transport=websocket HTTP/1.1\r\nHost: a\r\n{}\r\n", "Connection: close\r\n"), 400),
        (format!("GET /socket.io/?EIO=4&transport=websocket HTTP/1.1\r\nHost: a\r\n{upgrade}Sec-WebSocket-Key: x\r\n\r\n"), 400),
        ("DELETE / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n".into(), 405),
        ("GET /a/b/c HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n".into(), 404),
        ("GET /%2e%2e/%2e%2e/etc/passwd HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n".into(), 404),
        ("GET /socket.io/nothing.js HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n".into(), 404),
    ] {
        // A refused upgrade keeps its connection open for another request: one byte that is none closes it.
        let (got, body) = http(node.public, &format!("{request}\0\r\n\r\n")).await;
        assert_eq!(got, status, "{request}\n{body}");
    }
    let long = format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "x".repeat(100_000));
    let (status, _) = http(node.public, &long).await;
    assert!(status == 0 || (400..500).contains(&status), "{status}");
    witness.heard_nothing().await;
    nothing_panicked(&node).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn polling_bodies_that_are_no_payload_close_the_session() {
    let node = node(&[]).await;
    let mut witness = Witness::seat(&node).await;
    for (eio, body) in [
        (4, "x"),
        (4, "\u{1e}\u{1e}"),
        (4, "4\u{1e}9"),
        (4, "b!!!!"),
        (4, "42[\"message\""),
        (3, "x"),
        (3, "5:42"),
        (3, "-1:4"),
        (3, "99999999999999999999:4"),
        (3, "4:é"),
        (3, "1:"),
        (3, ":"),
        (3, "0:"),
        (3, "2:4é2:4é"),
    ] {
        let (_, open) = get(node.public, &format!("/socket.io/?EIO={eio}&transport=polling")).await;
        let open = &open[open.find('{').expect("an open packet")..];
        let open: Value = serde_json::Deserializer::from_str(open).into_iter().next().expect("JSON").expect("JSON");
        let sid = open["sid"].as_str().expect("an id");
        let path = format!("/socket.io/?EIO={eio}&transport=polling&sid={sid}");
        let post = format!(
            "POST {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        let (status, _) = http(node.public, &post).await;
        assert!(status == 200 || status == 400, "EIO {eio} {body:?}: {status}");
    }
    // Larger than any payload may be.
    let (_, open) = get(node.public, "/socket.io/?EIO=4&transport=polling").await;
    let sid: Value = serde_json::from_str(&open[1..]).expect("JSON");
    let post = format!(
        "POST /socket.io/?EIO=4&transport=polling&sid={} HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 2000000\r\n\r\n{}",
        sid["sid"].as_str().expect("an id"),
        "4".repeat(2_000_000)
    );
    let (status, _) = http(node.public, &post).await;
    assert!(status == 413 || status == 0, "{status}");
    witness.heard_nothing().await;
    nothing_panicked(&node).await;
}
