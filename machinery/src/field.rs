//! Errors of single fields: where, what kind, which value, and Kubernetes' wording for each.

use std::fmt;

use serde_json::Value;

use crate::quote::quote;

/// Where in an object a field is, as Kubernetes writes it: `spec.items[3].labels[a/b]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldPath(String);

impl FieldPath {
    /// The path of a top-level field; dots in `name` make it a path of several steps.
    pub fn new(name: impl Into<String>) -> Self {
        Self(name.into())
    }

    /// The member `name` of the object at this path.
    #[must_use]
    pub fn child(&self, name: &str) -> Self {
        if self.0.is_empty() {
            Self(name.to_owned())
        } else {
            Self(format!("{}.{name}", self.0))
        }
    }

    /// The element `index` of the list at this path.
    #[must_use]
    pub fn index(&self, index: usize) -> Self {
        Self(format!("{}[{index}]", self.0))
    }

    /// The entry `key` of the map at this path.
    #[must_use]
    pub fn key(&self, key: &str) -> Self {
        Self(format!("{}[{key}]", self.0))
    }

    /// The path as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for FieldPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<FieldPath> for String {
    fn from(path: FieldPath) -> Self {
        path.0
    }
}

impl From<&FieldPath> for String {
    fn from(path: &FieldPath) -> Self {
        path.0.clone()
    }
}

/// The kinds of field error; each is a cause type that clients read by machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FieldErrorKind {
    /// Something that the value refers to does not exist.
    NotFound,
    /// A value that must be given is not.
    Required,
    /// A value that must be unique is not.
    Duplicate,
    /// The value is malformed or out of bounds.
    Invalid,
    /// The value is none of the enumerated ones.
    NotSupported,
    /// The value is well-formed but not permitted here.
    Forbidden,
    /// The value is too long; it is not repeated in the message.
    TooLong,
    /// The value is too short.
    TooShort,
    /// The list has too many items.
    TooMany,
    /// The list has too few items.
    TooFew,
    /// The value is of another type than the schema says.
    TypeInvalid,
    /// The server failed, not the client.
    Internal,
}

impl FieldErrorKind {
    /// The cause type in `status.details.causes[].reason`.
    #[must_use]
    pub fn cause(self) -> &'static str {
        match self {
            Self::NotFound => "FieldValueNotFound",
            Self::Required => "FieldValueRequired",
            Self::Duplicate => "FieldValueDuplicate",
            Self::Invalid => "FieldValueInvalid",
            Self::NotSupported => "FieldValueNotSupported",
            Self::Forbidden => "FieldValueForbidden",
            Self::TooLong => "FieldValueTooLong",
            Self::TooShort => "FieldValueTooShort",
            Self::TooMany => "FieldValueTooMany",
            Self::TooFew => "FieldValueTooFew",
            Self::TypeInvalid => "FieldValueTypeInvalid",
            Self::Internal => "InternalError",
        }
    }

    /// The words with which a message of this kind begins.
    #[must_use]
    pub fn text(self) -> &'static str {
        match self {
            Self::NotFound => "Not found",
            Self::Required => "Required value",
            Self::Duplicate => "Duplicate value",
            Self::Invalid | Self::TypeInvalid => "Invalid value",
            Self::NotSupported => "Unsupported value",
            Self::Forbidden => "Forbidden",
            Self::TooLong => "Too long",
            Self::TooShort => "Too short",
            Self::TooMany => "Too many",
            Self::TooFew => "Too few",
            Self::Internal => "Internal error",
        }
    }

    fn shows_value(self) -> bool {
        !matches!(
            self,
            Self::Required | Self::Forbidden | Self::TooLong | Self::TooShort | Self::Internal
        )
    }
}

/// One field's error. `Display` is `field: body`, as in the message of a 422.
#[derive(Debug, Clone, PartialEq)]
pub struct FieldError {
    /// What is wrong.
    pub kind: FieldErrorKind,
    /// Where, in the shape that the client wrote.
    pub field: String,
    /// The offending value; not shown for kinds that omit it.
    pub bad_value: Value,
    /// What the value should be; may be empty.
    pub detail: String,
}

impl FieldError {
    /// An error of any kind, worded by the caller.
    pub fn new(
        kind: FieldErrorKind,
        field: impl Into<String>,
        bad_value: impl Into<Value>,
        detail: impl Into<String>,
    ) -> Self {
        Self {
            kind,
            field: field.into(),
            bad_value: bad_value.into(),
            detail: detail.into(),
        }
    }

    /// A malformed or out-of-bounds value.
    pub fn invalid(
        field: impl Into<String>,
        bad_value: impl Into<Value>,
        detail: impl Into<String>,
    ) -> Self {
        Self::new(FieldErrorKind::Invalid, field, bad_value, detail)
    }

