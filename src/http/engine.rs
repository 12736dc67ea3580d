//! `/socket.io/`: the door to the Engine.IO server (<https://socket.io/docs/v4/engine-io-protocol/>).
//!
//! The library keeps each session's first request for the session's whole life, and runs a WebSocket over whatever the
//! HTTP library hands it. Here a session gets a request of a few words instead of its client's own, with its
//! [`Flow`] in it, and a WebSocket runs straight over duet's [`Wire`]. Polling requests are counted into their session's
//! flow on the way out, and wait for it on the way in; those of old clients are put into words by [`eio3`].

use std::{
    convert::Infallible,
    future::poll_fn,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use axum::{
    body::Body,
    extract::{Request, State},
    response::{IntoResponse, Response},
};
use bytes::{Bytes, BytesMut};
use futures_util::stream;
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri,
    header::{
        CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, ORIGIN, RETRY_AFTER, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY,
        SEC_WEBSOCKET_VERSION, UPGRADE, X_CONTENT_TYPE_OPTIONS,
    },
};
use http_body::Body as _;
use http_body_util::BodyExt as _;
use hyper::service::Service as _;
use hyper_util::rt::TokioIo;
use percent_encoding::percent_decode_str;
use prometheus::IntGauge;
use socketioxide::service::SocketIoService;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use super::eio3;
use crate::{
    adapter::Switchboard,
    admission::{Admission, token::TOKEN_BYTES},
    config::{Networks, Origins},
    id::Sid,
    lifecycle::Lifecycle,
    limits::Limiter,
    metrics::Limit,
    protocol::{Code, Refusal},
    transport::{
        flow::{Flow, Flows, OldPolling},
        greeting, proxy,
        visitor::{Peer, Visitor},
        wire::Wire,
    },
};

/// How the library and its clients call a payload of octets, to the letter. Everything else is text.
const OCTETS: HeaderValue = HeaderValue::from_static("application/octet-stream");
const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=UTF-8");

/// Between two packets of a payload, but for old clients.
const SEPARATOR: u8 = 0x1e;

/// Names the session that a polling handshake opened, for a balancer: the requests of a session are for one node.
const SESSION: HeaderName = HeaderName::from_static("duet-session");

/// The library's service, with duet's adapter.
pub type Service = SocketIoService<engineioxide::service::NotFoundService, Switchboard>;

/// The Engine.IO server, and what duet keeps of its sessions.
pub struct Engine {
    /// The library's service.
    pub service: Service,
    /// Where polling requests find their session's flow.
    pub flows: Arc<Flows>,
    /// Open WebSockets.
    pub websockets: IntGauge,
    /// Until an upgrade is done.
    pub handshake: Duration,
    /// Until a request's body is there.
    pub request: Duration,
    /// Whether handshakes need a token.
    pub admission: Arc<Admission>,
    /// Ends the handshakes under way.
    pub lifecycle: Lifecycle,
    /// How many may come in.
    pub limiter: Arc<Limiter>,
    /// Whose word on who the client is is believed.
    pub trusted: Networks,
    /// Whose pages may come in.
    pub origins: Origins,
    /// Whether it was said that somebody might be a proxy: once is enough.
    pub told_of_proxy: AtomicBool,
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine").finish_non_exhaustive()
    }
}

/// What a request's query says, of what matters here.
#[derive(Debug, PartialEq, Eq, Default)]
pub struct Query {
    eio3: bool,
    websocket: bool,
    base64: bool,
    sid: Option<Sid>,
}

impl Query {
    /// None when it is not one the library would take: then the library is to say so.
    #[must_use]
    pub fn parse(query: Option<&str>) -> Option<Self> {
        let value = |key: &str| query?.split('&').find_map(|pair| pair.strip_prefix(key)?.strip_prefix('='));
        // The library does not look beyond a second `=` in these two: what it would take must not pass by here.
        let word = |key: &str| value(key)?.split('=').next();
        Some(Self {
            eio3: match word("EIO")? {
                "3" => true,
                "4" => false,
                _ => return None,
            },
            websocket: match word("transport")? {
                "websocket" => true,
                "polling" => false,
                _ => return None,
            },
            base64: matches!(value("b64"), Some("1" | "true")),
            sid: match value("sid") {
                Some(sid) => Some(sid.parse().ok()?),
                None => None,
            },
        })
    }

