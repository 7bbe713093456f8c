"""What scripts/bench-weights measures: Corallite's codec and its peers, each with the same two methods.

Nothing here knows of rounds, files or tables. It needs the packages that `make bench-weights` installs.
"""

import importlib.metadata
import json
import pathlib
import statistics
import subprocess
import sys
import time
import types
from collections.abc import Callable
from dataclasses import dataclass, field

PEERS = pathlib.Path(__file__).resolve().parent.parent / ".corallite/weight-peers"
sys.path.insert(0, str(PEERS))


def stop(text: str):
    sys.exit(f"error: {text}")


def without_torch():
    """ZipNN imports torch for its torch tensors. Given bytes it needs none of it, and torch is two gigabytes."""

    class Torch(types.ModuleType):
        jit = types.SimpleNamespace(script=lambda function: function)

        def __getattr__(self, name: str) -> str:
            if name.startswith("__"):
                raise AttributeError(name)
            return f"torch.{name}"

    sys.modules["torch"] = Torch("torch")
    sys.modules["safetensors.torch"] = types.ModuleType("safetensors.torch")
    sys.modules["safetensors.torch"].safe_open = None


try:
    import h5py
    import ml_dtypes
    import numpy as np
    import zstandard
    from coral import WeightTensor
    from coral.core.weight_tensor import WeightMetadata
    from coral.delta.delta_encoder import DeltaConfig, DeltaEncoder, DeltaType

    without_torch()
    from zipnn import ZipNN
except ImportError as problem:
    stop(f"{problem}; run it as `make bench-weights`, which installs the peers.")

DTYPES = {"f32": np.float32, "bf16": ml_dtypes.bfloat16, "f16": np.float16}
ZIPNN = {"f32": "float32", "bf16": "bfloat16", "f16": "float16"}
SLOW = 10.0  # seconds of encoding and decoding after which there is no second time
PASSES = 3  # of one round; the round's figure is their median

Tensors = dict[str, np.ndarray]


def versions() -> str:
    packages = ("zipnn", "coral-ml", "h5py", "hdf5plugin", "zstandard", "safetensors", "numpy", "ml_dtypes")
    found = [f"{name} {importlib.metadata.version(name)}" for name in packages]
    return ", ".join([*found, "zstd " + ".".join(map(str, zstandard.ZSTD_VERSION))])


@dataclass
class Samples:
    """What a contestant did: one entry for each round."""

    raw: int
    stored: int = 0
    encode: list[float] = field(default_factory=list)
    decode: list[float] = field(default_factory=list)
    note: str = ""

    @property
    def share(self) -> float:
        return 100 * self.stored / self.raw

    def rate(self, what: str) -> float:
        """Raw megabytes a second, of "encode" or of "decode"."""
        return self.raw / 1e6 / statistics.median(getattr(self, what))


class Peer:
    """Encodes and decodes tensors, one after the other, in this process."""

    def __init__(self, tensors: Tensors, base: Tensors | None = None):
        self.tensors, self.base = tensors, base
        self.names = list(tensors)

    def inputs(self) -> list:
        return [self.tensors[name].tobytes() for name in self.names]

    def encode(self, inputs: list) -> list:
        raise NotImplementedError

    def decode(self, encoded: list) -> list:
        raise NotImplementedError

    def stored(self, encoded: list) -> int:
        return sum(map(len, encoded))

    def check(self, decoded: list) -> str:
        """Compares with what went in; what it returns is a note for the table."""
        if any(bytes(out) != self.tensors[name].tobytes() for name, out in zip(self.names, decoded, strict=True)):
            stop(f"{type(self).__name__} did not give back what it was given.")
        return ""

    def round(self, samples: Samples):
        encode, decode = [], []
        for _ in range(PASSES):
            inputs = self.inputs()
            encoded, seconds = timed(self.encode, inputs)
            encode.append(seconds)
            decoded, seconds = timed(self.decode, encoded)
            decode.append(seconds)
            if not samples.stored:
                samples.stored, samples.note = self.stored(encoded), self.check(decoded)
            del inputs, encoded, decoded
            if encode[-1] + decode[-1] > SLOW / PASSES:
                break
        samples.encode.append(statistics.median(encode))
        samples.decode.append(statistics.median(decode))


