//! A receiver that is too slow is closed after a bounded number of bytes, its sender is told, its seat is free.

use std::time::{Duration, Instant};

use crate::support::{Client, Heard, metric, node, pair, seat, wait_until};
use serde_json::json;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_receiver_that_stops_reading_is_closed_and_its_sender_told() {
    let node = node(&[("DUET_LIMITS__OUTBOUND_BYTES", "262144")]).await;
    let (mut sender, mut receiver) = (Client::connect(&node).await, Client::connect_small(&node).await);
    seat(&mut sender, &mut receiver, "slow").await;

    // From here on the receiver reads nothing.
    let stopped = Instant::now();
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
    assert_eq!((&refusal["code"], &refusal["retryable"]), (&json!("peer_too_slow"), &json!(true)));
    let bye = sender.until("bye").await;
    assert_eq!(bye, [json!("slow"), json!({"id": receiver.id, "reason": "too_slow"})]);
    assert!(stopped.elapsed() < Duration::from_secs(30));

    // The seat can be taken by another.
    let mut next = Client::connect(&node).await;
    next.emit(&json!(["create or join", "slow"])).await;
    next.expect("joined").await;

    // What was accepted is there if the receiver reads at last, in order, with the reason at the end.
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
async fn a_receiver_that_is_busy_for_two_seconds_loses_nothing() {
    let node = node(&[("DUET_LIMITS__OUTBOUND_BYTES", "65536")]).await;
    let (mut sender, mut receiver) = (Client::connect(&node).await, Client::connect_small(&node).await);
    seat(&mut sender, &mut receiver, "busy").await;
    let sending = tokio::spawn(async move {
        for n in 0..300 {
            sender.emit(&json!(["message", n, "x".repeat(10_000)])).await;
        }
        sender
    });
    let node = &node;
    wait_until("the sender waits", || async move { metric(node, "duet_sender_pauses_total").await > 0 }).await;
    // What is simulated is time that passes without a read.
    tokio::time::sleep(Duration::from_secs(2)).await;
    for n in 0..300 {
        assert_eq!(receiver.expect("message").await[0], n);
    }
    sending.await.expect("sent");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_receiver_that_never_reads_again_does_not_stay() {
    let node = node(&[("DUET_TIMEOUTS__WRITE_STALL", "2s"), ("DUET_LIMITS__OUTBOUND_BYTES", "65536")]).await;
    let (mut sender, mut receiver) = (Client::connect(&node).await, Client::connect_small(&node).await);
    seat(&mut sender, &mut receiver, "never").await;
    while sender.call(&json!(["message", "x".repeat(10_000)])).await["ok"] == true {}
    sender.until("bye").await;
    let node = &node;
    wait_until("its connection is gone", || async move { metric(node, "duet_websockets").await == 1 }).await;
    wait_until("its socket is gone", || async move { metric(node, "duet_sockets").await == 1 }).await;
    drop(receiver);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_takes_nothing_loses_its_seat_even_when_little_waits() {
    // Enough to fill what the kernel holds, but not the queue: the connection alone has to notice.
    let node = node(&[
        ("DUET_TIMEOUTS__WRITE_STALL", "2s"),
        ("DUET_LIMITS__OUTBOUND_BYTES", "1073741824"),
        ("DUET_TIMEOUTS__PING_TIMEOUT", "60s"),
    ])
    .await;
    let (mut sender, mut receiver) = (Client::connect(&node).await, Client::connect_small(&node).await);
    seat(&mut sender, &mut receiver, "stall").await;
    for _ in 0..800 {
        sender.emit(&json!(["message", "x".repeat(10_000)])).await;
    }
    let bye = sender.until("bye").await;
    assert_eq!(bye[1]["reason"], "disconnected");
    assert!(metric(&node, "duet_stalled_connections_total").await >= 1);
    drop(receiver);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_never_reads_its_own_answers_is_closed() {
    let node = node(&[("DUET_LIMITS__OUTBOUND_BYTES", "65536"), ("DUET_TIMEOUTS__WRITE_STALL", "2s")]).await;
    let mut deaf = Client::connect_small(&node).await;
    let request = format!(r#"42["{}"]"#, "x".repeat(4_000));
    let before = Instant::now();
    let node = &node;
    // Each is refused with an answer that nobody reads.
    let talking = async {
        loop {
            deaf.send_text(&request).await;
        }
    };
    tokio::select! {
        () = talking => {}
        () = wait_until("it is closed", || async move { metric(node, "duet_sockets").await == 0 }) => {}
    }
    assert!(before.elapsed() < Duration::from_secs(30));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn log_events_never_close_a_slow_client() {
    let node = node(&[("DUET_COMPAT__CLIENT_LOG", "true")]).await;
    let (mut sender, mut receiver) = (Client::connect_small(&node).await, Client::connect(&node).await);
    sender.emit(&json!(["create or join", "log"])).await;
    sender.until("created").await;
    receiver.emit(&json!(["create or join", "log"])).await;
    receiver.until("ready").await;
    sender.until("ready").await;
    // The sender reads nothing of what the server tells it about its messages.
    let count = 2_000;
    for n in 0..count {
        sender.emit(&json!(["message", n, "x".repeat(2_000)])).await;
    }
    for n in 0..count {
        assert_eq!(receiver.until("message").await[0], n);
    }
    assert!(metric(&node, "duet_log_drops_total").await > 0);
    // It is still there, and can be told the important things.
    assert_eq!(sender.call(&json!(["ready", "log"])).await, json!({"ok": true}));
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn waiting_for_one_receiver_does_not_stop_a_pair_elsewhere() {
    let node = node(&[("DUET_LIMITS__OUTBOUND_BYTES", "65536")]).await;
    let (mut flooding, mut slow) = (Client::connect(&node).await, Client::connect_small(&node).await);
    seat(&mut flooding, &mut slow, "flood").await;
    let (mut a, mut b) = pair(&node, "calm").await;
    let flood =
        tokio::spawn(
            async move { while flooding.call(&json!(["message", "x".repeat(10_000)])).await["ok"] == true {} },
        );
    for n in 0..200 {
        a.emit(&json!(["message", n])).await;
        assert_eq!(b.expect("message").await, [json!(n)]);
    }
    flood.await.expect("ended");
    drop(slow);
}
