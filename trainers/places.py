"""What a run is given by name, a folder here or a repository of the Hub: told apart before a library guesses.

The libraries take any path that is not there for a Hub id, and where the Hub can't be reached they ask it for half a
minute per file.
"""

from __future__ import annotations

import os
from pathlib import Path

from instruct_builders.errors import SourceError, did_you_mean
from instruct_builders.sources import is_data_file

MAKE = {"model": "the folder of a model", "dataset": "a directory made by recipes/build.py, a file"}


def check(name: str, key: str, kind: str = "model", revision: str | None = None) -> None:
    """Whether there is such a folder, file or repository; one that is in the cache already is not asked for.

    Args:
        name (`str`): As it was given.
        key (`str`): What the recipe calls it, for the message.
        kind (`str`, *optional*, defaults to `"model"`): Or `"dataset"`.
        revision (`str`, *optional*): Of a repository.

    Raises:
        SourceError: If there is none, or the Hub can't be asked.
    """
    if not name or Path(name).exists() or "://" in name:
        return
    give = f"Give {MAKE[kind]}, or a Hub id (org/name)."
    near = did_you_mean(Path(name).name, _beside(name))
    if name.startswith(("/", ".", "~")) or name.count("/") > 1 or is_data_file(name):
        raise SourceError(f"{key}: there is no folder or file {name!r}.{near} {give}")
    if not _cached(name, kind):
        _ask_the_hub(name, key, kind, revision, f"{near} {give}")


def _beside(name: str) -> list[str]:
    """What lies where the name points to, for somebody who has misspelt it."""
    folder = Path(name).parent
    return sorted(os.listdir(folder)) if folder.is_dir() and os.access(folder, os.R_OK) else []


def _cached(name: str, kind: str) -> bool:
    """Whether a library could do without the Hub."""
    import datasets
    from huggingface_hub import constants

    folders = [Path(constants.HF_HUB_CACHE, f"{kind}s--{name.replace('/', '--')}")]
    if kind == "dataset":
        folders.append(Path(datasets.config.HF_DATASETS_CACHE, name.replace("/", "___")))
    return any(folder.is_dir() for folder in folders)


def _ask_the_hub(name: str, key: str, kind: str, revision: str | None, advice: str) -> None:
    import httpx2
    from huggingface_hub import HfApi
    from huggingface_hub.errors import (
        HfHubHTTPError,
        HFValidationError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        HfApi().repo_info(name, revision=revision, repo_type=kind)
    except RevisionNotFoundError as error:
        raise SourceError(f"{key}: {name} has no revision {revision!r} on the Hub.") from error
    except HFValidationError as error:
        raise SourceError(f"{key}: there is no folder or file {name!r}, and no Hub id looks so.{advice}") from error
    except RepositoryNotFoundError as error:
        raise SourceError(
            f"{key}: there is no folder {name!r} here, and no {kind} of that name on the Hub that can be seen (a "
            f"private one needs HF_TOKEN).{advice}"
        ) from error
    except HfHubHTTPError:
        return  # it answers, but not now or not this: the library tries again, and tells why
    except (httpx2.HTTPError, OSError) as error:
        raise SourceError(
            f"{key}: there is no folder {name!r} here, and the Hub can't be reached to look for a {kind} of that name "
            f"({error}).{advice}"
        ) from error
