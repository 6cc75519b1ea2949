"""What may not leave the machine (its paths, credentials, pickles), and what is honest and looks a little like it."""

from __future__ import annotations

import json
import pickle
import re
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from instruct_builders import outgoing, publish
from instruct_builders.errors import PublishError, SecretFound
from trainers import local_paths, run_facts, templates


# ---- paths ----
@pytest.mark.parametrize(
    ("value", "local"),
    [
        ("/home/alice/runs/7", True),
        ("~/models/base", True),
        ("../base", True),
        ("C:\\models\\base", True),
        ("file:///data/x/y", True),
        ("org/model", False),
        ("outputs/run", False),
        ("https://huggingface.co/org/model", False),
        ("/", False),
        ("</s>", False),
        ("/think/", False),
        ("and/or, or not", False),
        (7, False),
    ],
)
def test_what_counts_as_a_path(value, local):
    assert local_paths.is_local(value) is local


part = st.text("abcXYZ09_-.", min_size=1, max_size=8).filter(lambda text: text.strip("."))


@given(st.lists(part, min_size=2, max_size=5), st.sampled_from(["/", "~/", "../"]))
def test_a_recipe_keeps_its_text_and_loses_its_paths(parts, start):
    path = start + "/".join(parts)
    text = f"# a comment\nmodel_name_or_path: {json.dumps(path)}\nlearning_rate: 2.0e-5  # as it was\n"
    found = local_paths.without(text)
    assert path not in found and "# a comment" in found and "learning_rate: 2.0e-5  # as it was" in found
    assert not any(map(local_paths.is_local, local_paths.shortened(["--x", path, f"--y={path}"])))


def test_the_paths_that_a_release_refuses(tmp_path):
    (tmp_path / "vocab.json").write_text(json.dumps({"/root/x": 0}))  # a word that a tokenizer knows
    (tmp_path / "README.md").write_text("Paths such as /usr/bin are everybody's.")
    local_paths.refuse(tmp_path)
    (tmp_path / "README.md").write_text(f"fine\nin {tmp_path}/run\n")
    with pytest.raises(PublishError, match=r"README.md:2\n"):
        local_paths.refuse(tmp_path, [tmp_path])
    (tmp_path / "README.md").write_text("fine")
    (tmp_path / "config.json").write_text('{"a": ')
    for looks in (local_paths.refuse, local_paths.clean_configs):
        with pytest.raises(PublishError, match=r"config.json is no JSON .* nothing was sent"):
            looks(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"a": [{"b": "/mnt/disk/base"}]}))
    with pytest.raises(PublishError, match=r"config.json: a\[0\].b"):
        local_paths.refuse(tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "place"),
    [
        ("chat_template.jinja", "{{ x }}\n{# from /data/alice/secret/x.jinja #}", "chat_template.jinja:2"),
        ("chat_template.jinja", "{# /root/project #}", "chat_template.jinja:1"),
        ("README.md", "```yaml\n# --config /root/exp/client/x.yaml\n```", "README.md:2"),
        ("README.md", "see file:///scratch/me/run", "README.md:1"),
        (
            "training.json",
            {"recipe": {"yaml": "# --config /root/exp/x.yaml\n", "flags": []}},
            "training.json: recipe.yaml",
        ),
        ("tokenizer_config.json", {"note": "made from /home/alice/vocab"}, "tokenizer_config.json: note"),
        ("tokenizer_config.json", {"note": "in C:\\Users\\alice\\x"}, "tokenizer_config.json: note"),
        ("config.json", {"a": {"/home/alice/run": 1}}, r"config.json: a./home/alice/run"),
        (
            "evaluation/01_x.json",
            {"settings": {"file": "/mnt/nfs/alice/q.jsonl"}},
            "evaluation/01_x.json: settings.file",
        ),
        ("modeling_x.py", "PATH = '/home/alice/x/y'", "modeling_x.py:1"),
        ("log.csv", "a,b\n/home/alice/x,1", "log.csv:2"),
        ("notebook.ipynb", '{"source": ["x\\n/home/alice/x"]}', "notebook.ipynb:1"),
    ],
)
def test_a_path_inside_any_text_is_refused_with_its_place(tmp_path, name, content, place):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(PublishError, match=rf"nothing was sent:\n  {re.escape(place)}\n"):
        local_paths.refuse(tmp_path)


