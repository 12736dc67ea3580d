//! TLS of the public listener: the certificate in force, how it is replaced, the byte stream above it.
//!
//! Knows certificates and records, no requests. A new pair of files takes effect as a whole or not at all: connections made
//! before go on under the one that they began with. At most one record is ever on its way from the session to the kernel, so
//! what waits for a slow client waits above, where it is counted.

use std::{
    fs,
    hash::{BuildHasher, RandomState},
    io::{self, IoSlice},
    net::Shutdown,
    path::{Path, PathBuf},
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll, ready},
    time::{Duration, SystemTime},
};

use arc_swap::ArcSwap;
use bytes::Bytes;
use prometheus::{IntCounter, IntGauge};
use rustls::{
    ServerConfig,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    version::{TLS12, TLS13},
};
use socket2::SockRef;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf},
    net::TcpStream,
    sync::Notify,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

use super::{
    flow::Flow,
    lane::Turn,
    wire::{self, WireContext},
};

/// Plaintext of one record (RFC 8446, section 5.1).
const RECORD_BYTES: usize = 16 * 1024;
/// The first byte of every TLS connection: a handshake record.
const HANDSHAKE: u8 = 22;
/// For a client that speaks HTTP where HTTPS is spoken.
const NOT_PLAIN: &[u8] =
    b"HTTP/1.1 400 Bad Request\r\ncontent-type: text/plain; charset=utf-8\r\ncontent-length: 25\r\n\
connection: close\r\n\r\nthis port speaks https://";

/// Why a pair of files cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum BadCertificate {
    /// One of them cannot be read.
    #[error("{}: {error}", path.display())]
    Unreadable {
        /// Which.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// One of them is not what it should be.
    #[error("{}: {what}", path.display())]
    Useless {
        /// Which.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// They are of two certificates, or of a kind that is not known.
    #[error("{}: {what}", path.display())]
    Mismatch {
        /// The certificate's file.
        path: PathBuf,
        /// What is wrong with the two.
        what: String,
    },
}

/// Where the certificate and its key are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Files {
    /// The certificate and its chain (PEM), the server's own first.
    pub certificate: PathBuf,
    /// Its key (PEM).
    pub key: PathBuf,
}

/// What is counted.
#[derive(Debug, Clone)]
pub struct Counters {
    /// When the certificate in force ends, in seconds of Unix time.
    pub expiry: IntGauge,
    /// Handshakes that were finished.
    pub finished: IntCounter,
    /// Handshakes that failed, or were no handshakes.
    pub failed: IntCounter,
    /// Handshakes that took too long.
    pub late: IntCounter,
    /// Certificates that took effect after the first.
    pub replaced: IntCounter,
    /// New files that could not be used.
    pub refused: IntCounter,
}

/// A certificate that can be used, not yet in force.
pub struct Identity {
    acceptor: TlsAcceptor,
    /// Seconds of Unix time.
    ends: i64,
    /// Of the content that it was read from.
    mark: u64,
    files: Files,
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Identity").field("ends", &self.ends).finish_non_exhaustive()
    }
}

/// The certificate in force.
#[derive(Debug)]
pub struct Certificates {
    current: ArcSwap<Identity>,
    /// What the files were when they were last looked at, be it of use or not.
    seen: Mutex<u64>,
    hasher: RandomState,
    counters: Counters,
    /// Told when they may be looked at more, or less, often.
    anew: Notify,
}

impl Certificates {
    /// Reads the first pair.
    ///
    /// # Errors
    /// [`BadCertificate`] names the file.
    pub fn load(files: &Files, counters: Counters) -> Result<Self, BadCertificate> {
        let hasher = RandomState::new();
        let identity = read(files, &hasher)?;
        if identity.ends <= now() {
            tracing::warn!("the TLS certificate has expired");
        }
        counters.expiry.set(identity.ends);
        let seen = Mutex::new(identity.mark);
        Ok(Self { current: ArcSwap::from_pointee(identity), seen, hasher, counters, anew: Notify::new() })
    }

    /// Reads a pair that may take the place of the one in force; none when it is that one.
    ///
    /// # Errors
    /// [`BadCertificate`] names the file; one that has ended already is refused, too.
    pub fn prepare(&self, files: &Files) -> Result<Option<Identity>, BadCertificate> {
        let identity = read(files, &self.hasher).inspect_err(|_| self.counters.refused.inc())?;
        let current = self.current.load();
        if identity.mark == current.mark && identity.files == current.files {
            return Ok(None);
        }
        if identity.ends <= now() {
            self.counters.refused.inc();
            return Err(BadCertificate::Useless {
                path: files.certificate.clone(),
                what: "this certificate has expired".into(),
            });
        }
        Ok(Some(identity))
    }

