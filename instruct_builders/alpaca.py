"""Alpaca: instruction / input / output rows as a `datasets` builder."""

from __future__ import annotations

from .builder import InstructBuilder
from .sources import BUNDLED


class Alpaca(InstructBuilder):
    """Rows of one instruction, an optional input and one output, as in Stanford Alpaca's `alpaca_data.json`.

    The input stays in the column `context`, so that both the published Alpaca prompt and a chat can be made of a row.

    Example:

    ```python
    >>> from instruct_builders import Alpaca
    >>> builder = Alpaca(data_files="alpaca_data.json")
    >>> builder.download_and_prepare()
    >>> builder.as_dataset(split="train")[0]["messages"]
    ```
    """

    NAME = "alpaca"
    SOURCE_FORMATS = ("alpaca",)

    @classmethod
    def bundled(cls) -> str:
        return str(BUNDLED / "quickstart_pairs.jsonl")
