//! Changing the tree: pages that a batch has changed, in memory, over the state it began with.

use std::sync::Arc;

use corallite_file::{Error, Result};
use zerocopy::little_endian::{U16, U32};

use super::cache::ByNumber;
use super::edit::{Cell, Payload, are_in_order, divide, size_of_all};
use super::meta::Meta;
use super::page::{Flaw, HEADER, HIGHEST, Kind, LONGEST_INLINE, PageBuf, PageNo, ROOM, Value};
use super::read::{Pages, chain, node};

/// From so few bytes on a page is joined with a neighbour.
const SPARSE: usize = ROOM / 4;
/// The most that a page holds after it was joined, so that it is not divided again at once.
const JOINED: usize = ROOM * 7 / 8;
/// Numbers in a page of the free list.
const LISTED: usize = ROOM / 4;

const DISORDER: Flaw = Flaw("its keys do not fit those of the pages below it");

/// The branches above a leaf, each with the child that leads to it.
type Way = Vec<(PageNo, usize)>;

/// Changes to the tree that nobody else sees yet. After an error it must not be used any more.
#[derive(Debug)]
pub(crate) struct Workspace<P> {
    base: P,
    pub(crate) meta: Meta,
    pub(crate) changed: ByNumber<Arc<PageBuf>>,
}

impl<P: Pages> Pages for Workspace<P> {
    fn meta(&self) -> &Meta {
        &self.meta
    }

    fn page(&self, number: PageNo) -> Result<Arc<PageBuf>> {
        if let Some(page) = self.changed.get(&number) {
            return Ok(Arc::clone(page));
        }
        if number.0 >= self.base.meta().pages {
            return Err(self.damaged(number, Flaw("the tree refers to it, but it was never used")));
        }
        self.base.page(number)
    }

    fn damaged(&self, number: PageNo, flaw: Flaw) -> Error {
        self.base.damaged(number, flaw)
    }
}

impl<P: Pages> Workspace<P> {
    pub(crate) fn new(base: P) -> Self {
        Self { meta: *base.meta(), base, changed: ByNumber::default() }
    }

    /// Removes everything. Where pages of it lie is free again, without their being looked at.
    pub(crate) fn clear(&mut self) {
        let Meta { generation, next_file, .. } = self.meta;
        self.meta = Meta { generation, next_file, ..Meta::empty() };
        self.changed.clear();
        self.replace(self.meta.root, PageBuf::empty_leaf());
    }

    fn edit(&mut self, number: PageNo) -> Result<&mut PageBuf> {
        if !self.changed.contains_key(&number) {
            let page = self.page(number)?;
            self.changed.insert(number, page);
        }
        match self.changed.get_mut(&number) {
            // Copied if anybody else has it.
            Some(page) => Ok(Arc::make_mut(page)),
            None => Err(self.base.damaged(number, Flaw("it is gone"))),
        }
    }

    fn replace(&mut self, number: PageNo, page: PageBuf) {
        self.changed.insert(number, Arc::new(page));
    }

    /// A page of a kind, changed or not, where it belongs.
    fn node(&self, number: PageNo, level: u8) -> Result<Arc<PageBuf>> {
        node(self, number, level)
    }

    fn descend(&self, key: &[u8]) -> Result<(Way, PageNo)> {
        let mut way = Way::with_capacity(self.meta.level.into());
        let mut number = self.meta.root;
        for level in (1..=self.meta.level).rev() {
            let page = self.node(number, level)?;
            let child = page.route(key);
            way.push((number, child));
            number = page.child(child);
        }
        Ok((way, number))
    }

