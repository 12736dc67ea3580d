//! Who may come in: tokens at the handshake, and a webhook asked before a seat is taken. Off by default.
//!
//! Reading order: [`token`] (what a token says), [`keys`] (what it is checked with), [`webhook`] (who is asked),
//! [`outbound`] (how).
//!
//! It fails closed: without keys nobody is admitted, without an answer nobody is seated. It never says, logs or keeps a
//! token; of one that holds, its claims are kept as long as its socket. What the settings ask for can be changed while the
//! node runs, all at once.

use std::{net::IpAddr, path::Path, sync::Arc, time::SystemTime};

use arc_swap::ArcSwap;
use tokio_util::sync::CancellationToken;

use crate::{
    config,
    ice::IceServer,
    id::{PeerId, RoomName},
    lifecycle::Lifecycle,
    metrics::Metrics,
    protocol::{Code, Refusal},
};

pub mod keys;
pub mod outbound;
pub mod token;
pub mod webhook;

pub use token::Grant;

use keys::{Issuer, KeySet, Publication};
use outbound::Http;
use token::{Rooms, Rules};
use webhook::{Answer, Question, Webhook};

/// Connections to the issuer that are kept.
const ISSUER_CONNECTIONS: usize = 1;

/// Why a token does not let its bearer in: the whole list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// There is none.
    #[error("a token is needed")]
    Missing,
    /// It is no token, or too long for one.
    #[error("the token is none")]
    Malformed,
    /// No key has its key id.
    #[error("the token is signed with a key that is not known")]
    UnknownKey,
    /// The key it names is for another algorithm.
    #[error("the token is signed with another algorithm than its key is for")]
    Algorithm,
    /// It is signed with another key, or changed.
    #[error("the token's signature does not hold")]
    Signature,
    /// Its end (`exp`) has passed.
    #[error("the token has expired")]
    Expired,
    /// Its begin (`nbf`) has not come.
    #[error("the token is not valid yet")]
    NotYetValid,
    /// Its `iss` is another.
    #[error("the token is of another issuer")]
    Issuer,
    /// Its `aud` is another.
    #[error("the token is for another audience")]
    Audience,
    /// It has no `exp`, or a claim is not of its form.
    #[error("a claim of the token is missing, or not of its form")]
    Claims,
    /// The issuer's keys are not known.
    #[error("tokens cannot be checked at the moment; try again")]
    NoKeys,
}

impl Denied {
    /// What the client is told.
    #[must_use]
    pub const fn code(self) -> Code {
        match self {
            Self::Expired => Code::TokenExpired,
            Self::NoKeys => Code::Unavailable,
            Self::Missing
            | Self::Malformed
            | Self::UnknownKey
            | Self::Algorithm
            | Self::Signature
            | Self::NotYetValid
            | Self::Issuer
            | Self::Audience
            | Self::Claims => Code::Unauthorized,
        }
    }

    /// Its name in metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Malformed => "malformed",
            Self::UnknownKey => "unknown_key",
            Self::Algorithm => "algorithm",
            Self::Signature => "signature",
            Self::Expired => "expired",
            Self::NotYetValid => "not_yet_valid",
            Self::Issuer => "issuer",
            Self::Audience => "audience",
            Self::Claims => "claims",
            Self::NoKeys => "no_keys",
        }
    }
}

/// Why the settings cannot be used: one line that names one of them, and nothing of its value.
#[derive(Debug, thiserror::Error)]
#[error("admission.{setting}: {complaint}")]
pub struct BadAdmission {
    setting: &'static str,
    complaint: String,
}

/// Who may come in. One a node.
#[derive(Debug)]
pub struct Admission {
    rules: ArcSwap<InForce>,
    metrics: Metrics,
    lifecycle: Lifecycle,
}

/// What the settings ask for.
#[derive(Debug, Default)]
struct InForce {
    tokens: Option<Tokens>,
    webhook: Option<Webhook>,
}

#[derive(Debug)]
struct Tokens {
    rules: Rules,
    keys: Keys,
}

#[derive(Debug, Clone)]
enum Keys {
    Fixed(Arc<KeySet>),
    Published(Arc<Fetching>),
}

/// An issuer whose keys are being fetched; no more when nobody needs them.
#[derive(Debug)]
struct Fetching {
    issuer: Arc<Issuer>,
    end: CancellationToken,
}

impl Drop for Fetching {
    fn drop(&mut self) {
        self.end.cancel();
    }
}

