//! The calls into libhdf5 that need `unsafe`: element types, attributes, raw reads.
//!
//! Types, dataspaces and the string type are made once and kept for the life of the program.

#![allow(unsafe_code)]

use std::collections::HashMap;
use std::ffi::{CStr, CString, c_char, c_int, c_uint, c_void};
use std::sync::{Arc, LazyLock};

use corallite_file::encode_datatype;
use corallite_file::hdf5::sync::sync;
use corallite_file::hdf5::{Dataset, Error as H5Error, Group, Location, Result as H5Result, from_id};
use hdf5_metno_sys::h5::H5free_memory;
use hdf5_metno_sys::h5a::{
    H5Aclose, H5Acreate2, H5Adelete, H5Aexists, H5Aget_space, H5Aget_type, H5Aopen, H5Aread, H5Awrite,
};
use hdf5_metno_sys::h5d::{
    H5D_layout_t, H5Dget_create_plist, H5Dget_space, H5Dget_storage_size, H5Dget_type, H5Dopen2, H5Dread,
};
use hdf5_metno_sys::h5i::hid_t;
use hdf5_metno_sys::h5p::{
    H5P_CLS_DATASET_ACCESS, H5P_DEFAULT, H5Pclose, H5Pcreate, H5Pget_chunk, H5Pget_filter2, H5Pget_layout,
    H5Pget_nfilters, H5Pset_chunk_cache,
};
use hdf5_metno_sys::h5s::{H5S_ALL, H5S_class_t, H5Sclose, H5Screate, H5Sget_simple_extent_npoints};
use hdf5_metno_sys::h5t::{
    H5T_C_S1, H5T_IEEE_F32BE, H5T_IEEE_F32LE, H5T_IEEE_F64BE, H5T_IEEE_F64LE, H5T_NATIVE_DOUBLE, H5T_NATIVE_INT64,
    H5T_NATIVE_UINT64, H5T_STD_I8LE, H5T_STD_I16BE, H5T_STD_I16LE, H5T_STD_I32BE, H5T_STD_I32LE, H5T_STD_I64BE,
    H5T_STD_I64LE, H5T_STD_U8LE, H5T_STD_U16BE, H5T_STD_U16LE, H5T_STD_U32BE, H5T_STD_U32LE, H5T_STD_U64BE,
    H5T_STD_U64LE, H5T_VARIABLE, H5T_class_t, H5T_cset_t, H5T_order_t, H5T_sign_t, H5Tclose, H5Tcopy, H5Tcreate,
    H5Tenum_create, H5Tenum_insert, H5Tget_class, H5Tget_order, H5Tget_sign, H5Tget_size, H5Tinsert,
    H5Tis_variable_str, H5Tset_cset, H5Tset_ebias, H5Tset_fields, H5Tset_precision, H5Tset_size,
};
use parking_lot::Mutex;

use crate::dtype::{ByteOrder, Dtype, Kind};
use crate::filter::Filter;

/// The layout of an existing dataset.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Layout {
    Compact,
    Contiguous,
    /// `filters` is `None` when one of them is not known here.
    Chunked {
        dims: Vec<u64>,
        filters: Option<Vec<Filter>>,
    },
    /// Anything else libhdf5 knows.
    Other,
}

fn check(value: i64) -> H5Result<i64> {
    if value < 0 { Err(H5Error::query()?) } else { Ok(value) }
}

fn ok(status: c_int) -> H5Result<()> {
    check(status.into()).map(drop)
}

fn name(text: &str) -> H5Result<CString> {
    CString::new(text).map_err(|_| H5Error::Internal(format!("{text:?} contains a NUL character")))
}

/// Ids made once; libhdf5 frees them when the program ends.
struct Shared {
    string: hid_t,
    scalar: hid_t,
    /// Dataset access without libhdf5's chunk cache, whose table costs more than creating a small dataset: chunks are
    /// read and written directly.
    access: hid_t,
}

