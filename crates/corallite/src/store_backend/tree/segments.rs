//! Where the pages lie in the file: in datasets below `/objects/pages`, which grow as the tree does.
//!
//! A dataset cannot grow in place, so there are several. Their sizes follow from their numbers, so that a page's dataset is a
//! matter of arithmetic. Other programs see arrays of bytes, a page a row.

use corallite_file::hdf5::types::{IntSize, TypeDescriptor};
use corallite_file::hdf5::{Datatype, File, Group};
use corallite_file::{
    DataLayout, Error, NewDataset, Result, Snapshot, StoredLayout, Transaction, contiguous_offset, encode_datatype,
    object_offset,
};

use super::page::{PAGE, PageNo};

/// The group of all that is the objects'.
pub(crate) const OBJECTS: &str = "objects";
/// The group of the pages' datasets, in it.
const PAGES: &str = "pages";

/// Pages in the first dataset. Each next one has twice as many as the one before, up to [`LARGEST`].
const FIRST: u32 = 16;
const DOUBLINGS: u32 = 10;
const LARGEST: u32 = FIRST << DOUBLINGS;
/// Pages in the datasets before the first of the largest size.
const BEFORE_LARGEST: u32 = FIRST * ((1 << DOUBLINGS) - 1);

/// Pages of a dataset.
fn pages_of(segment: usize) -> u32 {
    if segment < DOUBLINGS as usize { FIRST << segment } else { LARGEST }
}

/// The dataset of a page, and its row there.
fn place(page: PageNo) -> (usize, u32) {
    if page.0 < BEFORE_LARGEST {
        let segment = (page.0 / FIRST + 1).ilog2();
        return (segment as usize, page.0 - FIRST * ((1 << segment) - 1));
    }
    let beyond = page.0 - BEFORE_LARGEST;
    ((DOUBLINGS + beyond / LARGEST) as usize, beyond % LARGEST)
}

fn name(segment: usize) -> String {
    format!("{segment:08}")
}

/// The offsets of the datasets in the file, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Segments(Vec<u64>);

impl Segments {
    /// Where a page lies in the file.
    pub(crate) fn offset(&self, page: PageNo) -> Option<u64> {
        let (segment, row) = place(page);
        Some(self.0.get(segment)? + u64::from(row) * PAGE as u64)
    }

    /// How many pages there is room for.
    pub(crate) fn room(&self) -> u64 {
        (0..self.0.len()).map(|segment| u64::from(pages_of(segment))).sum()
    }

    /// The datasets that a commit has.
    pub(crate) fn find(snapshot: &Snapshot) -> Result<Self> {
        let mut found = Self::default();
        let Some(group) = group(snapshot.file(), &|action, error| snapshot.explain(action, error))? else {
            return Ok(found);
        };
        loop {
            let name = name(found.0.len());
            let explain = |error| snapshot.explain(&format!("open /objects/pages/{name}"), &error);
            let Some(header) = object_offset(&group, &name).map_err(explain)? else { return Ok(found) };
            let (offset, length) = match snapshot.describe_dataset(header)? {
                Some(description) => match description.layout {
                    StoredLayout::Contiguous { offset, length } => (offset, length),
                    _ => (None, 0),
                },
                // Another program has written its header anew.
                None => {
                    let dataset = group.dataset(&name).map_err(explain)?;
                    (contiguous_offset(&dataset), dataset.storage_size())
                }
            };
            let expected = u64::from(pages_of(found.0.len())) * PAGE as u64;
            let within = |offset: &u64| offset.checked_add(length).is_some_and(|end| end <= snapshot.bytes());
            match offset.filter(within) {
                Some(offset) if length == expected => found.0.push(offset),
                _ => {
                    let path = snapshot.path().to_owned();
                    let problem =
                        format!("/objects/pages/{name} is not {expected} bytes in one piece; restore a backup");
                    return Err(Error::Damaged { path, offset: header, problem });
                }
            }
        }
    }

    /// The same with room for so many pages, for which datasets are created.
    pub(crate) fn grown(&self, pages: u32, transaction: &Transaction<'_>) -> Result<Self> {
        let mut grown = self.clone();
        if self.room() >= u64::from(pages) {
            return Ok(grown);
        }
        let explain = |error| transaction.explain("create the objects' pages", &error);
        let group = match group(transaction.file(), &|action, error| transaction.explain(action, error))? {
            Some(group) => group,
            None => transaction.storage().create_group(&format!("/{OBJECTS}/{PAGES}"))?,
        };
        let byte = Datatype::from_descriptor(&TypeDescriptor::Unsigned(IntSize::U1))
            .and_then(|datatype| encode_datatype(datatype.id()))
            .map_err(explain)?;
        let mut datasets = transaction.create_datasets()?;
        while grown.room() < u64::from(pages) {
            let segment = grown.0.len();
            let rows = u64::from(pages_of(segment));
            let offset = transaction.allocate(rows * PAGE as u64)?;
            let dataset = NewDataset {
                datatype: &byte,
                item_size: 1,
                dims: &[rows, PAGE as u64],
                layout: DataLayout::Contiguous(Some(offset)),
                attributes: &[],
            };
            datasets.create(&group, &name(segment), &dataset)?;
            grown.0.push(offset);
        }
        Ok(grown)
    }
}

fn group(file: &File, explain: &dyn Fn(&str, &corallite_file::hdf5::Error) -> Error) -> Result<Option<Group>> {
    let path = format!("/{OBJECTS}/{PAGES}");
    if !file.link_exists(OBJECTS) || !file.link_exists(&path) {
        return Ok(None);
    }
    file.group(&path).map(Some).map_err(|error| explain("open /objects/pages", &error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_page_has_a_row_of_its_own() {
        let mut expected = 0;
        for segment in 0..14 {
            for row in [0, 1, pages_of(segment) - 1] {
                assert_eq!(place(PageNo(expected + row)), (segment, row));
            }
            expected += pages_of(segment);
        }
        assert_eq!(place(PageNo(u32::MAX)).0 as u32, DOUBLINGS + (u32::MAX - BEFORE_LARGEST) / LARGEST);
    }
}
