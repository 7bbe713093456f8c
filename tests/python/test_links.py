"""Links: what the command says of them, what h5py sees, and that nothing acknowledged is lost."""

import shutil
import subprocess
import threading
import uuid

import h5py
import numpy as np
import pytest
from helpers import (
    BAD_INPUT, BAD_STORE, BUSY, DAMAGED, INTERRUPTED, IO, OK, USAGE, beside, environment, limit_file_size, no_panic,
    random_model, save, wait_until,
)  # fmt: skip

KEYS = 20  # that the loaded lines go round


def hex_of(text):
    return uuid.uuid5(uuid.NAMESPACE_DNS, text).hex


def line(number):
    """The line of this number: a key that comes again, and a value that does not."""
    return f"key{number % KEYS},{number:032x}\n"


def values_after(lines, key):
    """What `key{key}` is linked to once the first lines are loaded."""
    return [f"{number:032x}" for number in range(1, lines + 1) if number % KEYS == key]


def links(cli, store, key):
    return cli.run("links", store, key).stdout.split()


def pairs(cli, store):
    found = cli.json("info", store)["links"]
    return found["pairs"] if found else 0


def require_prefix(cli, store, at_least, batch):
    """The store has the first lines, all of a batch or nothing, and at least those acknowledged. Returns how many."""
    count = pairs(cli, store)
    assert count >= at_least and count % batch == 0, f"{count} pairs, and {at_least} were acknowledged"
    for key in (0, 1, KEYS - 1):
        assert links(cli, store, f"key{key}") == values_after(count, key)
    return count


class Loader:
    """A `load-links` that is fed lines as fast as it takes them, and says which are durable."""

    def __init__(self, cli, store, batch, *options, most=10**9):
        self.acknowledged, self.stderr, self.most = 0, "", most
        arguments = [cli.binary, "load-links", store, "-", "--acknowledge", "--batch", str(batch), *options]
        self.process = subprocess.Popen(
            arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env=environment(),
        )  # fmt: skip
        self.enough = threading.Event()
        self.threads = [threading.Thread(target=self.feed), threading.Thread(target=self.listen)]
        for thread in self.threads:
            thread.start()

    def feed(self):
        number = 0
        try:
            while not self.enough.is_set() and number < self.most:
                self.process.stdin.write("".join(line(number + index) for index in range(1, 1001)))
                number += 1000
            self.process.stdin.close()
        except (BrokenPipeError, ValueError):
            pass  # killed

    def listen(self):
        for text in self.process.stderr:
            if text.strip().isdigit():
                self.acknowledged = int(text)
            else:
                self.stderr += text

    def wait_for(self, lines):
        assert wait_until(lambda: self.acknowledged >= lines or self.process.poll() is not None, 60)
        assert self.acknowledged >= lines, self.stderr

    def kill(self):
        self.process.kill()
        return self.end()

    def end(self):
        self.enough.set()
        self.process.wait(timeout=60)
        for thread in self.threads:
            thread.join(60)
        no_panic(self.stderr)
        return self.process.returncode


def killed_store(cli, store, *options, lines=1000, batch=100):
    """A store whose loader was killed: a log beside it has at least so many lines."""
    loader = Loader(cli, store, batch, *options)
    loader.wait_for(lines)
    loader.kill()
    assert f"{store.name}-wal" in beside(store)
    return loader.acknowledged


# --- the commands ---------------------------------------------------------------------------------------------------


