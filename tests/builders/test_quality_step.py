"""The step `quality`: presets, scores, failures of single rows, and what it does to real data."""

from __future__ import annotations

import builtins
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import yaml

from instruct_builders import Alpaca, pipeline, records, transforms
from instruct_builders.errors import BuildError, ConfigError
from instruct_builders.transforms import quality
from instruct_builders.transforms.quality import CHECKS, SCORES, pairs_of, scores


def rows(*pairs, **columns) -> pa.Table:
    messages = [[{"role": "user", "content": q}, {"role": "assistant", "content": a}] for q, a in pairs]
    return pa.table({"messages": pa.array(messages), **columns})


def reasons(table: pa.Table) -> list:
    return [row and row["reason"] for row in table["rejected"].to_pylist()]


OWL = ("Name a bird.", "An owl.")
REFUSED = ("Name a bird.", "I'm sorry, but I can't assist with that.")


def test_every_drop_has_its_own_reason_and_is_counted():
    table = rows(OWL, REFUSED, ("Name a bird.", "N/A"), ("Add.", "1 + 1 = 3"), ("Name a bird.", "Owl\x07"))
    table, (account,) = transforms.apply(table, [{"quality": {"preset": "default"}}])
    assert reasons(table) == [None, "refusal", "empty_output", "wrong_arithmetic", "control_character"]
    assert account["rejected"] == {"control_character": 1, "empty_output": 1, "refusal": 1, "wrong_arithmetic": 1}
    assert account["rows_in"] == account["rows_out"] + 4
    assert all(
        row is None or (row["field"] == "messages[1].content" and row["detail"])
        for row in table["rejected"].to_pylist()
    )


def test_one_bad_answer_drops_a_conversation_and_names_it():
    turns = [
        {"role": role, "content": text}
        for pair in (OWL, REFUSED)
        for role, text in zip(("user", "assistant"), pair, strict=True)
    ]
    table, _ = transforms.apply(pa.table({"messages": [turns]}), ["quality"])
    assert table["rejected"].to_pylist()[0]["field"] == "messages[3].content"


def test_rejected_rows_are_left_alone():
    why = pa.array([{"reason": "nul", "field": None, "detail": None}, None], records.REJECTED)
    table, _ = transforms.apply(rows(REFUSED, OWL, rejected=why), ["quality"])
    assert reasons(table) == ["nul", None]


@pytest.mark.parametrize("name", quality.PRESETS)
def test_presets_name_what_there_is(name):
    plan = quality.load(name)
    assert plan["scores"] and 0 < plan["keep_at"] < 1
    written = yaml.safe_load(Path(quality.__file__).with_name(f"{name}.yaml").read_text("utf-8"))
    assert list(written.get("checks") or {}) == list(plan["checks"])


def test_default_uses_every_check_but_the_hook():
    assert quality.load("default")["checks"].keys() == CHECKS.keys() - {"toxic"}


def test_classic_falls_where_default_does_not():
    """The published style's known weaknesses, each beside a row that `default` judges rightly."""
    table = rows(
        ("What is an illegal move in chess, and where is the drugstore of the hackathon?", "The king in check."),
        ("请介绍一下北京的历史。", "北京有着悠久的历史，曾经是许多朝代的首都。"),
        ("Name a fruit.", "Apple."),
        ("Name a bird.", "Unfortunately, I cannot provide the names of the birds. Name a bird."),
    )
    classic, default = scores(table, "classic").to_pydict(), scores(table, "default").to_pydict()
    assert classic["safety"][0] == 0 and default["category_safety"][0] == 1
    assert classic["length"][1] < 0.5 and default["fair_length"][1] == 1
    assert classic["relevance"][2] == 0 and default["fair_relevance"][2] == 1
    assert classic["relevance"][3] > 0.9 and default["fair_relevance"][3] == 0


