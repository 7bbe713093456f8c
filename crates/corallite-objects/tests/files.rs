//! What files promise beside their data: who changed them, who uses data, and who refers to them.

use std::sync::Arc;

use corallite_objects::backend::{BackendExt, Change, Expect};
use corallite_objects::{
    Backend, Class, Durability, Error, Indexes, MemoryBackend, ObjectStorage, OnRemove, RawClass, RawStorage, Type,
};
use serde_json::json;

type Outcome<T = ()> = Result<T, Box<dyn std::error::Error>>;

fn files_on(backend: &Arc<dyn Backend>) -> Outcome<RawStorage> {
    let files = RawStorage::new(Arc::clone(backend));
    files.register(RawClass::new("File"))?;
    Ok(files)
}

#[test]
fn of_two_who_change_one_file_the_second_gets_a_conflict() -> Outcome {
    let backend: Arc<dyn Backend> = Arc::new(MemoryBackend::new());
    let files = files_on(&backend)?;
    files.create_with_oid("File", "1", b"data".as_slice(), json!({"by": "nobody"}))?.save()?;
    let get = || -> Outcome<_> { Ok(files.get("File", "1")?.ok_or("gone")?) };
    let (first, [with_meta, with_data, removes]) = (get()?, [get()?, get()?, get()?]);
    first.set_meta(json!({"by": "first"}))?;
    first.set_data(b"first".as_slice());
    first.save()?;
    with_meta.set_meta(json!({"by": "second"}))?;
    assert!(matches!(with_meta.save(), Err(Error::Conflict { ours: 1, stored: Some(_), .. })));
    with_data.set_data(b"second".as_slice());
    assert!(matches!(with_data.save(), Err(Error::Conflict { ours: 1, .. })));
    assert!(matches!(removes.remove(), Err(Error::Conflict { ours: 1, .. })));
    let found = get()?;
    assert_eq!((found.load_data()?, found.meta("by")), (b"first".to_vec(), Some(json!("first"))));
    assert_eq!((backend.streams("")?.count(), backend.keys("@use")?.count()), (1, 1));
    found.remove()?;
    first.set_meta(json!({"by": "first again"}))?;
    assert!(matches!(first.save(), Err(Error::Conflict { stored: None, .. })));
    assert_eq!((backend.streams("")?.count(), backend.keys("")?.count()), (0, 0));
    Ok(())
}

#[test]
fn a_conflict_of_files_shows_no_password() -> Outcome {
    let files = RawStorage::new(Arc::new(MemoryBackend::new()));
    files.register(RawClass::new("File").field("key", Type::Password).field("name", Type::Line))?;
    files.create_with_oid("File", "1", b"data".as_slice(), json!({"key": "hush"}))?.save()?;
    let error = files.create_with_oid("File", "1", b"data".as_slice(), json!({"key": "hush", "name": "x"}))?.save();
    let text = format!("{:?}", error.expect_err("a conflict"));
    assert!(text.contains("Conflict") && text.contains("name") && !text.contains("argon2"), "{text}");
    Ok(())
}

#[test]
fn collecting_removes_uses_that_are_not_true_and_their_data() -> Outcome {
    let backend: Arc<dyn Backend> = Arc::new(MemoryBackend::new());
    let files = files_on(&backend)?;
    let long = "o".repeat(1_000);
    for (oid, data) in [("kept", "one"), ("changed", "two"), ("removed", "three"), (&long, "four")] {
        files.create_with_oid("File", oid, data.as_bytes(), json!({}))?.save()?;
    }
    assert_eq!((files.collect()?, backend.keys("@use")?.count()), (0, 4));
    // As crashes in the middle of a removal, and of a save of other data, leave them where batches are not atomic.
    let used: Vec<(String, bytes::Bytes)> =
        backend.entries_in(&corallite_objects::backend::Range::prefix("@use"))?.collect::<Result<_, _>>()?;
    let changed = files.get("File", "changed")?.ok_or("gone")?;
    changed.set_data(b"five".as_slice());
    changed.save()?;
    files.get("File", "removed")?.ok_or("gone")?.remove()?;
    files.get("File", &long)?.ok_or("gone")?.remove()?;
    let again: Vec<Change<'_>> =
        used.iter().map(|(key, value)| Change { key, value: Some(value), expect: Expect::Anything }).collect();
    backend.write(&again, Durability::Durable)?;
    for (key, _) in &used {
        let hash = key.split('\0').nth(1).ok_or("no hash")?;
        backend.write_stream(&format!("@data.{hash}"))?.finish(Durability::Durable)?;
    }
    assert_eq!((files.collect()?, backend.keys("@use")?.count()), (3, 2));
    assert_eq!(files.get("File", "changed")?.ok_or("gone")?.load_data()?, b"five");
    assert_eq!((files.collect()?, backend.streams("")?.count()), (0, 2));
    Ok(())
}

