//! The events on the wire: names, payloads, the closed list of refusal codes. Knows no socket, no store, no clock.
//!
//! What a stranger sends is read here and nowhere else. An event's arguments are borrowed from the packet as raw JSON:
//! what is only handed on (`message`, a candidate, the value of `sdp`) is checked to be well-formed and is passed on as
//! the bytes it came as, never parsed into values and written again.
//!
//! Wire format: Socket.IO protocol 5 (clients 3.x and 4.x) and 4 (1.x and 2.x), default parser,
//! <https://socket.io/docs/v4/socket-io-protocol/>.

use std::{borrow::Cow, fmt};

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::id::{BadRoomName, PeerId, ResumeToken, RoomName};

/// An event a client may send.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum Request {
    /// `create or join` (room).
    Join,
    /// `message` (anything, one or more arguments).
    Message,
    /// `ready` (room).
    Ready,
    /// `offer` (`{type, sdp, room}`).
    Offer,
    /// `answer` (`{type, sdp, room}`).
    Answer,
    /// `candidate` (`{type, label, id, candidate, room}`).
    Candidate,
    /// `bye` (room, or nothing for every room of the socket).
    Bye,
    /// `ipaddr` (nothing).
    Ipaddr,
}

impl Request {
    /// Every event, in the order of the documentation.
    pub const ALL: [Self; 8] =
        [Self::Join, Self::Message, Self::Ready, Self::Offer, Self::Answer, Self::Candidate, Self::Bye, Self::Ipaddr];

    /// Its name on the wire.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Join => "create or join",
            Self::Message => "message",
            Self::Ready => "ready",
            Self::Offer => "offer",
            Self::Answer => "answer",
            Self::Candidate => "candidate",
            Self::Bye => "bye",
            Self::Ipaddr => "ipaddr",
        }
    }

    /// The event of that name, if there is one.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        // `message` is nearly all of the traffic.
        if name == Self::Message.name() {
            return Some(Self::Message);
        }
        Self::ALL.into_iter().find(|request| request.name() == name)
    }
}

/// Why a request was refused: the whole list, as clients see it in `code`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum Code {
    /// No such event.
    UnknownEvent,
    /// The arguments are not of the event's form.
    BadPayload,
    /// The room's name is not valid.
    BadRoom,
    /// Both seats of the room are taken by others. Told by the event `full` as well.
    Full,
    /// The socket is not in that room (or in none).
    NotInRoom,
    /// Nobody else is in the room to hand it to.
    NoPeer,
    /// The other peer takes its messages too slowly: this one was not delivered, and that peer is being closed.
    PeerTooSlow,
    /// As much as may be is kept for the other peer, which is away, already.
    TooManyKept,
    /// This socket takes its messages too slowly and is being closed.
    TooSlow,
    /// There is no token, or none that holds.
    Unauthorized,
    /// The token's end has passed.
    TokenExpired,
    /// The room is not for this peer.
    Forbidden,
    /// The socket sits in as many rooms as it may.
    TooManyRooms,
    /// This socket sends faster than its requests can be served.
    TooManyRequests,
    /// This socket sends more events than it may; when it goes on, it is closed.
    TooFast,
    /// The event is larger than one of its kind may be.
    TooLarge,
    /// Too many joins from this address, or into this room.
    TooManyJoins,
    /// Too many joins of this address were refused, or tokens of it.
    TooManyFailures,
    /// Too many sockets from this address. Told in answer to a handshake.
    TooManySockets,
    /// Too many handshakes from this address. Told in answer to a handshake.
    TooManyHandshakes,
    /// This node has as many sockets as it may. Told in answer to a handshake.
    NodeFull,
    /// The page's origin is not allowed here. Told in answer to a handshake.
    OriginNotAllowed,
    /// Rooms cannot be told for sure at the moment.
    Unavailable,
    /// This node is shutting down: another one, or a later try, will do.
    Draining,
    /// Another connection took this socket's seat back; this one is being closed.
    Superseded,
    /// The operator put this socket out.
    Closed,
}

impl Code {
    /// Every code, in the order of the documentation.
    pub const ALL: [Self; 26] = [
        Self::UnknownEvent,
        Self::BadPayload,
        Self::BadRoom,
        Self::Full,
        Self::NotInRoom,
        Self::NoPeer,
        Self::PeerTooSlow,
        Self::TooManyKept,
        Self::TooSlow,
        Self::Unauthorized,
        Self::TokenExpired,
        Self::Forbidden,
        Self::TooManyRooms,
        Self::TooManyRequests,
        Self::TooFast,
        Self::TooLarge,
        Self::TooManyJoins,
        Self::TooManyFailures,
        Self::TooManySockets,
        Self::TooManyHandshakes,
        Self::NodeFull,
        Self::OriginNotAllowed,
        Self::Unavailable,
        Self::Draining,
        Self::Superseded,
        Self::Closed,
    ];

