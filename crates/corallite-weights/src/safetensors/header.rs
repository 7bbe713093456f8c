//! The JSON header: parsing it strictly, and the layout it describes.
//!
//! Owns every check that makes a header trustworthy. A [`Header`] that exists has unique names, known
//! dtypes, and data ranges that fit their shapes and tile the data without hole or overlap; the other
//! files rely on that. It keeps the raw bytes, which are needed to write the same file again.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use serde::de::{self, DeserializeSeed, MapAccess, SeqAccess, Visitor};

use crate::dtype::{Dtype, ShapeText};
use crate::error::{Error, Result};

/// The longest header that is read, in bytes; the official library has the same limit.
pub const MAX_HEADER_LEN: u64 = 100_000_000;

/// The most dimensions a tensor may have; numpy and torch stop at 64 too.
pub const MAX_RANK: usize = 64;

/// The length field in front of the header, in bytes.
pub(super) const PREFIX: u64 = 8;

const METADATA: &str = "__metadata__";

/// One tensor as the header describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorInfo {
    /// Its name.
    pub name: String,
    /// Its element type.
    pub dtype: Dtype,
    /// Its dimensions, outermost first.
    pub shape: Vec<u64>,
    /// Where its bytes are, counted from the start of the data (not of the file).
    pub range: Range<u64>,
}

impl TensorInfo {
    /// The length of its data, in bytes.
    pub fn byte_len(&self) -> u64 {
        self.range.end - self.range.start
    }
}

/// A header that has passed every check.
#[derive(Debug, Clone)]
pub struct Header {
    raw: Bytes,
    tensors: Vec<TensorInfo>,
    metadata: Vec<(String, String)>,
    data_order: Vec<usize>,
    data_len: u64,
}

impl Header {
    /// Parses the header's JSON, without the length field before it. `path` is for error messages.
    ///
    /// # Errors
    /// [`Error::Safetensors`] with the tensor's name and what is wrong with it.
    pub fn parse(raw: Bytes, path: &Path) -> Result<Self> {
        let fail = |offset: u64, problem: String| Error::Safetensors { path: path.into(), offset, problem };
        if raw.len() as u64 > MAX_HEADER_LEN {
            return Err(fail(0, too_long(raw.len() as u64)));
        }
        if raw.first() != Some(&b'{') {
            return Err(fail(PREFIX, "the header does not start with `{`".into()));
        }
        let text = std::str::from_utf8(&raw)
            .map_err(|e| fail(PREFIX + e.valid_up_to() as u64, "the header is not UTF-8 text".into()))?;
        let mut progress = Progress::default();
        let mut json = serde_json::Deserializer::from_str(text);
        let parsed = HeaderSeed(&mut progress).deserialize(&mut json).and_then(|()| json.end());
        if let Err(error) = parsed {
            let line_start =
                text.split_inclusive('\n').take(error.line().saturating_sub(1)).map(str::len).sum::<usize>();
            let offset = PREFIX + (line_start + error.column().saturating_sub(1)) as u64;
            return Err(fail(offset, progress.explain(&error)));
        }
        let Progress { tensors, metadata, .. } = progress;
        let (data_order, data_len) = check_layout(&tensors).map_err(|problem| fail(PREFIX, problem))?;
        Ok(Self { raw, tensors, metadata, data_order, data_len })
    }

    /// The header's bytes exactly as they are in the file, padding included, without the length field.
    pub fn raw(&self) -> &Bytes {
        &self.raw
    }

    /// The tensors in the order of the header.
    pub fn tensors(&self) -> &[TensorInfo] {
        &self.tensors
    }

    /// The tensors in the order of their data.
    pub fn tensors_in_data_order(&self) -> impl ExactSizeIterator<Item = &TensorInfo> {
        self.data_order.iter().map(|&i| &self.tensors[i])
    }

    /// The `__metadata__` entries in the order of the header.
    pub fn metadata(&self) -> &[(String, String)] {
        &self.metadata
    }

    /// The length of all tensor data, in bytes.
    pub fn data_len(&self) -> u64 {
        self.data_len
    }

