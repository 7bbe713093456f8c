//! What is compared: stores of objects with indexes, and of files.

use std::path::Path;

use anyhow::{Result, bail};
use clap::ValueEnum;

use crate::corallite::{Corallite, RawFiles};
use crate::peers::{files, redb::Redb, sqlite::Sqlite};
use crate::workload::{Found, Object};

/// Objects with indexes. Dropping it closes it.
pub(crate) trait Engine {
    /// Stores new objects with their index entries, all in one durable batch.
    fn save(&self, objects: Vec<Object>) -> Result<()>;

    /// Reads an object, and gives its `steps`.
    fn get(&self, oid: &str) -> Result<u64>;

    /// Keeps objects in use, where the engine has such a thing.
    fn hold(&mut self, _oids: &[String]) -> Result<()> {
        Ok(())
    }

    /// Reads all objects of which an indexed property has this value.
    fn find(&self, property: &str, value: &str) -> Result<Found>;

    /// Builds the indexes again; says how many entries they have.
    fn rebuild(&self) -> Result<u64>;
}

/// One file that is kept somewhere.
pub(crate) trait Files {
    /// Stores a file, durably.
    fn put(&mut self, source: &Path) -> Result<()>;

    /// Reads it and checks its BLAKE3; says how long it is.
    fn take(&self) -> Result<u64>;
}

/// Everything that is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(crate) enum Kind {
    Dbm,
    Store,
    Directory,
    Sqlite,
    Redb,
    Files,
}

impl Kind {
    /// The name on the command line and of its folder.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Dbm => "dbm",
            Self::Store => "store",
            Self::Directory => "directory",
            Self::Sqlite => "sqlite",
            Self::Redb => "redb",
            Self::Files => "files",
        }
    }

    /// What reports call it.
    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::Dbm => "dbm backend",
            Self::Store => "store file",
            Self::Directory => "directory backend",
            Self::Sqlite => "SQLite",
            Self::Redb => "redb, raw",
            Self::Files => "the file system, raw",
        }
    }

    /// Opens what is in the folder, or creates it there.
    pub(crate) fn open(self, folder: &Path) -> Result<Box<dyn Engine>> {
        std::fs::create_dir_all(folder)?;
        Ok(match self {
            Self::Dbm | Self::Store => Box::new(Corallite::open(self, folder)?.indexed()?),
            // Each index entry would be a file.
            Self::Directory => Box::new(Corallite::open(self, folder)?),
            Self::Sqlite => Box::new(Sqlite::open(folder)?),
            Self::Redb => Box::new(Redb::open(folder)?),
            Self::Files => Box::new(files::Documents::open(folder)?),
        })
    }

    /// Opens what keeps files in the folder.
    pub(crate) fn open_files(self, folder: &Path) -> Result<Box<dyn Files>> {
        std::fs::create_dir_all(folder)?;
        Ok(match self {
            Self::Dbm | Self::Store | Self::Directory => Box::new(RawFiles::open(self, folder)?),
            Self::Files => Box::new(files::Copy::open(folder)),
            Self::Sqlite | Self::Redb => bail!("{} keeps no files", self.title()),
        })
    }
}
