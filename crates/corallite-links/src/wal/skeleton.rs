//! Making the log's file: an HDF5 file whose datasets never change place or size.
//!
//! libhdf5 makes it in memory; then its bytes go to the disk under a temporary name and get the log's name once they
//! are durable. From then on libhdf5 never writes to the file.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use corallite_file::{
    Access, AttributeValue, DataLayout, Disk, DiskFile, Mode, NewDataset, Options, Storage, Transaction,
    encode_datatype,
};
use hdf5_metno::types::VarLenUnicode;
use hdf5_metno::{Datatype, H5Type};
use zerocopy::IntoBytes;

use super::format::{HEADER_COPY_AT, Header, LOG_FORMAT_VERSION, PAGE, RECORD, SLOTS_AT, Slot, log_of};
use super::ring::Ring;
use super::sparse::SparseDisk;
use super::{Lsn, Position};
use crate::error::{Error, Result};

/// Records zeroed before the log is used and with each step of `zero_ahead`.
pub(super) const ZERO_STEP: u64 = (4 << 20) / RECORD;

// As libhdf5 is to see them; the bytes are those of `format::Record`.

#[derive(Clone, Copy, H5Type)]
#[repr(C)]
struct IdType {
    high: u64,
    low: u64,
}

#[derive(Clone, Copy, H5Type)]
#[repr(C)]
struct RecordType {
    version_op: u8,
    flags: u8,
    shard: u16,
    crc32c: u32,
    seq: u64,
    nanos: u64,
    key: IdType,
    value: IdType,
    log: u64,
}

const _: () = assert!(size_of::<RecordType>() as u64 == RECORD);

/// What it is called while it is made.
const IN_MEMORY: &str = "a new log";

const ABOUT_HEADER: &str = "where the records are, and a hint of how far the store has come";
const ABOUT_RECORDS: &str = "a ring: the record with number seq lies at index seq modulo the capacity; version_op is \
    16 * version + operation: 1 insert, 2 delete value, 3 delete key, 15 commit of a batch";

struct Places {
    header: u64,
    region: u64,
}

/// Creates the log at `path`, in place of what is there, and durably. Returns its ring and where `/header` lies.
pub(super) fn create(
    disk: &dyn Disk,
    path: &Path,
    like: Option<&Path>,
    capacity: u64,
    store: [u8; 16],
    start: Position,
) -> Result<(Ring, u64)> {
    let memory = Arc::new(SparseDisk::default());
    let places = lay_out(Arc::clone(&memory), capacity, &store, start.lsn)?;

    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".new");
    let temporary = PathBuf::from(temporary);
    let write = || -> io::Result<Ring> {
        match disk.remove(&temporary) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let file = disk.open(&temporary, Access::CreateNew)?;
        if let Some(like) = like {
            disk.protect_like(&temporary, like)?;
        }
        copy_around(memory.open(Path::new(IN_MEMORY), Access::Read)?.as_ref(), file.as_ref(), &places, capacity)?;
        let header = Header::new(capacity, places.region, start.lsn, store);
        file.write_at(places.header, header.as_bytes())?;
        file.write_at(places.header + HEADER_COPY_AT, header.as_bytes())?;
        file.write_at(places.header + SLOTS_AT[0], Slot::new(1, start, log_of(&store)).as_bytes())?;
        let ring = Ring { file, region: places.region, capacity };
        ring.zero(start.lsn, capacity.min(ZERO_STEP))?;
        ring.file.sync()?;
        disk.rename(&temporary, path)?;
        disk.sync_directory(path)?;
        Ok(ring)
    };
    match write() {
        Ok(ring) => Ok((ring, places.header)),
        Err(source) => {
            // Whatever was at the path is still there, or the new log is; a leftover only takes room.
            let _ = disk.remove(&temporary);
            Err(Error::io("create", path, source))
        }
    }
}