def test_classic_formulas():
    table = rows(
        ("Name two birds.", "Owls and eagles are birds."),
        ("name a bird", "owl"),
        ("Name a bird.", "I'm sorry, no bird."),
        ("How do I hack it?", "Well. " * 1000),
    )
    found = scores(table, "classic").to_pydict()
    assert found["length"] == pytest.approx([1, 1 / 3, 1, 0.5])
    assert found["format"] == pytest.approx([1, 0, 1, 1])
    assert found["relevance"] == pytest.approx([1 / 3, 0, 0, 0])  # "name", "two", "birds"; a refusal; nothing taken up
    assert found["safety"] == [1, 1, 1, 0]
    assert found["total"] == pytest.approx(np.mean([found[name] for name in list(found)[:4]], axis=0).tolist())
    kept, _ = transforms.apply(table, [{"quality": {"preset": "classic"}}])
    low = [total < 0.6 for total in found["total"]]
    assert [reason == "low_score" for reason in reasons(kept)] == low and any(low) and not all(low)
    assert "total" in kept["rejected"].to_pylist()[low.index(True)]["detail"]


@pytest.mark.parametrize("name", SCORES)
def test_scores_lie_between_0_and_1(name):
    table = rows(
        OWL, REFUSED, ("", ""), ("a" * 5000, "b " * 9000), ("北京", "上海"), ("?", "\x00"), ("x", "kill bomb hack")
    )
    values = scores(table, {"scores": {name: None}})
    numbers = values[name].to_numpy()
    assert ((numbers >= 0) & (numbers <= 1)).all() and values["total"].equals(values[name])
    assert len(SCORES[name](pairs_of(table.slice(0, 0)))) == 0


def test_harder_tasks_score_higher():
    easy = ("Name a bird.", "Owl.")
    hard = (
        "Prove, without calculus and in at most 200 words, why there are exactly 5 regular solids. " * 2,
        "Let " * 300,
    )
    low, high = scores(rows(easy, hard), {"scores": ["difficulty"]})["total"].to_pylist()
    assert low < 0.3 < 0.7 < high


def test_a_score_can_drop_by_itself():
    preset = {"scores": {"difficulty": {"min_score": 0.3}, "safety": {}}}
    table, (account,) = transforms.apply(
        rows(OWL, ("How and why? Prove it in 5 steps, with 3 proofs.", "x " * 90)), [{"quality": {"preset": preset}}]
    )
    assert reasons(table) == ["low_score", None] and account["rejected"] == {"low_score": 1}
    assert table["rejected"].to_pylist()[0]["detail"].startswith("difficulty 0.")


def _fails_on_owls(pairs: pa.Table) -> pa.Array:
    answers = pairs["answer"].to_pylist()
    if any("owl" in answer for answer in answers):
        raise RuntimeError("no owls")
    return pa.array(["cod" if "cod" in answer else None for answer in answers], pa.string())


def test_a_check_that_raises_rejects_only_that_row(monkeypatch):
    monkeypatch.setitem(CHECKS, "refusal", _fails_on_owls)
    given = [("Name one.", answer) for answer in ["elk", "owl", "cod", "owl", "cat", "ant"]]
    table, _ = transforms.apply(rows(*given), [{"quality": {"preset": {"checks": ["refusal"]}}}])
    assert reasons(table) == [None, "check_failed", "refusal", "check_failed", None, None]
    assert table["rejected"].to_pylist()[1]["detail"] == "refusal: RuntimeError: no owls"


def test_a_score_that_raises_rejects_only_that_row(monkeypatch):
    def fails(pairs):
        if "owl" in " ".join(pairs["answer"].to_pylist()):
            raise RuntimeError("no owls")
        return np.ones(len(pairs))

    monkeypatch.setitem(SCORES, "safety", fails)
    given = [("Name one.", answer) for answer in ["elk", "owl", "cat"]]
    preset = {"scores": ["safety"], "keep_at": 0.5}
    table, _ = transforms.apply(rows(*given), [{"quality": {"preset": preset}}])
    assert reasons(table) == [None, "check_failed", None]
    assert scores(rows(*given), preset)["total"].to_pylist() == [1, None, 1]


