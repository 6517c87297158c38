//! PUT of one object or of its status, and what a patch has in common with it.

use machinery::{
    Object,
    error::ApiError,
    meta,
    negotiate::{self, Endpoint},
    object,
    options::UpdateOptions,
};

use crate::{
    context::Context,
    decode,
    encode::Output,
    exchange::Response,
    target::Target,
    write::{self, Current, Half, Next},
};

pub(super) async fn handle(
    context: &Context,
    target: &Target,
    half: Half,
) -> Result<Response, ApiError> {
    let output = Output::negotiate(context.headers(), &context.query, Endpoint::Object)?;
    let format = negotiate::body_format(context.content_type())?;
    let body = context.body().await?;
    let options = UpdateOptions::parse_update(context.query.pairs())?;
    let version = target.version();
    let input = decode::decode_object(version, format, &body)?;
    context.judge(options.field_validation, &input.problems, |problems| {
        decode::strict_error(version, problems)
    })?;
    let mut object = input.object;
    context.check_identity(&object)?;
    check_resource_version(&object)?;
    context.dedup_owners(&mut object);
    version.info.schema.apply_defaults(&mut object);
    let key = target.key(&context.info.namespace, &context.info.name);
    let outcome = write::modify(context, target, &key, |current| {
        meta::check_uid(&object, &current.hub, &target.group_resource())?;
        next(target, half, current, object.clone())
    })
    .await?;
    Ok(output.object(200, outcome.view(), version))
}

/// A text that is no revision is the client's mistake, whatever is stored.
fn check_resource_version(object: &Object) -> Result<(), ApiError> {
    object::resource_version(object)
        .map_or(Ok(()), |text| machinery::revision::parse(text).map(|_| ()))
}

/// The next state when a client wrote `object`, in its version's shape, over
/// one half of the current one.
pub(super) fn next(
    target: &Target,
    half: Half,
    current: &Current,
    mut object: Object,
) -> Result<Next, ApiError> {
    let version = target.version();
    let shown = version.shape(current.hub.clone());
    match half {
        Half::Main if target.info().status => meta::retain_status(&mut object, &shown),
        Half::Main => {}
        Half::Status => meta::keep_only_status(&mut object, &shown),
    }
    let mut hub = match &version.info.lens {
        Some(lens) => lens
            .put(&object, &current.hub)
            .map_err(|errors| write::invalid(target, &object, &errors))?,
        None => object,
    };
    target
        .info()
        .storage_version()
        .schema
        .apply_defaults(&mut hub);
    write::complete_update(target, half, current, hub)
}
