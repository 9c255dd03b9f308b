"""Ways to train the update of a frozen linear map: by depth, and as others do it, each with its optimizers."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch
from torch import nn


class Update(nn.Module):
    """A frozen linear map and what is added to its weight: the product of trained factors, the leftmost first.

    Parameters
    ----------
    linear : nn.Linear
        Its own parameters are left as they are.
    factors : sequence of tensors
        One alone is the whole matrix.
    """

    def __init__(self, linear: nn.Linear, factors: Iterable[torch.Tensor]) -> None:
        super().__init__()
        self.linear, self.factors = linear, nn.ParameterList(nn.Parameter(f) for f in factors)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Value of the map with the update, right to left."""
        y = x
        for factor in reversed(self.factors):
            y = y @ factor.mT
        return self.linear(x) + y


class ScaledSGD(torch.optim.SGD):
    """Riemannian preconditioned LoRA: gradients of pairs (a, b), of product a b, times inverse Gram matrices.

    That of a is multiplied by ``(b bᵀ + δ)⁻¹``, that of b by ``(aᵀ a + δ)⁻¹`` (Zhang & Pilanci, arXiv:2402.02347).

    Parameters
    ----------
    pairs : list of pairs of tensors
    lr, momentum : float
    delta : float
        Added to the Gram matrices.
    """

    def __init__(
        self, pairs: list[tuple[torch.Tensor, torch.Tensor]], lr: float, momentum: float = 0.0, delta: float = 1e-6
    ) -> None:
        super().__init__([p for pair in pairs for p in pair], lr=lr, momentum=momentum)
        self._pairs, self._delta = pairs, delta

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """One step; the gradients are overwritten."""
        for a, b in self._pairs:
            unit = self._delta * torch.eye(len(b), dtype=b.dtype)
            left, right = torch.linalg.solve(b @ b.mT + unit, a.grad.mT).mT, torch.linalg.solve(a.mT @ a + unit, b.grad)
            a.grad.copy_(left)
            b.grad.copy_(right)
        super().step()


class Method(NamedTuple):
    """How maps are wrapped, given rank and start, and trained; whether a rank is asked for; where tuning begins."""

    wrap: Callable[[nn.Linear, int, float], nn.Module]
    optimizer: Callable[[list[Any], float, float], torch.optim.Optimizer]
    lr: float
    rank: bool = True


def small(shape: tuple[int, ...], start: float) -> torch.Tensor:
    """A random matrix whose singular values are all equal."""
    return start * nn.init.orthogonal_(torch.empty(shape))


def _whole(linear: nn.Linear, rank: int, start: float) -> nn.Module:
    return Update(linear, [small(tuple(linear.weight.shape), start)])


def _none(linear: nn.Linear, rank: int, start: float) -> nn.Module:
    return Update(linear, [torch.zeros_like(linear.weight)])


def _lora(linear: nn.Linear, rank: int, start: float) -> nn.Module:
    m, n = linear.weight.shape
    return Update(linear, [torch.zeros(m, rank), torch.randn(rank, n) / math.sqrt(n)])


def _three(linear: nn.Linear, rank: int, start: float) -> nn.Module:
    m, n = linear.weight.shape
    return Update(linear, [small(shape, start ** (1 / 3)) for shape in ((m, rank), (rank, rank), (rank, n))])


def _adapter(depth: int) -> Callable[[nn.Linear, int, float], nn.Module]:
    def wrap(linear: nn.Linear, rank: int, start: float) -> nn.Module:
        from dlngeo.torch import DepthAdapter

        return DepthAdapter(linear, rank, depth=depth, start=start)

    return wrap


def delta(module: Any) -> torch.Tensor:
    """What is added to the weight of a linear map."""
    factors = list(module.factors) if isinstance(module, Update) else [module.a, module.b]
    return torch.linalg.multi_dot(factors) if len(factors) > 1 else factors[0]


