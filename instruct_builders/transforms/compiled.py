"""The inner loops of [`shingles`] and [`similar_sets`], compiled by numba: imported only where it is installed.

Without it the same values come from numpy, about half as fast; results never depend on it. The first run ever compiles
for some seconds, which numba remembers.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from .shingles import ALONE, SYMBOL, UNSPACED_FROM, WORD

ZERO, ONE, OWNER, UNUSED, FREQUENCY = np.uint64(0), np.uint64(1), np.uint64(52), np.uint64(12), np.uint64(36)
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
    length, polynomial = 0, ZERO  # of the word so far
    for place in range(begin, end):
        value = in_words[characters[place]]
        here = np.int64(value != ZERO)
        hashes[total] = polynomial  # stays only where a word has ended
        total += np.int64(length > 0) & (1 - here)
        polynomial = (polynomial + value * powers[length]) & np.uint64(-here)
        length = (length + 1) & -here
    if length:
        hashes[total] = polynomial
        total += 1
    return total


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
    total = 0
    for text in range(len(offsets) - 1):
        first, last = offsets[text], offsets[text + 1]
        length = min(n, last - first)
        for start in range(first, last - length + 1 if length else first):
            polynomial = np.uint64(length)
            for step in range(length):
                polynomial += tokens[start + step] * powers[step]
            hashes[total] = mixed(polynomial)
            text_of[total] = text
            total += 1


@njit(cache=True, nogil=True)
def run_sets(tokens, offsets, owners, powers, n, slots, values, sizes):
    """Each owner's runs of n tokens, each once, 52 bits of their hashes, in order of place; returns how many.

    Owners ascend. `slots` is a table of zeros, a power of two of at least twice the runs of any owner.
    """
    total, text = 0, 0
    while text < len(owners):
        owner, begin, end = owners[text], text, text
        while end < len(owners) and owners[end] == owner:
            end += 1
        size = 16
        while size < 2 * (offsets[end] - offsets[begin]):
            size *= 2
        mask, first = np.uint64(size - 1), total
        slots[:size] = ZERO
        for text in range(begin, end):
            start, last = offsets[text], offsets[text + 1]
            length = min(n, last - start)
            for place in range(start, last - length + 1 if length else start):
                polynomial = np.uint64(length)
                for step in range(length):
                    polynomial += tokens[place + step] * powers[step]
                value = mixed(polynomial) >> UNUSED | ONE
                slot = value & mask
                while slots[slot] != ZERO and slots[slot] != value:
                    slot = (slot + ONE) & mask
                if slots[slot] == ZERO:
                    slots[slot] = value
                    values[total] = value
                    total += 1
        sizes[owner] = total - first
        text = end
    return total


@njit(cache=True, nogil=True)
def count(values, mask, frequency):
    for value in values:
        place = value & mask
        if frequency[place] < 65535:
            frequency[place] += np.uint16(1)


@njit(cache=True, nogil=True)
def shared_keys(values, bounds, mask, frequency, limit, wanted, keys, written):
    """Keys of the elements that may be in another set, for the sets whose prefix is not all their own: number of the
    set, frequency and hash, from high to low bits. `wanted` loses what is in no other set."""
    total = 0
    for owner in range(len(bounds) - 1):
        begin = total
        place, left = bounds[owner], wanted[owner]
        while place < bounds[owner + 1] and left > 0:
            seen = np.uint64(frequency[values[place] & mask])
            # Written always and kept where shared: a branch that can't be predicted costs more.
            keys[total] = (np.uint64(owner) << OWNER) | (min(seen, limit) << FREQUENCY) | values[place] >> LOST
            shared = np.int64(seen > ONE)
            total += shared
            left -= 1 - shared
            place += 1
        if left == 0:  # the rest of the set need not be looked at
            total = begin
        wanted[owner] = left
        written[owner] = total - begin
    return total
