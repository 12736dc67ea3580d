//! The way a packet takes straight to the socket, past the library's queue and task, when nothing is in front of it.
//!
//! A relay that finds its receiver idle needs no second task: the frame is written where the message was read. What
//! makes this safe is kept here, under one lock: where the library's own writes stand (only between two whole frames may
//! another be put), and what of a frame did not fit into the kernel's buffer (nothing may be written before it).
//!
//! Knows WebSocket frames of a server (RFC 6455, section 5.2: never masked, and the library never fragments them), and
//! which of them carry what duet sends; nothing of events or rooms.

use std::{
    io::{self, IoSlice},
    sync::Arc,
};

use bytes::{Buf, Bytes};
use prometheus::IntCounter;
use tokio::net::TcpStream;

/// Where the writes of one WebSocket stand.
#[derive(Debug, Default)]
pub(super) struct Lane {
    /// None: the library's way is the only one.
    way: Option<Way>,
    frames: Frames,
    /// The rest of a frame that did not fit.
    rest: Bytes,
    /// What the client is told instead of the library's own refusal of its CONNECT.
    refusal: Option<Box<Refusal>>,
}

/// The answer to a CONNECT that is refused.
#[derive(Debug, Default)]
struct Refusal {
    /// The packet, until it is written.
    packet: Bytes,
    /// Bytes of the library's own frame, once that is to be written: this goes in its place.
    stands_for: usize,
}

#[derive(Debug)]
struct Way {
    stream: Arc<TcpStream>,
    sent: IntCounter,
}

/// What is to be written next.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// So many bytes of what the library has.
    Library(usize),
    /// What is said in the place of its refusal.
    Refusal(Bytes),
}

/// What became of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sent {
    /// The kernel has it.
    Whole,
    /// The kernel has some of it; so many bytes wait, and have to be driven on.
    Partly(usize),
    /// It has to take the library's way.
    Not,
}

impl Lane {
    pub(super) fn open(&mut self, stream: Arc<TcpStream>, sent: IntCounter) {
        self.way = Some(Way { stream, sent });
    }

    /// Lets go of the socket.
    pub(super) fn close(&mut self) {
        self.way = None;
    }

    pub(super) fn stream(&self) -> Option<Arc<TcpStream>> {
        self.way.as_ref().map(|way| Arc::clone(&way.stream))
    }

    /// Writes a frame, in two pieces, if no other is under way.
    pub(super) fn send(&mut self, head: &[u8], body: &[u8]) -> Sent {
        let Some(way) = &self.way else { return Sent::Not };
        if !self.frames.may_be_joined() || self.has_rest() {
            return Sent::Not;
        }
        match way.stream.try_write_vectored(&[IoSlice::new(head), IoSlice::new(body)]) {
            Ok(bytes) => {
                way.sent.inc_by(bytes as u64);
                if bytes == head.len() + body.len() {
                    return Sent::Whole;
                }
                let mut rest = [head, body].concat();
                rest.drain(..bytes);
                self.rest = rest.into();
                Sent::Partly(self.rest.len())
            }
            // No room; or an error, which the library's writer will meet as well.
            Err(_) => Sent::Not,
        }
    }

    /// From now on the library's refusal of a CONNECT is left out, and `packet` said instead.
    pub(super) fn refuse(&mut self, packet: Bytes) {
        self.refusal = Some(Box::new(Refusal { packet, stands_for: 0 }));
    }

    /// Whether a CONNECT was refused.
    pub(super) fn is_refused(&self) -> bool {
        self.refusal.is_some()
    }

    /// What is to be said instead of the library's refusal, as long as it is not said.
    pub(super) fn refusal(&self) -> Option<Bytes> {
        self.refusal.as_ref().map(|refusal| refusal.packet.clone()).filter(|packet| !packet.is_empty())
    }

    /// It is said.
    pub(super) fn refusal_said(&mut self) {
        if let Some(refusal) = &mut self.refusal {
            **refusal = Refusal::default();
        }
    }

    /// Whose turn it is to write, before or in the place of the library's `buffer`.
    pub(super) fn turn(&mut self, buffer: &[u8]) -> Turn {
        let Some(refusal) = self.refusal.as_mut().filter(|refusal| !refusal.packet.is_empty()) else {
            return Turn::Library(buffer.len());
        };
        let mut at = self.frames.left;
        while at < buffer.len() && refusal.stands_for == 0 {
            let (bytes, kind) = frame(&buffer[at..]);
            if kind == Kind::Refusal && at + bytes <= buffer.len() {
                if at > 0 {
                    return Turn::Library(at);
                }
                refusal.stands_for = bytes;
                let mut whole = text_frame_head(refusal.packet.len(), b"").to_vec();
                whole.extend_from_slice(&refusal.packet);
                refusal.packet = whole.into();
            }
            at += bytes;
        }
        if refusal.stands_for > 0 { Turn::Refusal(refusal.packet.clone()) } else { Turn::Library(buffer.len()) }
    }