def test_a_check_that_is_broken_stops_the_run(monkeypatch):
    def broken(pairs):
        raise RuntimeError("never works")

    monkeypatch.setitem(CHECKS, "refusal", broken)
    with pytest.raises(ConfigError, match="'refusal' fails even without a row: RuntimeError: never works"):
        transforms.apply(rows(OWL), [{"quality": {"preset": {"checks": ["refusal"]}}}])


def test_what_fails_on_every_row_is_blamed_on_itself_and_not_on_the_rows():
    """No "no row is left": the error names the check, or the score, and what it raised."""

    def out_of_reach(texts):
        raise ConnectionError("the classifier's server is down")

    preset = {"checks": {"toxic": {"classify": out_of_reach}}}
    with pytest.raises(
        ConfigError, match=r"'toxic' failed on every one of 3 answers.*ConnectionError: the classifier's"
    ):
        transforms.apply(rows(OWL, OWL, OWL), [{"quality": {"preset": preset}}])


@pytest.mark.parametrize(
    ("preset", "message"),
    [
        ({"checks": ["refusals"]}, "Did you mean 'refusal'"),
        ({"checks": {"refusal": {"asked": True}}}, "Did you mean 'asked_for'"),
        ({"checks": {"empty_output": {"x": 1}}}, "it has none"),
        ({"checks": {"toxic": {"classify": "no_such:thing"}}}, "toxic: classify='no_such:thing' can't be imported"),
        ({"checks": {"refusal": 3}}, "give {parameter: value}, not 3"),
        ({"checks": "refusal"}, "give {name: {parameter: value}}"),
        ({"scores": ["saftey"]}, "Did you mean 'safety'"),
        ({"check": ["refusal"]}, "Did you mean 'checks'"),
        ({"scores": ["safety"], "keep_at": 7}, "keep_at: 7 is given, and it must be a number from 0 to 1"),
        ({"scores": ["safety"], "keep_at": True}, "keep_at: True is given"),
        ({"scores": {"safety": {"min_score": "0.5"}}}, "safety: min_score: '0.5' is given.* number from 0 to 1"),
        ({"checks": ["refusal"], "keep_at": 0.9}, "the preset has none"),
        ({"checks": ["refusal", "refusal"]}, "refusal stands there twice"),
        ({"checks": {"truncated_output": {"min_words": "abc"}}}, "truncated_output: min_words: 'abc' .*an integer"),
        ({"checks": {"truncated_output": {"min_words": None}}}, "min_words: None is given.*integer of at least 0"),
        ({"checks": {"truncated_output": {"min_words": -5}}}, "min_words: -5 is given.*of at least 0"),
        ({"checks": {"repeated_ngrams": {"max_period": 0}}}, "max_period: 0 is given.*from 1 to 1000"),
        ({"checks": {"repeated_ngrams": {"min_share": 2}}}, "min_share: 2 is given.*a number from 0 to 1"),
        ({"checks": {"refusal": {"asked_for": 1}}}, "asked_for: 1 is given.*true or false"),
        ({"checks": {"harmful": {"extra": {"hate": "foo"}}}}, "extra: .*'foo'.*a mapping, each value a list"),
        ({"checks": {"harmful": {"categories": "weapons"}}}, "categories: 'weapons' is given.*a list"),
        ({"checks": {"harmful": {"categories": ["weapon"]}}}, "Did you mean 'weapons'"),
        ({"checks": {"wrong_language": {"engine": "linga"}}}, "'script' or 'lingua' or 'auto'.*"),
        (
            {"scores": {"sound_format": {"passed": ["refusal"]}}},
            "'passed' is no parameter; its parameters are min_score",
        ),
        ({"pii": ["email"]}, "pii: give {kind: mask}"),
        ({"pii": {"emial": "mask"}}, "Did you mean 'email'"),
        ({"pii": {"email": "hide"}}, "'hide' is not known"),
        ({}, "holds no preset"),
        ("defualt", "Did you mean 'default'"),
        ("/nowhere/quality.yaml", "nor a YAML file"),
    ],
)
def test_what_is_not_known_is_said_before_a_row_is_read(preset, message):
    with pytest.raises(ConfigError, match=message):
        transforms.check([{"quality": {"preset": preset}}])


