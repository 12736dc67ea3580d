//! The least a relay between nodes over Redis can cost: what `loadtest bench cluster` measures duet's growth against.
//!
//! The bare relay's protocol and buffers, one thread a node, and two connections to Redis: one that only publishes
//! (`CLIENT REPLY OFF`) and one that only listens, neither by a client library. A message to a peer on another node is one
//! `SPUBLISH` to the channel of that node. Nobody tells receipt of it, nothing is numbered, kept or sent again, nobody has a lease.
//!
//! Seats: a node publishes each join to a channel that all nodes listen to. Redis hands all of them the same joins in the same
//! order, so each finds by itself who is first and second in a room, and on which node. A seat once taken is never free again.
//!
//! Whatever came in one turn of the event loop leaves for Redis by one write: no connection is written to twice between
//! two waits.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use anyhow::{Context as _, bail, ensure};
use bytes::{Bytes, BytesMut};
use clap::Parser;
use futures_util::{SinkExt as _, StreamExt as _, stream::SplitSink};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::task::JoinSet;
use tokio_tungstenite::tungstenite::{Message, Utf8Bytes, protocol::WebSocketConfig};
use tokio_tungstenite::{WebSocketStream, accept_async_with_config};

/// A node of bare relays: the floor of what servers that are joined by Redis cost.
#[derive(Parser)]
struct Options {
    /// Where to listen
    #[arg(long)]
    listen: SocketAddr,
    /// Where Redis is
    #[arg(long)]
    redis: SocketAddr,
}

const BACKLOG: u32 = 4096;
const OUTBOX: usize = 32;
const READ_BUFFER: usize = 1024;
/// Room for what a read may bring from Redis.
const INBOX: usize = 16 << 10;
const JOINS: &str = "joins";

type Outbox = mpsc::Sender<Message>;
/// Who sits where, in the order of Redis.
type Room = [OnceLock<Address>; 2];

/// A peer, as any node can reach it.
struct Address {
    channel: String,
    number: u64,
}

/// The seat a peer got, if it got one.
type Seated = Option<(Arc<Room>, usize)>;

struct Peer {
    outbox: Outbox,
    seated: Option<oneshot::Sender<Seated>>,
}

/// What the tasks of a node share.
struct Node {
    channel: String,
    rooms: Mutex<HashMap<String, Arc<Room>>>,
    peers: Mutex<HashMap<u64, Peer>>,
    numbers: AtomicU64,
    /// What is to be written to Redis.
    pending: Mutex<Vec<u8>>,
    more: Notify,
}

#[tokio::main(flavor = "current_thread")]
#[expect(clippy::print_stdout, reason = "who starts it may wait for this line")]
async fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    let node = Arc::new(Node {
        channel: format!("node:{}", options.listen),
        rooms: Mutex::default(),
        peers: Mutex::default(),
        numbers: AtomicU64::new(1),
        pending: Mutex::default(),
        more: Notify::new(),
    });
    // Who listens to this node's port finds it subscribed.
    let subscription = Subscription::begin(options.redis, &[JOINS, &node.channel]).await?;
    let publisher = connect(options.redis).await?;
    let socket = if options.listen.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_reuseaddr(true)?;
    socket.bind(options.listen).with_context(|| format!("cannot listen on {}", options.listen))?;
    let listener = socket.listen(BACKLOG)?;
    println!("listening on {}", listener.local_addr()?);
    // Tasks of their own: one that is woken within `main` has the runtime look for events once more first.
    let mut parts = JoinSet::new();
    parts.spawn(Arc::clone(&node).receive(subscription));
    parts.spawn(Arc::clone(&node).publish(publisher));
    parts.spawn(node.serve(listener));
    parts.join_next().await.context("there are three")??
}

