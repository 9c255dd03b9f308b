"""
How long does training take from a small start?
===============================================

The longer the deeper. A singular value that starts at ε stays there for a while, and then rises at once. At depth N
the time until it has come to half of its target grows like ``ε^{−(1 − 2/N)}``, at N = 2 like ``log 1/ε``.
Run ``python examples/training_size.py [figure.png]``.
"""

import sys

import numpy as np
from geomstats.geometry.general_linear import GeneralLinear
from matplotlib.figure import Figure

import dlngeo
from dlngeo.flows.limits import escape_time

DEPTHS, START = (2, 3, 4, 8), 1e-3
STARTS = np.geomspace(1e-2, 1e-6, 9)


def path(depth):
    """Flow of one singular value from the start to its target 1."""
    space = GeneralLinear(1, equip=False)
    space.equip_with_metric(dlngeo.DLNMetric, depth=depth)
    times = np.linspace(0, 2 * escape_time(START, 1.0, depth), 300)
    return times, dlngeo.gradient_flow(space, lambda x: x - 1, np.array([[START]]), times).points[:, 0, 0]


def main():
    """Follow one start at each depth, time all starts, and fit the powers."""
    escapes = {depth: np.array([escape_time(start, 1.0, depth) for start in STARTS]) for depth in DEPTHS}
    slopes = {depth: -np.polyfit(np.log(STARTS[-4:]), np.log(t[-4:]), 1)[0] for depth, t in escapes.items()}
    return {"paths": {depth: path(depth) for depth in DEPTHS}, "escapes": escapes, "slopes": slopes}


def plot(result, path):
    """Draw the rise from one start, and the time that it takes from all."""
    figure = Figure(figsize=(9, 3.8), layout="constrained")
    left, right = figure.subplots(1, 2)
    for depth in DEPTHS:
        left.semilogx(*(values[1:] for values in result["paths"][depth]))
        law = f"power −{result['slopes'][depth]:.2f}" if depth > 2 else "logarithm"
        right.loglog(STARTS, result["escapes"][depth], "o-", markersize=4, label=f"depth {depth}: {law}")
    left.set(xlabel="time", ylabel="singular value", title=f"the rise from ε = {START}")
    right.set(xlabel="start ε", ylabel="time to half of the target", title="ε to the power −(1 − 2/N)")
    figure.legend(loc="outside lower center", ncols=len(DEPTHS), frameon=False)
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    outcome = main()
    for depth, slope in outcome["slopes"].items():
        print(f"depth {depth}: time ~ start^-{slope:.3f}, predicted {1 - 2 / depth:.3f}")
    plot(outcome, sys.argv[1] if len(sys.argv) > 1 else "training_size.png")