    /// Its name on the wire and in metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::UnknownEvent => "unknown_event",
            Self::BadPayload => "bad_payload",
            Self::BadRoom => "bad_room",
            Self::Full => "full",
            Self::NotInRoom => "not_in_room",
            Self::NoPeer => "no_peer",
            Self::PeerTooSlow => "peer_too_slow",
            Self::TooManyKept => "too_many_kept",
            Self::TooSlow => "too_slow",
            Self::Unauthorized => "unauthorized",
            Self::TokenExpired => "token_expired",
            Self::Forbidden => "forbidden",
            Self::TooManyRooms => "too_many_rooms",
            Self::TooManyRequests => "too_many_requests",
            Self::TooFast => "too_fast",
            Self::TooLarge => "too_large",
            Self::TooManyJoins => "too_many_joins",
            Self::TooManyFailures => "too_many_failures",
            Self::TooManySockets => "too_many_sockets",
            Self::TooManyHandshakes => "too_many_handshakes",
            Self::NodeFull => "node_full",
            Self::OriginNotAllowed => "origin_not_allowed",
            Self::Unavailable => "unavailable",
            Self::Draining => "draining",
            Self::Superseded => "superseded",
            Self::Closed => "closed",
        }
    }

    /// Whether the same request may succeed later, unchanged.
    #[must_use]
    pub const fn retryable(self) -> bool {
        match self {
            Self::UnknownEvent
            | Self::BadPayload
            | Self::BadRoom
            | Self::NotInRoom
            | Self::Unauthorized
            | Self::TokenExpired
            | Self::Forbidden
            | Self::TooManyRooms
            | Self::Superseded
            | Self::TooLarge
            | Self::OriginNotAllowed
            | Self::Closed => false,
            Self::Full
            | Self::NoPeer
            | Self::PeerTooSlow
            | Self::TooManyKept
            | Self::TooSlow
            | Self::TooManyRequests
            | Self::TooFast
            | Self::TooManyJoins
            | Self::TooManyFailures
            | Self::TooManySockets
            | Self::TooManyHandshakes
            | Self::NodeFull
            | Self::Unavailable
            | Self::Draining => true,
        }
    }
}

/// A refusal: its code, and a sentence for the person who debugs the client.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{}: {message}", code.name())]
pub struct Refusal {
    /// One of the closed list.
    pub code: Code,
    /// What is wrong, in English. Never repeats what the client sent.
    pub message: Cow<'static, str>,
}

impl Refusal {
    /// A refusal with a fixed sentence.
    #[must_use]
    pub const fn new(code: Code, message: &'static str) -> Self {
        Self { code, message: Cow::Borrowed(message) }
    }
}

impl From<BadRoomName> for Refusal {
    fn from(bad: BadRoomName) -> Self {
        Self { code: Code::BadRoom, message: bad.to_string().into() }
    }
}

/// Why a peer is gone, as `bye` tells the one that stays: the whole list.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum ByeReason {
    /// It said `bye`.
    Left,
    /// Its connection was closed.
    Disconnected,
    /// It did not answer any more.
    TimedOut,
    /// It took its messages too slowly and was closed.
    TooSlow,
    /// It broke the protocol and was closed.
    ProtocolError,
    /// Its token's end passed.
    Expired,
    /// Its node shut down.
    NodeShutdown,
    /// Its node does not answer any more, or cannot prove that the peer still sits there.
    NodeLost,
    /// The operator closed the room, or put the peer out.
    Closed,
}

impl ByeReason {
    /// Every reason, in the order of the documentation.
    pub const ALL: [Self; 9] = [
        Self::Left,
        Self::Disconnected,
        Self::TimedOut,
        Self::TooSlow,
        Self::ProtocolError,
        Self::Expired,
        Self::NodeShutdown,
        Self::NodeLost,
        Self::Closed,
    ];

    /// Its name on the wire and in metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Left => "left",
            Self::Disconnected => "disconnected",
            Self::TimedOut => "timed_out",
            Self::TooSlow => "too_slow",
            Self::ProtocolError => "protocol_error",
            Self::Expired => "expired",
            Self::NodeShutdown => "node_shutdown",
            Self::NodeLost => "node_lost",
            Self::Closed => "closed",
        }
    }
}

/// The arguments of an event: the packet's array without its first element, still as text.
///
/// The text is known to be one well-formed JSON array whose first element is the event's name: the parser has gone
/// through it once, and [`split`] has seen that nothing follows.
#[derive(Clone, Copy)]
pub struct Arguments<'a>(&'a str);

impl fmt::Debug for Arguments<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Arguments({} bytes)", self.0.len())
    }
}

/// An event's name and its arguments, of a packet such as `["offer",{…}]` that begins with a well-formed array; none when
/// something follows that array, which a client's parser would end its connection over.
#[must_use]
pub fn split(packet: &str) -> Option<(&str, Arguments<'_>)> {
    if !is_one_array(packet) {
        return None;
    }
    let rest = packet.trim_ascii_start().strip_prefix('[')?.trim_ascii_start().strip_prefix('"')?;
    let (name, rest) = rest.split_once('"')?;
    // An escaped name is none of ours; `read_event` of the parser refuses it as well.
    if name.contains('\\') {
        return None;
    }
    let rest = rest.trim_ascii().strip_suffix(']')?.trim_ascii();
    Some((name, Arguments(rest.strip_prefix(',').map_or("", str::trim_ascii))))
}

