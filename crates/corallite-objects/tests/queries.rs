//! Queries answer the same with indexes and without.

use std::sync::Arc;

use corallite_objects::{
    BackendExt, Class, Error, Indexes, Indexing, MemoryBackend, ObjectStorage, Query, StoredObject, Type,
};
use proptest::prelude::*;
use serde_json::{Value, json};

type Outcome<T = ()> = Result<T, Box<dyn std::error::Error>>;

fn run() -> Class {
    Class::new("Run")
        .property("name", Type::String)
        .property("loss", Type::Float)
        .property("steps", Type::Integer)
        .property("tags", Type::list(Type::Line))
        .property("done", Type::Bool)
        .property("created", Type::DateTime)
        .property("config", Type::Any)
        .one("parent", "Run")
}

fn open(with_indexes: bool) -> Outcome<ObjectStorage> {
    let storage = ObjectStorage::new(Arc::new(MemoryBackend::new()));
    let class = run();
    storage.register(match with_indexes {
        true => class
            .index("name", Indexing::Normalize)
            .index("loss", Indexing::Value)
            .index("steps", Indexing::Value)
            .index("tags", Indexing::Normalize)
            .index("created", Indexing::Value)
            .index("config", Indexing::Value),
        false => class,
    })?;
    if with_indexes {
        Indexes::attach(&storage, Arc::clone(storage.backend()))?;
    }
    Ok(storage)
}

fn fill(storage: &ObjectStorage) -> Outcome {
    let runs = [
        json!({"name": "Base", "loss": 2.5, "steps": 10, "tags": ["old"], "created": "2026-01-01T00:00:00Z"}),
        json!({"name": "base", "loss": 1.5, "steps": 20, "tags": ["old", "best"], "done": true, "created": "2026-01-01T00:30:00+01:00"}),
        json!({"name": "tuned", "loss": -0.5, "steps": 30, "config": {"lr": 0.1, "layers": [1, 2]}, "created": "2026-02-01T00:00:00"}),
        json!({"name": "wörld", "steps": 9007199254740993_i64, "tags": ["best"], "parent": {"oid": "0", "type": "Run"}}),
        json!({}),
    ];
    for (i, run) in runs.into_iter().enumerate() {
        storage.create_with_oid("Run", &i.to_string(), run)?.save()?;
    }
    Ok(())
}

fn oids(storage: &ObjectStorage, condition: &str, sort: &str) -> Result<String, Error> {
    let mut query = storage.find("Run", condition)?;
    for by in sort.split_whitespace() {
        query = query.sort(by);
    }
    Ok(query.run()?.iter().map(|run| run.oid().to_owned()).collect())
}

#[test]
fn conditions_mean_what_they_say() -> Outcome {
    for with_indexes in [false, true] {
        let storage = open(with_indexes)?;
        fill(&storage)?;
        for (condition, expected) in [
            ("", "01234"),
            ("name = 'base'", "1"),
            ("name = \"Base\" or name='tuned'", "02"),
            ("tags = 'best' and loss < 2", "1"),
            ("tags = 'best' AND NOT loss < 2", "3"),
            ("loss >= -0.5 and loss <= 1.5", "12"),
            ("loss > 1.5", "0"),
            ("loss != 2.5", "1234"),
            ("steps = 9007199254740993", "3"),
            ("steps = 9007199254740992", ""),
            ("steps in (10, 30, 5)", "02"),
            ("loss is null", "34"),
            ("loss is not null and tags is null", "2"),
            ("name = null", "4"),
            ("done", "1"),
            ("not done", "0234"),
            ("name ~ 'AS'", "01"),
            ("name ~ 'WÖR'", "3"),
            ("config.lr = 0.1", "2"),
            ("config.layers = 2", "2"),
            ("config.layers > 2", ""),
            ("parent = '0'", "3"),
            ("oid in ('1', '4')", "14"),
            ("updated > 0", "01234"),
            ("(steps < 15 or steps > 25) and (name = 'tuned' or tags = 'old')", "02"),
            // The second is half an hour before the first.
            ("created < '2026-01-01T00:00:00Z'", "1"),
            ("created = '2026-01-01T01:00:00+01:00'", "0"),
            ("loss < 'x'", ""),
        ] {
            assert_eq!(oids(&storage, condition, "oid")?, expected, "{condition}, indexes: {with_indexes}");
        }
        assert_eq!(oids(&storage, "", "-loss")?, "01234");
        assert_eq!(oids(&storage, "", "loss -oid")?, "21043");
        assert_eq!(oids(&storage, "created is not null", "created")?, "102");
        assert_eq!(storage.find("Run", "")?.sort("-steps").limit(2).run()?.len(), 2);
        assert_eq!(storage.find("Run", "tags = 'best'")?.count()?, 2);
        assert!(storage.find("Run", "")?.limit(0).run()?.is_empty());
        assert!(storage.find("Run", "")?.sort("typo").run().is_err());
    }
    Ok(())
}

