"""A directory becomes one commit on the Hub, then a tag. Either all of it is there or the branch is as it was.

`push_to_hub` and `upload_folder` make several commits of a large directory and do not retry a commit that the Hub
refused for a moment; here everything goes through one `create_commit`, which is planned anew before each attempt.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from .errors import PublishError
from .generate import demo_data
from .hub_attempts import repeat
from .hub_places import check_arguments, check_before, check_token, read_published
from .outgoing import difference, list_files, other_folders, refuse_secrets

__all__ = ["PublishResult", "check_arguments", "check_before", "check_target", "publish", "read_published"]
logger = logging.getLogger(__name__)


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

    def attempt(self, step: Callable, outcome: str = "nothing was published"):
        return repeat(step, self.repo["repo_id"], outcome, self.max_attempts, self.first_wait)


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

    check_arguments(repo_id, repo_type, tag, max_attempts)
    files, left_out = list_files(Path(directory))
    for name in left_out:
        expected = name in ("rejected.jsonl", "report.html")  # every build has them
        why = "it holds rows as they came" if expected else "a pickle, hidden, or half-written"
        logger.log(logging.INFO if expected else logging.WARNING, "%s is not published: %s", name, why)
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
    check_token(token, repo_id)
    target = _Target(api, {"repo_id": repo_id, "repo_type": repo_type}, revision, max_attempts, first_wait, replace)
    message = commit_message or (f"Publish {tag}" if tag else "Publish")

    is_private, created = target.attempt(lambda: _open_repo(target, private))
    known = target.attempt(lambda: _refs(target))
    deleted: set[str] = set()
    commit = target.attempt(lambda: _commit(target, files, tag, message, deleted))
    if tag is not None:
        target.attempt(lambda: _set_tag(target, tag, commit), f"published as commit {commit}, but without its tag")
        url = f"{url}/tree/{tag}"
    committed = commit not in known.values()
    return PublishResult(url, commit, tag, list(files), left_out, sorted(deleted), committed, created, is_private)


def check_target(
    directory: str | os.PathLike,
    repo_id: str,
    private: bool = True,
    tag: str | None = None,
    *,
    repo_type: str = "dataset",
    replace: bool = False,
) -> None:
    """What [`publish`] would refuse of this directory, or of the repository as it is now; nothing is written anywhere.

    For whoever publishes to several repositories: all are looked at before the first is written to. Arguments and
    errors are those of [`publish`].
    """
    from huggingface_hub import HfApi, get_token
    from huggingface_hub.errors import RepositoryNotFoundError

    check_arguments(repo_id, repo_type, tag)
    files, _ = list_files(Path(directory))
    refuse_secrets(Path(directory), files, get_token())
    target = _Target(HfApi(), {"repo_id": repo_id, "repo_type": repo_type}, "main", 5, 1.0, replace)

    def look() -> None:
        try:
            info = target.api.repo_info(**target.repo)
        except RepositoryNotFoundError:
            return
        _refuse_public(target, info.private, private)
        _plan(target, files, _refs(target), tag)

    target.attempt(look)


# ---- the steps; each may be tried again from its start ----
def _open_repo(target: _Target, private: bool) -> tuple[bool, bool]:
    """Makes the repository and the branch where they are missing; (is private, is new)."""
    from huggingface_hub.errors import RepositoryNotFoundError

    created = False
    try:
        info = target.api.repo_info(**target.repo)
    except RepositoryNotFoundError:
        target.api.create_repo(**target.repo, private=private, exist_ok=True)
        info, created = target.api.repo_info(**target.repo), True
    _refuse_public(target, info.private, private)
    if info.private and not private:
        logger.warning("%s exists and is private; it stays private", target.repo["repo_id"])
    if target.branch != "main":
        target.api.create_branch(**target.repo, branch=target.branch, exist_ok=True)
    return bool(info.private), created


def _refuse_public(target: _Target, is_private: bool, private: bool) -> None:
    if private and not is_private:
        raise PublishError(
            f"{target.repo['repo_id']} exists and is public, and private=True was asked for: pass private=False if "
            "everybody may see this, or make the repository private in its settings on the Hub."
        )


def _refs(target: _Target) -> dict[str, str]:
    """`{"refs/heads/main": sha, "refs/tags/v1": sha, ...}`"""
    refs = target.api.list_repo_refs(**target.repo)
    return {ref.ref: ref.target_commit for ref in [*refs.branches, *refs.tags]}


def _plan(
    target: _Target, files: dict[str, Path], refs: dict[str, str], tag: str | None
) -> tuple[str, str | None, list[str], list[str]]:
    """The branch's head, what the tag points at, what to upload and what to delete; or why it may not be."""
    head, tagged = refs.get(f"refs/heads/{target.branch}"), refs.get(f"refs/tags/{tag}") if tag else None
    if head is None:
        raise PublishError(f"{target.repo['repo_id']} has no branch {target.branch!r}: make it, or publish to main.")
    changed, stale = difference(files, _remote_files(target, tagged or head))
    foreign = other_folders(files, stale) if target.repo["repo_type"] == "dataset" else []
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
    return head, tagged, changed, stale


def _commit(target: _Target, files: dict[str, Path], tag: str | None, message: str, deleted: set[str]) -> str:
    """Commits what differs from the branch's head, on top of that very head; returns the sha that holds `files`."""
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    head, tagged, changed, stale = _plan(target, files, _refs(target), tag)
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
