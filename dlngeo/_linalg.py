"""Linear algebra that NumPy and SciPy lack: Haar frames, nearest rotations, and products of tall arrays."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import schur

__all__ = [
    "adjoint",
    "combine",
    "gaussian",
    "gram",
    "haar",
    "haar_from",
    "inner",
    "is_complex",
    "nearest_orthogonal",
    "rotation_between",
    "rotation_logs",
    "skew",
    "span",
    "symmetric",
]

Array = NDArray[np.float64]

# Products of tall arrays with small matrices take a block of rows at a time, so that no temporary leaves the caches.
# At 100,000 rows and rank 10 a sum of three products takes half the time of ``X @ A + Y @ B + Z @ C``, and so does a
# Gram matrix (measured).
_ROWS = 8192


def combine(*terms: tuple[np.ndarray, np.ndarray | None]) -> np.ndarray:
    """Sum ``Σ_k X_k A_k`` over pairs of a tall ``X_k`` and a small ``A_k``, where None is the identity."""
    (tall, small), *others = terms
    if 0 < tall.shape[0] <= _ROWS and small is not None:
        out = tall @ small
        for x, a in others:
            out = out + (x if a is None else x @ a)
        return out
    rows, columns = tall.shape[0], tall.shape[1] if small is None else small.shape[1]
    out = np.empty((rows, columns), np.result_type(*(a for term in terms for a in term if a is not None)))
    for block in _blocks(rows):
        if small is None:
            out[block] = tall[block]
        else:
            np.matmul(tall[block], small, out=out[block])
        for x, a in others:
            out[block] += x[block] if a is None else x[block] @ a
    return out


def gram(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Multiply ``x* y`` for tall arrays x and y."""
    blocks = _blocks(x.shape[0])
    total = adjoint(x[first := next(blocks)]) @ y[first]
    for block in blocks:
        total += adjoint(x[block]) @ y[block]
    return total


def is_complex(a: Any) -> bool:
    """Whether an array, of any library, is complex."""
    dtype = a.dtype
    return dtype.kind == "c" if isinstance(dtype, np.dtype) else dtype.is_complex


def adjoint(a: Any) -> Any:
    """Conjugate transposes of matrices, shape=[..., n, m]: transposes of real ones, at no cost."""
    return a.conj().mT  # conj returns a real array itself


def inner(a: Any, b: Any) -> Any:
    """Real inner products ``Re Tr a* b`` of matrices, shape=[...]."""
    if is_complex(a) and is_complex(b):
        return (a.real * b.real + a.imag * b.imag).sum(axis=(-2, -1))
    if is_complex(a) or is_complex(b):
        return (a.real * b.real).sum(axis=(-2, -1))
    return (a * b).sum(axis=(-2, -1))


def _blocks(rows: int) -> Iterator[slice]:
    return (slice(k, k + _ROWS) for k in range(0, rows, _ROWS))


def span(first: Any, second: Any | None) -> Any:
    """Orthonormal basis of the columns of both; where these are dependent, arbitrary vectors fill it up."""
    return first if second is None else np.linalg.qr(np.hstack((first, second)))[0]


def symmetric(a: Any) -> Any:
    """Symmetric part of matrices, Hermitian of complex ones, shape=[..., d, d]."""
    return (a + adjoint(a)) / 2


def skew(a: Any) -> Any:
    """Skew part of matrices, skew-Hermitian of complex ones, shape=[..., d, d]."""
    return (a - adjoint(a)) / 2


def rotation_between(o0: Array, o1: Array) -> Callable[[Array], Array]:
    """One-parameter group of rotations ``t ↦ exp(tL)`` with ``o0 exp(L) = o1``, for orthogonal o0, o1 of one sign."""
    # exp(t L) of a real skew matrix from the spectrum of the Hermitian matrix i L.
    frequencies, modes = np.linalg.eigh(1j * _rotation_log(o0.T @ o1))

    def turn(t: Array) -> Array:
        phases = np.exp(-1j * np.asarray(t)[..., None, None] * frequencies)
        return ((modes * phases) @ modes.conj().T).real

    return turn


def _rotation_log(q: Array) -> Array:
    """Skew logarithm of a rotation; eigenvalues −1, which come in pairs, turn by π in the plane of a pair."""
    t, z = schur(q, output="real")
    log, reversed_ = np.zeros_like(t), []
    i = 0
    while i < len(t):
        if i + 1 < len(t) and t[i + 1, i] != 0:
            log[i + 1, i] = np.arctan2(t[i + 1, i], t[i, i])
            log[i, i + 1] = -log[i + 1, i]
            i += 2
        else:
            if t[i, i] < 0:
                reversed_.append(i)
            i += 1
    for a, b in zip(reversed_[::2], reversed_[1::2], strict=True):
        log[b, a], log[a, b] = np.pi, -np.pi
    return z @ log @ z.T


def rotation_logs(q: Array) -> Array:
    """Skew logarithms of rotations, shape=[b, d, d], of least norm."""
    eye = np.eye(q.shape[-1])
    half = 1j * (q - eye) @ np.linalg.pinv(q + eye)  # its eigenvalues are −tan(angle/2)
    tangents, modes = np.linalg.eigh((half + half.conj().mT) / 2)
    logs = ((modes * (-2j * np.arctan(tangents))[..., None, :]) @ modes.conj().mT).real
    # Near half turns the tangents are infinite.
    for k in np.flatnonzero(~(np.abs(tangents).max(axis=-1, initial=0.0) < 1e6) | (np.linalg.det(q + eye) == 0)):
        logs[k] = _rotation_log(q[k])
    return logs


def nearest_orthogonal(a: Array, signs: Any) -> Array:
    """Orthogonal matrices nearest to given ones, with given signs of their determinants, shape=[..., d, d]."""
    u, _, vt = np.linalg.svd(a)
    flip = signs * np.linalg.det(u @ vt) < 0
    u[..., -1] = np.where(flip[..., None], -u[..., -1], u[..., -1])
    return u @ vt


def gaussian(rng: np.random.Generator, shape: Sequence[int], field: str = "real") -> Any:
    """Sample independent entries, whose real parts and, of a complex field, imaginary parts are standard normal."""
    if field == "real":
        return rng.standard_normal(shape)
    parts = rng.standard_normal((*shape, 2))
    return parts[..., 0] + 1j * parts[..., 1]


def haar(rng: np.random.Generator, shape: Sequence[int], field: str = "real") -> Any:
    """Sample matrices with orthonormal columns from Haar measure, shape=[..., d, r]."""
    return haar_from(gaussian(rng, shape, field))


def small_factors(m: int, n: int, rank: int, size: float, rng: Any, field: str = "real") -> tuple[Any, Array, Any]:
    """Draw ``(u, s, vt)`` with random orthonormal frames and all singular values equal; see ``initial_point``."""
    # Gaussian columns one after the other, so that fewer are the first of more. Signs are left as QR gives them: the
    # figures of docs/bias.md and of the README start here.
    sources = zip(np.random.default_rng(rng).spawn(2), (m, n), strict=True)
    u, v = (np.linalg.qr(gaussian(source, (rank, side), field).T)[0] for source, side in sources)
    return u, np.full(rank, float(size)), np.ascontiguousarray(adjoint(v))


def haar_from(gauss: Any) -> Any:
    """Orthonormal columns, of Haar measure, from Gaussian matrices: QR with positive diagonal of R, which is unique."""
    if gauss.size == 0:
        return np.zeros_like(gauss)
    q, upper = np.linalg.qr(gauss)
    return q * np.sign(np.diagonal(upper, axis1=-2, axis2=-1))[..., None, :]
