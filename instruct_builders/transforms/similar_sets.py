"""All pairs of sets with a Jaccard similarity of at least a threshold: found exactly, and not by chance as by MinHash.

If |A & B| / |A | B| >= t, then A shares at least t |A| of its elements with B. So of any |A| - ceil(t |A|) + 1 of A's
elements at least one is in B, and if both take theirs first in one common order, they share one of those (prefix
filtering: Chaudhuri, Ganti, Kaushik 2006; Bayardo, Ma, Srikant 2007). The order here is from rare to frequent, so that
few sets meet by chance; the Jaccard similarity of those that meet is computed from the whole sets.

Sets are hashes of 52 bits: among 100 million shingles about one pair is taken for the same.
"""

from __future__ import annotations

import numpy as np

from .flat import offsets_of
from .shingles import OF_TOKENS, loops, powers_of, runs

OWNER_BITS = 12  # beside 52 bits of hash in one integer, so that one plain sort groups by owner
OWNERS = 1 << OWNER_BITS
HASH_BITS = np.uint64(64 - OWNER_BITS)
FREQUENCIES = np.uint64((1 << 16) - 1)  # the highest that is told from others
KEPT = np.uint64((1 << 36) - 1)  # bits of hash by which sets meet: a few meet by chance, and are then compared
RARE_BITS = 28  # at most, of the table of frequencies: 256 MB; what shares a place there seems less rare
FULL, MORE_BITS = 255, 18  # a byte's most, and the size of the table where higher frequencies go on
PAIRS_PER_SET = 64  # meetings looked at; more happen only where very many texts share whole passages
BATCH = 1 << 23  # meetings in memory before repeated ones are dropped
SLACK = 1e-9  # a bound computed in floating point must not lose a tie


