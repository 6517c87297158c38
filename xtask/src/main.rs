//! Developer commands: up, down, env, status, test, bench.

fn main() {}
