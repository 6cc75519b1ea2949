"""The bundled prompts: each has an answer, built here, that meets all its constraints, and answers that meet none."""

from __future__ import annotations

import itertools
import json
import re
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from instruct_builders.errors import ConfigError
from trainers.evaluation import results
from trainers.evaluation.instruction_following import CHECKERS, check, evaluate, languages, load, score, variants
from trainers.evaluation.instruction_following.scoring import met

PROMPTS = load()
MODEL = {"name": "org/model"}
# One plain sentence after another; a letter that may not appear leaves those with it out.
LINES = (
    "The people of the town like to walk by the river when the weather is warm and calm.",
    "They stop to talk to each other about the day and then go home to eat.",
    "It is good to rest.",
)
SENTENCES = {
    "es": "La ciudad es muy bonita y la gente pasea junto al río cuando hace buen tiempo.",
    "de": "Die Stadt ist sehr schön und die Leute gehen bei gutem Wetter am Fluss spazieren.",
    "fr": "La ville est très belle et les gens se promènent au bord du fleuve quand il fait beau.",
    "hi": "यह शहर बहुत सुंदर है और जब मौसम अच्छा होता है तो लोग नदी के किनारे टहलते हैं।",
    "ru": "Этот город очень красивый, и люди гуляют у реки, когда стоит хорошая погода.",
    "it": "La città è molto bella e la gente passeggia lungo il fiume quando fa bel tempo.",
    "pt": "A cidade é muito bonita e as pessoas passeiam junto ao rio quando não há chuva.",
    "ko": "이 도시는 매우 아름답고 날씨가 좋을 때 사람들은 강가를 산책합니다.",
    "ar": "المدينة جميلة جدا والناس يتنزهون على ضفاف النهر عندما يكون الطقس جميلا.",
    "kn": "ಈ ನಗರವು ತುಂಬಾ ಸುಂದರವಾಗಿದೆ ಮತ್ತು ಜನರು ನದಿಯ ಬಳಿ ನಡೆಯುತ್ತಾರೆ.",
}


def constraints(row: dict) -> dict[str, dict]:
    return dict(zip(row["instruction_id_list"], row["kwargs"], strict=True))


