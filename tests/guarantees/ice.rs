//! Peers are told of STUN and TURN servers, and the credentials they get are good for a real coturn: for as long as they
//! say, and by the secret it shares.

use std::{process::Command, time::Duration};

use duet::node::Node;
use serde_json::{Value, json};

use crate::support::{
    Client, Heard, PATIENCE, cluster::Variables, get, http, node, process::NodeProcess, settings, turn::Coturn,
    wait_until,
};

const SECRET: &str = "north-of-the-river";
const OTHER_SECRET: &str = "south-of-the-river";

async fn node_for(coturn: &Coturn, more: &[(&str, &str)]) -> Node {
    let url = coturn.url();
    let mut settings = vec![("DUET_ICE__TURN", &*url), ("DUET_ICE__SECRET", SECRET)];
    settings.extend(more);
    node(&settings).await
}

/// What the answer to `create or join` has for a call.
async fn servers_of_join(client: &mut Client, room: &str) -> Value {
    let answer = client.call(&json!(["create or join", room])).await;
    assert_eq!(answer["ok"], true, "{answer}");
    answer["iceServers"].clone()
}

fn credentials(servers: &Value) -> (&str, &str) {
    let turn = servers.as_array().expect("servers").last().expect("a server");
    (turn["username"].as_str().expect("a username"), turn["credential"].as_str().expect("a credential"))
}

fn user(servers: &Value) -> &str {
    credentials(servers).0.split_once(':').expect("an expiry and a user").1
}

#[tokio::test]
async fn coturn_relays_for_each_peer_of_a_room() {
    let coturn = Coturn::start(&[SECRET]).await;
    let node = node_for(&coturn, &[("DUET_ICE__STUN", "stun:192.0.2.1, stun:[2001:db8::1]:3478")]).await;
    let (mut first, mut second) = (Client::connect(&node).await, Client::connect(&node).await);
    let created = servers_of_join(&mut first, "foo").await;
    let joined = servers_of_join(&mut second, "foo").await;
    for servers in [&created, &joined] {
        assert_eq!(servers[0], json!({"urls": ["stun:192.0.2.1", "stun:[2001:db8::1]:3478"]}));
        assert_eq!(servers[1]["urls"], json!([coturn.url()]));
        let (username, credential) = credentials(servers);
        let relay = coturn.allocate(username, credential).await.expect("a relay");
        assert!(relay.ip().is_loopback() && relay.port() > 0, "{relay}");
    }
    assert_ne!(user(&created), user(&joined), "a user each");
    // What a TURN server's logs say of a peer lets nobody find it.
    let (coturn, first_user) = (&coturn, user(&created));
    wait_until("coturn names the user", || async move { coturn.log().contains(first_user) }).await;
    assert!(!coturn.log().contains(&first.id) && !coturn.log().contains(&second.id));
    node.stop().await;
}

#[tokio::test]
async fn joining_again_gives_fresh_credentials_to_the_same_user() {
    let coturn = Coturn::start(&[SECRET]).await;
    let node = node_for(&coturn, &[]).await;
    let mut client = Client::connect(&node).await;
    let before = servers_of_join(&mut client, "foo").await;
    let mut again = before.clone();
    wait_until_later(&mut client, &before, &mut again).await;
    assert_eq!(user(&again), user(&before));
    let (username, credential) = credentials(&again);
    coturn.allocate(username, credential).await.expect("a relay");
    node.stop().await;
}

/// Joins again until the clock has gone on a second.
async fn wait_until_later(client: &mut Client, before: &Value, again: &mut Value) {
    let waited = tokio::time::timeout(PATIENCE, async {
        while credentials(again) == credentials(before) {
            tokio::time::sleep(Duration::from_millis(50)).await;
            *again = servers_of_join(client, "foo").await;
        }
    });
    waited.await.expect("the clock goes");
}

#[tokio::test]
async fn coturn_refuses_credentials_that_have_expired() {
    let coturn = Coturn::start(&[SECRET]).await;
    let node = node_for(&coturn, &[("DUET_ICE__LIFETIME", "3s")]).await;
    let mut client = Client::connect(&node).await;
    // On a machine so busy that they expire on the way, they are asked for again.
    let asked = tokio::time::timeout(PATIENCE, async {
        loop {
            let servers = servers_of_join(&mut client, "foo").await;
            let (username, credential) = credentials(&servers);
            if coturn.allocate(username, credential).await.is_ok() {
                return servers;
            }
        }
    });
    let servers = asked.await.expect("credentials that can be used");
    let (username, credential) = credentials(&servers);
    let coturn = &coturn;
    wait_until("they expire", || async move { coturn.allocate(username, credential).await == Err(401) }).await;
    node.stop().await;
}

