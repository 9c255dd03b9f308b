"""Validation of observed entries, and their extraction from dense and sparse matrices."""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.sparse

from dlngeo import _check

__all__ = ["csr", "of_matrix", "of_sparse", "real", "samples"]


def csr(rows: Any, cols: Any, values: Any, shape: tuple[int, int], dtype: Any = np.float64) -> scipy.sparse.csr_array:
    """Return the entries in canonical CSR form (sorted), after checking them; ``values`` are copied to ``dtype``."""
    field: _check.Field = "complex" if np.dtype(dtype).kind == "c" else "real"
    rows, cols = _indices(rows, "rows", shape[0]), _indices(cols, "cols", shape[1])
    values = _check.numbers(values, "values", field)
    if values.ndim != 1 or not rows.size == cols.size == values.size:
        raise ValueError(
            f"rows, cols and values must be of one length, got {rows.size}, {cols.size} and shape {values.shape}."
        )
    if not values.size:
        raise ValueError("there are no observed entries; give at least one.")
    with np.errstate(over="ignore"):
        values = values.astype(dtype, copy=False)
    bad = np.flatnonzero(~np.isfinite(values))
    if bad.size:
        k = bad[0]
        raise ValueError(
            f"{bad.size} observed values are not finite, the first {values[k]} at ({rows[k]}, {cols[k]}); "
            "leave missing entries out."
        )

    # Linear in the entries, rows being buckets; SciPy takes 32 bits for indices where they suffice.
    matrix = scipy.sparse.coo_array((values, (rows, cols)), shape=shape).tocsr()
    if matrix.nnz < values.size:
        order = np.lexsort((cols, rows))
        rows, cols = rows[order], cols[order]
        k = np.flatnonzero((rows[1:] == rows[:-1]) & (cols[1:] == cols[:-1]))[0]
        raise ValueError(
            f"{values.size - matrix.nnz} entries are repeated, the first at ({rows[k]}, {cols[k]}); merge them first, "
            "for example by their mean or their sum (scipy.sparse.coo_array(...).sum_duplicates())."
        )
    return matrix


def real(value: Any, name: str, ndim: int) -> np.ndarray:
    """Return ``value`` as a non-empty float64 array with ``ndim`` axes and finite entries."""
    array = _check.real(value, name)
    if array.ndim != ndim or not array.size:
        raise ValueError(f"{name} must have {ndim} axes and at least one entry, got shape {array.shape}.")
    array = array.astype(np.float64)
    if not np.isfinite(array).all():
        raise ValueError(f"{name} must be finite, got NaN or infinite entries; leave out what is missing.")
    return array


def samples(inputs: Any, outputs: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return inputs and outputs as finite matrices with one column for each sample."""
    inputs, outputs = real(inputs, "inputs", 2), real(outputs, "outputs", 2)
    if inputs.shape[1] != outputs.shape[1]:
        raise ValueError(
            f"inputs {inputs.shape} and outputs {outputs.shape} must have as many columns, one for each sample."
        )
    return inputs, outputs


def of_matrix(
    matrix: Any, observed: Any, field: _check.Field = "real"
) -> tuple[np.ndarray, np.ndarray, np.ndarray, tuple[int, int]]:
    """Return ``(rows, cols, values, shape)`` of the entries that are not missing and where ``observed`` holds."""
    if scipy.sparse.issparse(matrix):
        raise TypeError("the matrix is sparse; use from_sparse, which takes its stored entries as observed.")
    hidden = np.ma.getmaskarray(matrix) if isinstance(matrix, np.ma.MaskedArray) else None
    if hidden is not None:
        matrix = matrix.data
    elif hasattr(matrix, "to_numpy") and hasattr(matrix, "columns"):  # a table, whose missing numbers may be pandas.NA
        try:
            matrix = matrix.to_numpy(dtype=np.float64, na_value=np.nan)
        except (TypeError, ValueError) as error:
            raise TypeError(f"the table must hold numbers alone: {error}; drop or encode the other columns.") from error
    matrix = _check.numbers(matrix, "the matrix", field)
    if matrix.ndim != 2:
        raise ValueError(f"a matrix has two axes, got an array of shape {matrix.shape}.")
    observed = (
        ~np.isnan(matrix if matrix.dtype.kind == "c" else matrix.astype(np.float64))
        if observed is None
        else _check.real(observed, "observed")
    )
    if observed.dtype != bool or observed.shape != matrix.shape:
        raise ValueError(
            f"observed must be a boolean array of shape {matrix.shape}, got {observed.dtype} of shape {observed.shape}."
        )
    rows, cols = np.nonzero(observed if hidden is None else observed & ~hidden)
    return rows, cols, matrix[rows, cols], matrix.shape


def of_sparse(matrix: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray, tuple[int, int]]:
    """Return ``(rows, cols, values, shape)`` of the stored entries of a SciPy sparse matrix."""
    if not scipy.sparse.issparse(matrix):
        raise TypeError(f"a SciPy sparse matrix is expected, got {type(matrix).__name__}; use from_matrix for arrays.")
    coo = matrix.tocoo()
    return coo.row, coo.col, coo.data, coo.shape


def _indices(value: Any, name: str, bound: int) -> np.ndarray:
    """Return a 1-D integer array with entries in ``[0, bound)``."""
    if np.size(value) == 0:
        value = np.zeros(np.shape(value), np.int64)
    array = _check.real(value, name)
    if array.ndim != 1:
        raise ValueError(f"{name} must have one axis, got shape {array.shape}.")
    if array.dtype.kind not in "iu":
        raise TypeError(f"{name} must be integers, got an array of {array.dtype}.")
    low, high = array.min(initial=0), array.max(initial=0)
    if low < 0 or high >= bound:
        raise ValueError(f"{name} must lie in [0, {bound}), got {low if low < 0 else high}; indices count from 0.")
    return array if array.dtype in (np.int32, np.int64) else array.astype(np.int64)
