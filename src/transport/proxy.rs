//! Who is behind a proxy: the PROXY protocol, versions 1 and 2
//! (<https://www.haproxy.org/download/3.0/doc/proxy-protocol.txt>), and `X-Forwarded-For`.
//!
//! Neither is ever looked at when it comes from somebody who is not trusted to say it. A connection that is to begin with
//! a header and does not is closed: to guess would let a client forge one.

use std::net::{IpAddr, SocketAddr};

use http::{HeaderMap, HeaderName};
use ppp::{v1, v2};

use crate::config::Networks;

/// The longest header of version 1, line end included.
const V1_BYTES: usize = 107;
/// Where the length of a version 2 header stands, and what comes after it.
const V2_HEAD_BYTES: usize = 16;
/// The longest header of version 2 that is read: addresses, and some room for what else it may tell.
const V2_BYTES: usize = 2048;
const V2_SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";

/// No header is longer.
pub(super) const HEADER_BYTES: usize = V2_BYTES;

/// `X-Forwarded-For`.
pub const FORWARDED: HeaderName = HeaderName::from_static("x-forwarded-for");

/// A header as far as it is there.
#[derive(Debug, PartialEq, Eq)]
pub enum Header {
    /// There has to come more of it.
    Partial,
    /// It takes so many bytes. Without an address it is the proxy that speaks: a health check, or a client of unknown address.
    Whole(usize, Option<SocketAddr>),
    /// It is none.
    Malformed,
}

/// Reads the header that `start` begins with.
#[must_use]
pub fn header(start: &[u8]) -> Header {
    let known = start.len().min(V2_SIGNATURE.len());
    if start[..known] == V2_SIGNATURE[..known] {
        return version_2(start);
    }
    let known = start.len().min(v1::PROTOCOL_PREFIX.len());
    if start[..known] != v1::PROTOCOL_PREFIX.as_bytes()[..known] {
        return Header::Malformed;
    }
    // Only as a whole line: a cut address may be another address.
    let Some(end) = start.iter().take(V1_BYTES).position(|byte| *byte == b'\n') else {
        return if start.len() < V1_BYTES { Header::Partial } else { Header::Malformed };
    };
    match v1::Header::try_from(&start[..=end]) {
        Ok(header) => Header::Whole(
            end + 1,
            match header.addresses {
                v1::Addresses::Tcp4(addresses) => Some((addresses.source_address, addresses.source_port).into()),
                v1::Addresses::Tcp6(addresses) => Some((addresses.source_address, addresses.source_port).into()),
                v1::Addresses::Unknown => None,
            },
        ),
        Err(_) => Header::Malformed,
    }
}

fn version_2(start: &[u8]) -> Header {
    let Some(length) = start.get(V2_HEAD_BYTES - 2..V2_HEAD_BYTES) else { return Header::Partial };
    let whole = V2_HEAD_BYTES + usize::from(u16::from_be_bytes([length[0], length[1]]));
    if whole > V2_BYTES {
        return Header::Malformed;
    }
    let Some(start) = start.get(..whole) else { return Header::Partial };
    match v2::Header::try_from(start) {
        Ok(header) if header.command == v2::Command::Local => Header::Whole(whole, None),
        Ok(header) => Header::Whole(
            whole,
            match header.addresses {
                v2::Addresses::IPv4(addresses) => Some((addresses.source_address, addresses.source_port).into()),
                v2::Addresses::IPv6(addresses) => Some((addresses.source_address, addresses.source_port).into()),
                v2::Addresses::Unspecified | v2::Addresses::Unix(_) => None,
            },
        ),
        Err(_) => Header::Malformed,
    }
}

/// The client's own address: the nearest to this node that no trusted proxy has, as far as trusted proxies tell.
///
/// Each proxy appends whom it got a request from, so the list is believed from its end, and only as long as it was a trusted
/// one that said so. What is further left anybody may have made up.
#[must_use]
pub fn client(peer: IpAddr, headers: &HeaderMap, trusted: &Networks) -> IpAddr {
    let mut nearest = peer.to_canonical();
    if trusted.is_empty() {
        return nearest;
    }
    let lists: Vec<&[u8]> = headers.get_all(FORWARDED).iter().map(http::HeaderValue::as_bytes).collect();
    let mut hops = lists.iter().rev().flat_map(|list| list.rsplit(|byte| *byte == b','));
    while trusted.contain(nearest) {
        match hops.next().and_then(address) {
            Some(hop) => nearest = hop,
            None => break,
        }
    }
    nearest
}