async fn connect(redis: SocketAddr) -> anyhow::Result<TcpStream> {
    let stream = TcpStream::connect(redis).await.with_context(|| format!("Redis at {redis}"))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

fn head(out: &mut Vec<u8>, mark: u8, number: usize) {
    out.push(mark);
    out.extend_from_slice(number.to_string().as_bytes());
    out.extend_from_slice(b"\r\n");
}

/// Appends one string, given in parts, as Redis reads it.
fn bulk(out: &mut Vec<u8>, parts: &[&[u8]]) {
    head(out, b'$', parts.iter().map(|part| part.len()).sum());
    for part in parts {
        out.extend_from_slice(part);
    }
    out.extend_from_slice(b"\r\n");
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Node {
    async fn serve(self: Arc<Self>, listener: TcpListener) -> anyhow::Result<()> {
        loop {
            let (stream, _) = listener.accept().await?;
            let node = Arc::clone(&self);
            // A broken connection ends its own task; the reference has nobody to tell.
            tokio::spawn(async move { node.relay(stream).await.ok() });
        }
    }

    async fn relay(&self, stream: TcpStream) -> anyhow::Result<()> {
        stream.set_nodelay(true)?;
        let config = WebSocketConfig::default().read_buffer_size(READ_BUFFER);
        let (sink, mut frames) = accept_async_with_config(stream, Some(config)).await?.split();
        let (outbox, waiting) = mpsc::channel(OUTBOX);
        tokio::spawn(write(sink, waiting));

        let name = loop {
            match frames.next().await.context("left before joining")?? {
                Message::Text(name) => break name,
                Message::Close(_) => return Ok(()),
                _ => {}
            }
        };
        let number = self.numbers.fetch_add(1, Ordering::Relaxed);
        let (tell, seated) = oneshot::channel();
        lock(&self.peers).insert(number, Peer { outbox: outbox.clone(), seated: Some(tell) });
        self.send(JOINS, &[self.channel.as_bytes(), b" ", number.to_string().as_bytes(), b" ", name.as_bytes()]);
        let Some((room, seat)) = seated.await? else {
            lock(&self.peers).remove(&number);
            outbox.send(Message::text("full")).await?;
            return Ok(());
        };
        outbox.send(Message::text(if seat == 0 { "created" } else { "joined" })).await?;

        while let Some(Ok(message)) = frames.next().await {
            let (Message::Text(text), Some(other)) = (message, room[1 - seat].get()) else { continue };
            if other.channel == self.channel {
                self.deliver(other.number, text).await;
            } else {
                self.send(&other.channel, &[&other.number.to_be_bytes(), text.as_bytes()]);
            }
        }
        lock(&self.peers).remove(&number);
        Ok(())
    }

    /// To a peer on this node, as soon as there is room.
    async fn deliver(&self, number: u64, text: Utf8Bytes) {
        let outbox = lock(&self.peers).get(&number).map(|peer| peer.outbox.clone());
        if let Some(outbox) = outbox {
            outbox.send(Message::Text(text)).await.ok();
        }
    }

    /// Leaves a message, in parts, for whoever listens to `channel`.
    fn send(&self, channel: &str, message: &[&[u8]]) {
        let mut pending = lock(&self.pending);
        head(&mut pending, b'*', 3);
        bulk(&mut pending, &[b"SPUBLISH"]);
        bulk(&mut pending, &[channel.as_bytes()]);
        bulk(&mut pending, message);
        self.more.notify_one();
    }

    async fn publish(self: Arc<Self>, mut redis: TcpStream) -> anyhow::Result<()> {
        redis.write_all(b"CLIENT REPLY OFF\r\n").await?;
        let mut batch = Vec::new();
        loop {
            self.more.notified().await;
            std::mem::swap(&mut batch, &mut lock(&self.pending));
            redis.write_all(&batch).await?;
            batch.clear();
        }
    }

    async fn receive(self: Arc<Self>, mut subscription: Subscription) -> anyhow::Result<()> {
        loop {
            let (channel, mut message) = subscription.next().await?;
            if channel == JOINS.as_bytes() {
                self.seat(std::str::from_utf8(&message)?).context("no join")?;
            } else if message.len() >= size_of::<u64>() {
                let text = message.split_off(size_of::<u64>());
                let number = u64::from_be_bytes(message[..].try_into()?);
                self.deliver(number, Utf8Bytes::try_from(text)?).await;
            }
        }
    }

    /// Gives a peer of any node the next seat of its room.
    fn seat(&self, join: &str) -> Option<()> {
        let mut parts = join.splitn(3, ' ');
        let (channel, number, name) = (parts.next()?, parts.next()?.parse().ok()?, parts.next()?);
        let room = Arc::clone(lock(&self.rooms).entry(name.to_owned()).or_default());
        let seat = room.iter().position(|seat| seat.set(Address { channel: channel.to_owned(), number }).is_ok());
        if channel == self.channel
            && let Some(tell) = lock(&self.peers).get_mut(&number).and_then(|peer| peer.seated.take())
        {
            tell.send(seat.map(|seat| (room, seat))).ok();
        }
        Some(())
    }
}

/// A connection that only listens.
struct Subscription {
    redis: TcpStream,
    inbox: BytesMut,
}

impl Subscription {
    /// Listens to `channels`, and is sure of it.
    async fn begin(redis: SocketAddr, channels: &[&str]) -> anyhow::Result<Self> {
        let mut request = Vec::new();
        head(&mut request, b'*', 1 + channels.len());
        bulk(&mut request, &[b"SSUBSCRIBE"]);
        for channel in channels {
            bulk(&mut request, &[channel.as_bytes()]);
        }
        let mut subscription = Self { redis: connect(redis).await?, inbox: BytesMut::new() };
        subscription.redis.write_all(&request).await?;
        for _ in channels {
            ensure!(subscription.push().await?[0] == "ssubscribe", "Redis refused to subscribe");
        }
        Ok(subscription)
    }

    /// The next message, and its channel.
    async fn next(&mut self) -> anyhow::Result<(Bytes, Bytes)> {
        let [kind, channel, message] = self.push().await?;
        ensure!(kind == "smessage", "Redis sent {kind:?}");
        Ok((channel, message))
    }

    async fn push(&mut self) -> anyhow::Result<[Bytes; 3]> {
        loop {
            if let Some((push, end)) = find(&self.inbox)? {
                let bytes = self.inbox.split_to(end).freeze();
                return Ok(push.map(|part| bytes.slice(part)));
            }
            self.inbox.reserve(INBOX);
            ensure!(self.redis.read_buf(&mut self.inbox).await? > 0, "Redis hung up");
        }
    }
}

/// Where the three parts of the push lie that `bytes` begin with, and its end; nothing while it is incomplete.
fn find(bytes: &[u8]) -> anyhow::Result<Option<([Range<usize>; 3], usize)>> {
    const PUSH: &[u8] = b"*3\r\n";
    if bytes.len() < PUSH.len() {
        return Ok(None);
    }
    ensure!(bytes.starts_with(PUSH), "Redis sent what is no push");
    let mut at = PUSH.len();
    let mut parts = [0..0, 0..0, 0..0];
    for part in &mut parts {
        let Some(length) = bytes[at..].windows(2).position(|end| end == b"\r\n") else { return Ok(None) };
        let (line, start) = (&bytes[at..at + length], at + length + 2);
        match line {
            [b'$', digits @ ..] => {
                *part = start..start + std::str::from_utf8(digits)?.parse::<usize>()?;
                at = part.end + 2;
            }
            // The number of subscriptions.
            [b':', ..] => {
                *part = at + 1..at + length;
                at = start;
            }
            _ => bail!("Redis sent what is no part of a push"),
        }
        if bytes.len() < at {
            return Ok(None);
        }
    }
    Ok(Some((parts, at)))
}

async fn write(mut sink: SplitSink<WebSocketStream<TcpStream>, Message>, mut waiting: mpsc::Receiver<Message>) {
    while let Some(message) = waiting.recv().await {
        let mut sent = sink.feed(message).await;
        while let (Ok(()), Ok(message)) = (&sent, waiting.try_recv()) {
            sent = sink.feed(message).await;
        }
        if sent.is_err() || sink.flush().await.is_err() {
            return;
        }
    }
    sink.close().await.ok();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_push_is_found_only_once_it_is_whole() -> anyhow::Result<()> {
        let mut bytes = Vec::new();
        head(&mut bytes, b'*', 3);
        bulk(&mut bytes, &[b"smessage"]);
        bulk(&mut bytes, &[b"node"]);
        bulk(&mut bytes, &[b"one\r\n", b"two"]);
        for cut in 0..bytes.len() {
            assert_eq!(find(&bytes[..cut])?, None, "{cut} bytes of {}", bytes.len());
        }
        let end = bytes.len();
        bytes.extend_from_slice(b"*3\r\n:1");
        let (parts, found) = find(&bytes)?.context("a push")?;
        assert_eq!(found, end);
        assert_eq!(parts.map(|part| &bytes[part]), [&b"smessage"[..], b"node", b"one\r\ntwo"]);
        let subscribed = b"*3\r\n$10\r\nssubscribe\r\n$1\r\na\r\n:1\r\n";
        assert_eq!(find(subscribed)?.context("a push")?.1, subscribed.len());
        assert!(find(b"-NOPERM\r\n").is_err());
        Ok(())
    }
}
