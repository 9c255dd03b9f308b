r"""The second-order retraction of an invariant metric, in factored form.

A tangent vector ``Z = U M Vᵀ + Z_l Vᵀ + U Z_rᵀ`` at ``X = U Σ Vᵀ`` of rank r lifts to balanced factors
``W_p = Q_p Λ Q_{p−1}ᵀ`` of inner widths r, with ``Λ = Σ^{1/N}``, as ``Ẇ_p = (W_N ⋯ W_{p+1})ᵀ A⁻¹Z (W_{p−1} ⋯ W_1)ᵀ``.
Multiplying the straight lines ``W_p + Ẇ_p`` gives a retraction

.. math:: R_X(Z) = \prod_{p=N}^{1} (W_p + \dot W_p),

of second order for ``g_N``: geodesics are images of horizontal geodesics of the balanced manifold [1]_, these leave
their straight lines by a normal vector of that manifold, and such normals lie in the kernel of the derivative of the
product.

With ``K = M/φ``, ``L = Z_l/φ_0`` and ``R = Z_r/φ_0`` the inner factors are
``Λ + Λ^{N−p} K Λ^{p−1} = Λ^{N−p} B Λ^{p−1}`` for ``B = Λ^{2−N} + K``, the outer ones ``(U B + L) Λ^{N−1}`` and
``Λ^{N−1} (B Vᵀ + Rᵀ)``, and the product telescopes to

.. math:: R_X(Z) = (U B + L)\,(\Sigma B)^{N-2}\,\Sigma\,(B V^\top + R^\top).

Since ``ΣB = Σ^{1/2} C Σ^{−1/2}`` with ``C = Λ² + Σ^{1/2} K Σ^{1/2}``, the powers of ``ΣB`` are those of ``C``, which
exist at real N, and at N → ∞ (metric normalised, core only) ``C^N`` becomes ``exp(log Σ² + Σ^{1/2} K Σ^{1/2})``. Of
complex matrices all transposes are conjugated.

Layers ``Q_p (x + c_p)^{1/2} Q_{p−1}ᵀ`` that are balanced up to multiples of the identity telescope alike, for
``Λ^{N−p} B Λ^{p−1}`` becomes ``D_{>p} [(x + c_p) Σ⁻¹ + K] D_{<p}`` with the products ``D`` of the other layers, and
``D_{<p} D_{>p−1} = Σ``: with ``C = x + Σ^{1/2} K Σ^{1/2}`` the core is ``Σ^{−1/2} ∏_p (C + c_p) Σ^{−1/2}``. The null
spaces, where layers with an offset do not vanish, are moved by the outer layers alone if these have none.

References
----------
.. [1] G. Menon, "The geometry of the deep linear network", arXiv:2411.09004, Theorems 10–12.
.. [2] B. Vandereycken, "Low-rank matrix completion by Riemannian optimization", SIAM J. Optim. 23 (2013).
.. [3] Y. Yamamoto, Y. Nakatsukasa, Y. Yanagisawa and T. Fukaya, "Roundoff error analysis of the CholeskyQR2
   algorithm", Electron. Trans. Numer. Anal. 44 (2015).
.. [4] P.-A. Absil, J. Malick, "Projection-like retractions on matrix manifolds", SIAM J. Optim. 22 (2012).
"""

from __future__ import annotations

import functools
import math

import numpy as np
import scipy.linalg
from scipy.linalg import lapack

from dlngeo._linalg import adjoint, combine, gram, is_complex
from dlngeo.compiled.complex_svd import graded_svd
from dlngeo.kernels import RelaxedDepthKernel
from dlngeo.kernels.check import require_conserved_rank
from dlngeo.matrices.frame import Blocks, Frame

__all__ = ["retract"]

Factors = tuple[np.ndarray, np.ndarray, np.ndarray]

# Columns of which the squares are normal numbers, and the condition, in the norm of the largest column sum, of a Gram
# matrix whose Cholesky factor is exact.
_SQUARES = 1e-140, 1e140
_WELL_CONDITIONED = 100.0
# Of real and of complex matrices.
_CHOLESKY = ((lapack.dpotrf, lapack.dpocon, lapack.dtrtri), (lapack.zpotrf, lapack.zpocon, lapack.ztrtri))


