//! The connection that messages to other nodes leave by. Redis answers nothing on it
//! ([`CLIENT REPLY OFF`](https://redis.io/docs/latest/commands/client-reply/)): an answer would wake this node once more
//! a message, and would say less than the other node's receipt and the message to oneself do.
//!
//! The crate connects and greets over it, and notices its end. Requests are written here, by whoever has one, straight
//! to the socket: the crate would keep a place for an answer to each.

use std::{
    fmt::Write as _,
    io,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker, ready},
};

use bytes::{Buf as _, BytesMut};
use redis::{AsyncConnectionConfig, ConnectionAddr, ErrorKind, RedisError, aio::MultiplexedConnection};
use rustls::pki_types::ServerName;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadHalf, WriteHalf},
    net::TcpStream,
    sync::Notify,
};
use tokio_rustls::TlsConnector;
use tokio_util::sync::CancellationToken;

use super::topology::{Primary, UNACKNOWLEDGED};

/// Bytes that may wait for the socket; who has more waits for room.
const PENDING: usize = 1 << 20;

trait Io: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// Why a request was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotTaken {
    /// Too much waits already.
    Full,
    /// The connection has ended.
    Broken,
}

/// A connection that only publishes.
pub struct Publisher {
    out: Mutex<Out>,
    /// Something waits for the socket.
    more: Notify,
    /// Nothing does any more, or never will.
    room: Notify,
}

struct Out {
    socket: WriteHalf<Box<dyn Io>>,
    /// What the socket has not taken yet.
    pending: BytesMut,
    /// Its own task is at the socket: nobody else is.
    waiting: bool,
    broken: bool,
}

impl std::fmt::Debug for Publisher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Publisher").finish_non_exhaustive()
    }
}

impl Publisher {
    /// Connects to `primary`. The crate's half is to be kept for as long as this is used; it and this tell `broken` of
    /// the end.
    ///
    /// # Errors
    /// When no connection could be made, or Redis refuses the greeting.
    pub async fn open(
        primary: &Primary,
        config: AsyncConnectionConfig,
        broken: CancellationToken,
    ) -> Result<(Arc<Self>, MultiplexedConnection), RedisError> {
        let (incoming, socket) = tokio::io::split(connect(primary).await?);
        let publisher = Arc::new(Self {
            out: Mutex::new(Out { socket, pending: BytesMut::new(), waiting: false, broken: false }),
            more: Notify::new(),
            room: Notify::new(),
        });
        tokio::spawn(Arc::clone(&publisher).run(broken));
        let both = Both { incoming, outgoing: Arc::clone(&publisher) };
        let settings = primary.client.get_connection_info().redis_settings();
        let (crates, driver) = MultiplexedConnection::new_with_config(settings, both, config).await?;
        tokio::spawn(driver);
        publisher
            .write_whole(&redis::cmd("CLIENT").arg("REPLY").arg("OFF").get_packed_command())
            .map_err(|_| RedisError::from((ErrorKind::Io, "the connection has ended")))?;
        Ok((publisher, crates))
    }

    /// Publishes to a channel (`SPUBLISH`), if that does not have to wait.
    ///
    /// # Errors
    /// [`NotTaken`]: nothing of it was, or will be, sent.
    pub fn try_publish(&self, channel: &str, message: &[u8]) -> Result<(), NotTaken> {
        self.write(channel.len() + message.len(), |pending| append_publish(pending, channel, message))
    }

    /// Publishes to a channel (`SPUBLISH`), as soon as there is room.
    ///
    /// # Errors
    /// [`NotTaken::Broken`].
    pub async fn publish(&self, channel: &str, message: &[u8]) -> Result<(), NotTaken> {
        loop {
            let mut room = std::pin::pin!(self.room.notified());
            room.as_mut().enable();
            match self.try_publish(channel, message) {
                Err(NotTaken::Full) => room.await,
                done => return done,
            }
        }
    }

    fn write_whole(&self, request: &[u8]) -> Result<(), NotTaken> {
        self.write(request.len(), |pending| pending.extend_from_slice(request))
    }

