//! HTTP: every route of the public and of the admin listener.

use std::sync::Arc;

use axum::{
    Router,
    routing::{any, get},
};
use http::Method;
use tower_http::cors::{AllowHeaders, AllowOrigin, CorsLayer};

use crate::config::Page;

pub mod admin;
pub mod client_library;
pub mod eio3;
pub mod engine;
pub mod page;

use engine::Engine;

/// The public listener: Socket.IO, its client library, the page.
pub fn public(engine: Arc<Engine>, page: &Page) -> Router {
    // Open to pages of any origin, as a learner's page on another port needs it. The lesson's old clients send
    // credentials with every request, which rules out the wildcard.
    let cors = CorsLayer::new()
        .allow_origin(AllowOrigin::mirror_request())
        .allow_headers(AllowHeaders::mirror_request())
        .allow_methods([Method::GET, Method::POST])
        .allow_credentials(true);
    let socket_io = Router::new()
        .route("/socket.io", any(engine::serve))
        .route("/socket.io/", any(engine::serve))
        .with_state(engine)
        .layer(cors);
    Router::new()
        .merge(socket_io)
        .route("/socket.io/{file}", get(client_library::file))
        .fallback_service(page::service(page))
}

/// The admin listener: probes and metrics.
pub fn admin(state: admin::Admin) -> Router {
    Router::new()
        .route("/livez", get(admin::livez))
        .route("/readyz", get(admin::readyz))
        .route("/metrics", get(admin::metrics))
        .with_state(Arc::new(state))
}
