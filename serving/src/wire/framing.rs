//! Where HTTP/1.1 requests begin and end, read beside hyper: it takes a request that has both a
//! `Content-Length` and a `Transfer-Encoding` for chunked and drops the length, so that no handler
//! could know. Between proxies that disagree about such a request, a second one can be hidden in
//! it: it is refused, and its connection closed.

/// A line is known by this much of it.
const KNOWN: usize = 48;

/// Follows the bytes of a connection.
#[derive(Debug, Default)]
pub(super) struct Framing {
    part: Part,
    /// The beginning of the current line, in lower case.
    line: Vec<u8>,
    length: Option<u64>,
    is_chunked: bool,
}

#[derive(Debug, Default, PartialEq, Eq)]
enum Part {
    /// Before the first line of a head.
    #[default]
    Between,
    Head,
    /// So many bytes of a body, or of a chunk with its line end.
    Bytes {
        left: u64,
        in_chunks: bool,
    },
    ChunkSize,
    Trailers,
    /// Nothing makes sense any more, and hyper will say so.
    Lost,
}

impl Framing {
    /// Takes bytes in; true when a head among them has two lengths.
    pub(super) fn is_ambiguous(&mut self, mut bytes: &[u8]) -> bool {
        let mut found = false;
        while !bytes.is_empty() && self.part != Part::Lost {
            if let Part::Bytes { left, in_chunks } = &mut self.part {
                let here = usize::try_from(*left)
                    .unwrap_or(usize::MAX)
                    .min(bytes.len());
                *left -= here as u64;
                bytes = bytes.get(here..).unwrap_or_default();
                if *left == 0 {
                    self.part = if *in_chunks {
                        Part::ChunkSize
                    } else {
                        Part::Between
                    };
                }
                continue;
            }
            let end = bytes.iter().position(|byte| *byte == b'\n');
            let here = end.unwrap_or(bytes.len());
            let room = KNOWN.saturating_sub(self.line.len());
            let known = bytes.get(..here.min(room)).unwrap_or_default();
            self.line.extend(known.iter().map(u8::to_ascii_lowercase));
            bytes = bytes.get(here + 1..).unwrap_or_default();
            if end.is_some() {
                found |= self.end_line();
                self.line.clear();
            }
        }
        found
    }

    fn end_line(&mut self) -> bool {
        let line = self.line.strip_suffix(b"\r").unwrap_or(&self.line);
        match self.part {
            Part::Between if line.is_empty() => {}
            Part::Between => self.part = Part::Head,
            Part::Head if line.is_empty() => return self.end_head(),
            Part::Head => {
                if let Some(value) = value_of(line, b"content-length") {
                    self.length = Some(number(value, 10).unwrap_or(u64::MAX));
                } else if value_of(line, b"transfer-encoding").is_some() {
                    self.is_chunked = true;
                }
            }
            Part::ChunkSize => {
                let digits = line.split(|byte| *byte == b';').next();
                let size = digits.and_then(|digits| number(digits.trim_ascii(), 16));
                self.part = match size {
                    None => Part::Lost,
                    Some(0) => Part::Trailers,
                    Some(size) => Part::Bytes {
                        left: size.saturating_add(2),
                        in_chunks: true,
                    },
                };
            }
            Part::Trailers if line.is_empty() => self.part = Part::Between,
            Part::Trailers | Part::Bytes { .. } | Part::Lost => {}
        }
        false
    }

    fn end_head(&mut self) -> bool {
        let (length, is_chunked) = (self.length.take(), std::mem::take(&mut self.is_chunked));
        self.part = match length {
            _ if is_chunked => Part::ChunkSize,
            Some(left @ 1..) => Part::Bytes {
                left,
                in_chunks: false,
            },
            _ => Part::Between,
        };
        is_chunked && length.is_some()
    }
}

fn value_of<'a>(line: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    let value = line.strip_prefix(name)?.strip_prefix(b":")?;
    Some(value.trim_ascii())
}

fn number(digits: &[u8], radix: u32) -> Option<u64> {
    let text = std::str::from_utf8(digits).ok()?;
    let is_plain = text.bytes().all(|byte| byte.is_ascii_alphanumeric());
    u64::from_str_radix(text, radix).ok().filter(|_| is_plain)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const BOTH: &str = "POST / HTTP/1.1\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n";

    fn ambiguous(text: &str, step: usize) -> bool {
        let mut framing = Framing::default();
        let pieces = text.as_bytes().chunks(step);
        pieces
            .map(|piece| framing.is_ambiguous(piece))
            .fold(false, |all, one| all | one)
    }

    #[test]
    fn two_lengths_are_found_wherever_the_request_begins() {
        let reversed =
            "POST / HTTP/1.1\r\ntransfer-encoding:chunked\r\nx: y\r\nCONTENT-LENGTH:0\r\n\r\n";
        let sized =
            "POST / HTTP/1.1\r\ncontent-length: 31\r\n\r\nGET / \r\ncontent-length: x\r\n\r\n\r\n";
        let chunked = "POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n3;x=y\r\na\r\n\r\n1E\r\n\
            content-length: 3\r\ntransfer-en\r\n0\r\ncontent-length: 3\r\n\r\n";
        let bare = "GET / HTTP/1.1\r\nhost: x\r\n\r\n";
        for step in [1, 2, 3, 7, 64, 4096] {
            for one in [BOTH, reversed] {
                assert!(ambiguous(one, step), "{step}");
                for before in [sized, chunked, bare, "\r\n"] {
                    assert!(!ambiguous(before, step), "{step} {before}");
                    assert!(
                        ambiguous(&format!("{before}{one}"), step),
                        "{step} {before}"
                    );
                }
            }
        }
    }

    proptest! {
        #[test]
        fn whatever_comes_is_followed_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300), step in 1..40_usize) {
            let mut framing = Framing::default();
            for piece in bytes.chunks(step) {
                framing.is_ambiguous(piece);
            }
        }
    }
}