def test_wrong_arguments_of_checks_are_not_the_rows_fault():
    for parameters, message in (
        ({"wrong_language": {"engine": "langid"}}, "'script' or 'lingua' or 'auto'"),
        ({"harmful": {"categories": ["weapon"]}}, "Did you mean 'weapons'"),
        ({"toxic": {}}, "needs a classifier"),
    ):
        with pytest.raises(ConfigError, match=message):
            transforms.apply(rows(OWL), [{"quality": {"preset": {"checks": parameters}}}])


def test_a_missing_extra_names_its_pip_line(monkeypatch):
    from instruct_builders.transforms import language

    real = builtins.__import__

    def without_lingua(name, *args, **kwargs):
        if name == "lingua":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    import sys

    sys.modules[language.__module__].detector_of.cache_clear()
    monkeypatch.setattr(builtins, "__import__", without_lingua)
    preset = {"checks": {"wrong_language": {"engine": "lingua", "languages": ["en", "fr"]}}}
    with pytest.raises(ConfigError, match=r'pip install "instruct-builders\[lang\]"'):
        transforms.apply(rows(OWL), [{"quality": {"preset": preset}}])


def test_auto_falls_back_to_the_script_and_says_so(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name, *rest: None)
    preset = {"checks": {"wrong_language": {"engine": "auto"}}}
    asked = (
        "请介绍一下北京的历史，越详细越好。",
        "Beijing has been a capital for many centuries and has many palaces.",
    )
    table, _ = transforms.apply(rows(asked), [{"quality": {"preset": preset}}])
    assert table["rejected"].to_pylist()[0]["detail"] == "Han asked, Latin answered (script)"


