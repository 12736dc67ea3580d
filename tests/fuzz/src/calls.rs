//! Packets of Socket.IO, and what is read from them.

use bytes::Bytes;
use duet::{
    id::{ROOM_NAME_CHARS, ResumeToken, RoomName},
    protocol::{self, Code, Request, reply},
};
use serde_json::{Value, value::RawValue};
use socketioxide_core::{
    packet::PacketData,
    parser::{Parse, ParseConfig, ParserState},
};
use socketioxide_parser_common::CommonParser;

/// Whether `text` is one JSON value and nothing more, as a browser's `JSON.parse` has it.
fn is_json(text: &str) -> bool {
    serde_json::from_str::<&RawValue>(text).is_ok()
}

/// The elements of a JSON array, as text.
fn elements(array: &str) -> Option<Vec<&RawValue>> {
    serde_json::from_str(array).ok()
}

/// The array of an event as it comes to duet: what is handed on is what was said, and is JSON; what is read from it is what a
/// parser that builds values reads.
pub fn event(data: &[u8]) {
    let Some((knobs, data)) = data.split_first_chunk::<2>() else { return };
    let Ok(packet) = std::str::from_utf8(data) else { return };
    let split = protocol::split(packet);
    // What the library does not take for an event never comes here.
    let Ok(name) =
        CommonParser.read_event(&socketioxide_core::Value::Str(packet.to_owned().into(), None)).map(str::to_owned)
    else {
        return;
    };
    let whole = elements(packet);
    let Some((split_name, arguments)) = split else {
        assert!(whole.is_none(), "an event is refused: {packet}");
        return;
    };
    let whole = whole.unwrap_or_else(|| panic!("what no client can read goes on: {packet}"));
    assert_eq!(split_name, name);
    let told = reply::told_name(&name);
    assert!(name.starts_with(told) && told.len() <= 64);

    let array = format!("[{}]", arguments.text());
    let said: Vec<&str> = elements(&array).expect("arguments").iter().map(|value| value.get()).collect();
    assert_eq!(said, whole[1..].iter().map(|value| value.get()).collect::<Vec<_>>(), "{packet}");
    assert!(is_json(&reply::log_said(arguments.text())));
    assert!(is_json(&reply::event("candidate", arguments.text())));

    let first = said.first().copied().unwrap_or("null");
    room_of(arguments, first);
    objects_of(arguments, &said);

    let limit = usize::from(knobs[0] % 120) + 1;
    match (serde_json::from_str::<Value>(packet), protocol::check_depth(packet, limit)) {
        (Ok(value), checked) => assert_eq!(checked.is_ok(), depth(&value) <= limit, "{limit}: {packet}"),
        // It has something that cannot be a value here, such as half a surrogate pair, or is deeper than 127.
        (Err(_), _) => {}
    }
    let attachments = usize::from(knobs[1] % 8);
    let checked = protocol::check_placeholders(packet, attachments);
    if let (Ok(()), Ok(value)) = (checked, serde_json::from_str::<Value>(packet)) {
        assert!(placeholders_hold(&value, attachments as u64), "{attachments}: {packet}");
    }
}

fn room_of(arguments: protocol::Arguments<'_>, first: &str) {
    let text: Option<String> = serde_json::from_str(first).ok();
    match arguments.room() {
        Ok(room) => assert_eq!(Some(room.as_str()), text.as_deref()),
        Err(refusal) => match text {
            Some(name) => assert_eq!((refusal.code, RoomName::parse(&name).is_err()), (Code::BadRoom, true)),
            None => assert_eq!(refusal.code, Code::BadPayload),
        },
    }
    match arguments.room_or_none() {
        Ok(None) => assert_eq!(first, "null"),
        Ok(Some(room)) => assert_eq!(arguments.room(), Ok(room)),
        Err(refusal) => assert_eq!(arguments.room(), Err(refusal)),
    }
    if let Ok((room, options)) = arguments.join() {
        assert_eq!(arguments.room(), Ok(room));
        if options.resume.is_some() || options.wait {
            assert!(arguments.text().contains('{'));
        }
    }
}

