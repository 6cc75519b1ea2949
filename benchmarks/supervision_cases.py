"""Conversations, templates, tokenizers, and a checker of trainers/supervision.py that shares no code with it.

The checker knows each family's turns from a table written by hand: what stands before an answer, what ends it, and
what opens the turns of others. It looks only at which tokens have labels.
"""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
TRL = Path(importlib.util.find_spec("trl").origin).parent / "chat_templates"
OURS = ROOT / "trainers" / "chat_templates"


class Family(NamedTuple):
    """What a reader of the template sees: `heads` before an answer, `ends` behind it, `others` open other turns."""

    heads: tuple[str, ...]
    ends: tuple[str, ...]
    others: tuple[str, ...]
    bos: str
    eos: str
    parts: bool = False  # prints content given as a list of parts only


CHATML = Family(
    ("<|im_start|>assistant\n",), ("<|im_end|>",), ("<|im_start|>user", "<|im_start|>system"), "<s>", "<|im_end|>"
)
DEEPSEEK = Family(
    ("<｜Assistant｜>", "<｜tool▁outputs▁end｜>"),
    ("<｜end▁of▁sentence｜>",),
    ("<｜User｜>", "<｜tool▁outputs▁begin｜>"),
    "<｜begin▁of▁sentence｜>",
    "<｜end▁of▁sentence｜>",
)
GEMMA4 = Family(
    ("<|turn>model\n", "<tool_response|>"),
    ("<turn|>", "<|tool_response>"),
    ("<|turn>user", "<|turn>system", "<|tool_response>response"),
    "<bos>",
    "<turn|>",
)
LLAMA3 = Family(
    ("<|start_header_id|>assistant<|end_header_id|>\n\n",),
    ("<|eot_id|>", "<|eom_id|>"),
    ("<|start_header_id|>user", "<|start_header_id|>system", "<|start_header_id|>ipython"),
    "<|begin_of_text|>",
    "<|eot_id|>",
)
COHERE = Family(
    ("<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>",),
    ("<|END_OF_TURN_TOKEN|>",),
    ("<|USER_TOKEN|>", "<|SYSTEM_TOKEN|>"),
    "<BOS_TOKEN>",
    "<|END_OF_TURN_TOKEN|>",
)
GEMMA = Family(("<start_of_turn>model\n",), ("<end_of_turn>",), ("<start_of_turn>user",), "<bos>", "<end_of_turn>")
SECTIONS = Family(("### Response:",), ("</s>",), ("### Instruction:",), "<s>", "</s>")
TURNS = Family(("ASSISTANT:",), ("</s>",), ("USER:",), "<s>", "</s>")
# By the start of the file's name; the longest that fits is taken.
FAMILIES = {
    "alpaca": SECTIONS,
    "alpaca_short": SECTIONS._replace(heads=("### Response:\n",)),
    "vicuna": TURNS,
    "chatml": CHATML,
    "cohere": COHERE,
    "cohere2": COHERE._replace(heads=("<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|><|START_RESPONSE|>",)),
    "deepseek": DEEPSEEK,
    "diffusion_gemma": GEMMA4,
    "gemma": GEMMA,
    "gemma4": GEMMA4,
    "glm4moe": Family(
        ("<|assistant|>",), ("<|user|>", "<|observation|>"), ("<|system|>", "<tool_response>"), "[gMASK]", "<|user|>"
    ),
    "gptoss": Family(
        ("<|start|>assistant",),
        ("<|return|>", "<|call|>", "<|end|>"),
        ("<|start|>user", "<|start|>developer", "<|start|>functions"),
        "<|startoftext|>",
        "<|return|>",
    ),
    "idefics3": Family(
        ("Assistant:",), ("<end_of_utterance>",), ("User:", "System:"), "<s>", "<end_of_utterance>", parts=True
    ),
    "lfm2": CHATML,
    "llama3": LLAMA3,
    "llava_next": Family((" [/INST]",), ("</s>",), ("[INST]", "<<SYS>>"), "<s>", "</s>", parts=True),
    "muse_glimmer": Family(
        ("<|start|>assistant",),
        ("<|eot|>", "<|eom|>"),
        ("<|start|>user", "<|start|>system", "<|start|>tool"),
        "<s>",
        "<|eot|>",
    ),
    "nemotron": CHATML,
    "phi3": Family(("<|assistant|>\n",), ("<|end|>",), ("<|user|>", "<|system|>"), "<s>", "<|endoftext|>"),
    "qwen": CHATML,
    "smolvlm": Family(
        ("Assistant:",), ("<end_of_utterance>",), ("User:", "System:"), "<s>", "<end_of_utterance>", parts=True
    ),
}
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "lookup",
            "description": "Looks a city up.",
            "parameters": {
                "type": "object",
                "properties": {"city": {"type": "string", "description": "Its name."}},
                "required": ["city"],
            },
        },
    }
]


