//! The one place where the store's integer revision and the client's opaque resourceVersion meet.

use crate::error::ApiError;
use crate::field::FieldError;

/// The resourceVersion that clients see for a revision.
#[must_use]
pub fn format(revision: i64) -> String {
    revision.to_string()
}

/// The revision that a resourceVersion names; empty and `0` are 0.
///
/// A number beyond the store's range lies in the future like any other: it becomes the largest
/// revision.
///
/// # Errors
/// 400 if the text is no unsigned 64-bit number.
pub fn parse(resource_version: &str) -> Result<i64, ApiError> {
    if resource_version.is_empty() {
        return Ok(0);
    }
    parse_unsigned(resource_version).map_err(|problem| {
        let error = FieldError::invalid("resourceVersion", resource_version, problem);
        ApiError::bad_request(format!("invalid resource version: {error}"))
    })
}

fn parse_unsigned(text: &str) -> Result<i64, String> {
    let shown = crate::quote::quote(text);
    if !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(format!(
            "strconv.ParseUint: parsing {shown}: invalid syntax"
        ));
    }
    match text.parse::<u64>() {
        Ok(number) => Ok(i64::try_from(number).unwrap_or(i64::MAX)),
        Err(_) => Err(format!(
            "strconv.ParseUint: parsing {shown}: value out of range"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn text_that_is_no_number_is_a_bad_request() {
        for text in [
            "abc",
            "-1",
            "+1",
            "1.0",
            " 1",
            "18446744073709551616",
            "1e3",
            "٣",
        ] {
            let error = parse(text).unwrap_err();
            assert_eq!(error.code(), 400, "{text}");
        }
        assert_eq!(
            parse("abc").unwrap_err().to_string(),
            "invalid resource version: resourceVersion: Invalid value: \"abc\": \
             strconv.ParseUint: parsing \"abc\": invalid syntax"
        );
    }

    #[test]
    fn a_number_beyond_the_store_is_the_far_future() {
        assert_eq!(parse("18446744073709551615").unwrap(), i64::MAX);
        assert_eq!(parse("").unwrap(), 0);
        assert_eq!(parse("0").unwrap(), 0);
    }

    proptest! {
        #[test]
        fn a_revision_survives_its_text(revision in 0..=i64::MAX) {
            prop_assert_eq!(parse(&format(revision)).unwrap(), revision);
        }

        #[test]
        fn any_text_is_read_or_refused(text in ".*") {
            if let Err(error) = parse(&text) {
                prop_assert_eq!(error.code(), 400);
            }
        }
    }
}