/// An address as proxies write it: some add the port.
fn address(text: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(text).ok()?.trim();
    let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
    let address = bare.parse().ok().or_else(|| text.parse::<SocketAddr>().ok().map(|address| address.ip()));
    address.map(|address: IpAddr| address.to_canonical())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A header of version 2 for TCP over IPv4.
    fn v2_header(command: u8, length: u16) -> Vec<u8> {
        let mut header = V2_SIGNATURE.to_vec();
        header.extend([0x20 | command, 0x11]);
        header.extend(length.to_be_bytes());
        header.extend([192, 0, 2, 9, 198, 51, 100, 1, 0x30, 0x39, 0, 80]);
        header
    }

    #[test]
    fn headers_of_both_versions_are_read_wherever_they_are_cut() {
        let v6 = b"PROXY TCP6 2001:db8::9 2001:db8::1 12345 80\r\n".to_vec();
        for (header, address) in [
            (b"PROXY TCP4 192.0.2.9 198.51.100.1 12345 80\r\n".to_vec(), Some("192.0.2.9:12345")),
            (v6, Some("[2001:db8::9]:12345")),
            (b"PROXY UNKNOWN\r\n".to_vec(), None),
            (v2_header(1, 12), Some("192.0.2.9:12345")),
            (v2_header(0, 12), None),
        ] {
            let address: Option<SocketAddr> = address.map(|address| address.parse().expect("an address"));
            for cut in 0..header.len() {
                assert_eq!(super::header(&header[..cut]), Header::Partial, "{cut}");
            }
            let with_more = [&header[..], b"GET / HTTP/1.1\r\n"].concat();
            assert_eq!(super::header(&with_more), Header::Whole(header.len(), address));
        }
    }

    #[test]
    fn what_is_no_header_is_not_taken_for_one() {
        let long = [&b"PROXY TCP4 192.0.2.9 198.51.100.1 12345 80"[..], &[b' '; 100], b"\r\n"].concat();
        for start in [
            &b"GET / HTTP/1.1\r\n"[..],
            b"PROXY TCP4 192.0.2.9 198.51.100.1 12345 99999\r\n",
            b"PROXY TCP4 nobody 198.51.100.1 1 2\r\n",
            b"PROXY \n",
            b"\r\n\r\n\0\r\nQUIX\n",
            &long,
            &v2_header(1, 60_000),
            &v2_header(7, 12),
        ] {
            assert_eq!(header(start), Header::Malformed, "{}", String::from_utf8_lossy(start));
        }
    }

    fn asked(peer: &str, headers: &[&str], trusted: &str) -> String {
        let mut map = HeaderMap::new();
        for value in headers {
            map.append(FORWARDED, value.parse().expect("a value"));
        }
        let trusted = Networks::try_from(trusted.to_owned()).expect("networks");
        client(peer.parse().expect("an address"), &map, &trusted).to_string()
    }

    #[test]
    fn only_trusted_proxies_are_believed_and_only_about_their_own_peer() {
        let proxies = "10.0.0.0/8, fd00::/8";
        for (peer, headers, client) in [
            // Nobody trusted: the peer itself, whatever it says.
            ("203.0.113.5", &["198.51.100.7"][..], "203.0.113.5"),
            ("10.0.0.1", &[], "10.0.0.1"),
            ("10.0.0.1", &["198.51.100.7"], "198.51.100.7"),
            // The client made the first up; the proxy appended the second.
            ("10.0.0.1", &["192.0.2.1, 198.51.100.7"], "198.51.100.7"),
            ("10.0.0.1", &["192.0.2.1", "198.51.100.7"], "198.51.100.7"),
            ("10.0.0.1", &["10.9.9.9, 198.51.100.7"], "198.51.100.7"),
            ("10.0.0.1", &["198.51.100.7, 10.0.0.2"], "198.51.100.7"),
            ("fd00::1", &["2001:db8::7, 10.0.0.2"], "2001:db8::7"),
            ("::ffff:10.0.0.1", &["::ffff:198.51.100.7"], "198.51.100.7"),
            ("10.0.0.1", &["198.51.100.7:1234"], "198.51.100.7"),
            ("10.0.0.1", &["[2001:db8::7]:1234"], "2001:db8::7"),
            // What is no address ends the chain.
            ("10.0.0.1", &["198.51.100.7, unknown"], "10.0.0.1"),
            ("10.0.0.1", &["198.51.100.7, unknown, 10.0.0.2"], "10.0.0.2"),
            ("10.0.0.1", &[""], "10.0.0.1"),
            ("10.0.0.1", &["10.0.0.3, 10.0.0.2"], "10.0.0.3"),
        ] {
            assert_eq!(asked(peer, headers, proxies), client, "{peer} {headers:?}");
        }
        assert_eq!(asked("10.0.0.1", &["198.51.100.7"], ""), "10.0.0.1");
    }

    proptest! {
        #[test]
        fn no_bytes_upset_the_reading(
            bytes in prop::collection::vec(any::<u8>(), 0..200),
            prefix in prop::sample::select(vec![&b"PROXY "[..], &V2_SIGNATURE[..], &b""[..]])
        ) {
            let start = [prefix, &bytes].concat();
            if let Header::Whole(length, _) = header(&start) {
                prop_assert!(length <= start.len());
            }
        }
    }
}
