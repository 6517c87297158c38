//! Delays between attempts: exponential, capped, and scattered so that those who
//! failed together do not come back together.

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

use kube::runtime::utils::Backoff;

/// A delay doubles up to here.
const CAP: Duration = Duration::from_secs(20);
/// The delay before the first retry.
const BASE: Duration = Duration::from_millis(200);

/// How long to wait after so many failures in a row, the first being 1: between
/// half of the exponential delay and all of it.
pub(crate) fn delay(failures: u32) -> Duration {
    let doublings = failures.saturating_sub(1).min(16);
    let full = BASE.saturating_mul(1 << doublings).min(CAP);
    full.mul_f64(0.5 + scatter() / 2.0)
}

/// `period` made longer by up to 1.2 of itself, as client-go scatters candidates.
pub(crate) fn scattered(period: Duration) -> Duration {
    period.mul_f64(1.0 + 1.2 * scatter())
}

/// A number in 0..1 that nobody should rely on.
fn scatter() -> f64 {
    // Each RandomState has other keys, so that the hash of a constant varies.
    let bits = RandomState::new().hash_one(0_u8);
    let high = u32::try_from(bits >> 32).unwrap_or(0);
    f64::from(high) / (f64::from(u32::MAX) + 1.0)
}

/// [`delay`] for a watch that breaks.
#[derive(Debug, Default)]
pub(crate) struct WatchBackoff {
    failures: u32,
}

impl Iterator for WatchBackoff {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        self.failures = self.failures.saturating_add(1);
        Some(delay(self.failures))
    }
}

impl Backoff for WatchBackoff {
    fn reset(&mut self) {
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_up_to_a_cap_and_are_scattered() {
        for (failures, full) in [(1, 200), (2, 400), (4, 1600), (50, 20_000)] {
            let full = Duration::from_millis(full);
            for _ in 0..100 {
                let delay = delay(failures);
                assert!(delay >= full / 2 && delay <= full, "{failures} {delay:?}");
            }
        }
        let scattered: std::collections::HashSet<_> = (0..20).map(|_| delay(9)).collect();
        assert!(scattered.len() > 1);
    }
}
