//! Logs and traces, set up once at the start of a process.
//!
//! Logs go to standard error, one JSON object a line, so that whatever collects
//! them needs no parser of ours. Traces leave the process only when an OTLP
//! endpoint is given; without one no exporter, thread or span data exists.

use std::str::FromStr;
use std::time::Duration;

use opentelemetry::propagation::{Extractor, TextMapPropagator};
use opentelemetry::trace::TracerProvider;
use opentelemetry_otlp::{SpanExporter, WithExportConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::{SdkTracerProvider, Tracer};
use tracing::{Metadata, Span, Subscriber};
use tracing_opentelemetry::OpenTelemetrySpanExt;
use tracing_subscriber::filter::{EnvFilter, filter_fn};
use tracing_subscriber::layer::{Layer, SubscriberExt};
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;

use crate::PlumbingError;

/// How long a stopping process waits for its last spans to leave.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(3);

/// actix tells of its workers as of work done; kube of each request that fails and of each watch
/// that is cut, and sqlx of a connection lost while it is given back, although their callers
/// handle these and say so.
const DEFAULT_FILTER: &str = "info,actix_server=warn,kube_client::client=error,\
    kube_client::client::builder=off,sqlx_core::pool=error";

/// The exporter's own stack: its spans would beget spans for ever.
const NEVER_TRACED: [&str; 5] = ["h2", "hyper", "opentelemetry", "tonic", "tower"];

/// The shape of a log line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// One JSON object a line: what a cluster collects.
    #[default]
    Json,
    /// Lines for a person at a terminal.
    Text,
}

impl FromStr for LogFormat {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "json" => Ok(Self::Json),
            "text" => Ok(Self::Text),
            other => Err(format!("unknown log format {other:?}: use json or text")),
        }
    }
}

/// Keeps the trace exporter alive; [`Guard::flush`] it last thing before exit.
#[must_use = "dropping the guard at once ends the export of traces"]
#[derive(Debug)]
pub struct Guard {
    provider: Option<SdkTracerProvider>,
}

impl Guard {
    /// Sends what spans are left, for at most three seconds.
    pub async fn flush(mut self) {
        let Some(provider) = self.provider.take() else {
            return;
        };
        // The exporter blocks its caller while the runtime does the sending.
        let sent =
            tokio::task::spawn_blocking(move || provider.shutdown_with_timeout(FLUSH_TIMEOUT));
        match sent.await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::info!(%error, "the last traces were not exported"),
            Err(error) => tracing::info!(%error, "the export of the last traces broke off"),
        }
    }
}

/// Installs the process's logger and, with an endpoint, the trace exporter.
///
/// The filter is `RUST_LOG`, `info` where that is unset. The endpoint is an OTLP
/// gRPC one, `http://host:4317`. Call it inside the tokio runtime, once.
///
/// # Errors
/// A malformed `RUST_LOG` or endpoint, and a second call.
pub fn init(
    service_name: &'static str,
    format: LogFormat,
    otlp_endpoint: Option<&str>,
) -> Result<Guard, PlumbingError> {
    let filter = match std::env::var(EnvFilter::DEFAULT_ENV) {
        Ok(text) if !text.is_empty() => EnvFilter::try_new(text),
        _ => EnvFilter::try_new(DEFAULT_FILTER),
    };
    let filter = filter.map_err(PlumbingError::LogFilter)?;
    let provider = match otlp_endpoint {
        Some(endpoint) if !endpoint.is_empty() => Some(build_provider(service_name, endpoint)?),
        _ => None,
    };
    let tracer = provider
        .as_ref()
        .map(|provider| provider.tracer(service_name));
    tracing_subscriber::registry()
        .with(filter)
        .with(log_layer(format))
        .with(trace_layer(tracer))
        .try_init()
        .map_err(PlumbingError::Subscriber)?;
    Ok(Guard { provider })
}

