//! Tables: what `kubectl get` prints.
//!
//! Every Table starts with the name. The age follows the columns that are always shown and
//! precedes those of wide output. A resource that has a column of either name keeps its own.

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::{
    codec::ListMeta,
    error::ApiError,
    negotiate::MetaVersion,
    object::{self, Object},
    partial::{self, write_value},
    quote::quote,
    resource::{Column, VersionInfo},
};

/// The annotation of the bookmark that ends the initial events of a streaming list.
const INITIAL_EVENTS_END: &str = "k8s.io/initial-events-end";

const NAME_DESCRIPTION: &str = "Name of the object, unique within its namespace and resource.";
const AGE_DESCRIPTION: &str = "How long ago the object was created, as the server tells it.";

/// What a row carries of its object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum IncludeObject {
    /// Nothing.
    None,
    /// PartialObjectMetadata.
    #[default]
    Metadata,
    /// The whole object.
    Object,
}

impl IncludeObject {
    /// Reads the `includeObject` query parameter; 400 when it is none of upstream's.
    pub fn parse(value: Option<&str>) -> Result<Self, ApiError> {
        match value {
            None | Some("" | "Metadata") => Ok(Self::Metadata),
            Some("None") => Ok(Self::None),
            Some("Object") => Ok(Self::Object),
            Some(other) => Err(ApiError::bad_request(format!(
                "Unable to convert to Table as requested: includeObject: Invalid value: {}: \
                 must be 'Metadata', 'Object', 'None', or empty",
                quote(other)
            ))),
        }
    }
}

/// How a Table is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TableOptions {
    /// What rows carry.
    pub include: IncludeObject,
    /// `meta.k8s.io/v1` or `v1beta1`.
    pub version: MetaVersion,
}

/// One row as JSON text; the object is of the version's shape.
pub fn write_row(
    out: &mut Vec<u8>,
    version: &VersionInfo,
    object: &Object,
    options: TableOptions,
    now: Timestamp,
) {
    out.extend_from_slice(br#"{"cells":["#);
    for (index, place) in layout(&version.columns).enumerate() {
        if index > 0 {
            out.push(b',');
        }
        match place {
            Place::Name => write_value(out, object::name(object).unwrap_or_default()),
            Place::Age => write_value(out, &age(object::creation_timestamp(object), now)),
            Place::Own(column) => write_value(out, &(column.value)(object, now)),
        }
    }
    out.extend_from_slice(br#"],"object":"#);
    match options.include {
        IncludeObject::Object => write_value(out, object),
        IncludeObject::None if !ends_initial_events(object) => out.extend_from_slice(b"null"),
        IncludeObject::None | IncludeObject::Metadata => {
            partial::write_json(out, object, options.version);
        }
    }
    out.push(b'}');
}

/// The mark must reach the client even if it wants no objects.
fn ends_initial_events(object: &Object) -> bool {
    object::annotations(object).is_some_and(|all| all.contains_key(INITIAL_EVENTS_END))
}

/// Everything of a Table before its rows: rows (comma separated) and `]}` follow.
/// Column definitions are left out of a watch's later events.
pub fn write_head(
    out: &mut Vec<u8>,
    version: &VersionInfo,
    meta: &ListMeta,
    options: TableOptions,
    with_columns: bool,
) {
    partial::write_type(out, "Table", options.version);
    write_value(out, &meta.to_value());
    out.extend_from_slice(br#","columnDefinitions":"#);
    if with_columns {
        write_value(
            out,
            &layout(&version.columns).map(definition).collect::<Vec<_>>(),
        );
    } else {
        out.extend_from_slice(b"null");
    }
    out.extend_from_slice(br#","rows":["#);
}

/// A whole Table, with ages as of now.
pub fn write_table<'a>(
    out: &mut Vec<u8>,
    version: &VersionInfo,
    objects: impl IntoIterator<Item = &'a Object>,
    meta: &ListMeta,
    options: TableOptions,
) {
    let now = Timestamp::now();
    write_head(out, version, meta, options, true);
    for (index, object) in objects.into_iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        write_row(out, version, object, options, now);
    }
    out.extend_from_slice(b"]}\n");
}

/// Where a column comes from.
enum Place<'a> {
    Name,
    Age,
    Own(&'a Column),
}

fn layout(columns: &[Column]) -> impl Iterator<Item = Place<'_>> {
    let missing = |name: &str| !columns.iter().any(|column| column.name == name);
    let name = missing("Name").then_some(Place::Name);
    let age = missing("Age").then_some(Place::Age);
    let shown = columns
        .iter()
        .filter(|column| column.priority == 0)
        .map(Place::Own);
    let wide = columns
        .iter()
        .filter(|column| column.priority != 0)
        .map(Place::Own);
    name.into_iter().chain(shown).chain(age).chain(wide)
}

#[expect(
    clippy::needless_pass_by_value,
    reason = "it is mapped over an iterator of places"
)]
fn definition(place: Place<'_>) -> Value {
    match place {
        Place::Name => json!({
            "name": "Name", "type": "string", "format": "name", "priority": 0,
            "description": NAME_DESCRIPTION,
        }),
        Place::Age => json!({
            "name": "Age", "type": "string", "format": "", "priority": 0,
            "description": AGE_DESCRIPTION,
        }),
        Place::Own(column) => json!({
            "name": column.name, "type": column.kind, "format": column.format,
            "description": column.description, "priority": column.priority,
        }),
    }
}

