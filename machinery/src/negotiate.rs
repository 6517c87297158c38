//! Content negotiation: which format and which shape a client asked for.

mod accept;

use accept::{Clause, Conversion, parse_accept};

use crate::error::ApiError;

const JSON: &str = "application/json";
const YAML: &str = "application/yaml";
const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";
const JSON_PATCH: &str = "application/json-patch+json";
const MERGE_PATCH: &str = "application/merge-patch+json";

/// How a body is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Format {
    /// `application/json`.
    Json,
    /// `application/yaml`.
    Yaml,
    /// `application/vnd.kubernetes.protobuf`.
    Protobuf,
}

impl Format {
    /// The media type without parameters.
    #[must_use]
    pub fn media_type(self) -> &'static str {
        match self {
            Self::Json => JSON,
            Self::Yaml => YAML,
            Self::Protobuf => PROTOBUF,
        }
    }
}

/// The version of `meta.k8s.io` that a client asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum MetaVersion {
    /// `v1`.
    V1,
    /// `v1beta1`.
    V1Beta1,
}

impl MetaVersion {
    /// The `apiVersion` of documents of this version.
    #[must_use]
    pub fn api_version(self) -> &'static str {
        match self {
            Self::V1 => "meta.k8s.io/v1",
            Self::V1Beta1 => "meta.k8s.io/v1beta1",
        }
    }
}

/// A shape that the server derives from objects.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AsKind {
    /// Rows and columns.
    Table,
    /// One object's metadata.
    PartialObjectMetadata,
    /// A list of objects' metadata.
    PartialObjectMetadataList,
}

/// What was agreed upon with the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct MediaType {
    /// How the body is written.
    pub format: Format,
    /// The shape instead of the object itself.
    pub as_kind: Option<(AsKind, MetaVersion)>,
    /// The client asked for `;stream=watch`.
    pub stream: bool,
    /// The client asked for indented JSON.
    pub pretty: bool,
}

/// What an endpoint answers with, which decides what a client may ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Endpoint {
    /// One object: get, create, update, patch, delete.
    Object,
    /// A list: list, deletecollection.
    List,
    /// A stream of events.
    Watch,
    /// A document without derived shapes: Scale, version.
    Plain,
    /// A document that is also told as a Table: history.
    Rows,
}

impl MediaType {
    /// The Content-Type of a response.
    #[must_use]
    pub fn content_type(&self, endpoint: Endpoint) -> &'static str {
        match (endpoint, self.format) {
            (Endpoint::Watch, Format::Protobuf) => {
                "application/vnd.kubernetes.protobuf;stream=watch"
            }
            (_, format) => format.media_type(),
        }
    }
}

/// Chooses by the `Accept` header (JSON when absent); 406 when nothing fits.
///
/// Protobuf is spoken only for PartialObjectMetadata and its list, Tables only in JSON and
/// YAML, and watches not in YAML: a clause that asks for something else is passed over.
pub fn negotiate(accept: Option<&str>, endpoint: Endpoint) -> Result<MediaType, ApiError> {
    let Some(accept) = present(accept) else {
        return Ok(MediaType {
            format: Format::Json,
            as_kind: None,
            stream: false,
            pretty: false,
        });
    };
    parse_accept(accept)
        .iter()
        .find_map(|clause| {
            clause
                .formats()
                .find_map(|format| agree(clause, format, endpoint))
        })
        .ok_or_else(|| not_acceptable(endpoint))
}

fn not_acceptable(endpoint: Endpoint) -> ApiError {
    ApiError::not_acceptable(match endpoint {
        Endpoint::Watch => &["application/json;stream=watch"],
        Endpoint::Object | Endpoint::List | Endpoint::Plain | Endpoint::Rows => &[JSON, YAML],
    })
}

/// The agreement on one clause in one format, if there is one.
fn agree(clause: &Clause<'_>, format: Format, endpoint: Endpoint) -> Option<MediaType> {
    let as_kind = match clause.conversion() {
        None => None,
        Some(conversion) => Some(derived_shape(conversion, endpoint)?),
    };
    let spoken = match (format, as_kind) {
        (Format::Json, _) => true,
        (Format::Yaml, _) => endpoint != Endpoint::Watch,
        (Format::Protobuf, Some((AsKind::Table, _)) | None) => false,
        (Format::Protobuf, Some(_)) => true,
    };
    let stream = match clause.parameter("stream") {
        None | Some("") => false,
        Some("watch") => true,
        Some(_) => return None,
    };
    let pretty = clause.parameter("pretty") == Some("1");
    spoken.then_some(MediaType {
        format,
        as_kind,
        stream,
        pretty,
    })
}

