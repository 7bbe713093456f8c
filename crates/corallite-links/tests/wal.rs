//! What the write-ahead log promises, on a disk that loses power.

#![allow(clippy::expect_used, clippy::panic)] // the workspace lints exempt test functions, but not their helpers

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use corallite_file::{Access, Disk, Fault, LossMode, OsDisk, SimulatedDisk};
use corallite_links::{
    Change, Durability, E, Error, Lsn, Position, Record, Recovered, Stamp, Wal, WalOptions, WalSource,
};
use proptest::prelude::*;

type Outcome<T = ()> = Result<T, Box<dyn std::error::Error>>;

const KEY: [u8; 32] = [7; 32];
const STORE: [u8; 16] = *b"0123456789abcdef";
const CAPACITY: u64 = 64;
const RECORD: usize = 64;

fn path() -> &'static Path {
    Path::new("models.h5-wal")
}

fn options(capacity: u64) -> WalOptions {
    WalOptions { capacity, key: KEY, store: STORE }
}

fn source(from: Option<Position>) -> WalSource {
    WalSource { key: KEY, store: STORE, from, salvage: false, read_only: false }
}

fn arc(disk: &SimulatedDisk) -> Arc<dyn Disk> {
    Arc::new(disk.clone())
}

/// A disk with a new log for [`CAPACITY`] records on it.
fn fresh() -> SimulatedDisk {
    static BYTES: OnceLock<Vec<u8>> = OnceLock::new();
    let bytes = BYTES.get_or_init(|| {
        let disk = SimulatedDisk::new();
        Wal::create(arc(&disk), path(), None, &options(CAPACITY), Position::default()).expect("creates");
        disk.read(path()).expect("is there")
    });
    with(bytes.clone())
}

fn with(bytes: Vec<u8>) -> SimulatedDisk {
    SimulatedDisk::with_files(HashMap::from([(path().to_owned(), bytes)]))
}

fn open(disk: &SimulatedDisk, from: Option<Position>) -> Result<(Wal, Recovered), Error> {
    Wal::open(arc(disk), path(), &source(from))
}

/// The batch with this number, different from all others.
fn batch(number: u64) -> Vec<Change> {
    (0..1 + number % 6)
        .map(|index| match index % 3 {
            0 => Change::insert(E::new(number.into()), E::new(index.into())),
            1 => Change::delete_value(E::new(number.into()), E::MAX),
            _ => Change::delete(E::new(number.into())),
        })
        .collect()
}

fn replayed(wal: &Wal) -> Result<Vec<Vec<Change>>, Error> {
    let mut batches = Vec::new();
    wal.replay(None, |records| {
        batches.push(records.iter().filter_map(Record::change).collect());
        Ok(())
    })?;
    Ok(batches)
}

fn append(wal: &Wal, number: u64, durability: Durability) -> Position {
    wal.append(&batch(number), durability).expect("appends").expect("has room")
}

fn header(bytes: &[u8]) -> usize {
    bytes.windows(8).position(|window| window == b"CORALWAL").expect("has a header")
}

/// Where slot 0 lies.
fn region(bytes: &[u8]) -> usize {
    let at = header(bytes) + 24;
    let region = u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes")) as usize;
    assert!(region.is_multiple_of(4096) && region + CAPACITY as usize * RECORD <= bytes.len());
    region
}

#[test]
fn what_was_appended_is_replayed_over_many_laps() -> Outcome {
    let disk = fresh();
    let (mut confirmed, mut first) = (Position::default(), 0);
    let mut wal = open(&disk, Some(confirmed))?.0;
    let mut ends = Vec::new();
    for number in 0..400 {
        let durability = if number % 3 == 0 { Durability::Durable } else { Durability::Buffered };
        ends.push(append(&wal, number, durability));
        if number % 7 == 6 {
            if number % 2 == 0 {
                // Closed and opened again, from the store's position or from the hint.
                drop(wal);
                wal = open(&disk, (number % 4 == 0).then_some(confirmed))?.0;
            }
            let live: Vec<Vec<Change>> = (first..=number).map(batch).collect();
            assert_eq!(replayed(&wal)?, live);
            assert_eq!(wal.audit_hmac(0)?.damaged, []);
            first = number - 1;
            confirmed = ends[first as usize - 1];
            wal.truncate(confirmed)?;
            assert_eq!(wal.used(), wal.position().lsn.0 - confirmed.lsn.0);
        }
    }
    assert!(wal.position().lsn.0 > 20 * CAPACITY);
    Ok(())
}

