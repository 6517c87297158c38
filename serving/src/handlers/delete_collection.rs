//! DELETE of a collection: every selected object by the rules of its own DELETE.

use std::sync::Arc;

use futures::{StreamExt as _, TryStreamExt as _};
use machinery::{
    error::{ApiError, Reason},
    field::FieldError,
    negotiate::Endpoint,
    options::IGNORE_STORE_READ_ERROR,
};

use super::{
    delete,
    list::{self, Page},
    list_body,
    objects::Objects,
    selection::Selection,
};
use crate::{context::Context, encode::Output, exchange::Response, target::Target};

/// Deletes under way at once; they share the store's batches.
const PARALLEL_DELETES: usize = 64;

pub(super) async fn handle(context: &Context, target: &Target) -> Result<Response, ApiError> {
    let output = Output::negotiate(context.headers(), &context.query, Endpoint::List)?;
    let list_options = context.list_options()?;
    let selection = Arc::new(Selection::of(context, target, &list_options)?);
    let options = delete::read_options(context).await?;
    if options.ignore_store_read_error {
        let rule = "is not allowed with DELETECOLLECTION, try again after removing the option";
        let error = FieldError::invalid(IGNORE_STORE_READ_ERROR, true, rule);
        return Err(ApiError::invalid(&target.info().group_kind(), "", &[error]));
    }
    let mut page = list::read_page(target, &selection, &list_options).await?;
    let objects = page.objects.take(usize::MAX).await;
    let removals = objects.iter().map(|stored| async {
        match delete::remove(context, target, &stored.key, &options).await {
            // Somebody else was faster.
            Err(error) if error.reason() == Some(Reason::NotFound) => Ok(()),
            settled => settled.map(drop),
        }
    });
    futures::stream::iter(removals)
        .buffer_unordered(PARALLEL_DELETES)
        .try_collect::<()>()
        .await?;
    let page = Page {
        objects: Objects::listed(objects),
        meta: page.meta,
    };
    Ok(list_body::respond(context, target, output, page).await)
}
