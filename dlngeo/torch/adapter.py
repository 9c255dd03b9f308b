"""A frozen linear layer and a low-rank update of it that is trained as a product of N balanced layers."""

from __future__ import annotations

from collections.abc import Iterable
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear as apply_linear

from dlngeo import _check
from dlngeo.torch.step import Factors, balanced, of_pair

__all__ = ["DepthAdapter", "adapt", "to_lora"]


class Pair:
    """The mark that two parameters are the factors ``a`` and ``b`` of one matrix of a depth."""

    def __init__(self, depth: float):
        self.depth = depth


class DepthAdapter(nn.Module):
    r"""A frozen ``nn.Linear`` plus an update ``X = a b`` of rank r, ``a = U Σ^{1/2}`` and ``b = Σ^{1/2} Vᵀ``.

    :class:`DepthSGD` knows the pair and moves it as N balanced layers of inner width r would move, in O((m + n) r²) a
    step and with the parameters of two. Under another optimiser it is LoRA [1]_ with a balanced start.

    Parameters
    ----------
    linear : torch.nn.Linear
        Of weight (m, n); it becomes :attr:`base`, and its parameters stop requiring gradients.
    rank : int
        r, at most min(m, n).
    depth : float
        N, at which :class:`DepthSGD` moves the pair, whatever the depth of its group.
    start : float
        All singular values at the start, between random singular vectors. At zero the product of N ≥ 2 layers has no
        slope. From σ a direction of slope g rises after a plateau: at N > 2 in a time of ``σ^{2/N−1} / ((N − 2) g)``,
        at N = 2 of ``log(1/σ) / (2g)``. The smaller the start, the lower the rank of what has risen by then [2]_.
    generator : torch.Generator, optional
        Of the random vectors. By default that of the process, ``torch.manual_seed``.

    Attributes
    ----------
    a, b : torch.nn.Parameter, shape=[m, r] and [r, n]
    base : torch.nn.Linear
    depth : float
    merged : bool
        Whether the update stands in the weight of the base.

    See Also
    --------
    dlngeo.torch.adapt
    dlngeo.torch.DepthSGD
    dlngeo.torch.to_lora

    References
    ----------
    .. [1] E. Hu et al., "LoRA: low-rank adaptation of large language models", arXiv:2106.09685.
    .. [2] C. Yaras, P. Wang, L. Balzano and Q. Qu, "Compressible dynamics in deep overparameterized low-rank learning &
       adaptation", arXiv:2406.04112.

    Examples
    --------
    >>> import torch
    >>> from dlngeo.torch import DepthAdapter
    >>> layer = DepthAdapter(torch.nn.Linear(6, 4), rank=2, start=0.1)
    >>> torch.allclose(torch.linalg.svdvals(layer.a @ layer.b)[:3], torch.tensor([0.1, 0.1, 0.0]), atol=1e-5)
    True
    >>> x = torch.ones(3, 6)
    >>> torch.allclose(layer(x), layer.base(x) + x @ (layer.a @ layer.b).mT, atol=1e-5)
    True
    """

    def __init__(
        self,
        linear: nn.Linear,
        rank: int,
        depth: float = 3,
        *,
        start: float = 1e-2,
        generator: torch.Generator | None = None,
    ):
        super().__init__()
        if not isinstance(linear, nn.Linear):
            raise TypeError(f"DepthAdapter adapts an nn.Linear, got {type(linear).__name__}; adapt() takes models.")
        weight = linear.weight
        if not weight.is_floating_point():
            raise TypeError(f"the weight must be of floating-point numbers, got {weight.dtype}; convert the layer.")
        m, n = weight.shape
        r = _check.rank(rank, m, n)
        start = _check.positive(start, "start")
        self.base, self.merged, self.depth = linear.requires_grad_(False), False, _check.depth(depth)
        device = None if generator is None else generator.device
        # Drawn in double precision, so that the start is the same in every precision.
        normal = [torch.randn(d, r, generator=generator, device=device, dtype=torch.float64) for d in (m, n)]
        u, v = (torch.linalg.qr(x)[0] for x in normal)
        pair = balanced(Factors(u, torch.full_like(u[0], start), v.mT))
        self.a, self.b = (nn.Parameter(x.to(weight)) for x in pair)
        self._mark()

    def _mark(self) -> None:
        pair = Pair(self.depth)
        for place, p in enumerate((self.a, self.b)):
            setattr(p, "depth_pair", (pair, place))  # noqa: B010, parameters declare no such name

    def _apply(self, fn: Any, recurse: bool = True) -> DepthAdapter:
        super()._apply(fn, recurse)
        self._mark()
        return self

    def _load_from_state_dict(self, *args: Any, **options: Any) -> None:
        super()._load_from_state_dict(*args, **options)
        self._mark()  # with assign=True the parameters are others

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._mark()  # copies of parameters lose their attributes

    def get_extra_state(self) -> Tensor:
        """Depth, and whether the update is merged, so that a state is not read for another."""
        return torch.tensor([self.depth, self.merged], dtype=torch.float64)

    def set_extra_state(self, state: Tensor) -> None:
        self.depth, self.merged = float(state[0]), bool(state[1])

    def forward(self, x: Tensor) -> Tensor:
        """``x (W + a b)ᵀ`` and the bias, without forming the sum."""
        y = self.base(x)
        return y if self.merged else y + apply_linear(apply_linear(x, self.b), self.a)

    @property
    def weight(self) -> Tensor:
        """``W + a b``, for modules that read the weight of a layer."""
        return self.base.weight if self.merged else self.base.weight + self.a @ self.b

    @property
    def bias(self) -> Tensor | None:
        """The bias of the base."""
        return self.base.bias

    @property
    def in_features(self) -> int:
        """Columns, n."""
        return self.base.in_features

    @property
    def out_features(self) -> int:
        """Rows, m."""
        return self.base.out_features

    @torch.no_grad()
    def factors(self) -> Factors:
        """``(u, s, vt)`` of the update, singular values descending."""
        return of_pair(self.a, self.b)

    @property
    def s(self) -> Tensor:
        """The singular values of the update, descending."""
        return self.factors().s

    @torch.no_grad()
    def merge(self) -> DepthAdapter:
        """Add the update to the weight of the base, so that the layer costs what it did; nothing is trained then."""
        if not self.merged:
            self.base.weight += self.a @ self.b
            self.merged = True
        return self

    @torch.no_grad()
    def unmerge(self) -> DepthAdapter:
        """Take the update out of the weight of the base again, exactly but for rounding."""
        if self.merged:
            self.base.weight -= self.a @ self.b
            self.merged = False
        return self

    def extra_repr(self) -> str:
        """Say what the base does not."""
        return f"rank={self.b.shape[0]}, depth={self.depth:g}, merged={self.merged}"


