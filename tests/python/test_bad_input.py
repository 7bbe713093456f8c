"""Bad input, bad stores, a full disk: one clear sentence, the documented exit code, and the store as it was before."""

import json
import os
import pathlib
import random
import shutil
import signal
import subprocess
import tempfile

import h5py
import numpy as np
import pytest
from helpers import (
    BAD_INPUT, BAD_STORE, BUSY, DAMAGED, IO, NAME, OK, USAGE, State, beside, entry, environment, frame,
    limit_file_size, no_panic, random_model, save, sha256, wait_until,
)  # fmt: skip

F = entry  # short, for the table below


def bad_files():
    """{what is wrong: the bytes of the file}"""
    good = {"a": F("F32", [2], 0, 8), "b": F("F32", [2], 8, 16)}
    data = bytes(range(16))
    huge = 2**63
    return {
        "empty": b"",
        "seven bytes": b"\x08\0\0\0\0\0\0",
        "only a length": b"\x08\0\0\0\0\0\0\0",
        "data cut short": frame(good, data)[:-1],
        "data cut away": frame(good),
        "data left over": frame(good, data + b"x"),
        "header cut short": frame(good, data)[:30],
        "header length beyond the file": frame(good, data, length=1 << 20),
        "header length of all ones": frame(good, data, length=2**64 - 1),
        "header length of zero": frame(b"", data, length=0),
        "header not JSON": frame(b"this is no JSON!", data),
        "header not UTF-8": frame(b'{"a\xff\xfe": 1}', data),
        "header an array": frame(b"[]", b""),
        "header a number": frame(b"12345678", b""),
        "header nested too deep": frame(b'{"a":' + b"[" * 200_000 + b"]" * 200_000 + b"}", b""),
        "entry not an object": frame({"a": 1}, b""),
        "entry without offsets": frame({"a": {"dtype": "F32", "shape": [2]}}, data),
        "entry without shape": frame({"a": {"dtype": "F32", "data_offsets": [0, 8]}}, data[:8]),
        "one offset": frame({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0]}}, data[:8]),
        "negative offset": frame({"a": F("F32", [2], -8, 0)}, data[:8]),
        "fractional offset": frame({"a": F("F32", [2], 0.0, 8.5)}, data[:8]),
        "offsets reversed": frame({"a": F("F32", [2], 8, 0)}, data[:8]),
        "offsets overlapping": frame({"a": F("F32", [2], 0, 8), "b": F("F32", [2], 4, 12)}, data[:12]),
        "offsets the same": frame({"a": F("F32", [2], 0, 8), "b": F("F32", [2], 0, 8)}, data[:8]),
        "offsets with a hole": frame({"a": F("F32", [2], 0, 8), "b": F("F32", [1], 12, 16)}, data),
        "offsets beyond the file": frame({"a": F("F32", [2000], 0, 8000)}, data),
        "offsets near the end of u64": frame({"a": F("F32", [2], 2**64 - 8, 2**64 - 1)}, data),
        "offset beyond u64": frame({"a": F("F32", [2], 0, 2**70)}, data),
        "shape and offsets disagree": frame({"a": F("F32", [3], 0, 8)}, data[:8]),
        "negative size": frame({"a": F("F32", [-2], 0, 8)}, data[:8]),
        "shape overflows": frame({"a": F("F32", [huge, huge], 0, 8)}, data[:8]),
        "shape overflows to the right size": frame({"a": F("F32", [huge, 2, 2], 0, 0)}, b""),
        "unknown dtype": frame({"a": F("F31", [2], 0, 8)}, data[:8]),
        "dtype not text": frame({"a": F(7, [2], 0, 8)}, data[:8]),
        "duplicate name": frame(
            b'{"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},"a":{"dtype":"U8","shape":[4],"data_offsets":[4,8]}}',
            data[:8],
        ),
        "metadata not text": frame({"__metadata__": {"a": 1}, **good}, data),
        "metadata an array": frame({"__metadata__": [], **good}, data),
        "an HDF5 file": b"\x89HDF\r\n\x1a\n" + bytes(2000),
        "a zip file": b"PK\x03\x04" + bytes(2000),
        "text": b"once upon a time there was a file that was no model at all\n" * 50,
    }


