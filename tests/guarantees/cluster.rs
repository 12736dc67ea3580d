//! Several nodes are one service: which node a peer reached makes no difference to it.

use serde_json::json;

use crate::support::{
    Client, Heard,
    chaos::{ChaosProxy, Mode},
    cluster::{Cluster, lease, quick},
    metric,
    redis::{Redis, RedisOptions},
    seat, wait_until,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_peers_on_two_nodes_talk_and_a_third_is_told_full() {
    let redis = Redis::start(RedisOptions::default()).await;
    let cluster = Cluster::start(&redis.url(), 3, &quick()).await;
    let (mut a, mut b) = (Client::connect(&cluster[0]).await, Client::connect(&cluster[1]).await);
    seat(&mut a, &mut b, "r").await;
    let mut third = Client::connect(&cluster[2]).await;
    assert_eq!(third.call(&json!(["create or join", "r"])).await["code"], "full");
    assert_eq!(third.call(&json!(["message", "x"])).await["code"], "not_in_room");
    assert_eq!(a.call(&json!(["message", {"n": 1}, "more"])).await, json!({"ok": true}));
    assert_eq!(b.expect("message").await, [json!({"n": 1}), json!("more")]);
    assert_eq!(b.call(&json!(["offer", {"type": "offer", "sdp": "v=0", "room": "r"}])).await, json!({"ok": true}));
    assert_eq!(a.expect("offer").await, [json!("v=0")]);
    assert_eq!(b.call(&json!(["bye", "r"])).await, json!({"ok": true}));
    assert_eq!(a.expect("bye").await, [json!("r"), json!({"id": b.id, "reason": "left"})]);
    assert_eq!(a.call(&json!(["message", "x"])).await["code"], "no_peer");
    // Without an acknowledgement, and so without a token to come back with.
    third.emit(&json!(["create or join", "r"])).await;
    third.until("joined").await;
    a.expect("join").await;
    a.expect("ready").await;
    // A closed connection frees the seat as well, and the other node's peer hears why.
    drop(third);
    third = Client::connect(&cluster[1]).await;
    assert_eq!(a.expect("bye").await[1]["reason"], "disconnected");
    seat_second(&mut a, &mut third, "r").await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_goes_to_the_node_of_its_peer_and_to_no_other() {
    let redis = Redis::start(RedisOptions::default()).await;
    let cluster = Cluster::start(&redis.url(), 3, &quick()).await;
    let (mut a, mut b) = (Client::connect(&cluster[0]).await, Client::connect(&cluster[1]).await);
    seat(&mut a, &mut b, "r").await;
    for n in 0..100 {
        assert_eq!(a.call(&json!(["message", n])).await, json!({"ok": true}));
        assert_eq!(b.expect("message").await, [json!(n)]);
    }
    let frames = async |node| metric(node, "duet_bus_frames_received_total").await;
    assert!(frames(&cluster[1]).await >= 100);
    assert_eq!(frames(&cluster[2]).await, 0);
    // Nor does one between two peers of a node go anywhere.
    let before = frames(&cluster[0]).await + frames(&cluster[1]).await;
    let (mut c, mut d) = (Client::connect(&cluster[2]).await, Client::connect(&cluster[2]).await);
    seat(&mut c, &mut d, "local").await;
    assert_eq!(c.call(&json!(["message", 1])).await, json!({"ok": true}));
    assert_eq!(frames(&cluster[2]).await, 0);
    assert!(frames(&cluster[0]).await + frames(&cluster[1]).await <= before + 2, "receipts alone");
    cluster.stop().await;
}

async fn seat_second(first: &mut Client, second: &mut Client, room: &str) {
    assert_eq!(second.call(&json!(["create or join", room])).await["outcome"], "joined");
    second.expect("joined").await;
    second.expect("ready").await;
    first.expect("join").await;
    first.expect("ready").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn five_thousand_messages_back_to_back_arrive_in_order_across_nodes() {
    let redis = Redis::start(RedisOptions::default()).await;
    let cluster = Cluster::start(&redis.url(), 2, &quick()).await;
    let (mut a, mut b) = (Client::connect(&cluster[0]).await, Client::connect(&cluster[1]).await);
    seat(&mut a, &mut b, "order").await;
    let padding = "x".repeat(560);
    let sending = tokio::spawn(async move {
        for n in 0..5_000 {
            a.emit(&json!(["message", {"n": n, "padding": padding}])).await;
        }
        a
    });
    for n in 0..5_000 {
        assert_eq!(b.expect("message").await[0]["n"], n);
    }
    let mut a = sending.await.expect("sent");
    a.emit(&json!(["bye"])).await;
    assert_eq!(b.expect("bye").await[1]["reason"], "left");
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn binary_crosses_nodes_as_it_is() {
    let redis = Redis::start(RedisOptions::default()).await;
    let cluster = Cluster::start(&redis.url(), 2, &quick()).await;
    let (mut a, mut b) = (Client::connect(&cluster[0]).await, Client::connect(&cluster[1]).await);
    seat(&mut a, &mut b, "binary").await;
    a.send_text(r#"451-["message",{"_placeholder":true,"num":0}]"#).await;
    a.send_binary(vec![0, 1, 2, 255]).await;
    assert_eq!(b.expect("message").await, [json!({"_placeholder": true, "num": 0})]);
    assert_eq!(b.binary().await, [0, 1, 2, 255]);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_on_all_nodes_at_once_get_two_seats() {
    let redis = Redis::start(RedisOptions::default()).await;
    let cluster = Cluster::start(&redis.url(), 3, &quick()).await;
    for round in 0..10 {
        let room = format!("race-{round}");
        let mut clients = Vec::new();
        for n in 0..12 {
            clients.push(Client::connect(&cluster[n % 3]).await);
        }
        let tasks: Vec<_> = clients
            .into_iter()
            .map(|mut client| {
                let room = room.clone();
                tokio::spawn(async move {
                    let answer = client.call(&json!(["create or join", room])).await;
                    (client, answer)
                })
            })
            .collect();
        let (mut outcomes, mut seated) = (Vec::new(), Vec::new());
        for task in tasks {
            let (client, answer) = task.await.expect("asked");
            if answer["ok"] == true {
                outcomes.push(answer["outcome"].as_str().expect("an outcome").to_owned());
                seated.push(client);
            } else {
                assert_eq!(answer["code"], "full");
            }
        }
        outcomes.sort();
        assert_eq!(outcomes, ["created", "joined"], "round {round}");
        for client in &mut seated {
            client.until("ready").await;
        }
        let [a, b] = &mut seated[..] else { panic!("two") };
        assert_eq!(a.call(&json!(["message", "hello"])).await, json!({"ok": true}));
        assert_eq!(b.expect("message").await, [json!("hello")]);
    }
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_receiver_on_another_node_that_stops_reading_is_closed_and_its_sender_told() {
    let redis = Redis::start(RedisOptions::default()).await;
    let mut settings = quick();
    settings.push(("DUET_LIMITS__OUTBOUND_BYTES".into(), "262144".into()));
    let cluster = Cluster::start(&redis.url(), 2, &settings).await;
    let (mut sender, mut receiver) = (Client::connect(&cluster[0]).await, Client::connect_small(&cluster[1]).await);
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
    assert_eq!((&refusal["code"], &refusal["retryable"]), (&json!("peer_too_slow"), &json!(true)));
    assert_eq!(sender.until("bye").await[1]["reason"], "too_slow");
    // What was accepted is there, in order, with the reason at the end.
    let mut heard = 0_usize;
    let reason = loop {
        match receiver.hear().await {
            Heard::Event(name, arguments) if name == "message" => heard += arguments[0].as_str().expect("text").len(),
            Heard::Event(name, arguments) if name == "rejected" => break arguments,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!((heard, &reason[0]["code"]), (accepted, &json!("too_slow")));
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_burst_larger_than_all_bounds_arrives_whole_across_nodes() {
    let redis = Redis::start(RedisOptions::default()).await;
    let mut settings = quick();
    settings.push(("DUET_LIMITS__OUTBOUND_BYTES".into(), "65536".into()));
    let cluster = Cluster::start(&redis.url(), 2, &settings).await;
    let (mut a, mut b) = (Client::connect(&cluster[0]).await, Client::connect_small(&cluster[1]).await);
    seat(&mut a, &mut b, "burst").await;
    let padding = "x".repeat(2_000);
    let sending = tokio::spawn(async move {
        for n in 0..3_000 {
            a.emit(&json!(["message", n, padding])).await;
        }
        a
    });
    for n in 0..3_000 {
        assert_eq!(b.expect("message").await[0], n);
    }
    sending.await.expect("sent");
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_that_stop_in_order_leave_nothing_in_redis_but_their_state() {
    let redis = Redis::start(RedisOptions::default()).await;
    let cluster = Cluster::start(&redis.url(), 2, &quick()).await;
    let (mut a, mut b) = (Client::connect(&cluster[0]).await, Client::connect(&cluster[1]).await);
    seat(&mut a, &mut b, "r").await;
    cluster.stop().await;
    assert!(a.is_closed_by_server().await && b.is_closed_by_server().await);
    let redis = &redis;
    wait_until("only the state is left", || async move {
        let keys = redis.command(&["KEYS", "*"]).await;
        !keys.contains("room:") && !keys.contains("nodes") && !keys.contains("leases")
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_came_spoke_and_went_before_ones_own_answer_is_told_of_with_it() {
    let redis = Redis::start(RedisOptions::default()).await;
    let proxy = ChaosProxy::start(([127, 0, 0, 1], redis.port()).into()).await;
    // Unanswered for less than that.
    let settings = lease("5s", "150ms");
    let cluster = Cluster::start_each(&[format!("redis://{}", proxy.address()), redis.url()], &settings).await;
    let (mut local, mut remote) = (Client::connect(&cluster[0]).await, Client::connect(&cluster[1]).await);
    seat(&mut local, &mut remote, "barrier").await;
    let mut a = Client::connect(&cluster[0]).await;
    proxy.set(Mode::Unanswered);
    a.emit(&json!(["create or join", "r"])).await;
    wait_until("the seat is taken", || async { redis.command(&["KEYS", "*"]).await.contains("room:r") }).await;
    let (mut b, mut c, mut d) =
        (Client::connect(&cluster[1]).await, Client::connect(&cluster[1]).await, Client::connect(&cluster[1]).await);
    for (client, number) in [(&mut b, 1), (&mut c, 0), (&mut d, 2)] {
        assert_eq!(client.call(&json!(["create or join", "r", {}])).await["outcome"], "joined");
        client.until("ready").await;
        if number > 0 {
            assert_eq!(client.call(&json!(["message", number])).await, json!({"ok": true}));
        }
        if number < 2 {
            assert_eq!(client.call(&json!(["bye", "r"])).await, json!({"ok": true}));
        }
    }
    let (b, d) = (b.id.clone(), d.hang_up().await);
    assert_eq!(d, []);
    wait_until("the seat is kept", || async { metric(&cluster[1], "duet_seats_kept").await == 1 }).await;
    // What node 1 had told node 0 by then came there before this.
    assert_eq!(remote.call(&json!(["message", "barrier"])).await, json!({"ok": true}));
    proxy.set(Mode::Pass);
    a.expect("created").await;
    for (number, end) in [(1, "bye"), (2, "peer reconnecting")] {
        a.expect("join").await;
        a.expect("ready").await;
        assert_eq!(a.expect("message").await, [json!(number)]);
        let told = a.expect(end).await;
        if number == 1 {
            assert_eq!(told, [json!("r"), json!({"id": b, "reason": "left"})]);
        }
    }
    cluster.stop().await;
}
