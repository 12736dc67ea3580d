//! One WebSocket connection as a client: the upgrade, then messages in and out.
//!
//! Reading and writing are apart. [`Incoming`] belongs to one task. [`Outgoing`] can be used from any thread, never blocks, and
//! writes at once; only what the kernel does not take is kept, and a task finishes it.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use anyhow::{Context as _, bail, ensure};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _, ReadBuf};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpSocket, TcpStream};

use crate::frame::{self, Opcode};

/// The key and answer of RFC 6455, section 1.3. One constant key for all: a server cannot tell, and its answer can be
/// checked without hashing.
const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

/// Loopback payloads are masked because servers insist, not to hide them: one constant mask serves all.
const MASK: [u8; 4] = [0x5A, 0xC3, 0x96, 0x0F];

/// What may wait for one socket to take before it counts as stuck.
const MAX_BACKLOG: usize = 4 << 20;

const BROWSER_HEADERS: &str = "Pragma: no-cache\r\nCache-Control: no-cache\r\n\
    User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0.0.0 Safari/537.36\r\n\
    Origin: http://localhost:8080\r\nAccept-Encoding: gzip, deflate, br, zstd\r\n\
    Accept-Language: en-US,en;q=0.9,es;q=0.8\r\nSec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n";

/// Connects from `source` and upgrades to WebSocket at `path`.
///
/// # Errors
/// When the server cannot be reached or answers anything but the upgrade.
pub async fn connect(
    server: SocketAddr,
    source: Ipv4Addr,
    path: &str,
    browser_headers: bool,
) -> anyhow::Result<(Incoming, Outgoing)> {
    open(server, Some(source), &server.to_string(), path, browser_headers).await
}

/// The same to any address, from any of this machine's unless `source` names one, by the name of `host`.
///
/// # Errors
/// As [`connect`].
pub async fn open(
    server: SocketAddr,
    source: Option<Ipv4Addr>,
    host: &str,
    path: &str,
    browser_headers: bool,
) -> anyhow::Result<(Incoming, Outgoing)> {
    let mut stream = dial(server, source).await.context("connecting")?;
    let more = if browser_headers { BROWSER_HEADERS } else { "" };
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {KEY}\r\n{more}\r\n"
    );
    stream.write_all(request.as_bytes()).await.context("asking for the upgrade")?;
    let inbox = read_upgrade(&mut stream).await?;
    let (read, write) = stream.into_split();
    let outgoing = Outgoing(Arc::new(Writer { half: write, backlog: Mutex::default() }));
    Ok((Incoming { half: read, inbox, consumed: 0 }, outgoing))
}

async fn dial(server: SocketAddr, source: Option<Ipv4Addr>) -> io::Result<TcpStream> {
    let socket = if server.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    if let (Some(source), true) = (source, server.is_ipv4()) {
        // The port is chosen at connect(), by source and destination together, so that ports in use elsewhere do not matter.
        nix::sys::socket::setsockopt(&socket, nix::sys::socket::sockopt::IpBindAddressNoPort, &true)?;
        socket.bind((source, 0).into())?;
    }
    socket.set_nodelay(true)?;
    socket.connect(server).await
}

/// Reads the answer to the upgrade and returns what came after it.
async fn read_upgrade(stream: &mut TcpStream) -> anyhow::Result<Vec<u8>> {
    let mut answer = Vec::with_capacity(512);
    let end = loop {
        ensure!(stream.read_buf(&mut answer).await? > 0, "closed before the upgrade");
        if let Some(end) = answer.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
            break end + 4;
        }
        ensure!(answer.len() < 16 << 10, "no end to the answer's head");
    };
    let rest = answer.split_off(end);
    let head = String::from_utf8(answer).context("the answer is no text")?;
    check_upgrade(&head)?;
    Ok(rest)
}

fn check_upgrade(head: &str) -> anyhow::Result<()> {
    let mut lines = head.split("\r\n");
    let status = lines.next().unwrap_or_default();
    ensure!(status.starts_with("HTTP/1.1 101"), "no upgrade but {status:?}");
    let accept = lines
        .filter_map(|line| line.split_once(':'))
        .find(|(name, _)| name.eq_ignore_ascii_case("sec-websocket-accept"));
    match accept {
        Some((_, accept)) if accept.trim() == ACCEPT => Ok(()),
        _ => bail!("the upgrade does not answer the key"),
    }
}

