r"""A frame through which autograd, PyTorch and JAX differentiate in closed form, at coinciding singular values too.

Automatic differentiation of an SVD divides by differences of singular values; the objects of
:class:`~dlngeo.matrices.frame.Frame` depend smoothly on the point there, and their derivatives are again of its kind.
With the trilinear form :math:`\tau_X(W; P, Q) = \langle P, (D_W A_X)(Q)\rangle` there are four operations,

.. math:: A_X(P), \qquad A_X^{-1}(Z), \qquad F_X(P, Q) = \nabla_X \langle P, A_X(Q)\rangle, \qquad (D_W A_X)(Q),

and everything differentiated here is composed of them. In the vector-Jacobian products, C being the cotangent,

==================  ====================================  ==================================
operation           in its vectors                        in X
==================  ====================================  ==================================
``A(P)``            ``A(C)``                              ``F(P, C)``
``A⁻¹(Z)``          ``A⁻¹(C)``                            ``−F(A⁻¹Z, A⁻¹C)``
``F(P, Q)``         ``(D_C A)(Q)``, ``(D_C A)(P)``        ``D²A``
``(D_W A)(Q)``      ``F(C, Q)``, ``(D_W A)(C)``           ``D²A``
==================  ====================================  ==================================

so ``A`` is self-adjoint, ``τ`` symmetric in P and Q, and ``F = 2∇H`` the polarised gradient of the Hamiltonian.

Below full rank every function of X is extended to the matrices near the manifold of rank r through the truncation of
their SVD. Its derivative at a matrix of rank r is the tangent projection, so the gradients in X are
tangent there, and agree with ambient finite differences.

Under JAX the closed forms are called back on NumPy arrays, and factor the point anew each time: ``jit``, ``vmap`` and
``grad`` of ``grad`` work, forward mode (``jvp``, ``jacfwd``, and so ``jax.hessian``) is refused.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np

from dlngeo._autodiff import Operation, in_jax, is_traced, untraced
from dlngeo._linalg import is_complex
from dlngeo.errors import SingularError
from dlngeo.kernels import DepthKernel, Kernel
from dlngeo.matrices._second_derivative import ForceDerivative
from dlngeo.matrices.frame import Blocks, Frame

__all__ = ["DifferentiableFrame", "frame_at"]

_FROBENIUS = DepthKernel(1)


def frame_at(x: Any, kernel: Kernel, rank: int | None, *vectors: Any) -> Any:
    """Frame of a point: a :class:`DifferentiableFrame` if it or any of the vectors to be used there is traced.

    See Also
    --------
    dlngeo.matrices.frame.Frame

    Examples
    --------
    >>> import numpy as np
    >>> from dlngeo import DepthKernel
    >>> from dlngeo.matrices.differentiable import frame_at
    >>> frame_at(np.diag([2.0, 1.0]), DepthKernel(2), 2).cometric(np.ones((2, 2)))
    array([[4., 3.],
           [3., 2.]])
    """
    return DifferentiableFrame(x, kernel, rank) if is_traced(x, *vectors) else Frame.at(x, kernel, rank)


class DifferentiableFrame:
    r"""The functions of :class:`~dlngeo.matrices.frame.Frame` on dense matrices that autograd, PyTorch or JAX traces.

    Derivatives in the point and in the vectors are exact, and may be differentiated again. What no derivative is
    written for raises, rather than be differentiated through the SVD.

    Parameters
    ----------
    x : array, shape=[..., m, n]
        Point.
    kernel : Kernel
        Kernel of the metric.
    rank : int, optional
        Rank r of the point. Defaults to ``min(m, n)``.

    Raises
    ------
    ValueError
        As :meth:`dlngeo.matrices.frame.Frame.at`.

    See Also
    --------
    dlngeo.matrices.frame.Frame
    dlngeo.matrices.differentiable.frame_at

    Examples
    --------
    >>> import torch
    >>> from dlngeo import DepthKernel
    >>> from dlngeo.matrices.differentiable import DifferentiableFrame
    >>> x = (2 * torch.eye(2, dtype=torch.float64)).requires_grad_()  # its singular values coincide
    >>> p = torch.ones((2, 2), dtype=torch.float64)
    >>> energy = (p * DifferentiableFrame(x, DepthKernel(2)).cometric(p)).sum()
    >>> energy.backward()
    >>> bool(torch.isclose((x.detach() * x.grad).sum(), energy))  # homogeneous of degree 2 − 2/N
    True
    """

    def __init__(self, x: Any, kernel: Kernel, rank: int | None = None) -> None:
        if is_complex(untraced(x)):
            raise NotImplementedError(
                "frames of complex matrices are not differentiated through; their closed forms are those of Frame, at "
                "arrays without history (x.detach() in PyTorch)."
            )
        self.x = x
        self._point = _Point(kernel, rank, None if in_jax(x) else Frame.at(untraced(x), kernel, rank))

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("_") and (self._point.frame is None or hasattr(self._point.frame, name)):
            raise NotImplementedError(
                f"Frame.{name} has no closed-form derivative, and that of the SVD is wrong where singular values "
                "coincide; evaluate it at arrays without history (x.detach() in PyTorch)."
            )
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def cometric(self, p: Any) -> Any:
        """Apply the cometric ``A_X(P)``, shape=[..., m, n]."""
        return _cometric(self._point, self.x, p)

    def metric(self, z: Any) -> Any:
        """Apply the metric: the momentum ``A_X⁻¹(Z)``, shape=[..., m, n]."""
        return _metric(self._point, self.x, z)

    def project(self, z: Any) -> Any:
        """Project to the tangent space, in the Frobenius metric."""
        return _project(self._point, self.x, z)

    def inner(self, y: Any, z: Any) -> Any:
        """Inner product ``g_X(Y, Z)``, shape=[...]."""
        return (y * self.metric(z)).sum(axis=(-2, -1))

    def christoffel(self, y: Any, z: Any) -> Any:
        """Christoffel map ``Γ(Y, Z) = ½A F(A⁻¹Y, A⁻¹Z) − ½(D_Y A)(A⁻¹Z) − ½(D_Z A)(A⁻¹Y)``."""
        point, x = self._point, self.x
        py = self.metric(y)
        pz = py if z is y else self.metric(z)
        first = _derivative(point, x, y, pz)
        second = first if z is y else _derivative(point, x, z, py)
        return (self.cometric(_force(point, x, py, pz)) - first - second) / 2

    def hessian(self, z: Any, euclidean_gradient: Any, euclidean_hessian: Any) -> Any:
        """Riemannian Hessian ``A(D²E[Z]) + (D_Z A)(E′) + Γ(Z, A E′)`` from dense Euclidean derivatives."""
        g = euclidean_gradient
        straight = self.cometric(euclidean_hessian) + _derivative(self._point, self.x, z, g)
        return straight + self.christoffel(z, self.cometric(g))

    def log_volume_density(self) -> Any:
        """Logarithm of the Riemannian volume density, shape=[...]."""
        return _log_volume(self._point, self.x)


# The operations, on plain arrays. The point x itself enters through its factors only.


class _Point:
    """A kernel, a rank, and a factored point with what its derivatives share; under JAX no point until it is called."""

    def __init__(self, kernel: Kernel, rank: int | None, frame: Any = None) -> None:
        self.kernel, self.rank, self.frame = kernel, rank, frame

    def at(self, x: Any) -> _Point:
        return _Point(self.kernel, self.rank, Frame.at(x, self.kernel, self.rank))

    @cached_property
    def smooth_frame(self) -> Frame:
        """The frame, if the cometric is differentiable there."""
        frame = self.frame
        if not bool((frame.phi > 0).all()):
            raise SingularError(
                "the cometric is not differentiable at a singular matrix: the smallest singular value is "
                f"{float(frame.s.min()):g}. Move to a point of full rank, or declare a lower rank."
            )
        return frame

    @cached_property
    def force_derivative(self) -> ForceDerivative:
        return ForceDerivative(self.smooth_frame)

    @cached_property
    def flat(self) -> _Point:
        """The point with the Frobenius metric, whose cometric is the tangent projection."""
        frame = None if self.frame is None else Frame(self.frame.u, self.frame.s, self.frame.vt, _FROBENIUS)
        return _Point(_FROBENIUS, self.rank, frame)


def _force_value(point: _Point, x: Any, p: Any, q: Any) -> Any:
    """``∇_X⟨P, A_X Q⟩``; normal parts of P and Q contribute below full rank, where tangent spaces turn."""
    frame = point.smooth_frame
    pb = frame.split(p)
    qb = pb if p is q else frame.split(q)
    core, left, right = frame.hamiltonian_gradient(pb, qb)
    if left is not None and right is not None:
        pn, qn = p - frame.assemble(pb), q - frame.assemble(qb)
        ratio = (frame.phi_null / frame.s)[..., None, :] / 2
        left = left + (pn @ qb.right + qn @ pb.right) * ratio
        right = right + (pn.mT @ qb.left + qn.mT @ pb.left) * ratio
    return 2 * frame.assemble(Blocks(core, left, right))


def _derivative_value(point: _Point, x: Any, w: Any, q: Any) -> Any:
    """``(D_W A_X)(Q)``, dense, with its normal part and with that of Q."""
    frame = point.smooth_frame
    wb, qb = frame.split(w), frame.split(q)
    core, left, right = frame.cometric_derivative(wb, qb)
    if left is None or right is None:
        return frame.assemble(Blocks(core, left, right))
    qn = q - frame.assemble(qb)
    ratio = (frame.phi_null / frame.s)[..., None, :]
    left = left + (qn @ wb.right) * ratio
    right = right + (qn.mT @ wb.left) * ratio
    return frame.assemble(Blocks(core, left, right)) + frame.normal(wb, qb)


def _log_volume_gradient_value(point: _Point, x: Any) -> Any:
    r"""``U diag(v) Vᵀ``, ``v_k = −2σ_k Σ_l ψ_l(k, k)/φ_kl − (m + n − 2r) σ_k ψ_0(k, k)/φ_0k``."""
    frame = point.frame
    s, m, n = frame.s, frame.m, frame.n
    psi, column = frame.kernel.divided_difference, s[..., :, None]
    total = 2 * (psi(s[..., None, :], column, column) / frame.phi).sum(axis=-1)
    codimension = m + n - 2 * frame.rank
    if codimension:
        total = total + codimension * psi(0 * s, s, s) / frame.phi_null
    return (frame.u * (-s * total)[..., None, :]) @ frame.vt


def _log_volume_hessian(point: _Point, c: Any, x: Any) -> Any:
    """Differentiate the pairing of C with that gradient, as the sum ``−½ Σ_i F(A⁻¹E_i, E_i)`` over mn matrix units."""
    *batch, m, n = x.shape
    xp, like = (np, x) if point.frame is None else (point.frame._xp, point.frame.s)
    where = {} if point.frame is None else {"device": like.device}
    units = xp.eye(m * n, dtype=like.dtype, **where).reshape((m * n, *(1 for _ in batch), m, n))
    explicit = _force_derivative(point, x, c, _metric(point, x, units), units)
    return -(explicit + _metric_in_point(point, _derivative(point, x, c, units), x, units)).sum(axis=0) / 2


def _unavailable(*_: Any) -> Any:
    raise NotImplementedError(
        "this derivative needs one order more than is available in closed form; use finite differences of the "
        "derivative below it."
    )


def _metric_in_point(point: _Point, c: Any, x: Any, z: Any) -> Any:
    p, q = _metric(point, x, c), _metric(point, x, z)
    gradient = -_force(point, x, p, q)
    if point.rank in (None, min(x.shape[-2:])):
        return gradient
    # The derivative of a pseudo-inverse A⁺ of constant rank has two terms more, in the normal parts.
    for u, v in ((p, z), (q, c)):
        gradient = gradient + _force(point, x, _metric(point, x, u), v - _project(point, x, v))
    return gradient


def _project(point: _Point, x: Any, z: Any) -> Any:
    return _cometric(point.flat, x, z)


_cometric: Operation = Operation(
    lambda point, x, p: point.frame.cometric(p),
    (lambda point, c, x, p: _force(point, x, p, c), lambda point, c, x, p: _cometric(point, x, c)),
    "cometric",
)
_metric: Operation = Operation(
    lambda point, x, z: point.frame.metric(z),
    (_metric_in_point, lambda point, c, x, z: _metric(point, x, c)),
    "metric",
)
_force: Operation = Operation(
    _force_value,
    (
        lambda point, c, x, p, q: _force_derivative(point, x, c, p, q),
        lambda point, c, x, p, q: _derivative(point, x, c, q),
        lambda point, c, x, p, q: _derivative(point, x, c, p),
    ),
)
_derivative: Operation = Operation(
    _derivative_value,
    (
        lambda point, c, x, w, q: _force_derivative(point, x, w, c, q),
        lambda point, c, x, w, q: _force(point, x, c, q),
        lambda point, c, x, w, q: _derivative(point, x, w, c),
    ),
)
_force_derivative: Operation = Operation(
    lambda point, x, w, p, q: point.force_derivative(w, p, q), (_unavailable,) * 4, "force_derivative"
)
_log_volume: Operation = Operation(
    lambda point, x: point.frame.log_volume_density(),
    (lambda point, c, x: c[..., None, None] * _log_volume_gradient(point, x),),
    "log_volume_density",
    scalar=True,
)
_log_volume_gradient: Operation = Operation(_log_volume_gradient_value, (_log_volume_hessian,), "log_volume_gradient")
