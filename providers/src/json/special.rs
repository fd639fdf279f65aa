//! Finds the bytes that mean something inside a JSON string (a quote, a backslash, a control
//! character, which JSON forbids there) 64 at a time: one bit each, kept for the strings that follow,
//! because most are short. It must not know what a string is about.

use wide::u8x16;

/// Bytes that are looked at together.
const BLOCK: usize = 64;

/// The block that was looked at last: where it begins and its special bytes, the first in the lowest bit.
#[derive(Clone, Copy, Debug)]
pub(super) struct Window {
    from: usize,
    bits: u64,
    /// Whether a byte that was looked at is none of ASCII.
    pub(super) is_wide: bool,
}

impl Default for Window {
    /// Where no text reaches.
    fn default() -> Self {
        Self { from: usize::MAX / 2, bits: 0, is_wide: false }
    }
}

/// What makes an escape of itself after a backslash. `u` does not: four digits must follow it.
const ESCAPES: [bool; 256] = {
    let mut is_escape = [false; 256];
    let letters = b"\"\\/bfnrt";
    let mut index = 0;
    while index < letters.len() {
        is_escape[letters[index] as usize] = true;
        index += 1;
    }
    is_escape
};

impl Window {
    /// Where the string ends that has begun before `at`: at its closing quote. The error is the place of what
    /// no string may hold, or the length of `bytes` where they end within it.
    pub fn closing_quote(&mut self, bytes: &[u8], mut at: usize) -> Result<usize, usize> {
        loop {
            let mut inside = at.wrapping_sub(self.from);
            if inside >= BLOCK {
                if at >= bytes.len() {
                    return Err(bytes.len());
                }
                self.look(bytes, at);
                inside = 0;
            }
            let mut bits = self.bits & (u64::MAX << inside);
            at = self.from + BLOCK;
            while bits != 0 {
                let bit = bits.trailing_zeros();
                let place = self.from + bit as usize;
                match bytes.get(place) {
                    Some(b'"') => return Ok(place),
                    Some(b'\\') => {}
                    _ => return Err(place),
                }
                if !bytes.get(place + 1).is_some_and(|&letter| ESCAPES[usize::from(letter)]) {
                    unit(bytes, place)?;
                }
                // What follows the backslash is passed as well; it may stand in the next block.
                bits &= !(0b11 << bit);
                at = at.max(place + 2);
            }
        }
    }

    fn look(&mut self, bytes: &[u8], at: usize) {
        let rest;
        let block = match bytes[at..].first_chunk() {
            Some(block) => block,
            None => {
                rest = padded(&bytes[at..]);
                &rest
            }
        };
        let is_wide = bits(block, |bytes| bytes) != 0;
        *self = Self { from: at, bits: special_bits(block), is_wide: self.is_wide | is_wide };
    }
}

/// Passes the `\uXXXX` at `place`. The error is where something else begins.
#[cold]
fn unit(bytes: &[u8], place: usize) -> Result<(), usize> {
    match bytes.get(place + 1..) {
        Some([b'u', a, b, c, d, ..]) if [a, b, c, d].iter().all(|digit| digit.is_ascii_hexdigit()) => Ok(()),
        Some([b'u', _, _, _, _, ..]) => Err(place + 2),
        Some([b'u', ..]) => Err(bytes.len()),
        _ => Err(place + 1),
    }
}

/// The last bytes of a text; what follows them is not special.
fn padded(rest: &[u8]) -> [u8; BLOCK] {
    let mut block = [b' '; BLOCK];
    block[..rest.len()].copy_from_slice(rest);
    block
}

/// One bit for each byte: a quote, a backslash, a control character.
fn special_bits(block: &[u8; BLOCK]) -> u64 {
    bits(block, |bytes| {
        let is_control = bytes.min(u8x16::splat(0x1f)).simd_eq(bytes);
        is_control | bytes.simd_eq(u8x16::splat(b'"')) | bytes.simd_eq(u8x16::splat(b'\\'))
    })
}

/// The first bit of what `mark` makes of each byte.
fn bits(block: &[u8; BLOCK], mark: impl Fn(u8x16) -> u8x16) -> u64 {
    let parts = block.as_chunks().0.iter().enumerate();
    parts.fold(0, |bits, (nth, part)| bits | (u64::from(mark(u8x16::new(*part)).to_bitmask()) << (16 * nth)))
}

#[cfg(test)]
mod tests {
    use super::{BLOCK, Window, special_bits};

    fn is_special(byte: u8) -> bool {
        byte < 0x20 || byte == b'"' || byte == b'\\'
    }

    #[test]
    fn every_byte_has_its_own_bit() {
        for shift in 0..=255_u8 {
            let block: [u8; BLOCK] = std::array::from_fn(|index| (index as u8).wrapping_mul(5).wrapping_add(shift));
            let by_hand = block.iter().enumerate().fold(0, |bits, (index, &byte)| bits | (u64::from(is_special(byte)) << index));
            assert_eq!(special_bits(&block), by_hand, "{block:x?}");
        }
    }

    /// Byte by byte, as it is written in RFC 8259.
    fn by_hand(text: &[u8], mut at: usize) -> Result<usize, usize> {
        loop {
            match text.get(at) {
                None => return Err(text.len()),
                Some(b'"') => return Ok(at),
                Some(b'\\') => match text.get(at + 1..) {
                    Some([b'u', digits @ ..]) if digits.len() < 4 => return Err(text.len()),
                    Some([b'u', digits @ ..]) if !digits[..4].iter().all(u8::is_ascii_hexdigit) => return Err(at + 2),
                    Some([letter, ..]) if b"\"\\/bfnrtu".contains(letter) => at += 2,
                    _ => return Err(at + 1),
                },
                Some(0..0x20) => return Err(at),
                Some(_) => at += 1,
            }
        }
    }

    /// Whatever was asked before, and in whatever order.
    #[test]
    fn the_closing_quote_is_found_from_everywhere() {
        let parts: [&[u8]; 9] = [
            b"plain text ",
            b"\\n",
            b"\\\"",
            b"\\\\",
            b"\\u00e4",
            b"\"",
            b"a",
            &[0xc3, 0xa4],
            b"a longer stretch of plain words ",
        ];
        let mut random = 7_u32;
        let mut text = Vec::new();
        while text.len() < 700 {
            random = random.wrapping_mul(1_103_515_245).wrapping_add(12345);
            text.extend_from_slice(parts[(random >> 16) as usize % parts.len()]);
        }
        for len in [0, 1, 63, 64, 65, 128, 200, 700] {
            let text = &text[..len];
            let mut window = Window::default();
            for step in 0..5 * len {
                let at = (step * 37 + step / 3) % (len + 1);
                assert_eq!(window.closing_quote(text, at), by_hand(text, at), "from {at} of {len}");
            }
        }
    }

    #[test]
    fn what_no_string_may_hold_is_a_fault_where_it_stands() {
        let cases: [(&[u8], usize); 8] = [
            (b"no end", 6),
            (b"a\nb\"", 1),
            (b"a\\x\"", 2),
            (b"a\\", 2),
            (b"a\\u12", 5),
            (b"a\\u12G4\"", 3),
            (b"\x1f\"", 0),
            (b"\\\"", 2),
        ];
        for (text, at) in cases {
            for before in [0, 1, 60, 61, 62, 63, 64, 127] {
                let text = [vec![b'.'; before].as_slice(), text].concat();
                assert_eq!(Window::default().closing_quote(&text, 0), Err(before + at), "{before} before {text:?}");
            }
        }
    }
}
