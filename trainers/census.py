"""What is in the rows of a run: counted, never changed."""

from __future__ import annotations

import hashlib
import json
import unicodedata
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from instruct_builders import formats
from instruct_builders.errors import RowError, TemplateError
from instruct_builders.formats import native
from instruct_builders.loading import BUILDERS
from instruct_builders.records import RECORD

from . import control_tokens, conversations, labelling, outcomes, supervision, templates
from .labels import IGNORED

if TYPE_CHECKING:
    import datasets
    from transformers import PreTrainedTokenizerBase

PERCENTILES = (50, 90, 99)
BINS = 40  # bars of the histogram
DETAILS = 5  # rows named per reason
LOOKED_AT = 256  # rows whose labels are explained in full, at some 6 ms each


def columns(raw: datasets.Dataset, given: str) -> dict:
    """The format that the rows are read as, and which of their columns that leaves unread."""
    name = formats.detect(raw[0]) if given == "auto" else given
    own = {*native.REQUIRED[name], *native.OPTIONAL[name], *native.TURNS}
    names = list(raw.column_names)
    if raw.info.builder_name in BUILDERS and "meta" in names:  # of raw files; our builder keeps strangers there
        names.remove("meta")
        names += dict.fromkeys(key for meta in raw["meta"] for key in meta or {})
    read = [column for column in names if column in own]
    # Where a row comes from is known not to be for the model.
    unread = [column for column in names if column not in own | set(RECORD.names)]
    return {"format": name, "read": read, "unread": unread}


def roles(raw: datasets.Dataset, rows: datasets.Dataset) -> dict[str, int]:
    """`"human -> user"`: turns. Only the new name where the format has none of its own."""
    new = [[turn["role"] for turn in turns] for turns in rows["messages"][:]]
    column = next((name for name in native.TURNS if name in raw.column_names), None)
    key = "role"
    old = new
    if column is not None:
        first = next((turn for turns in raw[column][:] for turn in turns or []), {})
        key = "from" if "from" in first else "role"
        old = [[turn.get(key) for turn in turns or []] for turns in raw[column][:]]
    found: Counter = Counter()
    for before, after in zip(old, new, strict=True):
        if len(before) == len(after):
            found.update(a if a == b else f"{a} -> {b}" for a, b in zip(before, after, strict=True))
        else:  # a system text in a column of its own
            found.update(after)
    return dict(sorted(found.items()))


def left_out(labelled: datasets.Dataset) -> dict[str, list[dict]]:
    """The first rows per reason with what is said about them."""
    became = np.asarray(labelled["outcome"][:])
    found = {}
    for reason in sorted(set(became.tolist()) - {"whole"}):
        some = labelled.select_columns(["row", "detail", "tokens", "length"]).select(
            np.flatnonzero(became == reason)[:DETAILS]
        )
        found[reason] = [dict(entry) for entry in some]
    return found


def lengths(tokens: np.ndarray, limit: int | None) -> dict:
    """Percentiles and a histogram of tokens per conversation, before any cut; rows without ids are not counted."""
    tokens = tokens[tokens > 0]
    if not len(tokens):
        return {"rows": 0}
    counts, edges = np.histogram(tokens, bins=min(BINS, max(int(tokens.max()), 1)), range=(0, int(tokens.max())))
    return {
        "rows": len(tokens),
        **{f"p{share}": int(np.percentile(tokens, share, method="higher")) for share in PERCENTILES},
        "max": int(tokens.max()),
        "mean": round(float(tokens.mean()), 1),
        "limit": limit,
        "over": int((tokens > limit).sum()) if limit else 0,
        "histogram": {"edges": edges.round(1).tolist(), "rows": counts.tolist()},
    }


def tokens(train: datasets.Dataset) -> dict:
    """Tokens of one epoch, and how many of them are learned."""
    total, trained = int(np.sum(train["length"][:])), int(np.sum(train["trained"][:]))
    return {"total": total, "trained": trained, "share": trained / total if total else 0.0}


