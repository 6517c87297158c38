//! Query parameters as Kubernetes reads them.

use crate::error::ApiError;
use crate::quote::quote;

/// The decoded pairs of a query string.
pub(super) struct Query<'a, K, V> {
    pairs: &'a [(K, V)],
}

impl<'a, K: AsRef<str>, V: AsRef<str>> Query<'a, K, V> {
    pub(super) fn new(pairs: &'a [(K, V)]) -> Self {
        Self { pairs }
    }

    fn values(&self, name: &str) -> impl Iterator<Item = &'a str> {
        let pairs = self.pairs;
        pairs
            .iter()
            .filter(move |(key, _)| key.as_ref() == name)
            .map(|(_, value)| value.as_ref())
    }

    fn first(&self, name: &str) -> Option<&'a str> {
        self.values(name).next()
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.first(name).is_some()
    }

    /// The first value; empty if there is none.
    pub(super) fn text(&self, name: &str) -> &'a str {
        self.first(name).unwrap_or_default()
    }

    pub(super) fn all(&self, name: &str) -> Vec<String> {
        self.values(name).map(str::to_owned).collect()
    }

    /// Everything is true, also nothing after the equals sign, save `0` and `false`.
    pub(super) fn boolean(&self, name: &str) -> Option<bool> {
        self.first(name)
            .map(|value| value != "0" && !value.eq_ignore_ascii_case("false"))
    }

    pub(super) fn integer(&self, name: &str) -> Result<Option<i64>, ApiError> {
        self.first(name)
            .map(parse_integer)
            .transpose()
            .map_err(ApiError::bad_request)
    }
}

fn parse_integer(text: &str) -> Result<i64, String> {
    use std::num::IntErrorKind::{NegOverflow, PosOverflow};
    text.parse::<i64>().map_err(|error| {
        let problem = match error.kind() {
            PosOverflow | NegOverflow => "value out of range",
            _ => "invalid syntax",
        };
        format!("strconv.ParseInt: parsing {}: {problem}", quote(text))
    })
}

/// Nanoseconds of a duration in Go's notation: signed decimal numbers with units, `1h15m30.5s`.
pub(super) fn parse_duration(text: &str) -> Result<i64, String> {
    let invalid = || format!("invalid duration {}", quote(text));
    let (negative, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    if rest == "0" {
        return Ok(0);
    }
    if rest.is_empty() {
        return Err(invalid());
    }
    let mut total = 0_i64;
    while !rest.is_empty() {
        let (number, tail) = split_while(rest, |c| c.is_ascii_digit() || c == '.');
        let (unit, tail) = split_while(tail, |c| !c.is_ascii_digit() && c != '.');
        if number.matches('.').count() > 1 || !number.contains(|c: char| c.is_ascii_digit()) {
            return Err(invalid());
        }
        if unit.is_empty() {
            return Err(format!("missing unit in duration {}", quote(text)));
        }
        let size = nanoseconds_of(unit)
            .ok_or_else(|| format!("unknown unit {} in duration {}", quote(unit), quote(text)))?;
        let amount = scale(number, size).ok_or_else(invalid)?;
        total = total.checked_add(amount).ok_or_else(invalid)?;
        rest = tail;
    }
    Ok(if negative { -total } else { total })
}

fn split_while(text: &str, belongs: fn(char) -> bool) -> (&str, &str) {
    text.split_at(text.find(|c| !belongs(c)).unwrap_or(text.len()))
}

fn nanoseconds_of(unit: &str) -> Option<i64> {
    Some(match unit {
        "ns" => 1,
        "us" | "µs" | "μs" => 1_000,
        "ms" => 1_000_000,
        "s" => 1_000_000_000,
        "m" => 60 * 1_000_000_000,
        "h" => 3_600 * 1_000_000_000,
        _ => return None,
    })
}

/// A decimal number of units in nanoseconds; what is finer is cut off.
fn scale(number: &str, size: i64) -> Option<i64> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let whole: i64 = if whole.is_empty() {
        0
    } else {
        whole.parse().ok()?
    };
    let mut total = whole.checked_mul(size)?;
    let mut place = size;
    for digit in fraction.chars().filter_map(|c| c.to_digit(10)) {
        // Dividing the unit by ten each time would lose its remainder; a unit is 36 * 10^11 at
        // most, so thirteen exact places are more than a nanosecond needs.
        if place % 10 != 0 {
            let rest = i64::from(digit).checked_mul(place)? / 10;
            total = total.checked_add(rest)?;
            break;
        }
        place /= 10;
        total = total.checked_add(place.checked_mul(i64::from(digit))?)?;
    }
    Some(total)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn durations_are_read_as_go_reads_them() {
        for (text, expected) in [
            ("0", 0),
            ("+5s", 5_000_000_000),
            ("-1.5h", -5_400_000_000_000),
            ("1h15m30.918s", 4_530_918_000_000),
            (".5s", 500_000_000),
            ("5.s", 5_000_000_000),
            ("52µs", 52_000),
            ("0.3333333333333333333h", 1_200_000_000_000 - 1),
        ] {
            let read = parse_duration(text).unwrap();
            assert!((read - expected).abs() <= 1, "{text}: {read}");
        }
        for text in [
            "",
            "-",
            "3",
            "s",
            ".s",
            "1x",
            "1.2.3s",
            "9999999999h",
            "1s-1s",
            "--1s",
        ] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn integers_are_refused_in_gos_words() {
        let pairs = [
            ("limit", "abc"),
            ("big", "9223372036854775808"),
            ("neg", "-1"),
        ];
        let query = Query::new(&pairs);
        assert_eq!(
            query.integer("limit").unwrap_err().to_string(),
            "strconv.ParseInt: parsing \"abc\": invalid syntax"
        );
        assert_eq!(
            query.integer("big").unwrap_err().to_string(),
            "strconv.ParseInt: parsing \"9223372036854775808\": value out of range"
        );
        assert_eq!(query.integer("neg").unwrap(), Some(-1));
        assert_eq!(query.integer("absent").unwrap(), None);
    }

    proptest! {
        #[test]
        fn any_text_is_a_duration_or_refused(text in "[-+0-9.nuµmsh]{0,24}") {
            let _ = parse_duration(&text);
        }

        #[test]
        fn whole_seconds_are_exact(seconds in 0_i64..9_000_000_000) {
            prop_assert_eq!(parse_duration(&format!("{seconds}s")), Ok(seconds * 1_000_000_000));
        }
    }
}
