"""Open questions about deep linear networks, as experiments; ``docs/open-questions.md`` has the answers.

Run it as ``python tests/reproductions/open_questions.py [--out DIR] [--only PART …]``; it takes some twenty minutes on
one core. Each part is a function of nothing, with its seeds, and its numbers are kept in ``open-questions.json``; parts
that are not run again stay as they are. It also writes ``open-questions-tables.md`` and ``open-questions.png``.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from fibre_noise import fibre_noise
from geomstats.geometry.general_linear import GeneralLinear
from open_questions_report import draw, tables
from strata import strata

from dlngeo import gradient_flow
from dlngeo.geomstats import DLNMetric
from dlngeo.jobs.output import replace
from dlngeo.kernels import of_depth
from dlngeo.matrices.frame import Frame
from dlngeo.problems import MatrixCompletion, continuation, equilibria
from dlngeo.thermodynamics.entropy import SpectralEntropy
from dlngeo.thermodynamics.laws import SpectralLaw

DECAY, B = 0.02, 0.5
PATTERNS = {"the diagonal": np.eye(2), "all but X₂₁": np.array([[1.0, 1.0], [0.0, 1.0]])}
HORIZONS = {"the diagonal": 1e4, "all but X₂₁": 200.0}  # far beyond all escapes; the latter is approached slowly
DEPTHS = {"the diagonal": (1, 2, 3, 5), "all but X₂₁": (1, 2, 3)}
SCALES, STARTS, FULL = (1.0, 0.1, 0.01), 200, 0.01
LIMIT_DEPTHS = (8, 16, 32, 64, 128, 256)


# From full rank to rank one.


def phase_change() -> list[dict[str, Any]]:
    """Order of the change with β, of 2×2 completion with ``X_22`` hidden and weight decay of the layers."""
    data = MatrixCompletion([0, 0, 1], [0, 1, 0], [1.0, B, B], (2, 2))
    rows = []
    for depth in (2, 3, 4):
        at = {"depth": depth, "decay": DECAY}
        betas = np.linspace(6.0, 40.0, 18)
        # The highest branch of rank 2 that leads to the data: X_22 > b².
        found = equilibria(data, beta=betas[0], n_starts=6, rng=depth, **at)
        start = next(one for one in found if one.rank == 2 and one.x[1, 1] > B**2)
        up = continuation(data, start, betas, **at)
        down = continuation(data, up.equilibria[-1], betas[::-1], **at)
        change, back = up.transitions[0], down.transitions[0] if down.transitions else None
        row = {
            "depth": depth,
            "up": change.beta,
            "kind": change.kind,
            "ratio": float(change.before.s[1] / change.before.s[0]),
            "down": None if back is None else back.beta,
            "betas": betas.tolist(),
            "up_ratio": (up.s[:, 1] / up.s[:, 0]).tolist(),
            "down_ratio": (down.s[:, 1] / down.s[:, 0]).tolist(),
        }
        if change.kind == "rank":  # near it, the power of σ_2
            near = change.beta - np.geomspace(1.0, 0.01, 9)
            branch = continuation(data, _at(data, start, betas[0], near[0], at), near, **at)
            x, y = np.log(change.beta - near), np.log(branch.s[:, 1])
            half = len(x) // 2
            row["exponent"] = float(np.polyfit(x[half:], y[half:], 1)[0])
            row["exponent_error"] = abs(row["exponent"] - float(np.polyfit(x[:half], y[:half], 1)[0]))
        rows.append(row)
    return rows


def _at(data: MatrixCompletion, start: Any, first: float, beta: float, at: dict[str, Any]) -> Any:
    return continuation(data, start, np.linspace(first, beta, 12), **at).equilibria[-1]


# Which starts end at full rank.


def full_rank() -> list[dict[str, Any]]:
    """Ends of gradient flows of 2×2 completion, whose observed entries are 1, from Gaussian starts."""
    rows = []
    for number, (name, mask) in enumerate(PATTERNS.items()):
        for depth in DEPTHS[name]:
            space = GeneralLinear(2, equip=False)
            space.equip_with_metric(DLNMetric, depth=depth)
            for scale in SCALES:
                starts = np.random.default_rng([number, 1]).standard_normal((STARTS, 2, 2)) * scale
                flows = gradient_flow(
                    space, lambda x, m=mask: m * (x - 1), starts, HORIZONS[name], gradient_below=1e-5, rtol=1e-6
                )
                s, positive = np.linalg.svd(flows.ends)[1], np.linalg.det(starts) > 0
                ratio, cell = s[:, 1] / s[:, 0], {"pattern": name, "depth": depth, "scale": scale}
                cell["ended"] = int(np.sum([status == "event" for status in flows.status]))
                for sign, chosen in (("positive", positive), ("negative", ~positive)):
                    share, count = float(np.mean(ratio[chosen] > FULL)), int(np.sum(chosen))
                    cell[sign] = share
                    # Wilson's error, which is not zero where all agree.
                    spread = share * (1 - share) / count + 1 / (4 * count**2)
                    cell[sign + "_error"] = math.sqrt(spread) / (1 + 1 / count)
                    cell[sign + "_median"] = float(np.median(ratio[chosen]))
                rows.append(cell)
                sys.stderr.write(f"{cell}\n")
    return rows


# Towards infinite depth.


def infinite_depth() -> list[dict[str, Any]]:
    """Differences from infinite depth over N: their power, and the constant of 1/N against its derivation."""
    rng = np.random.default_rng(5)
    u, v = (np.linalg.qr(rng.standard_normal((3, 3)))[0] for _ in range(2))
    s, z = np.array([1.9, 0.8, 0.4]), rng.standard_normal((3, 3))
    x = (u * s) @ v.T
    y = x + 0.3 * rng.standard_normal((3, 3))
    logs = np.log(s)
    sums = logs[:, None] + logs
    infinite = Frame.at(x, of_depth(math.inf))
    momentum, turn = u.T @ z @ v, np.zeros((3, 3))
    turn[0, 1], turn[1, 0] = 1, -1
    # φ_N/N = φ_∞ (st)^{−1/N} (w/sinh w), w = log(s/t)/N
    metric = float(np.sum(momentum**2 * sums / infinite.kernel(s[:, None], s)))
    quantities: dict[str, tuple[Any, float]] = {
        "metric g(Z, Z)": (lambda n: float(_frame(x, n).inner(z, z)), metric),
        "metric, turns at σ₁σ₂ = 1": (
            lambda n: float(_frame(x / math.sqrt(s[0] * s[1]), n).inner(*[u @ turn @ v.T] * 2)),
            0.0,
        ),
        "entropy, Σ σ ∂S/∂σ": (
            lambda n: float(np.sum(s * SpectralEntropy(3, 3, n).gradient(s))),
            -3.0,  # the degree is (1 − 1/N) r(r − 1)/2
        ),
        "entropy, along σ₁/σ₂": (
            lambda n: float(np.subtract(*(s * SpectralEntropy(3, 3, n).gradient(s))[:2])),
            0.0,
        ),
        "distance": (lambda n: _distance(x, y, n), _first_variation(x, y)),
        "mean of log σ under a law": (_mean_log, 2.0),
        "variance of log(σ₁/σ₂)": (_gap, 0.0),
    }
    rows = []
    for name, (of, constant) in quantities.items():
        limit = of(math.inf)
        gaps = np.array([of(n) - limit for n in LIMIT_DEPTHS])
        slopes = -np.diff(np.log(np.abs(gaps))) / np.log(2)
        times = np.array(LIMIT_DEPTHS) * gaps
        rows.append(
            {
                "quantity": name,
                "rate": float(2 * slopes[-1] - slopes[-2]),  # the local slope, extrapolated in 1/N
                "rate_error": float(abs(slopes[-1] - slopes[-2])),
                "constant": float(2 * times[-1] - times[-2]),
                "constant_error": float(abs(2 * times[-1] - times[-2] - (2 * times[-2] - times[-3]))),
                "derived": constant,
                "gaps": np.abs(gaps).tolist(),
            }
        )
    return rows


def _frame(x: np.ndarray, n: float) -> Frame:
    return Frame.at(x, of_depth(n, True))


def _distance(x: np.ndarray, y: np.ndarray, n: float) -> float:
    space = GeneralLinear(3, equip=False)
    space.equip_with_metric(DLNMetric, depth=n, normalized=True)
    return float(space.metric.dist(x, y))


def _first_variation(x: np.ndarray, y: np.ndarray) -> float:
    """``lim N (d_N − d_∞) = (1/2d) ∫ Σ_kl log(σ_k σ_l) M_kl²/φ_∞ dt`` along the geodesic of infinite depth."""
    space = GeneralLinear(3, equip=False)
    space.equip_with_metric(DLNMetric, depth=math.inf)
    nodes, weights = np.polynomial.legendre.leggauss(16)
    times, h = (nodes + 1) / 2, 1e-4
    path = space.metric.geodesic(initial_point=x, end_point=y)
    total, length = 0.0, float(space.metric.dist(x, y))
    for t, w in zip(times, weights / 2, strict=True):
        here = np.reshape(path(t), (3, 3))
        velocity = (np.reshape(path(t + h), (3, 3)) - np.reshape(path(t - h), (3, 3))) / (2 * h)
        frame = Frame.at(here, of_depth(math.inf))
        core, logs = frame.split(velocity).core, np.log(frame.s)
        total += w * float(np.sum(core**2 * (logs[:, None] + logs) / frame.phi))
    return total / (2 * length)


def _law(n: float) -> SpectralLaw:
    return SpectralLaw(lambda s: np.sum(np.log(s) ** 2, axis=-1) / 2, SpectralEntropy(2, 2, n), 1.0)


def _moments(n: float) -> tuple[float, float]:
    """Mean of log σ, and of (log σ₁/σ₂)², under ``e^{−½ Σ log² σ} dvol_g``, by quadrature in the two logarithms."""
    nodes, weights = np.polynomial.legendre.leggauss(400)
    mean, gap = np.meshgrid(9 * nodes, 9 * (nodes + 1), indexing="ij")  # (u_1 + u_2)/2 and u_1 − u_2 > 0
    u = np.stack((mean + gap / 2, mean - gap / 2), axis=-1)
    if math.isinf(n):
        log = np.log(gap) - np.sum(u**2, axis=-1) / 2
    else:
        log = _law(n).log_density(np.exp(u / n)) + np.sum(u, axis=-1) / n  # dλ = λ du/N
    density = np.exp(log - log.max()) * weights[:, None] * weights
    density /= density.sum()
    return float(np.sum(density * mean)), float(np.sum(density * gap**2))


def _mean_log(n: float) -> float:
    return _moments(n)[0]


def _gap(n: float) -> float:
    return _moments(n)[1]


PARTS = {
    "phase_change": phase_change,
    "full_rank": full_rank,
    "infinite_depth": infinite_depth,
    "fibre_noise": fibre_noise,
    "strata": strata,
}


def rounded(value: Any) -> Any:
    """Floats to four digits."""
    if isinstance(value, float):
        return float(f"{value:.4g}")
    if isinstance(value, dict):
        return {k: rounded(v) for k, v in value.items()}
    return [rounded(v) for v in value] if isinstance(value, list) else value


def main() -> None:
    """Run the parts asked for, and write tables and picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("open-questions"), help="folder (default: open-questions)")
    parser.add_argument("--only", nargs="*", choices=list(PARTS), default=list(PARTS), help="parts (default: all)")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    store = given.out / "open-questions.json"
    for part in given.only:
        began = time.process_time()
        result = rounded(PARTS[part]())
        found = json.loads(store.read_text(encoding="utf-8")) if store.exists() else {}
        found[part] = result
        lines = [f'"{k}": [\n' + ",\n".join(json.dumps(row) for row in v) + "\n]" for k, v in found.items()]
        text = "{\n" + ",\n".join(lines) + "\n}\n"
        replace(store, lambda path, text=text: path.write_text(text, encoding="utf-8"))
        sys.stderr.write(f"{part}: {time.process_time() - began:.0f} s\n")
    found = json.loads(store.read_text(encoding="utf-8"))
    text = "\n".join(f"<!-- {part} -->\n{table}" for part, table in tables(found).items())
    replace(given.out / "open-questions-tables.md", lambda path: path.write_text(text, encoding="utf-8"))
    if set(found) == set(PARTS):
        replace(given.out / "open-questions.png", lambda path: draw(found).savefig(path, dpi=110))


if __name__ == "__main__":
    main()
