//! The generic API server: registry, verbs, watches, authentication, TLS.
//!
//! A resource is a [`resource::Resource`] and a line in a [`registry::Registry`];
//! [`server::ServerBuilder`] makes a server of them.

pub mod api;
pub mod auth;
mod compression;
pub mod context;
mod decode;
pub mod documents;
mod encode;
pub mod error;
pub mod exchange;
pub mod flow;
mod handlers;
mod http;
mod list_writer;
mod metrics;
pub mod namespaces;
mod permission;
pub mod registry;
pub mod request_info;
pub mod resource;
pub mod server;
mod store_errors;
pub mod target;
pub mod tls;
pub mod view;
pub mod waiting;
mod watch_frames;
pub mod wire;
mod write;
