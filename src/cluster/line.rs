//! What goes from one node to another and back: numbered, kept until its receipt, sent again when it got lost.
//!
//! Redis hands messages on at most once, and forgets those that nobody listens to at the moment. A [`Line`] makes of it
//! what peers rely on: records arrive in their order, each once, and of each the sender learns what became of it, or
//! that nobody can tell. Plain data: no clock of its own, no socket. Who works with it stands in [`super::bus`].
//!
//! The incoming half is locked while its records are delivered, and what delivers them may send: so nobody asks for it
//! while he holds the outgoing half.
//!
//! A *stream* is one numbering of records. A node that has forgotten the other (whose lease ended) begins a new one; the
//! other does so too, as soon as it is known again ([`super::lease::Absence`]) or when it notices. What had no receipt by then
//! is `Unavailable`, but for news: they are told in the new stream. Some may come twice, and those who take them know by the
//! order of seats and by connections what they have been told already.

use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use bytes::Bytes;

use super::{
    frame::{self, Head},
    topology,
};
use crate::{
    exchange::{Delivery, Receipt},
    id::NodeId,
    rooms::Occupant,
};

/// Bytes that may wait for the receipts of one node. Beyond that, events are refused.
const WAITING_BYTES: usize = 16 << 20;
/// Records of a frame, in bytes; one that is larger travels alone.
const FRAME_BYTES: usize = 128 << 10;
/// So many records, or bytes, are received before the other node is told.
const UNTOLD_RECORDS: u64 = 64;
const UNTOLD_BYTES: usize = 128 << 10;
/// Without any receipt for so long, everything that waits is sent again.
const SEND_AGAIN: Duration = Duration::from_millis(1500);

/// Not more often is the same sent again on request.
const REWIND: Duration = Duration::from_millis(200);

/// Where a node hears what others publish for it.
#[derive(Debug)]
pub struct Channel {
    /// What it is called.
    pub name: String,
    /// Its slot of a Redis Cluster.
    pub slot: u16,
}

impl Channel {
    /// The channel of that name.
    #[must_use]
    pub fn new(name: String) -> Self {
        Self { slot: topology::slot(name.as_bytes()), name }
    }
}

/// The two directions between this node and another.
#[derive(Debug)]
pub struct Line {
    /// Where the other node hears.
    pub channel: Channel,
    outgoing: Mutex<Outgoing>,
    incoming: Mutex<Incoming>,
    /// Held by whoever takes frames and sends them: they are to leave in their order.
    pub sending: tokio::sync::Mutex<()>,
}

struct Sent {
    record: Vec<u8>,
    urgent: bool,
    receipt: Option<Receipt>,
    since: Instant,
    /// May be given up: what it says is of no use later.
    perishable: bool,
}

struct Outgoing {
    stream: u64,
    /// The number of the first that waits.
    base: u64,
    /// What has no receipt yet.
    waiting: VecDeque<Sent>,
    bytes: usize,
    /// How many of them were sent.
    sent: usize,
    /// Over which connection.
    over: u64,
    progress: Instant,
    /// Up to where it was last begun to send again, on request.
    rewound: Option<(u64, Instant)>,
    /// Some of it has waited longer than anybody has patience for: no more is taken meanwhile.
    stuck: bool,
    /// Something is to be sent, and whoever does it knows.
    queued: bool,
    /// The other node is gone, and nobody looks after this line any more.
    ended: bool,
}

impl std::fmt::Debug for Outgoing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Outgoing")
            .field("base", &self.base)
            .field("waiting", &self.waiting.len())
            .finish_non_exhaustive()
    }
}

#[derive(Debug, Default)]
struct Incoming {
    stream: u64,
    /// The next number.
    expected: u64,
    undelivered: Vec<(u64, Delivery)>,
    untold: u64,
    untold_bytes: usize,
    /// The other node is to be told at the next occasion.
    tell: bool,
    /// It was already to be told at the last tick.
    told_late: bool,
    again: bool,
}

/// A receipt that is due, and what it says. Run it with no lock held.
pub type Due = (Receipt, Delivery);

/// What a frame of the other node leads to.
#[derive(Default)]
pub struct Received {
    /// Receipts of this node's own records.
    pub due: Vec<Due>,
    /// Something is to be sent at once.
    pub send_now: bool,
    /// Something is to be sent soon.
    pub send_soon: bool,
    /// Bytes that no longer wait.
    pub freed: usize,
}

