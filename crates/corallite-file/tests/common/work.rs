//! Random work on a storage, with the model of what it must hold after each commit.

use std::collections::BTreeMap;
use std::ffi::CStr;
use std::sync::Arc;
use std::time::Duration;

use corallite_file::hdf5::Datatype;
use corallite_file::hdf5::dataset::Layout;
use corallite_file::hdf5::plist::dataset_create::{AllocTime, FillTime};
use corallite_file::{
    AttributeValue, DataLayout, Disk, Mode, NewDataset, Options, SimulatedDisk, Snapshot, Storage, StoredChunk,
    contiguous_offset, encode_datatype, write_chunk,
};

use super::model::{self, Model, Object, Value, difference, set_attribute};
use super::{Outcome, Random, store};

/// Elements in a chunk; odd, so that chunks do not fall on pages.
const CHUNK: usize = 700;

/// The names of text attributes.
const TEXTS: [&CStr; 3] = [c"text0", c"text1", c"text2"];

/// Settings that make everything happen often: packing, spilling, expiry.
pub fn random_options(random: &mut Random) -> Options {
    Options::new()
        .history(random.pick(&[0, 1, 3]))
        .journal_bytes(random.pick(&[1, 64 << 10, 64 << 20]))
        .dirty_bytes(random.pick(&[8 << 10, 64 << 10, 32 << 20]))
        .lock_wait(Duration::from_millis(1))
}

/// A storage under random work.
pub struct Work {
    disk: Arc<dyn Disk>,
    recorder: SimulatedDisk,
    random: Random,
    pub options: Options,
    storage: Storage,
    /// What the running transaction sees.
    now: Model,
    /// What each commit holds.
    pub commits: BTreeMap<u64, Model>,
    newest: u64,
    snapshots: Vec<Arc<Snapshot>>,
    readers: Vec<Storage>,
    counter: usize,
}

impl Work {
    /// Work on a new file. `disk` is `recorder` or wraps it.
    pub fn new(seed: u64, disk: Arc<dyn Disk>, recorder: SimulatedDisk) -> Outcome<Self> {
        let mut random = Random::new(seed);
        let options = random_options(&mut random);
        let storage = Storage::on_disk(Arc::clone(&disk), store(), options.clone());
        storage.open(Mode::Append, false)?;
        // A new file is committed by opening it.
        recorder.mark(1);
        let commits = BTreeMap::from([(0, Model::new()), (1, Model::new())]);
        let (snapshots, readers) = (Vec::new(), Vec::new());
        Ok(Self {
            disk,
            recorder,
            random,
            options,
            storage,
            now: Model::new(),
            commits,
            newest: 1,
            snapshots,
            readers,
            counter: 0,
        })
    }

    /// Does `steps` random things and closes.
    pub fn run(mut self, steps: usize) -> Outcome<BTreeMap<u64, Model>> {
        for step in 0..steps {
            self.step().map_err(|error| format!("step {step}: {error}"))?;
        }
        self.snapshots.clear();
        self.readers.clear();
        self.commit()?;
        self.storage.close()?;
        Ok(self.commits)
    }

    fn step(&mut self) -> Outcome {
        match self.random.below(37) {
            0..=2 => self.new_group(),
            3..=5 => self.attribute(),
            6..=8 => self.new_chunked(),
            9..=11 => self.new_contiguous(),
            12..=13 => self.append(),
            14..=16 => self.overwrite(),
            17..=19 => self.unlink(),
            20 => self.many_groups(),
            21..=24 => self.commit(),
            25 => self.rollback(),
            26 => self.rollback_to_version(),
            27 => self.expire_or_reclaim(),
            28 => self.reopen(),
            29..=31 => self.snapshot(),
            32..=34 => self.new_encoded(),
            _ => self.reader(),
        }
    }

    fn name(&mut self, kind: &str) -> String {
        self.counter += 1;
        format!("{kind}{}", self.counter)
    }

    fn data(&mut self, length: usize) -> Vec<i32> {
        let mut value = self.random.next() as i32;
        (0..length)
            .map(|_| {
                value = value.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                value
            })
            .collect()
    }

    fn existing(&mut self, wanted: impl Fn(&str) -> bool) -> Option<String> {
        let names: Vec<&String> = self.now.keys().filter(|name| wanted(name)).collect();
        (!names.is_empty()).then(|| names[self.random.below(names.len())].clone())
    }

    fn value(&mut self) -> (String, Value) {
        let number = self.random.below(3);
        if self.random.one_in(2) {
            (format!("number{number}"), Value::Number(self.random.next() as i64))
        } else {
            let length = self.random.below(200);
            let letter = self.random.pick(&["a", "\u{e9}", "\u{1d11e}"]);
            (format!("text{number}"), Value::Text(letter.repeat(length)))
        }
    }

