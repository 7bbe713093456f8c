//! A partition in the file: its directory, its buckets and its value sets.
//!
//! What is read here may be anything: every bucket and every value set is checked before it is used, and the structure of
//! a partition before it is loaded.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use corallite_file::Mapped;
use parking_lot::RwLock;
use twox_hash::XxHash3_64;

use crate::E;
use crate::arena::{Arena, DIRECTORY_BITS, OutOfMemory};
use crate::bucket::{self, BYTES, Checked, Hit, Home, Stored, Tags};
use crate::entry::MULTI_VALUE_THRESHOLD;
use crate::format::PartitionRecord;
use crate::hash::{Hash, Seed};
use crate::hot::{Hot, shared_bits};
use crate::set::{self, SetHead};

/// A partition on its way into the file.
#[derive(Debug)]
pub(crate) struct Image {
    pub(crate) directory: Vec<u32>,
    pub(crate) buckets: Vec<u8>,
    pub(crate) sets: Vec<u8>,
    pub(crate) keys: u64,
    pub(crate) pairs: u64,
}

/// The checksum of a partition's directory.
pub(crate) fn directory_sum(directory: &[u32]) -> u64 {
    let bytes: Vec<u8> = directory.iter().flat_map(|entry| entry.to_le_bytes()).collect();
    XxHash3_64::oneshot(&bytes)
}

/// Bytes of the file: mapped, or copied where they cannot be.
#[derive(Debug)]
pub(crate) enum Bytes {
    Mapped(Mapped),
    Copied(Vec<u8>),
}

impl AsRef<[u8]> for Bytes {
    #[inline]
    fn as_ref(&self) -> &[u8] {
        match self {
            Self::Mapped(mapped) => mapped.as_ref(),
            Self::Copied(copied) => copied,
        }
    }
}

/// What does not agree in a partition, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Flaw {
    pub(crate) place: String,
    pub(crate) problem: String,
}

fn flaw(place: impl Into<String>, problem: impl Into<String>) -> Flaw {
    Flaw { place: place.into(), problem: problem.into() }
}

/// Why a partition was not loaded.
#[derive(Debug)]
pub(crate) enum NotLoaded {
    Flawed(Flaw),
    OutOfMemory,
}

impl From<Flaw> for NotLoaded {
    fn from(flaw: Flaw) -> Self {
        Self::Flawed(flaw)
    }
}

impl From<OutOfMemory> for NotLoaded {
    fn from(_: OutOfMemory) -> Self {
        Self::OutOfMemory
    }
}

/// A key's inline values, the cell and the head of its value set, and the version of its bucket.
pub(crate) type StoredEntry = (Vec<E>, Option<(E, SetHead)>, u32);

/// A partition as it lies in the file.
#[derive(Debug)]
pub(crate) struct StoredImage {
    pub(crate) id: u32,
    pub(crate) skip: u8,
    /// What the checksums of its buckets begin with.
    name: u64,
    bits: u32,
    pub(crate) directory: Vec<u32>,
    tags: Tags,
    buckets: Bytes,
    sets: Bytes,
    /// Which buckets were found intact, a bit each.
    checked: Vec<AtomicU64>,
    /// Buckets with a flipped bit that their states could correct.
    corrected: RwLock<HashMap<u32, Arc<[u8; BYTES]>>>,
    corrections: Arc<AtomicU64>,
}

enum OneBucket<'a> {
    File(&'a [u8; BYTES]),
    Corrected(Arc<[u8; BYTES]>),
}

impl OneBucket<'_> {
    fn words(&self) -> Stored<'_> {
        match self {
            Self::File(bytes) => Stored(bytes),
            Self::Corrected(bytes) => Stored(bytes),
        }
    }
}

