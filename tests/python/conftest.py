import os
import pathlib
import sys

import numpy as np
import pytest

sys.path.insert(0, os.path.dirname(__file__))

from helpers import Cli, random_model, save


def pytest_report_header():
    import h5py

    return f"corallite: {os.environ.get('CORALLITE_BIN')}; h5py {h5py.__version__}, HDF5 {h5py.version.hdf5_version}"


@pytest.fixture(scope="session")
def cli():
    binary = os.environ.get("CORALLITE_BIN")
    if not binary or not os.path.isfile(binary):
        pytest.exit("CORALLITE_BIN must name the corallite binary; run make test-python.", returncode=2)
    return Cli(os.path.abspath(binary))


@pytest.fixture
def rng(request):
    """Random numbers that are the same in every run of one test."""
    import zlib

    return np.random.default_rng(zlib.crc32(request.node.nodeid.encode()))


@pytest.fixture
def store(cli, tmp_path, rng) -> pathlib.Path:
    """A store with one checkpoint, `first`, whose file is first.safetensors beside it."""
    file = save(tmp_path / "first.safetensors", random_model(rng), {"format": "pt"})
    path = tmp_path / "models.h5"
    cli.run("add", path, file, "--name", "first")
    return path
