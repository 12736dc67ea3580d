//! Packets as they go over the wire: how many bytes they take, and their frame.

use std::io::Write;

use socketioxide_core::{
    Value,
    packet::{Packet, PacketData},
};

use crate::transport::lane;

/// Bytes that `packet` takes on the wire, exactly over WebSocket, and no fewer than it takes over polling.
///
/// WebSocket frames: RFC 6455, section 5.2. Packets: <https://socket.io/docs/v4/engine-io-protocol/>.
#[must_use]
pub fn wire_bytes(packet: &Packet, eio3: bool, websocket: bool) -> usize {
    let (data, ack, binary) = match &packet.inner {
        PacketData::Event(data, ack) => (data, *ack, false),
        PacketData::BinaryEvent(data, ack) => (data, *ack, true),
        PacketData::EventAck(data, ack) => (data, Some(*ack), false),
        PacketData::BinaryAck(data, ack) => (data, Some(*ack), true),
        PacketData::Connect(_) | PacketData::Disconnect | PacketData::ConnectError(_) => return 0,
    };
    let Value::Str(text, attachments) = data else { return 0 };
    let count = attachments.as_ref().map_or(0, std::collections::VecDeque::len);
    // The Engine.IO type and the Socket.IO type, a digit each.
    let head =
        2 + ack.map_or(0, digits) + if binary { digits(i64::try_from(count).unwrap_or(i64::MAX)) + 1 } else { 0 };
    let frame = |payload: usize| {
        payload
            + match payload {
                0..126 => 2,
                126..65_536 => 4,
                _ => 10,
            }
    };
    let attachment = |bytes: usize| match (websocket, eio3) {
        (true, false) => frame(bytes),
        (true, true) => frame(bytes + 1),
        // "b" or "b4", then base64.
        (false, _) => frame(2 + bytes.div_ceil(3) * 4),
    };
    frame(head + text.len()) + attachments.iter().flatten().map(|bytes| attachment(bytes.len())).sum::<usize>()
}

/// The WebSocket frame of `packet` in two pieces, the second of which is its array as it is; none for a packet of more
/// than one frame.
#[must_use]
pub fn frame(packet: &Packet) -> Option<(smallvec::SmallVec<[u8; 32]>, &str)> {
    let mut start = smallvec::SmallVec::<[u8; 24]>::from_slice(b"42");
    let Value::Str(text, None) = (match &packet.inner {
        PacketData::Event(data, None) => data,
        PacketData::EventAck(data, ack) => {
            start[1] = b'3';
            let _ = write!(&mut start, "{ack}");
            data
        }
        _ => return None,
    }) else {
        return None;
    };
    Some((lane::text_frame_head(start.len() + text.len(), &start), text.as_str()))
}

fn digits(number: i64) -> usize {
    number.checked_ilog10().map_or(1, |log| log as usize + 1)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use socketioxide_core::Str;

    use super::*;

    fn event(text: &str, attachments: &[usize]) -> Packet {
        let attachments: std::collections::VecDeque<_> = attachments.iter().map(|n| Bytes::from(vec![0; *n])).collect();
        Packet::event("/", Value::Str(Str::from(text.to_owned()), (!attachments.is_empty()).then_some(attachments)))
    }

    #[test]
    fn a_packet_is_counted_as_it_is_framed() {
        // 2 bytes of frame, `42`, the array.
        assert_eq!(wire_bytes(&event(r#"["a"]"#, &[]), false, true), 2 + 2 + 5);
        // 4 bytes of frame from 126 bytes of payload on, 10 from 65,536 on.
        assert_eq!(wire_bytes(&event(&"x".repeat(123), &[]), false, true), 2 + 125);
        assert_eq!(wire_bytes(&event(&"x".repeat(124), &[]), false, true), 4 + 126);
        assert_eq!(wire_bytes(&event(&"x".repeat(65_534), &[]), false, true), 10 + 65_536);
        // `451-`, then a frame of its own, with a type byte for old clients.
        assert_eq!(wire_bytes(&event("[]", &[10]), false, true), 2 + 6 + 2 + 10);
        assert_eq!(wire_bytes(&event("[]", &[10]), true, true), 2 + 6 + 2 + 11);
        // `43` and the number of the acknowledgement.
        let ack = Packet::ack("/", Value::Str(Str::from("[]"), None), 120);
        assert_eq!(wire_bytes(&ack, false, true), 2 + 2 + 3 + 2);
        assert_eq!(frame(&ack).map(|(head, text)| head.len() + text.len()), Some(wire_bytes(&ack, false, true)));
        assert_eq!(frame(&ack).map(|(head, _)| head[2..].to_vec()), Some(b"43120".to_vec()));
        let long = event(&"x".repeat(70_000), &[]);
        assert_eq!(frame(&long).map(|(head, text)| head.len() + text.len()), Some(wire_bytes(&long, false, true)));
        assert!(frame(&event("[]", &[1])).is_none());
        let ack = Packet::ack("/", Value::Str(Str::from("[]"), None), 0);
        assert_eq!(wire_bytes(&ack, false, true), 2 + 2 + 1 + 2);
    }
}
