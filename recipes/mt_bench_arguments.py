"""The keys of an MT-Bench YAML, and what can be known to fail before anything is loaded or asked."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

from instruct_builders import directory
from instruct_builders.errors import ConfigError, did_you_mean
from trainers.evaluation import benchmark, judging

JUDGING = ("single", "pairwise", "none")
ADDRESS = ("OPENAI_BASE_URL", "OPENAI_API_KEY")  # either says where a judge is that has no judge_base_url


@dataclass
class MtBenchArguments:
    """Those with judge_ are about the judge, the others about the model that answers.

    Args:
        compare (`list[str]`, *optional*): Finished runs (folders or result files), set side by side and nothing else.
        output_dir (`str`, *optional*): The folder for answers, judgments and result; needed but for compare.
        work_dir (`str`, *optional*): Journals; beside output_dir by default.
        questions (`str` or `list` or `dict`, *optional*): A file, or "trial" for eight bundled ones.
        references (`str` or `list` or `dict`, *optional*): Good answers that the judge is shown.
        corrected_references (`str` or `list` or `dict`, *optional*): Take the place of published ones.
        require_references (`bool`, *optional*, defaults to `True`): For math, reasoning and coding.
        categories (`list[str]`, *optional*): Only these.
        limit (`int`, *optional*): Questions per category.
        temperatures (`dict`, *optional*): Category -> temperature, instead of the published ones.
        model (`str`, *optional*): A Hub id or folder; with base_url, as the server calls it.
        base_url (`str`, *optional*): Of an OpenAI-compatible server that has the model.
        revision (`str`, *optional*), adapter_revision (`str`, *optional*): Branch, tag or commit on the Hub.
        adapter (`str`, *optional*): Hub id or folder of an adapter; its base need not be given.
        chat_template (`str`, *optional*): As in training; by default that of the adapter or the model.
        dtype (`str`, *optional*, defaults to `"auto"`): Of the weights; auto is as they are stored.
        max_batch (`int`, *optional*, defaults to 16): Questions at once, of a model in this process.
        max_tokens (`int`, *optional*, defaults to 1024): Of an answer.
        parameters (`dict`, *optional*), judge_parameters (`dict`, *optional*): Of the requests.
        judging (`str`, *optional*, defaults to `"single"`): Scores, choices against a baseline, or answers alone.
        baseline (`str`, *optional*): The output_dir of the other model, for pairwise.
        judge_model (`str`, *optional*): As its server calls it.
        judge_base_url (`str`, *optional*): Of that server; OpenAI's where OPENAI_API_KEY is set.
        judge_local_model (`str`, *optional*): A model in this process.
        judge_chat_template (`str`, *optional*): Of that one.
        max_missing (`float`, *optional*, defaults to 0.05): Share of turns without a verdict in a complete result.
        demo (`bool`, *optional*, defaults to `False`):
            The scripted server judges, and answers where no model is given. It is no language model.
        replay (`bool`, *optional*, defaults to `False`): Answer and judge from the journals alone.
        seed (`int`, *optional*, defaults to 42): Of the requests and the intervals.
        max_requests (`int`, *optional*), max_tokens_total (`int`, *optional*), max_cost (`float`, *optional*),
            judge_max_requests (`int`, *optional*), judge_max_tokens_total (`int`, *optional*),
            judge_max_cost (`float`, *optional*):
            The budgets; where one is spent the run stops, with all that is kept.
        prices (`dict`, *optional*), judge_prices (`dict`, *optional*):
            Such as {input: 1.0, output: 2.0}, per million tokens; a largest cost needs them.
        max_concurrency (`int`, *optional*, defaults to 64): Most requests at once.
        timeout (`float`, *optional*, defaults to 600): Seconds for a request.
        max_retries (`int`, *optional*, defaults to 5): Of one request.
        max_wait (`float`, *optional*, defaults to 1800): Seconds that a server which answers nothing is waited for.
        progress (`bool`, *optional*, defaults to `True`): A live line on standard error.
    """

    compare: list[str] | None = None
    output_dir: str | None = None
    work_dir: str | None = None
    questions: str | list | dict | None = None
    references: str | list | dict | None = None
    corrected_references: str | list | dict | None = None
    require_references: bool = True
    categories: list[str] | None = None
    limit: int | None = None
    temperatures: dict | None = None
    model: str | None = None
    base_url: str | None = None
    revision: str | None = field(default=None, metadata={"belongs_to": "model"})
    adapter: str | None = None
    adapter_revision: str | None = field(default=None, metadata={"belongs_to": "adapter"})
    chat_template: str | None = None
    dtype: str = "auto"
    max_batch: int = 16
    max_tokens: int = 1024
    parameters: dict | None = None
    judging: str = field(default="single", metadata={"allowed": JUDGING})
    baseline: str | None = None
    judge_model: str | None = None
    judge_base_url: str | None = None
    judge_local_model: str | None = None
    judge_chat_template: str | None = None
    judge_parameters: dict | None = None
    max_missing: float = 0.05
    demo: bool = False
    replay: bool = False
    seed: int = 42
    max_requests: int | None = None
    max_tokens_total: int | None = None
    max_cost: float | None = None
    prices: dict | None = None
    judge_max_requests: int | None = None
    judge_max_tokens_total: int | None = None
    judge_max_cost: float | None = None
    judge_prices: dict | None = None
    max_concurrency: int = 64
    timeout: float = 600.0
    max_retries: int = 5
    max_wait: float = 1800.0
    progress: bool = True


def check(args: MtBenchArguments) -> None:
    """What can be known to fail before anything is loaded or asked."""
    if args.judging not in JUDGING:
        raise ConfigError(
            f"judging: {args.judging!r}; {', '.join(JUDGING)} are allowed.{did_you_mean(args.judging, JUDGING)}"
        )
    if not args.output_dir:
        raise ConfigError("output_dir is needed: the folder for answers, judgments and result.")
    if (args.judging == "pairwise") != bool(args.baseline):
        raise ConfigError("judging: pairwise and baseline (the output_dir of the other model's run) go together.")
    if not (args.model or args.adapter or args.demo):
        raise ConfigError("no model: give model (a Hub id or folder), or model and base_url, or try it with --demo.")
    if args.base_url and (args.adapter or args.revision or args.chat_template):
        raise ConfigError("adapter, revision and chat_template are for a model in this process: leave out base_url.")
    if args.base_url and not args.model:
        raise ConfigError("base_url without model: give the model's name as that server calls it.")
    has_judge = args.judge_model or args.judge_local_model or args.demo
    if args.judging != "none" and not has_judge:
        raise ConfigError(
            "no judge: give judge_model with judge_base_url (or OPENAI_API_KEY), or judge_local_model; --demo takes a "
            "script that is no language model; judging: none only answers."
        )
    if args.demo and (args.judge_model or args.judge_local_model or args.judge_base_url):
        raise ConfigError("demo: the judge is a script then; leave out judge_model, or leave out demo.")
    if args.judge_model and args.judge_local_model:
        raise ConfigError("judge_model and judge_local_model: give one of them.")
    if args.judge_model and not (args.judge_base_url or any(os.environ.get(name) for name in ADDRESS)):
        raise ConfigError(
            f"judge_model {args.judge_model!r} without a server: give judge_base_url, or set OPENAI_API_KEY for "
            "OpenAI's; for a model in this process give judge_local_model instead."
        )
    if not 0 <= args.max_missing <= 1:
        raise ConfigError(f"max_missing={args.max_missing}: a share from 0 to 1 is allowed.")
    judging.check_parameters(args.judge_parameters)
    if args.judging != "none" and not args.judge_local_model:
        benchmark.judge(
            args
        )  # nothing is sent: a judge that can't be asked is to be known before the answers are made
    directory.check_writable(Path(args.output_dir))
    directory.check_writable(benchmark.work_dir(args))
