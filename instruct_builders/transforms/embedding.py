"""Texts -> vectors, by a function of the user's own or a model by its name."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable

import numpy as np
import pyarrow as pa

from ..errors import ConfigError
from .functions import function_of

EXAMPLE = "sentence-transformers/all-MiniLM-L6-v2"


def check_embed(embed: Callable | str | None) -> None:
    """Raises a [`ConfigError`] where `embed` can't embed: what can be known before a row is read."""
    if embed is None or embed == "":
        raise ConfigError(
            f"embed: give a sentence-transformers model, such as {EXAMPLE}, or a function "
            "from texts to vectors, in YAML as module:function."
        )
    if callable(embed):
        return
    if not isinstance(embed, str):
        raise ConfigError(f"embed={embed!r} is neither a function nor the name of one or of a model.")
    if ":" in embed and not os.path.isdir(embed):
        function_of(embed, "embed")
    elif importlib.util.find_spec("sentence_transformers") is None:
        raise ConfigError(
            f"embed={embed!r}: a model by its name takes the extra 'embed': pip install "
            "instruct-builders[embed]. Without it give module:function."
        )


def embedder(embed: str) -> Callable:
    """The function that is named, or the `encode` of the model that is."""
    if ":" in embed and not os.path.isdir(embed):
        return function_of(embed, "embed")
    from sentence_transformers import SentenceTransformer

    name, _, revision = (embed, "", "") if os.path.isdir(embed) else embed.partition("@")
    try:
        model = SentenceTransformer(name, revision=revision or None)
    except (OSError, ValueError) as error:
        raise ConfigError(f"embed={embed!r} can't be loaded: {error}") from error
    return lambda texts: model.encode(texts, show_progress_bar=False, convert_to_numpy=True)


def embedded(embed: Callable, texts: pa.Array) -> np.ndarray:
    """Unit vectors, float32, shape (texts, dimensions); what is no such thing, or an error, is a [`ConfigError`]."""
    try:
        vectors = np.asarray(embed(texts.to_pylist()), np.float32)
    except Exception as error:  # the user's own function: whatever it raises
        raise ConfigError(
            f"embed failed on a batch of {len(texts)} texts: {type(error).__name__}: {error}. It is called with a "
            "list of texts and gives an array of floats, one row per text."
        ) from error
    if vectors.ndim != 2 or len(vectors) != len(texts) or not np.isfinite(vectors).all() or not vectors.any(1).all():
        raise ConfigError(
            f"embed gave an array of shape {vectors.shape} for {len(texts)} texts: one finite, "
            "non-zero row per text is needed."
        )
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
