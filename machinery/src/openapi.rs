//! OpenAPI documents, derived from the registered resources.

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::resource::ResourceInfo;

/// A document ready to be served.
#[derive(Debug, Clone)]
pub struct Document {
    /// The body as JSON.
    pub json: Bytes,
    /// The body as gnostic protobuf.
    pub protobuf: Bytes,
    /// Upper-case hex hash of the JSON: the ETag (in quotes) and the `hash` parameter.
    pub hash: String,
}

/// All OpenAPI documents of a server.
#[derive(Debug, Clone)]
pub struct OpenApi {
    /// `/openapi/v2`.
    pub v2: Document,
    /// The body of `/openapi/v3`, JSON.
    pub v3_root: Bytes,
    /// By path below `/openapi/v3/`: `apis/<group>/<version>`.
    pub v3: BTreeMap<String, Document>,
}

impl OpenApi {
    /// Builds the documents once; serving keeps them.
    pub fn build(_title: &str, _version: &str, _resources: &[&ResourceInfo]) -> Self {
        todo!()
    }
}

/// The media type of v2 in protobuf.
pub const V2_PROTOBUF: &str = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf";
/// The media type of v3 in protobuf.
pub const V3_PROTOBUF: &str = "application/com.github.proto-openapi.spec.v3@v1.0+protobuf";
