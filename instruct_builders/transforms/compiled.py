"""The inner loops of [`shingles`] and [`similar_sets`], compiled by numba: imported only where it is installed.

Without it the same values come from numpy, about half as fast; results never depend on it. The first run ever compiles
for some seconds, which numba remembers.

Places are unsigned: for signed ones numba asks each time whether they count from the end, at half the speed.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from .shingles import ALONE, SYMBOL, UNSPACED_FROM, WORD

ZERO, ONE, TWO, OWNER, UNUSED, FREQUENCY = (
    np.uint64(0),
    np.uint64(1),
    np.uint64(2),
    np.uint64(52),
    np.uint64(12),
    np.uint64(36),
)
FULL = np.uint8(255)  # a count from which on others are added up elsewhere
LOST = np.uint64(16)  # bits of a hash that don't fit beside owner and frequency


@njit(cache=True, nogil=True)
def mixed(value):
    """[`shingles.mixed`] of one number."""
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))


@njit(cache=True, nogil=True)
def tokens(characters, bounds, kinds, values, in_words, powers, word, hashes, counts):
    """Hashes of all tokens into `hashes`, tokens per text into `counts`; returns how many.

    `in_words` is 0 for what is no part of a word, else as `values`. `word` is the kind of character that goes on in
    the next one.
    """
    total = 0
    for text in range(len(bounds) - 1):
        first, begin, end = total, bounds[text], bounds[text + 1]
        spaced = word == WORD
        for place in range(begin, end):
            if characters[place] >= UNSPACED_FROM and kinds[characters[place]] == ALONE:
                spaced = False
        if spaced:
            total = words(characters, begin, end, in_words, powers, hashes, total)
        else:
            total = words_and_characters(characters, begin, end, kinds, values, powers, word, hashes, total)
        if total == first:
            for place in range(begin, end):
                if kinds[characters[place]] == SYMBOL:
                    hashes[total] = values[characters[place]]
                    total += 1
        counts[text] = total - first
    for place in range(total):
        hashes[place] = mixed(hashes[place])
    return total


@njit(cache=True, nogil=True)
def words(characters, begin, end, in_words, powers, hashes, total):
    """The tokens of a text in which all are words. Without branches: word ends can't be predicted."""
    length, polynomial, token = ZERO, ZERO, np.uint64(total)  # length and hash of the word so far
    for place in range(np.uint64(begin), np.uint64(end)):
        value = in_words[characters[place]]
        here = np.uint64(value != ZERO)
        hashes[token] = polynomial  # stays only where a word has ended
        token += np.uint64(length != ZERO) & (ONE - here)
        polynomial = (polynomial + value * powers[length]) & (ZERO - here)
        length = (length + ONE) & (ZERO - here)
    if length != ZERO:
        hashes[token] = polynomial
        token += ONE
    return np.int64(token)


@njit(cache=True, nogil=True)
def words_and_characters(characters, begin, end, kinds, values, powers, word, hashes, total):
    """The tokens of a text in which some are single characters."""
    length, polynomial = 0, ZERO
    for place in range(begin, end):
        kind = kinds[characters[place]]
        if kind == word:
            polynomial += values[characters[place]] * powers[length]
            length += 1
            continue
        if length:
            hashes[total] = polynomial
            total += 1
            length, polynomial = 0, ZERO
        if kind == ALONE or kind == WORD:
            hashes[total] = values[characters[place]]
            total += 1
    if length:
        hashes[total] = polynomial
        total += 1
    return total


@njit(cache=True, nogil=True)
def runs(tokens, offsets, powers, n, hashes, text_of):
    """Hashes of all runs of n tokens, and the text of each."""
    total, most = ZERO, np.uint64(n)
    for text in range(np.uint64(len(offsets) - 1)):
        first, last = np.uint64(offsets[text]), np.uint64(offsets[text + ONE])
        length = min(most, last - first)
        for start in range(first, last - length + ONE if length else first):
            polynomial = length
            for step in range(length):
                polynomial += tokens[start + step] * powers[step]
            hashes[total] = mixed(polynomial)
            text_of[total] = text
            total += ONE


@njit(cache=True, nogil=True)
def run_sets(tokens, offsets, owners, powers, n, slots, values, sizes):
    """Each owner's runs of n tokens, each once, 52 bits of their hashes, in order of place; returns how many.

    Owners ascend. `slots` is a table of zeros, a power of two of at least four times the runs of any owner.
    """
    total, text, texts, most = ZERO, ZERO, np.uint64(len(owners)), np.uint64(n)
    while text < texts:
        owner, begin, end = owners[text], text, text
        while end < texts and owners[end] == owner:
            end += ONE
        size = np.uint64(16)
        while size < TWO * TWO * np.uint64(offsets[end] - offsets[begin]):
            size *= TWO
        mask, first = size - ONE, total
        slots[:size] = ZERO
        for text in range(begin, end):
            start, last = np.uint64(offsets[text]), np.uint64(offsets[text + ONE])
            length = min(most, last - start)
            for place in range(start, last - length + ONE if length else start):
                polynomial = length
                for step in range(length):
                    polynomial += tokens[place + step] * powers[step]
                value = mixed(polynomial) >> UNUSED | ONE
                slot = value & mask
                there = slots[slot]
                while there != ZERO and there != value:
                    slot = (slot + ONE) & mask
                    there = slots[slot]
                slots[slot] = value
                values[total] = value  # written over by the next one where it was there
                total += np.uint64(there == ZERO)
        sizes[owner] = total - first
        text = end
    return np.int64(total)


@njit(cache=True, nogil=True)
def count(values, mask, frequency, more, more_mask):
    """Adds one for each value: up to [`FULL`] in `frequency`, a byte each so that few lie outside the processor's
    cache, and from there on in `more`."""
    for value in values:
        place = value & mask
        seen = frequency[place]
        if seen < FULL:
            frequency[place] = seen + np.uint8(1)
        else:
            more[place & more_mask] += np.uint32(1)


@njit(cache=True, nogil=True)
def shared_keys(values, bounds, mask, frequency, more, more_mask, limit, wanted, keys, written):
    """Keys of the elements that may be in another set, for the sets whose prefix is not all their own: number of the
    set, frequency and hash, from high to low bits. `wanted` loses what is in no other set."""
    total = ZERO
    for owner in range(np.uint64(len(bounds) - 1)):
        begin, number = total, owner << OWNER
        place, end, left = np.uint64(bounds[owner]), np.uint64(bounds[owner + ONE]), wanted[owner]
        while place < end and left > 0:
            seen = np.uint64(frequency[values[place] & mask])
            if seen == FULL:
                seen = min(seen + np.uint64(more[values[place] & more_mask]), limit)
            # Written always and kept where shared: a branch that can't be predicted costs more.
            keys[total] = number | (seen << FREQUENCY) | values[place] >> LOST
            shared = np.int64(seen > ONE)
            total += np.uint64(shared)
            left -= 1 - shared
            place += ONE
        if left == 0:  # the rest of the set need not be looked at
            total = begin
        wanted[owner] = left
        written[owner] = total - begin
    return np.int64(total)
