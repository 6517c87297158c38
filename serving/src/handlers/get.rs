//! GET of one object, also through its `status` subresource.

use std::{sync::Arc, time::Duration};

use machinery::{
    error::ApiError,
    negotiate::Endpoint,
    options::{GetOptions, ReadMode},
};
use store::{Revision, Snapshot, Stored};

use crate::{
    context::Context, encode::Output, exchange::Response, store_errors, target::Target, view::View,
};

/// How long a read waits for a revision that is not there yet.
pub(super) const FRESHNESS_WAIT: Duration = Duration::from_secs(3);

pub(super) async fn handle(context: &Context, target: &Target) -> Result<Response, ApiError> {
    let output = Output::negotiate(context.headers(), &context.query, Endpoint::Object)?;
    let stored = find(context, target).await?;
    Ok(output.object(200, &stored.view, target.version()))
}

/// The object of the URL, as fresh as the request wants it.
pub(super) async fn find(
    context: &Context,
    target: &Target,
) -> Result<Arc<Stored<View>>, ApiError> {
    let options = GetOptions::parse(context.query.pairs())?;
    let snapshot = read(target, &options.read_mode()?).await?;
    let name = context.info.name.as_str();
    let key = target.key(&context.info.namespace, name);
    let stored = snapshot.get(&key).map(Arc::clone);
    let stored = stored.ok_or_else(|| ApiError::not_found(&target.group_resource(), name))?;
    if stored.view.is_readable() {
        Ok(stored)
    } else {
        Err(ApiError::store_read_error(&target.group_resource(), name))
    }
}

/// A snapshot as a read's `resourceVersion` demands it.
pub(super) async fn read(target: &Target, mode: &ReadMode) -> Result<Snapshot<View>, ApiError> {
    let collection = &target.entry.collection;
    match mode {
        ReadMode::Consistent => collection
            .consistent()
            .await
            .map_err(|error| store_errors::of_read(error, None)),
        ReadMode::Any => Ok(collection.snapshot()),
        ReadMode::NotOlderThan(revision) => {
            let revision = Revision::new(*revision);
            let read = collection.at_least(revision, FRESHNESS_WAIT).await;
            read.map_err(|error| store_errors::of_read(error, Some(revision)))
        }
        ReadMode::Exact(revision) => at(target, Revision::new(*revision)).await,
        ReadMode::Continue(token) => match token.revision {
            Some(revision) => at(target, Revision::new(revision)).await,
            None => collection
                .consistent()
                .await
                .map_err(|error| store_errors::of_read(error, None)),
        },
    }
}

/// Exactly a past state; a future one is waited for a little.
async fn at(target: &Target, revision: Revision) -> Result<Snapshot<View>, ApiError> {
    let read = target.entry.collection.at(revision).await;
    read.map_err(|error| store_errors::of_read(error, Some(revision)))
}
