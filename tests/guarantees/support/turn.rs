//! A TURN server: the real coturn on loopback; and as much of a TURN client as asks for one relay (RFC 8656, with the
//! long-term credentials of RFC 8489, section 9.2).

use std::{
    collections::HashMap,
    fs,
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use md5::{Digest, Md5};
use ring::hmac;
use tokio::net::{TcpListener, UdpSocket};

use super::PATIENCE;

const MAGIC_COOKIE: u32 = 0x2112_A442;
const ALLOCATE: u16 = 0x0003;
const ALLOCATED: u16 = 0x0103;
const REFUSED: u16 = 0x0113;
const USERNAME: u16 = 0x0006;
const MESSAGE_INTEGRITY: u16 = 0x0008;
const ERROR_CODE: u16 = 0x0009;
const REALM: u16 = 0x0014;
const NONCE: u16 = 0x0015;
const XOR_RELAYED_ADDRESS: u16 = 0x0016;
const REQUESTED_TRANSPORT: u16 = 0x0019;
const ALLOCATION_MISMATCH: u16 = 437;
/// What coturn says of a port that somebody else has.
const PORT_IN_USE: &str = "Cannot bind";
/// For `REQUESTED_TRANSPORT`: UDP, and three bytes of nothing.
const UDP: [u8; 4] = [17, 0, 0, 0];

/// A running coturn.
pub struct Coturn {
    port: u16,
    realm: String,
    process: Child,
    directory: tempfile::TempDir,
}

impl Coturn {
    /// Starts it with these shared secrets, and waits until it answers.
    pub async fn start(secrets: &[&str]) -> Self {
        Self::start_as(|realm| {
            let mut command = Command::new("turnserver");
            command
                .args(["-n", "--no-tls", "--no-dtls", "--no-cli", "--use-auth-secret", "--log-file", "stdout"])
                .args(["--simple-log", "--pidfile", "pid", "--userdb", "db", "--realm", realm])
                .args(secrets.iter().map(|secret| format!("--static-auth-secret={secret}")));
            command
        })
        .await
    }

    /// Starts it as the deployment in `deploy/` does, with the secrets of that file.
    pub async fn start_deployed(secret_file: &Path) -> Self {
        Self::start_as(|realm| {
            let mut command = Self::deployed(realm, secret_file);
            command.env("TURN_PEERS", "127.0.0.1 192.0.2.1");
            command
        })
        .await
    }

    /// Has a deployed one take the secrets that its file has now.
    pub fn take_secrets(&self, secret_file: &Path) {
        let mut command = Self::deployed(&self.realm, secret_file);
        let taken = command.arg("secrets").current_dir(self.directory.path()).status().expect("run");
        assert!(taken.success());
    }

    fn deployed(realm: &str, secret_file: &Path) -> Command {
        let deploy = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/coturn");
        let mut command = Command::new("sh");
        command
            .arg(format!("{deploy}/start.sh"))
            .env("TURN_CONFIG", format!("{deploy}/turnserver.conf"))
            .env("TURN_SECRET_FILE", secret_file)
            .env("TURN_REALM", realm)
            .env("TURN_WORK", ".");
        command
    }

    async fn start_as(command: impl Fn(&str) -> Command) -> Self {
        // A port that is free now may be taken when coturn comes to it.
        for _ in 0..5 {
            if let Some(coturn) = Self::try_start(&command).await {
                return coturn;
            }
        }
        panic!("no port for coturn");
    }

    async fn try_start(command: &impl Fn(&str) -> Command) -> Option<Self> {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        // Of its own: whoever answers by it is this one.
        let realm = format!("duet-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let directory = tempfile::tempdir().expect("a directory");
        let port = free_port().await;
        let log = fs::File::create(directory.path().join("log")).expect("a log");
        let port_text = port.to_string();
        let process = command(&realm)
            .args(["--listening-port", &port_text, "--listening-ip", "127.0.0.1", "--relay-ip", "127.0.0.1"])
            .args(["--allow-loopback-peers", "--verbose"])
            .current_dir(directory.path())
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a log"))
            .stderr(log)
            .spawn()
            .expect("turnserver is installed (Debian: coturn)");
        let mut coturn = Self { port, realm, process, directory };
        let answers = async {
            loop {
                // Without its port it goes on trying, and answers nothing meanwhile.
                if coturn.process.try_wait().expect("a process").is_some() || coturn.log().contains(PORT_IN_USE) {
                    return false;
                }
                let socket = coturn.socket().await;
                let asked = tokio::time::timeout(Duration::from_millis(200), ask(&socket, &[], None)).await;
                if let Ok(refused) = asked {
                    return refused.text(REALM) == coturn.realm;
                }
            }
        };
        let answered = tokio::time::timeout(PATIENCE, answers).await;
        answered.unwrap_or_else(|_| panic!("a coturn that does not answer:\n{}", coturn.log())).then_some(coturn)
    }

    /// Its URL for settings.
    pub fn url(&self) -> String {
        format!("turn:{}", self.address())
    }

    /// All that it has logged.
    pub fn log(&self) -> String {
        fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }

    /// Asks for a relay: its address, or the code of the refusal.
    pub async fn allocate(&self, username: &str, credential: &str) -> Result<SocketAddr, u16> {
        // A nonce is for the port that it was given to; and a port that an earlier client had still has its relay.
        let (socket, challenge) = loop {
            let socket = self.socket().await;
            let challenge = within(ask(&socket, &[], None)).await;
            if (challenge.kind, challenge.error_code()) != (REFUSED, ALLOCATION_MISMATCH) {
                break (socket, challenge);
            }
        };
        assert_eq!((challenge.kind, challenge.error_code()), (REFUSED, 401), "nobody gets in without credentials");
        let realm = challenge.text(REALM);
        let key = Md5::digest(format!("{username}:{realm}:{credential}"));
        let attributes =
            [(USERNAME, username.as_bytes()), (REALM, realm.as_bytes()), (NONCE, &challenge.attributes[&NONCE])];
        let answer = within(ask(&socket, &attributes, Some(&key))).await;
        if answer.kind == ALLOCATED { Ok(answer.relayed_address()) } else { Err(answer.error_code()) }
    }

    async fn socket(&self) -> UdpSocket {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("bound");
        socket.connect(self.address()).await.expect("connected");
        socket
    }

    fn address(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.port).into()
    }
}

impl Drop for Coturn {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// One that is free for UDP and for TCP: coturn takes both.
async fn free_port() -> u16 {
    loop {
        let tcp = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("bound");
        let address = tcp.local_addr().expect("bound");
        if UdpSocket::bind(address).await.is_ok() {
            return address.port();
        }
    }
}

async fn within<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, what).await.expect("in time")
}

