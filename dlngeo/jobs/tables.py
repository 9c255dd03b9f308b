"""Read tables of text: matrices with or without names, and long tables of (row, column, value)."""

from __future__ import annotations

import csv
import itertools
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pandas as pd

__all__ = ["DataError", "Form", "read_table"]

_MISSING = {"", "na", "n/a", "nan", "null", "none", "?"}
_PEEK = 1000  # lines that tell the form
_INTEGER = re.compile(r"\d{1,15}")
_DECIMAL_COMMA = re.compile(r"[-+]?\d*,\d+(?:[eE][-+]?\d+)?")
_THOUSANDS = re.compile(r"[-+]?[1-9]\d{0,2},\d{3}")
_INDEX_NAMES = {"id", "index", "row", "unnamed: 0"}
_VALUE_NAMES = {"count", "rating", "score", "stars", "value", "weight"}

Cells = list[str]


class DataError(ValueError):
    """A data file that cannot be used; the message is one line and says why."""


@dataclass(frozen=True)
class Form:
    """How a table is written: what parts its cells, its decimal point, and its names, None where it has none.

    It is ``long`` if a line holds the name of a row, that of a column and a value, rather than a row. ``names`` are the
    first cells of the first line if that holds names: the one above the names of the rows, if these have a column; or
    those of the three columns of a long table.
    """

    long: bool
    rows: tuple[Any, ...] | None
    columns: tuple[Any, ...] | None
    names: tuple[Any, ...]
    separator: str
    decimal: str
    unused: tuple[Any, ...] = ()  # columns of a long table after the third


