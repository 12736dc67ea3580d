//! The keys that tokens are checked with: read from a secret, a PEM file, a JSON Web Key Set (RFC 7517), or fetched.
//!
//! Invariant: a key has one algorithm, known before any token is seen. A token's header chooses among keys, never how
//! one of them is used: an RSA key can be no HMAC secret, and nothing is ever accepted unsigned.

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use jsonwebtoken::{
    Algorithm, DecodingKey, DecodingKeyKind, Validation,
    crypto::{CryptoProvider, JwtVerifier, KeyUtils},
    errors::{Error, ErrorKind},
    jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyAlgorithm, KeyOperations, PublicKeyUse},
    signature::{Error as Wrong, Verifier},
};
use ring::{hmac, signature};
use tokio::{
    sync::{Notify, watch},
    time::{Instant, sleep_until, timeout},
};

use super::outbound::{self, Http};
use crate::{config::admission::SECRET_BYTES, lifecycle::Latch, metrics::Metrics};

/// Keys of one set. A token without a key id is tried with each of its algorithm.
const KEYS: usize = 32;
/// Bytes of a fetched set.
const SET_BYTES: usize = 256 * 1024;
/// Bytes of the modulus of the shortest RSA key (RFC 7518, section 3.3).
const MODULUS_BYTES: usize = 2048 / 8;
/// An uncompressed point of P-256 (SEC 1, section 2.3.3).
const POINT_BYTES: usize = 65;
/// RFC 8032, section 5.1.5.
const ED25519_BYTES: usize = 32;

/// Why there is no key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct BadKeys(&'static str);

/// A key and what it is for.
#[derive(Debug)]
pub struct Key {
    id: Option<Box<str>>,
    algorithm: Algorithm,
    material: DecodingKey,
    /// What the library is to check: the signature, by this algorithm.
    validation: Validation,
}

impl Key {
    fn new(id: Option<&str>, algorithm: Algorithm, material: DecodingKey) -> Self {
        use_ring();
        let mut validation = Validation::new(algorithm);
        // Claims are read against a clock that is passed in.
        validation.required_spec_claims.clear();
        validation.validate_exp = false;
        validation.validate_aud = false;
        Self { id: id.map(Into::into), algorithm, material, validation }
    }

    /// The algorithm it is for.
    #[must_use]
    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// The payload of a token that this key's owner signed.
    ///
    /// # Errors
    /// What the library says; it never quotes the token.
    pub fn verify<T: serde::de::DeserializeOwned>(&self, token: &str) -> Result<T, Error> {
        jsonwebtoken::decode(token, &self.material, &self.validation).map(|decoded| decoded.claims)
    }
}

/// All keys that are good at a time.
#[derive(Debug)]
pub struct KeySet(Vec<Key>);

impl KeySet {
    /// The key of HS256.
    ///
    /// # Errors
    /// When it is too short.
    pub fn of_secret(secret: &[u8]) -> Result<Self, BadKeys> {
        if secret.len() < SECRET_BYTES {
            return Err(BadKeys("a secret needs at least 32 bytes"));
        }
        Ok(Self(vec![Key::new(None, Algorithm::HS256, DecodingKey::from_secret(secret))]))
    }

    /// A public key, in PEM (RFC 7468, section 13).
    ///
    /// # Errors
    /// When it is none, or none of a kind that is used here.
    pub fn of_pem(pem: &str) -> Result<Self, BadKeys> {
        if !pem.contains("-----BEGIN PUBLIC KEY-----") && !pem.contains("-----BEGIN RSA PUBLIC KEY-----") {
            return Err(BadKeys("no public key in PEM (it begins with -----BEGIN PUBLIC KEY-----)"));
        }
        let bytes = pem.trim().as_bytes();
        let read = DecodingKey::from_rsa_pem(bytes)
            .map(|key| (Algorithm::RS256, key))
            .or_else(|_| DecodingKey::from_ec_pem(bytes).map(|key| (Algorithm::ES256, key)))
            .or_else(|_| DecodingKey::from_ed_pem(bytes).map(|key| (Algorithm::EdDSA, key)));
        let Ok((algorithm, key)) = read else {
            return Err(BadKeys("the public key is neither RSA nor P-256 nor Ed25519"));
        };
        check_size(algorithm, &key)?;
        Ok(Self(vec![Key::new(None, algorithm, key)]))
    }

