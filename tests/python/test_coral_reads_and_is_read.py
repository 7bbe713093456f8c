"""Files written by the PyPI package coral-ml open here; files written here open in it."""

import itertools

import h5py
import numpy as np
import pytest
from coral import DeltaConfig, DeltaEncoder, DeltaType, HDF5Store, WeightTensor
from coral.core.weight_tensor import WeightMetadata
from helpers import BAD_STORE, DAMAGED, beside, h5_weights, random_model, save, sha256

COMPRESSIONS = [("gzip", 4), ("gzip", 9), ("lzf", None), (None, None)]


def arrays(rng):
    """Every kind of array that coral can store."""
    made = {
        f"plain.{name}": (rng.standard_normal((33, 17)) * 100).astype(name)
        for name in ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "c8", "c16")
        if name[0] != "u"
    }
    made |= {f"plain.{name}": rng.integers(0, 100, (33, 17)).astype(name) for name in ("u1", "u2", "u4", "u8")}
    made["bool"] = rng.integers(0, 2, (40, 3)).astype(bool)
    made["big-endian"] = rng.standard_normal((5, 7)).astype(">f4")
    made["several-chunks"] = rng.standard_normal((700, 301)).astype("f4")
    made["empty"] = np.zeros((0,), "f4")
    made["empty.inner"] = np.zeros((2, 0, 3), "f8")
    made["nan-payloads"] = np.array([0x7FC00001, 0xFFC12345, 0x7F800001], "u4").view("f4")
    return made


def tensor(name, array, **extra):
    return WeightTensor(array, WeightMetadata(name=name, shape=array.shape, dtype=array.dtype, **extra))


def write_coral(path, rng, compression, level):
    """A coral store of all of them and of a delta of every type; returns ({key: (name, array)}, delta keys)."""
    weights, deltas = {}, []
    with HDF5Store(str(path), compression=compression, compression_opts=level, mode="w") as store:
        made = arrays(rng)
        if compression is None:  # coral cannot compress a scalar
            made["scalar"] = np.array(2.5, "f4")
        for name, array in made.items():
            extra = {"layer_type": "Linear", "model_name": "bert"} if name == "plain.f4" else {}
            key = store.store(tensor(name, array, **extra))
            weights[key] = (name, array)
        key = store.store(tensor("own-key", rng.standard_normal(9).astype("f4")), hash_key="my-own-key")
        weights[key] = ("own-key", store.load(key).data)

        reference = tensor("reference", rng.standard_normal((64, 32)).astype("f4"))
        weights[store.store(reference)] = ("reference", reference.data)
        changed = reference.data.copy()
        changed[::5] += 0.01
        for delta_type in DeltaType:
            encoder = DeltaEncoder(DeltaConfig(delta_type=delta_type))
            delta = encoder.encode_delta(tensor("changed", changed), reference)
            deltas.append(store.store_delta(delta, f"delta-{delta_type.value}"))
    return weights, deltas


@pytest.mark.parametrize(("compression", "level"), COMPRESSIONS)
def test_a_coral_file_lists_shows_and_verifies_and_is_not_changed(cli, tmp_path, rng, compression, level):
    path = tmp_path / "coral.h5"
    weights, deltas = write_coral(path, rng, compression, level)
    assert len(deltas) == len(DeltaType)
    before = sha256(path)

    listing = cli.json("ls", path)
    assert listing["checkpoints"] == []
    assert listing["weights"] == len(weights)
    cli.run("ls", path)

    info = cli.json("info", path)
    assert info["weights"] == len(weights)
    assert info["checkpoints"] == 0
    assert info["logical_bytes"] == sum(array.nbytes for _, array in weights.values())
    assert info["file_bytes"] == path.stat().st_size
    assert 0 < info["stored_bytes"] <= info["file_bytes"]
    cli.run("info", path)

    for key, (name, _) in weights.items():
        assert name in cli.run("show", path, key).stdout
    cli.json("show", path, next(iter(weights)))

    cli.run("verify", path)
    assert sha256(path) == before, "reading changed the file"


