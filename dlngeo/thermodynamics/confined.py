r"""Whether a cost confines matrices against the entropy: a free energy bounded below, a law of finite mass.

Let ``E = ½ ‖𝒜X − b‖²`` on the m×n matrices of rank r, with ``ε = 1 − 1/N`` and the excess κ of the inner widths.

**Bounded below.** Where the cone ``{𝒜Z = 0, rank Z ≤ r}`` is zero, ``‖𝒜X‖ ≥ c‖X‖`` on the closed cone of the matrices
of rank r at most, E grows like ``‖X‖²``, S like ``log ‖X‖``, and F has a minimiser. Where it holds a Z of rank q > 0,
E is bounded along ``X_t = Y + tZ`` with Y of the rank r − q that is missing, while q singular values grow like t and

.. math:: S(X_t) = \Big[\varepsilon \frac{q(q-1)}{2} + \varepsilon q (r - q) + \kappa q\Big] \log t + O(1) ,

so that F is not bounded below at any β, unless the bracket vanishes: at depth 1, and for r = 1 without excess.

**Finite mass.** The law is ``e^{−βE + νS} dvol_g`` with ν = 1 for isotropic noise, whose ``e^{−βF}`` it is, 1/κ for
noise of anisotropy κ, and 0 for noise of the metric. Where q singular values are of size t, the q(m + n − q) directions
that turn or stretch them have ``φ ~ t^{2ε}``, so that relative to the flat volume the density is
``t^{−ε q(m + n − q)}`` times ``e^{νS}``. Matrices within O(1) of the cone of kernel matrices of rank q, of dimension
``p_q``, up to the size t have a flat volume like ``t^{p_q}``. The mass is finite if for every q

.. math:: p_q + \nu \Big[\varepsilon \frac{q(q-1)}{2} + \varepsilon q (r - q) + \kappa q\Big]
    < \varepsilon\, q (m + n - q)

and infinite where one q has ``≥``. β does not enter. Weight decay of the layers or a ridge, however small, make F
bounded below and the mass finite.

Of 2×2 matrices with the diagonal observed ``p_1 = 1`` and ``p_2 = 2``: F is unbounded for all N > 1, the mass with
isotropic noise infinite for N ≤ 3 and finite for N > 3, with noise of the metric infinite for N ≤ 2 and finite for
N > 2.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np

from dlngeo import _check
from dlngeo.thermodynamics.entropy import SpectralEntropy
from dlngeo.thermodynamics.noise import Noise

__all__ = ["Confinement", "UnboundedError", "confinement"]

_MOST_ENTRIES = 1024  # of matrices whose linear map is formed
_MOST_ROWS = 12  # of which all subsets are tried


class UnboundedError(ValueError):
    """A free energy is not bounded below; ``ray`` is a direction along which it falls, or None.

    See Also
    --------
    dlngeo.problems.confinement
    dlngeo.problems.equilibria

    Examples
    --------
    >>> import numpy as np
    >>> from dlngeo.problems import MatrixCompletion, UnboundedError, equilibria
    >>> try:
    ...     equilibria(MatrixCompletion([0, 1], [0, 1], [1.0, 1.0], (2, 2)), beta=1.0, depth=2)
    ... except UnboundedError as error:
    ...     print(bool(np.allclose(np.diag(error.ray), 0)))  # along entries that were not seen
    True
    """

    def __init__(self, message: str, ray: np.ndarray | None = None) -> None:
        super().__init__(message)
        self.ray = ray


@dataclass(frozen=True)
class Confinement:
    """What :func:`confinement` found; None stands for undecided.

    Attributes
    ----------
    bounded : bool or None
        Whether the free energy is bounded below, at every β.
    finite : bool or None
        Whether the law has a finite mass, at every β.
    ray : array, shape=[m, n], or None
        A direction of norm 1 along which F goes to −∞.
    reason : str
        Why, and the remedy.

    See Also
    --------
    dlngeo.problems.confinement
    dlngeo.problems.UnboundedError

    Examples
    --------
    >>> import numpy as np
    >>> from dlngeo.problems import MatrixCompletion, confinement
    >>> found = confinement(MatrixCompletion([0, 1], [0, 1], [1.0, 1.0], (2, 2)), depth=2)
    >>> found.bounded, bool(np.allclose(np.diag(found.ray), 0)), bool(np.isclose(np.linalg.norm(found.ray), 1))
    (False, True, True)
    """

    bounded: bool | None
    finite: bool | None
    ray: np.ndarray | None
    reason: str


def confinement(
    cost: Any,
    depth: float,
    rank: int | None = None,
    widths: Sequence[int] | None = None,
    *,
    decay: float = 0.0,
    ridge: float = 0.0,
    noise: str | Noise = "isotropic",
) -> Confinement:
    """Decide whether the free energy of a cost is bounded below and its Gibbs law normalisable.

    Exact where the cost is least squares and the kernel of its linear map tells:
    :mod:`dlngeo.thermodynamics.confined` has the theorems.

    Parameters
    ----------
    cost : object
        The energy, with its ``shape``: any cost of :mod:`dlngeo.problems`. Of those without a ``null_space``, which are
        no least squares, nothing is known, unless they are confined.
    depth, rank, widths, decay, ridge
        As for :class:`~dlngeo.problems.FreeEnergy`.
    noise : {"isotropic", "base"} or Noise
        Noise of the law whose mass is asked for.

    Raises
    ------
    TypeError, ValueError
        If an argument is out of range.

    See Also
    --------
    dlngeo.problems.Confinement
    dlngeo.problems.FreeEnergy

    Examples
    --------
    >>> from dlngeo.problems import MatrixCompletion
    >>> data = MatrixCompletion([0, 1], [0, 1], [1.0, 1.0], (2, 2))
    >>> [confinement(data, depth).finite for depth in (2, 3, 4)]
    [False, False, True]
    >>> confinement(data, 2, ridge=1e-3).bounded
    True
    """
    require_real(cost)
    m, n = cost.shape
    entropy, strengths = SpectralEntropy(m, n, depth, rank, widths), Noise.of(noise)
    decay, ridge = confining(decay, ridge, entropy.depth)
    if not isinstance(strengths, Noise) or strengths.kappa == 0:
        raise ValueError(f"{strengths} has no law of which the mass is known; give 'base', 'isotropic' or kappa > 0.")
    r = entropy.rank
    if decay or ridge:
        return Confinement(True, True, None, "weight decay confines all matrices.")
    if not hasattr(cost, "null_space") or m * n > _MOST_ENTRIES:
        return Confinement(None, None, None, "nothing is known of the growth of this cost.")
    kernel = cost.null_space()
    if len(kernel) == 0:
        return Confinement(True, True, None, "the data determine every matrix.")
    hidden = _hidden(kernel)
    ray, least = _low_rank(kernel, hidden, r)
    if ray is None:
        return Confinement(None, None, None, "whether the data determine every matrix of this rank is not known.")
    q = int(np.linalg.matrix_rank(ray))
    grows = _growth(entropy, q) > 0
    finite = _finite(kernel, hidden, entropy, least, strengths)
    words = {True: "finite", False: "infinite", None: "perhaps infinite"}[finite]
    reason = (
        f"the data leave {len(kernel)} directions free, along one of rank {q} "
        + ("the entropy grows without bound" if grows else "nothing confines")
        + f", and the mass of the law is {words}. Give weight decay of the layers (decay), a ridge, or more data."
    )
    return Confinement(not grows, finite, ray if grows else None, reason)


def require_real(cost: Any) -> None:
    """Raise unless it is a cost, of real matrices."""
    if not hasattr(cost, "shape"):
        raise TypeError(f"cost must be a cost of dlngeo.problems, got {type(cost).__name__}; see FunctionCost.")
    if getattr(cost, "field", "real") != "real":
        raise TypeError(
            f"{type(cost).__name__} is a cost of complex matrices, whose free energies have derivatives alone, by "
            "dlngeo.free_energy; give one of real matrices."
        )


def confining(decay: Any, ridge: Any, depth: float) -> tuple[float, float]:
    """Return the weights of both terms, zero or positive."""
    decay, ridge = (
        0.0 if value == 0 else _check.positive(value, name) for value, name in ((decay, "decay"), (ridge, "ridge"))
    )
    if decay and math.isinf(depth):
        raise ValueError("the weight decay of infinitely many layers is infinite; take ridge, or a finite depth.")
    return decay, ridge


def _growth(entropy: SpectralEntropy, q: int) -> float:
    """Exponent with which ``e^S`` grows as q singular values do."""
    return (1 - 1 / entropy.depth) * q * (q - 1 + 2 * (entropy.rank - q)) / 2 + entropy.excess * q


def _hidden(kernel: np.ndarray) -> np.ndarray | None:
    """Return the entries that are not observed, shape=[m, n], where the kernel is that of matrix completion."""
    return np.any(kernel != 0, axis=0) if np.all(np.count_nonzero(kernel, axis=(1, 2)) == 1) else None


def _low_rank(kernel: np.ndarray, hidden: np.ndarray | None, r: int) -> tuple[np.ndarray | None, int]:
    """Find a matrix of the kernel of rank at most r, or None where none is known; and the dimension of those of rank 1.

    The second is a lower bound of ``p_1``, exact for completion of few rows.
    """
    m, n = kernel.shape[1:]
    if hidden is not None:
        ray, least = kernel[0], _block(hidden if m <= n else hidden.T)
    else:
        ray, least = _rank_one(kernel), 0
        least = 0 if ray is None else 1
    if r == min(m, n):  # the most of the ranks, for which the entropy grows fastest
        weights = np.random.default_rng(0).standard_normal(len(kernel))
        ray = np.tensordot(weights / np.linalg.norm(weights), kernel, 1)
    return ray, least


def _rank_one(kernel: np.ndarray) -> np.ndarray | None:
    """Find a matrix of rank one in a span of all ``u vᵀ`` with u or v in a subspace, or among the basis."""
    k, m, n = kernel.shape
    for stacked, turned in ((kernel.reshape(k * m, n), False), (kernel.transpose(0, 2, 1).reshape(k * n, m), True)):
        # A span of all ``u vᵀ`` with v in a subspace has as many dimensions as m times that of the subspace.
        row_rank = int(np.linalg.matrix_rank(stacked))
        if k == (n if turned else m) * row_rank:
            v = np.linalg.svd(stacked)[2][0]
            unit = np.eye(n if turned else m)[0]
            return np.outer(v, unit) if turned else np.outer(unit, v)
    for z in kernel:
        if np.linalg.matrix_rank(z) == 1:
            return np.asarray(z / np.linalg.norm(z))
    return None


def _block(hidden: np.ndarray) -> int:
    """Dimension ``a + b − 1`` of the largest a×b block of hidden entries, exact for few rows, else of single rows."""
    m, best = len(hidden), 0
    sizes = range(1, m + 1) if m <= _MOST_ROWS else (1, m)
    for a in sizes:
        for rows in combinations(range(m), a):
            b = int(hidden[list(rows)].all(axis=0).sum())
            best = max(best, a + b - 1) if b else best
    return max(best, int(hidden.sum(axis=0).max()))


def _finite(
    kernel: np.ndarray, hidden: np.ndarray | None, entropy: SpectralEntropy, least: int, noise: Noise
) -> bool | None:
    """Compare the dimensions with the fall of the density, at each rank q of matrices of the kernel."""
    (m, n), r = entropy.shape, entropy.rank
    weights = np.random.default_rng(1).standard_normal(len(kernel))
    most = int(np.linalg.matrix_rank(np.tensordot(weights, kernel, 1)))
    exact = hidden is not None and min(m, n) <= _MOST_ROWS
    decided: bool | None = True
    for q in range(1, min(r, most) + 1):
        low = least if q == 1 else 0
        high = least if q == 1 and exact else min(len(kernel), q * (m + n - q))
        if q == most:
            low = high = len(kernel)
        fall = (1 - 1 / entropy.depth) * q * (m + n - q) - noise.vertical / noise.kappa * _growth(entropy, q)
        if low >= fall - 1e-12:
            return False
        if high >= fall - 1e-12:
            decided = None
    return decided
