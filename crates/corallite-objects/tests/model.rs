//! Objects, relations and indexes against a plain model: random changes, by several storages on one backend, reopened.
#![allow(clippy::unwrap_used)] // the workspace lints exempt test functions, but not their helpers

use std::collections::BTreeMap;
use std::sync::Arc;

use corallite_objects::{
    Backend, Class, Error, Indexes, Indexing, Limits, MemoryBackend, ObjectStorage, OnRemove, Order, Reference,
    StoredObject, Type,
};
use serde_json::{Value, json};

const STEPS: u64 = 250;
const OIDS: u64 = 12;
const NAMES: [&str; 4] = ["Alpha", " alpha ", "BETA", "Ünï code"];

/// What is stored of one object.
#[derive(Clone, Debug, Default, PartialEq)]
struct Node {
    name: Option<&'static str>,
    value: Option<i64>,
    tags: Vec<String>,
    next: Option<String>,
    peers: Vec<String>,
    kept: Vec<String>,
}

type Model = BTreeMap<String, Node>;

struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (x ^ (x >> 31)) % end
    }

    fn oid(&mut self) -> String {
        format!("n{:02}", self.below(OIDS))
    }
}

fn class() -> Class {
    Class::new("Node")
        .in_collection("nodes")
        .property("name", Type::Line)
        .property("value", Type::Integer)
        .property("tags", Type::list(Type::Line))
        .one("next", "nodes")
        .many("peers", "nodes")
        .many("kept", "nodes")
        .on_remove("next", OnRemove::Drop)
        .on_remove("peers", OnRemove::Drop)
        .index("name", Indexing::Normalize)
        .index("value", Indexing::Value)
        .index("tags", Indexing::Value)
        .index("next", Indexing::Value)
}

struct Opened {
    storage: ObjectStorage,
    indexes: Indexes,
}

fn open(backend: &Arc<dyn Backend>, index_backend: &Arc<dyn Backend>) -> Opened {
    let storage = ObjectStorage::new(Arc::clone(backend));
    storage.register(class()).unwrap();
    let indexes = Indexes::attach(&storage, Arc::clone(index_backend)).unwrap();
    assert_eq!(indexes.warnings(), Vec::<String>::new());
    Opened { storage, indexes }
}

fn target(oid: &str) -> Reference {
    Reference::new("nodes", oid)
}

/// A random change of an object, made to its model too. Nothing is saved.
fn change(random: &mut Random, object: &StoredObject, node: &mut Node) {
    let other = random.oid();
    match random.below(9) {
        0 => {
            node.name = Some(NAMES[random.below(4) as usize]);
            object.set("name", node.name.unwrap()).unwrap();
        }
        1 => {
            node.name = None;
            object.set("name", Value::Null).unwrap();
        }
        2 | 3 => {
            node.value = Some(random.below(7) as i64 - 3);
            object.set("value", node.value.unwrap()).unwrap();
        }
        4 => {
            node.tags = (0..random.below(4)).map(|_| format!("t{}", random.below(3))).collect();
            object.set("tags", json!(node.tags)).unwrap();
        }
        5 => {
            object.relation("next").unwrap().add(target(&other)).unwrap();
            node.next = Some(other);
        }
        6 => {
            let is_new = object.relation("peers").unwrap().add(target(&other)).unwrap();
            assert_eq!(is_new, !node.peers.contains(&other));
            if is_new {
                node.peers.push(other);
            }
        }
        7 => {
            let was_there = object.relation("peers").unwrap().remove(target(&other)).unwrap();
            assert_eq!(was_there, node.peers.contains(&other));
            node.peers.retain(|peer| *peer != other);
        }
        _ => {
            let targets: Vec<String> = (0..random.below(5)).map(|_| random.oid()).collect();
            object.relation("kept").unwrap().set(targets.iter().map(|oid| target(oid))).unwrap();
            node.kept.clear();
            for oid in targets {
                if !node.kept.contains(&oid) {
                    node.kept.push(oid);
                }
            }
        }
    }
}

/// What removing an object does to those that lead to it.
fn forget(model: &mut Model, gone: &str) {
    model.remove(gone);
    for node in model.values_mut() {
        node.next = node.next.take().filter(|next| next != gone);
        node.peers.retain(|peer| peer != gone);
    }
}

fn step(random: &mut Random, opened: &Opened, other: &Opened, model: &mut Model) {
    let storage = &opened.storage;
    let oid = random.oid();
    match random.below(12) {
        0 => {
            if let Some(object) = storage.get("Node", &oid).unwrap() {
                // Another storage may have what it refers to in memory, in an older form: that is a conflict there, not here.
                object.reload().unwrap();
                object.remove().unwrap();
                forget(model, &oid);
            }
        }
        1 => {
            // Somebody else saves in between: the older of the two is refused, and nothing of it is stored.
            let (Some(mine), Some(theirs)) =
                (storage.get("Node", &oid).unwrap(), other.storage.get("Node", &oid).unwrap())
            else {
                return;
            };
            mine.reload().unwrap();
            theirs.reload().unwrap();
            let mut node = model[&oid].clone();
            let value = 100 + random.below(1 << 40) as i64;
            theirs.set("value", value).unwrap();
            node.value = Some(value);
            theirs.save().unwrap();
            model.insert(oid, node);
            mine.set("name", "lost").unwrap();
            assert!(matches!(mine.save(), Err(Error::Conflict { .. })));
            mine.reload().unwrap();
        }
        2 => {
            // Several in one batch.
            let mut batch = Vec::new();
            for _ in 0..random.below(4) {
                let oid = random.oid();
                let object = storage.ensure("Node", &oid).unwrap();
                if object.is_stored() && !object.is_changed() {
                    object.reload().unwrap();
                }
                change(random, &object, model.entry(oid).or_default());
                batch.push(object);
            }
            storage.save_all(&batch).unwrap();
        }
        3 => {
            // What a scope that fails made is not saved.
            let failed: Result<(), Error> = storage.scope(|storage| {
                storage.create_with_oid("Node", "never", json!({"value": 1}))?;
                Err(Error::Usage("on purpose".to_owned()))
            });
            assert!(failed.is_err() && !storage.has("Node", "never").unwrap());
        }
        _ => {
            let object = storage.ensure("Node", &oid).unwrap();
            if object.is_stored() {
                object.reload().unwrap();
            }
            let mut node = model.get(&oid).cloned().unwrap_or_default();
            for _ in 0..=random.below(2) {
                change(random, &object, &mut node);
            }
            object.save().unwrap();
            if object.is_stored() {
                model.insert(oid, node);
            }
        }
    }
}