@pytest.mark.parametrize(("compression", "level"), COMPRESSIONS)
def test_a_flipped_bit_in_a_coral_file_is_reported_with_the_weight(cli, tmp_path, rng, compression, level):
    path = tmp_path / "coral.h5"
    weights, _ = write_coral(path, rng, compression, level)
    key, name = next((key, name) for key, (name, _) in weights.items() if name == "several-chunks")
    with h5py.File(path) as file:
        dataset = file["weights"][key]
        if compression is None:
            offset = dataset.id.get_offset()
        else:
            offset = dataset.id.get_chunk_info(1).byte_offset
    damaged = bytearray(path.read_bytes())
    damaged[offset + 101] ^= 0x10
    path.write_bytes(damaged)

    done = cli.run("verify", path, exit=DAMAGED)
    assert key in done.stdout + done.stderr or name in done.stdout + done.stderr
    report = cli.run("verify", path, "--json", exit=DAMAGED).stdout
    assert key in report


def test_checkpoints_are_added_to_a_coral_file_and_coral_still_reads_its_own(cli, tmp_path, rng):
    path = tmp_path / "coral.h5"
    weights, deltas = write_coral(path, rng, "gzip", 4)
    file = save(tmp_path / "model.safetensors", random_model(rng))
    cli.run("add", path, file, "--name", "added")
    cli.run("export", path, "added", "-o", tmp_path / "out.safetensors")
    assert sha256(tmp_path / "out.safetensors") == sha256(file)
    cli.run("verify", path)
    with HDF5Store(str(path), mode="r") as coral:
        for key, (name, array) in weights.items():
            loaded = coral.load(key)
            assert loaded.metadata.name == name
            assert loaded.data.tobytes() == array.tobytes()
        assert sorted(coral.list_deltas()) == sorted(deltas)
        for key in deltas:
            assert coral.load_delta(key).reference_hash in weights


def models(rng):
    """Tensors of the dtypes that numpy has a name for, and the shapes that are special."""
    f32 = rng.standard_normal((300, 257)).astype("<f4")
    return {
        "f32": f32,
        "f32.same-bytes": f32.copy(),
        "f64": rng.standard_normal((7, 5, 3)).astype("<f8"),
        "f16": rng.standard_normal((128, 64)).astype("<f2"),
        "i64": rng.integers(-(2**62), 2**62, (1, 512)).astype("<i8"),
        "i8": rng.integers(-128, 128, 1000).astype("i1"),
        "u8": rng.integers(0, 256, (31, 33)).astype("u1"),
        "u32": rng.integers(0, 2**32, 50).astype("<u4"),
        "bool": rng.integers(0, 2, (9, 9)).astype("?"),
        "scalar": np.array(-0.0, "<f4"),
        "scalar.i64": np.array(42, "<i8"),
        "empty": np.zeros((0,), "<f4"),
        "empty.inner": np.zeros((4, 0, 2), "<f2"),
        "nan-payloads": np.array([0x7FC00001, 0xFFC12345, 0x7F800001], "<u4").view("<f4"),
        "names with spaces / slashes . and ünïcödé": np.arange(6, dtype="<f4"),
    }


ATTRIBUTES = {"name", "shape", "dtype", "layer_type", "model_name", "compression_info", "hash"}


