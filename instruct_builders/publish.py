"""A directory becomes one commit on the Hub, then a tag. Either all of it is there or the branch is as it was.

`push_to_hub` and `upload_folder` make several commits of a large directory and do not retry a commit that the Hub
refused for a moment; here everything goes through one `create_commit`, which is planned anew before each attempt.
"""

from __future__ import annotations

import email.utils
import logging
import os
import random
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from .errors import PublishError
from .generate import demo_data
from .outgoing import difference, list_files, other_folders, refuse_secrets

logger = logging.getLogger(__name__)

RETRIED = (408, 409, 412, 425, 429, 500, 502, 503, 504)  # HTTP status: another try may succeed
MAX_WAIT = 300.0  # seconds; a server that wants more is told to the user instead


@dataclass(frozen=True)
class PublishResult:
    """What was published.

    Args:
        url (`str`): Address of the repository, at the tag where there is one.
        commit (`str` or `None`): Sha of the commit that holds the directory; `None` after a dry run.
        tag (`str` or `None`): The tag that points at it.
        files (`list[str]`): Every published file, as its path in the repository.
        left_out (`list[str]`): Files of the directory that were not published: pickles, hidden and half-written ones.
        deleted (`list[str]`): Files of an older version that this commit deleted.
        committed (`bool`): Whether a commit was made; False where the Hub had this very content.
        created (`bool`): Whether the repository is new.
        private (`bool`): Whether the repository is private.
    """

    url: str
    commit: str | None
    tag: str | None
    files: list[str]
    left_out: list[str] = field(default_factory=list)
    deleted: list[str] = field(default_factory=list)
    committed: bool = False
    created: bool = False
    private: bool = True


@dataclass(frozen=True)
class _Target:
    """Where to: what every step needs to talk to the Hub."""

    api: object  # huggingface_hub.HfApi
    repo: dict[str, str]  # repo_id and repo_type, as every method of HfApi takes them
    branch: str
    max_attempts: int
    first_wait: float
    replace: bool


def publish(
    directory: str | os.PathLike,
    repo_id: str,
    private: bool = True,
    tag: str | None = None,
    *,
    repo_type: str = "dataset",
    commit_message: str | None = None,
    token: str | None = None,
    revision: str = "main",
    max_attempts: int = 5,
    first_wait: float = 1.0,
    dry_run: bool = False,
    replace: bool = False,
    allow_demo_data: bool = False,
) -> PublishResult:
    """Publishes a built dataset or a released model: every file searched for credentials, one commit, then the tag.

    Args:
        directory (`str` or `os.PathLike`): What to publish; it needs a README.md.
        repo_id (`str`): "namespace/name".
        private (`bool`, *optional*, defaults to `True`): Whether a new repository is private. One that exists and is
            public is an error with `private=True`; one that is private stays so.
        tag (`str`, *optional*): Name for this version. One that points at other content is an error.
        repo_type (`str`, *optional*, defaults to `"dataset"`): "dataset" or "model".
        commit_message (`str`, *optional*): Title of the commit; defaults to "Publish <tag>".
        token (`str`, *optional*): Defaults to `HF_TOKEN` or what `hf auth login` stored; it is never shown.
        revision (`str`, *optional*, defaults to `"main"`): Branch to commit to; made from main where it is missing.
        max_attempts (`int`, *optional*, defaults to 5): How often each step is tried while the Hub answers that it is
            busy (409, 412, 429, 5xx) or the connection breaks.
        first_wait (`float`, *optional*, defaults to 1.0): Seconds before the second attempt; doubled each time, plus
            chance, and never less than the Hub's `Retry-After`.
        dry_run (`bool`, *optional*, defaults to `False`): Search and list only, without any request to the Hub.
        replace (`bool`, *optional*, defaults to `False`): Whether data of other configurations in the repository may
            be deleted; the card of this directory would no longer name it.
        allow_demo_data (`bool`, *optional*, defaults to `False`): Whether rows that the scripted demo server wrote,
            and no language model, may be published.

    Returns:
        [`PublishResult`]: Where it is, and what was sent, left out and deleted.

    Raises:
        [`SecretFound`]: If a file holds something like a credential; no request was made.
        [`PublishError`]: If it can't be published.
    """
    from huggingface_hub import HfApi, get_token

    _check_arguments(repo_id, repo_type, tag, max_attempts)
    files, left_out = list_files(Path(directory))
    for name in left_out:
        expected = name == "rejected.jsonl"  # every build has one
        logger.log(
            logging.INFO if expected else logging.WARNING,
            "%s is not published: a pickle, hidden, half-written, or rejected rows",
            name,
        )
    if not allow_demo_data and (found := demo_data.find(files)):
        raise PublishError(
            f"{found} holds rows of {demo_data.DEMO_MODEL}, which no language model wrote, and nothing was published: "
            "generate them with a model, or say allow_demo_data=True (allow_demo_data: true in a recipe)."
        )
    token = token or get_token()
    refuse_secrets(Path(directory), files, token)
    api = HfApi(token=token)
    url = f"{api.endpoint}/{'datasets/' if repo_type == 'dataset' else ''}{repo_id}"
    if dry_run:
        return PublishResult(url, None, tag, list(files), left_out, private=private)
    _check_token(token, repo_id)
    target = _Target(api, {"repo_id": repo_id, "repo_type": repo_type}, revision, max_attempts, first_wait, replace)
    message = commit_message or (f"Publish {tag}" if tag else "Publish")

    is_private, created = _retry(target, lambda: _open_repo(target, private), "nothing was published")
    known = _retry(target, lambda: _refs(target), "nothing was published")
    deleted: set[str] = set()
    commit = _retry(target, lambda: _commit(target, files, tag, message, deleted), "nothing was published")
    if tag is not None:
        _retry(target, lambda: _set_tag(target, tag, commit), f"published as commit {commit}, but without its tag")
        url = f"{url}/tree/{tag}"
    committed = commit not in known.values()
    return PublishResult(url, commit, tag, list(files), left_out, sorted(deleted), committed, created, is_private)


