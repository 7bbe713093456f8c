//! Files: streams of any length, each a dataset below `/files`.
//!
//! A file is written in pieces, each a commit of its own in room that no dataset names yet ([`Transaction::keep`]); the tree
//! notes whose it is. The last commit creates the dataset over the pieces, so that it appears whole. What was begun and not
//! finished is given back, after a crash too. The tree also has a checksum of every block, which reading checks.

use std::io::{self, Read, Seek, SeekFrom, Write};
use std::sync::Arc;

use corallite_file::hdf5::types::{IntSize, TypeDescriptor};
use corallite_file::hdf5::{Datatype, Group};
use corallite_file::{
    DataLayout, Error, NewDataset, Result, Snapshot, StoredChunk, StoredLayout, Transaction, encode_datatype,
    object_offset,
};
use corallite_objects::backend::ReadStream;
use twox_hash::XxHash3_64;
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::backend::Result as BackendResult;
use super::tree::{Pages, Workspace};

/// The group of files.
pub(super) const FILES: &str = "files";

/// The first byte of the tree's key of a file, and of the room of one that was begun.
pub(super) const FILE: u8 = b'f';
pub(super) const BEGUN: u8 = b'u';

/// Bytes that one checksum covers, and bytes of a chunk of a file that is in several places.
pub(super) const BLOCK: usize = 1 << 20;
/// Bytes that are written at once; a file that is not longer is in one place.
pub(super) const PIECE: usize = 8 << 20;

/// A part of the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(super) struct Extent {
    pub(super) offset: u64,
    pub(super) length: u64,
}

/// What the tree knows of a file: this, and a checksum (XXH3-64) of every block.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RecordHead {
    length: U64,
    block: U32,
    reserved: U32,
}

/// What the tree knows of a file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct FileRecord {
    pub(super) length: u64,
    pub(super) sums: Vec<u64>,
}

impl FileRecord {
    pub(super) fn add(&mut self, bytes: &[u8]) {
        self.length += bytes.len() as u64;
        self.sums.extend(bytes.chunks(BLOCK).map(XxHash3_64::oneshot));
    }

    pub(super) fn to_bytes(&self) -> Vec<u8> {
        let head = RecordHead { length: self.length.into(), block: (BLOCK as u32).into(), reserved: 0.into() };
        let sums = self.sums.iter().flat_map(|sum| sum.to_le_bytes());
        head.as_bytes().iter().copied().chain(sums).collect()
    }

    pub(super) fn read(bytes: &[u8]) -> Option<Self> {
        let (head, sums) = RecordHead::read_from_prefix(bytes).ok()?;
        let (sums, rest) = sums.as_chunks();
        let length = head.length.get();
        let is_sound =
            head.block.get() as usize == BLOCK && rest.is_empty() && length.div_ceil(BLOCK as u64) == sums.len() as u64;
        is_sound.then(|| Self { length, sums: sums.iter().map(|sum| u64::from_le_bytes(*sum)).collect() })
    }
}

/// The key that says which room a file that was begun has; its value is the [`Extent`].
pub(super) fn begun_key(file: u64, piece: u32) -> Vec<u8> {
    [&[BEGUN][..], &file.to_be_bytes(), &piece.to_be_bytes()].concat()
}

/// The name of a file's dataset: its key, with what a link's name cannot have as `%` and two digits.
pub(super) fn dataset_name(key: &str) -> String {
    if key.bytes().all(|byte| byte == b'.') {
        return "%2E".repeat(key.len());
    }
    let mut name = String::with_capacity(key.len());
    for character in key.chars() {
        match character {
            '/' | '%' | '\0'..='\x1f' | '\x7f' => name.push_str(&format!("%{:02X}", u32::from(character))),
            _ => name.push(character),
        }
    }
    name
}

/// What a commit does to files.
#[derive(Debug)]
pub(super) enum FileChange {
    /// Writes a piece of a file that is not finished.
    Piece { file: u64, piece: u32, bytes: Vec<u8> },
    /// Finishes one: `extents` it has already, and `tail` is what comes last.
    Create { key: String, extents: Vec<Extent>, tail: Vec<u8> },
    /// Gives one another key, in the place of what that had.
    Rename { from: String, to: String },
    /// Removes one.
    Remove { key: String },
    /// Removes all.
    RemoveAll,
}

