"""recipes/release.py as it is called: a YAML and flags in, lines and an exit code out; also of an encoder-decoder."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import arguments
import pytest
import release
import yaml
from release_runs import run_here, write_rows

from instruct_builders.errors import ConfigError

RECIPES = Path(__file__).resolve().parents[2] / "recipes"
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated")  # PEFT 0.21


@pytest.fixture(scope="module")
def flan(tmp_path_factory) -> Path:
    """The `final` of an adapter on a tiny T5."""
    sys.path.append(str(RECIPES / "quickstart"))
    import flan_t5
    import tiny_t5

    folder = tmp_path_factory.mktemp("flan")
    rows = write_rows(folder / "rows.jsonl")
    texts = [text for line in rows.read_text().splitlines() for text in json.loads(line).values()]
    tiny_t5.make(folder / "tiny-t5", texts, vocab_size=300, d_model=32)
    flags = f"--model_name_or_path {folder / 'tiny-t5'} --dataset_name {rows} --output_dir {folder / 'run'} --use_cpu"
    flags += " --use_peft --max_steps 2 --disable_tqdm --save_strategy no --test_size 2 --predict_with_generate"
    flan_t5.main([*flags.split(), "--unknown_answers", "keep"])
    return folder / "run" / "final"


def test_an_encoder_decoder_is_merged_published_and_answers_from_its_card(hub, flan, tmp_path, monkeypatch, capsys):
    config = tmp_path / "release.yaml"
    config.write_text(yaml.safe_dump({"model_dir": str(flan), "repo_id": "me/flan", "what": "merged", "tag": "v1.0"}))
    release.main(["--config", str(config)])
    said = capsys.readouterr().out
    assert "merged: largest difference" in said and f"published {hub.url}/me/flan/tree/v1.0 (" in said
    assert ", private, commit " in said and str(tmp_path) not in said
    card = hub.store.read("model", "me/flan", "README.md").decode()
    front = yaml.safe_load(card.split("---")[1])
    assert front["tags"] == ["sft", "text2text-generation", "instruct-builders"] and "base_model" not in front
    assert "AutoModelForSeq2SeqLM" in card and "An encoder-decoder" in card and "| exact_match | " in card
    run_here(card, tmp_path / "empty", monkeypatch)  # an untrained T5 says nothing, but it says it
    files = hub.store.files("model", "me/flan")
    assert not [name for name in files if "adapter" in name or name.endswith(".bin")]
    release.main(["--config", str(config)])
    assert "already published: " in capsys.readouterr().out and hub.count("commit") == 1


def test_flags_go_over_the_yaml_and_unknown_keys_have_a_nearest_one(hub, flan, tmp_path, capsys):
    config = tmp_path / "release.yaml"
    config.write_text(f"model_dir: {flan}\nrepo_id: me/one\nwhat: adapter\n")
    out = str(tmp_path / "made")
    release.main(
        ["--config", str(config), "--repo_id", "me/two", "--what", "merged", "--dry_run", "--output_dir", out]
    )
    assert "would publish me/two (" in capsys.readouterr().out and hub.requests == []
    with pytest.raises(ConfigError, match="Did you mean 'repo_id'"):
        release.main(["--config", str(config), "--repo-idd", "me/two"])


def test_a_recipe_that_is_no_yaml_and_results_of_another_model_are_named(hub, flan, tmp_path, capsys):
    from trainers.evaluation import results

    flags = ["--model_dir", str(flan), "--repo_id", "me/flan", "--what", "merged", "--dry_run"]
    flags += ["--output_dir", str(tmp_path / "made")]
    (tmp_path / "notes.md").write_text("see:\n```bash\n")
    with pytest.raises(ConfigError, match=r"recipe: .*notes\.md is not valid YAML"):
        release.main([*flags, "--recipe", str(tmp_path / "notes.md")])
    result = results.result(
        "task_metrics", "Task metrics", model={"name": "somebody/else"}, data={"name": "rows", "rows": 2}, settings={},
        seed=1, counts={}, metrics={"score": results.metric([0, 1])},
    )  # fmt: skip
    release.main([*flags, "--evaluations", str(results.write(result, tmp_path / "other.json"))])
    said = capsys.readouterr().out
    assert "warning: none of the evaluations is of this model" in said and "would publish me/flan" in said


def test_an_error_is_one_line_and_exit_code_4(flan, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["release.py", "--model_dir", str(flan), "--repo_id", "me/flan"])
    with pytest.raises(SystemExit) as stopped:
        arguments.run(release.main)
    said = capsys.readouterr().err
    assert stopped.value.code == 4 and said.startswith("PublishError: no token") and said.count("\n") == 1


def test_the_card_reads_as_a_table_of_figures_not_of_code(flan):
    """Nothing of the template's own, no empty heading, no line of blanks, and fences that close."""
    lines = (flan / "README.md").read_text(encoding="utf-8").splitlines()
    assert not [line for line in lines if "{{" in line or "{%" in line or "None" in line or "Undefined" in line]
    assert not [(a, b, c) for a, b, c in zip(lines, lines[1:], lines[2:], strict=False) if a == b == c == ""]
    assert sum(line.startswith("```") for line in lines) % 2 == 0
    headings = [place for place, line in enumerate(lines) if line.startswith("## ")]
    assert [lines[place] for place in headings] == ["## Use", "## Evaluation", "## Data", "## Training"]
    assert all(any(lines[place + 1 : place + 4]) for place in headings)
