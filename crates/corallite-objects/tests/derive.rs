//! What structs promise as forms of classes.

#![cfg(feature = "derive")]
#![allow(clippy::expect_used)] // the workspace lints exempt test functions, but not their helpers

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::sync::Arc;

use corallite_objects::types::verify_password;
use corallite_objects::{
    Class, Error, Indexes, Indexing, Limits, Many, MemoryBackend, Object, ObjectStorage, OnRemove, One, Order,
    PropertyType, RawStorage, Related, Stored, StoredObject, StoredRaw, Type, Weight,
};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

type Outcome<T = ()> = Result<T, Box<dyn std::error::Error>>;

fn storage() -> ObjectStorage {
    ObjectStorage::new(Arc::new(MemoryBackend::new()))
}

#[derive(PropertyType, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq)]
#[serde(rename_all = "kebab-case")]
enum Status {
    #[default]
    Draft,
    InReview,
    #[serde(rename = "out")]
    Published,
    #[serde(skip)]
    #[allow(dead_code)]
    Unknown,
}

#[derive(PropertyType, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
struct Score(i32);

/// A type of which nothing is known but that serde can store it.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq)]
enum Shape {
    Point,
    Circle { radius: f64 },
    Box(i64, i64),
}

#[derive(Serialize, Deserialize, Clone, Debug, PartialEq)]
struct Settings {
    rate: f64,
    shape: Shape,
    inner: Option<Box<Settings>>,
}

type Alias = Option<Vec<String>>;

#[derive(StoredObject, Clone, Debug, PartialEq)]
struct Everything {
    flag: bool,
    tiny: u8,
    small: i16,
    whole: i64,
    positive: u64,
    float: f64,
    single: f32,
    text: String,
    letter: char,
    list: Vec<i64>,
    gaps: Vec<Option<i64>>,
    set: BTreeSet<String>,
    array: [u8; 3],
    tuple: (i64, String),
    nothing: Option<i64>,
    something: Option<Box<str>>,
    aliased: Alias,
    status: Status,
    statuses: Vec<Status>,
    score: Score,
    shape: Shape,
    settings: Settings,
    map: BTreeMap<String, i64>,
    json: Value,
    date: jiff::civil::Date,
    time: jiff::civil::Time,
    date_time: jiff::civil::DateTime,
    instant: jiff::Timestamp,
    r#match: bool,
}

fn everything() -> Outcome<Everything> {
    let settings = Settings { rate: 0.1, shape: Shape::Circle { radius: 2.0 }, inner: None };
    Ok(Everything {
        flag: true,
        tiny: u8::MAX,
        small: i16::MIN,
        whole: i64::MIN,
        positive: u64::MAX,
        float: 0.1 + 0.2,
        single: 0.1,
        text: "two\nlines".into(),
        letter: 'ß',
        list: vec![3, 1, 2],
        gaps: vec![Some(1), None],
        set: ["b", "a"].map(String::from).into(),
        array: [1, 2, 3],
        tuple: (-1, "one".into()),
        nothing: None,
        something: Some("some".into()),
        aliased: Some(vec!["x".into()]),
        status: Status::Published,
        statuses: vec![Status::InReview, Status::Draft],
        score: Score(7),
        shape: Shape::Box(1, 2),
        settings: Settings { inner: Some(Box::new(settings.clone())), ..settings },
        map: [("one".to_owned(), 1)].into(),
        json: json!({"any": [1, null]}),
        date: "2025-01-15".parse()?,
        time: "12:30:00.25".parse()?,
        date_time: "2025-01-15T12:30:00".parse()?,
        instant: "2025-01-15T12:30:00Z".parse()?,
        r#match: true,
    })
}

#[test]
fn a_struct_comes_back_as_it_was_stored() -> Outcome {
    let storage = storage();
    let all = storage.register_type::<Everything>()?;
    let value = everything()?;
    let oid = all.insert(&value)?.oid().to_owned();
    let found = all.get(&oid)?.ok_or("gone")?;
    assert_eq!(found.read()?, value);
    assert_eq!(
        (found.get("status"), found.get("match"), found.get("nothing")),
        (Some(json!("out")), Some(json!(true)), None)
    );
    Ok(())
}

