"""Where something is to be published: a name, a kind, a tag and a token that can be right; and what is there."""

from __future__ import annotations

import re

from .errors import PublishError
from .hub_attempts import repeat


def check_before(repo_id: str, repo_type: str = "dataset", tag: str | None = None) -> None:
    """What can be known to fail before any work is done: a name that is none, or no token. Asks the Hub nothing.

    Raises:
        [`PublishError`]: As [`publish`] would, after hours of building or training.
    """
    from huggingface_hub import get_token

    check_arguments(repo_id, repo_type, tag)
    check_token(get_token(), repo_id)


def check_token(token: str | None, repo_id: str) -> None:
    if token is None:
        raise PublishError(
            f"no token for the Hub, so {repo_id} can't be published: run `hf auth login`, or set the environment "
            "variable HF_TOKEN to a token with write permission."
        )


def check_arguments(repo_id: str, repo_type: str = "dataset", tag: str | None = None, max_attempts: int = 1) -> None:
    """Refuses what could never be published under: a name, a kind or a tag that the Hub would not take."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    if repo_type not in ("dataset", "model"):
        raise PublishError(f"repo_type is {repo_type!r}: give 'dataset' or 'model'.")
    if tag is not None and not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", tag):
        raise PublishError(
            f"{tag!r} can't be a tag: give letters, digits, dots, dashes and underscores, as in 'v1.0'."
        )
    if max_attempts < 1:
        raise PublishError(f"max_attempts is {max_attempts}: give 1 or more.")
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise PublishError(f"{repo_id!r} is no repository id ({error}): give 'namespace/name'.") from error
    if "/" not in repo_id:
        raise PublishError(f"{repo_id!r} has no namespace: give 'your-name/{repo_id}' or 'organisation/{repo_id}'.")


def read_published(
    repo_id: str, name: str, repo_type: str = "model", revision: str = "main"
) -> tuple[list[str], bytes]:
    """What a repository holds, and the content of one of its files, without a cache in between.

    Args:
        repo_id (`str`): "namespace/name".
        name (`str`): The file to read.
        repo_type (`str`, *optional*, defaults to `"model"`): "dataset" or "model".
        revision (`str`, *optional*, defaults to `"main"`): Branch, tag or commit.

    Returns:
        `tuple[list[str], bytes]`: The files but .gitattributes, and the content; nothing of both where there is no
        repository that the token may see.

    Raises:
        [`PublishError`]: If the Hub can't be asked.
    """
    from huggingface_hub import HfApi, HfFileSystem
    from huggingface_hub.errors import RepositoryNotFoundError

    def look() -> tuple[list[str], bytes]:
        api = HfApi()
        try:
            files = api.list_repo_files(repo_id, repo_type=repo_type, revision=revision)
        except RepositoryNotFoundError:
            return [], b""
        if name not in files:
            return [file for file in files if file != ".gitattributes"], b""
        place = f"{'datasets/' if repo_type == 'dataset' else ''}{repo_id}@{revision}/{name}"
        content = HfFileSystem(skip_instance_cache=True).cat_file(place)
        return [file for file in files if file != ".gitattributes"], content

    return repeat(look, repo_id, "nothing was published")
