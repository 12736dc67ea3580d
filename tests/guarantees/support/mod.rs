//! What the tests share: nodes on free loopback ports, and a client that speaks the wire formats by hand, so that a test
//! can also say what no official client would.
#![allow(dead_code, reason = "each test file uses its own part")]

pub mod chaos;
pub mod cluster;
pub mod collector;
pub mod process;
pub mod redis;
pub mod tls;
pub mod token;
pub mod turn;
pub mod web;

use std::{collections::HashMap, future::Future, net::SocketAddr, time::Duration};

use duet::{config::Settings, node::Node};
use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
};
use tokio_tungstenite::{
    MaybeTlsStream, WebSocketStream,
    tungstenite::{self, Message, client::IntoClientRequest},
};

/// How long anything may take that should happen at once, on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// A node with the given settings on top of free loopback ports and no `log` events.
pub async fn node(settings: &[(&str, &str)]) -> Node {
    static COUNT_PANICS: std::sync::Once = std::sync::Once::new();
    COUNT_PANICS.call_once(|| {
        let show = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            duet::metrics::panics().inc();
            show(info);
        }));
    });
    Node::start(self::settings(settings)).await.expect("a node")
}

/// What [`node`] starts with, to be changed while it runs.
pub fn settings(settings: &[(&str, &str)]) -> Settings {
    let mut environment = HashMap::from([
        ("DUET_SERVER__LISTEN".to_owned(), "127.0.0.1:0".to_owned()),
        ("DUET_ADMIN__LISTEN".to_owned(), "127.0.0.1:0".to_owned()),
        ("DUET_COMPAT__CLIENT_LOG".to_owned(), "false".to_owned()),
        // Many a test says more at once than a client should. What is limited is a test of its own.
        ("DUET_LIMITS__EVENTS".to_owned(), "0".to_owned()),
    ]);
    environment.extend(settings.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())));
    Settings::load(None, environment).expect("settings")
}

/// Waits until `condition` holds.
pub async fn wait_until<F: Future<Output = bool>>(what: &str, mut condition: impl FnMut() -> F) {
    let waited = tokio::time::timeout(PATIENCE, async {
        while !condition().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    assert!(waited.await.is_ok(), "never happened: {what}");
}

/// A plain HTTP request on a connection of its own: status and body.
pub async fn http(address: SocketAddr, request: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(address).await.expect("connected");
    stream.write_all(request.as_bytes()).await.expect("sent");
    let mut answer = Vec::new();
    tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer)).await.expect("in time").expect("an answer");
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let status = answer.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or(0);
    (status, answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or_default())
}

pub async fn get(address: SocketAddr, path: &str) -> (u16, String) {
    http(address, &format!("GET {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n")).await
}

/// The value of one metric, as its line names it; 0 before it is first counted.
pub async fn metric(node: &Node, name: &str) -> u64 {
    let (_, text) = get(node.admin, "/metrics").await;
    text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok()).unwrap_or(0)
}

/// A connection from a loopback address of 127/8.
pub async fn stream_from(source: &str, address: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.bind(SocketAddr::new(source.parse().expect("an address"), 0)).expect("bound");
    tokio::time::timeout(PATIENCE, socket.connect(address)).await.expect("in time").expect("connected")
}

/// What a client hears.
#[derive(Debug, Clone, PartialEq)]
pub enum Heard {
    Event(String, Vec<Value>),
    Ack(u64, Value),
    /// The Engine.IO or the WebSocket connection was closed.
    Closed,
}

impl Heard {
    pub fn name(&self) -> &str {
        match self {
            Self::Event(name, _) => name,
            Self::Ack(..) => "(ack)",
            Self::Closed => "(closed)",
        }
    }
}

/// A Socket.IO 4 client over WebSocket.
pub struct Client {
    pub stream: Box<WebSocketStream<MaybeTlsStream<TcpStream>>>,
    pub id: String,
    acks: u64,
    /// How many it has answered.
    pings: u64,
    /// Heard while waiting for something else.
    kept: std::collections::VecDeque<Heard>,
    /// It has been told that its connection was closed.
    told_closed: bool,
}

impl Client {
    /// Over a WebSocket on which nothing was heard yet.
    fn unopened(stream: WebSocketStream<MaybeTlsStream<TcpStream>>) -> Self {
        let kept = std::collections::VecDeque::new();
        Self { stream: Box::new(stream), id: String::new(), acks: 0, pings: 0, kept, told_closed: false }
    }

