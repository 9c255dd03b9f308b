"""The Riemannian geometry of the deep linear network, for geomstats and pymanopt."""

import importlib
from types import ModuleType

from dlngeo.kernels import DepthKernel, InfiniteDepthKernel, Kernel

__all__ = ["DepthKernel", "InfiniteDepthKernel", "Kernel"]

# The hosts and the problems load solvers and compilers, so they are imported on first use.
_SUBPACKAGES = ("geomstats", "problems", "pymanopt")


def __getattr__(name: str) -> ModuleType:
    if name in _SUBPACKAGES:
        return importlib.import_module(f"dlngeo.{name}")
    raise AttributeError(f"module 'dlngeo' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_SUBPACKAGES])
