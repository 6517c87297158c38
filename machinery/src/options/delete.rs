//! Options of DELETE, from the query or the body.

use serde_json::Value;

use super::query::Query;
use super::{refuse_dry_run, refuse_invalid, validate_dry_run};
use crate::error::ApiError;
use crate::field::FieldError;
use crate::object::{self, Object};

/// What becomes of the objects that the deleted one owns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Propagation {
    /// They stay and lose their owner.
    Orphan,
    /// They are deleted after it.
    Background,
    /// They are deleted before it.
    Foreground,
}

/// Removes an object that cannot be read, whatever hangs on it.
pub const IGNORE_STORE_READ_ERROR: &str = "ignoreStoreReadErrorWithClusterBreakingPotential";

/// Options of DELETE.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DeleteOptions {
    /// `gracePeriodSeconds`: no kind served here is deleted gracefully, so it is only read.
    pub grace_period_seconds: Option<i64>,
    /// `orphanDependents`, the older form of the policy.
    pub orphan_dependents: Option<bool>,
    /// `propagationPolicy`.
    pub propagation_policy: Option<Propagation>,
    /// `preconditions.uid`.
    pub uid: Option<String>,
    /// `preconditions.resourceVersion`.
    pub resource_version: Option<String>,
    /// `ignoreStoreReadErrorWithClusterBreakingPotential`.
    pub ignore_store_read_error: bool,
}

#[derive(Default)]
struct Raw {
    options: DeleteOptions,
    policy: Option<String>,
    dry_run: Vec<String>,
}

impl DeleteOptions {
    /// Reads and validates the query; it counts only if the request has no body.
    ///
    /// # Errors
    /// 400 for what cannot be decoded and for a dry run, 422 for contradictions.
    pub fn parse<K: AsRef<str>, V: AsRef<str>>(pairs: &[(K, V)]) -> Result<Self, ApiError> {
        let query = Query::new(pairs);
        let text = |name| Some(query.text(name).to_owned()).filter(|text| !text.is_empty());
        let options = Self {
            grace_period_seconds: query.integer("gracePeriodSeconds")?,
            orphan_dependents: query.boolean("orphanDependents"),
            propagation_policy: None,
            uid: text("uid"),
            resource_version: text("resourceVersion"),
            ignore_store_read_error: query.boolean(IGNORE_STORE_READ_ERROR) == Some(true),
        };
        let policy = query
            .has("propagationPolicy")
            .then(|| query.text("propagationPolicy").to_owned());
        Raw {
            options,
            policy,
            dry_run: query.all("dryRun"),
        }
        .validate()
    }

    /// Reads and validates a body, whatever it was encoded in.
    ///
    /// # Errors
    /// 400 if it is no `DeleteOptions` and for a dry run, 422 for contradictions.
    pub fn from_body(body: &Value) -> Result<Self, ApiError> {
        let Value::Object(body) = body else {
            return Err(ApiError::bad_request(
                "couldn't get version/kind; json parse error: the body is no object",
            ));
        };
        Self::from_object(body)
    }

    /// Reads and validates a body that is known to be an object.
    ///
    /// # Errors
    /// 400 if it is no `DeleteOptions` and for a dry run, 422 for contradictions.
    pub fn from_object(body: &Object) -> Result<Self, ApiError> {
        if object::kind(body).is_some_and(|kind| !matches!(kind, "" | "DeleteOptions")) {
            return Err(ApiError::bad_request(
                "decoded object cannot be converted to DeleteOptions",
            ));
        }
        let mut raw = Raw::default();
        for (member, value) in body.iter().filter(|(_, value)| !value.is_null()) {
            raw.read(member, value)?;
        }
        raw.validate()
    }

    /// What becomes of dependents, if the client says so in either form.
    #[must_use]
    pub fn propagation(&self) -> Option<Propagation> {
        match self.orphan_dependents {
            Some(true) => Some(Propagation::Orphan),
            Some(false) => Some(Propagation::Background),
            None => self.propagation_policy,
        }
    }

    /// Whether an object that finalizers hold is answered with 202: the client asked in the older
    /// form for its dependents to go.
    #[must_use]
    pub fn answers_accepted(&self) -> bool {
        self.orphan_dependents == Some(false)
    }
}