fn oids(found: impl Iterator<Item = corallite_objects::Result<StoredObject>>) -> Vec<String> {
    found.map(|object| object.unwrap().oid().to_owned()).collect()
}

fn having(model: &Model, is: impl Fn(&Node) -> bool) -> Vec<String> {
    model.iter().filter(|(_, node)| is(node)).map(|(oid, _)| oid.clone()).collect()
}

fn check(opened: &Opened, model: &Model) {
    let Opened { storage, indexes } = opened;
    assert_eq!(storage.count("Node").unwrap(), model.len() as u64);
    for (object, (oid, node)) in storage.all("Node").unwrap().zip(model) {
        let object = object.unwrap();
        object.reload().unwrap();
        let relation = |name: &str| -> Vec<String> {
            object.relation(name).unwrap().references().into_iter().map(|target| target.oid).collect()
        };
        let found = Node {
            name: object.get("name").map(|name| NAMES.into_iter().find(|one| *one == name).unwrap()),
            value: object.get("value").map(|value| value.as_i64().unwrap()),
            tags: object.get("tags").map(|tags| serde_json::from_value(tags).unwrap()).unwrap_or_default(),
            next: relation("next").pop(),
            peers: relation("peers"),
            kept: relation("kept"),
        };
        assert_eq!((object.oid(), &found), (oid.as_str(), node));
    }
    let by = |name: &str| indexes.of("Node").unwrap().by(name).unwrap();
    for name in ["alpha", "Beta ", "ünï code", "none"] {
        let is = |node: &Node| {
            node.name.is_some_and(|own| {
                corallite_objects::index::normalize(own) == corallite_objects::index::normalize(name)
            })
        };
        assert_eq!(oids(by("name").get(name).unwrap()), having(model, is), "{name}");
    }
    for value in -4..=4 {
        let wanted = having(model, |node| node.value == Some(value));
        assert_eq!(by("value").count(value).unwrap(), wanted.len() as u64);
        assert_eq!(by("value").has(value).unwrap(), !wanted.is_empty());
        assert_eq!(oids(by("value").get(value).unwrap()), wanted);
    }
    for tag in 0..3 {
        let tag = format!("t{tag}");
        assert_eq!(oids(by("tags").get(tag.as_str()).unwrap()), having(model, |node| node.tags.contains(&tag)));
    }
    for oid in (0..OIDS).map(|number| format!("n{number:02}")) {
        let led = oids(by("next").get(format!("nodes.{oid}")).unwrap());
        assert_eq!(led, having(model, |node| node.next.as_ref() == Some(&oid)));
    }
    for order in [Order::Ascending, Order::Descending] {
        let limits = Limits { start: Some(json!(-2)), end: Some(json!(2)), count: Some(5), order };
        let mut wanted: Vec<(i64, &String)> = model
            .iter()
            .filter_map(|(oid, node)| Some((node.value.filter(|value| (-2..=2).contains(value))?, oid)))
            .collect();
        wanted.sort();
        if order == Order::Descending {
            wanted.reverse();
        }
        let wanted: Vec<String> = wanted.into_iter().take(5).map(|(_, oid)| oid.clone()).collect();
        assert_eq!(oids(by("value").list(&limits).unwrap()), wanted, "{order:?}");
    }
    let found = storage.find("Node", "value >= 0 and (tags = 't1' or not name is null)").unwrap().run().unwrap();
    let wanted = having(model, |node| {
        node.value.is_some_and(|value| value >= 0) && (node.tags.iter().any(|tag| tag == "t1") || node.name.is_some())
    });
    assert_eq!(found.iter().map(|object| object.oid().to_owned()).collect::<Vec<_>>(), wanted);
}

fn run(seed: u64, is_shared: bool) {
    let mut random = Random(seed);
    let backend: Arc<dyn Backend> = Arc::new(MemoryBackend::new());
    let index_backend: Arc<dyn Backend> = if is_shared { Arc::clone(&backend) } else { Arc::new(MemoryBackend::new()) };
    let (mut opened, mut other) = (open(&backend, &index_backend), open(&backend, &index_backend));
    let mut model = Model::new();
    for number in 0..STEPS {
        match random.below(4) {
            0 => step(&mut random, &other, &opened, &mut model),
            _ => step(&mut random, &opened, &other, &mut model),
        }
        if number % 10 == 0 || number + 1 == STEPS {
            check(&opened, &model);
            check(&other, &model);
        }
        if random.below(40) == 0 {
            opened.storage.sync().unwrap();
            other.storage.sync().unwrap();
            opened = open(&backend, &index_backend);
            other = open(&backend, &index_backend);
        }
    }
}

#[test]
fn random_changes_leave_what_they_leave_in_a_model() {
    for seed in 0..12 {
        run(seed, true);
    }
}

#[test]
fn random_changes_with_indexes_apart_do_too() {
    for seed in 100..106 {
        run(seed, false);
    }
}