    /// The keys of a JSON Web Key Set that are used here; others are passed over. With `secrets`, also those of HS256: of a
    /// set that is published they would not be secret.
    ///
    /// # Errors
    /// When it is no such set, or none of its keys can be used.
    pub fn of_jwks(json: &str, secrets: bool) -> Result<Self, BadKeys> {
        #[derive(serde::Deserialize)]
        struct Set {
            keys: Vec<serde_json::Value>,
        }
        let set: Set = serde_json::from_str(json).map_err(|_| BadKeys("no JSON Web Key Set ({\"keys\": […]})"))?;
        let keys = set.keys.into_iter().filter_map(|key| of_jwk(&serde_json::from_value(key).ok()?, secrets));
        let keys: Vec<_> = keys.take(KEYS).collect();
        if keys.is_empty() {
            return Err(BadKeys("the set has no key for RS256, ES256 or EdDSA that can be used"));
        }
        Ok(Self(keys))
    }

    /// What a file holds: PEM, or a set.
    ///
    /// # Errors
    /// As [`KeySet::of_pem`] and [`KeySet::of_jwks`].
    pub fn of_file(text: &str) -> Result<Self, BadKeys> {
        if text.trim_start().starts_with('{') { Self::of_jwks(text, true) } else { Self::of_pem(text) }
    }

    /// The keys that a token which names `id` may be signed with.
    pub fn named<'a>(&'a self, id: Option<&'a str>) -> impl Iterator<Item = &'a Key> {
        self.0.iter().filter(move |key| match (&key.id, id) {
            (Some(key), Some(id)) => **key == *id,
            (None, _) | (_, None) => true,
        })
    }
}

/// A key of a set, if it is one that is used here.
fn of_jwk(jwk: &Jwk, secrets: bool) -> Option<Key> {
    let common = &jwk.common;
    let for_signatures = common.public_key_use.as_ref().is_none_or(|of| *of == PublicKeyUse::Signature)
        && common.key_operations.as_ref().is_none_or(|list| list.contains(&KeyOperations::Verify));
    let (algorithm, named) = match &jwk.algorithm {
        AlgorithmParameters::RSA(_) => (Algorithm::RS256, KeyAlgorithm::RS256),
        AlgorithmParameters::EllipticCurve(key) if key.curve == EllipticCurve::P256 => {
            (Algorithm::ES256, KeyAlgorithm::ES256)
        }
        AlgorithmParameters::OctetKeyPair(key) if key.curve == EllipticCurve::Ed25519 => {
            (Algorithm::EdDSA, KeyAlgorithm::EdDSA)
        }
        AlgorithmParameters::OctetKey(_) if secrets => (Algorithm::HS256, KeyAlgorithm::HS256),
        _ => return None,
    };
    if !for_signatures || common.key_algorithm.is_some_and(|of| of != named) {
        return None;
    }
    let key = DecodingKey::from_jwk(jwk).ok()?;
    check_size(algorithm, &key).ok()?;
    Some(Key::new(common.key_id.as_deref(), algorithm, key))
}