#[tokio::test]
async fn coturn_refuses_what_another_secret_has_signed_or_somebody_has_changed() {
    let coturn = Coturn::start(&[OTHER_SECRET]).await;
    let node = node_for(&coturn, &[]).await;
    let servers = servers_of_join(&mut Client::connect(&node).await, "foo").await;
    let (username, credential) = credentials(&servers);
    assert_eq!(coturn.allocate(username, credential).await, Err(401));
    node.stop().await;

    let coturn = Coturn::start(&[SECRET]).await;
    let (expiry, user) = username.split_once(':').expect("an expiry");
    let longer = format!("{}:{user}", expiry.parse::<u64>().expect("seconds") + 1);
    assert_eq!(coturn.allocate(&longer, credential).await, Err(401));
    coturn.allocate(username, credential).await.expect("unchanged, it is good");
}

#[tokio::test]
async fn a_secret_takes_the_place_of_another_without_a_refusal() {
    let file = tempfile::NamedTempFile::new().expect("a file");
    let write = |secrets: &[&str]| std::fs::write(file.path(), secrets.join("\n")).expect("written");
    write(&[OTHER_SECRET]);
    // As when the new secret is told to coturn first, and beside the old.
    let coturn = Coturn::start(&[SECRET, OTHER_SECRET]).await;
    let url = coturn.url();
    let path = file.path().to_str().expect("a path");
    let node = node(&[("DUET_ICE__TURN", &url), ("DUET_ICE__SECRET_FILE", path)]).await;
    let mut client = Client::connect(&node).await;
    let old = servers_of_join(&mut client, "foo").await;
    write(&[SECRET, OTHER_SECRET]);
    let changed = settings(&[
        ("DUET_ICE__TURN", &*url),
        ("DUET_ICE__SECRET_FILE", path),
        ("DUET_ICE__LIFETIME", "1m"),
        ("DUET_ICE__USER_PREFIX", "again"),
    ]);
    let names = node.reload(|| Ok(changed)).await.expect("reloaded");
    assert_eq!(names, ["ice.lifetime", "ice.user_prefix"]);
    let new = servers_of_join(&mut client, "foo").await;
    assert!(user(&new).starts_with("again-"), "{new}");
    for servers in [&old, &new] {
        let (username, credential) = credentials(servers);
        coturn.allocate(username, credential).await.expect("a relay");
    }
    // A coturn that has only the new one tells which of them signed.
    let strict = Coturn::start(&[SECRET]).await;
    let (username, credential) = credentials(&new);
    strict.allocate(username, credential).await.expect("a relay");
    let (username, credential) = credentials(&old);
    assert_eq!(strict.allocate(username, credential).await, Err(401));
    node.stop().await;
}

#[tokio::test]
async fn the_deployment_makes_a_secret_once_and_changes_it_while_coturn_runs() {
    let directory = tempfile::tempdir().expect("a directory");
    let at = |path: &str| directory.path().join(path);
    for volume in ["redis", "grafana", "turn"] {
        std::fs::create_dir(at(volume)).expect("made");
    }
    let make_secrets = |rotate: &str| {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/secrets.sh");
        let ran = Command::new("sh").arg(script).env("SECRETS", directory.path()).env("ROTATE", rotate).status();
        assert!(ran.expect("run").success());
        let secrets = std::fs::read_to_string(at("turn/secret")).expect("secrets");
        secrets.lines().map(str::to_owned).collect::<Vec<_>>()
    };
    let first = make_secrets("");
    assert_eq!((first.len(), &make_secrets("")), (1, &first), "made once");
    let file = at("turn/secret");
    let coturn = Coturn::start_deployed(&file).await;
    let (url, path) = (coturn.url(), file.to_str().expect("a path"));
    let start = || async { node(&[("DUET_ICE__TURN", &url), ("DUET_ICE__SECRET_FILE", path)]).await };
    let node = start().await;
    let old = servers_of_join(&mut Client::connect(&node).await, "foo").await;
    node.stop().await;

    let both = make_secrets("turn");
    assert!(both.len() == 2 && both[0] != both[1] && both[1] == first[0]);
    coturn.take_secrets(&file);
    let node = start().await;
    let new = servers_of_join(&mut Client::connect(&node).await, "foo").await;
    node.stop().await;
    for servers in [&old, &new] {
        let (username, credential) = credentials(servers);
        coturn.allocate(username, credential).await.expect("a relay");
    }

    assert_eq!(make_secrets("turn-done"), both[..1]);
    let coturn = Coturn::start_deployed(&file).await;
    let (username, credential) = credentials(&new);
    coturn.allocate(username, credential).await.expect("a relay");
    let (username, credential) = credentials(&old);
    assert_eq!(coturn.allocate(username, credential).await, Err(401));
}

