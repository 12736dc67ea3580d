//! Nothing of a call, and nothing that opens a door, gets into a log: at the highest level, through every transport and every
//! refusal that can be had.

use serde_json::{Value, json};
use tokio_tungstenite::MaybeTlsStream;

use crate::support::{
    Client, PATIENCE, cluster, http,
    process::NodeProcess,
    redis::{Redis, RedisOptions},
    tls::Authority,
    token::{Signer, now},
    wait_until,
    web::{Reply, Web},
};

/// Begins whatever must not be logged.
const MARK: &str = "mk-";
const ROOM: &str = "mk-room";
const JWT_SECRET: &str = "mk-jwt-secret-0123456789abcdef0123";
const TURN_SECRET: &str = "mk-turn-secret-0123456789";
const ADMIN_TOKEN: &str = "mk-admin-token-0123456789";
const REDIS_PASSWORD: &str = "mk-redis-password";
/// `mk-` and more, in base64.
const HOOK_SECRET: &str = "whsec_bWstaG9vay1zZWNyZXQtMDEyMzQ1Njc4OWFi";
/// Whom a proxy speaks for.
const BEHIND_A_PROXY: &str = "203.0.113.199";
const HEADERS: &str = "Host: a\r\nConnection: close\r\nX-Forwarded-For: 203.0.113.199\r\nCookie: a=mk-cookie\r\n";

/// What the nodes' logs must not contain.
struct Secrets(Vec<String>);

impl Secrets {
    fn new() -> Self {
        // As text, as the numbers of its bytes, and in base64 wherever that begins.
        let mark = [MARK, "109, 107, 45", "bWst", "1rL", "tay"].map(str::to_owned);
        Self(mark.into_iter().chain([BEHIND_A_PROXY.to_owned(), "198.51.100.231".to_owned()]).collect())
    }

    fn add(&mut self, secret: &str) {
        assert!(secret.len() > 8, "{secret}");
        self.0.push(secret.to_owned());
    }

    fn add_token(&mut self, token: &str) {
        // The first part is the same for all.
        token.split('.').skip(1).for_each(|part| self.add(part));
    }

    /// What an answer to a join tells its client alone.
    fn add_seat(&mut self, answer: &Value) {
        assert_eq!(answer["ok"], true, "{answer}");
        self.add(answer["resume"].as_str().expect("a token"));
        let turn = &answer["iceServers"][0];
        for key in ["username", "credential"] {
            self.add(turn[key].as_str().expect("of a TURN server"));
        }
    }

    fn check(&self, node: &NodeProcess) {
        let log = node.log();
        assert!(log.contains("\"TRACE\"") && log.contains("\"stopped\""), "it logs much, to its end");
        for (of, text) in [("standard error", &log), ("standard output", &node.output())] {
            for secret in &self.0 {
                let line = text.lines().find(|line| line.contains(secret));
                assert!(line.is_none(), "{secret} is on {of}: {line:?}");
            }
        }
    }
}

/// A session that polls, from behind a proxy.
struct Polling<'a> {
    node: &'a NodeProcess,
    path: String,
}

impl<'a> Polling<'a> {
    async fn open(node: &'a NodeProcess, eio: u8, query: &str, secrets: &mut Secrets) -> Self {
        let path = format!("/socket.io/?EIO={eio}&transport=polling&room={ROOM}{query}");
        let (status, body) = http(node.public, &format!("GET {path} HTTP/1.1\r\n{HEADERS}\r\n")).await;
        assert_eq!(status, 200, "{body}");
        let sid = body.split("\"sid\":\"").nth(1).and_then(|rest| rest.split('"').next()).expect("an id");
        secrets.add(sid);
        Self { node, path: format!("{path}&sid={sid}") }
    }

    async fn post(&self, body: &str) -> u16 {
        let length = body.len();
        let request = format!("POST {} HTTP/1.1\r\n{HEADERS}Content-Length: {length}\r\n\r\n{body}", self.path);
        http(self.node.public, &request).await.0
    }

    /// What came until `what` did.
    async fn until(&self, what: &str) -> String {
        let mut heard = String::new();
        while !heard.contains(what) {
            let (status, body) = http(self.node.public, &format!("GET {} HTTP/1.1\r\n{HEADERS}\r\n", self.path)).await;
            assert_eq!(status, 200, "{body}, after {heard}");
            heard += &body;
        }
        heard
    }
}

fn description() -> Value {
    json!({"type": "offer", "sdp": "v=0\r\na=ice-ufrag:mk-ufrag\r\na=candidate:1 1 udp 1 198.51.100.231 9 typ host\r\n"})
}

fn candidate() -> Value {
    let text = "candidate:1 1 udp 1 198.51.100.231 9 typ host ufrag mk-ufrag";
    json!({"type": "candidate", "label": 0, "id": "mk-mid", "candidate": text, "room": ROOM})
}

