//! Leader election by a Lease, with client-go's rules and times.
//!
//! A candidate never compares its clock with the holder's: it takes the Lease when
//! it has watched it unchanged for the whole lease duration. A leader that cannot
//! renew gives up before that time is over, so that two never lead at once.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::Api;
use kube::api::{ObjectMeta, PostParams};
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tokio_util::sync::CancellationToken;

use crate::backoff::scattered;
use crate::error::ControllerError;
use crate::metrics::Metrics;
use crate::names::CONTROLLER;

/// How long a Lease is good for after it was last renewed.
const LEASE_DURATION: Duration = Duration::from_secs(15);
/// How long a leader tries to renew before it gives up.
const RENEW_DEADLINE: Duration = Duration::from_secs(10);
/// How often a Lease is looked at or renewed.
const RETRY_PERIOD: Duration = Duration::from_secs(2);
/// How long giving the Lease back may take.
const RELEASE_LIMIT: Duration = Duration::from_secs(2);

/// The requests of an election.
pub(crate) trait Leases: Send + Sync {
    /// The Lease, if it exists.
    fn get(&self) -> impl Future<Output = Result<Option<Lease>, ControllerError>> + Send;
    /// Makes it; a conflict if it exists.
    fn create(&self, lease: &Lease) -> impl Future<Output = LeaseResult> + Send;
    /// Writes it; a conflict if somebody else wrote since.
    fn replace(&self, lease: &Lease) -> impl Future<Output = LeaseResult> + Send;
}

type LeaseResult = Result<Lease, ControllerError>;

/// The Lease in the API.
pub(crate) struct ApiLeases {
    api: Api<Lease>,
    metrics: Metrics,
}

impl ApiLeases {
    pub(crate) fn new(api: Api<Lease>, metrics: Metrics) -> Self {
        Self { api, metrics }
    }
}

impl Leases for ApiLeases {
    async fn get(&self) -> Result<Option<Lease>, ControllerError> {
        let answer = self.api.get_opt(CONTROLLER).await;
        answer.map_err(ControllerError::request("read the Lease"))
    }

    async fn create(&self, lease: &Lease) -> LeaseResult {
        self.metrics.lease_writes.inc();
        let answer = self.api.create(&PostParams::default(), lease).await;
        answer.map_err(ControllerError::request("create the Lease"))
    }

    async fn replace(&self, lease: &Lease) -> LeaseResult {
        self.metrics.lease_writes.inc();
        let parameters = PostParams::default();
        let answer = self.api.replace(CONTROLLER, &parameters, lease).await;
        answer.map_err(ControllerError::request("write the Lease"))
    }
}

/// The Lease as last seen, and since when it has been like that.
#[derive(Clone, Debug)]
struct Seen {
    lease: Lease,
    since: Instant,
}

/// What a look at the Lease leads to.
#[derive(Debug, PartialEq)]
enum Decision {
    /// Somebody else holds it.
    Wait,
    Create(Lease),
    Replace(Lease),
}

/// When this process last held the Lease for certain; for the liveness check.
#[derive(Clone, Debug, Default)]
pub(crate) struct Renewal {
    at: Arc<Mutex<Option<Instant>>>,
}

impl Renewal {
    fn set(&self, at: Option<Instant>) {
        *self.at.lock().unwrap_or_else(PoisonError::into_inner) = at;
    }

    fn get(&self) -> Option<Instant> {
        *self.at.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Fails when this process leads on a Lease that ran out long ago: its renewals
    /// hang, and a restart would help.
    pub(crate) fn check(&self) -> Result<(), String> {
        match self.get().map(|at| at.elapsed()) {
            Some(age) if age > LEASE_DURATION * 2 => {
                Err(format!("leading on a Lease renewed {age:?} ago"))
            }
            _ => Ok(()),
        }
    }
}

/// One candidate.
pub(crate) struct Elector<L> {
    leases: L,
    identity: String,
    seen: Option<Seen>,
    renewal: Renewal,
}

impl<L: Leases> Elector<L> {
    pub(crate) fn new(leases: L, identity: String) -> Self {
        Self {
            leases,
            identity,
            seen: None,
            renewal: Renewal::default(),
        }
    }

    pub(crate) fn renewal(&self) -> Renewal {
        self.renewal.clone()
    }

    /// Waits until this process leads; false when it is to stop instead.
    pub(crate) async fn acquire(&mut self, stop: &CancellationToken) -> bool {
        loop {
            let attempt = timeout(RENEW_DEADLINE, self.attempt());
            let attempt = tokio::select! {
                () = stop.cancelled() => return false,
                attempt = attempt => attempt,
            };
            match attempt {
                Ok(Ok(Some(since))) => {
                    self.renewal.set(Some(since));
                    tracing::info!(identity = self.identity, "leading");
                    return true;
                }
                Ok(Ok(None)) => {}
                Ok(Err(error)) => {
                    tracing::info!(error = error.describe(), "cannot campaign, trying again");
                }
                Err(_) => tracing::info!("cannot campaign: no answer, trying again"),
            }
            tokio::select! {
                () = stop.cancelled() => return false,
                () = sleep(scattered(RETRY_PERIOD)) => {}
            }
        }
    }