impl StoredImage {
    /// Takes what was read of partition `id`; checks its directory.
    pub(crate) fn new(
        record: &PartitionRecord,
        directory: Vec<u32>,
        tags: Tags,
        (buckets, sets): (Bytes, Bytes),
        corrections: Arc<AtomicU64>,
    ) -> Result<Self, Flaw> {
        let (id, skip, name) = (record.id.get(), record.skip, record.image.get());
        let place = format!("the directory of partition {id:08x}");
        let count = buckets.as_ref().len() / BYTES;
        if directory_sum(&directory) != record.directory_sum.get() {
            return Err(flaw(place, "its checksum does not agree"));
        }
        if !directory.len().is_power_of_two() || directory.len() > 1 << DIRECTORY_BITS {
            return Err(flaw(place, format!("it has {} entries", directory.len())));
        }
        if let Some(entry) = directory.iter().find(|entry| **entry as usize >= count) {
            return Err(flaw(place, format!("it names bucket {entry} of {count}")));
        }
        let bits = directory.len().ilog2();
        let checked = (0..count.div_ceil(64)).map(|_| AtomicU64::new(0)).collect();
        let corrected = RwLock::default();
        Ok(Self { id, skip, name, bits, directory, tags, buckets, sets, checked, corrected, corrections })
    }

    fn count(&self) -> u32 {
        (self.buckets.as_ref().len() / BYTES) as u32
    }

