"""Methods of matrix completion that need a package of the extra ``bench``, with the interface of :mod:`references`."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import scipy.sparse
from references import Factors, best_of, error, leading

from dlngeo.problems import MatrixCompletion

CMFREC_RIDGES = (10.0, 1.0, 1e-1, 1e-2, 1e-3, 1e-5)
_SWEEPS = 30


def nuclear_norm(problem: MatrixCompletion) -> tuple[Factors, int]:
    """Least nuclear norm among the matrices with the observed entries, by cvxpy and SCS to 1e-5.

    E. Candès, B. Recht, "Exact matrix completion via convex optimization", Found. Comput. Math. 9 (2009).
    """
    import cvxpy

    x = cvxpy.Variable(problem.shape)
    program = cvxpy.Problem(
        cvxpy.Minimize(cvxpy.normNuc(x)), [x[problem.rows.tolist(), problem.cols.tolist()] == problem.values]
    )
    program.solve(solver=cvxpy.SCS, eps=1e-5, max_iters=3000)
    return (np.eye(problem.shape[0]), np.asarray(x.value)), int(program.solver_stats.num_iters)


def cmfrec(train: MatrixCompletion, validation: MatrixCompletion, rank: int) -> tuple[Factors, int]:
    """Alternating least squares of the package cmfrec, 30 sweeps at the ridge that the validation entries choose."""
    from cmfrec import CMF

    matrix = scipy.sparse.coo_matrix((train.values, (train.rows, train.cols)), shape=train.shape)
    found: list[Factors] = []
    for ridge in CMFREC_RIDGES:
        model = CMF(
            k=rank, lambda_=ridge, niter=_SWEEPS, user_bias=False, item_bias=False, center=False, scale_lam=False,
            use_cg=False, nthreads=1, verbose=False, random_state=1, use_float=False,
        )  # fmt: skip
        model.fit(matrix)
        # Rows and columns after the last with an entry are not in the model.
        left, right = np.zeros((train.shape[0], rank)), np.zeros((rank, train.shape[1]))
        left[: len(model.A_)], right[:, : len(model.B_)] = model.A_, model.B_.T
        found.append((left, right))
    return min(found, key=lambda factors: error(validation, factors)), _SWEEPS * len(CMFREC_RIDGES)


def layer_steps(problem: MatrixCompletion, depth: int, size: float, rng: Any = 0, every: int = 10) -> Iterator[Factors]:
    """Gradient descent with momentum on the weights of a deep linear network, in PyTorch; every tenth product.

    Square hidden layers, balanced weights ``size^{1/N}`` times partial isometries: the dynamics that the metric of
    depth N condenses. S. Arora, N. Cohen, W. Hu, Y. Luo, "Implicit regularization in deep matrix factorization",
    NeurIPS 2019, arXiv:1905.13655.
    """
    import torch

    rng = np.random.default_rng(rng)
    (m, n), hidden = problem.shape, min(problem.shape)
    frames = [np.linalg.qr(rng.standard_normal((k, hidden)))[0] for k in (n, *[hidden] * (depth - 1), m)]
    weights: Any = [
        torch.tensor(size ** (1 / depth) * b @ a.T, requires_grad=True) for a, b in itertools.pairwise(frames)
    ]
    rows, cols, values = (torch.as_tensor(np.array(a)) for a in (problem.rows, problem.cols, problem.values))
    largest = float(leading(problem, 1)[1][0]) * m * n / len(problem)
    share = len(problem) / (m * n)
    optimizer = torch.optim.SGD(weights, lr=0.1 / (share * depth * largest ** (2 - 2 / depth)), momentum=0.9)
    for count in itertools.count(1):
        x = torch.linalg.multi_dot(weights[::-1])
        optimizer.zero_grad()
        (((x[rows.long(), cols.long()] - values) ** 2).sum() / 2).backward()
        optimizer.step()
        if count % every == 0:
            yield np.eye(m), x.detach().numpy().copy()


def layers(
    train: MatrixCompletion,
    validation: MatrixCompletion,
    depth: int,
    size: float,
    rng: Any = 0,
    iterations: int = 6000,
    patience: int = 1000,
) -> tuple[Factors, int]:
    """Train the layers of a deep linear network from a small start; the validation entries choose the iteration."""
    every = 10
    steps = layer_steps(train, depth, size, rng, every)
    found, count = best_of(steps, train, validation, iterations // every, math.ceil(patience / every))
    return found, count * every