    fn new_group(&mut self) -> Outcome {
        let name = self.name("group");
        let group = self.storage.create_group(&name)?;
        let mut object = Object::default();
        for _ in 0..self.random.below(3) {
            let (name, value) = self.value();
            set_attribute(&group, &name, &value)?;
            object.attributes.insert(name, value);
        }
        self.now.insert(name, object);
        Ok(())
    }

    fn attribute(&mut self) -> Outcome {
        let Some(path) = self.existing(|_| true) else { return Ok(()) };
        let (name, value) = self.value();
        let file = self.storage.file()?;
        let object = self.now.entry(path.clone()).or_default();
        if object.data.is_some() {
            let dataset = file.dataset(&path)?;
            set_attribute(&dataset, &name, &value)?;
        } else {
            let group = file.group(&path)?;
            set_attribute(&group, &name, &value)?;
        }
        object.attributes.insert(name, value);
        Ok(())
    }

    fn new_chunked(&mut self) -> Outcome {
        let name = self.name("chunked");
        let chunks = 1 + self.random.below(8);
        let data = self.data(chunks * CHUNK);
        let dataset = self.storage.file()?.new_dataset::<i32>().shape(data.len()).chunk(CHUNK).create(name.as_str())?;
        for (index, chunk) in data.chunks(CHUNK).enumerate() {
            write_chunk(&dataset, &[(index * CHUNK) as u64], 0, &le_bytes(chunk))?;
        }
        self.now.insert(name, Object { data: Some(data), ..Object::default() });
        Ok(())
    }

    /// Direct pages: laid out by libhdf5, written past it.
    fn new_contiguous(&mut self) -> Outcome {
        let name = self.name("direct");
        let length = self.random.pick(&[10, 900, 1024, 3000, 9000]);
        let data = self.data(length);
        self.now.insert(name.clone(), Object { data: Some(data.clone()), ..Object::default() });
        self.transaction(|tx| {
            let dataset = tx
                .file()
                .new_dataset::<i32>()
                .shape(length)
                .alloc_time(Some(AllocTime::Early))
                .fill_time(FillTime::Never)
                .create(name.as_str())?;
            let offset = contiguous_offset(&dataset).ok_or("no offset")?;
            // In two pieces, so that partial pages meet.
            let bytes = le_bytes(&data);
            let cut = bytes.len() / 3;
            tx.write_at(offset + cut as u64, &bytes[cut..])?;
            tx.write_at(offset, &bytes[..cut])?;
            Ok(())
        })
    }

    /// Datasets that are encoded without libhdf5, next to others that libhdf5 makes in the same transaction.
    fn new_encoded(&mut self) -> Outcome {
        let mut plans = Vec::new();
        for _ in 0..1 + self.random.below(4) {
            let kind = self.random.pick(&["chunked", "direct", "compact"]);
            let length = match kind {
                "compact" => 1 + self.random.below(300),
                _ => self.random.pick(&[1, 699, 700, 701, 3000, 9000]),
            };
            let attributes: BTreeMap<String, Value> = (0..self.random.below(3))
                .map(|number| {
                    let text = "\u{e9}".repeat(self.random.below(300) * self.random.pick(&[0, 1, 8]));
                    (format!("text{number}"), Value::Text(text))
                })
                .collect();
            plans.push((kind, self.name(kind), Object { attributes, data: Some(self.data(length)) }));
        }
        self.now.extend(plans.iter().map(|(_, name, object)| (name.clone(), object.clone())));
        let beside = self.name("group");
        self.now.insert(beside.clone(), Object::default());
        self.transaction(|tx| {
            let datatype = encode_datatype(Datatype::from_type::<i32>()?.id())?;
            let mut datasets = tx.create_datasets()?;
            for (kind, name, object) in &plans {
                let bytes = le_bytes(object.data.as_deref().unwrap_or_default());
                let mut chunks = Vec::new();
                // HDF5 allows no chunk larger than its dataset.
                let rows = CHUNK.min(bytes.len() / 4);
                let rows_as_dims = [rows as u64];
                let layout = match *kind {
                    "compact" => DataLayout::Compact(&bytes),
                    "direct" => {
                        let offset = tx.allocate(bytes.len() as u64)?;
                        tx.write_at(offset, &bytes)?;
                        DataLayout::Contiguous(Some(offset))
                    }
                    _ => {
                        for chunk in bytes.chunks(4 * rows) {
                            let mut chunk = chunk.to_vec();
                            chunk.resize(4 * rows, 0);
                            // Room that is given back must come to no harm.
                            let spare = tx.allocate(5000)?;
                            let offset = tx.allocate(chunk.len() as u64)?;
                            tx.release(spare, 5000)?;
                            tx.write_at(offset, &chunk)?;
                            chunks.push(StoredChunk { offset, length: chunk.len() as u64, filter_mask: 0 });
                        }
                        DataLayout::Chunked { dims: &rows_as_dims, filters: &[], chunks: &chunks }
                    }
                };
                let attributes: Vec<_> = object
                    .attributes
                    .iter()
                    .map(|(name, value)| {
                        let Value::Text(text) = value else { unreachable!("only texts are planned") };
                        (TEXTS[usize::from(name.as_bytes()[4] - b'0')], AttributeValue::Text(text.clone()))
                    })
                    .collect();
                let dims = [(bytes.len() / 4) as u64];
                let dataset =
                    NewDataset { datatype: &datatype, item_size: 4, dims: &dims, layout, attributes: &attributes };
                datasets.create(tx.file(), name, &dataset)?;
            }
            tx.file().create_group(&beside)?;
            Ok(())
        })
    }

