"""Training of the weights: the gradient flow, with its conserved imbalance, and gradient descent, which breaks it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np

from dlngeo import _check
from dlngeo.flows.gradient import Cost, Gradient, check_times, later_times, losses_along
from dlngeo.flows.integrate import Event, FlowStatus, Progress, Trajectory, integrate
from dlngeo.weights.network import Weights, end_to_end, imbalance, layer_gradient, layers_of

__all__ = ["Descent", "TrainingFlow", "gradient_descent", "training_flow"]


@dataclass
class TrainingFlow:
    """A training flow: weights along it, their products, and how it ended.

    Call it with one time for the weights there.

    Attributes
    ----------
    t : array, shape=[k]
        Output times; the last is where the flow ended.
    weights : list
        Weights at each time, in the form in which the start was given.
    points : array, shape=[k, d_N, d_0]
        Their products.
    status, message, losses, loss_increase, n_evaluations, events
        As in :class:`~dlngeo.flows.Flow`.
    gradient_norms : array, shape=[k]
        ``√Σ_p ‖∂L/∂W_p‖²``.
    imbalance_drift : array, shape=[k, N−1]
        ``‖G_p(t) − G_p(0)‖``: 0 for the exact flow, so a measure of the error that costs nothing.
    """

    t: np.ndarray
    weights: list[Any]
    points: np.ndarray
    status: FlowStatus
    message: str
    losses: np.ndarray | None
    gradient_norms: np.ndarray
    loss_increase: float | None
    imbalance_drift: np.ndarray
    n_evaluations: int
    events: dict[str, np.ndarray]
    _weights_at: Callable[[float], Any] | None = field(default=None, repr=False)
    _resume: Callable[[Any], TrainingFlow] | None = field(default=None, repr=False)

    def __call__(self, t: float) -> Any:
        """Weights at a time.

        Raises
        ------
        ValueError
            If the time is outside those covered, or the flow was computed with ``dense_output=False``.
        """
        check_times(np.asarray(t, dtype=float), self.t, self._weights_at is not None)
        assert self._weights_at is not None
        return self._weights_at(float(t))

    def resume(self, t: Any) -> TrainingFlow:
        """Go on from the last weights to later output times, with the same settings; the continuation alone.

        ``imbalance_drift`` is measured from the new start.
        """
        assert self._resume is not None
        return self._resume(later_times(t, float(self.t[-1])))


def training_flow(
    weights: Weights,
    euclidean_gradient: Gradient,
    t: Any,
    *,
    cost: Cost | None = None,
    method: str = "DOP853",
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
        Start, balanced or not, of any widths.
    euclidean_gradient : callable
        ``X → E′(X)``, of the shape of the product.
    t : float or array, shape=[k]
        The last time, from 0 on, with output at every step; or increasing output times, beginning with that of the
        start.
    cost : callable, optional
        ``X → E(X)``.
    method, rtol, atol, dense_output, progress
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
    if loss_below is not None and cost is None:
        raise ValueError("loss_below needs the cost; pass cost=.")
    layout = Layout(weights)
    start = layout.pack(weights)
    check_gradient(euclidean_gradient, end_to_end(layout.layers(start)))

    def gradient(layers: list[np.ndarray]) -> list[np.ndarray]:
        return layer_gradient(np.asarray(euclidean_gradient(end_to_end(layers)), dtype=float), layers)

    def velocity(t: float, y: np.ndarray) -> np.ndarray:
        return -np.concatenate([g.ravel() for g in gradient(layout.layers(y))])

    def norm(y: np.ndarray) -> float:
        return float(np.linalg.norm(velocity(0.0, y)))

    events = []
    if loss_below is not None and cost is not None:
        events.append(
            Event("loss", lambda t, y: float(cost(end_to_end(layout.layers(y)))) - loss_below, threshold=True)
        )
    if gradient_below is not None:
        events.append(Event("gradient", lambda t, y: norm(y) - gradient_below, threshold=True))

    def run(y: np.ndarray, times: Any) -> TrainingFlow:
        done = integrate(
            velocity,
            y,
            times,
            method=method,
            rtol=rtol,
            atol=atol,
            events=events,
            dense_output=dense_output,
            progress=progress,
        )
        points = layout.products(done)
        losses, increase, message = losses_along(points, cost, done.message, rtol)
        return TrainingFlow(
            t=done.t,
            weights=[layout.weights(s) for s in done.states],
            points=points,
            status=done.status,
            message=message,
            losses=losses,
            gradient_norms=np.array([norm(s) for s in done.states]),
            loss_increase=increase,
            imbalance_drift=layout.drift(done.states),
            n_evaluations=done.n_evaluations,
            events={name: np.array(times) for name, times in done.events.items()},
            _weights_at=None if done.solution is None else lambda t: layout.weights(done.solution(t)),
            _resume=lambda t: run(done.states[-1], t),
        )

    return run(start, t)


@dataclass
class Descent:
    """The iterates of gradient descent.

    Attributes
    ----------
    steps : array, shape=[k]
        Numbers of the steps that were recorded.
    weights : list
        Weights after them, in the form in which the start was given.
    points : array, shape=[k, d_N, d_0]
        Their products.
    losses : array, shape=[k], or None
        The cost at the products; None without ``cost``.
    gradient_norms : array, shape=[k]
        ``√Σ_p ‖∂L/∂W_p‖²``.
    imbalance_drift : array, shape=[k, N−1]
        ``‖G_p − G_p(0)‖``.
    status : FlowStatus
        ``"complete"``, ``"interrupted"`` or ``"failed"``, where the iterates are no longer finite.
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

    since the terms of order η cancel by ``W_{p+1}ᵀ ∇_{p+1} = ∇_p W_pᵀ``: a drift of order η in a given time.

    Parameters
    ----------
    weights : sequence of array, shape=[d_p, d_{p−1}], or array, shape=[N, d, d]
        Start.
    euclidean_gradient : callable
        ``X → E′(X)``, of the shape of the product.
    step_size : float
        Step η; the time of the flow is η times the number of steps.
    n_steps : int
        Number of steps.
    cost : callable, optional
        ``X → E(X)``.
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
    """
    if not (step_size > 0 and np.isfinite(step_size)):
        raise ValueError(f"step_size must be positive and finite, got {step_size!r}.")
    n_steps, every = _check.positive_integer(n_steps, "n_steps"), _check.positive_integer(every, "every")
    layout = Layout(weights)
    states = [layout.pack(weights)]
    layers = layout.layers(states[0])
    check_gradient(euclidean_gradient, end_to_end(layers))
    steps, norms, status = [0], [], FlowStatus.COMPLETE
    step, gradient = 0, layer_gradient(np.asarray(euclidean_gradient(end_to_end(layers)), dtype=float), layers)
    norms.append(_norm(gradient))
    try:
        for step in range(1, n_steps + 1):
            with np.errstate(over="ignore", invalid="ignore"):
                layers = [w - step_size * g for w, g in zip(layers, gradient, strict=True)]
                gradient = layer_gradient(np.asarray(euclidean_gradient(end_to_end(layers)), dtype=float), layers)
                norm = _norm(gradient)
            if not np.isfinite(norm):
                status = FlowStatus.FAILED
                break
            if step % every == 0 or step == n_steps:
                steps.append(step)
                norms.append(norm)
                states.append(np.concatenate([w.ravel() for w in layers]))
    except KeyboardInterrupt:
        status = FlowStatus.INTERRUPTED
    kept = min(len(steps), len(norms), len(states))  # an interruption may come between the three
    points = np.stack([end_to_end(layout.layers(y)) for y in states[:kept]])
    return Descent(
        steps=np.array(steps[:kept]),
        weights=[layout.weights(y) for y in states[:kept]],
        points=points,
        losses=losses_along(points, cost, "", 1.0)[0],
        gradient_norms=np.array(norms[:kept]),
        imbalance_drift=layout.drift(np.stack(states[:kept])),
        status=status,
    )


def _norm(layers: list[np.ndarray]) -> float:
    return float(np.sqrt(sum(np.sum(g**2) for g in layers)))


class Layout:
    """How the weights of one network lie in a vector."""

    def __init__(self, weights: Weights) -> None:
        layers = layers_of(weights)
        self.stacked = not isinstance(weights, (list, tuple))
        self.shapes = [tuple(w.shape) for w in layers]
        if any(len(shape) != 2 for shape in self.shapes):
            raise ValueError("one network at a time: a flow takes weights without batch axes.")
        self.ends = np.cumsum([0, *(a * b for a, b in self.shapes)]).tolist()

    def pack(self, weights: Weights) -> np.ndarray:
        """Return one vector, in doubles."""
        y = np.concatenate([np.asarray(w, dtype=float).ravel() for w in layers_of(weights)])
        _check.finite(np, y, "the weights")
        return y

    def layers(self, y: np.ndarray) -> list[np.ndarray]:
        """Layers, as views of the vector."""
        return [y[a:b].reshape(shape) for (a, b), shape in zip(pairwise(self.ends), self.shapes, strict=True)]

    def weights(self, y: np.ndarray) -> Any:
        """Weights in the form in which they were given."""
        layers = [w.copy() for w in self.layers(y)]
        return np.stack(layers) if self.stacked else layers

    def products(self, done: Trajectory) -> np.ndarray:
        """End-to-end matrices at the output times."""
        return np.stack([end_to_end(self.layers(y)) for y in done.states])

    def drift(self, states: np.ndarray) -> np.ndarray:
        """``‖G_p − G_p(0)‖``, shape=[k, N−1]."""
        found = [imbalance(self.layers(y)) for y in states]
        return np.array([[np.linalg.norm(g - g0) for g, g0 in zip(row, found[0], strict=True)] for row in found])


def check_gradient(euclidean_gradient: Gradient, x: np.ndarray) -> None:
    """Raise unless the gradient at the start is a finite array of the shape of the product."""
    value = np.asarray(euclidean_gradient(x), dtype=float)
    if value.shape != x.shape:
        raise ValueError(f"the gradient has shape {value.shape}, the product {x.shape}; return E′(X) unreshaped.")
    _check.finite(np, value, "the gradient at the start")