impl FileChange {
    pub(super) fn run<P: Pages>(
        self,
        transaction: &Transaction<'_>,
        work: &mut Workspace<P>,
        placed: &mut Vec<Extent>,
    ) -> Result<()> {
        match self {
            Self::Piece { file, piece, bytes } => {
                let extent = write_piece(transaction, &bytes)?;
                transaction.keep(extent.offset, extent.length)?;
                work.put(&begun_key(file, piece), extent.as_bytes())?;
                placed.push(extent);
                Ok(())
            }
            Self::Create { key, extents, tail } => {
                let name = dataset_name(&key);
                let group = transaction.storage().create_group(&format!("/{FILES}"))?;
                unlink(transaction, &group, &name)?;
                create(transaction, &group, &name, extents, &tail)
            }
            Self::Rename { from, to } => {
                let group = transaction.storage().create_group(&format!("/{FILES}"))?;
                let (from, to) = (dataset_name(&from), dataset_name(&to));
                unlink(transaction, &group, &to)?;
                let explain = |error| transaction.explain(&format!("rename /files/{from}"), &error);
                group.relink(&from, &to).map_err(explain)
            }
            Self::Remove { key } => {
                let group = transaction.storage().create_group(&format!("/{FILES}"))?;
                unlink(transaction, &group, &dataset_name(&key))
            }
            Self::RemoveAll => {
                let file = transaction.file();
                if file.link_exists(FILES) {
                    file.unlink(FILES).map_err(|error| transaction.explain("remove /files", &error))?;
                }
                Ok(())
            }
        }
    }
}

/// Writes bytes to new room.
pub(super) fn write_piece(transaction: &Transaction<'_>, bytes: &[u8]) -> Result<Extent> {
    let length = bytes.len() as u64;
    let offset = transaction.allocate(length)?;
    transaction.write_at(offset, bytes)?;
    Ok(Extent { offset, length })
}

fn unlink(transaction: &Transaction<'_>, group: &Group, name: &str) -> Result<()> {
    if group.link_exists(name) {
        let explain = |error| transaction.explain(&format!("remove /files/{name}"), &error);
        group.unlink(name).map_err(explain)?;
    }
    Ok(())
}

fn create(
    transaction: &Transaction<'_>,
    group: &Group,
    name: &str,
    mut extents: Vec<Extent>,
    tail: &[u8],
) -> Result<()> {
    let length = extents.iter().map(|extent| extent.length).sum::<u64>() + tail.len() as u64;
    let datatype = Datatype::from_descriptor(&TypeDescriptor::Unsigned(IntSize::U1))
        .and_then(|datatype| encode_datatype(datatype.id()))
        .map_err(|error| transaction.explain("create a file", &error))?;
    let put = |layout| {
        let dims = [length];
        let dataset = NewDataset { datatype: &datatype, item_size: 1, dims: &dims, layout, attributes: &[] };
        transaction.create_datasets()?.create(group, name, &dataset)
    };
    if extents.is_empty() {
        let place = if tail.is_empty() { None } else { Some(write_piece(transaction, tail)?.offset) };
        return put(DataLayout::Contiguous(place));
    }
    if !tail.is_empty() {
        // HDF5's chunks are all of one size.
        let mut padded = tail.to_vec();
        padded.resize(tail.len().next_multiple_of(BLOCK), 0);
        extents.push(write_piece(transaction, &padded)?);
    }
    let block = BLOCK as u64;
    let chunks: Vec<StoredChunk> = extents
        .iter()
        .flat_map(|extent| (0..extent.length / block).map(|index| extent.offset + index * block))
        .map(|offset| StoredChunk { offset, length: block, filter_mask: 0 })
        .collect();
    put(DataLayout::Chunked { dims: &[block], filters: &[], chunks: &chunks })
}

/// The places of a file's blocks, in order, and its length, as its dataset says.
fn places(snapshot: &Snapshot, name: &str) -> Result<Option<(Vec<u64>, u64)>> {
    let file = snapshot.file();
    if !file.link_exists(FILES) {
        return Ok(None);
    }
    let explain = |error| snapshot.explain(&format!("open /files/{name}"), &error);
    let group = file.group(FILES).map_err(explain)?;
    let Some(header) = object_offset(&group, name).map_err(explain)? else { return Ok(None) };
    if let Some(description) = snapshot.describe_dataset(header)? {
        let length: u64 = description.dims.iter().product();
        match description.layout {
            StoredLayout::Contiguous { offset, length: stored } if stored == length => {
                let count = length.div_ceil(BLOCK as u64);
                return Ok(offset
                    .map_or((count == 0).then(Vec::new), |offset| {
                        Some((0..count).map(|index| offset + index * BLOCK as u64).collect())
                    })
                    .map(|places| (places, length)));
            }
            StoredLayout::Chunked { dims, filters, chunks, .. }
                if dims == [BLOCK as u64] && filters.is_empty() && chunks.iter().all(Option::is_some) =>
            {
                return Ok(Some((chunks.iter().flatten().map(|chunk| chunk.offset).collect(), length)));
            }
            _ => {}
        }
    }
    let path = snapshot.path().to_owned();
    let problem = format!("/files/{name} is not laid out as it was written; write it anew");
    Err(Error::Damaged { path, offset: header, problem })
}

/// A file that is read, as of the commit that was the newest when it was opened.
#[derive(Debug)]
pub(super) struct FileReader {
    snapshot: Arc<Snapshot>,
    key: String,
    record: FileRecord,
    places: Vec<u64>,
    position: u64,
    /// A block that was read, and its number.
    block: Vec<u8>,
    number: Option<u64>,
}

