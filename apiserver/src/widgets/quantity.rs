//! Quantities such as `500m`, `1.5Gi` and `2e3`, as Kubernetes reads them.

/// An amount in billionths, rounded up. What is beyond Kubernetes' greatest amount is that one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Quantity(i128);

/// Kubernetes counts in 64 bits.
const GREATEST: i128 = i64::MAX as i128 * 1_000_000_000;
/// Digits after the point that are read; further ones are far below a billionth.
const FRACTION: usize = 18;

impl Quantity {
    /// Reads a quantity, or returns `None` if `text` is none.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (is_negative, unsigned) = match text.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, text.strip_prefix('+').unwrap_or(text)),
        };
        let end = unsigned.find(|letter: char| !letter.is_ascii_digit() && letter != '.');
        let (number, suffix) = unsigned.split_at(end.unwrap_or(unsigned.len()));
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') {
            return None;
        }
        let (tens, twos) = parse_suffix(suffix)?;
        let fraction = fraction.get(..FRACTION).unwrap_or(fraction);
        let tens = tens
            .saturating_add(9)
            .saturating_sub(i32::try_from(fraction.len()).ok()?);
        // All digits, so that only an overflow fails.
        let amount = format!("{whole}{fraction}").parse().ok();
        let amount = amount
            .and_then(|digits| scale(digits, tens, twos))
            .unwrap_or(GREATEST);
        Some(Self(if is_negative { -amount } else { amount }))
    }

    /// Whether the amount is below zero.
    pub(super) fn is_negative(self) -> bool {
        self.0 < 0
    }
}

/// The powers of ten and of two that a suffix stands for.
fn parse_suffix(suffix: &str) -> Option<(i32, u32)> {
    Some(match suffix {
        "n" => (-9, 0),
        "u" => (-6, 0),
        "m" => (-3, 0),
        "" => (0, 0),
        "k" => (3, 0),
        "M" => (6, 0),
        "G" => (9, 0),
        "T" => (12, 0),
        "P" => (15, 0),
        "E" => (18, 0),
        "Ki" => (0, 10),
        "Mi" => (0, 20),
        "Gi" => (0, 30),
        "Ti" => (0, 40),
        "Pi" => (0, 50),
        "Ei" => (0, 60),
        exponent => (exponent.strip_prefix(['e', 'E'])?.parse().ok()?, 0),
    })
}

/// `digits * 10^tens * 2^twos`, or `None` beyond the greatest amount.
fn scale(digits: i128, tens: i32, twos: u32) -> Option<i128> {
    let amount = digits.checked_mul(1 << twos)?;
    let power = 10_i128.checked_pow(tens.unsigned_abs());
    let amount = match power {
        _ if amount == 0 => 0,
        Some(power) if tens >= 0 => amount.checked_mul(power)?,
        None if tens >= 0 => return None,
        Some(power) => amount / power + i128::from(amount % power != 0),
        None => 1,
    };
    Some(amount.min(GREATEST))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn any_text_is_a_quantity_or_none(text in prop::collection::vec(
            prop::sample::select("0123456789.+-eEinumkKMGTPé".chars().collect::<Vec<_>>()),
            0..12,
        )) {
            Quantity::parse(&String::from_iter(text));
        }

        #[test]
        fn numbers_are_ordered_as_numbers(a in any::<i32>(), b in any::<i32>()) {
            for suffix in ["", "m", "k", "Mi", "e-3"] {
                let (less, more) = (parse(&format!("{a}{suffix}")), parse(&format!("{b}{suffix}")));
                prop_assert_eq!(less.cmp(&more), a.cmp(&b));
            }
            prop_assert_eq!(parse(&format!("{a}k")), parse(&format!("{a}000")));
            prop_assert_eq!(parse(&format!("{a}m")).cmp(&parse("1")), a.cmp(&1000));
        }
    }

    fn parse(text: &str) -> Quantity {
        Quantity::parse(text).unwrap_or_else(|| panic!("{text}"))
    }

    #[test]
    fn the_same_amount_may_be_written_in_many_ways() {
        for same in [
            ["1", "1000m", "1e0", "+1."],
            ["0.5", ".5", "500m", "5E-1"],
            ["1Gi", "1024Mi", "1073741824", "1048576Ki"],
            ["2k", "2e3", "2000", "0.002M"],
            ["0", "-0", "0.000Ei", "0e99"],
            [
                "9223372036854775807",
                "8Ei",
                "1e99",
                "99999999999999999999999999999999999999999999",
            ],
            ["1n", "0.1n", "1e-99", "0.000000001"],
        ] {
            for text in same {
                assert_eq!(parse(text), parse(same[0]), "{text}");
            }
        }
    }

    #[test]
    fn amounts_are_ordered_by_size_and_not_by_spelling() {
        let ascending = [
            "-1", "-500m", "0", "1n", "999u", "1m", "900m", "1", "1Ki", "1.1k", "1M", "1Mi", "7Ei",
        ];
        for (less, more) in ascending.iter().zip(&ascending[1..]) {
            assert!(parse(less) < parse(more), "{less} {more}");
        }
        assert!(parse("-1n").is_negative());
        assert!(!parse("-0").is_negative());
    }

    #[test]
    fn what_is_no_quantity_is_refused() {
        for text in [
            "", " 1", "1 ", ".", "-", "1.2.3", "1mi", "1KI", "1e", "1ee3", "1e1.5", "Gi", "1,5",
            "0x1", "--1", "é",
        ] {
            assert_eq!(Quantity::parse(text), None, "{text}");
        }
    }
}
