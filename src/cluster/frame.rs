//! The bytes that nodes exchange: records, and frames of them.
//!
//! A record is one letter, one message of the Socket.IO adapter, or a question of an operator or its answer. A frame takes records of one sender to one receiver,
//! with their numbers, and tells how far its sender has received the other's. All numbers are big-endian.
//!
//! What comes in was written by a node of this cluster, or by whoever else can write to its Redis: it is read with every
//! length checked, and what is not well-formed is dropped.

use std::time::Duration;

use bytes::{Buf, BufMut, Bytes};

use crate::{
    exchange::{Answer, Arrival, Away, Content, Delivery, Letter, Question, Resumption, Tally},
    id::{Generation, NodeId, PeerId, RoomName, SeatKey, Sid},
    protocol::{ByeReason, Heard},
    rooms::{Occupant, Serial},
    telemetry::trace::TraceContext,
};

/// The first byte of a frame; another form gets another number.
const FRAME: u8 = 1;
/// The first byte of a message to oneself.
const ECHO: u8 = 2;

const EVENT: u8 = 1;
const ARRIVED: u8 = 2;
const DEPARTED: u8 = 3;
const PACE: u8 = 4;
const ADAPTER: u8 = 5;
const RESUMED: u8 = 6;
const SUPERSEDED: u8 = 7;
const AWAY: u8 = 8;
const QUESTION: u8 = 9;
const ANSWER: u8 = 10;
const COUNTS: u8 = 11;
const HAND_OUT: u8 = 12;
/// The last of them.
#[cfg(test)]
const LAST: u8 = HAND_OUT;
/// Beside the kind: the letter's trace follows the occupants. One without costs no byte.
const TRACED: u8 = 0x80;

/// What a record says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Record {
    /// From peer to peer. The nodes in it are the frame's.
    Letter(Letter),
    /// From adapter to adapter, by the name of a channel.
    Adapter(String, Vec<u8>),
    /// From operator to operator, with the number that the answer is to bear.
    Question(u64, Question),
    /// The answer to the question of that number.
    Answer(u64, Answer),
}

/// A record for the node of `letter.to`.
#[must_use]
pub fn letter(letter: &Letter) -> Vec<u8> {
    let room = letter.room.as_str().as_bytes();
    let length = match &letter.content {
        Content::Event { array, attachments } => {
            8 + array.len() + attachments.iter().map(|bytes| 4 + bytes.len()).sum::<usize>()
        }
        _ => 128,
    };
    let trace = letter.trace.map(TraceContext::to_bytes);
    let traced = trace.as_ref().map_or(0, |trace| trace.len());
    let mut record = Vec::with_capacity(3 + room.len() + 48 + traced + length);
    let kind = match letter.content {
        Content::Event { .. } => EVENT,
        Content::Arrived(..) => ARRIVED,
        Content::Departed(_) => DEPARTED,
        Content::Pace(_) => PACE,
        Content::Resumed(..) => RESUMED,
        Content::Superseded => SUPERSEDED,
        Content::Away(_) => AWAY,
        Content::Counts(..) => COUNTS,
        Content::HandOut(_) => HAND_OUT,
    };
    record.put_u8(if trace.is_some() { kind | TRACED } else { kind });
    // A room name has at most 512 bytes.
    put_short(&mut record, room);
    for occupant in [&letter.from, &letter.to] {
        record.put_slice(occupant.peer.0.as_str().as_bytes());
        record.put_u64(occupant.generation.0);
    }
    if let Some(trace) = trace {
        record.put_slice(&trace);
    }
    match &letter.content {
        Content::Event { array, attachments } => {
            put_long(&mut record, array.as_bytes());
            for attachment in attachments {
                put_long(&mut record, attachment);
            }
        }
        Content::Arrived(arrival) => {
            record.put_u64(arrival.order);
            put_rest(&mut record, arrival);
            put_key(&mut record, arrival.key);
        }
        Content::Departed(reason) => record.put_slice(reason.name().as_bytes()),
        Content::Pace(slow) => record.put_u8(u8::from(*slow)),
        Content::Resumed(resumption) => {
            let Resumption { arrival, before, heard } = &**resumption;
            record.put_u64(arrival.order);
            record.put_slice(before.peer.0.as_str().as_bytes());
            record.put_u64(before.generation.0);
            record.put_slice(before.node.0.as_str().as_bytes());
            put_rest(&mut record, arrival);
            if let Some(heard) = heard {
                record.put_slice(heard.id.0.as_str().as_bytes());
                record.put_u32(heard.peers);
                record.put_u64(heard.messages);
                // Without a count, earlier versions would take it for one.
                put_key(&mut record, arrival.key);
            }
        }
        Content::Counts(peers, key) => {
            record.put_u32(*peers);
            put_key(&mut record, *key);
        }
        Content::HandOut(last) => put_serial(&mut record, *last),
        Content::Superseded => {}
        Content::Away(away) => {
            record.put_u64(u64::try_from(away.grace.as_millis()).unwrap_or(u64::MAX));
            record.put_u8(u8::from(away.node_goes));
        }
    }
    record
}

