//! Reading a log that may have been cut anywhere, or damaged.
//!
//! Batches are accepted from a known position on as long as their records are intact and their MACs chain. The first
//! that does not fit ends the log at X. It is what a crash left of batches that nobody was told are safe, unless
//! something younger in the ring proves otherwise: every commit record says up to where the log was synced when it was
//! made, and after each sync a mark is left behind what was synced, so a record that says "beyond X" makes it damage. A
//! batch whose records are all intact but whose MAC is wrong is no work of a crash either. The mark is not synced itself: after
//! a power loss that took it, damage to the very last synced batch cannot be told from a torn end.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::thread;

use corallite_file::{Access, Buffer, Disk, DiskFile, MemoryDisk};
use zerocopy::{FromBytes, FromZeros, IntoBytes};

use super::format::{
    HEADER_COPY_AT, Header, LOG_FORMAT_VERSION, MAGIC, Mac, PAGE, RECORD, Record, SLOTS_AT, Slot, log_of,
};
use super::ring::{Ring, View};
use super::{Adopted, Damage, Lsn, Position, Recovered};
use crate::error::{Error, Result};

const HDF5_SIGNATURE: [u8; 8] = *b"\x89HDF\r\n\x1a\n";
/// `/header` is one of the first pages; which one is libhdf5's business.
const HEADER_PAGES: u64 = 64;

/// Slots of a log that two threads check sooner than one.
const WORTH_A_THREAD: u64 = 1 << 17;

/// What the page `/header` says.
pub(super) struct Front {
    /// Where it lies in the file.
    pub(super) at: u64,
    pub(super) header: Header,
    /// The newest intact slot, and which it is.
    pub(super) hint: Option<(Slot, usize)>,
}

/// Reads and checks everything but the records.
pub(super) fn front(file: &dyn DiskFile, path: &Path) -> Result<Front> {
    let io = |source| Error::io("read", path, source);
    let not_a_log = |problem: String| Error::NotALog { path: path.to_owned(), problem };
    let length = file.len().map_err(io)?;
    let mut page = vec![0; PAGE as usize];
    for at in (0..HEADER_PAGES).map(|number| number * PAGE) {
        let found = file.read_at(at, &mut page).map_err(io)?;
        page[found..].fill(0);
        if at == 0 && !page.starts_with(&HDF5_SIGNATURE) {
            return Err(not_a_log("it is no HDF5 file".to_owned()));
        }
        let copies = [0, HEADER_COPY_AT].map(|within| read_at::<Header>(&page, within));
        let Some(marked) = copies.into_iter().find(|header| header.magic == MAGIC) else { continue };
        let Some(header) = copies.into_iter().find(Header::is_intact) else {
            return Err(not_a_log(format!(
                "its header at byte {at} does not match its checksum (version {})",
                marked.version
            )));
        };
        check(&header, length, path)?;
        let log = log_of(&header.store);
        let slots = SLOTS_AT.map(|within| read_at::<Slot>(&page, within));
        let intact = slots.into_iter().enumerate().filter(|(_, slot)| slot.is_intact(log));
        let hint = intact.max_by_key(|(_, slot)| slot.sequence.get()).map(|(index, slot)| (slot, index));
        return Ok(Front { at, header, hint });
    }
    Err(not_a_log("it has no header of a log".to_owned()))
}

fn read_at<T: FromBytes>(page: &[u8], at: u64) -> T {
    let bytes = page.get(at as usize..).unwrap_or_default();
    T::read_from_prefix(bytes).map_or_else(|_| T::new_zeroed(), |(structure, _)| structure)
}

fn check(header: &Header, length: u64, path: &Path) -> Result<()> {
    let version = header.version.get();
    if version > LOG_FORMAT_VERSION {
        let (found, supported) = (version.into(), LOG_FORMAT_VERSION.into());
        return Err(Error::NewerFormat { path: path.to_owned(), what: "log", found, supported });
    }
    let (capacity, region) = (header.capacity.get(), header.region.get());
    let end = capacity.checked_mul(RECORD).and_then(|bytes| bytes.checked_add(region));
    let problem = match end {
        Some(end) if end > length => format!("it is cut short: {length} bytes of {end}"),
        Some(_) if version > 0 && u64::from(header.record_size.get()) == RECORD && capacity >= 2 && region >= PAGE => {
            return Ok(());
        }
        _ => "its header makes no sense".to_owned(),
    };
    Err(Error::NotALog { path: path.to_owned(), problem })
}