@pytest.mark.parametrize("wrong", bad_files())
def test_a_bad_file_is_refused_and_the_store_is_as_before(cli, tmp_path, store, wrong):
    bad = tmp_path / "bad.safetensors"
    bad.write_bytes(bad_files()[wrong])
    before = sha256(store)
    done = cli.refused("add", store, bad, exit=BAD_INPUT, timeout=30)
    assert "bad.safetensors" in done.stderr, "the sentence does not name the file"
    assert sha256(store) == before
    assert beside(store) == ["models.h5"]

    new = tmp_path / "new.h5"
    cli.refused("add", new, bad, exit=BAD_INPUT, timeout=30)
    assert not new.exists(), "a store was made for nothing"


def test_one_bad_file_among_good_ones_adds_nothing(cli, tmp_path, store, rng):
    good = save(tmp_path / "good.safetensors", random_model(rng))
    bad = tmp_path / "bad.safetensors"
    bad.write_bytes(frame({"a": F("F32", [3], 0, 8)}, bytes(8)))
    before = State(cli, store)
    for files in ([good, bad], [bad, good]):
        cli.refused("add", store, *files, exit=BAD_INPUT)
        assert State(cli, store) == before


def test_a_header_of_gigabytes_is_refused_without_reading_it(cli, tmp_path, store):
    bad = tmp_path / "bad.safetensors"
    with open(bad, "wb") as file:
        file.write((3 << 30).to_bytes(8, "little") + b'{"a":{')
        file.truncate(4 << 30)  # sparse
    before = sha256(store)
    adding = cli.start("add", store, bad)
    adding.stdout.close()
    stderr = adding.stderr.read().decode()
    _, status, usage = os.wait4(adding.pid, 0)
    adding.returncode = os.waitstatus_to_exitcode(status)
    no_panic(stderr)
    assert adding.returncode == BAD_INPUT, stderr
    assert usage.ru_maxrss < 512 * 1024, f"{usage.ru_maxrss} KiB of memory"
    assert sha256(store) == before


@pytest.mark.parametrize(
    "name", ["", "a\0b", "..", "/", "/abs", "a//b", ".", "x" * 3000, "x" * 100_000, "line\nbreak", "\u202e", "💾"],
    ids=lambda name: repr(name[:8]) + f" {len(name)}",
)  # fmt: skip
def test_a_strange_tensor_name_comes_out_again_or_is_refused(cli, tmp_path, store, name):
    file = save(tmp_path / "in.safetensors", {name: np.arange(5, dtype="<f4"), "plain": np.arange(9, dtype="<f4")})
    before = State(cli, store)
    done = cli.run("add", store, file, "--name", "strange", exit=(OK, BAD_INPUT))
    if done.returncode == OK:
        cli.run("export", store, "strange", "-o", tmp_path / "out")
        assert sha256(tmp_path / "out") == sha256(file)
        cli.run("show", store, "strange")
        json.loads(cli.run("show", store, "strange", "--json").stdout)
        cli.run("verify", store)
        with h5py.File(store) as opened:
            assert len(opened["weights"]) == 8
    else:
        assert State(cli, store) == before


@pytest.mark.parametrize("name", ["a/b", "..", ".", "💾", "x" * 255, "with space"])
def test_a_strange_checkpoint_name_works_or_is_refused(cli, tmp_path, store, rng, name):
    file = save(tmp_path / "in.safetensors", random_model(rng))
    before = State(cli, store)
    done = cli.run("add", store, file, "--name", name, exit=(OK, USAGE, NAME))
    if done.returncode == OK:
        assert name in cli.names(store)
        cli.run("export", store, name, "-o", tmp_path / "out")
        assert sha256(tmp_path / "out") == sha256(file)
        cli.run("rm", store, name)
        assert cli.names(store) == ["first"]
    else:
        assert State(cli, store) == before


def test_an_empty_model_and_one_of_metadata_only_come_out_again(cli, tmp_path, store):
    for number, (tensors, metadata) in enumerate([({}, None), ({}, {"a": "b"})]):
        file = save(tmp_path / f"in{number}.safetensors", tensors, metadata)
        cli.run("add", store, file)
        cli.run("export", store, f"in{number}", "-o", tmp_path / "out")
        assert sha256(tmp_path / "out") == sha256(file)
    cli.run("verify", store)


