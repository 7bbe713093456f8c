"""Deltas of coral-ml decode here to what coral decodes them to, and deltas of its types made here decode in coral."""

import itertools
import json
import os
import pathlib
import subprocess

import numpy as np
import pytest
from coral import DeltaConfig, DeltaEncoder, DeltaType, HDF5Store, WeightTensor
from coral.core.weight_tensor import WeightMetadata
from helpers import environment, no_panic

TYPES = [delta_type.value for delta_type in DeltaType]
LOSSLESS = ["float32_raw", "compressed"]
# The largest float16 step here is wider than some of these levels, so only wider floats show a bound.
LEVELS = {"int8_quantized": 255, "int16_quantized": 65535}


@pytest.fixture(scope="session")
def program():
    """The example `delta`, which lies beside the corallite binary."""
    path = pathlib.Path(os.environ["CORALLITE_BIN"]).resolve().parent / "examples" / "delta"
    if not path.is_file():
        pytest.fail(f"{path} is missing; run make test-python, or cargo build -p corallite-weights --examples")

    def run(*arguments, refused=False):
        done = subprocess.run([path, *map(str, arguments)], capture_output=True, text=True, env=environment())
        no_panic(done.stderr)
        assert (done.returncode != 0) == refused, done.stderr
        return done.stderr if refused else done.stdout

    return run


def tensor(name, array):
    return WeightTensor(array, WeightMetadata(name=name, shape=array.shape, dtype=array.dtype))


def near(rng, dtype, shape):
    """A reference and a weight a little off it, as two checkpoints are, with equal elements and far ones among them."""
    dtype = np.dtype(dtype)
    if dtype.kind in "iu":
        reference = rng.integers(30, 90, shape)
        # coral's differences of unsigned numbers wrap around. The sum then leaves the range, and what numpy makes of
        # that as 32 or 64 bits is the processor's choice.
        least = 0 if dtype.kind == "u" and dtype.itemsize > 2 else -9
        weight = reference + rng.integers(least, 10, shape)
    else:
        reference = rng.standard_normal(shape)
        weight = reference * (1 + rng.standard_normal(shape) * 1e-3)
        if dtype.kind == "c":
            reference = reference + 1j * rng.standard_normal(shape)
            weight = weight + 1j * rng.standard_normal(shape)
    if dtype.kind not in "iu":
        weight[rng.random(shape) < 0.1] = 0
    weight = np.where(rng.random(shape) < 0.3, reference, weight)
    return reference.astype(dtype), weight.astype(dtype)


SHAPES = [(64, 33), (5, 7, 11), (1,), (4099,)]
FLOATS = ["<f2", "<f4", "<f8", ">f4", ">f8", ">f2"]
INTEGERS = ["i1", "u1", "<i2", "<u2", "<i4", "<u4", "<i8", "<u8", ">i4"]


@pytest.mark.parametrize("delta_type", TYPES)
@pytest.mark.parametrize("dtype", [*FLOATS, *INTEGERS, "<c8", "<c16", ">c8"])
def test_a_delta_of_coral_decodes_here_to_what_coral_decodes(program, tmp_path, rng, dtype, delta_type):
    if np.dtype(dtype).kind == "c" and delta_type.endswith("quantized"):
        pytest.skip("coral refuses to quantize complex numbers")
    path = tmp_path / "coral.h5"
    encoder = DeltaEncoder(DeltaConfig(delta_type=DeltaType(delta_type)))
    wanted = {}
    with HDF5Store(str(path), mode="w") as store:
        for number, shape in enumerate(SHAPES):
            reference, weight = near(rng, dtype, shape)
            original = tensor(f"reference.{number}", reference)
            key = store.store(original)
            loaded = store.load(key)  # big-endian, and coral takes it for little-endian
            for name, base, array in (
                ("changed", loaded, weight), ("same", loaded, reference), ("unstored", original, weight)
            ):  # fmt: skip
                weight_tensor = WeightTensor(array, WeightMetadata("weight", array.shape, base.dtype))
                delta = encoder.encode_delta(weight_tensor, base)
                wanted[store.store_delta(delta, f"{name}.{number}")] = (key, base)
    with HDF5Store(str(path), mode="r") as store:
        for delta_key, (key, base) in wanted.items():
            wanted[delta_key] = (key, encoder.decode_delta(store.load_delta(delta_key), base).data)
    for delta_key, (key, array) in wanted.items():
        program("decode", path, delta_key, key, tmp_path / "out")
        assert (tmp_path / "out").read_bytes() == array.tobytes(), delta_key