    /// Puts a pair into force, for connections that come from here on.
    pub fn replace(&self, identity: Identity) {
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner) = identity.mark;
        self.counters.expiry.set(identity.ends);
        self.counters.replaced.inc();
        tracing::info!(days_left = (identity.ends - now()) / 86_400, "another TLS certificate is in force");
        self.current.store(Arc::new(identity));
    }

    /// Looks whether the files are others than when they were last looked at; if so, takes them or says once why not.
    pub fn look(&self) {
        let files = self.current.load().files.clone();
        let mark = match content(&files) {
            Ok((certificate, key)) => self.hasher.hash_one((certificate, key)),
            // While they are being replaced.
            Err(_) => 0,
        };
        if std::mem::replace(&mut *self.seen.lock().unwrap_or_else(PoisonError::into_inner), mark) == mark {
            return;
        }
        match self.prepare(&files) {
            Ok(Some(identity)) => self.replace(identity),
            Ok(None) => {}
            Err(error) => tracing::error!(%error, "the new TLS certificate cannot be used; the old one stays"),
        }
    }

    /// How often the files are to be looked at may have changed.
    pub fn look_anew(&self) {
        self.anew.notify_one();
    }

    /// Returns after the next [`Certificates::look_anew`].
    pub async fn looks_anew(&self) {
        self.anew.notified().await;
    }

    /// Does a handshake on `stream`, of which `ahead` was read already; none when it is not finished within `patience`.
    pub(super) async fn accept(
        &self,
        stream: Arc<TcpStream>,
        ahead: Bytes,
        context: Arc<WireContext>,
        patience: Duration,
    ) -> Option<Box<Session>> {
        let mut socket = Socket { stream, ahead, context, sent: 0 };
        let handshake = async {
            if socket.first().await? != HANDSHAKE {
                // What is not read when a connection is closed makes the kernel take back the answer.
                let _ = socket.read(&mut [0; 2048]).await?;
                socket.write_all(NOT_PLAIN).await?;
                socket.shutdown().await?;
                return Err(io::ErrorKind::InvalidData.into());
            }
            let acceptor = self.current.load().acceptor.clone();
            acceptor.accept(socket).await
        };
        match tokio::time::timeout(patience, handshake).await {
            Ok(Ok(stream)) => {
                self.counters.finished.inc();
                Some(Box::new(Session { stream, owed: 0 }))
            }
            Ok(Err(error)) => {
                self.counters.failed.inc();
                tracing::debug!(%error, "TLS handshake");
                None
            }
            Err(_) => {
                self.counters.late.inc();
                None
            }
        }
    }
}

fn now() -> i64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

fn content(files: &Files) -> Result<(Vec<u8>, Vec<u8>), BadCertificate> {
    let read =
        |path: &Path| fs::read(path).map_err(|error| BadCertificate::Unreadable { path: path.to_owned(), error });
    Ok((read(&files.certificate)?, read(&files.key)?))
}

/// Checks all that can be checked: both are PEM, the key is the certificate's, the certificate says when it ends.
///
/// # Errors
/// [`BadCertificate`] names the file.
pub fn check(files: &Files) -> Result<(), BadCertificate> {
    read(files, &RandomState::new()).map(drop)
}

fn read(files: &Files, hasher: &RandomState) -> Result<Identity, BadCertificate> {
    let (certificate, key) = content(files)?;
    let useless = |path: &Path, what: String| BadCertificate::Useless { path: path.to_owned(), what };
    let chain = CertificateDer::pem_slice_iter(&certificate)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| useless(&files.certificate, format!("no PEM: {error}")))?;
    let own = chain.first().ok_or_else(|| useless(&files.certificate, "no certificate (PEM) in it".into()))?;
    let (_, parsed) = x509_parser::parse_x509_certificate(own)
        .map_err(|error| useless(&files.certificate, format!("no certificate: {error}")))?;
    let ends = parsed.validity().not_after.timestamp();
    // What the library says of a key may quote it.
    let private =
        PrivateKeyDer::from_pem_slice(&key).map_err(|_| useless(&files.key, "no private key (PEM) in it".into()))?;
    let mismatch =
        |error: rustls::Error| BadCertificate::Mismatch { path: files.certificate.clone(), what: error.to_string() };
    let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(&[&TLS13, &TLS12])
        .map_err(mismatch)?
        .with_no_client_auth()
        .with_single_cert(chain.clone(), private)
        .map_err(mismatch)?;
    // Nothing here speaks HTTP/2, and no WebSocket of any client needs it.
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    // A client that comes back brings what is needed; nothing is kept for it here.
    config.ticketer = ring::Ticketer::new().map_err(mismatch)?;
    Ok(Identity {
        acceptor: TlsAcceptor::from(Arc::new(config)),
        ends,
        mark: hasher.hash_one((certificate, key)),
        files: files.clone(),
    })
}

