//! From a view to the bytes of the format and shape that the client asked for.

use bytes::Bytes;
use http::{HeaderMap, header};
use jiff::Timestamp;
use machinery::{
    codec::{self, ListMeta, protobuf},
    error::{ApiError, Status},
    negotiate::{self, AsKind, Endpoint, Format, MediaType, MetaVersion},
    object, partial,
    table::{self, IncludeObject, TableOptions},
};
use serde_json::Value;

use crate::{
    exchange::{self, Response},
    request_info::Query,
    view::{Version, View},
};

/// How a response is written, agreed upon before anything is done.
#[derive(Clone, Copy)]
pub struct Output {
    /// Format and shape.
    pub media: MediaType,
    /// What kind of endpoint answers.
    pub endpoint: Endpoint,
    include: IncludeObject,
}

impl Output {
    /// Agrees with a client on a representation.
    ///
    /// # Errors
    ///
    /// 406 when nothing fits, 400 when `includeObject` is unknown.
    pub fn negotiate(
        headers: &HeaderMap,
        query: &Query,
        endpoint: Endpoint,
    ) -> Result<Self, ApiError> {
        let accept = exchange::joined(headers, &header::ACCEPT);
        let mut media = negotiate::negotiate(accept.as_deref(), endpoint)?;
        media.pretty |= query.is_true("pretty");
        let include = match media.as_kind {
            Some((AsKind::Table, _)) => IncludeObject::parse(query.get("includeObject"))?,
            _ => IncludeObject::default(),
        };
        Ok(Self {
            media,
            endpoint,
            include,
        })
    }

    /// The `Content-Type` of the response.
    #[must_use]
    pub fn content_type(&self) -> &'static str {
        self.media.content_type(self.endpoint)
    }

    /// The Table options when a Table was asked for.
    #[must_use]
    pub fn table(&self) -> Option<TableOptions> {
        match self.media.as_kind {
            Some((AsKind::Table, version)) => Some(TableOptions {
                include: self.include,
                version,
            }),
            _ => None,
        }
    }

    /// The version of PartialObjectMetadata when that was asked for.
    #[must_use]
    pub fn partial(&self) -> Option<MetaVersion> {
        match self.media.as_kind {
            Some((AsKind::PartialObjectMetadata | AsKind::PartialObjectMetadataList, version)) => {
                Some(version)
            }
            _ => None,
        }
    }

    /// A response that holds one object.
    #[must_use]
    pub fn object(&self, code: u16, view: &View, version: Version<'_>) -> Response {
        Response::new(code, self.content_type(), self.object_bytes(view, version))
    }

    /// One object in the agreed representation.
    #[must_use]
    pub fn object_bytes(&self, view: &View, version: Version<'_>) -> Bytes {
        if let Some(options) = self.table() {
            let object = view.object(version);
            let meta = ListMeta {
                resource_version: object::resource_version(&object)
                    .unwrap_or_default()
                    .to_owned(),
                ..ListMeta::default()
            };
            let mut out = Vec::new();
            table::write_table(&mut out, version.info, [&object], &meta, options);
            return self.json_or_yaml(out);
        }
        match (self.partial(), self.media.format) {
            (Some(wanted), Format::Protobuf) => {
                protobuf::partial_object_metadata(&view.hub(), wanted).into()
            }
            (Some(MetaVersion::V1), Format::Json) if !self.media.pretty => {
                view.partial_json(version.resource)
            }
            (Some(wanted), _) => {
                let partial = Value::Object(partial::from_object(&view.hub(), wanted));
                codec::encode(&partial, self.media.format, self.media.pretty).into()
            }
            (None, Format::Json) if !self.media.pretty => view.json(version),
            (None, format) => codec::encode(
                &Value::Object(view.object(version)),
                format,
                self.media.pretty,
            )
            .into(),
        }
    }

    /// A document that is written as it is: Scale, lists in YAML.
    #[must_use]
    pub fn document(&self, code: u16, value: &Value) -> Response {
        let body = codec::encode(value, self.media.format, self.media.pretty);
        Response::new(code, self.content_type(), body)
    }

    /// JSON text in the agreed format, when that may also be YAML or indented.
    #[must_use]
    pub fn json_or_yaml(&self, json: Vec<u8>) -> Bytes {
        if self.media.format == Format::Json && !self.media.pretty {
            return json.into();
        }
        let value: Value = serde_json::from_slice(&json).unwrap_or_default();
        codec::encode(&value, self.media.format, self.media.pretty).into()
    }

    /// The current time, for the AGE of a Table.
    #[must_use]
    pub fn now() -> Timestamp {
        Timestamp::now()
    }
}

/// A Status in the format that the client reads.
#[must_use]
pub fn status_response(headers: &HeaderMap, code: u16, status: &Status) -> Response {
    let accept = exchange::joined(headers, &header::ACCEPT);
    match negotiate::status_format(accept.as_deref()) {
        Format::Protobuf => Response::new(
            code,
            "application/vnd.kubernetes.protobuf",
            protobuf::status(status),
        ),
        Format::Yaml => Response::new(
            code,
            "application/yaml",
            codec::encode(status, Format::Yaml, false),
        ),
        Format::Json => Response::new(
            code,
            "application/json",
            codec::encode(status, Format::Json, false),
        ),
    }
}

/// An error as a response, with `Retry-After` where it is due.
#[must_use]
pub fn error_response(headers: &HeaderMap, error: ApiError) -> Response {
    let (code, retry_after) = (error.code(), error.retry_after());
    let mut response = status_response(headers, code, &error.into_status());
    if let Some(seconds) = retry_after {
        response.set(header::RETRY_AFTER, &seconds.to_string());
    }
    response
}
