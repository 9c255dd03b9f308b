"""Tables in the other formats that pandas reads, and completed tables in all of them."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import scipy.io
import scipy.sparse
from pandas.api.types import is_bool_dtype, is_integer_dtype, is_numeric_dtype

from dlngeo.jobs.tables import DataError, Form

__all__ = ["READERS", "TEXT", "WRITERS", "read_frame", "write_table"]

TEXT = (".csv", ".tsv")
# Not those of pickles (.pkl, .h5), which would be executed.
READERS: dict[str, Callable[[Path], pd.DataFrame]] = {
    ".parquet": pd.read_parquet,
    ".feather": pd.read_feather,
    ".orc": pd.read_orc,
    ".xlsx": pd.read_excel,
    ".xls": pd.read_excel,
    ".ods": pd.read_excel,
    ".json": lambda path: pd.DataFrame(json.loads(path.read_text(encoding="utf-8-sig"))),
    ".dta": pd.read_stata,
    ".sas7bdat": pd.read_sas,
    ".sav": pd.read_spss,
}
WRITERS: dict[str, Callable[[pd.DataFrame, Path], Any]] = {
    ".parquet": lambda frame, path: frame.to_parquet(path, index=False),
    ".feather": lambda frame, path: frame.to_feather(path),
    ".orc": lambda frame, path: frame.to_orc(path, index=False),
    ".xlsx": lambda frame, path: frame.to_excel(path, index=False),
    ".ods": lambda frame, path: frame.to_excel(path, index=False, engine="odf"),
    ".json": lambda frame, path: frame.to_json(path, orient="records", double_precision=15),
    ".dta": lambda frame, path: frame.to_stata(path, write_index=False),
}


def read_frame(
    path: Path, check: Callable[[int, int], None], long: bool | None, index: bool | None
) -> tuple[np.ndarray, Form]:
    """Read a table with ids of any kind: a matrix, NaN where missing, and how it is written.

    It is long where it has three columns, of which the last are numbers and the others name each pair once. A wide one
    has its ids in the first column where that holds no numbers, or they are in the index. What is not said is
    recognised.
    """
    try:
        frame = READERS[path.suffix.lower()](path)
    except ImportError as error:
        raise DataError(
            f"needs a package that is not installed ({error}); install it, or save the table as .csv"
        ) from None
    if not isinstance(frame.index, pd.RangeIndex):
        frame, index = frame.reset_index(names=frame.index.names if None not in frame.index.names else ""), True
    numeric = [is_numeric_dtype(d) and not is_bool_dtype(d) for d in frame.dtypes]
    if frame.shape[1] < 2 or frame.empty:
        raise DataError(f"is {frame.shape[0]}×{frame.shape[1]}; a table has lines and two columns or more")
    if long is None:
        long = frame.shape[1] == 3 and numeric[2] and not index and not frame.iloc[:, :2].duplicated().any()
        if long and all(numeric):
            if all(map(is_integer_dtype, frame.dtypes[:2])):
                raise DataError(
                    "has three columns of numbers, which may be (row, column, value) or a matrix; pass --long or --wide"
                )
            long = False
    if long:
        return _long(frame, check)
    start = int(not numeric[0] if index is None else index)
    bad = [str(name) for name, number in zip(frame.columns[start:], numeric[start:], strict=True) if not number]
    if bad:
        raise DataError(f"the column {bad[0][:30]!r} holds no numbers; leave it out, or make ids the first column")
    matrix = frame.iloc[:, start:].to_numpy(dtype=np.float64, na_value=np.nan)
    check(*matrix.shape)
    rows = tuple(frame.iloc[:, 0]) if start else None
    return matrix, Form(False, rows, tuple(frame.columns[start:]), tuple(frame.columns[:start]), "", ".")


def _long(frame: pd.DataFrame, check: Callable[[int, int], None]) -> tuple[np.ndarray, Form]:
    if frame.shape[1] < 3 or not is_numeric_dtype(frame.dtypes.iloc[2]):
        raise DataError("a long table has three columns: row, column and value, which is a number")
    if (gaps := frame.iloc[:, :2].isna().any(axis=1)).any():
        raise DataError(f"line {int(np.argmax(gaps)) + 1} names no row or no column")
    (i, rows), (j, columns) = (pd.factorize(frame.iloc[:, k]) for k in (0, 1))
    check(len(rows), len(columns))
    if (twice := frame.iloc[:, :2].duplicated()).any():
        first, second = frame.iloc[int(np.argmax(twice)), :2]
        raise DataError(f"has two values at {first!r}, {second!r}; merge them first")
    matrix = np.full((len(rows), len(columns)), np.nan)
    matrix[i, j] = frame.iloc[:, 2].to_numpy(dtype=np.float64, na_value=np.nan)
    return matrix, Form(True, tuple(rows), tuple(columns), tuple(frame.columns[:3]), "", ".", tuple(frame.columns[3:]))


def write_table(path: Path, matrix: np.ndarray, original: np.ndarray, form: Form | None) -> None:
    """Write a completed table in the form it came in; what is NaN stays empty.

    Numbers known in the original keep all digits, others have six. A long table has a line for each entry that is not
    empty. The suffix of the path says the format.
    """
    suffix = path.suffix.lower()
    if suffix == ".npy":
        return np.save(path, matrix)
    if suffix == ".npz":
        return np.savez(path, arr=matrix)
    if suffix == ".mtx":
        rows, columns = np.nonzero(~np.isnan(matrix))
        entries = scipy.sparse.coo_array((matrix[rows, columns], (rows, columns)), matrix.shape)
        return scipy.io.mmwrite(path, entries)
    form = form or Form(False, None, None, (), "," if suffix != ".tsv" else "\t", ".")
    if suffix in TEXT:
        return _text(path, matrix, ~np.isnan(original), form)
    m, n = matrix.shape
    names = form.rows or tuple(range(m)), form.columns or tuple(map(str, range(n)))
    if form.long:
        rows, columns = np.nonzero(~np.isnan(matrix))
        titles = [str(name) for name in form.names] or ["row", "column", "value"]
        sides = (pd.Index(side).take(place) for side, place in zip(names, (rows, columns), strict=True))
        frame = pd.DataFrame(dict(zip(titles, (*sides, matrix[rows, columns]), strict=True)))
    else:
        frame = pd.DataFrame(matrix, columns=[str(name) for name in names[1]])
        if form.rows is not None:
            frame.insert(0, str(form.names[0]) if form.names else "", pd.Index(form.rows))
    return WRITERS[suffix](frame, path)


def _text(path: Path, matrix: np.ndarray, known: np.ndarray, form: Form) -> None:
    def cell(value: float, is_known: bool) -> str:
        text = "" if math.isnan(value) else repr(value).removesuffix(".0") if is_known else f"{value:.6g}"
        return text if form.decimal == "." else text.replace(".", form.decimal)

    separator = form.separator or ("\t" if path.suffix.lower() == ".tsv" else ",")
    names = [str(name) for name in form.names]
    if form.long:
        assert form.rows is not None
        assert form.columns is not None
        lines = (
            (str(row), str(column), cell(value, is_known))
            for row, values, flags in zip(form.rows, matrix.tolist(), known.tolist(), strict=True)
            for column, value, is_known in zip(form.columns, values, flags, strict=True)
            if not math.isnan(value)
        )
        header = names or None
    else:
        labels = form.rows or [None] * len(matrix)
        lines = (
            ([] if label is None else [str(label)]) + [cell(*pair) for pair in zip(values, flags, strict=True)]  # type: ignore[misc]
            for label, values, flags in zip(labels, matrix.tolist(), known.tolist(), strict=True)
        )
        header = None if form.columns is None else [*(names or [""] * (form.rows is not None)), *map(str, form.columns)]
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, delimiter=separator, lineterminator="\n")
        if header is not None:
            writer.writerow(header)
        writer.writerows(lines)
