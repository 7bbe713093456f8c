"""The index behind a chunk's zlib stream (docs/store-format.md): others do not see it, and nobody has to."""

import zlib

import h5py
import numpy as np
import pytest
from helpers import save

END = b"\x01CQI"


def bfloat16(values):
    return (values.astype("<f4").view("<u4") >> 16).astype("<u2")


def chunks(dataset):
    for number in range(dataset.id.get_num_chunks()):
        where = dataset.id.get_chunk_info(number).chunk_offset
        yield dataset.id.read_direct_chunk(where)


@pytest.mark.parametrize("compression", ["planes", "gzip:6"])
def test_other_inflaters_stop_where_the_index_begins(cli, tmp_path, rng, compression):
    model = {
        "f32": rng.standard_normal((900, 700), dtype=np.float32),
        "f16": rng.standard_normal((700, 1000)).astype("<f2"),
        "bf16": bfloat16(rng.standard_normal((600, 1001))),
        "f64": rng.standard_normal((300, 500)),
    }
    store = tmp_path / "models.h5"
    cli.run("add", store, save(tmp_path / "in.safetensors", model), "--compression", compression)
    with h5py.File(store) as file:
        for dataset in file["weights"].values():
            array = model[dataset.attrs["name"]]
            # libhdf5 and its zlib.
            assert dataset[()].tobytes() == array.tobytes()
            found = list(chunks(dataset))
            assert found
            for mask, chunk in found:
                stream = zlib.decompressobj()
                raw = stream.decompress(chunk)
                assert mask == 0 and stream.eof and stream.unused_data.endswith(END)
                assert len(stream.unused_data) < len(raw) / 1000
                assert zlib.decompress(chunk) == raw


def test_chunks_without_an_index_and_with_a_wrong_one_are_read_all_the_same(cli, tmp_path, rng):
    model = {"f32": rng.standard_normal((600, 700), dtype=np.float32)}
    store, first = tmp_path / "models.h5", save(tmp_path / "in.safetensors", model)
    cli.run("add", store, first, "--name", "first", "--compression", "planes")
    for change in (lambda index: b"", lambda index: index[:-1], lambda index: index[5:], lambda index: bytes([1]) + index[1:],
                   lambda index: b"\xff" * 40 + (34).to_bytes(2, "little") + END):  # fmt: skip
        with h5py.File(store, "r+") as file:
            (dataset,) = file["weights"].values()
            for number in range(dataset.id.get_num_chunks()):
                where = dataset.id.get_chunk_info(number).chunk_offset
                mask, chunk = dataset.id.read_direct_chunk(where)
                stream = zlib.decompressobj()
                stream.decompress(chunk)
                kept = chunk[: len(chunk) - len(stream.unused_data)]
                dataset.id.write_direct_chunk(where, kept + change(stream.unused_data), mask)
        cli.run("verify", store)
        out = tmp_path / "out.safetensors"
        cli.run("export", store, "first", "--output", out)
        assert out.read_bytes() == first.read_bytes()
        out.unlink()
