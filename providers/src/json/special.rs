//! Finds the bytes that mean something inside a JSON string (a quote, a backslash, a control
//! character, which JSON forbids there) 64 at a time: one bit each, kept for the strings that follow,
//! because most are short. It must not know what a string is about.

/// Bytes that are looked at together.
const BLOCK: usize = 64;

/// The block that was looked at last: where it begins and its special bytes, the first in the lowest bit.
#[derive(Clone, Copy, Debug)]
pub(super) struct Window {
    from: usize,
    bits: u64,
}

impl Default for Window {
    /// Where no text reaches.
    fn default() -> Self {
        Self { from: usize::MAX / 2, bits: 0 }
    }
}

impl Window {
    /// The first special byte of `bytes` at or after `at`; their length when there is none.
    pub fn next(&mut self, bytes: &[u8], mut at: usize) -> usize {
        let inside = at.wrapping_sub(self.from);
        if inside < BLOCK {
            let left = self.bits >> inside;
            if left != 0 {
                return at + left.trailing_zeros() as usize;
            }
            at = self.from + BLOCK;
        }
        while at < bytes.len() {
            let bits = match bytes[at..].first_chunk() {
                Some(block) => special_bits(block),
                None => special_bits(&padded(&bytes[at..])),
            };
            if bits != 0 {
                *self = Self { from: at, bits };
                return at + bits.trailing_zeros() as usize;
            }
            at += BLOCK;
        }
        bytes.len()
    }
}

/// The last bytes of a text; what follows them is not special.
fn padded(rest: &[u8]) -> [u8; BLOCK] {
    let mut block = [b' '; BLOCK];
    block[..rest.len()].copy_from_slice(rest);
    block
}

/// Two plain loops, so that the compiler can put the first into vector instructions: mark each byte,
/// then bring the marks of eight bytes together into eight bits.
fn special_bits(block: &[u8; BLOCK]) -> u64 {
    /// In the first byte its first bit, in the second its second, …
    const ONE_EACH: u64 = 0x8040_2010_0804_0201;
    /// Adds all bytes into the highest.
    const ADD: u64 = 0x0101_0101_0101_0101;
    let marks: [u8; BLOCK] = std::array::from_fn(|index| if is_special(block[index]) { 0xff } else { 0 });
    let mut bits = 0;
    for (index, eight) in marks.as_chunks().0.iter().enumerate() {
        let one_each = u64::from_le_bytes(*eight) & ONE_EACH;
        bits |= (one_each.wrapping_mul(ADD) >> 56) << (8 * index);
    }
    bits
}

/// Judged without branches.
fn is_special(byte: u8) -> bool {
    (byte < 0x20) | (byte == b'"') | (byte == b'\\')
}

#[cfg(test)]
mod tests {
    use super::{BLOCK, Window, is_special, special_bits};

    #[test]
    fn every_byte_has_its_own_bit() {
        for shift in 0..=255_u8 {
            let block: [u8; BLOCK] = std::array::from_fn(|index| (index as u8).wrapping_mul(5).wrapping_add(shift));
            let by_hand = block.iter().enumerate().fold(0, |bits, (index, &byte)| bits | (u64::from(is_special(byte)) << index));
            assert_eq!(special_bits(&block), by_hand, "{block:x?}");
        }
    }

    /// Whatever was asked before, and in whatever order.
    #[test]
    fn the_next_special_byte_is_found_from_everywhere() {
        let text: Vec<u8> =
            (0..400_u32).map(|index| if (index * index) % 53 == 7 { b'"' } else { b'a' + (index % 20) as u8 }).collect();
        for len in [0, 1, 63, 64, 65, 128, 200, 400] {
            let text = &text[..len];
            let mut window = Window::default();
            for step in 0..5 * len {
                let at = (step * 37 + step / 3) % (len + 1);
                let expected = text[at..].iter().position(|&byte| is_special(byte)).map_or(len, |found| at + found);
                assert_eq!(window.next(text, at), expected, "from {at} of {len}");
            }
        }
    }
}
