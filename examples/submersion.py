"""
How far apart are two matrices, seen from their weights?
========================================================

All balanced weights of one matrix X form a fibre, an orbit of the gauge group. A geodesic of the weights that starts
orthogonal to its fibre stays so, and its product is a geodesic of the DLN metric. The distance of X from Y is that of
weights of X from the nearest weights of Y, which the alignment finds.

Run ``python examples/submersion.py [figure.png]``.
"""

import sys

import geomstats.backend as gs
import numpy as np
from geomstats.geometry.general_linear import GeneralLinear
from geomstats.geometry.quotient_metric import QuotientMetric
from matplotlib.figure import Figure

from dlngeo.geomstats import BalancedMatrices, DLNMetric, GaugeAction

DEPTH = 2


def main():
    """Follow a horizontal geodesic, and go round a fibre by turning the layer between."""
    weights = BalancedMatrices(2, DEPTH).equip_with_group_action(GaugeAction(2, DEPTH))
    weights.equip_with_quotient()
    bundle = weights.fiber_bundle
    matrices = GeneralLinear(2, equip=False).equip_with_metric(DLNMetric, depth=DEPTH)
    quotient = GeneralLinear(2, equip=False).equip_with_metric(QuotientMetric, total_space=weights)

    x, y = gs.array([[1.2, 0.3], [-0.4, 0.9]]), gs.array([[0.9, -0.7], [1.0, 1.3]])
    velocity = matrices.metric.log(y, x)
    start = bundle.lift(x)
    lifted = bundle.horizontal_lift(velocity, fiber_point=start)
    times = gs.linspace(0.0, 1.0, 11)
    above = weights.metric.geodesic(start, initial_tangent_vec=lifted)(times)
    below = matrices.metric.geodesic(x, initial_tangent_vec=velocity)(times)

    aligned = bundle.align(bundle.lift(y), start)
    angles = np.linspace(-1.5, 1.5, 9)
    turns = gs.array([[[[np.cos(a), -np.sin(a)], [np.sin(a), np.cos(a)]]] for a in angles])
    round_the_fibre = weights.group_action(turns, aligned)
    return {
        "projection_error": float(gs.amax(gs.abs(bundle.riemannian_submersion(above) - below))),
        "alignment_error": float(gs.amax(gs.abs(aligned - above[-1]))),
        "vertical_part": float(weights.metric.norm(bundle.vertical_projection(lifted, start))),
        "distance": float(matrices.metric.dist(x, y)),
        "quotient_distance": float(quotient.metric.dist(x, y)),
        "angles": angles,
        "distances": np.array([float(weights.metric.dist(start, point)) for point in round_the_fibre]),
        "chords": np.array([float(weights.metric.norm(point - start)) for point in round_the_fibre]),
    }


def plot(results, path):
    """Draw the distance from weights of X to weights of Y as these go round their fibre."""
    figure = Figure(figsize=(7, 4), layout="constrained")
    ax = figure.subplots()
    ax.plot(results["angles"], results["distances"], "o-", label="geodesic distance between weights")
    ax.plot(results["angles"], results["chords"], "s:", label="straight distance between weights")
    ax.axhline(results["distance"], color="black", lw=1, label="distance of the matrices under the DLN metric")
    ax.set(xlabel="angle by which the aligned weights of Y are turned along their fibre", ylabel="distance")
    ax.legend()
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    outcome = main()
    print(f"horizontal geodesic against geodesic of the products: {outcome['projection_error']:.1e}")
    print(f"distance downstairs {outcome['distance']:.9f}, to the aligned weights {outcome['distances'].min():.9f}")
    plot(outcome, sys.argv[1] if len(sys.argv) > 1 else "submersion.png")
