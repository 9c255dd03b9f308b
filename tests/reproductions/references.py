"""Other methods of matrix completion, each in the few lines that its paper needs.

Methods take a :class:`~dlngeo.problems.MatrixCompletion` and a rank, and return factors ``(left, right)`` of
``X = left @ right`` with the number of iterations. Those that hold entries out take the ``validation`` entries too.
``*_steps`` are the bare iterations, endless; :func:`best_of` watches one, stops it and picks an iterate.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import scipy.sparse
from scipy.sparse.linalg import lsqr

from dlngeo.problems import MatrixCompletion

Factors = tuple[np.ndarray, np.ndarray]
RIDGES = (10.0, 3.0, 1.0, 0.3, 0.1, 1e-2, 1e-3, 1e-4, 1e-6, 1e-8)


def filled(problem: MatrixCompletion) -> np.ndarray:
    """The matrix with zeros where nothing is observed."""
    return scipy.sparse.coo_array((problem.values, (problem.rows, problem.cols)), shape=problem.shape).toarray()


def leading(problem: MatrixCompletion, rank: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Leading part (U, s, V) of the SVD of the matrix filled with zeros."""
    u, s, vt = np.linalg.svd(filled(problem), full_matrices=False)
    return u[:, :rank], s[:rank], vt[:rank].T


def cut(matrix: np.ndarray, rank: int) -> Factors:
    """The best matrix of a rank."""
    u, s, vt = np.linalg.svd(matrix, full_matrices=False)
    return u[:, :rank] * s[:rank], vt[:rank]


def error(problem: MatrixCompletion, factors: Factors) -> float:
    """Relative error on the entries of a problem."""
    left, right = factors
    predicted = np.einsum("ek,ek->e", left[problem.rows], right.T[problem.cols])
    return float(np.linalg.norm(predicted - problem.values) / np.linalg.norm(problem.values))


def best_of(
    steps: Iterator[Factors],
    problem: MatrixCompletion,
    validation: MatrixCompletion | None,
    iterations: int,
    patience: int,
    tolerance: float = 1e-12,
) -> tuple[Factors, int]:
    """The iterate with the least error on ``validation`` or, without it, on the fitted entries; and what it took.

    It ends after ``iterations``, after ``patience`` of them without an improvement by 0.01 %, or below ``tolerance``.
    """
    watched = problem if validation is None else validation
    best, least, stale, count = None, math.inf, 0, 0
    for factors in itertools.islice(steps, iterations):
        count, now = count + 1, error(watched, factors)
        stale = 0 if now < (1 - 1e-4) * least else stale + 1
        if best is None or now < least:
            best, least = factors, now
        if stale >= patience or least < tolerance or not math.isfinite(now):
            break
    assert best is not None, "an iteration yields at least one iterate"
    return best, count


# Least squares on factors.


def als_steps(problem: MatrixCompletion, right: np.ndarray, ridge: float) -> Iterator[Factors]:
    """Alternate the exact minimisers of ``½‖P_Ω(L R) − a‖² + ½ ridge (‖L‖² + ‖R‖²)`` in L and in R.

    Y. Koren, R. Bell, C. Volinsky, "Matrix factorization techniques for recommender systems", Computer 42 (2009).
    """
    values, rank = filled(problem), right.shape[0]
    seen = np.zeros(problem.shape)
    seen[problem.rows, problem.cols] = 1

    def half(seen: np.ndarray, values: np.ndarray, v: np.ndarray) -> np.ndarray:
        gram = (seen @ (v[:, :, None] * v[:, None]).reshape(-1, rank**2)).reshape(-1, rank, rank)
        # In floating point a small ridge may vanish beside the Gram matrix of a row with fewer entries than the rank.
        ridges = np.maximum(ridge, 1e-14 * np.trace(gram, axis1=1, axis2=2) + 1e-300)
        return np.linalg.solve(gram + ridges[:, None, None] * np.eye(rank), (values @ v)[:, :, None])[:, :, 0]

    while True:
        left = half(seen, values, right.T)
        right = half(seen.T, values.T, left).T
        yield left, right


