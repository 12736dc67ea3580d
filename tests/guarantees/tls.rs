//! HTTPS in the process: everything works over it, certificates are replaced without a restart, and a connection that never
//! finishes its handshake holds nothing.

use std::{
    fs,
    time::{Duration, Instant},
};

use duet::node::Node;
use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
};
use tokio_tungstenite::{MaybeTlsStream, client_async, tungstenite::Message};

use crate::support::{
    Client, Heard, PATIENCE, get, metric, node, process::NodeProcess, seat, tls::Authority, wait_until,
};

async fn secure(authority: &Authority, more: &[(&str, &str)]) -> Node {
    let settings = authority.settings();
    let mut all: Vec<(&str, &str)> = settings.iter().map(|(key, value)| (&**key, &**value)).collect();
    all.extend(more);
    node(&all).await
}

async fn client(authority: &Authority, node: &Node) -> Client {
    Client::on(node.public, MaybeTlsStream::Rustls(authority.connect(node.public).await)).await
}

/// With a small receive buffer, so that little is on its way to it in the kernel.
async fn small_client(authority: &Authority, node: &Node) -> Client {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.set_recv_buffer_size(4096).expect("a small buffer");
    let stream = socket.connect(node.public).await.expect("connected");
    Client::on(node.public, MaybeTlsStream::Rustls(authority.over(stream, &[]).await.expect("TLS"))).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_goes_over_tls_with_messages_of_any_size_in_order() {
    let authority = Authority::new();
    let node = secure(&authority, &[("DUET_SERVER__HSTS", "180d")]).await;
    let (mut a, mut b) = (client(&authority, &node).await, client(&authority, &node).await);
    seat(&mut a, &mut b, "r").await;
    let sizes = [1, 100, 16_383, 16_384, 16_385, 40_000, 70_000, 300_000];
    for (n, size) in sizes.into_iter().enumerate() {
        a.emit(&json!(["message", n, "x".repeat(size)])).await;
    }
    for (n, size) in sizes.into_iter().enumerate() {
        let heard = b.expect("message").await;
        assert_eq!((&heard[0], heard[1].as_str().map(str::len)), (&json!(n), Some(size)));
    }
    b.send_text(r#"451-["message",{"_placeholder":true,"num":0}]"#).await;
    b.send_binary(vec![7; 50_000]).await;
    a.expect("message").await;
    assert_eq!(a.binary().await, vec![7; 50_000]);
    // Both directions at once.
    let (there, back) = tokio::join!(
        async {
            for n in 0..2_000 {
                a.emit(&json!(["message", n])).await;
            }
            a
        },
        async {
            for n in 0..2_000 {
                b.emit(&json!(["message", n])).await;
            }
            b
        },
    );
    let (mut a, mut b) = (there, back);
    for n in 0..2_000 {
        assert_eq!(a.expect("message").await[0], n);
        assert_eq!(b.expect("message").await[0], n);
    }
    let text = authority.get(node.public, "/").await;
    assert!(text.starts_with("HTTP/1.1 200") && text.contains("<html"), "{text}");
    assert!(text.contains("strict-transport-security: max-age=15552000\r\n"), "{text}");
    assert!(metric(&node, "duet_sent_bytes_total").await > 600_000);
    node.stop().await;
    // A drain says its word, and ends the connection as TLS has it.
    assert_eq!(a.until("draining").await.len(), 1);
    assert!(a.is_closed_by_server().await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn polling_and_the_upgrade_from_it_go_over_tls() {
    let authority = Authority::new();
    let node = secure(&authority, &[("DUET_COMPAT__IPADDR", "192.0.2.1")]).await;
    let poll = "/socket.io/?EIO=4&transport=polling";
    let opened = authority.get(node.public, poll).await;
    let open: Value = serde_json::from_str(&opened[opened.find('{').expect("JSON")..]).expect("JSON");
    let poll = format!("{poll}&sid={}", open["sid"].as_str().expect("an id"));
    let post = async |body: &str| {
        let head = format!("POST {poll} HTTP/1.1\r\nHost: test\r\nConnection: close\r\nContent-Length: {}", body.len());
        let answer = authority.http(node.public, &format!("{head}\r\n\r\n{body}")).await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    };
    post("40").await;
    assert!(authority.get(node.public, &poll).await.contains("40{\"sid\""));
    post(r#"421["create or join","r"]"#).await;
    let heard = authority.get(node.public, &poll).await;
    assert!(heard.contains(r#"42["created","r","#) && heard.contains(r#"431[{"ok":true"#), "{heard}");

    let url = format!("wss://localhost{poll}").replace("polling", "websocket");
    let (mut socket, _) = client_async(url, authority.connect(node.public).await).await.expect("a WebSocket");
    socket.send(Message::text("2probe")).await.expect("sent");
    assert_eq!(socket.next().await.expect("open").expect("a frame"), Message::text("3probe"));
    socket.send(Message::text("5")).await.expect("sent");
    socket.send(Message::text(r#"42["ipaddr"]"#)).await.expect("sent");
    let heard = tokio::time::timeout(PATIENCE, async {
        loop {
            let frame = socket.next().await.expect("open").expect("a frame");
            if frame.to_text().is_ok_and(|text| text.starts_with("42")) {
                return frame;
            }
        }
    });
    assert_eq!(heard.await.expect("in time"), Message::text(r#"42["ipaddr","192.0.2.1"]"#));
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_receiver_over_tls_that_stops_reading_is_closed_and_what_was_accepted_is_there_with_the_reason_last() {
    let authority = Authority::new();
    let node = secure(&authority, &[("DUET_LIMITS__OUTBOUND_BYTES", "262144")]).await;
    let (mut sender, mut receiver) = (client(&authority, &node).await, small_client(&authority, &node).await);
    seat(&mut sender, &mut receiver, "slow").await;
    let message = json!(["message", "x".repeat(10_000)]);
    let mut accepted = 0_usize;
    let refusal = loop {
        let answer = sender.call(&message).await;
        if answer["ok"] == false {
            break answer;
        }
        accepted += 10_000;
        assert!(accepted < 8 << 20, "{accepted} bytes and still no end");
    };
    assert_eq!(refusal["code"], "peer_too_slow");
    assert_eq!(sender.until("bye").await[1]["reason"], "too_slow");
    let mut heard = 0_usize;
    let reason = loop {
        match receiver.hear().await {
            Heard::Event(name, arguments) if name == "message" => heard += arguments[0].as_str().expect("text").len(),
            Heard::Event(name, arguments) if name == "rejected" => break arguments,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!((heard, &reason[0]["code"]), (accepted, &json!("too_slow")));
    assert!(receiver.is_closed_by_server().await);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_receiver_over_tls_that_is_busy_makes_its_sender_wait_and_loses_nothing() {
    let authority = Authority::new();
    let node = secure(&authority, &[("DUET_LIMITS__OUTBOUND_BYTES", "65536")]).await;
    let (mut sender, mut receiver) = (client(&authority, &node).await, small_client(&authority, &node).await);
    seat(&mut sender, &mut receiver, "busy").await;
    let sending = tokio::spawn(async move {
        for n in 0..300 {
            sender.emit(&json!(["message", n, "x".repeat(10_000)])).await;
        }
        sender
    });
    let node = &node;
    wait_until("the sender waits", || async move { metric(node, "duet_sender_pauses_total").await > 0 }).await;
    for n in 0..300 {
        assert_eq!(receiver.expect("message").await[0], n);
    }
    sending.await.expect("sent");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_receiver_over_tls_that_never_reads_again_does_not_stay() {
    let authority = Authority::new();
    let stall = [("DUET_TIMEOUTS__WRITE_STALL", "2s"), ("DUET_LIMITS__OUTBOUND_BYTES", "65536")];
    let node = secure(&authority, &stall).await;
    let (mut sender, mut receiver) = (client(&authority, &node).await, small_client(&authority, &node).await);
    seat(&mut sender, &mut receiver, "never").await;
    while sender.call(&json!(["message", "x".repeat(10_000)])).await["ok"] == true {}
    sender.until("bye").await;
    let node = &node;
    wait_until("its connection is gone", || async move { metric(node, "duet_websockets").await == 1 }).await;
    wait_until("its socket is gone", || async move { metric(node, "duet_sockets").await == 1 }).await;
    drop(receiver);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_handshake_that_is_never_finished_is_cut_and_holds_nothing() {
    let authority = Authority::new();
    let node = secure(&authority, &[("DUET_TIMEOUTS__HANDSHAKE", "1s")]).await;
    // A handshake record of 512 bytes, of which a few come.
    for bytes in [&b""[..], &[22], &[22, 3, 1, 2, 0, 1, 0, 1, 252, 3, 3]] {
        let mut stream = TcpStream::connect(node.public).await.expect("connected");
        let since = Instant::now();
        stream.write_all(bytes).await.expect("sent");
        let mut answer = Vec::new();
        tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer)).await.expect("closed at last").ok();
        let kept = since.elapsed();
        assert!((Duration::from_millis(500)..Duration::from_secs(5)).contains(&kept), "{bytes:?}: {kept:?}");
    }
    // The handshake done, and no request.
    let mut stream = authority.connect(node.public).await;
    let since = Instant::now();
    tokio::time::timeout(PATIENCE, stream.read_to_end(&mut Vec::new())).await.expect("closed at last").ok();
    assert!(since.elapsed() < Duration::from_secs(5), "{:?}", since.elapsed());
    let node = &node;
    wait_until("none is open", || async move { metric(node, "duet_http_connections").await == 0 }).await;
    assert_eq!(metric(node, "duet_tls_handshakes_total{outcome=\"late\"}").await, 3);
    assert_eq!(metric(node, "duet_tls_handshakes_total{outcome=\"finished\"}").await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn half_handshakes_do_not_keep_a_node_from_stopping() {
    let authority = Authority::new();
    let node = secure(&authority, &[("DUET_TIMEOUTS__HANDSHAKE", "1m"), ("DUET_TIMEOUTS__DRAIN", "20s")]).await;
    let mut stream = TcpStream::connect(node.public).await.expect("connected");
    stream.write_all(&[22, 3, 1]).await.expect("sent");
    let since = Instant::now();
    node.stop().await;
    assert!(since.elapsed() < Duration::from_secs(15), "{:?}", since.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn plain_http_to_the_tls_port_gets_an_answer_that_says_so_and_noise_gets_an_end() {
    let authority = Authority::new();
    let node = secure(&authority, &[]).await;
    let (status, body) = get(node.public, "/").await;
    assert_eq!((status, body.as_str()), (400, "this port speaks https://"));
    let mut stream = TcpStream::connect(node.public).await.expect("connected");
    stream.write_all(&[22, 255, 255, 0, 5, 1, 2, 3, 4, 5]).await.expect("sent");
    tokio::time::timeout(PATIENCE, stream.read_to_end(&mut Vec::new())).await.expect("an end").ok();
    let node = &node;
    let failed = "duet_tls_handshakes_total{outcome=\"failed\"}";
    wait_until("both are counted", || async move { metric(node, failed).await == 2 }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_proxy_says_who_the_client_is_before_tls_begins() {
    let authority = Authority::new();
    let settings = [
        ("DUET_SERVER__PROXY_PROTOCOL", "on"),
        ("DUET_SERVER__TRUSTED_PROXIES", "127.0.0.1"),
        ("DUET_LIMITS__SOCKETS_PER_ADDRESS", "1"),
    ];
    let node = secure(&authority, &settings).await;
    let announced = async |client: &str| {
        let mut stream = TcpStream::connect(node.public).await.expect("connected");
        let header = format!("PROXY TCP4 {client} 127.0.0.1 1000 443\r\n");
        stream.write_all(header.as_bytes()).await.expect("sent");
        MaybeTlsStream::Rustls(authority.over(stream, &[]).await.expect("TLS"))
    };
    let (mut a, mut b) = (
        Client::on(node.public, announced("192.0.2.1").await).await,
        Client::on(node.public, announced("192.0.2.2").await).await,
    );
    seat(&mut a, &mut b, "r").await;
    let url = "wss://localhost/socket.io/?EIO=4&transport=websocket";
    assert!(client_async(url, announced("192.0.2.2").await).await.is_err(), "the client's address counts");
    assert_eq!(a.call(&json!(["message", 1])).await, json!({"ok": true}));
    assert_eq!(b.expect("message").await, [json!(1)]);
    // Header and handshake in one piece, as a proxy may well send them.
    let mut proxy = TcpStream::connect(node.public).await.expect("connected");
    proxy
        .write_all(b"PROXY TCP4 192.0.2.3 127.0.0.1 1000 443\r\n\x16\x03\x01\x00\x05\x01\x00\x00\x01\x00")
        .await
        .expect("sent");
    let mut answer = Vec::new();
    tokio::time::timeout(PATIENCE, proxy.read_to_end(&mut answer)).await.expect("an end").expect("an answer");
    assert_eq!(answer.first(), Some(&21), "an alert, so the handshake was read as one: {answer:?}");
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_over_tls_is_delayed_like_any_other() {
    let authority = Authority::new();
    let node = secure(&authority, &[("DUET_LIMITS__FRAMES", "100/s burst 50")]).await;
    let (mut a, mut b) = (client(&authority, &node).await, client(&authority, &node).await);
    seat(&mut a, &mut b, "r").await;
    for n in 0..250 {
        a.emit(&json!(["message", n])).await;
    }
    for n in 0..250 {
        assert_eq!(b.expect("message").await, [json!(n)]);
    }
    assert!(metric(&node, r#"duet_limited_total{by="delay",limit="frames"}"#).await > 0);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_but_http_1_is_agreed_on() {
    let authority = Authority::new();
    let node = secure(&authority, &[]).await;
    let to = async || TcpStream::connect(node.public).await.expect("connected");
    let stream = authority.over(to().await, &["h2", "http/1.1"]).await.expect("TLS");
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"http/1.1"[..]));
    assert!(authority.over(to().await, &["h2"]).await.is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sighup_puts_a_new_certificate_into_force_and_an_old_websocket_goes_on() {
    let authority = Authority::new();
    let mut settings = authority.settings();
    settings.push(("DUET_TLS__WATCH".into(), "0s".into()));
    let mut node = NodeProcess::start("", &settings).await;
    let old = authority.current();
    assert_eq!(authority.shown(node.public).await, old);
    let connect = async || Client::on(node.public, MaybeTlsStream::Rustls(authority.connect(node.public).await)).await;
    let (mut a, mut b) = (connect().await, connect().await);
    seat(&mut a, &mut b, "r").await;
    let ends = node.metric("duet_tls_certificate_expiry_seconds").await;

    authority.issue(30);
    assert_eq!(authority.shown(node.public).await, old, "not before anybody asks for it");
    node.hang_up();
    let new = authority.current();
    assert_ne!(old, new);
    let (authority, running) = (&authority, &node);
    wait_until("new connections see it", || async { authority.shown(running.public).await == new }).await;
    let later = node.metric("duet_tls_certificate_expiry_seconds").await - ends;
    assert!((27.0..29.0).contains(&(later / 86_400.0)), "{later}");
    assert_eq!(a.call(&json!(["message", "still here"])).await, json!({"ok": true}));
    assert_eq!(b.expect("message").await, [json!("still here")]);

    // A broken one is refused with a line that names it, and the one in force stays.
    let refused = "duet_reloads_total{outcome=\"refused\"}";
    for (broken, says) in [("no certificate", "server.crt"), ("", "server.crt")] {
        let before = node.metric(refused).await;
        fs::write(authority.certificate(), broken).expect("written");
        node.hang_up();
        let running = &node;
        wait_until("it is refused", || async { running.metric(refused).await > before }).await;
        let line = node.line("settings were read again and refused; nothing changed").expect("a line");
        assert!(line["error"].as_str().is_some_and(|error| error.contains(says)), "{line}");
        assert!(authority.shown(node.public).await == new);
    }
    // The key of another: the old certificate comes back, its key does not.
    let before = node.metric(refused).await;
    let (certificate, key) = (authority.certificate(), authority.key());
    let other_key = fs::read(&key).expect("a key");
    authority.issue(30);
    fs::write(&key, other_key).expect("written");
    node.hang_up();
    let running = &node;
    wait_until("it is refused", || async { running.metric(refused).await > before }).await;
    assert!(authority.shown(node.public).await == new);
    assert!(fs::read(certificate).is_ok());
    // One that has expired.
    let before = node.metric(refused).await;
    authority.expire();
    node.hang_up();
    let running = &node;
    wait_until("it is refused", || async { running.metric(refused).await > before }).await;
    assert_eq!(b.call(&json!(["message", "and here"])).await, json!({"ok": true}));
    assert!(!node.log().contains("PRIVATE KEY"));
    node.terminate();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_that_change_are_taken_without_a_signal_and_broken_ones_are_complained_of_once() {
    let authority = Authority::new();
    let mut settings = authority.settings();
    settings.push(("DUET_TLS__WATCH".into(), "100ms".into()));
    let node = NodeProcess::start("", &settings).await;
    authority.issue(30);
    let new = authority.current();
    let (authority, node) = (&authority, &node);
    wait_until("new connections see it", || async { authority.shown(node.public).await == new }).await;
    let refused = "duet_tls_certificate_changes_total{outcome=\"refused\"}";
    fs::write(authority.key(), "no key").expect("written");
    wait_until("it is refused", || async { node.metric(refused).await >= 1.0 }).await;
    let complaint = "the new TLS certificate cannot be used; the old one stays";
    let lines = || node.log().lines().filter(|line| line.contains(complaint)).count();
    let said = lines();
    // Time for some ten further looks.
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(lines(), said, "said once");
    assert!(authority.shown(node.public).await == new);
    authority.issue(60);
    let newer = authority.current();
    wait_until("a good pair is taken after a broken one", || async { authority.shown(node.public).await == newer })
        .await;
}
