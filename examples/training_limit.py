"""
Does training converge, and to what?
====================================

To a minimiser from almost every start, to a saddle from the others. A matrix with singular values 3, 2 and 1 is
approximated at rank 2 by three layers. A generic start ends at the best matrix of rank 2. A start that is blind to the
first singular triple ends at a saddle; with a trace of that triple it comes close to the saddle and leaves, at a rate
that the Hessian there predicts. Run ``python examples/training_limit.py [figure.png]``.
"""

import sys

import numpy as np
from matplotlib.figure import Figure

import dlngeo
from dlngeo.flows import FlowStatus
from dlngeo.flows.limits import classify_limit, observed_rate
from dlngeo.geomstats import FixedRankMatrices
from dlngeo.problems import QuadraticCost

DEPTH, RANK, TRACE = 3, 2, 1e-4


def main(seed=0):
    """Follow the flow from each start, and classify where it is, halfway and at the end."""
    rng = np.random.default_rng(seed)
    u, v = (np.linalg.qr(rng.standard_normal((d, 3)))[0] for d in (4, 5))
    problem = QuadraticCost((u * [3.0, 2.0, 1.0]) @ v.T)
    space = FixedRankMatrices(4, 5, RANK, depth=DEPTH)
    blind = 0.1 * problem.critical_point((1, 2))
    starts = {
        "generic": 0.1 * rng.standard_normal((4, RANK)) @ rng.standard_normal((RANK, 5)),
        "blind": blind,
        "almost blind": space.projection(blind + TRACE * rng.standard_normal((4, 5))),
    }
    saddle = problem.critical_point((1, 2))
    times = np.concatenate(([0.0], np.geomspace(0.01, 11, 400)))
    flows = {}
    for name, start in starts.items():
        flow = dlngeo.gradient_flow(space, problem.euclidean_gradient, start, times, cost=problem.cost)
        assert flow.status is FlowStatus.COMPLETE
        distances = np.linalg.norm(flow.points - saddle, axis=(1, 2))
        flows[name] = {
            "losses": flow.losses,
            "nearest to the saddle": float(distances.min()),
            "limit": classify_limit(problem, flow.points[-1], DEPTH, RANK),
            "triples": problem.nearest_critical_point(flow.points[-1], RANK)[0],
        }
        if name == "almost blind":
            seen = np.linalg.norm(u[:, 0] @ flow.points, axis=1)  # the part of X in the column of the first triple
            leaving = (distances < 0.1) & (seen < 0.03)
            flows[name]["rate of escape"] = -observed_rate(times[leaving], seen[leaving], tail=0.5)
    levels = {pair: problem.cost(problem.critical_point(pair)) for pair in ((0, 1), (0, 2), (1, 2))}
    return {"times": times, "flows": flows, "levels": levels}


def plot(result, path):
    """Draw the loss from each start, between the levels of the critical points."""
    figure = Figure(figsize=(7.5, 4.2), layout="constrained")
    ax = figure.subplots()
    for pair, level in result["levels"].items():
        ax.axhline(level, color="0.75", linewidth=1, zorder=0)
        name = " and ".join(str(i + 1) for i in pair)
        ax.annotate(f"triples {name}", (0.011, level), va="bottom", color="0.45", fontsize=9)
    styles = {"generic": "-", "blind": "-", "almost blind": "--"}
    for (name, found), color in zip(result["flows"].items(), ("tab:blue", "tab:red", "tab:orange"), strict=True):
        label = f"{name} start: {found['limit'].kind}"
        ax.plot(result["times"][1:], found["losses"][1:], styles[name], color=color, linewidth=2, label=label)
    ax.set(xscale="log", xlabel="time", ylabel="loss", title="Rank 2, depth 3: where training ends, and where it rests")
    ax.legend(frameon=False)
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    outcome = main()
    for key, found in outcome["flows"].items():
        end = found["limit"]
        print(
            f"{key}: {end.kind} of rank {end.rank}, triples {found['triples']}, gradient {end.gradient_norm:.1e}, "
            f"least eigenvalue {end.least_eigenvalue:.3f}"
        )
    print(f"almost blind leaves the saddle at the rate {outcome['flows']['almost blind']['rate of escape']:.3f}")
    plot(outcome, sys.argv[1] if len(sys.argv) > 1 else "training_limit.png")