def test_links_come_back_in_order_and_once(cli, tmp_path):
    store = tmp_path / "models.h5"
    seven = "00000000-0000-0000-0000-000000000007"
    assert cli.json("link", store, "base", "b", "a", seven, "b")["added"] == 3
    assert cli.json("link", store, "base", "a", "c") == {
        "store": str(store), "key": hex_of("base"), "added": 1, "values": 4,
    }  # fmt: skip
    want = [hex_of("b"), hex_of("a"), seven.replace("-", ""), hex_of("c")]
    assert links(cli, store, "base") == links(cli, store, hex_of("base")) == want
    assert cli.json("links", store, "base") == {"key": hex_of("base"), "values": want}
    assert cli.json("unlink", store, "base", "a", "never")["removed"] == 1
    assert links(cli, store, "base") == [want[0], *want[2:]]
    assert cli.json("info", store)["links"] == {"keys": 1, "pairs": 3}
    assert cli.json("unlink", store, "base")["removed"] == 3
    assert cli.json("unlink", store, "base")["removed"] == 0
    assert links(cli, store, "base") == links(cli, store, "absent") == []
    assert beside(store) == ["models.h5"]
    cli.run("verify", store)


def test_a_store_without_links_stays_without(cli, store):
    before = store.read_bytes()
    assert links(cli, store, "x") == []
    assert cli.json("info", store)["links"] is None
    assert cli.json("unlink", store, "x")["removed"] == 0
    assert cli.json("migrate", store)["directory"] is None
    cli.run("verify", store)
    with h5py.File(store) as file:
        assert list(file["nodes"]) == list(file["buckets"]) == []
    assert beside(store) == ["models.h5"] and len(store.read_bytes()) == len(before)


def test_lines_are_loaded_and_what_is_none_is_skipped(cli, tmp_path):
    file = tmp_path / "links.csv"
    file.write_text('# comment\n\n a , b \r\n"a, b","say ""c"""\na,層\n')
    done = cli.json("load-links", tmp_path / "links.h5", file)
    assert (done["loaded"], done["keys"], done["pairs"]) == (3, 2, 3)
    assert links(cli, tmp_path / "links.h5", "a") == [hex_of("b"), hex_of("層")]
    assert links(cli, tmp_path / "links.h5", "a, b") == [hex_of('say "c"')]
    again = cli.json("load-links", tmp_path / "links.h5", file)
    assert (again["loaded"], again["pairs"]) == (3, 3)


@pytest.mark.parametrize("bad", [b"key", b"a,b,c", b",b", b"a,", b'"a,b', b"\xff,a", b"a" * 70_000])
def test_a_bad_line_is_named_and_nothing_of_its_batch_is_written(cli, tmp_path, bad):
    file, store = tmp_path / "links.csv", tmp_path / "links.h5"
    good = "".join(line(number) for number in range(1, 26)).encode()
    file.write_bytes(good + bad + b"\n" + good)
    done = cli.refused("load-links", store, file, exit=BAD_INPUT)
    assert "line 26" in done.stderr and "nothing was written" in done.stderr
    assert not store.exists()
    done = cli.refused("load-links", store, file, "--batch", "10", "--quiet", exit=BAD_INPUT)
    assert "line 26" in done.stderr and "20 pairs up to line 20 are in the store" in done.stderr
    assert require_prefix(cli, store, 20, 20) == 20


def test_input_that_cannot_be_read_makes_no_store(cli, tmp_path):
    for file in (tmp_path / "missing.csv", tmp_path):
        cli.refused("load-links", tmp_path / "links.h5", file, exit=BAD_INPUT)
    cli.refused("load-links", tmp_path / "nowhere" / "links.h5", "-", exit=BAD_STORE)
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_load_keeps_its_batches(cli, tmp_path):
    store = tmp_path / "links.h5"
    loader = Loader(cli, store, 100)
    loader.wait_for(500)
    loader.process.terminate()
    assert loader.end() == INTERRUPTED
    assert "interrupted" in loader.stderr
    assert require_prefix(cli, store, 500, 100) == loader.acknowledged
    assert beside(store) == ["links.h5"]


