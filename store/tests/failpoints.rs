//! Every place where the store can fail does. A program of its own, since what it arms holds for
//! its whole process.

#[cfg(test)]
#[path = "contract/failpoints.rs"]
mod failpoints;
#[cfg(test)]
#[path = "contract/support.rs"]
#[allow(dead_code, reason = "the other tests use more of it")]
mod support;
