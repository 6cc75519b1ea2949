"""A credential must be found wherever it hides, ordinary text must pass, and no report may hold what it found."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import random
import string

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from instruct_builders import secret_scan
from instruct_builders.errors import PublishError

LETTERS = string.ascii_letters + string.digits


def _random(length: int, letters: str = LETTERS) -> str:
    return "".join(random.Random(length).choices(letters, k=length))


# Put together here, so that no scanner takes this file for a leak.
SECRETS = {
    "Hugging Face token": "hf" + "_" + _random(34),
    "OpenAI-style key": "sk" + "-proj-" + _random(40),
    "AWS access key": "AK" + "IA" + _random(16, string.ascii_uppercase),
    "AWS temporary key": "AS" + "IA" + _random(16, string.ascii_uppercase),
    "GitHub token": "gh" + "p_" + _random(36),
    "GitHub fine-grained token": "github" + "_pat_" + _random(60),
    "GitLab token": "gl" + "pat-" + _random(20),
    "Google key": "AI" + "za" + _random(35),
    "Groq key": "gs" + "k_" + _random(50),
    "Slack token": "xo" + "xb-" + _random(30),
    "AWS secret key": _random(38) + "/+",
    "Azure storage key": _random(86) + "==",
    "Google OAuth token": "ya" + "29." + _random(60),
    "xAI key": "xa" + "i-" + _random(80),
    "Perplexity key": "pp" + "lx-" + _random(48),
    "Replicate token": "r8" + "_" + _random(37),
    "DigitalOcean token": "do" + "p_v1_" + _random(64, "0123456789abcdef"),
    "npm token": "np" + "m_" + _random(36),
    "PyPI token": "py" + "pi-AgEIcHlwaS5vcmc" + _random(90),
    "Slack webhook": "hooks.slack"
    + ".com/services/T"
    + _random(9, "ABC123")
    + "/B"
    + _random(9, "ABC123")
    + "/"
    + _random(24),
    "Stripe key": "sk" + "_live_" + _random(24),
    "SendGrid key": "SG" + "." + _random(22) + "." + _random(43),
    "Telegram bot token": _random(10, "123456789") + ":AA" + _random(33),
    "JSON web token": "ey" + "J" + _random(33) + ".ey" + "J" + _random(60) + "." + _random(43),
    "private key": "-----BEGIN RSA " + "PRIVATE KEY-----",
}
# What must stand before it, so that it is one.
NAMED = {"AWS secret key": "aws_secret_access_key = ", "Azure storage key": "AccountName=x;AccountKey="}
HF = SECRETS["Hugging Face token"]


def _assert_found(findings, path, line, kind, secret):
    assert [(f.path, f.line) for f in findings] == [(str(path), line)]
    assert findings[0].kind == f"{kind} ({secret[:4]}...)"
    assert secret[:8] not in str(findings)


def test_every_kind_has_an_example_here():
    assert set(SECRETS) == set(secret_scan.PATTERNS)


@pytest.mark.parametrize("kind", SECRETS)
@pytest.mark.parametrize("around", ["%s", 'key = "%s"', "é中%s中é", "task-%s", "a\n\t%s"])
def test_each_kind_is_found_in_bytes_and_in_parquet(tmp_path, kind, around):
    text = "first line\n" + around % (NAMED.get(kind, "") + SECRETS[kind])
    (tmp_path / "a.md").write_text(text)
    line = text[: text.index(SECRETS[kind])].count("\n") + 1
    _assert_found(secret_scan.scan([tmp_path / "a.md"], {}), tmp_path / "a.md", line, kind, SECRETS[kind])
    pq.write_table(pa.table({"x": ["fine", None, text]}), tmp_path / "a.parquet")
    _assert_found(secret_scan.scan([tmp_path / "a.parquet"], {}), tmp_path / "a.parquet", 3, kind, SECRETS[kind])


@pytest.mark.parametrize(
    "text",
    [
        "a task-oriented-dialogue-system-with-risk-aware-planning-2024",
        "https://scikit-learn.org/sk-learn-tutorial-for-beginners-part-2",
        "hf_hub_download and hf_xet are functions; hf_token too",
        "-----BEGIN PUBLIC KEY-----",
        "AKIA is a prefix; aKIAabcdefghijklmnop is not",
        "sha256: " + "0123456789abcdef" * 4,
        "commit bcc37c64db1a739abcc37c64db1a739abcc37c64, UUID 550e8400-e29b-41d4-a716-446655440000",
        "secret_access_key is 40 characters long; aws_secret_access_key: <your key here>; AccountKey=...",
        "sk_live_..., r8_, xai-, pplx-, npm_config_cache, pypi-publish, SG.1.2, ya29. and dop_v1_ are prefixes",
        "12:30:AA and 2024-01-01T10:00:00Z, a ratio of 1234567890:1; eyJhbGciOiJIUzI1NiJ9 alone is a header",
        "https://hooks.slack.com/services/T.../B.../...",
        "data:image/png;base64,"
        + "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==" * 9,
    ],
)
def test_ordinary_text_passes(tmp_path, text):
    (tmp_path / "a.txt").write_text(text)
    assert secret_scan.scan([tmp_path / "a.txt"], {}) == []


@pytest.mark.parametrize(
    "type_name", ["struct", "list", "large", "dictionary", "map", "fixed", "json", "binary", "view"]
)
def test_found_in_nested_and_unusual_parquet_columns(tmp_path, type_name):
    texts = ["fine", HF, "fine"]
    column = {
        "struct": pa.array([{"a": [{"b": t}]} for t in texts]),
        "list": pa.array([["fine", "fine"], [], ["fine", HF]]),
        "large": pa.array([["fine"], None, [HF]], pa.large_list(pa.large_string())),
        "dictionary": pa.array(texts).dictionary_encode(),
        "map": pa.array([[("k", t), (t, "v")] for t in texts], pa.map_(pa.string(), pa.string())),
        "fixed": pa.array([["a", "b"], None, ["c", HF]], pa.list_(pa.string(), 2)),
        "json": pa.ExtensionArray.from_storage(pa.json_(), pa.array([json.dumps({"a": t}) for t in texts])),
        "binary": pa.array([b"\xff" + t.encode() + b"\xfe" for t in texts]),
        "view": pa.array(texts, pa.string_view()),
    }[type_name]
    row = 3 if type_name in ("list", "large", "fixed") else 2
    table = pa.table({"number": [1, 2, 3], "x": column})
    pq.write_table(pa.concat_tables([table] * 3), tmp_path / "a.parquet", row_group_size=2)
    findings = secret_scan.scan([tmp_path / "a.parquet"], {})
    assert [f.line for f in findings] == [row, row + 3, row + 6]


def test_found_in_metadata_of_parquet_and_safetensors_but_numbers_are_left_alone(tmp_path):
    from safetensors.numpy import save_file

    table = pa.table({"x": [1]}).replace_schema_metadata({"info": HF})
    pq.write_table(table, tmp_path / "a.parquet")
    _assert_found(secret_scan.scan([tmp_path / "a.parquet"], {}), tmp_path / "a.parquet", 0, "Hugging Face token", HF)
    save_file({"w": np.zeros(4, np.float32)}, tmp_path / "a.safetensors", metadata={"by": HF})
    path = tmp_path / "a.safetensors"
    _assert_found(secret_scan.scan([path], {}), path, 0, "Hugging Face token", HF)
    save_file({"w": np.frombuffer(HF.encode(), np.uint8)}, path)
    assert secret_scan.scan([path], {}) == []


@pytest.mark.parametrize("suffix, packed", [(".gz", gzip.compress), (".bz2", bz2.compress), (".xz", lzma.compress)])
def test_packed_files_are_searched_inside(tmp_path, suffix, packed):
    path = tmp_path / f"a.jsonl{suffix}"
    path.write_bytes(packed(f"\n\n{HF}".encode()))
    _assert_found(secret_scan.scan([path], {}), path, 3, "Hugging Face token", HF)


def test_what_can_not_be_searched_is_never_called_clean(tmp_path):
    (tmp_path / "a.zip").write_bytes(b"PK")
    assert "unpack it" in str(secret_scan.scan([tmp_path / "a.zip"], {}))
    for name in ("broken.parquet", "broken.gz", "broken.xz", "missing.txt"):
        if name != "missing.txt":
            (tmp_path / name).write_bytes(b"no such format")
        with pytest.raises(PublishError, match=f"{name} can't be searched.*repair the file"):
            secret_scan.scan([tmp_path / name], {})
    with pytest.raises(PublishError, match="can't be searched"):
        secret_scan.scan([tmp_path], {})


@pytest.mark.parametrize("position", [-40, -20, -5, 0, 5])
def test_found_across_the_border_of_two_chunks_once_and_with_its_line(tmp_path, monkeypatch, position):
    monkeypatch.setattr(secret_scan, "CHUNK", 10_000)
    before = ("x" * 99 + "\n") * 200
    start = 10_000 + position
    (tmp_path / "a.txt").write_text(before[:start] + "\n" + HF + " " + before[start:])
    line = before[:start].count("\n") + 2
    _assert_found(secret_scan.scan([tmp_path / "a.txt"], {}), tmp_path / "a.txt", line, "Hugging Face token", HF)


def test_only_long_values_of_keys_and_tokens_are_looked_for(tmp_path):
    environ = {"MY_API_KEY": "correct horse", "my_token": "battery+staple", "PIN_KEY": "1234", "HOME": "/home/someone"}
    (tmp_path / "a.json").write_text("correct horse\nbattery+staple\n1234\n/home/someone")
    findings = secret_scan.scan([tmp_path / "a.json"], environ)
    assert [(f.line, f.kind) for f in findings] == [
        (1, "value of the environment variable MY_API_KEY"),
        (2, "value of the environment variable my_token"),
    ]


def test_the_environment_of_this_process_is_the_default(tmp_path, monkeypatch):
    monkeypatch.setenv("SOME_TOKEN", "plain words here")
    (tmp_path / "a.txt").write_text("plain words here")
    assert len(secret_scan.scan([tmp_path / "a.txt"])) == 1


@settings(max_examples=60, deadline=None)
@given(value=st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters="\0"), min_size=8, max_size=40))
def test_any_value_is_found_as_text_as_json_and_in_parquet(tmp_path_factory, value):
    folder = tmp_path_factory.getbasetemp()
    (folder / "a.txt").write_bytes(value.encode())
    (folder / "a.json").write_text(json.dumps({"x": value}))
    pq.write_table(pa.table({"x": [value]}), folder / "a.parquet")
    for name in ("a.txt", "a.json", "a.parquet"):
        findings = secret_scan.scan([folder / name], {"THE_KEY": value})
        assert any(f.kind == "value of the environment variable THE_KEY" for f in findings), name
