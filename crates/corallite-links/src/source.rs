//! Reading the links out of a commit of the file.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use corallite_file::{Snapshot, StoredLayout, object_offset};
use hdf5_metno::Group;
use twox_hash::XxHash3_64;
use zerocopy::FromBytes;

use crate::bucket::{self, Tags};
use crate::change::Change;
use crate::error::{Error, Result};
use crate::format::{
    ChangeRecord, DIRECTORY, DirectoryForm, LINKS_FORMAT_VERSION, PARTITIONS, PENDING, PartitionRecord,
    PartitionRecord1, STATE, StateRecord, partition_name, run_name, shard_name, tags_name,
};
use crate::image::{Bytes, Flaw, StoredImage};
use crate::pending::{self, Pending};
use crate::set;

/// A commit, and what it holds of the links.
#[derive(Debug)]
pub(crate) struct Source {
    path: PathBuf,
    pub(crate) snapshot: Arc<Snapshot>,
    form: DirectoryForm,
    /// The whole directory, unless it is sharded.
    directory: Vec<u32>,
    corrections: Arc<AtomicU64>,
}

/// What a commit holds of the links.
#[derive(Debug)]
pub(crate) struct Contents {
    pub(crate) state: StateRecord,
    pub(crate) partitions: Vec<PartitionRecord>,
}

impl Source {
    /// A commit of which nothing was read yet.
    pub(crate) fn bare(path: &Path, snapshot: Arc<Snapshot>, corrections: Arc<AtomicU64>) -> Self {
        let path = path.to_owned();
        Self { path, snapshot, form: DirectoryForm::Attribute, directory: Vec::new(), corrections }
    }

    /// Reads the state of the links; `None` in a file that never had any.
    pub(crate) fn open(
        path: &Path,
        snapshot: Arc<Snapshot>,
        corrections: Arc<AtomicU64>,
    ) -> Result<(Self, Option<Contents>)> {
        let mut source = Self::bare(path, snapshot, corrections);
        let nodes = source.group("/nodes")?;
        let Some(state) = source.bytes(&nodes, "/nodes", STATE)? else { return Ok((source, None)) };
        let damaged = |place: &str, problem: &str| Error::damaged(&source.path, place, problem);
        let (state, _) = StateRecord::read_from_prefix(state.as_ref())
            .map_err(|_| damaged("/nodes/links", "it is shorter than its record"))?;
        let version = state.version.get();
        if version > LINKS_FORMAT_VERSION {
            let (found, supported) = (u64::from(version), u64::from(LINKS_FORMAT_VERSION));
            return Err(Error::NewerFormat { path: source.path.clone(), what: "links format", found, supported });
        }
        let Some(form) = DirectoryForm::from_code(state.directory_form).filter(|_| state.is_sound()) else {
            return Err(damaged("/nodes/links", "its checksum does not agree"));
        };
        let records = source.bytes(&nodes, "/nodes", PARTITIONS)?;
        let records = records.as_ref().map_or(&[][..], Bytes::as_ref);
        let count = state.partitions.get() as usize;
        let partitions: Vec<PartitionRecord> = match version {
            1 => <[PartitionRecord1]>::ref_from_bytes(records).into_iter().flatten().map(Into::into).collect(),
            _ => <[PartitionRecord]>::ref_from_bytes(records).map(<[_]>::to_vec).unwrap_or_default(),
        };
        if XxHash3_64::oneshot(records) != state.partitions_sum.get() || partitions.len() != count {
            return Err(damaged("/nodes/partitions", "its checksum does not agree"));
        }
        let directory = source.read_directory(form)?;
        source.form = form;
        source.directory = directory;
        Ok((source, Some(Contents { state, partitions })))
    }

    fn group(&self, name: &str) -> Result<Group> {
        let opened = self.snapshot.file().group(name);
        opened.map_err(|error| self.snapshot.explain(&format!("open {name}"), &error).into())
    }

    fn damaged(&self, place: impl Into<String>, problem: impl Into<String>) -> Error {
        Error::damaged(&self.path, place, problem)
    }

