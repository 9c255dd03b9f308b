"""What a job writes: a file for programs and a picture, each moved into place when it is complete."""

from __future__ import annotations

import json
import math
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table

__all__ = ["columns", "depth_name", "json_depth", "replace", "save"]


def json_depth(depth: float) -> float | str:
    """Return a depth as JSON holds it, which has no infinity."""
    return "inf" if math.isinf(depth) else float(depth)


def depth_name(depth: float) -> str:
    """Return the name of the row of a depth."""
    return f"depth {'∞' if math.isinf(depth) else f'{depth:g}'}"


def columns(*headings: str) -> Table:
    """Make a table of figures: the first column to the left, the others to the right."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for k, heading in enumerate(headings):
        table.add_column(heading, justify="right" if k else "left", no_wrap=True)
    return table


def replace(path: Path, write: Callable[[Path], Any]) -> Path:
    """Let ``write`` fill a temporary file beside ``path``, and move it there.

    Raises
    ------
    OSError
        If the folder cannot be written.
    """
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}-", suffix=path.suffix)
    os.close(handle)
    temporary = Path(name)
    try:
        write(temporary)
        temporary.chmod(0o644)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return path


def save(result: dict[str, Any], folder: str | Path, draw: Callable[[dict[str, Any]], Any]) -> tuple[Path, Path]:
    """Write ``result.json`` and ``figure.png`` into a folder, made if need be.

    Parameters
    ----------
    result : dict
        What JSON can hold, without NaN or infinity.
    folder : str or Path
        Folder.
    draw : callable
        Result → matplotlib figure. It is given what was written, so that the file is known to suffice.

    Returns
    -------
    json, figure : Path
        The files.

    Raises
    ------
    OSError
        If the folder cannot be written.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(result, allow_nan=False, ensure_ascii=False)
    written = replace(folder / "result.json", lambda path: path.write_text(text, encoding="utf-8"))
    figure = draw(json.loads(text))
    return written, replace(folder / "figure.png", lambda path: figure.savefig(path, dpi=150))
