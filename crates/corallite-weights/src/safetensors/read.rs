//! Opening a safetensors file and handing out its tensors without copying them.
//!
//! Owns the checks between header and file: the header length fits, and the data is exactly as long
//! as the header says. After that every slice is in bounds by construction.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use bytes::Bytes;

use super::header::{Header, MAX_HEADER_LEN, PREFIX, TensorInfo, in_memory, too_long};
use super::map::Mapped;
use crate::dtype::Dtype;
use crate::error::{Error, Result};
use crate::tensor::WeightTensor;

/// A safetensors file whose header has been checked.
#[derive(Debug, Clone)]
pub struct SafetensorsFile {
    path: PathBuf,
    header: Header,
    data: Bytes,
    mapped: Option<Mapped>,
}

/// One tensor of a file.
#[derive(Debug, Clone, Copy)]
pub struct TensorView<'a> {
    info: &'a TensorInfo,
    data: &'a Bytes,
}

impl<'a> TensorView<'a> {
    /// Its name.
    pub fn name(&self) -> &'a str {
        &self.info.name
    }

    /// Its element type.
    pub fn dtype(&self) -> Dtype {
        self.info.dtype
    }

    /// Its dimensions, outermost first.
    pub fn shape(&self) -> &'a [u64] {
        &self.info.shape
    }

    /// Its bytes: a slice of the file, which stays mapped while any slice lives.
    pub fn data(&self) -> Bytes {
        self.data.slice(self.info.range.start as usize..self.info.range.end as usize)
    }

    /// It as a weight, sharing the file's bytes.
    ///
    /// # Errors
    /// None in practice: the header's checks cover those of [`WeightTensor::new`].
    pub fn to_weight(&self) -> Result<WeightTensor> {
        WeightTensor::new(self.name(), self.shape(), self.dtype(), self.data())
    }
}

impl SafetensorsFile {
    /// Opens a file by mapping it; tensors are read from disk when they are touched.
    ///
    /// While the file is mapped, nobody may change it in place: changed bytes show through, and touching
    /// a part that was cut off ends the process (`SIGBUS`). Replacing the file by renaming another over it
    /// is fine. Where that cannot be ruled out, use [`read`](Self::read).
    ///
    /// # Errors
    /// [`Error::Io`] when it cannot be opened or is no regular file, [`Error::Safetensors`] when it is not well formed.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let (file, len) = open_regular(path)?;
        if len == 0 {
            return Self::parse(Bytes::new(), path.into());
        }
        let mapped = Mapped::new(&file).map_err(|e| Error::io(path, e))?;
        Ok(Self { mapped: Some(mapped.clone()), ..Self::parse(mapped.bytes(), path.into())? })
    }

    /// Opens a file by reading all of it into memory.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn read(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let (file, len) = open_regular(path)?;
        let mut bytes = Vec::new();
        let room = usize::try_from(len).ok().and_then(|len| bytes.try_reserve_exact(len).ok());
        if room.is_none() {
            return Err(Error::io(path, std::io::ErrorKind::OutOfMemory.into()));
        }
        file.take(len).read_to_end(&mut bytes).map_err(|e| Error::io(path, e))?;
        Self::parse(bytes.into(), path.into())
    }

    /// Takes the bytes of a whole file.
    ///
    /// # Errors
    /// [`Error::Safetensors`] when they are not well formed.
    pub fn from_bytes(bytes: impl Into<Bytes>) -> Result<Self> {
        Self::parse(bytes.into(), in_memory())
    }

    fn parse(bytes: Bytes, path: PathBuf) -> Result<Self> {
        let fail = |offset: u64, problem: String| Error::Safetensors { path: path.clone(), offset, problem };
        let len = bytes.len() as u64;
        let Some(&prefix) = bytes.first_chunk::<{ PREFIX as usize }>() else {
            return Err(fail(len, format!("it has {len} bytes, less than the {PREFIX} of the header length")));
        };
        let header_len = u64::from_le_bytes(prefix);
        if header_len > MAX_HEADER_LEN {
            return Err(fail(0, too_long(header_len)));
        }
        if header_len > len - PREFIX {
            return Err(fail(0, format!("the header length is {header_len} and the file ends after {}", len - PREFIX)));
        }
        let data_start = PREFIX + header_len;
        let header = Header::parse(bytes.slice(PREFIX as usize..data_start as usize), &path)?;
        let got = len - data_start;
        if got < header.data_len() {
            let cut = header.tensors_in_data_order().find(|t| t.range.end > got).map_or("", |t| t.name.as_str());
            let want = header.data_len();
            return Err(fail(len, format!("tensor `{cut}`: the file ends after {got} of {want} data bytes")));
        }
        if got > header.data_len() {
            let extra = got - header.data_len();
            return Err(fail(data_start + header.data_len(), format!("{extra} bytes follow the last tensor")));
        }
        Ok(Self { data: bytes.slice(data_start as usize..), header, path, mapped: None })
    }

    /// Gives back the memory that a mapped file takes for what was touched of it; what is touched again is read again. For
    /// going through files that are larger than memory.
    pub fn forget_touched(&self) {
        if let Some(mapped) = &self.mapped {
            mapped.forget();
        }
    }

    /// The file's path, or `<memory>`.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The header.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// The `__metadata__` entries in the order of the header.
    pub fn metadata(&self) -> &[(String, String)] {
        self.header.metadata()
    }

    /// The tensors in the order of the header.
    pub fn tensors(&self) -> impl ExactSizeIterator<Item = TensorView<'_>> {
        self.header.tensors().iter().map(|info| TensorView { info, data: &self.data })
    }

    /// The tensors in the order of their data, which is the fastest to read in.
    pub fn tensors_in_data_order(&self) -> impl ExactSizeIterator<Item = TensorView<'_>> {
        self.header.tensors_in_data_order().map(|info| TensorView { info, data: &self.data })
    }

    /// The tensor with this name. Looks through all names; for many look-ups build a map.
    pub fn tensor(&self, name: &str) -> Option<TensorView<'_>> {
        self.tensors().find(|view| view.name() == name)
    }
}

/// Opens a regular file for reading, and its length. Opening a FIFO would wait for a writer for ever,
/// so the kind is looked at before and, because it may have been exchanged since, after.
fn open_regular(path: &Path) -> Result<(File, u64)> {
    let regular = |meta: std::fs::Metadata| {
        if meta.is_file() {
            return Ok(meta.len());
        }
        let what = if meta.is_dir() { "is a directory, not a file" } else { "is not a regular file" };
        Err(Error::io(path, std::io::Error::new(std::io::ErrorKind::InvalidInput, what)))
    };
    regular(std::fs::metadata(path).map_err(|e| Error::io(path, e))?)?;
    let file = File::open(path).map_err(|e| Error::io(path, e))?;
    let len = regular(file.metadata().map_err(|e| Error::io(path, e))?)?;
    Ok((file, len))
}
