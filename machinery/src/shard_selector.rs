//! Selection by ranges of a hash: several clients share a collection without overlap.
//!
//! The syntax is a part of CEL that is read and never evaluated (KEP-5866):
//! `shardRange(object.metadata.uid, '0x0000000000000000', '0x8000000000000000')`, and several of
//! them joined by `||`. Bounds are 16 hexadecimal digits, the lower one is in the range and the
//! upper one is not; `'0x10000000000000000'` is the end of all hashes. The hash is 64-bit FNV-1a.

use crate::error::ApiError;
use crate::quote::quote;

/// As deep as parentheses may nest.
const MAX_DEPTH: usize = 250;
/// 2^64, which no 64-bit number can be.
const END: &str = "0x10000000000000000";

/// The field whose hash decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ShardKey {
    /// `object.metadata.uid`.
    Uid,
    /// `object.metadata.namespace`.
    Namespace,
}

impl ShardKey {
    fn path(self) -> &'static str {
        match self {
            Self::Uid => "object.metadata.uid",
            Self::Namespace => "object.metadata.namespace",
        }
    }
}

/// Ranges of hashes of one field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShardSelector {
    key: ShardKey,
    /// First and last hash of each range, in order and without overlap.
    ranges: Vec<(u64, u64)>,
    text: String,
}

impl ShardSelector {
    /// Reads the parameter `shardSelector`.
    ///
    /// # Errors
    /// 400 if it is not of the form above.
    pub fn parse(text: &str) -> Result<Self, ApiError> {
        read(text)
            .map_err(|problem| ApiError::bad_request(format!("invalid shard selector: {problem}")))
    }

    /// The field whose hash decides.
    #[must_use]
    pub fn key(&self) -> ShardKey {
        self.key
    }

    /// Whether an object with this value of the field is selected.
    #[must_use]
    pub fn matches(&self, value: &str) -> bool {
        let hash = hash(value);
        let after = self.ranges.partition_point(|(first, _)| *first <= hash);
        after
            .checked_sub(1)
            .and_then(|place| self.ranges.get(place))
            .is_some_and(|(_, last)| hash <= *last)
    }

    /// The selector in its one spelling, which the list answers with.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

/// 64-bit FNV-1a.
#[must_use]
pub fn hash(value: &str) -> u64 {
    value.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// One `shardRange(…)`.
struct Range {
    key: ShardKey,
    first: u64,
    last: u64,
    text: String,
}

fn read(text: &str) -> Result<ShardSelector, String> {
    let text = text.trim();
    if text.is_empty() {
        return Err(
            "empty shard selector is not allowed; omit the parameter for unfiltered lists"
                .to_owned(),
        );
    }
    let mut parser = Parser {
        tokens: tokens(text)?,
        place: 0,
    };
    let mut found = Vec::new();
    parser.read_union(&mut found, 0)?;
    if let Some(token) = parser.peek() {
        return Err(format!("CEL parse error: unexpected {token}"));
    }
    let key = found.first().map_or(ShardKey::Uid, |range| range.key);
    if let Some(other) = found.iter().find(|range| range.key != key) {
        return Err(format!(
            "all shard ranges must use the same field, got {} and {}",
            quote(key.path()),
            quote(other.key.path())
        ));
    }
    let spelled: Vec<&str> = found.iter().map(|range| range.text.as_str()).collect();
    Ok(ShardSelector {
        key,
        text: spelled.join(" || "),
        ranges: merged(
            found
                .iter()
                .map(|range| (range.first, range.last))
                .collect(),
        ),
    })
}

fn merged(mut ranges: Vec<(u64, u64)>) -> Vec<(u64, u64)> {
    ranges.sort_unstable();
    let mut merged: Vec<(u64, u64)> = Vec::with_capacity(ranges.len());
    for (first, last) in ranges {
        match merged.last_mut() {
            Some(known) if first <= known.1.saturating_add(1) => known.1 = known.1.max(last),
            _ => merged.push((first, last)),
        }
    }
    merged
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Token {
    Name(String),
    Text(String),
    Number(String),
    Dot,
    Comma,
    Open,
    Close,
    Or,
}

impl std::fmt::Display for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Name(text) | Self::Number(text) => f.write_str(text),
            Self::Text(text) => f.write_str(&quote(text)),
            Self::Dot => f.write_str("."),
            Self::Comma => f.write_str(","),
            Self::Open => f.write_str("("),
            Self::Close => f.write_str(")"),
            Self::Or => f.write_str("||"),
        }
    }
}

