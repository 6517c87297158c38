//! What the store could not do, in the words of the API.

use std::time::Duration;

use machinery::{error::ApiError, names::GroupResource};
use store::{ReadError, Revision, WriteError};

/// A write's failure; `limit` errors and conflicts keep their object's name.
#[must_use]
pub fn of_write(error: WriteError, resource: &GroupResource, name: &str) -> ApiError {
    match error {
        WriteError::AlreadyExists { .. } => ApiError::already_exists(resource, name),
        WriteError::NotFound => ApiError::not_found(resource, name),
        WriteError::Conflict { .. } => ApiError::modified(resource, name),
        WriteError::Unavailable { retry } => unavailable(retry),
        WriteError::Overloaded { retry } => ApiError::too_many_requests(
            "too many writes are waiting, please try again later",
            seconds(retry),
        ),
        WriteError::OutcomeUnknown => ApiError::timeout(
            "the outcome of the write is unknown, it may have been applied",
            1,
        ),
        WriteError::TooLarge { size, limit } => ApiError::request_entity_too_large(&format!(
            "the object has {size} bytes, limit is {limit}"
        )),
        WriteError::Refused(reason) => {
            ApiError::internal(format!("the database refused a write: {reason}"))
        }
    }
}

/// A read's failure; `asked` is the revision that the client named, if it did.
#[must_use]
pub fn of_read(error: ReadError, asked: Option<Revision>) -> ApiError {
    match error {
        ReadError::TooLarge { current } => {
            ApiError::too_large_resource_version(asked.unwrap_or_default().get(), current.get())
        }
        ReadError::Compacted { .. } => {
            ApiError::expired("The resourceVersion for the provided list is too old.")
        }
        ReadError::Unavailable { retry } => unavailable(retry),
    }
}

fn unavailable(retry: Duration) -> ApiError {
    ApiError::service_unavailable(
        "the storage is unavailable, please try again later",
        seconds(retry),
    )
}

fn seconds(retry: Duration) -> u32 {
    u32::try_from(retry.as_millis().div_ceil(1000))
        .unwrap_or(u32::MAX)
        .max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_failure_of_a_write_says_what_became_of_it() {
        let retry = Duration::from_millis(1500);
        let current = Revision::new(7);
        for (error, code, retry_after) in [
            (WriteError::AlreadyExists { current }, 409, None),
            (WriteError::NotFound, 404, None),
            (WriteError::Conflict { current }, 409, None),
            (WriteError::Unavailable { retry }, 503, Some(2)),
            (
                WriteError::Overloaded {
                    retry: Duration::ZERO,
                },
                429,
                Some(1),
            ),
            (WriteError::OutcomeUnknown, 504, Some(1)),
            (WriteError::TooLarge { size: 2, limit: 1 }, 413, None),
            (WriteError::Refused("secret".to_owned()), 500, None),
        ] {
            let told = of_write(error, &GroupResource::new("g.example", "gizmos"), "a");
            assert_eq!(
                (told.code(), told.retry_after()),
                (code, retry_after),
                "{told}"
            );
            assert!(!told.to_string().contains("secret"), "{told}");
        }
    }

    #[test]
    fn each_failure_of_a_read_tells_the_client_how_to_go_on() {
        let current = Revision::new(7);
        for (error, code, retry_after) in [
            (ReadError::TooLarge { current }, 504, Some(1)),
            (ReadError::Compacted { oldest: current }, 410, None),
            (
                ReadError::Unavailable {
                    retry: Duration::from_secs(3),
                },
                503,
                Some(3),
            ),
        ] {
            let told = of_read(error, Some(Revision::new(9)));
            assert_eq!(
                (told.code(), told.retry_after()),
                (code, retry_after),
                "{told}"
            );
        }
    }
}
