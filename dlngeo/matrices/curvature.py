r"""Curvature of an invariant metric, in the SVD frame of a point.

For constant momenta P, Q the vector fields ``A(P)``, ``A(Q)`` are gradients, of ``⟨P, X⟩`` and ``⟨Q, X⟩``, and the
curvature is an expression in derivatives of the cometric [1]_: with ``Y = A(P)``, ``Z = A(Q)``,

.. math::
    g(R(Y, Z)Z, Y) = \tfrac12 \langle Q, A''_{YY} Q\rangle + \tfrac12 \langle P, A''_{ZZ} P\rangle
        - \langle P, A''_{YZ} Q\rangle - \tfrac34 |A'_Y Q - A'_Z P|_g^2 \\
    + |H_{PQ}|_A^2 - \langle H_{PP}, H_{QQ}\rangle_A
        - \langle A'_Y Q + A'_Z P, H_{PQ}\rangle + \langle A'_Y P, H_{QQ}\rangle + \langle A'_Z Q, H_{PP}\rangle ,

``H_PQ = ∇_X ½⟨P, A_X Q⟩``. All of it is known in closed form from ``φ``, its divided difference ``ψ`` and the divided
differences of ``ψ``, see :class:`dlngeo.matrices.frame.Frame` and :mod:`dlngeo.matrices._second_order`. The expression
is intrinsic: below full rank it holds with the tangential parts of all its terms and A″ along curves in the manifold,
so no second fundamental form is needed. At integer depth it is the curvature, by Gauss and O'Neill [2]_, of the
balanced weights modulo rotations.

Notes
-----
What is known of the signs, each statement tested:

* At depth 1 all is zero on matrices of full rank. At every depth and kernel the diagonal matrices ``U diag(·) Vᵀ`` are
  flat, and at every depth ``R(X, ·) = 0``: the metric is a cone, at infinite depth a product with the line log ‖X‖.
* Both signs occur at every N > 1 and d > 1. At ``X = sO``, O orthogonal, the normalised metric has, with
  ``κ = (1 − 1/N²)/4``,

  .. math:: g(R(Y, Z)Z, Y) = c\, s^{2/N - 4}\, \|[O^\top Y, O^\top Z]\|^2,

  where ``c = κ`` if ``OᵀY`` and ``OᵀZ`` are both symmetric or both skew, and ``c = −κ/3`` if one is symmetric and one
  skew; its scalar curvature there is ``⅔ κ d (d − 1)² s^{−2/N}``.
* On symmetric positive definite matrices depth 2 is twice the Bures–Wasserstein metric, whose sectional curvature is
  not negative [3]_.
* The m×n matrices of rank 1 are the cone ``N dλ² + λ² (g_{S^{m−1}} + g_{S^{n−1}})``, of curvature ``(1 − 1/N)/λ²`` on
  planes tangent to one sphere and ``−1/(Nλ²)`` on those of one direction in each.

References
----------
.. [1] M. Micheli, P. W. Michor, D. Mumford, "Sobolev metrics on diffeomorphism groups and the derived geometry of
   spaces of submanifolds", Izvestiya: Mathematics 77 (2013), Section 2, arXiv:1202.3677 ("Mario's formula").
.. [2] B. O'Neill, "The fundamental equations of a submersion", Michigan Math. J. 13 (1966).
.. [3] A. Takatsu, "Wasserstein geometry of Gaussian measures", Osaka J. Math. 48 (2011), Theorem 1.1.
"""

from __future__ import annotations

import math
from functools import cached_property
from typing import Any

import numpy as np

from dlngeo._linalg import adjoint, inner
from dlngeo.kernels import Kernel
from dlngeo.matrices._ricci import Ricci
from dlngeo.matrices._second_order import Differences, Extension, SecondOrder
from dlngeo.matrices.blocks import Blocks, combined
from dlngeo.matrices.frame import Frame

__all__ = ["Curvature"]

# Vectors whose sine is below this many units of rounding are taken for dependent.
_DEPENDENT = 1e4
# Products of the divided differences stay in the range of doubles for singular values from this to its inverse.
_SMALLEST = 1e-30


class _InUnits(Kernel):
    """``φ(cs, ct)/φ(c, c)``, with differences from its values: the squares of c may leave the range of doubles."""

    def __init__(self, kernel: Kernel, unit: np.ndarray) -> None:
        self._kernel, self._unit = kernel, unit

    def __call__(self, s: Any, t: Any) -> Any:
        return self._kernel(self._unit * s, self._unit * t) / self._kernel(self._unit, self._unit)


