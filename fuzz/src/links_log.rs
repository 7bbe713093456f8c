//! The log of a store of links: whatever its bytes are, opening gives `Ok` or `Err`; and as long as nobody forges MACs,
//! what is replayed is a beginning of the batches that were written, each whole.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, LazyLock};

use corallite_file::{Buffer, MemoryDisk};
use corallite_links::{Change, Durability, E, Lsn, Position, Wal, WalOptions, WalSource};
use twox_hash::XxHash3_64;

use crate::input::{EDITS, Input, edit};

const LOG: &str = "links.h5-wal";
const KEY: [u8; 32] = [7; 32];
const STORE: [u8; 16] = *b"0123456789abcdef";
const RECORD: usize = 64;
const CAPACITY: u64 = 64;
/// Batches in the log.
const BATCHES: u64 = 14;
/// The first of them that was not given up.
const FIRST: u64 = 3;

struct Made {
    bytes: Vec<u8>,
    header: usize,
    region: usize,
    from: Position,
}

static MADE: LazyLock<Made> = LazyLock::new(|| made().expect("a log in memory can be written"));

fn batch(number: u64) -> Vec<Change> {
    let change = |index: u64| match index % 3 {
        0 => Change::insert(E::new(number.into()), E::new(index.into())),
        1 => Change::delete_value(E::new(number.into()), E::MAX),
        _ => Change::delete(E::new(number.into())),
    };
    (0..1 + number % 5).map(change).collect()
}

fn made() -> Result<Made, Box<dyn std::error::Error>> {
    let disk = MemoryDisk::new();
    let options = WalOptions { capacity: CAPACITY, key: KEY, store: STORE };
    // Begins late in the ring, so that the batches go round its end.
    let start = Position { lsn: Lsn(40), mac: [0; 16] };
    let log = Wal::create(Arc::new(disk.clone()), Path::new(LOG), None, &options, start)?;
    let mut from = start;
    for number in 0..BATCHES {
        let durability = if number % 4 == 1 { Durability::Durable } else { Durability::Buffered };
        let end = log.append(&batch(number), durability)?.ok_or("no room")?;
        if number + 1 == FIRST {
            log.truncate(end)?;
            from = end;
        }
    }
    drop(log);
    let bytes = disk.buffer(Path::new(LOG)).ok_or("no log")?.to_vec();
    let header = bytes.windows(8).position(|window| window == b"CORALWAL").ok_or("no header")?;
    let region = u64::from_le_bytes(bytes[header + 24..header + 32].try_into()?) as usize;
    Ok(Made { bytes, header, region, from })
}

/// Makes every checksum right but the MACs, whose key a forger does not have; `mac` makes these right too.
fn forge(bytes: &mut [u8], mac: bool) {
    let made = &*MADE;
    for (at, length) in [(0, 64), (512, 48), (1024, 48), (1536, 64)] {
        let at = made.header + at;
        let Some(part) = bytes.get_mut(at..at + length) else { continue };
        let sum = XxHash3_64::oneshot(&part[..length - 8]).to_le_bytes();
        part[length - 8..].copy_from_slice(&sum);
    }
    // In the order of the numbers that the slots would have.
    let mut chain = made.from.mac;
    let mut batch = Vec::new();
    for lsn in made.from.lsn.0..made.from.lsn.0 + CAPACITY {
        let at = made.region + (lsn % CAPACITY) as usize * RECORD;
        let Some(record) = bytes.get_mut(at..at + RECORD) else { continue };
        if record.iter().all(|byte| *byte == 0) {
            continue;
        }
        if record[0] & 15 == 15 {
            let mut bare = record.to_vec();
            bare[4..8].fill(0);
            bare[40..56].fill(0);
            let chained = [chain.as_slice(), &batch, &bare].concat();
            if mac {
                chain.copy_from_slice(&blake3::keyed_hash(&KEY, &chained).as_bytes()[..16]);
                record[40..56].copy_from_slice(&chain);
            }
            batch.clear();
        }
        record[4..8].fill(0);
        let sum = crc32c::crc32c(record).to_le_bytes();
        record[4..8].copy_from_slice(&sum);
        if record[0] & 15 != 15 {
            batch.extend_from_slice(record);
        }
    }
}

/// Where in the log the header and the records lie.
pub fn places() -> [std::ops::Range<usize>; 2] {
    let Made { header, region, .. } = *MADE;
    [header..header + 4096, region..region + CAPACITY as usize * RECORD]
}

