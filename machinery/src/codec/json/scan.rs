//! The tokens of JSON: strings, numbers and words.

use serde_json::{Number, Value};

/// Reads tokens from a body.
pub(super) struct Scanner<'a> {
    pub(super) body: &'a [u8],
    pub(super) at: usize,
}

impl Scanner<'_> {
    /// The next byte that is no white space; the cursor stays on it.
    pub(super) fn next_token(&mut self) -> Option<u8> {
        loop {
            match self.body.get(self.at) {
                Some(b' ' | b'\n' | b'\t' | b'\r') => self.at += 1,
                other => return other.copied(),
            }
        }
    }

    pub(super) fn read_word(&mut self, word: &[u8], value: Value) -> Result<Value, String> {
        for expected in word {
            match self.body.get(self.at) {
                Some(byte) if byte == expected => self.at += 1,
                Some(&byte) => {
                    let word = String::from_utf8_lossy(word);
                    let place = format!("in literal {word} (expecting '{}')", *expected as char);
                    return Err(self.unexpected(byte, &place));
                }
                None => return Err(end()),
            }
        }
        Ok(value)
    }

    pub(super) fn read_number(&mut self) -> Result<Value, String> {
        let start = self.at;
        let negative = self.body.get(self.at) == Some(&b'-');
        if negative {
            self.at += 1;
        }
        match self.body.get(self.at) {
            Some(b'0') => self.at += 1,
            _ => self.skip_digits("in numeric literal")?,
        }
        let mut whole = true;
        if self.body.get(self.at) == Some(&b'.') {
            whole = false;
            self.at += 1;
            self.skip_digits("after decimal point in numeric literal")?;
        }
        if let Some(b'e' | b'E') = self.body.get(self.at) {
            whole = false;
            self.at += 1;
            if let Some(b'+' | b'-') = self.body.get(self.at) {
                self.at += 1;
            }
            self.skip_digits("in exponent of numeric literal")?;
        }
        let text = self.body.get(start..self.at).unwrap_or_default();
        let text = std::str::from_utf8(text).expect("digits, signs and letters are ASCII");
        if whole {
            let integer = if negative {
                text.parse::<i64>().ok().map(Number::from)
            } else {
                text.parse::<u64>().ok().map(Number::from)
            };
            if let Some(integer) = integer {
                return Ok(Value::Number(integer));
            }
        }
        let float = text.parse::<f64>().ok().and_then(Number::from_f64);
        float.map(Value::Number).ok_or_else(|| {
            format!("json: cannot unmarshal number {text} into Go value of type float64")
        })
    }

    /// Skips at least one digit.
    fn skip_digits(&mut self, place: &str) -> Result<(), String> {
        let start = self.at;
        while let Some(b'0'..=b'9') = self.body.get(self.at) {
            self.at += 1;
        }
        if self.at > start {
            return Ok(());
        }
        match self.body.get(self.at) {
            Some(&byte) => Err(self.unexpected(byte, place)),
            None => Err(end()),
        }
    }

    /// Reads a string whose opening quote was consumed.
    pub(super) fn read_string(&mut self) -> Result<String, String> {
        let start = self.at;
        self.skip_plain();
        let plain = self.body.get(start..self.at).unwrap_or_default();
        if self.body.get(self.at) == Some(&b'"') {
            self.at += 1;
            return Ok(to_text(plain));
        }
        let mut bytes = plain.to_vec();
        loop {
            match self.body.get(self.at) {
                Some(b'"') => {
                    self.at += 1;
                    return Ok(to_text(&bytes));
                }
                Some(b'\\') => {
                    self.at += 1;
                    let character = self.read_escape()?;
                    bytes.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
                }
                Some(&byte) => return Err(self.unexpected(byte, "in string literal")),
                None => return Err(end()),
            }
            let start = self.at;
            self.skip_plain();
            bytes.extend_from_slice(self.body.get(start..self.at).unwrap_or_default());
        }
    }

    /// Moves to the next quote, backslash or control character.
    fn skip_plain(&mut self) {
        let rest = self.body.get(self.at..).unwrap_or_default();
        let plain = rest
            .iter()
            .position(|&byte| byte == b'"' || byte == b'\\' || byte < 0x20);
        self.at += plain.unwrap_or(rest.len());
    }

    fn read_escape(&mut self) -> Result<char, String> {
        let Some(&byte) = self.body.get(self.at) else {
            return Err(end());
        };
        self.at += 1;
        Ok(match byte {
            b'"' | b'\\' | b'/' => byte as char,
            b'b' => '\u{8}',
            b'f' => '\u{c}',
            b'n' => '\n',
            b'r' => '\r',
            b't' => '\t',
            b'u' => {
                let unit = self.read_hex()?;
                self.combine_surrogates(unit)?
            }
            other => {
                self.at -= 1;
                return Err(self.unexpected(other, "in string escape code"));
            }
        })
    }

    /// A lone surrogate becomes U+FFFD, and what follows it is read for itself.
    fn combine_surrogates(&mut self, high: u32) -> Result<char, String> {
        if let Some(character) = char::from_u32(high) {
            return Ok(character);
        }
        let after = self.at;
        if (0xD800..0xDC00).contains(&high) && self.body.get(after..after + 2) == Some(b"\\u") {
            self.at += 2;
            let low = self.read_hex()?;
            if (0xDC00..0xE000).contains(&low) {
                let code = 0x10000 + ((high - 0xD800) << 10) + (low - 0xDC00);
                return Ok(char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER));
            }
            self.at = after;
        }
        Ok(char::REPLACEMENT_CHARACTER)
    }

    fn read_hex(&mut self) -> Result<u32, String> {
        let mut unit = 0;
        for _ in 0..4 {
            let Some(&byte) = self.body.get(self.at) else {
                return Err(end());
            };
            let Some(digit) = (byte as char).to_digit(16) else {
                return Err(self.unexpected(byte, "in \\u hexadecimal character escape"));
            };
            unit = unit * 16 + digit;
            self.at += 1;
        }
        Ok(unit)
    }

    pub(super) fn unexpected(&self, byte: u8, place: &str) -> String {
        let shown = match byte {
            b'\'' => r"\'".to_owned(),
            b'"' => "\"".to_owned(),
            other => (other as char).escape_debug().to_string(),
        };
        format!("invalid character '{shown}' {place}")
    }
}

/// What a body that is too short is told.
pub(super) fn end() -> String {
    "unexpected end of JSON input".to_owned()
}

/// Each invalid byte becomes one U+FFFD, as in Go.
fn to_text(bytes: &[u8]) -> String {
    if let Ok(text) = std::str::from_utf8(bytes) {
        return text.to_owned();
    }
    let mut text = String::with_capacity(bytes.len() + 8);
    for chunk in bytes.utf8_chunks() {
        text.push_str(chunk.valid());
        text.extend(chunk.invalid().iter().map(|_| char::REPLACEMENT_CHARACTER));
    }
    text
}
