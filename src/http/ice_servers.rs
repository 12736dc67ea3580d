//! `GET /ice-servers`: the STUN and TURN servers, for a page that wants them before it joins a room.
//!
//! Who may open a session may ask, as each join tells the same: where a token is needed, by `Authorization: Bearer …`, or by
//! `token` in the query. Never cached: credentials end.

use std::{sync::Arc, time::SystemTime};

use axum::{
    Json,
    extract::{Request, State},
    response::{IntoResponse, Response},
};
use http::{
    HeaderMap, HeaderValue, StatusCode,
    header::{AUTHORIZATION, CACHE_CONTROL},
};
use serde::Serialize;

use super::engine::token_in;
use crate::{
    admission::Admission,
    ice::{Ice, IceServer},
    id::Sid,
};

#[derive(Serialize)]
struct Answer {
    #[serde(rename = "iceServers")]
    ice_servers: Vec<IceServer>,
    /// Seconds for which credentials can be used.
    ttl: u64,
}

/// What a visitor who may not have them is told.
#[derive(Serialize)]
struct No {
    code: &'static str,
    message: String,
    retryable: bool,
}

/// `{iceServers, ttl}`, or `{code, message, retryable}`.
pub(super) async fn serve(State((ice, admission)): State<(Arc<Ice>, Arc<Admission>)>, request: Request) -> Response {
    let token = bearer(request.headers()).or_else(|| token_in(request.uri().query()));
    let uncached = [(CACHE_CONTROL, HeaderValue::from_static("no-store"))];
    let grant = match admission.admit_or_fetch(token.as_deref()).await {
        Ok(grant) => grant,
        Err(denied) => {
            let (code, message) = (denied.code(), denied.to_string());
            let status = if code.retryable() { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::UNAUTHORIZED };
            let no = No { code: code.name(), message, retryable: code.retryable() };
            return (status, uncached, Json(no)).into_response();
        }
    };
    // Without a token nothing is known of a visitor that would tell it from the next behind the same address.
    let visitor = Sid::new();
    let holder = grant.peer().unwrap_or(visitor.as_str());
    let ice_servers = ice.servers(holder.as_bytes(), SystemTime::now());
    let answer = Answer { ice_servers, ttl: ice.lifetime().as_secs() };
    (uncached, Json(answer)).into_response()
}

/// RFC 6750, section 2.1.
fn bearer(headers: &HeaderMap) -> Option<Box<str>> {
    let (scheme, token) = headers.get(AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim().into())
}