#[test]
fn what_is_not_understood_is_shown_with_its_place() -> Outcome {
    let storage = open(false)?;
    for (query, place) in [
        ("loss <", 6),
        ("loss < 2 tags", 9),
        ("loss < two", 7),
        ("(loss < 2", 9),
        ("ö < 2 and", 9),
        ("name = 'x", 7),
        ("loss < 1.2.3", 7),
        ("name in 3", 8),
        ("name in (3", 10),
        ("name is 3", 8),
        ("§", 0),
        ("and", 0),
        ("= 3", 0),
    ] {
        match storage.find("Run", query) {
            Err(Error::Query { at, .. }) => assert_eq!(at, place, "{query}"),
            // Words are names before anything else.
            Err(Error::Unknown { .. }) if query == "and" || query.starts_with('ö') => {}
            other => return Err(format!("{query}: {other:?}").into()),
        }
    }
    assert!(storage.find("Run", &format!("{}loss{}", "(".repeat(9999), ")".repeat(9999))).is_err());
    assert!(matches!(storage.find("Run", "los < 2"), Err(Error::Unknown { .. })));
    Ok(())
}

#[test]
fn plans_use_the_index_that_says_most() -> Outcome {
    let storage = open(true)?;
    for (query, plan) in [
        ("loss < 2 and tags = 'best'", "index Run.by.tags = \"best\"; then the condition"),
        ("loss < 2 and done", "index Run.by.loss to 2; then the condition"),
        ("name in ('a', 'b')", "index Run.by.name = \"a\" and index Run.by.name = \"b\"; then the condition"),
        ("loss < 2 or done", "all objects; then the condition"),
        ("not loss < 2", "all objects; then the condition"),
        ("created > '2026-01-01'", "all objects; then the condition"),
        ("name > 'a'", "all objects; then the condition"),
        ("", "all objects"),
    ] {
        assert_eq!(storage.find("Run", query)?.explain()?.to_string(), plan, "{query}");
    }
    Ok(())
}

fn events() -> Class {
    Class::new("Event")
        .property("within", Type::range("2026-01-01T00:00:00Z", "2026-12-31T23:00:00-01:00", Type::DateTime))
        .property("all", Type::list(Type::DateTime))
        .property("either", Type::one_of([Type::DateTime, Type::Line]))
        .property("deep", Type::range("00:30", "23:00", Type::one_of([Type::Time])))
        .property("map", Type::map([("when", Type::list(Type::DateTime))]))
        .property("day", Type::Date)
}

#[test]
fn times_within_other_types_are_points_in_time() -> Outcome {
    for with_indexes in [false, true] {
        let storage = ObjectStorage::new(Arc::new(MemoryBackend::new()));
        let names = ["within", "all", "either", "deep", "day"];
        storage.register(match with_indexes {
            true => names.iter().fold(events(), |class, name| class.index(*name, Indexing::Value)),
            false => events(),
        })?;
        if with_indexes {
            Indexes::attach(&storage, Arc::clone(storage.backend()))?;
        }
        // In the order of the texts, but not of the times: the first is an hour after the second.
        let times = ["2026-03-01T10:00:00-02:00", "2026-03-01T11:00:00Z", "2026-03-01T12:30:00+01:00"];
        let clocks = ["9:00", "09:00", "10:30"];
        for (i, time) in times.iter().enumerate() {
            let map = json!({ "when": [time] });
            let (deep, day) = (if i == 0 { "11:00:00" } else { clocks[i] }, format!("2026-03-0{}", i + 1));
            let event = json!({"within": time, "all": [time], "either": time, "deep": deep, "map": map, "day": day});
            storage.create_with_oid("Event", &i.to_string(), event)?.save()?;
        }
        storage.create_with_oid("Event", "3", json!({"either": "soon"}))?.save()?;
        let oids = |condition: &str, sort: &str| -> Result<String, Error> {
            Ok(storage.find("Event", condition)?.sort(sort).run()?.iter().map(|event| event.oid().to_owned()).collect())
        };
        for name in ["within", "all", "either", "map.when"] {
            assert_eq!(oids(&format!("{name} > '2026-03-01T11:15:00Z'"), "oid")?, "02", "{name}, {with_indexes}");
            assert_eq!(oids(&format!("{name} = '2026-03-01T12:00:00+01:00'"), "oid")?, "1", "{name}, {with_indexes}");
        }
        for (condition, expected) in [
            ("either = 'soon'", "3"),
            ("either < 'z'", "3"),
            ("either > 'a' or either < 'a'", "3"),
            ("deep >= '10:30:00'", "02"),
            ("day > '2026-03-01'", "12"),
            ("day <= '2026-03-02T00:00:00Z'", "01"),
            ("day < '2026-03-02T00:00:01Z'", "01"),
        ] {
            assert_eq!(oids(condition, "oid")?, expected, "{condition}, {with_indexes}");
        }
        assert_eq!(storage.find("Event", "day > '2026-03-01'")?.explain()?.is_scan, !with_indexes);
        assert_eq!(oids("", "within")?, "1203");
        assert_eq!(oids("", "either")?, "1203", "times come before other texts");
        assert_eq!(oids("", "-either")?, "3021");
    }
    let refused = |of: Type, value: Value| of.accept(value).is_err();
    let year = |of: Type| Type::range("2026-01-01T00:00:00Z", "2026-12-31T23:59:59Z", of);
    for of in [Type::DateTime, Type::one_of([Type::DateTime])] {
        // Half an hour before the year begins, and half an hour after.
        assert!(refused(year(of.clone()), json!("2026-01-01T00:30:00+01:00")));
        assert!(!refused(year(of), json!("2025-12-31T23:30:00-01:00")));
    }
    let list = Type::Range(
        json!(["2026-01-01T00:00:00Z"]),
        json!(["2027-01-01T00:00:00Z"]),
        Type::list(Type::DateTime).into(),
    );
    assert!(refused(list.clone(), json!(["2026-01-01T00:30:00+01:00"])));
    assert!(!refused(list, json!(["2025-12-31T23:30:00-01:00"])));
    Ok(())
}

