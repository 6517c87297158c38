//! Ends responses that their clients do not take.
//!
//! hyper asks a body for nothing while what it gave before waits for the client to make room. A
//! client that goes on reading its connection but leaves one stream alone would so keep that stream,
//! and the snapshot behind a list, for as long as the connection lives: neither the time of a watch
//! nor that of a list is looked at by a body that nobody polls.

use std::cell::Cell;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep_until};

tokio::task_local! {
    /// Since when what the response gave has been waiting for its client, if it is.
    static UNTAKEN: Rc<Cell<Option<Instant>>>;
}

/// Notes that a body was polled: `gave` tells whether it gave something that now waits for the
/// client.
pub(super) fn note(gave: bool) {
    // Bodies that are polled elsewhere, as in unit tests, are nobody's.
    let _ = UNTAKEN.try_with(|since| since.set(gave.then(Instant::now)));
}

/// Notes that bytes went out: a client that takes them, however slowly, is not stalled.
pub(super) fn note_progress() {
    let _ = UNTAKEN.try_with(|since| since.set(since.get().map(|_| Instant::now())));
}

/// Runs what sends the body of one response at a time; `None` when a client took nothing for
/// `limit`. What was run is dropped then, which resets its stream or closes its connection.
pub(super) async fn unless_stalled<F: Future>(limit: Duration, sending: F) -> Option<F::Output> {
    let untaken = Rc::new(Cell::new(None));
    let mut sending = pin!(UNTAKEN.scope(Rc::clone(&untaken), sending));
    let mut timer: Option<Pin<Box<Sleep>>> = None;
    poll_fn(|cx| {
        if let Poll::Ready(done) = sending.as_mut().poll(cx) {
            return Poll::Ready(Some(done));
        }
        let Some(since) = untaken.get() else {
            return Poll::Pending;
        };
        let due: Instant = since + limit;
        let timer = timer.get_or_insert_with(|| Box::pin(sleep_until(due)));
        // It may have been set for something that was taken long ago.
        while timer.as_mut().poll(cx).is_ready() {
            if Instant::now() >= due {
                return Poll::Ready(None);
            }
            timer.as_mut().reset(due);
        }
        Poll::Pending
    })
    .await
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use super::*;

    const LIMIT: Duration = Duration::from_secs(60);

    #[tokio::test(start_paused = true)]
    async fn what_is_taken_now_and_then_goes_on() {
        let sending = async {
            for _ in 0..10 {
                note(true);
                tokio::time::sleep(LIMIT - Duration::from_secs(1)).await;
            }
            // A watch without events.
            note(false);
            tokio::time::sleep(100 * LIMIT).await;
            note(true);
            "done"
        };
        assert_eq!(unless_stalled(LIMIT, sending).await, Some("done"));
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_not_taken_ends_when_its_time_is_over() {
        let began = Instant::now();
        let sending = async {
            note(true);
            tokio::time::sleep(LIMIT / 2).await;
            note(true);
            pending::<()>().await;
        };
        assert_eq!(unless_stalled(LIMIT, sending).await, None);
        let took = began.elapsed();
        assert!(took >= LIMIT * 3 / 2 && took < LIMIT * 2, "{took:?}");
    }
}
