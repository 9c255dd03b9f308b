"""The lock that parallel loops of compiled code share.

Numba's fallback threading layer, workqueue, aborts the process when two Python threads enter a parallel loop at once.
"""

from threading import Lock

__all__ = ["one_parallel_loop"]

one_parallel_loop = Lock()
