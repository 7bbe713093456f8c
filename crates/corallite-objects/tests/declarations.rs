//! Programs that do not declare what others do: they read it, and what they save is found by those.
#![allow(clippy::unwrap_used)] // the workspace lints exempt test functions, but not their helpers

use std::sync::Arc;

use corallite_objects::{Backend, Class, Index, Indexes, Indexing, MemoryBackend, ObjectStorage, Type};
use serde_json::{Value, json};

fn run() -> Class {
    Class::new("Run")
        .in_collection("runs")
        .property("name", Type::Line)
        .property("started", Type::DateTime)
        .property("secret", Type::Password)
        .index("name", Indexing::Normalize)
        .with_index("first", Index::by(Indexing::Value, 1, |run| vec![json!(&run.text("name")[..1])]))
}

fn open(backend: &Arc<MemoryBackend>, class: Option<Class>, is_indexed: bool) -> (ObjectStorage, Option<Indexes>) {
    let backend: Arc<dyn Backend> = backend.clone();
    let storage = ObjectStorage::new(Arc::clone(&backend));
    match class {
        Some(class) => drop(storage.register(class).unwrap()),
        None => assert_eq!(storage.register_stored().unwrap(), ["Run"]),
    }
    let indexes = is_indexed.then(|| Indexes::attach(&storage, backend).unwrap());
    (storage, indexes)
}

#[test]
fn a_class_that_is_not_declared_here_is_read_as_it_was_declared() {
    let backend = Arc::new(MemoryBackend::new());
    let (storage, _indexes) = open(&backend, Some(run()), true);
    let values = json!({"name": "Base", "started": "2026-01-02T00:00:00+02:00", "secret": "sesame"});
    storage.create_with_oid("Run", "a", values).unwrap().save().unwrap();

    let (storage, _indexes) = open(&backend, None, true);
    let query = storage.find("Run", "name = 'base'").unwrap();
    assert_eq!(query.explain().unwrap().to_string(), "index Run.by.name = \"base\"; then the condition");
    // Times are times here too.
    let found = storage.find("Run", "started < '2026-01-02T00:00:00Z'").unwrap().run().unwrap();
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].export(1).unwrap().get("secret"), None::<&Value>);
    assert!(storage.register_stored().unwrap().is_empty());
}

#[test]
fn an_index_that_the_saving_program_does_not_keep_is_built_again_by_who_does() {
    for is_indexed in [true, false] {
        let backend = Arc::new(MemoryBackend::new());
        let (storage, _indexes) = open(&backend, Some(run()), true);
        storage.create_with_oid("Run", "a", json!({"name": "Base"})).unwrap().save().unwrap();

        let (storage, _indexes) = open(&backend, None, is_indexed);
        storage.create_with_oid("Run", "b", json!({"name": "Best"})).unwrap().save().unwrap();
        storage.get("Run", "a").unwrap().unwrap().remove().unwrap();

        let (_storage, indexes) = open(&backend, Some(run()), true);
        let indexes = indexes.unwrap();
        let first = indexes.of("Run").unwrap().by("first").unwrap();
        assert_eq!(first.count("B").unwrap(), 1, "{is_indexed}");
        assert_eq!(first.one("B", 0).unwrap().unwrap().oid(), "b");
        assert_eq!(indexes.of("Run").unwrap().by("name").unwrap().count("best").unwrap(), 1);
        assert!(indexes.warnings().iter().any(|warning| warning.contains("Run.by.first")), "{:?}", indexes.warnings());
    }
}

#[test]
fn what_fails_alone_counts_as_not_saved() {
    let backend = Arc::new(MemoryBackend::new());
    let (storage, _indexes) = open(&backend, Some(run()), true);
    let kept = storage.create_with_oid("Run", "kept", json!({"name": "Kept"})).unwrap();
    let gone = storage.create_with_oid("Run", "gone", json!({"name": "Gone"})).unwrap();
    storage.save_all(&[kept.clone(), gone.clone()]).unwrap();
    // The backend goes back by itself, as one with transactions does.
    let before: Vec<_> = [&kept, &gone].map(|object| (object.key(), backend.get(&object.key()).unwrap())).into();
    let new = storage.create_with_oid("Run", "new", json!({"name": "New"})).unwrap();
    let failed: Result<(), &str> = storage.alone(|| {
        kept.set("name", "Changed").unwrap();
        kept.save().unwrap();
        kept.set("name", "Again").unwrap();
        kept.save().unwrap();
        gone.remove().unwrap();
        new.save().unwrap();
        Err("on purpose")
    });
    assert_eq!(failed, Err("on purpose"));
    for (key, value) in &before {
        let change = corallite_objects::backend::Change {
            key,
            value: value.as_deref(),
            expect: corallite_objects::backend::Expect::Anything,
        };
        backend.write(&[change], corallite_objects::Durability::Durable).unwrap();
    }
    let new_key = new.key();
    corallite_objects::BackendExt::remove(&*backend, &new_key).unwrap();
    assert_eq!((kept.revision(), kept.is_changed(), kept.is_stored()), (1, true, true));
    assert_eq!((gone.is_removed(), gone.is_stored()), (false, true));
    assert_eq!((new.is_stored(), new.is_changed()), (false, true));
    assert_eq!(storage.get("Run", "gone").unwrap().as_ref(), Some(&gone));
    assert!(kept.save().unwrap() && new.save().unwrap());
    assert_eq!(kept.get("name"), Some(json!("Again")));
}
