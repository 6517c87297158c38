//! A real Kubernetes control plane on this machine, without containers, with the
//! platform installed in it: what `cargo xtask up` starts and what the tests of
//! this crate run against.
//!
//! The library only starts processes and talks to them as a client would. It
//! links no server crate, so a test can learn nothing that a user could not.
//!
//! Everything that one run owns lies in one state directory ([`state`]). A run
//! that was killed leaves that directory behind, and the next start of any run
//! cleans up what it names.

pub mod balancer;
pub mod binaries;
pub mod certs;
pub mod cluster;
pub mod control_plane;
pub mod harness;
pub mod http;
pub mod kubectl;
pub mod logs;
pub mod packages;
pub mod paths;
pub mod peers;
pub mod platform;
pub mod postgres;
pub mod process;
pub mod servers;
pub mod state;

pub use cluster::{Cluster, Mode, Options};
pub use http::Tls;
