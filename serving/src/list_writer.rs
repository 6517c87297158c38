//! A list piece by piece, in the representation that one client asked for: what comes before its
//! items, each of them, and what comes after.
//!
//! The pieces together are what encoding the whole list would give.

use jiff::Timestamp;
use machinery::{
    codec::{self, ListMeta, protobuf},
    negotiate::{Format, MetaVersion},
    partial,
    table::{self, TableOptions},
};
use serde_json::Value;

use crate::{
    encode::Output,
    target::Target,
    view::{Version, View},
};

/// Stands for the items while what surrounds them is encoded. No other text of a list holds it.
const ITEMS: &str = "x3c1d7f9e5b8a4206items";

/// Writes one list.
pub(crate) struct ListWriter {
    output: Output,
    shape: Shape,
    meta: ListMeta,
    /// Of every age in a Table.
    now: Timestamp,
    layout: Layout,
    has_items: bool,
    scratch: Vec<u8>,
}

enum Shape {
    Objects,
    Partial(MetaVersion),
    Rows(TableOptions),
}

/// What surrounds items in this format.
enum Layout {
    /// Compact JSON.
    Plain { head: Vec<u8>, tail: &'static [u8] },
    /// Indented JSON or YAML.
    Spaced {
        head: Vec<u8>,
        tail: Vec<u8>,
        separator: &'static [u8],
        /// What a new line within an item begins with.
        indent: String,
        /// The whole list when it has no items.
        empty: Vec<u8>,
    },
    /// Protobuf, whose head tells the length of all items.
    Framed { length: usize },
}

impl ListWriter {
    pub(crate) fn new(target: &Target, output: Output, meta: ListMeta) -> Self {
        let shape = match (output.table(), output.partial()) {
            (Some(options), _) => Shape::Rows(options),
            (None, Some(version)) => Shape::Partial(version),
            (None, None) => Shape::Objects,
        };
        let version = target.version();
        let layout = match output.media.format {
            Format::Protobuf => Layout::Framed { length: 0 },
            Format::Json if !output.media.pretty => plain(&shape, version, &meta),
            Format::Json | Format::Yaml => spaced(&shape, version, &meta, output),
        };
        Self {
            output,
            shape,
            meta,
            now: Output::now(),
            layout,
            has_items: false,
            scratch: Vec::new(),
        }
    }

    /// Whether the head can be written only when the length of all items is known.
    pub(crate) fn needs_length(&self) -> bool {
        matches!(self.layout, Layout::Framed { .. })
    }

    /// Tells the length of all items together.
    pub(crate) fn set_length(&mut self, known: usize) {
        if let Layout::Framed { length } = &mut self.layout {
            *length = known;
        }
    }

    /// What comes before the items, as far as it is the same without any.
    pub(crate) fn begin(&mut self, out: &mut Vec<u8>) {
        self.has_items = false;
        match &self.layout {
            Layout::Plain { head, .. } => out.extend_from_slice(head),
            Layout::Spaced { .. } => {}
            Layout::Framed { length } => out.extend_from_slice(&self.frame(*length).0),
        }
    }

    /// One item.
    pub(crate) fn push(&mut self, out: &mut Vec<u8>, version: Version<'_>, view: &View) {
        let mut scratch = std::mem::take(&mut self.scratch);
        match &self.layout {
            Layout::Framed { .. } => {
                let message = view.partial_protobuf();
                out.extend_from_slice(&protobuf::list_item(&message));
            }
            Layout::Plain { .. } => {
                if self.has_items {
                    out.push(b',');
                }
                write_item(out, &self.shape, self.now, (version, view));
            }
            Layout::Spaced {
                head,
                separator,
                indent,
                ..
            } => {
                out.extend_from_slice(if self.has_items { separator } else { head });
                scratch.clear();
                write_item(&mut scratch, &self.shape, self.now, (version, view));
                let item: Value = serde_json::from_slice(&scratch).unwrap_or_default();
                self.push_spaced(out, &item, indent);
            }
        }
        self.scratch = scratch;
        self.has_items = true;
    }

