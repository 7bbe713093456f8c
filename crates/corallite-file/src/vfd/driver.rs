//! The driver's callbacks. No panic crosses them; errors are kept in the pager for the caller of libhdf5.

use std::collections::HashMap;
use std::ffi::{CStr, c_char, c_int, c_uint, c_ulong, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use super::abi::{Class, ConstFilePtr, FilePtr, H5FDregister, PublicFile, UNDEFINED, hid_t};
use super::{Target, heap};
use crate::error::{Error, Result};
use crate::space::Use;

/// `H5FD_MEM_DRAW`: array data; every other allocation type is metadata.
const MEMORY_TYPE_RAW: c_int = 3;
/// `H5HG_MINSIZE`: what libhdf5 reads of a global heap collection before it knows its length. It reads them as raw data.
const HEAP_START: usize = 4096;
/// `H5FD_FEAT_DEFAULT_VFD_COMPATIBLE`: the file needs no special driver to be read.
const FEATURE_COMPATIBLE: c_ulong = 0x8000;

/// A file of this driver, as libhdf5 holds it.
#[repr(C)]
struct DriverFile {
    public: PublicFile,
    target: Target,
    /// A snapshot's end of allocation; the writer's is the pager's.
    eoa: AtomicU64,
    registration: u64,
}

struct Registration {
    target: Target,
    number: u64,
}

static REGISTRY: LazyLock<Mutex<HashMap<String, Registration>>> = LazyLock::new(Mutex::default);

/// Gives `target` a name that libhdf5 can open.
pub(super) fn register(target: Target) -> String {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let name = format!("corallite-{number}");
    REGISTRY.lock().insert(name.clone(), Registration { target, number });
    name
}

/// Takes the name back; files already opened stay open.
pub(super) fn unregister(name: &str) {
    REGISTRY.lock().remove(name);
}

/// The driver's identifier within libhdf5. Must be called under libhdf5's lock.
pub(super) fn driver_id() -> hid_t {
    static ID: LazyLock<hid_t> = LazyLock::new(|| {
        // SAFETY: CLASS is a valid driver class of the declared version and lives for the whole program.
        unsafe { H5FDregister(&raw const CLASS) }
    });
    *ID
}

/// Runs `body`; an error is kept where the caller of libhdf5 finds it, and `failed` returned.
fn guarded<T>(file: ConstFilePtr, failed: T, body: impl FnOnce(&DriverFile) -> Result<T>) -> T {
    if file.is_null() {
        return failed;
    }
    // SAFETY: libhdf5 passes back the pointer that `open` returned, which is a live DriverFile until `close`.
    let file = unsafe { &*file.cast::<DriverFile>() };
    match catch_unwind(AssertUnwindSafe(|| body(file))) {
        Ok(Ok(value)) => value,
        Ok(Err(error)) => {
            file.target.pager().note_failure(error);
            failed
        }
        Err(_) => failed,
    }
}

unsafe extern "C" fn open(name: *const c_char, _flags: c_uint, _fapl: hid_t, _max_address: u64) -> FilePtr {
    let opened = catch_unwind(|| {
        // SAFETY: libhdf5 passes the NUL-terminated name given to H5Fopen or H5Fcreate.
        let name = unsafe { CStr::from_ptr(name) }.to_str().ok()?;
        let registry = REGISTRY.lock();
        let found = registry.get(name)?;
        Some(DriverFile {
            public: PublicFile::new(),
            target: found.target.clone(),
            eoa: AtomicU64::new(0),
            registration: found.number,
        })
    });
    match opened {
        Ok(Some(file)) => Box::into_raw(Box::new(file)).cast(),
        _ => std::ptr::null_mut(),
    }
}

unsafe extern "C" fn close(file: FilePtr) -> c_int {
    // SAFETY: the pointer came from Box::into_raw in `open`, and libhdf5 closes a file once.
    let file = unsafe { Box::from_raw(file.cast::<DriverFile>()) };
    match catch_unwind(AssertUnwindSafe(|| drop(file))) {
        Ok(()) => 0,
        Err(_) => -1,
    }
}

unsafe extern "C" fn compare(a: ConstFilePtr, b: ConstFilePtr) -> c_int {
    let number = |file| guarded(file, 0, |file| Ok(file.registration));
    number(a).cmp(&number(b)) as c_int
}

unsafe extern "C" fn query(_file: ConstFilePtr, flags: *mut c_ulong) -> c_int {
    if !flags.is_null() {
        // SAFETY: libhdf5 passes a place for the flags or NULL.
        unsafe { *flags = FEATURE_COMPATIBLE };
    }
    0
}

unsafe extern "C" fn alloc(file: FilePtr, kind: c_int, _dxpl: hid_t, size: u64) -> u64 {
    guarded(file, UNDEFINED, |file| match &file.target {
        Target::Writer { pager, epoch } => {
            let purpose = if kind == MEMORY_TYPE_RAW { Use::Raw } else { Use::Metadata };
            pager.allocate(*epoch, purpose, size)
        }
        Target::Snapshot(_) => Ok(UNDEFINED),
    })
}

unsafe extern "C" fn get_eoa(file: ConstFilePtr, _kind: c_int) -> u64 {
    guarded(file, UNDEFINED, |file| {
        Ok(match &file.target {
            Target::Writer { pager, .. } => pager.eoa(),
            Target::Snapshot(_) => file.eoa.load(Ordering::Relaxed),
        })
    })
}

unsafe extern "C" fn set_eoa(file: FilePtr, _kind: c_int, eoa: u64) -> c_int {
    guarded(file, -1, |file| {
        match &file.target {
            Target::Writer { pager, epoch } => pager.set_eoa(*epoch, eoa)?,
            Target::Snapshot(_) => file.eoa.store(eoa, Ordering::Relaxed),
        }
        Ok(0)
    })
}

unsafe extern "C" fn get_eof(file: ConstFilePtr, _kind: c_int) -> u64 {
    guarded(file, UNDEFINED, |file| {
        Ok(match &file.target {
            Target::Writer { pager, .. } => pager.eof(),
            Target::Snapshot(view) => view.eoa(),
        })
    })
}

unsafe extern "C" fn read(
    file: FilePtr,
    kind: c_int,
    _dxpl: hid_t,
    address: u64,
    size: usize,
    buffer: *mut c_void,
) -> c_int {
    guarded(file, -1, |file| {
        // SAFETY: libhdf5 passes a buffer of `size` bytes that nothing else uses during the call.
        let buffer = unsafe { std::slice::from_raw_parts_mut(buffer.cast::<u8>(), size) };
        file.read(address, buffer)?;
        if kind == MEMORY_TYPE_RAW && size == HEAP_START {
            file.check_heap(address, buffer)?;
        }
        Ok(0)
    })
}

impl DriverFile {
    fn read(&self, address: u64, buffer: &mut [u8]) -> Result<()> {
        match &self.target {
            Target::Writer { pager, .. } => pager.read_as_writer(address, buffer),
            Target::Snapshot(view) => view.read(address, buffer),
        }
    }

    /// Refuses a damaged global heap collection. libhdf5 reads the first bytes of one before it knows the rest's length.
    fn check_heap(&self, address: u64, start: &[u8]) -> Result<()> {
        let Some(size) = heap::collection_size(start) else { return Ok(()) };
        let pager = self.target.pager();
        let damaged = || {
            let problem = "the heap of texts that begins here is damaged; restore the file from a backup";
            Error::damaged(pager.path(), address, problem)
        };
        let whole = usize::try_from(size).map_err(|_| damaged())?;
        let well_formed = if whole <= start.len() {
            heap::is_well_formed(&start[..whole])
        } else {
            let end = address.checked_add(size).ok_or_else(damaged)?;
            let eoa = match &self.target {
                Target::Writer { pager, .. } => pager.eoa(),
                Target::Snapshot(view) => view.eoa(),
            };
            if end > eoa {
                return Err(damaged());
            }
            let mut collection = vec![0; whole];
            self.read(address, &mut collection)?;
            heap::is_well_formed(&collection)
        };
        if well_formed { Ok(()) } else { Err(damaged()) }
    }
}

unsafe extern "C" fn write(
    file: FilePtr,
    _kind: c_int,
    _dxpl: hid_t,
    address: u64,
    size: usize,
    buffer: *const c_void,
) -> c_int {
    guarded(file, -1, |file| {
        // SAFETY: libhdf5 passes a buffer of `size` readable bytes.
        let bytes = unsafe { std::slice::from_raw_parts(buffer.cast::<u8>(), size) };
        match &file.target {
            Target::Writer { pager, epoch } => pager.write(*epoch, address, bytes)?,
            Target::Snapshot(_) => return Ok(-1),
        }
        Ok(0)
    })
}

/// Commits are explicit: libhdf5 flushes at times that are none.
unsafe extern "C" fn flush(_file: FilePtr, _dxpl: hid_t, _closing: bool) -> c_int {
    0
}

/// The file is cut when a commit is applied.
unsafe extern "C" fn truncate(_file: FilePtr, _dxpl: hid_t, _closing: bool) -> c_int {
    0
}

static CLASS: Class = Class {
    version: 1,
    // Driver numbers from 512 on are free for unregistered drivers.
    value: 611,
    name: c"corallite".as_ptr(),
    max_address: i64::MAX as u64,
    close_degree: 3, // H5F_CLOSE_STRONG
    terminate: None,
    superblock_size: None,
    superblock_encode: None,
    superblock_decode: None,
    fapl_size: 0,
    fapl_get: None,
    fapl_copy: None,
    fapl_free: None,
    dxpl_size: 0,
    dxpl_copy: None,
    dxpl_free: None,
    open: Some(open),
    close: Some(close),
    compare: Some(compare),
    query: Some(query),
    get_type_map: None,
    alloc: Some(alloc),
    free: None,
    get_eoa: Some(get_eoa),
    set_eoa: Some(set_eoa),
    get_eof: Some(get_eof),
    get_handle: None,
    read: Some(read),
    write: Some(write),
    read_vector: None,
    write_vector: None,
    read_selection: None,
    write_selection: None,
    flush: Some(flush),
    truncate: Some(truncate),
    lock: None,
    unlock: None,
    delete: None,
    control: None,
    // H5FD_FLMAP_DICHOTOMY: metadata and raw data never reuse each other's free space.
    free_list_map: [1, 1, 1, 3, 3, 1, 1],
};
