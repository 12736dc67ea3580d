//! A collector of traces on loopback: takes OTLP over HTTP, and keeps all that it got.

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{Request, Response, body::Incoming, service::service_fn};
use hyper_util::rt::TokioIo;
use opentelemetry_proto::tonic::{
    collector::trace::v1::ExportTraceServiceRequest,
    common::v1::{KeyValue, any_value::Value},
    trace::v1::Span,
};
use prost::Message;
use tokio::{net::TcpListener, task::JoinHandle};

/// A running collector.
pub struct Collector {
    pub address: SocketAddr,
    bodies: Arc<Mutex<Vec<Bytes>>>,
    task: JoinHandle<()>,
}

/// A span, and who sent it.
#[derive(Debug)]
pub struct Received {
    pub service: String,
    /// `service.instance.id`: the node.
    pub node: String,
    pub span: Span,
}

impl Received {
    /// An attribute of the span; empty if it has none of that name.
    pub fn attribute(&self, key: &str) -> String {
        text(&self.span.attributes, key)
    }
}

impl Collector {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let address = listener.local_addr().expect("bound");
        let bodies: Arc<Mutex<Vec<Bytes>>> = Arc::default();
        let kept = Arc::clone(&bodies);
        let task = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.expect("accepted");
                let kept = Arc::clone(&kept);
                let service = service_fn(move |request| take(request, Arc::clone(&kept)));
                tokio::spawn(
                    hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service),
                );
            }
        });
        Self { address, bodies, task }
    }

    /// What a node has to be told.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// All that it got, as it came.
    pub fn bodies(&self) -> Vec<Bytes> {
        self.bodies.lock().expect("whole").clone()
    }

    /// All spans that it got.
    pub fn spans(&self) -> Vec<Received> {
        let mut spans = Vec::new();
        for body in self.bodies() {
            for resource in ExportTraceServiceRequest::decode(body).expect("a request").resource_spans {
                let of = resource.resource.expect("a resource").attributes;
                let (service, node) = (text(&of, "service.name"), text(&of, "service.instance.id"));
                for span in resource.scope_spans.into_iter().flat_map(|scope| scope.spans) {
                    spans.push(Received { service: service.clone(), node: node.clone(), span });
                }
            }
        }
        spans
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn take(request: Request<Incoming>, kept: Arc<Mutex<Vec<Bytes>>>) -> Result<Response<Full<Bytes>>, Infallible> {
    assert_eq!((request.method().as_str(), request.uri().path()), ("POST", "/v1/traces"));
    assert_eq!(request.headers()["content-type"], "application/x-protobuf");
    let body = request.into_body().collect().await.expect("a body").to_bytes();
    kept.lock().expect("whole").push(body);
    Ok(Response::new(Full::default()))
}

fn text(attributes: &[KeyValue], key: &str) -> String {
    let found = attributes.iter().find(|attribute| attribute.key == key);
    match found.and_then(|attribute| attribute.value.as_ref()?.value.as_ref()) {
        Some(Value::StringValue(text)) => text.clone(),
        _ => String::new(),
    }
}