def retract(frame: Frame, z: Blocks) -> Factors:
    r"""Move from the point of a frame along a tangent vector, to second order in its length.

    Depth 1
        Truncated SVD of ``X + Z``, the metric projection onto the matrices of rank r [2]_.
    Finite depth
        ``(U B + L)(ΣB)^{N−2} Σ (B Vᵀ + Rᵀ)``, see :mod:`dlngeo.matrices.retraction`. At integer N it is defined for
        every Z, and singular values may cross zero. At other N it needs the power ``C^{N−2}``, which is real while no
        eigenvalue of ``C`` has reached the negative half-axis; for a longer step, the retraction of a general kernel is
        taken.
    Infinite depth
        ``U Σ^{−1/2} exp(log Σ² + Σ^{1/2} K Σ^{1/2}) Σ^{−1/2} Vᵀ``.
    Offsets between layers (:class:`~dlngeo.kernels.RelaxedDepthKernel`)
        ``(U Σ^{−1/2} C + L Σ^{1/2}) ∏ (C + c_p) (C Σ^{−1/2} Vᵀ + Σ^{1/2} Rᵀ)``, the product over all layers but two of
        the least offset; at full rank that of the outer layers need not be zero.
    A kernel without depth
        ``X + Z − ½ P_T Γ(Z, Z)``, the geodesic to second order, made of rank r by the normal term of an orthographic
        retraction [4]_; by the metric projection where singular vectors turn by more than 45°.

    The cost is O((m + n) r²) and O(r³ log N), flat in depth; nothing of size m×n is formed. At integer depth, and for
    steps that change each balanced factor by less than its singular values, all singular values keep their digits,
    however far apart. Otherwise the error is that of multiplying the factors out, entry by entry: steps that are small
    against each singular value keep the digits of all of them; where large singular vectors turn, far smaller values
    lose digits.

    All arrays are of NumPy, without batch axes. The end point ``u, s, vt`` has its singular values in descending order,
    with zeros only where the rank dropped or a value fell below the smallest double.

    Raises
    ------
    ValueError
        If the kernel is that of layers with offsets whose flow does not conserve a rank below both sides.
    OverflowError
        If the step is so long that the end point is not finite in double precision, or that a singular value is lost
        to zero beside others that have grown by more than 1e16.

    See Also
    --------
    dlngeo.matrices.factored.shoot_factored
    dlngeo.weights.projections.retract

    Examples
    --------
    >>> import numpy as np
    >>> from dlngeo import DepthKernel
    >>> from dlngeo.matrices.factored import shoot_factored
    >>> from dlngeo.matrices.frame import Frame
    >>> from dlngeo.matrices.retraction import retract
    >>> frame = Frame.at(np.array([[1.2, 0.3], [-0.2, 0.9]]), DepthKernel(3))
    >>> steps = [frame.split(h * np.array([[0.0, 1.0], [0.5, 1.0]])) for h in (0.02, 0.01)]
    >>> ends = [[(u * s) @ vt for u, s, vt in (move(frame, z) for move in (retract, shoot_factored))] for z in steps]
    >>> errors = [np.linalg.norm(a - b) for a, b in ends]
    >>> bool(7 < errors[0] / errors[1] < 9)  # half the step, an eighth of the error
    True
    """
    kernel, end = frame.kernel, None
    with np.errstate(over="ignore", invalid="ignore", divide="ignore", under="ignore"):
        depth = kernel.depth
        if isinstance(kernel, RelaxedDepthKernel) and depth is None:
            end = _by_offsets(frame, z, kernel)
        elif depth is not None and math.isinf(depth):
            end = _by_exponential(frame, z)
        elif depth is not None and depth != 1:
            end = _by_halves(frame, z, int(depth)) if depth.is_integer() else None
            end = _by_factors(frame, z, depth) if end is None else end
        end = _by_projection(frame, z) if end is None else end
    if not end[1].min() and end[1].max() * np.finfo(float).eps > frame.s.max():
        raise OverflowError(
            f"the step is so long that the largest singular value goes from {frame.s.max():.1e} to {end[1].max():.1e}, "
            "and others are lost to rounding; shorten the step."
        )
    return end


