"""What one step moves: a matrix, or the pair of an adapter."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from dlngeo.torch.follow import follow
from dlngeo.torch.step import Factors, balanced, covector, covector_of, descend, factorise, move, of_pair

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

    def gradients(self, momentum: float, sign: float) -> list[Tensor]:
        """Return the gradients as matrices, with momentum the buffers that they have been added to."""
        found = []
        for p, state in zip(self.params, self.states, strict=True):
            assert p.grad is not None
            gradient = sign * self._matrix(p.grad)
            if momentum:
                if "momentum_buffer" in state:
                    gradient.add_(state["momentum_buffer"], alpha=momentum)
                state["momentum_buffer"] = gradient
            found.append(gradient)
        return found

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


def step_matrices(parts: list[Part], lr: float, momentum: float, shrink: float, sign: float, tolerance: float) -> None:
    """Step matrices of one shape together."""
    x = _stacked([part.read()[0] for part in parts])
    f = _followed(x, parts[0], tolerance) if tolerance and len(parts) == 1 and x.ndim == 2 else factorise(x)
    for part, s in zip(parts, f.s if len(parts) > 1 else [f.s], strict=True):
        part.warn_of_zeros(s, x.dtype)
    b = _stacked([part.gradients(momentum, sign)[0] for part in parts])
    with _named(parts[0]):
        end = descend(x, f, covector(f, b), lr, parts[0].depth, shrink)
    for part, value in zip(parts, end if len(parts) > 1 else [end], strict=True):
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


def step_pair(part: Part, lr: float, momentum: float, shrink: float, sign: float) -> None:
    """Step the factors of an adapter, of which autograd gives ``G bᵀ`` and ``aᵀ G``, and the buffers likewise."""
    a, b = part.read()
    f = of_pair(a, b)
    part.warn_of_zeros(f.s, torch.float64)  # the precision of the SVD of pairs
    at_a, at_b = part.gradients(momentum, sign)
    # a = U (Uᵀa) and b = (bV) Vᵀ, balanced or not.
    bv = at_a @ _inverse(b @ f.vt.mT).mT
    ub = _inverse(f.u.mT @ a).mT @ at_b
    with _named(part):
        new = move(f, covector_of(f, bv, ub), lr, part.depth, shrink)
    part.write(list(balanced(new)))
    if momentum:
        # The projection of B = bv Vᵀ + U (ub − Uᵀbv Vᵀ) to the new tangent space, again times b and a.
        rest, (a, b) = ub - (f.u.mT @ bv) @ f.vt, balanced(new)
        part.states[0]["momentum_buffer"] = bv @ (f.vt @ b.mT) + f.u @ (rest @ b.mT)
        part.states[1]["momentum_buffer"] = (a.mT @ bv) @ f.vt + (a.mT @ f.u) @ rest


def _inverse(a: Tensor) -> Tensor:
    """Inverse of a small matrix that is diagonal but for a rotation; of zeros 0."""
    return torch.linalg.pinv(a.double()).to(a.dtype)
