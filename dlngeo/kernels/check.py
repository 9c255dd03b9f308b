"""The properties of a kernel that the geometry takes for granted, checked.

Divided differences are compared with those of :mod:`dlngeo.kernels._differences`, which know the values of φ alone, so
that a wrong ψ, of which gradients, Hessians and retractions would all be consistent, is seen. Two windows of different
width give the error of the comparison itself; where they disagree, φ is not smooth.
"""

from __future__ import annotations

import importlib.util
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dlngeo.errors import KernelError
from dlngeo.kernels import _differences
from dlngeo.kernels.depth import of_depth
from dlngeo.kernels.kernel import Kernel
from dlngeo.kernels.relaxed import RelaxedDepthKernel

__all__ = ["KernelReport", "Property", "check_kernel", "require_kernel"]

Array = NDArray[np.float64]

# Coincident, close, apart and far, and zero.
_FULL = (0.0, 1e-6, 0.03, 0.03 * (1 + 1e-9), 0.7, 0.7 * (1 + 1e-12), 0.72, 1.0, 1.3, 40.0, 41.0, 1e6)
_FEW = (0.0, 0.7, 0.72, 2.0)
_SYMMETRY, _FIRST, _HIGHER, _SMOOTH, _SINGLE = 1e-12, 1e-8, 1e-5, 1e-9, 1e-3
_TINY = float(np.finfo(float).tiny)


@dataclass(frozen=True)
class Property:
    """One property of a kernel: what was checked, and what was found, where.

    The error is the largest violation, relative to what is tolerated; NaN or above 1 if the property fails.
    """

    name: str
    error: float
    finding: str

    @property
    def ok(self) -> bool:
        """Whether the property holds."""
        return self.error <= 1

    def __str__(self) -> str:
        return f"{self.name}: {'ok' if self.ok else 'FAILED'}: {self.finding}"


@dataclass(frozen=True)
class KernelReport:
    """What :func:`check_kernel` found; true exactly if all properties hold.

    The properties are in the order in which they were checked; after one that makes the others meaningless there are
    no further ones.

    See Also
    --------
    dlngeo.check_kernel

    Examples
    --------
    >>> from dlngeo import Kernel, check_kernel
    >>> class Lopsided(Kernel):
    ...     def __call__(self, s, t):
    ...         return s**2 + 2 * t**2
    >>> report = check_kernel(Lopsided())
    >>> report.ok, "symmetry" in [found.name for found in report.failures]
    (False, True)
    """

    kernel: str
    properties: tuple[Property, ...]

    @property
    def failures(self) -> tuple[Property, ...]:
        """The properties that fail."""
        return tuple(p for p in self.properties if not p.ok)

    @property
    def ok(self) -> bool:
        """Whether all properties hold."""
        return not self.failures

    def __bool__(self) -> bool:
        return self.ok

    def __str__(self) -> str:
        verdict = "ok" if self.ok else "FAILED"
        return "\n".join([f"kernel {self.kernel}: {verdict}", *(f"  {p}" for p in self.properties)])


def check_kernel(kernel: Kernel) -> KernelReport:
    r"""Check a kernel: shapes, positivity, symmetry, smoothness, divided differences, libraries of arrays, precisions.

    All is evaluated at values from 1e-6 to 1e6 that coincide, are close, apart or far, and at zero. Divided differences
    are compared with those of the values of φ, see :class:`dlngeo.Kernel`. They may differ by 1e-8, those of second
    order by 1e-5, of

    .. math:: \frac{\max \varphi}{\max(s, t)^2}, \qquad
        \frac{\max \varphi}{\max(s, t, u)^2 \operatorname{mid}(s, t, u)^2}, \qquad
        \frac{\max \varphi}{\max(q, r)^2 \max(s, t)^2},

    maxima of φ over the values in the numerator, and by ten times the error of that of the values where this is larger.

    Parameters
    ----------
    kernel : Kernel
        Kernel.

    Returns
    -------
    KernelReport
        True if all is well; printed, it tells what fails, where, and by how much.

    Raises
    ------
    TypeError
        If ``kernel`` is no :class:`~dlngeo.Kernel`.

    See Also
    --------
    dlngeo.Kernel
    dlngeo.kernels.require_kernel

    Examples
    --------
    >>> from dlngeo import DepthKernel
    >>> bool(check_kernel(DepthKernel(3)))
    True
    """
    _require_type(kernel)
    return KernelReport(repr(kernel), tuple(_until_broken(_properties(kernel, _FULL))))


