//! Gathers what an HTTP/2 connection writes in one turn into few TLS records and system calls.
//!
//! h2 hands over and flushes every DATA frame by itself. One event for a thousand watches would be
//! a thousand records and a thousand `write` calls, which cost more than all else about it. Here a
//! flush only marks what is gathered; [`Flushed`] sends it when a turn has brought nothing more.

use std::future::Future;
use std::io;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::body::BoxError;

/// Bytes that are gathered before they are sent, flushed or not: four TLS records.
const GATHERED: usize = 64 * 1024;
/// Bytes that are gathered wait for more at most so long, and a turn.
const LONGEST_WAIT: Duration = Duration::from_millis(1);
/// A write of this size is worth a system call of its own, and not worth a copy.
const LARGE: usize = 8 * 1024;

struct Inner<IO> {
    io: IO,
    gathered: BytesMut,
    /// How many bytes were gathered, ever.
    taken: u64,
}

impl<IO: AsyncWrite + Unpin> Inner<IO> {
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.gathered.has_remaining() {
            let count = ready!(Pin::new(&mut self.io).poll_write(cx, &self.gathered))?;
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.gathered.advance(count);
        }
        Poll::Ready(Ok(()))
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_send(cx))?;
        Pin::new(&mut self.io).poll_flush(cx)
    }
}

/// The side that the connection writes to.
pub(super) struct Coalesced<IO>(Arc<Mutex<Inner<IO>>>);

impl<IO> Coalesced<IO> {
    fn inner(&self) -> MutexGuard<'_, Inner<IO>> {
        lock(&self.0)
    }
}

/// Only ever held by the one task of the connection: never waited for.
fn lock<IO>(inner: &Mutex<Inner<IO>>) -> MutexGuard<'_, Inner<IO>> {
    inner.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<IO: AsyncRead + Unpin> AsyncRead for Coalesced<IO> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner().io).poll_read(cx, buf)
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for Coalesced<IO> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[io::IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut inner = self.inner();
        let size = bufs.iter().map(|buf| buf.len()).sum::<usize>();
        if size >= LARGE || inner.gathered.len() + size > GATHERED {
            ready!(inner.poll_send(cx))?;
        }
        if size >= LARGE {
            return Pin::new(&mut inner.io).poll_write_vectored(cx, bufs);
        }
        for buf in bufs {
            inner.gathered.extend_from_slice(buf);
        }
        inner.taken += size as u64;
        Poll::Ready(Ok(size))
    }

    fn is_write_vectored(&self) -> bool {
        self.inner().io.is_write_vectored()
    }

    /// [`Flushed`] does it at the end of the turn.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut inner = self.inner();
        ready!(inner.poll_flush(cx))?;
        Pin::new(&mut inner.io).poll_shutdown(cx)
    }
}

/// A connection that is polled together with the flush of what it wrote.
pub(super) struct Flushed<C, IO> {
    pub(super) connection: Pin<Box<C>>,
    inner: Arc<Mutex<Inner<IO>>>,
    /// What was written waits as long as the tasks that are due write more: since when it does, and
    /// how much had been taken a turn ago.
    waiting: Option<(Instant, u64)>,
}

impl<C, IO> Flushed<C, IO> {
    /// `connect` makes the connection on what it is given.
    pub(super) fn new(io: IO, connect: impl FnOnce(Coalesced<IO>) -> C) -> Self {
        let inner = Arc::new(Mutex::new(Inner {
            io,
            gathered: BytesMut::new(),
            taken: 0,
        }));
        Self {
            connection: Box::pin(connect(Coalesced(Arc::clone(&inner)))),
            inner,
            waiting: None,
        }
    }
}

