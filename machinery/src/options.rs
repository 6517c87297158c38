//! The options of each verb: query parameters and the body of DELETE, decoded and validated.
//!
//! The first of several values of a parameter counts; parameters that a verb does not know are
//! ignored. Decoding mistakes are 400, contradictions 422.

mod delete;
mod list;
mod query;

use std::time::Duration;

pub use delete::{DeleteOptions, IGNORE_STORE_READ_ERROR, Propagation};
pub use list::{InitialState, ListOptions, ReadMode, VersionMatch, WatchStart};

use crate::continue_token::ContinueToken;
use crate::error::ApiError;
use crate::field::FieldError;
use crate::names::GroupKind;
use crate::revision;
use query::Query;

/// What the server does about fields that it does not know and keys that stand twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum FieldValidation {
    /// Drop them silently.
    Ignore,
    /// Drop them and say so in a `Warning` header.
    #[default]
    Warn,
    /// Refuse the request.
    Strict,
}

/// Options of GET on one object.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GetOptions {
    /// `resourceVersion`, as given.
    pub resource_version: String,
}

impl GetOptions {
    /// Reads the query.
    ///
    /// # Errors
    /// None at present; the signature is that of its siblings.
    pub fn parse<K: AsRef<str>, V: AsRef<str>>(pairs: &[(K, V)]) -> Result<Self, ApiError> {
        let query = Query::new(pairs);
        Ok(Self {
            resource_version: query.text("resourceVersion").to_owned(),
        })
    }

    /// How fresh the answer must be.
    ///
    /// # Errors
    /// 400 if the resourceVersion is no number.
    pub fn read_mode(&self) -> Result<ReadMode, ApiError> {
        if self.resource_version.is_empty() {
            return Ok(ReadMode::Consistent);
        }
        Ok(match revision::parse(&self.resource_version)? {
            0 => ReadMode::Any,
            revision => ReadMode::NotOlderThan(revision),
        })
    }
}

/// Options of a document that comes in pages.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PageOptions {
    /// `limit`, if there is one; zero and less are none.
    pub limit: Option<usize>,
    continue_token: String,
}

impl PageOptions {
    /// Reads the query.
    ///
    /// # Errors
    /// 400 if the limit is no number.
    pub fn parse<K: AsRef<str>, V: AsRef<str>>(pairs: &[(K, V)]) -> Result<Self, ApiError> {
        let query = Query::new(pairs);
        let limit = query.integer("limit")?.unwrap_or(0);
        Ok(Self {
            limit: usize::try_from(limit).ok().filter(|limit| *limit > 0),
            continue_token: query.text("continue").to_owned(),
        })
    }

    /// The page to go on with, unless it is the first.
    ///
    /// # Errors
    /// 400 if it is no token.
    pub fn token(&self) -> Result<Option<ContinueToken>, ApiError> {
        if self.continue_token.is_empty() {
            return Ok(None);
        }
        ContinueToken::decode(&self.continue_token).map(Some)
    }
}

/// Options that all writes with a body share.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WriteOptions {
    /// `dryRun`; empty or `["All"]`.
    pub dry_run: Vec<String>,
    /// `fieldManager`; empty if the client named none.
    pub field_manager: String,
    /// `fieldValidation`.
    pub field_validation: FieldValidation,
}

/// Options of POST.
pub type CreateOptions = WriteOptions;
/// Options of PUT.
pub type UpdateOptions = WriteOptions;

impl WriteOptions {
    /// Reads and validates the query of a POST.
    ///
    /// # Errors
    /// 422 of kind `CreateOptions`; 400 for a dry run.
    pub fn parse_create<K: AsRef<str>, V: AsRef<str>>(pairs: &[(K, V)]) -> Result<Self, ApiError> {
        Self::parse(&Query::new(pairs), "CreateOptions", vec![])
    }

    /// Reads and validates the query of a PUT.
    ///
    /// # Errors
    /// 422 of kind `UpdateOptions`; 400 for a dry run.
    pub fn parse_update<K: AsRef<str>, V: AsRef<str>>(pairs: &[(K, V)]) -> Result<Self, ApiError> {
        Self::parse(&Query::new(pairs), "UpdateOptions", vec![])
    }

