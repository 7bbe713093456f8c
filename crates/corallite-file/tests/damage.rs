//! A damaged byte is reported with its place, or changes nothing; what is not ours is refused or left alone.

mod common;

use std::collections::HashMap;
use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use common::model::{self, Model, difference};
use common::scene::{Scene, on, options, salted_scene, scene};
use common::{Outcome, Random, journal, store};
use corallite_file::hdf5;
use corallite_file::{
    Buffer, CommitNumber, Error, Mode, PAGE_SIZE, SimulatedDisk, Storage, chunk_locations, contiguous_offset,
};
use proptest::prelude::*;

type Files = HashMap<PathBuf, Vec<u8>>;

/// Where the journal's marks and the writer's process id lie; what is between them and the frames is padding.
const HINTS: Range<usize> = 512..4096;

fn read_model(files: &Files, mode: Mode) -> Outcome<Model> {
    let storage = on(&SimulatedDisk::with_files(files.clone()));
    storage.open(mode, false)?;
    model::read(&storage.file()?)
}

/// Whether the content is exactly right or an error says what is wrong with which file.
fn right_or_reported(files: &Files, mode: Mode, wanted: &Model) -> Outcome {
    match read_model(files, mode) {
        Ok(found) => difference(&found, wanted).map_or(Ok(()), |what| Err(format!("read as if sound: {what}").into())),
        Err(error) => match error.downcast_ref::<Error>() {
            Some(error) if !error.to_string().contains("/disk/store.h5") => {
                Err(format!("{error} names no file").into())
            }
            Some(Error::Damaged { problem, .. }) if problem.is_empty() => Err("an error without a reason".into()),
            _ => Ok(()),
        },
    }
}

/// The parts of a file for which HDF5 has no checksum: array data, and the heap of variable-length strings.
fn unchecked(main: &[u8]) -> Outcome<Vec<Range<usize>>> {
    fn visit(group: &hdf5::Group, found: &mut Vec<Range<usize>>) -> Outcome {
        for dataset in group.datasets()? {
            if let Some(offset) = contiguous_offset(&dataset) {
                found.push(offset as usize..(offset + dataset.storage_size()) as usize);
            } else {
                let chunks = chunk_locations(&dataset)?;
                found.extend(chunks.iter().map(|chunk| chunk.offset as usize..(chunk.offset + chunk.length) as usize));
            }
        }
        for group in group.groups()? {
            visit(&group, found)?;
        }
        Ok(())
    }
    let storage = Storage::new(Buffer::from(main.to_vec()));
    storage.open(Mode::Read, false)?;
    let mut found = Vec::new();
    let file = storage.file()?;
    visit(&file, &mut found)?;
    for at in (0..main.len().saturating_sub(16)).filter(|&at| &main[at..at + 5] == b"GCOL\x01") {
        let size = u64::from_le_bytes(main[at + 8..at + 16].try_into()?) as usize;
        found.push(at..at + size);
    }
    Ok(found)
}

/// Flips one bit at each of `places` in `path` and checks that it is reported or changes nothing.
fn flip(scene: &Scene, path: &Path, places: impl Iterator<Item = usize>, spare: &[Range<usize>]) -> Outcome<usize> {
    let wanted = &scene.commits[&scene.newest];
    let mut random = Random::new(11);
    let mut noticed = 0;
    for place in places.filter(|place| !spare.iter().any(|range| range.contains(place))) {
        let mut files = scene.files.clone();
        let bytes = files.get_mut(path).ok_or("no such file")?;
        bytes[place] ^= 1 << random.below(8);
        let mode = random.pick(&[Mode::Read, Mode::Read, Mode::ReadWrite]);
        right_or_reported(&files, mode, wanted)
            .map_err(|error| format!("byte {place} of {}, {mode}: {error}", path.display()))?;
        noticed += usize::from(read_model(&files, Mode::Read).is_err());
    }
    Ok(noticed)
}

