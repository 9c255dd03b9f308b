"""Kernels: a metric is two functions, ``φ(s, t)`` and its divided difference."""

from dlngeo.kernels.depth import DepthKernel, InfiniteDepthKernel
from dlngeo.kernels.kernel import Kernel

__all__ = ["DepthKernel", "InfiniteDepthKernel", "Kernel"]
