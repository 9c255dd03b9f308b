"""What users' functions return to the samplers, checked: one value for each chain, of its shape, real and finite."""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["finite_or_raise", "returned"]


def returned(values: Any, shape: tuple[int, ...], what: str, *, finite: bool = True) -> np.ndarray:
    """Return what a function of all chains at once gave, as an array of floating-point numbers.

    Raises
    ------
    TypeError
        If the values are not real numbers.
    ValueError
        If their shape is another one, or with ``finite`` some are not finite.
    """
    array = np.asarray(values)
    if array.dtype.kind not in "fiub":
        raise TypeError(f"{what} must be real numbers, got an array of {array.dtype}.")
    if array.shape != shape:
        raise ValueError(
            f"{what} has shape {array.shape}; expected {shape}. The function gets all {shape[0]} chains at once, and "
            "must treat each apart."
        )
    array = array.astype(float, copy=False)
    if finite:
        finite_or_raise(array, what)
    return array


def finite_or_raise(values: np.ndarray, what: str) -> None:
    """Raise if values hold NaN or infinity."""
    if not np.isfinite(values).all():
        raise ValueError(
            f"{what} holds NaN or infinite entries where the chains stand; check it at the initial points."
        )