    /// Connects, and waits until it is connected.
    pub async fn connect(node: &Node) -> Self {
        Self::over(node.public, TcpStream::connect(node.public).await.expect("connected")).await
    }

    /// Connects to the public listener at `address`.
    pub async fn connect_to(address: SocketAddr) -> Self {
        Self::over(address, TcpStream::connect(address).await.expect("connected")).await
    }

    /// Connects to a node that may not be there, or not answer.
    pub async fn try_connect(address: SocketAddr, patience: Duration) -> Option<Self> {
        tokio::time::timeout(patience, async {
            let url = format!("ws://{address}/socket.io/?EIO=4&transport=websocket");
            let stream = TcpStream::connect(address).await.ok()?;
            let (stream, _) = tokio_tungstenite::client_async(url, MaybeTlsStream::Plain(stream)).await.ok()?;
            let mut client = Self::unopened(stream);
            client.frame().await?;
            client.send_text("40").await;
            let connected: Value = serde_json::from_str(client.frame().await?.strip_prefix("40")?).ok()?;
            connected["sid"].as_str()?.clone_into(&mut client.id);
            Some(client)
        })
        .await
        .ok()
        .flatten()
    }

    /// As `call`, of a server that may be gone, or not answer.
    pub async fn try_call(&mut self, packet: &Value, patience: Duration) -> Option<Value> {
        self.acks += 1;
        let number = self.acks;
        self.send_text(&format!("42{number}{packet}")).await;
        let answered = async {
            loop {
                match self.read().await {
                    Heard::Ack(found, answer) if found == number => return Some(answer),
                    heard => {
                        let closed = heard == Heard::Closed;
                        self.kept.push_back(heard);
                        if closed {
                            return None;
                        }
                    }
                }
            }
        };
        tokio::time::timeout(patience, answered).await.ok().flatten()
    }

    /// Whether it has seen its connection closed.
    pub fn is_closed(&self) -> bool {
        self.kept.back() == Some(&Heard::Closed)
    }

    /// All that it has kept.
    pub fn heard(self) -> std::collections::VecDeque<Heard> {
        self.kept
    }

    /// Connects with more in the query and with `auth`, by Engine.IO 4 or 3.
    ///
    /// # Errors
    /// What the server says when it refuses the CONNECT.
    pub async fn knock(address: SocketAddr, eio: u8, query: &str, auth: Option<&Value>) -> Result<Self, Value> {
        let url = format!("ws://{address}/socket.io/?EIO={eio}&transport=websocket{query}");
        let stream = MaybeTlsStream::Plain(TcpStream::connect(address).await.expect("connected"));
        let (stream, _) = tokio_tungstenite::client_async(url, stream).await.expect("a WebSocket");
        let mut client = Self::unopened(stream);
        let open = client.frame().await.expect("open");
        let open: Value = serde_json::from_str(open.strip_prefix('0').expect("open")).expect("JSON");
        open["sid"].as_str().expect("an id").clone_into(&mut client.id);
        client.knock_again(eio, auth).await?;
        Ok(client)
    }

    /// Sends a CONNECT, if its protocol has one, and reads the answer.
    ///
    /// # Errors
    /// What the server says when it refuses it.
    pub async fn knock_again(&mut self, eio: u8, auth: Option<&Value>) -> Result<(), Value> {
        if eio == 4 {
            self.send_text(&format!("40{}", auth.map(Value::to_string).unwrap_or_default())).await;
        }
        let answer = self.frame().await.expect("an answer");
        if let Some(refusal) = answer.strip_prefix("44") {
            return Err(serde_json::from_str(refusal).expect("JSON"));
        }
        let connected = answer.strip_prefix("40").unwrap_or_else(|| panic!("{answer}"));
        if let Ok(connected) = serde_json::from_str::<Value>(connected) {
            connected["sid"].as_str().expect("an id").clone_into(&mut self.id);
        }
        Ok(())
    }

    /// Connects with a small receive buffer, so that little is on its way to it in the kernel.
    pub async fn connect_small(node: &Node) -> Self {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.set_recv_buffer_size(4096).expect("a small buffer");
        Self::over(node.public, socket.connect(node.public).await.expect("connected")).await
    }

