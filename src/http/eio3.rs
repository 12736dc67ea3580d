//! Engine.IO 3 payloads: what old clients (socket.io-client 1.x and 2.x) and this server say to each other in a poll.
//!
//! Owns the bytes of those payloads, between the library and the client. Two things have to be mended. The library
//! writes attachments the way of Engine.IO 4 (`b` and base64), which an old client takes for nothing. And 1.x
//! (engine.io-parser 1.x) UTF-8-encodes each string of a *text* payload once more before HTTP does, and expects the
//! same, where 2.x (engine.io-parser 2.x) does not; both say `EIO=3`. So what goes out has a form that both read alike,
//! and what comes in is told apart by what it looks like. Sources: the protocol
//! (<https://github.com/socketio/engine.io-protocol/tree/v3#payload>), `lib/index.js` and `lib/browser.js` of
//! engine.io-parser 1.3.2, 2.1.3 and 2.2.1.
//!
//! Must never do I/O, know a session, or panic, whatever the bytes. JSONP is not spoken.
//!
//! Invariant: a payload that leaves here has the packets of the one that came, in order, or is none; and one that is
//! let through to the library has exact lengths.

use std::fmt::Write as _;

use bytes::Bytes;
use serde::Deserialize;

use crate::id::Sid;

/// No payload: whoever reads it says that its length is wrong.
pub const MALFORMED: &[u8] = b"-";

/// The longest number that may be a packet's length, in digits.
const LENGTH_DIGITS: usize = 9;

/// What the library answers a handshake with, as far as it matters here.
///
/// <https://github.com/socketio/engine.io-protocol/tree/v3#0-open>; the last field came with Engine.IO 4.
#[derive(Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Opening {
    /// The session.
    pub sid: Sid,
    /// The most bytes that the client may send at once.
    pub max_payload: u32,
}

impl Opening {
    /// None when `body` is something else.
    #[must_use]
    pub fn parse(body: &[u8]) -> Option<Self> {
        // Engine.IO 4 puts no length in front.
        let packet = cut(body).map_or(body, |(packet, _)| packet);
        serde_json::from_slice(packet.strip_prefix(b"0")?).ok()
    }
}

/// An answer to a poll.
#[derive(Debug, PartialEq, Eq)]
pub struct Answer {
    /// The payload.
    pub body: Vec<u8>,
    /// Whether it is `application/octet-stream`, or text.
    pub octets: bool,
    /// Bytes of the packets as the library wrote them, without what it put around each: never more than they were
    /// counted with when they were queued.
    pub packet_bytes: usize,
}

/// Writes the library's answer to a poll, `body`, in a form that 1.x and 2.x read alike.
///
/// Without `base64` that is octets: both decode the strings of these from UTF-8, once. With `base64` it is a text of
/// nothing but ASCII, in which decoding once more changes nothing: other characters are only ever found within the
/// JSON strings of Socket.IO packets, where they can be escaped. (They are found outside, in a namespace that does not
/// exist, when the library refuses it: then the client is told of another one that does not exist.)
///
/// None when `body` is no payload, as when the session has just ended.
#[must_use]
pub fn answer(body: &[u8], octets: bool, base64: bool) -> Option<Answer> {
    if body.is_empty() {
        return None;
    }
    let mut answer = Answer { body: Vec::with_capacity(body.len() + 16), octets: !base64, packet_bytes: 0 };
    let mut rest = body;
    while !rest.is_empty() {
        let packet;
        let is_string;
        (is_string, packet, rest) = if octets {
            cut_octets(rest)?
        } else {
            let (packet, rest) = cut(rest)?;
            (true, packet, rest)
        };
        answer.packet_bytes += packet.len();
        match (is_string, packet.strip_prefix(b"b")) {
            (true, None) if base64 => put_escaped(&mut answer.body, std::str::from_utf8(packet).ok()?),
            (true, None) => {
                put_octets_head(&mut answer.body, 0, packet.len());
                answer.body.extend_from_slice(packet);
            }
            (true, Some(attachment)) => {
                // With padding, base64 has a multiple of four characters: one more is the `4` that the library leaves
                // out, should it ever write it.
                let attachment = if attachment.len() % 4 == 1 { attachment.strip_prefix(b"4")? } else { attachment };
                put_attachment(&mut answer.body, attachment, base64)?;
            }
            // The library writes none of these today. For text it would have to be encoded, which it does itself then.
            (false, _) if base64 => return None,
            (false, _) => {
                put_octets_head(&mut answer.body, 1, packet.len());
                answer.body.extend_from_slice(packet);
            }
        }
    }
    Some(answer)
}

