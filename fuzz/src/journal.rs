//! The journal beside a store's file: whatever its bytes are, opening gives `Ok` or `Err`; and as long as nobody forges
//! checksums, what opens is one of the commits that were made, whole.

use std::hash::Hasher;
use std::io;
use std::path::Path;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use corallite_file::hdf5::{File, Group};
use corallite_file::{
    Access, Buffer, Disk, DiskFile, Lock, Mapping, MemoryDisk, Mode, Options, PAGE_SIZE, Source, Storage,
};
use twox_hash::XxHash3_64;

use crate::input::{EDITS, Input, edit};

const MAIN: &str = "store.h5";
const JOURNAL: &str = "store.h5-journal";

// Where things are in a journal: `docs/file-format.md`.
const MARKS_AT: usize = 512;
const FRAMES_START: usize = 4096;
const FRAME_HEADER: usize = 40;
const KIND_COMMIT: u32 = 3;

/// What a writer that was killed leaves behind.
pub struct Left {
    main: Vec<u8>,
    journal: Vec<u8>,
    /// Commits whose content may be found: the oldest in the file to the newest in the journal.
    commits: std::ops::RangeInclusive<i64>,
}

/// The commits are in the journal, and in the file only up to the one it began with.
pub static WAITING: LazyLock<Left> = LazyLock::new(|| left(true).expect("a store in memory can be written"));
/// The commits are in the journal and in the file.
pub static APPLIED: LazyLock<Left> = LazyLock::new(|| left(false).expect("a store in memory can be written"));

fn left(waiting: bool) -> Result<Left, Box<dyn std::error::Error>> {
    let disk = MemoryDisk::new();
    let options = Options::new().lock_wait(Duration::from_millis(1));
    let storage = Storage::on_disk(Arc::new(disk.clone()), Path::new(MAIN), options);
    let bytes = |path: &str| disk.buffer(Path::new(path)).map(|buffer| buffer.to_vec()).ok_or("no such file");
    storage.open(Mode::Append, false)?;
    change(&storage, 1)?;
    storage.close()?;
    // A second session, so that the journal begins with a file that has content.
    storage.open(Mode::Append, false)?;
    let reader = disk.open(Path::new(MAIN), Access::Read)?;
    if waiting && !reader.try_lock(Lock::Shared)? {
        return Err("the reader got no lock".into());
    }
    (2..=4).try_for_each(|number| change(&storage, number))?;
    let left =
        Left { main: bytes(MAIN)?, journal: normal(bytes(JOURNAL)?)?, commits: if waiting { 1..=4 } else { 4..=4 } };
    drop(reader);
    storage.abandon()?;
    Ok(left)
}

/// The commit number `number` of the history that every file here comes from.
fn change(storage: &Storage, number: i64) -> Result<(), Box<dyn std::error::Error>> {
    let values = storage.create_group("/values")?;
    let steady = match values.dataset("steady") {
        Ok(dataset) => dataset,
        Err(_) => values.new_dataset::<i64>().shape(700).create("steady")?,
    };
    steady.write_raw(&vec![number; 700])?;
    values.new_dataset::<i64>().shape(600).create(format!("of-{number}").as_str())?.write_raw(&vec![number; 600])?;
    if number == 3 {
        values.unlink("of-1")?;
    }
    storage.flush()?;
    Ok(())
}

/// Which of the commits the file holds, 0 being the one that created it; `None` when it is not exactly one of them.
fn which(file: &File) -> Option<i64> {
    let values = file.group("/values").ok()?;
    if values.is_empty() {
        return Some(0);
    }
    let steady = values.dataset("steady").ok()?.read_raw::<i64>().ok()?;
    let number = *steady.first()?;
    let mut names = values.member_names().ok()?;
    names.sort();
    let mut expected: Vec<String> = (1..=number).filter(|&k| k != 1 || number < 3).map(|k| format!("of-{k}")).collect();
    expected.push("steady".to_owned());
    let right = |k: i64| {
        let content = values.dataset(&format!("of-{k}")).and_then(|dataset| dataset.read_raw::<i64>());
        content.is_ok_and(|content| content == vec![k; 600])
    };
    let rest = (2..=number).all(right) && (number >= 3 || right(1));
    (names == expected && steady == vec![number; 700] && rest).then_some(number)
}