#[test]
fn the_type_of_a_property_follows_from_that_of_its_field() {
    let class = Everything::class();
    let of = |name: &str| class.properties()[name].of.clone();
    for (name, expected) in [
        ("flag", Type::Bool),
        ("tiny", Type::range(0, 255, Type::Positive)),
        ("small", Type::range(-32768, 32767, Type::Integer)),
        ("whole", Type::Integer),
        ("positive", Type::Positive),
        ("single", Type::Float),
        ("letter", Type::String),
        ("list", Type::list(Type::Integer)),
        ("gaps", Type::list(Type::one_of([Type::Integer, Type::Enum(vec![Value::Null])]))),
        ("tuple", Type::tuple([Type::Integer, Type::String])),
        ("nothing", Type::Integer),
        ("something", Type::String),
        ("aliased", Type::list(Type::String)),
        ("status", Type::enumeration(["draft", "in-review", "out"])),
        ("score", Type::range(i32::MIN, i32::MAX, Type::Integer)),
        ("shape", Type::Any),
        ("map", Type::Any),
        ("date", Type::Date),
        ("time", Type::Time),
        ("instant", Type::DateTime),
    ] {
        assert_eq!(of(name), expected, "{name}");
    }
    assert_eq!((class.name(), class.collection(), class.version()), ("Everything", "Everything", 0));
}

#[test]
fn a_value_that_could_not_be_read_again_is_not_stored() -> Outcome {
    let all = storage().register_type::<Everything>()?;
    let message = all.insert(&Everything { float: f64::NAN, ..everything()? }).expect_err("no number").to_string();
    assert!(
        message.starts_with("Everything.float: it is null, which is not what its field could be read from"),
        "{message}"
    );
    assert!(matches!(all.insert(&Everything { status: Status::Unknown, ..everything()? }), Err(Error::Type { .. })));
    assert_eq!(all.count()?, 0);
    let object = all.insert(&everything()?)?;
    assert!(object.edit(|value| value.float = f64::INFINITY).is_err() && !object.is_changed());
    Ok(())
}

#[derive(StoredObject, Clone, Debug, Default, PartialEq)]
#[object(collection = "accounts")]
struct Account {
    #[object(type = Email, index = Normalize, unique)]
    email: Option<String>,
    #[object(type = Type::Password)]
    password: Option<String>,
    #[object(type = Range(0.into(), 5.into(), Box::new(Integer)), default = 3)]
    level: i64,
    #[object(rename = "type_of_account", default)]
    r#type: String,
    #[object(skip)]
    session: Vec<u8>,
}

#[derive(StoredRaw, Clone, Debug, Default, PartialEq)]
#[object(collection = "files")]
struct File {
    #[object(type = Line)]
    name: Option<String>,
    width: Option<u32>,
}

#[derive(StoredObject, Clone, Debug, Default, PartialEq)]
#[object(collection = "articles")]
#[object(index_by(keywords = keywords_of, query = Keywords(3), version = 1))]
#[object(index_by(slug = slug_of, unique))]
struct Article {
    title: String,
    #[object(index = Normalize)]
    status: Status,
    #[object(index)]
    votes: i64,
    #[object(index, on_remove = Refuse)]
    author: One<Account>,
    #[object(on_remove = Drop)]
    attachments: Many<File>,
    #[object(on_remove = OnRemove::Drop)]
    related: Many<Article>,
    weights: Many<Weight>,
}

fn keywords_of(article: &Article) -> Vec<String> {
    corallite_objects::index::keywords([&article.title], 3)
}

fn slug_of(article: &Article) -> Option<String> {
    (!article.title.is_empty()).then(|| article.title.to_lowercase().replace(' ', "-"))
}

/// Everything registered and indexed.
fn data() -> Outcome<(ObjectStorage, RawStorage, Indexes)> {
    let (storage, raw) = (storage(), RawStorage::new(Arc::new(MemoryBackend::new())));
    raw.register_type::<File>()?;
    storage.connect(&raw)?;
    storage.register_type::<Account>()?;
    storage.register_type::<Article>()?;
    let indexes = Indexes::attach(&storage, Arc::clone(storage.backend()))?;
    Ok((storage, raw, indexes))
}

