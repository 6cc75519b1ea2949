"""Files of existing collections -> the same examples: Super-NaturalInstructions, P3 / T0, CoT files, rendered FLAN.

- `niv2`: a JSON file is a task: `Definition`, `Positive Examples`, `Negative Examples`, `Instances`; or one object
  from task names to `definition` and `positive_examples`, whose only instance is then its example.
- `p3`: `prompt` and `completion`, or `inputs_pretokenized` and `targets_pretokenized`. The `<|endoftext|>` at a
  completion's end and the line break at a prompt's end, which belong to a training script, are cut.
- `cot`: question, answer and chain of thought; a TSV file has no header, and its literal `\\n` is a line break.
- `flan`: `inputs`, `targets`, `task_source`, `task_name`, `template_type`, as in the rendered collection on the Hub.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import yaml

from instruct_builders import licenses, reader, sources
from instruct_builders.errors import SourceError
from instruct_builders.flan.config import FlanConfig
from instruct_builders.flan.source_columns import text_of
from instruct_builders.flan.source_rows import Rows, Unit, columns_of, read_rows
from instruct_builders.flan.task_files import Task, parse_templates
from instruct_builders.flan.templates import Template
from instruct_builders.records import one_array

COT_FILE = Path(__file__).parent / "cot.yaml"  # templates for question, answer and chain
COT_COLUMNS = ("question", "answer", "chain")
P3_COLUMNS = (("prompt", "completion"), ("inputs_pretokenized", "targets_pretokenized"))
FLAN_COLUMNS = ("inputs", "targets", "task_source", "task_name", "template_type")
END_OF_TEXT = r"<\|endoftext\|>\s*$"


def units(file: sources.SourceFile, config: FlanConfig) -> list[Unit]:
    """The task or tasks of one file of a collection.

    Raises:
        SourceError: If the file is not of that collection.
    """
    file = replace(file, license=file.license or "unknown")
    if config.collection == "niv2":
        return [_niv2_unit(file, name, found, config) for name, found in _niv2_tasks(file.path, file.digest).items()]
    name = "flan" if config.collection == "flan" else _task_name(file)
    if config.collection == "cot":
        task = _cot_task(name)
        if _is_table_of_text(file):
            return [Unit(task, (file,), (pa.schema([(column, pa.string()) for column in COT_COLUMNS]),))]
        return [Unit(task, (file,), (columns_of(file, task, config.field),))]
    return [_rendered_unit(file, name, config)]


def merged(found: list[Unit]) -> list[Unit]:
    """Units of one name as one: a task in several files."""
    names: dict[str, Unit] = {}
    for unit in found:
        first = names.setdefault(unit.task.name, unit)
        if first is not unit:
            files, schemas = first.files + unit.files, first.schemas + unit.schemas
            names[unit.task.name] = replace(first, files=files, schemas=schemas)
    return list(names.values())


def rows(file: sources.SourceFile, task: Task, schema: pa.Schema, config: FlanConfig) -> Iterator[Rows]:
    """The rows of one file of a collection, in the columns of its task."""
    if config.collection == "niv2":
        yield _niv2_rows(_niv2_tasks(file.path, file.digest)[task.name])
    elif config.collection == "cot":
        yield from _cot_rows(file, task, schema, config)
    else:
        for part in read_rows(file, task, schema, config.max_row_bytes, config.field):
            yield replace(part, table=(_p3 if config.collection == "p3" else _flan)(part.table))


def _task_name(file: sources.SourceFile) -> str:
    """The file's stem; where that only says which split it is, the folder's name."""
    path = Path(file.name)
    stem = path.name.split("-00")[0].split(".")[0]
    return path.parent.name if stem in ("train", "test", "validation") and path.parent.name else stem


def _rendered_unit(file: sources.SourceFile, name: str, config: FlanConfig) -> Unit:
    """A file whose rows are prompts and answers already: its one template is the input as it is."""
    errors = []
    for columns in P3_COLUMNS if config.collection == "p3" else (FLAN_COLUMNS,):
        task = Task(name, (), dict(zip(columns, columns, strict=True)), {"column": columns[1]})
        try:
            schema = columns_of(file, task, config.field)
        except SourceError as error:
            errors.append(str(error))
            continue
        plain = Template(f"{config.collection}/{name}", (("", "input"),), (("", "answer"),), (("", "input"),))
        task = Task(name, (plain,), {"input": "input"}, {"column": "answer"}, license=file.license)
        return Unit(task, (file,), (schema,))
    raise SourceError(" Or: ".join(errors))


def _p3(table: pa.Table) -> pa.Table:
    prompt, completion = (one_array(column) for column in table.columns)
    return pa.table({"input": prompt, "answer": pc.replace_substring_regex(completion, END_OF_TEXT, "")})


def _flan(table: pa.Table) -> pa.Table:
    """Task, template and `meta` ride along; the latter is written once per kind of row."""
    source, kind = (one_array(table[name]).dictionary_encode() for name in ("task_source", "template_type"))
    sources_, kinds = [*source.dictionary.to_pylist(), None], [*kind.dictionary.to_pylist(), None]
    texts = [
        json.dumps({"setting": other, "task_source": one, "template_type": other}, ensure_ascii=False)
        for one in sources_
        for other in kinds
    ]
    at = [codes.indices.fill_null(len(codes.dictionary)).to_numpy() for codes in (source, kind)]
    return pa.table(
        {
            "input": table["inputs"],
            "answer": table["targets"],
            "_task": one_array(table["task_name"]),
            "_template": pc.binary_join_element_wise("flan/", one_array(table["template_type"]), ""),
            "_extra": pa.array(texts).take(pa.array(at[0].astype(np.int64) * len(kinds) + at[1])),
        }
    )


@lru_cache(maxsize=1)
def _cot_templates() -> dict:
    return yaml.safe_load(COT_FILE.read_text(encoding="utf-8"))


def _cot_task(name: str) -> Task:
    given = _cot_templates()
    task = Task(
        name,
        (),
        {"question": "question"},
        {"column": "answer"},
        chain={"column": "chain"},
        category="chain of thought",
        kind="reasoning",
        metric="exact_match",
    )
    return replace(task, templates=parse_templates(task, given["templates"], given["cot_templates"], COT_FILE.name))


def _is_table_of_text(file: sources.SourceFile) -> bool:
    return Path(file.path).suffix in (".tsv", ".csv")


def _cot_rows(file: sources.SourceFile, task: Task, schema: pa.Schema, config: FlanConfig) -> Iterator[Rows]:
    if not _is_table_of_text(file):
        yield from read_rows(file, task, schema, config.max_row_bytes, config.field)
        return
    options = {"header": COT_COLUMNS, "quotes": False, "max_row_bytes": config.max_row_bytes}
    for chunk in reader.read(file.path, schema, name=file.name, **options):
        lines = [{**line.as_dict(), "split": file.split} for line in chunk.rejected]
        columns = {name: pc.replace_substring(one_array(chunk.table[name]), "\\n", "\n") for name in COT_COLUMNS}
        yield Rows(pa.table(columns), chunk.row, lines)


@lru_cache(maxsize=2)
def _niv2_tasks(path: str, digest: str) -> dict[str, dict]:
    """Task name -> its object, with the keys in lower case and `_` for blanks.

    Args:
        digest (`str`): Of the file's bytes: a file that has changed is read anew.
    """
    name = Path(path).name
    try:
        given = json.loads(Path(path).read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise SourceError(f"{name} is no JSON file that can be read: {error}") from error
    if not isinstance(given, dict):
        raise SourceError(f"{name} holds a {type(given).__name__}, and a niv2 file is one JSON object.")
    tasks = {name.split(".")[0]: given} if "Definition" in given or "Instances" in given else given
    found = {}
    for task, entry in tasks.items():
        entry = (
            {key.lower().replace(" ", "_"): value for key, value in entry.items()} if isinstance(entry, dict) else {}
        )
        if not entry.get("definition") or not (entry.get("instances") or entry.get("positive_examples")):
            raise SourceError(f"{name}: {task} has no Definition, or neither Instances nor Positive Examples.")
        found[task] = entry
    return found


def _listed(value: object) -> list:
    return value if isinstance(value, list) else [] if value is None else [value]


def _exemplars(entries: object) -> list[dict]:
    """Examples that have an input and an output; an explanation where there is one."""
    found = []
    for entry in _listed(entries):
        answer = _listed(entry.get("output"))[:1] if isinstance(entry, dict) else []
        if answer and isinstance(answer[0], str) and isinstance(entry.get("input"), str):
            explained = entry.get("explanation")
            asked = text_of(pa.array([entry["input"]]), "input")[0].as_py()  # as an instance that asks the same
            found.append({"input": asked, "answer": answer[0].strip(), "explanation": explained or ""})
    return found


def _niv2_unit(file: sources.SourceFile, name: str, entry: dict, config: FlanConfig) -> Unit:
    negatives = _exemplars(entry.get("negative_examples"))[: config.negatives]
    parts = ["\n".join(str(line).strip() for line in _listed(entry["definition"]))]
    for bad in negatives:
        text = f"An example of how not to do it:\nInput: {bad['input']}\nOutput: {bad['answer']}"
        parts.append(text + (f"\nWhy not: {bad['explanation']}" if config.explanations and bad["explanation"] else ""))
    shown = (("Input: ", "input"), ("\nOutput:", None))
    identity = "niv2/definition" + (f"-{len(negatives)}" if negatives else "")
    target = (("", "answer"), *([("\nExplanation: ", "explanation")] if config.explanations else []))
    stated = [licenses.normalise(text) for text in _listed(entry.get("instance_license")) if isinstance(text, str)]
    license_id = licenses.strictest(stated) if stated else file.license
    task = Task(
        name,
        (Template(identity, shown, (("", "answer"),), shown),),
        {"input": "input"},
        {"column": "answer", "as": "first"},
        category=next(iter(_listed(entry.get("categories"))), None),
        license=license_id,
        preamble="\n\n".join(parts),
        shot_template=Template(identity, shown, target, shown),
        exemplars=_exemplars(entry.get("positive_examples")) if entry.get("instances") else [],
        answer_separator=" ",
    )
    return Unit(task, (replace(file, name=f"{name}: {file.name}", license=license_id),), (pa.schema([]),))


def _niv2_rows(entry: dict) -> Rows:
    instances = _listed(entry.get("instances") or entry.get("positive_examples"))
    rows_ = [row if isinstance(row, dict) else {} for row in instances]
    table = pa.table(
        {
            "input": pa.array(
                [row.get("input") if isinstance(row.get("input"), str) else None for row in rows_], pa.string()
            ),
            "answer": pa.array(
                [[text for text in _listed(row.get("output")) if isinstance(text, str)] for row in rows_],
                pa.list_(pa.string()),
            ),
        }
    )
    return Rows(table, np.arange(len(rows_)), [])
