r"""Exact stationary laws of the singular values, which samplers can be measured against.

For an energy of the singular values, ``e^{−βE} dvol_g`` on the m×n matrices of rank r is a law of
``λ = σ^{1/N}`` and of uniform singular vectors. With ``λ_1 > … > λ_r`` it has the density [1]_

.. math:: \frac{N^{r/2}}{2^r}\,\omega_{m,r}\,\omega_{n,r} \prod_{k<l} (\lambda_k^2 - \lambda_l^2)
    \prod_k \lambda_k^{m+n-2r}\; e^{-\beta E}\, d\lambda, \qquad
    \omega_{d,r} = \prod_{k=d-r+1}^{d} \frac{2\pi^{k/2}}{\Gamma(k/2)},

from the Jacobian of the SVD [2]_ and the volume density of ``g_N``. So ``E = ½ Σ λ_k²`` makes ``βλ_k²`` the
eigenvalues of an r×r Wishart matrix with m + n − r degrees of freedom, at every depth. Isotropic noise on the
balanced weights multiplies the density by the volume ``e^S`` of their orbits: ``e^{−βF} dvol_g``, ``F = E − S/β``; with
the strength κ along horizontal directions and 1 along the orbits it is ``e^{−βF/κ} dvol_g`` [3]_.

Of complex matrices the factors ``λ_k² − λ_l²`` are squared, the power of ``λ_k`` is ``2(m + n − 2r) + 1``, and the
constant is ``(2π)^{−r}`` times the volumes of the complex Stiefel manifolds; the same energy makes ``βλ_k²/2`` the
eigenvalues of a complex Wishart matrix.

References
----------
.. [1] G. Menon, "The geometry of the deep linear network", arXiv:2411.09004.
.. [2] R. J. Muirhead, "Aspects of Multivariate Statistical Theory", Wiley 1982, Section 2.1.
.. [3] G. Menon, A. Stromme, A. Vacher, "On the implicit regularization of Langevin dynamics with projected
       noise", arXiv:2602.12257.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dlngeo import _check
from dlngeo.thermodynamics.entropy import SpectralEntropy, log_stiefel_volume, require_spectral
from dlngeo.thermodynamics.noise import Noise

__all__ = ["SpectralLaw"]

Array = NDArray[np.float64]

# Densities below e^−60 of the largest one are left out; λ_1 is sought over this range, in steps of 2^(1/8).
_NEGLIGIBLE = 60.0
_RANGE = np.exp2(np.arange(-160, 161) / 8)
_MOST = 4_000_000  # nodes
_MOST_EACH = 20_000  # nodes for each value of a density
# What log_partition may change by with three quarters of the nodes. Its error is a fifth of the change, or far less.
_SETTLED = 0.1


class SpectralLaw:
    """The law of the singular values under ``e^{−βE} dvol_g`` or ``e^{−βF/κ} dvol_g``.

    Parameters
    ----------
    energy : callable
        Symmetric function of singular values, shape=[..., r], to energies, shape=[...].
    entropy : SpectralEntropy
        Entropy, which holds the depth, the rank, and the shapes.
    beta : float
        Inverse temperature, positive.
    noise : {"base", "isotropic"} or Noise
        ``"base"``: noise of the metric, ``e^{−βE} dvol_g``. ``"isotropic"``: isotropic noise on the balanced weights,
        ``e^{−βF/κ} dvol_g``.
    n_nodes : int
        Number of Gauss–Legendre nodes for each singular value. A law of singular values that keep close to a value far
        from zero needs many; see :meth:`log_partition`.
    kappa : float
        Anisotropy κ of isotropic noise, positive.

    Raises
    ------
    TypeError, ValueError
        If ``beta`` or ``kappa`` is not positive, the noise unknown, the energy not callable, or the depth infinite,
        where nothing is normalised by an energy that is finite at zero.

    See Also
    --------
    dlngeo.sampling.Langevin
    dlngeo.sampling.ConstrainedHMC

    Examples
    --------
    >>> import numpy as np
    >>> from dlngeo.thermodynamics.entropy import SpectralEntropy
    >>> from dlngeo.thermodynamics.laws import SpectralLaw
    >>> law = SpectralLaw(lambda s: np.sum(s**2, axis=-1) / 2, SpectralEntropy(3, 3, 3), 2.0)
    >>> round(law.mean(lambda s: np.sum(s**2, axis=-1) / 2), 6)
    0.75
    """

    def __init__(
        self,
        energy: Callable[[Array], Any],
        entropy: SpectralEntropy,
        beta: float,
        noise: str | Noise = "base",
        n_nodes: int = 80,
        *,
        kappa: float = 1.0,
    ) -> None:
        if not callable(energy):
            raise TypeError(f"energy must be a function of the singular values, got {type(energy).__name__}.")
        if math.isinf(require_spectral(entropy, "complex").depth):
            raise ValueError("laws are given in λ = σ^{1/N}, at finite depth; give a finite one.")
        self.energy, self.entropy, self.noise = energy, entropy, Noise.of(noise, kappa)
        _check.positive(self.noise.kappa, "kappa")
        self.beta, self.n_nodes = _check.positive(beta, "beta"), _check.positive_integer(n_nodes, "n_nodes")

    def log_density(self, lam: ArrayLike) -> Array:
        """Logarithm of the density of ``λ_1 > … > λ_r``, not normalised, shape=[...].

        Parameters
        ----------
        lam : array, shape=[..., r]
            ``λ = σ^{1/N}``, positive and decreasing.

        Raises
        ------
        ValueError
            If they are not, or not r, or the energies are NaN or not one for each r.
        """
        lam, r = np.asarray(lam, dtype=float), self.entropy.rank
        if lam.ndim == 0 or lam.shape[-1] != r:
            raise ValueError(f"{r} values λ are expected on the last axis, got shape {lam.shape}; the rank is r.")
        if not (np.all(lam > 0) and np.all(np.diff(lam, axis=-1) <= 0) and np.all(np.isfinite(lam))):
            raise ValueError("λ must be positive, finite and decreasing along the last axis; sort them.")
        return _numbers(self._log_density(lam))

    def _log_density(self, lam: Array) -> Array:
        (m, n), r, depth, beta = self.entropy.shape, self.entropy.rank, self.entropy.depth, self.entropy.dimension
        with np.errstate(over="ignore"):
            s = lam**depth
        energy = np.asarray(self.energy(s), dtype=float)
        if energy.shape != lam.shape[:-1]:
            raise ValueError(
                f"energy has shape {energy.shape} at singular values of shape {s.shape}; give one for each row."
            )
        log = np.log(lam)
        total = self._log_constant - self.beta / self.noise.kappa * energy
        for k, j in itertools.combinations(range(r), 2):
            total = total + beta * np.log(lam[..., k] ** 2 - lam[..., j] ** 2)
        power = beta * (m + n - 2 * r) + beta - 1
        if power:
            total = total + power * np.sum(log, axis=-1)
        if self.noise.vertical:
            total = total + self.entropy.value(depth * log) / self.noise.kappa
        return np.asarray(total)

    @cached_property
    def _log_constant(self) -> float:
        r, frames = self.entropy.rank, 0.0
        if self.entropy.field == "complex":
            for d in self.entropy.shape:
                frames += log_stiefel_volume(d, r, "complex") - (d * (d - 1) - (d - r) * (d - r - 1)) / 2 * math.log(2)
            # The phases of the pairs of singular vectors are counted twice.
            return frames - r * math.log(2 * math.pi)
        for d in self.entropy.shape:
            # In the Frobenius metric of skew matrices each of their pairs of entries counts √2.
            frames += log_stiefel_volume(d, r) - (d * (d - 1) - (d - r) * (d - r - 1)) / 4 * math.log(2)
        return r / 2 * math.log(self.entropy.depth) + frames - r * math.log(2)

    @cached_property
    def _quadrature(self) -> tuple[Array, Array]:
        """Nodes λ, shape=[k, r], and the logarithms of weight times density, shape=[k]."""
        if self.n_nodes**self.entropy.rank > _MOST:
            raise ValueError(
                f"{self.n_nodes} nodes for each of {self.entropy.rank} singular values are too many; lower n_nodes."
            )
        lam, values = self._rule(self.n_nodes)
        change = _log_sum(values) - _log_sum(self._rule(max(1, 3 * self.n_nodes // 4))[1])
        if not abs(change) < _SETTLED:
            raise ValueError(
                f"the law is too narrow for {self.n_nodes} nodes: with a quarter less the logarithm of the partition "
                f"function changes by {abs(change):.2g}; raise n_nodes."
            )
        return lam, values

    def _rule(self, n_nodes: int) -> tuple[Array, Array]:
        r, (x, w) = self.entropy.rank, _unit_rule(n_nodes)
        low, high = self._bounds
        # λ_1 between its bounds, and λ_{k+1} = λ_k x_{k+1}: the density is smooth in the ordered values.
        lam = np.cumprod(_product([low + (high - low) * x, *[x] * (r - 1)]), axis=-1, dtype=np.float64)
        log_weight = np.sum(np.log(_product([w] * r)), axis=-1) + math.log(high - low)
        log_weight = log_weight + np.sum(np.log(lam[:, :-1]), axis=-1)
        return lam, log_weight + _numbers(self._log_density(lam))

    @cached_property
    def _bounds(self) -> tuple[float, float]:
        """Range of λ_1 outside of which the density is negligible."""
        x = np.polynomial.legendre.leggauss(12)[0] / 2 + 0.5
        shape = np.cumprod(_product([np.ones(1), *[x] * (self.entropy.rank - 1)]), axis=-1)
        with np.errstate(over="ignore", invalid="ignore"):
            profile = np.array([np.max(self._log_density(size * shape)) for size in _RANGE])
        profile = np.where(np.isfinite(profile), profile, -np.inf) + np.log(_RANGE)
        if not np.isfinite(profile).any():
            raise ValueError("the density is NaN or zero everywhere: see that the energy is finite at singular values.")
        large = np.flatnonzero(profile >= np.max(profile) - _NEGLIGIBLE)
        if large[-1] == len(_RANGE) - 1:
            raise ValueError(
                f"the density does not fall off below λ = {_RANGE[-1]:g}: the energy grows too slowly for a law."
            )
        return (0.0 if large[0] == 0 else float(_RANGE[large[0] - 1])), float(_RANGE[large[-1] + 1])

    def log_partition(self) -> float:
        r"""Logarithm of ``∫ e^{−βE} dvol_g`` or ``∫ e^{−βF/κ} dvol_g``, over the matrices of rank r.

        With isotropic noise, at κ = 1, it is the integral of ``e^{−βE}`` over all balanced weights.

        Raises
        ------
        ValueError
            If the energy does not grow fast enough or is NaN, there are too many singular values for a quadrature, or
            the law is so narrow that with three quarters of the nodes the result would change by 0.1 or more.
        """
        return _log_sum(self._quadrature[1])

    def density(self, lam: ArrayLike) -> Array:
        """Density of one of the r values λ, chosen at random: what a histogram of them all tends to.

        The others are integrated out in order, those above and those below ``lam`` apart, where the density is smooth.

        Parameters
        ----------
        lam : array, shape=[k]
            Numbers of at least 0.

        Returns
        -------
        array, shape=[k]

        Raises
        ------
        ValueError
            As :meth:`log_partition`, and if ``lam`` is not one array of such numbers.
        """
        lam = np.asarray(lam, dtype=float)
        if lam.ndim != 1 or not np.all(lam >= 0):
            raise ValueError(f"lam must be one array of numbers of at least 0, got {lam}.")
        r, log_z, (_, high) = self.entropy.rank, self.log_partition(), self._bounds
        x, w = _unit_rule(min(self.n_nodes, int(_MOST_EACH ** (1 / max(r - 1, 1)))))
        parts, weights = _product([x] * (r - 1)), np.prod(_product([w] * (r - 1)), axis=-1)
        out = np.zeros(np.shape(lam))
        for k, value in enumerate(lam):
            for above in range(r if value < high else 0):
                size, values = weights, []
                top: Any = high
                for j in range(r - 1):
                    if j == above:
                        values.append(np.full(len(parts), value))
                        top = value
                    low = value if j < above else 0.0
                    size = size * (top - low)
                    top = low + (top - low) * parts[:, j]
                    values.append(top)
                if above == r - 1:
                    values.append(np.full(len(parts), value))
                with np.errstate(divide="ignore"):  # neighbours may round to one number, where the density is zero
                    logs = self._log_density(np.stack(values, axis=-1))
                out[k] += np.sum(size * np.exp(logs - log_z))
        return out / r

    def mean(self, function: Callable[[Array], Any]) -> float:
        """Mean of a symmetric function of the singular values.

        Parameters
        ----------
        function : callable
            Maps singular values, shape=[k, r], decreasing, to numbers, shape=[k].

        Raises
        ------
        ValueError
            As :meth:`log_partition`, and if the function gives numbers of another shape.
        """
        lam, weight = self._quadrature[0], self._weights
        found = np.asarray(function(lam**self.entropy.depth), dtype=float)
        if found.shape not in ((), weight.shape):
            raise ValueError(f"the function gave shape {found.shape}; it must give {weight.shape}, one for each row.")
        # Where there is no weight σ may have underflowed, and a function of it be infinite.
        return float(np.sum(weight * np.where(weight > 0, found, 0.0)))

    def mean_entropy(self) -> float:
        """Mean of the entropy S, evaluated in λ: in deep networks σ underflows, and S(σ) has no finite mean.

        Raises a ValueError as :meth:`log_partition`.
        """
        return float(np.sum(self._weights * self.entropy.value(self.entropy.depth * np.log(self._quadrature[0]))))

    @cached_property
    def _weights(self) -> Array:
        """Probabilities of the nodes."""
        values = self._quadrature[1]
        weight = np.exp(values - np.max(values))
        return np.asarray(weight / np.sum(weight))


def _unit_rule(n_nodes: int) -> tuple[Array, Array]:
    """Nodes and weights on (0, 1), denser at zero, for the powers and logarithms there."""
    x, w = np.polynomial.legendre.leggauss(n_nodes)
    return ((x + 1) / 2) ** 2, (x + 1) / 2 * w


def _log_sum(values: Array) -> float:
    top = float(np.max(values))
    return top + math.log(math.fsum(np.exp(values - top)))


def _numbers(logs: Array) -> Array:
    if np.isnan(logs).any():
        raise ValueError(
            "the energy is NaN at some singular values; see that it is defined wherever they are positive."
        )
    return logs


def _product(axes: list[Array]) -> Array:
    """All points with coordinates on the given axes, shape=[k, n]."""
    if not axes:
        return np.ones((1, 0))
    return np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, len(axes))
