//! What can go wrong between the controller and the API server, and what that
//! means for the next step.

use std::time::Duration;

use kube::core::Status;

/// The cause that kube-apiserver adds to a 403 while a namespace goes away.
const NAMESPACE_TERMINATING: &str = "NamespaceTerminating";

/// A request that did not do what it should.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ControllerError {
    /// The request failed, or was answered with a Status.
    #[error("cannot {action}")]
    Request {
        /// What the request was for.
        action: &'static str,
        /// What came back.
        #[source]
        source: Box<kube::Error>,
    },
    /// No answer came.
    #[error("cannot {action}: no answer within {limit:?}")]
    Timeout {
        /// What the request was for.
        action: &'static str,
        /// How long the answer was waited for.
        limit: Duration,
    },
}

impl ControllerError {
    /// For `map_err` on a request made for `action`.
    pub(crate) fn request(action: &'static str) -> impl FnOnce(kube::Error) -> Self {
        move |source| Self::Request {
            action,
            source: Box::new(source),
        }
    }

    /// Somebody wrote in between: look again.
    pub(crate) fn is_conflict(&self) -> bool {
        self.status().is_some_and(|status| status.code == 409)
    }

    /// What was asked for is not there.
    pub(crate) fn is_not_found(&self) -> bool {
        self.status().is_some_and(|status| status.code == 404)
    }

    /// The API server's words, when it understood the request and will refuse it
    /// again: something that a person has to change.
    pub(crate) fn refusal(&self) -> Option<&str> {
        let status = self.status()?;
        let causes = status.details.iter().flat_map(|details| &details.causes);
        let terminating = causes
            .into_iter()
            .any(|c| c.reason == NAMESPACE_TERMINATING);
        (matches!(status.code, 400 | 403 | 422) && !terminating).then_some(&status.message)
    }

    /// One of a few words for metrics.
    pub(crate) fn kind(&self) -> &'static str {
        if self.is_conflict() {
            "conflict"
        } else if self.is_not_found() {
            "not_found"
        } else if self.refusal().is_some() {
            "refused"
        } else {
            "unavailable"
        }
    }

    /// The whole story in one line, for the log.
    pub(crate) fn describe(&self) -> String {
        match self.status() {
            Some(status) => format!("{self}: {} ({})", status.message, status.code),
            None => describe(self),
        }
    }

    fn status(&self) -> Option<&Status> {
        match self {
            Self::Request { source, .. } => match &**source {
                kube::Error::Api(status) => Some(status),
                _ => None,
            },
            Self::Timeout { .. } => None,
        }
    }
}

/// An error with its sources, less those that repeat the one above them.
pub(crate) fn describe(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        let more = source.to_string();
        if !text.ends_with(&more) {
            text = format!("{text}: {more}");
        }
        next = source.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answered(code: u16, cause: &str) -> ControllerError {
        let details = serde_json::json!({"causes": [{"reason": cause}]});
        let details = serde_json::from_value(details).unwrap();
        let status = Status::failure("no", "Reason")
            .with_code(code)
            .with_details(details);
        ControllerError::request("apply")(kube::Error::Api(status.boxed()))
    }

    #[test]
    fn an_answer_is_told_from_a_refusal_and_a_refusal_from_an_outage() {
        assert_eq!(answered(409, "").kind(), "conflict");
        assert_eq!(answered(404, "").kind(), "not_found");
        assert_eq!(answered(422, "").kind(), "refused");
        assert_eq!(answered(403, "").refusal(), Some("no"));
        assert_eq!(answered(503, "").kind(), "unavailable");
        assert_eq!(answered(422, "").describe(), "cannot apply: no (422)");
    }

    #[test]
    fn a_namespace_that_goes_away_refuses_nothing_for_good() {
        assert_eq!(answered(403, NAMESPACE_TERMINATING).refusal(), None);
    }
}