fn derived_shape(asked: Conversion<'_>, endpoint: Endpoint) -> Option<(AsKind, MetaVersion)> {
    let version = match (asked.group, asked.version) {
        ("meta.k8s.io", "v1") => MetaVersion::V1,
        ("meta.k8s.io", "v1beta1") => MetaVersion::V1Beta1,
        _ => return None,
    };
    let kind = match (asked.kind, endpoint) {
        ("Table", Endpoint::Object | Endpoint::List | Endpoint::Watch | Endpoint::Rows) => {
            AsKind::Table
        }
        ("PartialObjectMetadata", Endpoint::Object | Endpoint::Watch) => {
            AsKind::PartialObjectMetadata
        }
        ("PartialObjectMetadataList", Endpoint::List) => AsKind::PartialObjectMetadataList,
        _ => return None,
    };
    Some((kind, version))
}

/// How an error is written to this client; never fails.
#[must_use]
pub fn status_format(accept: Option<&str>) -> Format {
    let clauses = present(accept).map(parse_accept).unwrap_or_default();
    clauses
        .iter()
        .filter(|clause| clause.conversion().is_none())
        .find_map(|clause| clause.formats().next())
        .unwrap_or(Format::Json)
}

/// The format of a request body by its Content-Type (JSON when absent); 415 when unknown.
pub fn body_format(content_type: Option<&str>) -> Result<Format, ApiError> {
    let Some(content_type) = present(content_type) else {
        return Ok(Format::Json);
    };
    match essence(content_type).as_str() {
        JSON => Ok(Format::Json),
        YAML => Ok(Format::Yaml),
        PROTOBUF => Ok(Format::Protobuf),
        _ => Err(ApiError::unsupported_media_type(&[JSON, YAML])),
    }
}

/// The kind of patch that a Content-Type names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PatchKind {
    /// `application/json-patch+json`.
    Json,
    /// `application/merge-patch+json`.
    Merge,
}

/// The media types of patches that are served.
pub const PATCH_TYPES: [&str; 2] = [JSON_PATCH, MERGE_PATCH];

/// The kind of a PATCH body; 415 when the Content-Type names none that is served.
pub fn patch_kind(content_type: Option<&str>) -> Result<PatchKind, ApiError> {
    match essence(content_type.unwrap_or_default()).as_str() {
        JSON_PATCH => Ok(PatchKind::Json),
        MERGE_PATCH => Ok(PatchKind::Merge),
        _ => Err(ApiError::unsupported_media_type(&PATCH_TYPES)),
    }
}

/// A discovery document's shape.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DiscoveryShape {
    /// APIGroupList, APIGroup or APIResourceList.
    Legacy,
    /// APIGroupDiscoveryList v2.
    AggregatedV2,
}

/// What `/apis` answers: the shape, the format and the Content-Type to echo.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiscoveryMedia {
    /// Which document.
    pub shape: DiscoveryShape,
    /// JSON or YAML.
    pub format: Format,
    /// The Content-Type of the response, with the client's parameters.
    pub content_type: String,
}

/// Chooses the discovery document of `/apis` (`aggregated`) or below it. As upstream, a
/// client that accepts the aggregated document gets it.
pub fn negotiate_discovery(
    accept: Option<&str>,
    aggregated: bool,
) -> Result<DiscoveryMedia, ApiError> {
    let clauses = present(accept).map(parse_accept).unwrap_or_default();
    let spoken = |clause: &Clause<'_>| clause.formats().find(|format| *format != Format::Protobuf);
    if aggregated {
        let found = clauses
            .iter()
            .filter(|clause| clause.is_aggregated_discovery());
        if let Some((clause, format)) = found.filter_map(|c| Some((c, spoken(c)?))).next() {
            let content_type = clause.discovery_content_type(format);
            let shape = DiscoveryShape::AggregatedV2;
            return Ok(DiscoveryMedia {
                shape,
                format,
                content_type,
            });
        }
    }
    let plain = clauses
        .iter()
        .filter(|clause| clause.conversion().is_none())
        .find_map(spoken);
    let format = match plain {
        Some(format) => format,
        None if clauses.is_empty() => Format::Json,
        None => return Err(not_acceptable(Endpoint::Plain)),
    };
    let content_type = format.media_type().to_owned();
    Ok(DiscoveryMedia {
        shape: DiscoveryShape::Legacy,
        format,
        content_type,
    })
}

