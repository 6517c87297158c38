//! Options of list, watch and deletecollection, and what they ask of the store.

use super::query::Query;
use super::refuse_invalid;
use crate::continue_token::ContinueToken;
use crate::error::ApiError;
use crate::field::FieldError;
use crate::field_selector::FieldSelector;
use crate::label_selector::LabelSelector;
use crate::revision;
use crate::shard_selector::ShardSelector;

/// `resourceVersionMatch`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VersionMatch {
    /// At that revision.
    Exact,
    /// At that revision or a later one.
    NotOlderThan,
}

/// How fresh a read must be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReadMode {
    /// As of now, over all replicas.
    Consistent,
    /// Whatever is at hand.
    Any,
    /// At this revision or a later one.
    NotOlderThan(i64),
    /// At this very revision.
    Exact(i64),
    /// The next page of an earlier list.
    Continue(ContinueToken),
}

/// How fresh the objects must be with which a watch begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InitialState {
    /// As of now, over all replicas.
    Consistent,
    /// Whatever is at hand.
    Any,
    /// At this revision or a later one.
    NotOlderThan(i64),
}

/// Where a watch begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WatchStart {
    /// With every object as ADDED, then changes. If bookmarks are allowed, one marks the end of
    /// the initial events.
    State(InitialState),
    /// With changes after the present; `Consistent` or `Any` present.
    Now(InitialState),
    /// With changes after this revision.
    After(i64),
}

/// Options of list, watch and deletecollection.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ListOptions {
    /// `labelSelector`.
    pub label_selector: LabelSelector,
    /// `fieldSelector`; which fields are declared is the resource's to check.
    pub field_selector: FieldSelector,
    /// `shardSelector`, unless sharding is off or nothing is given.
    pub shard_selector: Option<ShardSelector>,
    /// Whether this is a watch.
    pub watch: bool,
    /// `allowWatchBookmarks`.
    pub allow_watch_bookmarks: bool,
    /// `resourceVersion`, as given.
    pub resource_version: String,
    /// `resourceVersionMatch`.
    pub resource_version_match: Option<VersionMatch>,
    /// `timeoutSeconds`.
    pub timeout_seconds: Option<i64>,
    /// `limit`; zero and less are no limit.
    pub limit: i64,
    /// `continue`, as given.
    pub continue_token: String,
    /// `sendInitialEvents`; a watch at resourceVersion unset or 0 has it unless it says otherwise.
    pub send_initial_events: Option<bool>,
}

impl ListOptions {
    /// Reads and validates the query.
    ///
    /// # Errors
    /// 400 for what cannot be decoded, 422 of kind `ListOptions` for contradictions.
    pub fn parse<K: AsRef<str>, V: AsRef<str>>(pairs: &[(K, V)]) -> Result<Self, ApiError> {
        let query = Query::new(pairs);
        let mut options = Self {
            label_selector: LabelSelector::parse(query.text("labelSelector"))?,
            field_selector: FieldSelector::parse(query.text("fieldSelector"))?,
            shard_selector: None,
            watch: query.boolean("watch").unwrap_or(false),
            allow_watch_bookmarks: query.boolean("allowWatchBookmarks").unwrap_or(false),
            resource_version: query.text("resourceVersion").to_owned(),
            resource_version_match: None,
            timeout_seconds: query.integer("timeoutSeconds")?,
            limit: query.integer("limit")?.unwrap_or(0),
            continue_token: query.text("continue").to_owned(),
            send_initial_events: query.boolean("sendInitialEvents"),
        };
        let version_match = query.text("resourceVersionMatch");
        refuse_invalid("ListOptions", &options.contradictions(version_match))?;
        options.resource_version_match = match version_match {
            "Exact" => Some(VersionMatch::Exact),
            "NotOlderThan" => Some(VersionMatch::NotOlderThan),
            _ => None,
        };
        Ok(options)
    }

    /// Reads `shardSelector` too, which a server ignores when sharding is off.
    ///
    /// # Errors
    /// 400 if it is none.
    pub fn sharded<K: AsRef<str>, V: AsRef<str>>(
        mut self,
        pairs: &[(K, V)],
    ) -> Result<Self, ApiError> {
        let text = Query::new(pairs).text("shardSelector");
        if !text.is_empty() {
            self.shard_selector = Some(ShardSelector::parse(text)?);
        }
        Ok(self)
    }

