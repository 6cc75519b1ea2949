"""What every test stands on: no socket but loopback, a Hub cache of its own, and the real data where it is at hand."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

# Read at import time by huggingface_hub, datasets and transformers, so set before any of them is imported.
os.environ.update(
    HF_HUB_DISABLE_XET="1",  # the loopback Hub speaks LFS; xet has no fallback
    HF_HUB_DISABLE_TELEMETRY="1",
    HF_UPDATE_DOWNLOAD_COUNTS="0",
    HF_HUB_DISABLE_PROGRESS_BARS="1",
    HF_DATASETS_DISABLE_PROGRESS_BARS="1",
    TOKENIZERS_PARALLELISM="false",
    OMP_NUM_THREADS="1",  # more threads make tiny models slower on a busy machine
)
pytest_plugins = ["hub_fixtures"]  # starts the loopback Hub before anything imports huggingface_hub
ROOT = Path(__file__).resolve().parent.parent
_connect = socket.socket.connect


def _loopback_only(sock: socket.socket, address):
    if sock.family in (socket.AF_INET, socket.AF_INET6) and address[0] not in ("127.0.0.1", "::1", "localhost"):
        raise PermissionError(f"tests may only talk to loopback, not to {address!r}")
    return _connect(sock, address)


socket.socket.connect = _loopback_only


@pytest.fixture(autouse=True)
def own_hub_home(tmp_path_factory, monkeypatch):
    """Each test sees an empty Hub cache and no token of the person who runs it."""
    home = tmp_path_factory.mktemp("hf_home")
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "OPENAI_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(home))
    return home


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data; the test is skipped, with the reason, where it is absent."""
    folder = Path(os.environ.get("INSTRUCT_SHARED_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"real data not found: {folder} is no folder (set INSTRUCT_SHARED_DATA)")
    return folder


@pytest.fixture
def start_server(tmp_path):
    """Starts the scripted model server in its own process, its log in `tmp_path/NAME.log`; gives its base_url."""
    running = []

    def start(name: str = "server", **flags) -> str:
        given = [part for key, value in flags.items() for part in (f"--{key}", str(value))]
        command = [sys.executable, "-m", "instruct_builders.generate.demo_server", "--port", "0"]
        process = subprocess.Popen(
            [*command, "--log", str(tmp_path / f"{name}.log"), *given], cwd=ROOT, stdout=subprocess.PIPE, text=True
        )
        running.append(process)
        return process.stdout.readline().strip()

    yield start
    for process in running:
        process.terminate()
        process.wait()
        process.stdout.close()
