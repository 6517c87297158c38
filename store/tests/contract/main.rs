//! The store's contract, against a real Postgres.

mod support;

mod model;
mod reads;
mod schema;
mod watches;
mod writes;