/// Refuses at the start what could never check a token.
fn check_size(algorithm: Algorithm, key: &DecodingKey) -> Result<(), BadKeys> {
    let bytes = match key.kind() {
        DecodingKeyKind::SecretOrDer(bytes) => bytes.len(),
        DecodingKeyKind::RsaModulusExponent { n, .. } => n.len(),
    };
    match algorithm {
        Algorithm::RS256 if bytes < MODULUS_BYTES => Err(BadKeys("an RSA key needs at least 2048 bits")),
        Algorithm::ES256 if bytes != POINT_BYTES => Err(BadKeys("the key is on another curve than P-256")),
        Algorithm::EdDSA if bytes != ED25519_BYTES => Err(BadKeys("the key is not one of Ed25519")),
        Algorithm::HS256 if bytes < SECRET_BYTES => Err(BadKeys("a secret needs at least 32 bytes")),
        _ => Ok(()),
    }
}

/// Lets the library check signatures with ring.
fn use_ring() {
    static RING: CryptoProvider = CryptoProvider {
        signer_factory: |_, _| Err(ErrorKind::UnsupportedAlgorithm.into()),
        verifier_factory: |algorithm, key| {
            Ok(Box::new(Ring { algorithm: *algorithm, key: key.clone() }) as Box<dyn JwtVerifier>)
        },
        // For making key sets, which is never done here.
        key_utils: KeyUtils::new_unimplemented(),
    };
    static INSTALLED: OnceLock<()> = OnceLock::new();
    INSTALLED.get_or_init(|| {
        let _ = RING.install_default();
    });
}

/// Checks the signature of one token.
struct Ring {
    algorithm: Algorithm,
    key: DecodingKey,
}

impl Ring {
    fn holds(&self, message: &[u8], mac: &[u8]) -> Option<()> {
        let by = |algorithm: &'static dyn signature::VerificationAlgorithm| {
            let key = self.key.try_get_as_bytes().ok()?;
            signature::UnparsedPublicKey::new(algorithm, key).verify(message, mac).ok()
        };
        match (self.algorithm, self.key.kind()) {
            (Algorithm::HS256, DecodingKeyKind::SecretOrDer(secret)) => {
                hmac::verify(&hmac::Key::new(hmac::HMAC_SHA256, secret), message, mac).ok()
            }
            (Algorithm::RS256, DecodingKeyKind::RsaModulusExponent { n, e }) => {
                let key = signature::RsaPublicKeyComponents { n, e };
                key.verify(&signature::RSA_PKCS1_2048_8192_SHA256, message, mac).ok()
            }
            (Algorithm::RS256, DecodingKeyKind::SecretOrDer(_)) => by(&signature::RSA_PKCS1_2048_8192_SHA256),
            (Algorithm::ES256, _) => by(&signature::ECDSA_P256_SHA256_FIXED),
            (Algorithm::EdDSA, _) => by(&signature::ED25519),
            _ => None,
        }
    }
}

impl Verifier<Vec<u8>> for Ring {
    fn verify(&self, message: &[u8], mac: &Vec<u8>) -> Result<(), Wrong> {
        if self.key.family() != self.algorithm.family() {
            return Err(Wrong::new());
        }
        self.holds(message, mac).ok_or_else(Wrong::new)
    }
}

impl JwtVerifier for Ring {
    fn algorithm(&self) -> Algorithm {
        self.algorithm
    }
}

/// Where an issuer publishes its keys, and how often it may be asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Publication {
    /// `jwks_url`
    pub url: String,
    /// `jwks_refresh`
    pub refresh: Duration,
    /// `jwks_min_interval`
    pub min_interval: Duration,
    /// `jwks_keep`
    pub keep: Duration,
    /// `jwks_timeout`
    pub timeout: Duration,
}

/// What is known of an issuer's keys.
#[derive(Clone, Debug, Default)]
struct Known {
    /// The last good set, and when it was fetched.
    set: Option<(Arc<KeySet>, Instant)>,
    /// When the last fetch ended.
    asked: Option<Instant>,
    /// How many have ended.
    fetches: u64,
    /// One is under way.
    fetching: bool,
}

