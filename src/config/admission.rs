//! `[admission]`: who may come in.

use std::{fmt, path::PathBuf, time::Duration};

use serde::{Deserialize, Serialize};

use super::{BadSettings, is_base_url};

/// Bytes of the shortest secret that HS256 may be used with (RFC 7518, section 3.2).
pub const SECRET_BYTES: usize = 32;

/// `[admission]`
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Admission {
    /// `DUET_ADMISSION__JWT_SECRET`: what tokens are signed with, by HS256.
    pub jwt_secret: Secret,
    /// `DUET_ADMISSION__JWT_PUBLIC_KEY`: a public key (PEM) of whoever signs them, by RS256, ES256 or `EdDSA`.
    pub jwt_public_key: String,
    /// `DUET_ADMISSION__JWT_KEY_FILE`: a file with such a key, or a JSON Web Key Set (RFC 7517).
    pub jwt_key_file: PathBuf,
    /// `DUET_ADMISSION__JWKS_URL`: where the issuer publishes its JSON Web Key Set.
    pub jwks_url: String,
    /// `DUET_ADMISSION__JWKS_REFRESH`: how often the set is fetched.
    #[serde(with = "humantime_serde")]
    pub jwks_refresh: Duration,
    /// `DUET_ADMISSION__JWKS_MIN_INTERVAL`: between two fetches at least, whatever keys tokens name.
    #[serde(with = "humantime_serde")]
    pub jwks_min_interval: Duration,
    /// `DUET_ADMISSION__JWKS_KEEP`: how long the last set is good while the issuer cannot be reached.
    #[serde(with = "humantime_serde")]
    pub jwks_keep: Duration,
    /// `DUET_ADMISSION__JWKS_TIMEOUT`: until a fetch is given up.
    #[serde(with = "humantime_serde")]
    pub jwks_timeout: Duration,
    /// `DUET_ADMISSION__ISSUER`: the `iss` that a token must have; empty for any.
    pub issuer: String,
    /// `DUET_ADMISSION__AUDIENCE`: what a token's `aud` must be or contain; empty for any.
    pub audience: String,
    /// `DUET_ADMISSION__LEEWAY`: how far the clocks of this node and of the issuer may be apart.
    #[serde(with = "humantime_serde")]
    pub leeway: Duration,
    /// `DUET_ADMISSION__DEFAULT_ROOMS`: the rooms of a token that names none, as a list of names and patterns.
    pub default_rooms: String,
    /// `DUET_ADMISSION__WEBHOOK_URL`: who is asked before a seat is taken; empty for nobody.
    pub webhook_url: String,
    /// `DUET_ADMISSION__WEBHOOK_SECRET`: what the questions are signed with: `whsec_` and base64 (Standard Webhooks).
    pub webhook_secret: Secret,
    /// `DUET_ADMISSION__WEBHOOK_TIMEOUT`: until an answer must be there.
    #[serde(with = "humantime_serde")]
    pub webhook_timeout: Duration,
    /// `DUET_ADMISSION__WEBHOOK_CONCURRENCY`: questions of this node that may wait for their answer at a time.
    pub webhook_concurrency: usize,
}

impl Admission {
    /// Whether a token is needed.
    #[must_use]
    pub fn needs_tokens(&self) -> bool {
        self.sources() > 0
    }

    /// How many of the settings say where keys come from.
    fn sources(&self) -> usize {
        let given = [
            !self.jwt_secret.is_empty(),
            !self.jwt_public_key.is_empty(),
            !self.jwt_key_file.as_os_str().is_empty(),
            !self.jwks_url.is_empty(),
        ];
        given.into_iter().filter(|given| *given).count()
    }

    /// Checks what a type alone does not say. Keys are read by the part that uses them.
    pub(super) fn validate(&self) -> Result<(), BadSettings> {
        let require = |holds: bool, complaint: &str| {
            if holds { Ok(()) } else { Err(BadSettings(format!("admission.{complaint}"))) }
        };
        require(
            self.sources() <= 1,
            "jwt_secret, jwt_public_key, jwt_key_file and jwks_url: give one of them at most",
        )?;
        require(
            self.jwt_secret.is_empty() || self.jwt_secret.as_str().len() >= SECRET_BYTES,
            "jwt_secret: must have at least 32 bytes",
        )?;
        let is_url = |text: &str| text.is_empty() || is_base_url(text);
        require(is_url(&self.jwks_url), "jwks_url: must be http:// or https://, without a query")?;
        require(is_url(&self.webhook_url), "webhook_url: must be http:// or https://, without a query")?;
        require(
            self.webhook_url.is_empty() == self.webhook_secret.is_empty(),
            "webhook_url and webhook_secret: give both or neither",
        )?;
        for (name, value, least, most) in [
            ("jwks_refresh", self.jwks_refresh, Duration::from_secs(1), Duration::from_hours(24)),
            ("jwks_min_interval", self.jwks_min_interval, Duration::from_millis(100), Duration::from_hours(1)),
            ("jwks_keep", self.jwks_keep, Duration::from_secs(1), Duration::from_hours(24 * 30)),
            ("jwks_timeout", self.jwks_timeout, Duration::from_millis(100), Duration::from_mins(1)),
            ("leeway", self.leeway, Duration::ZERO, Duration::from_mins(10)),
            ("webhook_timeout", self.webhook_timeout, Duration::from_millis(100), Duration::from_mins(1)),
        ] {
            let holds = (least..=most).contains(&value);
            require(holds, &format!("{name}: must be between {least:?} and {most:?}"))?;
        }
        require(self.jwks_min_interval <= self.jwks_refresh, "jwks_min_interval: must be at most jwks_refresh")?;
        require(self.jwks_refresh <= self.jwks_keep, "jwks_keep: must be at least jwks_refresh")?;
        require((1..=10_000).contains(&self.webhook_concurrency), "webhook_concurrency: must be between 1 and 10000")
    }
}

/// A text that is never shown.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// The text itself.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether none was given.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn shown(&self) -> &'static str {
        if self.is_empty() { "" } else { "***" }
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.shown())
    }
}

impl Serialize for Secret {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.shown())
    }
}
