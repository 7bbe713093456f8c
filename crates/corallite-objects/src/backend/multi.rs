//! Several backends that hold the same.

use std::cmp::Ordering;
use std::io::{self, Read, Write};
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;

use super::{Backend, Change, Durability, Entries, Expect, Keys, Range, ReadStream, Watchers, WriteStream};
use crate::error::{Error, Result};

/// How much is copied at a time.
const BATCH: usize = 500;
const BATCH_BYTES: usize = 4 << 20;
const PIECE: usize = 256 * 1024;

/// Writes to several backends. The first one is read, and it alone decides; the others, its mirrors, get what it got.
///
/// ```
/// use std::sync::Arc;
/// use corallite_objects::backend::{Backend, BackendExt, MemoryBackend, MultiBackend};
///
/// let (first, mirror) = (Arc::new(MemoryBackend::new()), Arc::new(MemoryBackend::new()));
/// let both = MultiBackend::new(vec![first, mirror.clone()])?;
/// both.add("Account.1", b"{}")?;
/// assert!(mirror.has("Account.1")?);
/// # Ok::<(), corallite_objects::Error>(())
/// ```
///
/// When a mirror fails, what was written is in the first one and in the other mirrors, and the error names the one that is
/// behind. Then, after a crash, and when mirrors were written by others, [`MultiBackend::resync`] makes them equal.
#[derive(Debug)]
pub struct MultiBackend {
    first: Arc<dyn Backend>,
    mirrors: Vec<Arc<dyn Backend>>,
    /// Held while something is written, so that every mirror gets it in the same order.
    writer: Mutex<()>,
}

impl MultiBackend {
    /// The first one and its mirrors. They are not compared; [`MultiBackend::resync`] does that.
    ///
    /// # Errors
    ///
    /// [`Error::Usage`] when there is none.
    pub fn new(backends: Vec<Arc<dyn Backend>>) -> Result<Self> {
        let mut backends = backends.into_iter();
        let Some(first) = backends.next() else {
            return Err(Error::Usage("a multi backend needs at least one backend".to_owned()));
        };
        Ok(Self { first, mirrors: backends.collect(), writer: Mutex::new(()) })
    }

    /// Gives every mirror the values and streams of the first one, and takes from it what that has not. Who writes waits.
    ///
    /// # Errors
    ///
    /// What the first one reports when it is read, and what mirrors report; the others are brought to its state.
    pub fn resync(&self) -> Result<()> {
        let _writer = self.writer.lock();
        self.each_mirror(|mirror| {
            self.copy_values(mirror)?;
            self.copy_streams(mirror)?;
            mirror.sync()
        })
    }

    /// Does something to every mirror, also when one fails.
    fn each_mirror(&self, act: impl Fn(&dyn Backend) -> Result<()>) -> Result<()> {
        let results: Vec<Result<()>> = self.mirrors.iter().map(|mirror| behind(&**mirror, act(&**mirror))).collect();
        results.into_iter().collect()
    }

    fn copy_values(&self, mirror: &dyn Backend) -> Result<()> {
        let mut batch: Vec<(String, Option<Bytes>)> = Vec::new();
        let mut bytes = 0;
        let all = Range::default();
        let (own, theirs) = (self.first.keys_in(&all)?, mirror.keys_in(&all)?);
        for step in Merge::new(own, theirs) {
            let (key, in_first, in_mirror) = step?;
            let value = if in_first { self.first.get(&key)? } else { None };
            // What the mirror cannot read is written again.
            let is_same = in_mirror == value.is_some() && mirror.get(&key).is_ok_and(|found| found == value);
            if !is_same {
                bytes += value.as_ref().map_or(0, Bytes::len);
                batch.push((key, value));
            }
            if batch.len() >= BATCH || bytes >= BATCH_BYTES {
                apply(mirror, &std::mem::take(&mut batch))?;
                bytes = 0;
            }
        }
        apply(mirror, &batch)
    }