/// Whether a record is an event for that occupant.
#[must_use]
pub fn is_event_to(record: &[u8], to: &Occupant) -> bool {
    let Some((kind, mut rest)) = record.split_first() else { return false };
    let peer = to.peer.0.as_str().as_bytes();
    let whom = || {
        let room = usize::from(rest.try_get_u16().ok()?);
        rest.get(room + peer.len() + size_of::<u64>()..)?.strip_prefix(peer)?.try_get_u64().ok()
    };
    kind & !TRACED == EVENT && { whom }() == Some(to.generation.0)
}

/// A record of the adapter.
#[must_use]
pub fn adapter(channel: &str, message: &[u8]) -> Vec<u8> {
    let mut record = Vec::with_capacity(3 + channel.len() + message.len());
    record.put_u8(ADAPTER);
    put_short(&mut record, channel.as_bytes());
    record.put_slice(message);
    record
}

/// A question of that number.
#[must_use]
pub fn question(number: u64, question: &Question) -> Vec<u8> {
    let (kind, room, peer) = match question {
        Question::Tally => (1, None, None),
        Question::PutOut(peer) => (2, None, Some((peer, Generation(0)))),
        Question::Close(room, peer, generation) => (3, Some(room), Some((peer, *generation))),
    };
    let mut record = vec![QUESTION];
    put_short(&mut record, room.map_or(&[], |room| room.as_str().as_bytes()));
    record.put_u64(number);
    record.put_u8(kind);
    if let Some((peer, generation)) = peer {
        record.put_slice(peer.0.as_str().as_bytes());
        record.put_u64(generation.0);
    }
    record
}

/// The answer to the question of that number.
#[must_use]
pub fn answer(number: u64, answer: &Answer) -> Vec<u8> {
    let mut record = vec![ANSWER];
    put_short(&mut record, &[]);
    record.put_u64(number);
    match answer {
        Answer::Tally(tally) => {
            record.put_u8(1);
            for count in [tally.sockets, tally.seats, tally.whole, tally.shared, tally.waiting, tally.uptime] {
                record.put_u64(count);
            }
            record.put_u8(u8::from(tally.ready) | u8::from(tally.draining) << 1);
        }
        Answer::Done => record.put_u8(2),
        Answer::NotHere => record.put_u8(3),
    }
    record
}

fn take_question(room: &[u8], record: &mut Bytes) -> Option<Record> {
    let number = record.try_get_u64().ok()?;
    let question = match record.try_get_u8().ok()? {
        1 => Question::Tally,
        2 => Question::PutOut(PeerId(take_sid(record)?)),
        3 => {
            let room = RoomName::parse(std::str::from_utf8(room).ok()?).ok()?;
            Question::Close(room, PeerId(take_sid(record)?), Generation(record.try_get_u64().ok()?))
        }
        _ => return None,
    };
    Some(Record::Question(number, question))
}

fn take_answer(record: &mut Bytes) -> Option<Record> {
    let number = record.try_get_u64().ok()?;
    let answer = match record.try_get_u8().ok()? {
        1 => {
            let mut counts = [0; 6];
            for count in &mut counts {
                *count = record.try_get_u64().ok()?;
            }
            let flags = record.try_get_u8().ok()?;
            let [sockets, seats, whole, shared, waiting, uptime] = counts;
            let (ready, draining) = (flags & 1 != 0, flags & 2 != 0);
            Answer::Tally(Tally { sockets, seats, whole, shared, waiting, ready, draining, uptime })
        }
        2 => Answer::Done,
        3 => Answer::NotHere,
        _ => return None,
    };
    Some(Record::Answer(number, answer))
}

