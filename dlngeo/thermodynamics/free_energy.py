r"""Entropy and free energy of matrices under the deep linear network.

The entropy ``S(X)`` is the logarithm of the volume of the orbit of all balanced weights with product X [1]_; see
:mod:`dlngeo.thermodynamics.entropy` for the formula, its constants, and what it means at real and at infinite depth.
The free energy at the inverse temperature β is ``F = E − S/β``: isotropic noise on the balanced weights projects to
Riemannian Langevin dynamics of F, of stationary law ``e^{−βF} dvol_g`` [2]_.

Two theorems on one vector field [1]_. Minus the gradient of S in the metric ``g_N`` is the image of the mean curvature
vector of the orbit (the trace of its second fundamental form): the orbit grows fastest along ``grad S``, and
shrinks along its mean curvature. And noise tangent to the orbit alone moves X along ``grad S``, without noise.

S is a smooth function of X wherever all singular values are positive, coinciding ones included. Functions here take
NumPy, PyTorch or JAX arrays, batch over leading axes, and are differentiated in closed form, twice, where autograd,
PyTorch or JAX traces their argument; see :mod:`dlngeo.matrices.differentiable`.

References
----------
.. [1] G. Menon, T. Yu, "An entropy formula for the deep linear network", arXiv:2509.09088.
.. [2] A. Chen, T. Kotwal, G. Menon, "Entropic regularization in the deep linear network", arXiv:2512.06137.
.. [3] A. S. Lewis, H. S. Sendov, "Twice differentiable spectral functions", SIAM J. Matrix Anal. Appl. 23 (2001).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from dlngeo import _check
from dlngeo._autodiff import Operation, has_values, in_jax, untraced
from dlngeo._linalg import adjoint, is_complex
from dlngeo.kernels import Kernel
from dlngeo.matrices.frame import Blocks, Frame
from dlngeo.thermodynamics.entropy import SpectralEntropy
from dlngeo.thermodynamics.kernel_entropy import KernelEntropy

__all__ = [
    "entropy",
    "entropy_gradient",
    "entropy_hessian",
    "free_energy",
    "free_energy_gradient",
    "orbit_volume",
    "spectral_hessian",
]


def entropy(
    x: Any,
    depth: float | None = None,
    rank: int | None = None,
    widths: Sequence[int] | None = None,
    *,
    kernel: Kernel | None = None,
) -> Any:
    r"""Entropy of a matrix: the logarithm of the volume of its orbit of balanced weights [1]_.

    .. math:: S(X) = \sum_{p=1}^{N-1} \Big[\log\frac{c_{d_p}}{c_{d_p - r}} + (d_p - r) \sum_k \log\lambda_k\Big]
        + \tfrac12 \sum_{k<l} \log\varphi_N(\sigma_k, \sigma_l), \qquad c_d = \operatorname{vol} O(d) ;

    at full rank and equal widths ``(N − 1) log c_d + ½ Σ_{k<l} log φ_N(σ_k, σ_l)``.

    Parameters
    ----------
    x : array, shape=[..., m, n]
        Matrix; a complex one has complex weights, and the entropy with β = 2 of
        :mod:`dlngeo.thermodynamics.entropy`.
    depth : float
        Number of layers N, at least 1. At real N the formula is continued; ``inf`` gives its renormalised limit
        ``½ Σ_{k<l} log φ_∞(σ_k, σ_l) + (min(m, n) − r) Σ_k log σ_k``. None where a kernel is given.
    rank : int, optional
        Rank r; the trailing singular values are dropped. Defaults to the least width.
    widths : sequence of int, optional
        Widths ``(d_0, …, d_N)``, of which ``d_0 = n`` and ``d_N = m``. The inner ones default to ``min(m, n)``.
    kernel : Kernel, optional
        In place of a depth: ``½ Σ_{k<l} log φ(σ_k, σ_l) + ½ (min(m, n) − r) Σ_k log φ(σ_k, 0)``, and the constant of a
        :class:`~dlngeo.kernels.RelaxedDepthKernel`, see :class:`~dlngeo.thermodynamics.kernel_entropy.KernelEntropy`.

    Returns
    -------
    array, shape=[...]
        ``−inf`` where the volume is zero, as with two vanishing singular values.

    Raises
    ------
    TypeError
        If the depth, the rank or a width is not of its type.
    ValueError
        If they do not fit together and to the shape, or ``x`` has NaN or infinite entries.

    See Also
    --------
    dlngeo.free_energy
    dlngeo.thermodynamics.free_energy.entropy_gradient
    dlngeo.thermodynamics.free_energy.orbit_volume

    Examples
    --------
    >>> import numpy as np
    >>> from dlngeo import entropy
    >>> x = np.array([[1.2, 0.3], [-0.2, 0.9]])
    >>> round(float(entropy(x, 3)), 6)
    6.354608
    >>> float(entropy(x, 1))  # one layer has no fibre
    0.0
    """
    return _entropy(_at(x, depth, rank, widths, kernel), x)


def entropy_gradient(
    x: Any,
    depth: float | None = None,
    rank: int | None = None,
    widths: Sequence[int] | None = None,
    *,
    kernel: Kernel | None = None,
) -> Any:
    r"""Euclidean gradient of the entropy, ``U diag(∂S/∂σ_k) Vᵀ``, shape=[..., m, n].

    .. math:: \frac{\partial S}{\partial\sigma_k} = \sum_{l \ne k} \Big[\frac{\sigma_k}{\sigma_k^2 - \sigma_l^2}
        - \frac{\lambda_k^2}{N\sigma_k(\lambda_k^2 - \lambda_l^2)}\Big] + \frac1{N\sigma_k} \sum_p (d_p - r),

    stable at coinciding singular values. :meth:`dlngeo.matrices.frame.Frame.cometric` makes it the gradient in ``g_N``.

    Parameters
    ----------
    x, depth, rank, widths, kernel
        As in :func:`entropy`.

    Raises
    ------
    TypeError, ValueError
        As :func:`entropy`, and if a singular value vanishes and N > 1: there S is not differentiable.

    See Also
    --------
    dlngeo.entropy
    dlngeo.thermodynamics.free_energy.entropy_hessian

    Examples
    --------
    >>> import numpy as np
    >>> from dlngeo.thermodynamics.free_energy import entropy_gradient
    >>> entropy_gradient(np.diag([2.0, 1.0]), 2).round(6)
    array([[0.166667, 0.      ],
           [0.      , 0.166667]])
    """
    return _gradient(_at(x, depth, rank, widths, kernel), x)


def entropy_hessian(
    z: Any,
    x: Any,
    depth: float | None = None,
    rank: int | None = None,
    widths: Sequence[int] | None = None,
    *,
    kernel: Kernel | None = None,
) -> Any:
    r"""Euclidean Hessian product ``D²S(X)[Z]``, the derivative of :func:`entropy_gradient` along Z, shape=[..., m, n].

    As of any spectral function [3]_: with ``UᵀZV = M`` and ``f_k = ∂S/∂σ_k``, the entries of its core are

    .. math:: \delta_{kl} \sum_j \frac{\partial f_k}{\partial\sigma_j} M_{jj}
        + (1 - \delta_{kl}) \Big[\frac{f_k - f_l}{\sigma_k - \sigma_l} \frac{M_{kl} + M_{lk}}2
        + \frac{f_k + f_l}{\sigma_k + \sigma_l} \frac{M_{kl} - M_{lk}}2\Big],

    and the blocks orthogonal to U or V are multiplied by ``f_k/σ_k``. Below full rank S is extended to nearby matrices
    through the truncation of the SVD.

    Parameters
    ----------
    z : array, shape=[..., m, n]
        Direction.
    x, depth, rank, widths, kernel
        As in :func:`entropy`.

    Raises
    ------
    TypeError, ValueError
        As :func:`entropy_gradient`, and if the direction has another shape or NaN or infinite entries.

    See Also
    --------
    dlngeo.thermodynamics.free_energy.entropy_gradient
    dlngeo.thermodynamics.free_energy.spectral_hessian

    Examples
    --------
    >>> import numpy as np
    >>> from dlngeo.thermodynamics.free_energy import entropy_gradient, entropy_hessian
    >>> x = np.array([[1.2, 0.3], [-0.2, 0.9]])
    >>> bool(np.allclose(entropy_hessian(x, x, 3), -entropy_gradient(x, 3)))  # S′(tX) = S′(X)/t
    True
    """
    at = _at(x, depth, rank, widths, kernel)
    xp, direction = _check.floating(untraced(z), field=at.spectral.field)
    if tuple(direction.shape[-2:]) != at.spectral.shape:
        m, n = at.spectral.shape
        raise ValueError(f"the direction has shape {tuple(direction.shape)}, but the matrix is {m}×{n}; give it those.")
    if has_values(direction):
        _check.finite(xp, direction, "the direction")
    return _hessian(at, x, z)


def orbit_volume(x: Any, depth: int, rank: int | None = None, widths: Sequence[int] | None = None) -> Any:
    """Volume ``e^S`` of the orbit of the balanced weights with product X, in the flat space of weights, shape=[...].

    The orbit has dimension ``Σ_{p=1}^{N−1} (d_p r − r(r+1)/2)``; where that is zero, it is a number of points. As N → ∞
    the volume is ``(c_d/c_{d−r})^{N−1} N^{r(r−1)/4} e^{S_∞} (1 + O(1/N))`` at equal inner widths d.

    Parameters
    ----------
    x, depth, rank, widths
        As in :func:`entropy`; the depth is an integer.

    Raises
    ------
    TypeError, ValueError
        As :func:`entropy`.

    See Also
    --------
    dlngeo.entropy
    dlngeo.weights.bases.vertical_basis

    Examples
    --------
    >>> import numpy as np
    >>> from dlngeo.thermodynamics.free_energy import orbit_volume
    >>> round(float(orbit_volume([[8.0]], 3)), 4)  # points: (±2)(±2)(±2) = 8
    4.0
    >>> circle = 2 * np.pi * np.sqrt(2 * (3**2 + 2**2))  # (QΛ, ΛQᵀ) for rotations Q, and as many for reflections
    >>> bool(np.isclose(orbit_volume(np.diag([9.0, 4.0]), 2), 2 * circle))
    True
    """
    return _volume(_at(x, _check.positive_integer(depth, "depth"), rank, widths), x)


def free_energy(
    cost: Callable[[Any], Any] | Any,
    x: Any,
    depth: float | None,
    beta: float,
    rank: int | None = None,
    widths: Sequence[int] | None = None,
    *,
    kernel: Kernel | None = None,
) -> Any:
    """Free energy ``F(X) = E(X) − S(X)/β`` [2]_, shape=[...].

    Parameters
    ----------
    cost : callable or array, shape=[...]
        Energy E, a function of matrices, or its value at X: one number for each matrix.
    beta : float
        Inverse temperature, positive.
    x, depth, rank, widths, kernel
        As in :func:`entropy`.

    Returns
    -------
    array, shape=[...]
        ``+inf`` where the orbit has no volume.

    Raises
    ------
    TypeError, ValueError
        As :func:`entropy`, and if ``beta`` is not a positive number, or the energies are NaN or not one for each
        matrix.

    See Also
    --------
    dlngeo.entropy
    dlngeo.thermodynamics.free_energy.free_energy_gradient
    dlngeo.thermodynamics.equilibria.minimisers

    Examples
    --------
    >>> import numpy as np
    >>> from dlngeo import entropy, free_energy
    >>> x = np.array([[1.2, 0.3], [-0.2, 0.9]])
    >>> energy = free_energy(lambda x: np.sum(x**2) / 2, x, 3, beta=2.0)
    >>> bool(np.isclose(energy, np.sum(x**2) / 2 - entropy(x, 3) / 2))
    True
    """
    beta, value = _check.positive(beta, "beta"), entropy(x, depth, rank, widths, kernel=kernel)
    return _energy(cost, x, tuple(value.shape)) - value / beta


def free_energy_gradient(
    euclidean_gradient: Any,
    x: Any,
    depth: float | None,
    beta: float,
    rank: int | None = None,
    widths: Sequence[int] | None = None,
    *,
    kernel: Kernel | None = None,
) -> Any:
    """Euclidean gradient ``F′(X) = E′(X) − S′(X)/β`` of the free energy, shape=[..., m, n].

    Gradient flows and samplers on any space take it for the gradient of a cost; they make it Riemannian.

    Parameters
    ----------
    euclidean_gradient : callable or array, shape=[..., m, n]
        ``E′``, or its value at X.
    x, depth, beta, rank, widths, kernel
        As in :func:`free_energy`.

    Raises
    ------
    TypeError, ValueError
        As :func:`free_energy`, with gradients for energies, and where S is not differentiable.

    See Also
    --------
    dlngeo.free_energy
    dlngeo.thermodynamics.free_energy.entropy_gradient

    Examples
    --------
    >>> import numpy as np
    >>> from dlngeo.thermodynamics.free_energy import free_energy_gradient
    >>> x = np.eye(3)[[1, 2, 0]]  # orthogonal matrices are the minimisers for ½‖X‖² at N = 2, β = ½
    >>> bool(np.allclose(free_energy_gradient(lambda x: x, x, 2, 0.5), 0))
    True
    """
    beta, value = _check.positive(beta, "beta"), entropy_gradient(x, depth, rank, widths, kernel=kernel)
    field: _check.Field = "complex" if is_complex(value) else "real"
    return _slope(euclidean_gradient, x, tuple(value.shape), field) - value / beta


class _Point(NamedTuple):
    frame: Any  # None under JAX, until it is called
    spectral: SpectralEntropy | KernelEntropy

    def at(self, x: Any) -> _Point:
        return _Point(Frame.at(x, self.spectral.kernel, self.spectral.rank), self.spectral)


def _at(
    x: Any, depth: float | None, rank: int | None, widths: Sequence[int] | None, kernel: Kernel | None = None
) -> _Point:
    values = _check.floating(untraced(x), field="complex")[1]
    field: _check.Field = "complex" if is_complex(values) else "real"
    m, n = _check.sides(values)
    if (depth is None) == (kernel is None) or (widths is not None and kernel is not None):
        raise TypeError(
            f"give either a depth, with widths or without, or a kernel; got depth={depth!r}, widths={widths!r} and "
            f"kernel={kernel!r}."
        )
    spectral: SpectralEntropy | KernelEntropy
    if kernel is not None:
        spectral = KernelEntropy(m, n, kernel, rank, field)
    elif depth is not None:
        spectral = SpectralEntropy(m, n, depth, rank, widths, field)
    point = _Point(None, spectral)
    return point if in_jax(values) else point.at(values)


def _energy(cost: Any, x: Any, shape: tuple[int, ...]) -> Any:
    """Energies at x, after checking that there is one for each matrix: a sum over a whole batch would pass unseen."""
    energy, xp, plain = _evaluated(cost, x, "cost")
    got = tuple(plain.shape)
    if got != shape and (callable(cost) or not _broadcasts(got, shape)):
        raise ValueError(f"cost has shape {got} at x, where {shape} is expected; sum over the last two axes only.")
    if has_values(plain) and bool(xp.any(xp.isnan(plain))):
        raise ValueError("cost is NaN at x; see that it is defined there.")
    return energy


def _slope(euclidean_gradient: Any, x: Any, shape: tuple[int, ...], field: _check.Field) -> Any:
    """Gradients at x, after checking that they are matrices of its shape."""
    slope, xp, plain = _evaluated(euclidean_gradient, x, "euclidean_gradient", field)
    got = tuple(plain.shape)
    if got[-2:] != shape[-2:] or not _broadcasts(got, shape):
        raise ValueError(f"euclidean_gradient has shape {got} at x, where {shape} is expected; differentiate in x.")
    if has_values(plain):
        _check.finite(xp, plain, "euclidean_gradient")
    return slope


def _evaluated(function: Any, x: Any, name: str, field: _check.Field = "real") -> tuple[Any, Any, Any]:
    """Return a function at x, or the value given for it, with the namespace of the value and the value untraced."""
    value = function(x) if callable(function) else function
    if value is None:
        raise TypeError(f"{name} must be a function of matrices or its value at x, got None.")
    xp, plain = _check.floating(untraced(value), field=field)
    return (plain if isinstance(value, (list, tuple)) else value), xp, plain


def _broadcasts(shape: tuple[int, ...], to: tuple[int, ...]) -> bool:
    return all(a in (1, b) for a, b in zip(shape[::-1], to[::-1], strict=False)) and len(shape) <= len(to)


# The operations, on plain arrays, with their vector-Jacobian products. The point x enters through its frame only.


def _gradient_value(at: _Point, x: Any) -> Any:
    frame = at.frame
    return (frame.u * at.spectral.gradient(frame.s)[..., None, :]) @ frame.vt


def _hessian_value(at: _Point, x: Any, z: Any) -> Any:
    spectral, s = at.spectral, at.frame.s
    if spectral.flat:
        return 0.0 * (z + x)
    return spectral_hessian(at.frame, z, spectral.gradient(s), spectral.hessian(s), *spectral.quotients(s))


def spectral_hessian(frame: Any, z: Any, slopes: Any, bend: Any, minus: Any, plus: Any) -> Any:
    """Euclidean Hessian product of a spectral function, shape=[..., m, n]; see :func:`entropy_hessian`.

    It takes the partial derivatives ``f_k``, shape=[..., r], theirs, shape=[..., r, r], and the quotients
    ``(f_k − f_l)/(σ_k − σ_l)`` and ``(f_k + f_l)/(σ_k + σ_l)``, whose diagonals do not count.

    See Also
    --------
    dlngeo.thermodynamics.free_energy.entropy_hessian

    Examples
    --------
    >>> import numpy as np
    >>> from dlngeo import DepthKernel
    >>> from dlngeo.matrices.frame import Frame
    >>> from dlngeo.thermodynamics.free_energy import spectral_hessian
    >>> frame, z = Frame.at(np.array([[1.2, 0.3], [-0.2, 0.9]]), DepthKernel(1)), np.array([[1.0, 2.0], [3.0, 4.0]])
    >>> ones = np.ones((2, 2))
    >>> bool(np.allclose(spectral_hessian(frame, z, frame.s, np.eye(2), ones, ones), z))  # of ½ Σ σ_k² = ½‖X‖²
    True
    """
    xp, (core, left, right) = frame._xp, frame.split(z)
    index = xp.arange(frame.rank)
    straight, turned = xp.linalg.diagonal(core), adjoint(core)
    along = (bend @ (straight.real if frame.field == "complex" else straight)[..., None])[..., 0]
    across, back = minus * (core + turned) / 2, plus * (core - turned) / 2
    core = xp.where(index[:, None] == index, along[..., None] + 0 * across, across) + back
    turn = (slopes / frame.s)[..., None, :]
    return frame.assemble(Blocks(core, *(None if part is None else part * turn for part in (left, right))))


def _unavailable(*_: Any) -> Any:
    raise NotImplementedError(
        "the third derivative of the entropy is not available in closed form; use finite differences of the second."
    )


_entropy: Operation = Operation(
    lambda at, x: at.spectral(at.frame.s),
    (lambda at, c, x: c[..., None, None] * _gradient(at, x),),
    "entropy",
    scalar=True,
)
_volume: Operation = Operation(
    lambda at, x: at.frame._xp.exp(at.spectral(at.frame.s)),
    (lambda at, c, x: (c * _volume(at, x))[..., None, None] * _gradient(at, x),),
    "orbit_volume",
    scalar=True,
)
_gradient: Operation = Operation(_gradient_value, (lambda at, c, x: _hessian(at, x, c),), "entropy_gradient")
_hessian: Operation = Operation(
    _hessian_value, (_unavailable, lambda at, c, x, z: _hessian(at, x, c)), "entropy_hessian"
)
