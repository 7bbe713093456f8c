//! Small stores with known content, for tests that damage or disturb them.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use corallite_file::hdf5::plist::dataset_create::{AllocTime, FillTime};
use corallite_file::{Mode, Options, SimulatedDisk, Storage, contiguous_offset, write_chunk};

use super::model::{Model, Object, Value, set_attribute};
use super::work::le_bytes;
use super::{Outcome, journal, store};

/// A store with what each of its commits holds.
pub struct Scene {
    pub files: HashMap<PathBuf, Vec<u8>>,
    pub commits: BTreeMap<u64, Model>,
    pub newest: u64,
}

pub fn options() -> Options {
    Options::new().history(3).lock_wait(Duration::from_millis(1))
}

pub fn on(disk: &SimulatedDisk) -> Storage {
    Storage::on_disk(Arc::new(disk.clone()), store(), options())
}

/// The `number`-th change: a group, attributes, a direct, a chunked and a growing dataset come, some of the last
/// change's go. Nothing is committed.
pub fn change(storage: &Storage, model: &mut Model, number: i32) -> Outcome {
    salted_change(storage, model, number, 0)
}

/// The same with other content of the same size.
fn salted_change(storage: &Storage, model: &mut Model, number: i32, salt: i32) -> Outcome {
    let file = storage.file()?;
    let name = format!("group{number}");
    let group = file.create_group(&name)?;
    let mut object = Object::default();
    for (key, value) in [
        ("number", Value::Number(i64::from(number + salt))),
        ("text", Value::Text(format!("change {number} ").repeat(20))),
    ] {
        set_attribute(&group, key, &value)?;
        object.attributes.insert(key.to_owned(), value);
    }
    model.insert(name, object);

    let data: Vec<i32> = (0..6000).map(|index| (index * number) ^ salt).collect();
    let put = |model: &mut Model, name: String, data: &[i32]| {
        model.insert(name, Object { data: Some(data.to_vec()), ..Object::default() });
    };
    let name = format!("chunked{number}");
    let dataset = file.new_dataset::<i32>().shape(3000).chunk(1000).create(name.as_str())?;
    for index in 0..3 {
        write_chunk(&dataset, &[index as u64 * 1000], 0, &le_bytes(&data[index * 1000..][..1000]))?;
    }
    put(model, name, &data[..3000]);

    let name = format!("growing{number}");
    let dataset = file.new_dataset::<i32>().shape(0..).chunk(500).create(name.as_str())?;
    dataset.resize(1700)?;
    dataset.write_slice(&data[..1700], 0..1700)?;
    put(model, name, &data[..1700]);

    for kind in ["chunked", "growing"] {
        let old = format!("{kind}{}", number - 1);
        if model.remove(&old).is_some() {
            file.unlink(&old)?;
        }
    }
    Ok(())
}

/// A contiguous dataset written past libhdf5, as part of a transaction that it commits.
pub fn direct(storage: &Storage, model: &mut Model, number: i32) -> Outcome {
    let name = format!("direct{number}");
    let data: Vec<i32> = (0..6000).map(|index| index ^ number).collect();
    storage.transaction(|tx| -> Result<(), corallite_file::Error> {
        let create = || {
            tx.file()
                .new_dataset::<i32>()
                .shape(6000)
                .alloc_time(Some(AllocTime::Early))
                .fill_time(FillTime::Never)
                .create(name.as_str())
        };
        let dataset = create().map_err(|error| tx.explain("create a dataset", &error))?;
        let offset = contiguous_offset(&dataset).unwrap_or_default();
        tx.write_at(offset, &le_bytes(&data))
    })?;
    model.insert(name, Object { data: Some(data), ..Object::default() });
    Ok(())
}

/// A store with five commits, closed (with history and free space behind its end) or, when `hot`, as a crash leaves
/// it: with the last two commits in the journal alone.
pub fn scene(hot: bool) -> Outcome<Scene> {
    salted_scene(hot, 0)
}

/// The same with other content of the same size for another `salt`.
pub fn salted_scene(hot: bool, salt: i32) -> Outcome<Scene> {
    let disk = SimulatedDisk::new();
    let storage = on(&disk);
    let (mut model, mut commits) = (Model::new(), BTreeMap::new());
    storage.open(Mode::Append, false)?;
    let mut reader = None;
    for number in 1..=4 {
        if hot && number == 4 {
            let other = on(&disk);
            other.open(Mode::Read, false)?;
            reader = Some(other);
        }
        salted_change(&storage, &mut model, number, salt)?;
        commits.insert(storage.flush()?.0, model.clone());
        if number > 2 {
            direct(&storage, &mut model, number)?;
            commits.insert(storage.version()?.0, model.clone());
        }
    }
    let newest = storage.version()?.0;
    if !hot {
        storage.close()?;
    }
    let files = super::crash::files(&disk);
    assert_eq!(files.contains_key(journal()), hot);
    drop(reader);
    Ok(Scene { files, commits, newest })
}
