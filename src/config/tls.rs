//! `[tls]`: HTTPS in the process, for those without a balancer that does it.

use std::{path::PathBuf, time::Duration};

use serde::{Deserialize, Serialize};

use super::BadSettings;

/// `[tls]`
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Tls {
    /// `DUET_TLS__CERT_FILE`: the certificate and its chain (PEM), the server's own first; empty for plain HTTP.
    pub cert_file: PathBuf,
    /// `DUET_TLS__KEY_FILE`: its key (PEM).
    pub key_file: PathBuf,
    /// `DUET_TLS__WATCH`: how often the two files are looked at for a change; zero for at SIGHUP only.
    #[serde(with = "humantime_serde")]
    pub watch: Duration,
}

impl Tls {
    /// Whether the public listener speaks TLS.
    #[must_use]
    pub fn is_on(&self) -> bool {
        !self.cert_file.as_os_str().is_empty()
    }

    pub(super) fn validate(&self) -> Result<(), BadSettings> {
        BadSettings::unless(
            self.cert_file.as_os_str().is_empty() == self.key_file.as_os_str().is_empty(),
            "tls.cert_file and tls.key_file: give both or neither",
        )?;
        BadSettings::unless(
            self.watch.is_zero() || (Duration::from_millis(100)..=Duration::from_hours(24)).contains(&self.watch),
            "tls.watch: must be 0s, or between 100ms and 1day",
        )
    }
}
