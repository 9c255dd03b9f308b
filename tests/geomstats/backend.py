"""Arrays of the backend that is active, from NumPy and back; spaces of matrices."""

import geomstats.backend as gs
import numpy as np
from geomstats.geometry.general_linear import GeneralLinear

from dlngeo.geomstats import DLNMetric, FixedRankMatrices


def gsa(a):
    return gs.from_numpy(np.array(a, dtype=float))


def npa(a):
    return np.asarray(gs.to_numpy(a) if gs.is_array(a) else a)


def space_of(m, n, r, depth, **kwargs):
    """Matrices of a rank with the metric of a depth: the general linear group where they are invertible."""
    if m == n == r:
        return GeneralLinear(n, equip=False).equip_with_metric(DLNMetric, depth=depth, **kwargs)
    return FixedRankMatrices(m, n, r, depth=depth)
