r"""The singular directions of layers whose imbalance is that of offsets, ``G_p = (c_{p+1} − c_p) I``.

On ``R^{d_p}`` between two layers, ``W_p W_pᵀ − c_p = W_{p+1}ᵀ W_{p+1} − c_{p+1}``. Each eigenvector of this matrix, of
eigenvalue x, is a singular vector of both layers, of singular values ``(x + c_p)^{1/2}`` and ``(x + c_{p+1})^{1/2}``.
So the directions run from one width a to another, b, with one x, and end where a layer vanishes on them: unless
``a = 0``, ``x = −c_a``, and unless ``b = N``, ``x = −c_{b+1}``. In between ``x + c_p ≥ 0``. Those from 0 to N are the
singular directions of the product, and r of them have ``σ² = ∏_p (x + c_p) > 0``. How many of the others there are is
decided by the widths: they lie in blocks between layers of one offset with none below it in between, which are nested.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

__all__ = ["Block", "zero_directions"]


class Block(NamedTuple):
    """A number of directions, from one width to another, of one x."""

    first: int
    last: int
    x: float
    size: int


def zero_directions(offsets: Sequence[float], widths: Sequence[int], rank: int) -> list[Block]:
    """Return the directions on which the product vanishes, those that pass no layer left out.

    Raises
    ------
    ValueError
        If there are no layers of these widths, offsets and rank.
    """
    spare, depth = [width - rank for width in widths], len(offsets)
    found: list[Block] = []
    # Blocks of widths to be split at their least offsets, and how many directions the blocks around them take.
    blocks = [(0, depth, 0)]
    while blocks:
        first, last, above = blocks.pop()
        level = min(offsets[first:last], default=0.0)
        cuts = [p for p in range(first + 1, last + 1) if offsets[p - 1] == level]
        parts = [(a, b - 1) for a, b in pairwise([first, *cuts, last + 1])] if cuts else []
        # Directions of ``x = −level`` do not end at the layers of lower offset at the ends of the block.
        parts = parts[1 if first > 0 else 0 : -1 if last < depth else None]
        covered = {p for a, b in parts for p in range(a, b + 1)}
        rest = [p for p in range(first, last + 1) if p not in covered]
        here = spare[rest[0]] - above if rest else 0  # of the whole, whose directions are those of the product
        for p in rest[1:]:
            if spare[p] - above != here:
                raise _impossible(offsets, widths, rank, rest[0], p, "equal")
        if here < 0:
            outer = first - 1 if first > 0 else last + 1
            raise _impossible(offsets, widths, rank, outer, rest[0], "at least")
        if here and first < last:
            found.append(Block(first, last, -(offsets[first - 1] if first > 0 else offsets[last]), here))
        blocks += [(a, b, above + here) for a, b in parts]
    return found


def _impossible(
    offsets: Sequence[float], widths: Sequence[int], rank: int, p: int, q: int, relation: str
) -> ValueError:
    layers = f"layer {max(p, q)}" if abs(p - q) == 1 else f"layers {min(p, q) + 1} to {max(p, q)}"
    return ValueError(
        f"no weights of widths {tuple(widths)} and rank {rank} have the offsets {list(offsets)}: the offset leaves "
        f"{layers} no zero singular value, so that width {q}, which is {widths[q]}, would have to be "
        f"{'equal to' if relation == 'equal' else relation} width {p}, {widths[p]}. Take inner widths of "
        f"{min(widths[0], widths[-1])}, or offsets that are equal where the widths differ."
    )
