//! The meta page: where the tree stands.

use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::page::{Flaw, HEADER, HIGHEST, Kind, PAGE, PageBuf, PageNo};

/// The newest version of the pages' format, which this program reads up to.
pub const OBJECTS_FORMAT_VERSION: u32 = 1;

const MAGIC: [u8; 8] = *b"CORALOBJ";

/// Where the tree stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Meta {
    /// Counts the commits that changed the tree.
    pub(crate) generation: u64,
    pub(crate) root: PageNo,
    pub(crate) level: u8,
    /// Pages in use or in the free list; their numbers are smaller.
    pub(crate) pages: u32,
    /// The first page of the free list, and how many pages it holds.
    pub(crate) free: PageNo,
    pub(crate) free_pages: u32,
    /// Keys with a value.
    pub(crate) keys: u64,
    /// The number of the next file that is begun.
    pub(crate) next_file: u64,
}

#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Record {
    magic: [u8; 8],
    version: U32,
    page_size: U32,
    generation: U64,
    root: U32,
    level: U32,
    pages: U32,
    free: U32,
    free_pages: U32,
    reserved: U32,
    keys: U64,
    next_file: U64,
}

const _: () = assert!(size_of::<Record>() == 64);

/// Why a page cannot be used as the meta page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    Newer(u32),
    Flawed(Flaw),
}

impl Meta {
    /// A tree without pages but its own and an empty leaf.
    pub(crate) fn empty() -> Self {
        Self {
            generation: 0,
            root: PageNo(1),
            level: 0,
            pages: 2,
            free: PageNo(0),
            free_pages: 0,
            keys: 0,
            next_file: 1,
        }
    }

    /// The page, not sealed yet.
    pub(crate) fn page(&self) -> PageBuf {
        let mut page = PageBuf::new(Kind::Meta, 0);
        let record = Record {
            magic: MAGIC,
            version: U32::new(OBJECTS_FORMAT_VERSION),
            page_size: U32::new(PAGE as u32),
            generation: U64::new(self.generation),
            root: U32::new(self.root.0),
            level: U32::new(self.level.into()),
            pages: U32::new(self.pages),
            free: U32::new(self.free.0),
            free_pages: U32::new(self.free_pages),
            reserved: U32::new(0),
            keys: U64::new(self.keys),
            next_file: U64::new(self.next_file),
        };
        page.0[HEADER..HEADER + size_of::<Record>()].copy_from_slice(record.as_bytes());
        page
    }

    /// What a page read from the file says.
    pub(crate) fn read(page: &PageBuf) -> Result<Self, Refused> {
        let flawed = |problem| Refused::Flawed(Flaw(problem));
        let (record, _) =
            Record::read_from_prefix(&page.0[HEADER..]).map_err(|_| flawed("it is shorter than its record"))?;
        page.check(PageNo(0), u64::MAX).map_err(Refused::Flawed)?;
        if !page.is(Kind::Meta) || record.magic != MAGIC {
            return Err(flawed("it is no meta page"));
        }
        if record.version.get() > OBJECTS_FORMAT_VERSION {
            return Err(Refused::Newer(record.version.get()));
        }
        let meta = Self {
            generation: record.generation.get(),
            root: PageNo(record.root.get()),
            level: u8::try_from(record.level.get()).unwrap_or(u8::MAX),
            pages: record.pages.get(),
            free: PageNo(record.free.get()),
            free_pages: record.free_pages.get(),
            keys: record.keys.get(),
            next_file: record.next_file.get(),
        };
        let sound = record.page_size.get() as usize == PAGE
            && meta.generation < u64::MAX
            && meta.level <= HIGHEST
            && (1..meta.pages).contains(&meta.root.0)
            && meta.free.0 < meta.pages
            && meta.free_pages < meta.pages;
        if sound { Ok(meta) } else { Err(flawed("what it says cannot be")) }
    }
}
