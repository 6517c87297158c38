//! Reconciles each Widget into a Deployment and reports its status.

fn main() {}
