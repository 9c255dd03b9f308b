"""
How fast does training converge?
================================

At the rate that the Hessian at the limit predicts, and not slower than a bound that holds from the start. A regression
with three inputs and outputs, at several depths and in the time of gradient descent on the layers. In the end the loss
falls like ``e^{−2μt}``, where μ is the least eigenvalue of ``A^{1/2} E″ A^{1/2}`` at the limit; before, the least
singular value on the path bounds it. Run ``python examples/training_rate.py [figure.png]``.
"""

import sys

import numpy as np
from geomstats.geometry.general_linear import GeneralLinear
from matplotlib.figure import Figure

import dlngeo
from dlngeo.flows.limits import hessian_eigenvalues, loss_bound, observed_rate
from dlngeo.geomstats import DLNMetric
from dlngeo.problems import QuadraticCost

DEPTHS = (1, 2, 3, 6)


def main(seed=1):
    """Train at each depth from the same start, until the loss is 1e-10 of what it was."""
    rng = np.random.default_rng(seed)
    frames = (np.linalg.qr(rng.standard_normal((3, 3)))[0] for _ in range(2))
    u, v = (q * np.sign(np.linalg.det(q)) for q in frames)  # so that start and target have det > 0: no wall between
    inputs = np.array([1.5, 1.0, 0.6])[:, None] * rng.standard_normal((3, 200))
    outputs = (u * [1.6, 1.0, 0.5]) @ v.T @ inputs + 0.1 * rng.standard_normal((3, 200))
    problem = QuadraticCost.from_data(inputs, outputs)
    start = 0.1 * u @ v.T
    results = {}
    for depth in DEPTHS:
        space = GeneralLinear(3, equip=False)
        space.equip_with_metric(DLNMetric, depth=depth)
        rate = 2 * hessian_eigenvalues(problem, problem.target, depth)[0]
        times = np.linspace(0, 60 / rate, 600)
        flow = dlngeo.gradient_flow(
            space, problem.euclidean_gradient, start, times, cost=problem.cost, loss_below=1e-10 * problem.cost(start)
        )
        bound = loss_bound(flow.t, flow.singular_values, flow.losses, depth, problem.convexity)
        results[depth] = {
            "t": flow.t,
            "losses": flow.losses,
            "bound": bound,
            "predicted": float(rate),
            "observed": observed_rate(flow.t, flow.losses, tail=0.15),
        }
    return results


def plot(results, path):
    """Draw the loss at each depth with its bound and the slope that was predicted."""
    figure = Figure(figsize=(11, 3.4), layout="constrained")
    axes = figure.subplots(1, len(DEPTHS), sharey=True)
    for ax, (depth, found) in zip(axes, results.items(), strict=True):
        t, losses = found["t"], found["losses"]
        ax.semilogy(t, losses, color="tab:blue", linewidth=2.5, label="loss")
        ax.semilogy(t, found["bound"], color="tab:orange", label="bound")
        ax.semilogy(t, losses[-1] * np.exp(-found["predicted"] * (t - t[-1])), "k:", label="predicted slope")
        ax.set(xlabel="time", title=f"depth {depth}: rate {found['observed']:.3f}\npredicted {found['predicted']:.3f}")
        ax.set_ylim(losses[-1] / 3, 5 * losses[0])
    axes[0].set_ylabel("loss above its minimum")
    axes[0].legend(frameon=False)
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    outcome = main()
    for depth, found in outcome.items():
        print(f"depth {depth}: observed rate {found['observed']:.4f}, predicted {found['predicted']:.4f}")
    plot(outcome, sys.argv[1] if len(sys.argv) > 1 else "training_rate.png")
