//! Deadlines of reading: nobody keeps a connection by sending nothing, or a
//! byte now and then.
//!
//! hyper's own header timeout also ends idle keep-alive connections, after the
//! same time; here a request's head gets seconds and an idle connection a
//! minute and a half.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use super::framing::Framing;
use super::stall;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

/// Length of HTTP/2's preface: after it, pings find a dead peer.
const PREFACE: usize = 24;

/// Requests of one connection.
#[derive(Debug, Clone, Default)]
pub(super) struct Activity(Arc<Counts>);

#[derive(Debug, Default)]
struct Counts {
    begun: AtomicUsize,
    under_way: AtomicUsize,
    /// A head that was read could be taken for two different ones.
    ambiguous: AtomicBool,
}

impl Activity {
    /// Marks the connection as busy until the value is dropped.
    pub(super) fn begin(&self) -> Busy {
        self.0.begun.fetch_add(1, Ordering::Relaxed);
        self.0.under_way.fetch_add(1, Ordering::Relaxed);
        Busy(Arc::clone(&self.0))
    }

    fn is_busy(&self) -> bool {
        self.0.under_way.load(Ordering::Relaxed) > 0
    }

    /// Whether a request of this connection must be refused for what it may hide.
    pub(super) fn is_ambiguous(&self) -> bool {
        self.0.ambiguous.load(Ordering::Relaxed)
    }

    fn begun(&self) -> usize {
        self.0.begun.load(Ordering::Relaxed)
    }

    /// Waits until there was no request for `time`, and at most twice that.
    pub(super) async fn rested(&self, time: Duration) {
        loop {
            let begun = self.begun();
            tokio::time::sleep(time).await;
            if !self.is_busy() && self.begun() == begun {
                return;
            }
        }
    }
}

/// One request under way.
#[derive(Debug)]
pub(super) struct Busy(Arc<Counts>);

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.under_way.fetch_sub(1, Ordering::Relaxed);
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// A request is under way; whoever reads its body has a deadline of their own.
    Busy,
    /// Between requests.
    Idle,
    /// In the middle of a head.
    Head,
    /// HTTP/2 before the end of the preface, with the bytes still to come.
    Preface(usize),
    /// HTTP/2 after its preface.
    Unlimited,
}

/// A connection whose reads time out between and in the heads of requests.
pub(super) struct Guarded<IO> {
    io: IO,
    state: State,
    activity: Activity,
    /// Of HTTP/1.1 alone.
    framing: Option<Framing>,
    /// Requests begun when this last fell idle.
    seen: usize,
    timer: Pin<Box<Sleep>>,
    head: Duration,
    idle: Duration,
}

impl<IO> Guarded<IO> {
    pub(super) fn http1(io: IO, activity: Activity, head: Duration, idle: Duration) -> Self {
        // The first request of a connection has to come at once.
        let timer = Box::pin(tokio::time::sleep(head));
        Self {
            io,
            state: State::Head,
            activity,
            framing: Some(Framing::default()),
            seen: 0,
            timer,
            head,
            idle,
        }
    }

    pub(super) fn http2(io: IO, activity: Activity, preface: Duration) -> Self {
        let mut guarded = Self::http1(io, activity, preface, preface);
        guarded.state = State::Preface(PREFACE);
        guarded.framing = None;
        guarded
    }

    fn wait(&mut self, state: State, time: Duration) {
        self.state = state;
        self.timer.as_mut().reset(Instant::now() + time);
    }

    fn before_read(&mut self) {
        if matches!(self.state, State::Preface(_) | State::Unlimited) {
            return;
        }
        if self.activity.is_busy() {
            self.state = State::Busy;
        } else if self.activity.begun() != self.seen {
            self.seen = self.activity.begun();
            self.wait(State::Idle, self.idle);
        }
    }

    fn after_read(&mut self, count: usize) {
        match self.state {
            State::Idle if count > 0 => self.wait(State::Head, self.head),
            State::Preface(left) if count >= left => self.state = State::Unlimited,
            // The deadline stays: it is one for the whole preface.
            State::Preface(left) => self.state = State::Preface(left - count),
            _ => {}
        }
    }
}

impl<IO: AsyncRead + Unpin> AsyncRead for Guarded<IO> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.before_read();
        let before = buf.filled().len();
        match Pin::new(&mut this.io).poll_read(cx, buf) {
            Poll::Ready(result) => {
                let read = buf.filled().get(before..).unwrap_or_default();
                this.after_read(read.len());
                if let Some(framing) = &mut this.framing
                    && framing.is_ambiguous(read)
                {
                    this.activity.0.ambiguous.store(true, Ordering::Relaxed);
                }
                Poll::Ready(result)
            }
            Poll::Pending => {
                if matches!(this.state, State::Busy | State::Unlimited) {
                    return Poll::Pending;
                }
                this.timer
                    .as_mut()
                    .poll(cx)
                    .map(|()| Err(io::ErrorKind::TimedOut.into()))
            }
        }
    }
}

fn noted(written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
    if matches!(written, Poll::Ready(Ok(1..))) {
        stall::note_progress();
    }
    written
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for Guarded<IO> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        noted(Pin::new(&mut self.get_mut().io).poll_write(cx, buf))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        noted(Pin::new(&mut self.get_mut().io).poll_write_vectored(cx, bufs))
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
}
