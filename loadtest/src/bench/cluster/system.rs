//! What is measured: nodes of duet, of the reference or of bare relays, each cluster with a Redis of its own, and what they need
//! installed.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Instant;

use anyhow::{Context as _, bail, ensure};
use futures_util::future::try_join_all;
use tokio::process::Command;

use crate::bench::Subject;
use crate::crowd::InFlight;
use crate::peer::Manner;
use crate::server::{Heartbeats, Launch, Processes, Server};
use crate::target::{Dialect, Target};

/// A server that several nodes can make up.
#[derive(Clone, Debug)]
pub enum System {
    /// The program.
    Duet(PathBuf),
    /// The script for Node.js.
    Reference(PathBuf),
    /// `bare-cluster`: the least that it can cost.
    Bare(PathBuf),
}

impl System {
    /// The reference in this directory, with what it needs.
    ///
    /// # Errors
    /// When Node.js is not there or does not get the packages.
    pub async fn reference(directory: &Path) -> anyhow::Result<Self> {
        const INSTALL: &str = "install Node.js 20 or newer, or leave the reference out (--skip-reference)";
        let script = directory.join("server.mjs");
        ensure!(script.is_file(), "there is no {}: say where the reference is (--reference)", script.display());
        require("node", INSTALL).await?;
        // What npm writes last.
        if !directory.join("node_modules/.package-lock.json").is_file() {
            require("npm", INSTALL).await?;
            eprintln!("npm ci in {}", directory.display());
            let status = Command::new("npm").args(["ci", "--silent"]).current_dir(directory).status().await?;
            ensure!(status.success(), "npm ci in {} ended with {status}", directory.display());
        }
        Ok(Self::Reference(script))
    }

    /// What it is called in a table.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Duet(_) => "duet",
            Self::Reference(_) => "Node.js",
            Self::Bare(_) => "bare cluster",
        }
    }

    /// What it is called at a rate at which eight nodes have as much to do each as two have otherwise; nothing if it does not
    /// reach that rate.
    #[must_use]
    pub const fn busy_name(&self) -> Option<&'static str> {
        match self {
            Self::Duet(_) => Some(super::BUSY),
            Self::Reference(_) => None,
            Self::Bare(_) => Some(super::BARE_BUSY),
        }
    }

    const fn dialect(&self) -> Dialect {
        match self {
            Self::Duet(_) | Self::Reference(_) => Dialect::Socketio,
            Self::Bare(_) => Dialect::Bare,
        }
    }

    /// Whether so many nodes share a Redis. duet needs none when it is alone.
    const fn shares(&self, nodes: usize) -> bool {
        nodes > 1 || !matches!(self, Self::Duet(_))
    }
}

/// Fails with a sentence if a program is not there.
///
/// # Errors
/// When it cannot be started.
pub async fn require(program: &str, install: &str) -> anyhow::Result<()> {
    match Command::new(program).arg("--version").stdout(Stdio::null()).status().await {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == ErrorKind::NotFound => bail!("there is no {program}: {install}"),
        Err(error) => Err(error).with_context(|| format!("cannot start {program}")),
    }
}

/// The Redis of a cluster, empty at its start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Redis {
    /// There is none.
    None,
    /// It is there, and no node knows of it: what it uses is its own.
    Idle,
    /// The nodes share it.
    Shared,
}

/// Nodes that serve, with their Redis. Killed when dropped.
pub struct Cluster {
    launch: Launch,
    nodes: Vec<Server>,
    redis: Option<Server>,
    dialect: Dialect,
}

impl Cluster {
    /// Starts so many nodes, with a Redis that they share if they need one, and waits until all of them are ready.
    ///
    /// # Errors
    /// When one does not start.
    pub async fn start(system: &System, nodes: usize) -> anyhow::Result<Self> {
        let redis = if system.shares(nodes) { Redis::Shared } else { Redis::None };
        Self::start_with(system, nodes, redis, Heartbeats::Usual).await
    }

    /// The same with that Redis, and with heartbeats as they are said to be, where it is duet.
    ///
    /// # Errors
    /// When one does not start.
    pub async fn start_with(
        system: &System,
        nodes: usize,
        redis: Redis,
        heartbeats: Heartbeats,
    ) -> anyhow::Result<Self> {
        let kind = redis;
        let redis = match kind {
            Redis::None => None,
            Redis::Idle | Redis::Shared => {
                Some(Server::start(&Launch::Redis(PathBuf::from("redis-server"))).await.context("Redis")?)
            }
        };
        let known = redis.as_ref().filter(|_| kind == Redis::Shared).map(|redis| redis.address);
        let launch = match (system, known) {
            (System::Duet(path), redis) => Launch::DuetNode(path.clone(), redis, heartbeats),
            (System::Reference(script), Some(redis)) => Launch::Script(script.clone(), redis),
            (System::Bare(path), Some(redis)) => Launch::BareNode(path.clone(), redis),
            (System::Reference(_) | System::Bare(_), None) => bail!("{} needs a Redis", system.name()),
        };
        let nodes = Server::start_all(&launch, nodes).await?;
        Ok(Self { launch, nodes, redis, dialect: system.dialect() })
    }

    /// Where a node serves.
    #[must_use]
    pub fn address(&self, node: usize) -> SocketAddr {
        self.nodes[node].address
    }

    /// Kills a node, and returns when that was.
    ///
    /// # Errors
    /// When it cannot be killed.
    pub async fn kill(&mut self, node: usize) -> anyhow::Result<Instant> {
        self.nodes[node].kill().await
    }

    /// Starts another in the place of one that was killed, and waits until it is ready.
    ///
    /// # Errors
    /// When it does not start.
    pub async fn start_again(&mut self, node: usize) -> anyhow::Result<()> {
        self.nodes[node] = Server::start(&self.launch).await?;
        Ok(())
    }

    /// What a scenario needs to load it.
    #[must_use]
    pub fn subject(&self, in_flight: usize) -> Subject {
        let target = |node: &Server| Target { address: node.address, dialect: self.dialect, browser_headers: false };
        Subject {
            targets: self.nodes.iter().map(target).collect(),
            processes: Processes {
                nodes: self.nodes.iter().map(|node| node.process).collect(),
                redis: self.redis.as_ref().map(|redis| redis.process),
            },
            manner: Manner::default(),
            in_flight: InFlight(in_flight),
        }
    }

    /// Ends all nodes at once, then their Redis.
    ///
    /// # Errors
    /// When they cannot be waited for.
    pub async fn stop(self) -> anyhow::Result<()> {
        try_join_all(self.nodes.into_iter().map(Server::stop)).await?;
        match self.redis {
            Some(redis) => redis.stop().await,
            None => Ok(()),
        }
    }
}