    /// So many bytes of what stands for the library's frame are written: how long that frame is, once all are.
    pub(super) fn wrote_refusal(&mut self, bytes: usize) -> Option<usize> {
        let refusal = self.refusal.as_mut()?;
        refusal.packet.advance(bytes);
        refusal.packet.is_empty().then(|| std::mem::take(&mut refusal.stands_for))
    }

    /// Whether the rest of a frame is to be written before anything else.
    pub(super) fn has_rest(&self) -> bool {
        !self.rest.is_empty()
    }

    /// Writes of the rest what fits now: how many bytes.
    pub(super) fn drive(&mut self) -> io::Result<usize> {
        let Some(way) = &self.way else { return Err(io::ErrorKind::NotConnected.into()) };
        let bytes = way.stream.try_write(&self.rest)?;
        way.sent.inc_by(bytes as u64);
        self.rest.advance(bytes);
        Ok(bytes)
    }

    /// The library wrote the first `bytes` of `buffer`: how many of them carry what duet sent.
    pub(super) fn wrote(&mut self, buffer: &[u8], bytes: usize) -> usize {
        self.frames.wrote(buffer, bytes)
    }
}

/// Follows whole frames through partial writes.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Frames {
    /// Bytes of the frame under way that are not written yet.
    left: usize,
    /// What it carries.
    kind: Kind,
    /// CONNECT has been answered: nothing of duet's may come before that.
    connected: bool,
}

/// What a frame carries.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// An event, an acknowledgement or an attachment.
    Ours,
    /// The answer to CONNECT.
    Connect,
    /// The refusal of a CONNECT.
    Refusal,
    /// A heartbeat, a handshake, an end.
    #[default]
    Other,
}

impl Frames {
    /// Whether a frame of duet's may be written here and now.
    #[must_use]
    pub fn may_be_joined(&self) -> bool {
        self.left == 0 && self.connected
    }

    /// The first `bytes` of `buffer` were written: how many of them carry what duet sent.
    pub fn wrote(&mut self, buffer: &[u8], bytes: usize) -> usize {
        let (mut at, mut ours) = (0, 0);
        while at < bytes {
            if self.left == 0 {
                (self.left, self.kind) = frame(&buffer[at..]);
            }
            let step = self.left.min(bytes - at);
            at += step;
            self.left -= step;
            match self.kind {
                Kind::Ours => ours += step,
                Kind::Connect if self.left == 0 => self.connected = true,
                Kind::Connect | Kind::Refusal | Kind::Other => {}
            }
        }
        ours
    }
}

/// Length of the frame that `buffer` starts with, and what it carries.
fn frame(buffer: &[u8]) -> (usize, Kind) {
    let (head, payload) = match *buffer {
        [_, short @ ..=125, ..] => (2, usize::from(short)),
        [_, 126, high, low, ..] => (4, usize::from(u16::from_be_bytes([high, low]))),
        [_, 127, ref rest @ ..] if rest.len() >= 8 => {
            let length = rest.first_chunk().copied().map_or(0, u64::from_be_bytes);
            (10, usize::try_from(length).unwrap_or(usize::MAX))
        }
        // Not what the library writes: whole frames. Then nothing is ever put between.
        _ => return (buffer.len().max(1), Kind::Other),
    };
    let kind = match (buffer[0] & 0x0f, buffer.get(head..head + 2)) {
        (0x1, Some([b'4', b'2' | b'3' | b'5' | b'6'])) | (0x2, _) => Kind::Ours,
        (0x1, Some(b"40")) => Kind::Connect,
        // That of the root namespace, the only one that is ever told to a client that may connect.
        (0x1, Some(b"44")) if buffer.get(head + 2) == Some(&b'{') => Kind::Refusal,
        _ => Kind::Other,
    };
    (head.saturating_add(payload), kind)
}

