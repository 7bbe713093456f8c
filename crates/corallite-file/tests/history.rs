//! Kept commits and freed space: what can be rolled back to is whole, and what is free is used again, whatever
//! happens in between. Each test here is a fault that the random work of `crash.rs` once found.

mod common;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use common::model::{self, Model, difference};
use common::scene::{change, direct};
use common::{Outcome, bytes, store};
use corallite_file::{Error, LossMode, Mode, Options, SimulatedDisk, Storage};

fn storage(disk: &SimulatedDisk, options: Options) -> Storage {
    Storage::on_disk(Arc::new(disk.clone()), store(), options.lock_wait(Duration::from_millis(1)))
}

#[test]
fn only_what_is_whole_is_offered_after_a_crash() -> Outcome {
    // With a history of one, space freed two commits ago is written directly, while the journal still knows of both.
    let disk = SimulatedDisk::new();
    let live = storage(&disk, Options::new().history(1));
    live.open(Mode::Append, false)?;
    let (mut model, mut commits) = (Model::new(), HashMap::new());
    for number in 1..12 {
        direct(&live, &mut model, number)?;
        change(&live, &mut model, number)?;
        let old = format!("direct{}", number - 1);
        if model.remove(&old).is_some() {
            live.file()?.unlink(&old)?;
        }
        commits.insert(live.version()?.0, None);
        commits.insert(live.flush()?.0, Some(model.clone()));
        live.reclaim()?;
    }
    let image = disk.crash(disk.changes(), LossMode::KeepAll, 0);
    let after = storage(&SimulatedDisk::with_files(image.files.clone()), Options::new());
    after.open(Mode::ReadWrite, false)?;
    let kept = after.versions()?;
    assert_eq!(kept.len(), 2);
    for commit in kept {
        let after = storage(&SimulatedDisk::with_files(image.files.clone()), Options::new());
        after.open(Mode::ReadWrite, false)?;
        after.rollback_to_version(commit.number)?;
        let found = model::read(&after.file()?)?;
        if let Some(Some(wanted)) = commits.get(&commit.number.0) {
            assert_eq!(difference(&found, wanted), None);
        }
    }
    Ok(())
}

#[test]
fn a_smaller_history_does_not_cut_off_what_the_journal_still_offers() -> Outcome {
    let disk = SimulatedDisk::new();
    let first = storage(&disk, Options::new().history(3));
    first.open(Mode::Append, false)?;
    let mut model = Model::new();
    direct(&first, &mut model, 1)?;
    let long = (first.version()?, model.clone());
    first.file()?.unlink("direct1")?;
    first.flush()?;
    let image = disk.crash(disk.changes(), LossMode::KeepAll, 0);

    let disk = SimulatedDisk::with_files(image.files);
    let second = storage(&disk, Options::new().history(0));
    second.open(Mode::ReadWrite, false)?;
    second.close()?;
    for cut in 0..=disk.changes() {
        let image = disk.crash(cut, LossMode::KeepAll, 0);
        let third = storage(&SimulatedDisk::with_files(image.files), Options::new());
        third.open(Mode::ReadWrite, false)?;
        if third.rollback_to_version(long.0).is_ok() {
            assert_eq!(difference(&model::read(&third.file()?)?, &long.1), None, "cut {cut}");
        }
    }
    Ok(())
}

#[test]
fn space_that_was_free_before_opening_is_used_again() -> Outcome {
    let disk = SimulatedDisk::new();
    let options = || Options::new().history(0);
    let mut model = Model::new();
    let live = storage(&disk, options());
    live.open(Mode::Append, false)?;
    direct(&live, &mut model, 1)?;
    direct(&live, &mut model, 2)?;
    live.close()?;
    let before = bytes(&disk, store())?.len();
    for round in 0..20 {
        live.open(Mode::ReadWrite, false)?;
        // Between two others, so that the end of the file does not move.
        live.file()?.unlink(&format!("direct{}", round + 1))?;
        live.close()?;
        live.open(Mode::ReadWrite, false)?;
        direct(&live, &mut model, round + 3)?;
        live.close()?;
    }
    let after = bytes(&disk, store())?.len();
    assert!(after < before + 60_000, "{before} bytes became {after}");
    Ok(())
}

#[test]
fn what_is_pending_keeps_the_history_from_being_expired() -> Outcome {
    let disk = SimulatedDisk::new();
    let live = storage(&disk, Options::new().dirty_bytes(4096).journal_bytes(1));
    live.open(Mode::Append, false)?;
    let mut model = Model::new();
    change(&live, &mut model, 1)?;
    live.flush()?;
    change(&live, &mut model, 2)?;
    assert!(matches!(live.expire_versions(), Err(Error::Usage { .. })));
    live.flush()?;
    live.expire_versions()?;
    assert_eq!(live.versions()?.len(), 1);
    live.close()?;
    live.open(Mode::Read, false)?;
    assert_eq!(difference(&model::read(&live.file()?)?, &model), None);
    Ok(())
}

#[test]
fn commits_are_counted_on_after_a_rollback_to_an_earlier_one() -> Outcome {
    let disk = SimulatedDisk::new();
    let live = storage(&disk, Options::new());
    live.open(Mode::Append, false)?;
    let mut model = Model::new();
    change(&live, &mut model, 1)?;
    let first = live.flush()?;
    change(&live, &mut model, 2)?;
    live.flush()?;
    let newest = live.rollback_to_version(first)?;
    live.close()?;
    // What any program that changes the file leaves of the trailer.
    let mut main = bytes(&disk, store())?;
    let end = u64::from_le_bytes(main[28..36].try_into()?) as usize;
    main.truncate(end);
    let bare = storage(&SimulatedDisk::with_files(HashMap::from([(store().to_owned(), main)])), Options::new());
    for mode in [Mode::Read, Mode::ReadWrite] {
        bare.open(mode, false)?;
        assert_eq!(bare.version()?, newest, "{mode}");
        assert_eq!(bare.snapshot()?.version(), newest, "{mode}");
        bare.close()?;
    }
    Ok(())
}

#[test]
fn a_full_disk_while_packing_or_applying_only_delays() -> Outcome {
    let disk = SimulatedDisk::new();
    let live = storage(&disk, Options::new().journal_bytes(1));
    live.open(Mode::Append, false)?;
    let mut model = Model::new();
    let mut number = 0;
    // Until a commit itself no longer fits, there is no other error, and none makes the storage unusable.
    disk.inject(Some(corallite_file::Fault::Capacity(2 << 20)));
    loop {
        number += 1;
        let before = model.clone();
        match change(&live, &mut model, number).and_then(|()| Ok(live.flush()?)) {
            Ok(_) => {}
            Err(error) => {
                assert!(matches!(error.downcast_ref(), Some(Error::DiskFull { .. })), "{error}");
                model = before;
                break;
            }
        }
    }
    assert!(number > 5, "{number}");
    disk.inject(None);
    change(&live, &mut model, 1000)?;
    live.flush()?;
    live.close()?;
    live.open(Mode::Read, false)?;
    assert_eq!(difference(&model::read(&live.file()?)?, &model), None);
    Ok(())
}
