//! `/livez`, `/readyz`, `/metrics`, and what these and the admin API ([`super::api`]) read.

use std::sync::Arc;

use axum::{
    Json,
    extract::State,
    response::{IntoResponse, Response},
};
use http::{StatusCode, header::CONTENT_TYPE};

use super::api::{Token, Turns};
use crate::{lifecycle::Lifecycle, metrics::Metrics, reload::Reload, signaling::Signaling};

/// What the admin listener reads.
#[derive(Debug)]
pub struct Admin {
    /// Ready or not, and why.
    pub lifecycle: Lifecycle,
    /// What is served at `/metrics`.
    pub metrics: Metrics,
    /// Rooms and seats.
    pub signaling: Arc<Signaling>,
    /// The settings in force.
    pub reload: Arc<Reload>,
    /// Who may use the admin API.
    pub token: Arc<Token>,
    /// How many may at a time.
    pub turns: Turns,
}

/// The process runs.
pub(super) async fn livez() -> &'static str {
    "ok\n"
}

/// 200 while the node can seat peers, else 503 with the reasons.
pub(super) async fn readyz(State(admin): State<Arc<Admin>>) -> Response {
    match admin.lifecycle.ready() {
        Ok(()) => Json(serde_json::json!({"ready": true})).into_response(),
        Err(not_ready) => (StatusCode::SERVICE_UNAVAILABLE, Json(not_ready)).into_response(),
    }
}

/// Prometheus text.
pub(super) async fn metrics(State(admin): State<Arc<Admin>>) -> Response {
    let occupancy = admin.signaling.registry().occupancy();
    admin.metrics.rooms.set(i64::try_from(occupancy.rooms).unwrap_or(i64::MAX));
    admin.metrics.seats.set(i64::try_from(occupancy.seats).unwrap_or(i64::MAX));
    admin.metrics.ready.set(i64::from(admin.lifecycle.ready().is_ok()));
    match admin.metrics.text() {
        Ok(text) => ([(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response(),
        Err(error) => {
            tracing::error!(%error, "metrics");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}
