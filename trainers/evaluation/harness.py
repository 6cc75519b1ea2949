"""Named benchmarks by lm-evaluation-harness (the optional extra `harness`), in the form of our own results.

The harness does all of it: tasks, prompts, few-shot examples, metrics. It downloads the data of a named task from the
Hub; tasks of one's own are YAML files in its format, given by their paths, and need no network if their data is local.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from instruct_builders.errors import ConfigError, SourceError, did_you_mean

from . import results

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

SAMPLES = 6
STANDARD_ERRORS = 1.96  # on each side of a mean: 95% of a normal distribution


def evaluate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    *,
    tasks: Sequence[str],
    facts: dict,
    chat: bool = True,
    num_fewshot: int | None = None,
    limit: int | None = None,
    batch_size: int = 8,
    seed: int = 42,
) -> tuple[dict, list[dict]]:
    """The result of a model on benchmarks.

    Args:
        model ([`~transformers.PreTrainedModel`]): A causal language model, on the device it shall run on.
        tokenizer (`PreTrainedTokenizerBase`): Its tokenizer.
        tasks (`Sequence[str]`): The harness's names of tasks or groups, or paths of YAML files.
        facts (`dict`): The model's facts, see [`results.result`].
        chat (`bool`, *optional*, defaults to `True`): Ask through the tokenizer's chat template.
        num_fewshot (`int`, *optional*): Examples in the prompt; by default the task's own number.
        limit (`int`, *optional*): Questions per task; the figures are then no benchmark results, and a note says so.
        batch_size (`int`, *optional*, defaults to 8): Requests at once.
        seed (`int`, *optional*, defaults to 42): Of everything that the harness draws.

    Returns:
        `tuple`: The result, and per question what [`before_after`] compares.

    Raises:
        ConfigError: If the harness, or a package that a task needs, is not installed, or there is no such task.
        SourceError: If the data of a task can't be had.
    """
    tasks = list(tasks)
    if not tasks:
        raise ConfigError("benchmarks: none given; the measure harness needs names of lm-evaluation-harness's tasks.")
    try:
        import lm_eval
        from lm_eval.models.huggingface import HFLM
        from lm_eval.tasks import TaskManager
    except ImportError as error:
        raise ConfigError(
            f'the measure harness needs lm-evaluation-harness: {error}. Run: pip install "instruct-builders[harness]"'
        ) from error
    own = all(Path(task).is_file() for task in tasks)
    manager = TaskManager(include_defaults=not own)  # the index of its 14,000 tasks takes half a minute
    for task in tasks:
        if not Path(task).is_file() and task not in manager.all_tasks:
            raise ConfigError(
                f"benchmarks: {task!r} is no task of the harness.{did_you_mean(task, manager.all_tasks)}"
            )
    try:
        loaded = manager.load(tasks)
        inner = {child for children in loaded["group_map"].values() for child in children}
        found = lm_eval.simple_evaluate(
            model=HFLM(pretrained=model, tokenizer=tokenizer, batch_size=batch_size),
            tasks=[one for part in ("tasks", "groups") for name, one in loaded[part].items() if name not in inner],
            task_manager=manager,
            num_fewshot=num_fewshot,
            limit=limit,
            apply_chat_template=chat,
            random_seed=seed,
            numpy_random_seed=seed,
            torch_random_seed=seed,
            fewshot_random_seed=seed,
        )
    except ImportError as error:  # of a task's own, as IFEval's of langdetect
        raise ConfigError(f"benchmarks: a task needs a package of its own: {error}. Install {error.name}.") from error
    except (OSError, ValueError, KeyError) as error:
        raise SourceError(f"benchmarks: the harness stopped: {type(error).__name__}: {error}") from error
    settings = {"tasks": [Path(task).name if Path(task).is_file() else task for task in tasks], "limit": limit}
    settings |= {"num_fewshot": num_fewshot, "batch_size": batch_size, "chat_template": chat}
    revisions = {name: _revision(task) for name, task in loaded["tasks"].items()}
    return of_results(found, facts=facts, settings=settings, seed=seed, revisions=revisions)


def _revision(task) -> str | None:
    """The commit of a task's data: rows of the Hub lie in a folder of the cache that is named after it."""
    splits = task.dataset.values() if isinstance(task.dataset, Mapping) else ()
    folders = {Path(file["filename"]).parent.name for rows in splits for file in rows.cache_files}
    commits = [name for name in folders if re.fullmatch(r"[0-9a-f]{40}", name)]
    return commits[0] if len(commits) == 1 else None


