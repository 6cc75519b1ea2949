"""The README.md of a model: what it was made of, how, how good it is, and how to run it."""

from __future__ import annotations

from collections.abc import Container, Sequence
from pathlib import Path

import jinja2
import yaml

from instruct_builders import licenses
from instruct_builders.cards import cell, fenced
from instruct_builders.errors import ConfigError

from . import scores
from .run_facts import LISTED

CARD = Path(__file__).parent / "model_card.md.jinja"
CLASSES = {"causal": "Causal", "seq2seq": "Seq2Seq"}
TAGS = {"causal": ["sft", "trl", "instruct-builders"], "seq2seq": ["sft", "text2text-generation", "instruct-builders"]}


def write(
    directory: str | Path,
    facts: dict,
    repo_id: str | None = None,
    *,
    tag: str | None = None,
    license: str | None = None,
    results: Sequence[dict] = (),
    names: Container[str] = (),
    gguf: str | None = None,
) -> Path:
    """Writes `README.md`. No path of this machine gets into it.

    Args:
        directory (`str` or `Path`): The model's directory.
        facts (`dict`): From [`trainers.run_facts.facts`]; a release adds `license` and `gated` to its `base`.
        repo_id (`str`, *optional*): Where it will be on the Hub, if anywhere.
        tag (`str`, *optional*): The version that the lines on how to use it name.
        license (`str`, *optional*): The model's own, by the Hub's identifiers; by default what base and data leave.
        results (`Sequence[dict]`, *optional*): Of [`trainers.evaluation.results`], before and after.
        names (`Container[str]`, *optional*): What this model is called in them.
        gguf (`str`, *optional*): The file for llama.cpp, where there is one.

    Returns:
        `Path`: The card.

    Raises:
        ConfigError: For a free license where base or data forbid commercial use.
    """
    found, note = settle_license(facts, license)
    base, adapter = facts["base"], facts["adapter"]
    environment = jinja2.Environment(
        undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    environment.filters |= {"cell": cell, "fenced": lambda text, *more: fenced(text, *(more or ("text", 2000)))}
    text = environment.from_string(CARD.read_text(encoding="utf-8")).render(
        {"scores": {}, "merged_difference": None, "checkpoint": None, "max_new_tokens": 256, **facts},
        front=yaml.safe_dump(front_matter(facts, found), sort_keys=False, allow_unicode=True),
        name=repo_id or "path/to/this/folder",
        pin=f', revision="{tag}"' if repo_id and tag else "",
        title=repo_id or f"{base['name']}, fine-tuned on {facts['data']['name']}",
        base={"gated": False, "missing": False, **base},
        model_class=f"Auto{'Peft' if adapter else ''}ModelFor{CLASSES[facts['kind']]}LM",
        license_note=note,
        evaluation=scores.sections(results, names, repo_id),
        gguf=gguf,
        listed=LISTED,
        as_list=as_list,
    )
    card = Path(directory) / "README.md"
    card.write_text(text, encoding="utf-8")
    return card


def front_matter(facts: dict, license: str | None) -> dict:
    """The YAML that the Hub reads: library, base, datasets, license and tags."""
    front = {"library_name": "peft" if facts["adapter"] else "transformers"}
    if facts["kind"] == "causal":
        front["pipeline_tag"] = "text-generation"
    if not facts["base"]["local"]:
        front["base_model"] = facts["base"]["name"]
        front["base_model_relation"] = "adapter" if facts["adapter"] else "finetune"
    if ids := datasets_of(facts["data"]):
        front["datasets"] = ids
    if license:
        front["license"] = license
    front["tags"] = [*TAGS[facts["kind"]], *(["lora"] if facts["adapter"] else [])]
    return front


def datasets_of(data: dict) -> list[str]:
    """The datasets on the Hub: the one that was loaded, and those it was built from."""
    built_from = [one["name"] for one in data["sources"] if one["name"].count("/") == 1 and one["revision"]]
    return list(dict.fromkeys([*([] if data["local"] else [data["name"]]), *built_from]))


def settle_license(facts: dict, license: str | None) -> tuple[str | None, str]:
    """The license that the front matter states, and the sentence in the card on what may not be done.

    Weights made from data that is not for commercial use are not for commercial use either.
    """
    data, base = facts["data"], facts["base"].get("license")
    stated = [*as_list(data["license"]), *(one["license"] for one in data["sources"] if one["license"])]
    barred = [one for one in [*stated, base] if licenses.is_non_commercial(one)]
    if not barred:
        # Before a release nobody has asked for the base's license.
        silent = "license" in facts["base"] and not (license or base)
        return license or base, "No license is stated: find out what base and data allow." if silent else ""
    strictest = licenses.strictest(barred)
    if license and not licenses.is_non_commercial(license):
        raise ConfigError(
            f"license: {license} given, but base or data are under {strictest}, which forbids commercial use. Give a "
            "license that does, or leave it out."
        )
    of_data = any(licenses.is_non_commercial(one) for one in stated)
    what = "Data that this model was trained on is" if of_data else "The base model is"
    return license or strictest, f"**Not for commercial use.** {what} under `{strictest}`."


def as_list(value: str | list | None) -> list[str]:
    """`None`, one text or a list of texts -> a list."""
    return [] if not value else [value] if isinstance(value, str) else list(value)
