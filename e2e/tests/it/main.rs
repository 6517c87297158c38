//! What a user of the platform sees, on a real control plane.

mod access;
mod autoscaling;
mod cluster_logs;
mod controller;
mod faults;
mod kubectl;
mod support;
