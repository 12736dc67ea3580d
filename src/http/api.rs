//! The admin API, at `/api/v1` of the admin listener, for who bears the token; `api/openapi.json` describes it, and a test
//! holds that document against the routes here.
//!
//! Whichever node is asked, the answer is of the whole cluster, but where a route says otherwise. What goes wrong is told as
//! a problem (RFC 9457) with a code of a closed list. Nothing of a call, no room and no peer gets into a log.

use std::{sync::Arc, time::Duration};

use arc_swap::ArcSwapOption;
use axum::{
    Json, Router,
    body::Bytes,
    extract::{DefaultBodyLimit, Path, Request, State, rejection::BytesRejection},
    middleware::{Next, from_fn_with_state},
    response::{IntoResponse, Response},
    routing::{MethodRouter, delete, get, post, put},
};
use http::{
    HeaderMap, Method, StatusCode,
    header::{AUTHORIZATION, CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE},
};
use serde::{Deserialize, Serialize};
use subtle::ConstantTimeEq as _;
use tokio::sync::Semaphore;

use super::admin::Admin;
use crate::{
    config,
    id::{PeerId, RoomName},
    signaling::operator::{NodeView, Wish},
    telemetry,
};

/// Where the routes below are.
pub const PREFIX: &str = "/api/v1";
/// The document that describes them (`OpenAPI` 3.1).
pub const DOCUMENT: &str = include_str!("api/openapi.json");

/// Requests served at a time.
const AT_A_TIME: usize = 16;
/// Of a request's body.
const BODY_BYTES: usize = 4096;

type Shared = State<Arc<Admin>>;

/// Every route.
fn routes() -> Vec<(Method, &'static str, MethodRouter<Arc<Admin>>)> {
    vec![
        (Method::GET, "/openapi.json", get(document)),
        (Method::GET, "/rooms", get(count_rooms)),
        (Method::GET, "/rooms/{name}", get(look)),
        (Method::DELETE, "/rooms/{name}", delete(close_room)),
        (Method::DELETE, "/rooms/{name}/peers/{id}", delete(put_out_of_room)),
        (Method::DELETE, "/peers/{id}", delete(put_out)),
        (Method::GET, "/nodes", get(nodes)),
        (Method::POST, "/drain", post(drain)),
        (Method::GET, "/log-level", get(log_level)),
        (Method::PUT, "/log-level", put(set_log_level)),
    ]
}

/// What is here, method and path below [`PREFIX`].
#[must_use]
pub fn listed() -> Vec<(Method, &'static str)> {
    routes().into_iter().map(|(method, path, _)| (method, path)).collect()
}

pub(super) fn router(admin: &Arc<Admin>) -> Router<Arc<Admin>> {
    let mut router = Router::new();
    for (_, path, route) in routes() {
        router = router.route(path, route);
    }
    router
        .fallback(async || Problem::NotFound)
        .method_not_allowed_fallback(async || Problem::MethodNotAllowed)
        .layer(DefaultBodyLimit::max(BODY_BYTES))
        .layer(from_fn_with_state(Arc::clone(admin), guard))
}

/// What a request has to bear; without one there is no API.
#[derive(Default)]
pub struct Token(ArcSwapOption<String>);

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Token")
    }
}

impl Token {
    /// This one from here on.
    pub fn set(&self, token: Option<String>) {
        self.0.store(token.map(Arc::new));
    }

    fn is_there(&self) -> bool {
        self.0.load().is_some()
    }

    /// Whether these headers bear it (RFC 6750). How long that takes tells nothing but the token's length.
    fn is_borne(&self, headers: &HeaderMap) -> bool {
        let token = self.0.load();
        let (Some(token), Some(borne)) = (&*token, headers.get(AUTHORIZATION)) else { return false };
        match borne.as_bytes().split_at_checked("Bearer ".len()) {
            Some((scheme, borne)) => {
                scheme.eq_ignore_ascii_case(b"Bearer ") && bool::from(borne.ct_eq(token.as_bytes()))
            }
            None => false,
        }
    }
}

/// How many are served at a time.
#[derive(Debug)]
pub struct Turns(Semaphore);

impl Default for Turns {
    fn default() -> Self {
        Self(Semaphore::new(AT_A_TIME))
    }
}

