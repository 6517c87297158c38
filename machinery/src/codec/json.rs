//! JSON as Kubernetes reads it.

use super::Decoded;
use crate::error::ApiError;

/// Decodes one document. Case-sensitive; the last of duplicate keys wins and is reported;
/// invalid UTF-8 and lone surrogates become U+FFFD; depth is limited to 10,000 (400).
pub fn decode(_body: &[u8]) -> Result<Decoded, ApiError> {
    todo!()
}