    /// The bytes of a contiguous dataset; `None` when nothing has the name.
    pub(crate) fn bytes(&self, group: &Group, within: &str, name: &str) -> Result<Option<Bytes>> {
        let place = || format!("{within}/{name}");
        let explain = |error| Error::from(self.snapshot.explain(&format!("open {within}/{name}"), &error));
        let Some(offset) = object_offset(group, name).map_err(explain)? else { return Ok(None) };
        let Some(description) = self.snapshot.describe_dataset(offset)? else {
            return self.bytes_by_library(group, within, name).map(Some);
        };
        let (offset, length) = match description.layout {
            StoredLayout::Contiguous { offset: Some(offset), length } => (offset, length),
            StoredLayout::Contiguous { offset: None, .. } => return Ok(Some(Bytes::Copied(Vec::new()))),
            _ => return Err(self.damaged(place(), "it is not stored in one piece")),
        };
        if let Some(mapped) = self.snapshot.map(offset, length)? {
            return Ok(Some(Bytes::Mapped(mapped)));
        }
        if offset.checked_add(length).is_none_or(|end| end > self.snapshot.bytes()) {
            return Err(self.damaged(place(), "it lies outside the file"));
        }
        let mut copy = vec![0; usize::try_from(length).unwrap_or(usize::MAX)];
        self.snapshot.read_at(offset, &mut copy)?;
        Ok(Some(Bytes::Copied(copy)))
    }

    /// The same for a dataset whose header another program has written anew.
    fn bytes_by_library(&self, group: &Group, within: &str, name: &str) -> Result<Bytes> {
        let explain = |error| Error::from(self.snapshot.explain(&format!("read {within}/{name}"), &error));
        let dataset = group.dataset(name).map_err(explain)?;
        let size = dataset.dtype().map_err(explain)?.size() as u64 * dataset.size() as u64;
        let offset = corallite_file::contiguous_offset(&dataset);
        let offset = offset.filter(|offset| offset.checked_add(size).is_some_and(|end| end <= self.snapshot.bytes()));
        let Some(offset) = offset else {
            return Err(self.damaged(format!("{within}/{name}"), "it is not stored in one piece within the file"));
        };
        let mut copy = vec![0; usize::try_from(size).unwrap_or(usize::MAX)];
        self.snapshot.read_at(offset, &mut copy)?;
        Ok(Bytes::Copied(copy))
    }

    fn read_directory(&self, form: DirectoryForm) -> Result<Vec<u32>> {
        let explain = |error| Error::from(self.snapshot.explain("read the directory", &error));
        match form {
            DirectoryForm::Sharded => Ok(Vec::new()),
            DirectoryForm::Attribute => {
                let attribute = self.group("/config")?.attr(DIRECTORY).map_err(explain)?;
                attribute.read_raw().map_err(explain)
            }
            DirectoryForm::Dataset => {
                let root = self.group("/")?;
                match self.bytes(&root, "", DIRECTORY)? {
                    Some(bytes) => Ok(entries(bytes.as_ref())),
                    None => Err(self.damaged("/dir", "it is missing")),
                }
            }
        }
    }

    pub(crate) fn form(&self) -> DirectoryForm {
        self.form
    }

    /// A partition's directory.
    pub(crate) fn directory(&self, record: &PartitionRecord) -> Result<Vec<u32>> {
        let count = 1_usize << (record.directory_bits & 31);
        Ok(match self.form {
            DirectoryForm::Sharded => {
                let group = self.group("/dir")?;
                let shard = self.bytes(&group, "/dir", &shard_name(record.id.get()))?;
                entries(shard.as_ref().map_or(&[], Bytes::as_ref))
            }
            _ => {
                let start = record.directory_start.get() as usize;
                self.directory.get(start..start.saturating_add(count)).unwrap_or_default().to_vec()
            }
        })
    }

    /// A partition's image.
    pub(crate) fn image(&self, record: &PartitionRecord) -> Result<StoredImage> {
        let id = record.id.get();
        let name = partition_name(id);
        let directory = self.directory(record)?;
        let read = |within: &str, bytes: u64| -> Result<Bytes> {
            if bytes == 0 {
                return Ok(Bytes::Copied(Vec::new()));
            }
            let found = self.bytes(&self.group(within)?, within, &name)?;
            let found = found.ok_or_else(|| self.damaged(format!("{within}/{name}"), "it is missing"))?;
            if found.as_ref().len() as u64 != bytes {
                let problem = format!("it has {} bytes, and {bytes} were written", found.as_ref().len());
                return Err(self.damaged(format!("{within}/{name}"), problem));
            }
            Ok(found)
        };
        let buckets = read("/buckets", u64::from(record.buckets.get()) * bucket::BYTES as u64)?;
        let sets = read("/values", record.set_units.get().saturating_mul(set::UNIT as u64))?;
        let tags = self.tags(record)?;
        let corrections = Arc::clone(&self.corrections);
        StoredImage::new(record, directory, tags, (buckets, sets), corrections).map_err(|flaw| self.flawed(flaw))
    }

