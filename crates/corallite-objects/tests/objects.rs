//! What objects, relations and files promise, on the memory backend.

#![allow(clippy::expect_used)] // the workspace lints exempt test functions, but not their helpers

use std::sync::Arc;
use std::thread;

use corallite_objects::backend::{Change, EventKind, Expect};
use corallite_objects::{
    Backend, BackendExt, Class, Durability, Error, Index, Indexes, Indexing, Limits, MemoryBackend, ObjectStorage,
    OnRemove, Order, RawClass, RawStorage, Reference, Type,
};
use serde_json::{Value, json};

type Outcome<T = ()> = Result<T, Box<dyn std::error::Error>>;

fn storage() -> ObjectStorage {
    ObjectStorage::new(Arc::new(MemoryBackend::new()))
}

fn article() -> Class {
    Class::new("Article")
        .property("title", Type::String)
        .property("status", Type::enumeration(["draft", "published"]))
        .property("tags", Type::list(Type::Line))
        .property("secret", Type::Password)
        .property_or("votes", Type::Integer, 0)
        .one("author", "Account")
        .many("related", "Article")
        .index("status", Indexing::Normalize)
        .index("tags", Indexing::Normalize)
        .index("votes", Indexing::Value)
        .with_index(
            "keywords",
            Index::by(Indexing::KEYWORDS, 1, |view| {
                corallite_objects::index::keywords([view.text("title")], 3).into_iter().map(Value::from).collect()
            }),
        )
}

fn account() -> Class {
    Class::new("Account")
        .property("name", Type::Line)
        .property("email", Type::Email)
        .with_index("email", Index::of_property("email", Indexing::Normalize).unique())
}

fn both() -> Outcome<ObjectStorage> {
    let storage = storage();
    storage.register(account())?;
    storage.register(article())?;
    Ok(storage)
}

#[test]
fn a_saved_object_comes_back_with_its_values_times_and_revision() -> Outcome {
    let storage = both()?;
    let new = storage.create("Article", json!({"title": "One", "status": "draft"}))?;
    assert!(new.revision() == 0 && new.is_changed() && !new.is_stored());
    assert!(storage.get("Article", new.oid())?.is_none(), "it was not saved");
    assert!(new.save()? && !new.save()?);
    let (oid, time) = (new.oid().to_owned(), new.get_update_time("title").ok_or("no time")?);
    drop(new);
    let found = storage.get("Article", &oid)?.ok_or("gone")?;
    assert_eq!((found.get("title"), found.get("votes")), (Some(json!("One")), Some(json!(0))));
    assert_eq!((found.revision(), found.get_update_time("title")), (1, Some(time)));
    found.set("title", "Two")?;
    assert!(found.get_update_time("title") >= Some(time));
    assert_eq!(found.get_update_time("status").map(|status| status <= time), Some(true));
    found.save()?;
    assert_eq!(found.revision(), 2);
    found.set("title", Value::Null)?;
    assert_eq!((found.get("title"), found.get_property("title")?), (None, None));
    found.reload()?;
    assert_eq!(found.get("title"), Some(json!("Two")));
    found.remove()?;
    assert!(storage.get("Article", &oid)?.is_none() && found.save().is_err());
    Ok(())
}

#[test]
fn everybody_who_asks_for_an_object_gets_the_same_one() -> Outcome {
    let storage = both()?;
    let one = storage.create_with_oid("Account", "1", json!({"name": "Ann"}))?;
    one.save()?;
    let other = storage.get("Account", "1")?.ok_or("gone")?;
    other.set("name", "Bea")?;
    assert_eq!(one.get("name"), Some(json!("Bea")));
    assert_eq!(storage.all("Account")?.next().ok_or("none")??, one);
    assert_eq!(storage.ensure("Account", "1")?, one);
    assert!(!storage.ensure("Account", "2")?.is_stored());
    Ok(())
}