#[test]
fn a_damaged_object_is_an_error_in_its_place_and_the_others_are_found() -> Outcome {
    for with_indexes in [false, true] {
        let storage = open(with_indexes)?;
        fill(&storage)?;
        storage.backend().update("Run.1", b"{\"name\": ")?;
        let found = |query: &Query| -> Result<Vec<String>, Error> {
            let oid = |run: Result<StoredObject, Error>| run.map_or("damaged".to_owned(), |run| run.oid().to_owned());
            Ok(query.each()?.map(oid).collect())
        };
        let query = storage.find("Run", "tags = 'old' or tags = 'best'")?;
        assert_eq!(found(&query)?, ["0", "damaged", "3"]);
        assert_eq!(found(&query.clone().sort("-steps"))?, ["3", "0", "damaged"]);
        assert_eq!(found(&query.clone().limit(2))?, ["0", "damaged", "3"]);
        assert_eq!(found(&query.clone().limit(1))?, ["0"], "the damaged one was not looked at");
        for strict in [query.clone(), query.clone().sort("steps"), query.clone().sort("steps").limit(1)] {
            assert!(matches!(strict.run(), Err(Error::Malformed { .. })));
            assert!(matches!(strict.count(), Err(Error::Malformed { .. })));
        }
        assert_eq!(query.limit(1).run()?.len(), 1);
    }
    Ok(())
}

fn condition() -> impl Strategy<Value = String> {
    let value =
        prop_oneof![Just("1"), Just("2.5"), Just("'a'"), Just("'B'"), Just("'a b'"), Just("null"), Just("true")];
    let name = prop_oneof![Just("name"), Just("loss"), Just("steps"), Just("tags")];
    let sign = prop_oneof![Just("="), Just("!="), Just("<"), Just("<="), Just(">"), Just(">="), Just("~")];
    let leaf = prop_oneof![
        (name.clone(), sign, value.clone()).prop_map(|(name, sign, value)| format!("{name} {sign} {value}")),
        (name.clone(), value.clone(), value).prop_map(|(name, one, two)| format!("{name} in ({one}, {two})")),
        name.prop_map(|name| format!("{name} is null")),
    ];
    leaf.prop_recursive(3, 8, 2, |inner| {
        prop_oneof![
            (inner.clone(), inner.clone()).prop_map(|(one, two)| format!("({one} and {two})")),
            (inner.clone(), inner.clone()).prop_map(|(one, two)| format!("({one} or {two})")),
            inner.prop_map(|one| format!("not ({one})")),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn indexes_change_no_answer(
        runs in proptest::collection::vec(
            (proptest::option::of("[aAbB ]{0,3}"), proptest::option::of(-1i32..4), proptest::option::of(0i64..4), proptest::collection::vec("[aAb ]{1,2}", 0..3)),
            0..12,
        ),
        conditions in proptest::collection::vec(condition(), 1..8),
    ) {
        let storages = [open(false).expect("opens"), open(true).expect("opens")];
        for storage in &storages {
            for (i, (name, loss, steps, tags)) in runs.iter().enumerate() {
                let value: Value = json!({"name": name, "loss": loss.map(|loss| f64::from(loss) / 2.0), "steps": steps, "tags": tags});
                storage.create_with_oid("Run", &format!("{i:02}"), value).expect("is fine").save().expect("saves");
            }
        }
        for condition in &conditions {
            let [one, other] = [0, 1].map(|i| oids(&storages[i], condition, "oid").expect("answers"));
            prop_assert_eq!(one, other, "{}", condition);
        }
    }
}
