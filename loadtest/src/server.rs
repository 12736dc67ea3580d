//! The process under test: started, asked what it has used, and ended by its id.

use std::fs::File;
use std::io::{Read as _, Seek as _};
use std::net::{SocketAddr, TcpListener};
use std::ops::Sub;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::time::ClockId;
use nix::unistd::Pid;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};

use crate::machine::kib;

/// A cluster's first nodes wait up to 10 s for whoever may still hold leases in its Redis.
const START: Duration = Duration::from_secs(30);
const STOP: Duration = Duration::from_secs(5);
/// A server without an admin listener counts as ready when its public one has answered for so long.
const WITHOUT_ADMIN: Duration = Duration::from_secs(1);

/// What a process has used, whoever started it.
#[derive(Clone, Copy, Debug)]
pub struct Process(Pid);

/// Resident memory, in KiB.
#[derive(Clone, Copy, Debug, Default, serde::Serialize)]
pub struct Memory {
    /// All pages in memory.
    pub rss: u64,
    /// Its pages, those shared with other processes counted by share.
    pub pss: u64,
    /// Its pages that no other process has.
    pub private: u64,
}

impl Process {
    /// The process with this id, if it can be measured.
    ///
    /// # Errors
    /// When there is no such process, or its memory may not be read.
    pub fn of(pid: u32) -> anyhow::Result<Self> {
        let process = Self::started(pid)?;
        process.cpu()?;
        process.memory()?;
        Ok(process)
    }

    /// A child just started, which may have ended already: waiting for it tells.
    fn started(pid: u32) -> anyhow::Result<Self> {
        Ok(Self(Pid::from_raw(i32::try_from(pid).context("no process id")?)))
    }

    /// CPU time of all its threads, ended ones too, to the nanosecond.
    ///
    /// # Errors
    /// When the process has ended.
    pub fn cpu(self) -> anyhow::Result<Duration> {
        let clock = ClockId::pid_cpu_clock_id(self.0).with_context(|| format!("process {} is gone", self.0))?;
        Ok(clock.now()?.into())
    }

    /// Its resident memory now.
    ///
    /// # Errors
    /// When the process has ended.
    pub fn memory(self) -> anyhow::Result<Memory> {
        let path = format!("/proc/{}/smaps_rollup", self.0);
        let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
        let figure = |name| kib(&text, name).with_context(|| format!("no {name} in {path}"));
        let private = figure("Private_Clean")? + figure("Private_Dirty")?;
        Ok(Memory { rss: figure("Rss")?, pss: figure("Pss")?, private })
    }
}

/// The processes of one server: its nodes, and the Redis that they share.
#[derive(Clone, Debug)]
pub struct Processes {
    /// At least one.
    pub nodes: Vec<Process>,
    /// None for a node that is alone.
    pub redis: Option<Process>,
}

/// CPU time of a server's processes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Used {
    /// All nodes together.
    pub nodes: Duration,
    /// The Redis they share.
    pub redis: Duration,
}

impl Used {
    /// Nodes and Redis.
    #[must_use]
    pub fn total(self) -> Duration {
        self.nodes + self.redis
    }
}

impl Sub for Used {
    type Output = Self;

    /// Nothing where it would be negative.
    fn sub(self, other: Self) -> Self {
        Self { nodes: self.nodes.saturating_sub(other.nodes), redis: self.redis.saturating_sub(other.redis) }
    }
}

impl From<Process> for Processes {
    fn from(node: Process) -> Self {
        Self { nodes: vec![node], redis: None }
    }
}

impl Processes {
    /// CPU time of each of them, put together.
    ///
    /// # Errors
    /// When one of them has ended.
    pub fn cpu(&self) -> anyhow::Result<Used> {
        let mut used = Used::default();
        for node in &self.nodes {
            used.nodes += node.cpu()?;
        }
        if let Some(redis) = self.redis {
            used.redis = redis.cpu()?;
        }
        Ok(used)
    }

    /// Resident memory of all nodes, without Redis.
    ///
    /// # Errors
    /// When one of them has ended.
    pub fn memory(&self) -> anyhow::Result<Memory> {
        let mut all = Memory::default();
        for node in &self.nodes {
            let Memory { rss, pss, private } = node.memory()?;
            all = Memory { rss: all.rss + rss, pss: all.pss + pss, private: all.private + private };
        }
        Ok(all)
    }

    /// Waits until each of them has used less than 1 % of a core for a while, at most `patience`.
    ///
    /// # Errors
    /// When one of them has ended.
    pub async fn quiet(&self, patience: Duration) -> anyhow::Result<()> {
        const STEP: Duration = Duration::from_millis(100);
        let all =
            || self.nodes.iter().chain(&self.redis).map(|process| process.cpu()).collect::<anyhow::Result<Vec<_>>>();
        let (begin, mut idle, mut before) = (Instant::now(), 0, all()?);
        while idle < 3 && begin.elapsed() < patience {
            tokio::time::sleep(STEP).await;
            let now = all()?;
            let quiet = now.iter().zip(&before).all(|(now, before)| now.saturating_sub(*before) < STEP / 100);
            idle = if quiet { idle + 1 } else { 0 };
            before = now;
        }
        Ok(())
    }
}

