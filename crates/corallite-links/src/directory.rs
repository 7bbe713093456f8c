//! [`Directory`] and [`Bucket`]: where the keys lie, as the documents describe it.

use std::fmt;

use crate::bucket::CELLS;
use crate::engine::Looked;
use crate::hash::Hash;
use crate::{CIDStore, DirectoryForm, E, HashEntry, Result, SpillPointer};

/// How many buckets an iterator reads at once: few enough for a writer to wait for, and enough that the changes of a
/// partition that is not loaded are not gone through for each bucket.
const AT_ONCE: usize = 64;

/// Which bucket: `0000002a/7` as text.
///
/// Buckets have no names in the file, and get other numbers when buckets before them are split or merged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BucketId {
    /// The partition, which names the datasets `/buckets/<partition>` and `/values/<partition>` in hexadecimal digits.
    pub partition: u32,
    /// The bucket's place among those of its partition, in the order of the hashes of their keys, from 0 on.
    pub number: u32,
}

impl fmt::Display for BucketId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:08x}/{}", self.partition, self.number)
    }
}

/// A bucket as it was when it was read: the keys whose hashes begin alike, with what is stored of them.
///
/// ```
/// use corallite_links::{CIDStore, E};
///
/// let store = CIDStore::memory()?;
/// let (few, many) = (E::from_str("few"), E::from_str("many"));
/// store.batch_insert(&[(few, E::new(1)), (few, E::new(2))])?;
/// store.batch_insert(&(0..6).map(|value| (many, E::new(value))).collect::<Vec<_>>())?;
/// let bucket = store.directory()?.bucket_of(few)?;
/// assert_eq!((bucket.entries().len(), bucket.sorted_count()), (2, 2));
/// assert_eq!(bucket.get(few).map(|entry| entry.inline()), Some(&[E::new(1), E::new(2)][..]));
/// let (spilled, pointer) = bucket.spills().next().unwrap();
/// assert_eq!((spilled, Some(pointer)), (many, bucket.spill()));
/// assert_eq!((bucket.used(), bucket.capacity()), (3, 120)); // two inline values and one pointer
/// # Ok::<(), corallite_links::Error>(())
/// ```
///
/// In a partition that is not loaded, a bucket lies in the file, and changes that wait for the next checkpoint to rewrite it
/// are in memory. The entries are those after these changes; cells, depth and version are those of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bucket {
    pub(crate) id: BucketId,
    /// By key.
    pub(crate) entries: Vec<HashEntry>,
    pub(crate) used: u32,
    /// How many pieces of 4096 bytes it has.
    pub(crate) blocks: u32,
    pub(crate) local_depth: u32,
    pub(crate) version: u32,
}

impl Bucket {
    /// Which bucket it is.
    pub fn id(&self) -> BucketId {
        self.id
    }

    /// What is stored of each of its keys, as [`CIDStore::get_entry`] says it, in the order of the keys.
    pub fn entries(&self) -> &[HashEntry] {
        &self.entries
    }

    /// The entry of a key; `None` when the bucket does not have the key.
    pub fn get(&self, key: E) -> Option<&HashEntry> {
        let place = self.entries.binary_search_by_key(&key, |entry| entry.key);
        place.ok().and_then(|place| self.entries.get(place))
    }

    /// How many of the entries, from the first on, are in the order of their keys: all of them. That is the order of this
    /// view. As it is stored, a bucket has no sorted region, as no search bisects it: cells are found by their tags.
    pub fn sorted_count(&self) -> usize {
        self.entries.len()
    }

    /// The value set of the first key, in the order of the keys, that has one. The documents have one such pointer in a
    /// bucket; here each key with more than four values has its own: [`Bucket::spills`].
    pub fn spill(&self) -> Option<SpillPointer> {
        self.spills().next().map(|(_, pointer)| pointer)
    }

    /// The keys with value sets, and where these lie.
    pub fn spills(&self) -> impl Iterator<Item = (E, SpillPointer)> {
        self.entries.iter().filter_map(|entry| Some((entry.key, entry.spill?)))
    }

    /// Cells in use: one for each inline value, one for each value set.
    pub fn used(&self) -> u32 {
        self.used
    }

    /// Cells there are: 120, and as many again for each [overflow bucket](Bucket::overflow_buckets).
    pub fn capacity(&self) -> u32 {
        self.blocks * CELLS as u32
    }

    /// Buckets that this one overflowed to, as it was full and its keys share too much of their hashes to be split. They are
    /// a part of it.
    pub fn overflow_buckets(&self) -> u32 {
        self.blocks - 1
    }

    /// How many bits, from the top, the hashes of its keys share; at most [`Directory::global_depth`].
    pub fn local_depth(&self) -> u32 {
        self.local_depth
    }

    /// Changes whenever something in the bucket changes, for as long as its partition stays loaded. Versions from before and
    /// after it was loaded or unloaded say nothing about each other.
    pub fn version(&self) -> u32 {
        self.version
    }
}

/// What a directory is like.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Figures {
    partitions: usize,
    global_depth: u32,
    form: Option<DirectoryForm>,
}

