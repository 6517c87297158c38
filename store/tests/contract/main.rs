//! The store's contract, against a real Postgres.

#[cfg(test)]
mod proxy;
#[cfg(test)]
mod support;

#[cfg(test)]
mod compaction;
#[cfg(test)]
mod history;
#[cfg(test)]
mod model;
#[cfg(test)]
mod outages;
#[cfg(test)]
mod pipeline;
#[cfg(test)]
mod reads;
#[cfg(test)]
mod schema;
#[cfg(test)]
mod watches;
#[cfg(test)]
mod writes;