@pytest.mark.parametrize("limit", [20_000, 150_000, 400_000])
def test_a_full_disk_is_reported_and_loses_no_batch(cli, tmp_path, limit):
    file, store = tmp_path / "links.csv", tmp_path / "links.h5"
    cli.run("link", store, "before", "a")
    file.write_text("".join(line(number) for number in range(1, 20_001)))
    arguments = ["load-links", store, file, "--batch", "500", "--log-bytes", "262144"]
    done = cli.refused(*arguments, exit=IO, preexec_fn=limit_file_size(limit))
    assert "nothing was written" in done.stderr or "are in the store" in done.stderr
    said = int(done.stderr.split(" up to line ")[1].split()[0]) if " up to line " in done.stderr else 0
    cli.run("unlink", store, "before")
    require_prefix(cli, store, said, 500)
    cli.run("verify", store)
    cli.run("load-links", store, file)
    assert require_prefix(cli, store, 20_000, 500) == 20_000


# --- h5py -----------------------------------------------------------------------------------------------------------


def number_of(ids):
    return [int(high) << 64 | int(low) for high, low in zip(ids["high"], ids["low"])]


def decode(file):
    """{key: values in order} of the buckets and value sets, with numpy alone; as docs/links.md describes them."""
    found = {}
    for name, dataset in file["buckets"].items():
        sets = file["values"][name][()] if name in file["values"] else None
        for bucket in dataset[()]:
            # The state is a Hamming code: these are its data bits.
            state = bucket["states"]
            used, spilled, order = state >> 3 & 1, state >> 5 & 1, state >> 6
            assert np.array_equal(used == 1, bucket["tags"] != 0)
            assert np.array_equal((used & ~spilled & 1) == 1, bucket["tags"] >> 7 == 1)
            assert bucket["used"] == used.sum()
            keys, values = number_of(bucket["cells"]["key"]), number_of(bucket["cells"]["value"])
            cells = {}
            for cell in np.flatnonzero(used):
                if spilled[cell]:
                    unit = values[cell] & (1 << 64) - 1
                    header = [int(half) for pair in sets[unit : unit + 3] for half in pair]
                    count = header[2] & 0xFFFFFFFF
                    assert header[3] >> 32 == 0, "a tombstone in the file"
                    found[keys[cell]] = number_of(sets[unit + 3 : unit + 3 + count])
                else:
                    cells.setdefault(keys[cell], []).append((order[cell], values[cell]))
            for key, several in cells.items():
                found[key] = [value for _, value in sorted(several)]
    return found


def directory(file):
    """The numbers of the buckets that the directory names, of each partition."""
    state, partitions = file["nodes/links"][0], file["nodes/partitions"][()]
    for partition in partitions:
        length, start = 1 << int(partition["directory_bits"]), int(partition["directory_start"])
        if state["directory_form"] == 0:
            entries = file["config"].attrs["dir"]
        elif state["directory_form"] == 1:
            entries = file["dir"]
        else:
            entries = file[f"dir/shard_{partition['id']:08x}"]
        yield f"{partition['id']:08x}", entries[start : start + length]


