//! What things are called: rooms, peers, connection generations, nodes.
//!
//! Every name is checked where it enters; a value of one of these types is valid for good, and none can be taken for
//! another. This module knows no socket and no store.

use std::{fmt, sync::Arc};

pub use engineioxide::socket::Sid;

/// The longest room name, in characters (Unicode scalar values).
pub const ROOM_NAME_CHARS: usize = 128;

/// A valid room name: 1 to [`ROOM_NAME_CHARS`] characters, none of them a control character. Cheap to clone.
///
/// Names are compared byte by byte: neither case nor Unicode form is folded.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RoomName(Arc<str>);

/// Why a text is no room name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadRoomName {
    /// It has no character.
    #[error("a room name needs at least one character")]
    Empty,
    /// It has more than [`ROOM_NAME_CHARS`] characters.
    #[error("a room name has at most {ROOM_NAME_CHARS} characters")]
    TooLong,
    /// It has a control character (Unicode category Cc).
    #[error("a room name has no control characters")]
    Control,
}

impl RoomName {
    /// Checks `name`.
    ///
    /// # Errors
    /// [`BadRoomName`] says what is wrong with it; it is never cut or changed to fit.
    pub fn parse(name: &str) -> Result<Self, BadRoomName> {
        if name.is_empty() {
            return Err(BadRoomName::Empty);
        }
        // A character has at most four bytes: the length alone refuses the very long without counting.
        if name.len() > ROOM_NAME_CHARS * 4 || name.chars().count() > ROOM_NAME_CHARS {
            return Err(BadRoomName::TooLong);
        }
        if name.chars().any(char::is_control) {
            return Err(BadRoomName::Control);
        }
        Ok(Self(name.into()))
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::borrow::Borrow<str> for RoomName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

/// Room names are the users' own: they never reach a log by accident.
impl fmt::Debug for RoomName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RoomName({} bytes)", self.0.len())
    }
}

/// A peer: the id of its Socket.IO session, as `created` and `joined` tell it.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct PeerId(pub Sid);

impl fmt::Display for PeerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for PeerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PeerId({})", self.0)
    }
}

/// Which connection of a peer: a later one of the same peer has a higher number, and what an earlier one still does
/// (a late leave, say) cannot touch the seat of a later one.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct Generation(pub u64);

/// One running process, told apart from every other and from its own earlier runs.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct NodeId(pub Sid);

impl NodeId {
    /// A new random id.
    #[must_use]
    pub fn random() -> Self {
        Self(Sid::new())
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NodeId({})", self.0)
    }
}

/// What takes a seat back: known to the client that it was given to, and to nobody who cannot read that client's memory. It is
/// good for one seat of one room, for as long as that seat is taken or kept.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct ResumeToken([u8; Self::BYTES]);

impl ResumeToken {
    const BYTES: usize = 16;

    /// A new token, from the system's source of randomness; none if that fails.
    #[must_use]
    pub fn random() -> Option<Self> {
        let mut bytes = [0; Self::BYTES];
        ring::rand::SecureRandom::fill(&ring::rand::SystemRandom::new(), &mut bytes).ok()?;
        Some(Self(bytes))
    }

    /// Reads what [`fmt::Display`] writes.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let mut bytes = [0; Self::BYTES];
        if text.len() != 2 * Self::BYTES || !text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
            return None;
        }
        for (byte, digits) in bytes.iter_mut().zip(text.as_bytes().chunks(2)) {
            *byte = u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
        }
        Some(Self(bytes))
    }

    /// What a registry keeps of it: who reads the registry learns no token.
    #[must_use]
    pub fn key(&self) -> SeatKey {
        let digest = ring::digest::digest(&ring::digest::SHA256, &self.0);
        let mut key = [0; 16];
        key.copy_from_slice(&digest.as_ref()[..16]);
        SeatKey(u128::from_be_bytes(key))
    }
}

impl fmt::Display for ResumeToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// A secret: it never reaches a log by accident.
impl fmt::Debug for ResumeToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ResumeToken(…)")
    }
}

/// A hash of a [`ResumeToken`]: the first half of its SHA-256.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct SeatKey(u128);

impl SeatKey {
    /// As nodes tell it to each other.
    #[must_use]
    pub const fn to_number(self) -> u128 {
        self.0
    }

    /// Reads what [`SeatKey::to_number`] gives.
    #[must_use]
    pub const fn from_number(number: u128) -> Self {
        Self(number)
    }
}

impl fmt::Display for SeatKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Debug for SeatKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SeatKey(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_names_are_taken_as_they_are_or_refused() {
        for name in [
            "a",
            "foo bar",
            "__proto__",
            "通話",
            "방 1",
            "a/b?c#d",
            &"x".repeat(128),
            &"界".repeat(128),
            &"😀".repeat(128),
        ] {
            assert_eq!(RoomName::parse(name).map(|n| n.as_str().to_owned()).as_deref(), Ok(name));
        }
        assert_eq!(RoomName::parse(""), Err(BadRoomName::Empty));
        assert_eq!(RoomName::parse(&"x".repeat(129)), Err(BadRoomName::TooLong));
        assert_eq!(RoomName::parse(&"😀".repeat(129)), Err(BadRoomName::TooLong));
        assert_eq!(RoomName::parse(&"x".repeat(10_000)), Err(BadRoomName::TooLong));
        for control in ["\0", "a\nb", "\u{7f}", "\u{85}", "tab\t"] {
            assert_eq!(RoomName::parse(control), Err(BadRoomName::Control), "{control:?}");
        }
    }

    #[test]
    fn a_room_name_does_not_show_in_debug_output() {
        let name = RoomName::parse("secret-room").expect("valid");
        assert!(!format!("{name:?}").contains("secret"));
    }

    #[test]
    fn a_token_is_read_as_it_is_written_and_shows_nowhere_else() {
        let token = ResumeToken::random().expect("randomness");
        assert_eq!(ResumeToken::parse(&token.to_string()), Some(token));
        assert_ne!(ResumeToken::random(), Some(token));
        assert!(!format!("{token:?} {:?}", token.key()).contains(&token.to_string()[..8]));
        assert_ne!(token.key().to_string(), token.to_string());
        let text = token.to_string();
        for wrong in
            ["", "x", &text[1..], &text.to_uppercase().replace(|c: char| c.is_numeric(), "A"), &format!("{text}0")]
        {
            assert_eq!(ResumeToken::parse(wrong), None, "{wrong}");
        }
    }
}
