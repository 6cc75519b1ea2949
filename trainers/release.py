"""From a finished run to something others can load: proved, described, and pushed in one commit with a tag."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from instruct_builders import assigned_secrets, publish
from instruct_builders.errors import ConfigError, PublishError, SecretFound, did_you_mean

from . import base_model, consolidate, gguf, local_paths, model_card, run_facts, scores, staging
from .local_paths import local_name
from .merging import merge_adapter

if TYPE_CHECKING:
    from transformers import Trainer

__all__ = ["ReleaseArguments", "describe", "local_name", "merge_adapter", "push", "release", "save"]
logger = logging.getLogger(__name__)
WHAT = ("adapter", "merged", "both")


@dataclass(kw_only=True)
class ReleaseArguments:
    """What is released, and where to.

    Args:
        model_dir (`str`): `final` or `merged` of recipes/sft.py or recipes/flan_t5.py, or a checkpoint in shards.
        repo_id (`str`): "namespace/name" on the Hub.
        what (`str`, *optional*): Of an adapter "adapter" (the default), "merged" or "both"; of whole weights nothing.
        merged_repo_id (`str`, *optional*): Where the merged model goes with `what: both`.
        tag (`str`, *optional*, defaults to `"v1.0"`): Name of this version.
        private (`bool`, *optional*, defaults to `True`): Whether a new repository is private.
        replace (`bool`, *optional*, defaults to `False`): Whether a repository with something else is taken over.
        evaluations (`list[str]`, *optional*): Results of recipes/mt_bench.py and the like, of the base too.
        recipe (`str`, *optional*): The YAML of the training, for the card; by default the one the run noted down.
        base (`str`, *optional*): The base's id on the Hub, where it was trained from a local folder.
        base_revision (`str`, *optional*): Its commit.
        license (`str`, *optional*): Of the model; by default what base and data leave.
        dtype (`str`, *optional*, defaults to `"auto"`): Of the merged weights; "auto" is what the base has.
        tolerance (`float`, *optional*): See [`merging.merge_adapter`].
        gguf (`str`, *optional*): Also a file for llama.cpp, of this type; of whole or merged weights.
        output_dir (`str`, *optional*): Where the release is put together; by default `release` beside `model_dir`.
        dry_run (`bool`, *optional*, defaults to `False`): Put it together and check it, and push nothing.
    """

    model_dir: str
    repo_id: str
    what: str | None = None
    merged_repo_id: str | None = None
    tag: str = "v1.0"
    private: bool = True
    replace: bool = False
    evaluations: list[str] = field(default_factory=list)
    recipe: str | None = None
    base: str | None = None
    base_revision: str | None = None
    license: str | None = None
    dtype: str = "auto"
    tolerance: float | None = None
    gguf: str | None = None
    output_dir: str | None = None
    dry_run: bool = False


def save(trainer: Trainer, directory: str | Path) -> None:
    """Saves a trained model or adapter so that it can be released: tokenizer and generation config, but no pickles.

    Called on every process: under FSDP and ZeRO-3 each holds a part of the weights.

    Args:
        trainer (`transformers.Trainer`): After `train()`.
        directory (`str` or `Path`): Made if needed.
    """
    plugin = getattr(trainer.accelerator.state, "fsdp_plugin", None)
    if plugin is not None:  # where checkpoints are in shards, save_model would write no weights and say nothing
        plugin.set_state_dict_type("FULL_STATE_DICT")
    trainer.save_model(str(directory))
    if trainer.is_world_process_zero():
        # PEFT saves none for an adapter, and the base's own may stop on another token than the template's.
        trainer.model.generation_config.save_pretrained(directory)
        (Path(directory) / "training_args.bin").unlink(missing_ok=True)  # a pickle that tells paths and settings


def describe(directory: str | Path, facts: dict, repo_id: str | None = None) -> None:
    """Writes `training.json` and the card beside a model that was just trained."""
    run_facts.write(directory, facts)
    model_card.write(directory, facts, repo_id)


def push(directory: str | Path, repo_id: str, private: bool = True) -> publish.PublishResult:
    """Pushes a folder that [`describe`] has finished, as the recipes do at the end of a training with push_to_hub."""
    local_paths.clean_configs(Path(directory))
    local_paths.refuse(Path(directory), [Path(directory).parent])
    return publish.publish(directory, repo_id, private=private, repo_type="model")


def release(args: ReleaseArguments, show: Callable[[str], None] = logger.info) -> list[publish.PublishResult]:
    """Puts each part together beside the model, proves it, and pushes it; a second time nothing is pushed.

    Args:
        args (`ReleaseArguments`): What and where to.
        show (`Callable`, *optional*): Takes each line of what is done.

    Returns:
        `list[PublishResult]`: One for each repository.

    Raises:
        InstructError: With what is wrong and what to do; what was on the Hub is as it was.
    """
    check(args)
    model_dir = Path(args.model_dir)
    work = Path(args.output_dir) if args.output_dir else model_dir.parent / "release"
    model_dir, facts = find(model_dir, work, show)
    parts = choose(args, facts)
    results = scores.read(args.evaluations)
    needs = {"loaded": facts["adapter"], "alone": "adapter" in parts}
    facts |= {"base": base_model.settle(facts["base"], args.base, args.base_revision, **needs)}
    if args.recipe:
        facts["recipe"] = {"file": Path(args.recipe).name, "yaml": recipe(args.recipe), "flags": []}
    facts["preflight"] = local_paths.within(facts["preflight"])  # what a run noted down may name its data's folder
    refuse_credentials(facts["recipe"])
    model_card.settle_license(facts, args.license)  # before the merge, which takes long
    staged = {}
    for part, repo_id in parts.items():
        staged[part] = staging.stage(part, model_dir, work / part, args, facts, repo_id, results, show)
    return push_all(staged, parts, args, show)


def push_all(
    staged: dict[str, Path], parts: dict[str, str], args: ReleaseArguments, show: Callable[[str], None]
) -> list[publish.PublishResult]:
    """Pushes each folder to its repository, once all of the repositories are known to be places for them.

    Args:
        staged (`dict[str, Path]`): The folder of each part.
        parts (`dict[str, str]`): The repository of each part.
        args (`ReleaseArguments`), show (`Callable`): As for [`release`].

    Raises:
        [`PublishError`]: With what was published before, if anything.
    """
    if not args.dry_run:
        _check_repositories(staged, parts, args)
    pushed: list[publish.PublishResult] = []
    for part, repo_id in parts.items():
        try:
            pushed.append(_push(staged[part], repo_id, args, show))
        except PublishError as error:
            if not pushed:
                raise
            before = ", ".join(done.url for done in pushed)
            raise PublishError(
                f"{before} was published and stays; then {repo_id} failed: {error} The same command goes on there."
            ) from error
    return pushed


def _check_repositories(staged: dict[str, Path], parts: dict[str, str], args: ReleaseArguments) -> None:
    """Before the first of them is written to, each repository must be one that its part may go to."""
    for part, repo_id in parts.items():
        refuse_other_content(repo_id, run_facts.read(staged[part]), args.replace)
    if len(parts) > 1:
        for part, repo_id in parts.items():
            publish.check_target(staged[part], repo_id, args.private, args.tag, repo_type="model")


def check(args: ReleaseArguments) -> None:
    """What can be known to fail before anything is read."""
    if args.what is not None and args.what not in WHAT:
        raise ConfigError(f"what: {args.what!r} given; {', '.join(WHAT)} are allowed.{did_you_mean(args.what, WHAT)}")
    if args.what == "both" and not args.merged_repo_id:
        raise ConfigError("what: both needs merged_repo_id: the adapter goes to repo_id, the merged model there.")
    if args.merged_repo_id and (args.what != "both" or args.merged_repo_id == args.repo_id):
        raise ConfigError("merged_repo_id goes with what: both, and is another repository than repo_id.")
    if args.tolerance is not None and not args.tolerance > 0:
        raise ConfigError(f"tolerance: {args.tolerance} given; a share of the largest logit above 0 is allowed.")
    if args.gguf:
        gguf.check(args.gguf)
    if not Path(args.model_dir).is_dir():
        raise ConfigError(
            f"model_dir: {args.model_dir} is no folder. Give what recipes/sft.py wrote, such as .../final."
        )
    if args.recipe and not Path(args.recipe).is_file():
        raise ConfigError(f"recipe: {args.recipe} is no file. Give the YAML of the training, or leave it out.")
    scores.check_given(args.evaluations)
    for repo_id in filter(None, (args.repo_id, args.merged_repo_id)):
        publish.check_arguments(repo_id, "model", args.tag)
        if not args.dry_run:
            publish.check_before(repo_id, "model", args.tag)


def find(model_dir: Path, work: Path, show: Callable[[str], None]) -> tuple[Path, dict]:
    """The folder of whole weights, and what is known of its run; a checkpoint in shards is put together first."""
    if consolidate.kind(model_dir) is None:
        return model_dir, run_facts.read(model_dir)
    final = model_dir.parent / "final"
    facts = run_facts.read(final) | {"checkpoint": model_dir.name}
    whole = work / f"{model_dir.name}-whole"
    shutil.rmtree(whole, ignore_errors=True)
    consolidate.consolidate(model_dir, whole, like=final)
    show(f"put the shards of {model_dir.name} together")
    return whole, facts


def recipe(path: str) -> str:
    """The text of a training's YAML without the local paths in it."""
    try:
        return local_paths.without(Path(path).read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        said = " ".join(str(error).split())
        raise ConfigError(f"recipe: {path} is not valid YAML: {said}. Give the YAML of the training.") from error


def refuse_credentials(recipe: dict | None) -> None:
    """A recipe goes into the card whole: none of its keys, or comments, may give a credential a value.

    Raises:
        [`SecretFound`]: With the lines.
    """
    if recipe is None:
        return
    found = [str(one) for one in assigned_secrets.of_recipe(recipe["yaml"], recipe["file"])]
    flags, hidden = recipe["flags"], assigned_secrets.hidden_flags(recipe["flags"])
    places = [place for place, word in enumerate(flags) if word != hidden[place]]
    found += [
        f"flags: {flags[place].partition('=')[0] if '=' in flags[place] else flags[place - 1]}" for place in places
    ]
    if found:
        shown = "\n  ".join(found)
        raise SecretFound(
            f"recipe: nothing was published, {len(found)} places look like credentials:\n  {shown}\nGive `recipe:` a "
            "YAML without them, and credentials in the environment; one that was shown to others should be revoked."
        )


def choose(args: ReleaseArguments, facts: dict) -> dict[str, str]:
    """`{part: repository}` of what is to be pushed: "adapter", "merged" or "full"."""
    if not facts["adapter"]:
        if args.what is not None:
            raise ConfigError(f"what: {args.what} given, but {args.model_dir} holds whole weights. Leave what out.")
        return {"full": args.repo_id}
    what = args.what or "adapter"
    if args.gguf and what == "adapter":
        raise ConfigError("gguf: an adapter alone can't be converted. Add `what: merged` or `what: both`.")
    both = {"adapter": args.repo_id, "merged": args.merged_repo_id}
    return both if what == "both" else {what: args.repo_id}


def refuse_other_content(repo_id: str, facts: dict, replace: bool) -> None:
    """A repository that holds no release of this model is not written to.

    A release of the same base on the same data, as an adapter or not as before, is a new version of the same model. A
    dataset of the Hub may have a new revision by then; of local data only the digest tells whether it is the same.

    Raises:
        [`PublishError`]: If it holds something else, and `replace` is not true.
    """
    files, content = publish.read_published(repo_id, run_facts.FILE)
    if not files or replace:
        return
    try:
        there = json.loads(content or b"{}")
    except ValueError:
        there = {}  # a file of that name, but not ours
    there = there if isinstance(there, dict) else {}
    marks = ["kind", "adapter", ("base", "name"), ("data", "name")]
    marks += [("data", "revision")] if facts["data"]["local"] else []
    if all(_at(there, mark) == _at(facts, mark) for mark in marks):
        return
    holds = f"{len(files)} files, such as {files[0]}, of something else"
    if _at(there, ("base", "name")):
        what = "an adapter" if there.get("adapter") else "a model"
        revision = _at(there, ("data", "revision"))
        holds = f"{what} of {_at(there, ('base', 'name'))} trained on {_at(there, ('data', 'name'))}"
        holds += f" ({revision}; here {_at(facts, ('data', 'revision'))})" if _at(there, ("data", "local")) else ""
    raise PublishError(
        f"{repo_id} exists and holds {holds}; nothing was published. Give another repo_id, or `replace: true` to make "
        "it this model (its earlier commits stay in its history)."
    )


def _at(facts: dict, mark: str | tuple[str, str]) -> object:
    found: object = facts
    for key in [mark] if isinstance(mark, str) else mark:
        found = found.get(key) if isinstance(found, dict) else None
    return found


def _push(folder: Path, repo_id: str, args: ReleaseArguments, show: Callable[[str], None]) -> publish.PublishResult:
    done = publish.publish(
        folder, repo_id, private=args.private, tag=args.tag, repo_type="model", dry_run=args.dry_run
    )
    size = sum((folder / name).stat().st_size for name in done.files)
    listed = f"{len(done.files)} files, {size / 2**20:,.1f} MiB"
    if args.dry_run:
        show(f"put together in {folder}")
        show(f"would publish {repo_id} ({listed}): " + ", ".join(done.files))
    elif done.committed:
        show(f"published {done.url} ({listed}, {'private' if done.private else 'public'}, commit {done.commit[:12]})")
    else:
        show(f"already published: {done.url} (commit {done.commit[:12]})")
    return done
