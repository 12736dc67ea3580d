//! `[limits]`: how much is taken.

use serde::{Deserialize, Serialize};

use super::Rate;

/// `[limits]`. Those of an address or a room are of this node alone: nodes do not add theirs up.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    /// `DUET_LIMITS__MESSAGE_BYTES`: of one packet; a larger one closes the connection.
    pub message_bytes: usize,
    /// `DUET_LIMITS__ROOM_EVENT_BYTES`: of one `create or join`, `ready`, `bye` or `ipaddr`; 0 for as many as any packet.
    pub room_event_bytes: usize,
    /// `DUET_LIMITS__DESCRIPTION_BYTES`: of one `offer` or `answer`; 0 for as many as any packet.
    pub description_bytes: usize,
    /// `DUET_LIMITS__CANDIDATE_BYTES`: of one `candidate`; 0 for as many as any packet.
    pub candidate_bytes: usize,
    /// `DUET_LIMITS__ATTACHMENTS`: binary attachments of one event; more close the connection.
    pub attachments: usize,
    /// `DUET_LIMITS__DEPTH`: nesting of arrays and objects in one event; deeper is refused.
    pub depth: usize,
    /// `DUET_LIMITS__OUTBOUND_BYTES`: waiting for one receiver; one further behind is closed.
    pub outbound_bytes: usize,
    /// `DUET_LIMITS__ROOMS_PER_SOCKET`: rooms one socket may sit in at a time; more are refused.
    pub rooms_per_socket: usize,
    /// `DUET_LIMITS__EVENTS`: of one socket; more are delayed, then refused, and in the end close it.
    pub events: Rate,
    /// `DUET_LIMITS__BYTES`: from one socket; more are delayed.
    pub bytes: Rate,
    /// `DUET_LIMITS__FRAMES`: WebSocket frames of one connection, whatever is in them; more are delayed.
    pub frames: Rate,
    /// `DUET_LIMITS__SOCKETS`: of this node; further handshakes are refused.
    pub sockets: u32,
    /// `DUET_LIMITS__CONNECTIONS`: of this node that are no WebSockets; the one that has been silent for longest is closed.
    pub connections: u32,
    /// `DUET_LIMITS__SOCKETS_PER_ADDRESS`: further handshakes are refused.
    pub sockets_per_address: u32,
    /// `DUET_LIMITS__CONNECTIONS_PER_ADDRESS`: that are no WebSockets; further ones are closed.
    pub connections_per_address: u32,
    /// `DUET_LIMITS__HANDSHAKES`: of one address; more are refused.
    pub handshakes: Rate,
    /// `DUET_LIMITS__JOINS`: of one address; more are refused.
    pub joins: Rate,
    /// `DUET_LIMITS__ROOM_JOINS`: of one room, whoever asks; more are refused.
    pub room_joins: Rate,
    /// `DUET_LIMITS__FAILURES`: joins of one address into full or forbidden rooms, and handshakes with tokens that do not
    /// hold. From half of them on its joins and handshakes are delayed, beyond all refused.
    pub failures: Rate,
    /// `DUET_LIMITS__TRACKED`: addresses, and rooms, that are told apart at a time.
    pub tracked: u32,
}

impl Limits {
    /// Checks what a type alone does not say.
    pub(super) fn validate(&self) -> Result<(), String> {
        let between = |name: &str, value: usize, least: usize, most: usize| {
            let complaint = || format!("limits.{name}: must be between {least} and {most}");
            if (least..=most).contains(&value) { Ok(()) } else { Err(complaint()) }
        };
        between("message_bytes", self.message_bytes, 1024, 64 << 20)?;
        between("attachments", self.attachments, 1, 1024)?;
        between("depth", self.depth, 8, 1024)?;
        between("outbound_bytes", self.outbound_bytes, 4096, 1 << 30)?;
        between("rooms_per_socket", self.rooms_per_socket, 1, 4096)?;
        between("tracked", self.tracked as usize, 1024, 10_000_000)?;
        for (name, value) in [
            ("room_event_bytes", self.room_event_bytes),
            ("description_bytes", self.description_bytes),
            ("candidate_bytes", self.candidate_bytes),
        ] {
            // The longest name of a room, written in escapes, fits into the least.
            if value != 0 {
                between(name, value, 2048, 64 << 20).map_err(|complaint| format!("{complaint}, or 0"))?;
            }
        }
        Ok(())
    }
}