/// A message or the end of a connection.
#[derive(Debug, PartialEq, Eq)]
pub enum Received<'a> {
    /// A text message.
    Text(&'a str),
    /// A binary message.
    Binary(&'a [u8]),
    /// A WebSocket ping, to be answered with the same bytes.
    Ping(&'a [u8]),
    /// Closed by a close frame (its code) or without one.
    Closed(Option<u16>),
}

/// The reading half.
pub struct Incoming {
    half: OwnedReadHalf,
    inbox: Vec<u8>,
    consumed: usize,
}

impl Incoming {
    /// The next message. Safe to drop while it waits.
    ///
    /// # Errors
    /// When the connection breaks or the server breaks the protocol.
    pub async fn next(&mut self) -> anyhow::Result<Received<'_>> {
        loop {
            let Some(found) = frame::find(&self.inbox[self.consumed..])? else {
                if self.fill().await? == 0 {
                    return Ok(Received::Closed(None));
                }
                continue;
            };
            let payload = self.consumed + found.payload.start..self.consumed + found.payload.end;
            self.consumed = payload.end;
            return Ok(match found.opcode {
                Opcode::Pong => continue,
                Opcode::Text if found.last => Received::Text(std::str::from_utf8(&self.inbox[payload])?),
                Opcode::Binary if found.last => Received::Binary(&self.inbox[payload]),
                Opcode::Ping => Received::Ping(&self.inbox[payload]),
                Opcode::Close => {
                    Received::Closed(self.inbox[payload].first_chunk().map(|code| u16::from_be_bytes(*code)))
                }
                // Neither duet nor the reference splits what it relays.
                Opcode::Continuation | Opcode::Text | Opcode::Binary => {
                    bail!("the server sent a message in fragments")
                }
            });
        }
    }

    /// Reads once, through a buffer that all sockets of the thread share: an idle socket holds no memory of its own.
    async fn fill(&mut self) -> io::Result<usize> {
        thread_local! {
            static SHARED: std::cell::RefCell<Vec<u8>> = std::cell::RefCell::new(vec![0; 64 << 10]);
        }
        self.inbox.drain(..self.consumed);
        self.consumed = 0;
        std::future::poll_fn(|context| {
            SHARED.with_borrow_mut(|shared| {
                let mut buffer = ReadBuf::new(shared);
                std::task::ready!(poll_read(&mut self.half, context, &mut buffer))?;
                self.inbox.extend_from_slice(buffer.filled());
                Poll::Ready(Ok(buffer.filled().len()))
            })
        })
        .await
    }
}

fn poll_read(half: &mut OwnedReadHalf, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
    Pin::new(half).poll_read(context, buffer)
}

/// The writing half; clones write to the same connection.
#[derive(Clone)]
pub struct Outgoing(Arc<Writer>);

struct Writer {
    half: OwnedWriteHalf,
    /// What the kernel would not take yet. While it is not empty, a task is on its way to send it.
    backlog: Mutex<Vec<u8>>,
}

impl Outgoing {
    /// Sends a text message. Works from any thread within the runtime's context.
    ///
    /// # Errors
    /// When the connection is broken or its peer has stopped reading.
    pub fn text(&self, payload: &[u8]) -> io::Result<()> {
        self.send(Opcode::Text, payload)
    }

    /// Answers a WebSocket ping.
    ///
    /// # Errors
    /// As [`Self::text`].
    pub fn pong(&self, payload: &[u8]) -> io::Result<()> {
        self.send(Opcode::Pong, payload)
    }

    fn send(&self, opcode: Opcode, payload: &[u8]) -> io::Result<()> {
        thread_local! {
            static SHARED: std::cell::RefCell<Vec<u8>> = const { std::cell::RefCell::new(Vec::new()) };
        }
        SHARED.with_borrow_mut(|bytes| {
            bytes.clear();
            frame::append(bytes, opcode, MASK, payload);
            self.write(bytes)
        })
    }

    fn write(&self, bytes: &[u8]) -> io::Result<()> {
        let mut backlog = self.0.backlog.lock().unwrap_or_else(PoisonError::into_inner);
        if !backlog.is_empty() {
            if backlog.len() > MAX_BACKLOG {
                return Err(io::Error::new(io::ErrorKind::TimedOut, "the server has stopped reading"));
            }
            backlog.extend_from_slice(bytes);
            return Ok(());
        }
        let written = match self.0.half.try_write(bytes) {
            Ok(written) => written,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
            Err(error) => return Err(error),
        };
        if written < bytes.len() {
            backlog.extend_from_slice(&bytes[written..]);
            tokio::spawn(Self::finish(Arc::clone(&self.0)));
        }
        Ok(())
    }

    /// Sends the backlog. A connection that breaks meanwhile is seen by its reader.
    async fn finish(writer: Arc<Writer>) -> io::Result<()> {
        loop {
            writer.half.writable().await?;
            let mut backlog = writer.backlog.lock().unwrap_or_else(PoisonError::into_inner);
            match writer.half.try_write(&backlog) {
                Ok(written) => drop(backlog.drain(..written)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
            if backlog.is_empty() {
                return Ok(());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_101_with_the_right_answer_is_an_upgrade() {
        let good = format!("HTTP/1.1 101 Switching Protocols\r\nsec-websocket-accept: {ACCEPT}\r\n\r\n");
        assert!(check_upgrade(&good).is_ok());
        assert!(check_upgrade(&good.replace("101", "200")).is_err());
        assert!(check_upgrade(&good.replace("s3p", "S3p")).is_err());
        assert!(check_upgrade("HTTP/1.1 101 Switching Protocols\r\n\r\n").is_err());
    }
}
