r"""Jacobi fields and parallel vectors along geodesics of a kernel metric, and what follows from them.

A geodesic X with velocity V, Jacobi fields J with covariant rates ``K = DJ/dt``, and parallel vectors W solve

.. math:: \dot X = V, \quad \dot V = -\Gamma(V, V), \quad \dot J = K - \Gamma(V, J), \quad
    \dot K = -R(J, V)V - \Gamma(V, K), \quad \dot W = -\Gamma(V, W),

with the closed forms of :class:`~dlngeo.matrices.frame.Frame` and :class:`~dlngeo.matrices.curvature.Curvature`, at one
frame for all fields. For two Jacobi fields ``g(K₁, J₂) − g(J₁, K₂)`` is constant. Two things follow.

**Derivatives.** Let ``Y = exp_X(V)``, C be a covector at Y, and J the Jacobi field that ends with ``J(1) = 0`` and
``K(1) = −A_Y(C)``. The constant for J and the field of a variation ``δX, δV``, which begins with ``δX`` and
``δV + Γ(V, δX)``, is ``⟨C, δY⟩`` at the end, and at the beginning gives

.. math:: \langle C, \delta Y\rangle = \langle B, \delta V + \Gamma(V, \delta X)\rangle
    - \langle A_X^{-1} K(0), \delta X\rangle, \qquad B = A_X^{-1} J(0),

so one field along the reversed geodesic pulls a covector back. For the logarithm ``J(0)`` is given instead of ``K(1)``,
which is one linear system. Below full rank covectors are taken modulo those that vanish on tangent vectors.

**Conjugate points.** Let ``J_i`` vanish at 0, with independent ``K_i(0)``. The matrices ``P_ij = g(J_i, J_j)`` and
``Q_ij = g(J_i, K_j)`` are symmetric, and ``Q = AᵀSA``, ``P = AᵀA`` in a parallel orthonormal frame, where S solves the
equation of Riccati. On the way to the first conjugate point the least eigenvalue of S falls to −∞, and it returns
from +∞ [1]_: ``κP − Q`` is positive definite as long as all eigenvalues of S are below κ, and the first to change sign
does so at the conjugate point, however many fields vanish there at once.

References
----------
.. [1] M. P. do Carmo, "Riemannian Geometry", chapters 5 and 11.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.integrate import solve_ivp
from scipy.optimize import brentq

from dlngeo.errors import GeodesicError, SingularError
from dlngeo.matrices.blocks import Blocks, combined
from dlngeo.matrices.curvature import Curvature
from dlngeo.matrices.frame import Frame
from dlngeo.matrices.geodesics import KernelSurface
from dlngeo.shooting import shoot

__all__ = ["JacobiFlow", "conjugate_time", "jacobi_flow", "pull_back_exp", "pull_back_log"]

Array = NDArray[np.float64]

# Times at which a geodesic is searched for conjugate points, and the share of it where there is none by assumption: its
# curvature there would be 10,000 over the square of its length.
_SAMPLES, _FREE = 128, 4


class JacobiFlow(NamedTuple):
    """Geodesics with the fields along them, at the times asked for.

    ``points`` and ``velocities`` have shape=[t, ..., m, n]; ``fields``, their covariant ``rates`` and the parallel
    ``vectors`` shape=[t, k, ..., m, n].

    See Also
    --------
    dlngeo.matrices.jacobi.jacobi_flow

    Examples
    --------
    >>> import numpy as np
    >>> from dlngeo import DepthKernel
    >>> from dlngeo.matrices.geodesics import KernelSurface
    >>> from dlngeo.matrices.jacobi import jacobi_flow
    >>> x, v = np.array([[1.2, 0.3], [-0.2, 0.9]]), np.array([[0.0, 0.5], [0.1, 0.2]])
    >>> flow = jacobi_flow(x, v, KernelSurface(DepthKernel(3), 2), vectors=np.stack([v, np.eye(2)]), times=[0.5, 1.0])
    >>> flow.points.shape, flow.vectors.shape, bool(np.allclose(flow.vectors[:, 0], flow.velocities))
    ((2, 2, 2), (2, 2, 2, 2), True)
    """

    points: Array
    velocities: Array
    fields: Array
    rates: Array
    vectors: Array


def jacobi_flow(
    x: Array,
    v: Array,
    surface: KernelSurface,
    fields: Array | None = None,
    rates: Array | None = None,
    vectors: Array | None = None,
    times: Array | None = None,
    tolerance: float = 1e-11,
) -> JacobiFlow:
    """Carry Jacobi fields and parallel vectors along geodesics.

    Parameters
    ----------
    x, v : array, shape=[..., m, n]
        Initial points and velocities, of one shape. A batch is integrated as one system.
    surface : KernelSurface
        The manifold.
    fields, rates : array, shape=[j, ..., m, n], optional
        Initial values of Jacobi fields and of their covariant derivatives ``DJ/dt``, both or neither: tangent vectors.
    vectors : array, shape=[w, ..., m, n], optional
        Tangent vectors to transport.
    times : array, shape=[t], optional
        Increasing, not negative. Defaults to ``[1.0]``.
    tolerance : float
        Local error, relative to the size of each matrix.

    Returns
    -------
    JacobiFlow
        At the given times.

    Raises
    ------
    GeodesicError
        As :func:`dlngeo.shooting.shoot`.

    See Also
    --------
    dlngeo.matrices.jacobi.conjugate_time
    dlngeo.matrices.jacobi.pull_back_exp
    dlngeo.matrices.curvature.Curvature

    Examples
    --------
    >>> import numpy as np
    >>> from dlngeo import DepthKernel
    >>> from dlngeo.matrices.geodesics import KernelSurface
    >>> from dlngeo.matrices.jacobi import jacobi_flow
    >>> x, v = np.array([[1.2, 0.3], [-0.2, 0.9]]), np.array([[0.0, 0.5], [0.1, 0.2]])
    >>> flow = jacobi_flow(x, v, KernelSurface(DepthKernel(3), 2), fields=0 * v[None], rates=v[None], times=[0.5, 1.0])
    >>> bool(np.allclose(flow.fields[:, 0], [0.5 * flow.velocities[0], flow.velocities[1]]))  # the field tV
    True
    """
    times = np.ones(1) if times is None else np.asarray(times, float)
    none = np.empty((0, *x.shape))
    fields, rates = (none if a is None else a for a in (fields, rates))
    vectors = none if vectors is None else vectors
    shoot(x, v, surface, times[-1:], tolerance)  # refuses geodesics that end before
    count, curved = len(fields), len(fields) > 0
    start = np.concatenate([x[None], v[None], fields, rates, vectors])

    def slope(_: float, state: Array) -> Array:
        point, velocity, *rest = state.reshape(start.shape)
        frame = Frame.at(point, surface.kernel, surface.rank)
        moved = np.stack([velocity, *rest])
        change = -frame.christoffel(np.broadcast_to(velocity, moved.shape), moved)
        if curved:
            j, k = moved[1 : count + 1], moved[count + 1 : 2 * count + 1]
            along = np.broadcast_to(velocity, j.shape)
            change[1 : count + 1] += k
            change[count + 1 : 2 * count + 1] -= Curvature(frame).apply(j, along, along)
        return np.concatenate([velocity[None], change]).ravel()

    size = np.abs(start).max(axis=(-2, -1), keepdims=True)
    pair = np.maximum(size[2 : count + 2], size[count + 2 : 2 * count + 2])  # a field may begin at zero
    size[2 : count + 2] = size[count + 2 : 2 * count + 2] = pair
    atol = tolerance * np.maximum(np.broadcast_to(size, start.shape).ravel(), np.finfo(float).tiny)
    try:
        found = solve_ivp(
            slope, (0.0, times[-1]), start.ravel(), "DOP853", t_eval=times, rtol=max(tolerance, 3e-14), atol=atol
        )
    except (SingularError, np.linalg.LinAlgError) as error:
        raise _failed(str(error)) from None
    if not found.success:
        raise _failed(found.message)
    out = np.moveaxis(found.y, -1, 0).reshape(len(times), *start.shape)
    return JacobiFlow(out[:, 0], out[:, 1], *np.split(out[:, 2:], [count, 2 * count], axis=1))


def _failed(cause: str) -> GeodesicError:
    return GeodesicError(
        f"the fields along the geodesic could not be followed: {cause} It passes close to a singular matrix. Shorten "
        "the tangent vector.",
        status="singular",
    )


def pull_back_exp(
    x: Array, v: Array, end: tuple[Array, Array], covector: Array, surface: KernelSurface, tolerance: float = 1e-11
) -> tuple[Array, Array]:
    """Gradients in ``x`` and in ``v`` of ``⟨C, exp_x(v)⟩``, tangent below full rank, shape=[..., m, n] each.

    By one Jacobi field along the reversed geodesic, see the head of this module.

    Parameters
    ----------
    x, v : array, shape=[..., m, n]
        Points and velocities.
    end : pair of array
        The end points and velocities there, from :func:`dlngeo.shooting.shoot`.
    covector : array, shape=[..., m, n]
        Covectors C at the end points.

    See Also
    --------
    dlngeo.matrices.jacobi.pull_back_log
    dlngeo.matrices.jacobi.jacobi_flow

    Examples
    --------
    >>> import numpy as np
    >>> from dlngeo import DepthKernel
    >>> from dlngeo.matrices.geodesics import KernelSurface
    >>> from dlngeo.matrices.jacobi import pull_back_exp
    >>> x, v, c = np.eye(2), np.array([[0.0, 0.5], [0.1, 0.2]]), np.array([[1.0, 2.0], [3.0, 4.0]])
    >>> pulled = pull_back_exp(x, v, (x + v, v), c, KernelSurface(DepthKernel(1), 2))  # exp is X + V at depth 1
    >>> bool(np.allclose(pulled, [c, c]))
    True
    """
    y, final = end
    rate = Frame.at(y, surface.kernel, surface.rank).cometric(covector)
    # Backwards in time the rate changes its sign: K(1) = −A_Y(C) begins as A_Y(C).
    back = jacobi_flow(y, -final, surface, np.zeros((1, *x.shape)), rate[None], tolerance=tolerance)
    return _at_start(x, v, back.fields[0, 0], -back.rates[0, 0], surface)


def _at_start(x: Array, v: Array, j: Array, k: Array, surface: KernelSurface) -> tuple[Array, Array]:
    """Covectors ``Γ_Vᵀ B − A⁻¹K`` and ``B = A⁻¹J``; the transpose is that of ``Z ↦ Γ(V, Z)``."""
    frame = Frame.at(x, surface.kernel, surface.rank)
    vb, jb, kb = map(frame.split, (v, j, k))
    p, b, q = (frame.scale(z, -1) for z in (vb, jb, kb))
    turned = combined((0.5, frame.cometric_derivative(jb, p)), (-0.5, frame.cometric_derivative(vb, b)))
    in_point = combined((1, frame.scale(turned, -1)), (-1, frame.hamiltonian_gradient(b, p)), (-1, q))
    return frame.assemble(in_point), frame.assemble(b)


def pull_back_log(
    x: Array, v: Array, end: tuple[Array, Array], covector: Array, surface: KernelSurface, tolerance: float = 1e-11
) -> tuple[Array, Array]:
    """Gradients in ``x`` and in ``y`` of ``⟨C, log_x(y)⟩`` of one geodesic, tangent below full rank, shape=[m, n].

    Parameters
    ----------
    x, v : array, shape=[m, n]
        Point, and logarithm ``v``.
    end : pair of array
        ``y`` and the velocity there.
    covector : array, shape=[m, n]
        Covector C at x.

    Raises
    ------
    GeodesicError
        If the points are conjugate along the geodesic, to round-off: the logarithm is not differentiable.

    See Also
    --------
    dlngeo.matrices.jacobi.pull_back_exp
    dlngeo.matrices.jacobi.jacobi_flow

    Examples
    --------
    >>> import numpy as np
    >>> from dlngeo import DepthKernel
    >>> from dlngeo.matrices.geodesics import KernelSurface
    >>> from dlngeo.matrices.jacobi import pull_back_log
    >>> x, v, c = np.eye(2), np.array([[0.0, 0.5], [0.1, 0.2]]), np.array([[1.0, 2.0], [3.0, 4.0]])
    >>> pulled = pull_back_log(x, v, (x + v, v), c, KernelSurface(DepthKernel(1), 2))  # log is Y − X at depth 1
    >>> bool(np.allclose(pulled, [-c, c]))
    True
    """
    y, final = end
    basis, momenta = surface.basis(y)
    back = jacobi_flow(y, -final, surface, np.zeros_like(basis), basis, tolerance=tolerance)
    test = surface.basis(x)[1]
    matrix = np.einsum("imn,jmn->ij", test, back.fields[0])
    if not np.linalg.cond(matrix) < 1e12:
        raise GeodesicError(
            "the logarithm is not differentiable: the end points are conjugate along the geodesic. Move one of them.",
            status="singular",
        )
    frame = Frame.at(x, surface.kernel, surface.rank)
    weights = np.linalg.solve(matrix, np.einsum("imn,mn->i", test, frame.cometric(covector)))
    j, k = (np.tensordot(weights, a[0], 1) for a in (back.fields, back.rates))
    in_start = -_at_start(x, v, j, -k, surface)[0] + _turning(frame, v, covector)
    return in_start, np.einsum("i,imn->mn", weights, momenta)


def _turning(frame: Frame, v: Array, covector: Array) -> Array:
    """Gradient in X of the pairing of C with the normal part of a V kept tangent, ``X_l Σ⁻¹V_rᵀ + V_l Σ⁻¹X_rᵀ``."""
    vb = frame.split(v)
    if vb.left is None or vb.right is None:
        return np.zeros_like(v)
    normal = covector - frame.project(covector)
    sides = (side / frame.s for side in (normal @ vb.right, normal.T @ vb.left))
    return frame.assemble(Blocks(0 * vb.core, *sides))


def conjugate_time(
    x: Array, v: Array, surface: KernelSurface, end: float = 1.0, basis: Array | None = None, tolerance: float = 1e-10
) -> float:
    """First time up to ``end`` at which the geodesic meets a point conjugate to ``x``; infinite if there is none.

    There some Jacobi field vanishes that vanishes at ``x``. A geodesic is locally shortest up to that time, and no
    further. See the head of this module; the time is refined to 1e-9 of ``end``.

    Parameters
    ----------
    x, v : array, shape=[m, n]
        Point and velocity.
    surface : KernelSurface
        The manifold.
    end : float
        Last time.
    basis : array, shape=[dim, m, n], optional
        Independent tangent vectors at ``x``: rates of the fields looked at, such as the tangent space of a totally
        geodesic part. Defaults to all.

    Raises
    ------
    GeodesicError
        As :func:`dlngeo.shooting.shoot`.

    See Also
    --------
    dlngeo.matrices.minimality.minimality
    dlngeo.matrices.jacobi.jacobi_flow

    Examples
    --------
    >>> import numpy as np
    >>> from dlngeo import DepthKernel
    >>> from dlngeo.matrices.geodesics import KernelSurface
    >>> from dlngeo.matrices.jacobi import conjugate_time
    >>> x, v, w = np.array([[[1.0], [0.0], [0.0]], [[0.0], [8.0], [0.0]], [[0.0], [0.0], [1.0]]])
    >>> surface = KernelSurface(DepthKernel(16), 1)  # the cone 16 dλ² + λ²|du|²
    >>> time = conjugate_time(x, v, surface, basis=w[None], tolerance=1e-6)
    >>> round(time, 4)  # where u has turned by π, as tan(π/4) = 8t/4
    0.5
    """
    basis = surface.basis(x)[0] if basis is None else basis
    grid = np.linspace(0, end, _SAMPLES + 1)[_FREE:]
    kappa = 2 / grid[0]
    start = JacobiFlow(x, v, np.zeros_like(basis), basis, np.empty((0, *x.shape)))
    flow = _follow(start, surface, grid, tolerance)
    below = (np.linalg.eigvalsh(_form(flow, surface, kappa)) < 0).sum(axis=-1)
    if below[0]:
        raise GeodesicError(
            f"the curvature is too large to tell conjugate points before time {grid[0]:g}; shorten the time.",
            status="not converged",
        )
    for i in np.flatnonzero(np.diff(below) > 0):
        before = JacobiFlow(*(part[i] for part in flow))

        def eigenvalue(t: float, before: JacobiFlow = before, i: int = i) -> float:
            there = _follow(before, surface, np.array([t]), tolerance)
            return float(np.linalg.eigvalsh(_form(there, surface, kappa))[0, below[i]])

        t = float(brentq(eigenvalue, 0.0, grid[i + 1] - grid[i], xtol=1e-9 * end))
        there = _follow(before, surface, np.array([t]), tolerance)
        vector = np.linalg.eigh(_form(there, surface, kappa)[0])[1][:, below[i]]
        frame = Frame.at(there.points[0], surface.kernel, surface.rank)
        field, rate = (np.tensordot(vector, a[0], 1) for a in (there.fields, there.rates))
        # It may also be that the curvature makes an eigenvalue of S rise above κ.
        if frame.inner(field, field) < 1e-8 * end**2 * frame.inner(rate, rate):
            return float(grid[i]) + t
    return np.inf


def _follow(start: JacobiFlow, surface: KernelSurface, times: Array, tolerance: float) -> JacobiFlow:
    if times[-1] == 0:
        return JacobiFlow(*(part[None] for part in start))
    x, v, fields, rates, _ = start
    return jacobi_flow(x, v, surface, fields, rates, times=times, tolerance=tolerance)


def _form(flow: JacobiFlow, surface: KernelSurface, kappa: float) -> Array:
    """``κP − Q`` at each time, shape=[t, dim, dim]."""
    frame = Frame.at(flow.points[:, None], surface.kernel, surface.rank)
    form = np.einsum("timn,tjmn->tij", frame.metric(flow.fields), kappa * flow.fields - flow.rates)
    return (form + form.mT) / 2
