"""The command line: ``dlngeo compare``, ``dlngeo complete``, ``dlngeo flow`` and ``dlngeo sample``."""

from __future__ import annotations

import errno
import math
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from typer import Argument, Option

Output = Annotated[Path, Option(help="Folder for the figure and result.json.")]
Figure = Annotated[str, Option(help="Name of the figure, ending in .png, .pdf or .svg.")]
Long = Annotated[
    bool | None,
    Option("--long/--wide", help="Lines of a table are (row, column, value), or rows.", show_default="recognised"),
]
Index = Annotated[
    bool | None, Option("--index/--no-index", help="The first column holds names, or not.", show_default="recognised")
]
Header = Annotated[
    bool | None, Option("--header/--no-header", help="The first line holds names, or not.", show_default="recognised")
]

_NOTHING = "interrupted before anything was done; nothing is written."

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode="markdown")


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"dlngeo {version('dlngeo')}")
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool, Option("--version", callback=_version, is_eager=True, help="Print the version, and end.")
    ] = False,
) -> None:
    """Explore the Riemannian geometry of the deep linear network."""
    for stream in (sys.stdout, sys.stderr):  # letters that a terminal has not, and file names that are no text
        stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]


@app.command()
def compare(
    data: Annotated[
        Path | None,
        Argument(
            metavar="DATA",
            help="A matrix: .npy, .npz, .csv, .tsv or .mtx; NaN, empty cells and absent entries are missing. "
            "By default a photograph that scikit-learn ships, and beside it a random matrix of low rank.",
            show_default=False,
        ),
    ] = None,
    rank: Annotated[int | None, Option(help="Rank of the model.", show_default="20, or less if small")] = None,
    depths: Annotated[str, Option(help="Depths of the network, comma-separated.")] = "1,2,3,8,inf",
    observed: Annotated[
        float | None,
        Option(
            help="Fraction of the known entries that is shown; the rest tests.",
            show_default="0.1; 0.8 if entries are missing",
        ),
    ] = None,
    start: Annotated[float, Option(help="Initial singular values; the data are standardised.")] = 1e-3,
    optimizer: Annotated[
        str, Option(help="What moves the depths: flow (gradient flow), cg (conjugate gradients) or trust-regions.")
    ] = "flow",
    iterations: Annotated[
        int | None,
        Option(
            help="Limit of iterations on the manifolds.",
            show_default="flow 120, cg 500, trust-regions 200",
        ),
    ] = None,
    patience: Annotated[
        int | None,
        Option(help="Stop after so many iterations without improvement on validation entries.", show_default="never"),
    ] = None,
    seed: Annotated[int, Option(help="Seed of the choice of entries and of the start.")] = 0,
    picture: Annotated[
        bool, Option("--picture", help="DATA is a grey picture, up to 1 or 255: report the PSNR too.")
    ] = False,
    long: Long = None,
    index: Index = None,
    header: Header = None,
    output: Output = Path("dlngeo-compare"),
    figure: Figure = "figure.png",
) -> None:
    """Complete a matrix with most of its entries missing, at several depths and by other methods.

    Every method gets the same entries, and every manifold the same small start. A tenth of the entries shown chooses
    when to stop; the errors reported are on entries that no method sees. Ctrl-C keeps what is done.
    """
    # Imported here so that --help does not wait for the compilers and solvers.
    from dlngeo.jobs.compare import Settings, table
    from dlngeo.jobs.compare import compare as run
    from dlngeo.jobs.compare import figure as draw
    from dlngeo.jobs.load import photograph
    from dlngeo.jobs.low_rank import example
    from dlngeo.jobs.output import figure_name

    with _refused():
        figure_name(figure)
        settings = Settings(rank, _depths(depths), observed, start, iterations, patience, seed, optimizer)
        given = _read(data, long, index, header, picture=picture)
        matrix, beside = (photograph(), example(seed)) if given is None else (given, None)
    with _refused(), _progress(lambda name: iterations if "depth" in name else None) as tick:
        result = run(matrix, settings, beside, tick=tick)
    _finish(result, output / figure, table, draw)