def check_before(repo_id: str, repo_type: str = "dataset", tag: str | None = None) -> None:
    """What can be known to fail before any work is done: a name that is none, or no token. Asks the Hub nothing.

    Raises:
        [`PublishError`]: As [`publish`] would, after hours of building or training.
    """
    from huggingface_hub import get_token

    _check_arguments(repo_id, repo_type, tag, max_attempts=1)
    _check_token(get_token(), repo_id)


def _check_token(token: str | None, repo_id: str) -> None:
    if token is None:
        raise PublishError(
            f"no token for the Hub, so {repo_id} can't be published: run `hf auth login`, or set the environment "
            "variable HF_TOKEN to a token with write permission."
        )


def _check_arguments(repo_id: str, repo_type: str, tag: str | None, max_attempts: int) -> None:
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


# ---- the steps; each may be tried again from its start ----
def _open_repo(target: _Target, private: bool) -> tuple[bool, bool]:
    """Makes the repository and the branch where they are missing; (is private, is new)."""
    from huggingface_hub.errors import RepositoryNotFoundError

    name, created = target.repo["repo_id"], False
    try:
        info = target.api.repo_info(**target.repo)
    except RepositoryNotFoundError:
        target.api.create_repo(**target.repo, private=private, exist_ok=True)
        info, created = target.api.repo_info(**target.repo), True
    if private and not info.private:
        raise PublishError(
            f"{name} exists and is public, and private=True was asked for: pass private=False if everybody may see "
            "this, or make the repository private in its settings on the Hub."
        )
    if info.private and not private:
        logger.warning("%s exists and is private; it stays private", name)
    if target.branch != "main":
        target.api.create_branch(**target.repo, branch=target.branch, exist_ok=True)
    return bool(info.private), created


def _refs(target: _Target) -> dict[str, str]:
    """`{"refs/heads/main": sha, "refs/tags/v1": sha, ...}`"""
    refs = target.api.list_repo_refs(**target.repo)
    return {ref.ref: ref.target_commit for ref in [*refs.branches, *refs.tags]}


def _commit(target: _Target, files: dict[str, Path], tag: str | None, message: str, deleted: set[str]) -> str:
    """Commits what differs from the branch's head, on top of that very head; returns the sha that holds `files`."""
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    refs = _refs(target)
    head, tagged = refs.get(f"refs/heads/{target.branch}"), refs.get(f"refs/tags/{tag}") if tag else None
    if head is None:
        raise PublishError(f"{target.repo['repo_id']} has no branch {target.branch!r}: make it, or publish to main.")
    changed, stale = difference(files, _remote_files(target, tagged or head))
    foreign = other_folders(files, stale)
    if foreign and not target.replace:
        raise PublishError(
            f"{target.repo['repo_id']} holds data in {', '.join(foreign)}, which this directory lacks, and publishing "
            "it would delete that: give another repo_id, or replace=True (replace: true in a recipe)."
        )
    if tagged and (changed or stale):
        delete = "hf repos tag delete {repo_id} {tag} --type {repo_type}".format(tag=tag, **target.repo)
        raise PublishError(
            f"the tag {tag!r} of {target.repo['repo_id']} already names other content (commit {tagged[:12]}), and "
            f"nothing was published: choose another tag, or delete that one first with `{delete}`."
        )
    if tagged and tagged != head:
        logger.warning("the tag %r holds this content already; %s has moved on and stays", tag, target.branch)
    if not changed and not stale:
        return tagged or head
    operations = [CommitOperationAdd(name, str(files[name])) for name in changed]
    operations += [CommitOperationDelete(name, is_folder=False) for name in stale]
    deleted.update(stale)
    info = target.api.create_commit(
        **target.repo,
        operations=operations,
        commit_message=message,
        revision=target.branch,
        parent_commit=head,  # somebody else's commit in between is answered by 412, and planned anew
    )
    missing = sorted(set(files) - set(_remote_files(target, info.oid)))
    if missing:  # a .gitignore in the repository makes the client skip files without an error
        raise PublishError(f"commit {info.oid[:12]} lacks {missing}, and no tag was set: remove the .gitignore there.")
    return info.oid