impl FileReader {
    pub(super) fn open(snapshot: Arc<Snapshot>, key: &str, record: FileRecord) -> Result<Self> {
        let name = dataset_name(key);
        let found = places(&snapshot, &name)?;
        let (places, _) = found
            .filter(|(places, length)| *length == record.length && places.len() == record.sums.len())
            .ok_or_else(|| {
                let path = snapshot.path().to_owned();
                let problem = format!("/files/{name} is not the {} bytes that were written", record.length);
                Error::Damaged { path, offset: 0, problem }
            })?;
        let key = key.to_owned();
        Ok(Self { snapshot, key, record, places, position: 0, block: Vec::new(), number: None })
    }

    /// Reads everything, to see whether it is what was written.
    pub(super) fn verify(&mut self) -> Result<()> {
        (0..self.places.len()).try_for_each(|number| self.load(number as u64))
    }

    fn load(&mut self, number: u64) -> Result<()> {
        if self.number == Some(number) {
            return Ok(());
        }
        self.number = None;
        let start = number * BLOCK as u64;
        let index = number as usize;
        self.block.resize(BLOCK.min((self.record.length - start) as usize), 0);
        let offset = self.places[index];
        self.snapshot.read_at(offset, &mut self.block)?;
        if XxHash3_64::oneshot(&self.block) != self.record.sums[index] {
            let path = self.snapshot.path().to_owned();
            let problem = format!(
                "the checksum of bytes {start} to {} of the file `{}` does not agree; write it anew",
                start + self.block.len() as u64,
                self.key
            );
            return Err(Error::Damaged { path, offset, problem });
        }
        self.number = Some(number);
        Ok(())
    }
}

impl Read for FileReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.position >= self.record.length || buffer.is_empty() {
            return Ok(0);
        }
        self.load(self.position / BLOCK as u64).map_err(io::Error::other)?;
        let part = &self.block[(self.position % BLOCK as u64) as usize..];
        let count = part.len().min(buffer.len());
        buffer[..count].copy_from_slice(&part[..count]);
        self.position += count as u64;
        Ok(count)
    }
}

/// The position in a file of this length that is meant.
pub(super) fn seek(to: SeekFrom, position: u64, length: u64) -> io::Result<u64> {
    let position = match to {
        SeekFrom::Start(position) => Some(position),
        SeekFrom::End(from) => length.checked_add_signed(from),
        SeekFrom::Current(from) => position.checked_add_signed(from),
    };
    let before = || io::Error::new(io::ErrorKind::InvalidInput, "a position before the beginning of the file");
    position.ok_or_else(before)
}

impl Seek for FileReader {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.position = seek(to, self.position, self.record.length)?;
        Ok(self.position)
    }
}

impl ReadStream for FileReader {
    fn length(&self) -> u64 {
        self.record.length
    }
}

/// Gathers bytes into pieces, and what the tree will know of them.
#[derive(Debug, Default)]
pub(super) struct Pieces {
    buffer: Vec<u8>,
    record: FileRecord,
    /// A piece could not be written, and the rest would not be a file.
    is_broken: bool,
}

impl Pieces {
    /// Adds bytes; gives a piece to `put` whenever one is full and more comes.
    pub(super) fn write(
        &mut self,
        mut bytes: &[u8],
        mut put: impl FnMut(Vec<u8>) -> io::Result<()>,
    ) -> io::Result<usize> {
        if self.is_broken {
            return Err(io::Error::other("an earlier part of the file could not be written"));
        }
        let count = bytes.len();
        while !bytes.is_empty() {
            if self.buffer.len() == PIECE {
                self.record.add(&self.buffer);
                self.is_broken = true;
                put(std::mem::take(&mut self.buffer))?;
                self.is_broken = false;
            }
            let (now, later) = bytes.split_at(bytes.len().min(PIECE - self.buffer.len()));
            self.buffer.write_all(now)?;
            bytes = later;
        }
        Ok(count)
    }

    /// What is left for the end, and the record of all.
    pub(super) fn finish(mut self, place: impl FnOnce() -> String) -> BackendResult<(Vec<u8>, FileRecord)> {
        if self.is_broken {
            let problem = format!("a part of the file could not be written to {}; write it anew", place());
            return Err(corallite_objects::Error::Usage(problem));
        }
        self.record.add(&self.buffer);
        Ok((self.buffer, self.record))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_have_names_of_their_own_that_links_can_have() {
        let keys = ["a", "a/b", "a%2Fb", ".", "..", "...", "a.b", "\u{0}", "ü", "%"];
        let names: std::collections::BTreeSet<String> = keys.iter().map(|key| dataset_name(key)).collect();
        assert_eq!(names.len(), keys.len());
        assert!(names.iter().all(|name| !name.contains(['/', '\0']) && name != "." && name != ".."));
        assert_eq!(dataset_name("models/readme.md"), "models%2Freadme.md");
    }
}