    /// A value of another type than the schema says.
    pub fn type_invalid(
        field: impl Into<String>,
        bad_value: impl Into<Value>,
        detail: impl Into<String>,
    ) -> Self {
        Self::new(FieldErrorKind::TypeInvalid, field, bad_value, detail)
    }

    /// A value that must be given; `detail` may be empty.
    pub fn required(field: impl Into<String>, detail: impl Into<String>) -> Self {
        Self::new(FieldErrorKind::Required, field, "", detail)
    }

    /// A value that is not permitted here.
    pub fn forbidden(field: impl Into<String>, detail: impl Into<String>) -> Self {
        Self::new(FieldErrorKind::Forbidden, field, "", detail)
    }

    /// A value that occurs more than once.
    pub fn duplicate(field: impl Into<String>, bad_value: impl Into<Value>) -> Self {
        Self::new(FieldErrorKind::Duplicate, field, bad_value, "")
    }

    /// A reference to something that does not exist.
    pub fn not_found(field: impl Into<String>, bad_value: impl Into<Value>) -> Self {
        Self::new(FieldErrorKind::NotFound, field, bad_value, "")
    }

    /// A value that is none of `supported`, listed in the order given.
    pub fn not_supported(
        field: impl Into<String>,
        bad_value: impl Into<Value>,
        supported: &[&str],
    ) -> Self {
        let detail = if supported.is_empty() {
            String::new()
        } else {
            let quoted: Vec<String> = supported.iter().map(|value| quote(value)).collect();
            format!("supported values: {}", quoted.join(", "))
        };
        Self::new(FieldErrorKind::NotSupported, field, bad_value, detail)
    }

    /// A value of more than `max_bytes` bytes.
    pub fn too_long(field: impl Into<String>, max_bytes: usize) -> Self {
        let unit = if max_bytes == 1 { "byte" } else { "bytes" };
        let detail = format!("may not be more than {max_bytes} {unit}");
        Self::new(FieldErrorKind::TooLong, field, "<value omitted>", detail)
    }

    /// A list of `actual` items where at most `max_items` are allowed.
    pub fn too_many(field: impl Into<String>, actual: usize, max_items: usize) -> Self {
        let unit = if max_items == 1 { "item" } else { "items" };
        let detail = format!("must have at most {max_items} {unit}");
        Self::new(FieldErrorKind::TooMany, field, actual, detail)
    }

    /// The message without the field, as it stands in `status.details.causes[].message`.
    #[must_use]
    pub fn body(&self) -> String {
        let mut body = self.kind.text().to_owned();
        if self.kind.shows_value() {
            body.push_str(": ");
            match &self.bad_value {
                Value::String(text) => body.push_str(&quote(text)),
                value => body.push_str(&value.to_string()),
            }
        }
        if !self.detail.is_empty() {
            body.push_str(": ");
            body.push_str(&self.detail);
        }
        body
    }
}

impl fmt::Display for FieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.body())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn paths_are_written_as_kubernetes_writes_them() {
        let spec = FieldPath::new("spec");
        assert_eq!(
            spec.child("items").index(3).child("name").as_str(),
            "spec.items[3].name"
        );
        assert_eq!(
            FieldPath::new("metadata")
                .child("labels")
                .key("a/b")
                .to_string(),
            "metadata.labels[a/b]"
        );
    }

    #[test]
    fn every_kind_has_upstreams_words() {
        let cases = [
            (
                FieldError::invalid("spec.replicas", 101, "replicas cannot exceed 100"),
                "spec.replicas: Invalid value: 101: replicas cannot exceed 100",
            ),
            (
                FieldError::invalid("a", "x\"y", "no"),
                "a: Invalid value: \"x\\\"y\": no",
            ),
            (
                FieldError::invalid("a", json!({"b": [1, null]}), ""),
                "a: Invalid value: {\"b\":[1,null]}",
            ),
            (FieldError::required("a", ""), "a: Required value"),
            (
                FieldError::required("a", "say it"),
                "a: Required value: say it",
            ),
            (
                FieldError::forbidden("a", "not here"),
                "a: Forbidden: not here",
            ),
            (FieldError::duplicate("a", "b"), "a: Duplicate value: \"b\""),
            (FieldError::not_found("a", "b"), "a: Not found: \"b\""),
            (
                FieldError::not_supported("a", "Zap", &["One", "Two"]),
                "a: Unsupported value: \"Zap\": supported values: \"One\", \"Two\"",
            ),
            (
                FieldError::too_long("a", 262_144),
                "a: Too long: may not be more than 262144 bytes",
            ),
            (
                FieldError::too_many("a", 3, 1),
                "a: Too many: 3: must have at most 1 item",
            ),
        ];
        for (error, text) in cases {
            assert_eq!(error.to_string(), text);
        }
    }
}
