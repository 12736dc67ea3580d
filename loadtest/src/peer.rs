//! One client that takes a seat in a room, over Socket.IO or in the reference's own protocol.

use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context as _, bail, ensure};

use crate::connection::{self, Incoming, Outgoing, Received};
use crate::packet::{self, Packet};
use crate::target::{self, Dialect, Target};

/// What a peer was told when it asked for a seat.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Seat {
    /// The first seat.
    Created,
    /// The second seat.
    Joined,
    /// No seat.
    Full,
}

impl Seat {
    fn from_word(word: &str) -> Option<Self> {
        Some(match word {
            "created" => Self::Created,
            "joined" => Self::Joined,
            "full" => Self::Full,
            _ => return None,
        })
    }
}

/// How a peer asks for its seat.
#[derive(Clone, Copy, Debug, Default)]
pub struct Manner {
    /// Ask for an acknowledgement and wait for it too.
    pub ack: bool,
}

/// A connected client.
pub struct Peer {
    incoming: Incoming,
    outgoing: Outgoing,
    dialect: Dialect,
}

impl Peer {
    /// Connects the socket with this number; over Socket.IO up to the answer of the main namespace.
    ///
    /// # Errors
    /// When the server cannot be reached, refuses or speaks another protocol.
    pub async fn connect(target: &Target, number: usize) -> anyhow::Result<Self> {
        let path = match target.dialect {
            Dialect::Socketio => "/socket.io/?EIO=4&transport=websocket",
            Dialect::Bare => "/",
        };
        let source = target::source(number);
        let (incoming, outgoing) = connection::connect(target.address, source, path, target.browser_headers).await?;
        let mut peer = Self { incoming, outgoing, dialect: target.dialect };
        if target.dialect == Dialect::Socketio {
            peer.enter_namespace().await?;
        }
        Ok(peer)
    }

    async fn enter_namespace(&mut self) -> anyhow::Result<()> {
        let open = text(self.incoming.next().await?)?;
        ensure!(matches!(packet::parse(open)?, Packet::Open(_)), "no open packet but {open:?}");
        self.outgoing.text(b"40")?;
        loop {
            let answer = text(self.incoming.next().await?)?;
            match packet::parse(answer)? {
                Packet::Connect(_) => return Ok(()),
                Packet::Ping => self.outgoing.text(b"3")?,
                // A server may greet before it answers.
                Packet::Event { .. } => {}
                _ => bail!("the main namespace answered {answer:?}"),
            }
        }
    }

    /// Asks for a seat and waits for the answer.
    ///
    /// # Errors
    /// When the server refuses, or ends the connection.
    pub async fn join(&mut self, room: &str, manner: Manner) -> anyhow::Result<Seat> {
        match self.dialect {
            Dialect::Bare => {
                self.outgoing.text(room.as_bytes())?;
                let answer = text(self.incoming.next().await?)?;
                Seat::from_word(answer).with_context(|| format!("joining answered {answer:?}"))
            }
            Dialect::Socketio => {
                const ACK: u64 = 1;
                let ack = manner.ack.then_some(ACK);
                self.outgoing.text(packet::emit("create or join", ack, room).as_bytes())?;
                let (mut seat, mut acknowledged) = (None, !manner.ack);
                loop {
                    if let (Some(seat), true) = (seat, acknowledged) {
                        return Ok(seat);
                    }
                    let answer = text(self.incoming.next().await?)?;
                    match packet::parse(answer)? {
                        Packet::Ping => self.outgoing.text(b"3")?,
                        Packet::Event { arguments, .. } => match packet::event_name(arguments) {
                            Some("rejected") => bail!("joining was refused: {arguments}"),
                            Some(name) => seat = seat.or(Seat::from_word(name)),
                            None => {}
                        },
                        Packet::Ack { ack: ACK, .. } => acknowledged = true,
                        _ => bail!("joining answered {answer:?}"),
                    }
                }
            }
        }
    }

    /// The half that sends, for another thread to use.
    #[must_use]
    pub fn outgoing(&self) -> Outgoing {
        self.outgoing.clone()
    }

    /// Hands every relayed message to `on_message` and answers pings, until the connection ends. The reason is returned.
    ///
    /// # Errors
    /// When the connection breaks or the server breaks the protocol.
    pub async fn listen(mut self, pings: &AtomicU64, mut on_message: impl FnMut(&str)) -> anyhow::Result<String> {
        loop {
            let message = match self.incoming.next().await? {
                Received::Closed(code) => return Ok(format!("closed with code {code:?}")),
                Received::Ping(payload) => {
                    self.outgoing.pong(payload)?;
                    continue;
                }
                Received::Binary(_) => bail!("a binary message, and none was sent"),
                Received::Text(message) => message,
            };
            if self.dialect == Dialect::Bare {
                on_message(message);
                continue;
            }
            match packet::parse(message)? {
                Packet::Ping => {
                    pings.fetch_add(1, Ordering::Relaxed);
                    self.outgoing.text(b"3")?;
                }
                Packet::Event { arguments, .. } => match packet::event_name(arguments) {
                    Some("message") => on_message(message),
                    Some("rejected") => bail!("refused: {arguments}"),
                    _ => {}
                },
                Packet::Disconnect | Packet::Close => return Ok("disconnected".to_owned()),
                _ => {}
            }
        }
    }
}

fn text(received: Received<'_>) -> anyhow::Result<&str> {
    match received {
        Received::Text(text) => Ok(text),
        other => bail!("expected text, got {other:?}"),
    }
}
