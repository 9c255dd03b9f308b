r"""The calculus of an invariant metric at one point, in its SVD frame.

Matrices are real or complex; over the complex numbers ``ᵀ`` is the conjugate transpose, and inner products are real
parts. At ``X = U Σ Vᵀ`` of rank r, with shape m×n, every matrix ``Z`` has the blocks

.. math:: Z = U M V^\top + Z_l V^\top + U Z_r^\top + Z_\perp, \qquad U^\top Z_l = 0,\; V^\top Z_r = 0,

of which the last, normal one is no tangent vector of the rank-r matrices and is annihilated by the cometric. A
:class:`Frame` factors the point once and expresses the cometric, the metric, the connection, the Hessian,
the volume and the Itô drift of a :class:`~dlngeo.Kernel` in these blocks: O(r³) for the kernel sums and O((m + n) r²)
for the rest. Square invertible matrices are the case m = n = r, in which only the core ``M`` is left.

All functions take NumPy or PyTorch arrays (any array-API namespace) and batch over leading axes. The null singular
values of an m×n matrix enter through ``φ_0l = φ(0, σ_l)``, except that the kernel of two null indices is zero: this
projects onto the manifold of rank r.

References
----------
.. [1] G. Menon, "The geometry of the deep linear network", arXiv:2411.09004.
.. [2] B. Vandereycken, "Low-rank matrix completion by Riemannian optimization", SIAM J. Optim. 23 (2013), for the
   blocks of tangent vectors of fixed-rank matrices.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any, Literal

from dlngeo import _check
from dlngeo._autodiff import has_values
from dlngeo._linalg import adjoint, inner, is_complex
from dlngeo.errors import KernelError, SingularError
from dlngeo.kernels import Kernel
from dlngeo.matrices._hessian import ConnectionTerm
from dlngeo.matrices.blocks import Blocks, combined

__all__ = ["Blocks", "Frame"]


class Frame:
    r"""A point ``X = U Σ Vᵀ`` and the kernel of a metric.

    Dense vectors Y and Z, covectors P and Q, Euclidean gradients ``E′`` and Hessian products ``D²E[Z]`` are arrays,
    shape=[..., m, n], and so are the values of methods that take them, unless they say otherwise.

    Parameters
    ----------
    u : array, shape=[..., m, r]
        Left singular vectors, orthonormal columns.
    s : array, shape=[..., r]
        Singular values, positive, in any order.
    vt : array, shape=[..., r, n]
        Right singular vectors, orthonormal rows.
    kernel : Kernel
        Kernel ``φ`` of the metric.

    Raises
    ------
    ValueError
        If the shapes do not fit together.

    See Also
    --------
    dlngeo.matrices.differentiable.frame_at
    dlngeo.Kernel

    Examples
    --------
    >>> import numpy as np
    >>> from dlngeo import DepthKernel
    >>> from dlngeo.matrices.frame import Frame
    >>> frame = Frame.at(np.diag([2.0, 1.0]), DepthKernel(2))
    >>> frame.cometric(np.ones((2, 2)))
    array([[4., 3.],
           [3., 2.]])
    """

    def __init__(self, u: Any, s: Any, vt: Any, kernel: Kernel) -> None:
        if not u.shape[-1] == s.shape[-1] == vt.shape[-2]:
            raise ValueError(
                f"the factors do not fit: u {tuple(u.shape)}, s {tuple(s.shape)}, vt {tuple(vt.shape)}; "
                "expected (..., m, r), (..., r), (..., r, n)."
            )
        self.u, self.s, self.vt = u, s, vt
        self.kernel = kernel
        self.m, self.n, self.rank = u.shape[-2], vt.shape[-1], s.shape[-1]
        #: The field of the matrices: it decides on the dimension, and so on volume and noise.
        self.field: Literal["real", "complex"] = "complex" if is_complex(u) else "real"

    @property
    def _xp(self) -> Any:
        return _check.floating(self.s)[0]  # a module, which a frame that is pickled cannot hold

    @classmethod
    def at(cls, x: Any, kernel: Kernel, rank: int | None = None) -> Frame:
        """Factor a dense matrix by one thin SVD.

        Parameters
        ----------
        x : array, shape=[..., m, n]
            Point.
        kernel : Kernel
            Kernel of the metric.
        rank : int, optional
            Rank r of the point; the trailing singular triples are dropped. Defaults to ``min(m, n)``.

        Raises
        ------
        ValueError
            If ``x`` is no matrix, has NaN or infinite entries, or ``rank`` exceeds ``min(m, n)``.
        NotImplementedError
            If JAX traces ``x``: its derivative of the SVD is NaN where singular values coincide.
        """
        if not has_values(x):
            raise NotImplementedError(
                "a frame cannot be traced by JAX, whose derivative of the SVD is NaN where singular values coincide; "
                "use dlngeo.matrices.differentiable.frame_at, which has closed forms."
            )
        xp, x = _check.floating(x, field="complex")
        sides = _check.sides(x)
        _check.finite(xp, x, "the point")
        if rank is not None:
            rank = _check.rank(rank, *sides)
        u, s, vt = xp.linalg.svd(x, full_matrices=False)
        if rank is not None and rank < s.shape[-1]:
            u, s, vt = u[..., :, :rank], s[..., :rank], vt[..., :rank, :]
        return cls(u, s, vt, kernel)

    @property
    def point(self) -> Any:
        """The point as a dense matrix, shape=[..., m, n]."""
        return (self.u * self.s[..., None, :]) @ self.vt

    # The kernel and its divided difference, evaluated on first use. "null" stands for a vanishing singular value.

    @cached_property
    def phi(self) -> Any:
        """``φ(σ_k, σ_l)``, shape=[..., r, r]."""
        return self.kernel(self.s[..., :, None], self.s[..., None, :])

    @cached_property
    def phi_null(self) -> Any:
        """``φ(0, σ_l)``, shape=[..., r]."""
        return self.kernel(self._xp.zeros_like(self.s), self.s)

    @cached_property
    def psi(self) -> Any:
        """``ψ_j(k, l)``, shape=[..., r, r, r]."""
        s = self.s
        return self.kernel.divided_difference(s[..., :, None, None], s[..., None, :, None], s[..., None, None, :])

    @cached_property
    def _psi_to_null(self) -> Any:
        """``ψ_j(k, 0)``, shape=[..., r, r]."""
        s = self.s
        return self.kernel.divided_difference(s[..., :, None], s[..., None, :], self._xp.zeros_like(s)[..., None, :])

    @cached_property
    def _psi_of_null(self) -> Any:
        """``ψ_0(k, l)``, shape=[..., r, r]."""
        s = self.s
        return self.kernel.divided_difference(self._xp.zeros_like(s)[..., None, :], s[..., :, None], s[..., None, :])

    # Blocks.

    def split(self, z: Any) -> Blocks:
        """Blocks of a dense matrix; its normal part is projected out.

        Raises
        ------
        ValueError
            If it has another shape than the point.
        """
        v, ut, z = adjoint(self.vt), adjoint(self.u), self._vector(z, "the vector")
        if self.m == self.n == self.rank:
            return Blocks(ut @ z @ v, None, None)
        zv, utz = z @ v, ut @ z
        core = ut @ zv
        left = None if self.m == self.rank else zv - self.u @ core
        right = None if self.n == self.rank else adjoint(utz - core @ self.vt)
        return Blocks(core, left, right)

    def _vector(self, z: Any, name: str) -> Any:
        """Return a dense matrix as an array of numbers of the field of the point."""
        z = _check.matrices(_check.plain(z, name, self.field), self.m, self.n, name)
        return z if self.field == "real" or is_complex(z) else self._xp.astype(z, self.u.dtype)

    def assemble(self, blocks: Blocks) -> Any:
        """Dense matrix of blocks: the inverse of :meth:`split` on tangent vectors."""
        core, left, right = blocks
        z = self.u @ core
        z = z @ self.vt if left is None else (z + left) @ self.vt
        return z if right is None else z + self.u @ adjoint(right)

    def project(self, z: Any) -> Any:
        """Orthogonal projection of a dense matrix onto the tangent space, in the Frobenius metric."""
        if self.m == self.n == self.rank:
            return self._vector(z, "the vector") + self._xp.zeros_like(self.s[..., :1, None])
        return self.assemble(self.split(z))

    def scale(self, blocks: Blocks, power: float) -> Blocks:
        r"""Apply ``A^power``: multiply every block entry by ``φ^power``.

        The power is 1 for the cometric, −1 for the metric, ½ and −½ for their square roots.

        Raises
        ------
        SingularError
            If ``power`` is negative and the kernel vanishes, which it does only at a vanishing singular value.
        KernelError
            If it is not positive at positive singular values.
        """
        core, left, right = blocks
        rectangular = left is not None or right is not None
        if power < 0:
            self._require_positive(self.phi, self.phi_null if rectangular else None)
        core = core * (self.phi if power == 1 else self.phi**power)
        if rectangular:
            null = (self.phi_null if power == 1 else self.phi_null**power)[..., None, :]
            left = None if left is None else left * null
            right = None if right is None else right * null
        return Blocks(core, left, right)

    def _require_positive(self, phi: Any, null: Any) -> None:
        xp = self._xp
        if not bool(xp.all(phi > 0)):
            row, column = self.s[..., :, None], self.s[..., None, :]
            self._require_kernel(~(phi > 0) & (row > 0) & (column > 0), row, column, phi)
            raise SingularError(
                "the metric is infinite at a singular matrix: the smallest singular value is "
                f"{float(xp.min(self.s)):g}. Only the cometric is defined there; move to a point of full rank, "
                "or declare a lower rank."
            )
        if null is not None and not bool(xp.all(null > 0)):
            self._require_kernel(~(null >= 0), xp.zeros_like(self.s), self.s, null)
            raise SingularError(
                f"the metric of {self.kernel!r} is infinite in directions that leave the column or row space, so it "
                f"lives on square invertible matrices only, not on {self.m}×{self.n} matrices of rank {self.rank}; "
                "use a finite depth."
            )

    def _require_kernel(self, bad: Any, s: Any, t: Any, phi: Any) -> None:
        """Blame the kernel for bad values of φ, unless their squares leave the range of doubles."""
        xp, info = self._xp, self._xp.finfo(self.s.dtype)
        for value in (s, t):
            bad = bad & ((value == 0) | ((value > info.smallest_normal**0.5) & (value < info.max**0.5)))
        if bool(xp.any(bad)):
            s, t, phi = (float(xp.broadcast_to(value, bad.shape)[bad][0]) for value in (s, t, phi))
            raise KernelError(
                f"{self.kernel!r} is no kernel of a metric: φ({s:g}, {t:g}) is {phi:g}, but must be positive; "
                "print(dlngeo.check_kernel(kernel)) tells all that is wrong."
            )

    # The metric.

    def cometric(self, p: Any) -> Any:
        r"""Apply the cometric, ``A_X(P) = U[φ(σ_k, σ_l) ∘ (UᵀPV)]Vᵀ``; for P = E′(X) this is the gradient of E.

        At depth N this is ``Σ_p (XXᵀ)^{(N−p)/N} P (XᵀX)^{(p−1)/N}``.
        """
        return self.assemble(self.scale(self.split(p), 1))

    def metric(self, z: Any) -> Any:
        """Apply the metric: the momentum ``A_X⁻¹(Z)`` of a tangent vector."""
        return self.assemble(self.scale(self.split(z), -1))

    def half_power(self, z: Any) -> Any:
        """Apply ``A_X^{1/2}``: it maps white noise to the Gaussian ``N(0, g⁻¹)``."""
        return self.assemble(self.scale(self.split(z), 0.5))

    def inner(self, y: Any, z: Any) -> Any:
        """Inner product ``g_X(Y, Z) = Re Tr(Y* A⁻¹ Z)``, shape=[...]."""
        return self.pair(self.split(y), self.scale(self.split(z), -1))

    def pair(self, y: Blocks, p: Blocks) -> Any:
        """Real Frobenius pairing of two vectors given by blocks, shape=[...]."""
        return sum(inner(a, b) for a, b in zip(y, p, strict=True) if a is not None)

    # The connection.

    def hamiltonian_gradient(self, p: Blocks, q: Blocks | None = None) -> Blocks:
        r"""Gradient in X of the kinetic energy ``H(X, P) = ½⟨P, A_X P⟩``, or its polarisation in P and Q.

        .. math:: \nabla_X H = U(\Sigma C^V + C^U \Sigma)V^\top, \quad
            C^V_{kl} = \sum_j P_{jk} Q_{jl} \psi_j(k, l), \quad C^U_{kl} = \sum_j P_{kj} Q_{lj} \psi_j(k, l),

        symmetrised in P and Q, with the null indices included in every sum; its tangent part. Q defaults to P.
        """
        q = p if q is None else q
        # Transposes of one array are two objects, so whether the momenta are one is asked of the blocks.
        one = q is p
        columns = self._quadratic(p.core, q.core, p.left, q.left, one)
        rows = self._quadratic(adjoint(p.core), adjoint(q.core), p.right, q.right, one)
        s = self.s[..., None, :]
        core = self.s[..., :, None] * columns + rows * s
        left = right = None
        if p.left is not None:
            left = self._with_null(p.left, q.left, adjoint(p.core), adjoint(q.core), one) * s
        if p.right is not None:
            right = self._with_null(p.right, q.right, p.core, q.core, one) * s
        return Blocks(core, left, right)

    def _quadratic(self, p: Any, q: Any, p_null: Any, q_null: Any, one: bool) -> Any:
        """``½ Σ_j (p̄_jk q_jl + q̄_jk p_jl) ψ_j(k, l)``, j running over the core and the null rows."""
        total = self._xp.sum(p.conj()[..., :, :, None] * q[..., :, None, :] * self.psi, axis=-3)
        if p_null is not None:
            total = total + (adjoint(p_null) @ q_null) * self._psi_of_null
        return total if one else (total + adjoint(total)) / 2

    def _with_null(self, p_null: Any, q_null: Any, p: Any, q: Any, one: bool) -> Any:
        """``½ Σ_j (p_aj q_jk + q_aj p_jk) ψ_j(k, 0)`` for null rows a."""
        first = p_null @ (q * self._psi_to_null)
        return first if one else (first + q_null @ (p * self._psi_to_null)) / 2

    def cometric_derivative(self, z: Blocks, p: Blocks) -> Blocks:
        r"""Tangent part of ``(D_Z A)(P)``, the derivative of the cometric at fixed P with no normal part.

        .. math:: T_{kl} = \sum_j \psi_l(k, j) R^U_{kj} P_{jl} + \sum_j \psi_k(j, l) P_{kj} R^V_{jl}, \quad
            R^U = M\Sigma + \Sigma M^\top,\; R^V = \Sigma M + M^\top \Sigma,

        with the null indices included in every sum. :meth:`normal` gives the normal part of the result.
        """
        self._require_positive(self.phi, None)
        xp, psi = self._xp, self.psi
        row, column = self.s[..., :, None], self.s[..., None, :]
        ru = z.core * column + row * adjoint(z.core)
        rv = row * z.core + adjoint(z.core) * column
        # ψ_l(k, j) is psi[l, k, j] = psi[l, j, k]; ψ_k(j, l) is psi[k, j, l].
        core = xp.sum(xp.moveaxis(psi, -3, -1) * ru[..., :, :, None] * p.core[..., None, :, :], axis=-2)
        core = core + xp.sum(psi * p.core[..., :, :, None] * rv[..., None, :, :], axis=-2)
        left = right = None
        if z.left is not None:
            core = core + self._psi_to_null.mT * row * (adjoint(z.left) @ p.left)
            left = z.left @ (row * self._psi_to_null.mT * p.core) + p.left @ (self._psi_of_null * rv)
        if z.right is not None:
            core = core + self._psi_to_null * (adjoint(p.right) @ z.right) * column
            right = z.right @ (row * adjoint(self._psi_to_null * p.core)) + p.right @ (self._psi_of_null * ru)
        return Blocks(core, left, right)

    def normal(self, z: Blocks, p: Blocks) -> Any:
        r"""Evaluate the normal part of ``(D_Z A)(P)``, dense, shape=[..., m, n].

        .. math:: Z_l D P_r^\top + P_l D Z_r^\top, \qquad D = \operatorname{diag}(\varphi_{0l}/\sigma_l) .

        It is zero unless the rank is below both m and n.
        """
        if z.left is None or z.right is None:
            return self._xp.zeros_like(self.assemble(z) + self.assemble(p))
        ratio = (self.phi_null / self.s)[..., None, :]
        return (z.left * ratio) @ adjoint(p.right) + (p.left * ratio) @ adjoint(z.right)

    def christoffel(self, y: Any, z: Any) -> Any:
        r"""Christoffel map ``Γ(Y, Z)`` of the Levi-Civita connection in the ambient linear coordinates.

        .. math:: \Gamma(Z, Z) = -(D_Z A)(P) + A\,\nabla_X H(X, P), \qquad P = A^{-1} Z,

        polarised. Geodesics are ``Ẍ = −Γ(Ẋ, Ẋ)`` and covariant derivatives ``∇_Y Z = D_Y Z + Γ(Y, Z)``. Below full rank
        the value has a normal part, which bends geodesics along the manifold of rank r.
        """
        yb = self.split(y)
        zb = yb if z is y else self.split(z)
        py = self.scale(yb, -1)
        pz = py if z is y else self.scale(zb, -1)
        tangent = self.assemble(self.christoffel_blocks(yb, py, zb, pz))
        if yb.left is None or yb.right is None:
            return tangent
        return tangent - self.normal(yb, pz)  # symmetric in Y and Z, since P_l = Z_l/φ_0l and P_r = Z_r/φ_0l

    def christoffel_blocks(self, y: Blocks, py: Blocks, z: Blocks, pz: Blocks) -> Blocks:
        """Tangent part of ``Γ(Y, Z)`` for vectors with momenta ``py`` and ``pz``."""
        force = self.scale(self.hamiltonian_gradient(py, pz), 1)
        first = self.cometric_derivative(y, pz)
        second = first if y is z else self.cometric_derivative(z, py)
        return combined((1, force), (-0.5, first), (-0.5, second))

    def hessian_blocks(self, z: Blocks, g: Blocks, h: Blocks, g_right: Any = None, gt_left: Any = None) -> Blocks:
        r"""Riemannian Hessian ``∇_Z grad E`` from the Euclidean derivatives of E.

        .. math:: \operatorname{Hess} E[Z] = A(D^2E[Z]) + (D_Z A)(E') + \Gamma(Z, A E') .

        The blocks ``g`` and ``h`` are those of ``E′`` and ``D²E[Z]``. Where the rank is below m and n, the normal part
        of ``E′`` contributes too, by ``E′ Z_r``, shape=[..., m, r], and ``E′ᵀ Z_l``, shape=[..., n, r]: a factored
        caller never forms E′.
        """
        connection = self.scale(ConnectionTerm(self, g)(self.scale(z, -0.5)), 0.5)
        core, left, right = combined((1, self.scale(h, 1)), (1, connection))
        if left is not None and right is not None:
            ratio = (self.phi_null / self.s)[..., None, :]
            left = left + ratio * (g_right - self.u @ (adjoint(self.u) @ g_right))
            right = right + ratio * (gt_left - adjoint(self.vt) @ (self.vt @ gt_left))
        return Blocks(core, left, right)

    def hessian(self, z: Any, euclidean_gradient: Any, euclidean_hessian: Any) -> Any:
        """Riemannian Hessian from dense Euclidean derivatives; see :meth:`hessian_blocks`."""
        g, zb = self._vector(euclidean_gradient, "the gradient"), self.split(z)
        g_right = gt_left = None
        if zb.left is not None and zb.right is not None:
            g_right, gt_left = g @ zb.right, adjoint(g) @ zb.left
        return self.assemble(self.hessian_blocks(zb, self.split(g), self.split(euclidean_hessian), g_right, gt_left))

    # Volume and noise.

    def log_volume_density(self) -> Any:
        r"""Logarithm of the Riemannian volume against the Lebesgue (Hausdorff) measure, shape=[...].

        .. math:: \log\sqrt{\det g}
            = -\tfrac\beta2 \Big[\sum_{k,l} \log \varphi_{kl} + (m + n - 2r) \sum_k \log \varphi_{0k}\Big],

        β being 1 over the real and 2 over the complex numbers, where entries are pairs of real coordinates.
        """
        xp = self._xp
        null = self.phi_null if self.m + self.n > 2 * self.rank else None
        self._require_positive(self.phi, null)
        total = xp.sum(xp.log(self.phi), axis=(-2, -1))
        if null is not None:
            total = total + (self.m + self.n - 2 * self.rank) * xp.sum(xp.log(null), axis=-1)
        return -total / 2 if self.field == "real" else -total

    def ito_drift(self) -> Any:
        r"""Drift b of Brownian motion (generator ``½Δ``) in Itô form ``dX = A^{1/2} dB + ½ b dt``, shape=[..., m, n].

        ``b = U diag(b_k) Vᵀ`` with

        .. math:: b_k = 2\sigma_k \Big[\psi_k(k, k)
            + \sum_l \Big(\psi_k(k, l) - \frac{\varphi_{kk}}{\varphi_{kl}} \psi_l(k, k)\Big)
            + \frac{m + n - 2r}{2} \Big(\psi_k(k, 0) - \frac{\varphi_{kk}}{\varphi_{k0}} \psi_0(k, k)\Big)\Big],

        which is ``(N − 1) σ_k^{1−2/N}`` at depth N, at every rank. Over the complex numbers the first term is absent,
        and the others count twice: at depth N nothing is left, since the metric is Kähler and the entries of X are
        harmonic. It follows by matching the generator ``½Δ`` on functions of the singular values with second-order
        perturbation of the SVD. Below full rank it is the drift of the scheme that steps in the ambient space and
        truncates the SVD to rank r.
        """
        xp, s = self._xp, self.s
        codimension = self.m + self.n - 2 * self.rank
        self._require_positive(self.phi, self.phi_null if codimension else None)
        sk = s[..., :, None]
        psi = self.kernel.divided_difference
        phi_kk = self.kernel(s, s)
        towards = psi(sk, sk, s[..., None, :])  # ψ_k(k, l)
        slope = psi(s[..., None, :], sk, sk)  # ψ_l(k, k)
        total = xp.sum(towards - phi_kk[..., :, None] / self.phi * slope, axis=-1)
        if codimension:
            zero = xp.zeros_like(s)
            total = total + codimension / 2 * (psi(s, s, zero) - phi_kk / self.phi_null * psi(zero, s, s))
        total = psi(s, s, s) + total if self.field == "real" else 2 * total
        drift = (2 * s * total)[..., None, :]
        return (self.u * drift) @ self.vt
