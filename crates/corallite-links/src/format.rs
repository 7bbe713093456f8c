//! What the store's file holds of the links, besides the partitions themselves. `docs/links.md` describes it byte by byte.

use hdf5_metno::types::{CompoundField, CompoundType, IntSize, TypeDescriptor};
use twox_hash::XxHash3_64;
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::change::{Change, Operation};
use crate::e::{E, StoredE};

/// The version of the links' layout that this program writes and reads up to. In version 1 there were no tags beside the
/// images, and a bucket's directory entries were a power of two of them.
pub const LINKS_FORMAT_VERSION: u32 = 2;

/// The dataset of the one [`StateRecord`], below `/nodes`.
pub(crate) const STATE: &str = "links";
/// The dataset of the [`PartitionRecord`]s, below `/nodes`.
pub(crate) const PARTITIONS: &str = "partitions";
/// The dataset of the [`ChangeRecord`]s that the deletion log holds, below `/nodes`.
pub(crate) const DELETIONS: &str = "deletions";
/// The dataset of the [`ChangeRecord`]s that a transaction of the file brought, below `/nodes`.
pub(crate) const PENDING: &str = "pending";
/// The directory: an attribute of `/config`, a dataset, or a group of one dataset a partition.
pub(crate) const DIRECTORY: &str = "dir";

/// The dataset of a run of changes, below `/nodes`.
pub(crate) fn run_name(run: u32) -> String {
    format!("run_{run:08x}")
}

/// The dataset of a partition, below `/buckets` and `/values`.
pub(crate) fn partition_name(id: u32) -> String {
    format!("{id:08x}")
}

/// The dataset of the tags of a partition's buckets, below `/nodes`.
pub(crate) fn tags_name(id: u32) -> String {
    format!("tags_{id:08x}")
}

/// The dataset of a partition's directory, below `/dir`.
pub(crate) fn shard_name(id: u32) -> String {
    format!("shard_{id:08x}")
}

/// How the directory is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum DirectoryForm {
    /// The attribute `dir` of `/config`: one partition with a small directory.
    Attribute = 0,
    /// The dataset `/dir`: the partitions' directories one after the other.
    Dataset = 1,
    /// Datasets `/dir/shard_xxxxxxxx`, one a partition.
    Sharded = 2,
}

impl DirectoryForm {
    pub(crate) const fn from_code(code: u8) -> Option<Self> {
        match code {
            0 => Some(Self::Attribute),
            1 => Some(Self::Dataset),
            2 => Some(Self::Sharded),
            _ => None,
        }
    }
}

/// The state of the links at a commit.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct StateRecord {
    pub(crate) version: U32,
    pub(crate) directory_form: u8,
    /// 1 while there may be a log that the links are not whole without.
    pub(crate) has_log: u8,
    pub(crate) reserved: [u8; 2],
    /// Names the store, and with it its log.
    pub(crate) store: StoredE,
    pub(crate) seed: [U64; 2],
    /// The key of the log's chain, zero when the caller keeps it.
    pub(crate) log_key: [u8; 32],
    /// The first record of the log that may not be in the file.
    pub(crate) log_position: U64,
    /// The chain's MAC before that record.
    pub(crate) log_mac: [u8; 16],
    pub(crate) partitions: U32,
    pub(crate) next_partition: U32,
    pub(crate) next_run: U32,
    pub(crate) deletions: U32,
    /// XXH3-64 of the partitions' records.
    pub(crate) partitions_sum: U64,
    /// XXH3-64 of the deletion log.
    pub(crate) deletions_sum: U64,
    /// XXH3-64 of the bytes before.
    pub(crate) sum: U64,
}

const _: () = assert!(size_of::<StateRecord>() == 136);

impl StateRecord {
    fn checksum(&self) -> u64 {
        let bytes = self.as_bytes();
        XxHash3_64::oneshot(&bytes[..bytes.len() - 8])
    }

    pub(crate) fn seal(mut self) -> Self {
        self.sum = self.checksum().into();
        self
    }

    pub(crate) fn is_sound(&self) -> bool {
        self.sum.get() == self.checksum()
    }
}

/// A part of a run that holds changes of one partition.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct SliceRecord {
    pub(crate) run: U32,
    pub(crate) start: U32,
    pub(crate) count: U32,
    /// CRC-32C of the changes.
    pub(crate) sum: U32,
}