@pytest.mark.parametrize("delta_type", TYPES)
@pytest.mark.parametrize("dtype", FLOATS)
def test_a_delta_made_here_decodes_in_coral_to_the_same(program, tmp_path, rng, dtype, delta_type):
    path = tmp_path / "coral.h5"
    keys = {}
    with HDF5Store(str(path), mode="w") as store:
        for number, shape in enumerate(SHAPES):
            reference, weight = near(rng, dtype, shape)
            if np.dtype(dtype).itemsize == 8 and delta_type in LOSSLESS:
                # float32 keeps the difference of few float64 numbers; these are some.
                weight = (reference.astype("f4") * np.float32(1.5)).astype(dtype)
                reference = reference.astype("f4").astype(dtype)
            elif delta_type in LOSSLESS and weight.size > 9:
                weight.flat[3:6] = np.array([np.nan, np.inf, -0.0])
            keys[f"delta.{number}"] = [store.store(tensor(name, array)) for name, array in
                                       (("weight", weight), ("reference", reference))]  # fmt: skip
    metadata = {
        delta: json.loads(program("encode", path, weight, reference, delta_type, delta))
        for delta, (weight, reference) in keys.items()
    }
    encoder = DeltaEncoder(DeltaConfig(delta_type=DeltaType(delta_type)))
    with HDF5Store(str(path), mode="r") as store:
        for delta, (weight_key, reference_key) in keys.items():
            weight, reference = store.load(weight_key).data, store.load(reference_key)
            loaded = store.load_delta(delta)
            assert loaded.delta_type.value == delta_type
            assert loaded.reference_hash == reference_key == reference.compute_hash()
            assert loaded.metadata["lossless"] is (delta_type in LOSSLESS)
            theirs = encoder.decode_delta(loaded, reference).data
            program("decode", path, delta, reference_key, tmp_path / "out")
            ours = np.frombuffer((tmp_path / "out").read_bytes(), weight.dtype).reshape(weight.shape)
            listed = metadata[delta].get("exact", {"at": []})["at"]
            unlisted = np.setdiff1d(np.arange(weight.size), listed)
            assert theirs.dtype == weight.dtype
            assert theirs.flat[unlisted].tobytes() == ours.flat[unlisted].tobytes(), delta
            if delta_type in LOSSLESS:
                assert ours.tobytes() == weight.tobytes()
                continue
            error = np.abs(theirs.astype("f8") - weight.astype("f8")).max()
            assert error == metadata[delta]["max_error"]
            if delta_type in LEVELS and weight.dtype.itemsize > 2:
                range_ = np.ptp(weight.astype("f8") - reference.data.astype("f8"))
                assert error <= range_ / LEVELS[delta_type] / 2 + 1e-6


def test_a_delta_of_coral_is_not_applied_to_another_weight(program, tmp_path, rng):
    path = tmp_path / "coral.h5"
    reference, weight = near(rng, "<f4", (40, 40))
    with HDF5Store(str(path), mode="w") as store:
        first, second = store.store(tensor("reference", reference)), store.store(tensor("weight", weight))
        delta = DeltaEncoder().encode_delta(tensor("weight", weight), store.load(first))
        store.store_delta(delta, "delta")
    program("decode", path, "delta", first, tmp_path / "out")
    assert "reference_hash" in program("decode", path, "delta", second, tmp_path / "out", refused=True)


def test_what_is_lossless_here_comes_back_whatever_the_bits(program, tmp_path, rng):
    path = tmp_path / "coral.h5"
    dtypes = ["i1", "<u2", "<f2", ">f4", "<f8", "<c8", ">c16", "bool"]
    keys = []
    with HDF5Store(str(path), mode="w") as store:
        for dtype in map(np.dtype, dtypes):
            arrays = [np.frombuffer(rng.bytes(dtype.itemsize * 300), dtype).reshape(20, 15) for _ in range(2)]
            if dtype == bool:
                arrays = [rng.random((20, 15)) < 0.5 for _ in range(2)]
            keys.append((arrays[0], [store.store(tensor(f"w{number}", array)) for number, array in enumerate(arrays)]))
    for number, ((array, (weight, reference)), delta_type) in enumerate(
        itertools.product(keys, ["zigzag", "xor_float32", "xor_bfloat16"])
    ):
        program("encode", path, weight, reference, delta_type, f"delta.{number}")
        program("decode", path, f"delta.{number}", reference, tmp_path / "out")
        assert (tmp_path / "out").read_bytes() == array.tobytes()