def _flat(train: datasets.Dataset) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Ids, labels and row of every token."""
    table = train.with_format("arrow")[:]
    ids, labels = (table[name].combine_chunks().flatten().to_numpy() for name in ("input_ids", "labels"))
    return ids, labels, np.repeat(np.arange(len(train)), np.asarray(train["length"][:], int))


def bos(train: datasets.Dataset, tokenizer: PreTrainedTokenizerBase) -> dict:
    """Rows per number of BOS tokens. A BOS that is also the EOS says nothing."""
    token = tokenizer.bos_token_id
    if token is None or token == tokenizer.eos_token_id or not len(train):
        return {"token": tokenizer.bos_token, "wanted": False, "rows": {}}
    ids, _, row = _flat(train)
    each = np.bincount(row[ids == token], minlength=len(train))
    found = Counter(each.tolist())
    wanted = templates.adds_bos(tokenizer)
    return {"token": tokenizer.bos_token, "wanted": wanted, "rows": {str(n): found[n] for n in sorted(found)}}


def boundaries(labelled: datasets.Dataset, rows: datasets.Dataset, tokenizer, template: str) -> dict:
    """What the rules had to decide at the borders of answers, in `LOOKED_AT` rows spread over all that are used.

    Args:
        labelled (`datasets.Dataset`): From [`trainers.labelling.label_all`].
        rows (`datasets.Dataset`): The conversations it was made from.
        tokenizer (`PreTrainedTokenizerBase`): Theirs.
        template (`str`): The chat template's text.

    Returns:
        `dict`: `rows` looked at `of` those used, and their trained `answers`; `straddling` tokens that are partly an
        answer's and so not learned; `supplied` characters of answers that the generation prompt supplies already;
        `unprinted`: field of a message -> how many the template leaves out; `disagreements`: `rule`, what the
        template's `markers` do against it, how many `times`, and the first `text` (the labels follow the rule);
        `has_markers`.
    """
    places = np.unique(np.asarray(outcomes.used(labelled)["row"][:], int))
    some = places[np.unique(np.linspace(0, len(places) - 1, min(LOOKED_AT, len(places)), dtype=int))]
    told: dict = {"rows": 0, "of": len(places), "answers": 0, "straddling": 0, "supplied": 0}
    unprinted, disagreements = Counter(), {}
    batch = rows.select(some).with_format(None)[:] if len(some) else {}
    for place in range(len(some)):
        row = labelling.row_of(batch, place)
        try:
            found = supervision.explain(tokenizer, row["messages"], template, row["tools"], **row["variables"])
        except (RowError, TemplateError):  # used all the same: its typed special tokens were escaped
            continue
        told["rows"] += 1
        told["answers"] += len(found.turns)
        told["straddling"] += found.straddling
        told["supplied"] += found.supplied
        unprinted.update(field for _, field in found.left_out)
        for one in found.disagreements:
            rule, markers, text = one["rule"], one["markers"], one["text"]
            disagreements.setdefault((rule, markers), {"rule": rule, "markers": markers, "text": text, "times": 0})
            disagreements[rule, markers]["times"] += 1
    told |= {"unprinted": dict(unprinted.most_common()), "disagreements": list(disagreements.values())}
    return told | {"has_markers": templates.has_markers(template)}


def stops(train: datasets.Dataset, tokenizer: PreTrainedTokenizerBase, tokens: Sequence[int] = ()) -> dict:
    """Whether every learned stretch of tokens ends with an end-of-turn token, which the model must learn to write.

    Blank text behind it does no harm. A row that was cut at a token is not held to it, and counted apart.

    Args:
        train (`datasets.Dataset`): Labelled rows.
        tokenizer (`PreTrainedTokenizerBase`): Its EOS is one of the tokens that end a turn.
        tokens (`Sequence[int]`, *optional*): The others, from [`templates.stops`].
    """
    tokens = sorted({tokenizer.eos_token_id, *tokens})
    found = {"token": tokenizer.eos_token, "answers": 0, "without": 0, "rows_without": [], "cut": 0, "rows_cut": 0}
    if not len(train):
        return found
    ids, labels, row = _flat(train)
    learned = labels != IGNORED
    blank = {token for token in np.unique(ids[learned]).tolist() if not tokenizer.decode([token]).strip()}
    solid = learned & ~np.isin(ids, sorted(blank - {*tokens}))
    place = np.flatnonzero(learned)
    breaks = (np.diff(place) > 1) | (np.diff(row[place]) > 0)
    stretch = np.zeros(len(ids), int)
    stretch[place] = np.concatenate([[0], np.cumsum(breaks)]) if len(place) else []
    ends = np.flatnonzero(solid)
    ends = ends[np.append(np.diff(stretch[ends]) > 0, True)] if len(ends) else ends
    missing = ends[~np.isin(ids[ends], tokens)]
    cut = np.asarray([outcome == "tokens_cut" for outcome in train["outcome"][:]])
    source = np.asarray(train["row"][:])
    lacks = np.unique(row[missing])
    without = int((~cut[row[missing]]).sum())
    found |= {"answers": len(ends), "without": without, "cut": len(missing) - without, "rows_cut": int(cut.sum())}
    return found | {"rows_without": source[lacks[~cut[lacks]]][:DETAILS].tolist()}


def specials(rows: datasets.Dataset, tokenizer: PreTrainedTokenizerBase) -> dict[str, int]:
    """Special tokens typed in messages, tools or variables, whatever the policy makes of them."""
    pattern = control_tokens.pattern(tokenizer)
    return dict(sum((control_tokens.typed(pattern, list(row.values())) for row in rows), Counter()).most_common())


def twins(rows: datasets.Dataset, train: datasets.Dataset, more: datasets.Dataset, test) -> dict:
    """Conversations that are there twice, and test rows that are trained on: exact, and but for case and blanks."""
    same = rows is more
    used = set(train["row"][:]) if len(train) else set()
    held = list(dict.fromkeys(test["row"][:])) if test is not None else []
    found: dict = {}
    for kind, key in (("exact", _said), ("normalised", _normalised)):
        keys = [key(row) for row in rows]
        theirs = keys if same else [key(row) for row in more]
        seen = {keys[place] for place in used}
        overlap = [place for place in held if theirs[place] in seen]
        found[kind] = {"duplicates": len(keys) - len(set(keys)), "overlap": len(overlap), "rows": overlap[:DETAILS]}
    return found


def parts(train: datasets.Dataset, raw: datasets.Dataset, test: datasets.Dataset | None, more) -> int:
    """Conversations that are trained on in one part and tested in another, told by `parent` (see `families`).

    Args:
        train (`datasets.Dataset`): Labelled rows.
        raw (`datasets.Dataset`): The rows they were made from.
        test (`datasets.Dataset`, *optional*): Labelled rows.
        more (`datasets.Dataset`): The rows those were made from.
    """
    if test is None or any("parent" not in rows.column_names for rows in (raw, more)):
        return 0
    ours, theirs = (
        {families[row].as_py() for row in np.unique(np.asarray(labelled["row"][:], int))} if families else set()
        for labelled, families in ((train, conversations.families(raw)), (test, conversations.families(more)))
    )
    return len(ours & theirs & ({*raw.unique("parent"), *more.unique("parent")} - {None}))


def _said(row: dict) -> bytes:
    told = json.dumps([row[name] for name in sorted(row)], ensure_ascii=False, sort_keys=True, default=str)
    return hashlib.blake2b(told.encode("utf-8", "surrogatepass"), digest_size=16).digest()


def _normalised(row: dict) -> bytes:
    told = json.dumps([row[name] for name in sorted(row)], ensure_ascii=False, sort_keys=True, default=str)
    told = " ".join(unicodedata.normalize("NFKC", told).casefold().replace("\\n", " ").split())
    return hashlib.blake2b(told.encode("utf-8", "surrogatepass"), digest_size=16).digest()
