r"""Riemannian Langevin dynamics on any space.

.. math:: dX = -\operatorname{grad} E\,dt + \sqrt{2/\beta}\,dB^g,

``B^g`` Brownian motion of the metric, has the stationary law ``e^{−βE} dvol_g``. A step draws a tangent vector
``V = −h grad E + √(2h/β) ξ``, ``ξ ~ N(0, g⁻¹)``, and moves along it by the exponential map or a retraction of second
order: weak order 1 in the step size, with no drift term to compute. How it moves depends on the space:

- matrices with a spectral metric: Brownian motion of flat matrices, which has an exact step, and turns of the singular
  vectors (:mod:`dlngeo.sampling.compiled.steps`). At every depth, real or infinite, the singular values of the noise
  have their exact law, so that nothing is lost near singular matrices; of other kernels they have that of flat matrices
  and a drift that is smooth (:mod:`dlngeo.sampling.charts`). The bias is of second order;
- complex matrices with the metric of finite depth: the same (:mod:`dlngeo.sampling.complex_frames`);
- anything else: the exponential map of the space.

References
----------
.. [1] G. Menon, "The geometry of the deep linear network", arXiv:2411.09004, Section 10.
.. [2] G. Menon, T. Yu, "An entropy formula for the deep linear network", arXiv:2509.09088.
.. [3] G. Menon, A. Stromme, A. Vacher, "On the implicit regularization of Langevin dynamics with projected
       noise", arXiv:2602.12257.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from dlngeo import _check
from dlngeo.geomstats._backend import to_gs, to_numpy
from dlngeo.geomstats.gradients import fills, tangent_frames
from dlngeo.geomstats.metrics import SpectralMetric
from dlngeo.sampling.chain import Sampler
from dlngeo.sampling.descent import Descent
from dlngeo.sampling.factors import Factors, dense
from dlngeo.sampling.frames import Frames, require_complex_steps
from dlngeo.sampling.potentials import (
    Potential,
    SpectralPotential,
    energies,
    gradients,
    require,
    require_confined,
    watch,
)
from dlngeo.sampling.state import State
from dlngeo.thermodynamics.noise import GradientNoise, Noise

__all__ = ["Langevin", "SpectralPotential"]

_BELONGS, _ROUND_OFF = 1e-6, 1e-9  # how far off a space points may be, and beyond what they are put back


class Langevin(Sampler):
    r"""Unadjusted Riemannian Langevin dynamics.

    Parameters
    ----------
    space : geomstats Manifold
        Space with a Riemannian metric.
    potential_gradient : callable or SpectralPotential
        Euclidean gradient ``E′`` of the potential: maps points, shape=[n_chains, *point_shape], to arrays of that
        shape. For metrics of the deep linear network also a potential of λ.
    beta : float
        Inverse temperature.
    step_size : float
        Step h in time. The bias of averages is of second order in it for spectral metrics, of first order on other
        spaces; compare h with h/2 to see how large it is. Relaxation slows with depth: for ``E = ½Σλ²`` its time is
        N/2.
    potential : callable, optional
        The potential E itself, shape=[n_chains, *point_shape] to shape=[n_chains]: the statistic ``energy``.
    noise : {"base", "isotropic"} or Noise or GradientNoise
        ``"base"``: noise of the metric, of law ``e^{−βE} dvol_g``. ``"isotropic"``: what isotropic noise on the
        balanced weights projects to, of law ``e^{−β(E − S/β)} dvol_g`` with the entropy S of the fibres [2]_. A
        :class:`LabelNoise` or :class:`MinibatchNoise`: that of training, for which β does not matter.
    kappa : float
        Anisotropy κ of isotropic noise: strength along horizontal directions, that along the fibres being 1. The law is
        ``∝ e^{−(β/κ)(E − S/β)} dvol_g``, and κ → 0 the gradient flow of the free energy [3]_.
    widths : sequence of int, optional
        Widths ``(d_0, …, d_N)`` of the network, for the entropy; as in :func:`dlngeo.entropy`, which has the default.

    Raises
    ------
    TypeError, ValueError
        If a number is out of range, or the noise is not defined on the space.

    See Also
    --------
    dlngeo.sampling.ConstrainedHMC
    dlngeo.thermodynamics.laws.SpectralLaw

    Notes
    -----
    Statistics: ``energy``, if the potential is given; and for metrics of finite depth ``virial``,

    .. math:: \frac{\beta}{D} \sum_k \lambda_k \frac{\partial E}{\partial \lambda_k}
        = \frac{\beta N}{D} \operatorname{tr} X^\top E'

    at the point before, with D the dimension of the matrices, or with isotropic noise ``κ`` times that and the degree
    ``(N − 1) r(r − 1)/2 + r Σ_p (d_p − r)`` of ``e^S`` in λ. Its mean is 1 under the exact law of every energy: how far
    it is off, beyond its standard error, is a bias of the step size, or chains that are not in equilibrium yet.

    On every space a :class:`StepSizeWarning` says that a step went by its drift alone, three times as long as its noise
    or more, to where the gradient is twice as large or small: out of a steep wall, say, to where nothing holds it. Such
    steps make averages wrong by any factor, and are rare before they do.

    For spectral metrics the state is (U, y, V) with flat coordinates y of the singular values, ``lam`` at finite depth,
    which holds the digits that a dense X has lost, and the noise of the last step, without which the chain is not
    Markovian. The sign of ``det X`` of square matrices of full rank changes where the metric is regular at singular
    matrices, and at odd depth, as by the layers; at any other depth a chain samples the matrices of the sign it starts
    from.

    Examples
    --------
    >>> import numpy as np
    >>> from geomstats.geometry.general_linear import GeneralLinear
    >>> from dlngeo import DLNMetric
    >>> from dlngeo.sampling import Langevin
    >>> space = GeneralLinear(2, equip=False)
    >>> space = space.equip_with_metric(DLNMetric, depth=3)
    >>> sampler = Langevin(space, lambda x: x, beta=2.0, step_size=0.02, noise="isotropic")
    >>> sampler.sample(np.broadcast_to(np.eye(2), (5, 2, 2)), 20, rng=0).points.shape
    (5, 20, 2, 2)
    """

    averages = True  # whether the noise of a step is the mean of two, which pays where there is a force

    def __init__(
        self,
        space: Any,
        potential_gradient: Potential | SpectralPotential,
        beta: float,
        step_size: float,
        *,
        potential: Potential | None = None,
        noise: str | Noise | GradientNoise = "base",
        kappa: float = 1.0,
        widths: Sequence[int] | None = None,
    ) -> None:
        self.space = space
        self.beta = _check.positive(beta, "beta")
        self.step_size = _check.positive(step_size, "step_size")
        self.noise = Noise.of(noise, kappa)
        metric = getattr(space, "metric", None)
        if metric is None:
            raise ValueError(f"{type(space).__name__} has no metric; equip it with one (space.equip_with_metric).")
        self.field = getattr(metric, "field", "real")
        deep = isinstance(metric, SpectralMetric) and metric.depth not in (None, math.inf) and fills(space)
        if self.noise.vertical and not deep:
            raise ValueError("isotropic noise lives on balanced weights: it needs a DLNMetric of finite depth.")
        require(potential_gradient, "potential_gradient")
        if isinstance(potential_gradient, SpectralPotential) and not deep:
            raise ValueError("a potential of λ needs a DLNMetric of finite depth; give its Euclidean gradient instead.")
        self.potential_gradient, self.potential, self.widths = potential_gradient, potential, widths
        temperature = self.noise.kappa / self.beta
        if self.field == "complex":
            require_complex_steps(space, self.noise)
        self._mover: Descent | Frames | _Geodesic
        if isinstance(metric, SpectralMetric) and fills(space):
            trained = isinstance(self.noise, GradientNoise)
            self._mover = Descent(self) if trained else Frames(self, temperature)
            if (
                deep and metric.depth is not None and not trained and self.field == "real"
            ):  # noise of gradients has no law of this form
                require_confined(potential_gradient, metric.depth, getattr(space, "rank", None), widths, self.noise)
        elif isinstance(self.noise, GradientNoise):
            raise ValueError("noise of gradients moves matrices with a spectral metric; give the space a DLNMetric.")
        else:
            self._mover = _Geodesic(self, temperature)

    def start(self, points: np.ndarray | Factors) -> State:
        return self._mover.start(points)

    def step(self, state: State, rng: np.random.Generator) -> State:
        return self._mover.step(state, rng)

    def points(self, state: State) -> np.ndarray:
        return self._mover.points(state)

    def statistics(self, state: State) -> State:
        out = {"virial": state["virial"]} if "virial" in state else {}
        spectral = isinstance(self.potential_gradient, SpectralPotential)
        potential = self.potential_gradient if spectral else self.potential
        if potential is not None:
            out["energy"] = energies(potential, self.lam(state) if spectral else self.points(state))
        return out

    def lam(self, state: State) -> np.ndarray:
        """Values λ of a state at finite depth, shape=[n_chains, r], with the digits that dense points lose."""
        return state["lam"]

    def settings(self) -> dict[str, Any]:
        metric = self.space.metric
        return {
            "sampler": "Langevin",
            "space": type(self.space).__name__,
            "shape": list(self.space.shape),
            "metric": repr(metric.kernel) if isinstance(metric, SpectralMetric) else type(metric).__name__,
            "beta": self.beta,
            "step_size": self.step_size,
            "noise": self.noise.name,
            "kappa": self.noise.kappa,
            "widths": None if self.widths is None else list(self.widths),
        }


class _Geodesic:
    """Any space of geomstats: its exponential map, and its metric in an orthonormal basis of each tangent space."""

    def __init__(self, sampler: Langevin, temperature: float) -> None:
        self.sampler, self.temperature, self.space = sampler, temperature, sampler.space

    def start(self, points: np.ndarray | Factors) -> State:
        points = dense(points, tuple(self.space.shape))
        if not self._belongs(points, _BELONGS):
            raise ValueError(f"an initial point is not in {type(self.space).__name__}; project it (space.projection).")
        return {"points": points.copy()}

    def step(self, state: State, rng: np.random.Generator) -> State:
        h, points = self.sampler.step_size, state["points"]
        assert not isinstance(self.sampler.potential_gradient, SpectralPotential)
        gradient = gradients(self.sampler.potential_gradient, points).reshape(len(points), -1)
        basis, gram = tangent_frames(self.space, points)
        # With the metric G = LLᵀ in the basis, the gradient is G⁻¹ times the partial derivatives, and noise of the
        # metric is L^{−T} times white noise: both are L^{−T} times something.
        lower = np.linalg.cholesky(gram)
        drift = np.linalg.solve(lower, self._embedded(basis, points) @ gradient[..., None])
        kick = rng.standard_normal(drift.shape)
        amplitude = math.sqrt(2 * h * self.temperature)
        components = np.linalg.solve(np.swapaxes(lower, 1, 2), amplitude * kick - h * drift)
        vectors = np.reshape(np.swapaxes(components, 1, 2) @ basis, points.shape)
        moved = to_numpy(self.space.metric.exp(to_gs(vectors), to_gs(points)))
        # Round-off off a space may grow from step to step.
        if np.isfinite(moved).all() and not self._belongs(moved, _ROUND_OFF) and hasattr(self.space, "projection"):
            moved = to_numpy(self.space.projection(to_gs(moved)))
        if not (np.isfinite(moved).all() and self._belongs(moved, _BELONGS)):
            raise ValueError(
                f"the exponential map of {type(self.space).__name__} left it; take a step_size below {h:g}."
            )
        size = np.sum(drift**2, axis=(1, 2)) ** 0.5
        return {"points": moved, "slope": watch(state, size, h, 2 * h * self.temperature * drift.shape[1], h)}

    def _belongs(self, points: np.ndarray, atol: float) -> bool:
        return bool(np.all(to_numpy(self.space.belongs(to_gs(points), atol=atol))))

    def _embedded(self, basis: np.ndarray, points: np.ndarray) -> np.ndarray:
        """Tangent vectors, shape=[n_chains, dim, size], as the directions that the Euclidean gradient belongs to."""
        embed = getattr(self.space, "embed_tangent", None)
        if embed is None:
            return basis
        vectors = np.swapaxes(basis, 0, 1).reshape(basis.shape[1], *points.shape)
        return np.stack([embed(v, points).reshape(len(points), -1) for v in vectors], axis=1)

    def points(self, state: State) -> np.ndarray:
        return state["points"].copy()
