//! Who counts as one: an IPv4 address, or a /64 network of IPv6, which one subscriber has to itself.

use std::net::IpAddr;

use super::table::Key;

/// What limits count by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Address {
    /// An IPv4 address, however it was written.
    V4(u32),
    /// The first half of an IPv6 address.
    V6(u64),
}

impl From<IpAddr> for Address {
    fn from(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(address) => Self::V4(address.to_bits()),
            IpAddr::V6(address) => Self::V6(u64::try_from(address.to_bits() >> 64).unwrap_or(0)),
        }
    }
}

impl Key for Address {
    /// A /16 of IPv4, a /32 of IPv6: about what one provider has.
    fn neighbourhood(self) -> u64 {
        match self {
            Self::V4(address) => u64::from(address >> 16),
            Self::V6(network) => 1 << 32 | network >> 32,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> Address {
        text.parse::<IpAddr>().expect(text).into()
    }

    #[test]
    fn an_ipv6_network_counts_as_one_and_a_mapped_address_as_what_it_maps() {
        assert_eq!(address("2001:db8:1:2::1"), address("2001:db8:1:2:ffff::9"));
        assert_ne!(address("2001:db8:1:2::1"), address("2001:db8:1:3::1"));
        assert_eq!(address("::ffff:192.0.2.1"), address("192.0.2.1"));
        assert_ne!(address("192.0.2.1"), address("192.0.2.2"));
        assert_ne!(address("::1"), address("0.0.0.0"));
        assert_eq!(address("192.0.2.1").neighbourhood(), address("192.0.3.1").neighbourhood());
        assert_ne!(address("2001:db8::1").neighbourhood(), address("2001:db9::1").neighbourhood());
        assert_ne!(address("0.1.0.0").neighbourhood(), address("::1").neighbourhood());
    }
}