    /// The session that it names.
    #[must_use]
    pub fn sid(&self) -> Option<Sid> {
        self.sid
    }

    /// Of an old client a new session is its CONNECT.
    fn greet(&self, flow: &Flow) {
        if self.eio3 {
            flow.greeted();
        }
    }

    /// The same, but for the session, in no memory of its own.
    #[must_use]
    pub fn uri(&self) -> Uri {
        Uri::from_static(match (self.eio3, self.websocket, self.base64) {
            (false, true, _) => "/socket.io/?EIO=4&transport=websocket",
            (true, true, _) => "/socket.io/?EIO=3&transport=websocket",
            (false, false, _) => "/socket.io/?EIO=4&transport=polling",
            (true, false, false) => "/socket.io/?EIO=3&transport=polling",
            (true, false, true) => "/socket.io/?EIO=3&transport=polling&b64=1",
        })
    }
}

/// Refuses a request to `/socket.io/` or `/ice-servers` that a page of an origin sends that is not let in, be it for a WebSocket, a poll, or to
/// ask beforehand (a CORS preflight). Only browsers send an origin; who sends none is no page at all.
pub(super) fn stranger<B>(engine: &Engine, request: &http::Request<B>) -> Option<Response> {
    let path = request.uri().path();
    if engine.origins.is_any() || !(is_ours(path) || path == "/ice-servers") {
        return None;
    }
    let origin = request.headers().get(ORIGIN)?;
    (!engine.origins.allow(origin.as_bytes())).then(|| {
        let refusal = Refusal::new(
            Code::OriginNotAllowed,
            "pages of this origin may not use this server; server.allowed_origins names those that may",
        );
        turned_away(StatusCode::FORBIDDEN, &refusal, None)
    })
}

fn is_ours(path: &str) -> bool {
    matches!(path, "/socket.io/" | "/socket.io")
}

/// Answers a request that asks for a WebSocket of `/socket.io/`, and tells how long that answer has to wait; none for any
/// other.
pub(super) fn websocket<B>(engine: &Arc<Engine>, request: &mut http::Request<B>) -> Option<(Response, Duration)> {
    if *request.method() != Method::GET || !is_ours(request.uri().path()) {
        return None;
    }
    let query = Query::parse(request.uri().query()).filter(|query| query.websocket)?;
    if query.sid.is_none() && engine.lifecycle.is_draining() {
        return Some((draining(), Duration::ZERO));
    }
    Some(upgrade(engine, &query, request).unwrap_or_else(|refused| (*refused, Duration::ZERO)))
}

/// Any other request to `/socket.io/`.
pub(super) async fn serve(State(engine): State<Arc<Engine>>, request: Request) -> Response {
    let Some(query) = Query::parse(request.uri().query()) else {
        return engine.call(request).await;
    };
    match (*request.method() == Method::GET, query.websocket, query.sid) {
        (true, false, None) if engine.lifecycle.is_draining() => draining(),
        (true, false, None) => {
            let (flow, delay) = match admit(&engine, &request) {
                Ok(admitted) => admitted,
                Err(refused) => return *refused,
            };
            if !delay.is_zero() {
                tokio::time::sleep(delay).await;
            }
            let mut handshake = Request::new(Body::empty());
            *handshake.uri_mut() = query.uri();
            handshake.extensions_mut().insert(Arc::clone(&flow));
            query.greet(&flow);
            let response = engine.call(handshake).await;
            opened(&engine, &flow, &query, response).await
        }
        (true, false, Some(sid)) => poll(&engine, query.eio3, engine.flows.get(sid), request).await,
        (false, false, Some(sid)) => {
            let flow = engine.flows.get(sid);
            if let Some(flow) = &flow {
                if flow.is_turned_away() {
                    return unknown_session();
                }
                // The library ends a session that was not let in by then.
                let patience = tokio::time::timeout(engine.handshake, flow.resumed());
                if flow.awaits_answer() && patience.await.is_err() && flow.awaits_answer() {
                    return unknown_session();
                }
                // The client sends its next request when this one is answered.
                flow.resumed().await;
            }
            let answer = async {
                let request = match flow {
                    _ if query.eio3 => old_words(flow.as_deref(), request).await,
                    Some(flow) if !flow.is_welcome() => first_words(flow, request),
                    _ => request,
                };
                engine.call(request).await
            };
            match tokio::time::timeout(engine.request, answer).await {
                Ok(response) => response,
                Err(_) => StatusCode::REQUEST_TIMEOUT.into_response(),
            }
        }
        _ => engine.call(request).await,
    }
}

