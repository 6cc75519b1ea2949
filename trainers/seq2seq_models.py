"""Arguments, tokenizer, model and adapter for an encoder-decoder such as FLAN-T5: one function each."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from instruct_builders.errors import ConfigError, SourceError
from instruct_builders.formats import FORMATS

from . import adapters, control_tokens, expected_warnings, models, places, seq2seq_rows

if TYPE_CHECKING:
    from peft import LoraConfig
    from transformers import (
        GenerationConfig,
        PretrainedConfig,
        PreTrainedModel,
        PreTrainedTokenizerBase,
        Seq2SeqTrainingArguments,
    )

FLAN_T5 = "google/flan-t5-xl"
OF_DATASET = {"belongs_to": "dataset_name"}
# Keys of Seq2SeqTrainingArguments that would do nothing here -> what to do instead.
NOT_OURS = {
    "generation_config": "use generation_num_beams and max_target_length",
    "generation_max_length": "use max_target_length",
    "sortish_sampler": "use train_sampling_strategy: group_by_length",
    "label_smoothing_factor": "the loss is the mean over all answer tokens of a step, unsmoothed",
}


@dataclass(kw_only=True)
class Seq2SeqArguments(models.ModelArguments):
    """What is trained or asked, and on which rows. Keys are named as in recipes/sft.py where it has them.

    Args:
        dataset_name (`str`, *optional*): A directory made by recipes/build.py, a Hub dataset, or a file.
        dataset_config (`str`, *optional*): The configuration of a dataset that has several.
        dataset_revision (`str`, *optional*): Branch, tag or commit of a Hub dataset.
        dataset_train_split (`str`, *optional*, defaults to `"train"`): Such as train, or train[:1000].
        dataset_test_split (`str`, *optional*): Evaluated, never trained on; by default the split test.
        dataset_format (`str`, *optional*, defaults to `"auto"`): What the columns are; auto goes by their names.
        dataset_license (`str`, *optional*): For the card, where the data does not say it.
        test_size (`float` or `int`, *optional*): A share or number of rows, held out and evaluated.
        split_seed (`int`, *optional*, defaults to 0): Of the draw of those rows.
        max_source_length (`int`, *optional*, defaults to 512): Most tokens the encoder reads, with the EOS.
        max_target_length (`int`, *optional*, defaults to 256): Most tokens of an answer, learned or written.
        overlength (`str`, *optional*, defaults to `"error"`): What becomes of a row longer than one of these.
        special_tokens (`str`, *optional*, defaults to `"reject"`):
            Such as </s> typed in a text: reject the row, escape them into ordinary text, or allow them.
        unknown_answers (`str`, *optional*, defaults to `"error"`):
            Answers with text that the vocabulary can't express: stop, `"drop"` the row, or `"keep"` the `<unk>` in it.
        metric (`str`, *optional*, defaults to `"exact_match"`): Of rows whose `meta.metric` says none.
        output_dir (`str`, *optional*): Where checkpoints and the result go; needed to train.
        allow_changed (`bool`, *optional*, defaults to `False`):
            Resume although data, batch, seed, versions or the like differ; each difference is logged.
        merge (`bool`, *optional*, defaults to `False`): Also write the base with the adapter in it.
        hub_merged_model_id (`str`, *optional*): Where that goes with push_to_hub.
        predict (`str`, *optional*): A prompt, or a .txt or .jsonl file of them: answered instead of training.
        predictions (`str`, *optional*): The JSONL file for the answers; by default they are printed.
        check (`bool`, *optional*, defaults to `False`): Report what training would do, and don't.
        world_size (`int`, *optional*, defaults to 1): Processes that will train, for the report.
        device_memory_gb (`float`, *optional*): Of one GPU, 2**30 bytes, for the report.
    """

    model_name_or_path: str = FLAN_T5
    chat_template: str = field(default="none: the text as it is", init=False)  # so not a key of this recipe
    dataset_name: str | None = None
    dataset_config: str | None = field(default=None, metadata=OF_DATASET)
    dataset_revision: str | None = field(default=None, metadata=OF_DATASET)
    dataset_train_split: str = field(default="train", metadata=OF_DATASET)
    dataset_test_split: str | None = field(default=None, metadata=OF_DATASET)
    dataset_format: str = field(default="auto", metadata={**OF_DATASET, "allowed": ("auto", *FORMATS)})
    dataset_license: str | None = field(default=None, metadata=OF_DATASET)
    test_size: float | int | None = field(default=None, metadata=OF_DATASET)
    split_seed: int = 0
    max_source_length: int | None = 512
    max_target_length: int | None = 256
    overlength: str = field(default="error", metadata={"allowed": seq2seq_rows.OVERLENGTH})
    special_tokens: str = field(default="reject", metadata={"allowed": control_tokens.POLICIES})
    unknown_answers: str = field(default="error", metadata={"allowed": seq2seq_rows.UNKNOWN})
    metric: str = "exact_match"
    output_dir: str | None = None
    allow_changed: bool = False
    merge: bool = False
    hub_merged_model_id: str | None = None
    predict: str | None = None
    predictions: str | None = None
    check: bool = False
    world_size: int = 1
    device_memory_gb: float | None = None


def check_arguments(args: Seq2SeqArguments, training: Seq2SeqTrainingArguments) -> None:
    """Refuses what this recipe can't do, before anything is loaded. The rest is [`trainers.config.check`]'s."""
    from .evaluation import task_metrics

    defaults = type(training).__dataclass_fields__
    for name, cure in NOT_OURS.items():
        if getattr(training, name) != defaults[name].default:
            raise ConfigError(f"{name}: not taken by this recipe: {cure}.")
    if not args.dataset_name:
        raise ConfigError("dataset_name: nothing given to train on. Give --dataset_name, or --predict to ask a model.")
    task_metrics.check(args.metric, "metric")
    if training.metric_for_best_model and not training.predict_with_generate and "loss" not in (
        training.metric_for_best_model
    ):  # fmt: skip
        raise ConfigError("metric_for_best_model: only eval_loss is there without predict_with_generate: true.")


def load_config(args: Seq2SeqArguments, training: Seq2SeqTrainingArguments) -> PretrainedConfig:
    """The model's config.json, if it is one of an encoder-decoder that can be trained as asked.

    Raises:
        SourceError: If there is no such model.
        ConfigError: For a decoder-only model, and for T5 in float16.
    """
    from transformers import AutoConfig
    from transformers.models.auto.modeling_auto import MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING as KNOWN

    places.check(args.model_name_or_path, "model_name_or_path", revision=args.model_revision)
    if (Path(args.model_name_or_path) / "adapter_config.json").is_file():
        raise ConfigError(
            f"model_name_or_path: {args.model_name_or_path} is an adapter and no model. Give the merged model, which "
            "`merge: true` writes beside it, or the model that the adapter is for."
        )
    try:
        config = AutoConfig.from_pretrained(args.model_name_or_path, revision=args.model_revision or "main")
    except (OSError, ValueError) as error:
        raise SourceError(f"no model in {args.model_name_or_path!r}: {error}") from error
    if type(config) not in KNOWN:
        raise ConfigError(
            f"model_name_or_path: {args.model_name_or_path} is a {config.model_type}, no encoder-decoder for text. "
            "This recipe takes T5, BART and their kind; recipes/sft.py trains decoder-only models."
        )
    if "t5" in config.model_type and (args.dtype == "float16" or training.fp16):
        raise ConfigError(
            "fp16: T5 was trained in bfloat16, and activations of its larger sizes are beyond the largest float16 "
            "(65,504): losses become NaN. Use bf16: true, or float32."
        )
    return config


def load_tokenizer(args: Seq2SeqArguments) -> PreTrainedTokenizerBase:
    """The model's own tokenizer, as it is.

    Raises:
        SourceError: If there is none.
        ConfigError: For one without EOS behind a text, or without padding: the decoder could not learn to stop.
    """
    from transformers import AutoTokenizer

    name, revision = args.model_name_or_path, args.model_revision or "main"
    try:
        tokenizer = AutoTokenizer.from_pretrained(name, revision=revision)
    except (OSError, ValueError) as error:
        raise SourceError(f"no tokenizer in {name!r} at revision {revision}: {error}") from error
    ids = tokenizer("a", text_target="a")
    if any(found[-1] != tokenizer.eos_token_id for found in (ids["input_ids"], ids["labels"])):
        raise ConfigError(f"the tokenizer of {name} puts no {tokenizer.eos_token!r} behind a text, as T5's does.")
    if tokenizer.pad_token_id in (None, tokenizer.eos_token_id):
        raise ConfigError(f"the tokenizer of {name} has no padding token of its own, as T5's has.")
    tokenizer.padding_side = "right"  # the decoder's start token stands in front of every answer
    return tokenizer


def load_model(
    args: Seq2SeqArguments, tokenizer: PreTrainedTokenizerBase, use_cpu: bool = False
) -> tuple[PreTrainedModel, str | None]:
    """An encoder-decoder from safetensors, and the commit it came from, where the Hub tells one.

    Raises:
        SourceError: If there is no such model, or its weights are pickles only.
        ConfigError: If the tokenizer has tokens that the model lacks.
    """
    from transformers.utils.hub import resolve_revision

    name, commit = args.model_name_or_path, None
    if not Path(name).exists():
        commit = getattr(resolve_revision(name, args.model_revision), "resolved", None)  # None where it can't be told
    revision = commit or args.model_revision or "main"
    quantization = models.quantization_config(args)
    options = {"attn_implementation": args.attn_implementation, "quantization_config": quantization}
    if quantization is not None and use_cpu:
        options["device_map"] = {"": "cpu"}  # without it bitsandbytes takes the GPU where there is one
    try:
        model = from_pretrained(
            name,
            revision=revision,
            dtype=models.torch_dtype(args.dtype),
            use_safetensors=True,
            **{key: value for key, value in options.items() if value is not None},
        )
    except OSError as error:
        raise SourceError(f"no safetensors model in {name!r} at revision {revision}: {error}") from error
    models.guard_4bit_on_cpu(model)
    rows = model.get_input_embeddings().weight.shape[0]
    if len(tokenizer) > rows:
        raise ConfigError(f"the tokenizer of {name} has {len(tokenizer):,} tokens, the model only {rows:,}.")
    return model, commit or args.model_revision


def from_pretrained(name: str, **options) -> PreTrainedModel:
    """`AutoModelForSeq2SeqLM.from_pretrained`, with `tie_word_embeddings` as it is.

    T5's is true in transformers 5 whatever config.json says. The heads of T5 1.1 and FLAN-T5 are weights of their own;
    they are loaded as such, but the next `tie_weights()` (resizing does it, and loading the best checkpoint at the
    end) would put the embeddings in their place.
    """
    from transformers import AutoModelForSeq2SeqLM

    with expected_warnings.unsaid(expected_warnings.TIED):
        model = AutoModelForSeq2SeqLM.from_pretrained(name, **options)
    head = model.get_output_embeddings()
    if head is not None and head.weight is not model.get_input_embeddings().weight:
        model.config.tie_word_embeddings = False
    return model


def generation(model: PreTrainedModel, max_new_tokens: int | None, num_beams: int | None) -> GenerationConfig:
    """How answers are written: greedily or with beams, up to a number of tokens; start and stop are the model's.

    A new one: `Seq2SeqTrainer` fills the model's own with defaults, such as 20 tokens, and would save them.
    """
    from transformers import GenerationConfig

    own, config = model.generation_config, model.config
    return GenerationConfig(
        decoder_start_token_id=own.decoder_start_token_id
        if own.decoder_start_token_id is not None
        else config.decoder_start_token_id,
        eos_token_id=own.eos_token_id if own.eos_token_id is not None else config.eos_token_id,
        pad_token_id=own.pad_token_id if own.pad_token_id is not None else config.pad_token_id,
        bos_token_id=own.bos_token_id,
        forced_bos_token_id=own.forced_bos_token_id,
        forced_eos_token_id=own.forced_eos_token_id,
        max_new_tokens=max_new_tokens,
        num_beams=num_beams,
    )


def lora_config(args: Seq2SeqArguments, base_revision: str | None = None) -> LoraConfig | None:
    """The adapter; `None` where all weights are trained. `all-linear` is T5's q, k, v, o, wi_0, wi_1 and wo."""
    return models.lora_config(args, base_revision=base_revision, task_type="SEQ_2_SEQ_LM")


def check_targets(args: Seq2SeqArguments, config: PretrainedConfig) -> None:
    """Whether every name in `lora_target_modules` is a linear layer of the model; builds it without weights."""
    import torch

    target = adapters.targets(args)
    if not args.use_peft or not isinstance(target, list):
        return
    from transformers import AutoModelForSeq2SeqLM

    with torch.device("meta"):
        model = AutoModelForSeq2SeqLM.from_config(config)
    layers = {name.rsplit(".", 1)[-1] for name, part in model.named_modules() if isinstance(part, torch.nn.Linear)}
    for name in target:
        if name.rsplit(".", 1)[-1] not in layers:
            allowed = ", ".join(sorted(layers - {"lm_head"}))
            raise ConfigError(
                f"lora_target_modules: {name!r} is no layer of the model. Allowed: all-linear, or some of {allowed}."
            )
