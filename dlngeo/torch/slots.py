"""What one step moves: a matrix, or the balanced pair of an adapter, and the factors that are kept of it."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor

from dlngeo.torch.step import Covector, Factors, balanced, covector, factorise, of_pair, product

__all__ = ["MatrixSlot", "PairSlot", "Slot"]

State = dict[str, Any]


class Slot:
    """Parameters that are one matrix, their gradients as a covector, and the factors in the state of the first."""

    def __init__(self, name: str, params: list[Tensor], states: list[State], depth: float):
        self.name, self.params, self.states, self.depth = name, params, states, depth
        # Half precision computes in single; the factors are its master copy.
        self.dtype = torch.promote_types(params[0].dtype, torch.float32)

    def matrices(self) -> list[Tensor]:
        """Return the parameters as matrices in the precision that computes."""
        return [p.to(self.dtype) for p in self.params]

    def gradients(self) -> list[Tensor]:
        """Return the gradients of the parameters, all of which have one."""
        return [p.grad for p in self.params if p.grad is not None]

    def factorised(self) -> Factors:
        """Return a fresh SVD of the matrix."""
        raise NotImplementedError

    def covector(self, f: Factors, momentum: float, sign: float) -> Covector:
        """Return the gradient, or the momentum that it is added to, at the factors."""
        raise NotImplementedError

    def written(self, f: Factors) -> list[Tensor]:
        """Return the values of the parameters at the factors."""
        raise NotImplementedError

    def carried(self, old: Factors, new: Factors) -> None:
        """Take the momentum along."""

    def factors(self) -> Factors:
        """Return the factors kept from the last step, or fresh ones where the parameters are not those that it left."""
        state = self.states[0]
        self.kept = "mark" in state and torch.equal(state["mark"], self.mark())
        if self.kept:
            return Factors(state["u"], state["s"], state["vt"])
        f = self.factorised()
        if "mark" in state:
            self.carried(Factors(state["u"], state["s"], state["vt"]), f)
        largest = f.s.amax(-1, keepdim=True)
        noise = torch.finfo(self.dtype).eps * max(f.u.shape[-2], f.vt.shape[-1]) * largest
        if self.depth > 1 and bool((f.s <= noise).any()):
            warnings.warn(
                f"{self.name} has singular values that are zero but for rounding (the largest is "
                f"{float(largest.max()):.1e}): at depth {self.depth:g} they hardly move, and a zero matrix never "
                "does. Start from a random matrix of full rank, or put this parameter into a group of depth 1.",
                stacklevel=6,  # who calls step(),
            )
        return f

    def mark(self) -> Tensor:
        """Return a few numbers that change with the parameters, to know whether somebody else has written to them."""
        marks = []
        for x in self.matrices():
            x = x.flatten(0, -2)
            marks.append(x @ torch.arange(1.0, x.shape[-1] + 1, dtype=x.dtype, device=x.device).cos_())
        return torch.cat(marks)

    def keep(self, old: Factors, new: Factors) -> None:
        """Write the end of a step to the parameters and the state."""
        for p, value in zip(self.params, self.written(new), strict=True):
            p.copy_(value.reshape(p.shape))
        self.carried(old, new)
        self.states[0].update(u=new.u, s=new.s, vt=new.vt, mark=self.mark())


class MatrixSlot(Slot):
    """A parameter that is a matrix or a batch of such."""

    def __init__(self, name: str, p: Tensor, state: State, depth: float, batched: bool):
        super().__init__(name, [p], [state], depth)
        self.batched = batched

    def _read(self, p: Tensor) -> Tensor:
        return (p if self.batched or p.ndim == 2 else p.flatten(1)).to(self.dtype)

    def matrices(self) -> list[Tensor]:
        return [self._read(self.params[0])]

    def factorised(self) -> Factors:
        return factorise(*self.matrices())

    def covector(self, f: Factors, momentum: float, sign: float) -> Covector:
        gradient = sign * self._read(self.gradients()[0])
        if momentum:
            if "momentum_buffer" in self.states[0]:
                gradient = gradient.add_(self.states[0]["momentum_buffer"], alpha=momentum)
            self.states[0]["momentum_buffer"] = gradient
        return covector(f, gradient @ f.vt.mT, f.u.mT @ gradient)

    def written(self, f: Factors) -> list[Tensor]:
        return [product(f)]


class PairSlot(Slot):
    """The balanced pair ``(a, b)`` of an adapter, of which autograd gives ``G bᵀ`` and ``aᵀ G``."""

    def factorised(self) -> Factors:
        return of_pair(*self.matrices())

    def covector(self, f: Factors, momentum: float, sign: float) -> Covector:
        at_a, at_b = (sign * g.to(self.dtype) for g in self.gradients())
        if self.kept:
            root = f.s.sqrt()
            inverse = torch.where(root > 0, 1 / root, 0.0)
            bv, ub = at_a * inverse, inverse.unsqueeze(-1) * at_b
        else:  # a = U (Uᵀa) and b = (bV) Vᵀ are any factors
            a, b = (x.double() for x in self.matrices())
            bv = at_a @ torch.linalg.pinv(b @ f.vt.mT.double()).mT.to(self.dtype)
            ub = torch.linalg.pinv(f.u.mT.double() @ a).mT.to(self.dtype) @ at_b
        if momentum:
            for state, value in zip(self.states, (bv, ub), strict=True):
                if "momentum_buffer" in state:
                    value.add_(state["momentum_buffer"], alpha=momentum)
                state["momentum_buffer"] = value
        return covector(f, bv, ub)

    def written(self, f: Factors) -> list[Tensor]:
        return list(balanced(f))

    def carried(self, old: Factors, new: Factors) -> None:
        """Project the momentum ``B = bv Vᵀ + U (ub − Uᵀbv Vᵀ)`` to the new tangent space."""
        if "momentum_buffer" not in self.states[0]:
            return
        bv, ub = (state["momentum_buffer"] for state in self.states)
        rest = ub - (old.u.mT @ bv) @ old.vt
        self.states[0]["momentum_buffer"] = bv @ (old.vt @ new.vt.mT) + old.u @ (rest @ new.vt.mT)
        self.states[1]["momentum_buffer"] = (new.u.mT @ bv) @ old.vt + (new.u.mT @ old.u) @ rest
