r"""Metric kernels: the Schur multipliers that define orthogonally invariant metrics.

A Riemannian metric on matrices that is invariant under ``X ↦ QXR`` (Q, R orthogonal) and diagonal in the SVD frame is
a symmetric positive function ``φ(s, t)`` of two singular values. It acts on ``UᵀZV`` as a Schur
(entrywise) multiplier and gives the cometric

.. math:: A_X(Z) = U\,[\varphi(\sigma_k, \sigma_l) \circ (U^\top Z V)]\,V^\top .

The derivatives of this map in X, and with them geodesics, Hessians, volume and Brownian motion, are sums over φ and its
divided difference in the squares of the singular values,

.. math:: \psi_r(s, t) = \frac{\varphi(r, t) - \varphi(r, s)}{t^2 - s^2},

see :mod:`dlngeo.matrices.frame`; curvature needs the divided differences of ψ as well, see
:mod:`dlngeo.matrices.curvature`. A :class:`Kernel` is φ with these differences, which have defaults from the values of
φ.
"""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import numpy as np
from array_api_compat import device, is_torch_array

from dlngeo import _check
from dlngeo._autodiff import is_traced
from dlngeo.kernels import _differences

__all__ = ["Kernel"]

_FUNCTIONS = ("__call__", "divided_difference", "second_divided_difference", "mixed_divided_difference")
# What holds for one φ only: a class that writes another one does not inherit it.
_OF_PHI = (*_FUNCTIONS[1:], "third_divided_difference", "depth")


def _on_numpy(function: Callable[..., Any]) -> Callable[..., Any]:
    """Call a function of a kernel on NumPy arrays, which others become on the way in, and are again on the way out."""

    @functools.wraps(function)
    def called(self: Kernel, *values: Any) -> Any:
        if all(type(value) is np.ndarray for value in values):
            return function(self, *values)
        if is_traced(*values):
            raise TypeError(
                f"{self!r} is evaluated with NumPy, which leaves no history to differentiate; pass detached arrays, or "
                "declare array_api = True in a kernel whose functions take arrays of any library."
            )
        xp, *arrays = _check.floating(*values)
        out = function(self, *(np.asarray(array.cpu() if is_torch_array(array) else array) for array in arrays))
        return xp.asarray(np.array(out), dtype=xp.result_type(*arrays), device=device(arrays[0]))

    return called


def _in_doubles(function: Callable[..., Any]) -> Callable[..., Any]:
    """Evaluate a default difference in double precision, of which single precision would lose half to cancellation."""

    @functools.wraps(function)
    def called(self: Kernel, *values: Any) -> Any:
        doubles = (np.asarray(value, dtype=float) for value in values)
        with np.errstate(over="ignore", under="ignore"):
            return function(self, *doubles).astype(np.result_type(*values), copy=False)

    return _on_numpy(called)


