//! One side of a room: takes its seat, talks, and comes back with its token whenever its connection breaks.
//!
//! It behaves as `public/js/duet.js`: one message at a time until it is acknowledged, again after a pause if it was refused for a
//! reason that passes, again at once when the other is back. It differs in two ways: it comes back without waiting, and it does
//! not wait for the other to be there before it speaks, as a client of its own may do.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::sync::{Notify, watch};

use super::book::{Book, other};
use crate::load::client::{Client, Failure};
use crate::load::target::Endpoint;
use crate::packet::{self, Packet};

/// As `RETRY_MS` in `duet.js`.
const RETRY: [Duration; 2] = [Duration::from_millis(250), Duration::from_secs(8)];
/// Until a node that takes no connections is tried again.
const UNREACHABLE: Duration = Duration::from_millis(50);
/// The acknowledgement of the join; message `n` has `n + 1`.
const JOIN: u64 = 0;

/// One side, before it starts.
pub struct Talker {
    /// Its number; the other of its room has [`other`] of it.
    pub side: usize,
    /// The room.
    pub room: String,
    /// From an answer to the next message, in the mean.
    pub pause: Duration,
    /// For how long its connection takes nothing before it comes back, if it is not closed at once but left standing.
    pub silence: Option<Duration>,
    /// What it writes down, and where it finds its orders.
    pub book: watch::Sender<Book>,
    /// To cut its connection, or to leave when all is over.
    pub woken: Arc<Notify>,
}

/// What a connection tells.
enum Heard {
    Answer(u64, Value),
    Event(String, Value),
    Nothing,
    Gone,
}

impl Heard {
    fn of(packet: &Packet<'_>) -> Self {
        let parse = |arguments: &str| serde_json::from_str::<Value>(arguments).unwrap_or_default();
        match packet {
            Packet::Event { arguments, .. } => packet::event_name(arguments)
                .map_or(Self::Nothing, |name| Self::Event(name.to_owned(), parse(arguments))),
            Packet::Ack { ack, arguments, .. } => Self::Answer(*ack, parse(arguments)[0].take()),
            Packet::Disconnect | Packet::Close => Self::Gone,
            _ => Self::Nothing,
        }
    }
}

/// What outlives a connection.
struct State {
    /// Of its pauses.
    chance: u64,
    token: Option<String>,
    /// The connection before, which the server may believe alive.
    left: Option<Client>,
    /// The message that is not accepted yet.
    message: Option<usize>,
    refusals: u32,
    /// How far it heard the other by the last connection that was seated.
    heard: Option<Count>,
}

/// As `duet.js` counts.
#[derive(Clone)]
struct Count {
    id: String,
    peers: u64,
    messages: u64,
}

impl State {
    /// A number up to `most`, any as likely: what all peers do in the same moment says nothing of what they do in any.
    fn die(&mut self, most: u32) -> u32 {
        self.chance ^= self.chance << 13;
        self.chance ^= self.chance >> 7;
        self.chance ^= self.chance << 17;
        u32::try_from(self.chance % (u64::from(most) + 1)).unwrap_or(most)
    }
}

/// What does not.
#[derive(Default)]
struct Line {
    connection: u32,
    seated: bool,
    in_flight: bool,
    ask_at: Option<Instant>,
    say_at: Option<Instant>,
}

impl Talker {
    /// Until all is over.
    pub async fn run(self) {
        let chance = 0x9E37_79B9_7F4A_7C15_u64.wrapping_mul(self.side as u64 + 1);
        let mut state = State { chance, token: None, left: None, message: None, refusals: 0, heard: None };
        while !self.book.borrow().is_over() {
            match self.connect().await {
                Ok(client) => self.talk(client, &mut state).await,
                Err(failure) => {
                    self.book.send_modify(|book| book.trouble(format!("a connection failed: {failure}")));
                    tokio::time::sleep(UNREACHABLE).await;
                }
            }
        }
    }

    async fn connect(&self) -> Result<Client, Failure> {
        let address = self.book.borrow().target(self.side);
        let host = address.to_string();
        let endpoint = Endpoint { url: format!("http://{host}"), address, host, path: "/".to_owned() };
        Client::open(&endpoint, self.side, Some(&self.room)).await
    }

    /// Until the connection breaks, by itself or by order.
    async fn talk(&self, mut client: Client, state: &mut State) {
        let mut line = Line { ask_at: Some(Instant::now()), ..Line::default() };
        self.book.send_modify(|book| line.connection = book.connected(self.side));
        loop {
            let next = [line.ask_at, line.say_at].into_iter().flatten().min();
            let due = async {
                match next {
                    Some(at) => tokio::time::sleep_until(at.into()).await,
                    None => std::future::pending().await,
                }
            };
            let said = tokio::select! {
                heard = client.next(|packet| Some(Ok(Heard::of(packet)))) => match heard {
                    Ok(Heard::Gone) | Err(_) => return,
                    Ok(Heard::Nothing) => continue,
                    Ok(Heard::Answer(JOIN, answer)) => {
                        self.answered_join(&answer, state, &mut line);
                        continue;
                    }
                    Ok(Heard::Answer(ack, answer)) => {
                        self.answered(ack, &answer, state, &mut line);
                        continue;
                    }
                    Ok(Heard::Event(name, arguments)) => {
                        self.heard(&name, &arguments, state, &mut line);
                        continue;
                    }
                },
                () = self.woken.notified() => {
                    if self.book.borrow().is_over() {
                        client.say("41").ok();
                    } else {
                        if let Some(silence) = self.silence {
                            tokio::time::sleep(silence).await;
                        }
                        let now = Instant::now();
                        state.left = self.silence.is_some().then_some(client);
                        self.book.send_modify(|book| book.broke(self.side, now));
                    }
                    return;
                },
                () = due => self.say(&client, state, &mut line),
            };
            if said.is_err() {
                return;
            }
        }
    }