/// How to start a server that is to be measured.
#[derive(Clone, Debug)]
pub enum Launch {
    /// By the settings of the contract, in the environment.
    Duet(PathBuf),
    /// The same with one thread, as each of several nodes on this machine gets its share of the cores, and as the reference
    /// has it; with the Redis at this address, if any.
    DuetNode(PathBuf, Option<SocketAddr>, Heartbeats),
    /// By the options of `bare-relay`.
    Bare(PathBuf),
    /// By the options of `bare-cluster`, with the Redis at this address.
    BareNode(PathBuf, SocketAddr),
    /// A script for Node.js, with `PORT` and `REDIS_URL` in its environment.
    Script(PathBuf, SocketAddr),
    /// A `redis-server` that keeps nothing.
    Redis(PathBuf),
}

impl Launch {
    /// The program.
    #[must_use]
    pub fn path(&self) -> &Path {
        match self {
            Self::Duet(path)
            | Self::DuetNode(path, ..)
            | Self::Bare(path)
            | Self::BareNode(path, _)
            | Self::Script(path, _)
            | Self::Redis(path) => path,
        }
    }

    fn command(&self, [address, admin]: [SocketAddr; 2]) -> Command {
        let mut command = Command::new(self.path());
        match self {
            Self::Duet(_) | Self::DuetNode(..) => {
                command
                    .env_remove("RUST_LOG")
                    .env_remove("DUET_REDIS__URL")
                    .env("DUET_SERVER__LISTEN", address.to_string())
                    .env("DUET_ADMIN__LISTEN", admin.to_string())
                    .env("DUET_COMPAT__CLIENT_LOG", "false")
                    // What is measured is what it can do, not what a stranger may.
                    .env("DUET_LIMITS__EVENTS", "0")
                    .env("DUET_LIMITS__FRAMES", "0");
                if let Self::DuetNode(_, redis, heartbeats) = self {
                    command.env("DUET_SERVER__WORKER_THREADS", "1");
                    if *heartbeats == Heartbeats::Rare {
                        command.env("DUET_TIMEOUTS__PING_INTERVAL", "10m");
                    }
                    if let Some(redis) = redis {
                        command.env("DUET_REDIS__URL", format!("redis://{redis}/"));
                    }
                }
            }
            Self::Bare(_) => {
                command.arg("--listen").arg(address.to_string());
            }
            Self::BareNode(_, redis) => {
                command.arg("--listen").arg(address.to_string()).arg("--redis").arg(redis.to_string());
            }
            Self::Script(script, redis) => {
                command = Command::new("node");
                command
                    .arg(script)
                    .env("PORT", address.port().to_string())
                    .env("REDIS_URL", format!("redis://{redis}/"))
                    .env("NODE_ENV", "production")
                    .env_remove("NODE_OPTIONS");
            }
            Self::Redis(_) => {
                command.arg("--bind").arg(address.ip().to_string()).arg("--port").arg(address.port().to_string());
                command.args(["--save", "", "--appendonly", "no", "--daemonize", "no"]);
            }
        }
        command
    }

    /// Whether it has an admin listener: for sure, or perhaps.
    const fn admin(&self) -> Option<Admin> {
        match self {
            Self::Duet(_) => Some(Admin::Perhaps),
            Self::DuetNode(..) => Some(Admin::Surely),
            Self::Bare(_) | Self::BareNode(..) | Self::Script(..) | Self::Redis(_) => None,
        }
    }
}

/// How often a node asks its clients whether they are there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heartbeats {
    /// As by default.
    Usual,
    /// Not while anything is measured.
    Rare,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Admin {
    Perhaps,
    Surely,
}

/// A child process on loopback ports of its own. Killed when dropped.
pub struct Server {
    child: Child,
    /// To ask what it has used.
    pub process: Process,
    /// Where it serves.
    pub address: SocketAddr,
    output: File,
}

impl Server {
    /// Starts it and waits until it serves.
    ///
    /// # Errors
    /// When it cannot be started, ends, or is not ready in time; with the end of what it printed.
    pub async fn start(launch: &Launch) -> anyhow::Result<Self> {
        Self::start_all(launch, 1).await?.pop().context("one was started")
    }

