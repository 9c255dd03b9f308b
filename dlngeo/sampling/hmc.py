r"""Sampling the balanced weights without bias: Hamiltonian Monte Carlo.

**The law.** The balanced weights ``W_p = Q_p Λ Q_{p−1}ᵀ`` of rank r form a manifold M in the flat space of all
weights. To turn an inner frame ``Q_p`` is an isometry of M that leaves X alone. So under ``e^{−βV} dvol_M``, with V a
function of X, the inner frames are independent of X and of each other, with Haar's law, and X has the law
``e^{−β(V − S/β)} dvol_g`` with the entropy S of the orbits [1]_. In λ, ``dvol_g`` is the same at every depth [2]_: it
is the volume of the matrices ``Y = U Λ Vᵀ`` of rank r in flat space, and their product of depth N is ``X = U Λ^N Vᵀ``.

**The motion of the product.** Therefore Y may move in the potential ``βE(X)``, less S for isotropic noise, by RATTLE
with a Metropolis test [3]_, and the inner frames are drawn anew after each trajectory. A position step is explicit
(:mod:`dlngeo.sampling.movers`) and costs the same at every depth.

**The motion of the weights.** Or all weights move, on M, in the potential ``βE``, plus S for base noise. Then the law
of X follows from M alone, without the theorems above, at a hundred times the cost or more. A position step solves
``W′ = W + εp + ν`` for balanced W′, ν normal at W (:mod:`dlngeo.sampling.compiled.orthographic`). Where a width exceeds
the rank, M has a cone at the weights of lower rank, steps longer than λ_r are rejected, and with base noise the chains
are pulled there; choose inner widths equal to the rank.

**Reversibility.** A position step of either motion may have no solution, or one that round-off spoils. So the same
solver takes each step back, and a trajectory with a step that does not return to where it began is rejected [4]_.

**Both signs of the determinant.** Square matrices of full rank have a positive or a negative determinant, and the law
gives weight to both. The product passes from one sign to the other where its smallest λ crosses zero, and the weights
do so at odd N only. So that all chains reach both, each trajectory ends with a draw between X and its mirror image, in
which ``−u_r`` replaces ``u_r``, with probabilities in proportion to their densities; the volume is the same at both.

**Lower ranks.** Where m and n both exceed the rank, the matrices of lower rank are the tip of a cone, and most steps
longer than λ_r are rejected.

References
----------
.. [1] G. Menon, T. Yu, "An entropy formula for the deep linear network", arXiv:2509.09088.
.. [2] G. Menon, "The geometry of the deep linear network", arXiv:2411.09004, Section 10.
.. [3] M. Brubaker, M. Salzmann, R. Urtasun, "A family of MCMC methods on implicitly defined manifolds", AISTATS 2012.
.. [4] T. Lelièvre, M. Rousset, G. Stoltz, "Hybrid Monte Carlo methods for sampling probability measures on
   submanifolds", Numer. Math. 143 (2019), arXiv:1807.02356.
.. [5] M. D. Hoffman, A. Gelman, "The No-U-Turn Sampler", J. Mach. Learn. Res. 15 (2014), Section 3.2.
"""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np

