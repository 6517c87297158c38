//! The store's contract, against a real Postgres.

mod proxy;
mod support;

mod compaction;
mod model;
mod outages;
mod reads;
mod schema;
mod watches;
mod writes;
