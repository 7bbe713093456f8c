"""h5py changes a cleanly closed store: what it did stays, and Corallite goes on reading and writing the file."""

import h5py
import numpy as np
import pytest
from helpers import DAMAGED, h5_weights, random_model, save, sha256


@pytest.fixture(params=["planes", "gzip", "lzf", "none"])
def closed(request, cli, tmp_path, rng):
    """A store with tensors of every layout: in the header, one chunk, many chunks; and the file it was made from."""
    model = {
        "tiny": np.arange(3, dtype=np.int16),
        "one": rng.standard_normal((40, 50), dtype=np.float32),
        "many": rng.standard_normal((900, 700), dtype=np.float32),
        "empty": np.zeros((0, 4), np.float32),
        "scalar": np.array(2.5, np.float64),
    }
    file = save(tmp_path / "in.safetensors", model)
    store = tmp_path / "models.h5"
    cli.run("add", store, file, "--name", "m", "--compression", request.param)
    return store, file, model


def by_name(store):
    return {attributes["name"]: (key, attributes, array) for key, (attributes, array) in h5_weights(store).items()}


def check(cli, store, file, out):
    cli.run("verify", store)
    cli.run("export", store, "m", "-o", out)
    assert sha256(out) == sha256(file)


def test_attributes_that_h5py_adds_stay_and_nothing_else_changes(cli, closed, tmp_path):
    store, file, model = closed
    keys = {name: key for name, (key, _, _) in by_name(store).items()}
    with h5py.File(store, "r+") as f:
        f[f"weights/{keys['one']}"].attrs["note"] = "from h5py"
        for number in range(20):  # more than fit into the header: HDF5 moves them all out of it
            f[f"weights/{keys['many']}"].attrs[f"number{number}"] = number
        f[f"weights/{keys['tiny']}"].attrs["long"] = "x" * 20_000
        del f[f"weights/{keys['scalar']}"].attrs["layer_type"]
        f[f"weights/{keys['scalar']}"].attrs["layer_type"] = ""
    with h5py.File(store) as f:  # also what HDF5 counts without looking
        assert len(f[f"weights/{keys['one']}"].attrs) == 10 and len(f[f"weights/{keys['empty']}"].attrs) == 9
    check(cli, store, file, tmp_path / "out")
    assert cli.json("info", store)["weights"] == len(model)
    cli.run("add", store, save(tmp_path / "more", {"w": np.ones(300, np.float32)}), "--name", "more")
    found = by_name(store)
    assert found["one"][1]["note"] == "from h5py"
    assert found["many"][1]["number19"] == 19
    assert len(found["tiny"][1]["long"]) == 20_000
    for name, array in model.items():
        assert np.array_equal(found[name][2], array)
    check(cli, store, file, tmp_path / "out")


def test_data_that_h5py_overwrites_is_found(cli, closed, tmp_path):
    store, _, _ = closed
    key = by_name(store)["many"][0]
    with h5py.File(store, "r+") as f:
        f[f"weights/{key}"][3, 5] += 1
    done = cli.run("verify", store, exit=DAMAGED)
    assert key in done.stdout + done.stderr


def test_weights_that_h5py_removes_leave_the_rest_whole(cli, closed, tmp_path, rng):
    store, file, _ = closed
    other = save(tmp_path / "other.safetensors", random_model(rng))
    cli.run("add", store, other, "--name", "other")
    gone = [key for key, (attributes, _) in h5_weights(store).items() if attributes["model_name"] == "other"]
    with h5py.File(store, "r+") as f:
        for key in gone:
            del f[f"weights/{key}"]
        del f["checkpoints/other"]
    check(cli, store, file, tmp_path / "out")
    for round_number in range(3):  # into the space that has become free
        cli.run("add", store, other, "--name", f"again{round_number}")
        check(cli, store, file, tmp_path / "out")
        cli.run("rm", store, f"again{round_number}")
        cli.run("gc", store)
    check(cli, store, file, tmp_path / "out")


def test_weights_that_h5py_copies_or_moves_are_told_from_what_their_key_says(cli, closed, tmp_path):
    store, file, _ = closed
    key = by_name(store)["many"][0]
    with h5py.File(store, "r+") as f:
        f.copy(f[f"weights/{key}"], f["weights"], name="a copy")
        f.move(f"weights/{by_name_in(f, 'tiny')}", "weights/moved")
        f["weights/" + key].attrs["seen"] = 1
    done = cli.run("verify", store, exit=DAMAGED)
    assert f"it is the weight `{key}` under another key" in done.stdout + done.stderr
    cli.refused("show", store, "moved", exit=DAMAGED)
    with h5py.File(store, "r+") as f:
        name = f["weights/moved"].attrs["hash"]
        f.move("weights/moved", f"weights/{name}")
        del f["weights/a copy"]
    check(cli, store, file, tmp_path / "out")


def by_name_in(file, name):
    return next(key for key, dataset in file["weights"].items() if dataset.attrs["name"] == name)
