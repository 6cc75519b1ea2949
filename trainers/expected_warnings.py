"""Warnings of libraries that tell what is meant to be: each known by its exact words, with why it may go unsaid."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

# seq2seq_models.from_pretrained does what it asks for, as soon as the model is there. Not before: with such a config
# transformers 5.23 would not fill the embeddings of encoder and decoder from the shared ones either.
TIED = (
    "The tied weights mapping and config for this model specifies to tie shared.weight to lm_head.weight, but both "
    "are present in the checkpoints with different values, so we will NOT tie them. You should update the config with "
    "`tie_word_embeddings=False` to silence this warning."
)
# The better of the two ways (https://nlp.stanford.edu/~johnhew/vocab-expansion.html), drawn under the run's seed; the
# added tokens are trained, and models.load_model logs that there are some.
GROWN = tuple(
    f"The new {what} will be initialized from a multivariate normal distribution that has old embeddings' mean and "
    "covariance. As described in this article: https://nlp.stanford.edu/~johnhew/vocab-expansion.html. To disable "
    "this, use `mean_resizing=False`"
    for what in ("embeddings", "lm_head weights")
)


@contextmanager
def unsaid(*messages: str) -> Iterator[None]:
    """Leaves exactly these messages of transformers' model loading unsaid."""
    logger = logging.getLogger("transformers.modeling_utils")

    def other(record: logging.LogRecord) -> bool:
        return record.getMessage() not in messages

    logger.addFilter(other)
    try:
        yield
    finally:
        logger.removeFilter(other)
