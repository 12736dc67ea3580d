//! Who opened a session, as far as its connection and its handshake say.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

/// The other end of a TCP connection, or whom the PROXY protocol names in its place; an extension of each request that came
/// by [`super::listener`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer(pub SocketAddr);

/// Who opened a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Visitor {
    /// Where it came from: the client's own address, behind proxies that are trusted to tell it.
    pub address: IpAddr,
    /// The token that its handshake's query carried, unchecked.
    pub token: Option<Box<str>>,
}

impl Default for Visitor {
    /// Nobody known.
    fn default() -> Self {
        Self { address: IpAddr::V4(Ipv4Addr::UNSPECIFIED), token: None }
    }
}
