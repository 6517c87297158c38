//! The store's contract, against a real Postgres.

mod support;

mod reads;
mod writes;
