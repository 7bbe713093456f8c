"""An acknowledged checkpoint survives kill -9, and what was not acknowledged is there whole or not at all."""

import json
import os
import random
import signal
import subprocess
import time

import h5py
from helpers import INTERRUPTED, OK, State, no_panic, random_model, save, sha256

ROUNDS = int(os.environ.get("CORALLITE_KILL_ROUNDS", "25"))


class Aim:
    """Sends signals that come while a command runs, on machines of any speed.

    It starts from how long one add of this file takes, process start included, and corrects that by every command that
    was done before its signal: one slow first run must not make all later signals come too late.
    """

    def __init__(self, cli, tmp_path, file):
        store = tmp_path / "timing.h5"
        started = time.monotonic()
        cli.run("add", store, file, "--name", "timing")
        self.whole = time.monotonic() - started

    def signal(self, process, share, number):
        """Send the signal after this share of a whole run. Returns (exit code, stdout, stderr)."""
        started = time.monotonic()
        try:
            process.wait(timeout=share * self.whole)
            self.whole = min(self.whole, time.monotonic() - started)
        except subprocess.TimeoutExpired:
            process.send_signal(number)
        stdout, stderr = process.communicate(timeout=120)
        no_panic(stderr.decode())
        return process.returncode, stdout, stderr.decode()


def test_every_acknowledged_checkpoint_survives_kill_9(cli, tmp_path, rng):
    """The loop of issue and kill; after each kill the store is looked at from outside before anything recovers it."""
    chance = random.Random(9)
    store = tmp_path / "models.h5"
    files, acknowledged, killed, refused = {}, set(), 0, 0

    def fresh(name):
        files[name] = save(tmp_path / f"{name}.safetensors", random_model(rng, tensors=8, values=128 * 1024))
        return files[name]

    cli.run("add", store, fresh("first"), "--name", "first")
    acknowledged.add("first")
    aim = Aim(cli, tmp_path, files["first"])

    for round_number in range(4 * ROUNDS):
        if round_number >= ROUNDS and killed >= ROUNDS // 5:
            break
        name = f"round{round_number:03}"
        adding = cli.start("add", store, fresh(name), "--name", name)
        code, _, stderr = aim.signal(adding, chance.uniform(0, 1.1), signal.SIGKILL)
        assert code in (OK, -signal.SIGKILL), stderr
        if code == OK:
            acknowledged.add(name)
        else:
            killed += 1

        try:  # a foreign reader, before recovery: one committed state, or the hidden signature
            with h5py.File(store, "r") as file:
                for dataset in file["weights"].values():
                    dataset[()]
        except OSError as error:
            assert "signature" in str(error), f"round {round_number}: {error}"
            refused += 1

        if round_number % 5 == 4:  # recovery may be killed too
            recovering = cli.start("verify", store)
            time.sleep(chance.uniform(0, 0.02))
            recovering.kill()
            recovering.communicate()

        present = set(cli.names(store))
        assert acknowledged <= present, f"round {round_number}: lost {acknowledged - present}"
        assert present <= set(files)
        cli.run("verify", store)
        for known in {name, chance.choice(sorted(acknowledged))} & present:
            cli.run("export", store, known, "-o", tmp_path / "out")
            assert sha256(tmp_path / "out") == sha256(files[known]), f"round {round_number}: {known} differs"
        acknowledged |= present  # seen by a reader: from now on it must stay

    for known in sorted(acknowledged):
        cli.run("export", store, known, "-o", tmp_path / "out")
        assert sha256(tmp_path / "out") == sha256(files[known])
    with h5py.File(store, "r") as file:
        assert len(file["weights"]) == 8 * len(acknowledged)
    print(json.dumps({"killed": killed, "acknowledged": len(acknowledged), "refused by h5py before recovery": refused}))
    assert killed >= ROUNDS // 5, "too few of the kills came in time to say anything"


