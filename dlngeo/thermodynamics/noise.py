r"""Noise on the balanced weights: white, by its strengths along and across the orbits, and that of training.

White noise gives the product a law. The noise of stochastic gradients is another: with the covector ``E′ + ζ`` in place
of ``E′``, a step η moves the layers by ``−η(W_N ⋯ W_{p+1})ᵀ(E′ + ζ)(W_{p−1} ⋯ W_1)ᵀ``, a horizontal vector, and their
product from balanced ones to second order in η by the exponential map of ``−η A_X(E′ + ζ)``. So in the time t of the
flow, to first order in η,

.. math:: dX = -A_X(E')\,dt + \sqrt\eta\,A_X(d\zeta) - \tfrac\eta2\,\mathbb E\,\Gamma(A_X\zeta, A_X\zeta)\,dt :

noise through ``A_X``, not through its square root, with the covariance of the gradients, and the drift that a geodesic
random walk has in linear coordinates, with the Christoffel map Γ. No entropy acts: the noise has no part along the
orbits. It leaves the weights unbalanced by ``O(ηt)``, which is neglected here.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from dlngeo import _check

__all__ = ["GradientNoise", "LabelNoise", "MinibatchNoise", "Noise"]


@dataclass(frozen=True)
class Noise:
    r"""Noise of strength κ along horizontal directions, and ν = 0 or 1 along the orbits.

    .. math:: dX = -\operatorname{grad} (E - \nu S/\beta)\,dt + \sqrt{2\kappa/\beta}\,dB^g, \qquad
        \text{of law} \quad e^{-(\beta/\kappa)(E - \nu S/\beta)}\,d\mathrm{vol}_g ,

    is the motion of the product [1]_, with the entropy S of the orbits.

    Parameters
    ----------
    name : {"base", "isotropic"}
        ``"base"``: that of the metric, ν = 0. ``"isotropic"``: also along the orbits, ν = 1.
    kappa : float
        Anisotropy κ of isotropic noise. At κ = 0 the product moves without noise, and there is no law.

    Raises
    ------
    TypeError, ValueError
        If the name is another one, κ is not a number of at least 0, or not 1 where the noise is not isotropic.

    See Also
    --------
    dlngeo.sampling.Langevin
    dlngeo.sampling.LabelNoise
    dlngeo.entropy

    References
    ----------
    .. [1] G. Menon, A. Stromme, A. Vacher, "On the implicit regularization of Langevin dynamics with projected
           noise", arXiv:2602.12257.

    Examples
    --------
    >>> from dlngeo.sampling import Noise
    >>> Noise("base").vertical, Noise("isotropic").vertical  # how often the entropy enters the free energy
    (0.0, 1.0)
    >>> Noise.of("isotropic", kappa=0.5) == Noise("isotropic", 0.5)
    True
    """

    name: str = "base"
    kappa: float = 1.0

    def __post_init__(self) -> None:
        if self.name not in ("base", "isotropic"):
            raise ValueError(f"noise must be 'base' or 'isotropic', got {self.name!r}.")
        object.__setattr__(self, "kappa", 0.0 if self.kappa == 0 else _check.positive(self.kappa, "kappa"))
        if not self.vertical and self.kappa != 1:
            raise ValueError(f"kappa = {self.kappa:g} is the anisotropy of isotropic noise; pass noise='isotropic'.")

    @classmethod
    def of(cls, noise: Any, kappa: float = 1.0) -> Any:
        """Return the noise of a name, or as given, of which then ``kappa`` is left at 1."""
        if not isinstance(noise, Noise | GradientNoise):
            return cls(noise, kappa)
        if kappa not in (1, noise.kappa):
            raise ValueError(f"kappa = {kappa} contradicts {noise}; leave it out.")
        return noise

    @property
    def vertical(self) -> float:
        """Strength ν along the orbits: how often the entropy enters the free energy."""
        return float(self.name == "isotropic")


class GradientNoise(ABC):
    r"""Noise ζ of the gradient of ``E = (1/2k) Σ_i r_i²``, ``r_i = ⟨a_i, X⟩ − b_i``, at a learning rate η.

    Parameters
    ----------
    atoms : array, shape=[k, m, n]
        Matrices ``a_i``.
    learning_rate : float
        The η of the gradient steps: the noise of a unit of time has the covariance η times that of ζ.

    Raises
    ------
    TypeError, ValueError
        If the atoms are no finite real numbers of that shape, or a number is out of range.

    See Also
    --------
    dlngeo.sampling.LabelNoise
    dlngeo.sampling.MinibatchNoise

    Examples
    --------
    >>> import numpy as np
    >>> from dlngeo.thermodynamics.noise import LabelNoise, MinibatchNoise
    >>> atoms, x, rng = np.eye(4).reshape(4, 2, 2), np.ones((1, 2, 2)), np.random.default_rng(0)
    >>> noises = LabelNoise(atoms, 1.0, 0.1), MinibatchNoise(atoms, np.ones(4), 1, 0.1)
    >>> [bool(np.any(noise.draw(x, rng))) for noise in noises]  # X fits all targets, where batches have no noise
    [True, False]
    """

    name: ClassVar[str]
    kappa, vertical = 1.0, 0.0

    def __init__(self, atoms: Any, learning_rate: float) -> None:
        self.atoms = np.array(_check.real(atoms, "atoms"), dtype=float)
        if self.atoms.ndim != 3 or not self.atoms.size or not np.isfinite(self.atoms).all():
            raise ValueError(f"atoms must be finite, of shape (k, m, n), got {self.atoms.shape}.")
        self.learning_rate = _check.positive(learning_rate, "learning_rate")

    @abstractmethod
    def weights(self, points: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Draw ``w`` of ``ζ = Σ_i w_i a_i`` at points, shape=[chains, k], of mean zero."""

    def draw(self, points: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Draw ζ at points, of their shape, [chains, m, n]."""
        return np.tensordot(self.weights(points, rng), self.atoms, axes=1)


class LabelNoise(GradientNoise):
    """Labels with fresh Gaussian noise at each step: ζ has the covariance ``(s/k)² Σ_i a_i a_iᵀ``, the same everywhere.

    Parameters
    ----------
    atoms, learning_rate
        As of :class:`GradientNoise`.
    scale : float
        Standard deviation s of the noise of a label.

    See Also
    --------
    dlngeo.sampling.MinibatchNoise
    dlngeo.sampling.Langevin

    Examples
    --------
    >>> import numpy as np
    >>> from dlngeo.sampling import LabelNoise
    >>> atoms = np.array([np.diag([1.0, 0.0]), np.diag([0.0, 1.0])])
    >>> draws = LabelNoise(atoms, scale=3.0, learning_rate=0.1).draw(np.zeros((10000, 2, 2)), np.random.default_rng(0))
    >>> bool(abs(draws[:, 0, 0].std() - 3 / 2) < 0.05), bool(np.all(draws[:, 0, 1] == 0))  # s/k, on the data alone
    (True, True)
    """

    name = "label"

    def __init__(self, atoms: Any, scale: float, learning_rate: float) -> None:
        super().__init__(atoms, learning_rate)
        self.scale = _check.positive(scale, "scale")

    def weights(self, points: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        return self.scale / len(self.atoms) * rng.standard_normal((len(points), len(self.atoms)))


class MinibatchNoise(GradientNoise):
    r"""Gradients of batches of B, drawn with replacement: ζ vanishes where all residuals do.

    Its covariance is ``(1/Bk) Σ_i r_i² a_i a_iᵀ − E′E′ᵀ/B``. It is that of batches, not Gaussian.

    Parameters
    ----------
    atoms, learning_rate
        As of :class:`GradientNoise`.
    targets : array, shape=[k]
        Labels ``b_i``.
    batch_size : int
        Batch size B.

    See Also
    --------
    dlngeo.sampling.LabelNoise
    dlngeo.sampling.Langevin

    Examples
    --------
    >>> import numpy as np
    >>> from dlngeo.sampling import MinibatchNoise
    >>> atoms, rng = np.array([np.diag([1.0, 0.0]), np.diag([0.0, 1.0])]), np.random.default_rng(0)
    >>> noise = MinibatchNoise(atoms, [1.0, 3.0], batch_size=1, learning_rate=0.1)
    >>> draws = noise.draw(np.zeros((100, 2, 2)), rng)
    >>> bool(np.allclose(np.abs(draws), np.diag([0.5, 1.5])))  # one residual for the mean of two
    True
    >>> bool(np.all(noise.draw(np.tile(np.diag([1.0, 3.0]), (5, 1, 1)), rng) == 0))
    True
    """

    name = "minibatch"

    def __init__(self, atoms: Any, targets: Any, batch_size: int, learning_rate: float) -> None:
        super().__init__(atoms, learning_rate)
        self.targets = np.array(_check.real(targets, "targets"), dtype=float)
        if self.targets.shape != (len(self.atoms),) or not np.isfinite(self.targets).all():
            raise ValueError(f"targets must be {len(self.atoms)} finite numbers, got shape {self.targets.shape}.")
        self.batch_size = _check.positive_integer(batch_size, "batch_size")

    def weights(self, points: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        k = len(self.atoms)
        residuals = np.tensordot(points, self.atoms, axes=((1, 2), (1, 2))) - self.targets
        counts = rng.multinomial(self.batch_size, np.full(k, 1 / k), size=len(points))
        return residuals * (counts / self.batch_size - 1 / k)
