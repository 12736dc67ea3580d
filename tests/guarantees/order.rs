//! What one socket sends arrives at its peer in the order it was sent, none lost, none twice.

use crate::support::{Client, Heard, node, pair, seat};
use serde_json::json;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn five_thousand_messages_back_to_back_arrive_in_order() {
    let node = node(&[]).await;
    let (mut sender, mut receiver) = pair(&node, "order").await;
    let padding = "x".repeat(560);
    let sending = tokio::spawn(async move {
        for n in 0..5_000 {
            sender.emit(&json!(["message", {"n": n, "padding": padding}])).await;
        }
        sender
    });
    for n in 0..5_000 {
        assert_eq!(receiver.expect("message").await[0]["n"], n);
    }
    sending.await.expect("sent");
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_burst_larger_than_the_receivers_bound_arrives_whole() {
    let node = node(&[("DUET_LIMITS__OUTBOUND_BYTES", "65536")]).await;
    let (mut sender, mut receiver) = pair(&node, "burst").await;
    let padding = "x".repeat(2_000);
    let sending = tokio::spawn(async move {
        for n in 0..5_000 {
            sender.emit(&json!(["message", n, padding])).await;
        }
        sender
    });
    for n in 0..5_000 {
        assert_eq!(receiver.expect("message").await[0], n);
    }
    sending.await.expect("sent");
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_of_all_kinds_keep_their_order() {
    let node = node(&[]).await;
    let (mut sender, mut receiver) = pair(&node, "kinds").await;
    for n in 0..200 {
        sender.emit(&json!(["offer", {"type": "offer", "sdp": {"n": n}, "room": "kinds"}])).await;
        sender.emit(&json!(["candidate", {"type": "candidate", "label": 0, "id": "0", "candidate": n.to_string(), "room": "kinds"}])).await;
        sender.emit(&json!(["message", n])).await;
        sender.emit(&json!(["ready", "kinds"])).await;
        sender.emit(&json!(["answer", {"type": "answer", "sdp": {"n": n}, "room": "kinds"}])).await;
    }
    sender.emit(&json!(["bye", "kinds"])).await;
    for n in 0..200 {
        assert_eq!(receiver.expect("offer").await, [json!({"n": n})]);
        assert_eq!(receiver.expect("candidate").await[0]["candidate"], n.to_string());
        assert_eq!(receiver.expect("message").await, [json!(n)]);
        assert_eq!(receiver.expect("ready").await, [json!("kinds")]);
        assert_eq!(receiver.expect("answer").await, [json!({"n": n})]);
    }
    let bye = receiver.expect("bye").await;
    assert_eq!(bye, [json!("kinds"), json!({"id": sender.id, "reason": "left"})]);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_first_event_of_a_client_is_never_lost() {
    let node = node(&[]).await;
    let mut tasks = tokio::task::JoinSet::new();
    let address = node.public;
    for n in 0..300 {
        tasks.spawn(async move {
            use futures_util::{SinkExt, StreamExt};
            use tokio_tungstenite::tungstenite::Message;
            let url = format!("ws://{address}/socket.io/?EIO=4&transport=websocket");
            let (mut stream, _) = tokio_tungstenite::connect_async(url).await.expect("connected");
            stream.feed(Message::text("40")).await.expect("sent");
            stream.flush().await.expect("sent");
            while let Some(Ok(Message::Text(text))) = stream.next().await {
                if text.starts_with("40") {
                    // At once: the server has only just said that this client is connected.
                    stream.send(Message::text(format!(r#"42["create or join","first-{n}"]"#))).await.expect("sent");
                } else if text.starts_with("42") {
                    assert!(text.contains("created"), "{text}");
                    return;
                }
            }
            panic!("closed before an answer");
        });
    }
    while let Some(done) = tasks.join_next().await {
        done.expect("answered");
    }
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn join_and_joined_come_before_ready_and_ready_before_anything_relayed() {
    let node = node(&[]).await;
    for round in 0..100 {
        let room = format!("greeting-{round}");
        let (mut first, mut second) = (Client::connect(&node).await, Client::connect(&node).await);
        first.emit(&json!(["create or join", room])).await;
        first.expect("created").await;
        // The first one talks all the time, whether anybody is there or not.
        let talking = tokio::spawn(async move {
            let mut heard = Vec::new();
            while first.call(&json!(["message", "are you there?"])).await["ok"] == false {}
            while heard.last().map(String::as_str) != Some("ready") {
                heard.push(first.hear().await.name().to_owned());
            }
            (first, heard)
        });
        second.emit(&json!(["create or join", room])).await;
        second.expect("joined").await;
        second.expect("ready").await;
        assert!(matches!(second.hear().await, Heard::Event(name, _) if name == "message"));
        let (_first, heard) = talking.await.expect("talked");
        assert_eq!(heard, ["join", "ready"], "round {round}");
    }
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_said_before_the_end_arrives_before_the_end() {
    let node = node(&[]).await;
    let (mut leaver, mut stayer) = pair(&node, "end").await;
    for n in 0..500 {
        leaver.emit(&json!(["message", n])).await;
    }
    leaver.send_text("41").await;
    for n in 0..500 {
        assert_eq!(stayer.expect("message").await, [json!(n)]);
    }
    assert_eq!(stayer.expect("bye").await[1]["reason"], "disconnected");
    let mut next = Client::connect(&node).await;
    next.emit(&json!(["create or join", "end"])).await;
    next.expect("joined").await;
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_socket_in_two_rooms_reaches_the_peer_of_each() {
    let node = node(&[]).await;
    let (mut middle, mut left) = pair(&node, "left").await;
    let mut right = Client::connect(&node).await;
    seat(&mut middle, &mut right, "right").await;
    assert_eq!(middle.call(&json!(["message", "both"])).await, json!({"ok": true}));
    assert_eq!(left.expect("message").await, [json!("both")]);
    assert_eq!(right.expect("message").await, [json!("both")]);
    assert_eq!(middle.call(&json!(["ready", "right"])).await, json!({"ok": true}));
    assert_eq!(right.expect("ready").await, [json!("right")]);
    // `bye` without a room leaves both.
    assert_eq!(middle.call(&json!(["bye"])).await, json!({"ok": true}));
    assert_eq!(left.expect("bye").await[0], "left");
    assert_eq!(right.expect("bye").await[0], "right");
    assert_eq!(middle.call(&json!(["message", "nobody"])).await["code"], "not_in_room");
    node.stop().await;
}