def adapt(
    model: nn.Module,
    names: str | Iterable[str],
    rank: int,
    depth: float = 3,
    *,
    start: float = 1e-2,
    generator: torch.Generator | None = None,
) -> nn.Module:
    """Put a :class:`DepthAdapter` in the place of linear layers of a model, and freeze everything else.

    Parameters
    ----------
    model : torch.nn.Module
        Changed in place, and returned.
    names : str or iterable of str
        Names of linear layers as ``model.named_modules()`` gives them, with ``*``, ``?`` and ``[…]`` of
        :mod:`fnmatch`: ``"*.attention.*"``, ``["encoder.?.query", "encoder.?.value"]``.
    rank, depth, start, generator
        As of :class:`DepthAdapter`. A layer that has a smaller side than ``rank`` is refused.

    Raises
    ------
    ValueError
        If a name matches no linear layer; the names that there are, are listed.

    See Also
    --------
    dlngeo.torch.DepthAdapter
    dlngeo.torch.to_lora

    Examples
    --------
    >>> import torch
    >>> from dlngeo.torch import adapt
    >>> model = torch.nn.Sequential(torch.nn.Linear(8, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2))
    >>> _ = adapt(model, "0", rank=2, depth=3)
    >>> type(model[0]).__name__
    'DepthAdapter'
    """
    patterns = [names] if isinstance(names, str) else list(names)
    layers = {
        name: module
        for name, module in model.named_modules(remove_duplicate=False)
        if name and isinstance(module, nn.Linear) and not name.endswith(".base")
    }
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in layers):
            raise ValueError(
                f"{pattern!r} matches no linear layer; those of this {type(model).__name__} are "
                f"{', '.join(layers) or 'none'}. A layer by itself is adapted by DepthAdapter(linear, rank)."
            )
    chosen = {name: x for name, x in layers.items() if any(fnmatchcase(name, pattern) for pattern in patterns)}
    for module in chosen.values():
        _check.rank(rank, *module.weight.shape)
    model.requires_grad_(False)
    adapters: dict[nn.Module, DepthAdapter] = {}  # a layer may stand in two places
    for name, module in chosen.items():
        if module not in adapters:
            adapters[module] = DepthAdapter(module, rank, depth, start=start, generator=generator)
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, adapters[module])
    return model


def to_lora(model: nn.Module) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return the adapters of a model as LoRA weights of peft: arguments of a ``LoraConfig``, and a state.

    ``peft.get_peft_model(plain_model, LoraConfig(**config))`` and ``peft.set_peft_model_state_dict(model, state)`` give
    a model of the same outputs: ``lora_A = b``, ``lora_B = a``, and a scaling of 1.

    See Also
    --------
    dlngeo.torch.DepthAdapter
    dlngeo.torch.adapt

    Examples
    --------
    >>> import torch
    >>> from dlngeo.torch import adapt, to_lora
    >>> model = torch.nn.Sequential(torch.nn.Linear(8, 4))
    >>> _ = adapt(model, "0", rank=2)
    >>> config, state = to_lora(model)
    >>> config["r"], config["target_modules"]
    (2, ['0'])
    >>> a, b = (state[f"base_model.model.0.lora_{name}.weight"] for name in "BA")
    >>> torch.allclose(model[0].base.weight + a @ b, model[0].weight, atol=1e-6)
    True
    """
    adapters = {name: x for name, x in model.named_modules() if isinstance(x, DepthAdapter)}
    if not adapters:
        raise ValueError("the model has no DepthAdapter; put some there by adapt(model, names, rank).")
    ranks = {name: x.b.shape[0] for name, x in adapters.items()}
    largest = max(ranks.values())
    config = {
        "r": largest,
        "lora_alpha": largest,
        "target_modules": list(ranks),
        "rank_pattern": {name: r for name, r in ranks.items() if r != largest},
        "alpha_pattern": {name: r for name, r in ranks.items() if r != largest},
    }
    state = {}
    for name, x in adapters.items():
        state[f"base_model.model.{name}.lora_A.weight"] = x.b.detach().clone()
        state[f"base_model.model.{name}.lora_B.weight"] = x.a.detach().clone()
    return config, state
