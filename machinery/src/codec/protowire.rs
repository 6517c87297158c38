//! The protobuf wire format: varints, and fields of bytes.

/// Writes fields in order.
#[derive(Default)]
pub(crate) struct Writer {
    out: Vec<u8>,
}

impl Writer {
    /// Starts after some fixed bytes.
    pub(crate) fn with_prefix(prefix: &[u8], capacity: usize) -> Self {
        let mut out = Vec::with_capacity(prefix.len() + capacity);
        out.extend_from_slice(prefix);
        Self { out }
    }

    pub(crate) fn into_bytes(self) -> Vec<u8> {
        self.out
    }

    /// Writes a field even when it is empty.
    pub(crate) fn bytes(&mut self, number: u32, bytes: &[u8]) {
        self.tag(number, 2);
        push_varint(&mut self.out, bytes.len() as u64);
        self.out.extend_from_slice(bytes);
    }

    /// Begins a field of bytes that are written elsewhere.
    pub(crate) fn length(&mut self, number: u32, length: usize) {
        self.tag(number, 2);
        push_varint(&mut self.out, length as u64);
    }

    /// Writes a text; an empty one is left out.
    pub(crate) fn text(&mut self, number: u32, text: &str) {
        if !text.is_empty() {
            self.bytes(number, text.as_bytes());
        }
    }

    /// Writes an integer; zero is left out.
    pub(crate) fn integer(&mut self, number: u32, value: i64) {
        if value != 0 {
            self.integer_or_zero(number, value);
        }
    }

    /// Writes an integer whose presence says something.
    pub(crate) fn integer_or_zero(&mut self, number: u32, value: i64) {
        self.tag(number, 0);
        push_varint(&mut self.out, value.cast_unsigned());
    }

    /// Writes a double.
    pub(crate) fn double(&mut self, number: u32, value: f64) {
        self.tag(number, 1);
        self.out.extend_from_slice(&value.to_le_bytes());
    }

    /// Writes a nested message, empty or not.
    pub(crate) fn message(&mut self, number: u32, content: impl FnOnce(&mut Self)) {
        self.tag(number, 2);
        let start = self.out.len();
        content(self);
        let mut length = Vec::with_capacity(5);
        push_varint(&mut length, (self.out.len() - start) as u64);
        self.out.splice(start..start, length);
    }

    fn tag(&mut self, number: u32, wire_type: u32) {
        push_varint(&mut self.out, u64::from(number << 3 | wire_type));
    }
}

fn push_varint(out: &mut Vec<u8>, mut value: u64) {
    loop {
        let low = u8::try_from(value & 0x7f).expect("seven bits fit a byte");
        value >>= 7;
        if value == 0 {
            out.push(low);
            return;
        }
        out.push(low | 0x80);
    }
}

/// The content of one field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Field<'a> {
    Varint(u64),
    Fixed,
    Bytes(&'a [u8]),
}

/// Reads the fields of a message; yields `None` once when it is malformed.
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(crate) fn new(message: &'a [u8]) -> Self {
        Self { rest: message }
    }

    fn read(&mut self) -> Option<(u64, Field<'a>)> {
        let tag = self.varint()?;
        let field = match tag & 7 {
            0 => Field::Varint(self.varint()?),
            1 => self.take(8).map(|_| Field::Fixed)?,
            2 => {
                let length = self.varint()?;
                Field::Bytes(self.take(usize::try_from(length).ok()?)?)
            }
            5 => self.take(4).map(|_| Field::Fixed)?,
            _ => return None,
        };
        (tag >> 3 != 0).then_some((tag >> 3, field))
    }

    fn varint(&mut self) -> Option<u64> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let (&byte, rest) = self.rest.split_first()?;
            self.rest = rest;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Some(value);
            }
        }
        None
    }

    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.rest.split_at_checked(length)?;
        self.rest = rest;
        Some(taken)
    }
}

impl<'a> Iterator for Reader<'a> {
    type Item = Option<(u64, Field<'a>)>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let field = self.read();
        if field.is_none() {
            self.rest = &[];
        }
        Some(field)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_message_of_any_length_has_its_length_before_it() {
        for length in [0, 1, 127, 128, 300, 20_000] {
            let mut writer = Writer::default();
            writer.message(1, |out| out.bytes(2, &vec![7; length]));
            let bytes = writer.into_bytes();
            let (_, Field::Bytes(inner)) = Reader::new(&bytes).next().unwrap().unwrap() else {
                panic!("a message is bytes");
            };
            let read = Reader::new(inner).next().unwrap().unwrap();
            assert_eq!(read, (2, Field::Bytes(&vec![7; length])));
        }
    }

    proptest! {
        #[test]
        fn integers_are_read_as_they_were_written(number in 1u32..1000, value in any::<i64>()) {
            let mut writer = Writer::default();
            writer.integer_or_zero(number, value);
            let bytes = writer.into_bytes();
            let fields: Vec<_> = Reader::new(&bytes).collect();
            let expected = (u64::from(number), Field::Varint(value.cast_unsigned()));
            prop_assert_eq!(fields, [Some(expected)]);
        }

        #[test]
        fn any_bytes_end(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            prop_assert!(Reader::new(&bytes).count() <= bytes.len());
        }
    }
}