class Curvature:
    """Curvature at the point of a frame.

    Tangent vectors are dense, shape=[..., m, n], or :class:`~dlngeo.matrices.frame.Blocks`; normal parts of dense ones
    are projected out. The first evaluation tabulates the divided differences of the kernel at all singular values,
    which later ones share. One sectional curvature costs O(r⁴) and O((m + n) r²), the tables O(r⁴) time and memory, and
    Ricci and scalar curvature O(r³) beside them; of complex matrices, traces over bases, as many evaluations as there
    are dimensions, or their square. At condition numbers of 1e6 scalar curvature keeps 12 digits, and
    sectional curvature 9 relative to its largest values; with the default differences of a kernel, some 3 less. Points
    whose singular values are all very large or small are evaluated in units of the largest: those of a kernel of a
    network one by one, those of another in one unit for a batch.

    Parameters
    ----------
    frame : Frame
        Point, of positive singular values, and kernel.

    Raises
    ------
    SingularError
        If the metric is infinite at the point, or in its left and right directions.
    ValueError
        If its singular values are more than 1e30 apart. The methods raise one if a value leaves the range of doubles.

    See Also
    --------
    dlngeo.matrices.frame.Frame
    dlngeo.weights.curvature.submersed_curvature

    Examples
    --------
    >>> import numpy as np
    >>> from dlngeo import DepthKernel
    >>> from dlngeo.matrices.curvature import Curvature
    >>> from dlngeo.matrices.frame import Frame
    >>> x, y, z = np.zeros((3, 3, 3))
    >>> x[0, 0], y[1, 0], z[2, 0] = 8, 1, 1  # of rank 1, λ = 2 at depth 3
    >>> round(float(Curvature(Frame.at(x, DepthKernel(3), 1)).sectional(y, z)), 4)  # (1 − 1/N)/λ²
    0.1667
    """

    def __init__(self, frame: Frame) -> None:
        self._xp = xp = frame._xp
        # At X = cX′ the metric is g_X(cY, cZ) = g′(Y, Z)/κ, of the kernel φ(cs, ct) times κ/c².
        unit, kernel = xp.max(frame.s, axis=-1), frame.kernel
        if kernel.depth is not None:
            with np.errstate(over="ignore"):  # an infinite curvature is refused
                self._curving = unit ** (-2 / kernel.depth)
        elif 1e-10 < float(xp.max(unit)) < 1e10:
            self._curving = unit = xp.ones_like(unit)
        else:
            unit = xp.max(unit)
            self._curving = kernel(unit, unit) / unit / unit
            kernel = _InUnits(kernel, np.asarray(unit))
        self._unit = unit[..., None, None]
        s = frame.s / unit[..., None]
        if bool(xp.any((s > 0) & (s < _SMALLEST))):
            raise ValueError(
                f"curvature is evaluated in double precision for singular values down to {_SMALLEST:g} of the largest, "
                f"got {float(xp.min(frame.s)):g} beside {float(xp.max(frame.s)):g}; declare a lower rank."
            )
        self.frame = frame = Frame(frame.u, s, frame.vt, kernel)
        square = frame.m == frame.n == frame.rank
        frame._require_positive(frame.phi, None if square else frame.phi_null)
        self._differences = Differences(frame)
        self._tables: dict[tuple[int, int], SecondOrder] = {}

    # The Riemann tensor.

    def apply(self, x: Any, y: Any, z: Any) -> Any:
        r"""Apply the curvature operator, ``R(X, Y)Z = ∇_X∇_Y Z − ∇_Y∇_X Z − ∇_{[X, Y]} Z``, in blocks if X is."""
        result = combined((self._unit, self._apply(*map(self._blocks, (x, y, z)))))
        return self._checked(result if isinstance(x, Blocks) else self.frame.assemble(result))

    def riemann(self, x: Any, y: Any, z: Any, w: Any) -> Any:
        """Covariant tensor ``g(R(X, Y)Z, W)``, shape=[...]; positive at ``Z = Y``, ``W = X`` on a sphere."""
        frame = self.frame
        value = self._apply(*map(self._blocks, (x, y, z)))
        return self._checked(frame.pair(value, frame.scale(self._blocks(w), -1)) / self._curving)

    def _apply(self, x: Blocks, y: Blocks, z: Blocks) -> Blocks:
        r"""Apply the curvature operator to blocks.

        It is the antisymmetric part in X and Y of ``D_X Γ(Y, Z) + Γ(X, Γ(Y, Z))``, less
        ``½ A''_{XY} A⁻¹Z``, which is symmetric. Only tangential parts enter: the polarised formula of the module holds
        with these, and the two agree term by term, for ``A'_X`` is symmetric and ``P, Q ↦ 2H_PQ`` its adjoint.
        """
        p, q, r = (self.frame.scale(vector, -1) for vector in (x, y, z))
        extension = Extension(self.frame, [x, y, z])
        forward = self._half(extension, x, p, y, q, z, r)
        return combined((1, forward), (-1, self._half(extension, y, q, x, p, z, r)))

    def _half(self, extension: Extension, x: Blocks, p: Blocks, y: Blocks, q: Blocks, z: Blocks, r: Blocks) -> Blocks:
        """``D_X Γ(Y, Z) + Γ(X, Γ(Y, Z))`` without the part symmetric in X and Y; momenta p, q, r."""
        frame, order = self.frame, self._order(extension)
        xe, ze, qe, re = map(extension.matrix, (x, z, q, r))
        second = extension.blocks(order.cometric(xe, ze, qe))
        force = extension.blocks(order.force(xe, qe, re))
        # Along X at fixed Y and Z, their momenta change by −A⁻¹A′_X of them.
        moved_q, moved_r = (frame.scale(frame.cometric_derivative(x, v), -1) for v in (q, r))
        step = frame.christoffel_blocks(y, q, z, r)
        return combined(
            (-0.5, second),
            (1, frame.scale(force, 1)),
            (1, frame.cometric_derivative(x, frame.hamiltonian_gradient(q, r))),
            (0.5, frame.cometric_derivative(y, moved_r)),
            (0.5, frame.cometric_derivative(z, moved_q)),
            (-1, frame.scale(frame.hamiltonian_gradient(moved_q, r), 1)),
            (-1, frame.scale(frame.hamiltonian_gradient(q, moved_r), 1)),
            (1, frame.christoffel_blocks(x, p, step, frame.scale(step, -1))),
        )

    # Sectional curvature.

    def sectional(self, y: Any, z: Any) -> Any:
        """Sectional curvature of the plane of Y and Z, ``g(R(Y, Z)Z, Y) / (|Y|² |Z|² − g(Y, Z)²)``, shape=[...].

        Raises
        ------
        ValueError
            If Y and Z are linearly dependent, up to rounding.
        """
        xp, frame = self._xp, self.frame
        y, z = map(self._of_size_one, (self._blocks(y), self._blocks(z)))
        yy = frame.pair(y, frame.scale(y, -1))
        before = frame.pair(z, frame.scale(z, -1))
        # The plane has an orthogonal basis, in which the quotient does not cancel.
        part = frame.pair(y, frame.scale(z, -1)) / xp.where(yy > 0, yy, 1.0)
        z = combined((1, z), (-part[..., None, None], y))
        zz = frame.pair(z, frame.scale(z, -1))
        independent = (yy > 0) & (zz > (_DEPENDENT * float(xp.finfo(zz.dtype).eps)) ** 2 * before)
        if not bool(xp.all(independent)):
            raise ValueError(
                "sectional curvature needs a plane, but the two vectors are linearly dependent"
                + (
                    f" at {int(xp.sum(~independent))} of {math.prod(independent.shape)} places"
                    if independent.ndim
                    else ""
                )
                + "; pass independent ones."
            )
        return self._checked(self._numerator(y, z) / (yy * zz) * self._curving)

    def _of_size_one(self, vector: Blocks) -> Blocks:
        xp, parts = self._xp, [part for part in vector if part is not None]
        size = sum(xp.max(xp.abs(part), axis=(-2, -1), keepdims=True) for part in parts)
        return combined((1 / xp.where(size > 0, size, 1.0), vector))

    def _numerator(self, y: Blocks, z: Blocks) -> Any:
        """``g(R(Y, Z)Z, Y)`` by the formula of the module."""
        frame = self.frame
        p, q = frame.scale(y, -1), frame.scale(z, -1)
        extension = Extension(frame, [y, z])
        order = self._order(extension)
        ye, ze, pe, qe = map(extension.matrix, (y, z, p, q))
        second = (
            inner(qe, order.cometric(ye, ye, qe)) / 2
            + inner(pe, order.cometric(ze, ze, pe)) / 2
            - inner(pe, order.cometric(ye, ze, qe))
        )
        slope, pair, gradient = frame.cometric_derivative, frame.pair, frame.hamiltonian_gradient
        yq, zp, hp, hq, hpq = slope(y, q), slope(z, p), gradient(p), gradient(q), gradient(p, q)
        bracket, sum_ = combined((1, yq), (-1, zp)), combined((1, yq), (1, zp))
        return (
            second
            - 0.75 * pair(bracket, frame.scale(bracket, -1))
            + pair(hpq, frame.scale(hpq, 1))
            - pair(hp, frame.scale(hq, 1))
            - pair(sum_, hpq)
            + pair(slope(y, p), hq)
            + pair(slope(z, q), hp)
        )

    # Contractions.

    def ricci(self, y: Any, z: Any) -> Any:
        """Ricci curvature ``Ric(Y, Z)``, the trace of ``X ↦ R(X, Y)Z``, shape=[...]."""
        return self._checked(self.frame.pair(self._blocks(y), self._ricci.lower(self._blocks(z))))

    def ricci_lower(self, z: Any) -> Any:
        """Ricci tensor with one argument open: the cotangent vector ``Ric(·, Z)``, in blocks if Z is."""
        value = combined((1 / self._unit, self._ricci.lower(self._blocks(z))))
        return self._checked(value if isinstance(z, Blocks) else self.frame.assemble(value))

    def scalar(self) -> Any:
        """Scalar curvature, the trace of the Ricci curvature, shape=[...]."""
        return self._checked(self._ricci.trace() * self._curving)

    @cached_property
    def _ricci(self) -> Ricci | _Traces:
        return Ricci(self.frame, self._differences) if self.frame.field == "real" else _Traces(self)

    def _blocks(self, vector: Any) -> Blocks:
        """Blocks of a vector in units of the point."""
        return combined((1 / self._unit, vector if isinstance(vector, Blocks) else self.frame.split(vector)))

    def _checked(self, value: Any) -> Any:
        for array in value if isinstance(value, Blocks) else (value,):
            if array is not None and not bool(self._xp.all(self._xp.isfinite(array))):
                raise ValueError(
                    f"the curvature at singular values about {float(self._xp.max(self._unit)):g} is not finite in "
                    "double precision, or the vectors are not; rescale the point or the vectors."
                )
        return value

    def _order(self, extension: Extension) -> SecondOrder:
        key = (len(extension.rows), len(extension.cols))
        if key not in self._tables:
            self._tables[key] = SecondOrder(self._differences, extension.rows, extension.cols)
        return self._tables[key]


