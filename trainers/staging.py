"""The folder that is pushed: put together from a run, cleaned of what may not leave, and proved to load and answer."""

from __future__ import annotations

import fnmatch
import json
import logging
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from instruct_builders.errors import BuildError
from instruct_builders.outgoing import LEFT_OUT

from . import base_model, gguf, local_paths, merging, model_card, proof, run_facts, scores

if TYPE_CHECKING:
    from .release import ReleaseArguments

logger = logging.getLogger(__name__)
# Pickles, what is written anew, and what a trainer keeps for itself.
STAYS = (*LEFT_OUT, "README.md", run_facts.FILE, "run.json", "trainer_state.json", "COMPLETE.json", ".*")
RELEASED = "released_as"  # in training.json: the repository that a folder was made for


def stage(
    part: str,
    model_dir: Path,
    folder: Path,
    args: ReleaseArguments,
    facts: dict,
    repo_id: str,
    results: Sequence[dict],
    show: Callable[[str], None],
) -> Path:
    """Makes the folder that is pushed, and proves that it can be loaded and answers.

    Args:
        part (`str`): "adapter", "merged" or "full".
        model_dir (`Path`): The trained adapter or model.
        folder (`Path`): To be made; an earlier release in it is replaced, and nothing else.
        args (`ReleaseArguments`): What the release was asked for.
        facts (`dict`): From [`run_facts.read`], with the settled base.
        repo_id (`str`): Where it goes.
        results (`Sequence[dict]`): From [`scores.read`].
        show (`Callable`): Takes each line of what is done.

    Raises:
        InstructError: If it can't be made, or must not leave.
    """
    if folder.exists():
        # A run's own `merged` looks much the same, and must never be taken for a release that may go.
        if not (folder / run_facts.FILE).is_file() or RELEASED not in run_facts.read(folder):
            raise BuildError(f"output_dir: {folder} is there and no earlier release. Give another output_dir.")
        shutil.rmtree(folder)
    partial = folder.with_name(f".{folder.name}.incomplete")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    facts = {**facts, "adapter": part == "adapter", RELEASED: repo_id}
    if part == "merged":
        facts["merged_difference"] = _merge(model_dir, partial, args, facts)
        show(f"merged: largest difference {facts['merged_difference']:.1e} of the largest logit")
    else:
        _copy(model_dir, partial)
    if part == "adapter":
        _name_base(partial / "adapter_config.json", facts["base"])
    local_paths.clean_configs(partial)
    if line := proof.settle_stops(partial, facts["kind"]):
        show(line)
    names = {local_paths.local_name(one) for one in (model_dir, model_dir.with_name("merged"), folder)} | {repo_id}
    if results and not any(scores.is_own(one, names) for one in results):
        show(f"warning: none of the evaluations is of this model, which they would call {' or '.join(sorted(names))}")
    said = proof.answers(partial, facts["kind"], facts["adapter"])
    show(f"{part}: loaded, and it answers")
    facts["samples"] = facts["samples"] or scores.samples(results, names) or said
    converted = None
    if args.gguf and part != "adapter":
        converted = f"{repo_id.split('/')[1]}-{args.gguf.upper()}.gguf"
        gguf.convert(partial, partial / converted, args.gguf)
        show(f"converted to {converted}")
    for path in scores.write(partial, results, names):
        show(f"{part}: a score for the Hub's leaderboards in {path}")
    run_facts.write(partial, facts)
    told = {"tag": args.tag, "license": args.license, "results": results, "names": names, "gguf": converted}
    model_card.write(partial, facts, repo_id, **told)
    local_paths.refuse(partial, [model_dir.parent, folder.parent])
    partial.rename(folder)
    return folder


def _copy(model_dir: Path, folder: Path) -> None:
    """The model's own files; weights as hard links where the disk has them."""
    for path in sorted(model_dir.iterdir()):
        if not path.is_file() or any(fnmatch.fnmatch(path.name, pattern) for pattern in STAYS):
            continue
        if path.suffix == ".safetensors":
            try:
                os.link(path, folder / path.name)
                continue
            except OSError:
                logger.debug("%s is copied: this disk makes no hard links", path.name)
        shutil.copyfile(path, folder / path.name)


def _name_base(config: Path, base: dict) -> None:
    """The adapter's configuration says which base on the Hub it is for, and at which commit."""
    content = json.loads(config.read_text(encoding="utf-8"))
    content |= {"base_model_name_or_path": base["name"], "revision": base["revision"]}
    config.write_text(json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")


def _merge(model_dir: Path, folder: Path, args: ReleaseArguments, facts: dict) -> float:
    base = facts["base"]
    where = base["name"]
    if base["local"]:
        where = merging.read_adapter(model_dir, None, None)[1]
        base_model.check_unmoved(where, base)
    merge = merging.merge_adapter
    if facts["kind"] == "seq2seq":
        from . import seq2seq_release  # which imports what imports this

        merge = seq2seq_release.merge_adapter
    return merge(model_dir, folder, where, args.dtype, args.tolerance, base["revision"])
