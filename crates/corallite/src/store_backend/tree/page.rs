//! A page of the tree: its bytes, and what may be read from them.
//!
//! A page that comes from the file is checked once, wholly: its checksum, then every place that its slots name and the order
//! of its keys ([`PageBuf::check`]). What is read from a page afterwards can rely on it. `docs/objects-format.md` draws the
//! bytes.

use std::cmp::Ordering;

use twox_hash::XxHash3_64;
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Bytes in a page: one of the pager's, so that a change costs one image in the journal.
pub(crate) const PAGE: usize = 4096;

/// Bytes of [`Header`].
pub(crate) const HEADER: usize = size_of::<Header>();

/// Bytes of a page behind its header.
pub(crate) const ROOM: usize = PAGE - HEADER;

/// The longest key, in bytes: that of a backend, and the byte that says which map it belongs to.
pub(crate) const LONGEST_KEY: usize = corallite_objects::key::LONGEST + 1;

/// The longest value that lies beside its key. With it a cell of the longest key takes at most half the room of a page, so
/// that a page and one more cell always fit into two pages.
pub(crate) const LONGEST_INLINE: usize = 992;

const _: () = assert!(SLOT + LEAF_FIXED + LONGEST_KEY + LONGEST_INLINE <= ROOM / 2);

/// The highest level a page can have. Each level has at least twice as many pages as the one above, so it is never reached.
pub(crate) const HIGHEST: u8 = 32;

/// Bytes of a slot.
pub(crate) const SLOT: usize = 2;
/// Bytes of a leaf's cell before the key, and of a branch's.
pub(crate) const LEAF_FIXED: usize = 4;
pub(crate) const BRANCH_FIXED: usize = 6;
/// Stands in the place of a value's length where the value lies in pages of its own.
const ELSEWHERE: u16 = u16::MAX;
/// Bytes that say where.
pub(crate) const POINTER: usize = 8;

/// The number of a page in the tree. Page 0 is the meta page.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct PageNo(pub(crate) u32);

/// What a page is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Meta = 1,
    Leaf = 2,
    Branch = 3,
    Overflow = 4,
    Free = 5,
}

/// The first bytes of every page.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct Header {
    /// XXH3-64 of the rest of the page, seeded with the page's number.
    pub(crate) sum: U64,
    /// The generation of the tree that wrote it.
    pub(crate) generation: U64,
    pub(crate) kind: u8,
    /// 0 for a leaf, for a branch one more than its children.
    pub(crate) level: u8,
    /// Cells; in an overflow page bytes of the value, in a page of the free list numbers.
    pub(crate) count: U16,
    /// Where the first cell begins.
    pub(crate) cells: U16,
    /// Bytes among the cells that belong to none.
    pub(crate) holes: U16,
    /// Bytes that all keys of the page begin with.
    pub(crate) prefix: U16,
    /// Where the last cell was inserted: what is inserted in order is split where it grows.
    pub(crate) last: U16,
    /// A branch's first child; the next page of a value or of the free list, 0 for none.
    pub(crate) link: U32,
}

const _: () = assert!(HEADER == 32);

/// A value as its cell has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Value<'a> {
    Inline(&'a [u8]),
    /// In a chain of pages.
    Long {
        length: u32,
        first: PageNo,
    },
}

/// What is wrong with a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Flaw(pub(crate) &'static str);

/// The bytes of a page.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C, align(8))]
pub(crate) struct PageBuf(pub(crate) [u8; PAGE]);

impl std::fmt::Debug for PageBuf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.header().fmt(f)
    }
}

impl PageBuf {
    /// A page without content.
    pub(crate) fn new(kind: Kind, level: u8) -> Self {
        let mut page = Self([0; PAGE]);
        let header = page.header_mut();
        header.kind = kind as u8;
        header.level = level;
        header.cells = U16::new(PAGE as u16);
        page
    }

    /// The only page of a tree without keys.
    pub(crate) fn empty_leaf() -> Self {
        Self::new(Kind::Leaf, 0)
    }