#[test]
fn names_that_are_not_declared_and_values_of_other_types_are_refused() -> Outcome {
    let storage = both()?;
    let object = storage.create("Article", json!({"title": "One"}))?;
    let message = object.set("title", 3).expect_err("a number").to_string();
    assert_eq!(message, "Article.title: it is 3, which is not a text");
    let message = object.set("titel", "x").expect_err("a typo").to_string();
    assert_eq!(message, "Article has no property `titel`; it has secret, status, tags, title, votes");
    assert!(object.update(json!({"title": "Two", "status": "lost"})).is_err());
    assert_eq!(object.get("title"), Some(json!("One")), "all or nothing");
    assert!(storage.create("Artikel", json!({})).is_err());
    for name in ["type", "oid", "updates", "", "a b", "@x"] {
        assert!(Class::new("X").property(name, Type::Any).check().is_err(), "{name}");
    }
    assert!(Class::new("A.b").check().is_err() && Class::new("X").index("y", Indexing::Value).check().is_err());
    assert!(storage.register(account()).is_err(), "registered twice");
    Ok(())
}

#[test]
fn collections_whose_names_begin_alike_do_not_mix() -> Outcome {
    let storage = storage();
    for name in ["A", "Ab", "A-b"] {
        storage.register(Class::new(name).property("x", Type::Any).index("x", Indexing::Value))?;
        let indexes = Indexes::attach(&storage, Arc::clone(storage.backend()));
        assert_eq!(indexes.is_ok(), name == "A");
    }
    for name in ["A", "Ab", "A-b"] {
        storage.create_with_oid(name, "1", json!({"x": 1}))?.save()?;
        storage.create_with_oid(name, "b.1", json!({"x": 1}))?.save()?;
    }
    for name in ["A", "Ab", "A-b"] {
        assert_eq!(storage.count(name)?, 2);
        let oids: Vec<String> =
            storage.all(name)?.map(|object| object.map(|object| object.oid().to_owned())).collect::<Result<_, _>>()?;
        assert_eq!(oids, ["1", "b.1"]);
    }
    Ok(())
}

#[test]
fn saving_over_a_newer_revision_is_refused_and_shows_both() -> Outcome {
    let backend: Arc<dyn Backend> = Arc::new(MemoryBackend::new());
    let (here, there) = (ObjectStorage::new(Arc::clone(&backend)), ObjectStorage::new(backend));
    for storage in [&here, &there] {
        storage.register(account())?;
    }
    let ours = here.create_with_oid("Account", "1", json!({"name": "Ann"}))?;
    ours.save()?;
    let theirs = there.get("Account", "1")?.ok_or("gone")?;
    theirs.set("name", "Bea")?;
    theirs.save()?;
    ours.set("name", "Cleo")?;
    match ours.save() {
        Err(Error::Conflict { ours: 1, own, stored: Some(stored), .. }) => {
            assert_eq!(
                (&own["name"], &stored["name"], &stored["@revision"]),
                (&json!("Cleo"), &json!("Bea"), &json!(2))
            );
        }
        other => return Err(format!("{other:?}").into()),
    }
    ours.reload()?;
    ours.set("name", "Cleo")?;
    ours.save()?;
    theirs.set("name", "Dora")?;
    assert!(matches!(theirs.remove(), Err(Error::Conflict { .. })));
    let twice = there.create_with_oid("Account", "1", json!({}))?;
    drop(theirs);
    assert!(matches!(twice.save(), Err(Error::Conflict { ours: 0, .. })));
    Ok(())
}

#[test]
fn exports_are_as_deep_as_asked_for_and_keep_passwords_back() -> Outcome {
    let storage = both()?;
    let ann = storage.create_with_oid("Account", "ann", json!({"name": "Ann", "email": "ann@example.org"}))?;
    let one = storage.create_with_oid("Article", "1", json!({"title": "One", "secret": "hush"}))?;
    let two = storage.create_with_oid("Article", "2", json!({"title": "Two"}))?;
    one.relation("author")?.add(&ann)?;
    one.relation("related")?.add(&two)?;
    two.relation("related")?.add(&one)?;
    two.relation("related")?.add(&two)?;
    storage.save_all(&[ann, one.clone(), two])?;
    assert_eq!(one.export(0)?, json!({"oid": "1", "type": "Article"}));
    let flat = one.export(1)?;
    assert_eq!(flat["related"], json!([{"oid": "2", "type": "Article"}]));
    assert_eq!(flat["author"], json!({"oid": "ann", "type": "Account"}));
    assert!(flat.get("secret").is_none() && !format!("{one:?}").contains("argon2"));
    let deep = one.export(5)?;
    assert_eq!(deep["author"]["name"], "Ann");
    // Two leads back to One, and to itself: there it is cut.
    assert_eq!(deep["related"][0]["title"], "Two");
    assert_eq!(
        deep["related"][0]["related"],
        json!([{"oid": "1", "type": "Article"}, {"oid": "2", "type": "Article"}])
    );

    let elsewhere = both()?;
    let copy = elsewhere.import("Article", flat.clone())?;
    copy.save()?;
    let again = copy.export(1)?;
    assert_eq!(again, flat);
    assert!(elsewhere.import("Account", flat).is_err(), "of another class");
    Ok(())
}

