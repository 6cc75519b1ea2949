"""The report of planted faults: each count is the number that was planted, each problem comes with its fix."""

from __future__ import annotations

import json

import datasets
import numpy as np
import pytest

from instruct_builders.errors import TemplateError
from trainers import census, conversations, findings, labelling, outcomes, page, preflight, reading, templates

pytestmark = pytest.mark.filterwarnings("ignore:`gradient_checkpointing` is deprecated")  # TRL's own default
WORDS = "red green blue black white grey pink gold cyan lime teal plum".split()


def said(question: str, answer: str) -> dict:
    return {"conversations": [{"from": "human", "value": question}, {"from": "gpt", "value": answer}], "site": "x"}


PLANTED = [
    *[said(f"Say {word}.", f"{word}!") for word in WORDS],
    said("Say red.", "red!"),  # exactly a row above
    said("say  RED.", "Red!"),  # the same but for case and blanks
    said("Name a colour.", "x " * 150),  # too long
    said("Say </s> and <pad>.", "</s>"),  # special tokens
]


def write(path, rows) -> str:
    path.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    return str(path)


def report(model, data, *flags: str, **options) -> dict:
    import check

    base = f"--model_name_or_path {model} --dataset_name {data} --output_dir x --use_cpu --bf16 false"
    template = [] if "--chat_template" in flags else ["--chat_template", "vicuna_short"]
    fixed = [*base.split(), *template, "--activation_checkpointing", "false"]
    args, training = check.read_arguments([*fixed, *flags])
    return preflight.report(args, training, **options)


def problems(found: dict) -> set[tuple[str, str]]:
    return {(entry["severity"], entry["topic"]) for entry in found["problems"]}


@pytest.fixture(scope="module")
def planted(tiny_llama, tmp_path_factory) -> dict:
    data = write(tmp_path_factory.mktemp("data") / "rows.jsonl", PLANTED)
    return report(
        tiny_llama(), data, "--max_length", "100", "--overlength", "drop", "--per_device_train_batch_size", "4"
    )


def test_every_planted_fault_is_counted(planted):
    rows = {"rows_in": 16, "rows_out": 14, "control_token": 1, "too_long": 1, "whole": 14, "train": 14, "test": 0}
    assert planted["rows"] == rows
    assert planted["columns"] == {"format": "sharegpt", "read": ["conversations"], "unread": ["site"]}
    assert planted["roles"] == {"gpt -> assistant": 16, "human -> user": 16}
    assert planted["special_tokens"] == {"</s>": 2, "<pad>": 1}
    assert planted["twins"]["exact"]["duplicates"] == 1 and planted["twins"]["normalised"]["duplicates"] == 2
    assert planted["left_out"]["too_long"][0]["row"] == 14 and planted["left_out"]["control_token"][0]["row"] == 15
    assert planted["bos"]["rows"] == {"1": 14} and planted["bos"]["wanted"]
    stop = planted["stop"]
    assert (stop["token"], stop["answers"], stop["without"], stop["rows_cut"]) == ("</s>", 14, 0, 0)
    assert json.loads(json.dumps(planted)) == planted


def test_every_problem_says_what_to_do(planted):
    assert problems(planted) == {
        *[("warning", "special tokens"), ("warning", "duplicates"), ("warning", "columns"), ("warning", "length")]
    }
    assert all(entry["what"].endswith(".") and entry["fix"].endswith(".") for entry in planted["problems"])
    assert "special_tokens: escape" in planted["short"] and "16 in, 14 used" in planted["short"]


