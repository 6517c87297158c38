//! GET of a collection.

use std::sync::Arc;

use bytes::Bytes;
use machinery::{
    codec::{self, ListMeta, protobuf},
    error::ApiError,
    negotiate::{Endpoint, Format, MetaVersion},
    options::{ListOptions, ReadMode},
    partial, revision, table,
};
use serde_json::{Value, json};
use store::{Key, Snapshot, Stored};

use super::{get, selection::Selection};
use crate::{
    context::Context,
    encode::Output,
    exchange::{Body, Response},
    target::Target,
    view::{Version, View},
};

pub(super) async fn handle(context: &Context, target: &Target) -> Result<Response, ApiError> {
    let output = Output::negotiate(context.headers(), &context.query, Endpoint::List)?;
    let options = ListOptions::parse(context.query.pairs())?;
    let selection = Selection::of(context, target, &options)?;
    let page = read_page(target, &selection, &options).await?;
    Ok(respond(target.version(), output, &page))
}

/// Objects of one snapshot, in key order.
pub(super) struct Page {
    pub(super) items: Vec<Arc<Stored<View>>>,
    pub(super) meta: ListMeta,
}

/// The objects that a list request asks for.
pub(super) async fn read_page(
    target: &Target,
    selection: &Selection,
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
        ReadMode::Any => 0,
        _ => options.page_size().unwrap_or_default(),
    };
    Ok(cut(&snapshot, selection, after.as_ref(), limit))
}

fn cut(
    snapshot: &Snapshot<View>,
    selection: &Selection,
    after: Option<&Key>,
    limit: usize,
) -> Page {
    let mut meta = ListMeta {
        resource_version: revision::format(snapshot.revision().get()),
        ..ListMeta::default()
    };
    let mut selected = selection.select(snapshot, after);
    if limit == 0 {
        return Page {
            items: selected.map(Arc::clone).collect(),
            meta,
        };
    }
    let items: Vec<_> = selected.by_ref().take(limit).map(Arc::clone).collect();
    let remaining = if selection.is_everything() {
        selected.count()
    } else {
        usize::from(selected.next().is_some())
    };
    if let Some(last) = items.last().filter(|_| remaining > 0) {
        meta.continue_token = Some(
            selection
                .token_after(snapshot.revision(), &last.key)
                .encode(),
        );
        if selection.is_everything() {
            meta.remaining_item_count = i64::try_from(remaining).ok();
        }
    }
    Page { items, meta }
}

/// A page in the agreed representation.
pub(super) fn respond(version: Version<'_>, output: Output, page: &Page) -> Response {
    if let Some(options) = output.table() {
        let objects: Vec<_> = page
            .items
            .iter()
            .map(|stored| stored.view.object(version))
            .collect();
        let mut out = Vec::new();
        table::write_table(&mut out, version.info, &objects, &page.meta, options);
        return Response::new(200, output.content_type(), output.json_or_yaml(out));
    }
    let is_plain_json = output.media.format == Format::Json && !output.media.pretty;
    match (output.partial(), output.media.format) {
        (Some(wanted), Format::Protobuf) => {
            let items: Vec<Bytes> = page
                .items
                .iter()
                .map(|stored| stored.view.partial_protobuf(version.resource))
                .collect();
            let items = items.iter().map(AsRef::as_ref);
            let body = protobuf::partial_object_metadata_list(items, &page.meta, wanted);
            Response::new(200, output.content_type(), body)
        }
        (Some(MetaVersion::V1), _) if is_plain_json => {
            let head = list_head("PartialObjectMetadataList", "meta.k8s.io/v1", &page.meta);
            let items = page
                .items
                .iter()
                .map(|stored| stored.view.partial_json(version.resource));
            chunked(output, head, items)
        }
        (Some(wanted), _) => {
            let objects: Vec<_> = page.items.iter().map(|stored| stored.view.hub()).collect();
            let mut out = Vec::new();
            partial::write_list_json(&mut out, &objects, &page.meta, wanted);
            Response::new(200, output.content_type(), output.json_or_yaml(out))
        }
        (None, _) if is_plain_json => {
            let head = list_head(
                version.resource.list_kind,
                &version.api_version(),
                &page.meta,
            );
            chunked(
                output,
                head,
                page.items.iter().map(|stored| stored.view.json(version)),
            )
        }
        (None, format) => {
            let items: Vec<_> = page
                .items
                .iter()
                .map(|stored| Value::Object(stored.view.object(version)))
                .collect();
            let list = json!({
                "kind": version.resource.list_kind,
                "apiVersion": version.api_version(),
                "metadata": page.meta.to_value(),
                "items": items,
            });
            Response::new(
                200,
                output.content_type(),
                codec::encode(&list, format, output.media.pretty),
            )
        }
    }
}

fn list_head(kind: &str, api_version: &str, meta: &ListMeta) -> Bytes {
    let meta = meta.to_value();
    format!(
        "{{\"kind\":\"{kind}\",\"apiVersion\":\"{api_version}\",\"metadata\":{meta},\"items\":["
    )
    .into()
}

/// A list as pieces: the objects' bytes are those of the cache, not copies.
fn chunked(output: Output, head: Bytes, items: impl ExactSizeIterator<Item = Bytes>) -> Response {
    let mut chunks = Vec::with_capacity(items.len() * 2 + 2);
    chunks.push(head);
    for (place, item) in items.enumerate() {
        if place > 0 {
            chunks.push(Bytes::from_static(b","));
        }
        chunks.push(item);
    }
    chunks.push(Bytes::from_static(b"]}"));
    let mut response = Response::new(200, output.content_type(), Bytes::new());
    response.body = Body::Chunks(chunks);
    response
}
