//! How far two tensors of one dtype and shape are apart: figures in `f64`, made from a piece of each at a time.

use corallite::weights::values::for_each_pair;
use corallite::weights::{Dtype, Pieces, Result};
use serde::Serialize;

/// Bytes that are compared at a time. A multiple of every element's size, and of the three bytes in which four 6-bit
/// elements lie.
const BLOCK: usize = 48 * 256;
/// What is compared together has a multiple of so many bytes, up to the end.
const UNIT: usize = 48;

/// What was found of one pair of tensors, or of several together.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Difference {
    /// All elements.
    pub(crate) elements: u64,
    /// Elements whose bits differ.
    pub(crate) changed: u64,
    /// Pairs of values that are left out of the sums, because one is NaN.
    pub(crate) nan: u64,
    /// Pairs of values that are left out of the sums, because one is infinite and none is NaN.
    pub(crate) infinite: u64,
    sums: Sums,
}

/// Over pairs of finite values.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Sums {
    pairs: u64,
    /// Of a², b², a·b and (b − a)².
    a: f64,
    b: f64,
    product: f64,
    change: f64,
    /// The largest |b − a|.
    largest: f64,
}

impl Sums {
    fn pair(&mut self, a: f64, b: f64) {
        let change = b - a;
        self.pairs += 1;
        self.a += a * a;
        self.b += b * b;
        self.product += a * b;
        self.change += change * change;
        self.largest = self.largest.max(change.abs());
    }

    fn add(&mut self, other: &Self) {
        self.pairs += other.pairs;
        self.a += other.a;
        self.b += other.b;
        self.product += other.product;
        self.change += other.change;
        self.largest = self.largest.max(other.largest);
    }
}

/// The figures of a difference, as they are reported. What cannot be said is `None`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct Figures {
    /// |B − A| / |A|; `null` when A is all zeros and B is not.
    pub(crate) relative_norm: Option<f64>,
    /// |B − A|.
    pub(crate) norm: Option<f64>,
    /// `null` when A or B is all zeros.
    pub(crate) cosine: Option<f64>,
    /// The largest change of one value.
    pub(crate) largest_change: Option<f64>,
    pub(crate) elements: u64,
    pub(crate) changed_elements: u64,
    pub(crate) changed_share: f64,
    /// Pairs of values left out because one of them is NaN.
    pub(crate) nan: u64,
    /// Pairs of values left out because one of them is infinite, and none NaN.
    pub(crate) infinite: u64,
}

impl Difference {
    /// Compares what `a` and `b` give; both have this dtype and equally many bytes. Tells `advance` of the bytes of each
    /// that were compared, which may fail to stop it.
    pub(crate) fn between(
        dtype: Dtype,
        a: Pieces,
        b: Pieces,
        mut advance: impl FnMut(u64) -> Result<()>,
    ) -> Result<Self> {
        let (mut a, mut b) = (Rest::of(a), Rest::of(b));
        let mut found = Self::default();
        loop {
            a.fill()?;
            b.fill()?;
            let both = a.rest().len().min(b.rest().len());
            if both == 0 {
                return Ok(found);
            }
            // Less than a unit is the end, since both could have been filled with more.
            let count = if both < UNIT { both } else { both - both % UNIT };
            found.compare(dtype, &a.rest()[..count], &b.rest()[..count]);
            a.at += count;
            b.at += count;
            advance(count as u64)?;
        }
    }

    /// Adds pieces of both, which begin and end between elements.
    fn compare(&mut self, dtype: Dtype, a: &[u8], b: &[u8]) {
        self.elements += (a.len() as u64 * 8) / u64::from(dtype.bit_size());
        for (a, b) in a.chunks(BLOCK).zip(b.chunks(BLOCK)) {
            // Sums of sums: what one addition loses does not grow with the tensor.
            let mut sums = Sums::default();
            let mut changed = 0;
            for_each_pair(dtype, a, b, |a, b| {
                changed += u64::from(a.to_bits() != b.to_bits());
                if a.is_finite() && b.is_finite() {
                    sums.pair(a, b);
                } else if a.is_nan() || b.is_nan() {
                    self.nan += 1;
                } else {
                    self.infinite += 1;
                }
            });
            self.sums.add(&sums);
            self.changed += match dtype.item_size() {
                // Bits that the values do not show: which NaN it is, the lowest of 64-bit integers.
                Some(size) if a != b => a.chunks(size).zip(b.chunks(size)).filter(|(a, b)| a != b).count() as u64,
                Some(_) => 0,
                None => changed,
            };
        }
    }

    /// Takes in what was found elsewhere.
    pub(crate) fn add(&mut self, other: &Self) {
        self.elements += other.elements;
        self.changed += other.changed;
        self.nan += other.nan;
        self.infinite += other.infinite;
        self.sums.add(&other.sums);
    }

    /// Whether B has values where A has nothing but zeros.
    pub(crate) fn is_from_zero(&self) -> bool {
        self.sums.a == 0.0 && self.sums.change > 0.0
    }

    pub(crate) fn figures(&self) -> Figures {
        let Sums { a, b, product, change, largest, pairs } = self.sums;
        let known = |value: f64| Some(value).filter(|value| pairs > 0 && value.is_finite());
        let relative_norm = if change == 0.0 { 0.0 } else { (change / a).sqrt() };
        // Of equal tensors it is 1, whatever the roots are rounded to.
        let cosine = if change == 0.0 && a > 0.0 { 1.0 } else { (product / (a.sqrt() * b.sqrt())).clamp(-1.0, 1.0) };
        Figures {
            relative_norm: known(relative_norm),
            norm: known(change.sqrt()),
            cosine: known(cosine),
            largest_change: known(largest),
            elements: self.elements,
            changed_elements: self.changed,
            changed_share: self.changed as f64 / self.elements.max(1) as f64,
            nan: self.nan,
            infinite: self.infinite,
        }
    }
}

