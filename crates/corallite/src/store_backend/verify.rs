//! The objects of a commit as the disk has them, for `verify`.

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Arc;

use corallite_file::{Error, Result, Snapshot, Storage};

use super::backend::each_begun;
use super::files::{FILE, FileReader, FileRecord};
use super::shared::{Shared, damaged};
use super::tree::{Flaw, Meta, PAGE, PageBuf, PageNo, Pages, Segments, Span, check, scan, value};

/// A commit's tree, read without a cache.
pub(super) struct Frozen {
    path: PathBuf,
    snapshot: Arc<Snapshot>,
    segments: Segments,
    meta: Meta,
}

impl Frozen {
    pub(super) fn begun(storage: &Storage) -> Result<usize> {
        let snapshot = storage.snapshot()?;
        let Some((segments, meta)) = Shared::locate(&snapshot, storage.path())? else { return Ok(0) };
        let mut count = 0;
        let frozen = Self { path: storage.path().to_owned(), snapshot, segments, meta };
        each_begun(&frozen, |_, _| count += 1)?;
        Ok(count)
    }

    pub(super) fn verify(storage: &Storage) -> Result<Vec<String>> {
        let snapshot = storage.snapshot()?;
        let (segments, meta) = match Shared::locate(&snapshot, storage.path()) {
            Ok(Some(found)) => found,
            Ok(None) => return Ok(Vec::new()),
            Err(error @ (Error::Damaged { .. } | Error::NewerFormat { .. })) => return Ok(vec![error.to_string()]),
            Err(error) => return Err(error),
        };
        let frozen = Self { path: storage.path().to_owned(), snapshot: Arc::clone(&snapshot), segments, meta };
        let mut problems = check(&frozen);
        let mut files = Vec::new();
        let span = Span { from: &[FILE], to: Some(&[FILE + 1]), is_reversed: false };
        let listed = scan(&frozen, span, |key, found| {
            files.push((String::from_utf8_lossy(&key[1..]).into_owned(), value(&frozen, found)));
            Ok(ControlFlow::Continue(()))
        });
        if problems.is_empty() {
            problems.extend(listed.err().map(|error| error.to_string()));
        }
        for (key, record) in files {
            let record = match record {
                Ok(record) => FileRecord::read(&record),
                Err(_) if !problems.is_empty() => continue,
                Err(error) => return Err(error),
            };
            let checked = match record {
                Some(record) => {
                    FileReader::open(Arc::clone(&snapshot), &key, record).and_then(|mut reader| reader.verify())
                }
                None => Err(frozen.damaged(PageNo(0), Flaw("what is noted of a file makes no sense"))),
            };
            problems.extend(checked.err().map(|error| error.to_string()));
        }
        Ok(problems)
    }
}

impl Pages for Frozen {
    fn meta(&self) -> &Meta {
        &self.meta
    }

    fn page(&self, number: PageNo) -> Result<Arc<PageBuf>> {
        let unused = || self.damaged(number, Flaw("the tree refers to it, but it was never used"));
        if number.0 >= self.meta.pages {
            return Err(unused());
        }
        let mut page = PageBuf([0; PAGE]);
        self.snapshot.read_at(self.segments.offset(number).ok_or_else(unused)?, &mut page.0)?;
        page.check(number, self.meta.generation).map_err(|flaw| self.damaged(number, flaw))?;
        Ok(Arc::new(page))
    }

    fn damaged(&self, number: PageNo, flaw: Flaw) -> Error {
        damaged(&self.path, &self.segments, number, flaw)
    }
}