#[test]
fn relations_keep_their_order_and_hold_no_duplicates() -> Outcome {
    let storage = both()?;
    let objects: Vec<_> =
        (0..5).map(|i| storage.create_with_oid("Article", &i.to_string(), json!({}))).collect::<Result<_, _>>()?;
    storage.save_all(&objects)?;
    let related = objects[0].relation("related")?;
    for i in [3, 1, 4, 1] {
        related.append(&objects[i])?;
    }
    let oids = |relation: &corallite_objects::Relation| -> Vec<String> {
        relation.references().into_iter().map(|target| target.oid).collect()
    };
    assert_eq!((oids(&related), related.len()), (vec!["3".to_owned(), "1".to_owned(), "4".to_owned()], 3));
    assert_eq!(related.get(1, Some(1), true)?[0].object(), Some(&objects[1]));
    assert!(related.has_oid("4") && !related.has(&objects[2]));
    assert!(related.remove(&objects[3])? && !related.remove(&objects[3])?);
    assert!(related.add(Reference::new("Account", "x")).is_err());
    objects[0].save()?;
    objects[4].remove()?;
    assert!(matches!(related.list().nth(1), Some(Err(Error::Dangling { .. }))));
    related.clear();
    assert!(related.is_empty() && related.one(0)?.is_none());
    let author = objects[0].relation("author")?;
    author.add(Reference::new("Account", "a"))?;
    author.add(Reference::new("Account", "b"))?;
    assert_eq!(oids(&author), ["b"]);
    assert!(author.set([Reference::new("Account", "a"), Reference::new("Account", "b")]).is_err());
    Ok(())
}

#[test]
fn what_happens_to_those_who_refer_to_a_removed_object_is_declared() -> Outcome {
    what_happens_to_referrers(false)?;
    what_happens_to_referrers(true)
}

fn what_happens_to_referrers(with_indexes: bool) -> Outcome {
    let storage = storage();
    if with_indexes {
        Indexes::attach(&storage, Arc::clone(storage.backend()))?;
    }
    storage.register(Class::new("Target"))?;
    let referring = |name: &str, on_remove| Class::new(name).many("to", "Target").on_remove("to", on_remove);
    storage.register(referring("Keeps", OnRemove::Keep))?;
    storage.register(referring("Drops", OnRemove::Drop))?;
    storage.register(referring("Refuses", OnRemove::Refuse))?;
    let target = storage.create("Target", json!({}))?;
    target.save()?;
    let mut all = Vec::new();
    for class in ["Keeps", "Drops", "Refuses"] {
        let object = storage.create(class, json!({}))?;
        object.relation("to")?.add(&target)?;
        object.save()?;
        all.push(object);
    }
    match target.remove() {
        Err(Error::Referred { referrer, relation, .. }) => {
            assert_eq!((referrer, relation), (all[2].key(), "to".to_owned()))
        }
        other => return Err(format!("{other:?}").into()),
    }
    assert_eq!(all[1].relation("to")?.len(), 1, "nothing was changed");
    all[2].remove()?;
    target.remove()?;
    assert_eq!((all[0].relation("to")?.len(), all[1].relation("to")?.len(), all[1].is_changed()), (1, 0, false));
    Ok(())
}

#[test]
fn a_scope_saves_what_was_made_and_changed_in_it_or_nothing() -> Outcome {
    let storage = both()?;
    let old = storage.create_with_oid("Account", "old", json!({"name": "Ann"}))?;
    old.save()?;
    storage.scope(|storage| {
        storage.create_with_oid("Account", "new", json!({"name": "Bea"}))?;
        old.set("name", "Cleo")
    })?;
    assert!(storage.has("Account", "new")? && !old.is_changed());
    let failed: Result<(), Error> = storage.scope(|storage| {
        storage.create_with_oid("Account", "lost", json!({}))?;
        Err(Error::Usage("no".to_owned()))
    });
    assert!(failed.is_err() && !storage.has("Account", "lost")?);
    let unused = storage.create_with_oid("Account", "outside", json!({}))?;
    assert!(unused.is_changed() && !storage.has("Account", "outside")?);
    Ok(())
}

