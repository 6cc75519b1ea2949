"""Results of evaluations on their way to the Hub: in the card, as files, and where a benchmark's leaderboard looks."""

from __future__ import annotations

import re
from collections.abc import Container, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from instruct_builders.cards import cell
from instruct_builders.errors import ConfigError
from instruct_builders.generate.settings import DEMO_MODEL

from . import local_paths
from .evaluation import results as evaluations

if TYPE_CHECKING:
    from huggingface_hub import EvalResultEntry

FOLDER = "evaluation"  # of the whole results
BENCHMARKS = ".eval_results"  # https://huggingface.co/docs/hub/eval-results
# The metric that stands for a result; those of lm-evaluation-harness last.
HEADS = (
    *("score", "prompt_strict", "accuracy", "win_rate", "value"),
    *("acc", "exact_match", "prompt_level_strict_acc", "pass@1", "f1"),
)
HUB_ID = r"[\w.-]+/[\w.-]+"


def read(paths: Sequence[str]) -> list[dict]:
    """Results as they may be published: whoever was asked, without the folder of it.

    Raises:
        ConfigError: For what is no result or was made by the demo's script, and for two results of one kind that
            don't compare.
    """
    found = []
    for path in paths:
        result = evaluations.read(path)
        judge = result["settings"].get("judge") or {}
        if judge.get("scripted") or result["model"]["name"] == DEMO_MODEL:
            raise ConfigError(
                f"evaluations: {path}: a script answered or judged there, and its scores say nothing of a model. "
                "Measure without demo, or leave this result out."
            )
        model, data = dict(result["model"]), dict(result["data"])
        for part, keys in ((model, ("name", "adapter")), (data, ("name",))):
            part |= {key: local_paths.local_name(part[key]) for key in keys if local_paths.is_local(part.get(key))}
        found.append({**result, "model": model, "data": data})
    for same in grouped(found).values():
        for other in same[1:]:
            evaluations.comparable(same[0], other)
    return found


def grouped(results: Sequence[dict]) -> dict[tuple[str, str], list[dict]]:
    """By what was measured; within a group as they were given, so that what was before comes first."""
    groups: dict[tuple[str, str], list[dict]] = {}
    for result in results:
        groups.setdefault((result["kind"], result["name"]), []).append(result)
    return groups


def sections(results: Sequence[dict], names: Container[str] = (), repo_id: str | None = None) -> str:
    """Markdown: for each thing that was measured a heading, on what, a table with 95% intervals, counts and notes.

    Args:
        results (`Sequence[dict]`): From [`read`].
        names (`Container[str]`, *optional*): What the released model is called in them; see [`write`].
        repo_id (`str`, *optional*): What it is called from now on.
    """
    parts = []
    if repo_id:
        renamed = {"name": repo_id, "adapter": None}
        results = [{**one, "model": one["model"] | renamed} if is_own(one, names) else one for one in results]
    for (_, name), same in grouped(results).items():
        data = same[0]["data"]
        where = f" at `{data['revision']}`" if data.get("revision") else ""
        lines = [
            f"### {cell(name)}",
            "",
            f"{data['rows']:,} rows of {cell(data['name'])}{where}; value [95% interval].",
        ]
        lines += ["", evaluations.markdown(same), ""]
        for one in same:
            counts = ", ".join(f"{cell(key)} {count:,}" for key, count in one["counts"].items())
            lines += [f"- {cell(evaluations.shown(one))}: {counts}."] if counts else []
        notes = dict.fromkeys(note for one in same for note in one["notes"])
        parts.append("\n".join([*lines, *(f"- {cell(note)}" for note in notes)]).rstrip())
    return "\n\n".join(parts)


def write(directory: Path, results: Sequence[dict], names: set[str]) -> list[str]:
    """Writes the whole results, and one file for each benchmark of the Hub that the model was measured on.

    The Hub takes a score only with the id of a dataset that is registered as a benchmark there; what was measured on
    other questions, or on a local file, is in the card and in `evaluation/`.

    Args:
        directory (`Path`): The model's.
        results (`Sequence[dict]`): From [`read`].
        names (`set[str]`): What the released model is called in results; others are the base, or for comparison.

    Returns:
        `list[str]`: The files for the Hub.
    """
    from huggingface_hub import eval_result_entries_to_yaml

    written = []
    for number, result in enumerate(results):
        evaluations.write(result, directory / FOLDER / f"{number + 1:02d}_{result['kind']}.json")
        # A score on some of the questions is none of the benchmark.
        claimed = is_own(result, names) and not result["settings"].get("limit")
        entries = [entry for one in (_tasks(result) if claimed else ()) if (entry := _entry(result, *one))]
        if not entries:
            continue
        path = directory / BENCHMARKS / f"instruct-builders-{number + 1:02d}-{result['kind'].replace('_', '-')}.yaml"
        path.parent.mkdir(exist_ok=True)
        text = yaml.safe_dump(eval_result_entries_to_yaml(entries), sort_keys=False, allow_unicode=True)
        path.write_text(text, encoding="utf-8")
        written.append(path.relative_to(directory).as_posix())
    return written


def _tasks(result: dict) -> list[tuple[str, str, str | None, dict[str, dict]]]:
    """Each benchmark that a result may be of: dataset, task, revision, and the metrics by their own names.

    lm-evaluation-harness measures several at once; all else is about one dataset, called `org/name` or, where it was
    read file by file, `org/name@commit`.
    """
    data = result["data"]
    if data.get("tasks"):
        return [
            (
                one["id"],
                task,
                one["revision"],
                {name[len(task) + 2 :]: result["metrics"][name] for name in one["metrics"]},
            )
            for task, one in data["tasks"].items()
        ]
    dataset = data["name"].removesuffix(f"@{data.get('revision')}")
    return [(dataset, str(result["settings"].get("task", "default")), data.get("revision"), result["metrics"])]


def _entry(
    result: dict, dataset: str, task: str, revision: str | None, metrics: dict[str, dict]
) -> EvalResultEntry | None:
    """One score in the Hub's format; `None` where it is on no known revision of a dataset there."""
    from huggingface_hub import EvalResultEntry

    # A name in brackets is how the answer was taken out of the text, as in "exact_match (strict-match)".
    found = [name for head in HEADS for name in metrics if name.partition(" (")[0] == head]
    if not found or not revision or not re.fullmatch(HUB_ID, dataset):
        return None
    value = metrics[found[0]]
    ends = f", 95% interval {value['low']:.4g} to {value['high']:.4g}" if value["low"] is not None else ""
    return EvalResultEntry(
        dataset_id=dataset,
        task_id=task,
        value=value["value"],
        dataset_revision=revision,
        date=result.get("date"),
        notes=f"{result['name']}: {found[0]}{ends}",
    )


def samples(results: Sequence[dict], names: set[str], number: int = 3) -> list[dict]:
    """Answers of the released model that an evaluation kept; empty where none did."""
    own = (one for one in results if is_own(one, names))
    kept = [sample for one in own for sample in one["samples"] if sample.get("prompt") and sample.get("answer")]
    return [{"prompt": one["prompt"], "answer": one["answer"], "expected": None} for one in kept[:number]]


def is_own(result: dict, names: Container[str]) -> bool:
    return result["model"]["name"] in names or result["model"].get("adapter") in names


def check_given(given: Sequence[str]) -> None:
    """Each is a file or folder that is there, before a model is merged for an hour."""
    for path in given:
        if not Path(path).exists():
            raise ConfigError(f"evaluations: {path} is no file and no folder. Give results of recipes/mt_bench.py.")