impl Known {
    fn keys(&self, now: Instant, keep: Duration) -> Option<Arc<KeySet>> {
        self.set.as_ref().filter(|(_, fetched)| now < *fetched + keep).map(|(keys, _)| Arc::clone(keys))
    }

    /// When the next fetch may begin, and when it has to: at once when none ended yet.
    fn next(&self, publication: &Publication) -> Option<(Instant, Instant)> {
        let asked = self.asked?;
        let well = self.set.as_ref().is_some_and(|(_, fetched)| *fetched == asked);
        let due = if well { publication.refresh } else { publication.min_interval };
        Some((asked + publication.min_interval, asked + due))
    }
}

/// The keys that an issuer publishes, fetched by one task; whoever needs a newer set waits for it.
#[derive(Debug)]
pub struct Issuer {
    publication: Publication,
    known: watch::Sender<Known>,
    wanted: Notify,
}

impl Issuer {
    /// Nothing is known yet: [`Issuer::run`] has to be run.
    #[must_use]
    pub fn new(publication: Publication) -> Arc<Self> {
        Arc::new(Self { publication, known: watch::Sender::default(), wanted: Notify::new() })
    }

    /// What it was made with.
    #[must_use]
    pub fn publication(&self) -> &Publication {
        &self.publication
    }

    /// The keys that are good now.
    #[must_use]
    pub fn keys(&self) -> Option<Arc<KeySet>> {
        self.known.borrow().keys(Instant::now(), self.publication.keep)
    }

    /// Has the set fetched again if it may be, and waits for it; tells whether it was. However many ask, and whatever
    /// for, the issuer is asked no more often than its settings allow.
    pub async fn fetch_again(&self) -> bool {
        let mut known = self.known.subscribe();
        let before = {
            let known = known.borrow_and_update();
            let may = known.fetching
                || known.asked.is_none_or(|asked| Instant::now() >= asked + self.publication.min_interval);
            if !may {
                // As soon as it may be, for those who come then.
                self.wanted.notify_one();
                return false;
            }
            if !known.fetching {
                self.wanted.notify_one();
            }
            known.fetches
        };
        // A fetch ends in time. There is none any more when the node stops.
        let fetched = known.wait_for(|known| known.fetches > before);
        timeout(self.publication.timeout * 2, fetched).await.is_ok_and(|fetched| fetched.is_ok())
    }

    /// Fetches the set for as long as the node runs. The first one frees `latch`.
    pub async fn run(self: Arc<Self>, http: Http, metrics: Metrics, latch: Latch) {
        let (mut fails, mut latch) = (false, Some(latch));
        loop {
            let next = self.known.borrow().next(&self.publication);
            if let Some((may, must)) = next {
                sleep_until(may).await;
                tokio::select! {
                    () = self.wanted.notified() => {}
                    () = sleep_until(must) => {}
                }
            }
            self.known.send_modify(|known| known.fetching = true);
            let fetched = self.fetch(&http).await;
            metrics.jwks_fetched(fetched.is_ok());
            match &fetched {
                Ok(_) if fails => tracing::info!("the issuer's keys can be fetched again"),
                // Once, not for every fetch.
                Err(error) if !fails => tracing::warn!(%error, "the issuer's keys cannot be fetched"),
                Ok(_) | Err(_) => {}
            }
            fails = fetched.is_err();
            let now = Instant::now();
            self.known.send_modify(|known| {
                known.fetching = false;
                known.fetches += 1;
                known.asked = Some(now);
                if let Ok(keys) = fetched {
                    known.set = Some((Arc::new(keys), now));
                    latch = None;
                }
            });
        }
    }

    async fn fetch(&self, http: &Http) -> Result<KeySet, Unfetched> {
        let body = http.get(&self.publication.url, SET_BYTES, self.publication.timeout).await?;
        let json = std::str::from_utf8(&body).map_err(|_| BadKeys("it is not text"))?;
        Ok(KeySet::of_jwks(json, false)?)
    }
}