impl Engine {
    async fn call(&self, request: Request) -> Response {
        match self.service.call(request).await {
            Ok(response) => response.map(Body::new),
            Err(never) => match never {},
        }
    }
}

/// A session opened by polling: its flow is to be found before anything else of the session comes, be it its first poll or
/// its WebSocket, which may both come sooner than the library connects its socket.
async fn opened(engine: &Engine, flow: &Arc<Flow>, query: &Query, response: Response) -> Response {
    let (mut parts, body) = response.into_parts();
    // The body is there as a whole: neither this nor any of the library's waits.
    let Ok(body) = body.collect().await else { return StatusCode::INTERNAL_SERVER_ERROR.into_response() };
    let body = body.to_bytes();
    if let Some(opening) = eio3::Opening::parse(&body) {
        if query.eio3 {
            let encodes_once = AtomicBool::new(false);
            flow.set_old_polling(OldPolling { base64: query.base64, max_payload: opening.max_payload, encodes_once });
        }
        engine.flows.register(opening.sid, flow);
        if let Ok(sid) = HeaderValue::from_str(opening.sid.as_str()) {
            parts.headers.insert(SESSION, sid);
        }
    } else {
        tracing::error!("the library opens sessions in other words than expected: clients that poll cannot be served");
    }
    Response::from_parts(parts, Body::from(body))
}

/// A poll: it takes what waits for the session, or waits for the first packet.
async fn poll(engine: &Engine, eio3: bool, flow: Option<Arc<Flow>>, request: Request) -> Response {
    let Some(flow) = flow else { return engine.call(request).await };
    if flow.is_turned_away() {
        return unknown_session();
    }
    let mut answer = pin!(engine.call(request));
    let mut first = true;
    let response = poll_fn(|cx| {
        let polled = answer.as_mut().poll(cx);
        if std::mem::take(&mut first) && polled.is_pending() && !flow.is_websocket() {
            flow.found_empty();
        }
        polled
    })
    .await;
    let response = match flow.refusal() {
        Some(packet) => refused(&flow, eio3, packet, response).await,
        None => response,
    };
    match flow.old_polling() {
        Some(old) if eio3 && response.status() == StatusCode::OK => old_answer(&flow, old, response).await,
        _ => {
            flow.take(usize::try_from(response.body().size_hint().lower()).unwrap_or(usize::MAX));
            response
        }
    }
}

/// The library's answer to a poll, with `packet` in the place of its own refusal of a CONNECT, if that is in it.
async fn refused(flow: &Flow, eio3: bool, packet: Bytes, response: Response) -> Response {
    let (mut parts, body) = response.into_parts();
    let Ok(body) = body.collect().await else { return StatusCode::INTERNAL_SERVER_ERROR.into_response() };
    let body = body.to_bytes();
    let Some(answer) = with_refusal(&body, eio3, &packet) else {
        // It comes with a later poll, or with the WebSocket.
        return Response::from_parts(parts, Body::from(body));
    };
    flow.refusal_said();
    parts.headers.insert(CONTENT_LENGTH, answer.len().into());
    Response::from_parts(parts, Body::from(answer))
}

/// A payload with its refusal replaced; none when it has none. Both are ASCII: a character is a byte.
fn with_refusal(body: &[u8], eio3: bool, packet: &[u8]) -> Option<Vec<u8>> {
    let mut answer = Vec::with_capacity(body.len() + packet.len());
    let (mut rest, mut found) = (body, false);
    while !rest.is_empty() {
        let (said, next) = if eio3 {
            let colon = memchr::memchr(b':', rest)?;
            let bytes: usize = std::str::from_utf8(&rest[..colon]).ok()?.parse().ok()?;
            rest[colon + 1..].split_at_checked(bytes)?
        } else {
            let end = memchr::memchr(SEPARATOR, rest).unwrap_or(rest.len());
            (&rest[..end], rest.get(end + 1..).unwrap_or_default())
        };
        let said = if said.starts_with(b"44{") && !std::mem::replace(&mut found, true) { packet } else { said };
        if eio3 {
            answer.extend_from_slice(format!("{}:", said.len()).as_bytes());
        } else if !answer.is_empty() {
            answer.push(SEPARATOR);
        }
        answer.extend_from_slice(said);
        rest = next;
    }
    found.then_some(answer)
}

