"""Invariant matrix metrics, the metric of the deep linear network among them, as geomstats metrics."""

from __future__ import annotations

import math
from typing import Any

import geomstats.backend as gs
import numpy as np
from geomstats.geometry.complex_manifold import ComplexManifold
from geomstats.geometry.riemannian_metric import RiemannianMetric

from dlngeo import _check
from dlngeo.geomstats._backend import Border, batch, common_type, draw, to_gs, untraced
from dlngeo.geomstats.derivatives import Joined, differentiates, distance, squared_distance
from dlngeo.geomstats.solvers import ShootingExp, ShootingLog
from dlngeo.kernels import Kernel, of_depth, require_kernel
from dlngeo.matrices.complex_geodesics import surface_of
from dlngeo.matrices.curvature import Curvature
from dlngeo.matrices.differentiable import frame_at
from dlngeo.matrices.jacobi import conjugate_time, jacobi_flow
from dlngeo.matrices.minimality import Minimality, minimality

__all__ = ["DLNMetric", "SpectralMetric"]


class SpectralMetric(Border, RiemannianMetric):
    r"""Riemannian metric on matrices given by a kernel on their singular values.

    At ``X = U Σ Vᵀ``,

    .. math:: g_X(Y, Z) = \sum_{kl} \frac{(U^\top Y V)_{kl} (U^\top Z V)_{kl}}{\varphi(\sigma_k, \sigma_l)},

    which is invariant under ``X ↦ QXR`` with orthogonal Q and R. Every quantity is a closed form in the SVD frame,
    see :class:`dlngeo.matrices.frame.Frame`. Geodesics are integrated to 1e-11 per step, and between points found
    to 1e-10 or refused with a :class:`dlngeo.errors.GeodesicError`; set ``exp_solver`` and ``log_solver`` to use
    another solver of geomstats. On the autograd and PyTorch backends the tensors are differentiable in closed form, at
    repeated singular values too, see :class:`dlngeo.matrices.differentiable.DifferentiableFrame`, and so are ``exp``,
    ``log`` and distances, see :mod:`dlngeo.geomstats.derivatives`.

    Points X, tangent vectors Y and Z, Euclidean gradients ``E′(X)`` and Hessian products ``D²E(X)[Z]`` are arrays,
    shape=[..., m, n], whose leading axes broadcast. Tensors in the entries of the matrix count them row by row. A
    generator or seed ``rng`` defaults to the generator of ``gs.random``.

    Parameters
    ----------
    space : geomstats Manifold
        Space of real matrices: ``GeneralLinear``, ``FullRankMatrices``, :class:`FixedRankMatrices`, or a totally
        geodesic part of one, like ``SPDMatrices``. Or of complex ones: ``ComplexMatrices``, where the metric lives on
        those of full rank, or ``HPDMatrices``; Q and R above are unitary then, the metric is the real part, and what is
        missing raises a NotImplementedError, see ``docs/complex.md``.
    kernel : Kernel
        Kernel ``φ``.

    Raises
    ------
    TypeError
        If ``kernel`` is no :class:`~dlngeo.Kernel`.
    ValueError
        If the points of ``space`` are no matrices, or the matrices have zero singular values and the kernel vanishes
        there, or is that of layers with offsets whose flow does not conserve the rank.
    KernelError
        If ``kernel`` fails a short form of :func:`~dlngeo.check_kernel`.

    See Also
    --------
    dlngeo.DLNMetric
    dlngeo.Kernel

    Examples
    --------
    >>> import numpy as np
    >>> from dlngeo import InfiniteDepthKernel
    >>> from dlngeo.geomstats import SpectralMetric
    >>> from geomstats.geometry.general_linear import GeneralLinear
    >>> metric = SpectralMetric(GeneralLinear(2, equip=False), InfiniteDepthKernel())
    >>> round(float(metric.norm(np.eye(2), np.diag([2.0, 1.0]))), 6)
    1.118034
    """

    def __init__(self, space: Any, kernel: Kernel) -> None:
        if len(space.shape) != 2:
            raise ValueError(
                f"the points of {type(space).__name__} have shape {space.shape}; a spectral metric needs matrices."
            )
        self.kernel = kernel
        self.rank = int(getattr(space, "rank", min(space.shape)))
        self.field: _check.Field = "complex" if isinstance(space, ComplexManifold) else getattr(space, "field", "real")
        m, n = space.shape
        require_kernel(kernel, m, n, self.rank)
        super().__init__(space=space)
        self._surface: Any = surface_of(kernel, self.rank, self.field)
        surface = self._surface
        self.exp_solver, self.log_solver = ShootingExp(surface), ShootingLog(surface)

    @property
    def depth(self) -> float | None:
        """Depth of the network whose metric it is, up to a constant factor; None if there is none."""
        return self.kernel.depth

    def frame(self, base_point: Any, *vectors: Any) -> Any:
        """Factor a point once, for many evaluations there.

        Returns
        -------
        Frame or DifferentiableFrame
            The latter if autograd or PyTorch records the history of the point, or of one of the vectors.
        """
        return frame_at(base_point, self.kernel, self.rank, *vectors)

    def inner_product(self, tangent_vec_a: Any, tangent_vec_b: Any, base_point: Any) -> Any:
        """Inner product ``g_X(Y, Z)`` of tangent vectors, shape=[...]."""
        return self.frame(base_point, tangent_vec_a, tangent_vec_b).inner(tangent_vec_a, tangent_vec_b)

    def metric_matrix(self, base_point: Any) -> Any:
        """Matrix of the metric in the entries of the matrix, row by row.

        Returns shape=[..., mn, mn]. Symmetric, Hermitian of complex matrices; positive definite at full rank, and below
        it zero on normal vectors.
        """
        return self._matrix(base_point, "metric")

    def cometric_matrix(self, base_point: Any) -> Any:
        """Matrix of the cometric ``A_X`` in the entries of the matrix, row by row; see :meth:`metric_matrix`."""
        return self._matrix(base_point, "cometric")

    def _require_real(self, name: str) -> None:
        if self.field == "complex":
            raise NotImplementedError(
                f"{name} of complex matrices: these are not there, see docs/complex.md; exp, log, dist, Hessian and "
                "curvature are. The metric on [[Re X, −Im X], [Im X, Re X]], real matrices of twice the size, has them."
            )

    def _matrix(self, base_point: Any, operator: str) -> Any:
        basis = self._basis(base_point)
        images = getattr(self.frame(base_point[..., None, :, :]), operator)(basis)
        matrix = gs.reshape(images, (*base_point.shape[:-2], len(basis), len(basis)))
        return gs.moveaxis(matrix, -1, -2) if self.field == "complex" else matrix  # rows are images of the basis

    def _basis(self, like: Any) -> Any:
        """Return the matrix units, row by row, shape=[mn, m, n]."""
        size = math.prod(self._space.shape)
        return gs.cast(gs.reshape(gs.eye(size), (size, *self._space.shape)), like.dtype)

    def christoffels(self, base_point: Any) -> Any:
        r"""Christoffel symbols ``Γ^k_{ij}`` in the entries of the matrix, row by row.

        Returns shape=[..., mn, mn, mn]. The contravariant index comes first. Below full rank, the symbols of tangent
        parts, normal part included.
        """
        self._require_real("Christoffel symbols")
        basis = self._basis(base_point)
        size = len(basis)
        values = self.frame(base_point[..., None, None, :, :]).christoffel(basis[:, None], basis[None, :])
        return gs.moveaxis(gs.reshape(values, (*base_point.shape[:-2], size, size, size)), -1, -3)

    def geodesic_equation(self, state: Any) -> Any:
        """Right-hand side of the geodesic equation, ``(Ẋ, −Γ(Ẋ, Ẋ))``, shape=[..., 2, m, n]."""
        position, velocity = state[..., 0, :, :], state[..., 1, :, :]
        return gs.stack([velocity, -self.frame(position, velocity).christoffel(velocity, velocity)], axis=-3)

    # Distances, and fields along geodesics.

    def squared_dist(self, point_a: Any, point_b: Any) -> Any:
        """Squared length of the geodesic of ``log``, shape=[...]; twice differentiable."""
        if isinstance(self.log_solver, ShootingLog) and differentiates(self._surface, point_a, point_b):
            return squared_distance(Joined(self.log_solver), point_a, point_b)
        return super().squared_dist(point_a, point_b)

    def dist(self, point_a: Any, point_b: Any) -> Any:
        """Length of the geodesic of ``log``, shape=[...]. Its gradient at coinciding points is zero."""
        if isinstance(self.log_solver, ShootingLog) and differentiates(self._surface, point_a, point_b):
            return distance(Joined(self.log_solver), point_a, point_b)
        return super().dist(point_a, point_b)

    def parallel_transport(
        self, tangent_vec: Any, base_point: Any, direction: Any = None, end_point: Any = None
    ) -> Any:
        """Transport tangent vectors along geodesics, integrated to 1e-11 per step, shape=[..., m, n].

        Parameters
        ----------
        tangent_vec, base_point : array, shape=[..., m, n]
            Vectors and points.
        direction : array, shape=[..., m, n], optional
            Velocity of the geodesic, which is followed for unit time.
        end_point : array, shape=[..., m, n], optional
            End of the geodesic; used without ``direction``, and found by ``log``.

        Raises
        ------
        ValueError
            If both ``direction`` and ``end_point`` are missing.
        GeodesicError
            As ``exp`` and ``log``.
        """
        self._require_real("parallel transport")
        if direction is None:
            if end_point is None:
                raise ValueError("parallel transport needs a direction or an end_point, and both are None.")
            direction = self.log(end_point, base_point)
        x, v, w = _plain(base_point=base_point, direction=direction, tangent_vec=tangent_vec)
        return gs.cast(to_gs(jacobi_flow(x, v, self._surface, vectors=w[None]).vectors[0, 0]), common_type(tangent_vec))

    def jacobi_field(
        self, tangent_vec_a: Any, tangent_vec_b: Any, base_point: Any, direction: Any, t: float = 1.0
    ) -> tuple[Any, Any]:
        """Jacobi field J with ``J(0) = A`` and ``DJ/dt(0) = B`` along the geodesic with velocity ``direction``.

        Returns ``J(t)`` and ``DJ/dt(t)``, shape=[..., m, n] each. With ``A = 0``, ``J(t)`` is t times the derivative of
        the exponential map at ``t direction`` along B.

        Raises
        ------
        GeodesicError
            As ``exp``.
        """
        self._require_real("Jacobi fields")
        arrays = _plain(
            base_point=base_point, direction=direction, tangent_vec_a=tangent_vec_a, tangent_vec_b=tangent_vec_b
        )
        x, v, a, b = arrays
        if t == 0:
            return to_gs(a), to_gs(b)
        flow = jacobi_flow(x, t * v, self._surface, a[None], t * b[None])
        return to_gs(flow.fields[0, 0]), to_gs(flow.rates[0, 0] / t)

    def conjugate_time(self, tangent_vec: Any, base_point: Any, t_max: float = 1.0) -> Any:
        """First time up to ``t_max`` at which geodesics meet a conjugate point of their start, or ``inf``, shape=[...].

        Geodesics are locally shortest up to that time, and no further; see
        :func:`dlngeo.matrices.jacobi.conjugate_time`.

        Raises
        ------
        GeodesicError
            If a geodesic ends before ``t_max``.
        """
        self._require_real("conjugate points")
        x, v = _plain(base_point=base_point, tangent_vec=tangent_vec)
        times = np.empty(x.shape[:-2])
        for i in np.ndindex(times.shape):
            times[i] = conjugate_time(x[i], v[i], self._surface, t_max, self._tangent_space(x[i]))
        return to_gs(times)

    def minimality(self, point: Any, base_point: Any) -> Minimality:
        """Tell whether the geodesic that ``log`` and ``dist`` take between two points is shortest.

        Parameters
        ----------
        point, base_point : array, shape=[m, n]
            End and start.

        Returns
        -------
        Minimality
            Status ``"shortest"`` (proved by a lower bound of the distance), ``"locally shortest"`` or ``"passes a
            conjugate point"``; length, lower bound and first conjugate time.

        Raises
        ------
        ValueError
            If a batch is given.
        GeodesicError
            As ``log``.
        """
        self._require_real("minimality")
        x, y = _plain(base_point=base_point, point=point)
        if x.ndim > 2:
            raise ValueError(f"minimality is told of one pair of points, got shape {x.shape}; loop over pairs.")
        [v] = _plain(log=self.log(point, base_point))
        return minimality(x, y, v, self._surface, self._tangent_space(x))

    def _tangent_space(self, x: np.ndarray) -> np.ndarray:
        """Basis of the tangent space of the space, which may be totally geodesic among the matrices of its rank."""
        basis = self._surface.basis(x)[0]
        if self._space.dim == len(basis):
            return basis
        [kept] = _plain(basis=self._space.to_tangent(to_gs(basis), to_gs(x)))
        gram = self._surface.inner(x, basis[:, None], kept)
        vectors = np.linalg.eigh((gram + gram.T) / 2)[1][:, -self._space.dim :]
        return np.tensordot(vectors.T, basis, 1)

    def gradient(self, euclidean_gradient: Any, base_point: Any) -> Any:
        """Riemannian gradient ``A_X(E′(X))``, shape=[..., m, n]."""
        return self.frame(base_point, euclidean_gradient).cometric(euclidean_gradient)

    def hessian(self, tangent_vec: Any, euclidean_gradient: Any, euclidean_hessian: Any, base_point: Any) -> Any:
        """Riemannian Hessian ``∇_Z grad E`` from Euclidean derivatives, shape=[..., m, n]."""
        frame = self.frame(base_point, tangent_vec, euclidean_gradient, euclidean_hessian)
        return frame.hessian(tangent_vec, euclidean_gradient, euclidean_hessian)

    def riemann_tensor(self, base_point: Any) -> Any:
        r"""Curvature tensor ``R_{ijk}^l`` in the entries of the matrix, row by row.

        Returns shape=[..., mn, mn, mn, mn]. ``R[..., i, j, k, l]`` is component l of ``R(X_j, X_k)X_i``, the index
        order of geomstats. Below full rank, that of tangential parts.
        """
        self._require_real("components of the curvature tensor")
        basis = self._basis(base_point)
        size = len(basis)
        curvature = self._curvature(base_point[..., None, None, :, :])
        values = gs.stack([curvature.apply(basis[:, None], basis[None, :], vector) for vector in basis], axis=-5)
        return gs.reshape(values, (*base_point.shape[:-2], size, size, size, size))

    def curvature(self, tangent_vec_a: Any, tangent_vec_b: Any, tangent_vec_c: Any, base_point: Any) -> Any:
        """Curvature operator ``R(A, B)C = ∇_A∇_B C − ∇_B∇_A C − ∇_{[A, B]} C`` of :mod:`dlngeo.matrices.curvature`."""
        return self._curvature(base_point).apply(tangent_vec_a, tangent_vec_b, tangent_vec_c)

    def sectional_curvature(self, tangent_vec_a: Any, tangent_vec_b: Any, base_point: Any) -> Any:
        """Sectional curvature of the plane of two tangent vectors, shape=[...].

        Raises
        ------
        ValueError
            If the vectors are linearly dependent, up to rounding.
        """
        return self._curvature(base_point).sectional(tangent_vec_a, tangent_vec_b)

    def ricci_tensor(self, base_point: Any) -> Any:
        """Ricci tensor in the entries of the matrix, row by row.

        Returns shape=[..., mn, mn]. Symmetric; below full rank zero on normal vectors.
        """
        self._require_real("components of the Ricci tensor")
        basis = self._basis(base_point)
        values = self._curvature(base_point[..., None, :, :]).ricci_lower(basis)
        return gs.reshape(values, (*base_point.shape[:-2], len(basis), len(basis)))

    def scalar_curvature(self, base_point: Any) -> Any:
        """Scalar curvature, the trace of the Ricci tensor, shape=[...]."""
        return self._curvature(base_point).scalar()

    def _curvature(self, base_point: Any) -> Curvature:
        return Curvature(self.frame(base_point))

    def log_volume_density(self, base_point: Any) -> Any:
        """Logarithm of the Riemannian volume density against Lebesgue (below full rank, Hausdorff) measure.

        Returns shape=[...]. ``½ log det g``.
        """
        return self.frame(base_point).log_volume_density()

    def brownian_drift(self, base_point: Any) -> Any:
        """Itô drift b of Brownian motion, ``dX = A_X^{1/2} dB + ½ b dt``, with generator ``½Δ``.

        Returns shape=[..., m, n]. Drift; see :meth:`dlngeo.matrices.frame.Frame.ito_drift`.
        """
        return self.frame(base_point).ito_drift()

    def random_gaussian_tangent_vec(self, base_point: Any, n_samples: int = 1, rng: Any = None) -> Any:
        """Sample the centred Gaussian whose covariance is the cometric, ``N(0, g⁻¹)``: white noise of the metric.

        Returns shape=[..., m, n] or [n_samples, ..., m, n].
        """
        noise = draw((*batch(n_samples), *base_point.shape), rng, self.field)
        return self.frame(base_point).half_power(gs.cast(noise, base_point.dtype))


