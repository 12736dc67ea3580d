//! A client's CONNECT, found among what it sends before it is answered.
//!
//! The protocol wants that answer to be waited for (<https://socket.io/docs/v4/socket-io-protocol/>), and the library knows
//! no socket before it: what a client says too early is lost, and its connection ended. Here it only comes later.

/// The CONNECT of the root namespace, with or without what goes with it. Of any other namespace the library knows nothing.
#[must_use]
pub fn is_connect(packet: &[u8]) -> bool {
    packet.starts_with(b"40") && packet.get(2) != Some(&b'/')
}

/// The packet's bytes that are needed to tell.
const TELLING: usize = 3;
/// The most a frame's head takes (RFC 6455, section 5.2).
const HEAD: usize = 14;

/// Follows a client's WebSocket frames up to a CONNECT.
#[derive(Debug, Default)]
pub(super) struct Greeting {
    /// A frame's head, and the start of its payload.
    start: [u8; HEAD + TELLING],
    known: usize,
    /// Bytes of a frame that is not to be looked at any more.
    left: u64,
    /// These bytes end a CONNECT.
    connects: bool,
}

impl Greeting {
    /// How many of these bytes may be read before anything waits, and whether a CONNECT ends with them.
    pub(super) fn pass(&mut self, read: &[u8]) -> (usize, bool) {
        let mut at = 0;
        while at < read.len() {
            if self.left == 0 {
                self.start[self.known] = read[at];
                self.known += 1;
                at += 1;
                let Some(left) = self.look() else { continue };
                self.known = 0;
                self.left = left;
            } else {
                let passed = usize::try_from(self.left).unwrap_or(usize::MAX).min(read.len() - at);
                self.left -= passed as u64;
                at += passed;
            }
            if self.left == 0 && std::mem::take(&mut self.connects) {
                return (at, true);
            }
        }
        (at, false)
    }

    /// How many bytes of the frame follow, once enough of it is known to tell what it is.
    fn look(&mut self) -> Option<u64> {
        let (&[first, second, ..], known) = (&self.start, self.known);
        if known < 2 {
            return None;
        }
        let (length_end, short) = match second & 0x7f {
            126 => (4, None),
            127 => (10, None),
            short => (2, Some(short)),
        };
        if known < length_end {
            return None;
        }
        let length = short.map_or_else(
            || self.start[2..length_end].iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte)),
            u64::from,
        );
        let head = length_end + if second & 0x80 == 0 { 0 } else { 4 };
        let telling = TELLING.min(usize::try_from(length).unwrap_or(TELLING));
        if known < head + telling {
            return None;
        }
        let mask = &self.start[length_end..head];
        let mut packet = [0; TELLING];
        for (at, byte) in packet[..telling].iter_mut().enumerate() {
            *byte = self.start[head + at] ^ mask.get(at).copied().unwrap_or(0);
        }
        // A whole text.
        self.connects = first == 0x81 && is_connect(&packet[..telling]);
        Some(length - telling as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(first: u8, payload: &[u8], mask: [u8; 4]) -> Vec<u8> {
        let mut frame = vec![first];
        match payload.len() {
            short @ 0..126 => frame.push(0x80 | u8::try_from(short).expect("short")),
            medium @ 126..65_536 => {
                frame.push(0xfe);
                frame.extend_from_slice(&u16::try_from(medium).expect("medium").to_be_bytes());
            }
            long => {
                frame.push(0xff);
                frame.extend_from_slice(&(long as u64).to_be_bytes());
            }
        }
        frame.extend_from_slice(&mask);
        frame.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
        frame
    }

    #[test]
    fn a_connect_of_the_root_is_one_and_nothing_else() {
        for connect in ["40", "40{}", "40{\"token\":\"a\"}", "40garbage"] {
            assert!(is_connect(connect.as_bytes()), "{connect}");
        }
        for other in ["", "4", "3", "42[\"a\"]", "41", "40/admin,", "2probe"] {
            assert!(!is_connect(other.as_bytes()), "{other}");
        }
    }

    #[test]
    fn what_comes_after_a_connect_is_found_however_it_is_cut() {
        let mask = [0x12, 0xff, 0, 0x40];
        let token = format!("40{{\"token\":\"{}\"}}", "x".repeat(300));
        let before = [
            frame(0x81, b"3", mask),
            frame(0x89, b"", mask),
            frame(0x82, b"40", mask),
            frame(0x81, b"40/admin,", mask),
            frame(0x81, "x".repeat(70_000).as_bytes(), [0; 4]),
        ]
        .concat();
        for connect in [frame(0x81, b"40", mask), frame(0x81, token.as_bytes(), mask)] {
            let after = frame(0x81, b"42[\"create or join\",\"a\"]", mask);
            let all = [before.clone(), connect.clone(), after, connect.clone()].concat();
            let ends = [before.len() + connect.len(), all.len()];
            for step in [1, 2, 3, 5, 100, 16_384, all.len()] {
                let (mut greeting, mut at, mut found) = (Greeting::default(), 0, Vec::new());
                while at < all.len() {
                    let (passed, connects) = greeting.pass(&all[at..all.len().min(at + step)]);
                    assert!(passed > 0);
                    at += passed;
                    if connects {
                        found.push(at);
                    }
                }
                assert_eq!(found, ends, "in steps of {step}");
            }
        }
    }

    #[test]
    fn a_length_beyond_all_bounds_is_no_connect() {
        let head = [[0x82, 0xff].as_slice(), &[0xff; 8], &[0; 4], b"40"].concat();
        let mut greeting = Greeting::default();
        assert_eq!((greeting.pass(&head), greeting.pass(&[0; 100])), ((head.len(), false), (100, false)));
    }
}
