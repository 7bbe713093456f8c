//! Free space: which bytes of the file nobody refers to, since when, and who may hand them out.
//!
//! libhdf5 forgets its free space when a file is closed. Here the allocator sits under it (the driver's `alloc`
//! callback): extents freed in earlier sessions and the rests of metadata zones are *owned* by [`Space`] and handed
//! out from there; extents freed in this session stay with libhdf5 (*lent*), which reuses them by itself, and become
//! owned when the HDF5 handle is next opened. Both are recorded with every commit.
//!
//! An extent is *safe* when no state that can still be read or rolled back to refers to it: it was freed at or before
//! the oldest such commit. Only safe pages may be written in place without the journal.

use std::collections::{BTreeMap, BTreeSet};

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::page::{CommitNumber, PAGE_SIZE, PageNumber};

/// Metadata and small raw data are carved from zones of this many bytes, so that they do not mix with tensors.
const ZONE: u64 = 64 * 1024;

/// Aligns any number in a tensor. Sizes are never rounded: libhdf5 gives back as many bytes as it asked for, and the
/// rest would be lost.
const NUMBER: u64 = 8;

/// Extents among which an allocation chooses.
const CANDIDATES: usize = 32;

/// Extents beyond this number (the smallest first) are forgotten rather than recorded with each commit.
pub(crate) const MAX_EXTENTS: usize = 1 << 16;

/// An extent that nothing refers to since `freed_at`, as recorded with a commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(crate) struct FreeExtent {
    pub(crate) start: u64,
    pub(crate) length: u64,
    pub(crate) freed_at: u64,
}

const _: () = assert!(size_of::<FreeExtent>() == 24);

/// What an allocation is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Use {
    /// HDF5 metadata.
    Metadata,
    /// Array data that may be mapped.
    Raw,
    /// Array data that is decoded before it is used.
    Encoded,
}

#[derive(Clone, Copy, Debug)]
struct Owned {
    end: u64,
    freed_at: CommitNumber,
}

/// What the states that can be read while a transaction runs reach.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Horizon {
    /// The oldest of them.
    pub(crate) oldest: CommitNumber,
    /// None of them has bytes from here on.
    pub(crate) end: u64,
    /// The commit that the transaction will be.
    pub(crate) now: CommitNumber,
}

/// The writer's allocator.
#[derive(Debug, Default)]
pub(crate) struct Space {
    owned: BTreeMap<u64, Owned>,
    by_length: BTreeSet<(u64, u64)>,
    lent: Vec<FreeExtent>,
}

/// Page runs that may be written without the journal.
#[derive(Debug, Default)]
pub(crate) struct SafePages(Vec<(u64, u64)>);

impl SafePages {
    pub(crate) fn contains(&self, page: PageNumber) -> bool {
        let after = self.0.partition_point(|&(first, _)| first <= page.0);
        after > 0 && page.0 < self.0[after - 1].1
    }
}

impl Space {
    /// The allocator of a file whose last commit recorded `free`.
    pub(crate) fn new(free: &[FreeExtent]) -> Self {
        let mut space = Self::default();
        for extent in free {
            space.give(extent.start, extent.start + extent.length, CommitNumber(extent.freed_at));
        }
        space
    }

    /// Extents that became safe need no date any more, which lets neighbours merge.
    pub(crate) fn settle(&mut self, oldest: CommitNumber) {
        let stale: Vec<(u64, u64)> = self
            .owned
            .iter()
            .filter(|(_, owned)| owned.freed_at.0 != 0 && owned.freed_at <= oldest)
            .map(|(&start, owned)| (start, owned.end))
            .collect();
        for (start, end) in stale {
            if self.owned.get(&start).is_some_and(|owned| owned.end == end) {
                self.take(start);
                self.give(start, end, CommitNumber(0));
            }
        }
    }

