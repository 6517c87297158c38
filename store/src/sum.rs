//! The checksum that is stored with each body: what a disk or a network has changed is found when
//! it is read, and not served.

use bytes::Bytes;
use crc::{CRC_64_XZ, Crc, Table};
use uuid::Uuid;

use crate::types::Key;

static CRC: Crc<u64, Table<16>> = Crc::<u64, Table<16>>::new(&CRC_64_XZ);

/// The sum of a body, and of whose it is.
pub(crate) fn sum_of(key: &Key, uid: Uuid, body: &[u8]) -> i64 {
    let mut digest = CRC.digest();
    digest.update(key.namespace.as_bytes());
    digest.update(&[0]);
    digest.update(key.name.as_bytes());
    digest.update(&[0]);
    digest.update(uid.as_bytes());
    digest.update(body);
    digest.finalize().cast_signed()
}

/// The body as it was stored; `None` if it is lost or is another one. Without a sum, as programs
/// of before wrote it, there is nothing to check.
pub(crate) fn checked(
    key: &Key,
    uid: Uuid,
    body: Option<Bytes>,
    sum: Option<i64>,
) -> Option<Bytes> {
    body.filter(|body| sum.is_none_or(|sum| sum == sum_of(key, uid, body)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sum_is_that_of_its_standard() {
        // The check value of CRC-64/XZ.
        assert_eq!(CRC.checksum(b"123456789"), 0x995d_c9bb_df19_39fa);
    }

    #[test]
    fn each_changed_bit_is_found_and_so_is_another_owner() {
        let (key, uid) = (Key::new("ns", "a"), Uuid::from_u128(7));
        let body = Bytes::from_static(b"{\"metadata\":{\"name\":\"a\"}}");
        let sum = Some(sum_of(&key, uid, &body));
        assert!(checked(&key, uid, Some(body.clone()), sum).is_some());
        assert!(checked(&key, uid, Some(body.clone()), None).is_some());
        assert!(checked(&key, uid, None, sum).is_none());
        for bit in 0..body.len() * 8 {
            let mut spoiled = body.to_vec();
            spoiled[bit / 8] ^= 1 << (bit % 8);
            assert!(
                checked(&key, uid, Some(spoiled.into()), sum).is_none(),
                "{bit}"
            );
        }
        for (other, of) in [
            (Key::new("ns", "b"), uid),
            (Key::new("n", "sa"), uid),
            (key.clone(), Uuid::from_u128(8)),
        ] {
            assert!(
                checked(&other, of, Some(body.clone()), sum).is_none(),
                "{other}"
            );
        }
    }
}