fn titles<T: Debug>(found: impl IntoIterator<Item = Result<Object<Article>, T>>) -> Vec<String> {
    found.into_iter().map(|object| object.expect("is there").read().expect("fits").title).collect()
}

#[test]
fn attributes_say_type_default_name_and_what_is_left_out() -> Outcome {
    let (storage, ..) = data()?;
    let accounts = storage.of::<Account>()?;
    let class = Account::class();
    assert_eq!((class.name(), class.collection(), Account::COLLECTION), ("Account", "accounts", "accounts"));
    let ann = Account {
        email: Some("ann@example.org".into()),
        r#type: "full".into(),
        session: vec![1],
        ..Account::default()
    };
    let object = accounts.insert(&ann)?;
    assert_eq!(object.get("type_of_account"), Some(json!("full")));
    assert_eq!(object.read()?, Account { session: Vec::new(), ..ann });
    assert_eq!(accounts.import(json!({}))?.read()?.level, 3, "the default of the class");
    assert!(accounts.insert(&Account { email: Some("ann".into()), ..Account::default() }).is_err());
    let message = object.edit(|account| account.level = 6).expect_err("too much").to_string();
    assert!(message.contains("Account.level: it is 6"), "{message}");
    Ok(())
}

#[test]
fn editing_changes_what_got_another_value_and_hashes_a_password_once() -> Outcome {
    let (storage, ..) = data()?;
    let ann = storage.insert(&Account { password: Some("hush".into()), ..Account::default() })?;
    let hash = ann.read()?.password.ok_or("none")?;
    assert!(verify_password(&hash, "hush"));
    let time = ann.get_update_time("password");
    assert_eq!(ann.edit(|account| std::mem::replace(&mut account.level, 2))?, 0);
    assert!(ann.save()? && ann.read()?.password.as_deref() == Some(&hash));
    assert_eq!(ann.get_update_time("password"), time);
    ann.edit(|account| account.level = 2)?;
    assert!(!ann.save()?, "nothing was changed");
    let whole = ann.read()?;
    ann.write(&Account { level: 1, ..whole })?;
    assert!(ann.save()? && ann.read()?.password.as_deref() == Some(&hash));
    ann.edit(|account| account.password = Some("new".into()))?;
    assert!(verify_password(&ann.read()?.password.ok_or("none")?, "new"));
    Ok(())
}

#[test]
fn edits_of_several_threads_all_count() -> Outcome {
    let (storage, ..) = data()?;
    let article = storage.insert(&Article::default())?;
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| (0..100).for_each(|_| article.edit(|article| article.votes += 1).expect("is fine")));
        }
    });
    assert_eq!(article.read()?.votes, 400);
    Ok(())
}

#[test]
fn relations_are_references_that_load_when_asked() -> Outcome {
    let (storage, raw, _) = data()?;
    let ann = storage.insert(&Account::default())?;
    let files = raw.of::<File>()?;
    let file = files.insert(b"abc".as_slice(), &File { name: Some("a.txt".into()), width: None })?;
    let first = storage.insert(&Article { title: "One".into(), author: One::to(&ann), ..Article::default() })?;
    let mut two = Article { title: "Two".into(), attachments: Many::to([&file, &file]), ..Article::default() };
    assert!(two.related.add(&first) && !two.related.add(&first) && two.related.has(&first));
    two.weights.add_oid("0123abcd");
    let second = storage.insert(&two)?;
    assert_eq!(second.read()?, two);
    assert_eq!(second.get("related"), None, "it is a relation");
    assert!(second.relation("related")?.has(&*first));

    let read = second.read()?;
    assert!(read.author.is_none() && read.author.load(&storage)?.is_none());
    assert_eq!(read.attachments.one(0, &storage)?.ok_or("none")?.read()?.name.as_deref(), Some("a.txt"));
    let loaded = read.attachments.load(&storage).next().ok_or("none")??;
    assert_eq!(loaded.load_data()?, b"abc");
    assert_eq!(read.weights.one(0, &storage)?.ok_or("none")?.key(), "weight.0123abcd");
    assert_eq!(first.read()?.author.load(&storage)?, Some(ann.clone()));
    assert!(matches!(ann.remove(), Err(Error::Referred { .. })));
    first.remove()?;
    assert!(second.read()?.related.is_empty(), "dropped");
    ann.remove()?;
    file.remove()?;
    assert!(second.read()?.attachments.is_empty(), "dropped");
    assert!(matches!(read.attachments.one(0, &storage), Err(Error::Absent { .. })), "of a copy from before");
    assert!(serde_json::from_value::<One<Account>>(json!({"oid": "1", "type": "articles"})).is_err());
    let refused = storage.create("Article", json!({"author": {"oid": "1", "type": "articles"}}));
    assert!(refused.is_err());
    Ok(())
}