#[test]
fn a_full_log_refuses_and_loses_nothing() -> Outcome {
    let disk = fresh();
    let (wal, _) = open(&disk, None)?;
    let mut number = 0;
    while wal.append(&batch(number), Durability::Buffered)?.is_some() {
        number += 1;
    }
    assert!(wal.free() < batch(number).len() as u64 + 1);
    assert_eq!(wal.metrics().refused, 1);
    let all: Vec<Vec<Change>> = (0..number).map(batch).collect();
    assert_eq!(replayed(&wal)?, all);
    assert_eq!(replayed(&open(&disk, None)?.0)?, all);
    // To the last record.
    while wal.free() > 0 {
        wal.append(&[], Durability::Durable)?.ok_or("there was room")?;
    }
    assert!(wal.append(&[], Durability::Durable)?.is_none());
    assert_eq!(open(&disk, None)?.1.end, wal.position());

    let large = vec![Change::delete(E::MAX); CAPACITY as usize];
    assert!(matches!(wal.append(&large, Durability::Durable), Err(Error::TooLarge { records: 65, capacity: 64, .. })));
    wal.truncate(wal.position())?;
    assert!(wal.append(&large[1..], Durability::Durable)?.is_some());
    assert_eq!((wal.free(), open(&disk, None)?.1.records), (0, 63));
    Ok(())
}

#[test]
fn batches_are_prepared_ahead_and_written_in_order() -> Outcome {
    let disk = fresh();
    let (wal, _) = open(&disk, None)?;
    let stamp = Stamp { nanos: 5, token: 0, shard: 3 };
    let first = wal.prepare(&batch(1), &stamp)?.ok_or("room")?;
    let second = wal.prepare(&batch(2), &stamp)?.ok_or("room")?;
    assert_eq!((wal.used(), wal.position()), (2 + 1 + 3 + 1, Position::default()));
    assert!(matches!(wal.write(&second), Err(Error::Usage { .. })));
    wal.write(&first)?;
    assert!(matches!(wal.write(&first), Err(Error::Usage { .. })));
    wal.abandon(second)?;
    assert_eq!(wal.used(), 3);
    assert!(matches!(wal.abandon(first), Err(Error::Usage { .. })));
    append(&wal, 3, Durability::Durable);
    assert_eq!(replayed(&open(&disk, None)?.0)?, [batch(1), batch(3)]);
    wal.replay(Some(1), |records| {
        assert_eq!((records[0].nanos(), records[0].shard(), records[1].lsn()), (5, 3, Lsn(1)));
        Ok(())
    })?;
    Ok(())
}

#[test]
fn opening_tells_which_batches_have_a_token() -> Outcome {
    let disk = fresh();
    let (wal, _) = open(&disk, None)?;
    for (number, token) in [(0, 0), (1, 5), (2, 0), (3, u64::MAX)] {
        let prepared = wal.prepare(&batch(number), &Stamp { token, ..Stamp::now() })?.ok_or("room")?;
        wal.write(&prepared)?;
    }
    let (again, recovered) = open(&disk, None)?;
    let found: Vec<_> = recovered.adopted.iter().map(|batch| (batch.token, batch.start, batch.end)).collect();
    let second = Lsn(batch(0).len() as u64 + 1);
    let third = Lsn(second.0 + batch(1).len() as u64 + 1);
    let fourth = Lsn(third.0 + batch(2).len() as u64 + 1);
    assert_eq!(found, [(5, second, third), (u64::MAX, fourth, wal.position().lsn)]);
    assert_eq!(replayed(&again)?, (0..4).map(batch).collect::<Vec<_>>());
    let report = again.replay(Some(2), |_| Ok(()))?;
    assert_eq!((report.batches, report.records), (2, 3));
    Ok(())
}

