//! What the API owes its clients, over real HTTPS and a real Postgres.

mod crud;
mod deletion;
mod discovery;
mod encodings;
mod gadgets;
mod gizmos;
mod health;
mod hostile;
mod lists;
mod metadata;
mod outage;
mod patches;
mod permission;
mod server;
mod subresources;
mod validation;
mod versions;
mod watches;
