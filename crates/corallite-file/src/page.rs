//! Pages and commits: the units the file layer counts in.

use std::fmt;

/// Bytes in a page.
pub const PAGE_SIZE: u64 = 4096;

/// [`PAGE_SIZE`] as a length in memory.
pub(crate) const PAGE_LEN: usize = PAGE_SIZE as usize;

/// One page's bytes.
pub(crate) type Page = Box<[u8; PAGE_LEN]>;

/// A page of zeros.
pub(crate) fn zero_page() -> Page {
    Box::new([0; PAGE_LEN])
}

/// The number of a page: its byte offset divided by [`PAGE_SIZE`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PageNumber(pub u64);

impl PageNumber {
    /// The page that holds the byte at `offset`.
    pub const fn containing(offset: u64) -> Self {
        Self(offset / PAGE_SIZE)
    }

    /// The offset of the page's first byte.
    pub const fn start(self) -> u64 {
        self.0 * PAGE_SIZE
    }

    /// The offset just past the page's last byte.
    pub const fn end(self) -> u64 {
        (self.0 + 1) * PAGE_SIZE
    }

    /// The page after this one.
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

/// The number of a commit. A file counts them from 1; 0 is the state before the first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CommitNumber(pub u64);

impl CommitNumber {
    /// The commit after this one.
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl fmt::Display for CommitNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