def read_table(
    path: Path, check: Callable[[int, int], None], long: bool | None, index: bool | None, header: bool | None
) -> tuple[np.ndarray, Form]:
    """Read a table; where long, index or header is None, its first lines tell.

    A DataError tells that it is no table of numbers, ``check`` refuses its shape, or it may be read in two ways: which,
    and with what option.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            separator = _separator(list(itertools.islice((line for line in file if line.strip()), 50)))
            file.seek(0)
            lines = _lines(csv.reader(file, delimiter=separator))
            peek = list(itertools.islice(lines, _PEEK))
            cells = [row for _, row in peek]
            if not cells:
                raise DataError("holds no numbers")
            decimal, width = _decimal(cells, separator), len(cells[0])
            named = all(map(_named, cells[0])) and header is not False and index is not False
            if named and {len(row) for row in cells[1:]} == {width + 1}:
                # as R writes it, with no name above those of the rows
                width += 1
                cells[0] = ["", *cells[0]]
                peek[0] = peek[0][0], cells[0]
            if width > 2 and not any(map(itemgetter(-1), cells)) and any(map(any, cells)):
                width -= 1  # a separator ends each line
            cells = [row[:width] for row in cells]
            if long is None:
                long = _is_long(cells)
            if long:
                index = _numbered(cells) if index is None else index
                if width < 3 + index:
                    raise DataError(f"has {width - index} columns; a long table has three: row, column and value")
                header = _named(cells[0][2 + index]) if header is None else header
            else:
                index, header = _wide_form(cells, index, header)
            rows = _even(itertools.chain(peek, lines), width)
            names = next(rows)[1] if header else []
            if long:
                return _pivoted(rows, names, index, separator, decimal, check)
            start, blocks, labels = int(index), [], []
            while chunk := list(itertools.islice(rows, _PEEK)):
                labels += [row[0] for _, row in chunk] if index else []
                blocks.append(_numbers(chunk, start, width, decimal))
                check(sum(map(len, blocks)), width - start)
    except UnicodeDecodeError:
        raise DataError("is not text") from None
    except csv.Error as error:
        raise DataError(f"is not a table ({error})") from None
    if not blocks:
        raise DataError("holds no numbers")
    columns = tuple(names[start:]) if header else None
    form = Form(False, tuple(labels) if index else None, columns, tuple(names[:start]), separator, decimal)
    return np.concatenate(blocks), form


def _separator(lines: Sequence[str]) -> str:
    """Find what parts the cells: tabs, semicolons or commas, as many in each line."""
    bare = [re.sub(r'"[^"]*"', "", line) for line in lines]
    for mark in "\t;,":
        counts = [line.count(mark) for line in bare]
        if counts and min(counts) > 0 and len(set(counts[1:])) <= 1:
            return mark
    return max(",;\t", key=bare[0].count) if bare else ","


def _lines(reader: Iterator[Cells]) -> Iterator[tuple[int, Cells]]:
    """Lines that are not blank, with their numbers."""
    width = 0
    for row in reader:
        if any(row) or (row and len(row) >= width):
            width = width or len(row)
            yield reader.line_num, row  # type: ignore[attr-defined]


def _even(rows: Iterator[tuple[int, Cells]], width: int) -> Iterator[tuple[int, Cells]]:
    first = 0
    for line, row in rows:
        first = first or len(row)
        if len(row) != first:
            raise DataError(f"line {line} has {len(row)} cells, line 1 has {first}")
        if any(row[width:]):
            raise DataError(f"line {line} has a cell after the separator that ends the others: {row[-1][:30]!r}")
        yield line, row[:width]


def _decimal(cells: Sequence[Cells], separator: str) -> str:
    if separator == ",":
        return "."
    found = [cell.strip() for row in cells for cell in row if _DECIMAL_COMMA.fullmatch(cell.strip())]
    if found and separator == "\t" and all(map(_THOUSANDS.fullmatch, found)):
        raise DataError(f"{found[0]} in it may be a decimal or thousands; write numbers with a point")
    return "," if found else "."


def _number(cell: str) -> bool:
    cell = cell.strip().replace(",", ".", 1)
    return cell.lower() not in _MISSING and not pd.isna(pd.to_numeric(cell, errors="coerce"))


def _named(cell: str) -> bool:
    return cell.strip().lower() not in _MISSING and not _number(cell)


def _integers(cells: Sequence[str]) -> bool:
    return all(_INTEGER.fullmatch(cell.strip()) for cell in cells)


def _counting(cells: Sequence[str]) -> bool:
    """Whether they are at least three whole numbers in a row, as tools number lines and columns, or years."""
    return len(cells) > 2 and _integers(cells) and [int(c) - int(cells[0]) for c in cells] == list(range(len(cells)))


def _ask(what: str, yes: str, no: str) -> NoReturn:
    raise DataError(f"{what}; pass --{yes} or --{no}")


def _is_long(cells: Sequence[Cells]) -> bool:
    """Whether lines are (row, column, value), perhaps after a number of the line."""
    offset = int(_numbered(cells))
    names, body = cells[0][offset:], [row[offset:] for row in cells[1:] if len(row) == len(cells[0])]
    if len(names) not in (3, 4) or len(body) < 3:
        return False
    a, b, values, *_ = zip(*body, strict=True)
    if any(map(_named, values[:50])):
        return False
    pairs = set(zip(a, b, strict=True))
    words = all(map(_named, b[:50])) or (len(names) == 3 and all(map(_named, a[:50])) and len(set(a)) < len(a))
    if words or names[2].strip().lower() in _VALUE_NAMES:
        if len(names) == 4:
            _ask("looks like a long table of row, column, value and a fourth column, to be left out", "long", "wide")
        return True
    counts = len(body) >= 10 and _integers(a) and _integers(b) and len(pairs) == len(body)
    if counts and len(set(a)) < len(a) and len(set(b)) < len(b):
        _ask(f"looks like a long table of row, column and value, or a matrix of {len(names)} columns", "long", "wide")
    return False


def _numbered(cells: Sequence[Cells]) -> bool:
    """Whether the first column has no name and holds whole numbers, none of them twice."""
    column = [row[0].strip() for row in cells[1:] if row]
    return not cells[0][0].strip() and _integers(column) and 0 < len(column) == len(set(column))


def _wide_form(cells: Sequence[Cells], index: bool | None, header: bool | None) -> tuple[bool, bool]:
    """Whether the first column and the first line hold names."""
    first, body = cells[0], [row for row in cells[1:] if row]
    column = [row[0] for row in body]
    if index is None and column and all(map(_named, column)) and not _number(first[0]):
        index = True
    if header is None:
        header = _is_header(first[1:] if index or _numbered(cells) else first, body, _numbered(cells))
    if index is None:
        corner = first[0].strip().lower() if header else None
        index = bool(column) and _numbered(cells) and header
        if not index and column and _integers(column) and len(set(column)) == len(column):
            index = corner in _INDEX_NAMES
            column = column if header else [first[0], *column]
            if not index and _counting(column):
                _ask(f"the first column counts {column[0]}, {column[1]}, … and may be names", "index", "no-index")
        if not index and corner == "" and any(cell.strip() for cell in column):
            _ask("the first column has no name and may be names", "index", "no-index")
    return index, header


def _is_header(first: Cells, body: Sequence[Cells], numbered: bool) -> bool:
    filled = [cell for cell in first if cell.strip().lower() not in _MISSING]
    names = [cell for cell in filled if _named(cell)]
    if names and len(names) < len(filled):
        _ask(f"line 1 holds numbers and what is none, as {names[0][:30]!r}", "header", "no-header")
    if names or not _counting(first):
        return bool(names)
    whole = _integers([cell for row in body[:50] for cell in row if cell.strip()])
    if not numbered and (whole or int(first[0]) > 1):
        _ask(f"line 1 counts {first[0]}, {first[1]}, … and may be names", "header", "no-header")
    return True


def _numbers(chunk: Sequence[tuple[int, Cells]], start: int, width: int, decimal: str) -> np.ndarray:
    """Cells from a column on as numbers, NaN where missing."""
    cells = ["" if c.strip().lower() in _MISSING else c for _, row in chunk for c in row[start:width]]
    if decimal == ",":
        cells = [cell.translate({44: ".", 46: ","}) for cell in cells]
    try:
        pd.to_numeric(np.array(cells, dtype=object))  # which refuses what float takes: 1_0, digits of other scripts
        found = np.array([float(cell) if cell else np.nan for cell in cells])  # to the last digit
    except (ValueError, TypeError):
        bad = np.isnan(pd.to_numeric(np.array(cells, dtype=object), errors="coerce")) & (np.array(cells) != "")
        line, column = divmod(int(np.argmax(bad)), width - start)
        cell = chunk[line][1][start + column][:30]
        hint = "; if that column holds names, pass --index" if start + column == 0 else ""
        raise DataError(
            f"{cell!r} in line {chunk[line][0]}, column {start + column + 1}, is not a number{hint}"
        ) from None
    return found.reshape(len(chunk), width - start)


def _pivoted(
    rows: Iterator[tuple[int, Cells]],
    names: Cells,
    start: bool,
    separator: str,
    decimal: str,
    check: Callable[[int, int], None],
) -> tuple[np.ndarray, Form]:
    """Put a long table into a matrix whose rows and columns are in the order in which they are first named."""
    keys, values, width = [], [], 0
    while chunk := list(itertools.islice(rows, 100 * _PEEK)):
        width = len(chunk[0][1])
        for line, row in chunk:
            if not (row[start].strip() and row[start + 1].strip()):
                raise DataError(f"line {line} names no row or no column")
        keys += [(row[start].strip(), row[start + 1].strip()) for _, row in chunk]
        values.append(_numbers(chunk, start + 2, start + 3, decimal)[:, 0])
    if not keys:
        raise DataError("holds no numbers")
    (i, by_row), (j, by_column) = (pd.factorize(np.array(side, dtype=object)) for side in zip(*keys, strict=True))
    check(len(by_row), len(by_column))
    if len(set(keys)) < len(keys):
        twice = pd.Series(keys)[pd.Series(keys).duplicated()].iloc[0]
        raise DataError(f"has two values at {twice[0]!r}, {twice[1]!r}; merge them first")
    matrix = np.full((len(by_row), len(by_column)), np.nan)
    matrix[i, j] = np.concatenate(values)
    unused = tuple(names[k] if names else k + 1 for k in range(start + 3, width))
    return matrix, Form(
        True, tuple(by_row), tuple(by_column), tuple(names[start : start + 3]), separator, decimal, unused
    )
