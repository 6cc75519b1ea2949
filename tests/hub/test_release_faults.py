"""What may go wrong while a model is released: then the last release is as it was, and the message says what to do."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest
from hub_fixtures import kill_while_uploading
from release_runs import RECIPES, from_hub, make_base, push_base, releasing, train, write_rows

from instruct_builders.errors import BuildError, ConfigError, PublishError, SecretFound, SourceError
from trainers.release import ReleaseArguments, push_all, release

pytestmark = [
    pytest.mark.xdist_group("release_faults"),  # one worker: what the module sets up is dear
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated"),  # PEFT 0.21
]


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    return make_base(tmp_path_factory.mktemp("model") / "tiny-llama")


@pytest.fixture(scope="module")
def final(base, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    return train(base, write_rows(folder / "rows.jsonl"), folder / "run", "--use_peft", "--lora_r", "4", steps=1)


def state(hub, repo_id="me/model"):
    repo = hub.store.repo("model", repo_id)
    return repo and repo["refs"]


# ---- the base ----
def test_a_base_whose_revision_is_gone(hub, base, final, tmp_path):
    push_base(base)
    gone = from_hub(final, tmp_path / "final", revision="0" * 40)
    for what in ("adapter", "merged"):
        with pytest.raises(SourceError, match=r"me/base has no revision '0{40}' any more.*train again"):
            releasing(gone, what=what)
    assert state(hub) is None


def test_a_base_that_has_moved_is_loaded_as_it_was(hub, base, final, tmp_path):
    """The adapter's commit is pinned: a later one on main changes nothing, and may not be named instead."""
    old = push_base(base)
    new = push_base(make_base(tmp_path / "newer", seed=1))
    run = from_hub(final, tmp_path / "run" / "final", revision=old)
    with pytest.raises(ConfigError, match=rf"{new[:12]} given, but this model was trained from commit {old[:12]}"):
        releasing(run, base_revision="main")
    releasing(run, what="merged", repo_id="me/merged")
    releasing(run)
    assert json.loads(hub.store.read("model", "me/model", "adapter_config.json"))["revision"] == old


def test_a_run_that_did_not_note_the_commit_of_its_base(hub, base, final, tmp_path):
    sha = push_base(base)
    run = from_hub(final, tmp_path / "run" / "final", revision="main")  # a branch, not a commit
    with pytest.raises(ConfigError, match=r"did not note which commit of me/base.*base_revision: COMMIT"):
        releasing(run)
    with pytest.raises(ConfigError, match=r"base: me/other given, but this model was trained from me/base"):
        releasing(run, base="me/other")
    releasing(run, base_revision=sha)


def test_a_base_that_is_gated_or_hidden(hub, base, final, tmp_path, monkeypatch):
    me, other = os.environ["HF_TOKEN"], hub.add_user("other")
    monkeypatch.setenv("HF_TOKEN", other)
    sha = push_base(base, "other/base")
    monkeypatch.setenv("HF_TOKEN", me)
    run = from_hub(final, tmp_path / "run" / "final", name="other/base", revision=sha)
    repo = hub.store.repo("model", "other/base")
    hub.store.save_repo(repo | {"gated": "manual"})
    for run_dir, options in ((run, {"what": "merged"}), (run, {}), (final, {"base": "other/base"})):
        with pytest.raises(SourceError, match=r"other/base is gated.*Accept its terms.*HF_TOKEN"):
            releasing(run_dir, **options)
    hub.store.save_repo(repo | {"private": True})
    with pytest.raises(SourceError, match=r"other/base is not on the Hub, or not for your token"):
        releasing(run)
    assert state(hub) is None


# ---- the Hub ----
def test_a_wrong_token_no_token_and_a_place_of_somebody_else(hub, base, final, monkeypatch):
    good = os.environ["HF_TOKEN"]
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(PublishError, match=r"no token.*hf auth login"):
        releasing(final, what="merged")
    monkeypatch.setenv("HF_TOKEN", "hf" + "_" + "0" * 34)
    with pytest.raises(PublishError, match=r"HTTP 401.*token is not valid"):
        releasing(final, what="merged")
    with pytest.raises(SourceError, match="token is not valid"):
        releasing(final, base="me/base")
    monkeypatch.setenv("HF_TOKEN", good)
    with pytest.raises(PublishError, match=r"HTTP 403.*write permission"):
        releasing(final, "stranger/model", what="merged")
    assert hub.store.repos("model") == []


