"""diff and stats say what numpy and h5py find by themselves."""

import itertools
import json
import os
import struct
import subprocess
import sys

import h5py
import numpy as np
import pytest
from coral import DeltaConfig, DeltaEncoder, DeltaType, HDF5Store, WeightTensor
from coral.core.weight_tensor import WeightMetadata
from helpers import DAMAGED, DIFFERS, DTYPES, ROOT, environment, random_model, save

FINE_TUNES = [ROOT / f"testdata/minilm-lastlayer-{step}-f32.safetensors" for step in ("s020", "s040")]


def load(path):
    """{name: array} of a safetensors file, read here and by nobody else."""
    content = path.read_bytes()
    (length,) = struct.unpack_from("<Q", content)
    header = json.loads(content[8 : 8 + length])
    header.pop("__metadata__", None)
    arrays = {}
    for name, entry in header.items():
        begin, end = (8 + length + offset for offset in entry["data_offsets"])
        arrays[name] = np.frombuffer(content[begin:end], DTYPES[entry["dtype"]]).reshape(entry["shape"])
    return arrays


def figures(a, b):
    """What diff has to find of two arrays."""
    differ = a.view(f"V{a.itemsize}") != b.view(f"V{b.itemsize}") if a.size else np.zeros(0, bool)
    x, y = a.astype("f8").ravel(), b.astype("f8").ravel()
    kept = np.isfinite(x) & np.isfinite(y)
    nan = int((np.isnan(x) | np.isnan(y)).sum())
    x, y = x[kept], y[kept]
    return {
        "norm": np.linalg.norm(y - x),
        "relative_norm": np.linalg.norm(y - x) / np.linalg.norm(x),
        "cosine": float(x @ y / (np.linalg.norm(x) * np.linalg.norm(y))),
        "largest_change": np.abs(y - x).max(),
        "elements": a.size,
        "changed_elements": int(differ.sum()),
        "changed_share": differ.sum() / a.size,
        "nan": nan,
        "infinite": int(a.size - kept.sum() - nan),
    }


def assert_close(found, wanted, what):
    assert found.keys() == wanted.keys()
    for key, value in wanted.items():
        assert found[key] == pytest.approx(value, rel=1e-9, abs=0), f"{what}: {key}"


@pytest.mark.parametrize("chain", ["0", "8"])
def test_diff_of_two_fine_tunes_is_what_numpy_computes(cli, tmp_path, chain):
    store = tmp_path / "models.h5"
    cli.run("add", store, *FINE_TUNES, "--chain", chain)
    names = [path.stem for path in FINE_TUNES]
    report = cli.json("diff", store, *names)
    a, b = (load(path) for path in FINE_TUNES)
    changed = [name for name in a if a[name].tobytes() != b[name].tobytes()]
    assert len(changed) > 10
    assert sorted(tensor["name"] for tensor in report["tensors"]) == sorted(changed)
    assert report["same"] == len(a) - len(changed)
    for tensor in report["tensors"]:
        name = tensor["name"]
        assert tensor["status"] == "changed"
        assert_close(tensor["change"], figures(a[name], b[name]), name)
    whole = [np.concatenate([model[name].ravel() for name in changed]) for model in (a, b)]
    assert_close(report["change"], figures(*whole), "together")

    deltas = [tensor["b"] for tensor in report["tensors"] if tensor["b"]["base"]]
    assert bool(deltas) == (chain != "0")
    with h5py.File(store) as file:
        for tensor in report["tensors"]:
            side = tensor["b"]
            place = file["deltas" if side["base"] else "weights"][side["key"]]
            assert side["stored_bytes"] == place.id.get_storage_size()
            assert (side["base"] or "") == place.attrs.get("reference_hash", "")
    cli.run("diff", store, *names, "--exit-code", exit=DIFFERS)
    cli.run("diff", store, names[0], names[0], "--exit-code")
    size = sum(b[name].nbytes for name in changed)
    assert report["differing_bytes"] == size
    assert 0 < report["differing_stored_bytes"] < size


