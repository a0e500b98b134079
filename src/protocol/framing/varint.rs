//! A length of seven bits a byte, the lowest first, the eighth bit of each saying that more follow (protobuf's varint).

use super::{Cut, FrameError, Head};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Varint {
    pub max_frame_bytes: usize,
}

impl Varint {
    /// A 32-bit length has no more.
    const MAX_HEAD_BYTES: usize = 5;

    pub(super) fn cut(&self, bytes: &[u8]) -> Result<Option<Cut>, FrameError> {
        let mut length = 0_u64;
        for (at, &byte) in bytes.iter().take(Self::MAX_HEAD_BYTES).enumerate() {
            length |= u64::from(byte & 0x7f) << (7 * at);
            if byte & 0x80 == 0 {
                if length > self.max_frame_bytes as u64 {
                    return Err(FrameError::too_long(length, self.max_frame_bytes));
                }
                let (start, end) = (at + 1, at + 1 + length as usize);
                return Ok((bytes.len() >= end).then_some(Cut { frame: start..end, taken: end }));
            }
        }
        match bytes.len() {
            0..Self::MAX_HEAD_BYTES => Ok(None),
            _ => Err(FrameError::malformed("a varint length of more than 5 bytes")),
        }
    }

    pub(super) fn before(&self, frame: &[u8]) -> Result<Head, FrameError> {
        if frame.len() > self.max_frame_bytes {
            return Err(FrameError::too_long(frame.len() as u64, self.max_frame_bytes));
        }
        let (mut head, mut left) = (Head::default(), frame.len());
        while left >= 0x80 {
            head.push(&[left as u8 | 0x80]);
            left >>= 7;
        }
        head.push(&[left as u8]);
        Ok(head)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_around_every_boundary_come_back() {
        let varint = Varint { max_frame_bytes: 20_000 };
        for length in [0, 1, 127, 128, 16_383, 16_384] {
            let mut wire = varint.before(&vec![7; length]).unwrap().as_ref().to_vec();
            wire.resize(wire.len() + length, 7);
            assert_eq!(varint.cut(&wire).unwrap().unwrap().frame.len(), length);
            assert_eq!(varint.cut(&wire[..wire.len() - 1]).unwrap(), None);
        }
        assert!(varint.cut(b"\xff\xff\xff\xff\xff").is_err(), "it never ends");
        assert!(varint.cut(b"\xff\xff\x7f").is_err(), "longer than allowed");
    }
}
