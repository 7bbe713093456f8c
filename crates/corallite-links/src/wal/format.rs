//! The bytes of the log: one page of our own, and 64-byte records.
//!
//! The page is the dataset `/header`, the records are the dataset `/records`. Integers are little-endian. What is
//! rewritten in place has a sector of its own, so that a torn write spoils nothing else.

use twox_hash::XxHash3_64;
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::{Lsn, Position};
use crate::change::{Change, Operation};
use crate::e::{E, StoredE};

/// The version of the log's format that this program writes and reads up to.
pub const LOG_FORMAT_VERSION: u32 = 1;

pub(super) const MAGIC: [u8; 8] = *b"CORALWAL";
pub(super) const PAGE: u64 = 4096;
/// Two slots in turn: the one being rewritten when the power goes leaves the other.
pub(super) const SLOTS_AT: [u64; 2] = [512, 1024];
/// The header never changes, and without it no record can be found: it is kept twice.
pub(super) const HEADER_COPY_AT: u64 = 1536;

pub(super) const RECORD: u64 = size_of::<Record>() as u64;
const RECORD_VERSION: u8 = 1;
const COMMIT: u8 = 15;
const MARK: u8 = 14;
/// No log gets this far, so that sums of a number below and a capacity cannot overflow, whatever a file says.
pub(super) const LSN_LIMIT: u64 = 1 << 62;

/// The first bytes of the page `/header`, and again at [`HEADER_COPY_AT`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct Header {
    pub(super) magic: [u8; 8],
    pub(super) version: U32,
    pub(super) record_size: U32,
    /// Records that the ring holds.
    pub(super) capacity: U64,
    /// Where the ring begins in the file.
    pub(super) region: U64,
    /// The first record this file was made for.
    pub(super) first: U64,
    pub(super) store: [u8; 16],
    /// XXH3-64 of the bytes before.
    pub(super) checksum: U64,
}

/// A hint of how far the store's file has come. The store's file itself is the authority.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct Slot {
    /// The larger one is the newer one.
    pub(super) sequence: U64,
    pub(super) lsn: U64,
    pub(super) mac: [u8; 16],
    /// As in a record.
    pub(super) log: U64,
    /// XXH3-64 of the bytes before.
    pub(super) checksum: U64,
}

/// A record of the log, as it lies in the file: a change, the end of a batch, or a mark.
///
/// A batch is its changes in order and then one commit record, whose `key` holds the token of the changes in the store's
/// file that the batch was made from (high; 0 for none), and (low) the number of changes with, in the upper 32 bits,
/// how many records lay between the last synced one and the commit record when it was made. Its `value` is the MAC.
///
/// A mark lies where the next batch will begin, and says that everything before it was synced.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Record {
    /// The version (upper four bits) and the operation.
    pub(super) version_op: u8,
    pub(super) flags: u8,
    pub(super) shard: U16,
    /// CRC-32C of the record with this field zero.
    pub(super) crc32c: U32,
    /// The record's number.
    pub(super) seq: U64,
    /// Unix time in nanoseconds.
    pub(super) nanos: U64,
    pub(super) key: StoredE,
    pub(super) value: StoredE,
    /// The first eight bytes of the store's id: tells records of another log.
    pub(super) log: U64,
}

const _: () = assert!(size_of::<Header>() == 64);
const _: () = assert!(size_of::<Slot>() == 48);
const _: () = assert!(size_of::<Record>() == 64);
const _: () = assert!(HEADER_COPY_AT + 64 <= PAGE);

fn sum_before_checksum(structure: &[u8]) -> u64 {
    XxHash3_64::oneshot(&structure[..structure.len() - size_of::<u64>()])
}

/// What tells the records of a store's log from those of others.
pub(super) fn log_of(store: &[u8; 16]) -> u64 {
    let [a, b, c, d, e, f, g, h, ..] = *store;
    u64::from_le_bytes([a, b, c, d, e, f, g, h])
}

impl Header {
    pub(super) fn new(capacity: u64, region: u64, first: Lsn, store: [u8; 16]) -> Self {
        let mut header = Self {
            magic: MAGIC,
            version: LOG_FORMAT_VERSION.into(),
            record_size: (RECORD as u32).into(),
            capacity: capacity.into(),
            region: region.into(),
            first: first.0.into(),
            store,
            checksum: 0.into(),
        };
        header.checksum = sum_before_checksum(header.as_bytes()).into();
        header
    }

    pub(super) fn is_intact(&self) -> bool {
        self.magic == MAGIC && self.checksum.get() == sum_before_checksum(self.as_bytes())
    }
}

impl Slot {
    pub(super) fn new(sequence: u64, position: Position, log: u64) -> Self {
        let mut slot = Self {
            sequence: sequence.into(),
            lsn: position.lsn.0.into(),
            mac: position.mac,
            log: log.into(),
            checksum: 0.into(),
        };
        slot.checksum = sum_before_checksum(slot.as_bytes()).into();
        slot
    }

    pub(super) fn is_intact(&self, log: u64) -> bool {
        self.log.get() == log
            && self.lsn.get() < LSN_LIMIT
            && self.checksum.get() == sum_before_checksum(self.as_bytes())
    }

    pub(super) fn position(&self) -> Position {
        Position { lsn: Lsn(self.lsn.get()), mac: self.mac }
    }
}

/// What a batch's records have in common.
#[derive(Clone, Copy, Debug)]
pub(super) struct Common {
    pub(super) shard: u16,
    pub(super) nanos: u64,
    pub(super) log: u64,
}

