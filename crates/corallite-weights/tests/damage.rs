//! A flipped bit anywhere in a store is found by `verify`, or it changed nothing that the store says; in the used bytes
//! of every structure it is found.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::ops::Range;

use corallite_file::{Buffer, Mode, Options, Storage, StoredLayout, object_offset};
use corallite_weights::{
    Checkpoints, Delta, DeltaStore, DeltaType, Dtype, Hdf5Options, Hdf5Store, SafetensorsFile, Unwatched, WeightHash,
    WeightStore, WeightTensor, safetensors,
};

type Outcome<T = ()> = Result<T, Box<dyn std::error::Error>>;

/// Everything a store says, as text.
fn dump(store: &Hdf5Store) -> Outcome<BTreeMap<String, String>> {
    let mut all = BTreeMap::new();
    for key in store.list_weights()? {
        let weight = store.load(&key)?.ok_or("listed but absent")?;
        let hash = blake3::hash(&weight.data()?);
        all.insert(format!("weight {key}"), format!("{:?} {hash}", weight.metadata()));
    }
    for key in store.list_deltas()? {
        all.insert(format!("delta {key}"), format!("{:?}", store.load_delta(&key)?));
    }
    let checkpoints = Checkpoints::new(store);
    for info in checkpoints.list()? {
        all.insert(format!("checkpoint {}", info.name), format!("{:?}", checkpoints.get(&info.name)?));
    }
    Ok(all)
}

fn open(bytes: Vec<u8>) -> Outcome<Hdf5Store> {
    let options = Hdf5Options::new().mode(Mode::Read);
    let storage = Storage::with_options(Buffer::from(bytes), Options::new().adopt(Hdf5Store::is_coral));
    Ok(Hdf5Store::open_storage(storage, &options)?)
}

/// Whether `verify` finds fault with the file.
fn is_found(store: &Hdf5Store) -> bool {
    let (Ok(weights), Ok(checkpoints)) = (store.verify(&Unwatched), Checkpoints::new(store).verify()) else {
        return true;
    };
    !weights.damaged.is_empty() || !checkpoints.is_empty()
}

/// A small store with every layout, a checkpoint, a delta, and history.
fn sample() -> Outcome<Vec<u8>> {
    let directory = tempfile::tempdir()?;
    let file = directory.path().join("model.safetensors");
    let floats = |count: u32, seed: u32| -> Vec<u8> {
        (0..count).flat_map(|i| ((i.wrapping_mul(2_654_435_761) ^ seed) as f32).sin().to_le_bytes()).collect()
    };
    let tensors = [
        WeightTensor::new("layer.weight", vec![60, 50], Dtype::F32, floats(3000, 1))?,
        WeightTensor::new("layer.bias", vec![20], Dtype::F32, floats(20, 2))?,
    ];
    safetensors::write(std::fs::File::create(&file)?, &tensors, &[("format".to_owned(), "pt".to_owned())])?;
    let buffer = Buffer::new();
    for (seed, compression) in [(1, "gzip"), (2, "none"), (3, "lzf")] {
        let options = Hdf5Options::new().compression(compression.parse()?);
        let storage = Storage::with_options(buffer.clone(), Options::new().adopt(Hdf5Store::is_coral));
        let store = Hdf5Store::open_storage(storage, &options)?;
        store.store(&WeightTensor::new("loose", vec![700], Dtype::F32, floats(700, seed))?, None)?;
        let mine = WeightHash::new(format!("mine-{compression}"))?;
        let key = store.store(&WeightTensor::new("mine", vec![90], Dtype::F64, floats(180, seed))?, Some(&mine))?;
        if compression == "gzip" {
            Checkpoints::new(&store).add("base", &file)?;
            let delta = Delta {
                delta_type: DeltaType::Sparse,
                data: floats(300, 9).into(),
                data_dtype: Dtype::F32,
                data_shape: vec![300],
                metadata: serde_json::Map::new(),
                original_shape: vec![90],
                original_dtype: Dtype::F64,
                reference_hash: key,
                compression_ratio: 0.5,
            };
            store.store_delta(&delta, &WeightHash::new("delta")?)?;
        }
        store.close()?;
    }
    Ok(buffer.to_vec())
}

