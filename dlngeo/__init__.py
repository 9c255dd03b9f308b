"""The Riemannian geometry of the deep linear network, for geomstats and pymanopt."""

from dlngeo.kernels import DepthKernel, InfiniteDepthKernel, Kernel

__all__ = ["DepthKernel", "InfiniteDepthKernel", "Kernel"]
