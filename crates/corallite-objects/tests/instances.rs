//! Who has which instance of an object, and what a save of one that is not the newest says.

#![allow(clippy::expect_used)] // the workspace lints exempt test functions, but not their helpers

use std::sync::{Arc, Barrier};
use std::thread;

use corallite_objects::{
    Backend, Class, DirectoryBackend, Error, Index, Indexes, Indexing, MemoryBackend, MultiBackend, ObjectStorage,
    RawClass, RawStorage, StoredObject, Type,
};
use serde_json::{Value, json};

type Outcome<T = ()> = Result<T, Box<dyn std::error::Error>>;

fn account() -> Class {
    Class::new("Account")
        .property("name", Type::Line)
        .property("email", Type::Email)
        .property("secret", Type::Password)
        .with_index("email", Index::of_property("email", Indexing::Normalize).unique())
}

fn storage_on(backend: &Arc<dyn Backend>) -> Outcome<ObjectStorage> {
    let storage = ObjectStorage::new(Arc::clone(backend));
    storage.register(account())?;
    Ok(storage)
}

fn storage() -> Outcome<ObjectStorage> {
    let backend: Arc<dyn Backend> = Arc::new(MemoryBackend::new());
    storage_on(&backend)
}

/// What one of them is set to, the others have.
fn are_one(objects: &[StoredObject], round: usize) -> bool {
    objects[0].set("name", format!("round {round}")).expect("is allowed");
    objects.iter().all(|object| object.get("name") == objects[0].get("name"))
}

#[test]
fn threads_that_ensure_one_new_id_get_one_instance() -> Outcome {
    const THREADS: usize = 4;
    let storage = storage()?;
    for round in 0..500 {
        let (oid, barrier) = (round.to_string(), Barrier::new(THREADS));
        let objects: Vec<StoredObject> = thread::scope(|scope| {
            let ensure = || {
                barrier.wait();
                storage.ensure("Account", &oid).expect("makes it")
            };
            let threads: Vec<_> = (0..THREADS).map(|_| scope.spawn(ensure)).collect();
            threads.into_iter().map(|thread| thread.join().expect("ends")).collect()
        });
        assert!(are_one(&objects, round));
        assert_eq!(storage.save_all(&objects)?, 1);
    }
    Ok(())
}

#[test]
fn whoever_asks_for_an_object_while_it_is_saved_first_gets_that_instance() -> Outcome {
    // It is in the first one, which is read, some time before the mirror has it too.
    let folder = tempfile::tempdir()?;
    let mirror = Arc::new(DirectoryBackend::open(folder.path())?);
    let backend: Arc<dyn Backend> = Arc::new(MultiBackend::new(vec![Arc::new(MemoryBackend::new()), mirror])?);
    let storage = storage_on(&backend)?;
    for round in 0..200 {
        let oid = round.to_string();
        let one = storage.create_with_oid("Account", &oid, json!({}))?;
        let other = thread::scope(|scope| {
            let asks = scope.spawn(|| {
                loop {
                    if let Some(found) = storage.get("Account", &oid).expect("reads") {
                        return found;
                    }
                }
            });
            one.save().expect("saves");
            asks.join().expect("ends")
        });
        assert!(are_one(&[one, other], round), "round {round}");
    }
    Ok(())
}

#[test]
fn an_unsaved_object_gives_way_to_a_stored_one_and_its_holder_is_told_by_a_conflict() -> Outcome {
    let backend: Arc<dyn Backend> = Arc::new(MemoryBackend::new());
    let (here, there) = (storage_on(&backend)?, storage_on(&backend)?);
    let unsaved = here.create_with_oid("Account", "1", json!({"name": "Ann"}))?;
    there.create_with_oid("Account", "1", json!({"name": "Bea"}))?.save()?;
    let stored = here.get("Account", "1")?.ok_or("gone")?;
    assert_eq!((stored.get("name"), unsaved.get("name")), (Some(json!("Bea")), Some(json!("Ann"))));
    assert!(matches!(unsaved.save(), Err(Error::Conflict { ours: 0, stored: Some(_), .. })));
    Ok(())
}

#[test]
fn removing_an_object_that_is_not_the_one_of_its_id_leaves_that_one() -> Outcome {
    let storage = storage()?;
    let one = storage.create_with_oid("Account", "1", json!({"name": "Ann"}))?;
    one.save()?;
    storage.create_with_oid("Account", "1", json!({}))?.remove()?;
    let same = storage.get("Account", "1")?.ok_or("gone")?;
    assert!(are_one(&[one, same], 0));
    Ok(())
}

