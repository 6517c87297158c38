//! A user, as Kubernetes knows them.

use std::collections::BTreeMap;

use http::HeaderValue;

/// The group whose members may do everything, with nobody asked.
pub const MASTERS: &str = "system:masters";
/// The group of everyone who has proven who they are.
pub const AUTHENTICATED: &str = "system:authenticated";
/// The group of those who have not.
pub const UNAUTHENTICATED: &str = "system:unauthenticated";
/// The name of those who have not.
pub const ANONYMOUS: &str = "system:anonymous";

/// Name, uid, groups in their order, and extra values by their lower-case keys.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct UserInfo {
    /// Unique name, such as `system:serviceaccount:default:robot`.
    pub name: String,
    /// Uid, empty when nobody vouched for one.
    pub uid: String,
    /// Groups, repeated and ordered as they came.
    pub groups: Vec<String>,
    /// Whatever else the authenticator knows.
    pub extra: BTreeMap<String, Vec<String>>,
}

impl UserInfo {
    /// `system:anonymous` in `system:unauthenticated`.
    #[must_use]
    pub fn anonymous() -> Self {
        Self {
            name: ANONYMOUS.to_owned(),
            groups: vec![UNAUTHENTICATED.to_owned()],
            ..Self::default()
        }
    }

    /// Whether the user belongs to `group`.
    #[must_use]
    pub fn is_in(&self, group: &str) -> bool {
        self.groups.iter().any(|member| member == group)
    }

    /// Adds `system:authenticated`, unless the user is anonymous or the groups
    /// already say which of the two they are.
    #[must_use]
    pub(super) fn with_authenticated_group(mut self) -> Self {
        let told = self.is_in(AUTHENTICATED) || self.is_in(UNAUTHENTICATED);
        if self.name != ANONYMOUS && !told {
            self.groups.push(AUTHENTICATED.to_owned());
        }
        self
    }
}

/// A header's text. Go sends names as UTF-8 bytes; anything else names nobody.
pub(super) fn header_text(value: &HeaderValue) -> Result<String, String> {
    std::str::from_utf8(value.as_bytes())
        .map(str::to_owned)
        .map_err(|_| "an identity header is not UTF-8".to_owned())
}

/// The key of an extra value, from the rest of a header's name after the
/// prefix: percent-decoded, or as it stands when that fails.
pub(super) fn extra_key(suffix: &str) -> String {
    unescape(suffix).unwrap_or_else(|| suffix.to_owned())
}

fn unescape(text: &str) -> Option<String> {
    let mut bytes = text.bytes();
    let mut out = Vec::with_capacity(text.len());
    while let Some(byte) = bytes.next() {
        if byte == b'%' {
            let digits = [bytes.next()?, bytes.next()?];
            let digits = std::str::from_utf8(&digits).ok()?;
            if !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
                return None;
            }
            out.push(u8::from_str_radix(digits, 16).ok()?);
        } else {
            out.push(byte);
        }
    }
    String::from_utf8(out).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extra_keys_are_unescaped_or_left_alone() {
        assert_eq!(extra_key("example.com%2fproject"), "example.com/project");
        assert_eq!(extra_key("scopes"), "scopes");
        assert_eq!(extra_key("a%2"), "a%2");
        assert_eq!(extra_key("a%+1"), "a%+1");
        assert_eq!(extra_key("%ff"), "%ff");
    }

    #[test]
    fn only_a_named_user_without_either_group_becomes_authenticated() {
        let user = |name: &str, groups: &[&str]| UserInfo {
            name: name.into(),
            groups: groups.iter().map(ToString::to_string).collect(),
            ..UserInfo::default()
        };
        let groups = |user: UserInfo| user.with_authenticated_group().groups;
        assert_eq!(groups(user("alice", &["dev"])), ["dev", AUTHENTICATED]);
        assert_eq!(groups(user("alice", &[AUTHENTICATED])), [AUTHENTICATED]);
        assert_eq!(groups(user("alice", &[UNAUTHENTICATED])), [UNAUTHENTICATED]);
        assert_eq!(groups(UserInfo::anonymous()), [UNAUTHENTICATED]);
    }
}