class Kernel(ABC):
    r"""A symmetric positive kernel ``φ(s, t)`` on pairs of singular values.

    The metric that follows is

    .. math:: g_X(Z, Z) = \sum_{kl} (U^\top Z V)_{kl}^2 / \varphi(\sigma_k, \sigma_l).

    Subclass it to define a metric. :meth:`__call__`, that is φ, is enough; :func:`~dlngeo.check_kernel` tells what is
    wrong with it. What else a subclass may write has defaults:

    :meth:`divided_difference`
        By default from 16 values of φ where two values lie close, and from 2 elsewhere. It is in error by some 1e-14
        of ``max φ/max(s, t)²``: the rounding of φ allows no less.
    :meth:`second_divided_difference`, :meth:`mixed_divided_difference`
        By default from up to 256 values of φ, and in error by some 1e-12. Only curvature, and second derivatives in
        PyTorch and autograd, ask for them.
    :meth:`third_divided_difference`
        By default None: the two above are evaluated in its place.
    :attr:`depth`
        By default None: no network has this metric. Then the retraction of second order follows a projected
        parabola, which passes no singular matrix; gradient flows run in dense matrices, which lose small singular
        values, rather than in factored ones; chains tabulate the flat coordinate of the singular values; and there are
        no weights above, for constrained HMC or isotropic noise.

    The defaults suppose that φ is analytic in the square of each argument, in the disc around it that touches zero.

    All functions take broadcastable arrays of singular values, finite and non-negative, and return arrays of the
    broadcast shape. Write them with NumPy: arrays of other libraries are converted on the way in and out, which is all
    that they need, because their derivatives are closed forms. A class that declares ``array_api = True`` gets the
    arrays as they are.

    A subclass that writes another ``__call__`` does not inherit what was true of the old φ: its differences, depth and
    ``array_api`` are the defaults again, unless it writes them too.

    Attributes
    ----------
    array_api : bool
        Whether the functions take arrays of any library of the array API.

    See Also
    --------
    dlngeo.check_kernel
    dlngeo.DepthKernel
    dlngeo.geomstats.SpectralMetric

    Examples
    --------
    The mean of squares, whose divided difference is ½:

    >>> import numpy as np
    >>> class Mean(Kernel):
    ...     def __call__(self, s, t):
    ...         return (s**2 + t**2) / 2
    >>> r, s, t = np.array([1.0, 2.0]), np.array([3.0, 3.0]), np.array([3.0, 4.0])
    >>> bool(np.allclose(Mean().divided_difference(r, s, t), 0.5, rtol=1e-12))
    True
    """

    array_api = False

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        names = {*_FUNCTIONS, *_OF_PHI, "array_api"}
        place = {name: next(i for i, c in enumerate(cls.__mro__) if name in vars(c)) for name in names}
        if place["array_api"] > min(place[name] for name in _FUNCTIONS):
            cls.array_api = False
        for name in _OF_PHI:
            if place[name] > place["__call__"]:
                setattr(cls, name, vars(Kernel)[name])
        if not cls.array_api:
            for name in _FUNCTIONS:
                if place[name] == 0:
                    setattr(cls, name, _on_numpy(vars(cls)[name]))

    @abstractmethod
    def __call__(self, s: Any, t: Any) -> Any:
        """Evaluate ``φ(s, t)``, symmetric, and positive for positive ``s`` and ``t``."""

    @_in_doubles
    def divided_difference(self, r: Any, s: Any, t: Any) -> Any:
        """Evaluate ``ψ_r(s, t) = (φ(r, t) − φ(r, s)) / (t² − s²)`` or its limit at ``s = t``; symmetric in s and t."""
        return _differences.first(self, r, s, t)

    @_in_doubles
    def second_divided_difference(self, r: Any, s: Any, t: Any, u: Any) -> Any:
        """Evaluate ``(ψ_r(s, u) − ψ_r(s, t)) / (u² − t²)``, with its limits. Needed for curvature only.

        It is the second divided difference of ``φ(r, ·)`` in the squares ``s²``, ``t²``, ``u²``, so symmetric in them.
        At most one of them may be zero.
        """
        return _differences.second(self, r, s, t, u)

    @_in_doubles
    def mixed_divided_difference(self, q: Any, r: Any, s: Any, t: Any) -> Any:
        """Evaluate ``(ψ_r(s, t) − ψ_q(s, t)) / (r² − q²)``, with its limits. Needed for curvature only.

        It is the divided difference of ``φ`` in both arguments, so symmetric in ``q`` and ``r``, in ``s`` and ``t``,
        and between the pairs. At most one of ``q`` and ``r``, and at most one of ``s`` and ``t``, may be zero.
        """
        return _differences.mixed(self, q, r, s, t)

    def third_divided_difference(self, q: Any, r: Any, s: Any, t: Any) -> Any:
        """Evaluate ``h[a_q, a_r, a_s, a_t]`` where φ is itself a divided difference, ``φ(s, t) = h[a_s, a_t]``.

        Here ``σ² = h(a)`` at singular values σ, so that ``ψ_r(s, t) = h[a_r, a_s, a_t]/φ(s, t)``; then the differences
        of order two follow from this one alone, which is symmetric in its four arguments. None where φ is no such
        difference, or this one is not known.
        """
        return None

    @property
    def depth(self) -> float | None:
        """Depth N, or ``inf``, if φ is a constant multiple of that of :class:`~dlngeo.DepthKernel`; None otherwise."""
        return None

    def __repr__(self) -> str:
        public = {name: value for name, value in vars(self).items() if name[0] != "_" and name not in vars(Kernel)}
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in public.items())})"

    @functools.cached_property
    def at_one(self) -> float:
        """``φ(1, 1)``: N at depth N, 1 where it is normalised."""
        return float(self(np.ones(1), np.ones(1))[0])

    @functools.cached_property
    def smooth_at_zero(self) -> bool:
        """Whether ``ψ_1(0, 0)`` is finite: geodesics then pass through singular matrices."""
        one, zero = np.ones(1), np.zeros(1)
        with np.errstate(all="ignore"):
            return bool(np.all(np.isfinite(self.divided_difference(one, zero, zero))))