def test_numbers_are_those_of_the_tokens(planted, tiny_llama):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_llama())
    template = templates.load("vicuna_short", tokenizer)
    lengths, trained = [], 0
    for row in PLANTED[:14]:
        turns = [{"role": role, "content": turn["value"]} for role, turn in
                 zip(("user", "assistant"), row["conversations"], strict=True)]  # fmt: skip
        printed = tokenizer.apply_chat_template(
            turns, chat_template=template, return_dict=True, return_assistant_tokens_mask=True
        )
        lengths, trained = [*lengths, len(printed["input_ids"])], trained + sum(printed["assistant_masks"])
    assert planted["tokens"] == {"total": sum(lengths), "trained": trained, "share": trained / sum(lengths)}
    assert planted["steps"]["tokens_per_epoch"] == sum(lengths)
    assert sum(planted["lengths"]["histogram"]["rows"]) == planted["lengths"]["rows"] == 15
    assert (
        planted["lengths"]["over"] == 1 and planted["lengths"]["max"] == planted["left_out"]["too_long"][0]["tokens"]
    )
    padded = sum(4 * max(lengths[start : start + 4]) for start in range(0, 12, 4))
    assert planted["steps"]["padding"] == round(1 - sum(lengths[:12]) / padded, 3)


def test_examples_are_the_rows_to_the_character(planted):
    for example in planted["examples"]:
        text = "".join(token["text"] for token in example["tokens"])
        learned = "".join(token["text"] for token in example["tokens"] if token["trained"])
        question, answer = (turn["value"] for turn in PLANTED[example["row"]]["conversations"])
        assert text == f"<s>USER: {question}\nASSISTANT: {answer}</s>\n"
        assert learned.strip() == f"{answer}</s>"
        assert [token["text"] for token in example["tokens"] if token["special"]] == ["<s>", "</s>"]


def test_the_same_run_gives_the_same_report_and_page(planted, tiny_llama, tmp_path):
    data = write(tmp_path / "rows.jsonl", PLANTED)
    flags = ("--max_length", "100", "--overlength", "drop", "--per_device_train_batch_size", "4")
    again = report(tiny_llama(), data, *flags)
    assert page.render(again) == page.render(planted)


CLEAN = PLANTED[:12]
FAULTS = [
    ("--max_length 100", PLANTED[:15], ("error", "length"), "Raise max_length to"),
    ("--max_length 100 --overlength truncate_tokens", PLANTED[:15], ("warning", "length"), "truncate_turns"),
    ("--special_tokens allow", PLANTED[15:], ("error", "special tokens"), "special_tokens: reject"),
    ("--train_on_prompts", CLEAN, ("warning", "loss"), "Leave train_on_prompts out"),
    ("--test_size 7", [said("Say" + " " * n + "red.", "Red!") for n in range(14)], ("error", "test rows"), "exact_"),
    ("--packing --max_length 64", CLEAN, ("warning", "packing"), "gradient_accumulation_steps 8 times as high"),
]


@pytest.mark.parametrize(("flags", "rows", "problem", "fix"), FAULTS, ids=[flags or "rows" for flags, *_ in FAULTS])
def test_a_fault_is_found(flags, rows, problem, fix, tiny_llama, tmp_path):
    found = report(tiny_llama(), write(tmp_path / "rows.jsonl", rows), *flags.split())
    assert problem in problems(found)
    assert any(fix in entry["fix"] or fix in entry["what"] for entry in found["problems"])


def test_a_run_without_a_row_to_train_on_has_a_page_that_says_so(tiny_llama, tmp_path):
    flags = ("--max_length", "3", "--overlength", "drop")
    found = report(tiny_llama(), write(tmp_path / "rows.jsonl", CLEAN), *flags)
    assert ("error", "rows") in problems(found) and found["memory"] == {}
    assert "Rows as the model sees them" in page.render(found)


def built(folder, **splits) -> str:
    """A directory as recipes/build.py leaves it, of rows that it would not leave like that."""
    folder.mkdir()
    for name, rows in splits.items():
        datasets.Dataset.from_list(rows).to_parquet(folder / f"{name}.parquet")
    (folder / "build.json").write_text("{}", encoding="utf-8")
    return str(folder)


def test_a_row_without_an_answer_is_found(tiny_llama, tmp_path):
    rows = [*CLEAN, {"conversations": [{"from": "human", "value": "?"}], "site": "x"}]
    found = report(tiny_llama(), built(tmp_path / "built", train=rows))
    assert ("error", "rows") in problems(found)
    assert any("build.py" in entry["fix"] for entry in found["problems"])


