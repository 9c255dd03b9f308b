"""Stochastic gradient descent at a depth."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from numbers import Real
from typing import Any

import torch
from torch import Tensor
from torch.optim.sgd import sgd

from dlngeo.torch.parts import Part, step_matrices, step_pair
from dlngeo.torch.step import is_finite

__all__ = ["DepthSGD"]

Group = dict[str, Any]

# Matrices of at most so many entries and of one shape are stepped together, in one batch.
_SMALL = 128 * 128


class DepthSGD(torch.optim.Optimizer):
    r"""Trains each matrix as stochastic gradient descent would train N balanced layers of which it is the product.

    .. math:: X' = R_X\Bigl(-\mathrm{lr} \sum_{p=1}^N (XX^\top)^{(N-p)/N} B\, (X^\top X)^{(p-1)/N}\Bigr)

    where B is the gradient or its momentum and R multiplies the stepped layers and balances them again
    (:mod:`dlngeo.torch.step`). No layers are held: the price is that of one matrix, at any real depth. Depth 1 is
    ``torch.optim.SGD``, to the bit, and so are vectors and scalars at any depth.

    Parameters
    ----------
    params : iterable
        Parameters, named parameters, or groups of them. Groups may have their own options. The two factors of a
        :class:`DepthAdapter` are stepped together, at the depth of the adapter.
    lr : float
        Step of the layers. The matrix moves by lr times ``N σ^{2−2/N}`` along its singular values.
    depth : float
        N, any finite real number of at least 1.
    momentum : float
        Heavy ball on the gradients, before the metric is applied: ``B ← momentum · B + G``. As lr → 0 it is the
        momentum that every layer would have, because each layer's buffer is its layers' image of the same B. In
        pairs, B is projected to the tangent space of the matrices of the rank.
    weight_decay : float
        That of the layers: the penalty is ``N/2 Σ σ^{2/N}``, up to the factor ``weight_decay``, and not ``½ ‖X‖²``.
        It accumulates by momentum as the gradients do.
    second_moment : float
        Where it is positive, B is divided by the root of a running mean, which forgets by this factor a step, of the
        squared norm of the gradient, ``⟨G, A_X G⟩``, the sum of the squares over all layers: one number a matrix, as
        Adam has one an entry. Steps of the layers are then of length lr or so however flat the plateau, and the path
        does not depend on the units of the loss. 0.99 beside a momentum of 0.9 is a good choice. Not for what is left
        to SGD.
    maximize : bool
        Ascend.
    batched : bool
        How parameters of more than two axes are read: False, as one matrix whose rows are the first axis, as weights
        of convolutions are, of shape (out, in · kh · kw); True, as a batch of matrices, the last two axes.
    tolerance : float
        0 takes an SVD of every matrix at every step. Else, matrices of more than 16,384 entries keep singular vectors
        of their shorter side in the state and follow them by products of matrices (:mod:`dlngeo.torch.follow`), with
        an SVD only where the frame is off by more than this, relative to the singular values. The direction of a step
        is off by about as much, at 1e-3 by less than layers differ from balanced ones.

    See Also
    --------
    dlngeo.torch.DepthAdapter

    Notes
    -----
    The state is the momentum, and the master copy in single precision of parameters in half precision, which are made
    afresh where somebody else has written to the parameter. ``load_state_dict`` keeps both in their own precision, so
    that a run goes on bit for bit. A step costs an SVD and some ten products of matrices; between integers also an
    eigendecomposition, in double precision, which takes several times as long.

    Where X has zero singular values the metric vanishes at N > 1: they stay zero, or nearly, with a warning. A matrix
    resolves singular values down to its rounding; what is further below the largest than that, a
    :class:`DepthAdapter` resolves.

    Raises
    ------
    ValueError
        Of options out of range; before anything has changed, of gradients with NaN or infinite entries, and of an
        ``lr · weight_decay / (1 − momentum)`` of 1 or more at a depth above 1.
    TypeError
        Of complex parameters and sparse gradients.
    OverflowError
        Where a step leaves the numbers of its precision; the matrix concerned has not changed.

    References
    ----------
    G. Menon, "The geometry of the deep linear network", arXiv:2411.09004; S. Arora, N. Cohen and E. Hazan, "On the
    optimization of deep networks: implicit acceleration by overparameterization", ICML 2018; C. Yaras, P. Wang,
    L. Balzano and Q. Qu, "Compressible dynamics in deep overparameterized low-rank learning & adaptation",
    arXiv:2406.04112, for deep adapters with explicit factors.

    Examples
    --------
    >>> import torch
    >>> from dlngeo.torch import DepthSGD
    >>> layer = torch.nn.Linear(3, 2, bias=False)
    >>> optimizer = DepthSGD(layer.parameters(), lr=0.1, depth=3)
    >>> layer(torch.ones(1, 3)).square().sum().backward()
    >>> optimizer.step()
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float,
        depth: float = 3,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
        *,
        second_moment: float = 0.0,
        maximize: bool = False,
        batched: bool = False,
        tolerance: float = 0.0,
    ):
        options = {"lr": lr, "depth": depth, "momentum": momentum, "weight_decay": weight_decay}
        options |= {"second_moment": second_moment, "tolerance": tolerance}
        super().__init__(params, {**options, "maximize": maximize, "batched": batched})

    def add_param_group(self, param_group: Group) -> None:
        """Add a group of parameters, whose options are checked."""
        _check_options({**self.defaults, **param_group})
        super().add_param_group(param_group)
        try:
            _pairs(self.param_groups[-1])
        except (TypeError, ValueError):
            self.param_groups.pop()
            raise

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a state, in the precision in which it was saved."""
        super().load_state_dict(state_dict)
        ids = [i for group in state_dict["param_groups"] for i in group["params"]]
        params = [p for group in self.param_groups for p in group["params"]]
        for i, p in zip(ids, params, strict=True):
            for key, value in state_dict["state"].get(i, {}).items():
                if isinstance(value, Tensor):
                    self.state[p][key] = value.detach().to(p.device, copy=True)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take one step, after a closure, if any, has computed the loss and the gradients; return its loss."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            _check_gradients(group)
            _check_decay(group)
        for group in self.param_groups:
            plain, pairs, matrices = self._split(group)
            self._plain_step(group, plain)
            options = {key: float(group[key]) for key in ("lr", "momentum", "second_moment")}
            options["sign"] = -1.0 if group["maximize"] else 1.0
            for pair in pairs:
                step_pair(pair, shrink=self._shrink(group, pair), **options)
            for parts, shrink in self._stacks(group, matrices):
                tolerance = float(group["tolerance"]) if parts[0].params[0].numel() > _SMALL else 0.0
                step_matrices(parts, shrink=shrink, tolerance=tolerance, **options)
        return loss

    def _split(self, group: Group) -> tuple[list[Tensor], list[Part], list[Part]]:
        """Tell the parameters with gradients of plain SGD from pairs and matrices."""
        plain: list[Tensor] = []
        pairs: list[Part] = []
        matrices: list[Part] = []
        partners = _pairs(group)
        for k, p in enumerate(group["params"]):
            if p in partners:
                pair, partner, place = partners[p]
                if (p.grad is None) != (partner.grad is None):
                    raise ValueError(f"{_name(group, k)} is half of a DepthAdapter of which one half has no gradient.")
                if place == 0 and p.grad is not None:
                    states = [self.state[p], self.state[partner]]
                    pairs.append(Part(_name(group, k), [p, partner], states, pair.depth))
            elif p.grad is None:
                continue
            elif group["depth"] == 1 or p.ndim < 2 or p.numel() == 0:
                plain.append(p)
            else:
                matrices.append(Part(_name(group, k), [p], [self.state[p]], group["depth"], group["batched"]))
        return plain, pairs, matrices

    def _stacks(self, group: Group, parts: list[Part]) -> Iterator[tuple[list[Part], float]]:
        """Put small matrices of one shape together, large ones by themselves."""
        stacks: dict[Any, list[Part]] = defaultdict(list)
        for k, part in enumerate(parts):
            p, shrink = part.params[0], self._shrink(group, part)
            key = (p.shape, p.dtype, p.device) if p.numel() <= _SMALL else k
            stacks[key, shrink].append(part)
        for (_, shrink), stack in stacks.items():
            yield stack, shrink

    def _plain_step(self, group: Group, params: list[Tensor]) -> None:
        buffers = [self.state[p].get("momentum_buffer") for p in params]
        options = {key: group[key] for key in ("lr", "momentum", "weight_decay", "maximize")}
        sgd(params, [p.grad for p in params if p.grad is not None], buffers, dampening=0.0, nesterov=False, **options)
        if group["momentum"]:
            for p, buffer in zip(params, buffers, strict=True):
                self.state[p]["momentum_buffer"] = buffer

    def _shrink(self, group: Group, part: Part) -> float:
        """``lr · weight_decay``, accumulated by momentum: by how much every layer shrinks."""
        decay, state = float(group["weight_decay"]), part.states[0]
        if group["momentum"] and decay:
            decay = state["decay"] = group["momentum"] * state.get("decay", 0.0) + decay
        return float(group["lr"]) * decay


def _pairs(group: Group) -> dict[Tensor, tuple[Any, Tensor, int]]:
    """Each factor of an adapter, with its mark, its partner and its place."""
    marked: dict[Any, dict[int, Tensor]] = defaultdict(dict)
    for p in group["params"]:
        if p.is_complex():
            raise TypeError(f"parameters must be real, got one of {p.dtype}; leave it to another optimiser.")
        if hasattr(p, "depth_pair"):
            pair, place = p.depth_pair
            marked[pair][place] = p
    found: dict[Tensor, tuple[Any, Tensor, int]] = {}
    for pair, places in marked.items():
        if len(places) != 2:
            raise ValueError(
                "one factor of a DepthAdapter came without the other, with which it steps: pass a and b in one group."
            )
        for place, p in places.items():
            found[p] = (pair, places[1 - place], place)
    return found


def _name(group: Group, k: int) -> str:
    shape = tuple(group["params"][k].shape)
    return f"parameter {group['param_names'][k] if 'param_names' in group else k} of shape {shape}"


def _check_options(group: Group) -> None:
    bounds = {"lr": (0, math.inf), "depth": (1, math.inf), "momentum": (0, 1), "weight_decay": (0, math.inf)}
    bounds |= {"second_moment": (0, 1), "tolerance": (0, 0.1)}
    for key, (least, bound) in bounds.items():
        value = group[key]
        if isinstance(value, Tensor) and value.numel() == 1 and key == "lr":
            value = float(value)
        if isinstance(value, bool) or not isinstance(value, Real):
            raise TypeError(f"{key} must be a real number, got {value!r} of type {type(value).__name__}.")
        if not least <= float(value) < bound:
            raise ValueError(f"{key} must be in [{least}, {bound}), got {value}; choose a value in it.")


def _check_gradients(group: Group) -> None:
    for k, p in enumerate(group["params"]):
        if p.grad is None:
            continue
        if p.grad.is_sparse:
            raise TypeError(f"{_name(group, k)} has a sparse gradient; build its Embedding with sparse=False.")
        if not is_finite(p.grad):
            raise ValueError(
                f"the gradient of {_name(group, k)} holds NaN or infinite entries; nothing was changed. Lower lr, or "
                "step through a GradScaler, which skips such steps."
            )


def _check_decay(group: Group) -> None:
    shrink = float(group["lr"]) * float(group["weight_decay"]) / (1 - float(group["momentum"]))
    if group["depth"] > 1 and shrink >= 1:
        raise ValueError(
            f"lr · weight_decay / (1 − momentum) is {shrink:g}, from 1 on layers would vanish or turn; lower it."
        )