def of_results(
    found: Mapping, *, facts: dict, settings: dict, seed: int, revisions: Mapping[str, str | None] | None = None
) -> tuple[dict, list[dict]]:
    """What the harness returned, as a result; arguments and returns as those of [`evaluate`].

    `revisions` holds the commit of the data by task. A task on a dataset of the Hub is listed in the result's
    `data["tasks"]`, with what the Hub's leaderboards ask for: `id`, `revision`, and which metrics are its own.
    """
    groups = {task: made for task, figures in found["results"].items() if (made := _figures(figures))}
    # Of a group its subtasks are listed too; their questions are the group's.
    metrics = {f"{task}: {name}": value for task, some in groups.items() for name, value in some.items()}
    asked = {task: sizes["effective"] for task, sizes in found["n-samples"].items()}
    counts = {"questions": sum(asked.values())} | {f"questions_{task}": number for task, number in asked.items()}
    told = [f"{task} version {found['versions'].get(task)}, {shot}-shot" for task, shot in found["n-shot"].items()]
    notes = ["Run by lm-evaluation-harness. Intervals are 1.96 of its standard errors on each side.", *told]
    if settings.get("limit"):
        notes.append(f"Only the first {settings['limit']} questions of each task: no benchmark result.")
    samples = found.get("samples") or {}
    rows = _comparable(samples, found)
    hashes = sorted(f"{task} {line['doc_hash']}" for task, lines in samples.items() for line in lines)
    digest = "sha256:" + hashlib.sha256("\n".join(hashes).encode()).hexdigest()[:16] if hashes else None
    result = results.result(
        "lm_eval",
        "lm-evaluation-harness",
        model=facts,
        data={"name": ", ".join(asked), "digest": digest, "rows": sum(asked.values())}
        | {"tasks": _of_hub(found.get("configs") or {}, groups, revisions or {})},
        settings=settings,
        seed=seed,
        counts=counts,
        metrics=metrics,
        samples=[{"prompt": row["prompt"], "answer": row["answer"]} for row in rows[:SAMPLES]],
        notes=notes,
    )
    return result, rows


def _of_hub(configs: Mapping[str, Mapping], groups: Mapping[str, dict], revisions: Mapping) -> dict[str, dict]:
    """The tasks whose data is a dataset of the Hub: `{task: {"id", "revision", "metrics"}}`."""
    made = {}
    for task, config in configs.items():
        path = config.get("dataset_path")
        if isinstance(path, str) and re.fullmatch(r"[\w.-]+/[\w.-]+", path) and not Path(path).exists():
            metrics = [f"{task}: {name}" for name in groups.get(task, {})]
            made[task] = {"id": path, "revision": revisions.get(task), "metrics": metrics}
    return made


def _figures(figures: Mapping) -> dict[str, dict]:
    """`{"acc,none": 0.5, "acc_stderr,none": 0.1, ...}` -> metrics by name, with the filter's where there is one."""
    made = {}
    for key, value in figures.items():
        name, comma, way = key.partition(",")
        if not comma or name.endswith("_stderr") or isinstance(value, str):
            continue
        error = figures.get(f"{name}_stderr,{way}")
        metric = results.plain_metric(value, figures.get("sample_len") or 0)
        if isinstance(error, float):
            metric["low"] = round(value - STANDARD_ERRORS * error, 6)
            metric["high"] = round(value + STANDARD_ERRORS * error, 6)
        made[name if way == "none" else f"{name} ({way})"] = metric
    return made


def _comparable(samples: Mapping[str, list[dict]], found: Mapping) -> list[dict]:
    """Per question, and per filter of its answer: the figures of which the task's is the mean, and more is better.

    A question's own "perplexity" is a log-likelihood, whose mean is neither one nor better where it is less.
    """
    rows = []
    for task, lines in samples.items():
        means = {(way, name) for way in {_way(line) for line in lines} for name in _means(task, way, lines, found)}
        for line in lines:
            way = _way(line)
            end = "" if way == "none" else f" ({way})"
            named = [name for name in line["metrics"] if (way, name) in means]
            figures = {f"{task}: {name}{end}": [float(line[name]), 1] for name in named}
            prompt, answer = line["arguments"][0][0], line["filtered_resps"][0]
            answer = answer if isinstance(answer, str) else str(line["filtered_resps"])
            rows.append({"id": f"{task}/{line['doc_id']}/{way}", "prompt": prompt, "answer": answer})
            rows[-1] |= {"reference": str(line["target"]), "figures": figures}
    return rows


def _way(line: Mapping) -> str:
    return line.get("filter", "none")


def _means(task: str, way: str, lines: Sequence[Mapping], found: Mapping) -> list[str]:
    """Names of the figures that are one number per question, and their mean what the harness says of the task."""
    own = [line for line in lines if _way(line) == way]
    better, names = found.get("higher_is_better", {}).get(task) or {}, []
    for name in own[0]["metrics"]:
        values, whole = [line.get(name) for line in own], found["results"].get(task, {}).get(f"{name},{way}")
        if better.get(name) is False or not all(isinstance(value, int | float) for value in (*values, whole)):
            continue
        if math.isclose(math.fsum(values) / len(values), whole, abs_tol=1e-6):
            names.append(name)
    return names