def require_kernel(kernel: Any, m: int, n: int, rank: int) -> None:
    """Raise unless a kernel gives a metric on the m×n matrices of a rank.

    It must pass a short form of :func:`check_kernel`: few values, in double precision, zero among them unless
    ``m = n = rank``. And it must be a metric there: with directions that leave the column or row space, ``φ(1, 0)`` is
    positive; and below ``min(m, n)``, the flow of the network that has it conserves the rank.

    Raises
    ------
    TypeError
        If ``kernel`` is no :class:`~dlngeo.Kernel`.
    KernelError
        If a property fails; the message names it, where, and by how much.
    ValueError
        If the metric is infinite on these matrices, or its flow leaves them.

    See Also
    --------
    dlngeo.check_kernel
    dlngeo.KernelError

    Examples
    --------
    >>> from dlngeo import DepthKernel, InfiniteDepthKernel
    >>> from dlngeo.kernels import require_kernel
    >>> require_kernel(DepthKernel(3), 3, 2, 2)
    >>> try:
    ...     require_kernel(InfiniteDepthKernel(), 3, 2, 2)
    ... except ValueError as error:
    ...     print("as φ(1, 0) = 0" in str(error))
    True
    """
    _require_type(kernel)
    square = m == n == rank
    for found in _until_broken(_properties(kernel, _FEW[1:] if square else _FEW, full=False)):
        if not found.ok:
            raise KernelError(
                f"{kernel!r} is no kernel of a metric: {found.name} fails: {found.finding}. "
                "print(dlngeo.check_kernel(kernel)) tells all that is wrong."
            )
    if not square and not np.all(kernel(np.ones(1), np.zeros(1)) > 0):
        raise ValueError(
            f"the metric of {kernel!r} is infinite in directions that leave the column or row space, as φ(1, 0) = 0, "
            f"so it lives on square invertible matrices only, not on {m}×{n} matrices of rank {rank}; use a finite "
            "depth, or m = n = rank."
        )
    if rank < min(m, n) and isinstance(kernel, RelaxedDepthKernel) and kernel.depth is None:
        require_conserved_rank(kernel, m, n, rank)


def require_conserved_rank(kernel: RelaxedDepthKernel, m: int, n: int, rank: int) -> None:
    """Raise where the flow of layers with offsets leaves the m×n matrices of a rank below ``min(m, n)``."""
    if not kernel.conserves_rank:
        raise ValueError(
            f"the offsets {kernel.offsets.tolist()} of the layers take their least value once, so that φ(0, 0) = "
            f"{float(kernel(np.zeros(1), np.zeros(1))[0]):g} > 0: singular values rise from zero, and the flow leaves "
            f"the {m}×{n} matrices of rank {rank}. Take rank {min(m, n)}, or offsets of which two or more are the "
            "least."
        )


def _require_type(kernel: Any) -> None:
    if not isinstance(kernel, Kernel):
        raise TypeError(
            f"kernel must be a dlngeo.Kernel, got {type(kernel).__name__}; try DepthKernel(2), or subclass Kernel."
        )


def _until_broken(found: Iterator[Property]) -> Iterator[Property]:
    """Pass on properties, up to the first without which the next ones mean nothing."""
    for one in found:
        yield one
        if not one.ok and one.name in ("shape", "positivity"):
            return


def _properties(kernel: Kernel, values: tuple[float, ...], full: bool = True) -> Iterator[Property]:
    with np.errstate(all="ignore"):
        yield _shape(kernel)
        s, t = _tuples(values, 2)
        phi = kernel(s, t)
        positive = np.isfinite(phi) & np.where((s > 0) & (t > 0), phi > 0, phi >= 0)
        finding = "φ(s, t) is positive, and not negative at zero"
        yield _worst("positivity", np.where(positive, 0.0, np.nan), "φ(s, t)", phi, (s, t), finding)
        other = kernel(t, s)
        error = np.abs(phi - other) / np.maximum(np.abs(phi), np.abs(other)).clip(min=_TINY) / _SYMMETRY
        yield _worst("symmetry", error, "φ(s, t)", phi, (s, t), f"φ(s, t) = φ(t, s) to {_SYMMETRY:g}", other, "φ(t, s)")
        yield from _differences_of(kernel, values, full)
        yield from _declared(kernel, values)
        if full:
            yield from _libraries(kernel)


