//! The real binary, standalone, over HTTPS and by kubectl.

mod kubectl;
mod lifecycle;
mod server;
mod widgets;
