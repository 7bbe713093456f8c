//! What indexes find: long texts in order, several words, and values that belong to one object.

use std::sync::Arc;

use corallite_objects::{
    Backend, Class, Error, Index, Indexes, Indexing, Limits, MemoryBackend, ObjectStorage, Order, StoredObject, Type,
};
use proptest::prelude::*;
use serde_json::json;

type Outcome<T = ()> = Result<T, Box<dyn std::error::Error>>;

fn oids(found: impl Iterator<Item = Result<StoredObject, Error>>) -> Result<Vec<String>, Error> {
    found.map(|object| object.map(|object| object.oid().to_owned())).collect()
}

fn texts(texts: &[String]) -> Result<Indexes, Error> {
    let storage = ObjectStorage::new(Arc::new(MemoryBackend::new()));
    storage.register(Class::new("Text").property("text", Type::String).index("text", Indexing::Value))?;
    let indexes = Indexes::attach(&storage, Arc::clone(storage.backend()))?;
    for (i, text) in texts.iter().enumerate() {
        storage.create_with_oid("Text", &format!("{i:02}"), json!({ "text": text }))?.save()?;
    }
    Ok(indexes)
}

/// Texts that differ around where they are cut in the index.
fn long() -> impl Strategy<Value = String> {
    let end = "[ab\\x00\\x01\\x02é𝄞\u{10ffff}]{0,6}";
    (prop_oneof![Just(0_usize), 470..=482_usize, Just(600)], end).prop_map(|(length, end)| "x".repeat(length) + &end)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn texts_of_any_length_are_listed_in_order_and_within_their_limits(
        all in proptest::collection::vec(long(), 0..14),
        start in proptest::option::of(long()),
        end in proptest::option::of(long()),
        is_descending in any::<bool>(),
    ) {
        let by_text = texts(&all).and_then(|indexes| indexes.of("Text")?.by("text")).expect("is built");
        let mut wanted: Vec<(&String, String)> =
            all.iter().enumerate().map(|(i, text)| (text, format!("{i:02}"))).collect();
        wanted.sort();
        if is_descending {
            wanted.reverse();
        }
        let oids_of = |keep: &dyn Fn(&String) -> bool| -> Vec<String> {
            wanted.iter().filter(|(text, _)| keep(text)).map(|(_, oid)| oid.clone()).collect()
        };
        let order = if is_descending { Order::Descending } else { Order::Ascending };
        let limits = Limits { start: start.clone().map(Into::into), end: end.clone().map(Into::into), count: None, order };
        let listed = by_text.list(&limits).and_then(oids).expect("lists");
        let is_within = |text: &String| start.as_ref().is_none_or(|start| text >= start) && end.as_ref().is_none_or(|end| text <= end);
        prop_assert_eq!(listed, oids_of(&is_within));
        if let Some(start) = start.filter(|_| !is_descending) {
            let begins = by_text.prefix(&start).and_then(oids).expect("lists");
            prop_assert_eq!(begins, oids_of(&|text| text.starts_with(&start)));
        }
    }
}

#[test]
fn conditions_on_long_texts_use_the_index_and_find_what_is_there() -> Outcome {
    let long = "x".repeat(600);
    let all: Vec<String> = ["a", "b", "c"].iter().map(|end| format!("{long}{end}")).collect();
    let storage = ObjectStorage::new(Arc::new(MemoryBackend::new()));
    storage.register(Class::new("Text").property("text", Type::String).index("text", Indexing::Value))?;
    Indexes::attach(&storage, Arc::clone(storage.backend()))?;
    for (i, text) in all.iter().enumerate() {
        storage.create_with_oid("Text", &i.to_string(), json!({ "text": text }))?.save()?;
    }
    let query = storage.find("Text", &format!("text > '{}'", all[0]))?;
    assert!(!query.explain()?.is_scan);
    assert_eq!(query.run()?.iter().map(StoredObject::oid).collect::<Vec<_>>(), ["1", "2"]);
    Ok(())
}

