//! Traces: one request can be followed over the nodes it takes, nothing of a call is in them, and a collector that does not
//! keep up disturbs nobody.

use std::time::{Duration, Instant};

use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use serde_json::json;

use crate::support::{
    Client,
    cluster::{Cluster, Variables, quick, start, until_ready},
    collector::{Collector, Received},
    metric, node, pair,
    process::NodeProcess,
    redis::{Redis, RedisOptions},
    seat, wait_until,
};

fn traced(endpoint: &str, ratio: &str) -> Variables {
    let mut settings = quick();
    settings.push(("DUET_TELEMETRY__OTLP_ENDPOINT".into(), endpoint.into()));
    settings.push(("DUET_TELEMETRY__SAMPLE_RATIO".into(), ratio.into()));
    settings
}

fn named<'a>(spans: &'a [Received], name: &str) -> Vec<&'a Received> {
    spans.iter().filter(|received| received.span.name == name).collect()
}

fn only<'a>(spans: &'a [Received], name: &str) -> &'a Received {
    let found = named(spans, name);
    assert_eq!(found.len(), 1, "{name}: {spans:?}");
    found[0]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_offer_over_two_nodes_is_one_trace_and_nothing_of_the_call_is_in_it() {
    let (redis, collector) = (Redis::start(RedisOptions::default()).await, Collector::start().await);
    let cluster = Cluster::start(&redis.url(), 2, &traced(&collector.endpoint(), "1")).await;
    let (mut a, mut b) = (Client::connect(&cluster[0]).await, Client::connect(&cluster[1]).await);
    seat(&mut a, &mut b, "hidden-room").await;
    let offer = json!(["offer", {"type": "offer", "sdp": "v=0 hidden-sdp", "room": "hidden-room"}]);
    assert_eq!(a.call(&offer).await, json!({"ok": true}));
    assert_eq!(b.expect("offer").await, [json!("v=0 hidden-sdp")]);
    // Two for each of the two joins.
    wait_until("six spans have come", || async { collector.spans().len() == 6 }).await;
    let ids = [a.id.clone(), b.id.clone()];
    drop((a, b));
    cluster.stop().await;

    let spans = collector.spans();
    assert_eq!(spans.len(), 6, "{spans:?}");
    let (relay, deliver) = (only(&spans, "relay offer"), only(&spans, "deliver offer"));
    assert_eq!(relay.span.trace_id.len(), 16);
    assert!(relay.span.parent_span_id.is_empty());
    assert_eq!((&deliver.span.trace_id, &deliver.span.parent_span_id), (&relay.span.trace_id, &relay.span.span_id));
    assert_eq!(spans.iter().filter(|received| received.span.trace_id == relay.span.trace_id).count(), 2);
    assert_eq!((relay.span.kind(), deliver.span.kind()), (SpanKind::Producer, SpanKind::Consumer));
    assert!(relay.span.start_time_unix_nano < relay.span.end_time_unix_nano);
    assert!(deliver.span.end_time_unix_nano <= relay.span.end_time_unix_nano, "the receipt ends a relay");
    for (span, scope) in [(relay, "remote"), (deliver, "")] {
        let attributes = ["duet.event", "duet.scope", "duet.outcome"].map(|key| span.attribute(key));
        assert_eq!((attributes, &*span.service), (["offer", scope, "delivered"].map(str::to_owned), "duet"));
    }

    // Each is its own node's: that of the peer that created the room, and that of the one that joined.
    let joins = named(&spans, "join room");
    let node_of = |outcome: &str| {
        let join = joins.iter().find(|join| join.attribute("duet.outcome") == outcome).expect("a join");
        let ask = spans.iter().find(|received| received.span.parent_span_id == join.span.span_id).expect("a child");
        assert_eq!((&*ask.span.name, &ask.span.trace_id, &ask.node), ("ask registry", &join.span.trace_id, &join.node));
        join.node.clone()
    };
    assert_eq!((&relay.node, &deliver.node), (&node_of("created"), &node_of("joined")));
    assert!(relay.node != deliver.node && !relay.node.is_empty());

    for body in collector.bodies() {
        let body = String::from_utf8_lossy(&body);
        for hidden in ["hidden", "v=0", "127.0.0.1", &ids[0], &ids[1]] {
            assert!(!body.contains(hidden), "{hidden}: {body}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_node_that_a_request_comes_to_decides_whether_it_is_traced() {
    let (redis, collector) = (Redis::start(RedisOptions::default()).await, Collector::start().await);
    let mut nodes = Vec::new();
    for settings in [traced(&collector.endpoint(), "1"), traced(&collector.endpoint(), "0"), quick()] {
        nodes.push(start(&redis.url(), &settings).await);
    }
    for node in &nodes {
        until_ready(node).await;
    }
    let [all, none, off] = &nodes[..] else { panic!("three") };
    for (sender, receiver, room) in [(all, none, "1"), (all, off, "2"), (none, all, "3"), (off, all, "4")] {
        let (mut a, mut b) = (Client::connect(sender).await, Client::connect(receiver).await);
        seat(&mut a, &mut b, room).await;
        assert_eq!(a.call(&json!(["message", room])).await, json!({"ok": true}));
        assert_eq!(b.expect("message").await, [json!(room)]);
    }
    for node in nodes {
        node.stop().await;
    }
    let spans = collector.spans();
    assert_eq!(named(&spans, "relay message").len(), 2);
    let delivered = only(&spans, "deliver message");
    assert!(named(&spans, "relay message").iter().any(|relay| relay.span.span_id == delivered.span.parent_span_id));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_share_to_sample_or_a_collector_in_duets_settings_nothing_is_sent() {
    let (redis, collector) = (Redis::start(RedisOptions::default()).await, Collector::start().await);
    let endpoint = collector.endpoint();
    let mut off = quick();
    off.push(("OTEL_EXPORTER_OTLP_ENDPOINT".into(), endpoint.clone()));
    for settings in [traced(&endpoint, "0"), off] {
        let mut node = NodeProcess::start(&redis.url(), &settings).await;
        node.until_ready().await;
        let (mut a, mut b) = (Client::connect_to(node.public).await, Client::connect_to(node.public).await);
        seat(&mut a, &mut b, "r").await;
        assert_eq!(a.call(&json!(["message", 1])).await, json!({"ok": true}));
        drop((a, b));
        node.terminate();
    }
    assert_eq!(collector.bodies().len(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_collector_that_never_answers_delays_neither_relays_nor_the_end() {
    // The kernel takes connections for it, and nobody reads them.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").expect("bound");
    let endpoint = format!("http://{}", silent.local_addr().expect("bound"));
    let drain = Duration::from_secs(2);
    let node = node(&[
        ("DUET_TELEMETRY__OTLP_ENDPOINT", &endpoint),
        ("DUET_TELEMETRY__SAMPLE_RATIO", "1"),
        ("DUET_TIMEOUTS__DRAIN", "2s"),
    ])
    .await;
    let (mut a, mut b) = pair(&node, "r").await;
    let mut slowest = Duration::ZERO;
    for n in 0..4_000 {
        let asked = Instant::now();
        assert_eq!(a.call(&json!(["message", n])).await, json!({"ok": true}));
        slowest = slowest.max(asked.elapsed());
        assert_eq!(b.expect("message").await, [json!(n)]);
    }
    assert!(slowest < Duration::from_secs(3), "{slowest:?}");
    // More than may wait.
    assert!(metric(&node, "duet_trace_spans_dropped_total").await > 1_000);
    drop((a, b));
    let stopping = Instant::now();
    node.stop().await;
    assert!(stopping.elapsed() < drain + Duration::from_secs(1), "{:?}", stopping.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn spans_that_the_collector_does_not_take_are_counted() {
    // Nobody listens there.
    for endpoint in ["http://127.0.0.1:1", "https://127.0.0.1:1"] {
        let node = node(&[("DUET_TELEMETRY__OTLP_ENDPOINT", endpoint), ("DUET_TELEMETRY__SAMPLE_RATIO", "1")]).await;
        let _two = pair(&node, "r").await;
        let node = &node;
        wait_until("they are dropped", || async { metric(node, "duet_trace_spans_dropped_total").await == 4 }).await;
    }
}