@pytest.mark.parametrize("keys", [30, 60_000])
def test_h5py_reads_what_the_command_says(cli, tmp_path, keys):
    """A few keys in one partition, and so many that there are several."""
    file, store = tmp_path / "links.csv", tmp_path / "links.h5"
    expected, lines = {}, []
    for key in range(1, keys + 1):
        count = 1 if key % 10 else (2, 4, 5, 40)[key // 10 % 4]
        expected[key] = [key << 64 | 1000 - value for value in range(count)]
        lines += [f"{key:032x},{value:032x}\n" for value in expected[key]]
    file.write_text("".join(lines))
    cli.run("load-links", store, file)
    form = cli.json("migrate", store)
    with h5py.File(store) as opened:
        found = decode(opened)
        assert found == expected
        partitions = opened["nodes/partitions"][()]
        assert form["partitions"] == len(partitions) == len(opened["buckets"])
        assert sum(partitions["keys"]) == form["keys"] == keys
        assert sum(partitions["pairs"]) == form["pairs"] == len(lines)
        assert form["directory"] == ("attribute", "dataset", "sharded")[opened["nodes/links"][0]["directory_form"]]
        for name, entries in directory(opened):
            buckets = opened["buckets"][name][()]
            overflow = set(buckets["next"]) - {0}
            assert set(entries) | overflow == set(range(len(buckets)))
    for key in (1, 10, 20, 30):
        assert [int(value, 16) for value in links(cli, store, f"{key:032x}")] == expected[key]


def test_h5py_reads_the_log(cli, tmp_path):
    store = tmp_path / "links.h5"
    acknowledged = killed_store(cli, store)
    with h5py.File(f"{store}-wal") as log:
        records = log["records"][()]
        assert log["config"].attrs["kind"] == "links write-ahead log"
    changes = records[records["version_op"] & 15 == 1]
    changes = changes[np.argsort(changes["seq"])]
    assert len(changes) >= acknowledged
    number = len(changes)
    assert number_of(changes["value"]) == list(range(1, number + 1))
    keys = [uuid.uuid5(uuid.NAMESPACE_DNS, f"key{key}").int for key in range(KEYS)]
    assert number_of(changes["key"]) == [keys[value % KEYS] for value in range(1, number + 1)]


# --- crashes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("log_bytes", [256 << 10, 64 << 20])
def test_every_acknowledged_batch_survives_kill_9(cli, tmp_path, log_bytes):
    """With a log that is full again and again, and with one that holds everything."""
    for round_number in range(4):
        store = tmp_path / f"links{round_number}.h5"
        loader = Loader(cli, store, 200, "--log-bytes", str(log_bytes))
        loader.wait_for((1, 2000, 7000, 15_000)[round_number])
        loader.kill()
        require_prefix(cli, store, loader.acknowledged, 200)
        cli.run("verify", store)
        cli.run("link", store, "after", "wards")  # recovers, and closes as always
        assert beside(store) == [store.name]
        assert links(cli, store, "after") == [hex_of("wards")]
        cli.run("unlink", store, "after")
        require_prefix(cli, store, loader.acknowledged, 200)


def test_a_command_for_weights_leaves_the_log_alone(cli, tmp_path, rng):
    store = tmp_path / "models.h5"
    acknowledged = killed_store(cli, store)
    log = tmp_path / "models.h5-wal"
    before = log.read_bytes()
    cli.run("add", store, save(tmp_path / "base.safetensors", random_model(rng)))
    cli.run("rm", store, "base")
    cli.run("gc", store)
    assert log.read_bytes() == before
    require_prefix(cli, store, acknowledged, 100)


def test_a_rollback_keeps_what_was_only_in_the_log(cli, tmp_path):
    store = tmp_path / "links.h5"
    cli.run("link", store, "before", "a")
    early = cli.json("log", store)["current"]
    acknowledged = killed_store(cli, store)
    cli.run("rollback", store, str(early))
    assert beside(store) == ["links.h5"]
    assert pairs(cli, store) == 1 and links(cli, store, "before") == [hex_of("a")]
    assert links(cli, store, "key1") == []
    # The one before the rollback: what the log held.
    commits = [commit["number"] for commit in cli.json("log", store)["commits"]]
    cli.run("rollback", store, str(commits[-2]))
    assert pairs(cli, store) >= acknowledged + 1
    assert links(cli, store, "key1")[: acknowledged // KEYS] == values_after(acknowledged, 1)
    cli.run("rollback", store, str(early))
    cli.run("link", store, "before", "b")  # a log of the older state begins
    assert links(cli, store, "before") == [hex_of("a"), hex_of("b")]
    cli.run("verify", store)


# --- damage ---------------------------------------------------------------------------------------------------------


def flip(path, offset, bit=0):
    with open(path, "r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ 1 << bit]))


def place_of(store, dataset, field=None):
    """Where the first element of a dataset, or a field of it, lies in the file."""
    with h5py.File(store) as file:
        found = file[dataset]
        return found.id.get_offset() + (found.dtype.fields[field][1] if field else 0)


@pytest.mark.parametrize("dataset, field", [("buckets/00000000", "cells"), ("nodes/links", "seed"), ("nodes/partitions", "keys")])
def test_a_flipped_bit_is_reported_with_its_place(cli, tmp_path, dataset, field):
    store = tmp_path / "links.h5"
    cli.run("link", store, "base", "a", "b")
    cli.run("migrate", store)
    flip(store, place_of(store, dataset, field) + (16 if field == "cells" else 0))
    done = cli.run("verify", store, exit=DAMAGED)
    assert "damaged links" in done.stdout and dataset.split("/")[0] in done.stdout
    done = cli.refused("links", store, "base", exit=DAMAGED)
    assert dataset.split("/")[0] in done.stderr and "backup" in done.stderr
    cli.refused("backup", store, store, exit=USAGE)


def test_a_damaged_log_is_reported_and_stays(cli, tmp_path):
    store = tmp_path / "links.h5"
    killed_store(cli, store)
    flip(f"{store}-wal", place_of(f"{store}-wal", "records") + 64 * 150 + 20)
    log = (tmp_path / "links.h5-wal").read_bytes()
    for command in (["links", store, "key1"], ["link", store, "a", "b"], ["backup", store, tmp_path / "b.h5"]):
        done = cli.refused(*command, exit=DAMAGED)
        assert "links.h5-wal is damaged from record" in done.stderr
    assert "links.h5-wal is damaged" in cli.run("verify", store, exit=DAMAGED).stdout
    assert (tmp_path / "links.h5-wal").read_bytes() == log
    assert beside(tmp_path / "b.h5") == []


def test_the_log_of_another_store_is_refused(cli, tmp_path):
    store, other = tmp_path / "links.h5", tmp_path / "other.h5"
    killed_store(cli, other)
    cli.run("link", store, "a", "b")
    shutil.copy(f"{other}-wal", f"{store}-wal")
    done = cli.refused("links", store, "a", exit=BAD_STORE)
    assert "another store" in done.stderr
    cli.run("verify", store, exit=DAMAGED)


# --- backup and restore ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("log_bytes", [256 << 10, 64 << 20])
def test_a_backup_beside_a_writer_has_all_that_was_acknowledged_and_whole_batches(cli, tmp_path, rng, log_bytes):
    store, backup = tmp_path / "links.h5", tmp_path / "backup.h5"
    # So large that a small log is written over while the file is copied.
    cli.run("add", store, save(tmp_path / "large.safetensors", random_model(rng, tensors=8, values=512 * 1024)))
    loader = Loader(cli, store, 200, "--log-bytes", str(log_bytes), most=400_000)
    loader.wait_for(200)
    counts = []
    for _ in range(6):
        acknowledged = loader.acknowledged
        cli.run("backup", store, backup, "--force")
        assert beside(backup) == ["backup.h5"]
        counts.append(require_prefix(cli, backup, acknowledged, 200))
        cli.run("verify", backup)
    assert loader.process.poll() is None or loader.acknowledged == 400_000
    loader.enough.set()
    assert loader.end() == OK, loader.stderr
    assert counts == sorted(counts)
    cli.run("backup", store, backup, "--force")
    assert require_prefix(cli, backup, loader.acknowledged, 100) == pairs(cli, store)


def test_a_backup_has_the_weights_and_the_log_of_a_killed_writer(cli, tmp_path, store, rng):
    acknowledged = killed_store(cli, store)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.name.startswith(store.name)}
    backup = tmp_path / "backup.h5"
    assert cli.json("backup", store, backup)["changes_from_log"] >= acknowledged
    after = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.name.startswith(store.name)}
    assert before == after
    require_prefix(cli, backup, acknowledged, 100)
    cli.run("export", backup, "first", "-o", tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == (tmp_path / "first.safetensors").read_bytes()
    with h5py.File(backup) as file:
        assert len(file["weights"]) == 6
    cli.refused("backup", store, backup, exit=USAGE)
    cli.refused("backup", tmp_path / "missing.h5", tmp_path / "b.h5", exit=BAD_STORE)
    assert beside(backup) == ["backup.h5"] and beside(tmp_path / "b.h5") == []


def test_a_restore_replays_the_log_beside_the_backup(cli, tmp_path):
    store, backup = tmp_path / "links.h5", tmp_path / "backup.h5"
    acknowledged = killed_store(cli, store)
    for suffix in ("", "-wal"):  # by hand, as somebody would
        shutil.copy(f"{store}{suffix}", f"{backup}{suffix}")
    before = backup.read_bytes(), (tmp_path / "backup.h5-wal").read_bytes()
    new = tmp_path / "new.h5"
    assert cli.json("restore", backup, new)["changes_from_log"] >= acknowledged
    require_prefix(cli, new, acknowledged, 100)
    assert beside(new) == ["new.h5"]
    assert before == (backup.read_bytes(), (tmp_path / "backup.h5-wal").read_bytes())


def test_a_restore_replaces_only_what_it_may(cli, tmp_path):
    store, backup = tmp_path / "links.h5", tmp_path / "backup.h5"
    cli.run("link", store, "a", "b")
    cli.run("backup", store, backup)
    cli.run("link", store, "a", "c")
    good = store.read_bytes()
    assert "--force" in cli.refused("restore", backup, store, exit=USAGE).stderr
    notes = tmp_path / "notes.txt"
    notes.write_text("not a store")
    assert "--force" in cli.refused("restore", backup, notes, exit=USAGE).stderr
    cli.refused("restore", backup, backup, exit=USAGE)
    cli.refused("restore", tmp_path / "missing.h5", store, "--force", exit=BAD_STORE)
    cli.refused("restore", notes, store, "--force", exit=BAD_STORE)
    assert store.read_bytes() == good and notes.read_text() == "not a store"

    spoiled = tmp_path / "spoiled.h5"
    shutil.copy(backup, spoiled)
    flip(spoiled, place_of(spoiled, "nodes/links", "seed"))
    assert "spoiled.h5 are damaged" in cli.refused("restore", spoiled, store, "--force", exit=DAMAGED).stderr
    assert store.read_bytes() == good

    cli.run("restore", backup, store, "--force")
    assert links(cli, store, "a") == [hex_of("b")]
    cli.run("restore", backup, spoiled)  # a damaged store needs no --force
    assert links(cli, spoiled, "a") == [hex_of("b")]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["backup.h5", "links.h5", "notes.txt", "spoiled.h5"]


def test_a_full_disk_leaves_what_is_there_untouched(cli, tmp_path, store):
    backup = tmp_path / "backup.h5"
    cli.run("link", store, "a", "b")
    cli.run("backup", store, backup)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    limit = limit_file_size(backup.stat().st_size // 2)
    cli.refused("backup", store, backup, "--force", exit=IO, preexec_fn=limit)
    cli.refused("restore", backup, store, "--force", exit=IO, preexec_fn=limit)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_restore_removes_the_log_of_what_it_replaces_and_waits_for_no_writer(cli, tmp_path):
    store, backup = tmp_path / "links.h5", tmp_path / "backup.h5"
    loader = Loader(cli, store, 100, most=1000)
    loader.wait_for(1000)
    cli.run("backup", store, backup)
    loader.end()

    writer = Loader(cli, store, 100)
    writer.wait_for(100)
    cli.refused("restore", backup, store, "--force", exit=BUSY)
    writer.kill()
    assert "links.h5-wal" in beside(store)
    cli.run("restore", backup, store, "--force")
    assert beside(store) == ["links.h5"]
    assert require_prefix(cli, store, 1000, 100) == 1000


def test_a_reader_beside_a_writer_sees_what_was_acknowledged_and_whole_batches(cli, tmp_path):
    store = tmp_path / "links.h5"
    loader = Loader(cli, store, 1000, "--log-bytes", "262144", most=1_000_000)
    loader.wait_for(1000)
    for _ in range(40):
        acknowledged = loader.acknowledged
        found = links(cli, store, "key3")
        last = int(found[-1], 16)
        assert found == values_after(last, 3) and last + KEYS > acknowledged
    loader.enough.set()
    assert loader.end() == OK, loader.stderr


def test_a_store_whose_log_is_missing_gives_no_backup(cli, tmp_path):
    store, backup = tmp_path / "links.h5", tmp_path / "backup.h5"
    acknowledged = killed_store(cli, store)
    cli.run("backup", store, backup)
    good = backup.read_bytes()
    (tmp_path / "links.h5-wal").unlink()
    for target in (backup, tmp_path / "other.h5"):
        done = cli.refused("backup", store, target, "--force", exit=DAMAGED)
        assert f"{store}-wal is missing" in done.stderr
    cli.refused("links", store, "key0", exit=DAMAGED)
    assert backup.read_bytes() == good and beside(tmp_path / "other.h5") == []

    cli.run("migrate", store, "--salvage")
    require_prefix(cli, store, 0, 100)
    cli.run("restore", backup, store, "--force")
    require_prefix(cli, store, acknowledged, 100)


def test_a_damaged_store_takes_no_backups_place(cli, tmp_path):
    store, backup = tmp_path / "links.h5", tmp_path / "backup.h5"
    cli.run("link", store, "a", "b")
    cli.run("backup", store, backup)
    good = backup.read_bytes()
    flip(store, place_of(store, "buckets/00000000", "cells"))
    assert "links.h5 is damaged" in cli.refused("backup", store, backup, "--force", exit=DAMAGED).stderr
    assert backup.read_bytes() == good and beside(backup) == ["backup.h5"]


def test_what_is_left_of_another_store_is_not_removed(cli, tmp_path):
    store, moved = tmp_path / "links.h5", tmp_path / "moved.h5"
    killed_store(cli, moved)
    moved.rename(tmp_path / "elsewhere.h5")
    cli.run("link", store, "a", "b")
    for command in ("backup", "restore"):
        assert "is what is left of a store called" in cli.refused(command, store, moved, exit=USAGE).stderr
        assert "moved.h5-wal" in beside(moved) and not moved.exists()


def test_lines_are_loaded_after_a_small_command_was_killed(cli, tmp_path):
    store, file = tmp_path / "links.h5", tmp_path / "links.csv"
    acknowledged = killed_store(cli, store, "--log-bytes", "262144")
    file.write_text("".join(line(number) for number in range(1, 20_001)))
    cli.run("load-links", store, file)  # its batches are larger than the log that was left
    assert require_prefix(cli, store, acknowledged, 1) == 20_000
    assert beside(store) == ["links.h5"]


def test_a_key_or_value_without_text_is_a_mistake(cli, tmp_path):
    store = tmp_path / "links.h5"
    cli.refused("link", store, "", "b", exit=USAGE)
    assert not store.exists()
    cli.run("link", store, "a", "b")
    cli.refused("unlink", store, "a", "", exit=USAGE)  # an unset variable, not "all"
    assert links(cli, store, "a") == [hex_of("b")]


def test_links_are_compacted_on_request(cli, tmp_path):
    store, file = tmp_path / "links.h5", tmp_path / "links.csv"
    file.write_text("".join(f"{number * 0x9E3779B97F4A7C15 % 2**128:032x},{number:032x}\n" for number in range(100_000)))
    cli.run("load-links", store, file)
    before = store.stat().st_size
    cli.run("gc", store, "--compact")
    size = store.stat().st_size
    assert size < before and size < 100_000 * 45  # 32 bytes are the pair
    assert links(cli, store, f"{7 * 0x9E3779B97F4A7C15 % 2**128:032x}") == [f"{7:032x}"]
    assert pairs(cli, store) == 100_000
