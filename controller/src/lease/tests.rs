//! The rules as a pure function, then candidates on a paused clock against a Lease
//! in memory.

use std::sync::atomic::{AtomicBool, Ordering};

use kube::core::Status;

use super::*;

fn seen(holder: &str, seconds: i32, since: Instant) -> Seen {
    let lease = Lease {
        metadata: ObjectMeta {
            resource_version: Some("7".to_owned()),
            ..ObjectMeta::default()
        },
        spec: Some(LeaseSpec {
            holder_identity: Some(holder.to_owned()),
            lease_duration_seconds: Some(seconds),
            lease_transitions: Some(4),
            acquire_time: Some(MicroTime(Timestamp::UNIX_EPOCH)),
            ..LeaseSpec::default()
        }),
    };
    Seen { lease, since }
}

fn taken(decision: Decision) -> (String, i32, Option<MicroTime>) {
    let (Decision::Create(lease) | Decision::Replace(lease)) = decision else {
        panic!("the Lease is not taken");
    };
    let spec = lease.spec.unwrap();
    (
        spec.holder_identity.unwrap(),
        spec.lease_transitions.unwrap(),
        spec.acquire_time,
    )
}

#[test]
fn the_rules_of_the_election() {
    let start = Instant::now();
    let wall = Timestamp::now();
    let after = |seconds| start + Duration::from_secs(seconds);
    let now = Some(MicroTime(wall));
    let begun = Some(MicroTime(Timestamp::UNIX_EPOCH));
    let me = "me".to_owned();

    let absent = decide(None, "me", start, wall);
    assert!(matches!(absent, Decision::Create(_)));
    assert_eq!(taken(absent), (me.clone(), 0, now.clone()));

    let other = seen("other", 15, start);
    assert_eq!(decide(Some(&other), "me", after(14), wall), Decision::Wait);
    let expired = decide(Some(&other), "me", after(15), wall);
    assert_eq!(taken(expired), (me.clone(), 5, now.clone()));

    let released = seen("", 1, start);
    let free = decide(Some(&released), "me", start, wall);
    assert_eq!(taken(free), (me.clone(), 5, now));

    let mine = seen("me", 15, start);
    for seconds in [1, 100] {
        let renewed = decide(Some(&mine), "me", after(seconds), wall);
        assert_eq!(taken(renewed), (me.clone(), 4, begun.clone()));
    }
}

#[test]
fn a_lease_is_written_with_the_version_it_was_read_at() {
    let now = Instant::now();
    let mine = seen("me", 15, now);
    let Decision::Replace(lease) = decide(Some(&mine), "me", now, Timestamp::now()) else {
        panic!("a Lease that exists is replaced");
    };
    assert_eq!(lease.metadata.resource_version.as_deref(), Some("7"));
}

/// An API server with one Lease, which can be made unreachable.
#[derive(Clone, Default)]
struct Memory {
    lease: Arc<Mutex<Option<Lease>>>,
    down: Arc<AtomicBool>,
    /// How long the answer to a create is on its way.
    lag: Duration,
}

impl Memory {
    fn answer(&self, code: u16) -> ControllerError {
        let status = Status::failure("no", "Reason").with_code(code);
        ControllerError::request("test")(kube::Error::Api(status.boxed()))
    }

    fn is_up(&self) -> Result<(), ControllerError> {
        match self.down.load(Ordering::Relaxed) {
            true => Err(self.answer(503)),
            false => Ok(()),
        }
    }

    fn holder(&self) -> String {
        let lease = self.lease.lock().unwrap();
        lease.as_ref().and_then(holder).cloned().unwrap_or_default()
    }

    fn write(&self, expected: Option<String>, lease: &Lease) -> LeaseResult {
        self.is_up()?;
        let mut stored = self.lease.lock().unwrap();
        let version = |lease: &Lease| lease.metadata.resource_version.clone();
        if stored.as_ref().and_then(version) != expected {
            return Err(self.answer(409));
        }
        let next = expected.map_or(1, |version| version.parse::<u64>().unwrap() + 1);
        let mut lease = lease.clone();
        lease.metadata.resource_version = Some(next.to_string());
        *stored = Some(lease.clone());
        Ok(lease)
    }
}

impl Leases for Memory {
    async fn get(&self) -> Result<Option<Lease>, ControllerError> {
        self.is_up()?;
        Ok(self.lease.lock().unwrap().clone())
    }

    async fn create(&self, lease: &Lease) -> LeaseResult {
        let answer = self.write(None, lease);
        sleep(self.lag).await;
        answer
    }