/// The library's answer to a poll of an old client, as that client reads it.
async fn old_answer(flow: &Flow, old: &OldPolling, response: Response) -> Response {
    let (mut parts, body) = response.into_parts();
    let Ok(body) = body.collect().await else { return StatusCode::INTERNAL_SERVER_ERROR.into_response() };
    let body = body.to_bytes();
    let octets = parts.headers.get(CONTENT_TYPE) == Some(&OCTETS);
    let Some(answer) = eio3::answer(&body, octets, old.base64) else {
        flow.take(body.len());
        return Response::from_parts(parts, Body::from(body));
    };
    // Not the bytes that leave: escapes make them more than were queued, and what waits would seem less than it is.
    flow.take(answer.packet_bytes);
    parts.headers.insert(CONTENT_TYPE, if answer.octets { OCTETS } else { TEXT });
    parts.headers.insert(CONTENT_LENGTH, answer.body.len().into());
    Response::from_parts(parts, Body::from(answer.body))
}

/// A request of a session that is not let in yet. A CONNECT in it is answered before the library reads what follows.
fn first_words(flow: Arc<Flow>, request: Request) -> Request {
    let (parts, body) = request.into_parts();
    let words = FirstWords { flow, body, said: Bytes::new(), start: [0; 3], known: 0 };
    let pieces = stream::unfold(words, |mut words| async { words.next().await.map(|piece| (piece, words)) });
    Request::from_parts(parts, Body::from_stream(pieces))
}

/// A payload (<https://socket.io/docs/v4/engine-io-protocol/>) that is read packet by packet as long as each may be a CONNECT.
struct FirstWords {
    flow: Arc<Flow>,
    body: Body,
    /// Of the body, what is not read yet.
    said: Bytes,
    /// How the packet under way starts, as far as it is known.
    start: [u8; 3],
    known: usize,
}

impl FirstWords {
    /// The body's next piece; none at its end.
    async fn next(&mut self) -> Option<Result<Bytes, axum::Error>> {
        self.flow.resumed().await;
        while self.said.is_empty() {
            match self.body.frame().await {
                Some(Ok(frame)) => self.said = frame.into_data().unwrap_or_default(),
                Some(Err(error)) => return Some(Err(error)),
                None => {
                    // The library takes the end for that of the last packet.
                    self.end_packet();
                    return None;
                }
            }
        }
        if self.flow.is_welcome() {
            return Some(Ok(std::mem::take(&mut self.said)));
        }
        let mut at = 0;
        while at < self.said.len() {
            let byte = self.said[at];
            at += 1;
            if byte == SEPARATOR {
                if self.end_packet() {
                    break;
                }
            } else if self.known < self.start.len() {
                self.start[self.known] = byte;
                self.known += 1;
            }
        }
        Some(Ok(self.said.split_to(at)))
    }

    /// A packet is complete: whether it was a CONNECT.
    fn end_packet(&mut self) -> bool {
        let connects = greeting::is_connect(&self.start[..std::mem::take(&mut self.known)]);
        if connects {
            self.flow.greeted();
        }
        connects
    }
}

/// A request of an old client with what it says as the library reads it.
///
/// Whatever is wrong with it, the library is to answer: it knows whether there is such a session, and ends it when what
/// it says is no payload.
async fn old_words(flow: Option<&Flow>, request: Request) -> Request {
    if request.headers().get(CONTENT_TYPE) == Some(&OCTETS) {
        return request;
    }
    let (parts, mut body) = request.into_parts();
    // No old client opened such a session, so the library must not read the body as one's either.
    let Some(old) = flow.and_then(Flow::old_polling) else { return Request::from_parts(parts, Body::empty()) };
    let bound = usize::try_from(old.max_payload).unwrap_or(usize::MAX);
    let mut said = BytesMut::new();
    while said.len() <= bound {
        match body.frame().await {
            Some(Ok(frame)) => said.extend_from_slice(frame.data_ref().map_or(&[], |data| data)),
            Some(Err(_)) => return Request::from_parts(parts, Body::from(eio3::MALFORMED)),
            None => break,
        }
    }
    let said = said.freeze();
    if said.len() > bound {
        // The library has the same bound, and refuses what exceeds it unread.
        return Request::from_parts(parts, Body::from(said));
    }
    let payload = match eio3::read(&said, old.encodes_once.load(Ordering::Relaxed)) {
        eio3::Reading::Malformed => Bytes::from_static(eio3::MALFORMED),
        eio3::Reading::AsItIs => said,
        eio3::Reading::EncodedOnce => {
            old.encodes_once.store(true, Ordering::Relaxed);
            said
        }
        eio3::Reading::EncodedTwice(decoded) => decoded.into(),
    };
    Request::from_parts(parts, Body::from_stream(stream::iter(eio3::pieces(payload).map(Ok::<_, Infallible>))))
}

