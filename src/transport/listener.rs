//! The accept loop of one address: socket options, header time-outs, an orderly end.

use std::{
    convert::Infallible,
    io,
    net::{SocketAddr, TcpListener as StdListener},
    sync::Arc,
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
use tokio::net::TcpListener;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    visitor::Peer,
    wire::{Wire, WireContext},
};

/// Bytes the kernel may hold that it has not sent yet. What is more waits in duet, where it is counted.
const UNSENT_BYTES: u32 = 128 * 1024;
/// The kernel counts keepalive in whole seconds.
const SHORTEST_KEEPALIVE: Duration = Duration::from_secs(1);
/// The largest request head that is read.
const HEAD_BYTES: usize = 16 * 1024;

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
        open.inc();
        let routes = TowerToHyperService::new(service.clone());
        let service = hyper::service::service_fn(move |mut request: Request<Incoming>| {
            request.extensions_mut().insert(Peer(peer));
            routes.call(request)
        });
        let wire = TokioIo::new(Wire::new(stream, Arc::clone(&context)));
        let connection = hyper::server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(options.header_timeout)
            .max_buf_size(HEAD_BYTES)
            .serve_connection(wire, service)
            .with_upgrades();
        let (open, stop) = (open.clone(), stop.clone());
        connections.spawn(async move {
            let mut connection = std::pin::pin!(connection);
            let served = tokio::select! {
                served = connection.as_mut() => served,
                () = stop.cancelled() => {
                    connection.as_mut().graceful_shutdown();
                    connection.await
                }
            };
            if let Err(error) = served {
                tracing::debug!(%error, "connection ended");
            }
            open.dec();
        });
    }
    drop(listener);
    connections.close();
    connections.wait().await;
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
}