    /// The pages that lie wholly in extents freed at or before `oldest`, except those that overlap a `pinned` range.
    pub(crate) fn safe_pages(&self, oldest: CommitNumber, pinned: &[(u64, u64)]) -> SafePages {
        let owned = self
            .by_length
            .range((PAGE_SIZE, 0)..)
            .filter_map(|&(length, start)| Some((start, start + length, self.owned.get(&start)?.freed_at)))
            .filter(|&(_, _, freed_at)| freed_at <= oldest)
            .map(|(start, end, _)| (start, end));
        let lent = self
            .lent
            .iter()
            .filter(|extent| extent.length >= PAGE_SIZE && extent.freed_at <= oldest.0)
            .map(|extent| (extent.start, extent.start + extent.length));
        let mut runs: Vec<(u64, u64)> = Vec::new();
        for (start, end) in owned.chain(lent) {
            let (mut first, last) = (start.div_ceil(PAGE_SIZE), end / PAGE_SIZE);
            let mut blocked: Vec<(u64, u64)> = pinned
                .iter()
                .map(|&(from, to)| (from / PAGE_SIZE, to.div_ceil(PAGE_SIZE)))
                .filter(|&(from, to)| from < last && to > first)
                .collect();
            blocked.sort_unstable();
            for (from, to) in blocked {
                if first < from {
                    runs.push((first, from));
                }
                first = first.max(to);
            }
            if first < last {
                runs.push((first, last));
            }
        }
        runs.sort_unstable();
        SafePages(runs)
    }

    /// Finds room for `size` bytes in the owned extents that are safe, or at the end of allocation.
    pub(crate) fn allocate(&mut self, purpose: Use, size: u64, horizon: &Horizon, eoa: &mut u64) -> Option<u64> {
        let align = match purpose {
            Use::Raw | Use::Encoded if size >= PAGE_SIZE => PAGE_SIZE,
            Use::Raw => NUMBER,
            Use::Metadata | Use::Encoded => 1,
        };
        if let Some(start) = self.fit(size, align, horizon.oldest) {
            return Some(start);
        }
        let start = eoa.checked_next_multiple_of(align)?;
        let end = start.checked_add(size)?;
        let zone_end = if size < ZONE / 4 && align < PAGE_SIZE {
            start.checked_add(ZONE)?.checked_next_multiple_of(PAGE_SIZE)?
        } else {
            end
        };
        for (from, to) in [(*eoa, start), (end, zone_end)] {
            // Readable states may be longer than what is allocated now; the rest was never used by anything and is
            // safe from the beginning.
            let used = horizon.end.clamp(from, to);
            self.give(from, used, horizon.now);
            self.give(used, to, CommitNumber(0));
        }
        *eoa = zone_end;
        Some(start)
    }

    /// Takes back room that was handed out in this transaction and that nothing came to refer to.
    pub(crate) fn release(&mut self, start: u64, size: u64, horizon: &Horizon) {
        // Bytes may have been written there; they become free with this commit, like what it deletes.
        self.give(start, start.saturating_add(size), horizon.now);
    }

    /// Of the shortest safe extents that hold an aligned run of `size` bytes the first one in the file, so that what is
    /// written anew moves towards the beginning.
    fn fit(&mut self, size: u64, align: u64, oldest: CommitNumber) -> Option<u64> {
        let fitting = self.by_length.range((size, 0)..).filter_map(|&(_, start)| {
            let owned = self.owned.get(&start)?;
            let aligned = start.checked_next_multiple_of(align)?;
            let fits = owned.freed_at <= oldest && aligned.checked_add(size)? <= owned.end;
            fits.then_some((start, aligned))
        });
        let (start, aligned) = fitting.take(CANDIDATES).min()?;
        let owned = self.take(start)?;
        self.give(start, aligned, owned.freed_at);
        self.give(aligned + size, owned.end, owned.freed_at);
        Some(aligned)
    }

