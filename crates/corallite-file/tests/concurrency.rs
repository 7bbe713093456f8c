//! Readers in other threads and other openings see whole commits while a writer commits, deletes and reuses space.

mod common;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use common::Outcome;
use common::disks::{FilteredDisk, Step, Verdict};
use common::work::le_bytes;
use corallite_file::hdf5::File;
use corallite_file::hdf5::plist::dataset_create::{AllocTime, FillTime};
use corallite_file::{CommitNumber, Error, Mode, Options, OsDisk, Snapshot, Storage, contiguous_offset, write_chunk};
use parking_lot::Mutex;

/// A run lasts this long, and on until it has shown enough; `LIMIT` only ends a run that never does.
const RUN: Duration = Duration::from_secs(4);
const LIMIT: Duration = Duration::from_secs(120);
const LENGTH: usize = 5000;

/// Writes `number` everywhere: two chunked datasets (one anew, one in place), a direct dataset under a new name, the
/// old one gone, and an attribute.
fn write(storage: &Storage, number: i32) -> Outcome<CommitNumber> {
    storage.transaction(|tx| -> Result<(), Error> {
        let body = || -> Result<u64, corallite_file::hdf5::Error> {
            let file = tx.file();
            let data = vec![number; LENGTH];
            if file.link_exists("anew") {
                file.unlink("anew")?;
            }
            let anew = file.new_dataset::<i32>().shape(LENGTH).chunk(LENGTH).create("anew")?;
            write_chunk(&anew, &[0], 0, &le_bytes(&data))?;
            let in_place = match file.dataset("in_place") {
                Ok(found) => found,
                Err(_) => file.new_dataset::<i32>().shape(LENGTH).chunk(700).create("in_place")?,
            };
            in_place.write(&data)?;
            for name in file.member_names()?.iter().filter(|name| name.starts_with("direct")) {
                file.unlink(name)?;
            }
            let direct = file
                .new_dataset::<i32>()
                .shape(LENGTH)
                .alloc_time(Some(AllocTime::Early))
                .fill_time(FillTime::Never)
                .create(format!("direct{number}").as_str())?;
            match file.attr("number") {
                Ok(attribute) => attribute.write_scalar(&number)?,
                Err(_) => file.new_attr::<i32>().create("number")?.write_scalar(&number)?,
            }
            Ok(contiguous_offset(&direct).unwrap_or_default())
        };
        let offset = body().map_err(|error| tx.explain("write", &error))?;
        tx.write_at(offset, &le_bytes(&vec![number; LENGTH]))
    })?;
    Ok(storage.version()?)
}

/// The one number that everything in the file carries.
fn number(file: &File) -> Outcome<i32> {
    let number = file.attr("number")?.read_scalar::<i32>()?;
    for name in ["anew".to_owned(), "in_place".to_owned(), format!("direct{number}")] {
        let data = file.dataset(&name)?.read_raw::<i32>()?;
        if let Some(other) = data.iter().find(|&&other| other != number) {
            return Err(format!("{name} has {other} in a commit of {number}").into());
        }
    }
    Ok(number)
}

fn options() -> Options {
    Options::new().history(0).journal_bytes(256 << 10).dirty_bytes(64 << 10).lock_wait(Duration::from_millis(500))
}

/// Runs `reader` in threads while the main one commits; whatever fails stops all.
fn beside_a_writer(
    storage: &Storage,
    readers: &[&(dyn Fn(&AtomicBool) -> Outcome + Sync)],
    enough: &dyn Fn() -> bool,
) -> Outcome<i32> {
    let (stop, failed) = (AtomicBool::new(false), Mutex::new(Vec::new()));
    write(storage, 0)?;
    let mut last = 0;
    thread::scope(|scope| {
        for reader in readers {
            scope.spawn(|| {
                if let Err(error) = reader(&stop) {
                    failed.lock().push(error.to_string());
                    stop.store(true, Ordering::Relaxed);
                }
            });
        }
        let begun = Instant::now();
        let done = |commits: i32| begun.elapsed() >= RUN && commits > 20 && enough() || begun.elapsed() >= LIMIT;
        while !done(last) && !stop.load(Ordering::Relaxed) {
            last += 1;
            let outcome = write(storage, last).and_then(|_| {
                // Freed in this session, handed out by us.
                if last % 16 == 0 { Ok(storage.reclaim()?) } else { Ok(()) }
            });
            if let Err(error) = outcome {
                failed.lock().push(format!("the writer: {error}"));
                break;
            }
        }
        stop.store(true, Ordering::Relaxed);
    });
    let failed = failed.into_inner();
    if failed.is_empty() { Ok(last) } else { Err(failed.join("; ").into()) }
}

