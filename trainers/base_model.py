"""Which base a model was trained from, and whether that base is still what it was."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

from instruct_builders.errors import ConfigError, SourceError

SHA = r"[0-9a-f]{40}"


def digest(folder: str | Path) -> str | None:
    """`sha256:` and 64 hex digits of a folder's weights: names, shapes, types and values, however they are sharded.

    Reads every byte once, about a second for each gigabyte. `None` where there are no safetensors.
    """
    import torch
    from safetensors import safe_open

    places = {}
    for path in sorted(Path(folder).glob("*.safetensors")):
        with safe_open(path, "pt") as file:
            places |= dict.fromkeys(file.keys(), path)
    found, opened = hashlib.sha256(), {}
    for name in sorted(places):
        path = places[name]
        file = opened.setdefault(path, safe_open(path, "pt"))
        tensor = file.get_tensor(name)
        found.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        found.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy())
    return f"sha256:{found.hexdigest()}" if places else None


def describe(name: str, revision: str | None) -> dict:
    """What a run notes down about its base: `name`, `local`, `revision` and, of a folder, `digest`."""
    from .local_paths import local_name

    local = Path(name).exists()
    return {
        "name": local_name(name) if local else name,
        "local": local,
        "revision": None if local else revision,
        "digest": digest(name) if local else None,
    }


def look_up(name: str, revision: str | None) -> dict:
    """A base on the Hub: `name`, `revision` (its commit), `license` and `gated`.

    Raises:
        SourceError: If it is not there, or not for this token, or has no such revision.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError

    try:
        info = HfApi().model_info(name, revision=revision)
    except RevisionNotFoundError as error:
        raise SourceError(
            f"base: {name} has no revision {revision!r} any more, so that nobody could load this model as it was "
            "trained. Ask its owner for that commit, or train again from one that is there."
        ) from error
    except RepositoryNotFoundError as error:
        raise SourceError(
            f"base: {name} is not on the Hub, or not for your token. Check the name; for a private or gated model, "
            "accept its terms and set HF_TOKEN."
        ) from error
    except (HfHubHTTPError, OSError) as error:
        refused = getattr(getattr(error, "response", None), "status_code", None) == 401
        cure = "The token is not valid: run `hf auth login` again, or set HF_TOKEN." if refused else "Try again."
        raise SourceError(f"base: the Hub could not be asked for {name}: {error} {cure}") from error
    stated = getattr(info.card_data, "license", None) if info.card_data else None
    stated = stated[0] if isinstance(stated, list) and stated else stated
    return {"name": name, "revision": info.sha, "license": stated, "gated": bool(info.gated)}


def settle(recorded: dict, base: str | None, revision: str | None, *, loaded: bool, alone: bool) -> dict:
    """The base that a release names, and proof that it is the one that was trained from.

    Args:
        recorded (`dict`): From [`describe`].
        base (`str`, *optional*): Where the base is on the Hub, of a model trained from a local folder.
        revision (`str`, *optional*): Its commit, branch or tag; by default the one that was trained from.
        loaded (`bool`): Whether the base must be there: an adapter is loaded, or merged, with it.
        alone (`bool`): Whether the adapter is published, so that others must find its base.

    Returns:
        `dict`: `name`, `local`, `revision`, `digest`, `license` and `gated`.

    Raises:
        ConfigError: If it is not told which base it is, or another than the one trained from.
        SourceError: If that base can't be found.
    """
    if not recorded["local"]:
        return _settle_hub(recorded, base, revision, loaded)
    if base is None:
        if alone:
            raise ConfigError(
                f"base: the adapter was trained from the local folder {recorded['name']!r}, which nobody else has. "
                "Give `base: name/on-the-hub` of the same weights, or release the merged model (`what: merged`)."
            )
        return {**recorded, "license": None, "gated": False}
    if Path(base).exists() or not re.fullmatch(r"[\w.-]+/[\w.-]+", base):
        raise ConfigError(f"base: {base!r} is no model on the Hub: give 'namespace/name'.")
    found = look_up(base, revision)
    there = digest(download(base, found["revision"]))
    if recorded["digest"] and there != recorded["digest"]:
        raise ConfigError(
            f"base: the weights of {base} at {found['revision'][:12]} ({_short(there)}) are not those of "
            f"{recorded['name']!r} that this model was trained from ({_short(recorded['digest'])}). Give the base it "
            "was trained from, or train again."
        )
    return {**found, "local": False, "digest": there}


def _settle_hub(recorded: dict, base: str | None, revision: str | None, loaded: bool) -> dict:
    name, trained = recorded["name"], recorded["revision"]
    if base not in (None, name):
        raise ConfigError(f"base: {base} given, but this model was trained from {name}. Leave `base` out.")
    pinned = bool(trained and re.fullmatch(SHA, trained))
    if loaded and not pinned and revision is None:
        raise ConfigError(
            f"base_revision: the run did not note which commit of {name} it started from. Give `base_revision: "
            "COMMIT`, if you know that it is the one."
        )
    try:
        found = look_up(name, revision or trained)
    except SourceError:
        if loaded:
            raise
        # Whole weights stand by themselves, also when their base has gone.
        return {**recorded, "license": None, "gated": False, "missing": True}
    if pinned and found["revision"] != trained:
        raise ConfigError(
            f"base_revision: {found['revision'][:12]} given, but this model was trained from commit {trained[:12]} of "
            f"{name}; on another base it would be another model. Leave base_revision out, or train again."
        )
    return {**found, "local": False, "digest": recorded["digest"]}


def download(name: str, revision: str) -> Path:
    """A base's weights and configuration in the Hub's cache.

    Raises:
        SourceError: If they may not be read, as of a gated model whose terms were not accepted.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError

    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=["*.safetensors", "*.json"]))
    except GatedRepoError as error:
        raise SourceError(gated(name)) from error
    except (HfHubHTTPError, OSError) as error:
        raise SourceError(f"base: {name} at {revision[:12]} could not be downloaded: {error}. Try again.") from error


def gated(name: str) -> str:
    return (
        f"base: {name} is gated and may not be read with this token. Accept its terms on its page at the Hub, and set "
        "HF_TOKEN to a token of that account."
    )


def check_unmoved(folder: str | Path, recorded: dict) -> None:
    """Whether a local base still has the weights that were trained from.

    Raises:
        SourceError: If they differ, or are gone.
    """
    if not Path(folder).is_dir():
        raise SourceError(
            f"base: the adapter's base {recorded['name']!r} is no longer where it was. Put it back, or give `base:` "
            "its id on the Hub."
        )
    now = digest(folder)
    if recorded["digest"] and now != recorded["digest"]:
        raise SourceError(
            f"base: the weights of {recorded['name']!r} have changed since the adapter was trained on them "
            f"({_short(recorded['digest'])} then, {_short(now)} now). Put the old ones back, or train again."
        )


def _short(value: str | None) -> str:
    return "no safetensors" if value is None else value[: len("sha256:") + 12]