impl<C, IO, E> Future for Flushed<C, IO>
where
    C: Future<Output = Result<(), E>>,
    E: Into<BoxError>,
    IO: AsyncWrite + Unpin,
{
    type Output = Result<(), BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        if let Poll::Ready(ended) = this.connection.as_mut().poll(cx) {
            return Poll::Ready(ended.map_err(Into::into));
        }
        let mut inner = lock(&this.inner);
        if inner.gathered.has_remaining() {
            let now = Instant::now();
            let (since, seen) = this.waiting.get_or_insert((now, 0));
            let grown = inner.taken > std::mem::replace(seen, inner.taken);
            if grown && now.duration_since(*since) < LONGEST_WAIT {
                // Waking itself would put it before all that other threads have woken.
                let turn = pin!(tokio::task::yield_now());
                return turn.poll(cx).map(|()| Ok(()));
            }
        }
        this.waiting = None;
        match inner.poll_flush(cx) {
            Poll::Ready(Err(error)) => Poll::Ready(Err(error.into())),
            Poll::Ready(Ok(())) | Poll::Pending => Poll::Pending,
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    /// Counts the writes that reach it.
    #[derive(Default)]
    struct Counter {
        writes: Vec<usize>,
        flushed: bool,
    }

    impl AsyncWrite for Counter {
        fn poll_write(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            buf: &[u8],
        ) -> Poll<io::Result<usize>> {
            self.writes.push(buf.len());
            Poll::Ready(Ok(buf.len()))
        }

        fn poll_flush(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            self.flushed = true;
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    type Never = std::future::Pending<Result<(), io::Error>>;

    fn wrapped<IO>(io: IO) -> (Coalesced<IO>, Flushed<Never, IO>) {
        let mut writer = None;
        let flushed = Flushed::new(io, |io| {
            writer = Some(io);
            std::future::pending()
        });
        (writer.unwrap(), flushed)
    }

    #[tokio::test]
    async fn small_writes_of_one_turn_reach_the_socket_as_one() {
        let (mut writer, mut flushed) = wrapped(Counter::default());
        for _ in 0..40 {
            writer.write_all(&[0; 1200]).await.unwrap();
            writer.flush().await.unwrap();
        }
        assert!(writer.inner().io.writes.is_empty());
        // One turn for the others, one for the flush.
        for _ in 0..2 {
            assert!(futures::poll!(&mut flushed).is_pending());
        }
        assert_eq!(writer.inner().io.writes, [48_000]);
        assert!(writer.inner().io.flushed);
    }

    #[tokio::test]
    async fn what_tasks_write_that_another_thread_has_woken_is_gathered_too() {
        let waker = Arc::new(Mutex::new(None));
        let mut writer = None;
        let flushed = Flushed::new(Counter::default(), |io| {
            writer = Some(io);
            let waker = Arc::clone(&waker);
            // As h2's: woken by whoever writes to one of its streams.
            std::future::poll_fn(move |cx| {
                *waker.lock().unwrap() = Some(cx.waker().clone());
                Poll::<io::Result<()>>::Pending
            })
        });
        let writer = Arc::new(Mutex::new(writer.unwrap()));
        let bell = Arc::new(tokio::sync::Notify::new());
        let local = tokio::task::LocalSet::new();
        local.spawn_local(flushed);
        for _ in 0..40 {
            let (writer, waker, bell) = (writer.clone(), waker.clone(), bell.clone());
            local.spawn_local(async move {
                bell.notified().await;
                let piece = &mut [io::IoSlice::new(&[0; 1200])];
                let mut cx = Context::from_waker(std::task::Waker::noop());
                let taken =
                    Pin::new(&mut *writer.lock().unwrap()).poll_write_vectored(&mut cx, piece);
                assert!(matches!(taken, Poll::Ready(Ok(1200))));
                if let Some(waker) = waker.lock().unwrap().take() {
                    waker.wake();
                }
            });
        }
        local
            .run_until(async {
                tokio::task::yield_now().await;
                std::thread::spawn(move || bell.notify_waiters())
                    .join()
                    .unwrap();
                let sent = || {
                    writer
                        .lock()
                        .unwrap()
                        .inner()
                        .io
                        .writes
                        .iter()
                        .sum::<usize>()
                };
                for _ in 0..1000 {
                    if sent() < 40 * 1200 {
                        tokio::task::yield_now().await;
                    }
                }
            })
            .await;
        let writer = writer.lock().unwrap();
        let writes = &writer.inner().io.writes;
        assert_eq!(writes.iter().sum::<usize>(), 40 * 1200);
        assert!(writes.len() <= 10, "{writes:?}");
    }

    #[tokio::test]
    async fn what_is_gathered_is_bounded_and_keeps_its_order() {
        let (mut writer, _flushed) = wrapped(Counter::default());
        for _ in 0..60 {
            writer.write_all(&[0; 1200]).await.unwrap();
        }
        writer.write_all(&[0; LARGE]).await.unwrap();
        assert_eq!(writer.inner().io.writes, [54 * 1200, 6 * 1200, LARGE]);
    }

    #[tokio::test]
    async fn a_full_socket_holds_the_writer_back_and_loses_nothing() {
        let (near, mut far) = tokio::io::duplex(1000);
        let sent: Vec<u8> = (0..200_000_u32).map(|n| n.to_le_bytes()[0]).collect();
        let expected = sent.clone();
        let connection = Flushed::new(near, |mut writer| async move {
            for piece in sent.chunks(700) {
                writer.write_all(piece).await?;
            }
            writer.shutdown().await
        });
        let served = tokio::spawn(connection);
        let mut received = Vec::new();
        far.read_to_end(&mut received).await.unwrap();
        assert_eq!(received, expected);
        served.await.unwrap().unwrap();
    }
}
