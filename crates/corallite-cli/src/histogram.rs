//! What a weight's values look like: a few figures and a picture.

use std::fmt::Write;

use corallite::weights::Dtype;
use corallite::weights::values::for_each;
use serde::Serialize;

use crate::text::{Paint, number};
use crate::values::is_integral;

/// Characters the picture is wide.
const WIDTH: usize = 60;
/// Lines the picture is high.
const HEIGHT: usize = 7;
/// How many standard deviations from the mean the picture reaches; what lies beyond would flatten all the rest.
const REACH: f64 = 4.0;
/// From so many different whole numbers on it does not show that some ranges have one more than others.
const MANY_NUMBERS: f64 = 1e6;

/// Figures about the finite values of a tensor.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(crate) struct Statistics {
    /// All values.
    pub(crate) count: u64,
    pub(crate) min: Option<f64>,
    pub(crate) max: Option<f64>,
    pub(crate) mean: Option<f64>,
    pub(crate) std: Option<f64>,
    pub(crate) zeros: u64,
    pub(crate) nan: u64,
    pub(crate) infinite: u64,
}

/// How often values fall into each of equal ranges.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Histogram {
    /// Where the first range begins.
    pub(crate) from: f64,
    /// Where the last range ends.
    pub(crate) to: f64,
    /// Values in each range.
    pub(crate) counts: Vec<u64>,
    /// Values below the first range.
    pub(crate) below: u64,
    /// Values above the last.
    pub(crate) above: u64,
}

/// The figures of these values.
pub(crate) fn statistics(dtype: Dtype, bytes: &[u8]) -> Statistics {
    let mut found = Statistics::default();
    let (mut min, mut max, mut sum) = (f64::INFINITY, f64::NEG_INFINITY, 0.0);
    for_each(dtype, bytes, |value| {
        found.count += 1;
        if value.is_nan() {
            found.nan += 1;
        } else if value.is_infinite() {
            found.infinite += 1;
        } else {
            found.zeros += u64::from(value == 0.0);
            min = min.min(value);
            max = max.max(value);
            sum += value;
        }
    });
    let finite = (found.count - found.nan - found.infinite) as f64;
    if finite > 0.0 {
        let mean = sum / finite;
        let mut squares = 0.0;
        // In a second pass: from sums of squares, small deviations from a large mean would cancel out.
        for_each(dtype, bytes, |value| {
            if value.is_finite() {
                squares += (value - mean) * (value - mean);
            }
        });
        (found.min, found.max) = (Some(min), Some(max));
        found.mean = Some(mean).filter(|mean| mean.is_finite());
        found.std = Some((squares / finite).sqrt()).filter(|std| std.is_finite());
    }
    found
}

/// The picture's ranges; `None` when there is nothing to see: no values, or all the same.
pub(crate) fn histogram(dtype: Dtype, bytes: &[u8], statistics: &Statistics) -> Option<Histogram> {
    let (min, max) = (statistics.min?, statistics.max?);
    let (mean, std) = (statistics.mean?, statistics.std?);
    let (mut from, mut to) = (min.max(mean - REACH * std), max.min(mean + REACH * std));
    let mut ranges = WIDTH;
    if is_integral(dtype) && to - from < MANY_NUMBERS {
        // Ranges of equally many numbers: others would draw a comb into what is level.
        (from, to) = if max - min < WIDTH as f64 { (min, max) } else { (from.floor(), to.ceil()) };
        let numbers = to - from + 1.0;
        let each = (numbers / WIDTH as f64).ceil();
        ranges = (numbers / each).ceil() as usize;
        from -= 0.5;
        to = from + each * ranges as f64;
    }
    let width = (to - from) / ranges as f64;
    if max <= min || !width.is_finite() || width <= 0.0 {
        return None;
    }
    let mut found = Histogram { from, to, counts: vec![0; ranges], below: 0, above: 0 };
    for_each(dtype, bytes, |value| {
        if !value.is_finite() {
        } else if value < from {
            found.below += 1;
        } else if value > to {
            found.above += 1;
        } else {
            let index = (((value - from) / width) as usize).min(ranges - 1);
            found.counts[index] += 1;
        }
    });
    Some(found)
}

