//! What a stranger can do to a node over the wire, from many addresses of 127/8, as fast as one thread can;
//! handshakes at most as fast as a node can take them without an end.
//!
//! Each flood runs until it is told to end, holds a few thousand connections at most, and tells what it got done. It expects
//! nothing: to be closed, refused or ignored is all the same to it.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
    task::JoinSet,
    time::MissedTickBehavior,
};

/// A request and how it goes on.
const HANDSHAKE: &str = "GET /socket.io/?EIO=4&transport=websocket HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\n\
Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
/// A node remembers a handshake that leads to nothing for 10 s (`timeouts.handshake`), as one of its sockets, of which it has
/// 40,000: 4,000 a second fill it.
const HANDSHAKES_A_SECOND: u32 = 3000;
/// Whatever a flood waits for.
const PATIENCE: Duration = Duration::from_secs(2);

/// A flood under way.
pub struct Flood {
    target: SocketAddr,
    over: AtomicBool,
    /// Done so far: handshakes, connections, frames, requests.
    pub done: AtomicU64,
}

/// A kind of flood.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Handshakes,
    HalfHeaders,
    TinyFrames,
    Joins,
    EndlessMessages,
    EndlessBodies,
}

impl Kind {
    pub const ALL: [Self; 6] = [
        Self::Handshakes,
        Self::HalfHeaders,
        Self::TinyFrames,
        Self::Joins,
        Self::EndlessMessages,
        Self::EndlessBodies,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Self::Handshakes => "handshakes",
            Self::HalfHeaders => "half-sent headers",
            Self::TinyFrames => "tiny frames",
            Self::Joins => "joins",
            Self::EndlessMessages => "endless messages",
            Self::EndlessBodies => "endless bodies",
        }
    }

    /// How many go on at once, each from its address and with a connection at a time.
    fn at_once(self) -> u32 {
        match self {
            Self::Handshakes => 64,
            // More than the node takes.
            Self::HalfHeaders => 5000,
            Self::TinyFrames | Self::EndlessMessages => 60,
            Self::Joins => 40,
            Self::EndlessBodies => 200,
        }
    }
}

/// One address of some hundred, none of them 127.0.x.y.
fn address(n: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(0x7f01_0001 + n % 400)
}

