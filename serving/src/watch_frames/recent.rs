//! The frames made last, so that an event is framed once for all the watchers that it wakes.

use std::cell::RefCell;
use std::collections::VecDeque;

use bytes::Bytes;

/// As many as watchers of different kinds may want of events that come at the same time.
const KEPT: usize = 16;
/// Larger objects are copied for each watcher, as their encryption costs more anyway.
const LARGEST: usize = 32 * 1024;

struct Recent {
    /// Kept, so that its address cannot become another object's.
    object: Bytes,
    kind: &'static str,
    frame: Bytes,
}

thread_local! {
    static FRAMES: RefCell<VecDeque<Recent>> = RefCell::default();
}

/// The frame of `object`, whose encoding is known by its address; `None` when it is too large to
/// be kept.
pub(super) fn frame(
    kind: &'static str,
    object: &Bytes,
    make: impl FnOnce() -> Bytes,
) -> Option<Bytes> {
    if object.len() > LARGEST {
        return None;
    }
    FRAMES.with_borrow_mut(|frames| {
        let same = |one: &&Recent| {
            std::ptr::eq(one.object.as_ptr(), object.as_ptr())
                && one.object.len() == object.len()
                && one.kind == kind
        };
        if let Some(found) = frames.iter().rev().find(same) {
            return Some(found.frame.clone());
        }
        if frames.len() == KEPT {
            frames.pop_front();
        }
        let frame = make();
        frames.push_back(Recent {
            object: object.clone(),
            kind,
            frame: frame.clone(),
        });
        Some(frame)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_is_made_once_for_each_object_and_kind() {
        let object = Bytes::from_static(b"{}");
        let copy = Bytes::copy_from_slice(&object);
        let made = std::cell::Cell::new(0);
        let ask = |kind, object: &Bytes| {
            frame(kind, object, || {
                made.set(made.get() + 1);
                Bytes::from(format!("{kind}{}", made.get()))
            })
        };
        let first = ask("ADDED", &object);
        assert_eq!(ask("ADDED", &object), first);
        assert_ne!(ask("DELETED", &object), first);
        assert_ne!(ask("ADDED", &copy), first);
        assert_eq!(made.get(), 3);
        let others: Vec<Bytes> = (0..KEPT)
            .map(|n| Bytes::copy_from_slice(n.to_string().as_bytes()))
            .collect();
        for other in &others {
            ask("ADDED", other);
        }
        assert_ne!(ask("ADDED", &object), first);
        let large = Bytes::from(vec![0; LARGEST + 1]);
        assert_eq!(ask("ADDED", &large), None);
    }
}
