"""Loops compiled by Numba, which let go of the interpreter, so that threads share the chains."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numba

__all__ = ["in_threads", "jit"]

jit = numba.njit(cache=True, error_model="numpy", nogil=True)


def in_threads(function: Callable[[slice], Any], chains: int, least: int = 16) -> None:
    """Run a compiled loop over slices of the chains, in as many threads as Numba would start for its parallel loops.

    Those take three times as long to compile. With fewer chains than ``least`` starting threads costs more than it
    saves.
    """
    parts = numba.get_num_threads() if chains >= least else 1
    slices = [slice(chains * k // parts, chains * (k + 1) // parts) for k in range(parts)]
    if parts == 1:
        function(slices[0])
        return
    with ThreadPoolExecutor(parts) as pool:
        list(pool.map(function, slices))
