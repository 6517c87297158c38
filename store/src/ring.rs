//! The latest events of one collection, in memory.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::types::{Event, Revision};

/// What an event costs in memory beside its bodies.
const OVERHEAD: usize = 256;

/// All events of the collection after `start` and up to `position`.
pub(crate) struct Ring<V> {
    events: VecDeque<(Instant, Arc<Event<V>>)>,
    /// How many events were dropped from the front, ever: the number of the first one kept.
    first: u64,
    start: Revision,
    position: Revision,
    bytes: usize,
    most_bytes: usize,
    longest: Duration,
    /// Counts the resets: revisions of different lives cannot be compared.
    life: u64,
}

/// Where a reader of a ring is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cursor {
    /// All events up to here have been read.
    pub(crate) after: Revision,
    /// The number of the next event, if that is known.
    next: Option<u64>,
    life: u64,
}

impl Cursor {
    /// Moves to a revision, which need not be in the ring.
    pub(crate) fn jump(&mut self, after: Revision) {
        *self = Self {
            after,
            next: None,
            life: self.life,
        };
    }
}

/// The events that a reader needs are not in the ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Miss {
    /// No longer: the ring is complete only from here on.
    Below(Revision),
    /// Nor anywhere: they were of another life of the database.
    OtherLife,
}

impl<V> Ring<V> {
    pub(crate) fn new(most_bytes: usize, longest: Duration) -> Self {
        Self {
            events: VecDeque::new(),
            first: 0,
            start: Revision::ZERO,
            position: Revision::ZERO,
            bytes: 0,
            most_bytes,
            longest,
            life: 0,
        }
    }

    /// Forgets everything and begins anew; cursors from before are void.
    pub(crate) fn reset(
        &mut self,
        start: Revision,
        events: Vec<(Instant, Arc<Event<V>>)>,
        position: Revision,
    ) {
        let dropped = u64::try_from(self.events.len()).unwrap_or(u64::MAX);
        self.first = self.first.saturating_add(dropped).saturating_add(1);
        self.events = events.into();
        self.bytes = self.events.iter().map(|(_, event)| cost(event)).sum();
        self.start = start;
        self.position = position;
        self.life += 1;
    }

    pub(crate) fn cursor(&self, after: Revision) -> Cursor {
        Cursor {
            after,
            next: None,
            life: self.life,
        }
    }

    pub(crate) fn life(&self) -> u64 {
        self.life
    }

    pub(crate) fn push(&mut self, events: &[Arc<Event<V>>], position: Revision, now: Instant) {
        for event in events {
            self.bytes += cost(event);
            self.events.push_back((now, Arc::clone(event)));
        }
        self.position = position;
        self.trim(now);
    }

    /// Drops what is over the limits.
    pub(crate) fn trim(&mut self, now: Instant) {
        while let Some((at, event)) = self.events.front() {
            let old = now.saturating_duration_since(*at) > self.longest;
            if !old && self.bytes <= self.most_bytes {
                break;
            }
            self.bytes = self.bytes.saturating_sub(cost(event));
            self.start = event.revision;
            self.first += 1;
            self.events.pop_front();
        }
    }

    pub(crate) fn start(&self) -> Revision {
        self.start
    }