def _by_halves(frame: Frame, z: Blocks, depth: int) -> Factors | None:
    """Return the product of balanced factors of integer depth, split in the middle; None if a half overflows.

    With ``a = ⌊N/2⌋`` and the outer factor ``F = Λ + KΛ^{N−1}`` the product is ``G Λ^{2a} … Λ^{2a} G̃ᵀ``,
    ``G = Π_{j<a} Λ^{2j} (FΛ⁻¹) Λ^{−2j}``. All factors of G are the identity plus terms of the order of the step, so
    that for short steps nothing cancels and each singular value keeps its digits, however far below the others. Long
    steps lose some, but fewer than in the product of all factors.
    """
    order = np.argsort(frame.s)[::-1]
    s, place = frame.s[order], np.argsort(order)
    lam, power = s ** (1 / depth), s ** ((depth - 1) / depth)
    scale = depth / frame.kernel.at_one  # see _by_factors
    momentum = (z.core / (scale * frame.phi))[np.ix_(order, order)]

    def half(basis: np.ndarray, momentum: np.ndarray, null: np.ndarray | None) -> np.ndarray:
        factor = np.eye(s.size) + momentum * (power / lam)
        graded = np.eye(s.size) if depth < 4 else _conjugate(_graded_power(factor, lam, depth // 2 - 1), lam, 1)
        # Small matrices take the order of the columns of tall ones, and are multiplied first.
        terms = [(basis, (factor @ graded)[place])]
        if null is not None:
            terms.append((null, (graded / s[:, None])[place]))
        return combine(*terms)

    middle = np.diag(s)
    if depth % 2 == 1:
        middle = middle + power[:, None] * momentum * power
    try:
        return _refactor(half(frame.u, momentum, z.left), middle, half(adjoint(frame.vt), adjoint(momentum), z.right))
    except OverflowError:
        return None


def _graded_power(factor: np.ndarray, lam: np.ndarray, count: int) -> np.ndarray:
    """``Π_{j<count} Λ^{2j} factor Λ^{−2j}``, by squaring."""
    result, done, power = np.eye(lam.size), 0, 1
    while count:
        if count % 2:
            result = result @ _conjugate(factor, lam, done)
            done += power
        count //= 2
        if count:
            factor = factor @ _conjugate(factor, lam, power)
            power *= 2
    return result


def _conjugate(a: np.ndarray, lam: np.ndarray, power: int) -> np.ndarray:
    """``Λ^{2 power} A Λ^{−2 power}``, zero where A is."""
    return np.where(a == 0, 0.0, a * (lam[:, None] / lam) ** (2 * power))


def _by_factors(frame: Frame, z: Blocks, depth: float) -> Factors | None:
    """Return the product of balanced factors; None where its power does not exist."""
    s = frame.s
    # A constant multiple of a metric has the same geodesics, so the retraction is that of the unnormalised kernel.
    scale = depth / frame.kernel.at_one
    root = np.sqrt(s)
    c = np.diag(s ** (2 / depth)) + root[:, None] * (z.core / (scale * frame.phi)) * root
    power = _power(c, depth - 2)
    if power is None:
        return None
    outer = frame.u @ (c / root[:, None])
    inner = adjoint(frame.vt) @ adjoint(c / root)
    if z.left is not None:
        outer += z.left * (root / (scale * frame.phi_null))
    if z.right is not None:
        inner += z.right * (root / (scale * frame.phi_null))
    # Columns in descending order, so that the QR factors are graded and lose nothing to the largest of them.
    order = np.argsort(s)[::-1]
    return _refactor(outer[:, order], power[np.ix_(order, order)], inner[:, order])


def _power(c: np.ndarray, exponent: float) -> np.ndarray | None:
    """Power of a square matrix; None if it does not exist because of an eigenvalue on the half-axis (−∞, 0].

    That of a complex matrix jumps across the half-axis: it is None once an eigenvalue has left the right half-plane.
    """
    if exponent.is_integer() and exponent >= 0:
        return np.linalg.matrix_power(c, int(exponent))
    _require_finite(c)
    eigenvalues = np.linalg.eigvals(c)
    crossed = eigenvalues.real <= 0 if is_complex(c) else (eigenvalues.imag == 0) & (eigenvalues.real <= 0)
    if np.any(crossed):
        return None
    # Real but for roundoff, by the check above; its absolute tolerance inside SciPy wants a matrix of order one.
    size = np.max(np.abs(c))
    power = scipy.linalg.fractional_matrix_power(c / size, exponent) * size**exponent
    return power if is_complex(c) else np.real(power)


def _by_offsets(frame: Frame, z: Blocks, kernel: RelaxedDepthKernel) -> Factors:
    """Return the product of layers with offsets."""
    # The outer layers take the least offsets, the least of them where there is a null space.
    middle, (one, other) = kernel.offsets[:-2], kernel.offsets[-2:]
    at_left, at_right = (other, one) if z.right is None else (one, other)
    if z.left is not None and z.right is not None:
        require_conserved_rank(kernel, frame.m, frame.n, frame.rank)
    root, unit = np.sqrt(frame.s), kernel.unit
    c = np.diag(kernel.shared(frame.s)) + root[:, None] * (z.core / (unit * frame.phi)) * root
    eye = np.eye(root.size)
    outer = frame.u @ ((c + at_left * eye) / root[:, None])
    inner = adjoint(frame.vt) @ adjoint((c + at_right * eye) / root)
    if z.left is not None:
        outer += z.left * (root / (unit * frame.phi_null))
    if z.right is not None:
        inner += z.right * (root / (unit * frame.phi_null))
    order = np.argsort(frame.s)[::-1]
    power = functools.reduce(np.matmul, (c + offset * eye for offset in middle), eye)
    return _refactor(outer[:, order], power[np.ix_(order, order)], inner[:, order])


def _by_exponential(frame: Frame, z: Blocks) -> Factors:
    root = np.sqrt(frame.s)
    a = np.diag(2 * np.log(frame.s)) + root[:, None] * (z.core / (frame.phi / frame.kernel.at_one)) * root
    _require_finite(a)
    # The largest exponent is taken out, so that the exponential overflows only if the point does.
    top = np.max(np.diagonal(a).real)
    middle = scipy.linalg.expm(a - top * np.eye(root.size)) / np.outer(root, root)
    return _refactor(frame.u, middle * np.exp(top), adjoint(frame.vt))


def _by_projection(frame: Frame, z: Blocks) -> Factors:
    """``X + Z − ½ P_T Γ(Z, Z)``, brought to rank r by turning the singular vectors or by truncating the SVD [2]_.

    The normal part of the acceleration is that of every curve of rank r with velocity Z: projecting supplies it.
    """
    core, left, right = z
    if frame.kernel.depth != 1:  # whose metric is flat
        momentum = frame.scale(z, -1)
        bend = frame.christoffel_blocks(z, momentum, z, momentum)
        core = core - bend.core / 2
        left = None if left is None else left - bend.left / 2
        right = None if right is None else right - bend.right / 2
        end = None if left is None or right is None else _by_turning(frame, np.diag(frame.s) + core, left, right)
        if end is not None:
            return end
    # X + Z = [U, Z_l] T [V, Z_r]ᵀ, with a basis of U alone where nothing is orthogonal to U, and likewise for V.
    r, eye = frame.rank, np.eye(frame.rank)
    middle = np.zeros((r if left is None else 2 * r, r if right is None else 2 * r), core.dtype)
    middle[:r, :r] = np.diag(frame.s) + core
    middle[r:, :r], middle[:r, r:] = eye[: len(middle) - r], eye[:, : middle.shape[1] - r]
    # QR of [U, Z_l] rather than of Z_l: the basis stays orthonormal where m < 2r or Z_l loses rank.
    v = adjoint(frame.vt)
    q_left, r_left = _qr(frame.u if left is None else np.hstack((frame.u, left)))
    q_right, r_right = _qr(v if right is None else np.hstack((v, right)))
    middle = r_left @ middle @ adjoint(r_right)
    _require_finite(middle)
    a, s, bt = np.linalg.svd(middle, full_matrices=False)
    return combine((q_left, a[:, :r])), s[:r], adjoint(combine((q_right, adjoint(bt[:r]))))


def _by_turning(frame: Frame, middle: np.ndarray, left: np.ndarray, right: np.ndarray) -> Factors | None:
    """``(U + Z_l T⁻¹) T (V + Z_r T⁻ᵀ)ᵀ``, ``T = Σ + M``; None where singular vectors turn by more than 45°.

    It is ``X + Z`` and the normal term ``Z_l T⁻¹ Z_rᵀ`` that makes the rank r, and so a projection to second order
    [4]_. The nearest matrix of rank r keeps no singular value far below that term; this one does.
    """
    try:
        turned = (
            adjoint(np.linalg.solve(adjoint(middle), adjoint(left))),
            adjoint(np.linalg.solve(middle, adjoint(right))),
        )
    except np.linalg.LinAlgError:
        return None
    if not max(map(np.linalg.norm, turned)) < 1:
        return None
    return _refactor(frame.u + turned[0], middle, adjoint(frame.vt) + turned[1])


def _refactor(left: np.ndarray, middle: np.ndarray, right: np.ndarray) -> Factors:
    """SVD of ``left middle right*``, of shapes (m, r), (r, r) and (n, r)."""
    q_left, c_left, r_left = _orthonormalised(left)
    q_right, c_right, r_right = _orthonormalised(right)
    a, s, bt = _svd(r_left @ middle @ adjoint(r_right))
    return combine((q_left, c_left @ a)), s, adjoint(combine((q_right, c_right @ adjoint(bt))))


def _orthonormalised(a: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """QR factors of a tall matrix as ``(Q C) R``, with a small ``C`` not yet multiplied.

    Where the columns, scaled to norm 1, are well-conditioned, as after every step that is short against the singular
    values, Cholesky factors of two Gram matrices give them as exactly as reflections do, in a third of the time [3]_.
    """
    gram_matrix = gram(a, a)
    norms = np.sqrt(np.diagonal(gram_matrix).real)
    if ((norms > _SQUARES[0]) & (norms < _SQUARES[1])).all():
        # The routines of LAPACK themselves: at ranks of some tens their wrappers take several times as long.
        scaled = gram_matrix / (norms[:, None] * norms)
        potrf, pocon, trtri = _CHOLESKY[is_complex(a)]
        first, failed = potrf(scaled)
        if not failed and pocon(first, np.abs(scaled).sum(axis=0).max())[0] * _WELL_CONDITIONED > 1:
            q = combine((a, trtri(first)[0] / norms[:, None]))
            second = potrf(gram(q, q))[0]
            return q, trtri(second)[0], second @ (first * norms)
    q, r = _qr(a)
    return q, np.eye(norms.size), r


def _qr(a: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    _require_finite(a)
    return np.linalg.qr(a)


def _svd(a: np.ndarray) -> Factors:
    """SVD by Jacobi rotations, which resolve small singular values of graded matrices to their own digits.

    After N steps of λ the singular values λ^N span many orders of magnitude; an SVD that is accurate relative to the
    largest of them would lose the others.
    """
    _require_finite(a)
    if is_complex(a):
        return graded_svd(a)
    values, u, v, work, _, info = lapack.dgejsv(a, joba=2, jobp=0)
    if info != 0:
        return np.linalg.svd(a, full_matrices=False)
    return u, values * (work[0] / work[1]), v.T


def _require_finite(a: np.ndarray) -> None:
    if not np.isfinite(a).all():
        raise OverflowError("the step overflows: its end point is not finite in double precision; shorten the step.")
