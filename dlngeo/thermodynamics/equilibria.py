r"""Equilibria of the free energy of energies of the singular values, and the relaxation to them.

For an energy ``E(X) = e(σ)``, a symmetric function of the singular values such as ``Σ f(σ_k)``, the gradient flow of
the free energy ``F = E − S/β`` keeps the singular vectors and moves, with ``e_k = ∂e/∂σ_k``,

.. math:: \dot\sigma_k = -N\sigma_k^{2-2/N} \Big[e_k - \frac1\beta \frac{\partial S}{\partial\sigma_k}\Big] .

With an equilibrium σ, all ``U Σ Vᵀ`` are equilibria. Equal singular values ``σ_k = s`` stay equal; with κ as in
:class:`~dlngeo.thermodynamics.entropy.SpectralEntropy`,

.. math:: \dot s = -N s^{2-2/N} \Big[f'(s) - \frac{c}{s}\Big], \qquad
    c = \frac1\beta \Big[\frac{(r-1)(N-1)}{2N} + \kappa\Big],

and they are equilibria where ``s f′(s) = c``. For ``E = ½‖X‖²`` on d×d matrices these are the minimisers of F,
``s*² = (d − 1)(N − 1)/(2Nβ)`` [1]_. Linearised at s*, for ``e = Σ f(σ_k)``, the common value relaxes at the rate

.. math:: N s^{2-2/N} \Big[f'' + \frac{c}{s^2}\Big] \quad\text{and differences at}\quad
    N s^{2-2/N} \Big[f'' + \frac{c}{s^2} - \frac{r (1 - N^{-2})}{6\beta s^2}\Big],

as follows from ``H″(0) = (1 − N^{−2})/3``. So what may fail is the stability of differences: the energies
``Σ σ_k^q/q`` on d×d matrices have stable equilibria of equal singular values for ``q > d(1 + 1/N)/(3(d − 1))``, which
holds for q = 2, and for q = 1 unless d = 2 and N ≤ 2, and only for these.

Time is that of the unnormalised metric; at infinite depth that of the normalised one, in which
``N s^{2−2/N}`` is to be read as ``s²``.

References
----------
.. [1] A. Chen, T. Kotwal, G. Menon, "Entropic regularization in the deep linear network", arXiv:2512.06137.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.integrate import solve_ivp
from scipy.optimize import brentq, minimize, root

from dlngeo import _check
from dlngeo.thermodynamics.entropy import SpectralEntropy, require_spectral

__all__ = ["Equilibrium", "equal_equilibria", "minimisers", "relaxation", "relaxation_rates"]

Array = NDArray[np.float64]
Function = Callable[[Any], Any]

# Minimisers whose logarithms agree to this are one.
_SAME = 1e-6
# A search that leaves this range of log σ follows an energy that is not bounded below, or a singular value to zero.
_FAR = 100.0
# A descent has converged if solving for the equilibrium moves no logarithm farther than this.
_CLOSE = 1e-3
_RESIDUAL = 1e-10
# Logarithms of doubles are below this in size.
_RANGE = 700.0


class Equilibrium(NamedTuple):
    """A minimiser of the free energy.

    ``s`` holds its singular values, decreasing, shape=[r]; ``free_energy`` is F there, and ``residual`` the largest
    ``|σ_k ∂F/∂σ_k|``. The matrices with these singular values form a manifold of ``dimension``
    ``r(m + n − r) − r − Σ_i m_i(m_i − 1)/2``, the m_i being the multiplicities: ``s O(d)`` has dimension d(d − 1)/2.

    See Also
    --------
    dlngeo.thermodynamics.equilibria.minimisers

    Examples
    --------
    >>> import numpy as np
    >>> from dlngeo.thermodynamics.entropy import SpectralEntropy
    >>> from dlngeo.thermodynamics.equilibria import minimisers
    >>> [best] = minimisers(lambda s: s @ s / 2, lambda s: s, SpectralEntropy(3, 3, 2), 0.5, n_starts=4, rng=0)
    >>> best.s.round(4), best.dimension  # the rotations and reflections
    (array([1., 1., 1.]), 3)
    """

    s: Array
    free_energy: float
    residual: float
    dimension: int


def equal_equilibria(
    energy_derivative: Function,
    entropy: SpectralEntropy,
    beta: float,
    interval: tuple[float, float] = (1e-6, 1e6),
    n_intervals: int = 500,
) -> Array:
    """Find the equilibria of equal singular values: all s in an interval with ``s f′(s) = c``.

    The equation is bracketed on a geometric grid and solved by Brent's method, so solutions closer than a step of
    the grid, and those where no sign changes, are not seen.

    Parameters
    ----------
    energy_derivative : callable
        ``f′`` of the energy ``Σ f(σ_k)``; of another symmetric energy, its partial derivative at ``(s, …, s)``.
    entropy : SpectralEntropy
        Entropy, which holds the depth, the rank, and the shapes.
    beta : float
        Inverse temperature, positive.
    interval : tuple of float
        Where to look, positive.
    n_intervals : int
        Number of steps of the grid.

    Returns
    -------
    array, shape=[n]
        Increasing. Stable where ``s f′(s) − c`` increases, as far as equal changes go; for others see
        :func:`relaxation_rates`.

    Raises
    ------
    TypeError, ValueError
        If ``beta`` or the interval are not positive, the interval does not increase, or ``f′`` is NaN in it.

    See Also
    --------
    dlngeo.thermodynamics.equilibria.minimisers
    dlngeo.thermodynamics.equilibria.relaxation_rates

    Examples
    --------
    >>> from dlngeo.thermodynamics.entropy import SpectralEntropy
    >>> from dlngeo.thermodynamics.equilibria import equal_equilibria
    >>> equal_equilibria(lambda s: s, SpectralEntropy(3, 3, 2), 0.5).round(4)  # s² = (d − 1)(N − 1)/(2Nβ)
    array([1.])
    """
    one = np.ones(require_spectral(entropy).rank)
    beta, n_intervals = _check.positive(beta, "beta"), _check.positive_integer(n_intervals, "n_intervals")
    low, high = (_check.positive(end, "an end of the interval") for end in interval)
    if not low < high:
        raise ValueError(f"the interval must increase, got ({low:g}, {high:g}); exchange its ends or widen it.")
    weight = float(entropy.gradient(one)[0]) / beta  # σ_k ∂S/∂σ_k does not depend on s

    def excess_force(s: float) -> float:
        return s * float(energy_derivative(s)) - weight

    grid = np.geomspace(low, high, n_intervals + 1)
    force = np.array([excess_force(s) for s in grid])
    if np.isnan(force).any():
        first = grid[np.flatnonzero(np.isnan(force))[0]]
        raise ValueError(f"energy_derivative is NaN at s = {first:g}; give an interval on which it is defined.")
    crossings = np.flatnonzero(force[:-1] * force[1:] < 0)
    inside = [brentq(excess_force, grid[i], grid[i + 1], xtol=1e-15 * grid[i], rtol=1e-15) for i in crossings]
    return np.sort(np.concatenate([grid[force == 0], np.array(inside, dtype=float)]))


def minimisers(
    energy: Function,
    energy_gradient: Function,
    entropy: SpectralEntropy,
    beta: float,
    scale: float = 1.0,
    n_starts: int = 32,
    rng: Any = None,
) -> list[Equilibrium]:
    """Find the local minimisers of the free energy by many descents in ``log σ``.

    Each start is drawn log-normally, followed by BFGS, and made exact by Powell's hybrid method.

    Parameters
    ----------
    energy, energy_gradient : callable
        Symmetric function e of singular values, shape=[r], and its partial derivatives, shape=[r].
    entropy, beta
        As in :func:`equal_equilibria`.
    scale : float
        Typical size of the singular values to start from.
    n_starts : int
        Number of descents.
    rng : numpy.random.Generator or int, optional
        Draws the starts.

    Returns
    -------
    list of Equilibrium
        Different minimisers, of least free energy first. Descents to singular matrices, where F may be least, are
        left out.

    Raises
    ------
    TypeError, ValueError
        If an argument is out of range, the energy or its derivatives at a start are not numbers of the right shape, or
        no descent converges: then F may not be bounded below, or be least at a singular matrix.

    See Also
    --------
    dlngeo.free_energy
    dlngeo.thermodynamics.equilibria.equal_equilibria
    dlngeo.thermodynamics.laws.SpectralLaw

    Examples
    --------
    >>> import numpy as np
    >>> from dlngeo.thermodynamics.entropy import SpectralEntropy
    >>> from dlngeo.thermodynamics.equilibria import minimisers
    >>> entropy = SpectralEntropy(3, 3, 2)
    >>> [best] = minimisers(lambda s: s @ s / 2, lambda s: s, entropy, 0.5, n_starts=4, rng=0)
    >>> bool(np.isclose(best.free_energy, 3 / 2 - entropy(np.ones(3)) / 0.5))  # of s = (1, 1, 1)
    True
    """
    beta, scale, rank = _check.positive(beta, "beta"), _check.positive(scale, "scale"), require_spectral(entropy).rank
    generator = np.random.default_rng(rng)

    def value(u: Array) -> float:
        if np.max(np.abs(u)) > _FAR:
            return np.inf
        return float(energy(np.exp(u))) - float(entropy(np.exp(u))) / beta

    def slope(u: Array) -> Array:
        s = np.exp(np.clip(u, -_FAR, _FAR))  # beyond, the value is infinite and no step is taken
        return s * (np.asarray(energy_gradient(s), dtype=float) - entropy.gradient(s) / beta)

    found: list[Equilibrium] = []
    starts = np.log(scale) + generator.standard_normal((_check.positive_integer(n_starts, "n_starts"), rank))
    for start in starts:
        _partials(energy_gradient, np.exp(start))
        if np.shape(energy(np.exp(start))) != () or not np.isfinite(value(start)):
            raise ValueError(f"energy must be one finite number at s, got {energy(np.exp(start))} at {np.exp(start)}.")
        descent = minimize(value, start, jac=slope, method="BFGS", options={"gtol": 1e-9})
        u = -np.sort(-root(slope, descent.x, tol=1e-14).x)
        # Where a singular value goes to zero, so does the slope, but Newton's steps in its logarithm do not.
        close = np.max(np.abs(u + np.sort(-descent.x))) < _CLOSE
        residual = float(np.max(np.abs(slope(u))))
        new = not any(np.max(np.abs(u - np.log(other.s))) < _SAME for other in found)
        if close and new and residual < _RESIDUAL * (1 + abs(value(u))):
            found.append(Equilibrium(np.exp(u), value(u), residual, _dimension(u, entropy)))
    if not found:
        raise ValueError(
            f"none of {n_starts} descents converged to positive singular values: the free energy may be unbounded "
            "below, or least at a singular matrix; try another scale or more starts."
        )
    return sorted(found, key=lambda one: one.free_energy)


def _dimension(u: Array, entropy: SpectralEntropy) -> int:
    """Dimension of the matrices whose singular values have the decreasing logarithms u."""
    (m, n), r = entropy.shape, entropy.rank
    sizes = np.diff([0, *(np.flatnonzero(-np.diff(u) > _SAME) + 1), r])
    return r * (m + n - r) - r - int(np.sum(sizes * (sizes - 1)) // 2)


def relaxation(
    energy_gradient: Function,
    entropy: SpectralEntropy,
    beta: float,
    s: ArrayLike,
    t: ArrayLike,
    tolerance: float = 1e-10,
) -> Array:
    r"""Follow the gradient flow of the free energy on the singular values.

    .. math:: \frac{d}{dt}\log\sigma_k
        = -N\sigma_k^{-2/N} \Big[\sigma_k e_k - \frac{\sigma_k}{\beta} \frac{\partial S}{\partial\sigma_k}\Big],

    by LSODA, which stands the stiffness of small singular values. On equal ones it is the equation of [1]_.

    Parameters
    ----------
    energy_gradient : callable
        Partial derivatives of the energy, shape=[r], at singular values, shape=[r]; ``f′`` if it is ``Σ f(σ_k)``.
    entropy, beta
        As in :func:`equal_equilibria`.
    s : array, shape=[r]
        Initial singular values, positive.
    t : array, shape=[n]
        Times, increasing from 0.
    tolerance : float
        Relative local error of each singular value.

    Returns
    -------
    array, shape=[n, r]

    Raises
    ------
    TypeError, ValueError
        If an argument is out of range, the derivatives are not numbers of the right shape, or the integration fails,
        as it does where a singular value reaches zero.

    See Also
    --------
    dlngeo.thermodynamics.equilibria.relaxation_rates
    dlngeo.gradient_flow

    Examples
    --------
    >>> import numpy as np
    >>> from dlngeo.thermodynamics.entropy import SpectralEntropy
    >>> from dlngeo.thermodynamics.equilibria import relaxation
    >>> t = np.array([0.0, 0.1, 1.0])
    >>> s = relaxation(lambda s: s, SpectralEntropy(3, 3, 2), 0.5, 2 * np.ones(3), t)
    >>> bool(np.allclose(s[:, 0], 1 / np.tanh(2 * t + np.arctanh(0.5))))  # solves ṡ = −2(s² − 1)
    True
    """
    beta, times = _check.positive(beta, "beta"), np.asarray(t, dtype=float)
    tolerance, start = _check.positive(tolerance, "tolerance"), _equilibrium(s, entropy)
    # Not "any < 0": that is false for NaN.
    if times.ndim != 1 or times.size == 0 or not np.all(np.diff(times, prepend=0.0) >= 0) or times[-1] == np.inf:
        raise ValueError("times must be finite and given in increasing order from 0, as one array.")
    instants, place = np.unique(times, return_inverse=True)

    def rate(time: float, u: Array) -> Array:
        if not np.max(np.abs(u)) < _RANGE:  # LSODA would go on for ever
            raise ValueError(
                f"the relaxation could not be followed beyond t = {time:g}: a singular value reaches zero or infinity, "
                "or leaves the range of doubles. Ask for earlier times."
            )
        sigma = np.exp(u)
        force = _partials(energy_gradient, sigma) - entropy.gradient(sigma) / beta
        return np.asarray(-entropy.kernel(sigma, sigma) / sigma * force)

    if instants[-1] == 0:
        return np.tile(start, (len(times), 1))
    options = {"method": "LSODA", "rtol": tolerance, "atol": tolerance}
    solution = solve_ivp(rate, (0.0, instants[-1]), np.log(start), t_eval=instants, **options)
    if not solution.success or not np.all(np.isfinite(solution.y)):
        raise ValueError(f"the relaxation could not be followed to t = {instants[-1]:g}: {solution.message}")
    return np.exp(solution.y.T)[place]


def relaxation_rates(energy_hessian: ArrayLike, entropy: SpectralEntropy, beta: float, s: ArrayLike) -> Array:
    """Rates at which small deviations of the singular values from an equilibrium decay under the gradient flow.

    The eigenvalues of ``diag(φ_kk) D²F(σ)``. On matrices the gradient flow has these rates, more often
    where singular values coincide (matrices of any other frames turn the same difference), and zero along the
    equilibria.

    Parameters
    ----------
    energy_hessian : array, shape=[r, r]
        Second derivatives of the energy at s; ``diag(f″(σ_k))`` if it is ``Σ f(σ_k)``.
    entropy, beta
        As in :func:`equal_equilibria`.
    s : array, shape=[r]
        Singular values of the equilibrium.

    Returns
    -------
    array, shape=[r]
        Increasing; the equilibrium is stable if all are positive, and unstable if one is negative.

    Raises
    ------
    TypeError, ValueError
        If ``beta`` is not positive, a singular value not positive and finite, or the Hessian not finite, symmetric and
        of their number.

    See Also
    --------
    dlngeo.thermodynamics.equilibria.relaxation
    dlngeo.thermodynamics.equilibria.equal_equilibria

    Examples
    --------
    >>> import numpy as np
    >>> from dlngeo.thermodynamics.entropy import SpectralEntropy
    >>> from dlngeo.thermodynamics.equilibria import relaxation_rates
    >>> relaxation_rates(np.eye(3), SpectralEntropy(3, 3, 2), 0.5, np.ones(3)).round(4)  # two of differences
    array([2.5, 2.5, 4. ])
    """
    sigma, given = _equilibrium(s, entropy), np.asarray(energy_hessian, dtype=float)
    square = given.shape == (entropy.rank, entropy.rank) and np.all(np.isfinite(given))
    if not square or not np.max(np.abs(given - given.T)) <= 1e-6 * np.max(np.abs(given)):  # finite differences will do
        raise ValueError(
            f"energy_hessian must be a finite symmetric matrix of {entropy.rank} rows, got {given.tolist()}; "
            "for Σ f(σ_k) it is diag(f″(σ_k))."
        )
    bend = given - entropy.hessian(sigma) / _check.positive(beta, "beta")
    speed = np.sqrt(entropy.kernel(sigma, sigma))
    return np.linalg.eigvalsh(speed[:, None] * bend * speed)


def _equilibrium(s: ArrayLike, entropy: SpectralEntropy) -> Array:
    """Return s as an array after checking that it is r positive singular values."""
    sigma: Array = _check.singular_values(np.asarray(s, dtype=float))[1]
    if sigma.shape != (require_spectral(entropy).rank,) or not np.all(sigma > 0):
        raise ValueError(f"give {entropy.rank} positive singular values, got {sigma}.")
    return sigma


def _partials(energy_gradient: Function, sigma: Array) -> Array:
    """Evaluate the partial derivatives at singular values; one number stands for r equal ones."""
    force = np.asarray(energy_gradient(sigma), dtype=float)
    if force.shape not in ((), sigma.shape) or not np.all(np.isfinite(force)):
        raise ValueError(
            f"energy_gradient must be {len(sigma)} finite numbers, the partial derivatives, at s = {sigma}, got "
            f"{force}."
        )
    return force