    /// The length of the whole file, in bytes.
    pub fn file_len(&self) -> u64 {
        // Both terms are far from overflow: a header is at most 100 MB and data_len was summed checked.
        PREFIX.saturating_add(self.raw.len() as u64).saturating_add(self.data_len)
    }
}

pub(super) fn too_long(len: u64) -> String {
    format!("the header length is {len}, and more than {MAX_HEADER_LEN} is never read")
}

/// The order of the data, and its length; an error text if the ranges do not tile it exactly.
fn check_layout(tensors: &[TensorInfo]) -> std::result::Result<(Vec<usize>, u64), String> {
    let mut order: Vec<usize> = (0..tensors.len()).collect();
    order.sort_by_key(|&i| (tensors[i].range.start, tensors[i].range.end));
    let mut end = 0;
    for &i in &order {
        let TensorInfo { name, range, .. } = &tensors[i];
        if range.start > end {
            return Err(format!(
                "tensor `{name}`: it starts at {} and the one before ends at {end}, a hole",
                range.start
            ));
        }
        if range.start < end {
            return Err(format!(
                "tensor `{name}`: it starts at {} and overlaps the one that ends at {end}",
                range.start
            ));
        }
        end = range.end;
    }
    Ok((order, end))
}

/// What has been parsed, and where parsing is, so that an error can name the tensor.
#[derive(Default)]
struct Progress {
    current: Option<String>,
    tensors: Vec<TensorInfo>,
    metadata: Vec<(String, String)>,
}

impl Progress {
    fn explain(&self, error: &serde_json::Error) -> String {
        match &self.current {
            Some(name) if name == METADATA => format!("`{METADATA}`: {error}"),
            Some(name) => format!("tensor `{name}`: {error}"),
            None => format!("the header is not the JSON of a safetensors file: {error}"),
        }
    }
}

struct HeaderSeed<'p>(&'p mut Progress);

impl<'de> DeserializeSeed<'de> for HeaderSeed<'_> {
    type Value = ();
    fn deserialize<D: de::Deserializer<'de>>(self, json: D) -> std::result::Result<(), D::Error> {
        json.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for HeaderSeed<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of tensors")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<(), A::Error> {
        let mut seen = HashSet::new();
        while let Some(name) = map.next_key::<String>()? {
            self.0.current = Some(name.clone());
            if !seen.insert(name.clone()) {
                return Err(de::Error::custom("the name occurs twice"));
            }
            if name == METADATA {
                self.0.metadata = map.next_value_seed(MetadataSeed)?;
            } else {
                let tensor = map.next_value_seed(TensorSeed(name))?;
                self.0.tensors.push(tensor);
            }
            self.0.current = None;
        }
        Ok(())
    }
}

struct MetadataSeed;

impl<'de> DeserializeSeed<'de> for MetadataSeed {
    type Value = Vec<(String, String)>;
    fn deserialize<D: de::Deserializer<'de>>(self, json: D) -> std::result::Result<Self::Value, D::Error> {
        json.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for MetadataSeed {
    type Value = Vec<(String, String)>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of texts")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<Self::Value, A::Error> {
        let mut entries: HashMap<String, usize> = HashMap::new();
        let mut ordered = Vec::new();
        while let Some((key, value)) = map.next_entry::<String, String>()? {
            if entries.insert(key.clone(), ordered.len()).is_some() {
                return Err(de::Error::custom(format_args!("the key `{key}` occurs twice")));
            }
            ordered.push((key, value));
        }
        Ok(ordered)
    }
}

struct TensorSeed(String);

