//! The programs as a user runs them, against the reference and against a scripted Socket.IO server.

use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use futures_util::{SinkExt as _, StreamExt as _};
use loadtest::peer::{Manner, Peer, Seat};
use loadtest::target::{Dialect, Target};
use tokio::net::TcpListener;
use tokio_tungstenite::tungstenite::Message;

/// The reference on a port of its own, ended with the test.
struct Reference {
    child: Child,
    address: SocketAddr,
}

impl Reference {
    fn start() -> anyhow::Result<Self> {
        let mut child = Command::new(env!("CARGO_BIN_EXE_bare-relay"))
            .args(["--listen", "127.0.0.1:0"])
            .stdout(Stdio::piped())
            .spawn()?;
        let mut line = String::new();
        BufReader::new(child.stdout.take().context("piped")?).read_line(&mut line)?;
        let address = line.trim().strip_prefix("listening on ").context("no address")?.parse()?;
        Ok(Self { child, address })
    }

    fn target(&self) -> Target {
        Target { address: self.address, dialect: Dialect::Bare, browser_headers: false }
    }
}

impl Drop for Reference {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

fn loadtest(arguments: &[&str]) -> anyhow::Result<Output> {
    Ok(Command::new(env!("CARGO_BIN_EXE_loadtest")).args(arguments).output()?)
}

#[test]
fn a_run_against_the_reference_is_clean_and_reported() -> anyhow::Result<()> {
    let reference = Reference::start()?;
    let (url, pid) = (format!("ws://{}", reference.address), reference.child.id().to_string());
    let json = tempfile::NamedTempFile::new()?;
    let path = json.path().to_str().context("a path of text")?;
    let small =
        "--rounds 1 --rooms 20 --rate 500 --seconds 1 --warm-up 1 --join-sockets 20 --hold-sockets 20 --hold-seconds 1";
    let mut arguments = vec!["bench", "node", "--server", &url, "--pid", &pid, "--dialect", "bare", "--json", path];
    arguments.extend(small.split(' '));
    let output = loadtest(&arguments)?;
    let (table, errors) = (String::from_utf8(output.stdout)?, String::from_utf8(output.stderr)?);
    // Memory is left out: that of a debug build with twenty sockets says nothing.
    ensure!(output.status.code().is_some_and(|code| code < 2), "{table}\n{errors}");
    ensure!(table.contains("CPU a relay") && table.contains("memory a socket"), "{table}");
    let report: serde_json::Value = serde_json::from_slice(&std::fs::read(path)?)?;
    let relay = &report["server"]["relay"][0];
    assert_eq!(report["complete"], true);
    assert_eq!(relay["relayed"], 500);
    assert_eq!(relay["account"]["sent"], 1000);
    assert_eq!(relay["account"]["delivered"], 1000);
    assert_eq!(relay["account"]["out_of_order"], 0);
    ensure!(relay["cpu_us_a_relay"].as_f64().is_some_and(|cpu| cpu > 0.0), "{relay}");
    Ok(())
}

#[test]
fn what_cannot_run_says_why_with_status_2() -> anyhow::Result<()> {
    let own = std::process::id().to_string();
    for (arguments, reason) in [
        (vec!["--duet", "/nowhere/duet"], "there is no /nowhere/duet"),
        (vec!["--server", "ws://10.1.2.3:80", "--pid", &own], "loopback"),
        (vec!["--server", "ws://127.0.0.1:9", "--pid", &own, "--only", "join"], "cannot connect"),
        (vec!["--only", "hold", "--hold-sockets", "1000000000"], "raise the hard limit"),
        (vec!["--rounds", "0"], "--rounds"),
    ] {
        let output = loadtest(&[&["bench", "node"], arguments.as_slice()].concat())?;
        let errors = String::from_utf8(output.stderr)?;
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {errors}");
        ensure!(errors.contains(reason), "{arguments:?}: {errors}");
    }
    Ok(())
}

#[test]
fn a_cluster_that_cannot_run_says_why_with_status_2() -> anyhow::Result<()> {
    for (arguments, reason) in [
        (vec!["--duet", "/nowhere/duet"], "there is no /nowhere/duet"),
        (vec!["--skip-duet", "--reference", "/nowhere"], "there is no /nowhere/server.mjs"),
        (vec!["--skip-duet"], "there is no node: install"),
        (vec!["--skip-reference", "--duet", "/bin/sh"], "there is no redis-server: install"),
        (vec!["--hold-sockets", "1000000000"], "raise the hard limit"),
        (vec!["--nodes", "2,0"], "--nodes"),
        (vec!["--skip-duet", "--skip-reference"], "--skip-reference"),
    ] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_loadtest"));
        let output = command.args(["bench", "cluster"]).args(&arguments).env("PATH", "/nowhere").output()?;
        let errors = String::from_utf8(output.stderr)?;
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {errors}");
        ensure!(errors.contains(reason), "{arguments:?}: {errors}");
    }
    Ok(())
}

