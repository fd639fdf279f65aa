//! Finds where a JSON string ends, 64 bytes at a time: which of them are special (a quote, a backslash, a
//! control character, which JSON forbids there) is one bit each, and which of those a backslash takes the
//! meaning from follows from the bits. The bits are kept for the strings that follow, because most are
//! short. It must not know what a string is about.

use fearless_simd::prelude::*;
use fearless_simd::{Level, dispatch, u8x64};

/// Bytes that are looked at together.
const BLOCK: usize = 64;

/// Every second bit, beginning with the second.
const ODD: u64 = 0xAAAA_AAAA_AAAA_AAAA;

/// The block that was looked at last: where it begins and its special bytes, the first in the lowest bit.
#[derive(Clone, Copy, Debug)]
pub(super) struct Window {
    from: usize,
    specials: u64,
    /// Whether a byte that was looked at is none of ASCII.
    pub(super) is_wide: bool,
}

impl Default for Window {
    /// Where no text reaches.
    fn default() -> Self {
        Self { from: usize::MAX / 2, specials: 0, is_wide: false }
    }
}

impl Window {
    /// Where the string ends that has begun before `at`: at its closing quote. The error is the place of what
    /// no string may hold, or the length of `bytes` where they end within it.
    #[inline]
    pub fn closing_quote(&mut self, bytes: &[u8], at: usize) -> Result<usize, usize> {
        let inside = at.wrapping_sub(self.from);
        if inside < BLOCK {
            let specials = self.specials & (u64::MAX << inside);
            let place = self.from + specials.trailing_zeros() as usize;
            if specials != 0 && bytes.get(place) == Some(&b'"') {
                return Ok(place);
            }
        }
        self.seek(bytes, at)
    }

    /// The same for a string of any length, with any escapes, by the widest vectors that this processor has.
    #[inline(never)]
    fn seek(&mut self, bytes: &[u8], at: usize) -> Result<usize, usize> {
        dispatch!(Level::new(), simd => self.seek_with(simd, bytes, at))
    }

    #[inline(always)]
    fn seek_with<S: Simd>(&mut self, simd: S, bytes: &[u8], mut at: usize) -> Result<usize, usize> {
        let mut is_first_escaped = 0;
        while at < bytes.len() {
            let block = block(simd, bytes, at);
            let marks = Marks::of(block);
            self.from = at;
            self.is_wide |= marks.is_wide;
            self.specials = marks.quotes | marks.backslashes | marks.controls;
            let escaped = escaped(marks.backslashes, is_first_escaped);
            is_first_escaped = (marks.backslashes & !escaped) >> (BLOCK - 1);
            let stops = marks.quotes & !escaped | marks.controls;
            let passed = escaped & before_first(stops);
            if passed != 0 {
                let doubtful = passed & !(marks.quotes | marks.backslashes | letters(block));
                places(at, doubtful).try_for_each(|place| unit(bytes, place))?;
            }
            if stops != 0 {
                let place = at + stops.trailing_zeros() as usize;
                return if bytes.get(place) == Some(&b'"') { Ok(place) } else { Err(place) };
            }
            at += BLOCK;
        }
        Err(bytes.len())
    }
}

/// One bit for each byte of a block.
struct Marks {
    quotes: u64,
    backslashes: u64,
    controls: u64,
    /// Whether a byte is none of ASCII.
    is_wide: bool,
}

impl Marks {
    #[inline(always)]
    fn of<S: Simd>(block: u8x64<S>) -> Self {
        Self {
            quotes: block.simd_eq(b'"').to_bitmask(),
            backslashes: block.simd_eq(b'\\').to_bitmask(),
            controls: block.simd_lt(b' ').to_bitmask(),
            is_wide: block.simd_ge(0x80).any_true(),
        }
    }
}

/// The bytes that make an escape after a backslash; `u` does not of itself, as four digits must follow it.
#[inline(always)]
fn letters<S: Simd>(block: u8x64<S>) -> u64 {
    // `b` and `r` differ in one bit only, and so do `f` and `n`.
    let pairs = (block | 0x10).simd_eq(b'r') | (block | 0x08).simd_eq(b'n');
    (pairs | block.simd_eq(b't') | block.simd_eq(b'/')).to_bitmask()
}

