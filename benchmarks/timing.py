"""What every benchmark needs: CPU-seconds, the machine, and a report with date and versions."""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import os
import platform
import resource
import sys
from collections.abc import Sequence
from pathlib import Path

RESULTS = Path(__file__).parent / "results"


def cpu_so_far() -> float:
    """CPU-seconds of this process and its children that have ended; finer than the 10 ms ticks of `os.times`."""
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def machine() -> dict:
    model = "unknown"
    if Path("/proc/cpuinfo").exists():
        lines = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
        model = lines[0].split(":", 1)[1].strip() if lines else model
    return {"cpu": model, "cores": os.cpu_count(), "system": f"{platform.system()} {platform.machine()}"}


def write_report(out: Path, what: str, packages: Sequence[str], **content) -> None:
    """Writes a result with machine, date and versions, so that a figure can be judged later."""
    versions = {name: importlib.metadata.version(name) for name in packages}
    report = {
        "what": what,
        "date": datetime.date.today().isoformat(),
        "machine": machine(),
        "versions": {"python": platform.python_version(), **versions},
        **content,
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print(f"\nwritten to {out}", file=sys.stderr)
