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
}

impl Seats {
    /// Checks what a type alone does not say.
    ///
    /// # Errors
    /// [`BadSettings`] names the key.
    pub fn validate(&self) -> Result<(), BadSettings> {
        if self.grace <= Duration::from_mins(10) {
            Ok(())
        } else {
            Err(BadSettings("seats.grace: must be at most 10m".into()))
        }
    }
}