/// What differs from run to run, salt, times and process id, set to fixed values, so that inputs reproduce.
fn normal(mut journal: Vec<u8>) -> Result<Vec<u8>, Box<dyn std::error::Error>> {
    journal[16..24].copy_from_slice(b"a salt 8");
    journal[1024..1040].fill(0);
    let frames = frames(&journal);
    let last = frames.last().ok_or("a journal without frames")?;
    if last.end != journal.len() || frames.len() < 6 {
        return Err("the journal's format has changed; bring fuzz/src/journal.rs up to date".into());
    }
    for frame in frames {
        if kind(&journal, frame.start) == KIND_COMMIT {
            journal[frame.start + FRAME_HEADER + 8..][..8].fill(0);
        }
    }
    forge(&mut journal);
    Ok(journal)
}

/// The header and payload of each frame, as far as their lengths lead.
fn frames(journal: &[u8]) -> Vec<std::ops::Range<usize>> {
    let mut found = Vec::new();
    let mut at = FRAMES_START;
    while let Some(length) = journal.get(at + 20..at + 24).and_then(|bytes| bytes.try_into().ok()) {
        let end = at + FRAME_HEADER + u32::from_le_bytes(length) as usize;
        if end > journal.len() {
            break;
        }
        found.push(at..end);
        at = end;
    }
    found
}

fn kind(journal: &[u8], frame: usize) -> u32 {
    journal.get(frame + 16..frame + 20).and_then(|bytes| bytes.try_into().ok()).map_or(0, u32::from_le_bytes)
}

/// Makes every checksum right, so that the reader looks at what the structures say.
fn forge(journal: &mut [u8]) {
    let sum = |bytes: &[u8]| XxHash3_64::oneshot(bytes).to_le_bytes();
    if journal.len() < FRAMES_START {
        return;
    }
    let header = sum(&journal[..24]);
    journal[24..32].copy_from_slice(&header);
    let salt: [u8; 8] = journal[16..24].try_into().unwrap_or_default();
    journal[MARKS_AT..MARKS_AT + 8].copy_from_slice(&salt);
    let marks = sum(&journal[MARKS_AT..MARKS_AT + 24]);
    journal[MARKS_AT + 24..MARKS_AT + 32].copy_from_slice(&marks);
    let mut chain = salt;
    for frame in frames(journal) {
        let start = frame.start;
        let payload = sum(&journal[start + FRAME_HEADER..frame.end]);
        journal[start + 8..start + 16].copy_from_slice(&payload);
        let mut hasher = XxHash3_64::new();
        hasher.write(&chain);
        hasher.write(&journal[start + 8..start + FRAME_HEADER]);
        chain = hasher.finish().to_le_bytes();
        journal[start..start + 8].copy_from_slice(&chain);
    }
}

