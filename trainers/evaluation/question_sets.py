"""MT-Bench's questions and reference answers, from a file or the Hub, with a digest of what they say.

A row of a question set has `question_id` (or `id`, `prompt_id`), `category`, and its turns as `turns` (or `prompt`). A
row of references has `question_id` and its answers as `turns`, as FastChat's `choices`, or, in a question set, as
`reference`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa

from instruct_builders import reader, sources
from instruct_builders.errors import ConfigError, SourceError, did_you_mean

from . import answers

# As published (FastChat, fastchat/llm_judge/common.py); a category that is not here is asked like writing.
TEMPERATURES = {
    "writing": 0.7,
    "roleplay": 0.7,
    "extraction": 0.0,
    "math": 0.0,
    "coding": 0.0,
    "reasoning": 0.0,
    "stem": 0.1,
    "humanities": 0.1,
}
OTHER_TEMPERATURE = 0.7
NEED_REFERENCE = ("math", "reasoning", "coding")  # a judge is no better at these than the model it judges
TURNS = 2
# Of the questions and the GPT-4 references as published, by `digest` and `_digest_of`.
PUBLISHED_QUESTIONS = "sha256:81ad126e4f46d58d3814f74012be9bcfafa0b7c4ca65d1ce1306d9bdb0f56a53"
PUBLISHED_REFERENCES = "sha256:891080dad966c93c2a4cc1d933d6add44c1c3838ad6f69d772abed1553864c45"
TRIAL = "trial"  # eight questions of our own, to try things out with
FOLDER = Path(__file__).parent
SCHEMA = pa.schema(
    {
        "question_id": pa.json_(),
        "id": pa.json_(),
        "prompt_id": pa.json_(),
        "category": pa.string(),
        "turns": pa.json_(),
        "prompt": pa.json_(),
        "choices": pa.json_(),
        "reference": pa.json_(),
    }
)


@dataclass(frozen=True)
class QuestionSet:
    """What is asked.

    Args:
        questions (`list[dict]`): From [`answers.question`], with temperature and reference.
        data (`dict`): The `data` of a result: name, revision, digest, rows, license.
        references (`dict`): What a report says of the references: `used` (how many are `published`, or `given` where
            they differ from those published, how many were `replaced`, how many questions have `none`), the ids of
            those `replaced`, the ids of corrections that were `not_used`, and a digest of each file.
    """

    questions: list[dict]
    data: dict
    references: dict = field(default_factory=dict)


def load(
    questions,
    *,
    references=None,
    corrected_references=None,
    require_references: bool = True,
    temperatures: Mapping[str, float] | None = None,
    categories: Sequence[str] | None = None,
    limit: int | None = None,
) -> QuestionSet:
    """Reads a question set and the references for it.

    Args:
        questions: A file, folder or Hub id (`org/name@revision`), as in [`instruct_builders.sources.resolve`]; or
            `"trial"` for eight bundled questions of our own, with their references.
        references (*optional*): The published reference answers, in the same forms.
        corrected_references (*optional*): Own ones: where a question has one here, it takes the other's place.
        require_references (`bool`, *optional*, defaults to `True`): Whether questions of math, reasoning and coding
            must have one.
        temperatures (`Mapping`, *optional*): Category -> temperature, instead of the published table.
        categories (`Sequence[str]`, *optional*): Only questions of these.
        limit (`int`, *optional*): Only the first questions of each category.

    Raises:
        SourceError: For a file that can't be read.
        ConfigError: For a row that is no question, a turn that is missing, an id given twice, or a missing reference.
    """
    if questions is None:
        raise ConfigError(
            "questions: give MT-Bench's question.jsonl (FastChat, fastchat/llm_judge/data/mt_bench), a Hub id, or "
            "trial for eight bundled questions of our own."
        )
    if questions == TRIAL:
        questions, references = (
            str(FOLDER / "trial_questions.jsonl"),
            references or str(FOLDER / "trial_references.jsonl"),
        )
    rows, names, found_license = _rows(questions, "questions")
    table = _temperatures(temperatures, {row["category"] for row, _ in rows})
    asked, seen = [], {}
    for row, place in rows:
        identifier, turns = _identifier(row, place), _turns(row, place)
        if identifier in seen:
            raise ConfigError(f"{place}: question {identifier} is there already, at {seen[identifier]}.")
        seen[identifier] = place
        if not row["category"]:
            raise ConfigError(f"{place}: question {identifier} has no category, such as {', '.join(TEMPERATURES)}.")
        heat = table.get(row["category"], OTHER_TEMPERATURE)
        asked.append(answers.question(identifier, turns, row["category"], heat))
    whole = digest(asked)
    kept = _chosen(asked, categories, limit)
    told = _with_references(kept, references, corrected_references, require_references)
    published = whole == PUBLISHED_QUESTIONS
    data = {
        "name": ", ".join(names) + ("" if len(kept) == len(asked) else f" ({len(kept)} of {len(asked)} questions)"),
        "revision": ", ".join(name.partition("@")[2] for name in names if "@" in name) or None,
        "digest": digest(kept),
        "rows": len(kept),
        "license": found_license or ("apache-2.0" if published else None),
        "published": published and len(kept) == len(asked),
    }
    return QuestionSet(kept, data, told)


def digest(questions: Sequence[dict]) -> str:
    """Of ids, categories and turns: the same for the same questions, whatever file they come in."""
    said = [[str(one["id"]), one["category"], one["turns"]] for one in questions]
    return _digest_of(said)


def _digest_of(said: object) -> str:
    return "sha256:" + hashlib.sha256(json.dumps(said, separators=(",", ":")).encode("ascii")).hexdigest()


def _rows(data_files, key: str) -> tuple[list[tuple[dict, str]], list[str], str | None]:
    """Rows with the place of each, the public names of the files, and the license that the Hub tells."""
    found, names, licenses = [], [], []
    try:
        files = sources.resolve(data_files)
    except (SourceError, ConfigError) as error:  # which calls its argument data_files, as most recipes do
        raise type(error)(str(error).replace("data_files", key)) from error
    for file in files:
        bad = []
        for chunk in reader.read(file.path, SCHEMA, name=file.name):
            bad += chunk.rejected
            places = zip(chunk.table.to_pylist(), chunk.line.tolist(), chunk.row.tolist(), strict=True)
            for row, line, number in places:
                row = {name: _plain(row[name]) if name != "category" else row[name] for name in SCHEMA.names}
                at = f"line {line}" if line > 0 else f"row {number}"
                found.append((row, f"{key}: {file.name}, {at}"))
        if bad:
            first = bad[0]
            raise ConfigError(
                f"{key}: {file.name}: {len(bad)} rows can't be read, the first in line {first.line}: {first.detail}. "
                "A question set is used whole or not at all."
            )
        names.append(file.source)
        licenses.append(file.license)
    return found, names, next(filter(None, licenses), None)


def _plain(value: object) -> object:
    """The value of a JSON column, which Arrow hands out as text."""
    return json.loads(value) if isinstance(value, str) else value


def _identifier(row: dict, place: str) -> str:
    value = next((row[name] for name in ("question_id", "id", "prompt_id") if row[name] is not None), None)
    if isinstance(value, bool) or not isinstance(value, int | str) or value == "":
        raise ConfigError(f"{place}: question_id is {value!r}; a number or a text is needed.")
    return str(value)


def _turns(row: dict, place: str) -> list[str]:
    turns = row["turns"] if row["turns"] is not None else row.get("prompt")
    if not isinstance(turns, list) or len(turns) != TURNS:
        size = f"{len(turns)} turns" if isinstance(turns, list) else f"turns: {str(turns)[:60]}"
        raise ConfigError(f"{place}: a question of MT-Bench has {TURNS} turns, this one has {size}.")
    for number, turn in enumerate(turns, 1):
        if not isinstance(turn, str) or not turn.strip():
            raise ConfigError(f"{place}: turn {number} is {turn!r}, and a text is needed.")
    return turns


def _temperatures(given: Mapping[str, float] | None, categories: set) -> dict[str, float]:
    for category, value in (given or {}).items():
        if category not in categories:
            hint = did_you_mean(str(category), [str(one) for one in categories])
            raise ConfigError(f"temperatures: no question is of the category {category!r}.{hint}")
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 2:
            raise ConfigError(f"temperatures: {category}: {value!r}; a number from 0 to 2 is allowed.")
    return {**TEMPERATURES, **(given or {})}


def _chosen(asked: list[dict], categories: Sequence[str] | None, limit: int | None) -> list[dict]:
    there = list(dict.fromkeys(one["category"] for one in asked))
    for category in categories or ():
        if category not in there:
            raise ConfigError(
                f"categories: {category!r}; there are {', '.join(there)}.{did_you_mean(category, there)}"
            )
    if limit is not None and limit < 1:
        raise ConfigError(f"limit={limit}: a number of 1 or more is allowed.")
    kept, counts = [], dict.fromkeys(there, 0)
    for one in asked:
        counts[one["category"]] += 1
        if (not categories or one["category"] in categories) and (limit is None or counts[one["category"]] <= limit):
            kept.append(one)
    return kept


def _with_references(kept: list[dict], references, corrected, required: bool) -> dict:
    """Puts the references in; gives what a report says of them."""
    published, first_digest = _references(references, "references")
    own, own_digest = _references(corrected, "corrected_references")
    first = "published" if first_digest == PUBLISHED_REFERENCES else "given"
    used = {}
    for one in kept:
        if one["category"] not in NEED_REFERENCE:
            continue
        used[one["id"]] = "replaced" if one["id"] in own else first if one["id"] in published else "none"
        one["reference"] = own.get(one["id"]) or published.get(one["id"])
    missing = [name for name, kind in used.items() if kind == "none"]
    if missing and required:
        raise ConfigError(
            f"references: {len(missing)} questions of {', '.join(NEED_REFERENCE)} have none, such as {missing[0]}: a "
            "judge is easily wrong there without one. Give references (a file with question_id and turns), or say "
            "require_references: false; the report then says that they were judged without."
        )
    replaced = sorted(name for name, kind in used.items() if kind == "replaced")
    return {
        "used": {kind: list(used.values()).count(kind) for kind in (first, "replaced", "none")},
        "replaced": replaced,
        "not_used": sorted(name for name in own if name not in used),
        "digest": first_digest,
        "corrected_digest": own_digest,
    }


def _references(data_files, key: str) -> tuple[dict[str, list[str]], str | None]:
    if data_files is None:
        return {}, None
    found: dict[str, list[str]] = {}
    for row, place in _rows(data_files, key)[0]:
        identifier = _identifier(row, place)
        if identifier in found:
            raise ConfigError(f"{place}: question {identifier} has a reference already.")
        said = _reference(row, place)
        if said:
            found[identifier] = _turns({"turns": said}, place)
    if not found:
        raise ConfigError(f"{key}: {data_files} holds no reference.")
    return found, _digest_of(sorted(found.items()))


def _reference(row: dict, place: str) -> object:
    """The turns of a reference answer, in whichever of the forms it comes; empty where a question has none."""
    choices = row["choices"]
    if isinstance(choices, list) and choices and isinstance(choices[0], dict):
        return choices[0].get("turns")
    if row["reference"] is not None or row["category"] or row["prompt"] is not None:
        # A row of a question set: its turns are the questions, and answers stand under `reference`, if anywhere.
        return row["reference"]
    return row["turns"]
