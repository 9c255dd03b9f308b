r"""The free energy of any cost as a cost, so that whatever minimises, follows or samples costs takes it.

With the weight decay μ of balanced layers, whose least ``½ Σ ‖W_p‖²`` over X is ``(N/2) Σ σ_k^{2/N}``,

.. math:: F(X) = E(X) + \frac{\mu N}{2} \sum_k \sigma_k^{2/N} + \frac{\rho}{2} \|X\|^2 - \frac1\beta S(X) .

**Where the rank drops.** S is that of the matrices of rank r. As one singular value ``σ_r = λ^N`` goes to zero it goes
to −∞ like ``κ log σ_r`` with the excess κ of the inner widths over r, and stays finite where there is none: at full
rank, and where the inner widths are r. As two go to zero it goes to −∞ in any case, like ``(1 − 1/N) log σ``. So a
minimiser has the rank r, or without excess r − 1, and there, up to a constant, S is the entropy of the matrices of rank
r − 1 with the same layers. About such a matrix, with e the largest singular value of the part of ``E′`` that is normal
to the matrices of its rank,

.. math:: F = F_0 + \tfrac N2 \Big[\mu - \frac{1}{\beta N} \sum_{l<r} \sigma_l^{-2/N}\Big] \lambda^2 - e \lambda^N
    + O(\lambda^4),

in the worst direction, since ``½ log φ(σ_l, λ^N) = (1 − 1/N) log σ_l + ½ (λ/λ_l)² + …``. Without weight decay of the
layers no matrix of rank r − 1 is a minimiser, at no depth above 1. With it, at N = 2, where the bracket exceeds e.
Where it changes sign with β the minimiser leaves the lower rank continuously at N = 2, ``λ² ∝ β_c − β``, and by a jump
at N = 3 unless ``e = 0``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from dlngeo import _check
from dlngeo.matrices.frame import Frame
from dlngeo.problems.base import MatrixCost, along, factors, is_factored
from dlngeo.thermodynamics.confined import confining, require_real
from dlngeo.thermodynamics.entropy import SpectralEntropy
from dlngeo.thermodynamics.free_energy import spectral_hessian

__all__ = ["FreeEnergy"]


class FreeEnergy(MatrixCost):
    """The free energy ``F = E − S/β`` of a cost, with weight decay; see :mod:`dlngeo.problems.free_energy`.

    Derivatives are dense matrices. At a point ``(u, s, vt)`` the singular values enter as they are, so that small ones
    keep their digits.

    Parameters
    ----------
    cost : MatrixCost
        The energy E: any cost of :mod:`dlngeo.problems`.
    beta : float
        Inverse temperature β.
    depth : float
        Number of layers N, real, at least 1, or ``inf``.
    rank : int, optional
        Rank r. Defaults to the least width.
    widths : sequence of int, optional
        Widths ``(d_0, …, d_N)`` as in :func:`dlngeo.entropy`.
    decay : float
        Weight decay μ of the layers.
    ridge : float
        Weight ρ of ``½ ‖X‖²``.

    Attributes
    ----------
    entropy : SpectralEntropy
        S.

    Raises
    ------
    TypeError, ValueError
        If a number is out of range, the depth is infinite and the layers decay, or the cost is none or one of complex
        matrices.

    See Also
    --------
    dlngeo.problems.equilibria
    dlngeo.problems.confinement
    dlngeo.entropy

    Examples
    --------
    >>> from dlngeo.problems import LowRankApproximation
    >>> free = FreeEnergy(LowRankApproximation(np.zeros((2, 2))), beta=1.0, depth=2)
    >>> np.round(free.euclidean_gradient(np.eye(2) / 2), 12)
    array([[0., 0.],
           [0., 0.]])
    """

    def __init__(
        self,
        cost: MatrixCost,
        beta: float,
        depth: float,
        rank: int | None = None,
        widths: Sequence[int] | None = None,
        *,
        decay: float = 0.0,
        ridge: float = 0.0,
    ) -> None:
        if not isinstance(cost, MatrixCost):
            raise TypeError(
                f"cost must be a cost of dlngeo.problems, got {type(cost).__name__}; make one of functions by "
                "FunctionCost or AutodiffCost."
            )
        require_real(cost)
        self.energy, self.shape = cost, cost.shape
        self.beta, self.entropy = _check.positive(beta, "beta"), SpectralEntropy(*cost.shape, depth, rank, widths)
        self.depth, self.rank = self.entropy.depth, self.entropy.rank
        self.decay, self.ridge = confining(decay, ridge, self.depth)
        self._seen: tuple[np.ndarray, tuple[np.ndarray, ...]] | None = None
        self._arguments: dict[str, Any] = {
            "depth": depth,
            "rank": rank,
            "widths": widths,
            "decay": decay,
            "ridge": ridge,
        }

    def at(self, beta: float) -> FreeEnergy:
        """Return the same at another inverse temperature."""
        return FreeEnergy(self.energy, beta, **self._arguments)

    def lower(self) -> FreeEnergy | None:
        """F on the matrices of rank r − 1, to which it extends, up to a constant; None where F goes to infinity there.

        The constant is that of S. To compare, evaluate both at rank r: ``cost`` takes triples with a vanishing singular
        value.
        """
        if self.entropy.excess or self.rank == 1 or self.depth == 1 or math.isinf(self.depth):
            return None
        return FreeEnergy(self.energy, self.beta, **{**self._arguments, "rank": self.rank - 1})

    # The calculus.

    def cost(self, point: Any) -> Any:
        """Evaluate ``F(X)``; ``inf`` where the entropy is −∞."""
        frame, x = self._frame(point)
        s = frame.s
        value = self.energy.cost(point if is_factored(point) else x) - self.entropy(s) / self.beta
        if self.decay:
            value = value + self.decay * self.depth / 2 * np.sum(s ** (2 / self.depth), axis=-1)
        value = value + self.ridge / 2 * np.sum(x * x, axis=(-2, -1))
        return np.where(np.isnan(value), math.inf, value) if np.ndim(value) else float(value)

    def euclidean_gradient(self, point: Any) -> Any:
        """Evaluate ``F′(X)``, a dense matrix; a ValueError tells a singular X."""
        frame, x = self._frame(point)
        slope = (frame.u * self._slopes(frame.s)[..., None, :]) @ frame.vt
        return _plain(self.energy.euclidean_gradient(x)) + self.ridge * x + slope

    def euclidean_hessian(self, point: Any, direction: Any) -> Any:
        """Evaluate ``D²F(X)[Ż]``, a dense matrix."""
        (frame, x), z = self._frame(point), along(point, direction, self.shape)
        return _plain(self.energy.euclidean_hessian(x, z)) + self.ridge * z + self._spectral(frame, z)

    def curvature(self, point: Any, direction: Any) -> Any:
        """Evaluate ``D²F(X)[Ż, Ż]``."""
        return np.sum(along(point, direction, self.shape) * self.euclidean_hessian(point, direction), axis=(-2, -1))

    def transverse(self, point: Any) -> float:
        r"""Slope of F in ``λ²`` as one more singular value ``λ^N`` opens, in the worst direction.

        .. math:: \tfrac N2 \Big[\mu - \frac{1}{\beta N} \sum_l \sigma_l^{-2/N}\Big] - e\, [N = 2]

        at a point of a rank below full, to which F of the rank above extends (:meth:`lower`). A negative one tells that
        a higher rank lowers F.

        Raises
        ------
        ValueError
            If the rank is full, or the depth infinite, where none can open.
        """
        _, part, normal = self._transverse(point)
        n = self.depth
        return part - normal if n == 2 else -math.inf if n < 2 and normal else part

    def transverse_size(self, point: Any) -> float:
        """Sum of the moduli of the terms of :meth:`transverse`, against which it vanishes or not."""
        size, _, normal = self._transverse(point)
        return size + (normal if self.depth == 2 else 0.0)

    def _transverse(self, point: Any) -> tuple[float, float, float]:
        if self.rank == min(self.shape) or math.isinf(self.depth):
            raise ValueError(
                f"no singular value can open at rank {self.rank} of {self.shape} and depth {self.depth:g}; give a "
                "finite depth and a rank below full, as lower() does."
            )
        (frame, x), n = self._frame(point), self.depth
        pull = float(np.sum(frame.s ** (-2 / n))) / (self.beta * n)
        gradient = _plain(self.energy.euclidean_gradient(x))
        normal = float(np.linalg.norm(gradient - frame.project(gradient), 2))
        normal = 0.0 if normal < 1e-12 * np.linalg.norm(gradient) else normal
        return n / 2 * (self.decay + pull), n / 2 * (self.decay - pull), normal

    # Inside.

    def _frame(self, point: Any) -> tuple[Frame, np.ndarray]:
        arrays = factors(point, self.shape)
        if len(arrays) == 3:
            frame = Frame(*arrays, self.entropy.kernel)
            return frame, frame.point
        return Frame.at(arrays[0], self.entropy.kernel, self.rank), arrays[0]

    def _slopes(self, s: np.ndarray) -> np.ndarray:
        slopes = -self.entropy.gradient(s) / self.beta
        return slopes + self.decay * s ** (2 / self.depth - 1) if self.decay else slopes

    def _spectral(self, frame: Frame, z: np.ndarray) -> np.ndarray:
        s = frame.s
        if self._seen is None or not np.array_equal(self._seen[0], s):  # one Hessian has many products
            self._seen = s.copy(), self._second_order(s)
        return np.asarray(spectral_hessian(frame, z, *self._seen[1]))

    def _second_order(self, s: np.ndarray) -> tuple[np.ndarray, ...]:
        """Evaluate what :func:`spectral_hessian` takes of the part of F that depends on the singular values."""
        entropy, slopes = self.entropy, self._slopes(s)
        bend, (minus, plus) = -entropy.hessian(s) / self.beta, (-q / self.beta for q in entropy.quotients(s))
        if self.decay:
            power = 2 / self.depth - 1
            row, column = s[..., :, None], s[..., None, :]
            apart = np.log(row / column)
            equal = apart == 0
            safe = np.where(equal, 1.0, apart)
            quotient = column ** (power - 1) * np.where(equal, power, np.expm1(power * safe) / np.expm1(safe))
            minus = minus + self.decay * quotient
            plus = plus + self.decay * (row**power + column**power) / (row + column)
            bend = bend + self.decay * np.eye(s.shape[-1]) * quotient
        return slopes, bend, minus, plus


def _plain(a: Any) -> np.ndarray:
    return np.asarray(a.toarray() if hasattr(a, "toarray") else a)