impl Raw {
    fn read(&mut self, member: &str, value: &Value) -> Result<(), ApiError> {
        let options = &mut self.options;
        match member {
            "kind" | "apiVersion" => {
                text(member, value)?;
            }
            "gracePeriodSeconds" => {
                let number = value
                    .as_i64()
                    .ok_or_else(|| mismatch(member, value, "int64"))?;
                options.grace_period_seconds = Some(number);
            }
            "orphanDependents" => {
                let orphan = value
                    .as_bool()
                    .ok_or_else(|| mismatch(member, value, "bool"))?;
                options.orphan_dependents = Some(orphan);
            }
            IGNORE_STORE_READ_ERROR => {
                options.ignore_store_read_error = value
                    .as_bool()
                    .ok_or_else(|| mismatch(member, value, "bool"))?;
            }
            "propagationPolicy" => self.policy = Some(text(member, value)?),
            "preconditions" => {
                let object = value
                    .as_object()
                    .ok_or_else(|| mismatch(member, value, "v1.Preconditions"))?;
                for (inner, value) in object.iter().filter(|(_, value)| !value.is_null()) {
                    let field = format!("preconditions.{inner}");
                    match inner.as_str() {
                        "uid" => options.uid = Some(text(&field, value)?),
                        "resourceVersion" => options.resource_version = Some(text(&field, value)?),
                        _ => {}
                    }
                }
            }
            "dryRun" => {
                let items = value
                    .as_array()
                    .ok_or_else(|| mismatch(member, value, "[]string"))?;
                self.dry_run = items
                    .iter()
                    .map(|item| text(member, item))
                    .collect::<Result<_, _>>()?;
            }
            _ => {}
        }
        Ok(())
    }

    fn validate(self) -> Result<DeleteOptions, ApiError> {
        let field = "propagationPolicy";
        let mut options = self.options;
        let mut errors = Vec::new();
        if let Some(policy) = &self.policy {
            if options.orphan_dependents.is_some() {
                let rule = "orphanDependents and deletionPropagation cannot be both set";
                errors.push(FieldError::invalid(field, policy.as_str(), rule));
            }
            options.propagation_policy = match policy.as_str() {
                "Foreground" => Some(Propagation::Foreground),
                "Background" => Some(Propagation::Background),
                "Orphan" => Some(Propagation::Orphan),
                other => {
                    let known = ["Foreground", "Background", "Orphan", "nil"];
                    errors.push(FieldError::not_supported(field, other, &known));
                    None
                }
            };
        }
        if options.ignore_store_read_error {
            let others = [
                ("dryRun", !self.dry_run.is_empty()),
                ("propagationPolicy", self.policy.is_some()),
                ("orphanDependents", options.orphan_dependents.is_some()),
                ("gracePeriodSeconds", options.grace_period_seconds.is_some()),
                (
                    "preconditions",
                    options.uid.is_some() || options.resource_version.is_some(),
                ),
            ];
            for (other, _) in others.iter().filter(|(_, is_set)| *is_set) {
                let rule = format!("cannot be set together with .{other}");
                errors.push(FieldError::invalid(IGNORE_STORE_READ_ERROR, true, rule));
            }
        }
        validate_dry_run(&self.dry_run, &mut errors);
        refuse_invalid("DeleteOptions", &errors)?;
        refuse_dry_run(&self.dry_run)?;
        Ok(options)
    }
}

fn text(member: &str, value: &Value) -> Result<String, ApiError> {
    value
        .as_str()
        .map(str::to_owned)
        .ok_or_else(|| mismatch(member, value, "string"))
}