    /// The tags of a partition's buckets; none where version 1 wrote the image.
    fn tags(&self, record: &PartitionRecord) -> Result<Tags> {
        if record.tags_sum.get() == 0 {
            return Ok(Tags::default());
        }
        let name = tags_name(record.id.get());
        let found = self.bytes(&self.group("/nodes")?, "/nodes", &name)?;
        let bytes = found.as_ref().map_or(&[][..], Bytes::as_ref);
        if XxHash3_64::oneshot(bytes) != record.tags_sum.get()
            || bytes.len() != record.buckets.get() as usize * bucket::TAG_BYTES
        {
            return Err(self.damaged(format!("/nodes/{name}"), "its checksum does not agree"));
        }
        Ok(Tags::new(bytes))
    }

    /// Where the last of what was written with a partition's image ends in the file.
    pub(crate) fn image_end(&self, record: &PartitionRecord) -> Result<Option<u64>> {
        let id = record.id.get();
        let mut datasets =
            vec![("/buckets", partition_name(id)), ("/values", partition_name(id)), ("/nodes", tags_name(id))];
        if self.form == DirectoryForm::Sharded {
            datasets.push(("/dir", shard_name(id)));
        }
        let mut last = None;
        for (within, name) in datasets {
            let group = self.group(within)?;
            let explain = |error| Error::from(self.snapshot.explain(&format!("open {within}/{name}"), &error));
            let Some(offset) = object_offset(&group, &name).map_err(explain)? else { continue };
            last = last.max(Some(offset));
            if let Some(description) = self.snapshot.describe_dataset(offset)?
                && let StoredLayout::Contiguous { offset: Some(offset), length } = description.layout
            {
                last = last.max(offset.checked_add(length));
            }
        }
        Ok(last)
    }

    /// The changes of a partition that lie in runs, in order.
    pub(crate) fn slices(&self, record: &PartitionRecord) -> Result<Vec<Change>> {
        let mut changes = Vec::new();
        if record.slices_count == 0 {
            return Ok(changes);
        }
        let nodes = self.group("/nodes")?;
        for slice in record.slices.iter().take(record.slices_count.into()) {
            let name = run_name(slice.run.get());
            let place = || format!("/nodes/{name}, changes of partition {:08x}", record.id.get());
            let run = self.bytes(&nodes, "/nodes", &name)?;
            let run = run.as_ref().map_or(&[][..], Bytes::as_ref);
            let start = slice.start.get() as usize * size_of::<ChangeRecord>();
            let length = slice.count.get() as usize * size_of::<ChangeRecord>();
            let bytes = run.get(start..start.saturating_add(length));
            let bytes = bytes.filter(|bytes| crc32c::crc32c(bytes) == slice.sum.get());
            let records = bytes.and_then(|bytes| <[ChangeRecord]>::ref_from_bytes(bytes).ok());
            let records = records.ok_or_else(|| self.damaged(place(), "their checksum does not agree"))?;
            for record in records {
                let change = record.change().ok_or_else(|| self.damaged(place(), "one is of no known kind"))?;
                changes.push(change);
            }
        }
        Ok(changes)
    }

    /// The deletion log.
    pub(crate) fn deletions(&self, state: &StateRecord) -> Result<Vec<ChangeRecord>> {
        let nodes = self.group("/nodes")?;
        let found = self.bytes(&nodes, "/nodes", crate::format::DELETIONS)?;
        let bytes = found.as_ref().map_or(&[][..], Bytes::as_ref);
        let length = state.deletions.get() as usize * size_of::<ChangeRecord>();
        if bytes.len() != length || XxHash3_64::oneshot(bytes) != state.deletions_sum.get() {
            return Err(self.damaged("/nodes/deletions", "its checksum does not agree"));
        }
        Ok(<[ChangeRecord]>::ref_from_bytes(bytes).map(<[_]>::to_vec).unwrap_or_default())
    }

    fn pending_bytes(&self) -> Result<Option<Bytes>> {
        self.bytes(&self.group("/nodes")?, "/nodes", PENDING)
    }

    /// Changes that a transaction of the file brought.
    pub(crate) fn pending(&self) -> Result<Option<Pending>> {
        self.pending_bytes()?.map(|bytes| pending::decode(&self.path, bytes.as_ref())).transpose()
    }

    /// Their token, as it is, damaged or not.
    pub(crate) fn pending_token(&self) -> Result<Option<u64>> {
        Ok(self.pending_bytes()?.map(|bytes| pending::token(bytes.as_ref())))
    }

    pub(crate) fn flawed(&self, flaw: Flaw) -> Error {
        self.damaged(flaw.place, flaw.problem)
    }
}

fn entries(bytes: &[u8]) -> Vec<u32> {
    bytes.as_chunks().0.iter().map(|entry| u32::from_le_bytes(*entry)).collect()
}
