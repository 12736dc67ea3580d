//! Real Redis processes on loopback: one server, a primary and its replica under three sentinels, a cluster of six. Each
//! has its data in a temporary directory, and is gone, with that directory, when it is dropped.

use std::{
    fs, io,
    net::{Ipv4Addr, TcpListener},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU16, Ordering},
    time::Duration,
};

use futures_util::future::join_all;
use nix::{
    sys::{
        signal::{Signal, kill},
        wait::{Id, WaitPidFlag, waitid},
    },
    unistd::Pid,
};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader},
    net::{TcpStream, UnixStream},
};

use super::{PATIENCE, wait_until};

/// The name under which the sentinels know the primary.
pub const MASTER: &str = "mymaster";

/// How a server is to be started; by default without password, log, TLS and cluster, on a free port.
#[derive(Debug, Clone, Default)]
pub struct RedisOptions {
    pub port: Option<u16>,
    /// Of the default user.
    pub password: Option<String>,
    /// Name and password of a user that may touch only what is named `duet:…`, and manage nothing.
    pub acl_user: Option<(String, String)>,
    /// Every write is on disk before it is answered.
    pub append_only: bool,
    pub tls: bool,
    /// Further arguments of the server.
    pub extra: Vec<String>,
    pub cluster: bool,
}

/// A server, or a sentinel.
pub struct Redis {
    options: RedisOptions,
    port: u16,
    is_sentinel: bool,
    process: Option<Child>,
    directory: TempDir,
}

impl Redis {
    /// Starts a server, and waits until it answers.
    pub async fn start(options: RedisOptions) -> Self {
        Self::start_as(options, None).await
    }

    async fn start_as(options: RedisOptions, watches: Option<u16>) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let mut redis = Self { options, port: 0, is_sentinel: watches.is_some(), process: None, directory };
        if redis.options.tls {
            redis.certify();
        }
        if let Some(primary) = watches {
            redis.configure(primary);
        }
        for _ in 0..20 {
            redis.port = redis.options.port.unwrap_or_else(free_port);
            match redis.launch().await {
                Ok(()) => return redis,
                Err(log) if redis.options.port.is_none() && log.contains("Address already in use") => {}
                Err(log) => panic!("no Redis on port {}:\n{log}", redis.port),
            }
        }
        panic!("no free port for a Redis");
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// Where a client finds it; with the ACL user if there is one, else with the password if there is one.
    pub fn url(&self) -> String {
        let encode = |text| utf8_percent_encode(text, NON_ALPHANUMERIC);
        let user = match (&self.options.acl_user, &self.options.password) {
            (Some((name, password)), _) => format!("{}:{}@", encode(name), encode(password)),
            (None, Some(password)) => format!(":{}@", encode(password)),
            (None, None) => String::new(),
        };
        format!("redis{}://{user}127.0.0.1:{}", if self.options.tls { "s" } else { "" }, self.port)
    }

    /// Of a TLS server: the certificate of the authority that signed its own.
    pub fn ca_file(&self) -> PathBuf {
        self.directory.path().join("ca.crt")
    }

    /// Where its data, log and certificates are.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// The id of the running process.
    pub fn pid(&self) -> u32 {
        self.process.as_ref().expect("running").id()
    }

    /// What the process has logged since its start.
    pub fn log(&self) -> String {
        fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }

