//! `duet health`: asks a running node how it is, for containers that have no other program to ask with.

use std::{
    io::{self, Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream},
    time::Duration,
};

/// For each step of the request.
const PATIENCE: Duration = Duration::from_secs(3);
/// Of an answer: the reasons of a node that is not ready are short.
const ANSWER_BYTES: u64 = 4096;

/// Asks the admin listener at `listen` for `path`.
///
/// # Errors
/// When nobody answers, or not with 200; in the words of whoever answered.
pub fn ask(listen: SocketAddr, path: &str) -> io::Result<()> {
    let address = SocketAddr::new(reachable(listen.ip()), listen.port());
    let mut connection = TcpStream::connect_timeout(&address, PATIENCE)?;
    connection.set_read_timeout(Some(PATIENCE))?;
    connection.set_write_timeout(Some(PATIENCE))?;
    write!(connection, "GET {path} HTTP/1.0\r\nHost: {address}\r\nConnection: close\r\n\r\n")?;
    let mut answer = Vec::new();
    connection.take(ANSWER_BYTES).read_to_end(&mut answer)?;
    judge(&String::from_utf8_lossy(&answer))
}

/// Somebody who listens everywhere is found here.
fn reachable(listen: IpAddr) -> IpAddr {
    match listen {
        IpAddr::V4(address) if address.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(address) if address.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        address => address,
    }
}

fn judge(answer: &str) -> io::Result<()> {
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((answer, ""));
    let status = head.split(' ').nth(1).unwrap_or_default();
    if head.starts_with("HTTP/1.") && status == "200" {
        return Ok(());
    }
    Err(io::Error::other(format!(
        "not healthy: {}",
        if body.is_empty() { "no answer that says so" } else { body.trim() }
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_200_is_healthy_and_the_reasons_are_told() {
        assert!(judge("HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nok\n").is_ok());
        let reasons = judge("HTTP/1.1 503 Service Unavailable\r\n\r\n{\"reasons\":[\"redis\"]}").expect_err("unready");
        assert_eq!(reasons.to_string(), "not healthy: {\"reasons\":[\"redis\"]}");
        for other in ["", "200", "SSH-2.0-x 200\r\n\r\n", "HTTP/1.1 404 Not Found\r\n\r\n"] {
            assert!(judge(other).is_err(), "{other}");
        }
    }

    #[test]
    fn whoever_listens_everywhere_is_asked_here() {
        assert_eq!(reachable(Ipv4Addr::UNSPECIFIED.into()), Ipv4Addr::LOCALHOST);
        assert_eq!(reachable(Ipv6Addr::UNSPECIFIED.into()), Ipv6Addr::LOCALHOST);
        let other: IpAddr = "192.0.2.1".parse().expect("an address");
        assert_eq!(reachable(other), other);
    }
}
