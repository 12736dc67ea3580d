//! The byte stream of one connection.
//!
//! A [`Wire`] adds to a TCP stream, plain or under TLS, what TCP alone does not give: it ends when nothing is taken for too
//! long although something waits, it can be paused and closed from outside through its [`Flow`], and it counts.

use std::{
    cell::RefCell,
    io::{self, IoSlice, Read},
    net::Shutdown,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use prometheus::{IntCounter, IntGauge};
use socket2::SockRef;
use tokio::{
    io::{AsyncRead, AsyncWrite, Interest, ReadBuf},
    net::TcpStream,
    time::Sleep,
};

use super::{
    flow::Flow,
    greeting::Greeting,
    tls::{Certificates, Session},
};
use crate::{
    limits::{Limiter, pace::Meter},
    metrics::LimitedBy,
};

/// How much is read at once.
const READ_BYTES: usize = 16 * 1024;

/// With more frames in one read, others get their turn before all of it is worked on.
const DENSE_FRAMES: u16 = 64;

/// What all wires of a listener share.
#[derive(Debug)]
pub struct WireContext {
    /// How long a connection may take no byte while some wait for it.
    pub write_stall: Duration,
    /// Bytes received.
    pub received: IntCounter,
    /// Bytes sent.
    pub sent: IntCounter,
    /// Connections ended because they took nothing.
    pub stalled: IntCounter,
    /// How fast WebSockets may bring what they bring; none where nobody is a stranger.
    pub limiter: Option<Arc<Limiter>>,
}

impl WireContext {
    /// One whose counters nobody reads.
    ///
    /// # Errors
    /// None that can happen.
    pub fn uncounted(write_stall: Duration) -> prometheus::Result<Self> {
        let counter = || IntCounter::new("uncounted", "uncounted");
        Ok(Self { write_stall, received: counter()?, sent: counter()?, stalled: counter()?, limiter: None })
    }
}

/// One connection. Kept in a box: the libraries above copy it into several futures.
#[derive(Debug)]
#[expect(clippy::struct_excessive_bools, reason = "they say what has happened, each by itself")]
pub struct Wire {
    stream: Stream,
    context: Arc<WireContext>,
    /// The session it carries, once it carries one.
    flow: Option<Arc<Flow>>,
    /// Where its CONNECT is looked for.
    greeting: Option<Box<Greeting>>,
    /// Bytes that came from the kernel and were not asked for yet.
    read_ahead: Bytes,
    /// Runs while the connection takes nothing.
    stall: Option<Pin<Box<Sleep>>>,
    /// Where it is counted while it carries a session.
    carrying: Option<IntGauge>,
    /// What it has brought as a WebSocket.
    meter: Meter,
    /// Runs while nothing is read because too much came.
    rest: Option<Pin<Box<Sleep>>>,
    /// What was read ahead is many small frames.
    dense: bool,
    /// The last read filled the whole buffer.
    full: bool,
    /// Others have had their turn.
    yielded: bool,
    /// Nothing more is written: the client has been told so.
    parted: bool,
}

#[derive(Debug)]
enum Stream {
    Plain(Arc<TcpStream>),
    Tls(Box<Session>),
}

impl Drop for Wire {
    fn drop(&mut self) {
        if let Some(carrying) = &self.carrying {
            carrying.dec();
        }
        if let Some(flow) = &self.flow {
            // The session may live on for a moment; the connection must not.
            flow.lane().close();
        }
    }
}

impl Wire {
    /// A wire over `stream`.
    #[must_use]
    pub fn new(stream: TcpStream, context: Arc<WireContext>) -> Self {
        Self {
            stream: Stream::Plain(Arc::new(stream)),
            context,
            flow: None,
            greeting: None,
            read_ahead: Bytes::new(),
            stall: None,
            carrying: None,
            meter: Meter::default(),
            rest: None,
            dense: false,
            full: false,
            yielded: false,
            parted: false,
        }
    }

    /// Puts TLS below, as soon as the client has done its part: what was read ahead so far belongs to that. Tells whether it did
    /// so within `patience`; if not, the connection is of no use.
    pub(super) async fn secure(&mut self, certificates: &Certificates, patience: Duration) -> bool {
        let Stream::Plain(stream) = &self.stream else { return false };
        let ahead = std::mem::take(&mut self.read_ahead);
        match certificates.accept(Arc::clone(stream), ahead, Arc::clone(&self.context), patience).await {
            Some(session) => {
                self.stream = Stream::Tls(session);
                true
            }
            None => false,
        }
    }

    /// What was read too much: it comes again before all else.
    pub(super) fn put_back(&mut self, bytes: &[u8]) {
        self.read_ahead = [bytes, &self.read_ahead].concat().into();
    }

    /// Whether it is the others' turn; then this one's is the next.
    fn lets_others(&mut self, cx: &Context<'_>) -> bool {
        self.yielded = !self.yielded;
        if self.yielded {
            cx.waker().wake_by_ref();
        }
        self.yielded
    }

    /// Counts what came over a WebSocket, and reads on later if it was too much.
    fn meter(&mut self, read: &[u8]) {
        let Some(limiter) = self.context.limiter.as_ref().filter(|_| self.flow.is_some()) else { return };
        let rules = limiter.rules();
        if rules.wire.is_unlimited() {
            return;
        }
        let (frames, rest) = self.meter.count(read, &rules.wire, || limiter.now());
        self.dense = frames > DENSE_FRAMES;
        if let Some((rest, limit)) = rest {
            limiter.count(limit, LimitedBy::Delay);
            self.rest = Some(Box::pin(tokio::time::sleep(rest)));
        }
    }

    /// The wire carries the session of `flow` from now on, and counts in `carrying`; `read_ahead` comes before what is
    /// still to be read. With `lane`, packets may be written straight to it: only for a session that never was anything
    /// but a WebSocket, of which nothing can still be on another way. Under TLS there is none: whatever is written has to go
    /// through the session, which belongs to the library's writer.
    pub fn carry(&mut self, flow: Arc<Flow>, lane: bool, read_ahead: Bytes, carrying: IntGauge) {
        carrying.inc();
        if let (true, Stream::Plain(stream)) = (lane, &self.stream) {
            flow.lane().open(Arc::clone(stream), self.context.sent.clone());
        }
        // A session that began by polling had its CONNECT there, or its flow is paused until it is answered.
        self.greeting = lane.then(Box::default);
        self.flow = Some(flow);
        if !read_ahead.is_empty() {
            self.read_ahead = [read_ahead, std::mem::take(&mut self.read_ahead)].concat().into();
        }
        self.carrying = Some(carrying);
        let read_ahead = self.read_ahead.clone();
        self.meter(&read_ahead);
    }

    /// How many of these bytes may be handed over: what follows a CONNECT waits for its answer.
    fn until_connect(&mut self, read: &[u8]) -> usize {
        let (Some(greeting), Some(flow)) = (&mut self.greeting, &self.flow) else { return read.len() };
        if flow.is_welcome() {
            self.greeting = None;
            return read.len();
        }
        let (bytes, connects) = greeting.pass(read);
        if connects {
            flow.greeted();
        }
        bytes
    }

    /// Reads all that the kernel has, as far as one thread's buffer goes, with one system call; what `buf` cannot take is
    /// kept. The buffer of an idle WebSocket can thus be small, and a message larger than it still costs one call.
    fn read(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        thread_local! {
            static INCOMING: RefCell<Box<[u8]>> = RefCell::new(vec![0; READ_BYTES].into());
        }
        INCOMING.with_borrow_mut(|incoming| {
            let bytes = match &mut self.stream {
                Stream::Plain(stream) => {
                    let bytes = ready!(receive(stream, cx, incoming))?;
                    self.context.received.inc_by(bytes as u64);
                    bytes
                }
                // It counts what comes over the network itself.
                Stream::Tls(session) => ready!(session.receive(cx, incoming))?,
            };
            let may = self.until_connect(&incoming[..bytes.min(buf.remaining())]);
            let (now, later) = incoming[..bytes].split_at(may);
            buf.put_slice(now);
            if !later.is_empty() {
                self.read_ahead = Bytes::copy_from_slice(later);
            }
            self.full = bytes == incoming.len();
            self.meter(&incoming[..bytes]);
            Poll::Ready(Ok(()))
        })
    }

    /// Tells the client that nothing more comes, and throws away what comes from it until it hangs up.
    fn poll_part(&mut self, cx: &mut Context<'_>, flow: &Flow) -> Poll<io::Error> {
        if !std::mem::replace(&mut self.parted, true) {
            // Whether it can be told or not, it ends.
            let _ = Pin::new(&mut *self).poll_shutdown(cx);
        }
        let mut thrown_away = [0; 4096];
        let received = match &mut self.stream {
            Stream::Plain(stream) => receive(stream, cx, &mut thrown_away),
            Stream::Tls(session) => session.receive(cx, &mut thrown_away),
        };
        match received {
            Poll::Pending if !flow.reader_waits(cx) => Poll::Pending,
            Poll::Ready(Ok(bytes)) if bytes > 0 => {
                // One that floods does not keep others from their turn.
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            _ => {
                flow.close();
                Poll::Ready(io::ErrorKind::ConnectionAborted.into())
            }
        }
    }

    fn closed(&self) -> io::Result<()> {
        match &self.flow {
            Some(flow) if flow.is_closed() => Err(io::ErrorKind::ConnectionAborted.into()),
            _ => Ok(()),
        }
    }

    /// What a write came to: counts the bytes, or watches the clock while none is taken.
    fn written(&mut self, cx: &mut Context<'_>, result: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if let Poll::Ready(Ok(bytes)) = result {
            self.context.sent.inc_by(bytes as u64);
        }
        self.attempted(cx, result)
    }

    /// As `written`, of a session, which counts its own bytes and may have taken some of what it had before. `before`: how
    /// many it had sent then.
    fn attempted_over<T>(
        &mut self,
        cx: &mut Context<'_>,
        before: u64,
        result: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if let Stream::Tls(session) = &self.stream
            && session.sent() > before
        {
            self.stall = None;
        }
        self.attempted(cx, result)
    }

    fn attempted<T>(&mut self, cx: &mut Context<'_>, result: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        match result {
            Poll::Ready(Ok(done)) => {
                self.stall = None;
                Poll::Ready(Ok(done))
            }
            Poll::Ready(Err(error)) => {
                if let Some(flow) = &self.flow {
                    // The library's writer goes on after an error; its reader is what ends the session.
                    flow.close();
                }
                Poll::Ready(Err(error))
            }
            Poll::Pending => {
                let limit = self.context.write_stall;
                let stall = self.stall.get_or_insert_with(|| Box::pin(tokio::time::sleep(limit)));
                if stall.as_mut().poll(cx).is_ready() {
                    self.context.stalled.inc();
                    if let Some(flow) = &self.flow {
                        flow.close();
                    }
                    return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
                }
                if self.flow.as_ref().is_some_and(|flow| flow.writer_waits(cx)) {
                    return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
                }
                Poll::Pending
            }
        }
    }
}