    /// libhdf5 moved the end of allocation down: nothing above it is ours any more.
    pub(crate) fn cut(&mut self, eoa: u64) {
        while let Some((&start, owned)) = self.owned.range(..).next_back() {
            if owned.end <= eoa {
                break;
            }
            let freed_at = owned.freed_at;
            self.take(start);
            self.give(start, eoa.max(start), freed_at);
        }
    }

    /// Where the end of allocation can be, when what is owned and free just below it is given up. Older states that
    /// reach beyond keep the file from being cut there.
    pub(crate) fn shrink(&mut self, mut eoa: u64) -> u64 {
        while let Some((&start, owned)) = self.owned.range(..eoa).next_back()
            && owned.end == eoa
        {
            self.take(start);
            eoa = start;
        }
        eoa
    }

    /// Takes over what libhdf5 holds as free at commit `now`: extents free since before keep their date.
    pub(crate) fn set_lent(&mut self, mut sections: Vec<(u64, u64)>, now: CommitNumber) {
        sections.sort_unstable();
        let mut old = std::mem::take(&mut self.lent);
        old.sort_unstable_by_key(|extent| extent.start);
        let mut next = 0;
        for (mut start, end) in sections {
            while next < old.len() && old[next].start + old[next].length <= start {
                next += 1;
            }
            let mut at = next;
            while start < end {
                match old.get(at) {
                    Some(extent) if extent.start < end => {
                        if start < extent.start {
                            self.lent.push(FreeExtent { start, length: extent.start - start, freed_at: now.0 });
                            start = extent.start;
                        }
                        let stop = end.min(extent.start + extent.length);
                        if stop > start {
                            self.lent.push(FreeExtent { start, length: stop - start, freed_at: extent.freed_at });
                            start = stop;
                        }
                        at += 1;
                    }
                    _ => {
                        self.lent.push(FreeExtent { start, length: end - start, freed_at: now.0 });
                        start = end;
                    }
                }
            }
        }
    }

    /// All that is free, as a commit records it, sorted by start.
    pub(crate) fn recorded(&self, eoa: u64) -> Vec<FreeExtent> {
        let mut all: Vec<FreeExtent> = self
            .owned
            .iter()
            .map(|(&start, owned)| FreeExtent { start, length: owned.end - start, freed_at: owned.freed_at.0 })
            .chain(self.lent.iter().copied())
            .filter(|extent| extent.start + extent.length <= eoa)
            .collect();
        if all.len() > MAX_EXTENTS {
            all.sort_unstable_by_key(|extent| std::cmp::Reverse(extent.length));
            all.truncate(MAX_EXTENTS);
        }
        all.sort_unstable_by_key(|extent| extent.start);
        all
    }

    fn give(&mut self, mut start: u64, mut end: u64, freed_at: CommitNumber) {
        if start >= end {
            return;
        }
        if let Some((&before, owned)) = self.owned.range(..start).next_back()
            && owned.end == start
            && owned.freed_at == freed_at
        {
            self.take(before);
            start = before;
        }
        if let Some(owned) = self.owned.get(&end)
            && owned.freed_at == freed_at
        {
            let after = end;
            end = owned.end;
            self.take(after);
        }
        self.owned.insert(start, Owned { end, freed_at });
        self.by_length.insert((end - start, start));
    }