fn tokens(text: &str) -> Result<Vec<Token>, String> {
    let mut tokens = Vec::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let simple = match first {
            '.' => Some(Token::Dot),
            ',' => Some(Token::Comma),
            '(' => Some(Token::Open),
            ')' => Some(Token::Close),
            _ => None,
        };
        let length = if let Some(token) = simple {
            tokens.push(token);
            1
        } else if matches!(first, ' ' | '\t' | '\n' | '\r' | '\u{c}') {
            1
        } else if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("||") {
            tokens.push(Token::Or);
            2
        } else if matches!(first, '\'' | '"') {
            let content = rest.get(1..).unwrap_or_default();
            let end = content.find([first, '\\', '\n', '\r']);
            let end = end.filter(|end| content.get(*end..).is_some_and(|c| c.starts_with(first)));
            let end = end.ok_or("CEL parse error: a string does not end")?;
            tokens.push(Token::Text(
                content.get(..end).unwrap_or_default().to_owned(),
            ));
            end + 2
        } else {
            let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_';
            let length = rest.find(|c| !is_part(c)).unwrap_or(rest.len());
            let word = rest.get(..length).unwrap_or_default().to_owned();
            if word.is_empty() {
                return Err(format!(
                    "CEL parse error: unexpected {}",
                    quote(&first.to_string())
                ));
            }
            tokens.push(if first.is_ascii_digit() {
                Token::Number(word)
            } else {
                Token::Name(word)
            });
            length
        };
        rest = rest.get(length..).unwrap_or_default();
    }
    Ok(tokens)
}

struct Parser {
    tokens: Vec<Token>,
    place: usize,
}

impl Parser {
    fn peek(&self) -> Option<&Token> {
        self.tokens.get(self.place)
    }

    fn next(&mut self) -> Option<Token> {
        let token = self.peek().cloned();
        self.place += 1;
        token
    }

    fn expect(&mut self, expected: &Token) -> Result<(), String> {
        match self.next() {
            Some(token) if token == *expected => Ok(()),
            Some(token) => Err(format!(
                "CEL parse error: {expected} was expected, not {token}"
            )),
            None => Err(format!(
                "CEL parse error: {expected} was expected at the end"
            )),
        }
    }

    fn read_union(&mut self, found: &mut Vec<Range>, depth: usize) -> Result<(), String> {
        if depth > MAX_DEPTH {
            return Err("CEL parse error: expression nests too deeply".to_owned());
        }
        loop {
            if self.peek() == Some(&Token::Open) {
                self.next();
                self.read_union(found, depth + 1)?;
                self.expect(&Token::Close)?;
            } else {
                found.push(self.read_call()?);
            }
            if self.peek() != Some(&Token::Or) {
                return Ok(());
            }
            self.next();
        }
    }

    fn read_call(&mut self) -> Result<Range, String> {
        let Some(Token::Name(function)) = self.next() else {
            return Err("expected shardRange() call or || operator".to_owned());
        };
        if self.peek() != Some(&Token::Open) {
            return Err("expected shardRange() call or || operator".to_owned());
        }
        if function != "shardRange" {
            return Err(format!(
                "unsupported function {}; only shardRange() and || are allowed",
                quote(&function)
            ));
        }
        self.next();
        let path = self.read_path()?;
        let key = [ShardKey::Uid, ShardKey::Namespace]
            .into_iter()
            .find(|key| key.path() == path)
            .ok_or_else(|| {
                format!(
                    "unsupported field path {}; supported: object.metadata.uid, \
                     object.metadata.namespace",
                    quote(&path)
                )
            })?;
        self.expect(&Token::Comma)?;
        let start = self.read_bound("hexStart")?;
        self.expect(&Token::Comma)?;
        let end = self.read_bound("hexEnd")?;
        self.expect(&Token::Close)?;
        range(key, &start, &end)
    }

    fn read_path(&mut self) -> Result<String, String> {
        let mut path = String::new();
        loop {
            let Some(Token::Name(step)) = self.next() else {
                return Err(
                    "shardRange() first argument: expected field path (e.g. object.metadata.uid)"
                        .to_owned(),
                );
            };
            path.push_str(&step);
            if self.peek() != Some(&Token::Dot) {
                return Ok(path);
            }
            self.next();
            path.push('.');
        }
    }

