//! The wire and authentication, over real TLS and in both protocols.

mod auth;
mod certificates;
mod client;
mod fake_kube;
mod limits;
mod protocol;
mod shutdown;
mod testbed;
