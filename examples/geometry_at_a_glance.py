"""
What does the geometry look like?
=================================

Geodesics, entropy and free energy, flows in a plane, and singular values in training, in one figure.
Each part is one call of ``dlngeo.plotting``. The deeper the network, the closer a geodesic keeps to small determinants.
With weight decay the free energy of completions of a 2×2 matrix has an edge where they are of rank one, and is least
there. In the plane of diagonal matrices, flows from small starts bend to the axes before they reach the valley of zero
loss. And layers learn one singular value after another.

Run ``python examples/geometry_at_a_glance.py [figure.png]``.
"""

import sys

import numpy as np
from geomstats.geometry.general_linear import GeneralLinear
from matplotlib.figure import Figure

from dlngeo import DLNMetric, balanced_weights, gradient_flow, training_flow
from dlngeo.plotting import plot_flows, plot_geodesics, plot_landscape, plot_singular_values

DEPTH, BETA = 3, 2.0
ENDS = np.diag([2.0, 0.05]), np.array([[0.1, -1.0], [1.2, 0.3]])
SHOWN = np.array([[1.0, np.nan], [np.nan, 1.0]])
STARTS = [
    (0.01, 0.01),
    (0.05, 0.2),
    (0.2, 0.05),
    (0.6, 0.6),
    (1.3, 0.2),
    (0.3, 1.3),
    (-0.3, 0.05),
    (0.2, -0.4),
    (1.2, 1.0),
]
TARGET = np.diag([2.0, 1.2, 0.6])


def residual(x):
    """Return what an observation of ``2 x_11 + x_22 = 1`` leaves."""
    return 2 * x[..., 0, 0] + x[..., 1, 1] - 1


def weight_decay(x):
    """Return the least ``½ Σ_p ‖W_p‖²`` of layers with the product x."""
    return DEPTH / 2 * (np.linalg.svd(x, compute_uv=False) ** (2 / DEPTH)).sum(axis=-1)


def main():
    """Follow flows in the plane of diagonal matrices, and train layers from a small start."""
    space = GeneralLinear(2, equip=False)
    space.equip_with_metric(DLNMetric, depth=DEPTH)
    starts = np.array([np.diag(start) for start in STARTS])
    flows = gradient_flow(
        space, lambda x: np.diag([2.0, 1.0]) * residual(x), starts, np.geomspace(0.01, 400.0, 200) - 0.01
    )
    weights = balanced_weights(1e-3 * np.random.default_rng(0).standard_normal((3, 3)), DEPTH, rng=0)
    return {"flows": flows, "training": training_flow(weights, lambda x: x - TARGET, 60.0)}


def plot(result, path):
    """Draw the four."""
    figure = Figure(figsize=(12, 7.2), layout="constrained")
    axes = figure.subplots(2, 3)
    plot_geodesics(*ENDS, show="determinant", axes=axes[0, 0])
    plot_geodesics(*ENDS, show="ellipses", axes=axes[1, 0])
    plot_landscape(SHOWN, DEPTH, BETA, cost=weight_decay, axes=axes[:, 1])
    plot_flows(result["flows"], residual=residual, axes=axes[0, 2])
    plot_singular_values(result["training"], targets=np.diag(TARGET), axes=axes[1, 2])
    for each, title in ((axes[0, 0], "geodesics"), (axes[0, 2], "gradient flows, depth 3"), (axes[1, 2], "training")):
        each.set_title(title, fontsize=10)
    figure.savefig(path, dpi=130)
    return axes


if __name__ == "__main__":
    plot(main(), sys.argv[1] if len(sys.argv) > 1 else "geometry_at_a_glance.png")
