"""What a report draws: verbs and their objects, lengths, scores. Counts, and no text of the data but single words.

Verb and object are found without a parser: an English instruction mostly begins with an imperative, and the object is
the last word of the phrase behind it ("Write a short *story* about ...", "Give me three *tips* for ..."). Questions,
other languages and verbs that are not in [`VERBS`] count as `without`. Self-Instruct's figure was made with a parser;
this finds a pair in two of three of Alpaca's instructions.
"""

from __future__ import annotations

from collections import Counter

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from .. import flat
from .pairs import column, pairs_of, units

VERBS = frozenset(
    "add advise analyse analyze answer apply argue arrange assemble assess assign assume brainstorm build calculate "
    "categorise categorize change check choose cite clarify classify combine come comment compare compile complete "
    "compose compute construct continue contrast convert copy correct count craft create criticize critique deduce "
    "define delete demonstrate derive describe design detect determine develop diagnose discuss divide draft draw "
    "edit elaborate estimate evaluate examine expand explain explore extend extract fill filter find fix form "
    "formulate generate get give group guess help highlight identify illustrate imagine implement improve include "
    "infer insert interpret introduce invent invert judge justify label list locate make match measure modify "
    "multiply name note offer optimize order organise organize outline output paraphrase parse pick plan predict "
    "prepare present print produce propose prove provide punctuate put rank rate read rearrange recommend "
    "reconstruct reduce rephrase replace report research respond restate restructure return reverse review revise "
    "reword rewrite round search select separate share shorten show simplify simulate solve sort specify spell "
    "split state structure substitute suggest summarise summarize synthesize tag take tell think transcribe "
    "transform translate turn update use verify visualize write".split()
)
# Before the verb; then the verb; then the words up to one that ends the phrase.
POLITE = (
    r"(?:(?:please|kindly|now|then|next|first|can you|could you|would you|will you|i want you to|i would like you to|"
    r"i need you to|your task is to|you are asked to|you need to|you have to|you should|help me|try to|in this task,?|"
    r"you will|using [^,.:]{1,60},|given [^,.:]{1,80},|based on [^,.:]{1,80},|for [^,.:]{1,60},|in [^,.:]{1,60},)"
    r"[\s,:]*)*"
)
ENDS = (
    r"(?: (?:of|for|to|in|on|about|with|without|that|which|who|whose|from|by|into|between|using|and|or|as|at|so|how|"
    r"why|what|if|when|where|whether|because|is|are|has|have|was|were|based|given|following|below|above|describing|"
    r"explaining|containing|including|regarding|per|than|like|such|i|you|we|it)\b|[^\pL\pM '’\-]|\z)"
)
PHRASE = rf"\A\s*{POLITE}(?P<verb>[a-z]+)(?P<phrase>(?: [\pL\pM'’\-]+)*?){ENDS}"
NO_OBJECT = frozenset(
    "me us you him her them it this these those that the a an your my our their its all any some each every both one "
    "two three four five six seven eight nine ten more most least up out down off following given below above first "
    "second next out if-then whether not".split()
)


def verb_objects(table: pa.Table, verbs: int = 20, objects: int = 4) -> tuple[pa.Table, dict]:
    """The commonest verbs of the instructions, and for each its commonest objects, as in Self-Instruct's figure.

    Args:
        table (`pa.Table`): Records; each row's first instruction counts.
        verbs (`int`, *optional*, defaults to 20): How many verbs.
        objects (`int`, *optional*, defaults to 4): How many objects of each.

    Returns:
        `pa.Table`: `verb`, `object`, `count` and `verb_count` (with any object), the commonest first.
        `dict`: `instructions`, `with_pair`, `without`, `verbs` and `pairs` (different ones), and `entropy` of the
        pairs in bits: the higher, the more diverse.
    """
    found = pc.extract_regex(pc.utf8_lower(_first(table)), PHRASE)
    pairs: Counter[tuple[str, str]] = Counter()
    names = [pc.fill_null(pc.struct_field(found, name), "").to_pylist() for name in ("verb", "phrase")]
    # The same few thousand phrases again and again: Python sees each once.
    for (verb, phrase), count in Counter(zip(*names, strict=True)).items():
        noun = _noun(phrase)
        if verb in VERBS and noun:
            pairs[verb, noun] += count
    by_verb: Counter[str] = Counter()
    for (verb, _), count in pairs.items():
        by_verb[verb] += count
    rows = []
    for verb, total in sorted(by_verb.items(), key=lambda entry: (-entry[1], entry[0]))[:verbs]:
        own = sorted(((-count, noun) for (other, noun), count in pairs.items() if other == verb))[:objects]
        rows += [{"verb": verb, "object": noun, "count": -count, "verb_count": total} for count, noun in own]
    shares = np.array(list(pairs.values()), dtype=float) / max(sum(pairs.values()), 1)
    summary = {
        "instructions": len(found),
        "with_pair": sum(pairs.values()),
        "without": len(found) - sum(pairs.values()),
        "verbs": len(by_verb),
        "pairs": len(pairs),
        "entropy": round(float(-(shares * np.log2(shares)).sum()), 4) if len(shares) else 0.0,
    }
    kinds = {"verb": pa.string(), "object": pa.string(), "count": pa.int64(), "verb_count": pa.int64()}
    return pa.Table.from_pylist(rows, pa.schema(kinds)), summary


