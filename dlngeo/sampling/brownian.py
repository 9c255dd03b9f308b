"""Brownian motion on any space."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from dlngeo.geomstats.gradients import fills
from dlngeo.geomstats.metrics import SpectralMetric
from dlngeo.sampling.langevin import Langevin
from dlngeo.sampling.potentials import SpectralPotential
from dlngeo.sampling.state import State

__all__ = ["BrownianMotion"]


def _zero(lam: np.ndarray) -> np.ndarray:
    return np.zeros(len(lam))


class BrownianMotion(Langevin):
    r"""Brownian motion of a Riemannian metric, of generator ``½Δ_g``: a small step has the mean square ``dim · h``.

    It is :class:`Langevin` at ``β = 2`` without a potential. For metrics of the deep linear network, of any real or
    infinite depth, the singular values have their exact law after any number of steps of any size,
    :func:`dlngeo.thermodynamics.brownian.brownian_singular_values`.

    Parameters
    ----------
    space : geomstats Manifold
        Space with a Riemannian metric.
    step_size : float
        Step h in time.

    Raises
    ------
    TypeError, ValueError
        If the step is not positive, or the space has no metric.

    See Also
    --------
    dlngeo.sampling.Langevin
    dlngeo.thermodynamics.brownian.brownian_singular_values

    Examples
    --------
    >>> import numpy as np
    >>> from geomstats.geometry.euclidean import Euclidean
    >>> from dlngeo.sampling import BrownianMotion
    >>> walk = BrownianMotion(Euclidean(2), 0.1).sample(np.zeros((4000, 2)), 5, rng=0)
    >>> bool(abs(np.mean(np.sum(walk.points[:, -1] ** 2, axis=-1)) - 2 * 0.5) < 0.1)  # dim · t
    True
    """

    averages = False

    def __init__(self, space: Any, step_size: float) -> None:
        metric = getattr(space, "metric", None)
        deep = isinstance(metric, SpectralMetric) and metric.depth not in (None, math.inf) and fills(space)
        super().__init__(space, SpectralPotential(_zero, np.zeros_like) if deep else np.zeros_like, 2.0, step_size)

    def statistics(self, state: State) -> State:
        return {}

    def settings(self) -> dict[str, Any]:
        return {**super().settings(), "sampler": "BrownianMotion"}