/// All that two peers say to each other in a call.
async fn call(a: &mut Client, b: &mut Client) {
    for packet in [
        json!(["message", {"description": description()}]),
        json!(["offer", {"type": "offer", "sdp": description(), "room": ROOM}]),
        json!(["answer", {"type": "answer", "sdp": "v=0 mk-sdp", "room": ROOM}]),
        json!(["candidate", candidate()]),
        json!(["ready", ROOM]),
    ] {
        let answer = a.call(&packet).await;
        assert_eq!(answer["ok"], true, "{answer}");
        b.until(packet[0].as_str().expect("a name")).await;
    }
    a.send_text(r#"451-["message",{"_placeholder":true,"num":0}]"#).await;
    a.send_binary(b"mk-binary".to_vec()).await;
    b.until("message").await;
    b.binary().await;
}

/// Whatever a client may do wrong in one connection each.
async fn misbehave(node: &NodeProcess, token: &str) {
    let deep = format!(r#"["message",{}"mk-deep"{}]"#, "[".repeat(200), "]".repeat(200));
    let long = format!(r#"["message","mk-long-{}"]"#, "x".repeat(1_100_000));
    for text in [
        r#"42["mk-event","mk-argument"]"#.to_owned(),
        r#"421["create or join",{"room":"mk-room"}]"#.to_owned(),
        format!(r#"421["create or join","mk-{}"]"#, "x".repeat(200)),
        r#"421["create or join","mk-elsewhere"]"#.to_owned(),
        r#"421["create or join","mk-room",{"resume":"mk-no-token","wait":1}]"#.to_owned(),
        r#"42["message","mk-nobody"]"#.to_owned(),
        r#"42["offer",{"sdp":1,"room":"mk-room"}]"#.to_owned(),
        format!("42{deep}"),
        r#"42["message","mk-one"],["mk-two"]"#.to_owned(),
        r#"42["message","mk-unended"#.to_owned(),
        r#"42/mk-namespace,["message",1]"#.to_owned(),
        r#"40/mk-namespace,{"token":"mk-token"}"#.to_owned(),
        r#"451-["message",{"_placeholder":true,"num":7},"mk-placeholder"]"#.to_owned(),
        r#"4599999999-["message","mk-attachments"]"#.to_owned(),
        "mk-no-packet".to_owned(),
        "9mk-kind".to_owned(),
        "4mk-packet".to_owned(),
        format!("42{long}"),
    ] {
        let mut client = Client::knock(node.public, 4, "", Some(&json!({"token": token}))).await.expect("admitted");
        client.send_text(&text).await;
        client.send_binary(b"mk-stray".to_vec()).await;
        // Whatever it makes of that, it is done with it.
        client.send_text("41").await;
        client.send_text("1").await;
        assert!(client.is_closed_by_server().await, "{text}");
    }
    let upgrade = "GET /socket.io/?EIO=4&transport=websocket&room=mk-room HTTP/1.1\r\n";
    for request in [
        format!("GET /mk-path?room=mk-room HTTP/1.1\r\n{HEADERS}\r\n"),
        format!("GET /ice-servers?token=mk-token HTTP/1.1\r\n{HEADERS}Authorization: Bearer mk-bearer\r\n\r\n"),
        format!("GET /socket.io/?EIO=9&transport=mk-transport HTTP/1.1\r\n{HEADERS}\r\n"),
        format!("GET /socket.io/?EIO=4&transport=polling&sid=mk-session HTTP/1.1\r\n{HEADERS}\r\n"),
        format!(
            "GET /socket.io/?EIO=4&transport=polling HTTP/1.1\r\n{HEADERS}Origin: https://mk-origin.example\r\n\r\n"
        ),
        format!("{upgrade}{HEADERS}Sec-WebSocket-Key: mk-key\r\n\r\n"),
        format!("{upgrade}{HEADERS}Origin: https://mk-origin.example\r\n\r\n"),
        format!("GET / HTTP/1.1\r\n{HEADERS}mk-header with a space: x\r\n\r\n"),
        format!("GET /mk-{} HTTP/1.1\r\n{HEADERS}\r\n", "x".repeat(100_000)),
        "mk-method / HTTP/9\r\n\r\n".to_owned(),
        "\u{16}\u{3}\u{1}mk-tls\r\n\r\n".to_owned(),
    ] {
        let _ = http(node.public, &request).await;
        let _ = http(node.admin, &request).await;
    }
    // Frames that break RFC 6455.
    let accepted =
        format!("{upgrade}Host: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n");
    let _ =
        http(node.public, &format!("{accepted}Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n\u{3}mk-frame")).await;
}

/// What an operator asks, with the token and with others.
async fn operate(node: &NodeProcess, put_out: &str) {
    for token in ["mk-wrong-token-0123456789", ADMIN_TOKEN] {
        for request in [
            "GET /api/v1/rooms".to_owned(),
            format!("GET /api/v1/rooms/{ROOM}"),
            "GET /api/v1/mk-route".to_owned(),
            "DELETE /api/v1/peers/mk-peer".to_owned(),
            format!("DELETE /api/v1/rooms/{ROOM}/peers/{put_out}"),
            "DELETE /api/v1/rooms/mk-other".to_owned(),
        ] {
            let head = format!("{request} HTTP/1.1\r\n{HEADERS}Authorization: Bearer {token}\r\n\r\n");
            let (status, body) = http(node.admin, &head).await;
            assert_eq!(status == 401, token != ADMIN_TOKEN, "{request}: {status} {body}");
        }
    }
    let (body, json) = (r#"{"level":"mk-level"}"#, "Content-Type: application/json\r\n");
    let head = format!("PUT /api/v1/log-level HTTP/1.1\r\n{HEADERS}{json}Authorization: Bearer {ADMIN_TOKEN}\r\n");
    let (status, answer) = http(node.admin, &format!("{head}Content-Length: {}\r\n\r\n{body}", body.len())).await;
    assert!((400..500).contains(&status), "{status} {answer}");
}

fn settings(hook: &Web) -> cluster::Variables {
    let more = [
        ("DUET_LOG__LEVEL", "trace"),
        ("DUET_COMPAT__CLIENT_LOG", "true"),
        ("DUET_ADMIN__TOKEN", ADMIN_TOKEN),
        ("DUET_ICE__TURN", "turn:192.0.2.1"),
        ("DUET_ICE__SECRET", TURN_SECRET),
        ("DUET_ADMISSION__JWT_SECRET", JWT_SECRET),
        ("DUET_ADMISSION__WEBHOOK_URL", &hook.url("/join")),
        ("DUET_ADMISSION__WEBHOOK_SECRET", HOOK_SECRET),
        ("DUET_SERVER__TRUSTED_PROXIES", "127.0.0.1"),
        ("DUET_SERVER__ALLOWED_ORIGINS", "https://example.org"),
        ("DUET_LIMITS__SOCKETS_PER_ADDRESS", "100"),
        ("DUET_LIMITS__JOINS", "60/m burst 60"),
    ];
    cluster::quick().into_iter().chain(more.map(|(key, value)| (key.to_owned(), value.to_owned()))).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_secret_and_nothing_of_a_call_is_logged_at_any_level() {
    let mut redis =
        Redis::start(RedisOptions { password: Some(REDIS_PASSWORD.into()), ..RedisOptions::default() }).await;
    let hook = Web::start(Reply::ok(&r#"{"allow":true}"#)).await;
    let settings = settings(&hook);
    let urls = vec![redis.url(); 2];
    let mut nodes = NodeProcess::start_all(&urls, &settings).await;
    let mut secrets = Secrets::new();
    let signer = Signer::hs256(JWT_SECRET);
    let token = |end: u64| signer.token(&json!({"sub": "mk-subject", "exp": end, "rooms": ["mk-room", "mk-other"]}));
    let (good, late) = (token(now() + 3600), token(now() - 3600));
    let forged = Signer::hs256("mk-another-secret-0123456789abcdef").token(&json!({"sub": "mk-subject"}));
    for token in [&good, &late, &forged] {
        secrets.add_token(token);
    }
    let auth = json!({ "token": good });

    // Turned away, and let in, by every transport.
    for node in &nodes {
        for refused in [late.as_str(), &forged, "mk-no-token"] {
            assert!(Client::knock(node.public, 4, "", Some(&json!({ "token": refused }))).await.is_err());
            assert!(Client::knock(node.public, 3, &format!("&token={refused}"), None).await.is_err());
        }
    }
    let mut a = Client::knock(nodes[0].public, 4, "", Some(&auth)).await.expect("admitted");
    let mut b = Client::knock(nodes[1].public, 4, "", Some(&auth)).await.expect("admitted");
    secrets.add(&a.id);
    secrets.add(&b.id);
    secrets.add_seat(&a.call(&json!(["create or join", ROOM, {}])).await);
    let seat = b.call(&json!(["create or join", ROOM, {}])).await;
    secrets.add_seat(&seat);
    a.until("ready").await;
    call(&mut a, &mut b).await;
    let mut third = Client::knock(nodes[1].public, 3, &format!("&token={good}"), None).await.expect("admitted");
    assert_eq!(third.call(&json!(["create or join", ROOM])).await["code"], "full");
    hook.reply(Reply::ok(&r#"{"allow":false,"reason":"mk-reason"}"#));
    assert_eq!(third.call(&json!(["create or join", "mk-other"])).await["ok"], false);
    hook.reply(Reply::ok(&"mk-no-answer"));
    assert_eq!(third.call(&json!(["create or join", "mk-other"])).await["code"], "unavailable");
    hook.reply(Reply::ok(&r#"{"allow":true}"#));

    // Its connection is lost; it takes its seat back with the token, on the other node.
    drop(b);
    a.until("peer reconnecting").await;
    let mut b = Client::knock(nodes[0].public, 4, "", Some(&auth)).await.expect("admitted");
    secrets.add(&b.id);
    secrets.add_seat(&b.call(&json!(["create or join", ROOM, {"resume": seat["resume"]}])).await);
    a.until("peer resumed").await;
    call(&mut a, &mut b).await;
    assert_eq!(b.call(&json!(["bye", ROOM])).await["ok"], true);

    // In its place one that polls, and then an older one, from behind a proxy.
    let polling = Polling::open(&nodes[1], 4, "", &mut secrets).await;
    assert_eq!(polling.post(&format!("40{auth}")).await, 200);
    polling.until("40{").await;
    assert_eq!(polling.post(r#"421["create or join","mk-room",{}]"#).await, 200);
    polling.until("\"resume\"").await;
    assert_eq!(polling.post(r#"42["message","mk-polled"]"#).await, 200);
    a.until("message").await;
    assert_eq!(polling.post(r#"42["bye"]"#).await, 200);
    assert_eq!(polling.post("42[\"message\",\"mk-unended").await, 200);
    let old = Polling::open(&nodes[1], 3, &format!("&token={good}"), &mut secrets).await;
    a.until("bye").await;
    assert_eq!(old.post(r#"32:421["create or join","mk-room"]"#).await, 400, "a wrong length");
    let old = Polling::open(&nodes[1], 3, &format!("&token={good}&b64=1"), &mut secrets).await;
    assert_eq!(old.post(r#"31:421["create or join","mk-room"]"#).await, 200);
    old.until("mk-room").await;
    assert_eq!(old.post("32:42[\"message\",\"mk-unicode é\",[1]]").await, 200);
    a.until("message").await;

    for node in &nodes {
        misbehave(node, &good).await;
        operate(node, &a.id).await;
    }

    // Settings that are read again, and cannot be used.
    nodes[0].hang_up();
    wait_until("the settings are read again", || async { nodes[0].log().matches("settings").count() > 0 }).await;

    // A node that has the wrong password, and nodes whose Redis is gone.
    let wrong = redis.url().replace("password", "wrong");
    let mut locked_out = NodeProcess::start(&wrong, &settings).await;
    redis.kill();
    wait_until("the nodes miss Redis", || async { !nodes[0].is_ready().await }).await;
    // Closed by then, or refused.
    let answer = third.try_call(&json!(["create or join", "mk-other"]), PATIENCE).await;
    assert!(answer.as_ref().is_none_or(|answer| answer["ok"] == false), "{answer:?}");
    for node in nodes.iter_mut().chain([&mut locked_out]) {
        node.terminate();
        secrets.check(node);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_of_a_call_over_tls_is_logged_and_nothing_of_the_key() {
    let authority = Authority::new();
    let more = [("DUET_LOG__LEVEL", "trace"), ("DUET_COMPAT__CLIENT_LOG", "true")];
    let more = more.map(|(key, value)| (key.to_owned(), value.to_owned()));
    let mut node = NodeProcess::start("", &authority.settings().into_iter().chain(more).collect()).await;
    let mut secrets = Secrets::new();
    let mut peers = Vec::new();
    for _ in 0..2 {
        let stream = MaybeTlsStream::Rustls(authority.connect(node.public).await);
        let mut peer = Client::on(node.public, stream).await;
        assert_eq!(peer.call(&json!(["create or join", ROOM])).await["ok"], true);
        secrets.add(&peer.id);
        peers.push(peer);
    }
    let [mut a, mut b] = <[Client; 2]>::try_from(peers).ok().expect("two");
    a.until("ready").await;
    call(&mut a, &mut b).await;
    authority.http(node.public, &format!("GET /mk-path HTTP/1.1\r\n{HEADERS}\r\n")).await;
    // Plain HTTP, and nothing at all, where TLS is spoken.
    let _ = http(node.public, &format!("GET /mk-path HTTP/1.1\r\n{HEADERS}\r\n")).await;
    let _ = http(node.public, "\u{16}\u{3}\u{1}mk-noise\r\n\r\n").await;
    node.terminate();
    let key = std::fs::read_to_string(authority.key()).expect("a key");
    key.lines().filter(|line| line.len() > 40).for_each(|line| secrets.add(line));
    secrets.check(&node);
}
