//! Content negotiation: which format and which shape a client asked for.

use crate::error::ApiError;

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

/// The version of `meta.k8s.io` that a client asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum MetaVersion {
    /// `v1`.
    V1,
    /// `v1beta1`.
    V1Beta1,
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
}

impl MediaType {
    /// The Content-Type of a response.
    pub fn content_type(&self, _endpoint: Endpoint) -> &'static str {
        todo!()
    }
}

/// Chooses by the `Accept` header (`*/*` when absent); 406 when nothing fits.
pub fn negotiate(_accept: Option<&str>, _endpoint: Endpoint) -> Result<MediaType, ApiError> {
    todo!()
}

/// How an error is written to this client; never fails.
pub fn status_format(_accept: Option<&str>) -> Format {
    todo!()
}

/// The format of a request body by its Content-Type (JSON when absent); 415 when unknown.
pub fn body_format(_content_type: Option<&str>) -> Result<Format, ApiError> {
    todo!()
}

/// The kind of patch that a Content-Type names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PatchKind {
    /// `application/json-patch+json`.
    Json,
    /// `application/merge-patch+json`.
    Merge,
}

/// The kind of a PATCH body; 415 when the Content-Type names none that is served.
pub fn patch_kind(_content_type: Option<&str>) -> Result<PatchKind, ApiError> {
    todo!()
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

/// Chooses the discovery document of `/apis` (`aggregated`) or below it.
pub fn negotiate_discovery(
    _accept: Option<&str>,
    _aggregated: bool,
) -> Result<DiscoveryMedia, ApiError> {
    todo!()
}
