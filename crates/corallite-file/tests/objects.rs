//! Datasets encoded here: libhdf5 reads them as if it had made them, and what is read here is what was written.

mod common;

use std::ffi::CStr;
use std::sync::Arc;

use common::Outcome;
use corallite_file::hdf5::dataset::Layout;
use corallite_file::hdf5::types::VarLenUnicode;
use corallite_file::hdf5::{Dataset, Datatype};
use corallite_file::{
    AttributeValue, Buffer, DataLayout, DatasetDescription, Error, FilterStep, Mode, NewDataset, Options, Snapshot,
    Source, Storage, StoredChunk, StoredLayout, chunk_locations, encode_datatype, object_offset,
};
use proptest::prelude::*;

const NAMES: [&CStr; 10] = [c"a", c"bb", c"ccc", c"d", c"e", c"f", c"g", c"h", c"i", c"a rather longer name"];

/// A dataset of bytes, as a test describes it.
#[derive(Clone, Debug)]
struct Plan {
    dims: Vec<u64>,
    form: Form,
    attributes: Vec<AttributeValue>,
}

#[derive(Clone, Debug)]
enum Form {
    Compact,
    Contiguous,
    /// Rows in each chunk; whether a filter is named.
    Rows(u64, bool),
}

impl Plan {
    fn bytes(&self) -> Vec<u8> {
        (0..self.dims.iter().product::<u64>()).map(|index| (index * 7 + 3) as u8).collect()
    }

    fn named(&self) -> Vec<(&'static CStr, AttributeValue)> {
        NAMES.into_iter().zip(self.attributes.iter().cloned()).collect()
    }
}

fn memory() -> Outcome<(Storage, Buffer)> {
    let buffer = Buffer::new();
    let storage = Storage::with_options(buffer.clone(), Options::new().history(0));
    storage.open(Mode::Append, false)?;
    Ok((storage, buffer))
}

fn create(storage: &Storage, plans: &[(String, Plan)]) -> Outcome {
    storage.transaction(|tx| -> Result<(), Error> {
        let explain = |error| tx.explain("encode a type", &error);
        let datatype = Datatype::from_type::<u8>().map_err(explain)?;
        let datatype = encode_datatype(datatype.id()).map_err(explain)?;
        let mut datasets = tx.create_datasets()?;
        for (name, plan) in plans {
            let bytes = plan.bytes();
            let mut chunks = Vec::new();
            let mut dims = plan.dims.clone();
            let filters = match plan.form {
                Form::Rows(_, true) => {
                    vec![FilterStep { id: 32000, name: "lzf".to_owned(), optional: true, parameters: vec![1, 2] }]
                }
                _ => Vec::new(),
            };
            let layout = match plan.form {
                Form::Compact => DataLayout::Compact(&bytes),
                Form::Contiguous if bytes.is_empty() => DataLayout::Contiguous(None),
                Form::Contiguous => {
                    let offset = tx.allocate(bytes.len() as u64)?;
                    tx.write_at(offset, &bytes)?;
                    DataLayout::Contiguous(Some(offset))
                }
                Form::Rows(rows, filtered) => {
                    dims[0] = rows;
                    let full = dims.iter().product::<u64>() as usize;
                    for chunk in bytes.chunks(full) {
                        let mut chunk = chunk.to_vec();
                        chunk.resize(full, 0);
                        let offset = tx.allocate(full as u64)?;
                        tx.write_at(offset, &chunk)?;
                        chunks.push(StoredChunk { offset, length: full as u64, filter_mask: u32::from(filtered) });
                    }
                    DataLayout::Chunked { dims: &dims, filters: &filters, chunks: &chunks }
                }
            };
            let attributes = plan.named();
            let dataset =
                NewDataset { datatype: &datatype, item_size: 1, dims: &plan.dims, layout, attributes: &attributes };
            datasets.create(tx.file(), name, &dataset)?;
        }
        Ok(())
    })?;
    Ok(())
}

