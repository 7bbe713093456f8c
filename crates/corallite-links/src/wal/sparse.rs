//! [`SparseDisk`]: files in memory of which only written pages take room.
//!
//! libhdf5 lays the log out here, without the hundreds of megabytes that the records will take.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use corallite_file::{Access, Disk, DiskFile, Lock, Mapping, MemoryDisk};
use parking_lot::Mutex;

use super::format::PAGE;

/// A [`MemoryDisk`] for names and locks, with contents of its own.
#[derive(Debug, Default)]
pub(super) struct SparseDisk {
    names: MemoryDisk,
    contents: Mutex<HashMap<PathBuf, Arc<Mutex<Content>>>>,
}

#[derive(Debug, Default)]
struct Content {
    length: u64,
    pages: HashMap<u64, Box<[u8; PAGE as usize]>>,
}

#[derive(Debug)]
struct SparseFile {
    name: Arc<dyn DiskFile>,
    content: Arc<Mutex<Content>>,
}

impl Disk for SparseDisk {
    fn open(&self, path: &Path, access: Access) -> io::Result<Arc<dyn DiskFile>> {
        let name = self.names.open(path, access)?;
        let content = Arc::clone(self.contents.lock().entry(path.to_owned()).or_default());
        Ok(Arc::new(SparseFile { name, content }))
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.contents.lock().remove(path);
        self.names.remove(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.names.rename(from, to)?;
        let mut contents = self.contents.lock();
        let content = contents.remove(from).unwrap_or_default();
        contents.insert(to.to_owned(), content);
        Ok(())
    }

    fn sync_directory(&self, path: &Path) -> io::Result<()> {
        self.names.sync_directory(path)
    }

    fn is_at(&self, file: &dyn DiskFile, path: &Path) -> io::Result<bool> {
        self.names.is_at(file, path)
    }
}

/// The pages that `length` bytes from `offset` on touch: the page, where in it, and how many bytes.
fn pieces(offset: u64, length: usize) -> impl Iterator<Item = (u64, usize, usize)> {
    let (mut at, end) = (offset, offset.saturating_add(length as u64));
    std::iter::from_fn(move || {
        let within = at % PAGE;
        let count = (PAGE - within).min(end - at);
        let piece = (count > 0).then_some((at / PAGE, within as usize, count as usize));
        at += count;
        piece
    })
}

impl DiskFile for SparseFile {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let content = self.content.lock();
        let left = usize::try_from(content.length.saturating_sub(offset)).unwrap_or(usize::MAX);
        let total = left.min(buffer.len());
        let mut rest = &mut buffer[..total];
        for (page, within, count) in pieces(offset, total) {
            let (piece, after) = rest.split_at_mut(count);
            match content.pages.get(&page) {
                Some(bytes) => piece.copy_from_slice(&bytes[within..within + count]),
                None => piece.fill(0),
            }
            rest = after;
        }
        Ok(total)
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let mut content = self.content.lock();
        let mut rest = bytes;
        for (page, within, count) in pieces(offset, bytes.len()) {
            let (piece, after) = rest.split_at(count);
            let held = content.pages.entry(page).or_insert_with(|| Box::new([0; PAGE as usize]));
            held[within..within + count].copy_from_slice(piece);
            rest = after;
        }
        content.length = content.length.max(offset.saturating_add(bytes.len() as u64));
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.content.lock().length)
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        let mut content = self.content.lock();
        content.length = length;
        content.pages.retain(|page, _| page * PAGE < length);
        if let Some(last) = content.pages.get_mut(&(length / PAGE)) {
            last[(length % PAGE) as usize..].fill(0);
        }
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }

    fn try_lock(&self, lock: Lock) -> io::Result<bool> {
        self.name.try_lock(lock)
    }

    fn unlock(&self) -> io::Result<()> {
        self.name.unlock()
    }

    fn map(&self, _offset: u64, _length: usize) -> io::Result<Option<Mapping>> {
        Ok(None)
    }

    fn identity(&self) -> io::Result<(u64, u64)> {
        self.name.identity()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_written_reads_as_zeros_and_what_was_cut_off_too() {
        let file = SparseDisk::default().open(Path::new("f"), Access::CreateNew).unwrap();
        file.write_at(4090, &[1; 10]).unwrap();
        file.set_len(1 << 40).unwrap();
        let mut bytes = [9; 14];
        assert_eq!(file.read_at(4088, &mut bytes).unwrap(), 14);
        assert_eq!(bytes, [0, 0, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0]);
        file.set_len(4095).unwrap();
        file.set_len(5000).unwrap();
        assert_eq!(file.read_at(4094, &mut bytes).unwrap(), 14);
        assert_eq!(bytes, [1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!((file.read_at(4999, &mut bytes).unwrap(), file.read_at(6000, &mut bytes).unwrap()), (1, 0));
    }
}
