"""h5py in another process, reading in a loop while commands commit, sees only committed states."""

import json
import os
import pathlib
import subprocess
import sys
import time

import h5py
import pytest
from helpers import digest, environment, random_model, save

HERE = pathlib.Path(__file__).parent
ROUNDS = int(os.environ.get("CORALLITE_READER_ROUNDS", "12"))


def state_of(*models):
    return sorted({(name, digest(array)) for model in models for name, array in model.items()})


@pytest.mark.parametrize("readers", [1, 2])
@pytest.mark.parametrize("compression", ["planes", "gzip", "none"])
def test_a_reader_in_another_process_sees_only_committed_states(cli, tmp_path, rng, readers, compression):
    store = tmp_path / "models.h5"
    committed = []  # every state there ever was, in order

    def add(name):
        model = random_model(rng, tensors=5, values=32 * 1024)
        cli.run("add", store, save(tmp_path / "in", model), "--name", name, "--compression", compression)
        return model

    models = {"m0": add("m0")}
    committed.append(state_of(*models.values()))
    watching = [
        subprocess.Popen(
            [sys.executable, HERE / "reader.py", store, pause], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            text=True, env=environment(),
        )  # fmt: skip
        for pause in ("0.001", "0.004")[:readers]
    ]
    try:
        for reader in watching:
            assert reader.stdout.readline() == "ready\n"
        for number in range(1, ROUNDS + 1):
            models[f"m{number}"] = add(f"m{number}")
            committed.append(state_of(*models.values()))
            if number >= 2:
                gone = f"m{number - 2}"
                cli.run("rm", store, gone)  # the weights stay until gc
                del models[gone]
                cli.run("gc", store)
                committed.append(state_of(*models.values()))
            time.sleep(0.02)
    finally:
        for reader in watching:
            reader.stdin.close()
    results = [json.loads(reader.stdout.read()) for reader in watching]
    for reader in watching:
        assert reader.wait(timeout=30) == 0

    for result in results:
        print({key: value if key != "states" else len(value) for key, value in result.items()})
        assert result["other"] == [], result["other"][:3]
        assert result["opens"] > 0
        position = 0
        for seen in result["states"]:
            state = [tuple(pair) for pair in seen]
            assert state in committed, "a state that was never committed"
            assert committed.index(state) >= position, "an older state after a newer one"
            position = committed.index(state)
        assert len(result["states"]) > 1 or ROUNDS < 3, "the reader never saw a commit"

    assert sorted(cli.names(store)) == sorted(models)
    cli.run("gc", store)  # nobody reads any more: a commit that still waited is applied
    cli.run("verify", store)
    with h5py.File(store, "r") as file:
        last = sorted((dataset.attrs["name"], digest(dataset[()])) for dataset in file["weights"].values())
    assert last == committed[-1]


def test_a_writer_is_never_blocked_by_an_open_reader(cli, tmp_path, store, rng):
    """h5py keeps the file open all the time; what it sees stays, and the commit waits beside the file."""
    with h5py.File(store, "r") as file:
        before = sorted((dataset.attrs["name"], digest(dataset[()])) for dataset in file["weights"].values())
        for number in range(3):
            added = save(tmp_path / "in", random_model(rng))
            cli.run("add", store, added, "--name", f"n{number}", timeout=30)
        assert sorted(cli.names(store)) == ["first", "n0", "n1", "n2"]
        cli.run("verify", store)
        cli.run("rm", store, "first")
        cli.run("gc", store, timeout=30)
        assert sorted(cli.names(store)) == ["n0", "n1", "n2"]
        after = sorted((dataset.attrs["name"], digest(dataset[()])) for dataset in file["weights"].values())
        assert after == before, "an open reader saw another commit"
    cli.run("verify", store)  # nobody reads any more: now the waiting commits are applied
    cli.run("gc", store)
    with h5py.File(store, "r") as file:
        assert len(file["weights"]) == 18


def test_a_cleanly_closed_store_is_one_file(cli, tmp_path, store, rng):
    from helpers import beside

    assert beside(store) == ["models.h5"]
    cli.run("add", store, save(tmp_path / "in", random_model(rng)), "--name", "second")
    assert beside(store) == ["models.h5"]
    cli.run("rm", store, "second")
    cli.run("gc", store)
    cli.run("verify", store)
    assert beside(store) == ["models.h5"]
