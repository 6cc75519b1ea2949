"""The fixture `hub`. tests/conftest.py names this module in `pytest_plugins`: it must be imported before any client.

`HF_ENDPOINT` and `HF_HOME` are read when huggingface_hub is imported; importing this module first starts one Hub per
process (with pytest-xdist, per worker) and sets both. No test, and no subprocess of a test, can reach another Hub.
"""

from __future__ import annotations

import atexit
import importlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from loopback_hub import LoopbackHub

if "huggingface_hub.constants" in sys.modules:
    raise RuntimeError("huggingface_hub was imported before tests/hub/hub_fixtures.py: HF_ENDPOINT would not be read")
_FOLDER = Path(tempfile.mkdtemp(prefix="loopback_hub_"))
_HUB = LoopbackHub(_FOLDER)
os.environ.update(HF_ENDPOINT=_HUB.url, HF_HOME=str(_FOLDER / "hf_home"), HF_HUB_DISABLE_XET="1")
atexit.register(shutil.rmtree, _FOLDER, ignore_errors=True)
importlib.import_module("huggingface_hub.constants")  # reads them now, not inside a test that has changed HF_HOME


def pytest_configure(config):
    # huggingface_hub 2.4 passes a file as `data=` when it uploads; its own HTTP library calls that deprecated.
    config.addinivalue_line("filterwarnings", "ignore:Use 'content=<...>' to upload raw bytes:DeprecationWarning")


def kill_while_uploading(hub: LoopbackHub, command: list[str]) -> None:
    """Runs a command and kills it (SIGKILL) once it has begun to send a file."""
    hub.cut_next("lfs_put", times=100)  # so that the client is waiting to try again when it is killed
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        while not hub.count("lfs_put", 0):
            assert process.poll() is None
            time.sleep(0.01)
    finally:
        process.kill()
        process.wait()
    hub.faults.clear()


@pytest.fixture
def hub(monkeypatch) -> Iterator[LoopbackHub]:
    """An empty Hub. `HF_TOKEN` is that of the user "me", who also writes to the organisation "org"."""
    from huggingface_hub import HfFileSystem

    _HUB.reset()
    HfFileSystem.clear_instance_cache()  # it remembers listings, also of a repository that is gone
    monkeypatch.setenv("HF_TOKEN", _HUB.add_user("me", orgs=["org"]))
    yield _HUB
    assert not _HUB.faults, "the test asked for faults that never happened"
