//! Who is on the other end: networks that are trusted, and origins that are let in, as settings write them.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// Networks, such as `10.0.0.0/8, 192.0.2.7, fd00::/8`; empty for none.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(try_from = "String", into = "String")]
pub struct Networks(Vec<IpNet>);

impl Networks {
    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether `address` is in one of them; an IPv4 address that is written as one of IPv6 is the IPv4 address.
    #[must_use]
    pub fn contain(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.0.iter().any(|network| network.contains(&address))
    }
}

impl TryFrom<String> for Networks {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        words(&text)
            .map(|word| {
                word.parse::<IpNet>()
                    .or_else(|_| word.parse::<IpAddr>().map(IpNet::from))
                    .map_err(|_| format!("`{word}` is neither an address nor a network such as 10.0.0.0/8"))
            })
            .collect::<Result<_, _>>()
            .map(Self)
    }
}

impl From<Networks> for String {
    fn from(networks: Networks) -> Self {
        networks.0.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
    }
}

/// Origins (RFC 6454), such as `https://example.org, https://*.example.org:8443`; empty for any.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(try_from = "String", into = "String")]
pub struct Origins(Vec<Pattern>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Pattern {
    scheme: String,
    /// Without the `*.`.
    host: String,
    /// With its colon; empty when there is none.
    port: String,
    /// Whether any name below the host is meant, and not the host.
    below: bool,
}

impl Pattern {
    fn parse(word: &str) -> Option<Self> {
        let (scheme, authority) = split(word)?;
        let (below, authority) = match authority.strip_prefix("*.") {
            Some(parent) => (true, parent),
            None => (false, authority),
        };
        let (host, port) = host_and_port(authority);
        let holds = is_host(host)
            && (port.is_empty() || port[1..].parse::<u16>().is_ok())
            // What browsers leave out would never match.
            && !matches!((scheme, port), ("http", ":80") | ("https", ":443"));
        holds.then(|| Self { scheme: scheme.into(), host: host.into(), port: port.into(), below })
    }

    fn matches(&self, scheme: &str, host: &str, port: &str) -> bool {
        let named = if self.below {
            host.strip_suffix(&*self.host).and_then(|rest| rest.strip_suffix('.')).is_some_and(is_host)
        } else {
            host == self.host
        };
        named && scheme == self.scheme && port == self.port
    }
}

fn is_host(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-.[]:_".contains(&b))
}

fn split(origin: &str) -> Option<(&str, &str)> {
    origin.split_once("://").filter(|(scheme, _)| matches!(*scheme, "http" | "https"))
}

fn host_and_port(authority: &str) -> (&str, &str) {
    match authority.rfind(':') {
        // The colons of an IPv6 address are within brackets.
        Some(at) if !authority[at..].contains(']') => authority.split_at(at),
        _ => (authority, ""),
    }
}

impl Origins {
    /// Whether any origin is let in.
    #[must_use]
    pub fn is_any(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether a page of `origin`, as its browser writes it, is let in.
    #[must_use]
    pub fn allow(&self, origin: &[u8]) -> bool {
        if self.is_any() {
            return true;
        }
        let Some((scheme, authority)) = std::str::from_utf8(origin).ok().and_then(split) else { return false };
        let (host, port) = host_and_port(authority);
        self.0.iter().any(|pattern| pattern.matches(scheme, host, port))
    }
}

impl TryFrom<String> for Origins {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        words(&text)
            .map(|word| {
                Pattern::parse(word).ok_or_else(|| {
                    format!(
                        "`{word}` is no origin: it reads https://HOST[:PORT], in lower case, without the scheme's own \
                         port, with `*.` in front of HOST for all names below it"
                    )
                })
            })
            .collect::<Result<_, _>>()
            .map(Self)
    }
}

impl From<Origins> for String {
    fn from(origins: Origins) -> Self {
        let text = |p: &Pattern| format!("{}://{}{}{}", p.scheme, if p.below { "*." } else { "" }, p.host, p.port);
        origins.0.iter().map(text).collect::<Vec<_>>().join(", ")
    }
}

/// Whether connections begin with who is behind them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ProxyProtocol {
    /// They do not.
    #[default]
    Off,
    /// Each of a trusted proxy does, by version 1 or 2.
    On,
}

fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(',').map(str::trim).filter(|word| !word.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_contain_what_is_in_them() {
        let networks = Networks::try_from("10.0.0.0/8, 192.0.2.7, fd00::/8".to_owned()).expect("valid");
        for (address, within) in [
            ("10.1.2.3", true),
            ("::ffff:10.1.2.3", true),
            ("11.0.0.1", false),
            ("192.0.2.7", true),
            ("192.0.2.8", false),
            ("fd12::1", true),
            ("::1", false),
        ] {
            assert_eq!(networks.contain(address.parse().expect(address)), within, "{address}");
        }
        assert_eq!(String::from(networks.clone()), "10.0.0.0/8, 192.0.2.7/32, fd00::/8");
        assert!(Networks::try_from(String::new()).expect("valid").is_empty());
        for wrong in ["10.0.0.0/33", "localhost", "10.0.0.0/8;10.0.0.1"] {
            assert!(Networks::try_from(wrong.to_owned()).is_err(), "{wrong}");
        }
    }

    #[test]
    fn an_origin_is_let_in_by_all_of_it() {
        let text = "https://a.example, https://*.b.example, http://localhost:3000, http://[::1]:8080";
        let origins = Origins::try_from(text.to_owned()).expect("valid");
        for (origin, allowed) in [
            ("https://a.example", true),
            ("http://a.example", false),
            ("https://a.example:8443", false),
            ("https://x.a.example", false),
            ("https://a.example.evil", false),
            ("https://x.b.example", true),
            ("https://x.y.b.example", true),
            ("https://b.example", false),
            ("https://.b.example", false),
            ("https://xb.example", false),
            ("https://evil.example/.b.example", false),
            ("http://localhost:3000", true),
            ("http://localhost", false),
            ("http://[::1]:8080", true),
            ("null", false),
            ("", false),
            ("https://", false),
        ] {
            assert_eq!(origins.allow(origin.as_bytes()), allowed, "{origin}");
        }
        assert_eq!(String::from(origins), text);
        assert!(Origins::default().allow(b"null") && Origins::default().is_any());
        for wrong in [
            "a.example",
            "https://A.example",
            "https://a.example/",
            "https://a.example:443",
            "*",
            "ws://a",
            "https://*",
        ] {
            assert!(Origins::try_from(wrong.to_owned()).is_err(), "{wrong}");
        }
    }
}
