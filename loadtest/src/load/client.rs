//! One socket of the load: connected, seated, and every failure by its code.

use std::time::Duration;

use super::target::Endpoint;
use crate::connection::{self, Incoming, Outgoing, Received};
use crate::packet::{self, Packet};
use crate::peer::Seat;
use crate::target;

/// How long one step of a client may take.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Why a client could not go on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// No connection, or no upgrade.
    #[error("connect")]
    Connect,
    /// No answer in time.
    #[error("timeout")]
    Timeout,
    /// The connection ended.
    #[error("closed")]
    Closed,
    /// The server broke the protocol.
    #[error("protocol")]
    Protocol,
    /// The server refused, with a code of its own.
    #[error("{0}")]
    Refused(String),
}

impl Failure {
    /// Its code in the report.
    #[must_use]
    pub fn code(&self) -> String {
        self.to_string()
    }
}

/// A connected socket.
pub struct Client {
    incoming: Incoming,
    outgoing: Outgoing,
}

impl Client {
    /// Connects the socket with this number, up to the answer of the main namespace. `room` is named in the query.
    ///
    /// # Errors
    /// [`Failure`]
    pub async fn open(endpoint: &Endpoint, number: usize, room: Option<&str>) -> Result<Self, Failure> {
        let open = async {
            let room = room.map(|room| format!("&room={room}")).unwrap_or_default();
            let path = format!("/socket.io/?EIO=4&transport=websocket{room}");
            let source = endpoint.address.ip().is_loopback().then(|| target::source(number));
            let (incoming, outgoing) = connection::open(endpoint.address, source, &endpoint.host, &path, false)
                .await
                .map_err(|_| Failure::Connect)?;
            let mut client = Self { incoming, outgoing };
            client.next(|packet| matches!(packet, Packet::Open(_)).then_some(Ok(()))).await?;
            client.say("40")?;
            client
                .next(|packet| match packet {
                    Packet::Connect(_) => Some(Ok(())),
                    Packet::ConnectError(_) => Some(Err(Failure::Refused("connect_error".to_owned()))),
                    _ => None,
                })
                .await?;
            Ok(client)
        };
        tokio::time::timeout(PATIENCE, open).await.unwrap_or(Err(Failure::Timeout))
    }

    /// Asks for a seat and waits for the answer.
    ///
    /// # Errors
    /// [`Failure`]; a room that is full is none.
    pub async fn join(&mut self, room: &str) -> Result<Seat, Failure> {
        self.say(&packet::emit("create or join", None, room))?;
        self.wait(|name, arguments| match name {
            "created" => Some(Ok(Seat::Created)),
            "joined" => Some(Ok(Seat::Joined)),
            "full" => Some(Ok(Seat::Full)),
            "rejected" => Some(Err(Failure::Refused(code_of(arguments)))),
            _ => None,
        })
        .await
    }

    /// Sends a packet.
    ///
    /// # Errors
    /// [`Failure::Closed`]
    pub fn say(&self, packet: &str) -> Result<(), Failure> {
        self.outgoing.text(packet.as_bytes()).map_err(|_| Failure::Closed)
    }

    /// Waits for an event for which `found` has an answer. Others are passed over.
    ///
    /// # Errors
    /// [`Failure`], that of `found` too.
    pub async fn wait<T>(
        &mut self,
        mut found: impl FnMut(&str, &str) -> Option<Result<T, Failure>>,
    ) -> Result<T, Failure> {
        let next = self.next(|packet| match packet {
            Packet::Event { arguments, .. } => packet::event_name(arguments).and_then(|name| found(name, arguments)),
            Packet::Disconnect | Packet::Close => Some(Err(Failure::Closed)),
            _ => None,
        });
        tokio::time::timeout(PATIENCE, next).await.unwrap_or(Err(Failure::Timeout))
    }

    /// The half that sends.
    #[must_use]
    pub fn outgoing(&self) -> Outgoing {
        self.outgoing.clone()
    }

    /// Hands every event to `on_event` and answers heartbeats, until the connection ends.
    pub async fn listen(&mut self, mut on_event: impl FnMut(&str, &str)) -> Failure {
        let ended = self.next(|packet| match packet {
            Packet::Event { arguments, .. } => {
                if let Some(name) = packet::event_name(arguments) {
                    on_event(name, arguments);
                }
                None
            }
            Packet::Disconnect | Packet::Close => Some(Err::<(), _>(Failure::Closed)),
            _ => None,
        });
        ended.await.err().unwrap_or(Failure::Closed)
    }

    /// Reads until `found` has an answer; heartbeats are answered here. Safe to drop while it waits.
    ///
    /// # Errors
    /// [`Failure`], that of `found` too.
    pub async fn next<T>(
        &mut self,
        mut found: impl FnMut(&Packet<'_>) -> Option<Result<T, Failure>>,
    ) -> Result<T, Failure> {
        loop {
            let text = match self.incoming.next().await.map_err(|_| Failure::Closed)? {
                Received::Closed(_) => return Err(Failure::Closed),
                Received::Ping(payload) => {
                    self.outgoing.pong(payload).map_err(|_| Failure::Closed)?;
                    continue;
                }
                Received::Binary(_) => continue,
                Received::Text(text) => text,
            };
            let packet = packet::parse(text).map_err(|_| Failure::Protocol)?;
            if packet == Packet::Ping {
                self.outgoing.text(b"3").map_err(|_| Failure::Closed)?;
            } else if let Some(answer) = found(&packet) {
                return answer;
            }
        }
    }
}

/// The code of a refusal: `["rejected",{…,"code":"…"}]`.
#[must_use]
pub fn code_of(arguments: &str) -> String {
    let code = serde_json::from_str::<serde_json::Value>(arguments).ok();
    let code = code.and_then(|event| Some(event.get(1)?.get("code")?.as_str()?.to_owned()));
    code.unwrap_or_else(|| "rejected".to_owned())
}