def _sgd(modules: list[Any], lr: float, momentum: float) -> torch.optim.Optimizer:
    return torch.optim.SGD(_parameters(modules), lr=lr, momentum=momentum)


def _adamw(modules: list[Any], lr: float, momentum: float) -> torch.optim.Optimizer:
    return torch.optim.AdamW(_parameters(modules), lr=lr)


def _scaled(modules: list[Any], lr: float, momentum: float) -> torch.optim.Optimizer:
    return ScaledSGD([tuple(module.factors) for module in modules], lr, momentum)


def _depth(depth: int) -> Callable[[list[Any], float, float], torch.optim.Optimizer]:
    def optimizer(modules: list[Any], lr: float, momentum: float) -> torch.optim.Optimizer:
        from dlngeo.torch import DepthSGD

        return DepthSGD(_parameters(modules), lr=lr, depth=depth, momentum=momentum)

    return optimizer


def _scaled_depth(depth: int) -> Callable[[list[Any], float, float], torch.optim.Optimizer]:
    def optimizer(modules: list[Any], lr: float, momentum: float) -> torch.optim.Optimizer:
        from dlngeo.torch import DepthSGD

        return DepthSGD(_parameters(modules), lr=lr, depth=depth, momentum=0.9, second_moment=0.99)

    return optimizer


def _parameters(modules: list[Any]) -> list[torch.Tensor]:
    return [p for module in modules for p in module.parameters() if p.requires_grad]


METHODS: dict[str, Method] = {
    "full, SGD": Method(_none, _sgd, 1.0, rank=False),
    "full, AdamW": Method(_none, _adamw, 0.001, rank=False),
    "full, depth 2": Method(_whole, _depth(2), 0.5, rank=False),
    "full, depth 3": Method(_whole, _depth(3), 0.5, rank=False),
    "full, depth 4": Method(_whole, _depth(4), 0.5, rank=False),
    "full, depth 3, second moment": Method(_whole, _scaled_depth(3), 0.004, rank=False),
    "adapter, depth 1": Method(_adapter(1), _depth(1), 1.0),
    "adapter, depth 2": Method(_adapter(2), _depth(2), 0.5),
    "adapter, depth 3": Method(_adapter(3), _depth(3), 0.5),
    "adapter, depth 4": Method(_adapter(4), _depth(4), 0.5),
    "adapter, depth 3, second moment": Method(_adapter(3), _scaled_depth(3), 0.004),
    "three factors, SGD": Method(_three, _sgd, 0.5),
    "three factors, AdamW": Method(_three, _adamw, 0.003),
    "LoRA, SGD": Method(_lora, _sgd, 0.5),
    "LoRA, AdamW": Method(_lora, _adamw, 0.003),
    "LoRA, preconditioned": Method(_lora, _scaled, 0.2),
}


def adapt(model: nn.Module, names: Iterable[str], method: Method, rank: int, start: float) -> list[Any]:
    """Replace linear maps of a model by updates of them; return these."""
    modules = []
    for name in names:
        parent, _, own = name.rpartition(".")
        holder = model.get_submodule(parent)
        modules.append(method.wrap(getattr(holder, own), rank, start))
        setattr(holder, own, modules[-1])
    return modules


def memory(optimizer: torch.optim.Optimizer) -> int:
    """Bytes of what is trained, of gradients, and of what the optimizer keeps."""
    total, seen = 0, set()

    def count(value: Any) -> None:
        nonlocal total
        if isinstance(value, torch.Tensor):
            if id(value) not in seen:
                seen.add(id(value))
                total += value.numel() * value.element_size()
        elif isinstance(value, dict):
            for inner in value.values():
                count(inner)
        elif isinstance(value, (list, tuple)):
            for inner in value:
                count(inner)

    for group in optimizer.param_groups:
        count(list(group["params"]))
    total *= 2
    count(dict(optimizer.state))
    return total
