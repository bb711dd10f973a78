//! Contents that tell of which write they are, and in which no byte can change unnoticed.

use bytes::Bytes;
use rand::Rng;
use rand::rngs::StdRng;

use crate::history::Value;

const MAGIC: [u8; 4] = *b"HFCH";
const HEADER_BYTES: usize = 16;

/// A size for a new content: mostly small ones that live in an index, some with files of their own, a few large.
pub fn size(dice: &mut StdRng) -> usize {
    match dice.random_range(0..100) {
        0..70 => dice.random_range(HEADER_BYTES..8_000),
        70..92 => dice.random_range(65_537..400_000),
        92..98 => dice.random_range(400_000..1_500_000),
        _ => dice.random_range(2_000_000..6_000_000),
    }
}

/// The content of a write.
pub fn make(value: Value, size: usize) -> Bytes {
    let mut bytes = Vec::with_capacity(size + 8);
    bytes.extend_from_slice(&MAGIC);
    bytes.extend_from_slice(&value.to_le_bytes());
    bytes.extend_from_slice(&(size as u64).to_le_bytes());
    // xorshift64*: fast in a build for tests, and different for each write.
    let mut state = u64::from(value).wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    while bytes.len() < size {
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        bytes.extend_from_slice(&state.wrapping_mul(0x2545_F491_4F6C_DD1D).to_le_bytes());
    }
    bytes.truncate(size);
    bytes.into()
}

/// The write that made a content, if it is whole and nothing else.
pub fn recognize(bytes: &[u8]) -> Result<Value, String> {
    if bytes.len() < HEADER_BYTES || bytes[..4] != MAGIC {
        return Err(format!("{} bytes that no client wrote", bytes.len()));
    }
    let value = Value::from_le_bytes(bytes[4..8].try_into().unwrap());
    let size = u64::from_le_bytes(bytes[8..16].try_into().unwrap());
    if size != bytes.len() as u64 {
        return Err(format!("{} of the {size} bytes of #{value}", bytes.len()));
    }
    let right = make(value, bytes.len());
    match right.iter().zip(bytes).position(|(right, there)| right != there) {
        None => Ok(value),
        Some(at) => Err(format!("#{value} with a wrong byte at {at} of {size}")),
    }
}