def test_a_header_with_spaces_or_another_order_comes_out_byte_for_byte(cli, tmp_path, store):
    headers = {
        "padded": b'{"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}}' + b" " * 77,
        "spaced": b'{ "a" : { "shape" : [ 4 ] , "data_offsets" : [ 0 , 4 ], "dtype" : "U8" } }',
        "last tensor first": b'{"z":{"dtype":"U8","shape":[1],"data_offsets":[3,4]},'
        b'"__metadata__":{"k":"v"},"a":{"dtype":"U8","shape":[3],"data_offsets":[0,3]}}',
        "escapes": b'{"\\u0061":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}}',
    }
    for name, header in headers.items():
        file = tmp_path / "in.safetensors"
        file.write_bytes(frame(header, b"\1\2\3\4"))
        cli.run("add", store, file, "--name", name)
        cli.run("export", store, name, "-o", tmp_path / "out")
        assert (tmp_path / "out").read_bytes() == file.read_bytes(), name


# --- stores that cannot be used -------------------------------------------------------------------------------------

READS = (["ls"], ["info"], ["verify"])


def refuse_all(cli, tmp_path, path, rng, exit=BAD_STORE):
    for arguments in READS:
        cli.refused(*arguments, path, exit=exit)
    cli.refused("show", path, "first", exit=exit)
    cli.refused("export", path, "first", "-o", tmp_path / "never", exit=exit)
    assert not (tmp_path / "never").exists()
    refuse_writes(cli, tmp_path, path, rng, exit)


def refuse_writes(cli, tmp_path, path, rng, exit=BAD_STORE):
    file = save(tmp_path / "in.safetensors", random_model(rng))
    cli.refused("add", path, file, exit=exit)
    cli.refused("rm", path, "first", exit=exit)
    cli.refused("gc", path, exit=exit)


def test_a_store_that_does_not_exist_is_not_made_by_reading(cli, tmp_path):
    path = tmp_path / "missing.h5"
    for arguments in READS:
        cli.refused(*arguments, path, exit=BAD_STORE)
    cli.refused("rm", path, "first", exit=BAD_STORE)
    cli.refused("gc", path, exit=BAD_STORE)
    assert beside(path) == []


def test_a_folder_in_the_place_of_the_store(cli, tmp_path, rng):
    path = tmp_path / "folder"
    path.mkdir()
    refuse_all(cli, tmp_path, path, rng)
    assert list(path.iterdir()) == [] and beside(path) == ["folder"]


def test_a_store_in_a_folder_that_does_not_exist(cli, tmp_path, rng):
    file = save(tmp_path / "in.safetensors", random_model(rng))
    cli.refused("add", tmp_path / "no" / "models.h5", file, exit=(BAD_STORE, IO))


@pytest.mark.parametrize("content", [b"not HDF5 at all, only text\n" * 300, bytes(8192), b"x", b"\x89HDF\r\n\x1a\n"])
def test_a_file_that_is_not_hdf5(cli, tmp_path, rng, content):
    path = tmp_path / "models.h5"
    path.write_bytes(content)
    refuse_all(cli, tmp_path, path, rng)
    assert path.read_bytes() == content and beside(path) == ["models.h5"]


def test_an_empty_file_becomes_a_store(cli, tmp_path, rng):
    path = tmp_path / "models.h5"
    path.touch()
    cli.run("add", path, save(tmp_path / "in.safetensors", random_model(rng)))
    assert cli.names(path) == ["in"]


def test_a_newer_store_is_refused_and_never_touched(cli, tmp_path, store, rng):
    with h5py.File(store, "r+") as file:
        attributes = file["config"].attrs
        attributes.modify("format_version", np.array(99, np.int64))
    before = sha256(store)
    done = cli.refused("ls", store, exit=BAD_STORE)
    assert "version" in done.stderr
    refuse_all(cli, tmp_path, store, rng)
    assert sha256(store) == before and beside(store) == ["models.h5"]


def test_a_store_that_lost_its_weights_is_refused_or_reported(cli, store):
    with h5py.File(store, "r+") as file:
        del file["weights"]
    cli.refused("verify", store, exit=(DAMAGED, BAD_STORE))


def test_a_damaged_superblock_is_refused(cli, tmp_path, store, rng):
    whole = store.read_bytes()
    for at, mask in ((0, 0xFF), (5, 1), (9, 0x40), (20, 1), (40, 0x80)):
        data = bytearray(whole)
        data[at] ^= mask
        store.write_bytes(data)
        cli.refused("ls", store, exit=BAD_STORE)
        refuse_writes(cli, tmp_path, store, rng)
        assert store.read_bytes() == data, "a damaged store was touched"