#[test]
fn nothing_is_saved_or_removed_while_a_function_changes_an_object() -> Outcome {
    let storage = storage()?;
    let files = RawStorage::new(Arc::clone(storage.backend()));
    files.register(RawClass::new("File"))?;
    let [one, other] = ["1", "2"].map(|oid| storage.create_with_oid("Account", oid, json!({})));
    let (one, other) = (one?, other?);
    storage.save_all(&[one.clone(), other.clone()])?;
    let file = files.create("File", b"data".as_slice(), json!({}))?;
    other.set("name", "Bea")?;
    let mut refused = Vec::new();
    one.change_property("name", |_| {
        refused.push(other.save().err());
        refused.push(storage.save_all(std::slice::from_ref(&other)).err());
        refused.push(other.remove().err());
        refused.push(file.save().err());
        refused.push(file.remove().err());
        json!("Ann")
    })?;
    assert!(refused.iter().all(|error| matches!(error, Some(Error::Usage(_)))), "{refused:?}");
    assert!(storage.has("Account", "2")? && one.get("name") == Some(json!("Ann")));
    assert!(other.save()? && one.save()? && file.save()?);
    Ok(())
}

#[test]
fn a_conflict_is_told_before_a_value_that_is_not_unique() -> Outcome {
    for is_shared in [true, false] {
        let objects: Arc<dyn Backend> = Arc::new(MemoryBackend::new());
        let entries: Arc<dyn Backend> = if is_shared { Arc::clone(&objects) } else { Arc::new(MemoryBackend::new()) };
        let open = || -> Outcome<ObjectStorage> {
            let storage = storage_on(&objects)?;
            Indexes::attach(&storage, Arc::clone(&entries))?;
            Ok(storage)
        };
        let (here, there) = (open()?, open()?);
        let ann = here.create_with_oid("Account", "ann", json!({"email": "ann@example.org"}))?;
        let bea = here.create_with_oid("Account", "bea", json!({"email": "bea@example.org"}))?;
        here.save_all(&[ann.clone(), bea])?;
        let stale = there.get("Account", "ann")?.ok_or("gone")?;
        ann.set("email", "new@example.org")?;
        ann.save()?;
        for email in ["new@example.org", "bea@example.org"] {
            stale.set("email", email)?;
            assert!(matches!(stale.save(), Err(Error::Conflict { ours: 1, .. })), "{email}");
        }
        // Two of one batch that claim one value, of which one is stale.
        let new = there.create_with_oid("Account", "new", json!({"email": "bea@example.org"}))?;
        assert!(matches!(there.save_all(&[new.clone(), stale]), Err(Error::Conflict { .. })));
        assert!(matches!(new.save(), Err(Error::NotUnique { .. })));
    }
    Ok(())
}

#[test]
fn a_scope_of_many_changes_saves_each_object_once() -> Outcome {
    const COUNT: usize = 20_000;
    let storage = storage()?;
    storage.scope(|storage| {
        let objects: Vec<StoredObject> =
            (0..COUNT).map(|_| storage.create("Account", Value::Null)).collect::<Result<_, _>>()?;
        for round in 0..3 {
            for object in &objects {
                object.set("name", format!("round {round}"))?;
            }
        }
        Ok(())
    })?;
    assert_eq!(storage.count("Account")?, COUNT as u64);
    assert!(storage.all("Account")?.all(|object| object.is_ok_and(|object| object.revision() == 1)));
    Ok(())
}

#[test]
fn what_a_backend_holds_is_not_in_the_debug_text_of_storages() -> Outcome {
    let storage = storage()?;
    let files = RawStorage::new(Arc::clone(storage.backend()));
    files.register(RawClass::new("File"))?;
    storage.connect(&files)?;
    let indexes = Indexes::attach(&storage, Arc::clone(storage.backend()))?;
    let properties = json!({"name": "Quokka", "email": "quokka@example.org", "secret": "hush"});
    storage.create("Account", properties)?.save()?;
    files.create("File", b"quokka".as_slice(), json!({"about": "Quokka"}))?.save()?;
    let query = storage.find("Account", "")?;
    let text = format!("{storage:?} {files:?} {indexes:?} {query:?} {:?}", storage.backend());
    assert!(!text.to_lowercase().contains("quokka") && !text.contains("argon2"), "{text}");
    assert!(text.contains("Account") && text.contains("File"), "{text}");
    Ok(())
}