#[test]
fn a_flipped_bit_is_found_or_changed_nothing() -> Outcome {
    let bytes = sample()?;
    let good = open(bytes.clone())?;
    assert!(!is_found(&good));
    let expected = dump(&good)?;
    assert_eq!(expected.len(), 10);
    let (mut found, mut harmless) = (0, 0);
    // A prime step, so that every kind of structure is met at every position within it.
    for at in (0..bytes.len()).step_by(13) {
        let mut damaged = bytes.clone();
        damaged[at] ^= 1 << (at % 8);
        let Ok(store) = open(damaged) else {
            found += 1;
            continue;
        };
        if is_found(&store) {
            found += 1;
        } else {
            let actual =
                dump(&store).map_err(|error| format!("offset {at}: verify found nothing, reading failed: {error}"))?;
            assert_eq!(actual, expected, "offset {at}: verify found nothing, but the content differs");
            harmless += 1;
        }
    }
    assert!(found > harmless / 8, "{found} found, {harmless} in unused bytes");
    Ok(())
}

#[test]
fn a_file_cut_anywhere_is_refused_or_complete() -> Outcome {
    let bytes = sample()?;
    let expected = dump(&open(bytes.clone())?)?;
    for length in (0..bytes.len()).step_by(1009) {
        if let Ok(store) = open(bytes[..length].to_vec()) {
            // Only the trailer was cut: all data is there, and the loss is reported.
            assert_eq!(dump(&store)?, expected);
            assert!(is_found(&store), "cut at {length}");
        }
    }
    Ok(())
}

/// A weight of `count` floats that deflate makes smaller.
fn weight(name: &str, count: u64, seed: u64) -> Outcome<WeightTensor> {
    let bytes: Vec<u8> = (0..count).flat_map(|i| ((i * seed % 1009) as f32).to_le_bytes()).collect();
    Ok(WeightTensor::new(name, vec![count], Dtype::F32, bytes)?)
}

/// A store with every kind of structure, and what its parts are.
struct Sample {
    bytes: Vec<u8>,
    compact: String,
    chunked: String,
    contiguous: String,
    /// The checkpoint's list of weights, as it is stored.
    list: String,
}

/// Each commit is made in a session of its own and deletes nothing, so that the file has no leftovers of structures. The
/// weights are so many that HDF5 keeps their links in a heap and a B-tree.
fn every_structure() -> Outcome<Sample> {
    let buffer = Buffer::new();
    let mut weights = (0..60).map(|i| weight(&format!("w{i}"), 3, i + 1)).collect::<Outcome<Vec<_>>>()?;
    weights.push(weight("compact", 30, 77)?);
    weights.push(weight("chunked", 3000, 78)?);
    let contiguous = weight("contiguous", 1500, 79)?;
    for (compression, weights) in [("gzip", &weights[..]), ("none", std::slice::from_ref(&contiguous))] {
        let options = Hdf5Options::new().compression(compression.parse()?);
        let store = Hdf5Store::open_source(buffer.clone(), options)?;
        let batch: Vec<_> = weights.iter().map(|weight| (String::new(), weight.clone())).collect();
        store.store_batch(&batch)?;
        store.close()?;
    }
    let model = (0..9).map(|i| weight(&format!("layer.{i}.weight"), 10 + i, 100 + i)).collect::<Outcome<Vec<_>>>()?;
    let store = Hdf5Store::open_source(buffer.clone(), Hdf5Options::new())?;
    add(&store, "base", &model)?;
    store.close()?;
    let list = model.iter().map(|weight| Ok(weight.content_hash()?.to_string())).collect::<Outcome<String>>()?;
    let [.., compact, chunked] = weights.as_slice() else { return Err("no weights".into()) };
    Ok(Sample {
        bytes: buffer.to_vec(),
        compact: path(compact)?,
        chunked: path(chunked)?,
        contiguous: path(&contiguous)?,
        list,
    })
}

fn path(weight: &WeightTensor) -> Outcome<String> {
    Ok(format!("weights/{}", weight.content_hash()?))
}

fn add(store: &Hdf5Store, name: &str, weights: &[WeightTensor]) -> Outcome {
    let mut model = Vec::new();
    safetensors::write(&mut model, weights, &[("format".to_owned(), "pt".to_owned())])?;
    let model = SafetensorsFile::from_bytes(model)?;
    store.transaction(|transaction| transaction.add_checkpoint(name, &model, &Unwatched).map(drop))?;
    Ok(())
}

fn number(bytes: &[u8], at: usize, width: usize) -> usize {
    bytes[at..at + width].iter().rev().fold(0, |number, &byte| number << 8 | usize::from(byte))
}

