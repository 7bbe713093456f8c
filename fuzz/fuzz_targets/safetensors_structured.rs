//! Safetensors files built from a structure: headers that are right but for one or two things. What is right in
//! everything has to be accepted; for the rest see `corallite_fuzz::tensors`.
#![no_main]

use std::fmt::Write;

use arbitrary::Arbitrary;
use corallite_fuzz::tensors::{check, file};
use corallite_weights::Dtype;
use libfuzzer_sys::fuzz_target;

#[derive(Arbitrary, Debug)]
struct Model<'a> {
    metadata: Option<Vec<(&'a str, &'a str)>>,
    tensors: Vec<Tensor<'a>>,
    /// Where the tensor's entry goes in the header, so that the order of the data is another.
    order: Vec<u8>,
    /// Spaces after the header.
    padding: u8,
    damage: Option<Damage<'a>>,
}

#[derive(Arbitrary, Debug)]
struct Tensor<'a> {
    name: Name<'a>,
    dtype: u8,
    shape: Vec<u8>,
    /// A dimension of any size: right only beside one that is 0.
    huge: Option<u64>,
    flaw: Option<Flaw<'a>>,
}

#[derive(Arbitrary, Debug)]
enum Name<'a> {
    Numbered,
    Text(&'a str),
    Metadata,
}

/// What is wrong with one tensor.
#[derive(Arbitrary, Debug)]
enum Flaw<'a> {
    Start(i8),
    End(i8),
    Offsets(u64, u64),
    Dtype(&'a str),
    Missing(u8),
    Repeated(u8),
    Extra(&'a str),
    /// In place of a value, JSON or not.
    Literal(u8, &'a str),
}

/// What is wrong with the whole.
#[derive(Arbitrary, Debug)]
enum Damage<'a> {
    Length(i8),
    Data(i8),
    Prefix(u64),
    After(&'a [u8]),
    Byte(u16, u8),
}

fuzz_target!(|model: Model| {
    let (bytes, right) = render(&model);
    let accepted = check(&bytes);
    assert!(accepted || !right, "a right file was refused: {}", String::from_utf8_lossy(&bytes));
});

fn text(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// The file, and whether it is right in everything.
fn render(model: &Model<'_>) -> (Vec<u8>, bool) {
    let mut right = model.damage.is_none();
    let mut names: Vec<String> = Vec::new();
    let (mut entries, mut offset) = (Vec::new(), 0u64);
    if let Some(metadata) = &model.metadata {
        let mut keys: Vec<&str> = metadata.iter().map(|(key, _)| *key).collect();
        keys.sort_unstable();
        right &= keys.windows(2).all(|pair| pair[0] != pair[1]);
        let pairs: Vec<String> = metadata.iter().map(|(key, value)| format!("{}:{}", text(key), text(value))).collect();
        entries.push(format!("\"__metadata__\":{{{}}}", pairs.join(",")));
        names.push("__metadata__".to_owned());
    }
    for (index, tensor) in model.tensors.iter().take(40).enumerate() {
        let (entry, name, good) = entry(index, tensor, &mut offset);
        right &= good && !names.contains(&name) && name != "__metadata__";
        names.push(name);
        let place = model.order.get(index).map_or(entries.len(), |&place| usize::from(place) % (entries.len() + 1));
        entries.insert(place, entry);
    }
    let mut header = format!("{{{}}}", entries.join(",")).into_bytes();
    header.resize(header.len() + usize::from(model.padding % 9), b' ');
    let mut data: Vec<u8> = (0..offset.min(1 << 16)).map(|i| (i * 31) as u8).collect();
    right &= offset <= 1 << 16;
    let shifted = |len: usize, by: i8| (len as i64 + i64::from(by)).max(0) as usize;
    let mut bytes = match &model.damage {
        Some(Damage::Data(by)) => {
            data.resize(shifted(data.len(), *by), 0);
            file(&header, &data)
        }
        Some(Damage::Length(by)) => {
            let mut bytes = file(&header, &data);
            bytes[..8].copy_from_slice(&(shifted(header.len(), *by) as u64).to_le_bytes());
            bytes
        }
        Some(Damage::Prefix(length)) => [&length.to_le_bytes(), header.as_slice(), &data].concat(),
        Some(Damage::After(more)) => [file(&header, &data).as_slice(), more].concat(),
        _ => file(&header, &data),
    };
    if let Some(Damage::Byte(at, byte)) = model.damage {
        let at = usize::from(at) % bytes.len();
        bytes[at] = byte;
    }
    (bytes, right)
}

/// One tensor's entry in the header, its name, and whether it is right.
fn entry(index: usize, tensor: &Tensor<'_>, offset: &mut u64) -> (String, String, bool) {
    let named: Vec<Dtype> = Dtype::ALL.into_iter().filter(|dtype| dtype.safetensors_name().is_some()).collect();
    let dtype = named[usize::from(tensor.dtype) % named.len()];
    let mut shape: Vec<u64> = tensor.shape.iter().take(70).map(|&dim| u64::from(dim % 5)).collect();
    shape.extend(tensor.huge);
    let length = dtype.byte_len(&shape).ok().filter(|&length| length <= 4096);
    let mut right = length.is_some() && shape.len() <= 64 && tensor.flaw.is_none();
    let (mut start, mut end) = (*offset, *offset + length.unwrap_or(0));
    *offset = end;
    match tensor.flaw {
        Some(Flaw::Start(by)) => start = start.wrapping_add_signed(by.into()),
        Some(Flaw::End(by)) => end = end.wrapping_add_signed(by.into()),
        Some(Flaw::Offsets(from, to)) => (start, end) = (from, to),
        _ => {}
    }
    let name = match tensor.name {
        Name::Numbered => format!("layer.{index}.weight"),
        Name::Text(text) => text.to_owned(),
        Name::Metadata => "__metadata__".to_owned(),
    };
    let label = match tensor.flaw {
        Some(Flaw::Dtype(other)) => other,
        _ => dtype.safetensors_name().unwrap_or_default(),
    };
    let mut fields =
        vec![("dtype", text(label)), ("shape", format!("{shape:?}")), ("data_offsets", format!("[{start},{end}]"))];
    match tensor.flaw {
        Some(Flaw::Missing(which)) => drop(fields.remove(usize::from(which) % 3)),
        Some(Flaw::Repeated(which)) => fields.push(fields[usize::from(which) % 3].clone()),
        Some(Flaw::Literal(which, literal)) => fields[usize::from(which) % 3].1 = literal.to_owned(),
        _ => {}
    }
    let mut json = format!("{}:{{", text(&name));
    for (i, (field, value)) in fields.iter().enumerate() {
        let comma = if i > 0 { "," } else { "" };
        // Writing to a String does not fail.
        let _ = write!(json, "{comma}\"{field}\":{value}");
    }
    if let Some(Flaw::Extra(field)) = tensor.flaw {
        let _ = write!(json, ",{}:1", text(field));
    }
    json.push('}');
    right &= shape.iter().all(|&dim| dim <= u64::MAX / 8);
    (json, name, right)
}
