"""Any kernel at ``XXᵀ + ε²`` in place of ``XXᵀ``: metrics that do not degenerate at singular matrices."""

from __future__ import annotations

from typing import Any

from dlngeo import _check
from dlngeo.kernels.kernel import Kernel

__all__ = ["RegularizedKernel"]


class RegularizedKernel(Kernel):
    r"""Kernel of a metric in which ``ε²`` is added to the squares of all singular values.

    .. math:: \varphi_\varepsilon(s, t) = \varphi(\sqrt{s^2 + \varepsilon^2}, \sqrt{t^2 + \varepsilon^2}) .

    At depth N its cometric is ``Σ_p (XXᵀ + ε²)^{(N−p)/N} Z (XᵀX + ε²)^{(p−1)/N}``, and at infinite depth
    ``∫₀¹ (XXᵀ + ε²)^{1−q} Z (XᵀX + ε²)^q dq``. As ``φ_ε(0, 0) = φ(ε, ε)`` is positive, infinite depth lives on matrices
    of every rank and shape, where singular values that have not risen to ε are treated as if they were ε. Squares
    differ as before, so that all divided differences are those of φ at the new values.

    Parameters
    ----------
    kernel : Kernel
        The kernel φ.
    epsilon : float
        The ε, positive, in the units of singular values.

    Raises
    ------
    TypeError
        If ``kernel`` is no Kernel.
    ValueError
        If ``epsilon`` is not positive and finite.

    See Also
    --------
    dlngeo.InfiniteDepthKernel
    dlngeo.kernels.RelaxedDepthKernel

    Notes
    -----
    It has no depth: no network of balanced layers has this metric.

    Examples
    --------
    >>> import numpy as np
    >>> from dlngeo.kernels import InfiniteDepthKernel, RegularizedKernel
    >>> float(RegularizedKernel(InfiniteDepthKernel(), 0.5)(np.zeros(1), np.zeros(1))[0])
    0.25
    """

    array_api = True  # a kernel of NumPy converts by itself

    def __init__(self, kernel: Kernel, epsilon: float) -> None:
        if not isinstance(kernel, Kernel):
            raise TypeError(f"kernel must be a dlngeo.Kernel, got {type(kernel).__name__}; see dlngeo.DepthKernel.")
        self.kernel, self.epsilon = kernel, _check.positive(epsilon, "epsilon")

    def _raised(self, *values: Any) -> Any:
        xp, *arrays = _check.singular_values(*values)
        return (xp.hypot(value, xp.zeros_like(value) + self.epsilon) for value in arrays)

    def __call__(self, s: Any, t: Any) -> Any:
        return self.kernel(*self._raised(s, t))

    def divided_difference(self, r: Any, s: Any, t: Any) -> Any:
        return self.kernel.divided_difference(*self._raised(r, s, t))

    def second_divided_difference(self, r: Any, s: Any, t: Any, u: Any) -> Any:
        return self.kernel.second_divided_difference(*self._raised(r, s, t, u))

    def mixed_divided_difference(self, q: Any, r: Any, s: Any, t: Any) -> Any:
        return self.kernel.mixed_divided_difference(*self._raised(q, r, s, t))

    def third_divided_difference(self, q: Any, r: Any, s: Any, t: Any) -> Any:
        return self.kernel.third_divided_difference(*self._raised(q, r, s, t))