/// A cell for a creation time: `5m12s`, or `<unknown>`.
#[must_use]
pub fn age(creation_timestamp: Option<&str>, now: Timestamp) -> Value {
    match creation_timestamp.and_then(|text| text.parse::<Timestamp>().ok()) {
        Some(created) => human_duration(now.duration_since(created).as_secs()).into(),
        None => "<unknown>".into(),
    }
}

/// A span of time as kubectl writes it: two or three significant figures.
#[must_use]
pub fn human_duration(seconds: i64) -> String {
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    let years = days / 365;
    match seconds {
        ..-1 => "<invalid>".to_owned(),
        -1 => "0s".to_owned(),
        _ if seconds < 120 => format!("{seconds}s"),
        _ if minutes < 10 => pair(minutes, "m", seconds % 60, "s"),
        _ if minutes < 180 => format!("{minutes}m"),
        _ if hours < 8 => pair(hours, "h", minutes % 60, "m"),
        _ if hours < 48 => format!("{hours}h"),
        _ if days < 8 => pair(days, "d", hours % 24, "h"),
        _ if years < 2 => format!("{days}d"),
        _ if years < 8 => pair(years, "y", days % 365, "d"),
        _ => format!("{years}y"),
    }
}

/// The lesser unit is shown when it is not zero.
fn pair(great: i64, great_unit: &str, small: i64, small_unit: &str) -> String {
    if small == 0 {
        format!("{great}{great_unit}")
    } else {
        format!("{great}{great_unit}{small}{small_unit}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::Schema;

    fn version() -> VersionInfo {
        let column = |name, priority, value| Column {
            name,
            kind: "string",
            format: "",
            description: "what it says",
            priority,
            value,
        };
        VersionInfo {
            name: "v1",
            storage: true,
            deprecation_warning: None,
            schema: Schema::default(),
            columns: vec![
                column("Image", 1, |o, _| {
                    object::pointer(o, "/spec/image").cloned().into()
                }),
                column("Color", 0, |o, _| {
                    object::pointer(o, "/spec/color").cloned().into()
                }),
            ],
            selectable: vec![],
            lens: None,
        }
    }

    fn gadget() -> Object {
        let gadget = json!({
            "apiVersion": "test.example.com/v1", "kind": "Gadget",
            "metadata": {"name": "g", "creationTimestamp": "2026-01-01T00:00:00Z"},
            "spec": {"color": "red"},
        });
        gadget.as_object().unwrap().clone()
    }

    fn options(include: IncludeObject) -> TableOptions {
        TableOptions {
            include,
            version: MetaVersion::V1,
        }
    }

    fn row(object: &Object, include: IncludeObject) -> Value {
        let now = "2026-01-01T00:05:12Z".parse().unwrap();
        let mut out = Vec::new();
        write_row(&mut out, &version(), object, options(include), now);
        serde_json::from_slice(&out).unwrap()
    }

    #[test]
    fn a_table_has_name_columns_age_and_wide_columns() {
        let meta = ListMeta {
            resource_version: "8".into(),
            continue_token: Some("next".into()),
            remaining_item_count: Some(4),
            shard_selector: None,
        };
        let mut out = Vec::new();
        let gadget = gadget();
        let objects = [&gadget, &gadget];
        write_table(
            &mut out,
            &version(),
            objects,
            &meta,
            options(IncludeObject::None),
        );
        let table: Value = serde_json::from_slice(&out).unwrap();
        let names: Vec<_> = table["columnDefinitions"]
            .as_array()
            .unwrap()
            .iter()
            .map(|c| &c["name"])
            .collect();
        assert_eq!(names, ["Name", "Color", "Age", "Image"]);
        assert_eq!(table["columnDefinitions"][3]["priority"], 1);
        assert_eq!(
            (&table["kind"], &table["apiVersion"]),
            (&"Table".into(), &"meta.k8s.io/v1".into())
        );
        assert_eq!(
            table["metadata"],
            json!({"resourceVersion": "8", "continue": "next", "remainingItemCount": 4})
        );
        assert_eq!(table["rows"].as_array().unwrap().len(), 2);
    }

    #[test]
    fn a_row_carries_what_was_asked_for() {
        let cells = json!(["g", "red", "5m12s", null]);
        let none = row(&gadget(), IncludeObject::None);
        assert_eq!(none, json!({"cells": cells, "object": null}));
        let metadata = row(&gadget(), IncludeObject::Metadata);
        assert_eq!(metadata["object"]["kind"], "PartialObjectMetadata");
        assert_eq!(metadata["object"]["metadata"]["name"], "g");
        assert_eq!(
            row(&gadget(), IncludeObject::Object)["object"],
            Value::Object(gadget())
        );
    }

    #[test]
    fn the_end_of_initial_events_is_told_in_any_case() {
        let bookmark = json!({
            "kind": "Gadget", "metadata": {"resourceVersion": "4", "annotations": {INITIAL_EVENTS_END: "true"}},
        });
        let row = row(bookmark.as_object().unwrap(), IncludeObject::None);
        assert_eq!(
            row["object"]["metadata"]["annotations"][INITIAL_EVENTS_END],
            "true"
        );
        assert_eq!(row["cells"], json!(["", null, "<unknown>", null]));
    }

    #[test]
    fn later_events_of_a_watch_have_no_columns() {
        let mut out = Vec::new();
        write_head(
            &mut out,
            &version(),
            &ListMeta::default(),
            options(IncludeObject::None),
            false,
        );
        out.extend_from_slice(b"]}");
        let table: Value = serde_json::from_slice(&out).unwrap();
        assert_eq!(table["columnDefinitions"], Value::Null);
    }

    #[test]
    fn include_object_is_one_of_three() {
        assert_eq!(IncludeObject::parse(None).unwrap(), IncludeObject::Metadata);
        assert_eq!(
            IncludeObject::parse(Some("None")).unwrap(),
            IncludeObject::None
        );
        assert_eq!(
            IncludeObject::parse(Some("Object")).unwrap(),
            IncludeObject::Object
        );
        assert_eq!(IncludeObject::parse(Some("Zap")).unwrap_err().code(), 400);
    }

    #[test]
    fn spans_are_written_as_kubectl_writes_them() {
        const HOUR: i64 = 3600;
        const DAY: i64 = 24 * HOUR;
        const YEAR: i64 = 365 * DAY;
        let cases = [
            (-2, "<invalid>"),
            (-1, "0s"),
            (0, "0s"),
            (119, "119s"),
            (120, "2m"),
            (181, "3m1s"),
            (599, "9m59s"),
            (600, "10m"),
            (3 * HOUR - 1, "179m"),
            (3 * HOUR, "3h"),
            (3 * HOUR + 60, "3h1m"),
            (8 * HOUR + 3599, "8h"),
            (2 * DAY - 1, "47h"),
            (2 * DAY, "2d"),
            (2 * DAY + HOUR, "2d1h"),
            (8 * DAY + HOUR, "8d"),
            (2 * YEAR - 1, "729d"),
            (2 * YEAR, "2y"),
            (2 * YEAR + DAY, "2y1d"),
            (8 * YEAR + 3 * DAY, "8y"),
        ];
        for (seconds, text) in cases {
            assert_eq!(human_duration(seconds), text, "{seconds}");
        }
    }
}
