//! Transactions over weights, objects, files and links.

use std::path::{Path, PathBuf};

use corallite_links::{CIDStore, Changes, Deletion, Pending, Values};
use corallite_objects::{ObjectStorage, RawStorage};
use corallite_weights::{
    AddOptions, Added, Checkpoint, SafetensorsFile, Watch, WeightHash, WeightTensor, WeightTransaction,
};
use parking_lot::Mutex;
use serde_json::{Value, json};

use crate::described::{CHECKPOINT, Described};
use crate::error::{Error, Failed, Result};
use crate::{E, Store, file};

impl Store {
    /// Runs `change` as one commit: all of what it does through the [`Transaction`], to weights and links, and what its thread
    /// saves of the store's objects and files, becomes durable together, or none of it.
    ///
    /// ```
    /// use corallite::{E, Store};
    /// # use corallite::objects::{Class, Type};
    /// # use corallite::weights::{Dtype, WeightTensor, WeightStore};
    /// use serde_json::json;
    ///
    /// let store = Store::memory()?;
    /// store.objects()?.register(Class::new("Run").property("loss", Type::Float).many("weights", "weight"))?;
    /// let change = |fails: bool| {
    ///     store.transaction(|tx| {
    ///         let key = tx.store(&WeightTensor::new("w", vec![2], Dtype::U8, vec![1, 2])?, None)?;
    ///         let run = tx.objects().create("Run", json!({"loss": 0.5}))?;
    ///         run.relation("weights")?.add(corallite::objects::Reference::new("weight", key.as_str()))?;
    ///         run.save()?;
    ///         tx.links().insert(E::from_str("runs"), E::from_str(run.oid()))?;
    ///         if fails { Err(corallite::weights::Error::Cancelled)? }
    ///         Ok::<_, corallite::Error>(())
    ///     })
    /// };
    /// assert!(change(true).is_err());
    /// assert!(store.weights().list_weights()?.is_empty() && store.objects()?.count("Run")? == 0);
    /// change(false)?;
    /// assert!(store.weights().list_weights()?.len() == 1 && store.objects()?.count("Run")? == 1);
    /// assert_eq!(store.links()?.get(E::from_str("runs"))?.len(), 1);
    /// # Ok::<(), corallite::Error>(())
    /// ```
    ///
    /// What belongs to it is told by the thread. A thread of a rayon pool, which takes up other work while it waits within the
    /// transaction, would take that in; begin transactions on threads of your own.
    ///
    /// Transactions of several threads take turns, and saves of objects wait for them. Objects that somebody has in memory are
    /// the same for all threads, so that others may see in them what is not committed yet. When it fails, objects keep their
    /// changes, unsaved. Changes of links are seen by others a moment after the rest.
    ///
    /// # Errors
    ///
    /// That of `change`, or of the commit; [`file::Error::Usage`] within a transaction of the same thread, also of the links alone. Should the links fail to
    /// take over their changes after the commit ([`links::Error`](crate::links::Error)), the transaction is committed nevertheless,
    /// and the next opening of the store makes those changes.
    pub fn transaction<T, F: From<Error>>(
        &self,
        change: impl FnOnce(&Transaction<'_>) -> std::result::Result<T, F>,
    ) -> std::result::Result<T, F> {
        self.check_may_begin()?;
        let described = self.described()?;
        // Changes of links are taken over before the next transaction brings others.
        let _one = self.transacting.lock();
        if self.links.get().is_none()
            && (self.links_options.is_salvaging()
                || corallite_links::has_pending(self.storage()).map_err(Error::from)?)
        {
            // Opening them takes a commit then, which within the transaction would wait for it. Else those who do not use them
            // need not wait for them, nor know of their damage.
            self.links()?;
        }
        let links = TransactionLinks { store: self, changes: Mutex::default() };
        let (value, pending) = self.commit_with(described, &links, change)?;
        if let Some(pending) = pending {
            self.links()?.adopt(pending).map_err(Error::from)?;
        }
        Ok(value)
    }

    /// Runs `change` and commits; what links still have to take over comes with its value.
    fn commit_with<T, F: From<Error>>(
        &self,
        described: &Described,
        links: &TransactionLinks<'_>,
        change: impl FnOnce(&Transaction<'_>) -> std::result::Result<T, F>,
    ) -> std::result::Result<(T, Option<Pending>), F> {
        let Described { backend, objects, files, .. } = described;
        // Nobody saves meanwhile: who waits for this transaction must hold nothing that it may need.
        objects.alone(|| {
            files.alone(|| {
                let batch = backend.begin().map_err(Error::from)?;
                let outcome = self.weights.transaction(|weights| {
                    let joined = batch.join();
                    let value = change(&Transaction { weights, described, links }).map_err(Failed::Change)?;
                    drop(joined);
                    let transaction = weights.storage_transaction();
                    let written = batch.write_out(transaction);
                    written.map_err(|error| Failed::Commit(error.into()))?;
                    Ok((value, links.write(transaction).map_err(Failed::Commit)?))
                });
                let done = outcome.map_err(|failed: Failed<F>| match failed {
                    Failed::Change(error) => error,
                    Failed::Commit(error) => error.into(),
                })?;
                batch.publish();
                Ok(done)
            })
        })
    }

    fn check_may_begin(&self) -> Result<()> {
        let path = || self.storage().path().to_owned();
        if self.storage().is_in_transaction() {
            let problem = "a transaction cannot begin within another one of the same thread".to_owned();
            return Err(file::Error::Usage { path: path(), problem }.into());
        }
        if self.links.get().is_some_and(CIDStore::is_in_transaction) {
            // Its changes of links would wait for that one, which waits for this.
            let problem =
                "a transaction cannot begin within one of the links; change links with `Transaction::links`".to_owned();
            return Err(file::Error::Usage { path: path(), problem }.into());
        }
        if self.storage().is_open() && !self.storage().is_writable() {
            return Err(file::Error::ReadOnly { path: path() }.into());
        }
        Ok(())
    }
}

/// Changes that become durable together; see [`Store::transaction`].
#[derive(Debug)]
pub struct Transaction<'a> {
    weights: &'a WeightTransaction<'a>,
    described: &'a Described,
    links: &'a TransactionLinks<'a>,
}

/// The links within a transaction; see [`Transaction::links`].
#[derive(Debug)]
pub struct TransactionLinks<'a> {
    store: &'a Store,
    changes: Mutex<Changes>,
}