    /// Writes what `append` appends, which is some `bytes`.
    fn write(&self, bytes: usize, append: impl FnOnce(&mut BytesMut)) -> Result<(), NotTaken> {
        let mut out = self.out();
        if out.broken {
            return Err(NotTaken::Broken);
        }
        if !out.pending.is_empty() && out.pending.len() + bytes > PENDING {
            return Err(NotTaken::Full);
        }
        append(&mut out.pending);
        if !out.waiting {
            // Nearly always the socket takes it at once.
            match out.poll_flush(&mut Context::from_waker(Waker::noop())) {
                Poll::Ready(Ok(())) => {}
                Poll::Pending => {
                    out.waiting = true;
                    self.more.notify_one();
                }
                Poll::Ready(Err(_)) => {
                    // The task tells of it.
                    out.broken = true;
                    self.more.notify_one();
                    return Err(NotTaken::Broken);
                }
            }
        }
        Ok(())
    }

    /// Writes what the socket did not take at once, until the connection ends.
    async fn run(self: Arc<Self>, broken: CancellationToken) {
        let writing = async {
            loop {
                self.more.notified().await;
                let written = std::future::poll_fn(|cx| {
                    let mut out = self.out();
                    if out.broken {
                        return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
                    }
                    let written = ready!(out.poll_flush(cx));
                    out.waiting = false;
                    Poll::Ready(written)
                });
                if written.await.is_err() {
                    return;
                }
                self.room.notify_waiters();
            }
        };
        tokio::select! {
            () = writing => broken.cancel(),
            () = broken.cancelled() => {}
        }
        self.out().broken = true;
        self.room.notify_waiters();
    }

    fn out(&self) -> MutexGuard<'_, Out> {
        self.out.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Out {
    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.pending.is_empty() {
            let written = ready!(Pin::new(&mut self.socket).poll_write(cx, &self.pending))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.pending.advance(written);
        }
        Pin::new(&mut self.socket).poll_flush(cx)
    }
}

/// `SPUBLISH channel message`, as a request is written
/// ([RESP](https://redis.io/docs/latest/develop/reference/protocol-spec/)): one for each message, so in one piece and in place.
fn append_publish(pending: &mut BytesMut, channel: &str, message: &[u8]) {
    const AROUND: usize = 64;
    pending.reserve(channel.len() + message.len() + AROUND);
    let (channel_bytes, message_bytes) = (channel.len(), message.len());
    // There is always room in memory.
    let _ = write!(pending, "*3\r\n$8\r\nSPUBLISH\r\n${channel_bytes}\r\n{channel}\r\n${message_bytes}\r\n");
    pending.extend_from_slice(message);
    pending.extend_from_slice(b"\r\n");
}

/// What the crate holds.
struct Both {
    incoming: ReadHalf<Box<dyn Io>>,
    outgoing: Arc<Publisher>,
}

impl AsyncRead for Both {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut tokio::io::ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.incoming).poll_read(cx, buf)
    }
}

impl AsyncWrite for Both {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        // The greeting: a few short requests.
        Poll::Ready(self.outgoing.write_whole(buf).map(|()| buf.len()).map_err(|_| io::ErrorKind::BrokenPipe.into()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.outgoing.out().socket).poll_shutdown(cx)
    }
}

async fn connect(primary: &Primary) -> Result<Box<dyn Io>, RedisError> {
    match primary.client.get_connection_info().addr() {
        ConnectionAddr::Tcp(host, port) => Ok(Box::new(connect_tcp(host, *port).await?)),
        ConnectionAddr::TcpTls { host, port, .. } => {
            let config = primary.tls.clone().ok_or((ErrorKind::InvalidClientConfig, "no TLS"))?;
            let name = ServerName::try_from(host.clone())
                .map_err(|_| (ErrorKind::InvalidClientConfig, "the host is no name for TLS"))?;
            let tcp = connect_tcp(host, *port).await?;
            Ok(Box::new(TlsConnector::from(config).connect(name, tcp).await?))
        }
        _ => Err((ErrorKind::InvalidClientConfig, "Redis is reached by TCP").into()),
    }
}

async fn connect_tcp(host: &str, port: u16) -> io::Result<TcpStream> {
    let stream = TcpStream::connect((host, port)).await?;
    stream.set_nodelay(true)?;
    socket2::SockRef::from(&stream).set_tcp_user_timeout(Some(UNACKNOWLEDGED))?;
    Ok(stream)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_published_in_the_words_of_the_crate() {
        let mut pending = BytesMut::new();
        for message in [&b""[..], b"\r\n\0", &vec![0xff; 70_000]] {
            append_publish(&mut pending, "duet:{n\u{e9}}:bus", message);
            let words = redis::cmd("SPUBLISH").arg("duet:{n\u{e9}}:bus").arg(message).get_packed_command();
            assert_eq!(pending.split(), words);
        }
    }
}