@app.command()
def complete(
    data: Annotated[
        Path,
        Argument(
            metavar="DATA",
            help="A table, wide or long: .csv, .tsv, .npy, .npz, .mtx, .parquet, .feather, .xlsx, .ods, .json, .dta …; "
            "NaN, empty cells and absent entries are missing.",
            show_default=False,
        ),
    ],
    output: Annotated[
        Path, Option("--output", "-o", metavar="FILE", help="The completed table; its suffix says the format.")
    ],
    picture: Annotated[
        Path | None, Option(metavar="FILE", help="Draw what is known and what is not.", show_default=False)
    ] = None,
    method: Annotated[
        str, Option(help="auto (by held-out error), offsets, flow, complete or posterior (mean of the Gibbs law).")
    ] = "auto",
    depth: Annotated[float, Option(help="Depth of complete and flow.")] = 4.0,
    rank: Annotated[int | None, Option(help="Largest rank.", show_default="found")] = None,
    undetermined: Annotated[str, Option(help="Entries that no data determine: empty, or filled by offsets.")] = "empty",
    seed: Annotated[int, Option(help="Seed of the entries held out, and of all draws.")] = 0,
    long: Long = None,
    index: Index = None,
    header: Header = None,
) -> None:
    """Complete a table, and write it in the form it came in.

    Offsets of rows and columns, and a matrix of low rank by the method with the least error on held-out entries. Rows
    and columns without entries, and what lies between parts of the table that nothing joins, are named and left empty.
    """
    from dlngeo.jobs.complete import Settings, figure, table
    from dlngeo.jobs.complete import complete as run
    from dlngeo.jobs.frames import TEXT, WRITERS, write_table
    from dlngeo.jobs.output import replace

    with _refused(OSError):
        settings = Settings(method, depth, rank, undetermined, seed)
        for path, known in ((output, (*TEXT, ".npy", ".npz", ".mtx", *WRITERS)), (picture, (".png", ".pdf", ".svg"))):
            if path is not None and path.suffix.lower() not in known:
                raise ValueError(f"{path}: cannot write {path.suffix or 'without a suffix'}; use {', '.join(known)}.")
            if path is not None and not path.absolute().parent.is_dir():
                raise ValueError(f"{path}: the folder does not exist; make it first.")
        given = _read(data, long, index, header)
    with _refused(ImportError, OSError), _progress(lambda name: None) as tick:
        filled, result = run(given, settings, lambda name: tick(name, 0))
        written = [replace(output, lambda path: write_table(path, filled, given.matrix, given.form))]
        if picture is not None:
            written.append(replace(picture, lambda path: figure(result).savefig(path, dpi=150)))
    _print(table(result), *(f"wrote {path}" for path in written))


@app.command()
def flow(
    target: Annotated[
        Path | None,
        Argument(
            metavar="TARGET",
            help="A matrix without missing entries: .npy, .npz, .csv, .tsv or .mtx. By default a random one.",
            show_default=False,
        ),
    ] = None,
    depths: Annotated[
        str, Option(help="Depths of the network, comma-separated.", show_default="1,2,3,8,inf; 1,2,3,8 by layers")
    ] = "",
    by: Annotated[
        str, Option(help="metric: gradient flow of the metric; layers: of the layers; descent: gradient descent.")
    ] = "metric",
    rank: Annotated[int | None, Option(help="Rank of the model.", show_default="full")] = None,
    observed: Annotated[float, Option(help="Fraction of the entries in the cost.")] = 1.0,
    start: Annotated[float, Option(help="Singular values of the start.")] = 1e-2,
    imbalance: Annotated[float, Option(help="Imbalance of the layers at the start, from 0 to 1.")] = 0.0,
    time: Annotated[
        float | None,
        Option(
            help="Last time: N times that of the layers.",
            show_default="until it comes to rest; 500 by descent",
        ),
    ] = None,
    step_size: Annotated[float, Option(help="Step of gradient descent, in the same time.")] = 0.05,
    size: Annotated[int, Option(help="Side of the random target.")] = 6,
    target_rank: Annotated[int, Option(help="Rank of the random target.")] = 3,
    seed: Annotated[int, Option(help="Seed of target, entries and start.")] = 0,
    long: Long = None,
    index: Index = None,
    header: Header = None,
    output: Output = Path("dlngeo-flow"),
    figure: Figure = "figure.png",
) -> None:
    """Train towards a matrix at several depths, in continuous time or by gradient descent.

    Shows the singular values, the loss and the imbalance of the layers against time, and what the limit is: a
    minimiser, a saddle, or not yet one. Ctrl-C keeps what is done.
    """
    from dlngeo.jobs.flow import Settings, random_target, run, table
    from dlngeo.jobs.flow import figure as draw
    from dlngeo.jobs.output import figure_name

    with _refused():
        figure_name(figure)
        chosen = _depths(depths or ("1,2,3,8,inf" if by == "metric" else "1,2,3,8"))
        settings = Settings(chosen, by, rank, observed, start, imbalance, time, step_size, seed)
        data = _read(target, long, index, header, whole=True)
        matrix = random_target(size, target_rank, seed) if data is None else data.matrix
        name = f"random target of rank {target_rank}" if data is None else data.name
    with _refused(), _progress(lambda name: 100) as tick:
        result = run(matrix, name, settings, tick=lambda row, part: tick(row, 100 * part))
    _finish(result, output / figure, table, draw)


