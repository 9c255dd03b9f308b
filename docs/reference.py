"""The reference: all public names of the package, room by room, and a page for each of them.

A name is public if it is in the ``__all__`` of a module below. A room of modules, like :mod:`dlngeo.weights`, holds all
of its modules that do not begin with an underscore, so that a new one is in the reference from its first day.
"""

from __future__ import annotations

import importlib
import pkgutil
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

# Title, what is in it, and its module: with a star, all modules of a folder.
ROOMS = [
    ("First names", "What most programs need, from `import dlngeo` alone.", ["dlngeo"]),
    ("Kernels", "A metric is a symmetric positive function `φ(s, t)` of two singular values.", ["dlngeo.kernels"]),
    ("geomstats", "Spaces and metrics for geomstats: every solver and learner of it on top.", ["dlngeo.geomstats"]),
    ("pymanopt", "Manifolds and optimizers for pymanopt, in factors of rank r.", ["dlngeo.pymanopt"]),
    ("PyTorch", "Any weight matrix trained as a product of N layers.", ["dlngeo.torch", "dlngeo.torch.step"]),
    ("scikit-learn", "Completion of tables as estimators.", ["dlngeo.sklearn"]),
    ("Problems", "Costs with derivatives in closed form, and ways to minimise them.", ["dlngeo.problems"]),
    ("Flows", "Training as a flow, where it ends, and how fast.", ["dlngeo.flows", "dlngeo.flows.limits"]),
    ("Sampling", "What noise adds: Langevin dynamics and Hamiltonian Monte Carlo.", ["dlngeo.sampling"]),
    ("Thermodynamics", "Volume of the fibres, entropy, equilibria and exact laws.", ["dlngeo.thermodynamics.*"]),
    ("Plotting", "Geodesics, entropies, flows and spectra, each drawn by one call.", ["dlngeo.plotting"]),
    ("Matrices", "Downstairs: `X = U Σ Vᵀ` in the metric of a kernel.", ["dlngeo.matrices.*"]),
    ("Weights", "Upstairs: `W = (W_1, …, W_N)`, and the balanced ones among them.", ["dlngeo.weights.*"]),
    ("Errors", "What is raised beside `ValueError` and `TypeError`.", ["dlngeo.errors"]),
]


def modules_of(patterns: list[str]) -> Iterator[str]:
    """Names of the modules, those of a folder in its order."""
    for pattern in patterns:
        folder, starred, _ = pattern.partition(".*")
        if not starred:
            yield folder
            continue
        for found in pkgutil.iter_modules(importlib.import_module(folder).__path__, f"{folder}."):
            if not found.name.rpartition(".")[2].startswith("_"):
                yield found.name


MODULES = [name for _, _, patterns in ROOMS for name in modules_of(patterns)]


def canonical(value: Any, name: str) -> str:
    """Where an object is defined: the same for all names of it."""
    module = getattr(value, "__module__", None)
    defined = getattr(value, "__qualname__", None)
    return f"{module}.{defined}" if module and defined and module.startswith("dlngeo") else name


def public_names(modules: Iterable[str] = MODULES) -> dict[str, dict[str, str]]:
    """Map modules and names to the full name under which an object is documented, which is the first that it has."""
    homes: dict[str, str] = {}
    names: dict[str, dict[str, str]] = {}
    for module in modules:
        loaded = importlib.import_module(module)
        names[module] = {}
        for name in loaded.__all__:
            full = f"{module}.{name}"
            if full not in MODULES and not name.startswith("__"):  # the version is no object
                names[module][name] = homes.setdefault(canonical(getattr(loaded, name), full), full)
    return names


def resolve(name: str) -> Any:
    """Find the object of a dotted name, or None; where a function has the name of its module, the function."""
    found: Any = None
    parts = name.split(".")
    for count in range(1, len(parts) + 1):
        value = getattr(found, parts[count - 1], None)
        if value is None:
            try:
                value = importlib.import_module(".".join(parts[:count]))
            except (ImportError, ValueError):
                return None
        found = value
    return found


def _table(names: list[str], toctree: bool) -> list[str]:
    options = ["   :nosignatures:", *(["   :toctree: names"] if toctree else [])]
    return ["", ".. autosummary::", *options, "", *(f"   {name}" for name in names)] if names else []


def _page(module: str, names: dict[str, str]) -> str:
    homes = [name for name, home in names.items() if home == f"{module}.{name}"]
    elsewhere = [home for name, home in names.items() if name not in homes]
    lines = [module, "=" * len(module), "", f".. automodule:: {module}", "   :no-members:"]
    lines += _table(homes, toctree=True)
    if elsewhere:
        lines += ["", ".. rubric:: Names that are documented elsewhere", *_table(elsewhere, toctree=False)]
    return "\n".join([*lines, ""])


def write_pages(folder: Path) -> None:
    """Write the page of each module, and one that leads to them, from what is public now."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for module, names in public_names().items():
        (folder / f"{module}.rst").write_text(_page(module, names), encoding="utf-8")
    lines = ["# Reference", "", "All public names, room by room."]
    for title, sentence, patterns in ROOMS:
        entries = modules_of(patterns)
        lines += ["", f"## {title}", "", sentence, "", "```{toctree}", ":maxdepth: 1", "", *entries, "```"]
    (folder / "index.md").write_text("\n".join([*lines, ""]), encoding="utf-8")
