"""Problems whose Hessian is a difference of gradients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pymanopt

from dlngeo import _check
from dlngeo.pymanopt.fixed_rank import FixedRank

__all__ = ["GradientProblem", "difference"]


class GradientProblem(pymanopt.Problem):
    r"""A problem of pymanopt for trust regions, where the cost or the metric has no Hessian.

    .. math:: \operatorname{Hess} f[v] \approx \frac{P_{h} \operatorname{grad} f(\gamma(h))
        - P_{-h} \operatorname{grad} f(\gamma(-h))}{2h}, \qquad \gamma(h) = \exp_x(h v),

    with the parallel transport ``P`` from ``γ(±h)`` back to x: ``parallel_transport`` of the manifold, which those of
    :func:`from_geomstats` have, else its ``transport``, which is right for metrics induced by a flat space. The error
    is of order ``(h ‖v‖)²``, or that of exp and log where they are integrated: some 1e-5 of the Hessian.

    Parameters
    ----------
    manifold : pymanopt Manifold
        With ``exp``, and where it has no ``parallel_transport`` in closed form also ``log``.
    cost : pymanopt Function
        The cost.
    step : float
        Length ``h ‖v‖`` of the two steps.
    **derivatives
        ``euclidean_gradient`` or ``riemannian_gradient``, as for :class:`pymanopt.Problem`.

    Raises
    ------
    ValueError
        If ``step`` is not positive, or on a FixedRank of another depth than 1, whose transport is a projection.

    See Also
    --------
    dlngeo.pymanopt.GradientFlow

    Examples
    --------
    >>> import autograd.numpy as anp
    >>> import numpy as np
    >>> from geomstats.geometry.spd_matrices import SPDBuresWassersteinMetric, SPDMatrices
    >>> from pymanopt.optimizers import TrustRegions
    >>> from dlngeo.pymanopt import from_geomstats
    >>> space = SPDMatrices(2, equip=False)
    >>> manifold = from_geomstats(space.equip_with_metric(SPDBuresWassersteinMetric))
    >>> cost = pymanopt.function.autograd(manifold)(lambda x: anp.trace(x) + anp.trace(anp.linalg.inv(x)))
    >>> result = TrustRegions(verbosity=0).run(GradientProblem(manifold, cost), initial_point=np.diag([3.0, 0.5]))
    >>> bool(np.allclose(result.point, np.eye(2), atol=1e-6))
    True
    """

    def __init__(self, manifold: Any, cost: Any, *, step: float = 1e-4, **derivatives: Any) -> None:
        if isinstance(manifold, FixedRank) and manifold.kernel.depth != 1:
            raise ValueError(f"the Hessian on {manifold} is in closed form; pose the problem by pymanopt.Problem.")
        super().__init__(manifold, cost, **derivatives)
        self.step = _check.positive(step, "step")
        self._transport: Callable[..., Any] = getattr(manifold, "parallel_transport", manifold.transport)

    @property
    def riemannian_hessian(self) -> Callable[[Any, Any], Any]:  # as a property of pymanopt's problem
        return self._difference

    def _difference(self, point: Any, tangent_vector: Any) -> Any:
        return difference(self, self.manifold.exp, self._transport, point, tangent_vector, self.step)


def difference(
    problem: pymanopt.Problem,
    move: Callable[..., Any],
    transport: Callable[..., Any],
    point: Any,
    tangent_vector: Any,
    step: float,
) -> Any:
    """Return the central difference of Riemannian gradients; see :class:`GradientProblem`."""
    size = problem.manifold.norm(point, tangent_vector)
    if size == 0:
        return problem.manifold.zero_vector(point)
    h = step / size
    ends = (move(point, t * tangent_vector) for t in (h, -h))
    ahead, behind = (transport(end, point, problem.riemannian_gradient(end)) for end in ends)
    return (ahead - behind) / (2 * h)