/// Reads a record of `from`, for `to`.
#[must_use]
pub fn read_record(mut record: Bytes, from: NodeId, to: NodeId) -> Option<Record> {
    let kind = record.try_get_u8().ok()?;
    let name = take_short(&mut record)?;
    if kind == ADAPTER {
        return Some(Record::Adapter(String::from_utf8(name.to_vec()).ok()?, record.to_vec()));
    }
    match kind {
        QUESTION => return take_question(&name, &mut record),
        ANSWER => return take_answer(&mut record),
        _ => {}
    }
    let room = RoomName::parse(std::str::from_utf8(&name).ok()?).ok()?;
    let from = take_occupant(&mut record, from)?;
    let to = take_occupant(&mut record, to)?;
    let trace = if kind & TRACED == 0 { None } else { TraceContext::from_bytes(take_trace(&mut record)?) };
    let content = match kind & !TRACED {
        EVENT => {
            let array = String::from_utf8(take_long(&mut record)?.to_vec()).ok()?.into();
            let mut attachments = Vec::new();
            while record.has_remaining() {
                attachments.push(take_long(&mut record)?);
            }
            Content::Event { array, attachments }
        }
        ARRIVED => {
            let order = record.try_get_u64().ok()?;
            let arrival = take_rest(&mut record, order)?;
            Content::Arrived(Arrival { key: take_key(&mut record), ..arrival })
        }
        DEPARTED => {
            Content::Departed(ByeReason::ALL.into_iter().find(|reason| reason.name().as_bytes() == &record[..])?)
        }
        PACE => Content::Pace(record.try_get_u8().ok()? != 0),
        RESUMED => {
            let order = record.try_get_u64().ok()?;
            // The node follows: it need not be the one that the letter goes to.
            let before = take_occupant(&mut record, to.node)?;
            let before = Occupant { node: NodeId(take_sid(&mut record)?), ..before };
            let arrival = take_rest(&mut record, order)?;
            let heard = if record.is_empty() { None } else { Some(take_heard(&mut record)?) };
            let arrival = Arrival { key: take_key(&mut record), ..arrival };
            Content::Resumed(Box::new(Resumption { arrival, before, heard }))
        }
        COUNTS => Content::Counts(record.try_get_u32().ok()?, take_key(&mut record)),
        HAND_OUT => Content::HandOut(take_serial(&mut record)?),
        SUPERSEDED => Content::Superseded,
        AWAY => Content::Away(Away {
            grace: Duration::from_millis(record.try_get_u64().ok()?),
            node_goes: record.try_get_u8().ok()? != 0,
        }),
        _ => return None,
    };
    Some(Record::Letter(Letter { room, from, to, content, trace }))
}

/// What stands in front of a frame's records.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    /// Whose frame it is.
    pub from: NodeId,
    /// Somebody waits for the receipt of one of the records.
    pub urgent: bool,
    /// Something is missing from what was received: send again from `received` on.
    pub again: bool,
    /// Which numbering of the sender's records this is; a later one has a higher number.
    pub stream: u64,
    /// The first record of the stream that has no receipt yet.
    pub base: u64,
    /// The number of the frame's first record.
    pub first: u64,
    /// Which of the receiver's streams the sender knows; 0 for none.
    pub of_stream: u64,
    /// The number of the first record of that stream that is not received yet.
    pub received: u64,
    /// Records before that which were not delivered, and why.
    pub undelivered: Vec<(u64, Delivery)>,
}

/// A frame: its head, to which records are appended by [`append`].
#[must_use]
pub fn head(head: &Head) -> Vec<u8> {
    let mut frame = Vec::with_capacity(64 + head.undelivered.len() * 9);
    frame.put_u8(FRAME);
    frame.put_slice(head.from.0.as_str().as_bytes());
    frame.put_u8(u8::from(head.urgent) | u8::from(head.again) << 1);
    for number in [head.stream, head.base, head.first, head.of_stream, head.received] {
        frame.put_u64(number);
    }
    frame.put_u32(u32::try_from(head.undelivered.len()).unwrap_or(u32::MAX));
    for (number, why) in &head.undelivered {
        frame.put_u64(*number);
        frame.put_u8(match why {
            Delivery::Delivered => 0,
            Delivery::NoPeer => 1,
            Delivery::TooSlow => 2,
            Delivery::Unavailable => 3,
        });
    }
    frame
}

