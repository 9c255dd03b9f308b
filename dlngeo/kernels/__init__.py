"""Kernels: a metric is a function ``φ(s, t)`` of two singular values, with its divided differences."""

from dlngeo.kernels.check import KernelReport, check_kernel, require_kernel
from dlngeo.kernels.depth import DepthKernel, InfiniteDepthKernel, of_depth
from dlngeo.kernels.kernel import Kernel
from dlngeo.kernels.regularized import RegularizedKernel
from dlngeo.kernels.relaxed import RelaxedDepthKernel

__all__ = [
    "DepthKernel",
    "InfiniteDepthKernel",
    "Kernel",
    "KernelReport",
    "RegularizedKernel",
    "RelaxedDepthKernel",
    "check_kernel",
    "of_depth",
    "require_kernel",
]