fn mismatch(member: &str, value: &Value, wanted: &str) -> ApiError {
    let found = match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    };
    ApiError::bad_request(format!(
        "json: cannot unmarshal {found} into Go struct field DeleteOptions.{member} of type {wanted}"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    #[test]
    fn a_body_and_a_query_say_the_same() {
        let body = DeleteOptions::from_body(&json!({
            "kind": "DeleteOptions", "apiVersion": "v1", "gracePeriodSeconds": 0,
            "propagationPolicy": "Foreground", "orphanDependents": null,
            "preconditions": {"uid": "u", "resourceVersion": "7"}, "unknown": 1
        }))
        .unwrap();
        let query = DeleteOptions::parse(&[
            ("gracePeriodSeconds", "0"),
            ("propagationPolicy", "Foreground"),
            ("uid", "u"),
            ("resourceVersion", "7"),
        ])
        .unwrap();
        assert_eq!(body, query);
        assert_eq!(body.propagation(), Some(Propagation::Foreground));
    }

    #[test]
    fn what_is_no_delete_options_is_a_bad_request() {
        for body in [
            json!([]),
            json!("x"),
            json!({"kind": "Pod", "apiVersion": "v1"}),
            json!({"gracePeriodSeconds": "abc"}),
            json!({"orphanDependents": 1}),
            json!({"preconditions": []}),
            json!({"preconditions": {"uid": 1}}),
            json!({"dryRun": "All"}),
            json!({"dryRun": ["All"]}),
        ] {
            assert_eq!(
                DeleteOptions::from_body(&body).unwrap_err().code(),
                400,
                "{body}"
            );
        }
        assert_eq!(
            DeleteOptions::parse(&[("gracePeriodSeconds", "abc")])
                .unwrap_err()
                .code(),
            400
        );
    }

    #[test]
    fn contradictions_are_invalid_in_upstreams_words() {
        let text = |body: Value| {
            let error = DeleteOptions::from_body(&body).unwrap_err();
            assert_eq!(error.code(), 422);
            error
                .to_string()
                .replace("DeleteOptions.meta.k8s.io \"\" is invalid: ", "")
        };
        assert_eq!(
            text(json!({"propagationPolicy": "Zap"})),
            "propagationPolicy: Unsupported value: \"Zap\": supported values: \"Foreground\", \
             \"Background\", \"Orphan\", \"nil\""
        );
        assert_eq!(
            text(json!({"propagationPolicy": "Orphan", "orphanDependents": true})),
            "propagationPolicy: Invalid value: \"Orphan\": orphanDependents and \
             deletionPropagation cannot be both set"
        );
        assert_eq!(
            text(json!({"dryRun": ["x"]})),
            "dryRun: Unsupported value: [\"x\"]: supported values: \"All\""
        );
    }

    #[test]
    fn what_cannot_be_read_is_deleted_on_no_other_terms() {
        let query = DeleteOptions::parse(&[(IGNORE_STORE_READ_ERROR, "true")]).unwrap();
        let body = DeleteOptions::from_body(&json!({IGNORE_STORE_READ_ERROR: true})).unwrap();
        assert!(query.ignore_store_read_error && query == body);
        for (other, value) in [
            ("dryRun", json!(["All"])),
            ("propagationPolicy", json!("Orphan")),
            ("orphanDependents", json!(true)),
            ("gracePeriodSeconds", json!(0)),
            ("preconditions", json!({"uid": "u"})),
        ] {
            let body = json!({IGNORE_STORE_READ_ERROR: true, other: value});
            let error = DeleteOptions::from_body(&body).unwrap_err();
            assert_eq!(error.code(), 422, "{error}");
            let rule = format!("cannot be set together with .{other}");
            assert!(error.to_string().contains(&rule), "{error}");
        }
        assert!(DeleteOptions::from_body(&json!({IGNORE_STORE_READ_ERROR: 1})).is_err());
    }

    #[test]
    fn only_the_older_form_is_accepted_with_202() {
        let accepted =
            |body| DeleteOptions::from_body(&body).map(|options| options.answers_accepted());
        assert!(accepted(json!({"orphanDependents": false})).unwrap());
        assert!(!accepted(json!({"propagationPolicy": "Background"})).unwrap());
    }

    proptest! {
        #[test]
        fn any_body_is_read_or_refused(
            member in proptest::sample::select(vec![
                "kind", "gracePeriodSeconds", "orphanDependents", "propagationPolicy",
                "preconditions", "dryRun",
            ]),
            value in proptest::sample::select(vec![
                json!(null), json!(1), json!(-1.5), json!("x"), json!([1]), json!({"uid": []}),
                json!(true), json!([]), json!(u64::MAX),
            ])
        ) {
            if let Err(error) = DeleteOptions::from_body(&json!({member: value})) {
                prop_assert!(matches!(error.code(), 400 | 422));
            }
        }
    }
}
