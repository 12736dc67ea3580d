//! `[ice]`: the STUN and TURN servers that peers are told of.
//!
//! Owns the form of their URLs and of secrets. Never opens a file: that is for the part that uses the secret.

use std::{fmt, net::Ipv4Addr, net::Ipv6Addr, path::PathBuf, time::Duration};

use serde::{Deserialize, Serialize};

use super::BadSettings;

/// URLs of a kind. Browsers complain of many servers long before, and each is one more in every answer.
const MAX_URLS: usize = 16;
/// Characters of a secret, at least: who guesses it relays at the operator's expense.
const LEAST_SECRET: usize = 16;

/// `[ice]`
#[derive(Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Ice {
    /// `DUET_ICE__STUN`: URLs of STUN servers (RFC 7064), separated by commas; empty for none.
    pub stun: String,
    /// `DUET_ICE__TURN`: URLs of TURN servers (RFC 7065), separated by commas; empty for none.
    pub turn: String,
    /// `DUET_ICE__SECRET`: what the TURN servers share with this one; several, separated by commas, of which the first signs.
    pub secret: String,
    /// `DUET_ICE__SECRET_FILE`: a file with the secrets instead, one a line.
    pub secret_file: PathBuf,
    /// `DUET_ICE__LIFETIME`: how long credentials can be used, in whole seconds.
    #[serde(with = "humantime_serde")]
    pub lifetime: Duration,
    /// `DUET_ICE__USER_PREFIX`: what the user in each username begins with; empty for nothing.
    pub user_prefix: String,
}

impl fmt::Debug for Ice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ice").field("stun", &self.stun).field("turn", &self.turn).finish_non_exhaustive()
    }
}

impl Ice {
    /// Checks what a type alone does not say; files are not opened.
    ///
    /// # Errors
    /// [`BadSettings`] names the setting.
    pub fn validate(&self) -> Result<(), BadSettings> {
        let bad = |complaint: String| Err(BadSettings(complaint));
        for (setting, kind, urls) in [("stun", Kind::Stun, &self.stun), ("turn", Kind::Turn, &self.turn)] {
            if let Some(url) = list(urls).find(|url| !is_url(kind, url)) {
                return bad(format!("ice.{setting}: `{url}` is not of the form {}", kind.form()));
            }
            if list(urls).count() > MAX_URLS {
                return bad(format!("ice.{setting}: must be at most {MAX_URLS} URLs"));
            }
        }
        let in_file = !self.secret_file.as_os_str().is_empty();
        if in_file && !self.secret.is_empty() {
            return bad("ice.secret and ice.secret_file: give one of them".into());
        }
        if !self.turn.is_empty() && !in_file && self.secret.is_empty() {
            return bad("ice.turn: needs ice.secret or ice.secret_file, which the TURN servers share".into());
        }
        if !self.secret.is_empty() {
            secrets(&self.secret).map_err(|complaint| BadSettings(format!("ice.secret: {complaint}")))?;
        }
        if !(Duration::from_secs(1)..=Duration::from_hours(7 * 24)).contains(&self.lifetime) {
            return bad("ice.lifetime: must be between 1s and 7days".into());
        }
        let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
        if self.user_prefix.len() > 32 || !self.user_prefix.bytes().all(plain) {
            return bad("ice.user_prefix: must be at most 32 of the characters A-Z a-z 0-9 - _ .".into());
        }
        Ok(())
    }

    /// Hides what nobody may read.
    pub fn hide_secrets(&mut self) {
        if !self.secret.is_empty() {
            self.secret = "***".into();
        }
    }
}

/// The parts of a list that is separated by commas; none of an empty text.
pub fn list(text: &str) -> impl Iterator<Item = &str> {
    text.split(',').map(str::trim).filter(move |part| !(part.is_empty() && text.trim().is_empty()))
}

/// The secrets of a text, separated by commas or by the ends of lines, the first of which signs.
///
/// # Errors
/// What is wrong with them; none of them is repeated.
pub fn secrets(text: &str) -> Result<Vec<&str>, String> {
    let secrets: Vec<&str> = text.split([',', '\n']).map(str::trim).filter(|part| !part.is_empty()).collect();
    if secrets.is_empty() {
        return Err("is empty".into());
    }
    if secrets.iter().any(|secret| secret.len() < LEAST_SECRET) {
        return Err(format!("each must have at least {LEAST_SECRET} characters"));
    }
    // A space within would be cut off, or end an option, in the settings of TURN servers.
    if secrets.iter().any(|secret| !secret.bytes().all(|b| b.is_ascii_graphic())) {
        return Err("must be of printable ASCII characters without spaces".into());
    }
    Ok(secrets)
}

/// What a server is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Tells a peer its address.
    Stun,
    /// Relays.
    Turn,
}