    pub(crate) fn header(&self) -> &Header {
        zerocopy::transmute_ref!(first(&self.0))
    }

    pub(crate) fn header_mut(&mut self) -> &mut Header {
        zerocopy::transmute_mut!(first_mut(&mut self.0))
    }

    pub(crate) fn is(&self, kind: Kind) -> bool {
        self.header().kind == kind as u8
    }

    pub(crate) fn count(&self) -> usize {
        self.header().count.get().into()
    }

    pub(crate) fn link(&self) -> PageNo {
        PageNo(self.header().link.get())
    }

    pub(crate) fn u16_at(&self, at: usize) -> usize {
        u16::from_le_bytes([self.0[at], self.0[at + 1]]).into()
    }

    pub(crate) fn u32_at(&self, at: usize) -> u32 {
        u32::from_le_bytes([self.0[at], self.0[at + 1], self.0[at + 2], self.0[at + 3]])
    }

    pub(crate) fn prefix(&self) -> &[u8] {
        &self.0[HEADER..HEADER + usize::from(self.header().prefix.get())]
    }

    /// Where the slots begin.
    pub(crate) fn slots(&self) -> usize {
        HEADER + usize::from(self.header().prefix.get())
    }

    /// Where a cell begins.
    pub(crate) fn cell(&self, index: usize) -> usize {
        self.u16_at(self.slots() + SLOT * index)
    }

    fn fixed(&self) -> usize {
        if self.header().level == 0 { LEAF_FIXED } else { BRANCH_FIXED }
    }

    /// What a cell's key has behind the prefix.
    pub(crate) fn suffix(&self, index: usize) -> &[u8] {
        let cell = self.cell(index);
        let start = cell + self.fixed();
        &self.0[start..start + self.u16_at(cell)]
    }

    /// A cell's key.
    pub(crate) fn key(&self, index: usize) -> Vec<u8> {
        [self.prefix(), self.suffix(index)].concat()
    }

