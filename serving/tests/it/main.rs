//! The generic API server in process, over real sockets.

mod api;
mod thread;
mod wire;
