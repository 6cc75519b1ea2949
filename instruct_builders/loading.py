"""`load_dataset` for instruction data: a builder by name, the types of `datasets` out."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

import datasets

from .alpaca import Alpaca
from .errors import ConfigError, did_you_mean
from .flan import Flan
from .self_instruct import SelfInstruct
from .vicuna import Vicuna

BUILDERS = {"alpaca": Alpaca, "vicuna": Vicuna, "flan": Flan, "self_instruct": SelfInstruct}
# What users call the data, where it is not the builder's name: formats that the builder reads.
READ_BY = {"sharegpt": "vicuna", "messages": "vicuna"}


def load_dataset(
    name: str,
    config: str | None = None,
    *,
    data_files: str | os.PathLike | Sequence | Mapping | None = None,
    format: str = "messages",
    split: str | None = None,
    streaming: bool = False,
    num_proc: int | None = None,
    cache_dir: str | None = None,
    revision: str | None = None,
    **options,
) -> datasets.Dataset | datasets.DatasetDict | datasets.IterableDataset | datasets.IterableDatasetDict:
    """Reads instruction data into a dataset that TRL trains on as it is.

    Args:
        name (`str`): `"alpaca"`, `"vicuna"`, `"flan"` or `"self_instruct"`.
        config (`str`, *optional*): The configuration of a Hub dataset.
        data_files (`str` or `list` or `dict`):
            A file, folder, glob, Hub id (`org/name[@revision]`), a list of these, a mapping from split to these, or
            `"bundled"` for the sample that ships with the package. `"flan"` needs none: its tasks name theirs.
        format (`str`, *optional*, defaults to `"messages"`):
            Columns of the result: `messages`, `alpaca`, `sharegpt`, `prompt_completion`, `text` or `record`.
        split (`str`, *optional*): Such as `"train"` or `"train[:100]"`; without it all splits, as a dict.
        streaming (`bool`, *optional*, defaults to `False`): An `IterableDataset`, nothing on disk. A bad row is
            logged with its place and left out; `strict=True` raises at the first, while `max_bad_fraction` needs the
            whole file and does not hold. Of a Hub file, every message field is there, null where unused.
        num_proc (`int`, *optional*): Worker processes; the rows are the same for any number.
        cache_dir (`str`, *optional*): Where builds are kept.
        revision (`str`, *optional*): Branch, tag or commit of a Hub dataset.
        options: Fields of the builder's configuration, such as `license`, `columns`, `strict`, `max_bad_fraction`.

    Raises:
        ConfigError: For an unknown name or option.
        SourceError: For a source that can't be read.
        TooManyRejected: If more rows are bad than `max_bad_fraction` allows.
    """
    check_name(name)
    builder = BUILDERS[name](
        data_files=data_files,
        config_name=config,
        revision=revision,
        cache_dir=cache_dir,
        streaming=streaming,
        format=format,
        **options,
    )
    if streaming:
        return builder.as_streaming_dataset(split=split)
    builder.download_and_prepare(num_proc=num_proc)
    return builder.as_dataset(split=split)


def check_name(name: object) -> None:
    """Raises a [`ConfigError`] where there is no builder of that name, and says which one reads data of that name."""
    if isinstance(name, str) and name in BUILDERS:
        return
    reads = READ_BY.get(str(name))
    hint = f" {name} data is read by {reads!r}." if reads else did_you_mean(str(name), BUILDERS)
    raise ConfigError(f"no builder {name!r}; there are {', '.join(BUILDERS)}.{hint}")
