//! The file: opening and creating it, and what can be wrong with it.

use std::fmt;
use std::fs::{self, File};
use std::io::{self, ErrorKind, Read};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use redb::{Builder, Database, DatabaseError, ReadableDatabase, TableDefinition, TableHandle, WriteTransaction};

use crate::backend::directory::{create_folders, sync_folder};
use crate::error::{Error, Result};

/// Values: a checksum of key and value, then the value.
pub(super) const VALUES: TableDefinition<'static, &[u8], &[u8]> = TableDefinition::new("values");

/// Streams: a checksum, the number of the stream and its length.
pub(super) const STREAMS: TableDefinition<'static, &[u8], &[u8]> = TableDefinition::new("streams");

/// The chunks of a stream, by its number and theirs: a checksum, then the bytes.
pub(super) const CHUNKS: TableDefinition<'static, (u64, u64), &[u8]> = TableDefinition::new("chunks");

/// Numbers of streams that are not finished, or not any more; their chunks are removed.
pub(super) const UNFINISHED: TableDefinition<'static, u64, ()> = TableDefinition::new("unfinished");

/// Numbers about the file.
pub(super) const ABOUT: TableDefinition<'static, &str, u64> = TableDefinition::new("about");

/// The number of the next stream, in [`ABOUT`]. None is used twice.
pub(super) const NEXT: &str = "next stream";

/// The version of all of this, in [`ABOUT`].
const FORMAT: &str = "corallite format";
const VERSION: u64 = 1;

/// What every redb file begins with.
const MAGIC: &[u8; 9] = b"redb\x1a\x0a\xa9\x0d\x0a";

/// The most memory for pages.
const CACHE: usize = 256 << 20;

/// Why something failed: redb's error, or one of ours.
#[derive(Debug)]
pub(super) enum Failure {
    Redb(redb::Error),
    Own(Error),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Own(error)
    }
}

macro_rules! from_redb {
    ($($error:ident),*) => {
        $(impl From<redb::$error> for Failure {
            fn from(error: redb::$error) -> Self {
                Self::Redb(error.into())
            }
        })*
    };
}
from_redb!(StorageError, TableError, TransactionError, CommitError, DatabaseError, SetDurabilityError);

/// Runs what uses redb, which panics on some damaged files.
pub(super) fn guarded<T>(
    path: &Path,
    action: &'static str,
    work: impl FnOnce() -> std::result::Result<T, Failure>,
) -> Result<T> {
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(Failure::Own(error))) => Err(error),
        Ok(Err(Failure::Redb(redb::Error::Corrupted(problem)))) => Err(damaged(path, problem)),
        Ok(Err(Failure::Redb(redb::Error::DatabaseClosed))) => Err(Error::Closed { location: location(path) }),
        Ok(Err(Failure::Redb(error))) => Err(Error::backend(action, location(path), error)),
        Err(panic) => {
            let text = panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied());
            Err(damaged(path, format!("redb stopped with `{}`", text.unwrap_or("no reason"))))
        }
    }
}

/// What errors call it.
pub(super) fn location(path: &Path) -> String {
    format!("the dbm file {}", path.display())
}

pub(super) fn damaged(path: &Path, problem: impl fmt::Display) -> Error {
    let location = path.parent().unwrap_or(path).display().to_string();
    let key = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    Error::Malformed {
        location,
        key,
        problem: format!("{problem}; restore it from a copy, or remove it to begin anew"),
    }
}

/// Opens a file, and creates it where there is none.
pub(super) fn open(path: &Path, is_checked: bool) -> Result<Database> {
    if !exists(path)? {
        create(path)?;
    }
    check_beginning(path)?;
    guarded(path, "open", || {
        let mut builder = Builder::new();
        builder.set_cache_size(CACHE).set_check_integrity_on_open(is_checked);
        let database = builder.open(path).map_err(|error| match error {
            DatabaseError::DatabaseAlreadyOpen => {
                let source = "it is open already, here or in another process; close it there first";
                Failure::Own(Error::backend("open", location(path), source))
            }
            error => error.into(),
        })?;
        check_format(path, &database)?;
        Ok(database)
    })
}

