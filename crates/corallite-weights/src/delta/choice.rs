//! Choosing the order of differences, at a fraction of what encoding takes.
//!
//! Encoding in both orders to keep the smaller would cost twice as much as it has to. Instead a few runs of a tensor are looked
//! at, a sample of each: its differences are put in either order, and what they become is estimated as the filters would take
//! them, plane by plane and block by block.

use super::difference::{Difference, Order};
use crate::dtype::Dtype;
use crate::error::Result;
use crate::filter::{information_in_bits, shuffle};

/// Bytes that are taken together.
const PART: usize = 256;
/// One part in so many is taken, or more, up to all, where that would be less than this many bytes.
const SHARE: usize = 32;
const LEAST: usize = 8 * 1024;

/// Bytes of a plane that the encoder codes together. In the sample the blocks are as many, and smaller.
const BLOCK: usize = 32 * 1024;
const SMALLEST_BLOCK: usize = 256;

/// How much smaller differences have to become by sorting: unsorted they are faster to read.
const WORTH: f32 = 0.99;

/// Which [`Order`] makes the differences of a tensor to another smaller.
///
/// ```
/// use corallite_weights::Dtype;
/// use corallite_weights::delta::{Order, OrderChoice};
/// let bytes = |step: f32| -> Vec<u8> {
///     (0..400_000_u64).flat_map(|i| ((i * i % 977) as f32 * 0.01 + step * (i % 89) as f32).to_le_bytes()).collect()
/// };
/// let (before, after) = (bytes(0.0), bytes(1e-6));
/// let mut choice = OrderChoice::new(Dtype::F32);
/// choice.look_at(&after, &before)?;
/// assert_eq!(choice.order(), Order::Exponent);
/// # Ok::<(), corallite_weights::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct OrderChoice {
    natural: Option<Difference>,
    by_exponent: Option<Difference>,
    /// About how many bits the differences seen take in each of the two.
    bits: [f32; 2],
}

impl OrderChoice {
    /// For a tensor of this dtype. Nothing is known yet.
    pub fn new(dtype: Dtype) -> Self {
        let [natural, by_exponent] = [Order::Natural, Order::Exponent].map(|order| Difference::new(dtype, order));
        Self { natural, by_exponent, bits: [0.0; 2] }
    }

    /// Which of so many runs to look at, in order.
    pub fn places(runs: u64) -> Vec<u64> {
        if runs <= 8 { vec![runs / 2] } else { vec![runs / 6, runs / 2, runs - 1 - runs / 6] }
    }

    /// Takes into account a run of elements that are sorted together, and the base's.
    ///
    /// # Errors
    /// As [`Difference::encode`].
    pub fn look_at(&mut self, weight: &[u8], base: &[u8]) -> Result<()> {
        let (Some(natural), Some(by_exponent)) = (self.natural, self.by_exponent) else { return Ok(()) };
        let (weight_sample, base_sample) = (sample(weight), sample(base));
        let mut differences = vec![0; weight_sample.len()];
        let mut planes = vec![0; weight_sample.len()];
        let width = natural.width();
        let blocks = (weight.len() / width / BLOCK).max(1);
        let block = (weight_sample.len() / width).div_ceil(blocks).max(SMALLEST_BLOCK);
        let scale = weight.len() as f32 / weight_sample.len().max(1) as f32;
        for (difference, bits) in [natural, by_exponent].iter().zip(&mut self.bits) {
            difference.encode(&weight_sample, &base_sample, &mut differences)?;
            shuffle(width, &differences, &mut planes);
            let planes = planes.chunks((planes.len() / width).max(1));
            *bits += scale * planes.flat_map(|plane| plane.chunks(block)).map(information_in_bits).sum::<f32>();
        }
        Ok(())
    }

    /// The better of the two, the natural one where the other gains little.
    pub fn order(&self) -> Order {
        if self.by_exponent.is_some() && self.bits[1] < self.bits[0] * WORTH { Order::Exponent } else { Order::Natural }
    }

    /// About what share of their size in the natural order the differences take in the better one.
    pub fn share(&self) -> f64 {
        match self.order() {
            Order::Natural => 1.0,
            Order::Exponent => f64::from(self.bits[1] / self.bits[0]),
        }
    }
}

/// Parts of a run, at places that depend on its length only.
fn sample(run: &[u8]) -> Vec<u8> {
    let (parts, _) = run.as_chunks::<PART>();
    let wanted = (parts.len() / SHARE).max(LEAST / PART);
    if parts.len() <= wanted {
        return run.to_vec();
    }
    // Steps of whole parts, so that elements stay whole.
    (0..wanted).flat_map(|i| parts[i * parts.len() / wanted]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(values: impl Iterator<Item = u32>) -> Vec<u8> {
        values.flat_map(u32::to_le_bytes).collect()
    }

    /// Differences of one size gain nothing by another order, and ints have no other.
    #[test]
    fn the_natural_order_is_kept_where_another_gains_nothing() {
        let base = (0..200_000_u32).map(|i| i.wrapping_mul(0x9e37_79b9) >> 2);
        let weight = base.clone().zip(0_u32..).map(|(word, i)| word + i.wrapping_mul(0x85eb_ca6b) % 61);
        for dtype in [Dtype::F32, Dtype::I32] {
            let mut choice = OrderChoice::new(dtype);
            choice.look_at(&bytes(weight.clone()), &bytes(base.clone())).unwrap();
            assert_eq!((choice.order(), choice.share()), (Order::Natural, 1.0));
        }
    }

    #[test]
    fn places_are_runs_that_there_are() {
        for runs in 1..100 {
            assert!(OrderChoice::places(runs).into_iter().all(|place| place < runs), "{runs}");
        }
    }
}
