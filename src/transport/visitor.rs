//! Who opened a session, as far as its connection and its handshake say.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, SocketAddr},
};

/// The other end of a TCP connection, or whom the PROXY protocol names in its place; an extension of each request that came
/// by [`super::listener`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer(pub SocketAddr);

/// Who opened a session.
#[derive(Clone, PartialEq, Eq)]
pub struct Visitor {
    /// Where it came from: the client's own address, behind proxies that are trusted to tell it.
    pub address: IpAddr,
    /// The token that its handshake's query carried, unchecked.
    pub token: Option<Box<str>>,
}

/// A token is never shown.
impl fmt::Debug for Visitor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Visitor").field("address", &self.address).finish_non_exhaustive()
    }
}

impl Default for Visitor {
    /// Nobody known.
    fn default() -> Self {
        Self { address: IpAddr::V4(Ipv4Addr::UNSPECIFIED), token: None }
    }
}
