"""Publishing through the real client: one commit, then the tag; and whatever breaks, the branch is whole."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import textwrap
import time

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hub_fixtures import kill_while_uploading

from instruct_builders.errors import PublishError, SecretFound
from instruct_builders.publish import PublishResult, publish

CARD = "---\nlicense: mit\nconfigs:\n- config_name: {0}\n  data_files: '{0}/*.parquet'\n---\n# {0}\n"
FAST = {"first_wait": 0.01}


@pytest.fixture
def built(tmp_path):
    """A directory as a build leaves it: two Parquet shards, a card, and build.json."""
    return _build(tmp_path / "out", rows=10, shards=2)


def _build(folder, rows: int, shards: int, config: str = "default"):
    (folder / config).mkdir(parents=True, exist_ok=True)
    for shard in range(shards):
        table = pa.table({"text": [f"row {row} of {rows}" for row in range(shard, rows, shards)]})
        pq.write_table(table, folder / config / f"train-{shard:05d}-of-{shards:05d}.parquet")
    (folder / "README.md").write_text(CARD.format(config))
    (folder / "build.json").write_text(json.dumps({"rows": rows}))
    return folder


def _state(hub, repo_id="org/data", repo_type="dataset"):
    return hub.store.resolve(repo_type, repo_id, "main"), hub.store.tags(repo_type, repo_id)


def test_a_build_becomes_one_private_commit_with_a_tag_and_loads_again(hub, built):
    from datasets import load_dataset

    result = publish(built, "org/data", tag="v1.0")
    head, tags = _state(hub)
    assert result == PublishResult(
        url=f"{hub.url}/datasets/org/data/tree/v1.0",
        commit=head,
        tag="v1.0",
        files=[
            "README.md",
            "build.json",
            "default/train-00000-of-00002.parquet",
            "default/train-00001-of-00002.parquet",
        ],
        committed=True,
        created=True,
        private=True,
    )
    assert tags == {"v1.0": head} and hub.store.repo("dataset", "org/data")["private"]
    assert hub.count("commit") == 1 and hub.store.commits("dataset", "org/data")[0]["title"] == "Publish v1.0"
    assert load_dataset("org/data", split="train", revision="v1.0").num_rows == 10
    assert len(list(load_dataset("org/data", split="train", streaming=True))) == 10


def test_unchanged_content_makes_no_commit_but_a_missing_tag_is_set(hub, built):
    first = publish(built, "org/data")
    again = publish(built, "org/data", tag="v1")
    assert (again.committed, again.created, again.commit) == (False, False, first.commit)
    assert publish(built, "org/data", tag="v1").commit == first.commit
    assert hub.count("commit") == 1 and hub.count("tag") == 1 and _state(hub)[1] == {"v1": first.commit}


def test_a_new_version_is_one_commit_that_deletes_what_the_old_one_left(hub, tmp_path):
    from datasets import get_dataset_config_names, load_dataset
    from huggingface_hub import HfApi

    publish(_build(tmp_path / "old", rows=30, shards=3, config="old"), "org/data", tag="v1")
    for name in ("LICENSE", "notes/by-hand.md"):
        HfApi().upload_file(path_or_fileobj=b"by hand", path_in_repo=name, repo_id="org/data", repo_type="dataset")
    before = hub.count("commit")
    new = _build(tmp_path / "new", rows=5, shards=1, config="new")
    with pytest.raises(PublishError, match=r"holds data in old.*would delete that"):
        publish(new, "org/data", tag="v2")
    assert hub.count("commit") == before
    result = publish(new, "org/data", tag="v2", replace=True)
    assert hub.count("commit") == before + 1
    assert result.deleted == [f"old/train-0000{i}-of-00003.parquet" for i in range(3)]
    kept = {".gitattributes", "LICENSE", "notes/by-hand.md"}
    assert set(hub.store.files("dataset", "org/data")) == kept | set(result.files)
    assert get_dataset_config_names("org/data") == ["new"]
    assert load_dataset("org/data", split="train").num_rows == 5
    assert load_dataset("org/data", split="train", revision="v1").num_rows == 30


def test_a_tag_that_names_other_content_is_an_error_before_anything_is_sent(hub, tmp_path, built):
    publish(built, "org/data", tag="v1")
    before = _state(hub)
    with pytest.raises(
        PublishError, match=r"tag 'v1'.*other content.*choose another tag.*hf repos tag delete org/data v1"
    ):
        publish(_build(tmp_path / "new", rows=5, shards=1), "org/data", tag="v1")
    assert _state(hub) == before and hub.count("preupload") == 1


def test_an_old_version_published_again_under_its_tag_changes_nothing(hub, tmp_path, built, caplog):
    first = publish(built, "org/data", tag="v1")
    publish(_build(tmp_path / "new", rows=5, shards=1), "org/data", tag="v2")
    before = _state(hub)
    again = publish(built, "org/data", tag="v1")
    assert (again.commit, again.committed) == (first.commit, False) and _state(hub) == before
    assert "'v1' holds this content already; main has moved on" in caplog.text


def test_sixty_shards_are_one_commit(hub, tmp_path):
    result = publish(_build(tmp_path / "out", rows=60, shards=60), "org/data")
    assert len(result.files) == 62 and hub.count("commit") == 1
    assert len(hub.store.files("dataset", "org/data")) == 63  # and .gitattributes


@pytest.mark.parametrize("status", [409, 412, 429, 500, 503])
def test_a_commit_refused_for_a_moment_is_tried_again(hub, built, caplog, status):
    hub.fail_next("commit", status=status, times=2)
    result = publish(built, "org/data", tag="v1", **FAST)
    assert [r.status for r in hub.requests if r.route == "commit"] == [status, status, 200]
    assert _state(hub) == (result.commit, {"v1": result.commit}) and hub.count("lfs_put") == 2
    assert f"HTTP {status}" in caplog.text and "attempt 3 of 5" in caplog.text


def test_a_commit_refused_for_good_leaves_the_old_version(hub, tmp_path, built):
    publish(built, "org/data", tag="v1")
    before = _state(hub)
    hub.fail_next("commit", status=412, times=3)
    with pytest.raises(PublishError, match=r"nothing was published after 3 attempts \(HTTP 412.*publish again when"):
        publish(_build(tmp_path / "new", rows=5, shards=1), "org/data", tag="v2", max_attempts=3, **FAST)
    assert _state(hub) == before and hub.count("commit", 412) == 3


def test_the_wait_that_the_hub_asks_for_is_kept_or_told(hub, built):
    hub.fail_next("commit", status=429, headers={"Retry-After": "1"})
    start = time.monotonic()
    publish(built, "org/data", **FAST)
    assert time.monotonic() - start >= 1
    (built / "build.json").write_text("{}")
    hub.fail_next("commit", status=429, headers={"Retry-After": "4000"})
    with pytest.raises(PublishError, match="publish again in 4000 seconds"):
        publish(built, "org/data", **FAST)


def test_an_upload_cut_in_the_middle_leaves_main_and_the_next_sends_only_the_rest(hub, tmp_path, built):
    publish(built, "org/data", tag="v1")
    before = _state(hub)
    new = _build(tmp_path / "new", rows=9, shards=3)
    hub.cut_next("lfs_put")  # the client itself tries a cut upload again after a second ...
    hub.fail_next("lfs_put", status=403)  # ... as storage does with an address that is too old: given up
    with pytest.raises(PublishError, match="HTTP 403"):
        publish(new, "org/data", tag="v2")
    cut = next(r for r in hub.requests if r.route == "lfs_put" and r.status == 0)
    assert 0 < cut.size < (new / "default" / "train-00000-of-00003.parquet").stat().st_size
    assert _state(hub) == before
    sent = hub.count("lfs_put", 200)
    result = publish(new, "org/data", tag="v2")
    assert 2 < sent < hub.count("lfs_put", 200) == 2 + 3, "what had arrived was sent again"
    assert _state(hub) == (result.commit, {**before[1], "v2": result.commit})


def test_a_commit_whose_answer_got_lost_is_not_made_twice(hub, built):
    hub.cut_next("commit", when="answer")
    result = publish(built, "org/data", tag="v1", **FAST)
    assert hub.count("commit") == 1 and len(hub.store.commits("dataset", "org/data")) == 2  # with the initial one
    assert result.committed and _state(hub) == (result.commit, {"v1": result.commit})


def test_a_tag_that_could_not_be_set_is_said_and_set_the_next_time(hub, built):
    hub.fail_next("tag", status=500, times=2)
    with pytest.raises(PublishError, match=r"published as commit [0-9a-f]{40}, but without its tag"):
        publish(built, "org/data", tag="v1", max_attempts=2, **FAST)
    assert _state(hub)[1] == {}
    assert publish(built, "org/data", tag="v1").committed is False
    assert list(_state(hub)[1]) == ["v1"] and hub.count("commit") == 1


def test_somebody_else_s_commit_in_between_is_built_upon(hub, built, monkeypatch):
    from huggingface_hub import CommitOperationAdd, HfApi

    publish(built, "org/data")
    (built / "build.json").write_text("{}")
    create_commit, raced = HfApi.create_commit, []

    def race(api, *args, **kwargs):
        if not raced:
            raced.append(1)
            add = CommitOperationAdd("LICENSE", b"by hand")
            create_commit(api, "org/data", [add], repo_type="dataset", commit_message="by hand")
        return create_commit(api, *args, **kwargs)

    monkeypatch.setattr(HfApi, "create_commit", race)
    publish(built, "org/data", **FAST)
    assert [c["title"] for c in hub.store.commits("dataset", "org/data")][:2] == ["Publish", "by hand"]
    assert hub.store.read("dataset", "org/data", "LICENSE") == b"by hand" and hub.count("commit", 412) == 1


def test_killed_while_uploading_leaves_main(hub, tmp_path, built):
    publish(built, "org/data")
    before, new = _state(hub), _build(tmp_path / "new", rows=9, shards=3)
    code = f"from instruct_builders.publish import publish; publish({str(new)!r}, 'org/data')"
    kill_while_uploading(hub, [sys.executable, "-W", "ignore", "-c", code])
    assert _state(hub) == before
    assert publish(new, "org/data").deleted == [f"default/train-0000{i}-of-00002.parquet" for i in range(2)]


def test_another_branch_leaves_main(hub, tmp_path, built):
    publish(built, "org/data")
    before = _state(hub)
    result = publish(_build(tmp_path / "new", rows=5, shards=1), "org/data", revision="next")
    assert _state(hub) == before and hub.store.resolve("dataset", "org/data", "next") == result.commit


# ---- what may not leave ----
HF = "hf" + "_" + "A1b2C3d4E5f6G7h8I9j0K1l2M3n4O5p6Q7"


@pytest.mark.parametrize("place", ["README.md", "build.json", "parquet", "own token"])
def test_a_secret_anywhere_stops_everything_before_the_first_request(hub, built, monkeypatch, place):
    secret = HF
    if place == "README.md":
        (built / place).write_text(CARD.format("default") + f"\n\nlogin({HF})")
    elif place == "build.json":
        secret = "an ordinary looking value"
        monkeypatch.setenv("MY_SERVICE_KEY", secret)
        (built / place).write_text(json.dumps({"config": {"api_key": secret}}))
    elif place == "parquet":
        pq.write_table(
            pa.table({"text": ["fine", f"login({HF})"]}), built / "default" / "train-00001-of-00002.parquet"
        )
    else:
        secret = "not shaped like a token"
        (built / "default" / "notes.txt").write_text(secret)
    kwargs = {"token": secret} if place == "own token" else {}
    with pytest.raises(SecretFound, match="look like credentials") as caught:
        publish(built, "org/data", **kwargs)
    assert secret not in str(caught.value) and hub.requests == []


def test_pickles_and_hidden_files_stay_and_are_named(hub, built, caplog):
    names = [
        "training_args.bin",
        "optimizer.pt",
        "rng_state_0.pth",
        "default/x.pkl",
        ".git/config",
        "a.parquet.incomplete",
    ]
    for name in names:
        (built / name).parent.mkdir(exist_ok=True)
        (built / name).write_bytes(HF.encode())  # not searched: they do not leave
    result = publish(built, "org/data")
    assert result.left_out == sorted(names)
    assert not set(names) & set(hub.store.files("dataset", "org/data"))
    assert all(name in caplog.text for name in names)


def test_an_older_push_s_pickle_and_weights_are_deleted_from_a_model(hub, tmp_path):
    from huggingface_hub import HfApi

    HfApi().create_repo("me/model", private=True)
    for name in ("training_args.bin", "model-00002-of-00002.safetensors", "adapter_config.json", "logo.png"):
        HfApi().upload_file(path_or_fileobj=b"old", path_in_repo=name, repo_id="me/model")
    (tmp_path / "README.md").write_text("---\nlicense: mit\n---\n")
    (tmp_path / "model.safetensors").write_bytes((2).to_bytes(8, "little") + b"{}")
    result = publish(tmp_path, "me/model", repo_type="model")
    assert result.deleted == ["adapter_config.json", "model-00002-of-00002.safetensors", "training_args.bin"]
    assert result.url == f"{hub.url}/me/model" and "logo.png" in hub.store.files("model", "me/model")


def test_links_may_not_lead_outside(hub, tmp_path, built):
    (built / "default" / "copy.json").symlink_to(built / "build.json")
    assert "default/copy.json" in publish(built, "org/data").files
    (tmp_path / "private.txt").write_text("outside")
    requests = len(hub.requests)
    for name, target in (("link.txt", "../private.txt"), ("folder", "default"), ("broken.txt", "nothing")):
        (built / name).symlink_to(target)
        with pytest.raises(PublishError, match=r"is a link to|no ordinary file"):
            publish(built, "org/data")
        (built / name).unlink()
    assert len(hub.requests) == requests


def test_a_dry_run_searches_and_lists_but_asks_nothing(hub, built, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")
    result = publish(built, "org/data", tag="v1", dry_run=True)
    assert (result.commit, result.committed, len(result.files)) == (None, False, 4) and hub.requests == []


# ---- who may do what ----
def test_no_token_wrong_token_and_no_permission_say_what_to_do(hub, built, monkeypatch, caplog):
    caplog.set_level(logging.DEBUG)
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(PublishError, match=r"no token.*hf auth login.*HF_TOKEN"):
        publish(built, "org/data")
    assert hub.requests == []
    wrong = "hf" + "_" + "0" * 34
    with pytest.raises(PublishError, match=r"HTTP 401.*token is not valid.*hf auth login"):
        publish(built, "org/data", token=wrong)
    stranger = hub.add_user("stranger")
    with pytest.raises(PublishError, match=r"HTTP 403.*may not write to 'org/data'.*write permission"):
        publish(built, "org/data", token=stranger)
    monkeypatch.setenv("HF_TOKEN", stranger)
    with pytest.raises(PublishError, match="HTTP 403"):
        publish(built, "org/data")
    assert hub.store.repos("dataset") == []
    assert wrong not in caplog.text and stranger not in caplog.text


def test_a_public_repository_is_never_taken_for_a_private_one(hub, built, caplog):
    publish(built, "org/open", private=False)
    assert hub.store.repo("dataset", "org/open")["private"] is False
    (built / "build.json").write_text("{}")
    with pytest.raises(PublishError, match=r"exists and is public.*pass private=False"):
        publish(built, "org/open")
    assert hub.count("commit") == 1
    publish(built, "org/closed")
    assert publish(built, "org/closed", private=False).private and "stays private" in caplog.text


@pytest.mark.parametrize(
    "change, match",
    [
        ({"repo_id": "data"}, r"no namespace: give 'your-name/data'"),
        ({"repo_id": "org/da ta"}, "is no repository id"),
        ({"repo_id": "a/b/c"}, "is no repository id"),
        ({"repo_type": "space"}, "give 'dataset' or 'model'"),
        ({"tag": "version one"}, "can't be a tag"),
        ({"max_attempts": 0}, "give 1 or more"),
        ({"directory": "nowhere"}, "is no directory"),
    ],
)
def test_arguments_that_can_t_be_right(hub, built, change, match):
    with pytest.raises(PublishError, match=match):
        publish(**{"directory": built, "repo_id": "org/data", **change})
    assert hub.requests == []


def test_directories_that_are_not_ready(hub, tmp_path, built):
    (tmp_path / "empty").mkdir()
    with pytest.raises(PublishError, match="holds nothing that can be published"):
        publish(tmp_path / "empty", "org/data")
    (built / "README.md").unlink()
    with pytest.raises(PublishError, match=r"has no README\.md"):
        publish(built, "org/data")
    (built / "README.md").write_text("---\nlicense: [\n---\n")
    with pytest.raises(PublishError, match="Invalid metadata in README"):
        publish(built, "org/data")


def test_a_server_without_xet_is_a_clear_error(hub, built):
    code = f"""
        from instruct_builders.errors import PublishError
        from instruct_builders.publish import publish
        try:
            publish({str(built)!r}, "org/data", max_attempts=1)
        except PublishError as error:
            print(error)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "HF_HUB_DISABLE_XET": "0"},
    )
    assert "nothing was published" in done.stdout and "HF_HUB_DISABLE_XET" in done.stdout, done
    assert len(hub.store.files("dataset", "org/data")) == 1
