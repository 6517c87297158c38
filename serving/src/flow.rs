//! How many requests may be under way at once: what is over is told to come back, before it costs
//! anything. Watches are not counted, for they wait most of the time, nor is what is served from
//! memory, nor members of `system:masters`, who must get through when nobody else does.

use std::sync::Arc;

use machinery::error::ApiError;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::{auth::UserInfo, request_info::RequestInfo};

/// The group that is never turned away.
const PRIVILEGED: &str = "system:masters";

/// Requests under way at once; 0 is no limit. The defaults are kube-apiserver's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MaxInFlight {
    /// Gets and lists.
    pub reading: usize,
    /// Everything that writes.
    pub mutating: usize,
}

impl Default for MaxInFlight {
    fn default() -> Self {
        Self {
            reading: 400,
            mutating: 200,
        }
    }
}

/// Counts requests under way.
#[derive(Debug)]
pub struct Flow {
    reading: Option<Arc<Semaphore>>,
    mutating: Option<Arc<Semaphore>>,
}

/// A request's place among those under way, until it is dropped.
#[derive(Debug, Default)]
pub struct Seat {
    _place: Option<OwnedSemaphorePermit>,
}

impl Flow {
    /// Nothing is under way yet.
    #[must_use]
    pub fn new(most: MaxInFlight) -> Self {
        let places = |most: usize| (most > 0).then(|| Arc::new(Semaphore::new(most)));
        Self {
            reading: places(most.reading),
            mutating: places(most.mutating),
        }
    }

    /// A seat for a request.
    ///
    /// # Errors
    ///
    /// 429 with `Retry-After` when all are taken.
    pub fn admit(&self, info: &RequestInfo, user: &UserInfo) -> Result<Seat, ApiError> {
        if !info.is_resource || info.is_long_running() {
            return Ok(Seat::default());
        }
        let places = match info.verb.as_str() {
            "get" | "list" => &self.reading,
            _ => &self.mutating,
        };
        let Some(places) = places else {
            return Ok(Seat::default());
        };
        match Arc::clone(places).try_acquire_owned() {
            Ok(place) => Ok(Seat {
                _place: Some(place),
            }),
            Err(_) if user.groups.iter().any(|group| group == PRIVILEGED) => Ok(Seat::default()),
            Err(_) => Err(ApiError::too_many_requests(
                "too many requests, please try again later",
                1,
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request_info::Query;

    fn info(method: &str, path: &str) -> RequestInfo {
        let (path, query) = path.split_once('?').unwrap_or((path, ""));
        RequestInfo::parse(method, path, &Query::parse(query)).unwrap()
    }

    #[test]
    fn readers_and_writers_have_seats_of_their_own_and_some_need_none() {
        let flow = Flow::new(MaxInFlight {
            reading: 1,
            mutating: 1,
        });
        let all = "/apis/g.example/v1/gizmos";
        let one = "/apis/g.example/v1/gizmos/a";
        let nobody = UserInfo::anonymous();
        let mut master = UserInfo::anonymous();
        master.groups.push(PRIVILEGED.to_owned());
        let admit = |method: &str, path: &str| flow.admit(&info(method, path), &nobody);
        for (first, others) in [
            (("GET", all), [("GET", one), ("HEAD", one), ("GET", all)]),
            (
                ("POST", all),
                [("PUT", one), ("DELETE", all), ("PATCH", one)],
            ),
        ] {
            let seat = admit(first.0, first.1).unwrap();
            for (method, path) in others {
                let refused = admit(method, path).unwrap_err();
                assert_eq!((refused.code(), refused.retry_after()), (429, Some(1)));
                flow.admit(&info(method, path), &master).unwrap();
            }
            drop(admit("GET", "/apis/g.example/v1").unwrap());
            drop(admit("GET", "/healthz").unwrap());
            drop(admit("GET", "/apis/g.example/v1/gizmos?watch=1").unwrap());
            drop(seat);
            drop(admit(first.0, first.1).unwrap());
        }
        let unbounded = Flow::new(MaxInFlight {
            reading: 0,
            mutating: 0,
        });
        let seats: Vec<_> = (0..1000)
            .map(|_| unbounded.admit(&info("GET", one), &nobody).unwrap())
            .collect();
        assert_eq!(seats.len(), 1000);
    }
}
