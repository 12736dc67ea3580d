//! HTTP: every route of the public and of the admin listener.

use std::{
    convert::Infallible,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use axum::{
    Router,
    response::Response,
    routing::{any, future::RouteFuture, get},
};
use futures_util::future::{BoxFuture, Either, Ready, ready};
use http::{
    HeaderValue, Method, Request,
    header::{STRICT_TRANSPORT_SECURITY, X_CONTENT_TYPE_OPTIONS},
};
use hyper::body::Incoming;
use tower_http::{
    cors::{AllowHeaders, AllowOrigin, CorsLayer},
    set_header::SetResponseHeaderLayer,
};

use crate::{
    config::{Page, Server},
    ice::Ice,
};

pub mod admin;
pub mod api;
pub mod client_library;
pub mod eio3;
pub mod engine;
pub mod ice_servers;
pub mod page;

use engine::Engine;

/// The public listener: Socket.IO, its client library, the servers for calls, the page.
#[must_use]
pub fn public(engine: Arc<Engine>, ice: Arc<Ice>, page: &Page, server: &Server) -> Public {
    Public { routes: routes(Arc::clone(&engine), ice, page, server.hsts), engine }
}

/// The service of the public listener.
///
/// WebSockets go straight to the engine: they are most of the requests of a busy node, and need none of what the routes do
/// for others (no browser asks for CORS there).
#[derive(Clone, Debug)]
pub struct Public {
    engine: Arc<Engine>,
    routes: Router,
}

impl tower::Service<Request<Incoming>> for Public {
    type Response = Response;
    type Error = Infallible;
    type Future = Either<Early, RouteFuture<Infallible>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        tower::Service::<Request<Incoming>>::poll_ready(&mut self.routes, cx)
    }

    fn call(&mut self, mut request: Request<Incoming>) -> Self::Future {
        if let Some(refused) = engine::stranger(&self.engine, &request) {
            return Either::Left(Either::Left(ready(Ok(refused))));
        }
        match engine::websocket(&self.engine, &mut request) {
            Some((response, Duration::ZERO)) => Either::Left(Either::Left(ready(Ok(response)))),
            Some((response, delay)) => Either::Left(Either::Right(Box::pin(async move {
                tokio::time::sleep(delay).await;
                Ok(response)
            }))),
            None => Either::Right(self.routes.call(request)),
        }
    }
}

/// An answer that needs no route, now or a little later.
type Early = Either<Ready<Result<Response, Infallible>>, BoxFuture<'static, Result<Response, Infallible>>>;

fn routes(engine: Arc<Engine>, ice: Arc<Ice>, page: &Page, hsts: Duration) -> Router {
    // Whoever comes here is of an origin that is let in: of any, as a learner's page on another port needs it, unless the
    // settings say otherwise. The lesson's old clients send credentials with every request, which rules out the wildcard.
    let cors = CorsLayer::new()
        .allow_origin(AllowOrigin::mirror_request())
        .allow_headers(AllowHeaders::mirror_request())
        .allow_methods([Method::GET, Method::POST])
        .allow_credentials(true);
    let may_have_servers = (ice, Arc::clone(&engine.admission));
    let socket_io = Router::new()
        .route("/socket.io", any(engine::serve))
        .route("/socket.io/", any(engine::serve))
        .with_state(engine)
        .layer(cors.clone());
    let ice_servers =
        Router::new().route("/ice-servers", get(ice_servers::serve)).with_state(may_have_servers).layer(cors);
    let routes = Router::new()
        .merge(socket_io)
        .merge(ice_servers)
        .route("/socket.io/{file}", get(client_library::file))
        .fallback_service(page::service(page))
        .layer(SetResponseHeaderLayer::if_not_present(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")));
    // Browsers take no notice of it where there is no TLS.
    match HeaderValue::try_from(format!("max-age={}", hsts.as_secs())) {
        Ok(age) if !hsts.is_zero() => {
            routes.layer(SetResponseHeaderLayer::if_not_present(STRICT_TRANSPORT_SECURITY, age))
        }
        _ => routes,
    }
}

/// The admin listener: probes and metrics, and the admin API.
pub fn admin(state: admin::Admin) -> Router {
    let state = Arc::new(state);
    Router::new()
        .nest(api::PREFIX, api::router(&state))
        .route("/livez", get(admin::livez))
        .route("/readyz", get(admin::readyz))
        .route("/metrics", get(admin::metrics))
        .with_state(state)
}
