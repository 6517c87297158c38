//! What a user of the platform sees, on a real control plane.

#![expect(
    clippy::indexing_slicing,
    reason = "a test that finds no value fails, as it should"
)]

mod access;
mod autoscaling;
mod cluster_logs;
mod controller;
mod faults;
mod kubectl;
mod support;
