//! PATCH of one object or of its status, by JSON patch or merge patch.

use machinery::{
    Object,
    error::ApiError,
    negotiate::{self, Endpoint, PatchKind},
    options::WriteOptions,
    patch::{self, JsonPatch, MergePatch},
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
        let mut patched = patch.apply(shown)?;
        decode::check_kind(version, &mut patched)?;
        decode::check_types(version, &patched).map_err(|error| {
            patch::undecodable(&Value::Object(patched.clone()), &error.to_string())
        })?;
        let mut problems = decode::prune(version, &mut patched);
        problems.extend(patch.problems());
        context.judge(options.field_validation, &problems, |problems| {
            patch::undecodable(
                &Value::Object(patched.clone()),
                &decode::strict_text(problems),
            )
        })?;
        context.check_identity(&patched)?;
        context.dedup_owners(&mut patched);
        version.info.schema.apply_defaults(&mut patched);
        update::next(target, half, current, patched)
    })
    .await?;
    Ok(output.object(200, outcome.view(), version))
}

/// A patch that has been read once and may be applied several times.
pub(super) enum Patch {
    Json(JsonPatch),
    Merge(MergePatch),
}

impl Patch {
    /// Reads a patch document.
    pub(super) fn read(kind: PatchKind, body: &[u8]) -> Result<Self, ApiError> {
        Ok(match kind {
            PatchKind::Json => Self::Json(JsonPatch::parse(body)?),
            PatchKind::Merge => Self::Merge(MergePatch::parse(body)?),
        })
    }

    /// The object after the patch.
    pub(super) fn apply(&self, object: Object) -> Result<Object, ApiError> {
        let mut value = Value::Object(object);
        match self {
            Self::Json(patch) => patch.apply(&mut value)?,
            Self::Merge(patch) => patch.apply(&mut value),
        }
        match value {
            Value::Object(object) => Ok(object),
            other => Err(patch::undecodable(&other, "the patch leaves no object")),
        }
    }

    /// What a strict reader minds in the patch itself.
    fn problems(&self) -> Vec<String> {
        match self {
            Self::Json(patch) => patch.strict_problems().to_vec(),
            Self::Merge(patch) => patch.strict_problems(),
        }
    }
}
