//! The operator's own service, asked before a seat is taken.
//!
//! Questions are signed as Standard Webhooks are (<https://www.standardwebhooks.com>). It fails closed: what is no clear
//! answer in time is a refusal that may be tried again. Questions are bounded in number, answers in size.

use std::{
    net::IpAddr,
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use http::{HeaderMap, HeaderName, HeaderValue};
use ring::hmac;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tokio::sync::Semaphore;

use super::outbound::{Http, Unanswered};
use crate::{
    ice::IceServer,
    id::{PeerId, RoomName, Sid},
};

/// Bytes that are read of an answer.
const ANSWER_BYTES: usize = 64 * 1024;
/// Characters of a reason that are told.
const REASON_CHARS: usize = 200;
/// Bytes of a secret, as Standard Webhooks has them.
const SECRET_BYTES: std::ops::RangeInclusive<usize> = 24..=64;

const ID: HeaderName = HeaderName::from_static("webhook-id");
const TIMESTAMP: HeaderName = HeaderName::from_static("webhook-timestamp");
const SIGNATURE: HeaderName = HeaderName::from_static("webhook-signature");

/// Who wants to sit where.
#[derive(Debug)]
pub struct Question<'a> {
    /// The room.
    pub room: &'a RoomName,
    /// The socket, as `created` and `joined` name it.
    pub id: PeerId,
    /// `sub` of its token.
    pub peer: Option<&'a str>,
    /// All claims of its token.
    pub claims: Option<&'a RawValue>,
    /// Where it connected from.
    pub address: IpAddr,
}

/// What came of a question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It may, with these ICE servers if any are named.
    Allowed(Option<Vec<IceServer>>),
    /// It may not.
    Denied {
        /// What to tell it, if anything.
        reason: Option<String>,
    },
    /// As many as may wait do already.
    Busy,
    /// There is no answer, or none that can be understood.
    Failed,
}

impl Answer {
    /// Its name in metrics.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Allowed(_) => "allowed",
            Self::Denied { .. } => "denied",
            Self::Busy => "busy",
            Self::Failed => "failed",
        }
    }
}

/// Where questions go.
#[derive(Debug)]
pub struct Webhook {
    url: String,
    key: hmac::Key,
    patience: Duration,
    free: Semaphore,
    http: Http,
    /// The last question got no answer that is one.
    fails: AtomicBool,
}

/// The key that `secret` stands for.
#[must_use]
pub fn key(secret: &str) -> Option<hmac::Key> {
    let bytes = STANDARD.decode(secret.strip_prefix("whsec_")?).ok()?;
    SECRET_BYTES.contains(&bytes.len()).then(|| hmac::Key::new(hmac::HMAC_SHA256, &bytes))
}

impl Webhook {
    /// One at `url`, of which `concurrency` questions are asked at a time.
    #[must_use]
    pub fn new(url: String, key: hmac::Key, patience: Duration, concurrency: usize, http: Http) -> Self {
        Self { url, key, patience, free: Semaphore::new(concurrency), http, fails: AtomicBool::new(false) }
    }

    /// Asks.
    pub async fn ask(&self, question: Question<'_>) -> Answer {
        let Ok(_asking) = self.free.try_acquire() else { return Answer::Busy };
        let Ok(body) = serde_json::to_vec(&Body::from(question)) else { return Answer::Failed };
        let headers = signed(&self.key, Sid::new(), SystemTime::now(), &body);
        let answer = self.http.post(&self.url, headers, body, ANSWER_BYTES, self.patience).await;
        let answer = answer.map_err(NoAnswer::Unanswered).and_then(|body| read(&body).ok_or(NoAnswer::Unclear));
        let failed = self.fails.swap(answer.is_err(), Ordering::Relaxed);
        match answer {
            Ok(answer) => {
                if failed {
                    tracing::info!("the webhook answers again");
                }
                answer
            }
            Err(error) => {
                // Once, not for every join.
                if !failed {
                    tracing::warn!(%error, "the webhook does not answer");
                }
                Answer::Failed
            }
        }
    }
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
enum NoAnswer {
    #[error(transparent)]
    Unanswered(Unanswered),
    #[error("its answer is not of the form {{allow, …}}")]
    Unclear,
}

/// The question on the wire.
#[derive(Serialize)]
struct Body<'a> {
    r#type: &'static str,
    room: &'a str,
    id: Sid,
    peer: Option<&'a str>,
    claims: Option<&'a RawValue>,
    address: IpAddr,
}

