//! The leader's generations of connections, one after the other; between them writes wait for a
//! moment, and then are refused.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;

use crate::doubt::Doubt;
use crate::error::WriteError;
use crate::link::Link;
use crate::pipe::Pipe;
use crate::shared::{RETRY, Shared};
use crate::writer::{Ending, Leader};

/// Between attempts to connect.
pub(crate) const RECONNECT_PAUSE: Duration = Duration::from_millis(100);
/// Writes wait so long for new connections in the place of lost ones, then they are refused. A
/// process of the server that ended alone is replaced within milliseconds.
const PATIENCE: Duration = Duration::from_millis(250);
/// When the store stops, the tail may take so long to bring the last writes into the caches.
const LAST_REACH: Duration = Duration::from_secs(1);

impl Leader {
    /// Serves writes until the store stops.
    pub(crate) async fn run(mut self) {
        let mut link = None;
        while let Some(mut pipe) = self.connect(link).await {
            self.shared.writable.send_replace(true);
            let Ending::Lost(last) = self.serve(&mut pipe).await else {
                break;
            };
            let backend = pipe.backend.clone();
            let unproved = pipe.close().into_iter().chain(last);
            link = match Doubt::new(backend, unproved) {
                Some(doubt) => self.resolve(doubt).await,
                None => None,
            };
            if link.is_none() && self.is_done() {
                break;
            }
        }
        self.refuse_waiting();
        // The tail stops next, and those who were answered still wait for their cache.
        let allotted = self.shared.allotted();
        self.shared.reach(allotted, LAST_REACH).await;
    }

    pub(crate) fn is_done(&self) -> bool {
        self.queue.is_closed() && self.queue.is_empty() && self.pending.is_empty()
    }

    /// A generation of connections to the database that the caches hold, with `link` as its first if
    /// there is one; refuses writes while there is none. `None` when the store stops.
    async fn connect(&mut self, mut link: Option<Link>) -> Option<Pipe> {
        let shared = Arc::clone(&self.shared);
        loop {
            match self.hold(open(&shared, link.take())).await {
                Ok(pipe) => return Some(pipe),
                Err(error) => tracing::debug!(%error, "no connections for writes"),
            }
            self.refuse_waiting();
            tokio::select! {
                () = sleep(RECONNECT_PAUSE) => {}
                () = shared.stop.cancelled() => return None,
            }
        }
    }

    /// Has writes wait while connections are opened, for as long as that usually takes.
    pub(crate) async fn hold<T>(&mut self, opening: impl Future<Output = T>) -> T {
        let mut opening = pin!(opening);
        tokio::select! {
            done = &mut opening => return done,
            () = sleep(PATIENCE) => self.refuse_waiting(),
        }
        opening.await
    }

    /// Refuses what waits, and what comes, until there are connections again.
    pub(crate) fn refuse_waiting(&mut self) {
        self.shared.writable.send_replace(false);
        while let Ok(queued) = self.queue.try_recv() {
            self.pending.push_back(queued);
        }
        for queued in self.pending.drain(..) {
            queued.answer(Err(WriteError::Unavailable { retry: RETRY }));
        }
    }
}

async fn open(shared: &Arc<Shared>, link: Option<Link>) -> Result<Pipe, sqlx::Error> {
    let leader = match link {
        Some(link) => link,
        None => shared.first_link().await?,
    };
    shared.ensure_known(&leader)?;
    Pipe::open(shared, leader).await
}