    /// Ends the process with SIGKILL; it is gone on return.
    pub fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().expect("killed");
            process.wait().expect("reaped");
        }
    }

    /// Starts the process again on its port, ending it first if it runs. The data is back if there is a log of it.
    pub async fn restart(&mut self) {
        self.kill();
        if !self.options.append_only {
            // What a full synchronisation with a primary leaves behind.
            let _ = fs::remove_file(self.directory.path().join("dump.rdb"));
        }
        self.launch_again().await;
    }

    /// Kills it and starts it again with what it was last told to SAVE.
    pub async fn restart_as_saved(&mut self) {
        self.kill();
        self.launch_again().await;
    }

    async fn launch_again(&mut self) {
        if let Err(log) = self.launch().await {
            panic!("no Redis again on port {}:\n{log}", self.port);
        }
    }

    /// Stops the process where it is: connections stay open and are accepted, and nothing answers. It is so on return.
    pub fn stall(&self) {
        let pid = self.signal(Signal::SIGSTOP);
        let stopped = WaitPidFlag::WSTOPPED | WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT;
        waitid(Id::Pid(pid), stopped).expect("stopped");
    }

    /// Lets a stalled process go on.
    pub fn resume(&self) {
        self.signal(Signal::SIGCONT);
    }

    fn signal(&self, signal: Signal) -> Pid {
        let pid = Pid::from_raw(i32::try_from(self.pid()).expect("a process id"));
        kill(pid, signal).expect("signalled");
        pid
    }

    /// One command of the default user, on a connection of its own; the answer as it is on the wire.
    pub async fn command(&self, words: &[&str]) -> String {
        self.try_command(words).await.unwrap_or_else(|error| panic!("{words:?}: {error}"))
    }

    /// The same for a server that may be down, or that sentinels give another role: then it closes connections.
    pub async fn try_command(&self, words: &[&str]) -> io::Result<String> {
        tokio::time::timeout(PATIENCE, self.ask(words)).await?
    }

    async fn ask(&self, words: &[&str]) -> io::Result<String> {
        if self.options.tls {
            // TLS is for the clients under test; here the same server is asked by its other door.
            self.ask_over(UnixStream::connect(self.directory.path().join("socket")).await?, words).await
        } else {
            self.ask_over(TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).await?, words).await
        }
    }

    async fn ask_over(&self, stream: impl AsyncRead + AsyncWrite + Unpin, words: &[&str]) -> io::Result<String> {
        let mut stream = BufReader::new(stream);
        if let Some(password) = &self.options.password {
            let answer = exchange(&mut stream, &["AUTH", password]).await?;
            assert_eq!(answer, "+OK\r\n");
        }
        exchange(&mut stream, words).await
    }

    /// Starts the process on its port, and waits until it answers. If it ends instead: its log.
    async fn launch(&mut self) -> Result<(), String> {
        let log = fs::File::create(self.directory.path().join("log")).expect("a log");
        let process = Command::new(if self.is_sentinel { "redis-sentinel" } else { "redis-server" })
            .args(self.arguments())
            .current_dir(self.directory.path())
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a log"))
            .stderr(log)
            .spawn();
        self.process = Some(process.expect("redis-server and redis-sentinel are installed"));
        let ready = if self.is_sentinel { "Sentinel ID is" } else { "Ready to accept connections" };
        let answers = async {
            loop {
                if let Some(Ok(Some(_))) = self.process.as_mut().map(Child::try_wait) {
                    self.process = None;
                    return Err(self.log());
                }
                // Its own log tells that it, and no other server, has the port.
                if self.log().contains(ready) && self.ask(&["PING"]).await.is_ok_and(|answer| answer == "+PONG\r\n") {
                    return Ok(());
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let answered = tokio::time::timeout(PATIENCE, answers).await;
        answered.unwrap_or_else(|_| panic!("a Redis that does not answer:\n{}", self.log()))
    }

    fn arguments(&self) -> Vec<String> {
        let port = self.port.to_string();
        let mut arguments = Vec::new();
        let mut add = |words: &[&str]| arguments.extend(words.iter().map(|&word| word.to_owned()));
        if self.is_sentinel {
            add(&["sentinel.conf", "--port", &port, "--bind", "127.0.0.1"]);
            return arguments;
        }
        add(&["--bind", "127.0.0.1", "--save", "", "--repl-diskless-sync-delay", "0"]);
        add(if self.options.append_only {
            &["--appendonly", "yes", "--appendfsync", "always"]
        } else {
            &["--appendonly", "no"]
        });
        if self.options.tls {
            add(&["--port", "0", "--tls-port", &port, "--tls-auth-clients", "no", "--unixsocket", "socket"]);
            add(&["--tls-ca-cert-file", "ca.crt", "--tls-cert-file", "server.crt", "--tls-key-file", "server.key"]);
        } else {
            add(&["--port", &port]);
        }
        if self.options.cluster {
            add(&["--cluster-enabled", "yes", "--cluster-config-file", "nodes.conf"]);
            add(&["--cluster-node-timeout", "1500", "--cluster-allow-replica-migration", "no"]);
        }
        if let Some(password) = &self.options.password {
            add(&["--requirepass", password]);
        }
        if let Some((name, password)) = &self.options.acl_user {
            add(&["--user", name, "on", &format!(">{password}"), "~duet:*", "&duet:*"]);
            // Clients ask for the version and the role; both count as dangerous.
            add(&["+@all", "-@dangerous", "+info", "+role"]);
        }
        arguments.extend(self.options.extra.iter().cloned());
        arguments
    }

    /// Writes what a sentinel begins with; it keeps what it learns in the same file.
    fn configure(&self, primary: u16) {
        let settings = format!(
            "sentinel monitor {MASTER} 127.0.0.1 {primary} 2\nsentinel down-after-milliseconds {MASTER} 1000\n\
             sentinel failover-timeout {MASTER} 5000\nsentinel parallel-syncs {MASTER} 1\n"
        );
        fs::write(self.directory.path().join("sentinel.conf"), settings).expect("written");
    }

    /// Makes an authority, and a certificate for this host signed by it.
    fn certify(&self) {
        let settings = "[req]\ndistinguished_name = name\n[name]\n\
            [ca]\nbasicConstraints = critical, CA:TRUE\nkeyUsage = critical, keyCertSign, cRLSign\n\
            subjectKeyIdentifier = hash\n\
            [server]\nbasicConstraints = critical, CA:FALSE\nkeyUsage = critical, digitalSignature\n\
            extendedKeyUsage = serverAuth\nauthorityKeyIdentifier = keyid\n\
            subjectAltName = IP:127.0.0.1, DNS:localhost\n";
        fs::write(self.directory.path().join("openssl.cnf"), settings).expect("written");
        let common = "req -x509 -config openssl.cnf -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2";
        for of_its_own in [
            "-subj /CN=duet-test-authority -extensions ca -keyout ca.key -out ca.crt",
            "-subj /CN=localhost -extensions server -keyout server.key -out server.crt -CA ca.crt -CAkey ca.key",
        ] {
            let output = Command::new("openssl")
                .args(common.split(' ').chain(of_its_own.split(' ')))
                .current_dir(self.directory.path())
                .stdin(Stdio::null())
                .output()
                .expect("openssl is installed");
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        }
    }
}

impl Drop for Redis {
    /// Before the directory is removed, the process that writes to it is gone.
    fn drop(&mut self) {
        self.kill();
    }
}

/// A primary with one replica, watched by three sentinels.
pub struct Sentinels {
    /// The primary of the start, and its replica.
    pub servers: [Redis; 2],
    pub sentinels: [Redis; 3],
}

impl Sentinels {
    /// Starts all five, and waits until a failover would succeed.
    pub async fn start() -> Self {
        let primary = Redis::start(RedisOptions::default()).await;
        let of = ["--replicaof".to_owned(), "127.0.0.1".to_owned(), primary.port().to_string()];
        let replica = Redis::start(RedisOptions { extra: of.to_vec(), ..RedisOptions::default() }).await;
        // A sentinel asks the primary for its replicas at once, then not for another ten seconds.
        wait_until("the replica is in step", || attached(&primary)).await;
        let watch = || Redis::start_as(RedisOptions::default(), Some(primary.port()));
        let (first, second, third) = tokio::join!(watch(), watch(), watch());
        let sentinels = [first, second, third];
        for sentinel in &sentinels {
            wait_until("the sentinel knows all others", || async {
                let primary = sentinel.command(&["SENTINEL", "MASTER", MASTER]).await;
                let replicas = sentinel.command(&["SENTINEL", "REPLICAS", MASTER]).await;
                let quorum = sentinel.command(&["SENTINEL", "CKQUORUM", MASTER]).await;
                field(&primary, "num-slaves") == Some("1")
                    && field(&primary, "num-other-sentinels") == Some("2")
                    && field(&replicas, "master-link-status") == Some("ok")
                    && quorum.starts_with("+OK 3 ")
            })
            .await;
        }
        Self { servers: [primary, replica], sentinels }
    }

    pub fn url(&self) -> String {
        format!("redis+sentinel://{}/{MASTER}", addresses(&self.sentinels))
    }

    /// Which port has the primary, as the first sentinel that runs has it.
    pub async fn primary_port(&self) -> u16 {
        let sentinel = self.sentinels.iter().find(|sentinel| sentinel.process.is_some()).expect("a sentinel");
        let answer = sentinel.command(&["SENTINEL", "GET-MASTER-ADDR-BY-NAME", MASTER]).await;
        answer.lines().last().and_then(|port| port.parse().ok()).expect("a port")
    }

    /// Kills the primary of now; its port. It may be started again, as one of `servers`.
    pub async fn kill_primary(&mut self) -> u16 {
        let port = self.primary_port().await;
        self.servers.iter_mut().find(|server| server.port == port).expect("one of the servers").kill();
        port
    }
}

/// Three primaries with a replica each.
pub struct RedisCluster {
    pub servers: Vec<Redis>,
}

impl RedisCluster {
    /// Starts all six, and waits until each has all slots served and its replica or primary attached.
    pub async fn start() -> Self {
        let start = |_| Redis::start(RedisOptions { cluster: true, ..RedisOptions::default() });
        let servers = join_all((0..6).map(start)).await;
        let output = tokio::process::Command::new("redis-cli")
            .args(["--cluster", "create"])
            .args(addresses(&servers).split(','))
            .args(["--cluster-replicas", "1", "--cluster-yes"])
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output();
        let output = tokio::time::timeout(PATIENCE, output).await.expect("a cluster in time").expect("redis-cli");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
        for server in &servers {
            wait_until("the cluster is whole", || async {
                let cluster = server.command(&["CLUSTER", "INFO"]).await;
                let nodes = server.command(&["CLUSTER", "NODES"]).await;
                cluster.contains("cluster_state:ok") && nodes.matches("slave ").count() == 3 && attached(server).await
            })
            .await;
        }
        Self { servers }
    }

    /// Names three of the six, the primaries of the start.
    pub fn url(&self) -> String {
        format!("redis-cluster://{}", addresses(&self.servers[..3]))
    }

    /// Kills one that is a primary now; its port. It may be started again, as one of `servers`.
    pub async fn kill_a_primary(&mut self) -> u16 {
        for server in self.servers.iter_mut().filter(|server| server.process.is_some()) {
            if server.command(&["INFO", "replication"]).await.contains("role:master") {
                server.kill();
                return server.port;
            }
        }
        panic!("no primary runs");
    }
}

/// Whether a primary has its one replica in step, or a replica is in step with its primary.
async fn attached(server: &Redis) -> bool {
    let replication = server.command(&["INFO", "replication"]).await;
    replication.contains(",state=online,") || replication.contains("master_link_status:up")
}

/// The value after `name` in an answer that lists names and values.
fn field<'a>(answer: &'a str, name: &str) -> Option<&'a str> {
    let mut lines = answer.lines().skip_while(|line| *line != name);
    // Between the two is the length of the value.
    lines.nth(2)
}

