//! What is loaded, in which language, and from which addresses. Only loopback is ever loaded.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::str::FromStr;

/// What the server on the other end speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Dialect {
    /// Socket.IO 4 over WebSocket, with the events of the contract.
    Socketio,
    /// The protocol of `bare-relay`.
    Bare,
}

/// The server to load.
#[derive(Clone, Debug)]
pub struct Target {
    /// Where it listens.
    pub address: SocketAddr,
    /// What it speaks.
    pub dialect: Dialect,
    /// Send the request headers of a browser instead of the few that RFC 6455 asks for.
    pub browser_headers: bool,
}

/// A loopback address out of a URL or an address with port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Loopback(pub SocketAddr);

impl FromStr for Loopback {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let address = text.strip_prefix("ws://").or_else(|| text.strip_prefix("http://")).unwrap_or(text);
        let address = address.split_once('/').map_or(address, |(address, _)| address);
        let address =
            address.strip_prefix("localhost:").map_or_else(|| address.to_owned(), |port| format!("127.0.0.1:{port}"));
        let address: SocketAddr = address.parse().map_err(|_| "expected ws://127.0.0.1:PORT".to_owned())?;
        match address.ip() {
            IpAddr::V4(ip) if ip.is_loopback() => Ok(Self(address)),
            _ => Err("only an IPv4 loopback address may be loaded".to_owned()),
        }
    }
}

/// The source address of the socket with this number: 64 addresses of 127/8 in turn, so that no address runs out of ports.
#[must_use]
pub const fn source(number: usize) -> Ipv4Addr {
    #[expect(clippy::cast_possible_truncation, reason = "below 64")]
    let last = (number % 64) as u8;
    Ipv4Addr::new(127, 0, 1, 1 + last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_loopback_is_a_target() {
        for good in ["ws://127.0.0.1:80", "http://127.0.0.1:80/", "127.0.0.1:80", "ws://localhost:80/x"] {
            assert_eq!(good.parse(), Ok(Loopback(([127, 0, 0, 1], 80).into())), "{good}");
        }
        for bad in ["ws://10.0.0.1:80", "ws://example.org:80", "127.0.0.1", "[::1]:80", "ws://0.0.0.0:80"] {
            assert!(bad.parse::<Loopback>().is_err(), "{bad}");
        }
    }

    #[test]
    fn sources_spread_over_loopback_addresses() {
        let sources: std::collections::HashSet<_> = (0..1000).map(source).collect();
        assert_eq!(sources.len(), 64);
        assert!(sources.iter().all(Ipv4Addr::is_loopback));
    }
}