impl Kind {
    const fn form(self) -> &'static str {
        match self {
            Self::Stun => "stun:HOST[:PORT] or stuns:HOST[:PORT]",
            Self::Turn => "turn:HOST[:PORT][?transport=udp|tcp], or the same with turns:",
        }
    }
}

/// Whether `url` is one that browsers take for a server of that kind: RFC 7064, section 3.1, and RFC 7065, section 3.1. One
/// that is not makes a page's `RTCPeerConnection` fail as a whole.
#[must_use]
pub fn is_url(kind: Kind, url: &str) -> bool {
    let Some((scheme, rest)) = url.split_once(':') else { return false };
    let server = match (kind, scheme) {
        (Kind::Stun, "stun" | "stuns") => rest,
        (Kind::Turn, "turn" | "turns") => match rest.split_once('?') {
            Some((server, "transport=udp" | "transport=tcp")) => server,
            Some(_) => return false,
            None => rest,
        },
        _ => return false,
    };
    let (host, port) = match server.strip_prefix('[') {
        Some(rest) => match rest.split_once(']') {
            Some((host, port)) if host.parse::<Ipv6Addr>().is_ok() => (None, port),
            _ => return false,
        },
        None => match server.find(':') {
            Some(colon) => (Some(&server[..colon]), &server[colon..]),
            None => (Some(server), ""),
        },
    };
    host.is_none_or(is_host) && (port.is_empty() || port.strip_prefix(':').is_some_and(is_port))
}

/// Whether it is a name or an IPv4 address (RFC 3986, section 3.2.2, with what names of hosts are made of).
fn is_host(host: &str) -> bool {
    let label = |label: &str| {
        (1..=63).contains(&label.len()) && label.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b))
    };
    let all_digits = host.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    host.len() <= 253
        && host.trim_end_matches('.').split('.').all(label)
        && (!all_digits || host.parse::<Ipv4Addr>().is_ok())
}

fn is_port(port: &str) -> bool {
    port.bytes().all(|b| b.is_ascii_digit()) && port.parse::<u16>().is_ok_and(|port| port > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_those_that_browsers_take() {
        for url in
            ["stun:stun.example.org", "stun:192.0.2.1:3478", "stuns:a-b.example.org:5349", "stun:[2001:db8::1]:1"]
        {
            assert!(is_url(Kind::Stun, url), "{url}");
            assert!(!is_url(Kind::Turn, url), "{url}");
        }
        for url in [
            "turn:turn.example.org",
            "turn:turn.example.org.:65535",
            "turn:localhost:3478?transport=udp",
            "turns:192.0.2.1:443?transport=tcp",
            "turns:[::1]?transport=tcp",
        ] {
            assert!(is_url(Kind::Turn, url), "{url}");
            assert!(!is_url(Kind::Stun, url), "{url}");
        }
        for rest in [
            "",
            ":",
            "//host",
            "host:",
            "host:0",
            "host:65536",
            "host:+1",
            "host:1:2",
            "me@host",
            "host/path",
            "host?",
            "a b",
            "host?transport=sctp",
            "host?transport=udp&x=1",
            "host?TRANSPORT=udp",
            "[::1",
            "::1",
            "[host]",
            "[::1]1",
            "a..b",
            "192.0.2",
            "192.0.2.256",
            "höst",
            "%41",
            "host#x",
            "\nhost",
        ] {
            for (kind, scheme) in
                [(Kind::Stun, "stun"), (Kind::Turn, "turn"), (Kind::Turn, "TURN"), (Kind::Turn, "http")]
            {
                assert!(!is_url(kind, &format!("{scheme}:{rest}")), "{scheme}:{rest}");
            }
        }
        assert!(!is_url(Kind::Stun, "stun:host?transport=udp") && !is_url(Kind::Stun, "host"));
    }

    #[test]
    fn an_empty_text_is_an_empty_list_and_an_empty_part_is_none() {
        assert_eq!(list("").count() + list("  ").count(), 0);
        assert_eq!(list("a, b").collect::<Vec<_>>(), ["a", "b"]);
        // It is not passed over: somebody forgot something.
        assert_eq!(list("a,").collect::<Vec<_>>(), ["a", ""]);
    }

    #[test]
    fn the_first_secret_comes_first_and_no_complaint_repeats_one() {
        let (one, other) = ("0123456789abcdef", "fedcba9876543210");
        assert_eq!(secrets(&format!("{one}, {other}")), Ok(vec![one, other]));
        assert_eq!(secrets(&format!("\n{other}\r\n{one}\n")), Ok(vec![other, one]));
        for wrong in ["", " \n", "short", "0123456789abcdef,short", "0123456789 abcdef", "0123456789abcdeé"] {
            let complaint = secrets(wrong).expect_err(wrong);
            assert!(
                !complaint.contains("short") && !complaint.contains("0123") && !complaint.contains('\n'),
                "{complaint}"
            );
        }
    }
}
