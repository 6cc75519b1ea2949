"""The keys of recipes/generate.py, and what can be known of them before anything is asked."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field

import arguments
import output

from instruct_builders import transforms
from instruct_builders.errors import ConfigError
from instruct_builders.generate import alpaca_generate, answering, evol_instruct, results, self_instruct


@dataclass(kw_only=True)
class GenerateArguments(output.OutputArguments):
    """The keys that hold for every method.

    Args:
        method (`str`): How rows are made.
        data_files (`str` or `list` or `dict`, *optional*): Seeds; by default the 175 that ship with the package.
        max_bad_fraction (`float`, *optional*, defaults to 0.01): Share of seed rows that may be rejected.
        model (`str`, *optional*): As the server calls it.
        base_url (`str`, *optional*): Of an OpenAI-compatible server; its key is in OPENAI_API_KEY.
        local_model (`str`, *optional*): A model in this process instead of a server: a Hub id or folder.
        transport (`str`, *optional*): "batch" for the Batch API.
        demo (`bool`, *optional*, defaults to `False`): The scripted server, which is no language model.
        replay (`bool`, *optional*, defaults to `False`): Answer from the journal alone.
        journal (`str`, *optional*): Where every reply is kept; in work_dir by default.
        work_dir (`str`, *optional*): Pool, dropped candidates, journal; beside output_dir by default.
        review_file (`str`, *optional*): A sheet of candidates for people to judge, and their judgements.
        max_concurrency (`int`, *optional*, defaults to 64): Most requests at once.
        max_requests (`int`, *optional*), max_tokens_total (`int`, *optional*), max_cost (`float`, *optional*):
            The budget; where it is spent the run stops, with all that is kept.
        prices (`dict`, *optional*): Such as {input: 1.0, output: 2.0}, per million tokens; max_cost needs them.
        requests_per_minute (`float`, *optional*), tokens_per_minute (`float`, *optional*): Of the server's limits.
        timeout (`float`, *optional*, defaults to 600): Seconds for a request.
        max_retries (`int`, *optional*, defaults to 5): Of one request.
        max_retries_total (`int`, *optional*): Of all together.
        max_wait (`float`, *optional*, defaults to 1800): Seconds that a server which answers nothing is waited for.
        progress (`bool`, *optional*, defaults to `True`): A live line on standard error.
        transforms (`list`, *optional*): Steps on the rows that were made, as in recipes/build.py.
        allow_demo_data (`bool`, *optional*, defaults to `False`): Publish rows that the scripted server wrote.
    """

    method: str = field(metadata={"allowed": tuple(results.METHODS)})
    data_files: str | list | dict | None = None
    max_bad_fraction: float = 0.01
    model: str | None = None
    base_url: str | None = None
    local_model: str | None = None
    transport: str | None = None
    demo: bool = False
    replay: bool = False
    journal: str | None = None
    work_dir: str | None = None
    review_file: str | None = None
    max_concurrency: int = 64
    max_requests: int | None = None
    max_tokens_total: int | None = None
    max_cost: float | None = None
    prices: dict | None = None
    requests_per_minute: float | None = None
    tokens_per_minute: float | None = None
    timeout: float = 600.0
    max_retries: int = 5
    max_retries_total: int | None = None
    max_wait: float = 1800.0
    progress: bool = True
    transforms: list | None = None
    allow_demo_data: bool = False


# The keys of each method, as keys of this recipe: --help lists them.
class SelfInstructArguments(self_instruct.SelfInstructOptions):
    """Only with method: self_instruct."""


class AlpacaArguments(alpaca_generate.AlpacaOptions):
    """Only with method: alpaca."""


class EvolInstructArguments(evol_instruct.EvolInstructOptions):
    """Only with method: evol_instruct."""


class AnswerArguments(answering.AnswerOptions):
    """Only with method: answer."""


METHODS = {
    "self_instruct": SelfInstructArguments,
    "alpaca": AlpacaArguments,
    "evol_instruct": EvolInstructArguments,
    "answer": AnswerArguments,
}


def read_arguments(argv: list[str] | None = None) -> tuple[GenerateArguments, object]:
    """The keys for every method, and the options of the chosen one; a key of another method is an error."""
    args, *all_options = arguments.parse((GenerateArguments, *METHODS.values()), argv)
    results.check_method(args.method)
    options = dict(zip(METHODS, all_options, strict=True))
    chosen = options[args.method]
    own = {key.name for key in (*dataclasses.fields(chosen), *dataclasses.fields(args))}
    for method, other in options.items():
        for key in dataclasses.fields(other):
            if key.name not in own and getattr(other, key.name) != key.default:
                raise ConfigError(f"{key.name} goes with method: {method}, not with {args.method}.")
    return args, chosen


def check(args: GenerateArguments) -> None:
    """What can be known to fail before anything is asked."""
    transforms.check(args.transforms or [])
    if args.push_to_hub and args.repo_id and args.demo and not args.allow_demo_data:
        raise ConfigError("push_to_hub with demo: no language model writes these rows; say allow_demo_data: true.")
    if args.local_model and (args.base_url or args.transport or args.demo):
        raise ConfigError("local_model needs no server: leave out base_url, transport and demo.")
    output.check(args)