/// Descriptions and candidates.
fn objects_of(arguments: protocol::Arguments<'_>, said: &[&str]) {
    if let Ok(description) = arguments.description() {
        let [only] = said else { panic!("one argument: {said:?}") };
        let handed_on = reply::event("offer", description.sdp);
        let handed_on = elements(&handed_on).expect("JSON");
        assert_eq!((handed_on.len(), handed_on[1].get()), (2, description.sdp));
        if let Ok(object) = serde_json::from_str::<Value>(only) {
            assert_eq!(object["sdp"], serde_json::from_str::<Value>(description.sdp).expect("a value"));
            assert_eq!(object["room"], description.room.as_str());
        }
    }
    if let Ok(room) = arguments.candidate_room() {
        let [only] = said else { panic!("one argument: {said:?}") };
        if let Ok(object) = serde_json::from_str::<Value>(only) {
            assert_eq!(object["room"], room.as_str());
            assert!(object.get("candidate").is_some());
        }
    }
}

fn depth(value: &Value) -> usize {
    match value {
        Value::Array(list) => 1 + list.iter().map(depth).max().unwrap_or(0),
        Value::Object(map) => 1 + map.values().map(depth).max().unwrap_or(0),
        _ => 0,
    }
}

/// As socket.io-parser 2.x to 4.x sees them: any truthy mark makes one in some version.
fn placeholders_hold(value: &Value, attachments: u64) -> bool {
    match value {
        Value::Array(list) => list.iter().all(|value| placeholders_hold(value, attachments)),
        Value::Object(map) => {
            let marked = !matches!(map.get("_placeholder"), None | Some(Value::Null | Value::Bool(false)));
            let named = map.get("num").and_then(Value::as_u64).is_some_and(|num| num < attachments);
            (!marked || named) && map.values().all(|value| placeholders_hold(value, attachments))
        }
        _ => true,
    }
}

/// A conversation as the library's parser takes it, one line a packet, those that begin with `b` binary: nothing upsets it,
/// it holds to its bounds, and what it hands to duet can be handed on.
pub fn packets(data: &[u8]) {
    let bounds = ParseConfig::default();
    let state = ParserState::default();
    let mut binary = 0;
    for line in data.split(|byte| *byte == b'\n') {
        let read = match (line.strip_prefix(b"b"), std::str::from_utf8(line)) {
            (Some(attachment), _) => {
                binary += 1;
                CommonParser.decode_bin(&bounds, &state, Bytes::copy_from_slice(attachment))
            }
            (None, Ok(text)) => CommonParser.decode_str(&bounds, &state, text.to_owned().into()),
            // A WebSocket takes no text that is not UTF-8.
            (None, Err(_)) => continue,
        };
        let Ok(packet) = read else { continue };
        match packet.inner {
            PacketData::Event(socketioxide_core::Value::Str(text, attachments), _)
            | PacketData::BinaryEvent(socketioxide_core::Value::Str(text, attachments), _) => {
                assert!(attachments.map_or(0, |list| list.len()) <= binary);
                event(&[&[127, 3], text.as_bytes()].concat());
            }
            PacketData::Connect(Some(socketioxide_core::Value::Str(auth, _))) => {
                if let Some(token) = protocol::resume_in(&auth) {
                    assert!(auth.contains(&token.to_string()) || auth.contains('\\'));
                }
            }
            _ => {}
        }
    }
}

/// Names: of rooms, of events, of seats (tokens).
pub fn names(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let fits = (1..=ROOM_NAME_CHARS).contains(&text.chars().count()) && !text.chars().any(char::is_control);
    match RoomName::parse(text) {
        Ok(name) => {
            assert!(fits && name.as_str() == text);
            assert_eq!(format!("{name:?}"), format!("RoomName({} bytes)", text.len()), "a room's name shows");
            let told: (String, String) = serde_json::from_str(&reply::room("ready", &name)).expect("JSON");
            assert_eq!(told.1, text);
        }
        Err(_) => assert!(!fits, "refused: {text:?}"),
    }
    if let Some(token) = ResumeToken::parse(text) {
        assert_eq!(token.to_string(), text);
        assert!(!format!("{token:?} {:?}", token.key()).contains(text));
    }
    if let Some(request) = Request::named(text) {
        assert_eq!(request.name(), text);
    }
}
