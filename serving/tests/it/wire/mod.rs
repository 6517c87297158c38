//! The wire and authentication, over real TLS and in both protocols.

mod certificates;
mod client;
mod limits;
mod protocol;
mod shutdown;
mod testbed;