/// Copies what libhdf5 wrote, leaving out the records' region: it is all zeros, which a longer file has for free.
fn copy_around(from: &dyn DiskFile, to: &dyn DiskFile, places: &Places, capacity: u64) -> io::Result<()> {
    let (length, after) = (from.len()?, places.region + capacity * RECORD);
    to.set_len(length.max(after))?;
    let mut piece = vec![0; 64 << 10];
    for (mut at, end) in [(0, places.region), (after, length)] {
        while at < end {
            let want = (end - at).min(piece.len() as u64) as usize;
            let found = from.read_at(at, &mut piece[..want])?;
            if found == 0 {
                break;
            }
            to.write_at(at, &piece[..found])?;
            at += found as u64;
        }
    }
    Ok(())
}

/// Makes the file in memory.
fn lay_out(disk: Arc<SparseDisk>, capacity: u64, store: &[u8; 16], first: Lsn) -> Result<Places> {
    let storage = Storage::on_disk(disk, PathBuf::from(IN_MEMORY), Options::new().history(0));
    storage.open(Mode::Write, false)?;
    let places = storage.transaction(|tx| -> Result<Places> {
        describe(tx, capacity, store, first).map_err(|error| tx.explain("describe the log", &error))?;
        // A log is no store, and is not to be opened as one.
        let config = tx.file().group(Storage::CONFIG_GROUP);
        config
            .and_then(|config| config.delete_attr("format_version"))
            .map_err(|error| tx.explain("lay out the log", &error))?;
        for group in [Storage::NODES_GROUP, Storage::VALUES_GROUP, Storage::BUCKETS_GROUP] {
            tx.file().unlink(group).map_err(|error| tx.explain("lay out the log", &error))?;
        }
        let encoded = |datatype: hdf5_metno::Result<Datatype>| {
            datatype
                .and_then(|datatype| encode_datatype(datatype.id()))
                .map_err(|error| tx.explain("encode a type", &error))
        };
        let byte = encoded(Datatype::from_type::<u8>())?;
        let record = encoded(Datatype::from_type::<RecordType>())?;
        let mut datasets = tx.create_datasets()?;
        let mut create = |name, (datatype, item_size): (&[u8], u32), length: u64, text: &str| -> Result<u64> {
            let offset = tx.allocate(length * u64::from(item_size))?;
            let dataset = NewDataset {
                datatype,
                item_size,
                dims: &[length],
                layout: DataLayout::Contiguous(Some(offset)),
                attributes: &[(c"about", AttributeValue::Text(text.to_owned()))],
            };
            datasets.create(tx.file(), name, &dataset)?;
            Ok(offset)
        };
        // The records come last; only what the file layer notes of free room may follow, which no reader needs.
        let header = create("header", (&byte, 1), PAGE, ABOUT_HEADER)?;
        let region = create("records", (&record, RECORD as u32), capacity, ABOUT_RECORDS)?;
        let places = Places { header, region };
        Ok(places)
    })?;
    storage.close()?;
    Ok(places)
}

fn describe(tx: &Transaction<'_>, capacity: u64, store: &[u8; 16], first: Lsn) -> hdf5_metno::Result<()> {
    let config = tx.file().group(Storage::CONFIG_GROUP)?;
    let hex: String = store.iter().map(|byte| format!("{byte:02x}")).collect();
    for (name, text) in [("kind", "links write-ahead log"), ("store", hex.as_str())] {
        let text: VarLenUnicode = text.parse().map_err(|error| hdf5_metno::Error::Internal(format!("{error:?}")))?;
        config.new_attr::<VarLenUnicode>().create(name)?.write_scalar(&text)?;
    }
    for (name, number) in
        [("log_format_version", u64::from(LOG_FORMAT_VERSION)), ("capacity", capacity), ("first", first.0)]
    {
        config.new_attr::<u64>().create(name)?.write_scalar(&number)?;
    }
    Ok(())
}