#[test]
fn coming_back_that_cannot_be_measured_says_why_with_status_2() -> anyhow::Result<()> {
    for (arguments, reason) in [
        (vec!["--duet", "/nowhere/duet"], "there is no /nowhere/duet"),
        (vec!["--duet", "/bin/sh"], "there is no redis-server: install"),
        (vec!["--nodes", "1"], "--nodes"),
        (vec!["--victims", "0"], "--victims"),
    ] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_loadtest"));
        let output = command.args(["bench", "resume"]).args(&arguments).env("PATH", "/nowhere").output()?;
        let errors = String::from_utf8(output.stderr)?;
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {errors}");
        ensure!(errors.contains(reason), "{arguments:?}: {errors}");
    }
    Ok(())
}

#[tokio::test]
async fn the_reference_seats_two_and_relays_between_them() -> anyhow::Result<()> {
    let reference = Reference::start()?;
    let target = reference.target();
    let mut peers = Vec::new();
    for expected in [Seat::Created, Seat::Joined, Seat::Full] {
        let mut peer = Peer::connect(&target, peers.len()).await?;
        assert_eq!(peer.join("room", Manner::default()).await?, expected);
        peers.push(peer);
    }
    let first = peers.remove(0);
    let (sender, mut received) = (peers.remove(0).outgoing(), tokio::sync::mpsc::unbounded_channel());
    tokio::spawn(async move {
        first
            .listen(&AtomicU64::new(0), |text| {
                drop(received.0.send(text.to_owned()));
            })
            .await
    });
    // Long enough to overrun the read buffer, and more than the sending kernel takes at once.
    let texts = ["a".repeat(3_000), "b".repeat(2_000_000), "c".to_owned()];
    for text in &texts {
        sender.text(text.as_bytes())?;
    }
    for text in &texts {
        let got = tokio::time::timeout(Duration::from_secs(10), received.1.recv()).await?;
        ensure!(got.as_ref() == Some(text), "{} bytes arrived of {}", got.map_or(0, |got| got.len()), text.len());
    }
    Ok(())
}

/// Serves one Socket.IO client by script: greets, pings, seats, and keeps what it heard.
async fn scripted(listener: TcpListener, heard: Arc<Mutex<Vec<String>>>) -> anyhow::Result<()> {
    let (stream, _) = listener.accept().await?;
    let mut socket = tokio_tungstenite::accept_async(stream).await?;
    socket.send(Message::text(r#"0{"sid":"e","upgrades":[],"pingInterval":1,"pingTimeout":1}"#)).await?;
    while let Some(Ok(message)) = socket.next().await {
        let Message::Text(text) = message else {
            continue;
        };
        heard.lock().ok().context("poisoned")?.push(text.to_string());
        let answers: &[&str] = match text.as_str() {
            "40" => &["2", r#"42["log",["hello"]]"#, r#"40{"sid":"s"}"#],
            r#"421["create or join","room"]"# => {
                &[r#"42["joined","room","s"]"#, "2", r#"42["ready","room"]"#, r#"431[{"ok":true}]"#]
            }
            "3" => &[],
            r#"42["message",1]"# => &["2", r#"42["log",["x"]]"#, r#"42["message",2]"#, "41"],
            other => bail!("unexpected {other}"),
        };
        for answer in answers {
            socket.send(Message::text(*answer)).await?;
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_socket_io_client_greets_joins_answers_pings_and_hears_messages() -> anyhow::Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let heard = Arc::<Mutex<Vec<String>>>::default();
    let server = tokio::spawn(scripted(listener, Arc::clone(&heard)));

    let target = Target { address, dialect: Dialect::Socketio, browser_headers: true };
    let mut peer = Peer::connect(&target, 0).await?;
    assert_eq!(peer.join("room", Manner { ack: true }).await?, Seat::Joined);
    peer.outgoing().text(br#"42["message",1]"#)?;
    let (pings, mut messages) = (AtomicU64::new(0), Vec::new());
    let end = peer.listen(&pings, |text| messages.push(text.to_owned())).await?;
    assert_eq!(end, "disconnected");
    assert_eq!(messages, [r#"42["message",2]"#]);
    assert_eq!(pings.into_inner(), 1);
    server.await??;
    let heard = heard.lock().ok().context("poisoned")?;
    assert_eq!(heard.iter().filter(|text| *text == "3").count(), 3, "{heard:?}");
    Ok(())
}