/// As libhdf5 sees it.
fn check_with_library(dataset: &Dataset, plan: &Plan) -> Outcome {
    let dims: Vec<u64> = dataset.shape().iter().map(|&dim| dim as u64).collect();
    assert_eq!(dims, plan.dims);
    assert_eq!(dataset.dtype()?.size(), 1);
    match plan.form {
        Form::Compact => assert_eq!(dataset.layout(), Layout::Compact),
        Form::Contiguous => assert_eq!(dataset.layout(), Layout::Contiguous),
        Form::Rows(rows, filtered) => {
            assert_eq!(dataset.layout(), Layout::Chunked);
            assert_eq!(dataset.chunk().ok_or("no chunks")?[0] as u64, rows);
            assert_eq!(dataset.filters().len(), usize::from(filtered));
            let places = chunk_locations(dataset)?;
            assert_eq!(places.len() as u64, plan.dims[0].div_ceil(rows));
            assert!(places.iter().all(|place| place.filter_mask == u32::from(filtered)));
        }
    }
    if !matches!(plan.form, Form::Rows(_, true)) {
        // The LZF filter is not in this libhdf5; its chunks were left out of it anyway.
        assert_eq!(dataset.read_raw::<u8>()?, plan.bytes());
    }
    let named = plan.named();
    assert_eq!(dataset.attr_names()?.len(), named.len());
    assert_eq!(dataset.loc_info()?.num_attrs, named.len());
    for (name, value) in named {
        let attribute = dataset.attr(name.to_str()?)?;
        match value {
            AttributeValue::Text(text) => assert_eq!(attribute.read_scalar::<VarLenUnicode>()?.as_str(), text),
            AttributeValue::Integers(values) => assert_eq!(attribute.read_raw::<i64>()?, values),
            AttributeValue::Unsigned(value) => assert_eq!(attribute.read_scalar::<u64>()?, value),
            AttributeValue::Real(value) => assert_eq!(attribute.read_scalar::<f64>()?.to_bits(), value.to_bits()),
        }
    }
    Ok(())
}

fn describe(snapshot: &Snapshot, name: &str) -> Outcome<Option<DatasetDescription>> {
    let offset = object_offset(snapshot.file(), name)?.ok_or("it is not there")?;
    Ok(snapshot.describe_dataset(offset)?)
}

/// As it is read here.
fn check_here(snapshot: &Snapshot, name: &str, plan: &Plan) -> Outcome {
    let found = describe(snapshot, name)?.ok_or("only libhdf5 can read it")?;
    assert_eq!(found.dims, plan.dims);
    let mut bytes = vec![0; plan.bytes().len()];
    match (&found.layout, &plan.form) {
        (StoredLayout::Compact(held), Form::Compact) => bytes.clone_from(held),
        (StoredLayout::Contiguous { offset, length }, Form::Contiguous) => {
            assert_eq!(*length, bytes.len() as u64);
            if let Some(offset) = offset {
                snapshot.read_at(*offset, &mut bytes)?;
            }
        }
        (StoredLayout::Chunked { dims, item_size, filters, chunks }, Form::Rows(rows, filtered)) => {
            assert_eq!((dims[0], *item_size, filters.len()), (*rows, 1, usize::from(*filtered)));
            let full = dims.iter().product::<u64>() as usize;
            for (chunk, piece) in chunks.iter().zip(bytes.chunks_mut(full)) {
                let chunk = chunk.ok_or("a chunk has no place")?;
                assert_eq!((chunk.length, chunk.filter_mask), (full as u64, u32::from(*filtered)));
                snapshot.read_at(chunk.offset, piece)?;
            }
        }
        (layout, form) => return Err(format!("{layout:?} where {form:?} was written").into()),
    }
    assert_eq!(bytes, plan.bytes());
    let named: Vec<_> = found.attributes.iter().map(|(name, value)| (name.as_c_str(), value.clone())).collect();
    assert_eq!(named, plan.named());
    Ok(())
}

fn attribute() -> impl Strategy<Value = AttributeValue> {
    prop_oneof![
        "\\PC{0,12}".prop_map(AttributeValue::Text),
        (0..9000_usize).prop_map(|length| AttributeValue::Text("x".repeat(length))),
        prop::collection::vec(any::<i64>(), 0..20).prop_map(AttributeValue::Integers),
        any::<u64>().prop_map(AttributeValue::Unsigned),
        any::<f64>().prop_filter("compares with itself", |value| !value.is_nan()).prop_map(AttributeValue::Real),
    ]
}