#[test]
fn indexes_and_queries_give_typed_objects() -> Outcome {
    let (storage, _, indexes) = data()?;
    let articles = storage.of::<Article>()?;
    let ann = storage.insert(&Account::default())?;
    let make = |(title, status, votes): (&str, Status, i64)| Article {
        title: title.to_owned(),
        status,
        votes,
        author: One::to(&ann),
        ..Article::default()
    };
    let all =
        [("The café", Status::Draft, 1), ("A cafe", Status::Published, 5), ("Rest", Status::Published, 9)].map(make);
    articles.insert_all(&all)?;
    assert_eq!(titles(articles.by("status")?.get(Status::Published)?), ["A cafe", "Rest"]);
    assert_eq!(titles(articles.by("keywords")?.get("CAFÉ")?), ["The café", "A cafe"]);
    assert_eq!(articles.by("author")?.count(ann.reference().key())?, 3);
    let limits = Limits { start: Some(json!(2)), order: Order::Descending, ..Limits::default() };
    assert_eq!(titles(articles.by("votes")?.list(&limits)?), ["Rest", "A cafe"]);
    let query = articles.find("votes > 3")?.sort("-votes").limit(1);
    assert!(query.explain()?.to_string().starts_with("index Article.by.votes"));
    assert_eq!(titles(query.run()?.into_iter().map(Ok::<_, ()>)), ["Rest"]);
    assert_eq!(storage.find_typed::<Article>("status = 'out'")?.count()?, 2);
    let twice = articles.insert(&all[2]);
    assert!(matches!(twice, Err(Error::NotUnique { .. })), "{twice:?}");
    assert_eq!(
        indexes.rebuild(true)?,
        19,
        "four keywords, three of each other index, and three to find who refers to an account"
    );
    Ok(())
}

#[test]
fn a_unique_property_belongs_to_one_object() -> Outcome {
    let (storage, ..) = data()?;
    let with = |email: &str| Account { email: Some(email.into()), ..Account::default() };
    storage.insert(&with("ann@example.org"))?;
    assert!(matches!(storage.insert(&with("Ann@example.org")), Err(Error::NotUnique { .. })));
    storage.insert(&Account::default())?;
    storage.insert(&Account::default())?;
    Ok(())
}

#[test]
fn both_forms_are_the_same_object() -> Outcome {
    let (storage, ..) = data()?;
    let articles = storage.of::<Article>()?;
    let typed = articles.insert(&Article { title: "One".into(), ..Article::default() })?;
    let dynamic = storage.get("Article", typed.oid())?.ok_or("gone")?;
    assert_eq!(*typed, dynamic);
    dynamic.set("votes", 4)?;
    assert_eq!(typed.read()?.votes, 4);
    dynamic.save()?;
    let copy = data()?.0.of::<Article>()?.import(typed.export(1)?)?;
    assert_eq!(copy.read()?, typed.read()?);

    assert!(articles.has(typed.oid())? && articles.count()? == 1);
    let new = articles.ensure("new")?;
    assert_eq!((new.read()?, new.is_stored()), (Article::default(), false));
    new.edit(|article| article.title = "New".into())?;
    assert_eq!(articles.ensure("new")?.read()?.title, "New", "not saved, and still there");
    assert_eq!(storage.of::<Account>()?.ensure("new")?.read()?, Account::default(), "not the defaults of the class");
    assert_eq!(articles.list(Some(5), 1, None)?.count() + articles.all()?.count(), 1);
    let listed = storage.scope(|_| articles.create_with_oid("zz", &Article::default()))?;
    assert!(listed.is_stored(), "a scope saves what was made in it");
    assert!(storage.of::<Everything>().is_err(), "not registered");
    Ok(())
}

