"""
How does depth bend a geodesic?
===============================

Between two matrices with different singular vectors a straight line, depth 1, shrinks the larger singular values on
its way; the deeper the metric, the less. The space is ``GeneralLinear`` of geomstats, and everything here is called as
with any of its metrics. Run ``python examples/metric_in_geomstats.py [figure.png]``.
"""

import sys

import geomstats.backend as gs
from geomstats.geometry.general_linear import GeneralLinear
from geomstats.learning.frechet_mean import FrechetMean
from matplotlib import colormaps
from matplotlib.figure import Figure

from dlngeo.geomstats import DLNMetric

DEPTHS, SHADES = (1, 2, 4, 8), colormaps["viridis"]


def main():
    """Compute the geodesic between two matrices at each depth, and their Fréchet mean at depth 4."""
    start = gs.array([[1.2, 0.3, 0.0], [-0.2, 0.9, 0.4], [0.1, 0.0, 0.3]])
    end = gs.array([[0.2, -0.5, 0.1], [0.8, 0.1, -0.6], [0.3, 0.9, 0.7]])
    times = gs.linspace(0.0, 1.0, 101)

    results = {}
    for depth in DEPTHS:
        space = GeneralLinear(3, equip=False)
        space.equip_with_metric(DLNMetric, depth=depth)
        path = space.metric.geodesic(start, end_point=end)(times)
        results[depth] = {
            "distance": float(space.metric.dist(start, end)),
            "singular_values": gs.linalg.svd(path)[1],
        }

    space = GeneralLinear(3, equip=False)
    space.equip_with_metric(DLNMetric, depth=4)
    mean = FrechetMean(space).fit(gs.stack([start, end])).estimate_
    to_ends = [float(space.metric.dist(mean, point)) for point in (start, end)]
    return {"times": times, "depths": results, "mean_to_ends": to_ends}


def plot(result, path):
    """Draw the singular values and the determinant along the geodesics."""
    figure = Figure(figsize=(9.5, 3.8), layout="constrained")
    left, right = figure.subplots(1, 2)
    for k, (depth, found) in enumerate(result["depths"].items()):
        color, distance = SHADES(k / len(DEPTHS)), found["distance"]
        values = found["singular_values"]
        left.plot(result["times"], values, color=color, label=[f"depth {depth}, distance {distance:.2f}", "_", "_"])
        volume = gs.prod(values, axis=-1)
        right.plot(result["times"], volume / volume[0], color=color)
    left.set(xlabel="time", ylabel="singular values", title="the deeper, the less they shrink")
    right.set(xlabel="time", ylabel="determinant, relative to the start", title="the deeper, the straighter")
    figure.legend(loc="outside lower center", ncols=len(DEPTHS), frameon=False)
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    outcome = main()
    for depth, found in outcome["depths"].items():
        print(f"depth {depth}: distance {found['distance']:.6f}")
    print("Fréchet mean at depth 4 to both ends:", *(f"{d:.6f}" for d in outcome["mean_to_ends"]))
    plot(outcome, sys.argv[1] if len(sys.argv) > 1 else "metric_in_geomstats.png")
