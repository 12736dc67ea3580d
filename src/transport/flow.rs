//! What is on its way to a client, and whether the client may go on sending: the [`Flow`] of one Engine.IO session.
//!
//! Outbound, a flow counts bytes: those handed to the session's queue, and those its transport has taken. The
//! difference is what waits in this process for a slow receiver, and is bounded. Over WebSocket the count is exact,
//! frame for frame. Over polling it errs to the receiver's disadvantage by a few bytes a packet, and is set right
//! whenever a poll finds the queue empty.
//!
//! Inbound, a flow can be paused: a paused session's bytes stay in the kernel, and its sender feels it.

use std::{
    collections::HashMap,
    fmt, io,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak,
        atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use futures_util::task::AtomicWaker;
use tokio::{net::TcpStream, sync::Notify};

use super::{
    lane::{Lane, Sent, Turn},
    visitor::Visitor,
};
use crate::{id::Sid, limits::SocketPlace};

/// More bytes wait for a receiver than may.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Overflow;

/// No CONNECT has come, or it was refused.
const UNGREETED: u8 = 0;
/// A CONNECT has come and is not answered.
const GREETED: u8 = 1;
/// The session's CONNECT was answered: it was let in.
const WELCOME: u8 = 2;

/// The flow of one Engine.IO session, over whichever transport it runs.
#[derive(Debug, Default)]
pub struct Flow {
    /// Bytes handed to the session's queue, ever.
    queued: AtomicU64,
    /// Bytes the transport has taken, ever.
    taken: AtomicU64,
    /// Whether the session's packets go over a WebSocket.
    websocket: AtomicBool,
    /// How many wait for `progress`.
    watchers: AtomicU32,
    /// Told when bytes are taken while watched, and when the flow is closed.
    progress: Notify,
    /// How many hold the flow paused.
    pauses: AtomicU32,
    /// Whether its CONNECT has come, and whether it was let in.
    greeting: AtomicU8,
    /// Whether a receiver that should have made progress made none; cleared by the next byte it takes.
    stalled: AtomicBool,
    /// All is said: what still comes is of no use.
    parting: AtomicBool,
    closed: AtomicBool,
    reader: AtomicWaker,
    writer: AtomicWaker,
    /// Told when the last pause ends: requests of a polling session wait for it.
    resumed: Notify,
    /// Who opened the session, without the token.
    visitor: Visitor,
    /// Its place among the sockets of the node.
    _place: Option<SocketPlace>,
    /// The token that came with it, until it is taken to be checked.
    token: Token,
    /// Only of a session that an old client opened by polling.
    old_polling: OnceLock<OldPolling>,
    /// Where the writes of its WebSocket stand.
    lane: Mutex<Lane>,
    /// While the session can be found by its id.
    entry: OnceLock<Entry>,
}

/// A token, never shown.
#[derive(Default)]
struct Token(Mutex<Option<Box<str>>>);

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token")
    }
}

/// What a client that polls by Engine.IO 3 was told and has shown. What it means for the payloads is `http`'s to know.
#[derive(Debug)]
pub struct OldPolling {
    /// It asked for text only when it opened its session.
    pub base64: bool,
    /// The most bytes that it may send at once.
    pub max_payload: u32,
    /// It sent text that a 1.x client would not.
    pub encodes_once: AtomicBool,
}

impl Flow {
    /// The flow of a session that `visitor` opens, and that has `place` as long as the flow lives.
    #[must_use]
    pub fn of(mut visitor: Visitor, place: SocketPlace) -> Self {
        let token = Token(Mutex::new(visitor.token.take()));
        Self { visitor, token, _place: Some(place), ..Self::default() }
    }