fn exists(path: &Path) -> Result<bool> {
    path.try_exists().map_err(|error| Error::io("open", location(path), error))
}

/// Creates it beside its place, so that one whose creation was interrupted is not taken for a damaged one.
fn create(path: &Path) -> Result<()> {
    let failed = |error| Error::io("create", location(path), error);
    let parent = path.parent().unwrap_or(Path::new("/"));
    create_folders(parent)?;
    let folder = File::open(parent).map_err(failed)?;
    match folder.lock() {
        // Then only one process should create it.
        Err(error) if error.kind() != ErrorKind::Unsupported => return Err(failed(error)),
        _ => {}
    }
    if exists(path)? {
        return Ok(());
    }
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let new = path.with_file_name(name);
    match fs::remove_file(&new) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(failed(error)),
        _ => {}
    }
    guarded(&new, "create", || {
        let database = Builder::new().set_cache_size(CACHE).create(&new)?;
        let transaction = database.begin_write()?;
        create_tables(&transaction)?;
        transaction.open_table(ABOUT)?.insert(FORMAT, VERSION)?;
        transaction.commit()?;
        Ok(database.close()?)
    })?;
    fs::rename(&new, path).map_err(failed)?;
    sync_folder(parent)
}

/// Creates those that are missing.
pub(super) fn create_tables(transaction: &WriteTransaction) -> std::result::Result<(), Failure> {
    transaction.open_table(VALUES)?;
    transaction.open_table(STREAMS)?;
    transaction.open_table(CHUNKS)?;
    transaction.open_table(UNFINISHED)?;
    transaction.open_table(ABOUT)?;
    Ok(())
}

fn check_beginning(path: &Path) -> Result<()> {
    let mut beginning = Vec::new();
    let read = File::open(path).and_then(|file| file.take(MAGIC.len() as u64).read_to_end(&mut beginning));
    match read {
        Err(error) if error.kind() == ErrorKind::IsADirectory => {
            let source = io::Error::other("it is a folder; name a file, or a directory backend's place");
            Err(Error::io("open", location(path), source))
        }
        Err(error) => Err(Error::io("open", location(path), error)),
        Ok(0) => Err(damaged(path, "it is empty")),
        Ok(_) if beginning != MAGIC => Err(damaged(path, "it is no file of redb")),
        Ok(_) => Ok(()),
    }
}

fn check_format(path: &Path, database: &Database) -> std::result::Result<(), Failure> {
    let transaction = database.begin_read()?;
    let version = match transaction.open_table(ABOUT) {
        Ok(about) => about.get(FORMAT)?.map(|version| version.value()),
        Err(redb::TableError::Storage(error)) => return Err(error.into()),
        Err(_) => None,
    };
    match version {
        Some(VERSION) => Ok(()),
        Some(version) => {
            let source = format!("its format is {version}, this program knows {VERSION}; use a newer program");
            Err(Error::backend("open", location(path), source).into())
        }
        None => {
            let mut tables: Vec<String> = transaction.list_tables()?.map(|table| table.name().to_owned()).collect();
            tables.sort();
            let source = format!("it is another program's, with the tables [{}]; name another file", tables.join(", "));
            Err(Error::backend("open", location(path), source).into())
        }
    }
}

/// How many bytes a checksum has.
pub(super) const CHECKSUM: usize = 4;

/// The checksum of what is stored under a key.
pub(super) fn checksum(key: &[u8], value: &[u8]) -> [u8; CHECKSUM] {
    crc32c::crc32c_append(crc32c::crc32c(key), value).to_le_bytes()
}

/// What is stored under a key, without its checksum; `None` if that is not its own.
pub(super) fn unsealed<'a>(key: &[u8], sealed: &'a [u8]) -> Option<&'a [u8]> {
    let (found, value) = sealed.split_first_chunk::<CHECKSUM>()?;
    (*found == checksum(key, value)).then_some(value)
}
