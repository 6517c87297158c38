//! Kubernetes' messages quote values as Go's `%q` does; clients and golden files compare them.

use std::fmt::Write as _;

/// The value between double quotes, escaped as Go's `strconv.Quote` escapes it.
#[must_use]
pub fn quote(value: &str) -> String {
    let mut out = String::with_capacity(value.len() + 2);
    out.push('"');
    for c in value.chars() {
        push_escaped(&mut out, c);
    }
    out.push('"');
    out
}

fn push_escaped(out: &mut String, c: char) {
    match c {
        '"' => out.push_str("\\\""),
        '\\' => out.push_str("\\\\"),
        '\u{7}' => out.push_str("\\a"),
        '\u{8}' => out.push_str("\\b"),
        '\u{c}' => out.push_str("\\f"),
        '\n' => out.push_str("\\n"),
        '\r' => out.push_str("\\r"),
        '\t' => out.push_str("\\t"),
        '\u{b}' => out.push_str("\\v"),
        c if is_printable(c) => out.push(c),
        c => push_code_point(out, u32::from(c)),
    }
}

fn push_code_point(out: &mut String, code: u32) {
    let written = match code {
        0..=0x7f => write!(out, "\\x{code:02x}"),
        0x80..=0xffff => write!(out, "\\u{code:04x}"),
        _ => write!(out, "\\U{code:08x}"),
    };
    written.expect("writing to a string does not fail");
}

/// Whether a character is shown as itself, as Go's `unicode.IsPrint` decides. Combining marks are
/// printable when they follow another character, which is how `str::escape_debug` sees them here.
#[must_use]
pub fn is_printable(c: char) -> bool {
    if c.is_ascii() {
        return matches!(c, ' '..='~');
    }
    let mut pair = String::with_capacity(5);
    pair.push('a');
    pair.push(c);
    pair.escape_debug().count() == 2
}

#[cfg(test)]
mod tests {
    use super::quote;

    #[test]
    fn plain_text_is_only_wrapped() {
        assert_eq!(quote("my-widget"), "\"my-widget\"");
        assert_eq!(quote(""), "\"\"");
        assert_eq!(quote("größe 日本"), "\"größe 日本\"");
    }

    #[test]
    fn control_characters_are_escaped_as_go_escapes_them() {
        assert_eq!(quote("a\"b\\c\n\t\r"), r#""a\"b\\c\n\t\r""#);
        assert_eq!(
            quote("\u{0}\u{1b}\u{7f}\u{7}\u{b}"),
            r#""\x00\x1b\x7f\a\v""#
        );
        assert_eq!(quote("\u{a0}\u{2028}\u{fffe}"), r#""\u00a0\u2028\ufffe""#);
        assert_eq!(quote("\u{e0001}"), r#""\U000e0001""#);
    }
}