    fn append(&mut self) -> Outcome {
        let length = 1 + self.random.below(2 * CHUNK);
        let more = self.data(length);
        let file = self.storage.file()?;
        let old = if self.random.one_in(3) { None } else { self.existing(|name| name.starts_with("growing")) };
        let (name, dataset) = match old {
            Some(name) => (name.clone(), file.dataset(&name)?),
            None => {
                let name = self.name("growing");
                let dataset = file.new_dataset::<i32>().shape(0..).chunk(CHUNK).create(name.as_str())?;
                (name, dataset)
            }
        };
        let object = self.now.entry(name).or_default();
        let data = object.data.get_or_insert_default();
        dataset.resize(data.len() + more.len())?;
        dataset.write_slice(&more, data.len()..data.len() + more.len())?;
        data.extend(more);
        Ok(())
    }

    fn overwrite(&mut self) -> Outcome {
        let Some(path) = self.existing(|name| !name.starts_with("group") && !name.starts_with("many")) else {
            return Ok(());
        };
        let Some(length) = self.now.get(&path).and_then(|object| object.data.as_ref()).map(Vec::len) else {
            return Ok(());
        };
        let from = self.random.below(length);
        let count = 1 + self.random.below(length - from);
        let new = self.data(count);
        let file = self.storage.file()?;
        let dataset = file.dataset(&path)?;
        if let Some(object) = self.now.get_mut(&path)
            && let Some(data) = &mut object.data
        {
            data[from..from + count].copy_from_slice(&new);
        }
        if path.starts_with("direct") {
            let offset = contiguous_offset(&dataset).ok_or("no offset")? + 4 * from as u64;
            return self.transaction(|tx| Ok(tx.write_at(offset, &le_bytes(&new))?));
        }
        debug_assert!(dataset.layout() != Layout::Contiguous);
        dataset.write_slice(&new, from..from + count)?;
        Ok(())
    }

    fn unlink(&mut self) -> Outcome {
        let Some(path) = self.existing(|name| !name.contains('/')) else { return Ok(()) };
        self.storage.file()?.unlink(&path)?;
        let below = format!("{path}/");
        self.now.retain(|name, _| *name != path && !name.starts_with(&below));
        Ok(())
    }

    /// Enough metadata that libhdf5 writes some of it in the middle of a transaction.
    fn many_groups(&mut self) -> Outcome {
        let name = self.name("many");
        self.storage.create_group(&name)?;
        self.now.insert(name.clone(), Object::default());
        let count = self.random.pick(&[20, 200]);
        let group = self.storage.file()?.group(&name)?;
        for index in 0..count {
            group.create_group(&format!("{index}"))?;
            self.now.insert(format!("{name}/{index}"), Object::default());
        }
        Ok(())
    }

    fn acknowledged(&mut self, number: u64) -> Outcome {
        if number == self.newest {
            let committed = self.commits.get(&number);
            let changed = committed.map_or(Some("everything".to_owned()), |committed| difference(&self.now, committed));
            return changed.map_or(Ok(()), |what| {
                Err(format!("commit {number} was returned again although something changed: {what}").into())
            });
        }
        if number != self.newest + 1 {
            return Err(format!("commit {number} follows {}", self.newest).into());
        }
        self.newest = number;
        self.commits.insert(number, self.now.clone());
        self.recorder.mark(number);
        Ok(())
    }

    fn commit(&mut self) -> Outcome {
        let number = self.storage.flush()?.0;
        self.acknowledged(number)
    }