def als(
    problem: MatrixCompletion,
    validation: MatrixCompletion,
    rank: int,
    rng: Any = 0,
    ridges: Sequence[float] = RIDGES,
    sweeps: int = 300,
    patience: int = 20,
) -> tuple[Factors, int]:
    """Alternating least squares along ever smaller ridges, each from the last; the validation entries choose.

    Warm starts are those of T. Hastie et al., "Matrix completion and low-rank SVD via fast alternating least squares",
    JMLR 16 (2015). The path ends where three ridges in a row are worse than the best.
    """
    _, _, right = problem.initial_point(rank, 1.0, rng)
    right = right * math.sqrt(problem.shape[1] / rank)
    best, least, worse, total = None, math.inf, 0, 0
    for ridge in ridges:
        found, count = best_of(als_steps(problem, right, ridge), problem, validation, sweeps, patience)
        total, now = total + count, error(validation, found)
        worse = 0 if now < least else worse + 1
        if best is None or now < least:
            best, least = found, now
        if worse == 3:
            break
        if np.any(found[1]):  # a large ridge may shrink all to zero, from where nothing moves
            right = found[1]
    assert best is not None
    return best, total


def linear(problem: MatrixCompletion, u: np.ndarray, v: np.ndarray) -> scipy.sparse.csr_array:
    """Matrix of ``(A, B) ↦ P_Ω(A Vᵀ + U Bᵀ)``, with A and B as one vector, row by row."""
    (m, n), rank = problem.shape, u.shape[1]
    entry = np.repeat(np.arange(len(problem)), rank)
    of_a = problem.rows[:, None].astype(np.int64) * rank + np.arange(rank)
    of_b = m * rank + problem.cols[:, None].astype(np.int64) * rank + np.arange(rank)
    data = np.concatenate((v[problem.cols].ravel(), u[problem.rows].ravel()))
    places = np.concatenate((entry, entry)), np.concatenate((of_a.ravel(), of_b.ravel()))
    return scipy.sparse.coo_array((data, places), shape=(len(problem), (m + n) * rank)).tocsr()


def least_norm(
    problem: MatrixCompletion, u: np.ndarray, v: np.ndarray, values: np.ndarray, iterations: int = 1500
) -> Factors:
    """Least-squares solution (A, B) of least norm of ``P_Ω(A Vᵀ + U Bᵀ) = values``; LSQR from zero finds it."""
    m, rank = u.shape
    solution = lsqr(linear(problem, u, v), values, atol=1e-15, btol=1e-15, conlim=0, iter_lim=iterations)[0]
    return solution[: m * rank].reshape(m, rank), solution[m * rank :].reshape(-1, rank)


def gnmr_steps(problem: MatrixCompletion, rank: int, alpha: int = -1, inner: int = 1500) -> Iterator[Factors]:
    """GNMR: Gauss–Newton on the factors, where the step is not unique and the variant chooses one of least norm.

    (A, B) of least norm minimise ``‖P_Ω(U Bᵀ + A Vᵀ + α U Vᵀ) − a‖``, and ``(1 + α)/2 (U, V) + (A, B)`` follows: the
    setting (α = −1) and the updating variant (1). P. Zilber, B. Nadler, "GNMR: a provable one-line algorithm
    for low rank matrix recovery", SIMODS 4 (2022), arXiv:2106.12933.

    The estimate is the best matrix of rank r to the linearised one, ``U Bᵀ + A Vᵀ + α U Vᵀ``. In the setting variant
    the product of the factors would not do: the least norm turns u/v into v/u (for scalars), so that factors which
    are not balanced swing for ever about the limit, which the linearised matrix reaches.
    """
    u, s, v = leading(problem, rank)
    u, v = u * np.sqrt(s), v * np.sqrt(s)
    while True:
        product = np.einsum("ek,ek->e", u[problem.rows], v[problem.cols])
        a, b = least_norm(problem, u, v, problem.values - alpha * product, inner)
        yield cut((a + alpha * u) @ v.T + u @ b.T, rank)
        u, v = (1 + alpha) / 2 * u + a, (1 + alpha) / 2 * v + b