    /// A leaf's value.
    pub(crate) fn value(&self, index: usize) -> Value<'_> {
        let cell = self.cell(index);
        let start = cell + LEAF_FIXED + self.u16_at(cell);
        match self.u16_at(cell + 2) {
            length if length == usize::from(ELSEWHERE) => {
                Value::Long { length: self.u32_at(start), first: PageNo(self.u32_at(start + 4)) }
            }
            length => Value::Inline(&self.0[start..start + length]),
        }
    }

    /// A branch's child: 0 is the one before the first key.
    pub(crate) fn child(&self, index: usize) -> PageNo {
        match index.checked_sub(1) {
            None => self.link(),
            Some(index) => PageNo(self.u32_at(self.cell(index) + 2)),
        }
    }

    /// Bytes of a cell, without its slot.
    pub(crate) fn cell_length(&self, index: usize) -> usize {
        let cell = self.cell(index);
        let key = self.fixed() + self.u16_at(cell);
        match self.header().level {
            0 if self.u16_at(cell + 2) == usize::from(ELSEWHERE) => key + POINTER,
            0 => key + self.u16_at(cell + 2),
            _ => key,
        }
    }

    /// The place of a key, or the place where it would be.
    pub(crate) fn search(&self, key: &[u8]) -> Result<usize, usize> {
        let prefix = self.prefix();
        let shared = prefix.len().min(key.len());
        match key[..shared].cmp(&prefix[..shared]) {
            Ordering::Less => return Err(0),
            Ordering::Greater => return Err(self.count()),
            Ordering::Equal if key.len() < prefix.len() => return Err(0),
            Ordering::Equal => {}
        }
        let suffix = &key[shared..];
        let (mut low, mut high) = (0, self.count());
        while low < high {
            let middle = usize::midpoint(low, high);
            match self.suffix(middle).cmp(suffix) {
                Ordering::Less => low = middle + 1,
                Ordering::Greater => high = middle,
                Ordering::Equal => return Ok(middle),
            }
        }
        Err(low)
    }

    /// The child of a branch in which a key is.
    pub(crate) fn route(&self, key: &[u8]) -> usize {
        match self.search(key) {
            Ok(index) => index + 1,
            Err(index) => index,
        }
    }

    /// Bytes that its prefix, slots and cells take.
    pub(crate) fn used(&self) -> usize {
        let header = self.header();
        let holes = usize::from(header.cells.get()) + usize::from(header.holes.get());
        usize::from(header.prefix.get()) + SLOT * self.count() + PAGE - holes
    }

    fn sum(&self, number: PageNo) -> u64 {
        XxHash3_64::oneshot_with_seed(number.0.into(), &self.0[size_of::<U64>()..])
    }

    /// Gives the page the checksum that it has in the file as page `number`.
    pub(crate) fn seal(&mut self, number: PageNo, generation: u64) {
        self.header_mut().generation = U64::new(generation);
        self.header_mut().sum = U64::new(self.sum(number));
    }

    /// Checks a page as it was read from the file: that it is what was written as page `number` by now, and that nothing of it
    /// leads beyond it.
    pub(crate) fn check(&self, number: PageNo, generation: u64) -> Result<(), Flaw> {
        let header = self.header();
        if header.sum.get() != self.sum(number) {
            return Err(Flaw("its checksum does not agree"));
        }
        if header.generation.get() > generation {
            return Err(Flaw("it is newer than the tree"));
        }
        match header.kind {
            kind if kind == Kind::Leaf as u8 && header.level == 0 => self.check_cells(),
            kind if kind == Kind::Branch as u8 && (1..=HIGHEST).contains(&header.level) => self.check_cells(),
            kind if kind == Kind::Overflow as u8 && (1..=ROOM).contains(&self.count()) => Ok(()),
            kind if kind == Kind::Free as u8 && self.count() <= ROOM / 4 => Ok(()),
            kind if kind == Kind::Meta as u8 && number == PageNo(0) => Ok(()),
            _ => Err(Flaw("it is of no known kind")),
        }
    }

    fn check_cells(&self) -> Result<(), Flaw> {
        let header = self.header();
        let (prefix, cells) = (usize::from(header.prefix.get()), usize::from(header.cells.get()));
        let slots_end = HEADER + prefix + SLOT * self.count();
        let mut bytes = usize::from(header.holes.get());
        if prefix > LONGEST_KEY || slots_end > cells || cells > PAGE {
            return Err(Flaw("its cells do not fit into it"));
        }
        let fixed = self.fixed();
        for index in 0..self.count() {
            let cell = self.cell(index);
            // The lengths first: what follows reads them.
            if cell < cells || cell + fixed > PAGE {
                return Err(Flaw("a cell lies outside"));
            }
            let key = self.u16_at(cell);
            let value = match header.level {
                0 if self.u16_at(cell + 2) == usize::from(ELSEWHERE) => POINTER,
                0 => self.u16_at(cell + 2),
                _ => 0,
            };
            if prefix + key > LONGEST_KEY || cell + fixed + key + value > PAGE {
                return Err(Flaw("a cell lies outside"));
            }
            if index > 0 && self.suffix(index - 1) >= self.suffix(index) {
                return Err(Flaw("its keys are not in order"));
            }
            bytes += fixed + key + value;
        }
        // Else cells overlap, and changing one would change another.
        if bytes == PAGE - cells { Ok(()) } else { Err(Flaw("its cells do not add up")) }
    }
}

fn first(page: &[u8; PAGE]) -> &[u8; HEADER] {
    page.first_chunk().unwrap_or(&[0; HEADER])
}

fn first_mut(page: &mut [u8; PAGE]) -> &mut [u8; HEADER] {
    // A page is longer than its header, which the compiler sees.
    match page.split_first_chunk_mut() {
        Some((header, _)) => header,
        None => unreachable!("a page is longer than its header"),
    }
}
