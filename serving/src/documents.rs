//! Discovery and OpenAPI: documents made once at the start. Serving one reads
//! memory and nothing else, whatever happens to the database.

use bytes::Bytes;
use http::{HeaderMap, StatusCode, header};
use machinery::{
    codec, discovery,
    error::ApiError,
    negotiate::{self, DiscoveryShape, Format},
    openapi::{self, Document, OpenApi},
    resource::ResourceInfo,
};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::{
    exchange::{self, Response},
    request_info::Query,
};

/// What a server says of itself at `/version`.
#[derive(Debug, Clone)]
pub struct ServerVersion {
    /// Name in OpenAPI's title.
    pub title: String,
    /// A semantic version without the leading `v`.
    pub version: String,
}

/// All documents about what is served.
pub struct Documents {
    groups: Value,
    aggregated: Bytes,
    aggregated_etag: String,
    /// Paths below `/apis/` with the documents there.
    below: Vec<(String, Value)>,
    openapi: OpenApi,
    v3_root_etag: String,
    version: Value,
    paths: Value,
}

impl Documents {
    /// Builds every document from the registered resources.
    #[must_use]
    pub fn build(about: &ServerVersion, resources: &[&ResourceInfo]) -> Self {
        let aggregated = Bytes::from(codec::encode(
            &discovery::aggregated(resources),
            Format::Json,
            false,
        ));
        let openapi = OpenApi::build(&about.title, &about.version, resources);
        let below = below(resources);
        Self {
            groups: discovery::group_list(resources),
            aggregated_etag: hash(&aggregated),
            aggregated,
            v3_root_etag: hash(&openapi.v3_root),
            paths: paths(&below, &openapi),
            below,
            openapi,
            version: version(&about.version),
        }
    }

    /// The document at a path; `None` when the path is none of a document.
    ///
    /// # Errors
    ///
    /// 404 for unknown groups and versions, 406 when the client reads none of
    /// the formats.
    #[must_use]
    pub fn respond(
        &self,
        path: &str,
        query: &Query,
        headers: &HeaderMap,
    ) -> Option<Result<Response, ApiError>> {
        let path = if path.len() > 1 {
            path.strip_suffix('/').unwrap_or(path)
        } else {
            path
        };
        Some(match path {
            "/" => Ok(plain(&self.paths)),
            "/version" => Ok(plain(&self.version)),
            "/apis" => self.apis(headers),
            "/openapi/v2" => Ok(self.openapi_v2(headers)),
            "/openapi/v3" => Ok(conditional(
                headers,
                &self.v3_root_etag,
                "application/json",
                self.openapi.v3_root.clone(),
            )),
            _ => match (
                path.strip_prefix("/apis/"),
                path.strip_prefix("/openapi/v3/"),
            ) {
                (Some(below), _) => self.below(below, headers)?,
                (_, Some(name)) => Ok(self.openapi_v3(self.openapi.v3.get(name)?, query, headers)),
                _ => return None,
            },
        })
    }

    fn apis(&self, headers: &HeaderMap) -> Result<Response, ApiError> {
        let accept = exchange::joined(headers, &header::ACCEPT);
        let media = negotiate::negotiate_discovery(accept.as_deref(), true)?;
        let mut response = match media.shape {
            DiscoveryShape::AggregatedV2 if media.format == Format::Json => conditional(
                headers,
                &self.aggregated_etag,
                &media.content_type,
                self.aggregated.clone(),
            ),
            DiscoveryShape::AggregatedV2 => {
                let value: Value = serde_json::from_slice(&self.aggregated).unwrap_or_default();
                let body = codec::encode(&value, media.format, false);
                conditional(
                    headers,
                    &self.aggregated_etag,
                    &media.content_type,
                    body.into(),
                )
            }
            DiscoveryShape::Legacy => Response::new(
                200,
                &media.content_type,
                codec::encode(&self.groups, media.format, false),
            ),
        };
        response.set(header::VARY, "Accept");
        Ok(response)
    }

    fn below(&self, path: &str, headers: &HeaderMap) -> Option<Result<Response, ApiError>> {
        let (_, document) = self.below.iter().find(|(known, _)| known == path)?;
        let accept = exchange::joined(headers, &header::ACCEPT);
        Some(
            negotiate::negotiate_discovery(accept.as_deref(), false).map(|media| {
                Response::new(
                    200,
                    &media.content_type,
                    codec::encode(document, media.format, false),
                )
            }),
        )
    }