@pytest.mark.parametrize("compression", ["default", "planes", "gzip", "gzip:1", "gzip:9", "lzf", "none"])
def test_stock_h5py_and_coral_read_every_weight_written_here(cli, tmp_path, rng, compression):
    wanted = models(rng)
    file = save(tmp_path / "model.safetensors", wanted, {"format": "pt"})
    path = tmp_path / "models.h5"
    cli.run("add", path, file, *([] if compression == "default" else ["--compression", compression]))
    cli.run("verify", path)

    stored = h5_weights(path)
    by_content = {(array.dtype, array.shape, array.tobytes()): key for key, (_, array) in stored.items()}
    for name, array in wanted.items():
        assert (array.dtype, array.shape, array.tobytes()) in by_content, f"{name} is not in /weights"
    assert len(stored) == len({(a.dtype, a.shape, a.tobytes()) for a in wanted.values()}), "stored more than once"

    for key, (attributes, array) in stored.items():
        assert ATTRIBUTES <= set(attributes), f"{key}: {sorted(attributes)}"
        for attribute in ATTRIBUTES - {"shape"}:
            assert isinstance(attributes[attribute], str), f"{attribute}: {attributes[attribute]!r}"
        assert attributes["name"] in wanted
        assert attributes["hash"] == key
        assert np.dtype(attributes["dtype"]) == array.dtype
        assert isinstance(attributes["shape"], np.ndarray)
        assert tuple(int(size) for size in attributes["shape"]) == array.shape
        if array.ndim:
            assert np.issubdtype(attributes["shape"].dtype, np.integer)

    with HDF5Store(str(path), mode="r") as coral:
        assert sorted(coral.list_weights()) == sorted(stored)
        for key in coral.list_weights():
            loaded = coral.load(key)
            array = stored[key][1]
            assert loaded.data.dtype == array.dtype
            assert loaded.data.tobytes() == array.tobytes()
            assert loaded.metadata.hash == key
            assert loaded.metadata.shape == array.shape
            assert loaded.metadata.compression_info == coral.get_metadata(key).compression_info
        assert coral.get_storage_info()["total_weights"] == len(stored)


def test_the_groups_and_the_version_that_every_file_has(store):
    with h5py.File(store, "r") as file:
        for group in ("config", "nodes", "values", "buckets", "weights", "deltas", "metadata"):
            assert isinstance(file[group], h5py.Group), group
        assert int(file["config"].attrs["format_version"]) >= 1
        assert isinstance(file["config"].attrs["version_string"], str)


def test_every_dtype_of_safetensors_comes_out_byte_for_byte(cli, tmp_path, rng):
    sizes = {
        "F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U64": 8, "U32": 4,
        "U16": 2, "U8": 1, "F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1, "F8_E4M3FNUZ": 1, "F8_E5M2FNUZ": 1, "C64": 8,
    }  # fmt: skip
    packed = {"F4": 4, "F6_E2M3": 6, "F6_E3M2": 6}  # bits
    tensors = {}
    for (dtype, size), shape in itertools.product(sizes.items(), [(), (0,), (3, 0), (129, 65)]):
        tensors[f"{dtype}.{shape}"] = (dtype, shape, rng.bytes(size * int(np.prod(shape))))
    for (dtype, bits), shape in itertools.product(packed.items(), [(0,), (4,), (64, 12)]):
        tensors[f"{dtype}.{shape}"] = (dtype, shape, rng.bytes(bits * int(np.prod(shape)) // 8))
    for shape in [(), (0,), (100,)]:
        tensors[f"BOOL.{shape}"] = ("BOOL", shape, rng.integers(0, 2, int(np.prod(shape))).astype("u1").tobytes())
    file = save(tmp_path / "all.safetensors", tensors, {"a": "b", "ü": ""})
    path = tmp_path / "models.h5"
    for number, compression in enumerate(("gzip", "lzf", "none")):
        cli.run("add", path, file, "--name", f"n{number}", "--compression", compression)
        cli.run("export", path, f"n{number}", "-o", tmp_path / "out")
        assert sha256(tmp_path / "out") == sha256(file)
    cli.run("verify", path)
    with h5py.File(path) as opened:
        for dataset in opened["weights"].values():
            dataset[()]  # no plugin needed for any
            assert isinstance(dataset.attrs["dtype"], str)


def test_a_foreign_hdf5_file_is_refused_and_not_touched(cli, tmp_path, rng):
    path = tmp_path / "foreign.h5"
    with h5py.File(path, "w") as file:
        file["measurements"] = rng.standard_normal(100)
    before = sha256(path)
    added = save(tmp_path / "model.safetensors", random_model(rng))
    for arguments in (["ls"], ["info"], ["verify"], ["gc"]):
        cli.refused(*arguments, path, exit=BAD_STORE)
    cli.refused("add", path, added, exit=BAD_STORE)
    assert sha256(path) == before
    assert beside(path) == ["foreign.h5"]
