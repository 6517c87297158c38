//! A thread for a server.

use std::future::Future;

use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::task::{JoinHandle, LocalSet};

/// Runs what is not to leave its thread on one of its own, beside the test.
pub fn spawn<T, F>(start: impl FnOnce() -> F + Send + 'static) -> JoinHandle<T>
where
    T: Send + 'static,
    F: Future<Output = T>,
{
    let runtime = Handle::current();
    let (ended, end) = oneshot::channel();
    std::thread::spawn(move || {
        let outcome = runtime.block_on(LocalSet::new().run_until(start()));
        // The test may be over.
        let _ = ended.send(outcome);
    });
    tokio::spawn(async move { end.await.expect("the thread ended well") })
}
