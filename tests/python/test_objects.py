"""What is known about checkpoints: as other programs see it, in older stores, and after kill -9."""

import json
import signal
import subprocess
import time

import h5py
import numpy as np
import pytest
from helpers import BAD_INPUT, BUSY, DAMAGED, NAME, OK, ROOT, USAGE, environment, random_model, save


def found(cli, store, condition=""):
    return [entry["oid"] for entry in cli.json("find", store, "Checkpoint", condition, "--sort", "name")]


def test_files_are_datasets_of_bytes(cli, store, tmp_path, rng):
    content = rng.integers(0, 256, 20_000_003, dtype=np.uint8).tobytes()
    (tmp_path / "large.bin").write_bytes(content)
    cli.run("put-file", store, tmp_path / "large.bin", "--name", "models/ü #1/large.bin", "--set", "a=1")
    with h5py.File(store) as file:
        [dataset] = file["files"].values()
        assert dataset.dtype == np.uint8 and dataset[()].tobytes() == content
    cli.run("get-file", store, "models/ü #1/large.bin", "-o", tmp_path / "again.bin")
    assert (tmp_path / "again.bin").read_bytes() == content
    # The same bytes under another name take no room of their own.
    before = cli.json("info", store)["objects"]
    cli.run("put-file", store, tmp_path / "large.bin", "--name", "twice")
    assert cli.json("info", store)["objects"]["file_bytes"] == before["file_bytes"] == len(content)


def test_a_damaged_file_is_reported_and_not_written(cli, store, tmp_path, rng):
    content = rng.integers(0, 256, 3_000_000, dtype=np.uint8).tobytes()
    (tmp_path / "f").write_bytes(content)
    cli.run("put-file", store, tmp_path / "f")
    raw = bytearray(store.read_bytes())
    at = raw.find(content[2_000_000:2_000_064])
    raw[at] ^= 1
    store.write_bytes(raw)
    done = cli.run("get-file", store, "f", "-o", tmp_path / "out", exit=DAMAGED)
    assert "checksum" in done.stderr and str(store) in done.stderr and not (tmp_path / "out").exists()
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".out")]
    assert "checksum" in cli.run("verify", store, exit=DAMAGED).stdout


@pytest.mark.parametrize("golden", ["v1/closed.h5", "v2/deltas.h5"])
def test_a_store_of_an_older_version_is_migrated(cli, tmp_path, golden):
    store = tmp_path / "models.h5"
    store.write_bytes((ROOT / "testdata/golden" / golden).read_bytes())
    names = cli.names(store)
    assert names
    done = cli.run("find", store, "Checkpoint")
    assert "migrate" in done.stderr and names[0] not in done.stdout
    assert cli.json("migrate", store)["checkpoints"] == len(names)
    assert found(cli, store) == sorted(names)
    [first, *_] = cli.json("find", store, "Checkpoint", "", "--sort", "name")
    listed = {entry["name"]: entry for entry in cli.json("ls", store)["checkpoints"]}[first["oid"]]
    assert (first["bytes"], first["source"]) == (listed["logical_bytes"], listed["source"])
    assert first["created"][:19] == listed["added_at"][:19]


def test_kill_9_between_a_checkpoint_and_its_object_leaves_both_or_none(cli, store, tmp_path, rng):
    cli.run("tag", store, "first", "base")
    file = save(tmp_path / "next.safetensors", random_model(rng), {})
    tagged, seen = 0, set()
    for attempt in range(24):
        process = cli.start("add", store, file, "--name", f"run-{attempt}", "--tag", "run", "--parent", "first")
        time.sleep(attempt * 0.0025)
        process.send_signal(signal.SIGKILL)
        acknowledged = process.wait() == OK
        names = cli.names(store)
        seen.add(f"run-{attempt}" in names)
        assert not acknowledged or f"run-{attempt}" in names
        # Whatever is listed is found, with all that was said of it, and nothing else is.
        assert found(cli, store, "tags = 'run'") == sorted(name for name in names if name != "first")
        process = cli.start("tag", store, "first", f"tag-{attempt}")
        time.sleep(attempt * 0.001)
        process.send_signal(signal.SIGKILL)
        is_tagged = f"tag-{attempt}" in cli.run("tag", store, "first").stdout
        assert is_tagged or process.wait() != OK
        tagged += is_tagged
    cli.run("verify", store)
    assert found(cli, store, "tags = 'base'") == ["first"]


def test_objects_go_through_jq_and_back(cli, store, tmp_path):
    cli.run("set", store, "first", "metrics.loss=0.5", "note=ünï\ncode")
    lines = cli.run("export-objects", store).stdout.splitlines()
    declaration, checkpoint = map(json.loads, lines)
    assert declaration["@class"] == "Checkpoint" and checkpoint["note"] == "ünï\ncode"
    checkpoint["metrics"]["loss"] = 0.25
    (tmp_path / "in.jsonl").write_text(json.dumps(checkpoint) + "\n")
    assert cli.json("import-objects", store, tmp_path / "in.jsonl")["saved"] == {"Checkpoint": 1}
    assert found(cli, store, "metrics.loss < 0.4") == ["first"]


@pytest.mark.parametrize(
    "text, wanted",
    [("{", "no JSON"), ("[1]", "no JSON object"), ('{"oid": "a"}', "type"), ('{"type": "A.b"}', "named with"),
     ('{"type": "Run", "oid": 3}', "oid"), ('{"type": "Run", "a b": 3}', "cannot be"), ("\x00\xff", "no JSON")],
)  # fmt: skip
def test_bad_lines_are_refused_with_their_number(cli, store, tmp_path, text, wanted):
    before = cli.run("export-objects", store).stdout
    (tmp_path / "in.jsonl").write_text('{"type": "Run", "oid": "good"}\n' + text + "\n")
    done = cli.refused("import-objects", store, tmp_path / "in.jsonl", exit=BAD_INPUT)
    assert "line 2" in done.stderr and wanted in done.stderr
    assert cli.run("export-objects", store).stdout == before


def test_a_store_that_is_being_written_is_busy_for_tags_and_open_for_questions(cli, store):
    holder = subprocess.Popen(
        [cli.binary, "load-links", store, "-", "--acknowledge", "--batch", "1"], stdin=subprocess.PIPE,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment(),
    )  # fmt: skip
    try:
        holder.stdin.write("a,b\n")
        holder.stdin.flush()
        assert holder.stderr.readline().strip() == "1"
        cli.refused("tag", store, "first", "x", exit=BUSY)
        assert found(cli, store) == ["first"]
        cli.refused("set", store, "first", "a=1", exit=BUSY)
    finally:
        holder.communicate("")
    cli.run("set", store, "first", "a=1")
    assert found(cli, store, "a = 1") == ["first"]


def test_names_and_questions_that_make_no_sense(cli, store):
    cli.refused("tag", store, "nobody", "x", exit=NAME)
    for condition in ("loss <", "(", "a = 'x", "not", "a ~ 3 or", "x" * 5000 + " ="):
        assert "not understood" in cli.run("find", store, "Checkpoint", condition, exit=USAGE).stderr
    deep = "(" * 500 + "a = 1" + ")" * 500
    cli.run("find", store, "Checkpoint", deep, exit=USAGE)
