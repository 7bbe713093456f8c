//! [`Pending`]: changes of links that a transaction of the store's file brought, and that the log may not have yet.
//!
//! They lie in the dataset `/nodes/pending`: the changes in order, then one record that ends them with their token and
//! the checksum of all. Whoever commits the file makes them durable with it. Then they are *adopted*: appended to the log, as one
//! batch whose commit record has the same token, and applied. So opening knows whether the log has them. The
//! checkpoint that brings this batch into the file removes them, in the same commit.

use std::path::Path;

use corallite_file::{DataLayout, NewDataset, Storage, Transaction, contiguous_offset, encode_datatype};
use hdf5_metno::Datatype;
use twox_hash::XxHash3_128;
use zerocopy::{FromBytes, FromZeros, IntoBytes};

use crate::change::Change;
use crate::e::{E, StoredE};
use crate::error::{Error, Result};
use crate::format::{self, ChangeRecord, PENDING};

/// The version of a store that may have pending changes: an older program would leave them out.
const FORMAT_WITH_PENDING: i64 = 3;

/// The operation of the last record, as in the log's commit records.
const END: u64 = 15;

/// The dataset's path.
pub(crate) const PLACE: &str = "/nodes/pending";

/// What [`Changes::write`](crate::Changes::write) has written into a transaction of the store's file. Once that is committed, it
/// is to be given to [`CIDStore::adopt`](crate::CIDStore::adopt).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[must_use = "the links do not show these changes before `CIDStore::adopt`"]
pub struct Pending {
    /// Tells these changes from all others; 0 only where there are none.
    pub(crate) token: u64,
    pub(crate) changes: Vec<Change>,
}

/// Whether the file has changes of links that a transaction brought, which may not be in the log. They are made when the links
/// are opened, and are in the file until a checkpoint.
///
/// # Errors
///
/// What the file layer reports.
pub fn has_pending(file: &Storage) -> Result<bool> {
    Ok(file.contains(PLACE)?)
}

/// The checksum of the dataset: of its records, the last one with a value of zero.
fn checksum(changes: &[ChangeRecord], end: ChangeRecord) -> StoredE {
    let mut hasher = XxHash3_128::new();
    hasher.write(changes.as_bytes());
    hasher.write(ChangeRecord { value: StoredE::default(), ..end }.as_bytes());
    let sum = hasher.finish_128();
    StoredE { high: ((sum >> 64) as u64).into(), low: (sum as u64).into() }
}

/// Changes as they are stored, with the record that ends them.
fn encode(pending: &Pending) -> Vec<u8> {
    let mut records: Vec<ChangeRecord> = pending.changes.iter().map(|change| (*change).into()).collect();
    let key = StoredE { high: pending.token.into(), low: (records.len() as u64).into() };
    let mut end = ChangeRecord { operation: END.into(), key, value: StoredE::default() };
    end.value = checksum(&records, end);
    records.push(end);
    records.as_bytes().to_vec()
}

/// Reads what [`encode`] made.
pub(crate) fn decode(path: &Path, bytes: &[u8]) -> Result<Pending> {
    let damaged = |problem: &str| Error::damaged(path, PLACE, problem);
    let records = <[ChangeRecord]>::ref_from_bytes(bytes).ok().and_then(<[_]>::split_last);
    let Some((end, records)) = records else { return Err(damaged("it is no whole number of records")) };
    let token = token(bytes);
    if end.value != checksum(records, *end)
        || end.operation.get() != END
        || end.key.low.get() != records.len() as u64
        || token == 0
    {
        return Err(damaged("its checksum does not agree"));
    }
    let changes = records.iter().map(ChangeRecord::change).collect::<Option<_>>();
    Ok(Pending { token, changes: changes.ok_or_else(|| damaged("a change is of no known kind"))? })
}

/// The token that the last record has, whether that is damaged or not; 0 where there is no record.
pub(crate) fn token(bytes: &[u8]) -> u64 {
    ChangeRecord::read_from_suffix(bytes).map_or(0, |(_, end)| end.key.high.get())
}

/// The same of the dataset that a transaction sees; `None` where there is none.
pub(crate) fn token_in(transaction: &Transaction<'_>) -> Result<Option<u64>> {
    if !has_pending(transaction.storage())? {
        return Ok(None);
    }
    let explain = |error| Error::from(transaction.explain("read /nodes/pending", &error));
    let dataset = transaction.file().dataset(PLACE).map_err(explain)?;
    let size = dataset.dtype().map_err(explain)?.size() as u64 * dataset.size() as u64;
    let mut end = ChangeRecord::new_zeroed();
    let at = size.checked_sub(size_of::<ChangeRecord>() as u64);
    if let (Some(offset), Some(at)) = (contiguous_offset(&dataset), at) {
        transaction.read_at(offset.saturating_add(at), end.as_mut_bytes())?;
    }
    Ok(Some(end.key.high.get()))
}

/// Removes the dataset from what the transaction commits.
pub(crate) fn remove(transaction: &Transaction<'_>) -> Result<()> {
    let removed = transaction.file().unlink(PLACE);
    removed.map_err(|error| transaction.explain("remove /nodes/pending", &error).into())
}

/// Writes changes in place of those that are there.
pub(crate) fn write(transaction: &Transaction<'_>, changes: Vec<Change>) -> Result<Pending> {
    let pending = Pending { token: new_token(), changes };
    let explain = |error| Error::from(transaction.explain("write /nodes/pending", &error));
    if has_pending(transaction.storage())? {
        remove(transaction)?;
    }
    transaction.require_format(FORMAT_WITH_PENDING)?;
    let nodes = transaction.storage().create_group(Storage::NODES_GROUP)?;
    let bytes = encode(&pending);
    let offset = transaction.allocate(bytes.len() as u64)?;
    transaction.write_at(offset, &bytes)?;
    let datatype = Datatype::from_descriptor(&format::change_type()).and_then(|of| encode_datatype(of.id()));
    let dataset = NewDataset {
        datatype: &datatype.map_err(explain)?,
        item_size: size_of::<ChangeRecord>() as u32,
        dims: &[(bytes.len() / size_of::<ChangeRecord>()) as u64],
        layout: DataLayout::Contiguous(Some(offset)),
        attributes: &[],
    };
    transaction.create_datasets()?.create(&nodes, PENDING, &dataset)?;
    Ok(pending)
}

/// A token that no other changes of the store have.
fn new_token() -> u64 {
    loop {
        // Each half has a few bits that say which kind of id it is, in different places.
        let (one, other) = (E::random(), E::random());
        let token = one.high() ^ other.low();
        if token != 0 {
            return token;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_flipped_bit_of_pending_changes_is_noticed() -> Result<()> {
        let path = Path::new("links.h5");
        let changes =
            vec![Change::insert(E::MAX, E::MIN), Change::delete(E::new(7)), Change::delete_value(E::MIN, E::MAX)];
        let pending = Pending { token: 1, changes };
        let mut bytes = encode(&pending);
        assert_eq!((decode(path, &bytes)?, bytes.len()), (pending, 4 * 40));
        for bit in 0..bytes.len() * 8 {
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(matches!(decode(path, &bytes), Err(Error::Damaged { .. })), "bit {bit}");
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
        for length in 0..bytes.len() {
            assert!(matches!(decode(path, &bytes[..length]), Err(Error::Damaged { .. })), "{length} bytes");
        }
        Ok(())
    }
}