    fn transaction(&mut self, change: impl FnOnce(&corallite_file::Transaction<'_>) -> Outcome) -> Outcome {
        self.storage.transaction(|tx| change(tx).map_err(Wrapped)).map_err(|error| error.0)?;
        let number = self.storage.version()?.0;
        self.acknowledged(number)
    }

    fn rollback(&mut self) -> Outcome {
        self.storage.rollback()?;
        self.now = self.commits.get(&self.newest).cloned().unwrap_or_default();
        self.see("after a rollback")
    }

    fn rollback_to_version(&mut self) -> Outcome {
        let kept = self.storage.versions()?;
        let wanted = kept[self.random.below(kept.len())].number;
        let now = self.storage.rollback_to_version(wanted)?.0;
        self.now = self.commits.get(&wanted.0).ok_or_else(|| format!("commit {wanted} is unknown"))?.clone();
        self.acknowledged(now)?;
        self.see(&format!("after rolling back to {wanted}"))
    }

    fn expire_or_reclaim(&mut self) -> Outcome {
        self.commit()?;
        if self.random.one_in(2) {
            self.storage.expire_versions()?
        } else {
            self.storage.reclaim()?
        }
        self.see("after expiring or reclaiming")
    }

    fn reopen(&mut self) -> Outcome {
        // A new file without a commit of its own would be removed again.
        if self.newest > 1 && self.random.one_in(3) {
            self.storage.abandon()?;
            self.now = self.commits.get(&self.newest).cloned().unwrap_or_default();
        } else {
            self.commit()?;
            self.storage.close()?;
        }
        let mode = self.random.pick(&[Mode::Append, Mode::Append, Mode::Append, Mode::Write]);
        let opened = self.storage.open(mode, false);
        if matches!(opened, Err(corallite_file::Error::Busy { .. })) {
            // A snapshot of the closed storage keeps it the writer while its commits wait for a reader.
            self.snapshots.clear();
            self.storage.open(mode, false)?;
        } else {
            opened?;
        }
        let number = self.storage.version()?.0;
        if mode == Mode::Write {
            self.now = Model::new();
            self.acknowledged(number)?;
        } else if number != self.newest {
            return Err(format!("version {number} after opening, not {}", self.newest).into());
        }
        self.see("after opening")
    }

    fn see(&self, when: &str) -> Outcome {
        let found = model::read(&self.storage.file()?).map_err(|error| format!("{when}: {error}"))?;
        difference(&found, &self.now).map_or(Ok(()), |what| Err(format!("{when}: {what}").into()))
    }

    fn snapshot(&mut self) -> Outcome {
        for snapshot in &self.snapshots {
            same(&model::read(snapshot.file())?, self.commits.get(&snapshot.version().0), "a snapshot")?;
        }
        if self.snapshots.len() < 3 && self.random.one_in(2) {
            self.snapshots.push(self.storage.snapshot()?);
        } else if !self.snapshots.is_empty() {
            let index = self.random.below(self.snapshots.len());
            self.snapshots.remove(index);
        }
        Ok(())
    }

    /// Another program that reads the file.
    fn reader(&mut self) -> Outcome {
        for reader in &self.readers {
            let number = reader.version()?.0;
            same(&model::read(&reader.file()?)?, self.commits.get(&number), "a reader")?;
        }
        if self.readers.len() < 2 && self.random.one_in(3) {
            let reader = Storage::on_disk(Arc::clone(&self.disk), store(), self.options.clone());
            reader.open(Mode::Read, true)?;
            if reader.version()?.0 != self.newest {
                return Err(format!("a reader sees commit {}, not {}", reader.version()?, self.newest).into());
            }
            self.readers.push(reader);
        } else if !self.readers.is_empty() {
            let index = self.random.below(self.readers.len());
            if self.random.one_in(3) {
                let number = self.readers[index].refresh()?.0;
                if number != self.newest {
                    return Err(format!("a reader refreshed to commit {number}, not {}", self.newest).into());
                }
            } else {
                self.readers.remove(index);
            }
        }
        Ok(())
    }
}

fn same(found: &Model, wanted: Option<&Model>, who: &str) -> Outcome {
    let wanted = wanted.ok_or_else(|| format!("{who} is at an unknown commit"))?;
    difference(found, wanted).map_or(Ok(()), |what| Err(format!("{who}: {what}").into()))
}

pub fn le_bytes(data: &[i32]) -> Vec<u8> {
    data.iter().flat_map(|value| value.to_le_bytes()).collect()
}

/// An error of a transaction's body: `Box<dyn Error>` itself cannot be made `From<corallite_file::Error>` twice.
struct Wrapped(Box<dyn std::error::Error + Send + Sync>);

impl From<corallite_file::Error> for Wrapped {
    fn from(error: corallite_file::Error) -> Self {
        Self(error.into())
    }
}
