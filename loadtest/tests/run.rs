//! `loadtest run` against a small server of the lesson's contract that keeps its promises, or breaks one at a time.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use anyhow::Context as _;
use futures_util::{SinkExt as _, StreamExt as _};
use loadtest::report::Report;
use tokio::net::TcpListener;
use tokio::process::Command;
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tokio_tungstenite::tungstenite::Message;

/// What the server does wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    None,
    /// Every tenth message goes nowhere.
    Loses,
    /// Every tenth arrives again.
    Repeats,
    /// Every tenth is kept until the next has gone.
    Disorders,
    /// Every tenth goes to another room as well.
    Spills,
    /// Every tenth is changed.
    Alters,
    /// A room takes three.
    SeatsThree,
    /// Every join is refused.
    Refuses,
}

#[derive(Default)]
struct State {
    rooms: HashMap<String, Vec<UnboundedSender<String>>>,
    relayed: u64,
    kept: Option<(UnboundedSender<String>, String)>,
}

/// Starts it; it lives as long as the test's runtime.
async fn serve(fault: Fault) -> anyhow::Result<SocketAddr> {
    Ok(serve_watched(fault).await?.0)
}

async fn serve_watched(fault: Fault) -> anyhow::Result<(SocketAddr, Arc<Mutex<State>>)> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let state = Arc::new(Mutex::new(State::default()));
    let shared = Arc::clone(&state);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(client(stream, fault, Arc::clone(&shared)));
        }
    });
    Ok((address, state))
}