/// Which bucket has which keys: a view of the store for people and tools. Reading values needs none; see [`CIDStore::get`].
///
/// ```
/// use corallite_links::{CIDStore, E};
///
/// let store = CIDStore::memory()?;
/// let pairs: Vec<_> = (0..1000).map(|number| (E::new(number), E::new(1))).collect();
/// store.batch_insert(&pairs)?;
/// let directory = store.directory()?;
/// let mut keys = 0;
/// for bucket in directory.buckets() {
///     keys += bucket?.entries().len();
/// }
/// assert_eq!(keys, 1000);
/// assert_eq!(directory.buckets().count() as u64, directory.num_buckets()?);
/// assert!(directory.bucket_of(E::new(7))?.get(E::new(7)).is_some());
/// # Ok::<(), corallite_links::Error>(())
/// ```
///
/// [`partitions`](Directory::partitions), [`global_depth`](Directory::global_depth) and [`form`](Directory::form) are those of
/// the moment when the view was made. Buckets are read when they are asked for, each as it is then; for a store as it was at
/// one moment there is [`CIDStore::snapshot`].
#[derive(Clone, Copy, Debug)]
pub struct Directory<'a> {
    store: &'a CIDStore,
    pub(crate) figures: Figures,
}

impl CIDStore {
    /// The directory: which bucket has which keys.
    ///
    /// # Errors
    ///
    /// [`Error::Closed`](crate::Error::Closed).
    pub fn directory(&self) -> Result<Directory<'_>> {
        let shared = self.shared();
        shared.check_open()?;
        let (partitions, global_depth) = {
            let writer = shared.writer.lock();
            let depths = writer.partitions.iter().flatten().map(|owned| owned.depth());
            (writer.count(), depths.max().unwrap_or(0))
        };
        let form = shared.engine.source.read().as_ref().map(|source| source.form());
        Ok(Directory::new(self, Figures { partitions, global_depth, form }))
    }
}

impl<'a> Directory<'a> {
    pub(crate) fn new(store: &'a CIDStore, figures: Figures) -> Self {
        Self { store, figures }
    }

    /// Partitions of the store, each with a directory of its own and a part of the hashes.
    pub fn partitions(&self) -> usize {
        self.figures.partitions
    }

    /// Bits of the hash that tell the most closely divided keys' buckets apart: those that choose the partition, and those
    /// that choose an entry of its directory.
    pub fn global_depth(&self) -> u32 {
        self.figures.global_depth
    }

    /// How the file holds the directory; `None` while it holds none. [`CIDStore::migrate_directory`] says when it has which
    /// form.
    pub fn form(&self) -> Option<DirectoryForm> {
        self.figures.form
    }

    /// Buckets there are now, overflow buckets as a part of those that overflowed. Reads the directories of partitions that
    /// are not loaded, and no bucket.
    ///
    /// # Errors
    ///
    /// [`Error::Damaged`](crate::Error::Damaged) when a directory in the file is not what was written.
    pub fn num_buckets(&self) -> Result<u64> {
        let shared = self.store.shared();
        let (mut count, mut next) = (0, Some(0));
        while let Some(hash) = next {
            shared.check_open()?;
            // For each partition anew, so that writers wait for one at most.
            let writer = shared.writer.lock();
            let (buckets, after) = shared.engine.count_buckets(&writer, Hash(hash))?;
            count += buckets;
            next = after;
        }
        Ok(count)
    }

    /// All buckets, in the order of the hashes of their keys. A few are read at a time; between them nothing is locked, and
    /// the store may change. A key that is there throughout comes once, however buckets are split and merged meanwhile.
    pub fn buckets(&self) -> Buckets<'a> {
        Buckets { directory: *self, next: Some(0), current: Vec::new().into_iter() }
    }

    /// The bucket that a key lies in, or would lie in.
    ///
    /// # Errors
    ///
    /// As [`CIDStore::get`], for every key of the bucket.
    pub fn bucket_of(&self, key: E) -> Result<Bucket> {
        let shared = self.store.shared();
        shared.check_open()?;
        let writer = shared.writer.lock();
        shared.engine.bucket(&writer, shared.engine.seed.hash(key))
    }

    /// The next buckets from the one of a hash on, and the smallest hash after them.
    pub(crate) fn read(&self, hash: u64) -> (Looked, Option<u64>) {
        let shared = self.store.shared();
        if let Err(error) = shared.check_open() {
            return (vec![Err(error)], None);
        }
        let writer = shared.writer.lock();
        shared.engine.buckets(&writer, Hash(hash), AT_ONCE)
    }
}

/// The buckets of a [`Directory`]. One that is damaged, or has a key whose value set is, comes as an error, and those after it
/// follow; a partition that cannot be read at all is one error.
#[derive(Debug)]
pub struct Buckets<'a> {
    directory: Directory<'a>,
    /// The smallest hash of the buckets to be read next; `None` when there are none.
    next: Option<u64>,
    current: std::vec::IntoIter<Result<Bucket>>,
}

impl Iterator for Buckets<'_> {
    type Item = Result<Bucket>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(bucket) = self.current.next() {
                return Some(bucket);
            }
            let hash = self.next.take()?;
            let (found, next) = self.directory.read(hash);
            self.current = found.into_iter();
            self.next = next;
        }
    }
}