#[test]
fn a_look_up_of_several_words_finds_what_has_all_of_them() -> Outcome {
    for is_shared in [true, false] {
        let storage = ObjectStorage::new(Arc::new(MemoryBackend::new()));
        let paper = Class::new("Paper").property("title", Type::String).index("title", Indexing::KEYWORDS);
        storage.register(paper)?;
        let backend = if is_shared { Arc::clone(storage.backend()) } else { Arc::new(MemoryBackend::new()) };
        let indexes = Indexes::attach(&storage, backend)?;
        let titles = ["Learning Déjà-vu", "Deep learning", "Deep sea, and learning to dive", "Deep AI learning"];
        for (i, title) in titles.iter().enumerate() {
            storage.create_with_oid("Paper", &i.to_string(), json!({ "title": title }))?.save()?;
        }
        let by_title = indexes.of("Paper")?.by("title")?;
        for (words, found) in [
            ("deep learning", vec!["1", "2", "3"]),
            ("LEARNING, deep!", vec!["1", "2", "3"]),
            ("learning sea deep", vec!["2"]),
            ("learning", vec!["0", "1", "2", "3"]),
            ("déjà-vu", vec!["0"]),
            // Words that are too short for the index say nothing.
            ("deep AI", vec!["1", "2", "3"]),
            ("deep space", vec![]),
            ("AI", vec![]),
            ("", vec![]),
        ] {
            assert_eq!(oids(by_title.get(words)?)?, found, "{words}");
            assert_eq!(by_title.count(words)?, found.len() as u64, "{words}");
            assert_eq!(by_title.has(words)?, !found.is_empty(), "{words}");
        }
    }
    Ok(())
}

fn account(email: Index) -> Class {
    Class::new("Account").property("email", Type::Email).with_index("email", email)
}

#[test]
fn a_unique_index_over_duplicates_warns_and_the_first_keeps_the_value() -> Outcome {
    for is_shared in [true, false] {
        let objects: Arc<dyn Backend> = Arc::new(MemoryBackend::new());
        let entries: Arc<dyn Backend> = if is_shared { Arc::clone(&objects) } else { Arc::new(MemoryBackend::new()) };
        let plain = ObjectStorage::new(Arc::clone(&objects));
        plain.register(account(Index::of_property("email", Indexing::Normalize)))?;
        for (oid, email) in [("a", "x@example.org"), ("b", "X@example.org"), ("c", "c@example.org")] {
            plain.create_with_oid("Account", oid, json!({ "email": email }))?.save()?;
        }
        let storage = ObjectStorage::new(Arc::clone(&objects));
        storage.register(account(Index::of_property("email", Indexing::Normalize).unique()))?;
        let indexes = Indexes::attach(&storage, entries)?;
        let warned = |warnings: &[String]| {
            let names = |warning: &&String| warning.contains("Account.a") && warning.contains("Account.b");
            warnings.iter().filter(names).filter(|warning| warning.contains("x@example.org")).count()
        };
        assert_eq!(warned(&indexes.warnings()), 1, "{:?}", indexes.warnings());
        // The second can be saved and removed, and the first still has the value.
        let get = |oid: &str| -> Outcome<StoredObject> { Ok(storage.get("Account", oid)?.ok_or("gone")?) };
        get("b")?.set("email", "b@example.org")?;
        let second = get("b")?;
        second.set("email", "b@example.org")?;
        second.save()?;
        let third = get("c")?;
        third.set("email", "x@example.org")?;
        match third.save() {
            Err(Error::NotUnique { other, .. }) => assert_eq!(other, "Account.a"),
            other => return Err(format!("{other:?}").into()),
        }
        // Once the first gives it up, another one can have it, in one batch too.
        let first = get("a")?;
        first.set("email", "a@example.org")?;
        storage.save_all(&[first, third])?;
        assert_eq!(oids(indexes.of("Account")?.by("email")?.get("x@example.org")?)?, ["c"]);
    }
    Ok(())
}

#[test]
fn a_value_that_was_of_two_can_be_taken_over_from_the_one_that_did_not_own_it() -> Outcome {
    let objects: Arc<dyn Backend> = Arc::new(MemoryBackend::new());
    let plain = ObjectStorage::new(Arc::clone(&objects));
    plain.register(account(Index::of_property("email", Indexing::Normalize)))?;
    for oid in ["a", "b"] {
        plain.create_with_oid("Account", oid, json!({"email": "x@example.org"}))?.save()?;
    }
    let storage = ObjectStorage::new(Arc::clone(&objects));
    storage.register(account(Index::of_property("email", Indexing::Normalize).unique()))?;
    Indexes::attach(&storage, objects)?;
    storage.get("Account", "a")?.ok_or("gone")?.remove()?;
    let second = storage.get("Account", "b")?.ok_or("gone")?;
    second.set("email", "b@example.org")?;
    let new = storage.create_with_oid("Account", "c", json!({"email": "x@example.org"}))?;
    storage.save_all(&[second, new])?;
    Ok(())
}
