"""What the tests of releases share: a tiny Llama, an adapter trained on it by recipes/sft.py, and both on a Hub."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

RECIPES = Path(__file__).resolve().parents[2] / "recipes"
for folder in (RECIPES, RECIPES / "quickstart"):  # as `python recipes/sft.py` has it
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
ROWS = [
    {"instruction": f"Say {word}.", "input": "", "output": f"{word.title()}, as you asked."}
    for word in "red green blue black white grey pink gold cyan lime teal plum".split()
]
SMALL = "--use_cpu --bf16 false --dtype float32 --disable_tqdm --save_strategy no --activation_checkpointing false"


def make_base(folder: Path, seed: int = 0) -> Path:
    import tiny_llama

    texts = [text for row in ROWS for text in row.values()]
    tiny_llama.make(folder, texts, vocab_size=400, hidden_size=32, positions=256, seed=seed)
    return folder


def train(base, data, output: Path, *flags: str, steps: int = 3, template: str = "alpaca_short") -> Path:
    """Runs recipes/sft.py and returns the folder `final`."""
    import sft

    fixed = f"--model_name_or_path {base} --dataset_name {data} --output_dir {output} --max_steps {steps} {SMALL}"
    fixed += f" --chat_template {template} --learning_rate 3e-2 --logging_steps 1 --per_device_train_batch_size 4"
    sft.main([*fixed.split(), *flags])
    return output / "final"


def write_rows(path: Path) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS), encoding="utf-8")
    return path


def push_base(folder: Path, repo_id: str = "me/base") -> str:
    """Uploads a base as anybody would; its commit."""
    from huggingface_hub import HfApi

    api = HfApi()
    api.create_repo(repo_id, private=False, exist_ok=True)
    return api.upload_folder(repo_id=repo_id, folder_path=folder).oid


def from_hub(final: Path, target: Path, **base) -> Path:
    """A copy of a run's `final` whose notes say that its base came from the Hub."""
    shutil.copytree(final, target)
    facts = json.loads((target / "training.json").read_text(encoding="utf-8"))
    facts["base"] = {"name": "me/base", "local": False, "revision": None, "digest": None, **base}
    (target / "training.json").write_text(json.dumps(facts), encoding="utf-8")
    return target


def snippet(card: str) -> str:
    """The card's lines on how to use the model, with a shorter answer."""
    return card.split("```python\n")[1].split("```")[0].replace("max_new_tokens=256", "max_new_tokens=12")


def run_apart(card: str, home: Path) -> str:
    """Runs those lines in a new process with an empty cache; what they print."""
    environment = {**os.environ, "HF_HOME": str(home), "OMP_NUM_THREADS": "1"}
    code = f"import warnings; warnings.simplefilter('ignore')\n{snippet(card)}"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=home.parent, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def run_here(card: str, home: Path, monkeypatch) -> str:
    """The same in this process: seconds faster, since the libraries are loaded."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(home))
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(snippet(card), "card", "exec"), {})
    assert any(home.iterdir()), "nothing was downloaded"
    return printed.getvalue()


def releasing(model_dir, repo_id="me/model", **options) -> list[str]:
    """Releases, and returns the lines that were shown."""
    from trainers.release import ReleaseArguments, release

    said: list[str] = []
    release(ReleaseArguments(model_dir=str(model_dir), repo_id=repo_id, **options), said.append)
    return said
