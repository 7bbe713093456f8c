//! Checks on global heaps, before libhdf5 or the reader of encoded datasets sees them.
//!
//! Texts of variable length lie in global heap collections (HDF5 file format specification 4.0, III.E). They carry no
//! checksum, and libhdf5 loops for ever on a free-space object whose size is 0.

/// Bytes of a collection's header and of an object's.
const HEADER: u64 = 16;

/// The size that a collection's first bytes say it has; `None` when they are no collection's.
pub(crate) fn collection_size(start: &[u8]) -> Option<u64> {
    if !start.starts_with(b"GCOL\x01\0\0\0") {
        return None;
    }
    Some(number(start, 8))
}

/// Whether a collection's objects follow one another from its header to its end.
pub(crate) fn is_well_formed(collection: &[u8]) -> bool {
    let end = collection.len() as u64;
    let mut at = HEADER;
    while at + HEADER <= end {
        let index = u16::from_le_bytes([collection[at as usize], collection[at as usize + 1]]);
        let size = number(collection, at as usize + 8);
        // The free space is counted with its header, everything else without and rounded up.
        let whole = if index == 0 {
            Some(size)
        } else {
            size.checked_next_multiple_of(8).and_then(|size| size.checked_add(HEADER))
        };
        match whole.and_then(|whole| at.checked_add(whole)) {
            Some(next) if next >= at + HEADER && next <= end => at = next,
            _ => return false,
        }
    }
    true
}

fn number(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..at + 8).and_then(|bytes| bytes.try_into().ok()).map_or(0, u64::from_le_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn collection(objects: &[(u16, u64)]) -> Vec<u8> {
        let mut bytes = b"GCOL\x01\0\0\0".to_vec();
        bytes.extend_from_slice(&4096_u64.to_le_bytes());
        for &(index, size) in objects {
            bytes.extend_from_slice(&index.to_le_bytes());
            bytes.extend_from_slice(&[0; 6]);
            bytes.extend_from_slice(&size.to_le_bytes());
            let body = if index == 0 { size.saturating_sub(16) } else { size.next_multiple_of(8) };
            bytes.resize(bytes.len() + body.min(4096) as usize, 0);
        }
        bytes
    }

    #[test]
    fn a_free_object_without_size_is_refused() {
        let good = collection(&[(1, 5), (2, 8), (0, 4096 - 16 - 24 - 24)]);
        assert_eq!(collection_size(&good), Some(4096));
        assert_eq!(good.len(), 4096);
        assert!(is_well_formed(&good));
        let mut bad = good.clone();
        bad[16 + 24 + 24 + 8..16 + 24 + 24 + 16].fill(0);
        assert!(!is_well_formed(&bad));
        let mut long = good;
        long[16 + 8 + 6] = 1;
        assert!(!is_well_formed(&long));
    }
}
