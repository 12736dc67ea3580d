//! Engine.IO 4 and Socket.IO 5 packets in the text form they have over WebSocket.
//!
//! Parsing goes no further than the packet's head: the JSON is handed out as it came. Pure text: knows no socket.

/// An Engine.IO packet, and in a message the Socket.IO packet it carries.
#[derive(Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names of the protocol")]
pub enum Packet<'a> {
    /// The handshake, with its JSON.
    Open(&'a str),
    Close,
    Ping,
    Pong,
    Noop,
    /// The namespace was entered; the JSON holds the socket's id.
    Connect(&'a str),
    Disconnect,
    /// `arguments` is a JSON array that begins with the event's name. `attachments` binary frames follow.
    Event {
        ack: Option<u64>,
        attachments: usize,
        arguments: &'a str,
    },
    /// The answer to an event that asked for one.
    Ack {
        ack: u64,
        attachments: usize,
        arguments: &'a str,
    },
    ConnectError(&'a str),
}

/// Why a text is no packet.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum PacketError {
    /// Not even a type.
    #[error("an empty packet")]
    Empty,
    /// A type that neither protocol has.
    #[error("an unknown packet type {0:?}")]
    Unknown(char),
    /// Of a namespace nobody entered.
    #[error("a packet of another namespace")]
    Namespace,
    /// No count of attachments, or no number where one must stand.
    #[error("a packet with a malformed head")]
    Head,
}

/// Parses one text frame. Only the main namespace is known here.
///
/// # Errors
/// When the text is no packet of the main namespace.
pub fn parse(text: &str) -> Result<Packet<'_>, PacketError> {
    let mut chars = text.chars();
    let kind = chars.next().ok_or(PacketError::Empty)?;
    let rest = chars.as_str();
    Ok(match kind {
        '0' => Packet::Open(rest),
        '1' => Packet::Close,
        '2' => Packet::Ping,
        '3' => Packet::Pong,
        '4' => return parse_message(rest),
        '6' => Packet::Noop,
        other => return Err(PacketError::Unknown(other)),
    })
}

fn parse_message(text: &str) -> Result<Packet<'_>, PacketError> {
    let mut chars = text.chars();
    let kind = chars.next().ok_or(PacketError::Empty)?;
    let rest = chars.as_str();
    let (attachments, rest) = match kind {
        '5' | '6' => {
            let (count, rest) = rest.split_once('-').ok_or(PacketError::Head)?;
            (count.parse().map_err(|_| PacketError::Head)?, rest)
        }
        _ => (0, rest),
    };
    let rest = match rest.strip_prefix('/') {
        None => rest,
        Some(rest) => rest.strip_prefix(',').ok_or(PacketError::Namespace)?,
    };
    let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
    let (ack, body) = rest.split_at(digits);
    let ack = match ack {
        "" => None,
        ack => Some(ack.parse().map_err(|_| PacketError::Head)?),
    };
    match kind {
        '0' => Ok(Packet::Connect(rest)),
        '1' => Ok(Packet::Disconnect),
        '2' | '5' => Ok(Packet::Event { ack, attachments, arguments: body }),
        '3' | '6' => Ok(Packet::Ack { ack: ack.ok_or(PacketError::Head)?, attachments, arguments: body }),
        '4' => Ok(Packet::ConnectError(rest)),
        other => Err(PacketError::Unknown(other)),
    }
}

/// The name that an event's arguments begin with, if it needs no unescaping: no event of the contract does.
#[must_use]
pub fn event_name(arguments: &str) -> Option<&str> {
    let (name, _) = arguments.strip_prefix("[\"")?.split_once('"')?;
    (!name.contains('\\')).then_some(name)
}

/// The packet that emits `event` with one text as its argument.
#[must_use]
pub fn emit(event: &str, ack: Option<u64>, argument: &str) -> String {
    let ack = ack.map(|ack| ack.to_string()).unwrap_or_default();
    let arguments = serde_json::json!([event, argument]);
    format!("42{ack}{arguments}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn engine_packets_are_told_apart() {
        assert_eq!(parse(r#"0{"sid":"x"}"#), Ok(Packet::Open(r#"{"sid":"x"}"#)));
        assert_eq!(parse("1"), Ok(Packet::Close));
        assert_eq!(parse("2"), Ok(Packet::Ping));
        assert_eq!(parse("3probe"), Ok(Packet::Pong));
        assert_eq!(parse("6"), Ok(Packet::Noop));
        assert_eq!(parse(""), Err(PacketError::Empty));
        assert_eq!(parse("4"), Err(PacketError::Empty));
        assert_eq!(parse("9"), Err(PacketError::Unknown('9')));
        assert_eq!(parse("49"), Err(PacketError::Unknown('9')));
    }

    #[test]
    fn an_event_keeps_its_arguments_untouched() {
        let arguments = r#"["message", {"n":1}]"#;
        for (text, ack, attachments) in [
            (format!("42{arguments}"), None, 0),
            (format!("4217{arguments}"), Some(17), 0),
            (format!("42/,17{arguments}"), Some(17), 0),
            (format!("452-{arguments}"), None, 2),
            (format!("452-/,8{arguments}"), Some(8), 2),
        ] {
            assert_eq!(parse(&text), Ok(Packet::Event { ack, attachments, arguments }), "{text}");
        }
    }

    #[test]
    fn acks_and_namespace_packets_are_read() {
        assert_eq!(
            parse(r#"430[{"ok":true}]"#),
            Ok(Packet::Ack { ack: 0, attachments: 0, arguments: r#"[{"ok":true}]"# })
        );
        assert_eq!(parse(r#"40{"sid":"a"}"#), Ok(Packet::Connect(r#"{"sid":"a"}"#)));
        assert_eq!(parse(r#"44{"message":"no"}"#), Ok(Packet::ConnectError(r#"{"message":"no"}"#)));
        assert_eq!(parse("41"), Ok(Packet::Disconnect));
    }

    #[test]
    fn malformed_heads_are_refused() {
        assert_eq!(parse("43[]"), Err(PacketError::Head));
        assert_eq!(parse("45[]"), Err(PacketError::Head));
        assert_eq!(parse("45x-[]"), Err(PacketError::Head));
        assert_eq!(parse("4299999999999999999999[]"), Err(PacketError::Head));
        assert_eq!(parse(r#"42/admin,["x"]"#), Err(PacketError::Namespace));
    }

    #[test]
    fn an_event_has_its_name_read() {
        assert_eq!(event_name(r#"["created","r","id"]"#), Some("created"));
        assert_eq!(event_name(r#"["created"]"#), Some("created"));
        assert_eq!(event_name(r#"["a\"b"]"#), None);
        assert_eq!(event_name("[]"), None);
        assert_eq!(event_name("[1]"), None);
    }

    #[test]
    fn what_is_emitted_parses_back() {
        let text = emit("create or join", Some(3), "a \"room\"");
        assert_eq!(text, r#"423["create or join","a \"room\""]"#);
        let Ok(Packet::Event { ack: Some(3), attachments: 0, arguments }) = parse(&text) else { panic!("{text}") };
        assert_eq!(event_name(arguments), Some("create or join"));
    }
}
