//! The Widget API server: resource definitions, flags and main.

fn main() {}