impl Histogram {
    /// The picture: columns in eighths of a line, and below them where it begins, ends, and what lies outside.
    pub(crate) fn render(&self, paint: Paint) -> String {
        const EIGHTHS: [char; 9] = [' ', '▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
        let most = self.counts.iter().copied().max().unwrap_or(0).max(1);
        let repeat = (WIDTH / self.counts.len().max(1)).max(1);
        let levels: Vec<usize> = self
            .counts
            .iter()
            .map(|&count| match (count as f64 / most as f64 * (HEIGHT * 8) as f64).round() as usize {
                // What is there is seen.
                0 if count > 0 => 1,
                level => level,
            })
            .collect();
        let mut out = String::new();
        for line in (0..HEIGHT).rev() {
            let mut text = String::new();
            for &level in &levels {
                let column = EIGHTHS[level.saturating_sub(line * 8).min(8)];
                text.extend(std::iter::repeat_n(column, repeat));
            }
            let _ = writeln!(out, "  {}", paint.cyan(text.trim_end()));
        }
        let width = self.counts.len() * repeat;
        let (from, to) = (number(self.from), number(self.to));
        let gap = width.saturating_sub(from.chars().count() + to.chars().count()).max(1);
        let _ = writeln!(out, "  {}", "▔".repeat(width));
        let _ = writeln!(out, "  {from}{}{to}", " ".repeat(gap));
        if self.below + self.above > 0 {
            let outside = format!("outside the picture: {} below, {} above", self.below, self.above);
            let _ = writeln!(out, "  {}", paint.dim(&outside));
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn f32s(values: &[f32]) -> Vec<u8> {
        values.iter().flat_map(|value| value.to_le_bytes()).collect()
    }

    #[test]
    fn the_figures_are_those_of_the_finite_values() {
        let bytes = f32s(&[1.0, 3.0, 0.0, -0.0, f32::NAN, f32::INFINITY]);
        let found = statistics(Dtype::F32, &bytes);
        assert_eq!((found.count, found.zeros, found.nan, found.infinite), (6, 2, 1, 1));
        assert_eq!((found.min, found.max, found.mean), (Some(0.0), Some(3.0), Some(1.0)));
        assert_eq!(found.std, Some(1.5_f64.sqrt()));
    }

    #[test]
    fn a_small_deviation_from_a_large_mean_is_not_lost() {
        let bytes: Vec<u8> = [1e9_f64, 1e9 + 1e-3].iter().flat_map(|value| value.to_le_bytes()).collect();
        let std = statistics(Dtype::F64, &bytes).std.unwrap();
        assert!((std - 5e-4).abs() < 1e-6, "{std}");
    }

    #[test]
    fn every_finite_value_is_counted_once() {
        let mut values: Vec<f32> = (0..1000).map(|index| (index as f32 / 500.0 - 1.0).powi(3)).collect();
        values.extend([1000.0, -1000.0, f32::NAN]);
        let bytes = f32s(&values);
        let found = histogram(Dtype::F32, &bytes, &statistics(Dtype::F32, &bytes)).unwrap();
        assert_eq!(found.counts.iter().sum::<u64>() + found.below + found.above, 1002);
        assert_eq!((found.below, found.above), (1, 1));
    }

    #[test]
    fn few_whole_numbers_get_a_column_each() {
        let bytes = [0_u8, 1, 1, 1, 3];
        let found = histogram(Dtype::U8, &bytes, &statistics(Dtype::U8, &bytes)).unwrap();
        assert_eq!(found.counts, [1, 3, 0, 1]);
        assert_eq!((found.from, found.to), (-0.5, 3.5));
    }

    #[test]
    fn many_whole_numbers_share_ranges_of_equal_width() {
        let bytes: Vec<u8> = (0..512_i64).flat_map(i64::to_le_bytes).collect();
        let found = histogram(Dtype::I64, &bytes, &statistics(Dtype::I64, &bytes)).unwrap();
        assert_eq!(found.counts.len(), 57);
        assert!(found.counts[..56].iter().all(|&count| count == 9), "{:?}", found.counts);
        assert_eq!(found.counts[56], 8);
    }

    #[test]
    fn nothing_to_see_is_no_picture() {
        for bytes in [f32s(&[]), f32s(&[2.0; 9]), f32s(&[f32::NAN; 3])] {
            assert_eq!(histogram(Dtype::F32, &bytes, &statistics(Dtype::F32, &bytes)), None);
        }
        // A range wider than any number has no width.
        let bytes: Vec<u8> = [f64::MIN, f64::MAX].iter().flat_map(|value| value.to_le_bytes()).collect();
        assert_eq!(histogram(Dtype::F64, &bytes, &statistics(Dtype::F64, &bytes)), None);
    }

    #[test]
    fn the_highest_column_reaches_the_top() {
        let found = Histogram { from: 0.0, to: 2.0, counts: vec![8, 4], below: 0, above: 3 };
        let picture = found.render(Paint::plain());
        let lines: Vec<&str> = picture.lines().collect();
        assert_eq!(lines.len(), HEIGHT + 3);
        assert_eq!(lines[0], format!("  {}", "█".repeat(30)));
        assert_eq!(lines[HEIGHT - 1], format!("  {}", "█".repeat(60)));
        assert!(lines[HEIGHT + 2].contains("3 above"));
    }
}
