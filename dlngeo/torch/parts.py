"""What one step moves: a matrix, or the pair of an adapter."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from dlngeo.torch.follow import follow
from dlngeo.torch.step import (
    Covector,
    Factors,
    balanced,
    covector,
    covector_of,
    descend,
    factorise,
    move,
    of_pair,
    squared_norm,
)

__all__ = ["Part", "step_matrices", "step_pair"]

State = dict[str, Any]


class Part:
    """Parameters that are one matrix or batch of matrices, and their states."""

    def __init__(self, name: str, params: list[Tensor], states: list[State], depth: float, batched: bool = True):
        self.name, self.params, self.states, self.depth, self.batched = name, params, states, depth, batched
        self.dtype = torch.promote_types(params[0].dtype, torch.float32)

    def _matrix(self, x: Tensor) -> Tensor:
        return (x if self.batched or x.ndim == 2 else x.flatten(1)).to(self.dtype)

    def read(self) -> list[Tensor]:
        """Return the parameters as matrices; of half precision their master copies, unless somebody wrote since."""
        values = []
        for p, state in zip(self.params, self.states, strict=True):
            master = state.get("master")
            kept = master is not None and torch.equal(master.to(p.dtype), p)
            values.append(self._matrix(master if kept and master is not None else p))
        return values

    def write(self, values: list[Tensor]) -> None:
        """Set the parameters to the end of a step."""
        for p, state, value in zip(self.params, self.states, values, strict=True):
            p.copy_(value.reshape(p.shape))
            if p.dtype != self.dtype:
                state["master"] = value.reshape(p.shape)

    def gradients(self, sign: float) -> list[Tensor]:
        """Return the gradients as matrices."""
        return [sign * self._matrix(p.grad) for p in self.params if p.grad is not None]

    def accumulated(self, gradients: list[Tensor], momentum: float) -> list[Tensor]:
        """Return the buffers to which the gradients have been added, or without momentum these."""
        if not momentum:
            return gradients
        for gradient, state in zip(gradients, self.states, strict=True):
            buffer = state.get("momentum_buffer")
            state["momentum_buffer"] = gradient if buffer is None else gradient.add(buffer, alpha=momentum)
        return [state["momentum_buffer"] for state in self.states]

    def scale(self, square: Tensor, second_moment: float) -> Tensor:
        """Return one over the root of the running mean of the squared norms of gradients, of the shape (…, 1, 1)."""
        state = self.states[0]
        state["count"] = state.get("count", 0) + 1
        mean = (1 - second_moment) * square
        if "second_moment" in state:
            mean = mean + second_moment * state["second_moment"]
        state["second_moment"] = mean
        mean = mean / (1 - second_moment ** state["count"])
        return torch.where(mean > 0, mean.rsqrt(), 0.0)[..., None, None]

    def warn_of_zeros(self, s: Tensor, dtype: torch.dtype) -> None:
        """Say once that singular values are zero but for rounding, so that depth does not move them."""
        largest = s.amax(-1, keepdim=True)
        if self.depth == 1 or "warned" in self.states[0]:
            return
        if bool((s <= 10 * torch.finfo(dtype).eps * largest).any()):
            self.states[0]["warned"] = True
            warnings.warn(
                f"{self.name} has singular values that are zero but for rounding (the largest is "
                f"{float(largest.max()):.1e}): at depth {self.depth:g} they hardly move, and a zero matrix never "
                "does. Start from a random matrix of full rank, or put this parameter into a group of depth 1.",
                stacklevel=6,  # who calls step()
            )


def step_matrices(
    parts: list[Part],
    lr: float,
    momentum: float,
    second_moment: float,
    shrink: float,
    sign: float,
    tolerance: float,
) -> None:
    """Step matrices of one shape together."""
    x = _stacked([part.read()[0] for part in parts])
    f = _followed(x, parts[0], tolerance) if tolerance and len(parts) == 1 and x.ndim == 2 else factorise(x)
    for part, s in zip(parts, _each(f.s, parts), strict=True):
        part.warn_of_zeros(s, x.dtype)
    gradients = [part.gradients(sign) for part in parts]
    b = covector(f, _stacked([part.accumulated(g, momentum)[0] for part, g in zip(parts, gradients, strict=True)]))
    if second_moment:
        raw = covector(f, _stacked([g[0] for g in gradients])) if momentum else b
        squares = squared_norm(f, raw, parts[0].depth)
        scales = [part.scale(s, second_moment) for part, s in zip(parts, _each(squares, parts), strict=True)]
        b = _scaled(b, _stacked(scales))
    with _named(parts[0]):
        end = descend(x, f, b, lr, parts[0].depth, shrink)
    for part, value in zip(parts, _each(end, parts), strict=True):
        part.write([value])


def _followed(x: Tensor, part: Part, tolerance: float) -> Factors:
    """Return the SVD by way of the singular vectors of the last step, of which those of the shorter side are kept."""
    tall, state = x.shape[0] >= x.shape[1], part.states[0]
    found = follow(x if tall else x.mT, state["frame"], tolerance) if "frame" in state else None
    if found is None:
        f = factorise(x)
        state["frame"] = f.vt.mT if tall else f.u
        return f
    (u, s, vt), state["frame"] = found
    return Factors(u, s, vt) if tall else Factors(vt.mT, s, u.mT)


@contextmanager
def _named(part: Part) -> Iterator[None]:
    """Say in an error which parameter it was."""
    try:
        yield
    except OverflowError as error:
        raise OverflowError(f"{part.name}: {error}") from error


def _stacked(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.stack(parts)


def _each(value: Tensor, parts: list[Part]) -> Any:
    return value if len(parts) > 1 else [value]


def _scaled(b: Covector, scale: Tensor) -> Covector:
    left, right = (None if block is None else scale * block for block in b[1:])
    return Covector(scale * b.core, left, right)


def step_pair(part: Part, lr: float, momentum: float, second_moment: float, shrink: float, sign: float) -> None:
    """Step the factors of an adapter, of which autograd gives ``G bᵀ`` and ``aᵀ G``, and the buffers likewise."""
    a, b = part.read()
    f = of_pair(a, b)
    part.warn_of_zeros(f.s, torch.float64)  # the precision of the SVD of pairs
    # a = U (Uᵀa) and b = (bV) Vᵀ, balanced or not.
    off_a, off_b = _inverse(b @ f.vt.mT).mT, _inverse(f.u.mT @ a).mT
    gradients = part.gradients(sign)
    at_a, at_b = part.accumulated(gradients, momentum)
    bv, ub = at_a @ off_a, off_b @ at_b
    direction = covector_of(f, bv, ub)
    if second_moment:
        raw = covector_of(f, gradients[0] @ off_a, off_b @ gradients[1])
        direction = _scaled(direction, part.scale(squared_norm(f, raw, part.depth), second_moment))
    with _named(part):
        new = move(f, direction, lr, part.depth, shrink)
    part.write(list(balanced(new)))
    if momentum:
        # The projection of B = bv Vᵀ + U (ub − Uᵀbv Vᵀ) to the new tangent space, again times b and a.
        rest, (a, b) = ub - (f.u.mT @ bv) @ f.vt, balanced(new)
        part.states[0]["momentum_buffer"] = bv @ (f.vt @ b.mT) + f.u @ (rest @ b.mT)
        part.states[1]["momentum_buffer"] = (a.mT @ bv) @ f.vt + (a.mT @ f.u) @ rest


def _inverse(a: Tensor) -> Tensor:
    """Inverse of a small matrix that is diagonal but for a rotation; of zeros 0."""
    return torch.linalg.pinv(a.double()).to(a.dtype)
