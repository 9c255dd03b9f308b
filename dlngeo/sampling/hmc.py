r"""Unbiased sampling upstairs: Hamiltonian Monte Carlo on the balanced weights.

The balanced weights of rank r form a manifold M in the flat space of all weights. RATTLE integrates the motion of a
particle on it in the potential ``βV``, and a Metropolis test removes its error [1]_. The law of the weights is then
``e^{−βV} dvol_M`` exactly, and that of their product X is ``e^{−β(V − S/β)} dvol_g`` with the entropy S of the
orbits [2]_. So ``V = E`` samples what isotropic noise on the weights leads to, and ``V = E + S/β``, with the entropy
corrected for, samples ``e^{−βE} dvol_g``.

A position step solves ``W′ = W + εp + ν`` for balanced ``W′``, ν normal at W. It may have no solution, or several; the
chain is reversible if a step counts only where the same solver leads from ``(W′, −p′)`` back to W [3]_. Trajectories
with a step that does not, or that the solver gives up, are rejected.

**What is connected.** A single λ passes through zero smoothly (:mod:`dlngeo.sampling._orthographic`), where ``det X``
changes sign at odd N and keeps it at even N. Square matrices of full rank have two components, and the law lives on
both; therefore each trajectory is followed by a choice between X and its mirror image in the smallest singular
triple, ``u_r → −u_r``, which leaves the volume alone, with their conditional probabilities. Upstairs the signs of the
single ``det W_p`` divide M further, into copies that the orbits exchange and X does not see. Matrices of lower rank or
other shapes are connected. Where a width exceeds the rank, M has a cone at the weights of lower rank, steps longer
than λ_r are rejected, and with the entropy corrected for the chains are pulled there; the law of X does not depend on
the inner widths then, so choose them equal to the rank.

References
----------
.. [1] M. Brubaker, M. Salzmann, R. Urtasun, "A family of MCMC methods on implicitly defined manifolds", AISTATS 2012.
.. [2] G. Menon, T. Yu, "An entropy formula for the deep linear network", arXiv:2509.09088.
.. [3] T. Lelièvre, M. Rousset, G. Stoltz, "Hybrid Monte Carlo methods for sampling probability measures on
   submanifolds", Numer. Math. 143 (2019), arXiv:1807.02356.
.. [4] M. D. Hoffman, A. Gelman, "The No-U-Turn Sampler", J. Mach. Learn. Res. 15 (2014), Section 3.2.
"""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np

from dlngeo import _check
from dlngeo.sampling import _orthographic
from dlngeo.sampling._balanced import BalancedSampler, Potential, Vector, finite_or_raise
from dlngeo.sampling._steps import entropy_slope
from dlngeo.sampling.chain import Samples, State
from dlngeo.sampling.langevin import SpectralPotential

__all__ = ["ConstrainedHMC"]


