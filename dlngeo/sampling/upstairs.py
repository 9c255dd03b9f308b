r"""Langevin dynamics simulated upstairs, on the balanced weights, with noise along or across the orbits.

Noise of strength κ along horizontal directions and of strength ν along the orbits,

.. math:: dW = -\operatorname{grad} E\,dt + \sqrt{2/\beta}\,(\sqrt\kappa\,P_{hor} + \sqrt\nu\,P_{ver}) \circ dB,

moves the product X by the generator ``−grad E + (ν/β) grad S + (κ/β) Δ_g``: geodesics that start horizontally stay so
and project to geodesics, and those that start along an orbit leave it, on average by minus its mean curvature,
which projects to grad S [1]_ [2]_. Hence

- ``κ = ν = 1``, isotropic noise: the law of X is ``e^{−β(E − S/β)} dvol_g``;
- ``κ = 1, ν = 0``, noise orthogonal to the orbits: ``e^{−βE} dvol_g``, without entropy;
- ``κ → 0, ν = 1``, noise tangent to the orbits: X moves without noise, by gradient flow of ``E − S/β``.

A step moves along ``−h grad E + √(2h/β)(√κ ξ_{hor} + √ν ξ_{ver})`` by a retraction of second order, so that averages
are of weak order 1 in h with no curvature term to compute; near weights of lower rank, where the radius of curvature
is λ, only once ``√(h/β)`` is small against it. :class:`~dlngeo.sampling.Langevin` simulates the same laws
downstairs, in fewer variables and with longer steps; this is what training with noise does, and
:class:`~dlngeo.sampling.ConstrainedHMC` has no bias.

References
----------
.. [1] G. Menon, T. Yu, "An entropy formula for the deep linear network", arXiv:2509.09088.
.. [2] G. Menon, A. Stromme, A. Vacher, "On the implicit regularization of Langevin dynamics with projected
       noise", arXiv:2602.12257.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from dlngeo.sampling.compiled import orthographic as _orthographic
from dlngeo.sampling.potentials import Potential, SpectralPotential, finite_or_raise, refuse_failed, require, watch
from dlngeo.sampling.state import State
from dlngeo.sampling.weights import BalancedSampler, Vector
from dlngeo.thermodynamics.noise import Noise

__all__ = ["UpstairsLangevin"]


class UpstairsLangevin(BalancedSampler):
    r"""Unadjusted Langevin dynamics on the balanced weights; its points are their products.

    Parameters
    ----------
    space : sequence of int, or geomstats Manifold
        Widths ``(d_0, …, d_N)``; or a space with a :class:`~dlngeo.geomstats.DLNMetric` of integer depth, whose inner
        widths are the rank, or with isotropic noise ``min(m, n)``, as in :func:`dlngeo.entropy`.
    potential_gradient : callable or SpectralPotential
        Euclidean gradient ``E′`` of the potential: maps points, shape=[n_chains, m, n], to arrays of that shape. Or a
        potential of λ.
    beta : float
        Inverse temperature.
    step_size : float
        Step h in time.
    rank : int, optional
        Rank r. Defaults to the least width.
    potential : callable, optional
        The potential E itself, shape=[n_chains, m, n] to shape=[n_chains]: the statistic ``energy``.
    noise : {"base", "isotropic"} or Noise
        As in :class:`Langevin`. ``"base"``: noise orthogonal to the orbits. ``"isotropic"``: noise along all tangent
        directions of the balanced weights.
    kappa : float
        Anisotropy κ of isotropic noise: strength along horizontal directions, that along the orbits being 1. At κ = 0
        it is tangent to the orbits, and X moves without noise up to ``O(√h)``.

    Raises
    ------
    TypeError, ValueError
        If a number is out of range, or the space has no balanced weights.

    See Also
    --------
    dlngeo.sampling.Langevin
    dlngeo.sampling.ConstrainedHMC

    Examples
    --------
    >>> import numpy as np
    >>> from dlngeo.sampling import UpstairsLangevin
    >>> cold = UpstairsLangevin((2, 2, 2), lambda x: x, beta=1e16, step_size=1e-3)
    >>> end = cold.sample(np.diag([2.0, 1.0])[None], 1, rng=0).points[0, 0]
    >>> bool(np.allclose(end, np.diag([2 * (1 - 2e-3) ** 2, (1 - 1e-3) ** 2]), atol=1e-6))  # a step of two layers √σ
    True
    """

    def __init__(
        self,
        space: Any,
        potential_gradient: Potential | SpectralPotential,
        beta: float,
        step_size: float,
        *,
        rank: int | None = None,
        potential: Potential | None = None,
        noise: str | Noise = "base",
        kappa: float = 1.0,
    ) -> None:
        super().__init__(space, potential, potential_gradient, beta, step_size, Noise.of(noise, kappa), rank)
        if self.spectral is None:
            require(potential_gradient, "potential_gradient")

    def step(self, state: State, rng: np.random.Generator) -> State:
        frames, lam = state["frames"].copy(), state["lam"].copy()
        h = self.step_size / self.slowness
        gradient = self._gradient(frames, lam)
        for part in gradient:
            finite_or_raise(part, "the gradient of the potential")
        horizontal, vertical = self._split(lam, self._white(frames, lam, rng))
        across, along = (math.sqrt(2 * h * part / self.beta) for part in (self.noise.kappa, self.noise.vertical))
        move = Vector(*(across * x + along * y - h * g for x, y, g in zip(horizontal, vertical, gradient, strict=True)))
        residuals = _orthographic.retract(frames, lam, *move, self._sizes)
        refuse_failed(~(residuals < math.inf), self.step_size)
        base = self.rank * (self.widths[0] + self.widths[-1] - self.rank)
        spread = self.noise.kappa * base + self.noise.vertical * (self.dim - base)
        size = self._squared_norm(gradient) ** 0.5
        slope = watch(state, size, h, 2 * h * spread / self.beta, self.step_size)
        return {"frames": frames, "lam": lam, "slope": slope}

    def statistics(self, state: State) -> State:
        if self.spectral is None and self.potential is None:
            return {}
        return {"energy": self._energy(self._ends(state["frames"], state["lam"]))}

    def settings(self) -> dict[str, Any]:
        return {**super().settings(), "kappa": self.noise.kappa}
