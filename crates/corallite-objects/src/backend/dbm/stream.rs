//! Streams, in chunks.
//!
//! Chunks are written while the stream is, and belong to nobody until its number is entered under its key. A number that
//! is not, or not any more, is in `UNFINISHED` until the last of its chunks is gone.

use std::fmt;
use std::io::{self, Read, Seek, SeekFrom, Write};

use redb::{ReadOnlyTable, ReadableTable, Table, WriteTransaction};

use super::DbmBackend;
use super::file::{ABOUT, CHECKSUM, CHUNKS, Failure, NEXT, STREAMS, UNFINISHED, checksum, guarded, unsealed};
use crate::backend::{Durability, EventKind, ReadStream, WriteStream};
use crate::error::{Error, Result};

/// The bytes of a chunk: with what redb adds it fits into 256 KiB, and would else take twice that.
const CHUNK: usize = 256 * 1024 - 256;

/// How many chunks are written, or removed, in one transaction.
const AT_ONCE: usize = 16;

/// Where the chunks of a stream are.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    pub(super) id: u64,
    length: u64,
}

impl Place {
    fn seal(self, key: &[u8]) -> Vec<u8> {
        let value = [self.id.to_le_bytes(), self.length.to_le_bytes()].concat();
        [checksum(key, &value).as_slice(), &value].concat()
    }

    pub(super) fn unseal(key: &[u8], sealed: &[u8]) -> Option<Self> {
        let (id, length) = unsealed(key, sealed)?.split_first_chunk()?;
        Some(Self { id: u64::from_le_bytes(*id), length: u64::from_le_bytes(length.try_into().ok()?) })
    }
}

fn chunk_key(id: u64, number: u64) -> [u8; 16] {
    let mut key = [0; 16];
    key[..8].copy_from_slice(&id.to_le_bytes());
    key[8..].copy_from_slice(&number.to_le_bytes());
    key
}

/// Takes a stream's chunks from it, at once when they are few. The number of one that still has some.
pub(super) fn release(transaction: &WriteTransaction, place: Place) -> std::result::Result<Option<u64>, Failure> {
    if place.length <= (CHUNK * AT_ONCE) as u64 {
        remove_some(&mut transaction.open_table(CHUNKS)?, place.id)?;
        return Ok(None);
    }
    transaction.open_table(UNFINISHED)?.insert(place.id, ())?;
    Ok(Some(place.id))
}

/// Makes it the stream of a key. The number of the one before, if it still has chunks.
pub(super) fn enter(
    transaction: &WriteTransaction,
    streams: &mut Table<'_, &'static [u8], &'static [u8]>,
    key: &str,
    place: Place,
) -> std::result::Result<Option<u64>, Failure> {
    let key = key.as_bytes();
    let old = streams.insert(key, place.seal(key).as_slice())?.and_then(|old| Place::unseal(key, old.value()));
    old.map_or(Ok(None), |old| release(transaction, old))
}

/// Removes some chunks of a stream; says whether those were the last.
fn remove_some(chunks: &mut Table<'_, (u64, u64), &'static [u8]>, id: u64) -> std::result::Result<bool, Failure> {
    let found: std::result::Result<Vec<_>, redb::StorageError> =
        chunks.range((id, 0)..=(id, u64::MAX))?.take(AT_ONCE + 1).map(|entry| Ok(entry?.0.value())).collect();
    let found = found?;
    for key in found.iter().take(AT_ONCE + 1) {
        chunks.remove(key)?;
    }
    Ok(found.len() <= AT_ONCE)
}

/// Removes the chunks of a stream that nobody has.
pub(super) fn purge(backend: &DbmBackend, id: u64) -> Result<()> {
    let mut is_done = false;
    while !is_done {
        is_done = backend.commit(
            "clean up",
            |transaction| {
                let is_done = remove_some(&mut transaction.open_table(CHUNKS)?, id)?;
                if is_done {
                    transaction.open_table(UNFINISHED)?.remove(id)?;
                }
                Ok(is_done)
            },
            |_| (),
        )?;
    }
    Ok(())
}

/// Writes chunks.
pub(super) struct Writer<'a> {
    backend: &'a DbmBackend,
    key: String,
    /// The stream's number, once some of it is written and until it is finished.
    id: Option<u64>,
    chunks: u64,
    length: u64,
    buffer: Vec<u8>,
}

impl<'a> Writer<'a> {
    pub(super) fn new(backend: &'a DbmBackend, key: &str) -> Self {
        Self { backend, key: key.to_owned(), id: None, chunks: 0, length: 0, buffer: Vec::new() }
    }

