//! The C structures of libhdf5's driver interface, version 1 (HDF5 1.14 and 2.x, `H5FDdevelop.h`).
//!
//! Declared here because those of `hdf5-metno-sys` describe an older layout.

use std::ffi::{c_char, c_int, c_uint, c_ulong, c_void};

pub(super) use hdf5_metno_sys::h5i::hid_t;

/// `HADDR_UNDEF`.
pub(super) const UNDEFINED: u64 = u64::MAX;

/// `H5FD_t`: what every driver's file begins with; libhdf5 fills it in.
#[repr(C)]
pub(super) struct PublicFile {
    driver_id: hid_t,
    class: *const Class,
    fileno: c_ulong,
    access_flags: c_uint,
    feature_flags: c_ulong,
    max_address: u64,
    base_address: u64,
    threshold: u64,
    alignment: u64,
    paged_aggregation: bool,
}

impl PublicFile {
    pub(super) const fn new() -> Self {
        Self {
            driver_id: 0,
            class: std::ptr::null(),
            fileno: 0,
            access_flags: 0,
            feature_flags: 0,
            max_address: 0,
            base_address: 0,
            threshold: 0,
            alignment: 0,
            paged_aggregation: false,
        }
    }
}

pub(super) type FilePtr = *mut PublicFile;
pub(super) type ConstFilePtr = *const PublicFile;
/// A callback this driver does not have.
pub(super) type Absent = Option<unsafe extern "C" fn()>;

/// `H5FD_class_t`.
#[repr(C)]
pub(super) struct Class {
    pub(super) version: c_uint,
    pub(super) value: c_int,
    pub(super) name: *const c_char,
    pub(super) max_address: u64,
    pub(super) close_degree: c_int,
    pub(super) terminate: Absent,
    pub(super) superblock_size: Absent,
    pub(super) superblock_encode: Absent,
    pub(super) superblock_decode: Absent,
    pub(super) fapl_size: usize,
    pub(super) fapl_get: Absent,
    pub(super) fapl_copy: Absent,
    pub(super) fapl_free: Absent,
    pub(super) dxpl_size: usize,
    pub(super) dxpl_copy: Absent,
    pub(super) dxpl_free: Absent,
    pub(super) open: Option<unsafe extern "C" fn(*const c_char, c_uint, hid_t, u64) -> FilePtr>,
    pub(super) close: Option<unsafe extern "C" fn(FilePtr) -> c_int>,
    pub(super) compare: Option<unsafe extern "C" fn(ConstFilePtr, ConstFilePtr) -> c_int>,
    pub(super) query: Option<unsafe extern "C" fn(ConstFilePtr, *mut c_ulong) -> c_int>,
    pub(super) get_type_map: Absent,
    pub(super) alloc: Option<unsafe extern "C" fn(FilePtr, c_int, hid_t, u64) -> u64>,
    pub(super) free: Absent,
    pub(super) get_eoa: Option<unsafe extern "C" fn(ConstFilePtr, c_int) -> u64>,
    pub(super) set_eoa: Option<unsafe extern "C" fn(FilePtr, c_int, u64) -> c_int>,
    pub(super) get_eof: Option<unsafe extern "C" fn(ConstFilePtr, c_int) -> u64>,
    pub(super) get_handle: Absent,
    pub(super) read: Option<unsafe extern "C" fn(FilePtr, c_int, hid_t, u64, usize, *mut c_void) -> c_int>,
    pub(super) write: Option<unsafe extern "C" fn(FilePtr, c_int, hid_t, u64, usize, *const c_void) -> c_int>,
    pub(super) read_vector: Absent,
    pub(super) write_vector: Absent,
    pub(super) read_selection: Absent,
    pub(super) write_selection: Absent,
    pub(super) flush: Option<unsafe extern "C" fn(FilePtr, hid_t, bool) -> c_int>,
    pub(super) truncate: Option<unsafe extern "C" fn(FilePtr, hid_t, bool) -> c_int>,
    pub(super) lock: Absent,
    pub(super) unlock: Absent,
    pub(super) delete: Absent,
    pub(super) control: Absent,
    pub(super) free_list_map: [c_int; 7],
}

// SAFETY: the one value of this type is immutable and its pointers are to static data and functions.
unsafe impl Sync for Class {}

unsafe extern "C" {
    pub(super) fn H5FDregister(class: *const Class) -> hid_t;
}