def sets_of(hashes: np.ndarray, owners: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Hashes and their owners (below `count`, at most 4,096) -> the owners' sets: values, ascending, and offsets."""
    keys = owners.astype(np.uint64) << HASH_BITS
    keys |= hashes >> np.uint64(OWNER_BITS)
    keys |= np.uint64(1)  # no hash is 0: the compiled loop needs a mark for an empty place
    keys.sort()
    keys = keys[_firsts(keys)]
    sizes = np.bincount((keys >> HASH_BITS).astype(np.int64), minlength=count)
    keys &= np.uint64((1 << int(HASH_BITS)) - 1)
    return keys, offsets_of(sizes)


def run_sets(
    tokens: np.ndarray, offsets: np.ndarray, owners: np.ndarray, n: int, count: int
) -> tuple[np.ndarray, np.ndarray]:
    """The runs of n tokens in each owner's texts, as [`sets_of`] gives them; in any order, where loops are compiled.

    Args:
        tokens (`np.ndarray`), offsets (`np.ndarray`): From [`shingles.hashed_tokens`].
        owners (`np.ndarray`): Owner of each text, ascending: int64.
        n (`int`): Tokens per run.
        count (`int`): Owners, at most 4,096.
    """
    if not loops():
        hashes, text_of = runs(tokens, offsets, n)
        return sets_of(hashes, owners[text_of], count)
    most = np.bincount(owners, weights=np.diff(offsets)).max(initial=8)
    slots, values = np.empty(2 << int(2 * most).bit_length(), np.uint64), np.empty(len(tokens), np.uint64)
    sizes = np.zeros(count, np.int64)
    total = loops().run_sets(tokens, offsets, owners, powers_of(OF_TOKENS, n)[0], n, slots, values, sizes)
    return values[:total], offsets_of(sizes)


def same_sets(values: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Number (int64) of each set among the different ones; -1 for an empty set."""
    filled = np.flatnonzero(np.diff(offsets))
    digests = [np.empty(0, np.uint64)]
    for part in _parts(filled):
        first, last = offsets[part[0]], offsets[part[-1] + 1]
        digests.append(np.add.reduceat(values[first:last], offsets[part] - first))
    group = np.full(len(offsets) - 1, -1)
    group[filled] = np.unique(np.concatenate(digests), return_inverse=True)[1]
    return group


def similar_pairs(
    values: np.ndarray, offsets: np.ndarray, threshold: float, among: np.ndarray
) -> tuple[np.ndarray, np.ndarray, int]:
    """All pairs of sets with a Jaccard similarity of at least `threshold`.

    Args:
        values (`np.ndarray`): Elements of all sets: uint64 below 2**52.
        offsets (`np.ndarray`): Where each set begins: int64, shape (sets + 1,).
        threshold (`float`): Above 0, at most 1.
        among (`np.ndarray`): Which sets are compared: bool, shape (sets,). Equal ones are better left to
            [`same_sets`].

    Returns:
        `tuple[np.ndarray, np.ndarray, int]`: The pairs (int64, shape (pairs, 2)), their Jaccard similarities
        (float64), and how many sets were not compared with all that they met, because these were too many: 0, unless
        thousands share the same passages without being alike.
    """
    by_size = np.argsort(np.diff(offsets), kind="stable")
    meetings, left_out = meetings_of(
        _prefixes(values, offsets, by_size, threshold, among), by_size, offsets, threshold
    )
    found, scores = [np.empty((0, 2), np.int64)], [np.empty(0)]
    for start in range(0, len(meetings), OWNERS):
        pairs = np.stack([by_size[meetings[start : start + OWNERS] >> 32], _low(meetings[start : start + OWNERS])], 1)
        pairs[:, 1] = by_size[pairs[:, 1]]
        jaccard = jaccards(values, offsets, values, offsets, pairs)
        found.append(pairs[jaccard >= threshold])
        scores.append(jaccard[jaccard >= threshold])
    return np.concatenate(found), np.concatenate(scores), left_out


def jaccards(
    values: np.ndarray, offsets: np.ndarray, others: np.ndarray, other_offsets: np.ndarray, pairs: np.ndarray
) -> np.ndarray:
    """Jaccard similarity (float64) of at most 4,096 pairs (a set of the one collection, a set of the other)."""
    sizes = np.diff(offsets)[pairs[:, 0]], np.diff(other_offsets)[pairs[:, 1]]
    owners = np.arange(len(pairs), dtype=np.uint64) << HASH_BITS
    keys = np.concatenate(
        [
            values[places(offsets[pairs[:, 0]], sizes[0])] | np.repeat(owners, sizes[0]),
            others[places(other_offsets[pairs[:, 1]], sizes[1])] | np.repeat(owners, sizes[1]),
        ]
    )
    keys.sort()
    twice = keys[1:][keys[1:] == keys[:-1]] >> HASH_BITS
    shared = np.bincount(twice.astype(np.int64), minlength=len(pairs))
    return shared / np.maximum(sizes[0] + sizes[1] - shared, 1)


def part_jaccards(values: np.ndarray, bounds: np.ndarray, kinds: int, pairs: np.ndarray) -> np.ndarray:
    """The smallest Jaccard similarity (float64) among the parts of each pair of rows, any number of them; a part that
    neither row has doesn't count, one that a single row has is 0.

    Args:
        values (`np.ndarray`): Elements of all sets: uint64.
        bounds (`np.ndarray`): Where each part's set begins, row by row: int64, shape (rows * kinds + 1,).
        kinds (`int`): Parts of a row.
        pairs (`np.ndarray`): Rows: int64, shape (pairs, 2).
    """
    smallest, sizes = np.ones(len(pairs)), np.diff(bounds)
    for start in range(0, len(pairs), OWNERS):
        some = pairs[start : start + OWNERS]
        for part in range(kinds):
            at = some * kinds + part
            found = np.where(sizes[at].any(axis=1), jaccards(values, bounds, values, bounds, at), 1.0)
            smallest[start : start + OWNERS] = np.minimum(smallest[start : start + OWNERS], found)
    return smallest


def prefix_lengths(sizes: np.ndarray, threshold: float) -> np.ndarray:
    """How many of a set's elements every similar set must meet in one of (int64)."""
    return sizes - np.ceil(threshold * sizes - SLACK).astype(np.int64) + 1


def _prefixes(
    values: np.ndarray, offsets: np.ndarray, by_size: np.ndarray, threshold: float, among: np.ndarray
) -> np.ndarray:
    """The rarest elements of each set: one sorted uint64 each, hash above and number of the set, by size, below."""
    bits = min(RARE_BITS, max(8, len(values).bit_length()))
    frequencies = _frequencies(values, bits)
    number = np.empty(len(by_size), np.uint64)
    number[by_size] = np.arange(len(by_size), dtype=np.uint64)
    shift = np.uint64(max(1, (len(by_size) - 1).bit_length()))
    chosen = [np.empty(0, np.uint64)]
    for part in _parts(np.arange(len(offsets) - 1)):
        first, last = part[0], part[-1] + 1
        own, bounds = values[offsets[first] : offsets[last]], offsets[first : last + 1] - offsets[first]
        wanted = prefix_lengths(np.diff(bounds), threshold) * (among[first:last] & (np.diff(bounds) > 0))
        taken = _rarest(own, bounds, frequencies, wanted)
        chosen.append(((taken & KEPT) << shift) | number[first:last][(taken >> HASH_BITS).astype(np.int64)])
    entries = np.concatenate(chosen)
    entries.sort()
    return entries


def _frequencies(values: np.ndarray, bits: int) -> tuple[np.uint64, np.ndarray, np.ndarray, np.uint64]:
    """How often values occur that share their lowest bits: mask and table (uint8), of what goes on above 255 too."""
    mask, more_mask = np.uint64((1 << bits) - 1), np.uint64((1 << min(bits, MORE_BITS)) - 1)
    more = np.zeros(int(more_mask) + 1, np.uint32)
    if loops():
        frequency = np.zeros(1 << bits, np.uint8)
        loops().count(values, mask, frequency, more, more_mask)
        return mask, frequency, more, more_mask
    exact = np.zeros(1 << bits, np.uint32)
    for start in range(0, len(values), BATCH):
        np.add.at(exact, (values[start : start + BATCH] & mask).astype(np.int64), np.uint32(1))
    often = np.flatnonzero(exact > FULL)
    np.add.at(more, often & int(more_mask), exact[often] - np.uint32(FULL))
    return mask, np.minimum(exact, FULL).astype(np.uint8), more, more_mask


def _rarest(values: np.ndarray, bounds: np.ndarray, frequencies: tuple, wanted: np.ndarray) -> np.ndarray:
    """The `wanted` rarest elements of each of at most 4,096 sets, but for those that are in no other: number of the
    set, frequency and 36 bits of hash, from high to low bits. Equally frequent ones go by hash, as in every set."""
    if loops():
        keys, written, wanted = np.empty(len(values) + 1, np.uint64), np.empty(len(wanted), np.int64), wanted.copy()
        keys = keys[: loops().shared_keys(values, bounds, *frequencies, FREQUENCIES, wanted, keys, written)]
    else:
        mask, frequency, more, more_mask = frequencies
        owners = np.repeat(np.arange(len(bounds) - 1), np.diff(bounds))
        seen = frequency[(values & mask).astype(np.int64)].astype(np.uint64)
        often = seen == FULL
        seen[often] += more[(values[often] & more_mask).astype(np.int64)]
        wanted = np.maximum(wanted - np.bincount(owners[seen == 1], minlength=len(wanted)), 0)
        useful = np.flatnonzero((seen > 1) & (wanted > 0)[owners])
        keys = owners[useful].astype(np.uint64) << HASH_BITS
        keys |= np.minimum(seen[useful], FREQUENCIES) << np.uint64(36)
        keys |= values[useful] >> np.uint64(16)
        written = np.bincount(owners[useful], minlength=len(wanted))
    keys.sort()
    return keys[places(offsets_of(written)[:-1], wanted)]


def meetings_of(
    entries: np.ndarray, by_size: np.ndarray, offsets: np.ndarray, threshold: float
) -> tuple[np.ndarray, int]:
    """Pairs of sets that share a prefix element and are alike in size: smaller << 32 | larger, both numbered by size;
    and how many sets met too many others for all to be looked at."""
    shift = np.uint64(max(1, (len(by_size) - 1).bit_length()))
    met = np.zeros(len(entries) + 1, dtype=bool)  # whether an entry holds the element of the one before it
    np.equal(entries[1:] >> shift, entries[:-1] >> shift, out=met[1:-1])
    entries = entries[met[:-1] | met[1:]]  # most are in no second prefix
    shared, number = entries >> shift, (entries & ((np.uint64(1) << shift) - np.uint64(1))).astype(np.int64)
    sizes = np.diff(offsets)[by_size]
    new = np.flatnonzero(_firsts(shared))
    bounds = np.append(new, len(shared))
    ends = np.repeat(bounds[1:], np.diff(bounds))
    behind = ends - np.arange(len(shared)) - 1  # later sets that hold the same element
    reach, budget = int(behind.max(initial=0)), max(BATCH, PAIRS_PER_SET * len(by_size))
    while reach > 1 and int(np.minimum(behind, reach).sum()) > budget:
        reach //= 2
    kept, batch, waiting = np.empty(0, np.int64), [], 0
    alive = np.flatnonzero(behind)
    for step in range(1, reach + 1):
        alive = alive[behind[alive] >= step]
        # Sizes rise within a run: what is too large for a set now is so for good.
        alive = alive[sizes[number[alive]] >= threshold * sizes[number[alive + step]] - SLACK]
        if not len(alive):
            break
        batch.append((number[alive] << 32) | number[alive + step])
        waiting += len(alive)
        if waiting > BATCH:
            kept, batch, waiting = np.unique(np.concatenate([kept, *batch])), [], 0
    cut = alive[behind[alive] > reach]
    kept = np.unique(np.concatenate([kept, *batch]))
    return kept[(kept >> 32) != _low(kept)], len(np.unique(number[cut]))


def _parts(chosen: np.ndarray) -> list[np.ndarray]:
    return [chosen[start : start + OWNERS] for start in range(0, len(chosen), OWNERS)]


def places(starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """The places start, start + 1, ... of every span, one after the other."""
    return np.arange(int(lengths.sum())) + np.repeat(starts - offsets_of(lengths)[:-1], lengths)


def _firsts(ordered: np.ndarray) -> np.ndarray:
    first = np.ones(len(ordered), dtype=bool)
    np.not_equal(ordered[1:], ordered[:-1], out=first[1:])
    return first


def _low(keys: np.ndarray) -> np.ndarray:
    return (keys & keys.dtype.type(0xFFFFFFFF)).astype(np.int64)
