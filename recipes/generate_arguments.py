"""The keys of recipes/generate.py, and what can be known of them before anything is asked."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import arguments
import output

from instruct_builders import transforms
from instruct_builders.errors import ConfigError
from instruct_builders.generate import alpaca_generate, answering, evol_instruct, results, self_instruct


@dataclass(kw_only=True)
class GenerateArguments(output.OutputArguments):
    """Keys of a generation YAML that hold for every method; the method's own stand beside them."""

    method: str
    data_files: str | list | dict | None = None  # seeds; the 175 that ship with the package by default
    max_bad_fraction: float = 0.01  # of seed rows
    model: str | None = None
    base_url: str | None = None
    local_model: str | None = None  # a model in this process instead of a server: a name or folder for transformers
    transport: str | None = None  # "batch" for the Batch API
    demo: bool = False  # the scripted server, which is no language model
    replay: bool = False  # answer from the journal alone
    journal: str | None = None
    work_dir: str | None = None  # pool, dropped candidates, journal; beside output_dir by default
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
    """method: self_instruct"""


class AlpacaArguments(alpaca_generate.AlpacaOptions):
    """method: alpaca"""


class EvolInstructArguments(evol_instruct.EvolInstructOptions):
    """method: evol_instruct"""


class AnswerArguments(answering.AnswerOptions):
    """method: answer"""


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
    own = {field.name for field in (*dataclasses.fields(chosen), *dataclasses.fields(args))}
    for method, other in options.items():
        for field in dataclasses.fields(other):
            if field.name not in own and getattr(other, field.name) != field.default:
                raise ConfigError(f"{field.name} goes with method: {method}, not with {args.method}.")
    return args, chosen


def check(args: GenerateArguments) -> None:
    """What can be known to fail before anything is asked."""
    transforms.check(args.transforms or [])
    if args.push_to_hub and args.repo_id and args.demo and not args.allow_demo_data:
        raise ConfigError("push_to_hub with demo: no language model writes these rows; say allow_demo_data: true.")
    if args.local_model and (args.base_url or args.transport or args.demo):
        raise ConfigError("local_model needs no server: leave out base_url, transport and demo.")
    output.check(args)
