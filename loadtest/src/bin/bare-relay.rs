//! The least a relay over WebSocket can cost: what `loadtest bench node` measures a server against.
//!
//! One tokio runtime, tokio-tungstenite, nothing else: an accept loop with `TCP_NODELAY`, and for each connection one task that
//! reads and one that writes, joined by a bounded channel. No Socket.IO, no HTTP routes, no metrics, no limits.
//!
//! Protocol: the first text frame of a connection names its room and is answered `created`, `joined` or `full`. Every
//! later text or binary frame goes to the other peer of the room unchanged. What comes before a seat or without a peer goes nowhere.
//!
//! It has to be a lean reference and not a straw man, hence its buffers:
//! - read buffer 1 KiB instead of tungstenite's 128 KiB. It is allocated for each socket and zeroed before each read, so the
//!   default costs memory and time. 1 KiB takes the benchmark's messages in one read; neither 512 bytes nor 4 KiB is
//!   faster. Longer messages get the room they need when their head has been read.
//! - the write buffer grows when first used. The writer takes what is waiting, up to the channel's bound, and flushes
//!   once, so the threshold of 128 KiB is only a cap on what one flush gathers.
//! - 32 messages wait for one socket at most, which is one block of tokio's channel; a full channel stops the sender's reads.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Context as _;
use clap::Parser;
use futures_util::{SinkExt as _, StreamExt as _, stream::SplitSink};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::mpsc;
use tokio_tungstenite::tungstenite::{Message, Utf8Bytes, protocol::WebSocketConfig};
use tokio_tungstenite::{WebSocketStream, accept_async_with_config};

/// A bare WebSocket relay: the reference that a signaling server is measured against.
#[derive(Parser)]
struct Options {
    /// Where to listen; port 0 takes any free one
    #[arg(long, default_value = "127.0.0.1:9000")]
    listen: SocketAddr,
    /// Read buffer of each socket, in bytes
    #[arg(long, default_value_t = 1024)]
    read_buffer: usize,
}

const BACKLOG: u32 = 4096;
const OUTBOX: usize = 32;

type Outbox = mpsc::Sender<Message>;
type Rooms = Mutex<HashMap<Utf8Bytes, Arc<Room>>>;

#[derive(Default)]
struct Room {
    seats: Mutex<[Option<Outbox>; 2]>,
}

impl Room {
    /// The seat taken and how many peers sit now, or nothing if both seats are taken.
    fn sit(&self, outbox: &Outbox) -> Option<(usize, usize)> {
        let mut seats = self.seats.lock().unwrap_or_else(PoisonError::into_inner);
        let free = seats.iter().position(Option::is_none)?;
        seats[free] = Some(outbox.clone());
        Some((free, seats.iter().flatten().count()))
    }

    fn other(&self, seat: usize) -> Option<Outbox> {
        self.seats.lock().unwrap_or_else(PoisonError::into_inner)[1 - seat].clone()
    }

    /// Whether the room is empty now.
    fn stand_up(&self, seat: usize) -> bool {
        let mut seats = self.seats.lock().unwrap_or_else(PoisonError::into_inner);
        seats[seat] = None;
        seats.iter().all(Option::is_none)
    }
}

#[tokio::main]
#[expect(clippy::print_stdout, reason = "who starts it may wait for this line")]
async fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    let socket = if options.listen.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_reuseaddr(true)?;
    socket.bind(options.listen).with_context(|| format!("cannot listen on {}", options.listen))?;
    let listener = socket.listen(BACKLOG)?;
    println!("listening on {}", listener.local_addr()?);
    let config = WebSocketConfig::default().read_buffer_size(options.read_buffer);
    serve(&listener, config).await
}

async fn serve(listener: &TcpListener, config: WebSocketConfig) -> anyhow::Result<()> {
    let rooms = Arc::new(Rooms::default());
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                eprintln!("accept: {error}");
                tokio::time::sleep(std::time::Duration::from_millis(50)).await;
                continue;
            }
        };
        let rooms = Arc::clone(&rooms);
        // A broken connection ends its own task; the reference has nobody to tell.
        tokio::spawn(async move { relay(stream, config, &rooms).await.ok() });
    }
}

async fn relay(stream: TcpStream, config: WebSocketConfig, rooms: &Rooms) -> anyhow::Result<()> {
    stream.set_nodelay(true)?;
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
    let room = {
        let mut rooms = rooms.lock().unwrap_or_else(PoisonError::into_inner);
        let room = Arc::clone(rooms.entry(name.clone()).or_default());
        let seat = room.sit(&outbox);
        seat.map(|(seat, peers)| (room, seat, peers))
    };
    let Some((room, seat, peers)) = room else {
        outbox.send(Message::text("full")).await?;
        return Ok(());
    };
    outbox.send(Message::text(if peers == 1 { "created" } else { "joined" })).await?;

    while let Some(Ok(message)) = frames.next().await {
        if !(message.is_text() || message.is_binary()) {
            continue;
        }
        if let Some(other) = room.other(seat) {
            other.send(message).await.ok();
        }
    }
    let mut rooms = rooms.lock().unwrap_or_else(PoisonError::into_inner);
    if room.stand_up(seat)
        && let Entry::Occupied(entry) = rooms.entry(name)
        && Arc::ptr_eq(entry.get(), &room)
    {
        entry.remove();
    }
    Ok(())
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
