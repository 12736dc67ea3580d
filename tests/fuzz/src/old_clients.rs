//! Polls of old clients, and the query that every request to `/socket.io/` has.

use bytes::Bytes;
use duet::http::{
    eio3::{self, Reading},
    engine::Query,
};

/// The packets of a text payload, by the document: lengths are in UTF-16 units.
fn text_packets(payload: &str) -> Option<Vec<String>> {
    let mut packets = Vec::new();
    let mut rest = payload;
    while !rest.is_empty() {
        let (length, after) = rest.split_once(':')?;
        if !(1..=9).contains(&length.len()) || !length.bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        let (mut units, mut bytes) = (length.parse::<usize>().ok()?, 0);
        let mut characters = after.chars();
        while units > 0 {
            let character = characters.next()?;
            units = units.checked_sub(character.len_utf16())?;
            bytes += character.len_utf8();
        }
        packets.push(after[..bytes].to_owned());
        rest = &after[bytes..];
    }
    Some(packets)
}

/// The packets of a payload of octets: whether each is a string, and its bytes.
fn octet_packets(mut payload: &[u8]) -> Option<Vec<(bool, Vec<u8>)>> {
    let mut packets = Vec::new();
    while let Some((kind, rest)) = payload.split_first() {
        let end = rest.iter().position(|byte| *byte == 0xFF)?;
        let length = rest[..end].iter().fold(0, |length, digit| length * 10 + usize::from(*digit));
        let rest = &rest[end + 1..];
        packets.push((*kind == 0, rest.get(..length)?.to_vec()));
        payload = &rest[length..];
    }
    Some(packets)
}

/// What an old client sends.
pub fn old_polls(data: &[u8]) {
    let Some((knobs, body)) = data.split_first() else { return };
    let packets = std::str::from_utf8(body).ok().and_then(text_packets);
    let reading = eio3::read(body, knobs & 1 != 0);
    let Some(packets) = packets else {
        assert_eq!(reading, Reading::Malformed);
        return;
    };
    let is_once = |packets: &[String], payload: Bytes| {
        let pieces: Vec<Bytes> = eio3::pieces(payload.clone()).collect();
        assert_eq!(pieces.concat(), payload);
        assert_eq!(pieces.len(), packets.len());
        for (piece, packet) in pieces.iter().zip(packets) {
            assert_eq!(text_packets(std::str::from_utf8(piece).expect("text")).as_deref(), Some(&[packet.clone()][..]));
        }
    };
    match reading {
        Reading::Malformed => panic!("refused: {packets:?}"),
        Reading::AsItIs => is_once(&packets, Bytes::copy_from_slice(body)),
        Reading::EncodedOnce => {
            assert!(!body.is_ascii() && knobs & 1 == 0);
            is_once(&packets, Bytes::copy_from_slice(body));
        }
        Reading::EncodedTwice(decoded) => {
            assert!(decoded.len() <= body.len() && knobs & 1 == 0);
            let meant = text_packets(std::str::from_utf8(&decoded).expect("text")).expect("a payload");
            is_once(&meant, decoded.into());
            // Encoded again it is what came, but for halves of surrogate pairs.
            for (packet, meant) in packets.iter().zip(meant) {
                let again: String = meant.bytes().map(char::from).collect();
                assert!(again == *packet || meant.contains('\u{FFFD}'));
            }
        }
    }
}

/// What the library answers them with, which carries what strangers said.
pub fn old_answers(data: &[u8]) {
    let Some((knobs, body)) = data.split_first() else { return };
    let (octets, base64) = (knobs & 1 != 0, knobs & 2 != 0);
    if let Some(opening) = eio3::Opening::parse(body) {
        assert!(opening.sid.as_str().is_ascii());
    }
    let Some(answer) = eio3::answer(body, octets, base64) else { return };
    assert_eq!(answer.octets, !base64);
    assert!(answer.packet_bytes <= body.len());
    assert!(answer.body.len() <= body.len() * 4 + 16, "{} of {}", answer.body.len(), body.len());
    let packets = if answer.octets {
        octet_packets(&answer.body).expect("octets").len()
    } else {
        let text = std::str::from_utf8(&answer.body).expect("text");
        assert!(text.is_ascii());
        text_packets(text).expect("a payload").len()
    };
    let came = if octets {
        octet_packets(body).map(|packets| packets.len())
    } else {
        // Strings of it need not be UTF-8 here: only their lengths are looked at.
        std::str::from_utf8(body).ok().and_then(text_packets).map(|packets| packets.len())
    };
    assert!(came.is_none_or(|came| came == packets));
    if answer.octets {
        assert_eq!(eio3::answer(&answer.body, true, false).map(|again| again.body), Some(answer.body));
    }
}

/// The query of a request to `/socket.io/`: what is handed to the library in its place means the same.
pub fn query(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let Some(query) = Query::parse(Some(text)) else { return };
    let uri = query.uri();
    let sid = query.sid().map(|sid| format!("&sid={sid}")).unwrap_or_default();
    let again = Query::parse(Some(&format!("{}{sid}", uri.query().expect("a query")))).expect("a query");
    assert_eq!(again.sid(), query.sid());
    assert_eq!(again.uri(), uri);
    // The first of each counts, and nothing else does.
    let with_more = format!("{text}&EIO=5&transport=smoke&sid=x&b64=x&room=foo");
    assert_eq!(
        Query::parse(Some(&with_more)).map(|query| query.uri()).as_ref(),
        Some(&uri).filter(|_| query.sid().is_some())
    );
}