impl<'de> DeserializeSeed<'de> for TensorSeed {
    type Value = TensorInfo;
    fn deserialize<D: de::Deserializer<'de>>(self, json: D) -> std::result::Result<TensorInfo, D::Error> {
        json.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for TensorSeed {
    type Value = TensorInfo;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object with `dtype`, `shape` and `data_offsets`")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<TensorInfo, A::Error> {
        use de::Error as _;
        let (mut dtype, mut shape, mut offsets) = (None, None, None);
        while let Some(field) = map.next_key::<String>()? {
            let repeated = match field.as_str() {
                "dtype" => dtype.replace(map.next_value::<String>()?).is_some(),
                "shape" => shape.replace(map.next_value_seed(Counts { limit: MAX_RANK })?).is_some(),
                "data_offsets" => offsets.replace(map.next_value_seed(Counts { limit: 2 })?).is_some(),
                _ => return Err(A::Error::custom(format_args!("it has an unknown field `{field}`"))),
            };
            if repeated {
                return Err(A::Error::custom(format_args!("it has two fields `{field}`")));
            }
        }
        let dtype = dtype.ok_or_else(|| A::Error::missing_field("dtype"))?;
        let shape = shape.ok_or_else(|| A::Error::missing_field("shape"))?;
        let offsets = offsets.ok_or_else(|| A::Error::missing_field("data_offsets"))?;
        let dtype = Dtype::from_safetensors_name(&dtype).map_err(A::Error::custom)?;
        let &[start, end] = offsets.as_slice() else {
            return Err(A::Error::custom("`data_offsets` has to have two entries"));
        };
        let Some(got) = end.checked_sub(start) else {
            return Err(A::Error::custom(format_args!("its data ends at {end}, before its start {start}")));
        };
        let want = match dtype.byte_len(&shape) {
            Ok(want) => want,
            Err(Error::ShapeMismatch { problem, .. }) => return Err(A::Error::custom(problem)),
            Err(other) => return Err(A::Error::custom(other)),
        };
        if got != want {
            let shape = ShapeText(&shape);
            return Err(A::Error::custom(format_args!(
                "{shape} of {dtype} takes {want} bytes and the offsets span {got}"
            )));
        }
        Ok(TensorInfo { name: self.0, dtype, shape, range: start..end })
    }
}

/// A list of at most `limit` whole numbers.
struct Counts {
    limit: usize,
}

impl<'de> DeserializeSeed<'de> for Counts {
    type Value = Vec<u64>;
    fn deserialize<D: de::Deserializer<'de>>(self, json: D) -> std::result::Result<Vec<u64>, D::Error> {
        json.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for Counts {
    type Value = Vec<u64>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a list of at most {} whole numbers", self.limit)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> std::result::Result<Vec<u64>, A::Error> {
        let mut numbers = Vec::new();
        while let Some(number) = seq.next_element()? {
            if numbers.len() == self.limit {
                return Err(de::Error::invalid_length(numbers.len() + 1, &self));
            }
            numbers.push(number);
        }
        Ok(numbers)
    }
}