/// Most slices of a partition; before there are more, they become one.
pub(crate) const SLICES: usize = 4;

/// A partition at a commit.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct PartitionRecord {
    pub(crate) id: U32,
    /// Bits that the hashes of its keys share.
    pub(crate) skip: u8,
    pub(crate) directory_bits: u8,
    pub(crate) slices_count: u8,
    pub(crate) reserved: u8,
    /// Those bits.
    pub(crate) prefix: U64,
    /// The first record of the log that is not in this partition.
    pub(crate) applied: U64,
    /// Keys of the image, without the slices.
    pub(crate) keys: U64,
    /// Pairs of the image, without the slices.
    pub(crate) pairs: U64,
    pub(crate) buckets: U32,
    /// Where its directory begins in a directory of the form [`DirectoryForm::Dataset`].
    pub(crate) directory_start: U32,
    pub(crate) set_units: U64,
    pub(crate) directory_sum: U64,
    /// Names the image; the checksums of its buckets begin with it.
    pub(crate) image: U64,
    /// XXH3-64 of the tags of its buckets; 0 where there are none.
    pub(crate) tags_sum: U64,
    pub(crate) slices: [SliceRecord; SLICES],
}

const _: () = assert!(size_of::<PartitionRecord>() == 144);

/// A partition at a commit, as version 1 had it.
#[derive(Clone, Copy, Debug, FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct PartitionRecord1 {
    before: [u8; 72],
    slices: [SliceRecord; SLICES],
}

const _: () = assert!(size_of::<PartitionRecord1>() == 136);

impl From<&PartitionRecord1> for PartitionRecord {
    fn from(old: &PartitionRecord1) -> Self {
        let mut record = Self::default();
        record.as_mut_bytes()[..old.before.len()].copy_from_slice(&old.before);
        Self { slices: old.slices, ..record }
    }
}

impl PartitionRecord {
    /// Whether it can name no further slice.
    pub(crate) fn is_full(&self) -> bool {
        usize::from(self.slices_count) >= SLICES
    }

    /// Whether there can be so many keys and pairs in these buckets and sets.
    pub(crate) fn counts_are_possible(&self) -> bool {
        /// Value sets of a partition together, in units: far more than any disk holds.
        const MOST_UNITS: u64 = 1 << 40;
        let cells = u64::from(self.buckets.get()) * crate::bucket::CELLS as u64;
        let units = self.set_units.get();
        units <= MOST_UNITS && self.pairs.get() <= cells + units && self.keys.get() <= self.pairs.get()
    }

    /// What names an image: equal for two only when they hold the same changes of the same hashes in the same buckets.
    pub(crate) fn name_image(&self) -> u64 {
        let (id, skip, prefix, applied) = (self.id.get(), self.skip, self.prefix.get(), self.applied.get());
        let numbers = [u64::from(id) << 8 | u64::from(skip), prefix, applied, self.directory_sum.get()];
        XxHash3_64::oneshot(numbers.map(U64::new).as_bytes())
    }
}

/// A change in a run, and a deletion in the deletion log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct ChangeRecord {
    /// The code of the operation in the lowest byte; in the deletion log nanoseconds since 1970.
    pub(crate) operation: U64,
    pub(crate) key: StoredE,
    pub(crate) value: StoredE,
}

const _: () = assert!(size_of::<ChangeRecord>() == 40);

impl From<Change> for ChangeRecord {
    fn from(change: Change) -> Self {
        let operation = (change.operation as u64).into();
        Self { operation, key: change.key.to_hdf5(), value: change.value.to_hdf5() }
    }
}

impl ChangeRecord {
    pub(crate) fn change(&self) -> Option<Change> {
        let operation = Operation::from_code(u8::try_from(self.operation.get()).ok()?)?;
        Some(Change { operation, key: E::from_hdf5(self.key), value: E::from_hdf5(self.value) })
    }
}

const U8: TypeDescriptor = TypeDescriptor::Unsigned(IntSize::U1);
const U32_TYPE: TypeDescriptor = TypeDescriptor::Unsigned(IntSize::U4);
const U64_TYPE: TypeDescriptor = TypeDescriptor::Unsigned(IntSize::U8);