class ConstrainedHMC(BalancedSampler):
    r"""Metropolised Hamiltonian Monte Carlo on the balanced weights, without bias at any step size.

    Parameters
    ----------
    space : sequence of int, or geomstats Manifold
        Widths ``(d_0, …, d_N)``; or a space with a :class:`~dlngeo.geomstats.DLNMetric` of integer depth, whose inner
        widths are the rank, or with isotropic noise ``min(m, n)``, as in :func:`dlngeo.entropy`.
    potential : callable or SpectralPotential
        Potential E: maps points, shape=[n_chains, m, n], to energies, shape=[n_chains]; infinite where the law
        vanishes. Or a potential of λ, which needs no gradient.
    potential_gradient : callable or None
        Its Euclidean gradient ``E′``: maps points to arrays of their shape.
    beta : float
        Inverse temperature.
    step_size : float
        Largest step ε of the trajectories. Steps much longer than the second smallest λ are rejected, or than the
        smallest where a width exceeds the rank. See :meth:`tuned`.
    n_leapfrog : int
        Steps of a trajectory. Its length ``ε · n_leapfrog`` is good at once or twice the size of λ, while which frames
        turn by a radian or two. In deep networks the momentum along the orbits confines λ, which moves on as
        that is renewed; longer trajectories gain nothing.
    rank : int, optional
        Rank r. Defaults to the least width.
    noise : {"base", "isotropic"}
        As in :class:`Langevin`. ``"base"``: the law of X is ``e^{−βE} dvol_g``. ``"isotropic"``: that of the weights is
        ``e^{−βE} dvol_M``, and that of X ``e^{−β(E − S/β)} dvol_g``.
    jitter : float
        The steps of each trajectory are ``ε(1 − jitter·u)`` with a uniform u, lest periodic motion resonate with its
        length.

    Raises
    ------
    TypeError, ValueError
        If a number is out of range, the space has no balanced weights, or a gradient is missing.

    Notes
    -----
    Statistics: ``energy``; ``accept_probability`` and ``accepted``; ``converged``, whether all steps of the trajectory
    were solved and led back; ``residual``, the largest one of the solver relative to the norm of the weights.
    """

    def __init__(
        self,
        space: Any,
        potential: Potential | SpectralPotential,
        potential_gradient: Potential | None,
        beta: float,
        step_size: float,
        n_leapfrog: int,
        *,
        rank: int | None = None,
        noise: str = "base",
        jitter: float = 0.5,
    ) -> None:
        super().__init__(space, potential, potential_gradient, beta, step_size, noise, rank)
        self.n_leapfrog = _check.positive_integer(n_leapfrog, "n_leapfrog")
        if not 0 <= jitter < 1:
            raise ValueError(f"jitter must be at least 0 and below 1, got {jitter}.")
        self.jitter = float(jitter)
        if not callable(potential) and self.spectral is None:
            raise TypeError(f"potential must be callable or a SpectralPotential, got {type(potential).__name__}.")
        if self.spectral is None and not callable(potential_gradient):
            raise TypeError("potential_gradient is missing; only a SpectralPotential needs none.")
        self._square = self.widths[0] == self.widths[-1] == self.rank

    def step(self, state: State, rng: np.random.Generator) -> State:
        frames, lam = state["frames"].copy(), state["lam"].copy()
        chains = len(lam)
        steps = self.step_size * (1 - self.jitter * rng.random(chains))
        momentum = self._white(frames, lam, rng)
        energy = self._energy(frames, lam)
        finite_or_raise(energy, "the potential")
        before = self._potential(energy, lam) + self._squared_norm(momentum) / 2
        finite_or_raise(self._force(frames, lam).cores, "the gradient of the potential")
        residuals = self._integrate(frames, lam, momentum, steps)
        converged = residuals < math.inf
        proposed = self._energy(frames, lam)
        after = self._potential(proposed, lam) + self._squared_norm(momentum) / 2
        valid = converged & np.isfinite(after)
        probability = np.where(valid, np.exp(np.minimum(0, before - np.where(valid, after, 0))), 0)
        accepted = rng.random(chains) < probability
        frames[~accepted], lam[~accepted] = state["frames"][~accepted], state["lam"][~accepted]
        energy = np.where(accepted, proposed, energy)
        if self._square:
            energy = self._mirror(frames, lam, energy, rng)
        return {
            "frames": frames,
            "lam": lam,
            "energy": energy,
            "accept_probability": probability,
            "accepted": accepted,
            "converged": converged,
            "residual": np.where(converged, residuals, 0),
        }

    def _integrate(self, frames: np.ndarray, lam: np.ndarray, momentum: Vector, steps: np.ndarray) -> np.ndarray:
        """Follow the motion for a trajectory, in place; the residuals are infinite where it is to be rejected."""
        residuals = np.zeros(len(lam))
        force = self._force(frames, lam)
        for _ in range(self.n_leapfrog):
            _kick(momentum, force, steps / 2)
            _orthographic.leap(frames, lam, *momentum, self._sizes, steps, residuals)
            force = self._force(frames, lam)
            # A trajectory that ran off to where the force overflows is rejected.
            lost = ~np.isfinite(force.cores).all(axis=(1, 2, 3)) | ~np.isfinite(force.sides).all(axis=(1, 2, 3))
            residuals[lost] = math.inf
            force.cores[lost], force.sides[lost] = 0, 0
            _kick(momentum, force, steps / 2)
        return residuals

    def _potential(self, energy: np.ndarray, lam: np.ndarray) -> np.ndarray:
        """``βV``."""
        return self.beta * energy + (self._entropy(lam) if self.noise == "base" else 0)

    def _force(self, frames: np.ndarray, lam: np.ndarray) -> Vector:
        """Gradient of ``βV``."""
        gradient = self._gradient(frames, lam)
        force = Vector(self.beta * gradient.cores, self.beta * gradient.sides)
        if self.noise == "base":
            self._add_radial(force, entropy_slope(lam, self.depth, self._excess))
        return force

    def _mirror(self, frames: np.ndarray, lam: np.ndarray, energy: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Choose between X and its mirror image with their conditional probabilities, in place."""
        image = frames.copy()
        image[:, -1, :, -1] *= -1
        other = energy if self.spectral is not None else self._energy(image, lam)
        gain = np.minimum(self.beta * (other - energy), 700)
        turned = rng.random(len(lam)) < 1 / (1 + np.exp(gain))
        frames[turned] = image[turned]
        return np.where(turned, other, energy)

    def _blank(self, chains: int) -> State:
        blank = np.full(chains, np.nan)
        none = np.zeros(chains, dtype=bool)
        return {
            "energy": blank,
            "accept_probability": blank.copy(),
            "accepted": none,
            "converged": none.copy(),
            "residual": blank.copy(),
        }

    def statistics(self, state: State) -> State:
        return {name: state[name] for name in self._blank(0)}

    def settings(self) -> dict[str, Any]:
        return {**super().settings(), "n_leapfrog": self.n_leapfrog, "jitter": self.jitter}

    def tuned(
        self, initial_points: Any, n_steps: int = 100, *, acceptance: float = 0.8, rng: Any = None
    ) -> tuple[ConstrainedHMC, State]:
        """Choose the step size for a mean acceptance probability, by dual averaging [4]_ over all chains.

        The length ``ε · n_leapfrog`` of trajectories is kept. While the step size is sought trajectories have
        at most twice the steps of this sampler.

        Parameters
        ----------
        initial_points : array-like, shape=[n_chains, m, n] or [m, n], or Samples, or dict
            As in :meth:`sample`.
        n_steps : int
            Trajectories to try.
        acceptance : float
            Mean acceptance probability to aim at.
        rng : numpy.random.Generator or int, optional
            Generator or seed.

        Returns
        -------
        sampler : ConstrainedHMC
            With the step size found. Its chain is not adapted further, and so unbiased.
        state : dict of array
            Where the chains ended, for ``sampler.sample(state, …)``.

        Raises
        ------
        ValueError
            If ``acceptance`` is not between 0 and 1.
        """
        if not 0 < acceptance < 1:
            raise ValueError(f"acceptance must be between 0 and 1, got {acceptance}.")
        generator = np.random.default_rng(rng)
        length, shift, mean_error, mean_log = self.step_size * self.n_leapfrog, math.log(10 * self.step_size), 0.0, 0.0
        sampler = copy.copy(self)
        current = initial_points
        for k in range(1, _check.positive_integer(n_steps, "n_steps") + 1):
            samples: Samples = sampler.sample(current, 1, rng=generator)
            current = samples.state
            mean_error += (acceptance - float(np.mean(current["accept_probability"])) - mean_error) / (k + 10)
            log_step = shift - math.sqrt(k) / 0.05 * mean_error
            mean_log += (log_step - mean_log) * k**-0.75
            sampler.step_size = math.exp(log_step)
            sampler.n_leapfrog = min(max(1, round(length / sampler.step_size)), 2 * self.n_leapfrog)
        sampler.step_size = math.exp(mean_log)
        sampler.n_leapfrog = max(1, round(length / sampler.step_size))
        return sampler, current


def _kick(momentum: Vector, force: Vector, steps: np.ndarray) -> None:
    for p, f in zip(momentum, force, strict=True):
        p -= steps[:, None, None, None] * f