#[test]
fn every_flipped_bit_is_noticed_and_nothing_wrong_is_replayed() -> Outcome {
    let disk = fresh();
    let (wal, _) = open(&disk, None)?;
    let mut ends = Vec::new();
    for number in 0..9 {
        ends.push(append(&wal, number, Durability::Durable).lsn.0 as usize);
    }
    let bytes = disk.read(path()).ok_or("no file")?;
    let region = region(&bytes);
    let all: Vec<Vec<Change>> = (0..9).map(batch).collect();
    let last = ends[7];
    for bit in (0..ends[8] * RECORD * 8).step_by(7) {
        let mut damaged = bytes.clone();
        damaged[region + bit / 8] ^= 1 << (bit % 8);
        let hit = bit / 8 / RECORD;
        disk.open(path(), Access::ReadWrite)?.write_at(0, &damaged)?;
        let audit = wal.audit_hmac(0)?;
        assert!(audit.damaged.iter().any(|found| (found.from.0..found.to.0).contains(&(hit as u64))), "bit {bit}");
        // Without the mark behind it, the last batch may not have been synced.
        let mut unmarked = damaged.clone();
        unmarked[region + ends[8] * RECORD..][..RECORD].fill(0);
        match open(&with(unmarked), None) {
            Ok((opened, recovered)) => {
                assert!(hit >= last, "bit {bit} of record {hit} was not noticed");
                assert_eq!((recovered.end.lsn.0 as usize, replayed(&opened)?), (last, all[..8].to_vec()));
                assert!(recovered.dropped > 0);
            }
            Err(Error::DamagedLog { .. }) => assert!(hit < last),
            Err(error) => return Err(format!("bit {bit}: {error}").into()),
        }
        let disk = with(damaged);
        match open(&disk, None) {
            Ok(_) => return Err(format!("bit {bit} of record {hit} was not noticed").into()),
            Err(Error::DamagedLog { from, to, offset, .. }) => {
                assert!(from.0 == 0 || ends.contains(&(from.0 as usize)));
                assert!((from.0..to.0).contains(&(hit as u64)), "bit {bit}: {from}..{to}");
                assert_eq!(offset as usize, region + hit * RECORD);
                let (opened, recovered) = Wal::open(arc(&disk), path(), &WalSource { salvage: true, ..source(None) })?;
                assert_eq!(recovered.damage.as_ref().map(|damage| damage.from), Some(from));
                let kept = recovered.batches as usize;
                assert_eq!(replayed(&opened)?, all[..kept]);
                append(&opened, 77, Durability::Durable);
                let (again, _) = open(&disk, None)?;
                assert_eq!(replayed(&again)?, [&all[..kept], &[batch(77)]].concat());
            }
            Err(error) => return Err(format!("bit {bit}: {error}").into()),
        }
    }
    Ok(())
}

/// Someone who knows the checksum but not the key.
#[test]
fn a_forged_record_is_noticed_even_in_the_last_batch() -> Outcome {
    let disk = fresh();
    let (wal, _) = open(&disk, None)?;
    let ends: Vec<usize> = (0..4).map(|number| append(&wal, number, Durability::Durable).lsn.0 as usize).collect();
    let bytes = disk.read(path()).ok_or("no file")?;
    for (at, expected) in [(0, "foreign"), (ends[0], "damaged"), (ends[2], "damaged")] {
        let mut forged = bytes.clone();
        let record = &mut forged[region(&bytes) + at * RECORD..][..RECORD];
        record[24] ^= 1;
        record[4..8].fill(0);
        let crc = crc32c_of(record);
        record[4..8].copy_from_slice(&crc.to_le_bytes());
        match open(&with(forged), None) {
            Err(Error::ForeignLog { .. }) => assert_eq!(expected, "foreign"),
            Err(Error::DamagedLog { from, .. }) => assert_eq!((expected, from.0 as usize), ("damaged", at)),
            other => return Err(format!("{:?}", other.map(|(_, recovered)| recovered)).into()),
        }
    }
    Ok(())
}

