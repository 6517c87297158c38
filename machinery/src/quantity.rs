//! Resource quantities (`500m`, `1.5Gi`, `2e3`): their grammar and their order.

use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;

/// Digits that a number may have at most; beyond them a quantity is no amount of anything.
const MAX_DIGITS: usize = 64;

/// A decimal exponent beyond this says nothing more: every value is below the nano or above all
/// that is comparable.
const MAX_EXPONENT: i64 = 128;

/// An amount, compared by value: `1` equals `1000m` and `1k` equals `1e3`.
///
/// As upstream, what is finer than a billionth rounds up, away from zero, and a binary amount is
/// capped at 2^63-1.
#[derive(Debug, Clone)]
pub struct Quantity {
    negative: bool,
    /// Billionths, as decimal digits without leading zeros; empty is zero.
    nanos: Vec<u8>,
}

/// A text that is no quantity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum QuantityError {
    /// It is not built as a number and a suffix.
    #[error(
        "quantities must match the regular expression \
         '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'"
    )]
    Format,
    /// Its number is none.
    #[error("unable to parse numeric part of quantity")]
    Number,
    /// Its suffix is unknown.
    #[error("unable to parse quantity's suffix")]
    Suffix,
}

#[derive(Clone, Copy)]
enum Scale {
    Decimal(i64),
    Binary(u32),
}

impl FromStr for Quantity {
    type Err = QuantityError;

    fn from_str(text: &str) -> Result<Self, QuantityError> {
        let negative = text.starts_with('-');
        let unsigned = text.strip_prefix(['-', '+']).unwrap_or(text);
        let end = unsigned
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .unwrap_or(unsigned.len());
        let (number, suffix) = unsigned.split_at(end);
        if number.is_empty() || !is_suffix_shaped(suffix) {
            return Err(QuantityError::Format);
        }
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if fraction.contains('.') {
            return Err(QuantityError::Format);
        }
        if whole.len() + fraction.len() > MAX_DIGITS || whole.len() + fraction.len() == 0 {
            return Err(QuantityError::Number);
        }
        let scale = scale_of(suffix).ok_or(QuantityError::Suffix)?;
        let digits: Vec<u8> = whole
            .bytes()
            .chain(fraction.bytes())
            .map(|byte| byte.wrapping_sub(b'0'))
            .collect();
        let places = i64::try_from(fraction.len()).map_err(|_| QuantityError::Number)?;
        let nanos = match scale {
            Scale::Decimal(exponent) => shifted(digits, exponent - places + 9),
            Scale::Binary(exponent) => capped(shifted(doubled(digits, exponent), 9 - places)),
        };
        let nanos = trimmed(nanos);
        Ok(Self {
            negative: negative && !nanos.is_empty(),
            nanos,
        })
    }
}

/// `[eEinumkKMGTP]*[-+]?[0-9]*`
fn is_suffix_shaped(suffix: &str) -> bool {
    let rest = suffix.trim_start_matches(|c| "eEinumkKMGTP".contains(c));
    let rest = rest.strip_prefix(['-', '+']).unwrap_or(rest);
    rest.bytes().all(|byte| byte.is_ascii_digit())
}

fn scale_of(suffix: &str) -> Option<Scale> {
    Some(match suffix {
        "n" => Scale::Decimal(-9),
        "u" => Scale::Decimal(-6),
        "m" => Scale::Decimal(-3),
        "" => Scale::Decimal(0),
        "k" => Scale::Decimal(3),
        "M" => Scale::Decimal(6),
        "G" => Scale::Decimal(9),
        "T" => Scale::Decimal(12),
        "P" => Scale::Decimal(15),
        "E" => Scale::Decimal(18),
        "Ki" => Scale::Binary(10),
        "Mi" => Scale::Binary(20),
        "Gi" => Scale::Binary(30),
        "Ti" => Scale::Binary(40),
        "Pi" => Scale::Binary(50),
        "Ei" => Scale::Binary(60),
        _ => {
            let exponent: i64 = suffix.strip_prefix(['e', 'E'])?.parse().ok()?;
            Scale::Decimal(exponent.clamp(-MAX_EXPONENT, MAX_EXPONENT))
        }
    })
}