async fn client(stream: tokio::net::TcpStream, fault: Fault, state: Arc<Mutex<State>>) -> anyhow::Result<()> {
    let socket = tokio_tungstenite::accept_async(stream).await?;
    let (mut write, mut read) = socket.split();
    let (send, mut queue) = unbounded_channel::<String>();
    tokio::spawn(async move {
        while let Some(text) = queue.recv().await {
            if write.send(Message::text(text)).await.is_err() {
                break;
            }
        }
    });
    send.send(
        r#"0{"sid":"x","upgrades":[],"pingInterval":25000,"pingTimeout":20000,"maxPayload":1000000}"#.to_owned(),
    )?;
    let mut seats: Vec<String> = Vec::new();
    while let Some(Ok(message)) = read.next().await {
        let Ok(text) = message.to_text() else { continue };
        if text == "40" {
            send.send(r#"40{"sid":"y"}"#.to_owned())?;
        } else if let Some(event) = text.strip_prefix("42") {
            let event: serde_json::Value = serde_json::from_str(event)?;
            let mut state = state.lock().expect("no test panics with it");
            match event[0].as_str().context("a name")? {
                "create or join" => join(&mut state, fault, event[1].as_str().context("a room")?, &send, &mut seats)?,
                "bye" => leave(&mut state, &send, &mut seats),
                "message" => relay(&mut state, fault, text, &send, &seats)?,
                name => {
                    let said = if name == "candidate" { &event[1] } else { &event[1]["sdp"] };
                    // Keys in the order in which they came.
                    let raw = if name == "candidate" {
                        text.to_owned()
                    } else {
                        format!("42{}", serde_json::json!([name, said]))
                    };
                    pass_on(&state, &raw, &send, &seats);
                }
            }
        }
    }
    leave(&mut state.lock().expect("no test panics with it"), &send, &mut seats);
    Ok(())
}

fn join(
    state: &mut State,
    fault: Fault,
    room: &str,
    send: &UnboundedSender<String>,
    seats: &mut Vec<String>,
) -> anyhow::Result<()> {
    let event = |name: &str| format!("42{}", serde_json::json!([name, room]));
    if fault == Fault::Refuses {
        send.send(
            r#"42["rejected",{"event":"create or join","code":"unavailable","message":"","retryable":true}]"#
                .to_owned(),
        )?;
        return Ok(());
    }
    let peers = state.rooms.entry(room.to_owned()).or_default();
    let most = if fault == Fault::SeatsThree { 3 } else { 2 };
    if peers.len() >= most {
        send.send(event("full"))?;
        return Ok(());
    }
    send.send(event(if peers.is_empty() { "created" } else { "joined" }))?;
    peers.push(send.clone());
    seats.push(room.to_owned());
    if peers.len() == 2 {
        for peer in peers {
            let _ = peer.send(event("ready"));
        }
    }
    Ok(())
}

fn leave(state: &mut State, send: &UnboundedSender<String>, seats: &mut Vec<String>) {
    for room in seats.drain(..) {
        let Some(peers) = state.rooms.get_mut(&room) else { continue };
        peers.retain(|peer| !peer.same_channel(send));
        for peer in &*peers {
            let _ = peer.send(format!("42{}", serde_json::json!(["bye", room, {"reason": "left"}])));
        }
        if peers.is_empty() {
            state.rooms.remove(&room);
        }
    }
}

fn pass_on(state: &State, text: &str, send: &UnboundedSender<String>, seats: &[String]) {
    let peers = seats.iter().filter_map(|room| state.rooms.get(room)).flatten();
    for peer in peers.filter(|peer| !peer.same_channel(send)) {
        let _ = peer.send(text.to_owned());
    }
}

fn relay(
    state: &mut State,
    fault: Fault,
    text: &str,
    send: &UnboundedSender<String>,
    seats: &[String],
) -> anyhow::Result<()> {
    state.relayed += 1;
    let wrong = state.relayed.is_multiple_of(10);
    match fault {
        Fault::Loses if wrong => return Ok(()),
        Fault::Repeats if wrong => pass_on(state, text, send, seats),
        Fault::Alters if wrong => {
            pass_on(state, &text.replacen("v=0", "v=1", 1), send, seats);
            return Ok(());
        }
        Fault::Disorders if wrong && state.kept.is_none() => {
            let peers = seats.iter().filter_map(|room| state.rooms.get(room)).flatten();
            let mut peers = peers;
            let other = peers.find(|peer| !peer.same_channel(send)).context("a peer")?.clone();
            state.kept = Some((other, text.to_owned()));
            return Ok(());
        }
        Fault::Spills if wrong => {
            for (room, peers) in &state.rooms {
                if !seats.contains(room)
                    && let Some(stranger) = peers.first()
                {
                    let _ = stranger.send(text.to_owned());
                    break;
                }
            }
        }
        _ => {}
    }
    pass_on(state, text, send, seats);
    let to_the_same = |state: &State| {
        let (kept, _) = state.kept.as_ref()?;
        let mut peers = seats.iter().filter_map(|room| state.rooms.get(room)).flatten();
        peers.any(|peer| peer.same_channel(kept) && !peer.same_channel(send)).then_some(())
    };
    if to_the_same(state).is_some()
        && let Some((peer, text)) = state.kept.take()
    {
        peer.send(text)?;
    }
    Ok(())
}

/// Runs it; its exit status, what it wrote, and what it said.
async fn run(server: SocketAddr, arguments: &str) -> anyhow::Result<(Option<i32>, Report, String)> {
    let json = tempfile::NamedTempFile::new()?;
    let path = json.path().to_str().context("a path of text")?;
    let output = Command::new(env!("CARGO_BIN_EXE_loadtest"))
        .args(["run", "--quiet", "--target", &format!("http://{server}"), "--json", path])
        .args(arguments.split(' '))
        .output()
        .await?;
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    let report = Report::read(&std::fs::read_to_string(path)?).context(said.clone())?;
    Ok((output.status.code(), report, said))
}

const PAIRS: &str = "--scenario pairs --rooms 20 --rate 200 --seconds 1.5 --intruders 10";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_scenario_is_good_on_a_server_that_keeps_its_promises() -> anyhow::Result<()> {
    for (arguments, due) in [
        (PAIRS, 300),
        (
            "--scenario pairs --rooms 10 --rate 100 --from-rate 0 --ramp 1 --seconds 2 --bytes 600 --placement balanced",
            150,
        ),
        ("--scenario call --rate 20 --seconds 1", 20),
        ("--scenario churn --rooms 20 --rate 40 --seconds 1", 40),
        ("--scenario race --rate 5 --seconds 1 --contenders 6", 5),
        ("--scenario hold --rooms 20 --seconds 1", 40),
        ("--scenario storm --rooms 20 --seconds 5", 40),
    ] {
        let (status, report, said) = run(serve(Fault::None).await?, arguments).await?;
        let phase = &report.phases[0];
        assert_eq!(status, Some(0), "{arguments}: {:?} {:?} {said}", report.verdict, phase.errors);
        assert!(report.verdict.is_good() && !report.interrupted);
        assert_eq!((phase.due, phase.done), (due, due), "{arguments}");
        assert_eq!(
            phase.timeline.iter().map(|second| second.done).sum::<u64>().min(due),
            if phase.scenario == "hold" { 0 } else { due }
        );
        assert_eq!(phase.messages.sent, phase.messages.delivered);
        match phase.scenario.as_str() {
            "pairs" => assert_eq!(phase.latency.count, due),
            "call" => assert_eq!((phase.setup.count, phase.messages.sent), (20, 20 * 14)),
            "race" => assert_eq!(phase.cap.tried, 5 * 4),
            "storm" => assert_eq!(phase.setup.count, 40),
            _ => {}
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_broken_promise_is_told_by_its_name_with_status_1() -> anyhow::Result<()> {
    for (fault, told) in [
        (Fault::Loses, "messages were lost"),
        (Fault::Repeats, "messages arrived twice"),
        (Fault::Disorders, "messages arrived out of order"),
        (Fault::Spills, "messages arrived at a stranger"),
        (Fault::Alters, "messages arrived altered"),
        (Fault::SeatsThree, "rooms had more than two peers"),
    ] {
        let (status, report, said) = run(serve(fault).await?, PAIRS).await?;
        assert_eq!(status, Some(1), "{fault:?}: {said}");
        assert!(report.verdict.broken.iter().any(|broken| broken.contains(told)), "{fault:?}: {:?}", report.verdict);
        assert_eq!(report.verdict.broken.len(), 1, "{fault:?}: {:?}", report.verdict);
    }
    let (status, report, _) = run(serve(Fault::SeatsThree).await?, "--scenario race --rate 5 --seconds 1").await?;
    assert_eq!((status, report.phases[0].cap.exceeded), (Some(1), 5));
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refusals_are_counted_by_code_and_such_a_run_is_not_good() -> anyhow::Result<()> {
    let (status, report, _) = run(serve(Fault::Refuses).await?, PAIRS).await?;
    assert_eq!(status, Some(2));
    assert!(report.phases[0].errors["unavailable"] >= 20, "{:?}", report.phases[0].errors);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_run_says_why_with_status_2() -> anyhow::Result<()> {
    let server = serve(Fault::None).await?;
    let plan = tempfile::NamedTempFile::new()?;
    std::fs::write(plan.path(), "[[phases]]\nscenario = \"pairs\"\nrate = 0\n")?;
    let plan = plan.path().to_str().context("a path of text")?;
    for (arguments, reason) in [
        (format!("--target http://203.0.113.7:80 {PAIRS}"), "--i-own-this-target"),
        (format!("--target http://{server} --plan {plan}"), "line 3: rate: must be above 0"),
        (format!("--target http://{server} --plan /nowhere"), "cannot read /nowhere"),
        (format!("--target http://{server} --scenario pairs --rate 1 --rooms 10000000"), "raise the hard limit"),
        (format!("--target http://{server} --scenario hold --rate 5"), "--rate: this scenario has none"),
        (format!("--target http://{server} --metrics http://{server} {PAIRS}"), "the metrics of"),
        (format!("--target http://{server} --shard 3/2 {PAIRS}"), "expected I/N"),
    ] {
        let output =
            Command::new(env!("CARGO_BIN_EXE_loadtest")).arg("run").args(arguments.split(' ')).output().await?;
        let errors = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{arguments}: {errors}");
        assert!(errors.contains(reason), "{arguments}: {errors}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ctrl_c_ends_it_early_and_it_still_reports() -> anyhow::Result<()> {
    let (server, state) = serve_watched(Fault::None).await?;
    let json = tempfile::NamedTempFile::new()?;
    let child = Command::new(env!("CARGO_BIN_EXE_loadtest"))
        .args(["run", "--quiet", "--target", &format!("http://{server}")])
        .args("--scenario pairs --rooms 5 --rate 100 --seconds 600".split(' '))
        .arg("--json")
        .arg(json.path())
        .stderr(std::process::Stdio::piped())
        .spawn()?;
    while state.lock().expect("no test panics with it").relayed < 50 {
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    let pid = nix::unistd::Pid::from_raw(i32::try_from(child.id().context("running")?)?);
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT)?;
    let output = child.wait_with_output().await?;
    assert_eq!(output.status.code(), Some(2), "{}", String::from_utf8_lossy(&output.stderr));
    let report = Report::read(&std::fs::read_to_string(json.path())?)?;
    assert!(report.interrupted && report.verdict.broken.is_empty(), "{:?}", report.verdict);
    assert!(report.phases[0].done > 20 && report.phases[0].done == report.phases[0].messages.sent);
    Ok(())
}