    /// Gives a key a value.
    pub(crate) fn put(&mut self, key: &[u8], value: &[u8]) -> Result<()> {
        let (way, number) = self.descend(key)?;
        let leaf = self.node(number, 0)?;
        let found = leaf.search(key);
        if let Ok(index) = found {
            if value.len() <= LONGEST_INLINE
                && matches!(leaf.value(index), Value::Inline(old) if old.len() == value.len())
            {
                drop(leaf);
                self.edit(number)?.overwrite(index, value);
                return Ok(());
            }
            self.free_value(leaf.value(index))?;
            drop(leaf);
            self.edit(number)?.remove(index);
        } else {
            drop(leaf);
            self.meta.keys += 1;
        }
        let (Ok(index) | Err(index)) = found;
        let value = if value.len() > LONGEST_INLINE { self.store_long(value)? } else { Value::Inline(value) };
        self.insert(way, number, 0, index, key, Payload::Value(value))
    }

    /// Removes a key; whether it was there.
    pub(crate) fn remove(&mut self, key: &[u8]) -> Result<bool> {
        let (way, number) = self.descend(key)?;
        let leaf = self.node(number, 0)?;
        let Ok(index) = leaf.search(key) else { return Ok(false) };
        self.free_value(leaf.value(index))?;
        drop(leaf);
        self.edit(number)?.remove(index);
        self.meta.keys = self.meta.keys.saturating_sub(1);
        self.join(way, number)?;
        Ok(true)
    }

    fn insert(
        &mut self,
        mut way: Way,
        mut number: PageNo,
        mut level: u8,
        mut index: usize,
        key: &[u8],
        payload: Payload<'_>,
    ) -> Result<()> {
        if self.edit(number)?.insert(index, key, payload) {
            return Ok(());
        }
        // Of a page that is divided, the key and the page that its parent gets.
        let mut up: (Vec<u8>, PageNo);
        let mut cell = Cell::new(key, payload);
        loop {
            let old = *self.edit(number)?;
            let mut cells = old.cells();
            cells.insert(index, cell);
            if !are_in_order(&cells) {
                return Err(self.damaged(number, DISORDER));
            }
            if size_of_all(&cells) <= ROOM {
                let mut page = PageBuf::of(level, old.link(), &cells);
                page.header_mut().last = U16::new(index as u16);
                self.replace(number, page);
                return Ok(());
            }
            let last = old.header().last.get().into();
            let at = divide(&cells, level == 0, index, last)
                .ok_or_else(|| self.damaged(number, Flaw("its cells are larger than a page can hold")))?;
            let right = self.allocate()?;
            let (key, link, behind) = if level == 0 {
                // As little of the right page's first key as tells it from the left one's last.
                let mut key = cells[at].key();
                key.truncate(cells[at - 1].common(&cells[at]) + 1);
                (key, PageNo(0), at)
            } else {
                let Payload::Child(child) = cells[at].payload else {
                    return Err(self.damaged(number, Flaw("it is not where it belongs")));
                };
                (cells[at].key(), child, at + 1)
            };
            let (mut first, mut second) =
                (PageBuf::of(level, old.link(), &cells[..at]), PageBuf::of(level, link, &cells[behind..]));
            match index.checked_sub(behind) {
                Some(index) => second.header_mut().last = U16::new(index as u16),
                None => first.header_mut().last = U16::new(index as u16),
            }
            self.replace(number, first);
            self.replace(right, second);
            up = (key, right);
            let Some((parent, child)) = way.pop() else { break };
            level += 1;
            (number, index) = (parent, child);
            let page = self.edit(number)?;
            let fits = index.checked_sub(1).is_none_or(|before| page.key(before) < up.0)
                && (index == page.count() || up.0 < page.key(index));
            if !fits {
                return Err(self.damaged(number, DISORDER));
            }
            if page.insert(index, &up.0, Payload::Child(up.1)) {
                return Ok(());
            }
            cell = Cell::new(&up.0, Payload::Child(up.1));
        }
        if self.meta.level >= HIGHEST {
            return Err(self.damaged(self.meta.root, Flaw("the tree is higher than it can be")));
        }
        let root = self.allocate()?;
        self.meta.level += 1;
        let page = PageBuf::of(self.meta.level, self.meta.root, &[Cell::new(&up.0, Payload::Child(up.1))]);
        self.replace(root, page);
        self.meta.root = root;
        Ok(())
    }

