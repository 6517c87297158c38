//! Watch events as bytes, in the representation that one client asked for.

mod recent;

use bytes::Bytes;
use machinery::{
    Object,
    codec::{ListMeta, protobuf},
    error::ApiError,
    negotiate::{Format, MetaVersion},
    object, partial, revision, table,
};
use serde_json::{Value, json};
use store::Revision;

use crate::{encode::Output, target::Target, view::View};

/// Marks the bookmark that ends the initial events of a streaming list.
const INITIAL_EVENTS_END: &str = "k8s.io/initial-events-end";

/// Encodes events one after the other into a buffer.
pub(crate) struct Frames {
    target: Target,
    output: Output,
    buffer: Vec<u8>,
    /// All there is, while it is one event: its bytes are shared with other watchers.
    shared: Option<Bytes>,
    count: u64,
    /// Only the first Table of a watch describes its columns.
    columns_sent: bool,
}

impl Frames {
    pub(crate) fn new(target: Target, output: Output) -> Self {
        Self {
            target,
            output,
            buffer: Vec::new(),
            shared: None,
            count: 0,
            columns_sent: false,
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(crate) fn len(&self) -> usize {
        self.buffer.len() + self.shared.as_ref().map_or(0, Bytes::len)
    }

    /// Events in the buffer.
    pub(crate) fn count(&self) -> u64 {
        self.count
    }

    /// The buffer's bytes; the next event starts a new one.
    pub(crate) fn take(&mut self) -> Bytes {
        self.count = 0;
        match self.shared.take() {
            Some(shared) => shared,
            None => std::mem::take(&mut self.buffer).into(),
        }
    }

    /// An event about an object that only this watcher is told now: what is encoded for it is not
    /// kept, so that a streaming list of everything does not double what the cache holds.
    pub(crate) fn push_once(&mut self, kind: &'static str, view: &View) {
        let target = self.target.clone();
        let version = target.version();
        match (self.output.table(), self.output.partial()) {
            (Some(_), _) => self.push(kind, view),
            (None, None) => {
                self.count += 1;
                self.open(kind);
                view.write_json(self.buffer(), version);
                self.close();
            }
            (None, Some(wanted)) if self.output.media.format == Format::Protobuf => {
                self.count += 1;
                let envelope = protobuf::enveloped_partial(&view.partial_protobuf(), wanted);
                let frame = protobuf::watch_frame(kind, &envelope);
                self.buffer().extend_from_slice(&frame);
            }
            (None, Some(wanted)) => {
                self.count += 1;
                self.open(kind);
                partial::write_raw(self.buffer(), view.metadata_json(), wanted);
                self.close();
            }
        }
    }

    /// An event about an object.
    pub(crate) fn push(&mut self, kind: &'static str, view: &View) {
        self.count += 1;
        let target = self.target.clone();
        let version = target.version();
        if self.output.table().is_some() {
            self.push_row(kind, &view.object(version));
            return;
        }
        match (self.output.partial(), self.output.media.format) {
            (Some(MetaVersion::V1), Format::Protobuf) => {
                let envelope = view.partial_envelope(version.resource);
                self.buffer()
                    .extend_from_slice(&protobuf::watch_frame(kind, &envelope));
            }
            (Some(MetaVersion::V1), _) => {
                self.push_shared(kind, &view.partial_json(version.resource));
            }
            (Some(_), _) => self.push_partial(kind, &view.hub()),
            (None, _) => self.push_shared(kind, &view.json(version)),
        }
    }

    fn push_shared(&mut self, kind: &'static str, object: &Bytes) {
        if self.is_empty() {
            self.shared = recent::frame(kind, object, || {
                let mut frame = Vec::with_capacity(object.len() + FRAME);
                write_json(&mut frame, kind, object);
                frame.into()
            });
            if self.shared.is_some() {
                return;
            }
        }
        self.push_json(kind, object);
    }

    /// A bookmark: nothing but a revision from which a watch can go on.
    pub(crate) fn push_bookmark(&mut self, revision: Revision, ends_initial_events: bool) {
        self.count += 1;
        let resource_version = revision::format(revision.get());
        let metadata = if ends_initial_events {
            let annotations = json!({ INITIAL_EVENTS_END: "true" });
            json!({ "resourceVersion": resource_version, "annotations": annotations })
        } else {
            json!({ "resourceVersion": resource_version })
        };
        let mut bookmark = Object::new();
        let version = self.target.version();
        object::set_type(&mut bookmark, &version.api_version(), version.resource.kind);
        bookmark.insert("metadata".to_owned(), metadata);
        if self.output.table().is_some() {
            self.push_row("BOOKMARK", &bookmark);
        } else if self.output.partial().is_some() {
            self.push_partial("BOOKMARK", &bookmark);
        } else {
            self.push_json("BOOKMARK", Value::Object(bookmark).to_string().as_bytes());
        }
    }

    /// The event that tells why a watch ends.
    pub(crate) fn push_error(&mut self, error: ApiError) {
        self.count += 1;
        let status = error.into_status();
        if self.output.media.format == Format::Protobuf {
            let frame = protobuf::watch_frame("ERROR", &protobuf::status(&status));
            self.buffer().extend_from_slice(&frame);
        } else {
            self.push_json("ERROR", &serde_json::to_vec(&status).unwrap_or_default());
        }
    }

    fn push_json(&mut self, kind: &str, object: &[u8]) {
        write_json(self.buffer(), kind, object);
    }

    /// What is in so far, to be added to.
    fn buffer(&mut self) -> &mut Vec<u8> {
        if let Some(shared) = self.shared.take() {
            self.buffer.extend_from_slice(&shared);
        }
        &mut self.buffer
    }

    fn push_partial(&mut self, kind: &str, object: &Object) {
        let version = self.output.partial().unwrap_or(MetaVersion::V1);
        if self.output.media.format == Format::Protobuf {
            let envelope = protobuf::partial_object_metadata(object, version);
            self.buffer()
                .extend_from_slice(&protobuf::watch_frame(kind, &envelope));
        } else {
            self.open(kind);
            partial::write_json(&mut self.buffer, object, version);
            self.close();
        }
    }

    /// A Table of one row.
    fn push_row(&mut self, kind: &str, shown: &Object) {
        let Some(options) = self.output.table() else {
            return;
        };
        let resource_version = object::resource_version(shown)
            .unwrap_or_default()
            .to_owned();
        let meta = ListMeta {
            resource_version,
            ..ListMeta::default()
        };
        self.open(kind);
        let version = self.target.version();
        table::write_head(
            &mut self.buffer,
            version.info,
            &meta,
            options,
            !self.columns_sent,
        );
        table::write_row(
            &mut self.buffer,
            version.info,
            shown,
            options,
            Output::now(),
        );
        self.buffer.extend_from_slice(b"]}");
        self.close();
        self.columns_sent = true;
    }

    fn open(&mut self, kind: &str) {
        open(self.buffer(), kind);
    }

    fn close(&mut self) {
        self.buffer.extend_from_slice(CLOSE);
    }
}

const OPEN: &[u8] = b"{\"type\":\"";
const MIDDLE: &[u8] = b"\",\"object\":";
const CLOSE: &[u8] = b"}\n";
/// What a frame has beside the object, with room for the longest kind.
const FRAME: usize = OPEN.len() + MIDDLE.len() + CLOSE.len() + 8;

fn open(buffer: &mut Vec<u8>, kind: &str) {
    buffer.extend_from_slice(OPEN);
    buffer.extend_from_slice(kind.as_bytes());
    buffer.extend_from_slice(MIDDLE);
}

fn write_json(buffer: &mut Vec<u8>, kind: &str, object: &[u8]) {
    open(buffer, kind);
    buffer.extend_from_slice(object);
    buffer.extend_from_slice(CLOSE);
}
