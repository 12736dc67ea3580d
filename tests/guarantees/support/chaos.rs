//! A TCP proxy between a node and its Redis that does to the connections what networks do to them.

use std::{
    collections::VecDeque,
    io,
    net::SocketAddr,
    sync::{
        OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use socket2::SockRef;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{ReadHalf, WriteHalf},
    },
    sync::watch,
    task::{JoinHandle, JoinSet},
    time::Instant,
};

/// What asks Redis for a script.
const SCRIPT: &[u8] = b"EVALSHA";

/// How much the proxy holds of one direction of a connection before it stops to read: also what a slow connection carries
/// at most in the time of its delay.
const HELD: usize = 1 << 20;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Bytes pass.
    Pass,
    /// Connections are reset; new ones are accepted and closed.
    Cut,
    /// Connections stay open and new ones are accepted, and nothing passes until the mode changes; nothing is lost.
    Stall,
    /// Connections look open, and what either side sends vanishes. Those that lost something are reset when the mode
    /// changes.
    HalfOpen,
    /// Redis takes what it is asked, and nothing of its answers passes on connections that ask scripts; others carry all.
    Unanswered,
    /// Bytes pass that much later.
    Slow(Duration),
}

/// The mode, and what a connection that slept through others has to know of them.
#[derive(Clone, Copy)]
struct State {
    mode: Mode,
    changes: u64,
    /// What `changes` was when connections were last cut.
    cut: u64,
}

pub struct ChaosProxy {
    address: SocketAddr,
    state: watch::Sender<State>,
    accepting: JoinHandle<()>,
}

impl ChaosProxy {
    /// A proxy to `upstream`, on a free loopback port, that lets bytes pass.
    pub async fn start(upstream: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let address = listener.local_addr().expect("bound");
        let (state, follow) = watch::channel(State { mode: Mode::Pass, changes: 0, cut: 0 });
        Self { address, state, accepting: tokio::spawn(accept(listener, upstream, follow)) }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// From now on, for the connections there are and for new ones.
    pub fn set(&self, mode: Mode) {
        self.state.send_if_modified(|state| {
            let changed = state.mode != mode;
            if changed {
                state.mode = mode;
                state.changes += 1;
            }
            if mode == Mode::Cut {
                state.cut = state.changes;
            }
            changed
        });
    }
}

impl Drop for ChaosProxy {
    /// Closes the port and resets the connections.
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn accept(listener: TcpListener, upstream: SocketAddr, state: watch::Receiver<State>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((client, _)) => {
                    let now = *state.borrow();
                    if now.mode != Mode::Cut {
                        connections.spawn(serve(client, upstream, state.clone(), now.changes));
                    }
                }
                // Out of files, say: until some are closed.
                Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

/// Serves a connection that began after `born` changes.
async fn serve(mut client: TcpStream, upstream: SocketAddr, state: watch::Receiver<State>, born: u64) {
    reset_when_dropped(&client, true);
    // After which change it lost something.
    let lost = OnceLock::new();
    tokio::select! {
        biased;
        () = doomed(state.clone(), born, &lost) => {}
        ended = relay(&mut client, upstream, state, &lost) => {
            // Both sides have ended, and have been told so.
            if ended.is_ok() {
                reset_when_dropped(&client, false);
            }
        }
    }
}

/// Returns when a connection is to be reset.
async fn doomed(mut state: watch::Receiver<State>, born: u64, lost: &OnceLock<u64>) {
    loop {
        let now = *state.borrow_and_update();
        if now.cut > born || lost.get().is_some_and(|after| *after != now.changes) || state.changed().await.is_err() {
            return;
        }
    }
}

async fn relay(
    client: &mut TcpStream,
    upstream: SocketAddr,
    mut state: watch::Receiver<State>,
    lost: &OnceLock<u64>,
) -> io::Result<()> {
    // A stalled network would not let the connection through either.
    let _ = state.wait_for(|now| now.mode != Mode::Stall).await;
    let mut upstream = TcpStream::connect(upstream).await?;
    reset_when_dropped(&upstream, true);
    client.set_nodelay(true)?;
    upstream.set_nodelay(true)?;
    let (from_client, to_client) = client.split();
    let (from_upstream, to_upstream) = upstream.split();
    let asks = AtomicBool::new(false);
    tokio::try_join!(
        pump(from_client, to_upstream, state.clone(), lost, |bytes| {
            if bytes.windows(SCRIPT.len()).any(|window| window == SCRIPT) {
                asks.store(true, Ordering::Relaxed);
            }
            true
        }),
        pump(from_upstream, to_client, state.clone(), lost, |_| !asks.load(Ordering::Relaxed))
    )?;
    reset_when_dropped(&upstream, false);
    Ok(())
}

/// Carries one direction until its end has been carried too. `passes` sees what waits, and tells whether it is let through
/// where answers are not.
async fn pump(
    mut from: ReadHalf<'_>,
    mut to: WriteHalf<'_>,
    mut state: watch::Receiver<State>,
    lost: &OnceLock<u64>,
    passes: impl Fn(&[u8]) -> bool,
) -> io::Result<()> {
    let mut buffer = vec![0; 16 * 1024];
    // What was read and when; an empty one is the end.
    let mut waiting = VecDeque::<(Instant, Bytes)>::new();
    let mut held = 0;
    // How reading ended, when it has.
    let mut ended = None;
    loop {
        let now = *state.borrow_and_update();
        if now.mode == Mode::HalfOpen && !waiting.is_empty() {
            let _ = lost.set(now.changes);
            waiting.clear();
            held = 0;
        }
        let due = waiting.front().map(|(read, bytes)| match now.mode {
            Mode::Slow(delay) => (*read + delay, bytes.clone()),
            _ => (*read, bytes.clone()),
        });
        let passes = waiting.front().is_none_or(|(_, bytes)| passes(bytes));
        let stalled = matches!(now.mode, Mode::Stall | Mode::Cut) || now.mode == Mode::Unanswered && !passes;
        tokio::select! {
            biased;
            changed = state.changed() => if changed.is_err() {
                return Err(io::ErrorKind::ConnectionReset.into());
            },
            written = deliver(&mut to, due), if !stalled => {
                let written = written?;
                let Some((_, bytes)) = waiting.front_mut() else { continue };
                if bytes.is_empty() {
                    ended.unwrap_or(Ok(()))?;
                    return to.shutdown().await;
                }
                let _ = bytes.split_to(written);
                held -= written;
                if bytes.is_empty() {
                    waiting.pop_front();
                }
            }
            read = from.read(&mut buffer), if !stalled && ended.is_none() && held < HELD => {
                let read = read.unwrap_or_else(|error| {
                    ended = Some(Err(error));
                    0
                });
                if read == 0 {
                    ended.get_or_insert(Ok(()));
                }
                held += read;
                waiting.push_back((Instant::now(), Bytes::copy_from_slice(&buffer[..read])));
            }
        }
    }
}

/// Writes some of the bytes when it is time; may be given up before it returns.
async fn deliver(to: &mut WriteHalf<'_>, due: Option<(Instant, Bytes)>) -> io::Result<usize> {
    let Some((due, bytes)) = due else { return std::future::pending().await };
    if due > Instant::now() {
        tokio::time::sleep_until(due).await;
    }
    if bytes.is_empty() {
        return Ok(0);
    }
    to.write(&bytes).await
}

/// Whether closing the stream tells the other side that something is wrong.
fn reset_when_dropped(stream: &TcpStream, reset: bool) {
    let _ = SockRef::from(stream).set_linger(reset.then_some(Duration::ZERO));
}
