//! How the command can end: the exit codes, and which error is which.
//!
//! The codes are a contract with scripts; they are listed in `corallite --help` and must not change. The sentences are
//! for people, and speak of commands where the library speaks of modes and methods.

use std::io::{self, ErrorKind};
use std::path::Path;
use std::process::ExitCode;

use corallite::{Error, file, links, objects, weights};

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Exit {
    /// It did what it was asked to.
    Ok = 0,
    /// Damage was found.
    Damaged = 1,
    /// The command line is wrong.
    Usage = 2,
    /// An input file is bad.
    BadInput = 3,
    /// The store cannot be used.
    BadStore = 4,
    /// Another program is writing the store.
    Busy = 5,
    /// A name is not there, or is taken.
    Name = 6,
    /// The disk is full or failed.
    Io = 7,
    /// What was compared differs, and the exit code was to say so.
    Differs = 8,
    /// A signal ended it.
    Interrupted = 130,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// Why a command failed: a code for scripts and a sentence for people.
#[derive(Debug)]
pub(crate) struct Failure {
    exit: Exit,
    sentence: String,
}

impl Failure {
    /// A failure of this command's own.
    pub(crate) fn new(exit: Exit, sentence: impl Into<String>) -> Self {
        Self { exit, sentence: sentence.into() }
    }

    /// The code.
    pub(crate) fn exit(&self) -> Exit {
        self.exit
    }

    /// The sentence.
    pub(crate) fn sentence(&self) -> &str {
        &self.sentence
    }

    /// An error of opening the store: whatever is wrong with it, it cannot be used.
    pub(crate) fn opening(error: impl Into<Error>) -> Self {
        let error = error.into();
        let exit = match exit_of(&error) {
            Exit::Damaged => Exit::BadStore,
            _ if matches!(error, Error::Weights(weights::Error::Io { .. })) => Exit::BadStore,
            exit => exit,
        };
        let mut sentence = sentence(&error);
        if let Error::File(file::Error::Hdf5 { path, detail, .. }) = &error {
            sentence = format!("{} cannot be opened: {detail}; restore it from a backup", path.display());
        }
        Self { exit, sentence }
    }

    /// With a clause added to the sentence.
    pub(crate) fn and(mut self, clause: &str) -> Self {
        self.sentence = format!("{}; {clause}", self.sentence);
        self
    }

    /// An error of reading an input file.
    pub(crate) fn input(error: weights::Error) -> Self {
        let sentence = sentence(&error.into());
        Self { exit: Exit::BadInput, sentence }
    }

    /// The system's error at something that is neither the store nor a model file.
    pub(crate) fn io(what: &str, error: &io::Error) -> Self {
        Self::new(Exit::Io, format!("{what}: {error}; nothing was changed, try again"))
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self { exit: exit_of(&error), sentence: sentence(&error) }
    }
}

impl From<weights::Error> for Failure {
    fn from(error: weights::Error) -> Self {
        Error::from(error).into()
    }
}

impl From<links::Error> for Failure {
    fn from(error: links::Error) -> Self {
        Error::from(error).into()
    }
}

impl From<file::Error> for Failure {
    fn from(error: file::Error) -> Self {
        Error::from(error).into()
    }
}

/// The code of an error that comes up while a store is open.
fn exit_of(error: &Error) -> Exit {
    match error {
        Error::File(error) => exit_of_file(error),
        Error::Weights(error) => exit_of_weights(error),
        Error::Links(error) => exit_of_links(error),
        Error::Objects(error) => exit_of_objects(error),
        // What a later version adds.
        _ => Exit::BadStore,
    }
}

fn exit_of_weights(error: &weights::Error) -> Exit {
    use weights::Error;
    match error {
        Error::Io { .. } => Exit::Io,
        Error::Safetensors { .. }
        | Error::UnknownDtype { .. }
        | Error::DuplicateName { .. }
        | Error::ShapeMismatch { .. }
        | Error::Unsupported { .. }
        | Error::InvalidDict { .. } => Exit::BadInput,
        Error::InvalidName { .. } => Exit::Usage,
        Error::Conflict { .. }
        | Error::NotFound { .. }
        | Error::AlreadyExists { .. }
        | Error::InUse { .. }
        | Error::InvalidKey { .. } => Exit::Name,
        Error::Damaged { .. } | Error::Filter { .. } | Error::DamagedCheckpoint { .. } => Exit::Damaged,
        Error::Cancelled => Exit::Interrupted,
        Error::File(error) => exit_of_file(error),
        // What a later version adds.
        _ => Exit::BadStore,
    }
}

fn exit_of_links(error: &links::Error) -> Exit {
    use links::Error;
    match error {
        Error::File(error) => exit_of_file(error),
        Error::Io { source, .. } => exit_of_io(source),
        Error::DiskFull { .. } | Error::Poisoned { .. } => Exit::Io,
        Error::Damaged { .. } | Error::DamagedLog { .. } | Error::MissingLog { .. } => Exit::Damaged,
        Error::TooLarge { .. } | Error::Key { .. } => Exit::Usage,
        _ => Exit::BadStore,
    }
}

fn exit_of_objects(error: &objects::Error) -> Exit {
    use objects::Error;
    match error {
        Error::Type { .. }
        | Error::Declaration { .. }
        | Error::Unknown { .. }
        | Error::Query { .. }
        | Error::Key { .. }
        | Error::Usage(_) => Exit::Usage,
        Error::Exists { .. }
        | Error::Absent { .. }
        | Error::Changed { .. }
        | Error::Conflict { .. }
        | Error::NotUnique { .. }
        | Error::Referred { .. }
        | Error::Dangling { .. } => Exit::Name,
        Error::Malformed { .. } => Exit::Damaged,
        Error::Io { source, .. } => match in_store(source.get_ref()) {
            Some(error) => exit_of_file(error),
            None => exit_of_io(source),
        },
        Error::Backend { source, .. } => in_store(Some(source.as_ref())).map_or(Exit::BadStore, exit_of_file),
        _ => Exit::BadStore,
    }
}

/// The file layer's error behind one of the objects.
fn in_store<'e>(source: Option<&'e (dyn std::error::Error + Send + Sync + 'static)>) -> Option<&'e file::Error> {
    source?.downcast_ref()
}

fn exit_of_io(source: &io::Error) -> Exit {
    match source.kind() {
        ErrorKind::PermissionDenied
        | ErrorKind::ReadOnlyFilesystem
        | ErrorKind::NotFound
        | ErrorKind::NotADirectory
        | ErrorKind::InvalidFilename => Exit::BadStore,
        _ => Exit::Io,
    }
}

fn exit_of_file(error: &file::Error) -> Exit {
    use file::Error as E;
    match error {
        E::Io { source, .. } => exit_of_io(source),
        E::DiskFull { .. } | E::Poisoned { .. } => Exit::Io,
        E::Busy { .. } | E::Locked { .. } => Exit::Busy,
        E::Damaged { .. } | E::Hdf5 { .. } => Exit::Damaged,
        E::NoSuchCommit { .. } => Exit::Name,
        _ => Exit::BadStore,
    }
}

/// One sentence: what is wrong, and what to do.
fn sentence(error: &Error) -> String {
    match error {
        Error::File(error) => file_sentence(error),
        Error::Weights(error) => weights_sentence(error),
        Error::Links(error) => links_sentence(error),
        Error::Objects(error) => objects_sentence(error),
        other => other.to_string(),
    }
}

fn weights_sentence(error: &weights::Error) -> String {
    use weights::Error;
    match error {
        Error::AlreadyExists { name } => format!(
            "a checkpoint named `{name}` already exists; choose another name with --name, or remove it with \
             `corallite rm`"
        ),
        Error::NotFound { what } => format!("{what} was not found; `corallite ls` lists what the store holds"),
        Error::Cancelled => "interrupted; the store is as it was before".to_owned(),
        other => other.to_string(),
    }
}

fn objects_sentence(error: &objects::Error) -> String {
    let within = match error {
        objects::Error::Backend { source, .. } => in_store(Some(source.as_ref())),
        objects::Error::Io { source, .. } => in_store(source.get_ref()),
        _ => None,
    };
    within.map_or_else(|| error.to_string(), file_sentence)
}

fn links_sentence(error: &links::Error) -> String {
    use links::Error as E;
    match error {
        E::DamagedLog { .. } => {
            // The library's way out is an option that no command has.
            let text = error.to_string();
            let problem = text.split("; everything before is intact").next().unwrap_or_default();
            format!(
                "{problem}; everything before is intact: `corallite restore` brings back a backup, and `corallite migrate \
                 --salvage` gives up what follows"
            )
        }
        E::MissingLog { path } => format!(
            "{} is missing, and with it the links that were changed last; put it back beside its store, bring back a backup with \
             `corallite restore`, or give them up with `corallite migrate --salvage`",
            path.display()
        ),
        E::Io { .. } => format!("{error}; check the disk and try again"),
        other => other.to_string(),
    }
}

fn file_sentence(error: &file::Error) -> String {
    use file::Error as E;
    let shown = |path: &Path| path.display().to_string();
    match error {
        E::NotFound { path } => {
            format!("{} does not exist; `corallite add` and `corallite link` create a store", shown(path))
        }
        E::NotHdf5 { path } => {
            format!("{} is not an HDF5 file; give the path of a store (nothing was changed)", shown(path))
        }
        E::NotAFile { path } => format!("{} is not a regular file; give the path of a store", shown(path)),
        E::ForeignFile { path } => format!(
            "{} is an HDF5 file but not a Corallite store; give the path of a store (nothing was changed)",
            shown(path)
        ),
        E::Busy { path, holder } => {
            let who = holder.map_or_else(|| "another process".to_owned(), |pid| format!("process {pid}"));
            format!("{} is being written by {who}; try again when it has finished", shown(path))
        }
        E::ReadOnly { path } => {
            format!("{} cannot be written; ask its owner for permission, or work on a copy", shown(path))
        }
        E::Io { source, .. } => {
            let advice = match source.kind() {
                ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => {
                    "ask its owner for permission, or work on a copy"
                }
                ErrorKind::NotFound | ErrorKind::NotADirectory => "check that its folder exists",
                _ => "check the disk and try again",
            };
            format!("{error}; {advice}")
        }
        E::NoSuchCommit { .. } => format!("{error}; `corallite log` lists them"),
        E::Hdf5 { .. } => {
            format!("{error}; it may be damaged: see `corallite verify`, or restore it from a backup")
        }
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use corallite::weights::{Error as W, WeightHash};

    fn path() -> std::path::PathBuf {
        "models.h5".into()
    }

    fn io(kind: ErrorKind) -> Error {
        Error::File(file::Error::Io { action: "write", path: path(), source: kind.into() })
    }

    fn code(error: impl Into<Error>) -> u8 {
        Failure::from(error.into()).exit() as u8
    }

    #[test]
    fn every_kind_of_error_has_the_documented_code() {
        let key = || WeightHash::new("k").unwrap();
        let text = || "x".to_owned();
        assert_eq!(code(W::Damaged { key: key(), problem: text() }), 1);
        assert_eq!(code(W::DamagedCheckpoint { name: text(), problem: text() }), 1);
        assert_eq!(code(W::InvalidName { name: text(), problem: "it is empty" }), 2);
        assert_eq!(code(W::Safetensors { path: path(), offset: 0, problem: text() }), 3);
        assert_eq!(code(W::DuplicateName { name: text() }), 3);
        assert_eq!(code(Error::File(file::Error::NotFound { path: path() })), 4);
        assert_eq!(code(Error::File(file::Error::NotHdf5 { path: path() })), 4);
        assert_eq!(code(Error::File(file::Error::ForeignFile { path: path() })), 4);
        assert_eq!(code(Error::File(file::Error::ReadOnly { path: path() })), 4);
        assert_eq!(code(io(ErrorKind::PermissionDenied)), 4);
        assert_eq!(code(Error::File(file::Error::Busy { path: path(), holder: Some(7) })), 5);
        assert_eq!(code(Error::File(file::Error::Locked { path: path() })), 5);
        assert_eq!(code(W::NotFound { what: text() }), 6);
        assert_eq!(code(W::AlreadyExists { name: text() }), 6);
        assert_eq!(code(Error::File(file::Error::DiskFull { path: path() })), 7);
        assert_eq!(code(io(ErrorKind::Other)), 7);
        assert_eq!(code(W::Cancelled), 130);
        assert_eq!(code(objects::Error::Usage(text())), 2);
        assert_eq!(code(objects::Error::Exists { location: text(), key: text() }), 6);
        assert_eq!(code(objects::Error::Malformed { location: text(), key: text(), problem: text() }), 1);
        let busy = file::Error::Busy { path: path(), holder: None };
        assert_eq!(code(objects::Error::backend("write to", "x", busy)), 5);
        assert_eq!(code(links::Error::Damaged { path: path(), place: text(), problem: text() }), 1);
        assert_eq!(code(links::Error::ForeignLog { path: path(), problem: text() }), 4);
        assert_eq!(code(links::Error::DiskFull { path: path() }), 7);
        assert_eq!(code(links::Error::File(file::Error::Busy { path: path(), holder: None })), 5);
    }

    #[test]
    fn a_store_that_is_damaged_when_opened_is_one_that_cannot_be_used() {
        let damaged = || Error::File(file::Error::Damaged { path: path(), offset: 0, problem: "x".into() });
        assert_eq!(Failure::from(damaged()).exit(), Exit::Damaged);
        assert_eq!(Failure::opening(damaged()).exit(), Exit::BadStore);
        assert_eq!(Failure::opening(Error::File(file::Error::DiskFull { path: path() })).exit(), Exit::Io);
    }

    #[test]
    fn an_input_that_cannot_be_read_is_a_bad_input() {
        let missing = W::io("gone.safetensors", ErrorKind::NotFound.into());
        assert_eq!(Failure::input(missing).exit(), Exit::BadInput);
    }

    #[test]
    fn a_busy_store_is_said_to_be_held_by_whom() {
        let busy = Failure::from(Error::File(file::Error::Busy { path: path(), holder: Some(4711) }));
        assert!(busy.sentence().contains("process 4711"), "{}", busy.sentence());
    }
}