@app.command()
def sample(
    target: Annotated[
        Path | None,
        Argument(
            metavar="TARGET",
            help="Sample around a matrix T, by ½‖X − T‖²: .npy, .npz, .csv, .tsv or .mtx, without missing entries.",
            show_default=False,
        ),
    ] = None,
    energy: Annotated[
        str | None, Option(help="lambda: ½Σλ², λ = σ^(1/N); norm: ½‖X‖²; nuclear: Σσ.", show_default="lambda")
    ] = None,
    shape: Annotated[str | None, Option(help="Shape of the matrices.", show_default="3x3")] = None,
    depth: Annotated[float, Option(help="Depth N of the network.")] = 3.0,
    rank: Annotated[int | None, Option(help="Rank of the matrices.", show_default="full")] = None,
    width: Annotated[int | None, Option(help="Width of the inner layers.", show_default="smaller side")] = None,
    beta: Annotated[float, Option(help="Inverse temperature β.")] = 1.0,
    noise: Annotated[str, Option(help="base: law exp(−βE); isotropic noise on the layers: law exp(−βE + S).")] = "base",
    kappa: Annotated[
        float, Option(help="Anisotropy κ of isotropic noise: law exp(−(βE − S)/κ).", show_default="1")
    ] = 1.0,
    chains: Annotated[int, Option(help="Number of chains.")] = 8,
    steps: Annotated[int, Option(help="Steps of each chain.")] = 50_000,
    burn_in: Annotated[int | None, Option(help="Steps that the averages leave out.", show_default="a fifth")] = None,
    thin: Annotated[
        int | None, Option(help="Keep a point every so many steps.", show_default="2000 points of a chain")
    ] = None,
    step_size: Annotated[
        float | None, Option(help="Step; averages are off by its order.", show_default="0.02, less if steep")
    ] = None,
    seed: Annotated[int, Option(help="Seed of starts and noise.")] = 0,
    jobs: Annotated[int, Option(help="Processes among which the chains are divided.")] = 1,
    checkpoint: Annotated[
        Path | None,
        Option(help="Folder to keep the chains in; the same command goes on from there.", show_default=False),
    ] = None,
    long: Long = None,
    index: Index = None,
    header: Header = None,
    output: Output = Path("dlngeo-sample"),
    figure: Figure = "figure.png",
) -> None:
    """Sample matrices from the Gibbs law of an energy, by Riemannian Langevin dynamics.

    Reports energy, entropy, free energy and singular values with standard errors and diagnostics, beside their exact
    values where these are known. Ctrl-C keeps what is done; with --checkpoint a run goes on bit for bit, killed or not.
    """
    from dlngeo.jobs.output import figure_name
    from dlngeo.jobs.sample import Settings, WorkerLostError, run, table
    from dlngeo.jobs.sample import figure as draw

    with _refused():
        figure_name(figure)
        if target is not None and (energy is not None or shape is not None):
            raise ValueError("TARGET brings its energy and its shape; leave out --energy and --shape.")
        if target is None and energy == "target":
            raise ValueError("the energy target needs a TARGET, a file with a matrix.")
        data = _read(target, long, index, header, whole=True)
        law = energy or "lambda" if data is None else "target", _shape(shape or "3x3"), depth, rank, width, beta
        settings = Settings(*law, noise, kappa, chains, steps, burn_in, thin, step_size, seed, jobs)
    with _refused(WorkerLostError, OSError), _progress(lambda name: settings.jobs * settings.steps) as tick:
        tick("steps", 0)
        matrix, name = (None, "") if data is None else (data.matrix, data.name)
        result = run(settings, matrix, name, checkpoint=checkpoint, tick=lambda done: tick("steps", done))
    again = "" if checkpoint is None else "The same command goes on from there."
    kept = f"interrupted after {result['n_steps']} of {settings.steps} steps."
    _finish(
        result, output / figure, table, draw, f"{kept} {again or 'To be able to go on, give a --checkpoint.'}", again
    )


