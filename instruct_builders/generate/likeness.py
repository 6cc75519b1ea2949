"""Is an instruction like one before it? The decision for each, and the score for the histogram."""

from __future__ import annotations

from collections.abc import Iterable

from ..transforms.novelty import NoveltyIndex

NEAR = 0.25  # ROUGE-L F below which it does not matter how low it is
# Finding how near the nearest text is takes up to twenty times as long as deciding. While the pool is small that is
# nothing; later it is done for one candidate in so many.
SMALL, EVERY = 2000, 64


class Likeness:
    """A [`NoveltyIndex`] that knows the seeds, and keeps scores for the histogram.

    Args:
        texts (`Iterable[str]`): What is there to begin with.
        threshold (`float`, *optional*): Of [`NoveltyIndex`]; `None` refuses nothing and only measures.
        tokenizer (`str`, *optional*, defaults to `"rouge"`): Of [`NoveltyIndex`].
    """

    def __init__(self, texts: Iterable[str], threshold: float | None = None, tokenizer: str = "rouge"):
        self.threshold = threshold
        self.index = NoveltyIndex(1.0 if threshold is None else threshold, tokenizer)
        self.index.extend(texts)
        self.candidates = 0
        self.scores: list[float] = []  # of all candidates, or of an even sample of them

    def admit(self, text: str) -> tuple[bool, float | None]:
        """Adds a text if it is new.

        Returns:
            Whether it is, and its ROUGE-L F with the nearest text (0.0 below [`NEAR`]), `None` where that was not
            looked up.
        """
        score, nearest = self.index.nearest(text)
        new = nearest < 0
        looked_up = len(self.index) < SMALL or self.candidates % EVERY == 0
        self.candidates += 1
        if new and looked_up:
            score, _ = self.index.nearest(text, min(NEAR, self.index.threshold))
        if looked_up:
            self.scores.append(score)
        if new:
            self.index.add(text)
        return new, round(score, 4) if looked_up or not new else None