/// The end of the HDF5 data, from the superblock.
fn end(bytes: &[u8]) -> usize {
    number(bytes, 28, 8)
}

/// Where the HDF5 data has the bytes `what`.
fn places(bytes: &[u8], what: &[u8]) -> Vec<usize> {
    (0..end(bytes)).filter(|&at| bytes[at..].starts_with(what)).collect()
}

/// The object header at `path`.
fn header(bytes: &[u8], path: &str) -> Outcome<Range<usize>> {
    let file = open(bytes.to_vec())?.file()?;
    let at = match path {
        "/" => number(bytes, 36, 8),
        _ => object_offset(&file, path)?.ok_or("no such object")? as usize,
    };
    assert!(bytes[at..].starts_with(b"OHDR\x02"), "{path}");
    // Times and the limits of attribute storage are there or not; the messages' length takes 1, 2, 4 or 8 bytes.
    let flags = bytes[at + 5];
    let prefix = 6 + if flags & 0x20 != 0 { 16 } else { 0 } + if flags & 0x10 != 0 { 4 } else { 0 };
    let width = 1 << (flags & 3);
    Ok(at..at + prefix + width + number(bytes, at + prefix, width) + 4)
}

/// The stored data of a dataset.
fn data(bytes: &[u8], path: &str) -> Outcome<Vec<Range<usize>>> {
    let store = open(bytes.to_vec())?;
    let file = store.file()?;
    let at = object_offset(&file, path)?.ok_or("no such object")?;
    let described = store.storage().snapshot()?.describe_dataset(at)?.ok_or("not written here")?;
    let run = |offset: u64, length: u64| offset as usize..(offset + length) as usize;
    Ok(match described.layout {
        StoredLayout::Compact(data) => {
            let header = header(bytes, path)?;
            let within = bytes[header.clone()].windows(data.len()).position(|found| found == data).ok_or("no data")?;
            vec![run((header.start + within) as u64, data.len() as u64)]
        }
        StoredLayout::Contiguous { offset, length } => vec![run(offset.ok_or("no data")?, length)],
        StoredLayout::Chunked { chunks, .. } => {
            chunks.iter().flatten().map(|chunk| run(chunk.offset, chunk.length)).collect()
        }
    })
}

/// Structures of at most `length` bytes that begin with `signature`, up to their last byte that is not zero: B-tree
/// nodes and heap blocks are padded with zeros behind what they hold.
fn structures(bytes: &[u8], signature: &str, length: usize) -> Vec<Range<usize>> {
    let used = |at: usize| bytes[at..at + length].iter().rposition(|&byte| byte != 0).map_or(0, |last| last + 1);
    places(bytes, signature.as_bytes()).into_iter().map(|at| at..at + used(at)).collect()
}

/// What is used of the collections of texts: signature, version, size, of each text its number, its length and its bytes,
/// and the header of the free space.
///
/// Left out are reserved bytes, reference counts, which nothing counts, the padding to 8 bytes, and the bytes of the free
/// space. The first collection is left out whole: it has `version_string` of /config, which is for people and read by
/// nobody.
fn texts(bytes: &[u8]) -> Vec<Range<usize>> {
    let mut used = Vec::new();
    for at in places(bytes, b"GCOL").into_iter().skip(1) {
        used.extend([at..at + 5, at + 8..at + 16]);
        let (mut object, end) = (at + 16, at + number(bytes, at + 8, 8));
        while object + 16 <= end && number(bytes, object, 2) != 0 {
            let length = number(bytes, object + 8, 8);
            used.extend([object..object + 2, object + 8..object + 16 + length]);
            object += 16 + length.next_multiple_of(8);
        }
        if object + 16 <= end {
            used.push(object + 8..object + 16);
        }
    }
    used
}

/// Flips a few hundred bits, spread over all of `used`. Returns how many were flipped, and which (the byte and the bit in
/// it) nothing reports.
fn flip(bytes: &[u8], used: impl IntoIterator<Item = usize>) -> (usize, Vec<(usize, usize)>) {
    let used: Vec<usize> = used.into_iter().collect();
    assert!(!used.is_empty());
    // An odd step meets every bit of a byte.
    let bits: Vec<_> =
        (0..8 * used.len()).step_by((used.len() * 8 / 250) | 1).map(|bit| (used[bit / 8], bit % 8)).collect();
    let is_silent = |&(at, bit): &(usize, usize)| {
        let mut damaged = bytes.to_vec();
        damaged[at] ^= 1 << bit;
        open(damaged).is_ok_and(|store| !is_found(&store))
    };
    (bits.len(), bits.iter().copied().filter(is_silent).collect())
}