/// Bit by bit, from the polynomial: what the format says, not what the crate does.
/// A log so large that two threads check it, each a half: what is wrong is found where it is, whoever looks there.
#[test]
fn a_large_log_is_checked_as_exactly_as_a_small_one() -> Outcome {
    const CAPACITY: u64 = 1 << 17;
    const SIZE: u64 = 700;
    let disk = SimulatedDisk::new();
    Wal::create(arc(&disk), path(), None, &options(CAPACITY), Position::default())?;
    let (wal, _) = open(&disk, None)?;
    let write = |number: u64| -> Outcome<u64> {
        let changes: Vec<Change> = (0..SIZE).map(|i| Change::insert(E::new(i.into()), E::new(number.into()))).collect();
        let prepared = wal.prepare(&changes, &Stamp::now())?.ok_or("no room")?;
        wal.write(&prepared)?;
        wal.sync()?;
        Ok(prepared.end().lsn.0)
    };
    let ends: Vec<u64> = (0..150).map(write).collect::<Outcome<_>>()?;
    let all = ends.len();
    let bytes = disk.read(path()).ok_or("no file")?;
    let region = region(&bytes);
    let (_, recovered) = open(&with(bytes.clone()), None)?;
    assert_eq!((recovered.batches, recovered.records), (all as u64, all as u64 * SIZE));
    assert_eq!(recovered.end.lsn.0, ends[all - 1]);

    // The second thread begins behind the first commit record after the middle.
    let middle = ends.partition_point(|end| *end <= CAPACITY / 2);
    for number in [1, middle - 1, middle, middle + 1, all - 1] {
        let (begin, end) = (ends[number - 1], ends[number]);
        for hit in [begin, begin + SIZE / 2, end - 1] {
            let at = region + hit as usize * RECORD;
            let mut damaged = bytes.clone();
            damaged[at + 40] ^= 8;
            let Err(Error::DamagedLog { from, offset, .. }) = open(&with(damaged.clone()), None) else {
                return Err(format!("damage of record {hit} was not noticed").into());
            };
            assert_eq!((from.0, offset), (begin, at as u64), "record {hit}");
            // With a checksum that fits it is the MAC that does not.
            let record = &mut damaged[at..][..RECORD];
            record[4..8].fill(0);
            let crc = crc32c_of(record);
            record[4..8].copy_from_slice(&crc.to_le_bytes());
            let Err(Error::DamagedLog { from, .. }) = open(&with(damaged.clone()), None) else {
                return Err(format!("the forged record {hit} was not noticed").into());
            };
            assert_eq!(from.0, begin, "record {hit}");
            let salvaging = WalSource { salvage: true, ..source(None) };
            let (_, recovered) = Wal::open(arc(&with(damaged)), path(), &salvaging)?;
            assert_eq!((recovered.end.lsn.0, recovered.batches), (begin, number as u64), "record {hit}");
        }
    }
    Ok(())
}

fn crc32c_of(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| if crc & 1 == 1 { crc >> 1 ^ 0x82f6_3b78 } else { crc >> 1 })
    })
}

/// What a session did, with what the store's file confirmed when.
struct Run {
    disk: SimulatedDisk,
    /// Batch numbers, in order, and where each ends.
    batches: Vec<(u64, Position)>,
    /// After how many changes of the disk the store's file held how many batches.
    confirmed: Vec<(usize, usize)>,
}

impl Run {
    fn new(disk: SimulatedDisk) -> Self {
        Self { disk, batches: Vec::new(), confirmed: vec![(0, 0)] }
    }

    fn position(&self, count: usize) -> Position {
        count.checked_sub(1).map_or(Position::default(), |last| self.batches[last].1)
    }

    fn work(&mut self, wal: &Wal, numbers: std::ops::Range<u64>) -> Outcome {
        for number in numbers {
            let durable = number % 3 != 1;
            let durability = if durable { Durability::Durable } else { Durability::Buffered };
            let end = match wal.append(&batch(number), durability)? {
                Some(end) => end,
                None => {
                    // The store's file takes all but the last batches.
                    let count = self.batches.len() - 2;
                    self.confirmed.push((self.disk.changes(), count));
                    wal.truncate(self.position(count))?;
                    append(wal, number, durability)
                }
            };
            self.batches.push((number, end));
            if durable {
                self.disk.mark(self.batches.len() as u64);
            }
        }
        Ok(())
    }

    /// How many batches the store's file held at a cut.
    fn confirmed_at(&self, cut: usize) -> usize {
        self.confirmed.iter().rev().find(|(changes, _)| *changes <= cut).map_or(0, |(_, count)| *count)
    }