class _Traces:
    """Ricci tensor over the complex numbers, by its definition: traces over an orthonormal basis of ``2r(m + n − r)``.

    The closed form of :mod:`dlngeo.matrices._ricci` is that of real matrices.
    """

    def __init__(self, curvature: Curvature) -> None:
        frame = curvature.frame
        many = Frame(frame.u[..., None, :, :], frame.s[..., None, :], frame.vt[..., None, :, :], frame.kernel)
        self._curvature, self._frame = Curvature(many), frame
        xp, like, r = frame._xp, frame.u, frame.rank

        def units(rows: int, at: int) -> Any:  # of one part, the others being zero
            eye = xp.reshape(xp.eye(rows * r, dtype=like.dtype), (rows * r, rows, r))
            both = xp.concat([eye, 1j * eye])
            sizes = (r, None if frame.m == r else frame.m, None if frame.n == r else frame.n)
            zeros = (None if s is None else xp.zeros((len(both), s, r), dtype=like.dtype) for s in sizes)
            return [both if part == at else zero for part, zero in enumerate(zeros)]

        parts = [Blocks(*units(r, 0))]
        for at, (side, basis) in enumerate(((frame.m, frame.u), (frame.n, adjoint(frame.vt))), 1):
            if side > r:
                block = units(side - r, at)
                complement = xp.linalg.qr(basis, mode="complete")[0][..., None, :, r:]
                block[at] = complement @ block[at]
                parts.append(Blocks(*block))
        # Where sides are full there are no such parts, and the others have batch axes of their own.
        self._bases = [many.scale(part, 0.5) for part in parts]

    def lower(self, z: Blocks) -> Blocks:
        """Cotangent vector ``Ric(·, Z)``, of ``Σ_a R(Z, E_a)E_a``."""
        one = Blocks(*(None if part is None else part[..., None, :, :] for part in z))
        xp, total = self._frame._xp, []
        for basis in self._bases:
            turned = self._curvature._apply(one, basis, basis)
            total.append((1, Blocks(*(None if part is None else xp.sum(part, axis=-3) for part in turned))))
        return self._frame.scale(combined(*total), -1)

    def trace(self) -> Any:
        """Scalar curvature."""
        total: Any = 0.0
        for basis in self._bases:
            for k in range(basis.core.shape[-3]):
                vector = Blocks(*(None if part is None else part[..., k, :, :] for part in basis))
                total = total + self._frame.pair(vector, self.lower(vector))
        return total
