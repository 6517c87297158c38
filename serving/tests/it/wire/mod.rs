//! The wire and authentication, over real TLS and in both protocols.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "what helps a test fails as a test does"
)]

mod auth;
pub(crate) mod certificates;
pub(crate) mod client;
mod fake_kube;
mod limits;
mod protocol;
mod raw;
mod shutdown;
mod testbed;