fn array(of: TypeDescriptor, length: usize) -> TypeDescriptor {
    TypeDescriptor::FixedArray(Box::new(of), length)
}

/// A compound without gaps, in this order.
fn compound(fields: Vec<(&str, TypeDescriptor)>) -> TypeDescriptor {
    let mut offset = 0;
    let fields = fields
        .into_iter()
        .enumerate()
        .map(|(index, (name, of))| {
            let at = offset;
            offset += of.size();
            CompoundField::new(name, of, at, index)
        })
        .collect();
    TypeDescriptor::Compound(CompoundType { fields, size: offset })
}

/// `{high: u64, low: u64}`.
pub(crate) fn id_type() -> TypeDescriptor {
    compound(vec![("high", U64_TYPE), ("low", U64_TYPE)])
}

/// A bucket.
pub(crate) fn bucket_type() -> TypeDescriptor {
    let cell = compound(vec![("key", id_type()), ("value", id_type())]);
    compound(vec![
        ("version", U32_TYPE),
        ("overflow", TypeDescriptor::Unsigned(IntSize::U2)),
        ("depth", U8),
        ("used", U8),
        ("next", U32_TYPE),
        ("checksum", U32_TYPE),
        ("tags", array(U8, crate::bucket::CELLS)),
        ("states", array(U8, crate::bucket::CELLS)),
        ("cells", array(cell, crate::bucket::CELLS)),
    ])
}

/// A [`StateRecord`].
pub(crate) fn state_type() -> TypeDescriptor {
    compound(vec![
        ("version", U32_TYPE),
        ("directory_form", U8),
        ("has_log", U8),
        ("reserved", array(U8, 2)),
        ("store", id_type()),
        ("seed", array(U64_TYPE, 2)),
        ("log_key", array(U8, 32)),
        ("log_position", U64_TYPE),
        ("log_mac", array(U8, 16)),
        ("partitions", U32_TYPE),
        ("next_partition", U32_TYPE),
        ("next_run", U32_TYPE),
        ("deletions", U32_TYPE),
        ("partitions_sum", U64_TYPE),
        ("deletions_sum", U64_TYPE),
        ("sum", U64_TYPE),
    ])
}

/// A [`PartitionRecord`].
pub(crate) fn partition_type() -> TypeDescriptor {
    let slice = compound(vec![("run", U32_TYPE), ("start", U32_TYPE), ("count", U32_TYPE), ("sum", U32_TYPE)]);
    compound(vec![
        ("id", U32_TYPE),
        ("skip", U8),
        ("directory_bits", U8),
        ("slices_count", U8),
        ("reserved", U8),
        ("prefix", U64_TYPE),
        ("applied", U64_TYPE),
        ("keys", U64_TYPE),
        ("pairs", U64_TYPE),
        ("buckets", U32_TYPE),
        ("directory_start", U32_TYPE),
        ("set_units", U64_TYPE),
        ("directory_sum", U64_TYPE),
        ("image", U64_TYPE),
        ("tags_sum", U64_TYPE),
        ("slices", array(slice, SLICES)),
    ])
}

/// A [`ChangeRecord`].
pub(crate) fn change_type() -> TypeDescriptor {
    compound(vec![("operation", U64_TYPE), ("key", id_type()), ("value", id_type())])
}

/// The tags of a bucket.
pub(crate) fn tags_type() -> TypeDescriptor {
    compound(vec![
        ("overflow", TypeDescriptor::Unsigned(IntSize::U2)),
        ("reserved", TypeDescriptor::Unsigned(IntSize::U2)),
        ("next", U32_TYPE),
        ("tags", array(U8, crate::bucket::CELLS)),
    ])
}

/// An entry of a directory.
pub(crate) fn entry_type() -> TypeDescriptor {
    U32_TYPE
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_types_that_h5py_sees_are_as_large_as_what_is_written() {
        assert_eq!(bucket_type().size(), crate::bucket::BYTES);
        assert_eq!(state_type().size(), size_of::<StateRecord>());
        assert_eq!(tags_type().size(), crate::bucket::TAG_BYTES);
        assert_eq!(partition_type().size(), size_of::<PartitionRecord>());
        assert_eq!(change_type().size(), size_of::<ChangeRecord>());
        assert_eq!(id_type().size(), crate::set::UNIT);
    }
}
