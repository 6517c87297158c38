//! DELETE of one object.

use machinery::{
    codec::{self, protobuf},
    error::{ApiError, Status},
    meta::deletion::{self, DeletePlan},
    negotiate::{self, Endpoint, Format},
    object,
    options::DeleteOptions,
};
use store::Key;

use crate::{
    context::Context,
    encode::{self, Output},
    exchange::Response,
    target::Target,
    write::{self, Next, Outcome},
};

/// The verb that one must be allowed, beside `delete`, to delete what cannot be read.
const UNSAFE_DELETE: &str = "unsafe-delete-ignore-read-errors";

pub(super) async fn handle(context: &Context, target: &Target) -> Result<Response, ApiError> {
    let output = Output::negotiate(context.headers(), &context.query, Endpoint::Object)?;
    let options = read_options(context).await?;
    let key = target.key(&context.info.namespace, &context.info.name);
    if options.ignore_store_read_error {
        context.authorize_also(UNSAFE_DELETE).await?;
        let uid = write::remove_unreadable(context, target, &key).await?;
        let status = Status::deleted(&target.group_resource(), &key.name, &uid.to_string());
        return Ok(encode::status_response(context.headers(), 200, &status));
    }
    match remove(context, target, &key, &options).await? {
        Outcome::Removed(view) => {
            let uid = object::uid(&view.hub()).unwrap_or_default().to_owned();
            let status = Status::deleted(&target.group_resource(), &key.name, &uid);
            Ok(encode::status_response(context.headers(), 200, &status))
        }
        Outcome::Kept(view) => {
            let code = if options.answers_accepted() { 202 } else { 200 };
            Ok(output.object(code, &view, target.version()))
        }
    }
}

/// Options from the body, or from the query when there is none.
pub(super) async fn read_options(context: &Context) -> Result<DeleteOptions, ApiError> {
    let body = context.body().await?;
    if body.is_empty() {
        return DeleteOptions::parse(context.query.pairs());
    }
    match negotiate::body_format(context.content_type())? {
        Format::Protobuf => DeleteOptions::from_object(&protobuf::decode_delete_options(&body)?),
        format => DeleteOptions::from_body(&codec::decode(format, &body)?.value),
    }
}

/// Removes an object, or marks it for its finalizers.
pub(super) async fn remove(
    context: &Context,
    target: &Target,
    key: &Key,
    options: &DeleteOptions,
) -> Result<Outcome, ApiError> {
    write::modify(context, target, key, |current| {
        deletion::check_preconditions(
            &current.hub,
            options,
            target.info().group,
            target.info().kind,
        )?;
        Ok(match deletion::plan(&current.hub, options, write::now()) {
            DeletePlan::Remove => Next::Remove(current.hub.clone()),
            DeletePlan::MarkDeleting(hub) => Next::Put(hub),
            DeletePlan::AlreadyDeleting(_) => Next::Keep,
        })
    })
    .await
}
