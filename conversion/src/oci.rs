//! OCI image references: `[host[:port]/]path[:tag][@algo:hex]`.
//!
//! The grammar is that of the distribution specification. A string that is a reference has exactly
//! one reading, so taking it apart and joining the parts gives the same string.

/// An image reference, taken apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reference<'a> {
    /// `[host[:port]/]path`.
    pub repository: &'a str,
    /// The part after `:`.
    pub tag: Option<&'a str>,
    /// The part after `@`.
    pub digest: Option<&'a str>,
}

/// Longest repository, host included.
const MAX_REPOSITORY: usize = 255;
/// Longest tag.
const MAX_TAG: usize = 128;
/// Fewest hex digits of a digest whose algorithm is not registered.
const MIN_DIGEST: usize = 32;

impl<'a> Reference<'a> {
    /// Reads a reference, or returns `None` if `text` is none.
    #[must_use]
    pub fn parse(text: &'a str) -> Option<Self> {
        let reference = Self::split(text);
        let is_valid = is_repository_name(reference.repository)
            && reference.tag.is_none_or(is_tag)
            && reference.digest.is_none_or(is_digest);
        is_valid.then_some(reference)
    }

    fn split(text: &'a str) -> Self {
        let (name, digest) = match text.split_once('@') {
            Some((name, digest)) => (name, Some(digest)),
            None => (text, None),
        };
        // A colon before the last slash belongs to the port.
        match name.rsplit_once(':') {
            Some((repository, tag)) if !tag.contains('/') => Self {
                repository,
                tag: Some(tag),
                digest,
            },
            _ => Self {
                repository: name,
                tag: None,
                digest,
            },
        }
    }

    /// The reference as one string.
    #[must_use]
    pub fn join(&self) -> String {
        let mut text = self.repository.to_owned();
        for (separator, part) in [(':', self.tag), ('@', self.digest)] {
            if let Some(part) = part {
                text.push(separator);
                text.push_str(part);
            }
        }
        text
    }
}

/// Whether `text` names a repository and nothing more: no tag, no digest.
#[must_use]
pub fn is_repository(text: &str) -> bool {
    let reference = Reference::split(text);
    reference.tag.is_none() && reference.digest.is_none() && is_repository_name(text)
}

/// Whether `text` is a tag.
#[must_use]
pub fn is_tag(text: &str) -> bool {
    let is_word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    let mut bytes = text.bytes();
    text.len() <= MAX_TAG
        && bytes.next().is_some_and(is_word)
        && bytes.all(|byte| is_word(byte) || matches!(byte, b'.' | b'-'))
}

/// Whether `text` is a digest, `algo:hex`.
#[must_use]
pub fn is_digest(text: &str) -> bool {
    let Some((algorithm, hex)) = text.split_once(':') else {
        return false;
    };
    let is_hex = match algorithm {
        "sha256" => hex.len() == 64 && is_lower_hex(hex),
        "sha512" => hex.len() == 128 && is_lower_hex(hex),
        _ => hex.len() >= MIN_DIGEST && hex.bytes().all(|byte| byte.is_ascii_hexdigit()),
    };
    is_hex
        && algorithm
            .split(['+', '.', '-', '_'])
            .all(is_algorithm_component)
}

fn is_lower_hex(text: &str) -> bool {
    text.bytes()
        .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

fn is_algorithm_component(text: &str) -> bool {
    text.starts_with(|first: char| first.is_ascii_alphabetic())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric())
}

fn is_repository_name(text: &str) -> bool {
    let is_path = |path: &str| path.split('/').all(is_path_component);
    text.len() <= MAX_REPOSITORY
        && (is_path(text)
            || text
                .split_once('/')
                .is_some_and(|(host, path)| is_host(host) && is_path(path)))
}

/// Lower-case letters and digits, in runs joined by `.`, `_`, `__` or any number of `-`.
fn is_path_component(text: &str) -> bool {
    let is_inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let is_separator =
        |run: &str| matches!(run, "" | "." | "_" | "__") || run.bytes().all(|byte| byte == b'-');
    let ends_well = |byte: Option<u8>| byte.is_some_and(is_inner);
    ends_well(text.bytes().next())
        && ends_well(text.bytes().last())
        && text
            .split(|letter: char| u8::try_from(letter).is_ok_and(is_inner))
            .all(is_separator)
}