static SHARED: LazyLock<H5Result<Shared>> = LazyLock::new(|| {
    sync(|| {
        // SAFETY: plain constructors, called under libhdf5's lock.
        unsafe {
            let string = check(H5Tcopy(*H5T_C_S1))?;
            ok(H5Tset_size(string, H5T_VARIABLE))?;
            ok(H5Tset_cset(string, H5T_cset_t::H5T_CSET_UTF8))?;
            let access = check(H5Pcreate(*H5P_CLS_DATASET_ACCESS))?;
            ok(H5Pset_chunk_cache(access, 1, 0, 0.0))?;
            Ok(Shared { string, scalar: check(H5Screate(H5S_class_t::H5S_SCALAR))?, access })
        }
    })
});

fn shared() -> H5Result<&'static Shared> {
    SHARED.as_ref().map_err(|error| H5Error::Internal(error.to_string()))
}

/// The HDF5 type that datasets of `dtype` have. Types without one in HDF5 (8-bit floats and smaller) are stored as
/// unsigned bytes, with the `dtype` attribute saying what they are.
pub(crate) fn file_type(dtype: Dtype) -> H5Result<hid_t> {
    static TYPES: LazyLock<Mutex<HashMap<Dtype, hid_t>>> = LazyLock::new(Mutex::default);
    sync(|| {
        if let Some(&id) = TYPES.lock().get(&dtype) {
            return Ok(id);
        }
        let id = make_type(dtype)?;
        TYPES.lock().insert(dtype, id);
        Ok(id)
    })
}

fn make_type(dtype: Dtype) -> H5Result<hid_t> {
    let little = dtype.byte_order() == ByteOrder::Little;
    let pick = |le: hid_t, be: hid_t| if little { le } else { be };
    Ok(match dtype.kind() {
        Kind::I8 => *H5T_STD_I8LE,
        Kind::I16 => pick(*H5T_STD_I16LE, *H5T_STD_I16BE),
        Kind::U16 => pick(*H5T_STD_U16LE, *H5T_STD_U16BE),
        Kind::I32 => pick(*H5T_STD_I32LE, *H5T_STD_I32BE),
        Kind::U32 => pick(*H5T_STD_U32LE, *H5T_STD_U32BE),
        Kind::I64 => pick(*H5T_STD_I64LE, *H5T_STD_I64BE),
        Kind::U64 => pick(*H5T_STD_U64LE, *H5T_STD_U64BE),
        Kind::F32 => pick(*H5T_IEEE_F32LE, *H5T_IEEE_F32BE),
        Kind::F64 => pick(*H5T_IEEE_F64LE, *H5T_IEEE_F64BE),
        Kind::F16 => half_type(pick(*H5T_IEEE_F32LE, *H5T_IEEE_F32BE), 5, 10, 15)?,
        Kind::Bf16 => half_type(pick(*H5T_IEEE_F32LE, *H5T_IEEE_F32BE), 8, 7, 127)?,
        Kind::C64 => complex_type(pick(*H5T_IEEE_F32LE, *H5T_IEEE_F32BE), 4)?,
        Kind::C128 => complex_type(pick(*H5T_IEEE_F64LE, *H5T_IEEE_F64BE), 8)?,
        Kind::Bool => bool_type()?,
        _ => *H5T_STD_U8LE,
    })
}

/// A 16-bit float: the sign, then `exponent` bits, then `mantissa` bits.
fn half_type(base: hid_t, exponent: usize, mantissa: usize, bias: usize) -> H5Result<hid_t> {
    // SAFETY: called under libhdf5's lock on a copy of a predefined float type.
    unsafe {
        let id = check(H5Tcopy(base))?;
        ok(H5Tset_fields(id, 15, mantissa, exponent, 0, mantissa))?;
        ok(H5Tset_precision(id, 16))?;
        ok(H5Tset_size(id, 2))?;
        ok(H5Tset_ebias(id, bias))?;
        Ok(id)
    }
}

/// h5py's complex numbers: a compound of `r` and `i`.
fn complex_type(part: hid_t, size: usize) -> H5Result<hid_t> {
    // SAFETY: called under libhdf5's lock; the members lie within the compound.
    unsafe {
        let id = check(H5Tcreate(H5T_class_t::H5T_COMPOUND, 2 * size))?;
        ok(H5Tinsert(id, c"r".as_ptr(), 0, part))?;
        ok(H5Tinsert(id, c"i".as_ptr(), size, part))?;
        Ok(id)
    }
}

