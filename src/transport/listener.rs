//! The accept loop of one address: socket options, who may come in, header time-outs, an orderly end.

use std::{
    collections::VecDeque,
    convert::Infallible,
    io,
    net::{SocketAddr, TcpListener as StdListener},
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use axum::response::Response;
use http::Request;
use hyper::{body::Incoming, service::Service as _};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use prometheus::IntGauge;
use socket2::{Domain, Protocol, Socket, TcpKeepalive, Type};
use tokio::{
    io::AsyncReadExt,
    net::{TcpListener, TcpStream},
    sync::Notify,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    proxy::{self, Header},
    tls::Certificates,
    visitor::Peer,
    wire::{Wire, WireContext},
};
use crate::{
    config::Networks,
    limits::{ConnectionPlace, Limiter},
    metrics::{Limit, LimitedBy},
};

/// Bytes the kernel may hold that it has not sent yet. What is more waits in duet, where it is counted.
const UNSENT_BYTES: u32 = 128 * 1024;
/// The kernel counts keepalive in whole seconds.
const SHORTEST_KEEPALIVE: Duration = Duration::from_secs(1);
/// The largest request head that is read.
const HEAD_BYTES: usize = 16 * 1024;

/// So many connections are looked at for one that can make room.
const LOOKED_AT: usize = 64;

/// Who may come in where strangers do.
#[derive(Debug)]
pub struct Door {
    /// How many.
    pub limiter: Arc<Limiter>,
    /// Whose word on who the client is is believed.
    pub trusted: Networks,
    /// Whether those begin each connection with that word.
    pub announced: bool,
    /// What connections are secured with, after that word; none where they are not.
    pub tls: Option<Arc<Certificates>>,
}

impl Door {
    /// A place for a connection of `peer`, if it gets one. When the node has no more room, the one of `guests` that has been
    /// silent for longest makes way: whoever is in earnest has sent his request long before a crowd gets round to him.
    fn enter(&self, peer: SocketAddr, guests: &mut Guests) -> Option<ConnectionPlace> {
        // Of a proxy's connections there are as many as it has clients.
        let address = Some(peer.ip()).filter(|address| !self.trusted.contain(*address));
        let closed = |limit| self.limiter.count(limit, LimitedBy::Close);
        let (place, crowded) = self.limiter.connect(address, self.limiter.now()).map_err(closed).ok()?;
        if crowded {
            closed(Limit::Connections);
            let oldest = guests.oldest_silent()?;
            oldest.leave.notify_one();
        }
        Some(place)
    }
}

/// A connection that is no WebSocket.
#[derive(Debug, Default)]
struct Guest {
    /// A request of it is being served.
    served: AtomicBool,
    /// It has to make room.
    leave: Notify,
}

/// Connections in the order in which they came, or were last found being served.
#[derive(Debug, Default)]
struct Guests(VecDeque<Weak<Guest>>);

impl Guests {
    /// One more, of `open` in all.
    fn welcome(&mut self, open: usize) -> Arc<Guest> {
        while self.0.front().is_some_and(|guest| guest.strong_count() == 0) {
            self.0.pop_front();
        }
        if self.0.len() > 2 * open + LOOKED_AT {
            self.0.retain(|guest| guest.strong_count() > 0);
        }
        let guest = Arc::new(Guest::default());
        self.0.push_back(Arc::downgrade(&guest));
        guest
    }

    /// The one that came first of those that are silent.
    fn oldest_silent(&mut self) -> Option<Arc<Guest>> {
        for _ in 0..LOOKED_AT.min(self.0.len()) {
            let known = self.0.pop_front()?;
            let Some(guest) = known.upgrade() else { continue };
            if !guest.served.load(Ordering::Relaxed) {
                return Some(guest);
            }
            self.0.push_back(known);
        }
        None
    }
}

/// How a listener treats its connections.
#[derive(Clone, Copy, Debug)]
pub struct ListenOptions {
    /// Connections the kernel may hold before they are accepted.
    pub backlog: u32,
    /// Until a request's head is there, also between two requests of a connection.
    pub header_timeout: Duration,
    /// `TCP_USER_TIMEOUT` (RFC 5482): how long sent bytes may stay unacknowledged, or a zero window may last.
    pub user_timeout: Duration,
    /// When an idle connection is first probed; it is given up after three lost probes.
    pub keepalive: Duration,
}

/// Binds `address`.
///
/// Every option is set on the listening socket: Linux hands them on to each accepted one, at no system call.
///
/// # Errors
/// What the system says, for example that the address is in use.
pub fn bind(address: SocketAddr, options: ListenOptions) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_keepalive(
        &TcpKeepalive::new()
            .with_time(options.keepalive.max(SHORTEST_KEEPALIVE))
            .with_interval((options.keepalive / 3).max(SHORTEST_KEEPALIVE))
            .with_retries(3),
    )?;
    socket.set_tcp_user_timeout(Some(options.user_timeout))?;
    socket.set_tcp_notsent_lowat(UNSENT_BYTES)?;
    socket.bind(&address.into())?;
    socket.listen(i32::try_from(options.backlog).unwrap_or(i32::MAX))?;
    TcpListener::from_std(StdListener::from(socket))
}