/// Why a record was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// Too much waits already.
    Full,
    /// The other node has not answered for long.
    Stuck,
    /// The other node is gone.
    Ended,
}

impl Line {
    /// A line to whom `channel` belongs to, whose first stream has that number.
    #[must_use]
    pub fn new(channel: Channel, stream: u64, now: Instant) -> Self {
        Self {
            channel,
            outgoing: Mutex::new(Outgoing {
                stream,
                base: 0,
                waiting: VecDeque::new(),
                bytes: 0,
                sent: 0,
                over: 0,
                progress: now,
                rewound: None,
                stuck: false,
                queued: false,
                ended: false,
            }),
            incoming: Mutex::default(),
            sending: tokio::sync::Mutex::default(),
        }
    }

    /// Takes a record to be sent; tells whether somebody has to be told that there is something.
    ///
    /// # Errors
    /// Gives the receipt back, when the record is perishable and cannot wait, or the other node is gone.
    pub fn push(
        &self,
        record: Vec<u8>,
        urgent: bool,
        perishable: bool,
        receipt: Option<Receipt>,
        now: Instant,
    ) -> Result<bool, (Refused, Option<Receipt>)> {
        let mut outgoing = self.outgoing();
        if outgoing.ended {
            return Err((Refused::Ended, receipt));
        }
        if perishable && outgoing.stuck {
            return Err((Refused::Stuck, receipt));
        }
        if perishable && outgoing.bytes + record.len() > WAITING_BYTES {
            return Err((Refused::Full, receipt));
        }
        if outgoing.waiting.is_empty() {
            outgoing.progress = now;
        }
        outgoing.bytes += record.len();
        outgoing.waiting.push_back(Sent { record, urgent, receipt, since: now, perishable });
        Ok(!std::mem::replace(&mut outgoing.queued, true))
    }

    /// Whether everything that was sent has its receipt.
    pub fn is_idle(&self) -> bool {
        self.outgoing().waiting.is_empty()
    }

    /// Something is to be sent; tells whether somebody has to be told so.
    pub fn queue(&self) -> bool {
        !std::mem::replace(&mut self.outgoing().queued, true)
    }

    /// Somebody is about to send what there is.
    pub fn unqueue(&self) {
        self.outgoing().queued = false;
    }

    /// The last frame that was taken did not get away: all is to be sent once more.
    pub fn rewind(&self) {
        self.outgoing().sent = 0;
    }

    /// The next frame to send over that connection, if there is anything to say, and how many of its records were sent
    /// before.
    pub fn next_frame(&self, from: NodeId, over: u64) -> Option<(Vec<u8>, usize)> {
        let (of_stream, received, undelivered, tell, again) = {
            let mut incoming = self.incoming();
            incoming.untold = 0;
            incoming.untold_bytes = 0;
            incoming.told_late = false;
            (
                incoming.stream,
                incoming.expected,
                incoming.undelivered.clone(),
                std::mem::take(&mut incoming.tell),
                std::mem::take(&mut incoming.again),
            )
        };
        let mut outgoing = self.outgoing();
        let mut resent = 0;
        if outgoing.over != over {
            // What went over another connection may be lost.
            resent = outgoing.sent;
            outgoing.sent = 0;
            outgoing.over = over;
        }
        let (mut bytes, mut count, mut urgent) = (0, 0, false);
        for sent in outgoing.waiting.iter().skip(outgoing.sent) {
            if count > 0 && bytes + sent.record.len() > FRAME_BYTES {
                break;
            }
            bytes += sent.record.len();
            urgent |= sent.urgent;
            count += 1;
        }
        if count == 0 && !tell {
            return None;
        }
        let first = outgoing.base + outgoing.sent as u64;
        let head = Head {
            from,
            urgent,
            again,
            stream: outgoing.stream,
            base: outgoing.base,
            first,
            of_stream,
            received,
            undelivered,
        };
        let mut frame = frame::head(&head);
        frame.reserve(bytes + 4 * count);
        for sent in outgoing.waiting.iter().skip(outgoing.sent).take(count) {
            frame::append(&mut frame, &sent.record);
        }
        outgoing.sent += count;
        Some((frame, resent))
    }

