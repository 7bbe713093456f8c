//! Chunks that are runs of the tensor's bytes.
//!
//! A chunk spans whole inner dimensions, a range of one axis, and one index of the axes before it, so its elements are
//! neighbours in memory: it can be encoded straight from a mapped file and decoded straight into the result.

use std::ops::Range;

/// The chunks of one dataset.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Chunks {
    shape: Vec<u64>,
    dims: Vec<u64>,
    item: u64,
    /// The axis that is cut into ranges.
    axis: usize,
    /// Elements of one index of that axis.
    inner: u64,
    per_axis: u64,
    count: u64,
}

/// One chunk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Chunk {
    /// Its bytes in the tensor; shorter than a full chunk at the end of the axis.
    pub(crate) range: Range<u64>,
}

impl Chunks {
    /// Bytes aimed at in a chunk: large enough for the codec and the disk, small enough for h5py's chunk cache.
    pub(crate) const TARGET: u64 = 1 << 20;

    /// Cuts a tensor without empty dimensions into chunks of about a mebibyte. `None` for scalars and empty tensors.
    pub(crate) fn new(shape: &[u64], item: u64) -> Option<Self> {
        if shape.is_empty() || shape.contains(&0) {
            return None;
        }
        let mut axis = shape.len() - 1;
        let mut inner = 1_u64;
        while axis > 0 && inner.checked_mul(shape[axis])?.checked_mul(item)? <= Self::TARGET {
            inner *= shape[axis];
            axis -= 1;
        }
        // Ranges of equal length leave the least to pad in the last one.
        let most = (Self::TARGET / (inner * item)).clamp(1, shape[axis]);
        let pieces = shape[axis].div_ceil(most);
        let mut dims = shape.to_vec();
        dims[..axis].fill(1);
        dims[axis] = shape[axis].div_ceil(pieces);
        Self::from_dims(shape, &dims, item)
    }

    /// The chunks of an existing dataset, if they are runs.
    pub(crate) fn from_dims(shape: &[u64], dims: &[u64], item: u64) -> Option<Self> {
        if shape.len() != dims.len() || shape.contains(&0) || dims.contains(&0) || item == 0 {
            return None;
        }
        let axis = (0..shape.len()).find(|&axis| dims[axis] != 1).unwrap_or(shape.len().checked_sub(1)?);
        if dims[axis + 1..] != shape[axis + 1..] {
            return None;
        }
        let product = |values: &[u64]| values.iter().try_fold(1_u64, |product, &value| product.checked_mul(value));
        let inner = product(&shape[axis + 1..])?;
        product(shape)?.checked_mul(item)?;
        inner.checked_mul(dims[axis])?.checked_mul(item)?;
        let per_axis = shape[axis].div_ceil(dims[axis]);
        let count = product(&shape[..axis])?.checked_mul(per_axis)?;
        Some(Self { shape: shape.to_vec(), dims: dims.to_vec(), item, axis, inner, per_axis, count })
    }

    pub(crate) fn dims(&self) -> &[u64] {
        &self.dims
    }

    pub(crate) fn count(&self) -> u64 {
        self.count
    }

    /// Bytes of a full chunk.
    pub(crate) fn full(&self) -> u64 {
        self.dims[self.axis] * self.inner * self.item
    }

    pub(crate) fn get(&self, index: u64) -> Chunk {
        let (lead, piece) = (index / self.per_axis, index % self.per_axis);
        let from = piece * self.dims[self.axis];
        let to = (from + self.dims[self.axis]).min(self.shape[self.axis]);
        let base = lead * self.shape[self.axis];
        let bytes = self.inner * self.item;
        Chunk { range: (base + from) * bytes..(base + to) * bytes }
    }

    /// The chunk whose first element has these coordinates.
    pub(crate) fn index_of(&self, coordinates: &[u64]) -> Option<u64> {
        if coordinates.len() != self.shape.len() {
            return None;
        }
        let mut index = 0;
        for (axis, &coordinate) in coordinates[..=self.axis].iter().enumerate() {
            if coordinate >= self.shape[axis] || !coordinate.is_multiple_of(self.dims[axis]) {
                return None;
            }
            let count = if axis == self.axis { self.per_axis } else { self.shape[axis] };
            index = index * count + coordinate / self.dims[axis];
        }
        coordinates[self.axis + 1..].iter().all(|&coordinate| coordinate == 0).then_some(index)
    }

    /// The chunks that hold any of the bytes in `range`.
    pub(crate) fn covering(&self, range: &Range<u64>) -> Range<u64> {
        if range.is_empty() {
            return 0..0;
        }
        let locate = |byte: u64| {
            let row = byte / (self.inner * self.item);
            (row / self.shape[self.axis]) * self.per_axis + (row % self.shape[self.axis]) / self.dims[self.axis]
        };
        locate(range.start)..locate(range.end - 1) + 1
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Of the first element of the chunk that begins at this byte.
    fn coordinates(shape: &[u64], item: u64, byte: u64) -> Vec<u64> {
        let mut element = byte / item;
        let mut coordinates: Vec<u64> = shape
            .iter()
            .rev()
            .map(|dim| {
                let coordinate = element % dim;
                element /= dim;
                coordinate
            })
            .collect();
        coordinates.reverse();
        coordinates
    }

    proptest! {
        #[test]
        fn chunks_are_runs_that_tile_the_tensor(
            shape in prop::collection::vec(1..90_u64, 1..4),
            item in prop::sample::select(vec![1_u64, 2, 4, 8, 16]),
        ) {
            let chunks = Chunks::new(&shape, item).unwrap();
            let total: u64 = shape.iter().product::<u64>() * item;
            let mut at = 0;
            for index in 0..chunks.count() {
                let chunk = chunks.get(index);
                prop_assert_eq!(chunk.range.start, at);
                prop_assert!(chunk.range.end > at && chunk.range.end - at <= chunks.full());
                prop_assert_eq!(chunks.index_of(&coordinates(&shape, item, chunk.range.start)), Some(index));
                prop_assert_eq!(chunks.covering(&chunk.range), index..index + 1);
                at = chunk.range.end;
            }
            prop_assert_eq!(at, total);
            prop_assert!(chunks.full() <= Chunks::TARGET);
        }
    }

    #[test]
    fn one_long_row_is_cut_too() {
        let chunks = Chunks::new(&[1, 50_000_000], 4).unwrap();
        assert!(chunks.full() <= Chunks::TARGET && chunks.count() > 100);
    }

    #[test]
    fn chunks_that_are_not_runs_are_told_apart() {
        assert!(Chunks::from_dims(&[10, 10], &[5, 5], 4).is_none());
        assert!(Chunks::from_dims(&[10, 10], &[1, 5], 4).is_some());
        assert!(Chunks::from_dims(&[0, 10], &[1, 5], 4).is_none());
        assert!(Chunks::from_dims(&[u64::MAX, 2], &[1, 2], 4).is_none());
    }
}