    /// Connects with an `auth` in its CONNECT.
    pub async fn connect_with(address: SocketAddr, auth: &Value) -> Self {
        let stream = TcpStream::connect(address).await.expect("connected");
        Self::opened(address, MaybeTlsStream::Plain(stream), &[], &auth.to_string()).await.expect("a WebSocket")
    }

    async fn over(address: SocketAddr, stream: TcpStream) -> Self {
        Self::on(address, MaybeTlsStream::Plain(stream)).await
    }

    /// Connects over a connection to the public listener at `address`, secured or not.
    pub async fn on(address: SocketAddr, stream: MaybeTlsStream<TcpStream>) -> Self {
        Self::opened(address, stream, &[], "").await.expect("a WebSocket")
    }

    /// Connects over `stream` with further request headers; the status of the answer when it is no WebSocket.
    pub async fn over_with(address: SocketAddr, stream: TcpStream, headers: &[(&str, &str)]) -> Result<Self, u16> {
        Self::opened(address, MaybeTlsStream::Plain(stream), headers, "").await
    }

    async fn opened(
        address: SocketAddr,
        stream: MaybeTlsStream<TcpStream>,
        headers: &[(&str, &str)],
        auth: &str,
    ) -> Result<Self, u16> {
        let url = format!("ws://{address}/socket.io/?EIO=4&transport=websocket");
        let mut request = url.into_client_request().expect("a request");
        for (name, value) in headers {
            let name = http::HeaderName::try_from(*name).expect("a name");
            request.headers_mut().append(name, value.parse().expect("a value"));
        }
        let (stream, _) = tokio_tungstenite::client_async(request, stream).await.map_err(|error| {
            match error {
                tungstenite::Error::Http(answer) => answer.status().as_u16(),
                // Closed without an answer.
                _ => 0,
            }
        })?;
        let mut client = Self::unopened(stream);
        assert!(client.frame().await.expect("open").starts_with('0'));
        client.send_text(&format!("40{auth}")).await;
        let connected = client.frame().await.expect("connected");
        let sid: Value = serde_json::from_str(connected.strip_prefix("40").expect("CONNECT")).expect("JSON");
        sid["sid"].as_str().expect("an id").clone_into(&mut client.id);
        Ok(client)
    }

    /// Connects from a loopback address of 127/8 that the machine need not know.
    pub async fn connect_from(source: &str, address: SocketAddr) -> Result<Self, u16> {
        Self::over_with(address, stream_from(source, address).await, &[]).await
    }

    /// The next text frame that is no heartbeat, or none when the connection is closed; heartbeats do not prolong the wait.
    async fn frame(&mut self) -> Option<String> {
        let until = tokio::time::Instant::now() + PATIENCE * 2;
        loop {
            match tokio::time::timeout_at(until, self.stream.next()).await.expect("something in time") {
                Some(Ok(Message::Text(text))) if text.as_str() == "2" => {
                    self.send_text("3").await;
                    self.pings += 1;
                }
                Some(Ok(Message::Text(text))) => return Some(text.to_string()),
                Some(Ok(Message::Close(_)) | Err(_)) | None => return None,
                Some(Ok(_)) => {}
            }
        }
    }

    pub async fn send_text(&mut self, text: &str) {
        // A connection that the server has closed is found out by reading.
        let _ = self.stream.send(Message::text(text)).await;
    }

    pub async fn send_binary(&mut self, bytes: Vec<u8>) {
        let _ = self.stream.send(Message::binary(bytes)).await;
    }

    /// Emits an event; `packet` is its whole array.
    pub async fn emit(&mut self, packet: &Value) {
        self.send_text(&format!("42{packet}")).await;
    }

    /// Emits an event and returns its acknowledgement; what comes before that is kept.
    pub async fn call(&mut self, packet: &Value) -> Value {
        self.call_raw(&packet.to_string()).await
    }

    /// The same with the array as text, for what no value can hold.
    pub async fn call_raw(&mut self, packet: &str) -> Value {
        self.acks += 1;
        let number = self.acks;
        self.send_text(&format!("42{number}{packet}")).await;
        loop {
            match self.read().await {
                Heard::Ack(found, answer) if found == number => return answer,
                Heard::Closed => panic!("closed while waiting for an acknowledgement of {packet}"),
                heard => self.kept.push_back(heard),
            }
        }
    }

