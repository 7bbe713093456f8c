//! Runs: the changes of many partitions in one sequential write.

use zerocopy::IntoBytes;

use super::output::Output;
use crate::change::Change;
use crate::error::Result;
use crate::format::{self, ChangeRecord, PartitionRecord, SLICES, SliceRecord};

/// Bytes from which on a run is written and the next one begun, so that a checkpoint's memory stays bounded.
const LONG: usize = 32 << 20;

/// The run that is being gathered.
pub(super) struct Run {
    number: u32,
    bytes: Vec<u8>,
}

impl Run {
    pub(super) fn new(number: u32) -> Self {
        Self { number, bytes: Vec::new() }
    }

    /// The number that the next run has, after the last was written.
    pub(super) fn number(&self) -> u32 {
        self.number
    }

    pub(super) fn is_long(&self) -> bool {
        self.bytes.len() >= LONG
    }

    /// Appends changes, and a slice of them to the record. Where the record has no place for another slice, `earlier` holds what
    /// its slices hold, and all become one.
    pub(super) fn append(
        &mut self,
        mut record: PartitionRecord,
        earlier: &[Change],
        changes: &[Change],
    ) -> PartitionRecord {
        if changes.is_empty() {
            return record;
        }
        if record.is_full() {
            record.slices = [SliceRecord::default(); SLICES];
            record.slices_count = 0;
        }
        let start = self.bytes.len();
        for change in earlier.iter().chain(changes) {
            self.bytes.extend_from_slice(ChangeRecord::from(*change).as_bytes());
        }
        record.slices[usize::from(record.slices_count)] = SliceRecord {
            run: self.number.into(),
            start: ((start / size_of::<ChangeRecord>()) as u32).into(),
            count: ((earlier.len() + changes.len()) as u32).into(),
            sum: crc32c::crc32c(&self.bytes[start..]).into(),
        };
        record.slices_count += 1;
        record
    }

    /// Writes what was gathered, and begins the next run.
    pub(super) fn write(&mut self, output: &mut Output<'_>) -> Result<()> {
        if self.bytes.is_empty() {
            return Ok(());
        }
        let nodes = output.groups.nodes.clone();
        let change = &output.types.change;
        output.put(&nodes, &format::run_name(self.number), change, size_of::<ChangeRecord>(), &self.bytes)?;
        self.bytes.clear();
        self.number += 1;
        Ok(())
    }
}