def _shape(text: str) -> tuple[int, int]:
    sides = text.lower().replace("×", "x").split("x")
    if len(sides) != 2 or not all(side.strip().isdecimal() for side in sides):
        raise ValueError(f"the shape must be like 4x3, got {text!r}.")
    return int(sides[0]), int(sides[1])


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


@contextmanager
def _progress(total: Callable[[str], float | None]) -> Iterator[Callable[[str, float], None]]:
    """Draw bars on standard error, if that is a terminal: ``tick(name, done)`` of ``total(name)``."""
    console = Console(stderr=True)
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed:.0f}"),
        TimeElapsedColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    ) as progress:
        bars: dict[str, TaskID] = {}

        def tick(name: str, done: float) -> None:
            if name not in bars:
                bars[name] = progress.add_task(name, total=total(name))
            progress.update(bars[name], completed=done)

        yield tick


@contextmanager
def _refused(*errors: type[Exception]) -> Iterator[None]:
    """End with the message and code 2 at an error of what was asked for, or one of these, and with 130 at Ctrl-C.

    NumPy warns of nothing meanwhile: results are checked, and what is not finite is refused or left out.
    """
    import numpy as np

    caught: tuple[type[Exception], ...] = (ValueError, TypeError, *errors)
    try:
        with np.errstate(all="ignore"):
            yield
    except caught as error:
        _fail(str(error))
    except MemoryError as error:
        _fail(f"the memory does not suffice ({error or 'of this process'}); ask for less.")
    except ArithmeticError as error:
        _fail(f"numbers leave the range of doubles ({error}); give less extreme options.")
    except KeyboardInterrupt:
        _fail(_NOTHING, code=130)


def _read(path: Path | None, long: bool | None, index: bool | None, header: bool | None, **options: bool) -> Any:
    """Load the data, if there are any."""
    from dlngeo.jobs.load import load

    if path is not None:
        return load(path, long=long, index=index, header=header, **options)
    if (long, index, header) != (None, None, None):
        raise ValueError("--long, --index and --header say how a file is written; give one.")
    return None


def _finish(
    result: dict[str, Any],
    picture: Path,
    table: Callable[[dict[str, Any]], Any],
    draw: Callable[[dict[str, Any]], Any],
    kept: str = "interrupted: the rows above were kept.",
    again: str = "",
) -> None:
    """End a command: write the two files, print the table, and say with the exit code how it went.

    The result has a ``status``, and ``rows`` and ``notes`` if it is made of rows; ``kept`` is said after Ctrl-C, and
    ``again`` tells how to go on if the files cannot be written.
    """
    from dlngeo.jobs.output import save

    interrupted = result["status"] == "interrupted"
    if not result.get("rows", True):
        if interrupted:
            _fail(_NOTHING, code=130)
        _fail(f"nothing was done; nothing is written. {' '.join(result['notes'])}")
    try:  # to save comes before to print: the reader of a pipe may have gone
        written = save(result, picture.parent, draw, picture.name)
    except OSError as error:
        _print(table(result))
        _fail(f"cannot write to {picture.parent}: {error.strerror}. {again}")
    _print(table(result), *(f"wrote {path}" for path in written))
    if interrupted:
        _fail(kept, code=130)


def _print(table: Any, *lines: str) -> None:
    """Print on standard output; a full disk there is told, as all else is done."""
    console = Console(highlight=False)
    try:
        console.print(table)
        for line in lines:
            console.print(line, soft_wrap=True, markup=False)
        sys.stdout.flush()
    except OSError as error:
        if error.errno == errno.EPIPE:
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is left fails again at the end otherwise
        _fail(f"cannot print: {error.strerror}. {'; '.join(lines)}")


def _fail(message: str, code: int = 2) -> NoReturn:
    """End with one line on standard error."""
    typer.echo(f"dlngeo: {' '.join(message.split())}", err=True)
    raise typer.Exit(code)
