//! One socket's events, in the order in which it sent them.
//!
//! Whoever brings an item to an idle inbox works on it, and on what is brought meanwhile. Work that has to wait for
//! something is carried on by a task; then items queue up, the socket's connection is paused so that they do not become
//! many, and past a hard bound they are refused. A socket that sends too fast is slowed down, then told, then closed.

use std::{
    collections::VecDeque,
    sync::Arc,
    task::{Context, Poll, Waker},
    time::Duration,
};

use socketioxide_core::Str;
use tokio::sync::oneshot;

use super::{Attachments, Signaling, Step, session::Session};
use crate::{
    id::RoomName,
    limits::pace::{Pace, Verdict},
    metrics::{Limit, LimitedBy},
    protocol::{self, ByeReason, Code, Refusal, Request},
    transport::flow::Pause,
};

/// Queued bytes from which on the socket's connection is paused.
const PAUSE_BYTES: usize = 64 * 1024;
/// Queued bytes that are refused.
const REFUSE_BYTES: usize = 4 * 1024 * 1024;
/// As how many failures of its address a socket counts that had to be closed because it would not stop.
const CLOSED_FAILURES: u32 = 10;
/// What an item costs beside its bytes.
const ITEM_BYTES: usize = 256;

/// An event as it came.
#[derive(Debug)]
pub struct Event {
    /// The packet's array.
    pub text: Str,
    /// Its attachments, if there are any.
    pub attachments: Option<Attachments>,
    /// The number of the acknowledgement its client waits for.
    pub ack: Option<i64>,
}

impl Event {
    /// What it costs to keep.
    fn bytes(&self) -> usize {
        ITEM_BYTES + self.text.len() + self.attachments.iter().flatten().map(|bytes| bytes.len() + 64).sum::<usize>()
    }

    /// What its client sent.
    pub(super) fn payload_bytes(&self) -> usize {
        self.text.len() + self.attachments.iter().flatten().map(bytes::Bytes::len).sum::<usize>()
    }
}

/// What an inbox holds.
#[derive(Debug)]
pub enum Item {
    /// An event.
    Event(Event),
    /// A seat may be free in this room, which it waits for.
    Knock(RoomName),
    /// Another connection has its seat in this room.
    Superseded(RoomName),
    /// The socket is gone: no event comes after this.
    Gone(Parting),
    /// The operator closes this room; told is whether it sat there.
    Close(RoomName, oneshot::Sender<bool>),
    /// Told when all before it is done.
    Reached(oneshot::Sender<()>),
}

/// How a socket is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Parting {
    /// Why, as its peers are told.
    pub reason: ByeReason,
    /// It said so, or broke the rules: it will not come back to its seats.
    pub for_good: bool,
}

impl Parting {
    /// It may come back.
    #[must_use]
    pub const fn lost(reason: ByeReason) -> Self {
        Self { reason, for_good: false }
    }

    /// It will not.
    #[must_use]
    pub const fn for_good(reason: ByeReason) -> Self {
        Self { reason, for_good: true }
    }
}

/// Items that wait, and whether somebody works on one.
#[derive(Debug, Default)]
pub struct Inbox {
    busy: bool,
    bytes: usize,
    queue: VecDeque<Item>,
    pause: Option<Pause>,
    pace: Pace,
}

impl Inbox {
    fn push(&mut self, session: &Session, item: Item) -> Result<(), Event> {
        if let Item::Event(event) = item {
            let bytes = event.bytes();
            if self.bytes + bytes > REFUSE_BYTES {
                return Err(event);
            }
            self.bytes += bytes;
            self.queue.push_back(Item::Event(event));
            if self.bytes > PAUSE_BYTES && self.pause.is_none() {
                self.pause = Some(session.flow().pause());
            }
        } else {
            self.queue.push_back(item);
        }
        Ok(())
    }

    fn next(&mut self) -> Option<Item> {
        let item = self.queue.pop_front();
        match &item {
            Some(Item::Event(event)) => self.bytes -= event.bytes(),
            Some(Item::Gone(_) | Item::Knock(_) | Item::Superseded(_) | Item::Close(..) | Item::Reached(_)) => {}
            None => {
                self.busy = false;
                // A queue that was once long does not keep its memory.
                self.queue = VecDeque::new();
            }
        }
        if self.bytes <= PAUSE_BYTES / 2 {
            self.pause = None;
        }
        item
    }
}