    /// The token that the session was opened with. It is not kept: the second call finds none.
    #[must_use]
    pub fn take_token(&self) -> Option<Box<str>> {
        self.token.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Who opened the session.
    #[must_use]
    pub fn visitor(&self) -> &Visitor {
        &self.visitor
    }

    /// Bytes waiting for the client in this process.
    #[must_use]
    pub fn waiting(&self) -> u64 {
        self.queued.load(Ordering::Relaxed).saturating_sub(self.taken.load(Ordering::Relaxed))
    }

    /// Counts `bytes` as handed to the session's queue.
    ///
    /// # Errors
    /// [`Overflow`], and nothing is counted, when something waits already and this would make it more than `bound`.
    pub fn queue(&self, bytes: usize, bound: usize) -> Result<(), Overflow> {
        let mut queued = self.queued.load(Ordering::Relaxed);
        loop {
            // A polling transport counts what the library sends of its own (heartbeats) as taken, too. Whenever the queue
            // runs empty this lets the count of the queued catch up, so the difference never drifts.
            let base = queued.max(self.taken.load(Ordering::Relaxed));
            let waiting = base - self.taken.load(Ordering::Relaxed).min(base);
            if waiting > 0 && waiting + bytes as u64 > bound as u64 {
                return Err(Overflow);
            }
            match self.queued.compare_exchange_weak(queued, base + bytes as u64, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return Ok(()),
                Err(now) => queued = now,
            }
        }
    }

    /// Counts `bytes` as taken by the transport.
    pub fn take(&self, bytes: usize) {
        // Paired with the waiter's own two steps: either it sees these bytes, or this sees the waiter.
        self.taken.fetch_add(bytes as u64, Ordering::SeqCst);
        self.stalled.store(false, Ordering::Relaxed);
        if self.watchers.load(Ordering::SeqCst) > 0 {
            self.progress.notify_waiters();
        }
    }

    /// A poll found the session's queue empty: nothing waits.
    pub fn found_empty(&self) {
        self.take(usize::try_from(self.waiting()).unwrap_or(usize::MAX));
    }

    /// All bytes ever taken by the transport.
    #[must_use]
    pub fn taken(&self) -> u64 {
        self.taken.load(Ordering::SeqCst)
    }

    /// Whether the session's packets go over a WebSocket.
    #[must_use]
    pub fn is_websocket(&self) -> bool {
        self.websocket.load(Ordering::Relaxed)
    }

    /// The session runs over a WebSocket from now on.
    pub fn set_websocket(&self) {
        self.websocket.store(true, Ordering::Relaxed);
    }

    /// What is known of an old client that polls, or did before its upgrade.
    #[must_use]
    pub fn old_polling(&self) -> Option<&OldPolling> {
        self.old_polling.get()
    }

    /// An old client opened the session by polling. Only the first call counts.
    pub fn set_old_polling(&self, known: OldPolling) {
        let _ = self.old_polling.set(known);
    }

    /// Returns once the transport has taken more than `before` bytes in all, or the flow is closed.
    pub async fn taken_more_than(&self, before: u64) {
        self.watchers.fetch_add(1, Ordering::SeqCst);
        let _watching = Watching(&self.watchers);
        loop {
            let mut progress = std::pin::pin!(self.progress.notified());
            progress.as_mut().enable();
            if self.taken() > before || self.is_closed() {
                return;
            }
            progress.await;
        }
    }

    /// Whether the receiver has been found to take nothing.
    #[must_use]
    pub fn is_stalled(&self) -> bool {
        self.stalled.load(Ordering::Relaxed)
    }

    /// The receiver takes nothing: nobody should wait for it until it does.
    pub fn set_stalled(&self) {
        self.stalled.store(true, Ordering::Relaxed);
    }

    /// Counts out `bytes` that were counted as queued and did not get there.
    pub fn unqueue(&self, bytes: usize) {
        self.queued.fetch_sub(bytes as u64, Ordering::Relaxed);
    }

    /// Takes no more from the client until the pause is dropped.
    #[must_use]
    pub fn pause(self: &Arc<Self>) -> Pause {
        self.pauses.fetch_add(1, Ordering::AcqRel);
        Pause(Arc::clone(self))
    }

    /// Whether the client's bytes are left where they are.
    #[must_use]
    pub fn is_paused(&self) -> bool {
        self.pauses.load(Ordering::Acquire) > 0
    }

    /// A CONNECT comes, or is understood to have come: nothing that follows it is read before it is answered.
    pub fn greeted(&self) {
        if self.greeting.compare_exchange(UNGREETED, GREETED, Ordering::AcqRel, Ordering::Relaxed).is_ok() {
            self.pauses.fetch_add(1, Ordering::AcqRel);
        }
    }

    /// The CONNECT is answered; `welcome` is whether the session was let in. Once in, it stays so, whichever answer comes late.
    pub fn answered(&self, welcome: bool) {
        let awaited = if welcome {
            self.greeting.swap(WELCOME, Ordering::AcqRel) == GREETED
        } else {
            self.greeting.compare_exchange(GREETED, UNGREETED, Ordering::AcqRel, Ordering::Relaxed).is_ok()
        };
        if awaited {
            self.resume();
        }
    }

    /// Whether a CONNECT has come that is not answered.
    #[must_use]
    pub fn awaits_answer(&self) -> bool {
        self.greeting.load(Ordering::Acquire) == GREETED
    }

    /// Whether the session was let in: then it needs no further CONNECT.
    #[must_use]
    pub fn is_welcome(&self) -> bool {
        self.greeting.load(Ordering::Acquire) == WELCOME
    }

    fn resume(&self) {
        if self.pauses.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.reader.wake();
            self.resumed.notify_waiters();
        }
    }

