"""The README.md of a built dataset: YAML that `datasets` and the Hub read, and what a person wants to know."""

from __future__ import annotations

import json
import re
from pathlib import Path

import datasets
import jinja2
import jinja2.sandbox
import yaml

from . import __version__, licenses
from .records import REASONS

TEMPLATE = Path(__file__).parent / "data" / "dataset_card.md.jinja"
LISTED = 40  # sources in a table; more are summed up, and all are in build.json
# The Hub's size classes: https://huggingface.co/docs/hub/datasets-cards
SIZES = ((10**3, "n<1K"), (10**4, "1K<n<10K"), (10**5, "10K<n<100K"), (10**6, "100K<n<1M"), (10**7, "1M<n<10M"))


def dataset_card(
    build: dict,
    info: datasets.DatasetInfo,
    example: dict,
    *,
    repo_id: str = "path/to/this/folder",
    title: str | None = None,
    languages: list[str] | None = None,
    pictures: dict[str, str] | None = None,
) -> str:
    """The text of README.md for one built configuration.

    Args:
        build (`dict`): What `build.json` holds; see [`instruct_builders.directory.write`].
        info ([`~datasets.DatasetInfo`]): Features, splits and sizes of the configuration.
        example (`dict`): A row to show. Its text is data: it is fenced, never interpreted.
        repo_id (`str`, *optional*): What `load_dataset` is given in the usage lines.
        title (`str`, *optional*, defaults to the builder's name): The heading.
        languages (`list[str]`, *optional*): ISO 639-1 codes. Left out where not given: nobody has looked.
        pictures (`dict[str, str]`, *optional*): Caption -> file in the directory.
    """
    config_name = build["config_name"]
    files = sorted(build["sources"], key=lambda file: -file["rows_in"])[:LISTED] if _many(build) else build["sources"]
    license_id = build["license"]
    rows = sum(build["splits"].values())
    data = {
        "pretty_name": title or f"{build['builder']} instruction data",
        **({"license": license_id} if license_id else {}),
        **({"language": languages} if languages else {}),
        "task_categories": ["text-generation"],
        "tags": ["instruction-tuning", "sft", "instruct-builders"],
        "size_categories": [next((name for limit, name in SIZES if rows < limit), "n>10M")],
        "configs": [
            {
                "config_name": config_name,
                "default": True,
                "data_files": [
                    {"split": split, "path": f"{config_name}/{split}-*.parquet"} for split in build["splits"]
                ],
            }
        ],
        "dataset_info": {"config_name": config_name, **info._to_yaml_dict()},
    }
    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
        undefined=jinja2.StrictUndefined, keep_trailing_newline=True
    )
    environment.filters["cell"] = cell
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        yaml=yaml.safe_dump(data, sort_keys=False, allow_unicode=True).rstrip(),
        title=cell(data["pretty_name"]),
        description=f"Instruction data in the `{build['format']}` format, " + _made_by(build),
        repo_id=repo_id,
        config_name=config_name,
        splits=build["splits"],
        columns=list(info.features),
        files=files,
        more_files=len(build["sources"]) - len(files),
        license_note=license_note(license_id, build["sources"]),
        reasons=build["rejected"],
        meanings=REASONS,
        rejected=sum(build["rejected"].values()),
        rows_in=sum(file["rows_in"] for file in build["sources"]),
        rows_out=rows,
        added=sum(entry.get("added", 0) for entry in [*build["sources"], *build["steps"]]),
        mixture=_collapsed(build["mixture"]) if "mixture" in build else None,
        generation=build.get("generation"),
        absent=build.get("left_out", []),
        pictures=pictures or {},
        steps=[{**step, "rejected_total": sum(step["rejected"].values())} for step in build["steps"]],
        example=fenced(json.dumps(example, ensure_ascii=False, indent=2, default=str)),
        version=__version__,
    )


def _made_by(build: dict) -> str:
    if "mixture" not in build:
        return f"built by the `{build['builder']}` builder."
    drawn = [entry for entry in build["mixture"]["table"] if entry["draws"]]
    return f"a mixture of {len(drawn)} source{'s' if len(drawn) > 1 else ''}."


def _many(build: dict) -> bool:
    return len(build["sources"]) > LISTED


def _collapsed(mixture: dict) -> dict:
    """The mixture with at most `LISTED` entries: where there are more, one per first part of their names."""
    if len(mixture["table"]) <= LISTED:
        return mixture
    groups: dict[str, list[dict]] = {}
    for entry in mixture["table"]:
        groups.setdefault(entry["name"].split("/")[0], []).append(entry)
    return {**mixture, "table": [_summed(name, entries) for name, entries in groups.items()]}


def _summed(name: str, entries: list[dict]) -> dict:
    if len(entries) == 1:
        return entries[0]
    absent = [entry for entry in entries if entry["left_out"]]
    stated = {entry["license"] for entry in entries if entry["draws"]}
    total = {key: sum(entry[key] for entry in entries) for key in ("rows", "rate", "share", "draws")}
    why = f"all {len(entries)} sources, such as {absent[0]['name']}: {absent[0]['left_out']}" if absent else None
    return {
        "name": f"{name} ({len(entries)} sources" + (f", {len(absent)} left out)" if absent else ")"),
        "license": licenses.strictest(stated) if stated - {None} else None,
        "cap": None,
        **total,
        "rate": None,  # of each in its own group: their sum says nothing
        "epochs": total["draws"] / total["rows"] if total["rows"] else 0.0,
        "left_out": why if len(absent) == len(entries) else None,
    }


def license_note(license_id: str | None, files: list[dict] = ()) -> str:
    """One sentence on what the license lets people do, and one on the sources that state none."""
    if not license_id:
        return "No source states a license: find out before you publish this or train on it for others."
    note = f"License: `{license_id}`, the strictest among the sources."
    if licenses.is_non_commercial(license_id):
        note += " **Commercial use is not allowed.**"
    silent = [file["source"] for file in files if licenses.normalise(file["license"]) in ("unknown", "other")]
    if silent:
        shown = "; ".join(dict.fromkeys(map(cell, silent[:5])))
        more = f" and {len(silent) - 5:,} more" if len(silent) > 5 else ""
        note += f" Of {len(silent):,} sources the license is not known, and may forbid more: {shown}{more}."
    return note


def cell(text: str) -> str:
    """Text for a table cell or a heading: no line breaks, pipes, backticks or tags that Markdown would act on."""
    flat = " ".join(str(text).split())
    return re.sub(r"([|`<>\[\]*_])", r"\\\1", flat)


def fenced(text: str, language: str = "json", limit: int = 2000) -> str:
    """A code block that its content can't close, cut at `limit` characters with a note that says so."""
    if len(text) > limit:
        text = text[:limit] + f"\n... ({len(text) - limit:,} more characters)"
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{text}\n{fence}"
