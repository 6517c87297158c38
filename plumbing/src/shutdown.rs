//! How a process learns that it shall stop.

use tokio::signal::unix::{Signal, SignalKind, signal as listen};
use tokio_util::sync::CancellationToken;

/// A token that is cancelled by the first SIGTERM or SIGINT.
///
/// A second signal means that whoever sent it will not wait: the process exits
/// at once with code 1. Call it inside the tokio runtime.
///
/// # Errors
/// The operating system refused the signal handler.
pub fn signal() -> std::io::Result<CancellationToken> {
    let mut terminate = listen(SignalKind::terminate())?;
    let mut interrupt = listen(SignalKind::interrupt())?;
    let token = CancellationToken::new();
    let stop = token.clone();
    tokio::spawn(async move {
        let name = next(&mut terminate, &mut interrupt).await;
        tracing::info!(signal = name, "stopping");
        stop.cancel();
        let name = next(&mut terminate, &mut interrupt).await;
        tracing::info!(signal = name, "stopping at once");
        std::process::exit(1);
    });
    Ok(token)
}

async fn next(terminate: &mut Signal, interrupt: &mut Signal) -> &'static str {
    tokio::select! {
        _ = terminate.recv() => "SIGTERM",
        _ = interrupt.recv() => "SIGINT",
    }
}
