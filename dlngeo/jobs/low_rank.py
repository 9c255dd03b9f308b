"""A matrix of low rank of which few entries are shown: a question of completion that has an answer."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from dlngeo import _check
from dlngeo.jobs.load import Data
from dlngeo.problems import MatrixCompletion

__all__ = ["example", "low_rank"]

_ATTEMPTS = 100_000


def low_rank(
    shape: tuple[int, int] = (60, 60),
    rank: int = 3,
    *,
    condition: float = 10.0,
    oversampling: float = 2.0,
    noise: float = 0.0,
    rng: Any = None,
) -> tuple[np.ndarray, MatrixCompletion]:
    """Draw a matrix of low rank and mean square 1, and entries of it that may determine it.

    Parameters
    ----------
    shape : tuple of int
        Shape (m, n).
    rank : int
        Rank r. The singular vectors are Gaussian columns made orthonormal.
    condition : float
        Ratio of the largest singular value to the smallest; between them they are equally spaced.
    oversampling : float
        Number of entries shown for each of the ``r(m + n − r)`` parameters. They are uniform among the choices of as
        many that show at least r entries of each row and column, without which no matrix of rank r is determined.
    noise : float
        Standard deviation of Gaussian noise on the entries shown.
    rng : numpy.random.Generator or int, optional
        Source of randomness, or its seed.

    Returns
    -------
    truth : array, shape=[m, n]
        The matrix.
    observed : MatrixCompletion
        The entries shown.

    Raises
    ------
    ValueError
        If the rank exceeds the shape, ``condition`` is below 1, or so many entries do not exist or do not suffice.
    """
    (m, n), generator = shape, np.random.default_rng(rng)
    rank = _check.rank(rank, m, n)
    if not 1 <= condition < math.inf:
        raise ValueError(f"condition must be finite and at least 1, got {condition}.")
    # Signs are left as QR gives them: the figures of docs/bias.md are of these matrices.
    u, v = (np.linalg.qr(generator.standard_normal((size, rank)))[0] for size in shape)
    truth = (u * np.linspace(condition, 1, rank)) @ v.T
    truth *= math.sqrt(m * n) / np.linalg.norm(truth)
    count = round(oversampling * rank * (m + n - rank))
    for _ in range(_ATTEMPTS if rank * max(m, n) <= count <= m * n else 0):
        rows, cols = np.divmod(np.sort(generator.permutation(m * n)[:count]), n)
        if min(np.bincount(rows, minlength=m).min(), np.bincount(cols, minlength=n).min()) >= rank:
            values = truth[rows, cols] + noise * generator.standard_normal(count)
            return truth, MatrixCompletion(rows, cols, values, shape)
    raise ValueError(
        f"{count} of {m * n} entries leave rows or columns with fewer than {rank} entries, or are too many; change the "
        f"oversampling from {oversampling:g}, or the rank."
    )


def example(seed: int) -> Data:
    """Draw a 60×60 matrix of rank 3 and condition 10, with three entries shown for each parameter."""
    truth, observed = low_rank(oversampling=3.0, rng=seed)
    shown = np.zeros(truth.shape, bool)
    shown[observed.rows, observed.cols] = True
    return Data("60×60 of rank 3, condition 10", truth, shown=shown)
