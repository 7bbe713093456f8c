//! Changing the cells of a page: inserting and removing in place, and laying out anew.

use zerocopy::little_endian::{U16, U32};

use super::page::{BRANCH_FIXED, HEADER, Kind, LEAF_FIXED, PAGE, POINTER, PageBuf, PageNo, ROOM, SLOT, Value};

/// What a cell has beside its key.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Payload<'a> {
    Value(Value<'a>),
    Child(PageNo),
}

impl Payload<'_> {
    /// Bytes of a cell without its key.
    fn bytes(&self) -> usize {
        match self {
            Self::Value(Value::Inline(value)) => LEAF_FIXED + value.len(),
            Self::Value(Value::Long { .. }) => LEAF_FIXED + POINTER,
            Self::Child(_) => BRANCH_FIXED,
        }
    }
}

/// A cell to be laid out. Its key is in two parts, since a page keeps what its keys have in common apart.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cell<'a> {
    pub(crate) head: &'a [u8],
    pub(crate) tail: &'a [u8],
    pub(crate) payload: Payload<'a>,
}

impl<'a> Cell<'a> {
    pub(crate) fn new(key: &'a [u8], payload: Payload<'a>) -> Self {
        Self { head: &[], tail: key, payload }
    }

    fn key_length(&self) -> usize {
        self.head.len() + self.tail.len()
    }

    fn bytes(&self) -> impl Iterator<Item = u8> + 'a {
        self.head.iter().chain(self.tail).copied()
    }

    pub(crate) fn key(&self) -> Vec<u8> {
        [self.head, self.tail].concat()
    }

    /// The key without its first bytes, in two parts.
    fn behind(&self, prefix: usize) -> (&'a [u8], &'a [u8]) {
        let cut = prefix.min(self.head.len());
        (&self.head[cut..], &self.tail[prefix - cut..])
    }

    /// How many bytes two keys have in common at their beginning.
    pub(crate) fn common(&self, other: &Cell<'_>) -> usize {
        self.bytes().zip(other.bytes()).take_while(|(a, b)| a == b).count()
    }
}