/// Why there is no new set.
#[derive(Debug, thiserror::Error)]
enum Unfetched {
    #[error(transparent)]
    Unanswered(#[from] outbound::Unanswered),
    #[error(transparent)]
    Unusable(#[from] BadKeys),
}

#[cfg(test)]
mod tests {
    use super::*;

    fn publication() -> Publication {
        let [refresh, min_interval, keep, timeout] = [600, 30, 3600, 5].map(Duration::from_secs);
        Publication { url: String::new(), refresh, min_interval, keep, timeout }
    }

    fn oct() -> String {
        use base64::Engine as _;
        let k = base64::engine::general_purpose::URL_SAFE_NO_PAD.encode([7; 32]);
        format!(r#"{{"keys":[{{"kty":"oct","kid":"a","k":"{k}"}}]}}"#)
    }

    #[test]
    fn a_published_set_has_no_secrets_and_keys_for_other_uses_are_passed_over() {
        assert!(KeySet::of_jwks(&oct(), true).is_ok());
        assert!(KeySet::of_jwks(&oct(), false).is_err());
        for other in [
            r#""kty":"oct","k":"c2hvcnQ""#,
            r#""kty":"oct","alg":"HS512","k":"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA""#,
            r#""kty":"oct","use":"enc","k":"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA""#,
            r#""kty":"oct","key_ops":["sign"],"k":"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA""#,
            r#""kty":"RSA","n":"AQAB","e":"AQAB""#,
            r#""kty":"EC","crv":"P-384","x":"AA","y":"AA""#,
            r#""kty":"EC","crv":"P-256","x":"AA","y":"AA""#,
            r#""kty":"OKP","crv":"Ed25519","x":"AA""#,
            r#""kty":"OKP","crv":"Ed448","x":"AA""#,
            r#""kty":"novel""#,
        ] {
            assert!(KeySet::of_jwks(&format!(r#"{{"keys":[{{{other}}}]}}"#), true).is_err(), "{other}");
        }
        for nothing in ["", "[]", "{}", r#"{"keys":[]}"#, r#"{"keys":[1]}"#] {
            assert!(KeySet::of_jwks(nothing, true).is_err(), "{nothing}");
        }
    }

    #[test]
    fn a_private_key_a_certificate_and_noise_are_no_public_key() {
        for text in ["", "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----", "-----BEGIN CERTIFICATE-----"]
        {
            assert!(KeySet::of_pem(text).is_err(), "{text}");
        }
        assert!(KeySet::of_pem("-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----").is_err());
        assert!(KeySet::of_secret(&[1; 31]).is_err());
    }

    #[test]
    fn a_key_is_found_by_its_id_and_one_without_an_id_is_any() {
        let set = KeySet::of_jwks(&oct(), true).expect("a set");
        assert_eq!((set.named(Some("a")).count(), set.named(Some("b")).count(), set.named(None).count()), (1, 0, 1));
        assert_eq!(KeySet::of_secret(&[1; 32]).expect("a key").named(Some("b")).count(), 1);
    }

    #[tokio::test]
    async fn the_last_good_keys_are_kept_for_so_long_and_no_longer() {
        let (publication, now) = (publication(), Instant::now());
        let mut known = Known { asked: Some(now), ..Known::default() };
        assert!(known.keys(now, publication.keep).is_none());
        assert_eq!(known.next(&publication), Some((now + publication.min_interval, now + publication.min_interval)));
        known.set = Some((Arc::new(KeySet::of_secret(&[1; 32]).expect("a key")), now));
        assert_eq!(known.next(&publication), Some((now + publication.min_interval, now + publication.refresh)));
        let end = now + publication.keep;
        assert!(known.keys(end.checked_sub(Duration::from_secs(1)).expect("later"), publication.keep).is_some());
        assert!(known.keys(end, publication.keep).is_none());
        assert_eq!(Known::default().next(&publication), None);
    }
}