/// Makes `span` a child of the caller's span, named by the W3C headers.
///
/// Does nothing when traces are off or `traceparent` is not well-formed. Call it
/// before the span is entered for the first time.
pub fn set_parent(span: &Span, traceparent: &str, tracestate: Option<&str>) {
    let headers = TraceHeaders {
        traceparent,
        tracestate,
    };
    let context = TraceContextPropagator::new().extract(&headers);
    if opentelemetry::trace::TraceContextExt::has_active_span(&context) {
        // An error says that traces are off, or that the span began already.
        let _ = span.set_parent(context);
    }
}

struct TraceHeaders<'a> {
    traceparent: &'a str,
    tracestate: Option<&'a str>,
}

impl Extractor for TraceHeaders<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        match key {
            "traceparent" => Some(self.traceparent),
            "tracestate" => self.tracestate,
            _ => None,
        }
    }

    fn keys(&self) -> Vec<&str> {
        vec!["traceparent", "tracestate"]
    }
}

fn build_provider(
    service_name: &'static str,
    endpoint: &str,
) -> Result<SdkTracerProvider, PlumbingError> {
    let exporter = SpanExporter::builder()
        .with_tonic()
        .with_endpoint(endpoint)
        .build()
        .map_err(|source| PlumbingError::Exporter {
            endpoint: endpoint.to_owned(),
            source,
        })?;
    let resource = Resource::builder().with_service_name(service_name).build();
    Ok(SdkTracerProvider::builder()
        .with_resource(resource)
        .with_batch_exporter(exporter)
        .build())
}

type BoxedLayer<S> = Box<dyn Layer<S> + Send + Sync>;

fn log_layer<S>(format: LogFormat) -> BoxedLayer<S>
where
    S: Subscriber + for<'a> LookupSpan<'a> + Send + Sync,
{
    let layer = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    match format {
        LogFormat::Json => layer
            .json()
            .flatten_event(true)
            .with_current_span(true)
            .with_span_list(false)
            .boxed(),
        LogFormat::Text => layer.with_ansi(false).boxed(),
    }
}

fn trace_layer<S>(tracer: Option<Tracer>) -> Option<BoxedLayer<S>>
where
    S: Subscriber + for<'a> LookupSpan<'a> + Send + Sync,
{
    let layer = tracing_opentelemetry::layer().with_tracer(tracer?);
    Some(layer.with_filter(filter_fn(is_traced)).boxed())
}

fn is_traced(metadata: &Metadata<'_>) -> bool {
    let module = metadata.target().split("::").next().unwrap_or_default();
    !NEVER_TRACED
        .iter()
        .any(|name| module == *name || module.starts_with(&format!("{name}_")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use opentelemetry::trace::{TraceContextExt, TraceId};

    const TRACEPARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    fn parent_trace(traceparent: &str) -> TraceId {
        let provider = SdkTracerProvider::builder().build();
        let layer = tracing_opentelemetry::layer().with_tracer(provider.tracer("test"));
        let subscriber = tracing_subscriber::registry().with(layer);
        tracing::subscriber::with_default(subscriber, || {
            let span = tracing::info_span!("request");
            set_parent(&span, traceparent, Some("vendor=1"));
            span.context().span().span_context().trace_id()
        })
    }

    #[test]
    fn a_span_joins_the_trace_of_its_caller() {
        let expected = TraceId::from_hex("0af7651916cd43dd8448eb211c80319c").unwrap();
        assert_eq!(parent_trace(TRACEPARENT), expected);
    }

    #[test]
    fn a_malformed_traceparent_starts_a_new_trace() {
        for header in ["", "00", "00-zz-b7ad6b7169203331-01", "ff-0-0-0"] {
            let foreign = TraceId::from_hex("0af7651916cd43dd8448eb211c80319c").unwrap();
            assert_ne!(parent_trace(header), foreign, "{header}");
        }
    }

    #[test]
    fn log_formats_are_named_in_lower_case() {
        assert_eq!("json".parse(), Ok(LogFormat::Json));
        assert_eq!("text".parse(), Ok(LogFormat::Text));
        assert!("JSON".parse::<LogFormat>().is_err());
    }
}