/// Every place at the beginning, and `count` others.
fn places(length: usize, dense: Range<usize>, count: usize, seed: u64) -> impl Iterator<Item = usize> {
    let mut random = Random::new(seed);
    dense.chain((0..count).map(move |_| random.below(length)))
}

#[test]
fn a_flipped_bit_in_a_closed_file_is_reported_or_harmless() -> Outcome {
    let scene = scene(false)?;
    let main = &scene.files[store()];
    let spare = unchecked(main)?;
    // The superblock, and the metadata of the first commits.
    let dense = (0..100).chain(PAGE_SIZE as usize..PAGE_SIZE as usize + 2400);
    let noticed = flip(&scene, store(), dense.chain(places(main.len(), 0..0, 500, 1)), &spare)?;
    assert!(noticed > 400, "{noticed}");
    Ok(())
}

#[test]
fn a_flipped_bit_in_the_trailer_is_reported_and_never_rolled_back_to() -> Outcome {
    let scene = scene(false)?;
    let main = &scene.files[store()];
    let end = hdf5_end(main);
    assert!(main.len() > end + 4096, "no trailer");
    let footer = main.len() - 56..main.len();
    let mut random = Random::new(3);
    let places: Vec<usize> = (0..400).map(|_| end + random.below(main.len() - end)).chain(footer).collect();
    let mut reported = 0;
    for place in places {
        let mut files = scene.files.clone();
        files.get_mut(store()).ok_or("no file")?[place] ^= 1 << random.below(8);
        right_or_reported(&files, Mode::Read, &scene.commits[&scene.newest])
            .map_err(|error| format!("byte {place}: {error}"))?;
        let storage = on(&SimulatedDisk::with_files(files));
        if let Err(error) = storage.open(Mode::ReadWrite, false) {
            assert!(matches!(error, Error::NewerFormat { .. } | Error::Damaged { .. }), "byte {place}: {error}");
            continue;
        }
        reported += usize::from(storage.trailer_problem()?.is_some());
        assert_eq!(storage.version()?.0, scene.newest);
        let oldest = storage.versions()?[0].number;
        if storage.rollback_to_version(oldest).is_ok() {
            let found = model::read(&storage.file()?).map_err(|error| format!("byte {place}: {error}"))?;
            assert_eq!(difference(&found, &scene.commits[&oldest.0]), None, "byte {place}");
        }
    }
    assert!(reported > 300, "{reported}");
    Ok(())
}

#[test]
fn a_flipped_bit_in_a_hot_journal_is_reported_or_harmless() -> Outcome {
    let scene = scene(true)?;
    let length = scene.files[journal()].len();
    let noticed = flip(&scene, journal(), places(length, 0..1100, 1200, 2), &[])?;
    assert!(noticed > 900, "{noticed}");
    // Behind the header and the hints every bit counts.
    let mut random = Random::new(4);
    for _ in 0..300 {
        let place = HINTS.end + random.below(length - HINTS.end);
        let mut files = scene.files.clone();
        files.get_mut(journal()).ok_or("no journal")?[place] ^= 1 << random.below(8);
        let error = read_model(&files, Mode::Read).err().ok_or_else(|| format!("byte {place} is not missed"))?;
        assert!(error.to_string().contains("store.h5-journal is damaged at offset"), "byte {place}: {error}");
    }
    Ok(())
}

#[test]
fn a_flipped_bit_in_a_file_with_a_hot_journal_is_reported_or_harmless() -> Outcome {
    let scene = scene(true)?;
    let main = &scene.files[store()];
    let mut spare = unchecked(main)?;
    // What the journal's commits wrote directly is array data as well.
    let recovered = SimulatedDisk::with_files(scene.files.clone());
    let storage = on(&recovered);
    storage.open(Mode::ReadWrite, false)?;
    storage.close()?;
    spare.extend(unchecked(&common::bytes(&recovered, store())?)?);
    flip(&scene, store(), places(main.len(), 0..600, 1200, 5), &spare)?;
    Ok(())
}