/// h5py's booleans: an enumeration of one byte.
fn bool_type() -> H5Result<hid_t> {
    // SAFETY: called under libhdf5's lock; the values have the base type's size.
    unsafe {
        let id = check(H5Tenum_create(*H5T_STD_I8LE))?;
        for (value, name) in [(0_i8, c"FALSE"), (1, c"TRUE")] {
            ok(H5Tenum_insert(id, name.as_ptr(), (&raw const value).cast::<c_void>()))?;
        }
        Ok(id)
    }
}

/// The datatype message of `dtype`'s HDF5 type.
pub(crate) fn datatype_message(dtype: Dtype) -> H5Result<Arc<[u8]>> {
    static MESSAGES: LazyLock<Mutex<HashMap<Dtype, Arc<[u8]>>>> = LazyLock::new(Mutex::default);
    if let Some(message) = MESSAGES.lock().get(&dtype) {
        return Ok(Arc::clone(message));
    }
    let message: Arc<[u8]> = encode_datatype(file_type(dtype)?)?.into();
    MESSAGES.lock().insert(dtype, Arc::clone(&message));
    Ok(message)
}

/// Opens a dataset whose chunks are going to be read directly.
pub(crate) fn open_dataset(parent: &Group, link: &str) -> H5Result<Dataset> {
    let link = name(link)?;
    let access = shared()?.access;
    // SAFETY: the group is open, the name NUL-terminated, and the id new.
    sync(|| unsafe { from_id(check(H5Dopen2(parent.id(), link.as_ptr(), access))?) })
}

/// Reads all of a dataset through libhdf5, without conversion; `bytes` must be as long as the data.
pub(crate) fn read_all(dataset: &Dataset, bytes: &mut [u8]) -> H5Result<()> {
    if bytes.len() as u64 != extent_bytes(dataset)? {
        return Err(H5Error::Internal("the dataset has another size than its attributes say".to_owned()));
    }
    sync(|| {
        // SAFETY: the memory type is the dataset's own, so libhdf5 writes exactly the dataset's bytes, which were counted.
        unsafe {
            let kind = check(H5Dget_type(dataset.id()))?;
            let status = ok(H5Dread(dataset.id(), kind, H5S_ALL, H5S_ALL, H5P_DEFAULT, bytes.as_mut_ptr().cast()));
            H5Tclose(kind);
            status
        }
    })
}

/// Bytes of all elements of a dataset, unfiltered.
pub(crate) fn extent_bytes(dataset: &Dataset) -> H5Result<u64> {
    sync(|| {
        // SAFETY: the ids are open while used and closed on every path.
        unsafe {
            let kind = check(H5Dget_type(dataset.id()))?;
            let size = H5Tget_size(kind) as u64;
            H5Tclose(kind);
            let space = check(H5Dget_space(dataset.id()))?;
            let points = check(H5Sget_simple_extent_npoints(space));
            H5Sclose(space);
            (points? as u64)
                .checked_mul(size)
                .ok_or_else(|| H5Error::Internal("the dataset's size overflows".to_owned()))
        }
    })
}

/// Bytes a dataset's data takes in the file.
pub(crate) fn stored_bytes(dataset: &Dataset) -> u64 {
    // SAFETY: the dataset is open.
    sync(|| unsafe { H5Dget_storage_size(dataset.id()) })
}

/// How a dataset's bytes are laid out.
pub(crate) fn layout(dataset: &Dataset) -> H5Result<Layout> {
    sync(|| {
        // SAFETY: the list is open while used and closed on every path; the arrays have the given lengths.
        unsafe {
            let list = check(H5Dget_create_plist(dataset.id()))?;
            let found = match H5Pget_layout(list) {
                H5D_layout_t::H5D_COMPACT => Ok(Layout::Compact),
                H5D_layout_t::H5D_CONTIGUOUS => Ok(Layout::Contiguous),
                H5D_layout_t::H5D_CHUNKED => {
                    let mut dims = [0_u64; 33];
                    check(H5Pget_chunk(list, dims.len() as c_int, dims.as_mut_ptr()).into()).map(|rank| {
                        Layout::Chunked {
                            dims: dims[..(rank as usize).min(dims.len())].to_vec(),
                            filters: filters(list),
                        }
                    })
                }
                _ => Ok(Layout::Other),
            };
            H5Pclose(list);
            found
        }
    })
}