/// In front of every route: who may come, how many at a time, and for how long.
async fn guard(State(admin): Shared, request: Request, next: Next) -> Response {
    let changes = *request.method() != Method::GET && *request.method() != Method::HEAD;
    let answered = async {
        if !admin.token.is_there() {
            return Problem::NotFound.into_response();
        }
        if !admin.token.is_borne(request.headers()) {
            return Problem::Unauthorized.into_response();
        }
        let Ok(_turn) = admin.turns.0.try_acquire() else { return Problem::TooManyRequests.into_response() };
        let patience = admin.reload.current().timeouts.request;
        match tokio::time::timeout(patience, next.run(request)).await {
            Ok(response) => response,
            Err(_) => Problem::TooLate.into_response(),
        }
    };
    let mut response = answered.await;
    response.headers_mut().insert(CACHE_CONTROL, http::HeaderValue::from_static("no-store"));
    let code = response.extensions().get::<Problem>().map_or("ok", |problem| problem.code());
    admin.metrics.admin_request(code);
    if code == Problem::Unauthorized.code() {
        tracing::warn!("a request to the admin API without its token");
    } else if changes {
        tracing::info!(code, "an operator's request");
    }
    response
}

/// What went wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Problem {
    Unauthorized,
    NotFound,
    MethodNotAllowed,
    BadRoom,
    BadPeer,
    BadBody,
    TooLarge,
    UnsupportedMediaType,
    NoSuchRoom,
    NoSuchPeer,
    TooManyRequests,
    TooLate,
    Unavailable,
}

impl Problem {
    const fn status(self) -> StatusCode {
        match self {
            Self::Unauthorized => StatusCode::UNAUTHORIZED,
            Self::NotFound | Self::NoSuchRoom | Self::NoSuchPeer => StatusCode::NOT_FOUND,
            Self::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            Self::BadRoom | Self::BadPeer | Self::BadBody => StatusCode::BAD_REQUEST,
            Self::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::UnsupportedMediaType => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::TooManyRequests => StatusCode::TOO_MANY_REQUESTS,
            Self::TooLate | Self::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    const fn code(self) -> &'static str {
        match self {
            Self::Unauthorized => "unauthorized",
            Self::NotFound => "not_found",
            Self::MethodNotAllowed => "method_not_allowed",
            Self::BadRoom => "bad_room",
            Self::BadPeer => "bad_peer",
            Self::BadBody => "bad_body",
            Self::TooLarge => "too_large",
            Self::UnsupportedMediaType => "unsupported_media_type",
            Self::NoSuchRoom => "no_such_room",
            Self::NoSuchPeer => "no_such_peer",
            Self::TooManyRequests => "too_many_requests",
            Self::TooLate => "too_late",
            Self::Unavailable => "unavailable",
        }
    }

    const fn detail(self) -> &'static str {
        match self {
            Self::Unauthorized => "this needs the token of the settings: Authorization: Bearer TOKEN",
            Self::NotFound => "there is nothing here",
            Self::MethodNotAllowed => "this cannot be done here; the header Allow says what can",
            Self::BadRoom => "a room's name has 1 to 128 characters and no control characters",
            Self::BadPeer => "this is no peer's id",
            Self::BadBody => "the body is not of the form that is described",
            Self::TooLarge => "the body is too large",
            Self::UnsupportedMediaType => "the body has to be application/json",
            Self::NoSuchRoom => "nobody sits in that room",
            Self::NoSuchPeer => "there is no such peer, or not there",
            Self::TooManyRequests => "too many requests at a time",
            Self::TooLate => "it took too long; it may be done all the same",
            Self::Unavailable => "Redis, or the node that has to do it, does not answer; it may be done all the same",
        }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = self.status();
        let told = serde_json::json!({
            "type": format!("urn:duet:problem:{}", self.code()),
            "title": status.canonical_reason().unwrap_or_default(),
            "status": status.as_u16(),
            "code": self.code(),
            "detail": self.detail(),
        });
        let mut response = (status, [(CONTENT_TYPE, "application/problem+json")], told.to_string()).into_response();
        match self {
            Self::Unauthorized => {
                response.headers_mut().insert(WWW_AUTHENTICATE, http::HeaderValue::from_static("Bearer"));
            }
            Self::TooManyRequests | Self::TooLate | Self::Unavailable => {
                response.headers_mut().insert(RETRY_AFTER, http::HeaderValue::from_static("1"));
            }
            _ => {}
        }
        response.extensions_mut().insert(self);
        response
    }
}

/// As a part of the path names it. One that is no UTF-8 is no name either.
type Named<T> = Result<Path<T>, axum::extract::rejection::PathRejection>;