/// Changes that know the journal's structures; the checksums are forged afterwards.
fn restructure(kind: u8, input: &mut Input<'_>, journal: &mut Vec<u8>) {
    let frames = frames(journal);
    let any = |input: &mut Input<'_>| frames.get(usize::from(input.u8()) % frames.len().max(1)).cloned();
    let put = |journal: &mut Vec<u8>, at: usize, bytes: &[u8]| {
        if let Some(place) = journal.get_mut(at..at + bytes.len()) {
            place.copy_from_slice(bytes);
        }
    };
    match kind % 8 {
        // A field of a frame's header: kind, length, commit or page.
        0 => {
            let Some(frame) = any(input) else { return };
            let (offset, width) = [(16, 4), (20, 4), (24, 8), (32, 8)][usize::from(input.u8() & 3)];
            let value = input.u64().to_le_bytes();
            put(journal, frame.start + offset, &value[..width]);
        }
        // A field of a commit's record.
        1 => {
            let commits: Vec<_> =
                frames.iter().filter(|frame| self::kind(journal, frame.start) == KIND_COMMIT).collect();
            let Some(frame) = commits.get(usize::from(input.u8()) % commits.len().max(1)) else { return };
            let field = usize::from(input.u8() % 8);
            let value = input.u64().to_le_bytes();
            put(journal, frame.start + FRAME_HEADER + 8 * field, &value);
        }
        // A frame taken out, or put in once more elsewhere.
        2 => {
            if let Some(frame) = any(input) {
                journal.drain(frame);
            }
        }
        3 => {
            let (Some(from), Some(to)) = (any(input), any(input)) else { return };
            let copy = journal[from].to_vec();
            journal.splice(to.start..to.start, copy);
        }
        // A new page frame; its image repeats a few bytes.
        4 | 5 => {
            let (commit, page) = (u64::from(input.u8()), input.u64());
            let pattern = input.bytes(4);
            let image: Vec<u8> = pattern.iter().copied().chain([0]).cycle().take(PAGE_SIZE as usize).collect();
            push(journal, 1 + u32::from(kind % 8 == 5), commit, page, &image);
        }
        // A new commit frame: a record with extents and runs.
        6 => {
            let commit = u64::from(input.u8());
            let mut record: Vec<u8> = Vec::new();
            for _ in 0..6 {
                record.extend(input.u64().to_le_bytes());
            }
            let count = usize::from(input.u8());
            record.extend_from_slice(input.bytes(count));
            push(journal, KIND_COMMIT, commit, 0, &record);
        }
        // The header's version, page size and salt, or the marks.
        _ => {
            let (field, value) = (input.u8(), input.u64().to_le_bytes());
            match field % 4 {
                0 => put(journal, 8, &value),
                1 => put(journal, 16, &value),
                2 => put(journal, MARKS_AT + 8, &value),
                _ => put(journal, MARKS_AT + 16, &value),
            }
        }
    }
}

fn push(journal: &mut Vec<u8>, kind: u32, commit: u64, page: u64, payload: &[u8]) {
    journal.extend([0; 16]);
    journal.extend(kind.to_le_bytes());
    journal.extend((payload.len() as u32).to_le_bytes());
    journal.extend(commit.to_le_bytes());
    journal.extend(page.to_le_bytes());
    journal.extend_from_slice(payload);
}

/// How an input is used: the bits of its first byte.
pub mod flags {
    /// The journal is the rest of the input, not the valid one with edits.
    pub const RAW: u8 = 1;
    /// The checksums are made right.
    pub const FORGED: u8 = 2;
    /// The file holds all commits already.
    pub const APPLIED: u8 = 4;
    /// Opened for writing.
    pub const WRITE: u8 = 8;
    /// The file is marked as half applied.
    pub const GUARDED: u8 = 16;
}

/// One input of the target.
pub fn check(bytes: &[u8]) {
    let mut input = Input(bytes);
    let how = input.u8();
    let left: &Left = if how & flags::APPLIED == 0 { &WAITING } else { &APPLIED };
    let mut journal = if how & flags::RAW == 0 { left.journal.clone() } else { Vec::new() };
    if how & flags::RAW != 0 {
        journal.extend_from_slice(input.rest());
    }
    while !input.is_empty() && journal.len() < 1 << 22 {
        let kind = input.u8();
        match how & flags::FORGED {
            0 => edit(kind % EDITS, &mut input, &mut journal),
            _ if kind & 0x80 == 0 => restructure(kind, &mut input, &mut journal),
            _ => edit(kind % EDITS, &mut input, &mut journal),
        }
    }
    if how & flags::FORGED != 0 {
        forge(&mut journal);
    }
    let mut main = left.main.clone();
    if how & flags::GUARDED != 0 {
        main[..8].copy_from_slice(b"CORALMID");
    }
    // Checksums do not catch who forges them.
    let honest = how & (flags::FORGED | flags::RAW | flags::GUARDED) == 0;
    let known = honest.then(|| left.commits.clone());
    open_and_read(main, journal, how & flags::WRITE != 0, known);
}