def _plain(**arrays: Any) -> list[np.ndarray]:
    """NumPy arrays of one shape."""
    plain = np.broadcast_arrays(*(untraced(array, name) for name, array in arrays.items()))
    return [np.array(array) for array in plain]


class DLNMetric(SpectralMetric):
    r"""Metric ``g_N`` of the deep linear network of depth N.

    Training ``X = W_N ⋯ W_1`` by gradient descent from balanced weights is the gradient flow of this metric,

    .. math:: \dot X = -A_{N,X}(E'(X)), \quad A_{N,X}(Z) = \sum_{p=1}^{N} (XX^\top)^{(N-p)/N} Z (X^\top X)^{(p-1)/N}.

    Depth 1 is the Frobenius metric; depth 2 on symmetric positive definite matrices is twice the
    Bures–Wasserstein metric; infinite depth is the limit of the normalised metric.

    Parameters
    ----------
    space : geomstats Manifold
        Space of real matrices, see :class:`SpectralMetric`.
    depth : float
        Depth N, real, at least 1, or ``inf``.
    normalized : bool
        Divide the cometric by N. Infinite depth always is normalised.

    See Also
    --------
    dlngeo.geomstats.SpectralMetric
    dlngeo.geomstats.FixedRankMatrices
    dlngeo.FixedRank

    References
    ----------
    .. [1] G. Menon, "The geometry of the deep linear network", arXiv:2411.09004.
    .. [2] B. Bah, H. Rauhut, U. Terstiege, M. Westdickenberg, "Learning deep linear neural networks: Riemannian
       gradient flows and convergence to global minimizers", Information and Inference 11 (2022), arXiv:1910.05505.

    Examples
    --------
    >>> from geomstats.geometry.general_linear import GeneralLinear
    >>> space = GeneralLinear(3, equip=False)
    >>> space.equip_with_metric(DLNMetric, depth=4).metric.depth
    4.0
    """

    def __init__(self, space: Any, depth: float = 2, normalized: bool = False) -> None:
        super().__init__(space, of_depth(depth, normalized))
