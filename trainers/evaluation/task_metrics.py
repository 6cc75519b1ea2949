"""Answers against references by the metric of their task, all from 0 to 100.

| metric | what |
|---|---|
| exact_match | the same text, blanks aside: T5's vocabulary has no line breaks |
| accuracy | the same label: also case and a full stop at the end aside |
| token_f1 | words in common, as SQuAD counts them (no case, punctuation or English articles) |
| rouge | F1 of ROUGE-1, ROUGE-2 and ROUGE-L with stemming, by the package rouge-score |
| bleu | corpus BLEU by sacrebleu, its default settings |

Where a row has several references the best one counts.
"""

from __future__ import annotations

import functools
import re
import string
from collections import Counter
from collections.abc import Callable, Sequence
from typing import NamedTuple

from instruct_builders.errors import ConfigError, did_you_mean

NO_TASK = ""  # rows that name no task


class References(NamedTuple):
    """What answers are compared with, one entry per row.

    Attributes:
        answers (`list[list[str]]`): The accepted answers.
        metrics (`list[str]`): A key of `METRICS`.
        tasks (`list[str]`): The row's task, `""` where it has none.
    """

    answers: list[list[str]]
    metrics: list[str]
    tasks: list[str]


def exact_match(said: Sequence[str], answers: Sequence[list[str]]) -> dict[str, float]:
    return {"exact_match": _share(said, answers, lambda text: " ".join(text.split()))}


def accuracy(said: Sequence[str], answers: Sequence[list[str]]) -> dict[str, float]:
    return {"accuracy": _share(said, answers, lambda text: " ".join(text.casefold().split()).removesuffix("."))}


def _share(said: Sequence[str], answers: Sequence[list[str]], plain: Callable[[str], str]) -> float:
    right = [plain(text) in map(plain, some) for text, some in zip(said, answers, strict=True)]
    return 100 * sum(right) / len(right)


def token_f1(said: Sequence[str], answers: Sequence[list[str]]) -> dict[str, float]:
    best = [max(_f1(text, one) for one in some) for text, some in zip(said, answers, strict=True)]
    return {"token_f1": 100 * sum(best) / len(best)}


def _f1(said: str, answer: str) -> float:
    one, other = (
        re.sub(r"\b(a|an|the)\b", " ", text.lower().translate(str.maketrans("", "", string.punctuation))).split()
        for text in (said, answer)
    )
    if not one or not other:
        return float(one == other)
    same = sum((Counter(one) & Counter(other)).values())
    return 2 * same / (len(one) + len(other))


def rouge(said: Sequence[str], answers: Sequence[list[str]]) -> dict[str, float]:
    scorer = _rouge_scorer()
    totals = dict.fromkeys(("rouge1", "rouge2", "rougeL"), 0.0)
    for text, some in zip(said, answers, strict=True):
        found = scorer.score_multi(some, text)
        totals = {name: total + found[name].fmeasure for name, total in totals.items()}
    return {name: 100 * total / len(said) for name, total in totals.items()}


@functools.cache
def _rouge_scorer():
    try:
        from rouge_score import rouge_scorer, tokenizers
    except ImportError as error:
        raise _missing("rouge", "rouge-score") from error
    english = tokenizers.DefaultTokenizer(use_stemmer=True)

    class Words(tokenizers.Tokenizer):
        """rouge-score's own for ASCII, of which it knows a-z and 0-9 alone; else words, or letters of Chinese."""

        def tokenize(self, text: str) -> list[str]:
            if text.isascii():
                return english.tokenize(text)
            return re.findall(r"[\u3040-\u30ff\u3400-\u9fff]|[^\W_\u3040-\u30ff\u3400-\u9fff]+", text.lower())

    return rouge_scorer.RougeScorer(["rouge1", "rouge2", "rougeL"], tokenizer=Words())


def bleu(said: Sequence[str], answers: Sequence[list[str]]) -> dict[str, float]:
    try:
        import sacrebleu
    except ImportError as error:
        raise _missing("bleu", "sacrebleu") from error
    most = max(map(len, answers))
    streams = [[some[place] if place < len(some) else None for some in answers] for place in range(most)]
    return {"bleu": sacrebleu.corpus_bleu(list(said), streams).score}


def _missing(metric: str, package: str) -> ConfigError:
    return ConfigError(f'the metric {metric} needs {package}. Run: pip install "instruct-builders[eval]"')


METRICS = {"exact_match": exact_match, "accuracy": accuracy, "token_f1": token_f1, "rouge": rouge, "bleu": bleu}
FIGURES = ("exact_match", "accuracy", "token_f1", "rouge1", "rouge2", "rougeL", "bleu", "score")
MAIN = {"rouge": "rougeL"}  # the figure that stands for a metric with several


def check(metric: str, where: str) -> str:
    """The metric, or a `ConfigError` that names the allowed ones and the package that is missing."""
    if metric not in METRICS:
        hint = did_you_mean(str(metric), METRICS)
        raise ConfigError(f"{where}: {metric!r} is no metric. Allowed: {', '.join(METRICS)}.{hint}")
    METRICS[metric](["a"], [["a"]])
    return metric


def by_task(said: Sequence[str], held: References) -> dict[str, float]:
    """Every metric over its rows, each task by its own, and `score`: the mean of the tasks' main figures.

    Args:
        said (`Sequence[str]`): Written answers, one per row.
        held (`References`): What they should be.

    Returns:
        `dict[str, float]`: `"rougeL"` over all rows of that metric, `"rougeL/<task>"`, and `"score"`.
    """
    found: dict[str, float] = {}
    main = []
    for metric in sorted(set(held.metrics)):
        of_metric = [place for place, name in enumerate(held.metrics) if name == metric]
        tasks = sorted({held.tasks[place] for place in of_metric})
        for task in (None, *tasks):
            places = [place for place in of_metric if task is None or held.tasks[place] == task]
            scores = METRICS[metric]([said[place] for place in places], [held.answers[place] for place in places])
            if task is None:
                found |= scores
                continue
            main.append(scores[MAIN.get(metric, metric)])
            if task != NO_TASK:
                found |= {f"{name}/{task}": value for name, value in scores.items()}
    return found | {"score": sum(main) / len(main)}


def by_row(said: Sequence[str], held: References) -> list[dict[str, tuple[float, float]]]:
    """What each row adds to its figures: a sum and what it is divided by.

    `score` has one over the number of the task's rows, so that each task weighs the same. BLEU is no mean over rows:
    rows of it have no figure.
    """
    sizes = Counter(zip(held.metrics, held.tasks, strict=True))
    rows = []
    for text, answers, metric, task in zip(said, *held, strict=True):
        if metric == "bleu":
            rows.append({})
            continue
        scores = METRICS[metric]([text], [answers])
        weight = 1 / sizes[metric, task]
        figures = {name: (value, 1) for name, value in scores.items()}
        rows.append(figures | {"score": (scores[MAIN.get(metric, metric)] * weight, weight)})
    return rows
