//! The `history` subresource: who wrote an object, also of one that is gone.

use jiff::Timestamp;
use machinery::{
    codec::ListMeta,
    continue_token::ContinueToken,
    error::ApiError,
    history::{self, Change, Item},
    negotiate::Endpoint,
    options::PageOptions,
    revision,
};
use store::{EventKind, Recorded, Revision};

use crate::{context::Context, encode::Output, exchange::Response, store_errors, target::Target};

pub(super) async fn handle(context: &Context, target: &Target) -> Result<Response, ApiError> {
    let output = Output::negotiate(context.headers(), &context.query, Endpoint::Rows)?;
    let options = PageOptions::parse(context.query.pairs())?;
    let token = options.token()?;
    let before = token.as_ref().map(written_before).transpose()?;
    let most = options
        .limit
        .map_or(history::MAX_ITEMS, |limit| limit.min(history::MAX_ITEMS));
    let name = context.info.name.as_str();
    let key = target.key(&context.info.namespace, name);
    let collection = &target.entry.collection;
    let unavailable = |error| store_errors::of_read(error, None);
    let snapshot = collection.consistent().await.map_err(unavailable)?;
    // One more tells whether there is a next page.
    let recorded = collection.recorded(&snapshot, &key, before, most.saturating_add(1));
    let recorded = recorded.await.map_err(unavailable)?;
    if recorded.is_empty() && before.is_none() && snapshot.get(&key).is_none() {
        return Err(ApiError::not_found(&target.group_resource(), name));
    }
    let listed_at = token.and_then(|token| token.revision);
    let listed_at = listed_at.unwrap_or(snapshot.revision().get());
    let mut meta = ListMeta {
        resource_version: revision::format(listed_at),
        ..ListMeta::default()
    };
    let items: Vec<Item> = recorded.iter().take(most).map(item).collect();
    if recorded.len() > most
        && let Some(last) = items.last()
    {
        let next = ContinueToken::after(listed_at, None, &last.resource_version);
        meta.continue_token = Some(next.encode());
    }
    let document = match output.table() {
        Some(options) => history::table(&meta, &items, options, Output::now()),
        None => history::document(target.info(), target.version().info.name, &meta, &items),
    };
    Ok(output.document(200, &document))
}

/// The write that a page goes on below.
fn written_before(token: &ContinueToken) -> Result<Revision, ApiError> {
    revision::parse(token.start_in_one())
        .map(Revision::new)
        .map_err(|_| ApiError::bad_request("invalid continue token: it is of no history"))
}

fn item(recorded: &Recorded) -> Item {
    let provenance = recorded.provenance.clone();
    Item {
        resource_version: revision::format(recorded.revision.get()),
        time: Timestamp::try_from(recorded.at).unwrap_or(Timestamp::UNIX_EPOCH),
        change: match recorded.kind {
            EventKind::Added => Change::Added,
            EventKind::Modified => Change::Modified,
            EventKind::Deleted => Change::Deleted,
        },
        uid: recorded.uid.to_string(),
        user: provenance.user,
        verb: provenance.verb,
        field_manager: provenance.manager,
        audit_id: provenance.audit_id,
    }
}
