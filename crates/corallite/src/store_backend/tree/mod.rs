//! An ordered map of bytes to bytes in the store's file: a B+tree in pages of its own.
//!
//! Nothing in here knows of transactions or of the file: [`Pages`] gives a state of the tree, [`Workspace`] changes one in
//! memory, and what it changed is for others to write. `docs/objects-format.md` draws the bytes.

mod cache;
mod check;
mod edit;
mod meta;
mod page;
mod read;
mod segments;
mod write;

#[cfg(test)]
mod tests;

pub use meta::OBJECTS_FORMAT_VERSION;

pub(super) use cache::Cache;
pub(super) use check::check;
pub(super) use meta::{Meta, Refused};
pub(super) use page::{Flaw, PAGE, PageBuf, PageNo, Value};
pub(super) use read::{Pages, Span, get, has, scan, value};
pub(super) use segments::{OBJECTS, Segments};
pub(super) use write::Workspace;