    /// Reads and validates the query of a PATCH other than apply.
    ///
    /// # Errors
    /// 422 of kind `PatchOptions`, also for `force`; 400 for a dry run.
    pub fn parse_patch<K: AsRef<str>, V: AsRef<str>>(pairs: &[(K, V)]) -> Result<Self, ApiError> {
        let query = Query::new(pairs);
        let mut errors = vec![];
        if query.has("force") {
            errors.push(FieldError::forbidden(
                "force",
                "may not be specified for non-apply patch",
            ));
        }
        Self::parse(&query, "PatchOptions", errors)
    }

    fn parse<K: AsRef<str>, V: AsRef<str>>(
        query: &Query<'_, K, V>,
        kind: &'static str,
        mut errors: Vec<FieldError>,
    ) -> Result<Self, ApiError> {
        let field_manager = query.text("fieldManager");
        validate_field_manager(field_manager, &mut errors);
        let dry_run = query.all("dryRun");
        validate_dry_run(&dry_run, &mut errors);
        let text = query.text("fieldValidation");
        let field_validation = match text {
            "Ignore" => FieldValidation::Ignore,
            "" | "Warn" => FieldValidation::Warn,
            "Strict" => FieldValidation::Strict,
            _ => {
                let known = ["", "Ignore", "Strict", "Warn"];
                errors.push(FieldError::not_supported("fieldValidation", text, &known));
                FieldValidation::Warn
            }
        };
        refuse_invalid(kind, &errors)?;
        refuse_dry_run(&dry_run)?;
        Ok(Self {
            dry_run,
            field_manager: field_manager.to_owned(),
            field_validation,
        })
    }
}

fn refuse_invalid(kind: &'static str, errors: &[FieldError]) -> Result<(), ApiError> {
    if errors.is_empty() {
        return Ok(());
    }
    Err(ApiError::invalid(
        &GroupKind::new("meta.k8s.io", kind),
        "",
        errors,
    ))
}

fn validate_field_manager(manager: &str, errors: &mut Vec<FieldError>) {
    const MAX: usize = 128;
    if manager.len() > MAX {
        errors.push(FieldError::too_long("fieldManager", MAX));
    }
    for (at, c) in manager
        .char_indices()
        .filter(|(_, c)| !crate::quote::is_printable(*c))
    {
        let detail = format!(
            "invalid character U+{:04X} (at position {at})",
            u32::from(c)
        );
        errors.push(FieldError::invalid("fieldManager", manager, detail));
    }
}

fn validate_dry_run(dry_run: &[String], errors: &mut Vec<FieldError>) {
    if dry_run.iter().any(|value| value != "All") {
        errors.push(FieldError::not_supported(
            "dryRun",
            dry_run.to_vec(),
            &["All"],
        ));
    }
}

/// A dry run that is asked for must not become a write.
fn refuse_dry_run(dry_run: &[String]) -> Result<(), ApiError> {
    if dry_run.is_empty() {
        return Ok(());
    }
    Err(ApiError::bad_request(
        "dryRun is not supported by this server: nothing was changed",
    ))
}

/// Whether a request to a collection is a watch: the one reading of `watch`, for authorization
/// and execution alike.
#[must_use]
pub fn is_watch<K: AsRef<str>, V: AsRef<str>>(pairs: &[(K, V)]) -> bool {
    Query::new(pairs).boolean("watch").unwrap_or(false)
}

