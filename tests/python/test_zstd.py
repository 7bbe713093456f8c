"""Filter 32015: hdf5plugin reads what Corallite wrote, and the other way round.

hdf5plugin changes the h5py of its whole process, so it has one of its own here and stock h5py stays stock elsewhere.
"""

import subprocess
import sys

import numpy as np
import pytest
from helpers import OK, environment, h5_weights, save, sha256

DIGESTS = """
import hashlib, sys
import h5py, hdf5plugin
with h5py.File(sys.argv[1]) as file:
    for key, dataset in file["weights"].items():
        print(key, hashlib.sha256(dataset[()].tobytes()).hexdigest())
"""

REWRITE = """
import sys
import h5py, hdf5plugin
path, key, level, *chunks = sys.argv[1:]
with h5py.File(path, "r+") as file:
    old = file["weights"][key]
    data, attributes = old[()], dict(old.attrs)
    del file["weights"][key], old
    new = file["weights"].create_dataset(
        key, data=data, chunks=tuple(map(int, chunks)), shuffle=True, compression=hdf5plugin.Zstd(clevel=int(level))
    )
    new.attrs.update(attributes)
"""


def python(program, *arguments):
    command = [sys.executable, "-c", program, *map(str, arguments)]
    return subprocess.run(command, check=True, capture_output=True, text=True, env=environment()).stdout


def test_hdf5plugin_reads_every_weight_written_as_zstd(cli, tmp_path, rng):
    model = {
        "f32": rng.standard_normal((900, 700), dtype=np.float32),
        "f16": rng.standard_normal((300, 257)).astype("<f2"),
        "f64": rng.standard_normal((40, 50)),
        "zeros": np.zeros((1000, 100), np.float32),
        "ids": np.arange(5000, dtype=np.int64),
        "noise": rng.integers(0, 256, 5000).astype("u1"),
        "tiny": np.arange(3, dtype="<f4"),
    }
    store = tmp_path / "models.h5"
    cli.run("add", store, save(tmp_path / "in", model), "--compression", "zstd")
    cli.run("verify", store)
    found = sorted(line.split()[1] for line in python(DIGESTS, store).splitlines())
    assert found == sorted(sha256_of(array) for array in model.values())


def sha256_of(array):
    import hashlib

    return hashlib.sha256(array.tobytes()).hexdigest()


@pytest.fixture
def stored(cli, tmp_path, rng):
    file = save(tmp_path / "in.safetensors", {"w": rng.standard_normal((900, 700), dtype=np.float32)})
    store = tmp_path / "models.h5"
    cli.run("add", store, file, "--name", "m")
    (key,) = h5_weights(store)
    return store, file, key


@pytest.mark.parametrize("level", [1, 3, 19])
def test_zstd_that_hdf5plugin_wrote_is_read(cli, stored, tmp_path, level):
    store, file, key = stored
    python(REWRITE, store, key, level, 200, 700)
    cli.run("verify", store)
    cli.run("export", store, "m", "-o", tmp_path / "out")
    assert sha256(tmp_path / "out") == sha256(file)


def test_zstd_in_chunks_that_only_libhdf5_reads_is_refused_in_words(cli, stored, tmp_path):
    store, _, key = stored
    python(REWRITE, store, key, 3, 30, 70)
    done = cli.run("export", store, "m", "-o", tmp_path / "out", exit=None)
    assert done.returncode not in (OK, 101), done.stderr
    assert "zstd" in done.stderr and "30" in done.stderr, done.stderr
    assert cli.run("verify", store, exit=None).returncode not in (OK, 101)