/// How an input is used: the bits of its first byte.
pub mod flags {
    /// The log is the rest of the input, not the valid one with edits.
    pub const RAW: u8 = 1;
    /// The checksums are made right.
    pub const FORGED: u8 = 2;
    /// The MACs too.
    pub const MACS: u8 = 4;
    /// Opened for writing, and written.
    pub const WRITE: u8 = 8;
    /// Damage is given up.
    pub const SALVAGE: u8 = 16;
    /// Opened from the hint in the log.
    pub const HINT: u8 = 32;
}

/// A field of a record or of the header: which, where in it, and to what.
fn restructure(input: &mut Input<'_>, bytes: &mut [u8]) {
    let made = &*MADE;
    let (slot, field, value) = (usize::from(input.u8()), input.u8(), input.u64().to_le_bytes());
    let (at, width) = match field % 12 {
        0 => (made.header + 8, 4),
        1 => (made.header + 16, 8),
        2 => (made.header + 24, 8),
        3 => (made.header + 32, 8),
        4 => (made.header + 512 + 8, 8),
        field => {
            let within = [(0, 1), (1, 1), (8, 8), (24, 8), (32, 8), (40, 8), (56, 8)][usize::from(field) - 5];
            (made.region + slot % CAPACITY as usize * RECORD + within.0, within.1)
        }
    };
    if let Some(place) = bytes.get_mut(at..at + width) {
        place.copy_from_slice(&value[..width]);
    }
}

/// One input of the target.
pub fn check(bytes: &[u8]) {
    let mut input = Input(bytes);
    let how = input.u8();
    let is = |flag: u8| how & flag != 0;
    let mut log = if is(flags::RAW) { input.rest().to_vec() } else { MADE.bytes.clone() };
    while !input.is_empty() && log.len() < 1 << 20 {
        let kind = input.u8();
        if is(flags::FORGED) && kind & 0x80 == 0 {
            restructure(&mut input, &mut log);
        } else {
            edit(kind % EDITS, &mut input, &mut log);
        }
    }
    if is(flags::FORGED) {
        forge(&mut log, is(flags::MACS));
    }
    // Without the key nobody makes a batch that counts, whatever else is forged.
    let honest = !is(flags::FORGED) || !is(flags::MACS);
    open_and_read(log, how, honest);
}

fn replayed(log: &Wal) -> Vec<Vec<Change>> {
    let mut batches = Vec::new();
    let _ = log.replay(None, |records| {
        batches.push(records.iter().filter_map(|record| record.change()).collect());
        Ok(())
    });
    batches
}

fn open_and_read(bytes: Vec<u8>, how: u8, honest: bool) {
    let disk = MemoryDisk::new();
    disk.insert(LOG, Buffer::from(bytes));
    let source = WalSource {
        key: KEY,
        store: STORE,
        from: (how & flags::HINT == 0).then_some(MADE.from),
        salvage: how & flags::SALVAGE != 0,
        read_only: how & flags::WRITE == 0,
    };
    let Ok((log, recovered)) = Wal::open(Arc::new(disk.clone()), Path::new(LOG), &source) else { return };
    let found = replayed(&log);
    assert_eq!(found.len() as u64, recovered.batches);
    let known: HashMap<Vec<Change>, u64> = (0..BATCHES).map(|number| (batch(number), number)).collect();
    if honest {
        let numbers: Vec<Option<u64>> = found.iter().map(|changes| known.get(changes).copied()).collect();
        // An edited hint may be older: what follows it was written all the same.
        let first = numbers.first().copied().flatten().unwrap_or(FIRST);
        assert!(
            first <= FIRST && numbers.iter().zip(first..).all(|(found, number)| *found == Some(number)),
            "{numbers:?}"
        );
    }
    let _ = (log.audit_hmac(0), log.metrics(), log.free());
    if how & flags::WRITE == 0 {
        return;
    }
    let added = batch(99);
    let Ok(Some(_)) = log.append(&added, Durability::Durable) else { return };
    drop(log);
    // Whatever was there, what is added to it can be read again.
    let (log, _) = Wal::open(Arc::new(disk), Path::new(LOG), &source).expect("the log was open before");
    let again = replayed(&log);
    if how & flags::SALVAGE == 0 {
        assert_eq!(again.last(), Some(&added));
        assert_eq!(&again[..again.len() - 1], found.as_slice());
    }
}