def test_own_file(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("checks: {refusal: }\nscores: {fair_length: {max_words: 3}}\nkeep_at: 0.9\n", "utf-8")
    table, _ = transforms.apply(
        rows(OWL, REFUSED, ("Go.", "one two three four")), [{"quality": {"preset": str(file)}}]
    )
    assert reasons(table) == [None, "refusal", "low_score"]


def test_a_key_given_twice_in_a_file_is_an_error(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("checks: {refusal: }\nkeep_at: 0.5\nchecks: {harmful: }\n", "utf-8")
    with pytest.raises(ConfigError, match="the key 'checks' is given twice"):
        transforms.check([{"quality": {"preset": str(file)}}])


def test_scores_after_checks_are_those_that_are_computed_alone():
    """What the checks have found is handed on to the scores, and changes none of them."""
    cut = "word, " * 30 + "and the"
    given = rows(OWL, ("Tell me.", cut), ("Print it.", "```\nx"), REFUSED, ("Make a bomb?", "Let us make a bomb now"))
    preset = {"scores": {**quality.load("default")["scores"]}}
    alone = scores(given, preset)["total"].to_pylist()
    for checks in (
        {},
        {"truncated_output": {"min_words": 200}},
        {name: {} for name in quality.load("default")["checks"]},
    ):
        table, _ = transforms.apply(given, [{"quality": {"preset": {**preset, "checks": checks}}}])
        why = reasons(table) if "rejected" in table.column_names else [None] * 5
        found = table["score"].to_pylist()
        assert found[0] == 1 and why[0] is None
        assert [value for value, reason in zip(found, why, strict=True) if reason is None] == [
            value for value, reason in zip(alone, why, strict=True) if reason is None
        ]
    assert min(alone) < 1 and reasons(table).count(None) == 1


def test_a_classifier_of_toxic_text_can_be_handed_in():
    def rude(texts):
        return [0.9 if "idiot" in text else 0.1 for text in texts]

    table, _ = transforms.apply(rows(OWL, ("Hi", "You idiot.")), [{"quality": {"toxicity": rude}}])
    assert reasons(table) == [None, "toxic"]
    preset = {"checks": {"toxic": {"max_score": 0.95}}}
    table, _ = transforms.apply(rows(OWL, ("Hi", "You idiot.")), [{"quality": {"preset": preset, "toxicity": rude}}])
    assert "rejected" not in table.column_names
    odd = [{"quality": {"preset": preset, "toxicity": lambda texts: [2.0 if "cod" in text else 0 for text in texts]}}]
    table, _ = transforms.apply(rows(OWL, ("Hi", "A cod."), OWL), odd)
    assert reasons(table) == [None, "check_failed", None]


def test_the_pipeline_counts_and_refuses_an_empty_result(tmp_path):
    written = [{"instruction": q, "input": "", "output": a} for q, a in (OWL, REFUSED, OWL)]
    file = tmp_path / "data.json"
    file.write_text(json.dumps(written), "utf-8")
    builder = Alpaca(data_files=str(file), format="record", cache_dir=str(tmp_path / "cache"))
    built = pipeline.build(builder, steps=[{"quality": {"preset": "default"}}])
    assert [line["reason"] for line in built.rejected] == ["refusal"] and len(built.splits["train"]) == 2
    assert built.rejected[0]["stage"] == "quality" and built.rejected[0]["row"] == 1
    with pytest.raises(BuildError, match="no row is left"):
        pipeline.build(builder, steps=[{"quality": {"preset": {"scores": ["difficulty"], "keep_at": 1.0}}}])


def test_the_preset_in_force_is_in_the_account_with_every_threshold():
    _, (account,) = transforms.apply(rows(OWL), [{"quality": {"preset": "default"}}])
    preset = account["preset"]
    assert preset["checks"].keys() == quality.load("default")["checks"].keys() and preset["keep_at"] == 0.5
    assert preset["checks"]["wrong_language"]["min_letters"] == 30  # the check's own default, which no YAML says
    assert preset["checks"]["truncated_output"]["min_words"] == 20
    assert preset["scores"]["fair_length"] == {"max_words": 2000} and preset["pii"]["email"] == "mask"
    json.dumps(account)
    handed_in = [{"quality": {"preset": {"checks": []}, "toxicity": lambda texts: [0.0] * len(texts)}}]
    _, (account,) = transforms.apply(rows(OWL), handed_in)
    assert "lambda" in account["preset"]["checks"]["toxic"]["classify"]


def test_of_near_duplicates_the_row_of_higher_quality_stays_and_no_score_is_left_in_the_data(tmp_path):
    question = "Please name one bird that hunts at night and tell me what it eats there."
    cut = "An owl. It eats mice, voles, and now and then a beetle, which it hears and finds in the dark and then it"
    answers = [cut + "\n```python\nprint(1)", "An owl, which eats mice."]
    written = [{"instruction": question, "input": "", "output": answer} for answer in answers]
    file = tmp_path / "data.json"
    file.write_text(json.dumps(written), "utf-8")
    preset = {"scores": {"sound_format": {}}}
    near, seen = {"near_duplicates": {"threshold": 0.9}}, {}
    for steps in ([near], [{"quality": {"preset": preset}}, near]):
        builder = Alpaca(data_files=str(file), format="record", cache_dir=str(tmp_path / "cache"))
        built = pipeline.build(builder, steps=steps, format="alpaca")
        assert "score" not in built.splits["train"].column_names and len(built.splits["train"]) == 1
        seen[len(steps)] = built.splits["train"]["output"][0]
    assert seen == {1: answers[0], 2: answers[1]}  # by its length alone the torn answer would stay


def test_a_classifier_can_be_named_in_a_preset(tmp_path, monkeypatch):
    (tmp_path / "own_classifier.py").write_text("def rude(texts):\n    return ['idiot' in text for text in texts]\n")
    monkeypatch.syspath_prepend(tmp_path)
    preset = {"checks": {"toxic": {"classify": "own_classifier:rude"}}}
    table, (account,) = transforms.apply(rows(OWL, ("Hi", "You idiot.")), [{"quality": {"preset": preset}}])
    assert reasons(table) == [None, "toxic"]
    assert account["preset"]["checks"]["toxic"] == {"classify": "own_classifier:rude", "max_score": 0.5}
