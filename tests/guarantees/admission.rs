//! Who may come in: a token that does not hold admits nobody, one that holds admits to its rooms until its end, and the
//! webhook has the last word.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use duet::{
    admission::{Admission, Denied},
    config::Settings,
    lifecycle::Lifecycle,
    metrics::Metrics,
    node::Node,
};
use futures_util::{SinkExt as _, StreamExt as _};
use ring::hmac;
use serde_json::{Value, json};

use crate::support::{
    Client, Heard, get, http, metric, node, pair,
    process::NodeProcess,
    seat,
    token::{Signer, encode, for_rooms, now},
    wait_until,
    web::{Reply, Web},
};

const SECRET: &str = "a secret of at least thirty-two bytes";
const HOOK_SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

fn auth(token: &str) -> Value {
    json!({ "token": token })
}

async fn enter(node: &Node, token: &str) -> Result<Client, Value> {
    Client::knock(node.public, 4, "", Some(&auth(token))).await
}

async fn join(client: &mut Client, room: &str) -> Value {
    client.call(&json!(["create or join", room])).await
}

async fn with_secret(more: &[(&str, &str)]) -> Node {
    node(&[&[("DUET_ADMISSION__JWT_SECRET", SECRET)], more].concat()).await
}

async fn until_ready(node: &Node) {
    wait_until("the node is ready", || async { get(node.admin, "/readyz").await.0 == 200 }).await;
}

