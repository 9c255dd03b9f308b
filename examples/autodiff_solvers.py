"""
Do solvers that differentiate the metric find its geodesics?
============================================================

Path straightening of geomstats minimises the energy of a discrete path with the gradients that autograd takes of our
inner product. It starts at a multiple of the identity, where the derivative of an SVD is NaN and ours is not; the
distance from the geodesic in closed form halves as the nodes are doubled. Run
``python examples/autodiff_solvers.py [figure.png]``; ``GEOMSTATS_BACKEND=pytorch`` does the same with PyTorch.

.. image:: /autodiff_solvers.png
   :width: 100%
"""

# sphinx_gallery_thumbnail_path = 'autodiff_solvers.png'

import os
import sys

os.environ.setdefault("GEOMSTATS_BACKEND", "autograd")  # before geomstats is imported; NumPy has no derivatives

import geomstats.backend as gs
import numpy as np
from geomstats.geometry.general_linear import GeneralLinear
from geomstats.numerics.geodesic import PathStraightening
from geomstats.numerics.optimization import ScipyMinimize
from matplotlib.figure import Figure

from dlngeo.geomstats import DLNMetric

DEPTH = 3
NODES = (9, 17, 33)


def main():
    """Straighten paths of more and more nodes, and measure how far they are from the geodesic."""
    start, end = 0.9 * gs.eye(2), gs.array([[0.7, -0.9], [0.6, 0.2]])
    space = GeneralLinear(2, equip=False).equip_with_metric(DLNMetric, depth=DEPTH)
    distance = float(space.metric.dist(start, end))
    geodesic = space.metric.geodesic(start, end_point=end)

    results = {}
    for n_nodes in NODES:
        optimizer = ScipyMinimize(autodiff_jac=True, options={"ftol": 1e-14, "gtol": 1e-7, "maxiter": 2000})
        solver = PathStraightening(space, n_nodes=n_nodes, optimizer=optimizer)
        path = solver.discrete_geodesic_bvp(end, start)
        exact = geodesic(gs.linspace(0.0, 1.0, n_nodes))
        results[n_nodes] = {
            "path": np.asarray(path),
            "path_error": float(np.max(np.abs(np.asarray(path - exact)))),
            "length_error": abs(float(gs.sqrt(2 * solver.path_energy(path))) - distance),
        }
    return {"distance": distance, "nodes": results, "geodesic": np.asarray(geodesic(gs.linspace(0.0, 1.0, 101)))}


def plot(result, path):
    """Draw the singular values along the coarsest path and along the geodesic."""
    figure = Figure(figsize=(5, 3), layout="constrained")
    axes = figure.subplots()
    coarse = result["nodes"][NODES[0]]["path"]
    axes.plot(np.linspace(0, 1, 101), np.linalg.svd(result["geodesic"])[1], "C0", label="closed form")
    axes.plot(np.linspace(0, 1, NODES[0]), np.linalg.svd(coarse)[1], "C1o", label="path straightening")
    axes.set(xlabel="time", ylabel="singular values", title=f"depth {DEPTH}, distance {result['distance']:.3f}")
    handles, labels = axes.get_legend_handles_labels()
    axes.legend(handles[::2], labels[::2])
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    outcome = main()
    print(f"distance {outcome['distance']:.6f}")
    for n_nodes, found in outcome["nodes"].items():
        print(f"{n_nodes} nodes: error {found['path_error']:.2e}, of the length {found['length_error']:.2e}")
    plot(outcome, sys.argv[1] if len(sys.argv) > 1 else "autodiff_solvers.png")