impl<'a> From<Question<'a>> for Body<'a> {
    fn from(question: Question<'a>) -> Self {
        Self {
            r#type: "join",
            room: question.room.as_str(),
            id: question.id.0,
            peer: question.peer,
            claims: question.claims,
            address: question.address,
        }
    }
}

/// The headers that prove whose question it is.
fn signed(key: &hmac::Key, id: Sid, now: SystemTime, body: &[u8]) -> HeaderMap {
    let id = format!("msg_{id}");
    let timestamp = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs().to_string();
    let mut signing = hmac::Context::with_key(key);
    for part in [id.as_bytes(), b".", timestamp.as_bytes(), b".", body] {
        signing.update(part);
    }
    let signature = format!("v1,{}", STANDARD.encode(signing.sign()));
    [(ID, id), (TIMESTAMP, timestamp), (SIGNATURE, signature)]
        .into_iter()
        .filter_map(|(name, value)| Some((name, HeaderValue::try_from(value).ok()?)))
        .collect()
}

/// Understands an answer, or not.
#[must_use]
pub fn read(body: &[u8]) -> Option<Answer> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Said {
        allow: bool,
        reason: Option<String>,
        ice_servers: Option<Vec<IceServer>>,
    }
    // What is passed over has to be text, too.
    let said: Said = serde_json::from_str(std::str::from_utf8(body).ok()?).ok()?;
    Some(if said.allow {
        Answer::Allowed(said.ice_servers)
    } else {
        Answer::Denied { reason: said.reason.map(|reason| told(&reason)).filter(|reason| !reason.is_empty()) }
    })
}

/// As much of a reason as a client is told.
fn told(reason: &str) -> String {
    reason.chars().filter(|c| !c.is_control()).take(REASON_CHARS).collect::<String>().trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_clear_or_none() {
        let server = |url: &str| IceServer { urls: vec![url.into()], username: None, credential: None };
        for (body, answer) in [
            (r#"{"allow":true}"#, Some(Answer::Allowed(None))),
            (r#"{"allow":true,"more":1,"reason":"r"}"#, Some(Answer::Allowed(None))),
            (r#"{"allow":true,"iceServers":[{"urls":"stun:a"}]}"#, Some(Answer::Allowed(Some(vec![server("stun:a")])))),
            (r#"{"allow":false}"#, Some(Answer::Denied { reason: None })),
            (r#"{"allow":false,"reason":" \u0007\n"}"#, Some(Answer::Denied { reason: None })),
            (r#"{"allow":false,"reason":"no\nway"}"#, Some(Answer::Denied { reason: Some("noway".into()) })),
            (r#"{"allow":"true"}"#, None),
            (r#"{"allow":1}"#, None),
            (r#"{"allow":true,"allow":false}"#, None),
            (r#"{"allow":true,"iceServers":"stun:a"}"#, None),
            ("{}", None),
            ("true", None),
            ("", None),
        ] {
            assert_eq!(read(body.as_bytes()), answer, "{body}");
        }
        let long = format!(r#"{{"allow":false,"reason":"{}"}}"#, "é".repeat(10_000));
        assert_eq!(read(long.as_bytes()), Some(Answer::Denied { reason: Some("é".repeat(REASON_CHARS)) }));
    }

    /// The example of the Standard Webhooks specification.
    #[test]
    fn a_question_is_signed_as_standard_webhooks_are() {
        let key = key("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").expect("a key");
        let mut signing = hmac::Context::with_key(&key);
        signing.update(br#"msg_p5jXN8AQM9LWM0D4loKWxJek.1614265330.{"test": 2432232314}"#);
        assert_eq!(STANDARD.encode(signing.sign()), "g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
        let id = Sid::new();
        let headers = signed(&key, id, UNIX_EPOCH + Duration::from_secs(1_614_265_330), b"{}");
        assert_eq!(headers[TIMESTAMP], "1614265330");
        assert_eq!(headers[ID], format!("msg_{id}"));
        let expected = hmac::sign(&key, format!("msg_{id}.1614265330.{{}}").as_bytes());
        assert_eq!(headers[SIGNATURE], format!("v1,{}", STANDARD.encode(expected)));
    }

    #[test]
    fn a_secret_is_of_the_form_and_length_of_standard_webhooks() {
        for wrong in ["", "whsec_", "whsec_AAAA", "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "whsec_!!!!"] {
            assert!(key(wrong).is_none(), "{wrong}");
        }
    }
}
