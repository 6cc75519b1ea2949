"""InstructConfig: what every builder can be told, checked before anything is read."""

from __future__ import annotations

from dataclasses import dataclass

import datasets

from . import formats
from .errors import ConfigError, did_you_mean


@dataclass
class InstructConfig(datasets.BuilderConfig):
    """What every builder can be told.

    Args:
        format (`str`, *optional*, defaults to `"messages"`):
            Columns of the result: a name in [`instruct_builders.formats.FORMATS`].
        columns (`dict`, *optional*):
            Where the source calls a column otherwise: `{"output": "response"}` reads `output` from `response`.
        license (`str`, *optional*):
            Hub identifier of the sources' license; a Hub dataset's own is the default.
        strict (`bool`, *optional*, defaults to `False`):
            Whether the first rejected row stops the build.
        max_bad_fraction (`float`, *optional*, defaults to `0.01`):
            The share of rejected rows above which the build stops.
        field (`str`, *optional*):
            Where a JSON file is one object, the key that holds the list of rows.
        max_chars (`int`, *optional*):
            Longest conversation in characters; a longer one is rejected as `too_long`.
        max_row_bytes (`int`, *optional*, defaults to 16 MiB):
            Longest row in the source's bytes; a longer one is rejected as `too_long`.
        control_tokens (`str`, *optional*, defaults to `"reject"`):
            What happens to text with a template's special token in it: `"reject"` or `"allow"`.
    """

    format: str = "messages"
    columns: dict | None = None
    field: str | None = None
    license: str | None = None
    strict: bool = False
    max_bad_fraction: float = 0.01
    max_chars: int | None = None
    max_row_bytes: int = 16 << 20
    control_tokens: str = "reject"

    def __post_init__(self):
        super().__post_init__()
        if self.format != "record" and self.format not in formats.FORMATS:
            raise ConfigError(
                f"format={self.format!r}: allowed are {', '.join(formats.FORMATS)}."
                f"{did_you_mean(self.format, formats.FORMATS)}"
            )
        if not 0 <= self.max_bad_fraction <= 1:
            raise ConfigError(f"max_bad_fraction={self.max_bad_fraction}: a share between 0 and 1 is allowed.")
        if self.control_tokens not in ("reject", "allow"):
            raise ConfigError(f"control_tokens={self.control_tokens!r}: allowed are 'reject' and 'allow'.")
