//! Requests of this node to the issuer and to the webhook: bounded in time and in size, sent to nobody but whom the
//! settings name.
//!
//! Never follows a redirect, never takes a proxy from the environment, never says an URL, a header or a body in an error.

use std::{sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use reqwest::{
    Client, RequestBuilder, Response, StatusCode,
    header::{ACCEPT, CONTENT_TYPE, HeaderMap, HeaderValue},
    redirect::Policy,
};
use rustls::{ClientConfig, RootCertStore};
use tokio::time::timeout;

/// Why there is no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unanswered {
    /// No connection, or it broke.
    #[error("it cannot be reached")]
    Unreachable,
    /// It took too long.
    #[error("it did not answer in time")]
    Late,
    /// Another status than one that says yes, a redirect for example.
    #[error("it answered with status {0}")]
    Status(u16),
    /// More than is read.
    #[error("its answer is too long")]
    TooLong,
}

/// A client of HTTP. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Http(Client);

impl Http {
    /// One that keeps up to `idle` connections to each server. With `tls`, servers are checked against the system's
    /// certificates.
    ///
    /// # Errors
    /// What the library says of its own settings.
    pub fn new(tls: bool, idle: usize) -> Result<Self, reqwest::Error> {
        let mut roots = RootCertStore::empty();
        if tls {
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        }
        let config = ClientConfig::builder().with_root_certificates(Arc::new(roots)).with_no_client_auth();
        Client::builder()
            .tls_backend_preconfigured(config)
            .redirect(Policy::none())
            .no_proxy()
            .referer(false)
            .pool_max_idle_per_host(idle)
            .user_agent(concat!("duet/", env!("CARGO_PKG_VERSION")))
            .build()
            .map(Self)
    }

    /// Gets what is at `url`.
    ///
    /// # Errors
    /// [`Unanswered`]; only 200 is an answer.
    pub async fn get(&self, url: &str, most: usize, patience: Duration) -> Result<Bytes, Unanswered> {
        self.exchange(self.0.get(url).header(ACCEPT, "application/json"), most, patience).await
    }

    /// Posts JSON to `url`.
    ///
    /// # Errors
    /// [`Unanswered`]; only 200 is an answer.
    pub async fn post(
        &self,
        url: &str,
        headers: HeaderMap,
        json: Vec<u8>,
        most: usize,
        patience: Duration,
    ) -> Result<Bytes, Unanswered> {
        let request = self.0.post(url).headers(headers).body(json);
        self.exchange(request.header(CONTENT_TYPE, HeaderValue::from_static("application/json")), most, patience).await
    }

    async fn exchange(&self, request: RequestBuilder, most: usize, patience: Duration) -> Result<Bytes, Unanswered> {
        let exchange = async {
            let response = request.send().await.map_err(|_| Unanswered::Unreachable)?;
            if response.status() != StatusCode::OK {
                return Err(Unanswered::Status(response.status().as_u16()));
            }
            read(response, most).await
        };
        timeout(patience, exchange).await.map_err(|_| Unanswered::Late)?
    }
}

async fn read(mut response: Response, most: usize) -> Result<Bytes, Unanswered> {
    let mut body = BytesMut::new();
    while let Some(chunk) = response.chunk().await.map_err(|_| Unanswered::Unreachable)? {
        if body.len() + chunk.len() > most {
            return Err(Unanswered::TooLong);
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body.freeze())
}
