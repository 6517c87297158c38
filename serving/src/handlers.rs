//! One file a verb. A handler is called when the request is authenticated and
//! authorised, and answers with a complete response or an error.

mod create;
mod delete;
mod delete_collection;
mod get;
mod history;
mod list;
mod list_body;
mod objects;
mod patch;
mod scale;
mod selection;
mod update;
mod watch;

use machinery::error::ApiError;

use crate::{context::Context, exchange::Response, target::Target, write::Half};

/// Runs the handler that serves a request's verb on its target.
///
/// # Errors
///
/// What the handler says; 404 and 405 when no handler is there.
pub async fn dispatch(context: &Context, target: &Target) -> Result<Response, ApiError> {
    let info = &context.info;
    check_shape(context, target)?;
    match (
        info.subresource.as_str(),
        info.verb.as_str(),
        info.named_by_path,
    ) {
        ("", "create", false) => create::handle(context, target).await,
        ("", "list", false) => list::handle(context, target).await,
        ("", "watch", _) => watch::handle(context, target).await,
        ("", "deletecollection", false) => delete_collection::handle(context, target).await,
        ("", "get", true) | ("status", "get", true) => get::handle(context, target).await,
        ("", "update", true) => update::handle(context, target, Half::Main).await,
        ("", "patch", true) => patch::handle(context, target, Half::Main).await,
        ("", "delete", true) => delete::handle(context, target).await,
        ("status", "update", true) => update::handle(context, target, Half::Status).await,
        ("status", "patch", true) => patch::handle(context, target, Half::Status).await,
        ("history", "get", true) => history::handle(context, target).await,
        ("scale", "get", true) => scale::get(context, target).await,
        ("scale", "update", true) => scale::update(context, target).await,
        ("scale", "patch", true) => scale::patch(context, target).await,
        _ => Err(ApiError::method_not_supported(
            &target.group_resource(),
            &info.verb,
        )),
    }
}

/// Refuses paths that the resource does not have, and methods that the path
/// does not know.
fn check_shape(context: &Context, target: &Target) -> Result<(), ApiError> {
    let info = &context.info;
    let resource = target.info();
    let has_subresource = match info.subresource.as_str() {
        "" => true,
        "status" => resource.status,
        "scale" => resource.scale.is_some(),
        "history" => resource.history,
        _ => false,
    };
    let is_namespace_odd =
        matches!(info.namespace.as_str(), "." | "..") || info.namespace.contains('%');
    if info.has_surplus_segments || !has_subresource || is_namespace_odd {
        return Err(ApiError::generic_not_found());
    }
    if !resource.is_namespaced() && !info.namespace.is_empty() {
        return Err(ApiError::generic_not_found());
    }
    if let Some(message) = info.invalid_segment() {
        return Err(ApiError::bad_request(message));
    }
    let spans_namespaces = resource.is_namespaced() && info.namespace.is_empty();
    match info.verb.as_str() {
        _ if info.is_method_odd => Err(ApiError::method_not_supported(
            &target.group_resource(),
            &info.verb,
        )),
        _ if spans_namespaces && info.named_by_path => Err(ApiError::generic_not_found()),
        "list" | "watch" => Ok(()),
        _ if spans_namespaces => Err(ApiError::method_not_supported(
            &target.group_resource(),
            &info.verb,
        )),
        _ => Ok(()),
    }
}