/// Whether keys ascend, which all that follows relies on. What is put together from several pages need not, if they were made
/// to do harm.
pub(crate) fn are_in_order(cells: &[Cell<'_>]) -> bool {
    cells.windows(2).all(|pair| pair[0].bytes().lt(pair[1].bytes()))
}

/// Bytes that cells take in a page, slots and prefix included.
pub(crate) fn size_of_all(cells: &[Cell<'_>]) -> usize {
    let raw: usize = cells.iter().map(|cell| SLOT + cell.payload.bytes() + cell.key_length()).sum();
    prefixed(cells, raw)
}

/// The same, of cells that take `raw` bytes with their whole keys.
fn prefixed(cells: &[Cell<'_>], raw: usize) -> usize {
    let prefix = prefix_of(cells);
    raw + prefix - prefix * cells.len()
}

fn prefix_of(cells: &[Cell<'_>]) -> usize {
    match cells {
        // One key is all its own prefix, which the next one would only have to cut again.
        [] | [_] => 0,
        [first, .., last] => first.common(last),
    }
}

/// Where to divide cells that do not fit into one page: the first cell of the second page, in a branch the cell that goes up.
/// `inserted` is the new one, `last` where the one before it was inserted.
pub(crate) fn divide(cells: &[Cell<'_>], is_leaf: bool, inserted: usize, last: usize) -> Option<usize> {
    let ends: Vec<usize> = cells
        .iter()
        .scan(0, |sum, cell| {
            *sum += SLOT + cell.payload.bytes() + cell.key_length();
            Some(*sum)
        })
        .collect();
    let before = |index: usize| index.checked_sub(1).map_or(0, |index| ends[index]);
    let sizes = |at: usize| {
        let right = if is_leaf { at } else { at + 1 };
        let left = prefixed(&cells[..at], before(at));
        (left, prefixed(&cells[right..], ends[cells.len() - 1] - before(right)))
    };
    let (first, count) = if is_leaf { (1, cells.len()) } else { (0, cells.len()) };
    let fits = |at: &usize| {
        let (left, right) = sizes(*at);
        (first..count).contains(at) && left <= ROOM && right <= ROOM
    };
    // What comes in order fills pages: the new cell begins the next one, or ends the one before.
    if inserted == last + 1 && fits(&inserted) {
        return Some(inserted);
    }
    if inserted == last && is_leaf && fits(&(inserted + 1)) {
        return Some(inserted + 1);
    }
    (first..count).filter(fits).min_by_key(|&at| {
        let (left, right) = sizes(at);
        left.max(right)
    })
}

impl PageBuf {
    /// The page's cells.
    pub(crate) fn cells(&self) -> Vec<Cell<'_>> {
        let is_leaf = self.header().level == 0;
        (0..self.count())
            .map(|index| Cell {
                head: self.prefix(),
                tail: self.suffix(index),
                payload: if is_leaf {
                    Payload::Value(self.value(index))
                } else {
                    Payload::Child(self.child(index + 1))
                },
            })
            .collect()
    }

    /// A page of these cells, which fit.
    pub(crate) fn of(level: u8, link: PageNo, cells: &[Cell<'_>]) -> Self {
        let mut page = Self::new(if level == 0 { Kind::Leaf } else { Kind::Branch }, level);
        let prefix = prefix_of(cells);
        if let Some(first) = cells.first() {
            for (to, from) in page.0[HEADER..HEADER + prefix].iter_mut().zip(first.bytes()) {
                *to = from;
            }
        }
        page.header_mut().prefix = U16::new(prefix as u16);
        page.header_mut().link = U32::new(link.0);
        for (index, cell) in cells.iter().enumerate() {
            page.push(index, cell.behind(prefix), &cell.payload);
        }
        page.header_mut().last = U16::new(u16::MAX);
        page
    }

    /// Lays out a cell below the others, without looking whether there is room.
    fn push(&mut self, index: usize, (head, tail): (&[u8], &[u8]), payload: &Payload<'_>) {
        let key = head.len() + tail.len();
        let cell = usize::from(self.header().cells.get()) - payload.bytes() - key;
        self.0[cell..cell + 2].copy_from_slice(&(key as u16).to_le_bytes());
        let fixed = match payload {
            Payload::Value(_) => LEAF_FIXED,
            Payload::Child(child) => {
                self.0[cell + 2..cell + 6].copy_from_slice(&child.0.to_le_bytes());
                BRANCH_FIXED
            }
        };
        let mut at = cell + fixed;
        for part in [head, tail] {
            self.0[at..at + part.len()].copy_from_slice(part);
            at += part.len();
        }
        if let Payload::Value(value) = payload {
            let length = match *value {
                Value::Inline(bytes) => {
                    self.0[at..at + bytes.len()].copy_from_slice(bytes);
                    bytes.len() as u16
                }
                Value::Long { length, first } => {
                    self.0[at..at + 4].copy_from_slice(&length.to_le_bytes());
                    self.0[at + 4..at + 8].copy_from_slice(&first.0.to_le_bytes());
                    u16::MAX
                }
            };
            self.0[cell + 2..cell + 4].copy_from_slice(&length.to_le_bytes());
        }
        let (slots, count) = (self.slots(), self.count());
        let slot = slots + SLOT * index;
        self.0.copy_within(slot..slots + SLOT * count, slot + SLOT);
        self.0[slot..slot + SLOT].copy_from_slice(&(cell as u16).to_le_bytes());
        let header = self.header_mut();
        header.count = U16::new(count as u16 + 1);
        header.cells = U16::new(cell as u16);
        header.last = U16::new(index as u16);
    }

    /// Inserts a cell at its place; `false` when the page has no room, or when the key does not begin as the others do.
    pub(crate) fn insert(&mut self, index: usize, key: &[u8], payload: Payload<'_>) -> bool {
        let Some(suffix) = key.strip_prefix(self.prefix()) else { return false };
        let bytes = SLOT + payload.bytes() + suffix.len();
        let gap = usize::from(self.header().cells.get()) - self.slots() - SLOT * self.count();
        if gap < bytes {
            if gap + usize::from(self.header().holes.get()) < bytes {
                return false;
            }
            self.close_holes();
        }
        self.push(index, (suffix, &[]), &payload);
        true
    }

    /// Removes a cell.
    pub(crate) fn remove(&mut self, index: usize) {
        let length = self.cell_length(index);
        let (slots, count) = (self.slots(), self.count());
        let slot = slots + SLOT * index;
        self.0.copy_within(slot + SLOT..slots + SLOT * count, slot);
        let header = self.header_mut();
        header.count = U16::new(count as u16 - 1);
        header.holes = U16::new(header.holes.get() + length as u16);
        header.last = U16::new(u16::MAX);
    }

    /// Overwrites a value by one of the same length; `false` when it has another.
    pub(crate) fn overwrite(&mut self, index: usize, value: &[u8]) -> bool {
        let Value::Inline(found) = self.value(index) else { return false };
        if found.len() != value.len() {
            return false;
        }
        let end = self.cell(index) + self.cell_length(index);
        self.0[end - value.len()..end].copy_from_slice(value);
        true
    }

    /// Puts another page in the place of a branch's child.
    pub(crate) fn set_child(&mut self, index: usize, child: PageNo) {
        match index.checked_sub(1) {
            None => self.header_mut().link = U32::new(child.0),
            Some(index) => {
                let at = self.cell(index) + 2;
                self.0[at..at + 4].copy_from_slice(&child.0.to_le_bytes());
            }
        }
    }

    /// Moves the cells together.
    fn close_holes(&mut self) {
        let old = *self;
        let mut at = PAGE;
        for index in 0..old.count() {
            let (from, length) = (old.cell(index), old.cell_length(index));
            at -= length;
            self.0[at..at + length].copy_from_slice(&old.0[from..from + length]);
            let slot = old.slots() + SLOT * index;
            self.0[slot..slot + SLOT].copy_from_slice(&(at as u16).to_le_bytes());
        }
        let header = self.header_mut();
        header.cells = U16::new(at as u16);
        header.holes = U16::new(0);
    }
}
