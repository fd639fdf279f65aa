//! Exact money: whole numbers of 10⁻¹² USD, and the decimal text they are written in.
//! It must not know models, usage or where a price came from, and it never holds money in a float.

use std::fmt;
use std::str::FromStr;

use serde::de::{Deserialize, Deserializer, Error, Visitor};

use crate::decimal;

/// An amount of money in 10⁻¹² USD. It holds up to 18.4 million USD; sums stop there instead of wrapping.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Pico(pub u64);

/// How many `Pico` are one USD.
pub const PICO_PER_USD: u64 = 1_000_000_000_000;

impl Pico {
    /// The sum, or the largest amount when it does not fit.
    #[must_use]
    pub const fn plus(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }

    /// The amount in USD, for display and metrics only: never add these up.
    #[must_use]
    pub fn usd(self) -> f64 {
        self.0 as f64 / PICO_PER_USD as f64
    }
}

impl fmt::Display for Pico {
    /// USD as the shortest exact decimal: `0.0125`.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = String::new();
        decimal::parts(&mut text, self.0);
        out.write_str(&text)
    }
}

/// What one token costs, in 10⁻¹² USD; people write it as USD per million tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Rate(pub u64);

/// Decimals of a price in USD per million tokens: the sixth is 10⁻¹² USD per token.
const RATE_DECIMALS: usize = 6;
/// No token costs a million USD; a larger number is a slip of the pen.
const MAX_RATE: u64 = 1_000_000 * PICO_PER_USD;

/// Why a text is no price.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RateError {
    /// Not a plain decimal such as `2.5`.
    NotDecimal,
    /// More than six decimals: finer than 10⁻¹² USD per token.
    TooFine,
    /// Larger than a million USD per token.
    TooLarge,
}

impl fmt::Display for RateError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::NotDecimal => "a price is a plain decimal number of USD per million tokens, such as 2.5",
            Self::TooFine => "a price has at most six decimals (USD per million tokens)",
            Self::TooLarge => "a price is at most a million USD per token",
        })
    }
}

impl std::error::Error for RateError {}

impl FromStr for Rate {
    type Err = RateError;

    /// Reads USD per million tokens, exactly.
    ///
    /// # Errors
    /// [`RateError`] when the text is no plain decimal, or finer or larger than a rate can be.
    fn from_str(text: &str) -> Result<Self, RateError> {
        let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
        let fraction = fraction.trim_end_matches('0');
        let digits = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
        if whole.is_empty() || text.ends_with('.') || !digits(whole) || !digits(fraction) {
            return Err(RateError::NotDecimal);
        }
        if fraction.len() > RATE_DECIMALS {
            return Err(RateError::TooFine);
        }
        let padding = RATE_DECIMALS - fraction.len();
        whole
            .bytes()
            .chain(fraction.bytes())
            .chain(std::iter::repeat_n(b'0', padding))
            .try_fold(0_u64, |sum, digit| sum.checked_mul(10)?.checked_add(u64::from(digit - b'0')))
            .filter(|rate| *rate <= MAX_RATE)
            .map(Self)
            .ok_or(RateError::TooLarge)
    }
}

impl fmt::Display for Rate {
    /// USD per million tokens, exactly: what [`FromStr`] reads.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unit = 10_u64.pow(RATE_DECIMALS as u32);
        let text = format!("{}.{:06}", self.0 / unit, self.0 % unit);
        out.write_str(text.trim_end_matches('0').trim_end_matches('.'))
    }
}

impl<'de> Deserialize<'de> for Rate {
    /// Takes a number or a text. A float is read by its shortest decimal, which is what was written.
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        struct Decimal;
        impl Visitor<'_> for Decimal {
            type Value = Rate;

            fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                out.write_str("a price in USD per million tokens, such as 2.5")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Rate, E> {
                text.parse().map_err(E::custom)
            }

            fn visit_f64<E: Error>(self, number: f64) -> Result<Rate, E> {
                self.visit_str(&number.to_string())
            }

            fn visit_i64<E: Error>(self, number: i64) -> Result<Rate, E> {
                self.visit_str(&number.to_string())
            }

            fn visit_u64<E: Error>(self, number: u64) -> Result<Rate, E> {
                self.visit_str(&number.to_string())
            }
        }
        input.deserialize_any(Decimal)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decimals_are_read_exactly() {
        let table = [
            ("2.5", Ok(2_500_000)),
            ("2.50", Ok(2_500_000)),
            ("0", Ok(0)),
            ("0.000001", Ok(1)),
            ("9710", Ok(9_710_000_000)),
            ("0.0375", Ok(37_500)),
            ("1.0000000000", Ok(1_000_000)),
            ("0.0000001", Err(RateError::TooFine)),
            ("", Err(RateError::NotDecimal)),
            (".5", Err(RateError::NotDecimal)),
            ("5.", Err(RateError::NotDecimal)),
            ("-1", Err(RateError::NotDecimal)),
            ("1e3", Err(RateError::NotDecimal)),
            ("1.2.3", Err(RateError::NotDecimal)),
            ("NaN", Err(RateError::NotDecimal)),
            ("99999999999999999999", Err(RateError::TooLarge)),
            ("1000000000001", Err(RateError::TooLarge)),
        ];
        for (text, expected) in table {
            assert_eq!(text.parse::<Rate>(), expected.map(Rate), "{text}");
        }
    }

    #[test]
    fn numbers_of_a_configuration_mean_what_was_written() {
        let table = [("2.5", 2_500_000), ("0.1", 100_000), ("0.000003", 3), ("10", 10_000_000), ("\"1.25\"", 1_250_000)];
        for (written, expected) in table {
            assert_eq!(serde_json::from_str::<Rate>(written).unwrap(), Rate(expected), "{written}");
        }
        for wrong in ["-2.5", "1e-9", "true", "\"two\"", "null"] {
            assert!(serde_json::from_str::<Rate>(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn money_is_shown_exactly() {
        let table = [(0, "0"), (1, "0.000000000001"), (12_500_000_000, "0.0125"), (3 * PICO_PER_USD, "3")];
        for (pico, expected) in table {
            assert_eq!(Pico(pico).to_string(), expected);
        }
        assert_eq!(Pico(u64::MAX).plus(Pico(1)), Pico(u64::MAX));
    }
}