    fn contradictions(&self, version_match: &str) -> Vec<FieldError> {
        if self.watch {
            self.watch_contradictions(version_match)
        } else {
            self.list_contradictions(version_match)
        }
    }

    fn list_contradictions(&self, version_match: &str) -> Vec<FieldError> {
        let field = "resourceVersionMatch";
        let mut errors = Vec::new();
        if !version_match.is_empty() {
            if self.resource_version.is_empty() {
                let rule = "resourceVersionMatch is forbidden unless resourceVersion is provided";
                errors.push(FieldError::forbidden(field, rule));
            }
            if !self.continue_token.is_empty() {
                let rule = "resourceVersionMatch is forbidden when continue is provided";
                errors.push(FieldError::forbidden(field, rule));
            }
            if !matches!(version_match, "Exact" | "NotOlderThan") {
                let known = ["Exact", "NotOlderThan", ""];
                errors.push(FieldError::not_supported(field, version_match, &known));
            }
            if version_match == "Exact" && is_zero(&self.resource_version) {
                let rule = "resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"";
                errors.push(FieldError::forbidden(field, rule));
            }
        }
        if self.send_initial_events.is_some() {
            let rule = "sendInitialEvents is forbidden for list";
            errors.push(FieldError::forbidden("sendInitialEvents", rule));
        }
        errors
    }

    fn watch_contradictions(&self, version_match: &str) -> Vec<FieldError> {
        let field = "resourceVersionMatch";
        let mut errors = Vec::new();
        if self.send_initial_events.is_some() && version_match != "NotOlderThan" {
            let rule = "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan";
            errors.push(FieldError::forbidden(field, rule));
        }
        if !version_match.is_empty() {
            if self.send_initial_events.is_none() {
                let rule = "resourceVersionMatch is forbidden for watch unless sendInitialEvents \
                            is provided";
                errors.push(FieldError::forbidden(field, rule));
            }
            if version_match != "NotOlderThan" {
                errors.push(FieldError::not_supported(
                    field,
                    version_match,
                    &["NotOlderThan"],
                ));
            }
        }
        // A watch that begins with the state has the match that goes with it.
        let implied = self.send_initial_events.is_none()
            && (self.resource_version.is_empty() || is_zero(&self.resource_version));
        if !self.continue_token.is_empty() && (implied || !version_match.is_empty()) {
            let rule = "resourceVersionMatch is forbidden when continue is provided";
            errors.push(FieldError::forbidden(field, rule));
        }
        errors
    }

    /// The most objects that a page may have, if the client limits it.
    #[must_use]
    pub fn page_size(&self) -> Option<usize> {
        usize::try_from(self.limit).ok().filter(|limit| *limit > 0)
    }

    /// Whether nothing is filtered out.
    #[must_use]
    pub fn selects_everything(&self) -> bool {
        self.label_selector.is_empty()
            && self.field_selector.is_empty()
            && self.shard_selector.is_none()
    }

    /// How fresh a list must be.
    ///
    /// # Errors
    /// 400 if the resourceVersion is no number, or the continue token is malformed or comes with
    /// a resourceVersion.
    pub fn read_mode(&self) -> Result<ReadMode, ApiError> {
        if !self.continue_token.is_empty() {
            let token = ContinueToken::decode(&self.continue_token)?;
            if !self.resource_version.is_empty() && !is_zero(&self.resource_version) {
                return Err(ApiError::bad_request(
                    "specifying resource version is not allowed when using continue",
                ));
            }
            return Ok(ReadMode::Continue(token));
        }
        if self.resource_version.is_empty() {
            return Ok(ReadMode::Consistent);
        }
        let revision = revision::parse(&self.resource_version)?;
        Ok(match (revision, self.resource_version_match) {
            (0, _) => ReadMode::Any,
            (_, Some(VersionMatch::Exact)) => ReadMode::Exact(revision),
            (_, Some(VersionMatch::NotOlderThan)) => ReadMode::NotOlderThan(revision),
            // Old clients page through a list at the revision of its first page.
            (_, None) if self.limit > 0 => ReadMode::Exact(revision),
            (_, None) => ReadMode::NotOlderThan(revision),
        })
    }