def test_what_the_check_before_training_says_loses_its_paths():
    text = "evaluated on the split 'test' of /tmp/runs/x/pairs; none of it is trained on\nbase: /opt/models/tiny"
    found = local_paths.within(text, ("/opt/models/tiny", "org/data"))
    assert found == "evaluated on the split 'test' of pairs; none of it is trained on\nbase: tiny"


def test_a_path_in_the_notes_of_weights_is_refused(tmp_path):
    from safetensors.torch import save_file

    save_file({"a": torch.zeros(1)}, tmp_path / "model.safetensors", {"format": "pt"})
    local_paths.refuse(tmp_path)
    save_file(
        {"a": torch.zeros(1)}, tmp_path / "model.safetensors", {"format": "pt", "from": "/home/alice/secret/run"}
    )
    with pytest.raises(PublishError, match=r"model\.safetensors: from"):
        local_paths.refuse(tmp_path)


def test_a_recipe_loses_the_paths_and_the_credentials_in_it_whatever_they_are_in(tmp_path, caplog):
    text = 'a: 1\n# x.py --config /home/alice/secret/x.yaml\nb: "--x=/home/alice/q"\nc: [/mnt/nfs/me/d, e]\n'
    text += (
        "# export WANDB_API_KEY=" + "0123456789abcdef" * 2 + "\nhub_token: abcd-my-own-secret\neos_token: <|im_end|>\n"
    )
    (tmp_path / "x.yaml").write_text(text)
    flags = [
        "--hub_token",
        "abcd-my-own-secret",
        "--x.password=hunter2hunter2",
        "--y",
        '{"a": "/root/exp/y"}',
        "--z=1",
    ]
    found = run_facts.recipe(["--config", str(tmp_path / "x.yaml"), *flags])
    expected = 'a: 1\n# x.py --config x.yaml\nb: "--x=q"\nc: [d, e]\n'
    expected += "# export WANDB_API_KEY=<left out>\nhub_token: <left out>\neos_token: <|im_end|>\n"
    assert found["yaml"] == expected
    flags = ["--hub_token", "<left out>", "--x.password=<left out>", "--y", '{"a": "y"}', "--z=1"]
    assert found["flags"] == flags
    said = caplog.text
    assert "x.yaml:5: value of WANDB_API_KEY (0123...)" in said and "x.yaml:6: value of hub_token" in said
    assert "abcd-my-own-secret" not in said and "0123456789abcdef" not in said


# ---- what may go, and what may not ----
RANDOM = "9fK2" + "mQ7x" * 4  # put together here, so that no scanner takes this file for a leak


@pytest.mark.parametrize(
    ("name", "content", "place"),
    [
        ("README.md", f"fine\n# export WANDB_API_KEY={RANDOM}", "README.md:2: value of WANDB_API_KEY"),
        ("config.yaml", f"hub_token: '{RANDOM}'", "config.yaml:1: value of hub_token"),
        ("training.json", {"recipe": {"yaml": f"a: 1\npassword: {RANDOM}\n"}}, "training.json:1: value of password"),
        ("tokenizer_config.json", {"auth_token": RANDOM, "eos_token": "</s>"}, "json:1: value of auth_token"),
        ("modeling_x.py", f'client_secret = "{RANDOM}"', "modeling_x.py:1: value of client_secret"),
    ],
)
def test_a_value_that_looks_like_chance_is_a_credential_by_its_name(tmp_path, name, content, place):
    (tmp_path / "README.md").write_text("fine")
    (tmp_path / name).write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(SecretFound, match=re.escape(place)) as caught:
        publish.publish(tmp_path, "me/model", repo_type="model", dry_run=True)
    assert RANDOM not in str(caught.value) and "Take them out" in str(caught.value)


def test_a_password_in_the_environment_is_searched_for(tmp_path, monkeypatch):
    monkeypatch.setenv("PGPASSWORD", "correct horse battery")
    (tmp_path / "README.md").write_text("It is: correct horse battery.")
    with pytest.raises(SecretFound, match="environment variable PGPASSWORD"):
        publish.publish(tmp_path, "me/model", repo_type="model", dry_run=True)


