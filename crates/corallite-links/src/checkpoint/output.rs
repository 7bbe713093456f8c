//! The datasets that a checkpoint writes, and their types.

use std::collections::BTreeSet;

use corallite_file::{DataLayout, DatasetWriter, NewDataset, Transaction, encode_datatype};
use hdf5_metno::types::TypeDescriptor;
use hdf5_metno::{Datatype, Group};

use crate::bucket;
use crate::error::{Error, Result};
use crate::format;
use crate::image::Image;
use crate::set;

pub(super) struct Types {
    pub(super) bucket: Vec<u8>,
    pub(super) id: Vec<u8>,
    pub(super) entry: Vec<u8>,
    pub(super) change: Vec<u8>,
    pub(super) tags: Vec<u8>,
    pub(super) partition: Vec<u8>,
    pub(super) state: Vec<u8>,
}

impl Types {
    pub(super) fn new() -> hdf5_metno::Result<Self> {
        let encode = |of: TypeDescriptor| encode_datatype(Datatype::from_descriptor(&of)?.id());
        Ok(Self {
            bucket: encode(format::bucket_type())?,
            id: encode(format::id_type())?,
            entry: encode(format::entry_type())?,
            change: encode(format::change_type())?,
            tags: encode(format::tags_type())?,
            partition: encode(format::partition_type())?,
            state: encode(format::state_type())?,
        })
    }
}

/// The datasets of one commit.
pub(super) struct Output<'a> {
    pub(super) transaction: &'a Transaction<'a>,
    pub(super) datasets: DatasetWriter<'a>,
    pub(super) types: &'a Types,
    pub(super) groups: Groups,
    pub(super) bytes: u64,
    /// Numbers of partitions that others were divided into.
    pub(super) taken: BTreeSet<u32>,
}

pub(super) struct Groups {
    pub(super) root: Group,
    pub(super) config: Group,
    pub(super) nodes: Group,
    pub(super) buckets: Group,
    pub(super) values: Group,
    /// The directory's group, when it is made anew.
    pub(super) directory: Option<Group>,
}

impl Output<'_> {
    pub(super) fn explain(&self, action: &str, error: &hdf5_metno::Error) -> Error {
        self.transaction.explain(action, error).into()
    }

    /// Removes what is there by this name, if anything is.
    pub(super) fn remove(&self, group: &Group, name: &str) -> Result<()> {
        if group.link_exists(name) {
            group.unlink(name).map_err(|error| self.explain(&format!("remove {name}"), &error))?;
        }
        Ok(())
    }

    /// Replaces a dataset.
    pub(super) fn put(
        &mut self,
        group: &Group,
        name: &str,
        datatype: &[u8],
        item_size: usize,
        bytes: &[u8],
    ) -> Result<()> {
        self.remove(group, name)?;
        let offset = if bytes.is_empty() {
            None
        } else {
            let offset = self.transaction.allocate(bytes.len() as u64)?;
            self.transaction.write_at(offset, bytes)?;
            Some(offset)
        };
        let dims = [(bytes.len() / item_size) as u64];
        let layout = DataLayout::Contiguous(offset);
        let item_size = item_size as u32;
        self.datasets.create(group, name, &NewDataset { datatype, item_size, dims: &dims, layout, attributes: &[] })?;
        self.bytes += bytes.len() as u64;
        Ok(())
    }

    /// Writes a partition's buckets with their tags, and its value sets; the directory is written later, in the form that
    /// fits.
    pub(super) fn put_image(&mut self, id: u32, image: &Image, tags: &[u8]) -> Result<()> {
        let name = format::partition_name(id);
        let (buckets, values) = (self.groups.buckets.clone(), self.groups.values.clone());
        let types = self.types;
        let nodes = self.groups.nodes.clone();
        self.put(&nodes, &format::tags_name(id), &types.tags, bucket::TAG_BYTES, tags)?;
        self.put(&buckets, &name, &types.bucket, bucket::BYTES, &image.buckets)?;
        if image.sets.is_empty() {
            self.remove(&values, &name)
        } else {
            self.put(&values, &name, &types.id, set::UNIT, &image.sets)
        }
    }
}
