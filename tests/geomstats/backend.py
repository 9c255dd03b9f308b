"""Arrays of the backend that is active, from NumPy and back."""

import geomstats.backend as gs
import numpy as np


def gsa(a):
    return gs.from_numpy(np.array(a, dtype=float))


def npa(a):
    return np.asarray(gs.to_numpy(a) if gs.is_array(a) else a)
