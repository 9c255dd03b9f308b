"""Validation of user input, in one place and at the boundary.

Every check raises ``ValueError`` or ``TypeError`` with the cause, the value and the remedy. Inner
functions trust their arguments.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from numbers import Integral, Real
from typing import Any, Literal, cast

import numpy as np
from array_api_compat import array_namespace, is_array_api_obj, is_numpy_array

from dlngeo._autodiff import is_traced, untraced

#: What an array may hold: real numbers alone, or complex ones as well.
Field = Literal["real", "complex"]

_NUMPY = array_namespace(np.empty(0))


def depth(value: Any, *, allow_infinite: bool = False) -> float:
    """Return ``value`` as a depth: a real number of at least 1, or ``inf`` where allowed."""
    value = _number(value, "depth")
    if math.isinf(value) and value > 0:
        if allow_infinite:
            return value
        raise ValueError("depth is inf; infinite depth exists only normalised: use InfiniteDepthKernel().")
    if not value >= 1:
        raise ValueError(f"depth must be at least 1, got {value}; depth 1 is the Frobenius metric.")
    return value


def _number(value: Any, name: str) -> float:
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name} must be a real number, got {value!r} of type {type(value).__name__}.")
    return float(value)


def integer(value: Any, name: str, least: int) -> int:
    """Return ``value`` as an ``int`` of at least ``least``."""
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError(f"{name} must be an integer, got {value!r} of type {type(value).__name__}.")
    if value < least:
        raise ValueError(f"{name} must {f'be at least {least}' if least else 'not be negative'}, got {value}.")
    return int(value)


def positive_integer(value: Any, name: str) -> int:
    """Return ``value`` as an ``int`` of at least 1."""
    return integer(value, name, 1)


def positive(value: Any, name: str) -> float:
    """Return ``value`` as a positive and finite ``float``."""
    value = _number(value, name)
    if not 0 < value < math.inf:
        raise ValueError(f"{name} must be positive and finite, got {value}.")
    return value


def rank(value: Any, m: int, n: int) -> int:
    """Return ``value`` as the rank of an m×n matrix, between 1 and ``min(m, n)``."""
    value = positive_integer(value, "rank")
    if value > min(m, n):
        raise ValueError(f"rank {value} exceeds min(m, n) = {min(m, n)} of a {m}×{n} matrix; lower the rank.")
    return value


def shape(value: Any) -> tuple[int, int]:
    """Return ``value`` as a pair of positive integers."""
    if not isinstance(value, list | tuple) or len(value) != 2:
        raise ValueError(f"shape must be a pair (m, n), got {value!r}.")
    m, n = value
    return positive_integer(m, "the number of rows"), positive_integer(n, "the number of columns")


def sides(array: Any) -> tuple[int, int]:
    """Return the sides (m, n) of matrices, shape=[..., m, n]."""
    if array.ndim < 2 or 0 in array.shape[-2:]:
        raise ValueError(f"matrices of shape (..., m, n) are expected, got shape {tuple(array.shape)}; add axes.")
    m, n = array.shape[-2:]
    return m, n


def matrices(array: Any, m: int, n: int, name: str) -> Any:
    """Return an array, after checking that it holds m×n matrices, shape=[..., m, n]."""
    if tuple(array.shape[-2:]) != (m, n):
        raise ValueError(f"{name} has shape {tuple(array.shape)}; expected (..., {m}, {n}).")
    return array


def offsets(value: Any, depth: int | None = None) -> np.ndarray:
    """Return ``value`` as the offsets of N layers, shape=[N], of which only differences matter: finite numbers."""
    values = numbers(list(value) if isinstance(value, Iterable) else value, "offsets").astype(float)
    count = "one or more" if depth is None else f"{depth}"
    enough = values.size > 0 if depth is None else values.size == depth
    if values.ndim != 1 or not enough or not np.isfinite(values).all():
        raise ValueError(f"offsets must be {count} finite numbers, one for each layer, got {values.tolist()}.")
    return values


def field(value: Any) -> Field:
    """Return ``value`` as the field of the entries of matrices."""
    if not isinstance(value, str) or value not in ("real", "complex"):
        raise ValueError(f'field must be "real" or "complex", got {value!r}.')
    return cast(Field, value)


def plain(value: Any, name: str = "the array", field: Field = "real") -> Any:
    """Return ``value`` as a plain array of numbers: of its library and type if it is one, else of NumPy.

    So ``np.matrix``, whose ``*`` is another product, becomes an array. What is traced stays so.

    Raises
    ------
    TypeError
        If it is no array of numbers of the field, or a masked one, whose mask would be lost.
    """
    values = untraced(value)
    if not is_array_api_obj(values) or is_numpy_array(values):
        values = numbers(values, name, field)
        return value if is_traced(value) else values
    if field == "real" and array_namespace(values).isdtype(values.dtype, "complex floating"):
        raise _not_real(name, values.dtype)
    return value


def floating(*arrays: Any, field: Field = "real") -> tuple[Any, ...]:
    """Return ``(xp, *arrays)``: the arrays as floating arrays of their namespace ``xp``, complex ones by ``field``.

    Python scalars, sequences and integer arrays become the default floating type. Raises as :func:`plain`.
    """
    if all(type(a) is np.ndarray and a.dtype == np.float64 for a in arrays):
        return (_NUMPY, *arrays)  # the common case, at a tenth of the cost
    values = [plain(a, field=field) for a in arrays]
    known = [v for a, v in zip(arrays, values, strict=True) if is_array_api_obj(a)]
    xp = array_namespace(*known) if known else _NUMPY
    dtype = next((a.dtype for a in known if xp.isdtype(a.dtype, "real floating")), xp.float64)
    out = []
    for given, value in zip(arrays, values, strict=True):
        if not is_array_api_obj(given):
            value = xp.asarray(value) if np.iscomplexobj(value) else xp.asarray(value, dtype=dtype)
        kinds = ("real floating", "complex floating")
        out.append(value if xp.isdtype(value.dtype, kinds) else xp.astype(value, dtype))
    return (xp, *out)


def singular_values(*arrays: Any) -> tuple[Any, ...]:
    """Return ``(xp, *arrays)`` as floating arrays after checking that all are finite and non-negative."""
    xp, *values = floating(*arrays)
    for a in values:
        if not bool(xp.all((a >= 0) & (a < math.inf))):
            bad = a[~((a >= 0) & (a < math.inf))]
            raise ValueError(
                f"singular values must be finite and non-negative, got {float(xp.reshape(bad, (-1,))[0])}; "
                "take them from an SVD."
            )
    return (xp, *values)


def finite(xp: Any, array: Any, name: str) -> None:
    """Raise if ``array`` holds NaN or infinity."""
    if not bool(xp.all(xp.isfinite(array))):
        raise ValueError(f"{name} holds NaN or infinite entries; remove or replace them first.")


def real(value: Any, name: str) -> np.ndarray:
    """Return ``value`` as a NumPy array of real numbers, of any type; raises as :func:`numbers`."""
    return numbers(value, name)


def numbers(value: Any, name: str, field: Field = "real") -> np.ndarray:
    """Return ``value`` as a NumPy array of numbers of a field, of any type.

    Raises
    ------
    TypeError
        If it is no array of such numbers, or a masked one, whose mask would be lost. The imaginary part of a complex
        one is not dropped either.
    """
    if type(value) is np.ndarray and value.dtype == np.float64:
        return value  # the common case
    if _is_masked(value):
        raise TypeError(f"{name} must be real numbers, got a masked array, whose mask would be lost; fill it.")
    if hasattr(value, "toarray"):
        raise TypeError(f"{name} must be an array, got a sparse {type(value).__name__}; pass its toarray().")
    try:
        array = np.asarray(value)
    except (TypeError, ValueError, RuntimeError) as error:  # ragged lists; tensors with a gradient or elsewhere
        raise TypeError(f"{name} must be real numbers, got {type(value).__name__}: {error}") from error
    if array.dtype.kind == "c" and field == "real":
        raise _not_real(name, array.dtype)
    if array.dtype.kind not in "biufc":
        kind = "real" if field == "real" else "real or complex"
        raise TypeError(f"{name} must be {kind} numbers, got an array of {array.dtype}.")
    return array


def _not_real(name: str, dtype: Any) -> TypeError:
    return TypeError(
        f"{name} must be real numbers, got an array of {dtype}, whose imaginary part would be lost; where complex "
        'matrices are supported (docs/complex.md), say so by field="complex".'
    )


def _is_masked(value: Any) -> bool:
    """Whether it is a masked array, or a list of some, of which NumPy drops the masks."""
    return isinstance(value, np.ma.MaskedArray) or (isinstance(value, (list, tuple)) and any(map(_is_masked, value)))


def returned(
    value: Any,
    shape: tuple[int, ...],
    name: str,
    *,
    finite: bool = True,
    dtype: Any = np.float64,
    remedy: str = "",
    field: Field = "real",
) -> np.ndarray:
    """Return what a user's function gave as a NumPy array of exactly the shape that is expected.

    Nothing is broadcast, and no imaginary part or mask is dropped.

    It is refused as by :func:`real`, of another shape, with the remedy in words, and with ``finite`` where an entry is
    not finite; not at the trial points of a solver, which backs off. A ``dtype`` of None leaves floating-point numbers
    in their own precision. Of a complex ``field``, real numbers become complex.
    """
    value = numbers(value, name, field)
    if value.shape != tuple(shape):
        remedy = remedy or "Nothing is broadcast or reshaped: return this shape."
        raise ValueError(f"{name} has shape {value.shape}; expected {tuple(shape)}. {remedy}")
    if dtype is None:
        dtype = value.dtype if value.dtype.kind == "f" else np.float64
    value = value.astype(np.result_type(dtype, np.complex64) if field == "complex" else dtype, copy=False)
    if finite and not np.isfinite(value).all():
        place = tuple(np.argwhere(~np.isfinite(value))[0].tolist())
        raise ValueError(
            f"{name} holds NaN or infinite entries, the first {value[place]} at {place}; check the function there."
        )
    return value
