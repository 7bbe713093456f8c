//! Documents that come from elsewhere: imports of exports, and files that people edited.

use std::sync::Arc;

use corallite_objects::{
    Backend, Class, DirectoryBackend, Indexes, Indexing, MemoryBackend, ObjectStorage, RawClass, RawStorage, Type,
};
use serde_json::{Value, json};

type Outcome<T = ()> = Result<T, Box<dyn std::error::Error>>;

fn storage_on(backend: Arc<dyn Backend>) -> Outcome<ObjectStorage> {
    let storage = ObjectStorage::new(backend);
    storage.register(Class::new("Account").in_collection("people").property("name", Type::Line))?;
    storage.register(
        Class::new("Article")
            .property("title", Type::String)
            .property("votes", Type::Integer)
            .one("author", "people")
            .many("related", "Article")
            .index("title", Indexing::Normalize),
    )?;
    Ok(storage)
}

fn storage() -> Outcome<ObjectStorage> {
    storage_on(Arc::new(MemoryBackend::new()))
}

/// Two articles that lead to each other, and to one author.
fn exported(depth: usize) -> Outcome<Value> {
    let storage = storage()?;
    let ann = storage.create_with_oid("Account", "ann", json!({"name": "Ann"}))?;
    let one = storage.create_with_oid("Article", "1", json!({"title": "One", "votes": 3}))?;
    let two = storage.create_with_oid("Article", "2", json!({"title": "Two"}))?;
    one.relation("author")?.add(&ann)?;
    one.relation("related")?.set([&two, &one])?;
    two.relation("author")?.add(&ann)?;
    two.relation("related")?.add(&one)?;
    storage.save_all(&[ann, one.clone(), two])?;
    Ok(one.export(depth)?)
}

#[test]
fn an_import_of_a_deep_export_takes_the_references_of_its_targets() -> Outcome {
    let flat = exported(1)?;
    for depth in [1, 2, 3, 9] {
        let elsewhere = storage()?;
        let mut deep = exported(depth)?;
        // Exports are made at different times.
        deep["updates"] = flat["updates"].clone();
        let copy = elsewhere.import("Article", deep)?;
        copy.save()?;
        assert_eq!(copy.export(1)?, flat, "depth {depth}");
        assert_eq!((elsewhere.count("Article")?, elsewhere.count("Account")?), (1, 0), "targets are not imported");
    }
    let wrong = json!({"author": {"oid": "2", "type": "Article", "title": "Two"}});
    assert!(storage()?.import("Article", wrong).is_err());
    for author in [json!({"oid": 3, "type": "Account", "name": "Ann"}), json!({"type": "Account", "name": "Ann"})] {
        assert!(storage()?.import("Article", json!({ "author": author })).is_err(), "no id");
    }
    Ok(())
}

#[test]
fn the_update_times_of_an_import_are_kept_also_where_nothing_else_is_new() -> Outcome {
    let storage = storage()?;
    let export = exported(1)?;
    storage.import("Article", export.clone())?.save()?;
    let same = storage.import("Article", export.clone())?;
    assert!(!same.is_changed(), "nothing is new");
    let mut touched = export.clone();
    touched["updates"]["title"] = json!(1_700_000_000.5);
    storage.scope(|storage| storage.import("Article", touched.clone()))?;
    assert_eq!((same.is_changed(), same.revision()), (false, 2), "the scope saved it");
    drop(same);
    let found = storage.get("Article", "1")?.ok_or("gone")?;
    assert_eq!(found.export(1)?, touched, "one time is another, and no other");
    // What an import changes and has no time for was changed now.
    let changed = storage.import("Article", json!({"oid": "1", "votes": 4, "updates": {"oid": 5.0}}))?;
    assert!(changed.get_update_time("votes") > export["updates"]["votes"].as_f64());
    assert_eq!((changed.get_update_time("title"), changed.get_update_time("oid")), (Some(1_700_000_000.5), Some(5.0)));
    Ok(())
}

#[test]
fn no_collection_has_the_name_that_weights_have_in_references() -> Outcome {
    for class in [Class::new("weight"), Class::new("Weight").in_collection("weight")] {
        assert!(class.check().is_err() && storage()?.register(class).is_err());
    }
    assert!(RawStorage::new(Arc::new(MemoryBackend::new())).register(RawClass::new("weight")).is_err());
    assert!(Class::new("weights").check().is_ok());
    Ok(())
}

#[test]
fn documents_edited_by_hand_load_and_are_saved_again() -> Outcome {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("Article").join("1.json");
    let edits: [&str; 6] = [
        r#"{"title": "One", "type": "Article", "oid": "1"}"#,
        "{\r\n\t\"type\" : \"Article\",\r\n\t\"oid\": \"1\", \"title\": \"One\", \"updates\": {}}\r\n\r\n",
        r#"{"oid":"1","title":"One","type":"Article"}"#,
        "{\n  \"type\": \"Article\",\n  \"title\": \"One\",\n  \"oid\": \"1\"\n}\n",
        r#"{"votes":3,"title":"\u004fne","type":"Article","oid":"1","@revision":7,"author":null}"#,
        "  {\"type\": \"Article\", \"oid\": \"1\", \"title\": \"One\", \"related\": [{\"type\":\"Article\",\"oid\":\"2\"}]}",
    ];
    for with_indexes in [false, true] {
        for edit in edits {
            let open = || -> Outcome<ObjectStorage> {
                let storage = storage_on(Arc::new(DirectoryBackend::open(folder.path())?))?;
                if with_indexes {
                    Indexes::attach(&storage, Arc::clone(storage.backend()))?;
                }
                Ok(storage)
            };
            if !path.exists() {
                let storage = open()?;
                storage.create_with_oid("Article", "1", json!({"title": "One"}))?.save()?;
            }
            std::fs::write(&path, edit)?;
            let storage = open()?;
            let article = storage.all("Article")?.next().ok_or("none")??;
            assert_eq!(article.get("title"), Some(json!("One")), "{edit}");
            assert!(!article.is_changed() && !article.save()?);
            assert_eq!(std::fs::read_to_string(&path)?, edit, "it is left as it is");
            article.set("votes", 5)?;
            assert!(article.save()?, "{edit}");
            drop(article);
            let article = storage.get("Article", "1")?.ok_or("gone")?;
            assert_eq!((article.get("votes"), article.revision() > 0), (Some(json!(5)), true));
            article.remove()?;
            assert_eq!(storage.count("Article")?, 0);
        }
    }
    Ok(())
}
