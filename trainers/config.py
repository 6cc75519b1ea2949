"""What a training run may ask for. TRL takes many keys that would do nothing here, or harm: those are errors."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

from instruct_builders import directory, publish
from instruct_builders.errors import BuildError, ConfigError, did_you_mean

from . import checkpoints

if TYPE_CHECKING:
    from trl import SFTConfig

# Keys of SFTConfig that this project decides itself -> what to do instead.
NOT_OURS = {
    "hub_token": "it would be stored in every checkpoint; set the environment variable HF_TOKEN",
    "save_only_model": "a run resumed without its optimizer goes on silently with a fresh one; leave it out",
    "ignore_data_skip": "a resumed run would see rows twice; leave it out",
    "trust_remote_code": "code of a model repository is never run here; choose a model that transformers knows",
    "model_init_kwargs": "use dtype and attn_implementation",
    "chat_template_path": "use chat_template",
    "eos_token": "it is the chat template's end-of-turn token",
    "pad_token": "it is chosen so that it never ends a turn",
    "truncation_mode": "use overlength; rows are cut at their end",
    "completion_only_loss": "only answers are trained on; use train_on_prompts to change that",
    "dataset_text_field": "use dataset_format",
    "dataset_kwargs": "rows are labelled before the trainer sees them",
    "hub_strategy": "only the final directories are pushed, once",
    "hub_always_push": "only the final directories are pushed, once",
    "hub_revision": "pushes go to the main branch",
}

UNASKED = "trainer_output"  # what transformers 5.23 puts in the place of an output_dir that is not given


def check(args: object, training: SFTConfig) -> bool:
    """Refuses what can't be done, and sets what follows from the rest.

    `training.assistant_only_loss` becomes false: which tokens count is in the rows' labels. `training.push_to_hub`
    becomes false: the trainer would push every save, pickles and all. The recipe pushes the final directories instead.

    Args:
        args (`SftArguments`): The recipe's arguments.
        training (`SFTConfig`): TRL's arguments.

    Returns:
        `bool`: Whether the final directories are to be pushed.

    Raises:
        ConfigError: For the first thing that can't be right, before anything is loaded.
        PublishError: For a push that could not work: no token, or no name of a repository.
    """
    for field in dataclasses.fields(training):
        if field.name in NOT_OURS and _given(training, field):
            raise ConfigError(f"{field.name}: not taken by this recipe: {NOT_OURS[field.name]}.")
    if (args.load_in_4bit or args.load_in_8bit) and not args.use_peft:
        raise ConfigError("load_in_4bit and load_in_8bit train an adapter on a frozen base: set use_peft: true.")
    if args.merge and not args.use_peft:
        raise ConfigError("merge: true without use_peft: there is no adapter to merge. Leave merge out.")
    if args.hub_merged_model_id and not (args.merge and training.push_to_hub):
        raise ConfigError("hub_merged_model_id needs merge: true and push_to_hub: true.")
    if training.push_to_hub and not (training.hub_model_id or args.hub_merged_model_id):
        raise ConfigError("push_to_hub: true needs hub_model_id, such as your-name/model-name.")
    if training.push_to_hub and training.hub_model_id and args.use_peft and Path(args.model_name_or_path).exists():
        raise ConfigError(
            f"hub_model_id: an adapter whose base is the local folder {args.model_name_or_path!r} could be loaded by "
            "nobody else. Push the base first and train from there, or push the merged model (hub_merged_model_id)."
        )
    if getattr(args, "sample_prompts", 0) < 0:
        raise ConfigError(f"sample_prompts: {args.sample_prompts} given; a number of rows from 0 on is allowed.")
    if args.use_peft:
        _check_lora(args)
    _check_reports(training.report_to)
    if training.output_dir == UNASKED and getattr(args, "output_dir", None) is None:
        raise ConfigError(
            f"output_dir: not given; the run would write into ./{UNASKED}, unasked. Say where it goes, such as "
            "--output_dir outputs/my-run."
        )
    _check_output(training.output_dir)
    checkpoints.refuse_earlier(training.output_dir, training.resume_from_checkpoint)
    for repo_id in (training.hub_model_id, args.hub_merged_model_id):
        if training.push_to_hub and repo_id:
            publish.check_before(repo_id, "model")
    training.assistant_only_loss = False  # rows come with labels; TRL would look for messages to mask
    push, training.push_to_hub = training.push_to_hub, False
    return push


def _check_lora(args: object) -> None:
    if args.lora_r < 1:
        raise ConfigError(
            f"lora_r: {args.lora_r} given; a rank is 1 or more. Without use_peft all weights are trained."
        )
    if args.lora_alpha < 1:
        raise ConfigError(f"lora_alpha: {args.lora_alpha} given; 1 or more is allowed, usually once or twice lora_r.")
    if not 0 <= args.lora_dropout < 1:
        raise ConfigError(f"lora_dropout: {args.lora_dropout} given; a share from 0 to below 1 is allowed.")
    if not args.lora_target_modules:
        raise ConfigError("lora_target_modules: nothing given; give all-linear or names of layers, such as q_proj.")


def _check_reports(report_to: list[str] | str) -> None:
    """Each tracker can be started: transformers finds out when the model is on the GPU."""
    from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK

    for name in [report_to] if isinstance(report_to, str) else report_to:
        if name == "none":
            continue
        if name not in INTEGRATION_TO_CALLBACK:
            hint = did_you_mean(name, INTEGRATION_TO_CALLBACK)
            raise ConfigError(f"report_to: {name!r} given; allowed are {', '.join(INTEGRATION_TO_CALLBACK)}.{hint}")
        try:
            INTEGRATION_TO_CALLBACK[name]()
        except (RuntimeError, ImportError) as error:
            raise ConfigError(f"report_to: {name!r} can't be used: {error} Or leave report_to out.") from error


def _check_output(output_dir: str) -> None:
    """The nearest folder that is there can be written to; nothing is made."""
    try:
        target = Path(output_dir).resolve()
        nearest = next(folder for folder in (target, *target.parents) if folder.exists())
        if not nearest.is_dir():
            raise ConfigError(f"output_dir: {output_dir} can't be made: {nearest.name} is a file. Give a folder.")
        directory.check_writable(nearest)
    except (BuildError, OSError) as error:
        raise ConfigError(f"output_dir: {output_dir} can't be written to: {error}") from error


def _given(training: SFTConfig, field: dataclasses.Field) -> bool:
    value, default = getattr(training, field.name), field.default
    return getattr(value, "value", value) != getattr(default, "value", default)
