//! The tree as everybody sees it: what the file has, and what is still only in memory.
//!
//! There is one state, replaced as a whole under a lock. Who reads holds it for the time of a call or of a block of keys; who
//! writes works on copies of pages and takes the lock only to put them in their places.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use corallite_file::{CommitPages, Error, Result, Snapshot, Storage};
use parking_lot::{Mutex, RwLock, RwLockReadGuard};

use super::files::Extent;
use super::tree::{Cache, Flaw, Meta, OBJECTS_FORMAT_VERSION, PAGE, PageBuf, PageNo, Pages, Refused, Segments};
use super::turn::Turn;

#[derive(Debug)]
pub(super) struct Shared {
    pub(super) storage: Arc<Storage>,
    pub(super) turn: Turn,
    pub(super) state: RwLock<State>,
    pub(super) cache: Cache,
    /// Changed only by who has the turn.
    pub(super) pending: Mutex<Pending>,
}

/// Where the tree stands.
#[derive(Debug)]
pub(super) struct State {
    pub(super) meta: Meta,
    pub(super) segments: Segments,
    /// The commit that has the pages of this state, while a newer one may be there already.
    pub(super) held: Option<CommitPages>,
    pub(super) is_closed: bool,
}

/// What the next commit has to write besides its own changes.
#[derive(Debug, Default)]
pub(super) struct Pending {
    /// Pages in memory that the file does not have.
    pub(super) pages: BTreeSet<PageNo>,
    /// Whether they are more than a tree without keys.
    pub(super) has_changes: bool,
    /// Room of files that were begun and given up, with the keys that say so.
    pub(super) given_up: Vec<(Vec<u8>, Extent)>,
}

impl Shared {
    /// Reads where the tree of a storage stands.
    pub(super) fn open(storage: Arc<Storage>, cache_bytes: usize) -> Result<Self> {
        let cache = Cache::new(cache_bytes);
        let (state, pending) = Self::load_state(&storage, &cache)?;
        Ok(Self { storage, turn: Turn::default(), state: RwLock::new(state), cache, pending: Mutex::new(pending) })
    }

    fn load_state(storage: &Storage, cache: &Cache) -> Result<(State, Pending)> {
        let snapshot = storage.snapshot()?;
        let mut pending = Pending::default();
        let (segments, meta) = match Self::locate(&snapshot, storage.path())? {
            Some(found) => found,
            None => {
                let meta = Meta::empty();
                cache.hold(meta.root, Arc::new(PageBuf::empty_leaf()));
                pending.pages.insert(meta.root);
                (Segments::default(), meta)
            }
        };
        Ok((State { meta, segments, held: None, is_closed: false }, pending))
    }

    /// Where the pages of a commit are, and what its meta page says; `None` in a file that never had objects.
    pub(super) fn locate(snapshot: &Snapshot, path: &Path) -> Result<Option<(Segments, Meta)>> {
        let segments = Segments::find(snapshot)?;
        let Some(offset) = segments.offset(PageNo(0)) else { return Ok(None) };
        let mut page = PageBuf([0; PAGE]);
        snapshot.read_at(offset, &mut page.0)?;
        let meta = match Meta::read(&page) {
            Ok(meta) => meta,
            Err(Refused::Newer(found)) => {
                let (found, supported) = (found.into(), OBJECTS_FORMAT_VERSION.into());
                return Err(Error::NewerFormat { path: path.to_owned(), what: "objects format", found, supported });
            }
            Err(Refused::Flawed(flaw)) => return Err(damaged(path, &segments, PageNo(0), flaw)),
        };
        if u64::from(meta.pages) > segments.room() {
            let flaw = Flaw("it notes more pages than there are; a dataset below /objects/pages is missing");
            return Err(damaged(path, &segments, PageNo(0), flaw));
        }
        Ok(Some((segments, meta)))
    }

    /// Forgets what is in memory and begins again with what the file has.
    pub(super) fn reload(&self) -> Result<()> {
        let mut state = self.state.write();
        self.cache.clear();
        let is_closed = state.is_closed;
        let (found, pending) = Self::load_state(&self.storage, &self.cache)?;
        *state = State { is_closed, ..found };
        *self.pending.lock() = pending;
        Ok(())
    }

    /// The state for reading.
    pub(super) fn read(&self) -> Result<Reader<'_>> {
        let state = self.state.read();
        if state.is_closed {
            return Err(Error::Closed { path: self.storage.path().to_owned() });
        }
        Ok(Reader { shared: self, state })
    }

    fn page(&self, state: &State, number: PageNo) -> Result<Arc<PageBuf>> {
        let path = self.storage.path();
        let unused = || damaged(path, &state.segments, number, Flaw("the tree refers to it, but it was never used"));
        if number.0 >= state.meta.pages {
            return Err(unused());
        }
        let offset = state.segments.offset(number).ok_or_else(unused)?;
        let mut page = PageBuf([0; PAGE]);
        match &state.held {
            Some(pages) => pages.read_at(offset, &mut page.0)?,
            None => self.storage.pages()?.read_at(offset, &mut page.0)?,
        }
        page.check(number, state.meta.generation).map_err(|flaw| damaged(path, &state.segments, number, flaw))?;
        let page = Arc::new(page);
        self.cache.keep(number, Arc::clone(&page));
        Ok(page)
    }
}

pub(super) fn damaged(path: &Path, segments: &Segments, number: PageNo, flaw: Flaw) -> Error {
    let problem = format!("page {} of the objects: {}; restore a backup", number.0, flaw.0);
    Error::Damaged { path: path.to_owned(), offset: segments.offset(number).unwrap_or(0), problem }
}

/// The state, held for reading.
pub(super) struct Reader<'a> {
    shared: &'a Shared,
    pub(super) state: RwLockReadGuard<'a, State>,
}

impl Pages for Reader<'_> {
    fn meta(&self) -> &Meta {
        &self.state.meta
    }

    fn page(&self, number: PageNo) -> Result<Arc<PageBuf>> {
        match self.shared.cache.get(number) {
            Some(page) => Ok(page),
            None => self.shared.page(&self.state, number),
        }
    }

    fn damaged(&self, number: PageNo, flaw: Flaw) -> Error {
        damaged(self.shared.storage.path(), &self.state.segments, number, flaw)
    }
}

/// The state as who has the turn sees it: nobody else changes it, so it need not be held.
#[derive(Debug)]
pub(super) struct Base {
    shared: Arc<Shared>,
    meta: Meta,
}

impl Base {
    pub(super) fn new(shared: &Arc<Shared>) -> Self {
        Self { shared: Arc::clone(shared), meta: shared.state.read().meta }
    }
}

impl Pages for Base {
    fn meta(&self) -> &Meta {
        &self.meta
    }

    fn page(&self, number: PageNo) -> Result<Arc<PageBuf>> {
        match self.shared.cache.get(number) {
            Some(page) => Ok(page),
            None => self.shared.page(&self.shared.state.read(), number),
        }
    }

    fn damaged(&self, number: PageNo, flaw: Flaw) -> Error {
        damaged(self.shared.storage.path(), &self.shared.state.read().segments, number, flaw)
    }
}