    /// Writes what is in the buffer, after a number for the stream.
    fn write_chunks(&self, transaction: &WriteTransaction) -> std::result::Result<u64, Failure> {
        let id = match self.id {
            Some(id) => id,
            None => {
                let mut about = transaction.open_table(ABOUT)?;
                let id = about.get(NEXT)?.map_or(0, |next| next.value());
                about.insert(NEXT, id + 1)?;
                id
            }
        };
        let mut chunks = transaction.open_table(CHUNKS)?;
        for (number, bytes) in (self.chunks..).zip(self.buffer.chunks(CHUNK)) {
            let mut place = chunks.insert_reserve((id, number), CHECKSUM + bytes.len())?;
            let place: &mut [u8] = place.as_mut();
            place[..CHECKSUM].copy_from_slice(&checksum(&chunk_key(id, number), bytes));
            place[CHECKSUM..].copy_from_slice(bytes);
        }
        Ok(id)
    }

    fn flush_buffer(&mut self) -> Result<()> {
        let id = self.backend.commit(
            "write",
            |transaction| {
                let id = self.write_chunks(transaction)?;
                transaction.open_table(UNFINISHED)?.insert(id, ())?;
                Ok(id)
            },
            |_| (),
        )?;
        self.id = Some(id);
        self.chunks += self.buffer.len().div_ceil(CHUNK) as u64;
        self.buffer.clear();
        Ok(())
    }
}

impl Write for Writer<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.buffer.len() == CHUNK * AT_ONCE {
            self.flush_buffer().map_err(io::Error::other)?;
        }
        let taken = bytes.len().min(CHUNK * AT_ONCE - self.buffer.len());
        self.buffer.extend_from_slice(&bytes[..taken]);
        self.length += taken as u64;
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        // Chunks are written whole; the rest with the end of the stream.
        Ok(())
    }
}

impl WriteStream for Writer<'_> {
    fn finish(mut self: Box<Self>, _durability: Durability) -> Result<()> {
        let left = self.backend.commit(
            "write",
            |transaction| {
                let id = self.write_chunks(transaction)?;
                if self.id.is_some() {
                    transaction.open_table(UNFINISHED)?.remove(id)?;
                }
                let place = Place { id, length: self.length };
                enter(transaction, &mut transaction.open_table(STREAMS)?, &self.key, place)
            },
            |_| self.backend.watchers.happened(&self.key, EventKind::Stream),
        )?;
        self.id = None;
        // What is left is removed at the next opening, if not now.
        left.map_or(Ok(()), |id| purge(self.backend, id))
    }
}

impl Drop for Writer<'_> {
    fn drop(&mut self) {
        if let Some(id) = self.id {
            let _ = purge(self.backend, id);
        }
    }
}

/// Reads chunks as they were when it was opened.
pub(super) struct Reader {
    pub(super) path: std::path::PathBuf,
    pub(super) key: String,
    pub(super) chunks: ReadOnlyTable<(u64, u64), &'static [u8]>,
    pub(super) place: Place,
    pub(super) position: u64,
    /// The chunk read last, by its number.
    pub(super) chunk: Option<(u64, Vec<u8>)>,
}

impl Reader {
    fn load(&mut self, number: u64) -> Result<()> {
        let (id, length) = (self.place.id, self.place.length);
        let wanted = (length - number * CHUNK as u64).min(CHUNK as u64) as usize;
        let bytes = guarded(&self.path, "read", || {
            let found = self.chunks.get((id, number))?;
            let bytes = found.as_ref().and_then(|found| unsealed(&chunk_key(id, number), found.value()));
            match bytes.filter(|bytes| bytes.len() == wanted) {
                Some(bytes) => Ok(bytes.to_vec()),
                None => {
                    let problem =
                        format!("chunk {number} of its stream is not the one that was written; write it again");
                    let location = super::file::location(&self.path);
                    Err(Error::Malformed { location, key: self.key.clone(), problem }.into())
                }
            }
        })?;
        self.chunk = Some((number, bytes));
        Ok(())
    }
}

impl Read for Reader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.position >= self.place.length || buffer.is_empty() {
            return Ok(0);
        }
        let (number, start) = (self.position / CHUNK as u64, (self.position % CHUNK as u64) as usize);
        if self.chunk.as_ref().is_none_or(|(loaded, _)| *loaded != number) {
            self.load(number).map_err(io::Error::other)?;
        }
        let bytes = self.chunk.as_ref().map_or(&[][..], |(_, bytes)| &bytes[start..]);
        let read = bytes.len().min(buffer.len());
        buffer[..read].copy_from_slice(&bytes[..read]);
        self.position += read as u64;
        Ok(read)
    }
}

impl Seek for Reader {
    fn seek(&mut self, position: SeekFrom) -> io::Result<u64> {
        let position = match position {
            SeekFrom::Start(position) => Some(position),
            SeekFrom::End(offset) => self.place.length.checked_add_signed(offset),
            SeekFrom::Current(offset) => self.position.checked_add_signed(offset),
        };
        let before = || io::Error::new(io::ErrorKind::InvalidInput, "this is before the start of the stream");
        self.position = position.ok_or_else(before)?;
        Ok(self.position)
    }
}

impl ReadStream for Reader {
    fn length(&self) -> u64 {
        self.place.length
    }
}

impl fmt::Debug for Reader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reader").field("key", &self.key).field("place", &self.place).finish_non_exhaustive()
    }
}