/// The block at `at`; what follows the end of the text is not special.
#[inline(always)]
fn block<S: Simd>(simd: S, bytes: &[u8], at: usize) -> u8x64<S> {
    let rest = &bytes[at..];
    match rest.first_chunk::<BLOCK>() {
        Some(whole) => u8x64::from_slice(simd, whole),
        None => {
            let mut padded = [b' '; BLOCK];
            padded[..rest.len()].copy_from_slice(rest);
            u8x64::from_slice(simd, &padded)
        }
    }
}

/// The bits below the lowest of `bits`; all, if there is none.
fn before_first(bits: u64) -> u64 {
    !bits & bits.wrapping_sub(1)
}

/// Which bytes follow a backslash that is not escaped itself. The first may follow one of the block before.
fn escaped(backslashes: u64, is_first_escaped: u64) -> u64 {
    let backslashes = backslashes & !is_first_escaped;
    // Of a row of backslashes each second one is escaped, and so is what follows a row of odd length: where
    // the row begins at an even bit these are odd bits, else even ones. Rows that begin at an odd bit are
    // found by adding that bit: the carry runs through the row and one further.
    let odd_begins = backslashes & !(backslashes << 1) & ODD;
    let odd_rows = backslashes.wrapping_add(odd_begins) ^ backslashes;
    ((backslashes << 1) & (ODD ^ odd_rows)) | is_first_escaped
}

/// The places of the `bits` of the block at `from`.
fn places(from: usize, mut bits: u64) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        let place = (bits != 0).then(|| from + bits.trailing_zeros() as usize);
        bits &= bits.wrapping_sub(1);
        place
    })
}

/// Passes the `uXXXX` at `place`. The error is where something else begins.
fn unit(bytes: &[u8], place: usize) -> Result<(), usize> {
    match bytes.get(place..) {
        Some([b'u', a, b, c, d, ..]) if [a, b, c, d].iter().all(|digit| digit.is_ascii_hexdigit()) => Ok(()),
        Some([b'u', _, _, _, _, ..]) => Err(place + 1),
        Some([b'u', ..]) => Err(bytes.len()),
        _ => Err(place),
    }
}

#[cfg(test)]
mod tests {
    use fearless_simd::{Level, dispatch};

    use super::{BLOCK, Marks, Window, block, escaped, letters};

    fn by_byte(block: &[u8; BLOCK], is_meant: impl Fn(u8) -> bool) -> u64 {
        block.iter().enumerate().fold(0, |bits, (index, &byte)| bits | (u64::from(is_meant(byte)) << index))
    }

    /// With the widest vectors and with those that every processor has.
    #[test]
    fn every_byte_has_its_own_bit() {
        for shift in 0..=255_u8 {
            let text: [u8; BLOCK] = std::array::from_fn(|index| (index as u8).wrapping_mul(5).wrapping_add(shift));
            for level in [Level::new(), Level::baseline()] {
                let (marks, letters) = dispatch!(level, simd => {
                    let block = block(simd, &text, 0);
                    (Marks::of(block), letters(block))
                });
                assert_eq!(marks.quotes, by_byte(&text, |byte| byte == b'"'), "{text:x?}");
                assert_eq!(marks.backslashes, by_byte(&text, |byte| byte == b'\\'), "{text:x?}");
                assert_eq!(marks.controls, by_byte(&text, |byte| byte < 0x20), "{text:x?}");
                assert_eq!(marks.is_wide, !text.is_ascii(), "{text:x?}");
                assert_eq!(letters, by_byte(&text, |byte| b"/bfnrt".contains(&byte)), "{text:x?}");
            }
        }
    }

    #[test]
    fn a_backslash_escapes_unless_it_is_escaped() {
        let rows = [0, 1, 0b11, 0b101, 0b1110, 0b1111_0110_1011, u64::MAX, u64::MAX << 1, u64::MAX << 63, 0xF0F0_7070_3131_1DD1];
        for backslashes in rows.into_iter().flat_map(|row| (0..64).map(move |turn| row.rotate_left(turn))) {
            for first in [0, 1] {
                let mut is_escaped = first == 1;
                let by_hand = (0..64).fold(0, |bits, bit| {
                    let bits = bits | (u64::from(is_escaped) << bit);
                    is_escaped = !is_escaped && backslashes >> bit & 1 == 1;
                    bits
                });
                assert_eq!(escaped(backslashes, first), by_hand, "{backslashes:b} after {first}");
            }
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
                let narrow = dispatch!(Level::baseline(), simd => Window::default().seek_with(simd, text, at));
                assert_eq!(narrow, by_hand(text, at), "from {at} of {len}");
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
