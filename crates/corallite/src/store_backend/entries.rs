//! Going through keys block by block, so that nobody who does keeps writers waiting.

use std::ops::ControlFlow;

use bytes::Bytes;
use corallite_objects::Error;
use corallite_objects::backend::Range;

use super::backend::{Result, StoreBackend};
use super::tree::{Pages, Span, scan, value};

/// Keys in a block, and bytes of values from which on it ends earlier.
const KEYS: usize = 256;
const BYTES: usize = 1 << 20;

/// Reads something of a state of the tree.
type Read<'r> = &'r mut dyn FnMut(&dyn Pages) -> Result<()>;

/// What can be gone through: calls its argument with the newest state.
pub(super) type Source<'a> = Box<dyn Fn(Read<'_>) -> Result<()> + 'a>;

/// A range of one of the tree's maps, block by block.
pub(super) struct Entries<'a> {
    backend: &'a StoreBackend,
    source: Source<'a>,
    /// The map, and what is left of the range there, as keys of the tree.
    from: Vec<u8>,
    to: Option<Vec<u8>>,
    is_reversed: bool,
    with_values: bool,
    is_over: bool,
    block: std::vec::IntoIter<(String, Bytes)>,
}

impl<'a> Entries<'a> {
    pub(super) fn new(
        backend: &'a StoreBackend,
        source: Source<'a>,
        map: u8,
        range: &Range,
        with_values: bool,
    ) -> Self {
        let from = super::batch::tree_key(map, &range.from);
        let to = match &range.to {
            Some(to) => super::batch::tree_key(map, to),
            None => vec![map + 1],
        };
        Self {
            backend,
            source,
            from,
            to: Some(to),
            is_reversed: range.is_reversed,
            with_values,
            is_over: range.is_empty(),
            block: Vec::new().into_iter(),
        }
    }

    fn refill(&mut self) -> Result<()> {
        let mut block: Vec<(String, Bytes)> = Vec::with_capacity(KEYS);
        let mut last: Option<Vec<u8>> = None;
        let mut bytes = 0;
        let (backend, with_values) = (self.backend, self.with_values);
        let span = Span { from: &self.from, to: self.to.as_deref(), is_reversed: self.is_reversed };
        (self.source)(&mut |pages| {
            let mut bad = None;
            let scanned = scan(pages, span, |key, found| {
                let value = if with_values { value(pages, found)? } else { Bytes::new() };
                bytes += value.len();
                match std::str::from_utf8(&key[1..]) {
                    Ok(text) => block.push((text.to_owned(), value)),
                    Err(_) => {
                        bad = Some(String::from_utf8_lossy(&key[1..]).into_owned());
                        return Ok(ControlFlow::Break(()));
                    }
                }
                if block.len() < KEYS && bytes < BYTES {
                    return Ok(ControlFlow::Continue(()));
                }
                last = Some(key.to_vec());
                Ok(ControlFlow::Break(()))
            });
            scanned.map_err(|error| backend.lift("read", error))?;
            match bad {
                None => Ok(()),
                Some(key) => {
                    let problem = "its key is not UTF-8".to_owned();
                    Err(Error::Malformed { location: backend.place(), key, problem })
                }
            }
        })?;
        match last {
            None => self.is_over = true,
            Some(last) if self.is_reversed => self.to = Some(last),
            Some(mut last) => {
                // The smallest key after it.
                last.push(0);
                self.from = last;
            }
        }
        self.block = block.into_iter();
        Ok(())
    }
}

impl Iterator for Entries<'_> {
    type Item = Result<(String, Bytes)>;

    fn next(&mut self) -> Option<Self::Item> {
        while self.block.len() == 0 && !self.is_over {
            if let Err(error) = self.refill() {
                self.is_over = true;
                return Some(Err(error));
            }
        }
        self.block.next().map(Ok)
    }
}
