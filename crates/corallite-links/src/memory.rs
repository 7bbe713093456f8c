//! Memory that readers look at while the writer changes it.
//!
//! A [`Region`] is reserved once and never given back while the store is open, and it is only ever read and written as
//! atomic words. A reader that is overtaken by the writer therefore reads a wrong number, never freed memory, and finds
//! that out by the version it checks afterwards (a sequence lock; Boehm, "Can seqlocks get along with programming
//! language memory models?", MSPC 2012).

use std::io;
use std::sync::atomic::AtomicU64;

use memmap2::{MmapMut, MmapOptions};

/// Memory is aligned to this, the size of a huge page, so that the kernel can use them.
const ALIGNMENT: usize = 2 << 20;

/// Zeroed words, reserved at once and paid for when touched.
#[derive(Debug)]
pub(crate) struct Region {
    map: MmapMut,
    start: usize,
    words: usize,
}

impl Region {
    /// Reserves about `bytes`, or what the system grants of it, at least `least`.
    pub(crate) fn reserve(bytes: u64, least: u64) -> io::Result<Self> {
        let mut wanted = bytes.max(least).next_multiple_of(ALIGNMENT as u64);
        loop {
            match Self::exactly(wanted as usize) {
                Err(_) if wanted / 2 >= least => wanted = (wanted / 2).next_multiple_of(ALIGNMENT as u64),
                outcome => return outcome,
            }
        }
    }

    fn exactly(bytes: usize) -> io::Result<Self> {
        let map = MmapOptions::new().len(bytes + ALIGNMENT).no_reserve_swap().map_anon()?;
        #[cfg(target_os = "linux")]
        {
            // Only advice: without huge pages everything works, more slowly.
            let _ = map.advise(memmap2::Advice::HugePage);
        }
        let start = map.as_ptr().align_offset(ALIGNMENT);
        Ok(Self { map, start, words: bytes / 8 })
    }

    /// All words.
    #[inline]
    pub(crate) fn words(&self) -> &[AtomicU64] {
        // SAFETY: `start` aligns the map for huge pages, thus for words, and `words` words follow within it (`exactly`
        // maps ALIGNMENT more bytes). The map lives as long as `self`, and nothing but these atomics ever refers to it.
        unsafe { std::slice::from_raw_parts(self.map.as_ptr().add(self.start).cast::<AtomicU64>(), self.words) }
    }
}

/// Begins to load the cache line of `word`.
#[inline]
pub(crate) fn prefetch(word: &AtomicU64) {
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: prefetching has no effect but on caches, whatever the address.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(std::ptr::from_ref(word).cast::<i8>()) };
    }
    #[cfg(not(all(target_arch = "x86_64", not(miri))))]
    let _ = word;
}