class Zipnn(Peer):
    def __init__(self, dtype: str, tensors: Tensors, base: Tensors | None = None):
        super().__init__(tensors, base)
        options = {"delta_compressed_type": "byte"} if base else {}
        self.codec = ZipNN(input_format="byte", bytearray_dtype=ZIPNN[dtype], threads=1, **options)
        self.seconds = [{"delta_second_data": base[name].tobytes()} if base else {} for name in self.names]

    def inputs(self) -> list:
        return [bytearray(tensor) for tensor in super().inputs()]

    def encode(self, inputs):
        return [self.codec.compress(data, **second) for data, second in zip(inputs, self.seconds)]

    def decode(self, encoded):
        return [self.codec.decompress(data, **second) for data, second in zip(encoded, self.seconds)]


class H5py(Peer):
    """A file in memory with a dataset for each tensor. numpy's bfloat16 is none of HDF5's types: its bits are stored."""

    def __init__(self, tensors: Tensors, **filters):
        super().__init__({name: bits(tensor) for name, tensor in tensors.items()})
        self.filters = filters

    def inputs(self):
        return [self.tensors[name] for name in self.names]

    def encode(self, inputs):
        file = h5py.File("in memory", "w", driver="core", backing_store=False)
        for number, tensor in enumerate(inputs):
            file.create_dataset(str(number), data=tensor, **self.filters)
        return [file]

    def decode(self, encoded):
        return [encoded[0][str(number)][()] for number in range(len(self.names))]

    def stored(self, encoded):
        return sum(dataset.id.get_storage_size() for dataset in encoded[0].values())


class BitX(Peer):
    """XOR with the base's bits; exponents apart from the rest; each stream through zstd: the ZipLLM paper for bfloat16.

    The sign goes below the mantissa, so that the exponent is the upper byte. Float32 gives four such streams.
    """

    level = 3

    def word(self, name: str) -> np.ndarray:
        tensor = self.base[name].reshape(-1)
        return tensor.view(f"u{tensor.itemsize}")

    def encode(self, inputs):
        codec, out = zstandard.ZstdCompressor(level=self.level), []
        for name, data in zip(self.names, inputs):
            base = self.word(name)
            xor = np.bitwise_xor(np.frombuffer(data, dtype=base.dtype), base)
            xor = (xor << 1) | (xor >> (8 * xor.itemsize - 1))
            streams = xor.view(np.uint8).reshape(-1, xor.itemsize)
            out.append([codec.compress(np.ascontiguousarray(stream).data) for stream in streams.T])
        return out

    def decode(self, encoded):
        codec, out = zstandard.ZstdDecompressor(), []
        for name, streams in zip(self.names, encoded):
            base = self.word(name)
            joined = np.empty((base.size, base.itemsize), dtype=np.uint8)
            for number, stream in enumerate(streams):
                joined[:, number] = np.frombuffer(codec.decompress(stream), dtype=np.uint8)
            xor = joined.reshape(-1).view(base.dtype)
            out.append(np.bitwise_xor((xor >> 1) | (xor << (8 * xor.itemsize - 1)), base).data)
        return out

    def stored(self, encoded):
        return sum(len(stream) for streams in encoded for stream in streams)


class PlainXor(Peer):
    """XOR with the base's bits, then zstd."""

    def encode(self, inputs):
        codec = zstandard.ZstdCompressor(level=3)
        return [codec.compress(np.bitwise_xor(flat(data), flat(self.base[name])).data)
                for name, data in zip(self.names, inputs)]  # fmt: skip

    def decode(self, encoded):
        codec = zstandard.ZstdDecompressor()
        return [np.bitwise_xor(flat(codec.decompress(data)), flat(self.base[name])).data
                for name, data in zip(self.names, encoded)]  # fmt: skip


