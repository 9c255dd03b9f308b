r"""Balancing: flows of the weights that keep their product and end on balanced weights.

Velocities ``Ẇ = v(T)``, ``v(T)_p = T_p W_p − W_p T_{p−1}`` with ``T_0 = T_N = 0``, keep ``X = W_N ⋯ W_1``. The adjoint
of v is ``v*(Y)_p = Y_p W_pᵀ − W_{p+1}ᵀ Y_{p+1}``, so that ``v*(W) = −G``, and along any velocity the imbalance moves by
``Ġ_p = −(v*(Ẇ)_p + v*(Ẇ)_pᵀ)``. Hence two flows.

Moment map
    ``Ẇ = v(G)``, the gradient flow of ``¼ Σ_p ‖G_p‖²`` in the flat metric of all weights; its gradient is vertical, so
    it is the same on the fibre. It lowers ``½ Σ_p ‖W_p‖²`` at the rate ``Σ_p ‖G_p‖²``. Where all inner widths are the
    rank of X, ``G`` decays at the rate ``4 λ_min² (1 − cos(π/N))`` in the end, from the Jacobi matrices of
    :mod:`dlngeo.weights.balanced`; what neighbouring wider layers have beyond that rank decays like ``1/t`` only.
L²
    The gradient flow of ``½ Σ_p ‖W_p‖²`` on the fibre in the flat metric: ``Ẇ = −v(v*v)⁻¹v*(W)``, the part of ``−W``
    along the fibre [1]_. ``v*v`` is block tridiagonal, ``T_p ↦ T_p W_p W_pᵀ + W_{p+1}ᵀ W_{p+1} T_p − W_p T_{p−1} W_pᵀ −
    W_{p+1}ᵀ T_{p+1} W_{p+1}``. Since ``v*(Ẇ) = G``, the imbalance obeys ``Ġ = −2G``: it is exactly ``e^{−2t} G(0)``,
    at every depth, width and start.

Both end, where X has the rank of the least width, at the factorisations of least norm ``N Σ_k σ_k^{2/N}``, on the
orbit of :func:`dlngeo.weights.network.rebalance`.

References
----------
.. [1] K. Lindsey, G. Menon, "Regularization implies balancedness in the deep linear network", arXiv:2511.01137.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.linalg
from scipy.sparse.linalg import LinearOperator, lsmr

from dlngeo.flows.integrate import Progress
from dlngeo.flows.result import FlowResult
from dlngeo.flows.training import LayerCourse, Layout
from dlngeo.weights.network import Weights, imbalance

__all__ = ["BalancingFlow", "balancing_flow"]

# Up to so many unknowns a dense factorisation beats iterations.
_DENSE = 400


@dataclass(kw_only=True)
class BalancingFlow(FlowResult):
    """A balancing flow: weights along it.

    Call it with a time, or several, for the weights there.

    Attributes
    ----------
    t, status, message, n_evaluations
        As in :class:`~dlngeo.flows.FlowResult`.
    weights, points
        As in :class:`~dlngeo.flows.TrainingFlow`; the exact flow keeps the points.
    imbalance_norms : array, shape=[k, N−1]
        ``‖G_p‖``.
    squared_norms : array, shape=[k]
        ``Σ_p ‖W_p‖²``.

    See Also
    --------
    dlngeo.balancing_flow
    dlngeo.flows.TrainingFlow

    Examples
    --------
    >>> import numpy as np
    >>> from dlngeo import balancing_flow
    >>> flow = balancing_flow([np.full((1, 1), 2.0), np.full((1, 1), 0.5)], [0.0, 1.0], kind="l2")
    >>> bool(np.allclose(flow.points, 1)), bool(np.allclose(flow.imbalance_norms[:, 0], [3.75, 3.75 * np.exp(-2)]))
    (True, True)
    """

    weights: list[Any]
    imbalance_norms: np.ndarray
    squared_norms: np.ndarray


def balancing_flow(
    weights: Weights,
    t: Any,
    *,
    kind: str = "moment",
    method: str = "auto",
    rtol: float = 1e-11,
    atol: float = 1e-13,
    dense_output: bool = True,
    progress: Progress = False,
) -> BalancingFlow:
    """Move weights along their fibre to balanced weights; see :mod:`dlngeo.flows.balancing`.

    For the end alone, :func:`dlngeo.weights.network.rebalance` is a closed form.

    Parameters
    ----------
    weights : sequence of array, shape=[d_p, d_{p−1}], or array, shape=[N, d, d]
        Start, of at least two layers.
    kind : "moment" or "l2"
        The gradient flow of ``¼ Σ‖G_p‖²``, or that of ``½ Σ‖W_p‖²`` on the fibre.
    t, method, rtol, atol, dense_output, progress
        As in :func:`dlngeo.gradient_flow`.

    Returns
    -------
    BalancingFlow
        Ctrl-C gives what is done so far, with the status ``"interrupted"``.

    Raises
    ------
    ValueError
        If the weights do not fit together or are less than two, or an option is out of range.

    See Also
    --------
    dlngeo.imbalance
    dlngeo.weights.network.rebalance

    Examples
    --------
    >>> import numpy as np
    >>> from dlngeo import balancing_flow, imbalance
    >>> weights = [np.array([[1.0, 0.5], [0.0, 1.0]]), np.array([[2.0, 0.0], [0.3, 1.0]])]
    >>> flow = balancing_flow(weights, [0.0, 20.0])
    >>> bool(np.allclose(imbalance(flow.weights[-1]), 0, atol=1e-6))
    True
    """
    if kind not in ("moment", "l2"):
        raise ValueError(f'kind must be "moment" or "l2", got {kind!r}.')
    options = {"method": method, "rtol": rtol, "atol": atol, "dense_output": dense_output, "progress": progress}
    course = _BalancingCourse(weights, options)
    if len(course.layout.shapes) < 2:
        raise ValueError("a single layer has no imbalance; give two layers at least.")
    course.moment = kind == "moment"
    return course.follow(course.start, t)


class _BalancingCourse(LayerCourse):
    kind = BalancingFlow
    moment: bool

    def watched(self, y: np.ndarray) -> list[np.ndarray]:
        return [self.point(y)]

    def velocity(self, t: float, y: np.ndarray) -> np.ndarray:
        layers = self.layout.layers(y)
        generators = imbalance(layers) if self.moment else _projection(layers)
        return np.concatenate([a.ravel() for a in vertical(generators, layers)])

    def measured(self, states: np.ndarray) -> dict[str, Any]:
        return super().measured(states) | {
            "imbalance_norms": np.array(
                [[np.linalg.norm(g) for g in imbalance(self.layout.layers(y))] for y in states]
            ),
            "squared_norms": np.sum(states**2, axis=1),
        }


def vertical(generators: list[np.ndarray], layers: list[np.ndarray]) -> list[np.ndarray]:
    """``v(T)_p = T_p W_p − W_p T_{p−1}`` with ``T_0 = T_N = 0``, for the N−1 inner generators."""
    out = [np.zeros_like(w) for w in layers]
    for p, generator in enumerate(generators):
        out[p] += generator @ layers[p]
        out[p + 1] -= layers[p + 1] @ generator
    return out


def _adjoint(vectors: list[np.ndarray], layers: list[np.ndarray]) -> list[np.ndarray]:
    """``v*(Y)_p = Y_p W_pᵀ − W_{p+1}ᵀ Y_{p+1}``."""
    return [vectors[p] @ layers[p].T - layers[p + 1].T @ vectors[p + 1] for p in range(len(layers) - 1)]


def _projection(layers: list[np.ndarray]) -> list[np.ndarray]:
    """Return generators T with ``v*v(T) = G``, by least squares, ``min ‖W + v(T)‖``.

    Where inner widths exceed the ranks of their neighbours, T is not unique, but ``v(T)`` is.
    """
    inner = [w.shape[0] for w in layers[:-1]]
    ends = np.cumsum([0, *(d * d for d in inner)])
    target = -np.concatenate([w.ravel() for w in layers])
    if ends[-1] <= _DENSE:
        rows = np.cumsum([0, *(w.size for w in layers)])
        matrix = np.zeros((rows[-1], ends[-1]))
        for p, d in enumerate(inner):  # row by row, vec(A T B) = (A ⊗ Bᵀ) vec(T)
            columns = slice(ends[p], ends[p + 1])
            matrix[rows[p] : rows[p + 1], columns] = np.kron(np.eye(d), layers[p].T)
            matrix[rows[p + 1] : rows[p + 2], columns] = -np.kron(layers[p + 1], np.eye(d))
        solution = scipy.linalg.lstsq(matrix, target, cond=1e-12, lapack_driver="gelsd", check_finite=False)[0]
    else:
        layout = Layout(layers)

        def unpack(x: np.ndarray) -> list[np.ndarray]:
            return [x[a : a + d * d].reshape(d, d) for a, d in zip(ends, inner, strict=False)]

        operator = LinearOperator(
            (target.size, int(ends[-1])),
            matvec=lambda x: np.concatenate([a.ravel() for a in vertical(unpack(x), layers)]),
            rmatvec=lambda y: np.concatenate([a.ravel() for a in _adjoint(layout.layers(y), layers)]),
            dtype=float,
        )
        solution = lsmr(operator, target, atol=1e-14, btol=1e-14, conlim=0, maxiter=10 * target.size)[0]
    return [solution[a : a + d * d].reshape(d, d) for a, d in zip(ends, inner, strict=False)]