async fn denials(node: &Node, reason: &str) -> u64 {
    metric(node, &format!("duet_admission_denials_total{{reason=\"{reason}\"}}")).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_algorithm_is_accepted_from_a_key_that_is_for_it() {
    let signers = [Signer::hs256(SECRET), Signer::rs256(), Signer::es256(), Signer::eddsa()];
    for signer in &signers {
        let node = match signer {
            Signer::Hs256(_) => with_secret(&[]).await,
            _ => node(&[("DUET_ADMISSION__JWT_PUBLIC_KEY", signer.public_pem())]).await,
        };
        let token = signer.token(&for_rooms(&["a"]));
        let mut client = enter(&node, &token).await.expect("admitted");
        assert_eq!(join(&mut client, "a").await["ok"], true, "{}", signer.algorithm());
        node.stop().await;
    }
    // The same from a set in a file; tokens name their key, or do not.
    let ids = ["h", "r", "e", "d"];
    let set: Vec<_> = signers.iter().zip(ids).map(|(signer, id)| signer.jwk(id)).collect();
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), json!({ "keys": set }).to_string()).expect("written");
    let node = node(&[("DUET_ADMISSION__JWT_KEY_FILE", file.path().to_str().expect("a path"))]).await;
    for (signer, id) in signers.iter().zip(ids) {
        let claims = for_rooms(&["a"]);
        for token in [signer.token_of(id, &claims), signer.token(&claims)] {
            enter(&node, &token).await.unwrap_or_else(|refused| panic!("{}: {refused}", signer.algorithm()));
        }
        let other = ids.into_iter().find(|other| *other != id).expect("another");
        let refused = enter(&node, &signer.token_of(other, &claims)).await.err().expect("refused");
        assert_eq!(refused["data"]["code"], "unauthorized", "a key is never used for another algorithm");
    }
    assert_eq!(denials(&node, "algorithm").await, 4);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_that_does_not_hold_admits_nobody_and_its_bearer_is_told_a_code() {
    let (signer, stranger) = (Signer::rs256(), Signer::rs256());
    let node = node(&[
        ("DUET_ADMISSION__JWT_PUBLIC_KEY", signer.public_pem()),
        ("DUET_ADMISSION__ISSUER", "https://issuer.example"),
        ("DUET_ADMISSION__AUDIENCE", "calls"),
        ("DUET_ADMISSION__LEEWAY", "5s"),
    ])
    .await;
    let with = |more: Value| {
        let mut claims = for_rooms(&["*"]);
        for (key, value) in [("iss", json!("https://issuer.example")), ("aud", json!(["other", "calls"]))] {
            claims[key] = value;
        }
        for (key, value) in more.as_object().expect("an object") {
            claims[key.as_str()] = value.clone();
        }
        claims
    };
    let good = with(json!({}));
    let token = signer.token(&good);
    let (head, rest) = token.split_once('.').expect("a token");
    let (payload, mac) = rest.split_once('.').expect("a token");
    let unsigned = |algorithm: &str| encode(json!({ "alg": algorithm }).to_string());
    let public = Signer::hs256(signer.public_pem());
    let trimmed = Signer::hs256(signer.public_pem().trim());
    let forged = encode(with(json!({"sub": "mallory"})).to_string());
    let cases = [
        ("malformed", json!(format!("{}.{payload}.", unsigned("none")))),
        ("malformed", json!(format!("{}.{payload}.{mac}", unsigned("none")))),
        ("malformed", json!(format!("{}.{payload}.", unsigned("NONE")))),
        ("algorithm", json!(public.token(&good))),
        ("algorithm", json!(trimmed.token(&good))),
        ("algorithm", json!(format!("{}.{payload}.{mac}", unsigned("RS512")))),
        ("signature", json!(stranger.token(&good))),
        ("signature", json!(format!("{head}.{forged}.{mac}"))),
        ("signature", json!(format!("{head}.{payload}."))),
        ("signature", json!(format!("{head}.{payload}.AAAA"))),
        ("malformed", json!(signer.token_with(&json!({"alg": "RS256", "crit": ["x"], "x": 1}), &good))),
        ("expired", json!(signer.token(&with(json!({"exp": now() - 6}))))),
        ("not_yet_valid", json!(signer.token(&with(json!({"nbf": now() + 60}))))),
        ("audience", json!(signer.token(&with(json!({"aud": "other"}))))),
        ("audience", json!(signer.token(&with(json!({"aud": null}))))),
        ("issuer", json!(signer.token(&with(json!({"iss": "https://issuer.example.evil"}))))),
        ("claims", json!(signer.token(&with(json!({"exp": null}))))),
        ("claims", json!(signer.token(&with(json!({"exp": "soon"}))))),
        ("claims", json!(signer.token(&with(json!({"rooms": "*"}))))),
        ("malformed", json!("garbage")),
        ("malformed", json!("")),
        ("malformed", json!("..")),
        ("malformed", json!(format!("{token}.{mac}"))),
        ("malformed", json!(signer.token(&with(json!({"more": "x".repeat(9000)}))))),
        ("malformed", json!("x".repeat(900_000))),
        ("malformed", json!(["a"])),
        ("malformed", json!(7)),
        ("missing", Value::Null),
    ];
    let mut counted: HashMap<&str, u64> = HashMap::new();
    for (reason, token) in &cases {
        let refused = Client::knock(node.public, 4, "", Some(&json!({ "token": token }))).await.err();
        let refused = refused.unwrap_or_else(|| panic!("{reason}: admitted with {token}"));
        let code = if *reason == "expired" { "token_expired" } else { "unauthorized" };
        assert_eq!(refused["data"], json!({"code": code, "retryable": false}), "{reason}: {refused}");
        assert!(refused["message"].as_str().is_some_and(|message| message.contains("token")), "{refused}");
        *counted.entry(reason).or_default() += 1;
    }
    assert!(Client::knock(node.public, 4, "", None).await.is_err());
    *counted.entry("missing").or_default() += 1;
    for (reason, count) in counted {
        assert_eq!(denials(&node, reason).await, count, "{reason}");
    }
    assert_eq!((metric(&node, "duet_sockets").await, metric(&node, "duet_panics_total").await), (0, 0));

    // On the same connection, a token that holds still does.
    let url_refused = Client::knock(node.public, 4, "&token=garbage", None).await.err().expect("refused");
    assert_eq!(url_refused["data"]["code"], "unauthorized");
    let mut client = enter(&node, &token).await.expect("admitted");
    assert_eq!(join(&mut client, "any").await["ok"], true);
    assert!(enter(&node, &signer.token(&with(json!({"exp": now() - 2})))).await.is_ok(), "within the leeway");
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_admits_to_its_rooms_and_to_no_other() {
    let node = with_secret(&[("DUET_ADMISSION__DEFAULT_ROOMS", "lobby, open-*")]).await;
    let signer = Signer::hs256(SECRET);
    let some = signer.token(&json!({"exp": now() + 3600, "rooms": ["a", "team-*"], "room": "b"}));
    let mut client = enter(&node, &some).await.expect("admitted");
    for (room, ok) in [("a", true), ("b", true), ("team-1", true), ("c", false), ("lobby", false), ("A", false)] {
        let answer = join(&mut client, room).await;
        assert_eq!(answer["ok"], ok, "{room}: {answer}");
        if !ok {
            assert_eq!((&answer["code"], &answer["retryable"]), (&json!("forbidden"), &json!(false)));
        }
    }
    client.emit(&json!(["create or join", "c"])).await;
    let told = client.until("rejected").await;
    assert_eq!((&told[0]["event"], &told[0]["code"]), (&json!("create or join"), &json!("forbidden")));
    let mut client = enter(&node, &signer.token(&json!({"exp": now() + 3600}))).await.expect("admitted");
    for (room, ok) in [("lobby", true), ("open-1", true), ("a", false)] {
        assert_eq!(join(&mut client, room).await["ok"], ok, "{room}");
    }
    assert_eq!(metric(&node, "duet_rooms").await, 5, "nothing is left of those refused");
    node.stop().await;
}

/// What a client that polls hears first, but for heartbeats.
async fn polled(node: &Node, eio: u8, query: &str, auth: Option<&Value>) -> String {
    // As text.
    let base = format!("/socket.io/?EIO={eio}&transport=polling&b64=1{query}");
    let (_, open) = get(node.public, &base).await;
    let sid = open.split("\"sid\":\"").nth(1).and_then(|rest| rest.split('"').next()).expect("an id").to_owned();
    if let Some(auth) = auth {
        let body = format!("40{auth}");
        let head = format!("POST {base}&sid={sid} HTTP/1.1\r\nHost: t\r\nConnection: close\r\nContent-Length: ");
        http(node.public, &format!("{head}{}\r\n\r\n{body}", body.len())).await;
    }
    loop {
        let (status, payload) = get(node.public, &format!("{base}&sid={sid}")).await;
        assert_eq!(status, 200, "{payload}");
        if let Some(packet) = payload.split('\u{1e}').find(|packet| packet.starts_with('4') || eio == 3) {
            return packet.to_owned();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn old_clients_bring_their_token_in_the_query_over_polling_and_websocket() {
    let node = with_secret(&[]).await;
    let token = Signer::hs256(SECRET).token(&for_rooms(&["a"]));
    let expired = Signer::hs256(SECRET).token(&json!({"exp": 1}));
    let (good, bad) = (format!("&token={token}"), format!("&token={expired}"));
    for eio in [3, 4] {
        let connected = Client::knock(node.public, eio, &good, None).await;
        let mut client = connected.unwrap_or_else(|refused| panic!("EIO={eio}: {refused}"));
        assert_eq!(join(&mut client, "a").await["ok"], true);
        let refused = Client::knock(node.public, eio, &bad, None).await.err().expect("refused");
        assert_eq!(refused["data"]["code"], "token_expired", "EIO={eio}");
        let refused = Client::knock(node.public, eio, "", None).await.err().expect("refused");
        assert_eq!(refused["data"]["code"], "unauthorized", "EIO={eio}");
    }
    let refusal = r#"44{"message":"the token has expired","data":{"code":"token_expired","retryable":false}}"#;
    assert_eq!(polled(&node, 3, &good, None).await, "2:40");
    assert_eq!(polled(&node, 3, &bad, None).await, format!("{}:{refusal}", refusal.len()));
    assert_eq!(polled(&node, 3, &bad, None).await, format!("{}:{refusal}", refusal.len()));
    let connected = polled(&node, 4, "", Some(&auth(&token))).await;
    assert!(connected.starts_with("40{\"sid\""), "{connected}");
    assert_eq!(polled(&node, 4, "", Some(&auth(&expired))).await, refusal);
    assert!(polled(&node, 4, &good, Some(&json!({}))).await.starts_with("40{\"sid\""));
    // What CONNECT says counts.
    assert_eq!(polled(&node, 4, &good, Some(&auth(&expired))).await, refusal);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_is_turned_away_may_try_again_but_does_not_stay() {
    let node = with_secret(&[("DUET_TIMEOUTS__HANDSHAKE", "500ms")]).await;
    let token = Signer::hs256(SECRET).token(&for_rooms(&["a"]));
    for eio in [3, 4] {
        let url = format!("ws://{}/socket.io/?EIO={eio}&transport=websocket", node.public);
        let (mut stream, _) = tokio_tungstenite::connect_async(url).await.expect("a WebSocket");
        if eio == 4 {
            futures_util::SinkExt::send(&mut stream, "40".into()).await.expect("sent");
        }
        let all = async { while let Some(Ok(_)) = futures_util::StreamExt::next(&mut stream).await {} };
        tokio::time::timeout(Duration::from_secs(20), all).await.expect("closed");
    }
    wait_until("no WebSocket is left", || async { metric(&node, "duet_websockets").await == 0 }).await;

    // A session that polls is not served any more.
    let base = "/socket.io/?EIO=3&transport=polling";
    let (_, open) = get(node.public, base).await;
    let sid = open.split("\"sid\":\"").nth(1).and_then(|rest| rest.split('"').next()).expect("an id").to_owned();
    let poll = format!("{base}&sid={sid}");
    assert!(get(node.public, &poll).await.1.contains("unauthorized"));
    let ping = format!("POST {poll} HTTP/1.1\r\nHost: t\r\nConnection: close\r\nContent-Length: 3\r\n\r\n1:2");
    wait_until("it is unknown", || async { http(node.public, &ping).await.0 == 400 }).await;
    assert_eq!(get(node.public, &poll).await.0, 400);

    node.stop().await;

    // By Engine.IO 4, CONNECT can be said again.
    let node = with_secret(&[]).await;
    let url = format!("ws://{}/socket.io/?EIO=4&transport=websocket", node.public);
    let (mut stream, _) = tokio_tungstenite::connect_async(url).await.expect("a WebSocket");
    let mut heard = Vec::new();
    for packet in ["40".to_owned(), format!("40{}", auth(&token))] {
        // The library passes over a CONNECT that comes before it is done with the last one.
        let again = Duration::from_secs(1);
        futures_util::SinkExt::send(&mut stream, packet.as_str().into()).await.expect("sent");
        loop {
            let Ok(frame) = tokio::time::timeout(again, futures_util::StreamExt::next(&mut stream)).await else {
                futures_util::SinkExt::send(&mut stream, packet.as_str().into()).await.expect("sent");
                continue;
            };
            let frame = frame.expect("open").expect("a frame").to_string();
            if frame.starts_with('4') {
                heard.push(frame[..3].to_owned());
                break;
            }
        }
    }
    assert_eq!(heard, ["44{", "40{"]);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_guesses_at_tokens_is_slowed_down_then_refused() {
    // Nobody answers heartbeats for the one that is known meanwhile.
    let node = with_secret(&[("DUET_LIMITS__FAILURES", "1/h burst 6"), ("DUET_TIMEOUTS__PING_INTERVAL", "60s")]).await;
    let signer = Signer::hs256(SECRET);
    let mut known = enter(&node, &signer.token(&for_rooms(&["mine"]))).await.expect("let in");
    known.has_answered().await;
    // A room that the token is not for counts as a wrong token does.
    assert_eq!(join(&mut known, "foreign").await["code"], "forbidden");
    for n in 0..4 {
        let asked = Instant::now();
        let refusal =
            enter(&node, &Signer::hs256("another secret of thirty-two bytes").token(&for_rooms(&["*"]))).await;
        assert_eq!(refusal.err().expect("refused")["data"]["code"], "unauthorized", "{n}");
        // The fourth has four behind it, of six: a third of the way from no delay to the longest.
        assert!(n < 3 || asked.elapsed() > Duration::from_millis(600), "{:?}", asked.elapsed());
    }

    // Over one connection it takes as long as over many.
    let url = format!("ws://{}/socket.io/?EIO=4&transport=websocket", node.public);
    let (mut stream, _) = tokio_tungstenite::connect_async(url).await.expect("a WebSocket");
    let (since, mut refused) = (Instant::now(), 0);
    while since.elapsed() < Duration::from_secs(6) && stream.send("40".into()).await.is_ok() {
        match tokio::time::timeout(Duration::from_millis(200), stream.next()).await {
            Ok(Some(Ok(frame))) if frame.to_string().starts_with("44") => refused += 1,
            Ok(None | Some(Err(_))) => break,
            _ => {}
        }
    }
    // The first one's delay was the handshake's. With it there are six, which is all: two seconds for each that follows.
    assert!((2..=4).contains(&refused), "{refused} in {:?}", since.elapsed());

    let path = "/socket.io/?EIO=4&transport=polling";
    let (status, body) = get(node.public, path).await;
    assert!(status == 429 && body.contains("too_many_failures"), "{status} {body}");
    assert_eq!(join(&mut known, "mine").await["code"], "too_many_failures");
    assert!(metric(&node, "duet_limited_total{by=\"delay\",limit=\"failures\"}").await >= 4);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_socket_ends_with_its_token_and_is_told_as_is_its_peer() {
    let node = with_secret(&[("DUET_ADMISSION__LEEWAY", "0s")]).await;
    let signer = Signer::hs256(SECRET);
    let end = now() + 3;
    let mut ends = enter(&node, &signer.token(&json!({"exp": end, "rooms": ["a"]}))).await.expect("admitted");
    let mut stays = enter(&node, &signer.token(&for_rooms(&["a"]))).await.expect("admitted");
    seat(&mut stays, &mut ends, "a").await;
    // One that leaves before is not waited for.
    drop(enter(&node, &signer.token(&json!({"exp": end, "rooms": ["a"]}))).await.expect("admitted"));
    let told = ends.expect("rejected").await;
    assert!(now() >= end, "not before its end");
    assert_eq!((&told[0]["code"], &told[0]["retryable"]), (&json!("token_expired"), &json!(false)));
    assert_eq!(ends.hear().await, Heard::Closed);
    assert_eq!(stays.expect("bye").await, [json!("a"), json!({"id": ends.id, "reason": "expired"})]);
    assert_eq!(metric(&node, "duet_sockets_closed_total{reason=\"expired\"}").await, 1);
    // With a new token it can come back.
    let mut back = enter(&node, &signer.token(&for_rooms(&["a"]))).await.expect("admitted");
    seat_second(&mut stays, &mut back, "a").await;
    node.stop().await;
}

async fn seat_second(first: &mut Client, second: &mut Client, room: &str) {
    assert_eq!(join(second, room).await["outcome"], "joined");
    first.until("ready").await;
}

async fn with_issuer(issuer: &Web, more: &[(&str, &str)]) -> Node {
    let url = issuer.url("/keys");
    node(&[&[("DUET_ADMISSION__JWKS_URL", url.as_str())], more].concat()).await
}

fn set(keys: &[Value]) -> Reply {
    Reply::ok(&json!({ "keys": keys }))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_key_of_the_issuer_is_good_at_once_and_an_old_one_no_more() {
    let (old, new) = (Signer::es256(), Signer::eddsa());
    let issuer = Web::start(set(&[old.jwk("1")])).await;
    let node = with_issuer(&issuer, &[("DUET_ADMISSION__JWKS_MIN_INTERVAL", "100ms")]).await;
    until_ready(&node).await;
    let claims = for_rooms(&["a"]);
    enter(&node, &old.token_of("1", &claims)).await.expect("admitted");
    issuer.reply(set(&[new.jwk("2")]));
    // As soon as the issuer may be asked again.
    let token = new.token_of("2", &claims);
    wait_until("the new key is good", || async { enter(&node, &token).await.is_ok() }).await;
    let refused = enter(&node, &old.token_of("1", &claims)).await.err().expect("refused");
    assert_eq!(refused["data"]["code"], "unauthorized");
    let asked = &issuer.asked()[0];
    assert_eq!((&*asked.method, &*asked.path), ("GET", "/keys"));
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strangers_do_not_make_a_node_ask_the_issuer_more_often_than_it_may() {
    let signer = Signer::eddsa();
    let issuer = Web::start(set(&[signer.jwk("1")])).await;
    let node = with_issuer(&issuer, &[]).await;
    until_ready(&node).await;
    for number in 0..50 {
        let token = signer.token_of(&format!("made up {number}"), &for_rooms(&["a"]));
        let refused = enter(&node, &token).await.err().expect("refused");
        assert_eq!(refused["data"]["code"], "unauthorized");
    }
    assert_eq!((issuer.asked().len(), denials(&node, "unknown_key").await), (1, 50));
    enter(&node, &signer.token_of("1", &for_rooms(&["a"]))).await.expect("admitted meanwhile");
    node.stop().await;

    // Where it may be asked often, a crowd is one question all the same.
    let node = with_issuer(&issuer, &[("DUET_ADMISSION__JWKS_MIN_INTERVAL", "2s")]).await;
    until_ready(&node).await;
    let (began, before) = (std::time::Instant::now(), issuer.asked().len());
    let (address, token) = (node.public, signer.token_of("made up", &for_rooms(&["a"])));
    wait_until("it was asked again", || async {
        let crowd = (0..10).map(|_| {
            let auth = auth(&token);
            async move { Client::knock(address, 4, "", Some(&auth)).await.is_err() }
        });
        assert!(futures_util::future::join_all(crowd).await.into_iter().all(|refused| refused));
        issuer.asked().len() > before
    })
    .await;
    let most = began.elapsed().as_secs() / 2 + 1;
    assert!((issuer.asked().len() - before) as u64 <= most, "{} in {:?}", issuer.asked().len(), began.elapsed());
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_the_issuer_is_away_its_last_keys_are_good_but_not_for_ever() {
    let signer = Signer::eddsa();
    let issuer = Web::start(set(&[signer.jwk("1")])).await;
    let node = with_issuer(
        &issuer,
        &[
            ("DUET_ADMISSION__JWKS_MIN_INTERVAL", "100ms"),
            ("DUET_ADMISSION__JWKS_REFRESH", "1s"),
            ("DUET_ADMISSION__JWKS_KEEP", "6s"),
            ("DUET_ADMISSION__JWKS_TIMEOUT", "300ms"),
        ],
    )
    .await;
    until_ready(&node).await;
    let failed = || metric(&node, "duet_jwks_fetches_total{outcome=\"failed\"}");
    let token = signer.token_of("1", &for_rooms(&["a"]));
    for bad in [
        Reply::Status(500, String::new()),
        Reply::ok(&"garbage"),
        Reply::ok(&json!({"keys": []})),
        Reply::Redirect(issuer.url("/other")),
        Reply::Endless,
        Reply::Never,
    ] {
        issuer.reply(set(&[signer.jwk("1")]));
        let fetched = metric(&node, "duet_jwks_fetches_total{outcome=\"fetched\"}").await;
        wait_until("it is back", || async {
            metric(&node, "duet_jwks_fetches_total{outcome=\"fetched\"}").await > fetched
        })
        .await;
        issuer.reply(bad.clone());
        let before = failed().await;
        wait_until("a fetch failed", || async { failed().await > before }).await;
        enter(&node, &token).await.unwrap_or_else(|refused| panic!("{bad:?}: {refused}"));
    }
    assert!(issuer.asked().iter().all(|asked| asked.path == "/keys"), "a redirect is not followed");
    wait_until("the keys are too old", || async { enter(&node, &token).await.is_err() }).await;
    let refused = enter(&node, &token).await.err().expect("refused");
    assert_eq!(refused["data"], json!({"code": "unavailable", "retryable": true}));
    issuer.reply(set(&[signer.jwk("1")]));
    wait_until("it is back", || async { enter(&node, &token).await.is_ok() }).await;
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_without_any_key_is_not_ready_and_admits_nobody() {
    let signer = Signer::eddsa();
    // What is published is no secret, whatever the issuer thinks.
    let issuer = Web::start(set(&[Signer::hs256(SECRET).jwk("1")])).await;
    let node = with_issuer(&issuer, &[("DUET_ADMISSION__JWKS_MIN_INTERVAL", "100ms")]).await;
    let refused = enter(&node, &Signer::hs256(SECRET).token_of("1", &for_rooms(&["a"]))).await.err().expect("refused");
    assert_eq!(refused["data"]["code"], "unavailable");
    let (status, why) = get(node.admin, "/readyz").await;
    assert!(status == 503 && why.contains("issuer"), "{why}");
    issuer.reply(set(&[signer.jwk("1")]));
    until_ready(&node).await;
    enter(&node, &signer.token(&for_rooms(&["a"]))).await.expect("admitted");
    node.stop().await;
}

async fn with_hook(hook: &Web, more: &[(&str, &str)]) -> Node {
    let url = hook.url("/join");
    let hook = [("DUET_ADMISSION__WEBHOOK_URL", url.as_str()), ("DUET_ADMISSION__WEBHOOK_SECRET", HOOK_SECRET)];
    node(&[&hook[..], more].concat()).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_webhook_is_asked_once_a_join_with_a_signature_that_can_be_checked() {
    let hook = Web::start(Reply::ok(&r#"{"allow":true}"#)).await;
    let node = with_hook(&hook, &[("DUET_ADMISSION__JWT_SECRET", SECRET)]).await;
    let claims = json!({"sub": "alice", "exp": now() + 3600, "rooms": ["a"], "plan": {"name": "방"}});
    let mut client = enter(&node, &Signer::hs256(SECRET).token(&claims)).await.expect("admitted");
    assert!(hook.asked().is_empty(), "not at the handshake");
    assert_eq!(join(&mut client, "b").await["code"], "forbidden");
    assert!(hook.asked().is_empty(), "not for a room that is not granted");
    for _ in 0..2 {
        let answer = join(&mut client, "a").await;
        assert_eq!((&answer["ok"], answer.get("iceServers")), (&json!(true), None), "{answer}");
    }
    let asked = hook.asked();
    assert_eq!(asked.len(), 1, "not again for a seat that it has");
    let asked = &asked[0];
    assert_eq!((&*asked.method, &*asked.path), ("POST", "/join"));
    let body: Value = serde_json::from_slice(&asked.body).expect("JSON");
    let expected = json!({
        "type": "join", "room": "a", "id": client.id, "peer": "alice", "claims": claims, "address": "127.0.0.1",
    });
    assert_eq!((body, &asked.headers["content-type"]), (expected, &"application/json".parse().expect("a value")));

    let header = |name: &str| asked.headers[name].to_str().expect("text");
    let mut signed = format!("{}.{}.", header("webhook-id"), header("webhook-timestamp")).into_bytes();
    signed.extend_from_slice(&asked.body);
    let secret = STANDARD.decode(HOOK_SECRET.trim_start_matches("whsec_")).expect("base64");
    let mac = STANDARD.decode(header("webhook-signature").strip_prefix("v1,").expect("version 1")).expect("base64");
    hmac::verify(&hmac::Key::new(hmac::HMAC_SHA256, &secret), &signed, &mac).expect("it holds");
    assert!(now().abs_diff(header("webhook-timestamp").parse().expect("seconds")) < 60);

    // Out and in again is another join, with another id.
    assert_eq!(client.call(&json!(["bye", "a"])).await["ok"], true);
    assert_eq!(join(&mut client, "a").await["ok"], true);
    let asked = hook.asked();
    assert_eq!(asked.len(), 2);
    assert_ne!(asked[0].headers["webhook-id"], asked[1].headers["webhook-id"]);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ice_servers_of_the_webhook_are_in_the_answer_to_the_join() {
    let servers = json!([{"urls": "stun:a"}, {"urls": ["turn:b", "turns:b"], "username": "u", "credential": "c"}]);
    let hook = Web::start(Reply::ok(&json!({"allow": true, "iceServers": servers}))).await;
    let node = with_hook(&hook, &[]).await;
    let (mut first, mut second) = (Client::connect(&node).await, Client::connect(&node).await);
    for (client, outcome) in [(&mut first, "created"), (&mut second, "joined")] {
        let answer = join(client, "a").await;
        assert_eq!(answer["outcome"], outcome);
        let told = json!([{"urls": ["stun:a"]}, {"urls": ["turn:b", "turns:b"], "username": "u", "credential": "c"}]);
        assert_eq!(answer["iceServers"], told);
    }
    // Without tokens there is nobody to name.
    let body: Value = serde_json::from_slice(&hook.asked()[0].body).expect("JSON");
    assert_eq!((&body["peer"], &body["claims"]), (&Value::Null, &Value::Null));
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_waits_for_a_seat_is_asked_about_once_however_long_it_waits() {
    let hook = Web::start(Reply::ok(&r#"{"allow":true}"#)).await;
    let node = with_hook(&hook, &[]).await;
    let (mut a, _b) = pair(&node, "a").await;
    let mut waits = Client::connect(&node).await;
    let answer = waits.call(&json!(["create or join", "a", {"wait": true}])).await;
    assert_eq!(answer["outcome"], "waiting");
    hook.reply(Reply::ok(&r#"{"allow":false}"#));
    waits.stay(Duration::from_secs(3)).await;
    assert_eq!(a.call(&json!(["bye", "a"])).await["ok"], true);
    waits.until("joined").await;
    assert_eq!(hook.asked().len(), 3);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_seat_is_taken_back_with_a_new_token_after_the_old_one_ended() {
    let node = with_secret(&[("DUET_ADMISSION__LEEWAY", "0s"), ("DUET_SEATS__GRACE", "30s")]).await;
    let signer = Signer::hs256(SECRET);
    let mut stays = enter(&node, &signer.token(&for_rooms(&["a"]))).await.expect("admitted");
    assert_eq!(join(&mut stays, "a").await["ok"], true);
    let mut ends = enter(&node, &signer.token(&json!({"exp": now() + 3, "rooms": ["a"]}))).await.expect("admitted");
    let resume = ends.call(&json!(["create or join", "a", {}])).await["resume"].clone();
    assert!(resume.is_string());
    assert_eq!(ends.until("rejected").await[0]["code"], "token_expired");
    stays.until("peer reconnecting").await;
    // Not by what was told at the join alone.
    let other = signer.token(&json!({"exp": now() + 3600, "rooms": ["b"]}));
    let mut other = enter(&node, &other).await.expect("admitted");
    let refused = other.call(&json!(["create or join", "a", {"resume": resume}])).await;
    assert_eq!(refused["code"], "forbidden");
    let mut back = enter(&node, &signer.token(&for_rooms(&["a"]))).await.expect("admitted");
    let answer = back.call(&json!(["create or join", "a", {"resume": resume}])).await;
    assert_eq!(answer["outcome"], "resumed", "{answer}");
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn servers_for_calls_are_told_to_those_who_may_come_in() {
    let node = with_secret(&[("DUET_ICE__STUN", "stun:a")]).await;
    let signer = Signer::hs256(SECRET);
    let (good, bad) = (signer.token(&for_rooms(&[])), signer.token(&json!({"exp": 1})));
    let ask = |header: String, query: String| {
        let request = format!("GET /ice-servers{query} HTTP/1.1\r\nHost: t\r\n{header}Connection: close\r\n\r\n");
        let address = node.public;
        async move { http(address, &request).await }
    };
    for (token, status, says) in [(&good, 200, "stun:a"), (&bad, 401, "token_expired")] {
        for (header, query) in
            [(format!("Authorization: Bearer {token}\r\n"), String::new()), (String::new(), format!("?token={token}"))]
        {
            let (found, body) = ask(header, query).await;
            assert!(found == status && body.contains(says), "{found}: {body}");
        }
    }
    let (status, body) = ask(String::new(), String::new()).await;
    assert!(status == 401 && body.contains("unauthorized") && !body.contains("stun"), "{status}: {body}");
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_clear_yes_of_the_webhook_nobody_is_seated() {
    let hook = Web::start(Reply::ok(&r#"{"allow":false,"reason":"not\nbefore \u0007noon"}"#)).await;
    let node = with_hook(&hook, &[("DUET_ADMISSION__WEBHOOK_TIMEOUT", "500ms")]).await;
    let mut client = Client::connect(&node).await;
    let denied = json!({"ok": false, "code": "forbidden", "message": "notbefore noon", "retryable": false});
    assert_eq!(join(&mut client, "a").await, denied);
    hook.reply(Reply::ok(&r#"{"allow":false}"#));
    assert_eq!(join(&mut client, "a").await["code"], "forbidden");
    for bad in [
        Reply::Status(500, r#"{"allow":true}"#.into()),
        Reply::Status(403, r#"{"allow":true}"#.into()),
        Reply::Status(204, String::new()),
        Reply::ok(&"garbage"),
        Reply::ok(&r#"{"allow":"yes"}"#),
        Reply::ok(&r#"{"allow":true,"iceServers":{}}"#),
        Reply::Redirect(hook.url("/other")),
        Reply::Endless,
        Reply::Never,
    ] {
        hook.reply(bad.clone());
        let answer = join(&mut client, "a").await;
        assert_eq!((&answer["code"], &answer["retryable"]), (&json!("unavailable"), &json!(true)), "{bad:?}");
    }
    assert!(hook.asked().iter().all(|asked| asked.path == "/join"), "a redirect is not followed");
    assert_eq!(metric(&node, "duet_rooms").await, 0);
    let outcome = |outcome: &str| format!("duet_webhook_answers_total{{outcome=\"{outcome}\"}}");
    assert_eq!((metric(&node, &outcome("denied")).await, metric(&node, &outcome("failed")).await), (2, 9));
    hook.reply(Reply::ok(&r#"{"allow":true}"#));
    assert_eq!(join(&mut client, "a").await["ok"], true);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_so_many_joins_wait_for_the_webhook_and_relays_go_on() {
    let hook = Web::start(Reply::ok(&r#"{"allow":true}"#)).await;
    let node =
        with_hook(&hook, &[("DUET_ADMISSION__WEBHOOK_CONCURRENCY", "2"), ("DUET_ADMISSION__WEBHOOK_TIMEOUT", "1m")])
            .await;
    let (mut a, mut b) = pair(&node, "pair").await;
    hook.reply(Reply::Never);
    let mut waiting = Vec::new();
    for number in 0..2 {
        let mut client = Client::connect(&node).await;
        waiting.push(tokio::spawn(async move { join(&mut client, &number.to_string()).await }));
    }
    wait_until("two are being asked about", || async { hook.asked().len() == 4 }).await;
    let mut third = Client::connect(&node).await;
    assert_eq!(join(&mut third, "third").await["code"], "unavailable");
    assert_eq!(metric(&node, "duet_webhook_answers_total{outcome=\"busy\"}").await, 1);
    a.emit(&json!(["message", "meanwhile"])).await;
    assert_eq!(b.expect("message").await, [json!("meanwhile")]);
    hook.reply(Reply::ok(&r#"{"allow":true}"#));
    for waiting in waiting {
        assert_eq!(waiting.await.expect("answered")["ok"], true);
    }
    assert_eq!(join(&mut third, "third").await["ok"], true);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_admission_nobody_needs_a_token_and_none_is_looked_at() {
    let node = node(&[]).await;
    for eio in [3, 4] {
        for (query, auth) in
            [("", None), ("&token=garbage", None), ("", Some(json!({"token": 7}))), ("", Some(json!([])))]
        {
            let mut client = Client::knock(node.public, eio, query, auth.as_ref()).await.expect("admitted");
            assert_eq!(join(&mut client, &format!("{eio}{query}{auth:?}")).await["ok"], true);
        }
    }
    assert_eq!(polled(&node, 3, "&token=garbage", None).await, "2:40");
    assert!(!get(node.admin, "/metrics").await.1.contains("duet_admission_denials_total{"));
    node.stop().await;
}

#[tokio::test]
async fn new_settings_take_the_place_of_the_old_all_at_once_or_not_at_all() {
    let settings = |more: &[(&str, &str)]| {
        let environment = more.iter().map(|(key, value)| (format!("DUET_ADMISSION__{key}"), (*value).to_owned()));
        Settings::load(None, environment.collect()).expect("settings").admission
    };
    let lifecycle = Lifecycle::default();
    let admission =
        Admission::start(&settings(&[]), Metrics::new().expect("metrics"), lifecycle.clone()).expect("started");
    let admit = |token: Option<&str>| admission.admit(token, std::time::SystemTime::now()).map(|_| ());
    assert_eq!((admit(None), admission.summary()), (Ok(()), "anybody may join any room"));
    let open = admission.admit(None, std::time::SystemTime::now()).expect("open");
    let room = duet::id::RoomName::parse("a").expect("valid");
    assert!(admission.permit(&open, &room).is_ok());

    admission.reload(&settings(&[("JWT_SECRET", SECRET)])).expect("reloaded");
    let token = Signer::hs256(SECRET).token(&for_rooms(&["a"]));
    assert_eq!((admit(None), admit(Some(&token))), (Err(Denied::Missing), Ok(())));
    assert_eq!(admission.permit(&open, &room).expect_err("no token").code.name(), "unauthorized");

    let file = tempfile::NamedTempFile::new().expect("a file");
    let path = file.path().to_str().expect("a path");
    let error = admission.reload(&settings(&[("JWT_KEY_FILE", path)])).expect_err("empty").to_string();
    assert!(error.starts_with("admission.jwt_key_file: "), "{error}");
    let bad_hook = [("WEBHOOK_URL", "http://localhost"), ("WEBHOOK_SECRET", "whsec_short")];
    let error = admission.reload(&settings(&bad_hook)).expect_err("short").to_string();
    assert!(error.starts_with("admission.webhook_secret: ") && !error.contains("whsec_short"), "{error}");
    assert_eq!((admit(None), admit(Some(&token))), (Err(Denied::Missing), Ok(())), "as it was");

    // A key in a file is read anew.
    let (one, other) = (Signer::eddsa(), Signer::eddsa());
    for (signer, good) in [(&one, [true, false]), (&other, [false, true])] {
        std::fs::write(file.path(), signer.public_pem()).expect("written");
        admission.reload(&settings(&[("JWT_KEY_FILE", path)])).expect("reloaded");
        let tokens = [&one, &other].map(|signer| admit(Some(&signer.token(&for_rooms(&["a"])))).is_ok());
        assert_eq!(tokens, good);
    }

    // Keys of an issuer are kept as long as nothing about it changes.
    let issuer = Web::start(set(&[one.jwk("1")])).await;
    let url = issuer.url("/keys");
    let token = one.token(&for_rooms(&["a"]));
    admission.reload(&settings(&[("JWKS_URL", &url)])).expect("reloaded");
    wait_until("its keys are known", || async { admit(Some(&token)).is_ok() }).await;
    admission.reload(&settings(&[("JWKS_URL", &url), ("AUDIENCE", "calls")])).expect("reloaded");
    assert_eq!(admit(Some(&token)), Err(Denied::Audience));
    admission.reload(&settings(&[("JWKS_URL", &url), ("JWKS_KEEP", "1h")])).expect("reloaded");
    wait_until("another issuer is asked", || async { admit(Some(&token)).is_ok() }).await;
    assert_eq!(issuer.asked().len(), 2);

    // One that never answers keeps a node from being ready until it is no longer asked.
    assert!(lifecycle.ready().is_ok());
    issuer.reply(Reply::Never);
    admission.reload(&settings(&[("JWKS_URL", &issuer.url("/others"))])).expect("reloaded");
    assert_eq!(lifecycle.ready().expect_err("no keys").reasons, ["issuer"]);
    assert_eq!(admit(Some(&token)), Err(Denied::NoKeys));
    admission.reload(&settings(&[])).expect("reloaded");
    assert_eq!(admit(None), Ok(()));
    wait_until("the node is ready", || async { lifecycle.ready().is_ok() }).await;
    lifecycle.stopped().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_of_a_token_or_a_secret_is_in_the_log_at_any_level() {
    let (issuer, hook) = (Web::start(Reply::Never).await, Web::start(Reply::ok(&r#"{"allow":true}"#)).await);
    let signer = Signer::eddsa();
    issuer.reply(set(&[signer.jwk("1")]));
    let settings = [
        ("DUET_LOG__LEVEL", "trace"),
        ("DUET_ADMISSION__JWKS_URL", &issuer.url("/keys")),
        ("DUET_ADMISSION__JWKS_MIN_INTERVAL", "100ms"),
        ("DUET_ADMISSION__WEBHOOK_URL", &hook.url("/join")),
        ("DUET_ADMISSION__WEBHOOK_SECRET", HOOK_SECRET),
    ];
    let settings = settings.map(|(key, value)| (key.to_owned(), value.to_owned())).to_vec();
    let mut node = NodeProcess::start("", &settings).await;
    node.until_ready().await;
    let claims = json!({"sub": "hidden-subject", "exp": now() + 3600, "rooms": ["hidden-room"]});
    let good = signer.token_of("1", &claims);
    let bad = signer.token_of("hidden-key", &claims);
    let mut client = Client::knock(node.public, 4, "", Some(&auth(&good))).await.expect("admitted");
    assert_eq!(join(&mut client, "hidden-room").await["ok"], true);
    hook.reply(Reply::ok(&"hidden-answer"));
    let mut old = Client::knock(node.public, 3, &format!("&token={good}"), None).await.expect("admitted");
    assert_eq!(join(&mut old, "hidden-room").await["code"], "unavailable");
    for eio in [3, 4] {
        let refused = Client::knock(node.public, eio, &format!("&token={bad}"), Some(&auth(&bad))).await;
        assert!(refused.is_err());
        assert!(Client::knock(node.public, eio, "&token=hidden-garbage", None).await.is_err());
    }
    issuer.reply(Reply::ok(&"hidden-keys"));
    let failed = "duet_jwks_fetches_total{outcome=\"failed\"}";
    wait_until("a fetch failed", || async {
        let _ = Client::knock(node.public, 4, "", Some(&auth(&bad))).await;
        node.metric(failed).await > 0.0
    })
    .await;
    node.terminate();
    let log = node.log();
    assert!(log.contains("\"TRACE\"") && log.contains("the webhook does not answer"), "{log}");
    let parts = [&good, &bad].map(|token| token.split('.').map(str::to_owned).collect::<Vec<_>>()).concat();
    let secrets = ["hidden".to_owned(), HOOK_SECRET[6..].to_owned()];
    for hidden in parts.iter().chain(&secrets) {
        let line = log.lines().find(|line| line.contains(hidden));
        assert!(line.is_none(), "{hidden}: {line:?}");
    }
}
