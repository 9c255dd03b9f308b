"""The Riemannian geometry of the deep linear network, for geomstats and pymanopt.

Every name here is imported on first use: the hosts, the flows and the problems load solvers and compilers.
"""

import importlib as _importlib
import typing as _typing

if _typing.TYPE_CHECKING:  # what type checkers and editors read; at run time _HOMES says the same
    from dlngeo import flows as flows
    from dlngeo import geomstats as geomstats
    from dlngeo import plotting as plotting
    from dlngeo import problems as problems
    from dlngeo import pymanopt as pymanopt
    from dlngeo import sampling as sampling
    from dlngeo import sklearn as sklearn
    from dlngeo import torch as torch
    from dlngeo.errors import GeodesicError as GeodesicError
    from dlngeo.errors import KernelError as KernelError
    from dlngeo.errors import SingularError as SingularError
    from dlngeo.flows import balancing_flow as balancing_flow
    from dlngeo.flows import describe as describe
    from dlngeo.flows import gradient_descent as gradient_descent
    from dlngeo.flows import gradient_flow as gradient_flow
    from dlngeo.flows import training_flow as training_flow
    from dlngeo.geomstats import DLNMetric as DLNMetric
    from dlngeo.jobs.comparison import compare as compare
    from dlngeo.kernels import DepthKernel as DepthKernel
    from dlngeo.kernels import InfiniteDepthKernel as InfiniteDepthKernel
    from dlngeo.kernels import Kernel as Kernel
    from dlngeo.kernels import check_kernel as check_kernel
    from dlngeo.pymanopt import FixedRank as FixedRank
    from dlngeo.thermodynamics.free_energy import entropy as entropy
    from dlngeo.thermodynamics.free_energy import free_energy as free_energy
    from dlngeo.weights.network import balanced_weights as balanced_weights
    from dlngeo.weights.network import end_to_end as end_to_end
    from dlngeo.weights.network import imbalance as imbalance

    __version__: str

_ROOMS = ("flows", "geomstats", "plotting", "problems", "pymanopt", "sampling", "sklearn", "torch")
_HOMES = {  # public name → the module that it is imported from
    "DLNMetric": "dlngeo.geomstats",
    "DepthKernel": "dlngeo.kernels",
    "FixedRank": "dlngeo.pymanopt",
    "GeodesicError": "dlngeo.errors",
    "InfiniteDepthKernel": "dlngeo.kernels",
    "Kernel": "dlngeo.kernels",
    "KernelError": "dlngeo.errors",
    "SingularError": "dlngeo.errors",
    "balanced_weights": "dlngeo.weights.network",
    "balancing_flow": "dlngeo.flows",
    "check_kernel": "dlngeo.kernels",
    "compare": "dlngeo.jobs.comparison",
    "describe": "dlngeo.flows",
    "end_to_end": "dlngeo.weights.network",
    "entropy": "dlngeo.thermodynamics.free_energy",
    "free_energy": "dlngeo.thermodynamics.free_energy",
    "gradient_descent": "dlngeo.flows",
    "gradient_flow": "dlngeo.flows",
    "imbalance": "dlngeo.weights.network",
    "training_flow": "dlngeo.flows",
}
# Rooms are left out, two of which bear the names of the hosts: ``from dlngeo import *`` must not hide these.
__all__ = ["__version__", *_HOMES]


if not _typing.TYPE_CHECKING:  # a checker that sees this function takes every misspelt name for one

    def __getattr__(name):
        if name in _ROOMS:
            return _importlib.import_module(f"dlngeo.{name}")
        if name in _HOMES:
            value = getattr(_importlib.import_module(_HOMES[name]), name)
        elif name == "__version__":
            value = _importlib.import_module("importlib.metadata").version("dlngeo")
        else:
            raise AttributeError(f"module 'dlngeo' has no attribute {name!r}")
        return globals().setdefault(name, value)

    def __dir__():
        return sorted([*__all__, *_ROOMS])