    /// Returns once the flow is not paused.
    pub async fn resumed(&self) {
        loop {
            let mut resumed = std::pin::pin!(self.resumed.notified());
            resumed.as_mut().enable();
            if !self.is_paused() || self.is_closed() {
                return;
            }
            resumed.await;
        }
    }

    /// Nothing more is said to the client, and what still comes from it is thrown away, until it hangs up or [`Flow::close`] is
    /// called: to close while something of it lies unread would take back what it has not read (RFC 1122, section 4.2.2.13).
    /// Only of a session that runs over a WebSocket.
    pub fn part(&self) {
        self.parting.store(true, Ordering::Release);
        self.reader.wake();
    }

    /// Whether that is so.
    pub(super) fn is_parting(&self) -> bool {
        self.parting.load(Ordering::Acquire)
    }

    /// Ends the connection underneath, whatever its reader and writer are waiting for.
    pub fn close(&self) {
        self.closed.store(true, Ordering::Release);
        self.reader.wake();
        self.writer.wake();
        self.progress.notify_waiters();
        self.resumed.notify_waiters();
    }

    /// Whether it was closed.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// The session's CONNECT is refused: the client is to hear `packet` instead of what the library says then.
    pub fn refuse(&self, packet: impl Into<Bytes>) {
        self.lane().refuse(packet.into());
    }

    /// What a session that polls is to hear instead of the library's refusal, as long as it has not.
    #[must_use]
    pub fn refusal(&self) -> Option<Bytes> {
        self.lane().refusal()
    }

    /// It has heard it.
    pub fn refusal_said(&self) {
        self.lane().refusal_said();
        self.answered(false);
    }

    /// Whether a CONNECT of the session was refused.
    #[must_use]
    pub fn was_refused(&self) -> bool {
        self.lane().is_refused()
    }

    /// Whether its CONNECT was refused, and it has had its time to hear of that.
    #[must_use]
    pub fn is_turned_away(&self) -> bool {
        self.is_closed() && self.lane().is_refused()
    }

    /// Writes a frame straight to the WebSocket, if nothing is in front of it. What it could not take at once waits, and
    /// counts as waiting; then [`Flow::drive`] has to be run.
    pub fn send(&self, head: &[u8], body: &[u8]) -> Sent {
        // Whoever holds the lane writes: then this is not the only packet on its way.
        let Ok(mut lane) = self.lane.try_lock() else { return Sent::Not };
        if self.waiting() > 0 || self.is_closed() {
            return Sent::Not;
        }
        let sent = lane.send(head, body);
        if let Sent::Partly(bytes) = sent {
            // Nothing waits, so nothing is refused.
            let _ = self.queue(bytes, usize::MAX);
        }
        sent
    }

