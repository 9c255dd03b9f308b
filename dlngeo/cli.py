"""The command line: ``dlngeo compare``."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode="markdown")


@app.callback()
def main() -> None:
    """Explore the Riemannian geometry of the deep linear network."""


@app.command()
def compare(
    data: Annotated[
        Path | None,
        typer.Argument(
            metavar="DATA",
            help="A matrix: .npy, .npz, .csv or .mtx; NaN, empty cells and absent entries are missing. "
            "By default a photograph that scikit-learn ships.",
            show_default=False,
        ),
    ] = None,
    rank: Annotated[int | None, typer.Option(help="Rank of the model.", show_default="20, or less if small")] = None,
    depths: Annotated[str, typer.Option(help="Depths of the network, comma-separated.")] = "1,2,3,8,inf",
    observed: Annotated[
        float | None,
        typer.Option(
            help="Fraction of the known entries that is shown; the rest tests.",
            show_default="0.1; 0.8 if entries are missing",
        ),
    ] = None,
    start: Annotated[float, typer.Option(help="Initial singular values; the data are standardised.")] = 1e-3,
    iterations: Annotated[int, typer.Option(help="Limit of iterations for each method.")] = 500,
    patience: Annotated[
        int | None,
        typer.Option(
            help="Stop after so many iterations without improvement on validation entries.", show_default="never"
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the choice of entries and of the start.")] = 0,
    picture: Annotated[
        bool, typer.Option("--picture", help="DATA is a grey picture, up to 1 or 255: report the PSNR too.")
    ] = False,
    output: Annotated[Path, typer.Option(help="Folder for figure.png and result.json.")] = Path("dlngeo-compare"),
) -> None:
    """Complete a matrix with most of its entries missing, at several depths and by other methods.

    Every method gets the same entries, and every manifold the same small start. A tenth of the entries shown chooses
    when to stop; the errors reported are on entries that no method sees. Ctrl-C keeps what is done.
    """
    # Imported here so that --help does not wait for the compilers and solvers.
    from dlngeo.compare import DataError, Settings, load, photograph, save, table
    from dlngeo.compare import compare as run

    try:
        settings = Settings(rank, _depths(depths), observed, start, iterations, patience, seed)
        matrix = photograph() if data is None else load(data, picture=picture)
    except (DataError, ValueError) as error:
        _fail(str(error))

    console = Console(highlight=False)
    with _progress() as progress:
        bars: dict[str, int] = {}

        def tick(name: str, iteration: int) -> None:
            if name not in bars:
                bars[name] = progress.add_task(name, total=None if name == "ALS" else iterations)
            progress.update(bars[name], completed=iteration)  # type: ignore[arg-type]

        try:
            result = run(matrix, settings, tick=tick)
        except ValueError as error:
            progress.stop()
            _fail(str(error))

    if not result["rows"]:
        _fail("interrupted before anything was done; nothing is written.", code=130)
    try:  # to save comes before to print: the reader of a pipe may have gone
        written = save(result, output)
    except OSError as error:
        console.print(table(result))
        _fail(f"cannot write to {output}: {error.strerror}")
    console.print(table(result))
    for path in written:
        console.print(f"wrote {path}", soft_wrap=True, markup=False)
    if result["status"] == "interrupted":
        _fail("interrupted: the rows above were kept.", code=130)


def _depths(text: str) -> tuple[float, ...]:
    out: list[float] = []
    for word in text.split(","):
        try:
            depth = float(word.replace("∞", "inf"))
        except ValueError:
            raise ValueError(f"depths must be numbers such as 1,2,3,8,inf, got {word!r}.") from None
        if math.isnan(depth):
            raise ValueError("depths must be numbers such as 1,2,3,8,inf, got nan.")
        if depth not in out:
            out.append(depth)
    return tuple(out)


def _progress() -> Progress:
    console = Console(stderr=True)
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed:.0f}"),
        TimeElapsedColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )


def _fail(message: str, code: int = 2) -> NoReturn:
    """End with one line on standard error."""
    line = f"dlngeo: {' '.join(message.split())}"
    typer.echo(line.encode("utf-8", "replace").decode(), err=True)  # a file name need not be text
    raise typer.Exit(code)