/// Digits times ten to the `places`; places that fall away round up.
fn shifted(mut digits: Vec<u8>, places: i64) -> Vec<u8> {
    if let Ok(places) = usize::try_from(places) {
        digits.resize(digits.len() + places, 0);
        return digits;
    }
    let lost = usize::try_from(places.unsigned_abs()).unwrap_or(usize::MAX);
    let kept = digits.len().saturating_sub(lost);
    let rounds_up = digits.iter().skip(kept).any(|digit| *digit != 0);
    digits.truncate(kept);
    if rounds_up {
        incremented(digits)
    } else {
        digits
    }
}

fn incremented(mut digits: Vec<u8>) -> Vec<u8> {
    for digit in digits.iter_mut().rev() {
        if *digit < 9 {
            *digit += 1;
            return digits;
        }
        *digit = 0;
    }
    digits.insert(0, 1);
    digits
}

/// Digits times two to the `exponent`.
fn doubled(digits: Vec<u8>, exponent: u32) -> Vec<u8> {
    let factor = 1_u128 << exponent;
    let mut carry = 0_u128;
    let mut product: Vec<u8> = digits
        .into_iter()
        .rev()
        .map(|digit| {
            let value = u128::from(digit) * factor + carry;
            carry = value / 10;
            last_digit(value)
        })
        .collect();
    while carry > 0 {
        product.push(last_digit(carry));
        carry /= 10;
    }
    product.reverse();
    product
}

fn last_digit(value: u128) -> u8 {
    u8::try_from(value % 10).expect("a digit fits")
}

/// At most 2^63-1 whole units.
fn capped(nanos: Vec<u8>) -> Vec<u8> {
    let nanos = trimmed(nanos);
    let mut cap: Vec<u8> = i64::MAX
        .to_string()
        .bytes()
        .map(|byte| byte.wrapping_sub(b'0'))
        .collect();
    cap.resize(cap.len() + 9, 0);
    if compare(&nanos, &cap) == Ordering::Greater {
        cap
    } else {
        nanos
    }
}

fn trimmed(mut digits: Vec<u8>) -> Vec<u8> {
    let zeros = digits.iter().take_while(|digit| **digit == 0).count();
    digits.drain(..zeros);
    digits
}

/// Compares trimmed digits.
fn compare(a: &[u8], b: &[u8]) -> Ordering {
    a.len().cmp(&b.len()).then_with(|| a.cmp(b))
}

impl Quantity {
    /// Whether it is below zero.
    #[must_use]
    pub fn is_negative(&self) -> bool {
        self.negative
    }

    /// Whether it is a whole number of units, as bytes must be.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.nanos.iter().rev().take(9).all(|digit| *digit == 0)
    }

    /// Whether it is a whole number of thousandths, which is as fine as CPU goes.
    #[must_use]
    pub fn is_whole_milli(&self) -> bool {
        self.nanos.iter().rev().take(6).all(|digit| *digit == 0)
    }
}