@pytest.mark.parametrize("kind", ["F64", "F32", "F16", "I64", "I32", "I16", "I8", "U64", "U32", "U16", "U8", "BOOL"])
def test_diff_of_every_dtype_is_what_numpy_computes(cli, tmp_path, rng, kind):
    values = rng.standard_normal((2, 5001)) * 50
    a, b = (values > 0 if kind == "BOOL" else np.abs(values) if kind[0] == "U" else values).astype(DTYPES[kind])
    b[np.arange(5001) % 7 > 0] = a[np.arange(5001) % 7 > 0]
    if kind[0] == "F":
        a[3], a[11], a[12], b[11], b[20] = np.nan, np.nan, np.inf, np.nan, -np.inf
    for name, array in (("a", a), ("b", b)):
        save(tmp_path / f"{name}.safetensors", {"w": array, "empty": array[:0]})
    store = tmp_path / "models.h5"
    cli.run("add", store, tmp_path / "a.safetensors", tmp_path / "b.safetensors")
    report = cli.json("diff", store, "a", "b")
    assert (report["changed"], report["same"]) == (1, 1)
    assert_close(report["tensors"][0]["change"], figures(a, b), kind)
    shown = cli.json("show", store, "b/w")["statistics"]
    finite = b.astype("f8")[np.isfinite(b.astype("f8"))]
    assert (shown["min"], shown["max"]) == (finite.min(), finite.max())
    assert shown["mean"] == pytest.approx(finite.mean(), rel=1e-9, abs=1e-9)
    assert shown["nan"] == np.isnan(b.astype("f8")).sum()


def peak(command):
    """The most memory that the command had, in bytes. A process is charged with that of the one it was forked from, so
    that has to be a small one."""
    measure = (
        "import resource, subprocess, sys; subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL, check=True);"
        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024)"
    )
    command = [sys.executable, "-S", "-c", measure, *map(os.fspath, command)]
    return int(subprocess.run(command, check=True, capture_output=True, text=True, env=environment()).stdout)


def test_diff_holds_little_of_large_tensors_in_memory(cli, tmp_path, rng):
    values = rng.standard_normal(40_000_000, dtype=np.float32)
    save(tmp_path / "a.safetensors", {"w": values})
    values[::3] *= 1.001
    save(tmp_path / "b.safetensors", {"w": values})
    store = tmp_path / "models.h5"
    for name in "ab":
        cli.run("add", store, tmp_path / f"{name}.safetensors")
    # The tensors have 160 MB each.
    assert peak([cli.binary, "diff", store, "a", "b"]) < 150e6


def data_sizes(path):
    """{group at the root: bytes of the data of all datasets below it}, as libhdf5 counts them."""
    sizes = {}
    with h5py.File(path) as file:
        for name in file:
            found = []
            file[name].visititems(
                lambda _, item: found.append(item.id.get_storage_size()) if isinstance(item, h5py.Dataset) else None
            )
            sizes[name] = sum(found)
    return sizes