impl Tokens {
    fn check(&self, token: Option<&str>, now: SystemTime) -> Result<Grant, Denied> {
        let token = token.ok_or(Denied::Missing)?;
        let keys = match &self.keys {
            Keys::Fixed(keys) => Arc::clone(keys),
            Keys::Published(fetching) => fetching.issuer.keys().ok_or(Denied::NoKeys)?,
        };
        token::check(token, &keys, &self.rules, now)
    }
}

impl Admission {
    /// What `settings` ask for, in force.
    ///
    /// # Errors
    /// [`BadAdmission`] when a key cannot be used.
    pub fn start(
        settings: &config::Admission,
        metrics: Metrics,
        lifecycle: Lifecycle,
    ) -> Result<Arc<Self>, BadAdmission> {
        let admission = Self { rules: ArcSwap::default(), metrics, lifecycle };
        admission.reload(settings)?;
        Ok(Arc::new(admission))
    }

    /// Checks `settings` as far as that goes without asking anybody.
    ///
    /// # Errors
    /// [`BadAdmission`] when a key cannot be used.
    pub fn check(settings: &config::Admission) -> Result<(), BadAdmission> {
        fixed_keys(settings)?;
        webhook_key(settings).map(drop)
    }

    /// Puts `settings` in force, all at once, or leaves everything as it is. Sockets that are connected stay; what they
    /// ask for from now on is judged by the new settings.
    ///
    /// # Errors
    /// [`BadAdmission`] when a key cannot be used.
    pub fn reload(&self, settings: &config::Admission) -> Result<(), BadAdmission> {
        let tokens = match (fixed_keys(settings)?, settings.jwks_url.is_empty()) {
            (Some(keys), _) => Some(Keys::Fixed(Arc::new(keys))),
            (None, true) => None,
            (None, false) => Some(Keys::Published(self.fetching(publication(settings))?)),
        };
        let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        let rules = Rules {
            issuer: some(&settings.issuer),
            audience: some(&settings.audience),
            leeway: settings.leeway,
            default_rooms: Rooms::listed(&settings.default_rooms),
        };
        let webhook = match webhook_key(settings)? {
            None => None,
            Some(key) => {
                let (url, concurrency) = (&settings.webhook_url, settings.webhook_concurrency);
                let http = http(url, concurrency, "webhook_url")?;
                Some(Webhook::new(url.clone(), key, settings.webhook_timeout, concurrency, http))
            }
        };
        self.rules.store(Arc::new(InForce { tokens: tokens.map(|keys| Tokens { rules, keys }), webhook }));
        Ok(())
    }

    /// The issuer of that publication: the one at hand, with all its keys, if nothing about it changed.
    fn fetching(&self, publication: Publication) -> Result<Arc<Fetching>, BadAdmission> {
        if let Some(Tokens { keys: Keys::Published(fetching), .. }) = &self.rules.load().tokens
            && *fetching.issuer.publication() == publication
        {
            return Ok(Arc::clone(fetching));
        }
        if publication.url.starts_with("http://") {
            tracing::warn!("admission.jwks_url is not https: whoever is on the way to it can admit anybody");
        }
        let http = http(&publication.url, ISSUER_CONNECTIONS, "jwks_url")?;
        let (issuer, end) = (Issuer::new(publication), CancellationToken::new());
        // A node that can admit nobody yet should get nobody.
        let latch = self.lifecycle.hold("issuer");
        let (run, ended) = (Arc::clone(&issuer).run(http, self.metrics.clone(), latch), end.clone());
        self.lifecycle.spawn(async move {
            ended.run_until_cancelled(run).await;
        });
        Ok(Arc::new(Fetching { issuer, end }))
    }

    /// Whether a handshake needs a token.
    #[must_use]
    pub fn needs_token(&self) -> bool {
        self.rules.load().tokens.is_some()
    }

