//! Spans on their way to the collector: OTLP over HTTP, in batches, by one task.
//!
//! Nobody waits for it. When the collector is slow or gone, spans queue up to a bound; those beyond it, and those of a batch
//! that it does not take in time, are dropped and counted.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use opentelemetry::KeyValue;
use opentelemetry_http::{HttpClient, HttpError, Request, Response};
use opentelemetry_otlp::{ExporterBuildError, Protocol, SpanExporter, WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::{
    Resource,
    trace::{SpanData, SpanExporter as _},
};
use prometheus::IntCounter;
use rustls::{ClientConfig, RootCertStore};
use tokio::{
    sync::mpsc,
    task::JoinHandle,
    time::{Instant, timeout, timeout_at},
};
use tokio_util::sync::CancellationToken;

use super::trace::Tracer;
use crate::{config, id::NodeId, metrics::Metrics};

/// Spans that may wait.
const QUEUE: usize = 2048;
/// Spans in one request.
const BATCH: usize = 512;
/// How long a span waits for company.
const COMPANY: Duration = Duration::from_secs(1);
/// How long one batch may take, with all attempts.
const PATIENCE: Duration = Duration::from_secs(5);
/// What is read of an answer.
const ANSWER_BYTES: usize = 64 * 1024;

/// The task that sends spans.
#[derive(Debug)]
pub struct Exporting {
    task: JoinHandle<()>,
    /// Cancelled when no more are to be waited for.
    closing: CancellationToken,
}

/// Starts what the settings ask for.
///
/// # Errors
/// What the exporter says of its settings.
pub fn start(
    settings: &config::Telemetry,
    node: NodeId,
    metrics: &Metrics,
) -> Result<(Tracer, Option<Exporting>), ExporterBuildError> {
    if settings.otlp_endpoint.is_empty() {
        return Ok((Tracer::default(), None));
    }
    let (ended, spans) = mpsc::channel(QUEUE);
    let closing = CancellationToken::new();
    let exporter = exporter(settings, node)?;
    let export = Export { exporter, spans, closing: closing.clone(), dropped: metrics.spans_dropped.clone() };
    let tracer = Tracer::new(settings.sample_ratio, ended, metrics.spans_dropped.clone());
    Ok((tracer, Some(Exporting { task: tokio::spawn(export.run()), closing })))
}

fn exporter(settings: &config::Telemetry, node: NodeId) -> Result<SpanExporter, ExporterBuildError> {
    let mut exporter = SpanExporter::builder()
        .with_http()
        .with_http_client(Http::new(settings.otlp_endpoint.starts_with("https:")))
        .with_protocol(Protocol::HttpBinary)
        .with_endpoint(format!("{}/v1/traces", settings.otlp_endpoint.trim_end_matches('/')))
        .with_timeout(PATIENCE)
        .build()?;
    let resource = Resource::builder_empty().with_attributes([
        KeyValue::new("service.name", settings.service_name.clone()),
        KeyValue::new("service.version", env!("CARGO_PKG_VERSION")),
        KeyValue::new("service.instance.id", node.to_string()),
    ]);
    exporter.set_resource(&resource.build());
    Ok(exporter)
}

impl Exporting {
    /// Sends what waits, and ends.
    pub async fn finish(mut self, until: Instant) {
        self.closing.cancel();
        if timeout_at(until, &mut self.task).await.is_err() {
            tracing::warn!("the collector of traces did not take the last of them in time");
            self.task.abort();
        }
    }
}

struct Export {
    exporter: SpanExporter,
    spans: mpsc::Receiver<SpanData>,
    closing: CancellationToken,
    dropped: IntCounter,
}

impl Export {
    async fn run(mut self) {
        let mut fails = false;
        loop {
            let batch = self.batch().await;
            if batch.is_empty() {
                return;
            }
            let spans = batch.len();
            let exported = match timeout(PATIENCE, self.exporter.export(batch)).await {
                Ok(exported) => exported.map_err(|error| error.to_string()),
                Err(_) => Err("it did not answer in time".into()),
            };
            match &exported {
                Ok(()) if fails => tracing::info!("the collector takes traces again"),
                Ok(()) => {}
                Err(error) => {
                    self.dropped.inc_by(spans as u64);
                    // Once, not for every batch.
                    if !fails {
                        tracing::warn!(error, "the collector does not take traces");
                    }
                }
            }
            fails = exported.is_err();
        }
    }

    /// The next spans; none when no more will come.
    async fn batch(&mut self) -> Vec<SpanData> {
        let (spans, mut batch) = (&mut self.spans, Vec::new());
        let in_time = async {
            if spans.recv_many(&mut batch, BATCH).await > 0 {
                let _ = timeout(COMPANY, fill(&mut batch, spans)).await;
            }
        };
        if self.closing.run_until_cancelled(in_time).await.is_none() {
            self.spans.close();
            fill(&mut batch, &mut self.spans).await;
        }
        batch
    }
}

/// Returns when the batch is full, or no more spans will come.
async fn fill(batch: &mut Vec<SpanData>, spans: &mut mpsc::Receiver<SpanData>) {
    while batch.len() < BATCH && spans.recv_many(batch, BATCH - batch.len()).await > 0 {}
}

/// The way to the collector.
#[derive(Debug)]
struct Http(Client<HttpsConnector<HttpConnector>, Full<Bytes>>);

impl Http {
    fn new(tls: bool) -> Self {
        let mut roots = RootCertStore::empty();
        if tls {
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        }
        let config = ClientConfig::builder().with_root_certificates(Arc::new(roots)).with_no_client_auth();
        let connector = HttpsConnectorBuilder::new().with_tls_config(config).https_or_http().enable_http1().build();
        Self(Client::builder(TokioExecutor::new()).pool_max_idle_per_host(1).build(connector))
    }
}

#[async_trait]
impl HttpClient for Http {
    // Given up as a whole by whoever exports.
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let answer = self.0.request(request.map(Full::new)).await;
        // The exporter keeps it to itself.
        let answer = answer.inspect_err(|error| tracing::debug!(?error, "the collector cannot be reached"))?;
        let (head, body) = answer.into_parts();
        let body = Limited::new(body, ANSWER_BYTES).collect().await?.to_bytes();
        Ok(Response::from_parts(head, body))
    }
}
