"""The keys of recipes/sft.py and recipes/check.py that are not TRL's."""

from __future__ import annotations

from dataclasses import dataclass, field

from instruct_builders.formats import FORMATS
from trainers import control_tokens, lengths, models

OF_DATASET = {"belongs_to": "dataset_name"}


@dataclass(kw_only=True)
class SftArguments(models.ModelArguments):
    """What is trained, on which rows.

    Args:
        dataset_name (`str`): A directory made by recipes/build.py, a Hub dataset, or a file.
        dataset_config (`str`, *optional*): The configuration of a dataset that has several.
        dataset_revision (`str`, *optional*): Branch, tag or commit of a Hub dataset.
        dataset_train_split (`str`, *optional*, defaults to `"train"`): Such as train, or train[:1000].
        dataset_test_split (`str`, *optional*): Evaluated, never trained on; by default the split test.
        dataset_format (`str`, *optional*, defaults to `"auto"`): What the columns are; auto goes by their names.
        dataset_license (`str`, *optional*): For the card, where the data does not say it.
        test_size (`float` or `int`, *optional*): A share or number of rows, held out and evaluated.
        split_seed (`int`, *optional*, defaults to 0): Of the draw of those rows.
        train_on_prompts (`bool`, *optional*, defaults to `False`): Learn the questions too, not the answers alone.
        overlength (`str`, *optional*, defaults to `"error"`): What becomes of a row longer than max_length.
        special_tokens (`str`, *optional*, defaults to `"reject"`):
            Such as </s> typed in a message: reject the row, escape them into ordinary text, or allow them.
        output_dir (`str`): Where checkpoints and the result go.
        allow_changed (`bool`, *optional*, defaults to `False`):
            Resume although data, batch, seed, versions or the like differ; each difference is logged.
        sample_prompts (`int`, *optional*, defaults to 0): Held-out rows that are answered after each evaluation.
        merge (`bool`, *optional*, defaults to `False`): Also write the base with the adapter in it.
        hub_merged_model_id (`str`, *optional*): Where that goes with push_to_hub.
    """

    dataset_name: str
    # What says more about the dataset holds for that dataset alone: another --dataset_name leaves it behind.
    dataset_config: str | None = field(default=None, metadata=OF_DATASET)
    dataset_revision: str | None = field(default=None, metadata=OF_DATASET)
    dataset_train_split: str = field(default="train", metadata=OF_DATASET)
    dataset_test_split: str | None = field(default=None, metadata=OF_DATASET)
    dataset_format: str = field(default="auto", metadata={**OF_DATASET, "allowed": ("auto", *FORMATS)})
    dataset_license: str | None = field(default=None, metadata=OF_DATASET)
    test_size: float | int | None = field(default=None, metadata=OF_DATASET)
    split_seed: int = 0
    train_on_prompts: bool = False
    overlength: str = field(default="error", metadata={"allowed": tuple(lengths.POLICIES)})
    special_tokens: str = field(default="reject", metadata={"allowed": control_tokens.POLICIES})
    output_dir: str | None = field(default=None, metadata={"required": True})  # config.check refuses None
    allow_changed: bool = False
    sample_prompts: int = 0
    merge: bool = False
    hub_merged_model_id: str | None = None
