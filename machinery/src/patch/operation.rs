//! A JSON patch as its author wrote it.

use serde_json::Value;

use super::apply;
use crate::codec;
use crate::error::ApiError;
use crate::object::Object;

/// The most operations that a patch may have.
const MAX_OPERATIONS: usize = 10_000;

/// A JSON patch, read once. Whether its operations make sense shows when it is applied.
#[derive(Debug, Clone, PartialEq)]
pub struct JsonPatch {
    operations: Vec<Operation>,
    problems: Vec<String>,
}

/// One operation; absent members are `None`.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Operation {
    pub(super) kind: Option<String>,
    pub(super) path: Option<String>,
    pub(super) from: Option<String>,
    pub(super) value: Value,
}

impl JsonPatch {
    /// Reads a patch.
    ///
    /// # Errors
    /// 400 if it is no list of objects with text where text is due, 413 for too many operations.
    pub fn parse(patch: &[u8]) -> Result<Self, ApiError> {
        let decoded = codec::json::decode(patch)?;
        let items = match decoded.value {
            Value::Null => vec![],
            Value::Array(items) => items,
            other => {
                return Err(ApiError::bad_request(format!(
                    "error decoding patch: json: cannot unmarshal {} into Go value of type \
                     []handlers.jsonPatchOp",
                    name_of(&other)
                )));
            }
        };
        if items.len() > MAX_OPERATIONS {
            return Err(ApiError::request_entity_too_large(&format!(
                "The allowed maximum operations in a JSON patch is {MAX_OPERATIONS}, got {}",
                items.len()
            )));
        }
        let mut problems: Vec<String> = decoded
            .duplicates
            .iter()
            .map(|path| format!("json patch duplicate field \"{path}\""))
            .collect();
        let operations = items
            .into_iter()
            .enumerate()
            .map(|(index, item)| read(index, item, &mut problems))
            .collect::<Result<_, _>>()?;
        Ok(Self {
            operations,
            problems,
        })
    }

    /// Applies the operations in order. After an error the document is in no particular state.
    ///
    /// # Errors
    /// 422 if an operation does not apply; what failed is for the log.
    pub fn apply(&self, document: &mut Value) -> Result<(), ApiError> {
        apply::apply(document, &self.operations).map_err(|problem| {
            ApiError::unprocessable(
                "the server rejected our request due to an error in our request",
            )
            .with_internal(problem)
        })
    }

    /// What strict validation reports about the patch itself.
    #[must_use]
    pub fn strict_problems(&self) -> &[String] {
        &self.problems
    }
}

fn read(index: usize, item: Value, problems: &mut Vec<String>) -> Result<Operation, ApiError> {
    let members = match item {
        Value::Object(members) => members,
        Value::Null => Object::new(),
        other => {
            return Err(ApiError::bad_request(format!(
                "error decoding patch: json: cannot unmarshal {} into Go value of type \
                 handlers.jsonPatchOp",
                name_of(&other)
            )));
        }
    };
    let mut operation = Operation {
        kind: None,
        path: None,
        from: None,
        value: Value::Null,
    };
    for (member, value) in members {
        match member.as_str() {
            "op" => operation.kind = text("op", value)?,
            "path" => operation.path = text("path", value)?,
            "from" => operation.from = text("from", value)?,
            "value" => operation.value = value,
            _ => problems.push(format!("json patch unknown field \"[{index}].{member}\"")),
        }
    }
    Ok(operation)
}

fn text(member: &str, value: Value) -> Result<Option<String>, ApiError> {
    match value {
        Value::String(text) => Ok(Some(text)),
        Value::Null => Ok(None),
        other => Err(ApiError::bad_request(format!(
            "error decoding patch: json: cannot unmarshal {} into Go struct field \
             jsonPatchOp.{member} of type string",
            name_of(&other)
        ))),
    }
}

fn name_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}