    /// Takes a frame of the other node. `deliver` is called for each new record, in order, and tells what became of it.
    pub fn receive(
        &self,
        head: &Head,
        records: Vec<Bytes>,
        now: Instant,
        next_stream: impl FnOnce() -> u64,
        mut deliver: impl FnMut(Bytes) -> Delivery,
    ) -> Received {
        let mut result = Received::default();
        self.take_receipts(head, now, next_stream, &mut result);
        let mut incoming = self.incoming();
        let incoming = &mut *incoming;
        if head.stream < incoming.stream {
            return result;
        }
        if head.stream > incoming.stream {
            if head.base > 0 {
                // What came before is not known here: the other node has to begin anew, when it learns that.
                if !records.is_empty() {
                    incoming.stream = 0;
                    incoming.expected = 0;
                    incoming.undelivered.clear();
                    incoming.tell = true;
                    result.send_now = true;
                }
                return result;
            }
            *incoming = Incoming { stream: head.stream, ..Incoming::default() };
        }
        incoming.undelivered.retain(|(number, _)| *number >= head.base);
        if records.is_empty() {
            return result;
        }
        if head.first > incoming.expected {
            incoming.again = true;
            incoming.tell = true;
            result.send_now = true;
            return result;
        }
        for (record, number) in records.into_iter().zip(head.first..) {
            if number < incoming.expected {
                continue;
            }
            incoming.expected += 1;
            incoming.untold += 1;
            incoming.untold_bytes += record.len();
            // One that was given up by its sender is empty.
            if !record.is_empty() {
                let delivery = deliver(record);
                if delivery != Delivery::Delivered {
                    incoming.undelivered.push((number, delivery));
                }
            }
        }
        incoming.tell = true;
        if head.urgent || incoming.untold >= UNTOLD_RECORDS || incoming.untold_bytes >= UNTOLD_BYTES {
            result.send_now = true;
        } else {
            result.send_soon = true;
        }
        result
    }

    fn take_receipts(&self, head: &Head, now: Instant, next_stream: impl FnOnce() -> u64, result: &mut Received) {
        let mut outgoing = self.outgoing();
        if head.of_stream != outgoing.stream {
            // It does not know what it was told of before.
            if head.of_stream == 0 && outgoing.base > 0 {
                result.freed += outgoing.begin_anew(next_stream(), now, &mut result.due);
                result.send_now |= !outgoing.waiting.is_empty();
            }
            return;
        }
        while outgoing.base < head.received {
            let Some(sent) = outgoing.waiting.pop_front() else { break };
            let number = outgoing.base;
            outgoing.base += 1;
            outgoing.bytes -= sent.record.len();
            result.freed += sent.record.len();
            outgoing.sent = outgoing.sent.saturating_sub(1);
            outgoing.progress = now;
            outgoing.stuck = false;
            if let Some(receipt) = sent.receipt {
                let undelivered = head.undelivered.iter().find(|(its, _)| *its == number);
                result.due.push((receipt, undelivered.map_or(Delivery::Delivered, |(_, why)| *why)));
            }
        }
        // Every frame after the gap asks for it.
        let asked = head.again && outgoing.sent > 0;
        if asked && outgoing.rewound.is_none_or(|(to, at)| to != head.received || now - at >= REWIND) {
            outgoing.rewound = Some((head.received, now));
            outgoing.sent = 0;
            result.send_now = true;
        }
    }

    /// What time brings: what is to be sent again, whose patience has ended. Tells whether something is to be sent; `due`
    /// and `freed` as in [`Received`].
    pub fn tick(&self, now: Instant, patience: Duration, due: &mut Vec<Due>, freed: &mut usize) -> Tick {
        let (tell, overdue) = {
            let mut incoming = self.incoming();
            // Nearly always something goes the other way within a tick, and takes it along.
            let overdue = incoming.tell && std::mem::replace(&mut incoming.told_late, true);
            (incoming.tell, overdue)
        };
        let mut outgoing = self.outgoing();
        let outgoing = &mut *outgoing;
        let mut bytes = 0;
        for sent in &mut outgoing.waiting {
            if now.duration_since(sent.since) < patience {
                break;
            }
            outgoing.stuck = true;
            if sent.perishable && !sent.record.is_empty() {
                // Its number stays: those after it have theirs.
                bytes += sent.record.len();
                sent.record = Vec::new();
                due.extend(sent.receipt.take().map(|receipt| (receipt, Delivery::Unavailable)));
            }
        }
        outgoing.bytes -= bytes;
        *freed += bytes;
        let mut resent = 0;
        if outgoing.sent > 0 && now.duration_since(outgoing.progress) >= SEND_AGAIN {
            resent = std::mem::take(&mut outgoing.sent);
            outgoing.progress = now;
        }
        let unsent = outgoing.waiting.len() > outgoing.sent;
        Tick { send: overdue || unsent, resent, active: tell || !outgoing.waiting.is_empty() }
    }

