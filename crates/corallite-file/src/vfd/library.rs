//! The calls into libhdf5 that its Rust binding lacks: opening with this driver, and listing free space.

use std::ffi::CString;

use hdf5_metno::File;
use hdf5_metno::sync::sync;
use hdf5_metno_sys::h5ac::{H5AC__CURR_CACHE_CONFIG_VERSION, H5AC_cache_config_t};
use hdf5_metno_sys::h5f::{
    H5F_ACC_RDONLY, H5F_ACC_RDWR, H5F_ACC_TRUNC, H5F_close_degree_t, H5F_libver_t, H5F_mem_t, H5F_sect_info_t,
    H5Fcreate, H5Fget_free_sections, H5Fget_freespace, H5Fopen,
};
use hdf5_metno_sys::h5i::hid_t;
use hdf5_metno_sys::h5p::{
    H5P_CLS_FILE_ACCESS, H5P_DEFAULT, H5Pclose, H5Pcreate, H5Pget_cache, H5Pget_mdc_config, H5Pset_cache,
    H5Pset_driver, H5Pset_fclose_degree, H5Pset_libver_bounds, H5Pset_mdc_config,
};

use super::{Target, driver};

/// Which versions of the HDF5 format objects are written in: readable by HDF5 1.10 and everything newer. The
/// superblock of a new file is held to 1.8's, whose status flags no reader looks at.
const OBJECTS: H5F_libver_t = H5F_libver_t::H5F_LIBVER_V110;

/// Bytes of metadata that libhdf5 keeps, as they are in the file; in memory they take several times as much. With its own
/// 2 MiB, a transaction over thousands of datasets writes and reads the same pages again and again.
const METADATA_CACHE: usize = 8 << 20;

/// Slots of a dataset's chunk cache, as HDF5 1.x has them. The table of 2.x takes 64 KiB, which are cleared whenever a
/// dataset is opened.
const CHUNK_SLOTS: usize = 521;

unsafe extern "C" {
    // Missing in the binding.
    fn H5Fset_libver_bounds(file: hid_t, low: H5F_libver_t, high: H5F_libver_t) -> i32;
}

/// Opens the HDF5 file that `target` shows.
pub(crate) fn open(target: Target) -> hdf5_metno::Result<File> {
    let flags = match target {
        Target::Writer { .. } => H5F_ACC_RDWR,
        Target::Snapshot(_) => H5F_ACC_RDONLY,
    };
    with_name(target, |name, access| {
        // SAFETY: the name is NUL-terminated and the property list is open; called under libhdf5's lock.
        unsafe { H5Fopen(name.as_ptr(), flags, access) }
    })
}

/// Writes a new HDF5 file into `target`.
pub(crate) fn create(target: Target) -> hdf5_metno::Result<File> {
    with_name(target, |name, access| {
        // SAFETY: as in `open`.
        unsafe { H5Fcreate(name.as_ptr(), H5F_ACC_TRUNC, H5P_DEFAULT, access) }
    })
}

fn with_name(target: Target, call: impl FnOnce(&CString, hid_t) -> hid_t) -> hdf5_metno::Result<File> {
    let writes = matches!(target, Target::Writer { .. });
    let name = driver::register(target);
    let opened = sync(|| {
        let c_name = CString::new(name.as_str()).map_err(|error| hdf5_metno::Error::Internal(error.to_string()))?;
        let access = access_list()?;
        let id = call(&c_name, access);
        // SAFETY: the list was created above and is not used again.
        unsafe { H5Pclose(access) };
        let id = check(id)?;
        if writes {
            // SAFETY: the id is an open file.
            check(unsafe { H5Fset_libver_bounds(id, OBJECTS, OBJECTS) }.into())?;
        }
        // SAFETY: the id was just returned by libhdf5, with one reference that the File takes over.
        unsafe { hdf5_metno::from_id(id) }
    });
    driver::unregister(&name);
    opened
}

fn access_list() -> hdf5_metno::Result<hid_t> {
    // SAFETY: called under libhdf5's lock; the list is closed on every path; the driver is registered and takes no
    // configuration.
    unsafe {
        let list = check(H5Pcreate(*H5P_CLS_FILE_ACCESS))?;
        let low = H5F_libver_t::H5F_LIBVER_V18;
        let mut cache = H5AC_cache_config_t { version: H5AC__CURR_CACHE_CONFIG_VERSION, ..Default::default() };
        let outcome = check(H5Pget_mdc_config(list, &raw mut cache).into())
            .and_then(|_| {
                cache.set_initial_size = 1;
                cache.initial_size = METADATA_CACHE;
                cache.max_size = METADATA_CACHE;
                check(H5Pset_mdc_config(list, &raw mut cache).into())
            })
            .and_then(|_| set_chunk_slots(list))
            .and_then(|_| check(H5Pset_libver_bounds(list, low, OBJECTS).into()))
            .and_then(|_| check(H5Pset_fclose_degree(list, H5F_close_degree_t::H5F_CLOSE_STRONG).into()))
            .and_then(|_| check(H5Pset_driver(list, driver::driver_id(), std::ptr::null()).into()));
        match outcome {
            Ok(_) => Ok(list),
            Err(error) => {
                H5Pclose(list);
                Err(error)
            }
        }
    }
}

/// # Safety
///
/// `list` must be an open file access list; must be called under libhdf5's lock.
unsafe fn set_chunk_slots(list: hid_t) -> hdf5_metno::Result<i64> {
    let (mut elements, mut slots, mut bytes, mut preemption) = (0, 0, 0, 0.0);
    // SAFETY: the places for the values live through the call; the list is the caller's promise.
    unsafe {
        check(H5Pget_cache(list, &raw mut elements, &raw mut slots, &raw mut bytes, &raw mut preemption).into())?;
        check(H5Pset_cache(list, elements, CHUNK_SLOTS, bytes, preemption).into())
    }
}

/// What libhdf5 holds as free in `file`, as (start, end).
pub(crate) fn free_sections(file: &File) -> hdf5_metno::Result<Vec<(u64, u64)>> {
    sync(|| {
        let id = file.id();
        // SAFETY: the file is open; called under libhdf5's lock; the second call gets room for what the first counted.
        unsafe {
            if H5Fget_freespace(id) <= 0 {
                return Ok(Vec::new());
            }
            let all = H5F_mem_t::H5FD_MEM_DEFAULT;
            let count = check(H5Fget_free_sections(id, all, 0, std::ptr::null_mut()) as i64)? as usize;
            let mut sections = vec![H5F_sect_info_t::default(); count];
            let found = check(H5Fget_free_sections(id, all, count, sections.as_mut_ptr()) as i64)? as usize;
            sections.truncate(found);
            Ok(sections.iter().map(|section| (section.addr, section.addr + section.size)).collect())
        }
    })
}

fn check(value: i64) -> hdf5_metno::Result<i64> {
    if value < 0 { Err(hdf5_metno::Error::query()?) } else { Ok(value) }
}
