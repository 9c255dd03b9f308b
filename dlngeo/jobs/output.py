"""What a job writes: a file for programs and a picture, each moved into place when it is complete."""

from __future__ import annotations

import fcntl
import json
import math
import os
import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from rich.text import Text

__all__ = ["Figures", "History", "depth_name", "figure_name", "json_depth", "replace", "save"]

_FORMATS = ".png", ".pdf", ".svg"


def json_depth(depth: float) -> float | str:
    """Return a depth as JSON holds it, which has no infinity."""
    return "inf" if math.isinf(depth) else float(depth)


def depth_name(depth: float) -> str:
    """Return the name of the row of a depth."""
    return f"depth {'∞' if math.isinf(depth) else f'{depth:g}'}"


class Figures:
    """A table of figures, the columns in order of importance: the last ones go where the terminal is too narrow."""

    def __init__(self, headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        self._headings, self._rows = headings, rows

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for count in range(len(self._headings), 1, -1):
            table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
            for k, heading in enumerate(self._headings[:count]):
                table.add_column(heading, justify="right" if k else "left", no_wrap=True, overflow="fold")
            for row in self._rows:
                table.add_row(*row[:count])
            if table.__rich_measure__(console, options.update_width(10_000)).maximum <= options.max_width:
                break
        yield table
        if hidden := [" ".join(heading.split()) for heading in self._headings[count:]]:
            yield Text(f"Too narrow for: {', '.join(hidden)}.")


class History:
    """Records a path at iterations 0, 1, … 20 and then ever more sparsely, so that watching stays cheap."""

    def __init__(self, *columns: str) -> None:
        self._next = 0
        self.columns: dict[str, list[Any]] = {name: [] for name in columns}

    def add(self, iteration: int, values: Callable[[], Sequence[Any]]) -> None:
        """Record the values, one for each column, if it is time; they are computed only then."""
        if iteration < self._next:
            return
        self._next = max(iteration + 1, math.ceil(iteration * 1.04))
        for column, value in zip(self.columns.values(), values(), strict=True):
            column.append(value)

    def close(self, iteration: int, values: Callable[[], Sequence[Any]]) -> None:
        """Record the last iteration, unless it was."""
        self._next = 0
        if not (first := next(iter(self.columns.values()))) or first[-1] != iteration:
            self.add(iteration, values)


def replace(path: Path, write: Callable[[Path], Any]) -> Path:
    """Let ``write`` fill a temporary file beside ``path``, and move it there; and remove those of killed processes."""
    for left in path.parent.glob(f".{path.stem}-????????{path.suffix}"):
        with suppress(OSError), left.open() as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # which the process that writes it would hold
            left.unlink()
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}-", suffix=path.suffix)
    fcntl.flock(handle, fcntl.LOCK_EX)
    temporary = Path(name)
    try:
        write(temporary)
        temporary.chmod(0o644)
        temporary.replace(path)
    finally:
        os.close(handle)
        temporary.unlink(missing_ok=True)
    return path


def figure_name(name: str) -> str:
    """Return the name of a file for a figure, once its suffix is that of a format, in either case."""
    if Path(name).name != name or Path(name).suffix.lower() not in _FORMATS or Path(name).stem.startswith("."):
        raise ValueError(
            f"the figure must be the name of a file in the output folder that ends in {', '.join(_FORMATS[:-1])} or "
            f"{_FORMATS[-1]}, got {name!r}."
        )
    return name


def save(
    result: dict[str, Any],
    folder: str | Path,
    draw: Callable[[dict[str, Any]], Any],
    figure: str = "figure.png",
) -> tuple[Path, Path]:
    """Write ``result.json`` and the figure into a folder, made if need be, and return their paths.

    The result is what JSON can hold. ``draw`` is given what was written, so that the file is known to suffice. The
    suffix of ``figure`` tells its format: .png, .pdf or .svg. A ValueError tells that it is another, an OSError
    that the folder cannot be written.
    """
    figure_name(figure)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(result, allow_nan=False, ensure_ascii=False)
    written = replace(folder / "result.json", lambda path: path.write_text(text, encoding="utf-8"))
    picture = draw(json.loads(text))
    return written, replace(folder / figure, lambda path: picture.savefig(path, dpi=150))