def _shape(kernel: Kernel) -> Property:
    axes = [np.full((4, 1), 1.3), np.full(3, 0.7), np.full((2, 1, 1), 0.7), np.full(3, 2.0)]
    functions: list[tuple[str, Callable[..., Any], int]] = [
        ("φ", kernel, 2),
        ("divided_difference", kernel.divided_difference, 3),
        ("second_divided_difference", kernel.second_divided_difference, 4),
        ("mixed_divided_difference", kernel.mixed_divided_difference, 4),
    ]
    for name, function, count in functions:
        expected = np.broadcast_shapes(*(a.shape for a in axes[:count]))
        try:
            value = function(*axes[:count])
        except Exception as raised:  # whatever a user's function raises is what is reported
            return Property("shape", np.nan, f"{name} raises {type(raised).__name__} at arrays: {raised}")
        if np.shape(value) != expected:
            what = f"a number, {value!r}," if np.ndim(value) == 0 else f"an array of shape {np.shape(value)}"
            finding = (
                f"{name} returns {what} at arrays of shapes {', '.join(str(a.shape) for a in axes[:count])}, instead "
                f"of an array of the broadcast shape {expected}; add 0*s + 0*t to a constant"
            )
            return Property("shape", np.nan, finding)
    return Property("shape", 0.0, "all are of the broadcast shape")


def _differences_of(kernel: Kernel, values: tuple[float, ...], full: bool) -> Iterator[Property]:
    d = _differences
    one, two = _tuples(values, 3), _tuples(values, 4)
    one = one[:, np.maximum(one[1], one[2]) > 0]
    second = two[:, np.sort(two[1:], axis=0)[1] > 0]
    mixed = two[:, (np.maximum(two[0], two[1]) > 0) & (np.maximum(two[2], two[3]) > 0)]
    cases: list[tuple[str, str, Callable[..., Any], Array, Callable[..., Any], float]] = [
        ("divided_difference", "ψ_r(s, t)", d.first, one, _scale_first, _FIRST),
        ("second_divided_difference", "(ψ_r(s, u) − ψ_r(s, t))/(u² − t²)", d.second, second, _scale_second, _HIGHER),
        ("mixed_divided_difference", "(ψ_r(s, t) − ψ_q(s, t))/(r² − q²)", d.mixed, mixed, _scale_mixed, _HIGHER),
    ]
    for name, formula, difference, at, scale, tolerance in cases:
        own = vars(Kernel)[name] is not getattr(type(kernel), name)
        if name != "divided_difference" and not (full or own):
            continue
        exact, size = difference(kernel, *at), np.maximum(scale(kernel, *at), _TINY)
        value = getattr(kernel, name)(*at) if own else exact
        rough, error = exact, np.abs(value - exact) / size
        if full or not own or not np.all(error <= tolerance):
            rough = difference(kernel, *at, width=d.WIDTH / 2)
        unsure = np.abs(exact - rough) / size
        if name == "divided_difference":
            finding = f"two windows of φ give one ψ to {_SMOOTH:g}"
            yield _worst("smoothness", unsure / _SMOOTH, formula, exact, at, finding, rough, "a narrower window")
        if not own:
            yield Property(name, 0.0, f"from values of φ, to {np.max(unsure):.0e}")
            continue
        error = error / np.maximum(tolerance, 10 * unsure)
        yield _worst(name, error, formula, value, at, f"that of φ to {tolerance:g}", exact, "that of the values of φ")


def _scale_first(kernel: Kernel, r: Array, s: Array, t: Array) -> Any:
    return np.maximum(kernel(r, s), kernel(r, t)) / np.maximum(s, t) ** 2


def _scale_second(kernel: Kernel, r: Array, *three: Array) -> Any:
    _, middle, high = np.sort(three, axis=0)
    return np.max([kernel(r, value) for value in three], axis=0) / (middle * high) ** 2


def _scale_mixed(kernel: Kernel, q: Array, r: Array, s: Array, t: Array) -> Any:
    top = np.max([kernel(a, b) for a in (q, r) for b in (s, t)], axis=0)
    return top / (np.maximum(q, r) * np.maximum(s, t)) ** 2