def r2rils_steps(problem: MatrixCompletion, rank: int, inner: int = 1500) -> Iterator[Factors]:
    """R2RILS: least squares over the matrices of rank 2r that share row or column space with the last estimate.

    The estimate is the best one of rank r of ``A Vᵀ + U Bᵀ``; the next U and V average the last ones with A and B, all
    columns normalised. J. Bauch, B. Nadler, P. Zilber, "Rank 2r iterative least squares: efficient recovery of
    ill-conditioned low rank matrices from few entries", SIMODS 3 (2021), arXiv:2002.01849.
    """

    def columns(a: np.ndarray) -> np.ndarray:
        norms = np.linalg.norm(a, axis=0)
        return a / np.where(norms > 0, norms, 1.0)

    u, _, v = leading(problem, rank)
    while True:
        a, b = least_norm(problem, u, v, problem.values, inner)
        yield cut(a @ v.T + u @ b.T, rank)
        u, v = columns(u + columns(a)), columns(v + columns(b))


def gnmr(
    problem: MatrixCompletion,
    rank: int,
    validation: MatrixCompletion | None = None,
    iterations: int = 100,
    patience: int = 40,
    **options: Any,
) -> tuple[Factors, int]:
    """The best iterate of :func:`gnmr_steps`."""
    return best_of(gnmr_steps(problem, rank, **options), problem, validation, iterations, patience)


def r2rils(
    problem: MatrixCompletion,
    rank: int,
    validation: MatrixCompletion | None = None,
    iterations: int = 100,
    patience: int = 40,
    **options: Any,
) -> tuple[Factors, int]:
    """The best iterate of :func:`r2rils_steps`."""
    return best_of(r2rils_steps(problem, rank, **options), problem, validation, iterations, patience)


def with_chosen_rank(
    method: Callable[..., tuple[Factors, int]],
    train: MatrixCompletion,
    validation: MatrixCompletion,
    everything: MatrixCompletion,
    ranks: Sequence[int],
    **options: Any,
) -> tuple[Factors, int]:
    """Let the validation entries choose the rank, then fit all entries at that rank: what to do with a rank unknown.

    The ranks ascend; the search ends after two in a row that are worse than the best.
    """
    chosen, least, worse, total = ranks[0], math.inf, 0, 0
    for rank in ranks:
        found, count = method(train, rank, **options)
        now, total = error(validation, found), total + count
        worse = 0 if now < least else worse + 1
        if now < least:
            chosen, least = rank, now
        if worse == 2 or least < 1e-8:
            break
    found, count = method(everything, chosen, **options)
    return found, total + count


# Reweighted least squares.


def hm_irls_steps(problem: MatrixCompletion, rank: int) -> Iterator[np.ndarray]:
    """Harmonic-mean IRLS at p = 0 with ``ε = min(ε, σ_{r+1})``, by dense linear algebra: dense iterates, few entries.

    The next matrix is that of least norm ``⟨X, W X⟩`` on the data. ``W⁻¹`` multiplies the entry (k, l) in the frames of
    the last one by ``(σ_k² + σ_l²)/2 + ε²``; ε ≥ 1e-6 σ_1, for round-off. C. Kümmerle, J. Sigl, "Harmonic mean
    iteratively reweighted least squares for low-rank matrix recovery", JMLR 19 (2018).
    """
    x, floor = filled(problem), math.inf
    rows, cols = problem.rows, problem.cols
    same_row, same_col = rows[:, None] == rows, cols[:, None] == cols
    while True:
        s = np.linalg.svd(x, compute_uv=False)
        floor = max(min(floor, float(s[rank])), 1e-6 * float(s[0]))
        of_rows, of_cols = ((g + floor**2 * np.eye(len(g))) / 2 for g in (x @ x.T, x.T @ x))
        # W⁻¹(Z) = of_rows Z + Z of_cols, between the places of the entries.
        gram = of_rows[np.ix_(rows, rows)] * same_col + of_cols[np.ix_(cols, cols)] * same_row
        scale = 1 / np.sqrt(np.diagonal(gram))
        multipliers = np.zeros(problem.shape)
        multipliers[rows, cols] = scale * np.linalg.solve(scale[:, None] * gram * scale, scale * problem.values)
        x = of_rows @ multipliers + multipliers @ of_cols
        yield x