def plain_text(wanted: dict[str, dict]) -> str:
    """Sentences in the language and of the length that is asked for, with the keywords."""
    language = wanted.get("language:response_language", {}).get("language", "en")
    lines = [SENTENCES[language]] if language in SENTENCES else list(LINES)
    letters = wanted.get("keywords:letter_frequency", {})
    if letters.get("let_relation") == "less than":
        lines = [line for line in lines if letters["letter"] not in line.lower()]
    sentences, words = (wanted.get(f"length_constraints:number_{kind}", {}) for kind in ("sentences", "words"))
    fewest = [arguments.get("relation") == "at least" for arguments in (sentences, words)]
    many = max(sentences["num_sentences"] if fewest[0] else 1, words["num_words"] // 3 + 1 if fewest[1] else 1)
    if words.get("relation") == "less than" and words["num_words"] < 30:
        lines = [LINES[2]]
    text = list(itertools.islice(itertools.cycle(lines), many))
    said = list(wanted.get("keywords:existence", {}).get("keywords", []))
    counted = wanted.get("keywords:frequency", {})
    said += [counted["keyword"]] * counted["frequency"] if counted.get("relation") == "at least" else []
    if letters.get("let_relation") == "at least":
        said.append(letters["letter"] * letters["let_frequency"])
    capital = wanted.get("change_case:capital_word_frequency", {})
    said += ["STOP"] * capital["capital_frequency"] if capital.get("capital_relation") == "at least" else []
    for name, form in (("number_placeholders", "[place]"), ("number_highlighted_sections", "*part*")):
        of_id = next((arguments for identifier, arguments in wanted.items() if identifier.endswith(name)), {})
        said += [form] * sum(of_id.values())
    text[-1] = f"{text[-1].rstrip('.')} {' '.join(said)}." if said else text[-1]
    if "detectable_format:constrained_response" in wanted:
        text.append("My answer is yes.")
    return " ".join(text)


def passing(row: dict) -> str:
    """An answer that meets all constraints of a prompt, made from the constraints alone."""
    wanted = constraints(row)
    text = plain_text(wanted)
    if "combination:two_responses" in wanted:
        text = f"{text}\n******\nOne more: {text}"
    if paragraphs := wanted.get("length_constraints:number_paragraphs"):
        text = "\n\n***\n\n".join([text] * paragraphs["num_paragraphs"])
    if nth := wanted.get("length_constraints:nth_paragraph_first_word"):
        parts = [text] * nth["num_paragraphs"]
        parts[nth["nth_paragraph"] - 1] = f"{nth['first_word'].capitalize()} {text}"
        text = "\n\n".join(parts)
    if sections := wanted.get("detectable_format:multiple_sections"):
        numbers = range(1, sections["num_sections"] + 1)
        text = "\n".join(f"{sections['section_spliter']} {number}\n{text}" for number in numbers)
    if bullets := wanted.get("detectable_format:number_bullet_lists"):
        text = "\n".join([text] + [f"* {LINES[2]}"] * bullets["num_bullets"])
    if "detectable_format:title" in wanted:
        text = f"<<A title>>\n{text}"
    if note := wanted.get("detectable_content:postscript"):
        text += f"\n\n{note['postscript_marker']} {LINES[2]}"
    if repeated := wanted.get("combination:repeat_prompt"):
        text = f"{repeated['prompt_to_repeat']}\n{text}"
    if end := wanted.get("startend:end_checker"):
        text += f"\n{end['end_phrase']}"
    if "change_case:english_capital" in wanted:
        text = text.upper()
    if "change_case:english_lowercase" in wanted:
        text = text.lower()
    if "punctuation:no_comma" in wanted:
        text = text.replace(",", "")
    if "startend:quotation" in wanted:
        text = f'"{text}"'
    return json.dumps({"text": text}) if "detectable_format:json_format" in wanted else text


def breaking(identifier: str, arguments: dict, answer: str) -> str:
    """The answer, changed so that it breaks one constraint."""
    words = arguments.get("keywords") or [arguments.get("keyword", "")]
    less = "less than" in arguments.values()
    kind = identifier.split(":")[1]
    if kind in ("existence", "frequency") and not less:
        return re.sub("|".join(map(re.escape, words)), "-", answer, flags=re.IGNORECASE)
    longer = {
        "frequency": f" {words[0]}" * 20,
        "forbidden_words": f" {(arguments.get('forbidden_words') or [''])[0]}.",
        "letter_frequency": f" {arguments.get('letter', '')}" * 20,
        "number_words": " more" * 200,
        "number_sentences": " It goes on." * 30,
        "capital_word_frequency": " NO" * 20,
        "number_bullet_lists": "\n* one more",
        "number_paragraphs": "\n***\none more",
        "nth_paragraph_first_word": "\n\none more",
        "no_comma": " well, yes",
        "two_responses": "\n******\na third",
        **dict.fromkeys(("end_checker", "quotation"), " and more"),
        **dict.fromkeys(("english_capital", "english_lowercase"), " Mixed Letters"),
        "json_format": "}",
    }
    if kind == "response_language":
        return "Dette er en helt annen tekst som ingen har bedt om, og den er lang."
    if kind in ("number_words", "number_sentences", "letter_frequency", "capital_word_frequency") and not less:
        return "..."
    if kind == "repeat_prompt":
        return "Well: " + answer
    return answer + longer[kind] if kind in longer else "Nothing of the kind."


def test_the_bundled_prompts():
    assert len(PROMPTS.rows) >= 120 and PROMPTS.data["rows"] == len(PROMPTS.rows)
    assert PROMPTS.data["license"] == "apache-2.0"
    assert (
        len({row["prompt"] for row in PROMPTS.rows}) == len({row["key"] for row in PROMPTS.rows}) == len(PROMPTS.rows)
    )
    used = Counter(identifier for row in PROMPTS.rows for identifier in row["instruction_id_list"])
    assert used.keys() == CHECKERS.keys() and min(used.values()) >= 4
    assert {len(row["instruction_id_list"]) for row in PROMPTS.rows} == {1, 2, 3}


@pytest.mark.parametrize("row", PROMPTS.rows, ids=lambda row: row["key"])
def test_every_prompt_says_what_is_checked(row):
    """Texts and numbers of the arguments stand in the prompt, so nobody is asked for what only the checker knows."""
    numbers = dict(zip("one two three four five six seven eight nine ten".split(), range(1, 11), strict=True))
    said = row["prompt"].lower()
    known = {int(found) for found in re.findall(r"\d+", said)} | {n for word, n in numbers.items() if word in said}
    known |= {2} if "twice" in said else set()
    for name, value in itertools.chain.from_iterable(arguments.items() for arguments in row["kwargs"]):
        if isinstance(value, int) and name not in ("nth_paragraph", "num_sections", "num_highlights"):
            assert value in known, (name, value)
        for text in (
            value if isinstance(value, list) else [value] if name in ("keyword", "end_phrase", "letter") else []
        ):
            assert text.lower() in said, text


@pytest.mark.parametrize("row", PROMPTS.rows, ids=lambda row: row["key"])
def test_every_prompt_can_be_met_and_each_constraint_broken(row):
    if not languages.available():
        pytest.skip("the extra 'lang' is not installed")
    answer = passing(row)
    assert score(row, answer) == {way: [True] * len(row["kwargs"]) for way in ("strict", "loose")}, answer
    for identifier, arguments in constraints(row).items():
        broken = breaking(identifier, arguments, answer)
        assert check(broken, identifier, arguments) is False, (identifier, broken)
    assert not any(score(row, None)["loose"])


ROWS = st.sampled_from([row for row in PROMPTS.rows if "language" not in str(row["instruction_id_list"])])
PIECES = st.sampled_from(
    ["*a*", "\n", "Stop, now. ", "P.S. ", "[x]", "<<t>>", "******", "* b\n", '"', "SURE", "why? "]
)


@given(ROWS, st.lists(PIECES, max_size=12), st.booleans())
@settings(max_examples=150, deadline=None)
def test_loose_is_never_stricter(row, pieces, real):
    answer = "".join(pieces) + (passing(row) if real else "")
    found = score(row, answer)
    assert all(loose is not False or strict is False for strict, loose in zip(*found.values(), strict=True))
    assert answer in variants(answer)


def answered(texts: list[str | None]) -> list[dict]:
    return [
        {"id": row["key"], "turns": [text], "problems": [None if text else "empty"], "truncated": [False]}
        for row, text in zip(PROMPTS.rows, texts, strict=True)
    ]


@given(st.lists(st.sampled_from(["pass", "prefixed", "fail", None]), min_size=130, max_size=130))
@settings(max_examples=5, deadline=None)
def test_counts_add_up(kinds):
    if not languages.available():
        return
    made = {"pass": passing, "prefixed": lambda row: "Sure:\n" + passing(row), "fail": lambda row: "?"}
    texts = [None if kind is None else made[kind](row) for kind, row in zip(kinds, PROMPTS.rows, strict=True)]
    found, rows = evaluate(PROMPTS, answered(texts), model=MODEL, settings={}, seed=1)
    metrics, counts = found["metrics"], found["counts"]
    assert counts["prompts"] == metrics["prompt_strict"]["n"] + counts["prompts_not_scored"] == len(rows) == 130
    assert counts["answered"] + counts.get("no_answer_empty", 0) == 130
    of_ids = [group["instruction_strict"]["n"] for group in found["groups"].values()]
    assert sum(of_ids) == metrics["instruction_strict"]["n"] == counts["constraints"]
    for name, metric in metrics.items():
        sums = [sum(row["figures"][name][place] for row in rows) for place in (0, 1)]
        assert metric["value"] == pytest.approx(sums[0] / sums[1], abs=1e-6)
        assert metric["low"] is None or metric["low"] <= metric["value"] <= metric["high"]
    assert metrics["prompt_loose"]["value"] >= metrics["prompt_strict"]["value"] >= kinds.count("pass") / 130
    assert met([None, False]) is False and met([None, True]) is None


def test_what_cannot_be_checked_is_counted_and_said(monkeypatch, tmp_path):
    monkeypatch.setattr(languages, "_detector", lambda: (None, frozenset()))
    found, rows = evaluate(PROMPTS, answered([passing(row) for row in PROMPTS.rows]), model=MODEL, settings={})
    unchecked = found["counts"]["constraints_that_cannot_be_checked"]
    assert 10 < unchecked < 30
    assert found["counts"]["prompts_not_scored"] + found["metrics"]["prompt_strict"]["n"] == len(rows)
    assert found["metrics"]["prompt_strict"]["value"] == 1.0
    assert "instruct-builders[lang]" in found["notes"][1]
    assert results.read(results.write(found, tmp_path / "result.json")) == found
    assert evaluate(PROMPTS, answered([passing(row) for row in PROMPTS.rows]), model=MODEL, settings={})[0] == found


def test_where_nothing_can_be_checked_there_is_a_result_without_figures(monkeypatch):
    monkeypatch.setattr(languages, "_detector", lambda: (None, frozenset()))
    row = {"key": 1, "prompt": "In German.", "instruction_id_list": ["language:response_language"]}
    alone = PROMPTS._replace(rows=[row | {"kwargs": [{"language": "de"}]}], data=PROMPTS.data | {"rows": 1})
    said = [{"id": 1, "turns": ["Der Herbst ist schön."], "problems": [None], "truncated": [False]}]
    found, _ = evaluate(alone, said, model=MODEL, settings={})
    assert found["metrics"] == {} and found["counts"]["prompts_not_scored"] == 1 and "pip install" in found["notes"][1]


def test_answers_of_other_prompts_are_refused():
    with pytest.raises(ConfigError, match="not those to the 130 prompts"):
        evaluate(PROMPTS, answered(["x"] * 130)[1:], model=MODEL, settings={})
