//! What the API owes its clients, over real HTTPS and a real Postgres.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a helper that panics fails the test that called it"
)]

mod crud;
mod deletion;
mod discovery;
mod encodings;
#[cfg(feature = "faults")]
mod faults;
mod flow;
mod gadgets;
mod gizmos;
mod health;
mod history;
mod hostile;
mod lists;
mod memory;
mod metadata;
mod outage;
mod past;
mod patches;
mod permission;
mod replicas;
mod server;
mod shards;
mod streams;
mod subresources;
mod validation;
mod versions;
mod watches;
