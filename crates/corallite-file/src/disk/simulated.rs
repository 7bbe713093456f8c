//! A disk that loses power.
//!
//! [`SimulatedDisk`] behaves like [`MemoryDisk`] and records every change. [`SimulatedDisk::crash`] then builds what
//! a real disk could hold after a power loss at any point of that record: synced bytes are there, everything younger
//! may be there, missing, reordered, or torn at sector boundaries, and names not yet synced may be lost. Faults (disk
//! full, failing sync) can be injected as well. All choices come from a seed, so every failure replays.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;

use super::{Access, Buffer, Disk, DiskFile, Lock, Mapping, MemoryDisk};

/// Bytes that a disk writes as one.
const SECTOR: usize = 512;

/// What happens to changes that no sync had confirmed when the power went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LossMode {
    /// All of them reached the disk.
    KeepAll,
    /// None of them did.
    LoseAll,
    /// Each write, cut and name change did or did not, independently.
    RandomWrites,
    /// As `RandomWrites`, and each write sector by sector.
    RandomSectors,
}

impl LossMode {
    /// Every mode.
    pub const ALL: [Self; 4] = [Self::KeepAll, Self::LoseAll, Self::RandomWrites, Self::RandomSectors];
}

/// A failure to inject.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// No file may make the files' total length exceed this many bytes.
    Capacity(u64),
    /// The n-th sync from now (counted from 0), and all after it, fail with an input/output error.
    FailSync(u64),
    /// The n-th write from now (counted from 0), and all after it, fail with an input/output error.
    FailWrite(u64),
}

#[derive(Clone, Debug)]
enum Change {
    Write { file: u64, offset: usize, bytes: Arc<[u8]> },
    SetLen { file: u64, length: usize },
    Sync { file: u64 },
    Create { path: PathBuf, file: u64 },
    Rename { from: PathBuf, to: PathBuf },
    Remove { path: PathBuf },
    SyncNames,
    Mark(u64),
}

#[derive(Debug, Default)]
struct Record {
    base_files: HashMap<u64, Vec<u8>>,
    base_names: HashMap<PathBuf, u64>,
    names: HashMap<PathBuf, u64>,
    buffers: HashMap<u64, Buffer>,
    changes: Vec<Change>,
    fault: Option<Fault>,
}

/// A disk in memory that records what is done to it and can lose power.
#[derive(Clone, Debug, Default)]
pub struct SimulatedDisk {
    live: MemoryDisk,
    record: Arc<Mutex<Record>>,
}

/// What the disk held after a simulated power loss.
#[derive(Clone, Debug)]
pub struct CrashImage {
    /// The files by name.
    pub files: HashMap<PathBuf, Vec<u8>>,
    /// The largest number given to [`SimulatedDisk::mark`] before the cut.
    pub last_mark: Option<u64>,
}

impl SimulatedDisk {
    /// An empty disk.
    pub fn new() -> Self {
        Self::default()
    }

    /// A disk that holds `files`, all of it durable.
    pub fn with_files(files: HashMap<PathBuf, Vec<u8>>) -> Self {
        let disk = Self::new();
        for (path, bytes) in files {
            disk.live.insert(path, Buffer::from(bytes));
        }
        disk.forget();
        disk
    }

    /// Takes the present content as durable and starts the record anew.
    pub fn forget(&self) {
        let mut record = self.record.lock();
        record.changes.clear();
        let names: Vec<PathBuf> = record.names.keys().cloned().collect();
        for path in self.live.paths().into_iter().chain(names) {
            if let (Some(buffer), Some(file)) = (self.live.buffer(&path), self.live.identity(&path)) {
                record.names.insert(path, file);
                record.buffers.insert(file, buffer);
            }
        }
        record.base_names = record.names.clone();
        record.base_files = record.buffers.iter().map(|(&file, buffer)| (file, buffer.to_vec())).collect();
    }

    /// Notes in the record that everything up to here was acknowledged as `number`.
    pub fn mark(&self, number: u64) {
        self.record.lock().changes.push(Change::Mark(number));
    }