fn addresses(servers: &[Redis]) -> String {
    let addresses: Vec<_> = servers.iter().map(|server| format!("127.0.0.1:{}", server.port)).collect();
    addresses.join(",")
}

/// A port that is free now, as is that of its cluster bus, 10000 above. Both are below those that Linux gives to whoever
/// asks for any: while a server is down, no other socket takes its port, and no client that tries it meets itself.
fn free_port() -> u16 {
    const FIRST: u16 = 10_000;
    static NEXT: AtomicU16 = AtomicU16::new(0);
    // Programs at the same time begin at different places.
    let offset = u16::try_from(std::process::id() % 97 * 103).expect("below 10000");
    let free = |port: &u16| {
        let bind = |port| TcpListener::bind((Ipv4Addr::LOCALHOST, port));
        bind(*port).is_ok() && bind(*port + 10_000).is_ok()
    };
    std::iter::repeat_with(|| FIRST + (offset + NEXT.fetch_add(1, Ordering::Relaxed) % FIRST) % FIRST)
        .take(usize::from(FIRST))
        .find(free)
        .expect("a free port")
}

/// Sends a command, and reads one whole answer.
async fn exchange(stream: &mut (impl AsyncBufReadExt + AsyncWrite + Unpin), words: &[&str]) -> io::Result<String> {
    let words: Vec<_> = words.iter().map(|word| format!("${}\r\n{word}\r\n", word.len())).collect();
    let request = format!("*{}\r\n{}", words.len(), words.concat());
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    let mut missing = 1;
    while missing > 0 {
        missing -= 1;
        let start = answer.len();
        if stream.read_until(b'\n', &mut answer).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let head = String::from_utf8_lossy(&answer[start..]).into_owned();
        let size = || usize::try_from(head[1..].trim().parse::<i64>().unwrap_or(0));
        match (head.as_bytes()[0], size()) {
            (b'*', Ok(parts)) => missing += parts,
            (b'$', Ok(length)) => {
                let start = answer.len();
                answer.resize(start + length + 2, 0);
                stream.read_exact(&mut answer[start..]).await?;
            }
            // A line, or a size below zero: there is nothing.
            _ => {}
        }
    }
    Ok(String::from_utf8_lossy(&answer).into_owned())
}