/// What a text payload of a client is.
#[derive(Debug, PartialEq, Eq)]
pub enum Reading {
    /// No payload.
    Malformed,
    /// To be taken as it is.
    AsItIs,
    /// To be taken as it is, and all that the client says after it: 1.x does not send this.
    EncodedOnce,
    /// What 1.x meant by it.
    EncodedTwice(Vec<u8>),
}

/// Checks the lengths of a text payload of a client, and tells which way it is encoded.
///
/// 1.x sends no character above U+00FF, and those it sends are the bytes of UTF-8. The same can be said by 2.x, but
/// only in words like “Ã©”: these are misread until it says anything else. That it `encodes_once` is known from then on.
#[must_use]
pub fn read(body: &[u8], encodes_once: bool) -> Reading {
    let Ok(text) = std::str::from_utf8(body) else { return Reading::Malformed };
    let mut rest = body;
    while !rest.is_empty() {
        let Some((_, after)) = cut(rest) else { return Reading::Malformed };
        rest = after;
    }
    if encodes_once || text.is_ascii() {
        return Reading::AsItIs;
    }
    let mut decoded = Vec::with_capacity(body.len());
    let mut rest = body;
    while let Some((packet, after)) = cut(rest) {
        let Some(packet) = decode_once_more(packet) else { return Reading::EncodedOnce };
        put_text_head(&mut decoded, packet.encode_utf16().count());
        decoded.extend_from_slice(packet.as_bytes());
        rest = after;
    }
    Reading::EncodedTwice(decoded)
}

/// The string whose UTF-8 bytes the characters of `packet` are, if they are such bytes.
fn decode_once_more(packet: &[u8]) -> Option<String> {
    let characters = std::str::from_utf8(packet).ok()?.chars();
    let mut bytes = characters.map(|c| u8::try_from(u32::from(c)).ok()).collect::<Option<Vec<_>>>()?;
    // Halves of surrogate pairs, which 1.x encodes like characters (WTF-8) and 2.x leaves to the browser, which
    // replaces them. No UTF-8 has these bytes in a row.
    for at in 0..bytes.len() {
        if let Some([0xED, 0xA0..=0xBF, 0x80..=0xBF]) = bytes.get(at..at + 3) {
            bytes[at..at + 3].copy_from_slice("\u{FFFD}".as_bytes());
        }
    }
    String::from_utf8(bytes).ok()
}

/// A text payload packet by packet, for one whose lengths were checked: the library reads it in time that grows with
/// the square of the bytes that it gets at once.
pub fn pieces(mut payload: Bytes) -> impl Iterator<Item = Bytes> + Send {
    std::iter::from_fn(move || {
        let rest = cut(&payload).map_or(0, |(_, rest)| rest.len());
        let piece = payload.split_to(payload.len() - rest);
        (!piece.is_empty()).then_some(piece)
    })
}

/// The first packet of a text payload, and what comes after it. Its length is given in UTF-16 units.
fn cut(payload: &[u8]) -> Option<(&[u8], &[u8])> {
    let digits = payload.iter().take(LENGTH_DIGITS).take_while(|byte| byte.is_ascii_digit()).count();
    let mut units: usize = std::str::from_utf8(&payload[..digits]).ok()?.parse().ok()?;
    let packets = payload[digits..].strip_prefix(b":")?;
    if packets.get(..units)?.is_ascii() {
        return packets.split_at_checked(units);
    }
    let mut end = 0;
    while units > 0 {
        let (bytes, of_units) = match packets.get(end)? {
            0x00..0x80 => (1, 1),
            // Not where a character begins.
            0x80..0xC0 => return None,
            0xC0..0xE0 => (2, 1),
            0xE0..0xF0 => (3, 1),
            0xF0..=0xFF => (4, 2),
        };
        end += bytes;
        // A length that ends amid a pair of surrogates sends the library round for ever.
        units = units.checked_sub(of_units)?;
    }
    packets.split_at_checked(end)
}

