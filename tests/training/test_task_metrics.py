"""Task metrics against values worked out by hand, and against the libraries themselves."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from instruct_builders.errors import ConfigError
from trainers.evaluation import task_metrics
from trainers.evaluation.task_metrics import References, by_task


def test_exact_match_minds_all_but_blanks():
    said = ["a  b", "A b", "a b.", "c"]
    assert task_metrics.exact_match(said, [["a\nb"], ["a b"], ["a b"], ["x", "c"]]) == {"exact_match": 50.0}


def test_accuracy_takes_labels_in_any_case():
    assert task_metrics.accuracy(["Yes.", "no", "yes"], [["yes"], ["No"], ["no"]])["accuracy"] == pytest.approx(
        200 / 3
    )


def test_token_f1_is_squads():
    # 2 words in common; 3 said without the article, 2 expected: 2 * 2 / 5
    assert task_metrics.token_f1(["the Normans, in 1066"], [["Normans 1066"]]) == {"token_f1": pytest.approx(80.0)}
    assert task_metrics.token_f1(["x"], [["y", "x"]]) == {"token_f1": 100.0}  # the best reference counts
    assert task_metrics.token_f1(["the"], [["a"]]) == {"token_f1": 100.0}  # nothing left on either side


def test_rouge_is_the_librarys_for_english():
    from rouge_score import rouge_scorer

    said, answer = "The cats were sitting on a mat", "A cat sat on the mat."
    library = rouge_scorer.RougeScorer(["rouge1", "rouge2", "rougeL"], use_stemmer=True).score(answer, said)
    ours = task_metrics.rouge([said], [[answer]])
    assert ours == {name: pytest.approx(100 * score.fmeasure) for name, score in library.items()}
    assert 0 < ours["rougeL"] < 100


def test_rouge_sees_other_scripts():
    assert task_metrics.rouge(["你好世界"], [["你好"]])["rouge1"] == pytest.approx(100 * 2 * 2 / 6)
    assert task_metrics.rouge(["привет мир"], [["привет"]])["rouge1"] == pytest.approx(100 * 2 / 3)


def test_bleu_is_sacrebleus_with_any_number_of_references():
    import sacrebleu

    said = ["the cat sat on the mat today", "a dog barked at the old tree"]
    answers = [["the cat sat on a mat today", "a cat was sitting on the mat"], ["the dog barked at the old tree"]]
    expected = sacrebleu.corpus_bleu(said, [[answers[0][0], answers[1][0]], [answers[0][1], None]]).score
    assert task_metrics.bleu(said, answers) == {"bleu": expected}
    assert 0 < expected < 100


@pytest.mark.parametrize("metric", task_metrics.METRICS)
@given(text=st.text(st.characters(codec="utf-8", categories=["L", "N"]), min_size=1, max_size=20))
def test_nothing_is_better_than_the_answer_itself(metric, text):
    sentence = " ".join([text, "b", "c", "d"])
    scores = task_metrics.METRICS[metric]([sentence], [[sentence]])
    assert all(value == pytest.approx(100) for value in scores.values())


def test_scores_are_told_per_task_and_overall():
    held = References(
        [["yes"], ["no"], ["a b"], ["c"]], ["accuracy", "accuracy", "exact_match", "exact_match"], ["x", "y", "z", ""]
    )
    assert by_task(["Yes", "yes", "a b", "d"], held) == {
        **{"accuracy": 50.0, "accuracy/x": 100.0, "accuracy/y": 0.0},
        **{"exact_match": 50.0, "exact_match/z": 100.0},
        "score": 50.0,  # (100 + 0 + 100 + 0) / 4: every task counts once
    }


def test_an_unknown_metric_is_named():
    with pytest.raises(ConfigError, match=r"metric: 'rogue' is no metric.*Did you mean 'rouge'"):
        task_metrics.check("rogue", "metric")
