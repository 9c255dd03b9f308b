"""The border with geomstats, once: what its methods are given, arrays of its backend and of NumPy, batches, draws."""

from __future__ import annotations

import functools
import inspect
import math
import re
from collections.abc import Callable
from typing import Any

import geomstats.backend as gs
import numpy as np
from array_api_compat import array_namespace, is_torch_array

from dlngeo import _check
from dlngeo._autodiff import has_values, is_traced
from dlngeo._autodiff import untraced as values_of
from dlngeo._linalg import is_complex
from dlngeo.errors import GeodesicError

__all__ = ["Border", "batch", "coarsest", "common_type", "draw", "each_pair", "to_gs", "to_numpy", "untraced"]

_ARRAYS = re.compile(
    r"(base_|fiber_|initial_|end_)?point(_[ab])?|(initial_)?tangent_vec(_[abc])?|vectors?|direction"
    r"|euclidean_(gradient|hessian)|state|group_elem"
)
# The methods of geomstats that do not begin with one of ours.
_INHERITED = ("exp", "log", "geodesic", "normalize", "is_tangent")


class Border:
    """Base of the classes that geomstats calls: their public methods check points and vectors first.

    By their names, such arguments become arrays of real numbers, of one floating-point type where PyTorch would refuse
    two. Histories of autograd, PyTorch and JAX stay.

    Raises
    ------
    TypeError
        If an argument is no array of real numbers, or is masked.
    ValueError
        If its shape does not end with that of the points, or an entry is not finite; ``belongs`` and ``is_tangent``
        are false there.
    """

    def _shape_of(self, argument: str, method: str) -> tuple[int, ...]:
        """Shape with which an argument of a method ends."""
        space: Any = getattr(self, "_space", self)
        shape = tuple(space.shape)
        return (2, *shape) if argument == "state" else shape

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        for name in {*vars(cls), *_INHERITED}:
            method = inspect.getattr_static(cls, name, None)
            if inspect.isfunction(method) and not hasattr(method, "__wrapped__"):
                parameters = list(inspect.signature(method).parameters)[1:]
                if (name == "__call__" or not name.startswith("_")) and any(map(_ARRAYS.fullmatch, parameters)):
                    setattr(cls, name, _checking(method, parameters))


def _checking(method: Callable[..., Any], parameters: list[str]) -> Callable[..., Any]:
    arrays = set(filter(_ARRAYS.fullmatch, parameters))
    asks = method.__name__ in ("belongs", "is_tangent")
    mixes = method.__name__ in ("exp", "log", "geodesic", "align")  # in NumPy, and to the precision of each

    @functools.wraps(method)
    def call(self: Border, *args: Any, **kwargs: Any) -> Any:
        names = [*(parameters[min(i, len(parameters) - 1)] for i in range(len(args))), *kwargs]
        values = [*args, *kwargs.values()]
        places = [i for i, name in enumerate(names) if name in arrays and values[i] is not None]
        for i in places:
            shape = None if asks else self._shape_of(names[i], method.__name__)
            values[i] = _array(values[i], names[i], shape, getattr(self, "field", "real"))
        if not mixes and len({values[i].dtype for i in places}) > 1 and all(is_torch_array(values[i]) for i in places):
            common = array_namespace(values[places[0]]).result_type(*(values[i] for i in places))
            for i in places:
                values[i] = values[i].to(common)
        return method(self, *values[: len(args)], **dict(zip(kwargs, values[len(args) :], strict=True)))

    return call