/// What a log was found to hold.
pub(super) struct Found {
    pub(super) end: Position,
    /// Up to here a sync is known to have been done.
    pub(super) durable: Lsn,
    /// What lies after the end in the ring and must never be taken for records: it is zeroed before anything is added.
    pub(super) stale: Option<Lsn>,
    pub(super) recovered: Recovered,
}

pub(super) struct Scan<'a> {
    pub(super) ring: &'a Ring,
    pub(super) path: &'a Path,
    pub(super) key: &'a [u8; 32],
    pub(super) log: u64,
    /// Records before this one were given up, or were never in this file.
    pub(super) begins: Lsn,
    pub(super) salvage: bool,
}

/// Why the batches end.
enum Stop {
    /// A record that is not there or not intact.
    Record(Lsn),
    /// A commit record, just before this number, that does not fit intact records before it.
    Batch(Lsn),
}

/// Batches that follow one another.
struct Chain {
    end: Position,
    /// Up to here a sync is known to have been done.
    durable: Lsn,
    batches: u64,
    records: u64,
    adopted: Vec<Adopted>,
    /// Why they end, unless it is only where they were to end.
    stop: Option<Stop>,
}

/// A good batch.
struct Read {
    /// Where it leads to.
    end: Position,
    /// What its commit record says was synced.
    synced: Lsn,
    /// See [`Adopted`]; 0 for none.
    token: u64,
}

/// What lies after the end of the good batches.
#[derive(Default)]
struct Younger {
    /// The greatest number of any, intact or not.
    last: Option<Lsn>,
    /// The farthest that an intact commit record proves to have been synced.
    durable: Lsn,
    /// An intact record of a later lap than the position allows.
    lapped: Option<Lsn>,
    records: u64,
}