    /// Where a watch begins.
    ///
    /// # Errors
    /// 400 if the resourceVersion is no number.
    pub fn watch_start(&self) -> Result<WatchStart, ApiError> {
        let revision = revision::parse(&self.resource_version)?;
        let freshness = if self.resource_version.is_empty() {
            InitialState::Consistent
        } else if revision == 0 {
            InitialState::Any
        } else {
            InitialState::NotOlderThan(revision)
        };
        Ok(match (self.send_initial_events, freshness) {
            (None | Some(false), InitialState::NotOlderThan(revision)) => {
                WatchStart::After(revision)
            }
            (Some(false), freshness) => WatchStart::Now(freshness),
            (_, freshness) => WatchStart::State(freshness),
        })
    }
}

/// Zero in any spelling.
fn is_zero(resource_version: &str) -> bool {
    !resource_version.is_empty() && resource_version.bytes().all(|byte| byte == b'0')
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse(query: &str) -> Result<ListOptions, ApiError> {
        let pairs: Vec<(&str, &str)> = query
            .split('&')
            .filter_map(|pair| pair.split_once('='))
            .collect();
        ListOptions::parse(&pairs)
    }

    fn mode(query: &str) -> ReadMode {
        parse(query).unwrap().read_mode().unwrap()
    }

    fn start(query: &str) -> WatchStart {
        parse(&format!("watch=1&{query}"))
            .unwrap()
            .watch_start()
            .unwrap()
    }

    #[test]
    fn the_table_of_versions_and_matches_for_lists() {
        assert_eq!(mode(""), ReadMode::Consistent);
        assert_eq!(mode("resourceVersion=0"), ReadMode::Any);
        assert_eq!(
            mode("resourceVersion=0&resourceVersionMatch=NotOlderThan"),
            ReadMode::Any
        );
        assert_eq!(mode("resourceVersion=0&limit=5"), ReadMode::Any);
        assert_eq!(mode("resourceVersion=7"), ReadMode::NotOlderThan(7));
        assert_eq!(mode("resourceVersion=7&limit=5"), ReadMode::Exact(7));
        let not_older = "resourceVersion=7&resourceVersionMatch=NotOlderThan";
        assert_eq!(mode(not_older), ReadMode::NotOlderThan(7));
        assert_eq!(
            mode(&format!("{not_older}&limit=5")),
            ReadMode::NotOlderThan(7)
        );
        let exact = "resourceVersion=7&resourceVersionMatch=Exact";
        assert_eq!(mode(exact), ReadMode::Exact(7));
        assert_eq!(mode(&format!("{exact}&limit=5")), ReadMode::Exact(7));
    }

    #[test]
    fn contradictions_of_lists_are_invalid_in_upstreams_words() {
        let text = |query: &str| {
            let error = parse(query).unwrap_err();
            assert_eq!(error.code(), 422, "{query}");
            error
                .to_string()
                .replace("ListOptions.meta.k8s.io \"\" is invalid: ", "")
        };
        assert_eq!(
            text("resourceVersionMatch=Exact"),
            "resourceVersionMatch: Forbidden: resourceVersionMatch is forbidden unless \
             resourceVersion is provided"
        );
        assert_eq!(
            text("resourceVersionMatch=bogus&resourceVersion=1"),
            "resourceVersionMatch: Unsupported value: \"bogus\": supported values: \"Exact\", \
             \"NotOlderThan\", \"\""
        );
        assert_eq!(
            text("resourceVersionMatch=Exact&resourceVersion=0"),
            "resourceVersionMatch: Forbidden: resourceVersionMatch \"exact\" is forbidden for \
             resourceVersion \"0\""
        );
        assert_eq!(
            text("resourceVersionMatch=Exact&resourceVersion=1&continue=x"),
            "resourceVersionMatch: Forbidden: resourceVersionMatch is forbidden when continue is \
             provided"
        );
        assert_eq!(
            text("sendInitialEvents=false"),
            "sendInitialEvents: Forbidden: sendInitialEvents is forbidden for list"
        );
    }

    #[test]
    fn contradictions_of_watches_are_invalid_in_upstreams_words() {
        let text = |query: &str| {
            let error = parse(&format!("watch=true&{query}")).unwrap_err();
            assert_eq!(error.code(), 422, "{query}");
            error
                .to_string()
                .replace("ListOptions.meta.k8s.io \"\" is invalid: ", "")
        };
        assert_eq!(
            text("sendInitialEvents=true"),
            "resourceVersionMatch: Forbidden: sendInitialEvents requires setting \
             resourceVersionMatch to NotOlderThan"
        );
        assert_eq!(
            text("resourceVersionMatch=NotOlderThan"),
            "resourceVersionMatch: Forbidden: resourceVersionMatch is forbidden for watch unless \
             sendInitialEvents is provided"
        );
        assert_eq!(
            text("sendInitialEvents=true&resourceVersionMatch=Exact"),
            "[resourceVersionMatch: Forbidden: sendInitialEvents requires setting \
             resourceVersionMatch to NotOlderThan, resourceVersionMatch: Unsupported value: \
             \"Exact\": supported values: \"NotOlderThan\"]"
        );
    }

    #[test]
    fn a_watch_does_not_go_on_with_a_list() {
        assert_eq!(parse("watch=1&continue=x").unwrap_err().code(), 422);
        assert_eq!(
            parse("watch=1&continue=x&resourceVersion=0")
                .unwrap_err()
                .code(),
            422
        );
        assert!(parse("watch=1&continue=x&resourceVersion=7").is_ok());
    }

    #[test]
    fn the_table_of_watch_starts() {
        use InitialState::{Any, Consistent, NotOlderThan};
        assert_eq!(start(""), WatchStart::State(Consistent));
        assert_eq!(start("resourceVersion=0"), WatchStart::State(Any));
        assert_eq!(start("resourceVersion=7"), WatchStart::After(7));
        let initial = "resourceVersionMatch=NotOlderThan&sendInitialEvents=true";
        assert_eq!(start(initial), WatchStart::State(Consistent));
        assert_eq!(
            start(&format!("{initial}&resourceVersion=0")),
            WatchStart::State(Any)
        );
        assert_eq!(
            start(&format!("{initial}&resourceVersion=7")),
            WatchStart::State(NotOlderThan(7))
        );
        let none = "resourceVersionMatch=NotOlderThan&sendInitialEvents=false";
        assert_eq!(start(none), WatchStart::Now(Consistent));
        assert_eq!(
            start(&format!("{none}&resourceVersion=0")),
            WatchStart::Now(Any)
        );
        assert_eq!(
            start(&format!("{none}&resourceVersion=7")),
            WatchStart::After(7)
        );
    }

    #[test]
    fn what_is_no_number_is_a_bad_request() {
        for query in [
            "limit=abc",
            "limit=9223372036854775808",
            "timeoutSeconds=abc",
        ] {
            assert_eq!(parse(query).unwrap_err().code(), 400, "{query}");
        }
        let options = parse("resourceVersion=abc").unwrap();
        assert_eq!(options.read_mode().unwrap_err().code(), 400);
        assert_eq!(options.watch_start().unwrap_err().code(), 400);
        assert_eq!(parse("limit=-1").unwrap().page_size(), None);
        assert_eq!(parse("limit=3").unwrap().page_size(), Some(3));
    }

    #[test]
    fn a_continue_token_stands_alone() {
        let token = ContinueToken::after(7, None, "a");
        let query = format!("limit=5&continue={}", token.encode());
        assert_eq!(mode(&query), ReadMode::Continue(token.clone()));
        assert_eq!(
            mode(&format!("{query}&resourceVersion=0")),
            ReadMode::Continue(token)
        );
        let both = parse(&format!("{query}&resourceVersion=7")).unwrap();
        assert_eq!(
            both.read_mode().unwrap_err().to_string(),
            "specifying resource version is not allowed when using continue"
        );
        let garbage = parse("continue=garbage").unwrap().read_mode().unwrap_err();
        assert_eq!(garbage.code(), 400);
    }

    #[test]
    fn malformed_selectors_are_bad_requests() {
        assert_eq!(parse("labelSelector=a in (").unwrap_err().code(), 400);
        assert_eq!(parse("fieldSelector=zzz").unwrap_err().code(), 400);
        let options = parse("labelSelector=a").unwrap();
        assert!(!options.selects_everything() && parse("").unwrap().selects_everything());
    }

    proptest! {
        #[test]
        fn any_query_is_read_or_refused(
            pairs in proptest::collection::vec((
                proptest::sample::select(vec![
                    "watch", "limit", "continue", "resourceVersion", "resourceVersionMatch",
                    "sendInitialEvents", "labelSelector", "fieldSelector", "timeoutSeconds",
                ]),
                prop_oneof!["", "0", "1", "7", "-1", "abc", "true", "Exact", "NotOlderThan", ".{0,8}"],
            ), 0..6)
        ) {
            match ListOptions::parse(&pairs) {
                Ok(options) => {
                    let _ = (options.read_mode(), options.watch_start());
                }
                Err(error) => prop_assert!(matches!(error.code(), 400 | 422)),
            }
        }
    }
}
