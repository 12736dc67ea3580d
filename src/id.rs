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
}