def matrix_irls_steps(problem: MatrixCompletion, rank: int, inner: int = 500) -> Iterator[Factors]:
    """MatrixIRLS: reweighted least squares for ``Σ log σ``, with ``ε = min(ε, σ_{r+1})``.

    ``W⁻¹`` multiplies by ``max(σ_k, ε) max(σ_l, ε)``: by ε² but on the tangent space T at the R singular values above
    ε, so that the next matrix is ``Z + P_Ω*(a − P_Ω Z)`` with
    ``Z = argmin over T of ‖P_Ω Z − a‖² + Σ_kl Z_kl² / (w_kl/ε² − 1)``; w are the inverse weights. It is solved by
    conjugate gradients in the coordinates ``Z = U M Vᵀ + A Vᵀ + U Bᵀ``. C. Kümmerle, C. Mayrink Verdun, "A scalable
    second order method for ill-conditioned matrix completion from few samples", ICML 2021, arXiv:2106.02119.
    """
    rows, cols, share = problem.rows, problem.cols, len(problem) / math.prod(problem.shape)
    x, floor, sparse = filled(problem), math.inf, np.zeros(problem.shape)
    while True:
        u, s, vt = np.linalg.svd(x, full_matrices=False)
        floor = max(min(floor, float(s[rank])), 1e-15 * float(s[0]))
        count = max(1, int(np.sum(s > floor)))
        u, s, v = u[:, :count], s[:count], vt[:count].T
        with np.errstate(divide="ignore"):
            ridges = [1 / np.maximum(w / floor**2 - 1, 1e-30) for w in (s[:, None] * s, s * floor, s * floor)]
        scales = [1 / np.sqrt(share + ridge) for ridge in ridges]  # exact where the entries are evenly spread

        def assemble(z: list[np.ndarray], u: np.ndarray = u, v: np.ndarray = v) -> Factors:
            return np.hstack((u @ z[0] + z[1], u)), np.hstack((v, z[2])).T

        def project(entries: np.ndarray, u: np.ndarray = u, v: np.ndarray = v) -> list[np.ndarray]:
            sparse[rows, cols] = entries
            of_v, of_u = sparse @ v, sparse.T @ u
            core = u.T @ of_v
            return [core, of_v - u @ core, of_u - v @ core.T]

        def sample(z: list[np.ndarray]) -> np.ndarray:
            left, right = assemble(z)
            return np.einsum("ek,ek->e", left[rows], right.T[cols])

        z = [a * 0 for a in project(problem.values)]
        z[0] = np.diag(s)
        residual = [a - r * b for a, b, r in zip(project(problem.values - sample(z)), z, ridges, strict=True)]
        start = math.sqrt(dot(residual, residual))
        direction, last = None, 1.0
        for _ in range(inner):
            scaled = [c**2 * a for a, c in zip(residual, scales, strict=True)]
            size = dot(residual, scaled)
            if math.sqrt(dot(residual, residual)) <= 1e-12 * start or size == 0:
                break
            direction = (
                scaled if direction is None else [a + size / last * d for a, d in zip(scaled, direction, strict=True)]
            )
            image = [a + r * d for a, d, r in zip(project(sample(direction)), direction, ridges, strict=True)]
            step, last = size / dot(direction, image), size
            z = [a + step * d for a, d in zip(z, direction, strict=True)]
            residual = [a - step * b for a, b in zip(residual, image, strict=True)]
        left, right = assemble(z)
        x = left @ right
        x[rows, cols] = problem.values
        yield cut(left @ right, rank)


def dot(a: list[np.ndarray], b: list[np.ndarray]) -> float:
    """Sum of the inner products of arrays."""
    return sum(float(np.vdot(p, q)) for p, q in zip(a, b, strict=True))


def matrix_irls(
    problem: MatrixCompletion,
    rank: int,
    validation: MatrixCompletion | None = None,
    iterations: int = 150,
    patience: int = 15,
    **options: Any,
) -> tuple[Factors, int]:
    """The best iterate of :func:`matrix_irls_steps`, cut to the rank."""
    return best_of(matrix_irls_steps(problem, rank, **options), problem, validation, iterations, patience)