/// A DNS name or an address, with or without a port.
fn is_host(text: &str) -> bool {
    let (name, port) = match text.rsplit_once(':') {
        Some((name, port)) if !port.ends_with(']') => (name, Some(port)),
        _ => (text, None),
    };
    let is_name = match name
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'))
    {
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
        None => name.split('.').all(is_host_label),
    };
    let is_port = |port: &str| !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
    is_name && port.is_none_or(is_port)
}

fn is_host_label(text: &str) -> bool {
    !text.is_empty()
        && !text.starts_with('-')
        && !text.ends_with('-')
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHA256: &str = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    fn parts(text: &str) -> Option<(&str, Option<&str>, Option<&str>)> {
        Reference::parse(text).map(|found| (found.repository, found.tag, found.digest))
    }

    #[test]
    fn references_are_taken_apart_at_tag_and_digest() {
        let digest_only = format!("nginx@{SHA256}");
        let all = format!("registry.example:5000/team/app:v1.2-rc_3@{SHA256}");
        let cases = [
            ("nginx", ("nginx", None, None)),
            ("nginx:1.27", ("nginx", Some("1.27"), None)),
            ("library/nginx", ("library/nginx", None, None)),
            ("localhost:5000", ("localhost", Some("5000"), None)),
            ("localhost:5000/app", ("localhost:5000/app", None, None)),
            ("[::1]:5000/app:x", ("[::1]:5000/app", Some("x"), None)),
            ("[fe80::1]/app", ("[fe80::1]/app", None, None)),
            (
                "Host-1.Example/a__b/c--d.e",
                ("Host-1.Example/a__b/c--d.e", None, None),
            ),
            (digest_only.as_str(), ("nginx", None, Some(SHA256))),
            (
                all.as_str(),
                (
                    "registry.example:5000/team/app",
                    Some("v1.2-rc_3"),
                    Some(SHA256),
                ),
            ),
        ];
        for (text, expected) in cases {
            assert_eq!(parts(text), Some(expected), "{text}");
            assert_eq!(Reference::parse(text).unwrap().join(), text);
        }
    }

    #[test]
    fn what_is_no_reference_is_refused() {
        let long = "a".repeat(256);
        let long_tag = format!("nginx:{}", "a".repeat(129));
        let upper = format!("nginx@sha256:{}", "A".repeat(64));
        for text in [
            "",
            " ",
            "nginx ",
            "NGINX",
            "nginx:",
            "nginx@",
            ":tag",
            "@sha256:00",
            "nginx:a b",
            "nginx:.tag",
            "nginx:a:b",
            "a//b",
            "/a",
            "a/",
            "a..b",
            "a___b",
            "-a",
            "a-",
            "host:/a",
            "host:port/a",
            "-host.x/a",
            "[::g]/a",
            "nginx@sha256:00",
            "nginx@sha256",
            "nginx@a:b@c",
            "nginx@1a:00000000000000000000000000000000",
            "é",
            "https://host/a",
            &long,
            &long_tag,
            &upper,
        ] {
            assert_eq!(parts(text), None, "{text}");
        }
    }

    #[test]
    fn a_repository_with_a_tag_or_a_digest_is_not_just_a_repository() {
        assert!(is_repository("localhost:5000/app"));
        for text in [
            "",
            "nginx:1",
            "localhost:5000",
            &format!("nginx@{SHA256}"),
            "Nginx",
        ] {
            assert!(!is_repository(text), "{text}");
        }
    }

    #[test]
    fn unregistered_digest_algorithms_need_32_hex_digits() {
        assert!(is_digest(
            "multihash+base58:00000000000000000000000000ABCDEF"
        ));
        assert!(!is_digest("multihash:0000"));
        assert!(!is_digest("a..b:00000000000000000000000000000000"));
    }
}