    /// Writes what [`Flow::send`] left, or ends the connection when it takes nothing for `patience`; tells whether it took
    /// nothing.
    pub async fn drive(&self, patience: Duration) -> bool {
        loop {
            let stream = self.lane().stream();
            let Some(stream) = stream.filter(|_| !self.is_closed()) else { return false };
            if tokio::time::timeout(patience, stream.writable()).await.is_err() {
                self.close();
                return true;
            }
            let driven = {
                let mut lane = self.lane();
                lane.drive().map(|bytes| (bytes, lane.has_rest()))
            };
            match driven {
                Ok((bytes, more)) => {
                    self.take(bytes);
                    if !more {
                        self.writer.wake();
                        return false;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => {
                    self.close();
                    return false;
                }
            }
        }
    }

    pub(super) fn lane(&self) -> MutexGuard<'_, Lane> {
        self.lane.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The library's writer writes: nothing until the rest of a frame is gone.
    pub(super) fn poll_write(
        &self,
        cx: &mut Context<'_>,
        stream: &TcpStream,
        buffer: &[u8],
    ) -> Poll<io::Result<usize>> {
        loop {
            ready!(stream.poll_write_ready(cx))?;
            let mut lane = self.lane();
            if lane.has_rest() {
                self.writer.register(cx.waker());
                return Poll::Pending;
            }
            let turn = lane.turn(buffer);
            let written = match &turn {
                Turn::Library(bytes) => stream.try_write(&buffer[..*bytes]),
                Turn::Refusal(packet) => stream.try_write(packet),
            };
            match (written, turn) {
                (Ok(bytes), Turn::Library(_)) => {
                    let ours = lane.wrote(buffer, bytes);
                    if ours > 0 {
                        self.take(ours);
                    }
                    return Poll::Ready(Ok(bytes));
                }
                (Ok(bytes), Turn::Refusal(_)) => {
                    if let Some(bytes) = self.wrote_refusal(&mut lane, bytes) {
                        return Poll::Ready(Ok(bytes));
                    }
                }
                (Err(error), _) if error.kind() == io::ErrorKind::WouldBlock => {}
                (Err(error), _) => return Poll::Ready(Err(error)),
            }
        }
    }

    /// As much of the refusal is written: how many bytes of the library's it stands for, once it is all said.
    pub(super) fn wrote_refusal(&self, lane: &mut Lane, bytes: usize) -> Option<usize> {
        let stands_for = lane.wrote_refusal(bytes)?;
        self.answered(false);
        Some(stands_for)
    }

    /// Whether the reader may read now; its task is woken when that changes.
    pub(super) fn poll_may_read(&self, cx: &Context<'_>) -> Poll<()> {
        if !self.is_paused() {
            return Poll::Ready(());
        }
        self.reader.register(cx.waker());
        // The pause may have ended, or the flow closed, before the registration.
        if self.is_paused() && !self.is_closed() && !self.is_parting() { Poll::Pending } else { Poll::Ready(()) }
    }

    /// The reader waits for bytes: it is to be woken when the flow is closed. Tells whether it is already.
    pub(super) fn reader_waits(&self, cx: &Context<'_>) -> bool {
        self.reader.register(cx.waker());
        self.is_closed()
    }

    /// The writer waits for room: it is to be woken when the flow is closed. Tells whether it is already.
    pub(super) fn writer_waits(&self, cx: &Context<'_>) -> bool {
        self.writer.register(cx.waker());
        self.is_closed()
    }
}

/// Counts one that waits for progress, also when it stops waiting early.
struct Watching<'a>(&'a AtomicU32);

impl Drop for Watching<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Holds a flow paused.
#[derive(Debug)]
pub struct Pause(Arc<Flow>);

impl Drop for Pause {
    fn drop(&mut self) {
        self.0.resume();
    }
}

/// Flows by the id of their session: how a polling request finds the flow of the session it belongs to.
#[derive(Debug, Default)]
pub struct Flows(Mutex<HashMap<Sid, Weak<Flow>>>);

impl Flows {
    /// Lets `flow` be found by `sid` as long as it lives. A flow that can be found already stays as it is.
    pub fn register(self: &Arc<Self>, sid: Sid, flow: &Arc<Flow>) {
        // No entry is made in vain: dropping it would take the flow out again.
        flow.entry.get_or_init(|| {
            self.map().insert(sid, Arc::downgrade(flow));
            Entry { sid, flows: Arc::clone(self) }
        });
    }

