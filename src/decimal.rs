//! Numbers as decimal text, put onto the end of a text: what every call's log line and headers are full of, and
//! what `format!` takes several times as long for.
//! It must not know what a number stands for.

/// Places of [`parts`].
const PLACES: usize = 12;
/// 10 to the power of [`PLACES`].
const ONE: u64 = 1_000_000_000_000;

/// A whole number, with zeros before it where it has fewer digits than `least`.
pub fn whole(text: &mut String, number: u64, least: usize) {
    let mut buffer = itoa::Buffer::new();
    let digits = buffer.format(number);
    text.extend(std::iter::repeat_n('0', least.saturating_sub(digits.len())));
    text.push_str(digits);
}

/// A number given in 10⁻¹² parts, exactly and no longer than that takes: `2.5`, `0.0000906`.
pub fn parts(text: &mut String, number: u64) {
    whole(text, number / ONE, 1);
    if !number.is_multiple_of(ONE) {
        text.push('.');
        whole(text, number % ONE, PLACES);
        text.truncate(text.trim_end_matches('0').len());
    }
}

/// A float as a plain decimal, never with an exponent. Up to a thousand it is rounded to twelve places, which is more than
/// a time or an amount of money is known to.
pub fn float(text: &mut String, number: f64) {
    let scaled = (number * ONE as f64).round() as u64;
    if (0.0..1000.0).contains(&number) && (scaled > 0 || number == 0.0) {
        parts(text, scaled);
    } else {
        text.push_str(&number.to_string());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(write: impl FnOnce(&mut String)) -> String {
        let mut text = String::from("=");
        write(&mut text);
        text
    }

    #[test]
    fn whole_numbers_have_as_many_digits_as_asked() {
        for (number, least, expected) in
            [(0, 0, "=0"), (0, 1, "=0"), (7, 3, "=007"), (1234, 3, "=1234"), (u64::MAX, 1, "=18446744073709551615")]
        {
            assert_eq!(written(|text| whole(text, number, least)), expected);
        }
    }

    #[test]
    fn parts_are_exact() {
        let cases = [
            (0, "=0"),
            (1, "=0.000000000001"),
            (90_600_000, "=0.0000906"),
            (2_500_000_000_000, "=2.5"),
            (100_000_000_000_000, "=100"),
            (u64::MAX, "=18446744.073709551615"),
        ];
        for (number, expected) in cases {
            assert_eq!(written(|text| parts(text, number)), expected);
        }
    }

    #[test]
    fn floats_are_plain_decimals() {
        let cases = [
            (0.0, "=0"),
            (1.0, "=1"),
            (0.034_512_345, "=0.034512345"),
            (9.06e-5, "=0.0000906"),
            (1e-12, "=0.000000000001"),
            (1e-13, "=0.0000000000001"),
            (59.999_999_999, "=59.999999999"),
            (1234.5, "=1234.5"),
            (-1.5, "=-1.5"),
            (1e21, "=1000000000000000000000"),
        ];
        for (number, expected) in cases {
            assert_eq!(written(|text| float(text, number)), expected);
        }
    }
}
