//! The superblock's field for the end of the file, which libhdf5 only writes when it allocated something itself.

use super::checksum::lookup3;

/// Bytes that hold any superblock up to the fields looked at here.
pub(crate) const LENGTH: usize = 64;

/// Where the fields lie.
struct Fields {
    base: usize,
    end: usize,
    checksum: Option<usize>,
}

fn fields(superblock: &[u8; LENGTH]) -> Option<Fields> {
    if superblock[..8] != crate::pager::SIGNATURE {
        return None;
    }
    let eight_byte_addresses = |at: usize| superblock[at] == 8 && superblock[at + 1] == 8;
    match superblock[8] {
        0 if eight_byte_addresses(13) => Some(Fields { base: 24, end: 40, checksum: None }),
        1 if eight_byte_addresses(13) => Some(Fields { base: 28, end: 44, checksum: None }),
        2 | 3 if eight_byte_addresses(9) => Some(Fields { base: 12, end: 28, checksum: Some(44) }),
        _ => None,
    }
}

/// Whether objects can be written here: the superblock is the file's first bytes, and addresses have eight bytes and
/// count from there.
pub(crate) fn is_usual(superblock: &[u8; LENGTH]) -> bool {
    fields(superblock).is_some_and(|fields| superblock[fields.base..fields.base + 8] == [0; 8])
}

/// Sets the end of the file. Returns whether anything changed.
pub(crate) fn set_end(superblock: &mut [u8; LENGTH], end: u64) -> bool {
    let Some(fields) = fields(superblock) else { return false };
    if superblock[fields.end..fields.end + 8] == end.to_le_bytes() {
        return false;
    }
    superblock[fields.end..fields.end + 8].copy_from_slice(&end.to_le_bytes());
    if let Some(at) = fields.checksum {
        let sum = lookup3(&superblock[..at]);
        superblock[at..at + 4].copy_from_slice(&sum.to_le_bytes());
    }
    true
}
