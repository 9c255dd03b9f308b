r"""Metric kernels: the Schur multipliers that define orthogonally invariant metrics.

A Riemannian metric on matrices that is invariant under ``X ↦ QXR`` (Q, R orthogonal) and diagonal in the SVD frame is
a symmetric positive function ``φ(s, t)`` of two singular values. It acts on ``UᵀZV`` as a Schur
(entrywise) multiplier and gives the cometric

.. math:: A_X(Z) = U\,[\varphi(\sigma_k, \sigma_l) \circ (U^\top Z V)]\,V^\top .

The metric itself, its connection, Hessians, volume and Brownian motion need only ``φ`` and its divided
difference

.. math:: \psi_r(s, t) = \frac{\varphi(r, t) - \varphi(r, s)}{t^2 - s^2},

which is why a :class:`Kernel` is exactly these two functions. See :mod:`dlngeo.matrices.frame` for what follows.
Curvature, see :mod:`dlngeo.matrices.curvature`, needs the divided differences of ``ψ`` in addition, which a kernel may
leave out.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

__all__ = ["Kernel"]


class Kernel(ABC):
    r"""A symmetric positive kernel ``φ(s, t)`` on pairs of singular values.

    Subclass it to define a metric: implement :meth:`__call__` and :meth:`divided_difference`, and for curvature
    :meth:`second_divided_difference` and :meth:`mixed_divided_difference`. They take broadcastable arrays of
    non-negative singular values (NumPy, PyTorch or any array-API namespace), return arrays of the broadcast shape, and
    must be exact at coinciding values; none may divide by a difference of singular values there.

    The metric that follows is

    .. math:: g_X(Z, Z) = \sum_{kl} (U^\top Z V)_{kl}^2 / \varphi(\sigma_k, \sigma_l).

    Examples
    --------
    The Frobenius metric, written as a user would write a new one:

    >>> import numpy as np
    >>> class Frobenius(Kernel):
    ...     def __call__(self, s, t):
    ...         return np.ones(np.broadcast_shapes(np.shape(s), np.shape(t)))
    ...
    ...     def divided_difference(self, r, s, t):
    ...         return np.zeros(np.broadcast_shapes(np.shape(r), np.shape(s), np.shape(t)))
    """

    @abstractmethod
    def __call__(self, s: Any, t: Any) -> Any:
        """Evaluate ``φ(s, t)``.

        Parameters
        ----------
        s, t : array-like
            Singular values, finite and non-negative, broadcastable against each other.

        Returns
        -------
        array
            ``φ(s, t)``, of the broadcast shape; symmetric, and positive for positive ``s`` and ``t``.
        """

    @abstractmethod
    def divided_difference(self, r: Any, s: Any, t: Any) -> Any:
        """Evaluate ``ψ_r(s, t) = (φ(r, t) − φ(r, s)) / (t² − s²)``, with its limit at ``s = t``.

        Parameters
        ----------
        r, s, t : array-like
            Singular values, finite and non-negative, broadcastable against each other.

        Returns
        -------
        array
            ``ψ_r(s, t)``, of the broadcast shape; symmetric in ``s`` and ``t``.
        """

    def second_divided_difference(self, r: Any, s: Any, t: Any, u: Any) -> Any:
        """Evaluate ``(ψ_r(s, u) − ψ_r(s, t)) / (u² − t²)``, with its limits. Needed for curvature only.

        Parameters
        ----------
        r, s, t, u : array-like
            Singular values, finite and non-negative, broadcastable against each other, at most one of ``s``, ``t`` and
            ``u`` zero.

        Returns
        -------
        array
            Second divided difference of ``φ(r, ·)`` in the squares ``s²``, ``t²``, ``u²``, of the broadcast shape;
            symmetric in them.

        Raises
        ------
        NotImplementedError
            Unless a subclass implements it.
        """
        raise NotImplementedError(self._missing("second_divided_difference(r, s, t, u)"))

    def mixed_divided_difference(self, q: Any, r: Any, s: Any, t: Any) -> Any:
        """Evaluate ``(ψ_r(s, t) − ψ_q(s, t)) / (r² − q²)``, with its limits. Needed for curvature only.

        Parameters
        ----------
        q, r, s, t : array-like
            Singular values, finite and non-negative, broadcastable against each other, at most one of ``q`` and ``r``,
            and at most one of ``s`` and ``t``, zero.

        Returns
        -------
        array
            Divided difference of ``φ`` in both arguments, of the broadcast shape; symmetric in ``q`` and ``r``, in
            ``s`` and ``t``, and between the pairs.

        Raises
        ------
        NotImplementedError
            Unless a subclass implements it.
        """
        raise NotImplementedError(self._missing("mixed_divided_difference(q, r, s, t)"))

    def _missing(self, method: str) -> str:
        return (
            f"{type(self).__name__} has no curvature: implement {method}, the divided difference of "
            "divided_difference(r, s, t) that its docstring in dlngeo.Kernel defines."
        )
