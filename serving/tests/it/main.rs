//! The generic API server in process, over real sockets.

mod wire;