/// The head of a text frame of `payload` bytes, followed by the payload's own `start`.
#[must_use]
pub fn text_frame_head(payload: usize, start: &[u8]) -> smallvec::SmallVec<[u8; 32]> {
    let mut head = smallvec::SmallVec::new();
    head.push(0x81);
    match (u8::try_from(payload), u16::try_from(payload)) {
        (Ok(short @ 0..126), _) => head.push(short),
        (_, Ok(medium)) => {
            head.push(126);
            head.extend_from_slice(&medium.to_be_bytes());
        }
        _ => {
            head.push(127);
            head.extend_from_slice(&(payload as u64).to_be_bytes());
        }
    }
    head.extend_from_slice(start);
    head
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(payload: &str) -> Vec<u8> {
        let mut frame = text_frame_head(payload.len(), b"").to_vec();
        frame.extend_from_slice(payload.as_bytes());
        frame
    }

    #[test]
    fn heads_have_the_three_lengths() {
        assert_eq!(text_frame_head(125, b"42").as_slice(), [0x81, 125, b'4', b'2']);
        assert_eq!(text_frame_head(126, b"").as_slice(), [0x81, 126, 0, 126]);
        assert_eq!(text_frame_head(65_535, b"").as_slice(), [0x81, 126, 255, 255]);
        assert_eq!(text_frame_head(65_536, b"").as_slice(), [0x81, 127, 0, 0, 0, 0, 0, 1, 0, 0]);
    }

    #[test]
    fn a_length_beyond_all_bounds_is_the_rest_of_what_is_written() {
        let head = [[0x82, 127].as_slice(), &[0xFF; 8]].concat();
        let mut frames = Frames::default();
        assert_eq!((frames.wrote(&head, 10), frames.wrote(b"more", 4)), (10, 4));
        assert!(!frames.may_be_joined());
    }

    #[test]
    fn frames_are_followed_through_any_partial_writes() {
        let long = format!("42[\"message\",\"{}\"]", "x".repeat(70_000));
        let medium = format!("43[\"{}\"]", "x".repeat(300));
        let binary = [&[0x82, 3][..], &[1, 2, 3]].concat();
        let frames = [
            (text("2"), false),
            (text("42[\"a\"]"), true),
            (text(&medium), true),
            (text("40{}"), false),
            (text(&long), true),
            (binary, true),
            (text("1"), false),
            (vec![0x8a, 0], false),
            (text("451-[\"a\"]"), true),
        ];
        let all: Vec<u8> = frames.iter().flat_map(|(frame, _)| frame.clone()).collect();
        let ours: usize = frames.iter().filter(|(_, ours)| *ours).map(|(frame, _)| frame.len()).sum();
        for step in [1, 2, 3, 7, 100, 4096, all.len()] {
            let (mut state, mut at, mut counted) = (Frames::default(), 0, 0);
            while at < all.len() {
                let bytes = step.min(all.len() - at);
                counted += state.wrote(&all[at..], bytes);
                at += bytes;
            }
            assert_eq!((counted, state.may_be_joined()), (ours, true), "steps of {step}");
        }
    }

    #[test]
    fn of_what_the_library_writes_its_refusal_is_left_out_and_nothing_else() {
        let mut lane = Lane::default();
        let [ping, refused, event] = ["2", r#"44{"message":"no"}"#, "42[\"a\"]"].map(text);
        let all = [ping.clone(), refused.clone(), event.clone()].concat();
        assert_eq!(lane.turn(&all), Turn::Library(all.len()), "nothing is refused");
        lane.refuse(Bytes::from_static(b"44{}"));
        assert_eq!(lane.turn(&event), Turn::Library(event.len()));
        assert_eq!(lane.turn(&all), Turn::Library(ping.len()));
        // Within a frame.
        lane.wrote(&all, 1);
        assert_eq!(lane.turn(&all[1..]), Turn::Library(ping.len() - 1));
        lane.wrote(&all[1..], ping.len() - 1);
        assert_eq!(lane.turn(&all[ping.len()..]), Turn::Refusal(text("44{}").into()));
        assert_eq!(lane.refusal.as_ref().map(|refusal| refusal.stands_for), Some(refused.len()));
        assert_eq!(lane.refusal().as_deref(), Some(&text("44{}")[..]));
        lane.refusal_said();
        assert!(lane.refusal().is_none() && lane.is_refused());
        assert_eq!(lane.turn(&all), Turn::Library(all.len()));
    }

    #[test]
    fn nothing_comes_before_connect_is_answered_or_within_a_frame() {
        let all = [text("0{}"), text("2"), text("40{}"), text("2")].concat();
        let mut state = Frames::default();
        let mut joined = Vec::new();
        for at in 0..all.len() {
            state.wrote(&all[at..], 1);
            joined.push(state.may_be_joined());
        }
        let first = joined.iter().position(|joined| *joined).expect("joined at last");
        assert_eq!(first, text("0{}").len() + text("2").len() + text("40{}").len() - 1);
        assert_eq!(joined[first..], [true, false, false, true]);
    }
}
