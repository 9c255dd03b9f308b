"""Tables and picture of ``open_questions.py``."""

from __future__ import annotations

from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure

Row = dict[str, Any]
LIMIT_DEPTHS = (8, 16, 32, 64, 128, 256)


def number(value: float | None, error: float | None = None) -> str:
    """A number, or a dash, with its error."""
    if value is None:
        return "–"
    return f"{value:.4g}" if error is None else f"{value:.4g} ± {error:.1g}"


def table(head: list[str], rows: list[list[str]]) -> str:
    """Markdown."""
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)]) + "\n"


def phase_change(rows: list[Row]) -> str:
    head = [
        "depth",
        "β where rank 2 is lost",
        "σ₂/σ₁ just before",
        "how",
        "β of the way back",
        "power of σ₂ in β_c − β",
    ]
    out = []
    for row in rows:
        power = number(row.get("exponent"), row.get("exponent_error"))
        how = {"rank": "continuously", "fold": "by a jump"}[row["kind"]]
        back = number(row["down"])
        out.append([str(row["depth"]), number(row["up"]), number(row["ratio"]), how, back, power])
    return table(head, out)


def full_rank(rows: list[Row]) -> str:
    head = ["observed", "depth", "start", "det > 0: full rank", "median σ₂/σ₁", "det < 0: full rank", "median σ₂/σ₁"]
    out = []
    for row in rows:
        cells = [row["pattern"], str(row["depth"]), f"{row['scale']:g}"]
        for sign in ("positive", "negative"):
            cells += [f"{row[sign]:.3f} ± {row[sign + '_error']:.3f}", f"{row[sign + '_median']:.2g}"]
        out.append(cells)
    return table(head, out)


def infinite_depth(rows: list[Row]) -> str:
    head = ["quantity q", "rate p in q_N − q_∞ ~ N^−p", "N (q_N − q_∞), extrapolated", "derived"]
    out = []
    for row in rows:
        rate = number(row["rate"], row["rate_error"])
        constant = number(row["constant"], row["constant_error"])
        out.append([row["quantity"], rate, constant, number(row["derived"])])
    return table(head, out)


def fibre_noise(rows: list[Row]) -> str:
    decays = [key for key in rows[0] if key.startswith("decay")]
    head = ["d", "N", "½Δ‖G‖² at G = 0", "least of 180 points", "at one of them", "simulated there"]
    head += ["‖G‖² at t = ½", "Itô noise", *(f"balance {key}" for key in decays)]
    out = []
    for row in rows:
        cells = [str(row["d"]), str(row["depth"]), *(number(row[k]) for k in ("at balance", "least", "exact"))]
        cells.append(number(row["simulated"], row["simulated_error"]))
        out.append(cells + [number(*row[key][-1][1:3]) for key in ("fibre", "Itô", *decays)])
    return table(head, out)


def strata(rows: list[Row]) -> str:
    head = [
        "matrices",
        "rank",
        "N",
        "noise",
        "δ derived",
        "δ measured",
        "reached",
        "other sign of det",
    ]
    out = []
    for row in rows:
        reached = "yes" if row["derived"] < 2 else "no"
        cells = [f"{row['m']}×{row['n']}", str(row["rank"]), str(row["depth"]), row["noise"], number(row["derived"])]
        out.append([*cells, number(row["measured"], row["error"]), reached, number(row["changes"])])
    return table(head, out)


def tables(found: dict[str, list[Row]]) -> dict[str, str]:
    """Return the table of each part that has been run."""
    makers = (phase_change, full_rank, infinite_depth, fibre_noise, strata)
    return {maker.__name__: maker(found[maker.__name__]) for maker in makers if maker.__name__ in found}


def draw(found: dict[str, list[Row]]) -> Figure:
    """Draw the phase change, the shares of full rank, the convergence, the imbalance, and the exponents."""
    matplotlib.use("Agg")
    figure = Figure(figsize=(13, 7.2), layout="constrained")
    change, share, limit, fibre, growth, bessel = figure.subplots(2, 3).ravel()
    for color, row in zip(("C0", "C1", "C2"), found["phase_change"], strict=True):
        change.plot(row["betas"], row["up_ratio"], color, label=f"N = {row['depth']}, β up")
        change.plot(row["betas"][::-1], row["down_ratio"], color, ls="--", label="β down")
    change.set(xlabel="inverse temperature β", ylabel="σ₂/σ₁ of the minimiser", title="From full rank to rank one")
    cells = [row for row in found["full_rank"] if row["pattern"] == "the diagonal"]
    for k, depth in enumerate(sorted({row["depth"] for row in cells})):
        own = [row for row in cells if row["depth"] == depth]
        for sign, style in (("positive", "-o"), ("negative", "--s")):
            label = f"N = {depth}, det {'>' if sign == 'positive' else '<'} 0"
            share.semilogx([r["scale"] for r in own], [r[sign] for r in own], f"C{k}{style}", ms=4, label=label)
    share.set(xlabel="size of the start", ylabel="share of full rank", title="The diagonal observed: ends of full rank")
    for k, row in enumerate(found["infinite_depth"]):
        limit.loglog(LIMIT_DEPTHS, row["gaps"], f"C{k}.-", label=row["quantity"])
    limit.set(xlabel="depth N", ylabel="distance from infinite depth", title="Towards infinite depth")
    for k, row in enumerate(found["fibre_noise"]):
        label = f"d = {row['d']}, N = {row['depth']}"
        fibre.semilogy(*np.array(row["fibre"]).T[:2], f"C{k}o-", ms=4, label=label)
        decays = [(float(key.split()[1]), row[key][-1][1]) for key in row if key.startswith("decay")]
        growth.loglog(*np.array(decays).T, f"C{k}o-", ms=4, label=label)
    fibre.set(xlabel="time", ylabel="median ‖G‖²", title="Noise along the fibre, from G = 0")
    growth.set(xlabel="rate of balancing", ylabel="median ‖G‖²", title="… against a decay of the imbalance")
    for k, row in enumerate(found["strata"]):
        bessel.errorbar(row["derived"], row["measured"], 2 * row["error"], fmt=f"C{k}o", capsize=3)
    ends = [0.5, 1 + max(row["derived"] for row in found["strata"])]
    bessel.plot(ends, ends, "k", lw=0.8)
    bessel.axvspan(0.5, 2, color="0.9", label="zero is reached")
    bessel.set(
        xlabel="Bessel dimension derived", ylabel="measured, ± 2 s.e.", title="The least λ at the edge of a rank"
    )
    for axes in (change, share, limit, fibre, growth, bessel):
        axes.legend(fontsize=7)
        axes.grid(alpha=0.3)
    return figure
