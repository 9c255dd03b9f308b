"""Sets of indices, by which a symmetric table is evaluated once for all entries that are equal."""

from __future__ import annotations

from functools import lru_cache
from itertools import combinations_with_replacement
from typing import Any

import numpy as np

__all__ = ["index_sets", "place_of", "places_of_triples", "places_of_unions", "sort_indices"]


@lru_cache(maxsize=8)
def index_sets(size: int, count: int) -> Any:
    """List the sets of ``count`` indices below ``size``, with repetition, by :func:`place_of`, shape=[count, sets]."""
    sets = np.array(list(combinations_with_replacement(range(size), count)), dtype=int).T
    return sets[:, np.argsort(place_of(*sets))]


@lru_cache(maxsize=8)
def places_of_unions(size: int, count: int, more: int) -> Any:
    """Places of the unions of every set of ``more`` and every one of ``count`` indices, shape=[sets, sets]."""
    return place_of(*index_sets(size, more)[..., None], *index_sets(size, count))


@lru_cache(maxsize=8)
def places_of_triples(size: int) -> Any:
    """Places of all triples of indices, shape=[size, size, size]."""
    index = np.arange(size)
    return place_of(index[:, None, None], index[:, None], index)


def sort_indices(*indices: Any) -> list[Any]:
    """Sort index arrays entry by entry, the smallest first; much faster than sorting along an axis of length 4."""
    out = list(indices)
    for end in range(len(out) - 1, 0, -1):
        for n in range(end):
            out[n], out[n + 1] = np.minimum(out[n], out[n + 1]), np.maximum(out[n], out[n + 1])
    return out


def place_of(*indices: Any) -> Any:
    """Place of a set of indices, in any order, among all sets: its number in the combinatorial number system."""
    size = 1 + max(int(np.max(index)) for index in indices)
    binomials = np.arange(size)  # C(i + n, n + 1), n = 0
    total = 0
    for index in sort_indices(*indices):
        total = total + binomials[index]
        binomials = np.cumsum(binomials)
    return total
