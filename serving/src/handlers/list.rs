//! GET of a collection.

use std::sync::Arc;

use machinery::{
    codec::ListMeta,
    error::ApiError,
    negotiate::Endpoint,
    options::{ListOptions, ReadMode},
    revision,
};
use store::{Key, Snapshot};

use super::{get, list_body, objects::Objects, selection::Selection};
use crate::{context::Context, encode::Output, exchange::Response, target::Target, view::View};

pub(super) async fn handle(context: &Context, target: &Target) -> Result<Response, ApiError> {
    let output = Output::negotiate(context.headers(), &context.query, Endpoint::List)?;
    let options = context.list_options()?;
    let selection = Arc::new(Selection::of(context, target, &options)?);
    let page = read_page(target, &selection, &options).await?;
    Ok(list_body::respond(context, target, output, page).await)
}

/// Objects of one snapshot, in key order.
pub(super) struct Page {
    pub(super) objects: Objects,
    pub(super) meta: ListMeta,
}

/// The objects that a list request asks for.
pub(super) async fn read_page(
    target: &Target,
    selection: &Arc<Selection>,
    options: &ListOptions,
) -> Result<Page, ApiError> {
    let mode = options.read_mode()?;
    let (snapshot, after) = match &mode {
        ReadMode::Continue(token) => {
            let read = get::read(target, &mode).await;
            let read = read.map_err(|error| {
                if error.code() == 410 {
                    token.expired()
                } else {
                    error
                }
            });
            (read?, Some(selection.start_of(token)))
        }
        mode => (get::read(target, mode).await?, None),
    };
    // Upstream's watch cache answers `resourceVersion=0` whole.
    let limit = match mode {
        ReadMode::Any => None,
        _ => options.page_size(),
    };
    Ok(cut(snapshot, selection, after, limit).await)
}

async fn cut(
    snapshot: Snapshot<View>,
    selection: &Arc<Selection>,
    after: Option<Key>,
    limit: Option<usize>,
) -> Page {
    let revision = snapshot.revision();
    let mut meta = ListMeta {
        resource_version: revision::format(revision.get()),
        shard_selector: selection.shard(),
        ..ListMeta::default()
    };
    let mut objects = Objects::selected(selection, snapshot, after);
    let Some(limit) = limit else {
        return Page { objects, meta };
    };
    // One more tells whether there is a next page.
    let mut taken = objects.take(limit.saturating_add(1)).await;
    if taken.len() > limit {
        taken.truncate(limit);
        if let Some(last) = taken.last() {
            meta.continue_token = Some(selection.token_after(revision, &last.key).encode());
        }
        if selection.is_everything()
            && let Some(last) = taken.last()
        {
            let rest = objects.count_after(&last.key).await;
            meta.remaining_item_count = i64::try_from(rest).ok();
        }
    }
    let objects = Objects::listed(taken);
    Page { objects, meta }
}
