//! Which keys there are, in order.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use super::DirectoryBackend;
use super::name::{self, Kind};
use crate::backend::Range;
use crate::error::{Error, Result};

/// What the keys of a root begin with. Since no collection has a dot, the keys of each are together in the order of all.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Head {
    /// A key without a dot; or a collection, and the dot.
    text: String,
    is_collection: bool,
}

/// The keys of a range. Those of one collection are in memory at a time.
pub(super) struct Listing<'a> {
    backend: &'a DirectoryBackend,
    range: Range,
    kind: Kind,
    heads: std::vec::IntoIter<Head>,
    keys: std::vec::IntoIter<String>,
    errors: Vec<Error>,
}

impl<'a> Listing<'a> {
    pub(super) fn new(backend: &'a DirectoryBackend, range: &Range, kind: Kind) -> Result<Self> {
        let mut errors = Vec::new();
        let mut heads = match only_collection(range) {
            Some(collection) => vec![Head { text: format!("{collection}."), is_collection: true }],
            None => heads(backend, range, kind, &mut errors)?,
        };
        if range.is_empty() {
            heads.clear();
        }
        heads.sort();
        if range.is_reversed {
            heads.reverse();
        }
        let keys = Vec::new().into_iter();
        Ok(Self { backend, range: range.clone(), kind, heads: heads.into_iter(), keys, errors })
    }

    fn open(&mut self, head: Head) -> Result<()> {
        let _state = self.backend.state()?;
        let Some(collection) = head.text.strip_suffix('.').filter(|_| head.is_collection) else {
            self.keys = vec![head.text].into_iter();
            return Ok(());
        };
        let mut keys = Vec::new();
        let (range, kind) = (&self.range, self.kind);
        walk(self.backend.root(), name::folder_of(collection), &mut self.errors, &mut |entry| {
            if let Entry::File(path) = entry
                && let Some(key) = name::key_of(&path, kind).filter(|key| range.contains(key))
            {
                keys.push(key);
            }
        });
        keys.sort_unstable();
        // A file that is replaced meanwhile may be shown twice by the system.
        keys.dedup();
        if self.range.is_reversed {
            keys.reverse();
        }
        self.keys = keys.into_iter();
        Ok(())
    }
}

impl Iterator for Listing<'_> {
    type Item = Result<String>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(error) = self.errors.pop() {
                return Some(Err(error));
            }
            if let Some(key) = self.keys.next() {
                return Some(Ok(key));
            }
            let head = self.heads.next()?;
            if let Err(error) = self.open(head) {
                return Some(Err(error));
            }
        }
    }
}

/// The collection that all keys of a range belong to, where its bounds say so.
fn only_collection(range: &Range) -> Option<&str> {
    let (collection, _) = range.from.split_once('.')?;
    // The first text after all that begin with the collection and a dot.
    let end = format!("{collection}/");
    range.to.as_deref().is_some_and(|to| to <= end.as_str()).then_some(collection)
}

fn heads(backend: &DirectoryBackend, range: &Range, kind: Kind, errors: &mut Vec<Error>) -> Result<Vec<Head>> {
    let _state = backend.state()?;
    let mut heads = Vec::new();
    walk(backend.root(), PathBuf::new(), errors, &mut |entry| match entry {
        Entry::File(path) => {
            let key = name::key_of(&path, kind).filter(|key| range.contains(key));
            heads.extend(key.map(|text| Head { text, is_collection: false }));
        }
        Entry::Folder(path) => {
            let text = name::collection_of(&path).map(|collection| collection + ".");
            let overlaps = |text: &String| {
                let all = Range::prefix(text);
                range.to.as_ref().is_none_or(|to| all.from < *to) && all.to.is_none_or(|to| range.from < to)
            };
            heads.extend(text.filter(overlaps).map(|text| Head { text, is_collection: true }));
        }
    });
    heads.sort();
    heads.dedup();
    Ok(heads)
}

/// What [`walk`] comes to, below the root.
pub(super) enum Entry {
    File(PathBuf),
    /// A folder that is no continuation of a name.
    Folder(PathBuf),
}

/// Visits what is in a folder, and in those that continue a name. What cannot be read does not hinder the others.
pub(super) fn walk(root: &Path, folder: PathBuf, errors: &mut Vec<Error>, visit: &mut dyn FnMut(Entry)) {
    /// Deeper than any key's file.
    const DEEPEST: usize = 64;
    let path = root.join(&folder);
    let failed = |error| Error::io("read", path.display(), error);
    let entries = match fs::read_dir(&path) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return,
        Err(error) => return errors.push(failed(error)),
    };
    for entry in entries {
        let entry = match entry {
            Ok(entry) => entry,
            Err(error) => return errors.push(failed(error)),
        };
        let name = entry.file_name();
        let Some(name) = name.to_str().filter(|name| !name.starts_with('.')) else { continue };
        let below = folder.join(name);
        let kind = entry.file_type().and_then(|kind| match kind.is_symlink() {
            true => fs::metadata(entry.path()).map(|found| found.file_type()),
            false => Ok(kind),
        });
        match kind {
            Ok(kind) if kind.is_file() => visit(Entry::File(below)),
            Ok(kind) if kind.is_dir() && !name.ends_with('+') => visit(Entry::Folder(below)),
            Ok(kind) if kind.is_dir() && below.components().count() < DEEPEST => walk(root, below, errors, visit),
            // Neither file nor folder, or gone meanwhile.
            _ => {}
        }
    }
}