    fn take(&mut self, start: u64) -> Option<Owned> {
        let owned = self.owned.remove(&start)?;
        self.by_length.remove(&(owned.end - start, start));
        Some(owned)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: CommitNumber = CommitNumber(9);
    const HORIZON: Horizon = Horizon { oldest: NOW, end: 0, now: CommitNumber(10) };

    #[test]
    fn raw_data_is_page_aligned_and_metadata_shares_a_zone() {
        let (mut space, mut eoa) = (Space::default(), 100);
        let first = space.allocate(Use::Metadata, 300, &HORIZON, &mut eoa).unwrap();
        let second = space.allocate(Use::Metadata, 300, &HORIZON, &mut eoa).unwrap();
        let tensor = space.allocate(Use::Raw, 10_000, &HORIZON, &mut eoa).unwrap();
        assert_eq!((first, second), (100, 400));
        assert_eq!(tensor % PAGE_SIZE, 0);
        assert!(tensor >= 100);
        assert!(eoa >= tensor + 10_000);
    }

    #[test]
    fn an_extent_is_not_handed_out_while_an_older_commit_can_be_read() {
        let mut space = Space::new(&[FreeExtent { start: 4096, length: 8192, freed_at: 5 }]);
        let mut eoa = 40_960;
        let early = space.allocate(Use::Raw, 8192, &Horizon { oldest: CommitNumber(4), ..HORIZON }, &mut eoa).unwrap();
        assert_eq!(early, 40_960);
        let late = space.allocate(Use::Raw, 8192, &Horizon { oldest: CommitNumber(5), ..HORIZON }, &mut eoa).unwrap();
        assert_eq!(late, 4096);
    }

    #[test]
    fn safe_pages_leave_out_pinned_and_partial_pages() {
        let space = Space::new(&[FreeExtent { start: 100, length: 10 * PAGE_SIZE, freed_at: 1 }]);
        let safe = space.safe_pages(NOW, &[(4 * PAGE_SIZE + 10, 4 * PAGE_SIZE + 20)]);
        let pages: Vec<u64> = (0..12).filter(|&page| safe.contains(PageNumber(page))).collect();
        assert_eq!(pages, [1, 2, 3, 5, 6, 7, 8, 9]);
        assert!(!space.safe_pages(CommitNumber(0), &[]).contains(PageNumber(2)));
    }

    #[test]
    fn lent_extents_keep_the_date_of_the_part_that_was_free_before() {
        let mut space = Space::default();
        space.set_lent(vec![(1000, 2000)], CommitNumber(3));
        space.set_lent(vec![(500, 2500), (4000, 4100)], CommitNumber(7));
        let found: Vec<(u64, u64, u64)> =
            space.recorded(10_000).iter().map(|extent| (extent.start, extent.length, extent.freed_at)).collect();
        assert_eq!(found, [(500, 500, 7), (1000, 1000, 3), (2000, 500, 7), (4000, 100, 7)]);
    }

    #[test]
    fn the_rest_of_a_zone_is_not_safe_where_an_older_commit_was_longer() {
        let (mut space, mut eoa) = (Space::default(), 0);
        let horizon = Horizon { oldest: NOW, end: 3 * PAGE_SIZE, now: CommitNumber(10) };
        space.allocate(Use::Metadata, 300, &horizon, &mut eoa).unwrap();
        let safe = space.safe_pages(NOW, &[]);
        let pages: Vec<u64> = (0..5).filter(|&page| safe.contains(PageNumber(page))).collect();
        assert_eq!(pages, [3, 4]);
        assert!(space.safe_pages(CommitNumber(10), &[]).contains(PageNumber(2)));
    }

    #[test]
    fn free_space_at_the_end_is_given_up() {
        let extent = |start, length, freed_at| FreeExtent { start, length, freed_at };
        let mut space = Space::new(&[extent(100, 100, 0), extent(300, 50, 1), extent(350, 150, 2)]);
        assert_eq!(space.shrink(501), 501);
        assert_eq!(space.shrink(500), 300);
        assert_eq!(space.recorded(300), [extent(100, 100, 0)]);
    }

    #[test]
    fn nothing_is_handed_out_twice() {
        let (mut space, mut eoa) = (Space::default(), 0);
        let mut taken: Vec<(u64, u64)> = Vec::new();
        for round in 0..2000_u64 {
            let size = 1 + (round * 7919) % 9000;
            let purpose = if round % 3 == 0 { Use::Raw } else { Use::Metadata };
            let start = space.allocate(purpose, size, &HORIZON, &mut eoa).unwrap();
            assert!(start + size <= eoa);
            taken.push((start, start + size));
        }
        taken.sort_unstable();
        assert!(taken.windows(2).all(|pair| pair[0].1 <= pair[1].0));
    }
}
