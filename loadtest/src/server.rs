//! The process under test: started, asked what it has used, and ended by its id.

use std::fs::File;
use std::io::{Read as _, Seek as _};
use std::net::SocketAddr;
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

const START: Duration = Duration::from_secs(15);
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

    /// Waits until it has used less than 1 % of a core for a while, at most `patience`.
    ///
    /// # Errors
    /// When the process has ended.
    pub async fn quiet(self, patience: Duration) -> anyhow::Result<()> {
        const STEP: Duration = Duration::from_millis(100);
        let (begin, mut idle, mut before) = (Instant::now(), 0, self.cpu()?);
        while idle < 3 && begin.elapsed() < patience {
            tokio::time::sleep(STEP).await;
            let now = self.cpu()?;
            idle = if now.saturating_sub(before) < STEP / 100 { idle + 1 } else { 0 };
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
    /// By the options of `bare-relay`.
    Bare(PathBuf),
}

impl Launch {
    /// The program.
    #[must_use]
    pub fn path(&self) -> &Path {
        match self {
            Self::Duet(path) | Self::Bare(path) => path,
        }
    }
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
        let (address, admin) = free_ports()?;
        let mut output = tempfile::tempfile()?;
        let mut command = Command::new(launch.path());
        match launch {
            Launch::Duet(_) => command
                .env_remove("RUST_LOG")
                .env("DUET_SERVER__LISTEN", address.to_string())
                .env("DUET_ADMIN__LISTEN", admin.to_string())
                .env("DUET_COMPAT__CLIENT_LOG", "false"),
            Launch::Bare(_) => command.arg("--listen").arg(address.to_string()),
        };
        let child = command
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output.try_clone()?)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("cannot start {}", launch.path().display()))?;
        let pid = child.id().context("it ended at once")?;
        let admin = matches!(launch, Launch::Duet(_)).then_some(admin);
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

    async fn ready(&mut self, admin: Option<SocketAddr>) -> anyhow::Result<()> {
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
                    Some(admin) => match readyz(admin).await {
                        Ok(false) => {}
                        Err(_) if since.elapsed() < WITHOUT_ADMIN => {}
                        Ok(true) | Err(_) => return Ok(()),
                    },
                }
            }
            ensure!(begin.elapsed() < START, "not ready within {START:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
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

/// Two ports that nobody listens on at this moment.
fn free_ports() -> anyhow::Result<(SocketAddr, SocketAddr)> {
    let listeners = [(); 2].map(|()| std::net::TcpListener::bind("127.0.0.1:0"));
    let [first, second] = listeners;
    Ok((first?.local_addr()?, second?.local_addr()?))
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

    #[tokio::test]
    async fn a_server_that_ends_at_once_is_reported_with_what_it_printed() {
        let launch = Launch::Bare("/bin/ls".into());
        let Err(error) = Server::start(&launch).await else { panic!("started") };
        let error = format!("{error:#}");
        assert!(error.contains("/bin/ls did not start") && error.contains("--listen"), "{error}");
    }
}