def parted(number: int) -> list[dict]:
    """Conversations that recipes/build.py split in three, as it leaves them."""
    return [
        {"id": f"{word}-{part}", "parent": word, "messages": [
            {"role": "user", "content": f"Say {word} {part}."}, {"role": "assistant", "content": f"{word}!"}
        ]}
        for word in WORDS[:number] for part in range(3)
    ]  # fmt: skip


def test_parts_made_by_the_build_stay_on_one_side(tiny_llama, tmp_path):
    folder = built(tmp_path / "built", train=parted(12))
    found = report(tiny_llama(), folder, "--test_size", "4", memory=False)
    assert (found["rows"]["train"], found["rows"]["test"]) == (24, 12)
    assert found["twins"]["parts"] == 0 and ("error", "test rows") not in problems(found)


def test_a_test_split_with_parts_of_what_is_trained_on_is_a_leak(tiny_llama, tmp_path):
    rows = parted(12)
    folder = built(tmp_path / "leak", train=rows[:-2], test=rows[-2:])
    found = report(tiny_llama(), folder, "--dataset_test_split", "test", memory=False)
    assert found["twins"]["parts"] == 1 and ("error", "test rows") in problems(found)
    folder = built(tmp_path / "clean", train=rows[:-3], test=rows[-3:])
    found = report(tiny_llama(), folder, "--dataset_test_split", "test", memory=False)
    assert found["twins"]["parts"] == 0 and ("error", "test rows") not in problems(found)


def test_a_device_that_is_too_small(tiny_llama, tmp_path):
    data = write(tmp_path / "rows.jsonl", CLEAN)
    small = report(tiny_llama(), data, device_memory=2**20)
    assert ("error", "memory") in problems(small)
    assert ("error", "memory") not in problems(report(tiny_llama(), data, device_memory=2**36))


def test_parts_of_one_conversation_stay_on_one_side(tiny_llama, tmp_path):
    long = {"conversations": [turn for word in WORDS for turn in said(f"Say {word}.", f"{word}!")["conversations"]]}
    data = write(tmp_path / "rows.jsonl", [long, *CLEAN[:3]])
    found = report(tiny_llama(), data, *"--max_length 70 --overlength split --test_size 2".split())
    assert found["rows"]["parts"] > 2 and found["rows"]["split"] == 1
    assert (found["lengths"]["rows"], found["lengths"]["over"]) == (4, 1)  # a split conversation is one
    assert found["twins"]["parts"] == 0 and ("error", "test rows") not in problems(found)