/// An answer of a TURN server.
struct Answer {
    kind: u16,
    attributes: HashMap<u16, Vec<u8>>,
}

impl Answer {
    /// None of what is no answer to `request`.
    fn parse(bytes: &[u8], request: &[u8]) -> Option<Self> {
        let kind = u16::from_be_bytes(*bytes.first_chunk()?);
        let mut rest = bytes.get(20..).filter(|_| bytes[4..20] == request[4..20])?;
        let mut attributes = HashMap::new();
        while let Some((head, body)) = rest.split_first_chunk::<4>() {
            let (name, length) =
                (u16::from_be_bytes([head[0], head[1]]), u16::from_be_bytes([head[2], head[3]]).into());
            attributes.insert(name, body.get(..length)?.to_vec());
            rest = body.get(usize::next_multiple_of(length, 4)..)?;
        }
        Some(Self { kind, attributes })
    }

    fn text(&self, name: u16) -> String {
        String::from_utf8_lossy(&self.attributes[&name]).into_owned()
    }

    /// The class, and the number within it.
    fn error_code(&self) -> u16 {
        let code = &self.attributes[&ERROR_CODE];
        u16::from(code[2]) * 100 + u16::from(code[3])
    }

    fn relayed_address(&self) -> SocketAddr {
        let cookie = MAGIC_COOKIE.to_be_bytes();
        let at = &self.attributes[&XOR_RELAYED_ADDRESS];
        let port = u16::from_be_bytes([at[2] ^ cookie[0], at[3] ^ cookie[1]]);
        (std::array::from_fn::<u8, 4, _>(|byte| at[4 + byte] ^ cookie[byte]), port).into()
    }
}

/// Asks for a relay with these attributes, signed by `key`; again and again until there is an answer.
async fn ask(socket: &UdpSocket, attributes: &[(u16, &[u8])], key: Option<&[u8]>) -> Answer {
    static TRANSACTIONS: AtomicU64 = AtomicU64::new(1);
    let mut request = [&ALLOCATE.to_be_bytes()[..], &[0, 0], &MAGIC_COOKIE.to_be_bytes(), b"duet"].concat();
    request.extend(TRANSACTIONS.fetch_add(1, Ordering::Relaxed).to_be_bytes());
    add(&mut request, REQUESTED_TRANSPORT, &UDP);
    for (name, value) in attributes {
        add(&mut request, *name, value);
    }
    if let Some(key) = key {
        // The length covers the signature, which covers the length.
        set_length(&mut request, 24);
        let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, key), &request);
        add(&mut request, MESSAGE_INTEGRITY, tag.as_ref());
    }
    let mut answer = [0; 1500];
    loop {
        let _ = socket.send(&request).await;
        let heard = tokio::time::timeout(Duration::from_millis(100), socket.recv(&mut answer)).await;
        match heard {
            Ok(Ok(length)) => {
                if let Some(answer) = Answer::parse(&answer[..length], &request) {
                    return answer;
                }
            }
            // Nobody there yet.
            Ok(Err(_)) => tokio::time::sleep(Duration::from_millis(10)).await,
            Err(_) => {}
        }
    }
}

fn add(message: &mut Vec<u8>, name: u16, value: &[u8]) {
    message.extend(name.to_be_bytes());
    message.extend(u16::try_from(value.len()).expect("short").to_be_bytes());
    message.extend(value);
    message.resize(message.len().next_multiple_of(4), 0);
    set_length(message, 0);
}

/// What follows the head, and `more`.
fn set_length(message: &mut [u8], more: usize) {
    let length = u16::try_from(message.len() - 20 + more).expect("short");
    message[2..4].copy_from_slice(&length.to_be_bytes());
}