    /// The next thing it hears. After the end there is none: who asks again would ask for ever.
    pub async fn hear(&mut self) -> Heard {
        assert!(!self.told_closed, "its connection was closed");
        let heard = match self.kept.pop_front() {
            Some(kept) => kept,
            None => self.read().await,
        };
        self.told_closed = heard == Heard::Closed;
        heard
    }

    /// Stays connected for that long, as a client does; what it hears is kept.
    pub async fn stay(&mut self, duration: Duration) {
        let until = tokio::time::Instant::now() + duration;
        while let Ok(heard) = tokio::time::timeout_at(until, self.read()).await {
            let closed = heard == Heard::Closed;
            self.kept.push_back(heard);
            if closed {
                return;
            }
        }
    }

    /// Until the server has the answer to its first ping, which it sends at once: then it asks for none for a while.
    pub async fn has_answered(&mut self) {
        let mut answered = false;
        while !answered {
            answered = self.pings > 0;
            self.call(&json!(["ipaddr"])).await;
        }
    }

    /// The next binary frame; nothing else may come before it.
    pub async fn binary(&mut self) -> Vec<u8> {
        match tokio::time::timeout(PATIENCE, self.stream.next()).await.expect("something in time") {
            Some(Ok(Message::Binary(bytes))) => bytes.to_vec(),
            other => panic!("waited for binary, got {other:?}"),
        }
    }

    async fn read(&mut self) -> Heard {
        loop {
            let Some(text) = self.frame().await else { return Heard::Closed };
            let Some(packet) = text.strip_prefix('4') else {
                if text == "1" {
                    return Heard::Closed;
                }
                continue;
            };
            let kind = packet.chars().next().unwrap_or(' ');
            let at = packet.find(['[', '{']).unwrap_or(packet.len());
            let (head, body) = packet.split_at(at);
            match kind {
                '1' => return Heard::Closed,
                '2' | '5' => {
                    let array: Vec<Value> = serde_json::from_str(body).expect("JSON");
                    let name = array[0].as_str().expect("a name").to_owned();
                    return Heard::Event(name, array[1..].to_vec());
                }
                '3' => {
                    let array: Vec<Value> = serde_json::from_str(body).expect("JSON");
                    return Heard::Ack(
                        head[1..].parse().expect("a number"),
                        array.into_iter().next().unwrap_or(Value::Null),
                    );
                }
                _ => {}
            }
        }
    }

    /// Reads until the event `name` comes; whatever comes before it is an error.
    pub async fn expect(&mut self, name: &str) -> Vec<Value> {
        match self.hear().await {
            Heard::Event(heard, arguments) if heard == name => arguments,
            other => panic!("waited for {name}, heard {other:?}"),
        }
    }

    /// Reads until the event `name` comes; what comes before it is dropped.
    pub async fn until(&mut self, name: &str) -> Vec<Value> {
        loop {
            match self.hear().await {
                Heard::Event(heard, arguments) if heard == name => return arguments,
                Heard::Closed => panic!("closed while waiting for {name}"),
                _ => {}
            }
        }
    }

    /// Says nothing more, without a word, and hears all that the server had said before it noticed.
    pub async fn hang_up(mut self) -> Vec<Heard> {
        if let MaybeTlsStream::Plain(stream) = self.stream.get_ref() {
            let _ = socket2::SockRef::from(stream).shutdown(std::net::Shutdown::Write);
        }
        let mut heard = Vec::new();
        loop {
            match self.hear().await {
                Heard::Closed => return heard,
                one => heard.push(one),
            }
        }
    }

    /// Whether the server closes the connection, whatever it says before.
    pub async fn is_closed_by_server(&mut self) -> bool {
        tokio::time::timeout(PATIENCE, async { while self.hear().await != Heard::Closed {} }).await.is_ok()
    }
}

/// Two peers in one room, all their greetings heard.
pub async fn pair(node: &Node, room: &str) -> (Client, Client) {
    let (mut first, mut second) = (Client::connect(node).await, Client::connect(node).await);
    seat(&mut first, &mut second, room).await;
    (first, second)
}

/// Seats two clients in `room`.
pub async fn seat(first: &mut Client, second: &mut Client, room: &str) {
    first.emit(&json!(["create or join", room])).await;
    first.expect("created").await;
    second.emit(&json!(["create or join", room])).await;
    second.expect("joined").await;
    second.expect("ready").await;
    first.expect("join").await;
    first.expect("ready").await;
}
