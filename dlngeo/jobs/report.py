"""Show a result as a table, and write it to a folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from dlngeo import plotting
from dlngeo.jobs import output as _files

__all__ = ["save", "table"]

_NOTES = (
    "Errors are relative, on the test entries: 1 is predicting the mean. The first is at the point with the smallest "
    "error on the validation entries.",
    "Effective rank: exp of the entropy of σ/Σσ.",
)


def table(result: dict[str, Any]) -> Group:
    """Make the table of a result, with its notes; the smallest held-out error of a method is in bold."""
    data = result["data"]
    columns = [
        "",
        "held-out\nerror",
        "PSNR\n(dB)",
        "error at\nthe end",
        "effective\nrank",
        "iterations\nbest/all",
        "seconds",
    ]
    cells = [_cells(row) for row in result["rows"]]
    errors = [row["error"] for row in result["rows"] if row["history"]]
    for row, line in zip(result["rows"], cells, strict=True):
        if row["history"] and row["error"] == min(errors):
            line[1] = f"[bold]{line[1]}[/bold]"
    if data["peak"] is None:
        del columns[2]
        for line in cells:
            del line[2]
    out = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for k, heading in enumerate(columns):
        out.add_column(heading, justify="right" if k else "left", no_wrap=True)
    for line in cells:
        out.add_row(*line)
    return Group(
        Text(
            f"{data['name']}: {data['n_train']} entries fitted, {data['n_validation']} choose when to stop, "
            f"{data['n_test']} test"
        ),
        out,
        *map(Text, (*_NOTES, *result["notes"])),
        *(Text(f"{row['name']} ended: interrupted.") for row in result["rows"] if row["status"] == "interrupted"),
    )


def _cells(row: dict[str, Any]) -> list[str]:
    has_path = bool(row["history"])
    return [
        row["name"],
        f"{row['error']:.3f}",
        "" if row["psnr"] is None else f"{row['psnr']:.1f}",
        f"{row['last_error']:.3f}" if has_path else "",
        f"{row['effective_rank']:.1f}",
        f"{row['best_iteration']}/{row['iterations']}" if has_path else "",
        f"{row['seconds']:.1f}",
    ]


def save(result: dict[str, Any], folder: str | Path) -> tuple[Path, Path]:
    """Write ``result.json`` and ``figure.png`` into a folder; see :func:`dlngeo.jobs.output.save`."""
    return _files.save(result, folder, plotting.compare_figure)
