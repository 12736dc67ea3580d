//! The servers that help peers to reach each other (STUN), and relay for those that cannot (TURN), with credentials that end.
//!
//! Owns the shared secret. Credentials follow the TURN REST scheme (draft-uberti-behave-turn-rest-00, section 2.2), as coturn's
//! `use-auth-secret` takes them: nothing is told to the TURN server, which checks them by the same secret. Never logs
//! a secret, a username or a credential, and never talks to anybody.
//!
//! The username shows in the TURN server's logs. What it says of a peer is a number made of its id and of a key that this
//! process alone has: the same for all that one peer asks for, so that a quota for each user holds, and of no use to
//! anybody else. The id itself would let its reader into the peer's session.

use std::{
    fmt, fs,
    sync::{Arc, PoisonError, RwLock},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use ring::{hmac, rand::SystemRandom};
use serde::{Deserialize, Deserializer, Serialize, de};

use crate::config::{
    self,
    ice::{list, secrets},
};

/// A server as a page gives it to its `RTCPeerConnection`: <https://www.w3.org/TR/webrtc/#dom-rtciceserver>.
#[derive(Clone, PartialEq, Eq, Deserialize, Serialize)]
pub struct IceServer {
    /// Where it is, RFC 7064 and RFC 7065.
    #[serde(deserialize_with = "text_or_list")]
    pub urls: Vec<String>,
    /// Of a TURN server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub username: Option<String>,
    /// Of a TURN server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credential: Option<String>,
}

impl fmt::Debug for IceServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IceServer").field("urls", &self.urls).finish_non_exhaustive()
    }
}

/// `urls` may be one text.
fn text_or_list<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    struct TextOrList;
    impl<'de> de::Visitor<'de> for TextOrList {
        type Value = Vec<String>;
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a URL or a list of URLs")
        }
        fn visit_str<E>(self, text: &str) -> Result<Vec<String>, E> {
            Ok(vec![text.to_owned()])
        }
        fn visit_seq<A: de::SeqAccess<'de>>(self, seq: A) -> Result<Vec<String>, A::Error> {
            Deserialize::deserialize(de::value::SeqAccessDeserializer::new(seq))
        }
    }
    deserializer.deserialize_any(TextOrList)
}

/// Why the servers cannot be given out: one line that names the setting, and no secret.
#[derive(Debug, thiserror::Error)]
#[error("ice.{0}")]
pub struct BadIce(String);

/// What this node gives out.
pub struct Ice {
    current: RwLock<Arc<Offer>>,
    /// Makes users of what is not to be told.
    pseudonyms: hmac::Key,
}

impl fmt::Debug for Ice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ice").finish_non_exhaustive()
    }
}

/// Other settings, read and checked.
pub struct Prepared(Arc<Offer>);

impl fmt::Debug for Prepared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Prepared").finish_non_exhaustive()
    }
}

/// What settings say, ready for use.
struct Offer {
    stun: Vec<String>,
    turn: Vec<String>,
    /// There is one where there is a TURN server.
    secret: Option<hmac::Key>,
    lifetime: Duration,
    user_prefix: String,
}

impl Ice {
    /// What `settings` ask for. Reads the file of secrets, if there is one.
    ///
    /// # Errors
    /// [`BadIce`] when that file cannot be read, or does not hold what it should.
    pub fn new(settings: &config::Ice) -> Result<Self, BadIce> {
        let pseudonyms = hmac::Key::generate(hmac::HMAC_SHA256, &SystemRandom::new())
            .map_err(|_| BadIce("turn: the system gives no random numbers".into()))?;
        Ok(Self { current: RwLock::new(Arc::new(Offer::new(settings)?)), pseudonyms })
    }

    /// Reads other settings, and what the file of secrets holds now.
    ///
    /// # Errors
    /// As [`Ice::new`].
    pub fn prepare(settings: &config::Ice) -> Result<Prepared, BadIce> {
        Offer::new(settings).map(|offer| Prepared(Arc::new(offer)))
    }

    /// Takes what was prepared. Credentials that were given out stay as they are.
    pub fn take(&self, Prepared(offer): Prepared) {
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = offer;
    }