@pytest.mark.parametrize("kept", [0.99, 0.5, 0.1, 0.01])
def test_a_store_cut_short_is_refused_or_reported(cli, tmp_path, store, kept):
    data = store.read_bytes()
    store.write_bytes(data[: int(len(data) * kept)])
    before = sha256(store)
    cli.run("verify", store, exit=(DAMAGED, BAD_STORE))
    done = cli.run("export", store, "first", "-o", tmp_path / "out", exit=None)
    assert done.returncode in (OK, DAMAGED, BAD_STORE), done.stderr
    assert (tmp_path / "out").exists() == (done.returncode == OK)
    if done.returncode == OK:
        assert sha256(tmp_path / "out") == sha256(tmp_path / "first.safetensors")
    assert sha256(store) == before


def test_a_flipped_bit_anywhere_is_found_or_does_not_matter(cli, tmp_path, store):
    """Where `verify` finds nothing, the byte belongs to nothing: everything must come out as it went in."""
    chance = random.Random(3)
    whole = store.read_bytes()
    wanted = sha256(tmp_path / "first.safetensors")
    with h5py.File(store) as file:  # some that certainly hit data
        dataset = next(iter(file["weights"].values()))
        if dataset.chunks:
            info = dataset.id.get_chunk_info(0)
            data_at = [info.byte_offset + chance.randrange(info.size) for _ in range(6)]
        else:
            data_at = [dataset.id.get_offset() + chance.randrange(dataset.nbytes) for _ in range(6)]
    found = 0
    places = data_at + [chance.randrange(len(whole)) for _ in range(30)] + [chance.randrange(4096) for _ in range(12)]
    for number, at in enumerate(places):
        data = bytearray(whole)
        data[at] ^= 1 << chance.randrange(8)
        store.write_bytes(data)
        done = cli.run("verify", store, exit=(OK, DAMAGED, BAD_STORE), timeout=30)
        out = tmp_path / "out"
        out.unlink(missing_ok=True)
        exported = cli.run("export", store, "first", "-o", out, exit=None, timeout=30)
        if exported.returncode == OK:
            assert sha256(out) == wanted, f"byte {at}: a damaged byte was handed back"
        else:
            assert not out.exists(), f"byte {at}: a refused export left its file"
        if done.returncode == OK:
            assert exported.returncode == OK, f"byte {at}: verify found nothing, export failed: {exported.stderr}"
        else:
            found += 1
        if number < len(data_at):
            assert done.returncode == DAMAGED, f"byte {at} of a chunk: not found"
            assert "layer." in done.stdout + done.stderr, "the damaged name is not told"
    assert found >= len(data_at)


@pytest.fixture
def elsewhere():
    """A folder that other users may enter, unlike pytest's own."""
    folder = tempfile.mkdtemp(prefix="corallite-test-")
    os.chmod(folder, 0o755)
    yield folder
    subprocess.run(["chmod", "-R", "u+w", folder], check=True)
    shutil.rmtree(folder)


@pytest.mark.parametrize("folder_writable", [False, True])
def test_a_read_only_store_is_read_and_writes_are_refused(cli, rng, elsewhere, folder_writable):
    """As an ordinary user: root may write anything, so as root the commands run as nobody."""
    folder = pathlib.Path(elsewhere)
    (folder / "bin").mkdir()
    other = type(cli)(shutil.copy(cli.binary, folder / "bin/corallite"))
    store, file = folder / "s" / "models.h5", save(folder / "first.safetensors", random_model(rng))
    store.parent.mkdir()
    cli.run("add", store, file)
    added = save(folder / "second.safetensors", random_model(rng))
    os.chmod(store, 0o444)
    os.chmod(store.parent, 0o777 if folder_writable else 0o555)
    (folder / "out").mkdir()
    os.chmod(folder / "out", 0o777)
    before = sha256(store)
    user = {"user": 65534, "group": 65534, "extra_groups": [], "cwd": "/"} if os.geteuid() == 0 else {}
    for arguments in READS:
        other.run(*arguments, store, **user)
    other.run("export", store, "first", "-o", folder / "out/x", **user)
    assert sha256(folder / "out/x") == sha256(file)
    other.refused("add", store, added, exit=BAD_STORE, **user)
    other.refused("rm", store, "first", exit=BAD_STORE, **user)
    other.refused("gc", store, exit=BAD_STORE, **user)
    assert sha256(store) == before
    if not folder_writable:
        other.refused("add", store.parent / "new.h5", added, exit=(BAD_STORE, IO), **user)
    assert beside(store) == ["models.h5"]