    fn copy_streams(&self, mirror: &dyn Backend) -> Result<()> {
        let keys: Result<Vec<_>> = Merge::new(self.first.streams("")?, mirror.streams("")?).collect();
        for (key, in_first, in_mirror) in keys? {
            let read = || if in_first { self.first.read_stream(&key) } else { Ok(None) };
            match read()? {
                None => drop(mirror.remove_stream(&key)?),
                Some(own) => {
                    if in_mirror && mirror.read_stream(&key).is_ok_and(|theirs| is_same(own, theirs)) {
                        continue;
                    }
                    let Some(mut own) = read()? else { continue };
                    let mut stream = mirror.write_stream(&key)?;
                    let copied = copy(&mut *own, &mut *stream);
                    copied.map_err(|error| Error::io("copy the stream of", &key, error))?;
                    stream.finish(Durability::Buffered)?;
                }
            }
        }
        Ok(())
    }
}

/// Two lists of keys as one: each key, and in which of them it is.
struct Merge<'a> {
    lists: [std::iter::Peekable<Keys<'a>>; 2],
}

impl<'a> Merge<'a> {
    fn new(one: Keys<'a>, other: Keys<'a>) -> Self {
        Self { lists: [one.peekable(), other.peekable()] }
    }
}

impl Iterator for Merge<'_> {
    type Item = Result<(String, bool, bool)>;

    fn next(&mut self) -> Option<Self::Item> {
        let [one, other] = &mut self.lists;
        let order = match (one.peek(), other.peek()) {
            (None, None) => return None,
            (Some(Ok(one)), Some(Ok(other))) => one.cmp(other),
            (Some(_), None) | (Some(Err(_)), _) => Ordering::Less,
            (None, Some(_)) | (_, Some(Err(_))) => Ordering::Greater,
        };
        let own = if order.is_le() { one.next() } else { None };
        let theirs = if order.is_ge() { other.next() } else { None };
        let key = own.or(theirs)?;
        Some(key.map(|key| (key, order.is_le(), order.is_ge())))
    }
}

fn apply<'a>(mirror: &dyn Backend, batch: &'a [(String, Option<Bytes>)]) -> Result<()> {
    let change =
        |(key, value): &'a (String, Option<Bytes>)| Change { key, value: value.as_deref(), expect: Expect::Anything };
    let changes: Vec<Change<'_>> = batch.iter().map(change).collect();
    if changes.is_empty() { Ok(()) } else { mirror.write(&changes, Durability::Buffered) }
}

fn copy(from: &mut dyn ReadStream, to: &mut dyn WriteStream) -> io::Result<()> {
    let mut piece = vec![0; PIECE];
    loop {
        match from.read(&mut piece)? {
            0 => return Ok(()),
            read => to.write_all(&piece[..read])?,
        }
    }
}

/// Whether two streams have the same bytes. One that cannot be read has not.
fn is_same(mut own: Box<dyn ReadStream>, theirs: Option<Box<dyn ReadStream>>) -> bool {
    let Some(mut theirs) = theirs.filter(|theirs| theirs.length() == own.length()) else { return false };
    let (mut one, mut other) = (Vec::new(), Vec::new());
    loop {
        one.clear();
        other.clear();
        let read = |stream: &mut dyn ReadStream, piece: &mut Vec<u8>| stream.take(PIECE as u64).read_to_end(piece);
        match (read(&mut *own, &mut one), read(&mut *theirs, &mut other)) {
            (Ok(0), Ok(0)) => return true,
            (Ok(_), Ok(_)) if one == other => {}
            _ => return false,
        }
    }
}

/// Says of a failed mirror that it is behind.
fn behind(mirror: &dyn Backend, result: Result<()>) -> Result<()> {
    result.map_err(|error| {
        let text = format!("{error}; the first backend has it and this one is behind: resync() when that is repaired");
        Error::backend("mirror to", mirror.location(), text)
    })
}

impl Backend for MultiBackend {
    fn location(&self) -> String {
        let mirrors = self.mirrors.iter().map(|mirror| mirror.location());
        let all: Vec<String> = std::iter::once(self.first.location()).chain(mirrors).collect();
        all.join(", mirrored to ")
    }

    fn get(&self, key: &str) -> Result<Option<Bytes>> {
        self.first.get(key)
    }

    fn has(&self, key: &str) -> Result<bool> {
        self.first.has(key)
    }

