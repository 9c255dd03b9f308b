"""The solvers of pymanopt that take distances by the hundred thousand end by themselves on chords."""

import time

import numpy as np
import pytest
from pymanopt.optimizers import NelderMead, ParticleSwarm

from dlngeo.problems import MatrixCompletion
from dlngeo.pymanopt import FixedRank


@pytest.mark.benchmark
@pytest.mark.parametrize("depth", [1, 3])
@pytest.mark.parametrize("solver", [ParticleSwarm, NelderMead])
def test_solvers_without_derivatives_end_by_themselves(solver, depth):
    np.random.seed(0)  # noqa: NPY002
    rng = np.random.default_rng(0)
    low = rng.standard_normal((6, 2)) @ rng.standard_normal((2, 5))
    shown = rng.random((6, 5)) < 0.85
    cost = MatrixCompletion(*np.nonzero(shown), low[shown], (6, 5))
    manifold = FixedRank(6, 5, 2, depth=depth, geodesics=False, rng=0)
    start = time.process_time()
    solution = solver(verbosity=0).run(cost.problem(manifold))
    seconds = time.process_time() - start
    print(f"{solver.__name__}, depth {depth}: {seconds:.1f} s of processor time, {solution.stopping_criterion}")
    assert "max cost evals" in solution.stopping_criterion
    assert seconds < 60