@pytest.mark.parametrize("route", ["preupload", "lfs_put", "commit", "tag"])
def test_a_hub_that_fails_midway_leaves_the_last_release_and_the_next_run_completes(hub, final, tmp_path, route):
    releasing(final, what="merged")
    before = state(hub)
    changed = from_hub(final, tmp_path / "run" / "final", name="tiny-llama", local=True)
    weights = changed / "adapter_model.safetensors"
    _scale(weights)
    hub.fail_next(route, status=403)
    with pytest.raises(PublishError, match="HTTP 403"):
        releasing(changed, what="merged", tag="v2")
    after = state(hub)
    assert after["refs/tags/v1.0"] == before["refs/tags/v1.0"] and "refs/tags/v2" not in after
    if route != "tag":
        assert after == before
    releasing(changed, what="merged", tag="v2")
    assert state(hub)["refs/tags/v2"] == state(hub)["refs/heads/main"] != before["refs/heads/main"]


def _scale(path: Path) -> None:
    """Another training's result: the adapter does ten times as much."""
    from safetensors.torch import load_file, save_file

    tensors = {name: tensor * (10 if "lora_B" in name else 1) for name, tensor in load_file(path).items()}
    save_file(tensors, path, {"format": "pt"})


def test_killed_while_it_uploads_and_run_again(hub, final):
    """kill -9 of `python recipes/release.py` in mid-upload: no commit; the same command again publishes."""
    command = [sys.executable, "-W", "ignore", str(RECIPES / "release.py"), "--model_dir", str(final)]
    command += ["--repo_id", "me/model", "--what", "merged"]
    kill_while_uploading(hub, command)
    assert (
        list(hub.store.files("model", "me/model")) == [".gitattributes"] and hub.store.tags("model", "me/model") == {}
    )
    assert any(line.startswith("published") for line in releasing(final, what="merged"))
    assert hub.store.tags("model", "me/model") == {"v1.0": state(hub)["refs/heads/main"]}


def test_a_name_that_holds_something_else(hub, base, final, tmp_path):
    from huggingface_hub import HfApi

    sha = push_base(base, "me/model")
    HfApi().update_repo_settings("me/model", private=True)
    with pytest.raises(PublishError, match=r"me/model exists and holds \d files.*another repo_id, or `replace: true`"):
        releasing(final, what="merged")
    assert state(hub)["refs/heads/main"] == sha and hub.count("commit") == 1
    releasing(final, what="merged", replace=True)
    assert HfApi().model_info("me/model", revision=sha).sha == sha  # the old commit is in the history
    with pytest.raises(PublishError, match=r"holds a model of tiny-llama trained on rows.jsonl"):
        releasing(from_hub(final, tmp_path / "a" / "final", name="other-base", local=True), what="merged", tag="v2")
    changed = from_hub(final, tmp_path / "b" / "final", name="tiny-llama", local=True)
    _scale(changed / "adapter_model.safetensors")
    with pytest.raises(PublishError, match=r"the tag 'v1.0' of me/model already names other content"):
        releasing(changed, what="merged")


# ---- two repositories, and another model under the same name: folders as they are staged, without the weights ----
def staged(folder: Path, **changes) -> Path:
    folder.mkdir(parents=True)
    data = {"name": "rows.jsonl", "local": True, "revision": "sha256:1", **changes.pop("data", {})}
    facts = {"format": 1, "kind": "causal", "adapter": True, "base": {"name": "me/base"}, "data": data, **changes}
    (folder / "training.json").write_text(json.dumps(facts))
    (folder / "README.md").write_text("---\nlicense: mit\n---\n")
    return folder


def push_staged(folder: Path, repo_id: str = "me/model", **options) -> list:
    return push_all(
        {"adapter": folder}, {"adapter": repo_id}, ReleaseArguments(model_dir="", repo_id=repo_id, **options), print
    )