/// The first packet of a payload of octets, before it whether it is a string, and what comes after it.
fn cut_octets(payload: &[u8]) -> Option<(bool, &[u8], &[u8])> {
    let (kind, rest) = payload.split_first()?;
    let digits = rest.iter().take(LENGTH_DIGITS + 1).position(|byte| *byte == 0xFF).filter(|digits| *digits > 0)?;
    let mut length = 0;
    for digit in &rest[..digits] {
        if *digit > 9 {
            return None;
        }
        length = length * 10 + usize::from(*digit);
    }
    let (packet, rest) = rest[digits + 1..].split_at_checked(length)?;
    (*kind < 2).then_some((*kind == 0, packet, rest))
}

fn put_text_head(into: &mut Vec<u8>, length: usize) {
    into.extend_from_slice(length.to_string().as_bytes());
    into.push(b':');
}

fn put_octets_head(into: &mut Vec<u8>, kind: u8, length: usize) {
    into.push(kind);
    into.extend(length.to_string().bytes().map(|digit| digit - b'0'));
    into.push(0xFF);
}

fn put_escaped(into: &mut Vec<u8>, packet: &str) {
    if packet.is_ascii() {
        put_text_head(into, packet.len());
        into.extend_from_slice(packet.as_bytes());
        return;
    }
    let mut escaped = String::with_capacity(packet.len() * 2);
    let mut units = [0; 2];
    for character in packet.chars() {
        if character.is_ascii() {
            escaped.push(character);
        } else {
            for unit in character.encode_utf16(&mut units) {
                // Writing to a string does not fail.
                let _ = write!(escaped, "\\u{unit:04x}");
            }
        }
    }
    put_text_head(into, escaped.len());
    into.extend_from_slice(escaped.as_bytes());
}