    /// Joins a page that has become sparse with a neighbour, and so on upwards.
    fn join(&mut self, mut way: Way, mut number: PageNo) -> Result<()> {
        let mut level = 0;
        while let Some((parent, child)) = way.pop() {
            let page = self.node_or_empty(number, level)?;
            if page.used() >= SPARSE {
                return Ok(());
            }
            if level == 0 && page.count() == 0 {
                self.free(number)?;
                if !self.remove_child(parent, child)? {
                    // It was the only one, so the branch goes as well.
                    if !self.remove_childless(&mut way, parent)? {
                        return Ok(());
                    }
                    let Some(&(above, _)) = way.last() else { return self.lower_root() };
                    number = above;
                    way.pop();
                    level = self.level_of(number)?;
                    continue;
                }
            } else if !self.join_neighbour(parent, child, &page, level)? {
                return Ok(());
            }
            number = parent;
            level += 1;
        }
        self.lower_root()
    }

    fn level_of(&self, number: PageNo) -> Result<u8> {
        Ok(self.page(number)?.header().level)
    }

    /// As [`Workspace::node`], of a page that may just have become empty.
    fn node_or_empty(&self, number: PageNo, level: u8) -> Result<Arc<PageBuf>> {
        match self.changed.get(&number) {
            Some(page) => Ok(Arc::clone(page)),
            None => self.node(number, level),
        }
    }

    /// Joins a sparse page with the one after or before it if both fit into one; whether they did.
    fn join_neighbour(&mut self, parent: PageNo, child: usize, page: &PageBuf, level: u8) -> Result<bool> {
        let branch = self.node(parent, level + 1)?;
        let neighbours = [child.checked_sub(1), Some(child + 1).filter(|&next| next <= branch.count())];
        for neighbour in neighbours.into_iter().flatten() {
            let other = self.node(branch.child(neighbour), level)?;
            let first = child.min(neighbour);
            let (left, right) = if child < neighbour { (page, other.as_ref()) } else { (other.as_ref(), page) };
            let between = branch.key(first);
            let mut cells = left.cells();
            if level > 0 {
                cells.push(Cell::new(&between, Payload::Child(right.link())));
            }
            cells.extend(right.cells());
            if !are_in_order(&cells) {
                return Err(self.damaged(parent, DISORDER));
            }
            if size_of_all(&cells) > JOINED {
                continue;
            }
            let joined = PageBuf::of(level, left.link(), &cells);
            let (stays, goes) = (branch.child(first), branch.child(first + 1));
            self.replace(stays, joined);
            self.free(goes)?;
            self.edit(parent)?.remove(first);
            return Ok(true);
        }
        Ok(false)
    }

    /// Takes a child out of a branch; its keys then belong to a neighbour. `false` when it is the only one.
    fn remove_child(&mut self, branch: PageNo, child: usize) -> Result<bool> {
        let page = self.edit(branch)?;
        if page.count() == 0 {
            return Ok(false);
        }
        if child == 0 {
            let next = page.child(1);
            page.set_child(0, next);
            page.remove(0);
        } else {
            page.remove(child - 1);
        }
        Ok(true)
    }

    /// Removes a branch whose only child is gone, and those above it that have no other; `false` when that was all.
    fn remove_childless(&mut self, way: &mut Way, branch: PageNo) -> Result<bool> {
        let mut number = branch;
        loop {
            let Some(&(parent, child)) = way.last() else {
                // Nothing is left of the tree.
                self.replace(number, PageBuf::empty_leaf());
                (self.meta.root, self.meta.level) = (number, 0);
                return Ok(false);
            };
            self.free(number)?;
            if self.remove_child(parent, child)? {
                return Ok(true);
            }
            way.pop();
            number = parent;
        }
    }

