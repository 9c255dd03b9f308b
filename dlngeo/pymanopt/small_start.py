"""Starts near zero, and a line search that does not jump away from them, for the solvers of pymanopt."""

from __future__ import annotations

from typing import Any

from geomstats.geometry.spd_matrices import SPDMatrices
from pymanopt.manifolds import FixedRankEmbedded
from pymanopt.optimizers.line_search import AdaptiveLineSearcher

from dlngeo import _check
from dlngeo._linalg import small_factors
from dlngeo.geomstats._backend import to_gs, to_numpy
from dlngeo.pymanopt.balanced import Balanced
from dlngeo.pymanopt.fixed_rank import FixedRank
from dlngeo.pymanopt.from_geomstats import FromGeomstats
from dlngeo.weights.network import balanced_weights

__all__ = ["SmallStartLineSearcher", "small_start"]


class SmallStartLineSearcher(AdaptiveLineSearcher):
    r"""The adaptive line search of pymanopt, with a short first step and many halvings.

    A search remembers the factor ``α`` of the direction, which is a gradient at first, and tries it again. From a small
    start at large depth the gradient grows by orders of magnitude within a few iterations, as the singular values rise:
    the trial is thousands of times too long, ten halvings do not bring it back, and the run ends. Here a step may be
    halved 40 times. And the first one is 0.01 in place of 1, since a jump far from the path of the gradient flow
    forgets the start, on which the bias toward low rank rests.

    For the ``line_searcher`` of ``ConjugateGradient`` and ``SteepestDescent``, with a start of :func:`small_start`.
    From starts so small that their gradients are below 1e-6, also pass the solver a smaller ``min_gradient_norm``: near
    zero is near a saddle. Where the bias is what matters, :class:`~dlngeo.pymanopt.GradientFlow` keeps to it.

    Parameters
    ----------
    first_step : float
        Length of the first trial step in the metric, for data of size about 1.
    max_trials : int
        Trials of one search.

    Raises
    ------
    TypeError, ValueError
        If one is not a positive number.

    See Also
    --------
    dlngeo.pymanopt.small_start
    dlngeo.problems.QuadraticLineSearcher

    Examples
    --------
    >>> import numpy as np
    >>> from pymanopt.optimizers import ConjugateGradient
    >>> from dlngeo.problems import LowRankApproximation
    >>> cost, manifold = LowRankApproximation(np.diag([3.0, 2.0, 1.0])), FixedRank(3, 3, 2, depth=8)
    >>> solver = ConjugateGradient(verbosity=0, line_searcher=SmallStartLineSearcher())
    >>> result = solver.run(cost.problem(manifold), initial_point=small_start(manifold, rng=0))
    >>> np.round(np.sort(result.point[1]), 4)
    array([2., 3.])
    """

    def __init__(self, first_step: float = 0.01, max_trials: int = 40) -> None:
        super().__init__(
            initial_step_size=_check.positive(first_step, "first_step"),
            max_iterations=_check.positive_integer(max_trials, "max_trials"),
        )


def small_start(manifold: Any, size: float = 1e-3, rng: Any = None) -> Any:
    """Draw a point near zero: random orthonormal frames, and all singular values equal.

    Manifolds of matrices of one shape and rank get the same matrix from one seed, whatever their metrics and the form
    of their points; and :class:`Balanced` the weights of that product.

    Parameters
    ----------
    manifold : pymanopt manifold
        :class:`FixedRank`, pymanopt's ``FixedRankEmbedded``, :class:`Balanced`, or a space of matrices of geomstats by
        :func:`from_geomstats`, at its rank; the start is symmetric on that of positive definite matrices.
    size : float
        The singular values. The smaller they are, the stronger the bias of a deep metric toward low rank.
    rng : numpy.random.Generator or int, optional
        Source of randomness, or its seed.

    Returns
    -------
    point

    Raises
    ------
    TypeError
        If the manifold is none of these, or has no such points.
    ValueError
        If ``size`` is not positive and finite.

    See Also
    --------
    dlngeo.pymanopt.SmallStartLineSearcher

    Examples
    --------
    >>> from dlngeo import FixedRank
    >>> from dlngeo.pymanopt import small_start
    >>> u, s, vt = small_start(FixedRank(5, 4, 2, depth=3), rng=0)
    >>> u.shape, vt.shape
    ((5, 2), (2, 4))
    """
    size = _check.positive(size, "size")
    if isinstance(manifold, FixedRank | FixedRankEmbedded):
        rank = manifold._rank if isinstance(manifold, FixedRank) else manifold._k
        point = small_factors(manifold._m, manifold._n, rank, size, rng)
        return type(manifold.random_point())(*point)
    if isinstance(manifold, Balanced):
        widths, rank = manifold._widths, manifold._rank
        u, s, vt = small_factors(widths[-1], widths[0], rank, size, rng)
        return balanced_weights((u * s) @ vt, widths, rank)
    if isinstance(manifold, FromGeomstats) and len(manifold.space.shape) == 2:
        space = manifold.space
        m, n = space.shape
        u, s, vt = small_factors(m, n, getattr(space, "rank", min(m, n)), size, rng)
        x = (u * s) @ (u.T if isinstance(space, SPDMatrices) else vt)
        if bool(to_numpy(space.belongs(to_gs(x), atol=1e-6 * size))):
            return x
    raise TypeError(f"{manifold} has no small points that are known here; draw a start of your own.")