@pytest.fixture
def both(tmp_path) -> dict:
    return {"adapter": staged(tmp_path / "adapter"), "merged": staged(tmp_path / "merged", adapter=False)}


def push_both(both: dict, merged: str, **options) -> list:
    args = ReleaseArguments(model_dir="", repo_id="me/model", what="both", merged_repo_id=merged, **options)
    return push_all(both, {"adapter": "me/model", "merged": merged}, args, print)


@pytest.mark.parametrize("obstacle", ["public", "tag", "other content", "secret"])
def test_of_two_repositories_none_is_written_to_where_one_may_not_be(hub, both, tmp_path, obstacle):
    from huggingface_hub import HfApi

    errors = {"public": "me/merged exists and is public", "other content": "me/merged exists and holds 1 files"}
    errors |= {"tag": "tag 'v1.0' of me/merged already names other content", "secret": r"notes.txt:1: value of token"}
    if obstacle == "tag":
        push_staged(staged(tmp_path / "older", adapter=False, hours=1), "me/merged")
    elif obstacle == "secret":
        (both["merged"] / "notes.txt").write_text("token: " + "a1B2" * 5)
    else:
        HfApi().create_repo("me/merged", private=obstacle != "public")
        if obstacle == "other content":
            HfApi().upload_file(path_or_fileobj=b"x", path_in_repo="x.txt", repo_id="me/merged")
    before = hub.count("commit")
    with pytest.raises(PublishError, match=errors[obstacle]):
        push_both(both, "me/merged")
    assert state(hub) is None and hub.count("commit") == before
    if obstacle == "tag":
        assert [done.committed for done in push_both(both, "me/merged", tag="v2")] == [True, True]


def test_what_was_published_before_the_second_push_failed_is_named(hub, both):
    with pytest.raises(PublishError, match=r"/me/model/tree/v1.0 was published and stays; then stranger/merged .*403"):
        push_both(both, "stranger/merged")
    assert hub.store.tags("model", "me/model") == {"v1.0": state(hub)["refs/heads/main"]}
    assert [done.committed for done in push_both(both, "me/merged")] == [False, True]


def test_another_file_of_the_same_name_makes_another_model(hub, tmp_path):
    push_staged(staged(tmp_path / "first"))
    other = staged(tmp_path / "other", data={"revision": "sha256:2"})
    with pytest.raises(PublishError, match=r"trained on rows.jsonl \(sha256:1; here sha256:2\); .*`replace: true`"):
        push_staged(other, tag="v2")
    push_staged(other, tag="v2", replace=True)
    newer = {"name": "me/data", "local": False}
    push_staged(staged(tmp_path / "a", data=newer | {"revision": "a" * 40}), "me/hub")
    push_staged(staged(tmp_path / "b", data=newer | {"revision": "b" * 40}), "me/hub", tag="v2")  # a new version of it


def test_a_credential_in_the_recipe_is_refused_before_any_work(hub, final, tmp_path):
    run = from_hub(final, tmp_path / "run" / "final", name="tiny-llama", local=True)
    key = "0123456789abcdef" * 2
    (tmp_path / "x.yaml").write_text(f"lora_r: 4\n# export WANDB_API_KEY={key}\nhub_token: abcd-my-own-secret-token\n")
    with pytest.raises(
        SecretFound, match=r"x.yaml:2: value of WANDB_API_KEY .*\n  x.yaml:3: value of hub_token"
    ) as caught:
        releasing(run, what="merged", recipe=str(tmp_path / "x.yaml"))
    assert key not in str(caught.value) and "my-own-secret" not in str(caught.value)
    facts = json.loads((run / "training.json").read_text())  # as an older version noted it down
    facts["recipe"] = {"file": "x.yaml", "yaml": "lora_r: 4\n", "flags": ["--hub_token", "abcd-my-own-secret-token"]}
    (run / "training.json").write_text(json.dumps(facts))
    with pytest.raises(SecretFound, match="flags: --hub_token"):
        releasing(run, what="merged")
    assert hub.requests == [] and not (run.parent / "release").exists()