def test_kill_9_of_the_first_add_never_leaves_a_path_that_cannot_be_used(cli, tmp_path, rng):
    chance = random.Random(12)
    file = save(tmp_path / "model.safetensors", random_model(rng))
    aim = Aim(cli, tmp_path, file)
    for round_number in range(max(4, ROUNDS // 3)):
        store = tmp_path / f"new{round_number}.h5"
        adding = cli.start("add", store, file, "--name", "killed")
        code, _, _ = aim.signal(adding, chance.uniform(0, 1), signal.SIGKILL)
        present = cli.names(store) if store.exists() and store.stat().st_size else []
        assert present == ["killed"] if code == OK else set(present) <= {"killed"}
        cli.run("add", store, file, "--name", "next")
        assert set(cli.names(store)) == {"next", *present}
        cli.run("verify", store)


def test_rm_and_gc_survive_kill_9(cli, tmp_path, rng):
    chance = random.Random(10)
    store = tmp_path / "models.h5"
    kept = save(tmp_path / "kept.safetensors", random_model(rng))
    cli.run("add", store, kept, "--name", "kept")
    for round_number in range(max(3, ROUNDS // 5)):
        file = save(tmp_path / "gone.safetensors", random_model(rng, values=64 * 1024))
        cli.run("add", store, file, "--name", "gone")
        for command in (["rm", store, "gone"], ["gc", store]):
            running = cli.start(*command)
            time.sleep(chance.uniform(0, 0.05))
            running.kill()
            running.communicate()
            cli.run("verify", store)
            present = cli.names(store)
            assert "kept" in present and set(present) <= {"kept", "gone"}
            for name, source in (("kept", kept), ("gone", file)):
                if name in present:
                    cli.run("export", store, name, "-o", tmp_path / "out")
                    assert sha256(tmp_path / "out") == sha256(source)
        if "gone" in cli.names(store):
            cli.run("rm", store, "gone")
        cli.run("gc", store)
    with h5py.File(store, "r") as file:
        assert len(file["weights"]) == 6


def test_an_interrupted_add_exits_130_and_leaves_the_store_as_it_was(cli, tmp_path, store, rng):
    before = State(cli, store)
    file = save(tmp_path / "big.safetensors", random_model(rng, tensors=16, values=512 * 1024))
    aim = Aim(cli, tmp_path, file)
    interrupted = 0
    for attempt in range(60):
        adding = cli.start("add", store, file, "--name", "interrupted")
        code, stdout, stderr = aim.signal(adding, (0.5, 0.7, 0.3, 0.6, 0.4, 0.8, 0.2, 0.9)[attempt % 8], signal.SIGINT)
        if code == OK:  # the signal came after the commit
            cli.run("rm", store, "interrupted")
            cli.run("gc", store)
            continue
        if code == -signal.SIGINT:
            continue  # before the handler was there
        assert code == INTERRUPTED, stderr
        lines = [line for line in stderr.splitlines() if line.strip()]
        assert len(lines) == 1, f"not one sentence: {stderr!r}"
        assert stdout == b""
        assert State(cli, store) == before
        interrupted += 1
        if interrupted == 3:
            break
    assert interrupted, "no SIGINT came in the middle"
    cli.run("add", store, file, "--name", "again")
    cli.run("export", store, "again", "-o", tmp_path / "out")
    assert sha256(tmp_path / "out") == sha256(file)


def test_an_interrupted_first_add_leaves_no_checkpoint(cli, tmp_path, rng):
    file = save(tmp_path / "big.safetensors", random_model(rng, tensors=16, values=512 * 1024))
    aim = Aim(cli, tmp_path, file)
    for attempt in range(40):
        store = tmp_path / f"new{attempt}.h5"
        code, _, stderr = aim.signal(cli.start("add", store, file), (0.5, 0.7, 0.3)[attempt % 3], signal.SIGINT)
        if code == INTERRUPTED:
            break
        assert code in (OK, -signal.SIGINT), stderr
    assert code == INTERRUPTED, "no SIGINT came in the middle"
    if store.exists():
        assert cli.names(store) == []
        cli.run("verify", store)
    cli.run("add", store, file, "--name", "again")
    cli.run("verify", store)


def test_export_that_is_killed_leaves_no_half_file(cli, tmp_path, rng):
    """The output appears under its name only when it is whole."""
    file = save(tmp_path / "big.safetensors", random_model(rng, tensors=16, values=512 * 1024))
    store = tmp_path / "models.h5"
    cli.run("add", store, file, "--name", "big")
    chance = random.Random(11)
    for _ in range(6):
        out = tmp_path / "out.safetensors"
        out.unlink(missing_ok=True)
        exporting = cli.start("export", store, "big", "-o", out)
        time.sleep(chance.uniform(0, 0.1))
        exporting.kill()
        exporting.communicate()
        if out.exists():
            assert sha256(out) == sha256(file)


def test_the_demo_runs_on_a_model_it_generates(cli, tmp_path):
    from helpers import ROOT, environment

    done = subprocess.run(
        [os.sys.executable, ROOT / "scripts/demo", "--bin", cli.binary, "--generate", "--dir", tmp_path / "work"],
        capture_output=True, text=True, timeout=300, env=environment(),
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "byte for byte" in done.stdout and "What to try next" in done.stdout
    assert "\033[" not in done.stdout