impl AsyncRead for Wire {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if let Some(flow) = &this.flow {
            ready!(flow.poll_may_read(cx));
            if flow.is_closed() {
                return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
            }
            if flow.is_parting() {
                let flow = Arc::clone(flow);
                return this.poll_part(cx, &flow).map(Err);
            }
        }
        if !this.read_ahead.is_empty() {
            // Frames that are there already are worked on without a pause, and each may be a whole event.
            if this.dense && this.lets_others(cx) {
                return Poll::Pending;
            }
            let ahead = this.read_ahead.clone();
            let may = this.until_connect(&ahead[..ahead.len().min(buf.remaining())]);
            let some = this.read_ahead.split_to(may);
            buf.put_slice(&some);
            if this.read_ahead.is_empty() {
                this.read_ahead = Bytes::new();
            }
            return Poll::Ready(Ok(()));
        }
        if let Some(rest) = &mut this.rest {
            if rest.as_mut().poll(cx).is_pending() {
                if this.flow.as_ref().is_some_and(|flow| flow.reader_waits(cx)) {
                    return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
                }
                return Poll::Pending;
            }
            this.rest = None;
        }
        if this.full && this.lets_others(cx) {
            return Poll::Pending;
        }
        match this.read(cx, buf) {
            Poll::Pending if this.flow.as_ref().is_some_and(|flow| flow.reader_waits(cx)) => {
                Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()))
            }
            result => result,
        }
    }
}