def test_a_secret_in_the_folder(hub, final, tmp_path):
    run = from_hub(final, tmp_path / "run" / "final", name="tiny-llama", local=True)
    (run / "notes.txt").write_text("login(" + "hf" + "_" + "A1b2C3d4E5f6G7h8I9j0K1l2M3n4O5p6Q7)")
    # A merged model is written anew: only what is copied can carry anything along.
    sha = push_base(Path(json.loads((run / "adapter_config.json").read_text())["base_model_name_or_path"]))
    with pytest.raises(SecretFound, match="look like credentials"):
        releasing(run, base="me/base", base_revision=sha)
    assert state(hub) is None


# ---- the configuration ----
@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        ({"what": "merge"}, ConfigError, "Did you mean 'merged'"),
        ({"what": "both"}, ConfigError, "needs merged_repo_id"),
        ({"merged_repo_id": "me/x"}, ConfigError, "goes with what: both"),
        ({"tolerance": 0.0}, ConfigError, "above 0"),
        ({"repo_id": "model"}, PublishError, "no namespace"),
        ({"tag": "version 1"}, PublishError, "can't be a tag"),
        ({"recipe": "no.yaml"}, ConfigError, "recipe: no.yaml is no file"),
        ({"evaluations": ["no.json"]}, ConfigError, "no.json is no file"),
        ({"model_dir": "nowhere"}, ConfigError, "model_dir: nowhere is no folder"),
        ({"license": "mit", "what": "merged"}, ConfigError, "license: mit given, but .* cc-by-nc-4.0"),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_what_can_not_be_right_is_refused_before_any_work(hub, final, tmp_path, change, error, says):
    run = from_hub(final, tmp_path / "run" / "final", name="tiny-llama", local=True)
    facts = json.loads((run / "training.json").read_text())
    facts["data"]["license"] = "cc-by-nc-4.0"
    (run / "training.json").write_text(json.dumps(facts))
    with pytest.raises(error, match=says):
        release(ReleaseArguments(**{"model_dir": str(run), "repo_id": "me/model", **change}))
    assert hub.requests == [] and not (run.parent / "release").exists()


def test_folders_that_are_no_run(hub, base, final, tmp_path):
    with pytest.raises(SourceError, match=r"has no training.json.*recipes/sft.py"):
        releasing(base)
    whole = from_hub(final, tmp_path / "run" / "final", name="tiny-llama", local=True)
    facts = json.loads((whole / "training.json").read_text())
    (whole / "training.json").write_text(json.dumps(facts | {"adapter": False}))
    with pytest.raises(ConfigError, match="holds whole weights"):
        releasing(whole, what="adapter")
    (whole / "training.json").write_text("{")
    with pytest.raises(SourceError, match="not valid JSON"):
        releasing(whole)


def test_a_dry_run_makes_the_release_and_asks_the_hub_nothing(hub, final, tmp_path, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")
    said = releasing(final, what="merged", dry_run=True, output_dir=str(tmp_path / "made"))
    assert said[-1].startswith("would publish me/model (") and "model.safetensors" in said[-1]
    assert (tmp_path / "made" / "merged" / "README.md").is_file() and hub.requests == []
    older = from_hub(final, tmp_path / "older" / "final", name="tiny-llama", local=True)
    facts = json.loads((older / "training.json").read_text()) | {"preflight": "evaluated on /data/alice/pairs; fine"}
    (older / "training.json").write_text(json.dumps(facts))
    releasing(older, what="merged", dry_run=True, output_dir=str(tmp_path / "made"))
    assert "evaluated on pairs; fine" in (tmp_path / "made" / "merged" / "README.md").read_text()
    # `merged` of a run is a training's result, not a release that may be replaced.
    run = from_hub(final, tmp_path / "run" / "merged", name="tiny-llama", local=True)
    with pytest.raises(BuildError, match="is there and no earlier release"):
        releasing(final, what="merged", dry_run=True, output_dir=str(run.parent))
    assert (run / "adapter_model.safetensors").is_file()