    fn read_bound(&mut self, name: &str) -> Result<String, String> {
        let Some(Token::Text(text)) = self.next() else {
            return Err(format!("{name} must be a string literal (e.g. '0xff')"));
        };
        check_bound(name, &text)?;
        Ok(text)
    }
}

fn check_bound(name: &str, text: &str) -> Result<(), String> {
    let shown = quote(text);
    let Some(digits) = text.strip_prefix("0x") else {
        return Err(format!("{name} must have '0x' prefix, got {shown}"));
    };
    if digits.is_empty() {
        return Err(format!("{name}: hex value is required after '0x'"));
    }
    let is_digit = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    if !digits.bytes().all(is_digit) {
        return Err(format!("{name}: invalid hex character in {shown}"));
    }
    if digits.len() == 16 || text == END {
        return Ok(());
    }
    Err(format!(
        "{name} must be a 0x-prefixed 16-digit hex value, got {shown}"
    ))
}

fn range(key: ShardKey, start: &str, end: &str) -> Result<Range, String> {
    let number = |text: &str| u128::from_str_radix(text.trim_start_matches("0x"), 16);
    let (first, past) = (number(start), number(end));
    let range = match (first, past) {
        (Ok(first), Ok(past)) if first < past => {
            u64::try_from(first).ok().zip(u64::try_from(past - 1).ok())
        }
        _ => None,
    };
    let (first, last) =
        range.ok_or_else(|| format!("shard range start {start} must be less than end {end}"))?;
    Ok(Range {
        key,
        first,
        last,
        text: format!("shardRange({}, '{start}', '{end}')", key.path()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const HALF: &str =
        "shardRange(object.metadata.uid, '0x0000000000000000', '0x8000000000000000')";

    fn problem(text: &str) -> String {
        let error = ShardSelector::parse(text).unwrap_err();
        assert_eq!(error.code(), 400, "{text}");
        let text = error.to_string();
        text.strip_prefix("invalid shard selector: ")
            .unwrap()
            .to_owned()
    }

    /// The published test vectors of the algorithm.
    #[test]
    fn the_hash_is_fnv_1a() {
        assert_eq!(hash(""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(hash("a"), 0xaf63_dc4c_8601_ec8c);
        assert_eq!(hash("foobar"), 0x8594_4171_f739_67e8);
    }

    #[test]
    fn what_upstream_reads_is_read() {
        let rest = "shardRange(object.metadata.uid, '0x8000000000000000', '0x10000000000000000')";
        for (text, spelled) in [
            (HALF.to_owned(), HALF.to_owned()),
            (HALF.replace(' ', ""), HALF.to_owned()),
            (
                format!("  {}\n", HALF.replace(',', " ,\t")),
                HALF.to_owned(),
            ),
            (HALF.replace('\'', "\""), HALF.to_owned()),
            (format!("({HALF})"), HALF.to_owned()),
            (format!("{HALF} // half"), HALF.to_owned()),
            (format!("{HALF}||{rest}"), format!("{HALF} || {rest}")),
            (
                format!("({rest} || {HALF}) || {HALF}"),
                format!("{rest} || {HALF} || {HALF}"),
            ),
        ] {
            assert_eq!(
                ShardSelector::parse(&text).unwrap().as_str(),
                spelled,
                "{text}"
            );
        }
        let namespace = HALF.replace("uid", "namespace");
        let selector = ShardSelector::parse(&namespace).unwrap();
        assert_eq!(
            (selector.key(), selector.as_str()),
            (ShardKey::Namespace, namespace.as_str())
        );
    }

    #[test]
    fn what_upstream_refuses_is_a_bad_request() {
        let bounds = |start: &str, end: &str| {
            problem(&format!("shardRange(object.metadata.uid, {start}, {end})"))
        };
        let (low, high) = ("'0x0000000000000000'", "'0x8000000000000000'");
        assert!(problem("").starts_with("empty shard selector"));
        assert!(problem(" \t").starts_with("empty shard selector"));
        assert_eq!(
            bounds("'0000000000000000'", high),
            "hexStart must have '0x' prefix, got \"0000000000000000\""
        );
        assert_eq!(
            bounds(low, "'0x'"),
            "hexEnd: hex value is required after '0x'"
        );
        assert!(bounds(low, "'0x80'").starts_with("hexEnd must be a 0x-prefixed 16-digit"));
        assert!(bounds(low, "'0x10000000000000001'").starts_with("hexEnd must be a 0x-prefixed"));
        assert!(bounds(low, "'0x8000000000000000000'").starts_with("hexEnd must be"));
        assert!(bounds(low, "'0xA000000000000000'").starts_with("hexEnd: invalid hex character"));
        assert!(bounds("0", high).starts_with("hexStart must be a string literal"));
        assert!(bounds("0x0", high).starts_with("hexStart must be a string literal"));
        for (start, end) in [(high, high), (high, low), ("'0x10000000000000000'", high)] {
            assert!(
                bounds(start, end)
                    .ends_with(&format!("must be less than end {}", end.trim_matches('\'')))
            );
        }
        assert!(problem(&HALF.replace("uid", "name")).starts_with("unsupported field path"));
        assert!(problem(&HALF.replace("object.", "")).starts_with("unsupported field path"));
        assert!(problem(&HALF.replace("shardRange", "hash")).starts_with("unsupported function"));
        let other = HALF.replace("uid", "namespace");
        assert!(problem(&format!("{HALF} || {other}")).starts_with("all shard ranges must use"));
        for text in [
            format!("{HALF} && {HALF}"),
            format!("{HALF} {HALF}"),
            format!("{HALF} ||"),
            format!("!{HALF}"),
            format!("({HALF}"),
            "true".to_owned(),
            "'x'".to_owned(),
            "shardRange(object.metadata.uid, '0x0000000000000000')".to_owned(),
            "shardRange(object.metadata.uid)".to_owned(),
            "shardRange()".to_owned(),
            "shardRange(f(x), 'a', 'b')".to_owned(),
            "shardRange(object.metadata.uid, 'a".to_owned(),
            "(".repeat(100_000),
        ] {
            problem(&text);
        }
    }

    #[test]
    fn bounds_are_first_included_and_last_excluded() {
        let value = "foobar";
        let of = |first: u64, past: u128| {
            let text =
                format!("shardRange(object.metadata.uid, '0x{first:016x}', '0x{past:016x}')");
            ShardSelector::parse(&text).unwrap().matches(value)
        };
        let exact = hash(value);
        assert!(of(exact, u128::from(exact) + 1) && of(0, 1 << 64));
        assert!(!of(0, u128::from(exact)) && !of(exact + 1, 1 << 64));
    }

    proptest! {
        /// Whatever the cuts, every value is in exactly one shard.
        #[test]
        fn shards_partition_everything(
            cuts in proptest::collection::btree_set(1_u64.., 0..20),
            values in proptest::collection::vec("[0-9a-f-]{0,36}", 1..50),
        ) {
            let mut bounds = vec!["0x0000000000000000".to_owned()];
            bounds.extend(cuts.iter().map(|cut| format!("0x{cut:016x}")));
            bounds.push(END.to_owned());
            let shards: Vec<_> = bounds
                .windows(2)
                .map(|pair| format!("shardRange(object.metadata.uid, '{}', '{}')", pair[0], pair[1]))
                .map(|text| ShardSelector::parse(&text).unwrap())
                .collect();
            // Every other shard joined into one selector, and the rest into another.
            let joined = |odd: usize| {
                let some: Vec<_> = shards.iter().skip(odd).step_by(2).map(ShardSelector::as_str).collect();
                (!some.is_empty()).then(|| ShardSelector::parse(&some.join(" || ")).unwrap())
            };
            let halves: Vec<_> = [joined(0), joined(1)].into_iter().flatten().collect();
            for value in &values {
                prop_assert_eq!(shards.iter().filter(|shard| shard.matches(value)).count(), 1);
                prop_assert_eq!(halves.iter().filter(|half| half.matches(value)).count(), 1);
            }
        }

        #[test]
        fn any_text_is_read_or_refused(
            text in "(shardRange|object|metadata|uid|[.,()'\"| ]|0x[0-9a-f]{16}|\\|\\||é|\\\\){0,30}",
        ) {
            if let Err(error) = ShardSelector::parse(&text) {
                prop_assert_eq!(error.code(), 400);
            }
        }
    }
}