fn room(name: &str) -> Result<RoomName, Problem> {
    RoomName::parse(name).map_err(|_| Problem::BadRoom)
}

fn peer(id: &str) -> Result<PeerId, Problem> {
    id.parse().map(PeerId).map_err(|_| Problem::BadPeer)
}

fn granted(wish: Wish, missing: Problem) -> Result<StatusCode, Problem> {
    match wish {
        Wish::Done => Ok(StatusCode::NO_CONTENT),
        Wish::NotThere => Err(missing),
        Wish::Unanswered => Err(Problem::Unavailable),
    }
}

async fn document() -> impl IntoResponse {
    ([(CONTENT_TYPE, "application/json")], DOCUMENT)
}

/// How many there are, in one node or all.
#[derive(Debug, Default, Serialize)]
struct Counts {
    rooms: u64,
    waiting: u64,
    seats: u64,
    sockets: u64,
}

#[derive(Debug, Serialize)]
struct Rooms {
    node: Counts,
    cluster: Counts,
    nodes: usize,
    unanswered: usize,
}

/// `GET /rooms`
async fn count_rooms(State(admin): Shared) -> Result<Json<Rooms>, Problem> {
    let views = views(&admin).await?;
    let mut rooms = Rooms {
        node: Counts::default(),
        cluster: Counts::default(),
        nodes: views.len(),
        unanswered: views.iter().filter(|view| view.tally.is_none()).count(),
    };
    let mut shared = 0;
    for (view, tally) in views.iter().filter_map(|view| Some((view, view.tally?))) {
        if view.here {
            rooms.node = Counts {
                rooms: tally.whole + tally.shared + tally.waiting,
                waiting: tally.waiting,
                seats: tally.seats,
                sockets: tally.sockets,
            };
        }
        rooms.cluster.rooms += tally.whole + tally.waiting;
        rooms.cluster.waiting += tally.waiting;
        rooms.cluster.seats += tally.seats;
        rooms.cluster.sockets += tally.sockets;
        shared += tally.shared;
    }
    // Each of them is told of by two nodes.
    rooms.cluster.rooms += shared.div_ceil(2);
    Ok(Json(rooms))
}

/// Every node, unless this one cannot ask the others.
async fn views(admin: &Admin) -> Result<Vec<NodeView>, Problem> {
    let away = |reason: &&str| matches!(*reason, "redis" | "relay");
    match admin.lifecycle.ready() {
        Err(not_ready) if not_ready.reasons.iter().any(away) => Err(Problem::Unavailable),
        _ => Ok(admin.signaling.nodes().await),
    }
}

#[derive(Debug, Serialize)]
struct Seat {
    peer: String,
    role: &'static str,
    node: String,
    here: bool,
    away: bool,
}

#[derive(Debug, Serialize)]
struct Room {
    room: String,
    seats: Vec<Seat>,
}

/// `GET /rooms/{name}`
async fn look(State(admin): Shared, name: Named<String>) -> Result<Json<Room>, Problem> {
    let Path(name) = name.map_err(|_| Problem::BadRoom)?;
    let name = room(&name)?;
    let seats = admin.signaling.look(&name).await.map_err(|_| Problem::Unavailable)?;
    if seats.is_empty() {
        return Err(Problem::NoSuchRoom);
    }
    let here = admin.signaling.node();
    let seats = seats.iter().map(|seat| Seat {
        peer: seat.by.peer.to_string(),
        role: seat.role.name(),
        node: seat.by.node.to_string(),
        here: seat.by.node == here,
        away: seat.away,
    });
    Ok(Json(Room { room: name.as_str().to_owned(), seats: seats.collect() }))
}

/// `DELETE /rooms/{name}`
async fn close_room(State(admin): Shared, name: Named<String>) -> Result<StatusCode, Problem> {
    let Path(name) = name.map_err(|_| Problem::BadRoom)?;
    let wish = admin.signaling.close_room(&room(&name)?).await.map_err(|_| Problem::Unavailable)?;
    granted(wish, Problem::NoSuchRoom)
}

/// `DELETE /rooms/{name}/peers/{id}`
async fn put_out_of_room(State(admin): Shared, named: Named<(String, String)>) -> Result<StatusCode, Problem> {
    let Path((name, id)) = named.map_err(|_| Problem::BadRoom)?;
    let (name, peer) = (room(&name)?, peer(&id)?);
    let wish = admin.signaling.put_out_of(&name, peer).await.map_err(|_| Problem::Unavailable)?;
    granted(wish, Problem::NoSuchPeer)
}

