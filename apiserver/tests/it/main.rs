//! The real binary, standalone, over HTTPS and by kubectl.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "helpers of tests fail as tests do"
)]

mod kubectl;
mod lifecycle;
mod server;
mod widgets;
