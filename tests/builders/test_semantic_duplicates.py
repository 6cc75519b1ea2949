"""Duplicates by meaning: functions, and models by their name, that embed; and how far apart rows are."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from instruct_builders import transforms
from instruct_builders.errors import ConfigError
from instruct_builders.transforms import spread


def table_of(texts: list[str]) -> pa.Table:
    return pa.table({"messages": [[{"role": "user", "content": text}] for text in texts]})


def rejected(table: pa.Table) -> list[int]:
    return [row for row, why in enumerate(table["rejected"].to_pylist()) if why]


@pytest.fixture(scope="module")
def small_model(tmp_path_factory) -> str:
    """A sentence-transformers model with random weights, in a folder."""
    sentence_transformers = pytest.importorskip("sentence_transformers", reason="the extra 'embed' is not installed")
    import torch
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
    from transformers import BertConfig, BertModel, BertTokenizerFast

    folder = tmp_path_factory.mktemp("model")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"name a an tree bird river please list of the".split()]
    (folder / "vocab.txt").write_text("\n".join(words), encoding="utf-8")
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(words), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32
    )
    BertModel(config).save_pretrained(folder / "bert")
    BertTokenizerFast(str(folder / "vocab.txt")).save_pretrained(folder / "bert")
    bert = Transformer(str(folder / "bert"))
    whole = sentence_transformers.SentenceTransformer(modules=[bert, Pooling(16)], device="cpu")
    whole.save(str(folder / "whole"))
    return str(folder / "whole")


def test_a_model_goes_by_its_folder_or_name(small_model):
    texts = ["name a tree", "Name a TREE", "list the birds of a river", "name a tree please"]
    step = {"semantic_duplicates": {"embed": small_model, "threshold": 0.9999}}
    result, (account,) = transforms.apply(table_of(texts), [step])
    assert rejected(result) == [1] and account["clusters"] == 1  # its tokenizer knows no upper case
    assert result["rejected"][1].as_py()["detail"] == "cosine similarity 1.000 with row 0"
    assert account["spread"]["of"] == "embeddings" and account["spread"]["rows"] == 4
    assert 1 < account["spread"]["vendi"] < 4
    again, _ = transforms.apply(table_of(texts), [step])
    assert again.equals(result)
    with pytest.raises(ConfigError, match=r"embed='org/nothing@main' can't be loaded"):
        transforms.apply(table_of(texts), [{"semantic_duplicates": {"embed": "org/nothing@main"}}])


def test_without_the_extra_its_pip_line_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install instruct-builders\[embed\]"):
        transforms.check([{"semantic_duplicates": {"embed": "org/model"}}])


@pytest.mark.parametrize(
    ("embed", "message"),
    [
        (None, "embed: give a sentence-transformers model"),
        (3, "neither a function nor the name"),
        ("own_model:nothing", "can't be imported"),
        ("os:sep", "is a str, and no function"),
    ],
)
def test_what_can_not_embed_is_refused_before_a_row_is_read(embed, message):
    with pytest.raises(ConfigError, match=message):
        transforms.check([{"semantic_duplicates": {"embed": embed}}])


def test_semantic_duplicates_go_by_the_embeddings():
    vectors = {"king": [1.0, 0.0], "ruler": [0.99, 0.1], "apple": [0.0, 2.0], "pear": [0.1, 1.0]}
    asked = []

    def embed(texts: list[str]) -> np.ndarray:
        asked.append(len(texts))
        return np.array([vectors[text] for text in texts])

    counts = Counter()
    table = table_of([*vectors, ""])
    result = transforms.semantic_duplicates(table, embed=embed, batch_size=3, counts=counts)
    assert rejected(result) == [1, 3] and asked == [3, 1] and counts["clusters"] == 2
    assert counts["largest"] == [{"row": 0, "id": None, "rows": 2}, {"row": 2, "id": None, "rows": 2}]
    assert result["rejected"][1].as_py()["detail"] == "cosine similarity 0.995 with row 0"
    with pytest.raises(ConfigError, match=r"shape \(4, 3\).*non-zero row per text"):
        transforms.semantic_duplicates(table, embed=lambda texts: np.zeros((4, 3)))


def test_of_several_parts_the_smallest_similarity_counts():
    vectors = {"king": [1.0, 0.0], "ruler": [0.99, 0.1], "apple": [0.0, 2.0], "pear": [0.1, 1.0]}
    long = " ".join(f"word{number}" for number in range(10))
    rows = [("king", "apple"), ("ruler", "pear"), ("king", "king"), ("ruler", "")]
    turns = [
        [{"role": "user", "content": question}, {"role": "assistant", "content": f"{answer} {long}" if answer else ""}]
        for question, answer in [*rows, ("king", "apple")]
    ]
    table = pa.table({"messages": turns, "context": [None, None, None, None, "king"]})

    def embed(texts: list[str]) -> np.ndarray:
        return np.array([vectors[text.split()[0]] for text in texts])

    for by, gone in {"instruction": [1, 2, 3], "output": [1, 4], "both": [1]}.items():
        result = transforms.semantic_duplicates(table, embed=embed, by=by, prefer="earlier")
        assert rejected(result) == gone
    short = pa.table({"messages": [[turn[0], {"role": "assistant", "content": "apple"}] for turn in turns[:2]]})
    assert rejected(transforms.semantic_duplicates(short, embed=embed)) == [1]
    assert rejected(transforms.semantic_duplicates(short, embed=embed, by="both")) == []  # an answer of one word


def test_what_embed_raises_is_told_as_its_own():
    def embed(texts: list[str]) -> np.ndarray:
        raise RuntimeError("CUDA out of memory")

    with pytest.raises(ConfigError, match="embed failed on a batch of 2 texts: RuntimeError: CUDA out of memory"):
        transforms.semantic_duplicates(table_of(["a", "b"]), embed=embed)


def test_embed_can_be_named(tmp_path: Path, monkeypatch):
    (tmp_path / "own_model.py").write_text("def encode(texts):\n    return [[len(text), 1.0] for text in texts]\n")
    monkeypatch.syspath_prepend(tmp_path)
    step = {"semantic_duplicates": {"embed": "own_model:encode", "threshold": 0.999}}
    result, _ = transforms.apply(table_of(["four", "five", "a"]), [step])
    assert rejected(result) == [1]


def test_spread_by_hand():
    same = spread.of_vectors(np.tile([0.6, 0.8], (5, 1)))
    assert same == {"rows": 5, "mean_distance": 0.0, "vendi": 1.0}
    assert spread.of_vectors(np.eye(4)) == {"rows": 4, "mean_distance": 1.0, "vendi": 4.0}
    # Two groups of two: eigenvalues 1/2 and 1/2; of the 6 pairs 4 are 1 apart.
    groups = spread.of_vectors(np.array([[1.0, 0], [1, 0], [0, 1], [0, 1]]))
    assert groups == {"rows": 4, "mean_distance": 0.6667, "vendi": 2.0}
    assert spread.of_vectors(np.eye(1)) == {"rows": 1, "mean_distance": None, "vendi": None}


def test_spread_of_words_is_of_a_seeded_sample_of_open_rows():
    texts = [f"Name the {n}th river of {n * 7} countries" for n in range(50)]
    alike = spread.spread(table_of(["Name a river"] * 50))
    apart = spread.spread(table_of(texts))
    assert alike == {"of": "words", "rows": 50, "mean_distance": 0.0, "vendi": 1.0}
    assert apart["mean_distance"] > 0.2 and apart["vendi"] > 10
    mixed = table_of(["Name a river"] * 25 + texts[:25])
    some = spread.spread(mixed, sample=10, seed=1)
    assert some["rows"] == 10 and some == spread.spread(mixed, sample=10, seed=1)
    assert some != spread.spread(mixed, sample=10, seed=2)
    assert spread.spread(table_of(["", "!"]))["rows"] == 1  # signs are words where there is nothing else