    /// Opens what a crash left; returns the log and how many batches survived.
    fn recover(&self, cut: usize, mode: LossMode, seed: u64) -> Outcome<(SimulatedDisk, Wal, usize)> {
        let image = self.disk.crash(cut, mode, seed);
        let disk = SimulatedDisk::with_files(image.files);
        let confirmed = self.confirmed_at(cut);
        let (wal, _) = open(&disk, Some(self.position(confirmed)))
            .map_err(|error| format!("cut {cut} {mode:?} seed {seed}: {error}"))?;
        let found = replayed(&wal)?;
        let survived = confirmed + found.len();
        let expected: Vec<Vec<Change>> =
            self.batches.iter().skip(confirmed).take(found.len()).map(|(number, _)| batch(*number)).collect();
        assert_eq!(found, expected, "cut {cut} {mode:?} seed {seed}");
        let acknowledged = image.last_mark.unwrap_or(0) as usize;
        assert!(survived >= acknowledged, "cut {cut} {mode:?} seed {seed}: {survived} of {acknowledged}");
        Ok((disk, wal, survived))
    }
}

#[test]
fn after_a_crash_acknowledged_batches_are_there_and_none_is_halved() -> Outcome {
    let mut run = Run::new(fresh());
    let (wal, _) = open(&run.disk, None)?;
    run.work(&wal, 0..60)?;
    assert!(wal.metrics().wraps >= 3);
    for cut in 0..=run.disk.changes() {
        for mode in LossMode::ALL {
            for seed in 0..4 {
                run.recover(cut, mode, cut as u64 * 31 + seed)?;
            }
        }
    }
    Ok(())
}

#[test]
fn what_a_crash_dropped_never_comes_back() -> Outcome {
    let mut run = Run::new(fresh());
    let (wal, _) = open(&run.disk, None)?;
    run.work(&wal, 0..30)?;
    let mut dropped = 0;
    for cut in 0..=run.disk.changes() {
        for mode in LossMode::ALL {
            let (disk, wal, survived) = run.recover(cut, mode, cut as u64)?;
            dropped += usize::from(wal.position() != run.position(run.batches.len()));
            // The second life writes other batches over what was dropped, and crashes as well.
            let confirmed = run.confirmed_at(cut);
            let mut second = Run { disk, batches: run.batches[..survived].to_vec(), confirmed: vec![(0, confirmed)] };
            second.work(&wal, 1000..1005)?;
            for cut in 0..=second.disk.changes() {
                for mode in [LossMode::RandomSectors, LossMode::LoseAll] {
                    let (_, _, again) = second.recover(cut, mode, cut as u64 * 7)?;
                    assert!(again >= survived);
                }
            }
        }
    }
    assert!(dropped > 100);
    Ok(())
}

#[test]
fn a_crash_while_the_log_is_created_leaves_the_old_one_or_the_new_one() -> Outcome {
    let disk = fresh();
    let (old, _) = open(&disk, None)?;
    let end = append(&old, 3, Durability::Durable);
    disk.forget();
    Wal::create(arc(&disk), path(), None, &options(128), end)?;
    for cut in 0..=disk.changes() {
        for mode in LossMode::ALL {
            let image = SimulatedDisk::with_files(disk.crash(cut, mode, cut as u64).files);
            let (wal, recovered) = open(&image, None)?;
            match wal.capacity() {
                CAPACITY => assert_eq!(recovered.records, 4),
                capacity => assert_eq!((capacity, recovered.start, recovered.end), (128, end, end)),
            }
        }
    }
    assert_eq!(open(&disk, Some(end))?.0.capacity(), 128);
    assert!(matches!(open(&disk, Some(Position::default())), Err(Error::ForeignLog { .. })));
    Ok(())
}

#[test]
fn a_log_that_cannot_be_created_leaves_nothing_behind() {
    for fault in (0..5).map(Fault::FailWrite).chain([Fault::FailSync(0)]) {
        let disk = SimulatedDisk::new();
        disk.inject(Some(fault));
        assert!(Wal::create(arc(&disk), path(), None, &options(CAPACITY), Position::default()).is_err(), "{fault:?}");
        assert!(disk.read(path()).is_none() && disk.read(Path::new("models.h5-wal.new")).is_none());
    }
    let create = |capacity| Wal::create(arc(&fresh()), path(), None, &options(capacity), Position::default());
    assert!(matches!(create(0), Err(Error::Usage { .. })));
    assert!(matches!(create(u64::MAX), Err(Error::Usage { .. })));
}