/// Both with a backend of their own and with that of the objects.
fn indexed() -> Outcome<Vec<(ObjectStorage, Indexes)>> {
    let mut all = Vec::new();
    for is_shared in [true, false] {
        let storage = both()?;
        let backend = if is_shared { Arc::clone(storage.backend()) } else { Arc::new(MemoryBackend::new()) };
        let indexes = Indexes::attach(&storage, backend)?;
        all.push((storage, indexes));
    }
    Ok(all)
}

fn oids(found: impl Iterator<Item = Result<corallite_objects::StoredObject, Error>>) -> Result<Vec<String>, Error> {
    found.map(|object| object.map(|object| object.oid().to_owned())).collect()
}

#[test]
fn an_index_follows_every_save_and_removal() -> Outcome {
    for (storage, indexes) in indexed()? {
        let by = |name: &str| indexes.of("Article").and_then(|of| of.by(name));
        let titles = ["The café opens", "A cafe closes", "Nothing"];
        for (i, title) in titles.iter().enumerate() {
            let status = if i == 0 { "draft" } else { "published" };
            let tags = json!(["all", format!("tag {i}")]);
            let value = json!({"title": title, "status": status, "tags": tags, "votes": i as i64 - 1});
            storage.create_with_oid("Article", &i.to_string(), value)?.save()?;
        }
        assert_eq!(oids(by("status")?.get(" Published")?)?, ["1", "2"]);
        assert_eq!(oids(by("keywords")?.get("Café!")?)?, ["0", "1"]);
        assert_eq!((by("tags")?.count("ALL")?, by("tags")?.count("tag 1")?), (3, 1));
        assert_eq!(by("status")?.keys()?.collect::<Result<Vec<_>, _>>()?, [json!("draft"), json!("published")]);
        assert_eq!(by("status")?.one("published", 1)?.map(|object| object.oid().to_owned()).as_deref(), Some("2"));
        let limits = Limits { start: Some(json!(-0.5)), order: Order::Descending, ..Limits::default() };
        assert_eq!(oids(by("votes")?.list(&limits)?)?, ["2", "1"]);
        let limits = Limits { end: Some(json!(0)), count: Some(5), ..Limits::default() };
        assert_eq!(oids(by("votes")?.list(&limits)?)?, ["0", "1"]);
        assert_eq!(oids(by("tags")?.prefix("Tag")?)?, ["0", "1", "2"]);

        let first = storage.get("Article", "1")?.ok_or("gone")?;
        first.update(json!({"status": "draft", "tags": null}))?;
        assert_eq!(by("status")?.count("draft")?, 1, "not saved yet");
        first.save()?;
        assert_eq!((by("status")?.count("draft")?, by("tags")?.count("all")?), (2, 2));
        storage.get("Article", "0")?.ok_or("gone")?.remove()?;
        assert_eq!(oids(by("status")?.get("draft")?)?, ["1"]);
        assert!(!by("keywords")?.has("opens")? && by("keywords")?.has("closes")?);
        let before = indexes.rebuild(true)?;
        assert_eq!(before, 9, "status 2, tags 2, votes 2, keywords: cafe, closes, nothing");
        assert_eq!(oids(by("status")?.get("draft")?)?, ["1"]);
    }
    Ok(())
}

#[test]
fn a_unique_value_belongs_to_one_object() -> Outcome {
    for (storage, indexes) in indexed()? {
        let ann = storage.create_with_oid("Account", "ann", json!({"email": "x@example.org"}))?;
        ann.save()?;
        let bea = storage.create_with_oid("Account", "bea", json!({"email": "X@Example.org"}))?;
        match bea.save() {
            Err(Error::NotUnique { other, key, index, .. }) => {
                assert_eq!((other.as_str(), key.as_str(), index.as_str()), ("Account.ann", "Account.bea", "email"));
            }
            other => return Err(format!("{other:?}").into()),
        }
        assert!(!storage.has("Account", "bea")?);
        assert_eq!(indexes.of("Account")?.by("email")?.count("x@example.org")?, 1);
        // Two in one batch, and a value that changes hands in one.
        let pair: Vec<_> = ["c", "d"]
            .iter()
            .map(|oid| storage.create_with_oid("Account", oid, json!({"email": "pair@example.org"})))
            .collect::<Result<_, _>>()?;
        assert!(matches!(storage.save_all(&pair), Err(Error::NotUnique { .. })));
        ann.set("email", "y@example.org")?;
        storage.save_all(&[ann.clone(), bea.clone()])?;
        assert_eq!(indexes.of("Account")?.by("email")?.one("x@example.org", 0)?, Some(bea.clone()));
        bea.remove()?;
        ann.set("email", "x@example.org")?;
        ann.save()?;
    }
    Ok(())
}

