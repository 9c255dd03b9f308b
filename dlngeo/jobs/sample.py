"""The job of ``dlngeo sample``: chains of a Gibbs law, kept in checkpoints, as one JSON-able result."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from rich.console import Group
from rich.text import Text

from dlngeo import _check, plotting
from dlngeo.jobs.gibbs import ENERGIES, Gibbs
from dlngeo.jobs.output import Figures, replace
from dlngeo.sampling.chain import Samples
from dlngeo.sampling.diagnostics import diagnose
from dlngeo.sampling.runs.store import CheckpointError
from dlngeo.sampling.runs.sweep import Cell, WorkerLostError, cell_path, run_cells

__all__ = ["SCHEMA", "Settings", "figure", "run", "table"]

SCHEMA = 1
MAX_SIDE = 300
_KEPT = 2000  # draws of each chain
_ENTRIES = 20_000_000  # of all matrices that are kept
_MOST = 10**12  # of anything that is counted
_MEMORY = 4e9  # bytes of all that is kept at once
_BINS, _CURVE, _TRACE, _TRACED = 60, 240, 400, 12


@dataclass(frozen=True)
class Settings:
    """What to sample, and for how long: the options of ``dlngeo sample``, which its help explains, each checked.

    The draws depend on ``jobs``, their law does not.
    """

    energy: str = "lambda"
    shape: tuple[int, int] = (3, 3)
    depth: float = 3.0
    rank: int | None = None
    width: int | None = None
    beta: float = 1.0
    noise: str = "base"
    kappa: float = 1.0
    chains: int = 8
    steps: int = 50_000
    burn_in: int | None = None
    thin: int | None = None
    step_size: float | None = None
    seed: int = 0
    jobs: int = 1

    def __post_init__(self) -> None:
        for name in ("chains", "steps", "jobs"):
            if _check.positive_integer(getattr(self, name), name) > _MOST:
                raise ValueError(f"{name} must be at most {_MOST}, got {getattr(self, name)}.")
        for size in self.shape:
            if not 1 <= size <= MAX_SIDE:
                raise ValueError(
                    f"shape {self.shape[0]}×{self.shape[1]} is out of range; sides of 1 to {MAX_SIDE} fit."
                )
        if self.jobs > self.chains:
            raise ValueError(f"{self.jobs} jobs are more than the {self.chains} chains; ask for fewer.")
        if self.burn_in is not None and not 0 <= self.burn_in < self.steps:
            raise ValueError(f"the burn-in must be at least 0 and below the {self.steps} steps, got {self.burn_in}.")
        if self.thin is not None:
            _check.positive_integer(self.thin, "thin")
        if self.step_size is not None:
            _check.positive(self.step_size, "the step size")
        _check.integer(self.seed, "seed", 0)


def run(
    settings: Settings | None = None,
    target: np.ndarray | None = None,
    name: str = "",
    *,
    checkpoint: str | Path | None = None,
    tick: Callable[[int], Any] | bool = False,
) -> dict[str, Any]:
    """Sample a Gibbs law.

    A target T, called ``name`` in the result, brings the shape. A run that was begun in the folder ``checkpoint`` goes
    on. ``tick`` is called now and then with the number of steps done in all processes.

    Returns ``schema, status, settings, data, n_steps, n_draws, estimates, histogram, exact, traces, notes, seconds`` as
    JSON can hold them. After Ctrl-C ``status`` is ``"interrupted"``, and they are about the steps that were done.

    A CheckpointError tells that the folder holds another run or something else, a WorkerLostError that processes are
    killed again and again (once, and they are replaced), a KeyboardInterrupt that Ctrl-C came before anything was kept,
    and a ValueError or TypeError that the settings or the target are out of range, or a step fails.
    """
    settings = settings or Settings()
    shape = settings.shape
    if target is not None:
        target = np.asarray(target, dtype=float)
        if target.ndim != 2 or max(target.shape) > MAX_SIDE:
            raise ValueError(f"the target has shape {target.shape}; matrices of up to {MAX_SIDE} rows or columns fit.")
        _check.finite(np, target, "the target")
        shape = (target.shape[0], target.shape[1])
    about = {name: getattr(settings, name) for name in ("energy", "depth", "rank", "width", "beta", "noise", "kappa")}
    law = Gibbs(shape=shape, target=target, **about)
    began = time.perf_counter()
    if checkpoint is not None and settings.thin is None:  # its default depends on the number of steps, which may grow
        settings = dataclasses.replace(settings, thin=_claimed(Path(checkpoint)).get("thin"))
    filled = _filled(settings, law)
    sizes = [len(part) for part in np.array_split(np.arange(settings.chains), settings.jobs)]

    def make(rng: np.random.Generator, part: int) -> Cell:
        return law.cell(rng, sizes[part], filled["step_size"])

    status = "complete"
    with ExitStack() as stack:
        if checkpoint is None:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="dlngeo-"))) / "run"
        else:
            folder = Path(checkpoint)
        _claim(folder, filled, target)
        try:
            run_cells(
                make,
                [{"part": part} for part in range(settings.jobs)],
                settings.steps,
                settings.seed,
                settings.jobs,
                checkpoint_dir=folder,
                progress=tick,
                thin=filled["thin"],
                checkpoint_every=max(1, settings.steps // 50) if settings.jobs > 1 else None,
            )
        except KeyboardInterrupt:
            status = "interrupted"
        except WorkerLostError as error:
            kept = "nothing is kept without a checkpoint" if checkpoint is None else "what is done is kept"
            raise WorkerLostError(
                f"processes were killed again and again; {kept}. If memory is short, ask for fewer jobs or chains.",
                error.cells,
            ) from error
        parts = _parts(folder, settings.jobs)
    if not parts:
        raise KeyboardInterrupt
    s = None if target is None else np.linalg.svd(target, compute_uv=False).tolist()
    return {
        "schema": SCHEMA,
        "status": status,
        "settings": filled,
        "data": None if s is None else {"name": name, "singular_values": s},
        "n_steps": min(part.n_steps for part in parts),
        **_report(parts, law, filled),
        "seconds": time.perf_counter() - began,
    }


def _filled(settings: Settings, law: Gibbs) -> dict[str, Any]:
    """Fill in the defaults that depend on others."""
    out = {**asdict(settings), "shape": list(law.shape), "rank": law.entropy.rank}
    out["step_size"] = settings.step_size or law.step_size
    out["burn_in"] = settings.steps // 5 if settings.burn_in is None else settings.burn_in
    kept = max(100, min(_KEPT, _ENTRIES // (settings.chains * math.prod(law.shape))))
    out["thin"] = settings.thin or max(1, settings.steps // kept)
    bytes_kept = 8.0 * (3 + settings.steps // out["thin"]) * settings.chains * math.prod(law.shape)
    if bytes_kept > _MEMORY:
        raise ValueError(
            f"{settings.steps // out['thin']} draws of {settings.chains} chains of {law.shape[0]}×{law.shape[1]} "
            f"matrices take {bytes_kept / 1e9:.3g} GB, above {_MEMORY / 1e9:g}; keep fewer by --thin, or take fewer "
            "chains."
        )
    if settings.steps < out["thin"] + out["burn_in"]:
        raise ValueError(
            f"{settings.steps} steps leave nothing after a burn-in of {out['burn_in']} when one in {out['thin']} is "
            "kept; ask for more steps."
        )
    return out


def _claim(folder: Path, settings: dict[str, Any], target: np.ndarray | None) -> None:
    """Write into a new folder what run is kept there, or compare it."""
    about = {name: value for name, value in settings.items() if name not in ("steps", "burn_in")}
    about["target"] = None if target is None else hashlib.sha256(np.ascontiguousarray(target).tobytes()).hexdigest()
    there = _claimed(folder)
    if there:
        for name, value in about.items():
            if there.get(name, "absent") != value:
                a, b = ("another", "this one") if name == "target" else (there.get(name, "absent"), value)
                raise CheckpointError(
                    f"{folder} holds a run of other settings: {name.replace('_', ' ')} was {a}, and is now {b}. Give "
                    "the settings it was made with, or another folder."
                )
    else:
        folder.mkdir(parents=True, exist_ok=True)
        replace(folder / "settings.json", lambda path: path.write_text(json.dumps(about), encoding="utf-8"))


def _claimed(folder: Path) -> dict[str, Any]:
    """Read the settings of the run that is kept in a folder; none if there is no folder, or an empty one."""
    file = folder / "settings.json"
    try:
        if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
            return {}
        return dict(json.loads(file.read_text(encoding="utf-8")))
    except (FileNotFoundError, NotADirectoryError):
        raise CheckpointError(f"{folder} is something else than the folder of a run; give another one.") from None
    except (ValueError, TypeError) as error:
        raise CheckpointError(f"{file} is damaged; restore it, or give another folder.") from error


def _parts(folder: Path, jobs: int) -> list[Samples]:
    """Load what each process has kept; one that was interrupted at once has kept nothing."""
    paths = [cell_path(folder, {"part": part}) for part in range(jobs)]
    parts = [Samples.load(path) for path in paths if path.exists()]
    return [part for part in parts if part.points.shape[1]]


def _report(parts: list[Samples], law: Gibbs, settings: dict[str, Any]) -> dict[str, Any]:
    """Estimates, histogram and traces of the draws that all parts have."""
    n_draws, thin = min(part.points.shape[1] for part in parts), settings["thin"]
    lam = np.concatenate([part.statistics["lam"][:, :n_draws] for part in parts])
    energy = np.concatenate([part.statistics["energy"][:, :n_draws] for part in parts])
    entropy = law.entropy(lam**law.depth)
    columns = {"energy": energy, "entropy": entropy, "free_energy": energy - entropy / law.beta}
    steps, notes = thin * np.arange(1, n_draws + 1), []
    burn_in = settings["burn_in"]
    if burn_in >= steps[-1]:
        burn_in = int(steps[-1]) // 5
        notes.append(f"Interrupted within the burn-in, which was set to {burn_in} steps.")
    kept = steps > burn_in
    each = {f"lambda_{k + 1}": lam[:, :, k] for k in range(lam.shape[-1])}
    virial = {"virial": np.concatenate([part.statistics["virial"][:, :n_draws] for part in parts])}
    found = {name: diagnose(values[:, kept]) for name, values in {**columns, **each, **virial}.items()}
    estimates: dict[str, dict[str, float | None]] = {
        name: {**{key: _number(value) for key, value in row.items()}, "exact": None} for name, row in found.items()
    }
    estimates["virial"]["exact"] = 1.0
    exact = None
    try:
        if law.law is not None:
            grid = np.linspace(0, 1.15 * float(lam[:, kept].max()), _CURVE + 1)[1:]
            means = {"energy": law.law.mean(law.spectral_energy), "entropy": law.law.mean_entropy()}
            means["free_energy"] = means["energy"] - means["entropy"] / law.beta
            exact = {"lambda": grid.tolist(), "density": law.law.density(grid).tolist()}
            for name, value in means.items():
                estimates[name]["exact"] = _number(value)
    except ValueError as error:  # of the quadrature, which must not cost the draws
        notes.append(f"No exact values: {error}")
    worst = max((row["r_hat"] for row in estimates.values() if row["r_hat"] is not None), default=None)
    if worst is not None and worst > 1.01:
        notes.append(f"The chains do not agree yet (R-hat {worst:.3f}, above 1.01): take more steps.")
    if law.target is not None and law.entropy.rank == law.shape[0] == law.shape[1] and law.depth % 2 == 0:
        notes.append("At even depth det X keeps its sign: every chain samples the matrices of one sign.")
    edges = np.linspace(0, float(lam[:, kept].max()) * 1.001, _BINS + 1)
    counts = [np.histogram(lam[:, kept, k], edges)[0].tolist() for k in range(lam.shape[-1])]
    shown = np.unique(np.linspace(0, n_draws - 1, _TRACE).astype(int))
    traces = {name: values[:_TRACED, shown].tolist() for name, values in columns.items()}
    return {
        "n_draws": int(kept.sum()),
        "burn_in": int(burn_in),
        "estimates": estimates,
        "histogram": {"edges": edges.tolist(), "counts": counts},
        "exact": exact,
        "traces": {"step": steps[shown].tolist(), **traces},
        "notes": notes,
    }


def _number(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def table(result: dict[str, Any]) -> Group:
    """Make the table of a result, with its notes."""
    words = {"energy": "energy E", "entropy": "entropy S", "free_energy": "free energy E − S/β"}
    rows = []
    for name, row in result["estimates"].items():
        cells = [(row["mean"], ".5g"), (row["mcse"], ".2g"), (row["exact"], ".5g"), (row["r_hat"], ".3f")]
        shown = ["" if value is None else f"{value:{form}}" for value, form in [*cells, (row["ess_bulk"], ".0f")]]
        rows.append([words.get(name, name.replace("lambda_", "λ ")), *shown])
    headings = "", "mean", "standard\nerror", "exact", "R-hat", "effective\ndraws"
    return Group(Text(headline(result)), Figures(headings, rows), *map(Text, result["notes"]))


def headline(result: dict[str, Any]) -> str:
    """Say in one line what was sampled."""
    s, (m, n) = result["settings"], result["settings"]["shape"]
    noise = s["noise"] if s["kappa"] == 1 else f"{s['noise']}, κ = {s['kappa']:g}"
    what = ENERGIES[s["energy"]] + (f", T = {result['data']['name']}" if result["data"] else "")
    law = f"E = {what}: {m}×{n}, rank {s['rank']}, depth {s['depth']:g}, β = {s['beta']:g}, noise {noise}"
    return f"{law}; {s['chains']} chains, {result['n_steps']} steps of {s['step_size']:g}"


def figure(result: dict[str, Any]) -> Figure:
    """Draw a result."""
    return plotting.sample_figure(result, headline(result))
