//! WebSocket frames, as far as they are duet's.

use arbitrary::{Arbitrary, Unstructured};
use bytes::Bytes;
use duet::{
    signaling::wire,
    transport::lane::{Frames, text_frame_head},
};
use socketioxide_core::{Str, Value, packet::Packet};
use tokio_tungstenite::tungstenite::protocol::frame::{
    FrameHeader,
    coding::{Data, OpCode},
};

#[derive(Arbitrary, Debug)]
struct Writes {
    frames: Vec<(Kind, u32, Vec<u8>)>,
    steps: Vec<u16>,
}

#[derive(Arbitrary, Debug, Clone, Copy, PartialEq)]
enum Kind {
    Event,
    Acknowledgement,
    Connect,
    Heartbeat,
    Other,
    Attachment,
    Ping,
}

impl Kind {
    fn begins(self) -> (u8, &'static [u8]) {
        match self {
            Self::Event => (0x81, b"42"),
            Self::Acknowledgement => (0x81, b"43"),
            Self::Connect => (0x81, b"40"),
            Self::Heartbeat => (0x81, b"2"),
            Self::Other => (0x81, b"0"),
            Self::Attachment => (0x82, b""),
            Self::Ping => (0x89, b""),
        }
    }
}

/// However the library's frames are cut into writes, each byte is counted for what it is, and nothing may be put anywhere but
/// between two of them.
pub fn writes(data: &[u8]) {
    let Ok(writes) = Writes::arbitrary(&mut Unstructured::new(data)) else { return };
    let (mut all, mut ends, mut ours) = (Vec::new(), Vec::new(), 0);
    for (kind, length, payload) in &writes.frames {
        let (first, start) = kind.begins();
        let length = usize::try_from(length % 70_000).expect("small");
        let payload: Vec<u8> = start.iter().chain(payload).copied().chain(std::iter::repeat_n(b'x', length)).collect();
        let mut frame = text_frame_head(payload.len(), b"").to_vec();
        frame[0] = first;
        frame.extend_from_slice(&payload);
        if matches!(kind, Kind::Event | Kind::Acknowledgement | Kind::Attachment) {
            ours += frame.len();
        }
        all.extend_from_slice(&frame);
        ends.push((all.len(), *kind));
        if all.len() > 300_000 {
            break;
        }
    }
    let connected = ends.iter().find(|(_, kind)| *kind == Kind::Connect).map_or(usize::MAX, |(end, _)| *end);
    let (mut frames, mut at, mut counted) = (Frames::default(), 0, 0);
    let mut steps = writes.steps.iter().map(|step| usize::from(*step).max(1)).chain(std::iter::repeat(4096));
    while at < all.len() {
        let bytes = steps.next().expect("endless").min(all.len() - at);
        counted += frames.wrote(&all[at..], bytes);
        at += bytes;
        let between = at >= connected && ends.iter().any(|(end, _)| *end == at);
        assert_eq!(frames.may_be_joined(), between, "at {at}");
    }
    assert_eq!(counted, ours);
    // What is no frame at all is counted as no more than it is.
    let mut frames = Frames::default();
    assert!(frames.wrote(data, data.len()) <= data.len());
}

#[derive(Arbitrary, Debug)]
struct Sent {
    text: String,
    repeated: u16,
    ack: Option<i64>,
    attachments: Vec<u16>,
    old: bool,
    websocket: bool,
}

/// A packet is counted as it is framed, and framed as RFC 6455 has it.
pub fn packet_frames(data: &[u8]) {
    let Ok(sent) = Sent::arbitrary(&mut Unstructured::new(data)) else { return };
    let text = sent.text.repeat(usize::from(sent.repeated % 512));
    let attachments: std::collections::VecDeque<_> =
        sent.attachments.iter().take(8).map(|bytes| Bytes::from(vec![0; usize::from(*bytes)])).collect();
    let binary = !attachments.is_empty();
    let bytes: usize = text.len() + attachments.iter().map(Bytes::len).sum::<usize>();
    let value = Value::Str(Str::from(text.clone()), binary.then_some(attachments));
    let packet = match sent.ack {
        Some(number) => Packet::ack("/", value, number.checked_abs().unwrap_or(0)),
        None => Packet::event("/", value),
    };
    assert!(wire::wire_bytes(&packet, sent.old, sent.websocket) >= bytes + 2);
    let Some((head, body)) = wire::frame(&packet) else {
        assert!(binary);
        return;
    };
    assert_eq!(body, text);
    let frame = [head.as_slice(), body.as_bytes()].concat();
    assert_eq!(wire::wire_bytes(&packet, sent.old, true), frame.len());
    let mut cursor = std::io::Cursor::new(&frame);
    let (header, length) = FrameHeader::parse(&mut cursor).expect("a frame").expect("whole");
    assert_eq!((header.opcode, header.is_final, header.mask), (OpCode::Data(Data::Text), true, None));
    assert_eq!(cursor.position() + length, frame.len() as u64);
    let said = std::str::from_utf8(&frame[usize::try_from(cursor.position()).expect("small")..]).expect("text");
    assert!(said.starts_with('4') && said.ends_with(&text));
}
