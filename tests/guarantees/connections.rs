//! Connections that say nothing, half of something, or nothing any more.

use std::time::{Duration, Instant};

use crate::support::{Client, PATIENCE, metric, node, pair, wait_until};
use futures_util::SinkExt;
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// Sends `bytes` and nothing more; tells how long the server keeps the connection.
async fn kept_for(address: std::net::SocketAddr, bytes: &[u8]) -> Duration {
    let mut stream = TcpStream::connect(address).await.expect("connected");
    let started = Instant::now();
    stream.write_all(bytes).await.expect("sent");
    let mut answer = Vec::new();
    tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer)).await.expect("closed at last").ok();
    started.elapsed()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_handshake_that_is_never_finished_is_given_up() {
    let node = node(&[("DUET_TIMEOUTS__HANDSHAKE", "1s")]).await;
    let upgrade = "GET /socket.io/?EIO=4&transport=websocket HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                   Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    for (what, bytes) in [
        ("nothing", &b""[..]),
        ("half a request line", b"GET /socket"),
        ("half a head", b"GET / HTTP/1.1\r\nHost: a\r\nX-Half"),
        ("no Socket.IO CONNECT after the WebSocket handshake", upgrade.as_bytes()),
    ] {
        let kept = kept_for(node.public, bytes).await;
        assert!((Duration::from_millis(500)..Duration::from_secs(5)).contains(&kept), "{what}: {kept:?}");
    }
    assert_eq!(metric(&node, "duet_sockets").await, 0);
    assert_eq!(metric(&node, "duet_websockets").await, 0);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn by_default_a_handshake_has_ten_seconds_and_a_silent_peer_less_than_twenty() {
    let node = node(&[]).await;
    let silent_connection = tokio::spawn({
        let address = node.public;
        async move { kept_for(address, b"GET / HTT").await }
    });
    let (mut stays, goes) = pair(&node, "half-open").await;
    let since = Instant::now();
    // It neither reads nor writes any more, and does not close: what a laptop does whose lid is shut.
    let bye = loop {
        if let crate::support::Heard::Event(name, arguments) = stays.hear().await
            && name == "bye"
        {
            break arguments;
        }
    };
    assert_eq!(bye[1]["reason"], "timed_out");
    assert!(since.elapsed() < Duration::from_secs(20), "{:?}", since.elapsed());
    drop(goes);
    assert!(silent_connection.await.expect("closed") < Duration::from_secs(11));
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_that_never_ends_is_given_up() {
    let node = node(&[("DUET_TIMEOUTS__REQUEST", "1s")]).await;
    let (_, open) = crate::support::get(node.public, "/socket.io/?EIO=4&transport=polling").await;
    let sid =
        serde_json::from_str::<serde_json::Value>(&open[1..]).expect("JSON")["sid"].as_str().expect("an id").to_owned();
    let head = format!(
        "POST /socket.io/?EIO=4&transport=polling&sid={sid} HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\n4"
    );
    let kept = kept_for(node.public, head.as_bytes()).await;
    assert!((Duration::from_millis(500)..Duration::from_secs(12)).contains(&kept), "{kept:?}");
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_vanishes_frees_its_seat_at_once() {
    let node = node(&[]).await;
    for round in 0..20 {
        let (mut stays, goes) = pair(&node, "vanish").await;
        if round % 2 == 0 {
            drop(goes);
        } else {
            let tokio_tungstenite::MaybeTlsStream::Plain(stream) = goes.stream.into_inner() else { unreachable!() };
            stream.set_zero_linger().expect("a reset instead of an orderly end");
            drop(stream);
        }
        assert_eq!(stays.expect("bye").await[1]["reason"], "disconnected");
        stays.call(&json!(["bye"])).await;
    }
    let node = &node;
    wait_until("nothing is left", || async move {
        metric(node, "duet_rooms").await == 0 && metric(node, "duet_sockets").await <= 1
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_leaves_before_it_is_connected_leaves_nothing_behind() {
    let node = node(&[]).await;
    for _ in 0..200 {
        let url = format!("ws://{}/socket.io/?EIO=4&transport=websocket", node.public);
        let (mut stream, _) = tokio_tungstenite::connect_async(url).await.expect("connected");
        stream.send(tokio_tungstenite::tungstenite::Message::text("40")).await.expect("sent");
        drop(stream);
    }
    let node = &node;
    wait_until("all are gone", || async move {
        metric(node, "duet_sockets").await == 0 && metric(node, "duet_websockets").await == 0
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stopping_tells_every_socket_and_ends_in_time() {
    let node = node(&[("DUET_TIMEOUTS__DRAIN", "3s")]).await;
    let mut clients = Vec::new();
    for n in 0..30 {
        let mut client = Client::connect(&node).await;
        client.emit(&json!(["create or join", format!("drain-{}", n / 2)])).await;
        clients.push(client);
    }
    let (_, polling) = crate::support::get(node.public, "/socket.io/?EIO=4&transport=polling").await;
    assert!(polling.starts_with('0'));
    let address = node.public;
    let started = Instant::now();
    let told: Vec<_> = clients
        .into_iter()
        .map(|mut client| {
            tokio::spawn(async move {
                let told = client.until("draining").await;
                assert!(told[0]["delay_ms"].as_u64().is_some_and(|delay| delay <= 3_000), "{told:?}");
                assert!(client.is_closed_by_server().await);
            })
        })
        .collect();
    node.stop().await;
    assert!(started.elapsed() < Duration::from_secs(4), "{:?}", started.elapsed());
    for client in told {
        client.await.expect("told and closed");
    }
    assert!(TcpStream::connect(address).await.is_err(), "still listening");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn probes_and_metrics_answer_on_the_admin_listener_alone() {
    let node = node(&[]).await;
    assert_eq!(crate::support::get(node.admin, "/livez").await, (200, "ok\n".into()));
    assert_eq!(crate::support::get(node.admin, "/readyz").await, (200, r#"{"ready":true}"#.into()));
    let (status, text) = crate::support::get(node.admin, "/metrics").await;
    assert!(status == 200 && text.contains("duet_ready 1") && text.contains("duet_build_info"), "{text}");
    let (_, page) = crate::support::get(node.public, "/metrics").await;
    assert!(!page.contains("duet_ready"));
    node.stop().await;
}