/// Appends a record.
pub fn append(frame: &mut Vec<u8>, record: &[u8]) {
    put_long(frame, record);
}

/// Reads a frame: its head, and its records one after the other.
#[must_use]
pub fn read(mut frame: Bytes) -> Option<(Head, Vec<Bytes>)> {
    if frame.try_get_u8().ok()? != FRAME {
        return None;
    }
    let from = take_node(&mut frame)?;
    let flags = frame.try_get_u8().ok()?;
    let mut numbers = [0; 5];
    for number in &mut numbers {
        *number = frame.try_get_u64().ok()?;
    }
    let count = frame.try_get_u32().ok()?;
    let mut undelivered = Vec::new();
    for _ in 0..count {
        let number = frame.try_get_u64().ok()?;
        undelivered.push((
            number,
            match frame.try_get_u8().ok()? {
                0 => Delivery::Delivered,
                1 => Delivery::NoPeer,
                2 => Delivery::TooSlow,
                3 => Delivery::Unavailable,
                _ => return None,
            },
        ));
    }
    let mut records = Vec::new();
    while frame.has_remaining() {
        records.push(take_long(&mut frame)?);
    }
    let [stream, base, first, of_stream, received] = numbers;
    let (urgent, again) = (flags & 1 != 0, flags & 2 != 0);
    Some((Head { from, urgent, again, stream, base, first, of_stream, received, undelivered }, records))
}

/// A message to oneself.
#[must_use]
pub fn echo(node: NodeId, number: u64) -> Vec<u8> {
    let mut echo = vec![ECHO];
    echo.put_slice(node.0.as_str().as_bytes());
    echo.put_u64(number);
    echo
}

/// Reads a message to oneself.
#[must_use]
pub fn read_echo(mut message: Bytes, node: NodeId) -> Option<u64> {
    if message.try_get_u8().ok()? != ECHO || take_node(&mut message)? != node {
        return None;
    }
    message.try_get_u64().ok()
}

fn put_short(to: &mut Vec<u8>, bytes: &[u8]) {
    to.put_u16(u16::try_from(bytes.len()).unwrap_or(u16::MAX));
    to.put_slice(bytes);
}

fn put_serial(to: &mut Vec<u8>, serial: Serial) {
    to.put_u64(serial.seat);
    to.put_u64(serial.said);
}

/// All of an arrival but its order.
fn put_rest(to: &mut Vec<u8>, arrival: &Arrival) {
    // What earlier versions know.
    put_serial(to, arrival.handed.last().copied().unwrap_or_default());
    to.put_u64(arrival.messages);
    to.put_u8(u8::from(arrival.counts));
    // Bounded by `seats.keep_messages`.
    to.put_u32(u32::try_from(arrival.handed.len()).unwrap_or(u32::MAX));
    for serial in &arrival.handed {
        put_serial(to, *serial);
    }
}

fn put_long(to: &mut Vec<u8>, bytes: &[u8]) {
    // Bounded by `limits.message_bytes`, far below.
    to.put_u32(u32::try_from(bytes.len()).unwrap_or(u32::MAX));
    to.put_slice(bytes);
}

fn take(from: &mut Bytes, length: usize) -> Option<Bytes> {
    (from.remaining() >= length).then(|| from.split_to(length))
}

fn take_short(from: &mut Bytes) -> Option<Bytes> {
    let length = from.try_get_u16().ok()?;
    take(from, usize::from(length))
}

fn take_long(from: &mut Bytes) -> Option<Bytes> {
    let length = usize::try_from(from.try_get_u32().ok()?).ok()?;
    take(from, length)
}

fn take_sid(from: &mut Bytes) -> Option<Sid> {
    let text = take(from, Sid::ZERO.as_str().len())?;
    std::str::from_utf8(&text).ok()?.parse().ok()
}

fn take_serial(from: &mut Bytes) -> Option<Serial> {
    Some(Serial { seat: from.try_get_u64().ok()?, said: from.try_get_u64().ok()? })
}

