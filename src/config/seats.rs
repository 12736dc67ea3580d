//! `[seats]`

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::BadSettings;

/// `[seats]`
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Seats {
    /// `DUET_SEATS__GRACE`: how long a seat is kept for a peer that was lost without a word and can take it back; 0 for not at
    /// all. The same on all nodes.
    #[serde(with = "humantime_serde")]
    pub grace: Duration,
    /// `DUET_SEATS__KEEP_MESSAGES`: messages that are kept of one peer for the other while that is away, and of
    /// those handed on lately that are remembered; 0: none are.
    pub keep_messages: usize,
    /// `DUET_SEATS__KEEP_BYTES`: bytes of them.
    pub keep_bytes: usize,
    /// `DUET_SEATS__KEEP_AGE`: how long an offer or a candidate is kept for a peer that has not come yet.
    #[serde(with = "humantime_serde")]
    pub keep_age: Duration,
    /// `DUET_SEATS__KEEP_BYTES_TOTAL`: bytes of all that the sockets of this node have sent to peers that are away,
    /// and of all that is remembered.
    pub keep_bytes_total: usize,
}

impl Seats {
    /// Checks what a type alone does not say.
    ///
    /// # Errors
    /// [`BadSettings`] names the key.
    pub fn validate(&self) -> Result<(), BadSettings> {
        if self.grace > Duration::from_mins(10) {
            return Err(BadSettings("seats.grace: must be at most 10m".into()));
        }
        if self.keep_messages > 10_000 {
            return Err(BadSettings("seats.keep_messages: must be at most 10000".into()));
        }
        if self.keep_bytes > 16 << 20 {
            return Err(BadSettings("seats.keep_bytes: must be at most 16777216".into()));
        }
        if self.keep_age > Duration::from_mins(10) {
            return Err(BadSettings("seats.keep_age: must be at most 10m".into()));
        }
        Ok(())
    }
}
