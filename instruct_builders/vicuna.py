"""Vicuna: multi-turn conversations, ShareGPT's or with roles and contents, as a `datasets` builder."""

from __future__ import annotations

from .builder import InstructBuilder
from .sources import BUNDLED


class Vicuna(InstructBuilder):
    """Conversations: ShareGPT rows (`conversations` of `from` and `value`) or `messages` of `role` and `content`.

    Tool calls, tool answers, system turns and reasoning are kept. Cleaning is not done here but by
    [`instruct_builders.transforms`], where every change and every drop is counted.

    Example:

    ```python
    >>> from instruct_builders import Vicuna
    >>> builder = Vicuna(data_files="sharegpt.json", max_bad_fraction=0.05)
    >>> builder.download_and_prepare()
    >>> builder.as_dataset(split="train")[0]["messages"]
    ```
    """

    NAME = "vicuna"
    SOURCE_FORMATS = ("sharegpt", "messages")

    @classmethod
    def bundled(cls) -> str:
        return str(BUNDLED / "conversations.jsonl")