fn plan() -> impl Strategy<Value = Plan> {
    let form = prop_oneof![
        Just(Form::Compact),
        Just(Form::Contiguous),
        (1..40_u64, any::<bool>()).prop_map(|(rows, filtered)| Form::Rows(rows, filtered)),
    ];
    let dims = prop::collection::vec(1..30_u64, 1..4);
    (dims, form, prop::collection::vec(attribute(), 0..10)).prop_map(|(dims, form, attributes)| {
        let form = match form {
            Form::Rows(rows, filtered) => Form::Rows(rows.min(dims[0]), filtered),
            other => other,
        };
        Plan { dims, form, attributes }
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn libhdf5_and_this_crate_read_what_was_written(plans in prop::collection::vec(plan(), 1..6)) {
        let run = || -> Outcome {
            let plans: Vec<(String, Plan)> =
                plans.iter().enumerate().map(|(index, plan)| (format!("d{index}"), plan.clone())).collect();
            let (storage, buffer) = memory()?;
            create(&storage, &plans)?;
            for (name, plan) in &plans {
                check_with_library(&storage.file()?.dataset(name)?, plan)?;
                check_here(storage.snapshot()?.as_ref(), name, plan)?;
            }
            storage.close()?;
            let again = Storage::new(Buffer::from(buffer.to_vec()));
            again.open(Mode::Read, false)?;
            for (name, plan) in &plans {
                check_with_library(&again.file()?.dataset(name)?, plan)?;
                check_here(again.snapshot()?.as_ref(), name, plan)?;
            }
            Ok(())
        };
        if let Err(error) = run() {
            return Err(TestCaseError::fail(error.to_string()));
        }
    }
}

fn simple(length: u64, form: Form) -> Plan {
    Plan { dims: vec![length], form, attributes: vec![AttributeValue::Text("one".into()), AttributeValue::Unsigned(2)] }
}

/// 2,500 chunks are more than libhdf5 itself would put on one page of the index.
#[test]
fn scalars_empty_datasets_and_long_indexes_too() -> Outcome {
    let (storage, _) = memory()?;
    let mut scalar = simple(1, Form::Contiguous);
    scalar.dims.clear();
    let plans = [
        ("scalar".to_owned(), scalar),
        ("empty".to_owned(), simple(0, Form::Contiguous)),
        ("largest compact".to_owned(), simple(65_000, Form::Compact)),
        ("1024 chunks".to_owned(), simple(10 * 1024, Form::Rows(10, false))),
        ("1025 chunks".to_owned(), simple(10 * 1025, Form::Rows(10, false))),
        ("many filtered chunks".to_owned(), simple(2500, Form::Rows(1, true))),
    ];
    create(&storage, &plans)?;
    for (name, plan) in &plans {
        check_with_library(&storage.file()?.dataset(name)?, plan)?;
        check_here(storage.snapshot()?.as_ref(), name, plan)?;
    }
    Ok(())
}

#[test]
fn what_hdf5_cannot_hold_is_an_error_and_leaves_nothing() -> Outcome {
    let (storage, _) = memory()?;
    let bytes = create(&storage, &[("too large".to_owned(), simple(70_000, Form::Compact))]);
    assert!(bytes.unwrap_err().to_string().contains("larger than an HDF5 object header can hold"));
    let mut long = simple(4, Form::Contiguous);
    long.attributes = vec![AttributeValue::Integers(vec![0; 9000])];
    assert!(create(&storage, &[("long list".to_owned(), long)]).is_err());
    for dims in [vec![1; 33], vec![u64::MAX, 2], vec![3]] {
        let tx = storage.transaction(|tx| -> Result<(), Error> {
            let dataset = NewDataset {
                datatype: &[],
                item_size: 2,
                dims: &dims,
                layout: DataLayout::Compact(&[1]),
                attributes: &[],
            };
            tx.create_datasets()?.create(tx.file(), "impossible", &dataset)
        });
        assert!(matches!(tx, Err(Error::Usage { .. })), "{dims:?}");
    }
    create(&storage, &[("twice".to_owned(), simple(4, Form::Compact))])?;
    assert!(create(&storage, &[("twice".to_owned(), simple(5, Form::Compact))]).is_err());
    assert_eq!(storage.file()?.dataset("twice")?.size(), 4);
    assert_eq!(storage.file()?.member_names()?.iter().filter(|name| !name.ends_with('s')).count(), 2);
    Ok(())
}

/// Attributes of libhdf5's make the header one that only libhdf5 reads; it reads all of it.
#[test]
fn a_dataset_that_libhdf5_changes_is_left_to_it() -> Outcome {
    let (storage, _) = memory()?;
    create(&storage, &[("data".to_owned(), simple(900, Form::Rows(100, false)))])?;
    let dataset = storage.file()?.dataset("data")?;
    dataset.new_attr::<f32>().create("loss")?.write_scalar(&0.5_f32)?;
    dataset.write_slice(&[1_u8, 2, 3], 0..3)?;
    storage.flush()?;
    let snapshot = storage.snapshot()?;
    assert!(describe(snapshot.as_ref(), "data")?.is_none());
    let read = snapshot.file().dataset("data")?;
    assert_eq!(read.attr("loss")?.read_scalar::<f32>()?, 0.5);
    assert_eq!(read.attr("a")?.read_scalar::<VarLenUnicode>()?.as_str(), "one");
    assert_eq!(read.read_raw::<u8>()?[..4], [1, 2, 3, 24]);
    // Removing one leaves the rest in the form that is read here.
    create(&storage, &[("other".to_owned(), simple(9, Form::Compact))])?;
    storage.file()?.dataset("other")?.delete_attr("a")?;
    storage.flush()?;
    let found = describe(storage.snapshot()?.as_ref(), "other")?.ok_or("only libhdf5 can read it")?;
    assert_eq!(found.attributes, [(c"bb".to_owned(), AttributeValue::Unsigned(2))]);
    Ok(())
}

/// What is made here and removed by libhdf5 gives all its room back.
#[test]
fn the_space_of_removed_datasets_is_used_again() -> Outcome {
    let (storage, buffer) = memory()?;
    let plans: Vec<(String, Plan)> = (0..40)
        .map(|index| {
            // Without texts: libhdf5 leaves those of a removed object in their heap.
            let form = match index % 3 {
                0 => Form::Compact,
                1 => Form::Contiguous,
                _ => Form::Rows(10, false),
            };
            let attributes = vec![AttributeValue::Unsigned(2)];
            (format!("d{index}"), Plan { attributes, ..simple(50 + 13 * index, form) })
        })
        .collect();
    let mut sizes = Vec::new();
    for _ in 0..30 {
        create(&storage, &plans)?;
        for (name, plan) in &plans {
            check_with_library(&storage.file()?.dataset(name)?, plan)?;
            storage.file()?.unlink(name)?;
        }
        storage.flush()?;
        storage.reclaim()?;
        sizes.push(buffer.len());
    }
    assert_eq!(sizes[29], sizes[6], "the file goes on growing: {sizes:?}");
    Ok(())
}

#[test]
fn room_that_no_dataset_names_is_given_back_and_only_that() -> Outcome {
    let (storage, buffer) = memory()?;
    let mut sizes = Vec::new();
    for _ in 0..10 {
        storage.transaction(|tx| tx.allocate(100_000).map(drop))?;
        storage.transaction(|tx| -> Result<(), Error> {
            let offset = tx.allocate(5000)?;
            assert!(matches!(tx.release(offset, 4999), Err(Error::Usage { .. })));
            tx.release(offset, 5000)?;
            assert!(matches!(tx.release(offset, 5000), Err(Error::Usage { .. })), "taken back twice");
            Ok(())
        })?;
        storage.file()?.create_group("now and then")?;
        storage.flush()?;
        storage.file()?.unlink("now and then")?;
        storage.flush()?;
        sizes.push(buffer.len());
    }
    assert_eq!(sizes[9], sizes[3], "{sizes:?}");
    create(&storage, &[("data".to_owned(), simple(5000, Form::Contiguous))])?;
    let found = describe(storage.snapshot()?.as_ref(), "data")?.ok_or("only libhdf5 can read it")?;
    let StoredLayout::Contiguous { offset: Some(offset), length } = found.layout else { return Err("no place".into()) };
    assert!(matches!(storage.transaction(|tx| tx.release(offset, length)), Err(Error::Usage { .. })));
    Ok(())
}

#[test]
fn data_outside_the_file_is_damage() -> Outcome {
    let (storage, _) = memory()?;
    let datatype = encode_datatype(Datatype::from_type::<u8>()?.id())?;
    let outside = StoredChunk { offset: 1 << 40, length: 10, filter_mask: 0 };
    for layout in [
        DataLayout::Contiguous(Some(1 << 40)),
        DataLayout::Chunked { dims: &[10], filters: &[], chunks: &[outside] },
        DataLayout::Chunked { dims: &[5], filters: &[], chunks: &[outside, outside] },
    ] {
        let created = storage.transaction(|tx| -> Result<(), Error> {
            let dataset = NewDataset { datatype: &datatype, item_size: 1, dims: &[10], layout, attributes: &[] };
            tx.create_datasets()?.create(tx.file(), "data", &dataset)
        });
        // libhdf5 looks at some layouts when it links them.
        if created.is_ok() {
            let described = describe(storage.snapshot()?.as_ref(), "data");
            assert!(described.unwrap_err().to_string().contains("behind the end of the file"));
            storage.file()?.unlink("data")?;
            storage.rollback()?;
        }
    }
    assert!(storage.snapshot()?.read_at(1 << 40, &mut [0; 8]).is_err());
    Ok(())
}

/// Every byte of a header and of its texts' heap: what is read is right, or it is an error.
#[test]
fn a_flipped_bit_never_gives_another_description() -> Outcome {
    let (storage, buffer) = memory()?;
    let plan = simple(4000, Form::Rows(100, true));
    create(&storage, &[("data".to_owned(), plan)])?;
    let offset = object_offset(storage.snapshot()?.file(), "data")?.ok_or("it is not there")?;
    let right = describe(storage.snapshot()?.as_ref(), "data")?.ok_or("only libhdf5 can read it")?;
    storage.close()?;
    let bytes = buffer.to_vec();
    let (mut refused, mut foreign, mut text) = (0, 0, 0);
    for at in (offset as usize..offset as usize + 300).chain(heap(&bytes)?) {
        let mut damaged = bytes.clone();
        damaged[at] ^= 1 << (at % 8);
        let storage = Storage::new(Source::Buffer(Buffer::from(damaged)));
        storage.open(Mode::Read, false)?;
        match storage.snapshot()?.describe_dataset(offset) {
            Err(Error::Damaged { .. }) => refused += 1,
            Err(error) => return Err(error.into()),
            Ok(None) => foreign += 1,
            // A heap has no checksum: what is in it has to be protected by whoever puts it there.
            Ok(Some(found)) if found.layout == right.layout && found.dims == right.dims => {
                text += usize::from(found.attributes != right.attributes);
            }
            Ok(Some(found)) => return Err(format!("byte {at}: {found:?}").into()),
        }
    }
    assert!(refused > 150 && foreign > 10, "{refused} refused, {foreign} left to libhdf5, {text} texts");
    assert!(text <= 3, "more texts changed than the heap has letters");
    Ok(())
}

/// Where the used part of the one text heap lies.
fn heap(bytes: &[u8]) -> Outcome<std::ops::Range<usize>> {
    let text = bytes.windows(8).position(|window| window == b"one\0\0\0\0\0").ok_or("the text is not there")?;
    let start = bytes[..text].windows(4).rposition(|window| window == b"GCOL").ok_or("no heap")?;
    Ok(start..text + 8)
}

#[test]
fn files_with_a_user_block_are_refused() -> Outcome {
    let (storage, buffer) = memory()?;
    create(&storage, &[("data".to_owned(), simple(4, Form::Compact))])?;
    storage.close()?;
    let mut bytes = vec![0; 512];
    bytes.extend(buffer.to_vec());
    let shifted = Storage::new(Source::Buffer(Buffer::from(bytes)));
    // libhdf5 finds such a superblock; addresses then count from it.
    if shifted.open(Mode::ReadWrite, false).is_ok() {
        let error = create(&shifted, &[("more".to_owned(), simple(4, Form::Compact))]).unwrap_err();
        assert!(error.to_string().contains("h5repack"), "{error}");
    }
    Ok(())
}

#[test]
fn threads_describe_while_another_creates() -> Outcome {
    let (storage, _) = memory()?;
    let storage = Arc::new(storage);
    create(&storage, &[("data".to_owned(), simple(500, Form::Rows(7, false)))])?;
    std::thread::scope(|scope| -> Outcome {
        let readers: Vec<_> = (0..2)
            .map(|_| {
                scope.spawn(|| -> Outcome {
                    for _ in 0..200 {
                        check_here(storage.snapshot()?.as_ref(), "data", &simple(500, Form::Rows(7, false)))?;
                    }
                    Ok(())
                })
            })
            .collect();
        for index in 0..100 {
            create(&storage, &[(format!("more{index}"), simple(300, Form::Contiguous))])?;
        }
        readers.into_iter().try_for_each(|reader| reader.join().unwrap_or_else(|_| Err("a reader panicked".into())))
    })
}