#[test]
fn indexes_of_objects_that_are_there_already_are_built_and_rebuilt_when_declared_otherwise() -> Outcome {
    let objects: Arc<dyn Backend> = Arc::new(MemoryBackend::new());
    let entries: Arc<dyn Backend> = Arc::new(MemoryBackend::new());
    let open = |by: Indexing| -> Outcome<(ObjectStorage, Indexes)> {
        let storage = ObjectStorage::new(Arc::clone(&objects));
        storage.register(Class::new("Run").property("name", Type::String).index("name", by))?;
        let indexes = Indexes::attach(&storage, Arc::clone(&entries))?;
        Ok((storage, indexes))
    };
    let plain = ObjectStorage::new(Arc::clone(&objects));
    plain.register(Class::new("Run").property("name", Type::String))?;
    plain.create("Run", json!({"name": "Ä One"}))?.save()?;
    let (storage, indexes) = open(Indexing::Normalize)?;
    assert_eq!((indexes.warnings().len(), indexes.of("Run")?.by("name")?.count("ä one")?), (1, 1));
    storage.sync()?;
    assert_eq!(open(Indexing::Normalize)?.1.warnings(), Vec::<String>::new());
    let (_, indexes) = open(Indexing::NoAccents)?;
    assert_eq!((indexes.warnings().len(), indexes.of("Run")?.by("name")?.count("A one")?), (1, 1));
    Ok(())
}

/// Objects that a program without the indexes changed behind their back.
#[test]
fn after_a_crash_between_two_backends_answers_are_right() -> Outcome {
    let objects: Arc<dyn Backend> = Arc::new(MemoryBackend::new());
    let entries: Arc<dyn Backend> = Arc::new(MemoryBackend::new());
    let open = || -> Outcome<(ObjectStorage, Indexes)> {
        let storage = ObjectStorage::new(Arc::clone(&objects));
        storage.register(Class::new("Run").property("name", Type::String).index("name", Indexing::Value))?;
        let indexes = Indexes::attach(&storage, Arc::clone(&entries))?;
        Ok((storage, indexes))
    };
    for durability in [Durability::Durable, Durability::Buffered] {
        objects.clear()?;
        entries.clear()?;
        let (storage, _) = open()?;
        let run = storage.create_with_oid("Run", "1", json!({"name": "a"}))?;
        run.save_with(durability)?;
        // A crash after the entries of the next save, before its object.
        let key = entries.keys("@index")?.next().ok_or("none")??.replace("3a\0", "3b\0");
        entries.write(&[Change { key: &key, value: Some(b""), expect: Expect::Absent }], Durability::Durable)?;
        let (storage, indexes) = open()?;
        let by_name = indexes.of("Run")?.by("name")?;
        assert_eq!((by_name.count("a")?, by_name.count("b")?, by_name.has("b")?), (1, 0, false));
        assert_eq!(by_name.keys()?.collect::<Result<Vec<_>, _>>()?, [json!("a")]);
        assert_eq!(indexes.warnings().len(), usize::from(durability == Durability::Buffered));
        indexes.rebuild(true)?;
        assert_eq!(entries.keys("@index\0")?.count(), 1);
        drop((storage, indexes));
        assert_eq!(open()?.1.warnings(), Vec::<String>::new());
    }
    Ok(())
}

