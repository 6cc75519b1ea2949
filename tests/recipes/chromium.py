"""A headless Chromium for the tests of our pages: found, started with an empty profile, asked for DOM or picture.

Absent, the test is skipped with the reason; where the environment variable CI is true, that fails instead.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage"),
    # Whatever a page asks the network for fails at once, and shows.
    *("--host-resolver-rules=MAP * ~NOTFOUND", "--hide-scrollbars", "--force-device-scale-factor=1"),
)


def find() -> str:
    """The path of the browser."""
    path = next(filter(None, map(shutil.which, NAMES)), None)
    if path is None:
        reason = f"no Chromium: none of {', '.join(NAMES)} is on PATH (Debian: apt-get install chromium)"
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(reason)
    return path


def run(page: Path, profile: Path, *flags: str) -> str:
    """What the browser prints when it opens a file, with an own empty folder as its profile."""
    profile.mkdir()
    command = [find(), *FLAGS, f"--user-data-dir={profile}", *flags, page.as_uri()]
    result = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", timeout=120, check=False)
    assert result.returncode == 0, result.stderr[-2000:]
    return result.stdout


def dom(page: Path, profile: Path) -> str:
    """The document as it is after every script has run."""
    return run(page, profile, "--dump-dom")


def screenshot(page: Path, profile: Path, picture: Path, width: int, height: int, dark: bool = False) -> Path:
    """A PNG of the page in a window of this size."""
    scheme = ["--blink-settings=preferredColorScheme=0"] if dark else ["--blink-settings=preferredColorScheme=1"]
    run(page, profile, f"--screenshot={picture}", f"--window-size={width},{height}", *scheme)
    return picture