def _array(value: Any, name: str, shape: tuple[int, ...] | None, field: _check.Field = "real") -> Any:
    if field == "complex" or type(value) is not np.ndarray or value.dtype != np.float64 or not gs.is_array(value):
        value = _check.plain(value, name, field)
        if not is_traced(value):
            xp, value = _check.floating(value, field=field)
            if field == "complex" and shape is not None and not is_complex(value):
                value = xp.astype(value, xp.complex128)
            if isinstance(value, np.ndarray) and not gs.is_array(value):
                value = _from_numpy(value)
    if shape is None:
        return value
    if tuple(value.shape[-len(shape) :]) != shape:
        raise ValueError(
            f"{name} has shape {tuple(value.shape)}; expected (..., {', '.join(map(str, shape))}). "
            "Only the axes before these are broadcast."
        )
    if has_values(value):
        plain = values_of(value)
        _check.finite(array_namespace(plain), plain, name)
    return value


def to_gs(array: Any, field: _check.Field = "real") -> Any:
    """Return a NumPy array as an array of the backend of geomstats, in doubles, or complex ones."""
    array = _check.numbers(array, "the array", field)
    return _from_numpy(array.astype(np.complex128 if array.dtype.kind == "c" else np.float64, copy=False))


def _from_numpy(array: np.ndarray) -> Any:
    # A copy where the array is read-only (JAX's are) or has negative strides, neither of which PyTorch takes.
    return gs.from_numpy(np.require(array, requirements=["C", "W"]))


def to_numpy(array: Any) -> np.ndarray:
    """Return an array of the backend of geomstats as a NumPy array of its own."""
    return np.asarray(gs.to_numpy(gs.copy(array)))


def untraced(array: Any, name: str, field: _check.Field = "real") -> np.ndarray:
    """Return an array of the backend in NumPy; refuse one that is being differentiated through or is not finite."""
    if is_traced(array):
        raise NotImplementedError(
            f"this is not differentiated through (traced: {name}): of geodesics, the exp, log and dist of a "
            "SpectralMetric are, under autograd and PyTorch. Detach the array."
        )
    values = _check.numbers(gs.to_numpy(array) if gs.is_array(array) else array, name, field)
    values = values.astype(complex if values.dtype.kind == "c" else float, copy=False)
    _check.finite(np, values, name)
    return values


def common_type(*arrays: Any) -> Any:
    """Floating-point type that arrays have together in their library."""
    xp, *values = _check.floating(*arrays, field="complex")
    return xp.result_type(*values)


def coarsest(*arrays: Any) -> float:
    """Distance from 1 to the next number in the least precise type among those of arrays."""
    xp, *values = _check.floating(*arrays, field="complex")
    return max(float(xp.finfo(a.dtype).eps) for a in values)


def each_pair(function: Callable[[Any, Any], Any], base_point: Any, point: Any, point_ndim: int) -> Any:
    """Apply a NumPy function to pairs of points, one by one; a failure says which pair it is."""
    starts, ends = np.broadcast_arrays(untraced(base_point, "base_point"), untraced(point, "point"))
    out = np.empty(starts.shape)
    for index in np.ndindex(starts.shape[:-point_ndim]):
        try:
            out[index] = function(starts[index], ends[index])
        except GeodesicError as error:
            if not index:
                raise
            message = f"pair {index if len(index) > 1 else index[0]}: {error}"
            raise GeodesicError(message, error.status, error.residual) from None
    return gs.cast(gs.from_numpy(out), common_type(base_point, point))


def batch(n_samples: int) -> tuple[int, ...]:
    """Batch shape of samples, empty for one, as geomstats has it."""
    n_samples = _check.positive_integer(n_samples, "n_samples")
    return () if n_samples == 1 else (n_samples,)


def draw(shape: tuple[int, ...], rng: Any = None, field: _check.Field = "real") -> Any:
    """Sample independent standard normal entries, or parts of complex ones, by a generator or seed or ``gs.random``."""
    if field == "complex":
        return draw(shape, rng := None if rng is None else np.random.default_rng(rng)) + 1j * draw(shape, rng)
    if math.prod(shape) == 0:
        return gs.zeros(shape)
    if rng is None:
        return gs.random.normal(size=shape)
    return gs.from_numpy(np.random.default_rng(rng).standard_normal(shape))