from dlngeo import _check
from dlngeo.sampling.chain import Samples
from dlngeo.sampling.motions import MOTIONS, Motion
from dlngeo.sampling.movers import Point
from dlngeo.sampling.potentials import Potential, SpectralPotential, finite_or_raise, require
from dlngeo.sampling.state import State
from dlngeo.sampling.weights import BalancedSampler
from dlngeo.thermodynamics.noise import Noise

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
        Largest step ε of the trajectories: a length of Y, or of the weights. See :meth:`tuned`.
    n_leapfrog : int
        Steps of a trajectory. For energies its length ``ε · n_leapfrog`` need not exceed the spread of the large λ,
        which with isotropic noise in deep networks is 1/N of their size. Small λ, and frames, which turn by
        ``ε/λ`` each step, move on over lengths like λ itself. Weights are about √N times as long as Y.
    rank : int, optional
        Rank r. Defaults to the least width.
    noise : {"base", "isotropic"} or Noise
        As in :class:`Langevin`. ``"base"``: the law of X is ``e^{−βE} dvol_g``. ``"isotropic"``: that of the weights is
        ``e^{−βE} dvol_M``, and that of X ``e^{−β(E − S/β)} dvol_g``.
    jitter : float
        The steps of each trajectory are ``ε(1 − jitter·u)`` with a uniform u, lest periodic motion resonate with its
        length.
    motion : {"product", "weights"}
        What moves, see above. The law is the same.

    Raises
    ------
    TypeError, ValueError
        If a number is out of range, the space has no balanced weights, or a gradient is missing.

    See Also
    --------
    dlngeo.sampling.Langevin
    dlngeo.sampling.UpstairsLangevin

    Notes
    -----
    Statistics: ``energy``; ``accept_probability`` and ``accepted``; ``converged``, whether all steps of the trajectory
    led back; ``residual``, by how much the ways back missed at most, relative to λ_1, where the rank is a constraint.

    Examples
    --------
    >>> import numpy as np
    >>> from dlngeo.sampling import ConstrainedHMC
    >>> hmc = ConstrainedHMC((2, 2, 2), lambda x: np.sum(x**2, axis=(1, 2)) / 2, lambda x: x, 1.0, 0.8, 5)
    >>> draws = hmc.sample(np.broadcast_to(np.eye(2), (500, 2, 2)), 60, burn_in=20, rng=0)
    >>> bool(abs(draws.statistics["energy"].mean() - 1) < 0.1)  # dim/(2Nβ), as E has the degree 2N in the weights
    True
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
        noise: str | Noise = "base",
        jitter: float = 0.5,
        motion: str = "product",
    ) -> None:
        strengths = Noise.of(noise)
        if strengths.kappa != 1:
            raise ValueError(f"kappa = {strengths.kappa:g}, but this samples the law of kappa = 1 only; take Langevin.")
        super().__init__(space, potential, potential_gradient, beta, step_size, strengths, rank)
        self.n_leapfrog = _check.positive_integer(n_leapfrog, "n_leapfrog")
        if not 0 <= jitter < 1:
            raise ValueError(f"jitter must be at least 0 and below 1, got {jitter}.")
        self.jitter = float(jitter)
        if self.spectral is None:
            require(potential, "potential")
            if not callable(potential_gradient):
                raise TypeError("potential_gradient is missing; only a SpectralPotential needs none.")
        if motion not in MOTIONS:
            raise ValueError(f"motion must be 'product' or 'weights', got {motion!r}.")
        self.motion = motion
        self._square = self.widths[0] == self.widths[-1] == self.rank

    def step(self, state: State, rng: np.random.Generator) -> State:
        motion, chains = self.dynamics(), len(state["lam"])
        position = motion.position(state["frames"], state["lam"])
        start = tuple(part.copy() for part in position)
        steps = self.step_size * (1 - self.jitter * rng.random(chains))
        momentum = motion.momentum(position, rng)
        energy = self._energy(motion.ends(position))
        finite_or_raise(energy, "the potential")
        before = motion.hamiltonian(energy, position, momentum)
        # A trajectory that runs off to where something overflows is rejected.
        with np.errstate(all="ignore"):
            residuals = motion.integrate(position, momentum, steps, self.n_leapfrog)
            converged = residuals < math.inf
            proposed = self._energy(motion.ends(position))
            after = motion.hamiltonian(proposed, position, momentum)
        valid = converged & np.isfinite(after)
        probability = np.where(valid, np.exp(np.minimum(0, before - np.where(valid, after, 0))), 0)
        accepted = rng.random(chains) < probability
        for part, old in zip(position, start, strict=True):
            part[~accepted] = old[~accepted]
        energy = np.where(accepted, proposed, energy)
        if self._square:
            energy = self._mirror(motion.ends(position), energy, rng)
        return {
            "frames": motion.frames(position, rng),
            "lam": position.lam,
            "energy": energy,
            "accept_probability": probability,
            "accepted": accepted,
            "converged": converged,
            "residual": np.where(converged, residuals, 0),
        }

    def dynamics(self) -> Motion:
        """Hamiltonian motion of the chains, of the potential and β that the sampler has now."""
        return MOTIONS[self.motion](self)

    def _mirror(self, ends: Point, energy: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Choose between X and its mirror image with their conditional probabilities, in place."""
        image = ends._replace(u=ends.u.copy())
        image.u[:, :, -1] *= -1
        other = energy if self.spectral is not None else self._energy(image)
        gain = np.minimum(self.beta * (other - energy), 700)
        turned = rng.random(len(energy)) < 1 / (1 + np.exp(gain))
        ends.u[turned] = image.u[turned]
        return np.where(turned, other, energy)

    def _blank(self, chains: int) -> State:
        blank: State = {name: np.full(chains, np.nan) for name in ("energy", "accept_probability", "residual")}
        return blank | {name: np.zeros(chains, dtype=bool) for name in ("accepted", "converged")}

    def statistics(self, state: State) -> State:
        return {name: state[name] for name in self._blank(0)}

    def settings(self) -> dict[str, Any]:
        return {**super().settings(), "n_leapfrog": self.n_leapfrog, "jitter": self.jitter, "motion": self.motion}

    def tuned(
        self, initial_points: Any, n_steps: int = 100, *, acceptance: float = 0.8, rng: Any = None
    ) -> tuple[ConstrainedHMC, State]:
        """Choose the step size for a mean acceptance probability, by dual averaging [5]_ over all chains.

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