impl Flood {
    /// Begins a flood on a thread of its own. Ends it, and tells how much was done, when called.
    pub fn begin(kind: Kind, target: SocketAddr) -> impl FnOnce() -> u64 {
        let flood = Arc::new(Self { target, over: AtomicBool::new(false), done: AtomicU64::new(0) });
        let running = Arc::clone(&flood);
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async {
                let mut all = JoinSet::new();
                for n in 0..kind.at_once() {
                    all.spawn(Arc::clone(&running).attack(kind, n));
                    // Thousands a second, but not all in one.
                    if n % 20 == 19 {
                        tokio::time::sleep(Duration::from_millis(5)).await;
                    }
                }
                while !running.over.load(Ordering::Relaxed) {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                all.shutdown().await;
            });
        });
        move || {
            flood.over.store(true, Ordering::Relaxed);
            thread.join().expect("the flood ended by itself");
            flood.done.load(Ordering::Relaxed)
        }
    }

    async fn attack(self: Arc<Self>, kind: Kind, n: u32) {
        let mut due = tokio::time::interval(Duration::from_secs(1) * kind.at_once() / HANDSHAKES_A_SECOND);
        // Who was kept waiting does not catch up.
        due.set_missed_tick_behavior(MissedTickBehavior::Delay);
        for round in 0_u32.. {
            if kind == Kind::Handshakes {
                due.tick().await;
            }
            let from = address(n.wrapping_mul(7).wrapping_add(round));
            let attempt = async {
                let stream = self.connect(from).await?;
                match kind {
                    Kind::Handshakes => self.handshake(stream, round).await,
                    Kind::HalfHeaders => self.half_header(stream).await,
                    Kind::TinyFrames => self.tiny_frames(stream, n).await,
                    Kind::Joins => self.joins(stream, n).await,
                    Kind::EndlessMessages => self.endless_message(stream, n).await,
                    Kind::EndlessBodies => self.endless_body(stream, n).await,
                }
            };
            // However it ended, there is another one; but not a loop without a pause when everything is refused.
            if attempt.await.is_none() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
    }

    fn count(&self, done: u64) {
        self.done.fetch_add(done, Ordering::Relaxed);
    }

    async fn connect(&self, from: Ipv4Addr) -> Option<TcpStream> {
        let socket = TcpSocket::new_v4().ok()?;
        // What is sent is to be taken by the node, not by this end's kernel.
        socket.set_send_buffer_size(16 * 1024).ok()?;
        socket.bind((from, 0).into()).ok()?;
        let stream = tokio::time::timeout(PATIENCE, socket.connect(self.target)).await.ok()?.ok()?;
        stream.set_nodelay(true).ok()?;
        Some(stream)
    }

    /// A whole handshake, by turns of a WebSocket and of a session that will never poll; then gone.
    async fn handshake(&self, mut stream: TcpStream, round: u32) -> Option<()> {
        let polling = "GET /socket.io/?EIO=4&transport=polling HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
        let request = if round.is_multiple_of(2) { HANDSHAKE } else { polling };
        stream.write_all(request.as_bytes()).await.ok()?;
        let mut answer = [0; 512];
        tokio::time::timeout(PATIENCE, stream.read(&mut answer)).await.ok()?.ok()?;
        self.count(1);
        Some(())
    }

    /// A request that comes a byte at a time.
    async fn half_header(&self, mut stream: TcpStream) -> Option<()> {
        self.count(1);
        stream.write_all(b"GET / HTTP/1.1\r\nX: ").await.ok()?;
        loop {
            tokio::time::sleep(Duration::from_millis(500)).await;
            stream.write_all(b"x").await.ok()?;
        }
    }

    /// A WebSocket with a Socket.IO connection.
    async fn socket(&self, stream: &mut TcpStream) -> Option<()> {
        stream.write_all(HANDSHAKE.as_bytes()).await.ok()?;
        let mut answer = [0; 1024];
        let bytes = tokio::time::timeout(PATIENCE, stream.read(&mut answer)).await.ok()?.ok()?;
        if !answer[..bytes].starts_with(b"HTTP/1.1 101") {
            return None;
        }
        stream.write_all(&frame(0x81, b"40")).await.ok()
    }

    /// Frames of a few bytes, whatever they are, as many as go; every other attacker reads nothing of what that yields.
    async fn tiny_frames(&self, mut stream: TcpStream, n: u32) -> Option<()> {
        self.socket(&mut stream).await?;
        let one = match n / 2 % 6 {
            // An answer to no heartbeat, nothing, an event nobody knows, one without a room, a namespace that is not there.
            0 => frame(0x81, b"3"),
            1 => frame(0x89, b""),
            2 => frame(0x81, b"42[\"x\"]"),
            3 => frame(0x81, b"420[\"ready\",\"x\"]"),
            4 => frame(0x81, b"40/x,"),
            _ => frame(0x81, b"42[\"message\",1]"),
        };
        let many = one.repeat(200);
        let (mut read, mut write) = stream.split();
        let sends = async {
            while write.write_all(&many).await.is_ok() {
                self.count(200);
                tokio::task::yield_now().await;
            }
        };
        let reads = async {
            let mut answers = vec![0; 16 * 1024];
            while n % 2 == 1 && read.read(&mut answers).await.is_ok_and(|bytes| bytes > 0) {}
            std::future::pending::<()>().await;
        };
        tokio::select! {
            () = sends => {}
            () = reads => {}
        }
        None
    }

    /// Rooms that are new, and one that is full, without an end.
    async fn joins(&self, mut stream: TcpStream, n: u32) -> Option<()> {
        self.socket(&mut stream).await?;
        let (mut read, mut write) = stream.split();
        let sends = async {
            for round in 0_u32.. {
                let room = if round % 2 == 0 { "full".to_owned() } else { format!("{n} {round}") };
                let join = frame(0x81, format!("42[\"create or join\",\"{room}\"]").as_bytes());
                let bye = frame(0x81, format!("42[\"bye\",\"{room}\"]").as_bytes());
                if write.write_all(&[join, bye].concat()).await.is_err() {
                    return;
                }
                self.count(1);
                tokio::task::yield_now().await;
            }
        };
        let reads = async {
            let mut answers = vec![0; 16 * 1024];
            while read.read(&mut answers).await.is_ok_and(|bytes| bytes > 0) {}
        };
        tokio::select! {
            () = sends => {}
            () = reads => {}
        }
        None
    }

    /// A message in ever more frames: of a byte each, or large ones.
    async fn endless_message(&self, mut stream: TcpStream, n: u32) -> Option<()> {
        self.socket(&mut stream).await?;
        stream.write_all(&frame(0x01, b"42[\"message\",\"")).await.ok()?;
        let more = if n.is_multiple_of(2) { frame(0x00, b"x").repeat(500) } else { frame(0x00, &[b'x'; 8192]) };
        while stream.write_all(&more).await.is_ok() {
            self.count(1);
            tokio::task::yield_now().await;
        }
        None
    }

    /// A POST whose body goes on and on: slowly, or fast.
    async fn endless_body(&self, mut stream: TcpStream, n: u32) -> Option<()> {
        stream.write_all(b"GET /socket.io/?EIO=4&transport=polling HTTP/1.1\r\nHost: a\r\n\r\n").await.ok()?;
        let mut answer = vec![0; 2048];
        let bytes = tokio::time::timeout(PATIENCE, stream.read(&mut answer)).await.ok()?.ok()?;
        let text = String::from_utf8_lossy(&answer[..bytes]).into_owned();
        let sid = text.split("\"sid\":\"").nth(1)?.split('"').next()?;
        let head = format!(
            "POST /socket.io/?EIO=4&transport=polling&sid={sid} HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).await.ok()?;
        let chunk = if n.is_multiple_of(2) {
            b"1\r\n4\r\n".to_vec()
        } else {
            [&b"2000\r\n"[..], &[b'4'; 0x2000], b"\r\n"].concat()
        };
        while stream.write_all(&chunk).await.is_ok() {
            self.count(1);
            if n.is_multiple_of(2) {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            tokio::task::yield_now().await;
        }
        None
    }
}

/// A client's frame (RFC 6455, section 5.2), masked with zeros.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![first];
    match u16::try_from(payload.len()).expect("a short frame") {
        bytes @ 0..126 => frame.push(0x80 | u8::try_from(bytes).expect("a short frame")),
        bytes => {
            frame.push(0x80 | 0x7e);
            frame.extend(bytes.to_be_bytes());
        }
    }
    frame.extend([0; 4]);
    frame.extend(payload);
    frame
}