    /// How many changes were recorded: the cut points are `0..=len`.
    pub fn changes(&self) -> usize {
        self.record.lock().changes.len()
    }

    /// Injects `fault`, or stops doing so.
    pub fn inject(&self, fault: Option<Fault>) {
        self.record.lock().fault = fault;
    }

    /// The bytes of a file as they are now.
    pub fn read(&self, path: &Path) -> Option<Vec<u8>> {
        self.live.buffer(path).map(|buffer| buffer.to_vec())
    }

    /// What the disk could hold if the power went after the first `cut` changes.
    pub fn crash(&self, cut: usize, mode: LossMode, seed: u64) -> CrashImage {
        let record = self.record.lock();
        let cut = cut.min(record.changes.len());
        let done = &record.changes[..cut];
        let mut random = Random::new(seed);

        // A change is certain when a later sync of the same file (or of the names) lies before the cut.
        let mut last_sync: HashMap<u64, usize> = HashMap::new();
        let mut last_name_sync = 0;
        let mut last_mark = None;
        for (index, change) in done.iter().enumerate() {
            match change {
                Change::Sync { file } => {
                    last_sync.insert(*file, index);
                }
                Change::SyncNames => last_name_sync = index,
                Change::Mark(number) => last_mark = Some(*number),
                _ => {}
            }
        }

        let mut files = record.base_files.clone();
        let mut names = record.base_names.clone();
        // File systems journal names in order: what survives of the unsynced ones is a prefix.
        let mut names_end = match mode {
            LossMode::KeepAll => usize::MAX,
            LossMode::LoseAll => last_name_sync,
            _ => last_name_sync + random.below((cut - last_name_sync) as u64 + 1) as usize,
        };
        if names_end < last_name_sync {
            names_end = last_name_sync;
        }
        for (index, change) in done.iter().enumerate() {
            match change {
                Change::Write { file, offset, bytes } => {
                    let certain = last_sync.get(file).is_some_and(|&sync| sync > index);
                    let content = files.entry(*file).or_default();
                    if certain || mode == LossMode::KeepAll {
                        put(content, *offset, bytes);
                    } else if mode == LossMode::RandomWrites {
                        if random.coin() {
                            put(content, *offset, bytes);
                        }
                    } else if mode == LossMode::RandomSectors {
                        let mut at = 0;
                        while at < bytes.len() {
                            let end = bytes.len().min(at + SECTOR - (*offset + at) % SECTOR);
                            if random.coin() {
                                put(content, *offset + at, &bytes[at..end]);
                            }
                            at = end;
                        }
                    }
                }
                Change::SetLen { file, length } => {
                    let certain = last_sync.get(file).is_some_and(|&sync| sync > index);
                    let kept = match mode {
                        LossMode::KeepAll => true,
                        LossMode::LoseAll => false,
                        _ => random.coin(),
                    };
                    if certain || kept {
                        files.entry(*file).or_default().resize(*length, 0);
                    }
                }
                Change::Create { path, file } => {
                    // A file's inode is durable with its first sync even if its name is not.
                    files.entry(*file).or_default();
                    if index < names_end {
                        names.insert(path.clone(), *file);
                    }
                }
                Change::Rename { from, to } => {
                    if index < names_end
                        && let Some(file) = names.remove(from)
                    {
                        names.insert(to.clone(), file);
                    }
                }
                Change::Remove { path } => {
                    if index < names_end {
                        names.remove(path);
                    }
                }
                Change::Sync { .. } | Change::SyncNames | Change::Mark(_) => {}
            }
        }
        let files =
            names.into_iter().map(|(path, file)| (path, files.get(&file).cloned().unwrap_or_default())).collect();
        CrashImage { files, last_mark }
    }

    fn note(&self, change: Change) {
        self.record.lock().changes.push(change);
    }
}

fn put(content: &mut Vec<u8>, offset: usize, bytes: &[u8]) {
    if content.len() < offset + bytes.len() {
        content.resize(offset + bytes.len(), 0);
    }
    content[offset..offset + bytes.len()].copy_from_slice(bytes);
}