/// `DELETE /peers/{id}`
async fn put_out(State(admin): Shared, id: Named<String>) -> Result<StatusCode, Problem> {
    let Path(id) = id.map_err(|_| Problem::BadPeer)?;
    let peer = peer(&id)?;
    let wish = admin.signaling.put_out(peer).await;
    // Which nodes there are is not known for sure meanwhile.
    if wish == Wish::NotThere {
        views(&admin).await?;
    }
    granted(wish, Problem::NoSuchPeer)
}

#[derive(Debug, Serialize)]
struct Node {
    #[serde(rename = "node")]
    id: String,
    here: bool,
    answered: bool,
    #[serde(flatten)]
    state: Option<NodeState>,
}

#[derive(Debug, Serialize)]
struct NodeState {
    ready: bool,
    draining: bool,
    sockets: u64,
    seats: u64,
    uptime_seconds: u64,
}

#[derive(Debug, Serialize)]
struct Nodes {
    nodes: Vec<Node>,
}

/// `GET /nodes`
async fn nodes(State(admin): Shared) -> Result<Json<Nodes>, Problem> {
    let nodes = views(&admin).await?.into_iter().map(|view| Node {
        id: view.node.to_string(),
        here: view.here,
        answered: view.tally.is_some(),
        state: view.tally.map(|tally| NodeState {
            ready: tally.ready,
            draining: tally.draining,
            sockets: tally.sockets,
            seats: tally.seats,
            uptime_seconds: tally.uptime,
        }),
    });
    Ok(Json(Nodes { nodes: nodes.collect() }))
}

#[derive(Debug, Serialize)]
struct Draining {
    sockets: usize,
}

/// `POST /drain`: this node alone, and once. It goes on running until it is told to stop.
async fn drain(State(admin): Shared) -> (StatusCode, Json<Draining>) {
    let sockets = admin.signaling.sessions().len();
    if admin.lifecycle.begin_drain() {
        tracing::info!(sockets, "draining, as an operator asked for");
        let (signaling, window) = (Arc::clone(&admin.signaling), admin.reload.current().timeouts.drain / 2);
        admin.lifecycle.spawn(async move { signaling.drain(window.max(Duration::from_millis(1))).await });
    }
    (StatusCode::ACCEPTED, Json(Draining { sockets }))
}

/// A filter, as `log.level` has it.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct LogLevel {
    level: String,
}

/// `GET /log-level`, of this node.
async fn log_level() -> Json<LogLevel> {
    Json(LogLevel { level: telemetry::log_level() })
}

/// `PUT /log-level`, of this node, until it reads its settings again.
async fn set_log_level(
    State(admin): Shared,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<Json<LogLevel>, Problem> {
    let kind = headers.get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    if !kind.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case("application/json") {
        return Err(Problem::UnsupportedMediaType);
    }
    let body = body.map_err(|rejection| match rejection.status() {
        StatusCode::PAYLOAD_TOO_LARGE => Problem::TooLarge,
        _ => Problem::BadBody,
    })?;
    let wanted: LogLevel = serde_json::from_slice(&body).map_err(|_| Problem::BadBody)?;
    let log = config::Log { level: wanted.level, format: admin.reload.current().log.format };
    telemetry::set_log_level(&log).map_err(|_| Problem::BadBody)?;
    Ok(Json(LogLevel { level: log.level }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_whole_token_is_borne() {
        let token = Token::default();
        let with = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(AUTHORIZATION, value.parse().expect("a header"));
            headers
        };
        assert!(!token.is_there() && !token.is_borne(&with("Bearer ")) && !token.is_borne(&HeaderMap::new()));
        token.set(Some("0123456789abcdef".into()));
        assert!(token.is_borne(&with("Bearer 0123456789abcdef")) && token.is_borne(&with("bearer 0123456789abcdef")));
        for wrong in [
            "",
            "Bearer",
            "Bearer ",
            "0123456789abcdef",
            "Basic 0123456789abcdef",
            "Bearer 0123456789abcdeF",
            "Bearer 0",
        ] {
            assert!(!token.is_borne(&with(wrong)), "{wrong}");
        }
        assert!(!token.is_borne(&HeaderMap::new()));
        token.set(None);
        assert!(!token.is_borne(&with("Bearer 0123456789abcdef")));
    }
}