#[test]
fn the_log_of_another_store_or_state_is_refused() -> Outcome {
    let disk = fresh();
    let (wal, _) = open(&disk, None)?;
    let early = append(&wal, 2, Durability::Durable);
    let refused = |source: &WalSource| match Wal::open(arc(&disk), path(), source) {
        Err(Error::ForeignLog { problem, .. }) => problem,
        other => panic!("{:?}", other.map(|(_, recovered)| recovered)),
    };
    refused(&WalSource { store: [1; 16], ..source(None) });
    refused(&WalSource { key: [1; 32], ..source(None) });
    refused(&source(Some(Position { lsn: Lsn(0), mac: [1; 16] })));
    refused(&source(Some(Position { lsn: Lsn(u64::MAX), mac: [0; 16] })));

    // A store's file that is older than its log can be used as long as everything it lacks is there.
    let mut ends = vec![early];
    for number in 0..40 {
        match wal.append(&batch(number), Durability::Durable)? {
            Some(end) => ends.push(end),
            None => break,
        }
    }
    wal.truncate(ends[4])?;
    assert_eq!(open(&disk, Some(early))?.1.end, wal.position());
    while wal.append(&batch(1), Durability::Durable)?.is_some() {}
    assert!(refused(&source(Some(early))).contains("older than its log"));
    assert_eq!(open(&disk, Some(ends[4]))?.1.end, wal.position());
    // The records themselves tell, should the hints be lost.
    let mut bytes = disk.read(path()).ok_or("no file")?;
    let header = header(&bytes);
    bytes[header + 512..header + 1536].fill(0);
    assert!(matches!(open(&with(bytes.clone()), Some(early)), Err(Error::ForeignLog { .. })));
    assert_eq!(open(&with(bytes), Some(ends[4]))?.1.end, wal.position());
    // And a log that is older than its store's file is an empty one.
    let later = Position { lsn: Lsn(wal.position().lsn.0 + 5), mac: [3; 16] };
    let (ahead, recovered) = open(&disk, Some(later))?;
    assert_eq!((recovered.end, recovered.dropped), (later, 0));
    append(&ahead, 9, Durability::Durable);
    assert_eq!(replayed(&open(&disk, Some(later))?.0)?, [batch(9)]);
    Ok(())
}

#[test]
fn what_is_no_log_is_called_that() -> Outcome {
    let bytes = fresh().read(path()).ok_or("no file")?;
    let header = header(&bytes);
    let problem = |bytes: Vec<u8>| match open(&with(bytes), None) {
        Err(Error::NotALog { problem, .. }) => problem,
        other => panic!("{:?}", other.map(|(_, recovered)| recovered)),
    };
    for length in (0..region(&bytes) + CAPACITY as usize * RECORD).step_by(97) {
        problem(bytes[..length].to_vec());
    }
    assert!(problem(bytes[..region(&bytes) + 4095].to_vec()).contains("cut short"));
    assert!(problem(vec![0; 100_000]).contains("no HDF5"));
    let flip = |at: &[usize]| {
        let mut damaged = bytes.clone();
        at.iter().for_each(|&at| damaged[at] ^= 4);
        damaged
    };
    for at in 0..64 {
        open(&with(flip(&[header + at])), None)?; // there is a copy
        problem(flip(&[header + at, header + 1536 + (at + 1) % 64]));
    }
    // Without an intact hint the store's file has to say where to begin.
    assert!(problem(flip(&[header + 512])).contains("open it together with its store"));
    open(&with(flip(&[header + 512])), Some(Position::default()))?;

    let mut newer = bytes.clone();
    newer[header + 8] = 2;
    let sum = twox_hash::XxHash3_64::oneshot(&newer[header..header + 56]);
    newer[header + 56..header + 64].copy_from_slice(&sum.to_le_bytes());
    newer.copy_within(header..header + 64, header + 1536);
    assert!(matches!(open(&with(newer), None), Err(Error::NewerFormat { found: 2, supported: 1, .. })));
    assert!(matches!(open(&SimulatedDisk::new(), None), Err(Error::Io { .. })));
    Ok(())
}