    /// The flow of that session.
    #[must_use]
    pub fn get(&self, sid: Sid) -> Option<Arc<Flow>> {
        self.map().get(&sid).and_then(Weak::upgrade)
    }

    /// How many can be found.
    #[must_use]
    pub fn len(&self) -> usize {
        self.map().len()
    }

    /// Whether none can be found.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.map().is_empty()
    }

    fn map(&self) -> std::sync::MutexGuard<'_, HashMap<Sid, Weak<Flow>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Removes a flow from [`Flows`] when the flow is dropped.
#[derive(Debug)]
struct Entry {
    sid: Sid,
    flows: Arc<Flows>,
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.flows.map().remove(&self.sid);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_waits_is_bounded_but_for_a_first_large_packet() {
        let flow = Flow::default();
        assert_eq!(flow.queue(5_000, 1_000), Ok(()));
        assert_eq!(flow.queue(1, 1_000), Err(Overflow));
        flow.take(4_500);
        assert_eq!(flow.waiting(), 500);
        assert_eq!(flow.queue(500, 1_000), Ok(()));
        assert_eq!(flow.queue(1, 1_000), Err(Overflow));
    }

    #[test]
    fn what_the_transport_sends_of_its_own_does_not_count_for_long() {
        let flow = Flow::default();
        flow.take(10_000);
        assert_eq!(flow.queue(600, 1_000), Ok(()));
        assert_eq!(flow.waiting(), 600);
        assert_eq!(flow.queue(600, 1_000), Err(Overflow));
    }

    #[test]
    fn a_flow_can_be_found_as_long_as_it_lives() {
        let flows = Arc::new(Flows::default());
        let flow = Arc::new(Flow::default());
        let sid = Sid::new();
        flows.register(sid, &flow);
        flows.register(sid, &flow);
        assert!(flows.get(sid).is_some_and(|found| Arc::ptr_eq(&found, &flow)));
        drop(flow);
        assert!(flows.get(sid).is_none() && flows.is_empty());
    }

    #[tokio::test]
    async fn progress_is_not_missed_however_early_it_comes() {
        let flow = Arc::new(Flow::default());
        let before = flow.taken();
        flow.take(1);
        flow.taken_more_than(before).await;
        let waiting = tokio::spawn({
            let flow = Arc::clone(&flow);
            async move { flow.taken_more_than(before + 1).await }
        });
        flow.take(1);
        waiting.await.expect("progress");
        assert_eq!(flow.watchers.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn a_session_is_held_from_its_connect_to_the_answer_and_never_again_once_it_is_in() {
        let flow = Flow::default();
        let state = |flow: &Flow| (flow.is_paused(), flow.awaits_answer(), flow.is_welcome());
        flow.answered(false);
        assert_eq!(state(&flow), (false, false, false), "nothing was asked");
        flow.greeted();
        flow.greeted();
        assert_eq!(state(&flow), (true, true, false));
        flow.answered(false);
        assert_eq!(state(&flow), (false, false, false));
        flow.greeted();
        flow.answered(true);
        assert_eq!(state(&flow), (false, false, true));
        // Of an earlier CONNECT, told by a late poll.
        flow.answered(false);
        flow.greeted();
        assert_eq!(state(&flow), (false, false, true));
    }

    #[tokio::test]
    async fn a_pause_ends_when_its_last_holder_lets_go() {
        let flow = Arc::new(Flow::default());
        let (first, second) = (flow.pause(), flow.pause());
        drop(first);
        assert!(flow.is_paused());
        let waiting = tokio::spawn({
            let flow = Arc::clone(&flow);
            async move { flow.resumed().await }
        });
        drop(second);
        waiting.await.expect("resumed");
        assert!(!flow.is_paused());
    }
}