impl Disk for SimulatedDisk {
    fn open(&self, path: &Path, access: Access) -> io::Result<Arc<dyn DiskFile>> {
        let known = self.live.identity(path).is_some();
        let inner = self.live.open(path, access)?;
        let file = inner.identity()?.1;
        if !known {
            self.note(Change::Create { path: path.to_owned(), file });
        }
        {
            let mut record = self.record.lock();
            record.names.insert(path.to_owned(), file);
            if let Some(buffer) = self.live.buffer(path) {
                record.buffers.insert(file, buffer);
            }
        }
        Ok(Arc::new(SimulatedFile { inner, file, disk: self.clone() }))
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.live.remove(path)?;
        self.record.lock().names.remove(path);
        self.note(Change::Remove { path: path.to_owned() });
        Ok(())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.live.rename(from, to)?;
        let mut record = self.record.lock();
        if let Some(file) = record.names.remove(from) {
            record.names.insert(to.to_owned(), file);
        }
        record.changes.push(Change::Rename { from: from.to_owned(), to: to.to_owned() });
        Ok(())
    }

    fn sync_directory(&self, path: &Path) -> io::Result<()> {
        self.live.sync_directory(path)?;
        self.note(Change::SyncNames);
        Ok(())
    }

    fn is_at(&self, file: &dyn DiskFile, path: &Path) -> io::Result<bool> {
        self.live.is_at(file, path)
    }
}

#[derive(Debug)]
struct SimulatedFile {
    inner: Arc<dyn DiskFile>,
    file: u64,
    disk: SimulatedDisk,
}

fn broken() -> io::Error {
    io::Error::other("simulated input/output error")
}

impl DiskFile for SimulatedFile {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        self.inner.read_at(offset, buffer)
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let mut allowed = bytes.len();
        let mut failure = None;
        {
            let mut record = self.disk.record.lock();
            match &mut record.fault {
                Some(Fault::FailWrite(0)) => return Err(broken()),
                Some(Fault::FailWrite(left)) => *left -= 1,
                Some(Fault::Capacity(capacity)) => {
                    let capacity = *capacity;
                    let end = offset + bytes.len() as u64;
                    let growth = end.saturating_sub(self.inner.len()?);
                    let used = self.disk.live.total_len();
                    if used + growth > capacity {
                        let missing = (used + growth - capacity).min(growth);
                        allowed -= (missing as usize).min(allowed);
                        failure = Some(io::ErrorKind::StorageFull.into());
                    }
                }
                _ => {}
            }
        }
        if allowed > 0 {
            self.inner.write_at(offset, &bytes[..allowed])?;
            let bytes = Arc::from(&bytes[..allowed]);
            self.disk.note(Change::Write { file: self.file, offset: offset as usize, bytes });
        }
        failure.map_or(Ok(()), Err)
    }

    fn len(&self) -> io::Result<u64> {
        self.inner.len()
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        self.inner.set_len(length)?;
        self.disk.note(Change::SetLen { file: self.file, length: length as usize });
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        match &mut self.disk.record.lock().fault {
            Some(Fault::FailSync(0)) => return Err(broken()),
            Some(Fault::FailSync(left)) => *left -= 1,
            _ => {}
        }
        self.inner.sync()?;
        self.disk.note(Change::Sync { file: self.file });
        Ok(())
    }

    fn try_lock(&self, lock: Lock) -> io::Result<bool> {
        self.inner.try_lock(lock)
    }

    fn unlock(&self) -> io::Result<()> {
        self.inner.unlock()
    }

    fn map(&self, offset: u64, length: usize) -> io::Result<Option<Mapping>> {
        self.inner.map(offset, length)
    }

    fn identity(&self) -> io::Result<(u64, u64)> {
        self.inner.identity()
    }
}

/// A small generator (xorshift64*, Marsaglia 2003 and Vigna 2016): the harness must replay, not be unpredictable.
struct Random(u64);

impl Random {
    fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, bound: u64) -> u64 {
        (self.next() >> 11) % bound
    }

    fn coin(&mut self) -> bool {
        self.next() >> 63 == 1
    }
}
