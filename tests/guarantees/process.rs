//! The process as an operator meets it: settings, exit status, signals, logs.

use std::{os::unix::fs::OpenOptionsExt as _, process::Stdio, time::Duration};

use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, BufReader},
    process::Command,
};

use crate::support::{PATIENCE, process::NodeProcess};

const DUET: &str = env!("CARGO_BIN_EXE_duet");

fn duet() -> Command {
    let mut command = Command::new(DUET);
    command
        .env_clear()
        .env("DUET_SERVER__LISTEN", "127.0.0.1:0")
        .env("DUET_ADMIN__LISTEN", "127.0.0.1:0")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    command
}

#[tokio::test]
async fn bad_settings_end_the_start_with_one_line_and_status_64() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("bound");
    for (key, value) in [
        ("DUET_SERVER__PORT", "1"),
        ("DUET_SERVER__LISTEN", "localhost"),
        ("DUET_TIMEOUTS__DRAIN", "long"),
        ("DUET_LOG__LEVEL", "chatty"),
        ("DUET_TELEMETRY__OTLP_ENDPOINT", "collector"),
        ("DUET_TELEMETRY__SAMPLE_RATIO", "2"),
        ("DUET_ICE__TURN", "turn:a"),
        ("DUET_ICE__SECRET_FILE", "/nowhere/secret"),
        ("DUET_ADMISSION__JWT_SECRET", "short"),
        ("DUET_ADMISSION__JWT_PUBLIC_KEY", "-----BEGIN PUBLIC KEY-----"),
        ("DUET_ADMISSION__JWT_KEY_FILE", "/nowhere/key.pem"),
        ("DUET_CONFIG", "/nowhere/duet.toml"),
    ] {
        // Would fail with another status if a port were bound before.
        let output = duet()
            .env("DUET_ADMIN__LISTEN", taken.local_addr().expect("bound").to_string())
            .env(key, value)
            .output()
            .await
            .expect("run");
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!((output.status.code(), said.lines().count()), (Some(64), 1), "{key}={value}: {said}");
    }
    let output = duet().arg("--no-such-option").output().await.expect("run");
    assert_eq!(output.status.code(), Some(64));
}

#[tokio::test]
async fn a_port_in_use_is_said_so() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("bound");
    let address = taken.local_addr().expect("bound").to_string();
    let output = duet().env("DUET_SERVER__LISTEN", &address).output().await.expect("run");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(1) && said.contains(&address) && said.contains("server.listen"), "{said}");
}

#[tokio::test]
async fn the_settings_in_force_can_be_printed() {
    let output = duet().arg("--check-config").env("DUET_TIMEOUTS__DRAIN", "7s").output().await.expect("run");
    let printed = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && printed.contains("[timeouts]") && printed.contains("drain = \"7s\""),
        "{printed}"
    );
}

async fn health(admin: &str, more: &[&str]) -> std::process::ExitStatus {
    duet().arg("health").args(more).env("DUET_ADMIN__LISTEN", admin).status().await.expect("run")
}

#[tokio::test]
async fn a_node_that_is_not_ready_is_not_healthy_but_alive() {
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").expect("bound");
    let redis = format!("redis://{}", nobody.local_addr().expect("bound"));
    let mut running = duet().env("DUET_REDIS__URL", redis).spawn().expect("started");
    let mut lines = BufReader::new(running.stderr.take().expect("piped")).lines();
    let admin = loop {
        let line = lines.next_line().await.expect("a log").expect("a line");
        let line: serde_json::Value = serde_json::from_str(&line).expect("JSON");
        if line["message"] == "listening" {
            break line["admin"].as_str().expect("an address").to_owned();
        }
    };
    let asked = duet().arg("health").env("DUET_ADMIN__LISTEN", &admin).output().await.expect("run");
    let said = String::from_utf8_lossy(&asked.stderr);
    assert!(asked.status.code() == Some(1) && said.contains("redis") && said.lines().count() == 1, "{said}");
    assert!(health(&admin, &["--live"]).await.success());
}

#[tokio::test]
async fn sigterm_ends_it_in_time_with_status_0_and_logs_are_json_without_a_terminal() {
    let mut running = duet().env("DUET_TIMEOUTS__DRAIN", "2s").spawn().expect("started");
    let mut lines = BufReader::new(running.stderr.take().expect("piped")).lines();
    let admin = loop {
        let line = lines.next_line().await.expect("a log").expect("a line");
        let line: serde_json::Value = serde_json::from_str(&line).expect("JSON");
        if line["message"] == "listening" {
            assert!(line["public"].as_str().is_some_and(|address| address.starts_with("127.0.0.1:")), "{line}");
            break line["admin"].as_str().expect("an address").to_owned();
        }
    };
    let pid = running.id().expect("running").to_string();
    assert!(health(&admin, &[]).await.success(), "it is ready");
    assert!(health(&admin, &["--live"]).await.success(), "it runs");
    assert!(Command::new("kill").args(["-TERM", &pid]).status().await.expect("kill").success());
    let status = tokio::time::timeout(Duration::from_secs(5), running.wait()).await.expect("in time").expect("ended");
    assert_eq!(status.code(), Some(0));
    assert_eq!(health(&admin, &["--live"]).await.code(), Some(1), "nobody answers");
    let mut rest = String::new();
    lines.into_inner().read_to_string(&mut rest).await.expect("the rest of the log");
    assert!(rest.contains("\"stopped\""), "{rest}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn settings_that_take_long_to_read_keep_nobody_from_ending_it() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("token");
    std::fs::write(&file, "sixteen-characters").expect("written");
    let path = file.to_str().expect("a path").to_owned();
    let mut node = NodeProcess::start("", &vec![("DUET_ADMIN__TOKEN_FILE".to_owned(), path.clone())]).await;
    std::fs::remove_file(&file).expect("removed");
    assert!(Command::new("mkfifo").arg(&path).status().await.expect("mkfifo").success());
    node.hang_up();
    // It can be opened once the node reads it, and as long as it is open here the node waits for more.
    let open = || std::fs::OpenOptions::new().write(true).custom_flags(nix::libc::O_NONBLOCK).open(&path).ok();
    let mut writer = None;
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while writer.is_none() {
        assert!(tokio::time::Instant::now() < deadline, "the node never reads it:\n{}", node.log());
        tokio::time::sleep(Duration::from_millis(5)).await;
        writer = open();
    }
    node.terminate();
    drop(writer);
}
