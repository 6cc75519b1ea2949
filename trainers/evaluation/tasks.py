"""Rows of tasks such as FLAN's as questions to a model, and its answers by the metrics of `task_metrics.py`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from instruct_builders.errors import ConfigError, RowError

from .. import lengths, seq2seq_data, seq2seq_rows
from . import answers, results, task_metrics
from .held_out import data_facts
from .ratios import ratio

if TYPE_CHECKING:
    import datasets

SAMPLES = 6
SEVERAL = "several_turns"  # a chat model would be asked its own earlier answers, not the row's


class Tasks(NamedTuple):
    """Questions with what their answers are compared with.

    Attributes:
        questions (`list[dict]`): From [`answers.question`].
        prompts (`list[str]`): The same as an encoder-decoder reads them.
        references (`task_metrics.References`): One per question.
        data (`dict`): The data's facts.
        counts (`dict[str, int]`): Rows, and those that are no questions by their reasons.
    """

    questions: list[dict]
    prompts: list[str]
    references: task_metrics.References
    data: dict
    counts: dict[str, int]


def load(
    rows: datasets.Dataset, data: Mapping, *, metric: str = "exact_match", source: str = "auto", chat: bool = True
) -> Tasks:
    """The questions in rows; a row's own metric and accepted answers hold where it names them.

    Args:
        rows (`datasets.Dataset`): From [`trainers.reading.load_rows`].
        data (`Mapping`): From [`trainers.reading.describe`].
        metric (`str`, *optional*, defaults to `"exact_match"`): Of rows that name none.
        source (`str`, *optional*, defaults to `"auto"`): The rows' format.
        chat (`bool`, *optional*, defaults to `True`): Whether a chat model is asked. Then rows of several turns are
            counted and left out.

    Raises:
        ConfigError: For a metric that is not known, or where no row is a question.
    """
    import datasets

    task_metrics.check(metric, "metric")
    talks = seq2seq_rows.messages_of(rows, source)
    counts, kept, prompts, questions = Counter(rows=len(talks)), [], [], []
    for place, messages in enumerate(talks["messages"]):
        try:
            prompt, _ = seq2seq_rows.pair(messages)
        except RowError as error:
            counts[error.reason] += 1
            continue
        said = [turn["content"] for turn in messages[:-1] if turn["role"] not in lengths.SYSTEM]
        system = [turn["content"] for turn in messages if turn["role"] in lengths.SYSTEM]
        if chat and len(said) != 1:
            counts[SEVERAL] += 1
            continue
        kept.append(place)
        prompts.append(prompt)
        questions.append(answers.question(place, [said[0] if chat else prompt], system="\n\n".join(system) or None))
    if not kept:
        raise ConfigError(f"data: no row of {data['name']} is a question with an answer: {dict(counts)}.")
    chosen = datasets.Dataset.from_dict({"row": kept})
    references = seq2seq_data.references(chosen, seq2seq_data.Part(rows, talks, talks), metric)
    return Tasks(questions, prompts, references, data_facts(dict(data)), dict(counts))


def evaluate(
    tasks: Tasks, answered: Sequence[Mapping], *, model: dict, settings: dict, seed: int = 42
) -> tuple[dict, list[dict]]:
    """The result of a model's answers.

    Args:
        tasks (`Tasks`): From [`load`].
        answered (`Sequence[Mapping]`): From [`answers.answer`], one per question and in their order.
        model (`dict`), settings (`dict`): See [`results.result`].
        seed (`int`, *optional*, defaults to 42): Of the bootstrap, which draws rows.

    Returns:
        `tuple`: The result, and per row what [`before_after`] compares.
    """
    if [one["id"] for one in tasks.questions] != [row["id"] for row in answered]:
        raise ConfigError(
            f"{len(answered)} answers were given, which are not those to {len(tasks.questions)} questions."
        )
    texts = [row["turns"][0] for row in answered]
    said = [text or "" for text in texts]
    held = tasks.references
    whole = task_metrics.by_task(said, held)
    each = task_metrics.by_row(said, held)
    metrics, groups = {}, {}
    for name, value in whole.items():
        figure, _, task = name.partition("/")
        some = [place for place, task_of in enumerate(held.tasks) if not task or task_of == task]
        made = _metric(figure, value, [each[place] for place in some], seed)
        if task:
            groups.setdefault(task, {})[figure] = made
        else:
            metrics[figure] = made
    counts = tasks.counts | {
        "asked": len(said),
        "answered": sum(text is not None for text in texts),
        "cut_at_max_new_tokens": sum(row["truncated"][0] for row in answered),
    }
    counts |= Counter(f"no_answer_{row['problems'][0]}" for row in answered if row["problems"][0])
    notes = ["All figures are from 0 to 100; a missing answer counts as an empty one. Score: the mean over tasks."]
    if "bleu" in metrics:
        notes.append(
            "BLEU is of all answers together, so it has no interval here, nor has a score that it is part of."
        )
    lines = zip(tasks.questions, texts, held.answers, held.tasks, each, strict=True)
    rows = [_comparable(*line) for line in lines]
    found = results.result(
        "task_metrics",
        "Task metrics",
        model=model,
        data=tasks.data,
        settings=settings,
        seed=seed,
        counts=counts,
        metrics={"score": metrics.pop("score"), **metrics},
        groups=groups,
        samples=[{name: row[name] for name in ("prompt", "answer", "reference")} for row in rows[:SAMPLES]],
        notes=notes,
    )
    return found, rows


def _metric(figure: str, value: float, rows: list[dict], seed: int) -> dict:
    """The figure as `by_task` gives it, with an interval where it is a mean over rows."""
    pairs = [row[figure] for row in rows if figure in row]
    if not pairs or (figure == "score" and len(pairs) < len(rows)):
        return results.plain_metric(value, len(pairs) or len(rows))
    return ratio([one for one, _ in pairs], [size for _, size in pairs], seed)


def _comparable(question: dict, text: str | None, reference: list[str], task: str, figures: dict) -> dict:
    line = {"id": str(question["id"]), "prompt": question["turns"][0], "answer": text or "", "task": task}
    return line | {"reference": reference[0], "figures": figures}
