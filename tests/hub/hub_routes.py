"""What the loopback Hub answers about users, repositories, branches and tags. `h` is the request at hand."""

from __future__ import annotations

import json

import yaml
from hub_store import HubStore, Refused


def front_matter(card: str) -> dict:
    """The YAML between the first two `---` lines of a README.md; empty where there is none."""
    parts = card.split("---\n", 2)
    return (yaml.safe_load(parts[1]) or {}) if len(parts) == 3 and not parts[0] else {}


def _card(store: HubStore, files: dict[str, dict]) -> dict:
    if "README.md" not in files:
        return {}
    return front_matter(store.blob(files["README.md"]["sha256"]).read_text())


def whoami(h):
    if h.user is None:
        raise Refused(401, "Invalid username or password.")
    orgs = [{"name": org} for org, members in h.hub.orgs.items() if h.user in members]
    h.json({"type": "user", "name": h.user, "fullname": h.user, "orgs": orgs, "auth": {}})


def _named_repo(h) -> tuple[str, str, dict]:
    asked = json.loads(h.body)
    repo = f"{asked.get('organization') or h.user}/{asked['name']}"
    if not h.hub.may_write(h.user, repo):
        raise Refused(403 if h.user else 401, f"You don't have the rights to create or delete {repo}")
    return asked.get("type") or "model", repo, asked


def create_repo(h):
    kind, repo, asked = _named_repo(h)
    answer = {"url": f"{h.hub.url}/{'datasets/' if kind == 'dataset' else ''}{repo}", "name": repo, "id": repo}
    if h.hub.store.repo(kind, repo):
        return h.json({**answer, "error": f"You already created this {kind} repo"}, 409)
    h.hub.store.create_repo(kind, repo, private=asked.get("visibility") == "private")
    h.json(answer)


def delete_repo(h):
    kind, repo, _ = _named_repo(h)
    h.repo(kind, repo, write=True)
    h.hub.store.delete_repo(kind, repo)
    h.json({})


def settings(h, kind, repo):
    found, asked = h.repo(kind, repo, write=True), json.loads(h.body)
    if "visibility" in asked:
        found["private"] = asked["visibility"] == "private"
    found["gated"] = asked.get("gated", found["gated"])
    h.hub.store.save_repo(found)
    h.json({"private": found["private"], "gated": found["gated"]})


def list_repos(h, kind):
    hub, wanted = h.hub, h.query.get("filter", [])
    seen = [r for r in hub.store.repos(kind) if not r["private"] or hub.may_write(h.user, r["id"])]
    described = [_describe(h, repo, "main") for repo in seen]
    h.json([r for r in described if set(wanted) <= set(r["tags"])])


def _describe(h, repo: dict, revision: str) -> dict:
    store = h.hub.store
    sha = store.resolve(repo["type"], repo["id"], revision)
    commit = store.read_commit(sha)
    card = _card(store, commit["files"])
    # The Hub turns `datasets: [a/b]` of a model card into the tag `dataset:a/b`, and so on.
    tags = [*card.get("tags", []), *(f"dataset:{name}" for name in card.get("datasets", []))]
    return {
        **{"_id": sha[:24], "id": repo["id"], "author": repo["id"].split("/")[0], "sha": sha},
        **{"private": repo["private"], "gated": repo["gated"], "disabled": False, "downloads": 0, "likes": 0},
        **{"lastModified": commit["date"], "createdAt": commit["date"], "tags": tags, "cardData": card},
        "siblings": [{"rfilename": path} for path in sorted(commit["files"])],
    }


def info(h, kind, repo, rev):
    h.json(_describe(h, h.repo(kind, repo), rev or "main"))


def validate_yaml(h):
    try:
        front_matter(json.loads(h.body)["content"])
    except yaml.YAMLError as error:
        return h.json({"errors": [{"message": str(error)}], "warnings": []}, 400)
    h.json({"errors": [], "warnings": []})


def refs(h, kind, repo):
    found = h.repo(kind, repo)["refs"]
    groups = {"branches": "refs/heads/", "tags": "refs/tags/", "pullRequests": "refs/pr/"}
    answer = {
        group: [
            {"name": ref.removeprefix(prefix), "ref": ref, "targetCommit": sha}
            for ref, sha in found.items()
            if ref.startswith(prefix)
        ]
        for group, prefix in groups.items()
    }
    h.json({**answer, "converts": []})


def commits(h, kind, repo, rev):
    h.repo(kind, repo)
    history = h.hub.store.commits(kind, repo, rev)
    keys = [{"id": c["id"], "title": c["title"], "message": "", "date": c["date"]} for c in history]
    h.json([{**k, "authors": [{"user": c["author"]}]} for k, c in zip(keys, history, strict=True)])


def _set_ref(h, kind, repo, ref, start):
    h.repo(kind, repo, write=True)
    store = h.hub.store
    store.set_ref(kind, repo, ref, store.resolve(kind, repo, start))
    h.json({})


def branch(h, kind, repo, rev):
    _set_ref(h, kind, repo, f"refs/heads/{rev}", (json.loads(h.body or b"{}")).get("startingPoint", "main"))


def tag(h, kind, repo, rev):
    _set_ref(h, kind, repo, f"refs/tags/{json.loads(h.body)['tag']}", rev)


def delete_branch(h, kind, repo, rev, group="heads"):
    h.repo(kind, repo, write=True)
    h.hub.store.delete_ref(kind, repo, f"refs/{group}/{rev}")
    h.json({})


def delete_tag(h, kind, repo, rev):
    delete_branch(h, kind, repo, rev, group="tags")