impl TransactionLinks<'_> {
    /// The links of the store, opened when they are needed for the first time; none where there are none yet.
    fn opened(&self) -> Result<Option<&CIDStore>> {
        match self.store.links.get() {
            Some(links) => Ok(Some(links)),
            None if self.store.has_links()? || self.store.has_log()? => Ok(Some(self.store.links()?)),
            None => Ok(None),
        }
    }

    fn write(&self, transaction: &file::Transaction<'_>) -> Result<Option<Pending>> {
        let changes = std::mem::take(&mut *self.changes.lock());
        if changes.is_empty() {
            return Ok(None);
        }
        Ok(Some(changes.write(transaction, self.opened()?)?))
    }

    /// The values of a key, with the changes of this transaction. Other threads may change links meanwhile.
    ///
    /// # Errors
    ///
    /// As [`Store::links`] and [`CIDStore::get`]; so all the others.
    pub fn get(&self, key: E) -> Result<Values> {
        let opened = self.opened()?;
        Ok(self.changes.lock().get(key, || stored(opened, key))?)
    }

    /// Links a value to a key; whether it was not yet.
    ///
    /// # Errors
    ///
    /// As [`TransactionLinks::get`].
    pub fn insert(&self, key: E, value: E) -> Result<bool> {
        let opened = self.opened()?;
        Ok(self.changes.lock().insert(key, value, || stored(opened, key))?)
    }

    /// Removes a key, or one value of it; whether there was anything. See [`CIDStore::delete`].
    ///
    /// # Errors
    ///
    /// As [`TransactionLinks::get`].
    pub fn delete(&self, what: impl Into<Deletion>) -> Result<bool> {
        let (opened, what) = (self.opened()?, what.into());
        Ok(self.changes.lock().delete(what, || stored(opened, what.key()))?)
    }
}