mod version_1 {
    use super::*;

    #[derive(StoredObject)]
    #[object(version = 1)]
    pub(super) struct Run {
        pub(super) name: String,
    }
}

mod version_2 {
    use super::*;

    #[derive(StoredObject, Debug, PartialEq)]
    #[object(version = 2, migrate = migrate)]
    pub(super) struct Run {
        pub(super) title: String,
        #[object(default = "none")]
        pub(super) note: String,
        pub(super) steps: Option<u64>,
    }

    fn migrate(from: u64, values: &mut Map<String, Value>) -> Result<(), String> {
        let name = values.remove("name").ok_or_else(|| format!("version {from} has a name"))?;
        values.insert("title".to_owned(), name);
        Ok(())
    }
}

#[test]
fn documents_of_an_older_version_are_migrated() -> Outcome {
    let backend = Arc::new(MemoryBackend::new());
    let old = ObjectStorage::new(backend.clone()).register_type::<version_1::Run>()?;
    let oid = old.insert(&version_1::Run { name: "base".into() })?.oid().to_owned();
    let new = ObjectStorage::new(backend.clone()).register_type::<version_2::Run>()?;
    let run = new.get(&oid)?.ok_or("gone")?;
    assert_eq!(run.read()?, version_2::Run { title: "base".into(), note: "none".into(), steps: None });
    run.edit(|run| run.steps = Some(1))?;
    run.save()?;
    let older = ObjectStorage::new(backend).register_type::<version_1::Run>()?;
    assert!(matches!(older.get(&oid), Err(Error::Migration { found: 2, .. })));
    Ok(())
}

#[derive(StoredObject, Debug, PartialEq)]
#[object(name = "Loose", collection = "loose-ends", open)]
struct Open {
    name: String,
}

#[test]
fn what_an_open_class_has_beside_its_struct_is_kept() -> Outcome {
    let storage = storage();
    let all = storage.register_type::<Open>()?;
    let object = all.import(json!({"name": "a", "more": [1]}))?;
    object.edit(|open| open.name = "b".into())?;
    assert_eq!((object.get("name"), object.get("more")), (Some(json!("b")), Some(json!([1]))));
    assert_eq!(
        all.import(json!({}))?.read().expect_err("no name").to_string().split(',').next(),
        Some("Loose.name: it is null")
    );
    Ok(())
}

#[test]
fn metadata_of_files_is_a_struct_too() -> Outcome {
    let raw = RawStorage::new(Arc::new(MemoryBackend::new()));
    let files = raw.register_type::<File>()?;
    let file = files.insert(b"abc".as_slice(), &File::default())?;
    assert_eq!(file.edit(|meta| meta.width.replace(3))?, None);
    assert!(file.save()? && files.count()? == 1 && files.has(file.oid())?);
    let found = files.all()?.next().ok_or("none")??;
    assert_eq!(found.read()?, File { name: None, width: Some(3) });
    assert!(files.create(b"".as_slice(), &File { name: Some("a\nb".into()), width: None }).is_err());
    Ok(())
}

/// The macro makes the class that one would write.
#[test]
fn a_struct_declares_what_it_says() {
    let class = Article::class();
    let written = Class::new("Article")
        .property("title", Type::String)
        .property("status", Status::property_type())
        .property("votes", Type::Integer)
        .one("author", "accounts")
        .on_remove("author", OnRemove::Refuse)
        .many("attachments", "files")
        .on_remove("attachments", OnRemove::Drop)
        .many("related", "articles")
        .on_remove("related", OnRemove::Drop)
        .many("weights", corallite_objects::class::WEIGHT)
        .index("status", Indexing::Normalize);
    assert_eq!((class.properties(), class.relations()), (written.properties(), written.relations()));
    assert_eq!(class.indexes().collect::<Vec<_>>(), ["author", "keywords", "slug", "status", "votes"]);
    assert!(class.check().is_ok());
}