impl AsyncWrite for Wire {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        this.closed()?;
        let result = match (&mut this.stream, &this.flow) {
            (Stream::Plain(stream), Some(flow)) => flow.poll_write(cx, stream, buf),
            (Stream::Plain(stream), None) => write(stream, cx, |stream| stream.try_write(buf)),
            (Stream::Tls(session), flow) => {
                let before = session.sent();
                let result = session.poll_write(cx, flow.as_deref(), buf);
                return this.attempted_over(cx, before, result);
            }
        };
        this.written(cx, result)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if !self.is_write_vectored() {
            let first = bufs.iter().find(|buf| !buf.is_empty()).map_or(&[][..], |buf| buf);
            return self.poll_write(cx, first);
        }
        let this = self.get_mut();
        let result = match &this.stream {
            Stream::Plain(stream) => write(stream, cx, |stream| stream.try_write_vectored(bufs)),
            Stream::Tls(_) => return Poll::Ready(Ok(0)),
        };
        this.written(cx, result)
    }

    fn is_write_vectored(&self) -> bool {
        self.flow.is_none() && matches!(self.stream, Stream::Plain(_))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.closed()?;
        match &mut this.stream {
            // A TCP stream has nothing to flush.
            Stream::Plain(_) => Poll::Ready(Ok(())),
            Stream::Tls(session) => {
                let before = session.sent();
                let result = session.poll_flush(cx, this.flow.as_deref());
                this.attempted_over(cx, before, result)
            }
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        match &mut this.stream {
            Stream::Plain(stream) => Poll::Ready(SockRef::from(&**stream).shutdown(Shutdown::Write)),
            Stream::Tls(session) => {
                let before = session.sent();
                let result = session.poll_shutdown(cx);
                this.attempted_over(cx, before, result)
            }
        }
    }
}