impl Scan<'_> {
    /// Reads the log from `from` on.
    pub(super) fn run(&self, from: Position) -> Result<Found> {
        let io = |source| Error::io("read", self.path, source);
        let limit = Lsn(from.lsn.0 + self.ring.capacity);
        let Chain { end, durable, batches, records, adopted, stop } = self.chains(from, limit).map_err(io)?;
        let mut recovered = Recovered { start: from, end, batches, records, dropped: 0, adopted, damage: None };
        let durable = durable.max(from.lsn).min(end.lsn);
        let younger = self.younger(from.lsn, end.lsn).map_err(io)?;
        recovered.dropped = younger.records;

        if let Some(lapped) = younger.lapped {
            return Err(self.foreign(format!(
                "the store's file is older than its log: it ends at record {}, and the log has gone on to {lapped}; was the file restored from a backup?",
                from.lsn
            )));
        }
        if from.lsn < self.begins && end.lsn < self.begins {
            return Err(self.foreign(format!(
                "the store's file is older than its log: it ends at record {}, and the log begins at {}; was the file restored from a backup?",
                from.lsn, self.begins
            )));
        }
        if matches!(stop, Some(Stop::Batch(_))) && end == from {
            let problem = format!(
                "its record {} does not continue what the store's file holds, or the key is another one",
                from.lsn
            );
            return Err(self.foreign(problem));
        }
        let damage = match stop {
            Some(Stop::Batch(to)) => Some((
                end.lsn,
                to.max(younger.durable),
                "its records are intact, but their MAC is not theirs".to_owned(),
            )),
            Some(Stop::Record(at)) if younger.durable > end.lsn => {
                let problem = format!(
                    "record {at} is not what was written, although the log was synced up to {}",
                    younger.durable
                );
                Some((at, younger.durable, problem))
            }
            Some(Stop::Record(_)) | None => None,
        };
        if let Some((at, to, problem)) = damage {
            let damage = Damage { from: end.lsn, to, offset: self.ring.offset(at), problem };
            if !self.salvage {
                return Err(damage.into_error(self.path));
            }
            recovered.damage = Some(damage);
        }
        Ok(Found { end, durable, stale: younger.last.map(|last| Lsn(last.0 + 1)), recovered })
    }

    fn foreign(&self, problem: String) -> Error {
        Error::ForeignLog { path: self.path.to_owned(), problem }
    }

    /// Follows the batches from `from` on. Where the log may be long, a second thread begins in its middle, behind a commit
    /// record whose MAC it takes for granted until this thread gets there.
    fn chains(&self, from: Position, limit: Lsn) -> io::Result<Chain> {
        let middle = Lsn(from.lsn.0 + self.ring.capacity / 2);
        let later = if self.ring.capacity < WORTH_A_THREAD { None } else { self.commit_from(middle)? };
        let Some(later) = later else { return self.chain(from, limit, limit) };
        thread::scope(|scope| {
            let helper = thread::Builder::new().name("links-log".to_owned());
            let Ok(second) = helper.spawn_scoped(scope, move || self.chain(later, limit, limit)) else {
                return self.chain(from, limit, limit);
            };
            let mut first = self.chain(from, limit, later.lsn)?;
            let second = second.join().map_err(|_| io::Error::other("the thread that checked the log panicked"))?;
            if first.stop.is_some() {
                return Ok(first);
            }
            if first.end != later {
                return self.chain(from, limit, limit);
            }
            let second = second?;
            first.batches += second.batches;
            first.records += second.records;
            first.durable = first.durable.max(second.durable);
            first.adopted.extend(second.adopted);
            Ok(Chain { end: second.end, stop: second.stop, ..first })
        })
    }

    /// The end of a batch near `from`, if its commit record is what it seems.
    fn commit_from(&self, from: Lsn) -> io::Result<Option<Position>> {
        let mut view = View::copying(self.ring);
        let limit = Lsn(from.0 + self.ring.capacity / 4);
        let mut at = from;
        while at < limit {
            let run = view.run(at, limit)?;
            for (record, lsn) in run.iter().zip(at.0..) {
                if !record.is_intact(lsn, self.log) || record.is_mark() {
                    return Ok(None);
                }
                if record.is_commit() {
                    return Ok(Some(Position { lsn: Lsn(lsn + 1), mac: record.mac() }));
                }
            }
            at.0 += run.len() as u64;
        }
        Ok(None)
    }

    /// Follows the batches from `from` until one ends at or after `until`.
    fn chain(&self, from: Position, limit: Lsn, until: Lsn) -> io::Result<Chain> {
        let mut view = View::copying(self.ring);
        let mut chain = Chain { end: from, durable: Lsn(0), batches: 0, records: 0, adopted: Vec::new(), stop: None };
        while chain.end.lsn < until {
            match self.batch(&mut view, chain.end, limit)? {
                Ok(Read { end, synced, token }) => {
                    if token != 0 {
                        chain.adopted.push(Adopted { token, start: chain.end.lsn, end: end.lsn });
                    }
                    chain.batches += 1;
                    chain.records += end.lsn.0 - chain.end.lsn.0 - 1;
                    chain.end = end;
                    chain.durable = chain.durable.max(synced);
                }
                Err(stop) => {
                    chain.stop = Some(stop);
                    break;
                }
            }
        }
        Ok(chain)
    }

    /// Reads the batch after `previous`.
    fn batch(&self, view: &mut View<'_>, previous: Position, limit: Lsn) -> io::Result<Result<Read, Stop>> {
        let mut mac = None;
        let mut at = previous.lsn;
        while at < limit {
            let run = view.run(at, limit)?;
            let mut changes = 0;
            for record in run {
                let lsn = Lsn(at.0 + changes as u64);
                if !record.is_intact(lsn.0, self.log) || record.is_mark() {
                    return Ok(Err(Stop::Record(lsn)));
                }
                if record.is_commit() {
                    let mut mac = mac.unwrap_or_else(|| Mac::new(self.key, &previous.mac));
                    mac.update(&run[..changes]);
                    let end = Position { lsn: Lsn(lsn.0 + 1), mac: record.mac() };
                    let fits = record.count() == lsn.0 - previous.lsn.0 && mac.finish(record) == end.mac;
                    let read = Read { end, synced: record.durable(), token: record.token() };
                    return Ok(if fits { Ok(read) } else { Err(Stop::Batch(end.lsn)) });
                }
                changes += 1;
            }
            mac.get_or_insert_with(|| Mac::new(self.key, &previous.mac)).update(run);
            at.0 += changes as u64;
        }
        Ok(Err(Stop::Record(limit)))
    }

    /// Looks through all slots for records that are younger than the good ones, which lie in `start..end`.
    fn younger(&self, start: Lsn, end: Lsn) -> io::Result<Younger> {
        let mut younger = Younger::default();
        // Much of it may be holes, which cost a page fault each in a map: 8 us against 1.
        let mut view = View::copying(self.ring);
        let limit = Lsn(start.0 + self.ring.capacity);
        let mut at = end;
        // Every slot that is not of a good record, in the order of the numbers that it would get next.
        while at < limit {
            let run = view.run(at, limit)?;
            for (index, record) in run.iter().enumerate() {
                let next = at.0 + index as u64;
                let seq = record.seq.get();
                if seq < next || !(seq - next).is_multiple_of(self.ring.capacity) || record.log.get() != self.log {
                    continue;
                }
                let intact = record.is_intact(seq, self.log);
                if seq != next {
                    younger.lapped = younger.lapped.max(intact.then_some(Lsn(seq)));
                    continue;
                }
                younger.last = Some(Lsn(seq));
                if intact && record.is_mark() {
                    younger.durable = younger.durable.max(Lsn(seq));
                    continue;
                }
                younger.records += 1;
                if intact && record.is_commit() {
                    younger.durable = younger.durable.max(record.durable());
                }
            }
            at.0 += run.len() as u64;
        }
        // A record of a later lap may also lie where a good one was, but then that one was not found good.
        Ok(younger)
    }
}