#[test]
fn a_document_of_an_older_version_is_migrated_or_refused() -> Outcome {
    let backend: Arc<dyn Backend> = Arc::new(MemoryBackend::new());
    let open = |class: Class| -> Result<ObjectStorage, Error> {
        let storage = ObjectStorage::new(Arc::clone(&backend));
        storage.register(class)?;
        Ok(storage)
    };
    let old = open(Class::new("Run").property("loss", Type::String))?;
    old.create_with_oid("Run", "1", json!({"loss": "0.5"}))?.save()?;
    let unmigrated = open(Class::new("Run").property("loss", Type::Float))?;
    assert!(matches!(unmigrated.get("Run", "1"), Err(Error::Migration { .. })));
    let class = || {
        Class::new("Run").property("loss", Type::Float).migrate(1, |found, map| {
            assert_eq!(found, 0);
            let loss: f64 = map["loss"].as_str().unwrap_or_default().parse().map_err(|_| "no number".to_owned())?;
            map.insert("loss".to_owned(), loss.into());
            Ok(())
        })
    };
    let new = open(class())?;
    let run = new.get("Run", "1")?.ok_or("gone")?;
    assert_eq!(run.get("loss"), Some(json!(0.5)));
    run.set("loss", 0.25)?;
    run.save()?;
    drop(run);
    assert_eq!(open(class())?.get("Run", "1")?.and_then(|run| run.get("loss")), Some(json!(0.25)));
    assert!(matches!(old.class("Run").and_then(|_| unmigrated.get("Run", "1")), Err(Error::Migration { .. })), "newer");
    Ok(())
}

#[test]
fn a_damaged_document_is_reported_and_the_others_load() -> Outcome {
    let storage = both()?;
    for oid in ["1", "2", "3"] {
        storage.create_with_oid("Account", oid, json!({"name": oid}))?.save()?;
    }
    let backend = Arc::clone(storage.backend());
    for damage in
        ["{\"name\": ", "[]", "{\"oid\":\"9\",\"type\":\"Account\"}", "{\"oid\":\"2\",\"type\":\"Else\"}", "\u{0}"]
    {
        backend.update("Account.2", damage.as_bytes())?;
        let found: Vec<_> = storage.all("Account")?.collect();
        assert_eq!(found.iter().map(Result::is_ok).collect::<Vec<_>>(), [true, false, true]);
        match storage.get("Account", "2") {
            Err(Error::Malformed { key, .. }) => assert_eq!(key, "Account.2"),
            other => return Err(format!("{other:?}").into()),
        }
    }
    let indexes = Indexes::attach(&storage, backend)?;
    assert!(indexes.warnings().iter().any(|warning| warning.contains("Account.2")));
    Ok(())
}

#[test]
fn threads_that_change_the_same_objects_lose_nothing() -> Outcome {
    for (storage, indexes) in indexed()? {
        for i in 0..4 {
            storage.create_with_oid("Article", &i.to_string(), json!({}))?.save()?;
        }
        thread::scope(|scope| {
            for t in 0..8 {
                let storage = &storage;
                scope.spawn(move || {
                    for round in 0..50 {
                        let object =
                            storage.get("Article", &(round % 4).to_string()).expect("reads").expect("is there");
                        object
                            .change_property("votes", |votes| {
                                json!(votes.and_then(|votes| votes.as_i64()).unwrap_or(0) + 1)
                            })
                            .expect("changes");
                        object.save().expect("saves");
                        storage
                            .create("Article", json!({"title": format!("thread {t}")}))
                            .and_then(|new| new.save())
                            .expect("saves");
                    }
                });
            }
        });
        let votes: i64 = (0..4)
            .map(|i| {
                storage
                    .get("Article", &i.to_string())
                    .ok()
                    .flatten()
                    .and_then(|object| object.get("votes")?.as_i64())
                    .unwrap_or(0)
            })
            .sum();
        assert_eq!((votes, storage.count("Article")?), (400, 404));
        assert_eq!(indexes.of("Article")?.by("keywords")?.count("thread")?, 400);
    }
    Ok(())
}