    fn openapi_v2(&self, headers: &HeaderMap) -> Response {
        openapi_document(&self.openapi.v2, headers)
    }

    /// The aggregator and clients keep a document by its hash for ever.
    fn openapi_v3(&self, document: &Document, query: &Query, headers: &HeaderMap) -> Response {
        let mut response = openapi_document(document, headers);
        if query.get("hash") == Some(document.hash.as_str()) {
            response.set(header::CACHE_CONTROL, "public, immutable, max-age=31536000");
        }
        response
    }
}

fn below(resources: &[&ResourceInfo]) -> Vec<(String, Value)> {
    let mut below: Vec<(String, Value)> = Vec::new();
    let mut add = |path: String, document: Option<Value>| {
        if let Some(document) = document
            && !below.iter().any(|(known, _)| *known == path)
        {
            below.push((path, document));
        }
    };
    for info in resources {
        add(
            info.group.to_owned(),
            discovery::group(resources, info.group),
        );
        for version in &info.versions {
            let list = discovery::resource_list(resources, info.group, version.name);
            add(format!("{}/{}", info.group, version.name), list);
        }
    }
    below
}

fn paths(below: &[(String, Value)], openapi: &OpenApi) -> Value {
    let fixed = [
        "/apis",
        "/healthz",
        "/livez",
        "/metrics",
        "/openapi/v2",
        "/openapi/v3",
        "/readyz",
        "/version",
    ];
    let mut paths: Vec<String> = fixed.iter().map(|path| (*path).to_owned()).collect();
    paths.extend(below.iter().map(|(path, _)| format!("/apis/{path}")));
    paths.extend(openapi.v3.keys().map(|name| format!("/openapi/v3/{name}")));
    paths.sort();
    json!({ "paths": paths })
}

fn version(version: &str) -> Value {
    let mut parts = version.split('.');
    json!({
        "major": parts.next().unwrap_or_default(),
        "minor": parts.next().unwrap_or_default(),
        "gitVersion": format!("v{version}"),
        "gitCommit": "",
        "gitTreeState": "",
        "buildDate": "",
        "goVersion": "",
        "compiler": "rustc",
        "platform": format!("{}/{}", std::env::consts::OS, std::env::consts::ARCH),
    })
}

fn plain(value: &Value) -> Response {
    Response::new(
        200,
        "application/json",
        codec::encode(value, Format::Json, false),
    )
}

/// JSON, or protobuf where it is published and the client names it first.
fn openapi_document(document: &Document, headers: &HeaderMap) -> Response {
    const PROTOBUF: &str = "com.github.proto-openapi.spec.v2";
    let accept = exchange::joined(headers, &header::ACCEPT).unwrap_or_default();
    let mut media = accept
        .split(',')
        .map(|entry| entry.split(';').next().unwrap_or_default().trim());
    let is_known = |media: &&str| {
        matches!(*media, "application/json" | "*/*" | "application/*") || media.contains(PROTOBUF)
    };
    let wants_protobuf = media
        .find(is_known)
        .is_some_and(|media| media.contains(PROTOBUF));
    let (content_type, body) = match &document.protobuf {
        Some(protobuf) if wants_protobuf => (openapi::V2_PROTOBUF, protobuf.clone()),
        _ => ("application/json", document.json.clone()),
    };
    let mut response = conditional(headers, &document.hash, content_type, body);
    response.set(header::VARY, "Accept");
    response
}

/// 304 when the client has this very document.
fn conditional(headers: &HeaderMap, etag: &str, content_type: &str, body: Bytes) -> Response {
    let etag = format!("\"{etag}\"");
    let known = exchange::joined(headers, &header::IF_NONE_MATCH).unwrap_or_default();
    let is_known = known
        .split(',')
        .map(|tag| tag.trim().trim_start_matches("W/"))
        .any(|tag| tag == etag || tag == "*");
    let mut response = if is_known {
        let mut response = Response::new(200, content_type, Bytes::new());
        response.status = StatusCode::NOT_MODIFIED;
        response
    } else {
        Response::new(200, content_type, body)
    };
    response.set(header::ETAG, &etag);
    response
}

fn hash(bytes: &[u8]) -> String {
    Sha256::digest(bytes)
        .iter()
        .map(|byte| format!("{byte:02X}"))
        .collect()
}