# --- the disk -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("room", [0, 4096, 100_000, 1_000_000])
def test_a_write_that_fails_leaves_the_store_as_it_was(cli, tmp_path, store, rng, room):
    """The file size limit stands for a full disk: a write beyond it fails in the middle of the commit."""
    before = State(cli, store)
    file = save(tmp_path / "in.safetensors", random_model(rng, tensors=8, values=128 * 1024))
    limit = store.stat().st_size + room
    cli.refused("add", store, file, exit=IO, preexec_fn=limit_file_size(limit), restore_signals=False)
    assert State(cli, store) == before
    cli.run("add", store, file, "--name", "again")
    cli.run("verify", store)


def test_a_full_disk_leaves_the_store_as_it_was(cli, tmp_path, store, rng):
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", disk], capture_output=True).returncode != 0:
        pytest.skip("mounting a small disk is not permitted here")
    try:
        full = disk / "models.h5"
        shutil.copy(store, full)
        before = State(cli, store)
        for name in ("one", "two"):
            file = save(tmp_path / f"{name}.safetensors", random_model(rng, tensors=8, values=256 * 1024))
            cli.refused("add", full, file, "--name", name, exit=IO)
            # exports go to the folder of the store: look at it in a roomier place, with all that lies beside it
            for path in disk.iterdir():
                shutil.copy(path, tmp_path / path.name)
            assert State(cli, tmp_path / "models.h5") == before
        cli.run("verify", full)
        small = save(tmp_path / "small.safetensors", {"a": np.arange(100, dtype="<f4")})
        cli.run("add", full, small)
        assert sorted(cli.names(full)) == ["first", "small"]
    finally:
        subprocess.run(["umount", disk], check=True)


def test_an_export_that_cannot_be_written(cli, tmp_path, store):
    before = sha256(store)
    cli.refused("export", store, "first", "-o", tmp_path / "no" / "out", exit=IO)
    out = tmp_path / "out"
    cli.refused(
        "export", store, "first", "-o", out, exit=IO, preexec_fn=limit_file_size(10_000), restore_signals=False
    )
    assert not out.exists(), "half a file was left"
    assert sha256(store) == before


def test_an_export_onto_the_store_itself_is_refused(cli, store):
    before = sha256(store)
    cli.refused("export", store, "first", "-o", store, exit=(USAGE, BAD_STORE, NAME, IO))
    assert sha256(store) == before


# --- names, usage ---------------------------------------------------------------------------------------------------


def test_a_name_that_is_not_there_or_is_there_already(cli, tmp_path, store, rng):
    file = save(tmp_path / "other.safetensors", random_model(rng))
    before = sha256(store)
    for arguments in (["show", store, "nobody"], ["rm", store, "nobody"]):
        assert "nobody" in cli.refused(*arguments, exit=NAME).stderr
    cli.refused("export", store, "nobody", "-o", tmp_path / "out", exit=NAME)
    assert not (tmp_path / "out").exists()
    assert "first" in cli.refused("add", store, file, "--name", "first", exit=NAME).stderr
    assert sha256(store) == before


def test_the_same_weights_under_another_name_cost_nearly_nothing(cli, tmp_path, store):
    before = cli.json("info", store)
    cli.run("add", store, tmp_path / "first.safetensors", "--name", "second")
    after = cli.json("info", store)
    assert after["checkpoints"] == before["checkpoints"] + 1
    assert after["weights"] == before["weights"]
    assert after["stored_bytes"] == before["stored_bytes"]
    cli.run("rm", store, "first")
    cli.run("gc", store)
    cli.run("export", store, "second", "-o", tmp_path / "out")
    assert sha256(tmp_path / "out") == sha256(tmp_path / "first.safetensors")