/// What has been read of a tensor and not compared yet.
struct Rest {
    pieces: Pieces,
    held: Vec<u8>,
    at: usize,
}

impl Rest {
    fn of(pieces: Pieces) -> Self {
        Self { pieces, held: Vec::new(), at: 0 }
    }

    fn rest(&self) -> &[u8] {
        &self.held[self.at..]
    }

    /// Reads on until there is a unit, or the tensor ends.
    fn fill(&mut self) -> Result<()> {
        while self.rest().len() < UNIT {
            // What was compared is given back before the next is read.
            self.held = self.held.split_off(self.at);
            self.at = 0;
            let Some(piece) = self.pieces.next().transpose()? else { break };
            if self.held.is_empty() { self.held = piece } else { self.held.extend_from_slice(&piece) }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use corallite::weights::{Hdf5Options, Hdf5Store, WeightHash, WeightStore, WeightTensor};

    use super::*;

    fn f32s(values: &[f32]) -> Vec<u8> {
        values.iter().flat_map(|value| value.to_le_bytes()).collect()
    }

    fn compared(dtype: Dtype, a: &[u8], b: &[u8]) -> Difference {
        let mut found = Difference::default();
        found.compare(dtype, a, b);
        found
    }

    #[test]
    fn the_figures_are_those_of_the_definitions() {
        let found = compared(Dtype::F32, &f32s(&[3.0, 4.0, 0.0]), &f32s(&[3.0, 4.0, 5.0])).figures();
        assert_eq!((found.relative_norm, found.norm, found.largest_change), (Some(1.0), Some(5.0), Some(5.0)));
        assert!((found.cosine.unwrap() - 0.5_f64.sqrt()).abs() < 1e-15, "{found:?}");
        assert_eq!((found.elements, found.changed_elements), (3, 1));
    }

    #[test]
    fn what_is_not_a_number_is_counted_and_left_out() {
        let (nan, infinity) = (f32::NAN, f32::INFINITY);
        let a = f32s(&[1.0, nan, nan, infinity, infinity, 2.0]);
        let b = f32s(&[1.0, nan, 7.0, infinity, nan, 4.0]);
        let found = compared(Dtype::F32, &a, &b);
        assert_eq!((found.nan, found.infinite, found.changed), (3, 1, 3));
        assert_eq!(found.figures().largest_change, Some(2.0));
        let none = compared(Dtype::F32, &f32s(&[nan]), &f32s(&[1.0])).figures();
        assert_eq!((none.relative_norm, none.cosine, none.largest_change), (None, None, None));
    }

    #[test]
    fn bits_that_values_do_not_show_are_changes() {
        assert_eq!(compared(Dtype::F32, &f32s(&[0.0, 1.0]), &f32s(&[-0.0, 1.0])).changed, 1);
        let nan = |bits: u32| f32::from_bits(bits);
        assert_eq!(compared(Dtype::F32, &f32s(&[nan(0x7fc0_0000)]), &f32s(&[nan(0x7fc0_0001)])).changed, 1);
        let near = |value: i64| value.to_le_bytes();
        let found = compared(Dtype::I64, &near(i64::MAX), &near(i64::MAX - 1));
        assert_eq!((found.changed, found.figures().norm), (1, Some(0.0)));
        // Two elements to a byte, of which one changed.
        assert_eq!(compared(Dtype::F4, &[0x12, 0x34], &[0x12, 0x35]), {
            let mut wanted = compared(Dtype::F4, &[0x12, 0x34], &[0x12, 0x35]);
            (wanted.elements, wanted.changed) = (4, 1);
            wanted
        });
    }

    #[test]
    fn zeros_have_no_direction_and_no_size_to_compare_with() {
        let found = compared(Dtype::F32, &f32s(&[0.0; 4]), &f32s(&[1.0; 4]));
        assert!(found.is_from_zero());
        let figures = found.figures();
        assert_eq!((figures.relative_norm, figures.cosine, figures.norm), (None, None, Some(2.0)));
        let same = compared(Dtype::F32, &f32s(&[0.0]), &f32s(&[-0.0]));
        assert!(!same.is_from_zero());
        assert_eq!(same.figures().relative_norm, Some(0.0));
    }

    #[test]
    fn pieces_that_end_at_different_places_are_compared_element_by_element() {
        let store = Hdf5Store::memory(Hdf5Options::new()).unwrap();
        let count = 6_000_000;
        let values = |shift: f32| f32s(&(0..count).map(|at| (at % 1000) as f32 + shift).collect::<Vec<_>>());
        let put = |shape: &[u64], bytes: Vec<u8>, key: &str| {
            let key = WeightHash::new(key).unwrap();
            store.store(&WeightTensor::new("w", shape, Dtype::F32, bytes).unwrap(), Some(&key)).unwrap();
            store.pieces(&key).unwrap().unwrap()
        };
        // Chunks of a different shape, and so pieces of a different length.
        let a = put(&[count as u64], values(0.0), "a");
        let b = put(&[3, count as u64 / 3], values(0.5), "b");
        let mut told = 0;
        let found = Difference::between(Dtype::F32, a, b, |bytes| {
            told += bytes;
            Ok(())
        });
        let found = found.unwrap();
        assert_eq!((found.elements, found.changed, told), (count as u64, count as u64, 4 * count as u64));
        assert_eq!(found.figures().largest_change, Some(0.5));
        assert_eq!(found.figures().norm, Some((0.25 * count as f64).sqrt()));
    }
}
