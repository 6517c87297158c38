//! The one error of this crate: what can go wrong while a process starts.

use std::net::SocketAddr;

/// A part of the process's surroundings could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum PlumbingError {
    /// `RUST_LOG` holds something that is not a filter.
    #[error("RUST_LOG is not a valid filter")]
    LogFilter(#[source] tracing_subscriber::filter::ParseError),
    /// Another subscriber is installed already.
    #[error("a tracing subscriber is installed already")]
    Subscriber(#[source] tracing_subscriber::util::TryInitError),
    /// The OTLP exporter refused its endpoint.
    #[error("cannot export traces to {endpoint}")]
    Exporter {
        /// The endpoint as the user gave it.
        endpoint: String,
        /// Why it was refused.
        #[source]
        source: opentelemetry_otlp::ExporterBuildError,
    },
    /// The address of the operators' HTTP server cannot be bound.
    #[error("cannot listen on {address}")]
    Listen {
        /// The address as the user gave it.
        address: SocketAddr,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
}