/// Nodes of earlier versions say less: nothing, or of what was handed over only the last.
fn take_rest(from: &mut Bytes, order: u64) -> Option<Arrival> {
    let mut arrival = Arrival { order, ..Arrival::default() };
    if !from.has_remaining() {
        return Some(arrival);
    }
    let last = take_serial(from)?;
    if !from.has_remaining() {
        arrival.handed.extend((last != Serial::default()).then_some(last));
        return Some(arrival);
    }
    arrival.messages = from.try_get_u64().ok()?;
    arrival.counts = from.try_get_u8().ok()? != 0;
    for _ in 0..from.try_get_u32().ok()? {
        arrival.handed.push(take_serial(from)?);
    }
    Some(arrival)
}

fn take_heard(from: &mut Bytes) -> Option<Heard> {
    let id = PeerId(take_sid(from)?);
    Some(Heard { id, peers: from.try_get_u32().ok()?, messages: from.try_get_u64().ok()? })
}

fn put_key(to: &mut Vec<u8>, key: Option<SeatKey>) {
    if let Some(key) = key {
        to.put_u128(key.to_number());
    }
}

/// At the end of a record: nodes of earlier versions do not say it, and do not read so far.
fn take_key(from: &mut Bytes) -> Option<SeatKey> {
    from.try_get_u128().ok().map(SeatKey::from_number)
}

fn take_node(from: &mut Bytes) -> Option<NodeId> {
    take_sid(from).map(NodeId)
}

fn take_trace(from: &mut Bytes) -> Option<[u8; TraceContext::BYTES]> {
    let mut trace = [0; TraceContext::BYTES];
    from.try_copy_to_slice(&mut trace).ok()?;
    Some(trace)
}