def _set_tag(target: _Target, tag: str, commit: str) -> None:
    tagged = _refs(target).get(f"refs/tags/{tag}")
    if tagged is None:
        target.api.create_tag(**target.repo, tag=tag, revision=commit)
    elif tagged != commit:
        raise PublishError(
            f"published as commit {commit[:12]}, but meanwhile somebody set the tag {tag!r} to {tagged[:12]}: publish "
            "again with another tag."
        )


def _remote_files(target: _Target, commit: str) -> dict[str, str]:
    """`{path: digest}` at one commit: sha256 of an LFS file, git's sha1 of any other."""
    from huggingface_hub.hf_api import RepoFile

    tree = target.api.list_repo_tree(**target.repo, revision=commit, recursive=True)
    return {e.path: e.lfs.sha256 if e.lfs else e.blob_id for e in tree if isinstance(e, RepoFile)}


# ---- failing and trying again ----
def _retry(target: _Target, step: Callable, outcome: str):
    """Runs `step` until it succeeds, is refused for good, or has been tried often enough."""
    import httpx2  # what huggingface_hub speaks HTTP with
    from huggingface_hub.errors import HfHubHTTPError

    for attempt in range(1, target.max_attempts + 1):
        try:
            return step()
        except (HfHubHTTPError, httpx2.HTTPError, OSError, RuntimeError, ValueError) as error:
            causes = list(_causes(error))
            refused = next((e for e in causes if isinstance(e, HfHubHTTPError)), None)
            broken = next((e for e in causes if isinstance(e, (httpx2.TransportError, ConnectionError))), None)
            status = refused.response.status_code if refused is not None else None
            temporary = broken is not None or status in RETRIED
            wait = max(target.first_wait * 2 ** (attempt - 1) * random.uniform(1, 1.5), _asked_wait(refused))
            what = _what(error, refused, broken)
            if not temporary or attempt == target.max_attempts or wait > MAX_WAIT:
                if temporary and (status is None or status >= 500):
                    outcome += ", as far as is known"  # the deed may have been done, and its answer lost
                tries = f" after {attempt} attempts" if attempt > 1 else ""
                advice = _advice(target, status, temporary, wait, what)
                raise PublishError(f"{target.repo['repo_id']}: {outcome}{tries} ({what}){advice}.") from error
            logger.warning("%s; attempt %d of %d in %.1f s", what, attempt + 1, target.max_attempts, wait)
            time.sleep(wait)


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__


def _asked_wait(refused) -> float:
    """Seconds that the Hub asks to wait: `Retry-After` (seconds or a date), or the end of the rate limit's window."""
    from huggingface_hub.utils import parse_ratelimit_headers

    if refused is None:
        return 0.0
    asked = refused.response.headers.get("retry-after", "").strip()
    limit = parse_ratelimit_headers(refused.response.headers)
    if asked.isdigit():
        return float(asked)
    if (date := email.utils.parsedate_tz(asked)) is not None:
        return email.utils.mktime_tz(date) - datetime.now(UTC).timestamp()
    return float(limit.reset_in_seconds) if limit is not None and limit.remaining == 0 else 0.0


def _what(error: BaseException, refused, broken: BaseException | None) -> str:
    if broken is not None:
        return f"the connection broke: {broken}"
    if refused is None:
        return f"{type(error).__name__}: {error}"
    # The text of an HTTP error can hold a signed upload address: only the server's own words are repeated.
    words = f"HTTP {refused.response.status_code}: {refused.server_message or 'no reason given'}"
    return words if error is refused else f"{error} {words}"


def _advice(target: _Target, status: int | None, temporary: bool, wait: float, what: str) -> str:
    if "xet" in what:
        return ": where the server has no xet storage, set HF_HUB_DISABLE_XET=1 and publish again"
    by_status = {
        401: ": the token is not valid, run `hf auth login` again, or set HF_TOKEN to a valid token",
        403: f": the token may not write to {target.repo['repo_id']!r}, use one with write permission there",
        404: ": check the name, and what the token may see",
        412: ": somebody else keeps committing to this branch, publish again when they are done",
        429: f": too many requests, publish again in {wait:.0f} seconds",
    }
    return by_status.get(status, ": publish again, what has arrived is not sent twice" if temporary else "")
