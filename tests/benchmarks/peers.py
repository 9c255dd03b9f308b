"""Other ways to complete a matrix, each as fast as a benchmark of a page can make it; one thread each.

A solver takes a task and a list of errors in descending order, and returns for each the seconds and iterations until
the error on held-out entries is below it, or None where it gave up.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import time
from typing import NamedTuple

import numpy as np
import pymanopt
import scipy.sparse
import torch
from pymanopt.manifolds import FixedRankEmbedded
from pymanopt.optimizers import ConjugateGradient

from dlngeo.problems import MatrixCompletion, QuadraticLineSearcher
from dlngeo.pymanopt import FixedRank

LIMIT = 8.0  # seconds after which a solver gives up


class Task(NamedTuple):
    train: MatrixCompletion
    heldout: MatrixCompletion
    rank: int
    start: tuple


class _Finished(Exception):
    """Unwinds a solver that reached the last error, or the limit of time."""


class Clock:
    """Seconds at which errors were reached first, the time of looking at them not counted."""

    def __init__(self, task, targets):
        self.task, self.targets, self.reached = task, targets, {}
        self.iterations, self.looking, self.began = 0, 0.0, time.perf_counter()

    def look(self, point):
        """Take note of the error after one more iteration."""
        now = time.perf_counter()
        error = self.task.heldout.relative_error(point)
        seconds = now - self.began - self.looking
        for target in self.targets:
            if error < target and target not in self.reached:
                self.reached[target] = seconds, self.iterations
        if len(self.reached) == len(self.targets) or seconds > LIMIT or math.isnan(error):
            raise _Finished
        self.iterations += 1
        self.looking += time.perf_counter() - now

    def run(self, solver):
        with contextlib.suppress(_Finished):
            solver(self.look)
        return [self.reached.get(target) for target in self.targets]


def task(size, rank, fraction, condition, rng):
    """A matrix without noise, of entries of order 1 and evenly graded singular values."""
    (u, _), (v, _) = (np.linalg.qr(rng.standard_normal((size, rank))) for _ in range(2))
    s = size * np.geomspace(1, 1 / condition, rank)
    places = rng.choice(size * size, int(fraction * size * size) + 20_000, replace=False)
    rows, cols = np.divmod(places, size)
    values = np.einsum("kc,kc->k", u[rows] * s, v[cols])
    parts = (slice(20_000, None), slice(20_000))
    train, heldout = (MatrixCompletion(rows[p], cols[p], values[p], (size, size), threads=1) for p in parts)
    scale = np.linalg.norm(train.values) * size / math.sqrt(len(train) * rank)
    return Task(train, heldout, rank, train.initial_point(rank, scale, rng=1))


def conjugate_gradient(manifold):
    def solve(task, targets):
        clock = Clock(task, targets)

        def run(look):
            optimizer = ConjugateGradient(
                verbosity=0,
                max_iterations=10_000,
                min_gradient_norm=0,
                min_step_size=0,
                line_searcher=QuadraticLineSearcher(task.train),
            )
            task.train.solve(
                manifold(*task.train.shape, task.rank),
                optimizer,
                initial_point=task.start,
                callback=lambda record, point: look(point),
            )

        return clock.run(run)

    return solve


def alternating_least_squares(task, targets):
    """All rows at once: their normal matrices are one sparse product with the products of pairs of columns."""
    train, rank = task.train, task.rank
    entries = scipy.sparse.csr_array((train.values, (train.rows, train.cols)), shape=train.shape)
    by_row, by_col = entries, entries.T.tocsr()
    seen = [scipy.sparse.csr_array((np.ones_like(a.data), a.indices, a.indptr), a.shape) for a in (by_row, by_col)]

    def half(values, places, factor):
        pairs = (factor[:, :, None] * factor[:, None, :]).reshape(-1, rank * rank)
        normal = (places @ pairs).reshape(-1, rank, rank) + 1e-12 * np.eye(rank)
        return np.linalg.solve(normal, (values @ factor)[..., None])[..., 0]

    def run(look):
        right = task.start[2].T * math.sqrt(train.shape[1])
        while True:
            left = half(by_row, seen[0], right)
            right = half(by_col, seen[1], left)
            look((left, np.ones(rank), right.T))

    return Clock(task, targets).run(run)


def adam(task, targets, rate=0.05):
    """Two factors in torch, by the gradient of all entries."""
    train = task.train
    rows, cols, values = (torch.as_tensor(np.array(a)) for a in (train.rows, train.cols, train.values))
    u, s, vt = task.start
    left, right = (torch.tensor(a * np.sqrt(s), requires_grad=True) for a in (u, vt.T))

    def run(look):
        optimizer = torch.optim.Adam([left, right], lr=rate)
        while True:
            optimizer.zero_grad()
            residual = (left[rows] * right[cols]).sum(1) - values
            (residual @ residual / 2).backward()
            optimizer.step()
            look((left.detach().numpy(), np.ones(task.rank), right.detach().numpy().T))

    return Clock(task, targets).run(run)


def cmfrec(task, targets):
    """Alternating least squares in C; the fewest sweeps, in steps of a third, that reach each error from the start."""
    from cmfrec import CMF

    train = task.train
    data = scipy.sparse.coo_array((train.values, (train.rows, train.cols)), shape=train.shape)
    data = scipy.sparse.coo_matrix(data)
    found, sweeps, seconds = [], 1, 0.0
    for target in targets:
        while True:
            model = CMF(
                k=task.rank, lambda_=1e-9, method="als", use_cg=False, user_bias=False, item_bias=False, center=False,
                niter=sweeps, use_float=False, nthreads=1, precompute_for_predictions=False, verbose=False,
            )  # fmt: skip
            began = time.perf_counter()
            model.fit(data)
            seconds = time.perf_counter() - began
            error = task.heldout.relative_error((model.A_, np.ones(task.rank), model.B_.T))
            if error < target or seconds > LIMIT / 4:
                break
            sweeps += max(1, sweeps // 3)
        found.append((seconds, sweeps) if error < target else None)
    return found


SOLVERS = {
    "dlngeo, depth 3": conjugate_gradient(lambda *shape: FixedRank(*shape, depth=3)),
    "dlngeo, depth 1": conjugate_gradient(lambda *shape: FixedRank(*shape, depth=1)),
    "FixedRankEmbedded (sparse residual)": conjugate_gradient(FixedRankEmbedded),
    "ALS (NumPy, all rows at once)": alternating_least_squares,
    "cmfrec (ALS in C)": cmfrec,
    "torch Adam on two factors": adam,
}


# One gradient and one step, at a point that moves.


def riemannian_step(problem, x):
    """A function that steps down the Riemannian gradient by a thousandth of the point."""
    manifold, state = problem.manifold, [x]
    gradient = problem.riemannian_gradient(x)
    rate = 1e-3 * x[1][0] / np.linalg.norm(gradient[1])

    def step():
        gradient = problem.riemannian_gradient(state[0])
        state[0] = manifold.retraction(state[0], -rate * gradient)

    return step


def embedded_dense(task):
    """FixedRankEmbedded with the gradient as a dense matrix."""
    train, manifold = task.train, FixedRankEmbedded(*task.train.shape, task.rank)
    data, mask = np.zeros(train.shape), np.zeros(train.shape)
    data[train.rows, train.cols], mask[train.rows, train.cols] = train.values, 1.0

    @pymanopt.function.numpy(manifold)
    def cost(u, s, vt):
        return 0.5 * np.sum((mask * ((u * s) @ vt) - data) ** 2)

    @pymanopt.function.numpy(manifold)
    def gradient(u, s, vt):
        return manifold.projection((u, s, vt), mask * ((u * s) @ vt) - data)

    return riemannian_step(pymanopt.Problem(manifold, cost, riemannian_gradient=gradient), task.start)


def torch_layers(task, width, depth=3):
    """Gradient descent on layers whose product is multiplied out and masked."""
    train = task.train
    data, mask = torch.zeros(train.shape, dtype=torch.float64), torch.zeros(train.shape, dtype=torch.float64)
    rows, cols = torch.as_tensor(np.array(train.rows)), torch.as_tensor(np.array(train.cols))
    data[rows, cols], mask[rows, cols] = torch.as_tensor(np.array(train.values)), 1.0
    widths = [train.shape[1], *[width] * (depth - 1), train.shape[0]]
    weights = [(0.02 * torch.randn(b, a, dtype=torch.float64)).requires_grad_() for a, b in itertools.pairwise(widths)]

    def step():
        loss = 0.5 * torch.sum((mask * torch.linalg.multi_dot(weights[::-1]) - data) ** 2)
        loss.backward()
        with torch.no_grad():
            for w in weights:
                w -= 1e-9 * w.grad
                w.grad = None

    return step


def torch_gather(task):
    """Gradient descent on two factors of which the observed entries are gathered."""
    train = task.train
    rows, cols, values = (torch.as_tensor(np.array(a)) for a in (train.rows, train.cols, train.values))
    u, s, vt = task.start
    weights = [torch.tensor(a * np.sqrt(s), requires_grad=True) for a in (u, vt.T)]

    def step():
        residual = (weights[0][rows] * weights[1][cols]).sum(1) - values
        (residual @ residual / 2).backward()
        with torch.no_grad():
            for w in weights:
                w -= 1e-9 * w.grad
                w.grad = None

    return step


STEPS = {
    "dlngeo, depth 3": lambda task: riemannian_step(
        task.train.problem(FixedRank(*task.train.shape, task.rank, depth=3)), task.start
    ),
    "FixedRankEmbedded, sparse residual": lambda task: riemannian_step(
        task.train.problem(FixedRankEmbedded(*task.train.shape, task.rank)), task.start
    ),
    "torch, two factors, entries gathered": torch_gather,
    "FixedRankEmbedded, dense gradient": embedded_dense,
    "torch, three layers of full width": lambda task: torch_layers(task, task.train.shape[0]),
    "torch, three layers of width 5": lambda task: torch_layers(task, 5),
}
