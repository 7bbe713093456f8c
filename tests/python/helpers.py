"""What every test here uses: running the binary, making safetensors files, and looking at a store from outside."""

import hashlib
import json
import os
import pathlib
import resource
import signal
import struct
import subprocess
import time

import h5py
import numpy as np

ROOT = pathlib.Path(__file__).resolve().parents[2]

# The exit codes of the command line, as documented.
OK, DAMAGED, USAGE, BAD_INPUT, BAD_STORE, BUSY, NAME, IO, DIFFERS, INTERRUPTED = 0, 1, 2, 3, 4, 5, 6, 7, 8, 130

DTYPES = {
    "F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "i1",
    "U64": "<u8", "U32": "<u4", "U16": "<u2", "U8": "u1", "BOOL": "?",
}  # fmt: skip
CODES = {np.dtype(code): name for name, code in DTYPES.items()}


def environment(**extra):
    """The environment without what changes locking, colours or backtraces."""
    drop = ("HDF5_USE_FILE_LOCKING", "RUST_BACKTRACE", "CLICOLOR_FORCE")
    kept = {key: value for key, value in os.environ.items() if key not in drop}
    return {**kept, "NO_COLOR": "1", **extra}


class Cli:
    """The corallite binary."""

    def __init__(self, binary):
        self.binary = str(binary)

    def run(self, *arguments, exit=OK, timeout=120, **options):
        """Run it to its end; its exit code must be `exit` (a number, or several; None for any)."""
        done = subprocess.run(
            [self.binary, *map(os.fspath, arguments)], stdin=subprocess.DEVNULL, capture_output=True,
            timeout=timeout, env=environment(), **options,
        )  # fmt: skip
        done.stdout = done.stdout.decode("utf-8", "replace")
        done.stderr = done.stderr.decode("utf-8", "replace")
        no_panic(done.stderr)
        if exit is not None:
            wanted = exit if isinstance(exit, (tuple, set, list)) else (exit,)
            assert done.returncode in wanted, (
                f"corallite {' '.join(map(str, arguments))}: exit {done.returncode}, wanted {exit}\n"
                f"stdout: {done.stdout}\nstderr: {done.stderr}"
            )
        return done

    def json(self, *arguments, **options):
        return json.loads(self.run(*arguments, "--json", **options).stdout)

    def start(self, *arguments, **options):
        """Start it and return the process."""
        return subprocess.Popen(
            [self.binary, *map(os.fspath, arguments)], stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment(), **options,
        )  # fmt: skip

    def names(self, store):
        return [entry["name"] for entry in self.json("ls", store)["checkpoints"]]

    def refused(self, *arguments, exit, **options):
        """It must end with `exit`, print nothing, and say why in one sentence on stderr."""
        done = self.run(*arguments, exit=exit, **options)
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        if exit != USAGE:  # the argument parser adds the usage and a hint
            assert len(lines) == 1, f"not one sentence: {done.stderr!r}"
        assert lines and len(lines[0]) > 15, f"no reason given: {done.stderr!r}"
        assert done.stdout == "", f"printed on stdout: {done.stdout!r}"
        return done


def no_panic(stderr):
    for word in ("panicked at", "RUST_BACKTRACE", "called `Option::", "called `Result::", "stack overflow"):
        assert word not in stderr, f"a panic: {stderr}"


# --- safetensors ----------------------------------------------------------------------------------------------------


def frame(header, data=b"", length=None):
    """A safetensors file of this header (bytes, or what json.dumps takes), right or wrong."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def entry(dtype, shape, begin, end):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}


def save(path, tensors, metadata=None):
    """Write {name: array, or (dtype, shape, bytes)} as a safetensors file; returns the path."""
    header, parts, offset = {}, [], 0
    if metadata is not None:
        header["__metadata__"] = metadata
    for name, value in tensors.items():
        if isinstance(value, tuple):
            dtype, shape, data = value
        else:
            dtype, shape, data = CODES[value.dtype], value.shape, value.tobytes()
        header[name] = entry(dtype, shape, offset, offset + len(data))
        parts.append(data)
        offset += len(data)
    path = pathlib.Path(path)
    path.write_bytes(frame(header, b"".join(parts)))
    return path


def random_model(rng, tensors=6, values=16 * 1024):
    """Weights that no other call makes: every tensor is fresh random float32."""
    return {
        f"layer.{index}.weight": rng.standard_normal(values, dtype=np.float32).reshape(-1, 64)
        for index in range(tensors)
    }


# --- looking from outside -------------------------------------------------------------------------------------------


def sha256(path):
    return hashlib.sha256(pathlib.Path(path).read_bytes()).hexdigest()


def digest(array):
    """What identifies a tensor to these tests: its type, its shape and its bytes."""
    array = np.asarray(array)
    sha = hashlib.sha256(f"{array.dtype.str}{array.shape}".encode())
    sha.update(array.tobytes())
    return sha.hexdigest()[:24]


def beside(store):
    """The names of all that lies in the store's folder and begins with its name."""
    store = pathlib.Path(store)
    return sorted(path.name for path in store.parent.iterdir() if path.name.startswith(store.name))


def h5_weights(path):
    """{key: (attributes, array)} of /weights as stock h5py sees it."""
    with h5py.File(path, "r") as file:
        return {key: (dict(dataset.attrs), dataset[()]) for key, dataset in file["weights"].items()}


class State:
    """What a store holds, as a user can see it: to compare before with after."""

    def __init__(self, cli, store):
        self.exists = os.path.exists(store)
        if not self.exists:
            return
        cli.run("verify", store)
        listing = cli.json("ls", store)
        self.checkpoints = sorted(entry["name"] for entry in listing["checkpoints"])
        self.weights = listing["weights"]
        self.files = {}
        for name in self.checkpoints:
            out = f"{store}.{len(self.files)}.export"
            cli.run("export", store, name, "-o", out)
            self.files[name] = sha256(out)
            os.unlink(out)

    def __eq__(self, other):
        return vars(self) == vars(other)

    def __repr__(self):
        return repr(vars(self))


def limit_file_size(count):
    """A preexec_fn: writes beyond `count` bytes of any file fail, as on a full disk."""

    def limit():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (count, count))

    return limit


def wait_until(truth, seconds=20, step=0.005):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if truth():
            return True
        time.sleep(step)
    return False
