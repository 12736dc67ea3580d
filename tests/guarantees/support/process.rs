//! A node as a process of its own, to be killed and frozen.

use std::{
    net::SocketAddr,
    process::{Child, Command},
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use super::{PATIENCE, cluster::Variables, get};

/// A running `duet`.
pub struct NodeProcess {
    pub public: SocketAddr,
    pub admin: SocketAddr,
    child: Child,
    log: tempfile::NamedTempFile,
    output: tempfile::NamedTempFile,
}

impl NodeProcess {
    /// Starts it on `redis`; it may not be ready yet.
    pub async fn start(redis: &str, settings: &Variables) -> Self {
        let [log, output] = [(); 2].map(|()| tempfile::NamedTempFile::new().expect("a file"));
        // Many a test says more at once than a client should, unless it is about the limits of that very file.
        let limits = if settings.iter().any(|(key, _)| key == "DUET_CONFIG") { None } else { Some("0") };
        let child = Command::new(env!("CARGO_BIN_EXE_duet"))
            .env_clear()
            .env("DUET_SERVER__LISTEN", "127.0.0.1:0")
            .env("DUET_ADMIN__LISTEN", "127.0.0.1:0")
            .env("DUET_COMPAT__CLIENT_LOG", "false")
            .env("DUET_LOG__FORMAT", "json")
            .env("DUET_REDIS__URL", redis)
            .envs(limits.map(|none| ("DUET_LIMITS__EVENTS", none)))
            .envs(settings.iter().map(|(key, value)| (key, value)))
            .stdout(output.reopen().expect("the file"))
            .stderr(log.reopen().expect("the file"))
            .spawn()
            .expect("started");
        let mut node = Self { public: ([0, 0, 0, 0], 0).into(), admin: ([0, 0, 0, 0], 0).into(), child, log, output };
        let listening = wait_for(|| node.line("listening")).await;
        let address = |what: &str| listening[what].as_str().expect("an address").parse().expect("an address");
        (node.public, node.admin) = (address("public"), address("admin"));
        node
    }

    /// Starts `count` nodes and waits until all are ready.
    pub async fn start_all(urls: &[String], settings: &Variables) -> Vec<Self> {
        let mut nodes = Vec::new();
        for url in urls {
            nodes.push(Self::start(url, settings).await);
        }
        for node in &nodes {
            node.until_ready().await;
        }
        nodes
    }

    pub async fn until_ready(&self) {
        let ready = tokio::time::timeout(PATIENCE, async {
            while !self.is_ready().await {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        });
        if ready.await.is_err() {
            let answer = tokio::time::timeout(PATIENCE, get(self.admin, "/readyz")).await;
            let said = std::fs::read_to_string(self.output.path()).unwrap_or_default();
            panic!("the node never was ready: {answer:?}\n{}{said}", self.log());
        }
    }

    pub async fn is_ready(&self) -> bool {
        get(self.admin, "/readyz").await.0 == 200
    }

    /// The value of one metric.
    pub async fn metric(&self, name: &str) -> f64 {
        let (_, text) = get(self.admin, "/metrics").await;
        text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok()).unwrap_or(0.0)
    }

    /// All that it has logged.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.log.path()).expect("the log")
    }

    /// What it has written to standard output.
    pub fn output(&self) -> String {
        std::fs::read_to_string(self.output.path()).expect("the output")
    }

    /// The first logged line with that message.
    pub fn line(&self, message: &str) -> Option<serde_json::Value> {
        self.log()
            .lines()
            .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
            .find(|line| line["message"] == message)
    }

    /// Memory that it has in use now, and the most that it ever had: `VmRSS` and `VmHWM` of `proc_pid_status(5)`, in KiB.
    pub fn memory_kib(&self) -> (u64, u64) {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).expect("a running process");
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).expect("a field");
            line.trim().trim_end_matches(" kB").parse().expect("a number")
        };
        (field("VmRSS:"), field("VmHWM:"))
    }

    /// SIGKILL, and gone on return.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Stops in order.
    pub fn terminate(&mut self) {
        self.signal(Signal::SIGTERM);
        let until = Instant::now() + PATIENCE * 2;
        let status = loop {
            if let Some(status) = self.child.try_wait().expect("a child") {
                break status;
            }
            assert!(Instant::now() < until, "it does not end:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(5));
        };
        assert!(status.success(), "{}", self.log());
    }

    /// Asks it to read its settings again.
    pub fn hang_up(&self) {
        self.signal(Signal::SIGHUP);
    }

    pub fn freeze(&self) {
        self.signal(Signal::SIGSTOP);
    }

    pub fn wake(&self) {
        self.signal(Signal::SIGCONT);
    }

    fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(i32::try_from(self.child.id()).expect("a pid"));
        kill(pid, signal).expect("signalled");
    }
}

impl Drop for NodeProcess {
    fn drop(&mut self) {
        self.kill();
    }
}

async fn wait_for<T>(mut look: impl FnMut() -> Option<T>) -> T {
    let waited = tokio::time::timeout(super::PATIENCE, async {
        loop {
            if let Some(found) = look() {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
    waited.await.expect("in time")
}
