//! Objects as JSON text: where their metadata is, found without parsing them.

use bytes::Bytes;

/// Writes `resourceVersion` as the first member of `metadata`.
pub(super) fn splice(body: &[u8], resource_version: &str) -> (Bytes, usize, usize) {
    let Some(start) = metadata_start(body) else {
        return (Bytes::copy_from_slice(body), body.len(), 0);
    };
    let (before, after) = body.split_at(start);
    let comma = if after.first() == Some(&b'}') {
        ""
    } else {
        ","
    };
    let member = format!("\"resourceVersion\":\"{resource_version}\"{comma}");
    (
        Bytes::from([before, member.as_bytes(), after].concat()),
        start,
        member.len(),
    )
}

/// Where the members of the top-level `metadata` begin in canonical JSON.
fn metadata_start(body: &[u8]) -> Option<usize> {
    const MEMBER: &[u8] = b"\"metadata\":{";
    let (mut depth, mut in_string, mut escaped) = (0_usize, false, false);
    for (at, byte) in body.iter().enumerate() {
        if in_string {
            match byte {
                _ if escaped => escaped = false,
                b'\\' => escaped = true,
                b'"' => in_string = false,
                _ => {}
            }
            continue;
        }
        match byte {
            b'"' if depth == 1
                && body.get(at..)?.starts_with(MEMBER)
                && starts_member(body, at) =>
            {
                return Some(at + MEMBER.len());
            }
            b'"' => in_string = true,
            b'{' | b'[' => depth += 1,
            b'}' | b']' => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    None
}

/// The length of the JSON object that a text begins with.
pub(super) fn object_length(text: &[u8]) -> Option<usize> {
    let (mut depth, mut in_string, mut escaped) = (0_usize, false, false);
    for (at, byte) in text.iter().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            _ if in_string => {}
            b'{' | b'[' => depth += 1,
            b'}' | b']' if depth == 1 => return Some(at + 1),
            b'}' | b']' => depth = depth.checked_sub(1)?,
            _ => {}
        }
    }
    None
}

fn starts_member(body: &[u8], at: usize) -> bool {
    at.checked_sub(1)
        .and_then(|before| body.get(before))
        .is_some_and(|byte| matches!(byte, b'{' | b','))
}