    /// What comes after the items.
    pub(crate) fn end(&mut self, out: &mut Vec<u8>) {
        match &self.layout {
            Layout::Plain { tail, .. } => out.extend_from_slice(tail),
            Layout::Spaced { tail, .. } if self.has_items => out.extend_from_slice(tail),
            Layout::Spaced { empty, .. } => out.extend_from_slice(empty),
            Layout::Framed { length } => out.extend_from_slice(&self.frame(*length).1),
        }
    }

    fn frame(&self, length: usize) -> (Vec<u8>, Vec<u8>) {
        let version = self.output.partial().unwrap_or(MetaVersion::V1);
        protobuf::partial_list_frame(&self.meta, version, length)
    }

    fn push_spaced(&self, out: &mut Vec<u8>, item: &Value, indent: &str) {
        if self.output.media.format == Format::Yaml {
            // A list of one is written as its item stands in a longer one.
            out.extend_from_slice(&codec::encode(&[item], Format::Yaml, false));
            return;
        }
        let text = codec::encode(item, Format::Json, true);
        // A line break in a JSON document is never part of a text.
        for (number, line) in text
            .trim_ascii_end()
            .split(|byte| *byte == b'\n')
            .enumerate()
        {
            if number > 0 {
                out.push(b'\n');
                out.extend_from_slice(indent.as_bytes());
            }
            out.extend_from_slice(line);
        }
    }
}

/// One item as compact JSON.
fn write_item(
    out: &mut Vec<u8>,
    shape: &Shape,
    now: Timestamp,
    (version, view): (Version<'_>, &View),
) {
    match shape {
        Shape::Objects => view.write_json(out, version),
        Shape::Partial(wanted) => partial::write_raw(out, view.metadata_json(), *wanted),
        Shape::Rows(options) => {
            table::write_row(out, version.info, &view.object(version), *options, now);
        }
    }
}

fn plain(shape: &Shape, version: Version<'_>, meta: &ListMeta) -> Layout {
    let mut head = Vec::new();
    let tail: &[u8] = match shape {
        Shape::Objects => {
            let (kind, api_version) = (version.resource.list_kind, version.api_version());
            let meta = meta.to_value();
            head = format!(
                "{{\"kind\":\"{kind}\",\"apiVersion\":\"{api_version}\",\"metadata\":{meta},\"items\":["
            )
            .into_bytes();
            b"]}"
        }
        Shape::Partial(wanted) => {
            partial::write_list_head(&mut head, meta, *wanted);
            b"]}\n"
        }
        Shape::Rows(options) => {
            table::write_head(&mut head, version.info, meta, *options, true);
            b"]}\n"
        }
    };
    Layout::Plain { head, tail }
}

/// Encodes the list with one text in the items' place, and without any, and looks where they go.
fn spaced(shape: &Shape, version: Version<'_>, meta: &ListMeta, output: Output) -> Layout {
    let Layout::Plain { head, tail } = plain(shape, version, meta) else {
        return Layout::Framed { length: 0 };
    };
    let encode = |items: &str| {
        let json = [&head, items.as_bytes(), tail].concat();
        let list: Value = serde_json::from_slice(&json).unwrap_or_default();
        codec::encode(&list, output.media.format, output.media.pretty)
    };
    let around = String::from_utf8(encode(&format!("\"{ITEMS}\""))).unwrap_or_default();
    let is_yaml = output.media.format == Format::Yaml;
    let (place, separator) = if is_yaml {
        (format!("- {ITEMS}\n"), b"".as_slice())
    } else {
        (format!("\"{ITEMS}\""), b",\n    ".as_slice())
    };
    let (head, tail) = around.split_once(&place).unwrap_or((&around, ""));
    let indent = head.rsplit('\n').next().unwrap_or_default().to_owned();
    Layout::Spaced {
        separator,
        indent,
        empty: encode(""),
        head: head.to_owned().into_bytes(),
        tail: tail.to_owned().into_bytes(),
    }
}
