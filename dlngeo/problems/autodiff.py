"""Any cost of a matrix, differentiated by autograd, PyTorch or JAX."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pymanopt
from pymanopt.manifolds import Euclidean, FixedRankEmbedded

from dlngeo import _check
from dlngeo._check import returned
from dlngeo.problems.base import MatrixCost, direction_factors, factors, finite_cost, is_factored

__all__ = ["AutodiffCost"]


class AutodiffCost(MatrixCost):
    """A cost of a matrix that a backend of pymanopt differentiates, with the interface of the others.

    At a factored point the derivatives are the triples ``(du, ds, dvt)`` with respect to the factors, which
    :class:`dlngeo.pymanopt.FixedRank` converts.

    Parameters
    ----------
    function : callable
        ``X → E(X)`` on an (m, n) array of the backend; or, with ``factored=True``, ``(u, s, vt) → E((u * s) @ vt)``
        for factors of any rank, so that nothing of size m×n need be formed.
    shape : tuple of int
        Shape (m, n).
    backend : {"autograd", "pytorch", "jax"}
        Who differentiates; JAX in double precision only if it was told to (``jax_enable_x64``).
    factored : bool
        Whether ``function`` takes factors; dense points are then not accepted.

    Raises
    ------
    ValueError
        If the backend is unknown.
    RuntimeError
        If it is not installed.

    See Also
    --------
    dlngeo.problems.MatrixCost
    dlngeo.pymanopt.check_gradient

    Examples
    --------
    >>> import autograd.numpy as anp
    >>> cost = AutodiffCost(lambda x: anp.sum(anp.cosh(x)), (3, 2))
    >>> cost.cost(np.zeros((3, 2)))
    6.0
    """

    def __init__(
        self, function: Callable[..., Any], shape: tuple[int, int], *, backend: str = "autograd", factored: bool = False
    ) -> None:
        self.shape = _check.shape(shape)
        if backend not in ("autograd", "pytorch", "jax"):
            raise ValueError(f'backend must be "autograd", "pytorch" or "jax", got {backend!r}.')
        self._made_of = function, backend, factored
        self.__setstate__(self.__dict__)

    def __getstate__(self) -> dict[str, Any]:
        return {"shape": self.shape, "_made_of": self._made_of}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        function, backend, factored = self._made_of
        decorator = getattr(pymanopt.function, backend)

        def of_factors(u: Any, s: Any, vt: Any) -> Any:
            return function(u, s, vt) if factored else function((u * s) @ vt)

        # The manifolds tell pymanopt no more than how many arrays a point has.
        self._of_factors = decorator(FixedRankEmbedded(*self.shape, 1))(of_factors)
        self._of_matrix = None if factored else decorator(Euclidean(*self.shape))(lambda x: function(x))

    def cost(self, point: Any) -> Any:
        """Evaluate ``E(X)``; ``inf`` where the point or the value is not finite."""
        function, arrays = self._function(point)
        with np.errstate(over="ignore", invalid="ignore"):
            return finite_cost(_each(lambda *a: returned(function(*a), (), "the cost", finite=False), arrays), arrays)

    def euclidean_gradient(self, point: Any) -> Any:
        """Evaluate ``E′(X)``: as the triple of derivatives at a factored point, dense at a dense one."""
        function, arrays = self._function(point)
        return _each(function.get_gradient_operator(), arrays)

    def euclidean_hessian(self, point: Any, direction: Any) -> Any:
        """Evaluate ``D²E(X)[Ż]`` at a dense point, the derivative of ``(du, ds, dvt)`` along a velocity at others."""
        function, arrays = self._function(point)
        direction = tuple(direction) if is_factored(point) else (np.asarray(direction),)
        if [np.shape(a) for a in direction] != [a.shape for a in arrays]:
            raise ValueError(
                f"the direction has shapes {[np.shape(a) for a in direction]}, the point {[a.shape for a in arrays]}; "
                "autodiff needs the velocity of each factor."
            )
        return _each(function.get_hessian_operator(), (*arrays, *direction))

    def curvature(self, point: Any, direction: Any) -> Any:
        """Evaluate ``D²E(X)[Ż, Ż]``.

        At a factored point, ``X + t L R`` has the factors ``([u L], (s, t), [vᵀ; R])``: the curvature is a second
        derivative in the singular values alone.
        """
        if not is_factored(point):
            return np.sum(direction * self.euclidean_hessian(point, direction), axis=(-2, -1))
        left, right = direction_factors(point, direction, self.shape)
        u, s, vt = factors(point, self.shape)
        k = left.shape[1]
        longer = np.hstack((u, left)), np.concatenate((s, np.zeros(k))), np.vstack((vt, right))
        ahead = np.concatenate((np.zeros(s.size), np.ones(k)))
        zeros = np.zeros_like(longer[0]), np.zeros_like(longer[2])
        product = self._of_factors.get_hessian_operator()(*longer, zeros[0], ahead, zeros[1])
        return float(np.vdot(ahead, product[1]))

    def _function(self, point: Any) -> tuple[Any, tuple[np.ndarray, ...]]:
        if is_factored(point):
            return self._of_factors, factors(point, self.shape)
        if self._of_matrix is None:
            raise ValueError("the function takes factors; pass points (u, s, vt), as those of FixedRank.")
        return self._of_matrix, factors(point, self.shape)


def _each(function: Callable[..., Any], arrays: tuple[np.ndarray, ...]) -> Any:
    """Evaluate at factors or at a matrix, or at each matrix of a batch in turn: the backend knows single ones."""
    if len(arrays) in (3, 6) or arrays[0].ndim == 2:
        return function(*arrays)
    return np.array([_each(function, matrices) for matrices in zip(*arrays, strict=True)])