#[test]
fn a_thread_never_sees_half_a_commit() -> Outcome {
    let directory = tempfile::tempdir()?;
    let storage = Storage::with_options(directory.path().join("store.h5"), options());
    storage.open(Mode::Append, false)?;
    let seen = AtomicU64::new(0);
    let quick = |stop: &AtomicBool| -> Outcome {
        let mut before = 0;
        while !stop.load(Ordering::Relaxed) {
            let now = number(storage.snapshot()?.file())?;
            if now < before {
                return Err(format!("{now} was seen after {before}").into());
            }
            seen.fetch_add(u64::from(now != before), Ordering::Relaxed);
            before = now;
        }
        Ok(())
    };
    let slow = |stop: &AtomicBool| -> Outcome {
        while !stop.load(Ordering::Relaxed) {
            let snapshot = storage.snapshot()?;
            let first = number(snapshot.file())?;
            for _ in 0..20 {
                thread::sleep(Duration::from_millis(3));
                if number(snapshot.file())? != first {
                    return Err("a snapshot moved".into());
                }
            }
        }
        Ok(())
    };
    let last = beside_a_writer(&storage, &[&quick, &slow], &|| seen.load(Ordering::Relaxed) > 5)?;
    assert!(last > 20 && seen.load(Ordering::Relaxed) > 5, "{last} commits, {seen:?} seen");
    storage.close()?;
    Ok(())
}

