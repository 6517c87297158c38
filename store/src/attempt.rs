//! One batch on the leader's connection: applied, tried again where it lost against another
//! transaction, or refused.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep};
use uuid::Uuid;

use crate::apply::{self, Applied, Header};
use crate::failpoints::{Point, at};
use crate::link::{Failure, Link, classify, within};
use crate::shared::Shared;
use crate::types::Revision;
use crate::writer::Queued;

/// A batch or a barrier that is not answered by then has an unknown outcome.
pub(crate) const ANSWER_TIMEOUT: Duration = Duration::from_secs(3);
/// How often a batch that lost against another transaction is tried again.
const RETRIES: u32 = 5;

/// A batch that the leader's connection is at, or was.
pub(crate) struct Attempt {
    pub(crate) link: Link,
    pub(crate) header: Header,
    pub(crate) began: Instant,
    pub(crate) tried: Tried,
}

/// What became of it.
pub(crate) enum Tried {
    Applied(Applied),
    /// It had no effect, for the reason of this SQLSTATE.
    Refused {
        code: String,
        message: String,
    },
    /// The connection was found dead before anything was sent.
    NotSent,
    Lost(sqlx::Error),
}

pub(crate) async fn attempt(
    shared: Arc<Shared>,
    mut link: Link,
    mut header: Header,
    batch: Arc<Vec<Queued>>,
) -> Attempt {
    let began = Instant::now();
    let tried = try_batch(&shared, &mut link, &mut header, &batch).await;
    Attempt {
        link,
        header,
        began,
        tried,
    }
}

async fn try_batch(
    shared: &Shared,
    link: &mut Link,
    header: &mut Header,
    batch: &[Queued],
) -> Tried {
    // If the tail is lost, this link may be too: better to know before than after.
    if !*shared.tailing.borrow() && !is_alive(link).await {
        return Tried::NotSent;
    }
    if batch.is_empty() {
        let outcomes = Vec::new();
        let base = Revision::ZERO;
        return Tried::Applied(Applied { base, outcomes });
    }
    let mut attempt = 0;
    loop {
        let error = match within(ANSWER_TIMEOUT, apply::apply(link, *header, batch)).await {
            Ok(applied) => return Tried::Applied(applied),
            Err(error) => error,
        };
        let (code, message) = match classify(&error) {
            Failure::Refused { code, message } => (code, message),
            Failure::Lost => return Tried::Lost(error),
        };
        attempt += 1;
        if code == apply::QUEUE_FULL && header.notify {
            tracing::warn!("the queue of notifications is full: others learn of writes by polling");
            header.notify = false;
            continue;
        }
        if apply::is_damage(&code) && batch.len() == 1 && header.floor >= Revision::ZERO {
            tracing::error!(
                message,
                "what a write replaces cannot be read: it is replaced all the same"
            );
            header.floor = Revision::new(-1);
            continue;
        }
        if attempt > RETRIES || !apply::is_transient(&code) {
            return Tried::Refused { code, message };
        }
        if code == apply::NO_PARTITION
            && let Err(error) =
                within(ANSWER_TIMEOUT, apply::extend_events(&mut link.connection)).await
        {
            tracing::error!(%error, "no room in the event log, and none could be made");
            if classify(&error) == Failure::Lost {
                return Tried::Lost(error);
            }
        }
        sleep(retry_pause(attempt)).await;
    }
}

/// Longer each time, and not at the same moment as others who lost: 3 to 7 ms at first.
fn retry_pause(attempt: u32) -> Duration {
    let (_, random) = Uuid::new_v4().as_u64_pair();
    Duration::from_millis(u64::from(attempt) * (3 + random % 5))
}

async fn is_alive(link: &mut Link) -> bool {
    let asking = async {
        at(Point::AliveSend).await?;
        sqlx::query("SELECT 1").execute(&mut link.connection).await
    };
    within(Duration::from_secs(1), asking).await.is_ok()
}
