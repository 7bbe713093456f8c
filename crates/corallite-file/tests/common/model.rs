//! What must be in a file, in plain Rust, and reading it back.

use std::collections::BTreeMap;

use corallite_file::hdf5::types::VarLenUnicode;
use corallite_file::hdf5::{File, Group, Location};

use super::Outcome;

/// Objects by their path from the root.
pub type Model = BTreeMap<String, Object>;

/// A group (no data) or a dataset, with its attributes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Object {
    pub attributes: BTreeMap<String, Value>,
    pub data: Option<Vec<i32>>,
}

/// What an attribute holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    Number(i64),
    Text(String),
}

const CORE: [&str; 4] = ["config", "nodes", "values", "buckets"];

/// Everything in the file but the core groups, which must be there.
pub fn read(file: &File) -> Outcome<Model> {
    let names = file.member_names()?;
    if let Some(missing) = CORE.iter().find(|core| !names.iter().any(|name| name == *core)) {
        return Err(format!("/{missing} is missing").into());
    }
    let mut model = Model::new();
    members(file, "", &mut model)?;
    Ok(model)
}

/// The number of the commit that the file itself says it is.
pub fn own_number(file: &File) -> Outcome<u64> {
    Ok(file.group("config")?.attr("commit")?.read_scalar::<i64>()?.try_into()?)
}

fn members(group: &Group, prefix: &str, model: &mut Model) -> Outcome {
    for name in group.member_names()? {
        if prefix.is_empty() && CORE.contains(&name.as_str()) {
            continue;
        }
        let path = if prefix.is_empty() { name.clone() } else { format!("{prefix}/{name}") };
        if let Ok(dataset) = group.dataset(&name) {
            let data = Some(dataset.read_raw::<i32>()?);
            model.insert(path, Object { attributes: attributes(&dataset)?, data });
        } else {
            let group = group.group(&name)?;
            model.insert(path.clone(), Object { attributes: attributes(&group)?, data: None });
            members(&group, &path, model)?;
        }
    }
    Ok(())
}

fn attributes(location: &Location) -> Outcome<BTreeMap<String, Value>> {
    let mut found = BTreeMap::new();
    for name in location.attr_names()? {
        let attribute = location.attr(&name)?;
        let value = if name.starts_with("text") {
            Value::Text(attribute.read_scalar::<VarLenUnicode>()?.as_str().to_owned())
        } else {
            Value::Number(attribute.read_scalar::<i64>()?)
        };
        found.insert(name, value);
    }
    Ok(found)
}

/// Sets an attribute as h5py does: a string attribute is deleted and created, a number written in place.
pub fn set_attribute(location: &Location, name: &str, value: &Value) -> Outcome {
    match value {
        Value::Number(number) => match location.attr(name) {
            Ok(attribute) => attribute.write_scalar(number)?,
            Err(_) => location.new_attr::<i64>().create(name)?.write_scalar(number)?,
        },
        Value::Text(text) => {
            if location.attr(name).is_ok() {
                location.delete_attr(name)?;
            }
            let text: VarLenUnicode = text.parse().map_err(|error| format!("{error:?}"))?;
            location.new_attr::<VarLenUnicode>().create(name)?.write_scalar(&text)?;
        }
    }
    Ok(())
}

/// Says where two models part, in one line.
pub fn difference(found: &Model, wanted: &Model) -> Option<String> {
    for (path, object) in wanted {
        match found.get(path) {
            None => return Some(format!("{path} is missing")),
            Some(other) if other.attributes != object.attributes => {
                return Some(format!("{path} has {:?} where {:?} belongs", other.attributes, object.attributes));
            }
            Some(other) if other.data != object.data => {
                let (Some(found), Some(wanted)) = (&other.data, &object.data) else {
                    return Some(format!("{path} is of another kind"));
                };
                let at = found.iter().zip(wanted).position(|(a, b)| a != b);
                return Some(match at {
                    Some(at) => format!("{path}[{at}] is {} where {} belongs", found[at], wanted[at]),
                    None => format!("{path} has {} elements where {} belong", found.len(), wanted.len()),
                });
            }
            Some(_) => {}
        }
    }
    found.keys().find(|path| !wanted.contains_key(*path)).map(|path| format!("{path} should not be there"))
}