fn stored(links: Option<&CIDStore>, key: E) -> corallite_links::Result<Values> {
    links.map_or_else(|| Ok(Values::default()), |links| links.get(key))
}

impl Transaction<'_> {
    /// The weights: for what is not offered here. Checkpoints that are added or removed there have their objects only when the
    /// store is opened again.
    pub fn weights(&self) -> &WeightTransaction<'_> {
        self.weights
    }

    /// The store's objects. What this thread saves, also of objects that it had before, is part of the transaction.
    pub fn objects(&self) -> &ObjectStorage {
        &self.described.objects
    }

    /// The store's files; as [`Transaction::objects`].
    pub fn files(&self) -> &RawStorage {
        &self.described.files
    }

    /// The links, as this transaction changes them.
    pub fn links(&self) -> &TransactionLinks<'_> {
        self.links
    }

    /// Stores a weight; see [`WeightStore::store`](crate::weights::WeightStore::store).
    ///
    /// # Errors
    ///
    /// As [`WeightStore::store`](crate::weights::WeightStore::store).
    pub fn store(&self, weight: &WeightTensor, hash_key: Option<&WeightHash>) -> Result<WeightHash> {
        Ok(self.weights.store(weight, hash_key)?)
    }

    /// Adds a model file; see [`Checkpoints::add`](crate::Checkpoints::add).
    ///
    /// # Errors
    ///
    /// As [`Checkpoints::add`](crate::Checkpoints::add).
    pub fn add_checkpoint(&self, name: &str, path: impl AsRef<Path>) -> Result<Checkpoint> {
        let file = SafetensorsFile::open(path)?;
        Ok(self.add_checkpoint_with(name, &file, json!({}), AddOptions::new())?.checkpoint)
    }

    /// Adds an open model file, with properties of its object: tags, metrics, a parent, and any others; see
    /// [`Checkpoints::add_with`](crate::Checkpoints::add_with).
    ///
    /// # Errors
    ///
    /// As [`Checkpoints::add_with`](crate::Checkpoints::add_with).
    pub fn add_checkpoint_with(
        &self,
        name: &str,
        file: &SafetensorsFile,
        properties: Value,
        options: AddOptions<'_>,
    ) -> Result<Added> {
        let added = self.weights.add_checkpoint_with(name, file, options)?;
        self.described.describe(&added.checkpoint, properties)?.save()?;
        Ok(added)
    }

    /// Removes a checkpoint and its object; `false` when there was none of that name.
    ///
    /// # Errors
    ///
    /// What libhdf5 reports; [`objects::Error::Referred`](crate::objects::Error::Referred) when a relation refuses it.
    pub fn remove_checkpoint(&self, name: &str) -> Result<bool> {
        let is_gone = self.weights.remove_checkpoint(name)?;
        if is_gone && let Some(object) = self.described.objects.get(CHECKPOINT, name)? {
            object.remove()?;
        }
        Ok(is_gone)
    }
}

