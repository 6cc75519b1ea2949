"""Is an instruction like one before it? The decision for each, and the score for the histogram."""

from __future__ import annotations

from collections.abc import Iterable

from ..errors import ConfigError
from ..transforms import embedding
from ..transforms.novelty import TOKENIZERS, EmbeddingNoveltyIndex, NoveltyIndex

NEAR = 0.25  # score below which it does not matter how low it is
# Finding how near the nearest text is takes up to twenty times as long as deciding. While the pool is small that is
# nothing; later it is done for one candidate in so many.
SMALL, EVERY = 2000, 64
THRESHOLDS = {"ROUGE-L F": 0.7, "cosine similarity": 0.9}  # by default


def check(threshold: float | None, tokenizer: str, embed: str | None) -> None:
    """Raises a `ConfigError` for options of [`Likeness`] that can't be right."""
    if tokenizer not in TOKENIZERS:
        raise ConfigError(f"tokenizer={tokenizer!r}: there are {', '.join(TOKENIZERS)}.")
    if threshold is not None and not 0 <= threshold <= 1:
        raise ConfigError(f"threshold={threshold}: a similarity between 0 and 1 is allowed.")
    if embed is not None:
        embedding.check_embed(embed)


class Likeness:
    """A [`NoveltyIndex`] that knows the seeds, and keeps scores for the histogram.

    Args:
        texts (`Iterable[str]`): What is there to begin with.
        threshold (`float`, *optional*): Of the index: 0.7 by default, 0.9 with `embed`.
        tokenizer (`str`, *optional*, defaults to `"rouge"`): Of [`NoveltyIndex`].
        embed (`str`, *optional*): Compares embeddings instead of words, as [`EmbeddingNoveltyIndex`] does: a model
            for sentence-transformers, or `module:function`.
        refuse (`bool`, *optional*, defaults to `True`): `False` only measures.
    """

    def __init__(
        self,
        texts: Iterable[str],
        threshold: float | None = None,
        tokenizer: str = "rouge",
        embed: str | None = None,
        refuse: bool = True,
    ):
        self.measure = "ROUGE-L F" if embed is None else "cosine similarity"
        limit = THRESHOLDS[self.measure] if threshold is None else threshold
        self.threshold = limit if refuse else None
        limit = limit if refuse else 1.0
        if embed is None:
            self.index = NoveltyIndex(limit, tokenizer)
        else:
            self.index = EmbeddingNoveltyIndex(embedding.embedder(embed), limit)
        self.index.extend(texts)
        self.candidates = 0
        self.scores: list[float] = []  # of all candidates, or of an even sample of them

    def admit(self, text: str) -> tuple[bool, float | None]:
        """Adds a text if it is new.

        Returns:
            Whether it is, and its score with the nearest text (0.0 below [`NEAR`]), `None` where that was not looked
            up.
        """
        score, nearest = self.index.nearest(text)
        new = nearest < 0 or self.threshold is None
        looked_up = len(self.index) < SMALL or self.candidates % EVERY == 0
        self.candidates += 1
        if new and looked_up:
            score, _ = self.index.nearest(text, min(NEAR, self.index.threshold))
        score = min(score, 1.0)  # a cosine of equal vectors may be a little more
        if looked_up:
            self.scores.append(score)
        if new:
            self.index.add(text)
        return new, round(score, 4) if looked_up or not new else None