    pub(crate) fn len(&self) -> usize {
        self.events.len()
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// The events after the cursor that `wanted` picks, at most `most`; moves the cursor over all
    /// that it looked at, and to the ring's position when it has seen the end.
    pub(crate) fn read(
        &self,
        cursor: &mut Cursor,
        most: usize,
        wanted: impl Fn(&Event<V>) -> bool,
    ) -> Result<Vec<Arc<Event<V>>>, Miss> {
        if cursor.life != self.life {
            return Err(Miss::OtherLife);
        }
        if cursor.after < self.start {
            return Err(Miss::Below(self.start));
        }
        let mut found = Vec::new();
        let from = self.index_of(cursor);
        let mut index = from;
        for (_, event) in self.events.range(from..) {
            if found.len() == most {
                cursor.next = Some(self.first + u64::try_from(index).unwrap_or(0));
                return Ok(found);
            }
            index += 1;
            if event.revision > cursor.after {
                cursor.after = event.revision;
                if wanted(event) {
                    found.push(Arc::clone(event));
                }
            }
        }
        cursor.next = Some(self.first + u64::try_from(index).unwrap_or(0));
        cursor.after = cursor.after.max(self.position);
        Ok(found)
    }

    /// The events after `after`, newest first.
    pub(crate) fn newest_after(&self, after: Revision) -> Vec<Arc<Event<V>>> {
        let newest = self
            .events
            .iter()
            .rev()
            .take_while(|(_, event)| event.revision > after);
        newest.map(|(_, event)| Arc::clone(event)).collect()
    }

    fn index_of(&self, cursor: &Cursor) -> usize {
        let known = cursor.next.and_then(|next| next.checked_sub(self.first));
        match known.and_then(|index| usize::try_from(index).ok()) {
            Some(index) if index <= self.events.len() => index,
            _ => self
                .events
                .partition_point(|(_, event)| event.revision <= cursor.after),
        }
    }
}

fn cost<V>(event: &Event<V>) -> usize {
    OVERHEAD + event.current.size
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::types::{EventKind, Key, Stored};

    const FOR_EVER: Duration = Duration::from_secs(1 << 30);

    fn event(revision: i64, size: usize) -> Arc<Event<()>> {
        let revision = Revision::new(revision);
        let key = Key::new("", revision.to_string());
        let current = Arc::new(Stored {
            key,
            uid: Uuid::nil(),
            revision,
            size,
            view: (),
        });
        Arc::new(Event {
            kind: EventKind::Added,
            revision,
            previous: None,
            current,
        })
    }

    /// A ring that has room for four events of 100 bytes, filled with 10, 20, …
    fn ring(count: i64) -> Ring<()> {
        let mut ring = Ring::new(4 * (OVERHEAD + 100), FOR_EVER);
        for n in 1..=count {
            ring.push(&[event(n * 10, 100)], Revision::new(n * 10), Instant::now());
        }
        ring
    }

    fn read(ring: &Ring<()>, cursor: &mut Cursor, most: usize) -> Result<Vec<i64>, Miss> {
        let events = ring.read(cursor, most, |_| true)?;
        Ok(events.iter().map(|event| event.revision.get()).collect())
    }

    #[test]
    fn a_ring_holds_as_many_bytes_as_it_may() {
        let ring = ring(10);
        assert_eq!((ring.len(), ring.start()), (4, Revision::new(60)));
        assert_eq!(ring.bytes(), 4 * (OVERHEAD + 100));
    }

    #[test]
    fn old_events_go_when_their_time_is_over() {
        let mut ring = Ring::new(usize::MAX, Duration::from_secs(5));
        let now = Instant::now();
        ring.push(&[event(10, 1)], Revision::new(10), now);
        ring.push(
            &[event(20, 1)],
            Revision::new(20),
            now + Duration::from_secs(3),
        );
        ring.trim(now + Duration::from_secs(5));
        assert_eq!(ring.start(), Revision::ZERO);
        ring.trim(now + Duration::from_secs(6));
        assert_eq!((ring.start(), ring.len()), (Revision::new(10), 1));
    }

    #[test]
    fn a_cursor_reads_every_event_once_also_over_a_trim() {
        let mut ring = ring(4);
        let mut cursor = ring.cursor(Revision::new(5));
        assert_eq!(read(&ring, &mut cursor, 2), Ok(vec![10, 20]));
        assert_eq!(cursor.after, Revision::new(20));
        ring.push(
            &[event(50, 100), event(60, 100)],
            Revision::new(65),
            Instant::now(),
        );
        assert_eq!(read(&ring, &mut cursor, 9), Ok(vec![30, 40, 50, 60]));
        assert_eq!(cursor.after, Revision::new(65));
        assert_eq!(read(&ring, &mut cursor, 9), Ok(vec![]));
    }

    #[test]
    fn a_cursor_below_the_ring_is_told_where_the_ring_starts() {
        let ring = ring(10);
        let mut cursor = ring.cursor(Revision::new(59));
        assert_eq!(
            read(&ring, &mut cursor, 9),
            Err(Miss::Below(Revision::new(60)))
        );
        cursor.jump(Revision::new(60));
        assert_eq!(read(&ring, &mut cursor, 9), Ok(vec![70, 80, 90, 100]));
    }

    #[test]
    fn a_cursor_of_another_life_reads_nothing() {
        let mut ring = ring(3);
        let mut cursor = ring.cursor(Revision::new(30));
        ring.reset(Revision::new(1), Vec::new(), Revision::new(1));
        assert_eq!(read(&ring, &mut cursor, 9), Err(Miss::OtherLife));
    }

    #[test]
    fn what_is_not_wanted_moves_the_cursor_all_the_same() {
        let ring = ring(4);
        let mut cursor = ring.cursor(Revision::ZERO);
        let found = ring
            .read(&mut cursor, 9, |event| event.revision.get() == 20)
            .unwrap();
        assert_eq!((found.len(), cursor.after), (1, Revision::new(40)));
    }
}
