"""The language of whole conversations, by lingua (the optional extra `lang`)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ..errors import ConfigError, did_you_mean
from . import flat

SLICE = 2_000  # rows whose text is in memory at a time
CODE = r"(?s)```.*?(?:```|\z)|~~~.*?(?:~~~|\z)|`[^`\n]*`|https?://\S+"  # no language to tell from these


def language(
    table: pa.Table,
    keep: Sequence[str] | str | None = None,
    skip: Sequence[str] | str | None = None,
    min_confidence: float = 0.5,
    min_letters: int = 20,
    max_chars: int | None = 4_000,
    languages: Sequence[str] | None = None,
    undetermined: str = "keep",
    counts: Counter | None = None,
) -> pa.Table:
    """Rejects conversations that are not in one of the languages to keep, or are in one to skip, as `wrong_language`.

    The language is that of all user and assistant turns together, without code and addresses. It can't be told, and
    the row is kept and counted as `undetermined`, where there are fewer than `min_letters` letters or the likeliest
    language is less likely than `min_confidence`.

    Args:
        table (`pa.Table`): Records.
        keep (`Sequence[str]`, *optional*): ISO 639-1 codes, such as `["en"]`. Give this or `skip`.
        skip (`Sequence[str]`, *optional*): ISO 639-1 codes.
        min_confidence (`float`, *optional*, defaults to 0.5): Between 0 and 1.
        min_letters (`int`, *optional*, defaults to 20): UTF-8 bytes of letters: a Latin letter counts as one, a
            Cyrillic one as two, a Chinese one as three, as each says that much more.
        max_chars (`int`, *optional*, defaults to 4000): Characters that are looked at, from the beginning; null for
            all.
        languages (`Sequence[str]`, *optional*): The languages to choose between, instead of all 75: faster, and takes
            less memory than the 1 GB of all, but a text in any other language is taken for one of them.
        undetermined (`str`, *optional*, defaults to `"keep"`): `"reject"` rejects those too.
        counts (`collections.Counter`, *optional*): Gets the number of `undetermined` rows.

    Raises:
        ConfigError: If lingua is not installed, or a code or another argument is not known.
    """
    keep, skip = _codes(keep), _codes(skip)
    if bool(keep) == bool(skip):
        raise ConfigError(f"language: give either keep or skip, such as keep: [en]; got keep={keep}, skip={skip}.")
    if undetermined not in ("keep", "reject"):
        raise ConfigError(f"language: undetermined={undetermined!r} is not known; it is 'keep' or 'reject'.")
    candidates = _codes(languages)
    detector = detector_of(candidates, keep + skip)
    names, confidences = [], []
    for start in range(0, table.num_rows, SLICE):
        found = _detect(detector, table.slice(start, SLICE), min_letters, max_chars)
        names += [name for name, _ in found]
        confidences += [confidence for _, confidence in found]
    name, confidence = np.array(names, dtype=object), np.array(confidences, dtype=float)
    told = (confidence >= min_confidence) & np.array([name is not None for name in names], dtype=bool)
    considered = flat.open_rows(table)
    if counts is not None:
        counts["undetermined"] += int((considered & ~told).sum())
    listed = np.isin(name.astype(str), keep + skip)
    wrong = told & (~listed if keep else listed)
    details = [f"{code}, confidence {share:.2f}" for code, share in zip(name[wrong], confidence[wrong], strict=True)]
    table = flat.reject(table, wrong, "wrong_language", "messages", details)
    if undetermined == "reject":
        return flat.reject(table, ~told, "wrong_language", "messages", "can't be told")
    return table


def _codes(codes: Sequence[str] | str | None) -> tuple[str, ...]:
    return (codes.lower(),) if isinstance(codes, str) else tuple(code.lower() for code in codes or ())


@lru_cache(maxsize=2)
def detector_of(candidates: tuple[str, ...], asked: tuple[str, ...]):
    try:
        from lingua import Language, LanguageDetectorBuilder
    except ImportError:
        raise ConfigError(
            'language: needs lingua, which is not installed. Do: pip install "instruct-builders[lang]"'
        ) from None
    known = {entry.iso_code_639_1.name.lower(): entry for entry in Language.all()}
    for code in candidates + asked:
        if code not in known:
            raise ConfigError(
                f"language: {code!r} is no code that is known; they are {', '.join(sorted(known))}."
                + did_you_mean(code, known)
            )
    if not candidates:
        return LanguageDetectorBuilder.from_all_languages().build()
    chosen = sorted({*candidates, *asked})
    if len(chosen) < 2:
        raise ConfigError(
            f"language: languages={list(candidates)} leaves nothing to choose between; give two or more."
        )
    return LanguageDetectorBuilder.from_languages(*(known[code] for code in chosen)).build()


def _detect(detector, table: pa.Table, min_letters: int, max_chars: int | None) -> list[tuple[str | None, float]]:
    """Likeliest language and its confidence per row; `(None, 0)` where there is too little text to tell."""
    offsets, turns = flat.flatten(table)
    spoken = np.isin(flat.roles(turns), (flat.USER, flat.ASSISTANT)) & flat.open_rows(table)[flat.row_of_turn(offsets)]
    contents = pc.fill_null(flat.text(turns.filter(pa.array(spoken))), "").cast(pa.large_string())
    new_offsets = flat.offsets_of(flat.sum_per_row(spoken, offsets))
    texts = pc.binary_join(
        pa.LargeListArray.from_arrays(pa.array(new_offsets), contents), pa.scalar("\n", pa.large_string())
    )
    texts = pc.replace_substring_regex(texts, CODE, " ")
    if max_chars is not None:
        texts = pc.utf8_slice_codeunits(texts, 0, max_chars)
    letters = pc.binary_length(pc.replace_substring_regex(texts, r"\PL+", "")).to_numpy(zero_copy_only=False)
    enough = letters >= min_letters
    found: list[tuple[str | None, float]] = [(None, 0.0)] * table.num_rows
    chosen = texts.filter(pa.array(enough)).to_pylist()
    ranked = detector.compute_language_confidence_values_in_parallel(chosen)
    for row, values in zip(np.flatnonzero(enough).tolist(), ranked, strict=True):
        if values and values[0].value > 0:
            found[row] = (values[0].language.iso_code_639_1.name.lower(), values[0].value)
    return found