/// Opens the pair and reads everything; with `known`, what opens must be one of these commits.
fn open_and_read(main: Vec<u8>, journal: Vec<u8>, write: bool, known: Option<std::ops::RangeInclusive<i64>>) {
    let disk = MemoryDisk::new();
    disk.insert(MAIN, Buffer::from(main));
    disk.insert(JOURNAL, Buffer::from(journal));
    let options = Options::new().lock_wait(Duration::from_millis(1));
    let storage = Storage::on_disk(Arc::new(Quota(disk)), Source::from(Path::new(MAIN)), options);
    if storage.open(if write { Mode::ReadWrite } else { Mode::Read }, false).is_err() {
        return;
    }
    let found = storage.file().ok().and_then(|file| which(&file));
    if let Some(known) = &known {
        let found = found.expect("the file opened, and is none of the commits");
        assert!(known.contains(&found), "commit {found} opened where {known:?} are possible");
    }
    if let Ok(file) = storage.file()
        && let Ok(root) = file.group("/")
    {
        walk(&root, 0);
    }
    let versions = storage.versions().unwrap_or_default();
    if let Ok(snapshot) = storage.snapshot() {
        let mut page = [0; PAGE_SIZE as usize];
        for at in (0..snapshot.bytes().min(1 << 20)).step_by(page.len()).chain([snapshot.bytes(), u64::MAX - 5]) {
            let _ = snapshot.read_at(at, &mut page);
        }
    }
    if write {
        for version in versions.iter().take(6) {
            let back = storage.rollback_to_version(version.number);
            if known.is_some() {
                back.expect("a commit that is listed can be rolled back to");
                let file = storage.file().expect("open after rolling back");
                which(&file).expect("a commit rolled back to is whole");
            }
        }
        let _ = storage.create_group("/values/more").map(|_| storage.flush());
    }
    let _ = storage.close();
}

fn walk(group: &Group, depth: u32) {
    for name in group.member_names().unwrap_or_default().iter().take(64) {
        if let Ok(dataset) = group.dataset(name) {
            // What the file claims is not what there is memory for.
            if dataset.size() <= 1 << 16 {
                let _ = dataset.read_raw::<i64>();
            }
        } else if depth < 4
            && let Ok(inner) = group.group(name)
        {
            walk(&inner, depth + 1);
        }
    }
    for name in group.attr_names().unwrap_or_default() {
        let _ = group.attr(&name).and_then(|attribute| attribute.read_scalar::<i64>());
    }
}

/// A disk in memory that is full at 64 MiB a file: where a journal says that a page lies terabytes into the file, a
/// real disk makes a hole, and memory would be used up.
#[derive(Debug)]
struct Quota(MemoryDisk);

#[derive(Debug)]
struct QuotaFile(Arc<dyn DiskFile>);

const FULL: u64 = 64 << 20;

impl Disk for Quota {
    fn open(&self, path: &Path, access: Access) -> io::Result<Arc<dyn DiskFile>> {
        Ok(Arc::new(QuotaFile(self.0.open(path, access)?)))
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.0.remove(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.0.rename(from, to)
    }

    fn sync_directory(&self, path: &Path) -> io::Result<()> {
        self.0.sync_directory(path)
    }

    fn is_at(&self, file: &dyn DiskFile, path: &Path) -> io::Result<bool> {
        self.0.is_at(file, path)
    }
}

impl DiskFile for QuotaFile {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read_at(offset, buffer)
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        match offset.checked_add(bytes.len() as u64) {
            Some(end) if end <= FULL => self.0.write_at(offset, bytes),
            _ => Err(io::ErrorKind::StorageFull.into()),
        }
    }

    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        if length <= FULL { self.0.set_len(length) } else { Err(io::ErrorKind::StorageFull.into()) }
    }

    fn sync(&self) -> io::Result<()> {
        self.0.sync()
    }

    fn try_lock(&self, lock: Lock) -> io::Result<bool> {
        self.0.try_lock(lock)
    }

    fn unlock(&self) -> io::Result<()> {
        self.0.unlock()
    }

    fn map(&self, offset: u64, length: usize) -> io::Result<Option<Mapping>> {
        self.0.map(offset, length)
    }

    fn identity(&self) -> io::Result<(u64, u64)> {
        self.0.identity()
    }
}
