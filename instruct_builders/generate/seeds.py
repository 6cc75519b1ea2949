"""What a method starts from: the bundled seed tasks, or any instruction data, with or without answers."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

import pyarrow as pa

from .. import quarantine, reader, records, sources
from ..errors import SourceError, TooManyRejected
from ..formats import CONTEXT_SEPARATOR

BUNDLED = sources.BUNDLED / "seed_tasks.jsonl"
INSTANCES = pa.list_(pa.struct({"input": pa.string(), "output": pa.string()}))
TURNS = pa.list_(pa.struct([pa.field("role", pa.string(), nullable=False), pa.field("content", pa.string())]))
# Self-Instruct's tasks, Alpaca's rows, bare instructions, and conversations: whichever of these columns there are.
SCHEMA = pa.schema(
    {
        "instruction": pa.string(),
        "input": pa.string(),
        "output": pa.string(),
        "instances": INSTANCES,
        "is_classification": pa.bool_(),
        "messages": TURNS,
        "context": pa.string(),
        "license": pa.string(),
    }
)

# Why a method can't begin with a row that is fine in itself.
UNUSABLE = {
    "not_classification": ("is_classification", "not true, which classification_only wants"),
    "earlier_turns": ("messages", "turns before the question, such as a system turn, and this method takes none"),
    "no_output": ("output", "a question without an answer, and this method shows whole tasks"),
    "duplicate_seed": ("instruction", "a row before it says the same"),
}


@dataclass(frozen=True)
class Seed:
    """One thing to start from.

    Args:
        id (`str`): Content id of its record; what `parent` of a row made from it says.
        instruction (`str`): The last question, without its input.
        input (`str`, *optional*): `None` or empty where there is none.
        output (`str`, *optional*): `None` where nobody has answered.
        is_classification (`bool`, *optional*): As the source says.
        earlier (`tuple[dict, ...]`): Turns before the question: a system turn, earlier rounds.
        license (`str`, *optional*): Of the row or its source.
        place (`tuple`, *optional*): File, row and line it was read from.
    """

    id: str
    instruction: str
    input: str | None = None
    output: str | None = None
    is_classification: bool | None = None
    earlier: tuple[dict, ...] = ()
    license: str | None = None
    place: tuple[str, int, int] | None = field(default=None, compare=False)

    @property
    def prompt(self) -> str:
        """Instruction and input in one text."""
        return with_input([{"role": "user", "content": self.instruction}], self.input)[0]["content"]


@dataclass(frozen=True)
class Seeds:
    """What was read: the seeds in order, the lines of the rejected rows, and an entry per file for the account."""

    seeds: list[Seed]
    rejected: list[dict]
    files: list[dict]


def read(data_files=None, max_bad_fraction: float = 0.01) -> Seeds:
    """Reads seeds.

    Args:
        data_files (*optional*, defaults to the 175 bundled seed tasks): As in [`instruct_builders.sources.resolve`].
            Rows hold `instruction` (and `input`, `output`, `instances`), or `messages`.
        max_bad_fraction (`float`, *optional*, defaults to 0.01): Share of rows that can't be used above which it is
            an error.

    Raises:
        SourceError: For a file that can't be read, or without a usable row.
        TooManyRejected: For more bad rows than allowed; the first are named.
    """
    bundled = data_files is None or data_files == "bundled"
    seeds, rejected, files = [], [], []
    for file in sources.resolve(str(BUNDLED) if bundled else data_files):
        name = "the bundled seed_tasks.jsonl" if bundled else file.name
        bad, rows = [], 0
        for chunk in reader.read(file.path, SCHEMA, name=file.name):
            bad += [line.as_dict() for line in chunk.rejected]
            places = zip(chunk.table.to_pylist(), chunk.row.tolist(), chunk.line.tolist(), strict=True)
            for row, number, line in places:
                found, problem = _seeds(row, row.get("license") or file.license)
                seeds += [replace(seed, place=(name, number, line)) for seed in found]
                if problem:
                    bad.append(_line(name, number, line, *problem))
            rows += len(chunk.table) + len(chunk.rejected)
        rejected += sorted(bad, key=lambda line: line["row"])
        files.append({"source": file.source, "digest": file.digest, "rows_in": rows, "rejected": len(bad)})
    total = sum(entry["rows_in"] for entry in files)
    if rejected and len(rejected) > max_bad_fraction * total:
        raise TooManyRejected(
            f"data_files: {len(rejected)} of {total} rows can't be used, and max_bad_fraction={max_bad_fraction:g} "
            f"allows {max_bad_fraction * total:.0f}. The first:\n{quarantine.describe(rejected)}"
        )
    if not seeds:
        raise SourceError("data_files: no row with an instruction or with messages.")
    ids = content_ids([(seed.earlier, seed.instruction, seed.input, seed.output) for seed in seeds])
    seeds = [replace(seed, id=name) for name, seed in zip(ids, seeds, strict=True)]
    return Seeds(seeds, rejected, files)


def without(given: Seeds, left: Iterable[tuple[Seed, str]]) -> Seeds:
    """The same seeds, with a rejected line more for each row that gave only seeds which a method leaves.

    Args:
        given ([`Seeds`]): What was read.
        left (`Iterable`): Seeds the method can't use, each with a key of [`UNUSABLE`].
    """
    reasons = {id(entry): reason for entry, reason in left}
    used = {_place(entry) for entry in given.seeds if id(entry) not in reasons}
    lines = {}
    for entry in given.seeds:
        if (place := _place(entry)) not in used:
            reason = reasons[id(entry)]
            lines.setdefault(place, _line(*place, reason, *UNUSABLE[reason]))
    return replace(given, rejected=[*given.rejected, *lines.values()])


def _place(entry: Seed) -> tuple[str, int, int]:
    return entry.place or (entry.id, 0, -1)


def _seeds(row: dict, license_id: str | None) -> tuple[list[Seed], tuple[str, str, str] | None]:
    """The seeds of a row, or (reason, field, detail) of why there is none."""
    if row["messages"] is not None:
        return _of_turns(row, license_id)
    if row["instruction"] is None:
        return [], ("null_field", "instruction", "missing or null")
    if not row["instruction"].strip():
        return [], ("null_field", "instruction", "a text without a visible character")
    instances = row["instances"]
    if instances is None:
        instances = [{"input": row["input"], "output": row["output"]}]
    if not instances or None in instances:
        return [], ("null_field", "instances", "an empty list or null where inputs and outputs belong")
    if any(entry["output"] is not None and not entry["output"].strip() for entry in instances):
        return [], ("empty_output", "output", "an answer without text; leave output out where there is none")
    told = (row["is_classification"], (), license_id)
    return [Seed("", row["instruction"], entry["input"], entry["output"], *told) for entry in instances], None


def _of_turns(row: dict, license_id: str | None) -> tuple[list[Seed], tuple[str, str, str] | None]:
    turns = row["messages"]
    if any(turn is None or turn["content"] is None for turn in turns):
        return [], ("null_field", "messages", "a turn without content")
    answer = turns[-1]["content"] if turns and turns[-1]["role"] == "assistant" else None
    asked = turns[:-1] if answer is not None else turns
    if not asked or asked[-1]["role"] != "user" or not asked[-1]["content"].strip():
        return [], ("no_turns", "messages", "no question that can be answered: the last one must be a user turn")
    asked = _without_input(asked, row["context"])
    told = (row["is_classification"], tuple(asked[:-1]), license_id)
    return [Seed("", asked[-1]["content"], row["context"], answer, *told)], None


def _without_input(turns: list[dict], given: str | None) -> list[dict]:
    """Turns as a record has them: the format `messages` repeats the input at the end of the first user turn."""
    tail = f"{CONTEXT_SEPARATOR}{given}"
    first = next((place for place, turn in enumerate(turns) if turn["role"] == "user"), None)
    if not given or first is None or not turns[first]["content"].endswith(tail):
        return turns
    cut = {"role": "user", "content": turns[first]["content"].removesuffix(tail)}
    return [*turns[:first], cut, *turns[first + 1 :]]


def with_input(turns: list[dict], given: str | None) -> list[dict]:
    """Turns as they are said: with the input at the end of the first user turn."""
    first = next((place for place, turn in enumerate(turns) if turn["role"] == "user"), None)
    if not given or first is None:
        return turns
    whole = {"role": "user", "content": f"{turns[first]['content']}{CONTEXT_SEPARATOR}{given}"}
    return [*turns[:first], whole, *turns[first + 1 :]]


def _line(file: str, row: int, line: int, reason: str, field: str, detail: str) -> dict:
    place = {"file": file, "row": row, "line": line if line >= 0 else None, "offset": None, "split": None}
    said = {"stage": "seeds", "reason": reason, "field": field, "detail": detail, "id": None}
    return place | said | {"raw": None, "raw_base64": None, "raw_bytes": 0}


def turns_of(earlier: tuple[dict, ...], instruction: str, output: str | None) -> list[dict]:
    """The `messages` of a record."""
    answer = [] if output is None else [{"role": "assistant", "content": output}]
    return [*earlier, {"role": "user", "content": instruction}, *answer]


def content_ids(rows: list[tuple]) -> list[str]:
    """Content ids of records, from (earlier turns, instruction, input, output)."""
    table = pa.table(
        {
            "messages": pa.array([turns_of(earlier, asked, output) for earlier, asked, _, output in rows], TURNS),
            "context": pa.array([given for _, _, given, _ in rows], pa.string()),
        }
    )
    return records.content_ids(table).to_pylist()