    /// What is open and what is not, in a few words for a log.
    #[must_use]
    pub fn summary(&self) -> &'static str {
        let rules = self.rules.load();
        match (rules.tokens.is_some(), rules.webhook.is_some()) {
            (false, false) => "anybody may join any room",
            (true, false) => "a token is needed",
            (false, true) => "anybody may connect; the webhook is asked for each join",
            (true, true) => "a token is needed; the webhook is asked for each join",
        }
    }

    /// What the bearer of `token` may do, as far as the keys at hand tell.
    ///
    /// # Errors
    /// [`Denied`].
    pub fn admit(&self, token: Option<&str>, now: SystemTime) -> Result<Grant, Denied> {
        match &self.rules.load().tokens {
            None => Ok(Grant::open()),
            Some(tokens) => tokens.check(token, now),
        }
    }

    /// The same; when no key fits, newer ones are fetched first if that may be.
    ///
    /// # Errors
    /// [`Denied`].
    pub async fn admit_or_fetch(&self, token: Option<&str>) -> Result<Grant, Denied> {
        match self.admit(token, SystemTime::now()) {
            Err(denied @ (Denied::UnknownKey | Denied::NoKeys)) => {
                let rules = self.rules.load_full();
                let Some(Tokens { keys: Keys::Published(fetching), .. }) = &rules.tokens else { return Err(denied) };
                if fetching.issuer.fetch_again().await { self.admit(token, SystemTime::now()) } else { Err(denied) }
            }
            outcome => outcome,
        }
    }

    /// Whether the holder of `grant` may ask for a seat in `room`.
    ///
    /// # Errors
    /// `unauthorized` for one who came in when no token was needed, `forbidden` for a room that is not granted.
    pub fn permit(&self, grant: &Grant, room: &RoomName) -> Result<(), Refusal> {
        if grant.is_open() && self.needs_token() {
            return Err(Refusal::new(Code::Unauthorized, "a token is needed now; connect again with one"));
        }
        if !grant.permits(room) {
            return Err(Refusal::new(Code::Forbidden, "the token is not for this room"));
        }
        Ok(())
    }

    /// Asks the webhook, if there is one, whether `id` may take a seat in `room`, and which ICE servers it is to use.
    ///
    /// # Errors
    /// `forbidden` when it says no, `unavailable` when it does not say anything.
    pub async fn ask(
        &self,
        grant: &Grant,
        room: &RoomName,
        id: PeerId,
        address: IpAddr,
    ) -> Result<Option<Vec<IceServer>>, Refusal> {
        let rules = self.rules.load_full();
        let Some(webhook) = &rules.webhook else { return Ok(None) };
        let asked = std::time::Instant::now();
        let answer = webhook.ask(Question { room, id, peer: grant.peer(), claims: grant.claims(), address }).await;
        self.metrics.webhook_answered(answer.name(), asked.elapsed());
        let unavailable = |message| Err(Refusal::new(Code::Unavailable, message));
        match answer {
            Answer::Allowed(ice) => Ok(ice),
            Answer::Denied { reason: None } => Err(Refusal::new(Code::Forbidden, "this room is not for you")),
            Answer::Denied { reason: Some(reason) } => Err(Refusal { code: Code::Forbidden, message: reason.into() }),
            Answer::Busy => unavailable("too many joins are being decided on; try again"),
            Answer::Failed => unavailable("this join cannot be decided on at the moment; try again"),
        }
    }
}

/// The keys that settings and files hold.
fn fixed_keys(settings: &config::Admission) -> Result<Option<KeySet>, BadAdmission> {
    let bad = |setting| move |bad: keys::BadKeys| BadAdmission { setting, complaint: bad.to_string() };
    if !settings.jwt_secret.is_empty() {
        return KeySet::of_secret(settings.jwt_secret.as_str().as_bytes()).map(Some).map_err(bad("jwt_secret"));
    }
    if !settings.jwt_public_key.is_empty() {
        return KeySet::of_pem(&settings.jwt_public_key).map(Some).map_err(bad("jwt_public_key"));
    }
    if settings.jwt_key_file == Path::new("") {
        return Ok(None);
    }
    let setting = "jwt_key_file";
    let text = std::fs::read_to_string(&settings.jwt_key_file)
        .map_err(|error| BadAdmission { setting, complaint: format!("cannot be read: {error}") })?;
    KeySet::of_file(&text).map(Some).map_err(bad(setting))
}

fn webhook_key(settings: &config::Admission) -> Result<Option<ring::hmac::Key>, BadAdmission> {
    if settings.webhook_url.is_empty() {
        return Ok(None);
    }
    let complaint = || "must be whsec_ and the base64 of 24 to 64 bytes".to_owned();
    let key = webhook::key(settings.webhook_secret.as_str());
    key.map(Some).ok_or_else(|| BadAdmission { setting: "webhook_secret", complaint: complaint() })
}

fn publication(settings: &config::Admission) -> Publication {
    Publication {
        url: settings.jwks_url.clone(),
        refresh: settings.jwks_refresh,
        min_interval: settings.jwks_min_interval,
        keep: settings.jwks_keep,
        timeout: settings.jwks_timeout,
    }
}

fn http(url: &str, connections: usize, setting: &'static str) -> Result<Http, BadAdmission> {
    let tls = url.starts_with("https:");
    Http::new(tls, connections).map_err(|error| BadAdmission { setting, complaint: error.without_url().to_string() })
}