fn assert_reported(bytes: &[u8], what: &str, used: impl IntoIterator<Item = usize>) {
    let (_, silent) = flip(bytes, used);
    assert_eq!(silent, [], "{what}: (byte, bit) whose flip nothing reports");
}

/// A deflate stream has bits that say nothing: those between the last block and the checksum, and in the code tables
/// those of symbols that do not occur. So a few flips may pass, if the content is the same.
fn assert_reported_or_idle(bytes: &[u8], what: &str, used: impl IntoIterator<Item = usize>) -> Outcome {
    let (flips, silent) = flip(bytes, used);
    assert!(silent.len() <= flips / 25, "{what}: {} of {flips} flips pass", silent.len());
    let expected = dump(&open(bytes.to_vec())?)?;
    for (at, bit) in silent {
        let mut damaged = bytes.to_vec();
        damaged[at] ^= 1 << bit;
        assert_eq!(dump(&open(damaged)?)?, expected, "{what}: bit {bit} of byte {at}");
    }
    Ok(())
}

#[test]
fn a_flip_in_the_superblock_or_an_object_header_is_reported() -> Outcome {
    let sample = every_structure()?;
    let bytes = &sample.bytes;
    assert!(!is_found(&open(bytes.clone())?));
    assert_reported(bytes, "superblock", 0..48);
    let groups = ["/", "weights", "checkpoints", "checkpoints/base"];
    let weights = [&sample.compact, &sample.chunked, &sample.contiguous].map(String::as_str);
    for path in groups.into_iter().chain(weights).chain(["checkpoints/base/header", "checkpoints/base/weights"]) {
        assert_reported(bytes, path, header(bytes, path)?);
    }
    Ok(())
}

#[test]
fn a_flip_in_stored_data_is_reported() -> Outcome {
    let sample = every_structure()?;
    let bytes = &sample.bytes;
    assert_reported(bytes, "compact data", data(bytes, &sample.compact)?.into_iter().flatten());
    assert_reported(bytes, "contiguous data", data(bytes, &sample.contiguous)?.into_iter().flatten());
    let list = places(bytes, sample.list.as_bytes())[0];
    assert_reported(bytes, "a checkpoint's list of weights", list..list + sample.list.len());
    assert_reported_or_idle(bytes, "a chunk", data(bytes, &sample.chunked)?.into_iter().flatten())?;
    assert_reported_or_idle(
        bytes,
        "a checkpoint's header",
        data(bytes, "checkpoints/base/header")?.into_iter().flatten(),
    )
}

#[test]
fn a_flip_in_the_index_of_several_chunks_is_reported() -> Outcome {
    let buffer = Buffer::new();
    let bytes: Vec<u8> = (0..1_200_000_u64).map(|i| (i * i / 3000) as u8).collect();
    let store = Hdf5Store::open_source(buffer.clone(), Hdf5Options::new())?;
    let key = store.store(&WeightTensor::new("several", vec![2400, 500], Dtype::U8, bytes)?, None)?;
    store.close()?;
    let bytes = buffer.to_vec();
    let chunks = data(&bytes, &format!("weights/{key}"))?;
    assert_eq!(chunks.len(), 2);
    // An entry has 8 bytes of offset, 4 of length and 4 of filter mask.
    for (signature, length) in [("FAHD", 28), ("FADB", 14 + 2 * 16 + 4)] {
        let places = places(&bytes, signature.as_bytes());
        assert_eq!(places.len(), 1, "{signature}");
        assert_reported(&bytes, signature, places[0]..places[0] + length);
    }
    assert_reported_or_idle(&bytes, "chunks", chunks.into_iter().flatten())
}

#[test]
fn a_flip_in_the_texts_of_attributes_is_reported() -> Outcome {
    let sample = every_structure()?;
    assert_reported(&sample.bytes, "texts", texts(&sample.bytes).into_iter().flatten());
    Ok(())
}