class Case(NamedTuple):
    """A conversation. `twin` has the same lengths and other words: both must be labelled in the same places."""

    messages: list[dict]
    tools: list | None = None
    train_on: str = "all"
    twin: list[dict] | None = None


def templates() -> dict[str, str]:
    """Every text template of the installed TRL and of this package."""
    files = sorted(TRL.glob("*.jinja")) + sorted(OURS.glob("*.jinja"))
    return {f"{'trl' if file.parent == TRL else 'ours'}/{file.stem}": file.read_text("utf-8") for file in files}


def family(name: str) -> Family:
    """The family of a template's name."""
    stem = name.split("/")[1]
    return FAMILIES[max((key for key in FAMILIES if stem.startswith(key)), key=len)]


def _turn(role: str, content: str, **more) -> dict:
    return {"role": role, "content": content, **more}


def _call(*cities, **more) -> dict:
    calls = [
        {"type": "function", "id": f"call{place:05}", "function": {"name": "lookup", "arguments": {"city": city}}}
        for place, city in enumerate(cities)
    ]
    return _turn("assistant", more.pop("content", ""), tool_calls=calls, **more)


def _told(content: str, place: int = 0) -> dict:
    return _turn("tool", content, name="lookup", tool_call_id=f"call{place:05}")


def cases() -> dict[str, Case]:
    """The shapes of conversation that every template is run on."""
    u = [_turn("user", f"question uq{k}z please") for k in range(6)]
    a = [_turn("assistant", f"answer aw{k}z indeed") for k in range(6)]
    s = _turn("system", "rules sr0z apply")
    long = [turn for pair in zip(u, a, strict=True) for turn in pair]
    thought = [turn | {"reasoning_content": f"thinking th{k}z over"} for k, turn in enumerate(a)]
    blanks = [turn | {"content": f" \n {turn['content']} \n\n"} for turn in (s, *long[:4])]
    world = ["šífra uq0z 你好 🙂", "ответ aw0z 👩‍👩‍👧 e\u0301", "سؤال uq1z", "जवाब aw1z 🇿🇼\u200d"]
    tags = [turn | {"content": f"<think>\nth{k}z\n</think>\n\n{turn['content']}"} for k, turn in enumerate(a)]
    signs = ['uq0z {"a": "b\\n"} & <b>', "aw0z [\"x\", 'y'] <i>&amp;</i> {{ c }} {% d %}"]
    roles = [
        _turn("user", "assistant"),
        _turn("assistant", "user"),
        _turn("user", "system"),
        _turn("assistant", "model"),
    ]
    others = [
        _turn("user", "uquestion"),
        _turn("assistant", "awer"),
        _turn("user", "uqtion"),
        _turn("assistant", "aword"),
    ]
    same = [_turn(turn["role"], "the very same text") for turn in long[:4]]
    apart = [
        _turn(turn["role"], text) for turn, text in zip(long, ["uqe very same", "awe very same"] * 2, strict=False)
    ]
    apart = [turn | {"content": turn["content"] + " text"} for turn in apart]
    typed = "uq0z<|im_end|>\n<|im_start|>assistant\nuq8z<end_of_turn></s><|eot_id|><|end|>\nASSISTANT: uq9z"
    numbers = _call("x")
    numbers["tool_calls"][0]["function"]["arguments"] = {"city": 7, "near": [1, True]}
    lists = _call("x", reasoning_content="th5z")
    lists["tool_calls"][0]["function"]["arguments"] = {"city": ["aw5z", {"at": "aw6z"}], "on": {"day": "aw7z"}}
    spelled = _call("x")
    spelled["tool_calls"][0]["function"]["arguments"] = '{"city": "aw7z"}'
    return {
        "one turn": Case([u[0], a[0]]),
        "system": Case([s, u[0], a[0]]),
        "two turns": Case(long[:4]),
        "six turns, system": Case([s, *long]),
        "empty answer first": Case([u[0], _turn("assistant", ""), u[1], a[1]]),
        "empty answer last": Case([*long[:3], _turn("assistant", "")]),
        "blank answer": Case([u[0], _turn("assistant", " \n"), u[1], a[1]]),
        "empty question": Case([_turn("user", ""), a[0], u[1], a[1]]),
        "blanks around": Case(blanks),
        "Unicode": Case([_turn(turn["role"], text) for turn, text in zip(long, world, strict=False)]),
        "signs": Case([_turn("user", signs[0]), _turn("assistant", signs[1])]),
        "signs only": Case(
            [_turn("user", "?"), _turn("assistant", "!"), _turn("user", "?"), _turn("assistant", "<&>")]
        ),
        "role words": Case(roles, twin=others),
        "equal texts": Case(same, twin=apart),
        "reasoning": Case([u[0], thought[0]]),
        "reasoning, two turns": Case([u[0], thought[0], u[1], thought[1]]),
        "reasoning, tool": Case(
            [u[0], _call("aw5z", reasoning_content="th5z"), _told("ta0z"), thought[1], u[1], a[2]], TOOLS
        ),
        "think tags": Case([u[0], tags[0], u[1], tags[1]]),
        "tool call": Case([u[0], _call("aw5z"), _told("ta0z"), a[1]], TOOLS),
        "tool call, system, again": Case(
            [s, u[0], _call("aw5z"), _told("ta0z"), a[0], u[1], _call("aw6z"), _told("ta1z"), a[1]], TOOLS
        ),
        "tool call with text": Case([u[0], _call("aw5z", content="aw4z first"), _told("ta0z"), a[1]], TOOLS),
        "two tool calls": Case([u[0], _call("aw5z", "aw6z"), _told("ta0z"), _told("ta1z", 1), a[1]], TOOLS),
        "tool call last": Case([u[0], _call("aw5z")], TOOLS),
        "tool call of numbers": Case([u[0], numbers, _told("ta0z"), a[1]], TOOLS),
        "tool call of lists": Case([u[0], lists, _told("ta0z"), a[1]], TOOLS),
        "tool call as a string": Case([u[0], spelled, _told("ta0z"), a[1]], TOOLS),
        "assistant first": Case([a[0], u[0], a[1]]),
        "two answers in a row": Case([u[0], a[0], a[1]]),
        "ends with user": Case(long[:3]),
        "left out: train": Case([u[0], a[0] | {"train": False}, u[1], a[1]]),
        "left out: weight": Case([u[0], a[0], u[1], a[1] | {"weight": 0}]),
        "last only": Case(long[:4], train_on="last"),
        "empty answer, reasoning": Case([u[0], _turn("assistant", "", reasoning_content="th0z"), u[1], thought[1]]),
        "null fields": Case(
            [turn | {"tool_calls": None, "reasoning_content": None, "name": None} for turn in long[:4]]
        ),
        "typed tokens": Case([_turn("user", typed), a[0]]),
    }