    fn keys_in(&self, range: &Range) -> Result<Keys<'_>> {
        self.first.keys_in(range)
    }

    fn entries_in(&self, range: &Range) -> Result<Entries<'_>> {
        self.first.entries_in(range)
    }

    fn count_in(&self, range: &Range) -> Result<u64> {
        self.first.count_in(range)
    }

    fn write(&self, changes: &[Change<'_>], durability: Durability) -> Result<()> {
        let _writer = self.writer.lock();
        self.first.write(changes, durability)?;
        let changes: Vec<_> = changes.iter().map(|change| Change { expect: Expect::Anything, ..*change }).collect();
        self.each_mirror(|mirror| mirror.write(&changes, durability))
    }

    /// Whether they do in the first one. After a crash mirrors may be behind.
    fn is_writable(&self) -> bool {
        self.first.is_writable()
    }

    fn is_atomic(&self) -> bool {
        self.first.is_atomic()
    }

    fn read_stream(&self, key: &str) -> Result<Option<Box<dyn ReadStream>>> {
        self.first.read_stream(key)
    }

    fn write_stream<'a>(&'a self, key: &str) -> Result<Box<dyn WriteStream + 'a>> {
        let first = self.first.write_stream(key)?;
        let begin = |mirror: &'a Arc<dyn Backend>| (&**mirror, mirror.write_stream(key));
        Ok(Box::new(Stream { backend: self, first, mirrors: self.mirrors.iter().map(begin).collect() }))
    }

    fn remove_stream(&self, key: &str) -> Result<bool> {
        let _writer = self.writer.lock();
        let was_there = self.first.remove_stream(key)?;
        self.each_mirror(|mirror| mirror.remove_stream(key).map(drop))?;
        Ok(was_there)
    }

    fn rename_stream(&self, from: &str, to: &str, durability: Durability) -> Result<bool> {
        let _writer = self.writer.lock();
        let was_there = self.first.rename_stream(from, to, durability)?;
        self.each_mirror(|mirror| mirror.rename_stream(from, to, durability).map(drop))?;
        Ok(was_there)
    }

    fn streams(&self, prefix: &str) -> Result<Keys<'_>> {
        self.first.streams(prefix)
    }

    fn path(&self, key: &str) -> Option<PathBuf> {
        self.first.path(key)
    }

    fn sync(&self) -> Result<()> {
        self.first.sync()?;
        self.each_mirror(|mirror| mirror.sync())
    }

    fn clear(&self) -> Result<()> {
        let _writer = self.writer.lock();
        self.first.clear()?;
        self.each_mirror(|mirror| mirror.clear())
    }

    fn close(&self) -> Result<()> {
        let first = self.first.close();
        first.and(self.each_mirror(|mirror| mirror.close()))
    }

    /// Those of the first one.
    fn watchers(&self) -> &Watchers {
        self.first.watchers()
    }
}

/// Writes to all of them. A mirror that fails is left behind, and reported when the stream is finished.
struct Stream<'a> {
    backend: &'a MultiBackend,
    first: Box<dyn WriteStream + 'a>,
    mirrors: Vec<Mirror<'a>>,
}

/// A mirror and its stream, or why it has none any more.
type Mirror<'a> = (&'a dyn Backend, Result<Box<dyn WriteStream + 'a>>);

impl Stream<'_> {
    fn each(&mut self, act: impl Fn(&mut dyn WriteStream) -> io::Result<()>) {
        for (mirror, stream) in &mut self.mirrors {
            if let Ok(open) = stream
                && let Err(error) = act(&mut **open)
            {
                *stream = Err(Error::io("write", mirror.location(), error));
            }
        }
    }
}

impl Write for Stream<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.first.write(bytes)?;
        self.each(|stream| stream.write_all(&bytes[..written]));
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.first.flush()?;
        self.each(|stream| stream.flush());
        Ok(())
    }
}

impl WriteStream for Stream<'_> {
    fn finish(self: Box<Self>, durability: Durability) -> Result<()> {
        let Self { backend, first, mirrors } = *self;
        let _writer = backend.writer.lock();
        first.finish(durability)?;
        let finish = |(mirror, stream): Mirror<'_>| {
            let finished = stream.and_then(|stream| stream.finish(durability));
            behind(mirror, finished)
        };
        let results: Vec<Result<()>> = mirrors.into_iter().map(finish).collect();
        results.into_iter().collect()
    }
}
