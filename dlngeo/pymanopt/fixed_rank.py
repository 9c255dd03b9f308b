"""Matrices of fixed rank with the metric of a kernel, in factored form, for pymanopt."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from dlngeo import _check
from dlngeo._linalg import adjoint, combine, gaussian, gram, haar, is_complex
from dlngeo.kernels import Kernel, of_depth, require_kernel
from dlngeo.matrices.factored import connect_factored, shoot_factored
from dlngeo.matrices.frame import Blocks, Frame
from dlngeo.matrices.retraction import retract
from dlngeo.pymanopt import ambient, chords
from dlngeo.pymanopt._points import Remembering
from dlngeo.pymanopt.local import FixedRankModel
from dlngeo.pymanopt.vectors import Point, TangentVector

__all__ = ["FixedRank"]


class FixedRank(Remembering):
    r"""The m×n matrices of rank r with the metric of the deep linear network, or of any kernel.

    A point is a triple ``(u, s, vt)`` of shapes (m, r), (r,), (r, n), with orthonormal columns of ``u`` and rows of
    ``vt`` and positive ``s`` in any order. A tangent vector is a triple ``(Up, M, Vp)`` of shapes (m, r), (r, r), (n,
    r), with ``uᵀ Up = 0`` and ``vt Vp = 0``; it stands for ``Z = u M vt + Up vt + u Vpᵀ``. Both are exactly as in
    :class:`pymanopt.manifolds.FixedRankEmbedded`, which is the case of depth 1. The metric is

    .. math:: g_X(Z, Z) = \sum_{kl} \frac{M_{kl}^2}{\varphi(s_k, s_l)}
        + \sum_{il} \frac{(U_p)_{il}^2 + (V_p)_{il}^2}{\varphi(s_l, 0)} ,

    the dimension ``(m + n − r) r``. No operation forms an m×n array; each costs O((m + n) r² + r³).

    Euclidean gradients, and vectors to project, are accepted as (m, n) arrays, SciPy sparse matrices and
    ``LinearOperator`` objects, pairs (m×k, k×n) that stand for their product, triples ``(U, S, V)`` for ``U S Vᵀ``,
    and (gradients only) as what the autodiff backends return for a cost of ``(u * s) @ vt``, to which a symmetric
    function of ``s`` may be added, such as the nuclear norm, and a function of one side, such as the norms of rows
    ``(u * s)``; see :func:`dlngeo.pymanopt.ambient.tangent_part_of_autodiff`. Hessian products come in the same forms,
    as autodiff triples along the velocity :meth:`embedding`. None is written to.

    Methods raise a TypeError or ValueError where a derivative is none of these or of the wrong shape, or an autodiff
    cost depends on the signs or the order of the factors; and a ValueError where a point has other shapes or singular
    values that are not positive and finite, the metric is not representable there, or a gradient or a vector to move
    along has NaN or infinite entries.

    Parameters
    ----------
    m, n : int
        Shape of the matrices.
    rank : int
        Rank r.
    depth : float
        Depth N ≥ 1 of the network, real. ``inf`` is the normalised limit, which exists for m = n = r only.
    kernel : Kernel, optional
        Another metric, in place of ``depth``.
    scale : float
        Size of the entries of the matrices that are sought, positive. It enters :attr:`typical_dist` alone, from which
        trust regions take their radius: nothing else in pymanopt tells them how long a step is.
    geodesics : bool
        Whether :meth:`log`, :meth:`dist` and :meth:`pair_mean` are those of geodesics, or of chords, which take
        microseconds: Nelder–Mead and particle swarms of pymanopt do not end without. See
        :mod:`dlngeo.pymanopt.chords`.
    field : "real" or "complex"
        Numbers that the matrices have as entries. Of complex ones ``vt`` is ``V*``, ``uᵀ`` and ``vt Vp`` above are
        ``u*`` and ``vt Vp``, ``Vpᵀ`` is ``Vp*``, the metric sums ``|M_kl|²`` and is a real inner product, and the
        dimension is twice as large. The gradient of a real cost is the matrix with ``dE[Z] = Re Tr(E′* Z)``, which
        PyTorch gives, and of which JAX and autograd give the conjugate; derivatives in the factors are not taken. See
        ``docs/complex.md``.
    rng : numpy.random.Generator or int, optional
        Source of random points and tangent vectors, or its seed.

    Raises
    ------
    TypeError
        If ``depth`` or a dimension is no number, or ``kernel`` no :class:`~dlngeo.Kernel`. Methods of a manifold of
        real matrices raise one at complex arrays.
    ValueError
        If ``field`` is neither, the rank exceeds ``min(m, n)``, the depth is below 1, ``scale`` is not positive and
        finite, or the metric is infinite on this manifold, or is that of layers with offsets whose flow
        does not conserve the rank.
    KernelError
        If ``kernel`` fails a short form of :func:`~dlngeo.check_kernel`.

    See Also
    --------
    dlngeo.pymanopt.Balanced
    dlngeo.pymanopt.GradientFlow
    dlngeo.geomstats.FixedRankMatrices

    Notes
    -----
    The retraction is of second order, see :func:`dlngeo.matrices.retraction.retract`; the vector transport is the
    projection onto the new tangent space.

    References
    ----------
    .. [1] G. Menon, "The geometry of the deep linear network", arXiv:2411.09004.
    .. [2] B. Vandereycken, "Low-rank matrix completion by Riemannian optimization", SIAM J. Optim. 23 (2013).

    Examples
    --------
    >>> manifold = FixedRank(5, 4, 2, depth=3, rng=0)
    >>> manifold.dim
    14
    """

    def __init__(
        self,
        m: int,
        n: int,
        rank: int,
        depth: float = 2,
        *,
        kernel: Kernel | None = None,
        scale: float = 1.0,
        geodesics: bool = True,
        field: _check.Field = "real",
        rng: Any = None,
    ) -> None:
        self._m, self._n = _check.positive_integer(m, "m"), _check.positive_integer(n, "n")
        self._rank = _check.rank(rank, self._m, self._n)
        kernel = of_depth(depth) if kernel is None else kernel
        require_kernel(kernel, self._m, self._n, self._rank)
        if not 0 < scale < math.inf:
            raise ValueError(f"scale must be positive and finite, got {scale}; it is the size of a typical entry.")
        self._kernel, self._field = kernel, _check.field(field)
        self._dtype = np.dtype(np.complex128 if field == "complex" else np.float64)
        self._scale = float(scale)
        self._geodesics = bool(geodesics)
        self._rng = np.random.default_rng(rng)
        self._frame_memo: tuple[Frame, np.ndarray] | None = None
        self._largest_gradient = 0.0
        super().__init__(
            f"Manifold of {m}x{n} {'complex ' * (field == 'complex')}matrices of rank {rank} with the metric of "
            f"{kernel!r}",
            (self._m + self._n - self._rank) * self._rank * (2 if field == "complex" else 1),
            point_layout=3,
        )

    @property
    def kernel(self) -> Kernel:
        """Kernel of the metric."""
        return self._kernel

    @property
    def field(self) -> str:
        """Field of the matrices, "real" or "complex"."""
        return self._field

    @property
    def typical_dist(self) -> float:
        """The largest trust region: 1/16 of the distance from 0 to a matrix of entries of size ``scale``.

        With r equal singular values ``σ = scale √(mn/r)`` that distance is ``√(N r) σ^{1/N}`` at depth N; where it is
        infinite or the kernel is not of finite depth, ``σ √(r/φ(σ, σ))``, the norm of the radial direction, stands in.
        Larger regions take fewer steps, but the long ones among these may lead to where completion has spurious minima.
        """
        sigma = np.full(1, self._scale * math.sqrt(self._m * self._n / self._rank))
        depth = self._kernel.depth
        depth = 1.0 if depth is None or math.isinf(depth) else depth
        return depth * float(sigma[0]) * math.sqrt(self._rank / float(self._kernel(sigma, sigma)[0])) / 16

    # Points.

    def random_point(self) -> Point:
        """Draw orthonormal frames from the uniform law and singular values uniform on (0, 1], in descending order."""
        u, v = (haar(self._rng, (size, self._rank), self._field) for size in (self._m, self._n))
        s = np.sort(1 - self._rng.random(self._rank))[::-1].copy()
        return Point(u, s, adjoint(v))

    def retraction(self, point: Any, tangent_vector: Any) -> Point:
        """Move along a tangent vector, to second order; see :func:`dlngeo.matrices.retraction.retract`.

        Where the end point is not finite in double precision, so that it cannot be represented, the result is the
        point with the frames of ``point`` and all singular values equal to the largest double: any quadratic cost is
        ``inf`` there, never NaN, and a line search backs off.
        """
        return self._retract(self._frame(point), self._blocks(tangent_vector, finite="the tangent vector"))

    def exp(self, point: Any, tangent_vector: Any) -> Point:
        """Follow the geodesic for unit time; see :func:`dlngeo.matrices.factored.shoot_factored`.

        It solves an ODE of matrices of size 2r, to 1e-10 relative to the largest singular value, and costs some
        retractions. Solvers have no need of it. A GeodesicError tells where the geodesic ends at a singular matrix
        before, or the energy is not conserved.
        """
        blocks = self._blocks(tangent_vector, finite="the tangent vector")
        return Point(*shoot_factored(self._frame(point), blocks))

    def log(self, point_a: Any, point_b: Any) -> TangentVector:
        """Find the initial velocity of a geodesic from ``point_a`` that is at ``point_b`` at unit time.

        The geodesic is locally a shortest one, see :func:`dlngeo.shooting.connect`, and its end verified to
        1e-10. It solves a boundary value problem of matrices of size 2r, for which it follows some tens of geodesics;
        far pairs that this does not join take a search of seconds. A GeodesicError tells that none was found, or none
        exists.
        """
        if not self._geodesics:
            return chords.logarithm(point_a, point_b)
        return self._tangent(self._connect(point_a, point_b)[0])

    def dist(self, point_a: Any, point_b: Any) -> float:
        """Length of the geodesic, or chord, of :meth:`log`."""
        return self._connect(point_a, point_b)[1] if self._geodesics else chords.distance(point_a, point_b)

    def pair_mean(self, point_a: Any, point_b: Any) -> Point:
        """Middle of the geodesic of :meth:`log`; of a chord, what :meth:`retraction` makes of half of it."""
        half = self.log(point_a, point_b) / 2
        return self.exp(point_a, half) if self._geodesics else self.retraction(point_a, half)

    # Tangent vectors.

    def inner_product(self, point: Any, tangent_vector_a: Any, tangent_vector_b: Any) -> float:
        """Evaluate ``g_X(A, B) = Re Tr(A* A_X⁻¹ B)``."""
        a, b = self._blocks(tangent_vector_a), self._blocks(tangent_vector_b)
        one = np.ones((1, self._rank))
        # 1/φ(σ, 0) weighs whole columns, so the tall parts are summed before they are weighed, with no tall temporary.
        core, left, right = self._frame(point).scale(
            Blocks(a.core, None if a.left is None else one, None if a.right is None else one), -1
        )
        total = np.sum(core.conj() * b.core).real
        for weight, x, y in ((left, a.left, b.left), (right, a.right, b.right)):
            if x is not None:
                total = total + weight[0] @ np.einsum("ij,ij->j", x.conj(), y).real
        return float(total)

    def zero_vector(self, point: Any) -> TangentVector:
        """Zero tangent vector."""
        return self._tangent(Blocks(np.zeros((self._rank, self._rank), self._dtype), None, None))

    def random_tangent_vector(self, point: Any) -> TangentVector:
        """Draw a tangent vector of norm 1, uniform on the unit sphere of the metric."""
        r, rng = self._rank, self._rng
        noise = (gaussian(rng, shape, self._field) for shape in ((self._m, r), (r, r), (self._n, r)))
        white = self.to_tangent_space(point, TangentVector(*noise))
        vector = self._tangent(self._frame(point).scale(self._blocks(white), 0.5))
        return vector / self.norm(point, vector)

    def projection(self, point: Any, vector: Any) -> TangentVector:
        """Project an ambient matrix onto the tangent space, orthogonally in the Frobenius metric."""
        u, _, vt = point
        return TangentVector(*ambient.tangent_part(u, vt, vector))

    def to_tangent_space(self, point: Any, vector: Any) -> TangentVector:
        """Restore ``u* Up = 0`` and ``vt Vp = 0`` in a triple ``(Up, M, Vp)`` that lost them to roundoff."""
        u, _, vt = point
        left, core, right = vector
        return TangentVector(left - u @ (adjoint(u) @ left), core, right - adjoint(vt) @ (vt @ right))

    def embedding(self, point: Any, tangent_vector: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Velocities ``(u̇, ṡ, v̇ᵀ)`` of the factors, with ``u̇ s vt + u ṡ vt + u s v̇ᵀ = Z``.

        It is the form in which Hessian products of a cost of ``(u * s) @ vt``, by autodiff or by hand, take their
        direction: ``u̇ = (Up + u offdiag M)/s``, ``ṡ = diag M``, ``v̇ᵀ = Vpᵀ/s``. The imaginary part of the diagonal
        of a complex M, which turns phases, is in ``u̇``.
        """
        u, s, _ = point
        left, core, right = tangent_vector
        ds = np.diagonal(core).real.copy()
        return combine((left, np.diag(1 / s)), (u, (core - np.diag(ds)) / s)), ds, adjoint(right) / s[:, None]

    def transport(self, point_a: Any, point_b: Any, tangent_vector_a: Any) -> TangentVector:
        """Project a tangent vector at ``point_a`` onto the tangent space at ``point_b``, in factored form."""
        (u, _, vt), (new_u, _, new_vt) = point_a, point_b
        left, core, right = tangent_vector_a
        v, new_v = adjoint(vt), adjoint(new_vt)
        rows, right_rows = gram(v, new_v), gram(right, new_v)
        columns, left_columns = gram(u, new_u), gram(left, new_u)
        # Z V′ = left rows + u of_u and Zᵀ U′ = right columns + v of_v, so that U′ᵀ Z V′ takes small matrices alone.
        of_u, of_v = core @ rows + right_rows, adjoint(core) @ columns + left_columns
        new_core = adjoint(left_columns) @ rows + adjoint(columns) @ of_u
        return TangentVector(
            combine((left, rows), (u, of_u), (new_u, -new_core)),
            new_core,
            combine((right, columns), (v, of_v), (new_v, -adjoint(new_core))),
        )

    # Derivatives.

    def euclidean_to_riemannian_gradient(self, point: Any, euclidean_gradient: Any) -> TangentVector:
        r"""Apply the cometric to the tangent part of ``E′(X)``.

        .. math:: M \mapsto \varphi(s_k, s_l) \circ M, \quad U_p \mapsto U_p\, \varphi(s_l, 0), \quad
            V_p \mapsto V_p\, \varphi(s_l, 0).
        """
        frame = self._frame(point)
        cotangent, self._largest_gradient = ambient.gradient_part(
            (frame.u, frame.s, frame.vt), euclidean_gradient, self._largest_gradient
        )
        blocks = self._blocks(cotangent, finite="the Euclidean gradient of the cost")
        return self._tangent(frame.scale(blocks, 1))

    def euclidean_to_riemannian_hessian(
        self, point: Any, euclidean_gradient: Any, euclidean_hessian: Any, tangent_vector: Any
    ) -> TangentVector:
        r"""Apply the Riemannian Hessian, ``∇_Z grad E``, in closed form; see :meth:`Frame.hessian_blocks`.

        .. math:: \operatorname{Hess} E[Z] = A(D^2E[Z]) + (D_Z A)(E') + \Gamma(Z, A E') .

        Besides the blocks of ``E′`` and of ``D²E[Z]`` it takes the products ``E′ Vp`` and ``E′ᵀ Up`` with the blocks of
        the direction, which hold what the curvature of the manifold of rank r makes of the normal part of ``E′``. Below
        full rank an autodiff gradient, which holds nothing of that part, is refused with a product that is a matrix.
        """
        frame = self._frame(point)
        x, bent = (frame.u, frame.s, frame.vt), self._rank < min(self._m, self._n)
        parts, self._largest_gradient = ambient.second_order_parts(
            x, euclidean_gradient, euclidean_hessian, tangent_vector, bent, self._largest_gradient
        )
        z, g, h = (self._blocks(v) for v in (tangent_vector, parts.gradient, parts.hessian))
        return self._tangent(frame.hessian_blocks(z, g, h, parts.along, parts.across))

    def local(self, problem: Any, point: Any) -> FixedRankModel:
        """Gradient, Hessian and retraction at one point, fast, on flat arrays; see :class:`FixedRankModel`.

        Many products of one Hessian cost a fraction of as many ``problem.riemannian_hessian``. A ValueError tells that
        the problem is posed on another manifold, the point is none of this one, or the gradient is not finite.
        """
        return FixedRankModel(self, problem, point)

    # Inside.

    def _retract(self, frame: Frame, blocks: Blocks) -> Point:
        try:
            return Point(*retract(frame, blocks))
        except OverflowError:
            return Point(frame.u, np.full(self._rank, np.finfo(float).max), frame.vt)

    def _connect(self, point_a: Any, point_b: Any) -> tuple[Blocks, float]:
        ends = (self._frame(point) for point in (point_b, point_a))  # the first point is the one kept
        b, a = ((frame.u, frame.s, frame.vt) for frame in ends)
        return connect_factored(a, b, self._kernel)

    def _frame(self, point: Any) -> Frame:
        """Frame at a point; that of the last point is kept, so that one line search evaluates the kernel once."""
        u, s, vt = point
        if self._frame_memo is not None:
            frame, seen = self._frame_memo
            # The kernel depends on s alone. A copy is compared, since identity says nothing of an array written into.
            if frame.u is u and frame.vt is vt and np.array_equal(s, seen):
                return frame
        u, vt = (_check.numbers(a, "the point", self._field) for a in (u, vt))
        s = _check.real(s, "the singular values of the point")
        r = self._rank
        if (u.shape, s.shape, vt.shape) != ((self._m, r), (r,), (r, self._n)):
            raise ValueError(
                f"the point has shapes {u.shape}, {s.shape}, {vt.shape}; expected (u, s, vt) of shapes "
                f"({self._m}, {r}), ({r},), ({r}, {self._n})."
            )
        if not np.all((s > 0) & (s < math.inf)):
            raise ValueError(
                f"the singular values of a point of rank {r} must be positive and finite, got {s}; declare a lower "
                "rank, or take shorter steps."
            )
        if self._field == "complex":
            u, vt = u.astype(complex, copy=False), vt.astype(complex, copy=False)
        frame = Frame(u, s, vt, self._kernel)
        self._frame_memo = frame, s.copy()
        return frame

    def _blocks(self, vector: Any, finite: str = "") -> Blocks:
        """Blocks of a triple, of this name if it must be finite; what is orthogonal to a full space is dropped."""
        for a in vector if finite else ():
            _check.finite(np, a, finite)
        if self._field == "real" and any(map(is_complex, vector)):
            _check.real(next(filter(is_complex, vector)), "the vector")
        left, core, right = vector
        return Blocks(core, None if self._m == self._rank else left, None if self._n == self._rank else right)

    def _tangent(self, blocks: Blocks) -> TangentVector:
        left = np.zeros((self._m, self._rank), self._dtype) if blocks.left is None else blocks.left
        right = np.zeros((self._n, self._rank), self._dtype) if blocks.right is None else blocks.right
        return TangentVector(left, blocks.core, right)
