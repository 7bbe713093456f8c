//! Streams, which are files.

use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Seek, SeekFrom, Write};

use super::DirectoryBackend;
use super::disk::Staged;
use crate::backend::{Durability, ReadStream, WriteStream};
use crate::error::{Error, Result};

/// How much is read and written at a time.
const BUFFER: usize = 128 * 1024;

/// Reads a file, which stays what it was when it is replaced.
#[derive(Debug)]
pub(super) struct Reader {
    file: BufReader<File>,
    length: u64,
}

impl Reader {
    pub(super) fn new(file: File) -> io::Result<Self> {
        let length = file.metadata()?.len();
        Ok(Self { file: BufReader::with_capacity(BUFFER, file), length })
    }
}

impl Read for Reader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.file.read(buffer)
    }
}

impl Seek for Reader {
    fn seek(&mut self, position: SeekFrom) -> io::Result<u64> {
        self.file.seek(position)
    }
}

impl ReadStream for Reader {
    fn length(&self) -> u64 {
        self.length
    }
}

/// Writes a temporary file, which gets its place in the end.
pub(super) struct Writer<'a> {
    pub(super) backend: &'a DirectoryBackend,
    pub(super) key: String,
    pub(super) staged: Staged,
    pub(super) file: BufWriter<File>,
}

impl<'a> Writer<'a> {
    pub(super) fn new(backend: &'a DirectoryBackend, key: &str, staged: Staged, file: File) -> Self {
        Self { backend, key: key.to_owned(), staged, file: BufWriter::with_capacity(BUFFER, file) }
    }
}

impl Write for Writer<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl WriteStream for Writer<'_> {
    fn finish(self: Box<Self>, durability: Durability) -> Result<()> {
        let Self { backend, key, staged, file } = *self;
        let failed = |error| Error::io("write the stream of", format!("{key} in {}", backend.root().display()), error);
        let file = file.into_inner().map_err(|error| failed(error.into_error()))?;
        if durability == Durability::Durable {
            file.sync_data().map_err(failed)?;
        }
        drop(file);
        backend.place_stream(&key, staged, durability)
    }
}
