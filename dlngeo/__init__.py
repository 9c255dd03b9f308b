"""The Riemannian geometry of the deep linear network, for geomstats and pymanopt."""

import importlib
from typing import Any

from dlngeo.kernels import DepthKernel, InfiniteDepthKernel, Kernel, check_kernel
from dlngeo.weights.network import balanced_weights, end_to_end, imbalance

__all__ = [
    "DepthKernel",
    "InfiniteDepthKernel",
    "Kernel",
    "balanced_weights",
    "check_kernel",
    "end_to_end",
    "imbalance",
]

# The hosts, the flows and the problems load solvers and compilers, so they are imported on first use.
_SUBPACKAGES = ("flows", "geomstats", "problems", "pymanopt", "sampling")
_LAZY: dict[str, str] = {  # public name → the module that defines it
    "balancing_flow": "dlngeo.flows",
    "entropy": "dlngeo.thermodynamics.free_energy",
    "free_energy": "dlngeo.thermodynamics.free_energy",
    "gradient_descent": "dlngeo.flows",
    "gradient_flow": "dlngeo.flows",
    "training_flow": "dlngeo.flows",
}


def __getattr__(name: str) -> Any:
    if name in _SUBPACKAGES:
        return importlib.import_module(f"dlngeo.{name}")
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'dlngeo' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_SUBPACKAGES, *_LAZY])