def test_rows_of_a_test_split_are_counted_too(tiny_llama, tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    write(folder / "train.jsonl", CLEAN)
    write(folder / "test.jsonl", [*CLEAN[:1], said("New?", "New."), PLANTED[14]])
    found = report(
        tiny_llama(), folder, *"--dataset_test_split test --max_length 100 --overlength drop".split(), memory=False
    )
    assert found["test_rows"] == {"rows_in": 3, "rows_out": 2, "too_long": 1, "whole": 2}
    assert found["twins"]["exact"] == {"duplicates": 0, "overlap": 1, "rows": [0]}
    assert "test rows: 3 in, 2 used (too_long 1, whole 2)" in found["short"]
    assert "memory" not in found["short"]


def test_a_template_that_prints_bos_twice_is_found(tiny_llama, tmp_path):
    path = tmp_path / "twice.jinja"
    path.write_text(
        "{{ bos_token }}{% for m in messages %}{% if m.role == 'assistant' %}{% generation %}"
        "{{ m.content + eos_token }}{% endgeneration %}{% else %}{{ bos_token + m.content }}{% endif %}{% endfor %}"
    )
    found = report(tiny_llama(), write(tmp_path / "rows.jsonl", CLEAN), "--chat_template", str(path), examples=1)
    assert found["bos"]["rows"] == {"2": 12} and ("error", "BOS") in problems(found)


def jinja(folder, text: str) -> str:
    path = folder / "own.jinja"
    path.write_text(text)
    return str(path)


def test_a_template_without_an_end_of_turn_stops_the_check(tiny_llama, tmp_path):
    endless = jinja(tmp_path, "{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}{% endfor %}")
    with pytest.raises(TemplateError, match=r"own\.jinja' can't be trained with: .*rule 4"):
        report(tiny_llama(), write(tmp_path / "rows.jsonl", CLEAN), "--chat_template", endless)


def test_markers_that_break_rules_are_told_and_put_right(tiny_llama, tmp_path):
    loose = (
        "{% for m in messages %}{% if m.role == 'assistant' %}"
        "{% generation %}{{ 'A:' + m.content }}{% endgeneration %}{{ eos_token }}"
        "{% else %}{{ 'Q:' + m.content }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}{{ 'A:' }}{% endif %}"
    )
    found = report(
        tiny_llama(), write(tmp_path / "rows.jsonl", CLEAN), "--chat_template", jinja(tmp_path, loose), examples=1
    )
    assert found["boundaries"]["disagreements"] == [
        {"rule": 4, "markers": "leave out", "text": "</s>", "times": 12},
        {"rule": 5, "markers": "supervise", "text": "A:", "times": 12},
    ]
    assert ("warning", "markers") in problems(found) and "markers put right 24 times" in found["short"]
    (example,) = found["examples"]
    assert "".join(token["text"] for token in example["tokens"] if token["trained"]) == "red!</s>"


def test_tokens_that_straddle_a_boundary_are_counted(tiny_llama, tmp_path):
    """The prompt ends with a blank, which this tokenizer puts into one token with the word behind it."""
    torn = (
        "{{ bos_token }}{% for m in messages %}{{ m.role + ': ' + m.content + eos_token }}{% endfor %}"
        "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
    )
    rows = [said("Say it.", "the word loudly"), said("Again.", "the word"), said("Else?", "?!")]
    found = report(tiny_llama(), write(tmp_path / "rows.jsonl", rows), "--chat_template", jinja(tmp_path, torn))
    seen = found["boundaries"]
    assert (seen["rows"], seen["of"], seen["straddling"], seen["has_markers"]) == (3, 3, 2, False)
    assert "derived, the template has no markers; in all 3 rows: 2 tokens straddle a boundary" in found["short"]
    assert ("warning", "boundaries") in problems(found)
    assert '<th>tokens that straddle a boundary</th><td class="n">2</td>' in page.render(found)


def test_what_a_template_leaves_out_is_told(tiny_llama, tmp_path):
    rows = [
        {"messages": [
            {"role": "user", "content": f"Say {word}."},
            {"role": "assistant", "content": f"{word}!", "reasoning_content": "Hm." if word == "red" else None},
        ]} for word in WORDS
    ]  # fmt: skip
    plain = "{% for m in messages %}{{ m.role + ': ' + m.content + eos_token }}{% endfor %}"
    folder = built(tmp_path / "built", train=rows)
    found = report(tiny_llama(), folder, "--chat_template", jinja(tmp_path, plain), memory=False)
    assert found["boundaries"]["unprinted"] == {"reasoning_content": 1}
    assert ("warning", "template") in problems(found)


def test_every_token_that_may_end_a_turn_is_known(tiny_tokenizer):
    tokenizer = tiny_tokenizer(extra=("<|call|>",))
    ids = [*tokenizer("a b c")["input_ids"], tokenizer.convert_tokens_to_ids("<|call|>")]
    row = {"input_ids": ids, "labels": [-100, *ids[1:]], "outcome": "whole", "row": 0, "length": len(ids)}
    rows = datasets.Dataset.from_list([row])
    assert census.stops(rows, tokenizer)["without"] == 1
    assert census.stops(rows, tokenizer, ids[-1:])["without"] == 0


def test_an_answer_without_its_end_is_found(tiny_tokenizer):
    tokenizer = tiny_tokenizer()
    ids = tokenizer("a b c")["input_ids"]
    row = {"input_ids": [*ids, 2], "labels": [-100, *ids[1:], 2], "outcome": "whole", "row": 7, "length": len(ids) + 1}
    bad = row | {"labels": [-100, *ids[1:], -100], "row": 9}
    two = row | {"input_ids": [*ids, 2, *ids, 2], "labels": [-100, *ids[1:], -100, -100, *ids[1:], 2], "row": 11}
    two["length"] = len(two["input_ids"])
    cut = bad | {"outcome": "tokens_cut", "row": 12}
    found = census.stops(datasets.Dataset.from_list([row, bad, two, cut]), tokenizer)
    assert (
        found["answers"] == 5 and found["without"] == 2 and found["rows_without"] == [9, 11] and found["rows_cut"] == 1
    )


@pytest.mark.parametrize("text", ["naïve café", "日本語 ok", "👩‍👩‍👧 family", "a\n\n b\t"])
def test_tokens_that_share_a_character_are_shown_as_one(text, tiny_tokenizer):
    tokenizer = tiny_tokenizer()
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    shown = preflight.pieces(ids, ids, tokenizer)
    assert "".join(piece["text"] for piece in shown) == text
    assert [number for piece in shown for number in piece["ids"]] == ids


RUNS = ["", "--gradient_accumulation_steps 3", "--num_train_epochs 2.5", "--max_steps 5", "--packing --max_length 64"]


@pytest.mark.parametrize("flags", RUNS)
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated")
def test_steps_are_those_that_the_trainer_takes(flags, tiny_llama, tmp_path):
    import check
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import SFTTrainer

    flags = f"--per_device_train_batch_size 2 --num_train_epochs 1 {flags}".replace(
        "--num_train_epochs 1 --num_train_epochs", "--num_train_epochs"
    )
    data = write(tmp_path / "rows.jsonl", CLEAN[:9])
    found = report(tiny_llama(), data, *flags.split())
    base = f"--model_name_or_path {tiny_llama()} --dataset_name {data} --output_dir {tmp_path} --use_cpu --bf16 false"
    fixed = "--disable_tqdm --save_strategy no --activation_checkpointing false --report_to none"
    _, training = check.read_arguments([*base.split(), *fixed.split(), *flags.split()])
    rows = [{"input_ids": [token["ids"][0] for token in row["tokens"]]} for row in found["examples"]]
    tokenizer = AutoTokenizer.from_pretrained(tiny_llama())
    if not training.packing:  # lengths don't matter, the number of rows does
        rows = (rows * 9)[:9]
        train = datasets.Dataset.from_list([row | {"labels": row["input_ids"]} for row in rows])
    else:
        template = templates.load("vicuna_short", tokenizer)
        raw = conversations.conversations(reading.load_rows(data), "auto", template, tokenizer)
        policy = labelling.Policy(training.max_length, "drop")
        train, _ = outcomes.settle(labelling.label_all(raw, tokenizer, template, policy), policy)
        train = train.select_columns(["input_ids", "labels"])
    model = AutoModelForCausalLM.from_pretrained(tiny_llama())
    trainer = SFTTrainer(model=model, args=training, train_dataset=train, processing_class=tokenizer)
    trainer.train()
    assert found["steps"]["total"] == trainer.state.global_step
    if training.packing:
        assert found["steps"]["packed_rows"] == len(trainer.train_dataset)


def test_findings_need_nothing_but_the_report(planted):
    copy = json.loads(json.dumps(planted))
    assert findings.findings(copy) == planted["problems"]


def test_histogram_bars_fit_the_picture(planted):
    bars = page.bars(planted["lengths"])
    assert max(bar["height"] for bar in bars) == page.HEIGHT
    assert all(bar["x"] >= 0 and bar["x"] + bar["width"] <= page.WIDTH + 1 for bar in bars)
    rows = np.array(planted["lengths"]["histogram"]["rows"])
    assert [bar["height"] > 0 for bar in bars] == (rows > 0).tolist()
    assert page.marks(planted["lengths"])[0]["label"] == "limit 100"
