//! Heeds the server's warnings. A commit whose wait for the standbys was cancelled reports success
//! with a warning, although what it committed can still be lost; sqlx hands notices only to the
//! log, so the log is listened to while such a statement runs.

use std::cell::Cell;
use std::pin::{Pin, pin};
use std::sync::LazyLock;
use std::task::{Context, Poll};

use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::span::{Attributes, Id, Record};
use tracing::{Dispatch, Event, Level, Metadata, Subscriber, dispatcher};

/// Where sqlx logs notices.
const TARGET: &str = "sqlx::postgres::notice";

/// Two of them, of which one is used: while there is just one in the whole process, tracing asks
/// only the default of whatever thread comes by a callsite first whether it is of interest, and
/// where this is not the default, the answer would be never.
static LISTENERS: LazyLock<[Dispatch; 2]> =
    LazyLock::new(|| [Dispatch::new(Listener), Dispatch::new(Listener)]);

thread_local! {
    /// What the server warned of during the poll that runs on this thread.
    static WARNING: Cell<Option<String>> = const { Cell::new(None) };
}

/// The outcome of `doing`, which is unknown if the server warned of something.
pub(crate) async fn without_warning<T>(
    doing: impl Future<Output = Result<T, sqlx::Error>>,
) -> Result<T, sqlx::Error> {
    let mut doing = pin!(doing);
    let mut warning = None;
    let done = std::future::poll_fn(|context| {
        let polled = listen(doing.as_mut(), context);
        warning = WARNING.take().or(warning.take());
        polled
    });
    let done = done.await?;
    match warning {
        None => Ok(done),
        Some(warning) => {
            tracing::warn!(
                warning,
                "a commit came with a warning: its outcome is unknown"
            );
            Err(sqlx::Error::Protocol(warning))
        }
    }
}

fn listen<F: Future>(doing: Pin<&mut F>, context: &mut Context<'_>) -> Poll<F::Output> {
    let [listener, _] = &*LISTENERS;
    dispatcher::with_default(listener, || doing.poll(context))
}

/// Takes in the server's warnings, nothing else.
struct Listener;

impl Subscriber for Listener {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target() == TARGET && *metadata.level() <= Level::WARN
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(LevelFilter::WARN)
    }

    fn event(&self, event: &Event<'_>) {
        let mut message = Message::default();
        event.record(&mut message);
        WARNING.set(Some(message.0));
    }

    fn new_span(&self, _span: &Attributes<'_>) -> Id {
        // Spans are not enabled; every one would be this.
        Id::from_u64(1)
    }

    fn record(&self, _span: &Id, _values: &Record<'_>) {}

    fn record_follows_from(&self, _span: &Id, _follows: &Id) {}

    fn enter(&self, _span: &Id) {}

    fn exit(&self, _span: &Id) {}
}

#[derive(Default)]
struct Message(String);

impl Visit for Message {
    fn record_debug(&mut self, _field: &Field, value: &dyn std::fmt::Debug) {
        self.0 = format!("{value:?}");
    }
}