#[test]
fn files_are_streamed_kept_once_and_verified() -> Outcome {
    let backend = Arc::new(MemoryBackend::new());
    let storage = RawStorage::new(Arc::clone(&backend) as Arc<dyn Backend>);
    storage.register(RawClass::new("File").field("format", Type::Line))?;
    let data: Vec<u8> = (0..1_000_000_u32).flat_map(|i| i.to_le_bytes()).collect();
    let one = storage.create("File", data.clone(), json!({"format": "raw"}))?;
    assert!(one.load_data().is_err(), "not saved yet");
    one.save()?;
    let reader: Box<dyn std::io::Read + Send> = Box::new(std::io::Cursor::new(data.clone()));
    let two = storage.create("File", corallite_objects::Source::Reader(reader), json!({}))?;
    two.save()?;
    assert_eq!((one.hash(), one.size()), (two.hash(), 4_000_000));
    assert_eq!(backend.streams("@data.")?.count(), 1);
    let found = storage.get("File", two.oid())?.ok_or("gone")?;
    let chunks: Vec<_> = found.data(1_000_001)?.collect::<Result<_, _>>()?;
    assert_eq!((chunks.len(), chunks.concat() == data), (4, true));
    assert_eq!(found.read_at(3_999_999, 10)?, data[3_999_999..]);
    assert!(one.set_meta(json!({"width": 3})).is_err() && one.set_meta(json!({"format": "a\nb"})).is_err());
    one.remove()?;
    assert_eq!(found.load_data()?.len(), 4_000_000, "the other one has the same data");
    found.set_data(b"new".as_slice());
    found.save()?;
    assert_eq!((found.load_data()?, backend.streams("@")?.count()), (b"new".to_vec(), 1));
    // Damage shows when the data is read.
    let mut stream = backend.write_stream(&backend.streams("@data.")?.next().ok_or("none")??)?;
    std::io::Write::write_all(&mut stream, b"nex")?;
    stream.finish(Durability::Durable)?;
    assert!(matches!(found.load_data(), Err(Error::Malformed { .. })));
    assert_eq!(storage.collect()?, 0);
    found.remove()?;
    assert_eq!((backend.streams("")?.count(), backend.keys("")?.count()), (0, 0));
    Ok(())
}

#[test]
fn relations_lead_to_files_and_to_weights() -> Outcome {
    let backend: Arc<dyn Backend> = Arc::new(MemoryBackend::new());
    let (storage, files) = (ObjectStorage::new(Arc::clone(&backend)), RawStorage::new(backend));
    files.register(RawClass::new("File"))?;
    storage.connect(&files)?;
    storage.register(Class::new("Model").many("files", "File").many("weights", corallite_objects::class::WEIGHT))?;
    let card = files.create("File", b"# card".as_slice(), json!({"name": "README.md"}))?;
    card.save()?;
    let model = storage.create("Model", json!({}))?;
    model.relation("files")?.add(&card)?;
    model.relation("weights")?.add(Reference::new("weight", "00ff"))?;
    model.save()?;
    let found = model.relation("files")?.one(0)?.ok_or("none")?;
    assert_eq!(found.raw().ok_or("no file")?.load_data()?, b"# card");
    assert_eq!(model.relation("weights")?.one(0)?.ok_or("none")?.reference().oid, "00ff");
    card.remove()?;
    assert!(matches!(model.relation("files")?.one(0), Err(Error::Dangling { .. })));
    Ok(())
}

#[test]
fn whoever_watches_an_object_hears_of_that_one_only() -> Outcome {
    let storage = storage();
    storage.register(Class::new("Account").property("name", Type::Line))?;
    let save = |oid: &str| storage.create_with_oid("Account", oid, json!({}))?.save();
    save("a")?;
    let account = storage.get("Account", "a")?.ok_or("gone")?;
    let changes = account.watch();
    save("ab")?;
    account.set("name", "Ann")?;
    account.save()?;
    account.remove()?;
    let heard: Vec<_> = std::iter::from_fn(|| changes.try_next()).map(|event| (event.key, event.kind)).collect();
    let key = || "Account.a".to_owned();
    assert_eq!(heard, [(key(), EventKind::Updated), (key(), EventKind::Removed)]);
    Ok(())
}

#[test]
fn whoever_watches_a_class_hears_of_its_changes_only() -> Outcome {
    let storage = both()?;
    let changes = storage.watch("Account")?;
    let ann = storage.create_with_oid("Account", "ann", json!({}))?;
    ann.save()?;
    storage.create("Article", json!({}))?.save()?;
    ann.set("name", "Ann")?;
    ann.save()?;
    ann.remove()?;
    let kinds: Vec<EventKind> = std::iter::from_fn(|| changes.try_next()).map(|event| event.kind).collect();
    assert_eq!(kinds, [EventKind::Added, EventKind::Updated, EventKind::Removed]);
    Ok(())
}

#[test]
fn what_is_removed_in_a_scope_does_not_keep_the_rest_from_being_saved() -> Outcome {
    let storage = both()?;
    let [gone, kept] = ["gone", "kept"].map(|oid| storage.create_with_oid("Account", oid, json!({})));
    let (gone, kept) = (gone?, kept?);
    storage.save_all(&[gone.clone(), kept.clone()])?;
    storage.scope(|_| {
        gone.set("name", "x")?;
        gone.remove()?;
        kept.set("name", "y")
    })?;
    assert!(!kept.is_changed() && !storage.has("Account", "gone")?);
    Ok(())
}

