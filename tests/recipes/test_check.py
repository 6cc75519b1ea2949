"""recipes/check.py: exit codes, what it prints, and its page in a real Chromium."""

from __future__ import annotations

import html
import json
import re
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import datasets
import pytest

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
for folder in (HERE, HERE.parent / "training"):  # importlib mode puts no folder of tests on the path
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
import chromium  # noqa: E402

from instruct_builders.errors import ConfigError  # noqa: E402

pytestmark = [
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated"),  # PEFT asks for the old name
    pytest.mark.filterwarnings("ignore:`gradient_checkpointing` is deprecated"),  # TRL's own default
]
WORDS = "red green blue black white grey pink gold cyan lime teal plum".split()
EVIL = (
    '<script>document.body.dataset.evil = 1</script><img src=x onerror="document.body.dataset.evil = 1">'
    "</span></pre></details><h1 id=evil>' \" & &lt; \u202e \u0007 {{ 7 * 7 }} {% raw %}"
)


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    """A config, a tokenizer and no weights."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import LlamaConfig, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("model") / "tiny-llama"
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {token: number for number, token in enumerate(["<pad>", "<s>", "</s>", *letters])}
    tokenizer = Tokenizer(models.BPE(vocab, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    names = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names).save_pretrained(folder)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    LlamaConfig(vocab_size=len(vocab), **sizes, max_position_embeddings=2048).save_pretrained(folder)
    return folder


def rows(path: Path, more: tuple = ()) -> Path:
    lines = [{"instruction": f"Say {word}.", "input": "", "output": f"{word}!"} for word in WORDS]
    path.write_text("\n".join(json.dumps(line) for line in [*lines, *more]), encoding="utf-8")
    return path


def run(model: Path, data: Path, *flags: str) -> int:
    import check

    given = {"--model_name_or_path": model, "--dataset_name": data, "--output_dir": "out", "--bf16": "false"}
    given |= {"--chat_template": "alpaca_short", "--activation_checkpointing": "false"}
    usual = [word for flag, value in given.items() if flag not in flags for word in (flag, str(value))]
    return check.main([*usual, "--use_cpu", *flags])


def test_a_good_run_can_start(model, tmp_path, capsys):
    assert run(model, rows(tmp_path / "rows.jsonl"), "--test_size", "2") == 0
    said = capsys.readouterr().out
    assert "rows: 12 in, 12 used (whole 12); 10 to train on, 2 held out" in said
    assert "end of turn '</s>': learned in 10 of 10 answers" in said and "BOS '<s>': 10 rows with 1" in said
    assert "memory, full (this run): " in said and "memory, QLoRA: " in said and "this run can start" in said
    assert not (tmp_path / "out").exists()


def test_what_is_evaluated_is_said(model, tmp_path, capsys):
    data = rows(tmp_path / "rows.jsonl")
    assert run(model, data, "--eval_strategy", "epoch") == 0
    assert "eval_strategy: epoch becomes no" in capsys.readouterr().out
    (tmp_path / "folder").mkdir()
    for name in ("train", "test"):
        rows(tmp_path / "folder" / f"{name}.jsonl")
    run(model, tmp_path / "folder", "--eval_strategy", "epoch")
    said = capsys.readouterr().out
    assert "evaluated on the split 'test'" in said and "12 to train on, 12 held out" in said


STOPPED = [
    ("--learning_rat 1e-4", "Did you mean 'learning_rate'"),
    ("--chat_template alpacca", "Did you mean 'alpaca'"),
    ("--max_length 20", "12 rows (100.0%) are longer than max_length 20"),
    ("--overlength cut", "truncate_turns"),
    ("--load_in_4bit", "use_peft: true"),
    ("--use_peft --lora_r 0", "lora_r: 0"),
    ("--use_peft --lora_target_modules foo", "'foo' is no layer"),
    ("--push_to_hub --hub_model_id me/x", "HF_TOKEN"),
    ("--dataset_train_split nowhere", "nowhere"),
    ("--test_size 50", "both need one"),
    ("--sample_prompts 2", "sample_prompts needs rows to evaluate on"),
    ("--sample_prompts -1 --test_size 2", "a number of rows from 0 on"),
    ("--page {tmp}/nowhere/check.html", "its folder is not there"),
    ("--json {tmp}", "can't be written: [Errno 21]"),
    ("--device_memory_gb 0.001", "the device has 0.0 GiB"),
    ("--model_name_or_path {tmp}/nothing", "there is no folder or file '{tmp}/nothing'"),
    ("--model_name_or_path {model}s", "Did you mean 'tiny-llama'?"),
    ("--model_name_or_path outputs/nothing", "there is no folder 'outputs/nothing' here, and no model of that name"),
    ("--dataset_name {tmp}/row.jsonl", "there is no folder or file '{tmp}/row.jsonl'. Did you mean 'rows.jsonl'?"),
    ("--dataset_name outputs/nothing", "dataset_name: there is no folder 'outputs/nothing' here, and no dataset"),
    ("--dataset_name outputs/runs/nothing", "dataset_name: there is no folder or file"),
    ("--output_dir {tmp}/earlier", "earlier holds checkpoint-3 of an earlier run. Set resume_from_checkpoint: true"),
]


@pytest.mark.parametrize(("flags", "says"), STOPPED, ids=[flags for flags, _ in STOPPED])
def test_what_would_go_wrong_is_exit_code_1_and_a_line(flags, says, model, tmp_path, capsys):
    says = says.format(tmp=tmp_path)
    flags = flags.format(tmp=tmp_path, model=model).split()
    data = rows(tmp_path / "rows.jsonl")
    (tmp_path / "earlier" / "checkpoint-3").mkdir(parents=True)
    code = run(model, data, *flags)
    said = capsys.readouterr().out
    assert code == 1 and any(says in line for line in said.splitlines() if line.startswith("error: "))


RAW = {
    "odd.json": '[{"question": "q", "answer": "a"}]',
    "odd.csv": "question,answer\nq,a\n",
    "odd.jsonl": '{"question": "q"}\n{"answer": [1]}\n',
}


@pytest.mark.parametrize("name", RAW)
def test_columns_of_no_format_are_named(name, model, tmp_path, capsys):
    (tmp_path / name).write_text(RAW[name])
    assert run(model, tmp_path / name) == 1
    said = capsys.readouterr().out
    assert "error: dataset_name: the columns question, answer are none of a format" in said
    assert "alpaca (instruction and output), sharegpt (conversations)" in said


def test_a_run_without_a_place_is_refused(model, tmp_path, monkeypatch, capsys):
    """The libraries would make ./trainer_output, unasked; whoever asks for it may have it."""
    import check
    import sft

    flags = ["--model_name_or_path", str(model), "--dataset_name", str(rows(tmp_path / "rows.jsonl")), "--use_cpu"]
    flags += ["--chat_template", "alpaca", "--bf16", "false"]
    monkeypatch.chdir(tmp_path)
    assert check.main(flags) == 1
    assert "error: output_dir: not given" in capsys.readouterr().out
    with pytest.raises(ConfigError, match="output_dir: not given"):
        sft.main(flags)
    assert not (tmp_path / "trainer_output").exists()
    assert check.main([*flags, "--output_dir", "trainer_output"]) == 0


def test_an_earlier_run_is_told_before_anything_is_loaded(tmp_path):
    import sft

    (tmp_path / "run" / "checkpoint-3").mkdir(parents=True)
    flags = "--model_name_or_path org/model --dataset_name org/data --use_cpu --bf16 false --output_dir".split()
    with pytest.raises(ConfigError, match="holds checkpoint-3 of an earlier run"):
        sft.main([*flags, str(tmp_path / "run")])


def test_a_check_without_a_gpu_says_what_the_run_needs_here(model, tmp_path, monkeypatch, capsys):
    import check
    import sft

    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    data = rows(tmp_path / "rows.jsonl")
    flags = ["--model_name_or_path", str(model), "--dataset_name", str(data), "--output_dir", str(tmp_path / "out")]
    flags += ["--chat_template", "alpaca"]
    assert check.main(flags) == 0
    assert "no GPU here: on this machine the run needs --use_cpu" in capsys.readouterr().out
    with pytest.raises(ConfigError, match="On a machine without a GPU: --use_cpu"):
        sft.main(flags)
    (tmp_path / "run.yaml").write_text("use_cpu: true\n")
    assert check.main([*flags, "--config", str(tmp_path / "run.yaml")]) == 0
    assert "no GPU here" not in capsys.readouterr().out


def test_the_command_line_needs_no_weights_and_no_gpu(model, tmp_path):
    data = rows(tmp_path / "rows.jsonl")
    config = tmp_path / "run.yaml"
    config.write_text(f"model_name_or_path: {model}\ndataset_name: {data}\nchat_template: alpaca\nbf16: true\n")
    command = [
        sys.executable,
        "recipes/check.py",
        "--config",
        config,
        "--output_dir",
        "o",
        "--json",
        tmp_path / "r.json",
    ]
    result = subprocess.run([*map(str, command)], cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    found = json.loads((tmp_path / "r.json").read_text(encoding="utf-8"))
    assert found["rows"]["train"] == 12 and found["problems"] == []


@pytest.fixture(scope="module")
def drawn(model, tmp_path_factory) -> tuple[Path, dict]:
    folder = tmp_path_factory.mktemp("page")
    evil = {"instruction": EVIL, "input": "", "output": EVIL, "<b>column</b>": "x"}
    lines = ({"instruction": "Long " * 40, "input": "", "output": "long " * 60}, evil)
    raw = rows(folder / "rows.jsonl", lines).read_text(encoding="utf-8").splitlines()
    data = folder / "built"  # read as it is; of a raw file its control characters would be refused
    data.mkdir()
    lines = [{"<b>column</b>": None} | json.loads(line) for line in raw]
    datasets.Dataset.from_list(lines).to_parquet(data / "train.parquet")
    (data / "build.json").write_text("{}", encoding="utf-8")
    flags = ("--page", str(folder / "check.html"), "--json", str(folder / "check.json"), "--examples", "14")
    run(model, data, *flags, "--max_length", "400", "--overlength", "drop", "--special_tokens", "escape")
    return folder / "check.html", json.loads((folder / "check.json").read_text(encoding="utf-8"))


def test_the_page_asks_nobody_for_anything(drawn):
    text = drawn[0].read_text(encoding="utf-8")
    tags = re.findall(r"<[a-z][^>]*>", text)
    assert not [tag for tag in tags if re.search(r"\s(src|href|on\w+|action)\s*=", tag) or "<script" in tag]
    assert not re.search(r"@import|url\(", text) and "default-src 'none'" in text
    assert len(text) < 2_000_000


def test_the_page_in_chromium_shows_every_token_as_it_is(drawn, tmp_path):
    path, found = drawn
    dom = chromium.dom(path, tmp_path / "profile")
    assert "data-evil" not in dom and 'id="evil"' not in dom and "<script" not in dom and "<img" not in dom
    assert "49" not in re.findall(r"&amp; &amp;lt; .{0,60}", dom)
    blocks = re.findall(r'<pre class="tokens">(.*?)</pre>', dom, re.S)
    assert len(blocks) == len(found["examples"])
    for block, row in zip(blocks, found["examples"], strict=True):
        spans = re.findall(r'<span class="t( on)?( special)?" title="([\d ]+)">(.*?)</span>', block, re.S)
        shown = [(bool(on), bool(special), html.unescape(text)) for on, special, _, text in spans]
        from trainers.page import visible

        assert shown == [(token["trained"], token["special"], visible(token["text"])) for token in row["tokens"]]
    evil = next(row for row in found["examples"] if row["row"] == 13)
    said = "".join(token["text"] for token in evil["tokens"] if token["trained"])
    assert said.strip() == f"{EVIL}</s>"
    assert dom.count("\u27e8U+202E\u27e9") >= 2 and "\u202e" not in dom  # nothing turns the page's text around
    assert dom.count('<rect class="bar') == len(found["lengths"]["histogram"]["rows"])
    assert all(f"<th>{name}</th>" in dom for name in ("full", "LoRA", "QLoRA"))
    assert "&lt;b&gt;column&lt;/b&gt;" in dom


def first_pixel(picture: Path) -> tuple[int, ...]:
    """The colour of the top left corner: of the first row, every PNG filter leaves the first pixel as it is."""
    data, place, packed, width = picture.read_bytes(), 8, b"", 0
    while place < len(data):
        size, kind = struct.unpack(">I4s", data[place : place + 8])
        body = data[place + 8 : place + 8 + size]
        packed += body if kind == b"IDAT" else b""
        width = struct.unpack(">I", body[:4])[0] if kind == b"IHDR" else width
        place += size + 12
    return tuple(zlib.decompress(packed)[1:4])


def test_the_page_is_light_or_dark_as_the_reader_has_it(drawn, tmp_path):
    light = chromium.screenshot(drawn[0], tmp_path / "a", tmp_path / "light.png", 1200, 900)
    dark = chromium.screenshot(drawn[0], tmp_path / "b", tmp_path / "dark.png", 1200, 900, dark=True)
    assert first_pixel(light) == (0xFF, 0xFF, 0xFF) and first_pixel(dark) == (0x14, 0x17, 0x1A)


@pytest.mark.parametrize("width", [500, 1200])
def test_nothing_sticks_out_of_the_window(width, drawn, tmp_path):
    """A copy of the page that may run one script, ours, which measures it."""
    text = drawn[0].read_text(encoding="utf-8")
    text = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", text)
    told = "document.body.dataset.widths = [document.documentElement.scrollWidth, innerWidth].join(' ')"
    copy = tmp_path / "copy.html"
    copy.write_text(text.replace("</body>", f"<script>{told}</script></body>"), encoding="utf-8")
    dom = chromium.run(copy, tmp_path / "profile", "--dump-dom", f"--window-size={width},900")
    wide, window = map(int, re.search(r'data-widths="(\d+) (\d+)"', dom).groups())
    assert window == width and wide <= window


def test_a_real_dataset_from_build_to_check(shared_data, model, tmp_path, capsys):
    import build

    flags = (
        f"--builder alpaca --data_files {shared_data / 'alpaca' / 'alpaca_en_demo.json'} --output_dir {tmp_path / 'd'}"
    )
    build.main([*flags.split(), "--transforms", "exact_duplicates"])
    code = run(model, tmp_path / "d", "--overlength", "truncate_turns", "--max_length", "1500", "--test_size", "50")
    said = capsys.readouterr().out
    assert code == 0 and "duplicates: 0 exact" in said and "this run can start" in said
    assert re.search(r"learned in (\d+) of \1 answers", said)
    assert str(tmp_path / "d" / "report.html") in said


test_a_real_dataset_from_build_to_check = pytest.mark.shared_data(test_a_real_dataset_from_build_to_check)
