//! Resource quantities, as far as it takes to see that two texts mean the same.

/// A quantity in thousandths, rounded up: the finest step that the API server
/// keeps in a pod template. `None` for a text that is not a quantity, or one too
/// large to compare.
pub(crate) fn milli(text: &str) -> Option<i128> {
    let split = text.find(|c: char| !matches!(c, '0'..='9' | '.' | '+' | '-'));
    let (number, suffix) = text.split_at(split.unwrap_or(text.len()));
    let scale = Scale::parse(suffix)?;
    let (negative, number) = match number.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, number.strip_prefix('+').unwrap_or(number)),
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let digits = format!("{whole}{fraction}");
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let mut numerator: i128 = digits.parse().ok()?;
    let fraction_digits = i32::try_from(fraction.len()).ok()?;
    numerator = numerator.checked_mul(scale.factor)?;
    // Thousandths, with the decimal point of the number taken out.
    let exponent = scale
        .exponent
        .checked_add(3)?
        .checked_sub(fraction_digits)?;
    let power = 10_i128.checked_pow(exponent.unsigned_abs())?;
    let size = if exponent >= 0 {
        numerator.checked_mul(power)?
    } else {
        let up = i128::from(numerator % power != 0);
        (numerator / power).checked_add(up)?
    };
    Some(if negative { -size } else { size })
}

/// A suffix as `factor * 10^exponent`.
struct Scale {
    factor: i128,
    exponent: i32,
}

impl Scale {
    fn parse(suffix: &str) -> Option<Self> {
        let decimal = |exponent| {
            Some(Self {
                factor: 1,
                exponent,
            })
        };
        let binary = |bits: u32| {
            Some(Self {
                factor: 1_i128 << bits,
                exponent: 0,
            })
        };
        match suffix {
            "n" => decimal(-9),
            "u" => decimal(-6),
            "m" => decimal(-3),
            "" => decimal(0),
            "k" => decimal(3),
            "M" => decimal(6),
            "G" => decimal(9),
            "T" => decimal(12),
            "P" => decimal(15),
            "E" => decimal(18),
            "Ki" => binary(10),
            "Mi" => binary(20),
            "Gi" => binary(30),
            "Ti" => binary(40),
            "Pi" => binary(50),
            "Ei" => binary(60),
            _ => decimal(suffix.strip_prefix(['e', 'E'])?.parse().ok()?),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_of_one_quantity_are_equal() {
        for (left, right) in [
            ("0.1", "100m"),
            ("1", "1000m"),
            ("1.50", "1500m"),
            ("1e3", "1k"),
            ("1E3", "1k"),
            ("1024Ki", "1Mi"),
            ("0.5Gi", "512Mi"),
            ("1u", "1m"),
            ("+2", "2"),
            (".5", "500m"),
            ("5.", "5"),
        ] {
            assert!(milli(left).is_some(), "{left}");
            assert_eq!(milli(left), milli(right), "{left} {right}");
        }
    }

    #[test]
    fn different_quantities_differ() {
        assert_ne!(milli("1"), milli("1k"));
        assert_ne!(milli("1M"), milli("1Mi"));
        assert_ne!(milli("-1"), milli("1"));
    }

    #[test]
    fn what_is_no_quantity_has_no_size() {
        for text in ["", "x", "1x", "1.2.3", "--1", "1e", "1e99999999999", "Ki"] {
            assert_eq!(milli(text), None, "{text}");
        }
        assert_eq!(milli(&"9".repeat(60)), None);
    }
}
