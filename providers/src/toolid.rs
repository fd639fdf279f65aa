//! Ids of tool calls in the alphabet that Anthropic and Bedrock accept. Clients carry on conversations
//! that began elsewhere, with ids such as `functions.get_weather:0`; the same id must become the same
//! word in the call and in its result, and two ids two words.
//! It must not know a request.

use std::borrow::Cow;
use std::fmt::Write as _;

/// Marks an id that was rewritten.
const MARK: &str = "x_";

/// The id in letters, digits, `_` and `-`, at most `max` bytes. An id that is already so stays as it
/// is; any other is written with its odd bytes as `_` and two hex digits, and what is still too long is
/// cut and ends in a hash of the whole.
pub(crate) fn tool_id(id: &str, max: usize) -> Cow<'_, str> {
    let is_plain = !id.is_empty() && !id.starts_with(MARK) && id.bytes().all(is_allowed);
    if is_plain && id.len() <= max {
        return Cow::Borrowed(id);
    }
    let mut word = MARK.to_owned();
    for byte in id.bytes() {
        if byte.is_ascii_alphanumeric() || byte == b'-' {
            word.push(char::from(byte));
        } else {
            let _ = write!(word, "_{byte:02x}");
        }
    }
    if word.len() > max {
        word.truncate(max.saturating_sub(HASH_DIGITS + 1));
        let _ = write!(word, "_{:016x}", fnv(id.as_bytes()));
    }
    Cow::Owned(word)
}

fn is_allowed(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-'
}

/// Hex digits of the hash.
const HASH_DIGITS: usize = 16;

/// FNV-1a, 64 bits: the same in every build and on every machine.
fn fnv(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, &byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_ids_stay_and_others_are_spelled() {
        for (id, word) in [
            ("toolu_01AbC", "toolu_01AbC"),
            ("call-1_2", "call-1_2"),
            ("functions.get_weather:0", "x_functions_2eget_5fweather_3a0"),
            ("", "x_"),
            ("x_1", "x_x_5f1"),
            ("é", "x__c3_a9"),
        ] {
            assert_eq!(tool_id(id, 64), word);
        }
    }

    #[test]
    fn two_ids_never_become_one_word() {
        let long = "y".repeat(200);
        let longer = "y".repeat(201);
        let ids = ["a.b", "a_2eb", "x_a_2eb", "a:b", "x_", "", &long, &longer];
        let words: Vec<_> = ids.iter().map(|id| tool_id(id, 64).into_owned()).collect();
        for (index, word) in words.iter().enumerate() {
            assert!(word.len() <= 64 && word.bytes().all(is_allowed), "{word}");
            assert!(!words[..index].contains(word), "{word} twice");
        }
    }
}