#[test]
fn another_opening_never_sees_half_a_commit_and_refreshes_to_newer_ones() -> Outcome {
    let directory = tempfile::tempdir()?;
    let path = directory.path().join("store.h5");
    let storage = Storage::with_options(path.as_path(), options());
    storage.open(Mode::Append, false)?;
    let reader = |stop: &AtomicBool| -> Outcome {
        let other = Storage::with_options(path.as_path(), options());
        other.open(Mode::Read, true)?;
        let mut before = 0;
        while !stop.load(Ordering::Relaxed) {
            let now = number(&other.file()?)?;
            thread::sleep(Duration::from_millis(2));
            if number(&other.file()?)? != now || now < before {
                return Err(format!("{now} was seen after {before}, or moved").into());
            }
            before = now;
            other.refresh()?;
        }
        Ok(())
    };
    // As a program without knowledge of the journal would: what the file itself holds, under the shared lock.
    let foreign = |stop: &AtomicBool| -> Outcome {
        while !stop.load(Ordering::Relaxed) {
            let file = std::fs::File::open(&path)?;
            file.lock_shared()?;
            let bytes = std::fs::read(&path)?;
            drop(file);
            let copy = Storage::new(corallite_file::Buffer::from(bytes));
            copy.open(Mode::Read, false)?;
            number(&copy.file()?)?;
            thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    };
    let last = beside_a_writer(&storage, &[&reader, &foreign], &|| true)?;
    assert!(last > 20, "{last} commits");
    storage.close()?;
    storage.open(Mode::Read, false)?;
    assert_eq!(number(&storage.file()?)?, last);
    Ok(())
}

/// Where the one direct dataset lies.
fn direct_extent(snapshot: &Snapshot) -> Outcome<(i32, u64)> {
    let number = snapshot.file().attr("number")?.read_scalar::<i32>()?;
    let dataset = snapshot.file().dataset(&format!("direct{number}"))?;
    Ok((number, contiguous_offset(&dataset).ok_or("no offset")?))
}

#[test]
fn mapped_bytes_never_change() -> Outcome {
    let directory = tempfile::tempdir()?;
    let storage = Storage::with_options(directory.path().join("store.h5"), options());
    storage.open(Mode::Append, false)?;
    let mapped = AtomicU64::new(0);
    let keeper = |stop: &AtomicBool| -> Outcome {
        let mut held = Vec::new();
        while !stop.load(Ordering::Relaxed) {
            let snapshot = storage.snapshot()?;
            let (number, offset) = direct_extent(&snapshot)?;
            match snapshot.map(offset, 4 * LENGTH as u64)? {
                // The map keeps its bytes by itself; the snapshot goes.
                Some(map) => {
                    held.push((number, map));
                    mapped.fetch_add(1, Ordering::Relaxed);
                }
                // Commits wait in the journal for the maps whose place they reuse.
                None => held.clear(),
            }
            drop(snapshot);
            for (number, map) in &held {
                if map.as_ref().chunks_exact(4).any(|bytes| bytes != number.to_le_bytes()) {
                    return Err(format!("the map of {number} changed").into());
                }
            }
            if held.len() > 5 {
                held.remove(0);
            }
            thread::sleep(Duration::from_millis(4));
        }
        Ok(())
    };
    let last = beside_a_writer(&storage, &[&keeper, &keeper], &|| mapped.load(Ordering::Relaxed) > 20)?;
    assert!(last > 20 && mapped.load(Ordering::Relaxed) > 20, "{last} commits, {mapped:?} maps");
    Ok(())
}

/// A hook in the disk's exclusive lock, which is taken when commits are about to be applied.
fn at_the_lock(hook: impl Fn() + Send + Sync + 'static) -> Arc<FilteredDisk> {
    Arc::new(FilteredDisk::new(OsDisk, move |step, path: &Path| {
        if step == Step::LockExclusive && path.extension().is_some_and(|extension| extension == "h5") {
            hook();
        }
        Verdict::Do
    }))
}

#[test]
fn a_map_taken_while_a_commit_is_being_applied_does_not_show_it() -> Outcome {
    type Taken = Option<(i32, corallite_file::Mapped)>;
    let directory = tempfile::tempdir()?;
    let held: Arc<Mutex<Option<Arc<Snapshot>>>> = Arc::default();
    let taken: Arc<Mutex<Vec<Taken>>> = Arc::default();
    let disk = {
        let (held, taken) = (Arc::clone(&held), Arc::clone(&taken));
        at_the_lock(move || {
            if let Some(snapshot) = held.lock().take() {
                let (_, offset) = extent_in_place(&snapshot).unwrap_or_default();
                let map = snapshot.map(offset, 4 * LENGTH as u64).unwrap_or(None);
                taken.lock().push(map.map(|map| (1, map)));
            }
        })
    };
    let storage = Storage::on_disk(disk, directory.path().join("store.h5"), options());
    storage.open(Mode::Append, false)?;
    put_in_place(&storage, 1)?;
    *held.lock() = Some(storage.snapshot()?);
    put_in_place(&storage, 2)?;
    assert_eq!(taken.lock().len(), 1, "the hook did not run");
    for (number, map) in taken.lock().iter().flatten() {
        assert!(map.as_ref().chunks_exact(4).all(|bytes| bytes == number.to_le_bytes()), "the map changed");
    }
    Ok(())
}

fn extent_in_place(snapshot: &Snapshot) -> Outcome<(i32, u64)> {
    Ok((0, contiguous_offset(&snapshot.file().dataset("place")?).ok_or("no offset")?))
}

/// Writes a contiguous dataset where it is.
fn put_in_place(storage: &Storage, number: i32) -> Outcome {
    let file = storage.file()?;
    let dataset = match file.dataset("place") {
        Ok(dataset) => dataset,
        Err(_) => file.new_dataset::<i32>().shape(LENGTH).create("place")?,
    };
    dataset.write(&vec![number; LENGTH])?;
    storage.flush()?;
    Ok(())
}

#[test]
fn a_snapshot_outlives_the_storage_and_the_next_writer_does_not_disturb_it() -> Outcome {
    let directory = tempfile::tempdir()?;
    let path = directory.path().join("store.h5");
    let storage = Storage::with_options(path.as_path(), options());
    storage.open(Mode::Append, false)?;
    put_in_place(&storage, 1)?;
    let older = storage.snapshot()?;
    storage.file()?.unlink("place")?;
    storage.flush()?;
    storage.close()?;
    for round in 0..5 {
        // While something older than the newest commit is read, the closed storage is still the writer.
        match storage.open(Mode::ReadWrite, false) {
            Ok(()) => {
                // The commit that gives up the one being read, and the next, which could reuse its place.
                storage.create_group(&format!("group{round}"))?;
                storage.flush()?;
                let data = vec![round; LENGTH];
                storage.file()?.new_dataset_builder().with_data(&data).create(format!("later{round}").as_str())?;
                storage.flush()?;
                storage.close()?;
            }
            Err(Error::Busy { .. }) => {}
            Err(error) => return Err(error.into()),
        }
        let data = older.file().dataset("place")?.read_raw::<i32>()?;
        assert!(data.iter().all(|&value| value == 1), "round {round}: {}", data[0]);
    }
    drop(older);
    storage.open(Mode::ReadWrite, false)?;
    put_in_place(&storage, 20)?;
    storage.close()?;
    assert!(!directory.path().join("store.h5-journal").exists());
    Ok(())
}

#[test]
fn a_snapshot_sees_its_pages_after_a_direct_write_and_a_change_in_place() -> Outcome {
    // A page that the journal knows, freed, written directly to its place, and then changed through the journal.
    let directory = tempfile::tempdir()?;
    let storage = Storage::with_options(directory.path().join("store.h5"), options().journal_bytes(64 << 20));
    storage.open(Mode::Append, false)?;
    for round in 0..12 {
        put_in_place(&storage, round)?;
        let snapshot = storage.snapshot()?;
        put_in_place(&storage, 100 + round)?;
        let data = snapshot.file().dataset("place")?.read_raw::<i32>()?;
        assert!(data.iter().all(|&value| value == round), "round {round}: {}", data[0]);
        drop(snapshot);
        storage.file()?.unlink("place")?;
        storage.flush()?;
        storage.reclaim()?;
    }
    Ok(())
}