impl Signaling {
    /// Takes an item of `session`.
    pub(super) fn take(self: &Arc<Self>, session: &Arc<Session>, item: Item) {
        let pushed = {
            let mut inbox = session.inbox();
            if let Item::Event(event) = &item {
                let verdict = self.judge(session, &mut inbox.pace, event);
                if !self.carry_out(verdict, session) {
                    drop(inbox);
                    return self.turn_away(session, event, verdict);
                }
            }
            if std::mem::replace(&mut inbox.busy, true) {
                inbox.push(session, item)
            } else {
                drop(inbox);
                return self.work(session, item);
            }
        };
        if let Err(event) = pushed {
            let name = protocol::split(&event.text).map_or("", |(name, _)| name);
            let refusal = Refusal::new(Code::TooManyRequests, "earlier requests of this socket are not served yet");
            self.refuse(session, Request::named(name), name, event.ack, &refusal);
        }
    }

    /// Whether `event` came too soon after the others of its socket.
    fn judge(&self, session: &Session, pace: &mut Pace, event: &Event) -> Verdict {
        let terms = self.limiter.rules().socket;
        let polls = !session.flow().is_websocket();
        if terms.events.is_none() && !(polls && terms.bytes.is_some()) {
            return Verdict::Pass;
        }
        let bytes = polls.then(|| event.payload_bytes() as u64);
        // Its heartbeats wait with the rest.
        pace.event(bytes, &terms, self.timeouts.ping_timeout / 2, self.limiter.now())
    }

    /// Makes a socket wait that is to; tells whether its event is to be served.
    fn carry_out(self: &Arc<Self>, verdict: Verdict, session: &Arc<Session>) -> bool {
        if let Verdict::Hold(wait, limit) = verdict {
            self.limiter.count(limit, LimitedBy::Delay);
            self.hold(session, wait);
        }
        matches!(verdict, Verdict::Pass | Verdict::Hold(..))
    }

    /// Reads nothing from a socket for so long, or until it is closed.
    fn hold(&self, session: &Session, wait: Duration) {
        let pause = session.flow().pause();
        self.lifecycle.spawn(async move {
            tokio::time::sleep(wait).await;
            drop(pause);
        });
    }

    /// Refuses an event that came too fast, and closes a socket that does not stop.
    fn turn_away(self: &Arc<Self>, session: &Arc<Session>, event: &Event, verdict: Verdict) {
        // What still comes from one that is being closed is nobody's any more.
        if !session.is_open() {
            return;
        }
        let name = protocol::split(&event.text).map_or("", |(name, _)| name);
        let refusal = self.limiter.refuse(Limit::Events, Duration::ZERO).refusal();
        if verdict == Verdict::Close {
            self.limiter.count(Limit::Events, LimitedBy::Close);
            // Or it would come back at once for another burst.
            self.limiter.failed(session.flow().visitor().address, CLOSED_FAILURES, self.limiter.now());
            let request = Request::named(name).unwrap_or(Request::Message);
            // Until it has heard why.
            self.hold(session, self.timeouts.write_stall);
            self.close_with(session, request, &refusal, ByeReason::ProtocolError);
        } else {
            self.refuse(session, Request::named(name), name, event.ack, &refusal);
        }
    }

    /// Works on `item` and on all that queues up behind it.
    fn work(self: &Arc<Self>, session: &Arc<Session>, mut item: Item) {
        loop {
            let step = match item {
                Item::Event(event) => self.begin(session, &event),
                Item::Gone(parting) => Step::Wait(Box::pin(Arc::clone(self).gone(Arc::clone(session), parting))),
                Item::Knock(room) => Step::Wait(Box::pin(Arc::clone(self).knock(Arc::clone(session), room))),
                Item::Superseded(room) => {
                    self.superseded(session, &room);
                    Step::Done
                }
                Item::Close(room, done) => {
                    Step::Wait(Box::pin(Arc::clone(self).close_seat(Arc::clone(session), room, done)))
                }
                Item::Reached(done) => {
                    // Whoever waited may have lost patience.
                    let _ = done.send(());
                    Step::Done
                }
            };
            if let Step::Wait(mut waited) = step {
                // Nearly always the answer is there at once: no task then.
                if waited.as_mut().poll(&mut Context::from_waker(Waker::noop())) == Poll::Pending {
                    let (signaling, session) = (Arc::clone(self), Arc::clone(session));
                    self.lifecycle.spawn(async move {
                        waited.await;
                        let next = session.inbox().next();
                        if let Some(next) = next {
                            signaling.work(&session, next);
                        }
                    });
                    return;
                }
            }
            let next = session.inbox().next();
            match next {
                Some(next) => item = next,
                None => return,
            }
        }
    }
}