fn take_occupant(from: &mut Bytes, node: NodeId) -> Option<Occupant> {
    Some(Occupant { peer: PeerId(take_sid(from)?), generation: Generation(from.try_get_u64().ok()?), node })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::id::ResumeToken;

    fn occupant(node: NodeId) -> Occupant {
        Occupant { peer: PeerId(Sid::new()), generation: Generation(7), node }
    }

    fn trace() -> TraceContext {
        let mut bytes = [7; TraceContext::BYTES];
        bytes[TraceContext::BYTES - 1] = 1;
        TraceContext::from_bytes(bytes).expect("sampled")
    }

    #[test]
    fn records_and_frames_come_out_as_they_went_in() {
        let (a, b) = (NodeId::random(), NodeId::random());
        let last = Serial { seat: 1 << 61, said: u64::MAX };
        let key = ResumeToken::random().map(|token| token.key());
        let arrival =
            Arrival { order: 1, handed: vec![Serial { seat: 7, said: 8 }, last], messages: 1 << 62, counts: true, key };
        let heard = Heard { id: PeerId(Sid::new()), peers: 3, messages: 1 << 63 };
        let resumption = Resumption { arrival, before: occupant(NodeId::random()), heard: Some(heard) };
        let contents = [
            Content::Event { array: r#"["message",1]"#.into(), attachments: vec![] },
            Content::Event { array: "[]".into(), attachments: vec![Bytes::new(), Bytes::from_static(&[0, 255])] },
            Content::Arrived(Arrival { order: 1 << 60, ..Arrival::default() }),
            Content::Arrived(resumption.arrival.clone()),
            Content::Pace(true),
            Content::Pace(false),
            Content::Resumed(Box::new(Resumption {
                heard: None,
                arrival: Arrival { key: None, ..resumption.arrival.clone() },
                ..resumption.clone()
            })),
            Content::Resumed(Box::new(resumption)),
            Content::Counts(u32::MAX, key),
            Content::Counts(0, None),
            Content::HandOut(last),
            Content::HandOut(Serial::LAST),
            Content::Superseded,
            Content::Away(Away { grace: Duration::from_secs(15), node_goes: false }),
            Content::Away(Away { grace: Duration::from_millis(1), node_goes: true }),
        ];
        let contents = contents.into_iter().chain(ByeReason::ALL.map(Content::Departed));
        let letters: Vec<Letter> = contents
            .flat_map(|content| [(content.clone(), None), (content, Some(trace()))])
            .map(|(content, trace)| Letter {
                room: RoomName::parse("방 1").expect("valid"),
                from: occupant(a),
                to: occupant(b),
                content,
                trace,
            })
            .collect();
        let sent = Head {
            from: a,
            urgent: true,
            again: false,
            stream: 3,
            base: 5,
            first: u64::MAX,
            of_stream: 0,
            received: 9,
            undelivered: vec![(1, Delivery::NoPeer), (2, Delivery::TooSlow), (3, Delivery::Unavailable)],
        };
        let mut frame = head(&sent);
        for sent in &letters {
            append(&mut frame, &letter(sent));
        }
        append(&mut frame, &adapter("x#y#", &[1, 2, 3]));
        append(&mut frame, &[]);
        let (read, records) = read(frame.into()).expect("a frame");
        assert_eq!((&read, records.len()), (&sent, letters.len() + 2));
        for (record, letter) in records.iter().zip(&letters) {
            let is_event = matches!(letter.content, Content::Event { .. });
            assert_eq!(is_event_to(record, &letter.to), is_event);
            assert!(!is_event_to(record, &letter.from) && !is_event_to(&record[..record.len().min(20)], &letter.to));
        }
        for (record, letter) in records.iter().zip(letters) {
            assert_eq!(read_record(record.clone(), a, b), Some(Record::Letter(letter)));
        }
        let adapter = read_record(records[records.len() - 2].clone(), a, b);
        assert_eq!(adapter, Some(Record::Adapter("x#y#".into(), vec![1, 2, 3])));
        assert_eq!(read_echo(echo(a, 12).into(), a), Some(12));
        assert_eq!(read_echo(echo(a, 12).into(), b), None);
    }

    #[test]
    fn questions_and_answers_come_out_as_they_went_in() {
        let (a, b, peer) = (NodeId::random(), NodeId::random(), PeerId(Sid::new()));
        let room = RoomName::parse("방 1").expect("valid");
        for asked in [Question::Tally, Question::PutOut(peer), Question::Close(room, peer, Generation(u64::MAX))] {
            let read = read_record(question(7, &asked).into(), a, b);
            assert_eq!(read, Some(Record::Question(7, asked)));
        }
        let tally =
            Tally { sockets: 1, seats: 2, whole: 3, shared: 4, waiting: 5, ready: true, draining: false, uptime: 6 };
        for told in [Answer::Tally(tally), Answer::Tally(Tally::default()), Answer::Done, Answer::NotHere] {
            assert_eq!(read_record(answer(8, &told).into(), a, b), Some(Record::Answer(8, told)));
        }
    }

    #[test]
    fn a_letter_that_is_not_traced_costs_no_byte_and_one_whose_trace_is_of_nothing_is_read_without() {
        let (a, b) = (NodeId::random(), NodeId::random());
        let room = RoomName::parse("r").expect("valid");
        let plain = Letter { room, from: occupant(a), to: occupant(b), content: Content::Pace(true), trace: None };
        let bytes = letter(&plain);
        let mut traced = letter(&Letter { trace: Some(trace()), ..plain.clone() });
        assert_eq!(traced.len(), bytes.len() + TraceContext::BYTES);
        let at = bytes.len() - 1;
        traced[at..at + TraceContext::BYTES].fill(0);
        assert_eq!(read_record(traced.into(), a, b), Some(Record::Letter(plain)));
        // A kind that nobody knows, traced or not.
        for kind in [LAST + 1, (LAST + 1) | TRACED, ADAPTER | TRACED, QUESTION | TRACED] {
            let mut bytes = bytes.clone();
            bytes[0] = kind;
            assert_eq!(read_record(bytes.into(), a, b), None);
        }
    }

    proptest! {
        #[test]
        fn anything_else_is_refused_and_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200), kind in 0..=LAST + 1, traced: bool) {
            let node = NodeId::random();
            let mut bytes = bytes;
            if let Some(first) = bytes.first_mut() {
                *first = if traced { kind | TRACED } else { kind };
            }
            let bytes = Bytes::from(bytes);
            if let Some((_, records)) = read(bytes.clone()) {
                for record in records {
                    let _ = read_record(record, node, node);
                }
            }
            let _ = read_record(bytes.clone(), node, node);
            let _ = read_echo(bytes, node);
        }
    }
}