/// # Safety
///
/// `list` must be an open dataset creation list; must be called under libhdf5's lock.
unsafe fn filters(list: hid_t) -> Option<Vec<Filter>> {
    // SAFETY: the value array has the length passed; no name is asked for.
    unsafe {
        let count = H5Pget_nfilters(list);
        (0..u32::try_from(count).ok()?)
            .map(|index| {
                let mut values = [0 as c_uint; 8];
                let mut length = values.len();
                let (mut flags, mut config) = (0, 0);
                let id = H5Pget_filter2(
                    list,
                    index,
                    &raw mut flags,
                    &raw mut length,
                    values.as_mut_ptr(),
                    0,
                    std::ptr::null_mut::<c_char>(),
                    &raw mut config,
                );
                match id {
                    1 => Some(Filter::Deflate { level: values[0] as u8 }),
                    2 => Some(Filter::Shuffle { element_size: values[0] as usize }).filter(|_| values[0] > 0),
                    3 => Some(Filter::Fletcher32),
                    32000 => Some(Filter::Lzf),
                    32015 => Some(Filter::Zstd { level: values[0] as u8 }),
                    _ => None,
                }
            })
            .collect()
    }
}

/// What a dataset's HDF5 type says by itself.
#[derive(Clone, Copy, Debug)]
pub(crate) struct OwnType {
    /// The dtype, where there is one.
    pub(crate) dtype: Option<Dtype>,
    pub(crate) order: ByteOrder,
    /// Bytes of an element.
    pub(crate) size: usize,
}

/// The type of an open dataset.
pub(crate) fn own_type(dataset: &Dataset) -> H5Result<OwnType> {
    sync(|| {
        // SAFETY: the type is open while used and closed before returning.
        unsafe {
            let kind = check(H5Dget_type(dataset.id()))?;
            let found = classify(kind);
            H5Tclose(kind);
            Ok(found)
        }
    })
}

/// The type of a datatype message; `None` for one that [`datatype_message`] does not give.
pub(crate) fn described_type(message: &[u8]) -> H5Result<Option<OwnType>> {
    static KNOWN: LazyLock<H5Result<HashMap<Arc<[u8]>, OwnType>>> = LazyLock::new(|| {
        let mut known = HashMap::new();
        for dtype in Dtype::ALL {
            for order in [ByteOrder::Little, ByteOrder::Big] {
                let dtype = dtype.with_byte_order(order);
                let id = file_type(dtype)?;
                // SAFETY: the type stays open for the life of the program.
                known.insert(datatype_message(dtype)?, sync(|| unsafe { classify(id) }));
            }
        }
        Ok(known)
    });
    match &*KNOWN {
        Ok(known) => Ok(known.get(message).copied()),
        Err(error) => Err(H5Error::Internal(error.to_string())),
    }
}

/// # Safety
///
/// `kind` must be an open type; must be called under libhdf5's lock.
unsafe fn classify(kind: hid_t) -> OwnType {
    // SAFETY: the caller's promise.
    unsafe {
        let size = H5Tget_size(kind);
        let big = H5Tget_order(kind) == H5T_order_t::H5T_ORDER_BE;
        let order = if big && size > 1 { ByteOrder::Big } else { ByteOrder::Little };
        let signed = H5Tget_sign(kind) == H5T_sign_t::H5T_SGN_2;
        let found = match (H5Tget_class(kind), size) {
            (H5T_class_t::H5T_INTEGER, 1) => Some(if signed { Kind::I8 } else { Kind::U8 }),
            (H5T_class_t::H5T_INTEGER, 2) => Some(if signed { Kind::I16 } else { Kind::U16 }),
            (H5T_class_t::H5T_INTEGER, 4) => Some(if signed { Kind::I32 } else { Kind::U32 }),
            (H5T_class_t::H5T_INTEGER, 8) => Some(if signed { Kind::I64 } else { Kind::U64 }),
            (H5T_class_t::H5T_FLOAT, 2) => Some(Kind::F16),
            (H5T_class_t::H5T_FLOAT, 4) => Some(Kind::F32),
            (H5T_class_t::H5T_FLOAT, 8) => Some(Kind::F64),
            (H5T_class_t::H5T_ENUM, 1) => Some(Kind::Bool),
            (H5T_class_t::H5T_COMPOUND, 8) => Some(Kind::C64),
            (H5T_class_t::H5T_COMPOUND, 16) => Some(Kind::C128),
            _ => None,
        };
        OwnType { dtype: found.map(|kind| Dtype::new(kind, order)), order, size }
    }
}

