//! What is stored: objects of one class with six properties, three of them indexed; the same in every run.

use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Map, Value, json};

/// The class, its collection, and the name of its table.
pub(crate) const CLASS: &str = "Run";

/// The indexed properties: each object has a name of its own; a project has 1,000 objects; the loss is a number.
pub(crate) const INDEXED: [&str; 3] = ["name", "project", "loss"];

/// Objects of a project.
pub(crate) const PROJECT: u64 = 1_000;

/// An object to be stored.
pub(crate) struct Object {
    pub(crate) oid: String,
    pub(crate) properties: Map<String, Value>,
}

/// The object with this number, out of `objects`.
pub(crate) fn object(number: u64, objects: u64) -> Object {
    let random = mix(number);
    let properties = json!({
        "name": name(number),
        "project": project(number % projects(objects)),
        "loss": (random >> 40) as f64 / 1000.0,
        "steps": steps(number),
        "tags": [format!("tag-{}", random % 7), format!("seed-{}", random % 1000)],
        "notes": format!("trained on shard {} of {}, seed {}", random % 97, 97, random % 1000),
    });
    let Value::Object(properties) = properties else { unreachable!("an object was written") };
    Object { oid: oid(number), properties }
}

/// Ids in the order in which they are made, as UUIDv7 are: the time, then random bits.
pub(crate) fn oid(number: u64) -> String {
    format!("0190{:08x}7{:03x}{:016x}", number >> 2, (number & 3) << 10, mix(number))
}

/// The one name that the object with this number has.
pub(crate) fn name(number: u64) -> String {
    format!("run-{:016x}", mix(number ^ 0x6e61_6d65))
}

/// The name of a project.
pub(crate) fn project(number: u64) -> String {
    format!("project-{:08x}", mix(number) >> 32)
}

/// How many projects there are, of [`PROJECT`] objects each.
pub(crate) fn projects(objects: u64) -> u64 {
    (objects / PROJECT).max(1)
}

/// A property that nobody asks for by its value: whoever has the sum of it has read every object found.
pub(crate) fn steps(number: u64) -> u64 {
    mix(number ^ 0x7374_6570) >> 44
}

/// What objects found have together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) count: u64,
    pub(crate) steps: u64,
}

impl Found {
    pub(crate) fn add(&mut self, steps: u64) {
        self.count += 1;
        self.steps += steps;
    }
}

/// What must be found of these objects.
pub(crate) fn expected(numbers: impl IntoIterator<Item = u64>) -> Found {
    let mut found = Found::default();
    numbers.into_iter().for_each(|number| found.add(steps(number)));
    found
}

/// The document that Corallite would store: the peers store the same, update times included.
pub(crate) fn document(oid: &str, mut properties: Map<String, Value>) -> String {
    let time = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_micros() as f64 / 1e6;
    let names = properties.keys().map(String::as_str).chain(["oid"]);
    let updates: Map<String, Value> = names.map(|name| (name.to_owned(), time.into())).collect();
    properties.insert("@revision".to_owned(), 1.into());
    properties.insert("oid".to_owned(), oid.into());
    properties.insert("type".to_owned(), CLASS.into());
    properties.insert("updates".to_owned(), Value::Object(updates));
    Value::Object(properties).to_string()
}

/// Numbers below `limit`, each once as long as there are enough, in random order.
pub(crate) fn sample(limit: u64, count: u64, seed: u64) -> Vec<u64> {
    // Of a prime stride no number comes twice before all have come.
    let stride = 982_451_653;
    let start = mix(seed) % limit;
    let mut numbers: Vec<u64> =
        (0..count.min(limit)).map(|index| (start + index % limit * (stride % limit)) % limit).collect();
    numbers.sort_by_key(|number| mix(number ^ seed));
    numbers
}

/// The finalizer of SplitMix64: one-to-one, and each bit depends on all.
fn mix(number: u64) -> u64 {
    let number = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let number = (number ^ number >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ number >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ number >> 31
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn a_document_has_some_300_bytes_and_ids_are_in_order() {
        let lengths: Vec<usize> = (0..100)
            .map(|number| object(number, 100_000))
            .map(|object| document(&object.oid, object.properties).len())
            .collect();
        assert!(lengths.iter().all(|length| (250..550).contains(length)), "{lengths:?}");
        assert!((0..10_000).map(oid).is_sorted());
        assert_eq!(oid(7).len(), 32);
    }

    #[test]
    fn each_project_has_as_many_objects() {
        let of_first = (0..5_000).filter(|&number| object(number, 5_000).properties["project"] == project(0));
        assert_eq!(of_first.count() as u64, PROJECT);
    }

    #[test]
    fn a_sample_has_no_number_twice() {
        for (limit, count) in [(1_000_000, 20_000), (2_000, 2_000), (10, 20)] {
            let numbers = sample(limit, count, 3);
            assert_eq!(numbers.iter().collect::<HashSet<_>>().len() as u64, count.min(limit));
            assert!(numbers.iter().all(|&number| number < limit));
        }
    }
}