/// Whether `packet`, which begins with a well-formed array, is that array and nothing more. The library's parser does not
/// look at what follows it.
fn is_one_array(packet: &str) -> bool {
    let Some(last) = packet.trim_end_matches([' ', '\t', '\n', '\r']).as_bytes().split_last() else { return false };
    // The array ends at a bracket. Nearly every packet has one alone, at its end.
    *last.0 == b']'
        && (memchr::memchr(b']', last.1).is_none() || serde_json::from_str::<serde::de::IgnoredAny>(packet).is_ok())
}

impl<'a> Arguments<'a> {
    /// The arguments' text, separated by commas; empty when there is none.
    #[must_use]
    pub fn text(self) -> &'a str {
        self.0
    }

    /// The first argument's text, or `null` when there is none (as a JavaScript server would see it).
    fn first(self) -> Result<Cow<'a, str>, Refusal> {
        if self.0.is_empty() {
            return Ok("null".into());
        }
        // Most events have one argument: its text is all of the arguments' text.
        if let Ok(only) = serde_json::from_str::<&RawValue>(self.0) {
            return Ok(only.get().into());
        }
        let array = format!("[{}]", self.0);
        let mut json = serde_json::Deserializer::from_str(&array);
        serde::Deserializer::deserialize_seq(&mut json, First)
            .map(|first| first.get().to_owned().into())
            .map_err(|_| Refusal::new(Code::BadPayload, "the arguments are not JSON"))
    }

    /// The first argument as a room's name.
    ///
    /// # Errors
    /// `bad_payload` when it is no string, `bad_room` when it is no valid name.
    pub fn room(self) -> Result<RoomName, Refusal> {
        let first = self.first()?;
        let name: Text<'_> =
            serde_json::from_str(&first).map_err(|_| Refusal::new(Code::BadPayload, "the room must be a string"))?;
        Ok(RoomName::parse(&name.0)?)
    }

    /// The arguments of `create or join`: a room, and what is asked beside a seat in it.
    ///
    /// # Errors
    /// As [`Arguments::room`], and `bad_payload` when what follows is not `{resume, wait, heard}`.
    pub fn join(self) -> Result<(RoomName, JoinOptions), Refusal> {
        let array = format!("[{}]", self.0);
        // Anything but an object says nothing: the lesson's server ignores it.
        let second = match serde_json::from_str::<FirstTwo<'_>>(&array) {
            Ok(FirstTwo(Some(second))) if second.get().starts_with('{') => second.get(),
            _ => return Ok((self.room()?, JoinOptions::default())),
        };
        let room = self.room()?;
        let options: JoinWords<'_> = serde_json::from_str(second).map_err(|_| {
            Refusal::new(
                Code::BadPayload,
                "what follows the room must be {resume, wait, heard}: a text, true or false, and true or {id, peers, messages}",
            )
        })?;
        // A text that no token has is one that has lost its meaning, as an old one has.
        let resume = options.resume.and_then(|text| ResumeToken::parse(&text.0));
        let (counts, heard) = match options.heard {
            None | Some(HeardWords::Counts(false)) => (false, None),
            Some(HeardWords::Counts(true)) => (true, None),
            Some(HeardWords::SoFar { id, peers, messages }) => {
                // As with the token: an id that no socket has is of none that is known.
                (true, id.0.parse().ok().map(|id| Heard { id: PeerId(id), peers, messages }))
            }
        };
        Ok((room, JoinOptions { said: true, resume, wait: options.wait.unwrap_or(false), counts, heard }))
    }

    /// The first argument as a room's name, or none when there is no argument (or `null`, as a client that passes an
    /// undefined variable sends it).
    ///
    /// # Errors
    /// As [`Arguments::room`].
    pub fn room_or_none(self) -> Result<Option<RoomName>, Refusal> {
        if &*self.first()? == "null" { Ok(None) } else { self.room().map(Some) }
    }

    /// The argument of `offer` and `answer`.
    ///
    /// # Errors
    /// `bad_payload` when it is not `{type, sdp, room}`, `bad_room` when the room's name is not valid.
    pub fn description(self) -> Result<Description<'a>, Refusal> {
        #[derive(Deserialize)]
        struct Fields<'a> {
            #[serde(borrow)]
            room: Text<'a>,
            #[serde(borrow)]
            sdp: &'a RawValue,
            #[serde(default, borrow, rename = "type")]
            _type: Option<Text<'a>>,
        }
        let form =
            || Refusal::new(Code::BadPayload, "it must be one object {type, sdp, room}, with texts for type and room");
        let fields: Fields<'a> = serde_json::from_str(self.0).map_err(|_| form())?;
        if !matches!(fields.sdp.get().as_bytes().first(), Some(b'{' | b'"')) {
            return Err(Refusal::new(Code::BadPayload, "sdp must be an object or a text"));
        }
        Ok(Description { room: RoomName::parse(&fields.room.0)?, sdp: fields.sdp.get() })
    }

    /// The argument of `candidate`: the room it names. The object itself is handed on as it is.
    ///
    /// # Errors
    /// `bad_payload` when it is not `{type, label, id, candidate, room}`, `bad_room` when the room's name is not valid.
    pub fn candidate_room(self) -> Result<RoomName, Refusal> {
        #[derive(Deserialize)]
        struct Fields<'a> {
            #[serde(borrow)]
            room: Text<'a>,
            #[serde(borrow)]
            candidate: &'a RawValue,
            #[serde(default, rename = "label")]
            _label: Option<u16>,
            #[serde(default, borrow, rename = "id")]
            _id: Option<Text<'a>>,
            #[serde(default, borrow, rename = "type")]
            _type: Option<Text<'a>>,
        }
        let form = || {
            Refusal::new(
                Code::BadPayload,
                "it must be one object {type, label, id, candidate, room}, with a number for label and texts for type, id and room",
            )
        };
        let fields: Fields<'a> = serde_json::from_str(self.0).map_err(|_| form())?;
        // RTCIceCandidate.candidate is a text; some clients send the whole RTCIceCandidate, or null for the end.
        if !matches!(fields.candidate.get().as_bytes().first(), Some(b'{' | b'"' | b'n')) {
            return Err(Refusal::new(Code::BadPayload, "candidate must be a text, an object or null"));
        }
        Ok(RoomName::parse(&fields.room.0)?)
    }
}