#[test]
fn a_failed_write_or_sync_poisons_the_log_until_it_is_opened_again() -> Outcome {
    for fault in [Fault::FailSync(0), Fault::FailWrite(0), Fault::FailWrite(1)] {
        let disk = fresh();
        let (wal, _) = open(&disk, None)?;
        for number in 0..12 {
            append(&wal, number, Durability::Durable);
        }
        let held = wal.position();
        disk.inject(Some(fault));
        let failed = (12..15).find_map(|number| wal.append(&batch(number), Durability::Durable).err());
        assert!(matches!(failed, Some(Error::Io { .. })), "{fault:?}: {failed:?}");
        disk.inject(None);
        let poisoned = |result: Result<(), Error>| match result {
            Err(Error::Poisoned { cause, .. }) => cause,
            other => panic!("{other:?}"),
        };
        let cause = poisoned(wal.append(&batch(1), Durability::Buffered).map(drop));
        assert!(cause.contains("simulated input/output error"), "{cause}");
        poisoned(wal.sync());
        poisoned(wal.flush());
        poisoned(wal.truncate(wal.position()));
        poisoned(wal.zero_ahead().map(drop));
        let (again, recovered) = open(&disk, None)?;
        assert!(recovered.end.lsn >= held.lsn);
        append(&again, 0, Durability::Durable);
        assert_eq!(replayed(&open(&disk, None)?.0)?.last(), Some(&batch(0)));
    }
    Ok(())
}

/// After a failed sync the system's cache may show what the disk does not hold: the next session must not build on it.
#[test]
fn what_no_sync_confirmed_is_written_again_before_more_follows() -> Outcome {
    let disk = fresh();
    let (wal, _) = open(&disk, None)?;
    let first = append(&wal, 1, Durability::Durable);
    disk.inject(Some(Fault::FailSync(0)));
    assert!(wal.append(&batch(2), Durability::Durable).is_err());
    disk.inject(None);
    let (again, recovered) = open(&disk, None)?;
    assert_eq!((recovered.batches, again.durable()), (2, first.lsn));
    let before = disk.changes();
    append(&again, 3, Durability::Durable);
    assert_eq!(disk.changes() - before, 5, "the second batch, a sync, the third, a sync, a mark");
    assert_eq!(again.durable(), again.position().lsn);
    Ok(())
}

#[test]
fn zeroing_ahead_never_costs_a_record() -> Outcome {
    let directory = tempfile::tempdir()?;
    let path = directory.path().join("log");
    let capacity = 200_000;
    let start = Position { lsn: Lsn(150_000), mac: [4; 16] };
    let wal = Wal::create(Arc::new(OsDisk), &path, None, &options(capacity), start)?;
    let changes: Vec<Change> = (0..1000).map(|number| Change::insert(E::new(number), E::MAX)).collect();
    std::thread::scope(|scope| -> Outcome {
        let zeroing = scope.spawn(|| -> Result<u32, Error> {
            let mut steps = 1;
            while wal.zero_ahead()? {
                steps += 1;
            }
            Ok(steps)
        });
        for _ in 0..150 {
            wal.append(&changes, Durability::Buffered)?.ok_or("there was room")?;
        }
        assert!(zeroing.join().map_err(|_| "panicked")?? <= 3);
        Ok(())
    })?;
    wal.flush()?;
    assert_eq!((wal.durable(), wal.metrics().batches, wal.metrics().wraps), (wal.position().lsn, 150, 1));
    assert_eq!(wal.audit_hmac(0)?.damaged, []);
    let audit = wal.audit_hmac(10)?;
    assert_eq!((audit.batches, audit.checked, audit.records), (150, 10, 10_000));
    let (again, recovered) = Wal::open(Arc::new(OsDisk), &path, &source(Some(start)))?;
    assert_eq!((recovered.batches, recovered.records, recovered.end), (150, 150_000, wal.position()));
    assert!(again.zero_ahead().is_ok());
    let mut count = 0;
    again.replay(None, |records| {
        assert!(matches!(again.truncate(again.position()), Err(Error::Usage { .. })));
        assert_eq!(records.iter().filter_map(Record::change).collect::<Vec<_>>(), changes);
        count += records.len();
        Ok(())
    })?;
    assert_eq!(count, 150_000);
    drop(wal);
    again.remove()?;
    assert!(!path.exists());
    Ok(())
}

#[test]
fn records_beyond_what_was_zeroed_are_not_zeroed_later() -> Outcome {
    let directory = tempfile::tempdir()?;
    let path = directory.path().join("log");
    let wal = Wal::create(Arc::new(OsDisk), &path, None, &options(100_000), Position::default())?;
    let changes = vec![Change::delete(E::MAX); 70_000]; // past the first 4 MiB
    wal.append(&changes, Durability::Buffered)?.ok_or("there was room")?;
    while wal.zero_ahead()? {}
    assert_eq!(wal.audit_hmac(0)?.damaged, []);
    // Nor when it is opened anew, or gone around.
    let (again, recovered) = Wal::open(Arc::new(OsDisk), &path, &source(None))?;
    assert_eq!(recovered.records, 70_000);
    while again.zero_ahead()? {}
    again.truncate(again.position())?;
    again.append(&changes, Durability::Buffered)?.ok_or("there was room")?;
    while again.zero_ahead()? {}
    assert_eq!((again.audit_hmac(0)?.damaged, again.metrics().wraps), (vec![], 1));
    Ok(())
}