def test_stats_are_what_h5py_finds(cli, tmp_path, rng):
    store = tmp_path / "models.h5"
    cli.run("add", store, *FINE_TUNES)
    cli.run("add", store, save(tmp_path / "other.safetensors", random_model(rng)), "--compression", "lzf")
    cli.run("link", store, "base", "mit")
    stats = cli.json("stats", store)
    sizes = data_sizes(store)
    assert stats["whole"]["stored_bytes"] == sizes["weights"]
    assert stats["deltas"]["stored_bytes"] == sizes["deltas"] > 0
    assert stats["checkpoint_records"] == {"count": 3, "stored_bytes": sizes["checkpoints"]}
    assert stats["links_stored_bytes"] == sizes["nodes"] + sizes["buckets"] + sizes["values"] > 0
    assert stats["other_deltas"] == {"count": 0, "stored_bytes": 0}
    assert stats["file_bytes"] == store.stat().st_size
    assert stats["rest_bytes"] == stats["file_bytes"] - sum(sizes.values())
    with h5py.File(store) as file:
        assert stats["whole"]["weights"] == len(file["weights"])
        assert stats["deltas"]["weights"] == len(file["deltas"])
        lengths = []
        for key in itertools.chain(file["weights"], file["deltas"]):
            length = 0
            while key not in file["weights"]:
                key, length = file["deltas"][key].attrs["reference_hash"], length + 1
            lengths.append(length)
        assert [row["weights"] for row in stats["chains"]] == np.bincount(lengths).tolist()
        stored = itertools.chain(file["weights"].values(), file["deltas"].values())
        assert stats["largest"][0]["stored_bytes"] == max(weight.id.get_storage_size() for weight in stored)
    assert {tuple(row["filters"])[-1] for row in stats["filters"]} >= {"lzf"}


def test_stats_of_a_coral_file_counts_its_deltas_apart(cli, tmp_path, rng):
    path = tmp_path / "coral.h5"
    with HDF5Store(str(path), mode="w") as store:
        array = rng.standard_normal((64, 32)).astype("f4")
        reference = WeightTensor(array, WeightMetadata(name="w", shape=array.shape, dtype=array.dtype))
        store.store(reference)
        changed = WeightTensor(array + 0.01, WeightMetadata(name="w", shape=array.shape, dtype=array.dtype))
        delta = DeltaEncoder(DeltaConfig(delta_type=DeltaType.COMPRESSED)).encode_delta(changed, reference)
        store.store_delta(delta, "of-coral")
    stats = cli.json("stats", path)
    sizes = data_sizes(path)
    assert stats["other_deltas"] == {"count": 1, "stored_bytes": sizes["deltas"]}
    assert (stats["whole"]["weights"], stats["deltas"]["weights"]) == (1, 0)
    assert stats["whole"]["stored_bytes"] == sizes["weights"]
    assert "other deltas" in cli.run("stats", path).stdout


def test_what_is_damaged_is_named_and_the_rest_is_told(cli, tmp_path):
    store = tmp_path / "models.h5"
    cli.run("add", store, *FINE_TUNES)
    names = [path.stem for path in FINE_TUNES]
    before = cli.json("stats", store)
    delta = next(tensor["b"] for tensor in cli.json("diff", store, *names)["tensors"] if tensor["b"]["base"])
    with h5py.File(store, "r+") as file:
        del file["weights"][delta["base"]]
    stats = json.loads(cli.run("stats", store, "--json", exit=DAMAGED).stdout)
    assert sorted(damaged["key"] for damaged in stats["damaged"]) == sorted([delta["key"], delta["base"]])
    assert stats["deltas"]["weights"] == before["deltas"]["weights"] - 1
    assert stats["whole"]["weights"] == before["whole"]["weights"] - 1
    text = cli.run("stats", store, exit=DAMAGED).stdout
    assert f"damaged weight {delta['key']}: " in text and f"damaged weight {delta['base']}: it is missing" in text
    assert "the rest" in text and "2 problems found" in text
    report = json.loads(cli.run("diff", store, *names, "--json", "--exit-code", exit=DAMAGED).stdout)
    damaged = [tensor for tensor in report["tensors"] if tensor["status"] == "damaged"]
    assert [tensor["b"]["key"] for tensor in damaged] == [delta["key"]]
    assert report["changed"] == len(report["tensors"]) - 1 and damaged[0]["problem"]

    with h5py.File(store, "r+") as file:
        file["checkpoints"][names[0]].attrs["source"] = "elsewhere.safetensors"
    stats = json.loads(cli.run("stats", store, "--json", exit=DAMAGED).stdout)
    assert ("checkpoint", names[0]) in {(damaged["kind"], damaged["key"]) for damaged in stats["damaged"]}
    assert stats["whole"]["weights"] == before["whole"]["weights"] - 1