/// What a peer asks for beside a seat.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct JoinOptions {
    /// Whether it said anything at all: then it knows what a token is for.
    pub said: bool,
    /// The token of a seat that it had.
    pub resume: Option<ResumeToken>,
    /// Whether it waits for a seat when both are taken.
    pub wait: bool,
    /// Whether it counts what it hears.
    pub counts: bool,
    /// How far it had heard the other peer by its last connection.
    pub heard: Option<Heard>,
}

/// How far a client heard the other peer of a room by one of its connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heard {
    /// Its id on that connection.
    pub id: PeerId,
    /// How often it was told `join` or `peer resumed` since it was seated there.
    pub peers: u32,
    /// How many `message`, `offer`, `answer` and `candidate` it heard since the last of these, or since it was seated.
    pub messages: u64,
}

#[derive(Deserialize)]
struct JoinWords<'a> {
    #[serde(default, borrow)]
    resume: Option<Text<'a>>,
    #[serde(default)]
    wait: Option<bool>,
    #[serde(default, borrow)]
    heard: Option<HeardWords<'a>>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum HeardWords<'a> {
    Counts(bool),
    SoFar {
        #[serde(borrow)]
        id: Text<'a>,
        peers: u32,
        messages: u64,
    },
}

/// The token that a client's CONNECT carries in its `auth`, for the seats it had: `{resume: "…"}`.
#[must_use]
pub fn resume_in(auth: &str) -> Option<ResumeToken> {
    #[derive(Deserialize)]
    struct AuthWords<'a> {
        #[serde(default, borrow)]
        resume: Option<Text<'a>>,
    }
    let words: AuthWords<'_> = serde_json::from_str(auth).ok()?;
    ResumeToken::parse(&words.resume?.0)
}

/// The second element of an array of any length, if there is one.
struct FirstTwo<'a>(Option<&'a RawValue>);

impl<'de: 'a, 'a> Deserialize<'de> for FirstTwo<'a> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'de> serde::de::Visitor<'de> for Visitor {
            type Value = Option<&'de RawValue>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("arguments")
            }
            fn visit_seq<A: serde::de::SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
                seq.next_element::<serde::de::IgnoredAny>()?;
                let second = seq.next_element()?;
                while seq.next_element::<serde::de::IgnoredAny>()?.is_some() {}
                Ok(second)
            }
        }
        deserializer.deserialize_seq(Visitor).map(Self)
    }
}

/// Takes the first element of an array, as text.
struct First;
impl<'de> serde::de::Visitor<'de> for First {
    type Value = &'de RawValue;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("arguments")
    }
    fn visit_seq<A: serde::de::SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        let first = seq.next_element()?.ok_or_else(|| serde::de::Error::custom("no argument"))?;
        while seq.next_element::<serde::de::IgnoredAny>()?.is_some() {}
        Ok(first)
    }
}

/// A JSON string, borrowed where it has no escape.
#[derive(Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

/// What `offer` and `answer` carry.
#[derive(Debug)]
pub struct Description<'a> {
    /// The room it is for.
    pub room: RoomName,
    /// The value of `sdp`, as it came.
    pub sdp: &'a str,
}

/// Refuses arrays and objects nested deeper than `limit`: some JSON parsers at the other end recurse.
///
/// # Errors
/// `bad_payload`.
pub fn check_depth(json: &str, limit: usize) -> Result<(), Refusal> {
    // As many brackets as the limit allows cannot be nested deeper than it: nearly every packet ends here.
    if memchr::memchr2_iter(b'[', b'{', json.as_bytes()).take(limit + 1).count() <= limit {
        return Ok(());
    }
    let (mut depth, mut in_string, mut escaped) = (0_usize, false, false);
    for byte in json.bytes() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            b'[' | b'{' if !in_string => {
                depth += 1;
                if depth > limit {
                    return Err(Refusal::new(Code::BadPayload, "arrays and objects are nested too deeply"));
                }
            }
            b']' | b'}' if !in_string => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    Ok(())
}