#[test]
fn what_happens_to_those_who_refer_to_a_removed_file_is_declared() -> Outcome {
    for with_indexes in [false, true] {
        let backend: Arc<dyn Backend> = Arc::new(MemoryBackend::new());
        let (storage, files) = (ObjectStorage::new(Arc::clone(&backend)), files_on(&backend)?);
        if with_indexes {
            Indexes::attach(&storage, Arc::clone(&backend))?;
        }
        storage.connect(&files)?;
        let referring = |name: &str, on_remove| Class::new(name).many("to", "File").on_remove("to", on_remove);
        storage.register(referring("Keeps", OnRemove::Keep))?;
        storage.register(referring("Drops", OnRemove::Drop))?;
        storage.register(referring("Refuses", OnRemove::Refuse))?;
        let file = files.create("File", b"data".as_slice(), json!({}))?;
        file.save()?;
        let mut all = Vec::new();
        for class in ["Keeps", "Drops", "Refuses"] {
            let object = storage.create(class, json!({}))?;
            object.relation("to")?.add(&file)?;
            object.save()?;
            all.push(object);
        }
        match file.remove() {
            Err(Error::Referred { key, referrer, relation }) => {
                assert_eq!((key, referrer, relation), (file.key(), all[2].key(), "to".to_owned()));
            }
            other => return Err(format!("{other:?}").into()),
        }
        assert_eq!((all[1].relation("to")?.len(), file.load_data()?), (1, b"data".to_vec()), "nothing was changed");
        // One of the same id that was never saved says nothing of the stored one.
        files.create_with_oid("File", file.oid(), b"".as_slice(), json!({}))?.remove()?;
        assert_eq!(all[1].relation("to")?.len(), 1);
        all[2].remove()?;
        file.remove()?;
        assert_eq!((all[0].relation("to")?.len(), all[1].relation("to")?.len(), all[1].is_changed()), (1, 0, false));
        assert!(!files.has("File", file.oid())?);
        // A storage that is gone has no say.
        drop((storage, all));
        let other = files.create("File", b"data".as_slice(), json!({}))?;
        other.save()?;
        other.remove()?;
    }
    Ok(())
}

#[test]
fn a_deep_export_has_the_files_that_it_leads_to_and_an_import_leads_there_again() -> Outcome {
    let backend: Arc<dyn Backend> = Arc::new(MemoryBackend::new());
    let files = RawStorage::new(Arc::clone(&backend));
    files.register(RawClass::new("File").in_collection("attachments"))?;
    let storage = ObjectStorage::new(backend);
    storage.register(Class::new("Run").property("name", Type::Line).many("logs", "attachments"))?;
    storage.connect(&files)?;
    files.create_with_oid("File", "log", b"line".as_slice(), json!({"kind": "log"}))?.save()?;
    let run = storage.create_with_oid("Run", "1", json!({"name": "first"}))?;
    run.relation("logs")?.add(&files.get("File", "log")?.ok_or("gone")?)?;
    run.relation("logs")?.add(corallite_objects::Reference::new("attachments", "gone"))?;
    run.save()?;
    let reference = json!({"oid": "log", "type": "attachments"});
    assert_eq!(run.export(1)?["logs"][0], reference);
    let export = run.export(3)?;
    assert_eq!((&export["logs"][0]["size"], &export["logs"][0]["meta"]), (&json!(4), &json!({"kind": "log"})));
    assert_eq!(export["logs"][1], json!({"oid": "gone", "type": "attachments"}));
    run.remove()?;
    let again = storage.import("Run", export)?;
    again.save()?;
    assert_eq!(again.export(1)?["logs"][0], reference);
    Ok(())
}