    /// Events to that occupant are not waited for any more. `due` and `freed` as in [`Received`].
    pub fn give_up(&self, to: &Occupant, due: &mut Vec<Due>, freed: &mut usize) {
        let mut outgoing = self.outgoing();
        let mut bytes = 0;
        for sent in outgoing.waiting.iter_mut().filter(|sent| frame::is_event_to(&sent.record, to)) {
            bytes += sent.record.len();
            // Its number stays: those after it have theirs.
            sent.record = Vec::new();
            due.extend(sent.receipt.take().map(|receipt| (receipt, Delivery::Unavailable)));
        }
        outgoing.bytes -= bytes;
        *freed += bytes;
    }

    /// The other node is gone: nothing that waits will have a receipt, and nothing more is taken. Tells how many bytes no longer
    /// wait.
    pub fn end(&self, due: &mut Vec<Due>) -> usize {
        let mut outgoing = self.outgoing();
        let waiting = std::mem::take(&mut outgoing.waiting);
        due.extend(waiting.into_iter().filter_map(Sent::give_up));
        outgoing.sent = 0;
        outgoing.ended = true;
        std::mem::take(&mut outgoing.bytes)
    }

    /// The other node may have forgotten this one: only news still wait, to be sent in another stream. Tells how many bytes no
    /// longer do, and whether something is to be sent.
    pub fn begin_anew(&self, stream: u64, now: Instant, due: &mut Vec<Due>) -> (usize, bool) {
        let mut outgoing = self.outgoing();
        let freed = outgoing.begin_anew(stream, now, due);
        (freed, !outgoing.waiting.is_empty())
    }

    fn outgoing(&self) -> MutexGuard<'_, Outgoing> {
        self.outgoing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn incoming(&self) -> MutexGuard<'_, Incoming> {
        self.incoming.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What [`Line::tick`] found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tick {
    /// Something is to be sent.
    pub send: bool,
    /// How many records are sent once more.
    pub resent: usize,
    /// It wants another tick.
    pub active: bool,
}

impl Sent {
    /// Nobody can tell what became of it.
    fn give_up(self) -> Option<Due> {
        Some((self.receipt?, Delivery::Unavailable))
    }
}

impl Outgoing {
    /// Tells how many bytes no longer wait.
    fn begin_anew(&mut self, stream: u64, now: Instant, due: &mut Vec<Due>) -> usize {
        let before = self.bytes;
        let (perishable, mut news): (VecDeque<_>, VecDeque<_>) =
            std::mem::take(&mut self.waiting).into_iter().partition(|sent| sent.perishable);
        due.extend(perishable.into_iter().filter_map(Sent::give_up));
        // They are not late: nobody could be told.
        for sent in &mut news {
            sent.since = now;
        }
        self.bytes = news.iter().map(|sent| sent.record.len()).sum();
        self.waiting = news;
        self.stream = stream;
        self.base = 0;
        self.sent = 0;
        self.progress = now;
        self.rewound = None;
        self.stuck = false;
        before - self.bytes
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    };

    use proptest::prelude::*;

    use super::*;

    fn channel() -> Channel {
        Channel::new("a:{b}:bus".to_owned())
    }

    type Told = Arc<Mutex<Vec<(u32, Delivery)>>>;

    /// Two nodes, and what each was given to send and has received.
    struct Pair {
        ends: [Line; 2],
        nodes: [NodeId; 2],
        streams: AtomicU64,
        received: [Vec<u32>; 2],
        told: [Told; 2],
        sent: [u32; 2],
    }

