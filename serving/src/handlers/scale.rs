//! The `scale` subresource: an autoscaling/v1 Scale over any object that
//! declares where its replicas are.

use machinery::{
    Object, codec,
    error::ApiError,
    field::FieldError,
    meta,
    names::GroupKind,
    negotiate::{self, Endpoint},
    object,
    options::{UpdateOptions, WriteOptions},
    scale::{self, ScalePaths},
};
use serde_json::Value;

use super::{get, patch::Patch};
use crate::{
    context::Context,
    encode::Output,
    exchange::Response,
    target::Target,
    view::View,
    write::{self, Current, Half, Next},
};

pub(super) async fn get(context: &Context, target: &Target) -> Result<Response, ApiError> {
    let output = Output::negotiate(context.headers(), &context.query, Endpoint::Plain)?;
    let stored = get::find(context, target).await?;
    respond(target, output, &stored.view)
}

pub(super) async fn update(context: &Context, target: &Target) -> Result<Response, ApiError> {
    let output = Output::negotiate(context.headers(), &context.query, Endpoint::Plain)?;
    let format = negotiate::body_format(context.content_type())?;
    let body = context.body().await?;
    UpdateOptions::parse_update(context.query.pairs())?;
    let Value::Object(wanted) = codec::decode(format, &body)?.value else {
        return Err(ApiError::bad_request("the body is no Scale"));
    };
    let key = target.key(&context.info.namespace, &context.info.name);
    let outcome = write::modify(context, target, &key, |current| {
        context.check_identity(&wanted)?;
        next(target, current, &wanted)
    })
    .await?;
    respond(target, output, outcome.view())
}

pub(super) async fn patch(context: &Context, target: &Target) -> Result<Response, ApiError> {
    let kind = negotiate::patch_kind(context.content_type())?;
    let output = Output::negotiate(context.headers(), &context.query, Endpoint::Plain)?;
    let body = context.body().await?;
    WriteOptions::parse_patch(context.query.pairs())?;
    let patch = Patch::read(kind, &body)?;
    let key = target.key(&context.info.namespace, &context.info.name);
    let outcome = write::modify(context, target, &key, |current| {
        let wanted = patch.apply(scale::to_scale(&current.hub, paths(target)?))?;
        context.check_identity(&wanted)?;
        next(target, current, &wanted)
    })
    .await?;
    respond(target, output, outcome.view())
}

/// The object with the replicas of a Scale. A Scale without `resourceVersion`
/// is written over whatever is there, as upstream does.
fn next(target: &Target, current: &Current, wanted: &Object) -> Result<Next, ApiError> {
    let paths = paths(target)?;
    let mut hub = current.hub.clone();
    scale::apply_scale(&mut hub, wanted, paths)?;
    let errors = scale::validate(wanted);
    if !errors.is_empty() {
        return Err(invalid_scale(wanted, &errors));
    }
    meta::check_uid(wanted, &current.hub, &target.group_resource())?;
    if let Some(claimed) = object::resource_version(wanted).filter(|claimed| *claimed != "0") {
        object::set_resource_version(&mut hub, claimed);
    }
    write::complete_update(target, Half::Main, current, hub)
}

fn invalid_scale(wanted: &Object, errors: &[FieldError]) -> ApiError {
    let kind = GroupKind::new("autoscaling", scale::KIND);
    ApiError::invalid(&kind, object::name(wanted).unwrap_or_default(), errors)
}

fn respond(target: &Target, output: Output, view: &View) -> Result<Response, ApiError> {
    let scale = scale::to_scale(&view.hub(), paths(target)?);
    Ok(output.document(200, &Value::Object(scale)))
}

fn paths(target: &Target) -> Result<&ScalePaths, ApiError> {
    target
        .info()
        .scale
        .as_ref()
        .ok_or_else(ApiError::generic_not_found)
}
