"""What the bias of depth buys in matrix completion: error on unseen entries of many methods, over seeds.

Run it as ``python tests/reproductions/bias.py [--quick] [--out DIR]``, with ``pip install -e '.[bench]'`` for all
methods; those whose packages are not installed are left out, which is said. Finished cells are kept in
``DIR/bias.jsonl``: an interrupted run goes on from there. At its end it writes ``bias.json`` (all cells), ``bias.md``
(tables) and ``bias.png``; ``--draw`` writes them from what there is. A full run takes twenty minutes on two cores.

Every method gets the same observed entries. Those that stop or choose by held-out entries (``Method.validates``) hold
out the same tenth; the others, whose papers hold nothing out, fit all of them. All that need a start begin at the same
singular vectors and at singular values of 1e-3, in units in which the entries have mean square 1.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
import warnings
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import joblib
import numpy as np
import threadpoolctl

sys.path.insert(0, str(Path(__file__).parent))
from bias_methods import METHODS, Entries, missing
from cells import stored

from dlngeo.jobs.load import photograph
from dlngeo.jobs.low_rank import low_rank
from dlngeo.problems import MatrixCompletion

TRUE_RANK = 3
QUICK_SEEDS = 2


class Scene(NamedTuple):
    """A matrix, how much of it is shown (oversampling, or a fraction of real data), and the ranks of the models."""

    title: str
    levels: tuple[float, ...]
    ranks: tuple[int, ...]
    shape: tuple[int, int] = (60, 60)
    condition: float = 10.0
    noise: float = 0.0
    seeds: int = 10


SCENES = {
    "exact": Scene(
        "60×60 of rank 3, condition 10, {:g} entries for each parameter", (1.4, 2.0, 3.0), (3, 6, 12), seeds=20
    ),
    "even": Scene("60×60 of rank 3, condition 1, {:g} entries for each parameter", (2.0,), (12,), condition=1.0),
    "noise": Scene(
        "60×60 of rank 3, condition 10, noise 10 %, {:g} entries for each parameter", (3.0,), (3, 12), noise=0.1
    ),
    "tall": Scene("240×30 of rank 3, condition 10, {:g} entries for each parameter", (2.0,), (12,), (240, 30)),
    "digits": Scene("150 handwritten digits, 150×51, {:.0%} shown", (0.4,), (5, 20)),
    "photograph": Scene("Photograph, 71×71, {:.0%} shown", (0.4,), (20,)),
}


def real(name: str, fraction: float, rng: np.random.Generator) -> tuple[np.ndarray, MatrixCompletion]:
    """Real data, less the mean of the entries shown and over their deviation: no low rank, but a decaying spectrum."""
    if name == "photograph":
        matrix = photograph(shrink=6).matrix
    else:
        from sklearn.datasets import load_digits

        matrix = load_digits().data
        matrix = matrix[rng.permutation(len(matrix))[:150]][:, matrix.std(axis=0) > 1]
    shown = rng.random(matrix.shape) < fraction
    matrix = (matrix - matrix[shown].mean()) / matrix[shown].std()
    return matrix, MatrixCompletion(*np.nonzero(shown), matrix[shown], matrix.shape)


def instance(name: str, level: float, seed: int) -> tuple[np.ndarray, MatrixCompletion]:
    """The whole matrix, and what is observed of it."""
    rng, scene = np.random.default_rng(seed), SCENES[name]
    if name in ("digits", "photograph"):
        return real(name, level, rng)
    options = {"condition": scene.condition, "noise": scene.noise, "oversampling": level}
    return low_rank(scene.shape, TRUE_RANK, **options, rng=rng)


def cells(quick: bool) -> list[dict[str, Any]]:
    """What is to be run, in order of interest and then seed by seed, so that what there is can always be shown."""
    out = []
    for name, scene in SCENES.items():
        for seed in range(QUICK_SEEDS if quick else scene.seeds):
            for level in scene.levels:
                # The middle rank is of interest at the middle level only.
                ranks = scene.ranks if level == 2 else sorted({scene.ranks[0], scene.ranks[-1]})
                for method, how in METHODS.items():
                    if name not in how.scenes or method in missing() or level not in (how.levels or scene.levels):
                        continue
                    for rank in ranks if how.told_rank else ranks[-1:]:
                        out.append({"scene": name, "level": level, "method": method, "rank": rank, "seed": seed})
    return sorted(out, key=lambda cell: (METHODS[cell["method"]].turn + (cell["scene"] != "exact"), cell["seed"]))


def compute(cell: dict[str, Any]) -> dict[str, Any]:
    """Run one cell; the error is that of the entries that were not observed, relative to them."""
    warnings.simplefilter("ignore")
    truth, observed = instance(cell["scene"], cell["level"], cell["seed"])
    unseen = np.ones(truth.shape, bool)
    unseen[observed.rows, observed.cols] = False
    entries = Entries(observed, *observed.split(0.1, cell["seed"]), cell["seed"])
    with threadpoolctl.threadpool_limits(1):
        began = time.process_time()
        try:
            (left, right), count = METHODS[cell["method"]].complete(entries, cell["rank"])
            error = float(np.linalg.norm((left @ right - truth)[unseen]) / np.linalg.norm(truth[unseen]))
            failure = ""
        except (ArithmeticError, ValueError, np.linalg.LinAlgError) as exception:
            error, count, failure = math.nan, 0, f"{type(exception).__name__}: {exception}"
        seconds = time.process_time() - began
    if not math.isfinite(error):
        error, failure = 1.0, failure or "not finite"  # no better than zero
    return {**cell, "error": error, "iterations": count, "seconds": seconds, "failure": failure}


def key(cell: dict[str, Any]) -> tuple[Any, ...]:
    """Tell cells apart."""
    return tuple(cell[name] for name in ("scene", "level", "method", "rank", "seed"))


def main() -> None:
    """Run what is not yet run, then write the tables and the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="two seeds")
    parser.add_argument("--draw", action="store_true", help="run nothing; write tables and picture from what there is")
    parser.add_argument("--out", type=Path, default=Path("bias"), help="folder (default: bias)")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    results = stored(key, arguments.out / "bias.jsonl", arguments.out / "bias.json")
    done = {key(r) for r in results}
    wanted = [] if arguments.draw else [cell for cell in cells(arguments.quick) if key(cell) not in done]
    if missing():
        sys.stderr.write(f"left out, as their packages are not installed: {', '.join(missing())}\n")
    try:
        with (arguments.out / "bias.jsonl").open("a") if wanted else nullcontext() as file:
            if wanted:
                file.write("\n")  # the last line may have been cut short
            parallel = joblib.Parallel(n_jobs=2, return_as="generator_unordered", pre_dispatch=4)
            for count, result in enumerate(parallel(joblib.delayed(compute)(cell) for cell in wanted), 1):
                results.append(result)
                file.write(json.dumps(result) + "\n")
                file.flush()
                if count % 20 == 0 or count == len(wanted):
                    sys.stderr.write(f"{count} of {len(wanted)}: {result['scene']}, {result['method']}\n")
    except KeyboardInterrupt:
        sys.stderr.write("interrupted; the same command goes on\n")
    from bias_report import write

    write(results, arguments.out)


if __name__ == "__main__":
    main()
