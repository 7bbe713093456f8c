//! The bytes of the journal. Every structure here is drawn in `docs/file-format.md`.

use std::hash::Hasher;

use twox_hash::XxHash3_64;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// The version of the journal's and the trailer's format.
pub const FORMAT_VERSION: u32 = 1;

pub(crate) const MAGIC: [u8; 8] = *b"CORALJNL";
pub(crate) const FOOTER_MAGIC: [u8; 8] = *b"CORALEND";

/// Where frames begin: header, marks and writer record share the page before.
pub(crate) const FRAMES_START: u64 = 4096;
/// The marks have a sector of their own, since they are rewritten in place.
pub(crate) const MARKS_AT: u64 = 512;
/// The writer record likewise.
pub(crate) const WRITER_AT: u64 = 1024;

/// The first bytes of a journal.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(crate) struct Header {
    pub(crate) magic: [u8; 8],
    pub(crate) version: u32,
    pub(crate) page_size: u32,
    /// Random for each journal: the start of the checksum chain, so that no older frame fits in.
    pub(crate) salt: u64,
    /// XXH3-64 of the bytes before.
    pub(crate) checksum: u64,
}

/// How far things have come; hints that are rewritten in place and never synced on their own.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(crate) struct Marks {
    pub(crate) salt: u64,
    /// The newest commit whose frames were synced.
    pub(crate) durable: u64,
    /// The newest commit that the file itself holds.
    pub(crate) applied: u64,
    pub(crate) checksum: u64,
}

/// Who has the journal open.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(crate) struct WriterRecord {
    pub(crate) pid: u64,
    pub(crate) checksum: u64,
}

/// What a frame holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum FrameKind {
    /// The image of a page as the frame's commit leaves it.
    Page = 1,
    /// The image of a page before the frame's commit changed it for the first time in this journal.
    Before = 2,
    /// The end of a commit; everything since the last such frame belongs to it.
    Commit = 3,
}

impl FrameKind {
    pub(crate) fn from_number(number: u32) -> Option<Self> {
        [Self::Page, Self::Before, Self::Commit].into_iter().find(|&kind| kind as u32 == number)
    }
}

/// The first bytes of a frame; the payload follows.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(crate) struct FrameHeader {
    /// XXH3-64 of the previous frame's `chain` (the header's salt for the first) and of the fields below.
    pub(crate) chain: u64,
    /// XXH3-64 of the payload.
    pub(crate) payload_sum: u64,
    pub(crate) kind: u32,
    /// Bytes of payload.
    pub(crate) length: u32,
    pub(crate) commit: u64,
    /// The page, for `Page` and `Before`; otherwise 0.
    pub(crate) page: u64,
}

/// The first bytes of a commit frame's payload; free extents and direct page runs follow.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(crate) struct CommitRecord {
    pub(crate) eoa: u64,
    pub(crate) time: u64,
    /// How many free extents follow, or [`SAME_FREE`].
    pub(crate) free_count: u64,
    /// How many runs of directly written pages follow them.
    pub(crate) direct_count: u64,
    /// The oldest commit that can still be rolled back to. What older ones refer to may have been overwritten.
    pub(crate) oldest: u64,
    /// What was written directly, past the journal, lies before this offset: a shorter file has lost it.
    pub(crate) direct_end: u64,
}

/// In `free_count`: the same extents as the commit before.
pub(crate) const SAME_FREE: u64 = u64::MAX;

/// Pages that this commit wrote into the file without the journal although the journal holds older images of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(crate) struct DirectRun {
    pub(crate) first: u64,
    pub(crate) count: u64,
}

/// The last bytes of a cleanly closed file that keeps history or free space.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(crate) struct Footer {
    pub(crate) magic: [u8; 8],
    pub(crate) version: u32,
    pub(crate) reserved: u32,
    /// Where the packed journal begins in the file.
    pub(crate) offset: u64,
    pub(crate) length: u64,
    /// XXH3-64 of the packed journal.
    pub(crate) image_sum: u64,
    /// XXH3-64 of the superblock as it was at the close, so that a trailer never outlives a change made elsewhere.
    pub(crate) superblock_sum: u64,
    pub(crate) checksum: u64,
}