    /// While the root has one child, that is the root.
    fn lower_root(&mut self) -> Result<()> {
        while self.meta.level > 0 {
            let root = self.node(self.meta.root, self.meta.level)?;
            if root.count() > 0 {
                return Ok(());
            }
            let old = self.meta.root;
            self.meta.root = root.link();
            self.meta.level -= 1;
            self.free(old)?;
        }
        Ok(())
    }

    /// Puts a long value into pages of its own.
    fn store_long<'v>(&mut self, value: &[u8]) -> Result<Value<'v>> {
        let Ok(length) = u32::try_from(value.len()) else {
            let problem = format!("a value of {} bytes is too long; write it as a file", value.len());
            return Err(Error::Usage { path: std::path::PathBuf::from("the objects"), problem });
        };
        let parts: Vec<&[u8]> = value.chunks(ROOM).collect();
        let mut next = PageNo(0);
        for part in parts.into_iter().rev() {
            let number = self.allocate()?;
            let mut page = PageBuf::new(Kind::Overflow, 0);
            page.header_mut().count = U16::new(part.len() as u16);
            page.header_mut().link = U32::new(next.0);
            page.0[HEADER..HEADER + part.len()].copy_from_slice(part);
            self.replace(number, page);
            next = number;
        }
        Ok(Value::Long { length, first: next })
    }

    fn free_value(&mut self, value: Value<'_>) -> Result<()> {
        let Value::Long { length, first } = value else { return Ok(()) };
        let mut numbers = Vec::new();
        chain(self, length as usize, first, |number, _| numbers.push(number))?;
        numbers.into_iter().try_for_each(|number| self.free(number))
    }

    /// A page that nothing refers to.
    fn allocate(&mut self) -> Result<PageNo> {
        let list = self.meta.free;
        if list == PageNo(0) {
            let number = PageNo(self.meta.pages);
            self.meta.pages = self.meta.pages.checked_add(1).ok_or_else(|| Error::Usage {
                path: std::path::PathBuf::from("the objects"),
                problem: "they are as large as they can be (16 TiB)".to_owned(),
            })?;
            return Ok(number);
        }
        self.meta.free_pages = self.meta.free_pages.saturating_sub(1);
        let page = self.free_list(list)?;
        let Some(last) = page.count().checked_sub(1) else {
            // The list itself is the last page of it.
            self.meta.free = page.link();
            return Ok(list);
        };
        let number = PageNo(page.u32_at(HEADER + 4 * last));
        if number == PageNo(0) || number.0 >= self.meta.pages {
            return Err(self.damaged(list, Flaw("it lists a page that is not there")));
        }
        self.edit(list)?.header_mut().count = U16::new(last as u16);
        Ok(number)
    }

    fn free_list(&self, number: PageNo) -> Result<Arc<PageBuf>> {
        let page = self.page(number)?;
        let is_sound = page.is(Kind::Free) && page.link().0 < self.meta.pages;
        if is_sound { Ok(page) } else { Err(self.damaged(number, Flaw("it is not part of the free list"))) }
    }

    fn free(&mut self, number: PageNo) -> Result<()> {
        self.meta.free_pages += 1;
        let list = self.meta.free;
        if list != PageNo(0) {
            let count = self.free_list(list)?.count();
            if count < LISTED {
                let page = self.edit(list)?;
                page.0[HEADER + 4 * count..][..4].copy_from_slice(&number.0.to_le_bytes());
                page.header_mut().count = U16::new(count as u16 + 1);
                // Its content is of no use to anybody, so it need not be written.
                self.changed.remove(&number);
                return Ok(());
            }
        }
        let mut page = PageBuf::new(Kind::Free, 0);
        page.header_mut().link = U32::new(list.0);
        self.replace(number, page);
        self.meta.free = number;
        Ok(())
    }
}