#[test]
fn two_objects_of_one_id_are_not_saved_together() -> Outcome {
    let storage = both()?;
    let one = storage.create_with_oid("Account", "1", json!({"name": "Ann"}))?;
    let other = storage.create_with_oid("Account", "1", json!({"name": "Bea"}))?;
    assert!(storage.save_all(&[one.clone(), other]).is_err() && !storage.has("Account", "1")?);
    one.save()?;
    Ok(())
}

#[test]
fn a_removed_duplicate_that_was_never_saved_leaves_the_stored_object_and_its_relations() -> Outcome {
    let storage = storage();
    storage.register(Class::new("Target"))?;
    storage.register(Class::new("Drops").many("to", "Target").on_remove("to", OnRemove::Drop))?;
    let target = storage.create_with_oid("Target", "1", json!({}))?;
    let drops = storage.create("Drops", json!({}))?;
    drops.relation("to")?.add(&target)?;
    storage.save_all(&[target, drops.clone()])?;
    storage.create_with_oid("Target", "1", json!({}))?.remove()?;
    assert!(drops.relation("to")?.len() == 1 && storage.has("Target", "1")?);
    Ok(())
}

#[test]
fn a_file_whose_data_could_not_be_read_or_was_removed_is_not_saved_without_it() -> Outcome {
    struct Broken;
    impl std::io::Read for Broken {
        fn read(&mut self, _: &mut [u8]) -> std::io::Result<usize> {
            Err(std::io::Error::other("no"))
        }
    }
    let backend: Arc<dyn Backend> = Arc::new(MemoryBackend::new());
    let storage = RawStorage::new(Arc::clone(&backend));
    storage.register(RawClass::new("File").field("key", Type::Password))?;
    let file = storage.create("File", corallite_objects::Source::Reader(Box::new(Broken)), json!({"key": "hush"}))?;
    assert!(file.save().is_err() && file.save().is_err() && backend.keys("")?.count() == 0);
    file.set_data(b"data".as_slice());
    assert!(file.save()? && file.export(1)["meta"].get("key").is_none());
    file.remove()?;
    file.set_meta(json!({"key": "other"}))?;
    assert!(file.save().is_err() && backend.keys("")?.count() == 0);
    Ok(())
}

#[test]
fn passwords_are_in_no_index_no_condition_and_no_conflict() -> Outcome {
    let class = Class::new("X").property("secret", Type::Password);
    assert!(class.clone().index("secret", Indexing::Value).check().is_err());
    let backend: Arc<dyn Backend> = Arc::new(MemoryBackend::new());
    let storages = [ObjectStorage::new(Arc::clone(&backend)), ObjectStorage::new(backend)];
    for storage in &storages {
        storage.register(class.clone())?;
        assert!(storage.find("X", "secret ~ 'a'").is_err() && storage.find("X", "")?.sort("secret").run().is_err());
    }
    storages[0].create_with_oid("X", "1", json!({"secret": "a"}))?.save()?;
    let error = storages[1].create_with_oid("X", "1", json!({"secret": "b"}))?.save().expect_err("a conflict");
    assert!(!format!("{error:?}").contains("argon2"));
    Ok(())
}

#[test]
fn a_refused_save_takes_no_true_entry_out_of_an_index() -> Outcome {
    let objects: Arc<dyn Backend> = Arc::new(MemoryBackend::new());
    let entries: Arc<dyn Backend> = Arc::new(MemoryBackend::new());
    let open = || -> Outcome<(ObjectStorage, Indexes)> {
        let storage = ObjectStorage::new(Arc::clone(&objects));
        storage.register(account())?;
        storage.register(article())?;
        let indexes = Indexes::attach(&storage, Arc::clone(&entries))?;
        Ok((storage, indexes))
    };
    let (here, by_here) = open()?;
    let (there, _) = open()?;
    here.create_with_oid("Article", "1", json!({"status": "draft"}))?.save()?;
    let stale = there.get("Article", "1")?.ok_or("gone")?;
    let newer = here.get("Article", "1")?.ok_or("gone")?;
    newer.set("status", "published")?;
    newer.save()?;
    stale.set("status", "published")?;
    assert!(matches!(stale.save(), Err(Error::Conflict { .. })));
    assert_eq!(by_here.of("Article")?.by("status")?.count("published")?, 1);
    Ok(())
}