/// Serves `service` on `listener` until `stop`; then no more is accepted, requests under way are finished, and idle
/// connections are closed. Connections that became WebSockets are no concern of this function any more.
pub async fn serve<S>(
    listener: TcpListener,
    options: ListenOptions,
    door: Option<Arc<Door>>,
    service: S,
    context: Arc<WireContext>,
    open: IntGauge,
    stop: CancellationToken,
) where
    S: tower::Service<Request<Incoming>, Response = Response, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send + 'static,
{
    let connections = TaskTracker::new();
    let mut accept_fails = false;
    let mut guests = Guests::default();
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => {
                accept_fails = false;
                accepted
            }
            // The client gave up in the backlog.
            Err(error) if matches!(error.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset) => {
                continue;
            }
            Err(error) => {
                // Out of files: the backlog keeps the others until a connection ends. Nothing tells when that is.
                if !std::mem::replace(&mut accept_fails, true) {
                    tracing::error!(%error, "accept failed; new connections wait");
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let place = match &door {
            Some(door) => match door.enter(peer, &mut guests) {
                Some(place) => Some(place),
                None => continue,
            },
            None => None,
        };
        open.inc();
        let guest = guests.welcome(usize::try_from(open.get()).unwrap_or(0));
        let connection =
            Connection { stream, peer, options, door: door.clone(), place, guest, context: Arc::clone(&context) };
        let (service, open, stop) = (service.clone(), open.clone(), stop.clone());
        connections.spawn(async move {
            if let Err(error) = connection.serve(service, stop).await {
                tracing::debug!(%error, "connection ended");
            }
            open.dec();
        });
    }
    drop(listener);
    connections.close();
    connections.wait().await;
}

/// A connection, until it ends or becomes a WebSocket.
struct Connection {
    stream: TcpStream,
    peer: SocketAddr,
    options: ListenOptions,
    door: Option<Arc<Door>>,
    place: Option<ConnectionPlace>,
    guest: Arc<Guest>,
    context: Arc<WireContext>,
}

impl Connection {
    async fn serve<S>(self, service: S, stop: CancellationToken) -> anyhow::Result<()>
    where
        S: tower::Service<Request<Incoming>, Response = Response, Error = Infallible> + Clone + Send + 'static,
        S::Future: Send + 'static,
    {
        let Self { stream, mut peer, options, door, mut place, guest, context } = self;
        let mut wire = Wire::new(stream, context);
        if let Some(door) = door.as_deref().filter(|door| door.announced && door.trusted.contain(peer.ip())) {
            let announced = tokio::time::timeout(options.header_timeout, announced(&mut wire));
            let announced = tokio::select! {
                announced = announced => announced??,
                () = guest.leave.notified() => return Ok(()),
                () = stop.cancelled() => return Ok(()),
            };
            if let (Some(client), Some(place)) = (announced, &mut place) {
                peer = client;
                if let Err(limit) = place.turns_out(client.ip(), door.limiter.now()) {
                    door.limiter.count(limit, LimitedBy::Close);
                    return Ok(());
                }
            }
        }
        if let Some(tls) = door.as_deref().and_then(|door| door.tls.as_deref()) {
            // Boxed: what comes after it would otherwise take as much memory as it does.
            let secured = Box::pin(wire.secure(tls, options.header_timeout));
            let secured = tokio::select! {
                secured = secured => secured,
                () = guest.leave.notified() => false,
                () = stop.cancelled() => false,
            };
            if !secured {
                return Ok(());
            }
        }
        let routes = TowerToHyperService::new(service);
        let host = Arc::clone(&guest);
        let service = hyper::service::service_fn(move |mut request: Request<Incoming>| {
            request.extensions_mut().insert(Peer(peer));
            host.served.store(true, Ordering::Relaxed);
            let (answer, host) = (routes.call(request), Arc::clone(&host));
            async move {
                let answer = answer.await;
                host.served.store(false, Ordering::Relaxed);
                answer
            }
        });
        let connection = hyper::server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(options.header_timeout)
            .max_buf_size(HEAD_BYTES)
            .serve_connection(TokioIo::new(wire), service)
            .with_upgrades();
        let mut connection = std::pin::pin!(connection);
        tokio::select! {
            served = connection.as_mut() => served?,
            () = guest.leave.notified() => {}
            () = stop.cancelled() => {
                connection.as_mut().graceful_shutdown();
                connection.await?;
            }
        }
        Ok(())
    }
}

/// Reads the header of the PROXY protocol: who is behind the proxy, if it says so.
async fn announced(wire: &mut Wire) -> io::Result<Option<SocketAddr>> {
    let mut start = Vec::new();
    loop {
        match proxy::header(&start) {
            Header::Partial if start.len() < proxy::HEADER_BYTES => {
                if wire.read_buf(&mut start).await? == 0 {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
            }
            Header::Whole(bytes, client) => {
                wire.put_back(&start[bytes..]);
                return Ok(client);
            }
            Header::Partial | Header::Malformed => {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "not the PROXY protocol"));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use socket2::SockRef;

    use super::*;

    #[tokio::test]
    async fn accepted_connections_inherit_every_option() {
        let options = ListenOptions {
            backlog: 16,
            header_timeout: Duration::from_secs(1),
            user_timeout: Duration::from_secs(15),
            keepalive: Duration::from_secs(9),
        };
        let listener = bind("127.0.0.1:0".parse().expect("an address"), options).expect("bound");
        let client = tokio::net::TcpStream::connect(listener.local_addr().expect("bound")).await.expect("connected");
        let (accepted, _) = listener.accept().await.expect("accepted");
        drop(client);
        let socket = SockRef::from(&accepted);
        assert!(socket.tcp_nodelay().expect("an option"));
        assert!(socket.keepalive().expect("an option"));
        assert_eq!(socket.tcp_user_timeout().expect("an option"), Some(Duration::from_secs(15)));
        assert_eq!(socket.tcp_notsent_lowat().expect("an option"), UNSENT_BYTES);
    }

    #[test]
    fn the_longest_silent_makes_room_and_those_that_are_served_stay() {
        let mut guests = Guests::default();
        let all: Vec<_> = (0..4).map(|_| guests.welcome(4)).collect();
        all[0].served.store(true, Ordering::Relaxed);
        assert!(guests.oldest_silent().is_some_and(|guest| Arc::ptr_eq(&guest, &all[1])));
        assert!(guests.oldest_silent().is_some_and(|guest| Arc::ptr_eq(&guest, &all[2])));
        all[3].served.store(true, Ordering::Relaxed);
        assert!(guests.oldest_silent().is_none());
        all[0].served.store(false, Ordering::Relaxed);
        assert!(guests.oldest_silent().is_some_and(|guest| Arc::ptr_eq(&guest, &all[0])));
    }

    #[test]
    fn connections_that_are_gone_take_no_memory() {
        let mut guests = Guests::default();
        let _stays = guests.welcome(1);
        for _ in 0..10_000 {
            drop(guests.welcome(2));
        }
        assert!(guests.0.len() <= 100, "{}", guests.0.len());
    }
}