impl crate::Checkpoints<'_> {
    /// Adds a safetensors file under a name, in one commit, with its object. Weights that are stored already cost nothing but a
    /// comparison; memory use does not grow with the file.
    ///
    /// The file is mapped: nobody may change it in place meanwhile.
    ///
    /// # Errors
    ///
    /// [`weights::Error::AlreadyExists`](crate::weights::Error::AlreadyExists) for a taken name,
    /// [`weights::Error::Safetensors`](crate::weights::Error::Safetensors) and its like for a bad file, and whatever keeps the commit
    /// from happening. The store is then what it was before.
    pub fn add(&self, name: &str, path: impl AsRef<Path>) -> Result<Checkpoint> {
        Ok(self.add_with(name, path, json!({}), AddOptions::new())?.checkpoint)
    }

    /// The same, with properties of its object, and watched.
    ///
    /// ```
    /// # use corallite::Store;
    /// # use corallite::weights::{AddOptions, Dtype, WeightTensor, safetensors};
    /// use serde_json::json;
    /// # let directory = tempfile::tempdir()?;
    /// # let model = directory.path().join("model.safetensors");
    /// # let weight = WeightTensor::new("bias", vec![4], Dtype::F32, vec![0_u8; 16])?;
    /// # safetensors::write(std::fs::File::create(&model)?, &[weight], &[])?;
    /// let store = Store::open(directory.path().join("models.h5"))?;
    /// let properties = json!({"tags": ["best"], "loss": 1.75, "metrics": {"accuracy": 0.9}});
    /// store.checkpoints().add_with("run-1", &model, properties, AddOptions::new())?;
    /// let found = store.objects()?.find("Checkpoint", "tags = 'best' and loss < 2")?.sort("-created").run()?;
    /// assert_eq!(found[0].oid(), "run-1");
    /// assert_eq!(found[0].relation("weights")?.len(), 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As [`Checkpoints::add`](crate::Checkpoints::add), and [`objects::Error`](crate::objects::Error) for properties that the class
    /// does not allow.
    pub fn add_with(
        &self,
        name: &str,
        path: impl AsRef<Path>,
        properties: Value,
        options: AddOptions<'_>,
    ) -> Result<Added> {
        let file = SafetensorsFile::open(path)?;
        self.store.transaction(|transaction| transaction.add_checkpoint_with(name, &file, properties, options))
    }

    /// Adds several files in one commit: all or none. All are looked at before the store is.
    ///
    /// # Errors
    ///
    /// As [`Checkpoints::add`](crate::Checkpoints::add).
    pub fn add_all(&self, files: &[(String, PathBuf)], options: AddOptions<'_>) -> Result<Vec<Added>> {
        let opened: Vec<(&str, SafetensorsFile)> = files
            .iter()
            .map(|(name, path)| Ok((name.as_str(), SafetensorsFile::open(path)?)))
            .collect::<Result<_>>()?;
        let add = |transaction: &Transaction<'_>| {
            let added =
                opened.iter().map(|(name, file)| transaction.add_checkpoint_with(name, file, json!({}), options));
            added.collect()
        };
        self.store.transaction(add)
    }

    /// Removes a checkpoint and its object; `false` when there was none of that name. Its weights stay until
    /// [`Checkpoints::gc`](crate::Checkpoints::gc).
    ///
    /// # Errors
    ///
    /// Whatever keeps the commit from happening.
    pub fn remove(&self, name: &str) -> Result<bool> {
        self.store.transaction(|transaction| transaction.remove_checkpoint(name))
    }

    /// Frees the weights that were stored for checkpoints and that neither a checkpoint nor an object needs any more, in one
    /// commit, then gives up the earlier commits that could still be rolled back to, since they would keep the space.
    ///
    /// # Errors
    ///
    /// As [`weights::Checkpoints::gc`](crate::weights::Checkpoints::gc), and those of reading the objects.
    pub fn gc(&self, watch: &dyn Watch) -> Result<crate::weights::GcReport> {
        let store = self.store;
        if !store.has_objects()? {
            return Ok(self.inner.gc(watch)?);
        }
        let described = store.described()?;
        // While nobody begins to refer to a weight.
        described.objects.alone(|| {
            // Files that a crash left half written.
            described.files.sync()?;
            let needed = described.needed_weights()?.into_keys().collect();
            Ok(self.inner.gc_but(&needed, watch)?)
        })
    }
}