/// The TCP stream below a session, counted.
#[derive(Debug)]
struct Socket {
    stream: Arc<TcpStream>,
    /// Bytes that were read before.
    ahead: Bytes,
    context: Arc<WireContext>,
    /// Bytes that the kernel has taken, ever.
    sent: u64,
}

impl Socket {
    /// The first byte that comes; it stays where it is.
    async fn first(&self) -> io::Result<u8> {
        let mut first = [0];
        match self.ahead.first() {
            Some(first) => Ok(*first),
            None if self.stream.peek(&mut first).await? == 0 => Err(io::ErrorKind::UnexpectedEof.into()),
            None => Ok(first[0]),
        }
    }

    fn written(&mut self, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if let Poll::Ready(Ok(bytes)) = written {
            self.sent += bytes as u64;
            self.context.sent.inc_by(bytes as u64);
        }
        written
    }
}

impl AsyncRead for Socket {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if !self.ahead.is_empty() {
            let bytes = self.ahead.len().min(buf.remaining());
            buf.put_slice(&self.ahead.split_to(bytes));
            return Poll::Ready(Ok(()));
        }
        let bytes = ready!(wire::receive(&self.stream, cx, buf.initialize_unfilled()))?;
        buf.advance(bytes);
        self.context.received.inc_by(bytes as u64);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Socket {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = wire::write(&self.stream, cx, |stream| stream.try_write(buf));
        self.written(written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = wire::write(&self.stream, cx, |stream| stream.try_write_vectored(bufs));
        self.written(written)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(SockRef::from(&*self.stream).shutdown(Shutdown::Write))
    }
}

/// One connection's session.
#[derive(Debug)]
pub(super) struct Session {
    stream: TlsStream<Socket>,
    /// Bytes of duet's own that the session has and the kernel has not.
    owed: usize,
}

impl Session {
    /// Bytes that the kernel has taken, ever.
    pub(super) fn sent(&self) -> u64 {
        self.stream.get_ref().0.sent
    }

    /// Reads what is there, as far as `buffer` goes.
    pub(super) fn receive(&mut self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        let mut buffer = ReadBuf::new(buffer);
        match ready!(Pin::new(&mut self.stream).poll_read(cx, &mut buffer)) {
            Ok(()) => Poll::Ready(Ok(buffer.filled().len())),
            // The client went without a word of TLS: an end like any other, above.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Poll::Ready(Ok(0)),
            Err(error) => Poll::Ready(Err(error)),
        }
    }

    /// Takes at most one record of `buffer`, when all before it is the kernel's.
    pub(super) fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        flow: Option<&Flow>,
        buffer: &[u8],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_flush(cx, flow))?;
        let mut record = buffer.len().min(RECORD_BYTES);
        while let Some(flow) = flow {
            let turn = flow.lane().turn(buffer);
            match turn {
                Turn::Library(bytes) => {
                    record = bytes.min(RECORD_BYTES);
                    break;
                }
                Turn::Refusal(packet) => {
                    let bytes = ready!(Pin::new(&mut self.stream).poll_write(cx, &packet))?;
                    if let Some(bytes) = flow.wrote_refusal(&mut flow.lane(), bytes) {
                        return Poll::Ready(Ok(bytes));
                    }
                }
            }
        }
        let bytes = ready!(Pin::new(&mut self.stream).poll_write(cx, &buffer[..record]))?;
        if let Some(flow) = flow {
            self.owed += flow.lane().wrote(buffer, bytes);
        }
        self.pay(flow);
        Poll::Ready(Ok(bytes))
    }

    /// Hands the kernel all that the session has.
    pub(super) fn poll_flush(&mut self, cx: &mut Context<'_>, flow: Option<&Flow>) -> Poll<io::Result<()>> {
        if self.stream.get_ref().1.wants_write() {
            ready!(Pin::new(&mut self.stream).poll_flush(cx))?;
        }
        self.pay(flow);
        Poll::Ready(Ok(()))
    }

    pub(super) fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    /// Counts what the kernel has by now.
    fn pay(&mut self, flow: Option<&Flow>) {
        if self.owed > 0
            && !self.stream.get_ref().1.wants_write()
            && let Some(flow) = flow
        {
            flow.take(std::mem::take(&mut self.owed));
        }
    }
}

impl Drop for Session {
    /// Tells the client that this is an end and no cut (RFC 8446, section 6.1), if the kernel has room for it.
    fn drop(&mut self) {
        /// Never waits.
        struct AtOnce<'a>(&'a TcpStream);
        impl io::Write for AtOnce<'_> {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                self.0.try_write(bytes)
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let (socket, session) = self.stream.get_mut();
        session.send_close_notify();
        while session.wants_write() && session.write_tls(&mut AtOnce(&socket.stream)).is_ok_and(|bytes| bytes > 0) {}
    }
}