/// A new session is for another node: a balancer tries one at once, a client comes back.
fn draining() -> Response {
    let headers = [(CONTENT_TYPE, "application/json"), (RETRY_AFTER, "1")];
    (StatusCode::SERVICE_UNAVAILABLE, headers, r#"{"code":"draining","message":"this node is shutting down"}"#)
        .into_response()
}

fn bad_request(message: &'static str) -> Response {
    (StatusCode::BAD_REQUEST, [(CONTENT_TYPE, "application/json")], message).into_response()
}

/// A refusal in answer to a handshake.
fn turned_away(status: StatusCode, refusal: &Refusal, retry_after: Option<Duration>) -> Response {
    let answer = serde_json::json!({
        "code": refusal.code.name(),
        "message": refusal.message,
        "retryable": refusal.code.retryable(),
    });
    let headers = [
        (CONTENT_TYPE, HeaderValue::from_static("application/json")),
        (X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
    ];
    let mut response = (status, headers, answer.to_string()).into_response();
    if let Some(wait) = retry_after {
        // In whole seconds, and never too soon.
        response.headers_mut().insert(RETRY_AFTER, (wait.as_secs() + 1).into());
    }
    response
}

fn unknown_session() -> Response {
    bad_request(r#"{"code":"1","message":"Session ID unknown"}"#)
}

/// Who opens a session by this request.
fn visitor<B>(engine: &Engine, request: &http::Request<B>) -> Visitor {
    let peer = request.extensions().get::<Peer>().map(|peer| peer.0.ip());
    let token = if engine.admission.needs_token() { token_in(request.uri().query()) } else { None };
    peer.map_or_else(Visitor::default, |peer| Visitor {
        address: proxy::client(peer, request.headers(), &engine.trusted),
        token,
    })
}

/// A session for whoever sent this request: its flow, and how long the answer has to wait; or why there is none.
fn admit<B>(engine: &Engine, request: &http::Request<B>) -> Result<(Arc<Flow>, Duration), Box<Response>> {
    let visitor = visitor(engine, request);
    if request.headers().contains_key(proxy::FORWARDED)
        && request.extensions().get::<Peer>().is_some_and(|peer| !engine.trusted.contain(peer.0.ip()))
        && engine.limiter.rules().by_address()
        && !engine.told_of_proxy.swap(true, Ordering::Relaxed)
    {
        tracing::warn!(
            "somebody who is no trusted proxy sends X-Forwarded-For: if that is your balancer, name it in \
             server.trusted_proxies, or all its clients share the limits of one address"
        );
    }
    match engine.limiter.open(visitor.address, engine.limiter.now()) {
        Ok((place, delay)) => Ok((Arc::new(Flow::of(visitor, place)), delay)),
        Err(limited) => {
            let status = match limited.limit {
                Limit::Sockets => StatusCode::SERVICE_UNAVAILABLE,
                _ => StatusCode::TOO_MANY_REQUESTS,
            };
            Err(turned_away(status, &limited.refusal(), Some(limited.retry_after)).into())
        }
    }
}

/// The token of a handshake's query, for clients whose CONNECT carries none. One that is no text, or too long, is empty:
/// there is a token, and it does not hold.
pub(super) fn token_in(query: Option<&str>) -> Option<Box<str>> {
    let value = query?.split('&').find_map(|pair| pair.strip_prefix("token="))?;
    // Three characters for each byte at most.
    if value.len() > 3 * TOKEN_BYTES {
        return Some(Box::default());
    }
    let decoded = percent_decode_str(value).decode_utf8().unwrap_or_default();
    Some(if decoded.len() > TOKEN_BYTES { Box::default() } else { decoded.into() })
}

/// Checks an opening handshake (RFC 6455, section 4.2.1).
fn accept_key(headers: &HeaderMap) -> Result<HeaderValue, Box<Response>> {
    let lists = |name, token: &str| {
        headers
            .get_all(name)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .any(|value: &str| value.split(',').any(|part| part.trim().eq_ignore_ascii_case(token)))
    };
    if !lists(CONNECTION, "upgrade") || !lists(UPGRADE, "websocket") {
        return Err(bad_request(r#"{"code":3,"message":"Bad request: not a WebSocket handshake"}"#).into());
    }
    if headers.get(SEC_WEBSOCKET_VERSION).is_none_or(|version| version != "13") {
        let version = [(SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"))];
        return Err((StatusCode::UPGRADE_REQUIRED, version, "WebSocket version 13 is needed\n").into_response().into());
    }
    headers
        .get(SEC_WEBSOCKET_KEY)
        .filter(|key| key.len() == 24)
        .and_then(|key| HeaderValue::from_str(&derive_accept_key(key.as_bytes())).ok())
        .ok_or_else(|| bad_request(r#"{"code":3,"message":"Bad request: no Sec-WebSocket-Key"}"#).into())
}

/// A WebSocket: a session of its own, or the one that has been polling so far.
fn upgrade<B>(
    engine: &Arc<Engine>,
    query: &Query,
    request: &mut http::Request<B>,
) -> Result<(Response, Duration), Box<Response>> {
    let accept = accept_key(request.headers())?;
    let (flow, delay) = match query.sid {
        None => admit(engine, request)?,
        Some(sid) => (engine.flows.get(sid).ok_or_else(unknown_session)?, Duration::ZERO),
    };
    let upgraded = hyper::upgrade::on(&mut *request);
    let mut opening = http::Request::new(());
    if let Some(sid) = query.sid {
        let uri = format!("{}&sid={sid}", query.uri());
        *opening.uri_mut() = Uri::try_from(uri).map_err(|_| unknown_session())?;
    } else {
        *opening.uri_mut() = query.uri();
        opening.extensions_mut().insert(Arc::clone(&flow));
        query.greet(&flow);
    }
    // From now on, or nearly: what is still polled meanwhile counts as if it were framed, which is a few bytes off until
    // the queue is empty. Should the upgrade fail, the library ends the session.
    flow.set_websocket();
    let (engine, lifecycle) = (Arc::clone(engine), engine.lifecycle.clone());
    lifecycle.spawn(async move {
        let Ok(Ok(upgraded)) = tokio::time::timeout(engine.handshake, upgraded).await else { return };
        let Ok(parts) = upgraded.downcast::<TokioIo<Wire>>() else {
            tracing::error!("a connection that is no wire");
            return;
        };
        let mut wire = parts.io.into_inner();
        // A slice, even an empty one, would keep the HTTP library's whole read buffer.
        let lane = opening.extensions().get::<Arc<Flow>>().is_some();
        wire.carry(flow, lane, Bytes::copy_from_slice(&parts.read_buf), engine.websockets.clone());
        // The query was checked above: this only starts the session's tasks.
        let _ = engine.service.call((Box::new(wire), opening)).await;
    });
    let mut response = StatusCode::SWITCHING_PROTOCOLS.into_response();
    let headers = response.headers_mut();
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(SEC_WEBSOCKET_ACCEPT, accept);
    Ok((response, delay))
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    #[test]
    fn a_query_is_understood_or_left_to_the_library() {
        let websocket = Query { websocket: true, ..Query::default() };
        assert_eq!(Query::parse(Some("EIO=4&transport=websocket&t=abc")), Some(websocket));
        let old = Query { eio3: true, base64: true, ..Query::default() };
        assert_eq!(Query::parse(Some("t=1&b64=1&transport=polling&EIO=3")), Some(old));
        assert_eq!(
            Query::parse(Some("EIO=3=4&transport=polling=x&b64=1&EIO=4")),
            Query::parse(Some("EIO=3&b64=1&transport=polling"))
        );
        let sid = Sid::new();
        assert_eq!(Query::parse(Some(&format!("EIO=4&transport=polling&sid={sid}"))).and_then(|q| q.sid), Some(sid));
        for wrong in [
            "",
            "EIO=4",
            "EIO=5&transport=polling",
            "EIO=4&transport=carrier",
            "EIO=4&transport=polling&sid=x",
            "EIO=4&transport=polling&sid=",
        ] {
            assert_eq!(Query::parse(Some(wrong)), None, "{wrong}");
        }
        assert_eq!(Query::parse(None), None);
    }

    #[tokio::test]
    async fn what_follows_a_connect_is_read_once_that_is_answered() {
        let all = "3\u{1e}42[\"early\"]\u{1e}40\u{1e}42[\"late\"]\u{1e}40";
        for step in 1..=all.len() {
            let flow = Arc::new(Flow::default());
            let chunks: Vec<_> = all.as_bytes().chunks(step).map(|chunk| Ok::<_, Infallible>(chunk.to_vec())).collect();
            let request = Request::new(Body::from_stream(stream::iter(chunks)));
            let mut body = first_words(Arc::clone(&flow), request).into_body();
            let mut read = Vec::new();
            let mut answers = 0;
            loop {
                match body.frame().now_or_never() {
                    Some(Some(frame)) => read.extend(frame.expect("no error").into_data().expect("data")),
                    Some(None) => break,
                    None => {
                        assert!(flow.awaits_answer() && read.ends_with(b"\x1e40\x1e"), "in steps of {step}");
                        flow.answered(false);
                        answers += 1;
                    }
                }
            }
            assert_eq!((read.as_slice(), answers), (all.as_bytes(), 1), "in steps of {step}");
            assert!(flow.awaits_answer(), "the last one");
        }
    }

    #[test]
    fn a_refusal_is_replaced_wherever_it_is_in_a_payload() {
        let of = |body: &str, eio3| with_refusal(body.as_bytes(), eio3, b"44NEW").map(String::from_utf8);
        let new = |text: &str| Some(Ok(text.to_owned()));
        assert_eq!(of(r#"44{"message":"no"}"#, false), new("44NEW"));
        assert_eq!(of("2\u{1e}44{}\u{1e}6", false), new("2\u{1e}44NEW\u{1e}6"));
        assert_eq!(of("4:44{}1:3", true), new("5:44NEW1:3"));
        assert_eq!(of("1:34:44{}", true), new("1:35:44NEW"));
        for (without, eio3) in [("2", false), ("", false), ("1:3", true), ("9:44{}", true), ("44{}", true)] {
            assert_eq!(of(without, eio3), None, "{without}");
        }
    }

    #[test]
    fn a_token_is_taken_from_the_query_as_far_as_it_is_one() {
        let of = |query: &str| token_in(Some(query)).map(String::from);
        assert_eq!(token_in(None), None);
        assert_eq!(of("EIO=3&transport=polling&tokens=a"), None);
        assert_eq!(of("EIO=3&token=a.b%2Dc&token=d"), Some("a.b-c".into()));
        assert_eq!(of("token="), Some(String::new()));
        assert_eq!(of("token=%ff"), Some(String::new()));
        let most = "a".repeat(TOKEN_BYTES);
        assert_eq!(of(&format!("token={most}")), Some(most.clone()));
        assert_eq!(of(&format!("token={most}a")), Some(String::new()));
        assert_eq!(of(&format!("token={}", "a".repeat(100_000))), Some(String::new()));
    }

    #[test]
    fn only_a_websocket_handshake_is_answered_as_one() {
        let mut headers = HeaderMap::new();
        let refused = |headers: &HeaderMap| accept_key(headers).expect_err("refused").status();
        assert_eq!(refused(&headers), StatusCode::BAD_REQUEST);
        headers.insert(CONNECTION, HeaderValue::from_static("keep-alive, Upgrade"));
        headers.insert(UPGRADE, HeaderValue::from_static("WebSocket"));
        assert_eq!(refused(&headers), StatusCode::UPGRADE_REQUIRED);
        headers.insert(SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
        assert_eq!(refused(&headers), StatusCode::BAD_REQUEST);
        // The example of RFC 6455, section 1.3.
        headers.insert(SEC_WEBSOCKET_KEY, HeaderValue::from_static("dGhlIHNhbXBsZSBub25jZQ=="));
        assert_eq!(accept_key(&headers).expect("accepted"), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }
}