    async fn replace(&self, lease: &Lease) -> LeaseResult {
        self.write(lease.metadata.resource_version.clone(), lease)
    }
}

fn candidate(memory: &Memory, identity: &str) -> Elector<Memory> {
    Elector::new(memory.clone(), identity.to_owned())
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_is_killed_is_followed_when_its_lease_has_run_out() {
    let memory = Memory::default();
    let stop = CancellationToken::new();
    assert!(candidate(&memory, "a").acquire(&stop).await);
    let start = Instant::now();
    assert!(candidate(&memory, "b").acquire(&stop).await);
    assert_eq!(memory.holder(), "b");
    assert!(start.elapsed() >= LEASE_DURATION, "{:?}", start.elapsed());
    assert!(
        start.elapsed() < LEASE_DURATION * 2,
        "{:?}",
        start.elapsed()
    );
}

#[tokio::test(start_paused = true)]
async fn a_lease_given_back_is_taken_at_the_next_look() {
    let memory = Memory::default();
    let stop = CancellationToken::new();
    let mut first = candidate(&memory, "a");
    assert!(first.acquire(&stop).await);
    first.release().await;
    assert_eq!(memory.holder(), "");
    let start = Instant::now();
    assert!(candidate(&memory, "b").acquire(&stop).await);
    assert!(start.elapsed() < LEASE_DURATION / 2);
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_cannot_renew_gives_up_before_its_lease_runs_out() {
    let memory = Memory::default();
    let mut leader = candidate(&memory, "a");
    assert!(leader.acquire(&CancellationToken::new()).await);
    let renewal = leader.renewal();
    memory.down.store(true, Ordering::Relaxed);
    let start = Instant::now();
    leader.hold().await;
    assert!(start.elapsed() >= RENEW_DEADLINE);
    assert!(start.elapsed() < LEASE_DURATION);
    assert_eq!(renewal.check(), Ok(()), "it no longer leads");
}

#[tokio::test(start_paused = true)]
async fn a_leader_whose_lease_was_granted_long_before_it_heard_gives_up_no_later() {
    let memory = Memory {
        lag: RENEW_DEADLINE - Duration::from_secs(1),
        ..Memory::default()
    };
    let granted = Instant::now();
    let mut leader = candidate(&memory, "a");
    assert!(leader.acquire(&CancellationToken::new()).await);
    memory.down.store(true, Ordering::Relaxed);
    leader.hold().await;
    assert!(granted.elapsed() < LEASE_DURATION);
}

#[tokio::test(start_paused = true)]
async fn a_leader_lasts_through_a_short_outage_and_keeps_the_others_out() {
    let memory = Memory::default();
    let stop = CancellationToken::new();
    let mut leader = candidate(&memory, "a");
    assert!(leader.acquire(&stop).await);
    let mut other = candidate(&memory, "b");
    let outage = async {
        sleep(Duration::from_secs(60)).await;
        memory.down.store(true, Ordering::Relaxed);
        sleep(RENEW_DEADLINE / 2).await;
        memory.down.store(false, Ordering::Relaxed);
        sleep(Duration::from_secs(60)).await;
    };
    tokio::select! {
        () = leader.hold() => panic!("the leader gave up"),
        _ = other.acquire(&stop) => panic!("two lead"),
        () = outage => {}
    }
    assert_eq!(memory.holder(), "a");
}

#[tokio::test(start_paused = true)]
async fn a_leader_stops_as_soon_as_another_holds_the_lease() {
    let memory = Memory::default();
    let mut leader = candidate(&memory, "a");
    assert!(leader.acquire(&CancellationToken::new()).await);
    {
        let mut stored = memory.lease.lock().unwrap();
        let lease = stored.as_mut().unwrap();
        lease.metadata.resource_version = Some("99".to_owned());
        let spec = lease.spec.as_mut().unwrap();
        spec.holder_identity = Some("b".to_owned());
    }
    let start = Instant::now();
    leader.hold().await;
    assert_eq!(start.elapsed(), RETRY_PERIOD);
    assert_eq!(memory.holder(), "b");
}

#[tokio::test(start_paused = true)]
async fn a_candidate_that_is_to_stop_does_not_wait_for_the_lease() {
    let memory = Memory::default();
    let stop = CancellationToken::new();
    assert!(candidate(&memory, "a").acquire(&stop).await);
    stop.cancel();
    assert!(!candidate(&memory, "b").acquire(&stop).await);
}