@pytest.mark.parametrize(
    "arguments",
    [[], ["frobnicate"], ["add"], ["add", "x.h5"], ["ls"], ["ls", "a.h5", "b.h5"], ["export", "x.h5", "n"],
     ["ls", "x.h5", "--no-such-option"]],
    ids=" ".join,
)  # fmt: skip
def test_wrong_usage(cli, tmp_path, arguments):
    cli.refused(*arguments, exit=USAGE, cwd=tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("compression", ["gzip:0", "gzip:10", "gzip:", "gzip:x", "zip", "", "lzf:3", "none:1"])
def test_a_compression_that_does_not_exist(cli, tmp_path, store, compression):
    before = sha256(store)
    cli.refused("add", store, tmp_path / "first.safetensors", "--compression", compression, exit=USAGE)
    assert sha256(store) == before


def test_a_file_that_does_not_exist_and_a_folder_as_input(cli, tmp_path, store):
    before = sha256(store)
    assert "gone.st" in cli.refused("add", store, tmp_path / "gone.st", exit=BAD_INPUT).stderr
    (tmp_path / "folder").mkdir()
    cli.refused("add", store, tmp_path / "folder", exit=BAD_INPUT)
    assert sha256(store) == before


def test_a_path_that_is_not_utf8(cli, tmp_path, rng):
    file = save(tmp_path / "in.safetensors", random_model(rng))
    path = os.path.join(os.fsencode(tmp_path), b"\xff\xfe.h5")
    done = subprocess.run(
        [cli.binary, "add", path, file, "--name", "n"], capture_output=True, env=environment(), timeout=30
    )
    no_panic(done.stderr.decode("utf-8", "replace"))
    if done.returncode == OK:
        assert subprocess.run([cli.binary, "verify", path], capture_output=True, env=environment()).returncode == OK
    else:
        assert done.returncode in (USAGE, BAD_STORE)
        assert not os.path.exists(path)


def test_a_reader_of_the_output_that_goes_away_is_no_panic(cli, store):
    for arguments in (["ls"], ["info"], ["verify"], ["show"]):
        read_end, write_end = os.pipe()
        os.close(read_end)
        extra = ["first"] if arguments == ["show"] else []
        done = subprocess.run(
            [cli.binary, *arguments, store, *extra], stdout=write_end, stderr=subprocess.PIPE, env=environment()
        )
        os.close(write_end)
        no_panic(done.stderr.decode())


def test_completions_for_every_shell(cli):
    for shell in ("bash", "zsh", "fish"):
        assert "corallite" in cli.run("completions", shell).stdout
    cli.run("completions", "no-such-shell", exit=USAGE)


# --- a second writer ------------------------------------------------------------------------------------------------


def test_a_second_writer_is_told_who_holds_the_store_and_readers_go_on(cli, tmp_path, store, rng):
    """The first writer is stopped in the middle of a long add; reading must go on, writing must be refused."""
    before = State(cli, store)
    big = save(tmp_path / "big.safetensors", random_model(rng, tensors=24, values=512 * 1024))
    small = save(tmp_path / "small.safetensors", random_model(rng))
    journal = tmp_path / (store.name + "-journal")
    for _ in range(40):
        first = cli.start("add", store, big, "--name", "big")
        wait_until(lambda: journal.exists() or first.poll() is not None, step=0.001)
        first.send_signal(signal.SIGSTOP)  # nothing, if it has ended already
        try:
            second = cli.run("add", store, small, "--name", "small", exit=(BUSY, OK), timeout=30)
            if second.returncode == BUSY:
                lines = [line for line in second.stderr.splitlines() if line.strip()]
                assert len(lines) == 1, f"not one sentence: {second.stderr!r}"
                assert str(first.pid) in second.stderr, "the sentence does not name the holder's process id"
                cli.refused("rm", store, "first", exit=BUSY, timeout=30)
                cli.refused("gc", store, exit=BUSY, timeout=30)
                for arguments in READS:
                    cli.run(*arguments, store, timeout=30)
                assert State(cli, store) == before
        finally:
            first.send_signal(signal.SIGCONT)
            stdout, stderr = first.communicate(timeout=120)
        no_panic(stderr.decode())
        if second.returncode == BUSY:
            assert first.returncode == OK, stderr
            assert sorted(cli.names(store)) == ["big", "first"]
            cli.run("add", store, small, "--name", "small")
            return
        cli.run("rm", store, "small")  # the stop came before the lock, or after the end: once more
        if first.returncode == OK:
            cli.run("rm", store, "big")
        cli.run("gc", store)
    pytest.fail("the first writer was never stopped while it held the store")


def test_many_writers_at_once_lose_nothing(cli, tmp_path, store, rng):
    """Each either does its work or is told that the store is busy."""
    files = {f"w{number}": save(tmp_path / f"w{number}", random_model(rng)) for number in range(6)}
    pending, done = dict(files), set()
    for _ in range(200):
        running = {name: cli.start("add", store, file, "--name", name) for name, file in pending.items()}
        for name, process in running.items():
            _, stderr = process.communicate(timeout=60)
            no_panic(stderr.decode())
            assert process.returncode in (OK, BUSY), stderr
            if process.returncode == OK:
                done.add(name)
                del pending[name]
        if not pending:
            break
    assert done == set(files)
    assert set(cli.names(store)) == {"first", *files}
    for name, file in files.items():
        cli.run("export", store, name, "-o", tmp_path / "out")
        assert sha256(tmp_path / "out") == sha256(file)
    cli.run("verify", store)