    /// Renews the Lease for as long as that works; returns when it is lost.
    pub(crate) async fn hold(&mut self) {
        // Not from now on: the answer to the request that took the Lease may have come late.
        let mut renewed = self.renewal.get().unwrap_or_else(Instant::now);
        loop {
            sleep(RETRY_PERIOD).await;
            let deadline = renewed + RENEW_DEADLINE;
            match timeout_at(deadline, self.attempt()).await {
                Ok(Ok(Some(since))) => {
                    renewed = since;
                    self.renewal.set(Some(since));
                }
                Ok(Ok(None)) => break tracing::info!("another process holds the Lease"),
                Ok(Err(error)) => {
                    tracing::info!(error = error.describe(), "cannot renew the Lease");
                }
                Err(_) => break tracing::info!("the Lease was not renewed in time"),
            }
            if Instant::now() >= deadline {
                break tracing::info!("the Lease could not be renewed in time");
            }
        }
        self.renewal.set(None);
    }

    /// Gives the Lease back, so that the next leader need not wait it out.
    pub(crate) async fn release(&mut self) {
        self.renewal.set(None);
        let release = async {
            let Some(mut lease) = self.leases.get().await? else {
                return Ok(());
            };
            let now = MicroTime(Timestamp::now());
            let spec = lease.spec.get_or_insert_default();
            if spec.holder_identity.as_deref() != Some(self.identity.as_str()) {
                return Ok(());
            }
            spec.holder_identity = Some(String::new());
            spec.lease_duration_seconds = Some(1);
            spec.renew_time = Some(now.clone());
            spec.acquire_time = Some(now);
            self.leases.replace(&lease).await.map(|_| ())
        };
        match timeout(RELEASE_LIMIT, release).await {
            Ok(Ok(())) => tracing::info!("the Lease is given back"),
            Ok(Err(error)) => {
                tracing::info!(error = error.describe(), "the Lease is left to run out");
            }
            Err(_) => tracing::info!("the Lease is left to run out: no answer"),
        }
        self.seen = None;
    }

    /// One try to take or renew the Lease. `Some` with the time from which it
    /// counts, which is before the request was sent; `None` if it is another's.
    async fn attempt(&mut self) -> Result<Option<Instant>, ControllerError> {
        let now = Instant::now();
        // A holder writes at once, and looks only when that fails.
        let seen = self.seen.as_ref().and_then(|seen| holder(&seen.lease));
        let held = seen == Some(&self.identity);
        if held && self.write(now).await? {
            return Ok(Some(now));
        }
        let lease = self.leases.get().await?;
        self.look(lease, Instant::now());
        let now = Instant::now();
        Ok(self.write(now).await?.then_some(now))
    }

    /// Carries out the decision of `now`; true when this process holds the Lease.
    async fn write(&mut self, now: Instant) -> Result<bool, ControllerError> {
        let answer = match decide(self.seen.as_ref(), &self.identity, now, Timestamp::now()) {
            Decision::Wait => return Ok(false),
            Decision::Create(lease) => self.leases.create(&lease).await,
            Decision::Replace(lease) => self.leases.replace(&lease).await,
        };
        match answer {
            Ok(lease) => {
                self.look(Some(lease), now);
                Ok(true)
            }
            Err(error) if error.is_conflict() || error.is_not_found() => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn look(&mut self, lease: Option<Lease>, now: Instant) {
        self.seen = lease.map(|lease| match &self.seen {
            Some(seen) if seen.lease.spec == lease.spec => Seen {
                lease,
                since: seen.since,
            },
            _ => Seen { lease, since: now },
        });
    }
}

fn holder(lease: &Lease) -> Option<&String> {
    let holder = lease.spec.as_ref()?.holder_identity.as_ref()?;
    (!holder.is_empty()).then_some(holder)
}

/// The rules of the election. `now` decides; `wall` is only written down.
fn decide(seen: Option<&Seen>, identity: &str, now: Instant, wall: Timestamp) -> Decision {
    let wall = MicroTime(wall);
    let mut spec = LeaseSpec {
        holder_identity: Some(identity.to_owned()),
        lease_duration_seconds: i32::try_from(LEASE_DURATION.as_secs()).ok(),
        renew_time: Some(wall.clone()),
        acquire_time: Some(wall),
        lease_transitions: Some(0),
        ..LeaseSpec::default()
    };
    let Some(seen) = seen else {
        return Decision::Create(Lease {
            metadata: ObjectMeta {
                name: Some(CONTROLLER.to_owned()),
                ..ObjectMeta::default()
            },
            spec: Some(spec),
        });
    };
    let old = seen.lease.spec.clone().unwrap_or_default();
    let seconds = old
        .lease_duration_seconds
        .unwrap_or(0)
        .max(0)
        .unsigned_abs();
    let runs_out = seen.since + Duration::from_secs(u64::from(seconds));
    let held_by = holder(&seen.lease);
    if held_by.is_some_and(|held_by| held_by != identity) && now < runs_out {
        return Decision::Wait;
    }
    let transitions = old.lease_transitions.unwrap_or(0);
    if held_by.is_some_and(|held_by| held_by == identity) {
        spec.acquire_time = old.acquire_time;
        spec.lease_transitions = Some(transitions);
    } else {
        spec.lease_transitions = Some(transitions.saturating_add(1));
    }
    let mut lease = seen.lease.clone();
    lease.spec = Some(spec);
    Decision::Replace(lease)
}

#[cfg(test)]
mod tests;
