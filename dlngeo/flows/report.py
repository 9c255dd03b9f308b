"""What the geometry says of one network, in one report."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from dlngeo import _check
from dlngeo._autodiff import untraced
from dlngeo.kernels import of_depth
from dlngeo.thermodynamics.free_energy import entropy
from dlngeo.weights.model import is_model, layers_of_model
from dlngeo.weights.network import cometric_factors, effective_cometric, end_to_end, imbalance, widths
from dlngeo.weights.offsets import OffsetFit, fit_offsets

__all__ = ["AtDepth", "Description", "describe", "effective_rank"]

_DENSE = 1024  # entries of the product up to which the cometric is a matrix whose eigenvalues are computed
_BALANCED = 1e-6  # relative imbalance up to which eigenvalues are those of balanced weights


@dataclass(frozen=True)
class AtDepth:
    """What a depth would make of the same product, in the normalised metric, ``φ_N/N``.

    Attributes
    ----------
    depth : float
        Depth N.
    least_eigenvalue, largest_eigenvalue : float
        Of the cometric on the tangent space at the rank of the network.
    entropy : float
        Of the product at this depth.
    """

    depth: float
    least_eigenvalue: float
    largest_eigenvalue: float
    entropy: float


@dataclass(frozen=True)
class Description:
    """What :func:`describe` found; ``print`` shows it.

    Attributes
    ----------
    widths : tuple of int
        Widths ``(d_0, …, d_N)``, inputs first.
    n_biases : int
        Number of layers whose bias was left out.
    singular_values : array, shape=[r]
        Of the product, as many as the least width.
    imbalance : float
        ``max_p ‖G_p‖ / (‖W_{p+1}ᵀ W_{p+1}‖ + ‖W_p W_pᵀ‖)``: from 0, balanced, to 1.
    offsets : OffsetFit
        The offsets nearest to the imbalance, and the error of the flow that their kernel predicts; see
        :func:`dlngeo.weights.offsets.fit_offsets`.
    offset_bound : float
        ``offsets.bound`` at the product: while the least singular value is no less, the error is no more.
    effective_rank : float
        ``exp`` of the entropy of ``σ/Σσ``.
    entropy : float
        Logarithm of the volume of the orbit of balanced weights over the product.
    least_eigenvalue, largest_eigenvalue : float
        Of the map ``P ↦ Σ_p A_{p+1} A_{p+1}ᵀ P B_{p−1}ᵀ B_{p−1}`` by which training moves the product, on the tangent
        space at the rank of the network; the cometric, if it is balanced.
    exact : bool
        Whether these are the eigenvalues, or a lower and an upper bound of them, as in large networks out of balance;
        the lower one is 0 if an inner layer is the narrowest.
    rate : float
        ``2 μ`` times the least eigenvalue: while it lasts, a loss of convexity μ falls at least like ``e^{−rate t}``.
    loss_rate : float or None
        ``−dE/dt`` at these weights, if the gradient is given.
    depths : tuple of AtDepth
        What other depths would do.

    See Also
    --------
    dlngeo.flows.describe
    dlngeo.weights.offsets.fit_offsets

    Examples
    --------
    >>> import numpy as np
    >>> from dlngeo.flows import describe
    >>> report = describe([np.eye(3), 2 * np.eye(3)])
    >>> round(report.effective_rank, 4), round(report.imbalance, 4)  # |4 − 1|/(4 + 1)
    (3.0, 0.6)
    >>> print(str(report).splitlines()[0])
    widths            3 → 3 → 3, depth 2
    """

    widths: tuple[int, ...]
    n_biases: int
    singular_values: np.ndarray
    imbalance: float
    offsets: OffsetFit
    offset_bound: float
    effective_rank: float
    entropy: float
    least_eigenvalue: float
    largest_eigenvalue: float
    exact: bool
    rate: float
    loss_rate: float | None
    depths: tuple[AtDepth, ...]

    def _prediction(self) -> str:
        fit, bound = self.offsets, self.offset_bound
        now = f"their kernel errs by {'' if fit.exact else 'at most '}{fit.error:.2g} in the velocity of the product"
        if math.isinf(bound):
            return f"{now}, and how much it errs later is not bounded"
        return f"{now}, and by at most {bound:.2g} while the least singular value is no less"

    def __str__(self) -> str:
        s, about = self.singular_values, "" if self.exact else " at least"
        shown = ", ".join(f"{x:.3g}" for x in s[:6]) + (f", … {s[-1]:.3g}" if s.size > 6 else "")
        how = "balanced" if self.imbalance <= _BALANCED else "dlngeo.weights.network.rebalance balances it"
        lines = [
            f"widths            {' → '.join(map(str, self.widths))}, depth {len(self.widths) - 1}",
            f"singular values   {shown}",
            f"effective rank    {self.effective_rank:.3g} of {s.size}",
            f"imbalance         {self.imbalance:.2g} of 1: {how}",
            f"offsets           {', '.join(f'{c:.3g}' for c in self.offsets.offsets)}, up to "
            f"{self.offsets.imbalance:.2g} of 1: {self._prediction()}",
            f"entropy           {self.entropy:.5g}",
            f"least eigenvalue {about} {self.least_eigenvalue:.3g}, the largest {self.largest_eigenvalue:.3g}",
            f"rate             {about} {self.rate:.3g} per unit of time and convexity"
            + ("" if self.loss_rate is None else f"; the loss falls by {self.loss_rate:.3g} now"),
        ]
        if self.n_biases:
            lines.append(f"biases            of {self.n_biases} layers, left out")
        lines += [
            "the same product at other depths, in N times the time:",
            "depth   least eigenvalue   largest     entropy",
        ]
        lines += [
            f"{'∞' if math.isinf(d.depth) else f'{d.depth:g}':>5}{d.least_eigenvalue:>19.3g}"
            f"{d.largest_eigenvalue:>10.3g}{d.entropy:>12.5g}"
            for d in self.depths
        ]
        return "\n".join(lines)


def describe(
    weights: Any,
    gradient: Any = None,
    *,
    convexity: float = 1.0,
    depths: Sequence[float] = (1, 2, 3, 4, 8, math.inf),
) -> Description:
    r"""Describe a deep linear network: balance, rank, entropy, the rate at which it trains, and what depth would do.

    Training by gradient flow moves the product of any weights by ``Ẋ = −A(E′(X))`` [1]_, so that

    .. math:: -\dot E = \langle E', A(E') \rangle \ge \lambda_{\min}(A) \|E'\|^2
        \ge 2 \mu\, \lambda_{\min}(A) (E - E^*)

    for a loss of convexity μ whose gradient is tangent, as it is where no layer is a bottleneck. On balanced weights A
    is the cometric of depth N, of eigenvalues ``φ_N(σ_k, σ_l)`` [2]_, on those with offsets of
    :class:`~dlngeo.kernels.RelaxedDepthKernel`, and on others near that, by no more than the report says.

    Parameters
    ----------
    weights : torch.nn.Sequential, or iterable of array, shape=[d_p, d_{p−1}], or array, shape=[N, d, d]
        A network of ``Linear`` layers; or its weights, first layer first, as arrays, tensors or parameters. Biases are
        left out, and counted: they add a vector to what the network computes, and change nothing of its matrix.
    gradient : array, shape=[d_N, d_0], or callable, optional
        ``E′(X)`` of the loss, or the function ``X → E′(X)`` of a NumPy array.
    convexity : float
        Convexity μ of the loss; 1 for ``½‖X − Y‖²``.
    depths : sequence of float
        Depths to compare, real or infinite.

    Returns
    -------
    Description

    Raises
    ------
    TypeError
        If a module of the model is none of these, or weights are no arrays of real numbers.
    ValueError
        If the weights do not fit together, have batch axes or are not finite, or an option is out of range.

    See Also
    --------
    dlngeo.imbalance
    dlngeo.entropy

    References
    ----------
    .. [1] S. Arora, N. Cohen, E. Hazan, "On the optimization of deep networks: implicit acceleration by
       overparameterization", ICML 2018, arXiv:1802.06509.
    .. [2] G. Menon, "The geometry of the deep linear network", arXiv:2411.09004.

    Examples
    --------
    >>> report = describe([np.diag([2.0, 1.0]), np.diag([2.0, 1.0])])
    >>> report.imbalance, report.least_eigenvalue, report.rate
    (0.0, 2.0, 4.0)
    """
    layers, n_biases = _matrices(weights)
    x = end_to_end(layers)
    mu, chosen = _check.positive(convexity, "convexity"), [_check.depth(d, allow_infinite=True) for d in depths]
    sizes, depth = widths(layers), len(layers)
    rank = min(sizes)
    s = np.linalg.svd(x, compute_uv=False)[:rank]
    off = max(
        (_ratio(g, lower, upper) for g, (lower, upper) in zip(imbalance(layers), pairwise(layers), strict=True)),
        default=0.0,
    )
    least, largest, exact = _eigenvalues(layers, s, off)
    fit = fit_offsets(layers)
    speed = None
    if gradient is not None:
        value = gradient(x) if callable(gradient) else gradient
        momentum = _check.returned(untraced(value), x.shape, "the gradient")
        speed = float(np.sum(momentum * effective_cometric(momentum, layers)))
    return Description(
        widths=sizes,
        n_biases=n_biases,
        singular_values=s,
        imbalance=off,
        offsets=fit,
        offset_bound=float(fit.bound(x)),
        effective_rank=effective_rank(s),
        entropy=float(entropy(x, depth, rank, sizes)),
        least_eigenvalue=least,
        largest_eigenvalue=largest,
        exact=exact,
        rate=2 * mu * least,
        loss_rate=speed,
        depths=tuple(AtDepth(d, *_at_depth(s, x.shape, d, True), float(entropy(x, d, rank))) for d in chosen),
    )


def effective_rank(s: np.ndarray) -> float:
    """Exponential of the Shannon entropy of ``σ_k/Σσ``: r equal singular values count as r, and none as 0.

    O. Roy, M. Vetterli, "The effective rank: a measure of effective dimensionality", EUSIPCO 2007.
    """
    p = s[s > 0]
    if not p.size:
        return 0.0
    p = p / p.sum()
    return float(np.exp(-np.sum(p * np.log(p))))


def _matrices(weights: Any) -> tuple[list[np.ndarray], int]:
    """Return the layers as arrays in doubles, and the number of biases left out."""
    biases: list[Any] = []
    if is_model(weights):
        weights, biases = layers_of_model(weights)
    elif isinstance(weights, Iterable) and (isinstance(weights, Iterator) or not hasattr(weights, "shape")):
        given = list(weights)
        biases = [a for a in given if len(getattr(a, "shape", (0, 0))) == 1]
        weights = [a for a in given if len(getattr(a, "shape", (0, 0))) != 1]
    elif not hasattr(weights, "shape"):
        raise TypeError(
            f"a network is a Sequential of Linear layers, or its weights, got {type(weights).__name__}; pass a list of "
            "matrices, first layer first."
        )
    layers = [_check.real(untraced(w), "the weights").astype(float) for w in weights]
    if not layers:
        raise ValueError("there are no weights: give a model with Linear layers, or at least one matrix.")
    for p, w in enumerate(layers, 1):
        if w.ndim != 2:
            raise ValueError(
                f"layer {p} has shape {w.shape}; pass one network as a list of matrices, first layer first."
            )
        _check.finite(np, w, f"layer {p}")
    return layers, len(biases)


def _ratio(g: np.ndarray, lower: np.ndarray, upper: np.ndarray) -> float:
    whole = float(np.linalg.norm(upper.T @ upper) + np.linalg.norm(lower @ lower.T))
    return float(np.linalg.norm(g)) / whole if whole else 0.0


def _eigenvalues(layers: list[np.ndarray], s: np.ndarray, off: float) -> tuple[float, float, bool]:
    """Least and largest eigenvalue of the effective cometric on the tangent space, and whether they are no bounds."""
    (n, m), r = (layers[0].shape[1], layers[-1].shape[0]), s.size
    if off <= _BALANCED:
        return *_at_depth(s, (m, n), len(layers), False), True
    pairs = cometric_factors(layers)
    if m * n <= _DENSE:
        values = np.linalg.eigvalsh(sum(np.kron(left, right) for left, right in pairs))
        return max(0.0, float(values[m * n - r * (m + n - r)])), float(values[-1]), True
    ends = [(np.linalg.eigvalsh(left)[[0, -1]], np.linalg.eigvalsh(right)[[0, -1]]) for left, right in pairs]
    least, largest = np.sum([np.maximum(a, 0) * np.maximum(b, 0) for a, b in ends], axis=0)
    return float(least), float(largest), False


def _at_depth(s: np.ndarray, shape: tuple[int, int], depth: float, normalized: bool) -> tuple[float, float]:
    """Least and largest eigenvalue of the cometric of a depth on the tangent space at these singular values."""
    kernel: Callable[..., Any] = of_depth(depth, normalized)
    least = kernel(s[-1:], np.zeros(1) if shape != (s.size, s.size) else s[-1:])
    return float(least[0]), float(kernel(s[:1], s[:1])[0])