    /// The servers, for one holder, of whom nothing is told but that it is the same one; empty when there are none. Credentials
    /// end [`Ice::lifetime`] after `now`.
    #[must_use]
    pub fn servers(&self, holder: &[u8], now: SystemTime) -> Vec<IceServer> {
        let offer = self.offer();
        let mut servers = Vec::new();
        if !offer.stun.is_empty() {
            servers.push(IceServer { urls: offer.stun.clone(), username: None, credential: None });
        }
        if let (false, Some(secret)) = (offer.turn.is_empty(), &offer.secret) {
            let expiry = now.duration_since(UNIX_EPOCH).unwrap_or_default() + offer.lifetime;
            let username = format!("{}:{}", expiry.as_secs(), self.user(&offer.user_prefix, holder));
            let credential = STANDARD.encode(hmac::sign(secret, username.as_bytes()));
            let (username, credential) = (Some(username), Some(credential));
            servers.push(IceServer { urls: offer.turn.clone(), username, credential });
        }
        servers
    }

    /// How long credentials can be used.
    #[must_use]
    pub fn lifetime(&self) -> Duration {
        self.offer().lifetime
    }

    fn offer(&self) -> Arc<Offer> {
        Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn user(&self, prefix: &str, holder: &[u8]) -> String {
        let tag = hmac::sign(&self.pseudonyms, holder);
        let number = tag.as_ref().first_chunk().copied().map_or(0, u64::from_be_bytes);
        let separator = if prefix.is_empty() { "" } else { "-" };
        format!("{prefix}{separator}{number:016x}")
    }
}

impl Offer {
    fn new(settings: &config::Ice) -> Result<Self, BadIce> {
        let urls = |text: &str| list(text).map(str::to_owned).collect();
        // What TURN servers are made for: the name says why nobody else should sign by it.
        let key = |secret: &str| hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, secret.as_bytes());
        let secret = if settings.secret_file.as_os_str().is_empty() {
            secrets(&settings.secret).ok().and_then(|all| all.first().map(|first| key(first)))
        } else {
            let bad = |complaint: String| BadIce(format!("secret_file: {complaint}"));
            let text = fs::read_to_string(&settings.secret_file)
                .map_err(|error| bad(format!("{}: {error}", settings.secret_file.display())))?;
            secrets(&text).map_err(bad)?.first().map(|first| key(first))
        };
        if secret.is_none() && !settings.turn.is_empty() {
            return Err(BadIce("secret: is missing".into()));
        }
        Ok(Self {
            stun: urls(&settings.stun),
            turn: urls(&settings.turn),
            secret,
            lifetime: settings.lifetime,
            user_prefix: settings.user_prefix.clone(),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use serde_json::json;

    use super::*;

    const SECRET: &str = "north-of-the-river";

    fn settings() -> config::Ice {
        config::Ice {
            stun: "stun:a".into(),
            turn: "turn:a, turn:a?transport=tcp".into(),
            secret: SECRET.into(),
            secret_file: PathBuf::new(),
            lifetime: Duration::from_hours(1),
            user_prefix: "duet".into(),
        }
    }

    fn at(seconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(seconds)
    }

    /// Signed by other means: `printf %s "$username" | openssl dgst -sha1 -hmac "$secret" -binary | base64`.
    #[test]
    fn a_credential_is_what_the_scheme_says() {
        let key = hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, SECRET.as_bytes());
        let tag = STANDARD.encode(hmac::sign(&key, b"1700003600:duet-0123456789abcdef"));
        assert_eq!(tag, "Dm/B8UyO2H0hJYP0NYELuaWiIrQ=");
        let ice = Ice::new(&settings()).expect("valid");
        let servers = ice.servers(b"a peer", at(1_700_000_000));
        let username = servers[1].username.as_deref().expect("a username");
        assert!(username.starts_with("1700003600:duet-") && username.len() == 32, "{username}");
        let signed = STANDARD.encode(hmac::sign(&key, username.as_bytes()));
        assert_eq!(servers[1].credential.as_deref(), Some(&*signed));
        assert_eq!(servers[1].urls, ["turn:a", "turn:a?transport=tcp"]);
        assert_eq!(servers[0], IceServer { urls: vec!["stun:a".into()], username: None, credential: None });
    }

    #[test]
    fn a_user_is_the_same_for_one_holder_and_tells_nothing_of_it() {
        let user = |ice: &Ice, holder: &[u8], now| {
            let username = ice.servers(holder, at(now))[1].username.clone().expect("a username");
            username.split_once(':').expect("two parts").1.to_owned()
        };
        let (ice, elsewhere) = (Ice::new(&settings()).expect("valid"), Ice::new(&settings()).expect("valid"));
        assert_eq!(user(&ice, b"one", 1), user(&ice, b"one", 99));
        assert_ne!(user(&ice, b"one", 1), user(&ice, b"other", 1));
        assert_ne!(user(&ice, b"one", 1), user(&elsewhere, b"one", 1), "the key is a process's own");
    }

    #[test]
    fn nothing_is_given_out_that_was_not_asked_for() {
        let none = config::Ice { stun: String::new(), turn: String::new(), ..settings() };
        assert_eq!(Ice::new(&none).expect("valid").servers(b"x", at(0)), []);
        let stun = config::Ice { turn: String::new(), ..settings() };
        assert_eq!(Ice::new(&stun).expect("valid").servers(b"x", at(0)).len(), 1);
        let keyless = config::Ice { secret: String::new(), ..settings() };
        assert_eq!(Ice::new(&keyless).expect_err("no secret").to_string(), "ice.secret: is missing");
    }

    #[test]
    fn after_a_reload_the_first_secret_of_the_file_signs() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        let write = |text: &str| fs::write(file.path(), text).expect("written");
        let settings = config::Ice { secret: String::new(), secret_file: file.path().into(), ..settings() };
        let signs = |ice: &Ice, secret: &str| {
            let server = ice.servers(b"x", at(1)).pop().expect("TURN");
            let key = hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, secret.as_bytes());
            let username = server.username.expect("a username");
            server.credential == Some(STANDARD.encode(hmac::sign(&key, username.as_bytes())))
        };
        write("the-secret-of-old\n");
        let ice = Ice::new(&settings).expect("valid");
        assert!(signs(&ice, "the-secret-of-old"));
        write("the-secret-of-new\nthe-secret-of-old\n");
        assert!(signs(&ice, "the-secret-of-old"), "not before it is told");
        ice.take(Ice::prepare(&settings).expect("valid"));
        assert!(signs(&ice, "the-secret-of-new"));
        write("short\n");
        let error = Ice::prepare(&settings).expect_err("too short").to_string();
        assert!(error.starts_with("ice.secret_file: ") && !error.contains("short\n"), "{error}");
        assert!(signs(&ice, "the-secret-of-new"), "what cannot be used changes nothing");
        fs::remove_file(file.path()).expect("removed");
        let error = Ice::prepare(&settings).expect_err("gone").to_string();
        assert!(error.starts_with("ice.secret_file: ") && !error.contains('\n'), "{error}");
    }

    #[test]
    fn a_server_is_read_and_written_as_browsers_do_and_shows_no_credential() {
        let read = |value| serde_json::from_value::<IceServer>(value);
        let full = json!({"urls": ["turn:a"], "username": "u", "credential": "hidden-c"});
        let server = read(full.clone()).expect("a list");
        assert_eq!(serde_json::to_value(&server).expect("JSON"), full);
        assert!(!format!("{server:?} {:?} {:?}", Ice::new(&settings()), settings()).contains("hidden-c"));
        assert!(!format!("{:?} {:?}", Ice::new(&settings()), settings()).contains(SECRET));
        let bare = read(json!({"urls": "stun:a", "credentialType": "password"})).expect("a text");
        assert_eq!(serde_json::to_value(bare).expect("JSON"), json!({"urls": ["stun:a"]}));
        for wrong in [json!({}), json!({"urls": 1}), json!({"urls": [1]}), json!({"urls": null})] {
            assert!(read(wrong.clone()).is_err(), "{wrong}");
        }
    }
}