/// Checks that every placeholder of a binary event names one of its `attachments`: a client's parser ends the
/// connection over one that does not, so a stranger could close its peer's.
///
/// # Errors
/// `bad_payload`.
pub fn check_placeholders(json: &str, attachments: usize) -> Result<(), Refusal> {
    let wrong = || Refusal::new(Code::BadPayload, "a placeholder names no attachment of this event");
    let mut de = serde_json::Deserializer::from_str(json);
    match serde::de::DeserializeSeed::deserialize(Placeholders { attachments }, &mut de) {
        Ok(true) => Ok(()),
        Ok(false) | Err(_) => Err(wrong()),
    }
}

/// Walks a JSON value; the result tells whether its placeholders are all right.
#[derive(Clone, Copy)]
struct Placeholders {
    attachments: usize,
}

impl<'de> serde::de::DeserializeSeed<'de> for Placeholders {
    type Value = bool;
    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<bool, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> serde::de::Visitor<'de> for Placeholders {
    type Value = bool;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }
    fn visit_bool<E>(self, _: bool) -> Result<bool, E> {
        Ok(true)
    }
    fn visit_i64<E>(self, _: i64) -> Result<bool, E> {
        Ok(true)
    }
    fn visit_u64<E>(self, _: u64) -> Result<bool, E> {
        Ok(true)
    }
    fn visit_f64<E>(self, _: f64) -> Result<bool, E> {
        Ok(true)
    }
    fn visit_str<E>(self, _: &str) -> Result<bool, E> {
        Ok(true)
    }
    fn visit_unit<E>(self) -> Result<bool, E> {
        Ok(true)
    }

    fn visit_seq<A: serde::de::SeqAccess<'de>>(self, mut seq: A) -> Result<bool, A::Error> {
        let mut right = true;
        while let Some(element) = seq.next_element_seed(self)? {
            right &= element;
        }
        Ok(right)
    }

    fn visit_map<A: serde::de::MapAccess<'de>>(self, mut map: A) -> Result<bool, A::Error> {
        let (mut right, mut marked, mut names_one) = (true, false, false);
        while let Some(key) = map.next_key::<Cow<'de, str>>()? {
            match &*key {
                // Older parsers take any truthy mark for a placeholder.
                "_placeholder" => {
                    marked |= !matches!(
                        map.next_value::<serde_json::Value>()?,
                        serde_json::Value::Bool(false) | serde_json::Value::Null
                    );
                }
                "num" => {
                    let num: serde_json::Value = map.next_value()?;
                    names_one = num.as_u64().is_some_and(|num| num < self.attachments as u64);
                }
                _ => right &= map.next_value_seed(self)?,
            }
        }
        Ok(right && (!marked || names_one))
    }
}

/// Texts of what the server sends: whole packets' arrays, and acknowledgements.
pub mod reply {
    use super::{ByeReason, Refusal, Request, Serialize};
    use crate::{
        ice::IceServer,
        id::{PeerId, ResumeToken, RoomName},
        rooms::Role,
    };

    /// An event's array, `["name",arguments…]`, of arguments that are JSON already.
    #[must_use]
    pub fn event(name: &str, arguments: &str) -> String {
        let mut packet = String::with_capacity(name.len() + arguments.len() + 5);
        packet.push_str("[\"");
        packet.push_str(name);
        packet.push('"');
        if !arguments.is_empty() {
            packet.push(',');
            packet.push_str(arguments);
        }
        packet.push(']');
        packet
    }

    /// JSON of a plain value. Our own values always can be written.
    fn json<T: Serialize + ?Sized>(value: &T) -> String {
        serde_json::to_string(value).unwrap_or_default()
    }

    /// `created` and `joined` (room, own id), with `{resume}` for those who had to wait.
    #[must_use]
    pub fn seated(role: Role, room: &RoomName, own: PeerId, resume: Option<ResumeToken>) -> String {
        #[derive(Serialize)]
        struct More {
            resume: String,
        }
        match resume {
            None => json(&(outcome(role), room.as_str(), own.0)),
            Some(token) => json(&(outcome(role), room.as_str(), own.0, More { resume: token.to_string() })),
        }
    }

