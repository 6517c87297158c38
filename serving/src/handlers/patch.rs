//! PATCH of one object or of its status, by JSON patch or merge patch.

use machinery::{
    Object,
    codec::json,
    error::ApiError,
    field::FieldError,
    names::GroupKind,
    negotiate::{self, Endpoint, PatchKind},
    options::WriteOptions,
    patch,
};
use serde_json::Value;

use super::update;
use crate::{
    context::Context,
    decode,
    encode::Output,
    exchange::Response,
    target::Target,
    write::{self, Half},
};

pub(super) async fn handle(
    context: &Context,
    target: &Target,
    half: Half,
) -> Result<Response, ApiError> {
    let kind = negotiate::patch_kind(context.content_type())?;
    let output = Output::negotiate(context.headers(), &context.query, Endpoint::Object)?;
    let body = context.body().await?;
    let options = WriteOptions::parse_patch(context.query.pairs())?;
    let patch = Patch::read(kind, &body)?;
    let version = target.version();
    let key = target.key(&context.info.namespace, &context.info.name);
    let outcome = write::modify(context, target, &key, |current| {
        let shown = version.shape(current.hub.clone());
        let patched = patch.apply(shown)?;
        let mut input = decode::check_object(version, patched)?;
        input.problems.extend(patch.duplicates.iter().cloned());
        context.judge(options.field_validation, &input.problems, |problems| {
            patch.strict_error(problems)
        })?;
        context.check_identity(&input.object)?;
        version.info.schema.apply_defaults(&mut input.object);
        update::next(target, half, current, input.object)
    })
    .await?;
    Ok(output.object(200, outcome.view(), version))
}

/// A patch that has been read once and may be applied several times.
pub(super) struct Patch {
    text: String,
    merge: Option<Value>,
    duplicates: Vec<String>,
}

impl Patch {
    /// Reads a patch document.
    pub(super) fn read(kind: PatchKind, body: &[u8]) -> Result<Self, ApiError> {
        let text = String::from_utf8_lossy(body).into_owned();
        if kind == PatchKind::Json {
            return Ok(Self {
                text,
                merge: None,
                duplicates: Vec::new(),
            });
        }
        let decoded = json::decode(body)?;
        if !decoded.value.is_object() {
            return Err(ApiError::bad_request("a merge patch must be a JSON object"));
        }
        let duplicates = decoded
            .duplicates
            .iter()
            .map(|path| format!("duplicate field {path:?}"))
            .collect();
        Ok(Self {
            text,
            merge: Some(decoded.value),
            duplicates,
        })
    }

    /// The object after the patch.
    pub(super) fn apply(&self, object: Object) -> Result<Object, ApiError> {
        let mut value = Value::Object(object);
        match &self.merge {
            Some(merge) => patch::merge_patch(&mut value, merge.clone()),
            None => patch::json_patch(&mut value, self.text.as_bytes())?,
        }
        match value {
            Value::Object(object) => Ok(object),
            _ => Err(ApiError::unprocessable("the patch leaves no object")),
        }
    }

    /// Strict field validation speaks of the patch as one invalid value.
    fn strict_error(&self, problems: &[String]) -> ApiError {
        let error = FieldError::invalid("patch", self.text.as_str(), decode::strict_text(problems));
        ApiError::invalid(&GroupKind::new("", ""), "", &[error])
    }
}