pub(crate) const HEADER_LEN: usize = size_of::<Header>();
pub(crate) const FRAME_HEADER_LEN: usize = size_of::<FrameHeader>();
pub(crate) const FOOTER_LEN: usize = size_of::<Footer>();
const _: () = assert!(HEADER_LEN == 32);
const _: () = assert!(size_of::<Marks>() == 32);
const _: () = assert!(size_of::<WriterRecord>() == 16);
const _: () = assert!(FRAME_HEADER_LEN == 40);
const _: () = assert!(size_of::<CommitRecord>() == 48);
const _: () = assert!(size_of::<DirectRun>() == 16);
const _: () = assert!(FOOTER_LEN == 56);

// The structures are written as they lie in memory.
const _: () = assert!(cfg!(target_endian = "little"), "Corallite's formats are little-endian");

pub(crate) fn sum(bytes: &[u8]) -> u64 {
    XxHash3_64::oneshot(bytes)
}

/// Everything of a checksummed structure but its last field, the checksum.
pub(crate) fn sum_before_checksum(structure: &[u8]) -> u64 {
    sum(&structure[..structure.len() - size_of::<u64>()])
}

impl Header {
    pub(crate) fn new(salt: u64) -> Self {
        let mut header =
            Self { magic: MAGIC, version: FORMAT_VERSION, page_size: crate::PAGE_SIZE as u32, salt, checksum: 0 };
        header.checksum = sum_before_checksum(header.as_bytes());
        header
    }

    pub(crate) fn is_intact(&self) -> bool {
        self.magic == MAGIC && self.checksum == sum_before_checksum(self.as_bytes())
    }
}

impl Marks {
    pub(crate) fn new(salt: u64, durable: u64, applied: u64) -> Self {
        let mut marks = Self { salt, durable, applied, checksum: 0 };
        marks.checksum = sum_before_checksum(marks.as_bytes());
        marks
    }

    pub(crate) fn is_intact(&self, salt: u64) -> bool {
        self.salt == salt && self.checksum == sum_before_checksum(self.as_bytes())
    }
}

impl WriterRecord {
    pub(crate) fn new(pid: u32) -> Self {
        let mut record = Self { pid: pid.into(), checksum: 0 };
        record.checksum = sum_before_checksum(record.as_bytes());
        record
    }

    pub(crate) fn is_intact(&self) -> bool {
        self.checksum == sum_before_checksum(self.as_bytes())
    }
}

impl Footer {
    pub(crate) fn new(offset: u64, image: &[u8], superblock_sum: u64) -> Self {
        let mut footer = Self {
            magic: FOOTER_MAGIC,
            version: FORMAT_VERSION,
            reserved: 0,
            offset,
            length: image.len() as u64,
            image_sum: sum(image),
            superblock_sum,
            checksum: 0,
        };
        footer.checksum = sum_before_checksum(footer.as_bytes());
        footer
    }

    pub(crate) fn is_intact(&self) -> bool {
        self.magic == FOOTER_MAGIC && self.checksum == sum_before_checksum(self.as_bytes())
    }
}

impl FrameHeader {
    pub(crate) fn new(previous: u64, kind: FrameKind, commit: u64, page: u64, payload: &[u8]) -> Self {
        let mut header =
            Self { chain: 0, payload_sum: sum(payload), kind: kind as u32, length: payload.len() as u32, commit, page };
        header.chain = header.expected_chain(previous);
        header
    }

    pub(crate) fn expected_chain(&self, previous: u64) -> u64 {
        let mut hasher = XxHash3_64::new();
        hasher.write(&previous.to_le_bytes());
        hasher.write(&self.as_bytes()[size_of::<u64>()..]);
        hasher.finish()
    }
}
