//! Finding keys and going through ranges of them.
//!
//! Levels fall by one from a page to its children, and keys of a scan must ascend, so that not even a file made to do harm
//! sends a reader in circles.

use std::ops::ControlFlow;
use std::sync::Arc;

use bytes::Bytes;
use corallite_file::{Error, Result};

use super::meta::Meta;
use super::page::{Flaw, Kind, PageBuf, PageNo, ROOM, Value};

/// A state of the tree.
pub(crate) trait Pages {
    fn meta(&self) -> &Meta;

    /// A page below [`Meta::pages`], checked.
    fn page(&self, number: PageNo) -> Result<Arc<PageBuf>>;

    /// The error for a page that is not what it should be.
    fn damaged(&self, number: PageNo, flaw: Flaw) -> Error;
}

/// A range of keys, from the first one on and up to before the last.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Span<'a> {
    pub(crate) from: &'a [u8],
    pub(crate) to: Option<&'a [u8]>,
    pub(crate) is_reversed: bool,
}

/// A page of the tree, where one of this level belongs.
pub(crate) fn node(pages: &dyn Pages, number: PageNo, level: u8) -> Result<Arc<PageBuf>> {
    let page = pages.page(number)?;
    let kind = if level == 0 { Kind::Leaf } else { Kind::Branch };
    if !page.is(kind) || page.header().level != level {
        return Err(pages.damaged(number, Flaw("it is not where it belongs")));
    }
    // Empty ones are removed; a file full of them would have a scan go through all for nothing.
    if level == 0 && page.count() == 0 && number != pages.meta().root {
        return Err(pages.damaged(number, Flaw("it is empty")));
    }
    Ok(page)
}

/// The leaf where a key belongs.
fn leaf(pages: &dyn Pages, key: &[u8]) -> Result<Arc<PageBuf>> {
    let Meta { root, level, .. } = *pages.meta();
    let mut page = node(pages, root, level)?;
    for level in (0..level).rev() {
        page = node(pages, page.child(page.route(key)), level)?;
    }
    Ok(page)
}

pub(crate) fn get(pages: &dyn Pages, key: &[u8]) -> Result<Option<Bytes>> {
    let leaf = leaf(pages, key)?;
    match leaf.search(key) {
        Ok(index) => value(pages, leaf.value(index)).map(Some),
        Err(_) => Ok(None),
    }
}

pub(crate) fn has(pages: &dyn Pages, key: &[u8]) -> Result<bool> {
    Ok(leaf(pages, key)?.search(key).is_ok())
}

pub(crate) fn value(pages: &dyn Pages, value: Value<'_>) -> Result<Bytes> {
    let (length, first) = match value {
        Value::Inline(bytes) => return Ok(Bytes::copy_from_slice(bytes)),
        Value::Long { length, first } => (length as usize, first),
    };
    let mut bytes = Vec::with_capacity(length.min(usize::try_from(pages.meta().pages).unwrap_or(0) * ROOM));
    chain(pages, length, first, |_, part| bytes.extend_from_slice(part))?;
    Ok(bytes.into())
}

/// Goes through the pages of a long value.
pub(crate) fn chain(
    pages: &dyn Pages,
    length: usize,
    first: PageNo,
    mut each: impl FnMut(PageNo, &[u8]),
) -> Result<()> {
    if length == 0 || length.div_ceil(ROOM) >= pages.meta().pages as usize {
        return Err(pages.damaged(first, Flaw("a value in it has a length that cannot be")));
    }
    let (mut left, mut number) = (length, first);
    while left > 0 {
        let page = pages.page(number)?;
        let count = left.min(ROOM);
        if !page.is(Kind::Overflow) || page.count() != count || (left == count) != (page.link() == PageNo(0)) {
            return Err(pages.damaged(number, Flaw("it is not the part of a value that it should be")));
        }
        each(number, &page.0[super::page::HEADER..][..count]);
        left -= count;
        number = page.link();
    }
    Ok(())
}

/// Goes through a range, until it ends or `each` stops it.
pub(crate) fn scan(
    pages: &dyn Pages,
    span: Span<'_>,
    mut each: impl FnMut(&[u8], Value<'_>) -> Result<ControlFlow<()>>,
) -> Result<()> {
    let Span { from, to, is_reversed } = span;
    if to.is_some_and(|to| to <= from) {
        return Ok(());
    }
    let Meta { root, level, .. } = *pages.meta();
    // Branches on the way down, each with the child that the way goes through.
    let mut way: Vec<(Arc<PageBuf>, usize)> = Vec::with_capacity(level.into());
    let mut number = root;
    let mut page = node(pages, root, level)?;
    for level in (0..level).rev() {
        let child = match (is_reversed, to) {
            (false, _) => page.route(from),
            (true, Some(to)) => page.route(to),
            (true, None) => page.count(),
        };
        number = page.child(child);
        way.push((page, child));
        page = node(pages, number, level)?;
    }
    let place = |page: &PageBuf, key: &[u8]| page.search(key).unwrap_or_else(|index| index);
    // The number of cells before where it goes on.
    let mut at = match (is_reversed, to) {
        (false, _) => place(&page, from),
        (true, Some(to)) => place(&page, to),
        (true, None) => page.count(),
    };
    let mut key = Vec::new();
    let mut last: Option<Vec<u8>> = None;
    loop {
        while if is_reversed { at > 0 } else { at < page.count() } {
            let index = if is_reversed { at - 1 } else { at };
            key.clear();
            key.extend_from_slice(page.prefix());
            key.extend_from_slice(page.suffix(index));
            let is_over = if is_reversed { key.as_slice() < from } else { to.is_some_and(|to| key.as_slice() >= to) };
            if is_over {
                return Ok(());
            }
            if let Some(last) = &mut last {
                if (key <= *last) != is_reversed || key == *last {
                    return Err(pages.damaged(number, Flaw("its keys do not follow those of its neighbour")));
                }
                last.clone_from(&key);
            } else {
                last = Some(key.clone());
            }
            if each(&key, page.value(index))?.is_break() {
                return Ok(());
            }
            at = if is_reversed { index } else { index + 1 };
        }
        // Up to where there is another child on this side, and down to its nearest leaf.
        let mut next = None;
        while let Some((branch, child)) = way.pop() {
            let sibling =
                if is_reversed { child.checked_sub(1) } else { Some(child + 1).filter(|&at| at <= branch.count()) };
            if let Some(sibling) = sibling {
                next = Some(branch.child(sibling));
                way.push((branch, sibling));
                break;
            }
        }
        let Some(mut down) = next else { return Ok(()) };
        for below in (0..=usize::from(level) - way.len()).rev() {
            let found = node(pages, down, below as u8)?;
            number = down;
            if below == 0 {
                at = if is_reversed { found.count() } else { 0 };
                page = found;
                break;
            }
            let child = if is_reversed { found.count() } else { 0 };
            down = found.child(child);
            way.push((found, child));
        }
    }
}