fn present(header: Option<&str>) -> Option<&str> {
    header.map(str::trim).filter(|text| !text.is_empty())
}

/// A media type without its parameters.
fn essence(content_type: &str) -> String {
    content_type
        .split(';')
        .next()
        .unwrap_or_default()
        .trim()
        .to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const METADATA_CLIENT: &str = "application/vnd.kubernetes.protobuf;as=PartialObjectMetadata;\
        g=meta.k8s.io;v=v1,application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1,application/json";
    const KUBECTL: &str = "application/json;as=Table;v=v1;g=meta.k8s.io,\
        application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json";

    fn agreed(accept: &str, endpoint: Endpoint) -> MediaType {
        negotiate(Some(accept), endpoint).unwrap()
    }

    fn format(accept: &str) -> Format {
        agreed(accept, Endpoint::Object).format
    }

    #[test]
    fn json_is_what_a_client_without_preference_gets() {
        assert_eq!(
            negotiate(None, Endpoint::Object).unwrap().format,
            Format::Json
        );
        for accept in ["", "*/*", "*", "application/*", "text/html, */*;q=0.1"] {
            assert_eq!(format(accept), Format::Json, "{accept}");
        }
    }

    #[test]
    fn the_greater_quality_and_then_the_more_specific_wins() {
        assert_eq!(
            format("application/json;q=0.5, application/yaml"),
            Format::Yaml
        );
        assert_eq!(format("*/*, application/yaml"), Format::Yaml);
        assert_eq!(
            format("application/yaml;q=0, application/json;q=0.1"),
            Format::Json
        );
    }

    #[test]
    fn kubectl_gets_a_table() {
        for endpoint in [Endpoint::Object, Endpoint::List, Endpoint::Watch] {
            let media = agreed(KUBECTL, endpoint);
            assert_eq!(media.as_kind, Some((AsKind::Table, MetaVersion::V1)));
            assert_eq!(media.content_type(endpoint), "application/json");
        }
        assert_eq!(agreed(KUBECTL, Endpoint::Plain).as_kind, None);
    }

    #[test]
    fn the_metadata_client_gets_protobuf() {
        let shape = Some((AsKind::PartialObjectMetadata, MetaVersion::V1));
        for endpoint in [Endpoint::Object, Endpoint::Watch] {
            let media = agreed(METADATA_CLIENT, endpoint);
            assert_eq!((media.format, media.as_kind), (Format::Protobuf, shape));
        }
        assert_eq!(
            agreed(METADATA_CLIENT, Endpoint::Watch).content_type(Endpoint::Watch),
            "application/vnd.kubernetes.protobuf;stream=watch"
        );
        let list = METADATA_CLIENT.replace("Metadata;", "MetadataList;");
        let shape = Some((AsKind::PartialObjectMetadataList, MetaVersion::V1));
        let media = agreed(&list, Endpoint::List);
        assert_eq!((media.format, media.as_kind), (Format::Protobuf, shape));
    }

    #[test]
    fn a_typed_client_that_prefers_protobuf_gets_json() {
        for accept in [
            "application/vnd.kubernetes.protobuf,application/json",
            "application/vnd.kubernetes.protobuf, */*",
        ] {
            assert_eq!(format(accept), Format::Json, "{accept}");
        }
    }

    #[test]
    fn what_cannot_be_served_is_not_acceptable() {
        let cases = [
            ("text/csv", Endpoint::Object),
            ("application/vnd.kubernetes.protobuf", Endpoint::Object),
            ("application/cbor", Endpoint::List),
            (
                "application/json;as=Table;v=v9;g=meta.k8s.io",
                Endpoint::List,
            ),
            ("application/json;as=Table;v=v1;g=other", Endpoint::List),
            ("application/json;as=Zap;v=v1;g=meta.k8s.io", Endpoint::List),
            (
                "application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io",
                Endpoint::List,
            ),
            (
                "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io",
                Endpoint::Object,
            ),
            (
                "application/vnd.kubernetes.protobuf;as=Table;v=v1;g=meta.k8s.io",
                Endpoint::List,
            ),
            ("application/yaml", Endpoint::Watch),
            ("application/json;stream=other", Endpoint::Watch),
            ("garbage", Endpoint::Object),
        ];
        for (accept, endpoint) in cases {
            let error = negotiate(Some(accept), endpoint).unwrap_err();
            assert_eq!(error.code(), 406, "{accept}");
        }
        assert_eq!(
            negotiate(Some("text/csv"), Endpoint::Object)
                .unwrap_err()
                .to_string(),
            "only the following media types are accepted: application/json, application/yaml"
        );
    }

    #[test]
    fn stream_and_pretty_are_read() {
        assert!(agreed("application/json;stream=watch", Endpoint::Watch).stream);
        assert!(agreed("application/json;pretty=1", Endpoint::Object).pretty);
    }

    #[test]
    fn errors_are_written_in_a_format_that_the_client_reads() {
        assert_eq!(status_format(None), Format::Json);
        assert_eq!(status_format(Some("text/csv")), Format::Json);
        assert_eq!(status_format(Some("application/yaml")), Format::Yaml);
        assert_eq!(status_format(Some(METADATA_CLIENT)), Format::Json);
        assert_eq!(
            status_format(Some("application/vnd.kubernetes.protobuf, */*")),
            Format::Protobuf
        );
    }

    #[test]
    fn bodies_are_told_by_their_content_type() {
        assert_eq!(body_format(None).unwrap(), Format::Json);
        assert_eq!(
            body_format(Some("application/JSON; charset=utf-8")).unwrap(),
            Format::Json
        );
        assert_eq!(body_format(Some("application/yaml")).unwrap(), Format::Yaml);
        for content_type in ["text/plain", ";;;", "application/cbor"] {
            assert_eq!(body_format(Some(content_type)).unwrap_err().code(), 415);
        }
        assert_eq!(
            patch_kind(Some("application/merge-patch+json; charset=utf-8")).unwrap(),
            PatchKind::Merge
        );
        for content_type in [
            None,
            Some("application/json"),
            Some("application/apply-patch+yaml"),
        ] {
            assert_eq!(patch_kind(content_type).unwrap_err().code(), 415);
        }
    }

    #[test]
    fn aggregated_discovery_is_chosen_and_its_parameters_echoed() {
        let v2 = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
        let nopeer = format!("{v2};profile=nopeer");
        for (accept, content_type) in [
            (v2.to_owned(), v2),
            (format!("{v2},application/json"), v2),
            (format!("application/json, {v2}"), v2),
            (format!("{nopeer},{v2},application/json"), nopeer.as_str()),
        ] {
            let media = negotiate_discovery(Some(&accept), true).unwrap();
            assert_eq!(media.shape, DiscoveryShape::AggregatedV2);
            assert_eq!(media.content_type, content_type);
        }
    }

    #[test]
    fn other_discovery_is_legacy() {
        let v9 = "application/json;g=apidiscovery.k8s.io;v=v9;as=APIGroupDiscoveryList";
        for accept in [None, Some("application/json"), Some("*/*")] {
            let media = negotiate_discovery(accept, true).unwrap();
            assert_eq!(media.shape, DiscoveryShape::Legacy);
            assert_eq!(media.content_type, "application/json");
        }
        let listed = format!("{v9}, application/json;q=0.9");
        let media = negotiate_discovery(Some(&listed), true).unwrap();
        assert_eq!(media.shape, DiscoveryShape::Legacy);
        assert_eq!(negotiate_discovery(Some(v9), true).unwrap_err().code(), 406);
        assert_eq!(
            negotiate_discovery(Some("text/csv"), false)
                .unwrap_err()
                .code(),
            406
        );
    }

    proptest! {
        #[test]
        fn any_header_is_answered(header in "[a-z*/;=,. \"0-9-]{0,60}") {
            drop(negotiate(Some(&header), Endpoint::Object));
            drop(negotiate_discovery(Some(&header), true));
            drop(body_format(Some(&header)));
        }
    }
}
