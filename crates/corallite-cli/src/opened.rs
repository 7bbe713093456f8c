//! Opening a store for a command, and leaving it as it has to be left.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use corallite::file::{self, Mode, Storage};
use corallite::links::LinksOptions;
use corallite::weights::Hdf5Options;
use corallite::{Error, Store};

use crate::exit::{Exit, Failure};
use crate::output::Output;

/// Opens a store to look at it. It is not changed; only what a crash left half applied is finished.
pub(crate) fn to_read(path: &Path) -> Result<Store, Failure> {
    let store = match Store::open_read_only(path) {
        // The first `add` was killed before its commit: there is a store, and nothing in it.
        Err(Error::File(file::Error::Empty { .. })) if std::fs::metadata(path).is_ok_and(|found| found.len() > 0) => {
            Store::memory().map_err(|error| refused(path, error))?
        }
        opened => opened.map_err(|error| refused(path, error))?,
    };
    let has = |name: &str| store.storage().contains(name).map_err(Failure::opening);
    if has("checkpoints")? && !has("weights")? {
        let sentence = format!("{} has checkpoints but its weights are gone; restore it from a backup", path.display());
        return Err(Failure::new(Exit::BadStore, sentence));
    }
    Ok(store)
}

/// Changes an existing store. When `change` fails, the file is as it was before.
pub(crate) fn to_change<T>(
    path: &Path,
    output: &Output,
    change: impl FnOnce(&mut Store) -> Result<T, Failure>,
) -> Result<T, Failure> {
    with_options(path, Hdf5Options::new().mode(Mode::ReadWrite), output, change)
}

/// What a change takes in the log.
pub(crate) const RECORD_BYTES: u64 = 64;

/// How links are opened by a command that changes a few: a small log is made faster than a large one.
pub(crate) fn few_links(changes: usize) -> LinksOptions {
    let log = 2 * RECORD_BYTES * (changes as u64 + 64);
    LinksOptions::new().log_bytes(log.max(256 << 10))
}

/// As [`to_change`], with options; a store that the opening makes is gone again when `change` fails.
pub(crate) fn with_options<T>(
    path: &Path,
    options: Hdf5Options,
    output: &Output,
    change: impl FnOnce(&mut Store) -> Result<T, Failure>,
) -> Result<T, Failure> {
    with_links(path, options, few_links(0), output, change)
}

/// As [`with_options`], with options for the links as well.
pub(crate) fn with_links<T>(
    path: &Path,
    options: Hdf5Options,
    links: LinksOptions,
    output: &Output,
    change: impl FnOnce(&mut Store) -> Result<T, Failure>,
) -> Result<T, Failure> {
    let store = Store::open_with(path, options).map_err(|error| refused(path, error))?;
    let mut store = store.links_options(links);
    let outcome = change(&mut store);
    let behind = is_behind(store.storage());
    // What was changed is committed, and a command leaves nothing else pending that would be worth a commit; so closing
    // only moves the commit from the journal into the file, and links from their log.
    let closed = store.abandon();
    let value = outcome?;
    if let Err(error) = closed {
        let failure = Failure::from(error);
        output.warning(&format!("the change is committed, but tidying up failed: {}", failure.sentence()));
    } else if behind && beside(path, "-journal").exists() {
        output.warning(&format!(
            "the change is committed, but another program has {0} open; until the next command that writes it is in \
             {0}-journal only: programs other than Corallite do not see it, and a copy needs both files",
            path.display()
        ));
    }
    Ok(value)
}

/// Why a store could not be opened.
pub(crate) fn refused(path: &Path, error: Error) -> Failure {
    let unreadable = matches!(
        &error,
        Error::File(file::Error::Empty { .. } | file::Error::NotHdf5 { .. } | file::Error::Hdf5 { .. })
    );
    if unreadable && std::fs::metadata(path).is_ok_and(|found| found.is_file() && found.len() == 0) {
        // An empty file, or one whose first `add` was killed before its commit.
        let sentence = format!("{} is empty; `corallite add` makes it a store", path.display());
        return Failure::new(Exit::BadStore, sentence);
    }
    Failure::opening(error)
}

fn is_behind(storage: &Storage) -> bool {
    matches!((storage.applied_version(), storage.version()), (Ok(applied), Ok(newest)) if applied < newest)
}

/// The path of a file that may lie beside a store.
pub(crate) fn beside(store: &Path, suffix: &str) -> PathBuf {
    let mut path = OsString::from(store);
    path.push(suffix);
    path.into()
}
