//! POST to a collection.

use machinery::{
    Object,
    error::{ApiError, Reason},
    meta::{self, CreateContext},
    negotiate::{self, Endpoint},
    object,
    options::CreateOptions,
};
use uuid::Uuid;

use crate::{
    context::Context, decode, encode::Output, exchange::Response, target::Target, view::View, write,
};

/// How many names are tried before a generated one is given up.
const NAME_ATTEMPTS: usize = 8;

pub(super) async fn handle(context: &Context, target: &Target) -> Result<Response, ApiError> {
    let output = Output::negotiate(context.headers(), &context.query, Endpoint::Object)?;
    let format = negotiate::body_format(context.content_type())?;
    let body = context.body().await?;
    let options = CreateOptions::parse_create(context.query.pairs())?;
    let version = target.version();
    let input = decode::decode_object(version, format, &body)?;
    context.judge(options.field_validation, &input.problems, |problems| {
        decode::strict_error(version, problems)
    })?;
    let mut object = input.object;
    let name = object::name(&object).unwrap_or_default();
    context
        .check_namespace(&target.group_resource(), name)
        .await?;
    context.dedup_owners(&mut object);
    version.info.schema.apply_defaults(&mut object);
    let view = store_new(context, target, object).await?;
    Ok(output.object(201, &view, version))
}

/// Tries generated names until one is free; a given name is tried once.
async fn store_new(context: &Context, target: &Target, object: Object) -> Result<View, ApiError> {
    let generate_from = match object::name(&object) {
        Some(_) => None,
        None => object::generate_name(&object).map(ToOwned::to_owned),
    };
    let Some(base) = generate_from else {
        return write::create(context, target, complete(context, target, object)?).await;
    };
    let mut name = String::new();
    for _ in 0..NAME_ATTEMPTS {
        name = meta::generate_name(&base, (context.api.name_source)());
        let mut named = object.clone();
        object::set_name(&mut named, &name);
        match write::create(context, target, complete(context, target, named)?).await {
            Err(error) if error.reason() == Some(Reason::AlreadyExists) => {}
            settled => return settled,
        }
    }
    Err(ApiError::generate_name_conflict(
        &target.group_resource(),
        &name,
    ))
}

/// Conversion, server-owned metadata, hooks and validation.
fn complete(context: &Context, target: &Target, object: Object) -> Result<Object, ApiError> {
    let info = target.info();
    let mut hub = match &target.version().info.lens {
        Some(lens) => lens
            .create(&object)
            .map_err(|errors| write::invalid(target, &object, &errors))?,
        None => object,
    };
    if info.status {
        meta::reset_status(&mut hub);
    }
    let namespace = info
        .is_namespaced()
        .then_some(context.info.namespace.as_str());
    let uid = Uuid::new_v4().to_string();
    meta::prepare_create(
        &mut hub,
        &CreateContext {
            namespace,
            uid: &uid,
            now: write::now(),
        },
    )?;
    let resource = &target.entry.resource;
    resource.prepare_create(&mut hub);
    let schema = &info.storage_version().schema;
    schema.apply_defaults(&mut hub);
    let mut errors = meta::validate_metadata(&hub, info.is_namespaced());
    errors.extend(schema.validate(&hub));
    errors.extend(resource.validate(&hub));
    write::refuse_invalid(target, &hub, errors)?;
    Ok(hub)
}
