//! Pages in memory: those read from the file, as long as there is room, and those not in the file yet.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::RwLock;

use super::page::{PAGE, PageBuf, PageNo};

const SHARDS: usize = 32;

/// Hashes page numbers: they come from our own counter.
#[derive(Debug, Default)]
pub(crate) struct NumberHasher(u64);

impl Hasher for NumberHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|&byte| self.write_u32(byte.into()));
    }

    fn write_u32(&mut self, number: u32) {
        let product = (self.0 ^ u64::from(number)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.0 = product ^ (product >> 32);
    }
}

/// Pages by number.
pub(crate) type ByNumber<T> = HashMap<PageNo, T, BuildHasherDefault<NumberHasher>>;

#[derive(Debug)]
struct Entry {
    page: Arc<PageBuf>,
    /// The file does not have it yet.
    is_pending: bool,
    /// Since the last time that room was made.
    was_used: AtomicBool,
}

/// Pages in memory.
#[derive(Debug)]
pub(crate) struct Cache {
    shards: Vec<RwLock<ByNumber<Entry>>>,
    /// Pages that a shard holds.
    most: usize,
}

impl Cache {
    /// One of about so many bytes.
    pub(crate) fn new(bytes: usize) -> Self {
        let shards = (0..SHARDS).map(|_| RwLock::default()).collect();
        Self { shards, most: (bytes / PAGE / SHARDS).max(4) }
    }

    fn shard(&self, number: PageNo) -> &RwLock<ByNumber<Entry>> {
        &self.shards[number.0 as usize % SHARDS]
    }

    pub(crate) fn get(&self, number: PageNo) -> Option<Arc<PageBuf>> {
        let shard = self.shard(number).read();
        let entry = shard.get(&number)?;
        if !entry.was_used.load(Ordering::Relaxed) {
            entry.was_used.store(true, Ordering::Relaxed);
        }
        Some(Arc::clone(&entry.page))
    }

    /// Keeps a page that the file has.
    pub(crate) fn keep(&self, number: PageNo, page: Arc<PageBuf>) {
        self.put(number, page, false);
    }

    /// Holds a page that the file does not have yet, until [`Cache::settle`].
    pub(crate) fn hold(&self, number: PageNo, page: Arc<PageBuf>) {
        self.put(number, page, true);
    }

    fn put(&self, number: PageNo, page: Arc<PageBuf>, is_pending: bool) {
        let mut shard = self.shard(number).write();
        if shard.len() >= self.most && !shard.contains_key(&number) {
            // What was not used since the last time goes; if all was, every second one.
            let mut turn = false;
            let before = shard.len();
            shard.retain(|_, entry| entry.is_pending || entry.was_used.swap(false, Ordering::Relaxed));
            if shard.len() == before {
                shard.retain(|_, entry| {
                    turn = !turn;
                    entry.is_pending || turn
                });
            }
        }
        shard.insert(number, Entry { page, is_pending, was_used: AtomicBool::new(true) });
    }

    /// The file has this page now.
    pub(crate) fn settle(&self, number: PageNo) {
        if let Some(entry) = self.shard(number).write().get_mut(&number) {
            entry.is_pending = false;
        }
    }

    /// Forgets everything.
    pub(crate) fn clear(&self) {
        self.shards.iter().for_each(|shard| shard.write().clear());
    }
}