    /// The event's name for a role, also the `outcome` of the acknowledgement.
    #[must_use]
    pub const fn outcome(role: Role) -> &'static str {
        match role {
            Role::Created => "created",
            Role::Joined => "joined",
        }
    }

    /// `join`, `ready` and `full` (room).
    #[must_use]
    pub fn room(event: &str, room: &RoomName) -> String {
        json(&(event, room.as_str()))
    }

    /// `bye` (room, `{id, reason}`).
    #[must_use]
    pub fn bye(room: &RoomName, gone: PeerId, reason: ByeReason) -> String {
        #[derive(Serialize)]
        struct Gone {
            id: engineioxide::socket::Sid,
            reason: &'static str,
        }
        json(&("bye", room.as_str(), Gone { id: gone.0, reason: reason.name() }))
    }

    /// `resumed` (room, own id): the seat that was asked back.
    #[must_use]
    pub fn resumed(room: &RoomName, own: PeerId) -> String {
        json(&("resumed", room.as_str(), own.0))
    }

    /// `peer reconnecting` (room, `{id, grace_ms}`): the other peer is lost, and its seat is kept for so many milliseconds.
    #[must_use]
    pub fn peer_reconnecting(room: &RoomName, lost: PeerId, grace: std::time::Duration) -> String {
        #[derive(Serialize)]
        struct Lost {
            id: engineioxide::socket::Sid,
            grace_ms: u128,
        }
        json(&("peer reconnecting", room.as_str(), Lost { id: lost.0, grace_ms: grace.as_millis() }))
    }

    /// `peer resumed` (room, `{id, was}`): the other peer took its seat back, by another connection.
    #[must_use]
    pub fn peer_resumed(room: &RoomName, now: PeerId, before: PeerId) -> String {
        #[derive(Serialize)]
        struct Back {
            id: engineioxide::socket::Sid,
            was: engineioxide::socket::Sid,
        }
        json(&("peer resumed", room.as_str(), Back { id: now.0, was: before.0 }))
    }

    /// `ipaddr` (address).
    #[must_use]
    pub fn ipaddr(address: std::net::IpAddr) -> String {
        json(&("ipaddr", address))
    }

    /// `log` (one array, first element `Message from server:`) of a sentence.
    #[must_use]
    pub fn log(sentence: &str) -> String {
        json(&("log", ("Message from server:", sentence)))
    }

    /// `log` of what a client said, as the lesson's server tells it back.
    #[must_use]
    pub fn log_said(arguments: &str) -> String {
        let mut packet = String::with_capacity(arguments.len() + 48);
        packet.push_str(r#"["log",["Message from server:","Client said: ""#);
        if !arguments.is_empty() {
            packet.push(',');
            packet.push_str(arguments);
        }
        packet.push_str("]]");
        packet
    }

    /// `draining` (`{delay_ms}`): the node shuts down; come back after that many milliseconds.
    #[must_use]
    pub fn draining(delay: std::time::Duration) -> String {
        #[derive(Serialize)]
        struct Draining {
            delay_ms: u128,
        }
        json(&("draining", Draining { delay_ms: delay.as_millis() }))
    }

    #[derive(Serialize)]
    struct Rejected<'a> {
        #[serde(skip_serializing_if = "Option::is_none")]
        event: Option<&'a str>,
        #[serde(skip_serializing_if = "Option::is_none")]
        ok: Option<bool>,
        code: &'static str,
        message: &'a str,
        retryable: bool,
    }

    /// `rejected` (`{event, code, message, retryable}`).
    #[must_use]
    pub fn rejected(event: &str, refusal: &Refusal) -> String {
        json(&(
            "rejected",
            Rejected {
                event: Some(event),
                ok: None,
                code: refusal.code.name(),
                message: &refusal.message,
                retryable: refusal.code.retryable(),
            },
        ))
    }

    /// The whole packet that refuses a CONNECT, as a Socket.IO middleware's error has it: `{message, data: {code}}`. In
    /// ASCII, since the sentences are.
    #[must_use]
    pub fn connect_error(refusal: &Refusal) -> String {
        #[derive(Serialize)]
        struct Error<'a> {
            message: &'a str,
            data: Data,
        }
        #[derive(Serialize)]
        struct Data {
            code: &'static str,
            retryable: bool,
        }
        let data = Data { code: refusal.code.name(), retryable: refusal.code.retryable() };
        format!("44{}", json(&Error { message: &refusal.message, data }))
    }

    /// The acknowledgement of a refused request, `[{ok: false, code, message, retryable}]`.
    #[must_use]
    pub fn ack_refused(refusal: &Refusal) -> String {
        json(&(Rejected {
            event: None,
            ok: Some(false),
            code: refusal.code.name(),
            message: &refusal.message,
            retryable: refusal.code.retryable(),
        },))
    }

    /// The acknowledgement of a request that needs no further answer, `[{ok: true}]`.
    pub const ACK_OK: &str = r#"[{"ok":true}]"#;

    /// The acknowledgement of a message that is kept for a peer that is away, or not there yet, `[{ok: true, kept: true}]`.
    pub const ACK_KEPT: &str = r#"[{"ok":true,"kept":true}]"#;

    /// The acknowledgement of `create or join`, `[{ok: true, outcome, room, id, resume, iceServers}]`, the last two if there are
    /// any.
    #[must_use]
    pub fn ack_seated(
        outcome: &'static str,
        room: &RoomName,
        own: PeerId,
        resume: Option<ResumeToken>,
        ice: &[IceServer],
    ) -> String {
        #[derive(Serialize)]
        struct Seated<'a> {
            ok: bool,
            outcome: &'static str,
            room: &'a str,
            id: engineioxide::socket::Sid,
            #[serde(skip_serializing_if = "Option::is_none")]
            resume: Option<String>,
            #[serde(rename = "iceServers", skip_serializing_if = "<[IceServer]>::is_empty")]
            ice: &'a [IceServer],
        }
        let resume = resume.map(|token| token.to_string());
        json(&(Seated { ok: true, outcome, room: room.as_str(), id: own.0, resume, ice },))
    }

    /// What a request's name is told back as: known names as they are, others cut to a bounded length.
    #[must_use]
    pub fn told_name(name: &str) -> &str {
        match Request::named(name) {
            Some(known) => known.name(),
            None => &name[..name.floor_char_boundary(64)],
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::rooms::Role;

    fn arguments(packet: &str) -> Arguments<'_> {
        split(packet).expect("an event").1
    }

    #[test]
    fn an_event_is_split_into_its_name_and_the_text_of_its_arguments() {
        for (packet, name, text) in [
            (r#"["message",{"a":1}]"#, "message", r#"{"a":1}"#),
            (r#" [ "message" , 1 , [2] ] "#, "message", "1 , [2]"),
            (r#"["bye"]"#, "bye", ""),
            (r#"["bye" ]"#, "bye", ""),
            (r#"["",","]"#, "", r#"",""#),
        ] {
            let (got_name, got) = split(packet).expect(packet);
            assert_eq!((got_name, got.text()), (name, text), "{packet}");
        }
        for packet in ["", "[", "[]", "[1]", r#"["\u0062ye"]"#, r#"{"a":1}"#] {
            assert!(split(packet).is_none(), "{packet}");
        }
    }

    #[test]
    fn nothing_may_follow_the_array() {
        for more in [r#",["x"]"#, "]", "x]", "\u{c}", "\0", ",[]", r#"["message",1]"#] {
            let packet = format!(r#"["message",1]{more}"#);
            assert!(split(&packet).is_none(), "{packet}");
        }
        for packet in ["[\"message\",1]\r\n\t ", r#"["message","]",["]"]]"#, r#"["message",[]]"#] {
            assert!(split(packet).is_some(), "{packet}");
        }
    }

    #[test]
    fn a_room_is_one_string_and_nothing_else() {
        assert_eq!(arguments(r#"["ready","foo"]"#).room().expect("a room").as_str(), "foo");
        assert_eq!(arguments(r#"["ready","foo",{"more":[1,"]"]}]"#).room().expect("a room").as_str(), "foo");
        assert_eq!(arguments(r#"["ready","\u00e9\"\n"]"#).room().expect_err("control").code, Code::BadRoom);
        for wrong in [
            "",
            ",null",
            ",1",
            ",true",
            ",[]",
            r#",{"room":"foo"}"#,
            r#",["foo"]"#,
            r#",{"_placeholder":true,"num":0}"#,
        ] {
            let packet = format!(r#"["ready"{wrong}]"#);
            assert_eq!(arguments(&packet).room().expect_err(&packet).code, Code::BadPayload, "{packet}");
        }
    }

    #[test]
    fn bye_names_a_room_or_none() {
        assert_eq!(arguments(r#"["bye"]"#).room_or_none(), Ok(None));
        assert_eq!(arguments(r#"["bye",null]"#).room_or_none(), Ok(None));
        assert_eq!(
            arguments(r#"["bye","foo"]"#).room_or_none().map(|r| r.map(|r| r.as_str().to_owned())),
            Ok(Some("foo".into()))
        );
        assert_eq!(arguments(r#"["bye",0]"#).room_or_none().expect_err("no room").code, Code::BadPayload);
    }

    #[test]
    fn a_description_hands_on_the_text_of_its_sdp() {
        let packet = r#"["offer",{"type":"offer","sdp":{"type":"offer","sdp":"v=0\r\n"},"room":"foo"}]"#;
        let description = arguments(packet).description().expect("a description");
        assert_eq!((description.room.as_str(), description.sdp), ("foo", r#"{"type":"offer","sdp":"v=0\r\n"}"#));
        assert_eq!(
            arguments(r#"["offer",{"sdp":"v=0","room":"foo"}]"#).description().expect("no type").sdp,
            r#""v=0""#
        );
        for wrong in [
            r#""x""#,
            "null",
            "[]",
            "{}",
            r#"{"sdp":"v=0"}"#,
            r#"{"room":"foo"}"#,
            r#"{"sdp":null,"room":"foo"}"#,
            r#"{"sdp":1,"room":"foo"}"#,
            r#"{"sdp":"v=0","room":1}"#,
            r#"{"sdp":"v=0","room":"foo","type":1}"#,
            r#"{"sdp":"v=0","room":"foo"},2"#,
        ] {
            let packet = format!(r#"["offer",{wrong}]"#);
            assert_eq!(arguments(&packet).description().expect_err(&packet).code, Code::BadPayload, "{packet}");
        }
        assert_eq!(
            arguments(r#"["offer",{"sdp":"","room":""}]"#).description().expect_err("empty").code,
            Code::BadRoom
        );
    }

    #[test]
    fn a_candidate_names_its_room() {
        let packet = r#"["candidate",{"type":"candidate","label":0,"id":"0","candidate":"candidate:1","room":"foo"}]"#;
        assert_eq!(arguments(packet).candidate_room().expect("a room").as_str(), "foo");
        let bare = r#"["candidate",{"candidate":null,"label":null,"id":null,"room":"foo"}]"#;
        assert_eq!(arguments(bare).candidate_room().expect("a room").as_str(), "foo");
        for wrong in [
            r#"{"candidate":"x"}"#,
            r#"{"candidate":1,"room":"a"}"#,
            r#"{"label":"x","candidate":"","room":"a"}"#,
            r#"{"room":"a"}"#,
            "3",
        ] {
            let packet = format!(r#"["candidate",{wrong}]"#);
            assert_eq!(arguments(&packet).candidate_room().expect_err(&packet).code, Code::BadPayload, "{packet}");
        }
    }

    #[test]
    fn nesting_is_bounded_and_brackets_in_texts_do_not_count() {
        let nested = |depth: usize| "[".repeat(depth) + &"]".repeat(depth);
        assert!(check_depth(&nested(128), 128).is_ok());
        assert_eq!(check_depth(&nested(129), 128).expect_err("deep").code, Code::BadPayload);
        assert!(check_depth(&format!(r#"["{}\"["]"#, "[{".repeat(500)), 128).is_ok());
        assert!(check_depth(&format!("[{}1]", "[1],".repeat(500)), 128).is_ok());
        assert!(check_depth(&nested(500_000), 128).is_err());
    }

    #[test]
    fn placeholders_must_name_an_attachment() {
        let right = r#"["message",{"_placeholder":true,"num":0},{"a":[{"num":1,"_placeholder":true}]},{"num":9}]"#;
        assert!(check_placeholders(right, 2).is_ok());
        assert!(check_placeholders(right, 1).is_err());
        for wrong in [
            r#"{"_placeholder":true}"#,
            r#"{"_placeholder":true,"num":-1}"#,
            r#"{"_placeholder":true,"num":"0"}"#,
            r#"{"_placeholder":true,"num":0.5}"#,
            r#"{"_placeholder":1,"num":7}"#,
        ] {
            assert!(check_placeholders(wrong, 1).is_err(), "{wrong}");
        }
        assert!(check_placeholders(r#"{"_placeholder":false,"num":7}"#, 1).is_ok());
    }

    #[test]
    fn names_and_codes_are_each_there_once() {
        let names: std::collections::HashSet<_> = Request::ALL.iter().map(|r| r.name()).collect();
        assert_eq!(names.len(), Request::ALL.len());
        for request in Request::ALL {
            assert_eq!(Request::named(request.name()), Some(request));
        }
        let codes: std::collections::HashSet<_> = Code::ALL.iter().map(|c| c.name()).collect();
        assert_eq!(codes.len(), Code::ALL.len());
        let reasons: std::collections::HashSet<_> = ByeReason::ALL.iter().map(|r| r.name()).collect();
        assert_eq!(reasons.len(), ByeReason::ALL.len());
    }

    #[test]
    fn what_the_server_sends_has_the_form_of_the_contract() {
        let room = RoomName::parse("a\"b").expect("valid");
        let own = crate::id::PeerId(crate::id::Sid::ZERO);
        let value = |text: &str| serde_json::from_str::<serde_json::Value>(text).expect(text);
        let zero = serde_json::to_value(own.0).expect("an id");
        assert_eq!(value(&reply::seated(Role::Created, &room, own, None)), json!(["created", "a\"b", zero]));
        assert_eq!(value(&reply::room("ready", &room)), json!(["ready", "a\"b"]));
        assert_eq!(
            value(&reply::bye(&room, own, ByeReason::Left)),
            json!(["bye", "a\"b", {"id": zero, "reason": "left"}])
        );
        assert_eq!(value(&reply::log("x")), json!(["log", ["Message from server:", "x"]]));
        assert_eq!(
            value(&reply::log_said(r#"{"a":1}"#)),
            json!(["log", ["Message from server:", "Client said: ", {"a": 1}]])
        );
        let refusal = Refusal::new(Code::NoPeer, "nobody");
        assert_eq!(
            value(&reply::rejected("offer", &refusal)),
            json!(["rejected", {"event": "offer", "code": "no_peer", "message": "nobody", "retryable": true}])
        );
        assert_eq!(
            value(&reply::ack_refused(&refusal)),
            json!([{"ok": false, "code": "no_peer", "message": "nobody", "retryable": true}])
        );
        assert_eq!(
            value(&reply::connect_error(&Refusal::new(Code::Unauthorized, "no"))[2..]),
            json!({"message": "no", "data": {"code": "unauthorized", "retryable": false}})
        );
        assert_eq!(
            value(&reply::ack_seated("joined", &room, own, None, &[])),
            json!([{"ok": true, "outcome": "joined", "room": "a\"b", "id": zero}])
        );
        let servers = json!([{"urls": ["turn:a"], "username": "1:u", "credential": "c"}, {"urls": ["stun:a"]}]);
        let ice: Vec<crate::ice::IceServer> = serde_json::from_value(servers.clone()).expect("servers");
        assert_eq!(
            value(&reply::ack_seated("created", &room, own, None, &ice)),
            json!([{"ok": true, "outcome": "created", "room": "a\"b", "id": zero, "iceServers": servers}])
        );
        assert_eq!(value(reply::ACK_OK), json!([{"ok": true}]));
        assert_eq!(value(&reply::event("candidate", r#"{"a":1}"#)), json!(["candidate", {"a": 1}]));
    }
}