#[test]
fn a_file_cut_anywhere_is_whole_or_refused() -> Outcome {
    for hot in [false, true] {
        let scene = scene(hot)?;
        let main = &scene.files[store()];
        let end = hdf5_end(main);
        let mut random = Random::new(6);
        let lengths = (0..200).chain((0..main.len()).step_by(1021)).chain((0..200).map(|_| random.below(main.len())));
        for length in lengths {
            let mut files = scene.files.clone();
            files.get_mut(store()).ok_or("no file")?.truncate(length);
            for mode in [Mode::Read, Mode::ReadWrite, Mode::Append] {
                if mode == Mode::Append && length == 0 && !hot {
                    // An empty file is a new one.
                    continue;
                }
                right_or_reported(&files, mode, &scene.commits[&scene.newest])
                    .map_err(|error| format!("cut to {length}, hot {hot}, {mode}: {error}"))?;
            }
            if !hot && (1..end).contains(&length) {
                assert!(read_model(&files, Mode::Read).is_err(), "cut to {length} of {end}");
            }
        }
    }
    Ok(())
}

#[test]
fn a_journal_cut_anywhere_gives_every_commit_or_an_error() -> Outcome {
    let scene = scene(true)?;
    let length = scene.files[journal()].len();
    for length in (0..64).chain((0..length).step_by(331)).chain(length - 64..length) {
        let mut files = scene.files.clone();
        files.get_mut(journal()).ok_or("no journal")?.truncate(length);
        match read_model(&files, Mode::Read) {
            // Without any journal the file is at the commit that was applied.
            Ok(found) if length <= 4096 => {
                assert!(scene.commits.values().any(|model| difference(&found, model).is_none()), "cut to {length}");
            }
            Ok(_) => panic!("a journal cut to {length} is not missed"),
            Err(error) => assert!(error.to_string().contains("store.h5"), "cut to {length}: {error}"),
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn garbage_is_refused_without_a_panic(
        bytes in proptest::collection::vec(any::<u8>(), 0..3000),
        signed in any::<bool>(),
        beside in proptest::option::of(proptest::collection::vec(any::<u8>(), 0..6000)),
    ) {
        let mut main = if signed { b"\x89HDF\r\n\x1a\n\x02\x08\x08\x00".to_vec() } else { Vec::new() };
        main.extend(bytes);
        let before = main.clone();
        let mut files = HashMap::from([(store().to_owned(), main)]);
        files.extend(beside.map(|bytes| (journal().to_owned(), bytes)));
        let disk = SimulatedDisk::with_files(files);
        for mode in [Mode::Read, Mode::ReadWrite, Mode::Append] {
            let outcome = on(&disk).open(mode, false);
            if !before.is_empty() {
                prop_assert!(outcome.is_err(), "{mode}");
                let after = disk.read(store());
                prop_assert_eq!(after.as_deref(), Some(&before[..]));
            }
        }
    }

    #[test]
    fn a_mangled_store_is_right_or_reported(
        hot in any::<bool>(),
        cuts in proptest::collection::vec((any::<bool>(), any::<proptest::sample::Index>(), 1_usize..5000, any::<u8>()), 1..4),
    ) {
        let scene = SCENES.with(|scenes| scenes[usize::from(hot)].clone());
        let mut files = scene;
        for (in_journal, at, length, value) in cuts {
            let path = if in_journal && hot { journal() } else { store() };
            if let Some(bytes) = files.get_mut(path) {
                let at = at.index(bytes.len());
                let end = (at + length).min(bytes.len());
                bytes[at..end].fill(value);
            }
        }
        let begun = Instant::now();
        // Array data may be anything; what counts is that nothing panics or hangs.
        for mode in [Mode::Read, Mode::ReadWrite] {
            let _ = read_model(&files, mode);
        }
        prop_assert!(begun.elapsed() < Duration::from_secs(120));
    }
}

thread_local! {
    static SCENES: [Files; 2] = [false, true].map(|hot| scene(hot).map(|scene| scene.files).unwrap_or_default());
}

/// The end of the HDF5 data, as the superblock says.
fn hdf5_end(main: &[u8]) -> usize {
    u64::from_le_bytes(main[28..36].try_into().unwrap_or_default()) as usize
}

#[test]
fn the_journal_of_another_file_is_refused() -> Outcome {
    let (one, two) = (scene(true)?, salted_scene(true, 1000)?);
    assert_eq!(one.files[store()][..48], two.files[store()][..48], "made to be hard to tell apart");
    let mixed = HashMap::from([
        (store().to_owned(), one.files[store()].clone()),
        (journal().to_owned(), two.files[journal()].clone()),
    ]);
    for mode in [Mode::Read, Mode::ReadWrite] {
        let error = read_model(&mixed, mode).err().ok_or("not missed")?;
        assert!(matches!(error.downcast_ref(), Some(Error::ChangedElsewhere { .. })), "{error}");
    }
    Ok(())
}

#[test]
fn a_journal_without_its_file_is_not_played_into_a_new_one() -> Outcome {
    let scene = scene(true)?;
    let before = HashMap::from([(journal().to_owned(), scene.files[journal()].clone())]);
    let disk = SimulatedDisk::with_files(before.clone());
    let error = on(&disk).open(Mode::Append, false).err().ok_or("not missed")?;
    assert!(error.to_string().contains("store.h5"), "{error}");
    assert_eq!(disk.read(store()), None);
    // The same with an empty file in the place of the lost one.
    let mut files = before;
    files.insert(store().to_owned(), Vec::new());
    assert!(read_model(&files, Mode::Append).is_err());
    Ok(())
}

#[test]
fn what_a_newer_version_wrote_is_refused_untouched() -> Outcome {
    let closed = scene(false)?;
    let hot = scene(true)?;
    let mut journal_of_tomorrow = hot.files.clone();
    set_version(journal_of_tomorrow.get_mut(journal()).ok_or("no journal")?, 0, 24);
    let mut trailer_of_tomorrow = closed.files.clone();
    let main = trailer_of_tomorrow.get_mut(store()).ok_or("no file")?;
    let footer = main.len() - 56;
    set_version(main, footer, 48);
    for (files, what) in [(journal_of_tomorrow, "journal"), (trailer_of_tomorrow, "trailer")] {
        for mode in [Mode::Read, Mode::ReadWrite, Mode::Append] {
            let disk = SimulatedDisk::with_files(files.clone());
            match on(&disk).open(mode, false) {
                Err(Error::NewerFormat { what: found, found: 7, .. }) => assert_eq!(found, what),
                other => panic!("{mode}, {what}: {other:?}"),
            }
            assert_eq!(main_bytes(&disk), Some(files[store()].clone()));
        }
    }
    Ok(())
}

fn main_bytes(disk: &SimulatedDisk) -> Option<Vec<u8>> {
    disk.read(store())
}

/// Writes version 7 after the eight bytes of a magic number, and the checksum that fits `checked` bytes on.
fn set_version(bytes: &mut [u8], at: usize, checked: usize) {
    bytes[at + 8..at + 12].copy_from_slice(&7_u32.to_le_bytes());
    let sum = twox_hash::XxHash3_64::oneshot(&bytes[at..at + checked]);
    bytes[at + checked..at + checked + 8].copy_from_slice(&sum.to_le_bytes());
}

#[test]
fn a_newer_store_with_a_hot_journal_is_refused_untouched() -> Outcome {
    let disk = SimulatedDisk::new();
    let storage = on(&disk);
    storage.open(Mode::Append, false)?;
    storage.flush()?;
    let reader = on(&disk);
    reader.open(Mode::Read, false)?;
    storage.file()?.group("config")?.attr("format_version")?.write_scalar(&99_i64)?;
    storage.flush()?;
    let files = common::crash::files(&disk);
    for mode in [Mode::Read, Mode::ReadWrite, Mode::Append] {
        let disk = SimulatedDisk::with_files(files.clone());
        assert!(matches!(on(&disk).open(mode, false), Err(Error::NewerFormat { found: 99, .. })));
        assert_eq!(main_bytes(&disk), Some(files[store()].clone()), "{mode}");
        assert_eq!(disk.read(journal()).map(|bytes| bytes[4096..].to_vec()), Some(files[journal()][4096..].to_vec()));
    }
    Ok(())
}

#[test]
fn a_missing_journal_is_named_when_a_commit_was_being_applied() -> Outcome {
    let mut files = scene(false)?.files;
    files.get_mut(store()).ok_or("no file")?[..8].copy_from_slice(b"CORALMID");
    for beside in [None, Some(Vec::new()), Some(vec![0; 1040])] {
        files.remove(journal());
        files.extend(beside.map(|bytes| (journal().to_owned(), bytes)));
        for mode in [Mode::Read, Mode::ReadWrite, Mode::Append] {
            let error = read_model(&files, mode).err().ok_or("opened")?;
            assert!(error.to_string().contains("store.h5-journal is missing"), "{error}");
        }
    }
    Ok(())
}

#[test]
fn an_empty_journal_is_no_obstacle() -> Outcome {
    let scene = scene(false)?;
    let mut files = scene.files.clone();
    for bytes in [Vec::new(), vec![0; 100], vec![0; 4096]] {
        files.insert(journal().to_owned(), bytes);
        for mode in [Mode::Read, Mode::ReadWrite] {
            assert_eq!(difference(&read_model(&files, mode)?, &scene.commits[&scene.newest]), None);
        }
    }
    Ok(())
}

#[test]
fn a_page_that_no_commit_changed_is_read_through_the_hidden_signature() -> Outcome {
    // A large foreign file: its first page has only the superblock and the root group, so commits leave it alone.
    let directory = tempfile::tempdir()?;
    let path = directory.path().join("foreign.h5");
    let foreign = hdf5::File::create(&path)?;
    for index in 0..300 {
        foreign.create_group(&format!("group{index}"))?;
    }
    foreign.group("group299")?.new_attr::<i64>().create("value")?.write_scalar(&1_i64)?;
    foreign.create_group("config")?;
    drop(foreign);
    let disk = SimulatedDisk::with_files(HashMap::from([(store().to_owned(), fs::read(&path)?)]));
    let adopting =
        || Storage::on_disk(std::sync::Arc::new(disk.clone()), store(), options().history(0).adopt(|_| true));
    let storage = adopting();
    storage.open(Mode::ReadWrite, false)?;
    storage.flush()?;
    storage.close()?;
    storage.open(Mode::ReadWrite, false)?;
    disk.forget();
    storage.file()?.group("group299")?.attr("value")?.write_scalar(&7_i64)?;
    storage.flush()?;
    let mut hidden = 0;
    for cut in 0..=disk.changes() {
        for mode in corallite_file::LossMode::ALL {
            let image = disk.crash(cut, mode, cut as u64);
            hidden += usize::from(image.files[store()].starts_with(b"CORALMID"));
            for mode in [Mode::Read, Mode::ReadWrite] {
                let again = Storage::on_disk(
                    std::sync::Arc::new(SimulatedDisk::with_files(image.files.clone())),
                    store(),
                    options().history(0).adopt(|_| true),
                );
                again.open(mode, false).map_err(|error| format!("cut {cut}: {error}"))?;
                assert_eq!(again.file()?.member_names()?.len(), 304);
            }
        }
    }
    assert!(hidden > 0);
    Ok(())
}

#[test]
fn what_another_program_adds_to_a_closed_store_is_kept_and_the_history_given_up() -> Outcome {
    let scene = scene(false)?;
    let directory = tempfile::tempdir()?;
    let path = directory.path().join("store.h5");
    fs::write(&path, &scene.files[store()])?;
    let foreign = hdf5::File::open_rw(&path)?;
    foreign.create_group("theirs")?.new_attr::<i64>().create("number")?.write_scalar(&5_i64)?;
    drop(foreign);
    // Some programs do not cut what lies behind the end.
    let cut = fs::read(&path)?;
    let mut uncut = cut.clone();
    uncut.extend_from_slice(&scene.files[store()][hdf5_end(&scene.files[store()])..]);
    for (bytes, stale) in [(cut, false), (uncut, true)] {
        fs::write(&path, bytes)?;
        let storage = Storage::with_options(path.as_path(), options());
        storage.open(Mode::ReadWrite, false)?;
        assert_eq!(storage.trailer_problem()?.is_some(), stale);
        assert_eq!(storage.versions()?.len(), 1);
        let mut found = model::read(&storage.file()?)?;
        assert!(found.remove("theirs").is_some());
        assert_eq!(difference(&found, &scene.commits[&scene.newest]), None);
        storage.create_group("ours")?;
        storage.close()?;
        storage.open(Mode::Read, false)?;
        let names = storage.file()?.member_names()?;
        assert!(names.contains(&"theirs".to_owned()) && names.contains(&"ours".to_owned()));
    }
    Ok(())
}

#[test]
fn what_another_program_does_beside_a_hot_journal_is_refused() -> Outcome {
    type Change = fn(&hdf5::File) -> hdf5::Result<()>;
    let scene = scene(true)?;
    let directory = tempfile::tempdir()?;
    let path = directory.path().join("store.h5");
    let add: Change = |file| file.create_group("theirs").map(drop);
    // No byte more, and the superblock as it was.
    let change_in_place: Change = |file| file.group("config")?.attr("commit")?.write_scalar(&1_i64);
    for change in [add, change_in_place] {
        fs::write(&path, &scene.files[store()])?;
        fs::write(directory.path().join("store.h5-journal"), &scene.files[journal()])?;
        let foreign = hdf5::File::open_rw(&path)?;
        change(&foreign)?;
        drop(foreign);
        let before = fs::read(&path)?;
        for mode in [Mode::Read, Mode::ReadWrite, Mode::Append] {
            let error = Storage::new(path.as_path()).open(mode, false).err().ok_or("opened")?;
            assert!(matches!(error, Error::ChangedElsewhere { .. }), "{error}");
        }
        assert_eq!(fs::read(&path)?, before);
    }
    Ok(())
}

#[test]
fn h5py_reads_every_file_that_is_left_behind() -> Outcome {
    let Ok(python) = std::env::var("CORALLITE_TEST_PYTHON") else {
        eprintln!("skipped: CORALLITE_TEST_PYTHON is not set");
        return Ok(());
    };
    let directory = tempfile::tempdir()?;
    let path = directory.path().join("store.h5");
    for hot in [false, true] {
        let scene = scene(hot)?;
        fs::write(&path, &scene.files[store()])?;
        let script = "import h5py, sys\n\
            with h5py.File(sys.argv[1]) as f:\n\
            \x20   d = [k for k in f if k.startswith('chunked')]\n\
            \x20   print(f['config'].attrs['commit'], len(d), int(f[d[0]][5]), f['group2'].attrs['text'][:8])\n";
        let output = std::process::Command::new(&python).args(["-c", script]).arg(&path).output()?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let words: Vec<&str> = text.split_whitespace().collect();
        // The file itself is at the last applied commit.
        let number: u64 = words[0].parse()?;
        assert!(if hot { number < scene.newest } else { number == scene.newest }, "{text}");
        let chunked = scene.commits[&number].iter().find(|(name, _)| name.starts_with("chunked")).ok_or("none")?;
        assert_eq!(words[2].parse::<i32>()?, chunked.1.data.as_ref().ok_or("no data")?[5]);
        assert_eq!(words[3], "change");
    }
    Ok(())
}

#[test]
fn a_version_that_is_not_kept_is_named() -> Outcome {
    let scene = scene(false)?;
    let storage = on(&SimulatedDisk::with_files(scene.files));
    storage.open(Mode::ReadWrite, false)?;
    assert!(storage.versions()?.iter().all(|commit| commit.number.0 > 0 && commit.bytes >= PAGE_SIZE));
    for wanted in [0, 1, scene.newest + 1] {
        let error = storage.rollback_to_version(CommitNumber(wanted)).err().ok_or("rolled back")?;
        assert!(matches!(error, Error::NoSuchCommit { .. }), "{error}");
    }
    Ok(())
}