impl Record {
    fn new(code: u8, seq: u64, common: Common, key: StoredE, value: StoredE) -> Self {
        Self {
            version_op: RECORD_VERSION << 4 | code,
            flags: 0,
            shard: common.shard.into(),
            crc32c: 0.into(),
            seq: seq.into(),
            nanos: common.nanos.into(),
            key,
            value,
            log: common.log.into(),
        }
    }

    pub(super) fn of_change(change: &Change, seq: u64, common: Common) -> Self {
        let mut record = Self::new(change.operation as u8, seq, common, change.key.to_hdf5(), change.value.to_hdf5());
        record.seal();
        record
    }

    /// A commit record without MAC and checksum, as the MAC covers it.
    pub(super) fn of_commit(seq: u64, common: Common, token: u64, count: u32, lag: u32) -> Self {
        let key = StoredE { high: token.into(), low: (u64::from(lag) << 32 | u64::from(count)).into() };
        Self::new(COMMIT, seq, common, key, StoredE::default())
    }

    pub(super) fn of_mark(seq: u64, common: Common) -> Self {
        let mut record = Self::new(MARK, seq, common, StoredE::default(), StoredE::default());
        record.seal();
        record
    }

    pub(super) fn set_mac(&mut self, mac: [u8; 16]) {
        self.value = zerocopy::transmute!(mac);
        self.seal();
    }

    fn seal(&mut self) {
        self.crc32c = self.expected_crc().into();
    }

    fn expected_crc(&self) -> u32 {
        let mut bare = *self;
        bare.crc32c = 0.into();
        crc32c::crc32c(bare.as_bytes())
    }

    /// Whether this is the record with this number of this log, unharmed.
    pub(super) fn is_intact(&self, seq: u64, log: u64) -> bool {
        self.seq.get() == seq
            && self.log.get() == log
            && self.version_op >> 4 == RECORD_VERSION
            && self.crc32c.get() == self.expected_crc()
    }

    /// The number of the record.
    pub fn lsn(&self) -> Lsn {
        Lsn(self.seq.get())
    }

    /// When it was made, in nanoseconds since 1970 by the writer's clock.
    pub fn nanos(&self) -> u64 {
        self.nanos.get()
    }

    /// The shard its writer noted.
    pub fn shard(&self) -> u16 {
        self.shard.get()
    }

    /// The change; `None` for a commit record, and for operations of a later version.
    #[inline]
    pub fn change(&self) -> Option<Change> {
        let operation = Operation::from_code(self.version_op & 15)?;
        Some(Change { operation, key: E::from_hdf5(self.key), value: E::from_hdf5(self.value) })
    }

    pub(super) fn is_commit(&self) -> bool {
        self.version_op & 15 == COMMIT
    }

    pub(super) fn is_mark(&self) -> bool {
        self.version_op & 15 == MARK
    }

    // What follows is of commit records.

    /// Of the changes in the store's file that the batch was made from; 0 for none.
    pub(super) fn token(&self) -> u64 {
        self.key.high.get()
    }

    pub(super) fn count(&self) -> u64 {
        self.key.low.get() & u64::from(u32::MAX)
    }

    /// The first record that was not known to be synced when this was written.
    pub(super) fn durable(&self) -> Lsn {
        Lsn(self.seq.get().saturating_sub(self.key.low.get() >> 32))
    }

    pub(super) fn mac(&self) -> [u8; 16] {
        zerocopy::transmute!(self.value)
    }

    /// As the MAC covers a commit record: without MAC and checksum.
    pub(super) fn bare(&self) -> Self {
        Self { crc32c: 0.into(), value: StoredE::default(), ..*self }
    }
}

/// The MAC of a batch: the first 16 bytes of the keyed BLAKE3 of the MAC before, the batch's change records, and its
/// commit record with `crc32c` and `value` zero.
pub(super) struct Mac(blake3::Hasher);

impl Mac {
    pub(super) fn new(key: &[u8; 32], previous: &[u8; 16]) -> Self {
        let mut hasher = blake3::Hasher::new_keyed(key);
        hasher.update(previous);
        Self(hasher)
    }

    pub(super) fn update(&mut self, changes: &[Record]) {
        self.0.update(changes.as_bytes());
    }

    pub(super) fn finish(mut self, commit: &Record) -> [u8; 16] {
        self.0.update(commit.bare().as_bytes());
        first_half(self.0.finalize())
    }

    /// The same of bytes that lie together: the MAC before and the batch.
    pub(super) fn of(key: &[u8; 32], chained: &[u8]) -> [u8; 16] {
        first_half(blake3::keyed_hash(key, chained))
    }
}

fn first_half(hash: blake3::Hash) -> [u8; 16] {
    let (halves, _) = hash.as_bytes().as_chunks::<16>();
    halves[0]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn records() -> Vec<Record> {
        let common = Common { shard: 7, nanos: 11, log: 13 };
        let change = Change::insert(E::new(5), E::new(6));
        vec![Record::of_change(&change, 3, common), Record::of_commit(4, common, 0, 1, 4)]
    }

    #[test]
    fn the_mac_in_pieces_is_the_mac_of_the_whole() {
        let (key, previous) = ([9; 32], [8; 16]);
        let records = records();
        let mut mac = Mac::new(&key, &previous);
        mac.update(&records[..1]);
        let whole = [&previous[..], records.as_bytes()].concat();
        assert_eq!(mac.finish(&records[1]), Mac::of(&key, &whole));
    }

    #[test]
    fn every_flipped_bit_of_a_record_shows() {
        let record = records()[0];
        assert!(record.is_intact(3, 13));
        for bit in 0..512 {
            let mut bytes: [u8; 64] = zerocopy::transmute!(record);
            bytes[bit / 8] ^= 1 << (bit % 8);
            let flipped: Record = zerocopy::transmute!(bytes);
            assert!(!flipped.is_intact(3, 13), "bit {bit}");
        }
    }
}
