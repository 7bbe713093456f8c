//! What encoders hand over and what decoders find wrong: the parts of a delta, and errors that name one of them.

use serde_json::{Map, Value};

use crate::dtype::Dtype;

/// The part of a delta that an encoder makes.
pub(super) struct Encoded {
    pub(super) data: Vec<u8>,
    pub(super) dtype: Dtype,
    pub(super) shape: Vec<u64>,
    pub(super) metadata: Map<String, Value>,
}

impl Encoded {
    /// Bytes that are no array, as coral's compressed deltas are.
    pub(super) fn bytes(data: Vec<u8>) -> Self {
        let shape = vec![data.len() as u64];
        Self { data, dtype: Dtype::U8, shape, metadata: Map::new() }
    }

    /// Adds to the metadata.
    pub(super) fn with(mut self, field: &str, value: impl Into<Value>) -> Self {
        self.metadata.insert(field.to_owned(), value.into());
        self
    }
}

/// The field of a delta that keeps it from being decoded, and why.
#[derive(Debug)]
pub(super) struct Wrong {
    pub(super) field: &'static str,
    pub(super) problem: String,
}

/// The result of decoding.
pub(super) type Checked<T> = std::result::Result<T, Wrong>;

pub(super) fn wrong<T>(field: &'static str, problem: impl Into<String>) -> Checked<T> {
    Err(Wrong { field, problem: problem.into() })
}

/// A delta's metadata, read field by field.
#[derive(Clone, Copy)]
pub(super) struct Fields<'a>(pub(super) &'a Map<String, Value>);

impl<'a> Fields<'a> {
    pub(super) fn get(&self, field: &str) -> Option<&'a Value> {
        self.0.get(field)
    }

    fn read<T>(&self, field: &'static str, what: &str, take: impl Fn(&'a Value) -> Option<T>) -> Checked<Option<T>> {
        let Some(value) = self.0.get(field) else { return Ok(None) };
        take(value).map_or_else(|| wrong(field, format!("has to be {what}")), |taken| Ok(Some(taken)))
    }

    fn needed<T>(field: &'static str, found: Option<T>) -> Checked<T> {
        found.map_or_else(|| wrong(field, "is missing from the metadata"), Ok)
    }

    pub(super) fn flag(&self, field: &'static str) -> Checked<Option<bool>> {
        self.read(field, "true or false", Value::as_bool)
    }

    pub(super) fn text(&self, field: &'static str) -> Checked<Option<&'a str>> {
        self.read(field, "text", Value::as_str)
    }

    pub(super) fn optional_count(&self, field: &'static str) -> Checked<Option<u64>> {
        self.read(field, "a whole number", Value::as_u64)
    }

    pub(super) fn count(&self, field: &'static str) -> Checked<u64> {
        Self::needed(field, self.optional_count(field)?)
    }

    /// A number that is one in `float32` too: coral computes in it.
    pub(super) fn single(&self, field: &'static str) -> Checked<f32> {
        let finite = |value: &Value| value.as_f64().map(|number| number as f32).filter(|number| number.is_finite());
        Self::needed(field, self.read(field, "a finite number", finite)?)
    }

    /// Whole numbers in a dictionary of lists.
    pub(super) fn counts(value: &'a Value) -> Option<impl ExactSizeIterator<Item = Option<u64>> + 'a> {
        value.as_array().map(|list| list.iter().map(Value::as_u64))
    }

    /// Coral repeats the shape in some metadata and believes it; it has to be the one of the delta.
    pub(super) fn same_shape(&self, shape: &[u64]) -> Checked<()> {
        let field = "original_shape";
        let Some(value) = self.0.get(field) else { return Ok(()) };
        let same = Self::counts(value).is_some_and(|found| found.eq(shape.iter().map(|&dim| Some(dim))));
        if same { Ok(()) } else { wrong(field, "in the metadata is another than that of the delta") }
    }
}