/// The manager of the free space in the links' heap (`FSHD`, `FSSE`) is left out: it says nothing about what there is,
/// `verify` does not read it, and a flip in it is only noticed when a link is added.
#[test]
fn a_flip_in_the_links_of_a_large_group_is_reported() -> Outcome {
    let sample = every_structure()?;
    // The heap's header, the block of its blocks, its blocks; the B-tree's header, inner nodes and leaves.
    for (signature, length) in [("FRHP", 146), ("FHIB", 100), ("FHDB", 512), ("BTHD", 38), ("BTIN", 512), ("BTLF", 512)]
    {
        assert_reported(&sample.bytes, signature, structures(&sample.bytes, signature, length).into_iter().flatten());
    }
    Ok(())
}

#[test]
fn a_flip_in_the_trailer_is_reported() -> Outcome {
    let bytes = every_structure()?.bytes;
    let trailer = end(&bytes).next_multiple_of(4096)..bytes.len();
    assert_reported(&bytes, "its footer", bytes.len() - 56..bytes.len());
    assert_reported(&bytes, "the trailer", trailer);
    Ok(())
}

/// Three weights that nothing needs, one that a checkpoint needs, and one that is kept.
fn with_unneeded() -> Outcome<(Vec<u8>, [WeightTensor; 5])> {
    let weights =
        [weight("a", 200, 1)?, weight("b", 200, 2)?, weight("c", 20, 3)?, weight("d", 200, 4)?, weight("e", 200, 5)?];
    let buffer = Buffer::new();
    let store = Hdf5Store::open_source(buffer.clone(), Hdf5Options::new())?;
    store.store(&weights[4], None)?;
    add(&store, "removed", &weights[..4])?;
    add(&store, "stays", &weights[3..4])?;
    Checkpoints::new(&store).remove("removed")?;
    store.close()?;
    Ok((buffer.to_vec(), weights))
}

/// Runs `gc` on a damaged file. Returns what it freed, and the store as it is when opened again.
fn collect(bytes: Vec<u8>) -> Outcome<(u64, Hdf5Store)> {
    let buffer = Buffer::from(bytes);
    let store = Hdf5Store::open_source(buffer.clone(), Hdf5Options::new())?;
    let report = Checkpoints::new(&store).gc(&Unwatched)?;
    store.close()?;
    Ok((report.weights, open(buffer.to_vec())?))
}

#[test]
fn gc_leaves_a_weight_that_cannot_be_looked_at_and_frees_the_others() -> Outcome {
    let (bytes, weights) = with_unneeded()?;
    let mut left = [&weights[0], &weights[3], &weights[4]].map(|weight| weight.content_hash().unwrap());
    left.sort();
    let header = header(&bytes, &path(&weights[0])?)?;
    // Its signature, its version, a message, its checksum.
    for at in [header.start, header.start + 4, header.start + 60, header.end - 1] {
        let mut damaged = bytes.clone();
        damaged[at] ^= 0x10;
        let (freed, store) = collect(damaged)?;
        assert_eq!(freed, 2, "offset {at}");
        assert_eq!(store.list_weights()?, left);
        let found = store.verify(&Unwatched)?.damaged;
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!(found[0].name, weights[0].content_hash()?.as_str());
        assert_eq!(Checkpoints::new(&store).verify()?, []);
    }
    Ok(())
}

#[test]
fn gc_frees_a_weight_whose_texts_or_bytes_are_damaged() -> Outcome {
    let (bytes, weights) = with_unneeded()?;
    let mut left = [&weights[3], &weights[4]].map(|weight| weight.content_hash().unwrap());
    left.sort();
    let hash = weights[0].content_hash()?;
    // Its text `hash`, the length of that text, and its data.
    let text = places(&bytes, hash.as_str().as_bytes()).into_iter().find(|&at| number(&bytes, at - 8, 8) == 64);
    let text = text.ok_or("no text")?;
    let chunk = data(&bytes, &path(&weights[0])?)?.remove(0);
    for at in [text, text - 8, chunk.start.midpoint(chunk.end)] {
        let mut damaged = bytes.clone();
        damaged[at] ^= 0x10;
        let found = open(damaged.clone())?.verify(&Unwatched)?.damaged;
        assert!(found.iter().any(|damage| damage.name == hash.as_str()), "offset {at}: {found:?}");
        let (freed, store) = collect(damaged)?;
        assert_eq!(freed, 3, "offset {at}");
        assert_eq!(store.list_weights()?, left);
        assert!(!is_found(&store), "offset {at}");
    }
    Ok(())
}