#[tokio::test]
async fn without_servers_the_answer_is_as_ever() {
    let node = node(&[]).await;
    let mut client = Client::connect(&node).await;
    let answer = client.call(&json!(["create or join", "foo"])).await;
    assert_eq!(answer, json!({"ok": true, "outcome": "created", "room": "foo", "id": client.id}));
    let (status, body) = get(node.public, "/ice-servers").await;
    let answer: Value = serde_json::from_str(&body).expect("JSON");
    assert_eq!((status, answer), (200, json!({"iceServers": [], "ttl": 21600})));
    node.stop().await;
}

#[tokio::test]
async fn a_page_of_any_origin_may_ask_for_servers_and_nobody_may_keep_the_answer() {
    let coturn = Coturn::start(&[SECRET]).await;
    let node = node_for(&coturn, &[("DUET_ICE__LIFETIME", "90m")]).await;
    let ask = "GET /ice-servers HTTP/1.1\r\nHost: test\r\nOrigin: https://example.org\r\nConnection: close\r\n\r\n";
    let head = head(&node, ask).await;
    for line in [
        "cache-control: no-store",
        "access-control-allow-origin: https://example.org",
        "content-type: application/json",
    ] {
        assert!(head.contains(line), "{line}: {head}");
    }
    let (status, body) = http(node.public, ask).await;
    let answer: Value = serde_json::from_str(&body).expect("JSON");
    assert_eq!((status, &answer["ttl"]), (200, &json!(5400)));
    let (username, credential) = credentials(&answer["iceServers"]);
    coturn.allocate(username, credential).await.expect("a relay");
    let post = ask.replace("GET", "POST");
    assert_eq!(http(node.public, &post).await.0, 405);
    // A room of that name is reached in another way, as rooms with a slash are.
    assert_eq!(get(node.public, "/?room=ice-servers").await.0, 200);
    node.stop().await;
}

/// The head of the answer, in small letters.
async fn head(node: &Node, request: &str) -> String {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut stream = tokio::net::TcpStream::connect(node.public).await.expect("connected");
    stream.write_all(request.as_bytes()).await.expect("sent");
    let mut answer = String::new();
    tokio::time::timeout(PATIENCE, stream.read_to_string(&mut answer)).await.expect("in time").expect("an answer");
    answer.split("\r\n\r\n").next().expect("a head").to_lowercase()
}

#[tokio::test]
async fn no_secret_and_no_credential_is_logged() {
    let settings: Variables = [
        ("DUET_ICE__TURN", "turn:192.0.2.1"),
        ("DUET_ICE__SECRET", SECRET),
        ("DUET_LOG__LEVEL", "trace"),
        ("DUET_COMPAT__CLIENT_LOG", "true"),
    ]
    .map(|(key, value)| (key.to_owned(), value.to_owned()))
    .into();
    let mut node = NodeProcess::start("", &settings).await;
    let mut client = Client::connect_to(node.public).await;
    let servers = servers_of_join(&mut client, "foo").await;
    let (status, body) = get(node.public, "/ice-servers").await;
    let asked: Value = serde_json::from_str(&body).expect("JSON");
    assert_eq!(status, 200);
    node.terminate();
    for what in [SECRET, credentials(&servers).1, credentials(&asked["iceServers"]).1, user(&servers)] {
        assert!(!node.log().contains(what), "{what}");
    }
    assert!(node.log().contains("\"TRACE\"") || node.log().contains("\"DEBUG\""), "it logs much");
    // The lesson's `log` events tell nothing of them either.
    loop {
        match client.hear().await {
            Heard::Event(name, said) if name == "log" => {
                assert!(!json!(said).to_string().contains("turn:"), "{said:?}");
            }
            Heard::Closed => break,
            _ => {}
        }
    }
}