    /// What is due.
    fn say(&self, client: &Client, state: &mut State, line: &mut Line) -> Result<(), Failure> {
        let now = Instant::now();
        if line.ask_at.take_if(|at| *at <= now).is_some() {
            let mut options = json!({ "heard": true });
            if let Some(Count { id, peers, messages }) = &state.heard {
                options["heard"] = json!({ "id": id, "peers": peers, "messages": messages });
            }
            if let Some(token) = &state.token {
                options["resume"] = json!(token);
            }
            client.say(&format!("42{JOIN}{}", json!(["create or join", self.room, options])))?;
        }
        if line.say_at.take_if(|at| *at <= now).is_none() || line.in_flight {
            return Ok(());
        }
        if state.message.is_none() {
            self.book.send_modify(|book| state.message = book.begin(self.side));
        }
        if let Some(n) = state.message {
            line.in_flight = true;
            let words = json!({ "room": self.room, "side": self.side % 2, "n": n, "connection": line.connection });
            client.say(&format!("42{}{}", n as u64 + 1, json!(["message", words])))?;
        }
        Ok(())
    }

    fn answered_join(&self, answer: &Value, state: &mut State, line: &mut Line) {
        let code = answer["code"].as_str().unwrap_or_default();
        if answer["ok"] == true {
            (line.seated, state.refusals) = (true, 0);
            let outcome = answer["outcome"].as_str().unwrap_or_default();
            if (state.token.is_some()) != (outcome == "resumed") {
                self.book.send_modify(|book| book.trouble(format!("a join with its token was answered {outcome}")));
            }
            state.token = answer["resume"].as_str().map(str::to_owned);
            let id = answer["id"].as_str().unwrap_or_default();
            if state.heard.as_ref().is_none_or(|heard| heard.id != id) {
                state.heard = Some(Count { id: id.to_owned(), peers: 0, messages: 0 });
            }
        } else if answer["retryable"] == true {
            self.book.send_modify(|book| book.trouble(format!("a join was refused at first: {code}")));
            line.ask_at = Some(Instant::now() + pause(&mut state.refusals));
        } else {
            self.book.send_modify(|book| book.trouble(format!("a join was refused: {code}")));
        }
    }

    fn answered(&self, ack: u64, answer: &Value, state: &mut State, line: &mut Line) {
        let Some(n) = state.message.filter(|n| *n as u64 + 1 == ack) else { return };
        let code = answer["code"].as_str().unwrap_or_default();
        line.in_flight = false;
        if answer["ok"] != true && answer["retryable"] == true {
            self.book.send_modify(|book| book.refused(code));
            line.say_at = Some(Instant::now() + pause(&mut state.refusals));
            return;
        }
        state.message = None;
        state.refusals = 0;
        line.say_at = Some(Instant::now() + self.pause * state.die(100) / 100 * 2);
        self.book.send_modify(|book| {
            if answer["ok"] == true {
                book.accepted(self.side, n, answer["kept"] == true, Instant::now());
            } else {
                book.given_up(self.side, code);
            }
        });
    }

    /// An event, whose name comes first in `arguments`.
    fn heard(&self, name: &str, arguments: &Value, state: &mut State, line: &mut Line) {
        let (now, argument) = (Instant::now(), &arguments[1]);
        if let Some(heard) = &mut state.heard {
            match name {
                "join" | "peer resumed" => (heard.peers, heard.messages) = (heard.peers + 1, 0),
                "message" => heard.messages += 1,
                _ => {}
            }
        }
        match name {
            "created" | "joined" if state.token.is_none() => self.book.send_modify(|book| book.seated(self.side, now)),
            "resumed" => self.book.send_modify(|book| book.seated(self.side, now)),
            "ready" | "peer resumed" | "peer reconnecting" => {
                state.refusals = 0;
                line.say_at = Some(now);
            }
            "message" => self.book.send_modify(|book| {
                let whose = argument["room"] == self.room.as_str() && argument["side"] == other(self.side) % 2;
                let number = |name: &str| argument[name].as_u64().and_then(|number| usize::try_from(number).ok());
                match (whose, number("n"), number("connection").and_then(|number| u32::try_from(number).ok())) {
                    (true, Some(n), Some(connection)) => book.arrived(self.side, n, connection, now),
                    _ => book.strayed(self.side),
                }
            }),
            "bye" => {
                self.book.send_modify(|book| book.trouble(format!("told of a bye: {}", arguments[2]["reason"])));
            }
            "rejected" => {
                self.book.send_modify(|book| book.trouble(format!("rejected: {}", argument["code"])));
            }
            _ => {}
        }
    }
}

/// As `pause` in `duet.js`, without its chance.
fn pause(refusals: &mut u32) -> Duration {
    let [first, most] = RETRY;
    let pause = first.saturating_mul(1 << (*refusals).min(6)).min(most);
    *refusals += 1;
    pause
}