/// Puts what `attachment` is the base64 of; none when it is no base64.
fn put_attachment(into: &mut Vec<u8>, attachment: &[u8], base64: bool) -> Option<()> {
    if base64 {
        let is_of_it = |byte: &u8| byte.is_ascii_alphanumeric() || b"+/=".contains(byte);
        if !attachment.iter().all(is_of_it) {
            return None;
        }
        put_text_head(into, 2 + attachment.len());
        into.extend_from_slice(b"b4");
        into.extend_from_slice(attachment);
        return Some(());
    }
    let unpadded = attachment.strip_suffix(b"=").unwrap_or(attachment);
    let unpadded = unpadded.strip_suffix(b"=").unwrap_or(unpadded);
    if !attachment.len().is_multiple_of(4) || unpadded.len() % 4 == 1 {
        return None;
    }
    let length = unpadded.len() / 4 * 3 + (unpadded.len() % 4).saturating_sub(1);
    put_octets_head(into, 1, 1 + length);
    into.push(4);
    for characters in unpadded.chunks(4) {
        let mut bits = 0_u32;
        for character in characters {
            bits = bits << 6
                | u32::from(match character {
                    b'A'..=b'Z' => character - b'A',
                    b'a'..=b'z' => character - b'a' + 26,
                    b'0'..=b'9' => character - b'0' + 52,
                    b'+' => 62,
                    b'/' => 63,
                    _ => return None,
                });
        }
        let [_, bytes @ ..] = (bits << (6 * (4 - characters.len()))).to_be_bytes();
        into.extend_from_slice(&bytes[..characters.len() - 1]);
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What engine.io-parser 1.x makes of a string before it puts it into a payload of either kind.
    fn encoded_once_more(text: &str) -> String {
        text.bytes().map(char::from).collect()
    }

    fn payload<'a>(packets: impl IntoIterator<Item = &'a str>) -> String {
        packets
            .into_iter()
            .fold(String::new(), |payload, packet| payload + &packet.encode_utf16().count().to_string() + ":" + packet)
    }

    fn base64_of(bytes: &[u8]) -> String {
        const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        bytes
            .chunks(3)
            .flat_map(|three| {
                let bits =
                    three.iter().fold(0_usize, |bits, byte| bits << 8 | usize::from(*byte)) << (8 * (3 - three.len()));
                (0..4).map(
                    move |at| {
                        if at > three.len() { '=' } else { char::from(ALPHABET[bits >> (18 - 6 * at) & 63]) }
                    },
                )
            })
            .collect()
    }

    /// The packets of an answer as both generations of old clients decode them: `Ok` a string, `Err` an attachment.
    fn as_decoded(answer: &Answer) -> Vec<Result<String, Vec<u8>>> {
        let mut rest = &answer.body[..];
        let mut packets = Vec::new();
        while !rest.is_empty() {
            let packet;
            let string;
            (string, packet, rest) = if answer.octets {
                cut_octets(rest).expect("octets")
            } else {
                assert!(rest.is_ascii());
                let (packet, rest) = cut(rest).expect("text");
                (true, packet, rest)
            };
            packets.push(match (string, packet.strip_prefix(b"b4")) {
                (true, None) => Ok(String::from_utf8(packet.to_vec()).expect("UTF-8")),
                (true, Some(base64)) => {
                    let mut octets = Vec::new();
                    put_attachment(&mut octets, base64, false).expect("base64");
                    Err(cut_octets(&octets).expect("octets").1[1..].to_vec())
                }
                (false, _) => {
                    assert_eq!(packet[0], 4);
                    Err(packet[1..].to_vec())
                }
            });
        }
        packets
    }

    #[test]
    fn an_answer_in_octets_is_as_the_parsers_of_both_generations_encode_it() {
        // encodePayloadAsBinary of engine.io-parser 1.3.2 and 2.2.1 of: message "452-é😀", Buffer 1 2 3, ping.
        let expected = b"\x00\x01\x01\xff4452-\xc3\xa9\xf0\x9f\x98\x80\x01\x04\xff\x04\x01\x02\x03\x00\x01\xff3";
        // As the library writes it when no packet of a payload is binary, and when one is.
        let text = answer("8:4452-é😀5:bAQID1:3".as_bytes(), false, false).expect("a payload");
        assert_eq!(text.body, expected);
        assert!(text.octets);
        assert_eq!(text.packet_bytes, 11 + 5 + 1);
        let octets =
            answer(b"\x00\x01\x01\xff4452-\xc3\xa9\xf0\x9f\x98\x80\x00\x05\xffbAQID\x00\x01\xff3", true, false);
        assert_eq!(octets, Some(text));
        // Should the library mend it.
        let mended = answer(b"\x00\x02\xff42\x01\x04\xff\x04\x01\x02\x03", true, false).expect("a payload");
        assert_eq!(mended.body, b"\x00\x02\xff42\x01\x04\xff\x04\x01\x02\x03");
    }

    #[test]
    fn an_answer_for_a_client_that_wants_text_is_ascii() {
        let answer = |body: &str| answer(body.as_bytes(), false, true).expect("a payload");
        let text = answer("1:6");
        assert_eq!((&text.body[..], text.octets, text.packet_bytes), (&b"1:6"[..], false, 1));
        let text = answer("14:42[\"é通😀\u{2028}\\\\é\"]5:bAQID1:b1:3");
        let expected = r#"44:42["\u00e9\u901a\ud83d\ude00\u2028\\\u00e9"]6:b4AQID2:b41:3"#;
        assert_eq!(String::from_utf8_lossy(&text.body), expected);
        assert_eq!(answer("6:b4AQID2:b4").body, b"6:b4AQID2:b4");
    }

    #[test]
    fn an_answer_that_is_no_payload_is_left_alone() {
        for octets in [false, true] {
            for base64 in [false, true] {
                for body in ["", "2:4", "{}", "x", ":", "1:", "2:b=", "\u{0}", "\u{0}\u{1}", "\u{2}\u{0}"] {
                    assert_eq!(answer(body.as_bytes(), octets, base64), None, "{body:?}");
                }
            }
        }
        assert_eq!(answer(b"5:bA=ID", false, false), None);
        assert_eq!(answer("2:b\u{e9}".as_bytes(), false, true), None);
        assert_eq!(answer(b"\x02\x01\xff4", true, false), None);
        assert_eq!(answer(b"\x00\x0a\xff4444444444", true, false), None);
        assert_eq!(answer(b"\x00\xff4", true, false), None);
    }

    #[test]
    fn what_is_encoded_twice_is_decoded_once() {
        for text in [r#"42["message","é"]"#, "4通話", "4😀", "4\u{2028}a\u{7f}\u{80}\u{ff}", "4ÿ"] {
            let plain = payload([text, "3", text, "b4AQID"]);
            let twice = payload([&encoded_once_more(text), "3", &encoded_once_more(text), "b4AQID"]);
            assert_eq!(read(twice.as_bytes(), false), Reading::EncodedTwice(plain.clone().into()), "{text}");
            assert_eq!(read(twice.as_bytes(), true), Reading::AsItIs, "{text}");
            assert_eq!(read(plain.as_bytes(), false), Reading::EncodedOnce, "{text}");
            assert_eq!(read(plain.as_bytes(), true), Reading::AsItIs, "{text}");
        }
        let halves = "7:4\u{ed}\u{a0}\u{bd}\u{ed}\u{b8}\u{80}";
        assert_eq!(read(halves.as_bytes(), false), Reading::EncodedTwice("3:4\u{fffd}\u{fffd}".into()));
        for plain in ["1:2", "", "0:", "0:1:20:", "6:b4AQID"] {
            assert_eq!(read(plain.as_bytes(), false), Reading::AsItIs, "{plain}");
        }
    }

    #[test]
    fn one_packet_proves_it_for_all_that_the_client_says() {
        // “Ã©” might be either's; beside “é” it is 2.x's.
        assert_eq!(read(payload(["4Ã©"]).as_bytes(), false), Reading::EncodedTwice("2:4é".into()));
        assert_eq!(read(payload(["4Ã©", "4é"]).as_bytes(), false), Reading::EncodedOnce);
        assert_eq!(read(payload(["4Ã©"]).as_bytes(), true), Reading::AsItIs);
    }

    const OPEN: &str = r#"111:0{"sid":"AAAAAAAAAAAAAAAA","upgrades":["websocket"],"pingInterval":25000,"pingTimeout":20000,"maxPayload":1000}"#;

    #[test]
    fn an_opening_is_understood() {
        let opening = Opening::parse(OPEN.as_bytes()).expect("an open packet");
        assert_eq!((opening.sid.to_string().as_str(), opening.max_payload), ("AAAAAAAAAAAAAAAA", 1000));
        let newer = Opening::parse(&OPEN.as_bytes()[OPEN.find('0').expect("a packet")..]);
        assert_eq!(newer.map(|opening| opening.max_payload), Some(1000));
        for wrong in ["", "1:0", "2:0{", "2:4a", "{}"] {
            assert_eq!(Opening::parse(wrong.as_bytes()), None, "{wrong}");
        }
    }

    #[test]
    fn lengths_are_exact_or_it_is_no_payload() {
        let wrong = [
            "x:4",
            ":4",
            "4",
            "1",
            "1:",
            "2:4",
            "-1:4",
            "+1:4",
            " 1:4",
            "1 :4",
            "1.0:4",
            "0x1:4",
            "1:44",
            "2:4é😀",
            "1:😀xx",
            "9999999999:4",
            "18446744073709551615:4",
            "18446744073709551617:4",
            "999999999:4",
            "00000000001:4",
            "1:4\n",
        ];
        for wrong in wrong {
            assert_eq!(read(wrong.as_bytes(), false), Reading::Malformed, "{wrong}");
            assert_eq!(read(wrong.as_bytes(), true), Reading::Malformed, "{wrong}");
        }
        for wrong in [&b"1:\xff"[..], b"2:4\xc3", b"2:4\xed\xa0\x80", b"1:\x80", b"3:4\xf8\x88\x80\x80\x80"] {
            assert_eq!(read(wrong, false), Reading::Malformed, "{wrong:?}");
        }
    }

    #[test]
    fn pieces_are_packets() {
        let all = payload(["2", "4é通😀", "b4AQID", "3"]) + "0:";
        let pieces: Vec<_> = pieces(Bytes::from(all)).collect();
        assert_eq!(pieces, ["1:2", "5:4é通😀", "6:b4AQID", "1:3", "0:"]);
        assert_eq!(super::pieces(Bytes::from_static(MALFORMED)).collect::<Vec<_>>(), [MALFORMED]);
        assert_eq!(super::pieces(Bytes::new()).count(), 0);
    }

    proptest! {
        #[test]
        fn no_bytes_are_too_odd(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            for octets in [false, true] {
                for base64 in [false, true] {
                    let _ = answer(&bytes, octets, base64);
                }
            }
            let _ = read(&bytes, false);
            let _ = Opening::parse(&bytes);
            let joined: Vec<_> = pieces(Bytes::from(bytes.clone())).flatten().collect();
            prop_assert_eq!(joined, bytes);
        }

        /// Bytes that look more like a payload.
        #[test]
        fn no_text_is_too_odd(text in "([0-9]{0,3}:?[b4]{0,2}[\\PC]{0,6}){0,8}", octets in "([\u{0}-\u{9}\u{ff}b4A=]{0,12})") {
            let _ = answer(text.as_bytes(), false, false);
            let _ = answer(text.as_bytes(), false, true);
            let octets: Vec<_> = octets.chars().map(|c| u8::try_from(u32::from(c)).expect("a byte")).collect();
            let _ = answer(&octets, true, false);
            let _ = answer(&octets, true, true);
            match read(text.as_bytes(), false) {
                Reading::EncodedTwice(decoded) => prop_assert!(matches!(read(&decoded, true), Reading::AsItIs)),
                Reading::Malformed => {}
                Reading::AsItIs | Reading::EncodedOnce => {
                    let packets = pieces(Bytes::from(text)).map(|piece| cut(&piece).is_some_and(|(_, rest)| rest.is_empty()));
                    prop_assert!(packets.into_iter().all(|whole| whole));
                }
            }
        }

        #[test]
        fn every_answer_is_decoded_to_the_packets_it_was_made_of(
            packets in prop::collection::vec(prop_oneof![
                any::<String>().prop_map(Ok),
                prop::collection::vec(any::<u8>(), 0..40).prop_map(Err),
            ], 1..6),
            library_octets: bool,
            base64: bool,
        ) {
            // JSON within a message, as in a Socket.IO packet.
            let json = |text: &String| format!("42{}", serde_json::to_string(&[text]).expect("JSON"));
            let mut body = Vec::new();
            let mut packet_bytes = 0;
            for packet in &packets {
                let packet = match packet {
                    Ok(text) => json(text),
                    Err(bytes) => format!("b{}", base64_of(bytes)),
                };
                packet_bytes += packet.len();
                if library_octets {
                    put_octets_head(&mut body, 0, packet.len());
                } else {
                    put_text_head(&mut body, packet.encode_utf16().count());
                }
                body.extend_from_slice(packet.as_bytes());
            }
            let answer = answer(&body, library_octets, base64).expect("a payload");
            prop_assert_eq!(answer.packet_bytes, packet_bytes);
            prop_assert_eq!(answer.octets, !base64);
            let decoded = as_decoded(&answer);
            prop_assert_eq!(decoded.len(), packets.len());
            for (decoded, packet) in decoded.iter().zip(&packets) {
                match (decoded, packet) {
                    (Ok(decoded), Ok(text)) => {
                        let [decoded]: [String; 1] = serde_json::from_str(&decoded[2..]).expect("JSON");
                        prop_assert_eq!(&decoded, text);
                    }
                    (Err(decoded), Err(bytes)) => prop_assert_eq!(decoded, bytes),
                    _ => prop_assert!(false, "a string is no attachment"),
                }
            }
        }

        #[test]
        fn what_1_x_says_is_understood(texts in prop::collection::vec(any::<String>(), 0..5)) {
            let texts: Vec<_> = texts.iter().map(|text| format!("4{text}")).collect();
            let encoded: Vec<_> = texts.iter().map(|text| encoded_once_more(text)).collect();
            let plain = payload(texts.iter().map(String::as_str));
            let expected = if plain.is_ascii() { Reading::AsItIs } else { Reading::EncodedTwice(plain.into()) };
            prop_assert_eq!(read(payload(encoded.iter().map(String::as_str)).as_bytes(), false), expected);
        }

        #[test]
        fn what_2_x_says_is_left_alone_once_it_is_known(text: String) {
            prop_assert_eq!(read(payload([text.as_str()]).as_bytes(), true), Reading::AsItIs);
        }
    }
}