    /// Starts as many as there are ports and waits until all of them serve.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub async fn start_all(launch: &Launch, count: usize) -> anyhow::Result<Vec<Self>> {
        let starting = free_ports(count)?.into_iter().map(|ports| Self::start_at(launch, ports));
        futures_util::future::try_join_all(starting).await
    }

    async fn start_at(launch: &Launch, ports: [SocketAddr; 2]) -> anyhow::Result<Self> {
        let [address, admin] = ports;
        let mut output = tempfile::tempfile()?;
        let child = launch
            .command(ports)
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output.try_clone()?)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("cannot start {}", launch.path().display()))?;
        let pid = child.id().context("it ended at once")?;
        let admin = launch.admin().map(|how| (admin, how));
        let mut server = Self { child, process: Process::started(pid)?, address, output: output.try_clone()? };
        if let Err(error) = server.ready(admin).await {
            let mut printed = String::new();
            output.rewind()?;
            output.take(64 << 10).read_to_string(&mut printed).ok();
            let last: Vec<_> = printed.lines().rev().take(5).collect();
            let last = last.into_iter().rev().collect::<Vec<_>>().join("\n  ");
            bail!("{} did not start: {error:#}\n  {last}", launch.path().display());
        }
        Ok(server)
    }

    async fn ready(&mut self, admin: Option<(SocketAddr, Admin)>) -> anyhow::Result<()> {
        let begin = Instant::now();
        let mut listening_since = None;
        loop {
            if let Some(status) = self.child.try_wait()? {
                bail!("it ended with {status}");
            }
            if TcpStream::connect(self.address).await.is_ok() {
                let since = *listening_since.get_or_insert_with(Instant::now);
                match admin {
                    None => return Ok(()),
                    Some((admin, how)) => match readyz(admin).await {
                        Ok(true) => return Ok(()),
                        Err(_) if how == Admin::Perhaps && since.elapsed() >= WITHOUT_ADMIN => return Ok(()),
                        Ok(false) | Err(_) => {}
                    },
                }
            }
            ensure!(begin.elapsed() < START, "not ready within {START:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Kills it without a word, and returns when that was.
    ///
    /// # Errors
    /// When it has ended before, or cannot be waited for.
    pub async fn kill(&mut self) -> anyhow::Result<Instant> {
        let now = Instant::now();
        self.child.start_kill().context("it had ended before")?;
        self.child.wait().await?;
        Ok(now)
    }

    /// Asks it to end, and kills it if it does not.
    ///
    /// # Errors
    /// When it cannot be waited for.
    pub async fn stop(mut self) -> anyhow::Result<()> {
        kill(self.process.0, Signal::SIGTERM).ok();
        if tokio::time::timeout(STOP, self.child.wait()).await.is_err() {
            self.child.kill().await?;
        }
        drop(self.output);
        Ok(())
    }
}

/// Whether the node says it can seat peers.
async fn readyz(admin: SocketAddr) -> anyhow::Result<bool> {
    let mut stream = TcpStream::connect(admin).await?;
    stream.write_all(format!("GET /readyz HTTP/1.1\r\nHost: {admin}\r\nConnection: close\r\n\r\n").as_bytes()).await?;
    let mut answer = Vec::new();
    tokio::time::timeout(Duration::from_secs(2), stream.read_to_end(&mut answer)).await??;
    Ok(answer.starts_with(b"HTTP/1.1 200"))
}

/// Pairs of ports that nobody listens on at this moment, all different.
fn free_ports(pairs: usize) -> anyhow::Result<Vec<[SocketAddr; 2]>> {
    let bind = || TcpListener::bind("127.0.0.1:0");
    let held = (0..pairs).map(|_| Ok([bind()?, bind()?])).collect::<std::io::Result<Vec<_>>>()?;
    held.iter().map(|[first, second]| Ok([first.local_addr()?, second.local_addr()?])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_time_of_a_process_grows_with_its_work() {
        let own = Process::of(std::process::id()).unwrap();
        let before = own.cpu().unwrap();
        let begin = Instant::now();
        while begin.elapsed() < Duration::from_millis(20) {
            std::hint::spin_loop();
        }
        assert!(own.cpu().unwrap() >= before + Duration::from_millis(5));
    }

    #[test]
    fn memory_of_a_process_is_read_and_private_is_part_of_it() {
        let memory = Process::of(std::process::id()).unwrap().memory().unwrap();
        assert!(memory.private > 0 && memory.private <= memory.rss, "{memory:?}");
    }

    #[test]
    fn the_cpu_time_of_a_server_is_that_of_its_nodes_and_its_redis() {
        let own = Process::of(std::process::id()).unwrap();
        let before = own.cpu().unwrap();
        let used = Processes { nodes: vec![own, own], redis: Some(own) }.cpu().unwrap();
        assert!(used.redis >= before && used.nodes >= before * 2 && used.total() == used.nodes + used.redis);
        assert_eq!(Processes::from(own).cpu().unwrap().redis, Duration::ZERO);
        assert_eq!(Used::default() - used, Used::default());
    }

    #[test]
    fn free_ports_are_all_different() {
        let ports: std::collections::HashSet<_> = free_ports(50).unwrap().into_iter().flatten().collect();
        assert_eq!(ports.len(), 100);
    }

    #[tokio::test]
    async fn a_server_that_ends_at_once_is_reported_with_what_it_printed() {
        let launch = Launch::Bare("/bin/ls".into());
        let Err(error) = Server::start(&launch).await else { panic!("started") };
        let error = format!("{error:#}");
        assert!(error.contains("/bin/ls did not start") && error.contains("--listen"), "{error}");
    }
}