/// The client's own limit of the request, `timeout` in Go's notation (`1m30s`); zero and absent
/// say nothing, a negative one is over at once.
///
/// # Errors
/// 400 if it is no duration.
pub fn request_timeout<K: AsRef<str>, V: AsRef<str>>(
    pairs: &[(K, V)],
) -> Result<Option<Duration>, ApiError> {
    let text = Query::new(pairs).text("timeout");
    if text.is_empty() {
        return Ok(None);
    }
    let nanoseconds = query::parse_duration(text).map_err(|problem| {
        ApiError::bad_request(format!(
            "invalid timeout specified in the request URL - time: {problem}"
        ))
    })?;
    if nanoseconds == 0 {
        return Ok(None);
    }
    Ok(Some(Duration::from_nanos(
        u64::try_from(nanoseconds).unwrap_or(0),
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message<T: std::fmt::Debug>(result: Result<T, ApiError>) -> (u16, String) {
        let error = result.unwrap_err();
        (error.code(), error.to_string())
    }

    #[test]
    fn write_options_have_defaults() {
        let options = WriteOptions::parse_create::<&str, &str>(&[("pretty", "1")]).unwrap();
        assert_eq!(options, WriteOptions::default());
        assert_eq!(options.field_validation, FieldValidation::Warn);
        let strict =
            WriteOptions::parse_update(&[("fieldValidation", "Strict"), ("fieldManager", "größe")])
                .unwrap();
        assert_eq!(strict.field_validation, FieldValidation::Strict);
        assert_eq!(strict.field_manager, "größe");
    }

    #[test]
    fn bad_write_options_are_invalid_with_upstreams_words() {
        assert_eq!(
            message(WriteOptions::parse_create(&[("dryRun", "x")])),
            (
                422,
                "CreateOptions.meta.k8s.io \"\" is invalid: dryRun: Unsupported value: [\"x\"]: \
                 supported values: \"All\""
                    .to_owned()
            )
        );
        assert_eq!(
            message(WriteOptions::parse_update(&[("fieldValidation", "x")])).1,
            "UpdateOptions.meta.k8s.io \"\" is invalid: fieldValidation: Unsupported value: \
             \"x\": supported values: \"\", \"Ignore\", \"Strict\", \"Warn\""
        );
        let long = "m".repeat(129);
        assert_eq!(
            message(WriteOptions::parse_patch(&[
                ("fieldManager", long.as_str()),
                ("force", "true")
            ])),
            (
                422,
                "PatchOptions.meta.k8s.io \"\" is invalid: [force: Forbidden: may not be \
                 specified for non-apply patch, fieldManager: Too long: may not be more than 128 \
                 bytes]"
                    .to_owned()
            )
        );
        assert_eq!(
            message(WriteOptions::parse_patch(&[("fieldManager", "a\u{7}")])).1,
            "PatchOptions.meta.k8s.io \"\" is invalid: fieldManager: Invalid value: \"a\\a\": \
             invalid character U+0007 (at position 1)"
        );
    }

    #[test]
    fn a_dry_run_is_refused_and_never_a_write() {
        assert_eq!(
            message(WriteOptions::parse_create(&[("dryRun", "All")])).0,
            400
        );
        assert_eq!(
            message(WriteOptions::parse_create(&[("dryRun", "")])).0,
            422
        );
    }

    #[test]
    fn a_get_is_as_fresh_as_it_asks() {
        let mode = |text: &str| {
            GetOptions::parse(&[("resourceVersion", text)])
                .unwrap()
                .read_mode()
        };
        assert_eq!(mode("").unwrap(), ReadMode::Consistent);
        assert_eq!(mode("0").unwrap(), ReadMode::Any);
        assert_eq!(mode("12").unwrap(), ReadMode::NotOlderThan(12));
        assert_eq!(message(mode("abc")).0, 400);
    }

    #[test]
    fn the_timeout_is_a_go_duration() {
        let timeout = |text: &str| request_timeout(&[("timeout", text)]);
        assert_eq!(timeout("").unwrap(), None);
        assert_eq!(timeout("0s").unwrap(), None);
        assert_eq!(timeout("1ns").unwrap(), Some(Duration::from_nanos(1)));
        assert_eq!(timeout("1m30s").unwrap(), Some(Duration::from_secs(90)));
        assert_eq!(timeout("-1s").unwrap(), Some(Duration::ZERO));
        assert_eq!(
            message(timeout("zzz")),
            (
                400,
                "invalid timeout specified in the request URL - time: invalid duration \"zzz\""
                    .to_owned()
            )
        );
    }

    #[test]
    fn one_reading_of_watch() {
        for (values, expected) in [
            (vec![], false),
            (vec!["true"], true),
            (vec!["1"], true),
            (vec![""], true),
            (vec!["zzz"], true),
            (vec!["FALSE"], false),
            (vec!["0", "1"], false),
            (vec!["1", "0"], true),
        ] {
            let pairs: Vec<_> = values.iter().map(|value| ("watch", *value)).collect();
            assert_eq!(is_watch(&pairs), expected, "{values:?}");
        }
    }
}