    impl Pair {
        fn new(now: Instant) -> Self {
            let nodes = [NodeId::random(), NodeId::random()];
            Self {
                ends: [Line::new(channel(), 1, now), Line::new(channel(), 1, now)],
                nodes,
                streams: AtomicU64::new(2),
                received: Default::default(),
                told: Default::default(),
                sent: [0; 2],
            }
        }

        fn send(&mut self, end: usize, now: Instant) {
            let number = self.sent[end];
            self.sent[end] += 1;
            let told = Arc::clone(&self.told[end]);
            let receipt: Receipt = Box::new(move |what| told.lock().expect("told").push((number, what)));
            let record = number.to_be_bytes().to_vec();
            if let Err((_, Some(receipt))) = self.ends[end].push(record, false, true, Some(receipt), now) {
                receipt(Delivery::Unavailable);
            }
        }

        /// Something that is of use later.
        fn news(&self, end: usize, number: u32, now: Instant) {
            assert!(self.ends[end].push(number.to_be_bytes().to_vec(), false, false, None, now).is_ok());
        }

        /// This end forgets the other, as a node of which the lease ended.
        fn forget(&mut self, end: usize, now: Instant) {
            self.ends[end] = Line::new(channel(), self.streams.fetch_add(1, Ordering::SeqCst), now);
        }

        /// Whatever there is to say is said.
        fn exchange(&mut self, now: Instant) {
            for end in [0, 1].repeat(4) {
                for frame in self.frames(end, 1) {
                    self.receive(1 - end, frame, now);
                }
            }
        }

        fn frames(&self, end: usize, over: u64) -> Vec<Bytes> {
            std::iter::from_fn(|| self.ends[end].next_frame(self.nodes[end], over))
                .map(|(frame, _)| frame.into())
                .collect()
        }

        fn receive(&mut self, end: usize, bytes: Bytes, now: Instant) {
            let (head, records) = frame::read(bytes).expect("a frame");
            let received = &mut self.received[end];
            let next = || self.streams.fetch_add(1, Ordering::SeqCst);
            let result = self.ends[end].receive(&head, records, now, next, |record| {
                received.push(u32::from_be_bytes(record[..].try_into().expect("four bytes")));
                // One in seven finds nobody.
                if received.last().is_some_and(|n| n % 7 == 6) { Delivery::NoPeer } else { Delivery::Delivered }
            });
            for (receipt, what) in result.due {
                receipt(what);
            }
        }

        fn tick(&self, end: usize, now: Instant) {
            let mut due = Vec::new();
            self.ends[end].tick(now, Duration::from_hours(1), &mut due, &mut 0);
            for (receipt, what) in due {
                receipt(what);
            }
        }
    }

    proptest! {
        #[test]
        fn whatever_is_lost_or_repeated_all_arrives_once_in_order(
            steps in proptest::collection::vec((0..2_usize, 0..6_u8), 1..80)
        ) {
            let mut now = Instant::now();
            let mut pair = Pair::new(now);
            let mut over = 1;
            for (end, what) in steps {
                match what {
                    0 | 1 => pair.send(end, now),
                    2 => for frame in pair.frames(end, over) { pair.receive(1 - end, frame, now) },
                    // Lost.
                    3 => drop(pair.frames(end, over)),
                    // The connection is another: what was sent over the last one may or may not have arrived.
                    4 => over += 1,
                    _ => for frame in pair.frames(end, over) {
                        pair.receive(1 - end, frame.clone(), now);
                        pair.receive(1 - end, frame, now);
                    },
                }
            }
            for _ in 0..20 {
                now += SEND_AGAIN;
                for end in 0..2 {
                    pair.tick(end, now);
                    for frame in pair.frames(end, over) { pair.receive(1 - end, frame, now) }
                }
            }
            for end in 0..2 {
                prop_assert_eq!(&pair.received[1 - end], &(0..pair.sent[end]).collect::<Vec<_>>());
                let told = pair.told[end].lock().expect("told").clone();
                let expected: Vec<_> = (0..pair.sent[end])
                    .map(|n| (n, if n % 7 == 6 { Delivery::NoPeer } else { Delivery::Delivered }))
                    .collect();
                prop_assert_eq!(told, expected);
            }
        }
    }