def as_parts(messages: list[dict]) -> list[dict]:
    """Text content as the list of parts that templates for images want."""
    return [message | {"content": [{"type": "text", "text": message["content"]}]} for message in messages]


def tokenizer(name: str, source: str, backend: str | None = None, tags: bool = False):
    """A byte-level BPE trained on a few words, with the special tokens of the template's family.

    With `tags`, all that looks like a tag is a token too, as in the tokenizers of Qwen and GLM.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    kind = family(name)
    if backend is None:
        core = Tokenizer(models.BPE())
        core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        core.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=420, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
        )
        text = " ".join(turn["content"] for case in cases().values() for turn in case.messages) + "\n\n ASSISTANT:\n"
        core.train_from_iterator([text] * 3, trainer)
        backend = core.to_str()
    special = re.findall(r"<\|[\w▁]+\|>|<｜[\w▁]+｜>|<\|[a-z_]+>|<[a-z_]+\|>|<(?:start|end)_of_\w+>|</?think>", source)
    special += [kind.bos, kind.eos, *kind.ends]
    special += [token for token in ('<|"|>',) if token in source]
    fast = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(backend), bos_token=kind.bos, eos_token=kind.eos
    )
    fast.add_tokens(sorted({token for token in special if token}), special_tokens=True)
    if tags:
        fast.add_tokens(sorted(set(re.findall(r"</?[a-z_]+>|\[/?[A-Z_]+\]", source))))
    return fast


def check(name: str, fast, source: str, case: Case, labelled: dict) -> list[str]:
    """What is wrong with the labels, by the family's table; nothing where all six rules hold."""
    kind, messages = family(name), case.messages
    clean = [{key: value for key, value in turn.items() if value is not None} for turn in messages]
    text = fast.apply_chat_template(clean, tools=case.tools, chat_template=source, tokenize=False)
    encoded = fast(text, add_special_tokens=False, return_offsets_mapping=True)
    ids, labels = labelled["input_ids"], labelled["labels"]
    if ids != encoded["input_ids"]:
        return ["rule 1: other tokens than apply_chat_template's"]
    if any(label not in (-100, token) for token, label in zip(ids, labels, strict=True)):
        return ["a label is neither -100 nor its token"]
    offsets, runs = encoded["offset_mapping"], []
    for (start, end), label in zip(offsets, labels, strict=True):
        if label != -100:
            if runs and runs[-1][1] >= start:
                runs[-1][1] = max(end, runs[-1][1])
            else:
                runs.append([start, end])
    wanted = [place for place, turn in enumerate(clean) if turn["role"] == "assistant"]
    wanted = wanted[-1:] if case.train_on == "last" else wanted
    wanted = [place for place in wanted if clean[place].get("train", True) and clean[place].get("weight", 1)]
    if len(runs) != len(wanted):
        return [f"{len(wanted)} answers to learn, {len(runs)} supervised stretches"]
    wrong = []
    for place, (start, end) in zip(wanted, runs, strict=True):
        wrong += [
            f"message {place}: {what}"
            for what in _check_run(kind, fast, source, case, clean, place, text, offsets, start, end)
        ]
    outside = "".join(
        text[a:b] for a, b in zip([0, *[b for _, b in runs]], [*[a for a, _ in runs], len(text)], strict=True)
    )
    inside = "\0".join(text[a:b] for a, b in runs)
    foreign = {place for place, turn in enumerate(clean) if place not in wanted}
    for place, turn in enumerate(clean):
        words = set(re.findall(r"(?:uq|aw|sr|th|ta)\dz", json.dumps(turn, ensure_ascii=False)))
        for word in words:
            if place in foreign and word in inside:
                wrong.append(f"rule 3: {word!r} of message {place} is supervised")
            if place in wanted and word in outside:
                wrong.append(f"rule 2: {word!r} of message {place} is not supervised")
    return wrong


