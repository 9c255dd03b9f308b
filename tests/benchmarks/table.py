"""Print what is computed, by dlngeo and by others, as a table of ratios: ``python tests/benchmarks/table.py``.

All cases of a section are timed in turns, so that other work on the machine strikes them alike, each on one thread. A
ratio is the median over the turns, with the least and the largest.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import subprocess
import sys
import time

import numpy as np
from threadpoolctl import threadpool_limits

PACKAGES = ("dlngeo", "numpy", "scipy", "pymanopt", "geomstats", "torch", "cmfrec")
ERRORS = (1e-3, 1e-6)
PAIR = ("peer", "dlngeo, depth 3", "peer", "peer / dlngeo")


def seconds(operation):
    began = time.perf_counter()
    operation()
    return time.perf_counter() - began


def in_turns(cases, rounds):
    """Seconds of each case, shape=[rounds, cases], after one run that does not count."""
    for operation in cases.values():
        operation()
    times = [[seconds(operation) for operation in cases.values()] for _ in range(rounds)]
    return dict(zip(cases, np.transpose(times), strict=True))


def shown(value):
    return f"{value:.2g} s" if value >= 1 else f"{1e3 * value:.3g} ms" if value >= 1e-3 else f"{1e6 * value:.3g} µs"


def compared(ours, theirs):
    """Cells of both times and their ratio, how many times as long the other takes."""
    ratios = np.asarray(theirs) / np.asarray(ours)
    low, middle, high = (f"{q:.2g}" if q < 100 else f"{q:.0f}" for q in np.quantile(ratios, (0, 0.5, 1)))
    return f"{shown(np.median(ours))} | {shown(np.median(theirs))} | {middle} ({low}–{high})"


def heading(title, *columns):
    print(f"\n## {title}\n\n| {' | '.join(columns)} |\n|{' --- |' * len(columns)}", flush=True)


def row(*cells):
    print(f"| {' | '.join(cells)} |", flush=True)


def steps():
    from peers import STEPS, task

    heading("One gradient and one step of matrix completion, rank 5", "size, entries", *PAIR)
    for size, fraction, names, rounds in (
        (2000, 0.05, list(STEPS), 5),
        (20_000, 0.005, list(STEPS)[:3], 7),  # the others hold arrays of 3.2 GB
    ):
        data = task(size, 5, fraction, 10, np.random.default_rng(0))
        times = in_turns({name: STEPS[name](data) for name in names}, rounds)
        for name in names[1:]:
            row(f"{size:,}², {len(data.train):,}", name, compared(times[names[0]], times[name]))


def solutions(rounds=3):
    from peers import SOLVERS, task

    heading(
        "Until the error on held-out entries is small: 2000², rank 5, 5 % observed, condition 10, no noise",
        *("error", "method", "iterations", "time", "time / that of dlngeo at depth 3"),
    )
    data = task(2000, 5, 0.05, 10, np.random.default_rng(0))
    names = [name for name in SOLVERS if not name.startswith("cmfrec") or importlib.util.find_spec("cmfrec")]
    SOLVERS[names[0]](data, [0.5])  # compiles
    runs = [{name: SOLVERS[name](data, ERRORS) for name in names} for _ in range(rounds)]
    for k, error in enumerate(ERRORS):
        ours = [run[names[0]][k][0] for run in runs]
        for name in names:
            found = [run[name][k] for run in runs]
            if None in found:
                row(f"{error:g}", name, "–", "not in 8 s", "–")
                continue
            times, counts = zip(*found, strict=True)
            row(f"{error:g}", name, str(counts[0]), *compared(ours, times).split(" | ")[1:])
    if len(names) < len(SOLVERS):
        print("\ncmfrec is not installed and was left out; `pip install dlngeo[bench]` brings it.")


def closed_forms():
    """Compare with the automatic differentiation of geomstats, in a process of its own, whose backend is autograd."""
    heading("Closed forms and automatic differentiation: 2×2, depth 3", "what", *PAIR)
    run = subprocess.run(
        [sys.executable, "-W", "ignore", __file__, "autograd"],
        env=os.environ | {"GEOMSTATS_BACKEND": "autograd"},
        capture_output=True,
        text=True,
        check=True,
    )
    for name, (ours, theirs) in json.loads(run.stdout.splitlines()[-1]).items():
        row(name, "geomstats, metric matrix differentiated", compared(ours, theirs))


def on_autograd():
    import geomstats.backend as gs
    from geomstats.geometry.euclidean import Euclidean
    from geomstats.geometry.general_linear import GeneralLinear
    from test_geodesics_cost import Generic

    from dlngeo.geomstats import DLNMetric

    ours, theirs = GeneralLinear(2, equip=False), Euclidean(4, equip=False)
    ours.equip_with_metric(DLNMetric, depth=3)
    theirs.equip_with_metric(Generic)
    x, v = gs.array([[1.5, 0.4], [-0.3, 1.0]]), gs.array([[0.2, -0.1], [0.3, 0.1]])
    end = ours.metric.exp(v, x)
    flat_x, flat_v, flat_end = (gs.reshape(a, (4,)) for a in (x, v, end))
    pairs = {
        "Christoffel symbols": (lambda: ours.metric.christoffels(x), lambda: theirs.metric.christoffels(flat_x), 5),
        "exp": (lambda: ours.metric.exp(v, x), lambda: theirs.metric.exp(flat_v, flat_x), 3),
        "log": (lambda: ours.metric.log(end, x), lambda: theirs.metric.log(flat_end, flat_x), 2),
    }
    out = {}
    for name, (closed, generic, rounds) in pairs.items():
        closed()
        turns = [(seconds(closed), seconds(generic)) for _ in range(rounds)]
        out[name] = list(zip(*turns, strict=True))
    print("\n" + json.dumps(out))


def geometry():
    from pymanopt.manifolds import FixedRankEmbedded

    from dlngeo import DepthKernel
    from dlngeo.matrices.curvature import Curvature
    from dlngeo.matrices.frame import Frame
    from dlngeo.pymanopt import FixedRank

    heading("Geometry at rank r and of curvature", "what", "beside", "the first", "the second", "second / first")
    rng = np.random.default_rng(0)
    spaces = {depth: FixedRank(5000, 5000, 10, depth, rng=0) for depth in (2, 8, 64, 1024)}
    x = spaces[2].random_point()
    cases = {}
    for depth, space in spaces.items():
        v = space.random_tangent_vector(x)
        cases[depth] = lambda space=space, v=v: space.retraction(x, v)
    times = in_turns(cases, 30)
    for depth in (8, 64, 1024):
        row("retraction, 5000², rank 10, depth 2", f"the same at depth {depth}", compared(times[2], times[depth]))

    ours, theirs = FixedRank(5000, 5000, 10, depth=3, rng=0), FixedRankEmbedded(5000, 5000, 10)
    y, v = ours.random_point(), ours.random_tangent_vector(x)
    for name, call, rounds in (
        ("retraction", lambda space: space.retraction(x, v), 9),
        ("transport", lambda space: space.transport(x, y, v), 5),
    ):
        times = in_turns({"ours": lambda call=call: call(ours), "theirs": lambda call=call: call(theirs)}, rounds)
        row(f"{name}, 5000², rank 10, depth 3", "FixedRankEmbedded", compared(times["ours"], times["theirs"]))

    z, a, b = rng.standard_normal((3, 20, 20))
    known = Curvature(Frame.at(z, DepthKernel(3)))
    known.sectional(a, b)
    times = in_turns(
        {
            "connection": lambda: Frame.at(z, DepthKernel(3)).christoffel(a, b),
            "sectional": lambda: known.sectional(a, b),
            "scalar": lambda: Curvature(Frame.at(z, DepthKernel(3))).scalar(),
        },
        20,
    )
    for name, label in (("sectional", "sectional curvature, its tables known"), ("scalar", "scalar curvature")):
        row("Christoffel map, 20×20, depth 3", label, compared(times["connection"], times[name]))


def main():
    import torch

    torch.set_num_threads(1)
    installed = [p for p in PACKAGES if importlib.util.find_spec(p)]
    print(", ".join(f"{p} {importlib.metadata.version(p)}" for p in installed))
    with threadpool_limits(1):
        for section in (steps, solutions, closed_forms, geometry):
            section()


if __name__ == "__main__":
    on_autograd() if sys.argv[1:] == ["autograd"] else main()
