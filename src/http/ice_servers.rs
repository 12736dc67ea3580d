//! `GET /ice-servers`: the STUN and TURN servers, for a page that wants them before it joins a room.
//!
//! Who may open a session may ask, as each join tells the same. Never cached: credentials end.

use std::{sync::Arc, time::SystemTime};

use axum::{
    Json,
    extract::State,
    response::{IntoResponse, Response},
};
use http::{HeaderValue, header::CACHE_CONTROL};
use serde::Serialize;

use crate::{
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

/// `{iceServers, ttl}`. Whether the visitor may have them is for this function to ask first.
pub(super) async fn serve(State(ice): State<Arc<Ice>>) -> Response {
    // Nothing is known of a visitor that would tell it from the next behind the same address.
    let holder = Sid::new();
    let ice_servers = ice.servers(holder.as_str().as_bytes(), SystemTime::now());
    let answer = Answer { ice_servers, ttl: ice.lifetime().as_secs() };
    ([(CACHE_CONTROL, HeaderValue::from_static("no-store"))], Json(answer)).into_response()
}
