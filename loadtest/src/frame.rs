//! WebSocket frames as a client sends and reads them (RFC 6455, section 5). Pure bytes: knows no socket.

use std::ops::Range;

/// The largest payload that is accepted from a server.
pub const MAX_PAYLOAD: u64 = 64 << 20;

const FIN: u8 = 0x80;
const RESERVED: u8 = 0x70;
const MASKED: u8 = 0x80;
/// Lengths that say: the length follows, in 16 or in 64 bits.
const LENGTH_16: u8 = 0x7E;
const LENGTH_64: u8 = 0x7F;

/// What a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names of the RFC")]
pub enum Opcode {
    Continuation,
    Text,
    Binary,
    Close,
    Ping,
    Pong,
}

impl Opcode {
    const fn code(self) -> u8 {
        match self {
            Self::Continuation => 0x0,
            Self::Text => 0x1,
            Self::Binary => 0x2,
            Self::Close => 0x8,
            Self::Ping => 0x9,
            Self::Pong => 0xA,
        }
    }

    const fn from_code(code: u8) -> Option<Self> {
        Some(match code {
            0x0 => Self::Continuation,
            0x1 => Self::Text,
            0x2 => Self::Binary,
            0x8 => Self::Close,
            0x9 => Self::Ping,
            0xA => Self::Pong,
            _ => return None,
        })
    }
}

/// Why bytes from a server are no frame.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// Bits or opcodes without a meaning here; the frame's first byte.
    #[error("the server sent a frame with reserved bits or opcode: {0:#04x}")]
    Reserved(u8),
    /// Only clients mask.
    #[error("the server sent a masked frame")]
    Masked,
    /// More than [`MAX_PAYLOAD`].
    #[error("the server sent a frame of {0} bytes")]
    TooLong(u64),
}

/// Where a frame lies in the bytes it was found in.
#[derive(Debug, PartialEq, Eq)]
pub struct Found {
    /// What it is.
    pub opcode: Opcode,
    /// Whether it ends its message.
    pub last: bool,
    /// Its payload; the frame ends where that does.
    pub payload: Range<usize>,
}

/// The frame that `bytes` begin with, or nothing while it is incomplete.
///
/// # Errors
/// When the bytes are no frame that a server may send.
pub fn find(bytes: &[u8]) -> Result<Option<Found>, FrameError> {
    let [first, second, rest @ ..] = bytes else {
        return Ok(None);
    };
    if first & RESERVED != 0 {
        return Err(FrameError::Reserved(*first));
    }
    let opcode = Opcode::from_code(first & 0x0F).ok_or(FrameError::Reserved(*first))?;
    if second & MASKED != 0 {
        return Err(FrameError::Masked);
    }
    let (start, length) = match *second {
        LENGTH_16 => match rest.first_chunk::<2>() {
            Some(length) => (4, u64::from(u16::from_be_bytes(*length))),
            None => return Ok(None),
        },
        LENGTH_64 => match rest.first_chunk::<8>() {
            Some(length) => (10, u64::from_be_bytes(*length)),
            None => return Ok(None),
        },
        length => (2, u64::from(length)),
    };
    let length = usize::try_from(length).ok().filter(|_| length <= MAX_PAYLOAD).ok_or(FrameError::TooLong(length))?;
    let payload = start..start + length;
    Ok((payload.end <= bytes.len()).then_some(Found { opcode, last: first & FIN != 0, payload }))
}

/// Appends one whole message as a single masked frame.
pub fn append(out: &mut Vec<u8>, opcode: Opcode, mask: [u8; 4], payload: &[u8]) {
    out.push(FIN | opcode.code());
    let length = payload.len();
    match (u8::try_from(length), u16::try_from(length)) {
        (Ok(length), _) if length < 126 => out.push(MASKED | length),
        (_, Ok(length)) => {
            out.push(MASKED | LENGTH_16);
            out.extend_from_slice(&length.to_be_bytes());
        }
        _ => {
            out.push(MASKED | LENGTH_64);
            out.extend_from_slice(&(length as u64).to_be_bytes());
        }
    }
    out.extend_from_slice(&mask);
    let start = out.len();
    out.extend_from_slice(payload);
    apply_mask(&mut out[start..], mask);
}

fn apply_mask(payload: &mut [u8], mask: [u8; 4]) {
    let wide = u64::from(u32::from_ne_bytes(mask)) * 0x1_0000_0001;
    let (blocks, rest) = payload.as_chunks_mut::<8>();
    for block in blocks {
        *block = (u64::from_ne_bytes(*block) ^ wide).to_ne_bytes();
    }
    for (byte, mask) in rest.iter_mut().zip(mask.iter().cycle()) {
        *byte ^= mask;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of RFC 6455, section 5.7: a single-frame masked text message.
    #[test]
    fn a_masked_text_frame_has_the_bytes_of_the_rfc() {
        let mut out = Vec::new();
        append(&mut out, Opcode::Text, [0x37, 0xfa, 0x21, 0x3d], b"Hello");
        assert_eq!(out, [0x81, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58]);
    }

    #[test]
    fn every_length_form_is_written_and_its_payload_unmasks() {
        let mask = [1, 2, 3, 4];
        for (length, header) in [(0, 6), (7, 6), (125, 6), (126, 8), (65_535, 8), (65_536, 14)] {
            let payload: Vec<u8> = (0..length).map(|i| u8::try_from(i % 251).unwrap()).collect();
            let mut out = Vec::new();
            append(&mut out, Opcode::Binary, mask, &payload);
            assert_eq!(out.len(), header + payload.len(), "length {length}");
            for (i, byte) in out[header..].iter().enumerate() {
                assert_eq!(byte ^ mask[i % 4], payload[i], "byte {i} of {length}");
            }
        }
    }

    #[test]
    fn a_frame_is_found_only_once_it_is_whole() {
        for (mut bytes, length) in [
            (vec![0x81, 5], 5_usize),
            (vec![0x82, 126, 0x01, 0x00], 256),
            (vec![0x82, 127, 0, 0, 0, 0, 0, 1, 0, 0], 65_536),
        ] {
            let start = bytes.len();
            bytes.resize(start + length, b'x');
            for cut in [0, 1, start - 1, start, bytes.len() - 1] {
                assert_eq!(find(&bytes[..cut]), Ok(None), "{cut} bytes of {}", bytes.len());
            }
            bytes.push(b'n');
            let found = find(&bytes).unwrap().unwrap();
            assert_eq!(found.payload, start..start + length);
            assert!(found.last);
        }
    }

    #[test]
    fn what_a_server_must_not_send_is_an_error() {
        assert_eq!(find(&[0xC1, 0]), Err(FrameError::Reserved(0xC1)));
        assert_eq!(find(&[0x83, 0]), Err(FrameError::Reserved(0x83)));
        assert_eq!(find(&[0x81, 0x80]), Err(FrameError::Masked));
        let huge = [0x82, 127, 0xFF, 0, 0, 0, 0, 0, 0, 0];
        assert_eq!(find(&huge), Err(FrameError::TooLong(0xFF00_0000_0000_0000)));
    }

    #[test]
    fn a_fragment_is_told_from_a_last_frame() {
        assert!(!find(&[0x01, 0]).unwrap().unwrap().last);
        assert_eq!(find(&[0x80, 0]).unwrap().unwrap().opcode, Opcode::Continuation);
    }
}