/// Writes as soon as the socket takes something.
pub(super) fn write(
    stream: &TcpStream,
    cx: &mut Context<'_>,
    attempt: impl Fn(&TcpStream) -> io::Result<usize>,
) -> Poll<io::Result<usize>> {
    loop {
        ready!(stream.poll_write_ready(cx))?;
        match attempt(stream) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            result => return Poll::Ready(result),
        }
    }
}

/// Reads what is there, as far as `buffer` goes.
///
/// Fewer bytes than that are all there are: the socket then counts as empty until the kernel says otherwise, which saves
/// the call that would find out. (`TcpStream::poll_read` does the same, but wants the stream to itself.)
pub(super) fn receive(stream: &TcpStream, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
    loop {
        ready!(stream.poll_read_ready(cx))?;
        let mut received = None;
        let result = stream.try_io(Interest::READABLE, || {
            let bytes = (&*SockRef::from(stream)).read(buffer)?;
            received = Some(bytes);
            if bytes > 0 && bytes < buffer.len() { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(()) }
        });
        match (received, result) {
            (Some(bytes), _) => return Poll::Ready(Ok(bytes)),
            (None, Err(error)) if error.kind() != io::ErrorKind::WouldBlock => return Poll::Ready(Err(error)),
            (None, _) => {}
        }
    }
}