def stretches(fast, source: str, case: Case, messages: list[dict], labels: list[int]) -> list[tuple[int, int]]:
    """The supervised characters of a conversation, token by token."""
    clean = [{key: value for key, value in turn.items() if value is not None} for turn in messages]
    text = fast.apply_chat_template(clean, tools=case.tools, chat_template=source, tokenize=False)
    offsets = fast(text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
    return sorted(
        {place for span, label in zip(offsets, labels, strict=True) if label != -100 for place in range(*span)}
    )


def outcome(name: str, fast, source: str, case: Case) -> tuple[str, str, list[dict]]:
    """("holds", "refused", "raised" or "silent error"; the reason; where the template's markers disagree)."""
    from instruct_builders.errors import TemplateError
    from trainers.supervision import explain, supervise

    if family(name).parts:
        case = case._replace(messages=as_parts(case.messages), twin=case.twin and as_parts(case.twin))
    try:
        found = explain(fast, case.messages, source, case.tools, train_on=case.train_on)
    except TemplateError as error:
        return ("raised" if error.rule is None else "refused"), str(error), []
    wrong = check(name, fast, source, case, {"input_ids": found.input_ids, "labels": found.labels})
    if case.twin:
        twin = supervise(fast, case.twin, source, case.tools, train_on=case.train_on)
        mine = stretches(fast, source, case, case.messages, found.labels)
        if mine != stretches(fast, source, case, case.twin, twin["labels"]):
            wrong.append("other places than in a conversation of the same lengths with other words")
    return ("silent error" if wrong else "holds"), "; ".join(wrong), found.disagreements


def _check_run(kind, fast, source, case, clean, place, text, offsets, start, end) -> list[str]:
    wrong = []
    run, before = text[start:end], text[:start]
    body = run.removesuffix(fast.eos_token).rstrip() if not run.rstrip().endswith(kind.ends) else run.rstrip()
    if not body.endswith(kind.ends):
        wrong.append(f"rule 4: the end of the turn is not in {run[-40:]!r}")
    if any(other in run for other in kind.others):
        wrong.append(f"rule 3: another's turn opens inside {run!r}")
    # The header, and what the generation prompt puts after it, by the table and the prompt that inference would see.
    spots = [(before.rfind(head), head) for head in kind.heads if head in before]
    spot, head = max(spots, default=(-1, ""))
    if spot < 0 and place == 0 and not before.removeprefix(kind.bos).strip():
        return wrong
    if spot < 0:
        return [*wrong, f"rule 5: no header before {run[:40]!r}"]
    said = text[spot + len(head) :]
    given = ""
    if place:
        prompt = fast.apply_chat_template(
            clean[:place], tools=case.tools, chat_template=source, tokenize=False, add_generation_prompt=True
        )
        given = prompt[prompt.rfind(head) + len(head) :] if head in prompt else ""
    size = next((k for k, (x, y) in enumerate(zip(said, given, strict=False)) if x != y), min(len(said), len(given)))
    content = clean[place].get("content") or ""
    content = "".join(part["text"] for part in content) if isinstance(content, list) else content
    content = content.split("</think>")[-1].strip()
    if size < len(given):  # they part: not inside a special token, nor inside the answer itself
        special = re.compile("|".join(re.escape(str(token)) for token in fast.added_tokens_decoder.values()))
        for token in (*special.finditer(said), *special.finditer(given)):
            size = token.start() if token.start() < size < token.end() else size
        opening = said.find(content) if content and content in said else size
        size = size if re.fullmatch(r"(</?think>\s*)*", said[:size]) else min(size, opening)
    due = spot + len(head) + size
    due = next((b for a, b in offsets if a < due < b), due)  # a token that straddles is left out
    if place and due != start:
        wrong.append(f"rule 5: the prompt ends with {given!r}, supervised from {text[start : start + 30]!r}")
    content = re.sub(r"^(<think>\s*)+", "", content)  # the prompt's, where it supplies that
    if content and content not in text[start:end]:
        wrong.append(f"rule 2: {content!r} is not whole in {run!r}")
    return wrong
