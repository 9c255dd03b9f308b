"""Training of the weights: the gradient flow, with its conserved imbalance, and gradient descent, which breaks it."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from dlngeo import _check
from dlngeo._autodiff import untraced
from dlngeo._check import returned
from dlngeo._linalg import is_complex
from dlngeo.flows.integrate import FlowStatus, Progress
from dlngeo.flows.result import Cost, Course, FlowResult, Gradient, UserFunction
from dlngeo.flows.states import drops
from dlngeo.weights.network import Weights, end_to_end, imbalance, is_stack, layer_gradient, layers_of

__all__ = ["Descent", "LayerCourse", "Layout", "TrainingFlow", "gradient_descent", "training_flow"]

_BALANCED = 1e-12  # imbalance, relative to the squared norm of the weights, up to which they count as balanced


@dataclass(kw_only=True)
class TrainingFlow(FlowResult):
    """A training flow: weights along it, their products, and how it ended.

    Call it with a time, or several, for the weights there.

    Attributes
    ----------
    t, status, message, losses, loss_increase, n_evaluations, events
        As in :class:`~dlngeo.flows.Flow`.
    weights : list
        Weights at each time, in the form in which the start was given.
    points : array, shape=[k, d_N, d_0]
        Their products.
    gradient_norms : array, shape=[k]
        ``√Σ_p ‖∂L/∂W_p‖²``.
    imbalance_drift : array, shape=[k, N−1]
        ``‖G_p(t) − G_p(0)‖``: 0 for the exact flow, so a measure of the error that costs nothing.

    See Also
    --------
    dlngeo.training_flow
    dlngeo.flows.Descent
    dlngeo.flows.BalancingFlow

    Examples
    --------
    >>> import numpy as np
    >>> from dlngeo import training_flow
    >>> flow = training_flow([np.full((1, 1), 1.0), np.full((1, 1), 2.0)], lambda x: x - 1, 3.0)
    >>> first, second = flow.weights[-1]
    >>> bool(np.isclose(second**2 - first**2, 2**2 - 1**2)[0, 0]), bool(np.allclose(flow.points[-1], second @ first))
    (True, True)
    """

    weights: list[Any]
    losses: np.ndarray | None = None
    gradient_norms: np.ndarray
    loss_increase: float | None = None
    imbalance_drift: np.ndarray


def training_flow(
    weights: Weights,
    euclidean_gradient: Gradient,
    t: Any,
    *,
    cost: Cost | None = None,
    method: str = "auto",
    rtol: float = 1e-11,
    atol: float = 1e-13,
    loss_below: float | None = None,
    gradient_below: float | None = None,
    dense_output: bool = True,
    progress: Progress = False,
) -> TrainingFlow:
    r"""Follow the gradient flow ``Ẇ_p = −∂L/∂W_p`` of the loss ``L(W) = E(W_N ⋯ W_1)``, layer by layer.

    It conserves every imbalance ``G_p = W_{p+1}ᵀ W_{p+1} − W_p W_pᵀ``, and moves the product by
    ``Ẋ = −Σ_p A_{p+1} A_{p+1}ᵀ E′(X) B_{p−1}ᵀ B_{p−1}`` (:func:`dlngeo.weights.network.effective_cometric`) [1]_. From
    balanced weights, the product follows the gradient flow of ``DLNMetric``, whatever the inner widths [2]_; then
    :func:`dlngeo.gradient_flow` computes it at a price that does not depend on depth.

    Parameters
    ----------
    weights : sequence of array, shape=[d_p, d_{p−1}], or array, shape=[N, d, d]
        Start, balanced or not, of any widths; real or complex.
    euclidean_gradient : callable
        ``X → E′(X)``, of the shape of the product; of complex X the matrix with ``dE[Z] = Re Tr(E′* Z)``.
    cost : callable, optional
        ``X → E(X)``.
    t, method, rtol, atol, dense_output, progress
        As in :func:`dlngeo.gradient_flow`.
    loss_below, gradient_below : float, optional
        Stop where the cost, or the norm of the gradient in the weights, falls below this.

    Returns
    -------
    TrainingFlow
        Ctrl-C gives what is done so far, with the status ``"interrupted"``.

    Raises
    ------
    ValueError
        If the weights do not fit together, the gradient has the wrong shape or is not finite at the start, or an option
        is out of range.

    See Also
    --------
    dlngeo.gradient_flow
    dlngeo.gradient_descent
    dlngeo.balancing_flow

    References
    ----------
    .. [1] S. Arora, N. Cohen, E. Hazan, "On the optimization of deep networks: implicit acceleration by
       overparameterization", ICML 2018, arXiv:1802.06509.
    .. [2] B. Bah, H. Rauhut, U. Terstiege, M. Westdickenberg, "Learning deep linear neural networks: Riemannian
       gradient flows and convergence to global minimizers", Information and Inference 11 (2022), arXiv:1910.05505.

    Examples
    --------
    >>> flow = training_flow([np.full((1, 1), 0.5), np.full((1, 1), 1.0)], lambda x: x - 2, 20.0)
    >>> flow.status, np.round(flow.points[-1], 6), bool(flow.imbalance_drift.max() < 1e-9)
    (<FlowStatus.COMPLETE: 'complete'>, array([[2.]]), True)
    """
    options = {"method": method, "rtol": rtol, "atol": atol, "dense_output": dense_output, "progress": progress}
    course = _TrainingCourse(weights, options, cost, loss_below, gradient_below)
    course.gradient = course.layout.gradient(euclidean_gradient, course.start)
    return course.follow(course.start, t)


@dataclass
class Descent:
    """The iterates of gradient descent.

    Attributes
    ----------
    steps : array, shape=[k]
        Numbers of the steps that were recorded.
    weights, points, losses, gradient_norms, imbalance_drift
        As in :class:`TrainingFlow`, after these steps.
    status : FlowStatus
        ``"complete"``, ``"interrupted"`` or ``"failed"``, where the iterates are no longer finite.

    See Also
    --------
    dlngeo.gradient_descent
    dlngeo.flows.TrainingFlow

    Examples
    --------
    >>> import numpy as np
    >>> from dlngeo import gradient_descent
    >>> found = gradient_descent([np.full((1, 1), 1.0), np.full((1, 1), 2.0)], lambda x: x - 1, 0.1, 1)
    >>> bool(np.allclose(found.weights[1], [[[0.8]], [[1.9]]]))  # gradients 2 and 1
    True
    >>> bool(np.allclose(found.imbalance_drift, [[0], [0.1**2 * (2**2 - 1**2)]]))
    True
    """

    steps: np.ndarray
    weights: list[Any]
    points: np.ndarray
    losses: np.ndarray | None
    gradient_norms: np.ndarray
    imbalance_drift: np.ndarray
    status: FlowStatus


def gradient_descent(
    weights: Weights,
    euclidean_gradient: Gradient,
    step_size: float,
    n_steps: int,
    *,
    cost: Cost | None = None,
    every: int = 1,
) -> Descent:
    r"""Gradient descent ``W_p ← W_p − η ∂L/∂W_p``: Euler's method for :func:`training_flow`.

    With ``∇_p = ∂L/∂W_p``, each step changes the imbalance by exactly

    .. math:: G_p^{\text{new}} - G_p = \eta^2 (\nabla_{p+1}^\top \nabla_{p+1} - \nabla_p \nabla_p^\top),

    since the terms of order η cancel by ``W_{p+1}ᵀ ∇_{p+1} = ∇_p W_pᵀ``: a drift of order η in a given time. A step may
    pass over singular matrices, which the flow from balanced weights never meets, and change the sign of ``det X``.

    Parameters
    ----------
    weights, euclidean_gradient, cost
        As in :func:`training_flow`.
    step_size : float
        Step η; the time of the flow is η times the number of steps.
    n_steps : int
        Number of steps.
    every : int
        Record every so many steps, besides the start and the end.

    Returns
    -------
    Descent
        Ctrl-C gives what is done so far.

    Raises
    ------
    ValueError
        If the weights do not fit together, the gradient has the wrong shape or is not finite at the start, or an option
        is out of range.

    See Also
    --------
    dlngeo.training_flow

    Examples
    --------
    >>> import numpy as np
    >>> from dlngeo import balanced_weights, gradient_descent
    >>> weights = balanced_weights(0.1 * np.eye(2), 2, rng=0)
    >>> found = gradient_descent(weights, lambda x: x - np.eye(2), 0.1, 200)
    >>> bool(np.allclose(found.points[-1], np.eye(2), atol=1e-6))
    True
    """
    step_size = _check.positive(step_size, "step_size")
    n_steps, every = _check.positive_integer(n_steps, "n_steps"), _check.positive_integer(every, "every")
    layout = Layout(weights, "complex")
    start = layout.pack(weights)
    layers = layout.layers(start)
    euclidean = layout.gradient(euclidean_gradient, start)
    gradient = layer_gradient(euclidean(end_to_end(layers)), layers)
    status = FlowStatus.COMPLETE
    records = [(0, _norm(gradient), start)]  # triples, so that an interruption cannot come between their parts
    try:
        for step in range(1, n_steps + 1):
            with np.errstate(over="ignore", invalid="ignore"):
                layers = [w - step_size * g for w, g in zip(layers, gradient, strict=True)]
                gradient = layer_gradient(euclidean(end_to_end(layers)), layers)
                norm = _norm(gradient)
            if not np.isfinite(norm):
                status = FlowStatus.FAILED
                break
            if step % every == 0 or step == n_steps:
                records.append((step, norm, layout.flat(layers)))
    except KeyboardInterrupt:
        status = FlowStatus.INTERRUPTED
    steps, norms, states = zip(*records, strict=True)
    points = np.stack([layout.product(y) for y in states])
    return Descent(
        steps=np.array(steps),
        weights=[layout.weights(y) for y in states],
        points=points,
        losses=None if cost is None else np.array([returned(cost(x), (), "the cost") for x in points]),
        gradient_norms=np.array(norms),
        imbalance_drift=layout.drift(states),
        status=status,
    )


def _norm(layers: list[np.ndarray]) -> float:
    return float(np.sqrt(sum(np.sum(np.abs(g) ** 2) for g in layers)))


class Layout:
    """How the weights of one network lie in a vector."""

    def __init__(self, weights: Weights, field: _check.Field = "real") -> None:
        layers = layers_of(weights, field)
        self.field: _check.Field = "complex" if any(map(is_complex, layers)) else "real"
        self.stacked = is_stack(weights)
        self.shapes = [tuple(w.shape) for w in layers]
        if any(len(shape) != 2 for shape in self.shapes):
            raise ValueError("one network at a time: a flow takes weights without batch axes.")
        self.ends = np.cumsum([0, *(a * b for a, b in self.shapes)]).tolist()

    def pack(self, weights: Weights) -> np.ndarray:
        """Return one vector, in doubles, of which two make a complex number."""
        layers = [_check.numbers(untraced(w), "the weights", self.field) for w in layers_of(weights, self.field)]
        y = self.flat(layers)
        _check.finite(np, y, "the weights")
        return y

    def flat(self, layers: list[np.ndarray]) -> np.ndarray:
        """One vector of doubles of matrices."""
        y = np.concatenate([w.ravel() for w in layers])
        return y.astype(complex).view(float) if self.field == "complex" else y.astype(float)

    def layers(self, y: np.ndarray) -> list[np.ndarray]:
        """Layers, as views of the vector."""
        if self.field == "complex":
            y = np.ascontiguousarray(y).view(complex)
        return [y[a:b].reshape(shape) for (a, b), shape in zip(pairwise(self.ends), self.shapes, strict=True)]

    def weights(self, y: np.ndarray) -> Any:
        """Weights in the form in which they were given."""
        layers = [w.copy() for w in self.layers(y)]
        return np.stack(layers) if self.stacked else layers

    def product(self, y: np.ndarray) -> np.ndarray:
        """End-to-end matrix."""
        return end_to_end(self.layers(y))

    def gradient(self, function: Gradient, start: np.ndarray) -> UserFunction:
        """``X → E′(X)`` of the user, which must be finite at the start."""
        x = self.product(start)
        gradient = UserFunction(function, "the gradient", x.shape, self.field)
        returned(gradient(x), x.shape, "the gradient at the start", field=self.field)
        return gradient

    def drift(self, states: Iterable[np.ndarray]) -> np.ndarray:
        """``‖G_p − G_p(0)‖``, shape=[k, N−1]."""
        found = [imbalance(self.layers(y)) for y in states]
        return np.array([[np.linalg.norm(g - g0) for g, g0 in zip(row, found[0], strict=True)] for row in found])


class LayerCourse(Course):
    """A course of the layers of a network."""

    edge = (
        "A singular value fell there below what doubles resolve, and changed sign, which in this flow it never does: "
        "dlngeo.gradient_flow from the product resolves all."
    )

    field: _check.Field = "real"  # what the weights may be

    def __init__(self, weights: Weights, options: dict[str, Any], *levels: Any) -> None:
        super().__init__(options, *levels)
        self.layout = Layout(weights, self.field)
        self.start = self.layout.pack(weights)
        self.rank = min(min(shape) for shape in self.layout.shapes)
        self.keeps_rank = len(self.layout.shapes) > 1 and all(
            np.linalg.matrix_rank(w) >= self.rank for w in self.watched(self.start)
        )

    @abstractmethod
    def watched(self, y: np.ndarray) -> list[np.ndarray]:
        """Matrices of which the exact flow keeps the rank, and the sign of the determinant."""

    def point(self, y: np.ndarray) -> np.ndarray:
        return self.layout.product(y)

    def at(self, y: np.ndarray) -> Any:
        return self.layout.weights(y)

    def measured(self, states: np.ndarray) -> dict[str, Any]:
        return {"weights": [self.at(y) for y in states]}

    def crossed(self, before: np.ndarray, after: np.ndarray) -> bool:
        pairs = zip(self.watched(before), self.watched(after), strict=True)
        return self.keeps_rank and any(drops(a, b, self.rank) for a, b in pairs)


class _TrainingCourse(LayerCourse):
    kind = TrainingFlow
    field = "complex"
    gradient: UserFunction
    balanced: bool | None = None

    def watched(self, y: np.ndarray) -> list[np.ndarray]:
        """Layers of balanced weights, whose singular values decay exponentially at most."""
        if self.balanced is None:
            off = max((float(np.linalg.norm(g)) for g in imbalance(self.layout.layers(y))), default=0.0)
            self.balanced = off <= _BALANCED * float(y @ y)
        # Two complex matrices of a rank are joined by others: no orientation tells that a singular value passed zero.
        return self.layout.layers(y) if self.balanced and self.layout.field == "real" else []

    def velocity(self, t: float, y: np.ndarray) -> np.ndarray:
        layers = self.layout.layers(y)
        return -self.layout.flat(layer_gradient(self.gradient(end_to_end(layers)), layers))

    def gradient_norm(self, y: np.ndarray) -> float:
        return float(np.linalg.norm(self.velocity(0.0, y)))

    def measured(self, states: np.ndarray) -> dict[str, Any]:
        return super().measured(states) | {
            "gradient_norms": np.array([self.gradient_norm(y) for y in states]),
            "imbalance_drift": self.layout.drift(states),
        }
