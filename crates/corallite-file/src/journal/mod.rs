//! The journal: an append-only log of page images and commits beside the file.
//!
//! It serves three purposes with one format. A commit's page images make it durable before the file itself changes
//! (redo). The images of pages as they were before their first change let older commits be read and rolled back to
//! (snapshots, history). And packed to what is still needed, the same bytes are kept behind the file's end after a
//! clean close (the trailer). `docs/file-format.md` describes it byte by byte.

mod format;
mod reader;
mod writer;

use std::collections::BTreeMap;
use std::sync::Arc;

pub use format::FORMAT_VERSION as JOURNAL_FORMAT_VERSION;
pub(crate) use format::{FOOTER_LEN, Footer};
pub(crate) use reader::{check_page, parse, parse_trailer, writer_pid};
pub(crate) use writer::{CommitBody, Journal, ReplaceError, replace, write_pid};

use crate::page::{CommitNumber, PageNumber};
use crate::space::{FreeExtent, MAX_EXTENTS};

/// Where an image of a page is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// In the journal; the offset is that of the frame's header.
    Journal(u64),
    /// In the file itself, written there directly.
    File,
}

/// One image of a page: its content from `commit` until the next version's commit.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Version {
    pub(crate) commit: CommitNumber,
    pub(crate) place: Place,
}

/// Every kept image of every page the journal knows, oldest first for each page.
#[derive(Clone, Debug, Default)]
pub(crate) struct Versions(BTreeMap<PageNumber, Vec<Version>>);

impl Versions {
    /// The image of `page` that commit `at` sees.
    pub(crate) fn lookup(&self, page: PageNumber, at: CommitNumber) -> Option<Place> {
        newest(self.0.get(&page)?, at)
    }

    /// Whether any image of `page` is known.
    pub(crate) fn knows(&self, page: PageNumber) -> bool {
        self.0.contains_key(&page)
    }

    /// The known pages from `first` to before `end`.
    pub(crate) fn known(&self, first: PageNumber, end: PageNumber) -> Vec<PageNumber> {
        if first >= end { Vec::new() } else { self.0.range(first..end).map(|(&page, _)| page).collect() }
    }

    /// Every image made by commit `commit`.
    pub(crate) fn made_by(&self, commit: CommitNumber) -> impl Iterator<Item = (PageNumber, Place)> + '_ {
        self.0.iter().filter_map(move |(&page, versions)| {
            versions.iter().find(|version| version.commit == commit).map(|version| (page, version.place))
        })
    }

    /// The known pages from `first` to before `end`, with the image that commit `at` sees.
    pub(crate) fn range(
        &self,
        first: PageNumber,
        end: PageNumber,
        at: CommitNumber,
    ) -> impl Iterator<Item = (PageNumber, Place)> + '_ {
        self.0.range(first..end).filter_map(move |(&page, versions)| Some((page, newest(versions, at)?)))
    }

    /// The pages that changed after `since`, with their newest image up to `until`.
    pub(crate) fn changed(
        &self,
        since: CommitNumber,
        until: CommitNumber,
    ) -> impl Iterator<Item = (PageNumber, Place)> + '_ {
        self.0.iter().filter_map(move |(&page, versions)| {
            let version = versions.iter().rev().find(|version| version.commit <= until)?;
            (version.commit > since).then_some((page, version.place))
        })
    }

    /// Whether the newest image of `page` is in the journal; one that is only in the file must be copied before the
    /// file changes.
    pub(crate) fn keeps(&self, page: PageNumber) -> bool {
        self.0.get(&page).and_then(|versions| versions.last()).is_some_and(|version| version.place != Place::File)
    }

    /// Adds the image that a page has before its first change, or before a change that follows a direct write.
    pub(crate) fn insert_before(&mut self, page: PageNumber, base: CommitNumber, place: Place) {
        let versions = self.0.entry(page).or_default();
        match versions.last_mut() {
            Some(last) => last.place = place,
            None => versions.push(Version { commit: base, place }),
        }
    }

    /// Adds an image; a later one of the same commit replaces an earlier one.
    pub(crate) fn insert(&mut self, page: PageNumber, version: Version) {
        let versions = self.0.entry(page).or_default();
        match versions.last_mut() {
            Some(last) if last.commit == version.commit => *last = version,
            _ => versions.push(version),
        }
    }
}

fn newest(versions: &[Version], at: CommitNumber) -> Option<Place> {
    versions.iter().rev().find(|version| version.commit <= at).map(|version| version.place)
}

/// What is known of a commit besides its pages.
#[derive(Clone, Debug)]
pub(crate) struct CommitState {
    pub(crate) number: CommitNumber,
    /// The end of allocation: the length of the HDF5 file.
    pub(crate) eoa: u64,
    /// When it was made, in nanoseconds since 1970.
    pub(crate) time: u64,
    pub(crate) free: Arc<[FreeExtent]>,
    /// The oldest commit that could still be rolled back to after this one.
    pub(crate) oldest: CommitNumber,
    /// What was written directly lies before this offset.
    pub(crate) direct_end: u64,
}

impl CommitState {
    /// Whether nothing refers to any byte of `page`.
    pub(crate) fn is_free(&self, page: PageNumber) -> bool {
        // Of very many extents the shortest are not recorded.
        if page.start() >= self.eoa || self.free.len() >= MAX_EXTENTS {
            return true;
        }
        let mut covered = page.start();
        let first = self.free.partition_point(|extent| extent.start + extent.length <= covered);
        for extent in self.free[first..].iter().take_while(|extent| extent.start < page.end()) {
            if extent.start > covered {
                return false;
            }
            covered = extent.start + extent.length;
        }
        covered >= page.end()
    }
}

/// A journal as read.
#[derive(Debug)]
pub(crate) struct Contents {
    /// The state of the file when the journal began.
    pub(crate) base: CommitState,
    /// The commits since, oldest first.
    pub(crate) commits: Vec<CommitState>,
    pub(crate) versions: Versions,
    /// The newest commit known to be in the file itself, if the journal says so.
    pub(crate) applied: Option<CommitNumber>,
    /// Where the next frame goes.
    pub(crate) end: u64,
    pub(crate) chain: u64,
    pub(crate) salt: u64,
}

impl Contents {
    /// The commits that were read, oldest first.
    pub(crate) fn states(&self) -> impl Iterator<Item = &CommitState> {
        std::iter::once(&self.base).chain(&self.commits)
    }

    pub(crate) fn newest(&self) -> &CommitState {
        self.commits.last().unwrap_or(&self.base)
    }
}