    #[test]
    fn a_node_that_forgot_the_other_is_talked_to_anew() {
        let now = Instant::now();
        let mut pair = Pair::new(now);
        pair.send(0, now);
        pair.send(1, now);
        pair.exchange(now);
        pair.forget(1, now);
        pair.send(0, now);
        pair.exchange(now);
        assert_eq!(*pair.told[0].lock().expect("told"), [(0, Delivery::Delivered), (1, Delivery::Unavailable)]);
        pair.send(0, now);
        pair.send(1, now);
        pair.exchange(now);
        assert_eq!((&pair.received[1], &pair.received[0]), (&vec![0, 2], &vec![0, 1]));
    }

    #[test]
    fn news_are_told_to_a_node_that_forgot_the_other_whoever_notices() {
        for by_itself in [true, false] {
            let now = Instant::now();
            let mut pair = Pair::new(now);
            pair.send(0, now);
            pair.exchange(now);
            // Nothing gets through meanwhile.
            pair.send(0, now);
            pair.news(0, 100, now);
            drop(pair.frames(0, 1));
            pair.forget(1, now);
            let mut due = Vec::new();
            if by_itself {
                let stream = pair.streams.fetch_add(1, Ordering::SeqCst);
                assert_eq!(pair.ends[0].begin_anew(stream, now, &mut due), (4, true));
            } else {
                pair.ends[0].rewind();
            }
            pair.exchange(now);
            for (receipt, what) in due {
                receipt(what);
            }
            pair.send(0, now);
            pair.exchange(now);
            assert_eq!(pair.received[1], [0, 100, 2], "{by_itself}");
            let told = [(0, Delivery::Delivered), (1, Delivery::Unavailable), (2, Delivery::Delivered)];
            assert_eq!(*pair.told[0].lock().expect("told"), told, "{by_itself}");
            assert!(pair.ends[0].is_idle(), "{by_itself}");
        }
    }

    #[test]
    fn news_wait_as_if_they_were_new_and_nothing_waits_for_a_node_that_is_gone() {
        let (now, patience) = (Instant::now(), Duration::from_secs(5));
        let pair = Pair::new(now);
        pair.news(0, 100, now);
        let (later, mut due, mut freed) = (now + patience, Vec::new(), 0);
        pair.ends[0].tick(later, patience, &mut due, &mut freed);
        assert_eq!(pair.ends[0].begin_anew(2, later, &mut due), (0, true));
        pair.ends[0].tick(later, patience, &mut due, &mut freed);
        assert!(pair.ends[0].push(vec![1], false, true, None, later).is_ok(), "the line is not stuck");
        assert_eq!((pair.ends[0].end(&mut due), due.len(), freed), (5, 0, 0));
        // Somebody may have found the line just before.
        let refused = pair.ends[0].push(vec![1], false, false, None, later);
        assert!(matches!(refused, Err((Refused::Ended, None))) && pair.ends[0].is_idle());
    }

    #[test]
    fn what_waits_too_long_is_given_up_and_nothing_more_is_taken() {
        let now = Instant::now();
        let mut pair = Pair::new(now);
        pair.send(0, now);
        let late = now + Duration::from_secs(5);
        let mut due = Vec::new();
        let mut freed = 0;
        pair.ends[0].tick(late, Duration::from_secs(5), &mut due, &mut freed);
        assert_eq!((due.len(), due[0].1, freed), (1, Delivery::Unavailable, 4));
        let refused = pair.ends[0].push(vec![1], false, true, None, late);
        assert!(matches!(refused, Err((Refused::Stuck, None))));
        // What is no use later is taken at any time.
        assert!(pair.ends[0].push(vec![1, 1, 1, 1], false, false, None, late).is_ok());
        for frame in pair.frames(0, 1) {
            pair.receive(1, frame, late);
        }
        assert_eq!(pair.received[1], [0x0101_0101]);
    }

    #[test]
    fn what_waits_for_one_node_is_bounded() {
        let now = Instant::now();
        let line = Line::new(channel(), 1, now);
        let mut taken = 0;
        while line.push(vec![0; 1 << 20], false, true, None, now).is_ok() {
            taken += 1;
        }
        assert_eq!(taken, WAITING_BYTES >> 20);
        assert!(line.push(vec![0; 64], false, false, None, now).is_ok());
    }
}
