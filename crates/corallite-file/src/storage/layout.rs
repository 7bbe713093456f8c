//! The groups every store has, and what `/config` says.

use hdf5_metno::types::VarLenUnicode;
use hdf5_metno::{File, Group};

use super::options::Recognize;
use super::{Storage, explain};
use crate::error::{Error, Result};
use crate::page::CommitNumber;
use crate::pager::Pager;

/// The newest version of the store's layout, which this program reads up to.
pub const FORMAT_VERSION: i64 = 3;

/// The version of a new store. What needs a newer one asks for it: a store without it stays readable by older programs.
const FIRST_VERSION: i64 = 1;

const VERSION_ATTRIBUTE: &str = "format_version";
const STRING_ATTRIBUTE: &str = "version_string";
const COMMIT_ATTRIBUTE: &str = "commit";

/// Checks that a file is a store of a version understood here.
pub(super) fn check(pager: &Pager, file: &File, adopt: Option<Recognize>) -> Result<()> {
    let version = match version(pager, file)? {
        Some(version) => version,
        None if adopt.is_some_and(|recognize| recognize(file)) => return Ok(()),
        None => return Err(Error::ForeignFile { path: pager.path().to_owned() }),
    };
    if version > FORMAT_VERSION {
        return Err(Error::NewerFormat {
            path: pager.path().to_owned(),
            what: "store",
            found: version as u64,
            supported: FORMAT_VERSION as u64,
        });
    }
    if version < 1 {
        return Err(Error::damaged(
            pager.path(),
            0,
            format!("/config says format version {version}; restore the file from a backup"),
        ));
    }
    Ok(())
}

fn version(pager: &Pager, file: &File) -> Result<Option<i64>> {
    if !exists(pager, file, Storage::CONFIG_GROUP)? {
        return Ok(None);
    }
    let read = || {
        let config = file.group(Storage::CONFIG_GROUP)?;
        if !config.attr_names()?.iter().any(|name| name == VERSION_ATTRIBUTE) {
            return Ok(None);
        }
        config.attr(VERSION_ATTRIBUTE)?.read_scalar::<i64>().map(Some)
    };
    read().map_err(|error| explain(pager, "read /config", &error))
}

/// Takes over the commit number the file gives itself, when no journal or trailer says more.
pub(super) fn number(pager: &Pager, file: &File) {
    let read = || file.group(Storage::CONFIG_GROUP)?.attr(COMMIT_ATTRIBUTE)?.read_scalar::<i64>();
    // Files of other origin have none; they begin at 0.
    if let Ok(number) = read() {
        pager.adopt_number(CommitNumber(u64::try_from(number).unwrap_or(0)));
    }
}

/// Notes the number of the commit about to be made.
pub(super) fn set_commit(pager: &Pager, file: &File, number: CommitNumber) -> Result<()> {
    let write = || {
        let config = file.group(Storage::CONFIG_GROUP)?;
        let attribute = match config.attr(COMMIT_ATTRIBUTE) {
            Ok(attribute) => attribute,
            Err(_) => config.new_attr::<i64>().create(COMMIT_ATTRIBUTE)?,
        };
        attribute.write_scalar(&(number.0 as i64))
    };
    write().map_err(|error| explain(pager, "write /config", &error))
}

/// Creates what is missing of the core groups and of `/config`.
pub(super) fn ensure(pager: &Pager, file: &File) -> Result<()> {
    for name in [Storage::CONFIG_GROUP, Storage::NODES_GROUP, Storage::VALUES_GROUP, Storage::BUCKETS_GROUP] {
        group(pager, file, name)?;
    }
    if version(pager, file)?.is_some() {
        return Ok(());
    }
    let write = || {
        let config = file.group(Storage::CONFIG_GROUP)?;
        config.new_attr::<i64>().create(VERSION_ATTRIBUTE)?.write_scalar(&FIRST_VERSION)?;
        let text = concat!("Corallite ", env!("CARGO_PKG_VERSION"));
        let text: VarLenUnicode = text.parse().map_err(|error| hdf5_metno::Error::Internal(format!("{error:?}")))?;
        config.new_attr::<VarLenUnicode>().create(STRING_ATTRIBUTE)?.write_scalar(&text)
    };
    write().map_err(|error| explain(pager, "write /config", &error))
}

/// Raises the version of the layout to `version`, unless it is that or newer.
pub(super) fn require(pager: &Pager, file: &File, version: i64) -> Result<()> {
    if self::version(pager, file)?.is_some_and(|found| found >= version) {
        return Ok(());
    }
    let write = || file.group(Storage::CONFIG_GROUP)?.attr(VERSION_ATTRIBUTE)?.write_scalar(&version);
    write().map_err(|error| explain(pager, "write /config", &error))
}

/// The group at `name`, created with those above it when absent.
pub(super) fn group(pager: &Pager, file: &File, name: &str) -> Result<Group> {
    if exists(pager, file, name)? {
        return file.group(name).map_err(|error| explain(pager, &format!("open the group {name}"), &error));
    }
    file.create_group(name).map_err(|error| explain(pager, &format!("create the group {name}"), &error))
}

/// Whether a path from the root names something.
pub(super) fn exists(pager: &Pager, file: &File, path: &str) -> Result<bool> {
    let mut at = String::new();
    for part in path.split('/').filter(|part| !part.is_empty()) {
        at.push('/');
        at.push_str(part);
        if !file.link_exists(&at) {
            // The binding answers false for errors as well; a broken disk must not look like an absent group.
            return pager.take_failure().map_or(Ok(false), Err);
        }
    }
    Ok(true)
}
