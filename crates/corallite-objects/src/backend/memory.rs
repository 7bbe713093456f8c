//! The memory backend.

use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, Cursor, Write};
use std::ops::Bound;

use bytes::Bytes;
use parking_lot::RwLock;

use super::{Backend, Change, Durability, Entries, EventKind, Keys, Range, ReadStream, Watchers, WriteStream};
use crate::error::{Error, Result};
use crate::key;

/// Keys read at a time, so that nobody who goes through many keeps writers waiting.
const BLOCK: usize = 256;

/// Values and streams in memory, which go with the value.
#[derive(Default)]
pub struct MemoryBackend {
    state: RwLock<State>,
    watchers: Watchers,
}

#[derive(Default)]
struct State {
    values: BTreeMap<String, Bytes>,
    streams: BTreeMap<String, Bytes>,
    is_closed: bool,
}

impl State {
    fn values(&self) -> &BTreeMap<String, Bytes> {
        &self.values
    }

    fn streams(&self) -> &BTreeMap<String, Bytes> {
        &self.streams
    }
}

impl fmt::Debug for MemoryBackend {
    /// How much it holds: what that is may be secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("MemoryBackend");
        if let Some(state) = self.state.try_read() {
            debug.field("values", &state.values.len()).field("streams", &state.streams.len());
        }
        debug.finish_non_exhaustive()
    }
}

impl MemoryBackend {
    /// An empty one.
    pub fn new() -> Self {
        Self::default()
    }

    fn read<T>(&self, read: impl FnOnce(&State) -> T) -> Result<T> {
        let state = self.state.read();
        if state.is_closed { Err(Error::Closed { location: self.location() }) } else { Ok(read(&state)) }
    }

    fn change<T>(&self, change: impl FnOnce(&mut State) -> Result<T>) -> Result<T> {
        let mut state = self.state.write();
        if state.is_closed { Err(Error::Closed { location: self.location() }) } else { change(&mut state) }
    }
}

/// Goes through a range block by block.
struct Blocks<'a> {
    backend: &'a MemoryBackend,
    map: fn(&State) -> &BTreeMap<String, Bytes>,
    left: Option<Range>,
    block: std::vec::IntoIter<(String, Bytes)>,
}

impl Blocks<'_> {
    fn refill(&mut self) -> Result<()> {
        let Some(range) = self.left.take().filter(|range| !range.is_empty()) else { return Ok(()) };
        let found: Vec<(String, Bytes)> = self.backend.read(|state| {
            let to = range.to.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
            let keys = (self.map)(state).range::<str, _>((Bound::Included(range.from.as_str()), to));
            let copy = |(key, value): (&String, &Bytes)| (key.clone(), value.clone());
            match range.is_reversed {
                true => keys.rev().take(BLOCK).map(copy).collect(),
                false => keys.take(BLOCK).map(copy).collect(),
            }
        })?;
        if let Some((last, _)) = found.last().filter(|_| found.len() == BLOCK) {
            self.left = Some(match range.is_reversed {
                true => Range { to: Some(last.clone()), ..range },
                // The smallest key after it.
                false => Range { from: format!("{last}\0"), ..range },
            });
        }
        self.block = found.into_iter();
        Ok(())
    }
}

impl Iterator for Blocks<'_> {
    type Item = Result<(String, Bytes)>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.block.len() == 0
            && let Err(error) = self.refill()
        {
            return Some(Err(error));
        }
        self.block.next().map(Ok)
    }
}

impl Backend for MemoryBackend {
    fn location(&self) -> String {
        "the memory backend".to_owned()
    }

    fn get(&self, key: &str) -> Result<Option<Bytes>> {
        self.read(|state| state.values.get(key).cloned())
    }

    fn has(&self, key: &str) -> Result<bool> {
        self.read(|state| state.values.contains_key(key))
    }

    fn keys_in(&self, range: &Range) -> Result<Keys<'_>> {
        Ok(Box::new(self.entries_in(range)?.map(|entry| entry.map(|(key, _)| key))))
    }

    fn entries_in(&self, range: &Range) -> Result<Entries<'_>> {
        self.read(|_| ())?;
        Ok(Box::new(Blocks {
            backend: self,
            map: State::values,
            left: Some(range.clone()),
            block: Vec::new().into_iter(),
        }))
    }

    fn write(&self, changes: &[Change<'_>], _durability: Durability) -> Result<()> {
        self.change(|state| {
            for change in changes {
                change.check(|| self.location(), state.values.get(change.key).map(AsRef::as_ref))?;
            }
            for change in changes {
                match change.value {
                    Some(value) => state.values.insert(change.key.to_owned(), Bytes::copy_from_slice(value)),
                    None => state.values.remove(change.key),
                };
            }
            self.watchers.changed(changes);
            Ok(())
        })
    }

    fn is_atomic(&self) -> bool {
        true
    }

    fn read_stream(&self, key: &str) -> Result<Option<Box<dyn ReadStream>>> {
        let stream = self.read(|state| state.streams.get(key).cloned())?;
        Ok(stream.map(|bytes| Box::new(Cursor::new(bytes)) as Box<dyn ReadStream>))
    }

    fn write_stream<'a>(&'a self, key: &str) -> Result<Box<dyn WriteStream + 'a>> {
        key::check(key)?;
        self.read(|_| ())?;
        Ok(Box::new(Stream { backend: self, key: key.to_owned(), bytes: Vec::new() }))
    }

    fn remove_stream(&self, key: &str) -> Result<bool> {
        self.change(|state| {
            let was_there = state.streams.remove(key).is_some();
            if was_there {
                self.watchers.happened(key, EventKind::Stream);
            }
            Ok(was_there)
        })
    }

    fn rename_stream(&self, from: &str, to: &str, _durability: Durability) -> Result<bool> {
        key::check(to)?;
        self.change(|state| {
            let Some(bytes) = state.streams.remove(from) else { return Ok(false) };
            state.streams.insert(to.to_owned(), bytes);
            self.watchers.happened(from, EventKind::Stream);
            self.watchers.happened(to, EventKind::Stream);
            Ok(true)
        })
    }

    fn streams(&self, prefix: &str) -> Result<Keys<'_>> {
        self.read(|_| ())?;
        let left = Some(Range::prefix(prefix));
        let blocks = Blocks { backend: self, map: State::streams, left, block: Vec::new().into_iter() };
        Ok(Box::new(blocks.map(|entry| entry.map(|(key, _)| key))))
    }

    fn sync(&self) -> Result<()> {
        self.read(|_| ())
    }

    fn clear(&self) -> Result<()> {
        self.change(|state| {
            *state = State::default();
            self.watchers.happened("", EventKind::Cleared);
            Ok(())
        })
    }

    fn close(&self) -> Result<()> {
        self.state.write().is_closed = true;
        Ok(())
    }

    fn watchers(&self) -> &Watchers {
        &self.watchers
    }
}

impl ReadStream for Cursor<Bytes> {
    fn length(&self) -> u64 {
        self.get_ref().len() as u64
    }
}

struct Stream<'a> {
    backend: &'a MemoryBackend,
    key: String,
    bytes: Vec<u8>,
}

impl Write for Stream<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl WriteStream for Stream<'_> {
    fn finish(self: Box<Self>, _durability: Durability) -> Result<()> {
        let Self { backend, key, bytes } = *self;
        backend.change(|state| {
            state.streams.insert(key.clone(), bytes.into());
            backend.watchers.happened(&key, EventKind::Stream);
            Ok(())
        })
    }
}
