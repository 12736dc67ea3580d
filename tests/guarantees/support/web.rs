//! A web server on loopback that answers as it is told to: an issuer of keys, a webhook.

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{HeaderMap, Request, Response, body::Incoming, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::{net::TcpListener, sync::watch, task::JoinHandle};

/// What was asked.
#[derive(Clone, Debug)]
pub struct Asked {
    pub method: String,
    pub path: String,
    pub headers: HeaderMap,
    pub body: Bytes,
}

/// How it answers from now on.
#[derive(Clone, Debug)]
pub enum Reply {
    Status(u16, String),
    Redirect(String),
    /// Only when it is told something else to answer.
    Never,
    /// An answer without an end.
    Endless,
}

impl Reply {
    pub fn ok(body: &impl ToString) -> Self {
        Self::Status(200, body.to_string())
    }
}

/// A running server.
pub struct Web {
    pub address: SocketAddr,
    reply: watch::Sender<Reply>,
    asked: Arc<Mutex<Vec<Asked>>>,
    task: JoinHandle<()>,
}

impl Web {
    pub async fn start(reply: Reply) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let address = listener.local_addr().expect("bound");
        let (reply, asked) = (watch::Sender::new(reply), Arc::<Mutex<Vec<Asked>>>::default());
        let (replies, kept) = (reply.clone(), Arc::clone(&asked));
        let task = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.expect("accepted");
                let (replies, kept) = (replies.subscribe(), Arc::clone(&kept));
                let service = service_fn(move |request| answer(request, replies.clone(), Arc::clone(&kept)));
                tokio::spawn(
                    hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service),
                );
            }
        });
        Self { address, reply, asked, task }
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    pub fn reply(&self, reply: Reply) {
        self.reply.send_replace(reply);
    }

    /// All that it was asked.
    pub fn asked(&self) -> Vec<Asked> {
        self.asked.lock().expect("whole").clone()
    }
}

impl Drop for Web {
    fn drop(&mut self) {
        self.task.abort();
    }
}

type Body = http_body_util::combinators::BoxBody<Bytes, Infallible>;

async fn answer(
    request: Request<Incoming>,
    mut replies: watch::Receiver<Reply>,
    kept: Arc<Mutex<Vec<Asked>>>,
) -> Result<Response<Body>, Infallible> {
    let (head, body) = request.into_parts();
    let body = body.collect().await.expect("a body").to_bytes();
    let (method, path) = (head.method.to_string(), head.uri.to_string());
    kept.lock().expect("whole").push(Asked { method, path, headers: head.headers, body });
    let reply = replies.wait_for(|reply| !matches!(reply, Reply::Never)).await.expect("a reply").clone();
    let whole = |text: String| Full::new(Bytes::from(text)).boxed();
    Ok(match reply {
        Reply::Status(status, body) => {
            Response::builder().status(status).header("content-type", "application/json").body(whole(body))
        }
        Reply::Redirect(to) => Response::builder().status(307).header("location", to).body(whole(String::new())),
        Reply::Endless => {
            let pieces = futures_util::stream::unfold((), |()| async {
                tokio::time::sleep(Duration::from_micros(10)).await;
                Some((Ok(hyper::body::Frame::data(Bytes::from_static(&[b' '; 8192]))), ()))
            });
            Response::builder().status(200).body(BodyExt::boxed(http_body_util::StreamBody::new(Box::pin(pieces))))
        }
        Reply::Never => unreachable!("waited for another"),
    }
    .expect("a response"))
}