#[test]
fn the_log_is_an_hdf5_file_with_the_records_in_it() -> Outcome {
    let directory = tempfile::tempdir()?;
    let path = directory.path().join("log");
    let wal = Wal::create(Arc::new(OsDisk), &path, None, &options(100), Position::default())?;
    wal.append(&[Change::insert(E::from_parts(1, 2), E::from_parts(3, 4))], Durability::Durable)?;
    let store = corallite_file::Storage::new(path.clone());
    let opened = store.open(corallite_file::Mode::ReadWrite, false);
    assert!(matches!(opened, Err(corallite_file::Error::ForeignFile { .. })), "{opened:?}");
    let file = corallite_file::hdf5::File::open(&path)?;
    let records = file.dataset("records")?;
    assert_eq!((records.shape(), records.dtype()?.size()), (vec![128], 64));
    assert_eq!(records.offset().ok_or("no place")? % 4096, 0);
    assert_eq!(file.group("config")?.attr("capacity")?.read_scalar::<u64>()?, 128);
    Ok(())
}

#[test]
fn a_log_open_for_reading_is_never_written() -> Outcome {
    let disk = fresh();
    append(&open(&disk, None)?.0, 2, Durability::Durable);
    let before = disk.changes();
    let (wal, recovered) = Wal::open(arc(&disk), path(), &WalSource { read_only: true, ..source(None) })?;
    assert_eq!((recovered.batches, replayed(&wal)?), (1, vec![batch(2)]));
    assert!(matches!(wal.append(&batch(1), Durability::Durable), Err(Error::ReadOnly { .. })));
    assert!(matches!(wal.sync(), Err(Error::ReadOnly { .. })));
    assert!(matches!(wal.truncate(wal.position()), Err(Error::ReadOnly { .. })));
    assert!(matches!(wal.zero_ahead(), Err(Error::ReadOnly { .. })));
    assert!(matches!(wal.remove(), Err(Error::ReadOnly { .. })));
    assert_eq!(disk.changes(), before);
    Ok(())
}

fn scribbles() -> impl Strategy<Value = Vec<(prop::sample::Index, Vec<u8>)>> {
    prop::collection::vec((any::<prop::sample::Index>(), prop::collection::vec(any::<u8>(), 1..100)), 0..6)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(300) })]

    #[test]
    fn whatever_the_bytes_are_opening_answers_and_nothing_wrong_is_replayed(
        scribbles in scribbles(),
        cut in prop::option::of(any::<prop::sample::Index>()),
        lsn in prop_oneof![0..200_u64, any::<u64>()],
        hint in any::<bool>(),
    ) {
        let disk = fresh();
        let (wal, _) = open(&disk, None).expect("opens");
        for number in 0..10 {
            append(&wal, number, Durability::Durable);
        }
        let mut bytes = disk.read(path()).unwrap_or_default();
        for (at, scribble) in scribbles {
            let at = at.index(bytes.len());
            let end = bytes.len().min(at + scribble.len());
            bytes[at..end].copy_from_slice(&scribble[..end - at]);
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        let from = (!hint).then_some(Position { lsn: Lsn(lsn), mac: [0; 16] });
        for salvage in [false, true] {
            let opened = Wal::open(arc(&with(bytes.clone())), path(), &WalSource { salvage, ..source(from) });
            if let Ok((wal, recovered)) = opened {
                for (found, number) in replayed(&wal).expect("replays").into_iter().zip(0..) {
                    prop_assert_eq!(found, batch(number));
                }
                prop_assert!(recovered.batches <= 10);
                wal.append(&batch(3), Durability::Durable).expect("appends");
            }
        }
    }

    #[test]
    fn random_bytes_are_no_log(bytes in prop::collection::vec(any::<u8>(), 0..20_000)) {
        let opened = open(&with(bytes), None);
        let refused = matches!(opened, Err(Error::NotALog { .. }));
        prop_assert!(refused);
    }
}