/// The name errors give to bytes that came from no file.
pub(super) fn in_memory() -> PathBuf {
    PathBuf::from("<memory>")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(json: &str) -> Result<Header> {
        Header::parse(Bytes::copy_from_slice(json.as_bytes()), Path::new("x.safetensors"))
    }

    #[test]
    fn order_metadata_and_raw_bytes_are_kept() {
        let json = r#"{"z":{"dtype":"F32","shape":[1],"data_offsets":[2,6]}, "__metadata__":{"b":"1","a":"é"},
                      "a":{"data_offsets":[0,2],"shape":[1,1],"dtype":"BF16"},"e":{"dtype":"U8","shape":[0],"data_offsets":[2,2]}}   "#;
        let header = parse(json).unwrap();
        let names = |infos: Vec<&TensorInfo>| infos.iter().map(|i| i.name.clone()).collect::<Vec<_>>();
        assert_eq!(names(header.tensors().iter().collect()), ["z", "a", "e"]);
        assert_eq!(names(header.tensors_in_data_order().collect()), ["a", "e", "z"]);
        assert_eq!(header.metadata(), [("b".into(), "1".into()), ("a".into(), "é".into())]);
        assert_eq!(header.raw(), json.as_bytes());
        assert_eq!((header.data_len(), header.file_len()), (6, 14 + json.len() as u64));
    }

    #[test]
    fn every_malformed_header_is_refused_with_the_reason() {
        let t = |body: &str| format!(r#"{{"w":{{{body}}}}}"#);
        let deep = format!(r#"{{"w":{}"#, "[".repeat(100_000));
        let cases: Vec<(String, &str)> = vec![
            ("[]".into(), "start with `{`"),
            ("".into(), "start with `{`"),
            (" {}".into(), "start with `{`"),
            ("{".into(), "not the JSON"),
            ("{}x".into(), "trailing"),
            (deep, "tensor `w`"),
            (t(r#""dtype":"F33","shape":[],"data_offsets":[0,4]"#), "unknown dtype `F33`"),
            (t(r#""dtype":"F32","shape":[-1],"data_offsets":[0,4]"#), "tensor `w`"),
            (t(r#""dtype":"F32","shape":[1.0],"data_offsets":[0,4]"#), "tensor `w`"),
            (t(r#""dtype":"F32","shape":[],"data_offsets":[4,0]"#), "before its start"),
            (t(r#""dtype":"F32","shape":[],"data_offsets":[0]"#), "two entries"),
            (t(r#""dtype":"F32","shape":[],"data_offsets":[0,4,8]"#), "tensor `w`"),
            (t(r#""dtype":"F32","shape":[2],"data_offsets":[0,4]"#), "takes 8 bytes and the offsets span 4"),
            (t(r#""dtype":"F32","shape":[],"data_offsets":[4,8]"#), "a hole"),
            (t(r#""dtype":"F4","shape":[3],"data_offsets":[0,2]"#), "whole bytes"),
            (t(r#""dtype":"U8","shape":[18446744073709551615,2],"data_offsets":[0,4]"#), "fit in memory"),
            (t(r#""dtype":"U8","shape":[18446744073709551616],"data_offsets":[0,4]"#), "tensor `w`"),
            (t(r#""dtype":"F32","shape":[]"#), "data_offsets"),
            (t(r#""dtype":"F32","data_offsets":[0,4]"#), "shape"),
            (t(r#""shape":[],"data_offsets":[0,4]"#), "dtype"),
            (t(r#""dtype":"F32","dtype":"F32","shape":[],"data_offsets":[0,4]"#), "two fields `dtype`"),
            (t(r#""dtype":"F32","shape":[],"data_offsets":[0,4],"extra":1"#), "unknown field `extra`"),
            (t(&format!(r#""dtype":"U8","shape":[{}1],"data_offsets":[0,1]"#, "1,".repeat(64))), "at most 64"),
            (r#"{"w":1}"#.into(), "tensor `w`"),
            (r#"{"__metadata__":{"a":1}}"#.into(), "`__metadata__`"),
            (r#"{"__metadata__":null}"#.into(), "`__metadata__`"),
            (r#"{"__metadata__":{"a":"1","a":"2"}}"#.into(), "`a` occurs twice"),
            (r#"{"__metadata__":{},"__metadata__":{}}"#.into(), "occurs twice"),
        ];
        for (json, want) in cases {
            let error = parse(&json).unwrap_err().to_string();
            let start: String = json.chars().take(120).collect();
            assert!(error.contains(want) && error.contains("x.safetensors"), "{start}\n{error}");
        }
    }

    #[test]
    fn repeated_names_and_overlaps_are_refused() {
        let one = r#""dtype":"U8","shape":[2],"data_offsets""#;
        let two = |a: &str, b: &str| parse(&format!(r#"{{{a},{b}}}"#)).unwrap_err().to_string();
        let twice = two(&format!(r#""w":{{{one}:[0,2]}}"#), &format!(r#""w":{{{one}:[2,4]}}"#));
        assert!(twice.contains("tensor `w`: the name occurs twice"), "{twice}");
        let escaped = two(&format!(r#""w":{{{one}:[0,2]}}"#), &format!(r#""\u0077":{{{one}:[2,4]}}"#));
        assert!(escaped.contains("occurs twice"), "{escaped}");
        let overlap = two(&format!(r#""v":{{{one}:[0,2]}}"#), &format!(r#""w":{{{one}:[1,3]}}"#));
        assert!(overlap.contains("tensor `w`") && overlap.contains("overlaps"), "{overlap}");
    }

    #[test]
    fn text_that_is_not_utf8_is_refused_with_its_offset() {
        let error = Header::parse(Bytes::from_static(b"{\"\xff\":1}"), Path::new("x")).unwrap_err();
        assert!(matches!(error, Error::Safetensors { offset: 10, .. }), "{error}");
    }
}