def test_what_honest_releases_hold_is_not_refused(tmp_path):
    """Prose, special tokens, vocabularies, templates, and what a model answered about paths and passwords."""
    said = f"Files in /tmp/alice/x and /home/you/project are yours.\napi_key = '{RANDOM}'\npassword: {RANDOM}"
    sample = {"prompt": said, "answer": said, "expected": said}
    tokens = {"bos_token": "<|begin_of_text|>", "eos_token": "</s>", "pad_token": "reserved_special_token_250abc"}
    tokens |= {
        "token": "<unk>",
        "image_token": "IMG0001_PLACEHOLDER_0001",
        "tokenizer_class": "PreTrainedTokenizer2Fast",
    }
    tokens |= {
        "added_tokens_decoder": {"0": {"content": "/think/"}},
        "special_tokens_map_file": "/root/.cache/x/y.json",
    }
    files = {
        "tokenizer_config.json": tokens,
        "tokenizer.json": {"model": {"vocab": {"/root/x": 0, "/home/alice/x": 1, f"token={RANDOM}": 2}}},
        "vocab.json": {"/tmp/x/y": 0},
        "training.json": {
            "samples": [sample],
            "settings": {"max_length": 1024, "secret": None},
            "loss_per_token": 1.5e-16,
        },
        "evaluation/01_held_out_loss.json": {"samples": [sample], "metrics": {"token": 0.12345678901234567}},
        "merges.txt": "/root /home/alice/x",
        "rows.json": [{"output": f"password = '{RANDOM}'"}],
        "vocab.bpe": "/home/alice/x",
        "README.md": (
            "Data goes to `/data`, or below /mnt and /tmp/x; see https://example.org/data/a/b and [it](./home/a/b).\n"
            "Set HF_TOKEN=YOUR_TOKEN_0123456789, token: `hf auth login`, password: the one you chose, "
            "api_key=os.environ['OPENAI_API_KEY_2024A'], max_new_tokens=256, token = get_token_v2beta1_of(name)\n"
            f"```python\ntokenizer = load(name)\n```\nAnswer:\n\n````text\n```\n{said}\n```\n````\n"
        ),
    }
    for template in (Path(templates.__file__).parent / "chat_templates").glob("*.jinja"):
        files[template.name] = template.read_text()
    files["other.jinja"] = "The drive at '/mnt/data' keeps files. {{ bos_token }}{%- set eos_token = '<|im_end|>' %}"
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content if isinstance(content, str) else json.dumps(content, indent=1))
    local_paths.clean_configs(tmp_path)  # the map's file is where the base's maker had it
    local_paths.refuse(tmp_path)
    done = publish.publish(tmp_path, "me/model", repo_type="model", dry_run=True)
    assert set(done.files) == set(files)


def test_a_pickle_is_refused_by_its_content(tmp_path):
    import numpy as np

    (tmp_path / "README.md").write_text("fine")
    torch.save({"a": torch.zeros(1)}, tmp_path / "rust_model.ot")
    torch.save({"a": torch.zeros(1)}, tmp_path / "old.model", _use_new_zipfile_serialization=False)
    for protocol in (2, 3, 4, 5):
        (tmp_path / f"{protocol}.safetensors.bak").write_bytes(pickle.dumps({"a": 1}, protocol))
    (tmp_path / "weights.safetensors").write_bytes(pickle.dumps({"a": 1}))
    np.save(tmp_path / "stats.npy", np.array([{}], object))
    np.savez(tmp_path / "more.npz", a=np.array([{}], object))
    with pytest.raises(PublishError, match="holds pickles") as caught:
        outgoing.list_files(tmp_path)
    expected = {path.name for path in tmp_path.iterdir()} - {"README.md"}
    assert {name for name in expected if name in str(caught.value)} == expected


def test_what_looks_like_a_pickle_and_is_none(tmp_path):
    """A header of 0x280280 bytes begins as a pickle of protocol 2 does; an archive of anything else may go."""
    import zipfile

    import numpy as np
    from safetensors.torch import load_file, save_file

    (tmp_path / "README.md").write_text("fine")
    weights, size = tmp_path / "model.safetensors", 0x280280
    save_file({"a": torch.zeros(1)}, weights, {"x": ""})
    empty = int.from_bytes(weights.read_bytes()[:8], "little")
    save_file({"a": torch.zeros(1)}, weights, {"x": "y" * (size - empty)})
    assert weights.read_bytes()[:3] == b"\x80\x02(" and load_file(weights)
    np.save(tmp_path / "stats.npy", np.zeros(3))
    (tmp_path / "tokenizer.model").write_bytes(b"\n\x0e\n\x05<unk>")
    (tmp_path / "empty.txt").write_bytes(b"")
    with zipfile.ZipFile(tmp_path / "notes.keras", "w") as packed:
        packed.writestr("config.json", "{}")
    assert len(outgoing.list_files(tmp_path)[0]) == 6