class PatchFrom(Peer):
    """`zstd --patch-from`: the whole base is the dictionary of the whole model."""

    def inputs(self):
        return [b"".join(super().inputs())]

    def dictionary(self):
        base = b"".join(self.base[name].tobytes() for name in self.names)
        return zstandard.ZstdCompressionDict(base, dict_type=zstandard.DICT_TYPE_RAWCONTENT)

    def encode(self, inputs):
        window = min(31, max(20, (2 * len(inputs[0]) - 1).bit_length()))
        options = zstandard.ZstdCompressionParameters.from_level(3, window_log=window, enable_ldm=True)
        codec = zstandard.ZstdCompressor(dict_data=self.dictionary(), compression_params=options)
        return [codec.compress(inputs[0])]

    def decode(self, encoded):
        codec = zstandard.ZstdDecompressor(dict_data=self.dictionary(), max_window_size=1 << 31)
        return [codec.decompress(encoded[0])]

    def check(self, decoded):
        if decoded != self.inputs():
            stop("zstd --patch-from did not give back what it was given.")
        return ""


class Coral(Peer):
    """Its DeltaEncoder with `compressed` at level 9, the smallest of its types that keep every difference."""

    def __init__(self, tensors: Tensors, base: Tensors):
        super().__init__(tensors, base)
        self.codec = DeltaEncoder(DeltaConfig(delta_type=DeltaType.COMPRESSED, compression_level=9))
        self.bases = [weight(name, base[name]) for name in self.names]

    def inputs(self):
        return [weight(name, self.tensors[name]) for name in self.names]

    def encode(self, inputs):
        return [self.codec.encode_delta(tensor, base) for tensor, base in zip(inputs, self.bases)]

    def decode(self, encoded):
        return [self.codec.decode_delta(delta, base).data for delta, base in zip(encoded, self.bases)]

    def stored(self, encoded):
        return sum(delta.data.nbytes for delta in encoded)

    def check(self, decoded):
        pairs = [(bits(out), bits(self.tensors[name])) for name, out in zip(self.names, decoded)]
        wrong = sum(int((out != want).sum()) for out, want in pairs)
        return f"not lossless: {wrong:,} of {sum(want.size for _, want in pairs):,} elements differ" if wrong else ""


class Corallite:
    """The codec of the store, in a process of its own."""

    def __init__(self, program: pathlib.Path, profile: str, dtype: str, model: pathlib.Path, *base: pathlib.Path,
                 delta: str = "", threads: int = 1):  # fmt: skip
        self.command = [program, "--json", "--dtype", dtype, "--compression", profile, "--rounds", PASSES]
        self.command += ["--threads", threads, *(["--delta", delta] if delta else []), model, *base]

    def round(self, samples: Samples):
        done = run(*self.command)
        if done.returncode != 0:
            stop(f"the codec could not be measured: {done.stderr.strip().removeprefix('error: ')}")
        document = json.loads(done.stdout)
        (result,) = document["results"]
        if document["raw_bytes"] != samples.raw:
            stop(f"the codec saw {document['raw_bytes']} bytes of tensors, and this script {samples.raw}.")
        samples.stored = result["bytes"]
        samples.encode.append(statistics.median(result["encode_seconds"]))
        samples.decode.append(statistics.median(result["decode_seconds"]))


def timed(function: Callable, *arguments):
    started = time.process_time()
    result = function(*arguments)
    return result, time.process_time() - started


def bits(tensor: np.ndarray) -> np.ndarray:
    return tensor.view(np.uint16) if tensor.dtype == ml_dtypes.bfloat16 else tensor


def flat(data) -> np.ndarray:
    """The bytes of anything that has some."""
    return data.reshape(-1).view(np.uint8) if isinstance(data, np.ndarray) else np.frombuffer(data, dtype=np.uint8)


def weight(name: str, tensor: np.ndarray) -> WeightTensor:
    return WeightTensor(tensor, WeightMetadata(name=name, shape=tensor.shape, dtype=tensor.dtype))


def run(*command) -> subprocess.CompletedProcess:
    return subprocess.run(list(map(str, command)), stdin=subprocess.DEVNULL, capture_output=True, text=True)