def _noun(phrase: str) -> str:
    """The last word of a phrase, singular where that takes no more than an s; empty where there is none."""
    words = [word.strip("'’-") for word in phrase.split()]
    word = words[-1] if words else ""
    if word in NO_OBJECT or len(word) < 2:
        return ""
    if word.endswith("ies") and len(word) > 4 and word not in ("movies", "series", "species", "cookies"):
        return word[:-3] + "y"
    keeps = ("ss", "us", "is", "news", "series", "species", "sses", "ches", "shes", "xes")
    return word[:-1] if word.endswith("s") and not word.endswith(keeps) and len(word) > 3 else word


def _first(table: pa.Table) -> pa.Array:
    """The first instruction of each row that has one."""
    pairs = pairs_of(table)
    _, first = np.unique(pairs["row"].to_numpy(), return_index=True)
    return column(pairs, "instruction").take(pa.array(first))


def lengths(table: pa.Table, by: str = "task") -> pa.Table:
    """How long prompts and answers are, for each task: a histogram in powers of two, and quartiles.

    Args:
        table (`pa.Table`): Records.
        by (`str`, *optional*, defaults to `"task"`): The column that groups rows, such as `source`; rows without a
            value, or all where the column is missing, are one group with a null name.

    Returns:
        `pa.Table`: `group`; `text` (`prompt` or `answer`); `pairs`, how many; `quartiles` of the words, minimum and
        maximum included (5 numbers); and `counts`, of which number 0 counts empty texts and number i those of
        2**(i-1) to 2**i - 1 words.
    """
    pairs = pairs_of(table)
    rows = pairs["row"].to_numpy()
    names = (
        flat.one_array(table[by]).cast(pa.string())
        if by in table.column_names
        else pa.nulls(table.num_rows, pa.string())
    )
    groups = names.take(pa.array(rows)).dictionary_encode(null_encoding="encode")
    codes = groups.indices.to_numpy(zero_copy_only=False)
    prompts = units(column(pairs, "instruction")) + units(column(pairs, "context"))
    result = []
    for code, name in sorted(enumerate(groups.dictionary.to_pylist()), key=lambda entry: (entry[1] is None, entry[1])):
        for text, words in (("prompt", prompts), ("answer", pairs["words"].to_numpy())):
            own = words[codes == code]
            bins = np.ceil(np.log2(own + 1)).astype(np.int64)
            quartiles = np.quantile(own, [0, 0.25, 0.5, 0.75, 1])
            result.append((name, text, len(own), quartiles.tolist(), np.bincount(bins).tolist()))
    kinds = (pa.string(), pa.string(), pa.int64(), pa.list_(pa.float64()), pa.list_(pa.int64()))
    columns = zip(*result, strict=True) if result else [[] for _ in kinds]
    arrays = [pa.array(list(values), kind) for values, kind in zip(columns, kinds, strict=True)]
    return pa.table(arrays, names=["group", "text", "pairs", "quartiles", "counts"])


def score_histograms(scores: pa.Table, bins: int = 20) -> pa.Table:
    """Histograms of what [`scores`] returned.

    Returns:
        `pa.Table`: `score`, its name; `mean`; `missing`, rows without one; `counts` of `bins` equal steps from 0 to 1.
    """
    rows = []
    for name in scores.column_names:
        values = scores[name].drop_null().to_numpy()
        counts, _ = np.histogram(values, bins=bins, range=(0, 1))
        mean = float(values.mean()) if len(values) else None
        rows.append({"score": name, "mean": mean, "missing": scores[name].null_count, "counts": counts.tolist()})
    kinds = {"score": pa.string(), "mean": pa.float64(), "missing": pa.int64(), "counts": pa.list_(pa.int64())}
    return pa.Table.from_pylist(rows, pa.schema(kinds))
