//! Maps a file into memory.

use std::fs::File;
use std::sync::Arc;

use bytes::Bytes;
use memmap2::Mmap;

/// A file in memory.
#[derive(Debug, Clone)]
pub(super) struct Mapped(Arc<Mmap>);

impl AsRef<[u8]> for Mapped {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Mapped {
    /// Maps the whole file, which must not be empty. Its bytes are read from disk when they are touched.
    #[allow(unsafe_code)]
    pub(super) fn new(file: &File) -> std::io::Result<Self> {
        // SAFETY: the mapping is owned by the value and by the `Bytes` made of it, and nothing here writes through it. That
        // no other process changes the file in place is what `SafetensorsFile::open` asks of its caller; Unix offers no
        // way to enforce it.
        Ok(Self(Arc::new(unsafe { Mmap::map(file)? })))
    }

    /// The bytes; they keep the mapping.
    pub(super) fn bytes(&self) -> Bytes {
        Bytes::from_owner(self.clone())
    }

    /// Gives back the memory of what was touched; what is touched again is read again, as a rule from the page cache.
    #[allow(unsafe_code)]
    pub(super) fn forget(&self) {
        #[cfg(unix)]
        // SAFETY: the pages are those of a file that nothing writes through this mapping: dropped, they come back the same.
        // That this fails costs nothing but memory.
        let _ = unsafe { self.0.unchecked_advise(memmap2::UncheckedAdvice::DontNeed) };
    }
}