    fn bucket(&self, index: u32) -> Result<OneBucket<'_>, Flaw> {
        let place = || format!("/buckets/{:08x}, bucket {index}", self.id);
        let start = index as usize * BYTES;
        let bytes: &[u8; BYTES] = self
            .buckets
            .as_ref()
            .get(start..)
            .and_then(<[u8]>::first_chunk)
            .ok_or_else(|| flaw(place(), "there is no such bucket"))?;
        let (word, bit) = (index as usize / 64, 1 << (index % 64));
        if self.checked[word].load(Ordering::Relaxed) & bit != 0 {
            return Ok(OneBucket::File(bytes));
        }
        let home = Home::new(self.name, index);
        if bucket::is_intact(bytes, home) {
            self.checked[word].fetch_or(bit, Ordering::Relaxed);
            return Ok(OneBucket::File(bytes));
        }
        if let Some(corrected) = self.corrected.read().get(&index) {
            return Ok(OneBucket::Corrected(Arc::clone(corrected)));
        }
        let mut copy = *bytes;
        match bucket::check(&mut copy, home) {
            Checked::Intact => Ok(OneBucket::File(bytes)),
            Checked::Corrected(count) => {
                let copy = Arc::new(copy);
                if self.corrected.write().insert(index, Arc::clone(&copy)).is_none() {
                    self.corrections.fetch_add(u64::from(count), Ordering::Relaxed);
                }
                Ok(OneBucket::Corrected(copy))
            }
            Checked::Damaged => Err(flaw(place(), "its checksum does not agree")),
        }
    }

    fn set(&self, cell: E) -> Result<(set::StoredSet<'_>, SetHead), Flaw> {
        set::stored(self.sets.as_ref(), cell.low(), cell.high())
            .map_err(|problem| flaw(format!("/values/{:08x}, unit {}", self.id, cell.low()), problem))
    }

    /// The buckets of a chain, from a directory entry on.
    pub(crate) fn chain(
        &self,
        head: u32,
        mut each: impl FnMut(u32, Stored<'_>) -> Result<(), Flaw>,
    ) -> Result<(), Flaw> {
        let mut at = head;
        loop {
            let found = self.bucket(at)?;
            each(at, found.words())?;
            let next = bucket::next(found.words());
            if next == 0 {
                return Ok(());
            }
            if next <= at {
                let place = format!("/buckets/{:08x}, bucket {at}", self.id);
                return Err(flaw(place, format!("its overflow bucket is {next}")));
            }
            at = next;
        }
    }

    fn head(&self, hash: Hash) -> u32 {
        self.directory[hash.index(u32::from(self.skip), self.bits)]
    }

    /// Calls `each` for every cell of a key, with its bucket. The tags that are kept in memory say where to look, so that a
    /// bucket is read only for the cell itself.
    #[inline]
    fn find(&self, hash: Hash, key: E, mut each: impl FnMut(u32, Stored<'_>, Hit)) -> Result<(), Flaw> {
        let head = self.head(hash);
        let found = self.tags.find(head, hash, |at, hit| {
            let bucket = self.bucket(at)?;
            if bucket::key(bucket.words(), hit.slot) == key {
                each(at, bucket.words(), hit);
            }
            Ok(())
        })?;
        if found {
            return Ok(());
        }
        self.chain(head, |at, bucket| {
            bucket::find(bucket, hash, key, |hit| each(at, bucket, hit));
            Ok(())
        })
    }

    /// Adds the values of a key, in the order of their insertion.
    pub(crate) fn values(&self, hash: Hash, key: E, out: &mut Vec<E>) -> Result<(), Flaw> {
        let mut spilled = None;
        let mut count = 0;
        let mut inline = [(0, 0, E::MIN); MULTI_VALUE_THRESHOLD];
        self.find(hash, key, |at, bucket, hit| {
            let value = bucket::value(bucket, hit.slot);
            if !hit.inline {
                spilled = Some(value);
            } else if count < MULTI_VALUE_THRESHOLD {
                inline[count] = (at, hit.slot, value);
                count += 1;
            }
        })?;
        if let Some(cell) = spilled {
            let (set, head) = self.set(cell)?;
            set::for_each(set, head, |value| out.push(value));
        }
        let inline = &mut inline[..count];
        // The states of a lone value need not be read.
        if count > 1 {
            for (at, slot, _) in &mut *inline {
                *slot = bucket::order(self.bucket(*at)?.words(), *slot).into();
            }
            inline.sort_by_key(|(_, order, _)| *order);
        }
        out.extend(inline.iter().map(|(_, _, value)| value));
        Ok(())
    }

    /// What of a key is stored where.
    pub(crate) fn entry(&self, hash: Hash, key: E) -> Result<StoredEntry, Flaw> {
        let mut inline: Vec<(u8, E)> = Vec::new();
        let mut spilled = None;
        let mut version = 0;
        self.find(hash, key, |_, bucket, hit| {
            version = bucket::head(bucket).version.max(version);
            let value = bucket::value(bucket, hit.slot);
            if !hit.inline {
                spilled = Some(value);
            } else if inline.len() < MULTI_VALUE_THRESHOLD {
                inline.push((bucket::order(bucket, hit.slot), value));
            }
        })?;
        inline.sort_by_key(|(order, _)| *order);
        let spill = match spilled {
            Some(cell) => Some((cell, self.set(cell)?.1)),
            None => None,
        };
        Ok((inline.into_iter().map(|(_, value)| value).collect(), spill, version))
    }

    /// Whether a pair is there.
    pub(crate) fn contains(&self, hash: Hash, key: E, wanted: E) -> Result<bool, Flaw> {
        let mut found = false;
        let mut spilled = None;
        self.find(hash, key, |_, bucket, hit| {
            let value = bucket::value(bucket, hit.slot);
            if hit.inline { found |= value == wanted } else { spilled = Some(value) }
        })?;
        if let Some(cell) = spilled {
            let (set, head) = self.set(cell)?;
            found |= set::position(set, head, wanted).is_some();
        }
        Ok(found)
    }

    /// Calls `each` with every key and its values.
    pub(crate) fn for_each(&self, seed: Seed, mut each: impl FnMut(E, &[E])) -> Result<(), Flaw> {
        let mut values = Vec::new();
        for index in 0..self.count() {
            let found = self.bucket(index)?;
            let mut keys = Vec::new();
            bucket::for_each(found.words(), |Hit { slot, inline }| {
                if !inline || bucket::order(found.words(), slot) == 0 {
                    keys.push(bucket::key(found.words(), slot));
                }
            });
            for key in keys {
                values.clear();
                self.values(seed.hash(key), key, &mut values)?;
                each(key, &values);
            }
        }
        Ok(())
    }

    /// Loads the partition into memory, checking all of it.
    pub(crate) fn load(&self, arena: &mut Arena<'_>, seed: Seed, prefix: u64) -> Result<Hot, NotLoaded> {
        self.check_structure(seed, prefix)?;
        let mut hot = Hot::new(arena, self.skip)?;
        match self.fill(arena, &mut hot) {
            Ok(()) => Ok(hot),
            Err(error) => {
                hot.free(arena);
                Err(error)
            }
        }
    }

    fn fill(&self, arena: &mut Arena<'_>, hot: &mut Hot) -> Result<(), NotLoaded> {
        let memory = arena.memory;
        let first = memory.directory(hot.directory).get(0);
        let mut numbers = vec![first];
        for _ in 1..self.count() {
            numbers.push(match arena.new_bucket(0) {
                Ok(index) => index,
                Err(OutOfMemory) => {
                    numbers.iter().skip(1).for_each(|index| arena.free_bucket(*index));
                    return Err(NotLoaded::OutOfMemory);
                }
            });
        }
        // From here on whatever is there can be given back through the directory.
        hot.bits = self.bits as u8;
        hot.buckets = self.count();
        for (index, entry) in self.directory.iter().enumerate() {
            memory.directory(hot.directory).set(index, numbers[*entry as usize]);
        }
        let mut failed = None;
        for index in 0..self.count() {
            let stored = self.bucket(index)?;
            let bucket = memory.bucket(numbers[index as usize]);
            bucket.begin();
            bucket.load(stored.words());
            let next = bucket::next(stored.words());
            bucket.set_next(if next == 0 { 0 } else { numbers[next as usize] });
            let mut lost = Vec::new();
            bucket::for_each(bucket, |Hit { slot, inline }| {
                if inline {
                    hot.pairs += 1;
                    hot.keys += u64::from(bucket::order(bucket, slot) == 0);
                    return;
                }
                let placed = match self.set(bucket::value(bucket, slot)) {
                    Ok((set, head)) => {
                        // A set that is about to grow has no use for room of exactly its size.
                        let capacity = set::capacity_for(head.live());
                        arena.new_set(capacity).map_err(NotLoaded::from).inspect(|unit| {
                            memory.set(*unit).load(set, head, capacity);
                            hot.keys += 1;
                            hot.pairs += u64::from(head.live());
                            hot.set_units += set::units(capacity);
                        })
                    }
                    Err(flaw) => Err(flaw.into()),
                };
                match placed {
                    Ok(unit) => bucket.set_value(slot, E::from_parts(0, unit)),
                    Err(error) => {
                        lost.push(slot);
                        failed.get_or_insert(error);
                    }
                }
            });
            lost.into_iter().for_each(|slot| bucket.remove(slot));
            bucket.end();
        }
        failed.map_or(Ok(()), Err)
    }

    /// Checks that the directory, the depths and the overflow buckets describe one tree, and that each key is where it
    /// belongs.
    pub(crate) fn check_structure(&self, seed: Seed, prefix: u64) -> Result<(), Flaw> {
        let mut seen = vec![false; self.count() as usize];
        let mut index = 0;
        while index < self.directory.len() {
            let first = self.directory[index];
            let place = |at: u32| format!("/buckets/{:08x}, bucket {at}", self.id);
            let span = self.directory[index..].iter().take_while(|entry| **entry == first).count();
            let range = index..index + span;
            let depth = shared_bits(&range, self.bits);
            if bucket::head(self.bucket(first)?.words()).depth != depth {
                return Err(flaw(place(first), format!("its depth is not {depth}, as the directory has it")));
            }
            self.chain(first, |at, bucket| {
                if std::mem::replace(&mut seen[at as usize], true) {
                    return Err(flaw(place(at), "it is referred to twice"));
                }
                let mut used = 0;
                let mut wrong = None;
                bucket::for_each(bucket, |hit| {
                    used += 1;
                    let hash = seed.hash(bucket::key(bucket, hit.slot));
                    let skip = u32::from(self.skip);
                    let tag = hash.tag() | if hit.inline { 0x80 } else { 0 };
                    let belongs = hash.prefix(skip) == prefix && range.contains(&hash.index(skip, self.bits));
                    let state = bucket::State::decode(bucket::state_byte(bucket, hit.slot));
                    if !belongs
                        || bucket::tag(bucket, hit.slot) != tag
                        || state.is_none_or(|state| state.spilled == hit.inline)
                    {
                        wrong = Some(hit.slot);
                    }
                });
                if let Some(slot) = wrong {
                    return Err(flaw(place(at), format!("cell {slot} does not belong there")));
                }
                if !self.tags.is_empty() && !self.tags.agree(at, bucket.0) {
                    return Err(flaw(place(at), "its tags are not those that are kept beside the image"));
                }
                if used != usize::from(bucket::head(bucket).used) {
                    return Err(flaw(place(at), "it does not have as many cells as it says"));
                }
                Ok(())
            })?;
            index = range.end;
        }
        match seen.iter().position(|seen| !seen) {
            Some(index) => Err(flaw(format!("/buckets/{:08x}, bucket {index}", self.id), "nothing refers to it")),
            None => Ok(()),
        }
    }
}
