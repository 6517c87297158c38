//! Requests to the API server that always come to an end.

use std::time::Duration;

use crate::error::ControllerError;

/// How long an answer is waited for.
const LIMIT: Duration = Duration::from_secs(30);

/// Runs a request made for `action`, bounded in time.
pub(crate) async fn call<T>(
    action: &'static str,
    request: impl Future<Output = Result<T, kube::Error>>,
) -> Result<T, ControllerError> {
    match tokio::time::timeout(LIMIT, request).await {
        Ok(answer) => answer.map_err(ControllerError::request(action)),
        Err(_) => Err(ControllerError::Timeout {
            action,
            limit: LIMIT,
        }),
    }
}