impl PartialEq for Quantity {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Quantity {}

impl PartialOrd for Quantity {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Quantity {
    fn cmp(&self, other: &Self) -> Ordering {
        match (self.negative, other.negative) {
            (false, true) => Ordering::Greater,
            (true, false) => Ordering::Less,
            (false, false) => compare(&self.nanos, &other.nanos),
            (true, true) => compare(&other.nanos, &self.nanos),
        }
    }
}

/// The plain decimal number.
impl fmt::Display for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits: String = self
            .nanos
            .iter()
            .map(|digit| char::from(b'0'.wrapping_add(*digit)))
            .collect();
        let padded = format!("{digits:0>10}");
        let (whole, fraction) = padded.split_at(padded.len() - 9);
        let fraction = fraction.trim_end_matches('0');
        let sign = if self.negative { "-" } else { "" };
        let point = if fraction.is_empty() { "" } else { "." };
        write!(f, "{sign}{whole}{point}{fraction}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn quantity(text: &str) -> Quantity {
        text.parse()
            .unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    #[test]
    fn equal_amounts_are_equal_however_they_are_written() {
        for group in [
            vec!["0", "0m", "-0", "0.0", "+0", "00", "0Ki", "0e9"],
            vec![
                "1",
                "1000m",
                "1.",
                "1.0",
                "1e0",
                "1000000u",
                "1000000000n",
                "0.001k",
            ],
            vec!["1k", "1e3", "1E3", "1000", "1e+3", "10000e-1"],
            vec!["1.5Gi", "1536Mi", "1610612736"],
            vec!["0.1n", "1n", "0.0000000001"],
            vec!["16Ei", "9223372036854775807", "8Ei", "1000000Ei"],
            vec!["-1.5", "-1500m"],
            vec![".5", "500m", "0.5"],
        ] {
            for text in &group {
                assert_eq!(quantity(text), quantity(group[0]), "{text}");
            }
        }
    }

    #[test]
    fn amounts_are_ordered_by_value() {
        let ordered = [
            "-1Ki", "-1k", "-1", "-1m", "0", "1n", "1u", "1m", "999m", "1", "1k", "1Ki", "1M",
            "1Mi", "1G", "1Gi", "1T", "1Ti", "1P", "1Pi", "1E", "1Ei", "9E", "10E", "1e30",
            "1e100",
        ];
        for pair in ordered.windows(2) {
            assert!(quantity(pair[0]) < quantity(pair[1]), "{pair:?}");
        }
    }

    #[test]
    fn what_is_no_quantity_is_refused_for_upstreams_reason() {
        for text in [
            "", "-", "+", "abc", "1 ", " 1", "1x", "1.2.3", "--1", "1e3x", "½", "1é",
        ] {
            assert_eq!(
                text.parse::<Quantity>(),
                Err(QuantityError::Format),
                "{text}"
            );
        }
        for text in [
            "1K",
            "1ki",
            "1mm",
            "1e",
            "1E+",
            "1i",
            "1kk",
            "1-5",
            "1e99999999999999999999",
        ] {
            assert_eq!(
                text.parse::<Quantity>(),
                Err(QuantityError::Suffix),
                "{text}"
            );
        }
        for text in [".", "-.k", &"9".repeat(65)] {
            assert_eq!(
                text.parse::<Quantity>(),
                Err(QuantityError::Number),
                "{text}"
            );
        }
        assert_eq!(
            QuantityError::Format.to_string(),
            "quantities must match the regular expression \
             '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'"
        );
    }

    #[test]
    fn fineness_is_known() {
        assert!(quantity("1Gi").is_whole() && !quantity("1m").is_whole());
        assert!(quantity("1m").is_whole_milli() && !quantity("100u").is_whole_milli());
        assert!(quantity("-1").is_negative() && !quantity("-0").is_negative());
    }

    proptest! {
        #[test]
        fn order_is_that_of_the_numbers(a in -1_000_000_i64..1_000_000, b in -1_000_000_i64..1_000_000) {
            let milli = |n: i64| quantity(&format!("{n}m"));
            prop_assert_eq!(milli(a).cmp(&milli(b)), a.cmp(&b));
            let plain = quantity(&format!("{}.{:03}", a.abs() / 1000, a.abs() % 1000));
            prop_assert_eq!(plain, milli(a.abs()));
        }

        #[test]
        fn binary_suffixes_multiply(number in 0_u64..1_000_000, power in 1_usize..4) {
            let suffix = ["", "Ki", "Mi", "Gi"][power];
            let bytes = u128::from(number) << (10 * power);
            prop_assert_eq!(quantity(&format!("{number}{suffix}")), quantity(&bytes.to_string()));
        }

        #[test]
        fn a_quantity_survives_its_plain_number(text in "-?[0-9]{1,12}(\\.[0-9]{0,9})?[numkMG]?") {
            let read = quantity(&text);
            prop_assert_eq!(quantity(&read.to_string()), read);
        }

        #[test]
        fn any_text_is_read_or_refused(text in "[-+0-9.eEinumkKMGTPx]{0,20}") {
            if let Ok(read) = text.parse::<Quantity>() {
                prop_assert_eq!(read.cmp(&read), Ordering::Equal);
            }
        }
    }
}