def _declared(kernel: Kernel, values: tuple[float, ...]) -> Iterator[Property]:
    """Check what a kernel says of itself: its third difference, and its depth."""
    at = _tuples(values[values[0] == 0 :], 4)
    third = kernel.third_divided_difference(*at)
    if third is not None:
        q, r, s, t = at
        product = kernel(q, r) * kernel(s, t)
        implied = kernel.mixed_divided_difference(*at) * product
        error = np.abs(third - implied) / np.maximum(_scale_mixed(kernel, *at) * product, _TINY) / _HIGHER
        formula, finding = "h[a_q, a_r, a_s, a_t]", f"mixed_divided_difference·φ(q, r) φ(s, t) to {_HIGHER:g}"
        yield _worst("third_divided_difference", error, formula, third, at, finding, implied, "that of the mixed one")
    if kernel.depth is not None:
        s, t = _tuples(values, 2)
        deep = of_depth(kernel.depth)
        phi, multiple = kernel(s, t), deep(s, t) * (kernel.at_one / deep.at_one)
        error = np.abs(phi - multiple) / np.maximum(phi, multiple).clip(min=_TINY) / _FIRST
        name = f"depth {kernel.depth:g}"
        yield _worst(name, error, "φ(s, t)", phi, (s, t), f"φ is a multiple of {deep!r}", multiple, "that multiple")


def _libraries(kernel: Kernel) -> Iterator[Property]:
    at = _tuples((0.5, 0.9, 2.0), 3)
    functions = {"φ(s, t)": (kernel, at[1:]), "ψ_r(s, t)": (kernel.divided_difference, at)}
    yield _same("float32", functions, lambda a: a.astype(np.float32), _SINGLE)
    if importlib.util.find_spec("torch"):
        import torch

        yield _same("PyTorch", functions, torch.from_numpy, 1e-10)


def _same(name: str, functions: dict[str, Any], convert: Callable[[Array], Any], tolerance: float) -> Property:
    """Whether functions have the same values at converted arrays."""
    found = Property(name, 0.0, f"as in double precision and NumPy, to {tolerance:g}")
    exact = {formula: function(*at) for formula, (function, at) in functions.items()}
    size = max(np.max(np.abs(values)) for values in exact.values())
    for formula, (function, at) in functions.items():
        expected = exact[formula]
        arrays = [convert(a) for a in at]
        try:
            value = function(*arrays)
        except Exception as raised:
            return Property(name, np.nan, f"{formula} raises {type(raised).__name__}: {raised}")
        if not isinstance(value, type(arrays[0])):
            return Property(name, np.nan, f"{formula} returns {type(value).__name__}, not {type(arrays[0]).__name__}")
        error = np.abs(np.asarray(value, dtype=float) - expected) / size / tolerance
        found = max(found, _worst(name, error, formula, value, at, found.finding, expected), key=lambda p: not p.ok)
    return found


def _tuples(values: tuple[float, ...], count: int) -> Array:
    """Tuples of the values: all of them, but of four values those of every other value, or every seventh."""
    many = len(values) > 6
    tuples = itertools.product(values[::2] if count == 4 and many else values, repeat=count)
    return np.array(list(tuples)[:: 7 if count == 4 and not many else 1]).T


def _worst(
    name: str,
    error: Any,
    formula: str,
    values: Any,
    at: Any,
    finding: str,
    expected: Any = None,
    source: str = "NumPy in double precision",
) -> Property:
    """Judge errors, relative to their tolerance: the property, with what was found at the largest."""
    error = np.where(np.isnan(error), np.inf, error)
    worst = float(np.max(error))
    if worst <= 1:
        return Property(name, worst, finding)
    # Of the places where it is about as wrong, the plainest: the one whose values are nearest to 1.
    distance = np.sum(np.abs(np.log(np.maximum(np.asarray(at, dtype=float), 1e-12))), axis=0)
    i = int(np.argmin(np.where(error >= worst / 2, distance, np.inf)))
    place = ", ".join(f"{float(a[i])!r}" for a in at)
    order = {2: "s, t", 3: "r, s, t", 4: "r, s, t, u" if name.startswith("second") else "q, r, s, t"}[len(at)]
    text = f"{formula} is {float(values[i]):.6g}"
    if expected is not None:
        text += f" instead of {float(expected[i]):.6g}, {source},"
    return Property(name, worst, f"{text} at ({order}) = ({place})")
