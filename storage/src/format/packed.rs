//! Compressed bodies. FORMAT.md, "Packed bodies".
//!
//! Invariant: no more than `PACKED_BYTES_MAX` comes out of one, whatever its bytes claim, and
//! exactly as much as it says, or nothing.

use super::Malformed;

/// Of the body as it was received. Larger ones are chunks, each packed alone.
pub const PACKED_BYTES_MAX: usize = 256 << 10;

const LENGTH_BYTES: usize = 4;

/// Compresses bodies, one at a time, in memory of its own that is used again.
pub struct Packer {
    compressor: zstd::bulk::Compressor<'static>,
}

impl std::fmt::Debug for Packer {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Packer")
    }
}

impl Packer {
    /// `level` as zstd counts them.
    pub fn new(level: i32) -> std::io::Result<Packer> {
        zstd::bulk::Compressor::new(level).map(|compressor| Packer { compressor })
    }

    /// `None`: it does not shrink to `percent_max` of what it is, or is too long to be packed.
    pub fn pack(&mut self, body: &[u8], percent_max: usize) -> Option<Vec<u8>> {
        if body.len() > PACKED_BYTES_MAX {
            return None;
        }
        let length = u32::try_from(body.len()).expect("at most 256 KiB");
        // What does not fit in here is not worth it: the compressor gives up there.
        let bytes_max = body.len() * percent_max / 100;
        let room = bytes_max.checked_sub(LENGTH_BYTES)?;
        let mut packed = vec![0; bytes_max];
        packed[..LENGTH_BYTES].copy_from_slice(&length.to_le_bytes());
        let target = &mut packed[LENGTH_BYTES..][..room];
        let frame_bytes = self.compressor.compress_to_buffer(body, target).ok()?;
        packed.truncate(LENGTH_BYTES + frame_bytes);
        Some(packed)
    }
}

/// The reverse.
pub struct Unpacker {
    decompressor: zstd::bulk::Decompressor<'static>,
}

impl std::fmt::Debug for Unpacker {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Unpacker")
    }
}

impl Unpacker {
    pub fn new() -> std::io::Result<Unpacker> {
        zstd::bulk::Decompressor::new().map(|decompressor| Unpacker { decompressor })
    }

    /// The body exactly as it was.
    pub fn unpack(&mut self, packed: &[u8]) -> Result<Vec<u8>, Malformed> {
        let (length, frame) =
            packed.split_first_chunk::<LENGTH_BYTES>().ok_or(Malformed("is too short"))?;
        let length = u32::from_le_bytes(*length) as usize;
        if length > PACKED_BYTES_MAX {
            return Err(Malformed("claims to be longer than a packed body gets"));
        }
        let mut body = vec![0; length];
        // A frame of which more comes out does not fit into the buffer, and is refused.
        match self.decompressor.decompress_to_buffer(frame, &mut body[..]) {
            Ok(written) if written == length => Ok(body),
            _ => Err(Malformed("does not unpack to the length that it has")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mail(lines: usize) -> Vec<u8> {
        let line = |number: usize| format!("Line {number} of what people write to each other\r\n");
        (0..lines).flat_map(|number| line(number).into_bytes()).collect()
    }

    /// Bytes that nothing makes shorter.
    fn noise(length: usize) -> Vec<u8> {
        let mut state = 1_u64;
        let mut next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695);
            (state >> 56) as u8
        };
        (0..length).map(|_| next()).collect()
    }

    #[test]
    fn every_length_and_mixture_comes_back_exactly_or_stays_as_it_is() {
        let mut unpacker = Unpacker::new().expect("memory");
        for level in [1, 3, 9] {
            let mut packer = Packer::new(level).expect("memory");
            let mut packed_ones = 0;
            for length in (0..300).chain([4095, 4096, 65_537, PACKED_BYTES_MAX]) {
                for noisy in [0, length / 3, length] {
                    let mut body = noise(noisy);
                    body.extend(mail(length / 40 + 1));
                    body.truncate(length);
                    let Some(packed) = packer.pack(&body, 90) else { continue };
                    packed_ones += 1;
                    assert!(packed.len() * 10 <= body.len() * 9, "{length}");
                    assert!(unpacker.unpack(&packed).expect("unpacks") == body, "{length}");
                }
            }
            assert!(packed_ones > 100, "{packed_ones}");
            assert!(packer.pack(&noise(10_000), 90).is_none(), "noise is not packed");
            assert!(packer.pack(&mail(10_000), 90).is_none(), "too long");
        }
    }

    #[test]
    fn no_more_comes_out_than_is_said_and_never_more_than_the_bound() {
        let bomb = |length: usize| zstd::bulk::compress(&vec![0; length], 3).expect("packs");
        let claim = |length: u32, frame: &[u8]| [&length.to_le_bytes()[..], frame].concat();
        let mut unpacker = Unpacker::new().expect("memory");
        let bytes_max = PACKED_BYTES_MAX as u32;
        let fits = claim(bytes_max, &bomb(PACKED_BYTES_MAX));
        assert_eq!(unpacker.unpack(&fits).expect("fits").len(), PACKED_BYTES_MAX);
        let bad = [
            claim(bytes_max, &bomb(1 << 30)),
            claim(1 << 30, &bomb(1 << 30)),
            claim(u32::MAX, &bomb(1 << 20)),
            claim(100, &bomb(101)),
            claim(100, &bomb(99)),
            claim(0, &bomb(1)),
            vec![],
            vec![1, 0, 0],
            claim(5, b""),
            claim(5, b"no frame"),
        ];
        for (number, packed) in bad.iter().enumerate() {
            let before = unpacker.unpack(packed);
            assert!(before.is_err(), "{number}: {:?}", before.map(|body| body.len()));
        }
        assert!(unpacker.unpack(&fits).is_ok(), "and goes on after them");
    }

    #[test]
    fn no_flipped_bit_gives_another_length_or_a_panic() {
        let body = mail(20);
        let packed = Packer::new(1).expect("memory").pack(&body, 90).expect("packs");
        let mut unpacker = Unpacker::new().expect("memory");
        for bit in 0..packed.len() * 8 {
            let mut damaged = packed.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            // The checksum of the record finds it; here it has to end, within bounds.
            if let Ok(other) = unpacker.unpack(&damaged) {
                assert!(other.len() <= PACKED_BYTES_MAX);
            }
        }
    }
}
