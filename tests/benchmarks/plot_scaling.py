"""Draw how an iteration on matrix completion grows: ``python tests/benchmarks/plot_scaling.py docs/scaling.png``."""

import sys
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from completion_growth import GROWTHS, growth

LABELS = {
    "entries": "observed entries",
    "size": "rows = columns",
    "rank": "rank",
    "depth": "depth",
}
TICKS = (10, 20, 50, 100, 200, 500)


def draw(curves):
    """One panel for each quantity, on one scale of time, with the fitted slope and one of slope 1."""
    figure, axes = plt.subplots(1, len(curves), figsize=(11, 3.2), sharey=True, layout="constrained")
    for ax, (name, (sizes, seconds)) in zip(axes, curves.items(), strict=True):
        slope, offset = np.polyfit(np.log(sizes), np.log(seconds), 1)
        ax.loglog(sizes, 1e3 * seconds, "o", color="C0")
        ax.loglog(sizes, 1e3 * np.exp(offset) * sizes**slope, color="C0", label=f"slope {slope:.2f}")
        if name != "depth":
            ax.loglog(sizes, 1e3 * seconds[0] * sizes / sizes[0], "--", color="0.6", label="slope 1")
        ax.set_xticks(sizes, [f"{s / 1e6:.1f} M" if s >= 1e6 / 2 else f"{s:,}" for s in sizes], fontsize=8)
        ax.set_yticks(TICKS, map(str, TICKS))
        ax.minorticks_off()
        ax.set_xlabel(LABELS[name])
        ax.legend(frameon=False, fontsize=8)
        ax.set_title("\n".join(f"{LABELS[k]} {v:,}" for k, v in GROWTHS[name].fixed.items()), fontsize=8)
    axes[0].set_ylabel("milliseconds per iteration")
    return figure


if __name__ == "__main__":
    path = Path(sys.argv[1])
    path.parent.mkdir(parents=True, exist_ok=True)
    draw({name: growth(name, steps=6, rounds=3) for name in GROWTHS}).savefig(path, dpi=130)
