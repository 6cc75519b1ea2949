"""The README's first command, whole: from bad rows to a merged model that has memorised its rows."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from datasets import load_dataset

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_the_quickstart_tells_its_whole_story(tmp_path):
    out = tmp_path / "out"
    command = [sys.executable, str(ROOT / "recipes" / "quickstart" / "quickstart.py"), "--output_dir", str(out)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HOME": str(tmp_path / "hf")}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path, timeout=550)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "rows in 272 = rows out 260 (train 260) + rejected 12" in done.stdout
    exact = re.findall(r"(\d+)/(\d+) exact before, (\d+)/\d+ after", done.stdout)
    (before, trained, after), (_, held_out, after_held_out) = [tuple(map(int, found)) for found in exact]
    assert (before, trained, held_out) == (0, 240, 20)
    assert after >= 235  # 240 where this was written; rounding differs between processors
    assert after_held_out <= 2
    assert "This is a toy" in done.stdout
    assert len(load_dataset(str(out / "data"), split="train", cache_dir=str(tmp_path / "cache"))) == 260
    for folder in ("data", "lora/final", "lora/merged"):
        card = (out / folder / "README.md").read_text(encoding="utf-8")
        assert "apache-2.0" in card  # of the data: the base has no license, so the model states none
        assert str(tmp_path) not in card
    assert (out / "lora" / "final" / "adapter_model.safetensors").is_file()
    assert not list(out.rglob("training_args.bin"))
