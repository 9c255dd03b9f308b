"""Read a matrix from a file that a stranger made: every fault becomes one line, and nothing in it is ever executed."""

from __future__ import annotations

import math
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import scipy.io
import scipy.sparse

from dlngeo.jobs.frames import READERS, read_frame
from dlngeo.jobs.tables import DataError, Form, read_table

__all__ = ["Data", "DataError", "load", "photograph"]

# The comparison works on dense copies; this is 200 MB for each.
MAX_ENTRIES = 25_000_000
_MAX_BYTES = 16 * MAX_ENTRIES
_NAMES = ("arr", "matrix", "X", "data", "arr_0")


@dataclass(frozen=True, eq=False)
class Data:
    """A matrix of float64, NaN where missing, and what it is from.

    A picture has a ``peak``, the largest possible grey value; a table a ``form``, with the names of rows and columns.
    Where ``shown`` is given, the entries at which it is true are those to show, unless a fraction is asked for.
    """

    name: str
    matrix: np.ndarray
    peak: float | None = None
    form: Form | None = None
    shown: np.ndarray | None = None


def photograph(name: str = "china.jpg", shrink: int = 2) -> Data:
    """Load a photograph that scikit-learn ships: its grey central square, ``shrink``² pixels averaged into one.

    Grey values are the luma 0.299 R + 0.587 G + 0.114 B, in [0, 1].
    """
    from sklearn.datasets import load_sample_image

    grey = load_sample_image(name) @ np.array([0.299, 0.587, 0.114]) / 255
    side = min(grey.shape) // shrink * shrink
    top, left = (grey.shape[0] - side) // 2, (grey.shape[1] - side) // 2
    square = grey[top : top + side, left : left + side]
    small = square.reshape(side // shrink, shrink, side // shrink, shrink).mean(axis=(1, 3))
    return Data(f"scikit-learn's {name}, grey, {small.shape[0]}×{small.shape[1]}", small, peak=1.0)


def load(
    path: str | Path,
    *,
    picture: bool = False,
    whole: bool = False,
    long: bool | None = None,
    index: bool | None = None,
    header: bool | None = None,
) -> Data:
    """Read a matrix from ``.npy``, ``.npz``, ``.csv``, ``.tsv`` or ``.mtx``, or from a table that pandas reads.

    The file is a NumPy array; an archive that holds one matrix (or one called ``arr``, ``matrix``, ``X`` or ``data``),
    or a SciPy sparse matrix; a table of numbers between commas, semicolons or tabs; or a Matrix Market file. NaN, empty
    cells and absent entries of a sparse matrix or long table are missing.

    A ``picture`` is grey, with values up to 1 or, if any is larger, up to 255. Of a ``whole`` matrix every entry is
    asked for, rather than enough of them to complete the others. A line of a ``long`` table holds the name of a row,
    that of a column and a value, rather than a row; with ``index`` the first column, with ``header`` the first line
    holds names. What is not said of the three is recognised.

    A DataError tells that there is no usable matrix in the file, or it may be read in two ways. Pickled objects are
    never loaded.
    """
    path, form = Path(path), None
    readers = {".npy": _npy, ".npz": _npz, ".csv": read_table, ".mtx": _mtx, ".tsv": read_table}
    reader: Any = read_frame if path.suffix.lower() in READERS else readers.get(path.suffix.lower())
    try:
        if reader is None:
            raise DataError(
                f"cannot read {path.suffix or 'a file without a suffix'}; use {', '.join((*readers, *READERS))}"
            )
        if path.is_dir():
            raise DataError("is a folder")
        if path.stat().st_size == 0:
            raise DataError("is empty")
        if path.stat().st_size > _MAX_BYTES:
            raise DataError(
                f"is too large ({path.stat().st_size / 1e6:.0f} MB); at most {_MAX_BYTES / 1e6:.0f} MB are read"
            )
        if reader is read_table:
            matrix, form = read_table(path, lambda *shape: _check_header(shape, np.dtype(float)), long, index, header)
        elif reader is read_frame and header is None:
            matrix, form = read_frame(path, lambda *shape: _check_header(shape, np.dtype(float)), long, index)
        elif (long, index, header) != (None, None, None):
            raise DataError("is no table of text, to which alone long, index and header apply; leave them out")
        else:
            matrix = reader(path)
        matrix = _checked(matrix, whole)
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except DataError as error:
        raise DataError(f"{path}: {error}") from None
    except Exception as error:  # a file may make its reader fail in any way
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        raise DataError(f"{path}: not a readable {path.suffix} file ({reason})") from None
    name = path.name.encode("utf-8", "replace").decode()
    return Data(name, matrix, (255.0 if np.nanmax(matrix) > 1 else 1.0) if picture else None, form)


def _checked(matrix: np.ndarray, whole: bool) -> np.ndarray:
    """Return the matrix as float64 after checking that it can be completed, or is whole."""
    _check_header(matrix.shape, matrix.dtype)
    matrix = matrix.astype(np.float64)
    if np.isinf(matrix).any():
        raise DataError("holds infinite entries; mark missing ones by NaN")
    known = matrix[~np.isnan(matrix)]
    if known.size == 0:
        raise DataError("all entries are missing")
    if whole and known.size < matrix.size:
        raise DataError(f"{matrix.size - known.size} of {matrix.size} entries are missing; give all of them")
    if known.size < 20 and not whole:
        raise DataError(f"only {known.size} entries are known; at least 20 are needed")
    with np.errstate(over="ignore"):
        spread = known.std()
    if known.min() == known.max() and not whole:
        raise DataError(f"all known entries equal {known[0]:g}; there is nothing to complete")
    if not (spread > 0 or whole) or spread == math.inf:
        raise DataError("its entries are too large or too small (beyond about 1e±150); rescale them")
    return matrix


def _check_header(shape: tuple[int, ...], dtype: np.dtype) -> None:
    """Refuse what cannot be a matrix, before its entries are read."""
    if dtype.hasobject:
        raise DataError("holds Python objects (a pickle), which are never loaded; save plain numbers")
    if dtype.kind not in "biuf":
        raise DataError(f"holds no real numbers but {dtype}")
    if len(shape) != 2:
        raise DataError(f"holds an array of shape {tuple(map(int, shape))}; a matrix has two axes")
    if min(shape) < 2:
        raise DataError(f"is {shape[0]}×{shape[1]}; at least 2×2 is needed")
    if math.prod(map(int, shape)) > MAX_ENTRIES:
        raise DataError(
            f"is too large ({shape[0]}×{shape[1]}); at most {MAX_ENTRIES / 1e6:g} million entries are compared"
        )


def _npy(path: Path) -> np.ndarray:
    with path.open("rb") as file:
        _check_header(*_npy_header(file))
    return np.load(path, allow_pickle=False)


def _npy_header(file: Any) -> tuple[tuple[int, ...], np.dtype]:
    """Shape and type that a .npy file claims, from its header alone."""
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(file)
    return shape, dtype


def _npz(path: Path) -> np.ndarray:
    with zipfile.ZipFile(path) as archive:
        headers = {}
        for member in archive.infolist():
            if not member.filename.endswith(".npy"):
                continue
            with archive.open(member) as file:
                headers[member.filename[:-4]] = _npy_header(file)
            if member.file_size > _MAX_BYTES:
                raise DataError(f"{member.filename} in it is too large")
    if {"format", "shape", "data"} <= headers.keys():
        return _dense_of_npz(path, headers)
    matrices = [name for name, (shape, dtype) in headers.items() if len(shape) == 2 and dtype.kind in "biuf"]
    names = [name for name in _NAMES if name in headers]
    found = list(headers) if len(headers) == 1 else matrices if len(matrices) == 1 else names
    if not found:
        raise DataError(f"holds {len(matrices)} matrices among {sorted(headers)[:9]}; keep one, or call it arr")
    name = found[0]
    _check_header(*headers[name])
    with np.load(path, allow_pickle=False) as arrays:
        return arrays[name]


def _dense_of_npz(path: Path, headers: dict[str, tuple[tuple[int, ...], np.dtype]]) -> np.ndarray:
    if any(dtype.hasobject for _, dtype in headers.values()):
        raise DataError("holds Python objects (a pickle), which are never loaded; save plain numbers")
    with np.load(path, allow_pickle=False) as arrays:
        _check_header(tuple(int(d) for d in arrays["shape"]), headers["data"][1])
    matrix = scipy.sparse.load_npz(path)
    if matrix.format in ("csr", "csc", "bsr"):
        matrix.check_format(full_check=True)  # indices out of range would otherwise crash the conversion
    return _dense(matrix)


def _dense(matrix: Any) -> np.ndarray:
    """Dense copy of a sparse matrix, NaN where nothing is stored."""
    coo = matrix.tocoo()
    _check_header(coo.shape, coo.dtype)
    dense = np.full(coo.shape, np.nan)
    dense[coo.row, coo.col] = coo.data
    if np.count_nonzero(~np.isnan(dense)) != np.count_nonzero(~np.isnan(coo.data)):
        raise DataError("stores some entries twice; merge them first")
    return dense


def _mtx(path: Path) -> np.ndarray:
    rows, cols, _, _, field, _ = scipy.io.mminfo(path)
    kinds = {"real": np.dtype(float), "integer": np.dtype(int), "unsigned-integer": np.dtype(np.uint64)}
    if field not in kinds:
        raise DataError(f"holds no real numbers but entries of type {field}")
    _check_header((rows, cols), kinds[field])
    matrix = scipy.io.mmread(path)
    return _dense(matrix) if scipy.sparse.issparse(matrix) else np.asarray(matrix)
