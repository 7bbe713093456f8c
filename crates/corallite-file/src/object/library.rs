//! The calls into libhdf5 that encoding needs: links to objects that libhdf5 has not made, where objects are, and the
//! bytes of its datatypes.

#![allow(unsafe_code)]

use std::ffi::{CString, c_int, c_void};

use hdf5_metno::sync::sync;
use hdf5_metno::{Error, Group, Result};
use hdf5_metno_sys::h5i::hid_t;
use hdf5_metno_sys::h5l::{H5L_info2_t, H5L_type_t, H5Lget_info2};
use hdf5_metno_sys::h5o::{H5O_token_t, H5Oclose, H5Olink, H5Oopen_by_token};
use hdf5_metno_sys::h5p::H5P_DEFAULT;
use hdf5_metno_sys::h5t::H5Tencode;

// SAFETY: the signatures are those of HDF5's H5VLnative.h; they are missing in the binding.
unsafe extern "C" {
    fn H5VLnative_addr_to_token(location: hid_t, address: u64, token: *mut H5O_token_t) -> c_int;
    fn H5VLnative_token_to_addr(location: hid_t, token: H5O_token_t, address: *mut u64) -> c_int;
}

/// The bytes of a datatype message for an open libhdf5 type.
///
/// # Errors
///
/// What libhdf5 reports.
pub fn encode_datatype(datatype: hid_t) -> hdf5_metno::Result<Vec<u8>> {
    /// H5Tencode puts the message's type and its own version in front.
    const PREFIX: usize = 2;
    sync(|| {
        let mut length = 0;
        // SAFETY: asks for the length only; the type's id is checked by libhdf5.
        if unsafe { H5Tencode(datatype, std::ptr::null_mut(), &raw mut length) } < 0 {
            return Err(hdf5_metno::Error::query()?);
        }
        let mut bytes = vec![0_u8; length];
        // SAFETY: the buffer has the length that libhdf5 asked for.
        if unsafe { H5Tencode(datatype, bytes.as_mut_ptr().cast::<c_void>(), &raw mut length) } < 0 {
            return Err(hdf5_metno::Error::query()?);
        }
        bytes.drain(..PREFIX.min(length));
        Ok(bytes)
    })
}

/// Links the object whose header begins at `offset` into `group`. Its reference count must be 0; linking makes it 1.
pub(super) fn link(group: &Group, name: &str, offset: u64) -> Result<()> {
    let name =
        CString::new(name).map_err(|_| Error::Internal(format!("the name {name:?} contains a NUL character")))?;
    sync(|| {
        // SAFETY: the group is open, the name NUL-terminated, and the object's id closed on every path.
        unsafe {
            let mut token = H5O_token_t::default();
            if H5VLnative_addr_to_token(group.id(), offset, &raw mut token) < 0 {
                return Err(Error::query()?);
            }
            let object = H5Oopen_by_token(group.id(), token);
            if object < 0 {
                return Err(Error::query()?);
            }
            let linked = if H5Olink(object, group.id(), name.as_ptr(), H5P_DEFAULT, H5P_DEFAULT) < 0 {
                Err(Error::query()?)
            } else {
                Ok(())
            };
            H5Oclose(object);
            linked
        }
    })
}

/// Where the header of the object at `path` below `group` begins; `None` when there is no hard link of that path.
pub(super) fn offset_of(group: &Group, path: &str) -> Result<Option<u64>> {
    let c_path =
        CString::new(path).map_err(|_| Error::Internal(format!("the path {path:?} contains a NUL character")))?;
    sync(|| {
        let mut info = H5L_info2_t::default();
        // SAFETY: the group is open, the path NUL-terminated, and the places for the results live through the calls. The
        // union holds a token, which libhdf5 sets for hard links.
        unsafe {
            if H5Lget_info2(group.id(), c_path.as_ptr(), &raw mut info, H5P_DEFAULT) < 0 {
                let error = Error::query()?;
                // It says "absent" and "broken" in the same way.
                return if exists(group, path) { Err(error) } else { Ok(None) };
            }
            if info.type_ != H5L_type_t::H5L_TYPE_HARD {
                return Ok(None);
            }
            let mut address = 0;
            if H5VLnative_token_to_addr(group.id(), *info.u.token(), &raw mut address) < 0 {
                return Err(Error::query()?);
            }
            Ok(Some(address))
        }
    })
}

/// Whether every link of the path is there.
fn exists(group: &Group, path: &str) -> bool {
    let ends = path.match_indices('/').map(|(at, _)| at).chain([path.len()]);
    ends.filter(|&end| end > 0).all(|end| group.link_exists(&path[..end]))
}
