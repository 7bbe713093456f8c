//! The directory, in the form that fits.

use std::collections::{BTreeMap, BTreeSet};

use super::output::Output;
use super::{Checkpoint, Fold};
use crate::error::Result;
use crate::format::{self, DIRECTORY, DirectoryForm, PartitionRecord};
use crate::source::Source;

/// Directory entries up to which one partition's directory is an attribute.
const ATTRIBUTE_ENTRIES: usize = 256;
/// Partitions up to which the directory is one dataset.
const DATASET_PARTITIONS: usize = 16;

impl Checkpoint<'_> {
    /// Writes the directory in the form that fits, and enters into the records where each partition's begins.
    pub(super) fn write_directory(
        &self,
        output: &mut Output<'_>,
        records: &mut [PartitionRecord],
        directories: &BTreeMap<u32, Vec<u32>>,
    ) -> Result<DirectoryForm> {
        let form = match &*records {
            [one] if 1 << one.directory_bits <= ATTRIBUTE_ENTRIES => DirectoryForm::Attribute,
            few if few.len() <= DATASET_PARTITIONS => DirectoryForm::Dataset,
            _ => DirectoryForm::Sharded,
        };
        let source = self.engine.source.read();
        let before = source.as_ref().map(Source::form);
        let known = |record: &PartitionRecord| -> Result<Vec<u32>> {
            match (directories.get(&record.id.get()), &*source) {
                (Some(directory), _) => Ok(directory.clone()),
                (None, Some(source)) => source.directory(record),
                (None, None) => Ok(Vec::new()),
            }
        };
        // Read before anything is removed.
        let mut all = Vec::new();
        if form != DirectoryForm::Sharded || before != Some(DirectoryForm::Sharded) || self.fold == Fold::Anew {
            for record in records.iter() {
                all.push(known(record)?);
            }
        }
        let (root, config) = (output.groups.root.clone(), output.groups.config.clone());
        let renewed = output.groups.directory.clone();
        if before != Some(form) {
            output.remove(&root, DIRECTORY)?;
        }
        let types = output.types;
        if config.attr(DIRECTORY).is_ok() {
            config.delete_attr(DIRECTORY).map_err(|error| output.explain("replace the directory", &error))?;
        }
        let write_entries =
            |entries: &[u32]| -> Vec<u8> { entries.iter().flat_map(|entry| entry.to_le_bytes()).collect() };
        match form {
            DirectoryForm::Attribute => {
                let entries = all.pop().unwrap_or_default();
                config
                    .new_attr_builder()
                    .with_data(&entries)
                    .create(DIRECTORY)
                    .map_err(|error| output.explain("write the directory", &error))?;
                records[0].directory_start = 0.into();
            }
            DirectoryForm::Dataset => {
                let mut entries = Vec::new();
                for (record, directory) in records.iter_mut().zip(&all) {
                    record.directory_start = (entries.len() as u32).into();
                    entries.extend_from_slice(directory);
                }
                output.put(&root, DIRECTORY, &types.entry, 4, &write_entries(&entries))?;
            }
            DirectoryForm::Sharded => {
                let is_new = renewed.is_some();
                let group = match renewed.map_or_else(|| root.group(DIRECTORY), Ok) {
                    Ok(group) => group,
                    Err(_) => root.create_group(DIRECTORY).map_err(|error| output.explain("create /dir", &error))?,
                };
                if before == Some(form) && !is_new {
                    for (id, directory) in directories {
                        output.put(&group, &format::shard_name(*id), &types.entry, 4, &write_entries(directory))?;
                    }
                    let kept: BTreeSet<String> =
                        records.iter().map(|record| format::shard_name(record.id.get())).collect();
                    let names = group.member_names();
                    let names = names.map_err(|error| output.explain("list /dir", &error))?;
                    for name in names.iter().filter(|name| !kept.contains(*name)) {
                        output.remove(&group, name)?;
                    }
                } else {
                    for (record, directory) in records.iter().zip(&all) {
                        let name = format::shard_name(record.id.get());
                        output.put(&group, &name, &types.entry, 4, &write_entries(directory))?;
                    }
                }
                records.iter_mut().for_each(|record| record.directory_start = 0.into());
            }
        }
        Ok(form)
    }
}