/// A value for [`write_attributes`].
#[derive(Clone, Copy, Debug)]
pub(crate) enum Value<'a> {
    Text(&'a str),
    Unsigned(u64),
}

/// Writes new attributes of an object.
pub(crate) fn write_attributes(object: &Location, attributes: &[(&CStr, Value<'_>)]) -> H5Result<()> {
    let shared = shared()?;
    sync(|| {
        for (name, value) in attributes {
            match *value {
                Value::Text(text) => {
                    let text = self::name(text)?;
                    let pointer = text.as_ptr();
                    // SAFETY: a variable-length string is written from a pointer to NUL-terminated text.
                    unsafe {
                        write_one(
                            object,
                            name,
                            shared.string,
                            shared.string,
                            shared.scalar,
                            (&raw const pointer).cast(),
                        )?
                    }
                }
                Value::Unsigned(value) => {
                    // SAFETY: one element of the native type.
                    unsafe {
                        write_one(
                            object,
                            name,
                            *H5T_STD_U64LE,
                            *H5T_NATIVE_UINT64,
                            shared.scalar,
                            (&raw const value).cast(),
                        )?
                    }
                }
            }
        }
        Ok(())
    })
}

/// # Safety
///
/// `value` must point to as many elements of `memory` as `space` has; must be called under libhdf5's lock.
unsafe fn write_one(
    object: &Location,
    name: &CStr,
    file: hid_t,
    memory: hid_t,
    space: hid_t,
    value: *const c_void,
) -> H5Result<()> {
    // SAFETY: the attribute is open while used and closed on every path; the value is the caller's promise.
    unsafe {
        let attribute = check(H5Acreate2(object.id(), name.as_ptr(), file, space, H5P_DEFAULT, H5P_DEFAULT))?;
        let written = ok(H5Awrite(attribute, memory, value));
        H5Aclose(attribute);
        written
    }
}

/// Whether an object has an attribute.
pub(crate) fn has_attribute(object: &Location, name: &CStr) -> H5Result<bool> {
    // SAFETY: the object is open and the name NUL-terminated.
    sync(|| unsafe { check(H5Aexists(object.id(), name.as_ptr()).into()) }).map(|found| found > 0)
}

/// Removes an attribute.
pub(crate) fn delete_attribute(object: &Location, name: &CStr) -> H5Result<()> {
    // SAFETY: the object is open and the name NUL-terminated.
    sync(|| unsafe { ok(H5Adelete(object.id(), name.as_ptr())) })
}

/// Opens an attribute for `body`, which gets its id, type and number of elements; `None` when it is absent.
fn with_attribute<T>(
    object: &Location,
    name: &CStr,
    body: impl FnOnce(hid_t, hid_t, u64) -> H5Result<T>,
) -> H5Result<Option<T>> {
    sync(|| {
        if !has_attribute(object, name)? {
            return Ok(None);
        }
        // SAFETY: the ids are open while used and closed on every path.
        unsafe {
            let attribute = check(H5Aopen(object.id(), name.as_ptr(), H5P_DEFAULT))?;
            let kind = check(H5Aget_type(attribute));
            let space = check(H5Aget_space(attribute));
            let outcome = match (&kind, &space) {
                (&Ok(kind), &Ok(space)) => {
                    let points = H5Sget_simple_extent_npoints(space);
                    check(points).and_then(|points| body(attribute, kind, points as u64))
                }
                _ => Err(H5Error::query()?),
            };
            if let Ok(kind) = kind {
                H5Tclose(kind);
            }
            if let Ok(space) = space {
                H5Sclose(space);
            }
            H5Aclose(attribute);
            outcome.map(Some)
        }
    })
}

/// Reads a text attribute, of variable or fixed length; `None` when it is absent.
pub(crate) fn read_text(object: &Location, name: &CStr) -> H5Result<Option<String>> {
    let shared = shared()?;
    with_attribute(object, name, |attribute, kind, points| {
        // SAFETY: exactly one element is read into room of its size, and libhdf5's string is freed after copying.
        let bytes = unsafe {
            if H5Tget_class(kind) != H5T_class_t::H5T_STRING || points != 1 {
                return Err(H5Error::Internal(format!("the attribute {name:?} is not one text")));
            }
            if H5Tis_variable_str(kind) > 0 {
                let mut pointer: *mut c_char = std::ptr::null_mut();
                // The file's own character set: ASCII and UTF-8 are not converted into each other.
                let memory =
                    if H5Aread(attribute, shared.string, (&raw mut pointer).cast()) < 0 { kind } else { shared.string };
                if memory == kind {
                    ok(H5Aread(attribute, kind, (&raw mut pointer).cast()))?;
                }
                if pointer.is_null() {
                    Vec::new()
                } else {
                    let bytes = CStr::from_ptr(pointer).to_bytes().to_vec();
                    H5free_memory(pointer.cast());
                    bytes
                }
            } else {
                let size = H5Tget_size(kind);
                if size > 1 << 20 {
                    return Err(H5Error::Internal(format!("the attribute {name:?} has {size} bytes")));
                }
                let mut bytes = vec![0_u8; size];
                ok(H5Aread(attribute, kind, bytes.as_mut_ptr().cast()))?;
                let end = bytes.iter().position(|&byte| byte == 0).unwrap_or(size);
                bytes.truncate(end);
                bytes
            }
        };
        String::from_utf8(bytes).map_err(|_| H5Error::Internal(format!("the attribute {name:?} is not UTF-8")))
    })
}

/// Reads an attribute of whole numbers, of any integer type; `None` when it is absent.
pub(crate) fn read_integers(object: &Location, name: &CStr) -> H5Result<Option<Vec<i64>>> {
    with_attribute(object, name, |attribute, kind, points| {
        // SAFETY: room for as many elements as the attribute has, in the memory type asked for.
        unsafe {
            let class = H5Tget_class(kind);
            if points == 0 {
                // numpy's empty tuple is an array of no floats.
                return Ok(Vec::new());
            }
            if class != H5T_class_t::H5T_INTEGER || points > 1024 {
                return Err(H5Error::Internal(format!("the attribute {name:?} is not a short list of whole numbers")));
            }
            let mut values = vec![0_i64; points as usize];
            ok(H5Aread(attribute, *H5T_NATIVE_INT64, values.as_mut_ptr().cast()))?;
            Ok(values)
        }
    })
}

/// Reads an unsigned number; `None` when it is absent.
pub(crate) fn read_unsigned(object: &Location, name: &CStr) -> H5Result<Option<u64>> {
    with_attribute(object, name, |attribute, kind, points| {
        // SAFETY: room for the one element.
        unsafe {
            if H5Tget_class(kind) != H5T_class_t::H5T_INTEGER || points != 1 {
                return Err(H5Error::Internal(format!("the attribute {name:?} is not one whole number")));
            }
            let mut value = 0_u64;
            ok(H5Aread(attribute, *H5T_NATIVE_UINT64, (&raw mut value).cast()))?;
            Ok(value)
        }
    })
}

/// Reads a real number; `None` when it is absent.
pub(crate) fn read_real(object: &Location, name: &CStr) -> H5Result<Option<f64>> {
    with_attribute(object, name, |attribute, kind, points| {
        // SAFETY: room for the one element.
        unsafe {
            let class = H5Tget_class(kind);
            if !matches!(class, H5T_class_t::H5T_FLOAT | H5T_class_t::H5T_INTEGER) || points != 1 {
                return Err(H5Error::Internal(format!("the attribute {name:?} is not one number")));
            }
            let mut value = 0_f64;
            ok(H5Aread(attribute, *H5T_NATIVE_DOUBLE, (&raw mut value).cast()))?;
            Ok(value)
        }
    })
}