/// The commit records between two positions that are batches' ends, by what their operation says alone.
pub(super) fn commits(ring: &Ring, from: Lsn, to: Lsn) -> io::Result<Vec<Lsn>> {
    let mut view = View::copying(ring);
    let (mut found, mut at) = (Vec::new(), from);
    while at < to {
        let run = view.run(at, to)?;
        found.extend(run.iter().zip(at.0..).filter(|(record, _)| record.is_commit()).map(|(_, lsn)| Lsn(lsn)));
        at.0 += run.len() as u64;
    }
    Ok(found)
}

/// Checks the one batch in `previous.lsn..=commit`; says what is wrong with it.
pub(super) fn check_batch(
    ring: &Ring,
    key: &[u8; 32],
    log: u64,
    previous: Position,
    commit: Lsn,
) -> io::Result<Option<String>> {
    let mut view = View::copying(ring);
    let mut mac = Mac::new(key, &previous.mac);
    let mut at = previous.lsn;
    loop {
        let run = view.run(at, Lsn(commit.0 + 1))?;
        if let Some((_, lsn)) = run.iter().zip(at.0..).find(|(record, lsn)| !record.is_intact(*lsn, log)) {
            return Ok(Some(format!("record {lsn} does not match its checksum")));
        }
        at.0 += run.len() as u64;
        if at <= commit {
            mac.update(run);
            continue;
        }
        let Some((last, changes)) = run.split_last() else { return Ok(None) };
        mac.update(changes);
        let fits = last.is_commit() && last.count() == commit.0 - previous.lsn.0 && mac.finish(last) == last.mac();
        return Ok((!fits).then(|| "its MAC is not that of its records".to_owned()));
    }
}

/// The MAC that the commit record at `lsn` holds.
pub(super) fn mac_at(ring: &Ring, lsn: Lsn) -> io::Result<[u8; 16]> {
    let mut record = Record::new_zeroed();
    ring.file.read_at(ring.offset(lsn), record.as_mut_bytes())?;
    Ok(record.mac())
}

/// Logs up to this length are copied before they are read.
const COPIED: u64 = 1 << 30;

/// The log as it is now, for a reader: a writer of another process may write on, and what is replayed must be what was
/// checked. Whether the copy is of one moment, checking it tells.
pub(super) fn copy(file: Arc<dyn DiskFile>, path: &Path) -> Result<Arc<dyn DiskFile>> {
    let length = file.len().map_err(|error| Error::io("read", path, error))?;
    if length > COPIED {
        return Ok(file);
    }
    let mut bytes = vec![0; usize::try_from(length).unwrap_or(0)];
    // From the end to the beginning, so that nothing is copied without what was written before it.
    const PIECE: usize = 1 << 20;
    for start in (0..bytes.len()).step_by(PIECE).rev() {
        let end = bytes.len().min(start + PIECE);
        file.read_at(start as u64, &mut bytes[start..end]).map_err(|error| Error::io("read", path, error))?;
    }
    let disk = MemoryDisk::new();
    disk.insert(path, Buffer::from(bytes));
    disk.open(path, Access::Read).map_err(|error| Error::io("read", path, error))
}
