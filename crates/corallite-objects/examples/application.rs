//! A whole application: accounts, articles and files, in a folder that is given or temporary.
//!
//! ```console
//! cargo run -p corallite-objects --example application [FOLDER]
//! ```

use std::error::Error;
use std::path::Path;
use std::sync::Arc;

use corallite_objects::index::keywords;
use corallite_objects::{
    DbmBackend, DirectoryBackend, Files, Indexes, Many, ObjectStorage, Objects, One, PropertyType, RawStorage,
    StoredObject, StoredRaw,
};
use serde::{Deserialize, Serialize};

// 1. The model.

#[derive(StoredObject, Clone, Debug)]
struct Account {
    #[object(type = Email, index = Normalize, unique)]
    email: String,
    name: String,
}

#[derive(StoredRaw, Clone, Debug)]
struct File {
    name: String,
}

#[derive(PropertyType, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq)]
#[serde(rename_all = "lowercase")]
enum Status {
    #[default]
    Draft,
    Published,
}

#[derive(StoredObject, Clone, Debug, Default)]
#[object(index_by(keywords = keywords_of, query = Keywords(3)))]
struct Article {
    title: String,
    content: String,
    #[object(index = Normalize)]
    status: Status,
    #[object(on_remove = Refuse)]
    author: One<Account>,
    #[object(on_remove = Drop)]
    attachments: Many<File>,
}

fn keywords_of(article: &Article) -> Vec<String> {
    keywords([&article.title, &article.content], 3)
}

// 2. One interface to all of it.

struct DataInterface {
    objects: ObjectStorage,
    raw: RawStorage,
    indexes: Indexes,
    accounts: Objects<Account>,
    articles: Objects<Article>,
    files: Files<File>,
}

impl DataInterface {
    fn open(path: &Path) -> corallite_objects::Result<Self> {
        let directory = Arc::new(DirectoryBackend::open(path.join("objects"))?);
        let objects = ObjectStorage::new(directory.clone());
        let raw = RawStorage::new(directory);
        objects.connect(&raw)?;

        let accounts = objects.register_type()?;
        let articles = objects.register_type()?;
        let files = raw.register_type()?;
        let indexes = Indexes::attach(&objects, Arc::new(DbmBackend::open(path.join("indexes.dbm"))?))?;
        Ok(Self { objects, raw, indexes, accounts, articles, files })
    }

    /// Brings all changes to the disk.
    fn sync(&self) -> corallite_objects::Result<()> {
        self.objects.sync()?;
        self.raw.sync()
    }

    /// Builds all indexes again.
    fn reindex(&self) -> corallite_objects::Result<u64> {
        self.indexes.rebuild(true)
    }
}

// 3. Its use.

fn main() -> Result<(), Box<dyn Error>> {
    let temporary = tempfile::tempdir()?;
    let folder = std::env::args_os().nth(1).map_or_else(|| temporary.path().to_owned(), Into::into);
    let data = DataInterface::open(&folder)?;

    let account = match data.accounts.by("email")?.one("user@example.com", 0)? {
        Some(account) => account,
        None => data.accounts.insert(&Account { email: "user@example.com".into(), name: "John".into() })?,
    };
    let file = data.files.insert(b"a picture".as_slice(), &File { name: "hello.png".into() })?;
    let article = data.articles.insert(&Article {
        title: "Hello World".into(),
        content: "This is my first article".into(),
        author: One::to(&account),
        attachments: Many::to([&file]),
        ..Article::default()
    })?;

    // Changes are kept when they are saved, and indexes with them.
    assert!(data.articles.by("status")?.has("draft")?);
    article.edit(|article| article.status = Status::Published)?;
    article.save()?;

    // By an index, ...
    let by_status = data.articles.by("status")?;
    let published: Vec<_> = by_status.get(Status::Published)?.collect::<Result<_, _>>()?;
    assert!(published.contains(&article));
    // ... by a word, ...
    for found in data.articles.by("keywords")?.get("HELLO")? {
        let found = found?.read()?;
        assert_eq!(found.title, "Hello World");
        let author = found.author.load(&data.objects)?.ok_or("no author")?;
        assert_eq!(author.read()?.name, "John");
        for attachment in found.attachments.load(&data.objects) {
            assert_eq!(attachment?.load_data()?, b"a picture");
        }
    }
    // ... by a condition.
    let found = data.articles.find("status = 'published' and title ~ 'world'")?.sort("-updated").run()?;
    assert_eq!(found.first(), Some(&article));

    // What others refer to stays, and nobody has an address twice.
    assert!(account.remove().is_err());
    assert!(data.accounts.insert(&account.read()?).is_err());

    data.sync()?;
    let entries = data.reindex()?;
    assert_eq!(data.articles.by("keywords")?.count("article")?, data.articles.count()?);

    // Everything is there when it is opened again.
    let (oid, articles) = (article.oid().to_owned(), data.articles.count()?);
    drop((article, published, found, by_status, account, file, data));
    let data = DataInterface::open(&folder)?;
    assert_eq!(data.articles.count()?, articles);
    assert_eq!(data.articles.get(&oid)?.ok_or("gone")?.read()?.status, Status::Published);
    assert_eq!((data.reindex()?, data.indexes.warnings()), (entries, Vec::new()));
    Ok(())
}
